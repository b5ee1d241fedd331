//! The clauses over what this machine has: roots that lead on from the pinned one, and the whole
//! state, without the freeze checks.

use std::collections::BTreeMap;

use super::TARGETS;
use super::clauses::{
    check_document, check_minimum, check_root_signatures, check_root_version,
    check_snapshot_digest, check_snapshot_signatures, check_snapshot_version, check_targets_digest,
    check_targets_signatures, check_targets_version, check_timestamp_signatures, listed_targets,
    load_trusted_root, wanted_documents, wrong_version,
};
use crate::clock::{Latest, Now};
use crate::ids::Digest;
use crate::limits;
use crate::registry::assemble::{self, Origin};
use crate::registry::doc::RegistryVersion;
use crate::registry::metadata::{Content as _, Envelope, Expiry, Root};
use crate::registry::state::State;
use crate::registry::{Cause, Loaded, RegistryError, Role, Trust, Verified, freshness};

/// How far stored roots lead.
pub(super) struct Followed<'s> {
    pub(super) root: Root,
    /// Those on the way.
    pub(super) kept: Vec<&'s [u8]>,
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
pub(super) fn follow_stored_roots<'s>(pinned: Root, roots: &[&'s [u8]]) -> Followed<'s> {
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

/// Proves the stored state again from the pinned root; see [`crate::registry::load`].
pub(in crate::registry) fn load(
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
    warnings.extend(late(state.checked, expires, now));
    Ok(Loaded {
        registry: Verified(registry),
        freshness,
        warnings,
    })
}

/// What is said of the time: a clock that went back, and a renewal that does not come.
fn late(checked: u64, expires: u64, now: &Now) -> Vec<String> {
    let mut warnings = Vec::new();
    let back_s = checked.saturating_sub(now.unix_s());
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
    let at = Latest::of(now, checked);
    let (verb, due) = if at.is_past(expires) {
        ("expired", "has stopped")
    } else {
        ("expires", "is late")
    };
    if at.left_s(expires) <= limits::TIMESTAMP_LIFE_S / 2 {
        warnings.push(format!(
            "the registry {verb} at {}: its renewal {due}",
            Expiry(expires).text()
        ));
    }
    warnings
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
