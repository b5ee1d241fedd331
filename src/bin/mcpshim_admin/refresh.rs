//! `mcpshim-admin refresh`: the daily work of the online keys.

use std::path::{Path, PathBuf};

use mcpshim::admin::keys::KeyRing;
use mcpshim::admin::publish::{self, Published};
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::report::{Exit, Failure};
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
#[expect(clippy::print_stdout, reason = "this is the answer of the command")]
pub(super) fn print(published: &Published, out: &Path, as_json: bool) {
    let (version, changed, expires) = match published {
        Published::Unchanged(version) => (version, [].as_slice(), None),
        Published::Updated {
            version,
            changed,
            expires,
        } => (version, changed.as_slice(), Some(*expires)),
    };
    if as_json {
        let object = json!({
            "updated": expires.is_some(),
            "version": version,
            "changed": changed,
            "expires": expires,
        });
        println!("{object}");
        return;
    }
    match expires {
        None => println!(
            "Unchanged: version {} is what {} holds.",
            version.targets,
            out.display()
        ),
        Some(expires) => {
            for name in changed {
                println!("  {name}");
            }
            println!(
                "Version {} (timestamp {}) is in {}.",
                version.targets,
                version.timestamp,
                out.display()
            );
            println!(
                "Machines take it as current until {}; run `mcpshim-admin refresh` daily.",
                publish::utc(expires)
            );
        }
    }
}
