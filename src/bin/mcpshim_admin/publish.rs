//! `mcpshim-admin publish`: sources become a signed repository.

use std::path::PathBuf;

use mcpshim::admin::keys::KeyRing;
use mcpshim::admin::publish;
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;

use super::shell;

/// Sign the registry and write it as static files
///
/// Writes REPO/metadata and REPO/targets, to be served by any web server. Nothing is written when
/// nothing has changed, and nothing that machines would refuse. REPO must be the directory of the
/// last publication: versions continue from it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    mcpshim-admin publish acme --keys ~/acme-keys --out /srv/registry")]
pub(crate) struct Args {
    /// The registry's sources
    dir: PathBuf,
    /// A directory of keys; may be given several times
    #[arg(long = "keys", value_name = "KEYDIR", required = true)]
    keys: Vec<PathBuf>,
    /// Where the repository is, or goes
    #[arg(long, value_name = "REPO")]
    out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let set = mcpshim::admin::compile(&args.dir).map_err(|problems| {
        Failure::new(Exit::Failed, "the sources have mistakes").hint(format!(
            "run `mcpshim-admin check {}`, which lists {} of them with the line and the fix",
            args.dir.display(),
            problems.errors()
        ))
    })?;
    let failed = |e: &publish::PublishError| Failure::from_error(Exit::Failed, e).hint(e.hint());
    let roots = publish::read_roots(&args.dir).map_err(|e| {
        failed(&e)
            .hint("make the keys and the root first: `mcpshim-admin key new DIR --keys KEYDIR`")
    })?;
    let keys = KeyRing::read(&args.keys)
        .map_err(|e| Failure::from_error(Exit::Failed, &e).hint(e.hint()))?;
    let now = SystemClock::new().now();
    let published =
        publish::publish(&set, &roots, &keys, &args.out, &now).map_err(|e| failed(&e))?;
    super::refresh::print(&published, &args.out, args.json);
    if !args.json && published.updated && published.version.targets == 1 {
        say!();
        serving(set.org.as_str(), &shell(&args.dir), &shell(&args.out));
    }
    Ok(())
}

/// Says how to serve a repository and what a developer's machine needs; `init` says it as well.
pub(super) fn serving(org: &str, dir: &str, out: &str) {
    say!("Serve {out} as static files over https, by any web server, with no other file in it.");
    say!("Each developer gets {dir}/trust/root.json, and in ~/.config/mcpshim/config.toml:");
    say!("  org = \"{org}\"");
    say!("  registry_url = \"https://registry.example.com/\"   the directory above metadata/");
    say!("  root = \"root.json\"");
    say!("Then `mcpshim login` for a person; docs/authoring.md says the rest.");
}
