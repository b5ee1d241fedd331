//! TUF metadata as the client reads it: root, timestamp, snapshot, targets.
//!
//! Bytes become an [`Envelope`] (strict JSON, signatures set apart, the canonical bytes that were
//! signed); an envelope becomes a role's content only through [`Root::verify`], so unsigned
//! content has no type. Readers ignore members they do not know, as the specification asks.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::{Cause, RegistryError, Role, json};
use crate::ids::{Digest, KeyId};
use crate::limits;

/// A metadata file before its signatures are checked.
#[derive(Debug)]
pub(crate) struct Envelope {
    file: String,
    version: u64,
    signatures: Vec<Signature>,
    signed: Value,
    canonical: Vec<u8>,
}

#[derive(Debug)]
struct Signature {
    key: KeyId,
    bytes: Vec<u8>,
}

impl Envelope {
    /// Reads a metadata file; `file` is what a person would call it.
    pub(crate) fn parse(file: &str, bytes: &[u8], role: Role) -> Result<Self, RegistryError> {
        #[derive(Deserialize)]
        struct Doc {
            signatures: Vec<SignatureDoc>,
            signed: Value,
        }
        #[derive(Deserialize)]
        struct SignatureDoc {
            keyid: KeyId,
            sig: String,
        }
        #[derive(Deserialize)]
        struct Head {
            #[serde(rename = "_type")]
            kind: String,
            spec_version: String,
            version: u64,
        }

        let malformed = |why: String| RegistryError::Malformed {
            file: file.to_owned(),
            cause: Cause(why),
        };
        let doc = json::parse(bytes).map_err(|e| malformed(e.to_string()))?;
        let doc: Doc = serde_json::from_value(doc).map_err(|e| malformed(e.to_string()))?;
        let head = Head::deserialize(&doc.signed).map_err(|e| malformed(e.to_string()))?;
        if head.kind != role.as_str() {
            return Err(malformed(format!(
                "its type is {:?}, expected {:?}",
                head.kind,
                role.as_str()
            )));
        }
        // any 1.x: the specification breaks compatibility only with a new major version
        if head.spec_version.split('.').next() != Some("1") {
            return Err(malformed(format!(
                "its spec_version is {:?}, expected 1.x",
                head.spec_version
            )));
        }
        if head.version == 0 {
            return Err(malformed("its version is 0, expected 1 or more".to_owned()));
        }
        let mut seen = BTreeSet::new();
        let mut signatures = Vec::with_capacity(doc.signatures.len());
        for signature in doc.signatures {
            if !seen.insert(signature.keyid.clone()) {
                return Err(malformed(format!(
                    "key {} signed it twice",
                    short(&signature.keyid)
                )));
            }
            // a signature that is not lower-case hexadecimal counts for nothing
            let bytes = data_encoding::HEXLOWER
                .decode(signature.sig.as_bytes())
                .unwrap_or_default();
            signatures.push(Signature {
                key: signature.keyid,
                bytes,
            });
        }
        let canonical = json::canonical(&doc.signed);
        Ok(Self {
            file: file.to_owned(),
            version: head.version,
            signatures,
            signed: doc.signed,
            canonical,
        })
    }

    /// The version it claims, before its signatures are checked.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Whether this key signed it, whatever a root says of the key.
    #[cfg(feature = "admin")]
    pub(crate) fn signed_by(&self, public: &[u8; 32]) -> bool {
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public);
        let mut signatures = self.signatures.iter();
        signatures.any(|signature| key.verify(&self.canonical, &signature.bytes).is_ok())
    }

    /// Reads the content. Private: only [`Root::verify`] may, after the signatures.
    fn content<T: for<'de> Deserialize<'de>>(&self) -> Result<T, RegistryError> {
        T::deserialize(&self.signed).map_err(|e| RegistryError::Malformed {
            file: self.file.clone(),
            cause: Cause(e.to_string()),
        })
    }
}

/// The first digits of a key id, as people compare them.
pub(crate) fn short(key: &KeyId) -> String {
    let text = key.as_str();
    format!("{}…", text.get(..12).unwrap_or(text))
}

/// Computes a key's id: SHA-256 of the canonical form of the key object (TUF §4.2).
#[must_use]
pub fn key_id(public: &[u8; 32]) -> Digest {
    Digest::of(&json::canonical(&key_object(public)))
}

/// The key object of an Ed25519 key, as metadata holds it.
pub(crate) fn key_object(public: &[u8; 32]) -> Value {
    serde_json::json!({
        "keytype": "ed25519",
        "scheme": "ed25519",
        "keyval": { "public": data_encoding::HEXLOWER.encode(public) },
    })
}

/// `YYYY-MM-DDTHH:MM:SSZ`, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expiry(pub(crate) u64);

impl Expiry {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes: &[u8; 20] = text.as_bytes().try_into().ok()?;
        let shape = b"0000-00-00T00:00:00Z";
        let fits = bytes.iter().zip(shape).all(|(byte, want)| match want {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        });
        if !fits {
            return None;
        }
        let field = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
        let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
        let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in_month = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u64::from(leap),
            _ => return None,
        };
        let valid = year >= 1970
            && (1..=days_in_month).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !valid {
            return None;
        }
        // days from 1970-01-01, counting years from March so that the leap day comes last
        let (y, m) = if month > 2 {
            (year, month - 3)
        } else {
            (year - 1, month + 9)
        };
        let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
        let days = days.checked_sub(719_468)?;
        Some(Self(days * 86_400 + hour * 3600 + minute * 60 + second))
    }

    /// Writes the same form.
    pub(crate) fn text(self) -> String {
        crate::clock::Utc(self.0).to_string()
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format_args!(
                "time {text:?} is not of the form 2026-01-31T12:00:00Z"
            ))
        })
    }
}

/// What a role's metadata must offer to the checks they share.
pub(crate) trait Content: for<'de> Deserialize<'de> {
    const ROLE: Role;
    fn version(&self) -> u64;
    fn expires(&self) -> Expiry;
}

/// Root: which keys speak for which role.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Root {
    version: u64,
    expires: Expiry,
    #[serde(default)]
    pub(crate) consistent_snapshot: bool,
    keys: BTreeMap<KeyId, Key>,
    roles: Roles,
}

#[derive(Debug, Clone, Deserialize)]
struct Roles {
    root: RoleKeys,
    targets: RoleKeys,
    snapshot: RoleKeys,
    timestamp: RoleKeys,
}

/// The keys of one role and how many of them must sign.
#[derive(Debug, Clone, Deserialize)]
struct RoleKeys {
    keyids: Vec<KeyId>,
    threshold: u32,
}

/// A public key; of another kind than Ed25519 it is kept out of every count.
#[derive(Debug, Clone)]
struct Key(Option<[u8; 32]>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Doc {
            keytype: String,
            scheme: String,
            keyval: Value,
        }
        let doc = Doc::deserialize(deserializer)?;
        if doc.keytype != "ed25519" || doc.scheme != "ed25519" {
            return Ok(Self(None));
        }
        let public = doc.keyval.get("public").and_then(Value::as_str);
        let public = public.and_then(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok());
        match public.map(<[u8; 32]>::try_from) {
            Some(Ok(public)) => Ok(Self(Some(public))),
            Some(Err(_)) | None => Err(serde::de::Error::custom(
                "an ed25519 key is not 64 lower-case hexadecimal digits",
            )),
        }
    }
}

impl Content for Root {
    const ROLE: Role = Role::Root;
    fn version(&self) -> u64 {
        self.version
    }
    fn expires(&self) -> Expiry {
        self.expires
    }
}

impl Root {
    /// Reads a root that is trusted because it is pinned; it must still be signed by itself.
    pub(crate) fn pinned(file: &str, bytes: &[u8]) -> Result<Self, RegistryError> {
        let envelope = Envelope::parse(file, bytes, Role::Root)?;
        let root = Self::unverified(&envelope)?;
        root.check(&envelope, Role::Root)?;
        Ok(root)
    }

    /// Reads a root's content in order to check it by itself; the caller must [`Root::check`] it.
    pub(crate) fn unverified(envelope: &Envelope) -> Result<Self, RegistryError> {
        let root: Self = envelope.content()?;
        for role in [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp] {
            let keys = root.role(role);
            let distinct: BTreeSet<_> = keys.keyids.iter().collect();
            let why = if keys.threshold == 0 {
                format!("the threshold of {role} is 0")
            } else if distinct.len() != keys.keyids.len() {
                format!("a key of {role} is named twice")
            } else {
                continue;
            };
            return Err(RegistryError::Malformed {
                file: envelope.file.clone(),
                cause: Cause(why),
            });
        }
        Ok(root)
    }

    /// Checks that a threshold of the role's keys signed the file.
    ///
    /// Counted over distinct public keys: one key under two ids, or one id twice, counts once.
    pub(crate) fn check(&self, envelope: &Envelope, role: Role) -> Result<(), RegistryError> {
        let keys = self.role(role);
        let mut valid = BTreeSet::new();
        let mut unknown = None;
        for signature in &envelope.signatures {
            if !keys.keyids.contains(&signature.key) {
                unknown.get_or_insert(&signature.key);
                continue;
            }
            if let Some(Key(Some(public))) = self.keys.get(&signature.key)
                && !valid.contains(public)
                && ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public)
                    .verify(&envelope.canonical, &signature.bytes)
                    .is_ok()
            {
                valid.insert(*public);
            }
        }
        if valid.len() as u64 >= u64::from(keys.threshold) {
            return Ok(());
        }
        let file = envelope.file.clone();
        Err(match unknown {
            Some(key) if valid.is_empty() => RegistryError::UnknownKey {
                file,
                role,
                cause: Cause(format!(
                    "key {} is not a {role} key in the root of version {}",
                    short(key),
                    self.version
                )),
            },
            Some(_) | None => RegistryError::TooFewSignatures {
                file,
                role,
                cause: Cause(format!(
                    "{} of {} keys signed it, the root of version {} asks for {}",
                    valid.len(),
                    keys.keyids.len(),
                    self.version,
                    keys.threshold
                )),
            },
        })
    }

    /// Checks the signatures, then reads the content.
    pub(crate) fn verify<T: Content>(&self, envelope: &Envelope) -> Result<T, RegistryError> {
        self.check(envelope, T::ROLE)?;
        envelope.content()
    }

    /// Whether a role's keys or threshold differ from another root's.
    pub(crate) fn rotated(&self, other: &Self, role: Role) -> bool {
        let keys = |root: &Self| {
            let role = root.role(role);
            let publics: BTreeSet<_> = role
                .keyids
                .iter()
                .filter_map(|id| root.keys.get(id))
                .filter_map(|key| key.0)
                .collect();
            (publics, role.threshold)
        };
        keys(self) != keys(other)
    }

    /// The public keys of a role and its threshold.
    #[cfg(feature = "admin")]
    pub(crate) fn keys_of(&self, role: Role) -> (BTreeMap<KeyId, [u8; 32]>, u32) {
        let keys = self.role(role);
        let publics = keys
            .keyids
            .iter()
            .filter_map(|id| Some((id.clone(), self.keys.get(id)?.0?)))
            .collect();
        (publics, keys.threshold)
    }

    fn role(&self, role: Role) -> &RoleKeys {
        match role {
            Role::Root => &self.roles.root,
            Role::Snapshot => &self.roles.snapshot,
            Role::Targets => &self.roles.targets,
            Role::Timestamp => &self.roles.timestamp,
        }
    }
}

/// What one metadata file says about another: version, and length and digest where given.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct MetaFile {
    pub(crate) version: u64,
    pub(crate) length: Option<u64>,
    #[serde(default)]
    hashes: Option<Hashes>,
}

#[derive(Debug, Clone, Deserialize)]
struct Hashes {
    sha256: Option<Digest>,
}

impl MetaFile {
    /// Checks length and SHA-256 where they are given (TUF §5.5.2, §5.6.2).
    pub(crate) fn check(&self, file: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let mismatch = |cause| RegistryError::WrongDigest {
            file: file.to_owned(),
            cause,
        };
        if let Some(length) = self.length
            && bytes.len() as u64 != length
        {
            return Err(mismatch(Cause(format!(
                "it has {} bytes, expected {length}",
                bytes.len()
            ))));
        }
        match &self.hashes {
            Some(Hashes { sha256: Some(want) }) => {
                let found = Digest::of(bytes);
                if found == *want {
                    return Ok(());
                }
                Err(mismatch(Cause(format!(
                    "its SHA-256 is {found}, expected {want}"
                ))))
            }
            // digests of other kinds only: one that cannot be checked is not a passed check
            Some(Hashes { sha256: None }) => {
                Err(mismatch(Cause("no SHA-256 is listed for it".to_owned())))
            }
            None => Ok(()),
        }
    }
}

/// Timestamp: the current snapshot.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Timestamp {
    version: u64,
    expires: Expiry,
    meta: TimestampMeta,
}

#[derive(Debug, Clone, Deserialize)]
struct TimestampMeta {
    #[serde(rename = "snapshot.json")]
    snapshot: MetaFile,
}

impl Timestamp {
    pub(crate) fn snapshot(&self) -> &MetaFile {
        &self.meta.snapshot
    }
}

impl Content for Timestamp {
    const ROLE: Role = Role::Timestamp;
    fn version(&self) -> u64 {
        self.version
    }
    fn expires(&self) -> Expiry {
        self.expires
    }
}

/// Snapshot: the current version of every targets metadata file.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Snapshot {
    version: u64,
    expires: Expiry,
    pub(crate) meta: BTreeMap<String, MetaFile>,
}

impl Content for Snapshot {
    const ROLE: Role = Role::Snapshot;
    fn version(&self) -> u64 {
        self.version
    }
    fn expires(&self) -> Expiry {
        self.expires
    }
}

/// Targets: the documents of the registry. Delegations are not followed: they could only add
/// documents, and this reader knows the names of all it needs.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Targets {
    version: u64,
    expires: Expiry,
    pub(crate) targets: BTreeMap<String, Target>,
}

/// One document: its length and digest.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) length: u64,
    hashes: TargetHashes,
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
struct TargetHashes {
    sha256: Digest,
}

impl Target {
    pub(crate) fn sha256(&self) -> Digest {
        self.hashes.sha256
    }

    /// Checks length and digest (TUF §5.7.3).
    pub(crate) fn check(&self, file: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        MetaFile {
            version: 1,
            length: Some(self.length),
            hashes: Some(Hashes {
                sha256: Some(self.hashes.sha256),
            }),
        }
        .check(file, bytes)
    }
}

impl Content for Targets {
    const ROLE: Role = Role::Targets;
    fn version(&self) -> u64 {
        self.version
    }
    fn expires(&self) -> Expiry {
        self.expires
    }
}

/// The most bytes a metadata file may have.
pub(crate) fn max_bytes(role: Role, listed: Option<u64>) -> u64 {
    let cap = match role {
        Role::Root | Role::Snapshot | Role::Timestamp => limits::METADATA_BYTES,
        Role::Targets => limits::TARGET_BYTES,
    } as u64;
    listed.map_or(cap, |listed| listed.min(cap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for (text, unix_s) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-12-01T00:00:00Z", 1_796_083_200),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(Expiry::parse(text), Some(Expiry(unix_s)), "{text}");
            assert_eq!(Expiry(unix_s).text(), text);
        }
        arbtest::arbtest(|u| {
            let time = Expiry(u.int_in_range(0..=253_402_300_799)?);
            assert_eq!(Expiry::parse(&time.text()), Some(time), "{}", time.text());
            Ok(())
        });
    }

    #[test]
    fn no_other_time_is_read() {
        for text in [
            "",
            "2026-12-01",
            "2026-12-01T00:00:00",
            "2026-12-01T00:00:00z",
            "2026-12-01 00:00:00Z",
            "2026-12-01T00:00:00.0Z",
            "2026-12-01T00:00:00+0",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-12-00T00:00:00Z",
            "2026-12-01T24:00:00Z",
            "2026-12-01T00:60:00Z",
            "2026-12-01T00:00:60Z",
            "+026-12-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "２026-12-01T00:00:0Z",
        ] {
            assert_eq!(Expiry::parse(text), None, "{text}");
        }
    }

    #[test]
    fn key_ids_are_those_python_tuf_computes() {
        // signed and named by securesystemslib, see tests/data/registry/generate.py
        let bytes = include_bytes!("../../tests/data/registry/root.json");
        let root = Root::pinned("root", bytes).unwrap();
        assert_eq!(root.keys.len(), 7);
        for (id, key) in &root.keys {
            assert_eq!(id.as_str(), key_id(&key.0.unwrap()).to_string());
        }
    }
}
