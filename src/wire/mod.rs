//! JSON-RPC as bytes: lines, envelopes, surgical edits. What is not ours passes unchanged.
//!
//! [`mod@line`] cuts a stream into lines, [`msg`] reads one line as a message, [`raw`] finds and
//! edits spans of JSON text, [`era`] holds every difference between protocol revisions, and
//! [`meta`] reads the ids by which a client's own logs are joined with the record. [`sse`] cuts a
//! stream of events into messages, and [`http`] makes the headers that repeat parts of a message.
#![warn(missing_docs)]

pub mod era;
pub mod http;
pub mod line;
pub mod meta;
pub mod msg;
pub mod peek;
pub mod raw;
pub mod sse;
