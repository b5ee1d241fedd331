//! The registry watcher: renews the registry and tells the driver when a snapshot is due.
//!
//! A thread of its own: signatures and TLS would hold up calls. Started at the first real
//! request. Of all processes of a device that share a state directory, one asks the source; the
//! others see its file change.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use tokio::sync::mpsc;

use super::assemble::{assemble, session_claims};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::fetch::{self, Refreshed, Store};
use crate::limits;
use crate::policy::{Snapshot, SnapshotId};

/// The watcher, as the driver holds it. Dropping it ends the thread at its next look.
#[derive(Debug)]
pub(super) struct Watcher {
    snapshots: mpsc::UnboundedReceiver<Arc<Snapshot>>,
    #[expect(dead_code, reason = "its end tells the thread to end")]
    alive: Sender<()>,
}

/// How often a first registry is looked out for, in milliseconds.
const FIRST_LOOK_MS: u64 = 50;

/// Size and time of a file: another process renewed it if they differ.
type Mark = Option<(u64, SystemTime)>;

struct Watch {
    config: Config,
    clock: SystemClock,
    marks: [Mark; 2],
    /// The second at which time alone changes an answer.
    changes_at: Option<u64>,
    next: u64,
    poller: Option<File>,
}

impl Watcher {
    /// Starts to watch. `snapshot` is the one the session has, `None` while it waits for a first.
    pub(super) fn start(
        config: Config,
        clock: SystemClock,
        snapshot: Option<&Snapshot>,
    ) -> std::io::Result<Self> {
        let (alive, ended) = std::sync::mpsc::channel();
        let (outbox, snapshots) = mpsc::unbounded_channel();
        let watch = Watch {
            marks: marks(&config),
            changes_at: snapshot.and_then(|s| s.changes_at(&clock.now())),
            next: snapshot.map_or(1, |s| s.id().0 + 1),
            config,
            clock,
            poller: None,
        };
        let waits = snapshot.is_none();
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || watch.run(waits, &ended, &outbox))?;
        Ok(Self { snapshots, alive })
    }

    /// The next snapshot, if the watcher has one.
    pub(super) fn poll_snapshot(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Arc<Snapshot>>> {
        self.snapshots.poll_recv(cx)
    }
}

impl Watch {
    fn run(
        mut self,
        mut waits: bool,
        ended: &Receiver<()>,
        outbox: &mpsc::UnboundedSender<Arc<Snapshot>>,
    ) {
        loop {
            let renewed = match self.is_poller() {
                true => self.refresh(),
                false => waits && self.another_renews(ended),
            };
            let marks = marks(&self.config);
            let moved = marks != self.marks;
            let now = self.clock.now();
            let due = self.changes_at.is_some_and(|at| now.unix_s() >= at);
            if waits || renewed || moved || due {
                self.marks = marks;
                let snapshot = assemble(&self.config, SnapshotId(self.next), &now);
                self.next += 1;
                self.changes_at = snapshot.changes_at(&now);
                waits = false;
                if outbox.send(snapshot).is_err() {
                    return;
                }
            }
            match ended.recv_timeout(Duration::from_secs(limits::POLL_S)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether this process is the one of the device that asks the source; once it is, it stays
    /// so until it ends.
    fn is_poller(&mut self) -> bool {
        if self.poller.is_none() {
            self.poller = try_lock(&self.config.state_dir).unwrap_or_else(|error| {
                tracing::warn!(%error, "The registry is not renewed: no lock can be taken.");
                None
            });
        }
        self.poller.is_some()
    }

    /// Looks out for the first registry, which another process is fetching.
    fn another_renews(&self, ended: &Receiver<()>) -> bool {
        let looks = limits::FIRST_REGISTRY_MS / FIRST_LOOK_MS;
        (0..looks).any(|_| {
            let pause = ended.recv_timeout(Duration::from_millis(FIRST_LOOK_MS));
            pause != Err(RecvTimeoutError::Timeout) || marks(&self.config) != self.marks
        })
    }

    fn refresh(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::warn!(%error, "The registry is not renewed.");
                return false;
            }
        };
        match runtime.block_on(fetch::refresh(&self.config, &self.clock)) {
            Ok(Refreshed::Unchanged) => false,
            Ok(Refreshed::Updated(version)) => {
                tracing::info!(version = version.targets, "Registry renewed.");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "The registry was not renewed.");
                false
            }
        }
    }
}

fn try_lock(state_dir: &Path) -> std::io::Result<Option<File>> {
    let dir = state_dir.join("trust");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("poll.lock"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn marks(config: &Config) -> [Mark; 2] {
    let mark = |path: PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    [
        mark(Store::of(config).path().to_owned()),
        mark(session_claims(config)),
    ]
}
