//! Calls of handshake clients at servers of the stateless era that ask for input.
//!
//! ```text
//!   call ─▶ upstream: input_required ─▶ its parts are asked, all at once ─▶ every answer is here
//!     ▲                    │ nothing but a state: after a pause                      │
//!     └── decided again, intent, sent: a new id, the same params, the answers, the state ◀┘
//! ```
//!
//! MCP 2026-07-28, multi-round-trip requests. The first leg's outcome is `input_required`, each
//! question is a leg, and so is each time the request is sent again. Only what the client declared
//! and the server's entry allows is asked; else nothing is, and the call ends. The first answer
//! that is none ends it too. It goes on at the transport where it began, or not at all.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Machine;
use super::ask::{self, Question, Refusal};
use super::call::{Again, Leg, Origin, Outcome, Start, Suspended};
use super::link::{self, LinkState};
use super::links::Waiting;
use super::outbox::{Held, Instead};
use super::question::{self, Purpose};
use super::refusal;
use super::relay;
use super::road::Fate;
use crate::audit::entry::{CallFacts, End};
use crate::clock::{Entropy, Now};
use crate::ids::LinkId;
use crate::inspect::{self, Finding};
use crate::limits;
use crate::policy::{Decision, Denial, DenialCode, decide};
use crate::registry::doc::ServerDoc;
use crate::secret::Content;
use crate::wire::era::Asked;
use crate::wire::msg::{self, Body, IdKey, Message, Response};
use crate::wire::raw::{self, Change, Object};

/// Every call that waits for input.
#[derive(Debug, Default)]
pub(super) struct Drives {
    open: BTreeMap<IdKey, Drive>,
}

/// One call between two legs.
#[derive(Debug)]
struct Drive {
    link: LinkId,
    transport: u32,
    call: Suspended,
    /// The server's `requestState`, raw JSON.
    state: Option<Box<str>>,
    /// What it wants, by its own names, and what was answered: raw JSON.
    parts: Vec<(String, Option<String>)>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client is asked.
    Asking,
    /// The server wants nothing but another try.
    Pausing { until_us: u64 },
    /// The link is not ready.
    Waiting,
}

/// One thing that is asked for a call.
#[derive(Debug)]
pub(super) struct Part {
    of: IdKey,
    at: usize,
    pub(super) leg: Leg,
}

/// What an `input_required` result wants.
pub(super) struct Input<'a> {
    pub(super) parts: Vec<Wanted<'a>>,
    state: Option<&'a str>,
}

pub(super) struct Wanted<'a> {
    name: String,
    pub(super) asked: Asked,
    pub(super) params: Option<Object<'a>>,
}

/// Why it cannot be had.
pub(super) enum Unfit {
    /// The server's mistake, or more than a limit allows.
    Bad(&'static str),
    /// What the client or the server's entry does not allow.
    Refused(&'static str, Refusal, Option<String>),
}

impl Drives {
    /// Whether a request with this id waits for input.
    pub(super) fn has(&self, id: &IdKey) -> bool {
        self.open.contains_key(id)
    }

    /// How many it holds.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.open.len()
    }

    /// What is kept of requests and answers, in bytes.
    fn bytes(&self) -> usize {
        let told = |drive: &Drive| {
            let answers = drive.parts.iter().filter_map(|(_, answer)| answer.as_ref());
            let state = drive.state.as_ref().map_or(0, |state| state.len());
            answers.map(String::len).sum::<usize>() + state
        };
        let all = self.open.values();
        all.map(|drive| drive.call.again.line.len() + told(drive))
            .sum()
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        let pauses = self.open.values().filter_map(|drive| match drive.stage {
            Stage::Pausing { until_us } => Some(until_us),
            Stage::Asking | Stage::Waiting => None,
        });
        pauses.min()
    }
}

/// Reads an `input_required` result.
pub(super) fn input<'a>(result: &Object<'a>) -> Result<Input<'a>, Unfit> {
    const UNREADABLE: Unfit = Unfit::Bad("what it asks for cannot be read");
    let Ok(requests) = result.object("inputRequests") else {
        return Err(UNREADABLE);
    };
    let state = result.get("requestState");
    if state.is_some_and(|state| raw::string(state).is_none()) {
        return Err(UNREADABLE);
    }
    if state.is_some_and(|state| state.len() > limits::REQUEST_STATE_BYTES) {
        return Err(Unfit::Bad("its state is too long"));
    }
    let mut parts = Vec::new();
    for (name, request) in requests.iter().flat_map(Object::members) {
        if parts.len() >= limits::INPUT_REQUESTS {
            return Err(Unfit::Bad("it asks for too much at once"));
        }
        if name.len() > limits::INPUT_NAME_BYTES {
            return Err(Unfit::Bad("a name of what it asks for is too long"));
        }
        let Ok(request) = Object::parse(request) else {
            return Err(UNREADABLE);
        };
        let Ok(params) = request.object("params") else {
            return Err(UNREADABLE);
        };
        if request.misspelt(&["method", "params"]).is_some() {
            return Err(UNREADABLE);
        }
        let method = request.text("method").ok_or(UNREADABLE)?;
        let Some(asked) = Asked::of(&method, params.as_ref()) else {
            let kept = params.map(|params| params.raw().to_owned());
            return Err(Unfit::Refused(ask::known(&method), Refusal::Unknown, kept));
        };
        if params.as_ref().is_some_and(ask::is_ambiguous) {
            return Err(UNREADABLE);
        }
        parts.push(Wanted {
            name: name.into_owned(),
            asked,
            params,
        });
    }
    if parts.is_empty() && state.is_none() {
        return Err(Unfit::Bad("it asks for nothing"));
    }
    Ok(Input { parts, state })
}

impl Machine {
    /// Takes an `input_required` of a call of a handshake client.
    pub(super) fn drive(
        &mut self,
        key: super::call::Key,
        response: &Response<'_>,
        result: &Object<'_>,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) {
        let Some(server) = self.server_of(key.link) else {
            return;
        };
        let content = Content(Bytes::copy_from_slice(result.raw().as_bytes()));
        let end = |content| Outcome {
            end: End::Input,
            content,
        };
        if !self.calls.is_own(key) {
            let why = "somebody else signed in while it was made, so it does not go on; whether \
                       it took effect is not known";
            let text = format!("server {} asks for input, but {why}", server.key);
            return self.fail(key, end(content), &text, now);
        }
        let wanted = input(result).and_then(|input| {
            self.may_drive(key, &server, &input, response)?;
            Ok(input)
        });
        let input = match wanted {
            Ok(input) => input,
            Err(Unfit::Bad(why)) => {
                let text = format!("server {} asks for input, but {why}", server.key);
                return self.fail(key, end(content), &text, now);
            }
            Err(Unfit::Refused(method, refusal, params)) => {
                let params = params.as_deref();
                self.deny_ask(key.link, method, params, refusal, now);
                let why = match refusal {
                    Refusal::NotDeclared(asked) => {
                        format!("this client offers no {}", asked.name())
                    }
                    Refusal::NotInEntry => format!(
                        "the organisation does not let it ask for {method}; ask {}",
                        server.owner
                    ),
                    Refusal::Unknown => "nobody here knows what it asks for".to_owned(),
                    Refusal::Ambiguous
                    | Refusal::Caller
                    | Refusal::Early
                    | Refusal::Malformed
                    | Refusal::NoCall
                    | Refusal::Repeated
                    | Refusal::TooMany => "it cannot be asked".to_owned(),
                };
                let text = format!("server {} asks for input, but {why}", server.key);
                return self.fail(key, end(content), &text, now);
            }
        };
        let lines = self.lines_of(&input, &server, entropy);
        let Some(lines) = lines else {
            let text = format!("server {} asks for input that cannot be read", server.key);
            return self.fail(key, end(content), &text, now);
        };
        let Some((outcome, call)) = self.calls.suspend(key, end(content), now) else {
            return;
        };
        self.outbox.append(outcome, now);
        let Origin::Client { key: of, .. } = &call.origin else {
            return;
        };
        let of = of.clone();
        let mut drive = Drive {
            link: key.link,
            transport: self.links.transport(key.link),
            call,
            state: input.state.map(Into::into),
            parts: Vec::new(),
            stage: Stage::Asking,
        };
        if input.parts.is_empty() {
            let until_us = now.mono_us + limits::ROUND_PAUSE_MS * 1000;
            drive.stage = Stage::Pausing { until_us };
        }
        for ((at, wanted), params) in input.parts.iter().enumerate().zip(lines) {
            let leg = drive.call.next_leg();
            drive.parts.push((wanted.name.clone(), None));
            let (method, rule) = relay::named(wanted.asked);
            let ask = Question {
                server: &server,
                method,
                params: wanted.params.as_ref().map(Object::raw),
                audit: drive.call.audit,
            };
            let facts = self.ask_facts(&ask, leg, rule, now);
            let intent = self.calls.open_ask(facts, now);
            self.outbox.append(intent, now);
            let of = of.clone();
            let purpose = Purpose::Drive(Part { of, at, leg });
            // each waits for its own entry
            if let Some(number) = self.questions.open(purpose, limits::QUESTION_MS, now) {
                let id = question::token(number);
                let line = msg::request_line(&id, method, params.as_deref());
                self.hold_question(number, line);
            }
        }
        self.drives.open.insert(of, drive);
    }

    /// Whether everything that is wanted may be asked.
    fn may_drive(
        &self,
        key: super::call::Key,
        server: &ServerDoc,
        input: &Input<'_>,
        response: &Response<'_>,
    ) -> Result<(), Unfit> {
        for wanted in &input.parts {
            let (method, _) = relay::named(wanted.asked);
            let refused = |refusal| {
                let params = wanted.params.as_ref();
                Unfit::Refused(
                    method,
                    refusal,
                    params.map(|params| params.raw().to_owned()),
                )
            };
            if !link::allowed(server).covers(wanted.asked) {
                return Err(refused(Refusal::NotInEntry));
            }
            if !self.front.can.covers(wanted.asked) {
                return Err(refused(Refusal::NotDeclared(wanted.asked)));
            }
            let long = matches!(wanted.asked, Asked::Form | Asked::Url)
                && wanted
                    .params
                    .as_ref()
                    .is_some_and(|params| params.raw().len() > limits::ELICITATION_BYTES);
            if long {
                return Err(refused(Refusal::TooMany));
            }
        }
        if matches!(inspect::question(response.line), Finding::Stop(_)) {
            return Err(Unfit::Bad("what it asks for is too long"));
        }
        if !self.questions.have_room(input.parts.len()) || self.drives.open.len() >= limits::DRIVES
        {
            return Err(Unfit::Bad("too many questions are open"));
        }
        let again = self.calls.get(key).and_then(|call| call.again.as_ref());
        let Some(again) = again else {
            return Err(Unfit::Bad("the request is too long to be sent again"));
        };
        if again.rounds >= limits::ROUNDS {
            return Err(Unfit::Bad("it has asked too often for one call"));
        }
        let legs = self.calls.get(key).map_or(0, |call| call.legs());
        if usize::from(legs) + input.parts.len() + 1 > usize::from(limits::LEGS) {
            return Err(Unfit::Bad("it has asked too often for one call"));
        }
        Ok(())
    }

    /// The params of each question as the client gets them; `None` when one cannot be made.
    fn lines_of(
        &mut self,
        input: &Input<'_>,
        server: &ServerDoc,
        entropy: &mut dyn Entropy,
    ) -> Option<Vec<Option<String>>> {
        let mut lines = Vec::new();
        for wanted in &input.parts {
            let Some(params) = &wanted.params else {
                if wanted.asked != Asked::Roots {
                    return None;
                }
                lines.push(None);
                continue;
            };
            let id = (wanted.asked == Asked::Url).then(|| {
                let mut random = [0; 16];
                entropy.fill(&mut random);
                let id = uuid::Builder::from_random_bytes(random).into_uuid();
                raw::quoted(&id.to_string())
            });
            // an object of its own text, so that edits count from its begin
            let params = Object::parse(params.raw()).ok()?;
            self.edits.clear();
            let (key, id) = (server.key.as_str(), id.as_deref());
            if !question::fit(&mut self.edits, Some(&params), wanted.asked, key, id, None) {
                return None;
            }
            let mut line = Vec::new();
            self.edits.apply(params.raw(), &mut line);
            lines.push(Some(String::from_utf8(line).ok()?));
        }
        Some(lines)
    }

    /// The client answers one part.
    pub(super) fn drive_answered(&mut self, part: Part, response: &Response<'_>, now: &Now) {
        let result = match &response.body {
            Body::Error { code, message, .. } => {
                let message: String = message.chars().take(limits::ECHOED_CHARS).collect();
                let why = format!("the client refused: {message}");
                return self.drive_failed(part, End::Error(*code), &why, now);
            }
            Body::Result(result) => result,
        };
        if let Finding::Stop(why) = inspect::answer(response) {
            return self.drive_failed(part, End::NotSent, &why, now);
        }
        let kept = self.drives.bytes() + self.calls.kept_bytes();
        if kept + result.raw().len() > limits::DRIVEN_BYTES {
            let why = "the answers are too long to be kept";
            return self.drive_failed(part, End::NotSent, why, now);
        }
        let answer = result.raw().to_owned();
        let outcome = Outcome {
            end: End::Ok,
            content: Content(Bytes::copy_from_slice(answer.as_bytes())),
        };
        if let Some((outcome, _)) = self.calls.close_ask(part.leg, outcome, now) {
            self.outbox.append(outcome, now);
        }
        let Some(drive) = self.drives.open.get_mut(&part.of) else {
            return;
        };
        if let Some((_, slot)) = drive.parts.get_mut(part.at) {
            *slot = Some(answer);
        }
        if drive.parts.iter().all(|(_, answer)| answer.is_some()) {
            self.drive_on(&part.of, now);
        }
    }

    /// One part cannot be had: the call ends.
    pub(super) fn drive_failed(&mut self, part: Part, end: End, why: &str, now: &Now) {
        if let Some((outcome, _)) = self.calls.close_ask(part.leg, Outcome::bare(end), now) {
            self.outbox.append(outcome, now);
        }
        let key = self.drives.open.get(&part.of).map(|drive| drive.link);
        let server = key.map(|link| self.links.describe(link).0);
        let server = server.unwrap_or_default();
        let text = format!("server {server} asked for input, but {why}");
        self.end_drive(&part.of, &Ending::Failed(text), now);
    }

    /// Sends the request again with what was answered, if it is still allowed, at the transport
    /// where it began.
    pub(super) fn drive_on(&mut self, of: &IdKey, now: &Now) {
        let Some(drive) = self.drives.open.get(of) else {
            return;
        };
        let link = drive.link;
        let (server, _) = self.links.describe(link);
        if self.links.transport(link) != drive.transport || !self.links.is_current(link) {
            let text = format!(
                "server {server} was changed while its question was answered; whether the call \
                 took effect is not known"
            );
            return self.end_drive(of, &Ending::Failed(text), now);
        }
        match self.links.state(link) {
            Some(LinkState::Ready(_)) => {}
            Some(LinkState::Opening) => {
                if let Some(drive) = self.drives.open.get_mut(of) {
                    drive.stage = Stage::Waiting;
                }
                return self.wait(link, Waiting::Driven { key: of.clone() }, now);
            }
            Some(LinkState::Closed { .. }) | None => {
                let text = format!(
                    "server {server} ended while its question was answered; whether the call \
                     took effect is not known"
                );
                return self.end_drive(of, &Ending::Failed(text), now);
            }
        }
        if drive.call.who != self.calls.who() {
            let text = format!(
                "somebody else signed in while server {server} was answered; whether the call \
                 took effect is not known"
            );
            return self.end_drive(of, &Ending::Failed(text), now);
        }
        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let access = &drive.call.access;
        let permit = match decide(&snapshot, access, now) {
            Decision::Allow(permit) => permit,
            Decision::Ask(question) => {
                return self.end_drive(of, &Ending::Denied(question.absurd()), now);
            }
            Decision::Deny(denial) => {
                return self.end_drive(of, &Ending::Denied(denial), now);
            }
        };
        if let Some(denial) = self.links.withholds(link, access) {
            return self.end_drive(of, &Ending::Denied(denial), now);
        }
        let started = match permit.start(&snapshot) {
            Ok(started) => started,
            Err(denial) => return self.end_drive(of, &Ending::Denied(denial), now),
        };
        let id = self.links.next_id(link);
        let made = id.and_then(|id| Some((id, self.line_again(of, id)?)));
        let Some((id, (line, content))) = made else {
            let text = format!("the answers for server {server} are too long to be sent");
            return self.end_drive(of, &Ending::Failed(text), now);
        };
        let rule = self.rule_context(&started, now);
        let Some(mut drive) = self.drives.open.remove(of) else {
            return;
        };
        let leg = drive.call.next_leg();
        let Suspended {
            origin,
            method,
            era,
            level,
            mut again,
            left_us,
            ..
        } = drive.call;
        again.rounds += 1;
        let facts = CallFacts {
            call: leg.call,
            leg: leg.leg,
            caller: self.caller_context(now),
            client: again.client,
            target: again.target,
            registry: self.registry_context(now),
            rule,
            credential: self.links.credential(link),
            correlation: again.correlation.clone(),
            content: Content(content),
            audit: started.audit,
        };
        let start = Start {
            origin,
            method,
            era,
            level,
            uri: None,
            deadline_us: now.mono_us.saturating_add(left_us),
            line,
            again: Some(again),
            bound: None,
            can: self.front.can,
            transport: self.links.transport(link),
        };
        let key = super::call::Key { link, id };
        let intent = self.calls.open(key, &started, facts, start, now);
        self.outbox.append(intent, now);
        self.outbox.hold(Held::Call(key));
    }

    /// The request of before with a new id, the answers and the state, and what of it the record
    /// keeps; `None` when it cannot be sent.
    fn line_again(&mut self, of: &IdKey, id: u64) -> Option<(Bytes, Bytes)> {
        let drive = self.drives.open.get(of)?;
        let before = drive.call.again.line.trim_ascii_end();
        let Ok(Message::Request(request)) = Message::parse(before) else {
            return None;
        };
        let params = request.params.as_ref()?;
        let answers: Vec<String> = drive
            .parts
            .iter()
            .filter_map(|(name, answer)| {
                Some(format!("{}:{}", raw::quoted(name), answer.as_ref()?))
            })
            .collect();
        let answers = format!("{{{}}}", answers.join(","));
        let mut append = Vec::new();
        if !drive.parts.is_empty() {
            append.push(("inputResponses", answers.as_str()));
        }
        append.extend(drive.state.as_deref().map(|state| ("requestState", state)));
        let token = id.to_string();
        self.edits.clear();
        self.edits.replace(request.id_span(), &token);
        if let Some(meta) = &params.meta {
            let change = |key: &str| match key {
                "progressToken" => Change::Value(&token),
                _ => Change::Keep,
            };
            self.edits.object(meta, change, &[]);
        }
        // those of the round before are replaced, not merged
        let change = |key: &str| match key {
            "inputResponses" | "requestState" => Change::Remove,
            _ => Change::Keep,
        };
        self.edits.object(&params.object, change, &append);
        let mut line = Vec::with_capacity(before.len() + answers.len() + 64);
        self.edits.apply(request.line, &mut line);
        if line.len() > limits::LINE_OUT_BYTES {
            return None;
        }
        let params = match Message::parse(&line) {
            Ok(Message::Request(request)) => request.params?.object.span(),
            Ok(Message::Notification(_) | Message::Response(_)) | Err(_) => return None,
        };
        line.push(b'\n');
        let line = Bytes::from(line);
        let content = line.slice(params);
        Some((line, content))
    }

    /// What a call waited for did, or did not, come.
    pub(super) fn drive_resumes(&mut self, of: &IdKey, fate: Fate<'_>, now: &Now) {
        match fate {
            Fate::Refused(_, denial) => {
                self.end_drive(of, &Ending::Denied(denial.clone()), now);
            }
            Fate::Fresh | Fate::Ready(..) => self.drive_on(of, now),
        }
    }

    /// Ends a call between two legs: its open questions are taken back, and the client is told.
    fn end_drive(&mut self, of: &IdKey, ending: &Ending, now: &Now) {
        let Some(drive) = self.drives.open.remove(of) else {
            return;
        };
        let its = self.questions.select(|purpose| match purpose {
            Purpose::Drive(part) => part.of == *of,
            Purpose::Relay(_) | Purpose::Roots => false,
        });
        for number in its {
            if let Some(Purpose::Drive(part)) = self.withdraw_question(number) {
                self.drop_ask(part.leg, now);
            }
        }
        self.links.forget_driven(of);
        if let Origin::Client { id, .. } = &drive.call.origin {
            let (era, tool) = (drive.call.era, drive.call.is_tool());
            let line = match ending {
                Ending::Cancelled => None,
                Ending::Denied(denial) => {
                    let (code, text) = (denial.code.as_str(), refusal::refused_later(denial));
                    Some(refusal::denied(id, era, tool, code, &text))
                }
                Ending::Failed(text) => Some(refusal::failed(id, era, tool, text, None)),
            };
            if let Some(line) = line {
                let instead = Instead {
                    id: id.clone(),
                    tool,
                    era,
                };
                self.outbox.hold(Held::Answer {
                    line: line.into(),
                    fail_mode: drive.call.audit.fail_mode,
                    instead,
                });
            }
        }
        self.links.closed(drive.link, now);
        self.pump(drive.link, now);
    }

    /// The client takes a call back that waits for input.
    pub(super) fn cancel_drive(&mut self, of: &IdKey, now: &Now) {
        self.end_drive(of, &Ending::Cancelled, now);
    }

    /// The snapshot moved.
    pub(super) fn drives_follow(&mut self, now: &Now) {
        let all: Vec<IdKey> = self.drives.open.keys().cloned().collect();
        for of in all {
            let Some(drive) = self.drives.open.get(&of) else {
                continue;
            };
            let access = &drive.call.access;
            let denial = match decide(&self.snapshot, access, now) {
                Decision::Allow(_) if drive.call.who == self.calls.who() => continue,
                Decision::Allow(_) => Denial::new(
                    DenialCode::StaleSnapshot,
                    format!("somebody else signed in while {access} was waiting; call it again"),
                ),
                Decision::Ask(question) => question.absurd(),
                Decision::Deny(denial) => denial,
            };
            self.end_drive(&of, &Ending::Denied(denial), now);
        }
    }

    /// A transport is gone, and the calls with it that wait for input.
    pub(super) fn forget_drives(&mut self, link: LinkId, reason: &str, now: &Now) {
        let (server, _) = self.links.describe(link);
        let gone = self
            .drives
            .open
            .iter()
            .filter(|(_, drive)| drive.link == link);
        let gone: Vec<IdKey> = gone.map(|(of, _)| of.clone()).collect();
        for of in gone {
            let text = format!(
                "server {server} {reason} while its question was answered; whether the call took \
                 effect is not known"
            );
            self.end_drive(&of, &Ending::Failed(text), now);
        }
    }

    /// The session ends.
    pub(super) fn abandon_drives(&mut self, now: &Now) {
        let all: Vec<IdKey> = self.drives.open.keys().cloned().collect();
        for of in all {
            self.cancel_drive(&of, now);
        }
    }

    pub(super) fn drives_wake(&mut self, now: &Now) {
        let due = self
            .drives
            .open
            .iter()
            .filter(|(_, drive)| match drive.stage {
                Stage::Pausing { until_us } => until_us <= now.mono_us,
                Stage::Asking | Stage::Waiting => false,
            });
        let due: Vec<IdKey> = due.map(|(of, _)| of.clone()).collect();
        for of in due {
            self.drive_on(&of, now);
        }
    }

    /// What is kept of a request of a handshake client that its server may want again; `None`
    /// where it cannot be.
    pub(super) fn kept(&self, line: &Bytes, facts: &CallFacts) -> Option<Box<Again>> {
        let kept = self.drives.bytes() + self.calls.kept_bytes();
        let room = limits::DRIVEN_BYTES.saturating_sub(kept);
        (line.len() <= room.min(limits::DRIVEN_LINE_BYTES)).then(|| {
            Box::new(Again {
                line: line.clone(),
                target: facts.target,
                client: facts.client,
                correlation: facts.correlation.clone(),
                rounds: 0,
            })
        })
    }
}

/// How a call ends between two legs.
enum Ending {
    /// Nobody waits for it.
    Cancelled,
    /// It is not allowed any more.
    Denied(Denial),
    /// With this text.
    Failed(String),
}
