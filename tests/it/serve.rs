//! `mcpshim serve` as clients see it: both eras on both sides, nothing done too early, nothing
//! left behind.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Grant, Org, Server, Shim, files, wait_for};

/// An organisation with one counting upstream called `up`, whose log is given back.
fn organisation(flags: &[&str]) -> (Org, PathBuf) {
    let org = Org::new();
    let log = org.path().join("executed");
    let mut all = vec!["--log", log.to_str().unwrap()];
    all.extend(flags);
    org.server(&Server::counting("up", all));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    org.publish();
    (org, log)
}

/// The same with the registry already on the laptop, as on any day but the first.
fn ready(flags: &[&str]) -> (Org, PathBuf) {
    let (org, log) = organisation(flags);
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    // what `pin` started ends a moment after it
    wait_for("the authoring to end", || {
        org.processes().is_empty().then_some(())
    });
    (org, log)
}

const PING: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n";
const PONG: &str = r#""result":{}"#;

fn executed(log: &Path) -> Vec<String> {
    std::fs::read_to_string(log)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Processes of this organisation whose command line holds these words.
fn running(org: &Org, words: &str) -> usize {
    org.processes()
        .into_iter()
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                String::from_utf8_lossy(&line)
                    .replace('\0', " ")
                    .contains(words)
            })
        })
        .count()
}

#[test]
fn a_call_goes_through_between_all_eras() {
    for era in ["legacy", "modern", "dual"] {
        let (org, log) = ready(&["--era", era]);
        let mut shim = org.serve("ci");
        assert_eq!(shim.initialize()["protocolVersion"], "2025-11-25");
        assert_eq!(shim.call("up_count", json!({"id": "old"})).text(), "old");
        shim.close();
        let mut shim = org.serve("ci");
        assert_eq!(shim.discover()["supportedVersions"], json!(["2026-07-28"]));
        let answer = shim.call("up_count", json!({"id": "new"}));
        assert_eq!(answer.text(), "new");
        assert_eq!(answer.result()["resultType"], "complete");
        shim.close();
        assert_eq!(executed(&log), ["old", "new"], "{era}");
    }
}

#[test]
fn a_probe_leaves_nothing_behind() {
    let (org, _) = organisation(&[]);
    let before = files(&org.state());
    let mut shim = org.serve("ci");
    shim.discover();
    assert_eq!(org.processes(), [shim.process.pid()]);
    let (status, _, _) = shim.close();
    assert!(status.success());
    assert_eq!(files(&org.state()), before);
    assert_eq!(org.processes(), [0; 0]);
}

#[test]
fn lists_come_from_the_registry_and_start_nothing() {
    let (org, log) = ready(&["--grandchild"]);
    let mut shim = org.serve("ci");
    shim.initialize();
    let tools = shim.names("tools");
    assert!(tools.contains(&"up_count".to_owned()), "{tools:?}");
    for list in ["prompts", "resources"] {
        shim.names(list);
    }
    // what the pinning left is still being ended; what the shim started would stay
    wait_for("nothing but the shim", || {
        (org.processes() == [shim.process.pid()]).then_some(())
    });
    assert!(!org.state().join("spool").exists());
    shim.call("up_count", json!({"id": "1"}));
    assert!(running(&org, "__guard guard") == 1 && executed(&log) == ["1"]);
}

#[test]
fn the_first_registry_is_waited_for_by_lists_and_calls_only() {
    let (org, _) = organisation(&[]);
    let mut shim = org.serve("ci");
    let start = Instant::now();
    shim.initialize();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(shim.names("tools").contains(&"up_count".to_owned()));
    assert_eq!(shim.call("up_echo", json!({"text": "x"})).text(), "x");
}

#[test]
fn a_tool_that_is_not_granted_is_neither_listed_nor_called() {
    let (org, log) = organisation(&[]);
    org.role("tester", &["ci"], &[("up", Grant::tools(&["echo"]))]);
    org.republish();
    let mut shim = org.serve("ci");
    shim.initialize();
    let tools = shim.names("tools");
    assert!(tools.contains(&"up_echo".to_owned()), "{tools:?}");
    assert!(!tools.contains(&"up_count".to_owned()), "{tools:?}");
    for spelling in ["up_count", "count", "up/count", "UP_COUNT", "up_count "] {
        let answer = shim.call(spelling, json!({"id": "1"}));
        assert!(
            answer.is_tool_error() || answer.0.get("error").is_some(),
            "{spelling}: {answer:?}"
        );
    }
    assert_eq!(shim.call("up_echo", json!({"text": "x"})).text(), "x");
    assert_eq!(executed(&log), [""; 0]);
}

#[test]
fn a_server_that_is_not_the_pinned_one_is_refused_and_the_others_serve() {
    let (org, log) = organisation(&[]);
    let switch = org.path().join("drift");
    let flags = [
        "--log",
        log.to_str().unwrap(),
        "--drift-if",
        switch.to_str().unwrap(),
    ];
    org.server(&Server::counting("up", flags));
    org.server(&Server::counting("other", []));
    org.role(
        "tester",
        &["ci"],
        &[("up", Grant::ALL), ("other", Grant::ALL)],
    );
    org.publish();
    std::fs::write(&switch, "").unwrap();
    let mut shim = org.serve("ci");
    shim.initialize();
    let refused = shim.call("up_count", json!({"id": "1"}));
    let text = refused.denied();
    assert!(
        text.contains("`count`") && text.contains("required"),
        "{text}"
    );
    assert_eq!(shim.call("other_echo", json!({"text": "x"})).text(), "x");
    assert_eq!(executed(&log), [""; 0]);
}

#[test]
fn tools_that_change_while_a_session_runs_are_refused_from_then_on() {
    let (org, log) = ready(&["--change"]);
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(shim.call("up_count", json!({"id": "1"})).text(), "1");
    let text = shim.call("up_count", json!({"id": "2"}));
    assert!(text.denied().contains("required"), "{text:?}");
    assert_eq!(executed(&log), ["1"]);
}

#[test]
fn a_child_sees_the_allowlist_and_what_the_registry_sets() {
    let org = Org::with(Server::counting("up", []).env("REGION", "eu"));
    let mut command = org.laptop_as("ci");
    command
        .env("ANTHROPIC_API_KEY", "sk-secret")
        .env("LC_ALL", "C.UTF-8")
        .env("LD_LIBRARY_PATH", "/nowhere");
    let mut shim = Shim::start(command.arg("serve"));
    shim.initialize();
    let answer = shim.call("up_environment", json!({}));
    let names: Vec<_> = answer
        .text()
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name))
        .collect();
    assert_eq!(names, ["HOME", "LC_ALL", "PATH", "REGION"]);
    assert!(answer.text().contains("REGION=eu"));
}

#[test]
fn records_of_class_disk_are_waited_for() {
    let org = Org::with(Server::counting("up", []).with("audit:\n  class: disk"));
    let mut shim = org.serve("ci");
    shim.initialize();
    for number in 0..20 {
        let text = number.to_string();
        assert_eq!(shim.call("up_echo", json!({"text": text})).text(), text);
    }
    let (status, _, _) = shim.close();
    assert!(status.success());
}

/// A way to end a shim.
type End = fn(&mut Shim);

#[test]
fn the_end_is_quick_and_leaves_no_child() {
    let ways: [(&str, End); 4] = [
        ("end of input", Shim::close_input),
        ("SIGINT", |shim| shim.process.signal(Signal::INT)),
        ("SIGTERM", |shim| shim.process.signal(Signal::TERM)),
        ("SIGKILL", |shim| shim.process.signal(Signal::KILL)),
    ];
    let (org, _) = ready(&["--grandchild", "--slow", "10000"]);
    for (way, end) in ways {
        let mut shim = org.serve("ci");
        shim.initialize();
        shim.post(
            "tools/call",
            json!({"name": "up_count", "arguments": {"id": "1"}}),
        );
        wait_for("the grandchild", || {
            (running(&org, "trap") > 0 && running(&org, "__guard") > 0).then_some(())
        });
        let start = Instant::now();
        end(&mut shim);
        shim.process.ended();
        // a client gives 500 ms
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "{way}: {:?}",
            start.elapsed()
        );
        let gone = wait_for("the children to go", || {
            let left = ["__guard", "counting", "trap"].map(|words| running(&org, words));
            (left == [0, 0, 0]).then(|| start.elapsed())
        });
        assert!(gone < Duration::from_secs(2), "{way}: {gone:?}");
    }
}

#[test]
fn an_end_with_an_open_subscription_waits_for_nothing() {
    let (org, _) = ready(&[]);
    let mut shim = org.serve("ci");
    shim.discover();
    shim.call("up_count", json!({"id": "1"})).result();
    shim.post(
        "subscriptions/listen",
        json!({"notifications": {"toolsListChanged": true}}),
    );
    let taken = shim.next(Duration::from_secs(30)).unwrap();
    let acknowledged = "notifications/subscriptions/acknowledged";
    assert_eq!(taken["method"], acknowledged, "{taken}");
    let (status, rest, _) = shim.close();
    assert!(status.success());
    assert!(
        rest.iter().any(|line| line.get("result").is_some()),
        "{rest:?}"
    );
    // one that waited for its deadline says so
    let log = files(&org.state().join("log"));
    let log: String = log
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .collect();
    assert!(log.contains("Server started"), "{log}");
    assert!(!log.contains("The end took too long"), "{log}");
}

#[test]
fn what_came_while_we_were_stopped_counts_before_the_time_that_passed() {
    let org = Org::new();
    let log = org.path().join("executed");
    for (key, slow) in [("soon", "300"), ("late", "20000")] {
        let flags = ["--log", log.to_str().unwrap(), "--slow", slow];
        let server = Server::counting(key, flags);
        org.server(&server.with("limits: {call_seconds: 1}"));
    }
    org.agent("ci");
    let all = [("soon", Grant::ALL), ("late", Grant::ALL)];
    org.role("tester", &["ci"], &all);
    org.publish();
    let mut shim = org.serve("ci");
    shim.initialize();
    shim.call("soon_echo", json!({"text": "there"})).result();
    let post = |shim: &mut Shim, tool: &str| {
        let arguments = json!({"id": tool});
        shim.post("tools/call", json!({"name": tool, "arguments": arguments}))
    };
    let (late, soon) = (post(&mut shim, "late_count"), post(&mut shim, "soon_count"));
    wait_for("both to be executed", || {
        (executed(&log).len() == 2).then_some(())
    });
    shim.process.signal(Signal::STOP);
    // the time of both has to pass
    std::thread::sleep(Duration::from_millis(1_500));
    shim.process.signal(Signal::CONT);
    assert_eq!(shim.answer(&json!(soon)).text(), "soon_count");
    // one that is not there is late, stopped or not
    let late = shim.answer(&json!(late));
    assert!(
        late.text().contains("gave no answer within 1 s"),
        "{late:?}"
    );
}

#[test]
fn a_server_that_floods_or_does_not_read_leaves_the_others_alone() {
    let (org, _) = organisation(&["--never-read"]);
    org.server(&Server::counting("other", ["--flood"]));
    org.role(
        "tester",
        &["ci"],
        &[("up", Grant::ALL), ("other", Grant::ALL)],
    );
    org.publish();
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(
        shim.call("up_echo", json!({"text": "first"})).text(),
        "first"
    );
    let large = "x".repeat(4 << 20);
    for _ in 0..9 {
        shim.post(
            "tools/call",
            json!({"name": "up_echo", "arguments": {"text": large}}),
        );
    }
    for number in 0..3 {
        let text = number.to_string();
        assert_eq!(shim.call("other_echo", json!({"text": text})).text(), text);
    }
}

/// The answer to one ping over a socket pair, as Node gives its children.
fn ping_over_sockets(org: &Org) -> String {
    use std::io::{BufRead as _, BufReader, Write as _};
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = org.laptop_as("ci");
    command
        .arg("serve")
        .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // our copies of the other end go with the command
    drop(command);
    ours.write_all(PING.as_bytes()).unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(ours);
    reader.read_line(&mut line).unwrap();
    drop(reader);
    assert!(child.wait().unwrap().success());
    line
}

#[test]
fn standard_streams_may_be_sockets_or_files() {
    let (org, _) = organisation(&[]);
    let line = ping_over_sockets(&org);
    assert!(line.contains(PONG), "{line}");

    // epoll refuses regular files
    let (input, output) = (org.path().join("in"), org.path().join("out"));
    std::fs::write(&input, PING).unwrap();
    let status = org
        .laptop_as("ci")
        .arg("serve")
        .stdin(Stdio::from(std::fs::File::open(&input).unwrap()))
        .stdout(Stdio::from(std::fs::File::create(&output).unwrap()))
        .status()
        .unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(text.contains(PONG), "{text}");
}

#[test]
fn no_core_files_and_no_reading_of_our_memory() {
    let (org, _) = organisation(&[]);
    let mut shim = org.serve("ci");
    shim.initialize();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", shim.process.pid())).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core")).unwrap();
    let fields: Vec<_> = core.split_whitespace().collect();
    // one byte, not none: a program that takes core dumps over a pipe ignores a limit of none
    assert_eq!(fields.get(4..6), Some(&["1", "1"][..]), "{core}");
}

/// The `list_changed` notifications that came, once there is at least one.
fn changed(shim: &mut Shim) -> Vec<String> {
    let method = |message: &serde_json::Value| message["method"].as_str().map(str::to_owned);
    let mut methods: Vec<String> = shim.others.drain(..).filter_map(|m| method(&m)).collect();
    while !methods
        .iter()
        .any(|method| method.ends_with("list_changed"))
    {
        let message = shim.next(Duration::from_secs(10)).expect("it is told");
        methods.extend(method(&message));
    }
    methods
}

#[test]
fn a_grant_that_comes_or_goes_takes_effect_in_a_session_that_runs() {
    let (org, _) = ready(&[]);
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(shim.call("up_echo", json!({"text": "1"})).text(), "1");
    // taken back: published, and this machine told by another process
    let start = Instant::now();
    org.role("tester", &["ci"], &[("up", Grant::tools(&["count"]))]);
    org.republish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let methods = changed(&mut shim);
    assert!(methods.contains(&"notifications/tools/list_changed".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(!shim.names("tools").contains(&"up_echo".to_owned()));
    shim.call("up_echo", json!({"text": "2"})).denied();
    // and given again: the server was not started anew for it
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    org.republish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    changed(&mut shim);
    assert!(shim.names("tools").contains(&"up_echo".to_owned()));
    assert_eq!(shim.call("up_echo", json!({"text": "3"})).text(), "3");
    // the state goes, and comes back whole
    let trust = org.state().join("trust");
    let state = std::fs::read(trust.join("registry.state")).unwrap();
    std::fs::remove_dir_all(&trust).unwrap();
    changed(&mut shim);
    std::fs::create_dir(&trust).unwrap();
    std::fs::write(trust.join("registry.state"), state).unwrap();
    changed(&mut shim);
    assert_eq!(shim.call("up_echo", json!({"text": "4"})).text(), "4");
}

#[test]
fn one_process_asks_the_source_and_another_takes_over_when_it_ends() {
    let (org, _) = ready(&[]);
    let mut first = org.serve("ci");
    first.initialize();
    first.names("tools");
    let mut second = org.serve("ci");
    second.initialize();
    second.names("tools");
    org.role("tester", &["ci"], &[("up", Grant::tools(&["count"]))]);
    org.republish();
    first.process.signal(Signal::KILL);
    first.process.ended();
    // the second asks at once, not a poll later
    let start = Instant::now();
    changed(&mut second);
    assert!(start.elapsed() < Duration::from_secs(10));
    second.call("up_echo", json!({"text": "2"})).denied();
}

#[test]
fn a_server_is_restarted_from_another_terminal() {
    let (org, log) = ready(&["--slow", "10000"]);
    org.mcpshim("ci", ["restart", "up"])
        .refused(1, "no session runs here");
    let mut shim = org.serve("ci");
    shim.initialize();
    shim.names("tools");
    org.mcpshim("ci", ["restart", "nobody"])
        .refused(1, "the registry has no server nobody");
    org.mcpshim("ci", ["restart", "up"])
        .refused(1, "no session has used it yet");
    let slow = shim.post(
        "tools/call",
        json!({"name": "up_count", "arguments": {"id": "slow"}}),
    );
    wait_for("the call to be in flight", || {
        executed(&log).contains(&"slow".to_owned()).then_some(())
    });
    let before = running(&org, "counting");
    let said = org.mcpshim("ci", ["restart", "up"]).ok().stdout;
    assert_eq!(said, "server up is started anew in 1 of 1 sessions\n");
    let answer = shim.answer(&json!(slow));
    assert!(answer.is_tool_error());
    assert!(
        answer.text().contains("restarted by `mcpshim restart`"),
        "{}",
        answer.text()
    );
    let said = org
        .mcpshim("ci", ["restart", "--all", "--gently", "--json"])
        .ok();
    let said = said.json();
    assert_eq!(said["restarted"], 1);
    assert_eq!(shim.call("up_echo", json!({"text": "new"})).text(), "new");
    wait_for("the old one to go", || {
        (running(&org, "counting") <= before).then_some(())
    });
    let left = std::fs::read_dir(org.state().join("requests")).unwrap();
    assert_eq!(left.count(), 0, "no request stays behind");
}

#[test]
fn what_a_server_prints_can_be_read_and_followed() {
    use std::io::{BufRead as _, BufReader};
    let (org, _) = ready(&[]);
    org.mcpshim("ci", ["logs", "up"])
        .refused(1, "has printed nothing yet");
    org.mcpshim("ci", ["logs", "upp"])
        .refused(2, "did you mean up?");
    let dir = org.state().join("log");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("server-up.log");
    std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
    let said = org.mcpshim("ci", ["logs", "up", "-n", "2"]).ok().stdout;
    assert_eq!(said, "two\nthree\n");
    let mut command = org.laptop();
    command
        .args(["logs", "up", "-f", "-n", "1"])
        .stdout(Stdio::piped());
    let mut follower = crate::support::Running::start(&mut command);
    let mut lines = BufReader::new(follower.stdout()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    std::fs::rename(&path, dir.join("server-up.old")).unwrap();
    std::fs::write(&path, "four\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "four");
    follower.signal(Signal::INT);
    follower.ended();
}
