//! What `mcpshim restart` asks of the sessions that run: small files in the state directory.
//!
//! ```text
//!   mcpshim restart ── requests/<id>.json ──▶ every session: opens the server anew
//!         ▲                                        │
//!         └────────── run/<pid>.json ◀─────────────┘  "restarts": [{"request": id, …}]
//! ```
//!
//! The file goes when the command ends; one that is older than half a minute is nobody's and is
//! removed by the next session that looks. What losing them costs: a restart. What an attacker who
//! can write them gains: restarts of their own servers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::{Entropy, Now};
use crate::config;
use crate::files::create_private_dir;
use crate::ids::ServerKey;
use crate::vault::create_private;

/// An older request is not looked at, in seconds.
const OLDEST_S: u64 = 30;
/// Larger files are not requests, in bytes.
const FILE_BYTES: u64 = 4 << 10;
/// Most requests that are looked at.
const MOST: usize = 64;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its number, made up.
    pub id: String,
    /// Which server; every one when `None`.
    pub server: Option<ServerKey>,
    /// Calls in flight end now; else they may end by themselves.
    pub at_once: bool,
    /// When it was asked, in Unix seconds.
    pub asked: u64,
}

/// A request that is being asked. Taken back when dropped.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    path: PathBuf,
}

impl Drop for Asked {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The directory of requests.
pub(super) fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("requests")
}

/// Asks every session of this state directory.
///
/// # Errors
/// What the file system says.
pub fn ask(
    state_dir: &Path,
    server: Option<ServerKey>,
    at_once: bool,
    now: &Now,
    entropy: &mut dyn Entropy,
) -> std::io::Result<Asked> {
    let dir = dir(state_dir);
    create_private_dir(&dir)?;
    let mut random = [0; 16];
    entropy.fill(&mut random);
    let id = data_encoding::HEXLOWER.encode(&random);
    let path = dir.join(format!("{id}.json"));
    let request = Request {
        id,
        server,
        at_once,
        asked: now.unix_s(),
    };
    create_private(&path, &serde_json::to_vec(&request)?, entropy)?;
    Ok(Asked { request, path })
}

/// What is asked just now, in no order.
pub(super) fn pending(state_dir: &Path, now: &Now) -> Vec<Request> {
    let Ok(entries) = std::fs::read_dir(dir(state_dir)) else {
        return Vec::new();
    };
    let read = |path: &Path| -> Option<Request> {
        // what is cut is no JSON any more, and a pipe holds nobody up
        let text = config::read_regular(path, FILE_BYTES).ok()??;
        serde_json::from_slice(&text).ok()
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .take(MOST)
        .filter_map(|path| {
            let request = read(&path);
            let of_now = |request: &Request| now.unix_s().abs_diff(request.asked) <= OLDEST_S;
            if !request.as_ref().is_some_and(of_now) {
                remove(&path);
                return None;
            }
            request
        })
        .collect()
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::debug!(%error, file = %path.display(), "A request stays behind.");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::CountingEntropy;

    fn at(second: u64) -> Now {
        Now {
            wall_us: second * 1_000_000,
            mono_us: 0,
        }
    }

    #[test]
    fn a_request_is_seen_until_it_is_taken_back_or_old() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(pending(state.path(), &at(1000)), []);
        let key = ServerKey::parse("up").unwrap();
        let mut entropy = CountingEntropy(1);
        let asked = ask(state.path(), Some(key), true, &at(1000), &mut entropy).unwrap();
        assert_eq!(
            pending(state.path(), &at(1030)),
            std::slice::from_ref(&asked.request)
        );
        drop(asked);
        assert_eq!(pending(state.path(), &at(1000)), []);
        let asked = ask(state.path(), None, true, &at(1000), &mut entropy).unwrap();
        assert_eq!(pending(state.path(), &at(1031)), [], "old");
        assert!(!asked.path.exists(), "and gone");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let state = tempfile::tempdir().unwrap();
        let dir = dir(state.path());
        std::fs::create_dir(&dir).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        for path in [dir.join("a.json"), state.path().join("session.claims")] {
            mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
        }
        assert_eq!(pending(state.path(), &at(1000)), []);
        assert!(crate::login::claims(state.path()).is_err());
    }

    #[test]
    fn other_files_are_no_requests() {
        let state = tempfile::tempdir().unwrap();
        let dir = dir(state.path());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("a.json"), "{}").unwrap();
        std::fs::write(dir.join("b.json"), vec![b' '; 5000]).unwrap();
        std::fs::write(dir.join("c.txt"), "left alone").unwrap();
        assert_eq!(pending(state.path(), &at(1000)), []);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }
}
