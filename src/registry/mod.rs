//! The signed registry: what an organisation approved, and the proof that it did.
//!
//! Pure: bytes and `now` come in, [`Verified`] registries come out. The client workflow of
//! The Update Framework (TUF 1.0.34 §5) lives here; downloading is `crate::fetch`.
//!
//! ```text
//! pinned root ──▶ roots N+1 … ──▶ timestamp ──▶ snapshot ──▶ targets ──▶ documents
//!  (config)        signed by       version,       version,     length,     Registry
//!                  old and new     expiry         SHA-256      SHA-256
//! ```
//!
//! Two ways lead to a registry, over the same checks: [`load`] reads the trusted state this
//! machine keeps and proves it again from the pinned root; [`Update`] walks to the newest one.
//! What is refused is refused whole: no part of a registry that fails a check is used.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

mod assemble;
pub mod doc;
pub(crate) mod json;
pub(crate) mod metadata;
pub mod program;
mod state;
mod workflow;

use std::fmt;

use crate::clock::Now;
use crate::ids::OrgId;
use crate::limits;

pub use self::metadata::key_id;
pub use self::workflow::{Answer, Ended, Update, Want};

#[cfg(feature = "admin")]
pub(crate) use self::assemble::{check_documents, unsigned};
#[cfg(feature = "admin")]
pub(crate) use self::workflow::newest_root;

/// A value that was reached from the pinned root through every signature and digest.
///
/// Only registry verification makes one; a policy snapshot accepts nothing else.
#[derive(Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// For unit tests of the modules that consume registries.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn assume_for_tests(value: T) -> Self {
        Self(value)
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// How current a registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freshness {
    /// The timestamp has not expired.
    Fresh,
    /// It has, within the grace the organisation allows: decisions narrow, never widen.
    Grace,
    /// It has, and the grace is over: every call is refused with the reason.
    Lapsed,
}

/// What a machine was told to trust, by its configuration.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// The pinned root metadata.
    pub root: &'a [u8],
    /// The organisation whose registry is accepted.
    pub org: &'a OrgId,
    /// Lowest accepted version of the root metadata.
    pub min_root_version: u64,
    /// Lowest accepted version of the timestamp metadata; key rotation does not lower it.
    pub min_timestamp_version: u64,
}

/// A registry ready for use.
#[derive(Debug)]
pub struct Loaded {
    /// The registry.
    pub registry: Verified<doc::Registry>,
    /// How current it is now; [`freshness`] tells later.
    pub freshness: Freshness,
    /// What an administrator should know: sentences, lower case, no full stop.
    pub warnings: Vec<String>,
}

/// A top-level role of TUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Says which keys speak for every role.
    Root,
    /// Pins the version of the targets metadata.
    Snapshot,
    /// Lists the documents.
    Targets,
    /// Pins the snapshot, for a few days at a time.
    Timestamp,
}

impl Role {
    /// The name in metadata, file names and sentences.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
            Self::Timestamp => "timestamp",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The reason below an error's sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(pub String);

/// A registry that is not to be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Older than the configuration accepts.
    #[error("registry is older than this machine's configuration accepts")]
    BelowMinimum {
        /// Which version is too low.
        role: Role,
        /// The versions.
        #[source]
        cause: Cause,
    },
    /// The state file is not what was written.
    #[error("trusted registry state on this machine is damaged")]
    Damaged {
        /// Where.
        #[source]
        cause: Cause,
    },
    /// A signed document does not make sense.
    #[error("registry document {file} is not usable")]
    Document {
        /// Its target name.
        file: String,
        /// What is wrong with it.
        #[source]
        cause: Cause,
    },
    /// Metadata is expired where current metadata is demanded: a freeze attack, or an
    /// organisation that stopped signing.
    #[error("registry metadata {file} has expired")]
    Expired {
        /// Which file.
        file: String,
        /// Whose keys must sign it again.
        role: Role,
        /// When.
        #[source]
        cause: Cause,
    },
    /// Not metadata at all, or metadata two readers could read differently.
    #[error("registry metadata {file} is malformed")]
    Malformed {
        /// Which file.
        file: String,
        /// Where and why.
        #[source]
        cause: Cause,
    },
    /// Signed by the right keys, but about another organisation.
    #[error("registry belongs to another organisation")]
    OtherOrganisation {
        /// Both names.
        #[source]
        cause: Cause,
    },
    /// Older than what this machine has already seen.
    #[error("registry is older than the one this machine has already seen")]
    RolledBack {
        /// Which file.
        file: String,
        /// The versions.
        #[source]
        cause: Cause,
    },
    /// Some keys signed it, but not enough of them.
    #[error("registry metadata {file} is signed by too few keys")]
    TooFewSignatures {
        /// Which file.
        file: String,
        /// Whose signatures are missing.
        role: Role,
        /// The count.
        #[source]
        cause: Cause,
    },
    /// Written for a newer mcpshim.
    #[error("registry needs a newer mcpshim")]
    TooNew {
        /// What is asked for.
        #[source]
        cause: Cause,
    },
    /// The source did not say what it has; the old registry stays.
    #[error("registry file {file} could not be fetched")]
    Unavailable {
        /// Which file.
        file: String,
        /// What happened.
        #[source]
        cause: Cause,
    },
    /// Something answers, but it has no timestamp, which every registry has.
    #[error("the source answers, but no registry is there")]
    Elsewhere {
        /// What is not there.
        #[source]
        cause: Cause,
    },
    /// Signed, but by nobody the root names.
    #[error("registry is signed by an unknown key")]
    UnknownKey {
        /// Which file.
        file: String,
        /// Whose signature was expected.
        role: Role,
        /// The key.
        #[source]
        cause: Cause,
    },
    /// Not the file that the metadata above it names.
    #[error("registry file {file} is not the one its metadata names")]
    WrongDigest {
        /// Which file.
        file: String,
        /// What differs.
        #[source]
        cause: Cause,
    },
    /// Not the version that the metadata above it names.
    #[error("registry metadata {file} has the wrong version")]
    WrongVersion {
        /// Which file.
        file: String,
        /// The versions.
        #[source]
        cause: Cause,
    },
}

impl RegistryError {
    /// What to do next, for the person who reads the error.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BelowMinimum { .. } => {
                "run `mcpshim registry refresh`; until then every call is refused"
            }
            Self::Damaged { .. } => {
                "run `mcpshim registry refresh` to fetch and verify it again; if it happens again, check the disk and tell your security team"
            }
            Self::Document { .. } => {
                "tell the owners of the registry; `mcpshim-admin publish` refuses such documents, so ask how this one was signed"
            }
            Self::Expired {
                role: Role::Root | Role::Targets,
                ..
            } => {
                "check this machine's clock; if it is right, tell the owners of the registry to publish again with the offline keys"
            }
            Self::Expired {
                role: Role::Snapshot | Role::Timestamp,
                ..
            } => {
                "check this machine's clock; if it is right, tell the owners of the registry that `mcpshim-admin refresh` does not run"
            }
            Self::Malformed { .. } | Self::WrongDigest { .. } | Self::WrongVersion { .. } => {
                "try again in a minute (a publication may be under way); if it stays, tell your security team: something between you and the registry changes files"
            }
            Self::OtherOrganisation { .. } => {
                "compare `org` and `registry_url` in `mcpshim config` with what your security team gave you"
            }
            Self::RolledBack { .. } => {
                "tell your security team: somebody may be replaying an old registry, or it was published from an old copy"
            }
            Self::TooFewSignatures { .. } => {
                "tell the owners of the registry: it was published without enough signers, or somebody tampered with it"
            }
            Self::TooNew { .. } => "update mcpshim",
            Self::Elsewhere { .. } => {
                "name the directory above `metadata/` in `registry_url`, and see that its files may be read"
            }
            Self::Unavailable { .. } => {
                "check the network and `registry_url` in `mcpshim config`; the last verified registry stays in use until it lapses"
            }
            Self::UnknownKey { .. } => {
                "compare `root` and `registry_url` in `mcpshim config` with what your security team gave you; if they are right, tell them"
            }
        }
    }
}

/// Verifies the trusted state from the pinned root, and assembles the registry it holds.
///
/// Nothing is believed because it is stored: every root, signature, version and digest is checked
/// again. Expiry alone does not refuse; it shows as [`Freshness`].
///
/// # Errors
/// The first check that failed. Damaged state is an error, never an empty registry.
pub fn load(state: &[u8], trust: &Trust<'_>, now: &Now) -> Result<Loaded, RegistryError> {
    let state = state::State::read(state)?;
    workflow::load(&state, trust, now)
}

/// Tells how current a registry is at `now`.
///
/// A clock that stepped back by up to [`limits::CLOCK_STEP_S`] does not make a registry younger:
/// the time of the last check counts. Beyond that the clock is not believed and the registry is
/// stale at best, so that neither a stopped nor a wrong clock bricks a machine or widens a grant.
#[must_use]
pub fn freshness(registry: &doc::Registry, now: &Now) -> Freshness {
    let grace_s = u64::from(registry.org.grace_hours) * 3600;
    let at = registry.latest(now);
    let tier = if !at.is_past(registry.expires) {
        Freshness::Fresh
    } else if !at.is_past(registry.expires.saturating_add(grace_s)) {
        Freshness::Grace
    } else {
        Freshness::Lapsed
    };
    if registry.checked.saturating_sub(now.unix_s()) <= limits::CLOCK_STEP_S {
        return tier;
    }
    let stale = if grace_s == 0 {
        Freshness::Lapsed
    } else {
        Freshness::Grace
    };
    tier.max(stale)
}

/// Feeds arbitrary bytes to every parser of this module: the entry point for fuzzing.
///
/// Must return, without panic and in time linear in the input.
pub fn fuzz_metadata(bytes: &[u8]) {
    for role in [Role::Root, Role::Snapshot, Role::Targets, Role::Timestamp] {
        if let Ok(envelope) = metadata::Envelope::parse("fuzz", bytes, role)
            && let Ok(root) = metadata::Root::unverified(&envelope)
        {
            drop(root.check(&envelope, Role::Root));
        }
    }
    if let Ok(state) = state::State::read(bytes) {
        let again = state.write();
        assert!(
            state::State::read(&again).is_ok(),
            "what was read can be written and read"
        );
    }
    if let Ok(value) = json::parse(bytes) {
        drop(json::canonical(&value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock as _, FixedClock};

    fn registry(expires: u64, checked: u64, grace_hours: u32) -> doc::Registry {
        doc::Registry {
            version: doc::RegistryVersion::default(),
            digest: crate::ids::Digest::default(),
            expires,
            checked,
            org: serde_json::from_value(serde_json::json!({
                "format": 1, "min_reader": 1, "org": "acme", "name": "Acme", "help": "#help",
                "grace_hours": grace_hours,
            }))
            .unwrap(),
            policy: serde_json::from_value(serde_json::json!({
                "format": 1, "min_reader": 1, "roles": {}, "agents": {}, "rules": [], "grants": {},
            }))
            .unwrap(),
            revocations: doc::RevocationsDoc::default(),
            servers: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn time_never_freshens_a_registry() {
        arbtest::arbtest(|u| {
            let checked = u.int_in_range(0..=2_000_000)?;
            let registry = registry(
                u.int_in_range(0..=2_000_000)?,
                checked,
                u.int_in_range(0..=300)?,
            );
            let mut times = [
                u.int_in_range(0..=3_000_000)?,
                u.int_in_range(0..=3_000_000)?,
            ];
            times.sort_unstable();
            let [earlier, later] = times.map(|s| freshness(&registry, &FixedClock::at(s).now()));
            // once the clock is not behind the last check, later is never fresher…
            if times[0] >= checked {
                assert!(earlier <= later, "{times:?}");
            }
            // …and a clock that is behind it never makes the registry fresher than it was then
            let then = freshness(&registry, &FixedClock::at(checked).now());
            for (at, tier) in times.into_iter().zip([earlier, later]) {
                assert!(at >= checked || tier >= then, "{at} {tier:?}");
                let far = checked.saturating_sub(at) > limits::CLOCK_STEP_S;
                assert!(!far || tier >= Freshness::Grace, "{at} {tier:?}");
            }
            Ok(())
        });
    }

    #[test]
    fn without_grace_there_is_none() {
        let tier = |expires, checked, now| {
            freshness(&registry(expires, checked, 0), &FixedClock::at(now).now())
        };
        assert_eq!(tier(100, 50, 99), Freshness::Fresh);
        assert_eq!(tier(100, 50, 100), Freshness::Lapsed);
        assert_eq!(tier(1_000_000, 900_000, 0), Freshness::Lapsed);
    }
}
