//! The program of those who author and sign a registry.

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use mcpshim::report::Failure;

mod agent;
mod check;
mod diff;
mod init;
mod key;
mod pin;
mod publish;
mod refresh;
mod test;

/// Author, check, sign and publish the registry of an organisation
///
/// A registry is a directory of YAML under version control: who the organisation is, which MCP
/// servers are approved, which role may use what, which agents exist. It is reviewed like code,
/// and published signed, as static files that every machine verifies.
#[derive(Debug, clap::Parser)]
#[command(
    name = "mcpshim-admin",
    version,
    after_help = "The shortest way from nothing:\n  \
    mcpshim-admin init acme\n  \
    mcpshim-admin key new acme --keys ~/acme-keys\n  \
    mcpshim-admin agent new ci --owner platform --key ~/acme-ci.key acme\n  \
    mcpshim-admin pin acme\n  \
    mcpshim-admin check acme\n  \
    mcpshim-admin publish acme --keys ~/acme-keys --out /srv/registry\n\n\
Exit codes: 0 ok, 1 failed, 2 wrong usage. With --json, the answer is JSON on standard output; \
errors always go to standard error."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Init(init::Args),
    Agent(agent::Args),
    Key(key::Args),
    Pin(pin::Args),
    Check(check::Args),
    Diff(diff::Args),
    Test(test::Args),
    Publish(publish::Args),
    Refresh(refresh::Args),
    Completion(Completion),
}

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    mcpshim-admin completion bash > /etc/bash_completion.d/mcpshim-admin")]
struct Completion {
    /// Which shell
    shell: clap_complete::Shell,
}

fn main() -> ExitCode {
    mcpshim::harden::harden();
    // the guard of a server that `pin` starts is this program
    if let Some(code) = mcpshim::upstream::dispatch_guard() {
        return code;
    }
    let ended = match Cli::parse().command {
        Command::Agent(args) => agent::run(args),
        Command::Check(args) => check::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Completion(args) => {
            let mut command = Cli::command();
            clap_complete::generate(args.shell, &mut command, "mcpshim-admin", &mut io::stdout());
            Ok(())
        }
        Command::Init(args) => init::run(args),
        Command::Key(args) => key::run(args),
        Command::Pin(args) => pin::run(args),
        Command::Publish(args) => publish::run(args),
        Command::Refresh(args) => refresh::run(args),
        Command::Test(args) => test::run(args),
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

/// A path for a command line that can be copied: quoted where a shell would split it.
fn shell(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let safe = |c: char| c.is_ascii_alphanumeric() || "/._-~@%+=:,".contains(c);
    match !text.is_empty() && text.chars().all(safe) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
