//! What is no question, between real peers of both eras: subscriptions, log messages, tasks, and
//! what cannot be carried.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::peers::{installed, installed_text, on_path};
use crate::support::{Grant, Org, Server, Shim, run, wait_for};

const EVERYTHING: &str = "npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
const DYNAMIC: &str = "demo://resource/dynamic/text/1";
const STATIC: &str = "peer://static";

/// One server of each era: `old` (server-everything) and `new` (the TypeScript SDK).
fn both() -> Org {
    let org = Org::new();
    let node = on_path("node");
    org.server(&Server::new("old", &node).args([installed_text(EVERYTHING)]));
    let upstream = installed_text("npm/upstream.mjs");
    org.server(&Server::new("new", &node).args([upstream, "modern".to_owned()]));
    org.agent("ci");
    org.role(
        "tester",
        &["ci"],
        &[("old", Grant::ALL), ("new", Grant::ALL)],
    );
    org.publish();
    org
}

/// Notifications of a method, as many as are wanted, by their params; fewer when no more come.
#[track_caller]
fn heard(shim: &mut Shim, method: &str, wanted: usize) -> Vec<Value> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let of = |message: &&Value| message["method"] == method;
        let mut come: Vec<Value> = shim.others.iter().filter(of).cloned().collect();
        if come.len() >= wanted {
            shim.others.retain(|message| message["method"] != method);
            return come.iter_mut().map(|one| one["params"].take()).collect();
        }
        let left = end.saturating_duration_since(Instant::now());
        match shim.next(left) {
            Some(message) => shim.others.push(message),
            None => panic!("{wanted} of {method} did not come: {:?}", shim.others),
        }
    }
}

fn forget(shim: &mut Shim) {
    shim.others.clear();
}

/// The levels of the messages that server `new` writes into a call of its `log`.
fn levels(shim: &mut Shim, level: Option<&str>) -> Vec<String> {
    forget(shim);
    let mut params = json!({"name": "new_log", "arguments": {}});
    if let Some(level) = level {
        params["_meta"] = json!({"io.modelcontextprotocol/logLevel": level});
    }
    let answer = shim.request("tools/call", params);
    assert_eq!(answer.text(), "logged");
    let told = shim.others.drain(..);
    let told = told.filter(|message| message["method"] == "notifications/message");
    told.map(|message| message["params"]["level"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_handshake_client_watches_and_hears_servers_of_both_eras() {
    let org = both();
    let mut shim = org.serve("ci");
    shim.initialize();
    // of the stateless era nothing comes before a level is set
    assert_eq!(levels(&mut shim, None), Vec::<String>::new());
    shim.request("logging/setLevel", json!({"level": "debug"}))
        .result();
    assert_eq!(levels(&mut shim, None), ["debug", "warning", "error"]);
    for uri in [DYNAMIC, STATIC] {
        shim.request("resources/subscribe", json!({"uri": uri}))
            .result();
    }
    let said = heard(&mut shim, "notifications/message", 1);
    assert!(
        said[0]["data"]
            .as_str()
            .unwrap()
            .starts_with("Received Subscribe"),
        "{said:?}"
    );
    shim.call("old_toggle-subscriber-updates", json!({}))
        .result();
    assert_eq!(
        heard(&mut shim, "notifications/resources/updated", 1),
        [json!({"uri": DYNAMIC})]
    );
    shim.call("new_touch", json!({"uri": STATIC})).result();
    let told = heard(&mut shim, "notifications/resources/updated", 1);
    assert_eq!(told[0]["uri"], STATIC);
    assert_eq!(
        told[0]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        Value::Null
    );
    shim.request("resources/unsubscribe", json!({"uri": STATIC}))
        .result();
    forget(&mut shim);
    shim.call("new_touch", json!({"uri": STATIC})).result();
    shim.request("logging/setLevel", json!({"level": "error"}))
        .result();
    // a level of both eras from here on, and no news of what is not watched any more
    assert_eq!(levels(&mut shim, None), ["error"]);
    forget(&mut shim);
    shim.request("resources/unsubscribe", json!({"uri": DYNAMIC}))
        .result();
    let told = shim.others.iter().any(|m| m["params"]["data"].is_string());
    assert!(!told, "{:?}", shim.others);
    assert!(shim.close().0.success());
}

#[test]
fn a_stateless_client_watches_and_hears_servers_of_both_eras() {
    let org = both();
    let mut shim = org.serve("ci");
    shim.discover();
    assert_eq!(levels(&mut shim, None), Vec::<String>::new());
    assert_eq!(levels(&mut shim, Some("warning")), ["warning", "error"]);
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/logLevel": "debug",
    });
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [STATIC, DYNAMIC]});
    for id in [json!("L"), json!(77)] {
        shim.send(&json!({
            "jsonrpc": "2.0", "id": id, "method": "subscriptions/listen",
            "params": {"notifications": wanted, "_meta": meta},
        }));
    }
    let stamp = "io.modelcontextprotocol/subscriptionId";
    let honoured = heard(&mut shim, "notifications/subscriptions/acknowledged", 2);
    assert_eq!(honoured[0]["notifications"]["toolsListChanged"], true);
    assert_eq!(
        honoured[0]["notifications"]["resourceSubscriptions"],
        json!([DYNAMIC, STATIC])
    );
    assert_eq!(
        [&honoured[0]["_meta"][stamp], &honoured[1]["_meta"][stamp]],
        [&json!("L"), &json!(77)]
    );
    // the handshake server was told the level for as long as the subscription took
    let said = heard(&mut shim, "notifications/message", 1);
    assert!(
        said[0]["data"]
            .as_str()
            .unwrap()
            .starts_with("Received Subscribe"),
        "{said:?}"
    );
    for (tool, arguments, uri) in [
        ("old_toggle-subscriber-updates", json!({}), DYNAMIC),
        ("new_touch", json!({"uri": STATIC}), STATIC),
    ] {
        shim.call(tool, arguments).result();
        let told = heard(&mut shim, "notifications/resources/updated", 2);
        for (told, id) in told.iter().zip([json!("L"), json!(77)]) {
            assert_eq!((&told["uri"], &told["_meta"][stamp]), (&json!(uri), &id));
        }
    }
    // one is taken back; the other is answered when the session ends
    shim.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}}));
    forget(&mut shim);
    shim.call("new_touch", json!({"uri": STATIC})).result();
    let told = heard(&mut shim, "notifications/resources/updated", 1);
    assert_eq!(told[0]["_meta"][stamp], "L");
    let (status, rest, _) = shim.close();
    assert!(status.success());
    let over: Vec<&Value> = rest.iter().filter(|m| m.get("result").is_some()).collect();
    assert_eq!(over.len(), 1, "{rest:?}");
    assert_eq!(over[0]["id"], "L");
    assert_eq!(over[0]["result"]["resultType"], "complete");
}

/// A server with a resource that ends when it is to be watched, while the file it is given exists.
const UNSURE: &str = r#"
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"], "result": {}}
    if message["method"] == "initialize":
        answer["result"] = {"protocolVersion": "2025-11-25", "serverInfo": {"name": "up", "version": "1"},
                            "capabilities": {"resources": {"subscribe": True}}}
    elif message["method"] == "resources/list":
        answer["result"] = {"resources": [{"uri": "memo://a", "name": "a"}]}
    elif message["method"] == "resources/templates/list":
        answer["result"] = {"resourceTemplates": []}
    elif message["method"] == "server/discover":
        del answer["result"]
        answer["error"] = {"code": -32601, "message": "no"}
    elif message["method"] == "resources/subscribe" and os.path.exists(sys.argv[1]):
        sys.exit(1)
    print(json.dumps(answer), flush=True)
"#;

#[test]
fn what_a_server_does_not_confirm_is_asked_for_again_and_the_doctor_says_so() {
    let org = Org::new();
    let (script, unsure) = (org.path().join("server.py"), org.path().join("unsure"));
    std::fs::write(&script, UNSURE).unwrap();
    std::fs::write(&unsure, "").unwrap();
    let args = [script.to_str().unwrap(), unsure.to_str().unwrap()];
    org.server(&Server::new("up", on_path("python3")).args(args));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    org.publish();
    let mut shim = org.serve("ci");
    shim.discover();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    shim.send(&json!({
        "jsonrpc": "2.0", "id": "L", "method": "subscriptions/listen",
        "params": {"notifications": {"resourceSubscriptions": ["memo://a"]}, "_meta": meta},
    }));
    // nobody waits for a server that ends
    let honoured = heard(&mut shim, "notifications/subscriptions/acknowledged", 1);
    assert_eq!(
        honoured[0]["notifications"],
        json!({"resourceSubscriptions": ["memo://a"]})
    );
    let said = wait_for("the doctor to know", || {
        let said = run(org.laptop_as("ci").arg("doctor")).stdout;
        said.contains("[unconfirmed]").then_some(said)
    });
    assert!(
        said.contains("up has not confirmed 1 of what a client listens to"),
        "{said}"
    );
    std::fs::remove_file(&unsure).unwrap();
    // its back-off may be long by now
    org.mcpshim("ci", ["restart", "up"]).ok();
    let told = heard(&mut shim, "notifications/resources/updated", 1);
    assert_eq!(told[0]["uri"], "memo://a");
    assert_eq!(
        told[0]["_meta"]["io.modelcontextprotocol/subscriptionId"],
        "L"
    );
    wait_for("the status to know", || {
        let status = run(org.laptop_as("ci").arg("status")).stdout;
        (!status.contains("not confirmed")).then_some(())
    });
    assert!(shim.close().0.success());
}

#[test]
fn a_tool_that_only_runs_as_an_older_task_is_refused_and_the_doctor_says_so() {
    let org = both();
    let mut shim = org.serve("ci");
    shim.initialize();
    let tool = "old_simulate-research-query";
    assert!(shim.names("tools").iter().any(|name| name == tool));
    let answer = shim.call(tool, json!({"topic": "x"}));
    assert!(
        answer.denied().contains("as a task of MCP 2025-11-25"),
        "{answer:?}"
    );
    drop(shim.close());
    let said = run(org.laptop_as("ci").arg("doctor"));
    assert!(
        said.stdout.contains("old/simulate-research-query"),
        "{said:#?}"
    );
    assert!(said.stdout.contains("[needs-task]"), "{said:#?}");
    let checked = org.admin(["check"], [org.sources()]);
    assert!(
        format!("{checked:?}").contains("needs-task"),
        "{checked:#?}"
    );
}

/// The server of the Rust SDK, whose `work` is a task for clients that can follow one.
#[test]
fn a_task_of_the_rust_sdk_is_followed_to_its_end() {
    let org = Org::new();
    org.server(&Server::new("up", installed("rmcp/debug/peer-rmcp")).args(["serve"]));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    org.publish();
    let mut shim = org.serve("ci");
    let offered = shim.discover();
    let extension = "io.modelcontextprotocol/tasks";
    assert_eq!(offered["capabilities"]["extensions"][extension], json!({}));
    // one that cannot follow a task gets the answer itself
    assert_eq!(shim.call("up_work", json!({})).text(), "worked");
    let able = json!({
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {extension: {}}},
    });
    shim.declare(&able);
    let begun = shim.call("up_work", json!({}));
    let begun = begun.result();
    assert_eq!(begun["resultType"], "task", "{begun}");
    let id = begun["taskId"].as_str().unwrap().to_owned();
    assert!(id.starts_with("up."), "{id}");
    let end = Instant::now() + Duration::from_secs(20);
    let done = loop {
        let seen = shim.request("tasks/get", json!({"taskId": id}));
        let seen = seen.result().clone();
        assert_eq!(seen["taskId"], json!(id));
        if seen["status"] != "working" {
            break seen;
        }
        assert!(Instant::now() < end, "{seen}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["result"]["content"][0]["text"], "worked", "{done}");
    for unknown in ["up.nothing", "nothing", id.trim_start_matches("up.")] {
        let answer = shim.request("tasks/get", json!({"taskId": unknown}));
        assert_eq!(answer.error(), (-32602, "Unknown task"), "{unknown}");
    }
    let begun = shim.call("up_work", json!({}));
    let id = begun.result()["taskId"].as_str().unwrap().to_owned();
    shim.request("tasks/cancel", json!({"taskId": id})).result();
    assert!(shim.close().0.success());
}
