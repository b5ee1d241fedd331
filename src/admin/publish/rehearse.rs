//! A client that knows only the first root, run over files: of a repository, or of one that would be.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use super::PublishError;
use super::content::{entries, snapshot_content, targets_content, timestamp_content};
use crate::admin::TargetSet;
use crate::admin::keys::{self, KeyRing};
use crate::clock::{Entropy, Now};
use crate::ids::{Digest, OrgId};
use crate::limits;
use crate::registry::{self, Answer, Ended, Loaded, RegistryError, Role, Trust, Update};

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
    let root = keys::root(1, &ring, &roles.into(), now_s + limits::ROOT_LIFE_S);
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
pub(super) type Reader<'a> = dyn FnMut(&str) -> Result<Option<Vec<u8>>, PublishError> + 'a;

/// Runs a client that knows only the first root over files.
pub(super) fn walk(
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
