//! A client's settings file: read whole, replaced whole.
//!
//! No copy is kept beside it, since other entries may hold secrets. A crash before the rename
//! leaves the old file and a draft whose name begins with `.mcpshim-`; after it, the new file.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use mcpshim::clock::{Entropy as _, SystemEntropy};

use super::entry::Trouble;

/// Clients keep histories in the same file; what is larger than this is something else.
const FILE_BYTES: u64 = 256 << 20;

/// A file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it really is: links are followed, and stay.
    path: PathBuf,
    /// Its content, if it is there.
    bytes: Option<Vec<u8>>,
}

/// Why a file is left as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Somebody else wrote it meanwhile.
    #[error("it was written by another program at the same moment")]
    Changed,
    /// The file system refuses.
    #[error("cannot {action}: {source}")]
    Io {
        action: &'static str,
        source: io::Error,
    },
    /// More than a file of settings has.
    #[error("it is larger than 256 MiB")]
    Large,
    /// A link that leads nowhere.
    #[error("it is a link to {}, which does not exist", .0.display())]
    Nowhere(PathBuf),
    /// Something else than a file.
    #[error("it is not a file")]
    NotAFile,
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { action, source }
}

impl Found {
    /// Looks at a file; links are followed.
    pub(crate) fn read(path: &Path) -> Result<Self, FileError> {
        let real = match fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match fs::read_link(path) {
                    Ok(target) => Err(FileError::Nowhere(target)),
                    Err(_) => Ok(Self {
                        path: path.to_owned(),
                        bytes: None,
                    }),
                };
            }
            Err(error) => return Err(failed("read it")(error)),
        };
        let bytes = Some(content(&real)?);
        Ok(Self { path: real, bytes })
    }

    /// Its text, if it is there.
    pub(crate) fn text(&self) -> Result<Option<&str>, Trouble> {
        let Some(bytes) = &self.bytes else {
            return Ok(None);
        };
        std::str::from_utf8(bytes).map(Some).map_err(|error| {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let good = String::from_utf8_lossy(good);
            Trouble::at(&good, good.len(), "a byte that is not UTF-8")
        })
    }

    /// Replaces the content, unless somebody else has written the file since it was read.
    pub(crate) fn replace(&self, text: &str) -> Result<(), FileError> {
        let dir = self.dir();
        let mut tag = [0; 8];
        SystemEntropy.fill(&mut tag);
        let draft = dir.join(format!(".mcpshim-{}", HEXLOWER.encode(&tag)));
        let written = self.write(&draft, text).and_then(|()| {
            self.unchanged()?;
            fs::rename(&draft, &self.path).map_err(failed("replace it"))
        });
        if written.is_err() {
            // the draft is ours alone; that it cannot be removed changes nothing of the answer
            drop(fs::remove_file(&draft));
        }
        written?;
        mcpshim::vault::sync_dir(dir).map_err(failed("make it durable"))
    }

    /// Removes the file, unless somebody else has written it since it was read.
    pub(crate) fn remove(&self) -> Result<(), FileError> {
        self.unchanged()?;
        fs::remove_file(&self.path).map_err(failed("remove it"))
    }

    fn dir(&self) -> &Path {
        let parent = self.path.parent();
        parent
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."))
    }

    fn unchanged(&self) -> Result<(), FileError> {
        let now = match content(&self.path) {
            Ok(bytes) => Some(bytes),
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if now == self.bytes {
            Ok(())
        } else {
            Err(FileError::Changed)
        }
    }

    fn write(&self, draft: &Path, text: &str) -> Result<(), FileError> {
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(draft).map_err(failed("write beside it"))?;
        file.write_all(text.as_bytes())
            .map_err(failed("write beside it"))?;
        if self.bytes.is_some() {
            like(&self.path, &file).map_err(failed("keep its owner and mode"))?;
        }
        file.sync_all().map_err(failed("write beside it"))
    }
}

/// Gives a file the owner and the mode of another.
fn like(other: &Path, file: &File) -> io::Result<()> {
    let meta = fs::metadata(other)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (meta.uid(), meta.gid()) {
            std::os::unix::fs::fchown(file, Some(meta.uid()), Some(meta.gid()))?;
        }
    }
    file.set_permissions(meta.permissions())
}

fn content(path: &Path) -> Result<Vec<u8>, FileError> {
    // asked by name first: opening a pipe would wait for somebody who writes
    let meta = fs::metadata(path).map_err(failed("read it"))?;
    if !meta.is_file() {
        return Err(FileError::NotAFile);
    }
    let file = File::open(path).map_err(failed("read it"))?;
    let meta = file.metadata().map_err(failed("read it"))?;
    if !meta.is_file() {
        return Err(FileError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read it"))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= FILE_BYTES) {
        Ok(bytes)
    } else {
        Err(FileError::Large)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    #[test]
    fn mode_and_link_stay_and_no_draft_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("dotfiles.json");
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join("settings.json");
        symlink("dotfiles.json", &link).unwrap();
        let found = Found::read(&link).unwrap();
        assert_eq!(found.text().unwrap(), Some("old"));
        found.replace("new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_somebody_else_wrote_meanwhile_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.json");
        let none = Found::read(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(matches!(none.replace("ours"), Err(FileError::Changed)));
        let found = Found::read(&path).unwrap();
        fs::write(&path, "theirs again").unwrap();
        assert!(matches!(found.replace("ours"), Err(FileError::Changed)));
        assert!(matches!(found.remove(), Err(FileError::Changed)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs again");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_text_is_told_by_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.json");
        fs::write(&path, b"{\n  \"\xff\"}").unwrap();
        let found = Found::read(&path).unwrap();
        let error = found.text().unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2, column 4: a byte that is not UTF-8"
        );
        fs::remove_file(&path).unwrap();
        symlink("nowhere", &path).unwrap();
        assert!(matches!(Found::read(&path), Err(FileError::Nowhere(_))));
        assert!(matches!(Found::read(dir.path()), Err(FileError::NotAFile)));
    }
}
