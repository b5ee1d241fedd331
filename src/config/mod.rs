//! Settings: managed, the user's, defaults; each with its provenance. The only reader of the
//! environment.
//!
//! Two worlds that never mix. Where device management has settings (`/etc/mcpshim/managed.toml` on
//! Linux, forced preferences on macOS, policies on Windows), they alone decide, and neither the
//! user's file nor the environment is read: state lies where the account database says, and
//! [`start_over`] leaves an environment in which nobody else chose anything. Where there are none,
//! the environment goes before the user's file. Once managed settings were seen, their absence is
//! an error: it must not be possible to gain anything by making them go away.
//!
//! A key that cannot be read never voids the others; if the key matters for security, nothing is
//! served until it is corrected.
//!
//! What an attacker who can write the user's file gains: on an unmanaged machine, everything a
//! registry decides; on a managed machine, nothing. What losing it costs: the three lines to write
//! it again.
#![warn(missing_docs)]

mod account;
mod environment;
mod file;
mod keys;
mod machine;
mod managed;
mod note;
mod owned;
mod places;
mod resolve;
mod sheet;
mod value;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::ids::{AgentName, OrgId};
use crate::report::{Exit, Failure};

use self::account::Account;
pub use self::file::{open_regular, read_regular};
pub use self::keys::{KEYS, Key, Type, near, schema};
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
    /// The directories that the programs of servers are looked for in, where settings name them:
    /// they then take the place of `PATH`, and nothing is added to them.
    pub path: Option<OsString>,
    /// The project the client works in (`CLAUDE_PROJECT_DIR`, else the directory it started us
    /// in): stands for `{project_dir}` and for the roots of clients that have none. A claim of
    /// the client; nothing is decided by it.
    pub project_dir: Option<PathBuf>,
    /// Client session claims from the environment (`CLAUDE_CODE_SESSION_ID`), for the record only.
    pub client_session: Option<String>,
}

/// How other machines are reached. Nothing of it comes from the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Through which proxy.
    pub proxy: Proxy,
    /// What is reached without the proxy, beside loopback: names, domains, addresses and
    /// networks, with commas between.
    pub no_proxy: String,
    /// Private CAs in PEM form, used beside the system's trust store.
    pub ca_pem: Option<String>,
    /// The files they come from.
    pub ca_files: Vec<PathBuf>,
}

impl Network {
    /// What is reached without the proxy, loopback included.
    #[must_use]
    pub fn except(&self) -> String {
        let mut list = "localhost,127.0.0.0/8,::1".to_owned();
        if !self.no_proxy.is_empty() {
            list.push(',');
            list.push_str(&self.no_proxy);
        }
        list
    }
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

/// On a managed machine, replaces this process by the same program with an environment that
/// nobody chose but the system and the machine's managers. Call it before anything else is done; it returns at once where nothing is to be done.
///
/// # Errors
/// When the environment cannot be left behind: nothing may be served then.
pub fn start_over() -> Result<(), Failure> {
    let managed = managed::read();
    if matches!(managed, Ok(None)) && !was_managed(account::own().as_ref()) {
        return Ok(());
    }
    let path = effective().config.ok().and_then(|config| config.path);
    let system = environment::System::ask();
    let wanted = environment::clean(given(), &system, path.as_deref());
    environment::start_over(&wanted).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context("the environment cannot be left behind, as this managed machine asks")
            .hint("tell whoever manages this machine")
    })
}

/// Notes what must outlive this process: that this machine is managed, so that the absence of
/// managed settings is an error from now on; and the machine's id where it had to be made up.
/// Call it at the first real work, not for a probe: it writes files.
///
/// # Errors
/// What the file system says; nothing is lost but the notes.
pub fn remember(config: &Config) -> std::io::Result<()> {
    let account = account::own();
    let Some(data) = directories(config.managed, account.as_ref()).data else {
        return Ok(());
    };
    machine::keep(&data, &config.machine_id, &std::process::id().to_string())?;
    if config.managed {
        note::write(&data)?;
    }
    Ok(())
}

/// The files beside the state that tell machines of this account apart, as far as they are there.
#[must_use]
pub fn notes(config: &Config) -> Vec<PathBuf> {
    let account = account::own();
    let data = directories(config.managed, account.as_ref()).data;
    let notes = data
        .iter()
        .flat_map(|data| [note::path(data), machine::path(data)]);
    notes
        .filter(|path| path.symlink_metadata().is_ok())
        .collect()
}

/// Whether managed settings were seen by this account.
fn was_managed(account: Option<&Account>) -> bool {
    let data = directories(true, account).data;
    data.as_deref().is_some_and(note::is_there)
}

/// Where files of this user belong.
#[derive(Debug, Clone, Default)]
struct Directories {
    home: Option<PathBuf>,
    config: Option<PathBuf>,
    data: Option<PathBuf>,
}

/// On managed machines from the account database, otherwise as people move them with `HOME` and
/// `XDG_*`.
fn directories(managed: bool, account: Option<&Account>) -> Directories {
    match account {
        Some(account) if managed && cfg!(unix) => {
            let home = &account.home;
            let (config, data) = if cfg!(target_os = "macos") {
                ("Library/Application Support", "Library/Application Support")
            } else {
                (".config", ".local/share")
            };
            Directories {
                config: Some(home.join(config).join("mcpshim")),
                data: Some(home.join(data).join("mcpshim")),
                home: Some(home.clone()),
            }
        }
        None if managed && cfg!(unix) => Directories::default(),
        // Windows has known folders, which are no variables
        Some(_) | None => usual_directories(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that paths come from"
)]
fn usual_directories() -> Directories {
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
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// This process's whole environment.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that the environment is read in"
)]
fn given() -> impl Iterator<Item = (OsString, OsString)> {
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
        match address {
            Some(address) => {
                let path = address.strip_prefix("unix:path=");
                let path = path.and_then(|rest| rest.split(',').next());
                let same = path.and_then(|path| path.strip_suffix("/bus")) == Some(&own);
                (!same || address.contains(';')).then_some("DBUS_SESSION_BUS_ADDRESS")
            }
            None => variable("XDG_RUNTIME_DIR")
                .is_some_and(|dir| dir != *own)
                .then_some("XDG_RUNTIME_DIR"),
        }
    }
    #[cfg(not(all(unix, not(target_os = "macos"))))]
    None
}

/// What children may inherit of the environment ([`crate::upstream::Environment`] keeps an
/// allowlist of it). No setting is read from it.
///
/// On a managed machine it is what [`start_over`] leaves, and the managed proxy and CA in the
/// variables that most programs know. Without settings it is what was given.
#[must_use]
pub fn children(config: Option<&Config>) -> Vec<(OsString, OsString)> {
    let path = config.and_then(|config| config.path.as_deref());
    let Some(config) = config.filter(|config| config.managed) else {
        let mut all: environment::Variables = given().collect();
        if let Some(path) = path {
            all.insert("PATH".into(), path.into());
        }
        return all.into_iter().collect();
    };
    let system = environment::System::ask();
    let mut all = environment::clean(given(), &system, path);
    if let Proxy::Fixed(proxy) = &config.network.proxy {
        let except = config.network.except();
        for (name, value) in [
            ("HTTP_PROXY", proxy),
            ("HTTPS_PROXY", proxy),
            ("NO_PROXY", &except),
            ("http_proxy", proxy),
            ("https_proxy", proxy),
            ("no_proxy", &except),
        ] {
            all.insert(name.into(), value.into());
        }
    }
    // Node reads one file, beside its own store; what replaces a store is left to the registry
    if let [file] = &*config.network.ca_files {
        all.insert("NODE_EXTRA_CA_CERTS".into(), file.into());
    }
    all.into_iter().collect()
}

/// Where the client says it works, or where it started us. A client with a window starts us in
/// the root or the home directory, which is no project.
fn project_dir(home: Option<&Path>) -> Option<PathBuf> {
    let claimed = variable("CLAUDE_PROJECT_DIR").map(PathBuf::from);
    if let Some(claimed) = claimed.filter(|dir| dir.is_absolute() && dir.is_dir()) {
        return Some(claimed);
    }
    let here = std::env::current_dir().ok()?;
    let is_root = here.parent().is_none();
    let is_home_of_a_window = variable("TERM").is_none() && Some(&*here) == home;
    (!is_root && !is_home_of_a_window).then_some(here)
}

/// Reads every source, and judges none.
fn gather() -> resolve::Inputs {
    let account = account::own();
    let managed = managed::read();
    let seen = was_managed(account.as_ref());
    let dirs = directories(seen || !matches!(managed, Ok(None)), account.as_ref());
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
                // not read: that it is named is said, or that the usual one is there
                Ok(_) | Err(_) => Ok((file.is_some() || path.exists()).then(String::new)),
            };
            (path, text)
        });
    resolve::Inputs {
        managed,
        seen,
        marker: directories(true, account.as_ref())
            .data
            .as_deref()
            .map(note::path),
        unread: managed::unread(),
        user,
        user_is_named: file.is_some(),
        environment,
        others: UNREAD
            .iter()
            .copied()
            .filter(|name| variable(name).is_some())
            .collect(),
        machine: machine::id(dirs.data.as_deref(), account.as_ref()),
        client_session: variable("CLAUDE_CODE_SESSION_ID")
            .and_then(|value| value.into_string().ok())
            .filter(|id| id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic())),
        project_dir: project_dir(dirs.home.as_deref()),
        home: dirs.home,
        data: dirs.data,
    }
}

/// Variables that people expect to be obeyed and that never are, wherever they are set.
const UNREAD: &[&str] = &[
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "all_proxy",
    "http_proxy",
    "https_proxy",
];

/// Settings and roots are small; whatever is larger is another file.
const FILE_BYTES: u64 = 1 << 20;

fn read_text(path: &Path) -> std::io::Result<Option<String>> {
    let Some(bytes) = read_regular(path, FILE_BYTES + 1)? else {
        return Ok(None);
    };
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_BYTES) {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(std::io::Error::other)?;
    Ok(Some(text))
}

/// The refusal of everything that concerns settings: no registry can be used without them.
fn refuse(sentence: impl Into<String>) -> Failure {
    Failure::new(Exit::Registry, sentence)
}
