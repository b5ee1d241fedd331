//! `mcpshim-admin refresh`: the daily work of the online keys.

use std::path::{Path, PathBuf};

use mcpshim::admin::keys::KeyRing;
use mcpshim::admin::publish::{self, Published};
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use serde_json::json;

/// Sign the timestamp again, so that machines know the registry is still current
///
/// Needs the timestamp and snapshot keys only. Run it daily: a timestamp lives for 7 days, and
/// machines narrow what they allow once it has expired.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    mcpshim-admin refresh --out /srv/registry --keys /etc/mcpshim/online-keys")]
pub(crate) struct Args {
    /// The repository, as `mcpshim-admin publish` wrote it
    #[arg(long, value_name = "REPO")]
    out: PathBuf,
    /// A directory of keys; may be given several times
    #[arg(long = "keys", value_name = "KEYDIR", required = true)]
    keys: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let keys = KeyRing::read(&args.keys)
        .map_err(|e| Failure::from_error(Exit::Failed, &e).hint(e.hint()))?;
    let now = SystemClock::new().now();
    let published = publish::refresh(&keys, &args.out, &now)
        .map_err(|e| Failure::from_error(Exit::Failed, &e).hint(e.hint()))?;
    print(&published, &args.out, args.json);
    Ok(())
}

/// Tells what a publication did; `publish` shares it.
pub(super) fn print(published: &Published, out: &Path, as_json: bool) {
    let Published {
        updated,
        version,
        changed,
        expires,
        warnings,
    } = published;
    if as_json {
        let object = json!({
            "updated": updated,
            "version": version,
            "changed": changed,
            "expires": expires,
            "warnings": warnings,
        });
        say!("{object}");
        return;
    }
    for name in changed {
        say!("  {name}");
    }
    let held = if *updated { "is now" } else { "was already" };
    say!(
        "Version {} (timestamp {}) {held} in {}.",
        version.targets,
        version.timestamp,
        out.display()
    );
    say!(
        "Machines take it as current until {}; run `mcpshim-admin refresh` daily.",
        publish::utc(*expires)
    );
    for warning in warnings {
        say!("warning: {warning}");
    }
}
