//! `mcpshim-collector query`

use mcpshim::collector::query::{Answer, Filter};
use mcpshim::report::Failure;
use serde_json::Value;

use super::source::{Source, object, print};

/// Find records: who called what, when, with which decision and end.
///
/// A call is two records: its intent, written before it was sent, and its outcome. A refusal is
/// one, its denial. Everything given must hold; the newest come last. The answer ends with how
/// far the record reaches: what devices still hold cannot be found.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mcpshim-collector query --data /srv/mcpshim --person 'Ada Lovelace' --since 2h\n  mcpshim-collector query --data /srv/mcpshim --tool files/write_file --decision deny\n  mcpshim-collector query --data /srv/mcpshim --tool-use-id toolu_01 --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    filter: Filter,
    /// One JSON object a line, the last with `complete_through`.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let answer = args.source.query(&args.filter)?;
    if args.json {
        let last = object(&answer.last());
        return print(answer.events.iter().map(object).chain([last]));
    }
    print(table(&answer).into_iter().chain(summary(&answer)))
}

fn summary(answer: &Answer) -> Vec<String> {
    let mut lines = Vec::new();
    if answer.matched > answer.events.len() {
        lines.push(format!(
            "the newest {} of {} records; --limit 0 shows all",
            answer.events.len(),
            answer.matched
        ));
    }
    lines.push(answer.completeness.to_string());
    lines
}

fn text<'v>(view: &'v Value, name: &str) -> &'v str {
    view.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn row(view: &Value) -> [String; 7] {
    let who = [text(view, "person"), text(view, "agent")].concat();
    let what = ["tool", "prompt", "name", "server"]
        .iter()
        .map(|name| text(view, name))
        .find(|text| !text.is_empty())
        .unwrap_or_default();
    let how = match text(view, "phase") {
        "intent" => format!("allow by {}", text(view, "rule")),
        "denial" => format!("deny: {}", text(view, "code")),
        "outcome" => {
            let us = view.get("took_us").and_then(Value::as_u64).unwrap_or(0);
            format!("{} in {}.{:03} ms", text(view, "end"), us / 1000, us % 1000)
        }
        _ => {
            let count = view.get("count").and_then(Value::as_u64);
            let count = count.map(|n| format!("{n} × ")).unwrap_or_default();
            format!("{count}{} {}", text(view, "code"), text(view, "detail"))
        }
    };
    let trust = if text(view, "lane") == "fork" {
        "fork"
    } else if text(view, "standing") != "enrolled" {
        text(view, "standing")
    } else if view.get("attested").and_then(Value::as_bool) == Some(false) {
        "other caller"
    } else {
        "ok"
    };
    [
        text(view, "time").to_owned(),
        text(view, "phase").to_owned(),
        // what a device says may hold anything; a terminal must not obey it
        who,
        what.to_owned(),
        how.trim().to_owned(),
        trust.to_owned(),
        text(view, "event").to_owned(),
    ]
}

pub(crate) fn table(answer: &Answer) -> Vec<String> {
    let head = ["TIME", "PHASE", "WHO", "WHAT", "HOW", "KEY", "EVENT"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head)
        .chain(answer.events.iter().map(row))
        .collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter()
        .map(|row| {
            let line: String = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}  "))
                .collect();
            line.trim_end().to_owned()
        })
        .collect()
}
