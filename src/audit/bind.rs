//! What binds a sealed payload to the clear part it was sealed in.
//!
//! The *clear digest* of a record covers its place, its meta part and the contexts it names; that
//! of an outcome covers the clear digest of its intent as well. Sealing authenticates it
//! (`docs/formats/record.md`, Sealing), so arguments that were moved under another tool's name, or
//! whose caller was written anew, do not open, whoever can write the chain anew.
//!
//! Readers compute it from the records; none is ever stored.

use ring::digest::{Context, SHA256};

use crate::ids::{Digest, StreamId};

const CLEAR: &[u8; 16] = b"mcpshim/clear/1\n";
/// What a record without a payload's digest or commitment leaves out of its meta part: nothing.
pub(super) const WHOLE: Hole = None;
/// Where in the meta part the 32 bytes of the payload's digest or commitment stand. They follow
/// from the sealing, so the sealing cannot cover them.
pub(super) type Hole = Option<usize>;
const HOLE_BYTES: usize = 32;

/// A record's place in its stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) stream: StreamId,
    pub(super) seq: u64,
    pub(super) kind: u8,
}

/// Computes clear digests, part by part.
pub(super) struct Clear(Context);

impl Clear {
    /// Begins with the record's place and its own meta part.
    pub(super) fn new(at: At, meta: &[u8], hole: Hole) -> Self {
        let mut fixed = [0; 16 + 16 + 8 + 1 + 4];
        let length = u32::try_from(meta.len()).unwrap_or(u32::MAX);
        let parts: [&[u8]; 5] = [
            CLEAR,
            &at.stream.0,
            &at.seq.to_le_bytes(),
            &[at.kind],
            &length.to_le_bytes(),
        ];
        let mut place = 0;
        for part in parts {
            if let Some(slot) = fixed.get_mut(place..place + part.len()) {
                slot.copy_from_slice(part);
            }
            place += part.len();
        }
        let mut context = Context::new(&SHA256);
        context.update(&fixed);
        let (before, after) = match hole {
            None => (meta, &[][..]),
            Some(hole) => (
                meta.get(..hole).unwrap_or(meta),
                meta.get(hole + HOLE_BYTES..).unwrap_or_default(),
            ),
        };
        context.update(before);
        context.update(after);
        Self(context)
    }

    /// Adds a context the record names, or its intent; 32 zeros where there is none.
    pub(super) fn add(&mut self, digest: Option<&Digest>) {
        self.0.update(digest.map_or(&[0; 32], |digest| &digest.0));
    }

    pub(super) fn finish(self) -> Digest {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        Digest(digest)
    }
}
