//! Where programs are, when whoever started us does not know.
//!
//! A client with a window is started with the system's short PATH, on which `npx` and `uvx` are
//! not. So when a program is not found, or the PATH is that short one, places are added **at its
//! end**: what the PATH already finds stays what is found, and a directory that the user can write
//! never goes before one of the system. First those of the user's login shell, then the ones that
//! installers of Node, Python and others document.
//!
//! The login shell is asked once, on a thread of its own, in an environment without anything of
//! ours, and only if the system lists it as a shell; it may take three seconds. What it prints is
//! taken for names of directories and nothing else.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Environment, Launch, SpawnError};

/// How long the login shell may take.
const SHELL: Duration = Duration::from_secs(3);
/// Larger answers of a shell are not read, in bytes.
const ANSWER_BYTES: u64 = 64 << 10;
/// A PATH of nothing but these is the system's short one.
const SHORT: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
];
/// Where package managers put programs for everybody.
const SHARED: [&str; 7] = [
    "/opt/homebrew/bin",
    "/usr/local/bin",
    concat!("/home", "/linuxbrew/.linuxbrew/bin"),
    "/opt/local/bin",
    "/snap/bin",
    "/nix/var/nix/profiles/default/bin",
    "/run/current-system/sw/bin",
];
/// Where they put them for one user, below the home directory.
const OWN: [&str; 10] = [
    ".local/bin",
    ".volta/bin",
    ".local/share/mise/shims",
    ".asdf/shims",
    ".local/share/fnm/aliases/default/bin",
    "Library/Application Support/fnm/aliases/default/bin",
    ".bun/bin",
    ".deno/bin",
    ".cargo/bin",
    ".nix-profile/bin",
];
/// Versions of Node, below the home directory; the newest counts.
const VERSIONS: &str = ".nvm/versions/node";

/// Where programs of one session may be.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// What the login shell says, once it has.
    shell: Arc<OnceLock<Vec<PathBuf>>>,
}

impl Places {
    /// Asks the user's login shell, in the background, if the PATH is the short one.
    pub fn ask(&self, environment: &Environment) {
        let path = environment.get("PATH").unwrap_or_default();
        if !is_short(path) || self.shell.get().is_some() {
            return;
        }
        let (shell, environment) = (Arc::clone(&self.shell), environment.clone());
        let asked = std::thread::Builder::new()
            .name("login-shell".to_owned())
            .spawn(move || {
                let dirs = login_path(&environment);
                tracing::info!(dirs = dirs.len(), "The login shell was asked for its PATH.");
                // asked once
                shell.set(dirs).unwrap_or_default();
            });
        if let Err(error) = asked {
            tracing::debug!(%error, "The login shell is not asked.");
        }
    }

    /// Whether a directory is one where the system or its package manager puts programs, or
    /// belongs to somebody else than us.
    pub(super) fn is_of_the_system(dir: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let known = SHORT
            .iter()
            .chain(&SHARED)
            .any(|known| Path::new(known) == dir);
        let own = rustix::process::geteuid().as_raw();
        known || std::fs::metadata(dir).is_ok_and(|meta| meta.uid() != own && !is_open(meta.mode()))
    }

    /// Sees to it that a server's program is found; its PATH grows at the end where it has to.
    ///
    /// # Errors
    /// [`SpawnError::Program`] when it is not there.
    pub fn find(&self, launch: &mut Launch) -> Result<(), SpawnError> {
        // what the registry sets is meant
        let set = launch.env.get("PATH").map(OsString::from);
        let path = set.clone().unwrap_or_else(|| {
            launch
                .environment
                .get("PATH")
                .unwrap_or_default()
                .to_owned()
        });
        let command = Path::new(&launch.command);
        if launch.command.contains('/') {
            return match is_program(command) || launch.cwd.is_some() {
                true => Ok(()),
                false => Err(SpawnError::Program(format!(
                    "there is no program {}",
                    launch.command
                ))),
            };
        }
        let found = std::env::split_paths(&path).any(|dir| is_program(&dir.join(command)));
        if set.is_none() && (!found || is_short(&path)) {
            let mended = self.mended(&path, &launch.environment);
            let there = |path: &OsStr| {
                let mut dirs = std::env::split_paths(path);
                dirs.any(|dir| is_program(&dir.join(command)))
            };
            if found || there(&mended) {
                launch.environment = launch.environment.with("PATH", mended);
                return Ok(());
            }
        }
        if found {
            return Ok(());
        }
        let usual = match set {
            Some(_) => "the registry sets it for this server",
            None => {
                "nor where package managers put programs; install it, or tell your platform team"
            }
        };
        Err(SpawnError::Program(format!(
            "there is no program {} on the PATH ({}), {usual}",
            launch.command,
            path.to_string_lossy()
        )))
    }

    /// A PATH with more places at its end.
    fn mended(&self, path: &OsStr, environment: &Environment) -> OsString {
        let home = environment.get("HOME").map(PathBuf::from);
        let own = home.iter().flat_map(|home| {
            let newest = newest(&home.join(VERSIONS));
            let own = OWN.iter().map(|place| home.join(place));
            own.chain(newest).collect::<Vec<_>>()
        });
        let shared = SHARED.iter().map(PathBuf::from);
        let shell = self.shell.get().cloned().unwrap_or_default();
        let mut dirs: Vec<PathBuf> = std::env::split_paths(path).collect();
        for dir in shell.into_iter().chain(shared).chain(own) {
            if dir.is_absolute() && dir.is_dir() && !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        // an empty name is the directory we run in, and one with a colon cannot be on a PATH
        dirs.retain(|dir| {
            let text = dir.as_os_str().to_string_lossy();
            !text.is_empty() && !text.contains(':')
        });
        std::env::join_paths(dirs).unwrap_or_else(|_| path.to_owned())
    }
}

/// Anybody may write there.
fn is_open(mode: u32) -> bool {
    mode & 0o002 != 0
}

fn is_short(path: &OsStr) -> bool {
    std::env::split_paths(path).all(|dir| SHORT.iter().any(|short| Path::new(short) == dir))
}

fn is_program(path: &Path) -> bool {
    let meta = std::fs::metadata(path);
    meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The newest `v1.2.3/bin` below a directory.
fn newest(versions: &Path) -> Option<PathBuf> {
    let number = |name: &str| -> Option<Vec<u64>> {
        let parts = name.strip_prefix('v')?.split('.');
        parts.map(|part| part.parse().ok()).collect()
    };
    let entries = std::fs::read_dir(versions).ok()?;
    let newest = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = number(entry.file_name().to_str()?)?;
            Some((version, entry.path()))
        })
        .max()?;
    Some(newest.1.join("bin"))
}

/// The PATH of the user's login shell; nothing when it does not say it in time.
fn login_path(environment: &Environment) -> Vec<PathBuf> {
    let shells = std::fs::read_to_string("/etc/shells").unwrap_or_default();
    let Some(shell) = environment.get("SHELL").and_then(OsStr::to_str) else {
        return Vec::new();
    };
    if !shells.lines().any(|line| line.trim() == shell) {
        return Vec::new();
    }
    ask(Path::new(shell), environment, SHELL).unwrap_or_else(|| {
        tracing::warn!(shell, "The login shell does not say its PATH.");
        Vec::new()
    })
}

fn ask(shell: &Path, environment: &Environment, patience: Duration) -> Option<Vec<PathBuf>> {
    let known = ["HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH"];
    let known = known
        .iter()
        .filter_map(|name| Some((*name, environment.get(name)?)));
    // interactive too: version managers are set up there; in a group of its own, so that all of
    // it can be ended and none of it takes a terminal
    let mut command = Command::new(shell);
    command
        .args(["-l", "-i", "-c", "/usr/bin/printenv PATH"])
        .env_clear()
        .envs(known)
        .env("TERM", "dumb")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    // what a profile starts and leaves is the person's
    super::beside(|| command.spawn(), |child| answer(child, patience)).ok()?
}

/// What a shell printed in time; it is ended.
fn answer(mut child: Child, patience: Duration) -> Option<Vec<PathBuf>> {
    let stdout = child.stdout.take()?;
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::Builder::new()
        .name("login-shell-read".to_owned())
        .spawn(move || {
            let mut text = String::new();
            let read = stdout.take(ANSWER_BYTES).read_to_string(&mut text);
            tell.send(read.ok().map(|_| text)).unwrap_or_default();
        });
    let answer = reader.is_ok().then(|| told.recv_timeout(patience).ok());
    let group = rustix::process::Pid::from_child(&child);
    let killed = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let waited = child.wait();
    tracing::debug!(?killed, ?waited, "The login shell is done.");
    let text = answer.flatten().flatten()?;
    // whatever a profile prints comes before
    let line = text.lines().rfind(|line| line.starts_with('/'))?;
    Some(std::env::split_paths(line).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::ServerKey;

    fn program(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn launch(command: &str, home: &Path, path: &str) -> Launch {
        let vars = [("HOME", home.as_os_str()), ("PATH", OsStr::new(path))];
        let vars = vars.map(|(name, value)| (name.into(), value.to_owned()));
        Launch::new(
            ServerKey::parse("x").unwrap(),
            command,
            Environment::of(vars),
        )
    }

    fn path_of(launch: &Launch) -> Vec<PathBuf> {
        std::env::split_paths(launch.environment.get("PATH").unwrap()).collect()
    }

    #[test]
    fn a_program_that_is_not_on_the_path_is_found_in_the_usual_places() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        program(&home.join(".local/bin/uvx-for-tests"));
        program(&home.join(".nvm/versions/node/v9.1.0/bin/npx-for-tests"));
        program(&home.join(".nvm/versions/node/v22.3.0/bin/npx-for-tests"));
        std::fs::create_dir_all(home.join(".nvm/versions/node/system/bin")).unwrap();
        for (command, place) in [
            ("uvx-for-tests", ".local/bin"),
            ("npx-for-tests", ".nvm/versions/node/v22.3.0/bin"),
        ] {
            let mut launch = launch(command, home, "/usr/bin:/bin");
            Places::default().find(&mut launch).unwrap();
            let path = path_of(&launch);
            assert!(path.contains(&home.join(place)), "{path:?}");
            // only appended: what was found before is found still
            let before = [PathBuf::from("/usr/bin"), PathBuf::from("/bin")];
            assert_eq!(path[..2], before);
        }
    }

    #[test]
    fn a_path_that_somebody_made_is_left_alone_while_it_finds_the_program() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        program(&home.join("tools/tool-for-tests"));
        program(&home.join(".local/bin/tool-for-tests"));
        let path = format!("{}:/usr/bin", home.join("tools").display());
        let mut found = launch("tool-for-tests", home, &path);
        Places::default().find(&mut found).unwrap();
        assert_eq!(found.environment.get("PATH"), Some(OsStr::new(&path)));
        // one that the registry sets is meant, even if it finds nothing
        let mut set = launch("tool-for-tests", home, "/usr/bin");
        set.env = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        let error = Places::default().find(&mut set).unwrap_err();
        assert!(
            error.to_string().contains("the registry sets it"),
            "{error}"
        );
    }

    #[test]
    fn what_is_nowhere_is_named() {
        let home = tempfile::tempdir().unwrap();
        let mut nowhere = launch("no-such-program", home.path(), "/usr/bin:/bin");
        let error = Places::default()
            .find(&mut nowhere)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(
                "could not be started: there is no program no-such-program on the PATH \
                 (/usr/bin:/bin), nor where"
            ),
            "{error}"
        );
        let mut path = launch("/no/such/program", home.path(), "/usr/bin:/bin");
        let error = Places::default().find(&mut path).unwrap_err().to_string();
        assert_eq!(
            error,
            "could not be started: there is no program /no/such/program"
        );
    }

    #[test]
    fn the_login_shell_says_its_path_and_nothing_of_ours_reaches_it() {
        let home = tempfile::tempdir().unwrap();
        let seen = home.path().join("seen");
        let shell = home.path().join("shell");
        let script = |body: &str| {
            program(&shell);
            std::fs::write(&shell, format!("#!/bin/sh\n{body}\n")).unwrap();
        };
        script(&format!(
            "echo \"$*\" > {0}; env >> {0}; echo welcome; echo '/a b:/c'",
            seen.display()
        ));
        let environment = launch("x", home.path(), "/usr/bin:/bin")
            .environment
            .with("HTTPS_PROXY", "http://user:word@proxy".into());
        let patience = Duration::from_secs(10);
        let dirs = ask(&shell, &environment, patience).unwrap();
        assert_eq!(dirs, [PathBuf::from("/a b"), PathBuf::from("/c")]);
        let seen = std::fs::read_to_string(seen).unwrap();
        assert!(
            seen.starts_with("-l -i -c /usr/bin/printenv PATH"),
            "{seen}"
        );
        assert!(seen.contains("HOME=") && !seen.contains("PROXY"), "{seen}");
        // one that hangs is ended, with what it started
        script("sleep 1000 & sleep 1000");
        assert_eq!(ask(&shell, &environment, Duration::from_millis(50)), None);
        script("echo nothing useful");
        assert_eq!(ask(&shell, &environment, patience), None);
        // one that the system does not list is never started
        let listed = environment.with("SHELL", shell.clone().into());
        assert!(login_path(&listed).is_empty());
    }

    #[test]
    fn short_is_what_the_system_gives_and_nothing_else() {
        for (path, short) in [
            ("/usr/bin:/bin:/usr/sbin:/sbin", true),
            ("/usr/local/bin:/usr/bin:/bin", true),
            ("", false),
            ("/opt/homebrew/bin:/usr/bin:/bin", false),
        ] {
            assert_eq!(is_short(OsStr::new(path)), short, "{path}");
        }
    }
}
