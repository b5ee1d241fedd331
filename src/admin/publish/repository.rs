//! The directory that is published: what was there before, what is to be written, and in which order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::PublishError;
use super::rehearse::walk;
use crate::clock::Now;
use crate::ids::OrgId;
use crate::registry::doc::RegistryVersion;
use crate::registry::metadata::{Content, Envelope, Root, Snapshot, Targets, Timestamp};
use crate::registry::{self, RegistryError, Role};

/// A role's metadata as it was published before.
pub(super) struct Held<T> {
    pub(super) content: T,
    pub(super) bytes: Vec<u8>,
    /// The newest root confirms its signatures, too.
    pub(super) confirmed: bool,
}

impl<T: Content> Held<T> {
    pub(super) fn version(&self) -> u64 {
        self.content.version()
    }

    /// Whether it need not be signed again: confirmed, and less than half of its life is over.
    pub(super) fn stands(&self, life_s: u64, now_s: u64) -> bool {
        self.confirmed && self.content.expires().0 > now_s + life_s / 2
    }
}

pub(super) struct Previous {
    pub(super) timestamp: Held<Timestamp>,
    pub(super) snapshot: Held<Snapshot>,
    pub(super) targets: Held<Targets>,
}

/// Files to write, by path below the repository; the timestamp apart, since it comes last.
#[derive(Default)]
pub(super) struct Writes {
    files: BTreeMap<String, Vec<u8>>,
    pub(super) timestamp: Option<Vec<u8>>,
}

impl Writes {
    pub(super) fn add(&mut self, path: String, bytes: Vec<u8>) {
        self.files.insert(path, bytes);
    }
}

/// The directory of one repository, locked against other publishers.
pub(super) struct Repository<'p> {
    dir: &'p Path,
    _lock: File,
}

impl<'p> Repository<'p> {
    pub(super) fn open(dir: &'p Path) -> Result<Self, PublishError> {
        let io = |source| PublishError::Io {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir.join("metadata")).map_err(io)?;
        fs::create_dir_all(dir.join("targets")).map_err(io)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let lock = options.open(dir.join(".lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, PublishError> {
        let path = self.dir.join(path);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PublishError::Io { path, source }),
        }
    }

    /// Every root the repository holds, from the lowest version on.
    pub(super) fn roots(&self) -> Result<Vec<Vec<u8>>, PublishError> {
        let path = self.dir.join("metadata");
        let io = |source| PublishError::Io {
            path: path.clone(),
            source,
        };
        let mut versions = Vec::new();
        for entry in fs::read_dir(&path).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let name = name
                .to_str()
                .and_then(|name| name.strip_suffix(".root.json"));
            versions.extend(name.and_then(|version| version.parse::<u64>().ok()));
        }
        versions.sort_unstable();
        let mut roots = Vec::new();
        for version in versions {
            roots.extend(self.read(&format!("metadata/{version}.root.json"))?);
        }
        Ok(roots)
    }

    /// What was published before; signed under the newest root or one before it.
    pub(super) fn previous(
        &self,
        roots: &[Vec<u8>],
        newest: &Root,
    ) -> Result<Option<Previous>, PublishError> {
        let Some(timestamp) = self.read("metadata/timestamp.json")? else {
            return Ok(None);
        };
        let wrong = |source| PublishError::Previous {
            path: self.dir.to_owned(),
            source,
        };
        let missing = |file: &str| {
            wrong(RegistryError::Damaged {
                cause: registry::Cause(format!("{file} is missing")),
            })
        };
        let timestamp: Held<Timestamp> =
            held("timestamp.json", timestamp, roots, newest).map_err(wrong)?;
        let listed = timestamp.content.snapshot();
        let file = format!("{}.snapshot.json", listed.version);
        let bytes = self
            .read(&format!("metadata/{file}"))?
            .ok_or_else(|| missing(&file))?;
        listed.check(&file, &bytes).map_err(wrong)?;
        let snapshot: Held<Snapshot> = held(&file, bytes, roots, newest).map_err(wrong)?;
        let listed = snapshot.content.meta.get("targets.json");
        let listed = listed.ok_or_else(|| missing("targets.json"))?;
        let file = format!("{}.targets.json", listed.version);
        let bytes = self
            .read(&format!("metadata/{file}"))?
            .ok_or_else(|| missing(&file))?;
        listed.check(&file, &bytes).map_err(wrong)?;
        let targets = held(&file, bytes, roots, newest).map_err(wrong)?;
        Ok(Some(Previous {
            timestamp,
            snapshot,
            targets,
        }))
    }

    /// The version after the published one that has no file yet: a publication that died may have
    /// left one, and somebody may have cached it.
    pub(super) fn next_version(&self, role: Role, published: Option<u64>) -> u64 {
        let mut version = published.unwrap_or(0) + 1;
        while self
            .dir
            .join(format!("metadata/{version}.{role}.json"))
            .exists()
        {
            version += 1;
        }
        version
    }

    /// Runs a client that knows only the first root over the repository as it would be.
    pub(super) fn rehearse(
        &self,
        writes: &Writes,
        roots: &[Vec<u8>],
        org: &OrgId,
        now: &Now,
    ) -> Result<RegistryVersion, PublishError> {
        let loaded = walk(roots, org, now, &mut |path| {
            let written = match path {
                "metadata/timestamp.json" => writes.timestamp.as_ref(),
                path => writes.files.get(path),
            };
            match written {
                Some(bytes) => Ok(Some(bytes.clone())),
                None => self.read(path),
            }
        })?;
        Ok(loaded.registry.version)
    }

    /// Writes what is not there yet; the timestamp last.
    pub(super) fn write(&self, writes: &Writes) -> Result<(), PublishError> {
        for (path, bytes) in &writes.files {
            if self.read(path)?.as_ref() != Some(bytes) {
                self.replace(path, bytes)?;
            }
        }
        // a crash before this line leaves files that nothing names
        if let Some(timestamp) = &writes.timestamp {
            self.replace("metadata/timestamp.json", timestamp)?;
        }
        Ok(())
    }

    fn replace(&self, path: &str, bytes: &[u8]) -> Result<(), PublishError> {
        let target = self.dir.join(path);
        let temporary = self.dir.join(".new");
        let replaced = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &target)?;
            match target.parent() {
                Some(dir) if cfg!(unix) => File::open(dir)?.sync_all(),
                Some(_) | None => Ok(()),
            }
        });
        replaced.map_err(|source| PublishError::Io {
            path: target,
            source,
        })
    }
}

fn held<T: Content>(
    file: &str,
    bytes: Vec<u8>,
    roots: &[Vec<u8>],
    newest: &Root,
) -> Result<Held<T>, RegistryError> {
    let envelope = Envelope::parse(file, &bytes, T::ROLE)?;
    let error = match newest.verify(&envelope) {
        Ok(content) => {
            return Ok(Held {
                content,
                bytes,
                confirmed: true,
            });
        }
        Err(error) => error,
    };
    for end in (1..roots.len()).rev() {
        let older = registry::newest_root(roots.get(..end).unwrap_or_default())?;
        if let Ok(content) = older.verify(&envelope) {
            return Ok(Held {
                content,
                bytes,
                confirmed: false,
            });
        }
    }
    Err(error)
}
