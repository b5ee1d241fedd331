//! Settings: managed, user's, defaults; each with its provenance. The only reader of the environment.
#![warn(missing_docs)]

use std::path::PathBuf;

use crate::ids::{AgentName, OrgId};

/// The effective settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The organisation whose registry is accepted.
    pub org: OrgId,
    /// Where its registry is: `https://…/`, or `http://` on loopback, or `file:///…/`.
    pub registry_url: String,
    /// The pinned root metadata, as bytes.
    pub root: Vec<u8>,
    /// Lowest accepted metadata versions, from managed configuration.
    pub min_root_version: u64,
    /// See `min_root_version`.
    pub min_timestamp_version: u64,
    /// Everything mcpshim keeps for this user.
    pub state_dir: PathBuf,
    /// The agent this process runs as, and the file that holds its key.
    pub agent: Option<(AgentName, PathBuf)>,
    /// This machine, as a digest of its machine id: names no one and differs per machine.
    pub machine_id: String,
    /// What goes to the local log.
    pub log_level: LogLevel,
    /// Whether managed configuration is in force: the environment is then not read.
    pub managed: bool,
    /// Client session claims from the environment (`CLAUDE_CODE_SESSION_ID`), for the record only.
    pub client_session: Option<String>,
}

/// What goes to the local log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[expect(missing_docs, reason = "the usual names")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}
