//! Exchanges as text: what is put in, and all that comes out.
//!
//! ```text
//! > …            the client writes           < …            the shim writes
//! «alpha …       an upstream writes          »alpha …       the shim writes to it
//! «alpha@6 …     the same, on the stream of the answer to request 6
//! recorded       the driver recorded all     ! intent …     an entry, in short
//! +1500          milliseconds pass           ! open alpha   a transport
//! ```
//!
//! The rig answers what links ask for themselves (opening, lists) from the pinned surface and
//! leaves it out of the transcript. Records are confirmed at once unless a test withholds them.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what a test does not expect should stop it"
)]

mod asks;
mod calls;
mod confirm;
mod drive;
mod eras;
mod forgotten;
mod found;
mod laws;
mod lossless;
mod park;
mod renew;
mod roots;
mod smuggling;
mod strangers;
mod subscriptions;
mod tasks;
mod uris;

use std::collections::BTreeMap;

use super::fixture::{asking, bob, own, registry, snapshot_of};
use super::*;
use crate::audit::entry::{Body, Context, ContextId, End};
use crate::clock::CountingEntropy;
use crate::pin::{self, Kind};
use crate::policy::fixture::{self, ann};
use crate::registry::Verified;
use crate::registry::doc::{PinMode, Registry};
use crate::wire::msg::{Message, Request, result_line};

/// Pins what the rig's server of that key really lists.
fn exact(registry: &mut Registry, key: &str, mode: PinMode) {
    registry.edit(key, |server| {
        server.pin = mode;
        let surface = server.surface.as_mut().unwrap();
        let lists = [
            (Kind::Tool, &mut surface.tools),
            (Kind::Prompt, &mut surface.prompts),
            (Kind::Template, &mut surface.templates),
            (Kind::Resource, &mut surface.resources),
        ];
        for (kind, entries) in lists {
            for pinned in entries {
                pinned.digest = pin::entry(kind, &pinned.definition).unwrap().digest;
            }
        }
        // what `initialize` and `server/discover` of the rig's servers say
        let about = own(server, "initialize").unwrap();
        let about: serde_json::Value = serde_json::from_str(&about).unwrap();
        let capabilities = about["capabilities"].to_string();
        let surface = server.surface.as_mut().unwrap();
        surface.capabilities = Some(serde_json::from_str(&capabilities).unwrap());
        surface.instructions = None;
    });
}

/// `_meta` of the stateless era, as a member of params.
const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"probe","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;

/// How the rig confirms records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recording {
    AtOnce,
    Fails,
    Withheld,
}

struct Rig {
    machine: Machine,
    now: Now,
    entropy: CountingEntropy,
    recording: Recording,
    /// Links whose transport comes up by itself.
    opens: bool,
    servers: BTreeMap<LinkId, Arc<ServerDoc>>,
    contexts: BTreeMap<ContextId, Arc<Context>>,
    last: Ticket,
    confirmed: Ticket,
    log: String,
    /// No transcript is kept.
    quiet: bool,
    /// Every output, for laws.
    seen: Vec<Seen>,
}

#[derive(Debug)]
enum Seen {
    Append(Body),
    Client(String),
    Link(String),
}

impl Rig {
    fn new(snapshot: Option<Arc<Snapshot>>) -> Self {
        Self {
            machine: Machine::new(snapshot, None),
            now: fixture::at(fixture::NOW),
            entropy: CountingEntropy::default(),
            recording: Recording::AtOnce,
            opens: true,
            servers: BTreeMap::new(),
            contexts: BTreeMap::new(),
            last: Ticket::default(),
            confirmed: Ticket::default(),
            log: String::new(),
            quiet: false,
            seen: Vec::new(),
        }
    }

    fn eng() -> Self {
        Self::new(Some(snapshot_of(1, &registry(), Some(ann(&["eng"])))))
    }

    /// A handshake client that is past its opening.
    fn handshake() -> Self {
        Self::eng().opened()
    }

    /// The client opens the session as one of the handshake era.
    fn opened(self) -> Self {
        let mut rig = self;
        rig.play(r#"> {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"old","version":"3"}}}
                    > {"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        rig.log.clear();
        rig
    }

    fn say(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        let line = line
            .replace(META, "$META")
            .replace(front::SERVER_INFO, "$SHIM")
            .replace(env!("CARGO_PKG_VERSION"), "$VERSION");
        self.log.push_str(&line);
        self.log.push('\n');
    }

    fn handle(&mut self, input: Input<'_>) {
        self.machine.handle(input, &self.now, &mut self.entropy);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            let mut own = Vec::new();
            while let Some(output) = self.machine.poll() {
                self.output(output, &mut own);
            }
            if own.is_empty() {
                if self.confirmed == self.last || self.recording == Recording::Withheld {
                    break;
                }
                self.confirm();
            }
            for (link, line) in own {
                let now = self.now;
                let input = match &line {
                    None => Input::LinkOpened {
                        link,
                        credential: None,
                    },
                    Some(line) => Input::LinkLine {
                        link,
                        place: Place::Only,
                        line,
                    },
                };
                self.machine.handle(input, &now, &mut self.entropy);
            }
        }
        let (intents, outcomes, open) = self.machine.books();
        assert_eq!(intents, outcomes + open);
    }

    /// Tells the machine that everything so far is recorded, or cannot be.
    fn confirm(&mut self) {
        let upto = self.last;
        self.confirmed = upto;
        let input = match self.recording {
            Recording::Fails => Input::NotRecorded {
                upto,
                reason: "disk full".to_owned(),
            },
            Recording::AtOnce | Recording::Withheld => Input::Recorded { upto },
        };
        self.machine.handle(input, &self.now, &mut self.entropy);
    }

    fn output(&mut self, output: Output, own: &mut Vec<(LinkId, Option<Vec<u8>>)>) {
        match output {
            Output::Append(ticket, entry) => {
                assert_eq!(ticket.0, self.last.0 + 1, "tickets are dense");
                self.last = ticket;
                if let Some(text) = self.entry(&entry.body) {
                    self.say(&format!("! {text}"));
                }
                self.seen.push(Seen::Append(entry.body));
            }
            Output::CloseLink(link) => self.say(&format!("! close {}", self.servers[&link].key)),
            Output::Done => self.say("! done"),
            Output::Headers(..) | Output::Learned(..) => {}
            Output::OpenLink(link, server) => {
                self.say(&format!("! open {}", server.key));
                self.servers.insert(link, server);
                if self.opens {
                    own.push((link, None));
                }
            }
            Output::ToClient(line) => {
                let line = text(&line);
                self.say(&format!("< {line}"));
                self.seen.push(Seen::Client(line));
            }
            Output::ToLink(link, line) => {
                let line = text(&line);
                if let Some(answers) = housekeeping(&self.servers[&link], &line) {
                    own.extend(answers.into_iter().map(|answer| (link, Some(answer))));
                    return;
                }
                self.say(&format!("»{} {line}", self.servers[&link].key));
                self.seen.push(Seen::Link(line));
            }
        }
    }

    /// An entry in one line; contexts are remembered instead.
    fn entry(&mut self, body: &Body) -> Option<String> {
        let target = |id: &ContextId| match &*self.contexts[id] {
            Context::Target { server, name, .. } => {
                let server = server.map(|server| match &*self.contexts[&server] {
                    Context::Server { key, protocol, .. } => format!("{key}({protocol})/"),
                    other => panic!("not a server: {other:?}"),
                });
                format!("{}{name}", server.unwrap_or_default())
            }
            other => panic!("not a target: {other:?}"),
        };
        let rule = |id: &ContextId| match &*self.contexts[id] {
            Context::Rule { id, role, .. } => format!("{id} {role}").trim_end().to_owned(),
            other => panic!("not a rule: {other:?}"),
        };
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let leg = |call: u64, leg: u16| match leg {
            0 => call.to_string(),
            leg => format!("{call}.{leg}"),
        };
        Some(match body {
            Body::Context(id, context) => {
                assert_eq!(id.0 as usize, self.contexts.len() + 1, "contexts are dense");
                self.contexts.insert(*id, Arc::clone(context));
                return None;
            }
            Body::Counted { code, count } => format!("counted {code} {count}"),
            Body::Denial { facts, code } => {
                assert_eq!(rule(&facts.rule), *code);
                let content = said(&facts.content.0);
                format!(
                    "denial {} {} {code} {content}",
                    facts.call.0,
                    target(&facts.target)
                )
            }
            Body::Intent(facts) => {
                let ids = &facts.correlation;
                let tool_use = ids.tool_use_id.as_deref().unwrap_or_default();
                format!(
                    "intent {} {} by {} {} {tool_use}",
                    leg(facts.call.0, facts.leg),
                    target(&facts.target),
                    rule(&facts.rule),
                    said(&facts.content.0)
                )
                .trim_end()
                .to_owned()
            }
            Body::Link { code, .. } => format!("link {code}"),
            Body::Loss { code, count } => format!("loss {code} {count}"),
            Body::Outcome {
                call,
                leg: of,
                end,
                content,
                ..
            } => {
                let end = match end {
                    End::Error(code) => format!("error {code}"),
                    other => format!("{other:?}"),
                };
                let call = leg(call.0, *of);
                format!("outcome {call} {end} {}", said(&content.0))
                    .trim_end()
                    .to_owned()
            }
        })
    }

    fn link(&self, key: &str) -> LinkId {
        let mut links = self.servers.iter();
        let found = links.rfind(|(_, server)| server.key.as_str() == key);
        *found.unwrap_or_else(|| panic!("{key} was never opened")).0
    }

    /// Plays the inputs of a script; gives the transcript since the last call.
    fn play(&mut self, script: &str) -> String {
        for line in script
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let line = line.replace("$META", META);
            self.say(&line);
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                ">" => self.handle(Input::ClientLine(rest.as_bytes())),
                "eof" => self.handle(Input::ClientClosed),
                "recorded" => {
                    self.confirm();
                    self.drain();
                }
                "opened" => {
                    let link = self.link(rest);
                    self.handle(Input::LinkOpened {
                        link,
                        credential: None,
                    });
                }
                "closed" => {
                    let (key, reason) = rest.split_once(' ').unwrap();
                    let (link, reason) = (self.link(key), reason.to_owned());
                    self.handle(Input::LinkClosed { link, reason });
                }
                "forgotten" => {
                    let (key, met) = rest.split_once(' ').unwrap_or((rest, ""));
                    let (link, met) = (self.link(key), met.parse().ok());
                    let said = String::new();
                    self.handle(Input::LinkForgotten { link, met, said });
                }
                "doubted" => {
                    let (key, id) = rest.split_once(' ').unwrap();
                    let (link, id) = (self.link(key), id.parse().unwrap());
                    let loss = Loss {
                        reach: Reach::Refused(401),
                        reason: "wants a credential".to_owned(),
                        pause_ms: None,
                        broken: false,
                    };
                    let doubtful = "may not know this session".to_owned();
                    self.handle(Input::ExchangeDoubted {
                        link,
                        id,
                        loss,
                        doubtful,
                    });
                }
                "oversize" => {
                    let fault = LineFault::TooLong { bytes: 20_000_000 };
                    let (key, place) = rest.split_once(' ').unwrap_or((rest, "only"));
                    let place = match place {
                        "only" => Place::Only,
                        "news" => Place::News,
                        id => Place::Answer(id.parse().unwrap()),
                    };
                    let link = self.link(key);
                    self.handle(Input::LinkFault { link, place, fault });
                }
                _ => match (word.strip_prefix('«'), word.strip_prefix('+')) {
                    (Some(key), _) => {
                        let (key, during) = match key.split_once('@') {
                            Some((key, id)) => (key, Some(id.parse().unwrap())),
                            None => (key, None),
                        };
                        let link = self.link(key);
                        let line = rest.as_bytes();
                        self.handle(Input::LinkLine {
                            link,
                            place: during.map_or(Place::Only, Place::Answer),
                            line,
                        });
                    }
                    (_, Some(ms)) => {
                        let us = ms.parse::<u64>().unwrap() * 1000;
                        self.now.mono_us += us;
                        self.now.wall_us += us;
                        self.handle(Input::Wake);
                    }
                    _ => panic!("unknown input: {line}"),
                },
            }
        }
        std::mem::take(&mut self.log)
    }
}

fn text(line: &[u8]) -> String {
    let line = line
        .strip_suffix(b"\n")
        .expect("a line ends with a newline");
    assert!(!line.contains(&b'\n'), "one line");
    let text = String::from_utf8(line.to_vec()).unwrap();
    let parsed = Message::parse(text.as_bytes());
    assert!(parsed.is_ok(), "{text}: {parsed:?}");
    text
}

/// The answers to what a link asks for itself; `None` for the machine's own messages.
fn housekeeping(server: &ServerDoc, line: &str) -> Option<Vec<Vec<u8>>> {
    let message = Message::parse(line.as_bytes()).unwrap();
    let request = match &message {
        Message::Notification(own) if own.method == "notifications/initialized" => {
            return Some(Vec::new());
        }
        Message::Notification(_) | Message::Response(_) => return None,
        Message::Request(request) => request,
    };
    if request.method == "subscriptions/listen" && !watches(request) {
        return Some(Vec::new());
    }
    let result = own(server, &request.method)?;
    let line = result_line(request.id.raw(), &result);
    Some(vec![line.trim_ascii_end().to_vec()])
}

/// Whether a listen is for resources or tasks: those are the machine's, the others the link's.
fn watches(request: &Request<'_>) -> bool {
    let params = &request.params.as_ref().unwrap().object;
    let wanted = params.object("notifications").unwrap().unwrap();
    ["resourceSubscriptions", "taskIds"]
        .iter()
        .any(|what| wanted.get(what).is_some())
}
