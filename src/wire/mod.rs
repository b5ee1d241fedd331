//! JSON-RPC as bytes: lines, envelopes, surgical edits. What is not ours passes unchanged.
#![warn(missing_docs)]

pub mod era;
