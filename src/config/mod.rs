//! Settings: managed, the user's, defaults; each with its provenance. The only reader of the
//! environment.
//!
//! Two worlds that never mix. Where a managed file exists (`/etc/mcpshim/managed.toml` on Linux),
//! it alone decides, and neither the user's file nor the environment is read. Where none exists,
//! the environment goes before the user's file. Once a managed file was seen, its absence is an
//! error: it must not be possible to gain anything by making it go away.
//!
//! A key that cannot be read never voids the others; if the key matters for security, nothing is
//! served until it is corrected.
//!
//! What an attacker who can write the user's file gains: on an unmanaged machine, everything a
//! registry decides; on a managed machine, nothing. What losing it costs: the two lines to write
//! it again.
#![warn(missing_docs)]

mod keys;
mod machine;
mod managed;
mod places;
mod resolve;

use std::path::{Path, PathBuf};

use crate::ids::{AgentName, OrgId};
use crate::report::{Exit, Failure};

pub use self::keys::{KEYS, Key};
pub use self::places::{Places, places};
pub use self::resolve::{Effective, Setting, Source};

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
    /// How other machines are reached.
    pub network: Network,
    /// The project the client works in (`CLAUDE_PROJECT_DIR`, else the directory it started us
    /// in): stands for `{project_dir}` and for the roots of clients that have none.
    pub project_dir: Option<PathBuf>,
    /// Client session claims from the environment (`CLAUDE_CODE_SESSION_ID`), for the record only.
    pub client_session: Option<String>,
}

/// How other machines are reached. Nothing of it comes from the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Through which proxy.
    pub proxy: Proxy,
    /// Private CAs in PEM form, used beside the system's trust store.
    pub ca_pem: Option<String>,
}

/// Through which proxy other machines are reached. Loopback never goes through one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Proxy {
    /// None.
    #[default]
    Direct,
    /// This one: `http://host:port`.
    Fixed(String),
    /// The operating system's settings (macOS, Windows); none where the system has no such thing.
    System,
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

impl LogLevel {
    /// Parses the usual names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "error" => Some(Self::Error),
            "warn" => Some(Self::Warn),
            "info" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            "trace" => Some(Self::Trace),
            _ => None,
        }
    }

    /// The usual name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Reads the settings of this process.
///
/// # Errors
/// When nothing is configured, or a key that matters for security is missing or cannot be read.
pub fn load() -> Result<Config, Failure> {
    effective().config
}

/// Reads the settings with everything there is to say about each.
#[must_use]
pub fn effective() -> Effective {
    resolve::resolve(&gather())
}

/// Notes that this machine is managed, so that the absence of the managed file is an error from
/// now on. Call it at the first real work, not for a probe: it writes a file.
///
/// # Errors
/// What the file system says; nothing is lost but the note.
pub fn remember(config: &Config) -> std::io::Result<()> {
    let dirs = directories();
    match dirs.data {
        Some(data) if config.managed => managed::remember(&data),
        Some(_) | None => Ok(()),
    }
}

/// Where files of this user belong.
#[derive(Debug, Clone, Default)]
struct Directories {
    home: Option<PathBuf>,
    config: Option<PathBuf>,
    data: Option<PathBuf>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that paths come from"
)]
fn directories() -> Directories {
    let project = directories::ProjectDirs::from("", "", "mcpshim");
    Directories {
        home: directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned()),
        config: project.as_ref().map(|dirs| dirs.config_dir().to_owned()),
        data: project.map(|dirs| dirs.data_local_dir().to_owned()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that the environment is read in"
)]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// This process's whole environment, for what children may inherit of it
/// ([`crate::upstream::Environment`] keeps an allowlist). No setting is read from it.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that the environment is read in"
)]
pub fn environment() -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    std::env::vars_os()
}

/// Where systemd puts the credentials of this service (systemd.exec(5)). A managed machine takes
/// them only from where the system's service manager puts them.
pub fn credentials_directory(managed: bool) -> Option<PathBuf> {
    variable("CREDENTIALS_DIRECTORY")
        .map(PathBuf::from)
        .filter(|dir| !managed || dir.starts_with("/run/credentials"))
}

/// The variable, if there is one, that names another session bus than the user's own
/// (`/run/user/UID/bus`): whoever sets it could put a keychain of their own in front of us.
#[must_use]
pub fn other_bus() -> Option<&'static str> {
    #[cfg(all(unix, not(target_os = "macos")))]
    {
        let own = format!("/run/user/{}", rustix::process::getuid().as_raw());
        let address = variable("DBUS_SESSION_BUS_ADDRESS");
        let address = address.map(|address| address.to_string_lossy().into_owned());
        return match address {
            Some(address) => {
                let path = address.strip_prefix("unix:path=");
                let path = path.and_then(|rest| rest.split(',').next());
                let same = path.and_then(|path| path.strip_suffix("/bus")) == Some(&own);
                (!same || address.contains(';')).then_some("DBUS_SESSION_BUS_ADDRESS")
            }
            None => variable("XDG_RUNTIME_DIR")
                .is_some_and(|dir| dir != *own)
                .then_some("XDG_RUNTIME_DIR"),
        };
    }
    #[cfg(not(all(unix, not(target_os = "macos"))))]
    None
}

/// Reads every source, and judges none.
fn gather() -> resolve::Inputs {
    let dirs = directories();
    let managed = managed::read();
    let seen = dirs.data.as_deref().is_some_and(managed::was_seen);
    let environment = KEYS
        .iter()
        .filter_map(|key| Some((key.variable?, variable(key.variable?)?)))
        .collect();
    let file = variable("MCPSHIM_CONFIG").map(PathBuf::from);
    let user = file
        .clone()
        .or_else(|| Some(dirs.config.as_ref()?.join("config.toml")))
        .map(|path| {
            let text = match &managed {
                Ok(None) if !seen => read_text(&path),
                // not read: only whether it is there is said
                Ok(_) | Err(_) => Ok(path.exists().then(String::new)),
            };
            (path, text)
        });
    resolve::Inputs {
        managed,
        seen,
        marker: dirs.data.as_deref().map(managed::marker),
        user,
        user_is_named: file.is_some(),
        environment,
        machine: machine::id(dirs.data.as_deref()),
        client_session: variable("CLAUDE_CODE_SESSION_ID")
            .and_then(|value| value.into_string().ok())
            .filter(|id| id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic())),
        home: dirs.home,
        data: dirs.data,
    }
}

/// Settings and roots are small; whatever is larger is another file.
const FILE_BYTES: u64 = 1 << 20;

fn read_text(path: &Path) -> std::io::Result<Option<String>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// The refusal of everything that concerns settings: no registry can be used without them.
fn refuse(sentence: impl Into<String>) -> Failure {
    Failure::new(Exit::Registry, sentence)
}
