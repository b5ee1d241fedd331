//! `mcpshim serve`

use mcpshim::report::Failure;

/// Serve MCP on standard input and output: what clients start
///
/// Takes no flags: everything comes from the configuration and the signed registry. It comes up
/// whatever is wrong, and says so through the tool `mcpshim_status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  claude mcp add mcpshim -- mcpshim serve
                                     let Claude Code start it")]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<(), Failure> {
    mcpshim::serve::run(mcpshim::config::load())
}
