//! How servers were found to speak: `learned.json` in the state directory.
//!
//! ```text
//!   { "format": 1, "min_reader": 1, "servers": { <digest of the transport>: { "era", "at", … } } }
//! ```
//!
//! Every process of a person reads it before it opens a server and writes it when it learned
//! something else, so that a server is asked for its era once in a week and not by each session. It
//! is a memory, not an authority: a server that answers otherwise is believed, and what is
//! remembered is corrected. What losing it costs: a probe per server. What an attacker who can
//! write it gains: a server is first spoken to in the wrong way; nothing is decided by it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use crate::clock::{Now, SystemEntropy};
use crate::config;
use crate::ids::Digest;
use crate::registry::doc::Transport;
use crate::session::Opening;
use crate::vault::replace_private;
use crate::wire::era::Revision;
use crate::{files, limits};

/// What this writes, and the oldest reader that understands it.
const FORMAT: u32 = 1;
/// Larger files are not ours, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// How one server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// How it is opened.
    pub opening: Opening,
    /// By HTTP+SSE of 2024-11-05.
    pub older: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    era: Era,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    legacy_sse: bool,
    /// When it was seen, in Unix seconds.
    at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Era {
    Handshake,
    Stateless,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    min_reader: u32,
    servers: BTreeMap<String, Entry>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            format: FORMAT,
            min_reader: FORMAT,
            servers: BTreeMap::new(),
        }
    }
}

impl Entry {
    fn of(known: Known, now: &Now) -> Self {
        Self {
            era: match known.opening {
                Opening::Initialize => Era::Handshake,
                Opening::Probe => Era::Stateless,
            },
            legacy_sse: known.older,
            at: now.unix_s(),
        }
    }

    fn known(&self) -> Known {
        Known {
            opening: match self.era {
                Era::Handshake => Opening::Initialize,
                Era::Stateless => Opening::Probe,
            },
            older: self.legacy_sse,
        }
    }

    /// A clock that was put back makes nothing older than it is.
    fn holds(&self, now: &Now) -> bool {
        now.unix_s().abs_diff(self.at) <= limits::LEARNED_S
    }
}

/// What servers of a transport are remembered under: everything that decides which program answers,
/// and nothing secret.
fn key(transport: &Transport) -> Option<String> {
    let text = serde_json::to_vec(transport).ok()?;
    Some(Digest::of(&text).to_string())
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("learned.json")
}

/// Reads what is remembered; a file that cannot be understood is as good as none.
fn read(path: &Path) -> Kept {
    let text = match config::read_regular(path, FILE_BYTES) {
        Ok(None) => return Kept::default(),
        Ok(Some(text)) => text,
        Err(error) => {
            tracing::warn!(%error, "What was learned of servers cannot be read.");
            return Kept::default();
        }
    };
    match serde_json::from_slice::<Kept>(&text) {
        Ok(kept) if kept.min_reader <= FORMAT => kept,
        Ok(kept) => {
            let min_reader = kept.min_reader;
            tracing::warn!(
                min_reader,
                "What was learned of servers is for a newer version."
            );
            Kept::default()
        }
        Err(error) => {
            tracing::warn!(%error, "What was learned of servers is not understood.");
            Kept::default()
        }
    }
}

/// How a server spoke the last time that any session met it, if that is not too long ago: the
/// words for people.
#[must_use]
pub fn spoken(state_dir: &Path, transport: &Transport, now: &Now) -> Option<&'static str> {
    let kept = read(&file(state_dir));
    let entry = kept.servers.get(&key(transport)?)?;
    let entry = Some(entry).filter(|entry| entry.holds(now))?;
    Some(match (entry.era, entry.legacy_sse) {
        (Era::Handshake, true) => "handshake over HTTP+SSE",
        (Era::Handshake, false) => "handshake",
        (Era::Stateless, _) => Revision::STATELESS.as_str(),
    })
}

/// Forgets how these servers speak, so that they are asked again.
///
/// # Errors
/// What the file system says.
pub fn forget<'a>(
    state_dir: &Path,
    transports: impl Iterator<Item = &'a Transport>,
    now: &Now,
) -> std::io::Result<()> {
    let path = file(state_dir);
    let known = read(&path).servers;
    let keys = transports.filter_map(key);
    let gone: Vec<Change> = keys
        .filter(|key| known.contains_key(key))
        .map(|key| (key, None))
        .collect();
    match gone.is_empty() {
        true => Ok(()),
        false => write(&path, gone.into_iter(), now),
    }
}

/// A change of the file.
type Change = (String, Option<Entry>);

/// The memory of one process.
#[derive(Debug)]
pub(super) struct Learned {
    path: PathBuf,
    /// What this process changed; the file may not say so yet.
    own: BTreeMap<String, Option<Entry>>,
    /// To the thread that writes, once there was something to write.
    writer: Option<mpsc::Sender<Change>>,
}

impl Learned {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            path: file(state_dir),
            own: BTreeMap::new(),
            writer: None,
        }
    }

    /// What is known of a server that is about to be opened.
    pub(super) fn look(&self, transport: &Transport, now: &Now) -> Option<Known> {
        let key = key(transport)?;
        let entry = match self.own.get(&key) {
            Some(own) => own.clone(),
            None => read(&self.path).servers.remove(&key),
        };
        let entry = entry.filter(|entry| entry.holds(now))?;
        Some(entry.known())
    }

    /// Something was learned of a server, or what was known is wrong. Never blocks: a thread writes.
    pub(super) fn learn(&mut self, transport: &Transport, known: Option<Known>, now: &Now) {
        let Some(key) = key(transport) else {
            return;
        };
        let old = self.own.get(&key).cloned();
        let old = old.unwrap_or_else(|| read(&self.path).servers.remove(&key));
        let fresh = |old: &Entry| now.unix_s().abs_diff(old.at) <= limits::LEARNED_S / 7;
        match (&old, known) {
            (None, None) => return,
            (Some(old), Some(known)) if old.known() == known && fresh(old) => return,
            (_, _) => {}
        }
        let entry = known.map(|known| Entry::of(known, now));
        self.own.insert(key.clone(), entry.clone());
        if self.writer.is_none() {
            self.writer = start(self.path.clone(), *now);
        }
        let sent = self.writer.as_ref().map(|writer| writer.send((key, entry)));
        if sent.is_some_and(|sent| sent.is_err()) {
            self.writer = None;
        }
    }
}

/// The thread that writes. It ends with its process, or when nobody learns any more.
fn start(path: PathBuf, now: Now) -> Option<mpsc::Sender<Change>> {
    let (writer, changes) = mpsc::channel::<Change>();
    let written = std::thread::Builder::new()
        .name("learned".to_owned())
        .spawn(move || {
            while let Ok(first) = changes.recv() {
                let all = std::iter::once(first).chain(changes.try_iter());
                if let Err(error) = write(&path, all, &now) {
                    tracing::debug!(%error, "What was learned of servers is not kept.");
                }
            }
        });
    written.ok().map(|_thread| writer)
}

/// Merges changes into the file under its lock. A crash leaves the file as it was.
fn write(path: &Path, changes: impl Iterator<Item = Change>, now: &Now) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        files::create_private_dir(dir)?;
    }
    let lock = files::lock_file(&path.with_extension("lock"))?;
    lock.lock()?;
    let mut kept = read(path);
    kept.servers.retain(|_, entry| entry.holds(now));
    for (key, entry) in changes {
        match entry {
            Some(entry) => drop(kept.servers.insert(key, entry)),
            None => drop(kept.servers.remove(&key)),
        }
    }
    while kept.servers.len() > limits::SERVERS {
        let oldest = kept.servers.iter().min_by_key(|(_, entry)| entry.at);
        let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
            break;
        };
        kept.servers.remove(&oldest);
    }
    (kept.format, kept.min_reader) = (FORMAT, FORMAT);
    replace_private(path, &serde_json::to_vec(&kept)?, &mut SystemEntropy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: Known = Known {
        opening: Opening::Initialize,
        older: true,
    };

    fn at(second: u64) -> Now {
        Now {
            wall_us: second * 1_000_000,
            mono_us: 0,
        }
    }

    fn server(url: &str) -> Transport {
        Transport::Http {
            url: url.to_owned(),
            ca_pem: None,
            legacy_sse: false,
        }
    }

    /// Writes as the thread does, and waits for it.
    fn learn(state: &Path, url: &str, known: Option<Known>, now: &Now) {
        let entry = known.map(|known| Entry::of(known, now));
        let change = (key(&server(url)).unwrap(), entry);
        write(&file(state), std::iter::once(change), now).unwrap();
    }

    #[test]
    fn what_one_process_learned_another_knows_for_a_week() {
        let state = tempfile::tempdir().unwrap();
        let learned = Learned::new(state.path());
        assert_eq!(learned.look(&server("https://a/"), &at(1000)), None);
        learn(state.path(), "https://a/", Some(HANDSHAKE), &at(1000));
        let end = 1000 + limits::LEARNED_S;
        assert_eq!(
            learned.look(&server("https://a/"), &at(end)),
            Some(HANDSHAKE)
        );
        assert_eq!(learned.look(&server("https://a/"), &at(end + 1)), None);
        assert_eq!(learned.look(&server("https://b/"), &at(1000)), None);
        let says = spoken(state.path(), &server("https://a/"), &at(1000));
        assert_eq!(says, Some("handshake over HTTP+SSE"));
        let gone = server("https://a/");
        forget(state.path(), std::iter::once(&gone), &at(1000)).unwrap();
        assert_eq!(learned.look(&gone, &at(1000)), None);
    }

    #[test]
    fn nothing_is_written_before_something_was_learned() {
        let state = tempfile::tempdir().unwrap();
        let mut learned = Learned::new(state.path());
        learned.learn(&server("https://a/"), None, &at(1000));
        assert!(learned.writer.is_none());
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_process_believes_itself_before_the_file_says_so() {
        let state = tempfile::tempdir().unwrap();
        learn(state.path(), "https://a/", Some(HANDSHAKE), &at(1000));
        let mut learned = Learned::new(state.path());
        // a lock that somebody holds holds up the writing, and nobody else
        let lock = files::lock_file(&file(state.path()).with_extension("lock"));
        let lock = lock.unwrap();
        lock.lock().unwrap();
        learned.learn(&server("https://a/"), None, &at(1001));
        assert_eq!(learned.look(&server("https://a/"), &at(1001)), None);
    }

    #[test]
    fn a_file_that_is_not_understood_is_as_good_as_none_and_is_replaced() {
        let newer = r#"{"format": 2, "min_reader": 2, "servers": {}}"#;
        for text in [
            "{",
            newer,
            "[]",
            r#"{"format":1,"min_reader":1,"servers":{"x":7}}"#,
        ] {
            let state = tempfile::tempdir().unwrap();
            std::fs::write(file(state.path()), text).unwrap();
            let learned = Learned::new(state.path());
            assert_eq!(learned.look(&server("https://a/"), &at(1000)), None);
            learn(state.path(), "https://a/", Some(HANDSHAKE), &at(1000));
            assert_eq!(
                learned.look(&server("https://a/"), &at(1000)),
                Some(HANDSHAKE)
            );
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let state = tempfile::tempdir().unwrap();
        let now = at(1000);
        let entry = |at| {
            Some(Entry {
                at,
                ..Entry::of(HANDSHAKE, &now)
            })
        };
        let many = (0..1100_u64).map(|n| (format!("{n:064x}"), entry(n)));
        write(&file(state.path()), many, &now).unwrap();
        let kept = read(&file(state.path()));
        assert_eq!(kept.servers.len(), limits::SERVERS);
        assert!(!kept.servers.contains_key(&format!("{:064x}", 99)));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_its_place_holds_nobody_up() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let state = tempfile::tempdir().unwrap();
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, file(state.path()), FileType::Fifo, mode, 0).unwrap();
        let learned = Learned::new(state.path());
        assert_eq!(learned.look(&server("https://a/"), &at(1000)), None);
    }
}
