use super::*;
use crate::policy::fixture::{NOW, ann, at, key, registry, resource, server, snapshot, tool};
use crate::policy::{Decision, SnapshotId, decide};
use crate::registry::Freshness;

fn world() -> Registry {
    let mut registry = registry();
    let uris = ["memo://a", "memo://b"];
    registry
        .put(server(
            "a",
            "strict",
            &[("get", true), ("put", false)],
            &["p"],
            &uris,
            &["db://{t}"],
        ))
        .put(server(
            "b",
            "strict",
            &[("get", true), ("list", true)],
            &[],
            &uris,
            &["db://{u}"],
        ))
        .put_role("eng", &[])
        .grant("eng", "a", "get")
        .grant("eng", "b", "list");
    registry
}

fn names(list: &Listing) -> Vec<String> {
    let list = format!("[{}]", list.entries());
    let entries: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    let name = |entry: &serde_json::Value| entry["name"].as_str().unwrap().to_owned();
    entries.iter().map(name).collect()
}

#[test]
fn lists_hold_what_is_granted_in_the_order_of_the_registry() {
    let registry = world();
    let snapshot = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    let catalog = snapshot.catalog();
    assert_eq!(names(catalog.tools()), [STATUS_TOOL, "a_get", "b_list"]);
    assert_eq!(catalog.prompts().page(0), Some(("", false)));
    insta::assert_snapshot!(
        catalog.tools().entries().split_once("},{").unwrap().1,
        @r#""annotations":{"readOnlyHint":true},"description":"d","inputSchema":{"type":"object"},"name":"a_get"},{"annotations":{"readOnlyHint":true},"description":"d","inputSchema":{"type":"object"},"name":"b_list"}"#
    );
}

#[test]
fn a_bare_name_is_accepted_while_one_visible_tool_has_it() {
    let mut registry = world();
    let one = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    assert_eq!(one.catalog().tool("get").unwrap().server, key("a"));
    assert_eq!(one.catalog().tool("a_get"), one.catalog().tool("get"));
    assert_eq!(one.catalog().tool("put"), None);
    registry.grant("eng", "b", "get");
    let two = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    assert_eq!(two.catalog().tool("get"), None);
    assert_eq!(two.catalog().tool("b_get").unwrap().server, key("b"));
}

#[test]
fn hidden_tools_are_known_to_the_record_only() {
    let snapshot = snapshot(&world(), Some(ann(&["eng"])), &at(NOW));
    let catalog = snapshot.catalog();
    for name in ["a_put", "put"] {
        assert_eq!(catalog.tool(name), None);
        assert_eq!(
            catalog.hidden_tool(name),
            Some((key("a"), "put".to_owned()))
        );
    }
    assert_eq!(catalog.hidden_tool("nothing"), None);
}

#[test]
fn the_first_server_keeps_a_uri_and_the_template() {
    let mut registry = world();
    let rule = registry.rule(None);
    for server in ["a", "b"] {
        registry.table("eng", server).resources = vec![("*".to_owned(), rule)];
    }
    let both = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    let catalog = both.catalog();
    let uris = |list: &Listing, member: &str| -> Vec<String> {
        let list = format!("[{}]", list.entries());
        let entries: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
        let uri = |entry: &serde_json::Value| entry[member].as_str().unwrap().to_owned();
        entries.iter().map(uri).collect()
    };
    let seconds = ["mcpshim+b:memo://a", "mcpshim+b:memo://b"];
    assert_eq!(
        uris(catalog.resources(), "uri"),
        ["memo://a", "memo://b", seconds[0], seconds[1]]
    );
    let templates = ["db://{t}", "mcpshim+b:db://{u}"];
    assert_eq!(uris(catalog.templates(), "uriTemplate"), templates);
    let own = Some((key("b"), Cow::Borrowed("db://users")));
    assert_eq!(catalog.resource("mcpshim+b:db://users"), own);
    assert_eq!(catalog.route("memo://a"), Some(key("a")));
    assert_eq!(catalog.route("db://users"), Some(key("a")));
    assert_eq!(catalog.route("db://users/1"), None);
    assert_eq!(catalog.shown().len(), 3);
    // for a caller who sees only the second, it stays the first's
    registry.table("eng", "a").resources.clear();
    registry.table("eng", "b").resources = vec![("memo://b".to_owned(), rule)];
    let only = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    assert_eq!(uris(only.catalog().resources(), "uri"), [seconds[1]]);
    assert_eq!(only.catalog().route(seconds[1]), Some(key("b")));
    assert_eq!(only.catalog().route("memo://b"), None);
    assert_eq!(only.catalog().route("memo://a"), None);
}

#[test]
fn in_grace_only_what_reads_is_listed_and_callable() {
    let mut registry = world();
    registry.grant("eng", "a", "put");
    let late = at(registry.expires);
    let snapshot = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    assert_eq!(names(snapshot.catalog().tools()).len(), 4);
    assert!(matches!(
        decide(&snapshot, &tool("a", "get"), &late),
        Decision::Allow(_)
    ));
    let Decision::Deny(denial) = decide(&snapshot, &tool("a", "put"), &late) else {
        panic!("put writes");
    };
    insta::assert_snapshot!(denial.client_text(), @"Refused until the registry is renewed: the registry of Acme expired at 2027-01-15T09:00:00Z, and until it is renewed only reading is allowed; the signed definition of a/put does not say readOnlyHint: true; run `mcpshim registry refresh`, or ask #mcp-help.");
    let then = snapshot.with_live(SnapshotId(2), BTreeMap::new(), &late);
    assert_eq!(
        names(then.catalog().tools()),
        [STATUS_TOOL, "a_get", "b_list"]
    );
    let lapsed = at(registry.expires + 86_400);
    let then = snapshot.with_live(SnapshotId(3), BTreeMap::new(), &lapsed);
    assert_eq!(names(then.catalog().tools()), [STATUS_TOOL]);
}

#[test]
fn an_unpinned_server_is_listed_once_it_is_known() {
    let mut registry = registry();
    registry
        .put(server("w", "off", &[], &[], &[], &[]))
        .put_role("eng", &[]);
    let rule = registry.rule(None);
    registry.table("eng", "w").tool_globs = vec![("get*".to_owned(), rule)];
    let before = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    assert_eq!(names(before.catalog().tools()), [STATUS_TOOL]);
    assert!(matches!(
        decide(&before, &tool("w", "get_x"), &at(NOW)),
        Decision::Allow(_)
    ));
    assert!(matches!(
        decide(&before, &tool("w", "put_x"), &at(NOW)),
        Decision::Deny(_)
    ));
    let live = server(
        "w",
        "strict",
        &[("get_x", true), ("put_x", true)],
        &[],
        &[],
        &[],
    );
    let live = BTreeMap::from([(key("w"), Arc::new(live.surface.unwrap()))]);
    let after = before.with_live(SnapshotId(2), live, &at(NOW));
    assert_eq!(names(after.catalog().tools()), [STATUS_TOOL, "w_get_x"]);
    assert!(matches!(
        decide(&after, &tool("w", "get_y"), &at(NOW)),
        Decision::Deny(_)
    ));
}

#[test]
fn whatever_is_wrong_the_status_tool_is_there() {
    let wrong = Snapshot::new(
        SnapshotId(1),
        None,
        Freshness::Fresh,
        None,
        Some("no registry could be read; run `mcpshim registry refresh`".to_owned()),
        &at(NOW),
    );
    let catalog = wrong.catalog();
    assert_eq!(names(catalog.tools()), [STATUS_TOOL]);
    for list in [catalog.prompts(), catalog.resources(), catalog.templates()] {
        assert_eq!(list.page(0), Some(("", false)));
    }
    assert!(catalog.instructions().contains("mcpshim registry refresh"));
    assert!(matches!(
        decide(&wrong, &resource("a", "m://x"), &at(NOW)),
        Decision::Deny(_)
    ));
}

#[test]
fn instructions_are_cut_at_a_character() {
    let mut registry = world();
    let mut long = server("c", "strict", &[("get", true)], &[], &[], &[]);
    if let Some(surface) = &mut long.surface {
        surface.instructions = Some("é".repeat(4000));
    }
    registry.put(long).grant("eng", "c", "get");
    let text = snapshot(&registry, Some(ann(&["eng"])), &at(NOW))
        .catalog()
        .instructions();
    assert!(text.len() <= limits::INSTRUCTIONS_BYTES && text.len() > 4090);
    assert!(text.contains("## a\nUse a well.") && text.ends_with(CUT));
}

#[test]
fn an_exposed_name_is_never_another_servers_own_name() {
    let mut registry = world();
    registry
        .put(server("c", "off", &[], &[], &[], &[]))
        .put(server(
            "d",
            "strict",
            &[("a_put", true), ("a_new", true), ("c_x", true)],
            &["a_p"],
            &[],
            &[],
        ));
    for tool in ["a_put", "a_new", "c_x"] {
        registry.grant("eng", "d", tool);
    }
    let rule = registry.rule(None);
    let prompts = &mut registry.table("eng", "d").prompts;
    prompts.insert("a_p".to_owned(), rule);
    let check = |registry: &Registry| {
        let snapshot = snapshot(registry, Some(ann(&["eng"])), &at(NOW));
        let catalog = snapshot.catalog();
        let own = |name| catalog.tool(name).map(|entry| entry.server.clone());
        // not granted; of a server that was not opened yet
        assert_eq!((own("a_put"), own("c_x")), (None, None));
        assert_eq!(catalog.hidden_tool("a_put").unwrap().0, key("a"));
        assert_eq!(catalog.prompt("a_p"), None);
        // each has its own exposed name, and a name that is exposed for nobody is no other's
        assert_eq!(own("d_a_put"), Some(key("d")));
        assert_eq!(own("a_new"), Some(key("d")));
    };
    check(&registry);
    // revoked, and a grant whose time is over
    let mut revoked = registry.clone();
    revoked.grant("eng", "a", "put");
    revoked.revocations.servers.push(key("a"));
    check(&revoked);
    let mut expired = registry.clone();
    let over = expired.rule(Some(NOW - 1));
    let tools = &mut expired.table("eng", "a").tools;
    tools.insert("put".to_owned(), over);
    check(&expired);
    // granted, it is its owner's
    registry.grant("eng", "a", "put");
    let snapshot = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    let entry = snapshot.catalog().tool("a_put").unwrap();
    assert_eq!((&entry.server, entry.name.as_str()), (&key("a"), "put"));
}

#[test]
fn a_server_that_is_not_pinned_gets_no_exposed_name_of_another() {
    let mut registry = world();
    registry.put(server("c", "off", &[], &[], &[], &[]));
    let rule = registry.rule(None);
    let table = registry.table("eng", "c");
    table.tool_globs.push(("*".to_owned(), rule));
    let tools = [
        ("a_put", true),
        ("a_new", true),
        ("c_get", true),
        ("x", true),
    ];
    let live = server("c", "names", &tools, &[], &[], &[]).surface.unwrap();
    let before = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
    let live = BTreeMap::from([(key("c"), Arc::new(live))]);
    let after = before.with_live(SnapshotId(2), live, &at(NOW));
    let own = |name| after.catalog().tool(name).map(|entry| entry.name.clone());
    assert_eq!(own("a_put"), None, "it took the name while it ran");
    assert_eq!(own("c_a_put").unwrap(), "a_put");
    assert_eq!(own("a_new").unwrap(), "a_new");
    assert_eq!(
        own("c_get").unwrap(),
        "c_get",
        "its own begins with its key"
    );
    assert_eq!(own("c_x").unwrap(), "x");
}
