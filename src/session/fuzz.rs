//! Any interleaving of inputs, from bytes: for fuzzing, and for the laws of the session.
//!
//! [`run`] reads bytes as a list of things that happen and plays them against a machine, a
//! client, two upstreams and a driver that records in its own time. It panics when a law breaks:
//!
//! 1. intents = outcomes + in flight, after every step; in the end nothing is in flight, and
//!    every intent has exactly one outcome;
//! 2. no call goes up before its intent is recorded, and no result comes down before its outcome
//!    is; the same of questions of upstreams, the other way round;
//! 3. what is not granted never goes up;
//! 4. every request is answered exactly once, or, taken back, at most once;
//! 5. what the machine says is JSON-RPC, one line each; tickets and contexts are dense;
//! 6. what it holds is bounded, and nothing is left of it when all is settled;
//! 7. the same call goes up no more often than its limit says, in any window of its length.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken law should stop the run"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Input, LineFault, Loss, Machine, Opening, Output, Place, Reach, Ticket};
use crate::audit::entry::{Body, ContextId};
use crate::clock::{CountingEntropy, Now};
use crate::identity::Caller;
use crate::ids::LinkId;
use crate::limits;
use crate::policy::fixture::{self, ann};
use crate::policy::{Snapshot, SnapshotId};
use crate::registry::doc::{PinMode, Registry, RepeatLimit, ServerDoc};
use crate::registry::{Freshness, Verified};
use crate::wire::era::{self, Era, META_CAPABILITIES, META_PROTOCOL, Revision};
use crate::wire::msg::{Message, Notification, result_line};

/// How often the same call to beta may be made.
const LIMIT: RepeatLimit = RepeatLimit {
    calls: 2,
    seconds: 5,
};
const NEW: &str = Era::Stateless.revision().as_str();
const OLD: &str = Revision::NEWEST_HANDSHAKE.as_str();
const TOOLS: [&str; 12] = [
    "alpha_echo",
    "alpha_echo",
    "alpha_echo",
    "beta_echo",
    "beta_echo",
    "beta_echo",
    "alpha_forbidden",
    "gamma_secret",
    "echo",
    "mcpshim_status",
    "off_echo",
    "nothing",
];
const URIS: [&str; 5] = [
    "alpha://readme",
    "beta://readme",
    "alpha://doc/1",
    "gamma://x",
    "x",
];

/// Two servers with a granted and a not granted tool each, one without grants, one not pinned.
fn registry() -> Registry {
    let mut registry = fixture::registry();
    registry.put_role("eng", &["eng"]);
    for (key, protocol) in [("alpha", OLD), ("beta", NEW)] {
        let tools = [("echo", true), ("forbidden", true)];
        let (uri, template) = (format!("{key}://readme"), format!("{key}://doc/{{id}}"));
        let mut server = fixture::server(key, "names", &tools, &["greet"], &[&uri], &[&template]);
        server.roots = key == "alpha";
        server.elicitation = true;
        server.sampling = key == "beta";
        server.surface.as_mut().unwrap().protocol = protocol.to_owned();
        server.limits.in_flight = 4;
        server.limits.call_ms = 20_000;
        registry.put(server);
        registry.grant("eng", key, "echo");
        let rule = registry.rule(None);
        let table = registry.table("eng", key);
        table.prompts.insert("greet".to_owned(), rule);
        table.resources.push((format!("{key}://*"), rule));
    }
    registry.put(fixture::server(
        "gamma",
        "names",
        &[("secret", true)],
        &[],
        &[],
        &[],
    ));
    let mut beta = ServerDoc::clone(&registry.servers[&fixture::key("beta")]);
    beta.limits.repeat = Some(LIMIT);
    registry.put(beta);
    registry.put(fixture::server("off", "off", &[], &[], &[], &[]));
    let rule = registry.rule(None);
    registry
        .table("eng", "off")
        .tool_globs
        .push(("e*".to_owned(), rule));
    registry
}

/// What the session may be told, in turn.
fn snapshots() -> Vec<Arc<Snapshot>> {
    let now = fixture::at(fixture::NOW);
    let full = registry();
    let mut less = registry();
    less.table("eng", "alpha").tools.clear();
    less.servers.remove(&fixture::key("beta"));
    let make = |registry: Option<&Registry>, caller| {
        let registry = registry.map(|r| Arc::new(Verified::assume_for_tests(r.clone())));
        Arc::new(Snapshot::new(
            SnapshotId(0),
            registry,
            Freshness::Fresh,
            caller,
            None,
            &now,
        ))
    };
    let eng = make(Some(&full), Some(ann(&["eng"])));
    let mut all = vec![Arc::clone(&eng); 5];
    all.push(make(Some(&less), Some(ann(&["eng"]))));
    all.push(make(Some(&full), None));
    all.push(make(Some(&full), Some(ending())));
    all.push(make(None, None));
    all
}

/// Ann, whose sign-in ends in the middle of it all.
fn ending() -> Caller {
    let mut caller = ann(&["eng"]);
    if let Caller::Person { expires, .. } = &mut caller {
        *expires = fixture::NOW + 30;
    }
    caller
}

/// One request of the client's, by its id token.
#[derive(Debug, Default)]
struct Asked {
    sent: u32,
    answered: u32,
    cancelled: bool,
}

struct World<'b> {
    bytes: &'b [u8],
    machine: Machine,
    now: Now,
    entropy: CountingEntropy,
    snapshots: Vec<Arc<Snapshot>>,
    numbered: u64,
    servers: BTreeMap<LinkId, Arc<ServerDoc>>,
    /// Which tickets are recorded; the rest of those below `settled` failed.
    recorded: BTreeSet<u64>,
    settled: Ticket,
    last: Ticket,
    contexts: u32,
    asked: BTreeMap<String, Asked>,
    /// Ids of lines made of stray bytes: nothing is expected of them.
    strays: BTreeSet<String>,
    /// Ids of listens that were acknowledged, and the URIs in it.
    acknowledged: BTreeMap<String, String>,
    /// Marks of calls and answers, by the ticket of their entry.
    intents: BTreeMap<u64, Ticket>,
    outcomes: BTreeMap<u64, Ticket>,
    open: BTreeSet<(u64, u16)>,
    /// When the one call that is made again and again went up, in monotonic microseconds.
    repeated: Vec<u64>,
    /// What upstreams were asked: link and request id.
    up: Vec<(LinkId, String)>,
    marks: u64,
    /// The id of the last question to the client.
    question: String,
    /// The client's own era.
    stateless: bool,
    /// Whether upstreams answer what links ask for themselves.
    helpful: bool,
    done: bool,
}

thread_local! {
    // made once: a run is much quicker than they are
    static SNAPSHOTS: Vec<Arc<Snapshot>> = snapshots();
}

/// Plays the bytes; panics when a law breaks.
pub fn run(bytes: &[u8]) {
    let snapshots = SNAPSHOTS.with(Clone::clone);
    let first = bytes.first().is_none_or(|byte| byte % 4 > 0);
    let machine = Machine::new(first.then(|| Arc::clone(&snapshots[0])), None);
    let mut world = World {
        bytes: bytes.get(1..).unwrap_or_default(),
        machine,
        now: fixture::at(fixture::NOW),
        entropy: CountingEntropy::default(),
        snapshots,
        numbered: 1,
        servers: BTreeMap::new(),
        recorded: BTreeSet::new(),
        settled: Ticket(0),
        last: Ticket(0),
        contexts: 0,
        asked: BTreeMap::new(),
        strays: BTreeSet::new(),
        acknowledged: BTreeMap::new(),
        intents: BTreeMap::new(),
        outcomes: BTreeMap::new(),
        open: BTreeSet::new(),
        repeated: Vec::new(),
        up: Vec::new(),
        marks: 0,
        question: "0".to_owned(),
        stateless: bytes.first().is_some_and(|byte| byte % 8 < 4),
        helpful: true,
        done: false,
    };
    if !world.stateless {
        world.initialize();
    }
    while !world.bytes.is_empty() {
        world.step();
    }
    world.settle();
}

impl World<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *byte
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    fn step(&mut self) {
        match self.byte() % 36 {
            0..=6 => self.call(),
            7 => {
                let uri = self.pick(&URIS);
                let method = self.pick(&[
                    "resources/read",
                    "resources/subscribe",
                    "resources/unsubscribe",
                ]);
                self.request(method, &format!("\"uri\":\"{uri}\""));
            }
            8 => {
                let name = self.pick(&["alpha_greet", "beta_greet", "nothing"]);
                self.request("prompts/get", &format!("\"name\":\"{name}\""));
            }
            9 => {
                let method = self.pick(&[
                    "tools/list",
                    "prompts/list",
                    "resources/list",
                    "resources/templates/list",
                    "server/discover",
                    "ping",
                    "does/not/exist",
                ]);
                self.request(method, "\"x\":1");
            }
            10 => self.initialize(),
            11 => self.cancel(),
            12 => {
                let uri = self.pick(&URIS);
                let wanted = format!(
                    r#""notifications":{{"toolsListChanged":true,"resourceSubscriptions":["{uri}"]}}"#
                );
                self.request("subscriptions/listen", &wanted);
            }
            13 => {
                let level = self.pick(&["debug", "error", "loud"]);
                self.request("logging/setLevel", &format!("\"level\":\"{level}\""));
            }
            14 => self.stray(),
            15 => self.again(),
            16..=20 => self.answer(),
            21 => self.upstream(),
            22 if self.byte().is_multiple_of(4) => {
                if let Some(link) = self.some_link() {
                    let reason = "ended".to_owned();
                    let opening = self.pick(&[Opening::Initialize, Opening::Probe]);
                    let loss = Loss::not_sent("is full");
                    let which = self.byte() % 8;
                    self.handle(match which {
                        0 => Input::LinkKnown { link, opening },
                        1 => Input::LinkUnheard { link, loss },
                        2..=4 => Input::LinkForgotten { link, met: None },
                        _ => Input::LinkClosed { link, reason },
                    });
                }
            }
            23 => {
                if let Some(link) = self.some_link() {
                    let fault = LineFault::TooLong { bytes: 1 << 30 };
                    let place = self.pick(&[Place::Only, Place::News, Place::Answer(1)]);
                    self.handle(Input::LinkFault { link, place, fault });
                }
            }
            24 => {
                if let Some(link) = self.some_link() {
                    self.handle(Input::LinkOpened {
                        link,
                        credential: None,
                    });
                }
            }
            25 => self.helpful = !self.byte().is_multiple_of(8),
            26..=28 => {
                let some = u64::from(self.byte());
                self.record(self.settled.0 + some, true);
            }
            29 if self.byte().is_multiple_of(4) => {
                let some = u64::from(self.byte() % 8);
                self.record(self.settled.0 + some, false);
            }
            30 => {
                let at = usize::from(self.byte()) % self.snapshots.len();
                let snapshot = Arc::clone(&self.snapshots[at]);
                self.numbered += 1;
                let id = SnapshotId(self.numbered);
                let live = BTreeMap::new();
                let snapshot = Arc::new(snapshot.with_live(id, live, &self.now));
                self.handle(Input::Snapshot(snapshot));
            }
            31 => {
                let ms = self.pick(&[1u64, 1, 300, 300, 3000, 3000, 20_000, 700_000]);
                self.now.mono_us += ms * 1000;
                // slowly: registry and sign-in are to last for most of a run
                self.now.wall_us += ms * 10;
                self.handle(Input::Wake);
            }
            34 => self.say_roots(),
            35 => {
                let params = r#""name":"beta_echo","arguments":{"again":1}"#;
                self.request("tools/call", params);
            }
            32 => {
                let server = self.pick(&["alpha", "alpha", "beta", "off", "gamma"]);
                let at_once = self.byte().is_multiple_of(2);
                let server = fixture::key(server);
                self.handle(Input::Renew { server, at_once });
            }
            33 => {
                let at = usize::from(self.byte()) % 8;
                let loss = Loss {
                    reach: self.pick(&[Reach::NotSent, Reach::Refused(503), Reach::Unknown]),
                    reason: "hung up".to_owned(),
                    pause_ms: self.pick(&[None, Some(1_000)]),
                    broken: self.byte().is_multiple_of(4),
                };
                if let Some((link, id)) = self.up.iter().rev().nth(at).cloned() {
                    let id = id.parse().unwrap();
                    self.handle(Input::ExchangeLost { link, id, loss });
                }
            }
            _ => self.call(),
        }
    }

    fn request(&mut self, method: &str, params: &str) {
        // now and then the other era's
        let other = self.byte() % 8 == 7;
        let meta = meta(self.stateless != other);
        let token = format!("\"q{}\"", self.asked.len());
        self.ask(&token, method, &format!("{params},{meta}"));
    }

    fn initialize(&mut self) {
        let capabilities = self.pick(&[
            "{}",
            r#"{"roots":{}}"#,
            r#"{"elicitation":{"form":{},"url":{}}}"#,
            r#"{"elicitation":{},"sampling":{},"roots":{}}"#,
        ]);
        let params = format!(r#""protocolVersion":"{OLD}","capabilities":{capabilities}"#);
        self.request("initialize", &params);
    }

    fn ask(&mut self, token: &str, method: &str, params: &str) {
        self.asked.entry(token.to_owned()).or_default().sent += 1;
        let line = format!(
            r#"{{"method":"{method}","params":{{{params}}},"jsonrpc":"2.0","id":{token}}}"#
        );
        self.handle(Input::ClientLine(line.as_bytes()));
    }

    fn call(&mut self) {
        let name = self.pick(&TOOLS);
        self.marks += 1;
        let mark = self.marks;
        let params = format!(r#""name":"{name}","arguments":{{"mark":{mark},"x":1.50}}"#);
        self.request("tools/call", &params);
    }

    /// A second request with the id of an earlier one.
    fn again(&mut self) {
        let at = usize::from(self.byte());
        let tokens: Vec<String> = self.asked.keys().cloned().collect();
        if let Some(token) = tokens.get(at % tokens.len().max(1)) {
            let token = token.clone();
            self.ask(&token, "prompts/list", &meta(true));
        }
    }

    fn cancel(&mut self) {
        let at = usize::from(self.byte());
        let tokens: Vec<String> = self.asked.keys().cloned().collect();
        if let Some(token) = tokens.get(at % tokens.len().max(1)) {
            self.asked.get_mut(token).unwrap().cancelled = true;
            let line = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{token}}}}}"#
            );
            self.handle(Input::ClientLine(line.as_bytes()));
        }
    }

    /// The client answers a question, well or badly, whether it was asked or not; or says that its
    /// roots changed, or how far it is.
    fn say_roots(&mut self) {
        self.marks += 1;
        let mark = self.marks;
        let id = match self.byte() % 4 {
            0 => "\"mcpshim-1\"".to_owned(),
            _ => self.question.clone(),
        };
        let line = match self.byte() % 10 {
            5..=7 => format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept","mark":{mark}}}}}"#
            ),
            8 => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":1,"a":2}}}}"#),
            9 => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":1}}}}"#,
                self.byte() % 16
            ),
            0 => r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#.to_owned(),
            1 => format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"no"}}}}"#),
            2 => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"roots":7}}}}"#),
            _ => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"roots":[]}}}}"#),
        };
        self.handle(Input::ClientLine(line.as_bytes()));
    }

    fn stray_line(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.bytes.len());
        let (line, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        line.iter().copied().filter(|byte| *byte != b'\n').collect()
    }

    fn stray(&mut self) {
        let line = self.stray_line();
        match Message::parse(&line) {
            Ok(Message::Request(request)) => {
                self.strays.insert(request.id.raw().to_owned());
            }
            Ok(Message::Notification(_)) => {
                // it may cancel anything
                self.asked
                    .values_mut()
                    .for_each(|asked| asked.cancelled = true);
            }
            Ok(Message::Response(_)) => {}
            Err(rejected) => self.strays.extend(rejected.id.map(Into::into)),
        }
        self.handle(Input::ClientLine(&line));
    }

    fn some_link(&mut self) -> Option<LinkId> {
        let at = usize::from(self.byte());
        let links: Vec<LinkId> = self.servers.keys().copied().collect();
        links.get(at % links.len().max(1)).copied()
    }

    /// An upstream answers something it was asked, once or again, well or badly.
    fn answer(&mut self) {
        // mostly one of the latest
        let at = usize::from(self.byte()) % 8;
        let Some((link, id)) = self.up.iter().rev().nth(at).cloned() else {
            return;
        };
        self.marks += 1;
        let mark = self.marks;
        let id = if self.byte().is_multiple_of(16) {
            "424242".to_owned()
        } else {
            id
        };
        let body = match self.byte() % 13 {
            10 => format!(
                r#""result":{{"resultType":"input_required","inputRequests":{{"a":{{"method":"elicitation/create","params":{{"message":"m","mark":{mark}}}}},"b":{{"method":"sampling/createMessage","params":{{"messages":[]}}}}}},"requestState":"s"}}"#
            ),
            11 => format!(
                r#""result":{{"resultType":"input_required","inputRequests":{{"a":{{"method":"elicitation/create","params":{{"message":"m","mark":{mark}}}}}}}}}"#
            ),
            12 => r#""result":{"resultType":"input_required","requestState":"s"}"#.to_owned(),
            0 => format!(r#""error":{{"code":-32002,"message":"m","data":{{"mark":{mark}}}}}"#),
            1 => format!(r#""result":{{"mark":{mark},"mark":1}}"#),
            2 => r#""result":[]"#.to_owned(),
            3 => format!(r#""result":{{"resultType":"input_required","mark":{mark}}}"#),
            4 => format!(r#""result":{{"isError":true,"mark":{mark}}}"#),
            _ => format!(r#""result":{{"content":[],"mark":{mark}}}"#),
        };
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},{body}}}"#);
        let line = line.as_bytes();
        self.handle(Input::LinkLine {
            link,
            during: None,
            line,
        });
    }

    fn upstream(&mut self) {
        let Some(link) = self.some_link() else { return };
        let line = match self.byte() % 14 {
            11 | 12 => {
                self.marks += 1;
                let (id, mark) = (self.marks % 4, self.marks);
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"method":"elicitation/create","params":{{"message":"m","mark":{mark},"_meta":{{"progressToken":"t"}}}}}}"#
                )
            }
            13 => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{}}}}}"#,
                self.byte() % 4
            ),
            0 => r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#.to_owned(),
            1 => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{}"}}}}"#,
                self.pick(&URIS)
            ),
            2 => r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}"#.to_owned(),
            3 => r#"{"jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{}}"#.to_owned(),
            4 => r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.to_owned(),
            5 => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":1}}}}"#,
                self.recent(link)
            ),
            6 => {
                let honoured = match self.byte() % 4 {
                    0 => String::new(),
                    _ => URIS.map(|uri| format!("\"{uri}\"")).join(","),
                };
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"resourceSubscriptions":[{honoured}]}},"_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}}}}}"#,
                    self.recent(link)
                )
            }
            7 | 8 => {
                self.marks += 1;
                let id = self.marks;
                format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"roots/list"}}"#)
            }
            _ => {
                let line = self.stray_line();
                return self.handle(Input::LinkLine {
                    link,
                    during: None,
                    line: &line,
                });
            }
        };
        let line = line.as_bytes();
        self.handle(Input::LinkLine {
            link,
            during: None,
            line,
        });
    }

    /// The id of something this upstream was asked lately.
    fn recent(&mut self, link: LinkId) -> String {
        let at = usize::from(self.byte()) % 8;
        let asked = self.up.iter().rev().filter(|(of, _)| *of == link);
        let id = asked.map(|(_, id)| id.clone()).nth(at);
        id.unwrap_or_else(|| "0".to_owned())
    }

    fn record(&mut self, upto: u64, well: bool) {
        let upto = Ticket(upto.min(self.last.0));
        if upto <= self.settled {
            return;
        }
        if well {
            self.recorded.extend(self.settled.0 + 1..=upto.0);
        }
        self.settled = upto;
        self.handle(match well {
            true => Input::Recorded { upto },
            false => Input::NotRecorded {
                upto,
                reason: "disk full".to_owned(),
            },
        });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.give(input);
        // a wake that is due and stays due would spin the driver
        let mut wakes = 0;
        while let Some(at) = self
            .machine
            .next_wakeup()
            .filter(|at| *at <= self.now.mono_us)
        {
            assert!(wakes < 4, "still due after {wakes} wakes: {at}");
            self.give(Input::Wake);
            wakes += 1;
        }
    }

    fn give(&mut self, input: Input<'_>) {
        self.machine.handle(input, &self.now, &mut self.entropy);
        let mut more = self.drain();
        while let Some((link, line)) = more.pop() {
            let input = match &line {
                None => Input::LinkOpened {
                    link,
                    credential: None,
                },
                Some(line) => Input::LinkLine {
                    link,
                    during: None,
                    line,
                },
            };
            self.machine.handle(input, &self.now, &mut self.entropy);
            let further = self.drain();
            more.splice(0..0, further);
        }
        let (intents, outcomes, open) = self.machine.books();
        assert_eq!(intents, outcomes + open, "the books do not balance");
        assert_eq!(
            open,
            self.open.len() as u64,
            "an intent without its execution"
        );
        assert!(self.open.len() <= limits::CALLS_IN_FLIGHT);
    }

    fn drain(&mut self) -> Vec<(LinkId, Option<Vec<u8>>)> {
        let mut more = Vec::new();
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Append(ticket, entry) => self.appended(ticket, &entry.body),
                Output::CloseLink(link) => assert!(self.servers.contains_key(&link)),
                Output::Done => {
                    assert!(!self.done, "done twice");
                    self.done = true;
                }
                Output::Learned(..) => {}
                Output::OpenLink(link, server) => {
                    self.servers.insert(link, server);
                    if self.helpful {
                        more.push((link, None));
                    }
                }
                Output::ToClient(line) => self.client_gets(&line),
                Output::ToLink(link, line) => self.link_gets(link, &line, &mut more),
            }
        }
        more.reverse();
        more
    }

    fn appended(&mut self, ticket: Ticket, body: &Body) {
        assert_eq!(ticket.0, self.last.0 + 1, "tickets are dense");
        self.last = ticket;
        match body {
            Body::Context(id, _) => {
                self.contexts += 1;
                assert_eq!(*id, ContextId(self.contexts), "contexts are dense");
            }
            Body::Denial { facts, .. } => {
                for id in [facts.caller, facts.client, facts.target, facts.rule] {
                    assert!((1..=self.contexts).contains(&id.0), "a context comes first");
                }
            }
            Body::Intent(facts) => {
                for id in [facts.caller, facts.client, facts.target, facts.rule] {
                    assert!((1..=self.contexts).contains(&id.0), "a context comes first");
                }
                let leg = (facts.call.0, facts.leg);
                assert!(self.open.insert(leg), "one intent a leg");
                if let Some(mark) = mark(&facts.content.0) {
                    self.intents.insert(mark, ticket);
                }
            }
            Body::Outcome {
                call, leg, content, ..
            } => {
                assert!(self.open.remove(&(call.0, *leg)), "one outcome an intent");
                if let Some(mark) = mark(&content.0) {
                    self.outcomes.insert(mark, ticket);
                }
            }
            Body::Counted { .. } | Body::Link { .. } | Body::Loss { .. } => {}
        }
    }

    fn client_gets(&mut self, line: &[u8]) {
        let line = one_line(line);
        let text = std::str::from_utf8(line).unwrap();
        match Message::parse(line) {
            Ok(Message::Response(response)) => {
                let id = response
                    .id
                    .map(|id| id.raw().to_owned())
                    .unwrap_or_default();
                if let Some(asked) = self.asked.get_mut(&id) {
                    asked.answered += 1;
                    let over = asked.answered > asked.sent && !self.strays.contains(&id);
                    assert!(!over, "answered too often: {text}");
                } else {
                    let stray = id.is_empty() || self.strays.contains(&id);
                    assert!(stray, "an answer to nothing: {text}");
                }
                if let Some(mark) = mark(line) {
                    // what a parked call is asked is a question of the server's own
                    let of = match text.contains("\"requestState\":\"mcpshim-parked-") {
                        true => &self.intents,
                        false => &self.outcomes,
                    };
                    let recorded = of.get(&mark);
                    let recorded = recorded.is_some_and(|at| self.recorded.contains(&at.0));
                    assert!(recorded, "a result before its record: {text}");
                }
                // found: a server of the handshake era said it, and nobody looked at what it asked
                let acts = self.machine.front.era() == Some(Era::Stateless);
                let asks = text.contains("\"input_required\"");
                if acts && asks && text.contains("elicitation/create") {
                    let labelled = ["[alpha] m", "[beta] m", "[off] m"];
                    let labelled = labelled.iter().any(|label| text.contains(label));
                    assert!(labelled, "a question that nobody looked at: {text}");
                }
            }
            Ok(Message::Notification(told)) => self.listen_gets(&told),
            Ok(Message::Request(request)) => {
                let known = matches!(
                    request.method.as_ref(),
                    "elicitation/create" | "roots/list" | "sampling/createMessage"
                );
                assert!(known, "asked something else: {text}");
                assert!(
                    request.id.raw().starts_with("\"mcpshim-"),
                    "an id of others: {text}"
                );
                if let Some(mark) = mark(line) {
                    let recorded = self.intents.get(&mark);
                    let recorded = recorded.is_some_and(|at| self.recorded.contains(&at.0));
                    assert!(recorded, "a question before its record: {text}");
                }
                self.question = request.id.raw().to_owned();
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    /// Nothing is told of a listen before its acknowledgement, nor anything that is not in it.
    fn listen_gets(&mut self, told: &Notification<'_>) {
        let params = told.params.as_ref();
        let meta = params.and_then(|params| params.meta.as_ref());
        let id = meta.and_then(|meta| meta.get(era::META_SUBSCRIPTION));
        let (Some(id), Some(params)) = (id, params) else {
            return;
        };
        if told.method == "notifications/subscriptions/acknowledged" {
            let honoured = params.object.get("notifications").unwrap_or_default();
            let old = self.acknowledged.insert(id.to_owned(), honoured.to_owned());
            let again = old.is_none() || self.asked.get(id).is_some_and(|asked| asked.sent > 1);
            assert!(again, "acknowledged twice: {}", told.line);
            return;
        }
        let Some(honoured) = self.acknowledged.get(id) else {
            panic!("told before it was acknowledged: {}", told.line);
        };
        if let Some(uri) = params.object.text("uri") {
            assert!(honoured.contains(&*uri), "not honoured: {}", told.line);
        }
    }

    fn link_gets(&mut self, link: LinkId, line: &[u8], more: &mut Vec<(LinkId, Option<Vec<u8>>)>) {
        let line = one_line(line);
        let text = std::str::from_utf8(line).unwrap();
        let request = match Message::parse(line) {
            Ok(Message::Request(request)) => request,
            Ok(Message::Notification(_)) => return,
            Ok(Message::Response(_)) => {
                if let Some(mark) = mark(line) {
                    let recorded = self.outcomes.get(&mark);
                    let recorded = recorded.is_some_and(|at| self.recorded.contains(&at.0));
                    assert!(recorded, "an answer before its record: {text}");
                }
                return;
            }
            Err(wrong) => panic!("{text}: {wrong:?}"),
        };
        let server = Arc::clone(&self.servers[&link]);
        let (method, id) = (request.method.as_ref(), request.id.raw());
        if let Some(result) = own(&server, method) {
            if self.helpful {
                let answer = result_line(id, &result);
                more.push((link, Some(one_line(&answer).to_vec())));
            }
            return;
        }
        if method == "tools/call" {
            let name = request.params.as_ref().and_then(|p| p.object.text("name"));
            assert_eq!(name.as_deref(), Some("echo"), "not granted: {text}");
            if text.contains(r#""arguments":{"again":1}"#) {
                self.repeats();
                self.up.push((link, id.to_owned()));
                return;
            }
            let intent = mark(line).and_then(|mark| self.intents.get(&mark));
            let recorded = intent.is_some_and(|at| self.recorded.contains(&at.0));
            assert!(recorded, "a call before its record: {text}");
        }
        self.up.push((link, id.to_owned()));
    }

    /// The call that is made again and again went up once more.
    fn repeats(&mut self) {
        let now_us = self.now.mono_us;
        self.repeated.push(now_us);
        let within_us = u64::from(LIMIT.seconds) * 1_000_000;
        let recent = self.repeated.iter().rev();
        // counted from when it was let through, which is up to the record's delay before
        let recent = recent.take_while(|at| **at + within_us > now_us).count();
        assert!(
            recent <= 2 * LIMIT.calls as usize,
            "the same call {recent} times"
        );
    }

    /// Everything ends: the driver catches up, links close, time passes, the client goes.
    fn settle(&mut self) {
        self.helpful = true;
        for _ in 0..4 {
            self.record(self.last.0, true);
            for link in self.servers.keys().copied().collect::<Vec<_>>() {
                let reason = "ended".to_owned();
                self.handle(Input::LinkClosed { link, reason });
            }
            self.now.mono_us += 700_000_000;
            self.handle(Input::Wake);
        }
        self.record(self.last.0, true);
        self.handle(Input::ClientClosed);
        self.record(self.last.0, true);
        assert!(self.done, "the session did not end");
        assert!(self.open.is_empty(), "an intent without an outcome");
        assert_eq!(self.machine.books().2, 0);
        assert!(self.machine.outbox.settled());
        for (id, asked) in &self.asked {
            if !asked.cancelled && !self.strays.contains(id) {
                assert_eq!(asked.answered, asked.sent, "request {id}");
            }
        }
    }
}

/// `_meta` as a client of one era writes it.
fn meta(stateless: bool) -> String {
    let own = match stateless {
        true => format!("\"{META_PROTOCOL}\":\"{NEW}\",\"{META_CAPABILITIES}\":{{}},"),
        false => String::new(),
    };
    format!(r#""_meta":{{{own}"progressToken":"p"}}"#)
}

/// The result of what a link asks for itself.
fn own(server: &ServerDoc, method: &str) -> Option<String> {
    let surface = server.surface.clone().unwrap_or_default();
    let stateless = surface.protocol == NEW;
    let about = r#""capabilities":{"tools":{},"prompts":{},"resources":{},"logging":{}}"#;
    let list = |member: &str, items: &[crate::registry::doc::Pinned]| {
        let items: Vec<&str> = items.iter().map(|item| item.definition.get()).collect();
        format!(
            r#"{{"resultType":"complete","{member}":[{}]}}"#,
            items.join(",")
        )
    };
    Some(match method {
        "initialize" => format!(r#"{{"protocolVersion":"{OLD}",{about}}}"#),
        "server/discover" if stateless => {
            format!(r#"{{"resultType":"complete","supportedVersions":["{NEW}"],{about}}}"#)
        }
        "tools/list" if server.pin == PinMode::Off => {
            r#"{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}"#.to_owned()
        }
        "tools/list" => list("tools", &surface.tools),
        "prompts/list" => list("prompts", &surface.prompts),
        "resources/list" => list("resources", &surface.resources),
        "resources/templates/list" => list("resourceTemplates", &surface.templates),
        _ => return None,
    })
}

fn one_line(line: &[u8]) -> &[u8] {
    let line = line
        .strip_suffix(b"\n")
        .expect("a line ends with a newline");
    assert!(!line.contains(&b'\n'), "one line");
    line
}

/// The number after `"mark":` in a text.
fn mark(text: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(text, b"\"mark\":")?;
    let digits = text[at + 7..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let digits: String = digits.map(|byte| char::from(*byte)).collect();
    digits.parse().ok()
}
