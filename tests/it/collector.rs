//! The collector as it runs: batches over HTTP, sudden death, damage, and what people ask it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mcpshim::audit::entry::{
    Body, CallFacts, CallerContext, Context, ContextId, Correlation, End, Entry, TargetKind,
};
use mcpshim::audit::{self, StreamHeader};
use mcpshim::batch::protocol::Enrolling;
use mcpshim::batch::{self, Header, InstallationKey, Kind};
use mcpshim::clock::{Clock as _, Now, SystemClock, SystemEntropy};
use mcpshim::config::Network;
use mcpshim::ids::{CallId, StreamId};
use mcpshim::registry::doc::{AuditKeyDoc, AuditRule, Capture};
use mcpshim::secret::Content;
use mcpshim::ship;
use mcpshim::spool::{Backlog, RealDisk, Slice, Spool};
use mcpshim::vault;
use serde_json::{Value, json};

use super::support::{
    Ended, Grant, Org, Running, Server as Upstream, files, program, run, wait_for,
};

/// Text that only the audit key may show again.
const CANARY: &str = "canary-7d1f-arguments";

/// An organisation with one agent, published, and a spool on its laptop.
pub(crate) struct Site {
    pub(crate) org: Org,
    pub(crate) key: InstallationKey,
}

impl Site {
    pub(crate) fn new() -> Self {
        let org = Org::new();
        org.agent("ci");
        org.republish();
        let key = vault::installation_key(&org.state(), &mut SystemEntropy).unwrap();
        Self { org, key }
    }

    fn audit_keys(&self) -> Vec<AuditKeyDoc> {
        let text = std::fs::read(self.org.sources().join("audit/tests.json")).unwrap();
        vec![serde_json::from_slice(&text).unwrap()]
    }

    /// A spool like the one `serve` writes, with this many calls: every third one is refused.
    fn record(&self, calls: u64) -> Spool {
        let mut spool = self.spool(self.org.state().join("spool"));
        append(&mut spool, 1, calls);
        spool
    }

    fn spool(&self, dir: PathBuf) -> Spool {
        self.spool_for(dir, &self.audit_keys())
    }

    fn spool_for(&self, dir: PathBuf, keys: &[AuditKeyDoc]) -> Spool {
        let installation = self.key.id();
        let describe = move |stream, now: &Now| StreamHeader {
            stream,
            org: "it.example".parse().unwrap(),
            machine_id: "laptop-1".to_owned(),
            installation: installation.clone(),
            pid: 1,
            version: "0".to_owned(),
            started: *now,
            registry: None,
            others: 0,
            previous: Vec::new(),
        };
        let mut spool = Spool::new(
            dir,
            Box::new(RealDisk),
            Box::new(describe),
            keys,
            Box::new(SystemEntropy),
        );
        let now = SystemClock::new().now();
        spool.append(&contexts(&self.org, &now), &now).unwrap();
        spool
    }

    /// Slices of a stream of its own, outside the laptop's spool, cut every `each` records.
    pub(crate) fn slices(&self, calls: u64, each: usize) -> (StreamId, Vec<Slice>) {
        self.calls(1, calls, each)
    }

    pub(crate) fn calls(&self, first: u64, last: u64, each: usize) -> (StreamId, Vec<Slice>) {
        self.calls_for(first, last, each, &self.audit_keys())
    }

    /// Calls of a device that seals to nothing.
    pub(crate) fn calls_without_key(&self, calls: u64) -> (StreamId, Vec<Slice>) {
        self.calls_for(1, calls, 500, &[])
    }

    fn calls_for(
        &self,
        first: u64,
        last: u64,
        each: usize,
        keys: &[AuditKeyDoc],
    ) -> (StreamId, Vec<Slice>) {
        let dir = tempfile::tempdir_in(self.org.path()).unwrap();
        let mut spool = self.spool_for(dir.path().to_owned(), keys);
        append(&mut spool, first, last);
        spool.close(&SystemClock::new().now()).unwrap();
        let mut backlog = Backlog::open(dir.path().to_owned());
        let state = backlog.streams().unwrap()[0];
        let mut slices = Vec::new();
        let mut next = 1;
        while next <= state.last_seq {
            let slice = backlog
                .read(state.id, next, each, 1 << 20)
                .unwrap()
                .unwrap();
            next = slice.last_seq + 1;
            slices.push(slice);
        }
        (state.id, slices)
    }

    pub(crate) fn batch(&self, stream: StreamId, slice: &Slice) -> Vec<u8> {
        seal(&self.key, stream, slice, Kind::Following)
    }

    /// A collector that knows this installation.
    pub(crate) fn collector(&self) -> Server {
        let server = self.bare_collector();
        self.enrol(&server);
        server
    }

    /// A collector to which this installation is a stranger.
    pub(crate) fn bare_collector(&self) -> Server {
        Server::start(&self.org, "collector", &[])
    }

    /// Binds the installation to agent ci, as the shipper does.
    pub(crate) fn enrol(&self, server: &Server) {
        let key = std::fs::read(self.org.agent_key("ci")).unwrap();
        let pair = mcpshim::identity::signing_key(&key).unwrap();
        let name = "ci".parse().unwrap();
        let client = mcpshim::fetch::client(&Network::default(), None).unwrap();
        let mut link = ship::HttpLink::new(&server.url, client).unwrap();
        let org = "it.example".parse().unwrap();
        let who = Enrolling::Agent(&name, &pair);
        let enrolled = ship::enrol(&org, &self.key, "laptop-1", &who, &mut link);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        assert_eq!(runtime.block_on(enrolled).unwrap(), "agent ci");
    }
}

pub(crate) fn seal(key: &InstallationKey, stream: StreamId, slice: &Slice, kind: Kind) -> Vec<u8> {
    let header = Header {
        org: "it.example".parse().unwrap(),
        stream,
        first_seq: slice.first_seq,
        last_seq: slice.last_seq,
        prev_hash: slice.prev_hash,
        last_hash: slice.last_hash,
        kind,
        remaining: 0,
        sent_us: SystemClock::new().now().wall_us,
        installation: key.public(),
    };
    batch::seal(&header, &slice.frames, key.pair()).unwrap()
}

fn contexts(org: &Org, now: &Now) -> Vec<Entry> {
    let key = std::fs::read(org.agent_key("ci")).unwrap();
    let pair = mcpshim::identity::signing_key(&key).unwrap();
    let public: [u8; 32] = ring::signature::KeyPair::public_key(&pair)
        .as_ref()
        .try_into()
        .unwrap();
    let caller = CallerContext::Agent {
        name: "ci".to_owned(),
        key: batch::Installation(public).id().to_string(),
        roles: vec!["tester".to_owned()],
    };
    let target = |name: &str| Context::Target {
        kind: TargetKind::Tool,
        server: Some(ContextId(3)),
        name: name.to_owned(),
        exposed: None,
        definition: None,
    };
    let all = [
        Context::Caller(caller),
        Context::Client {
            name: "tests".to_owned(),
            version: "1".to_owned(),
            protocol: "2026-07-28".to_owned(),
            session: Some("client-session".to_owned()),
        },
        Context::Server {
            id: "files-id".parse().unwrap(),
            key: "files".parse().unwrap(),
            transport: "stdio".to_owned(),
            protocol: String::new(),
        },
        target("read"),
        target("write"),
        Context::Rule {
            id: "tester/files#1".to_owned(),
            source: "roles/tester.yaml:4".to_owned(),
            role: "tester".to_owned(),
        },
        Context::Rule {
            id: "not-granted".to_owned(),
            source: String::new(),
            role: String::new(),
        },
    ];
    (1..)
        .zip(all)
        .map(|(id, context)| Entry {
            at: *now,
            body: Body::Context(ContextId(id), Arc::new(context)),
        })
        .collect()
}

fn append(spool: &mut Spool, first: u64, last: u64) {
    let clock = SystemClock::new();
    let audit = AuditRule {
        arguments: Capture::Full,
        results: Capture::Full,
        ..AuditRule::default()
    };
    let content = |what: &str, call| Content(format!("{{\"{what}\":\"{CANARY} {call}\"}}").into());
    for call in first..=last {
        let now = clock.now();
        let refused = call % 3 == 0;
        let facts = CallFacts {
            call: CallId(call),
            leg: 0,
            caller: ContextId(1),
            client: ContextId(2),
            target: ContextId(if refused { 5 } else { 4 }),
            registry: None,
            rule: ContextId(if refused { 7 } else { 6 }),
            credential: None,
            correlation: Correlation {
                tool_use_id: Some(format!("toolu_{call}")),
                call_id: Some(format!("call_{call}")),
                session_id: Some("session-a".to_owned()),
                trace_id: Some(format!("{call:032x}")),
            },
            content: content("path", call),
            audit,
        };
        let body = if refused {
            vec![Body::Denial {
                facts,
                code: "not-granted",
            }]
        } else {
            let outcome = Body::Outcome {
                call: CallId(call),
                leg: 0,
                end: End::Ok,
                took_us: 1500,
                content: content("text", call),
                audit,
            };
            vec![Body::Intent(facts), outcome]
        };
        let entries: Vec<Entry> = body
            .into_iter()
            .map(|body| Entry { at: now, body })
            .collect();
        spool.append(&entries, &now).unwrap();
    }
}

/// `mcpshim-collector serve`.
pub(crate) struct Server {
    process: Running,
    url: String,
    data: PathBuf,
}

impl Server {
    pub(crate) fn start(org: &Org, data: &str, extra: &[&str]) -> Self {
        let data = org.path().join(data);
        let mut command = Command::new(program("mcpshim-collector"));
        org.environment(&mut command);
        command
            .args(["serve", "--org", "it.example", "--registry"])
            .arg(format!("file://{}/", org.repository().display()))
            .arg("--root")
            .arg(org.sources().join("trust/root.json"))
            .arg("--data")
            .arg(&data)
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command);
        let mut line = String::new();
        BufReader::new(process.stdout())
            .read_line(&mut line)
            .unwrap();
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            panic!("{line:?}: {}", process.stderr());
        };
        Self {
            url: url.to_owned(),
            process,
            data,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").unwrap();
        address.parse().unwrap()
    }

    pub(crate) fn send(&self, stream: StreamId, first_seq: u64, body: &[u8]) -> (u16, Value) {
        let path = format!("/v1/streams/{stream}/batches/{first_seq}");
        let (status, body) = post(self.address(), &path, "", body);
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(crate) fn deliver(&self, site: &Site, stream: StreamId, slice: &Slice) -> (u16, Value) {
        self.send(stream, slice.first_seq, &site.batch(stream, slice))
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Asks without a data directory.
    pub(crate) fn ask(&self, verb: &str, words: &[&str]) -> Ended {
        let mut command = Command::new(program("mcpshim-collector"));
        run(command.arg(verb).args(words))
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn kill(mut self) -> PathBuf {
        self.process.kill();
        self.data.clone()
    }

    pub(crate) fn query(&self, words: &[&str]) -> Vec<Value> {
        query(&self.data, words)
    }
}

/// The records a query finds; the last object is checked and left out.
#[track_caller]
pub(crate) fn query(data: &Path, words: &[&str]) -> Vec<Value> {
    let mut lines = read(data, "query", &[words, &["--json"]].concat())
        .ok()
        .json_lines();
    let last = lines.pop().unwrap();
    assert!(last.get("complete_through").is_some(), "{last}");
    assert_eq!(last["shown"], json!(lines.len()));
    lines
}

pub(crate) fn read(data: &Path, verb: &str, words: &[&str]) -> Ended {
    let mut command = Command::new(program("mcpshim-collector"));
    run(command.arg(verb).args(words).arg("--data").arg(data))
}

pub(crate) fn post(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: collector\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    // a refusal may come, and the connection close, before everything is written
    drop(socket.write_all(body));
    let mut reply = Vec::new();
    drop(socket.read_to_end(&mut reply));
    let text = String::from_utf8_lossy(&reply);
    let status = text
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no answer to {path}: {text:?}"))
        .parse()
        .unwrap();
    let at = reply.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    (status, reply[at + 4..].to_vec())
}

fn events(records: &[Value]) -> BTreeSet<String> {
    let events: Vec<String> = records
        .iter()
        .map(|record| record["event"].as_str().unwrap().to_owned())
        .collect();
    let unique: BTreeSet<String> = events.iter().cloned().collect();
    assert_eq!(unique.len(), events.len(), "a record is there twice");
    unique
}

fn journal(data: &Path) -> PathBuf {
    let mut found = files(data);
    found.retain(|path| path.extension().is_some_and(|ext| ext == "journal"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn copy_dir(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

// ---- batches

#[test]
fn duplicates_and_disorder_leave_every_record_once() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(20, 7);
    assert!(slices.len() >= 4);
    // out of order: sent back to where it should go on
    let (status, body) = server.deliver(&site, stream, &slices[2]);
    assert_eq!((status, &body["expected_seq"]), (409, &json!(1)));
    for slice in &slices {
        for _ in 0..3 {
            let (status, body) = server.deliver(&site, stream, slice);
            assert_eq!((status, &body["acked_seq"]), (200, &json!(slice.last_seq)));
            assert_eq!(body["lane"], "main");
        }
    }
    let (status, body) = server.deliver(&site, stream, &slices[1]);
    assert_eq!(
        (status, &body["acked_seq"]),
        (200, &json!(slices[1].last_seq))
    );
    // another cut of the same records, of which the first part is there already
    let wide = merge(&slices[..3]);
    let (status, body) = server.deliver(&site, stream, &wide);
    assert_eq!((status, &body["acked_seq"]), (200, &json!(wide.last_seq)));
    let calls = server.query(&[]);
    events(&calls);
    assert_eq!(calls.iter().filter(|c| c["phase"] == "intent").count(), 14);
    assert_eq!(calls.iter().filter(|c| c["phase"] == "denial").count(), 6);
    read(&server.data, "verify", &[]).ok();
}

fn merge(slices: &[Slice]) -> Slice {
    let (first, last) = (&slices[0], slices.last().unwrap());
    Slice {
        first_seq: first.first_seq,
        last_seq: last.last_seq,
        prev_hash: first.prev_hash,
        last_hash: last.last_hash,
        frames: slices.iter().flat_map(|s| s.frames.clone()).collect(),
    }
}

#[test]
fn bad_batches_are_refused_with_their_reason_and_nothing_is_stored() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(6, 500);
    let whole = &slices[0];
    let good = site.batch(stream, whole);

    let mut forged = good.clone();
    forged[50] ^= 1;
    let (status, body) = server.send(stream, 1, &forged);
    assert_eq!(status, 401, "{body}");
    assert!(body["error"].as_str().unwrap().contains("signature"));

    assert_eq!(server.send(stream, 1, &good[..good.len() - 1]).0, 400);
    assert_eq!(server.send(stream, 2, &good).0, 400, "another address");
    assert_eq!(server.send(stream, 1, b"hello").0, 400);

    // the frames of the middle changed, and the batch signed anew: the chain tells where
    let mut cut = whole.clone();
    let middle = audit::frames(&whole.frames)
        .map(Result::unwrap)
        .nth(8)
        .unwrap();
    let (at, seq) = (middle.offset, middle.seq);
    cut.frames[at + 57] ^= 1;
    let (status, body) = server.deliver(&site, stream, &cut);
    assert_eq!((status, &body["seq"]), (422, &json!(seq)));
    // a record left out
    let mut hole = whole.clone();
    let length = middle.bytes.len();
    hole.frames.drain(at..at + length);
    let (status, body) = server.deliver(&site, stream, &hole);
    assert_eq!((status, &body["seq"]), (422, &json!(seq)));

    // 32 MiB of zeroes in a few kilobytes, declared as what they are and as less
    let bomb = Slice {
        frames: vec![0; 32 << 20],
        ..whole.clone()
    };
    let (status, _) = server.deliver(&site, stream, &bomb);
    assert_eq!(status, 422, "frames of zeroes are no frames");

    let head = format!("/v1/streams/{stream}/batches/1");
    let (status, _) = post(server.address(), &head, "", &vec![0; 25 << 20]);
    assert_eq!(status, 413);

    assert_eq!(server.query(&[]).len(), 0);
    assert_eq!(
        server.send(stream, 1, &good).0,
        200,
        "the good one still goes"
    );
}

#[test]
fn another_organisations_batch_is_refused() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(2, 500);
    let slice = &slices[0];
    let header = Header {
        org: "other.example".parse().unwrap(),
        stream,
        first_seq: slice.first_seq,
        last_seq: slice.last_seq,
        prev_hash: slice.prev_hash,
        last_hash: slice.last_hash,
        kind: Kind::Following,
        remaining: 0,
        sent_us: 0,
        installation: site.key.public(),
    };
    let body = batch::seal(&header, &slice.frames, site.key.pair()).unwrap();
    let (status, body) = server.send(stream, 1, &body);
    assert_eq!(status, 403);
    assert!(body["error"].as_str().unwrap().contains("other.example"));
}

// ---- sudden death and damage

#[test]
fn killed_between_any_two_batches_it_keeps_what_it_acknowledged() {
    let site = Site::new();
    let (stream, slices) = site.slices(60, 6);
    let mut server = site.collector();
    let mut acked = 0;
    for (number, slice) in slices.iter().enumerate() {
        if number % 3 == 2 {
            // dies while it may be working on this one
            let address = server.address();
            let body = site.batch(stream, slice);
            let path = format!("/v1/streams/{stream}/batches/{}", slice.first_seq);
            let sender = std::thread::spawn(move || {
                let socket = TcpStream::connect(address);
                if let Ok(mut socket) = socket {
                    let head = format!(
                        "POST {path} HTTP/1.1\r\nhost: c\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    drop(socket.write_all(&[head.as_bytes(), &body].concat()));
                    let mut reply = [0; 16];
                    drop(socket.read(&mut reply));
                    return reply.starts_with(b"HTTP/1.1 200");
                }
                false
            });
            if number % 2 == 0 {
                std::thread::sleep(Duration::from_millis(number as u64 % 5));
            }
            server.process.kill();
            if sender.join().unwrap() {
                acked = slice.last_seq;
            }
            server = site.collector();
            if acked == slice.last_seq {
                continue;
            }
        }
        let (status, body) = server.deliver(&site, stream, slice);
        assert_eq!(status, 200, "{body}");
        acked = body["acked_seq"].as_u64().unwrap();
        assert_eq!(acked, slice.last_seq);
    }
    assert_eq!(acked, slices.last().unwrap().last_seq);
    let data = server.kill();
    let calls = query(&data, &["--limit", "0"]);
    events(&calls);
    assert_eq!(calls.iter().filter(|c| c["phase"] == "intent").count(), 40);
    assert_eq!(calls.iter().filter(|c| c["phase"] == "outcome").count(), 40);
    read(&data, "verify", &[]).ok();
}

#[test]
fn torn_end_is_kept_aside_and_the_batch_is_taken_again() {
    let site = Site::new();
    let (stream, slices) = site.slices(12, 10);
    let server = site.collector();
    for slice in &slices[..2] {
        assert_eq!(server.deliver(&site, stream, slice).0, 200);
    }
    let data = server.kill();
    let path = journal(&data);
    // what a power cut leaves of the second one
    let whole = std::fs::read(&path).unwrap();
    let good = whole[..batch_offset(&whole, 1) - 52].to_vec();
    std::fs::write(&path, &whole[..good.len() + 300]).unwrap();
    read(&data, "verify", &[]).ok();

    let server = site.collector();
    for slice in &slices {
        assert_eq!(server.deliver(&site, stream, slice).0, 200);
    }
    let data = server.kill();
    assert!(std::fs::read(&path).unwrap().starts_with(&good));
    assert!(
        files(&data)
            .iter()
            .any(|path| path.to_string_lossy().contains(".torn-")),
        "the torn bytes are kept"
    );
    read(&data, "verify", &[]).ok();
    events(&query(&data, &[]));
}

#[test]
fn changed_record_is_found_and_named() {
    let site = Site::new();
    let (stream, slices) = site.slices(12, 10);
    let server = site.collector();
    for slice in &slices {
        assert_eq!(server.deliver(&site, stream, slice).0, 200);
    }
    let data = server.kill();
    read(&data, "verify", &[]).ok();
    let path = journal(&data);
    let whole = std::fs::read(&path).unwrap();
    let second = batch_offset(&whole, 1);

    // one bit in the second batch
    let mut changed = whole.clone();
    changed[second + 400] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    let event = format!("{stream}/{}", slices[1].first_seq);
    read(&data, "verify", &[]).refused(1, &event);

    // by somebody who mends the journal's own digest: the signature still tells
    let (head, length) = (second - 52, entry_length(&whole, 1));
    let mut mended = changed.clone();
    let digest = {
        let mut message = b"mcpshim/journal/1\0".to_vec();
        message.extend_from_slice(&mended[head..head + 20]);
        message.extend_from_slice(&mended[second..second + length]);
        mcpshim::ids::Digest::of(&message)
    };
    mended[head + 20..head + 52].copy_from_slice(&digest.0);
    std::fs::write(&path, &mended).unwrap();
    read(&data, "verify", &[]).refused(1, &event);

    // a whole batch cut out of the middle
    let mut cut = whole.clone();
    cut.drain(head..second + length);
    std::fs::write(&path, &cut).unwrap();
    let ended = read(&data, "verify", &[]).refused(1, &event);
    assert!(ended.stderr.contains("are missing"), "{ended:?}");

    std::fs::write(&path, &whole).unwrap();
    read(&data, "verify", &[]).ok();
}

/// Two streams of one machine, the second of which names the first: each whole, as one slice.
pub(crate) fn heir(site: &Site) -> [(StreamId, Slice); 2] {
    let dir = tempfile::tempdir_in(site.org.path()).unwrap();
    let mut streams = Vec::new();
    for calls in [3, 5] {
        let mut spool = site.spool(dir.path().to_owned());
        append(&mut spool, 1, calls);
        let stream = spool.stream().unwrap();
        spool.close(&SystemClock::new().now()).unwrap();
        streams.push(stream);
    }
    let mut backlog = Backlog::open(dir.path().to_owned());
    let mut whole = |stream| {
        let slice = backlog.read(stream, 1, 10_000, 16 << 20).unwrap();
        (stream, slice.unwrap())
    };
    [whole(streams[0]), whole(streams[1])]
}

pub(crate) fn devices(data: &Path) -> Value {
    let lines = read(data, "devices", &["--json"]).ok().json_lines();
    lines[0].clone()
}

#[test]
fn stream_is_held_against_what_a_later_one_saw_of_it() {
    let site = Site::new();
    let [(first, one), (second, two)] = heir(&site);
    let server = site.collector();
    assert_eq!(server.deliver(&site, second, &two).0, 200);
    // the later one came, the earlier one is nowhere
    let missing = format!("{first}/1");
    let ended = read(&server.data, "verify", &[]).refused(1, &missing);
    assert!(ended.stderr.contains("a later stream"), "{ended:?}");
    assert_eq!(devices(&server.data)["gaps"][0]["last_seq"], one.last_seq);
    assert_eq!(server.deliver(&site, first, &one).0, 200);
    read(&server.data, "verify", &[]).ok();
    assert_eq!(devices(&server.data)["rewritten"], json!([]));

    // another machine's collector is given other records under the first one's name
    let server = Server::start(&site.org, "rewritten", &[]);
    site.enrol(&server);
    let (_, other) = site.calls(7, 12, 10_000);
    assert!(other[0].last_seq >= one.last_seq);
    assert_eq!(server.deliver(&site, first, &other[0]).0, 200);
    assert_eq!(server.deliver(&site, second, &two).0, 200);
    let event = format!("{first}/{}", one.last_seq);
    let told = devices(&server.data);
    assert_eq!(told["rewritten"], json!([event]));
    assert_eq!(told["complete_us"], Value::Null);
    read(&server.data, "verify", &[]).refused(1, &event);
    let text = read(&server.data, "devices", &[]).ok().stdout;
    assert!(text.contains("rewritten: "), "{text}");
}

#[test]
fn payloads_taken_out_before_delivery_are_told() {
    let site = Site::new();
    let (stream, mut slices) = site.slices(4, 10_000);
    let mut stripped = Vec::new();
    for frame in audit::frames(&slices[0].frames) {
        frame.unwrap().detach(&mut stripped);
    }
    assert!(stripped.len() < slices[0].frames.len());
    slices[0].frames = stripped;
    let server = site.collector();
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let alerts = std::fs::read_to_string(server.data.join("log/alerts.jsonl")).unwrap();
    assert!(alerts.contains("\"taken-away\""), "{alerts}");
    let told = devices(&server.data);
    assert!(told["taken_away"].as_u64() > Some(0), "{told}");
    read(&server.data, "verify", &[]).refused(1, "the record is not intact");
}

#[test]
fn every_unreadable_record_is_kept_once() {
    let site = Site::new();
    let (stream, slices) = site.slices(4, 1);
    let server = site.collector();
    let send = |content: &[u8]| {
        let mut slice = slices[0].clone();
        slice.frames = content.to_vec();
        server.send(
            stream,
            slice.first_seq,
            &seal(&site.key, stream, &slice, Kind::Quarantine),
        )
    };
    for content in [&b"nobody reads this"[..], b"nor that", b"nobody reads this"] {
        let (status, body) = send(content);
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(devices(&server.data)["quarantined"], 2);
}

fn entry_length(journal: &[u8], number: usize) -> usize {
    let at = batch_offset(journal, number) - 48;
    u32::from_be_bytes(journal[at..at + 4].try_into().unwrap()) as usize
}

fn batch_offset(journal: &[u8], number: usize) -> usize {
    let mut at = 8 + 52;
    for _ in 0..number {
        let length = u32::from_be_bytes(journal[at - 48..at - 44].try_into().unwrap());
        at += length as usize + 52;
    }
    at
}

#[test]
fn restored_backup_is_filled_up_by_the_devices() {
    let site = Site::new();
    let mut spool = site.record(10);
    let server = site.collector();
    site.points_at(&server.url);
    site.flush().ok();
    let port = server.address().port().to_string();
    let data = server.kill();
    let backup = site.org.path().join("backup");
    copy_dir(&data, &backup);

    let server = Server::start(
        &site.org,
        "collector",
        &["--listen", &format!("127.0.0.1:{port}")],
    );
    append(&mut spool, 11, 20);
    site.flush().ok();
    assert_eq!(server.query(&["--phase", "intent"]).len(), 14);
    let data = server.kill();

    // the disk is lost, and yesterday's copy comes back
    std::fs::remove_dir_all(&data).unwrap();
    copy_dir(&backup, &data);
    let server = Server::start(
        &site.org,
        "collector",
        &["--listen", &format!("127.0.0.1:{port}")],
    );
    append(&mut spool, 21, 30);
    site.flush().ok();
    assert_eq!(
        server.query(&["--phase", "intent"]).len(),
        20,
        "nothing is missing"
    );
    read(&server.data, "verify", &[]).ok();
}

// ---- delivery by the program

impl Site {
    /// Publishes where the collector is, and lets the laptop know.
    fn points_at(&self, url: &str) {
        let text = std::fs::read_to_string(self.org.sources().join("org.yaml")).unwrap();
        let text = text.split("collector:").next().unwrap();
        self.org
            .write("org.yaml", &format!("{text}collector:\n  url: {url}\n"));
        self.org.republish();
        self.org.mcpshim("ci", ["registry", "refresh"]).ok();
    }

    fn flush(&self) -> Ended {
        self.org.mcpshim("ci", ["audit", "flush", "--wait", "60"])
    }
}

#[test]
fn records_go_from_the_spool_to_the_reader_and_only_the_key_opens_them() {
    let site = Site::new();
    let server = site.collector();
    site.points_at(&server.url);
    let spool = site.record(9);
    let status = site.org.mcpshim("ci", ["audit", "status", "--json"]).ok();
    let status = status.json();
    assert!(status["waiting"].as_u64().unwrap() > 15, "{status}");
    assert_eq!(status["live_streams"], 1);
    site.org.mcpshim("ci", ["audit", "check"]).ok();
    site.flush().ok();
    let status = site.org.mcpshim("ci", ["audit", "status", "--json"]).ok();
    let status = status.json();
    assert_eq!(status["waiting"], 0);
    assert_eq!(status["trouble"], Value::Null);
    drop(spool);

    let calls = server.query(&[]);
    for call in calls.iter().filter(|call| call["phase"] != "stream") {
        assert_eq!(call["standing"], "enrolled", "{call}");
        assert_eq!(call["attested"], true, "{call}");
        assert_eq!(call["agent"], "ci");
    }
    let devices = read(&server.data, "devices", &["--json"]).ok().json_lines();
    assert_eq!(devices[0]["bound_to"], json!(["agent ci"]));
    assert_eq!(devices[0]["behind"], 0);
    assert_eq!(devices[1]["devices_complete"], 1);
    assert_ne!(devices[1]["complete_through"], Value::Null);

    // nothing on the collector's disk, or on the laptop's, shows an argument
    for file in files(&server.data)
        .into_iter()
        .chain(files(&site.org.state()))
    {
        let bytes = std::fs::read(&file).unwrap();
        assert!(
            !bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()),
            "{} shows an argument",
            file.display()
        );
    }

    let key = site.org.audit_key();
    let key = key.to_str().unwrap();
    let event = calls.iter().find(|call| call["phase"] == "intent").unwrap()["event"]
        .as_str()
        .unwrap();
    let unsealed = read(
        &server.data,
        "unseal",
        &[event, "--key", key, "--reason", "CASE-17", "--json"],
    )
    .ok()
    .json_lines();
    assert_eq!(unsealed[0]["args"], format!("{{\"path\":\"{CANARY} 1\"}}"));
    assert_eq!(
        unsealed[1]["result"],
        format!("{{\"text\":\"{CANARY} 1\"}}")
    );
    let log = std::fs::read_to_string(server.data.join("log/admin.jsonl")).unwrap();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["kind"], "admin.unseal");
    assert_eq!(line["reason"], "CASE-17");
    assert_eq!(line["events"][0], event);
    assert!(!log.contains(CANARY));

    // another key opens nothing, and says so
    let other = site.org.path().join("other.key");
    let mut command = Command::new(program("mcpshim-collector"));
    run(command.args(["auditkey", "new", "--out"]).arg(&other)).ok();
    read(
        &server.data,
        "unseal",
        &[event, "--key", other.to_str().unwrap(), "--reason", "x"],
    )
    .refused(1, "did not open");
}

#[test]
fn what_is_no_data_directory_is_no_empty_record() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(2, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let data = server.kill();
    let key = site.org.audit_key();
    let event = format!("{stream}/1");
    let reading = |data: &Path, complaint: &str| {
        for (verb, words) in [
            ("query", vec![]),
            ("show", vec![event.as_str()]),
            ("devices", vec![]),
            ("verify", vec![]),
            (
                "unseal",
                vec!["--reason", "x", "--key", key.to_str().unwrap()],
            ),
        ] {
            for json in [&["--json"][..], &[]] {
                let ended = read(data, verb, &[&words, json].concat());
                if complaint.is_empty() {
                    ended.ok();
                } else {
                    let ended = ended.refused(1, complaint);
                    assert_eq!(ended.stdout, "", "{verb}");
                }
            }
        }
    };
    reading(&data, "");
    let log = std::fs::read(data.join("log/admin.jsonl")).unwrap();
    // one directory too high or too low, a file, a name that is not there
    reading(site.org.path(), "holds no collector data");
    reading(&data.join("installations"), "holds no collector data");
    reading(&data.join("collector.json"), "is not a directory");
    reading(&data.join("nowhere"), "there is no directory ");
    assert_eq!(std::fs::read(data.join("log/admin.jsonl")).unwrap(), log);
    // a part of the record that went away does not read as nothing either
    std::fs::rename(data.join("installations"), data.join("elsewhere")).unwrap();
    reading(&data, "installations is missing");
}

#[test]
fn unseal_that_cannot_be_written_down_does_not_happen() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(2, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let data = server.kill();
    std::fs::create_dir(data.join("log/admin.jsonl")).unwrap();
    let key = site.org.audit_key();
    let ended = read(
        &data,
        "unseal",
        &[
            "--key",
            key.to_str().unwrap(),
            "--reason",
            "x",
            "--tool",
            "read",
        ],
    )
    .refused(1, "unsealed unrecorded");
    assert!(!ended.stdout.contains(CANARY));
}

/// A proxy that breaks what goes through it, on purpose.
struct Fault {
    address: SocketAddr,
    broken: Arc<AtomicUsize>,
}

impl Fault {
    /// Passes requests on, but closes the first so many connections after the whole request
    /// went through and before any of the reply comes back.
    fn loses_replies(upstream: SocketAddr, count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let broken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&broken);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { return };
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    drop(pass(&mut client, upstream, &counter, count));
                });
            }
        });
        Self { address, broken }
    }
}

fn pass(
    client: &mut TcpStream,
    upstream: SocketAddr,
    broken: &AtomicUsize,
    count: usize,
) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(upstream)?;
    loop {
        let request = message(client)?;
        upstream.write_all(&request)?;
        let reply = message(&mut upstream)?;
        let is_batch = request.windows(9).any(|w| w == b"/batches/");
        if is_batch && broken.load(Ordering::SeqCst) < count {
            broken.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        client.write_all(&reply)?;
    }
}

/// One HTTP message with a content length.
fn message(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    bytes.extend(body);
    Ok(bytes)
}

#[test]
fn replies_lost_on_the_way_double_nothing() {
    let site = Site::new();
    let server = site.collector();
    let proxy = Fault::loses_replies(server.address(), 2);
    site.points_at(&format!("http://{}", proxy.address));
    let _spool = site.record(12);
    site.flush().ok();
    assert_eq!(proxy.broken.load(Ordering::SeqCst), 2);
    let calls = server.query(&[]);
    events(&calls);
    assert_eq!(calls.iter().filter(|c| c["phase"] == "intent").count(), 8);
    let verified = read(&server.data, "verify", &["--json"]).ok();
    assert_eq!(verified.json_lines().last().unwrap()["bad"], 0);
}

#[test]
fn collector_that_is_away_keeps_nothing_from_working_and_says_so() {
    let site = Site::new();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    site.points_at(&format!("http://{address}"));
    let _spool = site.record(3);
    let ended = site
        .org
        .mcpshim("ci", ["audit", "flush", "--wait", "1"])
        .refused(75, "still wait");
    assert!(ended.stderr.contains("cannot be reached"), "{ended:?}");
    let status = site.org.mcpshim("ci", ["audit", "status", "--json"]).ok();
    let status = status.json();
    assert!(status["waiting"].as_u64().unwrap() > 0);
    assert!(status["trouble"].as_str().unwrap().contains("reached"));
}

#[test]
fn detached_process_delivers_once_per_device_and_leaves() {
    let site = Site::new();
    let server = site.collector();
    site.points_at(&server.url);
    let mut spool = site.record(3);
    for _ in 0..3 {
        site.org.mcpshim("ci", ["__ship", "--detach"]).ok();
    }
    wait_for("records at the collector", || {
        (server.query(&["--phase", "intent"]).len() == 2).then_some(())
    });
    // it stays while somebody writes, and sees what comes
    append(&mut spool, 4, 6);
    wait_for("later records at the collector", || {
        (server.query(&["--phase", "intent"]).len() == 4).then_some(())
    });
    let shippers = || {
        let holds = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|b| b.windows(6).any(|w| w == b"__ship"))
        };
        site.org.processes().iter().filter(|pid| holds(pid)).count()
    };
    assert_eq!(shippers(), 1);
    spool.close(&SystemClock::new().now()).unwrap();
    drop(spool);
    wait_for("the shipper to leave", || (shippers() == 0).then_some(()));
    let spool = site.org.state().join("spool");
    let left = files(&spool);
    // and the next stream names it
    assert_eq!(left, [spool.join("delivered")], "what is acknowledged goes");
}

/// Nobody runs a command: the first call starts the process that delivers. A rule that wants the
/// record at the collector first waits for it, and is refused when there is no collector.
#[test]
fn calls_reach_the_collector_by_themselves_and_may_wait_for_it() {
    let org = Org::new();
    org.server(&Upstream::counting("up", []));
    org.server(&Upstream::counting("sure", []).with("audit: {class: collector}"));
    org.agent("ci");
    let all = [("up", Grant::ALL), ("sure", Grant::ALL)];
    org.role("tester", &["ci"], &all);
    org.publish();
    let key = vault::installation_key(&org.state(), &mut SystemEntropy).unwrap();
    let site = Site { org, key };
    let mut server = site.collector();
    site.points_at(&server.url);

    let mut shim = site.org.serve("ci");
    shim.initialize();
    assert_eq!(shim.call("sure_count", json!({"id": "1"})).text(), "1");
    let found = server.query(&["--tool", "sure/count"]);
    assert!(!found.is_empty(), "it was there before the answer came");
    assert_eq!(shim.call("up_count", json!({"id": "2"})).text(), "2");
    let found = wait_for("both calls at the collector", || {
        let found = server.query(&["--phase", "outcome"]);
        (found.len() == 2).then_some(found)
    });
    assert!(found.iter().all(|record| record["attested"] == true));

    server.process.kill();
    let refused = shim.call("sure_count", json!({"id": "3"}));
    assert!(refused.is_tool_error(), "{refused:?}");
    assert_eq!(shim.call("up_count", json!({"id": "4"})).text(), "4");
}

#[test]
fn unknown_installation_is_kept_apart_until_it_enrols() {
    let site = Site::new();
    let server = site.bare_collector();
    let (stream, slices) = site.slices(3, 500);
    let (status, body) = server.deliver(&site, stream, &slices[0]);
    assert_eq!((status, &body["standing"]), (200, &json!("unknown")));
    let calls = server.query(&["--phase", "intent"]);
    assert_eq!(calls[0]["standing"], "unknown");
    assert_eq!(calls[0]["attested"], false);
    let table = read(&server.data, "query", &[]).ok();
    assert!(table.stdout.contains("unknown"), "{table:?}");
    let alerts = std::fs::read_to_string(server.data.join("log/alerts.jsonl")).unwrap();
    assert!(alerts.contains("unknown-key"));

    // the same installation delivers by the program, which enrols it
    site.points_at(&server.url);
    let _spool = site.record(2);
    site.flush().ok();
    for call in server.query(&["--phase", "intent"]) {
        assert_eq!(call["standing"], "enrolled", "{call}");
        assert_eq!(call["attested"], true, "{call}");
    }
}

#[test]
fn agent_without_its_key_is_not_enrolled() {
    let site = Site::new();
    let server = site.bare_collector();
    site.points_at(&server.url);
    let _spool = site.record(2);
    // another agent's key in place of ci's
    site.org.agent("other");
    std::fs::copy(site.org.agent_key("other"), site.org.agent_key("ci")).unwrap();
    site.flush().ok();
    let calls = server.query(&["--phase", "intent"]);
    assert!(!calls.is_empty(), "kept all the same");
    assert!(calls.iter().all(|call| call["standing"] == "unknown"));
}

// ---- questions

#[test]
fn filters_find_what_they_name_and_nothing_else() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(9, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let count = |words: &[&str]| server.query(words).len();
    let calls = 6 * 2 + 3;
    for (words, expected) in [
        (&["--agent", "ci"][..], calls),
        (&["--server", "files"], calls),
        (&["--server", "files-id"], calls),
        (&["--tool", "files/read"], 12),
        (&["--tool", "write"], 3),
        (&["--tool", "files_read"], 12),
        (&["--tool", "mcp__mcpshim__files_write"], 3),
        (&["--decision", "deny"], 3),
        (&["--decision", "allow"], 12),
        (&["--phase", "outcome"], 6),
        (&["--tool-use-id", "toolu_4"], 2),
        (&["--tool-use-id", "toolu_3"], 1),
        (&["--call-id", "call_4"], 2),
        (&["--session", "session-a"], calls),
        (&["--session", "client-session"], calls),
        (&["--session", "session-b"], 0),
        (&["--trace", "00000000000000000000000000000005"], 2),
        (&["--since", "1h", "--agent", "ci"], calls),
        (&["--until", "1h", "--agent", "ci"], 0),
        (&["--since", "2000-01-01", "--until", "2000-01-02"], 0),
        (&["--tool", "read", "--decision", "deny"], 0),
        (&["--agent", "ci", "--limit", "4"], 4),
        (&["--outcome", "ok"], 6),
        (&["--outcome", "unknown"], 0),
        (&["--received-since", "1h"], calls + 1),
        (&["--received-until", "1h"], 0),
    ] {
        assert_eq!(count(words), expected, "{words:?}");
    }
    let outcome = &server.query(&["--phase", "outcome"])[0];
    let event = outcome["event"].as_str().unwrap();
    let shown = read(&server.data, "show", &[event, "--json"])
        .ok()
        .json_lines();
    let phases: Vec<&Value> = shown.iter().map(|o| &o["phase"]).collect();
    assert_eq!(phases, [&json!("intent"), &json!("outcome"), &Value::Null]);
    let text = read(&server.data, "show", &[event]).ok().stdout;
    assert!(
        text.contains("toolu_1") && text.contains("complete through"),
        "{text}"
    );

    read(&server.data, "show", &[&format!("{stream}/9999")]).refused(1, "no record");
    read(&server.data, "query", &["--since", "soon"]).refused(2, "is not an RFC 3339 time");
    read(&server.data, "query", &["--decision", "maybe"]).refused(2, "`allow` or `deny`");
    read(Path::new("/nonexistent"), "verify", &[]).refused(1, "there is no directory /nonexistent");
}

#[test]
fn server_answers_who_holds_the_token_and_nobody_else() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let token = server.data.join("reader.token");
    let secret = std::fs::read_to_string(&token).unwrap();
    let ask = |headers: &str| post(server.address(), "/v1/query", headers, b"{}").0;
    assert_eq!(ask(""), 401);
    assert_eq!(ask("authorization: Bearer \r\n"), 401);
    assert_eq!(ask("authorization: Bearer wrong\r\n"), 401);
    assert_eq!(
        ask(&format!("authorization: Bearer {secret}").replace('\n', "\r\n")),
        200
    );
    for path in ["/v1/unseal", "/v1/devices", "/v1/query"] {
        let (status, body) = post(server.address(), path, "", b"{}");
        assert!(matches!(status, 401 | 405), "{path}: {status}");
        assert!(!String::from_utf8_lossy(&body).contains("agent"));
    }

    let url = [
        "--url",
        &server.url,
        "--token-file",
        token.to_str().unwrap(),
    ];
    let ask = |verb: &str, words: &[&str]| {
        let mut command = Command::new(program("mcpshim-collector"));
        run(command.arg(verb).args(words).args(url)).ok()
    };
    let direct = read(&server.data, "query", &["--json"]).ok().stdout;
    assert_eq!(
        ask("query", &["--json"]).stdout,
        direct,
        "both ways give the same"
    );
    let direct = read(&server.data, "devices", &[]).ok().stdout;
    assert_eq!(ask("devices", &[]).stdout, direct);
    let key = site.org.audit_key();
    let words = [
        "--key",
        key.to_str().unwrap(),
        "--reason",
        "CASE-1",
        "--tool",
        "read",
    ];
    let unsealed = ask("unseal", &words);
    assert!(unsealed.stdout.contains(CANARY), "{unsealed:?}");
    let log = std::fs::read_to_string(server.data.join("log/admin.jsonl")).unwrap();
    assert!(log.contains("CASE-1"));
}

#[test]
fn what_a_device_calls_itself_cannot_play_with_the_readers_terminal() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let data = server.kill();
    let path = data
        .join("installations")
        .join(site.key.id().as_str())
        .join("installation.json");
    let mut doc: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    doc["machine_id"] = json!("lap\u{1b}]0;title\u{7}\n\u{9b}2J\u{202e}top");
    std::fs::write(&path, doc.to_string()).unwrap();
    let table = read(&data, "devices", &[]).ok().stdout;
    let json = read(&data, "devices", &["--json"]).ok();
    for text in [&table, &json.stdout] {
        let played = |ch: char| (ch.is_control() && ch != '\n') || ch == '\u{202e}';
        assert!(!text.contains(played), "{text:?}");
    }
    assert!(table.contains("  machine lap"), "{table}");
    assert_eq!(json.json_lines()[0]["machine_id"], doc["machine_id"]);
}

#[test]
fn records_outlive_the_note_of_whose_they_are() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let before = server.query(&[]).len();
    let data = server.kill();
    let path = data
        .join("installations")
        .join(site.key.id().as_str())
        .join("installation.json");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(query(&data, &[]).len(), before);
    read(&data, "verify", &[]).ok();
    // and the note is written again as soon as the device enrols
    let server = site.collector();
    site.points_at(&server.url);
    let _spool = site.record(1);
    site.flush().ok();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"name\": \"ci\""), "{text}");
}

#[test]
fn stream_of_the_same_name_by_another_key_hides_no_record_of_a_call() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(1, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let call = server.query(&["--phase", "outcome"]);
    let event = call[0]["event"].as_str().unwrap();
    let before = events(&server.query(&["--event", event]));
    assert_eq!(before.len(), 2);
    // it is read last, and has another call there
    let stranger = (0..=u8::MAX)
        .map(|seed| InstallationKey::from_seed(&[seed; 32]).unwrap())
        .max_by_key(|key| key.id().as_str().to_owned())
        .unwrap();
    assert!(stranger.id().as_str() > site.key.id().as_str());
    let (_, other) = site.calls(4, 5, 500);
    let batch = seal(&stranger, stream, &other[0], Kind::Following);
    assert_eq!(server.send(stream, 1, &batch).0, 200);
    let shown = server.query(&["--event", event]);
    let shown: BTreeSet<_> = shown.iter().map(|r| r["event"].as_str().unwrap()).collect();
    assert!(
        before.iter().all(|e| shown.contains(e.as_str())),
        "{shown:?}"
    );
}

#[test]
fn false_claim_is_told_once_however_often_it_is_sent() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    let other = InstallationKey::from_seed(&[9; 32]).unwrap();
    let batch = seal(&other, stream, &slices[0], Kind::Following);
    // another installation of the same agent sends these records as its own
    let site = Site {
        org: site.org,
        key: other,
    };
    site.enrol(&server);
    for _ in 0..3 {
        assert_eq!(server.send(stream, slices[0].first_seq, &batch).0, 200);
    }
    let alerts = std::fs::read_to_string(server.data.join("log/alerts.jsonl")).unwrap();
    assert_eq!(alerts.matches("\"claim\"").count(), 1, "{alerts}");
}

#[test]
fn second_server_on_the_same_data_is_refused() {
    let site = Site::new();
    let server = site.collector();
    let mut command = Command::new(program("mcpshim-collector"));
    command
        .args(["serve", "--org", "it.example", "--registry"])
        .arg(format!("file://{}/", site.org.repository().display()))
        .arg("--root")
        .arg(site.org.sources().join("trust/root.json"))
        .arg("--data")
        .arg(&server.data);
    run(&mut command).refused(1, "another collector is using");
    command.args(["--listen", "0.0.0.0:0"]);
    drop(server);
    run(&mut command).refused(1, "needs TLS");
}

#[test]
fn initialised_directory_needs_no_flags_and_ends_when_asked() {
    let site = Site::new();
    let data = site.org.path().join("initialised");
    let mut command = Command::new(program("mcpshim-collector"));
    command
        .args(["init", "--org", "it.example", "--registry"])
        .arg(format!("file://{}/", site.org.repository().display()))
        .arg("--root")
        .arg(site.org.sources().join("trust/root.json"))
        .arg("--data")
        .arg(&data);
    run(&mut command).ok();
    assert_eq!(query(&data, &[]), [] as [Value; 0], "empty, and said so");
    let mut command = Command::new(program("mcpshim-collector"));
    command.args(["serve", "--data"]).arg(&data);
    let mut process = Running::start(command.stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(process.stdout())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("listening on http://127.0.0.1:"), "{line}");
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().success());
}

#[test]
fn registry_of_another_root_stops_the_server_before_it_listens() {
    let (site, other) = (Site::new(), Site::new());
    let mut command = Command::new(program("mcpshim-collector"));
    command
        .args(["serve", "--org", "it.example", "--registry"])
        .arg(format!("file://{}/", site.org.repository().display()))
        .arg("--root")
        .arg(other.org.sources().join("trust/root.json"))
        .arg("--data")
        .arg(site.org.path().join("odd"));
    run(&mut command).refused(5, "no registry to judge by");
}

/// A CA and a certificate for one name (`IP:127.0.0.1`), made anew.
pub(crate) fn certificate(dir: &Path, name: &str) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        run(command.args(arguments.split(' ')).current_dir(dir)).ok();
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca \
         -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE",
    );
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=collector \
         -keyout leaf.key -out leaf.csr",
    );
    std::fs::write(
        dir.join("leaf.ext"),
        format!("subjectAltName={name}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n"),
    )
    .unwrap();
    openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out leaf.pem",
    );
}

#[test]
fn delivers_over_tls_to_the_organisations_own_ca_only() {
    let site = Site::new();
    let dir = site.org.path().to_owned();
    certificate(&dir, "IP:127.0.0.1");
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("leaf.pem"), path("leaf.key"));
    let server = Server::start(
        &site.org,
        "collector",
        &[
            "--listen",
            "127.0.0.1:0",
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
        ],
    );
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let _spool = site.record(3);

    // the registry names no CA: the system's store does not know this one
    site.points_at(&server.url);
    site.org
        .mcpshim("ci", ["audit", "flush", "--wait", "1"])
        .refused(75, "still wait");
    assert_eq!(server.query(&[]).len(), 0);

    std::fs::copy(dir.join("ca.pem"), site.org.sources().join("ca.pem")).unwrap();
    site.points_at(&format!("{}\n  ca: ca.pem", server.url));
    site.flush().ok();
    assert_eq!(server.query(&["--phase", "intent"]).len(), 2);
}

/// What `openssl req -x509` makes by itself is a CA's certificate: no device believes it as a
/// server's. Two programs say so before one has to.
#[test]
fn certificate_of_a_ca_is_refused_as_a_servers_own_and_a_plain_one_is_believed() {
    let site = Site::new();
    let dir = site.org.path().to_owned();
    let make = |name: &str, extra: &[&str]| {
        let mut command = Command::new("openssl");
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                     -subj /CN=collector -addext subjectAltName=IP:127.0.0.1";
        command.args(words.split_whitespace()).args(extra).args([
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.pem"),
        ]);
        run(command.current_dir(&dir)).ok();
        let path = |end: &str| {
            dir.join(format!("{name}.{end}"))
                .to_str()
                .unwrap()
                .to_owned()
        };
        let words = ["--tls-cert", &path("pem"), "--tls-key", &path("key")];
        words.map(str::to_owned)
    };
    let check = |name: &str| {
        std::fs::copy(dir.join(name), site.org.sources().join("ca.pem")).unwrap();
        let text = std::fs::read_to_string(site.org.sources().join("org.yaml")).unwrap();
        let text = text.split("collector:").next().unwrap();
        let collector = "collector:\n  url: https://127.0.0.1:1/\n  ca: ca.pem\n";
        site.org.write("org.yaml", &format!("{text}{collector}"));
        let mut command = Command::new(program("mcpshim-admin"));
        run(command.arg("check").arg(site.org.sources()))
    };
    let odd = make("odd", &[]);
    let mut command = Command::new(program("mcpshim-collector"));
    command
        .args(["serve", "--org", "it.example", "--registry"])
        .arg(format!("file://{}/", site.org.repository().display()))
        .arg("--root")
        .arg(site.org.sources().join("trust/root.json"))
        .arg("--data")
        .arg(dir.join("odd"))
        .args(&odd);
    let ended = run(&mut command).refused(1, "CaUsedAsEndEntity");
    assert!(
        ended
            .stderr
            .contains("-addext basicConstraints=critical,CA:FALSE")
    );
    let ended = check("odd.pem");
    let said = [ended.stdout.as_str(), &ended.stderr].concat();
    assert!(said.contains("CaUsedAsEndEntity"), "{said}");

    // its own CA, and no CA: what the advice makes
    let plain = make("plain", &["-addext", "basicConstraints=critical,CA:FALSE"]);
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    let server = Server::start(&site.org, "collector", &plain);
    check("plain.pem").ok();
    let _spool = site.record(3);
    site.points_at(&format!("{}\n  ca: ca.pem", server.url));
    site.flush().ok();
    assert_eq!(server.query(&["--phase", "intent"]).len(), 2);
    // a real CA is none of a server's business
    certificate(&dir, "IP:127.0.0.1");
    check("ca.pem").ok();
}

/// A bare name has the empty path as its parent.
#[test]
fn an_audit_key_is_made_in_the_current_directory_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let new = || {
        let mut command = Command::new(program("mcpshim-collector"));
        command.current_dir(dir.path());
        run(command.args(["auditkey", "new", "--out", "audit.key"]))
    };
    let made = new().ok();
    let key = std::fs::read(dir.path().join("audit.key")).unwrap();
    assert!(made.stdout.contains("x25519-hkdf-sha256"), "{made:?}");
    new().refused(1, "audit.key exists");
    assert_eq!(std::fs::read(dir.path().join("audit.key")).unwrap(), key);
}
