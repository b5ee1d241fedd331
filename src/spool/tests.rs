mod links;
mod renewed;

use std::collections::{BTreeMap, BTreeSet};

use super::memory::{Fault, MemoryDisk};
use super::*;
use crate::audit::decode::Payload;
use crate::audit::entry::{CallFacts, CallerContext, Correlation, End};
use crate::audit::{generate_audit_key, verify_chain};
use crate::clock::CountingEntropy;
use crate::ids::{CallId, KeyId, OrgId};
use crate::registry::doc::AuditRule;
use crate::secret::Content;

fn at(ms: u64) -> Now {
    Now {
        wall_us: 1_795_000_000_000_000 + ms * 1000,
        mono_us: ms * 1000,
    }
}

fn describe() -> Describe {
    Box::new(|stream, now| StreamHeader {
        stream,
        org: OrgId::parse("example").unwrap(),
        machine_id: "machine".to_owned(),
        installation: KeyId::parse("ab12").unwrap(),
        pid: 1,
        version: "0.1.0".to_owned(),
        started: *now,
        registry: None,
        others: 0,
        previous: Vec::new(),
    })
}

fn spool(dir: &Path, disk: impl Disk + 'static, seed: u64) -> Spool {
    let entropy = Box::new(CountingEntropy(seed));
    Spool::new(dir.to_owned(), Box::new(disk), describe(), &[], entropy)
}

fn counted(ms: u64, count: u64) -> Entry {
    Entry {
        at: at(ms),
        body: Body::Counted {
            code: "parse",
            count,
        },
    }
}

#[test]
fn records_wait_are_read_acknowledged_and_removed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state/spool");
    let mut spool = spool(&dir, RealDisk, 1);
    assert!(!dir.exists(), "nothing before the first entry");
    spool
        .append(&[counted(1, 1), counted(2, 2)], &at(2))
        .unwrap();
    let mut backlog = Backlog::open(dir.clone());
    let state = backlog.streams().unwrap()[0];
    assert!(state.live && !state.ended);
    assert_eq!((state.next_unacked, state.last_seq), (1, 4));
    let slice = backlog.read(state.id, 1, 512, 1 << 20).unwrap().unwrap();
    let tail = verify_chain(slice.prev_hash, &slice.frames).unwrap();
    assert_eq!(
        (tail.first_seq, tail.last_seq, tail.last_hash),
        (1, 4, state.last_hash)
    );
    assert!(
        backlog.adopt(&at(3)).unwrap().is_empty(),
        "its writer lives"
    );
    spool.close(&at(4)).unwrap();
    drop(spool);
    let state = backlog.streams().unwrap()[0];
    assert!(!state.live && state.ended);
    assert!(backlog.adopt(&at(3)).unwrap().is_empty(), "it has its end");
    backlog.ack(state.id, 5).unwrap();
    assert!(backlog.collect(&at(5)).unwrap() > 0);
    let left = std::fs::read_dir(&dir).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [delivered::FILE], "only that it was delivered");
}

const DIR: &str = "/state/spool";

fn memory() -> MemoryDisk {
    let disk = MemoryDisk::default();
    disk.make_dir(Path::new("/state")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// What the collector holds: per stream its head, and every record.
#[derive(Default)]
struct Collector {
    streams: BTreeMap<StreamId, (u64, Digest, Vec<u8>)>,
}

impl Collector {
    /// Takes a slice as the real one does: a repeat is compared, a gap or a fork stops the test.
    fn take(&mut self, stream: StreamId, slice: &Slice) {
        let (seq, hash, bytes) =
            self.streams
                .entry(stream)
                .or_insert((0, Digest::default(), Vec::new()));
        let tail = verify_chain(slice.prev_hash, &slice.frames).unwrap();
        assert_eq!(
            (tail.first_seq, tail.last_seq),
            (slice.first_seq, slice.last_seq)
        );
        assert_eq!(tail.last_hash, slice.last_hash);
        for frame in frames(&slice.frames) {
            let frame = frame.unwrap();
            if frame.seq <= *seq {
                let same = frames(bytes).any(|old| old.unwrap().bytes == frame.bytes);
                assert!(same, "record {stream}/{} came again and differs", frame.seq);
                continue;
            }
            assert_eq!(frame.seq, *seq + 1, "a gap in {stream}");
            assert_eq!(frame.chain(hash), frame.hash, "a fork in {stream}");
            *seq = frame.seq;
            *hash = frame.hash;
            bytes.extend_from_slice(frame.bytes);
        }
    }

    fn said(&self, mut each: impl FnMut(StreamId, &Said<'_>)) {
        for (stream, (_, _, bytes)) in &self.streams {
            for frame in frames(bytes) {
                each(*stream, &decode(&frame.unwrap()).unwrap().said);
            }
        }
    }

    /// The numbers of [`counted`] entries that arrived; each may arrive once.
    fn arrived(&self) -> BTreeSet<u64> {
        let mut arrived = BTreeSet::new();
        self.said(|_, said| {
            if let Said::Counted { count, .. } = said {
                assert!(arrived.insert(*count), "entry {count} arrived twice");
            }
        });
        arrived
    }

    /// Delivers everything there is.
    fn drain(&mut self, backlog: &mut Backlog) {
        for state in backlog.streams().unwrap() {
            let mut from = state.next_unacked;
            while let Some(slice) = backlog.read(state.id, from, 3, 4096).unwrap() {
                self.take(state.id, &slice);
                from = slice.last_seq + 1;
            }
            if from > state.next_unacked {
                backlog.ack(state.id, from - 1).unwrap();
            }
        }
    }
}

fn small() -> Caps {
    Caps {
        segment_bytes: 600,
        segment_age_us: 50_000,
        ..Caps::default()
    }
}

/// Every record that was promised arrives, once, in its place, and what could not be recorded is
/// declared: under full and failing disks, torn writes, deaths, lost answers and new shippers.
#[test]
fn nothing_promised_is_lost_whatever_fails() {
    arbtest::arbtest(|u| world(u, false)).budget_ms(2_000);
}

/// The same with loss of power: what was synced or sent arrives, and never as another record.
#[test]
fn nothing_synced_is_lost_with_the_power() {
    arbtest::arbtest(|u| world(u, true)).budget_ms(2_000);
}

/// Random work, faults and deaths, against what was promised.
fn world(
    u: &mut arbtest::arbitrary::Unstructured<'_>,
    power: bool,
) -> arbtest::arbitrary::Result<()> {
    let disk = memory();
    let mut seed = 0;
    let mut fresh = |disk: &MemoryDisk, process: u64| {
        seed += 1000;
        let mut describe = describe();
        let mut spool = spool(Path::new(DIR), disk.clone(), seed).with_caps(small());
        spool.describe = Box::new(move |stream, now| StreamHeader {
            pid: u32::try_from(process).unwrap(),
            ..describe(stream, now)
        });
        spool
    };
    let mut spools: Vec<Spool> = (0..2).map(|process| fresh(&disk, process)).collect();
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    let mut collector = Collector::default();
    // promised by each living process, and by those that are gone
    let mut promised = [BTreeSet::new(), BTreeSet::new()];
    let (mut kept, mut durable) = (BTreeSet::new(), BTreeSet::new());
    let mut doubtful: BTreeSet<u64> = BTreeSet::new();
    // what each process could not record, and which said that it ended
    let mut processes = [0_u64, 1];
    let mut refused: BTreeMap<u64, u64> = BTreeMap::new();
    let mut closed: BTreeSet<u64> = BTreeSet::new();
    let (mut next, mut now) = (1, 0);
    let steps: usize = u.int_in_range(1..=60)?;
    for _ in 0..steps {
        now += 7;
        let which: usize = u.int_in_range(0..=1)?;
        match u.int_in_range(0..=13)? {
            0..=4 => {
                let count = u.int_in_range(1..=4)?;
                let entries: Vec<Entry> = (0..count).map(|n| counted(now, next + n)).collect();
                let ids: Vec<u64> = (next..next + count).collect();
                next += count;
                let before = spools[which].undeclared();
                match spools[which].append(&entries, &at(now)) {
                    Ok(()) => promised[which].extend(ids),
                    Err(error) => {
                        assert!(error.recorded + error.lost == ids.len());
                        promised[which].extend(&ids[..error.recorded]);
                        assert!(spools[which].undeclared() > 0 || before == 0);
                        *refused.entry(processes[which]).or_default() += error.lost as u64;
                    }
                }
            }
            5 => {
                // a failed sync may have dropped what it covered: a later one says nothing of that
                match spools[which].sync() {
                    Ok(()) => durable.extend(promised[which].difference(&doubtful)),
                    Err(_) => doubtful.extend(promised[which].difference(&durable)),
                }
            }
            6 => {
                // the process ends as it should, or dies
                // one that never got a stream has nowhere to declare anything
                let begun = spools[which].stream().is_some();
                if u.arbitrary()? && spools[which].close(&at(now)).is_ok() && begun {
                    closed.insert(processes[which]);
                }
                processes[which] = next;
                next += 1;
                spools[which] = fresh(&disk, processes[which]);
                kept.append(&mut promised[which]);
            }
            7 => {
                disk.fail(match u.int_in_range(0..=4)? {
                    0 => Fault::Full(u.int_in_range(0..=400)?),
                    1 => Fault::FailsAndLoses,
                    2 => Fault::FailsButKeeps,
                    3 => Fault::CutFails,
                    _ => Fault::SyncFails,
                });
            }
            8 => {
                // death in the middle of a write
                disk.fail(Fault::Dies(u.int_in_range(0..=600)?));
                let entries = [counted(now, next), counted(now, next + 1)];
                next += 2;
                let _dead = spools[which].append(&entries, &at(now)).is_err();
                processes[which] = next;
                next += 1;
                spools[which] = fresh(&disk, processes[which]);
                kept.append(&mut promised[which]);
                disk.revive();
            }
            13 if power => {
                spools.clear();
                disk.power_loss(&mut |n| u.int_in_range(0..=n - 1).unwrap_or(0));
                // what the old ones declared may be gone
                closed.clear();
                processes = [next, next + 1];
                next += 2;
                spools = processes.map(|process| fresh(&disk, process)).into();
                backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
                let arrived = collector.arrived();
                for promised in &mut promised {
                    kept.append(promised);
                }
                kept.retain(|id| durable.contains(id) || arrived.contains(id));
            }
            9 => {
                disk.revive();
                collector.drain(&mut backlog);
            }
            10 => {
                disk.revive();
                backlog.adopt(&at(now)).unwrap();
                backlog.collect(&at(now)).unwrap();
            }
            11 => {
                // sent, and the answer never came
                disk.revive();
                for state in backlog.streams().unwrap() {
                    if let Some(slice) = backlog
                        .read(state.id, state.next_unacked, 2, 1 << 20)
                        .unwrap()
                    {
                        collector.take(state.id, &slice);
                    }
                }
            }
            12 => {
                // another shipper
                backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
            }
            _ => now += 60,
        }
    }
    drop(spools);
    disk.revive();
    backlog.adopt(&at(now)).unwrap();
    collector.drain(&mut backlog);
    let arrived = collector.arrived();
    let promised: BTreeSet<u64> = promised.into_iter().flatten().chain(kept).collect();
    assert!(
        promised.is_subset(&arrived),
        "lost: {:?}",
        promised.difference(&arrived)
    );
    assert!(arrived.iter().all(|id| *id < next));
    let mut declared: BTreeMap<u64, u64> = BTreeMap::new();
    let mut process = 0;
    collector.said(|_, said| match said {
        Said::Stream(header) => process = header.pid.into(),
        Said::Loss { count, code } if *code != "sync-failed" => {
            *declared.entry(process).or_default() += count;
        }
        Said::Damage(damage) if !power => panic!("{damage:?}"),
        _ => {}
    });
    for process in closed {
        let refused = refused.get(&process).copied().unwrap_or_default();
        let declared = declared.get(&process).copied().unwrap_or_default();
        assert_eq!(declared, refused, "of process {process}");
    }
    let later = now + 2 * backlog::EMPTY_MS;
    backlog.collect(&at(later)).unwrap();
    let mut left = disk.files();
    left.retain(|path| !power || !path.starts_with(format!("{DIR}/{QUARANTINE}")));
    left.retain(|path| path.file_stem() != Some(delivered::FILE.as_ref()));
    assert!(
        left.is_empty(),
        "everything is delivered, and this is left: {left:?}"
    );
    Ok(())
}

fn intent(ms: u64, bytes: usize) -> Entry {
    let context = ContextId(1);
    Entry {
        at: at(ms),
        body: Body::Intent(CallFacts {
            call: CallId(ms),
            leg: 0,
            caller: context,
            client: context,
            target: context,
            registry: None,
            rule: context,
            credential: None,
            correlation: Correlation::default(),
            content: Content(bytes::Bytes::from(vec![b'x'; bytes])),
            audit: AuditRule {
                arguments: Capture::Full,
                results: Capture::Full,
                ..AuditRule::default()
            },
        }),
    }
}

fn outcome(ms: u64, bytes: usize) -> Entry {
    Entry {
        at: at(ms),
        body: Body::Outcome {
            call: CallId(ms),
            leg: 0,
            end: End::Ok,
            took_us: 1,
            content: Content(bytes::Bytes::from(vec![b'y'; bytes])),
            audit: AuditRule {
                results: Capture::Full,
                ..AuditRule::default()
            },
        },
    }
}

fn nobody() -> Entry {
    let nobody = Context::Caller(CallerContext::Nobody);
    Entry {
        at: at(0),
        body: Body::Context(ContextId(1), Arc::new(nobody)),
    }
}

fn audit_key() -> AuditKeyDoc {
    generate_audit_key(&mut CountingEntropy(5), 0, u64::MAX)
        .unwrap()
        .1
}

/// What a reader finds, in order: the name of each record's kind, with what matters of it.
fn told(disk: &MemoryDisk) -> Vec<String> {
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.copy()));
    let mut collector = Collector::default();
    collector.drain(&mut backlog);
    let mut told = Vec::new();
    collector.said(|_, said| {
        told.push(match said {
            Said::Carried { .. } => "carried".to_owned(),
            Said::Counted { count, .. } => format!("counted {count}"),
            Said::Damage(damage) => format!(
                "damage {} bytes, {} readable",
                damage.bytes, damage.readable
            ),
            Said::Denial { .. } => "denial".to_owned(),
            Said::End { how, cut_bytes, .. } => format!("end {how:?} {cut_bytes}"),
            Said::Intent(call) => format!("intent {}", kept(&call.payload)),
            Said::Loss { count, code } => format!("loss {count} {code}"),
            Said::Outcome { payload, .. } => format!("outcome {}", kept(payload)),
            Said::Segment(_) => "segment".to_owned(),
            Said::Context { .. } | Said::Link { .. } | Said::Stream(_) | Said::Unknown { .. } => {
                return;
            }
        });
    });
    told
}

fn kept(payload: &Payload<'_>) -> &'static str {
    match payload {
        Payload::Digest { .. } => "digest",
        Payload::Empty => "empty",
        Payload::Sealed { .. } => "sealed",
        Payload::Size { .. } => "size",
    }
}

#[test]
fn a_probing_process_leaves_nothing_behind() {
    let disk = memory();
    let before = disk.files();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1);
    spool.append(&[nobody()], &at(1)).unwrap();
    spool.sync().unwrap();
    spool.close(&at(2)).unwrap();
    drop(spool);
    assert_eq!(disk.files(), before);
    assert!(disk.list(Path::new(DIR)).is_err(), "not even a directory");
    assert!(
        Backlog::on(DIR.into(), Box::new(disk))
            .streams()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_full_disk_is_said_in_one_line_and_declared_first_when_there_is_room() {
    let disk = memory();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1);
    spool.append(&[nobody(), counted(1, 1)], &at(1)).unwrap();
    let used: usize = disk
        .files()
        .iter()
        .map(|path| disk.bytes(path).unwrap().len())
        .sum();
    // room for one more record and half of another
    disk.set_room(Some(used as u64 + 74 + 37));
    let error = spool
        .append(&[counted(2, 2), counted(3, 3), counted(4, 4)], &at(4))
        .unwrap_err();
    assert_eq!(
        (error.why, error.recorded, error.lost),
        (Why::DiskFull, 1, 2)
    );
    assert_eq!(
        error.to_string(),
        "the disk is full, the record of calls cannot be written"
    );
    assert_eq!(
        told(&disk),
        ["segment", "counted 1", "counted 2"],
        "nothing torn, nothing lost"
    );
    let error = spool.append(&[counted(5, 5)], &at(5)).unwrap_err();
    assert_eq!((error.recorded, error.lost), (0, 1));
    disk.set_room(None);
    spool.append(&[counted(6, 6)], &at(6)).unwrap();
    assert_eq!(spool.undeclared(), 0);
    spool.close(&at(7)).unwrap();
    assert_eq!(
        told(&disk),
        [
            "segment",
            "counted 1",
            "counted 2",
            "loss 3 disk-full",
            "counted 6",
            "end Closed 0"
        ]
    );
}

#[test]
fn a_directory_that_may_not_be_written_refuses_and_recovers() {
    let disk = memory();
    disk.set_read_only(true);
    let mut spool = spool(Path::new(DIR), disk.clone(), 1);
    let error = spool.append(&[nobody(), intent(1, 1)], &at(1)).unwrap_err();
    assert_eq!(
        (error.why, error.recorded, error.lost),
        (Why::ReadOnly, 0, 2)
    );
    disk.set_read_only(false);
    // the context waited here: it is not sent again, and the intent needs it
    spool.append(&[intent(2, 1)], &at(2)).unwrap();
    assert_eq!(told(&disk), ["segment", "loss 1 read-only", "intent size"]);
    let all = disk.bytes(&segment_path(&disk, 0)).unwrap();
    let contexts = frames(&all).filter(|frame| frame.unwrap().kind == decode::kind::CONTEXT);
    assert_eq!(contexts.count(), 1);
}

fn segment_path(disk: &MemoryDisk, index: usize) -> PathBuf {
    let mut segments = disk.files();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments[index].clone()
}

#[test]
fn a_full_spool_takes_no_calls_but_still_outcomes_and_losses() {
    let disk = memory();
    let caps = Caps {
        spool_bytes: 6000,
        reserve_bytes: 2000,
        ..Caps::default()
    };
    let entropy = Box::new(CountingEntropy(3));
    let boxed = Box::new(disk.clone());
    let mut spool =
        Spool::new(DIR.into(), boxed, describe(), &[audit_key()], entropy).with_caps(caps);
    spool.append(&[nobody()], &at(0)).unwrap();
    let mut calls = 0;
    let error = loop {
        match spool.append(&[intent(calls, 600)], &at(calls)) {
            Ok(()) => calls += 1,
            Err(error) => break error,
        }
    };
    assert!(calls >= 2, "{calls}");
    assert_eq!(
        (error.why, error.recorded, error.lost),
        (Why::SpoolFull, 0, 1)
    );
    assert_eq!(
        error.to_string(),
        "too many records wait for the collector, no more calls are taken"
    );
    // in one batch: what has room is recorded, what has none is named, the rest is the caller's
    let batch = [outcome(0, 10), intent(9, 600), outcome(1, 1200)];
    let error = spool.append(&batch, &at(9)).unwrap_err();
    assert_eq!((error.recorded, error.lost), (1, 1));
    spool.append(&batch[2..], &at(9)).unwrap();
    let told = told(&disk);
    let tail = told[told.len() - 4..].to_vec();
    assert_eq!(
        tail,
        [
            "loss 1 spool-full",
            "outcome sealed",
            "loss 1 spool-full",
            "outcome size"
        ]
    );
    // everything is delivered: there is room again
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    Collector::default().drain(&mut backlog);
    spool.set_audit_keys(&[]);
    spool.append(&[counted(5000, 1)], &at(5000)).unwrap();
    backlog.collect(&at(5000)).unwrap();
    assert!(
        spool.append(&[intent(6001, 1)], &at(6001)).is_err(),
        "looked at once a second"
    );
    spool.append(&[intent(8000, 1)], &at(8000)).unwrap();
}

#[test]
fn a_sync_that_fails_is_declared_and_the_next_record_is_in_another_stream() {
    let disk = memory();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1);
    spool
        .append(&[counted(1, 1), counted(2, 2)], &at(2))
        .unwrap();
    disk.fail(Fault::SyncFails);
    assert_eq!(spool.sync().unwrap_err().why, Why::SyncFailed);
    spool.append(&[counted(3, 3)], &at(3)).unwrap();
    spool.sync().unwrap();
    assert_eq!(
        told(&disk),
        [
            "segment",
            "counted 1",
            "counted 2",
            "end Closed 0",
            "segment",
            "loss 2 sync-failed",
            "counted 3"
        ]
    );
    disk.power_loss(&mut |_| 0);
    assert_eq!(
        told(&disk),
        ["segment", "loss 2 sync-failed", "counted 3"],
        "what was chained to lost records would be lost with them"
    );
}

#[test]
fn segments_change_with_size_age_and_audit_keys() {
    let disk = memory();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1).with_caps(Caps {
        segment_bytes: 1000,
        segment_age_us: 100_000,
        ..Caps::default()
    });
    let segments = |disk: &MemoryDisk| told(disk).iter().filter(|told| *told == "segment").count();
    spool.append(&[nobody(), intent(1, 10)], &at(1)).unwrap();
    spool.append(&[intent(2, 10)], &at(2)).unwrap();
    assert_eq!(segments(&disk), 1);
    spool.append(&[intent(3, 2000)], &at(3)).unwrap();
    assert_eq!(segments(&disk), 2, "a large one has its own");
    // found: so had one of which a digest is kept
    let mut digest = intent(4, 2000);
    if let Body::Intent(facts) = &mut digest.body {
        facts.audit.arguments = Capture::Digest;
    }
    for entry in [intent(4, 10), digest] {
        spool.append(&[entry], &at(4)).unwrap();
    }
    assert_eq!(segments(&disk), 2, "a digest is small");
    spool.append(&[counted(200, 1)], &at(200)).unwrap();
    assert_eq!(segments(&disk), 3, "age");
    spool.append(&[counted(201, 2)], &at(201)).unwrap();
    assert_eq!(segments(&disk), 3);
    spool.set_audit_keys(&[audit_key()]);
    spool.append(&[intent(202, 10)], &at(202)).unwrap();
    assert_eq!(
        segments(&disk),
        4,
        "what a new registry seals to holds at once"
    );
    assert_eq!(told(&disk).last().unwrap(), "intent sealed");
    spool.set_audit_keys(&[audit_key()]);
    spool.append(&[intent(203, 10)], &at(203)).unwrap();
    assert_eq!(segments(&disk), 4);
}

#[test]
fn a_later_stream_names_the_earlier_ones() {
    let disk = memory();
    let mut first = spool(Path::new(DIR), disk.clone(), 1);
    first.append(&[counted(1, 1)], &at(1)).unwrap();
    let mut second = spool(Path::new(DIR), disk.clone(), 2);
    second.append(&[counted(2, 2)], &at(2)).unwrap();
    let named = |stream: StreamId| {
        let path = Path::new(DIR)
            .join(stream.to_string())
            .join(segment_name(1));
        let bytes = disk.bytes(&path).unwrap();
        let frame = frames(&bytes).nth(1).unwrap().unwrap();
        let Said::Stream(header) = decode(&frame).unwrap().said else {
            panic!()
        };
        header.previous
    };
    let first = first.stream().unwrap();
    assert!(named(first).is_empty());
    let previous = named(second.stream().unwrap());
    let bytes = disk.bytes(&segment_path(&disk, 0)).unwrap();
    let last = frames(&bytes).last().unwrap().unwrap();
    assert!(
        last.seq > 1,
        "the head alone could be kept by who rewrites the rest"
    );
    assert_eq!(
        previous,
        [Previous {
            stream: first,
            at_least: last.seq,
            hash: last.hash
        }]
    );
}

/// A stream of three segments whose writer died, and its bytes.
fn dead_stream() -> (MemoryDisk, Vec<(PathBuf, Vec<u8>)>) {
    let disk = memory();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1).with_caps(Caps {
        segment_age_us: 1,
        ..Caps::default()
    });
    for n in 1..=3 {
        let entries = [counted(n, 10 * n), counted(n, 10 * n + 1)];
        spool.append(&entries, &at(n)).unwrap();
    }
    drop(spool);
    let segments: Vec<_> = (0..3)
        .map(|index| segment_path(&disk, index))
        .map(|path| (path.clone(), disk.bytes(&path).unwrap()))
        .collect();
    (disk, segments)
}

const WHOLE: [&str; 9] = [
    "segment",
    "counted 10",
    "counted 11",
    "segment",
    "counted 20",
    "counted 21",
    "segment",
    "counted 30",
    "counted 31",
];

/// How many of [`WHOLE`] lie before byte `at` of segment `index`.
fn before(segments: &[(PathBuf, Vec<u8>)], index: usize, at: usize) -> usize {
    let count = |bytes: &[u8], upto: usize| {
        frames(bytes)
            .filter_map(Result::ok)
            .filter(|frame| frame.offset + frame.bytes.len() <= upto)
            .filter(|frame| frame.kind != decode::kind::STREAM)
            .count()
    };
    (0..index)
        .map(|n| count(&segments[n].1, usize::MAX))
        .sum::<usize>()
        + count(&segments[index].1, at)
}

#[test]
fn a_death_at_every_byte_loses_no_record_before_it() {
    let (dead, segments) = dead_stream();
    for cut in 0..=segments[2].1.len() {
        let disk = dead.copy();
        disk.tamper(&segments[2].0, |bytes| bytes.truncate(cut));
        let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
        let repairs = backlog.adopt(&at(9)).unwrap();
        assert_eq!(repairs.len(), 1);
        assert!(repairs[0].quarantined.is_empty(), "a torn end is no damage");
        let (whole, told) = (before(&segments, 2, cut), told(&disk));
        assert_eq!(told[..whole], WHOLE[..whole]);
        assert_eq!(
            told[whole..],
            [format!("end Adopted {}", repairs[0].cut_bytes)]
        );
        assert!(backlog.adopt(&at(10)).unwrap().is_empty(), "once is enough");
    }
}

#[test]
fn every_flipped_bit_is_set_aside_and_declared_and_what_is_before_it_stays() {
    let (dead, segments) = dead_stream();
    for index in 0..3 {
        for flip in 0..segments[index].1.len() {
            let disk = dead.copy();
            disk.tamper(&segments[index].0, |bytes| bytes[flip] ^= 0x10);
            let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
            let repair = backlog.adopt(&at(9)).unwrap().remove(0);
            let (whole, told) = (before(&segments, index, flip), told(&disk));
            let first_lost = index == 0 && whole == 0;
            if !first_lost {
                assert_eq!(told[..whole], WHOLE[..whole], "{index}/{flip}");
            }
            let damages = told
                .iter()
                .filter(|told| told.starts_with("damage"))
                .count();
            assert_eq!(damages, repair.quarantined.len());
            let last = whole + 1 == WHOLE.len();
            assert_eq!(
                damages == 0,
                last,
                "only the very last record looks like a torn end"
            );
            assert!(told.last().unwrap().starts_with("end Adopted"));
            // every byte that left the stream lies in quarantine, and is what is declared
            for name in &repair.quarantined {
                let path = Path::new(DIR).join(QUARANTINE).join(name);
                let bytes = disk.bytes(&path).unwrap();
                let tail = &segments.iter().map(|(_, bytes)| bytes.len()).max().unwrap();
                assert!(!bytes.is_empty() && bytes.len() <= *tail);
            }
            assert!(backlog.adopt(&at(10)).unwrap().is_empty(), "once is enough");
        }
    }
}

#[test]
fn a_repair_that_is_cut_short_is_finished_by_the_next() {
    let (dead, segments) = dead_stream();
    dead.tamper(&segments[1].0, |bytes| bytes[60] ^= 1);
    for (path, _) in &segments {
        dead.open(path).unwrap().sync().unwrap();
        sync_names(&dead, Path::new(DIR), path.parent().unwrap()).unwrap();
    }
    let adopt = |disk: &MemoryDisk| {
        let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
        backlog.adopt(&at(9)).unwrap()
    };
    // what is set aside, by name
    let aside = |disk: &MemoryDisk| {
        let mut files = disk.files();
        files.retain(|path| path.starts_with(Path::new(DIR).join(QUARANTINE)));
        files
            .into_iter()
            .map(|path| (disk.bytes(&path).unwrap(), path))
            .collect::<Vec<_>>()
    };
    // the bytes that the death of the repairer itself left are cut and counted like any others
    let found = |disk: &MemoryDisk| {
        let mut told = told(disk);
        assert!(told.pop().unwrap().starts_with("end Adopted"));
        (told, aside(disk))
    };
    let reference = dead.copy();
    adopt(&reference);
    let expected = found(&reference);
    assert_eq!(expected.1.len(), 2);
    for bytes in (0..700).step_by(13) {
        // the death is in the first, second or third write; power may go with it
        for (writes, power) in [
            (0, false),
            (1, false),
            (2, false),
            (0, true),
            (1, true),
            (2, true),
        ] {
            let disk = dead.copy();
            for _ in 0..writes {
                disk.fail(Fault::Full(usize::MAX));
            }
            disk.fail(Fault::Dies(bytes));
            adopt(&disk);
            disk.revive();
            for keep in 0..2 {
                if power {
                    disk.power_loss(&mut |n| keep.min(n - 1));
                }
                adopt(&disk);
                assert_eq!(found(&disk), expected, "{bytes} {writes} {power}");
            }
        }
    }
}

#[test]
fn an_ack_file_that_lies_or_breaks_loses_nothing_in_silence() {
    let (disk, segments) = dead_stream();
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    backlog.adopt(&at(9)).unwrap();
    let id = backlog.streams().unwrap()[0].id;
    assert_eq!(
        backlog.ack(id, 99).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    backlog.ack(id, 7).unwrap();
    backlog.collect(&at(9)).unwrap();
    assert!(disk.bytes(&segments[0].0).is_none() && disk.bytes(&segments[1].0).is_none());
    let ack = segments[0].0.with_file_name(ACK);
    disk.tamper(&ack, |bytes| bytes.truncate(10));
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    let state = backlog.streams().unwrap()[0];
    assert_eq!(
        (state.next_unacked, state.last_seq),
        (8, 11),
        "what is here is offered again"
    );
    let slice = backlog.read(id, 8, 100, 1 << 20).unwrap().unwrap();
    assert_eq!((slice.first_seq, slice.last_seq), (8, 11));
}

#[test]
fn reading_gives_at_least_one_record_and_no_more_than_asked() {
    let disk = memory();
    let entropy = Box::new(CountingEntropy(3));
    let boxed = Box::new(disk.clone());
    let mut spool = Spool::new(DIR.into(), boxed, describe(), &[audit_key()], entropy);
    spool
        .append(&[nobody(), intent(1, 3 << 20), counted(2, 2)], &at(2))
        .unwrap();
    for n in 3..300 {
        spool.append(&[counted(n, n)], &at(n)).unwrap();
    }
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk));
    let state = backlog.streams().unwrap()[0];
    let read = |backlog: &mut Backlog, from, records, bytes| {
        let slice = backlog.read(state.id, from, records, bytes).unwrap();
        slice.map(|slice| (slice.first_seq, slice.last_seq, slice.frames.len()))
    };
    let (first, last, bytes) = read(&mut backlog, 4, 10, 1000).unwrap();
    assert_eq!((first, last), (4, 4));
    assert!(bytes > 3 << 20, "larger than asked, and still given");
    assert_eq!(
        read(&mut backlog, 100, 7, 1 << 20).map(|read| (read.0, read.1)),
        Some((100, 106))
    );
    let (first, last, bytes) = read(&mut backlog, 200, 100, 300).unwrap();
    assert!(first == 200 && last > 200 && bytes <= 300);
    assert_eq!(read(&mut backlog, 0, 7, 1), None);
    assert_eq!(read(&mut backlog, state.last_seq + 1, 7, 1), None);
    for from in 1..=state.last_seq {
        let slice = backlog.read(state.id, from, 1, 1).unwrap().unwrap();
        let tail = verify_chain(slice.prev_hash, &slice.frames).unwrap();
        assert_eq!(tail.first_seq, from);
    }
}

/// The spool of `tests/data/spool/v2`: two segments, of which the first is acknowledged, and the
/// beginning of a third whose writer died.
fn vector() -> BTreeMap<PathBuf, Vec<u8>> {
    let disk = memory();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1).with_caps(Caps {
        segment_age_us: 1,
        ..Caps::default()
    });
    spool
        .append(&[counted(1, 10), counted(1, 11)], &at(1))
        .unwrap();
    spool
        .append(&[counted(2, 20), counted(2, 21)], &at(2))
        .unwrap();
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    let id = backlog.streams().unwrap()[0].id;
    backlog.ack(id, 4).unwrap();
    disk.fail(Fault::Dies(100));
    assert!(spool.append(&[counted(3, 30)], &at(3)).is_err());
    let below = |path: PathBuf| {
        let bytes = disk.bytes(&path)?;
        Some((path.strip_prefix(DIR).ok()?.to_owned(), bytes))
    };
    disk.files().into_iter().filter_map(below).collect()
}

#[test]
fn the_published_spool_is_read_and_written_as_it_stands() {
    let published = Path::new("tests/data/spool/v2");
    let written = vector();
    assert_eq!(written.len(), 5, "{:?}", written.keys());
    let temp = tempfile::tempdir().unwrap();
    for (name, bytes) in written {
        let stored = std::fs::read(published.join(&name)).unwrap();
        assert!(
            stored == bytes,
            "{name:?} is not what a writer of this version writes"
        );
        let copy = temp.path().join(&name);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::write(copy, stored).unwrap();
    }
    check_published(temp.path());
}

#[test]
fn the_spool_of_version_1_is_still_read() {
    let temp = tempfile::tempdir().unwrap();
    let published = Path::new("tests/data/spool/v1");
    for name in vector().into_keys() {
        let copy = temp.path().join(&name);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(published.join(&name), copy).unwrap();
    }
    check_published(temp.path());
}

fn check_published(dir: &Path) {
    let mut backlog = Backlog::open(dir.to_owned());
    let state = backlog.streams().unwrap()[0];
    assert_eq!(
        (state.next_unacked, state.last_seq, state.ended),
        (5, 7, false)
    );
    assert_eq!(backlog.adopt(&at(9)).unwrap()[0].cut_bytes, 100);
    let state = backlog.streams().unwrap()[0];
    assert_eq!(
        (state.next_unacked, state.last_seq, state.ended),
        (5, 8, true)
    );
    let slice = backlog.read(state.id, 5, 10, 1 << 20).unwrap().unwrap();
    verify_chain(slice.prev_hash, &slice.frames).unwrap();
}
