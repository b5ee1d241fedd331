//! What servers ask of stateless clients, with real peers: a call waits for its client's retry
//! where the server asks by itself, and passes where it asks in its result.

use std::process::Command;

use serde_json::{Value, json};

use crate::peers;
use crate::support::{Answer, Grant, Org, Server, Shim, program, run};

const FORM: &str = "q_trigger-elicitation-request";

fn organisation(server: &str, flags: &str) -> Org {
    let org = Org::new();
    let (command, mut args) = peers::server(server, org.path());
    if server == "typescript" {
        args.push("modern".to_owned());
    }
    org.server(&Server::new("q", command).args(args).with(flags));
    org.agent("ci");
    org.role("tester", &["ci"], &[("q", Grant::ALL)]);
    org.publish();
    org
}

fn client(org: &Org) -> Shim {
    let mut shim = org.serve("ci");
    shim.discover_as(json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}));
    shim
}

/// The handle and the questions of an answer that asks.
fn asks(answer: &Answer) -> (String, Value) {
    let result = answer.result();
    assert_eq!(result["resultType"], "input_required", "{result}");
    let state = result["requestState"].as_str().unwrap().to_owned();
    (state, result["inputRequests"].clone())
}

fn retry(shim: &mut Shim, tool: &str, state: &str, answers: &Value) -> Answer {
    shim.request(
        "tools/call",
        json!({"name": tool, "arguments": {}, "requestState": state, "inputResponses": answers}),
    )
}

#[test]
fn a_stateless_client_of_an_sdk_is_asked_by_a_handshake_server() {
    let org = organisation("everything", "pin: names\nroots: true\nsampling: true");
    let script = json!([
        {"do": "declare", "elicitation": ["form", "url"], "sampling": true,
            "roots": [{"uri": "file:///srv/ann", "name": "ann"}]},
        {"do": "server"},
        {"do": "call", "name": "trigger-elicitation-request", "arguments": {},
            "answers": {"form": {"action": "accept", "content": {"name": "Ada", "integer": 36}}}},
        {"do": "call", "name": "trigger-elicitation-request", "arguments": {},
            "answers": {"form": {"action": "decline"}}},
        {"do": "call", "name": "trigger-url-elicitation",
            "arguments": {"url": "https://peer.example/visit", "message": "Sign in there."},
            "answers": {"url": {"action": "accept"}}},
        {"do": "call", "name": "trigger-sampling-request",
            "arguments": {"prompt": "hello", "maxTokens": 10}, "answers": {"sampling": "Lovely."}},
        {"do": "call", "name": "echo", "arguments": {"message": "still here"}},
    ]);
    let file = org.path().join("script.json");
    std::fs::write(&file, script.to_string()).unwrap();
    let mut command: Command = peers::client("typescript-auto");
    org.environment_as(&mut command, "ci");
    command
        .arg(&file)
        .args(["q_", "--"])
        .arg(program("mcpshim"));
    let steps = run(command.arg("serve")).ok().json_lines();
    assert_eq!(steps[1]["result"]["protocol"], "2026-07-28", "{}", steps[1]);
    let text = |at: usize| steps[at]["result"].to_string();
    let message = |at: usize| {
        let asked = steps[at]["asked"].as_array().unwrap();
        // the server wants the roots when it likes, so that may come within any call
        let (roots, own): (Vec<&Value>, Vec<&Value>) =
            asked.iter().partition(|one| one["method"] == "roots/list");
        assert!(roots.len() <= 1, "{}", steps[at]);
        let [own] = own[..] else {
            panic!("not one question of the tool's own: {}", steps[at]);
        };
        assert_eq!(own["method"], "elicitation/create", "{}", steps[at]);
        own["params"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(text(2).contains("Ada"), "{}", text(2));
    assert!(message(2).starts_with("[q] "), "{}", message(2));
    assert!(text(3).contains("decline"), "{}", text(3));
    assert_eq!(message(4), "[q] Sign in there.");
    assert!(text(4).contains("accept"), "{}", text(4));
    assert!(text(5).contains("Lovely."), "{}", text(5));
    assert!(text(6).contains("still here"), "{}", text(6));
}

#[test]
fn a_handle_is_used_once_and_dies_with_the_shim() {
    let org = organisation("everything", "pin: names");
    let mut shim = client(&org);
    let (first, questions) = asks(&shim.call(FORM, json!({})));
    let (name, question) = questions.as_object().unwrap().iter().next().unwrap();
    assert_eq!(question["method"], "elicitation/create");
    let answers = json!({name: {"action": "accept", "content": {"name": "Ada", "integer": 36}}});
    // nothing was answered: it is asked again, by another handle
    let (second, _) = asks(&retry(&mut shim, FORM, &first, &json!({})));
    assert_ne!(first, second);
    // the client's program is told, not its model
    let stale = |answer: &Answer| {
        let (code, text) = answer.error();
        assert_eq!(code, -32602, "{text}");
        assert!(text.contains("call again"), "{text}");
    };
    stale(&retry(&mut shim, FORM, &first, &answers));
    let done = retry(&mut shim, FORM, &second, &answers);
    assert!(
        done.result().to_string().contains("Ada"),
        "{}",
        done.result()
    );
    stale(&retry(&mut shim, FORM, &second, &answers));
    // a shim that is killed takes its calls with it: none of them is made again
    let (lost, _) = asks(&shim.call(FORM, json!({})));
    shim.process.kill();
    let mut shim = client(&org);
    stale(&retry(&mut shim, FORM, &lost, &answers));
    shim.close();
    let seen = org.mcpshim("ci", ["audit", "status", "--json"]);
    assert!(seen.ok().stdout.contains('{'));
}

#[test]
fn a_client_that_cannot_be_asked_is_told_which_tool_needs_it() {
    let org = organisation("everything", "pin: names");
    let mut shim = org.serve("ci");
    shim.initialize();
    let refused = shim.call(FORM, json!({}));
    assert!(
        refused
            .denied()
            .contains("only to clients that can be asked"),
        "{}",
        refused.text()
    );
    let echo = shim.call("q_echo", json!({"message": "x"}));
    assert!(echo.text().contains('x'), "the rest of its tools are there");
    shim.close();
    // one that may declare it with its next request has the tool, and its server is refused
    let mut shim = org.serve("ci");
    shim.discover();
    let refused = shim.call(FORM, json!({}));
    let (code, text) = refused.error();
    assert_eq!(code, -32021, "{text}");
    assert!(text.contains("elicitation"), "{text}");
    shim.declare(&json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}));
    let (state, questions) = asks(&shim.call(FORM, json!({})));
    let name = questions.as_object().unwrap().keys().next().unwrap();
    let answers = json!({name: {"action": "decline"}});
    let done = retry(&mut shim, FORM, &state, &answers);
    assert!(done.text().contains("declined"), "{done:?}");
    shim.close();
}

#[test]
fn between_stateless_peers_a_question_passes_with_who_asks() {
    let org = organisation("typescript", "sampling: true\nroots: true");
    let mut shim = client(&org);
    let (state, questions) = asks(&shim.call("q_ask-twice", json!({})));
    assert!(!state.starts_with("mcpshim"), "the server's own: {state}");
    let questions = questions.as_object().unwrap();
    assert_eq!(questions.len(), 2, "{questions:?}");
    let form = |question: &Value| question["method"] == "elicitation/create";
    for question in questions.values().filter(|one| form(one)) {
        let message = question["params"]["message"].as_str().unwrap();
        assert!(message.starts_with("[q] "), "{message}");
    }
    shim.close();
    // one that may not ask does not
    let org = organisation("typescript", "elicitation: false");
    let mut shim = client(&org);
    let refused = shim.call("q_ask-name", json!({}));
    assert!(
        !refused.0.to_string().contains("inputRequests"),
        "{}",
        refused.0
    );
    shim.close();
}
