//! What the vault keeps, and the seam through which others use it.

use std::collections::BTreeMap;

use super::VaultError;
use crate::identity::Owner;
use crate::ids::CredentialId;
use crate::secret::Secret;

/// The name of one kept secret. In the order that files are sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemId {
    /// A credential that was set before credentials had an owner, and that is nobody's: no server
    /// is given it.
    Unowned(CredentialId),
    /// The installation key that signs batches.
    InstallationKey,
    /// The tokens of the sign-in at this issuer (`iss`): one JSON document of `login`'s own.
    Tokens(String),
    /// A credential of the registry's, e.g. a personal access token, and whose it is.
    Credential(Owner, CredentialId),
}

/// What is known of a kept secret beside its value. Never a secret itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Which value: 1 at first, one more with every change. Grows over removal too.
    pub serial: u64,
    /// When this value was put, in Unix seconds.
    pub put_s: u64,
    /// When it was last given to a server, in Unix seconds.
    pub used_s: Option<u64>,
}

/// A kept secret with what is known of it.
#[derive(Debug, Clone)]
pub struct Item {
    /// The secret.
    pub value: Secret,
    /// What is known of it.
    pub facts: Facts,
}

/// Where the vault's key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreKind {
    /// The operating system's keychain.
    Keychain,
    /// A file that only its user can read, where the registry allows it.
    KeyFile,
    /// A systemd credential, where the registry allows it.
    SystemdCredential,
}

impl StoreKind {
    /// Its name in records and in what people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keychain => "keychain",
            Self::KeyFile => "key-file",
            Self::SystemdCredential => "systemd-credential",
        }
    }

    /// Its name in sentences.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Keychain => "keychain",
            Self::KeyFile => "key file",
            Self::SystemdCredential => "systemd credential",
        }
    }
}

/// Custody of secrets. Every call reads or writes the shared file anew, under its lock, so that
/// any number of processes see each other's changes; none of them waits longer than
/// [`crate::limits::VAULT_LOCK_MS`].
pub trait Vault: Send {
    /// One item; nothing when there is none.
    ///
    /// # Errors
    /// When the vault cannot be opened or read.
    fn get(&mut self, id: &ItemId) -> Result<Option<Item>, VaultError>;

    /// Replaces an item if its serial still is `expected` (0: there is none), and returns the
    /// new serial. `None`, and nothing changed, when somebody else was faster.
    ///
    /// # Errors
    /// When the vault cannot be opened or written.
    fn put(
        &mut self,
        id: &ItemId,
        expected: u64,
        value: &Secret,
        now_s: u64,
    ) -> Result<Option<u64>, VaultError>;

    /// Removes an item if its serial still is `expected`; false when somebody else was faster.
    ///
    /// # Errors
    /// When the vault cannot be opened or written.
    fn remove(&mut self, id: &ItemId, expected: u64) -> Result<bool, VaultError>;

    /// Notes that an item was given to a server.
    ///
    /// # Errors
    /// When the vault cannot be opened or written.
    fn used(&mut self, id: &ItemId, now_s: u64) -> Result<(), VaultError>;

    /// Every item, without its value.
    ///
    /// # Errors
    /// When the vault cannot be opened or read.
    fn list(&mut self) -> Result<BTreeMap<ItemId, Facts>, VaultError>;

    /// Where its key is.
    fn store(&self) -> StoreKind;
}

/// The in-memory twin, for tests.
#[derive(Debug, Default)]
pub struct MemoryVault {
    items: BTreeMap<ItemId, Item>,
    /// Serials of what was removed.
    last: BTreeMap<ItemId, u64>,
}

impl Vault for MemoryVault {
    fn get(&mut self, id: &ItemId) -> Result<Option<Item>, VaultError> {
        Ok(self.items.get(id).cloned())
    }

    fn put(
        &mut self,
        id: &ItemId,
        expected: u64,
        value: &Secret,
        now_s: u64,
    ) -> Result<Option<u64>, VaultError> {
        let current = self.items.get(id).map_or(0, |item| item.facts.serial);
        if current != expected {
            return Ok(None);
        }
        let serial = self.last.get(id).copied().unwrap_or_default() + 1;
        let facts = Facts {
            serial,
            put_s: now_s,
            used_s: None,
        };
        let value = value.clone();
        self.last.insert(id.clone(), serial);
        self.items.insert(id.clone(), Item { value, facts });
        Ok(Some(serial))
    }

    fn remove(&mut self, id: &ItemId, expected: u64) -> Result<bool, VaultError> {
        let same = self.items.get(id).map_or(0, |item| item.facts.serial) == expected;
        if same {
            self.items.remove(id);
        }
        Ok(same)
    }

    fn used(&mut self, id: &ItemId, now_s: u64) -> Result<(), VaultError> {
        if let Some(item) = self.items.get_mut(id) {
            item.facts.used_s = Some(now_s);
        }
        Ok(())
    }

    fn list(&mut self) -> Result<BTreeMap<ItemId, Facts>, VaultError> {
        let items = self.items.iter();
        Ok(items.map(|(id, item)| (id.clone(), item.facts)).collect())
    }

    fn store(&self) -> StoreKind {
        StoreKind::Keychain
    }
}
