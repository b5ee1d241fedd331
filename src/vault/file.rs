//! The sealed file in its directory: who may write it, when, and how a change becomes durable.
//!
//! A change is read, made and written under `vault.lock`, which nobody holds longer than it
//! takes. It becomes visible with one rename: a crash before leaves the old content and a draft
//! that the next writer removes, a crash after leaves the new content.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sealed::{MasterKey, Sealed, SealedFault};
use super::{
    Facts, Item, ItemId, StoreKind, Vault, VaultError, failed, read_private_up_to, replace_private,
};
use crate::clock::{SystemClock, SystemEntropy};
use crate::config::Config;
use crate::identity::Owner;
use crate::ids::{AgentName, OrgId};
use crate::secret::Secret;
use crate::{files, limits};

/// Between two looks at a lock that somebody else holds.
const LOOK: Duration = Duration::from_millis(5);

/// Where the vault is, and whose.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
    pub(super) org: OrgId,
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "closing it ends the lock")] File);

impl Place {
    pub(super) fn of(config: &Config) -> Self {
        Self::at(&config.state_dir, &config.org)
    }

    pub(super) fn at(state_dir: &Path, org: &OrgId) -> Self {
        Self {
            dir: state_dir.join("vault"),
            org: org.clone(),
        }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.dir.join("vault.sealed")
    }

    pub(super) fn key_file(&self) -> PathBuf {
        self.dir.join("vault.key")
    }

    /// The sealed file as it is now.
    pub(super) fn read(&self) -> Result<Option<Secret>, VaultError> {
        read_private_up_to(&self.file(), limits::VAULT_BYTES + 1)
    }

    /// Where its key is, as its header says; `None` where there is no file.
    pub(super) fn store(&self) -> Result<Option<StoreKind>, VaultError> {
        let bytes = self.read()?;
        let store = bytes.map(|bytes| Sealed::store_of(bytes.expose()));
        store.transpose().map_err(self.unreadable())
    }

    pub(super) fn unreadable(&self) -> impl Fn(SealedFault) -> VaultError {
        let path = self.file();
        move |fault| VaultError::Sealed {
            path: path.clone(),
            fault,
        }
    }

    /// Makes this process the one that writes.
    pub(super) fn lock(&self) -> Result<Held, VaultError> {
        files::create_private_dir(&self.dir).map_err(failed("create", &self.dir))?;
        let path = self.dir.join("vault.lock");
        let clock = SystemClock::new();
        loop {
            if let Some(lock) = files::try_lock(&path).map_err(failed("lock", &path))? {
                return Ok(Held(lock));
            }
            if clock.mono_us() >= limits::VAULT_LOCK_MS * 1000 {
                return Err(VaultError::Busy);
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

/// The vault of one user and organisation on one machine.
pub(super) struct FileVault {
    place: Place,
    store: StoreKind,
    key: MasterKey,
    /// The highest generation seen: a file may not go back while we look.
    seen: u64,
}

impl FileVault {
    pub(super) fn new(place: Place, store: StoreKind, key: MasterKey) -> Self {
        Self {
            place,
            store,
            key,
            seen: 0,
        }
    }

    /// Whether this file is sealed with our key, and whole.
    pub(super) fn verify(&self, bytes: &Secret) -> Result<(), VaultError> {
        self.parse(bytes).map(drop)
    }

    /// Writes the first content.
    pub(super) fn create(&self, mut first: Sealed, held: &Held) -> Result<(), VaultError> {
        first.generation = 1;
        self.write(&first, held)
    }

    /// Gives credentials that were set before they had an owner to whoever uses this vault: the
    /// person whose sign-in it holds, else the agent this machine runs as. Those of nobody stay as
    /// they are.
    pub(super) fn adopt(&mut self, agent: Option<&AgentName>) -> Result<(), VaultError> {
        if !self.read()?.has_unowned() {
            return Ok(());
        }
        self.change(|sealed| {
            let owner = match holder(sealed)? {
                Holder::Nobody => agent.map(Owner::agent),
                Holder::One(owner) => Some(owner),
                Holder::Unclear => None,
            };
            let Some(owner) = owner.filter(|_| sealed.has_unowned()) else {
                return Ok(None);
            };
            sealed.adopt(owner, &mut SystemEntropy).map(Some)
        })
        .map(drop)
    }

    fn parse(&self, bytes: &Secret) -> Result<Sealed, VaultError> {
        let sealed = Sealed::parse(bytes.expose(), &self.place.org, &self.key)
            .map_err(self.place.unreadable())?;
        if sealed.store != self.store {
            return Err(self.place.unreadable()(SealedFault::OtherKey(sealed.store)));
        }
        Ok(sealed)
    }

    fn read(&mut self) -> Result<Sealed, VaultError> {
        let path = self.place.file();
        let bytes = self.place.read()?.ok_or(VaultError::Gone(path))?;
        let sealed = self.parse(&bytes)?;
        if sealed.generation < self.seen {
            return Err(VaultError::WentBack {
                path: self.place.file(),
                generation: sealed.generation,
                seen: self.seen,
            });
        }
        self.seen = sealed.generation;
        Ok(sealed)
    }

    fn write(&self, sealed: &Sealed, _held: &Held) -> Result<(), VaultError> {
        let path = self.place.file();
        let bytes = sealed.encode().map_err(self.place.unreadable())?;
        replace_private(&path, &bytes, &mut SystemEntropy).map_err(failed("write", &path))
    }

    /// Reads, changes and writes under the lock. Nothing is written unless `change` says so.
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Sealed) -> Result<Option<T>, SealedFault>,
    ) -> Result<Option<T>, VaultError> {
        let held = self.place.lock()?;
        let mut sealed = self.read()?;
        let changed = change(&mut sealed).map_err(self.place.unreadable())?;
        if changed.is_some() {
            sealed.generation += 1;
            self.write(&sealed, &held)?;
            self.seen = sealed.generation;
        }
        Ok(changed)
    }
}

/// Whose sign-in a vault holds.
enum Holder {
    Nobody,
    One(Owner),
    /// Several, or one that cannot be read.
    Unclear,
}

fn holder(sealed: &Sealed) -> Result<Holder, SealedFault> {
    /// What `login` keeps, as far as it says who signed in.
    #[derive(serde::Deserialize)]
    struct SignIn {
        issuer: String,
        subject: String,
    }
    let mut holder = Holder::Nobody;
    for id in sealed.list().into_keys() {
        if !matches!(id, ItemId::Tokens(_)) {
            continue;
        }
        let value = sealed.get(&id)?;
        let read = value.and_then(|(value, _)| serde_json::from_slice(value.expose()).ok());
        holder = match (holder, read) {
            (Holder::Nobody, Some(SignIn { issuer, subject })) => {
                Holder::One(Owner::person(&issuer, &subject))
            }
            (_, _) => Holder::Unclear,
        };
    }
    Ok(holder)
}

impl Vault for FileVault {
    fn get(&mut self, id: &ItemId) -> Result<Option<Item>, VaultError> {
        let found = self.read()?.get(id).map_err(self.place.unreadable())?;
        Ok(found.map(|(value, facts)| Item { value, facts }))
    }

    fn put(
        &mut self,
        id: &ItemId,
        expected: u64,
        value: &Secret,
        now_s: u64,
    ) -> Result<Option<u64>, VaultError> {
        self.change(|sealed| match sealed.serial(id) == expected {
            true => sealed.put(id, value, now_s, &mut SystemEntropy).map(Some),
            false => Ok(None),
        })
    }

    fn remove(&mut self, id: &ItemId, expected: u64) -> Result<bool, VaultError> {
        let mut same = false;
        self.change(|sealed| {
            let serial = sealed.serial(id);
            same = serial == expected;
            // there may be nothing to remove
            let change = same && serial != 0;
            if change {
                sealed.remove(id);
            }
            Ok(change.then_some(()))
        })?;
        Ok(same)
    }

    fn used(&mut self, id: &ItemId, now_s: u64) -> Result<(), VaultError> {
        let due = |facts: Facts| {
            facts
                .used_s
                .is_none_or(|used| now_s.saturating_sub(used) >= limits::USED_NOTE_S)
        };
        if !self.read()?.facts(id).is_some_and(due) {
            return Ok(());
        }
        self.change(|sealed| {
            let is_due = sealed.facts(id).is_some_and(due);
            if is_due {
                sealed.used(id, now_s);
            }
            Ok(is_due.then_some(()))
        })?;
        Ok(())
    }

    fn list(&mut self) -> Result<BTreeMap<ItemId, Facts>, VaultError> {
        Ok(self.read()?.list())
    }

    fn store(&self) -> StoreKind {
        self.store
    }
}
