//! Signing keys: Ed25519, one file each (PKCS #8 in PEM form, mode 0600), outside the sources.
//!
//! Root and targets keys sign by hand and should lie on media that is not attached between
//! publications; snapshot and timestamp keys lie where `mcpshim-admin refresh` runs. Losing one
//! costs a new root (while the root keys remain). Who can read a timestamp or snapshot key can
//! keep machines on the current registry; who can read a threshold of targets keys can grant
//! anything; who can read a threshold of root keys is the organisation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::clock::{Entropy, Now};
use crate::ids::{Digest, KeyId};
use crate::limits;
use crate::registry::metadata::{Expiry, key_object};
use crate::registry::{Role, json, key_id};

/// A signing key that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key or a root is there already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Directories without a key.
    #[error("there is no key in {}", list(dirs))]
    None {
        /// The directories.
        dirs: Vec<PathBuf>,
    },
    /// Not a key of ours.
    #[error("{} is not an Ed25519 private key in PKCS #8 PEM form", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner can read the file.
    #[error("private key {} can be read by others than its owner (mode {mode:04o})", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// More signatures demanded than there are signers.
    #[error("threshold {threshold} cannot be reached by {signers} signers")]
    Threshold {
        /// Signatures demanded.
        threshold: u32,
        /// Keys there would be.
        signers: u32,
    },
}

impl KeyError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Exists { .. } => {
                "keys are never overwritten: choose another directory, or move the old files away if nobody uses them"
            }
            Self::Io { .. } => "check that the directory exists and is yours",
            Self::None { .. } => "name a directory that `mcpshim-admin key new` wrote keys to",
            Self::NotAKey { .. } => {
                "keep only keys made by `mcpshim-admin key new` in a key directory"
            }
            Self::Open { .. } => {
                "run `chmod 600` on it, and replace the key if others may have read it"
            }
            Self::Threshold { .. } => "choose a threshold between 1 and the number of signers",
        }
    }
}

fn list(dirs: &[PathBuf]) -> String {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(", ")
}

/// One private key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    id: KeyId,
    path: PathBuf,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// RFC 8410 §7: a PKCS #8 version 1 private key is this prefix and the 32 bytes of the seed.
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

impl SigningKey {
    /// Makes a key and writes it to a new file that only its owner can read.
    ///
    /// # Errors
    /// [`KeyError::Exists`] rather than overwrite anything, and what the file system says.
    pub fn create(path: PathBuf, entropy: &mut dyn Entropy) -> Result<Self, KeyError> {
        let mut der = Zeroizing::new([0; 48]);
        let (prefix, seed) = der.split_at_mut(PKCS8.len());
        prefix.copy_from_slice(&PKCS8);
        entropy.fill(seed);
        let key = Self::from_der(der.as_slice(), path)?;
        let pem = Zeroizing::new(format!(
            "{BEGIN}\n{}\n{END}\n",
            data_encoding::BASE64.encode(der.as_slice())
        ));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let written = options.open(&key.path).and_then(|mut file| {
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(KeyError::Exists { path: key.path })
            }
            Err(source) => Err(KeyError::Io {
                path: key.path,
                source,
            }),
        }
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When others can read it, or it is not such a key.
    pub fn read(path: PathBuf) -> Result<Self, KeyError> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = match fs::metadata(&path) {
                Ok(metadata) => metadata.permissions().mode() & 0o7777,
                Err(source) => return Err(KeyError::Io { path, source }),
            };
            if mode & 0o077 != 0 {
                return Err(KeyError::Open { path, mode });
            }
        }
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(source) => return Err(KeyError::Io { path, source }),
        };
        let der = text
            .trim()
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(END))
            .map(|body| Zeroizing::new(body.split_ascii_whitespace().collect::<String>()))
            .and_then(|body| data_encoding::BASE64.decode(body.as_bytes()).ok())
            .map(Zeroizing::new);
        match der {
            Some(der) => Self::from_der(&der, path),
            None => Err(KeyError::NotAKey { path }),
        }
    }

    fn from_der(der: &[u8], path: PathBuf) -> Result<Self, KeyError> {
        // "unchecked": version 1 holds no public key to compare with
        let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) else {
            return Err(KeyError::NotAKey { path });
        };
        let id = id_of(&public_of(&pair));
        Ok(Self { pair, id, path })
    }

    /// The key's id in metadata.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        public_of(&self.pair)
    }

    /// Where the private half lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn public_of(pair: &Ed25519KeyPair) -> [u8; 32] {
    let mut public = [0; 32];
    public.copy_from_slice(pair.public_key().as_ref());
    public
}

#[expect(clippy::expect_used, reason = "64 hexadecimal digits are a key id")]
fn id_of(public: &[u8; 32]) -> KeyId {
    KeyId::parse(&key_id(public).to_string()).expect("a digest is a key id")
}

/// The private keys at hand, by id.
#[derive(Debug, Default)]
pub struct KeyRing(BTreeMap<KeyId, SigningKey>);

impl KeyRing {
    /// Reads every `*.pem` file of the directories.
    ///
    /// # Errors
    /// The first file that is not a key, or is open to others; [`KeyError::None`] when there is
    /// none at all.
    pub fn read(dirs: &[PathBuf]) -> Result<Self, KeyError> {
        let mut ring = Self::default();
        for dir in dirs {
            let io = |source| KeyError::Io {
                path: dir.clone(),
                source,
            };
            for entry in fs::read_dir(dir).map_err(io)? {
                let path = entry.map_err(io)?.path();
                if path.extension().is_some_and(|extension| extension == "pem") {
                    ring.add(SigningKey::read(path)?);
                }
            }
        }
        if ring.0.is_empty() {
            return Err(KeyError::None {
                dirs: dirs.to_owned(),
            });
        }
        Ok(ring)
    }

    /// Adds a key.
    pub fn add(&mut self, key: SigningKey) {
        self.0.insert(key.id.clone(), key);
    }

    /// Every key, by id.
    pub fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        self.0.values()
    }

    /// A ring with one new key that is written nowhere.
    pub(super) fn of_the_moment(entropy: &mut dyn Entropy) -> (Self, KeyId) {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(seed.as_mut_slice());
        #[expect(
            clippy::expect_used,
            reason = "any 32 bytes are a seed (RFC 8032 §5.1.5)"
        )]
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed");
        let id = id_of(&public_of(&pair));
        let mut ring = Self::default();
        ring.add(SigningKey {
            pair,
            id: id.clone(),
            path: PathBuf::new(),
        });
        (ring, id)
    }

    /// How many of the named keys are at hand.
    pub(super) fn count<'k>(&self, ids: impl Iterator<Item = &'k KeyId>) -> usize {
        ids.filter(|id| self.0.contains_key(*id)).count()
    }

    /// Signs content with every named key at hand; the bytes of the metadata file.
    pub(super) fn sign<'k>(
        &self,
        signed: &Value,
        ids: impl IntoIterator<Item = &'k KeyId>,
    ) -> Vec<u8> {
        let bytes = json::canonical(signed);
        let ids: BTreeSet<_> = ids.into_iter().collect();
        let signatures: Vec<Value> = ids
            .into_iter()
            .filter_map(|id| self.0.get(id))
            .map(|key| {
                let sig = data_encoding::HEXLOWER.encode(key.pair.sign(&bytes).as_ref());
                serde_json::json!({ "keyid": key.id.as_str(), "sig": sig })
            })
            .collect();
        // keys and names only, no control characters: the canonical form is JSON as it stands
        let mut file = br#"{"signatures":"#.to_vec();
        file.extend_from_slice(&json::canonical(&Value::Array(signatures)));
        file.extend_from_slice(br#","signed":"#);
        file.extend_from_slice(&bytes);
        file.extend_from_slice(b"}\n");
        file
    }
}

/// The keys of a new organisation and its first root.
#[derive(Debug)]
pub struct NewKeys {
    /// Every key made, with the role it speaks for.
    pub keys: Vec<(Role, KeyId, PathBuf)>,
    /// The root metadata of version 1: what machines pin.
    pub root: Vec<u8>,
}

/// Makes the keys of a new organisation in `dir` and signs its first root.
///
/// `signers` keys each for root and targets, of which `threshold` must sign; one key each for
/// snapshot and timestamp, which are kept online.
///
/// # Errors
/// [`KeyError`]; files written before the error stay, and are never overwritten.
pub fn create_all(
    dir: &Path,
    signers: u32,
    threshold: u32,
    now: &Now,
    entropy: &mut dyn Entropy,
) -> Result<NewKeys, KeyError> {
    if threshold == 0 || threshold > signers {
        return Err(KeyError::Threshold { threshold, signers });
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(dir).map_err(|source| KeyError::Io {
        path: dir.to_owned(),
        source,
    })?;
    let mut ring = KeyRing::default();
    let mut made = Vec::new();
    let mut roles: BTreeMap<Role, (Vec<KeyId>, u32)> = BTreeMap::new();
    for (role, count, threshold) in [
        (Role::Root, signers, threshold),
        (Role::Targets, signers, threshold),
        (Role::Snapshot, 1, 1),
        (Role::Timestamp, 1, 1),
    ] {
        let mut ids = Vec::new();
        for number in 1..=count {
            let path = dir.join(format!("{role}-{number}.pem"));
            let key = SigningKey::create(path, entropy)?;
            made.push((role, key.id.clone(), key.path.clone()));
            ids.push(key.id.clone());
            ring.add(key);
        }
        roles.insert(role, (ids, threshold));
    }
    let root = root(1, &ring, &roles, now.unix_s() + limits::ROOT_LIFE_S);
    Ok(NewKeys { keys: made, root })
}

/// Writes and signs a root with every root key at hand.
pub(super) fn root(
    version: u64,
    ring: &KeyRing,
    roles: &BTreeMap<Role, (Vec<KeyId>, u32)>,
    expires_s: u64,
) -> Vec<u8> {
    let keys: serde_json::Map<String, Value> = roles
        .values()
        .flat_map(|(ids, _)| ids)
        .filter_map(|id| ring.0.get(id))
        .map(|key| (key.id.to_string(), key_object(&key.public())))
        .collect();
    let roles_doc: serde_json::Map<String, Value> = roles
        .iter()
        .map(|(role, (ids, threshold))| {
            let ids: Vec<&str> = ids.iter().map(KeyId::as_str).collect();
            (
                role.to_string(),
                serde_json::json!({ "keyids": ids, "threshold": threshold }),
            )
        })
        .collect();
    let signed = serde_json::json!({
        "_type": "root",
        "spec_version": super::publish::SPEC_VERSION,
        "version": version,
        "expires": Expiry(expires_s).text(),
        "consistent_snapshot": true,
        "keys": keys,
        "roles": roles_doc,
    });
    let signers = roles
        .get(&Role::Root)
        .map(|(ids, _)| ids.as_slice())
        .unwrap_or_default();
    ring.sign(&signed, signers)
}

/// The fingerprint people compare: SHA-256 of the root file.
#[must_use]
pub fn fingerprint(root: &[u8]) -> Digest {
    Digest::of(root)
}
