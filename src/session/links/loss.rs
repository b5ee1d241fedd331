//! What a lost link costs: its calls end with what is known of them, what is watched is asked for
//! again.

use crate::audit::entry::End;
use crate::clock::Now;
use crate::ids::LinkId;
use crate::limits;
use crate::policy::{Denial, DenialCode};
use crate::session::call::{Key, Origin, Outcome, Stage};
use crate::session::link::{LinkFailure, LinkInput, LinkState};
use crate::session::road::Fate;
use crate::session::{Loss, Machine, Reach};

impl Machine {
    /// A link's transport was not started, because of something on this side.
    pub(in crate::session) fn link_refused(&mut self, id: LinkId, reason: &str, now: &Now) {
        self.link_input(id, LinkInput::Refused(reason), now);
        // a person has to mend it, so there is no back-off that would grow
        self.watch_later(id, now.mono_us + limits::LINK_BACKOFF_MS.1 * 1000);
    }

    /// Resources of a link that is down are watched: it is started again at this time, or when
    /// its back-off is over.
    fn watch_later(&mut self, id: LinkId, at_us: u64) {
        let watched = self.watches(id);
        let Some(slot) = self.links.slot(id).filter(|_| watched) else {
            return;
        };
        if let LinkState::Closed { not_before_us } = slot.link.state() {
            slot.rewatch_at_us = Some(at_us.max(not_before_us));
        }
    }

    /// Whether a resource of this link's server is watched, as the catalog routes it now.
    fn watches(&self, id: LinkId) -> bool {
        let slot = self.links.seen(id).filter(|slot| !slot.retired);
        slot.is_some_and(|slot| self.is_watched(&slot.link.server().key))
    }

    /// One request of a link will not be answered; one that was already is not concerned.
    pub(in crate::session) fn exchange_lost(
        &mut self,
        id: LinkId,
        number: u64,
        loss: &Loss,
        now: &Now,
    ) {
        let key = Key {
            link: id,
            id: number,
        };
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        slot.chores.retain(|chore| *chore != number);
        if slot.link.owns(number) {
            return self.link_input(id, LinkInput::Lost { id: number, loss }, now);
        }
        let Some(call) = self.calls.get(key) else {
            // a pause may be asked for beside an answer
            if loss.pause_ms.is_some() {
                self.link_input(id, LinkInput::Strained(loss), now);
            }
            return;
        };
        let stood = matches!(call.origin, Origin::Standing);
        let (server, _) = self.links.describe(id);
        let reason = &loss.reason;
        let (end, text) = match loss.reach {
            Reach::NotSent => (End::NotSent, format!("server {server} {reason}")),
            Reach::Refused(status) => (
                End::Error(i64::from(status)),
                format!("server {server} {reason}"),
            ),
            Reach::Unknown => (
                End::Unknown,
                format!("server {server} {reason}; whether the call took effect is not known"),
            ),
        };
        self.fail(key, Outcome::bare(end), &text, now);
        if stood {
            // what is watched is subscribed to again once the link is ready again
            self.links.listen_again(id, now);
        }
        self.link_input(id, LinkInput::Strained(loss), now);
    }

    pub(super) fn link_failed(&mut self, id: LinkId, failure: &LinkFailure, now: &Now) {
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        let server = slot.link.server();
        let (code, sentence) = match failure {
            LinkFailure::Down(phrase) => (
                DenialCode::Unavailable,
                format!("server {} {phrase}; ask {}", server.key, server.oncall),
            ),
            LinkFailure::Drift(difference) => (
                DenialCode::Drift,
                format!(
                    "server {} is not the one that was approved: {difference}; ask {}",
                    server.key, server.owner
                ),
            ),
        };
        slot.trouble = Some(sentence.clone());
        slot.waiting_bytes = 0;
        let waiting = std::mem::take(&mut slot.waiting);
        slot.resting.clear();
        // one that is not what was approved any more gets nothing, even if it was decided before
        let drifted = matches!(failure, LinkFailure::Drift(_));
        if slot.forgotten.take().is_some() || drifted {
            self.fail_held(id, &sentence, now);
        }
        let until = drifted.then_some("the server is approved again");
        let denial = Denial::new(code, sentence).until(until);
        for one in waiting {
            self.resume(one, Fate::Refused(id, &denial), now);
        }
        if let Some(slot) = self.links.slot(id) {
            slot.busy(now);
        }
        match failure {
            LinkFailure::Down(_) => self.watch_later(id, now.mono_us),
            // it stays another server until the registry moves
            LinkFailure::Drift(_) => {}
        }
    }

    /// A link's transport is gone: its calls end here.
    pub(super) fn link_lost(&mut self, id: LinkId, reason: &str, now: &Now) {
        if let Some(slot) = self.links.slot(id) {
            slot.chores.clear();
            // what still waits to be said on it is said to nobody
            slot.transport = slot.transport.wrapping_add(1);
        }
        let (key, _) = self.links.describe(id);
        self.forget_asks(Some(id), now);
        self.forget_drives(id, reason, now);
        for _ in 0..self.listens.lose(id) {
            self.links.released(id, now);
        }
        let forgotten = self
            .links
            .seen(id)
            .is_some_and(|slot| slot.forgotten.is_some());
        for call in self.calls.of_link(id) {
            let sent = self
                .calls
                .get(call)
                .map(|call| matches!(call.stage, Stage::Sent));
            if sent == Some(false) && forgotten {
                continue;
            }
            let (end, text) = if sent == Some(true) {
                let text = format!(
                    "server {key} {reason} before it answered; whether the call took effect is \
                     not known"
                );
                (End::Unknown, text)
            } else {
                let text = match self.calls.went_before(call) {
                    true => format!(
                        "server {key} {reason} while the call went on; whether it took effect is \
                         not known"
                    ),
                    false => format!("server {key} {reason} before the call was sent"),
                };
                (End::NotSent, text)
            };
            self.fail(call, Outcome::bare(end), &text, now);
        }
    }

    /// A server does not know its session any more: what it was sent is lost, what it was not goes
    /// on with the next session. The call that met it was told so.
    pub(in crate::session) fn link_forgotten(
        &mut self,
        id: LinkId,
        met: Option<u64>,
        said: &str,
        now: &Now,
    ) {
        const REASON: &str = "does not know the session any more";
        let own = |met: &u64| {
            let slot = self.links.seen(id);
            slot.is_none_or(|slot| slot.link.owns(*met))
        };
        if let Some(met) = met.filter(|met| !own(met)) {
            // MCP 2025-11-25, session management: it was not executed
            let loss = Loss {
                reach: Reach::Refused(404),
                reason: format!(
                    "does not know this session any more, so it did not take the call; call \
                     again{said}"
                ),
                pause_ms: None,
                broken: false,
            };
            self.exchange_lost(id, met, &loss, now);
        }
        let Some(slot) = self.links.slot(id).filter(|slot| slot.link.is_ready_run()) else {
            // one that forgets while it is opened would be opened for ever
            return self.link_closed(id, REASON, now);
        };
        self.moved = true;
        slot.forgotten = Some((slot.era, slot.credential));
        self.link_lost(id, REASON, now);
        let lasted = self
            .links
            .slot(id)
            .is_some_and(|slot| slot.link.forgotten(now));
        if let Some(slot) = self.links.slot(id).filter(|slot| !slot.retired)
            && (!slot.waiting.is_empty() || !slot.resting.is_empty())
        {
            slot.link.declare(self.front.declared());
            slot.link.want(now);
        }
        self.pump(id, now);
        // what is watched alone must not open it for ever
        let pause_us = limits::LINK_BACKOFF_MS.1 * 1000;
        let at_us = now.mono_us + if lasted { 0 } else { pause_us };
        self.watch_later(id, at_us);
        self.watch_due(id, now);
    }

    /// A request was refused, and perhaps because its server lost the session. The refusal is what
    /// its call gets; the next call is made on a new session, unless that was tried just now.
    pub(in crate::session) fn exchange_doubted(
        &mut self,
        id: LinkId,
        number: u64,
        mut loss: Loss,
        doubtful: &str,
        now: &Now,
    ) {
        let renews = self.links.doubts(id, now);
        if renews {
            loss.reason = format!("{doubtful}; the next call is made on a new session");
            // the session ends here, so nothing that went wrong on it counts for the next one
            loss.broken = false;
        }
        self.exchange_lost(id, number, &loss, now);
        if renews {
            self.session_doubted(id, now);
        }
    }

    /// Opens a new session for the calls that come: those in flight end with the old one.
    pub(in crate::session) fn session_doubted(&mut self, id: LinkId, now: &Now) {
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        self.moved = true;
        let server = slot.link.server().key.clone();
        let detail = "a refusal may mean that the session is lost: a new one is opened".to_owned();
        slot.link.note("doubted", detail);
        self.open_anew(id, &server, false, now);
    }

    /// Whether a call that may be sent has to wait for the next session of a server that forgot
    /// the last; it is sent with the link's readiness.
    pub(in crate::session) fn rests(&mut self, key: Key, now: &Now) -> bool {
        let Some(slot) = self.links.slot(key.link) else {
            return false;
        };
        if slot.forgotten.is_none() {
            return false;
        }
        slot.resting.push(key);
        slot.link.declare(self.front.declared());
        slot.link.want(now);
        self.pump(key.link, now);
        true
    }

    /// Ends the calls of a link that were not sent.
    pub(super) fn fail_held(&mut self, id: LinkId, text: &str, now: &Now) {
        let held = self
            .calls
            .select(|key, call| key.link == id && matches!(call.stage, Stage::Held(_)));
        for call in held {
            let went =
                format!("{text}; it went on from an earlier request, which may have had an effect");
            let text = match self.calls.went_before(call) {
                true => &went,
                false => text,
            };
            self.fail(call, Outcome::bare(End::NotSent), text, now);
        }
    }

    pub(in crate::session) fn link_closed(&mut self, id: LinkId, reason: &str, now: &Now) {
        self.moved = true;
        // its link knows first: what waits for it must not go there while its calls end
        if let Some(slot) = self.links.slot(id) {
            slot.link.handle(LinkInput::Closed(reason), now);
        }
        self.link_lost(id, reason, now);
        self.pump(id, now);
        // somebody watches its resources: it is started again, at once unless it just was
        self.watch_later(id, now.mono_us);
        self.watch_due(id, now);
    }

    /// Starts a link again whose resources are watched, when it is time.
    pub(super) fn watch_due(&mut self, id: LinkId, now: &Now) {
        let due = |at: &mut u64| *at <= now.mono_us;
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        if slot.rewatch_at_us.take_if(due).is_some() {
            slot.link.declare(self.front.declared());
            slot.link.want(now);
            self.pump(id, now);
        }
    }
}
