//! The Inspector by its command line: a daemon holds the connection, and each command is a
//! process that asks something of it. A question comes back as the answer of its command, and is
//! answered by the next one.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Run, Seen, Way, fine, moves, resource};
use crate::clients::package;
use crate::support::{Ended, Running, run};

/// Where npm put it.
pub(super) const SCRIPT: &str = "@modelcontextprotocol/inspector/clients/mcpdo/build/mcp-bin.js";

/// How long news may take.
const NEWS: Duration = Duration::from_secs(10);

struct Inspector<'w> {
    way: &'w Way<'w>,
    script: PathBuf,
    /// Where its daemon listens.
    dir: PathBuf,
}

impl<'w> Inspector<'w> {
    /// Connects as people do, or in the other era where the server does not speak that one; says
    /// whether it was the first.
    fn connect(way: &'w Way<'w>, script: PathBuf) -> Option<(Self, bool)> {
        let this = Self {
            way,
            script,
            dir: way.org.path().join("daemon"),
        };
        let mut entry = match &way.target[..] {
            [url] => json!({"type": "streamable-http", "url": url}),
            [command, args @ ..] => json!({"command": command, "args": args}),
            [] => Value::Null,
        };
        if way.target.len() > 1 {
            let variables = way.variables().into_iter();
            let variables: serde_json::Map<String, Value> = variables
                .map(|(name, path)| (name.to_owned(), json!(path.to_str().unwrap())))
                .collect();
            entry["env"] = json!(variables);
        }
        let file = way.org.path().join("inspector.json");
        let servers = json!({"mcpServers": {"peer": entry}});
        std::fs::write(&file, servers.to_string()).unwrap();
        let connect = ["--config", file.to_str().unwrap(), "connect", "peer"];
        let try_by = |era: &str| {
            let words = [&connect[..], &["--connect-timeout", "60000", "--era", era]].concat();
            run(this.command().args(words)).status.success()
        };
        if try_by("legacy") {
            return Some((this, true));
        }
        (!way.through && try_by("modern")).then_some((this, false))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("node");
        self.way.org.environment_as(&mut command, "ci");
        command
            .env("MCP_INSPECTOR_DAEMON_DIR", &self.dir)
            .env("MCP_INSPECTOR_DAEMON_TOKEN", "of-the-tests")
            .env("MCP_INSPECTOR_SECRET_STORE", "memory")
            .arg(&self.script)
            .args(["--format", "json"]);
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        run(self.command().args(["--connection", "peer"]).args(words))
    }

    /// What a command printed; nothing where it failed.
    fn say(&self, words: &[&str]) -> Option<Value> {
        serde_json::from_str(&self.run(words).stdout).ok()
    }

    /// Calls a tool.
    fn call(&self, tool: &str, arguments: &Value) -> Option<Value> {
        let tool = self.way.name(tool);
        self.say(&["tools/call", &tool, &arguments.to_string()])
    }

    /// Calls a tool that asks, and answers it.
    fn asked(&self, tool: &str, arguments: &Value, answer: &str) -> Option<Value> {
        let asked = self.call(tool, arguments)?;
        let asked = asked["elicitationPending"].clone();
        let id = asked["elicitationId"].as_str()?;
        let answered = self.say(&["elicitation/respond", id, answer])?;
        // how it was asked is the era's
        let question = ["mode", "message", "requestedSchema", "url"].map(|key| &asked[key]);
        Some(json!([question, answered]))
    }

    /// Starts a command that prints until it is ended.
    fn follow(&self, words: &[&str]) -> Following {
        let mut command = self.command();
        command.args(["--connection", "peer"]).args(words);
        let mut process = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut stdout = process.stdout();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&printed);
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut some) {
                all.lock().unwrap().extend_from_slice(&some[..read]);
            }
        });
        Following { process, printed }
    }
}

impl Drop for Inspector<'_> {
    fn drop(&mut self) {
        run(self.command().args(["daemon", "stop"]));
    }
}

/// A command that still prints.
struct Following {
    process: Running,
    printed: Arc<Mutex<Vec<u8>>>,
}

impl Following {
    /// What it printed so far, as far as it is whole.
    fn values(&self) -> Vec<Value> {
        let printed = self.printed.lock().unwrap().clone();
        let values = serde_json::Deserializer::from_slice(&printed).into_iter();
        values.map_while(Result::ok).collect()
    }

    /// Waits until it has printed what makes a value of this.
    fn until<T>(&self, find: impl Fn(&[Value]) -> Option<T>, limit: Duration) -> Option<T> {
        let end = Instant::now() + limit;
        loop {
            let found = find(&self.values());
            if found.is_some() || Instant::now() >= end {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a person does.
    fn interrupt(mut self) {
        self.process.signal(Signal::INT);
        self.process.ended();
    }
}

fn prints(values: &[Value], kind: &str) -> Option<()> {
    let mut values = values.iter();
    values.any(|value| value["type"] == *kind).then_some(())
}

/// Leads it through what it has commands for.
pub(super) fn lead(way: &Way<'_>) -> Run {
    let Some((inspector, shared)) =
        package(SCRIPT).and_then(|script| Inspector::connect(way, script))
    else {
        return Run::default();
    };
    let e = way.everything();
    // before the first call: a server that asks for them by itself does so of that one
    let roots = r#"[{"uri":"file:///srv/peer","name":"peer"}]"#;
    inspector.say(&["roots/set", "--roots-json", roots]);
    if e {
        let quick = json!({"duration": 1, "steps": 1});
        inspector.call("trigger-long-running-operation", &quick);
    }
    if way.through {
        interrupted(&inspector);
    }
    let mut seen = Seen::new();
    answers(&inspector, &mut seen);
    questions(&inspector, &mut seen);
    seen.insert("logging", logging(&inspector));
    seen.insert("subscriptions", subscriptions(&inspector));
    let mut reasons = vec![
        ("progress", super::NOT_ASKED),
        ("cancel", super::NOT_ASKED),
        ("sampling", super::NO_SAMPLING),
    ];
    // what only servers of other clients have, or nobody has any more
    seen.insert("tasks", None);
    seen.insert("list_changed", None);
    if way.through && unmoved(&inspector) {
        reasons.push(("list_changed", super::LISTS_ANEW));
    }
    let server = inspector.say(&["connections/show", "peer"]);
    Run {
        seen,
        reasons,
        server: server.unwrap_or_default(),
        apart: !shared,
    }
}

/// A command that is interrupted ends; its call goes on, and nobody is told.
fn interrupted(inspector: &Inspector<'_>) {
    let way = inspector.way;
    let (slow, input) = match way.everything() {
        true => (
            "trigger-long-running-operation",
            json!({"duration": 2, "steps": 2}),
        ),
        false => ("slow", json!({"steps": 40})),
    };
    let calls = || way.said("tools/call").len();
    let before = calls();
    let command = inspector.follow(&["tools/call", &way.name(slow), &input.to_string()]);
    let end = Instant::now() + NEWS;
    while calls() == before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    command.interrupt();
}

/// What it asks and is answered.
fn answers(inspector: &Inspector<'_>, seen: &mut Seen) {
    let way = inspector.way;
    let e = way.everything();
    let all = |values: Vec<Option<Value>>| -> Option<Value> {
        let values: Option<Vec<Value>> = values.into_iter().collect();
        values.map(Value::Array)
    };
    let well = |value: Option<Value>| value.filter(fine);
    let mut tools = vec![
        inspector.say(&["tools/list"]),
        well(inspector.call("echo", &json!({"message": "Grüße, \u{2028} 😀 \\ \" /"}))),
    ];
    if !e {
        tools.push(
            inspector
                .call("fail", &json!({}))
                .filter(|failed| !fine(failed)),
        );
    }
    seen.insert("tools", all(tools));
    let structured = match e {
        true => inspector.call("get-structured-content", &json!({"location": "New York"})),
        false => inspector.call("add", &json!({"a": 1.5, "b": 2})),
    };
    let structured = structured.filter(|result| result["structuredContent"].is_object());
    seen.insert("structured output", structured);
    let (prompt, argument) = match e {
        true => ("args-prompt", "city=Paris"),
        false => ("greet", "name=Ada"),
    };
    let prompt = way.name(prompt);
    let got = inspector.say(&["prompts/get", &prompt, "--prompt-args", argument]);
    let listed = inspector.say(&["prompts/list"]);
    seen.insert("prompts", all(vec![listed, got]));
    let read = inspector.say(&["resources/read", resource(way)]);
    let listed = inspector.say(&["resources/list"]);
    seen.insert("resources", all(vec![listed, read]));
    let listed = inspector.say(&["resources/templates/list"]);
    let one = if e {
        "demo://resource/dynamic/text/1"
    } else {
        "peer://items/12"
    };
    // this one says the time
    let read = inspector.say(&["resources/read", one]);
    let read = read.map(|read| if e { json!("read") } else { read });
    seen.insert("templates", all(vec![listed, read]));
    let complete = |kind: &str, of: &str, name: &str, value: &str| {
        let words = [
            "prompts/complete",
            "--complete-ref-type",
            kind,
            "--complete-ref",
            of,
        ];
        let argument = ["--complete-arg-name", name, "--complete-arg-value", value];
        inspector.say(&[&words[..], &argument].concat())
    };
    let both = match e {
        true => [
            complete(
                "ref/prompt",
                &way.name("completable-prompt"),
                "department",
                "E",
            ),
            complete(
                "ref/resource",
                "demo://resource/dynamic/text/{resourceId}",
                "resourceId",
                "1",
            ),
        ],
        false => [
            complete("ref/prompt", &way.name("greet"), "name", "A"),
            complete("ref/resource", "peer://items/{id}", "id", "1"),
        ],
    };
    seen.insert("completion", all(both.into()));
}

/// What it is asked.
fn questions(inspector: &Inspector<'_>, seen: &mut Seen) {
    let e = inspector.way.everything();
    let (form, content) = match e {
        true => (
            "trigger-elicitation-request",
            r#"{"name":"Ada","integer":36}"#,
        ),
        false => ("ask-name", r#"{"name":"Ada","age":36}"#),
    };
    let answered = inspector.asked(form, &json!({}), content);
    seen.insert("elicitation form", answered);
    let (visit, input) = match e {
        true => (
            "trigger-url-elicitation",
            json!({"url": "https://peer.example/visit?x=1", "message": "Sign in there, please."}),
        ),
        false => ("ask-visit", json!({})),
    };
    let visited = inspector.asked(visit, &input, "--done");
    seen.insert("elicitation url", visited);
    let roots = inspector.call(if e { "get-roots-list" } else { "ask-roots" }, &json!({}));
    let told = roots.filter(|roots| fine(roots) && roots.to_string().contains("file:///srv/peer"));
    seen.insert("roots", told);
}

/// Messages of the level it asked for, in a window beside the calls.
fn logging(inspector: &Inspector<'_>) -> Option<Value> {
    let e = inspector.way.everything();
    let window = inspector.follow(&["logging/tail"]);
    let level = if e { "debug" } else { "warning" };
    inspector.say(&["logging/setLevel", level])?;
    let (log, came) = if e {
        ("toggle-simulated-logging", 1)
    } else {
        ("log", 2)
    };
    let find = |values: &[Value]| {
        let messages = values.iter().map(|value| &value["message"]);
        let messages = messages.filter(|message| message["method"] == "notifications/message");
        let messages = messages.map(|message| &message["params"]);
        // through mcpshim the key of the server, which is the same word, stands before it
        let messages = messages.cloned().map(|mut params| {
            if params["logger"] == "peer/peer" {
                params["logger"] = json!("peer");
            }
            params
        });
        let ours = messages.filter(|params| e || params["logger"] == "peer");
        let ours: Vec<Value> = ours.take(came).collect();
        (ours.len() == came).then_some(ours)
    };
    let mut told = None;
    // nothing says when the window is open; what was said before is not in it
    for _ in 0..5 {
        inspector.call(log, &json!({}))?;
        told = window.until(find, if e { NEWS } else { Duration::from_secs(2) });
        if told.is_some() {
            break;
        }
    }
    if e {
        inspector.call(log, &json!({}));
    }
    window.interrupt();
    // of a random level and kind there
    told.map(|told| if e { json!("told") } else { json!(told) })
}

fn subscriptions(inspector: &Inspector<'_>) -> Option<Value> {
    let e = inspector.way.everything();
    let uri = if e {
        "demo://resource/dynamic/text/1"
    } else {
        "peer://static"
    };
    let window = inspector.follow(&["resources/subscribe", uri]);
    let mut told = window.until(|values| prints(values, "subscribed"), NEWS);
    if told.is_some() {
        let (touch, input) = match e {
            true => ("toggle-subscriber-updates", json!({})),
            false => ("touch", json!({"uri": uri})),
        };
        inspector.call(touch, &input)?;
        told = window.until(|values| prints(values, "resources/updated"), NEWS);
        if e {
            inspector.call(touch, &input);
        }
    }
    window.interrupt();
    told.map(|()| json!([uri, "told"]))
}

/// Whether news of the lists make it ask for nothing, and the next command sees them all the same.
fn unmoved(inspector: &Inspector<'_>) -> bool {
    let still = moves(inspector.way) == Some(false);
    let listed = inspector.say(&["tools/list"]).unwrap_or_default();
    let tools = listed["tools"].as_array().into_iter().flatten();
    let names: BTreeSet<&str> = tools.filter_map(|tool| tool["name"].as_str()).collect();
    still && names == ["mcpshim_status", "peer_echo"].into()
}
