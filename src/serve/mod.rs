//! `mcpshim serve`: the driver around the session machine.
//!
//! ```text
//!   client fds ─▶┐                       ┌─▶ client fds
//!   child fds ──▶│ Event ─▶ Machine ─▶ Output ─▶ children
//!   signals ────▶│            ▲   │      └─▶ recorder (spool, here or on its thread)
//!   watcher ────▶┘            └───┘ Recorded
//! ```
//!
//! One thread, one loop, one closed `enum Event`. What is slow has a thread of its own: the
//! registry watcher (network, signatures) and, only where a disk or a rule asks for it, the spool.
//! **It never ends because of a registry, a login or a disk**: it comes up and says what is wrong.
//! **Nothing is written, started or fetched before the first real request**: clients start
//! throw-away processes that only ask `server/discover`.

pub mod assemble;
mod credentials;
mod driver;
pub mod learned;
mod notice;
mod record;
pub mod requests;
pub mod run_file;
mod signals;
mod watch;

use std::path::PathBuf;

use crate::config::Config;
use crate::ids::ServerKey;
use crate::report::Failure;

/// Where what a server prints on its standard error is kept, for every session of this machine.
#[must_use]
pub fn server_log(config: &Config, server: &ServerKey) -> PathBuf {
    let name = format!("server-{server}.log");
    config.state_dir.join("log").join(name)
}

/// Serves one client on the standard streams, until it closes them or a signal comes.
///
/// # Errors
/// When not even the event loop can be made. Everything else is told to the client.
pub fn run(config: Result<Config, Failure>) -> Result<(), Failure> {
    use crate::report::Exit;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    // on a task: where tasks wake what the runtime blocks on, as each answer over HTTP would, it asks
    // the system for more in between
    let served = runtime.block_on(async { tokio::spawn(driver::serve(config)).await });
    let served = served.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Err(std::io::Error::other(error)),
    });
    // a thread that still reads a terminal, or fetches, is not waited for
    runtime.shutdown_background();
    served.map_err(|error| Failure::from_error(Exit::Failed, &error))
}
