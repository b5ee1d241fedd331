//! Ends: drift, faults, losses, pauses and the back-off.

use super::compare::without_lists;
use super::{Ask, Link, LinkFailure, LinkOutput, Opening, Phase, Probed};
use crate::clock::Now;
use crate::limits;
use crate::registry::doc::Surface;
use crate::session::{LineFault, Loss, Reach};
use crate::wire::era::Era;

impl Link {
    pub(super) fn drifted(&mut self, era: Era, sentence: String, live: Surface, now: &Now) {
        self.live = Some(without_lists(live));
        self.out
            .push_back(LinkOutput::Note("drift", sentence.clone()));
        self.back_off(LinkFailure::Drift(sentence), now);
        self.phase = Phase::Draining(era);
        if self.busy == 0 {
            self.close();
        }
    }

    pub(super) fn fault(&mut self, fault: Option<LineFault>, now: &Now) {
        self.run.faults = self.run.faults.saturating_add(1);
        if self.run.faults == 1 {
            let what = match fault {
                Some(LineFault::Cut { bytes }) => {
                    format!("its last line was cut after {bytes} bytes")
                }
                Some(LineFault::TooLong { bytes }) => {
                    format!("a line of {bytes} bytes was dropped")
                }
                None => "a line that is no JSON-RPC message was dropped".to_owned(),
            };
            self.out.push_back(LinkOutput::Note("fault", what));
        }
        match self.phase {
            Phase::Initializing { .. } | Phase::Probing { .. } | Phase::Surveying { .. } => {
                match fault {
                    Some(LineFault::TooLong { bytes }) => {
                        self.fail(
                            format!("sent a line of {bytes} bytes while it was opened"),
                            now,
                        );
                    }
                    Some(LineFault::Cut { .. }) | None if self.run.faults > limits::LINK_FAULTS => {
                        self.fail("prints text that is not MCP on its output".to_owned(), now);
                    }
                    Some(LineFault::Cut { .. }) | None => {}
                }
            }
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Ready { .. }
            | Phase::Starting { .. } => {}
        }
    }

    /// An answer that cannot be read: while it is opened nothing else is asked.
    pub(super) fn spoilt(&mut self, reason: &str, now: &Now) {
        match self.phase {
            Phase::Initializing { .. } | Phase::Probing { .. } | Phase::Surveying { .. } => {
                self.fail(reason.to_owned(), now);
            }
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Ready { .. }
            | Phase::Starting { .. } => {}
        }
    }

    /// A request of the link's own was lost: nothing that did not come through is an answer.
    pub(super) fn lost(&mut self, ask: Ask, loss: &Loss, now: &Now) {
        match ask {
            Ask::Discover | Ask::Initialize => match self.phase {
                Phase::Initializing { .. } | Phase::Probing { .. } => match loss.reach {
                    // a network that is down says nothing of the server
                    Reach::NotSent => self.give_up(loss.reason.clone(), now),
                    Reach::Refused(_) | Reach::Unknown => self.fail(loss.reason.clone(), now),
                },
                Phase::Closed
                | Phase::Draining(_)
                | Phase::Gathering { .. }
                | Phase::Ready { .. }
                | Phase::Starting { .. }
                | Phase::Surveying { .. } => {}
            },
            Ask::List(_) => {
                if !matches!(self.phase, Phase::Surveying { .. }) {
                    return;
                }
                let phase = std::mem::replace(&mut self.phase, Phase::Closed);
                if let Phase::Surveying { era, survey, .. } = phase {
                    // what the server said of itself still holds
                    self.live = Some(without_lists(survey.into_surface().0));
                    self.drain(era, loss, now);
                }
            }
            // refused: it has no news to give
            Ask::Listen if matches!(loss.reach, Reach::Refused(_)) => {}
            Ask::Listen => self.listen_again(now),
        }
    }

    /// A stream of news broke: after a pause the lists are read again, and it is listened to. The
    /// pause grows while streams do not last.
    pub fn listen_again(&mut self, now: &Now) {
        let (first_ms, longest_ms) = limits::RELISTEN_MS;
        if now.mono_us.saturating_sub(self.listened_us) > longest_ms * 1000 {
            self.relistens = 0;
        }
        let pause_ms = first_ms
            .saturating_mul(1 << self.relistens.min(16))
            .min(longest_ms);
        self.relistens = self.relistens.saturating_add(1);
        let at_us = now.mono_us + pause_ms * 1000;
        self.relisten_at_us = Some(self.relisten_at_us.map_or(at_us, |at| at.min(at_us)));
    }

    /// A call got no answer in its time. After several in a row, with none answered in between, the
    /// server is taken for hung: it gets no more calls and is started anew.
    pub(super) fn overdue(&mut self, reason: &str, now: &Now) {
        self.overdue = self.overdue.saturating_add(1);
        if self.overdue < limits::LINK_STRAIN {
            return;
        }
        self.overdue = 0;
        if let Phase::Ready { era, .. } | Phase::Gathering { era, .. } = self.phase {
            let loss = Loss {
                reach: Reach::Unknown,
                reason: format!("{reason}, {} times in a row", limits::LINK_STRAIN),
                pause_ms: None,
                broken: true,
            };
            self.drain(era, &loss, now);
        }
    }

    /// A call was lost. After several in a row no more are sent until a pause is over and the
    /// lists were read again; calls in flight go on.
    pub(super) fn strained(&mut self, loss: &Loss, now: &Now) {
        if let Some(pause_ms) = loss.pause_ms {
            self.pause = Some((now.mono_us + pause_ms * 1000, loss.reason.clone()));
        }
        if !loss.broken {
            return;
        }
        self.strain = self.strain.saturating_add(1);
        if self.strain < limits::LINK_STRAIN {
            return;
        }
        if let Phase::Ready { era, .. } | Phase::Gathering { era, .. } = self.phase {
            self.drain(era, loss, now);
        }
    }

    /// Takes no more calls; ends with those in flight.
    fn drain(&mut self, era: Era, loss: &Loss, now: &Now) {
        self.asks.retain(|_, ask| *ask == Ask::Listen);
        self.strain = 0;
        self.lasted(now);
        self.down(loss.reason.clone(), now);
        if let Some(pause_ms) = loss.pause_ms {
            let until_us = now.mono_us + pause_ms * 1000;
            self.not_before_us = self.not_before_us.max(until_us);
        }
        self.phase = Phase::Draining(era);
        if self.busy == 0 {
            self.close();
        }
    }

    /// The transport ended by itself.
    pub(super) fn closed(&mut self, reason: &str, now: &Now) {
        self.asks.clear();
        match self.phase {
            Phase::Closed => {}
            Phase::Starting { .. } => {
                self.phase = Phase::Closed;
                self.down(reason.to_owned(), now);
            }
            // servers of one SDK end at the first message that is not `initialize`
            Phase::Initializing { deadline_us } | Phase::Probing { deadline_us, .. }
                if self.run.probed != Probed::No && !self.run.reopened =>
            {
                self.reopen(Opening::Initialize, deadline_us);
            }
            Phase::Initializing { .. } | Phase::Probing { .. } => {
                self.phase = Phase::Closed;
                // what was learned may be wrong by now
                self.unlearn();
                self.down(reason.to_owned(), now);
            }
            Phase::Draining(_) => self.phase = Phase::Closed,
            Phase::Gathering { .. } | Phase::Ready { .. } | Phase::Surveying { .. } => {
                self.lasted(now);
                self.phase = Phase::Closed;
                self.down(reason.to_owned(), now);
            }
        }
    }

    /// The transport was not started, and it was not the server's fault.
    pub(super) fn refused(&mut self, reason: &str, now: &Now) {
        self.asks.clear();
        self.phase = Phase::Closed;
        self.not_before_us = now.mono_us;
        let failure = LinkFailure::Down(reason.to_owned());
        self.last_failure = Some(failure.clone());
        self.out
            .push_back(LinkOutput::Note("down", reason.to_owned()));
        self.out.push_back(LinkOutput::Failed(failure));
    }

    pub(super) fn idle_at(&self, now: &Now) -> Option<u64> {
        let stops = self.busy == 0 && !self.server.stateful && !self.survey;
        stops.then(|| {
            let idle_ms = self.server.limits.idle_ms;
            now.mono_us.saturating_add(idle_ms.saturating_mul(1000))
        })
    }

    /// Gives up the transport with this phrase.
    pub(super) fn fail(&mut self, phrase: String, now: &Now) {
        // what was learned may be wrong by now
        self.unlearn();
        self.give_up(phrase, now);
    }

    fn give_up(&mut self, phrase: String, now: &Now) {
        self.down(phrase, now);
        self.close();
    }

    /// One that worked for longer than the longest pause failed for the first time.
    fn lasted(&mut self, now: &Now) {
        if let Phase::Ready { since_us, .. } = self.phase
            && now.mono_us.saturating_sub(since_us) > limits::LINK_BACKOFF_MS.1 * 1000
        {
            self.failures = 0;
        }
    }

    fn down(&mut self, phrase: String, now: &Now) {
        self.out.push_back(LinkOutput::Note("down", phrase.clone()));
        self.back_off(LinkFailure::Down(phrase), now);
    }

    /// The first failure is tried again at once; later ones after pauses that double.
    fn back_off(&mut self, failure: LinkFailure, now: &Now) {
        let (first_ms, longest_ms) = limits::LINK_BACKOFF_MS;
        let pause_ms = match self.failures {
            0 => 0,
            earlier => first_ms
                .saturating_mul(1 << (earlier - 1).min(16))
                .min(longest_ms),
        };
        self.failures = self.failures.saturating_add(1);
        self.not_before_us = now.mono_us + pause_ms * 1000;
        self.retry_at_s = Some(now.unix_s().saturating_add(pause_ms.div_ceil(1000)));
        self.last_failure = Some(failure.clone());
        self.out.push_back(LinkOutput::Failed(failure));
    }

    pub(super) fn close(&mut self) {
        self.asks.clear();
        self.relisten_at_us = None;
        self.pause = None;
        self.phase = Phase::Closed;
        self.out.push_back(LinkOutput::Close);
    }
}
