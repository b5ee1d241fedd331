//! Rows of the compatibility page for programs of developers: the Inspector, Claude Code in both
//! eras and Codex, as they are shipped. Each is led through what it can do without a person, once
//! at the server itself and once through mcpshim; what it and the server saw must be the same. What
//! a row says that a program does not do is held against what it said to mcpshim.
//!
//! `scripts/peers clients` installs them; without them each test says loudly that it did not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Model, Turn, call, messages, package, responses};
use crate::matrix::{EQUAL, KEY, ONLY_THROUGH, OPEN, Reached, reach, seen, without_ids};
use crate::support::{Grant, Org, Recording, program};

mod inspector;

/// What was seen of each feature that was tried; nothing where it did not work.
type Seen = BTreeMap<&'static str, Option<Value>>;

/// What came of one run of a program.
#[derive(Debug, Default)]
struct Run {
    seen: Seen,
    /// What it did not do, and why.
    reasons: Vec<(&'static str, &'static str)>,
    /// What the program says of the server it is connected to, where it can be asked.
    server: Value,
    /// It had to be told to speak the era of the server.
    apart: bool,
}

impl Run {
    fn new(seen: Seen, reasons: &[(&'static str, &'static str)]) -> Self {
        Self {
            seen,
            reasons: reasons.to_vec(),
            ..Self::default()
        }
    }
}

/// Where a program finds the server: itself, or behind mcpshim.
struct Way<'o> {
    org: &'o Org,
    upstream: &'o str,
    /// What stands before the names of tools and prompts.
    prefix: &'static str,
    /// The command, or the address.
    target: Vec<String>,
    recording: Recording,
    through: bool,
    _reached: Reached,
}

impl<'o> Way<'o> {
    fn direct(org: &'o Org, upstream: &'o str) -> Self {
        let reached = reach(org, upstream, None);
        let recording = Recording::named(org, "direct");
        let target = match &reached.arguments[..] {
            [url] => vec![url.clone()],
            [command, args @ ..] => recorded(&recording, command, args),
            [] => panic!("no way to {upstream}"),
        };
        Self {
            org,
            upstream,
            prefix: "",
            target,
            recording,
            through: false,
            _reached: reached,
        }
    }

    fn through(org: &'o Org, upstream: &'o str) -> Self {
        let recording = Recording::named(org, "through");
        let reached = reach(org, upstream, Some(&recording));
        // none of them can be asked for samples, and some servers show more tools to those that can
        org.server(&reached.entry.clone().with("sampling: false"));
        org.agent("ci");
        org.role("tester", &["ci"], &[(KEY, Grant::ALL)]);
        org.publish();
        org.mcpshim("ci", ["registry", "refresh"]).ok();
        let mcpshim = program("mcpshim").to_str().unwrap();
        Self {
            org,
            upstream,
            prefix: "peer_",
            target: recorded(&recording, mcpshim, &["serve".to_owned()]),
            recording,
            through: true,
            _reached: reached,
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn everything(&self) -> bool {
        self.upstream == "everything"
    }

    /// The variables that mcpshim needs, for clients that hand on none.
    fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("MCPSHIM_CONFIG", self.org.config()),
            ("MCPSHIM_STATE", self.org.state()),
            ("MCPSHIM_AGENT", "ci".into()),
            ("MCPSHIM_AGENT_KEY", self.org.agent_key("ci")),
        ]
    }

    /// What the client said with this method.
    fn said(&self, method: &str) -> Vec<Value> {
        let mut said = self.recording.said();
        said.retain(|line| line["method"] == *method);
        said
    }

    /// How often the client got this notification; `None` where nothing stood between.
    fn got(&self, method: &str) -> Option<usize> {
        let heard = self.recording.heard();
        let of = |line: &&Value| line["method"] == method;
        (!heard.is_empty()).then(|| heard.iter().filter(of).count())
    }
}

fn recorded(recording: &Recording, command: &str, args: &[String]) -> Vec<String> {
    let (shell, mut all) = recording.client(Path::new(command), args);
    all.insert(0, shell.to_str().unwrap().to_owned());
    all
}

/// A text without what names the server: only mcpshim's prefix may differ.
fn plain(value: &Value) -> Value {
    let text = value.to_string().replace("[peer] ", "");
    let text = text.replace("mcp__mcpshim__peer_", "mcp__mcpshim__");
    let mut value: Value = serde_json::from_str(&text).unwrap();
    tidy(&mut value);
    without_ids(&mut value);
    value
}

/// Without what differs from run to run, and without mcpshim's own tool.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(all) => {
            all.retain(|one| one["name"] != "mcpshim_status");
            all.iter_mut().for_each(tidy);
        }
        Value::Object(members) => {
            for key in [
                "elicitationId",
                "expiresAt",
                "connection",
                "resultType",
                "ttlMs",
                "cacheScope",
                "execution",
                "server",
            ] {
                members.remove(key);
            }
            if let Some(Value::Object(meta)) = members.get_mut("_meta") {
                meta.remove("io.modelcontextprotocol/serverInfo");
                if meta.is_empty() {
                    members.remove("_meta");
                }
            }
            for key in ["name", "toolName"] {
                if let Some(Value::String(name)) = members.get_mut(key) {
                    *name = name.strip_prefix("peer_").unwrap_or(name).to_owned();
                }
            }
            members.values_mut().for_each(tidy);
        }
        // programs print results as text
        Value::String(text) => {
            if let Some((timed, _)) = text.split_once(" seconds\nOutput:")
                && timed.starts_with("Wall time: ")
            {
                *text = text.replacen(timed, "Wall time: …", 1);
            }
            // a hint of Claude Code's own
            if let Some((before, _)) = text.split_once("\n\nThis tool's input schema") {
                *text = before.to_owned();
            }
            if let Some((before, id)) = text.split_once("(Elicitation ID: ") {
                let after = id.get(36..).unwrap_or_default();
                *text = format!("{before}(Elicitation ID: …{after}");
            }
            if text.starts_with(['{', '['])
                && let Ok(mut inner) = serde_json::from_str::<Value>(text)
            {
                tidy(&mut inner);
                *text = inner.to_string();
            }
        }
        Value::Bool(_) | Value::Null | Value::Number(_) => {}
    }
}

/// Whether a program says itself that it could not do it.
fn in_vain(result: &Value) -> bool {
    let text = result.to_string();
    let complaints = [
        "No such tool available",
        "is not among the tools",
        "unsupported call",
        "failed to get client",
    ];
    complaints.iter().any(|complaint| text.contains(complaint))
}

/// Whether a tool did what it was asked.
fn fine(result: &Value) -> bool {
    result["isError"] != json!(true)
}

/// Whether a message asks for a feature.
fn asks_for(feature: &str, message: &Value) -> bool {
    let method = message["method"].as_str().unwrap_or_default();
    let params = &message["params"];
    match feature {
        "cancel" => method == "notifications/cancelled",
        "completion" => method == "completion/complete",
        "logging" => {
            let level = &params["_meta"]["io.modelcontextprotocol/logLevel"];
            method == "logging/setLevel" || !level.is_null()
        }
        "progress" => !params["_meta"]["progressToken"].is_null(),
        "prompts" => method == "prompts/get",
        "subscriptions" => {
            let wanted = params["notifications"]["resourceSubscriptions"].as_array();
            method == "resources/subscribe" || wanted.is_some_and(|uris| !uris.is_empty())
        }
        "templates" => method == "resources/templates/list",
        other => panic!("nothing shows whether {other} is asked for"),
    }
}

/// Whether a message declares a capability.
fn declares(capability: &str, message: &Value) -> bool {
    let meta = "/params/_meta/io.modelcontextprotocol~1clientCapabilities";
    [meta, "/params/capabilities"]
        .iter()
        .any(|place| message.pointer(&format!("{place}/{capability}")).is_some())
}

/// Whether what the client said bears a reason out.
fn holds(feature: &str, reason: &str, said: &[Value]) -> bool {
    let none = |test: &dyn Fn(&Value) -> bool| !said.iter().any(test);
    let undeclared = |capability: &str| none(&|message| declares(capability, message));
    match reason {
        NOT_ASKED => none(&|message| asks_for(feature, message)),
        NO_SAMPLING => undeclared("sampling"),
        NO_TASKS => undeclared("tasks") && undeclared("extensions/io.modelcontextprotocol~1tasks"),
        NOT_DECLARED => undeclared(feature),
        NO_URL_ERA => none(&|message| {
            let revision = message["params"]["protocolVersion"].as_str();
            message["method"] == "server/discover" || revision >= Some("2025-11-25")
        }),
        // the run itself has shown it
        _ => true,
    }
}

/// What a server lacks, by what a program says of it direct and through mcpshim.
fn lacking(feature: &str, direct: &Value, through: &Value) -> Option<&'static str> {
    let offered = &direct["capabilities"];
    match feature {
        "subscriptions" => {
            (offered["resources"]["subscribe"] != json!(true)).then_some("no-subscriptions-server")
        }
        "tasks" if offered.get("tasks").is_some() => {
            let kept = through["capabilities"].get("tasks").is_none();
            kept.then_some("old-tasks")
        }
        "tasks" if offered["extensions"]["io.modelcontextprotocol/tasks"].is_null() => {
            Some("no-extension-server")
        }
        "tasks" => {
            let protocol = through["protocolVersion"].as_str()?;
            (*protocol < *"2026-07-28").then_some("no-extension-era")
        }
        _ => None,
    }
}

/// Compares both runs and writes the row.
fn row(client: &str, upstream: &str, lead: impl Fn(&Way<'_>) -> Run) {
    let org = Org::new();
    let direct = lead(&Way::direct(&org, upstream));
    let way = Way::through(&org, upstream);
    let through = lead(&way);
    // the one client of 2025-06-18, where forms cannot ask for several of a list
    let but = ["titledMultipleSelectEnum", "untitledMultipleSelectEnum"];
    way.recording.validate_calls(match client {
        "codex" => &but,
        _ => &[],
    });
    let mut cells = BTreeMap::new();
    let mut failed = String::new();
    let explained = |feature: &str| through.reasons.iter().any(|(of, _)| *of == feature);
    for (feature, seen) in &through.seen {
        if seen.is_none() && explained(feature) {
            continue;
        }
        let expected = direct.seen.get(feature).cloned().flatten();
        let cell = match (seen, &expected) {
            (Some(seen), Some(expected)) if plain(seen) == plain(expected) => {
                if direct.apart {
                    ONLY_THROUGH
                } else {
                    EQUAL
                }
            }
            (Some(_), None) => ONLY_THROUGH,
            (Some(_), Some(_)) | (None, _) => {
                let lacks = lacking(feature, &direct.server, &through.server);
                lacks.filter(|_| !direct.server.is_null()).unwrap_or(OPEN)
            }
        };
        if cell == OPEN {
            failed += &format!("{feature}\n  direct:  {expected:?}\n  through: {seen:?}\n");
        }
        cells.insert((*feature).to_owned(), cell.to_owned());
    }
    let said = way.recording.said();
    for (feature, reason) in &through.reasons {
        let holds = holds(feature, reason, &said);
        if !holds {
            failed += &format!("{feature}: {reason} is not what it said\n");
        }
        let cell = if holds { reason } else { OPEN };
        cells.insert((*feature).to_owned(), cell.to_owned());
    }
    seen(client, upstream, cells, &failed);
}

// ---- Claude Code

/// What the model says in turn, and what it got.
fn lead_model(
    model: &Model,
    command: &mut Command,
    way: &Way<'_>,
    turns: &[(String, Value)],
    result: fn(&Value) -> Value,
    mut between: impl FnMut(usize),
) -> (Value, Vec<Value>) {
    let mut first = Value::Null;
    let mut results = Vec::new();
    let mut at = 0;
    model.lead(command, way.org.path(), &mut |body| {
        if at == 0 {
            first = body.clone();
        } else if at <= turns.len() {
            results.push(result(body));
        }
        at += 1;
        between(at);
        match turns.get(at - 1) {
            Some((name, input)) => call(name, input.clone()),
            None => Turn::Done,
        }
    });
    (first, results)
}

/// The last result of a tool in a request to the Messages API.
fn tool_result(body: &Value) -> Value {
    let messages = body["messages"].as_array().unwrap();
    let blocks = messages
        .iter()
        .filter_map(|message| message["content"].as_array());
    let mut results = blocks
        .flatten()
        .filter(|block| block["type"] == "tool_result");
    let block = results.next_back().cloned().unwrap_or_default();
    json!({"content": block["content"], "is_error": block["is_error"]})
}

fn claude(way: &Way<'_>, model: &Model, negotiation: &str, prompt: &str) -> Option<Command> {
    let binary = package("@anthropic-ai/claude-code-linux-x64/claude")?;
    let entry = match &way.target[..] {
        [url] => json!({"type": "http", "url": url}),
        [command, args @ ..] => json!({"command": command, "args": args}),
        [] => Value::Null,
    };
    let servers = way.org.path().join("mcp.json");
    std::fs::write(
        &servers,
        json!({"mcpServers": {"mcpshim": entry}}).to_string(),
    )
    .unwrap();
    let mut command = Command::new(binary);
    way.org.environment_as(&mut command, "ci");
    command
        .env("ANTHROPIC_BASE_URL", format!("http://{}", model.address))
        .env("ANTHROPIC_API_KEY", "none")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1")
        .env("MCP_PROTOCOL_NEGOTIATION", negotiation)
        .args(["-p", prompt, "--strict-mcp-config", "--allowedTools"])
        .args([
            "mcp__mcpshim",
            "ListMcpResourcesTool",
            "ReadMcpResourceTool",
        ])
        .args(["--output-format", "json", "--mcp-config"])
        .arg(servers);
    Some(command)
}

/// What the model says to try a feature: the tool and what it is called with.
fn turns(way: &Way<'_>, tool: impl Fn(&str) -> String) -> Vec<(&'static str, String, Value)> {
    let e = way.everything();
    let pick = |old: &'static str, other: &'static str| tool(if e { old } else { other });
    let mut turns = vec![
        (
            "tools",
            tool("echo"),
            json!({"message": "Grüße, \u{2028} 😀 \\ \" /"}),
        ),
        (
            "structured output",
            pick("get-structured-content", "add"),
            if e {
                json!({"location": "New York"})
            } else {
                json!({"a": 1.5, "b": 2})
            },
        ),
        (
            "progress",
            pick("trigger-long-running-operation", "slow"),
            if e {
                json!({"duration": 1, "steps": 3})
            } else {
                json!({"steps": 3})
            },
        ),
        (
            "elicitation form",
            pick("trigger-elicitation-request", "ask-name"),
            json!({}),
        ),
        (
            "elicitation url",
            pick("trigger-url-elicitation", "ask-visit"),
            if e {
                json!({"url": "https://peer.example/visit?x=1", "message": "Sign in there, please."})
            } else {
                json!({})
            },
        ),
        ("roots", pick("get-roots-list", "ask-roots"), json!({})),
    ];
    if !e {
        turns.push(("tools", tool("fail"), json!({})));
    }
    turns
}

fn resource(way: &Way<'_>) -> &'static str {
    match way.everything() {
        true => "demo://resource/static/document/features.md",
        false => "peer://static",
    }
}

/// Puts what came of the turns to their features.
fn gathered(turns: &[(&'static str, String, Value)], results: &[Value]) -> Seen {
    let mut seen = Seen::new();
    for (at, (feature, ..)) in turns.iter().enumerate() {
        let got = results.get(at).filter(|result| !in_vain(result)).cloned();
        let both = match (seen.remove(feature), got) {
            (None, got) => got,
            (Some(Some(before)), Some(got)) => Some(json!([before, got])),
            (Some(_), _) => None,
        };
        seen.insert(feature, both);
    }
    seen
}

/// Changes the list of tools where mcpshim changes it: in the registry.
fn grown(way: &Way<'_>) {
    if way.through {
        way.org
            .role("tester", &["ci"], &[(KEY, Grant::tools(&["echo"]))]);
        way.org.republish();
        way.org.mcpshim("ci", ["registry", "refresh"]).ok();
    }
}

/// Whether news of the lists make the client ask for them; nothing where it got none.
fn moves(way: &Way<'_>) -> Option<bool> {
    let lists = || way.said("tools/list").len();
    let before = lists();
    grown(way);
    let news = || way.got("notifications/tools/list_changed") >= Some(1);
    let end = Instant::now() + Duration::from_secs(10);
    while !news() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    // one that does ask may be slow to
    let end = Instant::now() + Duration::from_secs(3);
    while lists() == before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    news().then(|| lists() > before)
}

/// Changes the list of tools, as it can be changed there, and waits until the client asks again.
fn grow(way: &Way<'_>) {
    grown(way);
    let end = Instant::now() + Duration::from_secs(10);
    while !listed_again(way) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the client asked for the tools once more after it heard that they are others.
fn listed_again(way: &Way<'_>) -> bool {
    way.said("tools/list").len() >= 2 && way.got("notifications/tools/list_changed") >= Some(1)
}

fn claude_code_led(way: &Way<'_>, negotiation: &str) -> Seen {
    let model = Model::start(messages);
    let name = |name: &str| format!("mcp__mcpshim__{}", way.name(name));
    let mut turns = turns(way, name);
    turns.push(("resources", "ListMcpResourcesTool".to_owned(), json!({})));
    let read = json!({"server": "mcpshim", "uri": resource(way)});
    turns.push(("resources", "ReadMcpResourceTool".to_owned(), read));
    // last: it takes tools away
    let grown = if way.through || way.everything() {
        "echo"
    } else {
        "grow"
    };
    let input = if grown == "grow" {
        json!({"what": "tools"})
    } else {
        json!({"message": "x"})
    };
    turns.push(("list_changed", name(grown), input));
    let Some(mut command) = claude(way, &model, negotiation, "go") else {
        return Seen::new();
    };
    let said: Vec<(String, Value)> = turns
        .iter()
        .map(|(_, tool, input)| (tool.clone(), input.clone()))
        .collect();
    let last = turns.len();
    let (_, results) = lead_model(&model, &mut command, way, &said, tool_result, |at| {
        if at == last + 1 {
            grow(way);
        }
    });
    let mut seen = gathered(&turns, &results);
    let progressed = way
        .got("notifications/progress")
        .filter(|times| *times >= 2);
    seen.insert(
        "progress",
        progressed.map(|_| json!([seen["progress"], "told of it"])),
    );
    seen.insert(
        "list_changed",
        listed_again(way).then(|| json!("asked again")),
    );
    // a prompt is a command of the person's
    let prompt = way.name(if way.everything() {
        "args-prompt"
    } else {
        "greet"
    });
    let line = format!(
        "/mcp__mcpshim__{prompt} {}",
        if way.everything() { "Paris" } else { "Ada" }
    );
    if way.through {
        way.org.role("tester", &["ci"], &[(KEY, Grant::ALL)]);
        way.org.republish();
        way.org.mcpshim("ci", ["registry", "refresh"]).ok();
    }
    let mut command = claude(way, &model, negotiation, &line).unwrap();
    let (first, _) = lead_model(&model, &mut command, way, &[], tool_result, |_| {});
    let asked = first["messages"].to_string();
    let wanted = if way.everything() {
        "weather in Paris"
    } else {
        "Greet Ada"
    };
    seen.insert("prompts", asked.contains(wanted).then(|| json!(wanted)));
    seen
}

// ---- Codex

/// Leads it; and why news of the lists came to nothing, if they did.
fn codex(way: &Way<'_>) -> (Seen, Vec<(&'static str, &'static str)>) {
    let Some(script) = package("@openai/codex/bin/codex.js") else {
        return (Seen::new(), Vec::new());
    };
    let model = Model::start(responses);
    let home = way.org.path().join(".codex");
    std::fs::create_dir_all(&home).unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let mut server = match &way.target[..] {
        [url] => format!("url = {}\n", quoted(url)),
        [command, args @ ..] => {
            format!("command = {}\nargs = {}\n", quoted(command), json!(args))
        }
        [] => String::new(),
    };
    if way.through {
        server += "[mcp_servers.mcpshim.env]\n";
        for (name, value) in way.variables() {
            server += &format!("{name} = {}\n", quoted(value.to_str().unwrap()));
        }
    }
    let settings = format!(
        "model = \"scripted\"\nmodel_provider = \"scripted\"\n\
         [model_providers.scripted]\nname = \"scripted\"\nbase_url = \"http://{}/v1\"\n\
         env_key = \"SCRIPTED_KEY\"\nwire_api = \"responses\"\n[mcp_servers.mcpshim]\n{server}",
        model.address,
    );
    std::fs::write(home.join("config.toml"), settings).unwrap();
    let mut command = Command::new("node");
    way.org.environment(&mut command);
    command
        .env("SCRIPTED_KEY", "none")
        .arg(script)
        .args(["exec", "--skip-git-repo-check"])
        .args(["--dangerously-bypass-approvals-and-sandbox", "go"]);
    let of = json!({"server": "mcpshim"});
    let read = json!({"server": "mcpshim", "uri": resource(way)});
    // first what waits for the server: a turn does not, and then has none of its tools
    let mut all = vec![
        ("resources", "list_mcp_resources".to_owned(), of.clone()),
        ("resources", "read_mcp_resource".to_owned(), read),
        ("templates", "list_mcp_resource_templates".to_owned(), of),
    ];
    // names are spelled anew for models
    all.extend(turns(way, |name| way.name(name).replace('-', "_")));
    let turns = all;
    let said: Vec<(String, Value)> = turns
        .iter()
        .map(|(_, tool, input)| (tool.clone(), input.clone()))
        .collect();
    let output = |body: &Value| {
        let items = body["input"].as_array().unwrap();
        let last = items
            .iter()
            .rfind(|item| item["type"] == "function_call_output");
        last.map(|item| item["output"].clone()).unwrap_or_default()
    };
    let mut moved = Vec::new();
    let (_, results) = lead_model(&model, &mut command, way, &said, output, |at| {
        if way.through && at > said.len() && moves(way) == Some(false) {
            moved.push(("list_changed", UNMOVED));
        }
    });
    let mut seen = gathered(&turns, &results);
    seen.insert("list_changed", None);
    // servers that ask all the same get something direct, and nothing here
    seen.remove("elicitation url");
    seen.remove("roots");
    let progressed = way
        .got("notifications/progress")
        .filter(|times| *times >= 2);
    seen.insert(
        "progress",
        progressed.map(|_| json!([seen["progress"], "told of it"])),
    );
    (seen, moved)
}

/// What no program here does by itself.
const NOT_ASKED: &str = "not-asked";
/// What it does not say it can do.
const NOT_DECLARED: &str = "not-declared";
/// What only a person at its window can do.
const BY_A_PERSON: &str = "by-a-person";
const NO_TASKS: &str = "no-extension-client";
const NO_SAMPLING: &str = "no-sampling-client";
/// What its revision has no word for, though it says that it can do it.
const NO_URL_ERA: &str = "no-url-era";
/// What it takes no notice of.
const UNMOVED: &str = "unmoved";
/// What it needs no news for.
const LISTS_ANEW: &str = "lists-anew";

fn a_row(client: &str, upstream: &str) {
    let installed = match client {
        "codex" => package("@openai/codex/bin/codex.js"),
        "inspector" => package(inspector::SCRIPT),
        _ => package("@anthropic-ai/claude-code-linux-x64/claude"),
    };
    if installed.is_none() {
        return;
    }
    let reasons = [
        ("completion", NOT_ASKED),
        ("cancel", BY_A_PERSON),
        ("sampling", NO_SAMPLING),
        ("tasks", NO_TASKS),
        ("subscriptions", NOT_ASKED),
        ("logging", NOT_ASKED),
    ];
    match client {
        "codex" => row(client, upstream, |way| {
            let also = [
                ("prompts", NOT_ASKED),
                ("elicitation url", NO_URL_ERA),
                ("roots", NOT_DECLARED),
            ];
            let (seen, moved) = codex(way);
            Run::new(seen, &[&reasons[..], &also, &moved].concat())
        }),
        "inspector" => row(client, upstream, inspector::lead),
        claude_code => {
            let negotiation = match claude_code {
                "claude-code-stateless" => "auto",
                _ => "legacy",
            };
            row(client, upstream, |way| {
                let seen = claude_code_led(way, negotiation);
                Run::new(seen, &[&reasons[..], &[("templates", NOT_ASKED)]].concat())
            });
        }
    }
}

macro_rules! rows {
    ($($module:ident: $client:literal, [$($test:ident: $upstream:literal,)*];)*) => {
        $(mod $module {
            $(#[test]
            fn $test() {
                super::a_row($client, $upstream);
            })*
        })*
    };
}

rows! {
    claude_code_handshake: "claude-code-handshake", [
        everything: "everything",
        fastmcp: "fastmcp",
        python: "python",
        rmcp: "rmcp",
        stateless: "stateless",
        typescript: "typescript",
        typescript_modern: "typescript-modern",
    ];
    claude_code_stateless: "claude-code-stateless", [
        everything: "everything",
        fastmcp: "fastmcp",
        python: "python",
        rmcp: "rmcp",
        stateless: "stateless",
        typescript: "typescript",
        typescript_modern: "typescript-modern",
    ];
    codex_cli: "codex", [
        everything: "everything",
        fastmcp: "fastmcp",
        python: "python",
        rmcp: "rmcp",
        stateless: "stateless",
        typescript: "typescript",
        typescript_modern: "typescript-modern",
    ];
    inspector_cli: "inspector", [
        everything: "everything",
        fastmcp: "fastmcp",
        python: "python",
        rmcp: "rmcp",
        stateless: "stateless",
        typescript: "typescript",
        typescript_modern: "typescript-modern",
    ];
}
