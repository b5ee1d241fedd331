//! Prints what one intent and its outcome cost: encode, seal, chain and write, without sync.
//!
//! ```console
//! $ cargo run --release --no-default-features --example append [DIR [PAYLOAD]]
//! ```
//! Figures are of this machine and this moment; nothing is asserted.
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a measurement for people"
)]

use std::path::PathBuf;
use std::sync::Arc;

use mcpshim::audit::StreamHeader;
use mcpshim::audit::entry::{
    Body, CallFacts, CallerContext, Context, ContextId, Correlation, End, Entry, TargetKind,
};
use mcpshim::audit::generate_audit_key;
use mcpshim::clock::{Clock as _, SystemClock, SystemEntropy};
use mcpshim::ids::{CallId, KeyId, OrgId, ServerId, ServerKey};
use mcpshim::registry::doc::{AuditRule, Capture};
use mcpshim::secret::Content;
use mcpshim::spool::{Caps, RealDisk, Spool};

fn main() {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = dir.join(format!("mcpshim-append-{}", std::process::id()));
    let clock = SystemClock::new();
    let (_, key) = generate_audit_key(&mut SystemEntropy, 0, u64::MAX).expect("a key");
    println!(
        "{:>9} {:>8} {:>9} {:>9} {:>9}",
        "payload", "capture", "p50 µs", "p99 µs", "bytes"
    );
    let only: Option<usize> = std::env::args().nth(2).and_then(|bytes| bytes.parse().ok());
    for bytes in [0, 100, 1000, 10_000, 1_000_000] {
        if only.is_some_and(|only| only != bytes) {
            continue;
        }
        for capture in [Capture::Digest, Capture::Full] {
            let caps = Caps {
                spool_bytes: 8 << 30,
                ..Caps::default()
            };
            let (disk, entropy) = (Box::new(RealDisk), Box::new(SystemEntropy));
            let describe = Box::new(|stream, now: &_| StreamHeader {
                stream,
                org: OrgId::parse("example").expect("an id"),
                machine_id: "measured".to_owned(),
                installation: KeyId::parse("00").expect("an id"),
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started: *now,
                registry: None,
                others: 0,
                previous: Vec::new(),
            });
            let keys = std::slice::from_ref(&key);
            let mut spool = Spool::new(dir.clone(), disk, describe, keys, entropy).with_caps(caps);
            let now = clock.now();
            let contexts: Vec<Entry> = (1..)
                .zip(contexts())
                .map(|(id, context)| Entry {
                    at: now,
                    body: Body::Context(ContextId(id), Arc::new(context)),
                })
                .collect();
            spool
                .append(&contexts, &now)
                .expect("contexts touch nothing");
            let content = Content(bytes::Bytes::from(vec![b'x'; bytes]));
            let rule = AuditRule {
                arguments: capture,
                results: capture,
                ..AuditRule::default()
            };
            let rounds = if bytes > 100_000 { 200 } else { 20_000 };
            let mut took = Vec::with_capacity(rounds as usize);
            for call in 0..rounds {
                let start = clock.now();
                spool
                    .append(&[intent(call, start, &content, rule)], &start)
                    .expect("room");
                let end = clock.now();
                spool
                    .append(&[outcome(call, end, &content, rule)], &end)
                    .expect("room");
                took.push(clock.now().mono_us - start.mono_us);
            }
            took.sort_unstable();
            let at = |part: usize| took[took.len() * part / 100] as f64;
            let stored: u64 = mcpshim::spool::usage(&RealDisk, &dir).expect("a directory");
            println!(
                "{bytes:>9} {:>8} {:>9.1} {:>9.1} {:>9}",
                format!("{capture:?}"),
                at(50),
                at(99),
                stored / rounds
            );
            drop(spool);
            std::fs::remove_dir_all(&dir).expect("our own directory");
        }
    }
}

fn contexts() -> [Context; 5] {
    [
        Context::Caller(CallerContext::Nobody),
        Context::Client {
            name: "claude-code".to_owned(),
            version: "2.1.4".to_owned(),
            protocol: "2026-07-28".to_owned(),
            session: None,
        },
        Context::Rule {
            id: "eng/files#1".to_owned(),
            source: "roles/eng.yaml:14".to_owned(),
            role: "reader".to_owned(),
        },
        Context::Server {
            id: ServerId::parse("files").expect("an id"),
            key: ServerKey::parse("files").expect("a key"),
            transport: "stdio".to_owned(),
            protocol: "2025-11-25".to_owned(),
        },
        Context::Target {
            kind: TargetKind::Tool,
            server: Some(ContextId(4)),
            name: "read_file".to_owned(),
            exposed: None,
            definition: None,
        },
    ]
}

fn intent(call: u64, at: mcpshim::clock::Now, content: &Content, audit: AuditRule) -> Entry {
    Entry {
        at,
        body: Body::Intent(CallFacts {
            call: CallId(call),
            leg: 0,
            caller: ContextId(1),
            client: ContextId(2),
            target: ContextId(5),
            registry: None,
            rule: ContextId(3),
            credential: None,
            correlation: Correlation {
                tool_use_id: Some("toolu_01A09q90qw90lq917835lq9".to_owned()),
                ..Correlation::default()
            },
            content: content.clone(),
            audit,
        }),
    }
}

fn outcome(call: u64, at: mcpshim::clock::Now, content: &Content, audit: AuditRule) -> Entry {
    Entry {
        at,
        body: Body::Outcome {
            call: CallId(call),
            leg: 0,
            end: End::Ok,
            took_us: 1,
            content: content.clone(),
            audit,
        },
    }
}
