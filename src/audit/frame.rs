//! Frames: length, checksum, number and chain.
//!
//! ```text
//!  0   2  magic       b5 6d
//!  2   1  version     1
//!  3   1  flags       1 = has a blob, 2 = the blob is detached: its digest stands in its place
//!  4   4  crc         CRC-32C of the frame without this field
//!  8   4  length      bytes after the head
//! 12   2  meta        length of the meta part
//! 14   1  kind
//! 15   1  reserved    0
//! 16   8  seq         from 1, dense within the stream
//! 24  32  hash        SHA-256("mcpshim/chain/1\n" ‖ previous hash ‖ version ‖ kind ‖ blob? ‖
//!                             seq ‖ meta length ‖ meta ‖ SHA-256(blob))
//! 56      meta, blob
//! ```
//! Numbers are little-endian. A byte of a blob is hashed once; a blob can be taken away later (a
//! payload whose time is over, a wrapped key that is to be shredded) and the chain still holds.

use ring::digest::{Context, SHA256};

use crate::ids::Digest;
use crate::limits;

/// The version of frames and records that this code writes, and the newest it reads.
pub const VERSION: u8 = 1;
/// The hash before a stream's first frame.
pub const GENESIS: Digest = Digest([0; 32]);
/// Bytes before the meta part.
pub const HEAD_BYTES: usize = 56;
/// Largest meta part, in bytes: its length has two bytes.
pub const META_BYTES: usize = u16::MAX as usize;
/// Largest blob, in bytes: the largest payload, padded, with its tag.
pub const BLOB_BYTES: usize = limits::PAYLOAD_BYTES + limits::PAYLOAD_BYTES / 8;

const MAGIC: [u8; 2] = [0xb5, 0x6d];
const CHAIN: &[u8; 16] = b"mcpshim/chain/1\n";
const HAS_BLOB: u8 = 1;
const DETACHED: u8 = 2;

/// The blob of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blob<'a> {
    /// Taken away; this is its digest.
    Detached(Digest),
    /// There is none.
    None,
    /// Here.
    Present(&'a [u8]),
}

/// One frame whose checksum holds. Whether its place in the chain holds is [`verify_chain`]'s.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Where it starts in the bytes that were read.
    pub offset: usize,
    /// Its number in the stream.
    pub seq: u64,
    /// The chain up to and including it.
    pub hash: Digest,
    /// What it says, see [`crate::audit::decode()`]. Unknown kinds are kept and passed on.
    pub kind: u8,
    /// Its clear part.
    pub meta: &'a [u8],
    /// Its sealed part.
    pub blob: Blob<'a>,
    /// The whole frame.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// The hash this frame must carry after `prev`.
    #[must_use]
    pub fn chain(&self, prev: &Digest) -> Digest {
        let blob = match self.blob {
            Blob::Detached(digest) => Some(digest),
            Blob::None => None,
            Blob::Present(bytes) => Some(Digest::of(bytes)),
        };
        chain(prev, self.kind, self.seq, self.meta, blob.as_ref())
    }

    /// Writes the frame with its blob detached: the chain still holds, the blob's bytes are gone.
    pub fn detach(&self, out: &mut Vec<u8>) {
        match self.blob {
            Blob::Present(bytes) => {
                let digest = Digest::of(bytes);
                let (kind, seq, meta) = (self.kind, self.seq, self.meta);
                write(
                    out,
                    kind,
                    HAS_BLOB | DETACHED,
                    seq,
                    &self.hash,
                    meta,
                    |out| {
                        out.extend_from_slice(&digest.0);
                    },
                );
            }
            Blob::Detached(_) | Blob::None => out.extend_from_slice(self.bytes),
        }
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They end inside a frame: still being written, or torn.
    #[error("the frame at byte {offset} is cut")]
    Cut {
        /// Where the frame starts.
        offset: usize,
    },
    /// They are not a frame, or not as it was written.
    #[error("the frame at byte {offset} is damaged")]
    Damaged {
        /// Where the frame starts.
        offset: usize,
    },
    /// A newer program wrote it.
    #[error("the frame at byte {offset} has version {version}, this program reads {VERSION}")]
    Version {
        /// Where the frame starts.
        offset: usize,
        /// The version it names.
        version: u8,
    },
}

impl FrameError {
    /// Where the frame starts: every byte before it was read.
    #[must_use]
    pub fn offset(&self) -> usize {
        match self {
            Self::Cut { offset } | Self::Damaged { offset } | Self::Version { offset, .. } => {
                *offset
            }
        }
    }
}

/// Reads frames one after the other. After the first error it ends.
#[must_use]
pub fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames {
        bytes,
        offset: 0,
        done: false,
    }
}

/// The iterator of [`frames`].
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    offset: usize,
    done: bool,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done || self.offset == self.bytes.len() {
            return None;
        }
        let read = read(self.bytes, self.offset);
        match &read {
            Ok(frame) => self.offset += frame.bytes.len(),
            Err(_) => self.done = true,
        }
        Some(read)
    }
}

fn read(bytes: &[u8], offset: usize) -> Result<Frame<'_>, FrameError> {
    let cut = FrameError::Cut { offset };
    let damaged = FrameError::Damaged { offset };
    let rest = bytes.get(offset..).ok_or(cut)?;
    let Some((head, body)) = rest.split_first_chunk::<HEAD_BYTES>() else {
        // what there is of the head may already be wrong
        let wrong = rest.iter().zip(MAGIC).any(|(have, want)| *have != want);
        return Err(if wrong { damaged } else { cut });
    };
    let [m0, m1, version, flags, crc @ ..] = head;
    if [*m0, *m1] != MAGIC {
        return Err(damaged);
    }
    if *version != VERSION {
        let version = *version;
        return Err(FrameError::Version { offset, version });
    }
    let mut fields = super::code::Reader::new(crc);
    let mut take = || {
        let crc = u32::from_le_bytes(fields.array()?);
        let length = u32::from_le_bytes(fields.array()?);
        let meta = u16::from_le_bytes(fields.array()?);
        let [kind, reserved] = fields.array()?;
        let seq = u64::from_le_bytes(fields.array()?);
        Some((
            crc,
            length,
            meta,
            kind,
            reserved,
            seq,
            Digest(fields.array()?),
        ))
    };
    let (crc, length, meta, kind, reserved, seq, hash) = take().ok_or(damaged)?;
    let (length, meta) = (length as usize, usize::from(meta));
    let whole_flags = matches!(*flags, 0 | HAS_BLOB) || *flags == HAS_BLOB | DETACHED;
    if length < meta || length - meta > BLOB_BYTES || reserved != 0 || !whole_flags || seq == 0 {
        return Err(damaged);
    }
    let body = body.get(..length).ok_or(cut)?;
    let whole = rest.get(..HEAD_BYTES + length).ok_or(cut)?;
    if checksum(whole) != Some(crc) {
        return Err(damaged);
    }
    let (meta, blob) = body.split_at_checked(meta).ok_or(damaged)?;
    let blob = match *flags {
        0 if blob.is_empty() => Blob::None,
        HAS_BLOB => Blob::Present(blob),
        _ if *flags == HAS_BLOB | DETACHED => {
            Blob::Detached(Digest(blob.try_into().ok().ok_or(damaged)?))
        }
        _ => return Err(damaged),
    };
    Ok(Frame {
        offset,
        seq,
        hash,
        kind,
        meta,
        blob,
        bytes: whole,
    })
}

fn checksum(frame: &[u8]) -> Option<u32> {
    let (before, rest) = frame.split_at_checked(4)?;
    let (_, after) = rest.split_at_checked(4)?;
    Some(crc32c::crc32c_append(crc32c::crc32c(before), after))
}

fn chain(prev: &Digest, kind: u8, seq: u64, meta: &[u8], blob: Option<&Digest>) -> Digest {
    let mut fixed = [0; 16 + 32 + 13];
    let length = u32::try_from(meta.len()).unwrap_or(u32::MAX);
    let mut at = 0;
    for part in [
        &CHAIN[..],
        &prev.0,
        &[VERSION, kind, u8::from(blob.is_some())],
        &seq.to_le_bytes(),
        &length.to_le_bytes()[..2],
    ] {
        if let Some(slot) = fixed.get_mut(at..at + part.len()) {
            slot.copy_from_slice(part);
        }
        at += part.len();
    }
    let mut context = Context::new(&SHA256);
    context.update(&fixed);
    context.update(meta);
    if let Some(blob) = blob {
        context.update(&blob.0);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Digest(hash)
}

/// Writes a blob to the end of the buffer.
pub(crate) type PutBlob<'a> = &'a mut dyn FnMut(&mut Vec<u8>);

/// Appends one frame to `out` and returns the chain's new hash. `blob` writes the blob in place,
/// so that a large payload is copied once.
pub(crate) fn append(
    out: &mut Vec<u8>,
    prev: &Digest,
    kind: u8,
    seq: u64,
    meta: &[u8],
    blob: Option<PutBlob<'_>>,
) -> Digest {
    let start = out.len();
    match blob {
        None => {
            let hash = chain(prev, kind, seq, meta, None);
            write(out, kind, 0, seq, &hash, meta, |_| {});
            hash
        }
        Some(blob) => {
            out.reserve(HEAD_BYTES + meta.len());
            out.resize(start + HEAD_BYTES, 0);
            out.extend_from_slice(meta);
            let blob_at = out.len();
            blob(out);
            let digest = Digest::of(out.get(blob_at..).unwrap_or_default());
            let hash = chain(prev, kind, seq, meta, Some(&digest));
            head(out, start, kind, HAS_BLOB, seq, &hash, meta.len());
            hash
        }
    }
}

fn write(
    out: &mut Vec<u8>,
    kind: u8,
    flags: u8,
    seq: u64,
    hash: &Digest,
    meta: &[u8],
    blob: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.resize(start + HEAD_BYTES, 0);
    out.extend_from_slice(meta);
    blob(out);
    head(out, start, kind, flags, seq, hash, meta.len());
}

fn head(out: &mut [u8], start: usize, kind: u8, flags: u8, seq: u64, hash: &Digest, meta: usize) {
    let Some(frame) = out.get_mut(start..) else {
        return;
    };
    let length = u32::try_from(frame.len().saturating_sub(HEAD_BYTES)).unwrap_or(u32::MAX);
    let meta = u16::try_from(meta).unwrap_or(u16::MAX);
    let Some(head) = frame.first_chunk_mut::<HEAD_BYTES>() else {
        return;
    };
    let parts: [&[u8]; 8] = [
        &MAGIC,
        &[VERSION, flags],
        &[0; 4],
        &length.to_le_bytes(),
        &meta.to_le_bytes(),
        &[kind, 0],
        &seq.to_le_bytes(),
        &hash.0,
    ];
    let mut at = 0;
    for part in parts {
        if let Some(slot) = head.get_mut(at..at + part.len()) {
            slot.copy_from_slice(part);
        }
        at += part.len();
    }
    if let (Some(crc), Some(slot)) = (checksum(frame), frame.get_mut(4..8)) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
}

/// What a chained run of frames amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The first frame's number.
    pub first_seq: u64,
    /// The last frame's number.
    pub last_seq: u64,
    /// The last frame's hash.
    pub last_hash: Digest,
    /// How many frames there are.
    pub records: u64,
}

/// Where and why a chain does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// There is no frame.
    #[error("there is no record")]
    Empty,
    /// Bytes that are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Not what was written after the frame before it: changed, left out or put in.
    #[error("record {seq} at byte {offset} does not follow the one before it")]
    Hash {
        /// Where the frame starts.
        offset: usize,
        /// Its number.
        seq: u64,
    },
    /// Numbers are not dense.
    #[error("record {seq} at byte {offset} stands where {expected} was expected")]
    Seq {
        /// Where the frame starts.
        offset: usize,
        /// Its number.
        seq: u64,
        /// The number that follows the frame before it.
        expected: u64,
    },
}

/// Checks that `bytes` are whole frames, numbered densely, each chained to the one before it, the
/// first one to `prev`. Every byte is hashed again; stored digests are believed of detached blobs only.
///
/// # Errors
/// [`ChainError`] for the first frame that does not fit; a caller that wants more calls again with
/// the rest. No frame at all is an error too.
pub fn verify_chain(prev: Digest, bytes: &[u8]) -> Result<Tail, ChainError> {
    let mut tail: Option<Tail> = None;
    let mut prev = prev;
    for frame in frames(bytes) {
        let frame = frame?;
        let (offset, seq) = (frame.offset, frame.seq);
        if let Some(tail) = &tail
            && tail.last_seq.checked_add(1) != Some(seq)
        {
            let expected = tail.last_seq.saturating_add(1);
            return Err(ChainError::Seq {
                offset,
                seq,
                expected,
            });
        }
        if frame.chain(&prev) != frame.hash {
            return Err(ChainError::Hash { offset, seq });
        }
        prev = frame.hash;
        tail = Some(Tail {
            first_seq: tail.map_or(seq, |tail| tail.first_seq),
            last_seq: seq,
            last_hash: frame.hash,
            records: tail.map_or(0, |tail| tail.records) + 1,
        });
    }
    tail.ok_or(ChainError::Empty)
}

/// Finds the next place at or after `offset` where a whole frame with a good checksum starts.
/// Used only where damage was found, to say how much is still readable after it.
///
/// `budget` is what may be spent on checksums, in bytes: bytes made for it could otherwise ask for
/// the square of their length. At 0 the answer `None` means "not known".
#[must_use]
pub fn resync(bytes: &[u8], offset: usize, budget: &mut usize) -> Option<usize> {
    let rest = bytes.get(offset..)?;
    memchr::memmem::find_iter(rest, &MAGIC)
        .map(|at| offset + at)
        .take_while(|at| {
            let length = bytes
                .get(at + 8..at + 12)
                .and_then(|length| length.try_into().ok());
            let length = length.map_or(0, |length| u32::from_le_bytes(length) as usize);
            *budget = budget.saturating_sub(length.min(bytes.len() - at) + HEAD_BYTES);
            *budget > 0
        })
        .find(|at| read(bytes, *at).is_ok())
}
