//! The program that clients start: where it is, whether it stays there, which version it is.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mcpshim::config::Places;
use mcpshim::report::{Exit, Failure};

/// The path of this program that lasts longest: the one on `PATH` if it leads to this file, since
/// package managers move what it links to; else the file itself.
pub(crate) fn own(places: &Places) -> Result<PathBuf, Failure> {
    let running = std::env::current_exe().map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context("this program does not know where it lies")
            .hint("start it by its full path")
    })?;
    let real = running.canonicalize().unwrap_or_else(|_| running.clone());
    let name = running.file_name().unwrap_or_default();
    let mut known = places
        .path
        .iter()
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name));
    Ok(known
        .find(|path| path.canonicalize().is_ok_and(|found| found == real))
        .unwrap_or(running))
}

/// Why a program will not stay where it is.
pub(super) fn passing(program: &Path, places: &Places) -> Option<&'static str> {
    let real = program.canonicalize();
    let real = real.as_deref().unwrap_or(program);
    let mut parts = real.components().map(|part| part.as_os_str());
    let built = parts.any(|part| part == "target")
        && parts.any(|part| part == "debug" || part == "release");
    if built {
        return Some("lies among the results of a build");
    }
    let temporary = places.temporary.canonicalize();
    let under = |dir: &Path| program.starts_with(dir) || real.starts_with(dir);
    let kept = ["/tmp", "/var/tmp", "/private/tmp", "/private/var/folders"];
    if temporary.as_deref().is_ok_and(under)
        || under(&places.temporary)
        || kept.iter().any(|dir| under(Path::new(dir)))
    {
        return Some("lies among temporary files");
    }
    None
}

/// What is wrong with a program that an entry names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is this program.
    This,
    /// Another copy of this version.
    Copy,
    /// Another version, as it says.
    Other(String),
    /// It does not exist.
    Missing,
    /// It is there, and cannot be executed.
    NotExecutable,
    /// It does not say that it is mcpshim.
    Silent,
}

/// Looks at a program that an entry names; a name without a path is looked for as clients do.
pub(super) fn state(command: &str, own: &Path, places: &Places, patience: Duration) -> State {
    let path = Path::new(command);
    let found = if path.components().count() > 1 {
        Some(path.to_owned())
    } else {
        places
            .path
            .iter()
            .map(|dir| dir.join(path))
            .find(|path| path.is_file())
    };
    let Some(path) = found.filter(|path| path.exists()) else {
        return State::Missing;
    };
    let same = |other: &Path| path.canonicalize().ok() == other.canonicalize().ok();
    if same(own) || std::env::current_exe().is_ok_and(|running| same(&running)) {
        return State::This;
    }
    if !is_executable(&path) {
        return State::NotExecutable;
    }
    match version(&path, patience) {
        Some(version) if version == env!("CARGO_PKG_VERSION") => State::Copy,
        Some(version) => State::Other(version),
        None => State::Silent,
    }
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

/// The version a program gives, if it is one of ours. It is run with an empty environment and
/// ended when it does not answer.
fn version(path: &Path, patience: Duration) -> Option<String> {
    let mut child = Command::new(path)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let stdout = child.stdout.take();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|stdout| stdout.take(256).read_to_string(&mut text));
        drop((read, tell.send(text)));
    });
    let text = told.recv_timeout(patience);
    drop((child.kill(), child.wait()));
    let text = text.ok()?;
    let version = text.trim().strip_prefix("mcpshim ")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
    (!version.is_empty() && version.len() <= 64 && version.chars().all(plain))
        .then(|| version.to_owned())
}
