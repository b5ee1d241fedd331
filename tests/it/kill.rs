//! SIGKILL at any instant: nothing acknowledged is lost, nothing runs without its record, nothing
//! runs twice, nothing is left running.
//!
//! `MCPSHIM_KILLS` sets how many (100 by default), `MCPSHIM_KILL_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mcpshim::audit::decode::Said;
use mcpshim::clock::{Clock as _, SystemClock};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Collector, Grant, Org, Server, Shim, read_spool, skipped, wait_for};

/// Calls that are kept in flight.
const IN_FLIGHT: usize = 4;
/// A shim is killed at the latest this long after its start, or twice as long as one takes to answer.
const LATEST: Duration = Duration::from_millis(120);

/// What one spool says of the calls, by the id the client gave them.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) intents: BTreeMap<String, usize>,
    pub(crate) outcomes: BTreeMap<String, usize>,
}

/// Counts the calls of a spool.
pub(crate) fn calls(dir: &Path) -> Record {
    let mut record = Record::default();
    let mut calls = BTreeMap::new();
    read_spool(dir, |stream, said| match said {
        Said::Intent(call) => {
            let id = call.ids.tool_use_id.unwrap().to_owned();
            *record.intents.entry(id.clone()).or_default() += 1;
            let before = calls.insert((stream, call.call), id);
            assert_eq!(before, None, "one intent a call");
        }
        Said::Outcome { call, .. } => {
            let id = calls.get(&(stream, call)).expect("its intent came before");
            *record.outcomes.entry(id.clone()).or_default() += 1;
        }
        _ => {}
    });
    record
}

/// xorshift64*: a run can be repeated by its seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A way to end a shim.
#[derive(Clone, Copy)]
struct End {
    how: fn(&mut Shim),
    /// It is left to live until it has answered this often.
    answers: usize,
}

const KILLED: End = End {
    how: |shim| shim.process.kill(),
    answers: 0,
};

/// As a client ends its servers: asked, asked again after 0.1 s, killed after 0.5 s; the standard
/// input stays open.
const AS_CLIENTS_DO: End = End {
    how: end_as_clients_do,
    answers: 2,
};

fn end_as_clients_do(shim: &mut Shim) {
    for (signal, pause_ms) in [(Signal::INT, 100), (Signal::TERM, 400)] {
        shim.process.signal(signal);
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    shim.process.kill();
}

/// Keeps calls in flight until the shim is killed; gives the ids that were answered.
fn session(org: &Org, round: u64, after: Duration, end: End) -> Vec<String> {
    // both eras of the client with both of the upstream
    let modern = round % 2 == 1;
    let tool = if round % 4 < 2 {
        "up_count"
    } else {
        "upm_count"
    };
    let mut shim = org.serve("ci");
    let deadline = Instant::now() + after;
    let mut sent = 0;
    let mut answered = Vec::new();
    let post = |shim: &mut Shim, sent: &mut u64| {
        let id = format!("{round}-{sent}");
        *sent += 1;
        let mut message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params":
            {"name": tool, "arguments": {"id": id}, "_meta": {"claudecode/toolUseId": id}}});
        if modern {
            let meta = &mut message["params"]["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        shim.send(&message);
    };
    if !modern {
        shim.send(
            &json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "kill", "version": "1"}}}),
        );
    }
    for _ in 0..IN_FLIGHT {
        post(&mut shim, &mut sent);
    }
    loop {
        let mut left = deadline.saturating_duration_since(Instant::now());
        if answered.len() < end.answers {
            left += Duration::from_secs(10);
        }
        let Some(message) = shim.next(left) else {
            break;
        };
        if let Some(id) = message["id"].as_str() {
            assert_eq!(message["result"]["content"][0]["text"], id, "{message}");
            answered.push(id.to_owned());
            post(&mut shim, &mut sent);
        }
    }
    (end.how)(&mut shim);
    // what it had written before it died counts as acknowledged
    while let Some(message) = shim.next(Duration::from_secs(5)) {
        answered.extend(message["id"].as_str().map(str::to_owned));
    }
    answered
}

/// What a campaign left behind.
struct Campaign {
    org: Org,
    /// Ids that the client was answered.
    answered: BTreeSet<String>,
    /// Ids that the upstreams executed.
    executed: BTreeSet<String>,
    summary: String,
}

impl Campaign {
    /// An organisation with an upstream of each era.
    fn organisation() -> (Org, PathBuf) {
        let org = Org::new();
        let log = org.path().join("executed");
        for (key, era) in [("up", "legacy"), ("upm", "modern")] {
            let flags = ["--era", era, "--grandchild", "--log", log.to_str().unwrap()];
            org.server(&Server::counting(key, flags));
        }
        org.agent("ci");
        org.role(
            "tester",
            &["ci"],
            &[("up", Grant::ALL), ("upm", Grant::ALL)],
        );
        org.publish();
        (org, log)
    }

    /// Starts shims and kills them, so many times.
    fn run(org: Org, log: &Path, kills: u64, end: End) -> Self {
        let seed = number("MCPSHIM_KILL_SEED").unwrap_or_else(|| SystemClock::new().now().wall_us);
        let mut dice = Dice::new(seed);
        org.mcpshim("ci", ["registry", "refresh"]).ok();
        // found: at a load of 8 none lived until its first answer
        let start = Instant::now();
        let lives = End { answers: 1, ..end };
        let mut answered: BTreeSet<_> = session(&org, kills, Duration::ZERO, lives)
            .into_iter()
            .collect();
        let latest = LATEST.max(2 * start.elapsed());
        let latest_us = u64::try_from(latest.as_micros()).unwrap();
        let mut slowest = Duration::ZERO;
        for round in 0..kills {
            let after = Duration::from_micros(dice.below(latest_us));
            answered.extend(session(&org, round, after, end));
            let start = Instant::now();
            while !left(&org).is_empty() {
                let waited = start.elapsed();
                let all = left(&org);
                assert!(
                    waited < Duration::from_secs(1),
                    "left after {waited:?}: {all:?}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            slowest = slowest.max(start.elapsed());
        }
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let executed: BTreeSet<_> = log.lines().map(str::to_owned).collect();
        assert_eq!(
            executed.len(),
            log.lines().count(),
            "nothing is executed twice"
        );
        // a campaign that executes nothing shows nothing
        let enough = usize::try_from(kills).unwrap() / 2;
        assert!(answered.len() >= enough, "only {} calls", answered.len());
        let summary = format!(
            "{kills} kills, seed {seed}: {} executed, {} answered, last child gone after {slowest:?}",
            executed.len(),
            answered.len(),
        );
        Self {
            org,
            answered,
            executed,
            summary,
        }
    }

    /// Holds the record against what happened.
    #[expect(clippy::print_stdout, reason = "a campaign is read by people")]
    fn account(&self, record: &Record) {
        println!(
            "{}, {} intents, {} outcomes",
            self.summary,
            record.intents.len(),
            record.outcomes.len()
        );
        for id in &self.executed {
            assert!(
                record.intents.contains_key(id),
                "{id} ran without an intent"
            );
        }
        for id in &self.answered {
            assert!(
                self.executed.contains(id),
                "{id} was answered and not executed"
            );
            assert!(
                record.outcomes.contains_key(id),
                "{id} was answered, its outcome is lost"
            );
        }
        for (what, counts) in [("intent", &record.intents), ("outcome", &record.outcomes)] {
            let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
            assert!(twice.is_empty(), "more than one {what}: {twice:?}");
        }
    }
}

#[test]
fn the_spool_accounts_for_every_call_after_kills() {
    let (org, log) = Campaign::organisation();
    let rounds = number("MCPSHIM_KILLS").unwrap_or(100) / 4;
    let campaign = Campaign::run(org, &log, rounds, KILLED);
    campaign.account(&calls(&campaign.org.state().join("spool")));
}

#[test]
fn the_spool_accounts_for_every_call_after_a_client_ended_its_server() {
    let (org, log) = Campaign::organisation();
    let rounds = number("MCPSHIM_KILLS").unwrap_or(100) / 8;
    let campaign = Campaign::run(org, &log, rounds, AS_CLIENTS_DO);
    campaign.account(&calls(&campaign.org.state().join("spool")));
}

#[test]
fn the_collector_accounts_for_every_call_after_kills() {
    let (org, log) = Campaign::organisation();
    let collector = org.collector();
    let yaml = std::fs::read_to_string(org.sources().join("org.yaml")).unwrap();
    org.write(
        "org.yaml",
        &format!("{yaml}collector:\n  url: {}\n", collector.url),
    );
    org.republish();
    let campaign = Campaign::run(org, &log, number("MCPSHIM_KILLS").unwrap_or(100), KILLED);
    campaign.org.mcpshim("ci", ["audit", "flush"]).ok();
    campaign.account(&read_collector(&collector));
}

/// Reads everything the collector has.
fn read_collector(collector: &Collector) -> Record {
    let mut record = Record::default();
    let mut calls = BTreeMap::new();
    let answer = collector.read(["query", "--json", "--limit", "0"]).ok();
    let all = answer.json_lines();
    let phase = |phase: &'static str| all.iter().filter(move |event| event["phase"] == phase);
    for event in phase("intent") {
        let id = event["tool_use_id"].as_str().unwrap().to_owned();
        *record.intents.entry(id.clone()).or_default() += 1;
        calls.insert(call_of(event), id);
    }
    for event in phase("outcome") {
        let id = calls.get(&call_of(event)).expect("its intent is there");
        *record.outcomes.entry(id.clone()).or_default() += 1;
    }
    record
}

/// The stream and the call within it.
fn call_of(event: &serde_json::Value) -> (String, u64) {
    let (stream, _) = event["event"].as_str().unwrap().split_once('/').unwrap();
    (stream.to_owned(), event["call"].as_u64().unwrap())
}

/// Whatever a shim started and left, except a shipper, which lingers.
fn left(org: &Org) -> Vec<String> {
    let lives_on = |line: &str| line.contains("__ship") || line.contains("mcpshim-collector");
    org.processes()
        .into_iter()
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| !line.is_empty() && !lives_on(line))
        .collect()
}

/// One descendant of a shim, by the mark in its environment, which all below a server inherit.
pub(crate) fn descendants(mark: &str) -> Vec<(u32, String)> {
    let needle = format!("MCPSHIM_KILL_MARK={mark}");
    let marked = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|one| one == needle.as_bytes())
    };
    let name = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, String::from_utf8_lossy(&line).replace('\0', " "))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .filter(marked)
        .map(name)
        .collect()
}

/// SIGKILL of the shim at any instant: one second later nothing is left of what its servers
/// started, a package runner's grandchildren included.
///
/// `MCPSHIM_DESCENDANT_KILLS` sets how many kills (12 by default); 200 are run by hand before a
/// release.
#[test]
fn nothing_below_a_killed_shim_is_left_after_a_second() {
    let npm = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/npm");
    let on_path = |name: &str| {
        let path = std::env::var_os("PATH").unwrap();
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(|p| p.is_file())
    };
    let (Some(npx), true) = (on_path("npx"), npm.join("node_modules").exists()) else {
        return skipped("no npx, or no peers (scripts/peers): descendants of npx are not counted");
    };
    let org = Org::new();
    let mark = org.path().file_name().unwrap().to_str().unwrap().to_owned();
    // npx starts a shell, which starts node
    let words = [
        "--no-install",
        "--offline",
        "mcp-server-everything",
        "stdio",
    ];
    let npx = Server::new("npx", npx).args(words);
    let npx = npx.cwd(npm.canonicalize().unwrap().to_str().unwrap());
    org.server(&npx.env("MCPSHIM_KILL_MARK", &mark));
    let forks = Server::counting("forks", ["--grandchild"]);
    org.server(&forks.env("MCPSHIM_KILL_MARK", &mark));
    org.agent("ci");
    org.role(
        "tester",
        &["ci"],
        &[("npx", Grant::ALL), ("forks", Grant::ALL)],
    );
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    wait_for("the authoring to end", || {
        descendants(&mark).is_empty().then_some(())
    });
    let seed = number("MCPSHIM_KILL_SEED").unwrap_or_else(|| SystemClock::new().now().wall_us);
    let mut dice = Dice::new(seed);
    let kills = number("MCPSHIM_DESCENDANT_KILLS").unwrap_or(12);
    let (mut killed, mut most, mut slowest) = (0, 0, Duration::ZERO);
    for round in 0..kills {
        let mut shim = org.serve("ci");
        shim.initialize();
        for tool in ["npx_echo", "forks_count"] {
            let arguments = json!({"message": "x", "id": format!("{round}")});
            shim.post("tools/call", json!({"name": tool, "arguments": arguments}));
        }
        // a third while they start, a third when both are there, a third somewhat later
        if round % 3 > 0 {
            wait_for("all to be there", || {
                let all = descendants(&mark);
                let node = all
                    .iter()
                    .any(|(_, line)| line.contains("everything stdio"));
                let sleeper = all.iter().any(|(_, line)| line.contains("sleep 1"));
                (node && sleeper).then_some(())
            });
        }
        if round % 3 != 1 {
            std::thread::sleep(Duration::from_micros(dice.below(1_500_000)));
        }
        let seen = descendants(&mark).len();
        (killed, most) = (killed + seen, most.max(seen));
        shim.process.kill();
        let start = Instant::now();
        loop {
            let all = descendants(&mark);
            let waited = start.elapsed();
            if all.is_empty() {
                slowest = slowest.max(waited);
                break;
            }
            assert!(
                waited < Duration::from_secs(1),
                "round {round} of seed {seed}: left after {waited:?}: {all:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert!(
        most >= 4,
        "at most {most} descendants were seen, so this shows nothing"
    );
    println!(
        "{kills} kills, seed {seed}: {killed} descendants were there, {most} at most, all gone \
         {slowest:?} later at the latest"
    );
}
