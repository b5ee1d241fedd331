//! A stream names those before it, also when they were delivered and deleted.

use super::*;

/// A process that records once and ends well; its stream.
fn session(disk: &MemoryDisk, n: u64) -> StreamId {
    let mut spool = spool(Path::new(DIR), disk.clone(), n);
    spool.append(&[counted(n, n)], &at(n)).unwrap();
    let stream = spool.stream().unwrap();
    spool.close(&at(n)).unwrap();
    stream
}

/// Delivers and deletes everything.
fn deliver(disk: &MemoryDisk, collector: &mut Collector) {
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    backlog.adopt(&at(9)).unwrap();
    collector.drain(&mut backlog);
    backlog.collect(&at(9)).unwrap();
}

/// What a stream that the collector has names.
fn named(collector: &Collector, stream: StreamId) -> Vec<Previous> {
    let mut named = None;
    collector.said(|of, said| {
        if let Said::Stream(header) = said
            && of == stream
        {
            named = Some(header.previous.clone());
        }
    });
    named.unwrap()
}

/// The end of a stream that the collector has.
fn end(collector: &Collector, stream: StreamId) -> Previous {
    let (seq, hash, _) = &collector.streams[&stream];
    Previous {
        stream,
        at_least: *seq,
        hash: *hash,
    }
}

fn remembered(disk: &MemoryDisk) -> Vec<StreamId> {
    let streams = delivered::read(disk, Path::new(DIR));
    streams.into_iter().map(|one| one.stream).collect()
}

#[test]
fn next_stream_names_the_end_of_one_that_was_delivered_and_deleted() {
    let (disk, mut collector) = (memory(), Collector::default());
    let first = session(&disk, 1);
    deliver(&disk, &mut collector);
    assert_eq!(remembered(&disk), [first]);
    let second = session(&disk, 2);
    deliver(&disk, &mut collector);
    assert_eq!(named(&collector, first), []);
    assert_eq!(named(&collector, second), [end(&collector, first)]);
    // the link is at the collector now, so the device remembers its last stream only
    assert_eq!(remembered(&disk), [second]);
    // a reader that begins anew knows no less
    let third = session(&disk, 3);
    deliver(&disk, &mut collector);
    assert_eq!(named(&collector, third), [end(&collector, second)]);
}

#[test]
fn streams_that_ran_at_once_are_all_named_at_their_ends() {
    let (disk, mut collector) = (memory(), Collector::default());
    let mut spools: Vec<Spool> = (1..=5)
        .map(|n| spool(Path::new(DIR), disk.clone(), n))
        .collect();
    for (n, spool) in (1..).zip(&mut spools) {
        spool.append(&[counted(n, n)], &at(n)).unwrap();
    }
    let ran: Vec<StreamId> = spools.iter().map(|spool| spool.stream().unwrap()).collect();
    // the second ends first, and is gone while the others run
    spools[1].close(&at(6)).unwrap();
    deliver(&disk, &mut collector);
    assert_eq!(remembered(&disk), [ran[1]]);
    for spool in &mut spools {
        spool.close(&at(7)).unwrap();
    }
    deliver(&disk, &mut collector);
    let next = session(&disk, 8);
    deliver(&disk, &mut collector);
    let mut expected: Vec<Previous> = ran.iter().map(|id| end(&collector, *id)).collect();
    expected.reverse();
    assert_eq!(named(&collector, next), expected, "newest first");
}

#[test]
fn a_stream_that_lies_here_and_in_the_list_is_named_once_and_as_far_as_either_says() {
    let (disk, mut collector) = (memory(), Collector::default());
    let first = session(&disk, 1);
    // a crash after it was put into the list and before it was deleted
    let copy = disk.copy();
    deliver(&copy, &mut collector);
    let list = Path::new(DIR).join(delivered::FILE);
    replace(&disk, &list, &copy.bytes(&list).unwrap()).unwrap();
    let second = session(&disk, 2);
    deliver(&disk, &mut collector);
    assert_eq!(named(&collector, second), [end(&collector, first)]);
}

#[test]
fn a_list_that_cannot_be_read_or_written_stops_neither_records_nor_deletion() {
    let (disk, mut collector) = (memory(), Collector::default());
    session(&disk, 1);
    deliver(&disk, &mut collector);
    let list = Path::new(DIR).join(delivered::FILE);
    disk.tamper(&list, |bytes| bytes.truncate(20));
    let second = session(&disk, 2);
    assert_eq!(remembered(&disk), []);
    // a disk without room for the list: its room comes back all the same
    let used: usize = disk
        .files()
        .iter()
        .map(|path| disk.bytes(path).unwrap().len())
        .sum();
    let mut backlog = Backlog::on(DIR.into(), Box::new(disk.clone()));
    collector.drain(&mut backlog);
    disk.set_room(Some(used as u64));
    assert!(backlog.collect(&at(9)).unwrap() > 0);
    assert!(backlog.streams().unwrap().is_empty());
    disk.set_room(None);
    let third = session(&disk, 3);
    deliver(&disk, &mut collector);
    assert!(
        named(&collector, third)
            .iter()
            .all(|one| one.stream == second)
    );
}

#[test]
fn the_list_keeps_as_many_as_one_stream_names() {
    let disk = memory();
    disk.make_dir(Path::new(DIR)).unwrap();
    let ended = |n: u64| Previous {
        stream: StreamId::new(n, &[0; 10]),
        at_least: n,
        hash: Digest([0; 32]),
    };
    for n in 1..=70 {
        delivered::remember(&disk, Path::new(DIR), ended(n), &[]).unwrap();
    }
    let kept = delivered::read(&disk, Path::new(DIR));
    assert_eq!((kept.len(), kept[0]), (PREVIOUS, ended(70)));
    // one that names some of them, but one not to its end
    let named = [(ended(70).stream, 70), (ended(69).stream, 68)];
    delivered::remember(&disk, Path::new(DIR), ended(71), &named).unwrap();
    let kept = delivered::read(&disk, Path::new(DIR));
    assert_eq!(kept[..2], [ended(71), ended(69)]);
}
