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

mod address;
mod end;
mod retry;

use std::collections::BTreeMap;

use bytes::Bytes;

pub(super) use self::retry::{Retry, Step, digest, stale};
use super::ask::{Question, Questioner, Refusal};
use super::call::{Key, Leg, Who};
use super::outbox::Held;
use super::{Machine, question, refusal, relay};
use crate::audit::entry::End;
use crate::clock::{Entropy, Now};
use crate::ids::LinkId;
use crate::inspect::{self, Finding};
use crate::limits;
use crate::policy::{Access, Parked};
use crate::registry::doc::ServerDoc;
use crate::wire::era::{self, Asked, Era};
use crate::wire::msg::{self, IdKey, Request};
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

    fn of_handle(&self, handle: &str) -> Option<(Key, &Park)> {
        let this = |(_, park): &(&Key, &Park)| park.handle.as_deref() == Some(handle);
        self.open.iter().find(this).map(|(key, park)| (*key, park))
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
    let mut emptied = false;
    if let Some(meta) = object.object("_meta").ok()? {
        let change = |key: &str| match key {
            "io.modelcontextprotocol/related-task" | "progressToken" => Change::Remove,
            _ => Change::Keep,
        };
        emptied = meta.is_emptied(change);
        if !emptied {
            edits.object(&meta, change, &[]);
        }
    }
    let change = |key: &str| match key {
        "_meta" if emptied => Change::Remove,
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

/// The stage in which more questions are waited for.
fn gathering(now: &Now) -> Stage {
    Stage::Gathering {
        until_us: now.mono_us + limits::PARK_GATHER_MS * 1000,
    }
}

impl Machine {
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
        if let Err(refusal) = self.park(link, server, key, asked, request, now) {
            if matches!(refusal, Refusal::NotDeclared(_)) {
                self.calls.lacks(key, asked);
            }
            self.refuse_ask(link, request, refusal, now);
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
            let park = self.new_park(bound, link);
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
                park.stage = gathering(now);
            }
        }
        Ok(())
    }

    fn new_park(&self, bound: Box<Parked>, link: LinkId) -> Park {
        Park {
            bound,
            who: self.calls.who(),
            transport: self.links.transport(link),
            handle: None,
            stage: Stage::Running,
            questions: Vec::new(),
            named: 0,
        }
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
            park.stage = gathering(now);
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
        let this = |one: &Asking| one.to.as_ref().is_some_and(|to| to.key == *id);
        let mut here = self
            .parks
            .open
            .iter_mut()
            .filter(|(key, _)| key.link == link);
        let gone = here.find_map(|(_, park)| {
            let at = park.questions.iter().position(this)?;
            Some(park.questions.remove(at))
        });
        if let Some(question) = &gone {
            self.drop_ask(question.leg, now);
        }
        gone.is_some()
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
