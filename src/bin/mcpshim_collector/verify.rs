//! `mcpshim-collector verify`

use std::path::PathBuf;

use mcpshim::collector::scan;
use mcpshim::report::{Exit, Failure};

use super::source::{object, print, unreadable};

/// Hash everything stored again: signatures, chains, and that nothing is missing between.
///
/// Exits with 1 and names the first bad record when something does not hold. A record missing in
/// the middle of a stream counts as bad; so do streams that a later one of the same machine names
/// and that are not here, or are others, unless the device said that it still holds records; and
/// sealed payloads that were taken out before delivery. The newest records of a machine's newest
/// stream can be removed unseen by this alone.
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
    let (records, findings) = scan::check(&args.data).map_err(|error| unreadable(&error))?;
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| !finding.harmless)
        .collect();
    let mut lines: Vec<String> = findings
        .iter()
        .map(|finding| {
            if args.json {
                object(&serde_json::json!({
                    "event": finding.event,
                    "finding": finding.sentence,
                    "harmless": finding.harmless,
                }))
            } else {
                format!("{}: {}", finding.event, finding.sentence)
            }
        })
        .collect();
    lines.push(if args.json {
        object(&serde_json::json!({ "records": records, "bad": bad.len() }))
    } else {
        format!("{records} records hold, {} findings", bad.len())
    });
    print(lines)?;
    match bad.first() {
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
