//! Files and directories that only their owner may use, and the locks of them.
//!
//! What every edge needs and none of them owns; it knows no edge. A lock lies in a file of its
//! own beside what it guards, which may be renamed over. It is given back when the process ends,
//! however it ends.
#![warn(missing_docs)]

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Options to write a file that nobody else may read, where it is made anew.
#[must_use]
pub fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    // read as well: a pipe in its place would otherwise hold up whoever opens it
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates a directory and its parents, closed to everybody else.
///
/// # Errors
/// What the file system says.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Writes a file that nobody else may read.
///
/// # Errors
/// What the file system says.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = private();
    let mut file = options.create(true).truncate(true).open(path)?;
    io::Write::write_all(&mut file, bytes)
}

/// Opens the file of a lock, which is made where there is none. Nothing holds the lock yet.
///
/// # Errors
/// What the file system says.
pub fn lock_file(path: &Path) -> io::Result<File> {
    private().create(true).truncate(false).open(path)
}

/// Takes a lock; `None` while another process holds it. Dropping the file gives it back.
///
/// # Errors
/// What the file system says.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    locked(lock_file(path)?)
}

/// Takes the lock of a file that is open; `None` while another process holds it.
///
/// # Errors
/// What the file system says.
pub fn locked(file: File) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Closes everything but the three standard streams: what a process that we start for others
/// inherited from whoever started us. Nothing of ours may be open yet.
#[cfg(unix)]
pub fn close_inherited() {
    let listing = match cfg!(target_os = "linux") {
        true => "/proc/self/fd",
        false => "/dev/fd",
    };
    let name = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let open: Vec<i32> = match std::fs::read_dir(listing) {
        Ok(entries) => entries.flatten().filter_map(name).collect(),
        // not to be seen: those that a shell or a program would have opened
        Err(_) => (3..1024).collect(),
    };
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // that of the listing is closed already
        match nix::unistd::close(fd) {
            Ok(()) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let held = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
        assert!(try_lock(&dir.path().join("none").join("a.lock")).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_in_the_place_of_a_lock_holds_up_nobody_and_others_may_not_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
        );
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        drop(try_lock(&pipe));
        let inner = dir.path().join("a").join("b");
        create_private_dir(&inner).unwrap();
        let path = inner.join("lock");
        drop(try_lock(&path).unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&path)), (0o700, 0o600));
    }
}
