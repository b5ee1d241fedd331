//! Decides whether a call may go upstream.
//!
//! Nothing here reads a clock, a file or the network: `now` and the snapshot are arguments.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::clock::Now;
use crate::identity::Caller;
use crate::ids::{RoleName, ServerKey};
use crate::registry::doc::{AuditRule, Registry};
use crate::registry::{Freshness, Verified};

/// The number of a snapshot within a process; a [`Permit`] is bound to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId(pub u64);

/// Everything a decision depends on, frozen: the registry, the caller, the freshness.
#[derive(Debug)]
pub struct Snapshot {
    id: SnapshotId,
    registry: Option<Arc<Verified<Registry>>>,
    freshness: Freshness,
    caller: Option<Caller>,
    /// Why there is no registry or no caller, and what to do: for `mcpshim_status`.
    trouble: Option<String>,
    catalog: Catalog,
}

/// What is asked for, after names were resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// `prompts/get`, or completion of one of its arguments.
    Prompt { server: ServerKey, name: String },
    /// `resources/read`, subscribe, or completion of a template: the URI.
    Resource { server: ServerKey, uri: String },
    /// `tools/call`.
    Tool { server: ServerKey, name: String },
}

/// The answer to [`decide`].
#[derive(Debug)]
#[must_use]
pub enum Decision {
    /// It may go. Spend the permit.
    Allow(Permit),
    /// A person must be asked first. No rule asks yet; approvals come with policy depth.
    Ask(Question),
    /// It may not.
    Deny(Denial),
}

/// A question to a person. Cannot be made yet.
#[derive(Debug)]
pub struct Question(std::convert::Infallible);

/// Leave to send one call: not `Clone`, fields private, bound to a snapshot.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    snapshot: SnapshotId,
    access: Access,
    role: RoleName,
    rule: u32,
    audit: AuditRule,
}

/// Why a call is refused. One value feeds the client, the record and `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// A short stable code for the record and `_meta`, e.g. `not-granted`.
    pub code: DenialCode,
    /// One sentence for the person and the model: what, why, whom to ask.
    pub sentence: String,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the sentences are in Denial")]
pub enum DenialCode {
    Drift,
    Hidden,
    Lapsed,
    NoCaller,
    NoRecord,
    NoRegistry,
    NotGranted,
    Overloaded,
    Revoked,
    RuleExpired,
    StaleSnapshot,
    Unavailable,
}

/// The one decision function, for lists and calls.
pub fn decide(snapshot: &Snapshot, access: &Access, now: &Now) -> Decision {
    let (_, _, _) = (snapshot, access, now);
    todo!()
}
