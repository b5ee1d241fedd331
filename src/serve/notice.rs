//! Notices what other processes change in the state directory.
//!
//! The operating system says that something happened (`notify`); what happened is seen by looking
//! at the files. So a lost or merged event, an editor's habits and a directory that comes later
//! cost nothing. Where the system cannot say it (no watches left, a network file system), the files
//! are looked at every two seconds, and the log says so once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::assemble::session_claims;
use super::requests;
use crate::config::Config;
use crate::fetch::Store;

/// A thing of the state directory that sessions follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Credentials,
    Registry,
    Requests,
    SignIn,
}

/// Size, time and number of a file: another process renewed it if they differ.
type Mark = (PathBuf, u64, Option<SystemTime>, u64);

/// What there is to notice, and what was seen last.
pub(super) struct Notices {
    state_dir: PathBuf,
    /// Files, or directories whose files count.
    places: Vec<(What, PathBuf)>,
    seen: BTreeMap<What, Vec<Mark>>,
    watcher: Option<RecommendedWatcher>,
    /// Directories that are watched, by the number they had then.
    watched: BTreeMap<PathBuf, u64>,
    /// Why files are looked at every two seconds.
    polled: Option<String>,
}

impl Notices {
    /// Takes what is there for known. `ring` is called from another thread whenever it may be
    /// worth to look.
    pub(super) fn new(config: &Config, ring: impl Fn() + Send + 'static) -> Self {
        let state_dir = config.state_dir.clone();
        let places = vec![
            (What::Credentials, state_dir.join("vault")),
            (What::Registry, Store::of(config).path().to_owned()),
            (What::Requests, requests::dir(&state_dir)),
            (What::SignIn, session_claims(config)),
        ];
        let heard = move |event: notify::Result<Event>| {
            // looking at files makes events of its own
            let access = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
            if !access {
                ring();
            }
        };
        let (watcher, polled) = match notify::recommended_watcher(heard) {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let mut notices = Self {
            state_dir,
            places,
            seen: BTreeMap::new(),
            watcher,
            watched: BTreeMap::new(),
            polled: polled.or_else(|| remote(&config.state_dir)),
        };
        if let Some(why) = &notices.polled {
            warn(why);
        }
        notices.watch();
        notices.look();
        notices
    }

    /// Whether nobody rings: look every two seconds.
    pub(super) fn is_polled(&self) -> bool {
        self.polled.is_some()
    }

    /// What has changed since the last look.
    pub(super) fn look(&mut self) -> BTreeSet<What> {
        // first the watches: what changes from here on rings
        self.watch();
        let mut changed = BTreeSet::new();
        for (what, path) in &self.places {
            let marks = marks(path);
            if self.seen.get(what) != Some(&marks) {
                self.seen.insert(*what, marks);
                changed.insert(*what);
            }
        }
        changed
    }

    /// Watches every directory that is there, and one that came in the place of another.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let dirs = self.places.iter().map(|(what, path)| match what {
            What::Credentials | What::Requests => path.as_path(),
            What::Registry | What::SignIn => path.parent().unwrap_or(path),
        });
        let mut dirs: BTreeSet<&Path> = dirs.collect();
        dirs.insert(&self.state_dir);
        let mut failed = None;
        for dir in dirs {
            let number = match std::fs::metadata(dir) {
                Ok(meta) if meta.is_dir() => number(&meta),
                Ok(_) | Err(_) => {
                    // it went, and its watch with it
                    self.watched.remove(dir);
                    continue;
                }
            };
            if self.watched.get(dir) == Some(&number) {
                continue;
            }
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(dir.to_owned(), number);
                }
                Err(error) => failed = Some(format!("{}: {error}", dir.display())),
            }
        }
        if let (Some(why), None) = (&failed, &self.polled) {
            warn(why);
            self.polled = failed;
        }
    }
}

fn warn(why: &str) {
    tracing::warn!(
        why,
        "Changes of the state directory are looked for every two seconds."
    );
}

fn marks(path: &Path) -> Vec<Mark> {
    let mark = |path: PathBuf| {
        let meta = std::fs::metadata(&path).ok()?;
        let file = meta.is_file();
        file.then(|| (path, meta.len(), meta.modified().ok(), number(&meta)))
    };
    if !path.is_dir() {
        return mark(path.to_owned()).into_iter().collect();
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    let mut marks: Vec<Mark> = entries
        .filter_map(|entry| mark(entry.ok()?.path()))
        .filter(|(path, ..)| {
            // locks and drafts say nothing
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with('.') && !name.ends_with(".lock")
        })
        .collect();
    marks.sort();
    marks
}

/// The number of a file, where the system has one that std knows.
fn number(meta: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::ino(meta);
    #[cfg(not(unix))]
    {
        let made = meta.created().ok();
        let made = made.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        made.map_or(0, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Why changes that other machines make are not told here; `None` on a file system of this
/// machine's own.
#[cfg(target_os = "linux")]
fn remote(dir: &Path) -> Option<String> {
    // statfs(2): nfs, smb, smb2, cifs, afs, coda, ceph, 9p, fuse (sshfs), vboxsf
    const REMOTE: [u64; 10] = [
        0x6969,
        0x517b,
        0xfe53_4d42,
        0xff53_4d42,
        0x5346_414f,
        0x7375_7245,
        0x00c3_6400,
        0x0102_1997,
        0x6573_5546,
        0x786f_4256,
    ];
    let kind = rustix::fs::statfs(dir).ok()?.f_type;
    let kind = u64::try_from(kind).unwrap_or_default() & 0xffff_ffff;
    let remote = REMOTE.contains(&kind);
    remote.then(|| format!("{} is on a network file system", dir.display()))
}

#[cfg(not(target_os = "linux"))]
fn remote(_dir: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;
    use crate::serve::assemble::tests::config;

    struct Rig {
        notices: Notices,
        rings: Receiver<()>,
    }

    impl Rig {
        fn new(state: &Path) -> Self {
            let (ring, rings) = channel();
            let notices = Notices::new(&config(state), move || ring.send(()).unwrap_or_default());
            Self { notices, rings }
        }

        /// Looks whenever it rings, until this is seen.
        #[track_caller]
        fn sees(&mut self, what: What) {
            loop {
                let rung = self.rings.recv_timeout(Duration::from_secs(10));
                rung.expect("it rings");
                if self.notices.look().contains(&what) {
                    return;
                }
            }
        }
    }

    #[test]
    fn every_change_rings_whoever_makes_it_and_however() {
        let state = tempfile::tempdir().unwrap();
        let mut rig = Rig::new(state.path());
        assert!(!rig.notices.is_polled());
        // a file comes, in place
        let claims = state.path().join("session.claims");
        std::fs::write(&claims, "one").unwrap();
        rig.sees(What::SignIn);
        // it is replaced whole
        std::fs::write(state.path().join("draft"), "two").unwrap();
        std::fs::rename(state.path().join("draft"), &claims).unwrap();
        rig.sees(What::SignIn);
        // a directory comes later, and its file
        let trust = state.path().join("trust");
        std::fs::create_dir(&trust).unwrap();
        std::fs::write(trust.join("registry.state"), "one").unwrap();
        rig.sees(What::Registry);
        std::fs::write(trust.join("registry.state"), "two!").unwrap();
        rig.sees(What::Registry);
        // the directory is replaced
        std::fs::rename(&trust, state.path().join("old")).unwrap();
        rig.sees(What::Registry);
        std::fs::create_dir(&trust).unwrap();
        std::fs::write(trust.join("registry.state"), "three").unwrap();
        rig.sees(What::Registry);
        std::fs::create_dir(state.path().join("requests")).unwrap();
        std::fs::write(state.path().join("requests/1.json"), "{}").unwrap();
        rig.sees(What::Requests);
        std::fs::remove_file(&claims).unwrap();
        rig.sees(What::SignIn);
    }

    #[test]
    fn a_look_tells_each_change_once_even_if_nobody_rings() {
        let state = tempfile::tempdir().unwrap();
        let mut notices = Notices::new(&config(state.path()), || {});
        assert_eq!(notices.look(), BTreeSet::new());
        std::fs::create_dir(state.path().join("vault")).unwrap();
        std::fs::write(state.path().join("vault/.lock"), "").unwrap();
        std::fs::write(state.path().join("vault/vault.lock"), "").unwrap();
        assert_eq!(notices.look(), BTreeSet::new(), "locks say nothing");
        std::fs::write(state.path().join("vault/sealed"), "1").unwrap();
        assert_eq!(notices.look(), BTreeSet::from([What::Credentials]));
        assert_eq!(notices.look(), BTreeSet::new());
    }
}
