//! One function for each clause that checks something, under its number.

use super::{TARGETS, TIMESTAMP};
use crate::limits;
use crate::registry::metadata::{
    Content, Envelope, Expiry, MetaFile, Root, Snapshot, Target, Targets, Timestamp,
};
use crate::registry::{Cause, RegistryError, Role, Trust, assemble};

// ---- §5.2, §5.3: root ------------------------------------------------------------------------

/// §5.2 Load trusted root metadata: the pinned one, whose expiry does not matter.
pub(super) fn load_trusted_root(trust: &Trust<'_>) -> Result<Root, RegistryError> {
    Root::pinned("root (pinned)", trust.root)
}

/// §5.3.3 Try downloading version N+1 of the root metadata file.
pub(super) fn next_root_name(trusted: &Root) -> String {
    format!("{}.root.json", trusted.version().saturating_add(1))
}

/// §5.3.4 Check for an arbitrary software attack: N+1 is signed by a threshold of N's keys and
/// by a threshold of its own.
pub(super) fn check_root_signatures(
    trusted: &Root,
    file: &str,
    bytes: &[u8],
) -> Result<Root, RegistryError> {
    let envelope = Envelope::parse(file, bytes, Role::Root)?;
    trusted.check(&envelope, Role::Root)?;
    let new = Root::unverified(&envelope)?;
    new.check(&envelope, Role::Root)?;
    Ok(new)
}

/// §5.3.5 Check for a rollback attack: the new version is exactly N+1. `false`: it is N again,
/// which ends the walk without an error.
pub(super) fn check_root_version(
    trusted: &Root,
    new: &Root,
    file: &str,
) -> Result<bool, RegistryError> {
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
pub(super) fn check_root_not_expired(root: &Root, start_s: u64) -> Result<(), RegistryError> {
    check_not_expired(root, &format!("{}.root.json", root.version()), start_s)
}

/// §5.3.11 If the timestamp or snapshot keys have been rotated, what was seen under the old ones
/// no longer counts: the way back from a fast-forward attack.
pub(super) fn rotated_online_keys(before: &Root, after: &Root) -> bool {
    after.rotated(before, Role::Timestamp) || after.rotated(before, Role::Snapshot)
}

/// §5.3.12 Whether consistent snapshots are used: how a versioned metadata file is called.
pub(super) fn metadata_name(root: &Root, role: Role, version: u64) -> String {
    if root.consistent_snapshot {
        format!("{version}.{role}.json")
    } else {
        format!("{role}.json")
    }
}

// ---- §5.4: timestamp -------------------------------------------------------------------------

/// §5.4.2 Check for an arbitrary software attack.
pub(super) fn check_timestamp_signatures(
    root: &Root,
    bytes: &[u8],
) -> Result<Timestamp, RegistryError> {
    root.verify(&Envelope::parse(TIMESTAMP, bytes, Role::Timestamp)?)
}

/// §5.4.3.1 Check for a rollback attack. `false`: the same version again, which ends the update
/// without an error.
pub(super) fn check_timestamp_rollback(
    seen: &Timestamp,
    new: &Timestamp,
) -> Result<bool, RegistryError> {
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
pub(super) fn check_timestamp_snapshot_rollback(
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
pub(super) fn check_timestamp_not_expired(
    new: &Timestamp,
    start_s: u64,
) -> Result<(), RegistryError> {
    check_not_expired(new, TIMESTAMP, start_s)
}

// ---- §5.5: snapshot --------------------------------------------------------------------------

/// §5.5.2 Check against the timestamp role's snapshot hash.
pub(super) fn check_snapshot_digest(
    timestamp: &Timestamp,
    file: &str,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    timestamp.snapshot().check(file, bytes)
}

/// §5.5.3 Check for an arbitrary software attack.
pub(super) fn check_snapshot_signatures(
    root: &Root,
    file: &str,
    bytes: &[u8],
) -> Result<Snapshot, RegistryError> {
    root.verify(&Envelope::parse(file, bytes, Role::Snapshot)?)
}

/// §5.5.4 Check against the timestamp role's snapshot version.
pub(super) fn check_snapshot_version(
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
pub(super) fn check_snapshot_rollback(
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
pub(super) fn check_snapshot_not_expired(
    new: &Snapshot,
    file: &str,
    start_s: u64,
) -> Result<(), RegistryError> {
    check_not_expired(new, file, start_s)
}

// ---- §5.6: targets ---------------------------------------------------------------------------

/// What the snapshot says about the top-level targets metadata.
pub(super) fn listed_targets<'s>(
    snapshot: &'s Snapshot,
    file: &str,
) -> Result<&'s MetaFile, RegistryError> {
    snapshot
        .meta
        .get(TARGETS)
        .ok_or_else(|| RegistryError::Malformed {
            file: file.to_owned(),
            cause: Cause(format!("it does not list {TARGETS}")),
        })
}

/// §5.6.2 Check against the snapshot role's targets hash.
pub(super) fn check_targets_digest(
    listed: &MetaFile,
    file: &str,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    listed.check(file, bytes)
}

/// §5.6.3 Check for an arbitrary software attack.
pub(super) fn check_targets_signatures(
    root: &Root,
    file: &str,
    bytes: &[u8],
) -> Result<Targets, RegistryError> {
    root.verify(&Envelope::parse(file, bytes, Role::Targets)?)
}

/// §5.6.4 Check against the snapshot role's targets version.
pub(super) fn check_targets_version(
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
pub(super) fn check_targets_not_expired(
    new: &Targets,
    file: &str,
    start_s: u64,
) -> Result<(), RegistryError> {
    check_not_expired(new, file, start_s)
}

// ---- §5.7: documents -------------------------------------------------------------------------

/// §5.7.1, §5.7.2 The documents this reader wants: those listed whose names it knows.
pub(super) fn wanted_documents(targets: &Targets) -> Result<Vec<(String, Target)>, RegistryError> {
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
pub(super) fn check_document(
    target: &Target,
    file: &str,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    target.check(file, bytes)
}

/// §5.7.3 How a document is called at the source.
pub(super) fn document_path(root: &Root, name: &str, target: &Target) -> String {
    if root.consistent_snapshot {
        format!("targets/{}.{name}", target.sha256())
    } else {
        format!("targets/{name}")
    }
}

// ---- shared by the clauses -------------------------------------------------------------------

pub(super) fn check_not_expired<T: Content>(
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
            Expiry(start_s).text()
        )),
    })
}

pub(super) fn rolled_back(file: &str, what: &str, found: u64, seen: u64) -> RegistryError {
    RegistryError::RolledBack {
        file: file.to_owned(),
        cause: Cause(format!(
            "{what} has version {found}, version {seen} was seen before"
        )),
    }
}

pub(super) fn wrong_version(file: &str, found: u64, expected: u64) -> RegistryError {
    RegistryError::WrongVersion {
        file: file.to_owned(),
        cause: Cause(format!("it has version {found}, expected {expected}")),
    }
}

/// Not a clause of TUF: the lowest versions that managed configuration accepts.
pub(super) fn check_minimum(role: Role, version: u64, minimum: u64) -> Result<(), RegistryError> {
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
