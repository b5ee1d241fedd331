//! The gate between the record and what depends on it.
//!
//! Nothing passes before the entry it depends on is recorded, and a call that passes is judged once
//! more: the record may have taken as long as a collector does. Where the record cannot be written
//! the entry of the server says what happens.

use std::sync::Arc;

use super::Machine;
use super::call::{Closed, Key, Outcome, Stage};
use super::outbox::{Held, Instead, Upstream};
use super::refusal::{denied, refused_later};
use crate::audit::entry::End;
use crate::clock::Now;
use crate::policy::{Decision, Denial, DenialCode, allows, decide};
use crate::registry::doc::FailMode;

impl Machine {
    /// Sends what waited for the record.
    pub(super) fn recorded(&mut self, upto: super::Ticket, now: &Now) {
        self.outbox.confirm(upto);
        while let Some((held, failed)) = self.outbox.release(upto) {
            match failed {
                None => self.release(held, now),
                Some(reason) => self.withhold(held, &reason, now),
            }
        }
    }

    /// Refuses or lets go, by fail mode, what waited for a record that cannot be written.
    pub(super) fn not_recorded(&mut self, upto: super::Ticket, reason: &str, now: &Now) {
        self.outbox.fail(upto, reason);
        self.recorded(upto, now);
    }

    fn release(&mut self, held: Held, now: &Now) {
        match held {
            Held::Answer { line, .. } => self.outbox.send_client(line),
            Held::Asks(key, asks) => self.ask_for_address(key, *asks),
            Held::Call(key) => self.let_go(key, now),
            Held::Done => self.outbox.push(super::Output::Done),
            Held::Kept(..) => {}
            Held::Parked(key, leg, _) => self.parks.recorded(key, leg),
            Held::Question(number) => self.question_recorded(number),
            Held::Told { to, line, .. } => self.tell_upstream(&to, line, now),
        }
    }

    fn withhold(&mut self, held: Held, reason: &str, now: &Now) {
        match held {
            Held::Answer {
                line,
                fail_mode: FailMode::Open,
                ..
            } => {
                self.outbox.count("unrecorded", now);
                self.outbox.send_client(line);
            }
            Held::Answer { instead, .. } => self.unrecorded(&instead, reason),
            Held::Asks(key, asks) => match asks.fail_mode {
                FailMode::Open => {
                    self.outbox.count("unrecorded", now);
                    self.ask_for_address(key, *asks);
                }
                FailMode::Closed => self.unrecorded(&asks.instead, reason),
            },
            Held::Call(key) => match self.calls.fail_mode(key) {
                Some(FailMode::Open) => {
                    self.outbox.count("unrecorded", now);
                    self.let_go(key, now);
                }
                Some(FailMode::Closed) => {
                    let text = format!("the call could not be recorded ({reason})");
                    let denial = Denial::new(DenialCode::NoRecord, text);
                    if let Some(instead) = self.take_back(key, now) {
                        self.withheld(&instead, &denial);
                    }
                }
                None => {}
            },
            Held::Done => self.outbox.push(super::Output::Done),
            Held::Kept(_, FailMode::Open) => self.outbox.count("unrecorded", now),
            Held::Kept(key, FailMode::Closed) => self.keep_nothing(key, reason),
            Held::Parked(key, leg, FailMode::Open) => {
                self.outbox.count("unrecorded", now);
                self.parks.recorded(key, leg);
            }
            Held::Parked(key, leg, FailMode::Closed) => {
                self.parked_unrecorded(key, leg, now);
            }
            Held::Told {
                to,
                line,
                fail_mode: FailMode::Open,
                ..
            } => {
                self.outbox.count("unrecorded", now);
                self.tell_upstream(&to, line, now);
            }
            Held::Question(number) => self.question_unrecorded(number, now),
            Held::Told { to, instead, .. } => self.tell_upstream(&to, instead, now),
        }
    }

    /// A call that did not reach its server does not count among repeated ones.
    pub(super) fn unmake(&mut self, closed: &Closed) {
        if let Some(same) = closed.unmade {
            self.repeats.unmake(same);
        }
    }

    /// Ends a call that is not sent; gives whom to tell.
    fn take_back(&mut self, key: Key, now: &Now) -> Option<Instead> {
        let listened = self.listened(key);
        let closed = self.calls.close(key, Outcome::bare(End::NotSent), now)?;
        let instead = closed.instead();
        self.unmake(&closed);
        self.tasks.over(key);
        self.outbox.append(closed.body, now);
        self.links.closed(key.link, now);
        if let Some(uri) = listened {
            self.listen_settled(&uri, End::NotSent, now);
        }
        self.pump(key.link, now);
        self.next_in_line(key.link, now);
        instead
    }

    /// Sends a held call, if it is still allowed: the record may have taken as long as a collector
    /// does, and time alone ends sign-ins, agents, rules and registries.
    pub(super) fn let_go(&mut self, key: Key, now: &Now) {
        let snapshot = Arc::clone(&self.snapshot);
        let held = self.calls.get(key).map(|call| &call.access);
        if let Some(access) = held.filter(|access| !allows(&snapshot, access, now)) {
            let denial = match decide(&snapshot, access, now) {
                Decision::Ask(question) => question.absurd(),
                Decision::Deny(denial) => denial,
                // one function judges both; a difference must not become a call
                Decision::Allow(_) => Denial::new(
                    DenialCode::StaleSnapshot,
                    format!("the rules changed while {access} was waiting; call it again"),
                ),
            };
            return self.take_back_for(key, &denial, now);
        }
        let Some(made_for) = self.calls.get(key).map(|call| call.transport) else {
            return;
        };
        if self.rests(key, now) {
            return;
        }
        // what runs there now was not compared with its pin, or for other calls
        if made_for != self.links.transport(key.link) {
            let (server, _) = self.links.describe(key.link);
            let text = format!("server {server} ended before the call was sent; call it again");
            return self.take_back_for(key, &Denial::new(DenialCode::Unavailable, text), now);
        }
        if let Some(line) = self.calls.send(key) {
            if let Some(same) = self.calls.get(key).and_then(|call| call.same) {
                self.repeats.note(same, now);
            }
            self.outbox.send_link(key.link, Upstream::Call(line));
        }
    }

    /// The snapshot moved: calls whose intent is still on its way into the record are decided
    /// again, because that may take as long as a collector does. Where somebody else calls now,
    /// none of them is sent: their intents name the caller of before.
    pub(super) fn decide_held(&mut self, now: &Now) {
        let snapshot = Arc::clone(&self.snapshot);
        let held = self
            .calls
            .select(|_, call| matches!(call.stage, Stage::Held(_)));
        for key in held {
            let Some(access) = self.calls.get(key).map(|call| &call.access) else {
                continue;
            };
            let denial = match decide(&snapshot, access, now) {
                Decision::Allow(_) if self.calls.is_own(key) => continue,
                Decision::Allow(_) => Denial::new(
                    DenialCode::StaleSnapshot,
                    format!("somebody else signed in while {access} was waiting; call it again"),
                ),
                Decision::Ask(question) => question.absurd(),
                Decision::Deny(denial) => denial,
            };
            self.take_back_for(key, &denial, now);
        }
    }

    /// Ends a call that is not sent, and tells the client why.
    fn take_back_for(&mut self, key: Key, denial: &Denial, now: &Now) {
        // one that is sent again was sent before
        let again = self.calls.get(key).is_some_and(|call| call.legs() > 1);
        if let Some(Instead { id, tool, era }) = self.take_back(key, now) {
            let code = denial.code.as_str();
            let text = match again {
                true => refused_later(denial),
                false => denial.client_text(),
            };
            self.outbox.send_client(denied(&id, era, tool, code, &text));
        }
    }

    fn unrecorded(&mut self, instead: &Instead, reason: &str) {
        let text = format!(
            "the call was made, but its outcome could not be recorded ({reason}), so its result is \
             withheld"
        );
        self.withheld(instead, &Denial::new(DenialCode::NoRecord, text));
    }
}
