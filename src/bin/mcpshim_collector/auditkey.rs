//! `mcpshim-collector auditkey`

use std::path::PathBuf;

use mcpshim::audit::generate_audit_key;
use mcpshim::clock::{Clock as _, SystemClock, SystemEntropy};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use mcpshim::vault;

/// Make the keys that arguments and results are sealed to.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an audit key: the private half into a file, the public half to standard output.
    ///
    /// Put what it prints into `audit_keys` of the registry's organisation. Keep the file with
    /// the people who may read arguments: never on a laptop that serves calls, never at the
    /// collector. Without it, what is sealed to it stays closed for good.
    #[command(
        after_help = "Example:\n  mcpshim-collector auditkey new --out audit.key > audit-key.json"
    )]
    New {
        /// Where the private half goes: a new file that only you can read.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long machines seal to it, in days from now.
        #[arg(long, value_name = "DAYS", default_value_t = 730)]
        days: u64,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let Command::New { out, days } = command;
    let failed = |error: &dyn std::error::Error| Failure::from_error(Exit::Failed, error);
    let now = SystemClock::new().now().unix_s();
    let end = now.saturating_add(days.saturating_mul(86_400));
    let (key, doc) =
        generate_audit_key(&mut SystemEntropy, now, end).map_err(|error| failed(&error))?;
    let created = vault::create_private(out, key.to_text().expose(), &mut SystemEntropy)
        .map_err(|error| failed(&error).context(format!("cannot create {}", out.display())))?;
    if !created {
        return Err(
            Failure::new(Exit::Failed, format!("{} exists", out.display()))
                .hint("choose another name: a key that is overwritten opens nothing any more"),
        );
    }
    let text = serde_json::to_string_pretty(&doc).map_err(|error| failed(&error))?;
    say!("{text}");
    eprintln!(
        "private half: {} (keep it away from the collector)",
        out.display()
    );
    Ok(())
}
