mod bound;

use std::sync::Arc;

use super::decode::{Payload, Said, WhySize, kind};
use super::encode::Room;
use super::entry::{
    Body, CallFacts, CallerContext, Context, ContextId, Correlation, End, Entry, TargetKind,
};
use super::frame::{Blob, GENESIS};
use super::seal::bucket;
use super::*;
use crate::clock::{CountingEntropy, Now};
use crate::ids::{
    CallId, CredentialId, Digest, ExposedName, KeyId, OrgId, ServerId, ServerKey, StreamId,
};
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
        credential: None,
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

/// The last segment's header.
fn segment(bytes: &[u8]) -> decode::SegmentHeader<'_> {
    let mut found = None;
    for record in all(bytes) {
        if let Said::Segment(segment) = record.said {
            found = Some(*segment);
        }
    }
    found.unwrap()
}

/// What the sealing of a record covers, as a reader of the whole stream finds it.
fn clear(bytes: &[u8], record: &Decoded<'_>) -> Option<Digest> {
    let mut table = ContextTable::new(header().stream);
    for before in all(bytes) {
        if before.seq <= record.seq {
            table.observe(&before);
        }
    }
    table.clear(record)
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
    let opened = keys
        .unseal(&records[8], clear(&writer.out, &records[8]))
        .unwrap();
    assert_eq!(opened.content.0, CANARY.as_bytes());
    assert!(!opened.cut);
    let around = clear(&writer.out, &records[9]);
    let matches = |content| keys.matches(&records[9], around, content);
    assert_eq!(matches(b"{\"content\":[]}"), Some(true));
    assert_eq!(matches(b"{\"content\":[1]}"), Some(false));
    assert_eq!(
        keys.unseal(&records[9], around).unwrap_err(),
        UnsealError::NothingSealed
    );
    let tail = verify_chain(GENESIS, &writer.out).unwrap();
    assert_eq!((tail.first_seq, tail.last_seq, tail.records), (1, 10, 10));
    assert_eq!(
        (writer.encoder.seq(), writer.encoder.hash()),
        (10, tail.last_hash)
    );
}

#[test]
fn a_leg_that_ends_in_a_question_says_so() {
    let mut writer = Writer::new(&[]);
    writer.put(1, Body::Intent(facts(1, b"", Capture::None)));
    let mut asks = outcome(1, b"", Capture::None);
    if let Body::Outcome { end, .. } = &mut asks {
        *end = End::Input;
    }
    writer.put(2, asks);
    let lines = jsonl(&writer.out);
    assert!(lines.contains(r#""end":"input_required""#), "{lines}");
}

#[test]
fn a_payload_opens_with_the_right_key_in_the_right_place_only() {
    let (private, doc) = key();
    let (stranger, _) = generate_audit_key(&mut CountingEntropy(2), 0, u64::MAX).unwrap();
    let mut writer = Writer::new(std::slice::from_ref(&doc));
    writer.put(1, Body::Intent(facts(1, b"one", Capture::Full)));
    let first = writer.out.len();
    writer.put(2, Body::Intent(facts(2, b"two", Capture::Full)));
    let header = segment(&writer.out);
    assert_eq!(
        DataKey::open(&header, &stranger).unwrap_err(),
        UnsealError::NotForThisKey
    );
    let keys = DataKey::open(&header, &private).unwrap();
    let (one, two) = (last(&writer.out[..first]), last(&writer.out));
    let around = [clear(&writer.out, &one), clear(&writer.out, &two)];
    assert_eq!(keys.unseal(&one, around[0]).unwrap().content.0, "one");
    assert_eq!(keys.unseal(&two, around[1]).unwrap().content.0, "two");

    // moved to another record, another kind, another stream, or another organisation
    let moved = Decoded {
        seq: two.seq,
        ..one.clone()
    };
    assert_eq!(
        keys.unseal(&moved, around[0]).unwrap_err(),
        UnsealError::WrongSegment
    );
    let Said::Intent(call) = one.said.clone() else {
        panic!()
    };
    let kind = Decoded {
        said: Said::Denial { call, code: "x" },
        ..one.clone()
    };
    assert_eq!(
        keys.unseal(&kind, around[0]).unwrap_err(),
        UnsealError::WrongSegment
    );
    let stream = StreamId::new(1, &[1; 10]);
    let other = decode::SegmentHeader {
        stream,
        ..header.clone()
    };
    assert_eq!(
        DataKey::open(&other, &private).unwrap_err(),
        UnsealError::Damaged
    );
    let org = OrgId::parse("another").unwrap();
    let other = decode::SegmentHeader {
        org,
        ..header.clone()
    };
    assert_eq!(
        DataKey::open(&other, &private).unwrap_err(),
        UnsealError::Damaged
    );
    let other = decode::SegmentHeader {
        first_seq: 2,
        ..header
    };
    assert_eq!(
        DataKey::open(&other, &private).unwrap_err(),
        UnsealError::Damaged
    );

    // changed, as one who can write the chain anew could
    let mut forged = writer.out.clone();
    let at = forged.len() - 5;
    forged[at] ^= 1;
    let Payload::Sealed { bytes, .. } = two.payload().clone() else {
        panic!()
    };
    let mut bytes = bytes.unwrap().to_vec();
    bytes[3] ^= 1;
    let mut changed = two.clone();
    if let Said::Intent(call) = &mut changed.said
        && let Payload::Sealed { bytes: slot, .. } = &mut call.payload
    {
        *slot = Some(&bytes);
    }
    let error = keys.unseal(&changed, around[1]).unwrap_err();
    assert_eq!(error, UnsealError::Changed);
}

#[test]
fn nothing_is_sealed_to_a_key_that_is_not_valid_and_nothing_is_left_in_clear() {
    let check = |doc: AuditKeyDoc, valid: bool| {
        let mut writer = Writer::new(&[doc]);
        writer.put(1, Body::Intent(facts(1, CANARY.as_bytes(), Capture::Full)));
        writer.put(2, outcome(1, CANARY.as_bytes(), Capture::Digest));
        let clear = memchr::memmem::find(&writer.out, CANARY.as_bytes());
        assert_eq!(clear, None, "the argument is in clear");
        let records = all(&writer.out);
        let size = Payload::Size {
            bucket: 256,
            why: WhySize::NoKey,
        };
        for record in &records[records.len() - 2..] {
            assert_eq!(*record.payload() == size, !valid);
        }
        assert_eq!(segment(&writer.out).wrapped.len(), usize::from(valid));
    };
    let doc = key().1;
    let now = at(1).unix_s();
    check(doc.clone(), true);
    check(
        AuditKeyDoc {
            not_before: now,
            not_after: now + 1,
            ..doc.clone()
        },
        true,
    );
    check(
        AuditKeyDoc {
            not_before: now + 1,
            ..doc.clone()
        },
        false,
    );
    check(
        AuditKeyDoc {
            not_after: now,
            ..doc.clone()
        },
        false,
    );
    check(
        AuditKeyDoc {
            suite: "x-wing".to_owned(),
            ..doc.clone()
        },
        false,
    );
    check(
        AuditKeyDoc {
            public: "AAAA".to_owned(),
            ..doc.clone()
        },
        false,
    );
    check(
        AuditKeyDoc {
            public: "not base64!".to_owned(),
            ..doc.clone()
        },
        false,
    );
    let other = generate_audit_key(&mut CountingEntropy(3), 0, u64::MAX)
        .unwrap()
        .1;
    check(
        AuditKeyDoc {
            public: other.public,
            ..doc.clone()
        },
        false,
    );
    // a point of low order: every shared secret with it is known
    let zero = data_encoding::BASE64.encode(&[0; 32]);
    let id = KeyId::parse(&Digest::of(&[0; 32]).to_string()).unwrap();
    check(
        AuditKeyDoc {
            public: zero,
            id,
            ..doc
        },
        false,
    );
}

#[test]
fn four_keys_open_a_segment_and_a_fifth_is_left_out() {
    let keys: Vec<_> = (0..5)
        .map(|n| generate_audit_key(&mut CountingEntropy(n * 1000), 0, u64::MAX).unwrap())
        .collect();
    let docs: Vec<AuditKeyDoc> = keys.iter().map(|(_, doc)| doc.clone()).collect();
    let mut writer = Writer::new(&docs);
    writer.put(1, Body::Intent(facts(1, CANARY.as_bytes(), Capture::Full)));
    let (header, record) = (segment(&writer.out), last(&writer.out));
    for (index, (private, doc)) in keys.iter().enumerate() {
        assert_eq!(private.id(), &doc.id);
        match DataKey::open(&header, private) {
            Ok(key) => {
                let opened = key.unseal(&record, clear(&writer.out, &record));
                assert_eq!(opened.unwrap().content.0, CANARY);
            }
            Err(error) => assert_eq!((index, error), (4, UnsealError::NotForThisKey)),
        }
    }
}

#[test]
fn what_is_kept_of_a_payload_follows_the_rule_and_the_room() {
    let (_, doc) = key();
    let mut writer = Writer::new(&[doc]);
    let check = |writer: &mut Writer, room, capture, expected: Payload<'_>| {
        let intent = entry(1, Body::Intent(facts(1, &[b'x'; 300], capture)));
        writer
            .encoder
            .append_in(room, &intent, &mut writer.entropy, &mut writer.out);
        assert_eq!(*last(&writer.out).payload(), expected);
    };
    let size = |why| Payload::Size { bucket: 512, why };
    check(
        &mut writer,
        Room::Plenty,
        Capture::None,
        size(WhySize::Rule),
    );
    check(
        &mut writer,
        Room::Reserve,
        Capture::None,
        size(WhySize::Rule),
    );
    check(
        &mut writer,
        Room::Reserve,
        Capture::Full,
        size(WhySize::NoRoom),
    );
    check(
        &mut writer,
        Room::Reserve,
        Capture::Digest,
        size(WhySize::NoRoom),
    );
    let before = writer.out.len();
    writer.put(1, Body::Intent(facts(1, &[b'x'; 300], Capture::Full)));
    assert!(writer.out.len() - before > 512, "padded and sealed");
    assert!(matches!(
        last(&writer.out).payload(),
        Payload::Sealed { bucket: 512, .. }
    ));
    writer.put(1, Body::Intent(facts(1, &[b'x'; 300], Capture::Digest)));
    assert!(matches!(
        last(&writer.out).payload(),
        Payload::Digest { bucket: 512, .. }
    ));
    writer.put(1, Body::Intent(facts(1, b"", Capture::Full)));
    assert_eq!(*last(&writer.out).payload(), Payload::Empty);
}

#[test]
fn equal_payloads_look_different_and_sizes_fall_into_buckets() {
    let (_, doc) = key();
    let mut writer = Writer::new(&[doc]);
    let mut seen = std::collections::BTreeSet::new();
    for call in 0..8 {
        writer.put(1, Body::Intent(facts(call, b"same", Capture::Full)));
        writer.put(1, outcome(call, b"same", Capture::Digest));
    }
    for record in all(&writer.out) {
        match record.payload() {
            Payload::Sealed {
                bytes, commitment, ..
            } => {
                assert_eq!(bytes.unwrap().len(), 256 + 16);
                assert!(seen.insert(bytes.unwrap()[..32].to_vec()));
                assert!(seen.insert(commitment.to_vec()));
            }
            Payload::Digest { digest, .. } => assert!(seen.insert(digest.0.to_vec())),
            Payload::Empty => {}
            Payload::Size { .. } => panic!("a key is valid"),
        }
    }
    assert_eq!(seen.len(), 24);

    let sizes = [
        0,
        252,
        253,
        1020,
        1021,
        4092,
        4093,
        10_000,
        1 << 20,
        16 << 20,
    ]
    .map(bucket);
    assert_eq!(
        sizes,
        [
            256,
            256,
            512,
            1024,
            2048,
            4096,
            4352,
            10_240,
            (1 << 20) + (32 << 10),
            (16 << 20) + (512 << 10)
        ]
    );
    arbtest::arbtest(|u| {
        let len = u.int_in_range(0..=16 << 20)?;
        let bucket = bucket(len);
        assert!(bucket >= len + 4 && bucket <= frame::BLOB_BYTES - 16);
        assert!(len <= 4096 || bucket <= (len + 4) + (len + 4) / 8);
        assert_eq!(seal::bucket(bucket - 4), bucket, "the largest of its class");
        Ok(())
    });
}

#[test]
fn a_segment_reads_alone_and_has_its_own_key() {
    let (private, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(1, Body::Intent(facts(1, b"one", Capture::Full)));
    let first = writer.out.len();
    let head = writer.encoder.hash();
    writer.encoder.rotate();
    writer.put(2, Body::Intent(facts(2, b"two", Capture::Full)));
    let second = &writer.out[first..];
    let header = segment(second);
    assert_eq!(
        (header.prev_hash, header.first_seq),
        (head, all(&writer.out[..first]).len() as u64 + 1)
    );
    verify_chain(head, second).unwrap();
    let mut table = ContextTable::new(header.stream);
    let records = all(second);
    records.iter().for_each(|record| table.observe(record));
    assert_eq!(json(&last(second), &table)["tool"], "files/read_file");
    let keys = DataKey::open(&header, &private).unwrap();
    let two = last(second);
    let opened = keys.unseal(&two, table.clear(&two)).unwrap();
    assert_eq!(opened.content.0, "two");
    let old = last(&writer.out[..first]);
    let error = keys.unseal(&old, clear(&writer.out, &old)).unwrap_err();
    assert_eq!(error, UnsealError::WrongSegment);
}

#[test]
fn after_a_rewind_contexts_come_again_and_no_key_is_used_twice() {
    let (_, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(
        1,
        Body::Counted {
            code: "parse",
            count: 1,
        },
    );
    let (seq, hash, len) = (
        writer.encoder.seq(),
        writer.encoder.hash(),
        writer.out.len(),
    );
    writer.put(2, Body::Intent(facts(1, b"lost", Capture::Full)));
    let lost = writer.out.split_off(len);
    writer.encoder.rewind(seq, hash);
    writer.put(3, Body::Intent(facts(1, b"kept", Capture::Full)));
    verify_chain(GENESIS, &writer.out).unwrap();
    assert_eq!(all(&writer.out).len(), 3 + 6 + 1);
    let sealed = |bytes: &[u8]| {
        let record = last(bytes);
        let Payload::Sealed {
            nonce, commitment, ..
        } = record.payload()
        else {
            panic!("{record:?}")
        };
        (*nonce, *commitment)
    };
    assert_eq!(
        last(&lost).seq,
        last(&writer.out).seq,
        "the number is used again"
    );
    assert_ne!(sealed(&lost), sealed(&writer.out), "the key is not");

    // a segment whose beginning was lost begins again, with another key
    let mut writer = Writer::new(&[key().1]);
    writer.put(1, Body::Intent(facts(1, b"lost", Capture::Full)));
    let lost = std::mem::take(&mut writer.out);
    writer.encoder.rewind(0, GENESIS);
    writer.put(1, Body::Intent(facts(1, b"lost", Capture::Full)));
    verify_chain(GENESIS, &writer.out).unwrap();
    assert_ne!(segment(&lost).wrapped, segment(&writer.out).wrapped);
    assert_ne!(sealed(&lost).1, sealed(&writer.out).1);
}

#[test]
fn a_blob_can_be_taken_away_and_the_chain_still_holds() {
    let (private, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(1, Body::Intent(facts(1, CANARY.as_bytes(), Capture::Full)));
    writer.put(2, outcome(1, b"", Capture::Full));
    let mut stripped = Vec::new();
    for frame in frames(&writer.out) {
        frame.unwrap().detach(&mut stripped);
    }
    assert!(stripped.len() + 256 < writer.out.len());
    assert_eq!(
        verify_chain(GENESIS, &stripped),
        verify_chain(GENESIS, &writer.out)
    );
    let header = segment(&stripped);
    assert!(header.detached);
    assert_eq!(
        DataKey::open(&header, &private).unwrap_err(),
        UnsealError::Gone
    );
    let keys = DataKey::open(&segment(&writer.out), &private).unwrap();
    let records = all(&stripped);
    assert_eq!(
        keys.unseal(&records[records.len() - 2], None).unwrap_err(),
        UnsealError::Gone
    );
    // and the digest that stands in its place is the chain's
    let intent = frames(&stripped).nth(8).unwrap().unwrap();
    let Blob::Detached(_) = intent.blob else {
        panic!()
    };
    let forged = Frame {
        blob: Blob::Detached(Digest::of(b"other")),
        ..intent
    };
    assert_ne!(
        forged.chain(&frames(&stripped).nth(7).unwrap().unwrap().hash),
        intent.hash
    );
}

#[test]
fn the_chain_shows_what_was_changed_left_out_put_in_or_moved() {
    let mut writer = Writer::new(&[]);
    for count in 1..6 {
        writer.put(
            count,
            Body::Counted {
                code: "parse",
                count,
            },
        );
    }
    let records: Vec<Vec<u8>> = frames(&writer.out)
        .map(|frame| frame.unwrap().bytes.to_vec())
        .collect();
    let check = |order: &[usize]| {
        let bytes: Vec<u8> = order
            .iter()
            .flat_map(|index| records[*index].clone())
            .collect();
        verify_chain(GENESIS, &bytes)
    };
    assert_eq!(check(&[0, 1, 2, 3, 4, 5, 6]).unwrap().last_seq, 7);
    assert_eq!(
        check(&[0, 1, 2]).unwrap().last_seq,
        3,
        "the end alone is not shown by a chain"
    );
    let gap = check(&[0, 1, 2, 4]).unwrap_err();
    assert!(
        matches!(
            gap,
            ChainError::Seq {
                seq: 5,
                expected: 4,
                ..
            }
        ),
        "{gap}"
    );
    assert!(matches!(
        check(&[0, 1, 1]).unwrap_err(),
        ChainError::Seq { .. }
    ));
    assert!(matches!(
        check(&[0, 2, 1]).unwrap_err(),
        ChainError::Seq { .. }
    ));
    assert!(matches!(
        check(&[1, 2]).unwrap_err(),
        ChainError::Hash { seq: 2, .. }
    ));
    assert_eq!(verify_chain(GENESIS, b"").unwrap_err(), ChainError::Empty);
    // another stream's record with the right number
    let mut other = Writer::new(&[]);
    let stream = StreamId::new(5, &[5; 10]);
    other.encoder = Encoder::open(StreamHeader { stream, ..header() }, &[]);
    other.put(
        1,
        Body::Counted {
            code: "parse",
            count: 1,
        },
    );
    let foreign = frames(&other.out).nth(1).unwrap().unwrap().bytes.to_vec();
    let bytes = [&records[0][..], &foreign].concat();
    assert!(matches!(
        verify_chain(GENESIS, &bytes),
        Err(ChainError::Hash { seq: 2, .. })
    ));
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed_and_nothing_before_it_is_lost() {
    let (_, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(1, Body::Intent(facts(1, CANARY.as_bytes(), Capture::Full)));
    writer.put(2, outcome(1, b"result", Capture::Digest));
    writer.put(
        3,
        Body::Counted {
            code: "parse",
            count: 3,
        },
    );
    let bytes = writer.out;
    let ends: Vec<usize> = frames(&bytes)
        .map(|frame| frame.unwrap())
        .map(|frame| frame.offset + frame.bytes.len())
        .collect();
    let whole = |upto: usize| ends.iter().filter(|end| **end <= upto).count();
    for cut in 0..bytes.len() {
        let read: Vec<_> = frames(&bytes[..cut]).collect();
        assert_eq!(
            read.iter().filter(|frame| frame.is_ok()).count(),
            whole(cut)
        );
        let at_end = cut == 0 || ends.contains(&cut);
        assert_eq!(read.last().is_some_and(Result::is_err), !at_end);
        if let Some(Err(error)) = read.last() {
            let offset = ends[..whole(cut)].last().copied().unwrap_or(0);
            assert_eq!(*error, FrameError::Cut { offset });
        }
    }
    let mut changed = bytes.clone();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            changed[at] ^= bit;
            let read = frames(&changed).take_while(Result::is_ok).count();
            assert_eq!(read, whole(at), "byte {at}");
            assert!(verify_chain(GENESIS, &changed).is_err());
            fuzz_frames(&changed);
            changed[at] ^= bit;
        }
    }
}

#[test]
fn any_bytes_are_read_without_harm() {
    let (_, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(1, Body::Intent(facts(1, CANARY.as_bytes(), Capture::Full)));
    writer.put(2, outcome(1, b"result", Capture::Digest));
    let good = writer.out;
    arbtest::arbtest(|u| {
        // frames whose checksum holds and whose inside is anything
        let mut bytes = Vec::new();
        let mut prev = GENESIS;
        for seq in 1..u.int_in_range(2..=6)? {
            let kind = u.int_in_range(0..=12)?;
            let mut meta: Vec<u8> = u.arbitrary()?;
            if u.arbitrary()?
                && let Some(frame) = frames(&good).nth(u.int_in_range(0..=9)?)
            {
                meta = frame.unwrap().meta.to_vec();
                for _ in 0..u.int_in_range(0..=3)? {
                    let at = u.choose_index(meta.len())?;
                    meta[at] = u.arbitrary()?;
                }
            }
            let mut blob = |out: &mut Vec<u8>| out.extend_from_slice(&[4, 1, 2, 3]);
            let blob: Option<frame::PutBlob<'_>> = if u.arbitrary()? {
                Some(&mut blob)
            } else {
                None
            };
            prev = frame::append(&mut bytes, &prev, kind, seq, &meta, blob);
        }
        fuzz_frames(&bytes);
        assert!(verify_chain(GENESIS, &bytes).is_ok());
        fuzz_frames(u.bytes(u.len())?);
        Ok(())
    });
}

#[test]
fn a_newer_version_and_an_unknown_kind_are_told_apart() {
    let mut bytes = Vec::new();
    frame::append(&mut bytes, &GENESIS, 200, 1, &[1, 2, 3, 4], None);
    assert_eq!(last(&bytes).said, Said::Unknown { kind: 200 });
    bytes[2] = 2;
    let error = frames(&bytes).next().unwrap().unwrap_err();
    assert_eq!(
        error,
        FrameError::Version {
            offset: 0,
            version: 2
        }
    );
    // bytes after the known fields are a newer writer's
    let mut bytes = Vec::new();
    frame::append(
        &mut bytes,
        &GENESIS,
        kind::LOSS,
        1,
        &[1, 1, 2, b'i', b'o', 7, 99, 99],
        None,
    );
    assert_eq!(
        last(&bytes).said,
        Said::Loss {
            count: 7,
            code: "io"
        }
    );
}

#[test]
fn the_view_names_who_did_what_and_how_it_ended() {
    let (_, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(
        1_000_000,
        Body::Intent(facts(7, CANARY.as_bytes(), Capture::Full)),
    );
    writer.put(1_250_000, outcome(7, b"{}", Capture::None));
    let mut table = ContextTable::new(header().stream);
    let mut views = Vec::new();
    for record in all(&writer.out) {
        table.observe(&record);
        views.push(json(&record, &table));
    }
    let text: Vec<String> = views[views.len() - 2..]
        .iter()
        .map(|view| format!("{view:#}"))
        .collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    {
      "agent": "nightly-report",
      "args_bucket": 256,
      "args_kept": "sealed",
      "call": 7,
      "class": "disk",
      "client": "claude-code",
      "client_session_id": "0a6a5d3e-1b1f-4c11-9a8e-2f6f2b7b9f00",
      "client_version": "2.1.4",
      "decision": "allow",
      "definition": "4c4ed1afbfdaa1e4c3bf7bbb82d730cecb7e384da91eea4f3cc093fd545524d6",
      "event": "01a1ee56-5e00-7707-8707-070707070707/9",
      "exposed": "files_read_file",
      "fail_mode": "closed",
      "freshness": "grace",
      "leg": 0,
      "mono_us": 1000000,
      "phase": "intent",
      "protocol": "2026-07-28",
      "registry_digest": "26cafb94003a654827f52047a9368c0821f01f4512828a68f7bd4b44e6a0afcf",
      "registry_version": 0,
      "role": "reader",
      "rule": "eng/files#1",
      "rule_source": "roles/eng.yaml:14",
      "server": "files",
      "server_id": "files",
      "server_protocol": "2025-11-25",
      "target": "tool",
      "time": "2026-11-18T11:06:41.000000Z",
      "tool": "files/read_file",
      "tool_use_id": "toolu_01A09q90qw90lq917835lq9",
      "trace_id": "0af7651916cd43dd8448eb211c80319c",
      "transport": "stdio"
    }
    {
      "agent": "nightly-report",
      "call": 7,
      "client": "claude-code",
      "client_session_id": "0a6a5d3e-1b1f-4c11-9a8e-2f6f2b7b9f00",
      "client_version": "2.1.4",
      "decision": "allow",
      "definition": "4c4ed1afbfdaa1e4c3bf7bbb82d730cecb7e384da91eea4f3cc093fd545524d6",
      "end": "ok",
      "event": "01a1ee56-5e00-7707-8707-070707070707/10",
      "exposed": "files_read_file",
      "freshness": "grace",
      "leg": 0,
      "mono_us": 1250000,
      "phase": "outcome",
      "protocol": "2026-07-28",
      "registry_digest": "26cafb94003a654827f52047a9368c0821f01f4512828a68f7bd4b44e6a0afcf",
      "registry_version": 0,
      "result_bucket": 256,
      "result_kept": "size",
      "role": "reader",
      "rule": "eng/files#1",
      "rule_source": "roles/eng.yaml:14",
      "server": "files",
      "server_id": "files",
      "server_protocol": "2025-11-25",
      "target": "tool",
      "time": "2026-11-18T11:06:41.250000Z",
      "took_us": 1234,
      "tool": "files/read_file",
      "transport": "stdio"
    }
    "#);
}

#[test]
fn the_private_key_survives_its_text_form_and_never_prints() {
    let (private, doc) = key();
    let text = private.to_text();
    let read = PrivateKey::from_text(text.expose()).unwrap();
    assert_eq!(read.id(), &doc.id);
    assert!(!format!("{read:?}").contains("mcpshim-audit-private"));
    for bad in [
        "",
        "mcpshim-audit-private-1:",
        "mcpshim-audit-private-2:AAAA",
        "AAAA",
    ] {
        assert_eq!(
            PrivateKey::from_text(bad.as_bytes()).unwrap_err(),
            UnsealError::BadKey
        );
    }
}

/// The stream of `tests/data/record`: every kind a writer writes, two segments, the second one
/// sealed to nobody.
fn vector() -> Vec<u8> {
    let (_, doc) = key();
    let mut writer = Writer::new(std::slice::from_ref(&doc));
    writer.put(
        1,
        Body::Counted {
            code: "duplicate-key",
            count: 2,
        },
    );
    writer.put(
        2,
        Body::Denial {
            facts: facts(1, b"{\"path\":\"/etc\"}", Capture::Full),
            code: "not-granted",
        },
    );
    writer.put(
        3,
        Body::Intent(facts(2, b"{\"path\":\"a.txt\"}", Capture::Full)),
    );
    writer.put(
        4,
        Body::Link {
            server: ContextId(5),
            code: "ready",
            detail: "2025-11-25".to_owned(),
        },
    );
    writer.put(5, outcome(2, b"{\"content\":[]}", Capture::Digest));
    writer.encoder.rotate();
    writer.encoder.set_audit_keys(&[]);
    writer.put(
        6,
        Body::Loss {
            count: 3,
            code: "disk-full",
        },
    );
    let mut last = facts(3, b"{\"path\":\"b.txt\"}", Capture::Full);
    last.registry = None;
    last.correlation.call_id = Some("call_9".to_owned());
    last.correlation.session_id = Some("0197f3a2".to_owned());
    writer.put(7, Body::Intent(last));
    for (call, end) in (3..).zip([
        End::Cancelled,
        End::Error(-32_602),
        End::NotSent,
        End::Timeout,
        End::ToolError,
        End::Unknown,
    ]) {
        let mut body = outcome(call, b"", Capture::None);
        if let Body::Outcome { end: slot, .. } = &mut body {
            *slot = end;
        }
        writer.put(8, body);
    }
    // a server that was given a credential
    let credential = Context::Credential {
        id: CredentialId::parse("files-token").unwrap(),
        store: "keychain".to_owned(),
        serial: 3,
        owner: None,
    };
    writer.put(9, Body::Context(ContextId(7), Arc::new(credential)));
    let mut given = facts(9, b"", Capture::None);
    given.credential = Some(ContextId(7));
    writer.put(9, Body::Intent(given));
    writer.put(10, outcome(9, b"", Capture::None));
    writer
        .encoder
        .end(&at(11), &mut writer.entropy, &mut writer.out);
    writer.out
}

#[test]
fn a_credential_says_whose_it_is_and_an_older_record_does_not() {
    for owner in [
        None,
        Some(Digest::of(b"person\0https://login.example\0ann")),
    ] {
        let mut writer = Writer::new(&[]);
        let credential = Context::Credential {
            id: CredentialId::parse("files-token").unwrap(),
            store: "keychain".to_owned(),
            serial: 3,
            owner,
        };
        writer.put(9, Body::Context(ContextId(7), Arc::new(credential)));
        let mut given = facts(9, b"", Capture::None);
        given.credential = Some(ContextId(7));
        writer.put(9, Body::Intent(given));
        let lines = jsonl(&writer.out);
        let said = owner.map(|owner| format!(r#""credential_owner":"{owner}""#));
        let said = said.unwrap_or_else(|| r#""credential_serial":3"#.to_owned());
        assert!(lines.contains(&said), "{lines}");
        assert_eq!(lines.contains("credential_owner"), owner.is_some());
    }
}

fn jsonl(bytes: &[u8]) -> String {
    let mut table = ContextTable::new(header().stream);
    let mut lines = String::new();
    for record in all(bytes) {
        table.observe(&record);
        lines.push_str(&json(&record, &table).to_string());
        lines.push('\n');
    }
    lines
}

/// What opens of a published stream, and whether its digest is that of the result.
fn check_vector(stream: &[u8], view: &str, last_hash: &str) {
    let tail = verify_chain(GENESIS, stream).unwrap();
    assert_eq!(jsonl(stream), view);
    assert_eq!(format!("{}\n", tail.last_hash), last_hash);
    let private = include_bytes!("../../tests/data/record/v1.private");
    let private = PrivateKey::from_text(private).unwrap();
    let records = all(stream);
    let Said::Segment(segment) = records[0].said.clone() else {
        panic!()
    };
    let keys = DataKey::open(&segment, &private).unwrap();
    let open = |record: &Decoded<'_>| keys.unseal(record, clear(stream, record)).ok();
    let opened: Vec<_> = records
        .iter()
        .filter_map(|record| Some((record.seq, open(record)?.content.0)))
        .collect();
    assert_eq!(
        opened,
        [
            (10, "{\"path\":\"/etc\"}".into()),
            (11, "{\"path\":\"a.txt\"}".into())
        ]
    );
    let digested = &records[12];
    let matches = keys.matches(digested, clear(stream, digested), b"{\"content\":[]}");
    assert_eq!(matches, Some(true));
}

#[test]
fn the_published_vectors_are_read_and_written_as_they_stand() {
    let stream = include_bytes!("../../tests/data/record/v2.stream");
    check_vector(
        stream,
        include_str!("../../tests/data/record/v2.jsonl"),
        include_str!("../../tests/data/record/v2.last-hash"),
    );
    // a writer of this version still writes these bytes
    assert!(vector() == stream[..]);
}

/// Payloads of writers before were bound to their place only.
#[test]
fn the_vectors_of_version_1_are_still_read() {
    check_vector(
        include_bytes!("../../tests/data/record/v1.stream"),
        include_str!("../../tests/data/record/v1.jsonl"),
        include_str!("../../tests/data/record/v1.last-hash"),
    );
}

#[test]
fn table_holds_no_more_than_its_bound_of_a_forged_stream() {
    let mut table = ContextTable::new(StreamId([1; 16]));
    let role = "r".repeat(1000);
    let forged = |number: u32| Decoded {
        seq: u64::from(number),
        at: Now::default(),
        said: Said::Context {
            id: ContextId(number),
            context: Box::new(Context::Rule {
                id: role.repeat(60),
                source: String::new(),
                role: String::new(),
            }),
        },
        clear: decode::Clear::default(),
    };
    for number in 1..=2000 {
        table.observe(&forged(number));
        // said again, it takes no more
        table.observe(&forged(number));
    }
    let held = (1..=2000).filter(|number| table.context(ContextId(*number)).is_some());
    let held = held.count();
    assert!((400..700).contains(&held), "{held}");
}
