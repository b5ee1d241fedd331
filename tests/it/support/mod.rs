//! What the integration tests share: an organisation made with the programs as built, an MCP client
//! that speaks lines, and a collector on loopback.
//!
//! Nothing outlives its owner: [`Running`] kills its process group when it is dropped, and [`Org`]
//! whatever still carries its directory in its environment. Every wait has a deadline.

mod org;
mod process;
mod recorded;
mod spooled;
mod tap;
mod token;
pub(crate) mod web;

pub(crate) use org::{Collector, Grant, Issuer, Org, Server, files};
pub(crate) use process::{
    Answer, Ended, Running, Shim, laptop, program, run, run_with, shifted, skipped, wait_for,
};
pub(crate) use recorded::Recording;
pub(crate) use spooled::{ends, read_spool};
pub(crate) use tap::Tap;
pub(crate) use token::id_token;
