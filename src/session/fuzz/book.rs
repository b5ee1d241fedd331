//! What a run remembers, to hold the session to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::ids::LinkId;
use crate::registry::doc::ServerDoc;
use crate::wire::era::Era;

/// What a number in a message counts: it stands there as a member of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// A question of an upstream.
    Asks,
    /// An answer of an upstream.
    Gives,
    /// A call of the client.
    Makes,
    /// An answer of the client.
    Says,
}

impl Mark {
    const ALL: [Self; 4] = [Self::Asks, Self::Gives, Self::Makes, Self::Says];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Asks => "asks",
            Self::Gives => "gives",
            Self::Makes => "makes",
            Self::Says => "says",
        }
    }

    /// The numbers of this kind in a text, in order.
    pub(super) fn all_in(self, text: &[u8]) -> Vec<u64> {
        let member = format!("\"{}\":", self.name());
        let places = memchr::memmem::find_iter(text, member.as_bytes());
        let number = |at: usize| {
            let digits = text[at + member.len()..].iter();
            let digits = digits.take_while(|byte| byte.is_ascii_digit());
            let digits: String = digits.map(|byte| char::from(*byte)).collect();
            digits.parse().ok()
        };
        places.filter_map(number).collect()
    }

    /// Every number in a text, with what it counts.
    pub(super) fn every_in(text: &[u8]) -> Vec<(Self, u64)> {
        let of = |kind: Self| kind.all_in(text).into_iter().map(move |one| (kind, one));
        Self::ALL.into_iter().flat_map(of).collect()
    }
}

/// What a client declares: capabilities, and the revision they are of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared {
    pub(super) capabilities: &'static str,
    pub(super) revision: &'static str,
}

impl Declared {
    /// Nothing.
    pub(super) const NOTHING: Self = Self {
        capabilities: "{}",
        revision: super::OLD,
    };

    /// Whether it can be asked this: read by hand from the protocol's pages, not with what the
    /// session reads it with.
    pub(super) fn covers(self, method: &str, params: &Value) -> bool {
        let capabilities: Value = serde_json::from_str(self.capabilities).unwrap();
        let has = |at: &str| capabilities.pointer(at).is_some_and(Value::is_object);
        let modes = self.revision >= super::OLD;
        match method {
            "roots/list" => has("/roots"),
            "elicitation/create" if params["mode"] == "url" => modes && has("/elicitation/url"),
            "elicitation/create" => {
                let bare = capabilities["elicitation"] == serde_json::json!({});
                self.revision >= super::ASKING && (bare || has("/elicitation/form"))
            }
            "sampling/createMessage" => {
                let tools = params.get("tools").is_some() || params.get("toolChoice").is_some();
                let context = params.get("includeContext");
                let context = context.is_some_and(|which| which != "none");
                has("/sampling")
                    && (!tools || modes && has("/sampling/tools"))
                    && (!context || modes && has("/sampling/context"))
            }
            _ => false,
        }
    }

    /// Whether it can follow a task.
    pub(super) fn follows_tasks(self) -> bool {
        self.capabilities.contains("io.modelcontextprotocol/tasks")
    }
}

/// Requests of the client's with one id.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) sent: u32,
    pub(super) answered: u32,
    pub(super) cancelled: bool,
    /// Declared with it, or before where it is of the handshake era.
    pub(super) declared: Declared,
    pub(super) stateless: bool,
    /// It is of a task.
    pub(super) follows: bool,
    /// The call it makes.
    pub(super) makes: Option<u64>,
}

/// One call: what may go up under its mark, and what did.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) name: &'static str,
    pub(super) arguments: String,
    /// Times the client made it.
    pub(super) made: u32,
    /// Times the client sent it again with what it was asked.
    pub(super) retried: u32,
    /// Times its upstream wanted something first, and so did not do it.
    pub(super) wanted: u32,
    pub(super) sent: u32,
    /// It was made in the stateless era, and in the handshake era.
    pub(super) stateless: bool,
    pub(super) handshake: bool,
}

/// One question of an upstream.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) link: LinkId,
    pub(super) transport: u32,
    /// Its id, where it was a request.
    pub(super) id: Option<String>,
    pub(super) server: Arc<ServerDoc>,
    /// The call it came in, where that is known.
    pub(super) makes: Option<u64>,
    pub(super) person: Option<&'static str>,
    /// Times the client got it: as a request, and in results.
    pub(super) requested: u32,
    pub(super) seen: bool,
    pub(super) completed: bool,
}

/// One answer of the client's.
#[derive(Debug)]
pub(super) struct Said {
    /// The question it is to; none where it may go nowhere.
    pub(super) to: Option<u64>,
    /// It says where the client works, which many may know.
    pub(super) roots: bool,
    /// It was an answer of its own, not a part of a request.
    pub(super) replied: bool,
    pub(super) person: Option<&'static str>,
}

/// A `requestState` the client was given.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Raw JSON.
    pub(super) token: String,
    pub(super) makes: u64,
    /// What is asked, by name: the method, and which question it is.
    pub(super) asked: Vec<(String, String, Option<u64>)>,
}

/// A task of an upstream.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) server: Arc<ServerDoc>,
    pub(super) person: Option<&'static str>,
}

/// A call that went up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) makes: u64,
    pub(super) person: Option<&'static str>,
    pub(super) follows_tasks: bool,
}

/// A transport of a link.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Transport {
    pub(super) number: u32,
    /// It was asked for, and did not end…
    pub(super) open: bool,
    /// …and is up.
    pub(super) up: bool,
    pub(super) era: Option<Era>,
}

/// How often something of interest happened: a law that is never put to the test proves nothing.
#[derive(Debug, Default)]
pub struct Reached(pub BTreeMap<&'static str, u64>);

impl Reached {
    /// What there is to come by.
    pub const ALL: [&'static str; 17] = [
        "a question taken back",
        "a task",
        "a task followed",
        "an address in an error",
        "an elicitation complete",
        "answered",
        "asked for roots",
        "driven",
        "driven on",
        "parked",
        "parked answered",
        "passed on",
        "passed through",
        "relayed",
        "roots told",
        "sent again",
        "told of a listen",
    ];

    pub(super) fn once_more(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// Everything that was said, by its marks.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) requests: BTreeMap<String, Request>,
    /// Ids of lines made of stray bytes: nothing is expected of them.
    pub(super) strays: BTreeSet<String>,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) questions: BTreeMap<u64, Question>,
    pub(super) said: BTreeMap<u64, Said>,
    pub(super) states: Vec<State>,
    /// By the upstream's own ids.
    pub(super) tasks: BTreeMap<String, Task>,
    /// Those ids, oldest first.
    pub(super) begun: Vec<String>,
    /// Task ids the client knows.
    pub(super) labels: Vec<String>,
    /// Listens that were acknowledged, by their id tokens, and what stands in it.
    pub(super) acknowledged: BTreeMap<String, Value>,
    /// Requests to the client: id, method, question.
    pub(super) asked: Vec<(String, String, Option<u64>)>,
    /// What upstreams were asked: link and request id.
    pub(super) up: Vec<(LinkId, String)>,
    /// The calls among those that are not answered: which, by whom, and whether they may become
    /// tasks.
    pub(super) in_flight: BTreeMap<(LinkId, String), Sent>,
    /// The listens among what upstreams were asked.
    pub(super) listens: Vec<(LinkId, String)>,
    /// Requests of upstreams, by their ids, and the answers to them.
    pub(super) told: BTreeMap<(LinkId, String), (u32, u32)>,
    /// Tickets of intents and of outcomes, by the marks in them.
    pub(super) intents: BTreeMap<(Mark, u64), Vec<u64>>,
    pub(super) outcomes: BTreeMap<(Mark, u64), Vec<u64>>,
    pub(super) reached: Reached,
}
