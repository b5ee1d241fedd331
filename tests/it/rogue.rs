//! Servers that work against us, on Linux: what reaches them, and what is left of them.
//!
//! `MCPSHIM_ROGUE_ENDS` sets how many sessions end (16 by default); 200 are run by hand before a
//! release. `MCPSHIM_KILL_SEED` repeats a run.

use std::process::Command;
use std::time::{Duration, Instant};

use mcpshim::clock::{Clock as _, SystemClock};
use serde_json::json;

use crate::kill::{Dice, descendants, number};
use crate::support::{Grant, Org, Server, Shim, program, wait_for};

/// The longest that anything of a server may be left.
const SECOND: Duration = Duration::from_secs(1);

/// An organisation with a server for each line of tricks, called `r0`, `r1`, …, and the mark that
/// stands in the environment of all that they start.
fn organisation(tricks: &[&str]) -> (Org, String) {
    let org = Org::new();
    let mark = org.path().file_name().unwrap().to_str().unwrap().to_owned();
    let dir = program("mcpshim-admin").parent().unwrap();
    let rogue = dir.join("examples/rogue");
    assert!(rogue.exists(), "cargo build --example rogue");
    let mut grants = Vec::new();
    let keys: Vec<String> = (0..tricks.len()).map(|at| format!("r{at}")).collect();
    for (key, tricks) in keys.iter().zip(tricks) {
        let server = Server::new(key, &rogue).args(tricks.split(' '));
        org.server(&server.env("MCPSHIM_KILL_MARK", &mark));
        grants.push((key.as_str(), Grant::ALL));
    }
    org.agent("ci");
    org.role("tester", &["ci"], &grants);
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    gone(&mark, "the authoring ended");
    (org, mark)
}

/// Waits until nothing of the servers is left; gives how long it took.
#[track_caller]
fn gone(mark: &str, since: &str) -> Duration {
    let start = Instant::now();
    loop {
        let left = descendants(mark);
        let waited = start.elapsed();
        if left.is_empty() {
            return waited;
        }
        assert!(waited < SECOND, "{waited:?} after {since}: {left:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_but_its_three_streams_reaches_a_server() {
    let (org, _) = organisation(&["shout"]);
    // what the client forgot to close stays out, too
    let mut command = Command::new("sh");
    org.environment_as(&mut command, "ci");
    let script = "exec 9</dev/zero 7>>forgotten; exec \"$0\" \"$@\"";
    command.args(["-c", script]);
    command.arg(program("mcpshim")).arg("serve");
    let mut shim = Shim::start(&mut command);
    shim.initialize();
    let answer = shim.call("r0_act", json!({}));
    let open: Vec<&str> = answer.text().lines().collect();
    assert_eq!(open.len(), 3, "{open:?}");
    for (number, line) in open.iter().enumerate() {
        assert!(line.starts_with(&format!("{number} pipe:")), "{open:?}");
    }
    // so that there was nothing to write into
    let again = shim.call("r0_act", json!({}));
    assert_eq!(again.text().lines().count(), 3);
}

#[test]
fn a_server_that_ends_its_guard_ends_with_it_and_is_told_by_our_words_alone() {
    let tricks = [
        "kill-guard",
        "deaf hide kill-guards leave-child",
        "deaf stop-guard",
    ];
    let (org, mark) = organisation(&tricks);
    let mut shim = org.serve("ci");
    shim.initialize();
    for key in ["r0", "r1"] {
        shim.call(&format!("{key}_act"), json!({})).result();
        gone(&mark, "its guard was killed");
    }
    // the session goes on, with a server of the same entry
    shim.call("r0_act", json!({})).result();
    gone(&mark, "its guard was killed again");
    // one whose guard was stopped once works on
    shim.call("r2_act", json!({})).result();
    shim.call("r2_act", json!({})).result();
    assert!(!descendants(&mark).is_empty());
    shim.close();
    gone(&mark, "the session ended");
}

#[test]
fn a_deaf_server_is_gone_a_second_after_its_restart() {
    let tricks = [
        "deaf hide leave-child",
        "deaf at-end stop-guard",
        "deaf at-end kill-guard hop",
    ];
    let (org, mark) = organisation(&tricks);
    let mut shim = org.serve("ci");
    shim.initialize();
    for at in 0..tricks.len() {
        shim.call(&format!("r{at}_act"), json!({})).result();
    }
    let old: Vec<u32> = descendants(&mark).into_iter().map(|(pid, _)| pid).collect();
    assert!(old.len() >= tricks.len());
    org.mcpshim("ci", ["restart", "--all"]).ok();
    let start = Instant::now();
    wait_for("the old ones to be gone", || {
        let left = descendants(&mark);
        let waited = start.elapsed();
        let any = left.iter().any(|(pid, _)| old.contains(pid));
        assert!(!any || waited < SECOND, "{waited:?}: {left:?}");
        (!any).then_some(())
    });
    shim.close();
    gone(&mark, "the session ended");
}

/// Sessions that end at any instant, in any way, with servers that do all they can.
#[test]
fn nothing_of_hostile_servers_is_left_a_second_after_any_end() {
    let tricks = [
        "deaf hide leave-child",
        "deaf kill-guard leave-child",
        "deaf hide at-end kill-guard hop",
        "deaf at-end stop-guard leave-child",
        "deaf stop-guard hop",
        "deaf hide kill-guard hop",
    ];
    let (org, mark) = organisation(&tricks);
    let seed = number("MCPSHIM_KILL_SEED").unwrap_or_else(|| SystemClock::new().now().wall_us);
    let mut dice = Dice::new(seed);
    let ends = number("MCPSHIM_ROGUE_ENDS").unwrap_or(16);
    let (mut killed, mut slowest) = (0, Duration::ZERO);
    for round in 0..ends {
        let mut shim = org.serve("ci");
        shim.initialize();
        let ids: Vec<u64> = (0..tricks.len())
            .map(|at| {
                let params = json!({"name": format!("r{at}_act"), "arguments": {"n": round}});
                shim.post("tools/call", params)
            })
            .collect();
        // half of them while all starts, half when all were there
        if round % 2 == 0 {
            for id in ids {
                shim.answer(&json!(id));
            }
        }
        std::thread::sleep(Duration::from_micros(dice.below(300_000)));
        let seen = descendants(&mark).len();
        killed += seen;
        match dice.below(3) {
            0 => shim.process.kill(),
            1 => drop(shim.close()),
            _ => {
                shim.process.signal(rustix::process::Signal::TERM);
                shim.process.ended();
            }
        }
        let waited = gone(&mark, &format!("the end of round {round}, seed {seed}"));
        slowest = slowest.max(waited);
    }
    println!(
        "{ends} ends, seed {seed}: {killed} hostile processes were there, the last gone {slowest:?} \
         after its session"
    );
    assert!(killed >= usize::try_from(ends).unwrap(), "only {killed}");
}
