//! The spool on a real file system: many processes, sudden death, a full disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcpshim::audit::decode::{Said, SegmentHeader};
use mcpshim::audit::entry::{
    Body, CallFacts, CallerContext, Context, ContextId, Correlation, Entry,
};
use mcpshim::audit::{
    ContextTable, DataKey, StreamHeader, decode, frame, frames, generate_audit_key, json,
    verify_chain,
};
use mcpshim::clock::{Clock as _, Now, SystemClock, SystemEntropy};
use mcpshim::ids::{CallId, Digest, KeyId, OrgId, StreamId};
use mcpshim::registry::doc::{AuditKeyDoc, AuditRule, Capture};
use mcpshim::secret::Content;
use mcpshim::spool::{Backlog, Caps, RealDisk, Spool, Why};

/// Tells [`writer_process`] where to write. Unset in every other run of it.
const DIR_VARIABLE: &str = "MCPSHIM_TEST_SPOOL_DIR";

fn open(dir: &Path, keys: &[AuditKeyDoc]) -> Spool {
    let describe = Box::new(|stream, now: &Now| StreamHeader {
        stream,
        org: OrgId::parse("example").unwrap(),
        machine_id: "machine".to_owned(),
        installation: KeyId::parse("ab12").unwrap(),
        pid: std::process::id(),
        version: "0.1.0".to_owned(),
        started: *now,
        registry: None,
        others: 0,
        previous: Vec::new(),
    });
    let (disk, entropy) = (Box::new(RealDisk), Box::new(SystemEntropy));
    // small segments, so that processes die while they change them, too
    let caps = Caps {
        segment_bytes: 4096,
        ..Caps::default()
    };
    Spool::new(dir.to_owned(), disk, describe, keys, entropy).with_caps(caps)
}

fn counted(at: Now, count: u64) -> Entry {
    Entry {
        at,
        body: Body::Counted {
            code: "parse",
            count,
        },
    }
}

/// Not a test of its own: the process the tests below start and kill. It appends numbered entries
/// and prints each number once it is recorded.
#[test]
fn writer_process() {
    let Ok(dir) = std::env::var(DIR_VARIABLE) else {
        return;
    };
    let clock = SystemClock::new();
    let mut spool = open(Path::new(&dir), &[]);
    let mut out = std::io::stdout();
    for count in 1.. {
        let now = clock.now();
        spool.append(&[counted(now, count)], &now).unwrap();
        // whoever reads is gone: so are we
        if writeln!(out, "recorded {count}")
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
        if count == 3000 {
            spool.close(&clock.now()).unwrap();
            return;
        }
    }
}

fn start_writer(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["spool::writer_process", "--exact", "--nocapture"])
        .env(DIR_VARIABLE, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The highest number the writer said was recorded, once its output has ended.
fn last_recorded(child: &mut Child) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let number = |line: String| line.strip_prefix("recorded ")?.parse::<u64>().ok();
    lines
        .map_while(Result::ok)
        .filter_map(number)
        .last()
        .unwrap_or(0)
}

/// Every record of every stream, as a collector would have taken it.
#[derive(Default)]
struct Collected(BTreeMap<StreamId, (u64, Digest, Vec<u8>)>);

impl Collected {
    fn drain(&mut self, backlog: &mut Backlog) {
        for state in backlog.streams().unwrap() {
            let (seq, hash, bytes) =
                self.0
                    .entry(state.id)
                    .or_insert((0, frame::GENESIS, Vec::new()));
            while let Some(slice) = backlog.read(state.id, *seq + 1, 512, 1 << 20).unwrap() {
                assert_eq!((slice.first_seq, slice.prev_hash), (*seq + 1, *hash));
                let tail = verify_chain(*hash, &slice.frames).unwrap();
                assert_eq!(
                    (tail.last_seq, tail.last_hash),
                    (slice.last_seq, slice.last_hash)
                );
                (*seq, *hash) = (tail.last_seq, tail.last_hash);
                bytes.extend(slice.frames);
            }
            if *seq >= state.next_unacked {
                backlog.ack(state.id, *seq).unwrap();
            }
        }
    }

    fn counts(&self, stream: StreamId) -> Vec<u64> {
        let records = frames(&self.0[&stream].2).map(|frame| decode(&frame.unwrap()).unwrap().said);
        let count = |said| match said {
            Said::Counted { count, .. } => Some(count),
            Said::Damage(damage) => panic!("{damage:?}"),
            _ => None,
        };
        records.filter_map(count).collect()
    }
}

#[test]
fn eight_processes_write_while_one_reads_and_nothing_is_lost_or_mixed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("spool");
    let mut writers: Vec<Child> = (0..8).map(|_| start_writer(&dir)).collect();
    let mut outputs: Vec<_> = writers
        .iter_mut()
        .map(|writer| writer.stdout.take().unwrap())
        .collect();
    let readers: Vec<_> = outputs
        .drain(..)
        .map(|output| std::thread::spawn(move || BufReader::new(output).lines().count()))
        .collect();
    let (mut backlog, mut collected) = (Backlog::open(dir.clone()), Collected::default());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        collected.drain(&mut backlog);
        let now = SystemClock::new().now();
        backlog.collect(&now).unwrap();
        if writers
            .iter_mut()
            .all(|writer| writer.try_wait().unwrap().is_some())
        {
            break;
        }
        assert!(Instant::now() < deadline, "the writers take too long");
        std::thread::sleep(Duration::from_millis(5));
    }
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    readers
        .into_iter()
        .for_each(|reader| assert!(reader.join().unwrap() > 3000));
    collected.drain(&mut backlog);
    assert_eq!(collected.0.len(), 8);
    for stream in collected.0.keys() {
        assert_eq!(collected.counts(*stream), (1..=3000).collect::<Vec<u64>>());
    }
    backlog.streams().unwrap();
    backlog.collect(&SystemClock::new().now()).unwrap();
    let left = std::fs::read_dir(&dir).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(
        left,
        ["delivered"],
        "all is delivered, nothing else is left"
    );
}

#[test]
fn whatever_was_recorded_survives_sigkill() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("spool");
    let clock = SystemClock::new();
    let mut recorded = Vec::new();
    for round in 0..40_u64 {
        let mut writer = start_writer(&dir);
        // from "before it has begun" to "in the middle of it"
        std::thread::sleep(Duration::from_micros(1500 * round));
        writer.kill().unwrap();
        recorded.push(last_recorded(&mut writer));
        writer.wait().unwrap();
    }
    let mut backlog = Backlog::open(dir);
    backlog.adopt(&clock.now()).unwrap();
    let mut collected = Collected::default();
    collected.drain(&mut backlog);
    let mut arrived: Vec<u64> = collected
        .0
        .keys()
        .map(|stream| {
            let counts = collected.counts(*stream);
            let dense: Vec<u64> = (1..=counts.len() as u64).collect();
            assert_eq!(counts, dense);
            counts.len() as u64
        })
        .collect();
    // streams come in the order of their processes; those that died before their first record
    // have none
    arrived.retain(|count| *count > 0);
    let promised: Vec<u64> = recorded.into_iter().filter(|count| *count > 0).collect();
    assert!(
        promised.len() > 5,
        "too few processes lived long enough: {promised:?}"
    );
    let mut rest = arrived.iter();
    for count in promised {
        let found = rest.find(|arrived| **arrived == count || **arrived == count + 1);
        assert!(
            found.is_some(),
            "{count} were recorded; these arrived: {arrived:?}"
        );
    }
}

#[test]
fn a_full_file_system_refuses_declares_and_recovers() {
    let temp = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::tmpfs(temp.path(), "256k") else {
        eprintln!("SKIPPED: no tmpfs could be mounted here (needs root); nothing was tested");
        return;
    };
    let (dir, ballast) = (mount.0.join("spool"), mount.0.join("ballast"));
    let clock = SystemClock::new();
    let mut spool = open(&dir, &[]);
    let mut next = 1;
    let mut refused = BTreeSet::new();
    let mut append = |spool: &mut Spool, refused: &mut BTreeSet<u64>| {
        let now = clock.now();
        let entries: Vec<Entry> = (0..7).map(|n| counted(now, next + n)).collect();
        let result = spool.append(&entries, &now);
        if let Err(error) = &result {
            assert_eq!(error.why, Why::DiskFull, "{error:?}");
            assert_eq!(error.recorded + error.lost, 7);
            refused.extend(next + error.recorded as u64..next + 7);
        }
        next += 7;
        result.is_ok()
    };
    assert!(append(&mut spool, &mut refused));
    std::fs::write(&ballast, vec![0; 128 << 10]).unwrap();
    while append(&mut spool, &mut refused) {}
    assert!(!append(&mut spool, &mut refused));
    std::fs::remove_file(&ballast).unwrap();
    assert!(append(&mut spool, &mut refused), "there is room again");
    spool.close(&clock.now()).unwrap();
    let mut collected = Collected::default();
    collected.drain(&mut Backlog::open(dir));
    let stream = *collected.0.keys().next().unwrap();
    let arrived = collected.counts(stream);
    let expected: Vec<u64> = (1..next).filter(|count| !refused.contains(count)).collect();
    assert_eq!(arrived, expected);
    let declared: u64 = frames(&collected.0[&stream].2)
        .map(|frame| match decode(&frame.unwrap()).unwrap().said {
            Said::Loss {
                count,
                code: "disk-full",
            } => count,
            _ => 0,
        })
        .sum();
    assert_eq!(declared, refused.len() as u64);
}

/// A mounted tmpfs, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(below: &Path, size: &str) -> Option<Self> {
        let path = below.join("small");
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null());
        mount
            .status()
            .is_ok_and(|status| status.success())
            .then_some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "{:?} stays mounted",
            self.0
        );
    }
}

#[test]
fn arguments_are_never_in_clear_on_the_disk_and_only_the_audit_key_reads_them() {
    const CANARY: &[u8] = b"canary-5f1d-the-secret-argument";
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("spool");
    let clock = SystemClock::new();
    let now = clock.now();
    let (private, key) = generate_audit_key(&mut SystemEntropy, 0, u64::MAX).unwrap();
    let context = |id, context| Entry {
        at: now,
        body: Body::Context(ContextId(id), Arc::new(context)),
    };
    let rule = |capture| AuditRule {
        arguments: capture,
        results: capture,
        ..AuditRule::default()
    };
    let facts = |call, capture| CallFacts {
        call: CallId(call),
        leg: 0,
        caller: ContextId(1),
        client: ContextId(1),
        target: ContextId(1),
        registry: None,
        rule: ContextId(1),
        credential: None,
        correlation: Correlation::default(),
        content: Content(bytes::Bytes::from_static(CANARY)),
        audit: rule(capture),
    };
    let mut spools = [open(&dir, std::slice::from_ref(&key)), open(&dir, &[])];
    for spool in &mut spools {
        let mut entries = vec![context(1, Context::Caller(CallerContext::Nobody))];
        for (call, capture) in (1..).zip([Capture::None, Capture::Digest, Capture::Full]) {
            let body = Body::Denial {
                facts: facts(call, capture),
                code: "not-granted",
            };
            entries.push(Entry { at: now, body });
            entries.push(Entry {
                at: now,
                body: Body::Intent(facts(call, capture)),
            });
        }
        spool.append(&entries, &now).unwrap();
        spool.close(&now).unwrap();
    }
    let mut files = 0;
    for stream in std::fs::read_dir(&dir).unwrap() {
        let path = stream.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(path).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            files += 1;
            assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY));
        }
    }
    assert_eq!(files, 2);
    let mut collected = Collected::default();
    collected.drain(&mut Backlog::open(dir));
    let (mut opened, mut matched) = (0, 0);
    for (stream, (_, _, bytes)) in &collected.0 {
        let mut segment: Option<SegmentHeader<'_>> = None;
        let mut table = ContextTable::new(*stream);
        for frame in frames(bytes) {
            let record = decode(&frame.unwrap()).unwrap();
            table.observe(&record);
            let view = json(&record, &table).to_string();
            assert!(!view.contains(std::str::from_utf8(CANARY).unwrap()));
            if let Said::Segment(header) = &record.said {
                segment = Some((**header).clone());
            }
            let Ok(keys) = DataKey::open(segment.as_ref().unwrap(), &private) else {
                continue;
            };
            let clear = table.clear(&record);
            if let Ok(payload) = keys.unseal(&record, clear) {
                assert_eq!(payload.content.0, CANARY);
                opened += 1;
            }
            matched += u32::from(keys.matches(&record, clear, CANARY) == Some(true));
        }
    }
    assert_eq!(
        (opened, matched),
        (2, 2),
        "those of the stream that had a key"
    );
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_the_spool() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state/spool");
    let clock = SystemClock::new();
    let mut spool = open(&dir, &[]);
    spool
        .append(&[counted(clock.now(), 1)], &clock.now())
        .unwrap();
    let mut modes = Vec::new();
    let mut todo = vec![temp.path().join("state")];
    while let Some(path) = todo.pop() {
        let meta = std::fs::metadata(&path).unwrap();
        modes.push((meta.is_dir(), meta.permissions().mode() & 0o777));
        if meta.is_dir() {
            todo.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    modes.sort_unstable();
    modes.dedup();
    assert_eq!(modes, [(false, 0o600), (true, 0o700)]);
}
