//! `mcpshim restart`

use std::collections::BTreeMap;
use std::time::Duration;

use mcpshim::clock::{SystemClock, SystemEntropy};
use mcpshim::config::Config;
use mcpshim::fetch;
use mcpshim::ids::ServerKey;
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::{learned, requests, run_file};
use serde_json::json;

use crate::out;

const EXAMPLES: &str = "\
Examples:
  mcpshim restart github             start github anew in every session that uses it
  mcpshim restart github --gently    let calls in flight end by themselves first
  mcpshim restart --all

Exit codes: 0 at least one session did, 1 none did.";

/// How long sessions may take to answer, in microseconds.
const PATIENCE_US: u64 = 5_000_000;
/// Between two looks at their answers.
const LOOK: Duration = Duration::from_millis(20);

/// Start a server anew in the sessions that run, and end its back-off
///
/// Calls in flight end with an unknown outcome, unless `--gently` is given. Sessions go on; the
/// next call starts the server again, and asks it anew which protocol it speaks.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The server's key
    #[arg(value_name = "SERVER", required_unless_present = "all")]
    server: Option<ServerKey>,
    /// Every server
    #[arg(long, conflicts_with = "server")]
    all: bool,
    /// Let calls in flight end by themselves; what is called from now on gets the new one
    #[arg(long)]
    gently: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = crate::settings()?;
    let what = match &args.server {
        Some(server) => {
            exists(&config, server)?;
            format!("server {server}")
        }
        None => "every server".to_owned(),
    };
    // also where no session runs: the next one asks again how it speaks
    let loaded = fetch::load(&config, &crate::now()).ok();
    let servers = loaded.iter().flat_map(|loaded| &loaded.registry.servers);
    let meant = servers.filter(|(key, _)| args.server.as_ref().is_none_or(|only| only == *key));
    let transports = meant.map(|(_, server)| &server.transport);
    if let Err(error) = learned::forget(&config.state_dir, transports, &crate::now()) {
        out::warn(&format!("how it speaks is not forgotten: {error}"));
    }
    let mut waiting: BTreeMap<u32, usize> = BTreeMap::new();
    for session in run_file::running(&config.state_dir) {
        waiting.insert(session.pid, 0);
    }
    if waiting.is_empty() {
        return Err(Failure::new(Exit::Failed, "no session runs here")
            .hint("nothing is to be done: a server is started by the first call to it"));
    }
    let asked = requests::ask(
        &config.state_dir,
        args.server.clone(),
        !args.gently,
        &crate::now(),
        &mut SystemEntropy,
    )
    .map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context("the sessions cannot be asked")
            .hint("check the owner, the permissions and the free space of the state directory")
    })?;
    let sessions = waiting.len();
    let (mut answered, mut restarted) = (0, 0);
    let clock = SystemClock::new();
    while !waiting.is_empty() && clock.mono_us() < PATIENCE_US {
        std::thread::park_timeout(LOOK);
        let running = run_file::running(&config.state_dir);
        // one that has ended needs no restart
        waiting.retain(|pid, _| running.iter().any(|session| session.pid == *pid));
        for session in running {
            let answer = session
                .restarts
                .iter()
                .find(|restarted| restarted.request == asked.request.id);
            if let Some(answer) = answer
                && waiting.remove(&session.pid).is_some()
            {
                answered += 1;
                restarted += usize::from(answer.servers > 0);
            }
        }
    }
    if args.json {
        out::print_json(&json!({
            "sessions": sessions,
            "answered": answered,
            "restarted": restarted,
            "silent": waiting.keys().collect::<Vec<_>>(),
        }))?;
    } else if restarted > 0 {
        out::print(&format!(
            "{what} is started anew in {restarted} of {sessions} sessions\n"
        ))?;
    }
    let silent: Vec<String> = waiting.keys().map(ToString::to_string).collect();
    if !silent.is_empty() {
        out::warn(&format!(
            "sessions that did not answer within {} s: {}",
            PATIENCE_US / 1_000_000,
            silent.join(", ")
        ));
    }
    match (restarted, answered) {
        (0, 0) => Err(Failure::new(Exit::Failed, "no session answered")
            .hint("see `mcpshim status`; ending the client ends its session and its servers")),
        (0, _) => Err(Failure::new(
            Exit::Failed,
            format!("{what} was not started anew: no session has used it yet"),
        )
        .hint("nothing is to be done: the first call starts it")),
        _ => Ok(()),
    }
}

/// A server that the registry does not name is a typing mistake, or one that was withdrawn.
fn exists(config: &Config, server: &ServerKey) -> Result<(), Failure> {
    let loaded = fetch::load(config, &crate::now())
        .map_err(|error| Failure::from_error(Exit::Registry, &error).hint(error.hint()))?;
    let servers = &loaded.registry.servers;
    if servers.contains_key(server) {
        return Ok(());
    }
    let known: Vec<String> = servers.keys().map(ToString::to_string).collect();
    Err(
        Failure::new(Exit::Failed, format!("the registry has no server {server}"))
            .hint(format!("it has {}", known.join(", "))),
    )
}
