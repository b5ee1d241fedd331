//! `mcpshim status`

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mcpshim::clock::Utc;
use mcpshim::config::Config;
use mcpshim::policy::{self, SnapshotId};
use mcpshim::registry::doc::Registry;
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::{assemble_with_warnings, without_registry};
use mcpshim::serve::learned;
use mcpshim::serve::run_file::{self, Running};
use mcpshim::text;
use mcpshim::vault::{self, StoreKind};
use serde_json::json;

use crate::audit::{self, Standing};
use crate::credential::Missing;
use crate::out;

const EXAMPLES: &str = "\
Examples:
  mcpshim status
  mcpshim status --json | jq -r .status.freshness
  mcpshim status --json | jq '.sessions[] | {pid, client}'

Exit codes: 0 all is well, 1 a credential is missing, 4 nobody is signed in, 5 no usable registry.";

/// Show who you are here, the registry, the servers, running sessions, and what is wrong
///
/// Reads local state only: nothing is fetched and nothing is started.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let now = crate::now();
    let config = crate::settings();
    let (snapshot, warnings) = match &config {
        Ok(config) => assemble_with_warnings(config, SnapshotId(1), &now),
        Err(failure) => (without_registry(failure, SnapshotId(1), &now), Vec::new()),
    };
    let status = policy::status(&snapshot, &now);
    let settings = config.as_ref().ok();
    let machine = settings.map(|config| Machine::of(config, snapshot.registry()));
    let missing = settings.map_or_else(Vec::new, |config| Missing::of(config, &snapshot));
    if args.json {
        out::print_json(&json!({
            "status": status,
            "sessions": machine.as_ref().map(|machine| &machine.sessions),
            "protocols": machine.as_ref().map(|machine| &machine.protocols),
            "missing_credentials": missing,
            "secret_store": machine.as_ref().and_then(|machine| machine.secrets),
            "records": machine.as_ref().and_then(|machine| machine.records.as_ref()),
            "warnings": warnings,
            "managed": settings.map(|config| config.managed),
            "state_dir": settings.map(|config| &config.state_dir),
            "machine_id": settings.map(|config| &config.machine_id),
        }))?;
    } else {
        let mut text = status.to_string();
        for missing in &missing {
            push(&mut text, &format!("trouble:      {missing}"));
        }
        if let Some(machine) = &machine {
            machine.describe(&mut text);
        }
        if let Some(config) = settings {
            text.push_str(&format!("state:        {}\n", config.state_dir.display()));
        }
        out::print(&text)?;
        warnings.iter().for_each(|warning| out::warn(warning));
    }
    if let Err(failure) = &config {
        // the causes stand in the answer already
        let sentence = format!("no tool can be used: {}", failure.sentence);
        return Err(Failure::new(failure.exit, sentence).hint("see `trouble` above"));
    }
    ended(&snapshot, &status, missing.len())
}

/// What runs and waits on this machine.
struct Machine {
    sessions: Vec<Running>,
    /// How servers spoke the last time that any session met them.
    protocols: BTreeMap<String, &'static str>,
    /// Where the key of this person's secrets is; `None` where there are none, and where they
    /// cannot be read: `mcpshim doctor` says why.
    secrets: Option<&'static str>,
    /// `None` where the spool cannot be read; `mcpshim audit status` says why.
    records: Option<Standing>,
}

impl Machine {
    fn of(config: &Config, registry: Option<&Registry>) -> Self {
        let now = crate::now();
        let servers = registry.map(|registry| &registry.servers);
        let spoken = servers.into_iter().flatten().filter_map(|(key, server)| {
            let spoken = learned::spoken(&config.state_dir, &server.transport, &now)?;
            Some((key.to_string(), spoken))
        });
        Self {
            protocols: spoken.collect(),
            secrets: vault::named(config).ok().flatten().map(StoreKind::as_str),
            sessions: run_file::running(&config.state_dir),
            records: audit::standing(config).ok(),
        }
    }

    fn describe(&self, text: &mut String) {
        for session in &self.sessions {
            describe(session, text);
        }
        for (server, spoken) in &self.protocols {
            push(text, &format!("protocol:     {server} {spoken}"));
        }
        if let Some(store) = self.secrets {
            push(
                text,
                &format!("secrets:      sealed, their key in: {store}"),
            );
        }
        let Some(records) = &self.records else {
            text.push_str("records:      cannot be read: run `mcpshim audit status`\n");
            return;
        };
        if records.waiting > 0 {
            push(text, &format!("records:      {} wait", records.waits()));
            if let Some(trouble) = &records.trouble {
                push(text, &format!("trouble:      {trouble}"));
            }
        }
    }
}

fn describe(running: &Running, text: &mut String) {
    let client = running.session.client.as_ref().map_or_else(
        || "a client that has not said its name".to_owned(),
        |client| format!("{} {} ({})", client.name, client.version, client.protocol),
    );
    let line = format!(
        "session:      process {}, {client}, since {}",
        running.pid,
        Utc(running.started)
    );
    push(text, &line);
    let stopped = running.session.repeats_stopped;
    if stopped > 0 {
        let line = format!("              {stopped} calls stopped: the same one, too often");
        push(text, &line);
    }
    for server in &running.session.servers {
        let mut line = format!("              {} {}", server.key, server.state.as_str());
        if let Some(protocol) = &server.protocol {
            line.push_str(&format!(" ({protocol})"));
        }
        if let Some(trouble) = &server.trouble {
            line.push_str(&format!(": {trouble}"));
        }
        if server.failures > 1 {
            line.push_str(&format!("; failed {} times in a row", server.failures));
        }
        let now_s = crate::now().unix_s();
        if let Some(left_s) = server.retry_at.and_then(|at| at.checked_sub(now_s)) {
            line.push_str(&format!("; calls are refused for {left_s} s more"));
        }
        if server.unconfirmed > 0 {
            line.push_str(&format!(
                "; {} that the client listens to are not confirmed",
                server.unconfirmed
            ));
        }
        push(text, &line);
        for (name, reason) in &server.quarantined {
            let line = format!(
                "              {}/{name} is not offered: {reason}",
                server.key
            );
            push(text, &line);
        }
    }
}

/// Adds a line in which nothing plays with the terminal.
fn push(text: &mut String, line: &str) {
    // writing to a string does not fail
    writeln!(text, "{}", text::visible(line)).unwrap_or_default();
}

/// A command that asked for the state succeeds only when the state is good.
fn ended(
    snapshot: &policy::Snapshot,
    status: &policy::Status,
    missing: usize,
) -> Result<(), Failure> {
    let lapsed = status.freshness == Some("lapsed");
    if snapshot.registry().is_none() || lapsed {
        Err(Failure::new(
            Exit::Registry,
            "no tool can be used: there is no usable registry",
        )
        .hint("see `trouble` above"))
    } else if snapshot.caller().is_none() {
        Err(Failure::new(
            Exit::NotSignedIn,
            "no tool can be used: nobody is recognised here",
        )
        .hint("see `trouble` above"))
    } else if status
        .sign_in
        .as_ref()
        .is_some_and(|sign_in| !sign_in.holds)
    {
        Err(
            Failure::new(Exit::NotSignedIn, "no tool can be used: the sign-in ended")
                .hint("run `mcpshim login`"),
        )
    } else if missing > 0 {
        let sentence = match missing {
            1 => "a credential is missing: the tools of its server cannot be used".to_owned(),
            more => {
                format!("{more} credentials are missing: the tools of their servers cannot be used")
            }
        };
        Err(Failure::new(Exit::Failed, sentence).hint("see `trouble` above"))
    } else {
        Ok(())
    }
}
