//! The collector: takes batches in, keeps them as they were signed, answers questions.
//!
//! ```text
//! batch ──server──▶ store ──ledger: where does it go?──▶ stream ──▶ journal (fsync) ──▶ 200
//!                                                                      │
//! query, show, devices, unseal, verify ◀── scan: everything, in order ─┘
//! ```
//!
//! The collector never reads arguments: payloads are sealed on the device to audit keys whose
//! private halves are not here. It verifies who signed and that the chain holds; it keeps what
//! it cannot verify apart, and drops nothing.

pub mod admin;
pub mod admission;
pub mod enrol;
pub mod files;
mod http;
mod intake;
pub mod journal;
pub mod ledger;
pub mod query;
pub mod scan;
pub mod server;
pub mod store;
pub mod stream;
pub mod verify;
pub mod watch;
