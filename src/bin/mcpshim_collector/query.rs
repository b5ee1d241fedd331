//! `mcpshim-collector query`

use mcpshim::collector::query::sealed::{kept, why_not};
use mcpshim::collector::query::{Answer, CLOCK_APART_S, Filter};
use mcpshim::report::Failure;
use serde_json::Value;

use super::source::{Source, object, print};

/// Find records: who called what, when, with which decision and end.
///
/// A call is two records: its intent, written before it was sent, and its outcome. A refusal is
/// one, its denial. Everything given must hold; the newest come last. The answer ends with how
/// far the record reaches: what devices still hold cannot be found.
///
/// Times are UTC, by the device's clock. CONTENT says whether arguments or result can be opened,
/// DEVICE how far the installation is known, CLOCK where a record's time and the time it was
/// received are far apart. A name that is in no record and not in the registry is an error.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mcpshim-collector query --data /srv/mcpshim --person 'Ada Lovelace' --since 2h\n  mcpshim-collector query --data /srv/mcpshim --tool files/write_file --decision deny\n  mcpshim-collector query --data /srv/mcpshim --tool-use-id toolu_01 --json\n  mcpshim-collector query --data /srv/mcpshim --outcome unknown --received-since 1d"
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
        let last = object(&answer.last);
        return print(answer.events.iter().map(object).chain([last]));
    }
    print(table(&answer).into_iter().chain(summary(&answer)))
}

fn summary(answer: &Answer) -> Vec<String> {
    let last = &answer.last;
    let mut lines = Vec::new();
    if last.matched > last.shown {
        lines.push(format!(
            "the newest {} of {} records; --limit 0 shows all",
            last.shown, last.matched
        ));
    }
    lines.extend(last.content.sentence());
    if last.clocks_apart > 0 {
        lines.push(format!(
            "{} of {} records came more than {CLOCK_APART_S} s apart from their own time: see \
             CLOCK, and --received-since",
            last.clocks_apart, last.matched
        ));
    }
    lines.extend(last.notes.iter().cloned());
    if last.matched == 0 && last.notes.is_empty() {
        lines.push("no record matches".to_owned());
    }
    lines.push(last.completeness.to_string());
    lines
}

fn text<'v>(view: &'v Value, name: &str) -> &'v str {
    view.get(name).and_then(Value::as_str).unwrap_or_default()
}

const COLUMNS: usize = 9;
/// The column of marks at the clock.
const CLOCK: usize = 7;

fn row(view: &Value) -> [String; COLUMNS] {
    let who = [text(view, "person"), text(view, "agent")].concat();
    let what = ["tool", "prompt", "name", "server"]
        .iter()
        .map(|name| text(view, name))
        .find(|text| !text.is_empty())
        .unwrap_or_default();
    let how = match text(view, "phase") {
        "intent" => match text(view, "outcome") {
            "" => format!("allow by {}", text(view, "rule")),
            "running" => format!("allow by {}; still running", text(view, "rule")),
            outcome => format!("allow by {}; outcome {outcome}", text(view, "rule")),
        },
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
        "enrolled"
    };
    let content = match kept(view) {
        None => "",
        Some(kept) => match why_not(kept).map(|why| why.split_once(": ").map_or(why, |w| w.0)) {
            None => "sealed",
            Some(_) if kept == "size-no-key" => "size only: no key",
            Some(why) => why,
        },
    };
    [
        text(view, "time").to_owned(),
        text(view, "phase").to_owned(),
        // what a device says may hold anything; a terminal must not obey it
        who,
        what.to_owned(),
        how.trim().to_owned(),
        content.to_owned(),
        trust.to_owned(),
        text(view, "clock").to_owned(),
        text(view, "event").to_owned(),
    ]
}

pub(crate) fn table(answer: &Answer) -> Vec<String> {
    let head = [
        "TIME (UTC)",
        "PHASE",
        "WHO",
        "WHAT",
        "HOW",
        "CONTENT",
        "DEVICE",
        "CLOCK",
        "EVENT",
    ]
    .map(str::to_owned);
    let rows: Vec<[String; COLUMNS]> = std::iter::once(head)
        .chain(answer.events.iter().map(row))
        .collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    // most answers have no mark at the clock
    let has_clock = answer.last.clocks_apart > 0;
    rows.iter()
        .map(|row| {
            let line: String = row
                .iter()
                .zip(widths)
                .enumerate()
                .filter(|(column, _)| *column != CLOCK || has_clock)
                .map(|(_, (cell, width))| format!("{cell:<width$}  "))
                .collect();
            line.trim_end().to_owned()
        })
        .collect()
}
