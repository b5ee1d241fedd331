//! Calls of clients of the stateless era at servers of the handshake era that ask meanwhile.
//!
//! ```text
//!   upstream asks ─▶ intent ─▶ gathered ─▶ client: input_required, with a handle ─┐
//!        ▲                                                                         │
//!        └─ recorded ◀─ outcome ◀─ decided again, same call? ◀─ retry: answers, handle
//! ```
//!
//! The call stays open at its upstream meanwhile: nothing is executed twice. A handle is 128 random
//! bits, good for one retry of the same caller with the same tool and arguments; one that is not
//! known (any more) is refused and executes nothing. What no retry comes for is taken back after
//! [`limits::PARKED_MS`].
//!
//! One thing is sent a second time: a call that its server refused with `UrlElicitationRequired`
//! (2025-11-25, error -32042), which says that it was not executed. It is a further leg, decided
//! again like every call.
//!
//! On a pipe nobody says which call a question belongs to. It is that of the only call that its
//! client waits for; else of the only one that is parked; else it is refused. From the first such
//! question on, calls to that server go one at a time (decision 0014).

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::ask::{self, Question, Questioner, Refusal};
use super::call::{Key, Leg, Method, Origin, Outcome, Who};
use super::front;
use super::link;
use super::outbox::{Asks, Held, Instead};
use super::question;
use super::refusal;
use super::relay;
use super::roots::are_roots;
use super::{Machine, Ticket};
use crate::audit::entry::End;
use crate::clock::{Entropy, Now};
use crate::ids::{Digest, LinkId};
use crate::inspect::{self, Finding};
use crate::limits;
use crate::policy::{Access, Decision, Denial, DenialCode, Parked, Permit, Resumed, decide};
use crate::registry::doc::{FailMode, ServerDoc};
use crate::secret::Content;
use crate::wire::era::{self, Asked, Era};
use crate::wire::msg::{self, IdKey, Message, Request, Response};
use crate::wire::raw::{self, Change, Object};

/// How a handle begins, so that a lost one is told from a `requestState` of an upstream.
const HANDLE: &str = "mcpshim-parked-";

/// Every call that waits for its client, or whose client waits for it again.
#[derive(Debug, Default)]
pub(super) struct Parks {
    open: BTreeMap<Key, Park>,
}

#[derive(Debug)]
struct Park {
    bound: Box<Parked>,
    /// Who made its call.
    who: Who,
    transport: u32,
    /// What the client's next retry says; none while the client waits.
    handle: Option<Box<str>>,
    stage: Stage,
    /// What is asked and not answered.
    questions: Vec<Asking>,
    /// How many were asked: none has the name of another.
    named: u32,
}

/// Where a call is.
#[derive(Debug)]
enum Stage {
    /// Its server refused it until a person opened an address; its retry is sent as this leg.
    Again { until_us: u64, next: Leg },
    /// It ended while the client was asked: the line that its retry gets, with the id 0.
    Ended { until_us: u64, line: Bytes },
    /// More questions may come before the client is asked.
    Gathering { until_us: u64 },
    /// The client waits for it, and it for nobody.
    Running,
    /// The client was asked.
    Waiting { until_us: u64 },
}

/// One question.
#[derive(Debug)]
struct Asking {
    name: Box<str>,
    asked: Asked,
    leg: Leg,
    /// Who waits for the answer; nobody for one that an error named.
    to: Option<Questioner>,
    /// As the client gets it, raw JSON.
    text: Box<str>,
    /// Its intent is: it may be asked.
    recorded: bool,
}

/// What a retry says beside its call.
#[derive(Debug)]
pub(super) struct Retry<'a> {
    /// Its `requestState`, where it is one of ours.
    pub(super) handle: Option<Cow<'a, str>>,
}

/// What a retry leads to.
pub(super) enum Step {
    /// The client is answered, now or once the upstream does.
    Done,
    /// The call is made again, as this leg.
    Again(Leg),
    /// It is refused.
    Refused(Denial),
}

impl Parks {
    fn bytes(&self) -> usize {
        let of = |park: &Park| {
            let line = match &park.stage {
                Stage::Ended { line, .. } => line.len(),
                Stage::Again { .. }
                | Stage::Gathering { .. }
                | Stage::Running
                | Stage::Waiting { .. } => 0,
            };
            line + park
                .questions
                .iter()
                .map(|one| one.text.len())
                .sum::<usize>()
        };
        self.open.values().map(of).sum()
    }

    /// Calls that are not only running.
    fn waiting(&self) -> usize {
        let waits = |park: &&Park| !matches!(park.stage, Stage::Running);
        self.open.values().filter(waits).count()
    }

    /// How many it holds.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.open.len()
    }

    /// The intent of a question is recorded.
    pub(super) fn recorded(&mut self, key: Key, leg: Leg) {
        let park = self.open.get_mut(&key);
        let questions = park.into_iter().flat_map(|park| &mut park.questions);
        for one in questions.filter(|one| one.leg == leg) {
            one.recorded = true;
        }
    }

    fn of_handle(&self, handle: &str) -> Option<Key> {
        let this = |(_, park): &(&Key, &Park)| park.handle.as_deref() == Some(handle);
        self.open.iter().find(this).map(|(key, _)| *key)
    }

    fn select(&self, test: impl Fn(&Key, &Park) -> bool) -> Vec<Key> {
        let passing = self.open.iter().filter(|(key, park)| test(key, park));
        passing.map(|(key, _)| *key).collect()
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        let due = self.open.values().filter_map(|park| match park.stage {
            Stage::Again { until_us, .. }
            | Stage::Ended { until_us, .. }
            | Stage::Gathering { until_us }
            | Stage::Waiting { until_us } => Some(until_us),
            Stage::Running => None,
        });
        due.min()
    }
}

impl<'a> Retry<'a> {
    /// Whether a request answers questions of a call before; `None` when it does not.
    pub(super) fn of(params: &Object<'a>) -> Option<Self> {
        params
            .get("requestState")
            .or_else(|| params.get("inputResponses"))?;
        let state = params.text("requestState");
        let handle = state.filter(|state| state.starts_with(HANDLE));
        Some(Self { handle })
    }
}

/// The digest of what a call is bound to beside its name.
pub(super) fn digest(params: Option<&Object<'_>>) -> Digest {
    let args = params.and_then(|params| params.get("arguments"));
    Digest::of(args.unwrap_or_default().as_bytes())
}

/// The refusal of a handle that is not known.
pub(super) fn stale() -> Denial {
    Denial::new(
        DenialCode::StaleAnswer,
        "this answers a question that is not open here: it was answered before, it expired, or \
         another session asked it. Whether the call that asked took effect is not known; call again \
         without `requestState`",
    )
}

/// Whether a client's answer is one to this question.
fn is_answer(asked: Asked, answer: &str) -> bool {
    let Ok(answer) = Object::parse(answer) else {
        return false;
    };
    match asked {
        Asked::Form | Asked::Url => {
            answer.misspelt(&["action", "content"]).is_none()
                && answer.object("content").is_ok()
                && matches!(
                    answer.text("action").as_deref(),
                    Some("accept" | "cancel" | "decline")
                )
        }
        Asked::Roots => answer.get("roots").is_some_and(are_roots),
        Asked::Sampling { .. } => {
            answer.misspelt(&["content", "model", "role"]).is_none()
                && answer.get("content").is_some()
                && answer.text("model").is_some()
                && matches!(answer.text("role").as_deref(), Some("assistant" | "user"))
        }
    }
}

/// A question as part of a result: without what the stateless era does not know (`elicitationId`,
/// `task`, a progress token, the task it belongs to), and with who asks said first. `None` when it
/// cannot be read.
fn embedded(
    edits: &mut raw::Edits,
    asked: Asked,
    params: Option<&str>,
    server: &ServerDoc,
) -> Option<String> {
    let (method, _) = relay::named(asked);
    let Some(params) = params else {
        return (asked == Asked::Roots).then(|| format!("{{\"method\":\"{method}\"}}"));
    };
    let object = Object::parse(params).ok()?;
    edits.clear();
    if let Some(meta) = object.object("_meta").ok()? {
        let change = |key: &str| match key {
            "io.modelcontextprotocol/related-task" | "progressToken" => Change::Remove,
            _ => Change::Keep,
        };
        edits.object(&meta, change, &[]);
    }
    let change = |key: &str| match key {
        "elicitationId" | "task" => Change::Remove,
        _ => Change::Keep,
    };
    // an entry of an error need not say what it is
    let mode = (asked == Asked::Url && object.get("mode").is_none()).then_some(("mode", "\"url\""));
    edits.object(&object, change, mode.as_slice());
    let mut stripped = Vec::new();
    edits.apply(params, &mut stripped);
    let stripped = String::from_utf8(stripped).ok()?;
    let object = Object::parse(&stripped).ok()?;
    edits.clear();
    if !question::fit(edits, Some(&object), asked, server.key.as_str(), None, None) {
        return None;
    }
    let mut fit = Vec::new();
    edits.apply(&stripped, &mut fit);
    let fit = String::from_utf8(fit).ok()?;
    Some(format!("{{\"method\":\"{method}\",\"params\":{fit}}}"))
}

/// What is kept for a retry in the place of an answer.
fn failed(bound: &Parked, text: &str) -> Bytes {
    let tool = matches!(bound.access(), Access::Tool { .. });
    refusal::failed("0", Era::Stateless, tool, text, None).into()
}

fn new_handle(entropy: &mut dyn Entropy) -> Box<str> {
    let mut random = [0; 16];
    entropy.fill(&mut random);
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HANDLE}{hex}").into()
}

impl Machine {
    // ---- questions

    /// Takes a question of a server of the handshake era in a call of a stateless client.
    pub(super) fn upstream_parks(
        &mut self,
        link: LinkId,
        server: &ServerDoc,
        key: Key,
        asked: Asked,
        request: &Request<'_>,
        now: &Now,
    ) {
        match self.park(link, server, key, asked, request, now) {
            Ok(()) => {}
            Err(refusal) => self.refuse_ask(link, request, refusal, now),
        }
    }

    fn park(
        &mut self,
        link: LinkId,
        server: &ServerDoc,
        key: Key,
        asked: Asked,
        request: &Request<'_>,
        now: &Now,
    ) -> Result<(), Refusal> {
        let can = self.calls.get(key).map(|call| call.can).unwrap_or_default();
        if !can.covers(asked) {
            return Err(Refusal::NotDeclared(asked));
        }
        let to = self.questioner(link, server, Some(key), request);
        let repeated = self.parks.open.iter().any(|(other, park)| {
            let mine = |one: &Asking| one.to.as_ref().is_some_and(|one| one.key == to.key);
            other.link == link && park.questions.iter().any(mine)
        });
        if repeated {
            return Err(Refusal::Repeated);
        }
        let params = request.params.as_ref().map(|params| params.object.raw());
        let text = embedded(&mut self.edits, asked, params, server).ok_or(Refusal::Malformed)?;
        let long =
            matches!(asked, Asked::Form | Asked::Url) && text.len() > limits::ELICITATION_BYTES;
        let full = self.parks.bytes() + text.len() > limits::PARKED_BYTES;
        if long || full || matches!(inspect::question(request.line), Finding::Stop(_)) {
            return Err(Refusal::TooMany);
        }
        let waiting = self.parks.waiting();
        let new = match self.parks.open.get(&key) {
            Some(park) if park.questions.len() >= limits::INPUT_REQUESTS => {
                return Err(Refusal::TooMany);
            }
            Some(park) => matches!(park.stage, Stage::Running),
            None => true,
        };
        if new && waiting >= limits::PARKED {
            return Err(Refusal::TooMany);
        }
        if !self.parks.open.contains_key(&key) {
            // a call that is not bound to its caller cannot go on
            let bound = self.calls.take_bound(key).ok_or(Refusal::NoCall)?;
            let park = Park {
                bound,
                who: self.calls.who(),
                transport: self.links.transport(link),
                handle: None,
                stage: Stage::Running,
                questions: Vec::new(),
                named: 0,
            };
            self.parks.open.insert(key, park);
        }
        let leg = self.calls.next_leg(key).ok_or(Refusal::TooMany)?;
        let (method, rule) = relay::named(asked);
        let question = Question {
            server,
            method,
            params,
            audit: self.audit_of_ask(server, Some(key)),
        };
        let fail_mode = question.audit.fail_mode;
        let facts = self.ask_facts(&question, leg, rule, now);
        let intent = self.calls.open_ask(facts, now);
        self.outbox.append(intent, now);
        self.outbox.hold(Held::Parked(key, leg, fail_mode));
        if let Some(park) = self.parks.open.get_mut(&key) {
            park.ask(asked, leg, Some(to), text);
            if matches!(park.stage, Stage::Running) {
                let until_us = now.mono_us + limits::PARK_GATHER_MS * 1000;
                park.stage = Stage::Gathering { until_us };
            }
        }
        Ok(())
    }

    /// The time to gather is over: the client is asked, once all it is asked is recorded.
    fn ask_parked(&mut self, key: Key, now: &Now, entropy: &mut dyn Entropy) {
        let Some(park) = self.parks.open.get_mut(&key) else {
            return;
        };
        if park.questions.is_empty() {
            // all were taken back
            park.stage = Stage::Running;
            return;
        }
        if !park.questions.iter().all(|one| one.recorded) {
            let until_us = now.mono_us + limits::PARK_GATHER_MS * 1000;
            park.stage = Stage::Gathering { until_us };
            return;
        }
        let Some(client) = self.calls.park(key, now) else {
            return;
        };
        let info = self.links.server_info(key.link);
        let handle = new_handle(entropy);
        let result = park.asks(&handle, info);
        park.handle = Some(handle);
        let until_us = now.mono_us + limits::PARKED_MS * 1000;
        park.stage = Stage::Waiting { until_us };
        self.outbox.send_client(msg::result_line(&client, &result));
        // others may go on while its person thinks
        self.next_in_line(key.link, now);
    }

    /// The intent of a question could not be recorded: it is not asked.
    pub(super) fn parked_unrecorded(&mut self, key: Key, leg: Leg, now: &Now) {
        let Some(park) = self.parks.open.get_mut(&key) else {
            return;
        };
        let this = |one: &Asking| one.leg == leg;
        if let Some(at) = park.questions.iter().position(this)
            && let Asking { to: Some(to), .. } = park.questions.remove(at)
        {
            let why = "the question could not be recorded";
            self.tell_error(to, leg, End::NotSent, why, now);
        }
    }

    /// The outcome of a parked call could not be recorded: its client does not get it.
    pub(super) fn keep_nothing(&mut self, key: Key, reason: &str) {
        if let Some(park) = self.parks.open.get_mut(&key)
            && let Stage::Ended { line, .. } = &mut park.stage
        {
            let text = format!(
                "the call was made, but its outcome could not be recorded ({reason}), so its \
                 result is withheld"
            );
            *line = failed(&park.bound, &text);
        }
    }

    /// A server takes a question of its own back; false when it is none of these.
    pub(super) fn park_cancelled(&mut self, link: LinkId, id: &IdKey, now: &Now) -> bool {
        let mut gone = None;
        for (key, park) in &mut self.parks.open {
            let this =
                |one: &Asking| key.link == link && one.to.as_ref().is_some_and(|to| to.key == *id);
            if let Some(at) = park.questions.iter().position(this) {
                gone = Some(park.questions.remove(at));
            }
        }
        if let Some(question) = &gone {
            self.drop_ask(question.leg, now);
        }
        gone.is_some()
    }

    // ---- retries

    /// Takes a retry with a handle of ours, whose call leads where this one does.
    pub(super) fn park_resumed(
        &mut self,
        request: &Request<'_>,
        asker: &front::Asker<'_>,
        permit: Permit,
        handle: &str,
        now: &Now,
    ) -> Step {
        let Some(key) = self.parks.of_handle(handle) else {
            return Step::Refused(stale());
        };
        let Some(park) = self.parks.open.get(&key) else {
            return Step::Refused(stale());
        };
        let params = request.params.as_ref().map(|params| &params.object);
        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let resumed = match permit.resume(&snapshot, &park.bound, digest(params)) {
            Ok(resumed) => resumed,
            Err(denial) => {
                if denial.code == DenialCode::StaleSnapshot {
                    self.end_park(key, End::Cancelled, now);
                }
                return Step::Refused(denial);
            }
        };
        let Some(Ok(answers)) = params.map(|params| params.object("inputResponses")) else {
            return self.unfit(request, "params.inputResponses must be an object", now);
        };
        let answer = |one: &Asking| answers.as_ref()?.get(&one.name);
        for one in &park.questions {
            if answer(one).is_some_and(|answer| !is_answer(one.asked, answer)) {
                let (method, _) = relay::named(one.asked);
                let text = format!(
                    "params.inputResponses.{} is no answer to {method}",
                    one.name
                );
                return self.unfit(request, &text, now);
            }
        }
        let known = |name: &str| park.questions.iter().any(|one| *one.name == *name);
        let strange = answers.iter().flat_map(Object::members);
        let strange = strange.filter(|(name, _)| !known(name)).count();
        for _ in 0..strange {
            self.outbox.count("ask-not-asked", now);
        }
        match &park.stage {
            Stage::Again { .. } => self.again(request, asker, key, answers.as_ref(), now),
            Stage::Ended { line, .. } => {
                // what was answered comes too late: its call is over, and so are its questions
                let line = line.clone();
                self.parks.open.remove(&key);
                self.give(request, asker.era, key, &line);
                Step::Done
            }
            // it has no handle then
            Stage::Gathering { .. } | Stage::Running => Step::Refused(stale()),
            Stage::Waiting { .. } => {
                self.answer_parked(request, asker, key, answers.as_ref(), &resumed, now);
                Step::Done
            }
        }
    }

    /// A retry that is no answer changes nothing: its handle holds.
    fn unfit(&mut self, request: &Request<'_>, text: &str, now: &Now) -> Step {
        self.outbox.count("ask-unfit-answer", now);
        self.error(&request.id, -32602, text, None);
        Step::Done
    }

    /// Gives a line that was kept for a retry, once the outcome of its call is recorded.
    fn give(&mut self, request: &Request<'_>, era: Era, key: Key, line: &Bytes) {
        let line = line.trim_ascii_end();
        let (Ok(text), Ok(Message::Response(kept))) =
            (std::str::from_utf8(line), Message::parse(line))
        else {
            return;
        };
        self.edits.clear();
        self.edits.replace(kept.id_span(), request.id.raw());
        let mut line = Vec::with_capacity(text.len() + 64);
        self.edits.apply(text, &mut line);
        line.push(b'\n');
        let line = line.into();
        let instead = Instead {
            id: request.id.raw().into(),
            tool: request.method == "tools/call",
            era,
        };
        if !self.outbox.hand_over(key, &line, &instead) {
            // it is recorded, or says itself that it could not be
            self.outbox.send_client(line);
        }
    }

    /// Answers the upstream, and goes on waiting for it in the retry's name. What was not answered
    /// is asked again.
    fn answer_parked(
        &mut self,
        request: &Request<'_>,
        asker: &front::Asker<'_>,
        key: Key,
        answers: Option<&Object<'_>>,
        _resumed: &Resumed,
        now: &Now,
    ) {
        let params = request.params.as_ref();
        let origin = Origin::Client {
            id: request.id.raw().into(),
            key: request.id.key(),
            progress: params.and_then(|p| p.progress_token()).map(Into::into),
        };
        let level = asker.level();
        let can = asker.can;
        self.calls.unpark(key, origin, (level, can), now);
        self.wants_level(key.link, level);
        let Some(park) = self.parks.open.get_mut(&key) else {
            return;
        };
        park.handle = None;
        let (mut answered, mut gone) = (Vec::new(), Vec::new());
        for one in std::mem::take(&mut park.questions) {
            match answers.and_then(|answers| answers.get(&one.name)) {
                Some(answer) => answered.push((one, answer)),
                None if can.covers(one.asked) => park.questions.push(one),
                // the client does not declare it any more
                None => gone.push(one),
            }
        }
        park.stage = match park.questions.is_empty() {
            true => Stage::Running,
            false => Stage::Gathering {
                until_us: now.mono_us + limits::PARK_GATHER_MS * 1000,
            },
        };
        self.take_back_questions(gone, End::Cancelled, now);
        for (one, answer) in answered {
            if one.asked == Asked::Roots {
                self.learn_roots(answer);
            }
            let content = Content(Bytes::copy_from_slice(answer.as_bytes()));
            let end = End::Ok;
            if let Some(to) = one.to {
                let line = msg::result_line(&to.id, answer).into();
                self.tell(to, one.leg, Outcome { end, content }, line, now);
            }
        }
    }

    // ---- a call that was refused until an address is opened

    /// Takes error -32042 for a client that can open addresses; false when it is to be told as a
    /// failure.
    pub(super) fn park_for_address(
        &mut self,
        key: Key,
        response: &Response<'_>,
        error: &Object<'_>,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) -> bool {
        let Some(server) = self.server_of(key.link) else {
            return false;
        };
        let can = self.calls.get(key).map(|call| call.can).unwrap_or_default();
        let may = link::allowed(&server).and(can).covers(Asked::Url);
        let long = matches!(inspect::question(response.line), Finding::Stop(_));
        // nobody is asked in a call that somebody else made
        if !may || !self.calls.is_own(key) || long || self.parks.waiting() >= limits::PARKED {
            return false;
        }
        let Some(texts) = self.addresses(error, &server) else {
            return false;
        };
        let bytes: usize = texts.iter().map(|(_, text)| text.len()).sum();
        if self.parks.bytes() + bytes > limits::PARKED_BYTES {
            return false;
        }
        let Some(call) = self.calls.get(key) else {
            return false;
        };
        let Origin::Client { id, .. } = &call.origin else {
            return false;
        };
        let (id, audit, tool) = (id.clone(), call.audit(), call.method == Method::Tool);
        if usize::from(call.legs()) + texts.len() + 1 > usize::from(limits::LEGS) {
            return false;
        }
        let bound = match self.parks.open.remove(&key) {
            Some(before) => {
                // it asks for something, and ends its call all the same
                self.take_back_questions(before.questions, End::Cancelled, now);
                Some(before.bound)
            }
            None => self.calls.take_bound(key),
        };
        let Some(bound) = bound else {
            return false;
        };
        let mut park = Park {
            bound,
            who: self.calls.who(),
            transport: self.links.transport(key.link),
            handle: None,
            stage: Stage::Running,
            questions: Vec::new(),
            named: 0,
        };
        let mut since = None;
        for (params, text) in texts {
            let Some(leg) = self.calls.next_leg(key) else {
                continue;
            };
            let (method, rule) = relay::named(Asked::Url);
            let question = Question {
                server: &server,
                method,
                params: Some(&params),
                audit,
            };
            let facts = self.ask_facts(&question, leg, rule, now);
            let intent = self.calls.open_ask(facts, now);
            let recorded = self.outbox.append(intent, now);
            since.get_or_insert(recorded);
            park.ask(Asked::Url, leg, None, text);
        }
        let Some(next) = self.calls.next_leg(key) else {
            return false;
        };
        let handle = new_handle(entropy);
        let result = park.asks(&handle, self.links.server_info(key.link));
        let until_us = now.mono_us + limits::PARKED_MS * 1000;
        park.stage = Stage::Again { until_us, next };
        park.handle = Some(handle);
        let content = Content(Bytes::copy_from_slice(error.raw().as_bytes()));
        let outcome = Outcome {
            end: End::Input,
            content,
        };
        let line = msg::result_line(&id, &result).into();
        let recorded = self.settle(key, outcome, None, now);
        self.parks.open.insert(key, park);
        let instead = Instead {
            id,
            tool,
            era: Era::Stateless,
        };
        let fail_mode = audit.fail_mode;
        let asks = Box::new(Asks {
            line,
            fail_mode,
            instead,
        });
        if let Some((since, recorded)) = since.zip(recorded) {
            // nobody is asked before the record says what
            self.outbox
                .hold_for(since..=recorded, Held::Asks(key, asks));
        }
        true
    }

    /// What a call waits for is recorded: its client is asked, if it still may be.
    pub(super) fn ask_for_address(&mut self, key: Key, asks: Asks) {
        if self.parks.open.contains_key(&key) {
            return self.outbox.send_client(asks.line);
        }
        let (server, _) = self.links.describe(key.link);
        let text = format!(
            "server {server} wants an address opened before it takes this call, and who is signed \
             in or what may be called changed meanwhile; nothing was executed; call it again"
        );
        let denial = Denial::new(DenialCode::StaleSnapshot, text);
        self.withheld(&asks.instead, &denial);
    }

    /// The questions in the data of an error -32042: as they are recorded, and as they are asked.
    fn addresses(
        &mut self,
        error: &Object<'_>,
        server: &ServerDoc,
    ) -> Option<Vec<(String, String)>> {
        let data = error.object("data").ok()??;
        let entries = raw::elements(data.get("elicitations")?).ok()?;
        if entries.is_empty() || entries.len() > limits::INPUT_REQUESTS {
            return None;
        }
        let mut texts = Vec::new();
        for entry in entries {
            let object = Object::parse(entry).ok()?;
            let mode = object.get("mode").is_none_or(|mode| mode == "\"url\"");
            if !mode || ask::is_ambiguous(&object) || entry.len() > limits::ELICITATION_BYTES {
                return None;
            }
            let text = embedded(&mut self.edits, Asked::Url, Some(entry), server)?;
            texts.push((entry.to_owned(), text));
        }
        Some(texts)
    }

    /// The retry of a call that its server refused until an address is opened.
    fn again(
        &mut self,
        request: &Request<'_>,
        asker: &front::Asker<'_>,
        key: Key,
        answers: Option<&Object<'_>>,
        now: &Now,
    ) -> Step {
        let Some(park) = self.parks.open.get(&key) else {
            return Step::Refused(stale());
        };
        let answer = |one: &Asking| answers.and_then(|answers| answers.get(&one.name));
        let missing = park.questions.iter().any(|one| answer(one).is_none());
        if missing && asker.can.covers(Asked::Url) {
            // all or none: it is asked again, by the same names and handle
            let handle = park.handle.as_deref().unwrap_or_default();
            let result = park.asks(handle, self.links.server_info(key.link));
            let line = msg::result_line(request.id.raw(), &result);
            self.outbox.send_client(line);
            return Step::Done;
        }
        let accepted = |answer: &str| {
            let answer = Object::parse(answer).ok();
            answer.is_some_and(|answer| answer.text("action").as_deref() == Some("accept"))
        };
        let all = park
            .questions
            .iter()
            .all(|one| answer(one).is_some_and(accepted));
        if let (true, Stage::Again { next, .. }) = (all, &park.stage) {
            return Step::Again(*next);
        }
        self.close_addresses(key, answers, End::Cancelled, now);
        let (server, _) = self.links.describe(key.link);
        let why = match missing {
            true => "this client does not offer that any more",
            false => "that was declined",
        };
        let text = format!(
            "server {server} wants an address opened before it takes this call, and {why}; nothing \
             was executed"
        );
        let tool = request.method == "tools/call";
        let line = refusal::failed(request.id.raw(), Era::Stateless, tool, &text, None);
        self.outbox.hold(Held::Answer {
            line: line.into(),
            fail_mode: FailMode::default(),
            instead: Instead {
                id: request.id.raw().into(),
                tool,
                era: Era::Stateless,
            },
        });
        Step::Done
    }

    /// Its caller may not make the call any more.
    pub(super) fn park_denied(&mut self, handle: &str, now: &Now) {
        if let Some(key) = self.parks.of_handle(handle) {
            self.end_park(key, End::Cancelled, now);
        }
    }

    /// A call is made again: what was answered is recorded before its intent.
    pub(super) fn park_spent(&mut self, request: &Request<'_>, handle: &str, now: &Now) {
        let Some(key) = self.parks.of_handle(handle) else {
            return;
        };
        let params = request.params.as_ref();
        let answers = params.and_then(|params| params.object.object("inputResponses").ok()?);
        self.close_addresses(key, answers.as_ref(), End::Cancelled, now);
    }

    /// Ends a call that is not open upstream: its questions with what was answered, or like this.
    fn close_addresses(
        &mut self,
        key: Key,
        answers: Option<&Object<'_>>,
        otherwise: End,
        now: &Now,
    ) {
        let Some(park) = self.parks.open.remove(&key) else {
            return;
        };
        for one in park.questions {
            let outcome = match answers.and_then(|answers| answers.get(&one.name)) {
                Some(answer) => Outcome {
                    end: End::Ok,
                    content: Content(Bytes::copy_from_slice(answer.as_bytes())),
                },
                None => Outcome::bare(otherwise),
            };
            if let Some((outcome, _)) = self.calls.close_ask(one.leg, outcome, now) {
                self.outbox.append(outcome, now);
            }
        }
    }

    // ---- ends

    /// A call ended: its questions end, and what its client would have got is kept for its retry.
    pub(super) fn park_over(
        &mut self,
        key: Key,
        parked: bool,
        line: Option<&Bytes>,
        (recorded, fail_mode): (Ticket, FailMode),
        now: &Now,
    ) {
        let Some(park) = self.parks.open.get_mut(&key) else {
            return;
        };
        let questions = std::mem::take(&mut park.questions);
        match (parked, line) {
            (true, Some(line)) => {
                let needs = recorded..=recorded;
                self.outbox.hold_for(needs, Held::Kept(key, fail_mode));
                let until_us = match park.stage {
                    Stage::Waiting { until_us } => until_us,
                    Stage::Again { .. }
                    | Stage::Ended { .. }
                    | Stage::Gathering { .. }
                    | Stage::Running => now.mono_us + limits::PARKED_MS * 1000,
                };
                park.stage = Stage::Ended {
                    until_us,
                    line: line.clone(),
                };
            }
            (false, _) | (true, None) => {
                self.parks.open.remove(&key);
            }
        }
        if self.parks.bytes() > limits::PARKED_BYTES
            && let Some(park) = self.parks.open.get_mut(&key)
            && let Stage::Ended { line, .. } = &mut park.stage
        {
            let text = "the call was made, but its answer came while you were asked, and was too \
                        long to be kept";
            *line = failed(&park.bound, text);
        }
        self.take_back_questions(questions, End::Cancelled, now);
    }

    /// Questions that get no answer of the client's: their server is told.
    fn take_back_questions(&mut self, questions: Vec<Asking>, end: End, now: &Now) {
        for one in questions {
            let Some(to) = one.to else {
                self.drop_ask(one.leg, now);
                continue;
            };
            match one.asked {
                Asked::Form | Asked::Url => {
                    let line = msg::result_line(&to.id, r#"{"action":"cancel"}"#);
                    self.tell(to, one.leg, Outcome::bare(end), line.into(), now);
                }
                Asked::Roots | Asked::Sampling { .. } => {
                    let why = "the client did not answer";
                    self.tell_error(to, one.leg, end, why, now);
                }
            }
        }
    }

    /// Ends a parked call: its server is told, and the record.
    fn end_park(&mut self, key: Key, end: End, now: &Now) {
        let Some(park) = self.parks.open.get_mut(&key) else {
            return;
        };
        if let Stage::Again { .. } = park.stage {
            return self.close_addresses(key, None, end, now);
        }
        let questions = std::mem::take(&mut park.questions);
        self.parks.open.remove(&key);
        self.take_back_questions(questions, end, now);
        // nothing to do for one that has ended
        self.withdraw(key, end, now);
    }

    /// The snapshot moved: parked calls that the caller may not make any more end, and all of them
    /// where somebody else calls now.
    pub(super) fn parks_follow(&mut self, now: &Now) {
        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let who = self.calls.who();
        let may = |park: &Park| {
            let decision = decide(&snapshot, park.bound.access(), now);
            park.who == who && matches!(decision, Decision::Allow(_))
        };
        let gone = self.parks.select(|_, park| {
            let parked = match park.stage {
                Stage::Again { .. } | Stage::Ended { .. } | Stage::Waiting { .. } => true,
                Stage::Gathering { .. } | Stage::Running => false,
            };
            parked && !may(park)
        });
        for key in gone {
            self.end_park(key, End::Cancelled, now);
        }
        // a client that waits is not asked for somebody else, nor for what it may not call
        let asking = self
            .parks
            .select(|_, park| matches!(park.stage, Stage::Gathering { .. }) && !may(park));
        for key in asking {
            if let Some(park) = self.parks.open.get_mut(&key) {
                let questions = std::mem::take(&mut park.questions);
                park.stage = Stage::Running;
                self.take_back_questions(questions, End::NotSent, now);
            }
        }
    }

    /// A transport is gone, and the questions with it that came over it; all of them when the
    /// session ends.
    pub(super) fn forget_parks(&mut self, of: Option<LinkId>, now: &Now) {
        for key in self
            .parks
            .select(|key, _| of.is_none_or(|link| key.link == link))
        {
            let Some(park) = self.parks.open.get_mut(&key) else {
                continue;
            };
            let on_it = !matches!(park.stage, Stage::Again { .. } | Stage::Ended { .. });
            if on_it || of.is_none() {
                for one in std::mem::take(&mut park.questions) {
                    self.drop_ask(one.leg, now);
                }
            }
            if of.is_none() {
                self.parks.open.remove(&key);
            }
        }
    }

    pub(super) fn parks_wake(&mut self, now: &Now, entropy: &mut dyn Entropy) {
        let due = |until_us: u64| until_us <= now.mono_us;
        let gathered = self
            .parks
            .select(|_, park| matches!(park.stage, Stage::Gathering { until_us } if due(until_us)));
        for key in gathered {
            self.ask_parked(key, now, entropy);
        }
        let over = self.parks.select(|_, park| match park.stage {
            Stage::Again { until_us, .. }
            | Stage::Ended { until_us, .. }
            | Stage::Waiting { until_us } => due(until_us),
            Stage::Gathering { .. } | Stage::Running => false,
        });
        for key in over {
            self.end_park(key, End::Timeout, now);
        }
    }

    /// The only call of this upstream that is parked.
    pub(super) fn only_parked(&self, link: LinkId) -> Option<Key> {
        let transport = self.links.transport(link);
        let parked = self.parks.select(|key, park| {
            key.link == link
                && park.transport == transport
                && matches!(park.stage, Stage::Waiting { .. })
        });
        match parked[..] {
            [only] => Some(only),
            _ => None,
        }
    }
}

impl Park {
    fn ask(&mut self, asked: Asked, leg: Leg, to: Option<Questioner>, text: String) {
        self.named += 1;
        self.questions.push(Asking {
            name: self.named.to_string().into(),
            asked,
            leg,
            recorded: to.is_none(),
            to,
            text: text.into(),
        });
    }

    /// The result that asks the client, raw JSON.
    fn asks(&self, handle: &str, info: Option<&str>) -> String {
        let questions = self.questions.iter();
        let requests: Vec<String> = questions
            .map(|one| format!("\"{}\":{}", one.name, one.text))
            .collect();
        era::input_required(&requests.join(","), handle, info)
    }
}
