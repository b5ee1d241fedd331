//! `mcpshim-admin agent`: pipelines and robots with keys of their own.

use std::path::{Path, PathBuf};

use mcpshim::admin::{self, AgentError};
use mcpshim::clock::SystemEntropy;
use mcpshim::ids::AgentName;
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use serde_json::json;

use super::shell;

/// Make agents: pipelines and robots with keys of their own
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    New(New),
}

/// Make an agent: a private key for the agent, a file with the public one for the registry
///
/// Give the key to the agent alone, through its own secret store. Records name the agent by it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    mcpshim-admin agent new ci --owner platform --key ~/acme-ci.key --expires 2027-12-31 acme")]
struct New {
    /// Its name: 1 to 64 of a-z 0-9 -
    name: AgentName,
    /// Where the private key goes: a new file outside DIR, readable by its owner only
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The team that answers for it [default: the organisation's help]
    #[arg(long, value_name = "TEAM")]
    owner: Option<String>,
    /// The first day (UTC) on which it is refused
    #[arg(long, value_name = "DAY")]
    expires: Option<String>,
    /// The registry's sources
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print one JSON object instead of the next steps
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::New(args) => new(&args),
    }
}

fn new(args: &New) -> Result<(), Failure> {
    if resolved(&args.key).starts_with(resolved(&args.dir)) {
        return Err(Failure::new(
            Exit::Usage,
            "the private key may not lie inside the registry's sources",
        )
        .hint("choose a --key file outside DIR: DIR goes into git"));
    }
    let made = admin::agent(
        &args.dir,
        &args.name,
        args.owner.as_deref(),
        args.expires.as_deref(),
        &args.key,
        &mut SystemEntropy,
    )
    .map_err(|error| failed(&error))?;
    if args.json {
        let (name, file, key) = (&args.name, &made.file, &args.key);
        say!(
            "{}",
            json!({ "agent": name, "file": file, "key": key, "public_key": made.public_key,
                "owner": made.owner, "roles": made.roles })
        );
        return Ok(());
    }
    let (name, dir, key) = (&args.name, shell(&args.dir), shell(&args.key));
    say!("Agent `{name}` of {}:", made.owner);
    say!("  private key  {key}  (give it to the agent alone)");
    say!("  public key   {}", shell(&made.file));
    say!();
    say!("Next:");
    match made.roles.is_empty() {
        true => say!("  name it in a role: add `agents: [{name}]` to a file in {dir}/roles"),
        false => say!("  it has the roles {}; review them", made.roles.join(", ")),
    }
    say!("  publish the registry, then on the agent's machine:");
    say!("    mcpshim registry refresh");
    say!("    MCPSHIM_AGENT={name} MCPSHIM_AGENT_KEY={key} mcpshim status");
    Ok(())
}

fn failed(error: &AgentError) -> Failure {
    let (exit, hint) = match error {
        AgentError::Date(_) => (Exit::Usage, "write a day such as 2027-12-31"),
        AgentError::Exists(_) => (
            Exit::Failed,
            "delete it to make the agent anew; machines accept the old key until you publish",
        ),
        AgentError::Io { .. } => (Exit::Failed, "see that the directory can be written"),
        AgentError::Key(error) => (Exit::Failed, error.hint()),
        AgentError::NotARegistry(_) => (
            Exit::Failed,
            "give the registry's directory last: `mcpshim-admin agent new NAME --key FILE DIR`",
        ),
    };
    Failure::from_error(exit, error).hint(hint)
}

/// The path as the file system knows it, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for existing in absolute.ancestors() {
        if let (Ok(real), Ok(rest)) = (existing.canonicalize(), absolute.strip_prefix(existing)) {
            return real.join(rest);
        }
    }
    absolute
}
