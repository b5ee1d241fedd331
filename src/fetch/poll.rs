//! Asking again and again: one connection kept, one small conditional request where nothing is new.

use std::path::Path;
use std::time::SystemTime;

use super::source::Source;
use super::{FetchError, Patience, Refreshed, Store, refresh_from};
use crate::clock::Clock;
use crate::config::Config;
use crate::ids::Digest;
use crate::limits;
use crate::registry::{Answer, Want};

/// What is asked about; every update changes it.
const TIMESTAMP: &str = "metadata/timestamp.json";
/// Every so many polls the whole workflow is walked although the timestamp is the one it was
/// walked for: a root that takes keys back may come without one.
const WHOLE_EACH: u32 = 20;

/// Asks one source for a newer registry, for as long as a process lives.
#[derive(Debug, Default)]
pub struct Poller {
    source: Option<Source>,
    known: Option<Known>,
    shortened: u32,
}

/// The timestamp that the stored state holds.
#[derive(Debug)]
struct Known {
    etag: Option<String>,
    digest: Digest,
    /// The state that was stored then: another one is another process's.
    state: Option<(u64, SystemTime)>,
}

impl Poller {
    /// Makes one that has asked nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for a newer registry as [`super::refresh`] does; asks for the timestamp alone where
    /// it is the one that was seen last.
    ///
    /// # Errors
    /// As [`super::refresh`].
    pub async fn poll(
        &mut self,
        config: &Config,
        clock: &dyn Clock,
    ) -> Result<Refreshed, FetchError> {
        let patience = Patience::default();
        let source = match &self.source {
            Some(source) => source,
            None => {
                let source = Source::open(&config.registry_url, &config.network)?;
                self.source.insert(source)
            }
        };
        let store = Store::of(config);
        let known = self
            .known
            .take()
            .filter(|known| known.state.is_some() && known.state == mark(store.path()));
        let want = Want {
            path: TIMESTAMP.to_owned(),
            max_bytes: limits::METADATA_BYTES as u64,
            etag: known.as_ref().and_then(|known| known.etag.clone()),
        };
        let seen = match source.fetch(&want, &patience).await {
            Answer::Body { bytes, etag } => Some((etag, Digest::of(&bytes))),
            Answer::NotModified => known
                .as_ref()
                .map(|known| (known.etag.clone(), known.digest)),
            // the workflow says what is wrong
            Answer::Forbidden | Answer::NotFound | Answer::Unknown(_) => None,
        };
        let same = |known: &Known| seen.as_ref().is_some_and(|seen| seen.1 == known.digest);
        if let Some(known) = known.filter(same)
            && self.shortened < WHOLE_EACH
        {
            self.shortened += 1;
            self.known = Some(known);
            return Ok(Refreshed::Unchanged);
        }
        self.shortened = 0;
        let refreshed = refresh_from(source, config, clock, &patience).await?;
        self.known = seen.map(|(etag, digest)| Known {
            etag,
            digest,
            state: mark(store.path()),
        });
        Ok(refreshed)
    }
}

fn mark(path: &Path) -> Option<(u64, SystemTime)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}
