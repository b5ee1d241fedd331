//! `mcpshim-collector`: keeps the record, and answers questions about it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to people"
)]

mod auditkey;
mod devices;
mod init;
mod query;
mod serve;
mod show;
mod source;
mod unseal;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use mcpshim::report::Failure;

/// Keep the record of every call, and answer questions about it.
///
/// `serve` takes in what the machines send. Every other command asks a running server (`--url`)
/// or reads its data directory (`--data`), and changes nothing.
#[derive(Debug, Parser)]
#[command(name = "mcpshim-collector", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Query(query::Args),
    Show(show::Args),
    Devices(devices::Args),
    Unseal(unseal::Args),
    Verify(verify::Args),
    #[command(subcommand)]
    Auditkey(auditkey::Command),
    /// Print the completion script of a shell.
    #[command(
        after_help = "Example:\n  mcpshim-collector completion bash > ~/.local/share/bash-completion/completions/mcpshim-collector"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    mcpshim::harden::harden();
    let result = match Cli::parse().command {
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve::run(args),
        Command::Query(args) => query::run(&args),
        Command::Show(args) => show::run(args),
        Command::Devices(args) => devices::run(&args),
        Command::Unseal(args) => unseal::run(args),
        Command::Verify(args) => verify::run(&args),
        Command::Auditkey(command) => auditkey::run(&command),
        Command::Completion { shell } => completion(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit.code())
        }
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "every command has the same signature"
)]
fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    clap_complete::generate(
        shell,
        &mut Cli::command(),
        "mcpshim-collector",
        &mut std::io::stdout(),
    );
    Ok(())
}
