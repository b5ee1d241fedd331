//! `mcpshim-collector show`

use mcpshim::collector::query::Filter;
use mcpshim::report::{Exit, Failure};
use serde_json::Value;

use super::source::{Source, object, print};

/// Show one record in full, and the others of its call.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  mcpshim-collector show --data /srv/mcpshim 0197f3a2-7b1c-7000-8000-000000000000/12"
)]
pub(crate) struct Args {
    /// The record, as `query` names it.
    #[arg(value_name = "EVENT")]
    event: String,
    #[command(flatten)]
    source: Source,
    /// One JSON object a line, the last with `complete_through`.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let filter = Filter {
        event: Some(args.event.clone()),
        ..Filter::default()
    };
    let answer = args.source.query(&filter)?;
    if answer.events.is_empty() {
        let sentence = format!("there is no record {} here", args.event);
        let mut failure = Failure::new(Exit::Failed, sentence);
        failure.causes.push(answer.last.completeness.to_string());
        return Err(
            failure.hint("`mcpshim-collector devices` says which devices still hold records")
        );
    }
    if args.json {
        let last = object(&answer.last);
        return print(answer.events.iter().map(object).chain([last]));
    }
    let mut lines = Vec::new();
    for view in &answer.events {
        if let Value::Object(members) = view {
            for (name, value) in members {
                let value = match value {
                    Value::String(text) => text.clone(),
                    other => object(other),
                };
                lines.push(format!("{name:<20} {value}"));
            }
        }
        lines.push(String::new());
    }
    lines.push(answer.last.completeness.to_string());
    print(lines)
}
