//! Small files of the collector's data directory: replaced as a whole, or appended by line.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use crate::vault;

/// Replaces a file: whoever reads it finds the old or the new content, whole.
///
/// # Errors
/// What the file system says; the old content is then still there.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // the parent of a bare name is the empty path
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let draft = path.with_extension("new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    // a crash before this leaves the draft, which the next replacement overwrites
    std::fs::rename(&draft, path)?;
    vault::sync_dir(dir)
}

/// Appends one line and returns once it is on the disk.
///
/// # Errors
/// What the file system says.
pub fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()
}

/// Creates a directory below `root`, and makes every new name on the way durable.
///
/// # Errors
/// What the file system says.
pub fn create_dir(root: &Path, dir: &Path) -> io::Result<()> {
    // also where it is there: whoever made it may have died before its name was durable
    crate::files::create_private_dir(dir)?;
    let mut at = dir;
    while let Some(parent) = at.parent() {
        vault::sync_dir(parent)?;
        if parent == root {
            break;
        }
        at = parent;
    }
    Ok(())
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> u64 {
    #[cfg(unix)]
    {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current.unwrap_or(u64::MAX)
    }
    #[cfg(not(unix))]
    {
        16_384
    }
}

/// Raises the number of files this process may have open as far as the system lets it, for a
/// server that has many connections and journals open.
pub fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        /// More than that is never needed.
        const MOST: u64 = 65_536;
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.map_or(MOST, |maximum| maximum.min(MOST));
        if limit.current.is_some_and(|current| current < most) {
            let wanted = Rlimit {
                current: Some(most),
                maximum: limit.maximum,
            };
            if let Err(error) = setrlimit(Resource::Nofile, wanted) {
                tracing::debug!(%error, "The number of open files stays as it is.");
            }
        }
    }
}
