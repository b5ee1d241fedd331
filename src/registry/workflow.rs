//! The client workflow of TUF 1.0.34 §5, one function per clause, and the machine that runs it.
//!
//! The machine asks for one file at a time ([`Update::want`]) and is told what the source said
//! ([`Update::give`]); it never waits, reads a clock or opens anything. [`load`] runs the same
//! clauses, without the freeze checks, over the state this machine already has.
//!
//! Where the specification leaves a choice:
//! - §5.3.3 "not available" is 404 or 410 only. A proxy's 403, a timeout or a cut connection says
//!   nothing about the root; the update ends and the old registry stays.
//! - §5.3.8, §5.4.5, §5.5.7, §5.6.6 persist step by step. Here one file is replaced when the whole
//!   update has been verified, so that what is stored is always usable; roots found by an update
//!   that failed later are kept by [`Update::abandon`] under the rule written there.
//! - §5.6.7 delegations are not followed.

use std::collections::{BTreeMap, VecDeque};

use super::assemble::{self, Origin};
use super::doc::RegistryVersion;
use super::metadata::{
    Content, Envelope, MetaFile, Root, Snapshot, Target, Targets, Timestamp, max_bytes,
};
use super::state::{Metadata, State};
use super::{Cause, Loaded, RegistryError, Role, Trust, Verified, freshness};
use crate::clock::Now;
use crate::ids::{Digest, OrgId};
use crate::limits;

const TIMESTAMP: &str = "timestamp.json";
const TARGETS: &str = "targets.json";
/// State that only says "still the same" is written again after this long, in seconds.
const CHECKED_EVERY_S: u64 = 3600;

// ---- §5.2, §5.3: root ------------------------------------------------------------------------

/// §5.2 Load trusted root metadata: the pinned one, whose expiry does not matter.
fn load_trusted_root(trust: &Trust<'_>) -> Result<Root, RegistryError> {
    Root::pinned("root (pinned)", trust.root)
}

/// §5.3.3 Try downloading version N+1 of the root metadata file.
fn next_root_name(trusted: &Root) -> String {
    format!("{}.root.json", trusted.version().saturating_add(1))
}

/// §5.3.4 Check for an arbitrary software attack: N+1 is signed by a threshold of N's keys and
/// by a threshold of its own.
fn check_root_signatures(trusted: &Root, file: &str, bytes: &[u8]) -> Result<Root, RegistryError> {
    let envelope = Envelope::parse(file, bytes, Role::Root)?;
    trusted.check(&envelope, Role::Root)?;
    let new = Root::unverified(&envelope)?;
    new.check(&envelope, Role::Root)?;
    Ok(new)
}

/// §5.3.5 Check for a rollback attack: the new version is exactly N+1. `false`: it is N again,
/// which ends the walk without an error.
fn check_root_version(trusted: &Root, new: &Root, file: &str) -> Result<bool, RegistryError> {
    let (seen, found) = (trusted.version(), new.version());
    if found == seen {
        return Ok(false);
    }
    if found < seen {
        return Err(rolled_back(file, "root", found, seen));
    }
    if found != seen + 1 {
        return Err(wrong_version(file, found, seen + 1));
    }
    Ok(true)
}

/// §5.3.10 Check for a freeze attack: the last root has not expired.
fn check_root_not_expired(root: &Root, start_s: u64) -> Result<(), RegistryError> {
    check_not_expired(root, &format!("{}.root.json", root.version()), start_s)
}

/// §5.3.11 If the timestamp or snapshot keys have been rotated, what was seen under the old ones
/// no longer counts: the way back from a fast-forward attack.
fn rotated_online_keys(before: &Root, after: &Root) -> bool {
    after.rotated(before, Role::Timestamp) || after.rotated(before, Role::Snapshot)
}

/// §5.3.12 Whether consistent snapshots are used: how a versioned metadata file is called.
fn metadata_name(root: &Root, role: Role, version: u64) -> String {
    if root.consistent_snapshot {
        format!("{version}.{role}.json")
    } else {
        format!("{role}.json")
    }
}

// ---- §5.4: timestamp -------------------------------------------------------------------------

/// §5.4.2 Check for an arbitrary software attack.
fn check_timestamp_signatures(root: &Root, bytes: &[u8]) -> Result<Timestamp, RegistryError> {
    root.verify(&Envelope::parse(TIMESTAMP, bytes, Role::Timestamp)?)
}

/// §5.4.3.1 Check for a rollback attack. `false`: the same version again, which ends the update
/// without an error.
fn check_timestamp_rollback(seen: &Timestamp, new: &Timestamp) -> Result<bool, RegistryError> {
    if new.version() < seen.version() {
        return Err(rolled_back(
            TIMESTAMP,
            "timestamp",
            new.version(),
            seen.version(),
        ));
    }
    Ok(new.version() > seen.version())
}

/// §5.4.3.2 Check for a rollback attack on the snapshot the timestamp names.
fn check_timestamp_snapshot_rollback(
    seen: &Timestamp,
    new: &Timestamp,
) -> Result<(), RegistryError> {
    let (seen, new) = (seen.snapshot().version, new.snapshot().version);
    if new < seen {
        return Err(rolled_back(TIMESTAMP, "snapshot", new, seen));
    }
    Ok(())
}

/// §5.4.4 Check for a freeze attack.
fn check_timestamp_not_expired(new: &Timestamp, start_s: u64) -> Result<(), RegistryError> {
    check_not_expired(new, TIMESTAMP, start_s)
}

// ---- §5.5: snapshot --------------------------------------------------------------------------

/// §5.5.2 Check against the timestamp role's snapshot hash.
fn check_snapshot_digest(
    timestamp: &Timestamp,
    file: &str,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    timestamp.snapshot().check(file, bytes)
}

/// §5.5.3 Check for an arbitrary software attack.
fn check_snapshot_signatures(
    root: &Root,
    file: &str,
    bytes: &[u8],
) -> Result<Snapshot, RegistryError> {
    root.verify(&Envelope::parse(file, bytes, Role::Snapshot)?)
}

/// §5.5.4 Check against the timestamp role's snapshot version.
fn check_snapshot_version(
    timestamp: &Timestamp,
    new: &Snapshot,
    file: &str,
) -> Result<(), RegistryError> {
    let want = timestamp.snapshot().version;
    if new.version() != want {
        return Err(wrong_version(file, new.version(), want));
    }
    Ok(())
}

/// §5.5.5 Check for a rollback attack: every targets file that was listed still is, and its
/// version has not gone down.
fn check_snapshot_rollback(
    seen: &Snapshot,
    new: &Snapshot,
    file: &str,
) -> Result<(), RegistryError> {
    for (name, seen) in &seen.meta {
        let Some(new) = new.meta.get(name) else {
            return Err(RegistryError::RolledBack {
                file: file.to_owned(),
                cause: Cause(format!("it no longer lists {name}")),
            });
        };
        if new.version < seen.version {
            return Err(rolled_back(file, name, new.version, seen.version));
        }
    }
    Ok(())
}

/// §5.5.6 Check for a freeze attack.
fn check_snapshot_not_expired(
    new: &Snapshot,
    file: &str,
    start_s: u64,
) -> Result<(), RegistryError> {
    check_not_expired(new, file, start_s)
}

// ---- §5.6: targets ---------------------------------------------------------------------------

/// What the snapshot says about the top-level targets metadata.
fn listed_targets<'s>(snapshot: &'s Snapshot, file: &str) -> Result<&'s MetaFile, RegistryError> {
    snapshot
        .meta
        .get(TARGETS)
        .ok_or_else(|| RegistryError::Malformed {
            file: file.to_owned(),
            cause: Cause(format!("it does not list {TARGETS}")),
        })
}

/// §5.6.2 Check against the snapshot role's targets hash.
fn check_targets_digest(listed: &MetaFile, file: &str, bytes: &[u8]) -> Result<(), RegistryError> {
    listed.check(file, bytes)
}

/// §5.6.3 Check for an arbitrary software attack.
fn check_targets_signatures(
    root: &Root,
    file: &str,
    bytes: &[u8],
) -> Result<Targets, RegistryError> {
    root.verify(&Envelope::parse(file, bytes, Role::Targets)?)
}

/// §5.6.4 Check against the snapshot role's targets version.
fn check_targets_version(
    listed: &MetaFile,
    new: &Targets,
    file: &str,
) -> Result<(), RegistryError> {
    if new.version() != listed.version {
        return Err(wrong_version(file, new.version(), listed.version));
    }
    Ok(())
}

/// §5.6.5 Check for a freeze attack.
fn check_targets_not_expired(new: &Targets, file: &str, start_s: u64) -> Result<(), RegistryError> {
    check_not_expired(new, file, start_s)
}

// ---- §5.7: documents -------------------------------------------------------------------------

/// §5.7.1, §5.7.2 The documents this reader wants: those listed whose names it knows.
fn wanted_documents(targets: &Targets) -> Result<Vec<(String, Target)>, RegistryError> {
    let wanted: Vec<_> = targets
        .targets
        .iter()
        .filter(|(name, _)| assemble::is_known(name))
        .map(|(name, target)| (name.clone(), target.clone()))
        .collect();
    for (name, target) in &wanted {
        if target.length > limits::TARGET_BYTES as u64 {
            return Err(RegistryError::Document {
                file: name.clone(),
                cause: Cause(format!(
                    "it has {} bytes, the limit is {}",
                    target.length,
                    limits::TARGET_BYTES
                )),
            });
        }
    }
    let total = wanted
        .iter()
        .fold(0, |sum: u64, (_, target)| sum.saturating_add(target.length));
    if total > limits::REGISTRY_BYTES as u64 {
        return Err(RegistryError::Document {
            file: TARGETS.to_owned(),
            cause: Cause(format!(
                "its documents have {total} bytes, the limit is {}",
                limits::REGISTRY_BYTES
            )),
        });
    }
    Ok(wanted)
}

/// §5.7.3 Length and digest of a document equal those its targets metadata lists.
fn check_document(target: &Target, file: &str, bytes: &[u8]) -> Result<(), RegistryError> {
    target.check(file, bytes)
}

/// §5.7.3 How a document is called at the source.
fn document_path(root: &Root, name: &str, target: &Target) -> String {
    if root.consistent_snapshot {
        format!("targets/{}.{name}", target.sha256())
    } else {
        format!("targets/{name}")
    }
}

// ---- shared by the clauses -------------------------------------------------------------------

fn check_not_expired<T: Content>(
    content: &T,
    file: &str,
    start_s: u64,
) -> Result<(), RegistryError> {
    if content.expires().0 > start_s {
        return Ok(());
    }
    Err(RegistryError::Expired {
        file: file.to_owned(),
        role: T::ROLE,
        cause: Cause(format!(
            "version {} expired at {}, and it is {}",
            content.version(),
            content.expires().text(),
            super::metadata::Expiry(start_s).text()
        )),
    })
}

fn rolled_back(file: &str, what: &str, found: u64, seen: u64) -> RegistryError {
    RegistryError::RolledBack {
        file: file.to_owned(),
        cause: Cause(format!(
            "{what} has version {found}, version {seen} was seen before"
        )),
    }
}

fn wrong_version(file: &str, found: u64, expected: u64) -> RegistryError {
    RegistryError::WrongVersion {
        file: file.to_owned(),
        cause: Cause(format!("it has version {found}, expected {expected}")),
    }
}

/// Not a clause of TUF: the lowest versions that managed configuration accepts.
fn check_minimum(role: Role, version: u64, minimum: u64) -> Result<(), RegistryError> {
    if version >= minimum {
        return Ok(());
    }
    Err(RegistryError::BelowMinimum {
        role,
        cause: Cause(format!(
            "{role} has version {version}, at least {minimum} is required"
        )),
    })
}

/// How far stored roots lead.
struct Followed<'s> {
    root: Root,
    /// Those on the way.
    kept: Vec<&'s [u8]>,
    /// Why the next one is not followed.
    broken: Option<RegistryError>,
}

impl Followed<'_> {
    /// The last root, if all of them hold.
    fn whole(self) -> Result<Root, RegistryError> {
        self.broken.map_or(Ok(self.root), Err)
    }
}

/// Follows the stored roots from the pinned one, as far as they hold.
///
/// Roots up to the pinned version are skipped: a newer pinned root replaces them.
fn follow_stored_roots<'s>(pinned: Root, roots: &[&'s [u8]]) -> Followed<'s> {
    let pinned_version = pinned.version();
    let mut followed = Followed {
        root: pinned,
        kept: Vec::new(),
        broken: None,
    };
    for bytes in roots.iter().copied() {
        match follow_stored_root(&followed.root, pinned_version, bytes) {
            Ok(Some(new)) => {
                followed.root = new;
                followed.kept.push(bytes);
            }
            Ok(None) => {}
            Err(error) => {
                followed.broken = Some(error);
                break;
            }
        }
    }
    followed
}

fn follow_stored_root(
    root: &Root,
    pinned_version: u64,
    bytes: &[u8],
) -> Result<Option<Root>, RegistryError> {
    let file = "stored root";
    if Envelope::parse(file, bytes, Role::Root)?.version() <= pinned_version {
        return Ok(None);
    }
    let new = check_root_signatures(root, file, bytes)?;
    if check_root_version(root, &new, file)? {
        return Ok(Some(new));
    }
    Err(wrong_version(file, new.version(), root.version() + 1))
}

/// Follows roots from the first, which is trusted, to the last.
#[cfg(feature = "admin")]
pub(crate) fn newest_root(roots: &[Vec<u8>]) -> Result<Root, RegistryError> {
    let first = Root::pinned("root", roots.first().map(Vec::as_slice).unwrap_or_default())?;
    let rest: Vec<&[u8]> = roots.iter().skip(1).map(Vec::as_slice).collect();
    follow_stored_roots(first, &rest).whole()
}

// ---- loading what is stored ------------------------------------------------------------------

/// Proves the stored state again from the pinned root; see [`super::load`].
pub(super) fn load(
    state: &State<'_>,
    trust: &Trust<'_>,
    now: &Now,
) -> Result<Loaded, RegistryError> {
    let pinned = load_trusted_root(trust)?;
    let root = follow_stored_roots(pinned, &state.roots)
        .whole()
        .map_err(damaged)?;
    check_minimum(Role::Root, root.version(), trust.min_root_version)?;
    let Some(metadata) = state.metadata else {
        return Err(RegistryError::Damaged {
            cause: Cause("it is empty".to_owned()),
        });
    };

    let timestamp = check_timestamp_signatures(&root, metadata.timestamp)?;
    check_minimum(
        Role::Timestamp,
        timestamp.version(),
        trust.min_timestamp_version,
    )?;
    let file = "snapshot.json";
    check_snapshot_digest(&timestamp, file, metadata.snapshot).map_err(damaged)?;
    let snapshot = check_snapshot_signatures(&root, file, metadata.snapshot)?;
    check_snapshot_version(&timestamp, &snapshot, file)?;
    let listed = listed_targets(&snapshot, file)?;
    check_targets_digest(listed, TARGETS, metadata.targets).map_err(damaged)?;
    let targets = check_targets_signatures(&root, TARGETS, metadata.targets)?;
    check_targets_version(listed, &targets, TARGETS)?;

    let stored: BTreeMap<&str, &[u8]> = state
        .documents
        .iter()
        .map(|(name, bytes)| (name.as_str(), *bytes))
        .collect();
    let wanted = wanted_documents(&targets)?;
    let mut documents = Vec::with_capacity(wanted.len());
    for (name, target) in &wanted {
        let bytes = stored
            .get(name.as_str())
            .ok_or_else(|| RegistryError::Damaged {
                cause: Cause(format!("document {name} is missing")),
            })?;
        check_document(target, name, bytes).map_err(damaged)?;
        documents.push((name.as_str(), *bytes));
    }

    // in practice the timestamp's; whichever ends first ends the registry's claim to be current
    let expires = [
        root.expires(),
        timestamp.expires(),
        snapshot.expires(),
        targets.expires(),
    ];
    let expires = expires.into_iter().min().map_or(0, |expiry| expiry.0);
    let origin = Origin {
        version: RegistryVersion {
            root: root.version(),
            timestamp: timestamp.version(),
            snapshot: snapshot.version(),
            targets: targets.version(),
        },
        digest: Digest::of(metadata.targets),
        expires,
        checked: state.checked,
    };
    let (registry, mut warnings) = assemble::assemble(documents.into_iter(), trust.org, origin)?;
    let freshness = freshness(&registry, now);
    let back_s = state.checked.saturating_sub(now.unix_s());
    if back_s > limits::CLOCK_STEP_S {
        warnings.push(format!(
            "the clock is {} hours behind the last check of the registry: it is treated as stale until the next one",
            back_s / 3600
        ));
    } else if back_s > 0 {
        warnings.push(format!(
            "the clock is {back_s} s behind the last check of the registry"
        ));
    }
    let at = now.unix_s().max(state.checked);
    let (verb, due) = if at >= expires {
        ("expired", "has stopped")
    } else {
        ("expires", "is late")
    };
    if at.saturating_add(limits::TIMESTAMP_LIFE_S / 2) >= expires {
        warnings.push(format!(
            "the registry {verb} at {}: its renewal {due}",
            super::metadata::Expiry(expires).text()
        ));
    }
    Ok(Loaded {
        registry: Verified(registry),
        freshness,
        warnings,
    })
}

/// A stored file that does not verify is damage, not an attack by the source.
fn damaged(error: RegistryError) -> RegistryError {
    let reason = std::error::Error::source(&error)
        .map(ToString::to_string)
        .unwrap_or_default();
    RegistryError::Damaged {
        cause: Cause(format!("{error}: {reason}")),
    }
}

// ---- the update ------------------------------------------------------------------------------

/// A file the update needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Its path below the registry's URL, e.g. `metadata/timestamp.json`.
    pub path: String,
    /// Reading more than this is refused.
    pub max_bytes: u64,
    /// Ask for it only if its entity tag differs.
    pub etag: Option<String>,
}

/// What the source said.
#[derive(Debug)]
pub enum Answer {
    /// The file.
    Body {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Its entity tag, if it has one.
        etag: Option<String>,
    },
    /// The source says it has no such file (404, 410).
    NotFound,
    /// The file has the entity tag that was asked about (304).
    NotModified,
    /// Anything else, as a sentence: it says nothing about the file.
    Unknown(String),
}

/// How an update ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing new. The state to write, if its time of last check is worth writing.
    Unchanged(Option<Vec<u8>>),
    /// A newer registry: the state to write. It has been verified, except that the caller must
    /// [`super::load`] it to learn whether its documents can be used.
    Updated(Vec<u8>),
}

/// One run of the client workflow, driven by whoever can fetch files.
///
/// Call [`Self::want`]; fetch what it names and [`Self::give`] the answer; repeat until it names
/// nothing, then [`Self::finish`]. After an error call [`Self::abandon`] instead.
#[derive(Debug)]
pub struct Update<'a> {
    /// §5.1 Record fixed update start time.
    start_s: u64,
    org: OrgId,
    pinned: &'a [u8],
    minimums: (u64, u64),
    /// What is stored, as it was read.
    stored: State<'a>,
    /// The state itself was lost and this is an older one: it must be written in any case.
    mends: bool,
    /// The root that what is stored was trusted under.
    before: Root,
    root: Root,
    roots: Vec<Held<'a>>,
    roots_found: u64,
    old: Old<'a>,
    stage: Stage<'a>,
}

/// Bytes that are stored already, or were just fetched.
#[derive(Debug, Clone)]
enum Held<'a> {
    Stored(&'a [u8]),
    Fetched(Vec<u8>),
}

impl Held<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Held::Fetched(bytes) => bytes,
            Held::Stored(bytes) => bytes,
        }
    }
}

/// What is stored and verifies: all of it, or of a damaged state the parts that are whole.
#[derive(Debug, Default)]
struct Old<'a> {
    /// All of it verifies and is a usable registry.
    complete: bool,
    etag: Option<String>,
    timestamp: Option<(Timestamp, &'a [u8])>,
    snapshot: Option<(Snapshot, &'a [u8])>,
    targets: Option<(Targets, &'a [u8])>,
    documents: BTreeMap<String, &'a [u8]>,
}

#[derive(Debug)]
enum Stage<'a> {
    Root,
    Timestamp,
    Snapshot(Found<'a, Timestamp>),
    Targets(Found<'a, Timestamp>, Found<'a, Snapshot>),
    Documents(Box<Documents<'a>>),
    Unchanged,
}

#[derive(Debug)]
struct Found<'a, T> {
    content: T,
    held: Held<'a>,
    etag: Option<String>,
}

#[derive(Debug)]
struct Documents<'a> {
    timestamp: Found<'a, Timestamp>,
    snapshot: Found<'a, Snapshot>,
    targets: Found<'a, Targets>,
    have: BTreeMap<String, Held<'a>>,
    missing: VecDeque<(String, Target)>,
}

impl<'a> Update<'a> {
    /// Starts from the newest root that is trusted: the pinned one or a stored one after it.
    ///
    /// `stored` is the state of this machine and, after it, older ones that were kept. The first is
    /// all that counts while it is whole. Damaged state does not stop an update: whatever is still
    /// signed in any of them keeps its say about which versions were seen; the rest is fetched
    /// again.
    ///
    /// # Errors
    /// [`RegistryError`] when the pinned root itself cannot be used, or when the state was
    /// written by a newer mcpshim.
    pub fn new(stored: &[&'a [u8]], trust: &Trust<'a>, now: &Now) -> Result<Self, RegistryError> {
        let pinned = load_trusted_root(trust)?;
        let mut best = Self::over(State::default(), pinned.clone(), trust, now);
        for (index, bytes) in stored.iter().enumerate() {
            let state = match State::read(bytes) {
                Ok(state) => state,
                Err(RegistryError::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let mut update = Self::over(state, pinned.clone(), trust, now);
            update.mends = index > 0;
            if index == 0 && update.old.complete {
                return Ok(update);
            }
            let seen = |update: &Self| {
                (
                    update.old.timestamp.as_ref().map(|(t, _)| t.version()),
                    update.root.version(),
                )
            };
            if seen(&update) > seen(&best) {
                best = update;
            }
        }
        Ok(best)
    }

    fn over(state: State<'a>, pinned: Root, trust: &Trust<'a>, now: &Now) -> Self {
        let Followed {
            root, kept: roots, ..
        } = follow_stored_roots(pinned, &state.roots);
        let mut update = Self {
            start_s: now.unix_s(),
            org: trust.org.clone(),
            pinned: trust.root,
            minimums: (trust.min_root_version, trust.min_timestamp_version),
            stored: state,
            mends: false,
            before: root.clone(),
            root,
            roots: roots.into_iter().map(Held::Stored).collect(),
            roots_found: 0,
            old: Old::default(),
            stage: Stage::Root,
        };
        update.old = update.read_stored();
        update
    }

    /// The next file to fetch; `None` when the update has ended.
    #[must_use]
    pub fn want(&self) -> Option<Want> {
        let metadata = |name: String, role, listed, etag| Want {
            path: format!("metadata/{name}"),
            max_bytes: max_bytes(role, listed),
            etag,
        };
        match &self.stage {
            Stage::Root => Some(metadata(next_root_name(&self.root), Role::Root, None, None)),
            Stage::Timestamp => {
                let etag = self.old.etag.clone().filter(|_| self.old.complete);
                Some(metadata(TIMESTAMP.to_owned(), Role::Timestamp, None, etag))
            }
            Stage::Snapshot(timestamp) => {
                let listed = timestamp.content.snapshot();
                let name = metadata_name(&self.root, Role::Snapshot, listed.version);
                Some(metadata(name, Role::Snapshot, listed.length, None))
            }
            Stage::Targets(_, snapshot) => {
                let listed = snapshot.content.meta.get(TARGETS)?;
                let name = metadata_name(&self.root, Role::Targets, listed.version);
                Some(metadata(name, Role::Targets, listed.length, None))
            }
            Stage::Documents(documents) => {
                let (name, target) = documents.missing.front()?;
                Some(Want {
                    path: document_path(&self.root, name, target),
                    max_bytes: target.length,
                    etag: None,
                })
            }
            Stage::Unchanged => None,
        }
    }

    /// Takes the answer to the last [`Self::want`] and checks it.
    ///
    /// # Errors
    /// The clause that refused it, or [`RegistryError::Unavailable`] when the source did not say.
    /// The update is over; call [`Self::abandon`].
    pub fn give(&mut self, answer: Answer) -> Result<(), RegistryError> {
        let Some(want) = self.want() else {
            return Ok(());
        };
        let file = want.path.rsplit('/').next().unwrap_or_default().to_owned();
        let unavailable = |why: String| RegistryError::Unavailable {
            file: file.clone(),
            cause: Cause(why),
        };
        let (bytes, etag) = match answer {
            Answer::Body { bytes, .. } if bytes.len() as u64 > want.max_bytes => {
                return Err(unavailable(format!(
                    "it has more than {} bytes",
                    want.max_bytes
                )));
            }
            Answer::Body { bytes, etag } => (bytes, etag),
            Answer::NotFound if matches!(self.stage, Stage::Root) => return self.end_of_roots(),
            Answer::NotFound => {
                return Err(unavailable("the source has no such file".to_owned()));
            }
            Answer::NotModified if want.etag.is_some() => {
                self.stage = Stage::Unchanged;
                return Ok(());
            }
            Answer::NotModified => {
                return Err(unavailable(
                    "the source says 304 to an unconditional request".into(),
                ));
            }
            Answer::Unknown(why) => return Err(unavailable(why)),
        };
        match std::mem::replace(&mut self.stage, Stage::Unchanged) {
            Stage::Root => self.give_root(&file, bytes),
            Stage::Timestamp => self.give_timestamp(bytes, etag),
            Stage::Snapshot(timestamp) => {
                self.give_snapshot(timestamp, &file, Held::Fetched(bytes))
            }
            Stage::Targets(timestamp, snapshot) => {
                self.give_targets(timestamp, snapshot, &file, Held::Fetched(bytes))
            }
            Stage::Documents(mut documents) => {
                if let Some((name, target)) = documents.missing.pop_front() {
                    check_document(&target, &name, &bytes)?;
                    documents.have.insert(name, Held::Fetched(bytes));
                }
                self.stage = Stage::Documents(documents);
                Ok(())
            }
            Stage::Unchanged => Ok(()),
        }
    }

    /// §5.3.4 to §5.3.9 for one root.
    fn give_root(&mut self, file: &str, bytes: Vec<u8>) -> Result<(), RegistryError> {
        let new = check_root_signatures(&self.root, file, &bytes)?;
        if !check_root_version(&self.root, &new, file)? {
            return self.end_of_roots();
        }
        // §5.3.6: the expiry of an intermediate root does not matter
        // §5.3.7: Set the trusted root metadata file to the new one
        self.root = new;
        self.roots.push(Held::Fetched(bytes));
        self.roots_found += 1;
        if self.roots_found >= limits::ROOT_ROTATIONS {
            return self.end_of_roots();
        }
        // §5.3.9: Repeat
        self.stage = Stage::Root;
        Ok(())
    }

    /// §5.3.10 to §5.3.12.
    fn end_of_roots(&mut self) -> Result<(), RegistryError> {
        check_minimum(Role::Root, self.root.version(), self.minimums.0)?;
        check_root_not_expired(&self.root, self.start_s)?;
        if self.roots_found > 0 {
            // what the new root does not confirm is no longer stored, whichever key signed it
            self.old = self.read_stored();
        }
        if rotated_online_keys(&self.before, &self.root) {
            self.old.forget_versions();
        }
        self.stage = Stage::Timestamp;
        Ok(())
    }

    /// §5.4.2 to §5.4.5.
    fn give_timestamp(
        &mut self,
        bytes: Vec<u8>,
        etag: Option<String>,
    ) -> Result<(), RegistryError> {
        let new = check_timestamp_signatures(&self.root, &bytes)?;
        check_minimum(Role::Timestamp, new.version(), self.minimums.1)?;
        if let Some((seen, stored)) = &self.old.timestamp {
            if !check_timestamp_rollback(seen, &new)? {
                if self.old.complete {
                    self.stage = Stage::Unchanged;
                    return Ok(());
                }
                // the same version again, but what it led to was lost: go on with the stored
                // one, which is the one this version was first seen as
                check_timestamp_not_expired(seen, self.start_s)?;
                let timestamp = Found {
                    content: seen.clone(),
                    held: Held::Stored(stored),
                    etag: None,
                };
                return self.after_timestamp(timestamp);
            }
            check_timestamp_snapshot_rollback(seen, &new)?;
        }
        check_timestamp_not_expired(&new, self.start_s)?;
        self.after_timestamp(Found {
            content: new,
            held: Held::Fetched(bytes),
            etag,
        })
    }

    /// §5.5.1: a snapshot that is stored and is the one named need not be downloaded.
    fn after_timestamp(&mut self, timestamp: Found<'a, Timestamp>) -> Result<(), RegistryError> {
        if let Some((stored, bytes)) = &self.old.snapshot
            && stored.version() == timestamp.content.snapshot().version
        {
            let bytes = *bytes;
            if check_snapshot_digest(&timestamp.content, "snapshot.json", bytes).is_ok() {
                return self.give_snapshot(timestamp, "snapshot.json", Held::Stored(bytes));
            }
        }
        self.stage = Stage::Snapshot(timestamp);
        Ok(())
    }

    /// §5.5.2 to §5.5.7.
    fn give_snapshot(
        &mut self,
        timestamp: Found<'a, Timestamp>,
        file: &str,
        held: Held<'a>,
    ) -> Result<(), RegistryError> {
        check_snapshot_digest(&timestamp.content, file, held.bytes())?;
        let new = check_snapshot_signatures(&self.root, file, held.bytes())?;
        check_snapshot_version(&timestamp.content, &new, file)?;
        if let Some((seen, _)) = &self.old.snapshot {
            check_snapshot_rollback(seen, &new, file)?;
        }
        check_snapshot_not_expired(&new, file, self.start_s)?;
        let listed = listed_targets(&new, file)?.clone();
        let snapshot = Found {
            content: new,
            held,
            etag: None,
        };
        // §5.6.1: nor need targets metadata that is stored
        if let Some((stored, bytes)) = &self.old.targets
            && stored.version() == listed.version
        {
            let bytes = *bytes;
            if check_targets_digest(&listed, TARGETS, bytes).is_ok() {
                return self.give_targets(timestamp, snapshot, TARGETS, Held::Stored(bytes));
            }
        }
        self.stage = Stage::Targets(timestamp, snapshot);
        Ok(())
    }

    /// §5.6.2 to §5.6.6, and §5.7.1 for every document.
    fn give_targets(
        &mut self,
        timestamp: Found<'a, Timestamp>,
        snapshot: Found<'a, Snapshot>,
        file: &str,
        held: Held<'a>,
    ) -> Result<(), RegistryError> {
        let listed = listed_targets(&snapshot.content, file)?;
        check_targets_digest(listed, file, held.bytes())?;
        let new = check_targets_signatures(&self.root, file, held.bytes())?;
        check_targets_version(listed, &new, file)?;
        check_targets_not_expired(&new, file, self.start_s)?;
        let (mut have, mut missing) = (BTreeMap::new(), VecDeque::new());
        for (name, target) in wanted_documents(&new)? {
            match self.old.documents.get(&name) {
                Some(bytes) if check_document(&target, &name, bytes).is_ok() => {
                    have.insert(name, Held::Stored(bytes));
                }
                Some(_) | None => missing.push_back((name, target)),
            }
        }
        let targets = Found {
            content: new,
            held,
            etag: None,
        };
        self.stage = Stage::Documents(Box::new(Documents {
            timestamp,
            snapshot,
            targets,
            have,
            missing,
        }));
        Ok(())
    }

    /// Ends an update that names no further file.
    ///
    /// # Errors
    /// [`RegistryError`] when the new documents are not a usable registry; the old one stays. A
    /// registry that needs a newer mcpshim is not such an error: its owners mean it, so it is
    /// stored, and loading it says so.
    pub fn finish(&self) -> Result<Ended, RegistryError> {
        let Stage::Documents(documents) = &self.stage else {
            let far = self.start_s.abs_diff(self.stored.checked) >= CHECKED_EVERY_S;
            let worth = self.roots_found > 0 || self.mends || far;
            return Ok(Ended::Unchanged(
                worth.then(|| self.old_state(self.start_s).write()),
            ));
        };
        let state = State {
            checked: self.start_s,
            etag: documents.timestamp.etag.clone(),
            roots: self.roots.iter().map(Held::bytes).collect(),
            metadata: Some(Metadata {
                timestamp: documents.timestamp.held.bytes(),
                snapshot: documents.snapshot.held.bytes(),
                targets: documents.targets.held.bytes(),
            }),
            documents: documents
                .have
                .iter()
                .map(|(name, held)| (name.clone(), held.bytes()))
                .collect(),
        };
        match load(&state, &self.trust(), &self.start()) {
            Ok(_) | Err(RegistryError::TooNew { .. }) => Ok(Ended::Updated(state.write())),
            Err(error) => Err(error),
        }
    }

    /// Ends an update that failed: the state to write, if a root it found must be kept.
    ///
    /// New roots are kept when the stored registry still loads under them and the last of them has
    /// not expired (nothing is lost), and when they change the targets keys (the organisation took
    /// a signing key back: the stored registry decides on only if the new keys confirm it, and
    /// [`super::load`] says so). When only the timestamp or snapshot keys changed, and the stored
    /// registry no longer loads, they are not kept: a network that fails between two files would
    /// stop every call, and the next update finds them again.
    #[must_use]
    pub fn abandon(&self) -> Option<Vec<u8>> {
        if self.roots_found == 0 || self.stored.metadata.is_none() {
            return None;
        }
        let state = self.old_state(self.stored.checked);
        let taken_back = self.root.rotated(&self.before, Role::Targets);
        let usable = || {
            check_root_not_expired(&self.root, self.start_s).is_ok()
                && load(&state, &self.trust(), &self.start()).is_ok()
        };
        (taken_back || usable()).then(|| state.write())
    }

    /// What is stored, under the roots found by now.
    fn old_state(&self, checked: u64) -> State<'_> {
        State {
            checked,
            roots: self.roots.iter().map(Held::bytes).collect(),
            ..self.stored.clone()
        }
    }

    /// Keeps of the stored state whatever verifies under the newest root.
    fn read_stored(&self) -> Old<'a> {
        let state = self.old_state(self.stored.checked);
        let mut old = Old {
            complete: load(&state, &self.trust(), &self.start()).is_ok(),
            ..Old::default()
        };
        let (root, stored) = (&self.root, &self.stored);
        if let Some(metadata) = stored.metadata {
            old.etag = stored.etag.clone();
            old.timestamp = check_timestamp_signatures(root, metadata.timestamp)
                .ok()
                .map(|timestamp| (timestamp, metadata.timestamp));
            old.snapshot = check_snapshot_signatures(root, "stored snapshot", metadata.snapshot)
                .ok()
                .map(|snapshot| (snapshot, metadata.snapshot));
            old.targets = check_targets_signatures(root, "stored targets", metadata.targets)
                .ok()
                .map(|targets| (targets, metadata.targets));
        }
        // used again only where the digest in verified targets metadata says they are the same
        old.documents = stored.documents.iter().cloned().collect();
        old
    }

    fn trust(&self) -> Trust<'_> {
        Trust {
            root: self.pinned,
            org: &self.org,
            min_root_version: self.minimums.0,
            min_timestamp_version: self.minimums.1,
        }
    }

    fn start(&self) -> Now {
        Now {
            wall_us: self.start_s.saturating_mul(1_000_000),
            mono_us: 0,
        }
    }
}

impl Old<'_> {
    fn forget_versions(&mut self) {
        self.timestamp = None;
        self.snapshot = None;
        self.etag = None;
        self.complete = false;
    }
}
