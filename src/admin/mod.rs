//! Authoring: YAML in a git repository becomes documents, documents become a TUF repository.
//!
//! [`check`] reads a directory and reports every mistake at once; [`compile`] is what `publish`
//! calls, and refuses a directory with an error in it; [`pin()`] runs the real servers; [`init()`]
//! and [`agent()`] write files for people to go on with.
#![warn(missing_docs)]

pub mod cases;
pub mod diff;
pub mod keys;
pub mod publish;

mod agent;
mod approved;
mod compile;
mod credential;
mod date;
mod entry;
mod git;
mod init;
mod lint;
mod pins;
mod problem;
mod secrets;
mod source;
mod survey;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

pub use self::agent::{AgentError, AgentRow, NewAgent, agent, agents};
pub use self::entry::{EntryError, NewServer, Reach, new_server};
pub use self::git::GitError;
pub use self::init::{Example, InitError, init};
pub use self::problem::{At, Level, Problem, Problems};
use self::source::Sources;
pub use self::survey::{Outcome, PinChange, PinEdit, Pinning, pin};
use crate::clock::Now;
use crate::ids::OrgId;

/// The compiled documents of one registry: target file names and their exact bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSet {
    /// The organisation.
    pub org: OrgId,
    /// `org.json`, `policy.json`, `revocations.json`, `server-<id>.json`.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Compiles a directory. The same sources give the same bytes.
///
/// # Errors
/// Every problem, warnings included, when one of them is an error.
pub fn compile(dir: &Path) -> Result<TargetSet, Problems> {
    let mut sources = Sources::read(dir);
    lint::all(&mut sources);
    let set = compile::documents(&mut sources);
    sources.problems.sort();
    match set {
        Some(set) if sources.problems.errors() == 0 => Ok(set),
        _ => Err(sources.problems),
    }
}

/// Returns everything there is to say about a directory, what only time tells included: grants
/// that have expired, approvals from the future, and, in a git checkout, grants that were widened
/// since they were approved.
#[must_use]
pub fn check(dir: &Path, now: &Now) -> Problems {
    let mut sources = Sources::read(dir);
    lint::all(&mut sources);
    lint::by_time(&mut sources, now);
    approved::wider(dir, &mut sources);
    compile::documents(&mut sources);
    sources.problems.sort();
    sources.problems
}
