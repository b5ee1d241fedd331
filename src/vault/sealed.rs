//! The sealed file: its bytes, and nothing else. `docs/formats/vault.md` describes it.
//!
//! ```text
//!   "MSHVAULT" format min_reader store org salt key-id generation count      header
//!   kind name serial put used state [nonce ciphertext]                       per item, sorted
//!   HMAC-SHA-256 over everything before it                                   end
//! ```
//!
//! Two layers, because they answer different questions. Each value is sealed on its own
//! (AES-256-GCM) and bound to the organisation, its kind, its name and its serial: reading one
//! opens one, and no value can stand for another. The code at the end covers the whole file:
//! nothing can be taken out, put back from an older file, or re-labelled.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::{Facts, ItemId, StoreKind};
use crate::clock::Entropy;
use crate::identity::Owner;
use crate::ids::{CredentialId, Digest, OrgId};
use crate::limits;
use crate::secret::Secret;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"MSHVAULT";
/// The newest format that is read. A file without owned credentials is written in format 1, which
/// older programs read, too.
const FORMAT: u16 = 2;
/// Between owner and id in the name of an owned credential; the owner is 64 hexadecimal digits.
const OWNER_DIGITS: usize = 64;
const SALT_BYTES: usize = 16;
const KEY_ID_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const MAC_BYTES: usize = 32;

/// Why bytes are not a vault that this program and this key can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealedFault {
    /// The content is not what we write, or was changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// A later version of mcpshim wrote it.
    #[error("it needs a newer mcpshim (reader {0})")]
    Newer(u16),
    /// It belongs to another organisation.
    #[error("it belongs to the organisation {0}")]
    Organisation(String),
    /// Another key sealed it.
    #[error("it was sealed with another key than the one in the {}", .0.title())]
    OtherKey(StoreKind),
}

/// The 32 bytes that everything rests on. Kept in the keychain, never in the file.
#[derive(Clone)]
pub(super) struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    pub(super) fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut());
        Self(bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn is(&self, other: &Self) -> bool {
        // both are ours: nobody learns anything from how long this takes
        self.0 == other.0
    }
}

impl PartialEq for MasterKey {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("«redacted 32 bytes»")
    }
}

/// What is derived from the master key for one file (HKDF-SHA-256, RFC 5869).
pub(super) struct Keys {
    seal: LessSafeKey,
    mac: hmac::Key,
    id: [u8; KEY_ID_BYTES],
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Keys {
    /// None only if ring refuses lengths that are constants here.
    fn derive(master: &MasterKey, salt: &[u8; SALT_BYTES]) -> Option<Self> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(master.expose());
        let seal = prk.expand(&[b"mcpshim vault 1 seal"], &AES_256_GCM).ok()?;
        let mac = prk
            .expand(&[b"mcpshim vault 1 mac"], hmac::HMAC_SHA256)
            .ok()?;
        let mut id = [0; KEY_ID_BYTES];
        prk.expand(&[b"mcpshim vault 1 key id"], Length(KEY_ID_BYTES))
            .ok()?
            .fill(&mut id)
            .ok()?;
        Some(Self {
            seal: LessSafeKey::new(UnboundKey::from(seal)),
            mac: hmac::Key::from(mac),
            id,
        })
    }
}

/// One item, its value still sealed; `sealed` is none for the memory of a removed one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    serial: u64,
    put_s: u64,
    used_s: Option<u64>,
    sealed: Option<Vec<u8>>,
}

/// The content of the file.
pub(super) struct Sealed {
    pub(super) store: StoreKind,
    org: OrgId,
    salt: [u8; SALT_BYTES],
    /// Grows with every write.
    pub(super) generation: u64,
    entries: BTreeMap<ItemId, Entry>,
    keys: Keys,
}

impl Sealed {
    /// An empty vault of this organisation.
    pub(super) fn new(
        org: &OrgId,
        store: StoreKind,
        master: &MasterKey,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealedFault> {
        let mut salt = [0; SALT_BYTES];
        entropy.fill(&mut salt);
        Ok(Self {
            store,
            org: org.clone(),
            salt,
            generation: 0,
            entries: BTreeMap::new(),
            keys: Keys::derive(master, &salt).ok_or(SealedFault::Damaged("no keys"))?,
        })
    }

    /// Where the key of this file is, as its header says. Not verified: nothing but the search
    /// for the key may rest on it.
    pub(super) fn store_of(bytes: &[u8]) -> Result<StoreKind, SealedFault> {
        Header::read(&mut Reader(bytes)).map(|header| header.store)
    }

    /// The names of what a file says it keeps. Not verified: for telling people only.
    pub(super) fn names(bytes: &[u8]) -> Result<BTreeSet<ItemId>, SealedFault> {
        let mut reader = Reader(bytes);
        let header = Header::read(&mut reader)?;
        let mut names = BTreeSet::new();
        for _ in 0..header.count {
            let (id, entry) = Entry::read(&mut reader)?;
            if entry.sealed.is_some() {
                names.insert(id);
            }
        }
        Ok(names)
    }

    /// Reads a whole file and verifies it.
    pub(super) fn parse(
        bytes: &[u8],
        org: &OrgId,
        master: &MasterKey,
    ) -> Result<Self, SealedFault> {
        let mut reader = Reader(bytes);
        let header = Header::read(&mut reader)?;
        if header.org != *org {
            return Err(SealedFault::Organisation(header.org.to_string()));
        }
        let keys = Keys::derive(master, &header.salt).ok_or(SealedFault::Damaged("no keys"))?;
        if keys.id != header.key_id {
            return Err(SealedFault::OtherKey(header.store));
        }
        let (covered, mac) = bytes
            .split_at_checked(bytes.len().saturating_sub(MAC_BYTES))
            .ok_or(SealedFault::Damaged("it is cut off"))?;
        hmac::verify(&keys.mac, covered, mac)
            .map_err(|ring::error::Unspecified| SealedFault::Damaged("its code does not fit"))?;
        let mut entries = BTreeMap::new();
        for _ in 0..header.count {
            let (id, entry) = Entry::read(&mut reader)?;
            // sorted and without repetition: one content has one spelling
            if entries
                .last_key_value()
                .is_some_and(|(last, _)| *last >= id)
            {
                return Err(SealedFault::Damaged("its items are not in order"));
            }
            entries.insert(id, entry);
        }
        if reader.0.len() != MAC_BYTES {
            return Err(SealedFault::Damaged("something follows its items"));
        }
        Ok(Self {
            store: header.store,
            org: header.org,
            salt: header.salt,
            generation: header.generation,
            entries,
            keys,
        })
    }

    /// The bytes of the file. Fails when they would be more than a reader accepts.
    pub(super) fn encode(&self) -> Result<Vec<u8>, SealedFault> {
        let owned = |id: &ItemId| matches!(id, ItemId::Credential(..));
        // an older program would take an owned credential for damage, or for anybody's
        let format: u16 = if self.entries.keys().any(owned) { 2 } else { 1 };
        let mut out = MAGIC.to_vec();
        out.extend(format.to_le_bytes());
        out.extend(format.to_le_bytes());
        out.push(store_code(self.store));
        short(&mut out, self.org.as_str())?;
        out.extend(self.salt);
        out.extend(self.keys.id);
        out.extend(self.generation.to_le_bytes());
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        out.extend(count.to_le_bytes());
        for (id, entry) in &self.entries {
            entry.write(id, &mut out)?;
        }
        let code = hmac::sign(&self.keys.mac, &out);
        out.extend(code.as_ref());
        if out.len() as u64 > limits::VAULT_BYTES || self.entries.len() > limits::VAULT_ITEMS {
            return Err(SealedFault::Damaged("there is no room for more"));
        }
        Ok(out)
    }

    /// The serial of what is kept, 0 when nothing is.
    pub(super) fn serial(&self, id: &ItemId) -> u64 {
        let entry = self.entries.get(id).filter(|entry| entry.sealed.is_some());
        entry.map_or(0, |entry| entry.serial)
    }

    /// Opens one value.
    pub(super) fn get(&self, id: &ItemId) -> Result<Option<(Secret, Facts)>, SealedFault> {
        let Some(entry) = self.entries.get(id) else {
            return Ok(None);
        };
        let Some(sealed) = &entry.sealed else {
            return Ok(None);
        };
        let (nonce, ciphertext) = sealed
            .split_at_checked(NONCE_BYTES)
            .ok_or(SealedFault::Damaged("a value is cut off"))?;
        let unfit = |ring::error::Unspecified| SealedFault::Damaged("a value does not open");
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(unfit)?;
        let aad = Aad::from(bound_to(&self.org, id, entry.serial));
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let value = self
            .keys
            .seal
            .open_in_place(nonce, aad, buffer.as_mut_slice())
            .map_err(unfit)?;
        Ok(Some((Secret::new(value.to_vec()), entry.facts())))
    }

    /// Replaces one value and returns its serial.
    pub(super) fn put(
        &mut self,
        id: &ItemId,
        value: &Secret,
        now_s: u64,
        entropy: &mut dyn Entropy,
    ) -> Result<u64, SealedFault> {
        let serial = self.entries.get(id).map_or(0, |entry| entry.serial) + 1;
        let sealed = self.seal(id, serial, value, entropy)?;
        let entry = Entry {
            serial,
            put_s: now_s,
            used_s: None,
            sealed: Some(sealed),
        };
        self.entries.insert(id.clone(), entry);
        Ok(serial)
    }

    /// Seals a value under its name and serial, with a new nonce before it.
    fn seal(
        &self,
        id: &ItemId,
        serial: u64,
        value: &Secret,
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<u8>, SealedFault> {
        let mut nonce = [0; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let mut sealed = nonce.to_vec();
        let mut buffer = Zeroizing::new(value.expose().to_vec());
        let tag = self
            .keys
            .seal
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound_to(&self.org, id, serial)),
                buffer.as_mut_slice(),
            )
            .map_err(|ring::error::Unspecified| SealedFault::Damaged("a value is too long"))?;
        sealed.extend_from_slice(&buffer);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Whether anything was kept before credentials had an owner.
    pub(super) fn has_unowned(&self) -> bool {
        let mut kept = self.entries.iter();
        kept.any(|(id, entry)| matches!(id, ItemId::Unowned(_)) && entry.sealed.is_some())
    }

    /// Makes every credential that has no owner this owner's, with its serial and its times. One
    /// that the owner has set already stays, and the other goes.
    pub(super) fn adopt(
        &mut self,
        owner: Owner,
        entropy: &mut dyn Entropy,
    ) -> Result<(), SealedFault> {
        let ids: Vec<ItemId> = self.entries.keys().cloned().collect();
        for from in ids {
            let ItemId::Unowned(name) = &from else {
                continue;
            };
            let to = ItemId::Credential(owner, name.clone());
            let kept = self.get(&from)?;
            let old = self.entries.remove(&from);
            if let (Some((value, facts)), Some(old)) = (kept, old)
                && self.serial(&to) == 0
            {
                let before = self.entries.get(&to).map_or(0, |entry| entry.serial);
                let serial = before.max(facts.serial);
                let sealed = self.seal(&to, serial, &value, entropy)?;
                self.entries.insert(
                    to,
                    Entry {
                        serial,
                        sealed: Some(sealed),
                        ..old
                    },
                );
            }
        }
        Ok(())
    }

    /// Forgets a value and remembers its serial.
    pub(super) fn remove(&mut self, id: &ItemId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.sealed = None;
            entry.used_s = None;
        }
    }

    /// Notes a use.
    pub(super) fn used(&mut self, id: &ItemId, now_s: u64) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.used_s = Some(now_s);
        }
    }

    /// What is known of one kept item.
    pub(super) fn facts(&self, id: &ItemId) -> Option<Facts> {
        let entry = self.entries.get(id).filter(|entry| entry.sealed.is_some());
        entry.map(Entry::facts)
    }

    /// What is known of every kept item.
    pub(super) fn list(&self) -> BTreeMap<ItemId, Facts> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.sealed.is_some())
            .map(|(id, entry)| (id.clone(), entry.facts()))
            .collect()
    }
}

#[cfg(test)]
impl Sealed {
    /// Puts a sealed value under another name or serial.
    pub(super) fn transplant(&mut self, from: &ItemId, to: &ItemId, serial: u64) {
        let mut entry = self.entries[from].clone();
        entry.serial = serial;
        self.entries.insert(to.clone(), entry);
    }
}

/// What a sealed value is bound to.
fn bound_to(org: &OrgId, id: &ItemId, serial: u64) -> Vec<u8> {
    let mut out = b"mcpshim vault 1 item\0".to_vec();
    let (kind, name) = label(id);
    for part in [org.as_str(), &name] {
        // no name of ours is longer than a parser accepts: see `Entry::read`
        out.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend(part.as_bytes());
    }
    out.push(kind);
    out.extend(serial.to_le_bytes());
    out
}

/// Kind and name of an item, in the order that files are sorted by.
fn label(id: &ItemId) -> (u8, Cow<'_, str>) {
    match id {
        ItemId::Unowned(name) => (1, name.as_str().into()),
        ItemId::InstallationKey => (2, "".into()),
        ItemId::Tokens(issuer) => (3, issuer.into()),
        ItemId::Credential(owner, name) => (4, format!("{}/{name}", owner.0).into()),
    }
}

/// The id in the name of an owned credential.
fn owned(name: &str) -> Option<ItemId> {
    let (owner, name) = name.split_at_checked(OWNER_DIGITS)?;
    let owner = Owner(Digest::parse(owner).ok()?);
    let id = CredentialId::parse(name.strip_prefix('/')?).ok()?;
    Some(ItemId::Credential(owner, id))
}

fn store_code(store: StoreKind) -> u8 {
    match store {
        StoreKind::Keychain => 1,
        StoreKind::KeyFile => 2,
        StoreKind::SystemdCredential => 3,
    }
}

struct Header {
    store: StoreKind,
    org: OrgId,
    salt: [u8; SALT_BYTES],
    key_id: [u8; KEY_ID_BYTES],
    generation: u64,
    count: u32,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, SealedFault> {
        if reader.bytes(MAGIC.len())? != MAGIC {
            return Err(SealedFault::Damaged("it does not begin as a vault"));
        }
        let _format: u16 = reader.u16()?;
        let min_reader = reader.u16()?;
        if min_reader > FORMAT {
            return Err(SealedFault::Newer(min_reader));
        }
        let store = match reader.u8()? {
            1 => StoreKind::Keychain,
            2 => StoreKind::KeyFile,
            3 => StoreKind::SystemdCredential,
            _ => return Err(SealedFault::Damaged("its store is unknown")),
        };
        let org = OrgId::parse(reader.short()?)
            .map_err(|_bad| SealedFault::Damaged("its organisation has no valid name"))?;
        let header = Self {
            store,
            org,
            salt: reader.array()?,
            key_id: reader.array()?,
            generation: reader.u64()?,
            count: reader.u32()?,
        };
        match usize::try_from(header.count) {
            Ok(count) if count <= limits::VAULT_ITEMS => Ok(header),
            Ok(_) | Err(_) => Err(SealedFault::Damaged("it has too many items")),
        }
    }
}

impl Entry {
    fn facts(&self) -> Facts {
        Facts {
            serial: self.serial,
            put_s: self.put_s,
            used_s: self.used_s,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<(ItemId, Self), SealedFault> {
        let kind = reader.u8()?;
        let name = reader.long()?;
        let id = match kind {
            1 => ItemId::Unowned(
                CredentialId::parse(name)
                    .map_err(|_bad| SealedFault::Damaged("an item has no valid name"))?,
            ),
            2 if name.is_empty() => ItemId::InstallationKey,
            3 if name.len() <= limits::VAULT_NAME_BYTES => ItemId::Tokens(name.to_owned()),
            4 => owned(name).ok_or(SealedFault::Damaged("an item has no valid name"))?,
            _ => return Err(SealedFault::Damaged("an item is of an unknown kind")),
        };
        let (serial, put_s, used_s) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let sealed = match reader.u8()? {
            0 => None,
            1 => {
                let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
                let least = NONCE_BYTES + TAG_BYTES;
                if !(least..=least + limits::VAULT_VALUE_BYTES).contains(&len) {
                    return Err(SealedFault::Damaged("a value has no possible size"));
                }
                Some(reader.bytes(len)?.to_vec())
            }
            _ => return Err(SealedFault::Damaged("an item is in an unknown state")),
        };
        let entry = Self {
            serial,
            put_s,
            used_s: (used_s != 0).then_some(used_s),
            sealed,
        };
        Ok((id, entry))
    }

    fn write(&self, id: &ItemId, out: &mut Vec<u8>) -> Result<(), SealedFault> {
        let (kind, name) = label(id);
        out.push(kind);
        let len = u16::try_from(name.len())
            .ok()
            .filter(|len| usize::from(*len) <= limits::VAULT_NAME_BYTES)
            .ok_or(SealedFault::Damaged("a name is too long"))?;
        out.extend(len.to_le_bytes());
        out.extend(name.as_bytes());
        for number in [self.serial, self.put_s, self.used_s.unwrap_or(0)] {
            out.extend(number.to_le_bytes());
        }
        match &self.sealed {
            None => out.push(0),
            Some(sealed) => {
                out.push(1);
                let most = NONCE_BYTES + TAG_BYTES + limits::VAULT_VALUE_BYTES;
                let len = u32::try_from(sealed.len())
                    .ok()
                    .filter(|_| sealed.len() <= most)
                    .ok_or(SealedFault::Damaged("a value is too long"))?;
                out.extend(len.to_le_bytes());
                out.extend(sealed);
            }
        }
        Ok(())
    }
}

fn short(out: &mut Vec<u8>, text: &str) -> Result<(), SealedFault> {
    let len =
        u8::try_from(text.len()).map_err(|_long| SealedFault::Damaged("a name is too long"))?;
    out.push(len);
    out.extend(text.as_bytes());
    Ok(())
}

/// What is left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn bytes(&mut self, len: usize) -> Result<&'b [u8], SealedFault> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(SealedFault::Damaged("it is cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SealedFault> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, SealedFault> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, SealedFault> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, SealedFault> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, SealedFault> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, len: usize) -> Result<&'b str, SealedFault> {
        std::str::from_utf8(self.bytes(len)?)
            .map_err(|_bad| SealedFault::Damaged("a name is not text"))
    }

    fn short(&mut self) -> Result<&'b str, SealedFault> {
        let len = self.u8()?;
        self.text(usize::from(len))
    }

    fn long(&mut self) -> Result<&'b str, SealedFault> {
        let len = self.u16()?;
        self.text(usize::from(len))
    }
}
