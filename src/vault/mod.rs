//! Custody of secrets: today the installation key, and the way private files are made and read.
//!
//! The installation key signs batches: it says which copy of mcpshim sent them. It lies in a
//! file of its own, `keys/installation.key` in the state directory, readable by its user only.
//! It moves into a file sealed with a key from the operating system's keychain as soon as the
//! vault has one; until then
//!
//! - losing the file costs nothing but a new enrolment: the next start makes another key, and
//!   the collector sees a new installation;
//! - whoever can read it can send batches as this installation, which the collector sees as a
//!   fork as soon as both send; whoever can replace it is seen as an installation nobody knows.
#![warn(missing_docs)]

mod file;
mod item;
mod keychain;
mod open;
mod sealed;

pub use self::item::{Facts, Item, ItemId, MemoryVault, StoreKind, Vault};
pub use self::keychain::KeychainError;
pub use self::open::{exists, glance, named, open, path, probe, purge};
pub use self::sealed::SealedFault;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use crate::batch::InstallationKey;
use crate::clock::Entropy;
use crate::secret::Secret;
use crate::{files, limits};

/// First line of the key file: what it is, its format and the lowest reader.
const TITLE: &str = "mcpshim installation key, format 1, reader 1";
/// No private file of ours is longer, in bytes.
const FILE_BYTES: u64 = 64 << 10;

/// A secret, or a file of secrets, that cannot be made, had or trusted.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Another process does not let go of the vault.
    #[error("another mcpshim holds the vault for more than {} s", limits::VAULT_LOCK_MS / 1000)]
    Busy,
    /// The content is not what we write.
    #[error("{} is not an installation key file of format 1", .0.display())]
    Content(PathBuf),
    /// The file was there and is not any more.
    #[error("{} is gone", .0.display())]
    Gone(PathBuf),
    /// The keychain did not give or take the vault's key.
    #[error("the vault's key is not available")]
    Keychain(#[from] KeychainError),
    /// What lies where the vault's key should be is no key.
    #[error("{} holds no key of the vault", path.display())]
    Key {
        /// Where the key was looked for.
        store: StoreKind,
        /// Which file.
        path: PathBuf,
    },
    /// There is a vault, and its key is gone.
    #[error("the {} has no key for the vault {}", store.title(), path.display())]
    KeyMissing {
        /// Where its key should be.
        store: StoreKind,
        /// The sealed file.
        path: PathBuf,
    },
    /// The registry does not allow the store that the vault was made with.
    #[error("the key of {} is in a {}, which the registry does not allow", path.display(), store.title())]
    NotAllowed {
        /// Where its key is.
        store: StoreKind,
        /// The sealed file.
        path: PathBuf,
    },
    /// The keychain gave back something else than it was given.
    #[error("the keychain did not keep the vault's key")]
    NotKept,
    /// The sealed file cannot be used.
    #[error("{} cannot be opened", path.display())]
    Sealed {
        /// The sealed file.
        path: PathBuf,
        /// Why.
        #[source]
        fault: SealedFault,
    },
    /// An older copy of the sealed file was put in its place while it was in use.
    #[error("{} is older ({generation}) than it was a moment ago ({seen})", path.display())]
    WentBack {
        /// The sealed file.
        path: PathBuf,
        /// Its generation.
        generation: u64,
        /// The generation seen before.
        seen: u64,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `create`, …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read or write it, or it belongs to somebody else.
    #[error("{} has mode {mode:03o} and owner {owner}: expected 600 and the current user", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
}

impl VaultError {
    /// Whether there is no keychain, and no other place that the registry allows.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Keychain(error) if error.is_absence())
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let anew = |path: &Path| {
            format!(
                "if it cannot be brought back, move {} away and set your credentials and sign in again",
                path.display()
            )
        };
        match self {
            Self::Busy => "try again; if it stays so, end the other mcpshim that hangs".to_owned(),
            Self::Content(path) => format!(
                "move {} away: the next start makes another key, which has to be enrolled",
                path.display()
            ),
            Self::Gone(_) | Self::WentBack { .. } => {
                "restart mcpshim: whoever replaced the file should know why".to_owned()
            }
            Self::Io { path, .. } => {
                format!("check who owns {} and its file system", path.display())
            }
            Self::Key { path, .. } => format!("put the right content back into {}", path.display()),
            Self::KeyMissing { store, path } => match store {
                StoreKind::Keychain => format!(
                    "the keychain was reset or is another one than before; {}",
                    anew(path)
                ),
                StoreKind::KeyFile | StoreKind::SystemdCredential => anew(path),
            },
            Self::Keychain(error) => error.hint(),
            Self::NotAllowed { path, .. } => format!(
                "ask for `secret_stores` in the registry; or move {} away and set your credentials \
                 again with a keychain",
                path.display()
            ),
            Self::NotKept => "check the keychain with its own program".to_owned(),
            Self::Open { path, .. } => format!(
                "take it as known to others: renew what it holds; then `chmod 600 {}`",
                path.display()
            ),
            Self::Sealed { path, fault } => match fault {
                SealedFault::Newer(_) => "update mcpshim".to_owned(),
                SealedFault::Damaged(_)
                | SealedFault::Organisation(_)
                | SealedFault::OtherKey(_) => anew(path),
            },
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    move |source| VaultError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Reads the installation key of this state directory, or makes it.
///
/// Any number of processes may ask at once: all get the same key.
///
/// # Errors
/// [`VaultError`] when the file cannot be made, or is not private, or is not a key.
pub fn installation_key(
    state_dir: &Path,
    entropy: &mut dyn Entropy,
) -> Result<InstallationKey, VaultError> {
    let dir = state_dir.join("keys");
    let path = dir.join("installation.key");
    if let Some(found) = read_private(&path)? {
        return parse(&found, &path);
    }
    files::create_private_dir(&dir).map_err(failed("create", &dir))?;
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    entropy.fill(seed.as_mut());
    let text = Secret::new(format!("{TITLE}\n{}\n", BASE64.encode(seed.as_ref())).into_bytes());
    // whoever links first wins; the others read the winner's
    create_private(&path, text.expose(), entropy).map_err(failed("create", &path))?;
    let found = read_private(&path)?.ok_or_else(|| VaultError::Io {
        action: "read",
        path: path.clone(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    parse(&found, &path)
}

fn parse(text: &Secret, path: &Path) -> Result<InstallationKey, VaultError> {
    std::str::from_utf8(text.expose())
        .ok()
        .and_then(|text| text.strip_prefix(TITLE)?.strip_prefix('\n'))
        .and_then(|line| BASE64.decode(line.trim_end().as_bytes()).ok())
        .map(Secret::new)
        .and_then(|seed| InstallationKey::from_seed(seed.expose()))
        .ok_or_else(|| VaultError::Content(path.to_owned()))
}

/// Writes a new file that only its owner can read. Returns false, and changes nothing, when
/// there is one already.
///
/// The content is complete and on the disk before the name exists: it is written under another
/// name and linked. A crash between the two leaves that other name, which nobody reads.
///
/// # Errors
/// What the file system says.
pub fn create_private(path: &Path, content: &[u8], entropy: &mut dyn Entropy) -> io::Result<bool> {
    // the parent of a bare name is the empty path
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let mut tag = [0; 8];
    entropy.fill(&mut tag);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = dir.join(format!(".{name}.{}", data_encoding::HEXLOWER.encode(&tag)));
    let written =
        write_new(&draft, content).and_then(|()| match std::fs::hard_link(&draft, path) {
            Ok(()) => {
                sync_dir(dir)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        });
    let removed = std::fs::remove_file(&draft);
    let created = written?;
    removed?;
    Ok(created)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = files::private().create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// How a file that only its owner can read is opened.
/// Puts this content in the place of a private file's, whole or not at all.
///
/// It is written and synced under another name, which then takes the file's. A crash before
/// leaves that other name behind; it is removed here the next time, so callers hold a lock.
///
/// # Errors
/// What the file system says; the file then is as it was.
pub fn replace_private(path: &Path, content: &[u8], entropy: &mut dyn Entropy) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.");
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            std::fs::remove_file(entry.path())?;
        }
    }
    let mut tag = [0; 8];
    entropy.fill(&mut tag);
    let draft = dir.join(format!("{prefix}{}", data_encoding::HEXLOWER.encode(&tag)));
    write_new(&draft, content)?;
    // from here on readers see the new content; a power loss may still bring the old one back
    std::fs::rename(&draft, path)?;
    sync_dir(dir)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the file system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    // Windows has no such operation on directories: its journal orders names and content
    if cfg!(unix) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Reads a private file; nothing when there is none.
///
/// # Errors
/// [`VaultError::Open`] when others than the current user may read or write it: a secret that
/// was readable is not a secret any more, and using it would hide that.
pub fn read_private(path: &Path) -> Result<Option<Secret>, VaultError> {
    read_private_up_to(path, FILE_BYTES)
}

/// Reads the systemd credential of that name: the service manager may own it, and its mode then
/// shows an access list's mask.
fn read_credential(path: &Path) -> Result<Option<Secret>, VaultError> {
    #[cfg(unix)]
    if let Ok(meta) = std::fs::metadata(path) {
        use std::os::unix::fs::MetadataExt as _;
        if meta.uid() == 0 && meta.mode() & 0o007 == 0 {
            let content = std::fs::read(path).map_err(failed("read", path))?;
            return Ok(Some(Secret::new(content)));
        }
    }
    read_private(path)
}

/// [`read_private`] for files of another size.
fn read_private_up_to(path: &Path, limit: u64) -> Result<Option<Secret>, VaultError> {
    // a pipe in its place would hold up whoever follows the sign-in for ever
    let file = crate::config::open_regular(path).map_err(failed("read", path))?;
    let Some(file) = file else {
        return Ok(None);
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let meta = file.metadata().map_err(failed("read", path))?;
        let mode = meta.mode() & 0o777;
        if mode & 0o077 != 0 || meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(VaultError::Open {
                path: path.to_owned(),
                mode,
                owner: meta.uid(),
            });
        }
    }
    let mut content = zeroize::Zeroizing::new(Vec::with_capacity(4096));
    file.take(limit)
        .read_to_end(&mut content)
        .map_err(failed("read", path))?;
    Ok(Some(Secret::new(std::mem::take(&mut *content))))
}

#[cfg(test)]
mod tests;
#[cfg(all(test, unix))]
mod key_tests {
    use super::*;
    use crate::clock::{CountingEntropy, SystemEntropy};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn key_is_made_once_and_kept_private() {
        let state = tempfile::tempdir().unwrap();
        let first = installation_key(state.path(), &mut CountingEntropy(1)).unwrap();
        let again = installation_key(state.path(), &mut CountingEntropy(2)).unwrap();
        assert_eq!(first.public(), again.public());
        let path = state.path().join("keys/installation.key");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left: Vec<_> = std::fs::read_dir(state.path().join("keys"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["installation.key"], "no draft is left behind");
    }

    #[test]
    fn all_who_ask_at_once_get_the_same_key() {
        let state = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| installation_key(state.path(), &mut SystemEntropy)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap().unwrap().public())
                .collect()
        });
        assert!(keys.iter().all(|key| key == &keys[0]));
    }

    #[test]
    fn key_that_others_can_read_is_refused() {
        let state = tempfile::tempdir().unwrap();
        installation_key(state.path(), &mut CountingEntropy(1)).unwrap();
        let path = state.path().join("keys/installation.key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = installation_key(state.path(), &mut CountingEntropy(1)).unwrap_err();
        assert!(matches!(error, VaultError::Open { mode: 0o640, .. }));
    }

    #[test]
    fn damaged_key_is_an_error_and_not_a_new_key() {
        let state = tempfile::tempdir().unwrap();
        installation_key(state.path(), &mut CountingEntropy(1)).unwrap();
        let path = state.path().join("keys/installation.key");
        std::fs::write(&path, format!("{TITLE}\nAAAA\n")).unwrap();
        let error = installation_key(state.path(), &mut CountingEntropy(1)).unwrap_err();
        assert!(matches!(error, VaultError::Content(_)));
    }
}
