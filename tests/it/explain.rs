//! `mcpshim explain` and `mcpshim audit show` beside real calls: what is said is what a call gets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::doctor::{Remote, TASKS};
use crate::support::{Answer, Grant, Org, Server, program, run, wait_for};

/// The code of a denial; `None` for a call that went.
fn code(answer: &Answer) -> Option<String> {
    let code = &answer.result()["_meta"]["mcpshim/denial"]["code"];
    code.as_str().map(str::to_owned)
}

/// What `explain` says now: the code of its denial, and all of it.
fn said(org: &Org, what: &str) -> (Option<String>, Value) {
    let all = run(org.laptop_as("ci").args(["explain", what, "--json"])).json();
    let code = all["verdict"]["code"].as_str().map(str::to_owned);
    (code, all)
}

/// Both say the same. A session writes what it met within a second.
#[track_caller]
fn same(org: &Org, what: &str, answer: &Answer, expected: Option<&str>) {
    let got = code(answer);
    assert_eq!(got.as_deref(), expected, "{answer:?}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let (code, all) = said(org, what);
        if code == got {
            let rows = all["reasons"].as_array().unwrap();
            let stops = rows.iter().any(|row| row["passes"] == false);
            assert_eq!(stops, got.is_some(), "{what}: {all:#}");
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: {all:#}");
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    }
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn explain_answers_what_a_call_gets() {
    let org = Org::new();
    let real = program("mcpshim-admin")
        .with_file_name("examples")
        .join("counting");
    let (wrapper, breaks) = (org.path().join("wrapper"), org.path().join("breaks"));
    let flag = org.path().join("drift");
    script(&wrapper, &format!("exec {real:?} --drift-if {flag:?}"));
    script(&breaks, &format!("exec {real:?}"));
    let remote = Remote::start();
    remote.is(TASKS);
    let url = format!("http://127.0.0.1:{}/mcp", remote.port);
    org.settings("secret_stores: {key_file: true}");
    org.server(&Server::counting("good", []));
    org.server(&Server::counting("needy", []));
    org.server(&Server::new("moves", &wrapper));
    org.server(&Server::new("breaks", &breaks));
    org.server(&Server::http("tasks", &url));
    org.agent("ci");
    let keys = ["good", "needy", "moves", "breaks", "tasks"];
    org.role("tester", &["ci"], &keys.map(|key| (key, Grant::ALL)));
    org.publish();
    org.server(&Server::counting("needy", []).credential("needy-token", "{env: NEEDY}"));
    org.republish();
    run(org.laptop().args(["registry", "refresh"])).ok();
    std::fs::write(&flag, "").unwrap();
    script(&breaks, "exit 3");

    let mut shim = org.serve("ci");
    shim.initialize();
    let mut call =
        |key: &str, tool: &str| shim.call(&format!("{key}_{tool}"), json!({"text": "x"}));
    same(&org, "good/echo", &call("good", "echo"), None);
    // one tool of it changed; the others are what was approved
    same(&org, "moves/count", &call("moves", "count"), Some("drift"));
    same(&org, "moves/echo", &call("moves", "echo"), None);
    same(
        &org,
        "needy/echo",
        &call("needy", "echo"),
        Some("unavailable"),
    );
    // a server that fails is tried again after a while, and until then refused; each call is
    // another one, since the same one too often is stopped for that
    let mut count = 0;
    wait_for("calls to be refused for a while", || {
        count += 1;
        let answer = shim.call("breaks_echo", json!({"text": count.to_string()}));
        assert_eq!(code(&answer).as_deref(), Some("unavailable"), "{answer:?}");
        let (code, all) = said(&org, "breaks/echo");
        let pause = all["verdict"]["sentence"].as_str()?;
        assert!(pause.contains("tried again in"), "{all:#}");
        (code.as_deref() == Some("unavailable")).then_some(())
    });
    let answer = shim.call("tasks_t", json!({"text": "x"}));
    same(&org, "tasks/t", &answer, Some("needs-task"));
    // the doctor tells the same of the server that is not what was reviewed
    let doctor = run(org.laptop_as("ci").args(["doctor", "--json"])).json();
    let findings = doctor["findings"].as_array().unwrap();
    let drifted = findings.iter().find(|one| one["code"] == "server-drifted");
    let drifted = drifted.unwrap_or_else(|| panic!("{doctor:#}"));
    assert_eq!(drifted["subject"], "moves", "{doctor:#}");
    drop(shim);
    // what a session met is no answer once it is over
    wait_for("the session's end", || {
        said(&org, "breaks/echo").0.is_none().then_some(())
    });

    // an agent that is revoked: the row of revocations says it
    org.write("revocations.yaml", "agents: [ci]\n");
    org.republish();
    run(org.laptop().args(["registry", "refresh"])).ok();
    let (code, all) = said(&org, "good/echo");
    assert!(code.is_some(), "{all:#}");
    let mut rows = all["reasons"].as_array().unwrap().iter();
    let row = rows.find(|row| row["question"] == "revocations").unwrap();
    assert_eq!(row["passes"], false, "{all:#}");
    assert!(
        row["answer"]
            .as_str()
            .unwrap()
            .contains("agent ci is revoked"),
        "{all:#}"
    );
}

#[test]
fn calls_are_listed_here_also_once_they_are_delivered() {
    let org = Org::with(Server::counting("up", []));
    let collector = org.collector();
    org.settings(&format!("collector: {{url: {:?}}}", collector.url));
    org.republish();
    run(org.laptop().args(["registry", "refresh"])).ok();
    let show = |more: &[&str]| {
        run(org
            .laptop_as("ci")
            .args(["audit", "show", "--json"])
            .args(more))
        .ok()
        .json()
    };
    assert_eq!(show(&[])["calls"], json!([]));
    let mut shim = org.serve("ci");
    shim.initialize();
    shim.call("up_echo", json!({"text": "a secret thing"}));
    shim.call("up_nosuch", json!({}));
    let here = show(&[]);
    assert_eq!(here["calls"][0]["what"], "up/echo", "{here:#}");
    assert_eq!(here["calls"][0]["decision"], "allow", "{here:#}");
    drop(shim);
    run(org.laptop_as("ci").args(["audit", "flush", "--wait", "30"])).ok();
    wait_for("delivered records to be removed", || {
        run(org.laptop_as("ci").args(["audit", "flush", "--wait", "30"])).ok();
        org.state().join("ship/told.jsonl").exists().then_some(())
    });
    let there = show(&["--last", "20", "--server", "up"]);
    assert_eq!(there["calls"][0], here["calls"][0], "{there:#}");
    let kept = org.state().join("ship/told.jsonl");
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        !std::fs::read_to_string(&kept)
            .unwrap()
            .contains("secret thing")
    );
    // one event, without the audit key
    let event = here["calls"][0]["event"].as_str().unwrap();
    let told = run(org.laptop_as("ci").args(["explain", event]))
        .ok()
        .stdout;
    assert!(
        told.contains("up/echo") && told.contains("tester"),
        "{told}"
    );
    let stream = event.split('/').next().unwrap();
    run(org
        .laptop_as("ci")
        .args(["explain", &format!("{stream}/999")]))
    .refused(1, "knows calls since");
    run(org
        .laptop_as("ci")
        .args(["audit", "show", "--server", "upp"]))
    .refused(2, "did you mean up?");
    run(org
        .laptop_as("ci")
        .args(["audit", "show", "--since", "yesterday"]))
    .refused(2, "is no time");
}
