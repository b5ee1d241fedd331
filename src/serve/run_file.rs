//! What each running session says of itself: `run/<pid>.json` in the state directory.
//!
//! ```text
//!   run/4711.lock   locked by the session for as long as it lives
//!   run/4711.json   its last words, replaced whole; gone with the session
//! ```
//!
//! Made at the first real request, never for a throw-away probe. A file whose lock nobody holds is
//! of a session that was killed: whoever reads next removes it. What losing them costs: `status`,
//! `doctor` and `restart` do not see a session that runs. What an attacker who can write them
//! gains: they see one that does not; nothing is decided by them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;
use crate::session::report::Report;

/// Larger files are not ours, in bytes.
const FILE_BYTES: u64 = 4 << 20;

/// One running session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Its program's version.
    pub version: String,
    /// When it started to serve, in Unix seconds.
    pub started: u64,
    /// The session.
    #[serde(flatten)]
    pub session: Report,
    /// Requests of `mcpshim restart` that it has carried out lately, oldest first.
    #[serde(default)]
    pub restarts: Vec<Restarted>,
}

/// What a session made of one request of `mcpshim restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// The request.
    pub request: String,
    /// How many of the servers that were meant this session had in use.
    pub servers: usize,
}

/// The directory of run files.
#[must_use]
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("run")
}

/// Every running session, by process. What dead ones left is removed.
#[must_use]
pub fn running(state_dir: &Path) -> Vec<Running> {
    let dir = dir(state_dir);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return Vec::new();
    };
    let mut found: Vec<Running> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            if path.extension()? != "lock" {
                return None;
            }
            match abandoned(&path) {
                Ok(None) => read(&path.with_extension("json")),
                Ok(Some(lock)) => {
                    // the lock's name last: while it is there, the rest can be found
                    for left in ["json", "draft", "lock"] {
                        remove(&path.with_extension(left));
                    }
                    drop(lock);
                    None
                }
                Err(error) => {
                    tracing::debug!(%error, file = %path.display(), "A run file cannot be read.");
                    None
                }
            }
        })
        .collect();
    found.sort_by_key(|running| running.pid);
    found
}

/// The lock, if nobody held it.
fn abandoned(path: &Path) -> io::Result<Option<File>> {
    // one that is gone is not made again
    files::locked(File::options().read(true).write(true).open(path)?)
}

fn read(path: &Path) -> Option<Running> {
    let text = crate::config::read_regular(path, FILE_BYTES).ok()??;
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::debug!(%error, "A run file is not understood."))
        .ok()
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(%error, file = %path.display(), "A run file stays behind.");
        }
        Ok(()) | Err(_) => {}
    }
}

/// The run file of this process. Removed when dropped.
#[derive(Debug)]
pub(super) struct RunFile {
    path: PathBuf,
    running: Running,
    _lock: File,
}

impl RunFile {
    /// Makes the file of process `pid`, which started to serve at `started` (Unix seconds).
    pub(super) fn create(state_dir: &Path, pid: u32, started: u64) -> io::Result<Self> {
        let dir = dir(state_dir);
        files::create_private_dir(&dir)?;
        let path = dir.join(format!("{pid}.json"));
        let name = path.with_extension("lock");
        let lock = loop {
            let lock = files::lock_file(&name)?;
            lock.lock()?;
            // a reader may have taken a file that was not locked yet for a dead session's
            if name.exists() {
                break lock;
            }
        };
        let mut own = Self {
            path,
            running: Running {
                pid,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started,
                session: Report::default(),
                restarts: Vec::new(),
            },
            _lock: lock,
        };
        own.write(Report::default(), &[])?;
        Ok(own)
    }

    /// Replaces what the session says of itself. Not synced: after a crash of the machine no
    /// session runs.
    pub(super) fn write(&mut self, session: Report, restarts: &[Restarted]) -> io::Result<()> {
        self.running.session = session;
        self.running.restarts = restarts.to_vec();
        let text = serde_json::to_vec(&self.running)?;
        let draft = self.path.with_extension("draft");
        let mut file = files::private().create(true).truncate(true).open(&draft)?;
        io::Write::write_all(&mut file, &text)?;
        drop(file);
        std::fs::rename(&draft, &self.path)
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        for left in ["json", "draft", "lock"] {
            remove(&self.path.with_extension(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::report::{ServerReport, ServerState};

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_session_is_seen_while_it_runs_and_not_after() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(running(state.path()), []);
        let mut own = RunFile::create(state.path(), 42, 1_000).unwrap();
        let server = ServerReport {
            differing: std::collections::BTreeMap::new(),
            key: "up".to_owned(),
            state: ServerState::Down,
            protocol: None,
            trouble: Some("it ended".to_owned()),
            renewals: 1,
            failures: 2,
            retry_at: Some(7),
            unconfirmed: 3,
            quarantined: std::collections::BTreeMap::new(),
        };
        let report = Report {
            servers: vec![server],
            ..Report::default()
        };
        own.write(report.clone(), &[]).unwrap();
        let found = running(state.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pid, found[0].started), (42, 1_000));
        assert_eq!(found[0].session, report);
        drop(own);
        assert_eq!(running(state.path()), []);
        assert_eq!(names(&dir(state.path())), [""; 0]);
    }

    #[test]
    fn what_a_killed_session_left_is_removed_by_the_next_reader() {
        let state = tempfile::tempdir().unwrap();
        let own = RunFile::create(state.path(), 42, 1_000).unwrap();
        let run = dir(state.path());
        std::fs::copy(run.join("42.json"), run.join("43.json")).unwrap();
        std::fs::write(run.join("43.lock"), "").unwrap();
        assert_eq!(running(state.path()).len(), 1);
        assert_eq!(names(&run), ["42.json", "42.lock"]);
        drop(own);
    }

    #[test]
    fn a_file_that_is_not_understood_is_no_session() {
        let state = tempfile::tempdir().unwrap();
        let own = RunFile::create(state.path(), 42, 1_000).unwrap();
        std::fs::write(dir(state.path()).join("42.json"), "{").unwrap();
        assert_eq!(running(state.path()), []);
        drop(own);
    }
}
