//! A small HTTP server of ours, which answers as a test wants and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, Grant, Org, Recording, Server, Shim};

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The JSON-RPC method; empty where there is none.
    pub(crate) fn rpc(&self) -> &str {
        self.body["method"].as_str().unwrap_or("")
    }

    /// The tool of a call.
    pub(crate) fn tool(&self) -> &str {
        self.body["params"]["name"].as_str().unwrap_or("")
    }

    /// An answer to it.
    pub(crate) fn result(&self, mut result: Value) -> Value {
        if !self.body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].is_null() {
            result["resultType"] = json!("complete");
        }
        json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result})
    }

    /// A tool's answer with this text.
    pub(crate) fn says(&self, text: &str) -> Value {
        self.result(json!({"content": [{"type": "text", "text": text}]}))
    }

    /// A progress notification for it.
    pub(crate) fn progress(&self, progress: u64) -> Value {
        let token = &self.body["params"]["_meta"]["progressToken"];
        json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": token, "progress": progress}})
    }
}

/// The other end of one connection.
#[derive(Debug)]
pub(crate) struct Line(pub(crate) TcpStream);

impl Line {
    /// Writes bytes; false when nobody reads them any more.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).is_ok() && self.0.flush().is_ok()
    }

    /// A whole response.
    pub(crate) fn respond(&mut self, status: &str, headers: &str, body: &str) -> bool {
        let len = body.len();
        self.write(format!(
            "HTTP/1.1 {status}\r\nContent-Length: {len}\r\n{headers}\r\n{body}"
        ))
    }

    /// A JSON response.
    pub(crate) fn json(&mut self, body: &Value) -> bool {
        let headers = "Content-Type: application/json\r\n";
        self.respond("200 OK", headers, &body.to_string())
    }

    /// Begins a stream of events; it lasts until the connection ends.
    pub(crate) fn events(&mut self) -> bool {
        self.write(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
        )
    }

    pub(crate) fn event(&mut self, message: &Value) -> bool {
        self.write(format!("data: {message}\n\n"))
    }

    /// Waits until the other side has closed.
    pub(crate) fn until_closed(&mut self) -> bool {
        self.0
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut byte = [0];
        matches!(self.0.read(&mut byte), Ok(0) | Err(_))
    }
}

/// The server. It ends with the test.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) url: String,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
}

impl Web {
    /// Starts one; the function answers a request, and says whether the connection goes on.
    pub(crate) fn start(answer: impl Fn(&Seen, &mut Line) -> bool + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answer)
    }

    /// The same at an address that was used before.
    pub(crate) fn start_at(
        address: SocketAddr,
        answer: impl Fn(&Seen, &mut Line) -> bool + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let (all, end) = (Arc::clone(&seen), Arc::clone(&over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                let end = Arc::clone(&end);
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut line = Line(stream);
                    while let Some(request) = read(&mut reader) {
                        if end.load(Ordering::SeqCst) {
                            break;
                        }
                        all.lock().unwrap().push(request.clone());
                        if !answer(&request, &mut line) {
                            break;
                        }
                    }
                    drop(line.0.shutdown(std::net::Shutdown::Both));
                });
            }
        });
        Self {
            url: format!("http://{address}/mcp"),
            address,
            seen,
            over,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was asked with this JSON-RPC method.
    pub(crate) fn asked(&self, rpc: &str) -> Vec<Seen> {
        let all = self.seen.lock().unwrap();
        all.iter()
            .filter(|seen| seen.rpc() == rpc)
            .cloned()
            .collect()
    }

    /// What was asked with this HTTP method.
    pub(crate) fn requests(&self, method: &str) -> Vec<Seen> {
        let all = self.seen.lock().unwrap();
        all.iter()
            .filter(|seen| seen.method == method)
            .cloned()
            .collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|len| len.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Seen {
        method: first.split(' ').next()?.to_owned(),
        path: first.split(' ').nth(1)?.to_owned(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

/// Tools without arguments.
pub(crate) fn tools(names: &[&str]) -> Value {
    let tool = |name: &&str| json!({"name": name, "inputSchema": {"type": "object"}});
    names.iter().map(tool).collect()
}

/// Answers what a server of the stateless era answers before the first call; `None` for the rest.
pub(crate) fn stateless(seen: &Seen, line: &mut Line, tools: &Value) -> Option<bool> {
    let result = match seen.rpc() {
        "server/discover" => json!({
            "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
            "ttlMs": 0, "cacheScope": "private",
        }),
        "tools/list" => json!({"tools": tools, "ttlMs": 0, "cacheScope": "private"}),
        "initialize" | "notifications/initialized" => panic!("a server of the stateless era"),
        _ => return None,
    };
    Some(line.json(&seen.result(result)))
}

/// The same of the handshake era, without a session.
pub(crate) fn handshake(
    seen: &Seen,
    line: &mut Line,
    tools: &Value,
    session: &str,
) -> Option<bool> {
    let session = match session {
        "" => String::new(),
        id => format!("Mcp-Session-Id: {id}\r\n"),
    };
    let json = "Content-Type: application/json\r\n";
    match (seen.method.as_str(), seen.rpc()) {
        ("GET", _) => Some(line.respond("405 Method Not Allowed", "", "")),
        ("DELETE", _) => Some(line.respond("204 No Content", "", "")),
        (_, "server/discover") => Some(line.respond("400 Bad Request", "", "")),
        (_, "initialize") => {
            let result = seen.result(json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {"listChanged": true}},
                "serverInfo": {"name": "web", "version": "1"},
            }));
            Some(line.respond("200 OK", &format!("{session}{json}"), &result.to_string()))
        }
        (_, "tools/list") => Some(line.json(&seen.result(json!({"tools": tools})))),
        (_, rpc) if rpc.starts_with("notifications/") => Some(line.respond("202 Accepted", "", "")),
        _ => None,
    }
}

/// An organisation with one remote server `web`, and the stdio server `other` beside it.
pub(crate) fn org(web: &Web, more: &str) -> Org {
    let org = Org::new();
    org.server(&Server::http("web", &web.url).with(more));
    org.server(&Server::counting("other", []));
    org.agent("ci");
    let all = [("web", Grant::ALL), ("other", Grant::ALL)];
    org.role("tester", &["ci"], &all);
    org.publish();
    org
}

#[track_caller]
pub(crate) fn text(answer: &Answer) -> String {
    answer.text().to_owned()
}

/// Whatever the server answered: what it was asked is the protocol's.
#[track_caller]
pub(crate) fn asked_rightly(org: &Org, web: &Web) {
    let recording = Recording::named(org, "asked");
    recording.asked("web", web);
    recording.validate(&[]);
}

/// The other server answers as if nothing were wrong.
#[track_caller]
pub(crate) fn others_are_well(shim: &mut Shim) {
    // never the same call twice: that is bounded
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    let times = TIMES.fetch_add(1, Ordering::SeqCst);
    let answer = shim.call("other_echo", json!({"text": times.to_string()}));
    assert!(!answer.is_tool_error(), "{answer:?}");
}

/// Calls the tool `slow` of `web`, and takes the call back once it goes on.
pub(crate) fn take_back(shim: &mut Shim) {
    let params = json!({"name": "web_slow", "arguments": {}, "_meta": {"progressToken": 1}});
    let id = shim.post("tools/call", params);
    while shim.next(Duration::from_secs(30)).unwrap()["method"] != "notifications/progress" {}
    shim.send(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
        "params": {"requestId": id}}),
    );
}
