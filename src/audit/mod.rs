//! The record: entries, their binary form, the chain and the sealing.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod entry;
