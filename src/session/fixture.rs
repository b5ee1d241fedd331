//! What the session's tests and its fuzz target live in: servers, people, and what servers say of
//! themselves.

use std::sync::Arc;

use super::{Snapshot, SnapshotId};
use crate::identity::Caller;
use crate::policy::fixture::{self, ann};
use crate::registry::doc::{PinMode, Pinned, Registry, ServerDoc};
use crate::registry::{Freshness, Verified};

/// Two servers: `alpha` of the handshake era, `beta` of the stateless era. Role `eng` may use all
/// of alpha but `forbidden`, and all of beta; nobody may use gamma.
pub(super) fn registry() -> Registry {
    let mut registry = fixture::registry();
    registry.put_role("eng", &["eng"]);
    for (key, protocol) in [("alpha", "2025-11-25"), ("beta", "2026-07-28")] {
        let mut server = fixture::server(
            key,
            "names",
            &[("echo", true), ("forbidden", true)],
            &["greet"],
            &[&format!("{key}://readme")],
            &[&format!("{key}://doc/{{id}}")],
        );
        server.surface.as_mut().unwrap().protocol = protocol.to_owned();
        registry.put(server);
        registry.grant("eng", key, "echo");
        let rule = registry.rule(None);
        let table = registry.table("eng", key);
        table.prompts.insert("greet".to_owned(), rule);
        table.resources.push((format!("{key}://*"), rule));
    }
    registry.put(fixture::server(
        "gamma",
        "names",
        &[("secret", true)],
        &[],
        &[],
        &[],
    ));
    registry
}

/// The same, with entries that allow every question.
pub(super) fn asking() -> Registry {
    let mut registry = registry();
    for key in ["alpha", "beta"] {
        registry.edit(key, |server| {
            (server.elicitation, server.sampling, server.roots) = (true, true, true);
        });
    }
    registry
}

/// What a machine is told: a registry, and who calls.
pub(super) fn snapshot_of(
    number: u64,
    registry: &Registry,
    caller: Option<Caller>,
) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(
        SnapshotId(number),
        Some(Arc::new(Verified::assume_for_tests(registry.clone()))),
        Freshness::Fresh,
        caller,
        None,
        &fixture::at(fixture::NOW),
    ))
}

/// Somebody else with the same role as Ann.
pub(super) fn bob() -> Caller {
    let mut caller = ann(&["eng"]);
    if let Caller::Person {
        subject, display, ..
    } = &mut caller
    {
        "bob".clone_into(subject);
        "Bob".clone_into(display);
    }
    caller
}

/// What a server answers to what its link asks for itself: a result, raw JSON.
pub(super) fn own(server: &ServerDoc, method: &str) -> Option<String> {
    let mut surface = server.surface.clone().unwrap_or_default();
    if server.pin == PinMode::Off {
        let tools = [("echo", true), ("forbidden", true)];
        let live = fixture::server(server.key.as_str(), "names", &tools, &[], &[], &[]);
        surface.tools = live.surface.unwrap_or_default().tools;
    }
    let about = |version: &str| {
        format!(
            r#"{{{version},"capabilities":{{"tools":{{}},"prompts":{{}},"resources":{{"subscribe":true}},"completions":{{}},"logging":{{}}}},"serverInfo":{{"name":"up"}},"_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"up"}}}}}}"#
        )
    };
    let list = |member: &str, items: &[Pinned]| {
        let items: Vec<&str> = items.iter().map(|item| item.definition.get()).collect();
        format!(
            r#"{{"resultType":"complete","{member}":[{}]}}"#,
            items.join(",")
        )
    };
    Some(match method {
        "initialize" => about(r#""protocolVersion":"2025-11-25""#),
        "server/discover" => about(r#""resultType":"complete","supportedVersions":["2026-07-28"]"#),
        "tools/list" => list("tools", &surface.tools),
        "prompts/list" => list("prompts", &surface.prompts),
        "resources/list" => list("resources", &surface.resources),
        "resources/templates/list" => list("resourceTemplates", &surface.templates),
        _ => return None,
    })
}
