//! Records too large for what lies between: they arrive without their sealed part, and it follows.

use std::sync::Arc;

use super::against_the_store::registry;
use super::*;
use crate::audit::entry::{CallFacts, CallerContext, Context, ContextId, Correlation, End};
use crate::audit::{PrivateKey, generate_audit_key};
use crate::collector::query::{self, Filter};
use crate::collector::store::{Answer, Store, Who};
use crate::collector::{scan, verify};
use crate::ids::CallId;
use crate::registry::doc::{AuditRule, Capture};
use crate::secret::Content;
use crate::spool::memory::MemoryDisk;
use crate::spool::{Backlog, Disk as _, Slice, Spool};

const DIR: &str = "/state/spool";
const LARGE: usize = 300_000;

/// The device: a spool with sealed calls, of which the second has large arguments and the third a
/// large result.
struct Device {
    disk: MemoryDisk,
    private: PrivateKey,
}

impl Device {
    fn new() -> Self {
        let disk = MemoryDisk::default();
        disk.make_dir(Path::new("/state")).unwrap();
        let (private, doc) = generate_audit_key(&mut CountingEntropy(5), 0, u64::MAX).unwrap();
        let describe = |stream, now: &Now| StreamHeader {
            stream,
            org: org(),
            machine_id: "m".to_owned(),
            installation: key().id(),
            pid: 1,
            version: "0".to_owned(),
            started: *now,
            registry: None,
            others: 0,
            previous: Vec::new(),
        };
        let entropy = Box::new(CountingEntropy(7));
        let own = Box::new(disk.clone());
        let mut spool = Spool::new(DIR.into(), own, Box::new(describe), &[doc], entropy);
        let at = FixedClock::at(UNIX_S).now();
        let nobody = Context::Caller(CallerContext::Nobody);
        let mut entries = vec![Body::Context(ContextId(1), Arc::new(nobody))];
        for call in 1..=6 {
            entries.push(intent(call, if call == 2 { LARGE } else { 20 }));
            entries.push(outcome(call, if call == 3 { LARGE } else { 20 }));
        }
        for body in entries {
            spool.append(&[Entry { at, body }], &at).unwrap();
        }
        spool.close(&at).unwrap();
        Self { disk, private }
    }

    fn backlog(&self) -> Spooled {
        Spooled(Backlog::on(DIR.into(), Box::new(self.disk.clone())))
    }
}

fn audit() -> AuditRule {
    AuditRule {
        arguments: Capture::Full,
        results: Capture::Full,
        ..AuditRule::default()
    }
}

fn text(what: &str, call: u64, bytes: usize) -> String {
    format!("{what} {call} {}", "x".repeat(bytes))
}

fn intent(call: u64, bytes: usize) -> Body {
    let context = ContextId(1);
    Body::Intent(CallFacts {
        call: CallId(call),
        leg: 0,
        caller: context,
        client: context,
        target: context,
        registry: None,
        rule: context,
        credential: None,
        correlation: Correlation::default(),
        content: Content(text("arguments", call, bytes).into()),
        audit: audit(),
    })
}

fn outcome(call: u64, bytes: usize) -> Body {
    Body::Outcome {
        call: CallId(call),
        leg: 0,
        end: End::Ok,
        took_us: 1,
        content: Content(text("result", call, bytes).into()),
        audit: audit(),
    }
}

/// As the program has it.
struct Spooled(Backlog);

fn taken(slice: Slice) -> Frames {
    Frames {
        first_seq: slice.first_seq,
        last_seq: slice.last_seq,
        prev_hash: slice.prev_hash,
        last_hash: slice.last_hash,
        bytes: slice.frames,
    }
}

impl Records for Spooled {
    fn streams(&mut self) -> io::Result<Vec<Waiting>> {
        let states = self.0.streams()?.into_iter();
        let waiting = states.map(|state| Waiting {
            stream: state.id,
            next_unacked: state.next_unacked,
            last_seq: state.last_seq,
            live: state.live,
        });
        Ok(waiting.collect())
    }

    fn read(
        &mut self,
        stream: StreamId,
        from_seq: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> io::Result<Option<Frames>> {
        let slice = self.0.read(stream, from_seq, max_records, max_bytes)?;
        Ok(slice.map(taken))
    }

    fn ack(&mut self, stream: StreamId, upto_seq: u64) -> io::Result<()> {
        self.0.ack(stream, upto_seq)
    }

    fn bodies(&mut self) -> io::Result<Vec<Kept>> {
        let bodies = self.0.bodies()?.into_iter();
        let kept = bodies.map(|body| Kept {
            bytes: body.bytes,
            stream: body.stream,
            seq: body.seq,
        });
        Ok(kept.collect())
    }

    fn keep_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()> {
        self.0.keep_body(stream, seq)
    }

    fn body(&mut self, stream: StreamId, seq: u64) -> io::Result<Option<Frames>> {
        Ok(self.0.body(stream, seq)?.map(taken))
    }

    fn drop_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()> {
        self.0.drop_body(stream, seq)
    }

    fn tidy(&mut self, now: &Now) -> io::Result<()> {
        self.0.adopt(now)?;
        self.0.collect(now).map(drop)
    }
}

/// A collector behind something that takes no more than so many bytes at once.
struct Narrow {
    root: tempfile::TempDir,
    limit: usize,
    /// It cuts the connection instead of an answer.
    cuts: bool,
    refused: usize,
    posted: Vec<Kind>,
}

impl Narrow {
    fn new(limit: usize) -> Self {
        let root = tempfile::tempdir().unwrap();
        let who = Who::Person {
            issuer: "https://idp.example".to_owned(),
            subject: "u1".to_owned(),
            display: "Ada".to_owned(),
        };
        let store = Store::open(root.path(), &org()).unwrap();
        store
            .bind(&key().public(), "laptop", who, &Now::default())
            .unwrap();
        Self {
            root,
            limit,
            cuts: false,
            refused: 0,
            posted: Vec::new(),
        }
    }

    fn device(&self) -> scan::Device {
        let devices = scan::scan(self.root.path(), scan::Only::default(), &mut |_| {}).unwrap();
        devices.into_iter().next().unwrap()
    }

    /// What is wrong with what is stored.
    fn findings(&self) -> Vec<verify::Finding> {
        verify::check(self.root.path()).unwrap().findings
    }

    /// What opens, and how the payloads that do not are said to be kept.
    fn opened(&self, private: &PrivateKey) -> (Vec<String>, Vec<String>) {
        let filter = Filter::default();
        let now = FixedClock::at(UNIX_S).now();
        let (sealed, _) = query::sealed(self.root.path(), &filter, &now).unwrap();
        let open = |sealed: &query::Sealed| {
            let view = query::open(sealed, private).unwrap();
            let text = view.get("args").or(view.get("result")).unwrap();
            text.as_str().unwrap().to_owned()
        };
        let carries = |sealed: &&query::Sealed| sealed.frame.is_some();
        let opened = sealed.iter().filter(carries).map(open).collect();
        let answer = query::query(self.root.path(), &filter, &now).unwrap();
        let kept = |view: &serde_json::Value| {
            let kept = view
                .get("args_kept")
                .or(view.get("result_kept"))?
                .as_str()?;
            (kept != "sealed").then(|| kept.to_owned())
        };
        (opened, answer.events.iter().filter_map(kept).collect())
    }

    fn alerts(&self) -> String {
        std::fs::read_to_string(self.root.path().join("log/alerts.jsonl")).unwrap()
    }
}

impl Link for Narrow {
    async fn post(&mut self, path: &str, body: Vec<u8>) -> Reply {
        let header = batch::open(&body).unwrap().header;
        if body.len() > self.limit {
            self.refused += 1;
            return match self.cuts {
                true => Reply::Cut("connection reset".to_owned()),
                false => Reply::Answer {
                    status: 413,
                    retry_after_s: None,
                    body: b"<html>Request Entity Too Large</html>".to_vec(),
                },
            };
        }
        assert!(path.ends_with(&format!("/{}", header.first_seq)));
        self.posted.push(header.kind);
        let store = Store::open(self.root.path(), &org()).unwrap();
        let now = FixedClock::at(UNIX_S).now();
        let answer = store
            .accept(&body, header.stream, header.first_seq, &registry(), &now)
            .unwrap();
        let (status, body) = match answer {
            Answer::Stored(stored) => (200, serde_json::to_vec(&stored).unwrap()),
            Answer::Rewind(rewind) => (409, serde_json::to_vec(&rewind).unwrap()),
            other => panic!("{other:?}"),
        };
        Reply::Answer {
            status,
            retry_after_s: None,
            body,
        }
    }
}

#[test]
fn a_record_too_large_for_the_way_arrives_without_its_payload_which_follows_when_it_fits() {
    for cuts in [false, true] {
        let (device, mut narrow) = (Device::new(), Narrow::new(100_000));
        narrow.cuts = cuts;
        assert_eq!(
            block_on(deliver_from(&mut device.backlog(), &mut narrow)),
            Ended::Done
        );
        let stored = narrow.device();
        assert_eq!((stored.withheld, stored.taken_away), (2, 0));
        assert_eq!(narrow.findings(), []);
        assert!(stored.complete_us.is_some(), "nothing is missing for good");
        let (opened, kept) = narrow.opened(&device.private);
        assert_eq!((opened.len(), kept), (10, vec!["withheld".to_owned(); 2]));
        let alerts = narrow.alerts();
        assert!(
            alerts.contains("\"withheld\"") && !alerts.contains("taken-away"),
            "{alerts}"
        );
        // of the stream nothing is left here but what waits
        let files = device.disk.files();
        assert!(
            !files
                .iter()
                .any(|path| path.extension() == Some("seg".as_ref())),
            "{files:?}"
        );
        assert_eq!(device.backlog().bodies().unwrap().len(), 2);
        let usage = crate::spool::usage(&device.disk, Path::new(DIR)).unwrap();
        assert!(usage > 2 * LARGE as u64, "what waits counts: {usage}");

        // the limit is raised
        narrow.limit = usize::MAX;
        assert_eq!(
            block_on(deliver_from(&mut device.backlog(), &mut narrow)),
            Ended::Done
        );
        assert_eq!(device.backlog().bodies().unwrap(), []);
        let (opened, kept) = narrow.opened(&device.private);
        assert_eq!((opened.len(), kept), (12, Vec::new()));
        assert!(opened.contains(&text("arguments", 2, LARGE)));
        assert!(opened.contains(&text("result", 3, LARGE)));
        let whole = narrow.device();
        assert_eq!(
            (whole.withheld, whole.records),
            (0, stored.records),
            "nothing is doubled"
        );
        assert_eq!(narrow.findings(), []);
    }
}

#[test]
fn what_fits_goes_whole() {
    let (device, mut narrow) = (Device::new(), Narrow::new(usize::MAX));
    block_on(deliver_from(&mut device.backlog(), &mut narrow));
    assert!(narrow.posted.iter().all(|kind| *kind == Kind::Following));
    assert_eq!(narrow.device().withheld, 0);
    assert_eq!(narrow.opened(&device.private).0.len(), 12);
}

#[test]
fn a_payload_that_is_damaged_here_stands_in_nobodys_way() {
    let (device, mut narrow) = (Device::new(), Narrow::new(100_000));
    block_on(deliver_from(&mut device.backlog(), &mut narrow));
    let bodies = device.disk.files().into_iter();
    let body = bodies
        .filter(|path| path.extension() == Some("body".as_ref()))
        .min()
        .unwrap();
    device.disk.tamper(&body, |bytes| bytes[5000] ^= 1);
    narrow.limit = usize::MAX;
    block_on(deliver_from(&mut device.backlog(), &mut narrow));
    assert_eq!(narrow.device().withheld, 1);
    assert_eq!(narrow.opened(&device.private).0.len(), 11);
    assert_eq!(device.backlog().bodies().unwrap(), [], "it is set aside");
    assert_eq!(narrow.findings(), []);
}

#[test]
fn another_payload_is_not_taken_for_the_one_that_was_withheld() {
    let (device, mut narrow) = (Device::new(), Narrow::new(100_000));
    block_on(deliver_from(&mut device.backlog(), &mut narrow));
    let kept = device.backlog().bodies().unwrap()[0];
    let frames = device
        .backlog()
        .body(kept.stream, kept.seq)
        .unwrap()
        .unwrap();
    // the same record with another sealed part, and its own hash in the header
    let frame = crate::audit::frames(&frames.bytes).next().unwrap().unwrap();
    let mut other = Vec::new();
    let mut put = |out: &mut Vec<u8>| out.extend_from_slice(&[7; 500]);
    let put: crate::audit::frame::PutBlob<'_> = &mut put;
    let last_hash = crate::audit::frame::append(
        &mut other,
        &frames.prev_hash,
        frame.kind,
        frame.seq,
        frame.meta,
        Some(put),
    );
    let key = key();
    let header = Header {
        org: org(),
        stream: kept.stream,
        first_seq: kept.seq,
        last_seq: kept.seq,
        prev_hash: frames.prev_hash,
        last_hash,
        kind: Kind::Body,
        remaining: 0,
        sent_us: 0,
        installation: key.public(),
    };
    let body = batch::seal(&header, &other, key.pair()).unwrap();
    let path = format!("v1/streams/{}/batches/{}", kept.stream, kept.seq);
    block_on(narrow.post(&path, body));
    let stored = narrow.device();
    assert_eq!(
        (stored.withheld, stored.forks),
        (2, 1),
        "it contradicts the chain"
    );
}

#[test]
fn a_collector_without_the_record_takes_the_payload_with_it() {
    let (device, mut narrow) = (Device::new(), Narrow::new(100_000));
    block_on(deliver_from(&mut device.backlog(), &mut narrow));
    // it lost everything; what waits here is not lost with it
    let mut empty = Narrow::new(usize::MAX);
    block_on(deliver_from(&mut device.backlog(), &mut empty));
    assert_eq!(device.backlog().bodies().unwrap(), []);
    let stored = empty.device();
    assert_eq!((stored.records, stored.withheld), (2, 0));
    assert!(!stored.gaps.is_empty(), "and what is gone shows");
}

#[test]
fn payloads_under_another_caller_are_shown_as_such_by_the_collector() {
    let (device, mut narrow) = (Device::new(), Narrow::new(usize::MAX));
    let mut backlog = device.backlog();
    let stream = backlog.streams().unwrap()[0].stream;
    // whoever has the device writes the stream anew, chain and all, with somebody else as its caller
    let (mut bytes, mut hash, mut last_seq) = (Vec::new(), crate::audit::frame::GENESIS, 0);
    while let Some(frames) = backlog.read(stream, last_seq + 1, 512, 1 << 24).unwrap() {
        for frame in crate::audit::frames(&frames.bytes) {
            let frame = frame.unwrap();
            let mut meta = frame.meta.to_vec();
            if frame.kind == kind::CONTEXT {
                // `nobody` is its last two bytes
                meta.truncate(meta.len() - 2);
                meta.extend_from_slice(b"\x01\x01\x08somebody\x01k\x00");
            }
            let (kind, seq) = (frame.kind, frame.seq);
            let mut put = |out: &mut Vec<u8>| {
                if let Blob::Present(blob) = frame.blob {
                    out.extend_from_slice(blob);
                }
            };
            let put: crate::audit::frame::PutBlob<'_> = &mut put;
            let blob = matches!(frame.blob, Blob::Present(_)).then_some(put);
            hash = crate::audit::frame::append(&mut bytes, &hash, kind, seq, &meta, blob);
            last_seq = seq;
        }
    }
    let key = key();
    let header = Header {
        org: org(),
        stream,
        first_seq: 1,
        last_seq,
        prev_hash: crate::audit::frame::GENESIS,
        last_hash: hash,
        kind: Kind::Following,
        remaining: 0,
        sent_us: 0,
        installation: key.public(),
    };
    let body = batch::seal(&header, &bytes, key.pair()).unwrap();
    block_on(narrow.post(&format!("v1/streams/{stream}/batches/1"), body));
    assert_eq!(narrow.findings(), [], "the chain holds");
    let now = FixedClock::at(UNIX_S).now();
    let (sealed, _) = query::sealed(narrow.root.path(), &Filter::default(), &now).unwrap();
    assert_eq!(sealed.len(), 12);
    for sealed in &sealed {
        assert_eq!(sealed.view["agent"], "somebody");
        let error = query::open(sealed, &device.private).unwrap_err();
        assert!(error.to_string().contains("were changed"), "{error}");
    }
}
