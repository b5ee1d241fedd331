//! Who calls: an agent by its key, a person by an ID token, or nobody.
#![warn(missing_docs)]

use crate::ids::{AgentName, KeyId, RoleName};

/// Who calls. Made only by verification; the roles are those the registry gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// An agent that proved possession of its key.
    Agent {
        /// Its name in the registry.
        name: AgentName,
        /// The key that proved it.
        key: KeyId,
        /// Its roles, sorted.
        roles: Vec<RoleName>,
    },
    /// A person whose ID token the registry's issuer keys verified.
    Person {
        /// `iss`.
        issuer: String,
        /// `sub`.
        subject: String,
        /// A name to show, from the token; never decides anything.
        display: String,
        /// Roles by the registry's group mapping, sorted.
        roles: Vec<RoleName>,
        /// `exp`, in Unix seconds.
        expires: u64,
    },
}
