//! The integration tests: one binary, one module per subject. They drive the programs as built.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a broken fixture should stop the test"
)]

mod support;

mod admin;
mod asks;
mod bridge;
mod cli;
mod client;
mod clients;
mod collector;
mod conformance;
mod credentials;
mod doctor;
mod explain;
#[cfg(target_os = "linux")]
mod hardened;
mod hostile;
mod http_zoo;
mod intake;
mod kill;
mod login;
mod lossless;
#[cfg(target_os = "linux")]
mod managed;
mod matrix;
mod november;
mod parked;
mod peers;
mod programs;
mod questions;
mod registry;
mod remote;
mod review;
#[cfg(target_os = "linux")]
mod rogue;
mod serve;
mod session;
mod spool;
mod tidy;
mod wine;
mod zoo;
