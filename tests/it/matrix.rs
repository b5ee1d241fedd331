//! Every client against every server, feature by feature: direct, and through mcpshim.
//!
//! A pair is one test. It runs one script twice, and each feature becomes a cell: it works and the
//! client sees the same after the edits of `docs/formats/edits.md`, or the protocol says why it
//! cannot, for a reason of [`REASONS`] that is checked against what happened. What came out must
//! be what `tests/data/compatibility.json` says, and `docs/compatibility.md` is made from that;
//! `scripts/compatibility` writes both anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::peers::{Listening, client, plain, server, without_the_last_progress};
use crate::support::{Grant, Org, Recording, Running, Server, Tap, program};

/// The clients: as the page and as [`client`] calls them, and the era each opens with.
const CLIENTS: [(&str, &str); 11] = [
    ("TypeScript SDK 1.32", "typescript-v1"),
    ("TypeScript SDK 2.4, auto", "typescript-auto"),
    ("TypeScript SDK 2.4, legacy", "typescript-legacy"),
    ("Python SDK 2.3, auto", "python-auto"),
    ("Python SDK 2.3, legacy", "python-legacy"),
    ("rmcp 3.9, auto", "rmcp-auto"),
    ("rmcp 3.9, legacy", "rmcp-legacy"),
    ("Inspector", "inspector"),
    ("Claude Code, stateless", "claude-code-stateless"),
    ("Claude Code, handshake", "claude-code-handshake"),
    ("Codex", "codex"),
];

/// The servers: as the page calls them, as the tests do, and how they are reached.
const UPSTREAMS: [(&str, &str, &str); 7] = [
    ("server-everything 2026.8", "everything", "stdio, handshake"),
    ("TypeScript SDK 2.4", "typescript", "stdio, both eras"),
    (
        "TypeScript SDK 2.4",
        "typescript-modern",
        "stdio, stateless only",
    ),
    ("Python SDK 2.3", "python", "stdio, both eras"),
    ("rmcp 3.9", "rmcp", "stdio, both eras"),
    ("FastMCP 4.1", "fastmcp", "HTTP, both eras"),
    ("TypeScript SDK 2.4", "stateless", "HTTP, stateless only"),
];

/// The columns, in the order in which they are tried.
const FEATURES: [&str; 16] = [
    "tools",
    "structured output",
    "prompts",
    "resources",
    "templates",
    "completion",
    "progress",
    "cancel",
    "elicitation form",
    "elicitation url",
    "sampling",
    "roots",
    "tasks",
    "logging",
    "subscriptions",
    "list_changed",
];

/// Why a cell may be empty, by the word that stands for it in the data. Rows of other runs have
/// theirs here too.
pub(crate) const REASONS: [(&str, &str); 12] = [
    (
        "by-a-person",
        "Only a person at its window can do it; the run has none.",
    ),
    (
        "no-sampling-client",
        "This client offers no sampling, so no server may ask it for any.",
    ),
    ("not-asked", "This client never asks a server for it."),
    (
        "not-declared",
        "This client does not say that it can do it, so no server may ask it for any.",
    ),
    (
        "no-url-era",
        "Questions that send a person to an address belong to 2025-11-25, and this client speaks an earlier revision.",
    ),
    (
        "unmoved",
        "This client takes no notice of such news: it goes on with the lists it has.",
    ),
    (
        "lists-anew",
        "This client takes no notice of such news: it asks for its lists each time it uses them, and so sees the new ones.",
    ),
    (
        "no-extension-client",
        "This client knows no tasks extension, so no server may give it a task; it gets the answer itself.",
    ),
    (
        "no-extension-era",
        "The tasks extension belongs to 2026-07-28, and this client speaks an earlier revision to mcpshim.",
    ),
    ("no-extension-server", "This server has no tasks extension."),
    (
        "no-subscriptions-server",
        "This server offers no subscriptions to resources.",
    ),
    (
        "old-tasks",
        "This server has the experimental tasks of 2025-11-25, which 2026-07-28 took out of the protocol. mcpshim offers them to nobody, and \
         refuses a tool that needs them with that reason.",
    ),
];

/// What a cell holds that is no reason.
pub(crate) const EQUAL: &str = "equal";
pub(crate) const ONLY_THROUGH: &str = "only-through";
pub(crate) const OPEN: &str = "open";

const TOOLS_CHANGED: &str = "notifications/tools/list_changed";

/// The steps of a feature. `needs` says what shows that it worked; `loose` steps are not compared.
fn steps(feature: &str, upstream: &str, through: bool) -> Vec<Value> {
    // the key of its server stands before its own name
    let logger = match through {
        true => format!("{KEY}/peer"),
        false => "peer".to_owned(),
    };
    let everything = upstream == "everything";
    let accepted = |content: Value| json!({"action": "accept", "content": content});
    let text = match feature {
        "tools" if everything => json!([
            {"do": "list", "what": "tools"},
            {"do": "call", "name": "echo", "arguments": {"message": "Grüße,   世界 😀 \\ \" /"}},
            {"do": "call", "name": "get-annotated-message", "arguments": {"messageType": "error", "includeImage": true}},
            {"do": "call", "name": "get-resource-links", "arguments": {"count": 2}},
            {"do": "call", "name": "get-sum", "arguments": {"a": "not a number", "b": 1}, "needs": "failure"},
            {"do": "call", "name": "no-such-tool", "arguments": {}, "needs": "failure"},
        ]),
        "tools" => json!([
            {"do": "list", "what": "tools"},
            {"do": "call", "name": "echo", "arguments": {"message": "Grüße,   世界 😀 \\ \" /"}},
            {"do": "call", "name": "fail", "arguments": {}, "needs": "failure"},
            {"do": "call", "name": "add", "arguments": {"a": "not a number", "b": 1}, "needs": "failure"},
            {"do": "call", "name": "no-such-tool", "arguments": {}, "needs": "failure"},
        ]),
        "structured output" if everything => json!([
            {"do": "call", "name": "get-structured-content", "arguments": {"location": "New York"}, "needs": "structure"},
        ]),
        "structured output" => json!([
            {"do": "call", "name": "add", "arguments": {"a": 1.5, "b": 12_345_678_901_234_u64}, "needs": "structure"},
        ]),
        "prompts" if everything => json!([
            {"do": "list", "what": "prompts"},
            {"do": "prompt", "name": "args-prompt", "arguments": {"city": "Paris"}},
            {"do": "prompt", "name": "no-such-prompt", "arguments": {}, "needs": "failure"},
        ]),
        "prompts" => json!([
            {"do": "list", "what": "prompts"},
            {"do": "prompt", "name": "greet", "arguments": {"name": "Ada"}},
            {"do": "prompt", "name": "no-such-prompt", "arguments": {}, "needs": "failure"},
        ]),
        "resources" if everything => json!([
            {"do": "list", "what": "resources"},
            {"do": "read", "uri": "demo://resource/static/document/features.md"},
            {"do": "read", "uri": "elsewhere://nothing", "needs": "failure"},
        ]),
        "resources" => json!([
            {"do": "list", "what": "resources"},
            {"do": "read", "uri": "peer://static"},
            {"do": "read", "uri": "elsewhere://nothing", "needs": "failure"},
        ]),
        "templates" if everything => json!([
            {"do": "list", "what": "templates"},
            {"do": "read", "uri": "demo://resource/dynamic/text/1", "volatile": true},
        ]),
        "templates" => json!([
            {"do": "list", "what": "templates"},
            {"do": "read", "uri": "peer://items/12"},
        ]),
        "completion" if everything => json!([
            {"do": "complete", "prompt": "completable-prompt", "argument": {"name": "department", "value": "E"}},
            {"do": "complete", "template": "demo://resource/dynamic/text/{resourceId}", "argument": {"name": "resourceId", "value": "1"}},
        ]),
        "completion" => json!([
            {"do": "complete", "prompt": "greet", "argument": {"name": "name", "value": "A"}},
            {"do": "complete", "template": "peer://items/{id}", "argument": {"name": "id", "value": "1"}},
        ]),
        "progress" if everything => json!([
            {"do": "call", "name": "trigger-long-running-operation", "arguments": {"duration": 1, "steps": 3}, "progress": true, "needs": "progress"},
        ]),
        "progress" => json!([
            {"do": "call", "name": "slow", "arguments": {"steps": 3}, "progress": true, "needs": "progress"},
        ]),
        "cancel" if everything => json!([
            {"do": "cancel", "name": "trigger-long-running-operation", "arguments": {"duration": 20, "steps": 100}, "needs": "cancelled"},
            {"do": "call", "name": "echo", "arguments": {"message": "still here"}},
        ]),
        "cancel" => json!([
            {"do": "cancel", "name": "slow", "arguments": {"steps": 400}, "needs": "cancelled"},
            {"do": "until", "name": "taken-back", "arguments": {}, "text": "1", "needs": "text"},
        ]),
        "elicitation form" if everything => json!([
            {"do": "call", "name": "trigger-elicitation-request", "arguments": {}, "needs": "asked",
                "answers": {"form": accepted(json!({"name": "Ada", "integer": 36}))}},
            {"do": "call", "name": "trigger-elicitation-request", "arguments": {}, "needs": "asked",
                "answers": {"form": {"action": "decline"}}},
        ]),
        "elicitation form" => json!([
            {"do": "call", "name": "ask-name", "arguments": {}, "needs": "asked",
                "answers": {"form": accepted(json!({"name": "Ada", "age": 36}))}},
            {"do": "call", "name": "ask-name", "arguments": {}, "needs": "asked",
                "answers": {"form": {"action": "decline"}}},
            {"do": "call", "name": "ask-name", "arguments": {}, "needs": "asked",
                "answers": {"form": {"action": "cancel"}}},
        ]),
        "elicitation url" if everything => json!([
            {"do": "call", "name": "trigger-url-elicitation", "needs": "asked", "answers": {"url": {"action": "accept"}},
                "arguments": {"url": "https://peer.example/visit?x=1", "message": "Sign in there, please."}},
        ]),
        "elicitation url" => json!([
            {"do": "call", "name": "ask-visit", "arguments": {}, "needs": "asked", "answers": {"url": {"action": "accept"}}},
            {"do": "call", "name": "ask-visit", "arguments": {}, "needs": "asked", "answers": {"url": {"action": "decline"}}},
        ]),
        "sampling" if everything => json!([
            {"do": "call", "name": "trigger-sampling-request", "needs": "asked", "answers": {"sampling": "Lovely."},
                "arguments": {"prompt": "hello", "maxTokens": 10}},
        ]),
        "sampling" => json!([
            {"do": "call", "name": "ask-model", "arguments": {}, "needs": "asked", "answers": {"sampling": "Lovely. 😀"}},
        ]),
        // it asks once, when it likes, and remembers
        "roots" if everything => json!([
            {"do": "call", "name": "get-roots-list", "arguments": {}, "needs": "roots"},
        ]),
        "roots" => json!([
            {"do": "call", "name": "ask-roots", "arguments": {}, "needs": "asked", "answers": {}},
        ]),
        "tasks" if everything => json!([
            {"do": "task", "name": "simulate-research-query", "arguments": {"topic": "tea"}, "needs": "task"},
        ]),
        "tasks" => json!([
            {"do": "task", "name": "work", "arguments": {}, "needs": "task"},
            {"do": "task", "name": "work-asking", "arguments": {}, "needs": "task",
                "answers": {"form": accepted(json!({"name": "Ada"}))}},
        ]),
        // of a random level and kind
        "logging" if everything => json!([
            {"do": "level", "level": "debug"},
            {"do": "call", "name": "toggle-simulated-logging", "arguments": {}},
            {"do": "wait", "for": "notifications/message", "within": 3000, "needs": "came", "masked": true},
            {"do": "call", "name": "toggle-simulated-logging", "arguments": {}},
        ]),
        "logging" => json!([
            {"do": "level", "level": "warning"},
            {"do": "call", "name": "log", "arguments": {}},
            {"do": "wait", "for": "notifications/message", "count": 2, "within": 3000, "where": {"logger": logger}, "needs": "came"},
        ]),
        "subscriptions" if everything => json!([
            {"do": "listen", "uris": ["demo://resource/dynamic/text/1"]},
            {"do": "call", "name": "toggle-subscriber-updates", "arguments": {}},
            {"do": "wait", "for": "notifications/resources/updated", "within": 3000, "needs": "came"},
            {"do": "call", "name": "toggle-subscriber-updates", "arguments": {}},
            {"do": "unlisten"},
        ]),
        "subscriptions" => json!([
            {"do": "listen", "uris": ["peer://static"]},
            {"do": "call", "name": "touch", "arguments": {"uri": "peer://static"}},
            {"do": "wait", "for": "notifications/resources/updated", "within": 3000, "needs": "came"},
            {"do": "unlisten"},
            // clients take it back without waiting for anybody
            {"do": "wait", "for": "notifications/resources/updated", "within": 300, "loose": true},
            {"do": "call", "name": "touch", "arguments": {"uri": "peer://static"}},
            {"do": "wait", "for": "notifications/resources/updated", "within": 300, "needs": "none"},
        ]),
        // the lists of mcpshim are the registry's: there it is what changes
        "list_changed" if through => json!([
            {"do": "wait", "for": TOOLS_CHANGED, "within": 1, "loose": true},
            {"do": "listen", "tools": true},
            {"do": "hook", "name": "publish", "loose": true},
            {"do": "wait", "for": TOOLS_CHANGED, "within": 15_000, "needs": "came"},
            {"do": "unlisten"},
        ]),
        "list_changed" if everything => json!([
            {"do": "listen", "tools": true},
            {"do": "wait", "for": TOOLS_CHANGED, "within": 3000, "needs": "came"},
            {"do": "unlisten"},
        ]),
        "list_changed" => json!([
            {"do": "listen", "tools": true},
            {"do": "call", "name": "grow", "arguments": {"what": "tools"}, "loose": true},
            {"do": "wait", "for": TOOLS_CHANGED, "within": 3000, "needs": "came"},
            {"do": "unlisten"},
        ]),
        other => panic!("no feature {other}"),
    };
    let Value::Array(mut steps) = text else {
        panic!("steps are an array: {text}");
    };
    // kinds of content that the servers of the Python SDKs do not give
    if feature == "tools" && !["everything", "fastmcp", "python"].contains(&upstream) {
        steps.push(json!({"do": "call", "name": "picture", "arguments": {}}));
    }
    steps
}

/// A script: what the client declares, what it met, and the steps of every feature.
fn script(upstream: &str, through: bool) -> Vec<Value> {
    let mut script = vec![
        json!({"do": "declare", "elicitation": ["form", "url"], "sampling": true, "tasks": true,
            "roots": [{"uri": "file:///srv/peer", "name": "peer"}], "timeout": 20_000}),
        json!({"do": "server"}),
    ];
    if upstream == "everything" {
        // it asks for the roots a moment after its start, of whatever call then waits: of this one
        script.push(json!({"do": "call", "name": "trigger-long-running-operation", "arguments": {"duration": 1, "steps": 1}}));
    }
    for feature in FEATURES {
        for mut step in steps(feature, upstream, through) {
            step["feature"] = json!(feature);
            script.push(step);
        }
    }
    script
}

/// Whether a step did what shows that its feature works.
fn worked(step: &Value, out: &Value) -> bool {
    let result = &out["result"];
    let fine = out.get("error").is_none() && result["isError"] != json!(true);
    let asked = || {
        out["asked"]
            .as_array()
            .is_some_and(|asked| !asked.is_empty())
    };
    let came = || result["came"].as_array().map_or(0, Vec::len);
    let text = result["content"][0]["text"].as_str();
    match step["needs"].as_str() {
        None => fine,
        Some("asked") => fine && asked(),
        Some("came") => fine && came() as u64 == step["count"].as_u64().unwrap_or(1),
        Some("cancelled") => result["cancelled"] == json!(true),
        Some("failure") => !fine,
        Some("none") => fine && came() == 0,
        Some("progress") => fine && out["progress"].as_array().is_some_and(|p| p.len() >= 2),
        Some("roots") => fine && text.is_some_and(|text| text.contains("file:///srv/peer")),
        Some("structure") => fine && result["structuredContent"].is_object(),
        Some("task") => {
            let statuses = result["statuses"].as_array();
            fine && statuses.is_some_and(|s| s.last() == Some(&json!("completed")))
        }
        Some("text") => fine && text == step["text"].as_str(),
        Some(other) => panic!("no need {other}"),
    }
}

/// One run of a client: what it printed, a value a step; nothing where it could not connect.
struct Walk {
    lines: Vec<Value>,
    complaint: String,
}

impl Walk {
    /// What a feature's steps and their outputs were.
    fn feature<'a>(
        &'a self,
        script: &'a [Value],
        feature: &str,
    ) -> impl Iterator<Item = (&'a Value, &'a Value)> {
        let steps = script.iter().zip(&self.lines);
        steps.filter(move |(step, _)| step["feature"] == *feature && step["loose"] != json!(true))
    }

    fn works(&self, script: &[Value], feature: &str) -> bool {
        let complete = self.lines.len() == script.len();
        complete
            && self
                .feature(script, feature)
                .all(|(step, out)| worked(step, out))
    }

    fn server(&self) -> &Value {
        self.lines
            .get(1)
            .map_or(&Value::Null, |line| &line["result"])
    }
}

/// How long one run of a script may take.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs a client, and what it asks for in the middle of its script.
fn walk(
    org: &Org,
    mut command: Command,
    script: &[Value],
    arguments: &[String],
    mut hook: impl FnMut(),
) -> Walk {
    let path = org.path().join("script.json");
    std::fs::write(&path, serde_json::to_vec(script).unwrap()).unwrap();
    command
        .arg(&path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = Running::start(&mut command);
    let (stdout, mut stdin) = (process.stdout(), process.stdin());
    let (tell, lines) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            drop(tell.send(line));
        }
    });
    let end = Instant::now() + LIMIT;
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line: Value =
                    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                if line.get("hook").is_some() {
                    hook();
                    writeln!(stdin).unwrap();
                } else {
                    seen.push(line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                process.kill_all();
                break;
            }
        }
    }
    drop(stdin);
    reader.join().unwrap();
    process.ended();
    process.kill_all();
    Walk {
        lines: seen,
        complaint: process.stderr(),
    }
}

/// A step's output as it must be equal: after the documented edits, and without what differs from
/// run to run.
fn canonical(step: &Value, out: &Value, prefix: &str, server: &str) -> Value {
    let mut out = plain(out, step, prefix);
    if let Some(out) = out.as_object_mut() {
        out.remove("step");
    }
    for question in out
        .get_mut("asked")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let of = question["method"].clone();
        let Some(params) = question["params"].as_object_mut() else {
            continue;
        };
        params.remove("_meta");
        params.remove("elicitationId");
        if of == "elicitation/create" {
            params.entry("mode").or_insert(json!("form"));
            if let Some(Value::String(message)) = params.get_mut("message")
                && let Some(own) = message.strip_prefix(&format!("[{server}] "))
            {
                *message = own.to_owned();
            }
        }
    }
    if let Some(came) = out
        .pointer_mut("/result/came")
        .and_then(Value::as_array_mut)
    {
        for params in came {
            if let Some(params) = params.as_object_mut() {
                params.remove("_meta");
                if let Some(Value::String(logger)) = params.get_mut("logger")
                    && let Some(own) = logger.strip_prefix(&format!("{server}/"))
                {
                    *logger = own.to_owned();
                }
                if step["masked"] == json!(true) {
                    params.clear();
                }
            }
        }
    }
    // a task's states are seen as often as it is looked at
    if let Some(result) = out.get_mut("result").and_then(Value::as_object_mut) {
        result.remove("statuses");
        if let Some(inner) = result.get_mut("result").and_then(Value::as_object_mut) {
            inner.remove("resultType");
            inner.remove("_meta");
        }
    }
    // an answer that a server quotes comes in the order of keys that its SDK read it in
    if step["needs"] == json!("asked") {
        let content = out
            .pointer_mut("/result/content")
            .and_then(Value::as_array_mut);
        for block in content.into_iter().flatten() {
            let quoted = block["text"].as_str().map(serde_json::from_str::<Value>);
            if let Some(Ok(quoted)) = quoted {
                block["text"] = quoted;
            }
        }
    }
    without_ids(&mut out);
    out
}

/// Replaces UUIDs, which are new in each run.
pub(crate) fn without_ids(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(without_ids),
        Value::Object(members) => members.values_mut().for_each(without_ids),
        Value::String(text) => {
            let id = |text: &str| {
                text.len() >= 36
                    && text
                        .bytes()
                        .take(36)
                        .enumerate()
                        .all(|(at, byte)| match at {
                            8 | 13 | 18 | 23 => byte == b'-',
                            _ => byte.is_ascii_hexdigit(),
                        })
            };
            while let Some(at) = (0..text.len()).find(|&at| text.get(at..).is_some_and(id)) {
                text.replace_range(at..at + 36, "…");
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Where the client of the same SDK speaks the era of a server that this one does not share.
fn of_the_other_era(client: &str) -> Option<&'static str> {
    match client {
        "python-legacy" => Some("python-auto"),
        "rmcp-legacy" => Some("rmcp-auto"),
        "typescript-legacy" | "typescript-v1" => Some("typescript-auto"),
        _ => None,
    }
}

/// How a server is reached: a command, or an address that something of ours listens at.
pub(crate) struct Reached {
    pub(crate) entry: Server,
    pub(crate) arguments: Vec<String>,
    _listening: Option<(Listening, Option<Tap>)>,
}

/// The key of every server here, and so the prefix of its names.
pub(crate) const KEY: &str = "peer";

/// Makes a server ready; what its entry leads to is recorded, where it shall be.
pub(crate) fn reach(org: &Org, upstream: &str, recording: Option<&Recording>) -> Reached {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let listening = match upstream {
        "fastmcp" | "stateless" => {
            let listening = Listening::start(org, upstream);
            let tap = recording.map(|recording| listening.tapped(recording, KEY));
            Some((listening, tap))
        }
        _ => None,
    };
    let (entry, arguments) = if let Some((listening, tap)) = &listening {
        let url = tap.as_ref().map_or_else(|| listening.url(), Tap::url);
        (Server::http(KEY, &url), vec![listening.url()])
    } else {
        let (command, args) = match upstream {
            "typescript-modern" => {
                let (command, mut args) = server("typescript", org.path());
                args.push("modern".to_owned());
                (command, args)
            }
            name => server(name, org.path()),
        };
        let arguments = [text(&command)].into_iter().chain(args.clone()).collect();
        let (command, args) = match recording {
            Some(recording) => recording.upstream(KEY, &command, &args),
            None => (command, args),
        };
        (Server::new(KEY, &command).args(&args), arguments)
    };
    Reached {
        entry: entry.with("elicitation: true\nroots: true"),
        arguments,
        _listening: listening,
    }
}

fn direct(org: &Org, name: &str, upstream: &str) -> Walk {
    let reached = reach(org, upstream, None);
    let mut command = client(name);
    org.environment(&mut command);
    let mut arguments = vec![String::new(), "--".to_owned()];
    arguments.extend(reached.arguments.clone());
    walk(org, command, &script(upstream, false), &arguments, || {})
}

fn through(org: &Org, name: &str, upstream: &str) -> (Walk, Recording) {
    let recording = Recording::new(org);
    let reached = reach(org, upstream, Some(&recording));
    org.server(&reached.entry.clone().with("sampling: true"));
    org.agent("ci");
    org.role("tester", &["ci"], &[(KEY, Grant::ALL)]);
    org.publish();
    let mut command = client(name);
    org.environment_as(&mut command, "ci");
    let (shim, words) = recording.client(program("mcpshim"), &["serve".to_owned()]);
    let mut arguments = vec![
        format!("{KEY}_"),
        "--".to_owned(),
        shim.to_str().unwrap().to_owned(),
    ];
    arguments.extend(words);
    let walk = walk(org, command, &script(upstream, true), &arguments, || {
        org.role("tester", &["ci"], &[(KEY, Grant::tools(&["echo"]))]);
        org.republish();
        org.mcpshim("ci", ["registry", "refresh"]).ok();
    });
    (walk, recording)
}

/// Why the protocol leaves this cell empty, where it does.
fn reason(
    feature: &str,
    client: &str,
    direct: &Walk,
    through: &Walk,
    script: &[Value],
) -> Option<&'static str> {
    let offered = &direct.server()["capabilities"];
    let protocol = through.server()["protocol"].as_str().unwrap_or_default();
    match feature {
        "tasks" => {
            let extension = "/extensions/io.modelcontextprotocol~1tasks";
            let mut outs = through.feature(script, feature).map(|(_, out)| out);
            if offered.get("tasks").is_some() {
                let kept = through.server()["capabilities"].get("tasks").is_none();
                return kept.then_some("old-tasks");
            }
            if offered.pointer(extension).is_none() {
                return Some("no-extension-server");
            }
            let says_so = |out: &Value| {
                let message = out["error"]["message"].as_str();
                message.is_some_and(|message| message.contains("knows no tasks extension"))
            };
            if !client.starts_with("rmcp") {
                return outs.all(says_so).then_some("no-extension-client");
            }
            let answered = |out: &Value| out["result"]["statuses"] == json!([]);
            (*protocol < *"2026-07-28" && outs.all(answered)).then_some("no-extension-era")
        }
        "subscriptions" => {
            (offered["resources"]["subscribe"] != json!(true)).then_some("no-subscriptions-server")
        }
        _ => None,
    }
}

/// Runs a pair, and holds it to what is written of it.
fn pair(name: &str, upstream: &str) {
    let org = Org::new();
    let mut measure = direct(&org, name, upstream);
    let mut shared = true;
    if measure.lines.is_empty() {
        shared = false;
        let other = of_the_other_era(name)
            .unwrap_or_else(|| panic!("{name} cannot reach {upstream}: {}", measure.complaint));
        measure = direct(&org, other, upstream);
    }
    let (through, recording) = through(&org, name, upstream);
    let (direct_script, through_script) = (script(upstream, false), script(upstream, true));
    let prefix = format!("{KEY}_");
    let mut cells = BTreeMap::new();
    let mut failed = String::new();
    for feature in FEATURES {
        let works = through.works(&through_script, feature);
        let seen = through
            .feature(&through_script, feature)
            .map(|(step, out)| {
                let all = canonical(step, out, &prefix, KEY);
                (step, all)
            });
        let seen: Vec<(&Value, Value)> = seen.collect();
        let measured = measure.works(&direct_script, feature);
        let mut differ = String::new();
        if works && measured {
            let expected = measure.feature(&direct_script, feature);
            for ((step, out), (_, seen)) in expected.zip(&seen) {
                let (mut expected, mut seen) = (canonical(step, out, "", KEY), seen.clone());
                without_the_last_progress(&mut expected, &mut seen);
                if expected != seen {
                    writeln!(
                        differ,
                        "  {step}\n    direct:  {expected}\n    through: {seen}"
                    )
                    .unwrap();
                }
            }
        }
        let cell = if works && differ.is_empty() {
            if shared && measured {
                EQUAL
            } else {
                ONLY_THROUGH
            }
        } else if let Some(reason) = reason(feature, name, &measure, &through, &through_script) {
            reason
        } else {
            writeln!(failed, "{feature}:").unwrap();
            failed.push_str(&differ);
            if !works {
                for (step, out) in through_script.iter().zip(&through.lines) {
                    if step["feature"] == *feature && !worked(step, out) {
                        writeln!(failed, "  {step}\n    through: {out}").unwrap();
                    }
                }
            }
            OPEN
        };
        cells.insert(feature.to_owned(), cell.to_owned());
    }
    if through.lines.len() != through_script.len() {
        writeln!(
            failed,
            "the client ended after {} of {} steps: {}",
            through.lines.len(),
            through_script.len(),
            through.complaint
        )
        .unwrap();
    }
    seen(name, upstream, cells, &failed);
    recording.validate_calls(&[]);
}

/// What the runs saw, as it is kept.
#[derive(Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
struct Row {
    client: String,
    upstream: String,
    /// By feature: what stands for [`EQUAL`] and the like, or the key of a reason.
    cells: BTreeMap<String, String>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compatibility.json")
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md")
}

/// Where runs leave what they saw when `scripts/compatibility` asks for it.
fn fresh() -> Option<PathBuf> {
    std::env::var_os("MCPSHIM_COMPATIBILITY").map(PathBuf::from)
}

fn rows() -> Vec<Row> {
    let text = std::fs::read(data()).unwrap_or_else(|_| b"[]".to_vec());
    serde_json::from_slice(&text).unwrap()
}

/// Holds what a run saw of a pair to what is written of it, or leaves it for the page. Tests of
/// other clients call it too, with the features they have tried.
pub(crate) fn seen(client: &str, upstream: &str, cells: BTreeMap<String, String>, failed: &str) {
    let row = Row {
        client: client.to_owned(),
        upstream: upstream.to_owned(),
        cells,
    };
    if let Some(dir) = fresh() {
        std::fs::create_dir_all(&dir).unwrap();
        let text = serde_json::to_vec_pretty(&row).unwrap();
        std::fs::write(dir.join(format!("{client}.{upstream}.json")), text).unwrap();
        std::fs::write(dir.join(format!("{client}.{upstream}.failed")), failed).unwrap();
        return;
    }
    let written = rows()
        .into_iter()
        .find(|other| other.client == client && other.upstream == upstream);
    let written = written.unwrap_or_default().cells;
    for (feature, cell) in &row.cells {
        let before = written.get(feature).map_or("nothing", String::as_str);
        assert!(
            before == cell && cell != OPEN,
            "{client} × {upstream}, {feature}: {cell}, and written is {before}\n{failed}\n\
             if that is right, run scripts/compatibility"
        );
    }
}

/// The page, made from the rows.
fn rendered(rows: &[Row]) -> String {
    let mut page = String::from(include_str!("../data/compatibility-head.txt"));
    let used: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| row.cells.values().map(String::as_str))
        .collect();
    let marks: Vec<&str> = REASONS
        .iter()
        .map(|(key, _)| *key)
        .filter(|key| used.contains(key))
        .collect();
    let letter = |key: &str| {
        marks
            .iter()
            .position(|mark| *mark == key)
            .map(|at| char::from(b'a' + u8::try_from(at).unwrap()))
    };
    for (title, client) in CLIENTS {
        let of_client: Vec<&Row> = rows.iter().filter(|row| row.client == client).collect();
        if of_client.is_empty() {
            continue;
        }
        write!(page, "\n## {title}\n\n| server |").unwrap();
        for feature in FEATURES {
            write!(page, " {feature} |").unwrap();
        }
        page.push_str("\n|---|");
        page.push_str(&"---|".repeat(FEATURES.len()));
        page.push('\n');
        for (upstream_title, upstream, how) in UPSTREAMS {
            let Some(row) = of_client.iter().find(|row| row.upstream == upstream) else {
                continue;
            };
            write!(page, "| {upstream_title}, {how} |").unwrap();
            for feature in FEATURES {
                let cell = match row.cells.get(feature).map(String::as_str) {
                    None => "not tried".to_owned(),
                    Some(EQUAL) => "✓".to_owned(),
                    Some(ONLY_THROUGH) => "✓¹".to_owned(),
                    Some(OPEN) => "✗".to_owned(),
                    Some(key) => {
                        let letter = letter(key).unwrap_or_else(|| panic!("no reason {key}"));
                        format!("– {letter}")
                    }
                };
                write!(page, " {cell} |").unwrap();
            }
            page.push('\n');
        }
    }
    page.push_str("\n## Reasons\n\n| | |\n|---|---|\n");
    for (key, sentence) in REASONS {
        if let Some(letter) = letter(key) {
            writeln!(page, "| {letter} | {sentence} |").unwrap();
        }
    }
    if used.contains(OPEN) {
        page.push_str("| ✗ | It should work and does not: a bug of mcpshim. |\n");
    }
    page.push_str(&crate::conformance::page());
    page
}

/// The page is what the runs saw; with `MCPSHIM_COMPATIBILITY` it is made from what they left.
#[test]
fn the_page_is_made_from_what_was_seen() {
    let mut rows = rows();
    if let Some(dir) = fresh() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let row: Row = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                rows.retain(|other| {
                    (&other.client, &other.upstream) != (&row.client, &row.upstream)
                });
                rows.push(row);
            }
        }
        let place = |row: &Row| {
            let client = CLIENTS.iter().position(|(_, name)| *name == row.client);
            let upstream = UPSTREAMS
                .iter()
                .position(|(_, name, _)| *name == row.upstream);
            (client, upstream)
        };
        rows.sort_by_key(place);
        let mut text = serde_json::to_string_pretty(&rows).unwrap();
        text.push('\n');
        std::fs::write(data(), text).unwrap();
        std::fs::write(page(), rendered(&rows)).unwrap();
    }
    for row in &rows {
        assert!(
            CLIENTS.iter().any(|(_, name)| *name == row.client),
            "no client {}",
            row.client
        );
        assert!(
            UPSTREAMS.iter().any(|(_, name, _)| *name == row.upstream),
            "no server {}",
            row.upstream
        );
        for (feature, cell) in &row.cells {
            assert!(FEATURES.contains(&feature.as_str()), "no feature {feature}");
            let known = [EQUAL, ONLY_THROUGH, OPEN].contains(&cell.as_str());
            assert!(
                known || REASONS.iter().any(|(key, _)| key == cell),
                "no reason {cell}"
            );
        }
    }
    let written = std::fs::read_to_string(page()).unwrap();
    assert_eq!(written, rendered(&rows), "run scripts/compatibility");
}

/// A cell that is full because it compares nothing, or empty for any reason, would be worse than
/// none.
#[test]
fn differences_and_idle_reasons_are_seen() {
    let step = json!({"do": "call", "name": "ask-name", "feature": "tasks", "needs": "asked"});
    let out = |message: &str, text: &str| {
        json!({"step": 1, "do": "call", "result": {"content": [{"type": "text", "text": text}]},
            "asked": [{"method": "elicitation/create", "params": {"message": message}}]})
    };
    let of = |out: &Value| canonical(&step, out, "", KEY);
    assert!(worked(&step, &out("Who?", "{}")));
    assert_eq!(of(&out("Who?", "{}")), of(&out("[peer] Who?", "{}")));
    assert_ne!(of(&out("Who?", "{}")), of(&out("Whom?", "{}")));
    assert_ne!(of(&out("Who?", "{}")), of(&out("Who?", "[]")));
    assert!(!worked(
        &step,
        &json!({"result": {"content": []}, "asked": []})
    ));
    assert!(!worked(&step, &json!({"error": {"code": 1}, "asked": [1]})));

    let walk = |offered: Value, out: &Value| Walk {
        lines: vec![
            json!({}),
            json!({"result": {"protocol": "2026-07-28", "capabilities": offered}}),
            out.clone(),
        ],
        complaint: String::new(),
    };
    let script = [json!({}), json!({}), step.clone()];
    let extension = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    let failed = json!({"error": {"code": -32603, "message": "broken"}});
    let why = |client: &str, offered: &Value, out: &Value| {
        let (direct, through) = (walk(offered.clone(), out), walk(json!({}), out));
        reason("tasks", client, &direct, &through, &script)
    };
    // a server with tasks, a client with tasks, an era with tasks: then a failure is a failure
    assert_eq!(why("rmcp-auto", &extension, &failed), None);
    assert_eq!(why("python-auto", &extension, &failed), None);
    assert_eq!(
        why("python-auto", &json!({}), &failed),
        Some("no-extension-server")
    );
    let unknown = json!({"error": {"message": "this SDK knows no tasks extension"}});
    assert_eq!(
        why("python-auto", &extension, &unknown),
        Some("no-extension-client")
    );
    let direct = walk(json!({"resources": {"subscribe": true}}), &failed);
    assert_eq!(
        reason("subscriptions", "python-auto", &direct, &direct, &script),
        None
    );
    assert_eq!(
        reason("prompts", "python-auto", &direct, &direct, &script),
        None
    );
}

macro_rules! pairs {
    ($($client:ident: $name:literal;)*) => {
        $(mod $client {
            #[test]
            fn everything() {
                super::pair($name, "everything");
            }
            #[test]
            fn typescript() {
                super::pair($name, "typescript");
            }
            #[test]
            fn typescript_modern() {
                super::pair($name, "typescript-modern");
            }
            #[test]
            fn python() {
                super::pair($name, "python");
            }
            #[test]
            fn rmcp() {
                super::pair($name, "rmcp");
            }
            #[test]
            fn fastmcp() {
                super::pair($name, "fastmcp");
            }
            #[test]
            fn stateless() {
                super::pair($name, "stateless");
            }
        })*
    };
}

pairs! {
    python_auto: "python-auto";
    python_legacy: "python-legacy";
    rmcp_auto: "rmcp-auto";
    rmcp_legacy: "rmcp-legacy";
    typescript_auto: "typescript-auto";
    typescript_legacy: "typescript-legacy";
    typescript_v1: "typescript-v1";
}
