//! What leaves the machine, and what must be recorded before it may.
//!
//! Every entry gets a ticket. A send that depends on one is held until the driver says that the
//! ticket is recorded, so this is the one place where "no call without a record" is kept.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;

use super::ask::Questioner;
use super::call::{Key, Leg};
use super::{Output, Ticket};
use crate::audit::entry::{Body, Context, ContextId, Entry};
use crate::clock::Now;
use crate::ids::LinkId;
use crate::limits;
use crate::registry::doc::FailMode;
use crate::wire::era::Era;
use crate::wire::{msg, raw};

/// What goes to an upstream: there is no fourth way. Only the first two carry bytes of a client.
#[derive(Debug)]
pub(super) enum Upstream {
    /// A call, from a spent permit. Its intent is recorded.
    Call(Bytes),
    /// The answer to a question of its own. Its outcome is recorded.
    Answer(Bytes),
    /// What a link or the machine says for itself: no client payload, two numbers at most.
    Housekeeping(Housekeeping),
}

/// The machine's and the links' own messages.
#[derive(Debug)]
pub(super) enum Housekeeping {
    /// A request of ours is taken back.
    Cancel(u64),
    /// A link opens, surveys or ends.
    Link(Vec<u8>),
    /// How far a client is with a question of the upstream's, in these words of ours.
    Progress(Progress),
    /// A request of the upstream's is refused: its id token, the JSON-RPC code, and why.
    Refuse(Box<str>, i64, String),
    /// The client's roots are others now.
    RootsChanged,
    /// `logging/setLevel` with this request id.
    SetLevel(u64, Level),
    /// `resources/unsubscribe` with this request id: ends what a recorded call began.
    Unsubscribe(u64, String),
}

/// How far a client is: the server's own token, and numbers.
#[derive(Debug)]
pub(super) struct Progress {
    token: Box<str>,
    progress: f64,
    total: Option<f64>,
}

impl Progress {
    /// Reads the params of a client's `notifications/progress` under the server's own token; of
    /// other members nothing is taken. `None` where `progress` is no finite number.
    pub(super) fn read(token: &str, params: &raw::Object<'_>) -> Option<Self> {
        let number = |key| {
            let number = params.get(key)?.parse::<f64>().ok()?;
            number.is_finite().then_some(number)
        };
        Some(Self {
            token: token.into(),
            progress: number("progress")?,
            total: number("total"),
        })
    }
}

/// The log levels of MCP, from the least severe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl Level {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Debug, "\"debug\""),
        (Self::Info, "\"info\""),
        (Self::Notice, "\"notice\""),
        (Self::Warning, "\"warning\""),
        (Self::Error, "\"error\""),
        (Self::Critical, "\"critical\""),
        (Self::Alert, "\"alert\""),
        (Self::Emergency, "\"emergency\""),
    ];

    /// Reads a JSON token.
    pub(super) fn parse(token: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|(_, text)| *text == token)?;
        Some(known.0)
    }

    /// The JSON token.
    pub(super) fn token(self) -> &'static str {
        let known = Self::ALL.iter().find(|(level, _)| *level == self);
        known.map_or("\"info\"", |(_, token)| token)
    }
}

impl Upstream {
    fn into_line(self) -> Bytes {
        match self {
            Self::Answer(line) | Self::Call(line) => line,
            Self::Housekeeping(Housekeeping::Cancel(id)) => msg::notification_line(
                "notifications/cancelled",
                Some(&format!("{{\"requestId\":{id}}}")),
            )
            .into(),
            Self::Housekeeping(Housekeeping::Link(line)) => line.into(),
            Self::Housekeeping(Housekeeping::Progress(news)) => {
                let total = news.total.map(|total| format!(",\"total\":{total}"));
                let params = format!(
                    "{{\"progressToken\":{},\"progress\":{}{}}}",
                    news.token,
                    news.progress,
                    total.unwrap_or_default()
                );
                msg::notification_line("notifications/progress", Some(&params)).into()
            }
            Self::Housekeeping(Housekeeping::Refuse(id, code, why)) => {
                msg::error_line(&id, code, &why, None).into()
            }
            Self::Housekeeping(Housekeeping::RootsChanged) => {
                msg::notification_line("notifications/roots/list_changed", None).into()
            }
            Self::Housekeeping(Housekeeping::SetLevel(id, level)) => msg::request_line(
                &id.to_string(),
                "logging/setLevel",
                Some(&format!("{{\"level\":{}}}", level.token())),
            )
            .into(),
            Self::Housekeeping(Housekeeping::Unsubscribe(id, uri)) => msg::request_line(
                &id.to_string(),
                "resources/unsubscribe",
                Some(&format!("{{\"uri\":{}}}", raw::quoted(&uri))),
            )
            .into(),
        }
    }
}

/// What waits for a ticket.
#[derive(Debug)]
pub(super) enum Held {
    /// The answer to a client, after its outcome.
    Answer {
        /// The line.
        line: Bytes,
        /// What the client gets instead when the outcome could not be recorded.
        fail_mode: FailMode,
        /// How to word that.
        instead: Instead,
    },
    /// The same of a parked call that wants an address opened.
    Asks(Key, Box<Asks>),
    /// A call, after its intent.
    Call(Key),
    /// The end of the session, after its last entry.
    Done,
    /// A parked call's answer that is kept for its client, after its outcome.
    Kept(Key, FailMode),
    /// A question of a parked call, after its intent.
    Parked(Key, Leg, FailMode),
    /// A question to the client, after its intent.
    Question(u64),
    /// The answer to an upstream, after its outcome.
    Told {
        to: Questioner,
        line: Bytes,
        fail_mode: FailMode,
        /// What it gets when the outcome could not be recorded.
        instead: Bytes,
    },
}

/// What asks a client for something in the place of an answer.
#[derive(Debug)]
pub(super) struct Asks {
    pub(super) line: Bytes,
    pub(super) fail_mode: FailMode,
    pub(super) instead: Instead,
}

/// Who waits for an answer that may have to be withheld.
#[derive(Debug, Clone)]
pub(super) struct Instead {
    /// The client's id token.
    pub(super) id: Box<str>,
    /// `tools/call`, whose refusals are results.
    pub(super) tool: bool,
    /// The client's era.
    pub(super) era: Era,
}

/// Something held, and what for.
#[derive(Debug)]
struct Hold {
    /// What was appended last when it was held: it goes in this order.
    at: Ticket,
    /// The entries that have to be recorded before it may go.
    needs: RangeInclusive<Ticket>,
    /// Why one of them could not be.
    failed: Option<Box<str>>,
    held: Held,
}

/// Outputs that an empty queue keeps room for.
const KEEP_OUTPUTS: usize = 1024;

/// The queue to the driver.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    out: VecDeque<Output>,
    last: Ticket,
    confirmed: Ticket,
    held: VecDeque<Hold>,
    contexts: HashMap<Arc<Context>, ContextId>,
    /// Contexts whose text a stranger chose.
    strangers: usize,
    counts: Vec<(&'static str, u64)>,
    flush_at_us: Option<u64>,
}

impl Outbox {
    pub(super) fn poll(&mut self) -> Option<Output> {
        let next = self.out.pop_front();
        if next.is_none() && self.out.capacity() > KEEP_OUTPUTS {
            self.out = VecDeque::new();
        }
        next
    }

    pub(super) fn push(&mut self, output: Output) {
        self.out.push_back(output);
    }

    pub(super) fn send_client(&mut self, line: impl Into<Bytes>) {
        self.out.push_back(Output::ToClient(line.into()));
    }

    pub(super) fn send_link(&mut self, link: LinkId, message: Upstream) {
        self.out
            .push_back(Output::ToLink(link, message.into_line()));
    }

    /// Records something.
    pub(super) fn append(&mut self, body: Body, at: &Now) -> Ticket {
        self.last.0 += 1;
        self.out
            .push_back(Output::Append(self.last, Entry { at: *at, body }));
        self.last
    }

    /// Holds something until what was appended last is recorded.
    pub(super) fn hold(&mut self, held: Held) {
        self.hold_for(self.last..=self.last, held);
    }

    /// A parked call's answer that is kept goes to a request that came for it, once the call's
    /// outcome is recorded; false where that is settled, and nothing is held any more.
    pub(super) fn hand_over(&mut self, kept: Key, line: &Bytes, instead: &Instead) -> bool {
        let mut held = self.held.iter_mut();
        let held = held.find_map(|hold| match &hold.held {
            Held::Kept(key, fail_mode) if *key == kept => Some((*fail_mode, &mut hold.held)),
            Held::Answer { .. }
            | Held::Asks(..)
            | Held::Call(_)
            | Held::Done
            | Held::Kept(..)
            | Held::Parked(..)
            | Held::Question(_)
            | Held::Told { .. } => None,
        });
        let Some((fail_mode, held)) = held else {
            return false;
        };
        *held = Held::Answer {
            line: line.clone(),
            fail_mode,
            instead: instead.clone(),
        };
        true
    }

    /// Holds something until these entries are recorded. It goes when the driver has answered for
    /// everything appended so far, so that nothing overtakes another.
    pub(super) fn hold_for(&mut self, needs: RangeInclusive<Ticket>, held: Held) {
        self.held.push_back(Hold {
            at: self.last,
            needs,
            failed: None,
            held,
        });
    }

    /// What was held for tickets up to this one, in order, and why it may not go.
    pub(super) fn release(&mut self, upto: Ticket) -> Option<(Held, Option<Box<str>>)> {
        match self.held.front() {
            Some(hold) if hold.at <= upto => {
                let hold = self.held.pop_front()?;
                Some((hold.held, hold.failed))
            }
            Some(_) | None => None,
        }
    }

    /// The driver has answered for these tickets.
    pub(super) fn confirm(&mut self, upto: Ticket) {
        self.confirmed = self.confirmed.max(upto);
    }

    /// The driver says that these tickets could not be recorded: what needs one of them does not
    /// go, whatever becomes of the others.
    pub(super) fn fail(&mut self, upto: Ticket, reason: &str) {
        let before = self.confirmed;
        let needing = |hold: &&mut Hold| *hold.needs.end() > before && *hold.needs.start() <= upto;
        for hold in self.held.iter_mut().filter(needing) {
            hold.failed.get_or_insert_with(|| reason.into());
        }
        self.confirm(upto);
    }

    /// The last ticket that the driver has answered for: what is held for one before it would
    /// wait for no answer.
    pub(super) fn confirmed(&self) -> Ticket {
        self.confirmed
    }

    /// Whether nothing waits for a record.
    pub(super) fn settled(&self) -> bool {
        self.held.is_empty()
    }

    /// The number of a context; says it to the record before its first use.
    pub(super) fn context(&mut self, context: Context, at: &Now) -> ContextId {
        if let Some(id) = self.contexts.get(&context) {
            return *id;
        }
        let id = ContextId(u32::try_from(self.contexts.len() + 1).unwrap_or(u32::MAX));
        let context = Arc::new(context);
        self.contexts.insert(Arc::clone(&context), id);
        self.append(Body::Context(id, context), at);
        id
    }

    /// The number of a context that holds a stranger's text. After
    /// [`limits::STRANGE_CONTEXTS`] of them the text is left out, so that memory stays bounded.
    pub(super) fn strange_context(
        &mut self,
        context: Context,
        without: impl FnOnce() -> Context,
        at: &Now,
    ) -> ContextId {
        if self.strangers >= limits::STRANGE_CONTEXTS && !self.contexts.contains_key(&context) {
            return self.context(without(), at);
        }
        let before = self.contexts.len();
        let id = self.context(context, at);
        self.strangers += self.contexts.len() - before;
        id
    }

    /// Counts a message that never became a call; recorded together with others like it.
    pub(super) fn count(&mut self, code: &'static str, now: &Now) {
        match self.counts.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((code, 1)),
        }
        self.flush_at_us
            .get_or_insert(now.mono_us + limits::COUNTED_MS * 1000);
    }

    /// Records what was counted, when it is time or `at_once`.
    pub(super) fn flush(&mut self, now: &Now, at_once: bool) {
        let due = self.flush_at_us.is_some_and(|at| at <= now.mono_us);
        if due || at_once {
            self.flush_at_us = None;
            for (code, count) in std::mem::take(&mut self.counts) {
                self.append(Body::Counted { code, count }, now);
            }
        }
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        self.flush_at_us
    }
}
