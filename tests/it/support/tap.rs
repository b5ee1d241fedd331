//! Stands between mcpshim and a server at an address, and keeps what both say.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::web::Seen;

/// An address that leads to another one. It ends with the test.
#[derive(Debug)]
pub(crate) struct Tap {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Tap {
    /// Keeps what is said in files that begin so, a pair a session.
    pub(super) fn start(files: PathBuf, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&over);
        let kept = Arc::new(Kept {
            files,
            one_at_a_time: Mutex::new(()),
        });
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                stand_between(&client, &server, &kept);
            }
        });
        Self { address, over }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where servers of Streamable HTTP are found.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

/// A request that was passed on, and waits for the begin of its response.
struct Exchange {
    first: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Exchange {
    /// Which session it names: by its header, or in HTTP+SSE by its address.
    fn session(&self) -> Option<String> {
        let path = self.first.split(' ').nth(1).unwrap_or_default();
        let named = self.headers.get("mcp-session-id").map(String::as_str);
        let named = named.or_else(|| path.contains('?').then_some(path));
        named.map(ToOwned::to_owned)
    }
}

/// Reads one side; what was read has been passed to the other.
struct Passing {
    from: BufReader<TcpStream>,
    to: TcpStream,
}

impl Passing {
    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = self.from.read_until(b'\n', &mut line).ok()?;
        self.to.write_all(&line).ok().filter(|()| read > 0)?;
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// What is there of this many bytes.
    fn some(&mut self, at_most: usize) -> Option<Vec<u8>> {
        let there = self.from.fill_buf().ok()?;
        let some = there[..there.len().min(at_most)].to_vec();
        self.from.consume(some.len());
        self.to.write_all(&some).ok()?;
        (!some.is_empty()).then_some(some)
    }

    fn head(&mut self) -> Option<(String, BTreeMap<String, String>)> {
        let first = self.line()?;
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Some((first, headers));
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }

    fn bytes(&mut self, mut left: usize, each: &mut dyn FnMut(&[u8])) -> Option<()> {
        while left > 0 {
            let some = self.some(left)?;
            left -= some.len();
            each(&some);
        }
        Some(())
    }

    /// A body: of its length, in chunks, or (a response's) until the end.
    fn body(
        &mut self,
        headers: &BTreeMap<String, String>,
        to_the_end: bool,
        each: &mut dyn FnMut(&[u8]),
    ) -> Option<()> {
        if let Some(length) = headers.get("content-length") {
            return self.bytes(length.parse().ok()?, each);
        }
        if headers.contains_key("transfer-encoding") {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
                self.bytes(size, each)?;
                while !self.line()?.is_empty() {}
                if size == 0 {
                    return Some(());
                }
            }
        }
        if to_the_end {
            loop {
                each(&self.some(usize::MAX)?);
            }
        }
        Some(())
    }
}

fn stand_between(client: &TcpStream, server: &TcpStream, kept: &Arc<Kept>) {
    for stream in [client, server] {
        stream.set_nodelay(true).unwrap();
    }
    let passing = |from: &TcpStream, to: &TcpStream| Passing {
        from: BufReader::new(from.try_clone().unwrap()),
        to: to.try_clone().unwrap(),
    };
    let (mut requests, mut responses) = (passing(client, server), passing(server, client));
    let (asked, exchanges) = channel();
    std::thread::spawn(move || {
        while pass_request(&mut requests, &asked).is_some() {}
        // a connection that its client ended is how a call is taken back
        drop(requests.to.shutdown(Shutdown::Both));
    });
    let kept = Arc::clone(kept);
    std::thread::spawn(move || {
        while pass_response(&mut responses, &exchanges, &kept).is_some() {}
        drop(responses.to.shutdown(Shutdown::Both));
        // what was never answered was said all the same
        for exchange in exchanges {
            let session = exchange.session().unwrap_or_default();
            kept.request(&session, &exchange.headers, &exchange.body);
        }
    });
}

fn pass_request(requests: &mut Passing, asked: &Sender<Exchange>) -> Option<()> {
    let (first, headers) = requests.head()?;
    let mut body = Vec::new();
    requests.body(&headers, false, &mut |some| body.extend_from_slice(some))?;
    let exchange = Exchange {
        first,
        headers,
        body,
    };
    asked.send(exchange).ok()
}

fn pass_response(
    responses: &mut Passing,
    exchanges: &Receiver<Exchange>,
    kept: &Kept,
) -> Option<()> {
    let (first, headers) = responses.head()?;
    let status = first.split(' ').nth(1)?;
    if status == "100" {
        return Some(());
    }
    let exchange = exchanges.recv().ok()?;
    let opened = headers.get("mcp-session-id").cloned();
    let session = opened.or_else(|| exchange.session()).unwrap_or_default();
    kept.request(&session, &exchange.headers, &exchange.body);
    let events = headers
        .get("content-type")
        .is_some_and(|kind| kind.starts_with("text/event-stream"));
    let mut heard = Heard {
        session,
        kept,
        text: Vec::new(),
    };
    if !["204", "304"].contains(&status) {
        responses.body(&headers, true, &mut |some| {
            heard.text.extend_from_slice(some);
            if events {
                heard.events();
            }
        })?;
    }
    if !events {
        kept.line(&heard.session, "out", &heard.text);
    }
    Some(())
}

/// What came of one response so far.
struct Heard<'k> {
    session: String,
    kept: &'k Kept,
    text: Vec<u8>,
}

impl Heard<'_> {
    /// Takes out the events that are whole.
    fn events(&mut self) {
        let ends = |end: &[u8]| {
            let at = self.text.windows(end.len()).rposition(|some| some == end);
            at.map_or(0, |at| at + end.len())
        };
        let end = ends(b"\n\n").max(ends(b"\n\r\n"));
        let whole: Vec<u8> = self.text.drain(..end).collect();
        let whole = String::from_utf8_lossy(&whole).replace("\r\n", "\n");
        for event in whole.split("\n\n") {
            let of = |name: &str| -> String {
                let lines = event.lines().filter_map(|line| line.strip_prefix(name));
                let lines = lines.filter_map(|line| line.strip_prefix(':'));
                lines
                    .map(|line| line.strip_prefix(' ').unwrap_or(line))
                    .collect()
            };
            let data = of("data");
            if of("event") == "endpoint" {
                self.session = data;
            } else {
                self.kept.line(&self.session, "out", data.as_bytes());
            }
        }
    }
}

/// The headers of the protocol, which the body says too.
fn of_the_protocol(headers: &BTreeMap<String, String>) -> Value {
    let ours = headers.iter().filter(|(name, _)| name.starts_with("mcp-"));
    json!(ours.collect::<BTreeMap<_, _>>())
}

/// The files.
struct Kept {
    files: PathBuf,
    one_at_a_time: Mutex<()>,
}

impl Kept {
    fn request(&self, session: &str, headers: &BTreeMap<String, String>, body: &[u8]) {
        // HTTP+SSE, whose sessions are paths, has no headers of the protocol
        if !body.is_empty() && session.starts_with('/') {
            self.write(session, &[("in", body)]);
        } else if !body.is_empty() {
            let head = of_the_protocol(headers).to_string();
            self.write(session, &[("heads", head.as_bytes()), ("in", body)]);
        }
    }

    fn line(&self, session: &str, side: &str, line: &[u8]) {
        if !line.is_empty() {
            self.write(session, &[(side, line)]);
        }
    }

    fn write(&self, session: &str, lines: &[(&str, &[u8])]) {
        let _turn = self.one_at_a_time.lock().unwrap();
        let session: String = session
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        for (side, line) in lines {
            append(&self.files, &session, side, line);
        }
    }
}

/// Adds a line to one of a session's files; line breaks in JSON are blanks.
fn append(files: &Path, session: &str, side: &str, line: &[u8]) {
    let mut name = files.as_os_str().to_owned();
    name.push(format!("{session}.{side}"));
    let mut bytes: Vec<u8> = line
        .iter()
        .map(|byte| if *byte == b'\n' { b' ' } else { *byte })
        .collect();
    bytes.push(b'\n');
    let file = OpenOptions::new().create(true).append(true).open(name);
    // the directory of a test that is over is gone
    if let Ok(mut file) = file {
        drop(file.write_all(&bytes));
    }
}

/// Keeps what a server of a test's own was asked, as if it had been recorded. Answers are left out:
/// nobody kept their questions.
pub(super) fn keep(files: &Path, seen: &[Seen]) {
    for request in seen.iter().filter(|request| !request.rpc().is_empty()) {
        let head = of_the_protocol(&request.headers).to_string();
        append(files, "", "heads", head.as_bytes());
        append(files, "", "in", request.body.to_string().as_bytes());
    }
}
