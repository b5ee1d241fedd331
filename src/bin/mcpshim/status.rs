//! `mcpshim status`

use mcpshim::policy::{self, SnapshotId};
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::{assemble_with_warnings, without_registry};
use serde_json::json;

use crate::out;

const EXAMPLES: &str = "\
Examples:
  mcpshim status
  mcpshim status --json | jq -r .status.freshness

Exit codes: 0 all is well, 4 nobody is signed in, 5 no usable registry.";

/// Show who you are here, the registry, the servers, and what is wrong
///
/// Reads local state only: nothing is fetched and nothing is started.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let now = crate::now();
    let config = crate::settings();
    let (snapshot, warnings) = match &config {
        Ok(config) => assemble_with_warnings(config, SnapshotId(1), &now),
        Err(failure) => (without_registry(failure, SnapshotId(1), &now), Vec::new()),
    };
    let status = policy::status(&snapshot, &now);
    let settings = config.as_ref().ok();
    if args.json {
        out::print_json(&json!({
            "status": status,
            "warnings": warnings,
            "managed": settings.map(|config| config.managed),
            "state_dir": settings.map(|config| &config.state_dir),
            "machine_id": settings.map(|config| &config.machine_id),
        }))?;
    } else {
        let state = settings.map_or_else(String::new, |config| {
            format!("state:        {}\n", config.state_dir.display())
        });
        out::print(&format!("{status}{state}"))?;
        warnings.iter().for_each(|warning| out::warn(warning));
    }
    if let Err(failure) = &config {
        // the causes stand in the answer already
        let sentence = format!("no tool can be used: {}", failure.sentence);
        return Err(Failure::new(failure.exit, sentence).hint("see `trouble` above"));
    }
    ended(&snapshot, &status)
}

/// A command that asked for the state succeeds only when the state is good.
fn ended(snapshot: &policy::Snapshot, status: &policy::Status) -> Result<(), Failure> {
    let lapsed = status.freshness == Some("lapsed");
    if snapshot.registry().is_none() || lapsed {
        Err(Failure::new(
            Exit::Registry,
            "no tool can be used: there is no usable registry",
        )
        .hint("see `trouble` above"))
    } else if snapshot.caller().is_none() {
        Err(Failure::new(
            Exit::NotSignedIn,
            "no tool can be used: nobody is recognised here",
        )
        .hint("see `trouble` above"))
    } else {
        Ok(())
    }
}
