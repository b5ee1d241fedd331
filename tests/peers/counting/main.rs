//! An upstream server that counts: it appends the id of every executed call to a file before it
//! answers, and misbehaves on request. Std and `serde_json` only; it shares no code with mcpshim.
//!
//! ```text
//! counting [--log FILE] [--era legacy|modern|dual] [FAULT…]
//!   --silent-on-discover   never answers server/discover
//!   --exit-on-discover     ends when it is asked server/discover
//!   --crash                ends with status 3 at the first call, after it was executed
//!   --hang                 never answers a call
//!   --flood                prints a megabyte of notifications before each answer
//!   --garbage              prints lines that are not JSON around each answer
//!   --double               answers each call twice
//!   --other-id             answers each call with an id nobody asked with
//!   --never-read           reads nothing after its first call
//!   --slow MS              sleeps before each answer
//!   --linger               does nothing, for ever
//!   --grandchild           starts a child of its own that ignores SIGTERM and closed pipes
//!   --drift-if FILE        its tool has another schema while this file exists
//!   --leak VARIABLE        shows this variable on standard error, at the start and in each call, and
//!                          in each answer and a notification, in every usual encoding
//!   --change               changes its tools after the first call, and says so
//! ```
//!
//! Tools: `count {id}` (logged, answered with the id), `echo {text}`, `environment {}`.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    clippy::struct_excessive_bools,
    clippy::zombie_processes,
    reason = "a test peer: a broken pipe or fixture ends it, and its grandchild is left on purpose"
)]

use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

#[derive(Default)]
struct Faults {
    silent: bool,
    exit_on_discover: bool,
    crash: bool,
    hang: bool,
    flood: bool,
    garbage: bool,
    double: bool,
    other_id: bool,
    never_read: bool,
    slow_ms: u64,
    drift: bool,
    change: bool,
    leak: Option<String>,
}

struct Server {
    log: Option<File>,
    legacy: bool,
    modern: bool,
    faults: Faults,
    out: std::io::Stdout,
}

fn main() -> ExitCode {
    let mut server = Server {
        log: None,
        legacy: true,
        modern: false,
        faults: Faults::default(),
        out: std::io::stdout(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("a flag without its value");
        let faults = &mut server.faults;
        match arg.as_str() {
            "--log" => {
                let file = File::options().append(true).create(true).open(value());
                server.log = Some(file.expect("the log opens"));
            }
            "--era" => match value().as_str() {
                "modern" => (server.legacy, server.modern) = (false, true),
                "dual" => (server.legacy, server.modern) = (true, true),
                _ => {}
            },
            "--silent-on-discover" => faults.silent = true,
            "--exit-on-discover" => faults.exit_on_discover = true,
            "--crash" => faults.crash = true,
            "--hang" => faults.hang = true,
            "--flood" => faults.flood = true,
            "--garbage" => faults.garbage = true,
            "--double" => faults.double = true,
            "--other-id" => faults.other_id = true,
            "--never-read" => faults.never_read = true,
            "--slow" => faults.slow_ms = value().parse().expect("milliseconds"),
            "--grandchild" => grandchild(),
            "--linger" => loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            },
            "--drift-if" => faults.drift = std::path::Path::new(&value()).exists(),
            "--change" => faults.change = true,
            "--leak" => {
                let secret = std::env::var(value()).unwrap_or_default();
                eprint!("counting: begins with {}", leaks(&secret).join("\nand "));
                faults.leak = Some(secret).filter(|secret| !secret.is_empty());
            }
            other => {
                eprintln!("unknown flag {other}");
                return ExitCode::from(2);
            }
        }
    }
    server.serve()
}

/// Outlives its parent, its terminal and every polite request.
fn grandchild() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' TERM HUP INT; while :; do sleep 1; done"]);
    if cfg!(windows) {
        command = Command::new(std::env::current_exe().expect("it has a path"));
        command.arg("--linger");
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("sh starts");
}

/// A secret as it is, and as programs print one: in a basic authorization, a URL, a form, JSON.
fn leaks(secret: &str) -> Vec<String> {
    let percent = |also: &str| {
        let mut text = String::new();
        for byte in secret.bytes() {
            if byte.is_ascii_alphanumeric() || also.as_bytes().contains(&byte) {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
        text
    };
    let mut all = vec![
        secret.to_owned(),
        percent("-._~"),
        percent("-._~!'()*").to_lowercase(),
    ];
    all.push(json!({ "inner": json!({ "token": secret }).to_string() }).to_string());
    for before in ["", "u:", "user:", "x"] {
        all.push(base64(format!("{before}{secret}").as_bytes(), b"+/"));
        all.push(base64(format!("{before}{secret}").as_bytes(), b"-_"));
    }
    all.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    all
}

fn base64(bytes: &[u8], last: &[u8; 2]) -> String {
    let letter = |six: u32| match six {
        0..26 => char::from(b'A' + six as u8),
        26..52 => char::from(b'a' + (six - 26) as u8),
        52..62 => char::from(b'0' + (six - 52) as u8),
        62 => char::from(last[0]),
        _ => char::from(last[1]),
    };
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = 0;
        for at in 0..3 {
            word = word << 8 | u32::from(chunk.get(at).copied().unwrap_or(0));
        }
        for at in 0..=chunk.len() {
            text.push(letter(word >> (18 - 6 * at) & 63));
        }
        text.push_str(&"=".repeat(3 - chunk.len()));
    }
    text
}

impl Server {
    fn serve(&mut self) -> ExitCode {
        let mut lines = std::io::stdin().lock().lines();
        while let Some(Ok(line)) = lines.next() {
            let Ok(message) = serde_json::from_str::<Value>(&line) else {
                eprintln!("counting: a line that is not JSON");
                continue;
            };
            let (Some(id), Some(method)) = (message.get("id"), message["method"].as_str()) else {
                continue;
            };
            if let Some(code) = self.request(id, method, &message["params"]) {
                return code;
            }
        }
        ExitCode::SUCCESS
    }

    /// Answers one request; gives the exit code where that is the answer.
    fn request(&mut self, id: &Value, method: &str, params: &Value) -> Option<ExitCode> {
        let stateless = !params["_meta"]["io.modelcontextprotocol/protocolVersion"].is_null();
        let about = json!({"name": "counting", "version": "1"});
        let capabilities = json!({"tools": {"listChanged": true}});
        match method {
            "server/discover" if self.faults.silent => {}
            "server/discover" if self.faults.exit_on_discover => return Some(ExitCode::from(4)),
            "server/discover" if self.modern => self.result(
                id,
                json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities,
                    "_meta": {"io.modelcontextprotocol/serverInfo": about}}),
                true,
            ),
            "initialize" if self.legacy => self.result(
                id,
                json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
                    "serverInfo": about}),
                false,
            ),
            "initialize" => self.error(
                id,
                -32022,
                json!({"supported": ["2026-07-28"], "requested": params["protocolVersion"]}),
            ),
            "tools/list" => {
                let tools = self.tools();
                self.result(id, json!({ "tools": tools }), stateless);
            }
            // answered when it ends, which is with the process
            "subscriptions/listen" if self.modern => {}
            "tools/call" => return self.call(id, params, stateless),
            _ => self.error(id, -32601, Value::Null),
        }
        None
    }

    fn tools(&self) -> Value {
        let mut count = json!({"name": "count", "description": "Counts one call.",
            "inputSchema": {"type": "object", "properties": {"id": {"type": "string"}}}});
        if self.faults.drift {
            count["inputSchema"]["required"] = json!(["id"]);
        }
        json!([
            count,
            {"name": "echo", "inputSchema": {"type": "object",
                "properties": {"text": {"type": "string"}}}},
            {"name": "environment", "inputSchema": {"type": "object"}},
        ])
    }

    fn call(&mut self, id: &Value, params: &Value, stateless: bool) -> Option<ExitCode> {
        let arguments = &params["arguments"];
        let text = match params["name"].as_str() {
            Some("count") => {
                let call = arguments["id"].as_str().unwrap_or("?").to_owned();
                if let Some(log) = &mut self.log {
                    // one write, so that lines of several processes never mix
                    log.write_all(format!("{call}\n").as_bytes())
                        .expect("the log takes it");
                }
                call
            }
            Some("echo") => arguments["text"].as_str().unwrap_or_default().to_owned(),
            Some("environment") => {
                let mut names: Vec<_> = std::env::vars_os()
                    .map(|(name, value)| {
                        format!("{}={}", name.to_string_lossy(), value.to_string_lossy())
                    })
                    .collect();
                names.sort();
                names.join("\n")
            }
            _ => {
                self.error(id, -32602, Value::Null);
                return None;
            }
        };
        let leaks = self.faults.leak.as_deref().map(leaks).unwrap_or_default();
        for leak in &leaks {
            // in two writes, so that a reader may see half of it
            let (head, tail) = leak.split_at(leak.len() / 2);
            eprint!("counting: called with {head}");
            std::io::stderr().flush().expect("standard error takes it");
            eprintln!("{tail}");
            self.send(&json!({"jsonrpc": "2.0", "method": "notifications/message",
                "params": {"level": "error", "data": {"leak": leak}}}));
        }
        if self.faults.crash {
            eprintln!("counting: crashing as asked");
            if !leaks.is_empty() {
                eprint!("last words: {}", leaks.join(" "));
                std::process::abort();
            }
            return Some(ExitCode::from(3));
        }
        if self.faults.hang {
            return None;
        }
        if self.faults.flood {
            for number in 0..10_000 {
                self.send(&json!({"jsonrpc": "2.0", "method": "notifications/message",
                    "params": {"level": "info", "data": format!("{number:090}")}}));
            }
        }
        if self.faults.garbage {
            self.line("this is no JSON {{{");
            self.line("[]");
            self.line("{\"jsonrpc\":\"2.0\"}");
        }
        std::thread::sleep(std::time::Duration::from_millis(self.faults.slow_ms));
        if self.faults.change && !self.faults.drift {
            self.faults.drift = true;
            self.send(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
        }
        let text = [vec![text], leaks].concat().join("\n");
        let content = json!({"content": [{"type": "text", "text": text}]});
        if self.faults.other_id {
            self.result(&json!("nobody asked"), content, stateless);
            return None;
        }
        self.result(id, content.clone(), stateless);
        if self.faults.double {
            self.result(id, content, stateless);
        }
        if self.faults.never_read {
            loop {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        }
        None
    }

    fn result(&mut self, id: &Value, mut result: Value, stateless: bool) {
        if stateless {
            result["resultType"] = json!("complete");
        }
        self.send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    }

    fn error(&mut self, id: &Value, code: i64, data: Value) {
        let error = json!({"code": code, "message": "refused by counting", "data": data});
        self.send(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
    }

    fn send(&mut self, message: &Value) {
        self.line(&message.to_string());
    }

    fn line(&mut self, line: &str) {
        let mut line = line.to_owned();
        line.push('\n');
        // a shim that is gone ends us at the next read
        drop(self.out.write_all(line.as_bytes()));
        drop(self.out.flush());
    }
}
