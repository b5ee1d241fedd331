//! Batches: how records travel from a device to the collector, shared by both ends.
//!
//! A batch is a signed header and a compressed run of frames of one stream, byte for byte as
//! they lie in the spool:
//!
//! ```text
//! offset  size  field                      (integers are big-endian)
//!      0     4  "MCB1"
//!      4     1  minimum reader             1
//!      5     1  flags                      1 = gap, 2 = quarantine, 4 = withheld, 8 = body
//!      6     2  organisation length        n, 1 to 64
//!      8    16  stream
//!     24     8  first sequence number
//!     32     8  last sequence number
//!     40    32  chain hash before the first frame
//!     72    32  chain hash of the last frame
//!    104    32  SHA-256 of the compressed body
//!    136     4  compressed body length
//!    140     4  body length once decompressed
//!    144     8  records this device still holds after this batch
//!    152     8  sent at, microseconds since the Unix epoch
//!    160    32  installation public key (Ed25519)
//!    192     n  organisation
//!  192+n    64  signature (Ed25519) over "mcpshim/batch/1\0" and the bytes 0..192+n
//!  256+n     …  body: one Zstandard frame
//! ```
//!
//! Nothing is decompressed before the signature and the body's digest are checked, and
//! decompression stops at the declared, bounded size. `docs/formats/batch.md` is the whole
//! protocol.
#![warn(missing_docs)]

pub mod protocol;

use std::io::Read as _;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::ids::{Digest, KeyId, OrgId, StreamId};
use crate::limits;

const MAGIC: &[u8; 4] = b"MCB1";
const READER: u8 = 1;
const DOMAIN: &[u8] = b"mcpshim/batch/1\0";
const FIXED: usize = 192;
const SIGNATURE: usize = 64;
const FLAG_GAP: u8 = 1;
const FLAG_QUARANTINE: u8 = 2;
const FLAG_WITHHELD: u8 = 4;
const FLAG_BODY: u8 = 8;
const LEVEL: i32 = 1;

/// Longest header with its signature, in bytes: what a reader must hold before it knows more.
pub const HEADER_BYTES: usize = FIXED + 64 + SIGNATURE;

/// The public half of an installation key: which copy of mcpshim on which device speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Installation(pub [u8; 32]);

impl Installation {
    /// Returns its id: the SHA-256 of the 32 bytes.
    #[must_use]
    pub fn id(&self) -> KeyId {
        Digest::of(&self.0).into()
    }

    /// Checks a signature of this installation over the message.
    ///
    /// # Errors
    /// [`BatchError::Signature`] when it does not hold.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BatchError> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .map_err(|ring::error::Unspecified| BatchError::Signature(self.id()))
    }
}

impl std::fmt::Debug for Installation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.id(), f)
    }
}

/// The key that signs this installation's batches. `crate::vault` makes and keeps it.
pub struct InstallationKey {
    pair: Ed25519KeyPair,
    public: Installation,
}

impl std::fmt::Debug for InstallationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InstallationKey({})", self.id())
    }
}

impl InstallationKey {
    /// Makes the pair from its 32-byte seed.
    ///
    /// Returns nothing for a seed of another length.
    #[must_use]
    pub fn from_seed(seed: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = Installation(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pair, public })
    }

    /// Returns the key's id: the SHA-256 of its public half.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> Installation {
        self.public
    }

    /// Returns the pair, to sign with.
    #[must_use]
    pub fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }
}

/// What a batch claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One record that was delivered withheld, now with its sealed part.
    Body,
    /// It follows the frame the collector holds last.
    Following,
    /// The device no longer holds what comes before: the collector keeps it behind a gap.
    Gap,
    /// One frame the collector refused to read; kept apart, as bytes.
    Quarantine,
    /// One record without its sealed part, which is too large for what lies between: the device
    /// keeps it, and the chain has its digest.
    Withheld,
}

/// What a batch says about itself; all of it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The organisation.
    pub org: OrgId,
    /// The stream the frames belong to.
    pub stream: StreamId,
    /// Sequence number of the first frame.
    pub first_seq: u64,
    /// Sequence number of the last frame.
    pub last_seq: u64,
    /// Chain hash before the first frame.
    pub prev_hash: Digest,
    /// Chain hash of the last frame.
    pub last_hash: Digest,
    /// How it relates to what was sent before.
    pub kind: Kind,
    /// Records the device still holds, in all streams, once this batch is stored.
    pub remaining: u64,
    /// When it was sent, in microseconds since the Unix epoch, by the device's clock.
    pub sent_us: u64,
    /// Who signs.
    pub installation: Installation,
}

/// A batch that cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The body's digest is another one.
    #[error("batch body has another digest than its header says")]
    BodyDigest,
    /// The body does not decompress to what the header says.
    #[error("batch body does not decompress to the {expected} bytes its header says")]
    Compression {
        /// The declared size.
        expected: u64,
    },
    /// A field has a value that no writer gives it.
    #[error("batch header field {0} is out of its range")]
    Field(&'static str),
    /// Not a batch.
    #[error("not a batch: it does not begin with MCB1")]
    Magic,
    /// Written for a newer reader.
    #[error("batch needs a reader of version {0}, this one is of version 1")]
    Newer(u8),
    /// The signature does not hold.
    #[error("signature of installation key {} does not hold", .0.as_str())]
    Signature(KeyId),
    /// Bytes are missing or left over.
    #[error("batch has {have} bytes, its header says {expected}")]
    Size {
        /// What there is.
        have: usize,
        /// What there should be.
        expected: usize,
    },
    /// Over a bound.
    #[error("batch has {have} bytes {what}, the limit is {limit}")]
    TooLarge {
        /// `compressed` or `decompressed`.
        what: &'static str,
        /// What there is.
        have: u64,
        /// The bound.
        limit: usize,
    },
}

/// A batch whose signature and body digest were checked.
///
/// The frames inside are still only what the device says: their chain is checked by
/// [`crate::audit`], and whether the key is anyone's is the collector's business.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// The header.
    pub header: Header,
    /// SHA-256 of the body as it travelled.
    pub body_digest: Digest,
    /// The body's length once decompressed.
    pub raw_bytes: u32,
    body: &'a [u8],
}

/// Makes a batch: compresses the frames and signs the header.
///
/// # Errors
/// [`BatchError::TooLarge`] when the frames are over [`limits::BATCH_BYTES`],
/// [`BatchError::Field`] when the sequence numbers are not a range.
pub fn seal(header: &Header, frames: &[u8], key: &Ed25519KeyPair) -> Result<Vec<u8>, BatchError> {
    let raw_bytes = bounded("decompressed", frames.len(), limits::BATCH_BYTES.1)?;
    check_range(header)?;
    let body = zstd::bulk::compress(frames, LEVEL).map_err(|_io| BatchError::Compression {
        expected: u64::from(raw_bytes),
    })?;
    let body_bytes = bounded("compressed", body.len(), limits::BATCH_BYTES.0)?;

    let org = header.org.as_str().as_bytes();
    let org_bytes = u16::try_from(org.len()).map_err(|_big| BatchError::Field("organisation"))?;
    let mut out = Vec::with_capacity(FIXED + org.len() + SIGNATURE + body.len());
    out.extend_from_slice(MAGIC);
    out.push(READER);
    out.push(match header.kind {
        Kind::Body => FLAG_BODY,
        Kind::Following => 0,
        Kind::Gap => FLAG_GAP,
        Kind::Quarantine => FLAG_QUARANTINE,
        Kind::Withheld => FLAG_WITHHELD,
    });
    out.extend_from_slice(&org_bytes.to_be_bytes());
    out.extend_from_slice(&header.stream.0);
    out.extend_from_slice(&header.first_seq.to_be_bytes());
    out.extend_from_slice(&header.last_seq.to_be_bytes());
    out.extend_from_slice(&header.prev_hash.0);
    out.extend_from_slice(&header.last_hash.0);
    out.extend_from_slice(&Digest::of(&body).0);
    out.extend_from_slice(&body_bytes.to_be_bytes());
    out.extend_from_slice(&raw_bytes.to_be_bytes());
    out.extend_from_slice(&header.remaining.to_be_bytes());
    out.extend_from_slice(&header.sent_us.to_be_bytes());
    out.extend_from_slice(&header.installation.0);
    out.extend_from_slice(org);
    let signature = key.sign(&signed(&out));
    out.extend_from_slice(signature.as_ref());
    out.extend_from_slice(&body);
    Ok(out)
}

/// The front of a batch: all that stands before its body, with the signature checked.
///
/// Who signed and how much is to come are known from it, before a byte of the body is read.
#[derive(Debug, Clone)]
pub struct Front {
    /// The header.
    pub header: Header,
    /// SHA-256 of the body as it travels.
    pub body_digest: Digest,
    /// The body's length as it travels.
    pub body_bytes: u32,
    /// The body's length once decompressed.
    pub raw_bytes: u32,
    /// The length of the front itself.
    bytes: usize,
}

impl Front {
    /// Reads the front of a batch and checks its signature; what follows it is not looked at.
    /// [`HEADER_BYTES`] are always enough.
    ///
    /// # Errors
    /// One [`BatchError`] per thing that can be wrong with a front.
    pub fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        let (front, signature) = parse(bytes)?;
        front.check(bytes, &signature)?;
        Ok(front)
    }

    /// The length of the whole batch, in bytes.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        let body = usize::try_from(self.body_bytes).unwrap_or(usize::MAX);
        self.bytes.saturating_add(body)
    }

    fn check(&self, bytes: &[u8], signature: &[u8]) -> Result<(), BatchError> {
        let head = bytes
            .get(..self.bytes - SIGNATURE)
            .ok_or(BatchError::Field("organisation"))?;
        self.header.installation.verify(&signed(head), signature)
    }
}

fn parse(bytes: &[u8]) -> Result<(Front, [u8; SIGNATURE]), BatchError> {
    let mut reader = Fields(bytes);
    if reader.take("magic", 4)? != MAGIC {
        return Err(BatchError::Magic);
    }
    let [min_reader, flags] = reader.array("reader and flags")?;
    if min_reader != READER {
        return Err(BatchError::Newer(min_reader));
    }
    let kind = match flags {
        0 => Kind::Following,
        FLAG_GAP => Kind::Gap,
        FLAG_QUARANTINE => Kind::Quarantine,
        FLAG_WITHHELD => Kind::Withheld,
        FLAG_BODY => Kind::Body,
        _ => return Err(BatchError::Field("flags")),
    };
    let org_bytes = usize::from(u16::from_be_bytes(reader.array("organisation length")?));
    let stream = StreamId(reader.array("stream")?);
    let first_seq = u64::from_be_bytes(reader.array("first sequence number")?);
    let last_seq = u64::from_be_bytes(reader.array("last sequence number")?);
    let prev_hash = Digest(reader.array("previous hash")?);
    let last_hash = Digest(reader.array("last hash")?);
    let body_digest = Digest(reader.array("body digest")?);
    let body_bytes = u32::from_be_bytes(reader.array("body length")?);
    let raw_bytes = u32::from_be_bytes(reader.array("decompressed length")?);
    let remaining = u64::from_be_bytes(reader.array("remaining records")?);
    let sent_us = u64::from_be_bytes(reader.array("sent at")?);
    let installation = Installation(reader.array("installation key")?);
    if org_bytes == 0 || org_bytes > 64 {
        return Err(BatchError::Field("organisation length"));
    }
    let org = std::str::from_utf8(reader.take("organisation", org_bytes)?)
        .ok()
        .and_then(|text| OrgId::parse(text).ok())
        .ok_or(BatchError::Field("organisation"))?;
    let signature: [u8; SIGNATURE] = reader.array("signature")?;
    let header = Header {
        org,
        stream,
        first_seq,
        last_seq,
        prev_hash,
        last_hash,
        kind,
        remaining,
        sent_us,
        installation,
    };
    check_range(&header)?;
    let declared = usize::try_from(body_bytes).unwrap_or(usize::MAX);
    bounded("compressed", declared, limits::BATCH_BYTES.0)?;
    bounded(
        "decompressed",
        usize::try_from(raw_bytes).unwrap_or(usize::MAX),
        limits::BATCH_BYTES.1,
    )?;
    let front = Front {
        header,
        body_digest,
        body_bytes,
        raw_bytes,
        bytes: FIXED + org_bytes + SIGNATURE,
    };
    Ok((front, signature))
}

/// Reads a batch and checks its signature and its body's digest.
///
/// # Errors
/// One [`BatchError`] per thing that can be wrong; nothing is decompressed here.
pub fn open(bytes: &[u8]) -> Result<Batch<'_>, BatchError> {
    let (front, signature) = parse(bytes)?;
    if bytes.len() != front.batch_bytes() {
        return Err(BatchError::Size {
            have: bytes.len(),
            expected: front.batch_bytes(),
        });
    }
    front.check(bytes, &signature)?;
    let body = bytes.get(front.bytes..).unwrap_or_default();
    if Digest::of(body) != front.body_digest {
        return Err(BatchError::BodyDigest);
    }
    Ok(Batch {
        header: front.header,
        body,
        body_digest: front.body_digest,
        raw_bytes: front.raw_bytes,
    })
}

impl Batch<'_> {
    /// Decompresses the frames; stops at the declared size.
    ///
    /// # Errors
    /// [`BatchError::Compression`] when the body is not one Zstandard frame of exactly that size.
    pub fn frames(&self) -> Result<Vec<u8>, BatchError> {
        let bad = BatchError::Compression {
            expected: u64::from(self.raw_bytes),
        };
        let mut decoder = zstd::stream::read::Decoder::with_buffer(self.body)
            .map_err(|_io| bad.clone())?
            .single_frame();
        // a window larger than the largest body would only serve to make us allocate
        decoder
            .window_log_max(limits::BATCH_BYTES.1.ilog2())
            .map_err(|_io| bad.clone())?;
        // grows with what really comes out: a small lie must not reserve 32 MiB
        let mut frames = Vec::new();
        let most = u64::from(self.raw_bytes) + 1;
        decoder
            .by_ref()
            .take(most)
            .read_to_end(&mut frames)
            .map_err(|_io| bad.clone())?;
        if u64::try_from(frames.len()) != Ok(u64::from(self.raw_bytes))
            || !decoder.finish().is_empty()
        {
            return Err(bad);
        }
        Ok(frames)
    }
}

fn signed(head: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(DOMAIN.len() + head.len());
    message.extend_from_slice(DOMAIN);
    message.extend_from_slice(head);
    message
}

fn check_range(header: &Header) -> Result<(), BatchError> {
    let records = header
        .last_seq
        .checked_sub(header.first_seq)
        .and_then(|span| span.checked_add(1))
        .ok_or(BatchError::Field("last sequence number"))?;
    if header.first_seq == 0 {
        return Err(BatchError::Field("first sequence number"));
    }
    if usize::try_from(records).map_or(true, |n| n > limits::BATCH_RECORDS) {
        return Err(BatchError::Field("last sequence number"));
    }
    let alone = matches!(header.kind, Kind::Body | Kind::Quarantine | Kind::Withheld);
    if alone && records != 1 {
        return Err(BatchError::Field("flags"));
    }
    Ok(())
}

fn bounded(what: &'static str, have: usize, limit: usize) -> Result<u32, BatchError> {
    match u32::try_from(have) {
        Ok(small) if have <= limit => Ok(small),
        _ => Err(BatchError::TooLarge {
            what,
            have: u64::try_from(have).unwrap_or(u64::MAX),
            limit,
        }),
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, field: &'static str, bytes: usize) -> Result<&'a [u8], BatchError> {
        let (head, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(BatchError::Field(field))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], BatchError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(BatchError::Field(field))?;
        self.0 = rest;
        Ok(*head)
    }
}

/// The fuzz target: any bytes are refused or read, within bounded memory and without a panic.
pub fn fuzz_batch(bytes: &[u8]) {
    if let Ok(batch) = open(bytes)
        && let Ok(frames) = batch.frames()
    {
        assert!(frames.len() <= limits::BATCH_BYTES.1);
    }
    // the signature stops nearly all inputs: the decompressor gets its own way in
    let unsigned = Batch {
        header: Header {
            org: match OrgId::parse("fuzz") {
                Ok(org) => org,
                Err(_bad) => return,
            },
            stream: StreamId([0; 16]),
            first_seq: 1,
            last_seq: 1,
            prev_hash: Digest::default(),
            last_hash: Digest::default(),
            kind: Kind::Following,
            remaining: 0,
            sent_us: 0,
            installation: Installation([0; 32]),
        },
        body: bytes,
        body_digest: Digest::default(),
        raw_bytes: 1 << 16,
    };
    if let Ok(frames) = unsigned.frames() {
        assert_eq!(frames.len(), 1 << 16);
    }
}

#[cfg(test)]
mod tests;
