//! What a sign-in leaves behind: the ID token in `session.claims`, the proof of enrolment in
//! `session.enrol`, the other tokens in the vault; and the lock that orders who changes them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::LoginError;
use crate::clock::Entropy;
use crate::ids::Digest;
use crate::secret::Secret;
use crate::vault::{self, ItemId, Vault};
use crate::{files, limits};

const FORMAT: u32 = 1;

/// The file that holds the ID token of the person who is signed in.
#[must_use]
pub fn claims_path(state_dir: &Path) -> PathBuf {
    state_dir.join("session.claims")
}

/// The file that holds what enrols this installation for that person.
fn enrol_path(state_dir: &Path) -> PathBuf {
    state_dir.join("session.enrol")
}

/// The tokens of one sign-in, as the vault holds them.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct Kept {
    format: u32,
    min_reader: u32,
    pub(super) issuer: String,
    pub(super) client_id: String,
    pub(super) subject: String,
    /// The nonce of the first ID token: a later one carries it or none.
    pub(super) nonce: Option<String>,
    pub(super) refresh_token: Option<String>,
    /// Kept for one thing: to be revoked.
    pub(super) access_token: Option<String>,
}

impl Kept {
    pub(super) fn new(issuer: &str, client_id: &str, subject: &str, nonce: Option<String>) -> Self {
        Self {
            format: FORMAT,
            min_reader: FORMAT,
            issuer: issuer.to_owned(),
            client_id: client_id.to_owned(),
            subject: subject.to_owned(),
            nonce,
            refresh_token: None,
            access_token: None,
        }
    }

    fn to_secret(&self) -> Result<Secret, LoginError> {
        // sized before, so that growing leaves no copies behind
        let long = |text: &Option<String>| text.as_ref().map_or(0, |text| text.len() * 2);
        let size = 1024 + long(&self.refresh_token) + long(&self.access_token);
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        serde_json::to_writer(&mut *bytes, self).map_err(|_never| LoginError::Kept)?;
        Ok(Secret::new(std::mem::take(&mut *bytes)))
    }
}

/// The tokens of this issuer with their serial; `(None, 0)` when there are none. What cannot be
/// read counts as none, but keeps its serial: it can be replaced and removed.
pub(super) fn tokens(
    vault: &mut dyn Vault,
    issuer: &str,
) -> Result<(Option<Kept>, u64), LoginError> {
    let item = vault.get(&ItemId::Tokens(issuer.to_owned()))?;
    Ok(item.map_or((None, 0), |item| {
        let kept: Option<Kept> = serde_json::from_slice(item.value.expose()).ok();
        let kept = kept.filter(|kept| kept.min_reader <= FORMAT && kept.issuer == issuer);
        (kept, item.facts.serial)
    }))
}

/// Replaces the tokens if they still are the ones of this serial.
pub(super) fn replace(
    vault: &mut dyn Vault,
    kept: &Kept,
    serial: u64,
    now_s: u64,
) -> Result<bool, LoginError> {
    let id = ItemId::Tokens(kept.issuer.clone());
    let put = vault.put(&id, serial, &kept.to_secret()?, now_s)?;
    Ok(put.is_some())
}

/// Reads the ID token of the person who is signed in.
///
/// # Errors
/// When it is not theirs alone, or cannot be read.
pub fn claims(state_dir: &Path) -> Result<Option<Secret>, LoginError> {
    Ok(vault::read_private(&claims_path(state_dir))?)
}

/// Replaces the ID token.
pub(super) fn write_claims(
    state_dir: &Path,
    id_token: &str,
    entropy: &mut dyn Entropy,
) -> Result<(), LoginError> {
    let mut text = Zeroizing::new(Vec::with_capacity(id_token.len() + 1));
    text.extend_from_slice(id_token.as_bytes());
    text.push(b'\n');
    replace_private(&claims_path(state_dir), &text, entropy)
}

/// What proves to a collector that this installation is the person's: the ID token of a sign-in
/// that was begun for its key, and the salt that shows it.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Enrolment {
    format: u32,
    min_reader: u32,
    /// The ID token, as it was first given: a renewed one need not carry the nonce.
    pub id_token: String,
    /// The salt of its nonce; none after a sign-in by device code, which has no nonce.
    pub salt: Option<String>,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolment(«redacted {} bytes»)", self.id_token.len())
    }
}

/// Reads what enrols this installation; nothing when nobody signed in here, or a file of another
/// format lies there.
///
/// # Errors
/// When it is not its user's alone, or cannot be read.
pub fn enrolment(state_dir: &Path) -> Result<Option<Enrolment>, LoginError> {
    let found = vault::read_private(&enrol_path(state_dir))?;
    Ok(found
        .and_then(|text| serde_json::from_slice::<Enrolment>(text.expose()).ok())
        .filter(|enrolment| enrolment.min_reader <= FORMAT))
}

pub(super) fn write_enrolment(
    state_dir: &Path,
    id_token: &str,
    salt: Option<String>,
    entropy: &mut dyn Entropy,
) -> Result<(), LoginError> {
    let enrolment = Enrolment {
        format: FORMAT,
        min_reader: FORMAT,
        id_token: id_token.to_owned(),
        salt,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(id_token.len() + 512));
    serde_json::to_writer(&mut *text, &enrolment).map_err(|_never| LoginError::Kept)?;
    replace_private(&enrol_path(state_dir), &text, entropy)
}

/// Removes what enrols this installation: the person signed out.
pub(super) fn forget_enrolment(state_dir: &Path) -> Result<(), LoginError> {
    remove(&enrol_path(state_dir)).map(drop)
}

/// Removes the ID token; says whether there was one.
pub(super) fn forget_claims(state_dir: &Path) -> Result<bool, LoginError> {
    remove(&claims_path(state_dir))
}

fn remove(path: &Path) -> Result<bool, LoginError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LoginError::Disk {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Replaces a private file: whole and on the disk before it has its name, so that a reader sees
/// the old one or the new one. A crash before leaves a draft that nobody reads.
fn replace_private(
    path: &Path,
    content: &[u8],
    entropy: &mut dyn Entropy,
) -> Result<(), LoginError> {
    let failed = |source| LoginError::Disk {
        path: path.to_owned(),
        source,
    };
    let mut tag = [0; 8];
    entropy.fill(&mut tag);
    let tag = data_encoding::HEXLOWER.encode(&tag);
    let draft = path.with_extension(format!("{tag}.new"));
    if let Some(dir) = path.parent() {
        files::create_private_dir(dir).map_err(failed)?;
    }
    vault::create_private(&draft, content, entropy).map_err(failed)?;
    if let Err(error) = std::fs::rename(&draft, path) {
        drop(std::fs::remove_file(&draft));
        return Err(failed(error));
    }
    path.parent()
        .map_or(Ok(()), vault::sync_dir)
        .map_err(failed)
}

/// The right to change the tokens of one issuer, on this machine and for this user; ends with
/// the value or the process.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "held, not used")] File);

/// Takes that right; waits while another process has it, at most [`limits::LOGIN_LOCK_MS`].
pub(super) async fn lock(state_dir: &Path, issuer: &str) -> Result<Held, LoginError> {
    let name = Digest::of(issuer.as_bytes()).to_string();
    locked(state_dir, &format!("{name:.16}.lock")).await
}

/// The right to say who is signed in, at whichever issuer; taken after the one of the issuer.
/// Without it a renewal at one issuer could write over a sign-in that was just made at another.
pub(super) async fn lock_claims(state_dir: &Path) -> Result<Held, LoginError> {
    locked(state_dir, "claims.lock").await
}

async fn locked(state_dir: &Path, name: &str) -> Result<Held, LoginError> {
    let dir = state_dir.join("login");
    let path = dir.join(name);
    let failed = |source| LoginError::Disk {
        path: path.clone(),
        source,
    };
    files::create_private_dir(&dir).map_err(failed)?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(limits::LOGIN_LOCK_MS);
    loop {
        if let Some(lock) = files::try_lock(&path).map_err(failed)? {
            return Ok(Held(lock));
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(LoginError::Busy);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
