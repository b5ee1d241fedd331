//! `mcpshim completion`

use clap::CommandFactory as _;
use mcpshim::report::Failure;

use crate::out;

/// Print the completion script of a shell
///
/// Put it where your shell looks, for example
/// `mcpshim completion bash > ~/.local/share/bash-completion/completions/mcpshim`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = crate::Cli::command();
    clap_complete::generate(args.shell, &mut command, "mcpshim", &mut script);
    out::print(&String::from_utf8_lossy(&script))
}
