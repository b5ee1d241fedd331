//! Calls that their server refused until a person opened an address (2025-11-25, error -32042).
//!
//! Nothing of them is open upstream. The client is asked, and its retry is sent as a further leg.

use bytes::Bytes;

use super::retry::{Step, stale};
use super::{Asking, Stage, embedded, new_handle};
use crate::audit::entry::End;
use crate::clock::{Entropy, Now};
use crate::inspect::{self, Finding};
use crate::limits;
use crate::policy::{Denial, DenialCode};
use crate::registry::doc::{FailMode, ServerDoc};
use crate::secret::Content;
use crate::session::ask::{self, Question};
use crate::session::call::{Key, Method, Origin, Outcome};
use crate::session::outbox::{Asks, Held, Instead};
use crate::session::{Machine, front, link, refusal, relay};
use crate::wire::era::{Asked, Era};
use crate::wire::msg::{self, Request, Response};
use crate::wire::raw::{self, Object};

impl Machine {
    /// Takes error -32042 for a client that can open addresses; false when it is to be told as a
    /// failure.
    pub(in crate::session) fn park_for_address(
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
        let mut park = self.new_park(bound, key.link);
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
    pub(in crate::session) fn ask_for_address(&mut self, key: Key, asks: Asks) {
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
    pub(super) fn again(
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
    pub(in crate::session) fn park_denied(&mut self, handle: &str, now: &Now) {
        if let Some((key, _)) = self.parks.of_handle(handle) {
            self.end_park(key, End::Cancelled, now);
        }
    }

    /// A call is made again: what was answered is recorded before its intent.
    pub(in crate::session) fn park_spent(
        &mut self,
        request: &Request<'_>,
        handle: &str,
        now: &Now,
    ) {
        let Some((key, _)) = self.parks.of_handle(handle) else {
            return;
        };
        let params = request.params.as_ref();
        let answers = params.and_then(|params| params.object.object("inputResponses").ok()?);
        self.close_addresses(key, answers.as_ref(), End::Cancelled, now);
    }

    /// Ends a call that is not open upstream: its questions with what was answered, or like this.
    pub(super) fn close_addresses(
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
}
