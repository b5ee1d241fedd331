//! One bad upstream costs only its own tools: each fault of `tests/peers/zoo` beside a good server in
//! one session.
//!
//! While a bad server does its worst the good one's calls are answered within [`GOOD`], the lists
//! are whole, the bad one's call ends within its deadline with one sentence that names the server,
//! nothing runs twice, the record tells it, memory stays bounded, and every byte of standard output
//! is protocol (the client of these tests parses each line).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use mcpshim::audit::decode::Said;
use serde_json::{Value, json};

use crate::support::{
    Answer, Grant, Org, Running, Server, Shim, program, read_spool, run, wait_for,
};

/// A good server's call may take this long beside a bad one: two orders more than it does on a
/// machine that is not busy with other tests.
const GOOD: Duration = Duration::from_secs(8);
/// A bad server's call may take this long beyond what its entry allows.
const GRACE: Duration = Duration::from_secs(20);
/// How much the shim may hold at its peak, in KiB.
const PEAK_KIB: u64 = 112 << 10;

/// How a call to a bad server ends.
enum Ends {
    /// As if nothing were wrong.
    Answered,
    /// With one sentence that holds one of these.
    Failed(&'static [&'static str]),
}
use Ends::{Answered, Failed};

/// One animal.
struct Case {
    fault: &'static str,
    /// What its calls may take, in seconds.
    seconds: u64,
    ends: Ends,
    /// Lines of the record, or their beginnings.
    record: &'static [&'static str],
    /// Looked at for so long after its call has ended.
    after_ms: u64,
}

const fn case(fault: &'static str, ends: Ends, record: &'static [&'static str]) -> Case {
    Case {
        fault,
        seconds: 3,
        ends,
        record,
        after_ms: 200,
    }
}

const TIMEOUT: Ends = Failed(&["gave no answer within 3 s"]);

/// The key of a case.
fn key(at: usize) -> String {
    format!("bad{at}")
}

/// An organisation with a good server and these bad ones, pinned while they still behaved.
fn organisation(cases: &[Case]) -> (Org, PathBuf) {
    let org = Org::new();
    let (begun, log) = (org.path().join("begun"), org.path().join("executed"));
    org.server(&Server::counting("good", []));
    let mut grants = vec![("good".to_owned(), Grant::ALL)];
    for (at, case) in cases.iter().enumerate() {
        let program = zoo(&org, at, case.fault);
        let server = Server::new(&key(at), program)
            .args([case.fault, "--when", begun.to_str().unwrap()])
            .args(["--log", log.to_str().unwrap()])
            .with(&format!("limits: {{call_seconds: {}}}", case.seconds));
        org.server(&server);
        grants.push((key(at), Grant::ALL));
    }
    org.agent("ci");
    let grants: Vec<(&str, Grant<'_>)> = grants
        .iter()
        .map(|(key, grant)| (key.as_str(), grant.clone()))
        .collect();
    org.role("tester", &["ci"], &grants);
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    std::fs::write(begun, "").unwrap();
    for (at, case) in cases.iter().enumerate() {
        let own = org.path().join(key(at));
        match case.fault {
            "missing" => std::fs::remove_file(own).unwrap(),
            "not-executable" => {
                std::fs::set_permissions(own, std::fs::Permissions::from_mode(0o644)).unwrap();
            }
            _ => {}
        }
    }
    (org, log)
}

/// The program of a case: its own copy where something is to happen to it.
fn zoo(org: &Org, at: usize, fault: &str) -> PathBuf {
    let path = program("mcpshim-admin")
        .parent()
        .unwrap()
        .join("examples/zoo");
    assert!(
        path.exists(),
        "{} is missing: cargo build --example zoo",
        path.display()
    );
    if !matches!(fault, "missing" | "not-executable") {
        return path;
    }
    let own = org.path().join(key(at));
    std::fs::copy(path, &own).unwrap();
    own
}

/// A call to the good server; gives how long it took.
#[track_caller]
fn good(shim: &mut Shim, text: &str) -> Duration {
    let start = Instant::now();
    assert_eq!(shim.call("good_echo", json!({ "text": text })).text(), text);
    start.elapsed()
}

/// What a call that failed says: one sentence, as a tool error or a protocol error.
#[track_caller]
fn complaint(answer: &Answer) -> String {
    match answer.is_tool_error() {
        true => answer.text().to_owned(),
        false => answer.error().1.to_owned(),
    }
}

/// Puts every case beside the good server, one session each.
#[expect(clippy::print_stdout, reason = "what it measured is read by people")]
fn visit(cases: &[Case]) {
    let (org, log) = organisation(cases);
    for (at, case) in cases.iter().enumerate() {
        let (key, fault) = (key(at), case.fault);
        let mut shim = org.serve("ci");
        shim.initialize();
        shim.request("logging/setLevel", json!({"level": "error"}));
        let names = shim.names("tools");
        for tool in ["good_echo", &format!("{key}_act")] {
            assert!(names.iter().any(|name| name == tool), "{fault}: {names:?}");
        }
        good(&mut shim, "up");
        let idle_kib = memory_kib(shim.process.pid(), "VmRSS:");
        let start = Instant::now();
        let patience = Duration::from_secs(case.seconds) + GRACE;
        let arguments = json!({ "id": fault });
        let call = json!({"name": format!("{key}_act"), "arguments": arguments});
        let bad = shim.post("tools/call", call);
        let (mut slowest, mut calls) = (Duration::ZERO, 0);
        let answer = loop {
            calls += 1;
            slowest = slowest.max(good(&mut shim, &format!("{fault} {calls}")));
            if let Some(answer) = shim.arrived(&json!(bad)) {
                break answer;
            }
            assert!(start.elapsed() < patience, "{fault}: no end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let took = start.elapsed();
        match &case.ends {
            Answered => assert_eq!(answer.text(), fault),
            Failed(words) => {
                let text = complaint(&answer);
                assert!(text.contains(&key), "{fault}: names no server: {text}");
                let one = words.iter().any(|word| text.contains(word));
                assert!(one, "{fault}: none of {words:?} in: {text}");
            }
        }
        let over = Instant::now() + Duration::from_millis(case.after_ms);
        while Instant::now() < over {
            calls += 1;
            slowest = slowest.max(good(&mut shim, &format!("{fault} {calls}")));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(slowest < GOOD, "{fault}: a good call took {slowest:?}");
        let pid = shim.process.pid();
        let (peak, now) = (memory_kib(pid, "VmHWM:"), memory_kib(pid, "VmRSS:"));
        println!("{fault}: {took:?}, {calls} good calls, slowest {slowest:?}, {peak} KiB, {now}");
        assert!(peak < PEAK_KIB, "{fault}: the shim held {peak} KiB");
        let grown = now.saturating_sub(idle_kib);
        assert!(grown < 24 << 10, "{fault}: {grown} KiB more than before");
        // lists and status are what they were
        assert_eq!(shim.names("tools"), names, "{fault}");
        let status = shim.call("mcpshim_status", json!({}));
        assert!(!status.is_tool_error(), "{fault}: {status:?}");
        let (status, left, _) = shim.close();
        assert!(status.success(), "{fault}: {status}");
        let strays: Vec<_> = left.iter().filter(|m| m.get("method").is_none()).collect();
        assert!(strays.is_empty(), "{fault}: {strays:?}");
        let record = record(&org);
        for wanted in case.record {
            let told = record.iter().any(|line| line.starts_with(wanted));
            assert!(told, "{fault}: no {wanted:?} in {record:#?}");
        }
        let executed = std::fs::read_to_string(&log).unwrap_or_default();
        let times = executed.lines().filter(|line| *line == fault).count();
        assert!(times <= 1, "{fault}: executed {times} times");
    }
}

/// A figure of `/proc/PID/status`, in KiB.
fn memory_kib(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(figure));
    let line = line.unwrap_or_else(|| panic!("{status}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the record says beside good calls, a line each; it is taken away.
fn record(org: &Org) -> Vec<String> {
    let dir = org.state().join("spool");
    let mut lines = Vec::new();
    read_spool(&dir, |_, said| match said {
        Said::Counted { code, count } => lines.push(format!("counted {code}: {count}")),
        Said::Denial { code, .. } => lines.push(format!("denial {code}")),
        Said::Link { code, detail, .. } => lines.push(format!("link {code}: {detail}")),
        Said::Loss { code, count } => panic!("lost {count}: {code}"),
        Said::Outcome { end, .. } => lines.push(format!("outcome {end:?}")),
        _ => {}
    });
    std::fs::remove_dir_all(dir).unwrap();
    lines
}

#[test]
fn servers_that_do_not_start() {
    visit(&[
        case("missing", Failed(&["could not be started"]), &["link down"]),
        case(
            "not-executable",
            Failed(&["could not be started"]),
            &["link down"],
        ),
        case(
            "ends-at-once",
            Failed(&["ended: exit status 2; its last words: zoo: no licence found"]),
            &["link down: ended", "denial unavailable"],
        ),
        case(
            "ends-on-initialize",
            Failed(&["ended: exit status 4"]),
            &["link down: ended"],
        ),
        case(
            "silent",
            Failed(&["has not come up within 3 s; ask tests"]),
            &["denial unavailable"],
        ),
        case(
            "closes-stdout-at-start",
            Failed(&["ended", "has not come up"]),
            &["denial unavailable"],
        ),
        Case {
            seconds: 30,
            ..case("slow-start", Answered, &["outcome Ok"])
        },
        case("prints-at-start", Answered, &["link fault"]),
    ]);
}

#[test]
fn servers_whose_lists_are_bad() {
    let long = |case: Case| Case {
        seconds: 60,
        ..case
    };
    visit(&[
        long(case(
            "endless-pages",
            Failed(&["has lists of more than 200 pages"]),
            &["link down"],
        )),
        long(case(
            "huge-list",
            Failed(&["while it was opened"]),
            &["link down: sent a line of"],
        )),
        long(case(
            "deep-list",
            Failed(&["gave an unusable answer"]),
            &["link down: gave an unusable answer"],
        )),
        Case {
            after_ms: 1500,
            ..long(case("changes-for-ever", Answered, &["outcome Ok"]))
        },
    ]);
}

#[test]
fn servers_whose_answers_are_bad() {
    visit(&[
        Case {
            seconds: 30,
            ..case("slow-answer", Answered, &["outcome Ok"])
        },
        case(
            "ends-in-call",
            Failed(&["ended: exit status 9; its last words: zoo: out of memory"]),
            &["link down: ended", "outcome Unknown"],
        ),
        case(
            "ends-in-mid-line",
            Failed(&["whether the call took effect is not known"]),
            &["link down", "counted upstream-line", "outcome Unknown"],
        ),
        case("mute", TIMEOUT, &["outcome Timeout"]),
        Case {
            after_ms: 4000,
            ..case(
                "answers-late",
                TIMEOUT,
                &["outcome Timeout", "counted late-answer"],
            )
        },
        case("answers-twice", Answered, &["counted late-answer"]),
        case(
            "answers-others",
            TIMEOUT,
            &["outcome Timeout", "counted stray-answer"],
        ),
        Case {
            seconds: 60,
            ..case("asks-for-ever", Answered, &["denial", "counted"])
        },
        case(
            "invalid-utf8",
            Failed(&["gave an unusable answer: not valid UTF-8"]),
            &["counted upstream-line"],
        ),
        case("prints-in-call", Answered, &["link fault"]),
        case(
            "closes-stdout-in-call",
            Failed(&["ended", "gave no answer within 3 s"]),
            &["outcome"],
        ),
        case(
            "leaves-the-pipe-behind",
            Failed(&["ended: exit status 0"]),
            &["link down", "outcome Unknown"],
        ),
    ]);
}

#[test]
fn servers_that_flood() {
    visit(&[
        case("floods-notifications", TIMEOUT, &["outcome Timeout"]),
        case(
            "floods-progress",
            TIMEOUT,
            &["outcome Timeout", "counted stray-progress"],
        ),
        case("floods-stdout", TIMEOUT, &["outcome Timeout", "link fault"]),
        case("floods-empty-lines", TIMEOUT, &["outcome Timeout"]),
        case("floods-stderr", TIMEOUT, &["outcome Timeout"]),
        Case {
            seconds: 60,
            ..case(
                "long-line",
                Failed(&[
                    "more than 16777216; whether the call took effect is not known; ask for less",
                ]),
                &["counted upstream-line", "outcome Unknown"],
            )
        },
        Case {
            seconds: 60,
            ..case(
                "endless-line",
                Failed(&["sent a line of more than 256 MiB that has no end"]),
                &["link down: sent a line", "outcome Unknown"],
            )
        },
    ]);
}

#[test]
fn a_server_that_never_reads_is_held_to_its_room_and_costs_nobody_else() {
    let cases = [Case {
        seconds: 5,
        ..case("never-reads", Answered, &[])
    }];
    let (org, log) = organisation(&cases);
    let mut shim = org.serve("ci");
    shim.initialize();
    good(&mut shim, "up");
    let first = shim.call("bad0_act", json!({"id": "first"}));
    assert_eq!(first.text(), "first");
    // more than its pipe holds, and more than may wait for it
    let text = "x".repeat(1 << 20);
    let posted: Vec<u64> = (0..48)
        .map(|number| {
            let arguments = json!({"id": format!("{number}"), "text": text});
            shim.post(
                "tools/call",
                json!({"name": "bad0_act", "arguments": arguments}),
            )
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        slowest = slowest.max(good(&mut shim, &number.to_string()));
    }
    assert!(slowest < GOOD, "{slowest:?}");
    for (number, id) in posted.into_iter().enumerate() {
        let answer = shim.answer(&json!(id));
        if !answer.is_tool_error() {
            // it was started anew meanwhile, and reads one call again
            assert_eq!(answer.text(), number.to_string());
            continue;
        }
        let text = complaint(&answer);
        assert!(text.contains("bad0"), "{text}");
    }
    let peak = memory_kib(shim.process.pid(), "VmHWM:");
    // what waits for it, what the client sends, and the records of it
    assert!(peak < 256 << 10, "the shim held {peak} KiB");
    // it is taken for hung, and started anew
    let again = wait_for("another process", || {
        let answer = shim.call("bad0_act", json!({"id": "again"}));
        (!answer.is_tool_error()).then_some(answer)
    });
    assert_eq!(again.text(), "again");
    good(&mut shim, "still");
    let (status, _, _) = shim.close();
    assert!(status.success());
    let record = record(&org);
    let told = record
        .iter()
        .any(|line| line.starts_with("link down: gave no answer"));
    assert!(told, "{record:#?}");
    // what it had not read it did not execute, and nothing was sent again
    let executed = std::fs::read_to_string(log).unwrap();
    let once: std::collections::BTreeSet<_> = executed.lines().collect();
    assert_eq!(once.len(), executed.lines().count(), "{executed}");
}

#[test]
fn a_client_that_does_not_read_is_held_up_and_loses_nothing() {
    let org = Org::with(Server::counting("up", []));
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let mut command = org.laptop_as("ci");
    command
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = Running::start(&mut command);
    let (mut stdin, stdout) = (process.stdin(), process.stdout());
    const CALLS: usize = 200;
    let writer = std::thread::spawn(move || {
        use std::io::Write as _;
        let hello = json!({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "it", "version": "1"}}});
        writeln!(stdin, "{hello}").unwrap();
        for number in 0..CALLS {
            let text = format!("{number} {}", "x".repeat(1 << 20));
            let call = json!({"jsonrpc": "2.0", "id": number, "method": "tools/call",
                "params": {"name": "up_echo", "arguments": {"text": text}}});
            writeln!(stdin, "{call}").unwrap();
        }
        stdin
    });
    // nothing is read until it holds no more
    let mut last = 0;
    wait_for("memory to settle", || {
        std::thread::sleep(Duration::from_millis(700));
        let now = memory_kib(process.pid(), "VmRSS:");
        let settled = now.abs_diff(last) < 64 && now > 8 << 10;
        last = now;
        settled.then_some(())
    });
    let peak = memory_kib(process.pid(), "VmHWM:");
    assert!(peak < 256 << 10, "the shim held {peak} KiB");
    // every byte it then writes is protocol, and every call is answered once: by its text, or by a
    // refusal that says that too much was in flight
    let mut answers = vec![0; CALLS];
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    while answers.contains(&0) {
        let line = lines.next().expect("it goes on").unwrap();
        let message: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(message["jsonrpc"], "2.0");
        if let Some(id) = message["id"].as_u64() {
            let id = usize::try_from(id).unwrap();
            answers[id] += 1;
            let text = message["result"]["content"][0]["text"].as_str().unwrap();
            let whole = text.starts_with(&format!("{id} x"));
            let shown: String = text.chars().take(200).collect();
            let full = text.contains("in flight, which is the most")
                || text.contains("bytes of calls to server up are in flight");
            assert!(whole || full, "{shown}");
        }
    }
    drop(writer.join().unwrap());
    assert!(answers.iter().all(|times| *times == 1));
    assert!(process.ended().success());
}

#[test]
fn repeated_failures_open_the_circuit_and_a_good_start_closes_it() {
    let cases = [case("ends-at-once", Answered, &[])];
    let (org, _) = organisation(&cases);
    let mut shim = org.serve("ci");
    shim.initialize();
    good(&mut shim, "up");
    let call = |shim: &mut Shim, number: u32| {
        complaint(&shim.call("bad0_act", json!({"id": number.to_string()})))
    };
    // the first failure is tried again at once, from then on there are pauses that double
    let text = wait_for("the circuit to open", || {
        let text = call(&mut shim, 0);
        text.contains("it is tried again in").then_some(text)
    });
    assert!(text.contains("no licence found"), "{text}");
    // while it is open nothing is started: the refusal comes at once
    let start = Instant::now();
    for number in 1..10 {
        call(&mut shim, number);
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    let seen = wait_for("the status to tell", || {
        let status = org.mcpshim("ci", ["status", "--json"]).ok();
        let status = status.json();
        let servers = status["sessions"][0]["servers"].as_array()?.clone();
        let bad = servers.into_iter().find(|server| server["key"] == "bad0")?;
        (bad["failures"].as_u64()? > 1).then_some(bad)
    });
    assert_eq!(seen["state"], "down");
    assert!(seen["retry_at"].is_u64(), "{seen}");
    let text = org.mcpshim("ci", ["status"]).ok().stdout;
    assert!(text.contains("times in a row"), "{text}");
    // it is mended: the next call after the pause finds it, and the record says both
    std::fs::remove_file(org.path().join("begun")).unwrap();
    let mut number = 100;
    wait_for("the circuit to close", || {
        number += 1;
        std::thread::sleep(Duration::from_millis(100));
        let answer = shim.call("bad0_act", json!({"id": number.to_string()}));
        (!answer.is_tool_error()).then_some(())
    });
    drop(shim.close());
    let record = record(&org);
    for wanted in [
        "link down: ended",
        "link up: works again, after",
        "denial unavailable",
    ] {
        let told = record.iter().any(|line| line.starts_with(wanted));
        assert!(told, "no {wanted:?} in {record:#?}");
    }
}

#[test]
fn a_server_that_answers_no_call_is_started_anew() {
    let cases = [Case {
        seconds: 1,
        ..case("mute", TIMEOUT, &[])
    }];
    let (org, _) = organisation(&cases);
    let mut shim = org.serve("ci");
    shim.initialize();
    for number in 0..3 {
        let text = complaint(&shim.call("bad0_act", json!({"id": number.to_string()})));
        assert!(text.contains("gave no answer within 1 s"), "{text}");
    }
    std::fs::remove_file(org.path().join("begun")).unwrap();
    // the next one finds another process
    let answer = shim.call("bad0_act", json!({"id": "again"}));
    assert_eq!(answer.text(), "again");
    drop(shim.close());
    let record = record(&org);
    let told = |wanted: &str| record.iter().any(|line| line.starts_with(wanted));
    assert!(
        told("link down: gave no answer within 1 s, 3 times in a row"),
        "{record:#?}"
    );
}

/// The C library keeps what was freed for the next message, about twice the largest; told to give
/// it back, it shows what the shim itself still holds.
#[test]
fn memory_is_given_back_after_large_messages() {
    let org = Org::with(Server::counting("up", []));
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let mut command = org.laptop_as("ci");
    command.env("MALLOC_TRIM_THRESHOLD_", "262144");
    let mut shim = Shim::start(command.arg("serve"));
    shim.initialize();
    shim.call("up_echo", json!({"text": "warm"}));
    let before = memory_kib(shim.process.pid(), "VmRSS:");
    for number in 0..4 {
        let text = format!("{number}{}", "x".repeat(9 << 20));
        assert_eq!(shim.call("up_echo", json!({ "text": text })).text(), text);
    }
    // some of an ordinary size, so that buffers are looked at
    for number in 0..40 {
        shim.call("up_echo", json!({"text": format!("small {number}")}));
    }
    let after = memory_kib(shim.process.pid(), "VmRSS:");
    let grown = after.saturating_sub(before);
    assert!(
        grown < 4 << 10,
        "{grown} KiB are kept ({before} to {after})"
    );
}

#[test]
fn the_same_call_too_often_is_stopped_in_a_real_session() {
    let org = Org::with(
        Server::counting("up", [])
            .with("limits:\n  repeat: {calls: 5, seconds: 60}\n  tools: {count: {repeat: off}}"),
    );
    let mut shim = org.serve("ci");
    shim.initialize();
    for _ in 0..5 {
        assert_eq!(
            shim.call("up_echo", json!({"text": "again"})).text(),
            "again"
        );
    }
    let stopped = shim.call("up_echo", json!({"text": "again"}));
    let text = complaint(&stopped);
    assert!(
        text.contains("up/echo was called 5 times within 60 s"),
        "{text}"
    );
    assert!(text.contains("or again in"), "{text}");
    let code = &stopped.result()["_meta"]["mcpshim/denial"]["code"];
    assert_eq!(code, "repeated");
    // other arguments, and a tool that is there to be polled
    assert_eq!(
        shim.call("up_echo", json!({"text": "other"})).text(),
        "other"
    );
    for _ in 0..10 {
        assert_eq!(shim.call("up_count", json!({"id": "poll"})).text(), "poll");
    }
    wait_for("the status to tell", || {
        let status = run(org.laptop_as("ci").arg("status")).stdout;
        status
            .contains("1 calls stopped: the same one, too often")
            .then_some(())
    });
    drop(shim.close());
    let record = record(&org);
    let times = record
        .iter()
        .filter(|line| *line == "denial repeated")
        .count();
    assert_eq!(times, 1, "{record:#?}");
}

#[test]
fn what_a_client_would_choke_on_is_left_out_alone_where_nothing_is_pinned() {
    let org = Org::new();
    let script = org.path().join("server.py");
    std::fs::write(&script, UNFIT).unwrap();
    let python = Path::new("/usr/bin/env");
    let server = Server::new("dev", python).args(["python3", script.to_str().unwrap()]);
    org.server(&server.with("pin: off"));
    org.agent("ci");
    org.role("tester", &["ci"], &[("dev", Grant::ALL)]);
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let mut shim = org.serve("ci");
    shim.initialize();
    let names = wait_for("its tools", || {
        let names = shim.names("tools");
        (names.len() > 1).then_some(names)
    });
    assert_eq!(names, ["mcpshim_status", "dev_good", "dev_named__oddly_"]);
    let hidden = shim.call("dev_root", json!({}));
    assert!(hidden.error().1.contains("Unknown tool"), "{hidden:?}");
    let told = shim.call("mcpshim_status", json!({})).text().to_owned();
    assert!(
        told.contains("dev/root is not offered: the type of its inputSchema"),
        "{told}"
    );
    let findings = wait_for("the doctor to know", || {
        let found = run(org.laptop_as("ci").args(["doctor", "--json"])).stdout;
        found
            .contains("dev/network is not offered")
            .then_some(found)
    });
    assert!(findings.contains("quarantined"), "{findings}");
    let status = org.mcpshim("ci", ["status"]).ok().stdout;
    assert!(status.contains("dev/root is not offered"), "{status}");
    drop(shim.close());
    let record = record(&org);
    let told = record
        .iter()
        .any(|line| line.starts_with("link quarantine: 5 entries"));
    assert!(told, "{record:#?}");
}

/// A server with tools that clients choke on, in Python, because their JSON is odd.
const UNFIT: &str = r#"
import json, sys
TOOLS = [
    {"name": "good", "inputSchema": {"type": "object"}},
    {"name": "named (oddly)", "inputSchema": {"type": "object"}},
    {"name": "root", "inputSchema": {"type": "array"}},
    {"name": "network", "inputSchema": {"type": "object", "properties": {"a": {"$ref": "https://x.example/s"}}}},
    {"name": "kind", "inputSchema": {"type": "object", "properties": {"a": {"type": "any"}}}},
    {"name": "text", "description": ["a"], "inputSchema": {"type": "object"}},
    {"name": "n" * 200, "inputSchema": {"type": "object"}},
]
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] == "initialize":
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                            "serverInfo": {"name": "dev", "version": "1"}}
    elif message["method"] == "tools/list":
        answer["result"] = {"tools": TOOLS}
    else:
        answer["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(answer), flush=True)
"#;
