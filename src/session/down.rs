//! The way down: what becomes of a call that was sent.
//!
//! An answer is inspected, edited for its client and held until its outcome is recorded. Nothing
//! else ends a call than [`Machine::settle`] and, before it is sent, [`super::gate`].

use std::ops::Range;

use bytes::Bytes;

use super::call::{Execution, Key, Method, Origin, Outcome, Stage};
use super::link::{self, LinkInput};
use super::outbox::{Held, Housekeeping, Upstream};
use super::refusal::failed;
use super::road::copied;
use super::shown::{self, Texts};
use super::tasks::{self, Tasked};
use super::{Machine, ask, question};
use crate::audit::entry::End;
use crate::catalog::alias;
use crate::clock::{Entropy, Now};
use crate::ids::LinkId;
use crate::inspect::{self, Finding};
use crate::limits;
use crate::secret::Content;
use crate::wire::era::{self, Can, Era, ErrorAs, Untranslatable};
use crate::wire::msg::{self, Body, Response};
use crate::wire::raw::{self, Change, Object};

/// What the client gets for an answer.
enum Reply<'a> {
    /// The upstream failed after it had asked what the client's request does not declare: that,
    /// and what the upstream says.
    Undeclared(Can, String),
    /// A failure with this text, and the error's own data where no tool result says it.
    Failure(String, Option<&'a str>),
    /// The upstream's line with the edits made.
    Edited,
    /// A failure with this text.
    Text(String),
}

impl Machine {
    /// Takes an upstream's answer to a call.
    pub(super) fn answered(
        &mut self,
        link: LinkId,
        id: u64,
        response: &Response<'_>,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) {
        let key = Key { link, id };
        let call = self.calls.get(key);
        // of one that is held the request is not even sent
        let Some(call) = call.filter(|call| !matches!(call.stage, Stage::Held(_))) else {
            // to a call that was cancelled or timed out, a second time, or to nothing
            let late = call.is_none() && self.links.gave(link, id);
            let token = response.id.as_ref().map_or("null", |id| id.raw());
            self.link_input(link, LinkInput::Stray(token), now);
            let code = if late { "late-answer" } else { "stray-answer" };
            return self.outbox.count(code, now);
        };
        let Some(from) = self.links.era(link) else {
            return;
        };
        let (method, to, can, lacked) = (call.method, call.era, call.can, call.lacked);
        // servers say in many ways that they lost a session, as an answer to the call too
        let of_session = match &response.body {
            Body::Error { message, .. } => message.to_ascii_lowercase().contains("session"),
            Body::Result(_) => false,
        };
        let doubted = of_session && self.links.doubts(link, now);
        self.links.served(link, !of_session);
        let (end, span) = match &response.body {
            Body::Error { code, object, .. } => (End::Error(*code), object.span()),
            Body::Result(result) => {
                let failed = method == Method::Tool && result.get("isError") == Some("true");
                (if failed { End::ToolError } else { End::Ok }, result.span())
            }
        };
        let client: Box<str> = match &call.origin {
            Origin::Client { id, .. } => id.clone(),
            Origin::Listen | Origin::Standing => {
                let content = Content(copied(response.line, &span));
                return self.listen_answered(key, end, content, now);
            }
            // kept for its retry, which puts its own
            Origin::Parked => "0".into(),
        };
        if let (Body::Result(result), Era::Handshake(_)) = (&response.body, to)
            && era::asks_input(result, from)
        {
            return self.drive(key, response, result, now, entropy);
        }
        // its memory serves for the answer
        self.calls.want_no_more(key);
        let mut end = end;
        let mut passed = Ok(Vec::new());
        match (&response.body, to, from) {
            (Body::Result(result), Era::Stateless, _) if era::asks_input(result, from) => {
                end = End::Input;
                passed = self.passes(link, can, method, response.line, result, now);
            }
            // SEP-2663: a task that waits for input says so in its own members, its first answer too
            (Body::Result(result), Era::Stateless, Era::Stateless)
                if (method == Method::Task || era::is_task(result))
                    && result.get("inputRequests").is_some() =>
            {
                passed = self.passes(link, can, method, response.line, result, now);
            }
            (Body::Error { code, object, .. }, Era::Stateless, Era::Handshake(_))
                if *code == era::URL_REQUIRED =>
            {
                if self.park_for_address(key, response, object, now, entropy) {
                    return;
                }
            }
            (Body::Error { .. } | Body::Result(_), Era::Handshake(_) | Era::Stateless, _) => {}
        }
        let tasked = match &response.body {
            Body::Result(result) => self.task_in(key, result),
            Body::Error { .. } => Tasked::No,
        };
        let to_address = match (&response.body, to) {
            (Body::Error { code, object, .. }, Era::Handshake(_)) if *code == era::URL_REQUIRED => {
                Some(self.elicits_in_error(link, object, from))
            }
            (Body::Error { .. } | Body::Result(_), _) => None,
        };
        let renamed = match &response.body {
            Body::Result(task) if method == Method::Task => {
                self.renamed_in_task(link, task, response.line)
            }
            Body::Result(result) => self.renamed_uris(link, result, response.line),
            Body::Error { .. } => Vec::new(),
        };
        let wraps = self.wraps(key, from, to);
        let edits = &mut self.edits;
        edits.clear();
        edits.replace(response.id_span(), &client);
        if let Some(void) = response.void {
            let change = |key: &str| match key == void {
                true => Change::Remove,
                false => Change::Keep,
            };
            edits.object(&response.envelope, change, &[]);
        }
        for (place, uri) in renamed {
            edits.replace(place, &uri);
        }
        let reply = match &response.body {
            Body::Result(result) => {
                let info = self.links.server_info(link);
                for (at, label) in passed.iter().flatten() {
                    edits.replace(at.clone(), label);
                }
                let done = era::result(edits, result, from, to, method.cacheable(), info, wraps);
                let done = passed.map_err(Untranslatable::Wanted).and(done);
                match (done, &tasked) {
                    (Err(Untranslatable::Wanted(why)), _) => Reply::Text(why),
                    (Err(Untranslatable::Type(kind)), Tasked::Named(span, label))
                        if kind == "task" =>
                    {
                        edits.replace(span.clone(), &raw::quoted(label));
                        Reply::Edited
                    }
                    (Ok(()), Tasked::Named(span, label)) => {
                        edits.replace(span.clone(), &raw::quoted(label));
                        Reply::Edited
                    }
                    (Ok(()), Tasked::No) => Reply::Edited,
                    (Err(wrong), _) => {
                        Reply::Text(format!("the server's answer was dropped: {wrong}"))
                    }
                }
            }
            Body::Error {
                code,
                message,
                object,
            } => match era::error(*code, message, object.get("data"), from, to) {
                ErrorAs::Code(mapped) => {
                    if let Some(labels) = to_address {
                        for (at, label) in labels.iter().flatten() {
                            edits.replace(at.clone(), label);
                        }
                        // the client cannot open it, or the organisation does not let it be asked
                        match labels {
                            Some(_) => Reply::Edited,
                            None => Reply::Text(era::open_first(message, object.get("data"))),
                        }
                    } else {
                        if mapped != *code
                            && let Some(span) = object.value_span("code")
                        {
                            edits.replace(span, &mapped.to_string());
                        }
                        Reply::Edited
                    }
                }
                ErrorAs::Text(text) => Reply::Text(text),
                ErrorAs::Lacks(text) => Reply::Failure(text, object.get("data")),
            },
        };
        // MCP 2026-07-28, error codes: a request that needs what it does not declare
        let failed_so = matches!(end, End::ToolError | End::Error(_)) && lacked != Can::default();
        let reply = match reply {
            Reply::Edited if failed_so && to == Era::Stateless => {
                Reply::Undeclared(lacked, why_failed(&response.body))
            }
            Reply::Edited | Reply::Failure(..) | Reply::Text(_) | Reply::Undeclared(..) => reply,
        };
        let mut edited = match &reply {
            Reply::Edited => {
                let mut line = Vec::with_capacity(response.line.len() + 64);
                edits.apply(response.line, &mut line);
                line
            }
            Reply::Failure(..) | Reply::Text(_) | Reply::Undeclared(..) => Vec::new(),
        };
        // most edits add a few bytes, what is said as text too may double it
        let reply = match inspect::response(&edited) {
            Finding::Clear => reply,
            Finding::Stop(why) => Reply::Text(why),
        };
        let (line, content) = match reply {
            Reply::Edited => {
                edited.push(b'\n');
                let line = Bytes::from(edited);
                let content = match edits.moved(&span) {
                    Some(span) => line.slice(span),
                    None => copied(response.line, &span),
                };
                (line, content)
            }
            Reply::Failure(text, data) => (
                failed(&client, to, method == Method::Tool, &text, data).into(),
                copied(response.line, &span),
            ),
            Reply::Text(text) => (
                failed(&client, to, method == Method::Tool, &text, None).into(),
                copied(response.line, &span),
            ),
            Reply::Undeclared(lacked, why) => (
                undeclared(&client, lacked, &why).into(),
                copied(response.line, &span),
            ),
        };
        let content = match &tasked {
            Tasked::Named(id, label) => tasks::sealed(response.line, &span, id, label),
            Tasked::No => content,
        };
        self.subscribed(key, end, now);
        let outcome = Outcome {
            end,
            content: Content(content),
        };
        self.settle(key, outcome, Some(line), now);
        if doubted {
            self.session_doubted(link, now);
        }
        if end == End::Error(-32020) {
            // MCP 2026-07-28, header mismatch: its definitions may be others by now
            self.link_input(link, LinkInput::Changed, now);
        }
    }

    /// Whether the client has results of a call's tool in another form, as its schema.
    fn wraps(&self, key: Key, from: Era, to: Era) -> bool {
        let between = matches!((from, to), (Era::Stateless, Era::Handshake(_)));
        let access = self.calls.get(key).map(|call| &call.access);
        between && access.is_some_and(|access| self.snapshot.catalog().wraps(access))
    }

    /// A server wants a person to open an address before a call (2025-11-25, error -32042): where
    /// its questions begin in the line, and who says it asks. `None` where the client cannot be
    /// asked that, or not by this server.
    fn elicits_in_error(&mut self, link: LinkId, error: &Object<'_>, from: Era) -> Option<Texts> {
        let server = self.server_of(link)?;
        let may = link::allowed(&server)
            .and(self.front.can)
            .covers(era::Asked::Url);
        if !may || !matches!(from, Era::Handshake(_)) {
            return None;
        }
        let data = error.object("data").ok()??;
        let list = data.value_span("elicitations")?;
        let asked = raw::elements(data.get("elicitations")?).ok()?;
        if asked.is_empty() || asked.len() > limits::INPUT_REQUESTS {
            return None;
        }
        let base = data.get("elicitations")?;
        let mut labels = Vec::new();
        let mut ids = Vec::new();
        for one in asked {
            let at = list.start + raw::place(base, one)?.start;
            let one = Object::parse(one).ok()?;
            let text = |key: &str| one.text(key);
            if ask::is_ambiguous(&one) || !text("url").is_some_and(|url| question::is_web(&url)) {
                return None;
            }
            // of a text of its own, so places count from its start
            for (place, text) in shown::texts(&one, era::Asked::Url, server.key.as_str())? {
                labels.push((at + place.start..at + place.end, text));
            }
            ids.push(text("elicitationId")?.into_owned());
        }
        for id in ids.iter().filter(|id| id.len() <= limits::ID_BYTES) {
            self.links.elicits(link, id);
        }
        Some(labels)
    }

    /// URIs in a result that the client knows by another name, and those names as JSON tokens.
    pub(super) fn renamed_uris(
        &self,
        link: LinkId,
        result: &Object<'_>,
        line: &str,
    ) -> Vec<(Range<usize>, String)> {
        let catalog = self.snapshot.catalog();
        let server = self.server_of(link);
        let Some(server) = server.filter(|server| catalog.shows_others(&server.key)) else {
            return Vec::new();
        };
        let places = alias::places(result, line).into_iter();
        let shown = |(place, uri): (Range<usize>, String)| {
            let shown = catalog.shown_uri(&server.key, &uri)?;
            Some((place, raw::quoted(&shown)))
        };
        places.filter_map(shown).collect()
    }

    /// Closes a call, records its outcome and holds the client's answer until that is done.
    /// Gives the entry.
    pub(super) fn settle(
        &mut self,
        key: Key,
        outcome: Outcome,
        line: Option<Bytes>,
        now: &Now,
    ) -> Option<super::Ticket> {
        let end = outcome.end;
        let listened = self.listened(key);
        let closed = self.calls.close(key, outcome, now)?;
        let instead = closed.instead();
        let fail_mode = closed.fail_mode;
        self.unmake(&closed);
        self.tasks.over(key);
        let stood = matches!(closed.origin, Origin::Standing);
        let parked = matches!(closed.origin, Origin::Parked);
        let recorded = self.outbox.append(closed.body, now);
        self.call_ended(key, end, now);
        self.park_over(key, parked, line.as_ref(), (recorded, fail_mode), now);
        if let (Some(line), Some(instead)) = (line, instead) {
            let answer = Held::Answer {
                line,
                fail_mode,
                instead,
            };
            self.outbox.hold_for(recorded..=recorded, answer);
        }
        if stood {
            self.links.released(key.link, now);
        } else {
            self.links.closed(key.link, now);
        }
        if let Some(uri) = listened {
            self.listen_settled(&uri, end, now);
        }
        self.pump(key.link, now);
        self.next_in_line(key.link, now);
        Some(recorded)
    }

    /// Closes a call that got no answer, and tells the client why.
    pub(super) fn fail(&mut self, key: Key, outcome: Outcome, text: &str, now: &Now) {
        let Some(call) = self.calls.get(key) else {
            return;
        };
        let line = match &call.origin {
            Origin::Client { id, .. } => {
                let tool = call.method == Method::Tool;
                Some(failed(id, call.era, tool, text, None).into())
            }
            Origin::Parked => {
                let tool = call.method == Method::Tool;
                Some(failed("0", call.era, tool, text, None).into())
            }
            Origin::Listen | Origin::Standing => None,
        };
        self.settle(key, outcome, line, now);
    }

    /// The client takes a call back: nothing more is said of it.
    pub(super) fn cancel(&mut self, key: Key, now: &Now) {
        self.withdraw(key, End::Cancelled, now);
    }

    /// The session ends with the call in flight.
    pub(super) fn abandon(&mut self, key: Key, now: &Now) {
        self.withdraw(key, End::Unknown, now);
    }

    /// Takes a call back from its upstream: nobody is told.
    pub(super) fn withdraw(&mut self, key: Key, sent: End, now: &Now) {
        let end = match self.calls.get(key).map(|call| &call.stage) {
            Some(Stage::Sent) => {
                let cancel = Upstream::Housekeeping(Housekeeping::Cancel(key.id));
                self.outbox.send_link(key.link, cancel);
                sent
            }
            Some(Stage::Held(_)) => End::NotSent,
            None => return,
        };
        self.settle(key, Outcome::bare(end), None, now);
    }

    /// Fails the calls that took longer than their server entry allows.
    pub(super) fn time_out(&mut self, now: &Now) {
        for key in self.calls.overdue(now) {
            let sent = self
                .calls
                .get(key)
                .map(|call| matches!(call.stage, Stage::Sent));
            let (key_text, limit_s) = self.links.describe(key.link);
            if sent == Some(true) {
                let stray = self.links.stray_since(key, now);
                let text = format!(
                    "server {key_text} gave no answer within {limit_s} s{stray}; whether the call \
                     took effect is not known"
                );
                let cancel = Upstream::Housekeeping(Housekeeping::Cancel(key.id));
                self.outbox.send_link(key.link, cancel);
                // one that asked a person something may have waited for them
                let waited = self.calls.get(key).is_some_and(Execution::asked);
                self.fail(key, Outcome::bare(End::Timeout), &text, now);
                if !waited {
                    let reason = format!("gave no answer within {limit_s} s{stray}");
                    self.link_input(key.link, LinkInput::Overdue(&reason), now);
                }
            } else {
                let text = match self.calls.went_before(key) {
                    true => format!(
                        "server {key_text} gave no answer within {limit_s} s; whether the call \
                         took effect is not known"
                    ),
                    false => format!("server {key_text} was not sent the call within {limit_s} s"),
                };
                self.fail(key, Outcome::bare(End::NotSent), &text, now);
            }
        }
    }
}

/// What a failed call's upstream says in words.
fn why_failed(body: &Body<'_>) -> String {
    match body {
        Body::Error { message, .. } => message.to_string(),
        Body::Result(result) => {
            let blocks = result.get("content").map(raw::elements);
            let blocks = blocks.and_then(Result::ok).unwrap_or_default();
            let text = |block: &str| Some(Object::parse(block).ok()?.text("text")?.into_owned());
            let texts: Vec<String> = blocks.into_iter().filter_map(text).collect();
            texts.join("\n")
        }
    }
}

/// The error of the stateless era for a request that needs what it does not declare.
fn undeclared(id: &str, lacked: Can, why: &str) -> Vec<u8> {
    let names = Can::default().lacking(lacked).join(", ");
    let text = format!("the server asked for {names}, which this request does not declare: {why}");
    let required = lacked.declared(Era::Stateless, era::APPS);
    let data = format!("{{\"requiredCapabilities\":{required}}}");
    msg::error_line(id, era::LACKS_CAPABILITY, &text, Some(&data))
}
