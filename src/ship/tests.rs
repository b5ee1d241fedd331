//! Delivery against the collector's own store, with a line that loses requests and replies.

#[cfg(feature = "collector")]
mod large;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;
use crate::audit::encode::{Encoder, StreamHeader};
use crate::audit::entry::{Body, Entry};
use crate::clock::{CountingEntropy, FixedClock};

const UNIX_S: u64 = 1_795_238_400;

fn org() -> OrgId {
    "example".parse().unwrap()
}

fn key() -> InstallationKey {
    InstallationKey::from_seed(&[9; 32]).unwrap()
}

/// The spool's twin: whole streams in memory, from a first record that is still here.
struct Memory {
    streams: BTreeMap<StreamId, Held>,
}

struct Held {
    frames: Vec<(u64, Digest, Digest, Vec<u8>)>,
    here_from: u64,
    acked: u64,
}

impl Memory {
    fn with(streams: &[(u8, u64)]) -> Self {
        let streams = streams
            .iter()
            .map(|(name, records)| (StreamId([*name; 16]), Held::new(*name, *records)))
            .collect();
        Self { streams }
    }

    fn hash(&self, stream: StreamId, seq: u64) -> Digest {
        let held = &self.streams[&stream];
        held.frames.iter().find(|frame| frame.0 == seq).unwrap().2
    }
}

impl Held {
    fn new(name: u8, records: u64) -> Self {
        let now = Now {
            wall_us: UNIX_S * 1_000_000,
            mono_us: 0,
        };
        let header = StreamHeader {
            stream: StreamId([name; 16]),
            org: org(),
            machine_id: "m".to_owned(),
            installation: key().id(),
            pid: 1,
            version: "0".to_owned(),
            started: now,
            registry: None,
            others: 0,
            previous: Vec::new(),
        };
        let mut encoder = Encoder::open(header, &[]);
        let mut bytes = Vec::new();
        let mut count = 0;
        while encoder.seq() < records {
            count += 1;
            let entry = Entry {
                at: now,
                body: Body::Counted {
                    code: "parse",
                    count,
                },
            };
            encoder.append(&entry, &mut CountingEntropy(1), &mut bytes);
        }
        let mut prev = crate::audit::frame::GENESIS;
        let frames = crate::audit::frames(&bytes)
            .map(|frame| {
                let frame = frame.unwrap();
                let before = std::mem::replace(&mut prev, frame.hash);
                (frame.seq, before, frame.hash, frame.bytes.to_vec())
            })
            .collect();
        Self {
            frames,
            here_from: 1,
            acked: 0,
        }
    }
}

impl Records for Rc<RefCell<Memory>> {
    fn streams(&mut self) -> io::Result<Vec<Waiting>> {
        let memory = self.borrow();
        let states = memory.streams.iter().map(|(stream, held)| Waiting {
            stream: *stream,
            next_unacked: (held.acked + 1).max(held.here_from),
            last_seq: held.frames.last().unwrap().0,
            live: false,
        });
        Ok(states.collect())
    }

    fn read(
        &mut self,
        stream: StreamId,
        from_seq: u64,
        max_records: usize,
        _max_bytes: usize,
    ) -> io::Result<Option<Frames>> {
        let memory = self.borrow();
        let held = &memory.streams[&stream];
        if from_seq < held.here_from {
            return Ok(None);
        }
        let run: Vec<_> = held
            .frames
            .iter()
            .filter(|frame| frame.0 >= from_seq)
            .take(max_records)
            .collect();
        Ok(run.first().map(|first| Frames {
            first_seq: first.0,
            last_seq: run.last().unwrap().0,
            prev_hash: first.1,
            last_hash: run.last().unwrap().2,
            bytes: run.iter().flat_map(|frame| frame.3.clone()).collect(),
        }))
    }

    fn ack(&mut self, stream: StreamId, upto_seq: u64) -> io::Result<()> {
        let mut memory = self.borrow_mut();
        let held = memory.streams.get_mut(&stream).unwrap();
        held.acked = held.acked.max(upto_seq);
        Ok(())
    }

    fn bodies(&mut self) -> io::Result<Vec<Kept>> {
        Ok(Vec::new())
    }

    fn keep_body(&mut self, _stream: StreamId, _seq: u64) -> io::Result<()> {
        Ok(())
    }

    fn body(&mut self, _stream: StreamId, _seq: u64) -> io::Result<Option<Frames>> {
        Ok(None)
    }

    fn drop_body(&mut self, _stream: StreamId, _seq: u64) -> io::Result<()> {
        Ok(())
    }

    fn tidy(&mut self, _now: &Now) -> io::Result<()> {
        Ok(())
    }
}

/// A clock that jumps over every pause of the courier, so that no test sleeps.
struct Hasty(FixedClock);

impl Clock for Hasty {
    fn now(&self) -> Now {
        self.0.advance_ms(200_000);
        self.0.now()
    }
}

async fn deliver<L: Link>(memory: &Rc<RefCell<Memory>>, link: &mut L) -> Ended {
    deliver_from(&mut Rc::clone(memory), link).await
}

async fn deliver_from<R: Records, L: Link>(records: &mut R, link: &mut L) -> Ended {
    let state = tempfile::tempdir().unwrap();
    drop(lock(state.path()).unwrap().unwrap());
    let key = key();
    let org = org();
    let sender = Sender {
        org: &org,
        machine_id: "m",
        key: &key,
        who: None,
        collector: "http://127.0.0.1:1",
        state_dir: state.path(),
        flush: true,
    };
    // reloads are the caller's to follow
    for _ in 0..1000 {
        let ended = run(
            &sender,
            records,
            link,
            &Hasty(FixedClock::at(UNIX_S)),
            &mut CountingEntropy(3),
            &mut |_| {},
        )
        .await
        .unwrap();
        if ended == Ended::Done {
            return ended;
        }
    }
    Ended::GaveUp
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A collector that only counts: takes everything it is sent.
#[derive(Default)]
struct Counter {
    sent: Vec<(u64, u64, u64)>,
}

impl Link for Counter {
    async fn post(&mut self, _path: &str, body: Vec<u8>) -> Reply {
        let batch = batch::open(&body).unwrap();
        let header = batch.header;
        self.sent
            .push((header.first_seq, header.last_seq, header.remaining));
        let body = format!(
            r#"{{"acked_seq":{},"lane":"main","standing":"enrolled"}}"#,
            header.last_seq
        );
        Reply::Answer {
            status: 200,
            retry_after_s: None,
            body: body.into_bytes(),
        }
    }
}

#[test]
fn batches_say_how_much_still_waits() {
    let memory = Rc::new(RefCell::new(Memory::with(&[(1, 700), (2, 30)])));
    let mut counter = Counter::default();
    assert_eq!(block_on(deliver(&memory, &mut counter)), Ended::Done);
    assert_eq!(counter.sent, [(1, 512, 218), (1, 30, 188), (513, 700, 0)]);
}

#[cfg(feature = "collector")]
mod against_the_store {
    use super::*;
    use crate::collector::store::{Answer, Store};
    use crate::collector::{scan, verify};
    use crate::ids::KeyId;
    use crate::registry::doc::{OrgDoc, PolicyDoc, Registry, RegistryVersion, RevocationsDoc};

    pub(super) fn registry() -> Registry {
        Registry {
            version: RegistryVersion::default(),
            digest: Digest::default(),
            checked: 0,
            expires: u64::MAX,
            org: OrgDoc {
                format: 1,
                min_reader: 1,
                org: org(),
                name: String::new(),
                help: String::new(),
                collector: None,
                audit_keys: Vec::new(),
                issuers: Vec::new(),
                secret_stores: crate::registry::doc::SecretStoresDoc::default(),
                grace_hours: 0,
                limits: crate::registry::doc::OrgLimits::default(),
                min_client: None,
            },
            policy: PolicyDoc {
                format: 1,
                min_reader: 1,
                roles: BTreeMap::default(),
                agents: BTreeMap::default(),
                rules: Vec::new(),
                grants: BTreeMap::default(),
            },
            revocations: RevocationsDoc::default(),
            servers: BTreeMap::default(),
        }
    }

    /// What happens to one request.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        /// It arrives, and its reply too.
        Answered,
        /// It arrives, and its reply is lost: fail but keep.
        ReplyLost,
        /// It never arrives: fail and lose.
        Lost,
        /// The collector dies after it and is started again.
        Restart,
        /// A proxy refuses it for its size.
        TooLarge,
    }

    struct Line {
        root: tempfile::TempDir,
        store: Option<Store>,
        fates: Vec<Fate>,
    }

    impl Line {
        fn new(fates: Vec<Fate>) -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
                store: None,
                fates,
            }
        }

        fn store(&mut self) -> &Store {
            let root = self.root.path();
            self.store
                .get_or_insert_with(|| Store::open(root, &org()).unwrap())
        }

        /// Binds the installation to somebody, so that what it sends counts.
        fn enrol(&mut self) {
            let who = crate::collector::store::Who::Person {
                issuer: "https://idp.example".to_owned(),
                subject: "u1".to_owned(),
                display: "Ada".to_owned(),
            };
            let store = self.store();
            store
                .bind(&key().public(), "laptop", who, &Now::default())
                .unwrap();
        }

        fn gaps(&self) -> Vec<(u64, u64)> {
            let devices = scan::scan(self.root.path(), scan::Only::default(), &mut |_| {}).unwrap();
            devices
                .iter()
                .flat_map(|device| &device.gaps)
                .map(|gap| (gap.first_seq, gap.last_seq))
                .collect()
        }

        /// Every stored record, in order; panics where one is stored twice or does not verify.
        fn stored(&self) -> BTreeMap<(StreamId, u64), Digest> {
            let mut stored = BTreeMap::new();
            scan::scan(self.root.path(), scan::Only::default(), &mut |record| {
                let before = stored.insert((record.stream, record.frame.seq), record.frame.hash);
                assert!(before.is_none(), "a record is stored twice");
            })
            .unwrap();
            stored
        }
    }

    impl Link for Line {
        async fn post(&mut self, path: &str, body: Vec<u8>) -> Reply {
            let mut parts = path.split('/').skip(2);
            let stream = StreamId::parse(parts.next().unwrap()).unwrap();
            let first_seq = parts.nth(1).unwrap().parse().unwrap();
            let fate = self.fates.pop().unwrap_or(Fate::Answered);
            let lost = Reply::Unreachable("cut".to_owned());
            let answer = |status, body| Reply::Answer {
                status,
                retry_after_s: None,
                body,
            };
            match fate {
                Fate::Lost => return lost,
                Fate::TooLarge => return answer(413, Vec::new()),
                Fate::Answered | Fate::ReplyLost | Fate::Restart => {}
            }
            let now = Now {
                wall_us: UNIX_S * 1_000_000,
                mono_us: 0,
            };
            let answered = self
                .store()
                .accept(&body, stream, first_seq, &registry(), &now)
                .unwrap();
            let reply = match answered {
                Answer::Stored(stored) => answer(200, serde_json::to_vec(&stored).unwrap()),
                Answer::Rewind(rewind) => answer(409, serde_json::to_vec(&rewind).unwrap()),
                Answer::Refused(status, refused) => {
                    answer(status, serde_json::to_vec(&refused).unwrap())
                }
                Answer::Later { status, .. } => answer(status, Vec::new()),
            };
            match fate {
                Fate::Restart => {
                    self.store = None;
                    lost
                }
                Fate::ReplyLost => lost,
                _ => reply,
            }
        }
    }

    fn copy_dir(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy_dir(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }

    /// Whatever the line does, everything arrives, once, and the chain holds.
    #[test]
    fn everything_arrives_once_whatever_the_line_does() {
        arbtest::arbtest(|u| {
            let lengths = [(1, u.int_in_range(2..=600)?), (2, u.int_in_range(2..=40)?)];
            let mut fates = Vec::new();
            for _ in 0..u.int_in_range(0..=12)? {
                fates.push(*u.choose(&[
                    Fate::Answered,
                    Fate::ReplyLost,
                    Fate::Lost,
                    Fate::Restart,
                    Fate::TooLarge,
                ])?);
            }
            let memory = Rc::new(RefCell::new(Memory::with(&lengths)));
            let mut line = Line::new(fates);
            assert_eq!(block_on(deliver(&memory, &mut line)), Ended::Done);
            drop(line.store.take());
            let stored = line.stored();
            let memory = memory.borrow();
            for (stream, held) in &memory.streams {
                assert_eq!(held.acked, held.frames.last().unwrap().0);
                for (seq, _, hash, _) in &held.frames {
                    assert_eq!(stored.get(&(*stream, *seq)), Some(hash));
                }
            }
            let checked = verify::check(line.root.path()).unwrap();
            assert_eq!(checked.findings, []);
            // nobody enrolled here
            assert_eq!(checked.stranger_records, stored.len() as u64);
            Ok(())
        })
        .budget_ms(3_000);
    }

    #[test]
    fn collector_restored_from_a_backup_gets_the_rest_again() {
        let memory = Rc::new(RefCell::new(Memory::with(&[(1, 100)])));
        let mut line = Line::new(Vec::new());
        block_on(deliver(&memory, &mut line));
        drop(line.store.take());
        let backup = tempfile::tempdir().unwrap();
        copy_dir(line.root.path(), backup.path());
        // more is recorded and acknowledged after the backup
        for length in [200, 300] {
            let acked = memory.borrow().streams[&StreamId([1; 16])].acked;
            let mut longer = Held::new(1, length);
            longer.acked = acked;
            memory
                .borrow_mut()
                .streams
                .insert(StreamId([1; 16]), longer);
            if length == 200 {
                block_on(deliver(&memory, &mut line));
                drop(line.store.take());
                line.root = backup;
                break;
            }
        }
        let mut longer = Held::new(1, 300);
        longer.acked = 200;
        longer.here_from = 101;
        memory
            .borrow_mut()
            .streams
            .insert(StreamId([1; 16]), longer);
        block_on(deliver(&memory, &mut line));
        drop(line.store.take());
        assert_eq!(line.stored().len(), 300);
        assert_eq!(line.gaps(), []);
    }

    #[test]
    fn what_is_gone_on_the_device_becomes_a_reported_gap() {
        let memory = Rc::new(RefCell::new(Memory::with(&[(1, 300)])));
        memory
            .borrow_mut()
            .streams
            .get_mut(&StreamId([1; 16]))
            .unwrap()
            .here_from = 37;
        let mut line = Line::new(Vec::new());
        line.enrol();
        block_on(deliver(&memory, &mut line));
        drop(line.store.take());
        assert_eq!(line.gaps(), [(1, 36)]);
        assert_eq!(line.stored().len(), 264);
        let alerts = std::fs::read_to_string(line.root.path().join("log/alerts.jsonl")).unwrap();
        assert!(alerts.contains(r#""kind":"gap""#));
    }

    #[test]
    fn record_that_cannot_be_read_is_kept_aside_and_the_rest_arrives() {
        let memory = Rc::new(RefCell::new(Memory::with(&[(1, 20)])));
        memory
            .borrow_mut()
            .streams
            .get_mut(&StreamId([1; 16]))
            .unwrap()
            .frames[9]
            .3[60] ^= 1;
        let mut line = Line::new(Vec::new());
        block_on(deliver(&memory, &mut line));
        drop(line.store.take());
        assert_eq!(line.stored().len(), 19);
        assert_eq!(line.gaps(), [(10, 10)]);
        let devices = scan::scan(line.root.path(), scan::Only::default(), &mut |_| {}).unwrap();
        assert_eq!(devices[0].quarantined, 1);
        assert_eq!(devices[0].complete_us, None, "never complete with a hole");
    }

    #[test]
    fn other_history_of_the_same_stream_is_a_fork_and_both_are_kept() {
        let memory = Rc::new(RefCell::new(Memory::with(&[(1, 20)])));
        let mut line = Line::new(Vec::new());
        line.enrol();
        block_on(deliver(&memory, &mut line));
        let first = memory.borrow().hash(StreamId([1; 16]), 20);

        // a machine that was set back to an older state writes on: same numbers, other content
        let mut other = Held::new(1, 20);
        other.frames = {
            let mut prev = other.frames[9].2;
            let meta = crate::audit::frames(&other.frames[9].3)
                .next()
                .unwrap()
                .unwrap()
                .meta
                .to_vec();
            let mut frames = other.frames[..10].to_vec();
            for seq in 11..=25 {
                let mut bytes = Vec::new();
                let hash = crate::audit::frame::append(&mut bytes, &prev, 7, seq, &meta, None);
                frames.push((seq, prev, hash, bytes));
                prev = hash;
            }
            frames
        };
        other.acked = 10;
        memory.borrow_mut().streams.insert(StreamId([1; 16]), other);
        block_on(deliver(&memory, &mut line));
        drop(line.store.take());

        let mut lanes: BTreeMap<(bool, u64), Digest> = BTreeMap::new();
        scan::scan(line.root.path(), scan::Only::default(), &mut |record| {
            let fork = record.lane == protocol::Lane::Fork;
            lanes.insert((fork, record.frame.seq), record.frame.hash);
        })
        .unwrap();
        assert_eq!(lanes[&(false, 20)], first, "the first history stays");
        assert!(lanes.contains_key(&(true, 25)), "the other one is kept too");
        let alerts = std::fs::read_to_string(line.root.path().join("log/alerts.jsonl")).unwrap();
        assert!(alerts.contains(r#""kind":"fork""#));
    }

    #[test]
    fn installations_cannot_touch_each_others_streams() {
        let memory = Rc::new(RefCell::new(Memory::with(&[(1, 20)])));
        let mut line = Line::new(Vec::new());
        block_on(deliver(&memory, &mut line));
        let frames = memory
            .clone()
            .read(StreamId([1; 16]), 1, 5, 1 << 20)
            .unwrap()
            .unwrap();
        let stranger = InstallationKey::from_seed(&[1; 32]).unwrap();
        let header = Header {
            org: org(),
            stream: StreamId([1; 16]),
            first_seq: 1,
            last_seq: 5,
            prev_hash: frames.prev_hash,
            last_hash: frames.last_hash,
            kind: Kind::Following,
            remaining: 0,
            sent_us: 0,
            installation: stranger.public(),
        };
        let body = batch::seal(&header, &frames.bytes, stranger.pair()).unwrap();
        let now = Now::default();
        let answer = line
            .store()
            .accept(&body, header.stream, 1, &registry(), &now)
            .unwrap();
        let Answer::Stored(stored) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(stored.standing, Standing::Unknown);
        drop(line.store.take());
        let mut by: BTreeMap<KeyId, u64> = BTreeMap::new();
        scan::scan(line.root.path(), scan::Only::default(), &mut |record| {
            *by.entry(record.installation.clone()).or_default() += 1;
        })
        .unwrap();
        assert_eq!(by[&key().id()], 20);
        assert_eq!(by[&stranger.id()], 5);
        let alerts = std::fs::read_to_string(line.root.path().join("log/alerts.jsonl")).unwrap();
        assert!(!alerts.contains("fork"));
        assert!(alerts.contains("unknown-key"));
        assert!(
            !alerts.contains("\"claim\""),
            "one alert a made-up key, not one a batch"
        );
    }
}
