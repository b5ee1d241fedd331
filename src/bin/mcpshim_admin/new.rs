//! `mcpshim-admin new`: entries of a registry, written to be reviewed.

use std::path::PathBuf;

use mcpshim::admin::{self, EntryError, Reach};
use mcpshim::ids::ServerKey;
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use mcpshim::text::short;
use serde_json::json;

use super::shell;

/// Make the entry of a server, to be reviewed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Server(Server),
}

/// Make the entry of a server from its command or its address
///
/// Writes DIR/servers/KEY.yaml with every key and what it is for. The package of `npx -y PKG@V`,
/// `uvx PKG==V` or of an image by its digest is filled in; what only people know is left to them,
/// and `check` names it. Secrets, and packages without one exact version, are refused. Nothing is
/// overwritten and nothing is run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mcpshim-admin new server git --dir acme -- uvx mcp-server-git==2026.8.31\n  \
    mcpshim-admin new server fs -- npx -y @modelcontextprotocol/server-filesystem@2026.8.31 /srv/files\n  \
    mcpshim-admin new server crm https://crm.example.com/mcp\n  \
    mcpshim-admin new server mine --environment dev -- npx -y my-server")]
struct Server {
    /// The key that begins every tool name: 1 to 16 of a-z 0-9 -
    key: ServerKey,
    /// Where a server over http listens
    #[arg(required_unless_present = "command", conflicts_with = "command")]
    url: Option<String>,
    /// The program of a server over stdio and its arguments, behind `--`
    #[arg(last = true)]
    command: Vec<String>,
    /// The registry's sources
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// What it is: `prod`, `staging` or `dev`; `dev` may run a package without an exact version
    #[arg(long, value_name = "NAME", default_value = "prod")]
    environment: String,
    /// Print one JSON object instead of the next steps
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Server(args) => server(&args),
    }
}

fn server(args: &Server) -> Result<(), Failure> {
    let reach = match (args.command.split_first(), &args.url) {
        (Some((command, rest)), _) => Reach::Command(command.clone(), rest.to_vec()),
        (None, Some(url)) => Reach::Url(url.clone()),
        (None, None) => return Err(Failure::new(Exit::Usage, "no command and no address given")),
    };
    let made = admin::new_server(&args.dir, &args.key, &reach, &args.environment)
        .map_err(|error| failed(&error))?;
    if args.json {
        let (key, file, package) = (&args.key, &made.file, &made.package);
        let warnings = &made.warnings;
        say!(
            "{}",
            json!({ "server": key, "file": file, "package": package, "warnings": warnings })
        );
        return Ok(());
    }
    let (key, dir) = (&args.key, shell(&args.dir));
    say!("Server `{key}`: {}", shell(&made.file));
    if let Some(package) = &made.package {
        say!("  package  {}", short(package, 200));
    }
    for warning in &made.warnings {
        say!("  warning: {}", short(warning, 2000));
    }
    say!();
    say!("Next:");
    say!(
        "  review the file: owner, on_call, purpose, data_classes, and a credential if it wants one"
    );
    say!("  mcpshim-admin pin {dir} {key}    reads what it offers; review pins/{key}.json");
    say!("  grant it: add `{key}:` under `servers` of a file in {dir}/roles");
    say!("  mcpshim-admin check {dir}");
    Ok(())
}

fn failed(error: &EntryError) -> Failure {
    let (exit, hint) = match error {
        EntryError::Exists(_) => (
            Exit::Failed,
            "nothing was written; edit it, or choose a key".into(),
        ),
        EntryError::Io { .. } => (Exit::Failed, "see that the directory can be written".into()),
        EntryError::Key { .. } => (
            Exit::Failed,
            "choose another one: it begins every tool name".into(),
        ),
        EntryError::NotARegistry(_) => (
            Exit::Failed,
            "give the registry's directory with --dir DIR".into(),
        ),
        EntryError::Refused { fix, .. } => (Exit::Failed, short(fix, 2000)),
        EntryError::Reserved => (
            Exit::Failed,
            "choose another one: `mcpshim_…` are mcpshim's own tools".into(),
        ),
    };
    let sentence = short(&error.to_string(), 2000);
    Failure::new(exit, sentence).hint(hint)
}
