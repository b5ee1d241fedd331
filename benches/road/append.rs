//! What recording a call costs by itself: an intent and an outcome, sealed, chained and written.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use mcpshim::audit::encode::StreamHeader;
use mcpshim::audit::entry::{Body, CallFacts, ContextId, Correlation, End, Entry};
use mcpshim::audit::generate_audit_key;
use mcpshim::clock::{Clock as _, Now, SystemClock, SystemEntropy};
use mcpshim::ids::{CallId, KeyId, OrgId};
use mcpshim::registry::doc::{AuditRule, Capture};
use mcpshim::secret::Content;
use mcpshim::spool::{Caps, RealDisk, Spool};

/// Bytes of arguments, and of a result.
const CONTENT_BYTES: usize = 512;

fn spool(dir: &Path, now: &Now) -> Spool {
    let describe = |stream, now: &Now| StreamHeader {
        stream,
        org: OrgId::parse("bench").unwrap(),
        machine_id: "bench".to_owned(),
        installation: KeyId::parse("ab12").unwrap(),
        pid: std::process::id(),
        version: "bench".to_owned(),
        started: *now,
        registry: None,
        others: 0,
        previous: Vec::new(),
    };
    let day = 86_400;
    let (from, to) = (now.unix_s() - day, now.unix_s() + day);
    let (_, key) = generate_audit_key(&mut SystemEntropy, from, to).unwrap();
    // nobody delivers here, and the cap is not what is measured
    let caps = Caps {
        spool_bytes: u64::MAX,
        ..Caps::default()
    };
    let (disk, entropy) = (Box::new(RealDisk), Box::new(SystemEntropy));
    Spool::new(dir.to_owned(), disk, Box::new(describe), &[key], entropy).with_caps(caps)
}

/// Records so many calls in a spool below `dir`; prints the microseconds of each.
pub(crate) fn append(dir: &Path, calls: usize) {
    let clock = SystemClock::new();
    let mut spool = spool(dir, &clock.now());
    let content = Content(Bytes::from(vec![b'x'; CONTENT_BYTES]));
    let audit = AuditRule {
        arguments: Capture::Full,
        results: Capture::Full,
        ..AuditRule::default()
    };
    let mut times = Vec::with_capacity(calls);
    for number in 0..calls as u64 {
        let call = CallId(number + 1);
        let intent = Body::Intent(CallFacts {
            call,
            leg: 0,
            caller: ContextId(1),
            client: ContextId(2),
            target: ContextId(3),
            registry: None,
            rule: ContextId(4),
            credential: None,
            correlation: Correlation::default(),
            content: content.clone(),
            audit,
        });
        let outcome = Body::Outcome {
            call,
            leg: 0,
            end: End::Ok,
            took_us: 100,
            content: content.clone(),
            audit,
        };
        let [intent, outcome] = [intent, outcome].map(|body| Entry {
            at: clock.now(),
            body,
        });
        let start = Instant::now();
        // two writes, as a call makes them
        for entry in [intent, outcome] {
            spool.append(&[entry], &clock.now()).unwrap();
        }
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let text: Vec<String> = times.iter().map(|time| format!("{time:.2}")).collect();
    println!("{}", text.join(" "));
}
