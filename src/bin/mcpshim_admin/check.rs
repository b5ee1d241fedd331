//! `mcpshim-admin check`: every mistake at once.

use std::path::PathBuf;

use mcpshim::admin;
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use serde_json::json;

/// Report every mistake in the sources: file, line, rule, fix
///
/// Errors prevent publication, warnings do not. Needs no network, no keys and starts nothing, so
/// it belongs into the checks of every pull request.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mcpshim-admin check acme\n  \
    mcpshim-admin check acme --json | jq -r '.problems[] | \"\\(.file):\\(.line) \\(.rule)\"'")]
pub(crate) struct Args {
    /// The registry's sources
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print one JSON object: `problems`, and how many are `errors` and `warnings`
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let problems = admin::check(&args.dir, &SystemClock::new().now());
    let (errors, warnings) = (problems.errors(), problems.warnings());
    if args.json {
        let report = json!({ "errors": errors, "warnings": warnings, "problems": problems });
        say!("{report}");
    } else if !problems.0.is_empty() {
        say!("{problems}");
    }
    let dir = args.dir.display();
    let counted = format!(
        "{} and {}",
        number(errors, "error"),
        number(warnings, "warning")
    );
    if errors > 0 {
        return Err(Failure::new(Exit::Failed, format!("{dir} has {counted}"))
            .hint("nothing with an error is published; each line above has its fix"));
    }
    if !args.json {
        say!("{dir}: {counted}.");
        if admin::cases::files(&args.dir) > 0 {
            say!(
                "There are cases in tests/: run `mcpshim-admin test {}`.",
                super::shell(&args.dir)
            );
        }
    }
    Ok(())
}

fn number(number: usize, word: &str) -> String {
    match number {
        0 => format!("no {word}s"),
        _ => super::count(number, word),
    }
}
