//! What the session follows beside its calls: registry, sign-in, credentials, requests.
//!
//! ```text
//!   other processes ─▶ state directory ─ rings ─▶ watcher ─▶ snapshots, requests ─▶ driver
//!                            ▲                      ▲  └────▶ run/<pid>.json
//!   registry's source ─▶ poller (one per device) ───┘ when time alone changes an answer
//! ```
//!
//! Two threads of their own, because signatures and TLS would hold up calls; both start at the
//! first real request. The *watcher* sleeps until a file changes or an answer does by time. The
//! *poller* waits in a lock for the process that asks the source; when that one ends it takes over
//! at once.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::assemble::{assemble, session_claims};
use super::notice::{Notices, What};
use super::requests::{self, Request};
use super::run_file::{Restarted, RunFile};
use crate::clock::{Clock as _, Now, SystemClock, SystemEntropy, Utc};
use crate::config::Config;
use crate::fetch::{self, Poller, Refreshed};
use crate::login::{self, Life, Renewal, Seat};
use crate::policy::{Snapshot, SnapshotId};
use crate::report::{Exit, Failure};
use crate::session::report::Report;
use crate::{files, limits, vault};

/// Where changes ring, more of them are waited for this long, in milliseconds: most come in twos.
const GATHER_MS: u64 = 20;
/// Where nobody rings, files are looked at this often, in milliseconds.
const LOOK_MS: u64 = 2_000;
/// The longest sleep before the clock is read again, in milliseconds: a laptop's lid may have been
/// closed meanwhile, and no timer counts that.
const CLOCK_MS: u64 = 120_000;
/// Requests whose end is remembered.
const REQUESTS: usize = 64;

/// What the driver is told.
#[derive(Debug)]
pub(super) enum News {
    /// The vault has changed.
    Credentials,
    /// Servers are to be opened anew.
    Restart(Request),
    /// Registry, login or freshness moved.
    Snapshot(Arc<Snapshot>),
}

/// What the watcher is told.
enum Note {
    /// A file may have changed.
    Look,
    /// The run file is to say this.
    Report(Report),
    Restarted(Restarted),
    /// The source was asked for the first time, well or not.
    Tried,
}

/// Both threads, as the driver holds them.
#[derive(Debug)]
pub(super) struct Watcher {
    news: mpsc::UnboundedReceiver<News>,
    inbox: Sender<Note>,
    run_file: Arc<Mutex<Option<RunFile>>>,
    /// The poller looks at its other end before it asks again.
    _alive: Sender<()>,
}

impl Watcher {
    /// Starts to watch. `snapshot` is the one the session has, `None` while it waits for a first.
    pub(super) fn start(
        config: Config,
        clock: SystemClock,
        snapshot: Option<&Snapshot>,
    ) -> std::io::Result<Self> {
        for dir in [
            config.state_dir.join("trust"),
            requests::dir(&config.state_dir),
        ] {
            files::create_private_dir(&dir)?;
        }
        let (inbox, notes) = std::sync::mpsc::channel();
        let (outbox, news) = mpsc::unbounded_channel();
        let (alive, ended) = std::sync::mpsc::channel();
        let now = clock.now();
        let run_file = RunFile::create(&config.state_dir, std::process::id(), now.unix_s())
            .inspect_err(|error| tracing::warn!(%error, "`mcpshim status` does not see us."));
        let run_file = Arc::new(Mutex::new(run_file.ok()));
        let ring = inbox.clone();
        let watch = Watch {
            // nobody listens any more once the session has ended
            notices: Notices::new(&config, move || ring.send(Note::Look).unwrap_or_default()),
            changes_at: snapshot.and_then(|s| s.changes_at(&now)),
            next: snapshot.map_or(1, |s| s.id().0 + 1),
            waits: snapshot.is_none(),
            config: config.clone(),
            clock: clock.clone(),
            outbox,
            run_file: Arc::clone(&run_file),
            report: Report::default(),
            restarts: Vec::new(),
            known: BTreeSet::new(),
        };
        let tell = inbox.clone();
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch.run(&notes))?;
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || poll(&config, &clock, &tell, &ended))?;
        Ok(Self {
            news,
            inbox,
            run_file,
            _alive: alive,
        })
    }

    /// What is new, if anything is.
    pub(super) fn poll_news(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<News>> {
        self.news.poll_recv(cx)
    }

    /// Lets the run file say this.
    pub(super) fn report(&self, report: Report) {
        self.tell(Note::Report(report));
    }

    /// Confirms a request.
    pub(super) fn restarted(&self, restarted: Restarted) {
        self.tell(Note::Restarted(restarted));
    }

    fn tell(&self, note: Note) {
        // a watcher that is gone has said so in the log
        self.inbox.send(note).unwrap_or_default();
    }

    /// The session is over: its run file goes now, because nobody waits for our threads.
    pub(super) fn end(self) {
        drop(held(&self.run_file).take());
    }
}

/// Size and time of a file.
type Mark = (u64, SystemTime);

fn mark(path: &Path) -> Option<Mark> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}

fn held<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // a panic while a file was written leaves a file that is written anew
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watch {
    config: Config,
    clock: SystemClock,
    notices: Notices,
    outbox: mpsc::UnboundedSender<News>,
    run_file: Arc<Mutex<Option<RunFile>>>,
    report: Report,
    restarts: Vec<Restarted>,
    /// Requests that were passed on.
    known: BTreeSet<String>,
    /// The second at which time alone changes an answer.
    changes_at: Option<u64>,
    next: u64,
    /// The session has no registry yet, and waits for one.
    waits: bool,
}

impl Watch {
    /// Runs until the driver is gone.
    fn run(mut self, notes: &Receiver<Note>) {
        while !self.outbox.is_closed() {
            let note = match self.pause() {
                None => notes.recv().map_err(RecvTimeoutError::from),
                Some(pause) => notes.recv_timeout(pause),
            };
            let mut looks = self.notices.is_polled();
            let mut tried = false;
            match note {
                Ok(Note::Look) => {
                    looks = true;
                    self.gather(notes);
                }
                Ok(Note::Tried) => tried = true,
                Ok(Note::Report(report)) => {
                    self.report = report;
                    self.write();
                }
                Ok(Note::Restarted(restarted)) => {
                    self.confirm(restarted);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let changed = match looks || tried {
                true => self.notices.look(),
                false => BTreeSet::new(),
            };
            self.follow(&changed, tried);
        }
    }

    /// How long to sleep at most; for ever when only a ring can change anything.
    fn pause(&self) -> Option<Duration> {
        let polled = self.notices.is_polled().then_some(LOOK_MS);
        let due = self.changes_at.map(|at| {
            let left_s = at.saturating_sub(self.clock.now().unix_s());
            left_s.saturating_mul(1000).min(CLOCK_MS)
        });
        let pause = [polled, due].into_iter().flatten().min()?;
        Some(Duration::from_millis(pause))
    }

    /// Lets a burst of changes end.
    fn gather(&mut self, notes: &Receiver<Note>) {
        for _ in 0..10 {
            match notes.recv_timeout(Duration::from_millis(GATHER_MS)) {
                Ok(Note::Look | Note::Tried) => {}
                Ok(Note::Report(report)) => {
                    self.report = report;
                    self.write();
                }
                Ok(Note::Restarted(restarted)) => self.confirm(restarted),
                Err(_) => return,
            }
        }
    }

    fn follow(&mut self, changed: &BTreeSet<What>, tried: bool) {
        let now = self.clock.now();
        if changed.contains(&What::Requests) {
            self.pass_on(&now);
        }
        if changed.contains(&What::Credentials) {
            self.say(News::Credentials);
        }
        let due = self.changes_at.is_some_and(|at| now.unix_s() >= at);
        let moved = changed.contains(&What::Registry) || changed.contains(&What::SignIn);
        if moved || due || (self.waits && tried) {
            let snapshot = assemble(&self.config, SnapshotId(self.next), &now);
            self.next += 1;
            self.changes_at = snapshot.changes_at(&now);
            self.waits = false;
            self.say(News::Snapshot(snapshot));
        }
    }

    fn say(&self, news: News) {
        // the driver is gone: the loop sees it
        self.outbox.send(news).unwrap_or_default();
    }

    fn pass_on(&mut self, now: &Now) {
        let pending = requests::pending(&self.config.state_dir, now);
        let ids: BTreeSet<String> = pending.iter().map(|request| request.id.clone()).collect();
        for request in pending {
            if self.known.insert(request.id.clone()) {
                self.say(News::Restart(request));
            }
        }
        if self.known.len() > REQUESTS {
            self.known = ids;
        }
    }

    fn confirm(&mut self, restarted: Restarted) {
        if self.restarts.len() >= REQUESTS {
            self.restarts.remove(0);
        }
        self.restarts.push(restarted);
        self.write();
    }

    fn write(&self) {
        if let Some(file) = &mut *held(&self.run_file)
            && let Err(error) = file.write(self.report.clone(), &self.restarts)
        {
            tracing::debug!(%error, "The run file is not written.");
        }
    }
}

/// Renews the registry for as long as this process lives, once it is its turn.
fn poll(config: &Config, clock: &SystemClock, tell: &Sender<Note>, ended: &Receiver<()>) {
    let lock = match turn(&config.state_dir) {
        Ok(lock) => lock,
        Err(error) => {
            tracing::warn!(%error, "The registry is not renewed here: no lock can be taken.");
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, "The registry is not renewed here.");
            return;
        }
    };
    let mut poller = Poller::new();
    let mut renewer = Renewer::default();
    let mut tried = false;
    loop {
        match runtime.block_on(poller.poll(config, clock)) {
            Ok(Refreshed::Unchanged) => {}
            Ok(Refreshed::Updated(version)) => {
                tracing::info!(version = version.targets, "Registry renewed.");
            }
            Err(error) => tracing::warn!(%error, "The registry was not renewed."),
        }
        // a session may wait for its first registry; nobody is woken for a later one that is not new
        if !std::mem::replace(&mut tried, true) {
            tell.send(Note::Tried).unwrap_or_default();
        }
        renewer.renew(config, clock, &runtime);
        match ended.recv_timeout(Duration::from_secs(limits::POLL_S)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(lock);
}

/// Renews the sign-in of the person, ahead of its end.
#[derive(Debug, Default)]
struct Renewer {
    client: Option<reqwest::Client>,
    /// The sign-in that was looked at last, so that its file is not read for nothing.
    seen: Option<(Option<Mark>, Option<Life>)>,
    /// What went wrong is tried again after this monotonic microsecond.
    not_before_us: u64,
    failures: u32,
}

impl Renewer {
    fn renew(&mut self, config: &Config, clock: &SystemClock, runtime: &Runtime) {
        // agents have keys of their own; without a vault there is nothing to renew with
        if config.agent.is_some() || !vault::exists(config) {
            return;
        }
        let now = clock.now();
        let mark = mark(&session_claims(config));
        let life = match &self.seen {
            Some((seen, life)) if *seen == mark => *life,
            _ => {
                // another sign-in: what went wrong with the one before does not count
                (self.failures, self.not_before_us) = (0, 0);
                let life = login::life(&config.state_dir);
                self.seen = Some((mark, life));
                life
            }
        };
        let due = life.is_some_and(|life| login::is_due(&life, now.unix_s()));
        if !due || now.mono_us < self.not_before_us {
            return;
        }
        match self.ask(config, clock, &now, runtime) {
            Ok(Renewal::Current { .. } | Renewal::Nobody) => {}
            Ok(Renewal::Renewed { expires_s }) => {
                tracing::info!(until = %Utc(expires_s), "Sign-in renewed.");
            }
            Ok(renewal) => {
                let failure = renewal.trouble().map(|error| failed(error).in_one_line());
                self.later(&now, &failure.unwrap_or_default());
            }
            Err(failure) => self.later(&now, &failure.in_one_line()),
        }
    }

    fn ask(
        &mut self,
        config: &Config,
        clock: &SystemClock,
        now: &Now,
        runtime: &Runtime,
    ) -> Result<Renewal, Failure> {
        let loaded = fetch::load(config, now).map_err(|error| failed(&error))?;
        let client = match &self.client {
            Some(client) => client,
            None => {
                let client = fetch::client(&config.network, None).map_err(|e| failed(&e))?;
                self.client.insert(client)
            }
        };
        let allowed = loaded.registry.org.secret_stores;
        let patience = Duration::from_millis(limits::KEYCHAIN_SERVE_MS);
        let mut vault = vault::open(config, &allowed, patience).map_err(|error| failed(&error))?;
        let seat = Seat {
            state_dir: &config.state_dir,
            registry: &loaded.registry,
            client,
        };
        let mut entropy = SystemEntropy;
        let renewed = login::renew(&seat, &mut *vault, clock, &mut entropy);
        Ok(runtime.block_on(renewed))
    }

    /// Tried again after a minute, then after pauses that double up to ten.
    fn later(&mut self, now: &Now, why: &str) {
        let pause_s = (60_u64 << self.failures.min(4)).min(600);
        self.failures = self.failures.saturating_add(1);
        self.not_before_us = now.mono_us.saturating_add(pause_s * 1_000_000);
        tracing::warn!(why, "The sign-in was not renewed.");
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Exit::NotSignedIn, error)
}

/// Waits until this process is the one of the device that asks the source. It stays so until it
/// ends.
fn turn(state_dir: &Path) -> std::io::Result<File> {
    let file = files::lock_file(&state_dir.join("trust").join("poll.lock"))?;
    file.lock()?;
    Ok(file)
}
