use std::sync::Arc;

use super::decode::{Payload, Said, WhySize, kind};
use super::encode::{Encoder, Room, StreamHeader};
use super::entry::{
    Body, CallFacts, CallerContext, Context, ContextId, Correlation, End, Entry, TargetKind,
};
use super::frame::{Blob, ChainError, FrameError, GENESIS};
use super::seal::bucket;
use super::*;
use crate::clock::{CountingEntropy, Now};
use crate::ids::{CallId, Digest, ExposedName, KeyId, OrgId, ServerId, ServerKey, StreamId};
use crate::registry::Freshness;
use crate::registry::doc::{AuditKeyDoc, AuditRule, Capture, DurabilityClass, RegistryVersion};
use crate::secret::Content;

const CANARY: &str = "canary-7f3a-the-argument";

fn at(us: u64) -> Now {
    Now {
        wall_us: 1_795_000_000_000_000 + us,
        mono_us: us,
    }
}

fn header() -> StreamHeader {
    StreamHeader {
        stream: StreamId::new(1_795_000_000_000, &[7; 10]),
        org: OrgId::parse("example").unwrap(),
        machine_id: "4c4c4544-0042-3510-8052-b4c04f4d3732".to_owned(),
        installation: KeyId::parse(&Digest::of(b"installation").to_string()).unwrap(),
        pid: 4711,
        version: "0.1.0".to_owned(),
        started: at(0),
        registry: Some(RegistryVersion {
            root: 1,
            timestamp: 40,
            snapshot: 12,
            targets: 12,
        }),
        others: 0,
        previous: vec![encode::Previous {
            stream: StreamId::new(1_794_000_000_000, &[6; 10]),
            at_least: 42,
            hash: Digest::of(b"before"),
        }],
    }
}

fn contexts() -> Vec<Context> {
    vec![
        Context::Caller(CallerContext::Agent {
            name: "nightly-report".to_owned(),
            key: Digest::of(b"agent").to_string(),
            roles: vec!["reader".to_owned()],
        }),
        Context::Client {
            name: "claude-code".to_owned(),
            version: "2.1.4".to_owned(),
            protocol: "2026-07-28".to_owned(),
            session: Some("0a6a5d3e-1b1f-4c11-9a8e-2f6f2b7b9f00".to_owned()),
        },
        Context::Registry {
            org: OrgId::parse("example").unwrap(),
            version: RegistryVersion::default(),
            digest: Digest::of(b"targets"),
            freshness: Freshness::Grace,
        },
        Context::Rule {
            id: "eng/files#1".to_owned(),
            source: "roles/eng.yaml:14".to_owned(),
            role: "reader".to_owned(),
        },
        Context::Server {
            id: ServerId::parse("files").unwrap(),
            key: ServerKey::parse("files").unwrap(),
            transport: "stdio".to_owned(),
            protocol: "2025-11-25".to_owned(),
        },
        Context::Target {
            kind: TargetKind::Tool,
            server: Some(ContextId(5)),
            name: "read_file".to_owned(),
            exposed: Some(ExposedName::parse("files_read_file").unwrap()),
            definition: Some(Digest::of(b"definition")),
        },
    ]
}

fn facts(call: u64, content: &[u8], arguments: Capture) -> CallFacts {
    CallFacts {
        call: CallId(call),
        leg: 0,
        caller: ContextId(1),
        client: ContextId(2),
        target: ContextId(6),
        registry: Some(ContextId(3)),
        rule: ContextId(4),
        correlation: Correlation {
            tool_use_id: Some("toolu_01A09q90qw90lq917835lq9".to_owned()),
            call_id: None,
            session_id: None,
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        },
        content: Content(bytes::Bytes::copy_from_slice(content)),
        audit: AuditRule {
            arguments,
            class: DurabilityClass::Disk,
            ..AuditRule::default()
        },
    }
}

fn entry(us: u64, body: Body) -> Entry {
    Entry { at: at(us), body }
}

fn outcome(call: u64, content: &[u8], results: Capture) -> Body {
    Body::Outcome {
        call: CallId(call),
        leg: 0,
        end: End::Ok,
        took_us: 1234,
        content: Content(bytes::Bytes::copy_from_slice(content)),
        audit: AuditRule {
            results,
            ..AuditRule::default()
        },
    }
}

fn key() -> (PrivateKey, AuditKeyDoc) {
    generate_audit_key(&mut CountingEntropy(1), 0, u64::MAX).unwrap()
}

/// An encoder that knows the contexts, and what it wrote.
struct Writer {
    encoder: Encoder,
    entropy: CountingEntropy,
    out: Vec<u8>,
}

impl Writer {
    fn new(keys: &[AuditKeyDoc]) -> Self {
        let mut writer = Self {
            encoder: Encoder::open(header(), keys),
            entropy: CountingEntropy(99),
            out: Vec::new(),
        };
        for (number, context) in (1..).zip(contexts()) {
            writer.put(0, Body::Context(ContextId(number), Arc::new(context)));
        }
        writer
    }

    fn put(&mut self, us: u64, body: Body) -> usize {
        let before = self.out.len();
        self.encoder
            .append(&entry(us, body), &mut self.entropy, &mut self.out);
        self.out.len() - before
    }
}

fn all(bytes: &[u8]) -> Vec<Decoded<'_>> {
    frames(bytes)
        .map(|frame| decode(&frame.unwrap()).unwrap())
        .collect()
}

fn last(bytes: &[u8]) -> Decoded<'_> {
    all(bytes).pop().unwrap()
}

fn segment(bytes: &[u8]) -> decode::SegmentHeader<'_> {
    let found = all(bytes)
        .into_iter()
        .rev()
        .find_map(|record| match record.said {
            Said::Segment(segment) => Some(*segment),
            _ => None,
        });
    found.unwrap()
}

#[test]
fn a_call_without_payload_takes_at_most_300_bytes() {
    let mut writer = Writer::new(&[]);
    let facts = |call| facts(call, b"", Capture::Full);
    writer.put(1, Body::Intent(facts(1)));
    // the second call: contexts stand already
    let mut late = facts(1_000_000);
    late.correlation.session_id = Some("0a6a5d3e-1b1f-4c11-9a8e-2f6f2b7b9f00".to_owned());
    let intent = writer.put(3_600_000_000, Body::Intent(late));
    let outcome = writer.put(3_600_500_000, outcome(1_000_000, b"", Capture::Full));
    assert!(
        intent + outcome <= 300,
        "intent {intent}, outcome {outcome}"
    );
}

#[test]
fn what_was_said_is_read_again() {
    let (private, doc) = key();
    let mut writer = Writer::new(std::slice::from_ref(&doc));
    assert!(writer.out.is_empty(), "nothing before the first record");
    writer.put(5, Body::Intent(facts(1, CANARY.as_bytes(), Capture::Full)));
    writer.put(6, outcome(1, b"{\"content\":[]}", Capture::Digest));
    let kinds: Vec<u8> = all(&writer.out)
        .iter()
        .map(|record| record.said.kind())
        .collect();
    use kind::{CONTEXT, INTENT, OUTCOME, SEGMENT, STREAM};
    assert_eq!(
        kinds,
        [
            SEGMENT, STREAM, CONTEXT, CONTEXT, CONTEXT, CONTEXT, CONTEXT, CONTEXT, INTENT, OUTCOME
        ]
    );
    let records = all(&writer.out);
    assert_eq!(records[1].said, Said::Stream(Box::new(header())));
    for record in &records {
        if let Said::Context { id, context } = &record.said {
            assert_eq!(**context, contexts()[id.0 as usize - 1]);
        }
    }
    let keys = DataKey::open(&segment(&writer.out), &private).unwrap();
    let opened = keys.unseal(&records[8]).unwrap();
    assert_eq!(opened.content.0, CANARY.as_bytes());
    assert!(!opened.cut);
    assert_eq!(keys.matches(&records[9], b"{\"content\":[]}"), Some(true));
    assert_eq!(keys.matches(&records[9], b"{\"content\":[1]}"), Some(false));
    assert_eq!(
        keys.unseal(&records[9]).unwrap_err(),
        UnsealError::NothingSealed
    );
    let tail = verify_chain(GENESIS, &writer.out).unwrap();
    assert_eq!((tail.first_seq, tail.last_seq, tail.records), (1, 10, 10));
    assert_eq!(
        (writer.encoder.seq(), writer.encoder.hash()),
        (10, tail.last_hash)
    );
}
