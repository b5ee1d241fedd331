//! The machine that runs the workflow: it asks for one file at a time and checks what it is given.

use std::collections::{BTreeMap, VecDeque};

use super::clauses::{
    check_document, check_minimum, check_root_not_expired, check_root_signatures,
    check_root_version, check_snapshot_digest, check_snapshot_not_expired, check_snapshot_rollback,
    check_snapshot_signatures, check_snapshot_version, check_targets_digest,
    check_targets_not_expired, check_targets_signatures, check_targets_version,
    check_timestamp_not_expired, check_timestamp_rollback, check_timestamp_signatures,
    check_timestamp_snapshot_rollback, document_path, listed_targets, load_trusted_root,
    metadata_name, next_root_name, rotated_online_keys, wanted_documents,
};
use super::stored::{Followed, follow_stored_roots, load};
use super::{TARGETS, TIMESTAMP};
use crate::clock::Now;
use crate::ids::OrgId;
use crate::limits;
use crate::registry::metadata::{
    Content as _, Root, Snapshot, Target, Targets, Timestamp, max_bytes,
};
use crate::registry::state::{Metadata, State};
use crate::registry::{Cause, RegistryError, Role, Trust};

/// State that only says "still the same" is written again after this long, in seconds.
const CHECKED_EVERY_S: u64 = 3600;

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
    /// The source refuses to give the file (403). Stores that may not be listed say so of a file
    /// that is missing, too.
    Forbidden,
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
    /// [`crate::registry::load`] it to learn whether its documents can be used.
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
            Answer::Forbidden | Answer::NotFound if matches!(self.stage, Stage::Root) => {
                return self.end_of_roots();
            }
            Answer::Forbidden => {
                return Err(self.absent(&want, "403: it is missing, or may not be read from here"));
            }
            Answer::NotFound => return Err(self.absent(&want, "the source has no such file")),
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

    /// A file that the source does not have: without a timestamp there is no registry at all.
    fn absent(&self, want: &Want, why: &str) -> RegistryError {
        let path = &want.path;
        if matches!(self.stage, Stage::Timestamp) {
            let cause = Cause(format!("{path}: {why}"));
            return RegistryError::Elsewhere { cause };
        }
        RegistryError::Unavailable {
            file: path.rsplit('/').next().unwrap_or_default().to_owned(),
            cause: Cause(why.to_owned()),
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
            let checked = self.stored.checked;
            // a clock that was put right counts again at once: ends are held against `checked`
            let back = self.start_s < checked;
            let due = self.start_s.saturating_sub(checked) >= CHECKED_EVERY_S;
            let worth = self.roots_found > 0 || self.mends || back || due;
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
    /// [`crate::registry::load`] says so). When only the timestamp or snapshot keys changed, and the stored
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
