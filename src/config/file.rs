//! Reading files that settings name, whatever lies there.

use std::io::{self, Read as _};
use std::path::Path;

/// Reads a regular file of at most so many bytes; nothing when there is none.
///
/// A pipe, a device or a directory is an error and holds nothing up: the file is opened without
/// waiting, and asked what it is before it is read. Longer files are cut after `limit` bytes.
///
/// # Errors
/// What the file system says.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open_regular(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Opens a regular file for reading, as [`read_regular`] does; nothing when there is none.
///
/// # Errors
/// What the file system says.
pub fn open_regular(path: &Path) -> io::Result<Option<std::fs::File>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(Some(file))
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    // not to wait for whoever should write into a pipe
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<std::fs::File> {
    std::fs::File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(read_regular(&path, 9).unwrap(), None);
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_regular(&path, 9).unwrap().unwrap(), b"12345");
        assert_eq!(read_regular(&path, 2).unwrap().unwrap(), b"12");
        assert!(read_regular(dir.path(), 9).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_and_a_device_hold_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
        );
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        for path in [
            pipe.as_path(),
            Path::new("/dev/zero"),
            Path::new("/dev/tty"),
        ] {
            assert!(read_regular(path, 9).is_err(), "{}", path.display());
        }
    }
}
