//! Records that come without their sealed part, and sealed parts that come after their records.
//!
//! A record too large for what lies between is delivered *withheld*: its sealed part is detached,
//! and the chain has its digest. The device keeps the whole and sends it as a *body* once it fits.
//! A body is stored beside the main lane, which holds every record once.

use crate::audit;
use crate::audit::frame::Blob;
use crate::batch::{Header, Kind};

/// Whether a batch that repeats a stored record brings its sealed part. The chain was compared: it
/// covers the part's digest, so no other part passes.
pub(super) fn is_one(header: &Header, frames: &[u8]) -> bool {
    let whole = |frame: audit::Frame<'_>| matches!(frame.blob, Blob::Present(_));
    header.kind == Kind::Body
        && audit::frames(frames)
            .next()
            .is_some_and(|frame| frame.is_ok_and(whole))
}

/// What the people who watch the collector are told of a record whose device says that it keeps
/// the sealed part; nothing of any other.
pub(super) fn withheld(header: &Header) -> Option<(&'static str, &'static str)> {
    let detail = "a record is too large for what lies between: its device keeps the sealed part";
    (header.kind == Kind::Withheld).then_some(("withheld", detail))
}
