//! Where the driver's records go: the spool, here or on its thread.
//!
//! Records of class `process` are appended here, all of a drained batch in one write. A batch
//! that must be synced, and any batch while the last append took longer than
//! [`limits::SLOW_APPEND_US`], goes to the thread together with the spool; until it comes back,
//! later batches wait, and then go in one piece. So each sync covers all that came during the
//! one before it.

use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use crate::audit::entry::{Body, Entry};
use crate::clock::{Clock as _, Now, SystemClock};
use crate::limits;
use crate::registry::doc::{AuditKeyDoc, DurabilityClass};
use crate::session::Ticket;
use crate::spool::Spool;

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
    pub(super) fn new(spool: Spool, clock: SystemClock) -> Self {
        Self {
            place: Place::Here(Box::new(spool), None),
            batch: Batch::default(),
            keys: None,
            slow: false,
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
    pub(super) fn settle(&mut self) -> Vec<Settled> {
        if self.batch.entries.is_empty() {
            return Vec::new();
        }
        let batch = match &self.place {
            // it goes when the spool is back
            Place::Away(_) => return Vec::new(),
            Place::Here(..) | Place::Nowhere(_) => std::mem::take(&mut self.batch),
        };
        match std::mem::replace(&mut self.place, Place::Nowhere(String::new())) {
            Place::Here(spool, thread) if self.slow || batch.wants_sync() => {
                self.send_off(spool, thread, batch)
            }
            Place::Here(mut spool, thread) => {
                let start = self.clock.now();
                let settled = batch.record(&mut spool, &start);
                let took_us = self.clock.now().mono_us.saturating_sub(start.mono_us);
                self.slow = took_us > limits::SLOW_APPEND_US;
                self.batch = batch.emptied();
                self.place = Place::Here(spool, thread);
                settled
            }
            Place::Nowhere(reason) => {
                let settled = batch.all(|upto| Settled::NotRecorded {
                    upto,
                    reason: reason.clone(),
                });
                self.place = Place::Nowhere(reason);
                settled
            }
            away @ Place::Away(_) => {
                self.place = away;
                Vec::new()
            }
        }
    }

    fn send_off(
        &mut self,
        mut spool: Box<Spool>,
        thread: Option<Thread>,
        batch: Batch,
    ) -> Vec<Settled> {
        let thread = match thread.map_or_else(|| Thread::start(self.clock.clone()), Ok) {
            Ok(thread) => thread,
            Err(error) => {
                // as slow as the disk is, but recorded
                tracing::warn!(%error, "The spool has no thread of its own.");
                let settled = batch.record(&mut spool, &self.clock.now());
                self.place = Place::Here(spool, None);
                return settled;
            }
        };
        match thread.jobs.send(Job { spool, batch }) {
            Ok(()) => {
                self.place = Place::Away(thread);
                Vec::new()
            }
            Err(unsent) => {
                let mut job = unsent.0;
                let settled = job.batch.record(&mut job.spool, &self.clock.now());
                self.place = Place::Here(job.spool, None);
                settled
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

impl Thread {
    fn start(clock: SystemClock) -> std::io::Result<Self> {
        let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
        let (outbox, done) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                while let Ok(mut job) = inbox.recv() {
                    let start = clock.now();
                    let mut settled = job.batch.record(&mut job.spool, &start);
                    let took_us = clock.now().mono_us.saturating_sub(start.mono_us);
                    if job.batch.wants_sync()
                        && let Err(error) = job.spool.sync()
                    {
                        settled = job.batch.all(|upto| Settled::NotRecorded {
                            upto,
                            reason: error.to_string(),
                        });
                    }
                    let done = Done {
                        spool: job.spool,
                        settled,
                        took_us,
                    };
                    if outbox.send(done).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { jobs, done })
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

    fn all(&self, answer: impl FnOnce(Ticket) -> Settled) -> Vec<Settled> {
        self.tickets
            .last()
            .copied()
            .map(answer)
            .into_iter()
            .collect()
    }

    /// Whether a rule wants one of these to survive loss of power. A class that wants more gets
    /// this much (`docs/limitations.md`).
    fn wants_sync(&self) -> bool {
        let class = |entry: &Entry| match &entry.body {
            Body::Denial { facts, .. } | Body::Intent(facts) => facts.audit.class,
            Body::Outcome { audit, .. } => audit.class,
            Body::Context(..) | Body::Counted { .. } | Body::Link { .. } | Body::Loss { .. } => {
                DurabilityClass::Process
            }
        };
        self.entries
            .iter()
            .any(|entry| class(entry) > DurabilityClass::Process)
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
    use std::path::Path;

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
        Recorder::new(spool, SystemClock::new())
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
        assert_eq!(recorder.settle(), []);
        recorder.push(Ticket(1), entry(DurabilityClass::Process));
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(), recorded(2));
        assert!(!recorder.is_away());
    }

    #[tokio::test]
    async fn a_batch_of_class_disk_is_settled_by_the_thread_and_what_comes_meanwhile_waits() {
        let temp = tempfile::tempdir().unwrap();
        let mut recorder = recorder(temp.path());
        recorder.push(Ticket(1), entry(DurabilityClass::Disk));
        assert_eq!(recorder.settle(), []);
        assert!(recorder.is_away());
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        recorder.push(Ticket(3), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(), []);
        assert_eq!(poll_fn(|cx| recorder.poll_settled(cx)).await, recorded(1));
        assert_eq!(recorder.settle(), recorded(3), "one piece, here again");
    }

    #[tokio::test]
    async fn a_slow_disk_moves_to_its_thread_and_back() {
        let temp = tempfile::tempdir().unwrap();
        let mut recorder = recorder(temp.path());
        recorder.slow = true;
        recorder.push(Ticket(1), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(), []);
        assert_eq!(poll_fn(|cx| recorder.poll_settled(cx)).await, recorded(1));
        assert!(!recorder.slow, "it was quick this time");
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        assert_eq!(recorder.settle(), recorded(2));
    }

    #[test]
    fn what_cannot_be_written_is_said_with_its_reason() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let mut recorder = recorder(&file.join("spool"));
        recorder.push(Ticket(1), entry(DurabilityClass::Process));
        recorder.push(Ticket(2), entry(DurabilityClass::Process));
        let settled = recorder.settle();
        let [Settled::NotRecorded { upto, reason }] = settled.as_slice() else {
            panic!("{settled:?}");
        };
        assert_eq!(*upto, Ticket(2));
        assert!(reason.contains("cannot be written"), "{reason}");
    }
}
