//! What the session lives in: a registry, people, and what upstreams say of themselves.

use std::sync::Arc;

use super::{LIMIT, NEW};
use crate::identity::Caller;
use crate::policy::fixture::{self, ann};
use crate::policy::{Snapshot, SnapshotId};
use crate::registry::Freshness;
use crate::registry::doc::{Registry, ServerDoc};
use crate::session::fixture::{self as common, bob, snapshot_of};

/// Two servers with a granted and a not granted tool each, one without grants, one not pinned.
fn registry() -> Registry {
    let mut registry = common::registry();
    for key in ["alpha", "beta"] {
        registry.edit(key, |server| {
            (server.elicitation, server.sampling) = (true, true);
            server.roots = key == "alpha";
            server.limits.in_flight = 4;
            server.limits.call_ms = 20_000;
        });
    }
    registry.edit("beta", |beta| beta.limits.repeat = Some(LIMIT));
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
        mute.edit(key, |server| {
            (server.elicitation, server.sampling, server.roots) = (false, false, false);
        });
    }
    let make = |registry, caller| snapshot_of(0, registry, caller);
    let eng = make(&full, Some(ann(&["eng"])));
    let mut all = vec![(eng, Some("ann")); 6];
    all.push((make(&full, Some(bob())), Some("bob")));
    all.push((make(&less, Some(ann(&["eng"]))), Some("ann")));
    all.push((make(&mute, Some(ann(&["eng"]))), Some("ann")));
    all.push((make(&full, None), None));
    all.push((make(&full, Some(ending())), Some("ann")));
    let none = Snapshot::new(SnapshotId(0), None, Freshness::Fresh, None, None, &now);
    all.push((Arc::new(none), None));
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

/// The answer to what a link asks for itself: `result` or `error`, as a member.
pub(super) fn own(server: &ServerDoc, method: &str) -> Option<String> {
    let surface = server.surface.as_ref();
    let stateless = surface.is_some_and(|surface| surface.protocol == NEW);
    if method == "server/discover" && !stateless {
        return Some(r#""error":{"code":-32601,"message":"Method not found"}"#.to_owned());
    }
    let result = common::own(server, method)?;
    Some(format!("\"result\":{result}"))
}
