//! Files that only the administrator can have written.
//!
//! Every directory on the way and the file itself must belong to root, be no symbolic link, and
//! be writable by nobody else. On Windows, where this program cannot ask for owners, the file
//! must lie below the directory of installed programs, which only administrators write.

use std::path::{Path, PathBuf};

/// Why a managed file is not used. It is an error, not an absence.
#[cfg_attr(
    not(unix),
    expect(dead_code, reason = "files have no owner rules there")
)]
#[derive(Debug, thiserror::Error)]
pub(super) enum Untrusted {
    #[error("{path} belongs to user {owner}, not to root")]
    Foreign { path: PathBuf, owner: u32 },
    #[error("{path} cannot be read")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is a symbolic link, or not a {expected}")]
    Kind {
        path: PathBuf,
        expected: &'static str,
    },
    #[error("{path} is larger than 1 MiB")]
    Large { path: PathBuf },
    #[cfg_attr(unix, expect(dead_code, reason = "the rule of Windows"))]
    #[error("{path} is not below the directory of installed programs")]
    NotInstalled { path: PathBuf },
    #[error("{path} can be written by others than root (mode {mode:o})")]
    Open { path: PathBuf, mode: u32 },
    #[cfg_attr(not(windows), expect(dead_code, reason = "the way of Windows"))]
    #[error("{place} cannot be read: {cause}")]
    Registry { place: &'static str, cause: String },
    #[cfg_attr(
        not(target_os = "macos"),
        expect(dead_code, reason = "the way of macOS")
    )]
    #[error("{path} is there, but the system calls no value of it forced")]
    Unheard { path: String },
}

/// Reads such a file; nothing when there is none.
#[cfg(unix)]
pub(super) fn read(path: &Path) -> Result<Option<String>, Untrusted> {
    let below = path.strip_prefix("/").unwrap_or(path);
    walk(Path::new("/"), below, 0)
}

/// Reads such a file; nothing when there is none.
#[cfg(not(unix))]
pub(super) fn read(path: &Path) -> Result<Option<String>, Untrusted> {
    use std::path::Component;
    let installed = super::environment::programs();
    let plain = |part| matches!(part, Component::Normal(_));
    let inside = installed
        .and_then(|dir| Some(path.strip_prefix(dir).ok()?.components().all(plain)))
        .unwrap_or(false);
    if !inside {
        return Err(Untrusted::NotInstalled {
            path: path.to_owned(),
        });
    }
    let io = |source| Untrusted::Io {
        path: path.to_owned(),
        source,
    };
    let Some(bytes) = super::read_regular(path, super::FILE_BYTES + 1).map_err(io)? else {
        return Ok(None);
    };
    if u64::try_from(bytes.len()).is_ok_and(|len| len > super::FILE_BYTES) {
        return Err(Untrusted::Large {
            path: path.to_owned(),
        });
    }
    let text = String::from_utf8(bytes).map_err(std::io::Error::other);
    text.map(Some).map_err(io)
}

#[cfg(unix)]
fn walk(base: &Path, below: &Path, owner: u32) -> Result<Option<String>, Untrusted> {
    use rustix::fs::{Mode, OFlags};
    use std::io::Read as _;

    let io = |path: &Path, error: rustix::io::Errno| Untrusted::Io {
        path: path.to_owned(),
        source: error.into(),
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut path = base.to_owned();
    let mut dir = rustix::fs::open(base, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| io(base, error))?;
    guard(&dir, &path, owner, rustix::fs::FileType::Directory)?;
    let mut parts = below.components().peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let last = parts.peek().is_none();
        let (expected, extra) = if last {
            // not to hang on a pipe that somebody put there
            ("regular file", OFlags::NONBLOCK)
        } else {
            ("directory", OFlags::DIRECTORY)
        };
        let next = match rustix::fs::openat(&dir, part.as_os_str(), flags | extra, Mode::empty()) {
            Ok(next) => next,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err(Untrusted::Kind { path, expected });
            }
            Err(error) => return Err(io(&path, error)),
        };
        let kind = if last {
            rustix::fs::FileType::RegularFile
        } else {
            rustix::fs::FileType::Directory
        };
        guard(&next, &path, owner, kind)?;
        dir = next;
    }
    let mut text = String::new();
    std::fs::File::from(dir)
        .take(super::FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|source| Untrusted::Io {
            path: path.clone(),
            source,
        })?;
    if u64::try_from(text.len()).is_ok_and(|len| len <= super::FILE_BYTES) {
        Ok(Some(text))
    } else {
        Err(Untrusted::Large { path })
    }
}

/// Asks the opened file itself, so that it cannot be exchanged after the question.
#[cfg(unix)]
fn guard(
    file: &impl std::os::fd::AsFd,
    path: &Path,
    owner: u32,
    kind: rustix::fs::FileType,
) -> Result<(), Untrusted> {
    let stat = rustix::fs::fstat(file).map_err(|error| Untrusted::Io {
        path: path.to_owned(),
        source: error.into(),
    })?;
    let path = || path.to_owned();
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != kind {
        let expected = if kind == rustix::fs::FileType::Directory {
            "directory"
        } else {
            "regular file"
        };
        return Err(Untrusted::Kind {
            path: path(),
            expected,
        });
    }
    if stat.st_uid != owner {
        return Err(Untrusted::Foreign {
            path: path(),
            owner: stat.st_uid,
        });
    }
    #[expect(
        clippy::useless_conversion,
        reason = "the width of a mode differs between systems"
    )]
    let mode = u32::from(stat.st_mode) & 0o7777;
    if mode & 0o022 != 0 {
        return Err(Untrusted::Open { path: path(), mode });
    }
    Ok(())
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A private directory with `etc/mcpshim/managed.toml` in it.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("etc/mcpshim");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("managed.toml"), "org = \"acme\"\n").unwrap();
        for path in ["etc", "etc/mcpshim"] {
            set_mode(&root.path().join(path), 0o755);
        }
        set_mode(&dir.join("managed.toml"), 0o644);
        root
    }

    fn check(root: &Path) -> String {
        match walk(root, Path::new("etc/mcpshim/managed.toml"), me()) {
            Ok(Some(text)) => text,
            Ok(None) => "absent".to_owned(),
            Err(error) => error
                .to_string()
                .replace(&root.display().to_string(), "")
                .replace(&me().to_string(), "ME"),
        }
    }

    #[test]
    fn a_file_only_its_owner_writes_is_read() {
        assert_eq!(check(tree().path()), "org = \"acme\"\n");
    }

    #[test]
    fn no_file_is_no_management() {
        let root = tree();
        std::fs::remove_file(root.path().join("etc/mcpshim/managed.toml")).unwrap();
        assert_eq!(check(root.path()), "absent");
        std::fs::remove_dir(root.path().join("etc/mcpshim")).unwrap();
        assert_eq!(check(root.path()), "absent");
    }

    #[test]
    fn a_file_others_could_have_written_is_refused() {
        let file = "etc/mcpshim/managed.toml";
        for (path, mode) in [
            (file, 0o664),
            (file, 0o646),
            ("etc/mcpshim", 0o775),
            ("etc", 0o757),
        ] {
            let root = tree();
            set_mode(&root.path().join(path), mode);
            let said = check(root.path());
            assert_eq!(
                said,
                format!("/{path} can be written by others than root (mode {mode:o})")
            );
        }
        let root = tree();
        let another = walk(root.path(), Path::new(file), me() + 1);
        assert!(matches!(another, Err(Untrusted::Foreign { .. })));
    }

    #[test]
    fn links_and_other_kinds_are_refused() {
        let file = "etc/mcpshim/managed.toml";
        let root = tree();
        std::fs::rename(root.path().join(file), root.path().join("real.toml")).unwrap();
        symlink(root.path().join("real.toml"), root.path().join(file)).unwrap();
        assert_eq!(
            check(root.path()),
            format!("/{file} is a symbolic link, or not a regular file")
        );

        let root = tree();
        std::fs::rename(
            root.path().join("etc/mcpshim"),
            root.path().join("etc/real"),
        )
        .unwrap();
        symlink("real", root.path().join("etc/mcpshim")).unwrap();
        assert_eq!(
            check(root.path()),
            "/etc/mcpshim is a symbolic link, or not a directory"
        );

        let root = tree();
        std::fs::remove_file(root.path().join(file)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join(file),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        assert_eq!(
            check(root.path()),
            format!("/{file} is a symbolic link, or not a regular file")
        );
    }
}
