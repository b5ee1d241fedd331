//! What an upstream says, and which log messages it is to say.

use std::sync::Arc;

use crate::audit::entry::Body as Record;
use crate::audit::entry::End;
use crate::clock::{Entropy, Now};
use crate::ids::LinkId;
use crate::inspect::{self, Finding};
use crate::limits;
use crate::policy::allows;
use crate::secret::Content;
use crate::session::call::{Key, Origin, Outcome, Stage};
use crate::session::link::{Answer, LinkInput, LinkState};
use crate::session::outbox::{Housekeeping, Level, Upstream};
use crate::session::{LineFault, Loss, Machine, Place, Reach};
use crate::text;
use crate::wire::era::Era;
use crate::wire::msg::{Fault, Id, Kind, Message, Notification, Rejected};
use crate::wire::raw::{self, Change, Object, RawError};

impl Machine {
    /// A server did not take an answer to a question of its own. Its call goes on: only the server
    /// knows what it makes of that.
    pub(in crate::session) fn link_unheard(&mut self, id: LinkId, loss: &Loss, now: &Now) {
        if let Some(server) = self.server_of(id) {
            if self.refuses_once_more(id) {
                let server = self.server_context(&server, now);
                let record = Record::Link {
                    server,
                    code: "unheard",
                    detail: format!("an answer to a question of its own: it {}", loss.reason),
                };
                self.outbox.append(record, now);
            } else {
                self.outbox.count("unheard", now);
            }
        }
        self.link_input(id, LinkInput::Strained(loss), now);
    }

    /// A live credential was taken out of the link's next line: the record says so.
    pub(in crate::session) fn redacted(&mut self, id: LinkId, times: u64, now: &Now) {
        let Some(server) = self
            .links
            .seen(id)
            .map(|slot| Arc::clone(slot.link.server()))
        else {
            return;
        };
        let server = self.server_context(&server, now);
        let record = Record::Link {
            server,
            code: "redacted",
            detail: format!("its next message held a live credential, {times} times"),
        };
        self.outbox.append(record, now);
    }

    /// The client set a level: servers of the handshake era are told.
    pub(in crate::session) fn links_level(&mut self, level: Level) {
        for id in self.links.ids() {
            self.tell_level(id, level);
        }
    }

    /// A request asks for log messages: a server of the handshake era is told the level, unless
    /// it knows one that gives at least as many.
    pub(in crate::session) fn wants_level(&mut self, id: LinkId, level: Option<Level>) {
        let known = self.links.seen(id).and_then(|slot| slot.level);
        if let Some(level) = level
            && known.is_none_or(|known| known > level)
        {
            self.tell_level(id, level);
        }
    }

    pub(super) fn tell_level(&mut self, id: LinkId, level: Level) {
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        let logs = || {
            let capabilities = slot.link.live()?.capabilities.as_ref()?;
            Object::parse(capabilities.get()).ok()?.get("logging")
        };
        let ready = matches!(slot.era, Some(Era::Handshake(_)))
            && matches!(slot.link.state(), LinkState::Ready(_));
        if !ready || slot.level == Some(level) || logs().is_none() {
            return;
        }
        slot.level = Some(level);
        if let Some(chore) = self.links.chore(id) {
            let line = Upstream::Housekeeping(Housekeeping::SetLevel(chore, level));
            self.outbox.send_link(id, line);
        }
    }

    pub(in crate::session) fn link_line(
        &mut self,
        id: LinkId,
        place: Place,
        line: &[u8],
        now: &Now,
        entropy: &mut dyn Entropy,
    ) {
        let during = place.during();
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        slot.link.heard();
        match Message::parse(line) {
            Ok(Message::Response(response)) => {
                let Some(number) = response.id.and_then(|id| id.number()) else {
                    let token = response.id.as_ref().map_or("null", |id| id.raw());
                    self.link_input(id, LinkInput::Stray(token), now);
                    return self.outbox.count("stray-answer", now);
                };
                let owned = self.links.slot(id).is_some_and(|slot| {
                    if let Some(at) = slot.chores.iter().position(|chore| *chore == number) {
                        slot.chores.swap_remove(at);
                        return true;
                    }
                    slot.link.owns(number)
                });
                if !owned {
                    return self.answered(id, number, &response, now, entropy);
                }
                let answer = Answer::of(&response.body);
                self.link_input(id, LinkInput::Answer { id: number, answer }, now);
            }
            Ok(Message::Notification(notification)) => {
                self.link_notification(id, during, &notification, now);
            }
            Ok(Message::Request(request)) if request.method == "ping" => {
                self.link_input(id, LinkInput::Ping(request.id.raw()), now);
            }
            Ok(Message::Request(request)) => {
                self.upstream_asks(id, during, &request, now);
            }
            Err(rejected) => self.link_rejected(id, place, line, &rejected, now),
        }
    }

    /// A line of an upstream's that is no message. Where it was to be an answer, its call ends.
    fn link_rejected(
        &mut self,
        id: LinkId,
        place: Place,
        line: &[u8],
        rejected: &Rejected,
        now: &Now,
    ) {
        self.outbox.count("upstream-line", now);
        let id_of_answer = rejected
            .id
            .as_deref()
            .filter(|_| rejected.kind != Kind::Request);
        let number = id_of_answer.and_then(|id| Id::parse(id).ok()?.number());
        let call = number.map(|number| Key {
            link: id,
            id: number,
        });
        if let Some(number) = number
            && self
                .links
                .slot(id)
                .is_some_and(|slot| slot.link.owns(number))
        {
            // what the link asked for itself will not be answered either
            let loss = Loss {
                reach: Reach::Unknown,
                reason: format!("gave an unusable answer: {}", rejected.fault),
                pause_ms: None,
                broken: true,
            };
            let lost = LinkInput::Lost {
                id: number,
                loss: &loss,
            };
            self.link_input(id, lost, now);
        }
        let mut call = call;
        let unreadable = matches!(
            rejected.fault,
            Fault::Raw(RawError::Depth) | Fault::Utf8 { .. }
        );
        if unreadable && is_spoilt_answer(line) {
            // nobody can read to what: while it is opened, or one call is in flight where it came,
            // it is known
            let reason = format!("gave an unusable answer: {}", rejected.fault);
            self.link_input(id, LinkInput::Spoilt(&reason), now);
            let named = number.is_some() && place.during().is_none();
            if let (false, [only]) = (named, &self.asked_on(id, place)[..]) {
                call = Some(*only);
            }
        }
        let sent = call.and_then(|call| self.calls.get(call));
        let sent = sent.is_some_and(|call| matches!(call.stage, Stage::Sent));
        if let (Kind::Response | Kind::Unknown, Some(call), true) = (rejected.kind, call, sent) {
            let (key, _) = self.links.describe(id);
            let text = format!(
                "server {key} gave an unusable answer: {}; whether the call took effect is not \
                 known",
                rejected.fault
            );
            let outcome = Outcome {
                end: End::Unknown,
                content: Content(bytes::Bytes::copy_from_slice(line)),
            };
            self.fail(call, outcome, &text, now);
        }
        self.link_input(id, LinkInput::Fault(None), now);
    }

    /// The calls that a link's server has not answered, and could answer here.
    fn asked_on(&self, id: LinkId, place: Place) -> Vec<Key> {
        let here = |key: &Key| match place {
            Place::Answer(request) => key.id == request,
            Place::News => false,
            Place::Only => true,
        };
        self.calls.select(|key, call| {
            key.link == id
                && here(key)
                && matches!(call.stage, Stage::Sent)
                && !matches!(call.origin, Origin::Standing)
        })
    }

    /// Bytes of an upstream's that are no line. Where answers come they were one: of the call that
    /// its transport names, else of the only one that waits.
    pub(in crate::session) fn link_fault(
        &mut self,
        id: LinkId,
        place: Place,
        fault: LineFault,
        now: &Now,
    ) {
        self.outbox.count("upstream-line", now);
        let asked = self.asked_on(id, place);
        if let (LineFault::TooLong { bytes }, [call]) = (fault, &asked[..]) {
            let call = *call;
            let (key, _) = self.links.describe(id);
            let text = format!(
                "the answer of server {key} has {bytes} bytes, more than {}; whether the call took \
                 effect is not known; ask for less",
                limits::LINE_BYTES
            );
            self.fail(call, Outcome::bare(End::Unknown), &text, now);
        }
        self.link_input(id, LinkInput::Fault(Some(fault)), now);
    }

    fn link_notification(
        &mut self,
        id: LinkId,
        during: Option<u64>,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        match notification.method.as_ref() {
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => {
                self.link_input(id, LinkInput::Changed, now);
            }
            "notifications/message"
            | "notifications/progress"
            | "notifications/resources/updated"
            | "notifications/tasks"
                if inspect::notification(notification) != Finding::Clear =>
            {
                self.outbox.count("long-notification", now);
            }
            "notifications/progress" => self.progress(id, notification, now),
            "notifications/message" => self.log_message(id, during, notification, now),
            "notifications/resources/updated" => self.resource_updated(id, notification, now),
            "notifications/tasks" => self.task_told(id, notification, now),
            "notifications/subscriptions/acknowledged" => self.acknowledged(id, notification, now),
            // of a listen of ours (MCP 2026-07-28, cancellation), or of a question of its own
            "notifications/cancelled" => match self.links.era(id) {
                Some(Era::Stateless) => self.listen_withdrawn(id, notification, now),
                Some(Era::Handshake(_)) | None => self.upstream_cancels(id, notification, now),
            },
            "notifications/elicitation/complete" => {
                self.elicitation_complete(id, notification, now);
            }
            _ => self.outbox.count("unknown-upstream-notification", now),
        }
    }

    fn progress(&mut self, id: LinkId, notification: &Notification<'_>, now: &Now) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let token = params.and_then(|params| params.get("progressToken"));
        let number = token.and_then(|token| token.parse().ok());
        let call = number.and_then(|number| {
            self.calls.get(Key {
                link: id,
                id: number,
            })
        });
        // a grant taken back ends the news of its calls too
        let call = call.filter(|call| allows(&self.snapshot, &call.access, now));
        let Some(call) = call else {
            return self.outbox.count("stray-progress", now);
        };
        if let (
            Stage::Sent,
            Origin::Client {
                progress: Some(own),
                ..
            },
            Some(span),
        ) = (
            &call.stage,
            &call.origin,
            params.and_then(|params| params.value_span("progressToken")),
        ) {
            self.edits.clear();
            self.edits.replace(span, own);
            let mut line = Vec::with_capacity(notification.line.len() + 64);
            self.edits.apply(notification.line, &mut line);
            line.push(b'\n');
            self.outbox.send_client(line);
        }
    }

    /// Passes a log message on where the client asked for it: a handshake client by
    /// `logging/setLevel` or by default, a stateless one by a request in flight at this server: the
    /// one on whose answer's stream the message came, where the transport knows.
    ///
    /// Only a server that was compared with its pin and that the caller may use now is heard, and
    /// its key stands before the name of its logger.
    fn log_message(
        &mut self,
        id: LinkId,
        during: Option<u64>,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        let server = self.links.seen(id).and_then(|slot| {
            let approved = slot.link.is_approved();
            approved.then(|| Arc::clone(slot.link.server()))
        });
        let server = server.filter(|server| self.snapshot.uses(&server.key, now));
        let params = notification.params.as_ref().map(|params| &params.object);
        let (Some(server), Some(params)) = (server, params) else {
            return self.outbox.count("stray-log", now);
        };
        let level = params.get("level");
        let level = level.and_then(Level::parse).unwrap_or(Level::Info);
        let wanted = match self.front.era() {
            None => false,
            Some(Era::Handshake(_)) => self.front.level.is_none_or(|least| level >= least),
            Some(Era::Stateless) => {
                let asked = self.calls.select(|key, call| {
                    key.link == id
                        && during.is_none_or(|during| during == key.id)
                        && matches!(call.stage, Stage::Sent)
                        && call.level.is_some_and(|least| level >= least)
                });
                !asked.is_empty()
            }
        };
        // a key that reads as our own name would speak as mcpshim
        let Some(logger) = logger(server.key.as_str(), params).filter(|_| wanted) else {
            return;
        };
        let named = params.get("logger").is_some();
        let append = [("logger", logger.as_str())];
        let append = if named { &[][..] } else { &append[..] };
        let change = |key: &str| match key {
            "logger" => Change::Value(&logger),
            // what Go and C# read as the same member
            key if key.eq_ignore_ascii_case("logger") => Change::Remove,
            _ => Change::Keep,
        };
        self.edits.clear();
        self.edits.object(params, change, append);
        let mut line = Vec::with_capacity(notification.line.len() + 64);
        self.edits.apply(notification.line, &mut line);
        line.push(b'\n');
        self.outbox.send_client(line);
    }

    /// Whether one more question of this link's transport is answered.
    pub(in crate::session) fn asks_once_more(&mut self, id: LinkId) -> bool {
        let slot = self.links.slot(id);
        slot.is_some_and(|slot| {
            let [answered, _] = &mut slot.asks;
            *answered = answered.saturating_add(1);
            *answered <= limits::ASKS
        })
    }

    /// Whether one more refused question of this link's transport is recorded by itself.
    pub(in crate::session) fn refuses_once_more(&mut self, id: LinkId) -> bool {
        let slot = self.links.slot(id);
        slot.is_some_and(|slot| {
            let [_, refused] = &mut slot.asks;
            *refused = refused.saturating_add(1);
            *refused <= limits::ASKS_REFUSED
        })
    }
}

/// The name of a server's logger for the client, as JSON: `KEY`, or `KEY/NAME`. No server has the
/// key under which mcpshim speaks itself.
fn logger(key: &str, params: &Object<'_>) -> Option<String> {
    if key.eq_ignore_ascii_case("mcpshim") {
        return None;
    }
    let name = params.text("logger").unwrap_or_default();
    let name = text::short(name.trim(), limits::LOGGER_CHARS);
    Some(match name.is_empty() {
        true => raw::quoted(key),
        false => raw::quoted(&format!("{key}/{name}")),
    })
}

/// Whether a line that cannot be read was to be an answer, and no text that a server prints.
fn is_spoilt_answer(line: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(line, word).is_some();
    line.starts_with(b"{")
        && has(b"\"jsonrpc\"")
        && (has(b"\"result\"") || has(b"\"error\""))
        && !has(b"\"method\"")
}
