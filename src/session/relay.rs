//! Questions of servers of the handshake era, carried to a client of the same era and back.
//!
//! ```text
//!   upstream ─ request ─▶ intent ─▶ recorded ─▶ client      (id, label, progress token are ours)
//!   upstream ◀─ recorded ◀─ outcome ◀─ still allowed? ◀─ its answer, byte for byte
//! ```
//!
//! A question belongs to the call it came with, whose time stands still meanwhile, or to none. It
//! is taken back when the server takes it back, when its call is cancelled or times out, when the
//! transport ends, and when its caller may not use the server any more.

use super::ask::{Question, Questioner, Refusal};
use super::call::{Key, Leg, Outcome};
use super::question::{self, Purpose};
use super::road::copied;
use super::{Machine, payload};
use crate::audit::entry::End;
use crate::clock::Now;
use crate::ids::LinkId;
use crate::inspect::{self, Finding};
use crate::limits;
use crate::registry::doc::ServerDoc;
use crate::secret::Content;
use crate::wire::era::{Asked, Era, Revision};
use crate::wire::msg::{Body, IdKey, Notification, Request, Response};

/// One question on its way to the client and back.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) to: Questioner,
    pub(super) leg: Leg,
    method: &'static str,
    /// The call it came with.
    call: Option<Key>,
    /// The calls whose time stands still.
    waiting: Vec<Key>,
    /// The server's own progress token.
    pub(super) progress: Option<Box<str>>,
    /// The server's own id of what a person is sent to.
    pub(super) elicitation: Option<Box<str>>,
}

impl Machine {
    /// Carries a question to the client.
    pub(super) fn relay(
        &mut self,
        link: LinkId,
        server: &ServerDoc,
        call: Option<Key>,
        asked: Asked,
        request: &Request<'_>,
        now: &Now,
    ) {
        let to = self.questioner(link, server, call, request);
        let of_link = |purpose: &Purpose| match purpose {
            Purpose::Relay(relay) => relay.to.link == link,
            Purpose::Drive(_) | Purpose::Roots => false,
        };
        let of_same_id = |purpose: &Purpose| match purpose {
            Purpose::Relay(relay) => relay.to.link == link && relay.to.key == to.key,
            Purpose::Drive(_) | Purpose::Roots => false,
        };
        if !self.questions.select(of_same_id).is_empty() {
            return self.refuse_ask(link, request, Refusal::Repeated, now);
        }
        let long = matches!(asked, Asked::Form | Asked::Url)
            && request.line.len() > limits::ELICITATION_BYTES;
        let stopped = matches!(inspect::question(request.line), Finding::Stop(_));
        if long
            || stopped
            || self.questions.select(of_link).len() >= limits::QUESTIONS_PER_SERVER
            || !self.questions.have_room(1)
        {
            return self.refuse_ask(link, request, Refusal::TooMany, now);
        }
        let params = request.params.as_ref().map(|params| &params.object);
        let own = params.and_then(|params| params.text("elicitationId"));
        if asked == Asked::Url && own.as_ref().is_none_or(|id| id.len() > limits::ID_BYTES) {
            return self.refuse_ask(link, request, Refusal::Malformed, now);
        }
        let number = self.questions.upcoming();
        self.edits.clear();
        self.edits
            .replace(request.id_span(), &question::token(number));
        let progress = number.to_string();
        let key = server.key.as_str();
        if !question::fit(
            &mut self.edits,
            params,
            asked,
            key,
            None,
            Some(progress.as_str()),
        ) {
            return self.refuse_ask(link, request, Refusal::Malformed, now);
        }
        let leg = match call {
            Some(call) => self.calls.next_leg(call),
            None => Some(self.calls.first_leg()),
        };
        let Some(leg) = leg else {
            return self.refuse_ask(link, request, Refusal::TooMany, now);
        };
        let mut line = Vec::with_capacity(request.line.len() + 64);
        self.edits.apply(request.line, &mut line);
        line.push(b'\n');
        let (method, rule) = named(asked);
        let ask = Question {
            server,
            method,
            params: params.map(|params| params.raw()),
            audit: self.audit_of_ask(server, call),
        };
        let facts = self.ask_facts(&ask, leg, rule, now);
        let intent = self.calls.open_ask(facts, now);
        self.outbox.append(intent, now);
        let waiting = match call {
            Some(call) => vec![call],
            // one of them waits for it, and nobody says which
            None => self.sent_calls(link),
        };
        for call in &waiting {
            self.calls.pause(*call, now);
        }
        let params = request.params.as_ref();
        let relay = Relay {
            to,
            leg,
            method,
            call,
            waiting,
            progress: params
                .and_then(|params| params.progress_token())
                .map(Into::into),
            elicitation: own.filter(|_| asked == Asked::Url).map(Into::into),
        };
        let purpose = Purpose::Relay(Box::new(relay));
        if let Some(number) = self.questions.open(purpose, limits::QUESTION_MS, now) {
            self.hold_question(number, line);
        }
    }

    /// The client answers: the server gets it, if it still may.
    pub(super) fn relay_answered(&mut self, relay: Relay, response: &Response<'_>, now: &Now) {
        if !self.may_hear(&relay.to, now) {
            return self.relay_withheld(relay, now);
        }
        if let Finding::Stop(why) = inspect::answer(response) {
            return self.relay_failed(relay, End::NotSent, &why, now);
        }
        self.go_on(&relay, now);
        let (end, span) = match &response.body {
            Body::Error { code, object, .. } => (End::Error(*code), object.span()),
            Body::Result(result) => (End::Ok, result.span()),
        };
        let span = payload::of_answer(response, span);
        self.edits.clear();
        self.edits.replace(response.id_span(), &relay.to.id);
        let mut line = Vec::with_capacity(response.line.len() + 64);
        self.edits.apply(response.line, &mut line);
        line.push(b'\n');
        let line = bytes::Bytes::from(line);
        let content = match self.edits.moved(&span) {
            Some(span) => line.slice(span),
            // the id in it is another for the server
            None => copied(response.line, &span),
        };
        let outcome = Outcome {
            end,
            content: Content(content),
        };
        self.tell(relay.to, relay.leg, outcome, line, now);
    }

    /// The question ends without an answer of the client's; the server is told why.
    pub(super) fn relay_failed(&mut self, relay: Relay, end: End, why: &str, now: &Now) {
        self.go_on(&relay, now);
        self.tell_error(relay.to, relay.leg, end, why, now);
    }

    /// The caller may not use the server any more: it learns nothing, and the record says so.
    fn relay_withheld(&mut self, relay: Relay, now: &Now) {
        self.deny_ask(relay.to.link, relay.method, None, Refusal::Caller, now);
        let why = "the client cannot be asked now";
        self.relay_failed(relay, End::NotSent, why, now);
    }

    /// The time of the calls that waited for it runs again.
    fn go_on(&mut self, relay: &Relay, now: &Now) {
        for call in &relay.waiting {
            self.calls.resume(*call, now);
        }
    }

    /// The server takes a question of its own back.
    pub(super) fn upstream_cancels(
        &mut self,
        link: LinkId,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let id = params.and_then(|params| params.get("requestId"));
        let Some(key) = id.and_then(IdKey::of_token) else {
            return self.outbox.count("cancel-without-id", now);
        };
        if self.park_cancelled(link, &key, now) {
            return;
        }
        let this = |purpose: &Purpose| match purpose {
            Purpose::Relay(relay) => relay.to.link == link && relay.to.key == key,
            Purpose::Drive(_) | Purpose::Roots => false,
        };
        for number in self.questions.select(this) {
            if let Some(Purpose::Relay(relay)) = self.withdraw_question(number) {
                self.go_on(&relay, now);
                self.drop_ask(relay.leg, now);
            }
        }
        self.roots_cancelled(link, &key, now);
    }

    /// A call ended. Where nothing more is wanted of it, its questions are taken back; where it
    /// was answered they go on by themselves.
    pub(super) fn call_ended(&mut self, key: Key, end: End, now: &Now) {
        if self.questions.is_empty() {
            return;
        }
        let its = |purpose: &Purpose| match purpose {
            Purpose::Relay(relay) => relay.call == Some(key),
            Purpose::Drive(_) | Purpose::Roots => false,
        };
        for number in self.questions.select(its) {
            match end {
                End::Error(_) | End::Input | End::Ok | End::ToolError => {
                    if let Some(Purpose::Relay(relay)) = self.questions.purpose(number) {
                        relay.call = None;
                    }
                }
                End::Cancelled | End::NotSent | End::Timeout | End::Unknown => {
                    if let Some(Purpose::Relay(relay)) = self.withdraw_question(number) {
                        let why = "the call it belongs to is over";
                        self.relay_failed(*relay, End::Cancelled, why, now);
                    }
                }
            }
        }
    }

    /// The snapshot moved.
    pub(super) fn relays_follow(&mut self, now: &Now) {
        let all = self.questions.select(|purpose| match purpose {
            Purpose::Relay(_) => true,
            Purpose::Drive(_) | Purpose::Roots => false,
        });
        for number in all {
            let Some(Purpose::Relay(relay)) = self.questions.purpose(number) else {
                continue;
            };
            let to = relay.to.clone();
            if !(to.who == self.calls.who() && self.may_hear(&to, now))
                && let Some(Purpose::Relay(relay)) = self.withdraw_question(number)
            {
                self.relay_withheld(*relay, now);
            }
        }
    }

    /// Transports are gone, and their questions with them.
    pub(super) fn forget_relays(&mut self, of: Option<LinkId>, now: &Now) {
        let gone = self.questions.select(|purpose| match purpose {
            Purpose::Relay(relay) => of.is_none_or(|link| relay.to.link == link),
            Purpose::Drive(_) | Purpose::Roots => false,
        });
        for number in gone {
            if let Some(Purpose::Relay(relay)) = self.withdraw_question(number) {
                self.go_on(&relay, now);
                self.drop_ask(relay.leg, now);
            }
        }
    }

    /// A server says that what a person was sent to is done: the client that was asked is told.
    pub(super) fn elicitation_complete(
        &mut self,
        link: LinkId,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let id = params.and_then(|params| params.text("elicitationId"));
        let known = id.is_some_and(|id| self.links.elicited(link, &id));
        // a caller who may not use the server any more hears nothing of it
        let server = self.server_of(link);
        let known = known && server.is_some_and(|one| self.snapshot.uses(&one.key, now));
        let reads = self.front.era() == Some(Era::Handshake(Revision::NEWEST_HANDSHAKE));
        if !(known && reads) || notification.line.len() > limits::NEWS_BYTES {
            return self.outbox.count("stray-elicitation", now);
        }
        let mut line = Vec::with_capacity(notification.line.len() + 1);
        line.extend_from_slice(notification.line.as_bytes());
        line.push(b'\n');
        self.outbox.send_client(line);
    }
}

/// The method of a question, and the member of the server's entry that allows it.
pub(super) fn named(asked: Asked) -> (&'static str, &'static str) {
    match asked {
        Asked::Form | Asked::Url => ("elicitation/create", "elicitation"),
        Asked::Roots => ("roots/list", "roots"),
        Asked::Sampling { .. } => ("sampling/createMessage", "sampling"),
    }
}
