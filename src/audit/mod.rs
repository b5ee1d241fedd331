//! The record: entries, their binary form, the chain and the sealing.
//!
//! ```text
//! entry::Entry ──Encoder──▶ frames in a stream ──frames()/verify_chain()──▶ decode() ──▶ view::json()
//!                  │ seals payloads under a data key per segment, wrapped to the audit keys
//!                  └ numbers and chains every frame (SHA-256)          DataKey::unseal() ◀── private key
//! ```
//!
//! `docs/formats/record.md` describes every byte. Nothing here reads a clock, a file or the network.
//! Readers take bytes from anybody: they never panic and hold no more than the bytes they were given.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

mod bind;
mod code;
pub mod decode;
pub mod encode;
pub mod entry;
pub mod frame;
mod open;
pub mod seal;
pub mod view;

pub use decode::{DecodeError, Decoded, decode};
pub use encode::{Encoder, StreamHeader};
pub use frame::{ChainError, Frame, FrameError, Tail, frames, verify_chain};
pub use seal::{DataKey, PrivateKey, UnsealError, generate_audit_key};
pub use view::{ContextTable, json};

/// Reads any bytes as far as they can be read: for fuzzing. Checks what must hold of every answer.
#[doc(hidden)]
pub fn fuzz_frames(bytes: &[u8]) {
    let mut table: Option<ContextTable> = None;
    let mut end = 0;
    for frame in frames(bytes) {
        let Ok(frame) = frame else { break };
        assert_eq!(frame.offset, end, "frames leave no bytes out");
        end += frame.bytes.len();
        let mut copy = Vec::new();
        frame.detach(&mut copy);
        if let Ok(record) = decode(&frame) {
            if let decode::Said::Segment(segment) = &record.said {
                table.get_or_insert_with(|| ContextTable::new(segment.stream));
            }
            if let Some(table) = &mut table {
                table.observe(&record);
                let again = table.clear(&record);
                assert_eq!(table.clear(&record), again);
                assert!(json(&record, table).is_object());
            }
        }
    }
    assert!(end <= bytes.len());
    if let Ok(tail) = verify_chain(frame::GENESIS, bytes) {
        assert!(tail.first_seq <= tail.last_seq);
    }
}

#[cfg(test)]
mod tests;
