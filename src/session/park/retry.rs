//! Retries: the same call with the answers of its client, and what they lead to.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::{Asking, HANDLE, Stage, gathering};
use crate::audit::entry::End;
use crate::clock::Now;
use crate::ids::Digest;
use crate::policy::{Denial, DenialCode, Permit, Resumed};
use crate::secret::Content;
use crate::session::call::{Key, Leg, Origin, Outcome};
use crate::session::outbox::Instead;
use crate::session::roots::are_roots;
use crate::session::{Machine, front, relay};
use crate::wire::era::{Asked, Era};
use crate::wire::msg::{self, Message, Request};
use crate::wire::raw::Object;

/// What a retry says beside its call.
#[derive(Debug)]
pub(in crate::session) struct Retry<'a> {
    /// Its `requestState`, where it is one of ours.
    pub(in crate::session) handle: Option<Cow<'a, str>>,
    /// It has a `requestState`, of whomever.
    pub(in crate::session) state: bool,
}

/// What a retry leads to.
pub(in crate::session) enum Step {
    /// The client is answered, now or once the upstream does.
    Done,
    /// The call is made again, as this leg.
    Again(Leg),
    /// It is refused.
    Refused(Denial),
}

impl<'a> Retry<'a> {
    /// Whether a request answers questions of a call before; `None` when it does not.
    pub(in crate::session) fn of(params: &Object<'a>) -> Option<Self> {
        params
            .get("requestState")
            .or_else(|| params.get("inputResponses"))?;
        let handle = params.text("requestState");
        let handle = handle.filter(|state| state.starts_with(HANDLE));
        let state = params.get("requestState").is_some();
        Some(Self { handle, state })
    }
}

/// The digest of what a call is bound to beside its name.
pub(in crate::session) fn digest(params: Option<&Object<'_>>) -> Digest {
    let args = params.and_then(|params| params.get("arguments"));
    Digest::of(args.unwrap_or_default().as_bytes())
}

/// The refusal of a handle that is not known.
pub(in crate::session) fn stale() -> Denial {
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

impl Machine {
    /// Takes a retry with a handle of ours, whose call leads where this one does.
    pub(in crate::session) fn park_resumed(
        &mut self,
        request: &Request<'_>,
        asker: &front::Asker<'_>,
        permit: Permit,
        handle: &str,
        now: &Now,
    ) -> Step {
        let Some((key, park)) = self.parks.of_handle(handle) else {
            return Step::Refused(stale());
        };
        let params = request.params.as_ref().map(|params| &params.object);
        let snapshot = Arc::clone(&self.snapshot);
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
            false => gathering(now),
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
}
