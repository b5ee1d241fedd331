use insta::assert_snapshot;

use super::*;
use crate::admin::tests::{NOW, Org, surface};
use crate::clock::CountingEntropy;
use crate::pin::{Kind, entry};
use crate::registry::doc::Surface;

fn now() -> Now {
    Now {
        wall_us: NOW * 1_000_000,
        mono_us: 0,
    }
}

fn compare(was: &Org, is: &Org) -> Diff {
    let [base, head] = [was, is].map(|org| Side::Directory(org.dir().to_owned()));
    let mut entropy = CountingEntropy::default();
    let mut found = diff(is.dir(), &base, &head, &now(), &mut entropy).unwrap();
    found.compared = "was..is".to_owned();
    found
}

/// The text after some edits of the good organisation.
fn after(edits: impl Fn(&Org)) -> String {
    let is = Org::new();
    edits(&is);
    compare(&Org::new(), &is).text()
}

fn tool(text: &str) -> crate::registry::doc::Pinned {
    entry(
        Kind::Tool,
        &serde_json::value::RawValue::from_string(text.to_owned()).unwrap(),
    )
    .unwrap()
}

/// The good organisation's surface with tools that say what they do.
fn telling() -> Surface {
    let mut found = surface(&["read_file"]);
    for (name, hints) in [
        ("read_tree", r#"{"readOnlyHint": true}"#),
        ("write", r#"{"destructiveHint": true}"#),
    ] {
        found.tools.push(tool(&format!(
            r#"{{"name": "{name}", "inputSchema": {{"type": "object"}}, "annotations": {hints}}}"#
        )));
    }
    found
}

#[test]
fn nothing_changed_is_said_in_one_line() {
    assert_eq!(after(|_| {}), "was..is: no change of access.\n");
    assert_eq!(
        after(|org| org.edit("roles/eng.yaml", "approved_by: jane", "approved_by: joe")),
        "was..is: no change of access.\n"
    );
}

#[test]
fn gains_and_losses_are_told_by_role_with_what_writes_first() {
    let (was, is) = (Org::new(), Org::new());
    was.pin_as(&telling());
    is.pin_as(&telling());
    was.edit("roles/eng.yaml", "[read_*, write]", "[read_file]");
    is.edit("roles/eng.yaml", "[read_*, write]", "[read_tree, write]");
    is.edit("roles/eng.yaml", "    prompts: [review]\n", "");
    let found = compare(&was, &is);
    assert!(found.widens());
    assert_snapshot!(found.text(), @r#"
was..is: 2 gained (1 that write), 2 lost.

role eng
  held by groups engineering; agents ci
  + gh/write  writes, destructive, roles/eng.yaml:5 by jane, until 2027-11-20T00:00:00Z
  + gh/read_tree  reads, roles/eng.yaml:5 by jane, until 2027-11-20T00:00:00Z
  - gh/read_file  writes
  - prompt gh/review  reads
"#);
    assert_snapshot!(found.markdown(), @r##"
### Access: 2 gained (1 that write), 2 lost

<code>was&#46;&#46;is</code>

#### Role <code>eng</code>

Held by groups <code>engineering</code>; agents <code>ci</code>.

| | what | does | granted by |
|---|---|---|---|
| **gains** | <code>gh/write</code> | **writes, destructive** | <code>roles/eng&#46;yaml&#58;5</code> <code>jane</code>, until 2027-11-20T00:00:00Z |
| **gains** | <code>gh/read_tree</code> | reads | <code>roles/eng&#46;yaml&#58;5</code> <code>jane</code>, until 2027-11-20T00:00:00Z |
| loses | <code>gh/read_file</code> | **writes** | <code>roles/eng&#46;yaml&#58;5</code> <code>jane</code>, until 2027-11-20T00:00:00Z |
| loses | <code>prompt gh/review</code> | reads | <code>roles/eng&#46;yaml&#58;5</code> <code>jane</code>, until 2027-11-20T00:00:00Z |
"##);
    let narrower = compare(&is, &was);
    assert!(narrower.widens(), "what was lost is gained again");
}

#[test]
fn a_name_is_never_markup() {
    let (was, is) = (Org::new(), Org::new());
    let evil = "`|x|` <img src=x> @all [a](http://b.example) #1 **b** \n\n# h";
    let mut offered = surface(&["read_file", "read_tree", "write"]);
    let name = serde_json::to_string(&format!("read_{evil}")).unwrap();
    offered.tools.push(tool(&format!(
        r#"{{"name": {name}, "inputSchema": {{"type": "object"}}}}"#
    )));
    is.pin_as(&offered);
    is.edit(
        "roles/eng.yaml",
        "approved_by: jane",
        "approved_by: '@all | <b>'",
    );
    let found = compare(&was, &is);
    let markdown = found.markdown();
    for part in [
        "<img", "@all", "](http", "**b**", "`|", "\n# h", "<b>", "|x|",
    ] {
        assert!(!markdown.contains(part), "{part:?} in {markdown}");
    }
    // every row of the table has its five bars
    for row in markdown.lines().filter(|line| line.starts_with('|')) {
        assert_eq!(row.matches('|').count(), 5, "{row}");
    }
    // tags are ours alone
    let tags = markdown.matches('<').count();
    let ours = markdown.matches("<code>").count() + markdown.matches("</code>").count();
    assert_eq!(tags, ours, "{markdown}");
    assert!(!found.text().contains("\n# h"), "{}", found.text());
}

#[test]
fn holders_who_come_and_go_are_told_with_what_they_get() {
    assert_snapshot!(after(|org| {
        org.edit("org.yaml", "[engineering]", "[engineering, ops]");
        org.edit("roles/eng.yaml", "groups: [engineering]\nagents: [ci]", "groups: [ops]");
    }), @r##"
was..is: 1 wider otherwise, 2 narrower otherwise.

role eng
  held by groups ops; agents none
  + the group `ops` gets the role: 5 grants, 3 that write
  - the group `engineering` loses the role: 5 grants, 3 that write
  - the agent `ci` loses the role: 5 grants, 3 that write
"##);
}

#[test]
fn time_moves_access() {
    assert_snapshot!(after(|org| {
        org.edit("roles/eng.yaml", "expires: 2027-11-20", "expires: 2028-11-20");
    }), @r##"
was..is: 5 wider otherwise.

role eng
  held by groups engineering; agents ci
  + prompt `gh/review` is granted until 2028-11-20T00:00:00Z, was until 2027-11-20T00:00:00Z
  + resources `gh/repo://*` is granted until 2028-11-20T00:00:00Z, was until 2027-11-20T00:00:00Z
  + `gh/read_file` is granted until 2028-11-20T00:00:00Z, was until 2027-11-20T00:00:00Z
  + `gh/read_tree` is granted until 2028-11-20T00:00:00Z, was until 2027-11-20T00:00:00Z
  + `gh/write` is granted until 2028-11-20T00:00:00Z, was until 2027-11-20T00:00:00Z
"##);
    let (was, is) = (Org::new(), Org::new());
    was.edit(
        "roles/eng.yaml",
        "expires: 2027-11-20",
        "expires: 2026-11-20",
    );
    let found = compare(&was, &is);
    assert_eq!(
        (found.counts.gained, found.counts.lost),
        (5, 0),
        "an expired grant gave nothing"
    );
}

#[test]
fn revocations_take_and_give() {
    let (was, is) = (Org::new(), Org::new());
    is.write("revocations.yaml", "tools: [gh/write]\n");
    assert_snapshot!(compare(&was, &is).text(), @r##"
was..is: 1 lost, 1 narrower otherwise.

role eng
  held by groups engineering; agents ci
  - gh/write  writes

Revocations
  - tool `gh/write` is revoked
"##);
    assert_eq!(compare(&is, &was).counts.gained_writes, 1);
    is.write("revocations.yaml", "servers: [gh]\n");
    assert_eq!(compare(&was, &is).counts.lost, 5);
}

#[test]
fn definitions_are_told_by_what_they_mean_and_whom_they_reach() {
    let (was, is) = (Org::new(), Org::new());
    was.pin_as(&telling());
    let mut moved = telling();
    moved.tools.retain(|tool| tool.name != "read_tree");
    moved.tools.push(tool(
        r#"{"name": "read_tree", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": false}}"#,
    ));
    moved.tools.retain(|tool| tool.name != "write");
    moved.tools.push(tool(
        r#"{"name": "write", "description": "Now with force.", "inputSchema": {"type": "object"}, "annotations": {"destructiveHint": true}}"#,
    ));
    is.pin_as(&moved);
    let found = compare(&was, &is);
    assert!(
        found.widens(),
        "a granted tool that begins to write is more access"
    );
    assert_snapshot!(found.text(), @r##"
was..is: 2 wider otherwise, 1 to look at.

role eng
  held by groups engineering; agents ci
  + `gh/read_tree` writes now, before: reads

Definitions
  + `gh`: tool `read_tree`: an annotation changed at `annotations.readOnlyHint` (granted to `eng`)
      annotations.readOnlyHint
        - true
        + false
  ! `gh`: tool `write`: only the text changed, at `description` (granted to `eng`)
      description
        + "Now with force."
"##);
}

#[test]
fn servers_secrets_sign_in_and_record_are_told() {
    let (was, is) = (Org::new(), Org::new());
    was.edit(
        "servers/github.yaml",
        "isolation: user",
        "isolation: session\ncredential: {id: gh, inject: {env: GH_TOKEN}, obtain: x, rotate_days: 30}",
    );
    is.edit(
        "servers/github.yaml",
        "isolation: user",
        "isolation: user\nroots: true\npin: names\ncredential: {id: gh2, inject: {env: GITHUB_TOKEN}, obtain: x}",
    );
    is.edit(
        "servers/github.yaml",
        "class: disk",
        "class: process\n  results: none",
    );
    is.edit("servers/github.yaml", "@1.2.3", "@1.2.4");
    is.edit("servers/github.yaml", "LOG_LEVEL: info", "LOG_LEVEL: debug");
    is.edit("servers/github.yaml", "owner: platform", "owner: nobody");
    is.pin(&["read_file", "read_tree", "write"]);
    is.edit(
        "org.yaml",
        "grace_hours: 72",
        "grace_hours: 100\nsecret_stores: {key_file: true}",
    );
    is.edit("org.yaml", "    jwks:", "    device_flow: true\n    jwks:");
    is.edit("org.yaml", "  ca: trust/ca.pem\n", "");
    is.write(
        "trust/jwks.json",
        r#"{"keys": [{"kid": "new", "kty": "OKP"}]}"#,
    );
    is.edit("agents/ci.yaml", "jP6k", "jP6l");
    assert_snapshot!(compare(&was, &is).text(), @r##"
was..is: 10 wider otherwise, 9 to look at.

Agents
  + agent `ci` has another key: somebody else may be the agent

Servers
  + server `gh` has `pin: names` now, was `pin: definitions`
  + server `gh` learns the client's roots now
  ! server `gh`: the arguments is `-y @acme/mcp-github@1.2.4 --read-only` now, was `-y @acme/mcp-github@1.2.3 --read-only`
  ! server `gh`: the package is `npm:@acme/mcp-github@1.2.4` now, was `npm:@acme/mcp-github@1.2.3`
  ! server `gh`: the variable `LOG_LEVEL` is `debug` now, was `info`
  ! server `gh` may serve several sessions of a user in one process
  ! owner of server `gh` is `nobody` now, was `platform`

Credentials
  + server `gh` gets the secret `gh2`, was `gh`
  ! server `gh` gets `gh2` in the variable `GITHUB_TOKEN`, was in the variable `GH_TOKEN`
  ! rotate_days of `gh2` is `never` now, was `30`

Sign-in
  + issuer `https://login.acme.example`: signing in on another device is allowed now
  ! issuer `https://login.acme.example` has the new key `new 7c5dc27dad37`
    issuer `https://login.acme.example` lost the key `? 39ff456994fe`

Record
  + server `gh`: `class: process` now, was `class: disk`
  + server `gh`: `results: none` now, was `results: digest`
  + tool `gh/write`: `class: process` now, was `class: disk`
  ! the collector has another private CA

Machines
  + secrets may be kept under a key file now
  + a stale registry is used for 100 hours, was 72 hours
"##);
}

#[test]
fn mistakes_stop_the_newer_side_only() {
    let (was, is) = (Org::new(), Org::new());
    was.edit("roles/eng.yaml", "[read_*, write]", "[read_*, wriet]");
    let found = compare(&was, &is);
    assert_eq!(found.counts.gained, 1, "what a mistake hid shows as gained");
    assert!(found.text().contains("note: `"), "{}", found.text());
    let [base, head] = [&is, &was].map(|org| Side::Directory(org.dir().to_owned()));
    let refused = diff(
        is.dir(),
        &base,
        &head,
        &now(),
        &mut CountingEntropy::default(),
    );
    assert!(
        matches!(refused, Err(DiffError::Mistakes { .. })),
        "{refused:?}"
    );
}

/// What `diff` calls gained is what `decide` allows now and did not before.
#[test]
fn gains_are_what_decide_would_allow_more() {
    use crate::identity::Caller;
    use crate::policy::{Access, Snapshot, SnapshotId, decide};
    let allowed = |org: &Org| {
        let set = org.compile();
        let loaded =
            crate::admin::publish::rehearsed(&set, &now(), &mut CountingEntropy::default())
                .unwrap();
        let agents = loaded.registry.policy.agents.clone();
        let (name, doc) = agents.first_key_value().unwrap();
        let caller = Caller::Agent {
            name: name.clone(),
            key: crate::identity::key_id(&doc.public_key).unwrap(),
            roles: doc.roles.clone(),
        };
        let surface = loaded
            .registry
            .servers
            .values()
            .next()
            .unwrap()
            .surface
            .clone()
            .unwrap();
        let registry = Some(std::sync::Arc::new(loaded.registry));
        let snapshot = Snapshot::new(
            SnapshotId(1),
            registry,
            loaded.freshness,
            Some(caller),
            None,
            &now(),
        );
        let tools = surface.tools.iter().filter(|tool| {
            let access = Access::Tool {
                server: crate::ids::ServerKey::parse("gh").unwrap(),
                name: tool.name.clone(),
            };
            matches!(
                decide(&snapshot, &access, &now()),
                crate::policy::Decision::Allow(_)
            )
        });
        tools
            .map(|tool| tool.name.clone())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let grants = ["[read_file]", "[read_*, write]", "[write]", "['*']"];
    let expiries = ["2026-11-20", "2027-11-20"];
    let revocations = [
        "tools: [gh/write]\n",
        "servers: [gh]\n",
        "tools: [gh/read_file]\n",
    ];
    arbtest::arbtest(|u| {
        let mut side = || -> arbtest::arbitrary::Result<Org> {
            let org = Org::new();
            org.edit("roles/eng.yaml", "[read_*, write]", u.choose(&grants)?);
            org.edit("roles/eng.yaml", "2027-11-20", u.choose(&expiries)?);
            if u.arbitrary()? {
                org.write("revocations.yaml", u.choose(&revocations)?);
            }
            Ok(org)
        };
        let (was, is) = (side()?, side()?);
        let (before, after) = (allowed(&was), allowed(&is));
        let found = compare(&was, &is);
        let names = |items: &[Item]| {
            let tools = items.iter().filter(|item| item.kind == "tool");
            tools
                .map(|item| item.name.clone())
                .collect::<std::collections::BTreeSet<_>>()
        };
        let role = found.roles.first();
        let gains = role.map(|role| names(&role.gains)).unwrap_or_default();
        let losses = role.map(|role| names(&role.losses)).unwrap_or_default();
        assert_eq!(
            gains,
            after.difference(&before).cloned().collect(),
            "{}",
            found.text()
        );
        assert_eq!(
            losses,
            before.difference(&after).cloned().collect(),
            "{}",
            found.text()
        );
        Ok(())
    })
    .budget_ms(2_000);
}

#[test]
fn a_program_from_the_project_is_shown_as_more_access() {
    let allowed = "  program_from_project: true\n  env:";
    let found = after(|org| {
        org.edit("servers/github.yaml", "  env:", allowed);
        org.pin(&["read_file", "read_tree", "write"]);
    });
    let said = "server `gh` runs a program that the client's project brings";
    assert!(found.contains(said), "{found}");
    let widens = found.lines().find(|line| line.contains(said)).unwrap();
    assert!(widens.trim_start().starts_with('+'), "{found}");
}
