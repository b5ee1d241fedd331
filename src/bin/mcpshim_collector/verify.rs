//! `mcpshim-collector verify`

use std::path::PathBuf;

use mcpshim::collector::verify;
use mcpshim::report::{Exit, Failure};

use super::source::{object, print, unreadable};

/// Hash everything stored again: signatures, chains, and that nothing is missing between.
///
/// Exits with 1 and names the first bad record when something does not hold. A record missing in
/// the middle of a stream counts as bad; so do streams that a later one of the same machine names
/// and that are not here, or are others, unless the device said that it still holds records;
/// streams and installations that were here once, by the files in `log/`; and sealed payloads that
/// were taken out before delivery. What installations that nobody enrolled sent is told apart and
/// never counts, except for stored bytes that changed here. The newest records of a machine's
/// newest stream can be removed unseen until that machine speaks again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mcpshim-collector verify --data /srv/mcpshim")]
pub(crate) struct Args {
    /// The data directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// One JSON object a line for each finding, the last with `records` and `bad`.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let checked = verify::check(&args.data).map_err(|error| unreadable(&error))?;
    let mut lines: Vec<String> = checked
        .findings
        .iter()
        .map(|finding| {
            if args.json {
                object(&serde_json::json!({
                    "event": finding.event,
                    "finding": finding.sentence,
                    "harmless": finding.harmless,
                    "not_enrolled": finding.is_strangers,
                }))
            } else {
                let apart = match finding.is_strangers {
                    true => " (of an installation that nobody enrolled)",
                    false => "",
                };
                format!("{}: {}{apart}", finding.event, finding.sentence)
            }
        })
        .collect();
    let bad = checked.bad().count();
    lines.push(if args.json {
        object(&serde_json::json!({
            "records": checked.records,
            "bad": bad,
            "not_enrolled": {
                "installations": checked.strangers,
                "records": checked.stranger_records,
            },
        }))
    } else {
        let apart = match checked.strangers {
            0 => String::new(),
            n => format!(
                "; not counted: {} records of {n} installations that nobody enrolled",
                checked.stranger_records
            ),
        };
        format!(
            "{} records are intact, {bad} findings{apart}",
            checked.records
        )
    });
    print(lines)?;
    match checked.bad().next() {
        None => Ok(()),
        Some(first) => {
            let mut failure =
                Failure::new(Exit::Failed, format!("the record is not intact at {}", first.event))
                    .hint("keep the directory as it is; compare with a backup or ask the device to send again");
            failure.causes.push(first.sentence.clone());
            Err(failure)
        }
    }
}
