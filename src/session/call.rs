//! Executions: calls from their intent to their outcome.
//!
//! [`Calls`] has no remove and no clear. The only way out is [`Calls::close`], which wants an
//! [`Outcome`] and gives the record entry of it, so after every step
//! **intents = outcomes + in flight**.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::outbox::{Instead, Level};
use super::repeat::Same;
use crate::audit::entry::{Body, CallFacts, ContextId, Correlation, End};
use crate::clock::Now;
use crate::ids::{CallId, Digest, LinkId};
use crate::limits;
use crate::policy::{Access, Parked, Started};
use crate::registry::doc::{AuditRule, FailMode};
use crate::secret::Content;
use crate::wire::era::{Asked, Can, Era};
use crate::wire::msg::IdKey;

/// Where an execution is: its link, and its request id there. The id is its progress token too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) link: LinkId,
    pub(super) id: u64,
}

/// Who calls: grows with every change of it. Whose something is is held against this number, not
/// against two snapshots: somebody else may come by way of nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Who(u32);

/// One leg of an execution: its first request upstream, a question during it, or the same request
/// again with what was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Leg {
    pub(super) call: CallId,
    pub(super) leg: u16,
}

/// What is asked of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Complete,
    /// `subscriptions/listen` of ours, for one URI.
    Listen,
    Prompt,
    Read,
    Subscribe,
    /// `tasks/get`, `tasks/update` or `tasks/cancel`.
    Task,
    Tool,
    Unsubscribe,
}

impl Method {
    /// Whether its upstream may want input for it (MCP 2026-07-28, multi-round-trip requests).
    pub(super) fn may_ask(self) -> bool {
        match self {
            Self::Prompt | Self::Read | Self::Task | Self::Tool => true,
            Self::Complete | Self::Listen | Self::Subscribe | Self::Unsubscribe => false,
        }
    }

    /// Whether its results carry `ttlMs` and `cacheScope` (MCP 2026-07-28, caching).
    pub(super) fn cacheable(self) -> bool {
        match self {
            Self::Read => true,
            Self::Complete
            | Self::Listen
            | Self::Prompt
            | Self::Subscribe
            | Self::Task
            | Self::Tool
            | Self::Unsubscribe => false,
        }
    }
}

/// What is kept of a request that its upstream may want again, with what its client answered.
#[derive(Debug)]
pub(super) struct Again {
    /// As it went up.
    pub(super) line: Bytes,
    pub(super) target: ContextId,
    pub(super) client: ContextId,
    pub(super) correlation: Correlation,
    /// How often it was sent again.
    pub(super) rounds: u32,
}

/// A call between two legs: its upstream wants input.
#[derive(Debug)]
pub(super) struct Suspended {
    call: CallId,
    legs: u16,
    pub(super) origin: Origin,
    pub(super) method: Method,
    pub(super) era: Era,
    pub(super) level: Option<Level>,
    pub(super) access: Access,
    pub(super) audit: AuditRule,
    pub(super) again: Box<Again>,
    /// What is left of its time.
    pub(super) left_us: u64,
    pub(super) who: Who,
}

impl Suspended {
    /// Its next leg.
    pub(super) fn next_leg(&mut self) -> Leg {
        let leg = self.legs;
        self.legs = self.legs.saturating_add(1);
        Leg {
            call: self.call,
            leg,
        }
    }

    /// `tools/call`, whose refusals are results.
    pub(super) fn is_tool(&self) -> bool {
        self.method == Method::Tool
    }
}

/// For whom a call is made.
#[derive(Debug)]
pub(super) enum Origin {
    /// A request of the client's, answered with its id token.
    Client {
        id: Box<str>,
        key: IdKey,
        /// The client's own progress token.
        progress: Option<Box<str>>,
    },
    /// One resource of a `subscriptions/listen`, which is answered by itself.
    Listen,
    /// The client was asked for something: nobody waits until its retry comes.
    Parked,
    /// A `subscriptions/listen` of ours that the upstream acknowledged.
    Standing,
}

/// How far a call is.
#[derive(Debug)]
pub(super) enum Stage {
    /// The intent is on its way into the record; this line waits for it.
    Held(Bytes),
    /// The line left the machine.
    Sent,
}

/// The proof that an intent was appended: not `Clone`, spent by the outcome.
#[derive(Debug)]
struct OpenRecord {
    leg: Leg,
    audit: AuditRule,
    at_us: u64,
}

impl OpenRecord {
    fn close(self, outcome: Outcome, now: &Now) -> Body {
        Body::Outcome {
            call: self.leg.call,
            leg: self.leg.leg,
            end: outcome.end,
            took_us: now.mono_us.saturating_sub(self.at_us),
            content: outcome.content,
            audit: self.audit,
        }
    }
}

impl CallFacts {
    fn leg(&self) -> Leg {
        Leg {
            call: self.call,
            leg: self.leg,
        }
    }
}

impl Execution {
    /// How many legs it has so far.
    pub(super) fn legs(&self) -> u16 {
        self.legs
    }

    /// How it is recorded, its further legs too.
    pub(super) fn audit(&self) -> AuditRule {
        self.record.audit
    }
}

/// One call in flight.
#[derive(Debug)]
pub(super) struct Execution {
    record: OpenRecord,
    /// The number of its next leg.
    legs: u16,
    /// What was allowed.
    pub(super) access: Access,
    pub(super) origin: Origin,
    pub(super) method: Method,
    /// The client's era.
    pub(super) era: Era,
    pub(super) stage: Stage,
    /// Log messages the request asked for (stateless era).
    pub(super) level: Option<Level>,
    /// The resource, for subscriptions.
    pub(super) uri: Option<Box<str>>,
    /// What it counts as, where the same call may be made only so often.
    pub(super) same: Option<Same>,
    /// How long its line is.
    bytes: usize,
    /// What is kept of it, where its upstream may want it again.
    pub(super) again: Option<Box<Again>>,
    /// What a retry of its client must be equal to, where there may be one.
    bound: Option<Box<Parked>>,
    /// What its client can be asked, by the request itself in the stateless era.
    pub(super) can: Can,
    /// What its upstream asked and its client's request does not declare.
    pub(super) lacked: Can,
    /// The transport it is made for: it is sent on no other.
    pub(super) transport: u32,
    /// Who made it.
    pub(super) who: Who,
    deadline_us: u64,
    pause: Pause,
}

/// When the time of a call stands still.
#[derive(Debug)]
struct Pause {
    /// Questions that are open.
    questions: u32,
    /// Since when.
    since_us: u64,
    /// What was left of the call's time then.
    left_us: u64,
    /// For how much longer it may stand still.
    patience_us: u64,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            questions: 0,
            since_us: 0,
            left_us: 0,
            patience_us: limits::CALL_PAUSED_MS * 1000,
        }
    }
}

impl Execution {
    /// Whether its upstream asked something during it.
    pub(super) fn asked(&self) -> bool {
        self.legs > self.record.leg.leg.saturating_add(1)
    }
}

/// What is known when a call starts, beside its permit.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) origin: Origin,
    pub(super) method: Method,
    pub(super) era: Era,
    pub(super) level: Option<Level>,
    pub(super) uri: Option<Box<str>>,
    /// Longest time until the answer.
    pub(super) deadline_us: u64,
    pub(super) line: Bytes,
    pub(super) again: Option<Box<Again>>,
    pub(super) bound: Option<Box<Parked>>,
    pub(super) can: Can,
    /// The transport it is made for.
    pub(super) transport: u32,
}

/// How a call ended, for the record.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    pub(super) content: Content,
}

impl Outcome {
    /// One without content.
    pub(super) fn bare(end: End) -> Self {
        Self {
            end,
            content: Content::default(),
        }
    }
}

/// A call that ended: what to record, and whom to tell.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) body: Body,
    pub(super) origin: Origin,
    pub(super) method: Method,
    pub(super) era: Era,
    pub(super) fail_mode: FailMode,
    /// What it counted as, if it did not reach its server and so counts no longer.
    pub(super) unmade: Option<Same>,
}

impl Closed {
    /// Who waits for the answer; `None` when nobody does.
    pub(super) fn instead(&self) -> Option<Instead> {
        match &self.origin {
            Origin::Client { id, .. } => Some(Instead {
                id: id.clone(),
                tool: self.method == Method::Tool,
                era: self.era,
            }),
            Origin::Listen | Origin::Parked | Origin::Standing => None,
        }
    }
}

/// Every call in flight.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<Key, Execution>,
    by_client: BTreeMap<IdKey, Key>,
    /// Questions of upstreams that are not answered yet.
    asks: BTreeMap<Leg, OpenRecord>,
    attempts: u64,
    intents: u64,
    outcomes: u64,
    /// No deadline is earlier than this.
    soonest_us: Option<u64>,
    /// What is kept of requests that may be wanted again, in bytes.
    kept_bytes: usize,
    /// Bytes of calls in flight, by link.
    line_bytes: BTreeMap<LinkId, usize>,
    /// Who called last.
    caller: Option<Digest>,
    who: Who,
}

impl Calls {
    /// The number of the next execution or refused attempt.
    pub(super) fn attempt(&mut self) -> CallId {
        self.attempts += 1;
        CallId(self.attempts)
    }

    /// The first leg of the next execution or refused attempt.
    pub(super) fn first_leg(&mut self) -> Leg {
        Leg {
            call: self.attempt(),
            leg: 0,
        }
    }

    /// The next leg of a call in flight; `None` after [`limits::LEGS`], or when it has ended.
    pub(super) fn next_leg(&mut self, key: Key) -> Option<Leg> {
        let execution = self.open.get_mut(&key)?;
        let leg = execution.legs;
        if leg >= limits::LEGS {
            return None;
        }
        execution.legs += 1;
        Some(Leg {
            call: execution.record.leg.call,
            leg,
        })
    }

    /// Opens an execution from a spent permit; gives its intent, to be appended at once.
    pub(super) fn open(
        &mut self,
        key: Key,
        started: &Started<'_>,
        facts: CallFacts,
        start: Start,
        now: &Now,
    ) -> Body {
        let Start {
            origin,
            method,
            era,
            level,
            uri,
            deadline_us,
            line,
            again,
            bound,
            can,
            transport,
        } = start;
        let bytes = line.len();
        *self.line_bytes.entry(key.link).or_default() += bytes;
        self.kept_bytes += again.as_ref().map_or(0, |again| again.line.len());
        if let Origin::Client { key: client, .. } = &origin {
            self.by_client.insert(client.clone(), key);
        }
        let soonest = self.soonest_us.unwrap_or(u64::MAX).min(deadline_us);
        self.soonest_us = Some(soonest);
        self.intents += 1;
        let execution = Execution {
            record: OpenRecord {
                leg: facts.leg(),
                audit: started.audit,
                at_us: now.mono_us,
            },
            legs: facts.leg.saturating_add(1),
            access: started.access.clone(),
            origin,
            method,
            era,
            stage: Stage::Held(line),
            level,
            uri,
            same: None,
            bytes,
            again,
            bound,
            can,
            lacked: Can::default(),
            transport,
            who: self.who,
            deadline_us,
            pause: Pause::default(),
        };
        let old = self.open.insert(key, execution);
        debug_assert!(old.is_none(), "request ids of a link are never given twice");
        Body::Intent(facts)
    }

    /// Who calls from here on; nobody, while nobody is signed in, is not somebody else.
    pub(super) fn called_by(&mut self, caller: Option<Digest>) {
        if caller.is_some() && self.caller != caller {
            self.caller = caller;
            self.who = Who(self.who.0.wrapping_add(1));
        }
    }

    /// Who calls now, or did last.
    pub(super) fn who(&self) -> Who {
        self.who
    }

    /// Whether a call was begun by who calls now.
    pub(super) fn is_own(&self, key: Key) -> bool {
        self.open.get(&key).is_some_and(|call| call.who == self.who)
    }

    /// A call that is not sent goes to its server's next transport.
    pub(super) fn moves_to(&mut self, key: Key, transport: u32) {
        if let Some(call) = self.open.get_mut(&key) {
            call.transport = transport;
        }
    }

    /// Whether a request was sent for this call before the one that is held.
    pub(super) fn went_before(&self, key: Key) -> bool {
        self.open
            .get(&key)
            .is_some_and(|call| call.record.leg.leg > 0)
    }

    fn take(&mut self, key: Key) -> Option<Execution> {
        let execution = self.open.remove(&key)?;
        if let Origin::Client { key: client, .. } = &execution.origin {
            self.by_client.remove(client);
        }
        if self.open.is_empty() {
            self.soonest_us = None;
        }
        let kept = execution.again.as_ref().map_or(0, |again| again.line.len());
        self.kept_bytes = self.kept_bytes.saturating_sub(kept);
        if let Some(bytes) = self.line_bytes.get_mut(&key.link) {
            *bytes = bytes.saturating_sub(execution.bytes);
        }
        self.outcomes += 1;
        Some(execution)
    }

    /// Ends a leg of an execution that goes on once its upstream has what it wants; gives its
    /// outcome, to be appended at once.
    pub(super) fn suspend(
        &mut self,
        key: Key,
        outcome: Outcome,
        now: &Now,
    ) -> Option<(Body, Suspended)> {
        self.open.get(&key)?.again.as_ref()?;
        let mut execution = self.take(key)?;
        let suspended = Suspended {
            call: execution.record.leg.call,
            legs: execution.legs,
            origin: execution.origin,
            method: execution.method,
            era: execution.era,
            level: execution.level,
            access: execution.access,
            audit: execution.record.audit,
            again: execution.again.take()?,
            left_us: execution.deadline_us.saturating_sub(now.mono_us),
            who: execution.who,
        };
        Some((execution.record.close(outcome, now), suspended))
    }

    /// Bytes of the calls in flight on a link: no more of them can wait for it.
    pub(super) fn bytes_of(&self, link: LinkId) -> usize {
        self.line_bytes.get(&link).copied().unwrap_or_default()
    }

    /// A call was answered: what is kept of its request is not wanted again.
    pub(super) fn want_no_more(&mut self, key: Key) {
        let again = self.open.get_mut(&key).and_then(|call| call.again.take());
        let kept = again.map_or(0, |again| again.line.len());
        self.kept_bytes = self.kept_bytes.saturating_sub(kept);
    }

    /// What is kept of requests in flight that may be wanted again, in bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// A person is asked something for a call: its time stands still, for at most
    /// [`limits::CALL_PAUSED_MS`] in all.
    pub(super) fn pause(&mut self, key: Key, now: &Now) {
        let Some(execution) = self.open.get_mut(&key) else {
            return;
        };
        let pause = &mut execution.pause;
        pause.questions += 1;
        if pause.questions == 1 {
            pause.since_us = now.mono_us;
            pause.left_us = execution.deadline_us.saturating_sub(now.mono_us);
            execution.deadline_us = execution.deadline_us.saturating_add(pause.patience_us);
        }
    }

    /// It was answered, or is not asked any more: with the last such question time runs again.
    pub(super) fn resume(&mut self, key: Key, now: &Now) {
        let Some(execution) = self.open.get_mut(&key) else {
            return;
        };
        let pause = &mut execution.pause;
        if pause.questions == 0 {
            return;
        }
        pause.questions -= 1;
        if pause.questions == 0 {
            let stood_us = now.mono_us.saturating_sub(pause.since_us);
            pause.patience_us = pause.patience_us.saturating_sub(stood_us);
            let deadline_us = now.mono_us.saturating_add(pause.left_us);
            execution.deadline_us = execution.deadline_us.min(deadline_us);
            let soonest = self.soonest_us.unwrap_or(u64::MAX);
            self.soonest_us = Some(soonest.min(execution.deadline_us));
        }
    }

    /// What a retry of its client must be equal to; it is given once.
    pub(super) fn take_bound(&mut self, key: Key) -> Option<Box<Parked>> {
        self.open.get_mut(&key)?.bound.take()
    }

    /// Its client is asked for something: gives its id token. Its time stands still.
    pub(super) fn park(&mut self, key: Key, now: &Now) -> Option<Box<str>> {
        let execution = self.open.get_mut(&key)?;
        if !matches!(execution.origin, Origin::Client { .. }) {
            return None;
        }
        let client = std::mem::replace(&mut execution.origin, Origin::Parked);
        execution.level = None;
        let Origin::Client {
            id, key: client, ..
        } = client
        else {
            return None;
        };
        self.by_client.remove(&client);
        self.pause(key, now);
        Some(id)
    }

    /// Its client is back, with this request.
    pub(super) fn unpark(
        &mut self,
        key: Key,
        origin: Origin,
        (level, can): (Option<Level>, Can),
        now: &Now,
    ) {
        let Some(execution) = self.open.get_mut(&key) else {
            return;
        };
        if let Origin::Client { key: client, .. } = &origin {
            self.by_client.insert(client.clone(), key);
        }
        (execution.origin, execution.level, execution.can) = (origin, level, can);
        // that was of another request
        execution.lacked = Can::default();
        self.resume(key, now);
    }

    /// Its upstream asked what its client's request does not declare.
    pub(super) fn lacks(&mut self, key: Key, asked: Asked) {
        if let Some(execution) = self.open.get_mut(&key) {
            execution.lacked = execution.lacked.with(asked);
        }
    }

    /// Ends an execution; gives its outcome, to be appended at once.
    pub(super) fn close(&mut self, key: Key, outcome: Outcome, now: &Now) -> Option<Closed> {
        let execution = self.take(key)?;
        let went = matches!(execution.stage, Stage::Sent) && outcome.end == End::NotSent;
        let unmade = execution.same.filter(|_| went);
        let audit = execution.record.audit;
        Some(Closed {
            unmade,
            body: execution.record.close(outcome, now),
            origin: execution.origin,
            method: execution.method,
            era: execution.era,
            fail_mode: audit.fail_mode,
        })
    }

    /// Opens the record of an upstream's question that will be answered; gives its intent, to be
    /// appended at once.
    pub(super) fn open_ask(&mut self, facts: CallFacts, now: &Now) -> Body {
        self.intents += 1;
        let record = OpenRecord {
            leg: facts.leg(),
            audit: facts.audit,
            at_us: now.mono_us,
        };
        let old = self.asks.insert(record.leg, record);
        debug_assert!(old.is_none(), "legs are never given twice");
        Body::Intent(facts)
    }

    /// Ends it; gives its outcome, to be appended at once, and what happens if that fails.
    pub(super) fn close_ask(
        &mut self,
        leg: Leg,
        outcome: Outcome,
        now: &Now,
    ) -> Option<(Body, FailMode)> {
        let record = self.asks.remove(&leg)?;
        self.outcomes += 1;
        let fail_mode = record.audit.fail_mode;
        Some((record.close(outcome, now), fail_mode))
    }

    /// How the intent of a question may fail to be recorded.
    pub(super) fn ask_fail_mode(&self, leg: Leg) -> Option<FailMode> {
        Some(self.asks.get(&leg)?.audit.fail_mode)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Execution> {
        self.open.get(&key)
    }

    /// Takes the held line of a call whose intent is recorded; it counts as sent from here on.
    pub(super) fn send(&mut self, key: Key) -> Option<Bytes> {
        let execution = self.open.get_mut(&key)?;
        match std::mem::replace(&mut execution.stage, Stage::Sent) {
            Stage::Held(line) => Some(line),
            Stage::Sent => None,
        }
    }

    /// A subscription of ours is acknowledged: its client is answered, and it stays open for as
    /// long as it is wanted.
    ///
    /// False when it did already.
    pub(super) fn stand(&mut self, key: Key) -> bool {
        let Some(execution) = self.open.get_mut(&key) else {
            return false;
        };
        execution.deadline_us = u64::MAX;
        match std::mem::replace(&mut execution.origin, Origin::Standing) {
            Origin::Client { key: client, .. } => {
                self.by_client.remove(&client);
                true
            }
            Origin::Listen => true,
            Origin::Parked | Origin::Standing => false,
        }
    }

    /// How many calls that count as this one wait for their record.
    pub(super) fn waiting_as(&self, same: Same) -> usize {
        let waits =
            |call: &&Execution| call.same == Some(same) && matches!(call.stage, Stage::Held(_));
        self.open.values().filter(waits).count()
    }

    /// Says what a call counts as among repeated ones.
    pub(super) fn counts_as(&mut self, key: Key, same: Same) {
        if let Some(execution) = self.open.get_mut(&key) {
            execution.same = Some(same);
        }
    }

    /// How the intent of a call that is not sent yet may fail to be recorded.
    pub(super) fn fail_mode(&self, key: Key) -> Option<FailMode> {
        Some(self.open.get(&key)?.record.audit.fail_mode)
    }

    /// The call a client's id means.
    pub(super) fn of_client(&self, id: &IdKey) -> Option<Key> {
        self.by_client.get(id).copied()
    }

    /// The calls of one link, in the order they were made.
    pub(super) fn of_link(&self, link: LinkId) -> Vec<Key> {
        self.select(|key, _| key.link == link)
    }

    /// The calls whose time is over.
    pub(super) fn overdue(&mut self, now: &Now) -> Vec<Key> {
        if self.soonest_us.is_none_or(|at| at > now.mono_us) {
            return Vec::new();
        }
        let later = self.open.values().map(|call| call.deadline_us);
        self.soonest_us = later.filter(|at| *at > now.mono_us).min();
        self.select(|_, call| call.deadline_us <= now.mono_us)
    }

    /// The calls that pass a test, in the order they were made.
    pub(super) fn select(&self, test: impl Fn(&Key, &Execution) -> bool) -> Vec<Key> {
        let passing = self.open.iter().filter(|(key, call)| test(key, call));
        let mut keys: Vec<(CallId, Key)> = passing
            .map(|(key, call)| (call.record.leg.call, *key))
            .collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        self.soonest_us.filter(|at| *at < u64::MAX)
    }

    /// Intents, outcomes and calls in flight: the first is always the sum of the others.
    pub(super) fn books(&self) -> (u64, u64, u64) {
        let open = self.open.len() + self.asks.len();
        (self.intents, self.outcomes, open as u64)
    }
}
