//! What an upstream asks of the client: who may, of which call it is, and where it goes on.
//!
//! ```text
//!   upstream ── request ─▶ known? ─▶ in the server's entry? ─▶ declared by the client?
//!        ─▶ of which call? ─▶ client of the handshake era: relay (roots: roots)
//!                             client of the stateless era: park, with the call it belongs to
//! ```
//!
//! Whatever is not allowed here gets the JSON-RPC error of the protocol and a record of its own
//! with a code that says why; after [`limits::ASKS_REFUSED`](crate::limits::ASKS_REFUSED) of one
//! transport they are counted.

use bytes::Bytes;

use super::Machine;
use super::call::{Key, Leg, Origin, Outcome, Stage, Who};
use super::link::{self, LinkState};
use super::outbox::{Held, Housekeeping, Progress, Upstream};
use crate::audit::entry::{Body as Record, CallFacts, Context, Correlation, End, TargetKind};
use crate::clock::Now;
use crate::ids::{LinkId, ServerKey};
use crate::policy::{Access, allows};
use crate::registry::doc::{AuditRule, ServerDoc, Transport};
use crate::secret::Content;
use crate::wire::era::{Asked, Era};
use crate::wire::msg::{self, IdKey, Request};
use crate::wire::raw::Object;

/// The methods an upstream may know.
const METHODS: [&str; 3] = ["elicitation/create", "roots/list", "sampling/createMessage"];

/// The members of such a question that are read here or by a client: one in another case would be
/// read as two things by two readers.
const MEMBERS: [&str; 11] = [
    "_meta",
    "elicitationId",
    "includeContext",
    "message",
    "messages",
    "mode",
    "requestedSchema",
    "systemPrompt",
    "toolChoice",
    "tools",
    "url",
];

/// One question, for the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) server: &'a ServerDoc,
    /// One of the methods known here, or nothing.
    pub(super) method: &'a str,
    /// Its params, raw JSON.
    pub(super) params: Option<&'a str>,
    pub(super) audit: AuditRule,
}

/// Who asked: one transport of one link, with this id token, for what the caller may do there.
#[derive(Debug, Clone)]
pub(super) struct Questioner {
    pub(super) link: LinkId,
    pub(super) transport: u32,
    pub(super) id: Box<str>,
    pub(super) key: IdKey,
    /// Who called then.
    pub(super) who: Who,
    server: ServerKey,
    /// What the call is that it asked in.
    access: Option<Access>,
}

/// Why a question is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Several calls are open, and nobody says of which it is.
    Ambiguous,
    /// The caller may not use its server (any more).
    Caller,
    /// Its server was not compared with its pin yet.
    Early,
    /// It cannot be read, or two readers would read two things.
    Malformed,
    /// A client of the stateless era can only be asked within a call.
    NoCall,
    /// The client did not say that it can be asked this.
    NotDeclared(Asked),
    /// The server's entry does not say that it may ask this.
    NotInEntry,
    /// Another question of its server has the same id.
    Repeated,
    /// More than a limit allows, of questions or of bytes.
    TooMany,
    /// No protocol version knows it.
    Unknown,
}

impl Refusal {
    /// The code in the record.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Ambiguous => "ask-ambiguous",
            Self::Caller => "ask-not-allowed",
            Self::Early => "ask-early",
            Self::Malformed => "ask-malformed",
            Self::NoCall => "ask-outside-call",
            Self::NotDeclared(_) => "ask-not-declared",
            Self::NotInEntry => "ask-not-in-entry",
            Self::Repeated => "ask-repeated-id",
            Self::TooMany => "ask-limit",
            Self::Unknown => "ask-unknown",
        }
    }

    /// The JSON-RPC code for the upstream.
    fn rpc_code(self) -> i64 {
        match self {
            // a mode or a part that was not declared (MCP 2025-11-25, elicitation, sampling)
            Self::Malformed
            | Self::NotDeclared(
                Asked::Url
                | Asked::Sampling { context: true, .. }
                | Asked::Sampling { tools: true, .. },
            ) => -32602,
            Self::NotDeclared(_) | Self::NotInEntry | Self::Unknown => -32601,
            Self::Repeated => -32600,
            Self::Ambiguous | Self::Caller | Self::Early | Self::NoCall | Self::TooMany => -32603,
        }
    }

    /// One line for the upstream. It does not tell apart what the organisation forbids from what
    /// the client lacks.
    fn sentence(self, method: &str) -> String {
        match self {
            Self::Ambiguous => {
                "several calls are open, and which one asks is not said; try again".to_owned()
            }
            Self::Caller | Self::Early => "the client cannot be asked now".to_owned(),
            Self::Malformed => {
                "params cannot be read: a required member is missing, or there are two of one name"
                    .to_owned()
            }
            Self::NoCall => format!("{method} can only be asked within a call here"),
            Self::NotDeclared(asked) => format!("the client offers no {}", asked.name()),
            Self::NotInEntry | Self::Unknown => {
                format!("Method not found: {method} is not offered here")
            }
            Self::Repeated => "a request with this id is still open".to_owned(),
            Self::TooMany => "too many questions, or one that is too long".to_owned(),
        }
    }
}

/// The method, where an upstream may know it.
pub(super) fn known(method: &str) -> &'static str {
    let known = METHODS.iter().find(|known| **known == method);
    known.copied().unwrap_or_default()
}

/// Whether two readers would read two things.
pub(super) fn is_ambiguous(params: &Object<'_>) -> bool {
    params.misspelt(&MEMBERS).is_some()
}

impl Machine {
    /// Takes a request of an upstream. `during` is the call it belongs to, where the transport
    /// knows.
    pub(super) fn upstream_asks(
        &mut self,
        link: LinkId,
        during: Option<u64>,
        request: &Request<'_>,
        now: &Now,
    ) {
        let Some(server) = self.server_of(link) else {
            return;
        };
        let asked = match self.may_ask(link, &server, request, now) {
            Ok(asked) => asked,
            Err(refusal) => {
                if refusal == Refusal::Early && request.method == "roots/list" {
                    self.links.asks_roots_again(link);
                }
                return self.refuse_ask(link, request, refusal, now);
            }
        };
        let exact = during.and_then(|id| self.in_flight_upstream(Key { link, id }));
        // nobody says of which call a question is on a pipe; that for roots may be of none, and the
        // client is asked then for what nobody else knows, and again where it waits for a call
        let call = match during {
            None if asked != Asked::Roots => self.only_call(link),
            None if self.says_roots_in_calls() => {
                let only = self.only_call(link);
                let waits = |key: &Key| self.sent_calls(link).contains(key);
                only.filter(|key| waits(key) || !self.knows_roots())
            }
            None | Some(_) => exact,
        };
        let era = call
            .and_then(|call| self.calls.get(call))
            .map(|call| call.era);
        if call.is_none() && !self.asks_once_more(link) {
            return self.refuse_ask(link, request, Refusal::TooMany, now);
        }
        // nobody is asked in a call that somebody else made
        if call.is_some_and(|call| !self.calls.is_own(call)) {
            return self.refuse_ask(link, request, Refusal::Caller, now);
        }
        match (asked, era.or(self.front.era()), call) {
            (Asked::Roots, Some(Era::Stateless), Some(call)) if self.says_roots(call) => {
                self.upstream_parks(link, &server, call, asked, request, now);
            }
            // clients that have none are answered for
            (Asked::Roots, _, call) => self.roots_asked(link, &server, call, request, now),
            (_, Some(Era::Handshake(_)), _) => {
                self.relay(link, &server, call, asked, request, now);
            }
            (_, Some(Era::Stateless), Some(call)) => {
                if during.is_none() {
                    self.links.go_one_by_one(link);
                }
                self.upstream_parks(link, &server, call, asked, request, now);
            }
            (_, Some(Era::Stateless), None) if during.is_none() && self.asking_calls(link) > 1 => {
                self.links.go_one_by_one(link);
                self.refuse_ask(link, request, Refusal::Ambiguous, now);
            }
            (_, Some(Era::Stateless) | None, _) => {
                self.refuse_ask(link, request, Refusal::NoCall, now);
            }
        }
    }

    /// Whether a server may ask this of the client now.
    fn may_ask(
        &self,
        link: LinkId,
        server: &ServerDoc,
        request: &Request<'_>,
        now: &Now,
    ) -> Result<Asked, Refusal> {
        let params = request.params.as_ref().map(|params| &params.object);
        let Some(asked) = Asked::of(&request.method, params) else {
            return Err(match known(&request.method) {
                "" => Refusal::Unknown,
                _ => Refusal::Malformed,
            });
        };
        if params.is_some_and(is_ambiguous) {
            return Err(Refusal::Malformed);
        }
        if !link::allowed(server).covers(asked) {
            return Err(Refusal::NotInEntry);
        }
        // a client without roots of its own is answered for
        // a stateless one says it with each request ([`super::park`])
        let stateless = self.front.era() == Some(Era::Stateless);
        if asked != Asked::Roots && !stateless && !self.front.can.covers(asked) {
            return Err(Refusal::NotDeclared(asked));
        }
        if !self.snapshot.uses(&server.key, now) {
            return Err(Refusal::Caller);
        }
        // nobody knows yet whether it is the server that was approved; servers of one SDK ask for
        // roots at once, which says to one on this machine no more than the start of its process
        // did
        let here = matches!(server.transport, Transport::Stdio { .. });
        let ready = matches!(self.links.state(link), Some(LinkState::Ready(_)));
        let calls = !self.sent_calls(link).is_empty() || self.only_parked(link).is_some();
        let may = ready || calls || (here && asked == Asked::Roots);
        if !may {
            return Err(Refusal::Early);
        }
        Ok(asked)
    }

    /// Whether the client of a call has roots that it can be asked for.
    fn says_roots(&self, key: Key) -> bool {
        self.calls.get(key).is_some_and(|call| call.can.roots)
    }

    /// A call that was sent and is not answered.
    fn in_flight_upstream(&self, key: Key) -> Option<Key> {
        let call = self.calls.get(key)?;
        matches!(call.stage, Stage::Sent).then_some(key)
    }

    /// The calls that wait for an answer of this upstream.
    pub(super) fn sent_calls(&self, link: LinkId) -> Vec<Key> {
        self.calls.select(|key, call| {
            key.link == link
                && matches!(call.stage, Stage::Sent)
                && matches!(call.origin, Origin::Client { .. })
        })
    }

    /// The only call that waits for this upstream, where there is but one; the only one that is
    /// parked where there is none.
    fn only_call(&self, link: LinkId) -> Option<Key> {
        let open = self.calls.select(|key, call| {
            key.link == link
                && matches!(call.stage, Stage::Sent)
                && matches!(call.origin, Origin::Client { .. })
                && call.method.may_ask()
        });
        match open[..] {
            [] => self.only_parked(link),
            [only] => Some(only),
            _ => None,
        }
    }

    /// How many calls are open at this upstream that it may ask something in, and that their
    /// client waits for.
    pub(super) fn asking_calls(&self, link: LinkId) -> usize {
        let open = self.calls.select(|key, call| {
            key.link == link
                && matches!(call.origin, Origin::Client { .. })
                && call.method.may_ask()
        });
        open.len()
    }

    /// Refuses a question: the upstream gets the protocol's error, the record a denial.
    pub(super) fn refuse_ask(
        &mut self,
        link: LinkId,
        request: &Request<'_>,
        refusal: Refusal,
        now: &Now,
    ) {
        let (rpc, why) = (refusal.rpc_code(), refusal.sentence(&request.method));
        let answer = Housekeeping::Refuse(request.id.raw().into(), rpc, why);
        self.outbox.send_link(link, Upstream::Housekeeping(answer));
        let params = request.params.as_ref().map(|params| params.object.raw());
        self.deny_ask(link, known(&request.method), params, refusal, now);
    }

    /// Records that a question was refused, by its method where that is known.
    pub(super) fn deny_ask(
        &mut self,
        link: LinkId,
        method: &str,
        params: Option<&str>,
        refusal: Refusal,
        now: &Now,
    ) {
        let Some(server) = self.server_of(link) else {
            return;
        };
        if !self.refuses_once_more(link) {
            return self.outbox.count("ask", now);
        }
        let ask = Question {
            server: &server,
            method,
            params,
            audit: AuditRule::default(),
        };
        let (leg, code) = (self.calls.first_leg(), refusal.code());
        let facts = self.ask_facts(&ask, leg, code, now);
        self.outbox.append(Record::Denial { facts, code }, now);
    }

    /// How a question is recorded: like the call it belongs to.
    pub(super) fn audit_of_ask(&self, server: &ServerDoc, call: Option<Key>) -> AuditRule {
        let call = call.and_then(|call| self.calls.get(call));
        call.map_or_else(|| server.audit.for_others(), |call| call.audit())
    }

    /// What is said of a question in the record, asked by this rule or refused for this reason.
    pub(super) fn ask_facts(
        &mut self,
        ask: &Question<'_>,
        leg: Leg,
        rule: &'static str,
        now: &Now,
    ) -> CallFacts {
        let server = self.server_context(ask.server, now);
        let target = Context::Target {
            kind: TargetKind::Ask,
            server: Some(server),
            name: ask.method.to_owned(),
            exposed: None,
            definition: None,
        };
        let rule = Context::Rule {
            id: rule.to_owned(),
            source: String::new(),
            role: String::new(),
        };
        let params = ask.params.unwrap_or_default().as_bytes();
        CallFacts {
            call: leg.call,
            leg: leg.leg,
            caller: self.caller_context(now),
            client: self.last_client_context(now),
            target: self.outbox.context(target, now),
            registry: self.registry_context(now),
            rule: self.outbox.context(rule, now),
            credential: None,
            correlation: Correlation::default(),
            content: Content(Bytes::copy_from_slice(params)),
            audit: ask.audit,
        }
    }

    // ---- and what it is told

    pub(super) fn questioner(
        &self,
        link: LinkId,
        server: &ServerDoc,
        call: Option<Key>,
        request: &Request<'_>,
    ) -> Questioner {
        let call = call.and_then(|call| self.calls.get(call));
        Questioner {
            link,
            transport: self.links.transport(link),
            id: request.id.raw().into(),
            key: request.id.key(),
            who: self.calls.who(),
            server: server.key.clone(),
            access: call.map(|call| call.access.clone()),
        }
    }

    /// Whether the caller may still do what it asked for, or use its server at all.
    pub(super) fn may_hear(&self, to: &Questioner, now: &Now) -> bool {
        match &to.access {
            Some(access) => allows(&self.snapshot, access, now),
            None => self.snapshot.uses(&to.server, now),
        }
    }

    /// Answers an upstream, once the answer is recorded.
    pub(super) fn tell(
        &mut self,
        to: Questioner,
        leg: Leg,
        outcome: Outcome,
        line: Bytes,
        now: &Now,
    ) {
        let Some((outcome, fail_mode)) = self.calls.close_ask(leg, outcome, now) else {
            return;
        };
        self.outbox.append(outcome, now);
        let why = "the answer could not be recorded";
        let instead = msg::error_line(&to.id, -32603, why, None).into();
        self.outbox.hold(Held::Told {
            to,
            line,
            fail_mode,
            instead,
        });
    }

    /// Tells an upstream that there is no answer, once that is recorded.
    pub(super) fn tell_error(&mut self, to: Questioner, leg: Leg, end: End, why: &str, now: &Now) {
        let line = msg::error_line(&to.id, -32603, why, None);
        self.tell(to, leg, Outcome::bare(end), line.into(), now);
    }

    /// A question ends and nobody waits for its answer.
    pub(super) fn drop_ask(&mut self, leg: Leg, now: &Now) {
        if let Some((outcome, _)) = self
            .calls
            .close_ask(leg, Outcome::bare(End::Cancelled), now)
        {
            self.outbox.append(outcome, now);
        }
    }

    /// Sends an answer to an upstream whose transport still is the one that asked. What a client
    /// said is withheld where the caller may not use the server any more: writing the record may
    /// have taken as long as a collector does.
    pub(super) fn tell_upstream(&mut self, to: &Questioner, line: Bytes, now: &Now) {
        if self.links.transport(to.link) != to.transport {
            return;
        }
        let line = match self.may_hear(to, now) {
            true => line,
            false => {
                let why = "the client cannot be asked now";
                msg::error_line(&to.id, -32603, why, None).into()
            }
        };
        self.outbox.send_link(to.link, Upstream::Answer(line));
    }

    /// The same for how far the client is with a question that is open.
    pub(super) fn tell_progress(&mut self, to: &Questioner, news: Progress, now: &Now) {
        if self.links.transport(to.link) == to.transport && self.may_hear(to, now) {
            let news = Upstream::Housekeeping(Housekeeping::Progress(news));
            self.outbox.send_link(to.link, news);
        }
    }
}
