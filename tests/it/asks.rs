//! What real servers ask of clients of the handshake era, through mcpshim.

use std::time::Duration;

use serde_json::{Value, json};

use crate::peers;
use crate::support::{Answer, Collector, Grant, Org, Server, Shim, program, run};

/// A client that can be asked everything.
fn everything() -> Value {
    json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {"listChanged": true}})
}

/// An organisation that lets one server ask everything, and its collector.
fn org(key: &str, command: &std::path::Path, args: &[String]) -> (Org, Collector) {
    let org = Org::new();
    let entry = Server::new(key, command)
        .args(args)
        .with("elicitation: true\nsampling: true\nroots: true");
    org.server(&entry);
    org.agent("ci");
    org.role("tester", &["ci"], &[(key, Grant::ALL)]);
    org.publish();
    let collector = org.collector();
    org.settings(&format!("collector: {{url: '{}'}}", collector.url));
    org.republish();
    (org, collector)
}

/// Waits for the next question of a method, and gives it.
#[track_caller]
fn asked(shim: &mut Shim, method: &str) -> Value {
    let is = |message: &Value| message["method"] == json!(method);
    if let Some(at) = shim.others.iter().position(is) {
        return shim.others.remove(at);
    }
    loop {
        let message = shim.next(Duration::from_secs(30));
        let message = message.unwrap_or_else(|| panic!("nobody asks {method}"));
        if is(&message) {
            return message;
        }
        assert!(
            message.get("method").is_some(),
            "answered without a question: {message}"
        );
    }
}

fn answer(shim: &mut Shim, question: &Value, result: Value) {
    shim.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result}));
}

/// Calls a tool, answers its questions one after the other, and gives the end of it.
#[track_caller]
fn call(shim: &mut Shim, tool: &str, arguments: Value, answers: &[(&str, Value)]) -> Answer {
    let id = shim.post("tools/call", json!({"name": tool, "arguments": arguments}));
    for (method, result) in answers {
        let question = asked(shim, method);
        if *method == "elicitation/create" {
            let message = question["params"]["message"].as_str().unwrap();
            let (server, _) = tool.split_once('_').unwrap();
            assert!(message.starts_with(&format!("[{server}] ")), "{message}");
        }
        answer(shim, &question, result.clone());
    }
    shim.answer(&json!(id))
}

/// The record, one value an entry, oldest first.
fn record(org: &Org, collector: &Collector) -> Vec<Value> {
    org.mcpshim("ci", ["audit", "flush", "--wait", "60"]).ok();
    let read = collector.read(["query", "--json", "--limit", "1000"]);
    let mut record = read.ok().json_lines();
    record.retain(|entry| entry.get("call").is_some());
    record.sort_by_key(|entry| entry["mono_us"].as_u64());
    record
}

/// The ends of the legs of the calls of a tool, in order.
fn legs(record: &[Value], tool: &str) -> Vec<(u64, String)> {
    let intent = record.iter().find(|entry| {
        entry["phase"] == json!("intent")
            && entry["tool"]
                .as_str()
                .is_some_and(|name| name.ends_with(&format!("/{tool}")))
    });
    let call = &intent.unwrap_or_else(|| panic!("no call of {tool}"))["call"];
    let outcomes = record
        .iter()
        .filter(|entry| entry["phase"] == json!("outcome") && entry["call"] == *call);
    outcomes
        .map(|entry| (entry["leg"].as_u64().unwrap(), entry["end"].to_string()))
        .collect()
}

#[test]
fn a_server_of_the_handshake_era_asks_the_client_of_its_era() {
    let sandbox = tempfile::tempdir().unwrap();
    let (command, args) = peers::server("everything", sandbox.path());
    let (org, collector) = org("every", &command, &args);
    let mut shim = org.serve("ci");
    shim.initialize_as("2025-11-25", everything());

    let form = json!({"action": "accept", "content": {"name": "Grüße \u{2028}"}});
    let done = call(
        &mut shim,
        "every_trigger-elicitation-request",
        json!({}),
        &[("elicitation/create", form)],
    );
    assert!(done.result().to_string().contains("Grüße"), "{done:?}");
    let model =
        json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hum."}});
    let done = call(
        &mut shim,
        "every_trigger-sampling-request",
        json!({"prompt": "Say it", "maxTokens": 5}),
        &[("sampling/createMessage", model)],
    );
    assert!(done.text().contains("Hum."), "{done:?}");
    // the person says no, then the client fails
    let refused = call(
        &mut shim,
        "every_trigger-elicitation-request",
        json!({}),
        &[("elicitation/create", json!({"action": "decline"}))],
    );
    assert!(
        refused.result().to_string().contains("declined"),
        "{refused:?}"
    );
    let id = shim.post(
        "tools/call",
        json!({"name": "every_trigger-elicitation-request", "arguments": {}}),
    );
    let question = asked(&mut shim, "elicitation/create");
    shim.send(&json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "no screen"}}));
    let failed = shim.answer(&json!(id));
    assert!(
        failed.result().to_string().contains("no screen"),
        "{failed:?}"
    );
    // a call that is taken back takes its question with it
    let id = shim.post(
        "tools/call",
        json!({"name": "every_trigger-elicitation-request", "arguments": {}}),
    );
    let question = asked(&mut shim, "elicitation/create");
    shim.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}));
    let cancelled = asked(&mut shim, "notifications/cancelled");
    assert_eq!(cancelled["params"]["requestId"], question["id"]);
    let (_, late, _) = shim.close();
    assert!(
        late.iter().all(|message| message["id"] != json!(id)),
        "{late:?}"
    );

    let record = record(&org, &collector);
    let ends: Vec<(u64, String)> = legs(&record, "trigger-elicitation-request");
    assert_eq!(
        ends[..2],
        [(1, "\"ok\"".to_owned()), (0, "\"ok\"".to_owned())],
        "{ends:?}"
    );
}

#[test]
fn a_server_of_the_stateless_era_asks_the_client_of_the_handshake_era() {
    let sandbox = tempfile::tempdir().unwrap();
    let (command, mut args) = peers::server("typescript", sandbox.path());
    args.push("modern".to_owned());
    let (org, collector) = org("modern", &command, &args);
    let mut shim = org.serve("ci");
    shim.initialize_as("2025-11-25", everything());

    let ann = json!({"action": "accept", "content": {"name": "Ann", "age": 7}});
    let form = ("elicitation/create", ann.clone());
    let done = call(
        &mut shim,
        "modern_ask-name",
        json!({}),
        std::slice::from_ref(&form),
    );
    assert_eq!(serde_json::from_str::<Value>(done.text()).unwrap(), ann);
    let open = json!({"action": "accept"});
    let done = call(
        &mut shim,
        "modern_ask-visit",
        json!({}),
        &[("elicitation/create", open)],
    );
    assert!(done.text().contains("accept"), "{done:?}");
    let roots = json!({"roots": [{"uri": "file:///srv/ann", "name": "ann"}]});
    let done = call(
        &mut shim,
        "modern_ask-roots",
        json!({}),
        &[("roots/list", roots.clone())],
    );
    assert_eq!(serde_json::from_str::<Value>(done.text()).unwrap(), roots);
    let model =
        json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hum."}});
    let done = call(
        &mut shim,
        "modern_ask-model",
        json!({}),
        &[("sampling/createMessage", model)],
    );
    assert!(done.text().contains("Hum."), "{done:?}");
    // two rounds, the first with two things at once and a state with odd letters
    let id = shim.post(
        "tools/call",
        json!({"name": "modern_ask-twice", "arguments": {}}),
    );
    let name = asked(&mut shim, "elicitation/create");
    let where_to = asked(&mut shim, "roots/list");
    answer(&mut shim, &where_to, roots.clone());
    answer(&mut shim, &name, ann.clone());
    let name = asked(&mut shim, "elicitation/create");
    answer(&mut shim, &name, json!({"action": "cancel"}));
    let done = shim.answer(&json!(id));
    let said: Value = serde_json::from_str(done.text()).unwrap();
    assert_eq!(
        said,
        json!({"first": {"name": ann, "roots": roots}, "second": {"action": "cancel"}})
    );
    // a pause without a question, then a question
    let done = call(
        &mut shim,
        "modern_ask-later",
        json!({}),
        std::slice::from_ref(&form),
    );
    assert!(done.text().contains("Ann"), "{done:?}");
    // one that never has enough
    let rounds: Vec<_> = std::iter::repeat_n(form, 11).collect();
    let ended = call(&mut shim, "modern_ask-forever", json!({}), &rounds[..10]);
    assert!(
        ended.is_tool_error() && ended.text().contains("too often"),
        "{ended:?}"
    );
    // prompts and resources
    for (method, params) in [
        ("prompts/get", json!({"name": "modern_ask-prompt"})),
        ("resources/read", json!({"uri": "peer://asks"})),
    ] {
        let id = shim.post(method, params);
        let question = asked(&mut shim, "elicitation/create");
        answer(&mut shim, &question, json!({"action": "decline"}));
        let done = shim.answer(&json!(id));
        assert!(done.result().to_string().contains("decline"), "{done:?}");
    }
    shim.close();

    let record = record(&org, &collector);
    let ok = |leg| (leg, "\"ok\"".to_owned());
    let input = |leg| (leg, "\"input_required\"".to_owned());
    assert_eq!(legs(&record, "ask-name"), [input(0), ok(1), ok(2)]);
    // a client that can be asked nothing
    let mut shim = org.serve("ci");
    shim.initialize_as("2025-11-25", json!({}));
    let refused = shim.call("modern_ask-name", json!({}));
    assert!(
        refused.is_tool_error() && refused.text().contains("elicitation"),
        "{refused:?}"
    );
}

#[test]
fn servers_at_an_address_ask_too() {
    let org = Org::new();
    let every = peers::Listening::start(&org, "everything");
    let modern = peers::Listening::start(&org, "stateless");
    for (key, url) in [("every", every.url()), ("modern", modern.url())] {
        let entry = Server::http(key, &url).with("elicitation: true\nsampling: true");
        org.server(&entry);
    }
    org.agent("ci");
    let grants = [("every", Grant::ALL), ("modern", Grant::ALL)];
    org.role("tester", &["ci"], &grants);
    org.publish();
    let mut shim = org.serve("ci");
    shim.initialize_as("2025-11-25", everything());
    let form = json!({"action": "accept", "content": {"name": "Ann"}});
    for tool in ["every_trigger-elicitation-request", "modern_ask-name"] {
        let answers = [("elicitation/create", form.clone())];
        let done = call(&mut shim, tool, json!({}), &answers);
        assert!(done.result().to_string().contains("Ann"), "{done:?}");
    }
    // taken back while the person is asked
    for tool in ["every_trigger-elicitation-request", "modern_ask-name"] {
        let id = shim.post("tools/call", json!({"name": tool, "arguments": {}}));
        let question = asked(&mut shim, "elicitation/create");
        let cancel = json!({"requestId": id});
        shim.send(
            &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel}),
        );
        let cancelled = asked(&mut shim, "notifications/cancelled");
        assert_eq!(cancelled["params"]["requestId"], question["id"], "{tool}");
    }
}

#[test]
fn clients_of_sdks_answer_what_a_server_of_the_newer_era_asks() {
    let script = json!([
        {"do": "declare", "elicitation": ["form", "url"], "sampling": true, "roots": [{"uri": "file:///srv/ann"}]},
        {"do": "call", "name": "ask-twice", "arguments": {}, "answers": {"form": {"action": "accept", "content": {"name": "Ann"}}}},
        {"do": "call", "name": "ask-visit", "arguments": {}, "answers": {"url": {"action": "accept"}}},
        {"do": "call", "name": "ask-model", "arguments": {}, "answers": {"sampling": "nice"}},
        {"do": "read", "uri": "peer://asks", "answers": {"form": {"action": "decline"}}},
        {"do": "cancel", "name": "ask-name", "arguments": {}, "at": "asked", "answers": {"form": "never"}}
    ]);
    let sandbox = tempfile::tempdir().unwrap();
    let (command, mut args) = peers::server("typescript", sandbox.path());
    args.push("modern".to_owned());
    let (org, _collector) = org("modern", &command, &args);
    let path = sandbox.path().join("script.json");
    std::fs::write(&path, script.to_string()).unwrap();
    for name in ["typescript-v1", "typescript-legacy", "python-legacy"] {
        let mut client = peers::client(name);
        org.environment_as(&mut client, "ci");
        client
            .arg(&path)
            .args(["modern_", "--"])
            .arg(program("mcpshim"))
            .arg("serve");
        let steps = run(&mut client).ok().json_lines();
        let said = |at: usize| steps[at]["result"].to_string();
        assert!(
            said(1).contains("Ann") && said(1).contains("file:///srv/ann"),
            "{name}: {}",
            said(1)
        );
        assert!(said(2).contains("accept"), "{name}: {}", said(2));
        let visit = &steps[2]["asked"][0]["params"];
        assert!(
            visit["elicitationId"]
                .as_str()
                .is_some_and(|id| id.len() == 36),
            "{name}: {visit}"
        );
        assert!(said(3).contains("nice"), "{name}: {}", said(3));
        assert!(said(4).contains("decline"), "{name}: {}", said(4));
        assert_eq!(steps[5]["result"]["cancelled"], json!(true), "{name}");
    }
}
