//! What a client of the handshake era is asked: requests of ours, from their record to their answer.
//!
//! ```text
//!   ask ─▶ held until its intent is recorded ─▶ sent ─▶ answered │ refused │ withdrawn │ overdue
//! ```
//!
//! A question has an id of ours and one purpose. How many are open is bounded, and so is their
//! time. An answer to none, or a second one, is counted and goes nowhere.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Machine;
use super::drive::Part;
use super::outbox::{Held, Progress};
use super::relay::Relay;
use super::shown;
use crate::audit::entry::End;
use crate::clock::Now;
use crate::limits;
use crate::registry::doc::FailMode;
use crate::wire::era::Asked;
use crate::wire::msg::{self, Notification, Response};
use crate::wire::raw::{self, Change, Edits, Object};

/// Every question that is open.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<u64, Question>,
    last: u64,
}

/// What a question is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// One part of what a server of the stateless era wants before it goes on.
    Drive(Part),
    /// The question of a server of the handshake era.
    Relay(Box<Relay>),
    /// Where the client works, for everybody who may know it.
    Roots,
}

#[derive(Debug)]
struct Question {
    purpose: Purpose,
    until_us: u64,
    /// It waits for its record.
    line: Option<Bytes>,
    /// News of it that may still be passed on.
    news: u32,
}

impl Questions {
    /// Opens one; `None` when too many are.
    pub(super) fn open(&mut self, purpose: Purpose, ms: u64, now: &Now) -> Option<u64> {
        let most = match purpose {
            Purpose::Drive(_) | Purpose::Relay(_) => limits::QUESTIONS,
            // there is never more than one
            Purpose::Roots => limits::QUESTIONS + 1,
        };
        if self.open.len() >= most {
            return None;
        }
        self.last += 1;
        let question = Question {
            purpose,
            until_us: now.mono_us + ms * 1000,
            line: None,
            news: limits::QUESTION_NEWS,
        };
        self.open.insert(self.last, question);
        Some(self.last)
    }

    /// The number of the next one.
    pub(super) fn upcoming(&self) -> u64 {
        self.last + 1
    }

    /// Whether so many more can be opened.
    pub(super) fn have_room(&self, more: usize) -> bool {
        self.open.len() + more <= limits::QUESTIONS
    }

    /// How many it holds.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The questions whose purpose passes a test, in the order they were asked.
    pub(super) fn select(&self, test: impl Fn(&Purpose) -> bool) -> Vec<u64> {
        let passing = self.open.iter().filter(|(_, one)| test(&one.purpose));
        passing.map(|(number, _)| *number).collect()
    }

    /// The purpose of an open question.
    pub(super) fn purpose(&mut self, number: u64) -> Option<&mut Purpose> {
        Some(&mut self.open.get_mut(&number)?.purpose)
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        self.open.values().map(|one| one.until_us).min()
    }

    /// Takes one that was sent.
    fn take_sent(&mut self, number: u64) -> Option<Purpose> {
        self.open.get(&number).filter(|one| one.line.is_none())?;
        Some(self.open.remove(&number)?.purpose)
    }
}

/// The id token of a question.
pub(super) fn token(number: u64) -> String {
    format!("\"mcpshim-{number}\"")
}

/// Which question an id token names.
fn number_of(id: &str) -> Option<u64> {
    let text = raw::string(id)?;
    let number = text.strip_prefix("mcpshim-")?.parse().ok()?;
    // one spelling only
    (token(number).trim_matches('"') == text).then_some(number)
}

/// Makes the params of a question fit for the client: who asks is said first in what a person
/// reads, and nothing in it hides ([`shown`]); a task, which the client did not offer to us, is none; `id` is the `elicitationId` to
/// give it, `progress` the token that stands for the server's.
///
/// False when a member is missing that a client must find, or hides something.
pub(super) fn fit(
    edits: &mut Edits,
    params: Option<&Object<'_>>,
    asked: Asked,
    server: &str,
    id: Option<&str>,
    progress: Option<&str>,
) -> bool {
    let Some(params) = params else {
        return asked == Asked::Roots;
    };
    let Some(texts) = shown::texts(params, asked, server) else {
        return false;
    };
    for (place, text) in texts {
        edits.replace(place, &text);
    }
    if asked == Asked::Url && !params.text("url").is_some_and(|url| is_web(&url)) {
        return false;
    }
    let Ok(meta) = params.object("_meta") else {
        return false;
    };
    let mut emptied = false;
    if let Some(meta) = meta {
        let change = |key: &str| match (key, progress) {
            ("progressToken", Some(own)) => Change::Value(own),
            ("progressToken", None) => Change::Remove,
            _ => Change::Keep,
        };
        emptied = meta.is_emptied(change);
        if !emptied {
            edits.object(&meta, change, &[]);
        }
    }
    let known = params.get("elicitationId").is_some();
    let change = |key: &str| match (key, id) {
        ("_meta", _) if emptied => Change::Remove,
        ("task", _) => Change::Remove,
        ("elicitationId", Some(id)) => Change::Value(id),
        _ => Change::Keep,
    };
    let append = id.filter(|_| !known).map(|id| ("elicitationId", id));
    edits.object(params, change, append.as_slice());
    true
}

/// Whether an address is one that browsers open: others start programs.
pub(super) fn is_web(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        ["http", "https"]
            .iter()
            .any(|web| scheme.eq_ignore_ascii_case(web))
    })
}

impl Machine {
    /// Lets a question wait for its record.
    pub(super) fn hold_question(&mut self, number: u64, line: Vec<u8>) {
        if let Some(question) = self.questions.open.get_mut(&number) {
            question.line = Some(line.into());
            self.outbox.hold(Held::Question(number));
        }
    }

    /// Its record is written: it is asked.
    pub(super) fn question_recorded(&mut self, number: u64) {
        let Some(question) = self.questions.open.get_mut(&number) else {
            return;
        };
        if let Purpose::Relay(relay) = &question.purpose
            && let Some(elicitation) = &relay.elicitation
        {
            self.links.elicits(relay.to.link, elicitation);
        }
        if let Some(line) = question.line.take() {
            self.outbox.send_client(line);
        }
    }

    /// Its record cannot be written.
    pub(super) fn question_unrecorded(&mut self, number: u64, now: &Now) {
        let fail_mode = match self.questions.open.get(&number).map(|one| &one.purpose) {
            Some(Purpose::Drive(part)) => self.calls.ask_fail_mode(part.leg),
            Some(Purpose::Relay(relay)) => self.calls.ask_fail_mode(relay.leg),
            Some(Purpose::Roots) | None => None,
        };
        match fail_mode {
            Some(FailMode::Open) => {
                self.outbox.count("unrecorded", now);
                self.question_recorded(number);
            }
            Some(FailMode::Closed) => {
                let why = "the question could not be recorded";
                if let Some(purpose) = self.withdraw_question(number) {
                    self.question_failed(purpose, End::NotSent, why, now);
                }
            }
            None => {}
        }
    }

    /// The client answers something.
    pub(super) fn client_answers(&mut self, response: &Response<'_>, now: &Now) {
        let number = response.id.as_ref().and_then(|id| number_of(id.raw()));
        let purpose = number.and_then(|number| self.questions.take_sent(number));
        match purpose {
            Some(Purpose::Drive(part)) => self.drive_answered(part, response, now),
            Some(Purpose::Relay(relay)) => self.relay_answered(*relay, response, now),
            Some(Purpose::Roots) => self.roots_answered(response, now),
            // to nothing, too late, or a second time
            None => self.outbox.count("client-answer", now),
        }
    }

    /// The client answers something that cannot be read.
    pub(super) fn client_mumbles(&mut self, id: Option<&str>, now: &Now) {
        let number = id.and_then(number_of);
        if let Some(purpose) = number.and_then(|number| self.questions.take_sent(number)) {
            let why = "the client's answer cannot be read";
            self.question_failed(purpose, End::Error(-32603), why, now);
        }
    }

    /// Takes a question back; the client is told where it was asked already.
    pub(super) fn withdraw_question(&mut self, number: u64) -> Option<Purpose> {
        let question = self.questions.open.remove(&number)?;
        if question.line.is_none() {
            let params = format!("{{\"requestId\":{}}}", token(number));
            let line = msg::notification_line("notifications/cancelled", Some(&params));
            self.outbox.send_client(line);
        }
        Some(question.purpose)
    }

    /// A question gets no answer that can be used.
    fn question_failed(&mut self, purpose: Purpose, end: End, why: &str, now: &Now) {
        match purpose {
            Purpose::Drive(part) => self.drive_failed(part, end, why, now),
            Purpose::Relay(relay) => self.relay_failed(*relay, end, why, now),
            Purpose::Roots => self.roots_failed(why, now),
        }
    }

    /// Ends all of them, without an answer.
    pub(super) fn end_questions(&mut self, why: &str, now: &Now) {
        for number in self.questions.select(|_| true) {
            if let Some(purpose) = self.withdraw_question(number) {
                self.question_failed(purpose, End::NotSent, why, now);
            }
        }
    }

    /// Ends what was not answered in time.
    pub(super) fn questions_wake(&mut self, now: &Now) {
        let open = self.questions.open.iter();
        let due: Vec<u64> = open
            .filter(|(_, question)| question.until_us <= now.mono_us)
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            if let Some(purpose) = self.withdraw_question(number) {
                let why = "the client did not answer in time";
                self.question_failed(purpose, End::Timeout, why, now);
            }
        }
    }

    /// The snapshot moved: questions of servers that the caller may not use any more are taken
    /// back, and all of them where somebody else calls now.
    pub(super) fn questions_follow(&mut self, now: &Now) {
        if !self.questions.is_empty() {
            self.relays_follow(now);
        }
        self.drives_follow(now);
    }

    /// The client says how far it is with a question: its server gets the numbers, in words of ours.
    pub(super) fn client_progress(&mut self, notification: &Notification<'_>, now: &Now) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let token = params.and_then(|params| params.get("progressToken"));
        let number = token.and_then(|token| token.parse::<u64>().ok());
        let question = number.and_then(|number| self.questions.open.get_mut(&number));
        let Some(Question {
            purpose: Purpose::Relay(relay),
            line: None,
            news,
            ..
        }) = question
        else {
            return self.outbox.count("stray-progress", now);
        };
        let progress = relay.progress.as_deref().zip(params);
        let progress = progress.and_then(|(own, params)| Progress::read(own, params));
        let Some(progress) = progress else {
            return self.outbox.count("stray-progress", now);
        };
        if *news == 0 || notification.line.len() > limits::NEWS_BYTES {
            return self.outbox.count("progress-limit", now);
        }
        *news -= 1;
        let to = relay.to.clone();
        self.tell_progress(&to, progress, now);
    }
}
