//! What the session lives in: a registry, people, and what upstreams say of themselves.

use std::sync::Arc;

use super::{LIMIT, NEW, OLD};
use crate::identity::Caller;
use crate::policy::fixture::{self, ann};
use crate::policy::{Snapshot, SnapshotId};
use crate::registry::doc::{PinMode, Pinned, Registry, ServerDoc};
use crate::registry::{Freshness, Verified};

/// Two servers with a granted and a not granted tool each, one without grants, one not pinned.
fn registry() -> Registry {
    let mut registry = fixture::registry();
    registry.put_role("eng", &["eng"]);
    for (key, protocol) in [("alpha", OLD), ("beta", NEW)] {
        let tools = [("echo", true), ("forbidden", true)];
        let (uri, template) = (format!("{key}://readme"), format!("{key}://doc/{{id}}"));
        let mut server = fixture::server(key, "names", &tools, &["greet"], &[&uri], &[&template]);
        (server.elicitation, server.sampling) = (true, true);
        server.roots = key == "alpha";
        server.surface.as_mut().unwrap().protocol = protocol.to_owned();
        server.limits.in_flight = 4;
        server.limits.call_ms = 20_000;
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
    let mut beta = ServerDoc::clone(&registry.servers[&fixture::key("beta")]);
    beta.limits.repeat = Some(LIMIT);
    registry.put(beta);
    registry.put(fixture::server("off", "off", &[], &[], &[], &[]));
    let rule = registry.rule(None);
    registry
        .table("eng", "off")
        .tool_globs
        .push(("e*".to_owned(), rule));
    registry
}

/// What the session may be told, in turn, and who calls then; nobody calls as nobody.
pub(super) fn snapshots() -> Vec<(Arc<Snapshot>, Option<&'static str>)> {
    let now = fixture::at(fixture::NOW);
    let full = registry();
    let mut less = registry();
    less.table("eng", "alpha").tools.clear();
    less.servers.remove(&fixture::key("beta"));
    let mut mute = registry();
    for key in ["alpha", "beta"] {
        let mut server = ServerDoc::clone(&mute.servers[&fixture::key(key)]);
        (server.elicitation, server.sampling, server.roots) = (false, false, false);
        mute.put(server);
    }
    let make = |registry: Option<&Registry>, caller| {
        let registry = registry.map(|r| Arc::new(Verified::assume_for_tests(r.clone())));
        Arc::new(Snapshot::new(
            SnapshotId(0),
            registry,
            Freshness::Fresh,
            caller,
            None,
            &now,
        ))
    };
    let eng = make(Some(&full), Some(ann(&["eng"])));
    let mut all = vec![(Arc::clone(&eng), Some("ann")); 6];
    all.push((make(Some(&full), Some(bob())), Some("bob")));
    all.push((make(Some(&less), Some(ann(&["eng"]))), Some("ann")));
    all.push((make(Some(&mute), Some(ann(&["eng"]))), Some("ann")));
    all.push((make(Some(&full), None), None));
    all.push((make(Some(&full), Some(ending())), Some("ann")));
    all.push((make(None, None), None));
    all
}

/// Ann, whose sign-in ends in the middle of it all.
fn ending() -> Caller {
    let mut caller = ann(&["eng"]);
    if let Caller::Person { expires, .. } = &mut caller {
        *expires = fixture::NOW + 30;
    }
    caller
}

/// Somebody else with the same role.
fn bob() -> Caller {
    let mut caller = ann(&["eng"]);
    if let Caller::Person { subject, .. } = &mut caller {
        "bob".clone_into(subject);
    }
    caller
}

/// The answer to what a link asks for itself: `result` or `error`, as a member.
pub(super) fn own(server: &ServerDoc, method: &str) -> Option<String> {
    let surface = server.surface.clone().unwrap_or_default();
    let stateless = surface.protocol == NEW;
    let about =
        r#""capabilities":{"tools":{},"prompts":{},"resources":{"subscribe":true},"logging":{}}"#;
    let list = |member: &str, items: &[Pinned]| {
        let items: Vec<&str> = items.iter().map(|item| item.definition.get()).collect();
        format!(
            r#"{{"resultType":"complete","{member}":[{}]}}"#,
            items.join(",")
        )
    };
    let result = match method {
        "initialize" => format!(r#"{{"protocolVersion":"{OLD}",{about}}}"#),
        "server/discover" if stateless => {
            format!(r#"{{"resultType":"complete","supportedVersions":["{NEW}"],{about}}}"#)
        }
        "server/discover" => {
            return Some(r#""error":{"code":-32601,"message":"Method not found"}"#.to_owned());
        }
        "tools/list" if server.pin == PinMode::Off => {
            r#"{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}"#.to_owned()
        }
        "tools/list" => list("tools", &surface.tools),
        "prompts/list" => list("prompts", &surface.prompts),
        "resources/list" => list("resources", &surface.resources),
        "resources/templates/list" => list("resourceTemplates", &surface.templates),
        _ => return None,
    };
    Some(format!("\"result\":{result}"))
}
