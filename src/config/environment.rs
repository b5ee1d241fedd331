//! The environment of a managed machine: what nobody but the system and its managers chose.
//!
//! Whoever starts a client sets the environment of everything below it; a cloned project can do
//! that through the client's own settings. On a managed machine [`start_over`] therefore begins
//! again with an environment made here, before anything is read, connected or started: what the
//! account database says, and of what was given only what cannot redirect anything. The libraries
//! this program is made of (name resolution, TLS, D-Bus) then find nothing to obey, whichever
//! variables they know.
//!
//! What this cannot undo: the dynamic linker obeyed `LD_PRELOAD` and its like before the first
//! instruction here. Such a library can do whatever this program could.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::account::Account;

/// Variables by name.
pub(super) type Variables = BTreeMap<OsString, OsString>;

/// What a value must look like to be passed on.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// A path from the root, without `..`.
    Absolute,
    /// A path below this one, without `..`.
    Below(&'static str),
    /// Directories; those that are not absolute are left out.
    Search,
    /// A few plain characters: no path, no command.
    Word,
    /// A time zone by name.
    Zone,
}

/// What may be given. Sizes and colours of terminals, languages, the screen that a browser opens
/// on, where the client says it works; and `PATH`, without which no server starts
/// (docs/decisions/0011).
const GIVEN: &[(&str, Shape)] = &[
    ("CLAUDE_CODE_SESSION_ID", Shape::Word),
    // where clients keep their settings: for `client` and `doctor`
    ("CLAUDE_CONFIG_DIR", Shape::Absolute),
    ("CLAUDE_PROJECT_DIR", Shape::Absolute),
    ("CODEX_HOME", Shape::Absolute),
    ("COLORTERM", Shape::Word),
    ("COLUMNS", Shape::Word),
    // only the system can make directories there
    ("CREDENTIALS_DIRECTORY", Shape::Below("/run/credentials")),
    ("DISPLAY", Shape::Word),
    ("LANG", Shape::Word),
    ("LANGUAGE", Shape::Word),
    ("LINES", Shape::Word),
    ("NO_COLOR", Shape::Word),
    ("NUMBER_OF_PROCESSORS", Shape::Word),
    ("PATH", Shape::Search),
    ("PROCESSOR_ARCHITECTURE", Shape::Word),
    ("TERM", Shape::Word),
    ("TZ", Shape::Zone),
    ("WAYLAND_DISPLAY", Shape::Word),
    ("XAUTHORITY", Shape::Absolute),
    ("XDG_CURRENT_DESKTOP", Shape::Word),
    ("XDG_SESSION_TYPE", Shape::Word),
];

/// What is taken from the system instead of from the environment.
#[derive(Debug, Clone, Default)]
pub(super) struct System {
    pub(super) account: Option<Account>,
    /// The directory of the user's session.
    pub(super) runtime: Option<PathBuf>,
    /// The socket of the user's bus.
    pub(super) bus: Option<PathBuf>,
    /// Further variables that the system needs.
    pub(super) fixed: Variables,
}

impl System {
    /// Asks the system.
    pub(super) fn ask() -> Self {
        let runtime = runtime();
        let bus = runtime.as_ref().map(|dir| dir.join("bus"));
        Self {
            account: super::account::own(),
            bus: bus.filter(|bus| bus.exists()),
            runtime,
            fixed: fixed(),
        }
    }
}

/// The environment that holds on a managed machine. Doing it twice changes nothing.
pub(super) fn clean(
    given: impl IntoIterator<Item = (OsString, OsString)>,
    system: &System,
    search: Option<&OsStr>,
) -> Variables {
    let mut kept: Variables = given
        .into_iter()
        .filter_map(|(name, value)| {
            let value = shaped(shape(name.to_str()?)?, &value)?;
            Some((name, value))
        })
        .collect();
    if let Some(account) = &system.account {
        let mut set = |name: &str, value: &OsStr| kept.insert(name.into(), value.into());
        if cfg!(unix) {
            set("HOME", account.home.as_os_str());
            set("USER", account.name.as_ref());
            set("LOGNAME", account.name.as_ref());
            set("SHELL", account.shell.as_os_str());
        }
    }
    if let Some(runtime) = &system.runtime {
        kept.insert("XDG_RUNTIME_DIR".into(), runtime.into());
    }
    if let Some(bus) = &system.bus {
        let mut address = OsString::from("unix:path=");
        address.push(bus);
        kept.insert("DBUS_SESSION_BUS_ADDRESS".into(), address);
    }
    if let Some(search) = search {
        kept.insert("PATH".into(), search.into());
    }
    for (name, value) in &system.fixed {
        kept.insert(name.clone(), value.clone());
    }
    kept
}

fn shape(name: &str) -> Option<Shape> {
    if name.starts_with("LC_") {
        return Some(Shape::Word);
    }
    let same = |known: &str| match cfg!(windows) {
        true => known.eq_ignore_ascii_case(name),
        false => known == name,
    };
    let found = GIVEN.iter().find(|(known, _)| same(known));
    found.map(|(_, shape)| *shape)
}

fn shaped(shape: Shape, value: &OsStr) -> Option<OsString> {
    let plain = |more: &str| {
        value.to_str().filter(|text| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || more.bytes().any(|m| m == b);
            text.len() <= 128 && text.bytes().all(fits)
        })
    };
    match shape {
        Shape::Absolute => is_absolute(Path::new(value)).then(|| value.to_owned()),
        Shape::Below(base) => {
            let path = Path::new(value);
            (is_absolute(path) && path.starts_with(base)).then(|| value.to_owned())
        }
        Shape::Search => {
            let dirs = std::env::split_paths(value).filter(|dir| dir.is_absolute());
            std::env::join_paths(dirs)
                .ok()
                .filter(|dirs| !dirs.is_empty())
        }
        Shape::Word => plain("_.,:@+-").map(OsString::from),
        Shape::Zone => plain("_/+-")
            .filter(|zone| !zone.starts_with('/'))
            .map(OsString::from),
    }
}

fn is_absolute(path: &Path) -> bool {
    use std::path::Component;
    path.is_absolute() && path.components().all(|part| part != Component::ParentDir)
}

/// The directory that the system made for the user's session.
#[cfg(target_os = "linux")]
fn runtime() -> Option<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let dir = PathBuf::from(format!("/run/user/{uid}"));
    dir.is_dir().then_some(dir)
}

#[cfg(not(target_os = "linux"))]
fn runtime() -> Option<PathBuf> {
    None
}

#[cfg(not(windows))]
fn fixed() -> Variables {
    Variables::new()
}

/// What programs on Windows need to start, from keys that only administrators write and from the
/// account.
#[cfg(windows)]
#[expect(
    clippy::disallowed_methods,
    reason = "asks for known folders, which are not variables on Windows"
)]
fn fixed() -> Variables {
    let mut fixed = Variables::new();
    let mut set = |name: &str, value: PathBuf| drop(fixed.insert(name.into(), value.into()));
    const NT: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
    if let Some(root) = super::managed::machine_text(NT, "SystemRoot").map(PathBuf::from) {
        set("COMSPEC", root.join(r"System32\cmd.exe"));
        if let Some(drive) = root.components().next() {
            set("SYSTEMDRIVE", drive.as_os_str().into());
        }
        set("WINDIR", root.clone());
        set("SYSTEMROOT", root);
    }
    if let Some(programs) = programs() {
        set("PROGRAMFILES", programs);
    }
    let profiles = format!(r"{NT}\ProfileList");
    if let Some(data) = super::managed::machine_text(&profiles, "ProgramData")
        // the usual value names a variable
        && !data.contains('%')
    {
        set("PROGRAMDATA", data.into());
    }
    if let Some(dirs) = directories::BaseDirs::new() {
        set("APPDATA", dirs.data_dir().to_owned());
        set("LOCALAPPDATA", dirs.data_local_dir().to_owned());
        set("TEMP", dirs.data_local_dir().join("Temp"));
        set("TMP", dirs.data_local_dir().join("Temp"));
        set("USERPROFILE", dirs.home_dir().to_owned());
        if let Some(name) = dirs.home_dir().file_name() {
            set("USERNAME", name.into());
        }
    }
    set("PATHEXT", ".COM;.EXE;.BAT;.CMD".into());
    fixed
}

/// Where programs are installed for everybody.
#[cfg(windows)]
pub(super) fn programs() -> Option<PathBuf> {
    let key = r"SOFTWARE\Microsoft\Windows\CurrentVersion";
    super::managed::machine_text(key, "ProgramFilesDir").map(PathBuf::from)
}

/// Replaces this process by one of the same program and arguments with these variables, unless
/// they are what it has. Returns only when there is nothing to do, or it cannot be done.
///
/// The process keeps its id and its open files; the client sees one program.
#[cfg(unix)]
pub(super) fn start_over(wanted: &Variables) -> std::io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let mut count = 0;
    let mut same = true;
    for (name, value) in super::given() {
        count += 1;
        same &= wanted.get(&name) == Some(&value);
    }
    // a name that was given twice counts twice: who asks for it may get either
    if same && count == wanted.len() {
        return Ok(());
    }
    let mut words = std::env::args_os();
    let name = words.next();
    let program = if cfg!(target_os = "linux") {
        // this very file, even if another has taken its name since
        PathBuf::from("/proc/self/exe")
    } else {
        std::env::current_exe()?
    };
    let mut command = std::process::Command::new(program);
    if let Some(name) = name {
        command.arg0(name);
    }
    Err(command.args(words).env_clear().envs(wanted).exec())
}

/// There is no way to become another program here. Known folders, proxies, trust and names do not
/// come from variables on Windows; what children get is made by [`clean`].
#[cfg(not(unix))]
pub(super) fn start_over(_: &Variables) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> System {
        System {
            account: Some(Account {
                name: "ann".to_owned(),
                home: "/users/ann".into(),
                shell: "/bin/zsh".into(),
            }),
            runtime: Some("/run/user/7".into()),
            bus: Some("/run/user/7/bus".into()),
            fixed: Variables::new(),
        }
    }

    #[cfg(unix)]
    fn cleaned(given: &[(&str, &str)]) -> String {
        let given = given.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        let once = clean(given, &system(), None);
        let twice = clean(once.clone(), &system(), None);
        assert_eq!(once, twice);
        let lines = once
            .iter()
            .map(|(n, v)| format!("{}={}\n", n.display(), v.display()));
        lines.collect()
    }

    #[test]
    #[cfg(unix)]
    fn nothing_that_redirects_is_left() {
        let hostile = [
            ("HOME", "/evil"),
            ("USER", "evil"),
            ("XDG_DATA_HOME", "/evil"),
            ("XDG_RUNTIME_DIR", "/evil"),
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/evil"),
            ("HTTPS_PROXY", "http://evil"),
            ("SSL_CERT_FILE", "/evil"),
            ("TMPDIR", "/evil"),
            ("RES_OPTIONS", "evil"),
            ("HOSTALIASES", "/evil"),
            ("LD_LIBRARY_PATH", "/evil"),
            ("NODE_OPTIONS", "--require=/evil"),
            ("MCPSHIM_STATE", "/evil"),
            ("BROWSER", "/evil"),
            ("TZ", "/evil"),
            ("LANG", "../../evil"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials/../../evil"),
            ("CLAUDE_PROJECT_DIR", "evil"),
            ("PATH", "evil::.:bin:/usr/bin:./evil:/bin"),
        ];
        insta::assert_snapshot!(cleaned(&hostile), @"
        DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/7/bus
        HOME=/users/ann
        LOGNAME=ann
        PATH=/usr/bin:/bin
        SHELL=/bin/zsh
        USER=ann
        XDG_RUNTIME_DIR=/run/user/7
        ");
    }

    #[test]
    #[cfg(unix)]
    fn what_harms_nobody_stays() {
        let given = [
            ("CLAUDE_CODE_SESSION_ID", "0a-1b"),
            ("CLAUDE_PROJECT_DIR", "/users/ann/project"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials/ci.service"),
            ("DISPLAY", ":0"),
            ("LC_ALL", "de_DE.UTF-8"),
            ("TERM", "xterm-256color"),
            ("TZ", "Europe/Berlin"),
        ];
        let said = cleaned(&given);
        for (name, value) in given {
            assert!(
                said.contains(&format!("{name}={value}\n")),
                "{name}: {said}"
            );
        }
    }

    #[test]
    fn managed_directories_take_the_place_of_path() {
        let given = [("PATH".into(), "/evil".into())];
        let kept = clean(given, &system(), Some("/usr/bin".as_ref()));
        assert_eq!(kept.get(OsStr::new("PATH")).unwrap(), "/usr/bin");
    }
}
