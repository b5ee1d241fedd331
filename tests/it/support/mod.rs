//! What the integration tests share: the programs as built, an organisation in a temporary
//! directory, an MCP client that speaks lines, and a collector on loopback.
//!
//! ```text
//! let org = Org::build(|o| o.server(Server::counting("count")).role("eng", &[("count", &["*"])]).agent("ci", &["eng"]));
//! let mut shim = org.serve("ci");
//! shim.initialize();
//! let answer = shim.call("count_add", json!({"n": 1}));
//! ```
//!
//! Nothing outlives its owner: [`Running`] kills its process group and [`Org`] whatever process
//! still carries its directory in the environment. Every wait has a deadline.
#![expect(dead_code, reason = "each subject uses its own part")]

mod org;
mod process;

pub(crate) use org::{Collector, Org, Server};
pub(crate) use process::{Answer, Ended, Running, Shim, laptop, program, run, wait_for};
