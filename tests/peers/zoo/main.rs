//! A zoo of bad upstream servers: one program, one fault a name. It shares no code with mcpshim. It
//! behaves until the file of `--when` is there, so that it can be
//! pinned first.
//!
//! ```text
//! zoo FAULT --when FILE [--log FILE]
//! ```
//!
//! One tool: `act {id}`, logged and answered with the id. The faults are those of `match`.
#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::exit,
    clippy::indexing_slicing,
    reason = "a test peer: a broken pipe or fixture ends it, and what it leaves is left on purpose"
)]

use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::time::Duration;

use serde_json::{Value, json};

/// Bytes of a line that is too long, and of one piece of a flood.
const LONG: usize = 24 << 20;
const PIECE: usize = 1 << 16;

struct Zoo {
    /// What it does wrong, once it may.
    fault: String,
    bad: bool,
    log: Option<File>,
    out: std::io::Stdout,
    calls: u32,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let fault = args.next().expect("a fault");
    let mut zoo = Zoo {
        fault,
        bad: true,
        log: None,
        out: std::io::stdout(),
        calls: 0,
    };
    while let Some(arg) = args.next() {
        let value = args.next().expect("a flag has a value");
        match arg.as_str() {
            "--log" => {
                let file = File::options().append(true).create(true).open(value);
                zoo.log = Some(file.expect("the log opens"));
            }
            "--when" => zoo.bad = Path::new(&value).exists(),
            other => panic(&format!("unknown flag {other}")),
        }
    }
    zoo.starts();
    let mut lines = std::io::stdin().lock().lines();
    while let Some(Ok(line)) = lines.next() {
        let message: Value = serde_json::from_str(&line).unwrap_or_default();
        if let (Some(id), Some(method)) = (message.get("id"), message["method"].as_str()) {
            zoo.request(id, method, &message["params"]);
        }
    }
}

fn panic(text: &str) -> ! {
    eprintln!("{text}");
    exit(2)
}

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn for_ever() -> ! {
    loop {
        sleep(1000);
    }
}

impl Zoo {
    fn is(&self, fault: &str) -> bool {
        self.bad && self.fault == fault
    }

    fn fault(&self) -> &str {
        match self.bad {
            true => &self.fault,
            false => "",
        }
    }

    fn starts(&mut self) {
        match self.fault() {
            "ends-at-once" => panic("zoo: no licence found"),
            "silent" => for_ever(),
            "slow-start" => sleep(2500),
            "prints-at-start" => {
                self.bytes(
                    b"Server listening on port 3000\n\n\x1b[31mwarning\x1b[0m: deprecated\n",
                );
            }
            "closes-stdout-at-start" => {
                close_stdout();
                for_ever();
            }
            _ => {}
        }
    }

    fn request(&mut self, id: &Value, method: &str, params: &Value) {
        match method {
            "initialize" if self.is("ends-on-initialize") => exit(4),
            "initialize" => self.result(
                id,
                &json!({"protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {"listChanged": true}},
                    "serverInfo": {"name": "zoo", "version": "1"}}),
            ),
            "tools/list" => self.list(id, params),
            "tools/call" => {
                self.calls += 1;
                self.call(id, params["arguments"]["id"].as_str().unwrap_or("?"));
            }
            _ => {
                let error = json!({"code": -32601, "message": "no"});
                self.send(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
            }
        }
    }

    fn list(&mut self, id: &Value, params: &Value) {
        let act = json!({"name": "act", "inputSchema": {"type": "object",
            "properties": {"id": {"type": "string"}}}});
        match self.fault() {
            "endless-pages" => {
                let page = params["cursor"].as_str().map_or(0, |cursor| cursor.len());
                let tool = json!({"name": format!("t{page}"), "inputSchema": {"type": "object"}});
                let more = "c".repeat(page + 1);
                self.result(id, &json!({"tools": [tool], "nextCursor": more}));
            }
            "huge-list" => {
                let tool = json!({"name": "huge", "description": "x".repeat(LONG),
                    "inputSchema": {"type": "object"}});
                self.result(id, &json!({"tools": [act, tool]}));
            }
            "deep-list" => {
                let deep = format!("{}{}", "[".repeat(1200), "]".repeat(1200));
                self.bytes(
                    format!(
                        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"tools\":[{act}],\"x\":{deep}}}}}\n"
                    )
                    .as_bytes(),
                );
            }
            "changes-for-ever" => {
                self.result(id, &json!({"tools": [act]}));
                std::thread::spawn(|| {
                    let note = json!({"jsonrpc": "2.0",
                        "method": "notifications/tools/list_changed"});
                    let note = format!("{note}\n");
                    while std::io::stdout().write_all(note.as_bytes()).is_ok() {
                        sleep(1);
                    }
                });
            }
            _ => self.result(id, &json!({"tools": [act]})),
        }
    }

    fn call(&mut self, id: &Value, call: &str) {
        if let Some(log) = &mut self.log {
            log.write_all(format!("{call}\n").as_bytes())
                .expect("the log takes it");
        }
        let content = json!({"content": [{"type": "text", "text": call}]});
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": content});
        match self.fault() {
            "slow-answer" => sleep(1500),
            "ends-in-call" => {
                eprintln!("zoo: out of memory");
                exit(9);
            }
            "ends-in-mid-line" => {
                let line = answer.to_string();
                let half = line.as_bytes().get(..line.len() / 2).unwrap_or_default();
                self.bytes(half);
                exit(0);
            }
            "mute" => return,
            "answers-late" => sleep(5000),
            "answers-twice" => self.send(&answer),
            "answers-others" => {
                for other in [json!(0), json!(1), json!(99_999), json!("x"), Value::Null] {
                    self.send(&json!({"jsonrpc": "2.0", "id": other, "result": content}));
                }
                return;
            }
            "asks-for-ever" => {
                for number in 0..10_000 {
                    let methods = [
                        "roots/list",
                        "sampling/createMessage",
                        "elicitation/create",
                        "ping",
                        "no/such",
                    ];
                    let method = methods.get(number % methods.len()).copied();
                    self.send(&json!({"jsonrpc": "2.0", "id": format!("q{number}"),
                        "method": method, "params": {"message": "?"}}));
                }
            }
            "floods-notifications" => {
                let note = json!({"jsonrpc": "2.0", "method": "notifications/message",
                    "params": {"level": "info", "data": "x".repeat(200)}});
                self.for_ever(format!("{note}\n").repeat(100).as_bytes());
            }
            "floods-progress" => {
                let note = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": id, "progress": 1}});
                self.for_ever(format!("{note}\n").repeat(100).as_bytes());
            }
            "floods-stdout" => self.for_ever("not a message\n".repeat(1000).as_bytes()),
            "floods-stderr" => {
                let noise = "noise\n".repeat(PIECE / 6);
                while std::io::stderr().write_all(noise.as_bytes()).is_ok() {}
            }
            "floods-empty-lines" => self.for_ever("\n".repeat(PIECE).as_bytes()),
            "never-reads" if self.calls == 1 => {
                self.send(&answer);
                for_ever();
            }
            "long-line" => {
                let line = json!({"jsonrpc": "2.0", "id": id, "result":
                    {"content": [{"type": "text", "text": "x".repeat(LONG)}]}});
                self.send(&line);
                return;
            }
            "endless-line" => self.for_ever(&vec![b'x'; PIECE]),
            "invalid-utf8" => {
                let line = answer.to_string().replace(call, "\u{1}");
                let line: Vec<u8> = line
                    .replace("\\u0001", "\u{1}")
                    .bytes()
                    .map(|byte| if byte == 1 { 0xff } else { byte })
                    .chain([b'\n'])
                    .collect();
                self.bytes(&line);
                return;
            }
            "prints-in-call" => {
                self.bytes(b"DEBUG calling backend\n");
                self.bytes(b"{\"level\":\"info\",\"msg\":\"structured log\"}\n");
                self.bytes(b"\xff\xfe\x00binary\n");
            }
            "closes-stdout-in-call" => {
                close_stdout();
                for_ever();
            }
            "leaves-the-pipe-behind" => {
                // a child that keeps our standard output open after we have gone
                let mut child = Command::new("sh");
                child.args(["-c", "trap '' TERM HUP INT; sleep 60"]);
                child.stdin(Stdio::null()).stdout(Stdio::inherit());
                child.spawn().expect("sh starts");
                exit(0);
            }
            _ => {}
        }
        self.send(&answer);
    }

    fn for_ever(&mut self, piece: &[u8]) -> ! {
        loop {
            self.bytes(piece);
        }
    }

    fn result(&mut self, id: &Value, result: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    }

    fn send(&mut self, message: &Value) {
        self.bytes(format!("{message}\n").as_bytes());
    }

    /// A shim that is gone ends us.
    fn bytes(&mut self, bytes: &[u8]) {
        let done = self.out.write_all(bytes).and_then(|()| self.out.flush());
        if done.is_err() {
            exit(0);
        }
    }
}

/// Closes the descriptor behind `print!`, which std never does.
fn close_stdout() {
    #[cfg(unix)]
    {
        let null = File::options().write(true).open("/dev/null");
        rustix::stdio::dup2_stdout(null.expect("there is /dev/null")).expect("dup2");
    }
}
