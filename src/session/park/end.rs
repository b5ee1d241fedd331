//! Ends of parked calls: theirs, of who called, of their transport, and of patience.

use std::sync::Arc;

use bytes::Bytes;

use super::{Asking, Park, Stage, failed};
use crate::audit::entry::End;
use crate::clock::{Entropy, Now};
use crate::ids::LinkId;
use crate::limits;
use crate::policy::{Decision, decide};
use crate::registry::doc::FailMode;
use crate::session::call::{Key, Outcome};
use crate::session::outbox::Held;
use crate::session::{Machine, Ticket};
use crate::wire::era::Asked;
use crate::wire::msg;

impl Machine {
    /// A call ended: its questions end, and what its client would have got is kept for its retry.
    pub(in crate::session) fn park_over(
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
    pub(super) fn take_back_questions(&mut self, questions: Vec<Asking>, end: End, now: &Now) {
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
    pub(super) fn end_park(&mut self, key: Key, end: End, now: &Now) {
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
    pub(in crate::session) fn parks_follow(&mut self, now: &Now) {
        let snapshot = Arc::clone(&self.snapshot);
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
    pub(in crate::session) fn forget_parks(&mut self, of: Option<LinkId>, now: &Now) {
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

    pub(in crate::session) fn parks_wake(&mut self, now: &Now, entropy: &mut dyn Entropy) {
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
}
