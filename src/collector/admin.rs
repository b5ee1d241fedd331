//! What people do with the record is itself written down, first.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files;
use super::query::{self, Filter, Last, QueryError, Sealed};
use crate::clock::{Now, Utc};
use crate::ids::KeyId;

/// A request for sealed payloads and the wrapped keys that open them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unseal {
    /// Which records.
    pub filter: Filter,
    /// Who asks, as they say.
    pub who: String,
    /// Why, as they say: a ticket, a case.
    pub reason: String,
    /// The audit key they will open them with.
    pub key: KeyId,
}

/// Why nothing is released.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It cannot be written down, so it does not happen.
    #[error("cannot write {}, and nothing is unsealed unrecorded", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The question.
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// Finds the records and writes down who gets which, before anybody gets anything.
///
/// # Errors
/// [`AdminError`].
pub fn release(root: &Path, asked: &Unseal, now: &Now) -> Result<(Vec<Sealed>, Last), AdminError> {
    let (found, last) = query::sealed(root, &asked.filter, now)?;
    let released = found.iter().filter(|sealed| sealed.frame.is_some());
    let events: Vec<&Value> = released.filter_map(|s| s.view.get("event")).collect();
    let line = serde_json::json!({
        "time": Utc(now.unix_s()).to_string(),
        "kind": "admin.unseal",
        "who": asked.who.chars().take(200).collect::<String>(),
        "reason": asked.reason.chars().take(1000).collect::<String>(),
        "key": asked.key,
        "filter": asked.filter,
        "events": events,
    });
    let path = root.join("log").join("admin.jsonl");
    files::append_line(&path, &line.to_string())
        .map_err(|source| AdminError::Log { path, source })?;
    Ok((found, last))
}
