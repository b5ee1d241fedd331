//! `mcpshim-admin agent new`: an agent with a key of its own.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::date;
use super::keys::{KeyError, SigningKey};
use super::source::Sources;
use crate::clock::Entropy;
use crate::ids::AgentName;

/// Why an agent cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The day is no date.
    #[error("{0:?} is no date")]
    Date(String),
    /// The agent has a file already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The file system refuses.
    #[error("{} cannot be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The directory has no readable `org.yaml`.
    #[error("{} is not a registry: it has no readable org.yaml", .0.display())]
    NotARegistry(PathBuf),
}

/// An agent that was made.
#[derive(Debug)]
pub struct NewAgent {
    /// Its file, in the directory.
    pub file: PathBuf,
    /// Its public key, base64.
    pub public_key: String,
    /// Roles that name it.
    pub roles: Vec<String>,
    /// The team that answers for it.
    pub owner: String,
}

/// One agent of a registry.
#[derive(Debug, serde::Serialize)]
pub struct AgentRow {
    /// Its name.
    pub agent: AgentName,
    /// The team that answers for it.
    pub owner: String,
    /// Roles that name it.
    pub roles: Vec<String>,
    /// The first second at which it is refused, in Unix seconds.
    pub expires: Option<u64>,
    /// `revocations.yaml` names it.
    pub revoked: bool,
    /// Its public key, base64.
    pub public_key: String,
}

/// Lists the agents of a registry by name.
///
/// # Errors
/// [`AgentError::NotARegistry`].
pub fn agents(dir: &Path) -> Result<Vec<AgentRow>, AgentError> {
    let sources = Sources::read(dir);
    if sources.org.is_none() {
        return Err(AgentError::NotARegistry(dir.to_owned()));
    }
    let revoked = sources.revocations.iter().flat_map(|file| &file.agents);
    let revoked: Vec<&str> = revoked.map(|spot| spot.value.as_str()).collect();
    let row = |agent: &super::source::Agent| {
        let name = agent.name.as_str();
        let has = |role: &&super::source::Role| role.agents.iter().any(|spot| spot.value == name);
        let roles = sources.roles.iter().filter(has);
        AgentRow {
            agent: agent.name.clone(),
            owner: agent.doc.owner.clone(),
            roles: roles.map(|role| role.name.to_string()).collect(),
            expires: agent.doc.not_after,
            revoked: revoked.contains(&name),
            public_key: agent.doc.public_key.clone(),
        }
    };
    Ok(sources.agents.iter().map(row).collect())
}

/// Makes a private key at `key`, readable by its owner only, and `agents/<name>.yaml`. Without an
/// owner, the organisation's help stands for one.
///
/// # Errors
/// [`AgentError`]; no file that was there is touched.
pub fn agent(
    dir: &Path,
    name: &AgentName,
    owner: Option<&str>,
    expires: Option<&str>,
    key: &Path,
    entropy: &mut dyn Entropy,
) -> Result<NewAgent, AgentError> {
    let sources = Sources::read(dir);
    let Some(org) = &sources.org else {
        return Err(AgentError::NotARegistry(dir.to_owned()));
    };
    if let Some(day) = expires
        && date::parse(day).is_none()
    {
        return Err(AgentError::Date(day.to_owned()));
    }
    let file = dir.join("agents").join(format!("{name}.yaml"));
    if file.exists() {
        return Err(AgentError::Exists(file));
    }
    let owner = owner.unwrap_or(&org.doc.help).to_owned();
    let signing = SigningKey::create(key.to_owned(), entropy)?;
    let public_key = data_encoding::BASE64.encode(&signing.public());
    let mut text =
        String::from("# Made by `mcpshim-admin agent new`; the private key is elsewhere.\n");
    text.push_str(&format!(
        "owner: {}\n",
        serde_json::Value::from(owner.as_str())
    ));
    text.push_str(&format!("public_key: {public_key}\n"));
    match expires {
        Some(day) => text.push_str(&format!("expires: {day}\n")),
        None => text.push_str("# expires: 2027-12-31\n"),
    }
    // a crash before this leaves a key that nothing names; the next run says that it exists
    let written = fs::create_dir_all(dir.join("agents"))
        .and_then(|()| fs::File::create_new(&file))
        .and_then(|mut out| out.write_all(text.as_bytes()));
    written.map_err(|source| AgentError::Io {
        path: file.clone(),
        source,
    })?;
    let names_it =
        |role: &&super::source::Role| role.agents.iter().any(|spot| spot.value == name.as_str());
    let roles = sources.roles.iter().filter(names_it);
    Ok(NewAgent {
        roles: roles.map(|role| role.name.to_string()).collect(),
        file,
        public_key,
        owner,
    })
}
