//! `mcpshim-collector init`

use std::path::{Path, PathBuf};

use mcpshim::clock::SystemEntropy;
use mcpshim::collector::files;
use mcpshim::collector::server::reader_token;
use mcpshim::collector::store::Store;
use mcpshim::ids::OrgId;
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use serde::{Deserialize, Serialize};

/// Make a data directory, so that `serve --data DIR` needs nothing else.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  mcpshim-collector init --data /srv/mcpshim --org example \\\n    --registry https://registry.example/mcp/ --root trust/root.json"
)]
pub(crate) struct Args {
    /// The data directory; may exist.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The organisation.
    #[arg(long, value_name = "ID")]
    org: OrgId,
    /// Where the signed registry is: `https://…/`, or `file:///…/`.
    #[arg(long, value_name = "URL")]
    registry: String,
    /// The root metadata to trust, as `mcpshim-admin key new` wrote it. It is copied.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
}

/// `settings.json` in the data directory: what `serve` needs to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) format: u32,
    pub(crate) min_reader: u32,
    pub(crate) org: OrgId,
    pub(crate) registry: String,
}

pub(crate) const SETTINGS_FORMAT: u32 = 1;

pub(crate) fn settings_path(data: &Path) -> PathBuf {
    data.join("settings.json")
}

pub(crate) fn root_path(data: &Path) -> PathBuf {
    data.join("trust").join("root.json")
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let root = std::fs::read(&args.root).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context(format!("cannot read {}", args.root.display()))
            .hint("give the root.json that `mcpshim-admin key new` wrote to trust/")
    })?;
    Store::init(&args.data, &args.org)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let write = |path: PathBuf, content: &[u8]| {
        files::replace(&path, content).map_err(|error| {
            Failure::from_error(Exit::Failed, &error)
                .context(format!("cannot write {}", path.display()))
        })
    };
    write(root_path(&args.data), &root)?;
    let settings = Settings {
        format: SETTINGS_FORMAT,
        min_reader: SETTINGS_FORMAT,
        org: args.org.clone(),
        registry: args.registry.clone(),
    };
    let text = serde_json::to_vec_pretty(&settings)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    write(settings_path(&args.data), &text)?;
    reader_token(&args.data, &mut SystemEntropy)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    say!("made {}", args.data.display());
    say!(
        "next: mcpshim-collector serve --data {} --listen 127.0.0.1:8443",
        args.data.display()
    );
    Ok(())
}
