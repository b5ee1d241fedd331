//! The registry on this machine: the trusted state on disk, and its renewal from the source.
//!
//! What is trusted is decided in [`crate::registry`]; here are only the file, the lock and the
//! transport. [`load`] touches no network; [`refresh`] drives [`crate::registry::Update`].
#![warn(missing_docs)]

pub mod certificate;
mod client;
mod dial;
mod poll;
mod proxy;
mod source;
mod store;
mod trust;

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::limits;
use crate::registry::doc::RegistryVersion;
use crate::registry::{self, Cause, Ended, Loaded, RegistryError, Trust, Update};

pub use self::client::{USER_AGENT, client, dialer};
pub use self::dial::{DialError, Dialer, Sender};
pub use self::poll::Poller;
pub use self::store::{Locked, Store};

/// Why there is no registry, or no newer one.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Another process has held the lock for the whole time.
    #[error("another process is renewing the registry")]
    Busy,
    /// No HTTP client can be made.
    #[error("no connection can be made to fetch the registry")]
    Client {
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The state file cannot be read or written.
    #[error("trusted registry state {} cannot be used", path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nothing was ever fetched here.
    #[error("no registry has been fetched on this machine yet")]
    Missing {
        /// Where it would come from.
        #[source]
        cause: Cause,
    },
    /// It is not to be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The configured URL is not one.
    #[error("registry_url {url:?} cannot be used")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        cause: Cause,
    },
}

impl FetchError {
    /// What to do next, for the person who reads the error.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Busy => "try again in a minute",
            Self::Client { .. } => "check the certificates of this machine",
            Self::Disk { .. } => "check the owner, the permissions and the free space of the file",
            Self::Missing { .. } => {
                "run `mcpshim registry refresh` while the registry can be reached"
            }
            Self::Registry(error) => error.hint(),
            Self::Url { .. } => "correct `registry_url` in the configuration",
        }
    }
}

/// What a refresh found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// Nothing new.
    Unchanged,
    /// A newer registry, now stored.
    Updated(RegistryVersion),
}

/// How long a source may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For everything together, in milliseconds.
    pub total_ms: u64,
    /// In every span of this many milliseconds…
    pub stall_ms: u64,
    /// …at least so many bytes of a file must come.
    pub stall_bytes: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            total_ms: limits::FETCH_MS,
            stall_ms: limits::FETCH_STALL.1,
            stall_bytes: limits::FETCH_STALL.0,
        }
    }
}

fn trust(config: &Config) -> Trust<'_> {
    Trust {
        root: &config.root,
        org: &config.org,
        min_root_version: config.min_root_version,
        min_timestamp_version: config.min_timestamp_version,
    }
}

/// Loads and verifies what this machine has; no network is touched.
///
/// # Errors
/// [`FetchError::Missing`] when there is nothing yet, otherwise why it is not to be used.
pub fn load(config: &Config, now: &Now) -> Result<Loaded, FetchError> {
    let store = Store::of(config);
    match store.read() {
        Ok(Some(state)) => Ok(registry::load(&state, &trust(config), now)?),
        Ok(None) => Err(FetchError::Missing {
            cause: Cause(format!("there is no {}", store.path().display())),
        }),
        Err(source) => Err(disk(&store, source)),
    }
}

/// Looks for a newer registry, verifies it and stores it.
///
/// # Errors
/// Why there is no newer one; the stored one is untouched, except that a root which took keys
/// back is kept (see [`Update::abandon`]).
pub async fn refresh(config: &Config, clock: &dyn Clock) -> Result<Refreshed, FetchError> {
    refresh_within(config, clock, &Patience::default()).await
}

/// [`refresh`] with another patience.
///
/// # Errors
/// As [`refresh`].
pub async fn refresh_within(
    config: &Config,
    clock: &dyn Clock,
    patience: &Patience,
) -> Result<Refreshed, FetchError> {
    let source = source::Source::open(&config.registry_url, &config.network)?;
    refresh_from(&source, config, clock, patience).await
}

async fn refresh_from(
    source: &source::Source,
    config: &Config,
    clock: &dyn Clock,
    patience: &Patience,
) -> Result<Refreshed, FetchError> {
    let store = Store::of(config);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(patience.total_ms);
    let locked = loop {
        match store.try_lock().map_err(|e| disk(&store, e))? {
            Some(locked) => break locked,
            None if tokio::time::Instant::now() >= deadline => return Err(FetchError::Busy),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let state = store.read().map_err(|e| disk(&store, e))?;
    let previous = store.read_previous().map_err(|e| disk(&store, e))?;
    let now = clock.now();
    // a missing state takes its place as an empty, that is a damaged one
    let stored = [
        state.as_deref().unwrap_or_default(),
        previous.as_deref().unwrap_or_default(),
    ];
    let mut update = Update::new(&stored, &trust(config), &now)?;
    let walked = tokio::time::timeout_at(deadline, async {
        while let Some(want) = update.want() {
            let answer = source.fetch(&want, patience).await;
            update.give(answer)?;
        }
        update.finish()
    })
    .await
    .unwrap_or_else(|_| {
        Err(RegistryError::Unavailable {
            file: update.want().map(|want| want.path).unwrap_or_default(),
            cause: Cause(format!(
                "the refresh took longer than {} ms",
                patience.total_ms
            )),
        })
    });
    let (bytes, ended) = match walked {
        Ok(Ended::Unchanged(bytes)) => (bytes, Ok(false)),
        Ok(Ended::Updated(bytes)) => (Some(bytes), Ok(true)),
        Err(error) => (update.abandon(), Err(error)),
    };
    if let Some(bytes) = &bytes {
        locked.replace(bytes).map_err(|e| disk(&store, e))?;
    }
    match (ended?, bytes) {
        (true, Some(bytes)) => {
            let loaded = registry::load(&bytes, &trust(config), &now)?;
            Ok(Refreshed::Updated(loaded.registry.version))
        }
        (true, None) | (false, _) => Ok(Refreshed::Unchanged),
    }
}

/// Walks to the newest registry as [`refresh_within`] does, and keeps nothing of it: for whoever
/// wants to know whether a refresh would work. Says whether anything newer is there.
///
/// # Errors
/// Why it would not.
pub async fn probe(
    config: &Config,
    clock: &dyn Clock,
    patience: &Patience,
) -> Result<bool, FetchError> {
    let source = source::Source::open(&config.registry_url, &config.network)?;
    let store = Store::of(config);
    let state = store.read().map_err(|e| disk(&store, e))?;
    let previous = store.read_previous().map_err(|e| disk(&store, e))?;
    let stored = [
        state.as_deref().unwrap_or_default(),
        previous.as_deref().unwrap_or_default(),
    ];
    let mut update = Update::new(&stored, &trust(config), &clock.now())?;
    let walk = async {
        while let Some(want) = update.want() {
            let answer = source.fetch(&want, patience).await;
            update.give(answer)?;
        }
        update.finish()
    };
    let walked = tokio::time::timeout(Duration::from_millis(patience.total_ms), walk).await;
    let late = RegistryError::Unavailable {
        file: String::new(),
        cause: Cause(format!("it took longer than {} ms", patience.total_ms)),
    };
    let ended = walked.unwrap_or(Err(late))?;
    Ok(matches!(ended, Ended::Updated(_)))
}

/// When the registry on this machine was stored, in Unix seconds; `None` where there is none.
#[must_use]
pub fn stored_at(config: &Config) -> Option<u64> {
    let meta = std::fs::metadata(Store::of(config).path()).ok()?;
    let since = meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH);
    Some(since.ok()?.as_secs())
}

fn disk(store: &Store, source: std::io::Error) -> FetchError {
    FetchError::Disk {
        path: store.path().to_owned(),
        source,
    }
}

/// An error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        source = cause.source();
    }
    out
}
