//! Sealing: what only the holder of an audit key can read.
//!
//! A random data key per segment, wrapped by HPKE (RFC 9180) to each audit key of the registry;
//! from it a key per record, used once. The public-key work is done once per segment (60 µs and
//! 80 bytes per audit key), a record costs two HMACs and one AES-256-GCM.
//!
//! The private halves are never on a laptop or at the collector. Who holds one can read every
//! payload sealed to it; who can write the registry can name a key of their own, and then reads
//! what is sealed from there on.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use zeroize::Zeroizing;

use super::code::{Reader, put_text};
use super::decode::{Bound, Decoded, Payload, Said, SegmentHeader};
use crate::clock::Entropy;
use crate::ids::{Digest, KeyId, OrgId, StreamId};
use crate::limits;
use crate::registry::doc::AuditKeyDoc;
use crate::secret::{Content, Secret};

/// The only HPKE suite of this version.
pub const SUITE: &str = "x25519-hkdf-sha256/chacha20poly1305";
/// Most audit keys one segment is sealed to.
pub const RECIPIENTS: usize = 4;

const PRIVATE_PREFIX: &str = "mcpshim-audit-private-1:";
const WRAP: &[u8] = b"mcpshim/data-key/1\n";
const SEAL: &[u8] = b"mcpshim/seal/1\n";
const TAG_BYTES: usize = 16;
/// A record's place, as every derivation is given it.
const PLACE_BYTES: usize = 49;
const ENCAPPED_BYTES: usize = 32;
const WRAPPED_BYTES: usize = 32 + TAG_BYTES;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type SecretKey = <X25519HkdfSha256 as Kem>::PrivateKey;

/// The size a payload of `len` bytes is said and padded to: with its length field (4 bytes) the
/// next of 256, 512, 1024, 2048, 4096, and from there Padmé (Nikitin et al., 2019), which adds at
/// most 12 % and tells only the first bits of the length.
#[must_use]
pub fn bucket(len: usize) -> usize {
    let plain = len.saturating_add(4);
    if plain <= 4096 {
        return plain.next_power_of_two().max(256);
    }
    let exponent = plain.ilog2();
    let mask = (1_usize << (exponent - exponent.ilog2() - 1)) - 1;
    plain.saturating_add(mask) & !mask
}

/// The private half of an audit key.
#[derive(Debug, Clone)]
pub struct PrivateKey {
    key: Secret,
    id: KeyId,
}

impl PrivateKey {
    /// Its id: the SHA-256 of its public half.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Its text form, one line, for a file only its owner can read.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        let encoded = Zeroizing::new(data_encoding::BASE64.encode(self.key.expose()));
        Secret::new(format!("{PRIVATE_PREFIX}{}\n", encoded.as_str()).into_bytes())
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`UnsealError::BadKey`] for anything else.
    pub fn from_text(text: &[u8]) -> Result<Self, UnsealError> {
        let encoded = text
            .trim_ascii()
            .strip_prefix(PRIVATE_PREFIX.as_bytes())
            .ok_or(UnsealError::BadKey)?;
        let bytes = data_encoding::BASE64
            .decode(encoded)
            .ok()
            .ok_or(UnsealError::BadKey)?;
        let key = Secret::new(bytes);
        let secret = SecretKey::from_bytes(key.expose())
            .ok()
            .ok_or(UnsealError::BadKey)?;
        let id = key_id(&X25519HkdfSha256::sk_to_pk(&secret).to_bytes())?;
        Ok(Self { key, id })
    }
}

/// Makes an audit key, valid in the given Unix seconds. The document goes into the registry, the
/// private half to the people who may read payloads.
///
/// # Errors
/// [`UnsealError::BadKey`] when the key cannot be made; it does not happen.
pub fn generate_audit_key(
    entropy: &mut dyn Entropy,
    not_before: u64,
    not_after: u64,
) -> Result<(PrivateKey, AuditKeyDoc), UnsealError> {
    let mut seed = Zeroizing::new([0; 32]);
    entropy.fill(seed.as_mut());
    let (secret, public) = X25519HkdfSha256::derive_keypair(seed.as_ref());
    let public = public.to_bytes();
    let id = key_id(&public)?;
    let doc = AuditKeyDoc {
        id: id.clone(),
        suite: SUITE.to_owned(),
        public: data_encoding::BASE64.encode(&public),
        not_before,
        not_after,
    };
    let key = Secret::new(secret.to_bytes().to_vec());
    Ok((PrivateKey { key, id }, doc))
}

fn key_id(public: &[u8]) -> Result<KeyId, UnsealError> {
    KeyId::parse(&Digest::of(public).to_string())
        .ok()
        .ok_or(UnsealError::BadKey)
}

/// An audit key that payloads may be sealed to now.
pub(super) struct Recipient {
    id: KeyId,
    public: PublicKey,
}

/// The keys among `keys` that may be used at `unix_s`: known suite, valid time, and an id that is
/// the digest of the key. At most [`RECIPIENTS`], in the registry's order.
pub(super) fn recipients(keys: &[AuditKeyDoc], unix_s: u64) -> Vec<Recipient> {
    let usable = keys.iter().filter_map(|doc| {
        if doc.suite != SUITE || unix_s < doc.not_before || unix_s >= doc.not_after {
            return None;
        }
        let bytes = data_encoding::BASE64.decode(doc.public.as_bytes()).ok()?;
        let public = PublicKey::from_bytes(&bytes).ok()?;
        let id = key_id(&bytes).ok()?;
        (id == doc.id).then_some(Recipient { id, public })
    });
    usable.take(RECIPIENTS).collect()
}

/// Which segment a data key belongs to.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) org: &'a OrgId,
    pub(super) stream: StreamId,
    pub(super) first_seq: u64,
}

impl Place<'_> {
    fn info(&self, key: &KeyId) -> Vec<u8> {
        let mut info = WRAP.to_vec();
        put_text(&mut info, self.org.as_str(), usize::MAX);
        put_text(&mut info, key.as_str(), usize::MAX);
        info.extend_from_slice(&self.stream.0);
        info.extend_from_slice(&self.first_seq.to_le_bytes());
        info
    }
}

/// A data key wrapped to one audit key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey<'a> {
    /// To which.
    pub key: &'a str,
    encapped: [u8; ENCAPPED_BYTES],
    wrapped: [u8; WRAPPED_BYTES],
}

/// Reads the blob of a segment frame.
pub(super) fn wrapped_keys(blob: &[u8]) -> Option<Vec<WrappedKey<'_>>> {
    let mut reader = Reader::new(blob);
    let count = usize::from(reader.byte()?);
    (0..count.min(RECIPIENTS))
        .map(|_| {
            Some(WrappedKey {
                key: reader.text()?,
                encapped: reader.array()?,
                wrapped: reader.array()?,
            })
        })
        .collect()
}

struct Random<'a>(&'a mut dyn Entropy);

impl TryRng for Random<'_> {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for Random<'_> {}

/// What happened at one record: part of every key derived for it.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) seq: u64,
    pub(super) kind: u8,
    /// The how-manieth derivation under this data key. Never used twice, also where a write
    /// failed and `seq` is used again.
    pub(super) nonce: u64,
}

/// The key that opens one segment's payloads.
pub struct DataKey {
    stream: StreamId,
    first_seq: u64,
    hmac: hmac::Key,
    used: u64,
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "«data key of {}/{}»", self.stream, self.first_seq)
    }
}

impl DataKey {
    fn new(place: Place<'_>, key: &[u8; 32]) -> Self {
        Self {
            stream: place.stream,
            first_seq: place.first_seq,
            hmac: hmac::Key::new(hmac::HMAC_SHA256, key),
            used: 0,
        }
    }

    /// Makes a data key and writes it to `blob`, wrapped to each recipient. `None`, and nothing
    /// written, when there is nobody to wrap it to.
    pub(super) fn generate(
        place: Place<'_>,
        recipients: &[Recipient],
        entropy: &mut dyn Entropy,
        blob: &mut Vec<u8>,
    ) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        entropy.fill(key.as_mut());
        let mut count = 0_u8;
        let start = blob.len();
        blob.push(0);
        for recipient in recipients.iter().take(RECIPIENTS) {
            let wrapped =
                hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                    &OpModeS::Base,
                    &recipient.public,
                    &place.info(&recipient.id),
                    key.as_ref(),
                    &[],
                    &mut Random(entropy),
                );
            // a low-order public key is the only way to fail; that recipient gets nothing
            let Ok((encapped, wrapped)) = wrapped else {
                continue;
            };
            put_text(blob, recipient.id.as_str(), usize::MAX);
            blob.extend_from_slice(&encapped.to_bytes());
            blob.extend_from_slice(&wrapped);
            count += 1;
        }
        if count == 0 {
            blob.truncate(start);
            return None;
        }
        if let Some(slot) = blob.get_mut(start) {
            *slot = count;
        }
        Some(Self::new(place, &key))
    }

    /// Unwraps the data key of a segment.
    ///
    /// # Errors
    /// [`UnsealError::NotForThisKey`] when the segment is sealed to other keys or to none,
    /// [`UnsealError::Gone`] when its wrapped keys were taken away, [`UnsealError::Damaged`] when
    /// they do not open.
    pub fn open(segment: &SegmentHeader<'_>, private: &PrivateKey) -> Result<Self, UnsealError> {
        if segment.detached {
            return Err(UnsealError::Gone);
        }
        let wrapped = segment
            .wrapped
            .iter()
            .find(|wrapped| wrapped.key == private.id.as_str())
            .ok_or(UnsealError::NotForThisKey)?;
        let place = Place {
            org: &segment.org,
            stream: segment.stream,
            first_seq: segment.first_seq,
        };
        let secret = SecretKey::from_bytes(private.key.expose())
            .ok()
            .ok_or(UnsealError::BadKey)?;
        let encapped = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&wrapped.encapped)
            .ok()
            .ok_or(UnsealError::Damaged)?;
        let key = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret,
            &encapped,
            &place.info(&private.id),
            &wrapped.wrapped,
            &[],
        );
        let key = Zeroizing::new(key.ok().ok_or(UnsealError::Damaged)?);
        let key: &[u8; 32] = key.as_slice().try_into().ok().ok_or(UnsealError::Damaged)?;
        Ok(Self::new(place, key))
    }

    /// Opens the payload of a record of this segment. `clear` is what its stream's
    /// [`ContextTable::clear`](super::ContextTable::clear) says of it.
    ///
    /// # Errors
    /// [`UnsealError`] says whether there never was one, it was taken away, or it is not what was
    /// written here.
    pub fn unseal(
        &self,
        record: &Decoded<'_>,
        clear: Option<Digest>,
    ) -> Result<Unsealed, UnsealError> {
        let Payload::Sealed {
            bound,
            nonce,
            commitment,
            bytes,
            bucket: whole,
        } = record.payload()
        else {
            return Err(UnsealError::NothingSealed);
        };
        let bytes = bytes.ok_or(UnsealError::Gone)?;
        let spot = Spot {
            seq: record.seq,
            kind: record.said.kind(),
            nonce: *nonce,
        };
        if self.commitment(spot) != *commitment {
            return Err(UnsealError::WrongSegment);
        }
        let clear = covered(*bound, clear)?;
        let failed = match clear {
            Some(_) => UnsealError::Changed,
            None => UnsealError::Damaged,
        };
        let mut plain = bytes.to_vec();
        let (aad, length) = self.aad(spot, clear.as_ref());
        let aad = aad.get(..length).unwrap_or(&aad);
        let opened = aes(&self.hash(spot, Label::Key))
            .and_then(|aes| {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                aes.open_in_place(nonce, Aad::from(aad), &mut plain).ok()
            })
            .ok_or(failed)?;
        let mut reader = Reader::new(opened);
        let content = reader
            .array()
            .and_then(|len| reader.bytes(u32::from_le_bytes(len) as usize))
            .ok_or(UnsealError::Damaged)?;
        Ok(Unsealed {
            cut: bucket(content.len()) as u64 != *whole,
            content: Content(bytes::Bytes::copy_from_slice(content)),
        })
    }

    /// Says whether a record whose payload was kept as a digest was made of exactly `content`, in
    /// this clear part (see [`Self::unseal`]). `None` when it was not kept as a digest.
    #[must_use]
    pub fn matches(
        &self,
        record: &Decoded<'_>,
        clear: Option<Digest>,
        content: &[u8],
    ) -> Option<bool> {
        let Payload::Digest {
            bound,
            nonce,
            digest,
            ..
        } = record.payload()
        else {
            return None;
        };
        let Ok(clear) = covered(*bound, clear) else {
            return Some(false);
        };
        let spot = Spot {
            seq: record.seq,
            kind: record.said.kind(),
            nonce: *nonce,
        };
        Some(self.digest(spot, clear.as_ref(), content) == *digest)
    }

    /// The next unused derivation number.
    pub(super) fn next_nonce(&mut self) -> u64 {
        self.used += 1;
        self.used
    }

    /// Seals `content` onto the end of `out` and returns the commitment to its key.
    pub(super) fn seal(&self, spot: Spot, clear: &Digest, content: &[u8], out: &mut Vec<u8>) {
        let content = content.get(..limits::PAYLOAD_BYTES).unwrap_or(content);
        let start = out.len();
        let padded = bucket(content.len());
        out.reserve(padded + TAG_BYTES);
        out.extend_from_slice(
            &u32::try_from(content.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        out.extend_from_slice(content);
        out.resize(start + padded, 0);
        let key = self.hash(spot, Label::Key);
        let (aad, _) = self.aad(spot, Some(clear));
        let sealed = out.get_mut(start..).and_then(|plain| {
            // the key is used for this one message, so the nonce may be constant
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            aes(&key)?
                .seal_in_place_separate_tag(nonce, Aad::from(aad), plain)
                .ok()
        });
        match sealed {
            Some(tag) => out.extend_from_slice(tag.as_ref()),
            // cannot happen below 64 GiB; if it did, nothing in clear may stay behind
            None => out.truncate(start),
        }
    }

    /// The commitment a sealed record carries: binds it to exactly one key, so that no second
    /// key opens the same bytes to something else.
    pub(super) fn commitment(&self, spot: Spot) -> [u8; 32] {
        self.hash(spot, Label::Commitment)
    }

    /// The salted digest of `content`; the salt follows from the data key.
    pub(super) fn digest(&self, spot: Spot, clear: Option<&Digest>, content: &[u8]) -> Digest {
        let salt = match clear {
            None => self.hash(spot, Label::Salt),
            Some(_) => self.hash(spot, Label::BoundSalt),
        };
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&salt);
        if let Some(clear) = clear {
            context.update(&clear.0);
        }
        context.update(content);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Digest(digest)
    }

    /// What sealing covers beside the payload. The two forms differ in length, so none is taken for
    /// the other.
    fn aad(&self, spot: Spot, clear: Option<&Digest>) -> ([u8; PLACE_BYTES + 32], usize) {
        let mut aad = [0; PLACE_BYTES + 32];
        let (place, rest) = aad.split_at_mut(PLACE_BYTES);
        place.copy_from_slice(&self.message(spot, Label::Aad));
        let Some(clear) = clear else {
            return (aad, PLACE_BYTES);
        };
        rest.copy_from_slice(&clear.0);
        (aad, PLACE_BYTES + 32)
    }

    fn hash(&self, spot: Spot, label: Label) -> [u8; 32] {
        let mut out = [0; 32];
        let tag = hmac::sign(&self.hmac, &self.message(spot, label));
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// 49 bytes: with the padding of SHA-256 one block.
    fn message(&self, spot: Spot, label: Label) -> [u8; PLACE_BYTES] {
        let mut message = [0; PLACE_BYTES];
        let mut at = 0;
        let parts: [&[u8]; 5] = [
            SEAL,
            &self.stream.0,
            &spot.seq.to_le_bytes(),
            &[spot.kind, label as u8],
            &spot.nonce.to_le_bytes(),
        ];
        for part in parts {
            if let Some(slot) = message.get_mut(at..at + part.len()) {
                slot.copy_from_slice(part);
            }
            at += part.len();
        }
        message
    }
}

/// What a derivation is for.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Label {
    Key = 1,
    Commitment = 2,
    Salt = 3,
    Aad = 4,
    BoundSalt = 5,
}

/// The clear digest that a payload was bound to, if it was to any.
fn covered(bound: Bound, clear: Option<Digest>) -> Result<Option<Digest>, UnsealError> {
    match bound {
        Bound::Clear | Bound::Own => clear.map(Some).ok_or(UnsealError::Apart),
        Bound::Place => Ok(None),
    }
}

fn aes(key: &[u8; 32]) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?))
}

/// A payload in clear.
#[derive(Debug, Clone)]
pub struct Unsealed {
    /// The bytes.
    pub content: Content,
    /// There was more: only the first [`limits::PAYLOAD_BYTES`] were kept.
    pub cut: bool,
}

/// Why a payload does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// What it was sealed with is not here.
    #[error("what the record refers to is missing: its contexts or its intent")]
    Apart,
    /// Not an audit key of ours.
    #[error("this is not a private audit key (expected one line that begins `{PRIVATE_PREFIX}`)")]
    BadKey,
    /// Moved, or its clear part was written anew.
    #[error(
        "the payload was not sealed in this record: its clear part, or who, what and which rule it \
         refers to, were changed"
    )]
    Changed,
    /// The bytes are not what was sealed.
    #[error("the sealed bytes are not what was written")]
    Damaged,
    /// Taken away after its time.
    #[error("the payload or its key was taken away")]
    Gone,
    /// Sealed to other keys, or to none.
    #[error("the segment is not sealed to this key")]
    NotForThisKey,
    /// The record never had a sealed payload.
    #[error("the record has no sealed payload")]
    NothingSealed,
    /// The record belongs to another segment or place in the stream.
    #[error("the record was not sealed in this segment")]
    WrongSegment,
}

/// The payload a record carries, if its kind can.
impl<'a> Decoded<'a> {
    /// The payload; [`Payload::Empty`] for kinds that have none.
    #[must_use]
    pub fn payload(&self) -> &Payload<'a> {
        match &self.said {
            Said::Carried { call, .. } | Said::Denial { call, .. } | Said::Intent(call) => {
                &call.payload
            }
            Said::Outcome { payload, .. } => payload,
            Said::Context { .. }
            | Said::Counted { .. }
            | Said::Damage { .. }
            | Said::End { .. }
            | Said::Link { .. }
            | Said::Loss { .. }
            | Said::Segment(_)
            | Said::Stream(_)
            | Said::Unknown { .. } => &Payload::Empty,
        }
    }
}
