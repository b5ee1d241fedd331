use super::*;
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
