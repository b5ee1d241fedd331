//! Where the driver's records go: the spool, here or on its thread.
//!
//! Records of class `process` are appended here, all of a drained batch in one write. A batch
//! that must be synced, and any batch while the last append took longer than
//! [`limits::SLOW_APPEND_US`], goes to the thread together with the spool; until it comes back,
//! later batches wait, and then go in one piece. So each sync covers all that came during the
//! one before it. A batch that the collector must have first is waited for on that thread too.

use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::audit::entry::{Body, Entry};
use crate::clock::{Clock as _, Now, SystemClock};
use crate::limits;
use crate::registry::doc::{AuditKeyDoc, DurabilityClass};
use crate::session::Ticket;
use crate::spool::{Backlog, Spool};

/// How long the collector may take to acknowledge a record of its class, in milliseconds…
const ACKNOWLEDGE_MS: u64 = 5_000;
/// …and how often that is looked up.
const LOOK_MS: u64 = 5;

/// What became of entries, in the order of their tickets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    NotRecorded { upto: Ticket, reason: String },
    Recorded { upto: Ticket },
}

/// Entries that are recorded together.
#[derive(Debug, Default)]
struct Batch {
    tickets: Vec<Ticket>,
    entries: Vec<Entry>,
}

/// The spool and the way to it.
#[derive(Debug)]
pub(super) struct Recorder {
    place: Place,
    batch: Batch,
    /// Keys that came while the spool was away.
    keys: Option<Vec<AuditKeyDoc>>,
    slow: bool,
    /// Where the spool lies; empty where there is none.
    dir: PathBuf,
    clock: SystemClock,
}

#[derive(Debug)]
enum Place {
    /// The spool is on its thread.
    Away(Thread),
    Here(Box<Spool>, Option<Thread>),
    /// There is no state directory to keep records in: nothing is recorded.
    Nowhere(String),
}

/// The spool's thread: takes a job, gives it back done.
#[derive(Debug)]
struct Thread {
    jobs: std::sync::mpsc::Sender<Job>,
    done: mpsc::UnboundedReceiver<Done>,
}

struct Job {
    spool: Box<Spool>,
    batch: Batch,
}

struct Done {
    spool: Box<Spool>,
    settled: Vec<Settled>,
    took_us: u64,
}

impl Recorder {
    /// `dir` is where the spool lies.
    pub(super) fn new(spool: Spool, dir: PathBuf, clock: SystemClock) -> Self {
        Self {
            place: Place::Here(Box::new(spool), None),
            batch: Batch::default(),
            keys: None,
            slow: false,
            dir,
            clock,
        }
    }

    /// One that refuses everything, for the reason given.
    pub(super) fn nowhere(reason: String, clock: SystemClock) -> Self {
        Self {
            place: Place::Nowhere(reason),
            batch: Batch::default(),
            keys: None,
            slow: false,
            dir: PathBuf::new(),
            clock,
        }
    }

    /// Adds an entry to the batch.
    pub(super) fn push(&mut self, ticket: Ticket, entry: Entry) {
        self.batch.tickets.push(ticket);
        self.batch.entries.push(entry);
    }

    pub(super) fn set_audit_keys(&mut self, keys: &[AuditKeyDoc]) {
        match &mut self.place {
            Place::Away(_) => self.keys = Some(keys.to_vec()),
            Place::Here(spool, _) => spool.set_audit_keys(keys),
            Place::Nowhere(_) => {}
        }
    }

    /// Records the batch, or sends it off; says what is settled already.
    pub(super) fn settle(&mut self, now: &Now) -> Vec<Settled> {
        if self.batch.entries.is_empty() {
            return Vec::new();
        }
        let batch = match &self.place {
            // it goes when the spool is back
            Place::Away(_) => return Vec::new(),
            Place::Here(..) | Place::Nowhere(_) => std::mem::take(&mut self.batch),
        };
        match std::mem::replace(&mut self.place, Place::Nowhere(String::new())) {
            Place::Here(spool, thread) if self.slow || batch.class() > DurabilityClass::Process => {
                self.send_off(spool, thread, batch)
            }
            Place::Here(mut spool, thread) => {
                let settled = batch.record(&mut spool, now);
                // since the turn began, which spares a reading: the rest of a turn takes far less
                let took_us = self.clock.mono_us().saturating_sub(now.mono_us);
                self.slow = took_us > limits::SLOW_APPEND_US;
                self.batch = batch.emptied();
                self.place = Place::Here(spool, thread);
                settled
            }
            Place::Nowhere(reason) => {
                let settled = batch.none(reason.clone());
                self.place = Place::Nowhere(reason);
                settled
            }
            away @ Place::Away(_) => {
                self.place = away;
                Vec::new()
            }
        }
    }

    fn start_thread(&self) -> std::io::Result<Thread> {
        let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
        let (outbox, done) = mpsc::unbounded_channel();
        let (dir, clock) = (self.dir.clone(), self.clock.clone());
        std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                while let Ok(job) = inbox.recv() {
                    if outbox.send(work(job, &dir, &clock)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Thread { jobs, done })
    }

    fn send_off(
        &mut self,
        spool: Box<Spool>,
        thread: Option<Thread>,
        batch: Batch,
    ) -> Vec<Settled> {
        let thread = match thread.map_or_else(|| self.start_thread(), Ok) {
            Ok(thread) => thread,
            Err(error) => {
                // as slow as the disk is, but as the rules want it
                tracing::warn!(%error, "The spool has no thread of its own.");
                let done = work(Job { spool, batch }, &self.dir, &self.clock);
                self.place = Place::Here(done.spool, None);
                return done.settled;
            }
        };
        match thread.jobs.send(Job { spool, batch }) {
            Ok(()) => {
                self.place = Place::Away(thread);
                Vec::new()
            }
            Err(unsent) => {
                let done = work(unsent.0, &self.dir, &self.clock);
                self.place = Place::Here(done.spool, None);
                done.settled
            }
        }
    }

    /// What the thread has settled. Pending for ever while the spool is here.
    pub(super) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Settled>> {
        let Place::Away(thread) = &mut self.place else {
            return Poll::Pending;
        };
        let done = ready!(thread.done.poll_recv(cx));
        let away = std::mem::replace(&mut self.place, Place::Nowhere(String::new()));
        match (done, away) {
            (Some(mut done), Place::Away(thread)) => {
                self.slow = done.took_us > limits::SLOW_APPEND_US;
                if let Some(keys) = self.keys.take() {
                    done.spool.set_audit_keys(&keys);
                }
                self.place = Place::Here(done.spool, Some(thread));
                Poll::Ready(done.settled)
            }
            (_, _) => {
                // the thread panicked; its spool is gone with it
                let reason = "the record of calls cannot be written any more".to_owned();
                self.place = Place::Nowhere(reason);
                Poll::Ready(Vec::new())
            }
        }
    }

    /// Whether the thread still has work of ours.
    pub(super) fn is_away(&self) -> bool {
        matches!(self.place, Place::Away(_))
    }

    /// Ends the stream. A spool that is on its thread ends without: the next reader sees that
    /// the process is gone.
    pub(super) fn close(&mut self) {
        if let Place::Here(spool, _) = &mut self.place
            && let Err(error) = spool.close(&self.clock.now())
        {
            tracing::warn!(%error, "The stream of records has no end.");
        }
    }
}

/// Does a job where it may take its time.
fn work(mut job: Job, dir: &Path, clock: &SystemClock) -> Done {
    let start = clock.now();
    let mut settled = job.batch.record(&mut job.spool, &start);
    let took_us = clock.mono_us().saturating_sub(start.mono_us);
    let class = job.batch.class();
    if class >= DurabilityClass::Disk
        && let Err(error) = job.spool.sync()
    {
        settled = job.batch.none(error.to_string());
    } else if class == DurabilityClass::Collector && !is_acknowledged(&job.spool, dir, clock) {
        let seconds = ACKNOWLEDGE_MS / 1000;
        settled = job.batch.none(format!(
            "the collector did not acknowledge the record within {seconds} s"
        ));
    }
    Done {
        spool: job.spool,
        settled,
        took_us,
    }
}

/// Waits until the collector has everything. The shipper writes how far it has it.
fn is_acknowledged(spool: &Spool, dir: &Path, clock: &SystemClock) -> bool {
    let deadline_us = clock.mono_us() + ACKNOWLEDGE_MS * 1000;
    let mut backlog = Backlog::open(dir.to_owned());
    loop {
        let streams = backlog.streams().unwrap_or_default();
        let ours = streams.iter().find(|s| Some(s.id) == spool.stream());
        if ours.is_some_and(|stream| stream.next_unacked > spool.last_seq()) {
            return true;
        }
        if clock.mono_us() >= deadline_us {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(LOOK_MS));
    }
}

impl Batch {
    /// Appends everything; each answer of the spool settles a part.
    fn record(&self, spool: &mut Spool, now: &Now) -> Vec<Settled> {
        let mut settled = Vec::new();
        let mut at = 0;
        while let Some(rest) = self.entries.get(at..).filter(|rest| !rest.is_empty()) {
            let ticket = |index: usize| self.tickets.get(index).copied().unwrap_or_default();
            match spool.append(rest, now) {
                Ok(()) => {
                    at = self.entries.len();
                    settled.push(Settled::Recorded {
                        upto: ticket(at - 1),
                    });
                }
                Err(error) => {
                    if error.recorded > 0 {
                        at += error.recorded;
                        settled.push(Settled::Recorded {
                            upto: ticket(at - 1),
                        });
                    }
                    // every answer settles at least one entry; the loop ends even if one did not
                    let lost = match error.recorded {
                        0 => error.lost.max(1),
                        _ => error.lost,
                    };
                    if lost > 0 {
                        at += lost;
                        settled.push(Settled::NotRecorded {
                            upto: ticket(at - 1),
                            reason: error.to_string(),
                        });
                    }
                }
            }
        }
        settled
    }

    /// Nothing of it counts as recorded, for this reason.
    fn none(&self, reason: String) -> Vec<Settled> {
        let last = self.tickets.last().copied();
        last.map(|upto| Settled::NotRecorded { upto, reason })
            .into_iter()
            .collect()
    }

    /// The strictest class that a rule wants for one of these.
    fn class(&self) -> DurabilityClass {
        let class = |entry: &Entry| match &entry.body {
            Body::Denial { facts, .. } | Body::Intent(facts) => facts.audit.class,
            Body::Outcome { audit, .. } => audit.class,
            Body::Context(..) | Body::Counted { .. } | Body::Link { .. } | Body::Loss { .. } => {
                DurabilityClass::Process
            }
        };
        let classes = self.entries.iter().map(class);
        classes.max().unwrap_or(DurabilityClass::Process)
    }

    /// The same room, empty.
    fn emptied(mut self) -> Self {
        self.tickets.clear();
        self.entries.clear();
        self
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::audit::encode::StreamHeader;
    use crate::audit::entry::End;
    use crate::clock::CountingEntropy;
    use crate::ids::{CallId, KeyId, OrgId};
    use crate::registry::doc::AuditRule;
    use crate::secret::Content;
    use crate::spool::RealDisk;

    fn recorder(dir: &Path) -> Recorder {
        let describe = |stream, now: &Now| StreamHeader {
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
        };
        let spool = Spool::new(
            dir.to_owned(),
            Box::new(RealDisk),
            Box::new(describe),
            &[],
            Box::new(CountingEntropy(1)),
        );
        Recorder::new(spool, dir.to_owned(), SystemClock::new())
    }

    fn entry(class: DurabilityClass) -> Entry {
        Entry {
            at: Now::default(),
            body: Body::Outcome {
                call: CallId(1),
                leg: 0,
                end: End::Ok,
                took_us: 1,
                content: Content::default(),
                audit: AuditRule {
                    class,
                    ..AuditRule::default()
                },
            },
        }
    }

    fn recorded(upto: u64) -> Vec<Settled> {
        vec![Settled::Recorded { upto: Ticket(upto) }]
    }

    #[test]
    fn a_batch_of_class_process_is_settled_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let mut recorder = recorder(temp.path());
        assert_eq!(recorder.settle(&Now::default()), []);
        recorder.push(Ticket(1), entry(DurabilityClass::Process));
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(&Now::default()), recorded(2));
        assert!(!recorder.is_away());
    }

    #[tokio::test]
    async fn a_batch_of_class_disk_is_settled_by_the_thread_and_what_comes_meanwhile_waits() {
        let temp = tempfile::tempdir().unwrap();
        let mut recorder = recorder(temp.path());
        recorder.push(Ticket(1), entry(DurabilityClass::Disk));
        assert_eq!(recorder.settle(&Now::default()), []);
        assert!(recorder.is_away());
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        recorder.push(Ticket(3), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(&Now::default()), []);
        assert_eq!(poll_fn(|cx| recorder.poll_settled(cx)).await, recorded(1));
        assert_eq!(
            recorder.settle(&Now::default()),
            recorded(3),
            "one piece, here again"
        );
    }

    #[tokio::test]
    async fn a_slow_disk_moves_to_its_thread_and_back() {
        let temp = tempfile::tempdir().unwrap();
        let mut recorder = recorder(temp.path());
        recorder.slow = true;
        recorder.push(Ticket(1), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(&Now::default()), []);
        assert_eq!(poll_fn(|cx| recorder.poll_settled(cx)).await, recorded(1));
        assert!(!recorder.slow, "it was quick this time");
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(&Now::default()), recorded(2));
    }

    #[tokio::test]
    async fn a_batch_of_class_collector_waits_until_it_is_acknowledged() {
        let temp = tempfile::tempdir().unwrap();
        let mut recorder = recorder(temp.path());
        recorder.push(Ticket(1), entry(DurabilityClass::Collector));
        assert_eq!(recorder.settle(&Now::default()), []);
        let mut backlog = Backlog::open(temp.path().to_owned());
        let stream = loop {
            // the shipper's part: take what is there, deliver it, write down that it was taken
            let streams = backlog.streams().unwrap_or_default();
            if let Some(stream) = streams.first().filter(|stream| stream.last_seq > 0) {
                break *stream;
            }
            tokio::task::yield_now().await;
        };
        let still_waits = poll_fn(|cx| Poll::Ready(recorder.poll_settled(cx).is_pending()));
        assert!(still_waits.await);
        backlog.ack(stream.id, stream.last_seq).unwrap();
        assert_eq!(poll_fn(|cx| recorder.poll_settled(cx)).await, recorded(1));
    }

    #[test]
    fn what_cannot_be_written_is_said_with_its_reason() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let mut recorder = recorder(&file.join("spool"));
        recorder.push(Ticket(1), entry(DurabilityClass::Process));
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        let settled = recorder.settle(&Now::default());
        let [Settled::NotRecorded { upto, reason }] = settled.as_slice() else {
            panic!("{settled:?}");
        };
        assert_eq!(*upto, Ticket(2));
        assert!(reason.contains("cannot be written"), "{reason}");
    }
}
