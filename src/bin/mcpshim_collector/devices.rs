//! `mcpshim-collector devices`

use mcpshim::batch::protocol::Standing;
use mcpshim::clock::Utc;
use mcpshim::collector::scan::{Device, SILENT_S};
use mcpshim::report::Failure;

use super::source::{Source, object, print};

/// List the installations that send records: whose they are, what they still hold, what is missing.
///
/// One that nothing was heard of for 7 days is marked silent. Those that nobody enrolled come
/// last: anybody can make one up, so they count for nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mcpshim-collector devices --data /srv/mcpshim")]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// One JSON object a line, the last with `complete_through`.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (devices, completeness) = args.source.devices()?;
    if args.json {
        let last = object(&completeness);
        return print(devices.iter().map(object).chain([last]));
    }
    let mut lines = Vec::new();
    for device in &devices {
        // names are the device's and its user's own
        lines.extend(paragraph(device));
    }
    lines.push(completeness.to_string());
    print(lines)
}

fn paragraph(device: &Device) -> Vec<String> {
    let time = |us: u64| Utc(us / 1_000_000).to_string();
    let whose = match device.standing {
        _ if device.is_gone => "gone: it was enrolled here once".to_owned(),
        Standing::Enrolled => device.bound_to.join(", "),
        Standing::Revoked => format!("revoked: {}", device.bound_to.join(", ")),
        Standing::Unknown => "not enrolled".to_owned(),
    };
    let mut lines = vec![
        format!("{}  {whose}", device.installation),
        format!(
            "  machine {}, {} records in {} streams, {}",
            device.machine_id.as_deref().unwrap_or("unknown"),
            device.records,
            device.streams,
            match device.received_us {
                0 => "no record yet".to_owned(),
                heard_us => format!("last heard {}", time(heard_us)),
            }
        ),
        match device.complete_us {
            Some(through) => format!("  complete through {}", time(through)),
            None => "  not complete".to_owned(),
        },
    ];
    if device.is_silent && device.received_us > 0 {
        lines.push(format!(
            "  silent: nothing heard for more than {} days",
            SILENT_S / 86_400
        ));
    }
    let mut trouble = |count: u64, what: &str| {
        if count > 0 {
            lines.push(format!("  {count} {what}"));
        }
    };
    trouble(
        device.behind,
        "records still on the device when it was last heard",
    );
    trouble(device.forks, "batches contradict what was stored before");
    trouble(device.quarantined, "records that nobody could read");
    trouble(device.damaged, "places where the stored bytes are damaged");
    trouble(
        device.taken_away,
        "sealed payloads were taken out before delivery",
    );
    trouble(
        device.withheld,
        "sealed payloads are too large for the way; the device keeps them",
    );
    for stream in &device.lost_streams {
        lines.push(format!("  gone: stream {stream} was here once"));
    }
    for event in &device.rewritten {
        lines.push(format!(
            "  rewritten: {event} is not what a later stream saw there"
        ));
    }
    for gap in &device.gaps {
        lines.push(format!(
            "  missing: {}/{} to {}",
            gap.stream, gap.first_seq, gap.last_seq
        ));
    }
    lines
}
