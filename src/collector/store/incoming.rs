//! What is judged of a batch before the disk is asked, and what it is answered with.

use crate::audit::{self, ChainError};
use crate::batch::protocol::{Refused, Rewind, Stored};
use crate::batch::{self, Batch, BatchError, Kind};
use crate::ids::Digest;

/// What a batch is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 429 or 503 with Retry-After.
    Later {
        /// The status.
        status: u16,
        /// In seconds.
        retry_s: u64,
        /// Why.
        refused: Refused,
    },
    /// Another status.
    Refused(u16, Refused),
    /// 409.
    Rewind(Rewind),
    /// 200.
    Stored(Stored),
}

pub(super) fn refused(status: u16, error: impl std::fmt::Display) -> Answer {
    Answer::Refused(
        status,
        Refused {
            error: error.to_string(),
            seq: None,
        },
    )
}

/// The status that says what is wrong with a batch.
pub(in crate::collector) fn judge(error: &BatchError) -> u16 {
    match error {
        BatchError::Signature(_) => 401,
        BatchError::TooLarge { .. } => 413,
        BatchError::BodyDigest
        | BatchError::Compression { .. }
        | BatchError::Field(_)
        | BatchError::Magic
        | BatchError::Newer(_)
        | BatchError::Size { .. } => 400,
    }
}

/// Reads a batch and checks who signed it.
pub(super) fn open(bytes: &[u8]) -> Result<Batch<'_>, Answer> {
    batch::open(bytes).map_err(|error| refused(judge(&error), error))
}

/// The frames of a batch, their chain checked.
pub(super) struct Chained {
    pub(super) frames: Vec<u8>,
    hashes: Vec<(u64, Digest)>,
}

impl Chained {
    /// The chain at a record.
    pub(super) fn hash_at(&self, seq: u64) -> Option<Digest> {
        self.hashes
            .iter()
            .find(|(at, _)| *at == seq)
            .map(|(_, hash)| *hash)
    }
}

/// Checks the chain inside a batch; a quarantined one has none.
pub(super) fn chain(batch: &Batch<'_>) -> Result<Option<Chained>, Box<Answer>> {
    let header = &batch.header;
    let frames = batch
        .frames()
        .map_err(|error| Box::new(refused(400, error)))?;
    if header.kind == Kind::Quarantine {
        return Ok(None);
    }
    let unreadable = |seq, error: &dyn std::fmt::Display| {
        Box::new(Answer::Refused(
            422,
            Refused {
                error: error.to_string(),
                seq: Some(seq),
            },
        ))
    };
    let tail = audit::verify_chain(header.prev_hash, &frames).map_err(|error| match error {
        ChainError::Empty => Box::new(refused(400, error)),
        ChainError::Frame(_) => {
            let good = audit::frames(&frames).map_while(Result::ok).count();
            let good = u64::try_from(good).unwrap_or(u64::MAX);
            unreadable(header.first_seq.saturating_add(good), &error)
        }
        ChainError::Hash { seq, .. } => unreadable(seq, &error),
        ChainError::Seq { expected, .. } => unreadable(expected, &error),
    })?;
    if (tail.first_seq, tail.last_seq, tail.last_hash)
        != (header.first_seq, header.last_seq, header.last_hash)
    {
        return Err(Box::new(refused(
            400,
            "the header names other records than the batch holds",
        )));
    }
    let hashes = audit::frames(&frames)
        .map_while(Result::ok)
        .map(|frame| (frame.seq, frame.hash))
        .collect();
    Ok(Some(Chained { frames, hashes }))
}
