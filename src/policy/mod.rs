//! Decides whether a call may go upstream.
//!
//! Nothing here reads a clock, a file or the network: `now` and the snapshot are arguments.
//! [`decide`] is the only function that allows, for lists and for calls alike; every `match` on
//! the way ends in a refusal unless something signed says otherwise.
//!
//! The order of the questions, first refusal wins:
//!
//! 1. is there a verified registry, and is it not lapsed;
//! 2. is the server, the tool or the agent revoked;
//! 3. is there a caller, and is the proof of who it is still good;
//! 4. is the thing part of the server's pinned surface;
//! 5. does a table of one of the caller's roles hold it, under a rule that has not expired;
//! 6. in grace (an expired timestamp, see `docs/decisions/0007`): does it only read.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

mod denial;
#[cfg(test)]
mod ends;
mod explain;
#[cfg(any(test, fuzzing))]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a broken fixture should stop the test"
)]
pub(crate) mod fixture;
#[cfg(test)]
mod laws;
pub(crate) mod pattern;
mod snapshot;
mod status;

pub use denial::{Denial, DenialCode, who};
pub use explain::{Explanation, Reason, Verdict, explain};
pub use snapshot::{Snapshot, SnapshotId};
pub use status::{ServerStatus, SignIn, Status, status};

use crate::clock::Now;
use crate::identity::Caller;
use crate::ids::{Digest, RoleName, ServerKey};
use crate::registry::doc::{AuditRule, RuleDoc};

/// What is asked for, after names were resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// `prompts/get`, or completion of one of its arguments.
    Prompt {
        /// The server.
        server: ServerKey,
        /// The upstream's own name.
        name: String,
    },
    /// `resources/read`, subscribe, or completion of a template: the URI.
    Resource {
        /// The server.
        server: ServerKey,
        /// The URI, as the client wrote it.
        uri: String,
    },
    /// `tools/call`.
    Tool {
        /// The server.
        server: ServerKey,
        /// The upstream's own name.
        name: String,
    },
}

impl Access {
    /// The server it is aimed at.
    #[must_use]
    pub fn server(&self) -> &ServerKey {
        match self {
            Self::Prompt { server, .. }
            | Self::Resource { server, .. }
            | Self::Tool { server, .. } => server,
        }
    }

    /// The upstream's own name, or the URI.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Prompt { name, .. } | Self::Tool { name, .. } => name,
            Self::Resource { uri, .. } => uri,
        }
    }
}

/// `server/tool`, as people write it everywhere. Names of strangers are cut and made printable.
impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prompt { server, name } => write!(f, "prompt {server}/{}", denial::shown(name)),
            Self::Resource { server, uri } => {
                write!(f, "resource {} of {server}", denial::shown(uri))
            }
            Self::Tool { server, name } => write!(f, "{server}/{}", denial::shown(name)),
        }
    }
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

impl Question {
    /// Proves to a `match` that nothing asks yet.
    #[must_use]
    pub fn absurd(self) -> Denial {
        match self.0 {}
    }
}

/// Leave to send one call: not `Clone`, fields private, bound to a snapshot.
///
/// Only [`decide`] makes one:
///
/// ```compile_fail,E0451
/// use mcpshim::policy::{Permit, SnapshotId};
/// let permit = Permit { snapshot: SnapshotId(1), ..todo!() };
/// ```
///
/// and it is spent once, because [`Permit::start`] takes it and it cannot be copied:
///
/// ```compile_fail,E0599
/// fn twice(permit: mcpshim::policy::Permit) -> mcpshim::policy::Permit {
///     permit.clone()
/// }
/// ```
///
/// ```compile_fail,E0382
/// use mcpshim::policy::{Permit, Snapshot};
/// fn twice(permit: Permit, snapshot: &Snapshot) {
///     let _first = permit.start(snapshot);
///     let _second = permit.start(snapshot);
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Permit {
    snapshot: SnapshotId,
    access: Access,
    role: RoleName,
    rule: u32,
    audit: AuditRule,
}

/// A spent permit: what may be sent, by which rule, recorded how.
#[derive(Debug)]
pub struct Started<'s> {
    /// What may be sent.
    pub access: Access,
    /// The role that allows it.
    pub role: RoleName,
    /// The rule that allows it.
    pub rule: &'s RuleDoc,
    /// How it is recorded.
    pub audit: AuditRule,
}

impl Permit {
    /// What was allowed.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// How the call will be recorded.
    #[must_use]
    pub fn audit(&self) -> AuditRule {
        self.audit
    }

    /// Spends the permit.
    ///
    /// # Errors
    /// [`DenialCode::StaleSnapshot`] when it was given under another snapshot: registry, login or
    /// freshness moved in between, and the question must be asked again.
    pub fn start(self, snapshot: &Snapshot) -> Result<Started<'_>, Denial> {
        let rule = snapshot
            .registry()
            .filter(|_| snapshot.id() == self.snapshot)
            .and_then(|registry| registry.policy.rules.get(usize::try_from(self.rule).ok()?));
        match rule {
            Some(rule) => Ok(Started {
                access: self.access,
                role: self.role,
                rule,
                audit: self.audit,
            }),
            None => Err(Denial::new(
                DenialCode::StaleSnapshot,
                format!(
                    "the rules changed while {} was waiting; call it again",
                    self.access
                ),
            )),
        }
    }
}

/// What a call is bound to that waits for an answer of its client: who called, what, and with
/// which arguments. Only a spent permit makes one ([`Started::park`]):
///
/// ```compile_fail,E0451
/// use mcpshim::policy::Parked;
/// let parked = Parked { ..todo!() };
/// ```
#[derive(Debug)]
pub struct Parked {
    access: Access,
    who: Digest,
    args: Digest,
}

/// Leave to give an upstream what the client answered in a call that waits for it.
///
/// Only [`Permit::resume`] makes one:
///
/// ```compile_fail,E0423
/// let resumed = mcpshim::policy::Resumed(());
/// ```
///
/// and it is spent once:
///
/// ```compile_fail,E0599
/// fn twice(resumed: mcpshim::policy::Resumed) -> mcpshim::policy::Resumed {
///     resumed.clone()
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Resumed(());

impl Parked {
    /// What was allowed.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }
}

impl Started<'_> {
    /// Binds a call that may have to wait for its client to who calls under this snapshot and to
    /// the digest of its arguments. `None` without a caller.
    #[must_use]
    pub fn park(&self, snapshot: &Snapshot, args: Digest) -> Option<Parked> {
        Some(Parked {
            access: self.access.clone(),
            who: snapshot.caller()?.identity(),
            args,
        })
    }
}

impl Permit {
    /// Spends the permit on going on with a call that waits: the same caller asks for the same
    /// thing with the same arguments.
    ///
    /// ```compile_fail,E0382
    /// use mcpshim::ids::Digest;
    /// use mcpshim::policy::{Parked, Permit, Snapshot};
    /// fn twice(permit: Permit, snapshot: &Snapshot, parked: &Parked, args: Digest) {
    ///     let _first = permit.resume(snapshot, parked, args);
    ///     let _second = permit.resume(snapshot, parked, args);
    /// }
    /// ```
    ///
    /// # Errors
    /// [`DenialCode::StaleSnapshot`] when it was given under another snapshot, or somebody else
    /// calls now; [`DenialCode::StaleAnswer`] when it is another call that waits.
    pub fn resume(
        self,
        snapshot: &Snapshot,
        parked: &Parked,
        args: Digest,
    ) -> Result<Resumed, Denial> {
        let started = self.start(snapshot)?;
        let access = &started.access;
        if snapshot.caller().map(Caller::identity) != Some(parked.who) {
            return Err(Denial::new(
                DenialCode::StaleSnapshot,
                format!("somebody else signed in while {access} was waiting; call it again"),
            ));
        }
        if (access, args) != (&parked.access, parked.args) {
            return Err(Denial::new(
                DenialCode::StaleAnswer,
                format!(
                    "`requestState` belongs to another call than this one of {access}, or to one \
                     with other arguments; call it without"
                ),
            ));
        }
        Ok(Resumed(()))
    }
}

/// The one decision function, for lists and calls.
///
/// A function of its arguments: the same snapshot, access and second give the same answer.
pub fn decide(snapshot: &Snapshot, access: &Access, now: &Now) -> Decision {
    match snapshot.judge(access, now) {
        Ok(grant) => Decision::Allow(Permit {
            snapshot: snapshot.id(),
            access: access.clone(),
            role: grant.role.clone(),
            rule: grant.rule,
            audit: grant.audit,
        }),
        Err(refusal) => Decision::Deny(denial::describe(snapshot, access, refusal)),
    }
}

/// Whether [`decide`] would allow, without building the sentence: what lists ask.
pub(crate) fn allows(snapshot: &Snapshot, access: &Access, now: &Now) -> bool {
    snapshot.judge(access, now).is_ok()
}
