//! Programs of developers, as they are shipped: Claude Code, Codex and the Inspector work through
//! mcpshim. The first two are led by a model on loopback that says what the test tells it to.
//!
//! `scripts/peers clients` installs them; without them each test says loudly that it did not run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kill::calls;
use crate::support::{Ended, Grant, Org, Running, Server, Shim, program, run, skipped, wait_for};

/// Longest conversation: a client that hangs must not hang the tests.
const CONVERSATION: Duration = Duration::from_secs(100);

/// Where `scripts/peers clients` installed a package; `None`, said loudly, where it did not.
pub(crate) fn package(path: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let found = target.join("peers/clients/node_modules").join(path);
    if found.exists() {
        return Some(found);
    }
    skipped(&format!("{path} is not installed (scripts/peers clients)"));
    None
}

/// What the model says next.
pub(crate) enum Turn {
    Call { name: String, input: Value },
    Done,
}

pub(crate) fn call(name: &str, input: Value) -> Turn {
    Turn::Call {
        name: name.to_owned(),
        input,
    }
}

/// One request for the model's next words.
struct Asked {
    body: Value,
    reply: Sender<Turn>,
}

/// A model on loopback: the test thread answers for it.
pub(crate) struct Model {
    pub(crate) address: SocketAddr,
    asked: Receiver<Asked>,
    stop: Arc<AtomicBool>,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // wakes the listener
        drop(TcpStream::connect(self.address));
    }
}

/// How a model writes an answer: the events of one stream.
pub(crate) type Wire = fn(turn: &Turn, number: usize) -> String;

impl Model {
    pub(crate) fn start(wire: Wire) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (to_test, asked) = channel();
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let numbers = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (to_test, numbers) = (to_test.clone(), Arc::clone(&numbers));
                std::thread::spawn(move || serve(&stream, &to_test, wire, &numbers));
            }
        });
        Self {
            address,
            asked,
            stop,
        }
    }

    /// Answers for the model until the client ends; gives what it printed.
    #[track_caller]
    pub(crate) fn lead(
        &self,
        command: &mut Command,
        dir: &Path,
        say: &mut dyn FnMut(&Value) -> Turn,
    ) -> String {
        let output = dir.join("output");
        command
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap());
        let mut client = Running::start(command);
        let end = Instant::now() + CONVERSATION;
        let status = loop {
            if let Ok(asked) = self.asked.recv_timeout(Duration::from_millis(20)) {
                // a client that is gone does not read it
                drop(asked.reply.send(say(&asked.body)));
            }
            if let Some(status) = client.try_ended() {
                break status;
            }
            assert!(Instant::now() < end, "the client does not end");
        };
        let printed = fs::read_to_string(&output).unwrap();
        assert!(status.success(), "{status}: {printed}\n{}", client.stderr());
        printed
    }
}

/// Serves one connection; ends with it.
fn serve(
    stream: &TcpStream,
    to_test: &Sender<Asked>,
    wire: Wire,
    numbers: &std::sync::atomic::AtomicUsize,
) -> Option<()> {
    stream.set_read_timeout(Some(CONVERSATION)).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let length = head.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let length = name.eq_ignore_ascii_case("content-length");
            length.then(|| value.trim().parse::<usize>().ok())?
        });
        let mut body = vec![0; length.unwrap_or_default()];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let line = head.first()?;
        // a title or a count is asked without tools: nothing of ours
        let tools = body["tools"]
            .as_array()
            .is_some_and(|tools| !tools.is_empty());
        let (kind, text) = if line.contains("count_tokens") {
            ("application/json", json!({"input_tokens": 1}).to_string())
        } else if line.starts_with("POST") {
            let turn = match tools {
                true => {
                    let (reply, said) = channel();
                    to_test.send(Asked { body, reply }).ok()?;
                    said.recv().ok()?
                }
                false => Turn::Done,
            };
            let number = numbers.fetch_add(1, Ordering::SeqCst);
            ("text/event-stream", wire(&turn, number))
        } else {
            (
                "application/json",
                json!({"data": [], "models": []}).to_string(),
            )
        };
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .ok()?;
    }
}

fn events(events: &[Value]) -> String {
    let event = |event: &Value| {
        let kind = event["type"].as_str().unwrap();
        format!("event: {kind}\ndata: {event}\n\n")
    };
    events.iter().map(event).collect()
}

/// The stream of Anthropic's Messages API.
pub(crate) fn messages(turn: &Turn, number: usize) -> String {
    let (block, delta, stop) = match turn {
        Turn::Call { name, input } => (
            json!({"type": "tool_use", "id": format!("toolu_{number}"), "name": name, "input": {}}),
            json!({"type": "input_json_delta", "partial_json": input.to_string()}),
            "tool_use",
        ),
        Turn::Done => (
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": "all done"}),
            "end_turn",
        ),
    };
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    events(&[
        json!({"type": "message_start", "message": {"id": format!("msg_{number}"), "type": "message",
            "role": "assistant", "model": "scripted", "content": [], "stop_reason": null,
            "stop_sequence": null, "usage": usage}}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": {"output_tokens": 1}}),
        json!({"type": "message_stop"}),
    ])
}

/// The stream of the Responses API that Codex speaks.
pub(crate) fn responses(turn: &Turn, number: usize) -> String {
    let item = match turn {
        Turn::Call { name, input } => json!({"type": "function_call", "id": format!("fc_{number}"),
            "call_id": format!("call_{number}"), "name": name,
            // its own have none
            "namespace": (!name.contains("mcp_resource")).then_some("mcp__mcpshim"),
            "arguments": input.to_string(), "status": "completed"}),
        Turn::Done => json!({"type": "message", "id": format!("msg_{number}"), "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "all done", "annotations": []}]}),
    };
    let usage = json!({"input_tokens": 1, "input_tokens_details": null, "output_tokens": 1,
        "output_tokens_details": null, "total_tokens": 2});
    let id = format!("resp_{number}");
    events(&[
        json!({"type": "response.created", "response": {"id": id}}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": item}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed",
            "response": {"id": id, "output": [item], "usage": usage}}),
    ])
}

/// The last result of a tool that a request to the Messages API tells: text, and whether it failed.
fn result(body: &Value) -> (String, bool) {
    let messages = body["messages"].as_array().unwrap();
    let blocks = messages
        .iter()
        .filter_map(|message| message["content"].as_array());
    let mut results = blocks
        .flatten()
        .filter(|block| block["type"] == "tool_result");
    let block = results
        .next_back()
        .unwrap_or_else(|| panic!("no result in {body}"));
    let failed = block["is_error"] == json!(true);
    (block["content"].to_string(), failed)
}

/// An organisation with a counting upstream of each era and one that drifted after it was pinned;
/// `count` is not granted yet.
fn organisation() -> (Org, PathBuf) {
    let org = Org::new();
    let log = org.path().join("executed");
    let drifted = org.path().join("drifted");
    for (key, era) in [("up", "legacy"), ("upm", "modern")] {
        org.server(&Server::counting(
            key,
            ["--era", era, "--log", log.to_str().unwrap()],
        ));
    }
    // another tool of it changes: its entry says that this stops the whole server
    let flags = ["--drift-if", drifted.to_str().unwrap()];
    org.server(&Server::counting("dr", flags).with("pin: strict"));
    org.agent("ci");
    grant(&org, &["echo"]);
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    File::create(drifted).unwrap();
    (org, log)
}

fn grant(org: &Org, tools: &[&str]) {
    let tools = || Grant::tools(tools);
    let all = [
        ("up", tools()),
        ("upm", tools()),
        ("dr", Grant::tools(&["echo"])),
    ];
    org.role("tester", &["ci"], &all);
}

/// Claude Code in an environment of its own, with mcpshim as its only server.
fn claude(org: &Org, binary: &Path, model: &Model) -> Command {
    let servers = org.path().join("mcp.json");
    let entry = json!({"command": program("mcpshim"), "args": ["serve"]});
    fs::write(
        &servers,
        json!({"mcpServers": {"mcpshim": entry}}).to_string(),
    )
    .unwrap();
    let mut command = Command::new(binary);
    org.environment_as(&mut command, "ci");
    command
        .env("ANTHROPIC_BASE_URL", format!("http://{}", model.address))
        .env("ANTHROPIC_API_KEY", "none")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1")
        .args([
            "-p",
            "go",
            "--strict-mcp-config",
            "--allowedTools",
            "mcp__mcpshim",
        ])
        .args(["--output-format", "json", "--mcp-config"])
        .arg(servers);
    command
}

/// The whole of a developer's run: tools listed, a call, a refusal, a grant that comes meanwhile.
fn a_run_of_claude_code(negotiation: Option<&str>, spoken: &str) {
    let Some(binary) = package("@anthropic-ai/claude-code-linux-x64/claude") else {
        return;
    };
    let (org, log) = organisation();
    let model = Model::start(messages);
    let mut command = claude(&org, &binary, &model);
    if let Some(negotiation) = negotiation {
        command.env("MCP_PROTOCOL_NEGOTIATION", negotiation);
    }
    let mut step = 0;
    let mut tries = 0;
    let printed = model.lead(&mut command, org.path(), &mut |body| {
        step += 1;
        match step {
            1 => {
                let text = body.to_string();
                for (tool, there) in [("up_echo", true), ("upm_echo", true), ("up_count", false)] {
                    let name = format!("mcp__mcpshim__{tool}");
                    assert_eq!(text.contains(&name), there, "{name} in {text}");
                }
                call("mcp__mcpshim__up_echo", json!({"text": "to the old"}))
            }
            2 => {
                let (text, failed) = result(body);
                assert!(text.contains("to the old") && !failed, "{text}");
                let status = org.mcpshim("ci", ["status", "--json"]).ok();
                let status = status.json();
                let client = &status["sessions"][0]["client"];
                assert_eq!(client["protocol"], spoken, "{status}");
                call("mcp__mcpshim__upm_echo", json!({"text": "to the new"}))
            }
            3 => {
                let (text, failed) = result(body);
                assert!(text.contains("to the new") && !failed, "{text}");
                call("mcp__mcpshim__dr_echo", json!({"text": "to another"}))
            }
            4 => {
                let (text, failed) = result(body);
                assert!(
                    text.contains("Refused until the server is approved again") && failed,
                    "{text}"
                );
                grant(&org, &["echo", "count"]);
                org.republish();
                org.mcpshim("ci", ["registry", "refresh"]).ok();
                call("mcp__mcpshim__up_count", json!({"id": "granted meanwhile"}))
            }
            _ => {
                let (text, failed) = result(body);
                if !failed {
                    assert!(text.contains("granted meanwhile"), "{text}");
                    return Turn::Done;
                }
                // the client has not asked for the new list yet
                tries += 1;
                assert!(tries < 50, "never callable: {text}");
                std::thread::sleep(Duration::from_millis(200));
                call("mcp__mcpshim__up_count", json!({"id": "granted meanwhile"}))
            }
        }
    });
    assert!(printed.contains("all done"), "{printed}");
    let executed = fs::read_to_string(&log).unwrap();
    assert_eq!(executed, "granted meanwhile\n", "executed once");
    // the record joins the client's own transcript by the id of each use
    ended(&org);
    let record = calls(&org.state().join("spool"));
    let calls: BTreeSet<&str> = record.intents.keys().map(String::as_str).collect();
    assert_eq!(calls.len(), 3, "{record:?}");
    assert!(
        calls.iter().all(|id| id.starts_with("toolu_")),
        "{record:?}"
    );
    assert!(
        record.intents.keys().eq(record.outcomes.keys()),
        "{record:?}"
    );
}

/// Waits until nothing of the organisation runs.
fn ended(org: &Org) {
    wait_for("everything to end", || {
        org.processes().is_empty().then_some(())
    });
}

#[test]
fn claude_code_works_through_mcpshim_in_the_stateless_era() {
    a_run_of_claude_code(None, "2026-07-28");
}

#[test]
fn claude_code_works_through_mcpshim_in_the_handshake_era() {
    a_run_of_claude_code(Some("legacy"), "2025-11-25");
}

#[test]
fn codex_works_through_mcpshim() {
    let Some(script) = package("@openai/codex/bin/codex.js") else {
        return;
    };
    let (org, log) = organisation();
    grant(&org, &["echo", "count"]);
    org.republish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let model = Model::start(responses);
    let home = org.path().join(".codex");
    fs::create_dir(&home).unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let variables = [
        ("MCPSHIM_CONFIG", org.config()),
        ("MCPSHIM_STATE", org.state()),
        ("MCPSHIM_AGENT_KEY", org.agent_key("ci")),
    ];
    let variables =
        variables.map(|(name, path)| format!("{name} = {}", quoted(path.to_str().unwrap())));
    let settings = format!(
        "model = \"scripted\"\nmodel_provider = \"scripted\"\n\
         [model_providers.scripted]\nname = \"scripted\"\nbase_url = \"http://{}/v1\"\n\
         env_key = \"SCRIPTED_KEY\"\nwire_api = \"responses\"\n\
         [mcp_servers.mcpshim]\ncommand = {}\nargs = [\"serve\"]\n\
         [mcp_servers.mcpshim.env]\nMCPSHIM_AGENT = \"ci\"\n{}\n",
        model.address,
        quoted(program("mcpshim").to_str().unwrap()),
        variables.join("\n"),
    );
    fs::write(home.join("config.toml"), settings).unwrap();
    let mut command = Command::new("node");
    org.environment(&mut command);
    command
        .env("SCRIPTED_KEY", "none")
        .arg(script)
        .args(["exec", "--skip-git-repo-check"])
        .args(["--dangerously-bypass-approvals-and-sandbox", "go"]);
    let mut step = 0;
    let printed = model.lead(&mut command, org.path(), &mut |body| {
        step += 1;
        let output = || {
            let items = body["input"].as_array().unwrap();
            let last = items
                .iter()
                .rfind(|item| item["type"] == "function_call_output");
            last.unwrap_or_else(|| panic!("no result in {body}"))
                .to_string()
        };
        match step {
            1 => call("up_count", json!({"id": "by codex"})),
            2 => {
                assert!(output().contains("by codex"), "{}", output());
                call("dr_echo", json!({"text": "x"}))
            }
            _ => {
                assert!(output().contains("Refused until"), "{}", output());
                Turn::Done
            }
        }
    });
    assert!(printed.contains("all done"), "{printed}");
    assert_eq!(fs::read_to_string(&log).unwrap(), "by codex\n");
    ended(&org);
}

#[test]
fn the_inspector_lists_and_calls_through_mcpshim() {
    let launcher = "@modelcontextprotocol/inspector/clients/launcher/build/index.js";
    let Some(script) = package(launcher) else {
        return;
    };
    let (org, _) = organisation();
    let inspect = |words: &[&str]| -> Ended {
        let mut command = Command::new("node");
        org.environment(&mut command);
        command.arg(&script).arg("--cli");
        for (name, value) in [
            ("MCPSHIM_CONFIG", org.config()),
            ("MCPSHIM_STATE", org.state()),
            ("MCPSHIM_AGENT", "ci".into()),
            ("MCPSHIM_AGENT_KEY", org.agent_key("ci")),
        ] {
            command.arg("-e").arg(format!("{name}={}", value.display()));
        }
        run(command.arg(program("mcpshim")).arg("serve").args(words))
    };
    let listed = inspect(&["--method", "tools/list"]).ok();
    let listed = listed.json();
    let tools = listed["tools"].as_array().unwrap();
    let names: BTreeSet<&str> = tools.iter().map(|t| t["name"].as_str().unwrap()).collect();
    let expected = ["dr_echo", "mcpshim_status", "up_echo", "upm_echo"];
    assert_eq!(names, expected.into(), "{listed}");
    let words = [
        "--method",
        "tools/call",
        "--tool-arg",
        "text=hello",
        "--tool-name",
    ];
    let of = |tool| [&words[..], &[tool]].concat();
    let answered = inspect(&of("upm_echo")).ok();
    assert!(answered.stdout.contains("hello"), "{answered:?}");
    let refused = inspect(&of("dr_echo"));
    assert!(refused.stdout.contains("Refused until"), "{refused:?}");
    ended(&org);
}

/// Claude Code ends a server by SIGINT, SIGTERM after 0.1 s and SIGKILL after 0.5 s, and never
/// closes its input (measured). Calls run all the while.
#[test]
fn what_was_answered_before_the_signals_is_in_the_record() {
    let org = Org::new();
    let log = org.path().join("executed");
    for (key, era) in [("up", "legacy"), ("upm", "modern")] {
        let flags = ["--era", era, "--slow", "3", "--log", log.to_str().unwrap()];
        org.server(&Server::counting(key, flags));
    }
    org.agent("ci");
    org.role(
        "tester",
        &["ci"],
        &[("up", Grant::ALL), ("upm", Grant::ALL)],
    );
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let mut answered = BTreeSet::new();
    for (round, signals) in [
        &[(0, Signal::INT), (100, Signal::TERM), (500, Signal::KILL)][..],
        &[(0, Signal::TERM)][..],
        &[(0, Signal::INT), (5, Signal::INT), (10, Signal::KILL)][..],
        &[(0, Signal::KILL)][..],
    ]
    .into_iter()
    .enumerate()
    {
        answered.extend(interrupted(&org, round, signals));
        ended(&org);
    }
    let record = calls(&org.state().join("spool"));
    let executed = fs::read_to_string(&log).unwrap();
    assert!(answered.len() >= 80, "only {} calls", answered.len());
    for id in &answered {
        assert!(
            record.outcomes.contains_key(id),
            "{id} was answered, its outcome is lost"
        );
        assert!(
            executed.lines().any(|line| line == id),
            "{id} was not executed"
        );
    }
    for id in executed.lines() {
        assert!(
            record.intents.contains_key(id),
            "{id} ran without an intent"
        );
    }
}

/// Keeps calls in flight, sends the signals at their milliseconds, and reads to the end.
fn interrupted(org: &Org, round: usize, signals: &[(u64, Signal)]) -> Vec<String> {
    let mut shim = org.serve("ci");
    shim.initialize();
    let mut sent = 0;
    let post = |shim: &mut Shim, sent: &mut usize| {
        let id = format!("{round}-{sent}");
        let tool = ["up_count", "upm_count"][*sent % 2];
        *sent += 1;
        shim.send(
            &json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params":
            {"name": tool, "arguments": {"id": id}, "_meta": {"claudecode/toolUseId": id}}}),
        );
    };
    for _ in 0..6 {
        post(&mut shim, &mut sent);
    }
    let mut answered = Vec::new();
    let mut first = None;
    let mut left = signals.iter();
    let mut next = left.next();
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if answered.len() >= 20 && first.is_none() {
            first = Some(Instant::now());
        }
        if let (Some(first), Some((ms, signal))) = (first, next)
            && first.elapsed() >= Duration::from_millis(*ms)
        {
            if shim.process.try_ended().is_none() {
                shim.process.signal(*signal);
            }
            next = left.next();
        }
        if shim.process.try_ended().is_some() {
            break;
        }
        let Some(message) = shim.next(Duration::from_millis(1)) else {
            continue;
        };
        if let Some(id) = message["id"].as_str() {
            // a refusal because of the end is no answer of the call
            if message["result"]["content"][0]["text"] == id {
                answered.push(id.to_owned());
            }
            post(&mut shim, &mut sent);
        }
    }
    assert!(
        shim.process.try_ended().is_some(),
        "round {round}: it is still there"
    );
    while let Some(message) = shim.next(Duration::from_secs(5)) {
        if let Some(id) = message["id"].as_str()
            && message["result"]["content"][0]["text"] == id
        {
            answered.push(id.to_owned());
        }
    }
    answered
}
