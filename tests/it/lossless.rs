//! What mcpshim says is the protocol: each message is one of its revision, and clients are met as
//! they open, whichever way they do.

use serde_json::{Value, json};

use crate::support::{Grant, Org, Recording, Server, Shim, program};

/// An organisation with a TypeScript server that speaks both eras, one that speaks the newer only
/// and a server of the older, what all say recorded.
fn organisation() -> (Org, Recording) {
    let org = Org::new();
    let recording = Recording::new(&org);
    let (command, args) = crate::peers::server("typescript", org.path());
    let modern = [args.clone(), vec!["modern".to_owned()]].concat();
    let (node, everything) = crate::peers::server("everything", org.path());
    for (key, command, args) in [
        ("dual", &command, &args),
        ("new", &command, &modern),
        ("old", &node, &everything),
    ] {
        let (command, args) = recording.upstream(key, command, args);
        org.server(&Server::new(key, command).args(args));
    }
    org.agent("ci");
    let all = ["dual", "new", "old"].map(|key| (key, Grant::ALL));
    org.role("tester", &["ci"], &all);
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    (org, recording)
}

fn recorded(org: &Org, recording: &Recording) -> Shim {
    let (command, args) = recording.client(program("mcpshim"), &["serve".to_owned()]);
    let mut command = std::process::Command::new(command);
    org.environment_as(&mut command, "ci");
    Shim::start(command.args(args))
}

/// Everything that a client asks for itself, of both servers.
fn a_session(shim: &mut Shim) {
    for list in ["tools", "prompts", "resources", "templates"] {
        assert!(!shim.names(list).is_empty(), "{list}");
    }
    for key in ["dual", "new"] {
        let echoed = shim.call(&format!("{key}_echo"), json!({"message": "é\u{2028}"}));
        assert_eq!(echoed.text(), "é\u{2028}");
        shim.call(&format!("{key}_add"), json!({"a": 1, "b": 2.5}))
            .result();
        shim.call(&format!("{key}_picture"), json!({})).result();
        shim.request(
            "tools/call",
            json!({"name": format!("{key}_slow"), "arguments": {"steps": 2}, "_meta": {"progressToken": "p"}}),
        );
        shim.call(&format!("{key}_fail"), json!({}));
        shim.request(
            "prompts/get",
            json!({"name": format!("{key}_greet"), "arguments": {"name": "Ada"}}),
        );
        shim.request("prompts/get", json!({"name": format!("{key}_none")}));
        shim.request(
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": format!("{key}_greet")},
                "argument": {"name": "name", "value": "A"}}),
        );
    }
    assert_eq!(
        shim.call("old_echo", json!({"message": "x"})).text(),
        "Echo: x"
    );
    shim.call(
        "old_get-structured-content",
        json!({"location": "New York"}),
    );
    shim.request("prompts/get", json!({"name": "old_simple-prompt"}))
        .result();
    shim.request(
        "completion/complete",
        json!({"ref": {"type": "ref/prompt", "name": "old_completable-prompt"},
            "argument": {"name": "department", "value": "E"}}),
    );
    for uri in [
        "peer://static",
        "demo://resource/static/document/features.md",
    ] {
        shim.request("resources/read", json!({"uri": uri}));
    }
    shim.request("resources/read", json!({"uri": "peer://nothing"}));
    shim.request("resources/read", json!({"uri": "elsewhere://nothing"}));
    shim.call("mcpshim_status", json!({})).result();
    shim.call("nobody_nothing", json!({}));
    shim.request("tools/list", json!({"cursor": "no such"}));
    shim.request("does/not/exist", json!({}));
    shim.send_bytes("{}\n");
    shim.send_bytes("nonsense\n");
    // a call that is taken back
    let id = shim.post(
        "tools/call",
        json!({"name": "dual_slow", "arguments": {"steps": 100}}),
    );
    shim.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}));
}

#[test]
fn every_message_validates() {
    let (org, recording) = organisation();
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut shim = recorded(&org, &recording);
        shim.initialize_as(
            revision,
            json!({"elicitation": {}, "sampling": {}, "roots": {}}),
        );
        shim.request("ping", json!({}));
        shim.request("logging/setLevel", json!({"level": "debug"}));
        a_session(&mut shim);
        for method in ["resources/subscribe", "resources/unsubscribe"] {
            shim.request(method, json!({"uri": "peer://static"}));
            shim.request(
                method,
                json!({"uri": "demo://resource/static/document/features.md"}),
            );
        }
        shim.close();
    }
    let mut shim = recorded(&org, &recording);
    shim.discover();
    let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": ["peer://static"]});
    let listen = shim.post("subscriptions/listen", json!({"notifications": wanted}));
    a_session(&mut shim);
    shim.close_input();
    shim.answer(&json!(listen));
    shim.close();
    let seen = recording.validate(&[]);
    for kind in [
        "2024-11-05 to the client result initialize",
        "2025-06-18 to the client result tools/call",
        "2025-11-25 to the client error tools/list",
        "2025-11-25 to the server request tools/call",
        "2025-11-25 to the server request resources/subscribe",
        "2026-07-28 to the client result server/discover",
        "2026-07-28 to the client result subscriptions/listen",
        "2026-07-28 to the server request prompts/get",
        "2026-07-28 to the server notification notifications/cancelled",
    ] {
        assert!(seen.contains_key(kind), "no {kind} in {seen:#?}");
    }
}

/// `_meta` as a client of the stateless era sends it.
fn claim(name: &str, capabilities: &str) -> String {
    format!(
        r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"{name}","version":"2"}},"io.modelcontextprotocol/clientCapabilities":{capabilities}}}"#
    )
}

/// What Claude Code can be asked (measured; `listChanged` is not of the stateless era).
const ASKABLE: &str = r#"{"roots":{"listChanged":true},"elicitation":{"form":{},"url":{}}}"#;

/// One way in which a client opens: what it writes in one go, once for each process that it
/// starts, and the ids that must be answered with a result.
struct Contact {
    name: &'static str,
    processes: Vec<Vec<String>>,
}

/// How clients open, member order and spelling included.
fn contacts() -> Vec<Contact> {
    let contact = |name, processes: &[&[String]]| Contact {
        name,
        processes: processes.iter().map(|lines| lines.to_vec()).collect(),
    };
    let probe = |name: &str, can: &str| {
        let claim = claim(name, can);
        format!(
            r#"{{"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover","params":{{{claim}}}}}"#
        )
    };
    let initialize = |id: &str, name: &str, can: &str| {
        format!(
            r#"{{"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{can},"clientInfo":{{"name":"{name}","version":"2"}}}},"jsonrpc":"2.0","id":{id}}}"#
        )
    };
    let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned();
    let bare =
        |method: &str, id: u32| format!(r#"{{"method":"{method}","jsonrpc":"2.0","id":{id}}}"#);
    let claimed = |method: &str, id: u32, name: &str, can: &str| {
        let claim = claim(name, can);
        format!(r#"{{"method":"{method}","jsonrpc":"2.0","id":{id},"params":{{{claim}}}}}"#)
    };
    let code = |method: &str, id| claimed(method, id, "code", ASKABLE);
    let listen = format!(
        r#"{{"jsonrpc":"2.0","id":"listen:0","method":"subscriptions/listen","params":{{{},"notifications":{{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}}}}}}"#,
        claim("code", ASKABLE)
    );
    let old = [
        initialize("0", "code", ASKABLE),
        initialized.clone(),
        bare("tools/list", 1),
    ];
    let apps = r#"{"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}}}"#;
    vec![
        contact(
            "Claude Code: a probe, a listen, then everything at once",
            &[&[
                probe("code", ASKABLE),
                listen,
                code("server/discover", 0),
                code("prompts/list", 1),
                code("resources/list", 2),
                code("tools/list", 3),
            ]],
        ),
        contact("Claude Code: told to be of the older era", &[&old]),
        contact(
            "Claude Code: a probe that it does not wait for, on the same pipe",
            &[&[&[probe("code", ASKABLE)], &old[..]].concat()],
        ),
        contact(
            "Claude Code: a probe, then the older era in another process",
            &[&[probe("code", ASKABLE)], &old],
        ),
        contact(
            "Claude Code: the lists in parallel",
            &[&[
                &old[..],
                &[bare("prompts/list", 2), bare("resources/list", 3)],
            ]
            .concat()],
        ),
        contact(
            "Claude Desktop",
            &[&[
                initialize("0", "desktop", apps),
                initialized.clone(),
                bare("tools/list", 1),
            ]],
        ),
        contact(
            "TypeScript SDK, auto: one process for the probe, no other discover",
            &[
                &[probe("ts", "{}")],
                &[claimed("tools/list", 0, "ts", "{}")],
            ],
        ),
        contact(
            "TypeScript SDK, auto: after a probe that failed",
            &[
                &[probe("ts", "{}")],
                &[
                    initialize("0", "ts", "{}"),
                    initialized.clone(),
                    bare("tools/list", 1),
                ],
            ],
        ),
        contact(
            "Python SDK, auto",
            &[&[
                claimed("server/discover", 1, "py", "{}"),
                claimed("tools/list", 2, "py", "{}"),
            ]],
        ),
        contact(
            "Python SDK: a probe, then the older era on the same pipe",
            &[&[
                claimed("server/discover", 1, "py", "{}"),
                initialize("2", "py", "{}"),
                initialized,
                bare("tools/list", 3),
            ]],
        ),
    ]
}

/// Everything a client may open with is answered at once, in order of its era, and starts nothing.
#[test]
fn every_first_contact_is_answered_and_starts_nothing() {
    let org = Org::new();
    let recording = Recording::new(&org);
    let log = org.path().join("started");
    let counting = program("mcpshim-admin")
        .parent()
        .unwrap()
        .join("examples/counting");
    // pinned by the program itself; what is published says that it leaves a mark when it starts
    let script = r#"echo x >>"$0"; exec "$@""#;
    let words = [
        "-c",
        script,
        log.to_str().unwrap(),
        counting.to_str().unwrap(),
    ];
    org.server(&Server::new("up", "/bin/sh").args(words));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    std::fs::remove_file(&log).unwrap();
    for Contact { name, processes } in contacts() {
        for (at, lines) in processes.iter().enumerate() {
            let mut shim = recorded(&org, &recording);
            shim.send_bytes(format!("{}\n", lines.join("\n")));
            let ids = lines.iter().filter_map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let answered = line["method"] != "subscriptions/listen";
                answered.then(|| line.get("id").cloned()).flatten()
            });
            for id in ids.collect::<Vec<_>>() {
                let answer = shim.answer(&id);
                let result = answer.result();
                if let Some(tools) = result.get("tools") {
                    let names: Vec<&Value> = tools
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|tool| &tool["name"])
                        .collect();
                    assert!(
                        names.contains(&&json!("up_echo")),
                        "{name}, process {at}: {names:?}"
                    );
                }
            }
            shim.close();
        }
    }
    assert!(!log.exists(), "a server was started");
    recording.validate(&[]);
}

/// A client that opened in the stateless era and sends `initialize` is told that its era has no such
/// method, and goes on.
#[test]
fn a_client_that_changes_its_mind_is_told() {
    let (org, recording) = organisation();
    let mut shim = recorded(&org, &recording);
    shim.discover();
    shim.names("tools");
    let late = shim.request(
        "initialize",
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}),
    );
    assert_eq!(late.error().0, -32601);
    assert_eq!(
        shim.call("dual_echo", json!({"message": "on"})).text(),
        "on"
    );
    shim.close();
}

/// The measure itself: what is not of its revision is found.
#[test]
fn a_message_of_another_revision_is_found() {
    let org = Org::new();
    let opened = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
    let answered = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}"#;
    let listed =
        |more: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[]{more}}}}}"#);
    let asks = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned();
    let claims = asks.replace(
        "list\"",
        &format!("list\",\"params\":{{{}}}", claim("c", "{}")),
    );
    let new = r#","resultType":"complete","ttlMs":0,"cacheScope":"private""#;
    for (asked, said, fault) in [
        (&asks, listed(""), None),
        (&claims, listed(new), None),
        (&asks, listed(new), Some("resultType is not of 2025-11-25")),
        (&claims, listed(""), Some("'ttlMs' is a required property")),
        (
            &asks,
            listed(r#","nextCursor":1"#),
            Some("1 is not of type 'string'"),
        ),
        (
            &asks,
            r#"{"jsonrpc":"2.0","id":"1","result":{}}"#.to_owned(),
            Some("an answer to nothing"),
        ),
        (
            &claims,
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#.to_owned(),
            Some("tools/list is not a request of 2025-11-25"),
        ),
        (&asks, "hello".to_owned(), Some("no JSON")),
    ] {
        let recording = Recording::new(&org);
        recording.forge(
            "client",
            &format!("{opened}\n{asked}\n"),
            &format!("{answered}\n{said}\n"),
        );
        let ended = recording.checked(&[]);
        match fault {
            None => drop(ended.ok()),
            Some(fault) => assert!(
                !ended.status.success() && ended.stdout.contains(fault),
                "{said}: {ended:?}"
            ),
        }
    }
}

/// The same over HTTP: a header that says something else than its message is found.
#[test]
fn a_header_of_another_message_is_found() {
    let org = Org::new();
    let claim = claim("mcpshim", "{}");
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"naïve","arguments":{{}},{claim}}}}}"#
    );
    let head = |version: &str, method: &str, name: &str| {
        json!({"mcp-protocol-version": version, "mcp-method": method, "mcp-name": name}).to_string()
    };
    let wrapped = "=?base64?bmHDr3Zl?=";
    for (head, fault) in [
        (head("2026-07-28", "tools/call", wrapped), None),
        (
            head("2025-11-25", "tools/call", wrapped),
            Some("the header mcp-protocol-version is '2025-11-25'"),
        ),
        (
            head("2026-07-28", "tools/list", wrapped),
            Some("the header mcp-method is 'tools/list'"),
        ),
        (
            head("2026-07-28", "tools/call", "other"),
            Some("the header mcp-name is 'other'"),
        ),
    ] {
        let recording = Recording::new(&org);
        recording.forge_remote("web", &format!("{head}\n"), &format!("{call}\n"));
        let ended = recording.checked(&[]);
        match fault {
            None => drop(ended.ok()),
            Some(fault) => assert!(
                !ended.status.success() && ended.stdout.contains(fault),
                "{fault}: {ended:?}"
            ),
        }
    }
}
