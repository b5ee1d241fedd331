//! From the settings to an open vault: which key, from where, and when there is none yet.
//!
//! ```text
//!   vault.sealed is there?
//!     yes ─▶ its header names the store of its key; only that one is asked
//!     no  ─▶ lock, look again, then the keychain: its key, or a new one
//!                └ no keychain at all: systemd credential, key file; each only where the
//!                  registry allows it
//! ```
//!
//! **Nothing falls back by itself.** A keychain that is locked, silent or refuses is an error, and
//! so is one that has lost our key: a new vault in its place would lose what the old one holds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::file::{FileVault, Place};
use super::keychain::{Keychain, KeychainError};
use super::sealed::{MasterKey, Sealed};
use super::{ItemId, StoreKind, Vault, VaultError, create_private, failed, read_private};
use crate::clock::{Entropy, SystemEntropy};
use crate::config::{self, Config};
use crate::registry::doc::SecretStoresDoc;
use crate::secret::Secret;

/// First line of a key file: what it is, its format and the lowest reader.
const TITLE: &str = "mcpshim vault key, format 1, reader 1";
/// The name of the systemd credential.
const CREDENTIAL: &str = "mcpshim-vault-key";

/// Opens the vault of this user on this machine, and makes it if there is none.
///
/// `allowed` is what the registry says about stores beside the keychain; `patience` is how long
/// the keychain may take. Blocks for up to that long and [`crate::limits::VAULT_LOCK_MS`].
///
/// # Errors
/// [`VaultError`], with what a person can do about it in its `hint`.
pub fn open(
    config: &Config,
    allowed: &SecretStoresDoc,
    patience: Duration,
) -> Result<Box<dyn Vault>, VaultError> {
    let opener = Opener {
        place: Place::of(config),
        keychain: Keychain::of(config, patience),
        allowed: *allowed,
        credentials: config::credentials_directory(config.managed),
    };
    let mut vault = opener.open(&mut SystemEntropy)?;
    // before anybody signs in anew: who is signed in now is who used them until now
    vault.adopt(config.agent.as_ref().map(|(name, _)| name))?;
    Ok(Box::new(vault))
}

/// Says where the key of this user's vault is, or where [`open`] would look for one; makes
/// nothing. Blocks as [`open`] does.
///
/// # Errors
/// Why [`open`] would fail.
pub fn probe(
    config: &Config,
    allowed: &SecretStoresDoc,
    patience: Duration,
) -> Result<StoreKind, VaultError> {
    let opener = Opener {
        place: Place::of(config),
        keychain: Keychain::of(config, patience),
        allowed: *allowed,
        credentials: config::credentials_directory(config.managed),
    };
    if let Some(vault) = opener.existing()? {
        return Ok(vault.store());
    }
    match opener.keychain.get() {
        Ok(_) => Ok(StoreKind::Keychain),
        Err(error) if error.is_absence() => {
            if allowed.systemd_credential && opener.systemd_credential()?.is_some() {
                Ok(StoreKind::SystemdCredential)
            } else if allowed.key_file {
                Ok(StoreKind::KeyFile)
            } else {
                Err(error.into())
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether this user has a vault on this machine. Asks nobody and makes nothing.
#[must_use]
pub fn exists(config: &Config) -> bool {
    Place::of(config).file().exists()
}

/// Where the key of this user's vault is, as the vault's file says; `None` where there is no
/// vault. Asks nobody and makes nothing; whether the key is there is not looked at.
///
/// # Errors
/// When the file cannot be read, or is none of ours.
pub fn named(config: &Config) -> Result<Option<StoreKind>, VaultError> {
    Place::of(config).store()
}

/// Takes the vault's key out of the keychain, where the vault's file says that it is there. The
/// files are the caller's to remove. Blocks for up to `patience`.
///
/// # Errors
/// When the file cannot be read, or the keychain does not let go of the key.
pub fn purge(config: &Config, patience: Duration) -> Result<(), VaultError> {
    if named(config)? == Some(StoreKind::Keychain) {
        Keychain::of(config, patience).forget()?;
    }
    Ok(())
}

/// What this user's vault says it keeps, by name, without asking for its key: nothing of it is
/// proved, so nothing may rest on it but what people are told. `None` where there is no vault.
///
/// # Errors
/// When the file cannot be read, or is none of ours.
pub fn glance(config: &Config) -> Result<Option<BTreeSet<ItemId>>, VaultError> {
    let place = Place::of(config);
    let bytes = place.read()?;
    let names = bytes.map(|bytes| Sealed::names(bytes.expose()));
    names.transpose().map_err(place.unreadable())
}

/// The sealed file: others watch it to see changes of other processes.
#[must_use]
pub fn path(config: &Config) -> PathBuf {
    Place::of(config).file()
}

struct Opener {
    place: Place,
    keychain: Keychain,
    allowed: SecretStoresDoc,
    credentials: Option<PathBuf>,
}

impl Opener {
    fn open(&self, entropy: &mut dyn Entropy) -> Result<FileVault, VaultError> {
        if let Some(vault) = self.existing()? {
            return Ok(vault);
        }
        let lock = self.place.lock()?;
        // somebody else may have made it while we waited
        if let Some(vault) = self.existing()? {
            return Ok(vault);
        }
        let (store, key) = self.new_key(entropy)?;
        let place = &self.place;
        let sealed = Sealed::new(&place.org, store, &key, entropy).map_err(place.unreadable())?;
        let vault = FileVault::new(place.clone(), store, key);
        vault.create(sealed, &lock)?;
        Ok(vault)
    }

    /// The vault that is there, with the key its header names.
    fn existing(&self) -> Result<Option<FileVault>, VaultError> {
        let Some(bytes) = self.place.read()? else {
            return Ok(None);
        };
        let store = Sealed::store_of(bytes.expose()).map_err(self.place.unreadable())?;
        let missing = || VaultError::KeyMissing {
            store,
            path: self.place.file(),
        };
        let key = match store {
            StoreKind::Keychain => match self.keychain.get() {
                // there was one, and with it the key is gone
                Err(KeychainError::NeverMade) => None,
                key => key?,
            },
            StoreKind::KeyFile => {
                self.allow(store, self.allowed.key_file)?;
                self.key_file()?
            }
            StoreKind::SystemdCredential => {
                self.allow(store, self.allowed.systemd_credential)?;
                self.systemd_credential()?
            }
        };
        let vault = FileVault::new(self.place.clone(), store, key.ok_or_else(missing)?);
        // proves that key and file belong together before anybody relies on it
        vault.verify(&bytes)?;
        Ok(Some(vault))
    }

    fn allow(&self, store: StoreKind, allowed: bool) -> Result<(), VaultError> {
        if allowed {
            return Ok(());
        }
        Err(VaultError::NotAllowed {
            store,
            path: self.place.file(),
        })
    }

    /// The key of a vault that is about to be made. The lock is held.
    fn new_key(&self, entropy: &mut dyn Entropy) -> Result<(StoreKind, MasterKey), VaultError> {
        let absence = match self.keychain_key(entropy) {
            Ok(key) => return Ok((StoreKind::Keychain, key)),
            Err(VaultError::Keychain(error)) if error.is_absence() => error,
            Err(error) => return Err(error),
        };
        if self.allowed.systemd_credential
            && let Some(key) = self.systemd_credential()?
        {
            return Ok((StoreKind::SystemdCredential, key));
        }
        if !self.allowed.key_file {
            return Err(VaultError::Keychain(absence));
        }
        if self.key_file()?.is_none() {
            let key = MasterKey::generate(entropy);
            let encoded = Zeroizing::new(BASE64.encode(key.expose()));
            let text = Secret::new(format!("{TITLE}\n{}\n", *encoded).into_bytes());
            let path = self.place.key_file();
            create_private(&path, text.expose(), entropy).map_err(failed("create", &path))?;
        }
        let key = self.key_file()?.ok_or_else(|| VaultError::KeyMissing {
            store: StoreKind::KeyFile,
            path: self.place.file(),
        })?;
        Ok((StoreKind::KeyFile, key))
    }

    /// The keychain's key, or a new one that is then the keychain's.
    fn keychain_key(&self, entropy: &mut dyn Entropy) -> Result<MasterKey, VaultError> {
        if let Some(key) = self.keychain.get()? {
            return Ok(key);
        }
        let key = MasterKey::generate(entropy);
        self.keychain.set(&key)?;
        // what counts is what it gives back, not what it was told
        match self.keychain.get()? {
            Some(kept) if kept == key => Ok(kept),
            Some(_) | None => Err(VaultError::NotKept),
        }
    }

    fn key_file(&self) -> Result<Option<MasterKey>, VaultError> {
        let path = self.place.key_file();
        let Some(text) = read_private(&path)? else {
            return Ok(None);
        };
        std::str::from_utf8(text.expose())
            .ok()
            .and_then(|text| text.strip_prefix(TITLE)?.strip_prefix('\n'))
            .and_then(decoded)
            .map(Some)
            .ok_or(VaultError::Key {
                store: StoreKind::KeyFile,
                path,
            })
    }

    /// 32 bytes as they are, or in base64.
    fn systemd_credential(&self) -> Result<Option<MasterKey>, VaultError> {
        let Some(path) = self.credentials.as_ref().map(|dir| dir.join(CREDENTIAL)) else {
            return Ok(None);
        };
        let Some(content) = super::read_credential(&path)? else {
            return Ok(None);
        };
        let bytes = content.expose();
        MasterKey::from_bytes(bytes)
            .or_else(|| decoded(std::str::from_utf8(bytes).ok()?))
            .map(Some)
            .ok_or(VaultError::Key {
                store: StoreKind::SystemdCredential,
                path,
            })
    }
}

fn decoded(text: &str) -> Option<MasterKey> {
    let bytes = Zeroizing::new(BASE64.decode(text.trim_end().as_bytes()).ok()?);
    MasterKey::from_bytes(&bytes)
}
