//! `mcpshim-admin test`: what must stay true.

use std::path::PathBuf;

use mcpshim::admin::cases::{self, Report, TestError};
use mcpshim::clock::{Clock as _, SystemClock, SystemEntropy};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use mcpshim::text;
use serde_json::json;

use super::shell;

/// Ask the authored cases in tests/: who, which call, which answer
///
/// The sources are compiled, signed in memory and verified as a machine would; then the function
/// that decides every call answers each case. A case about something that is not there is a
/// mistake, since it could not fail. Needs no keys and starts nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mcpshim-admin test acme\n  \
    mcpshim-admin test acme --json | jq -r '.cases[] | select(.passed | not) | .found'\n\n\
A case, in tests/ANY.yaml:\n  \
    - who: {agent: ci}            or {role: eng}, {groups: [engineering]}\n    \
      call: github/delete_repo    or prompt: …, resource: {server: …, uri: …}\n    \
      expect: {deny: not-granted} or allow, {allow: eng/github#1}\n\n\
Exit codes: 0 every case passed, 1 not.")]
pub(crate) struct Args {
    /// The registry's sources
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print one JSON object: `passed`, `failed`, `problems`, `cases`
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let now = SystemClock::new().now();
    let dir = shell(&args.dir);
    let report = cases::test(&args.dir, &now, &mut SystemEntropy).map_err(|error| {
        let failure = Failure::from_error(Exit::Failed, &error);
        match &error {
            TestError::Mistakes(problems) => {
                let failure = match problems.first() {
                    Some(first) => failure.cause(first),
                    None => failure,
                };
                failure.hint(format!("run `mcpshim-admin check {dir}`"))
            }
            TestError::Nothing => failure.hint("write one: `mcpshim-admin test --help` shows how"),
            TestError::Refused(error) => failure.hint(error.hint()),
        }
    })?;
    let (failed, mistakes) = (report.failed(), report.problems.errors());
    let passed = report.cases.len() - failed;
    if args.json {
        let Report { problems, cases } = &report;
        say!(
            "{}",
            json!({ "passed": passed, "failed": failed, "problems": problems, "cases": cases })
        );
    } else {
        print(&report);
    }
    if failed == 0 && mistakes == 0 {
        if !args.json {
            say!("{}: {passed} passed.", args.dir.display());
        }
        return Ok(());
    }
    let mut sentence = format!("{failed} of {} cases failed", report.cases.len());
    if mistakes > 0 {
        sentence.push_str(&format!(", {mistakes} mistakes in cases"));
    }
    Err(Failure::new(Exit::Failed, sentence)
        .hint("correct the grants, or the case if the answer is meant"))
}

fn print(report: &Report) {
    if !report.problems.0.is_empty() {
        say!("{}", report.problems);
    }
    for case in report.cases.iter().filter(|case| !case.passed) {
        let shown = |text: &str| text::short(text, 500);
        let why = match &case.why {
            Some(why) => format!(" ({})", shown(why)),
            None => String::new(),
        };
        let (who, what) = (shown(&case.who), shown(&case.what));
        say!("{}:{}: failed: {who}, {what}{why}", case.file, case.line);
        say!("  expected: {}", shown(&case.expected));
        say!("  found:    {}", shown(&case.found));
    }
}
