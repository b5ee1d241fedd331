//! Authoring: YAML in a git repository becomes documents, documents become a TUF repository.
#![warn(missing_docs)]

pub mod keys;
pub mod publish;

use std::collections::BTreeMap;

use crate::ids::OrgId;

/// The compiled documents of one registry: target file names and their exact bytes.
#[derive(Debug, Clone)]
pub struct TargetSet {
    /// The organisation.
    pub org: OrgId,
    /// `org.json`, `policy.json`, `revocations.json`, `server-<id>.json`.
    pub files: BTreeMap<String, Vec<u8>>,
}
