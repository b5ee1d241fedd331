//! Installations: their keys, whom they are bound to, and where their streams lie.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{FORMAT, StoreError, about};
use crate::batch::Installation;
use crate::batch::protocol::Standing;
use crate::clock::Now;
use crate::ids::{AgentName, KeyId, StreamId};
use crate::registry::doc::Registry;

/// The directory of all of them.
pub(super) const INSTALLATIONS: &str = "installations";

/// `installation.json`: an installation key, and whom it is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallationDoc {
    /// The format of this document.
    pub format: u32,
    /// The lowest reader that may use it.
    pub min_reader: u32,
    /// The public key, base64.
    pub installation: String,
    /// The device, as it named itself when it enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// When it was first heard of, in microseconds since the Unix epoch.
    pub first_seen_us: u64,
    /// Whom it is bound to, oldest first.
    #[serde(default)]
    pub bindings: Vec<Binding>,
}

/// One proof that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Who.
    pub who: Who,
    /// When, in microseconds since the Unix epoch.
    pub enrolled_us: u64,
}

/// Who uses an installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Who {
    /// An agent, by the key that proved it.
    Agent {
        /// Its name.
        name: AgentName,
        /// The key's id.
        key: KeyId,
    },
    /// A person, by an ID token.
    Person {
        /// `iss`.
        issuer: String,
        /// `sub`.
        subject: String,
        /// A name to show.
        display: String,
    },
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent { name, .. } => write!(f, "agent {name}"),
            Self::Person { display, .. } => write!(f, "{display}"),
        }
    }
}

impl Who {
    /// Whether it is the same person or agent, whatever name is shown.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Person {
                    issuer, subject, ..
                },
                Self::Person {
                    issuer: other_issuer,
                    subject: other_subject,
                    ..
                },
            ) => issuer == other_issuer && subject == other_subject,
            (Self::Agent { .. } | Self::Person { .. }, _) => self == other,
        }
    }
}

/// What the security team hears of a new binding of a person: nobody takes another's name or
/// installation in silence. A new laptop and a shared machine look the same.
pub(super) fn unusual(
    known: &BTreeMap<KeyId, InstallationDoc>,
    id: &KeyId,
    doc: &InstallationDoc,
    who: &Who,
) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if let Who::Agent { .. } = who {
        return out;
    }
    let others = known.iter().filter(|(other, doc)| {
        *other != id && doc.bindings.iter().any(|binding| binding.who.is(who))
    });
    let others = others.count();
    if others > 0 {
        out.push((
            "further-installation",
            format!("{who} enrolled another installation, beside {others}"),
        ));
    }
    let before = doc.bindings.iter().filter(|binding| !binding.who.is(who));
    let before: Vec<String> = before.map(|binding| binding.who.to_string()).collect();
    if !before.is_empty() {
        let before = before.join(", ");
        out.push((
            "further-person",
            format!("{who} enrolled an installation of {before}"),
        ));
    }
    out
}

impl InstallationDoc {
    /// One that nobody has enrolled.
    pub(super) fn unknown(installation: String, first_seen_us: u64) -> Self {
        Self {
            format: FORMAT,
            min_reader: FORMAT,
            installation,
            machine_id: None,
            first_seen_us,
            bindings: Vec::new(),
        }
    }

    /// Says how far the key is trusted under this registry.
    #[must_use]
    pub fn standing(&self, registry: &Registry, now: &Now) -> Standing {
        if self.bindings.is_empty() {
            return Standing::Unknown;
        }
        let live = self.bindings.iter().any(|binding| match &binding.who {
            Who::Agent { name, key } => agent_key(registry, name, now)
                .is_some_and(|public| Installation(public).id() == *key),
            Who::Person { issuer, .. } => {
                registry.org.issuers.iter().any(|doc| doc.issuer == *issuer)
            }
        });
        if live {
            Standing::Enrolled
        } else {
            Standing::Revoked
        }
    }
}

/// The public key of an agent that the registry names, has not revoked and has not let expire.
pub(in crate::collector) fn agent_key(
    registry: &Registry,
    name: &AgentName,
    now: &Now,
) -> Option<[u8; 32]> {
    let doc = registry.policy.agents.get(name)?;
    let ended = doc
        .not_after
        .is_some_and(|at| registry.latest(now).is_past(at));
    if ended || registry.revocations.agents.contains(name) {
        return None;
    }
    let bytes = BASE64.decode(doc.public_key.as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// The installations in a data directory. Whatever reads the record begins here, so that a path
/// where none is never looks like a record in which nothing happened.
///
/// # Errors
/// [`StoreError`] when it is no data directory, or one of them cannot be read.
pub fn installation_docs(root: &Path) -> Result<Vec<(KeyId, InstallationDoc)>, StoreError> {
    about(root)?;
    let dir = root.join(INSTALLATIONS);
    if !dir.exists() {
        return Err(StoreError::Lost(dir));
    }
    let mut docs = Vec::new();
    for name in names(&dir)? {
        let Ok(id) = KeyId::parse(&name) else {
            continue;
        };
        let path = dir.join(&name).join("installation.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // a crash right after the directory was made: it is met again
                if names(&dir.join(&name).join("streams"))?.is_empty() {
                    continue;
                }
                // losing it costs an enrolment, not the records
                docs.push((id, InstallationDoc::unknown(String::new(), 0)));
                continue;
            }
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let doc: InstallationDoc =
            serde_json::from_slice(&text).map_err(|_json| StoreError::Damaged(path.clone()))?;
        if doc.min_reader > FORMAT {
            return Err(StoreError::Newer {
                path,
                needs: doc.min_reader,
            });
        }
        docs.push((id, doc));
    }
    Ok(docs)
}

/// The streams of an installation, oldest first.
///
/// # Errors
/// [`StoreError::Io`].
pub fn streams(root: &Path, id: &KeyId) -> Result<Vec<(StreamId, PathBuf)>, StoreError> {
    let dir = root.join(INSTALLATIONS).join(id.as_str()).join("streams");
    let found = names(&dir)?
        .iter()
        .filter_map(|name| Some((StreamId::parse(name).ok()?, dir.join(name))))
        .collect();
    Ok(found)
}

/// The directory of a stream.
#[must_use]
pub fn stream_dir(root: &Path, id: &KeyId, stream: StreamId) -> PathBuf {
    root.join(INSTALLATIONS)
        .join(id.as_str())
        .join("streams")
        .join(stream.to_string())
}

fn names(dir: &Path) -> Result<BTreeSet<String>, StoreError> {
    let listing = match std::fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(StoreError::io(dir)(error)),
    };
    listing
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(StoreError::io(dir))
}
