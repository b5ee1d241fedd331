use std::collections::{BTreeMap, BTreeSet};

use super::memory::{Fault, MemoryDisk};
use super::*;
use crate::audit::decode::Ending;
use crate::audit::verify_chain;
use crate::clock::CountingEntropy;
use crate::ids::{KeyId, OrgId};

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
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
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
    let mut fresh = |disk: &MemoryDisk| {
        seed += 1000;
        spool(Path::new(DIR), disk.clone(), seed).with_caps(small())
    };
    let mut spools: Vec<Spool> = (0..2).map(|_| fresh(&disk)).collect();
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    let mut collector = Collector::default();
    // promised by each living process, and by those that are gone
    let mut promised = [BTreeSet::new(), BTreeSet::new()];
    let (mut kept, mut durable) = (BTreeSet::new(), BTreeSet::new());
    let mut refused: BTreeMap<StreamId, u64> = BTreeMap::new();
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
                        if let Some(stream) = spools[which].stream() {
                            *refused.entry(stream).or_default() += error.lost as u64;
                        }
                    }
                }
            }
            5 => {
                if spools[which].sync().is_ok() {
                    durable.extend(promised[which].iter().copied());
                }
            }
            6 => {
                // the process ends as it should, or dies
                if u.arbitrary()? {
                    let _closed = spools[which].close(&at(now)).is_ok();
                }
                spools[which] = fresh(&disk);
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
                spools[which] = fresh(&disk);
                kept.append(&mut promised[which]);
                disk.revive();
            }
            13 if power => {
                spools.clear();
                disk.power_loss(&mut |n| u.int_in_range(0..=n - 1).unwrap_or(0));
                spools = vec![fresh(&disk), fresh(&disk)];
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
    let mut declared: BTreeMap<StreamId, u64> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    collector.said(|stream, said| match said {
        Said::Loss { count, code } if *code != "sync-failed" => {
            *declared.entry(stream).or_default() += count;
        }
        Said::End {
            how: Ending::Closed,
            ..
        } => {
            ended.insert(stream);
        }
        Said::Damage(damage) if !power => panic!("{damage:?}"),
        _ => {}
    });
    for stream in ended {
        let refused = refused.get(&stream).copied().unwrap_or_default();
        assert_eq!(declared.get(&stream).copied().unwrap_or_default(), refused);
    }
    let later = now + 2 * backlog::EMPTY_MS;
    backlog.collect(&at(later)).unwrap();
    let mut left = disk.files();
    left.retain(|path| !power || !path.starts_with(format!("{DIR}/{QUARANTINE}")));
    assert!(
        left.is_empty(),
        "everything is delivered, and this is left: {left:?}"
    );
    Ok(())
}
