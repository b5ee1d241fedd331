//! What the shim is measured against and with: a relay and an upstream that do the least possible.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};

const READ_BYTES: usize = 256 << 10;

/// Whole lines out of a growing buffer.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    len: usize,
}

impl Lines {
    /// Reads once; gives the bytes up to the last newline, `None` at the end.
    fn read(&mut self, from: &mut File) -> Option<usize> {
        if self.buffer.len() < self.len + READ_BYTES {
            self.buffer.resize(self.len + READ_BYTES, 0);
        }
        let read = from.read(&mut self.buffer[self.len..]).unwrap();
        let new = self.len..self.len + read;
        self.len += read;
        let whole = memchr::memrchr(b'\n', &self.buffer[new.clone()]);
        (read > 0).then(|| whole.map_or(0, |at| new.start + at + 1))
    }

    fn consume(&mut self, len: usize) {
        self.buffer.copy_within(len..self.len, 0);
        self.len -= len;
    }
}

fn standard() -> (File, File) {
    let input = rustix::io::dup(rustix::stdio::stdin()).unwrap();
    let output = rustix::io::dup(rustix::stdio::stdout()).unwrap();
    (input.into(), output.into())
}

/// Passes lines between our streams and a child's, with `poll` and one buffer a direction.
pub(crate) fn relay(command: &[&str]) {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut client_in, mut client_out) = standard();
    let mut server_in: File = OwnedFd::from(child.stdin.take().unwrap()).into();
    let mut server_out: File = OwnedFd::from(child.stdout.take().unwrap()).into();
    let (mut up, mut down) = (Lines::default(), Lines::default());
    loop {
        let (from_client, from_server) = {
            let mut fds = [
                PollFd::new(&client_in, PollFlags::IN),
                PollFd::new(&server_out, PollFlags::IN),
            ];
            poll(&mut fds, None).unwrap();
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
        };
        let ways = [
            (from_client, &mut up, &mut client_in, &mut server_in),
            (from_server, &mut down, &mut server_out, &mut client_out),
        ];
        for (_, lines, from, to) in ways.into_iter().filter(|(ready, ..)| *ready) {
            match lines.read(from) {
                None => {
                    drop(child.kill());
                    drop(child.wait());
                    return;
                }
                Some(whole) => {
                    to.write_all(&lines.buffer[..whole]).unwrap();
                    lines.consume(whole);
                }
            }
        }
    }
}

/// Answers calls with their own text, without parsing more than it must. Answers to requests
/// that were read together are written together.
pub(crate) fn echo(tools: usize) {
    let (mut input, mut output) = standard();
    let mut lines = Lines::default();
    let mut out = Vec::new();
    while let Some(whole) = lines.read(&mut input) {
        for line in lines.buffer[..whole].split(|byte| *byte == b'\n') {
            if memchr::memmem::find(line, b"\"tools/call\"").is_some() {
                answer_call(line, &mut out);
            } else if !line.is_empty() {
                answer(line, tools, &mut out);
            }
        }
        lines.consume(whole);
        output.write_all(&out).unwrap();
        out.clear();
    }
}

/// Our own load generator's calls, as they are and as a proxy may have edited them: the id comes
/// before the params, the text is the last string.
fn answer_call(line: &[u8], out: &mut Vec<u8>) {
    let after = |needle: &[u8]| memchr::memmem::find(line, needle).unwrap() + needle.len();
    let id = &line[after(b"\"id\":")..];
    let id = &id[..memchr::memchr2(b',', b'}', id).unwrap()];
    let text = &line[after(b"\"text\":\"")..];
    let text = &text[..memchr::memrchr(b'"', text).unwrap()];
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\"}]}}\n");
}

/// Everything that is not a call.
fn answer(line: &[u8], tools: usize, out: &mut Vec<u8>) {
    let message: serde_json::Value = serde_json::from_slice(line).unwrap();
    let Some(id) = message.get("id") else {
        return;
    };
    let result = match message["method"].as_str().unwrap() {
        "initialize" => serde_json::json!({"result": {"protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}}, "serverInfo": {"name": "echo", "version": "1"}}}),
        "tools/list" => serde_json::json!({"result": {"tools": list(tools)}}),
        _ => serde_json::json!({"error": {"code": -32601, "message": "no such method"}}),
    };
    let mut answer = serde_json::json!({"jsonrpc": "2.0", "id": id});
    answer
        .as_object_mut()
        .unwrap()
        .extend(result.as_object().unwrap().clone());
    out.extend_from_slice(answer.to_string().as_bytes());
    out.push(b'\n');
}

/// `echo`, and as many others of a usual size as were asked for.
fn list(tools: usize) -> Vec<serde_json::Value> {
    let schema = serde_json::json!({"type": "object", "properties": {
        "text": {"type": "string", "description": "The text that comes back."}}});
    let mut list = vec![serde_json::json!({"name": "echo", "inputSchema": schema})];
    for number in 1..tools {
        list.push(serde_json::json!({
            "name": format!("lookup_record_{number}"),
            "title": format!("Look up record kind {number}"),
            "description": "Finds records of this kind by any of their fields and gives the \
                            newest first. Use the cursor of an answer to read on.",
            "inputSchema": {"type": "object", "required": ["query"], "properties": {
                "query": {"type": "string", "description": "Words that must all be there."},
                "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
                "cursor": {"type": "string", "description": "From the answer before."}}},
            "annotations": {"readOnlyHint": true, "openWorldHint": false}}));
    }
    list
}
