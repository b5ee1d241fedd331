//! After a failed sync the next record begins another stream.

use super::*;
use crate::audit::{ContextTable, json};

/// A process whose first stream has a call without an outcome, and whose sync failed.
fn doubtful(disk: &MemoryDisk) -> Spool {
    let mut spool = spool(Path::new(DIR), disk.clone(), 1);
    spool.set_audit_keys(&[audit_key()]);
    spool.append(&[nobody(), intent(1, 10)], &at(1)).unwrap();
    disk.fail(Fault::SyncFails);
    assert_eq!(spool.sync().unwrap_err().why, Why::SyncFailed);
    spool
}

fn views(disk: &MemoryDisk) -> Vec<serde_json::Value> {
    let mut collector = Collector::default();
    collector.drain(&mut Backlog::on(DIR.into(), Box::new(disk.copy())));
    let mut views = Vec::new();
    for (stream, (_, _, bytes)) in &collector.streams {
        let mut table = ContextTable::new(*stream);
        for frame in frames(bytes) {
            let record = decode(&frame.unwrap()).unwrap();
            table.observe(&record);
            views.push(json(&record, &table));
        }
    }
    views
}

#[test]
fn a_call_that_was_begun_before_ends_in_the_new_stream_with_all_that_is_known_of_it() {
    let disk = memory();
    let mut spool = doubtful(&disk);
    let first = spool.stream().unwrap();
    spool.append(&[outcome(1, 10)], &at(2)).unwrap();
    let second = spool.stream().unwrap();
    assert_ne!(first, second);
    spool.sync().unwrap();
    let views = views(&disk);
    let of = |phase: &str| {
        let mut found = views.iter().filter(|view| view["phase"] == phase);
        found.next().unwrap()
    };
    let intent = of("intent")["event"].as_str().unwrap();
    assert!(intent.starts_with(&first.to_string()), "{intent}");
    assert_eq!(of("carried")["intent"], intent);
    let outcome = of("outcome");
    assert!(
        outcome["event"]
            .as_str()
            .unwrap()
            .starts_with(&second.to_string())
    );
    assert_eq!(outcome["person"], serde_json::Value::Null, "{outcome}");
    assert!(outcome.get("caller_context").is_none(), "{outcome}");
    // the one before is named, so that nobody takes it away unseen
    let header = views
        .iter()
        .rfind(|view| view["phase"] == "stream")
        .unwrap();
    assert_eq!(header["previous"][0]["stream"], first.to_string());
}

#[test]
fn a_stream_whose_sync_works_goes_on() {
    let disk = memory();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1);
    spool.append(&[counted(1, 1)], &at(1)).unwrap();
    let first = spool.stream();
    spool.sync().unwrap();
    spool.append(&[counted(2, 2)], &at(2)).unwrap();
    spool.sync().unwrap();
    assert_eq!(spool.stream(), first);
}

#[test]
fn a_second_sync_confirms_nothing_that_the_first_did_not() {
    let disk = memory();
    let mut spool = doubtful(&disk);
    assert_eq!(spool.sync().unwrap_err().why, Why::SyncFailed);
    spool.append(&[counted(2, 2)], &at(2)).unwrap();
    spool.sync().unwrap();
}

#[test]
fn a_new_stream_that_cannot_begin_refuses_the_call_and_keeps_its_contexts() {
    let disk = memory();
    let mut spool = doubtful(&disk);
    disk.set_read_only(true);
    let context = Entry {
        at: at(2),
        body: Body::Context(
            ContextId(2),
            Arc::new(Context::Caller(CallerContext::Nobody)),
        ),
    };
    let error = spool.append(&[context, intent(2, 10)], &at(2)).unwrap_err();
    assert_eq!((error.why, error.recorded), (Why::ReadOnly, 0));
    disk.set_read_only(false);
    let mut next = intent(3, 10);
    if let Body::Intent(facts) = &mut next.body {
        facts.caller = ContextId(2);
    }
    spool.append(&[next], &at(3)).unwrap();
    let views = views(&disk);
    let called = views
        .iter()
        .rfind(|view| view["phase"] == "intent")
        .unwrap();
    assert_eq!(called["person"], serde_json::Value::Null, "{called}");
    assert!(views.iter().any(|view| view["code"] == "read-only"));
}

#[test]
fn a_process_that_ends_after_a_failed_sync_declares_it_where_it_lasts() {
    let disk = memory();
    let mut spool = doubtful(&disk);
    spool.close(&at(2)).unwrap();
    let told = told(&disk);
    assert_eq!(told.last().unwrap(), "end Closed 0", "{told:?}");
    assert_eq!(told.iter().filter(|told| *told == "segment").count(), 2);
    assert!(told.contains(&"loss 2 sync-failed".to_owned()), "{told:?}");
}

/// Found by the law of what is declared: the stream then named neither its writer nor those before it.
#[test]
fn a_stream_whose_first_write_was_cut_short_still_says_who_writes_it() {
    let disk = memory();
    let mut spool = spool(Path::new(DIR), disk.clone(), 1);
    for room in (0..400).step_by(20) {
        disk.fail(Fault::Full(room));
        drop(spool.append(&[counted(1, 1)], &at(1)));
        disk.revive();
    }
    spool.append(&[counted(2, 2)], &at(2)).unwrap();
    let phases: Vec<_> = views(&disk)
        .iter()
        .map(|view| view["phase"].clone())
        .collect();
    assert_eq!(phases[..2], ["segment", "stream"], "{phases:?}");
    assert_eq!(phases.iter().filter(|phase| *phase == "stream").count(), 1);
}
