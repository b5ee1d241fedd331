//! What the shim is measured against and with: a relay and upstreams that do the least possible.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use memchr::memmem::find;
use rustix::event::{PollFd, PollFlags, poll};

use crate::load::Era;

const READ_BYTES: usize = 256 << 10;

/// Bytes that come in pieces, in a growing buffer.
#[derive(Default)]
struct Inbox {
    buffer: Vec<u8>,
    len: usize,
}

impl Inbox {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Reads once; false at the end, whichever way it came.
    fn read(&mut self, from: &mut impl std::io::Read) -> bool {
        if self.buffer.len() < self.len + READ_BYTES {
            self.buffer.resize(self.len + READ_BYTES, 0);
        }
        let read = from.read(&mut self.buffer[self.len..]).unwrap_or(0);
        self.len += read;
        read > 0
    }

    /// Reads once; gives the bytes up to the last newline, `None` at the end.
    fn read_lines(&mut self, from: &mut File) -> Option<usize> {
        let old = self.len;
        if !self.read(from) {
            return None;
        }
        let whole = memchr::memrchr(b'\n', &self.buffer[old..self.len]);
        Some(whole.map_or(0, |at| old + at + 1))
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
    let (mut up, mut down) = (Inbox::default(), Inbox::default());
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
            match lines.read_lines(from) {
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

/// An upstream on standard streams. Answers to requests that were read together are written
/// together.
pub(crate) fn echo(era: Era, tools: usize) {
    let (mut input, mut output) = standard();
    let mut lines = Inbox::default();
    let mut out = Vec::new();
    while let Some(whole) = lines.read_lines(&mut input) {
        for line in lines.buffer[..whole].split(|byte| *byte == b'\n') {
            let before = out.len();
            answer(line, era, tools, &mut out);
            if out.len() > before {
                out.push(b'\n');
            }
        }
        lines.consume(whole);
        output.write_all(&out).unwrap();
        out.clear();
    }
}

/// An upstream behind an address: `/handshake` and `/stateless` speak one era each. Prints where
/// it listens, and ends with its standard input.
pub(crate) fn web() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || connection(stream));
        }
    });
    drop(std::io::stdin().read(&mut [0]));
}

/// One connection, one request after the other. Reads of the head what it must.
fn connection(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut inbox = Inbox::default();
    let (mut out, mut body) = (Vec::new(), Vec::new());
    loop {
        let head = loop {
            if let Some(end) = find(inbox.bytes(), b"\r\n\r\n") {
                break end + 4;
            }
            if !inbox.read(&mut stream) {
                return;
            }
        };
        let length = content_length(&inbox.bytes()[..head]);
        while inbox.len < head + length {
            if !inbox.read(&mut stream) {
                return;
            }
        }
        let (era, is_post) = {
            let text = &inbox.bytes()[..head];
            let stateless = text.starts_with(b"POST /stateless");
            let era = if stateless {
                Era::Stateless
            } else {
                Era::Handshake
            };
            (era, text.starts_with(b"POST "))
        };
        body.clear();
        if is_post {
            answer(&inbox.bytes()[head..head + length], era, 1, &mut body);
        }
        out.clear();
        if body.is_empty() {
            // a notification is taken, a stream of news is not offered
            let status = if is_post {
                "202 Accepted"
            } else {
                "405 Method Not Allowed"
            };
            write!(out, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
        } else {
            let length = body.len();
            write!(
                out,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n\r\n"
            )
            .unwrap();
            out.extend_from_slice(&body);
        }
        inbox.consume(head + length);
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let mut lines = head.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        name.eq_ignore_ascii_case(b"content-length:")
            .then_some(value)
    });
    let text = value.map(|value| std::str::from_utf8(value).unwrap().trim());
    text.map_or(0, |text| text.parse().unwrap())
}

/// Answers one message, without a newline; nothing to a notification.
fn answer(line: &[u8], era: Era, tools: usize, out: &mut Vec<u8>) {
    if find(line, b"\"tools/call\"").is_some() {
        answer_call(line, era, out);
    } else if !line.is_empty() {
        answer_other(line, era, tools, out);
    }
}

/// Our own load generator's calls, as they are and as a proxy may have edited them: the id comes
/// before the params, and the text holds no quote.
fn answer_call(line: &[u8], era: Era, out: &mut Vec<u8>) {
    let after = |needle: &[u8]| find(line, needle).unwrap() + needle.len();
    let id = &line[after(b"\"id\":")..];
    let id = &id[..memchr::memchr2(b',', b'}', id).unwrap()];
    let text = &line[after(b"\"text\":\"")..];
    let text = &text[..memchr::memchr(b'"', text).unwrap()];
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id);
    out.extend_from_slice(b",\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"");
    out.extend_from_slice(text);
    out.extend_from_slice(match era {
        Era::Handshake => b"\"}]}}",
        Era::Stateless => b"\"}],\"resultType\":\"complete\"}}",
    });
}

/// Everything that is not a call.
fn answer_other(line: &[u8], era: Era, tools: usize, out: &mut Vec<u8>) {
    let message: serde_json::Value = serde_json::from_slice(line).unwrap();
    let Some(id) = message.get("id") else {
        return;
    };
    let info = serde_json::json!({"name": "echo", "version": "1"});
    let mut result = match (message["method"].as_str().unwrap(), era) {
        ("initialize", Era::Handshake) => serde_json::json!({"protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}}, "serverInfo": info}),
        ("server/discover", Era::Stateless) => serde_json::json!({
            "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}),
        ("tools/list", _) => serde_json::json!({"tools": list(tools)}),
        _ => {
            let error = serde_json::json!({"code": -32601, "message": "no such method"});
            let answer = serde_json::json!({"jsonrpc": "2.0", "id": id, "error": error});
            return out.extend_from_slice(answer.to_string().as_bytes());
        }
    };
    if era == Era::Stateless {
        let own = serde_json::json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": info}});
        let result = result.as_object_mut().unwrap();
        result.extend(own.as_object().unwrap().clone());
    }
    let answer = serde_json::json!({"jsonrpc": "2.0", "id": id, "result": result});
    out.extend_from_slice(answer.to_string().as_bytes());
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
