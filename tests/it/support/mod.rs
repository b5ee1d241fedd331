//! What the integration tests share: the programs as built, and an MCP client that speaks lines.
//!
//! Nothing outlives its owner: [`Running`] kills its process group when it is dropped. Every wait
//! has a deadline.
#![expect(dead_code, unused_imports, reason = "each subject uses its own part")]

mod process;

pub(crate) use process::{Answer, Ended, Running, Shim, laptop, program, run, wait_for};
