//! Payloads open in the clear part they were sealed in, and in no other: whoever can write a
//! stream and its chain anew gains nothing by it.

use super::super::decode::Ending;
use super::*;

/// Writes a stream anew, chain and all: `change` may change the meta part of each record.
fn rewritten(bytes: &[u8], change: impl Fn(&Frame<'_>, &mut Vec<u8>)) -> Vec<u8> {
    let (mut out, mut hash) = (Vec::new(), GENESIS);
    for frame in frames(bytes) {
        let frame = frame.unwrap();
        let mut meta = frame.meta.to_vec();
        change(&frame, &mut meta);
        let Blob::Present(blob) = frame.blob else {
            hash = frame::append(&mut out, &hash, frame.kind, frame.seq, &meta, None);
            continue;
        };
        let mut put = |out: &mut Vec<u8>| out.extend_from_slice(blob);
        let put: frame::PutBlob<'_> = &mut put;
        hash = frame::append(&mut out, &hash, frame.kind, frame.seq, &meta, Some(put));
    }
    verify_chain(GENESIS, &out).unwrap();
    out
}

fn replaced(meta: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    if let Some(at) = memchr::memmem::find(meta, from.as_bytes()) {
        meta[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
}

/// A call whose arguments and result are sealed, and one of which digests are kept.
fn calls() -> (PrivateKey, Vec<u8>) {
    let (private, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(1, Body::Intent(facts(1, b"arguments", Capture::Full)));
    writer.put(2, outcome(1, b"result", Capture::Full));
    writer.put(3, Body::Intent(facts(2, b"arguments", Capture::Digest)));
    writer.put(4, outcome(2, b"result", Capture::Digest));
    (private, writer.out)
}

/// What each payload of a stream comes to: arguments, result, and the two digests.
fn opened(private: &PrivateKey, bytes: &[u8]) -> Vec<Result<String, UnsealError>> {
    let mut table = ContextTable::new(header().stream);
    let keys = DataKey::open(&segment(bytes), private).unwrap();
    let mut opened = Vec::new();
    for record in all(bytes) {
        table.observe(&record);
        let clear = table.clear(&record);
        match record.payload() {
            Payload::Sealed { .. } => opened.push(
                keys.unseal(&record, clear)
                    .map(|unsealed| String::from_utf8(unsealed.content.0.to_vec()).unwrap()),
            ),
            Payload::Digest { .. } => {
                let content: &[u8] = if matches!(record.said, Said::Outcome { .. }) {
                    b"result"
                } else {
                    b"arguments"
                };
                let same = keys.matches(&record, clear, content).unwrap();
                opened.push(if same {
                    Ok("digest".to_owned())
                } else {
                    Err(UnsealError::Changed)
                });
            }
            Payload::Empty | Payload::Size { .. } => {}
        }
    }
    opened
}

#[test]
fn payloads_under_another_tools_name_do_not_open_nor_do_their_results() {
    let (private, bytes) = calls();
    let good = |text: &str| Ok(text.to_owned());
    let all_open = [
        good("arguments"),
        good("result"),
        good("digest"),
        good("digest"),
    ];
    // a control: the same stream, written anew as it stands
    assert_eq!(opened(&private, &rewritten(&bytes, |_, _| {})), all_open);
    let changes: [(&str, u8, &str, &str); 6] = [
        ("tool", kind::CONTEXT, "read_file", "drop_file"),
        (
            "server",
            kind::CONTEXT,
            "\u{5}files\u{5}files",
            "\u{5}other\u{5}files",
        ),
        ("caller", kind::CONTEXT, "nightly-report", "another-person"),
        ("rule", kind::CONTEXT, "eng/files#1", "eng/other#1"),
        ("client", kind::CONTEXT, "claude-code", "codex-mcp-a"),
        ("the client's id", kind::INTENT, "toolu_01A0", "toolu_09Z9"),
    ];
    for (what, kind, from, to) in changes {
        let forged = rewritten(&bytes, |frame, meta| {
            if frame.kind == kind {
                replaced(meta, from, to);
            }
        });
        assert_ne!(forged, bytes, "{what}");
        let opened = opened(&private, &forged);
        let closed = opened.iter().all(|one| *one == Err(UnsealError::Changed));
        assert!(closed && opened.len() == 4, "{what}: {opened:?}");
    }
}

#[test]
fn a_result_does_not_open_as_that_of_another_call_or_end() {
    let (private, bytes) = calls();
    // `end` is the fourth number of an outcome that begins with two times, call and leg
    let forged = rewritten(&bytes, |frame, meta| {
        if frame.kind == kind::OUTCOME {
            let ok = meta.iter().rposition(|_| true).map(|_| {
                let mut reader = code::Reader::new(meta);
                for _ in 0..4 {
                    reader.number().unwrap();
                }
                reader.at(meta)
            });
            meta[ok.unwrap()] = 2;
        }
    });
    let opened = opened(&private, &forged);
    assert_eq!(opened[0], Ok("arguments".to_owned()));
    assert_eq!(
        opened[1],
        Err(UnsealError::Changed),
        "an error that was none"
    );
    assert_eq!(opened[2], Ok("digest".to_owned()));
    assert_eq!(opened[3], Err(UnsealError::Changed));
}

#[test]
fn a_bound_payload_is_not_taken_for_one_of_version_1() {
    let (private, bytes) = calls();
    let forged = rewritten(&bytes, |frame, meta| {
        let record = decode(frame).unwrap();
        let (Payload::Sealed { .. } | Payload::Digest { .. }) = record.payload() else {
            return;
        };
        // bucket (256, two bytes) and nonce (one) stand between the form and its 32 bytes
        let form = record.clear.hole.unwrap() - 4;
        assert!(matches!(meta[form], 4 | 5));
        meta[form] -= 2;
    });
    let opened = opened(&private, &forged);
    assert_eq!(opened.len(), 4);
    assert!(opened.iter().all(Result::is_err), "{opened:?}");
}

#[test]
fn a_result_opens_by_itself_where_its_call_was_not_recorded() {
    let (private, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(1, outcome(7, b"result", Capture::Full));
    assert_eq!(opened(&private, &writer.out), [Ok("result".to_owned())]);
    // and not as that of a call that was
    let mut writer = Writer::new(&[key().1]);
    writer.put(1, Body::Intent(facts(7, b"", Capture::Full)));
    let kept = (
        writer.encoder.seq(),
        writer.encoder.hash(),
        writer.out.len(),
    );
    writer.put(2, Body::Intent(facts(8, b"", Capture::Full)));
    // what a failed write took back was not recorded either
    writer.encoder.rewind(kept.0, kept.1);
    writer.out.truncate(kept.2);
    writer.put(3, outcome(8, b"eight", Capture::Full));
    writer.put(4, outcome(7, b"seven", Capture::Full));
    let both = ["eight", "seven"].map(|text| Ok(text.to_owned()));
    assert_eq!(opened(&private, &writer.out), both);
}

#[test]
fn an_outcome_that_a_failed_write_took_back_is_bound_when_it_comes_again() {
    let (private, doc) = key();
    let mut writer = Writer::new(&[doc]);
    writer.put(1, Body::Intent(facts(1, b"arguments", Capture::Full)));
    writer.encoder.settle();
    let kept = (
        writer.encoder.seq(),
        writer.encoder.hash(),
        writer.out.len(),
    );
    writer.put(2, outcome(1, b"result", Capture::Full));
    writer.encoder.rewind(kept.0, kept.1);
    writer.out.truncate(kept.2);
    writer.put(3, outcome(1, b"result", Capture::Full));
    writer.encoder.settle();
    let record = last(&writer.out);
    let Payload::Sealed { bound, .. } = record.payload() else {
        panic!()
    };
    assert_eq!(*bound, decode::Bound::Clear);
    let both = ["arguments", "result"].map(|text| Ok(text.to_owned()));
    assert_eq!(opened(&private, &writer.out), both);
}

#[test]
fn a_call_that_ends_in_another_stream_is_bound_to_what_is_said_of_it_there() {
    let (private, doc) = key();
    let mut first = Writer::new(std::slice::from_ref(&doc));
    first.put(1, Body::Intent(facts(1, b"arguments", Capture::Full)));
    let intent = (header().stream, first.encoder.seq());
    // the same stream id, so that one table and key do for the test
    let mut second = Writer {
        encoder: first.encoder.follow(header()),
        entropy: CountingEntropy(7),
        out: Vec::new(),
    };
    second.put(2, outcome(1, b"result", Capture::Full));
    second.put(3, Body::Intent(facts(2, b"", Capture::Full)));
    second
        .encoder
        .end(&at(4), &mut second.entropy, &mut second.out);
    let records = all(&second.out);
    let carried = records.iter().find_map(|record| {
        let Said::Carried { stream, seq, call } = &record.said else {
            return None;
        };
        Some(((*stream, *seq), call.call))
    });
    assert_eq!(carried, Some((intent, CallId(1))));
    let ended = matches!(
        records.last().unwrap().said,
        Said::End {
            how: Ending::Closed,
            ..
        }
    );
    assert!(ended);
    assert_eq!(opened(&private, &second.out), [Ok("result".to_owned())]);
    let lines = jsonl(&second.out);
    let outcome = lines
        .lines()
        .find(|line| line.contains("\"outcome\""))
        .unwrap();
    assert!(
        outcome.contains("\"tool\":\"files/read_file\""),
        "{outcome}"
    );
    let forged = rewritten(&second.out, |frame, meta| {
        if frame.kind == kind::CARRIED {
            replaced(meta, "toolu_01A0", "toolu_09Z9");
        }
    });
    assert_eq!(opened(&private, &forged), [Err(UnsealError::Changed)]);
}
