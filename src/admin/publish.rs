//! From compiled documents to a signed repository of static files.
//!
//! ```text
//! REPO/metadata/1.root.json …      REPO/targets/<sha256>.org.json
//!               N.targets.json                  <sha256>.policy.json
//!               N.snapshot.json                 <sha256>.server-<id>.json …
//!               timestamp.json     written last
//! ```
//!
//! Every file but the timestamp has a name of its own for every content, so a machine that reads
//! while this writes sees the old registry or the new one. Before anything is written, the client
//! workflow is run over what would be there: what machines would refuse is not published.

mod content;
mod rehearse;
mod repository;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

pub(super) use self::content::SPEC_VERSION;
use self::content::{entries, snapshot_content, targets_content, timestamp_content};
pub use self::rehearse::{published, rehearsed};
use self::repository::{Held, Repository, Writes};
use super::TargetSet;
use super::keys::KeyRing;
use crate::clock::Now;
use crate::ids::{Digest, KeyId};
use crate::limits;
use crate::registry::doc::RegistryVersion;
use crate::registry::metadata::{Content as _, Envelope, Expiry, Root, Targets};
use crate::registry::{self, RegistryError, Role};

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The file system refuses.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to continue.
    #[error("there is no repository in {}", path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
    },
    /// The repository there was signed under another root, or is damaged.
    #[error("repository {} does not continue from this root", path.display())]
    Previous {
        /// The repository.
        path: PathBuf,
        /// What its metadata says.
        source: RegistryError,
    },
    /// Machines would refuse it.
    #[error("registry would be refused by every machine")]
    Refused(#[source] RegistryError),
    /// The root cannot be used.
    #[error("root metadata cannot be used")]
    Root(#[source] RegistryError),
    /// Not enough private keys at hand.
    #[error("{have} of {need} required {role} keys found in --keys")]
    TooFewKeys {
        /// Whose keys.
        role: Role,
        /// Keys at hand.
        have: usize,
        /// Keys needed.
        need: u32,
    },
}

impl PublishError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check the directory, its owner and the free space",
            Self::Nothing { .. } => {
                "name the directory that `mcpshim-admin publish` wrote with --out"
            }
            Self::Previous { .. } => {
                "compare --out with the repository you mean; an empty directory starts a new one, which machines that saw the old one refuse"
            }
            Self::Refused(RegistryError::OtherOrganisation { .. }) => {
                "publish the sources of one organisation under its own root"
            }
            Self::Refused(_) => "run `mcpshim-admin check`, correct the sources and publish again",
            Self::Root(RegistryError::Expired { .. }) => {
                "sign a new root with the root keys; machines refuse this one"
            }
            Self::Root(_) => "compare the files in trust/ with what `mcpshim-admin key new` wrote",
            Self::TooFewKeys { .. } => "name every key directory that is needed with --keys",
        }
    }
}

/// Reads the roots of a registry's sources: `trust/root.json`, which machines pin, then
/// `trust/2.root.json` and so on.
///
/// # Errors
/// When there is no first root, or one cannot be read.
pub fn read_roots(sources: &Path) -> Result<Vec<Vec<u8>>, PublishError> {
    let trust = sources.join("trust");
    let read = |path: PathBuf| match fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(source) => Err(PublishError::Io { path, source }),
    };
    let mut roots = vec![read(trust.join("root.json"))?];
    let first = root_version(roots.first().map(Vec::as_slice).unwrap_or_default())?;
    for version in first + 1.. {
        match read(trust.join(format!("{version}.root.json"))) {
            Ok(bytes) => roots.push(bytes),
            Err(PublishError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(roots)
}

/// A Unix second as people read it, in UTC.
#[must_use]
pub fn utc(unix_s: u64) -> String {
    Expiry(unix_s).text()
}

/// What a publication did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Whether anything new was signed; if not, the repository holds exactly this already.
    pub updated: bool,
    /// The versions that machines find now.
    pub version: RegistryVersion,
    /// The documents that are new or different, and those that are gone.
    pub changed: Vec<String>,
    /// When machines stop taking it as current, in Unix seconds: `refresh` before half of that.
    pub expires: u64,
    /// What has to be signed soon by keys that were not asked now: sentences.
    pub warnings: Vec<String>,
}

/// Signs the documents and writes them to `out`, the repository published before or an empty
/// directory. `roots` are every root from the first on.
///
/// Does nothing when nothing has changed; a version of a role increases only with its content.
///
/// # Errors
/// [`PublishError`]. Before the timestamp is written machines see the old registry; nobody sees
/// half a new one.
pub fn publish(
    set: &TargetSet,
    roots: &[Vec<u8>],
    keys: &KeyRing,
    out: &Path,
    now: &Now,
) -> Result<Published, PublishError> {
    registry::check_documents(&set.files, &set.org).map_err(PublishError::Refused)?;
    let now_s = now.unix_s();
    let root = newest_root(roots)?;
    if root.expires().0 <= now_s {
        return Err(PublishError::Root(RegistryError::Expired {
            file: format!("{}.root.json", root.version()),
            role: Role::Root,
            cause: registry::Cause(format!("it expired at {}", root.expires().text())),
        }));
    }
    let repository = Repository::open(out)?;
    let previous = repository.previous(roots, &root)?;
    let mut writes = Writes::default();

    let entries = entries(set);
    let before: BTreeMap<&str, (u64, Digest)> = previous
        .iter()
        .flat_map(|previous| &previous.targets.content.targets)
        .map(|(name, target)| (name.as_str(), (target.length, target.sha256())))
        .collect();
    let changed: Vec<String> = entries
        .iter()
        .filter(|(name, entry)| before.get(*name) != Some(entry))
        .map(|(name, _)| name)
        .chain(before.keys().filter(|name| !entries.contains_key(*name)))
        .map(|name| (*name).to_owned())
        .collect();
    for (name, bytes) in &set.files {
        writes.add(
            format!("targets/{}.{name}", Digest::of(bytes)),
            bytes.clone(),
        );
    }
    for bytes in roots {
        let version = root_version(bytes)?;
        writes.add(format!("metadata/{version}.root.json"), bytes.clone());
    }

    let targets = match previous.as_ref().map(|previous| &previous.targets) {
        Some(held) if changed.is_empty() && held.stands(limits::TARGETS_LIFE_S, now_s) => None,
        held => {
            let version = repository.next_version(Role::Targets, held.map(Held::version));
            let signed = targets_content(version, &entries, now_s);
            let bytes = sign(keys, &root, Role::Targets, &signed)?;
            writes.add(format!("metadata/{version}.targets.json"), bytes.clone());
            Some((version, bytes))
        }
    };

    let snapshot = match (
        previous.as_ref().map(|previous| &previous.snapshot),
        &targets,
    ) {
        (Some(held), None) if held.stands(limits::SNAPSHOT_LIFE_S, now_s) => None,
        (held, targets) => {
            let listed = match (targets, &previous) {
                (Some((version, bytes)), _) => (*version, bytes.as_slice()),
                (None, Some(previous)) => (
                    previous.targets.version(),
                    previous.targets.bytes.as_slice(),
                ),
                // without a previous repository the targets are new
                (None, None) => (0, [].as_slice()),
            };
            let version = repository.next_version(Role::Snapshot, held.map(Held::version));
            let signed = snapshot_content(version, listed, now_s);
            let bytes = sign(keys, &root, Role::Snapshot, &signed)?;
            writes.add(format!("metadata/{version}.snapshot.json"), bytes.clone());
            Some((version, bytes))
        }
    };

    let timestamp = match (
        previous.as_ref().map(|previous| &previous.timestamp),
        &snapshot,
    ) {
        (Some(held), None) if held.confirmed => None,
        (held, snapshot) => {
            let listed = match (snapshot, &previous) {
                (Some((version, bytes)), _) => (*version, bytes.as_slice()),
                (None, Some(previous)) => (
                    previous.snapshot.version(),
                    previous.snapshot.bytes.as_slice(),
                ),
                (None, None) => (0, [].as_slice()),
            };
            let version = held.map_or(1, |held| held.version() + 1);
            let signed = timestamp_content(version, listed, now_s);
            Some(sign(keys, &root, Role::Timestamp, &signed)?)
        }
    };
    let Some(timestamp) = timestamp else {
        // a repository that lost files is made whole; what is there is not touched
        repository.write(&writes)?;
        let previous = previous.as_ref();
        let expires = previous.map_or(0, |previous| previous.timestamp.content.expires().0);
        let mut warnings = due(
            &root,
            previous.map(|previous| &previous.targets.content),
            now_s,
        );
        if expires < now_s + limits::TIMESTAMP_LIFE_S / 2 {
            warnings.push(
                "more than half of the timestamp's life is over: run `mcpshim-admin refresh`"
                    .to_owned(),
            );
        }
        return Ok(Published {
            updated: false,
            version: RegistryVersion {
                root: root.version(),
                timestamp: previous.map_or(0, |previous| previous.timestamp.version()),
                snapshot: previous.map_or(0, |previous| previous.snapshot.version()),
                targets: previous.map_or(0, |previous| previous.targets.version()),
            },
            changed,
            expires,
            warnings,
        });
    };
    writes.timestamp = Some(timestamp);
    let version = repository.rehearse(&writes, roots, &set.org, now)?;
    repository.write(&writes)?;
    let kept = previous.as_ref().map(|previous| &previous.targets.content);
    Ok(Published {
        updated: true,
        version,
        changed,
        expires: now_s + limits::TIMESTAMP_LIFE_S,
        warnings: due(&root, kept.filter(|_| targets.is_none()), now_s),
    })
}

/// Signs the timestamp again, and the snapshot once half of its life is over: the daily work of
/// the online keys. Says nothing new about the documents.
///
/// The repository is believed as far as the keys at hand signed it: the timestamp, and the
/// snapshot whose digest it holds. What else lies there is the machines' to verify.
///
/// # Errors
/// [`PublishError`]; the old timestamp then stays.
pub fn refresh(keys: &KeyRing, out: &Path, now: &Now) -> Result<Published, PublishError> {
    let now_s = now.unix_s();
    let nothing = || PublishError::Nothing {
        path: out.to_owned(),
    };
    if !out.join("metadata/timestamp.json").exists() {
        return Err(nothing());
    }
    let repository = Repository::open(out)?;
    let roots = repository.roots()?;
    let root = newest_root(&roots)?;
    for role in [Role::Timestamp, Role::Snapshot] {
        enough(keys, &root, role)?;
    }
    let previous = repository.previous(&roots, &root)?.ok_or_else(nothing)?;
    // the roots are the repository's own word: who can write there could name keys of theirs
    signed_here(keys, Role::Timestamp, &previous.timestamp.bytes)
        .and_then(|()| signed_here(keys, Role::Snapshot, &previous.snapshot.bytes))
        .map_err(|source| PublishError::Previous {
            path: out.to_owned(),
            source,
        })?;
    let mut writes = Writes::default();
    let (mut version, mut snapshot) =
        (previous.snapshot.version(), previous.snapshot.bytes.clone());
    if !previous.snapshot.stands(limits::SNAPSHOT_LIFE_S, now_s) {
        version = repository.next_version(Role::Snapshot, Some(version));
        let listed = (
            previous.targets.version(),
            previous.targets.bytes.as_slice(),
        );
        let signed = snapshot_content(version, listed, now_s);
        snapshot = sign(keys, &root, Role::Snapshot, &signed)?;
        writes.add(
            format!("metadata/{version}.snapshot.json"),
            snapshot.clone(),
        );
    }
    let timestamp = previous.timestamp.version() + 1;
    let signed = timestamp_content(timestamp, (version, &snapshot), now_s);
    writes.timestamp = Some(sign(keys, &root, Role::Timestamp, &signed)?);
    repository.write(&writes)?;
    Ok(Published {
        updated: true,
        warnings: due(&root, Some(&previous.targets.content), now_s),
        version: RegistryVersion {
            root: root.version(),
            timestamp,
            snapshot: version,
            targets: previous.targets.version(),
        },
        changed: Vec::new(),
        expires: now_s + limits::TIMESTAMP_LIFE_S,
    })
}

/// Checks that one of the keys at hand signed a metadata file.
fn signed_here(keys: &KeyRing, role: Role, bytes: &[u8]) -> Result<(), RegistryError> {
    let file = format!("{role}.json");
    let envelope = Envelope::parse(&file, bytes, role)?;
    if keys.iter().any(|key| envelope.signed_by(&key.public())) {
        return Ok(());
    }
    Err(RegistryError::UnknownKey {
        file,
        role,
        cause: registry::Cause(format!(
            "none of the keys at hand signed the present {role}"
        )),
    })
}

/// What the offline keys have to sign soon: told from half of its life on.
fn due(root: &Root, targets: Option<&Targets>, now_s: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut tell = |what: &str, expires: Expiry, life_s: u64, cure: &str| {
        if expires.0 < now_s + life_s / 2 {
            warnings.push(format!("the {what} expires at {}: {cure}", expires.text()));
        }
    };
    if let Some(targets) = targets {
        let cure = "publish again with the targets keys";
        tell(
            "targets metadata",
            targets.expires(),
            limits::TARGETS_LIFE_S,
            cure,
        );
    }
    let cure = "sign a new root with the root keys";
    tell("root metadata", root.expires(), limits::ROOT_LIFE_S, cure);
    warnings
}

fn enough(keys: &KeyRing, root: &Root, role: Role) -> Result<Vec<KeyId>, PublishError> {
    let (ids, need) = root.keys_of(role);
    let have = keys.count(ids.keys());
    if u32::try_from(have).is_ok_and(|have| have >= need) {
        return Ok(ids.into_keys().collect());
    }
    Err(PublishError::TooFewKeys { role, have, need })
}

fn sign(keys: &KeyRing, root: &Root, role: Role, signed: &Value) -> Result<Vec<u8>, PublishError> {
    let ids = enough(keys, root, role)?;
    Ok(keys.sign(signed, &ids))
}

fn newest_root(roots: &[Vec<u8>]) -> Result<Root, PublishError> {
    registry::newest_root(roots).map_err(PublishError::Root)
}

fn root_version(bytes: &[u8]) -> Result<u64, PublishError> {
    Envelope::parse("root", bytes, Role::Root)
        .map(|envelope| envelope.version())
        .map_err(PublishError::Root)
}
