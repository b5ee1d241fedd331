//! `mcpshim registry`

use std::path::{Path, PathBuf};

use mcpshim::clock::{SystemClock, Utc};
use mcpshim::config::Config;
use mcpshim::fetch::{self, FetchError, Refreshed};
use mcpshim::registry::{Freshness, Loaded};
use mcpshim::report::{Exit, Failure};
use serde_json::json;

use crate::out;

/// Look at the signed registry on this machine, or renew it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Verify a copy of the published repository and use it, for machines without a network
    ///
    /// The copy is checked exactly as one from the network: signatures, versions, expiry.
    #[command(after_help = "Examples:\n  mcpshim registry import /media/usb/registry")]
    Import {
        /// The directory that holds `metadata` and `targets`
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask for a newer registry now, and verify it
    Refresh {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what is trusted on this machine; no network is touched
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let config = crate::settings()?;
    match command {
        Command::Import { dir, json } => import(config, dir, *json),
        Command::Refresh { json } => refresh(&config, *json),
        Command::Show { json } => show(&config, *json),
    }
}

fn failed(error: &FetchError) -> Failure {
    Failure::from_error(Exit::Registry, error).hint(error.hint())
}

fn import(mut config: Config, dir: &Path, as_json: bool) -> Result<(), Failure> {
    let missing = |error: std::io::Error| {
        Failure::from_error(Exit::Failed, &error)
            .context(format!("{} cannot be read", dir.display()))
            .hint("name the directory that `mcpshim-admin publish` wrote")
    };
    let dir = dir.canonicalize().map_err(missing)?;
    let Some(path) = dir.to_str() else {
        return Err(Failure::new(
            Exit::Failed,
            "the name of the directory is not Unicode",
        ));
    };
    // only where the files come from changes: what is trusted stays as configured
    config.registry_url = format!("file://{path}/");
    refresh(&config, as_json)
}

fn refresh(config: &Config, as_json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let clock = SystemClock::new();
    let refreshed = runtime
        .block_on(fetch::refresh(config, &clock))
        .map_err(|error| failed(&error))?;
    let loaded = fetch::load(config, &crate::now()).map_err(|error| failed(&error))?;
    let updated = matches!(refreshed, Refreshed::Updated(_));
    if as_json {
        let mut summary = summary(&loaded);
        if let Some(members) = summary.as_object_mut() {
            members.insert("updated".to_owned(), updated.into());
        }
        out::print_json(&summary)
    } else {
        let version = loaded.registry.version.targets;
        let news = if updated { "now" } else { "still" };
        warnings(&loaded);
        out::print(&format!(
            "registry of {} is {news} at version {version}, timestamp ends {}\n",
            loaded.registry.org.name,
            Utc(loaded.registry.expires)
        ))
    }
}

fn show(config: &Config, as_json: bool) -> Result<(), Failure> {
    let loaded = fetch::load(config, &crate::now()).map_err(|error| failed(&error))?;
    if as_json {
        return out::print_json(&summary(&loaded));
    }
    let registry = &loaded.registry;
    let version = registry.version;
    let mut rows = vec![
        vec![
            "organisation:".to_owned(),
            format!("{} ({})", registry.org.name, registry.org.org),
        ],
        vec!["version:".to_owned(), version.targets.to_string()],
        vec![
            "metadata:".to_owned(),
            format!(
                "root {}, timestamp {}, snapshot {}",
                version.root, version.timestamp, version.snapshot
            ),
        ],
        vec!["digest:".to_owned(), registry.digest.to_string()],
        vec![
            "timestamp:".to_owned(),
            format!(
                "{}, ends {}",
                freshness(loaded.freshness),
                Utc(registry.expires)
            ),
        ],
        vec!["source:".to_owned(), config.registry_url.clone()],
        vec!["roles:".to_owned(), list(registry.policy.roles.keys())],
        vec!["agents:".to_owned(), list(registry.policy.agents.keys())],
    ];
    for server in registry.servers.values() {
        let surface = server.surface.as_ref();
        let tools = surface.map_or(0, |surface| surface.tools.len());
        let line = format!("{} - {tools} tools, {}", server.key, server.purpose);
        rows.push(vec!["server:".to_owned(), line]);
    }
    warnings(&loaded);
    out::print(&out::columns(&rows))
}

fn list<'a, T: ToString + 'a>(names: impl Iterator<Item = &'a T>) -> String {
    let names: Vec<String> = names.map(ToString::to_string).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn warnings(loaded: &Loaded) {
    loaded
        .warnings
        .iter()
        .for_each(|warning| out::warn(warning));
}

fn freshness(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Grace => "grace",
        Freshness::Lapsed => "lapsed",
    }
}

fn summary(loaded: &Loaded) -> serde_json::Value {
    let registry = &loaded.registry;
    let servers: Vec<_> = registry
        .servers
        .values()
        .map(|server| {
            let surface = server.surface.as_ref();
            json!({
                "key": server.key,
                "id": server.id,
                "owner": server.owner,
                "purpose": server.purpose,
                "tools": surface.map_or(0, |surface| surface.tools.len()),
            })
        })
        .collect();
    json!({
        "org": registry.org.org,
        "name": registry.org.name,
        "version": registry.version,
        "digest": registry.digest,
        "freshness": freshness(loaded.freshness),
        "expires": Utc(registry.expires).to_string(),
        "roles": registry.policy.roles.keys().collect::<Vec<_>>(),
        "agents": registry.policy.agents.keys().collect::<Vec<_>>(),
        "servers": servers,
        "warnings": loaded.warnings,
    })
}
