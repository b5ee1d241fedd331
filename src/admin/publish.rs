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

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::TargetSet;
use super::keys::KeyRing;
use crate::clock::{Entropy, Now};
use crate::ids::{Digest, KeyId, OrgId};
use crate::limits;
use crate::registry::doc::RegistryVersion;
use crate::registry::metadata::{Content, Envelope, Expiry, Root, Snapshot, Targets, Timestamp};
use crate::registry::{self, Answer, Ended, Loaded, RegistryError, Role, Trust, Update};

/// The version of the TUF specification that the metadata follows.
pub(super) const SPEC_VERSION: &str = "1.0.34";

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
    #[error("{have} of the {need} {role} keys that must sign are at hand")]
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

/// Reads the registry that a directory publishes, as a client that knows only the first root.
///
/// # Errors
/// When it does not continue from that root, or machines would refuse it.
pub fn published(
    repository: &Path,
    roots: &[Vec<u8>],
    org: &OrgId,
    now: &Now,
) -> Result<Loaded, PublishError> {
    let mut read = |path: &str| match fs::read(repository.join(path)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            let path = repository.join(path);
            Err(PublishError::Io { path, source })
        }
    };
    walk(roots, org, now, &mut read).map_err(|error| match error {
        PublishError::Refused(source) => PublishError::Previous {
            path: repository.to_owned(),
            source,
        },
        other => other,
    })
}

/// Signs the documents with keys that nobody keeps and reads them as a machine would, in memory:
/// what decides afterwards is verified, and nothing is published.
///
/// # Errors
/// [`PublishError::Refused`] with what machines would refuse.
pub fn rehearsed(
    set: &TargetSet,
    now: &Now,
    entropy: &mut dyn Entropy,
) -> Result<Loaded, PublishError> {
    registry::check_documents(&set.files, &set.org).map_err(PublishError::Refused)?;
    let now_s = now.unix_s();
    let (ring, key) = KeyRing::of_the_moment(entropy);
    let signers = || [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];
    let roles = signers().map(|role| (role, (vec![key.clone()], 1)));
    let root = super::keys::root(1, &ring, &roles.into(), now_s + limits::ROOT_LIFE_S);
    let entries = entries(set);
    let targets = ring.sign(&targets_content(1, &entries, now_s), [&key]);
    let snapshot = ring.sign(&snapshot_content(1, (1, &targets), now_s), [&key]);
    let timestamp = ring.sign(&timestamp_content(1, (1, &snapshot), now_s), [&key]);
    let mut files = BTreeMap::from([
        ("metadata/1.targets.json".to_owned(), targets),
        ("metadata/1.snapshot.json".to_owned(), snapshot),
        ("metadata/timestamp.json".to_owned(), timestamp),
    ]);
    for (name, bytes) in &set.files {
        files.insert(
            format!("targets/{}.{name}", Digest::of(bytes)),
            bytes.clone(),
        );
    }
    walk(&[root], &set.org, now, &mut |path| {
        Ok(files.get(path).cloned())
    })
}

/// Gives the bytes of a file of a repository; `None` where there is none.
type Reader<'a> = dyn FnMut(&str) -> Result<Option<Vec<u8>>, PublishError> + 'a;

/// Runs a client that knows only the first root over files.
fn walk(
    roots: &[Vec<u8>],
    org: &OrgId,
    now: &Now,
    read: &mut Reader<'_>,
) -> Result<Loaded, PublishError> {
    let trust = Trust {
        root: roots.first().map(Vec::as_slice).unwrap_or_default(),
        org,
        min_root_version: 0,
        min_timestamp_version: 0,
    };
    let refused = PublishError::Refused;
    let mut update = Update::new(&[], &trust, now).map_err(refused)?;
    while let Some(want) = update.want() {
        let answer = match read(&want.path)? {
            Some(bytes) => Answer::Body { bytes, etag: None },
            None => Answer::NotFound,
        };
        update.give(answer).map_err(refused)?;
    }
    match update.finish().map_err(refused)? {
        Ended::Updated(state) => registry::load(&state, &trust, now).map_err(refused),
        Ended::Unchanged(_) => Err(refused(RegistryError::Damaged {
            cause: registry::Cause("there is no metadata".to_owned()),
        })),
    }
}

fn entries(set: &TargetSet) -> BTreeMap<&str, (u64, Digest)> {
    let files = set.files.iter();
    files
        .map(|(name, bytes)| (name.as_str(), (bytes.len() as u64, Digest::of(bytes))))
        .collect()
}

fn targets_content(version: u64, entries: &BTreeMap<&str, (u64, Digest)>, now_s: u64) -> Value {
    let list: serde_json::Map<String, Value> = entries
        .iter()
        .map(|(name, (length, digest))| {
            let entry = json!({ "length": length, "hashes": { "sha256": digest } });
            ((*name).to_owned(), entry)
        })
        .collect();
    json!({
        "_type": "targets",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": Expiry(now_s + limits::TARGETS_LIFE_S).text(),
        "targets": list,
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

fn snapshot_content(version: u64, (targets, bytes): (u64, &[u8]), now_s: u64) -> Value {
    json!({
        "_type": "snapshot",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": Expiry(now_s + limits::SNAPSHOT_LIFE_S).text(),
        "meta": { "targets.json": file_entry(targets, bytes) },
    })
}

fn timestamp_content(version: u64, (snapshot, bytes): (u64, &[u8]), now_s: u64) -> Value {
    json!({
        "_type": "timestamp",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": Expiry(now_s + limits::TIMESTAMP_LIFE_S).text(),
        "meta": { "snapshot.json": file_entry(snapshot, bytes) },
    })
}

fn file_entry(version: u64, bytes: &[u8]) -> Value {
    json!({
        "version": version,
        "length": bytes.len(),
        "hashes": { "sha256": Digest::of(bytes) },
    })
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

/// A role's metadata as it was published before.
struct Held<T> {
    content: T,
    bytes: Vec<u8>,
    /// The newest root confirms its signatures, too.
    confirmed: bool,
}

impl<T: Content> Held<T> {
    fn version(&self) -> u64 {
        self.content.version()
    }

    /// Whether it need not be signed again: confirmed, and less than half of its life is over.
    fn stands(&self, life_s: u64, now_s: u64) -> bool {
        self.confirmed && self.content.expires().0 > now_s + life_s / 2
    }
}

struct Previous {
    timestamp: Held<Timestamp>,
    snapshot: Held<Snapshot>,
    targets: Held<Targets>,
}

/// Files to write, by path below the repository; the timestamp apart, since it comes last.
#[derive(Default)]
struct Writes {
    files: BTreeMap<String, Vec<u8>>,
    timestamp: Option<Vec<u8>>,
}

impl Writes {
    fn add(&mut self, path: String, bytes: Vec<u8>) {
        self.files.insert(path, bytes);
    }
}

/// The directory of one repository, locked against other publishers.
struct Repository<'p> {
    dir: &'p Path,
    _lock: File,
}

impl<'p> Repository<'p> {
    fn open(dir: &'p Path) -> Result<Self, PublishError> {
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

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, PublishError> {
        let path = self.dir.join(path);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PublishError::Io { path, source }),
        }
    }

    /// Every root the repository holds, from the lowest version on.
    fn roots(&self) -> Result<Vec<Vec<u8>>, PublishError> {
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
    fn previous(&self, roots: &[Vec<u8>], newest: &Root) -> Result<Option<Previous>, PublishError> {
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
    fn next_version(&self, role: Role, published: Option<u64>) -> u64 {
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
    fn rehearse(
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
    fn write(&self, writes: &Writes) -> Result<(), PublishError> {
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
