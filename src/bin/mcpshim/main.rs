//! The program on every developer's machine: the stdio MCP server, and the person's commands.
//!
//! A file per command. Each has `Args`, whose doc comments are the manual, and `run`, which ends
//! in an error that says what happened, why, and what to do next.

use std::process::ExitCode;

use clap::Parser as _;
use mcpshim::clock::{Clock as _, Now, SystemClock};
use mcpshim::config::Config;
use mcpshim::report::{Exit, Failure};

mod audit;
mod client;
mod completion;
mod config;
mod credential;
mod doctor;
mod explain;
mod history;
mod login;
mod logout;
mod logs;
mod out;
mod purge;
mod registry;
mod restart;
mod run;
mod serve;
mod ship;
mod status;
mod tools;

const EXAMPLES: &str = "\
Examples:
  mcpshim login                      sign in, once
  mcpshim status                     who am I here, and what is wrong
  mcpshim tools                      what may I use
  mcpshim explain github/create_issue
                                     why may I (not) use this
  mcpshim credential set github      give the token that a server needs
  mcpshim run --as ci -- claude -p \"triage the new issues\"
                                     run a client as an agent

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 denied, 4 nobody is signed in,
5 no usable registry, 75 not decided yet.";

/// Governed access to MCP tools: who calls, may they, and a record of every call
///
/// MCP clients start `mcpshim serve`; everything else here is for people. Tools are written
/// `server/tool` everywhere. Every command that prints something knows `--json`.
#[derive(Debug, clap::Parser)]
#[command(name = "mcpshim", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(subcommand)]
    Audit(audit::Command),
    #[command(subcommand)]
    Client(client::Command),
    Completion(completion::Args),
    Config(config::Args),
    #[command(subcommand)]
    Credential(credential::Command),
    Doctor(doctor::Args),
    Explain(explain::Args),
    Login(login::Args),
    Logout(logout::Args),
    Logs(logs::Args),
    Purge(purge::Args),
    #[command(subcommand)]
    Registry(registry::Command),
    Restart(restart::Args),
    Run(run::Args),
    Serve(serve::Args),
    #[command(name = "__ship")]
    Ship(ship::Args),
    Status(status::Args),
    Tools(tools::Args),
}

fn main() -> ExitCode {
    mcpshim::harden::harden();
    // a child of ours, started to watch over one of its own: nothing else may happen before
    if let Some(code) = mcpshim::upstream::dispatch_guard() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // what `run` becomes is the person's own program
    if !matches!(cli.command, Command::Run(_)) {
        mcpshim::harden::harden_children();
    }
    // what is not read on a managed machine can still be told, so that one stays as it is
    if !matches!(cli.command, Command::Config(_) | Command::Completion(_))
        && let Err(failure) = mcpshim::config::start_over()
    {
        out::complain(&failure);
        return ExitCode::from(failure.exit.code());
    }
    let ended = match cli.command {
        Command::Audit(command) => audit::run(&command),
        Command::Client(command) => client::run(&command),
        Command::Completion(args) => completion::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Credential(command) => credential::run(&command),
        Command::Doctor(args) => doctor::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Login(args) => login::run(&args),
        Command::Logout(args) => logout::run(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Purge(args) => purge::run(&args),
        Command::Registry(command) => registry::run(&command),
        Command::Restart(args) => restart::run(&args),
        Command::Run(args) => run::run(args),
        Command::Serve(args) => serve::run(&args),
        Command::Ship(args) => ship::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Tools(args) => tools::run(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out::complain(&failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Help and version are answers; anything else is a wrong command line.
fn usage(error: &clap::Error) -> ExitCode {
    // nobody is left to tell when even the terminal is gone
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(Exit::Usage.code())
    } else {
        ExitCode::SUCCESS
    }
}

/// The settings of this machine. On a managed one this also notes that it is managed.
fn settings() -> Result<Config, Failure> {
    let config = mcpshim::config::load()?;
    // without the note only the next absence of the managed file goes unnoticed
    drop(mcpshim::config::remember(&config));
    Ok(config)
}

fn now() -> Now {
    SystemClock::new().now()
}
