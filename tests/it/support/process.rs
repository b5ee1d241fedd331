//! Programs under test, started and ended.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Ten times what anything here should take, on a machine that is busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The laptop build of `mcpshim`: what developers run, without signing and server code.
///
/// nextest's set-up script builds it and names it in `MCPSHIM_LAPTOP`; under plain `cargo test`
/// the first test that asks builds it.
pub(crate) fn laptop() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("MCPSHIM_LAPTOP") {
            return PathBuf::from(path);
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = root.join("target/laptop");
        let status = Command::new(env!("CARGO"))
            .current_dir(root)
            .args([
                "build",
                "--quiet",
                "--no-default-features",
                "--bin",
                "mcpshim",
            ])
            .arg("--target-dir")
            .arg(&target)
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the laptop build fails: {status}");
        target.join("debug/mcpshim")
    })
}

/// One of the programs, by name.
pub(crate) fn program(name: &str) -> &'static Path {
    match name {
        "mcpshim" => laptop(),
        "mcpshim-admin" => Path::new(env!("CARGO_BIN_EXE_mcpshim-admin")),
        "mcpshim-collector" => Path::new(env!("CARGO_BIN_EXE_mcpshim-collector")),
        other => panic!("no program {other}"),
    }
}

/// Said where nobody can miss it: `scripts/test` prints what could not be run.
#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
pub(crate) fn skipped(why: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED: {why}");
    if let Some(path) = std::env::var_os("MCPSHIM_SKIPPED") {
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        writeln!(file, "SKIPPED: {why}").unwrap();
    }
}

/// Runs a command where the clock is off, by Debian's libfaketime; `scripts/test` installs it. False
/// where that cannot be done.
pub(crate) fn shifted(command: &mut Command, by: &str) -> bool {
    let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
    if !library.exists() {
        skipped("libfaketime is not installed (apt-get install faketime)");
        return false;
    }
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME", by)
        .env("DONT_FAKE_MONOTONIC", "1");
    true
}

/// How a program that was run to its end ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Fails the test unless the program ended with exit code 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// Fails the test unless the program ended with this exit code and this in its complaint.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, complaint: &str) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        assert!(
            self.stderr.contains(complaint),
            "no {complaint:?} in {self:#?}"
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// Standard output as one JSON object a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
            .collect()
    }
}

/// Runs a command to its end, with a deadline.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ended {
    run_with(command, "")
}

/// The same, with this on its standard input.
#[track_caller]
pub(crate) fn run_with(command: &mut Command, input: &str) -> Ended {
    let shown = format!("{command:?}");
    let stdin = match input {
        "" => Stdio::null(),
        _ => Stdio::piped(),
    };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    if let Some(mut stdin) = child.stdin.take() {
        // one that does not read it says so itself
        drop(stdin.write_all(input.as_bytes()));
    }
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        let mut stream = stream.expect("piped");
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            drop(stream.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|s| Box::new(s) as _));
    let stderr = read(child.stderr.take().map(|s| Box::new(s) as _));
    let status = wait(&mut child, DEADLINE * 4).unwrap_or_else(|| {
        drop(child.kill());
        panic!("still running after its deadline: {shown}");
    });
    Ended {
        status,
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    }
}

/// Waits until the condition gives a value; the test fails at the deadline.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program that runs beside the test; killed when dropped, its process group included.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stderr: Option<std::thread::JoinHandle<String>>,
    stderr_lines: Option<Receiver<String>>,
}

impl Running {
    /// Starts the command in a process group of its own.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut child = command
            .process_group(0)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stderr = child.stderr.take().expect("piped");
        let (tell, stderr_lines) = channel();
        let stderr = std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let (mut all, mut bytes) = (String::new(), Vec::new());
            while reader
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|read| read > 0)
            {
                let line = String::from_utf8_lossy(&bytes).into_owned();
                all.push_str(&line);
                // most tests read it as a whole, or not at all
                drop(tell.send(line.trim_end().to_owned()));
                bytes.clear();
            }
            all
        });
        Self {
            child,
            stderr: Some(stderr),
            stderr_lines: Some(stderr_lines),
        }
    }

    /// Its standard error line by line while it runs, once.
    pub(crate) fn stderr_lines(&mut self) -> Receiver<String> {
        self.stderr_lines.take().expect("not taken")
    }

    /// Its standard output, once, where it was piped.
    pub(crate) fn stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().expect("piped and not taken")
    }

    /// Its standard input, once, where it was piped.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped and not taken")
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` would, and waits for it.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Ends it and everything in its process group.
    pub(crate) fn kill_all(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).ok();
        drop(self.child.wait());
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait(&mut self.child, DEADLINE).expect("it ends within the deadline")
    }

    /// Everything it wrote to standard error; waits for its end.
    pub(crate) fn stderr(&mut self) -> String {
        self.stderr
            .take()
            .map_or_else(String::new, |s| s.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// What came back for one request.
#[derive(Debug, Clone)]
pub(crate) struct Answer(pub(crate) Value);

impl Answer {
    /// The result; fails the test on an error.
    #[track_caller]
    pub(crate) fn result(&self) -> &Value {
        self.0
            .get("result")
            .unwrap_or_else(|| panic!("no result: {}", self.0))
    }

    /// The error's code and message; fails the test on a result.
    #[track_caller]
    pub(crate) fn error(&self) -> (i64, &str) {
        let error = self
            .0
            .get("error")
            .unwrap_or_else(|| panic!("no error: {}", self.0));
        (
            error["code"].as_i64().unwrap(),
            error["message"].as_str().unwrap(),
        )
    }

    /// As [`Self::error`], for an answer that is not kept.
    #[track_caller]
    pub(crate) fn error_owned(&self) -> (i64, String) {
        let (code, message) = self.error();
        (code, message.to_owned())
    }

    /// The text of a tool result's first content block.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        let result = self.result();
        result["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("no text: {}", self.0))
    }

    /// Whether it is a tool result that says it failed.
    pub(crate) fn is_tool_error(&self) -> bool {
        self.0["result"]["isError"] == json!(true)
    }

    /// Fails the test unless this is a policy denial; gives its text.
    #[track_caller]
    pub(crate) fn denied(&self) -> &str {
        assert!(self.is_tool_error(), "not refused: {}", self.0);
        let text = self.text();
        let begins = ["Policy denial, do not retry: ", "Refused until "];
        assert!(begins.iter().any(|begin| text.starts_with(begin)), "{text}");
        text
    }
}

/// An MCP client of one server: sends lines, reads lines, holds every line to be protocol.
///
/// Reading and writing are on threads of their own, so neither end can block the test.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) process: Running,
    stdin: Option<std::sync::mpsc::Sender<Vec<u8>>>,
    lines: Receiver<Vec<u8>>,
    next_id: u64,
    /// Sent with every request: the era's `_meta`, in the stateless era.
    meta: Option<Value>,
    /// Messages that were read while another was waited for: notifications and requests.
    pub(crate) others: Vec<Value>,
    /// Responses that were read while another was waited for.
    responses: Vec<Value>,
}

impl Shim {
    /// Starts any stdio server.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let stdout = process.child.stdout.take().expect("piped");
        let (to_test, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                match reader.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                if to_test.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = process.child.stdin.take().expect("piped");
        Self {
            process,
            stdin: Some(writer(stdin)),
            lines,
            next_id: 0,
            meta: None,
            others: Vec::new(),
            responses: Vec::new(),
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: impl Into<Vec<u8>>) {
        // a shim that is gone cannot be told; the test sees it when it reads
        drop(self.stdin.as_ref().expect("open").send(bytes.into()));
    }

    /// Sends one message as a line.
    pub(crate) fn send(&mut self, message: &Value) {
        self.send_bytes(format!("{message}\n"));
    }

    /// Sends a request and gives its id, without waiting.
    pub(crate) fn post(&mut self, method: &str, mut params: Value) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        if let (Some(meta), Some(params)) = (&self.meta, params.as_object_mut()) {
            let own = params.entry("_meta").or_insert_with(|| json!({}));
            for (key, value) in meta.as_object().unwrap() {
                own[key] = value.clone();
            }
        }
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    /// Sends a request and waits for its response.
    #[track_caller]
    pub(crate) fn request(&mut self, method: &str, params: Value) -> Answer {
        let id = self.post(method, params);
        self.answer(&json!(id))
    }

    /// Waits for the response to an id.
    #[track_caller]
    pub(crate) fn answer(&mut self, id: &Value) -> Answer {
        if let Some(at) = self.responses.iter().position(|r| r["id"] == *id) {
            return Answer(self.responses.remove(at));
        }
        let end = Instant::now() + DEADLINE;
        loop {
            let Some(message) = self.next_by(end) else {
                panic!("no answer to {id} (others: {:?})", self.others)
            };
            if message.get("method").is_some() {
                self.others.push(message);
            } else if message["id"] == *id {
                return Answer(message);
            } else {
                self.responses.push(message);
            }
        }
    }

    /// The response to an id, if it was read already.
    pub(crate) fn arrived(&mut self, id: &Value) -> Option<Answer> {
        let at = self.responses.iter().position(|r| r["id"] == *id)?;
        Some(Answer(self.responses.remove(at)))
    }

    /// The next message of any kind; `None` when the server closed its end or stays silent.
    #[track_caller]
    pub(crate) fn next(&mut self, patience: Duration) -> Option<Value> {
        self.next_by(Instant::now() + patience)
    }

    #[track_caller]
    fn next_by(&mut self, end: Instant) -> Option<Value> {
        let patience = end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(patience) {
            Ok(line) => Some(protocol(&line)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Opens a session of the handshake era; gives the result of `initialize`.
    #[track_caller]
    pub(crate) fn initialize(&mut self) -> Value {
        self.initialize_as("2025-11-25", json!({}))
    }

    /// Opens a session of the handshake era at a revision, with capabilities.
    #[track_caller]
    pub(crate) fn initialize_as(&mut self, revision: &str, capabilities: Value) -> Value {
        let params = json!({
            "protocolVersion": revision,
            "capabilities": capabilities,
            "clientInfo": {"name": "it", "version": "1"},
        });
        let result = self.request("initialize", params).result().clone();
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        result
    }

    /// Speaks the stateless era from here on; gives the result of `server/discover`.
    #[track_caller]
    pub(crate) fn discover(&mut self) -> Value {
        self.discover_as(json!({}))
    }

    /// The same as a client of these capabilities.
    #[track_caller]
    pub(crate) fn discover_as(&mut self, capabilities: Value) -> Value {
        self.meta = Some(json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        }));
        self.request("server/discover", json!({})).result().clone()
    }

    /// Says other things of itself from here on, in the stateless era: members of `_meta`.
    pub(crate) fn declare(&mut self, members: &Value) {
        let own = self.meta.as_mut().expect("the stateless era");
        for (key, value) in members.as_object().unwrap() {
            own[key] = value.clone();
        }
    }

    /// Calls a tool.
    #[track_caller]
    pub(crate) fn call(&mut self, tool: &str, arguments: Value) -> Answer {
        self.request("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    /// The names of one list, e.g. `tools` or `prompts`; URIs for resources.
    #[track_caller]
    pub(crate) fn names(&mut self, list: &str) -> Vec<String> {
        let (method, member, key) = match list {
            "templates" => (
                "resources/templates/list",
                "resourceTemplates",
                "uriTemplate",
            ),
            "resources" => ("resources/list", "resources", "uri"),
            other => (&*format!("{other}/list"), other, "name"),
        };
        let answer = self.request(method, json!({}));
        let entries = answer.result()[member].as_array().unwrap().clone();
        entries
            .iter()
            .map(|e| e[key].as_str().unwrap().to_owned())
            .collect()
    }

    /// Closes its input, as clients do to end a server.
    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Ends it as a crash would: by a signal that writes a core file where one may be written.
    pub(crate) fn crash(mut self) {
        self.process.signal(rustix::process::Signal::ABORT);
        self.process.ended();
    }

    /// Ends the session: closes the input, reads what is left, waits for the exit.
    #[track_caller]
    pub(crate) fn close(mut self) -> (ExitStatus, Vec<Value>, String) {
        self.close_input();
        let mut left = std::mem::take(&mut self.others);
        left.append(&mut self.responses);
        while let Some(message) = self.next(DEADLINE) {
            left.push(message);
        }
        let status = self.process.ended();
        let stderr = self.process.stderr();
        (status, left, stderr)
    }
}

fn writer(mut stdin: ChildStdin) -> std::sync::mpsc::Sender<Vec<u8>> {
    let (sender, jobs) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for bytes in jobs {
            if stdin.write_all(&bytes).is_err() || stdin.flush().is_err() {
                return;
            }
        }
    });
    sender
}

/// Holds a line to be one JSON-RPC message: everything on standard output is protocol.
#[track_caller]
fn protocol(line: &[u8]) -> Value {
    let shown = || String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned();
    assert!(
        line.ends_with(b"\n"),
        "a line that does not end: {}",
        shown()
    );
    let message: Value = serde_json::from_slice(line)
        .unwrap_or_else(|e| panic!("standard output carries something else ({e}): {}", shown()));
    assert_eq!(message["jsonrpc"], json!("2.0"), "{}", shown());
    let request = message["method"].is_string();
    let response = message.get("result").is_some() != message.get("error").is_some();
    assert!(
        request != response,
        "neither a request nor a response: {}",
        shown()
    );
    message
}
