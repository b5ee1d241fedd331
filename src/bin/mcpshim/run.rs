//! `mcpshim run`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use mcpshim::config::Config;
use mcpshim::identity;
use mcpshim::ids::AgentName;
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::{agent_key, caller};

const EXAMPLES: &str = "\
Examples:
  mcpshim run --as ci -- claude -p \"triage the new issues\"
  mcpshim run --as nightly --key /run/secrets/nightly.key -- ./report.sh";

/// Run a command as an agent: every `mcpshim serve` below it calls as that agent
///
/// The agent's key is looked for in the state directory (`agents/AGENT.key`), or where `--key`
/// says. The command takes the place of this process: signals and exit code are its own. On a
/// managed machine the agent is set by whoever manages it, and this command refuses.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The agent, as the registry names it
    #[arg(long = "as", value_name = "AGENT")]
    agent: AgentName,
    /// The file that holds its private key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut config = crate::settings()?;
    if config.managed {
        return Err(Failure::new(
            Exit::Denied,
            "this machine is managed: its agent is not chosen on the command line",
        )
        .hint("ask whoever manages it to set `agent` in the managed configuration"));
    }
    let key = match args.key {
        Some(key) => {
            std::path::absolute(&key).map_err(|error| Failure::from_error(Exit::Failed, &error))?
        }
        None => config
            .state_dir
            .join("agents")
            .join(format!("{}.key", args.agent)),
    };
    config.agent = Some((args.agent.clone(), key.clone()));
    prove(&config, &args.agent, &key)?;
    let mut words = args.command.into_iter();
    // clap requires one
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(&program);
    command
        .args(words)
        .env("MCPSHIM_AGENT", args.agent.as_str())
        .env("MCPSHIM_AGENT_KEY", &key);
    become_it(command, &program)
}

/// Says at once what `serve` would say later: the agent cannot prove itself.
fn prove(config: &Config, name: &AgentName, file: &std::path::Path) -> Result<(), Failure> {
    match mcpshim::fetch::load(config, &crate::now()) {
        Ok(loaded) => caller(config, &loaded.registry, &crate::now()).map(drop),
        // the registry may still come; the key must be there now
        Err(_) => {
            let key = agent_key(name, file)?;
            identity::signing_key(key.expose())
                .map(drop)
                .map_err(|error| Failure::from_error(Exit::NotSignedIn, &error))
        }
    }
}

#[cfg(unix)]
fn become_it(mut command: Command, program: &OsString) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt as _;
    mcpshim::harden::release_cores();
    Err(not_started(&command.exec(), program))
}

#[cfg(not(unix))]
fn become_it(mut command: Command, program: &OsString) -> Result<(), Failure> {
    let ended = command
        .status()
        .map_err(|error| not_started(&error, program))?;
    if ended.success() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("{} ended with {ended}", program.display()),
    ))
}

fn not_started(error: &std::io::Error, program: &OsString) -> Failure {
    Failure::from_error(Exit::Failed, error)
        .context(format!("{} cannot be started", program.display()))
        .hint("check the name and the PATH")
}
