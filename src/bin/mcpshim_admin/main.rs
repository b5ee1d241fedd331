//! The program of those who author and sign a registry.

use std::process::ExitCode;

use clap::Parser as _;
use mcpshim::report::Failure;

mod key;
mod refresh;

/// Author, check, sign and publish the registry of an organisation
#[derive(Debug, clap::Parser)]
#[command(name = "mcpshim-admin", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Key(key::Args),
    Refresh(refresh::Args),
}

fn main() -> ExitCode {
    if let Some(code) = mcpshim::upstream::dispatch_guard() {
        return code;
    }
    let ended = match Cli::parse().command {
        Command::Key(args) => key::run(args),
        Command::Refresh(args) => refresh::run(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "errors of a command go to its standard error"
)]
fn fail(failure: &Failure) -> ExitCode {
    eprintln!("{failure}");
    ExitCode::from(failure.exit.code())
}
