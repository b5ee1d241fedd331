//! Upstream servers: child processes, and servers behind an address ([`Remote`]).
//!
//! ```text
//!   shim ── stdin, stdout, stderr (pipes, no copy in between) ──▶ server ──▶ its descendants
//!     └──── control socket ──▶ mcpshim __guard ─── parent of ──────┘            adopts orphans
//! ```
//!
//! The guard is the same program. On Linux a second one stands behind it (`guard.rs`). It holds no byte of the data path: it is handed the server's
//! standard input over the control socket, starts the server, and from then on only waits. When
//! the shim closes the socket, or dies, the guard ends the server and everything below it.
//!
//! On Windows there is no guard: a job object ends everything in it when the shim lets go of it or
//! dies (`docs/decisions/0010-job-objects.md`).
//!
//! A child sees a cleared environment: an allowlist ([`Environment`]) and what the registry sets.
#![warn(missing_docs)]

mod child;
mod environment;
#[cfg(unix)]
pub mod fd;
#[cfg(unix)]
mod guard;
#[cfg(unix)]
mod guarded;
#[cfg(windows)]
pub mod handle;
mod http;
#[cfg(windows)]
mod job;
#[cfg(any(windows, test))]
mod lookup;
mod origin;
#[cfg(target_os = "linux")]
mod orphans;
mod pipe;
#[cfg(unix)]
mod places;
#[cfg(not(unix))]
#[path = "places_elsewhere.rs"]
mod places;
mod project;
mod queue;
mod survey;
#[cfg(target_os = "linux")]
mod tree;
mod words;

// what the platforms have in common: the same names, made differently
#[cfg(unix)]
pub use fd as streams;
#[cfg(unix)]
use guarded as contained;
#[cfg(windows)]
pub use handle as streams;
#[cfg(windows)]
use job as contained;

pub use child::Child;
pub use environment::Environment;
pub use http::{Farewell, Remote, unanswered};
pub use pipe::Pipe;
pub use places::Places;
pub use survey::{Means, SurveyError, Surveyed, survey};
pub use words::Words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;

use crate::ids::ServerKey;
use crate::registry::doc::{CredentialDoc, Inject, ServerDoc, Transport};
use crate::secret::{Scrubber, Secret};
use crate::session::{LineFault, Loss, Place};

/// What comes from a transport.
#[derive(Debug, PartialEq, Eq)]
pub enum PipeEvent {
    /// It ended, or could not be started, and everything it wrote was read. One phrase that
    /// follows its key.
    Ended(String),
    /// One request was refused in a way that may mean that the server lost its session; the
    /// transport lives on.
    Doubted {
        /// The request's id.
        id: u64,
        /// What is known of it.
        loss: Loss,
        /// The reason that is told instead if a new session is tried.
        doubtful: String,
    },
    /// The server does not know the session any more.
    Forgotten {
        /// The request that met it, if one did. It was not executed.
        met: Option<u64>,
        /// What the server said of it, to be appended; most often empty.
        said: String,
    },
    /// One request will not be answered; the transport lives on.
    Lost {
        /// The request's id.
        id: u64,
        /// What is known of it.
        loss: Loss,
    },
    /// The answer to one request is over. Where it was not among the lines that came before,
    /// [`unanswered`] says what came instead.
    Over {
        /// The request's id.
        id: u64,
        /// All that came.
        body: Bytes,
    },
    /// There are lines to take.
    Read,
    /// It is there.
    Started,
    /// It did not take an answer to a question of its own; the transport lives on.
    Unheard(Loss),
}

/// One line that came.
#[derive(Debug)]
pub struct Heard<'a> {
    /// Where it came.
    pub place: Place,
    /// The line without its newline, or the fault of one that is over.
    pub line: Result<&'a [u8], LineFault>,
}

/// What is needed to start a server.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The server's key, for the log.
    pub key: ServerKey,
    /// The program: looked up on the child's PATH, or a path.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What the registry sets, over the allowlist.
    pub env: BTreeMap<String, String>,
    /// Credentials by the name of their variable. They reach the server over its guard's control
    /// socket, not by the guard's own environment.
    pub secrets: BTreeMap<String, Secret>,
    /// What must not be shown of what the server prints.
    pub scrubber: Scrubber,
    /// The allowlisted part of our own environment.
    pub environment: Environment,
    /// Where it starts, as the registry writes it until [`Launch::place`], which says the home for `None`.
    pub cwd: Option<PathBuf>,
    /// Where its standard error is kept, bounded; nowhere when `None`.
    pub log: Option<PathBuf>,
    /// The entry lets the client's project bring the program.
    pub program_from_project: bool,
}

/// Why a server cannot be started. A phrase that follows the server's key.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its address must not be used. A phrase that follows `the address`.
    #[error("cannot be reached: its address {0}")]
    Address(&'static str),
    /// Its credential cannot be used. A phrase that follows `the credential`.
    #[error("cannot be reached: its credential {0}")]
    Credential(&'static str),
    /// Its program is not here. What is missing, and where it was looked for.
    #[error("could not be started: {0}")]
    Program(String),
    /// It is to run in a project or a directory that is not here. A phrase that follows its key.
    #[error("{0}")]
    Project(String),
    /// Its transport is another one.
    #[error("has another transport")]
    Transport,
    /// The operating system refuses.
    #[error("could not be started: {0}")]
    Io(#[from] std::io::Error),
}

/// A server that runs, or is about to.
struct Started {
    input: streams::Sink,
    output: streams::Source,
    errors: streams::Source,
    control: contained::Control,
}

/// What is heard of a server besides what it prints.
enum Report {
    /// It is gone, and what it started with it; or it could not be started. One phrase that
    /// follows its key.
    Ended(String),
    /// Its program runs.
    Started,
}

impl Launch {
    /// What a server's entry says about starting it.
    ///
    /// # Errors
    /// [`SpawnError::Transport`] when there is nothing to start.
    pub fn of(
        server: &ServerDoc,
        environment: &Environment,
        log: Option<PathBuf>,
    ) -> Result<Self, SpawnError> {
        match &server.transport {
            Transport::Http { .. } => Err(SpawnError::Transport),
            Transport::Stdio {
                command,
                args,
                cwd,
                env,
                program_from_project,
                ..
            } => Ok(Self {
                key: server.key.clone(),
                command: command.clone(),
                args: args.clone(),
                env: env.clone(),
                secrets: BTreeMap::new(),
                scrubber: Scrubber::new(),
                environment: environment.clone(),
                cwd: cwd.as_ref().map(PathBuf::from),
                log,
                program_from_project: *program_from_project,
            }),
        }
    }
}

impl Launch {
    /// The credentials as they stand in an environment.
    #[cfg(windows)]
    fn secrets(&self) -> Result<Vec<(&str, &str)>, SpawnError> {
        self.secrets
            .iter()
            .map(|(name, secret)| {
                let value = std::str::from_utf8(secret.expose())
                    .map_err(|_bad| SpawnError::Credential("is no text"))?;
                Ok((name.as_str(), value))
            })
            .collect()
    }

    /// Gives the server its credential, and takes care that it is not shown.
    ///
    /// # Errors
    /// [`SpawnError::Credential`] where the registry does not name a variable for it.
    pub fn inject(&mut self, doc: &CredentialDoc, secret: &Secret) -> Result<(), SpawnError> {
        let Inject::Env { name } = &doc.inject else {
            return Err(SpawnError::Credential("has no place in a child process"));
        };
        if secret.expose().contains(&0) {
            return Err(SpawnError::Credential("holds a zero byte"));
        }
        self.scrubber.add(secret);
        self.secrets.insert(name.clone(), secret.clone());
        Ok(())
    }
}

#[cfg(test)]
impl Launch {
    /// Nothing but a command in an environment.
    fn new(key: ServerKey, command: &str, environment: Environment) -> Self {
        Self {
            key,
            command: command.to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            scrubber: Scrubber::new(),
            environment,
            cwd: None,
            log: None,
            program_from_project: false,
        }
    }
}

/// Starts a child that is no server, and waits for it. What it leaves behind may live on.
///
/// # Errors
/// What starting it says.
pub fn beside<T>(
    spawn: impl FnOnce() -> std::io::Result<std::process::Child>,
    wait: impl FnOnce(std::process::Child) -> T,
) -> std::io::Result<T> {
    #[cfg(target_os = "linux")]
    return orphans::beside(spawn, wait);
    #[cfg(not(target_os = "linux"))]
    Ok(wait(spawn()?))
}

/// Waits until nothing is being ended that a killed guard left, at most so long.
pub async fn settled(patience: std::time::Duration) {
    #[cfg(target_os = "linux")]
    orphans::settled(patience).await;
    #[cfg(not(target_os = "linux"))]
    let _: std::time::Duration = patience;
}

/// Becomes the guard of one server if the command line begins with `__guard`. Every program that
/// starts servers calls this first in `main`, before anything else is read or made.
#[must_use]
pub fn dispatch_guard() -> Option<ExitCode> {
    #[cfg(unix)]
    return guard::dispatch();
    #[cfg(not(unix))]
    return None;
}
