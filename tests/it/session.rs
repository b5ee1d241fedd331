//! A running session in a developer's project: where servers run, what they may know of it, how
//! programs are found, and how it ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Grant, Org, Server, Shim, program, run, wait_for};

/// A directory with a name that a shell would not leave in one piece.
fn project(org: &Org) -> PathBuf {
    let dir = org.path().join("a b $(touch x) ;'\"");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    dir
}

/// Pins in a directory, as somebody who works there.
fn publish_in(org: &Org, dir: &Path, path: Option<&str>) {
    let mut command = Command::new(program("mcpshim-admin"));
    command.arg("pin").arg(org.sources()).current_dir(dir);
    if let Some(path) = path {
        command.env("PATH", path).env("HOME", org.path());
    }
    run(&mut command).ok();
    org.republish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
}

fn grant(org: &Org, key: &str) {
    org.agent("ci");
    org.role("tester", &["ci"], &[(key, Grant::ALL)]);
}

#[test]
fn a_server_runs_in_the_clients_project_whatever_its_name() {
    let org = Org::new();
    let (pinned, project) = (org.path().join("pinned"), project(&org));
    std::fs::create_dir_all(pinned.join("sub")).unwrap();
    org.server(&Server::counting(
        "args",
        ["--log", "{project_dir}/by-argument"],
    ));
    let here = Server::counting("here", ["--log", "by-directory"]);
    org.server(&here.cwd("{project_dir}/sub"));
    grant(&org, "args");
    org.role(
        "tester",
        &["ci"],
        &[("args", Grant::ALL), ("here", Grant::ALL)],
    );
    publish_in(&org, &pinned, None);
    let start = |dir: Option<&Path>| {
        let mut command = org.laptop_as("ci");
        if let Some(dir) = dir {
            command.env("CLAUDE_PROJECT_DIR", dir);
        }
        let mut shim = Shim::start(command.arg("serve").current_dir("/"));
        shim.initialize();
        shim
    };
    let mut shim = start(Some(&project));
    for key in ["args", "here"] {
        let answer = shim.call(&format!("{key}_count"), json!({"id": key}));
        assert_eq!(answer.text(), key);
    }
    shim.close();
    let read = |name: &str| std::fs::read_to_string(project.join(name)).unwrap();
    assert_eq!(read("by-argument"), "args\n");
    assert_eq!(read("sub/by-directory"), "here\n");
    assert!(
        !project.join("x").exists() && !Path::new("/x").exists(),
        "no shell"
    );
    // without a project, or where it has no such directory: the reason
    let mut shim = start(None);
    let answer = shim.call("args_count", json!({"id": "1"}));
    assert!(
        answer.text().contains("this client has none"),
        "{}",
        answer.text()
    );
    shim.close();
    let mut shim = start(Some(&org.sources()));
    let answer = shim.call("here_count", json!({"id": "1"}));
    assert!(
        answer.text().contains("which is no directory here"),
        "{}",
        answer.text()
    );
    shim.close();
}

#[test]
fn programs_are_found_although_a_window_started_the_client() {
    let org = Org::new();
    let bin = org.path().join(".local/bin");
    std::fs::create_dir_all(&bin).unwrap();
    let counting = program("mcpshim-admin")
        .parent()
        .unwrap()
        .join("examples/counting");
    std::os::unix::fs::symlink(counting, bin.join("counting-for-tests")).unwrap();
    org.server(&Server::new("found", "counting-for-tests"));
    grant(&org, "found");
    publish_in(&org, org.path(), Some("/usr/bin:/bin"));
    let start = || {
        let mut command = org.laptop_as("ci");
        let mut shim = Shim::start(command.arg("serve").env("PATH", "/usr/bin:/bin"));
        shim.initialize();
        shim
    };
    let mut shim = start();
    let environment = shim.call("found_environment", json!({}));
    let path = environment
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("PATH="))
        .unwrap();
    assert!(path.starts_with("/usr/bin:/bin:"), "appended: {path}");
    assert!(path.contains(bin.to_str().unwrap()), "{path}");
    shim.close();
    std::fs::remove_file(bin.join("counting-for-tests")).unwrap();
    let mut shim = start();
    let answer = shim.call("found_environment", json!({}));
    assert!(
        answer
            .text()
            .contains("there is no program counting-for-tests on the PATH (/usr/bin:/bin)"),
        "{}",
        answer.text()
    );
    shim.close();
}

/// Calls a tool and answers what the server asks meanwhile with these roots.
fn call_with_roots(shim: &mut Shim, tool: &str, arguments: Value, roots: &Value) -> String {
    let id = shim.post("tools/call", json!({"name": tool, "arguments": arguments}));
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let Some(message) = shim.next(Duration::from_secs(10)) else {
            break;
        };
        if message["method"] == "roots/list" {
            let result = json!({"roots": roots});
            shim.send(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}));
        } else if message["id"] == json!(id) && message.get("method").is_none() {
            return message["result"]["content"][0]["text"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
        }
    }
    panic!("no answer to {tool}");
}

#[test]
fn a_real_server_learns_the_clients_roots_and_that_they_changed() {
    let org = Org::new();
    let (command, args) = crate::peers::server("everything", org.path());
    org.server(&Server::new("every", command).args(args).with("roots: true"));
    grant(&org, "every");
    org.publish();
    let mut shim = org.serve("ci");
    shim.initialize_as("2025-11-25", json!({"roots": {"listChanged": true}}));
    // a tool that it shows only to clients with roots: pinned as it is served
    let tool = "every_get-roots-list";
    assert!(shim.names("tools").contains(&tool.to_owned()));
    let first = json!([{"uri": "file:///srv/ann/first", "name": "first"}]);
    let said = call_with_roots(&mut shim, tool, json!({}), &first);
    assert!(said.contains("file:///srv/ann/first"), "{said}");
    let second = json!([{"uri": "file:///srv/ann/second", "name": "second"}]);
    shim.send(&json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}));
    wait_for("the server to know the new roots", || {
        let said = call_with_roots(&mut shim, tool, json!({}), &second);
        said.contains("file:///srv/ann/second").then_some(())
    });
    shim.close();
    // a client without roots: its project
    let project = project(&org);
    let mut command = org.laptop_as("ci");
    command.env("CLAUDE_PROJECT_DIR", &project);
    let mut shim = Shim::start(command.arg("serve"));
    shim.initialize();
    let said = shim.call(tool, json!({}));
    assert!(
        said.text().contains("a%20b%20$(touch%20x)"),
        "{}",
        said.text()
    );
    shim.close();
}

#[test]
fn a_real_server_that_may_not_know_learns_nothing() {
    let org = Org::new();
    let (command, args) = crate::peers::server("everything", org.path());
    org.server(&Server::new("every", command).args(args));
    grant(&org, "every");
    org.publish();
    let mut shim = org.serve("ci");
    shim.initialize_as("2025-11-25", json!({"roots": {"listChanged": true}}));
    let tools = shim.names("tools");
    assert!(
        !tools.contains(&"every_get-roots-list".to_owned()),
        "{tools:?}"
    );
    let id = shim.post(
        "tools/call",
        json!({"name": "every_echo", "arguments": {"message": "x"}}),
    );
    assert!(shim.answer(&json!(id)).text().contains('x'));
    let (_, left, _) = shim.close();
    let asked = left.iter().any(|message| message["method"] == "roots/list");
    assert!(!asked, "{left:?}");
}
