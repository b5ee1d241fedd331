//! The load generator: one client of one stdio server, nothing between it and the pipes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A server under load. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: File,
    output: File,
    /// Bytes that were read lie from `start` to `end`; the rest is room.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    next_id: u64,
}

/// The median, by sorting a copy.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(&mut values.to_vec(), 0.5)
}

/// The value below which this share of the values lies.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is a small positive number"
    )]
    let at = (values.len() as f64 * share) as usize;
    values[at.min(values.len() - 1)]
}

/// Text like source code: one JSON escape in about 57 bytes.
fn text(bytes: usize) -> String {
    "    let value = compute(&input, 42); // as it was before\\n"
        .chars()
        .cycle()
        .take(bytes)
        .collect::<String>()
        .trim_end_matches('\\')
        .to_owned()
}

impl Peer {
    pub(crate) fn start(program: &Path, args: &[&str]) -> Self {
        Self::start_command(Command::new(program).args(args))
    }

    pub(crate) fn start_command(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = OwnedFd::from(child.stdin.take().unwrap());
        let output = OwnedFd::from(child.stdout.take().unwrap());
        Self {
            child,
            input: input.into(),
            output: output.into(),
            buffer: vec![0; 4 << 20],
            start: 0,
            end: 0,
            next_id: 1,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of all its threads, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let ns: f64 = tasks
            .map(|task| {
                let path = task.unwrap().path().join("schedstat");
                let text = std::fs::read_to_string(path).unwrap();
                text.split(' ').next().unwrap().parse::<f64>().unwrap()
            })
            .sum();
        ns / 1000.0
    }

    fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).unwrap();
    }

    /// The next line, without its newline.
    fn line(&mut self) -> &[u8] {
        let mut scanned = 0;
        loop {
            let rest = &self.buffer[self.start + scanned..self.end];
            if let Some(at) = memchr::memchr(b'\n', rest) {
                let line = self.start..self.start + scanned + at;
                self.start = line.end + 1;
                return &self.buffer[line];
            }
            scanned = self.end - self.start;
            self.fill();
        }
    }

    fn fill(&mut self) {
        if self.start == self.end || self.start > (2 << 20) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let read = self.output.read(&mut self.buffer[self.end..]).unwrap();
        assert!(read > 0, "the server under test ended");
        self.end += read;
    }

    /// The answer to a request, skipping notifications.
    fn answer(&mut self, method: &str, params: &str) -> serde_json::Value {
        let id = self.next_id;
        self.next_id += 1;
        let request = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n"
        );
        self.send(request.as_bytes());
        loop {
            let answer: serde_json::Value = serde_json::from_slice(self.line()).unwrap();
            if answer["id"] == id {
                assert!(answer.get("result").is_some(), "{answer}");
                return answer["result"].clone();
            }
        }
    }

    pub(crate) fn initialize(&mut self) {
        self.answer(
            "initialize",
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}"#,
        );
        self.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
    }

    pub(crate) fn discover(&mut self) {
        self.answer(
            "server/discover",
            r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}"#,
        );
    }

    /// Lists the tools; gives how many there are.
    pub(crate) fn list(&mut self) -> usize {
        let result = self.answer("tools/list", "{}");
        result["tools"].as_array().unwrap().len()
    }

    fn call_line(id: u64, tool: &str, text: &str) -> Vec<u8> {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":\
             {{\"name\":\"{tool}\",\"arguments\":{{\"text\":\"{text}\"}}}}}}\n"
        )
        .into_bytes()
    }

    /// Calls one after the other; gives the time of each in microseconds. The first answers are
    /// checked byte for byte, the rest by length.
    pub(crate) fn calls(&mut self, tool: &str, bytes: usize, calls: usize) -> Vec<f64> {
        let text = text(bytes);
        let mut expected = 0;
        let mut times = Vec::with_capacity(calls);
        for number in 0..calls {
            // ids of one width, so that lengths are equal
            let id = 1_000_000 + self.next_id;
            self.next_id += 1;
            let request = Self::call_line(id, tool, &text);
            let start = Instant::now();
            self.send(&request);
            let answer = self.line();
            let took = start.elapsed();
            if number < 3 {
                let answer = std::str::from_utf8(answer).unwrap();
                assert!(
                    answer.contains(&text) && answer.contains(&id.to_string()),
                    "{answer}"
                );
                expected = answer.len();
            }
            assert_eq!(self.last_len(), expected);
            times.push(took.as_secs_f64() * 1e6);
        }
        times
    }

    /// How long the line was that was read last.
    fn last_len(&self) -> usize {
        let end = self.start - 1;
        let before = self.buffer.get(..end).unwrap_or_default();
        end - memchr::memrchr(b'\n', before).map_or(0, |at| at + 1)
    }

    /// Calls per second with this many in flight.
    pub(crate) fn pipelined(
        &mut self,
        tool: &str,
        bytes: usize,
        in_flight: usize,
        calls: usize,
    ) -> f64 {
        let text = text(bytes);
        let mut requests = Vec::new();
        let mut sent = 0;
        let add = |requests: &mut Vec<u8>, next_id: &mut u64| {
            requests.extend(Self::call_line(1_000_000 + *next_id, tool, &text));
            *next_id += 1;
        };
        let start = Instant::now();
        for _ in 0..in_flight {
            add(&mut requests, &mut self.next_id);
            sent += 1;
        }
        let mut answered = 0;
        while answered < calls {
            if !requests.is_empty() {
                self.send(&std::mem::take(&mut requests));
            }
            // one answer is waited for, and all that came with it are taken
            self.line();
            answered += 1;
            while memchr::memchr(b'\n', &self.buffer[self.start..self.end]).is_some() {
                self.line();
                answered += 1;
            }
            while sent < calls && sent - answered < in_flight {
                add(&mut requests, &mut self.next_id);
                sent += 1;
            }
        }
        calls as f64 / start.elapsed().as_secs_f64()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
