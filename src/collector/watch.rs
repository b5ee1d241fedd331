//! The verified registry the collector judges by: loaded once, renewed while it serves.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::query::RegistryNames;
use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::fetch::{self, FetchError, Refreshed};
use crate::ids::OrgId;
use crate::registry::doc::Registry;
use crate::registry::{self, Freshness, Verified};

/// The registry, shared by all requests.
#[derive(Debug)]
pub struct Watch {
    config: Config,
    current: Mutex<Arc<Verified<Registry>>>,
}

impl Watch {
    /// Loads the registry from the data directory, after one attempt to renew it.
    ///
    /// # Errors
    /// [`FetchError`] when there is none that can be verified: without one nobody could be told
    /// from anybody else, so the collector does not start.
    pub async fn open(
        data: &Path,
        org: &OrgId,
        url: &str,
        root: Vec<u8>,
        clock: &dyn Clock,
    ) -> Result<Self, FetchError> {
        let config = Config {
            org: org.clone(),
            registry_url: url.to_owned(),
            root,
            min_root_version: 0,
            min_timestamp_version: 0,
            state_dir: data.to_owned(),
            machine_id: String::new(),
            log_level: crate::config::LogLevel::default(),
            agent: None,
            managed: false,
            path: None,
            network: crate::config::Network::default(),
            project_dir: None,
            client_session: None,
        };
        let renewed = fetch::refresh(&config, clock).await;
        let loaded = match (renewed, fetch::load(&config, &clock.now())) {
            (_, Ok(loaded)) => loaded,
            // why there is nothing says more than that there is nothing
            (Err(error), Err(_)) | (Ok(_), Err(error)) => return Err(error),
        };
        for warning in &loaded.warnings {
            tracing::warn!(%warning, "Registry.");
        }
        note_names(data, &loaded.registry);
        Ok(Self {
            config,
            current: Mutex::new(Arc::new(loaded.registry)),
        })
    }

    /// The registry as of the last renewal.
    #[must_use]
    pub fn registry(&self) -> Arc<Verified<Registry>> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How current it is.
    #[must_use]
    pub fn freshness(&self, now: &Now) -> Freshness {
        registry::freshness(&self.registry(), now)
    }

    /// Looks for a newer one. What goes wrong is logged: the old one stays in use, and shows
    /// its age by [`Watch::freshness`].
    pub async fn renew(&self, clock: &dyn Clock) {
        match fetch::refresh(&self.config, clock).await {
            Ok(Refreshed::Unchanged) => {}
            Ok(Refreshed::Updated(version)) => match fetch::load(&self.config, &clock.now()) {
                Ok(loaded) => {
                    note_names(&self.config.state_dir, &loaded.registry);
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
                        Arc::new(loaded.registry);
                    tracing::info!(version = version.targets, "Registry accepted.");
                }
                Err(error) => tracing::warn!(%error, "Registry not accepted."),
            },
            Err(error) => tracing::warn!(%error, "Registry not renewed."),
        }
    }
}

/// Those who ask may read the directory only: the names that the registry has lie there.
fn note_names(data: &Path, registry: &Registry) {
    if let Err(error) = RegistryNames::new(registry).save(data) {
        tracing::warn!(%error, "The names of the registry are not noted.");
    }
}
