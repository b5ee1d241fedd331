//! The session machine: one client connection, its links, its calls.
//!
//! Sans-IO. The driver feeds [`Input`]s and drains [`Machine::poll`]; nothing here waits, reads a
//! clock or touches a file. After every `handle`, call `poll` until it returns `None`; call
//! `handle(Input::Wake)` when `next_wakeup` has passed. Spurious wakes are harmless.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

mod ask;
mod call;
mod down;
mod drive;
mod front;
mod gate;
pub mod link;
mod links;
mod listen;
mod outbox;
mod park;
mod pass;
mod payload;
mod question;
mod refusal;
mod relay;
mod repeat;
pub mod report;
mod road;
mod roots;
mod route;
mod shown;
mod tasks;

use std::sync::Arc;

use bytes::Bytes;

use self::call::Calls;
use self::drive::Drives;
use self::front::Front;
pub use self::link::Opening;
use self::links::Links;
use self::listen::Listens;
use self::outbox::Outbox;
use self::park::Parks;
use self::question::Questions;
use self::repeat::Repeats;
use self::roots::Roots;
use self::route::Routes;
use self::tasks::Tasks;
use crate::audit::entry::Entry;
use crate::clock::{Entropy, Now};
use crate::identity::{Caller, Owner};
use crate::ids::{CredentialId, LinkId, ServerKey};
use crate::policy::{Snapshot, SnapshotId};
use crate::registry::Freshness;
use crate::registry::doc::ServerDoc;
use crate::text;
use crate::wire::http::Headers;
pub use crate::wire::line::LineFault;
use crate::wire::peek::Peeked;
use crate::wire::raw::Edits;

/// Where something of a link's came, as far as its transport tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the stream of the answer to this request (Streamable HTTP).
    Answer(u64),
    /// On a stream of the server's own, which holds no answers (Streamable HTTP).
    News,
    /// On the one stream that holds everything (stdio, HTTP+SSE).
    Only,
}

impl Place {
    /// The request that what came here belongs to, where the transport knows.
    #[must_use]
    pub const fn during(self) -> Option<u64> {
        match self {
            Self::Answer(id) => Some(id),
            Self::News | Self::Only => None,
        }
    }
}

/// What reaches the machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// The client closed its end, or a signal asked us to end: settle what is open.
    ClientClosed,
    /// A line from the client that is not usable as a line, and what was seen of it.
    ClientFault(LineFault, Peeked),
    /// One line from the client, without its newline.
    ClientLine(&'a [u8]),
    /// A link's transport ended, or never started.
    LinkClosed {
        /// Which.
        link: LinkId,
        /// One line for people: exit status, error, the last words on standard error.
        reason: String,
    },
    /// A line from a link that is not usable as a line.
    LinkFault {
        /// Which.
        link: LinkId,
        /// Where it came.
        place: Place,
        /// What was wrong with it.
        fault: LineFault,
    },
    /// A link's server does not know its session any more. The transport is gone; what was not
    /// sent on it goes on with the next one.
    LinkForgotten {
        /// Which.
        link: LinkId,
        /// The request that met it, which was not executed.
        met: Option<u64>,
        /// What the server said of it, to be appended; most often empty.
        said: String,
    },
    /// How a link's server was opened the last time that any session met it. Comes before
    /// [`Input::LinkOpened`].
    LinkKnown {
        /// Which.
        link: LinkId,
        /// How.
        opening: Opening,
    },
    /// One line from a link, without its newline.
    LinkLine {
        /// Which.
        link: LinkId,
        /// Where it came.
        place: Place,
        /// The line.
        line: &'a [u8],
    },
    /// A link's transport was not started because of something on this side that a person can
    /// mend (a missing credential): tried again with the next call, without a back-off.
    LinkRefused {
        /// Which.
        link: LinkId,
        /// One phrase for people that follows the server's key.
        reason: String,
    },
    /// Live credentials were taken out of the next [`Input::LinkLine`] of this link.
    LinkRedacted {
        /// Which.
        link: LinkId,
        /// How many.
        times: u64,
    },
    /// A link's transport is up: bytes may be sent.
    LinkOpened {
        /// Which.
        link: LinkId,
        /// The credential it was given, for the record; `None` where its server needs none.
        credential: Option<CredentialUse>,
    },
    /// A link's server did not take an answer to a question of its own.
    LinkUnheard {
        /// Which.
        link: LinkId,
        /// What is known of it.
        loss: Loss,
    },
    /// One request of a link was refused, and that may mean that its server lost the session: it
    /// may have said so in a way that nobody knows.
    ExchangeDoubted {
        /// Which.
        link: LinkId,
        /// The request's id on that link.
        id: u64,
        /// What is known of it.
        loss: Loss,
        /// The reason that is told instead if a new session is tried.
        doubtful: String,
    },
    /// One request of a link got no answer and never will, though the link is alive: an HTTP
    /// exchange that failed.
    ExchangeLost {
        /// Which.
        link: LinkId,
        /// The request's id on that link.
        id: u64,
        /// What is known of it.
        loss: Loss,
    },
    /// Entries up to and including this ticket could not be recorded (since the last answer).
    NotRecorded {
        /// The last ticket concerned.
        upto: Ticket,
        /// One line for people, e.g. `disk full`.
        reason: String,
    },
    /// Entries up to and including this ticket are recorded in their class.
    Recorded {
        /// The last ticket concerned.
        upto: Ticket,
    },
    /// A server's transport is to be opened anew: a person asked for it, or its credential
    /// changed. A back-off ends at once.
    Renew {
        /// Which.
        server: ServerKey,
        /// Calls in flight end now, with an unknown outcome; else the transport ends with them.
        at_once: bool,
    },
    /// A new snapshot: registry, login or freshness moved.
    Snapshot(Arc<Snapshot>),
    /// Time passed.
    Wake,
}

/// What is known of a request that gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// How far it came.
    pub reach: Reach,
    /// One phrase for people that follows the server's key.
    pub reason: String,
    /// The server asks for a pause, in milliseconds.
    pub pause_ms: Option<u64>,
    /// The server or the way to it is at fault, so that other calls will most likely fail too.
    pub broken: bool,
}

/// How far a request came that gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing was executed: no byte of it was taken by the server.
    NotSent,
    /// The server refused it with this HTTP status.
    Refused(u16),
    /// It may have been executed.
    Unknown,
}

impl Loss {
    /// Of a request that was not sent, with a phrase that follows the server's key.
    #[must_use]
    pub fn not_sent(reason: impl Into<String>) -> Self {
        Self {
            reach: Reach::NotSent,
            reason: reason.into(),
            pause_ms: None,
            broken: false,
        }
    }
}

/// Which credential a link uses: names and numbers, never the secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialUse {
    /// Its name in the registry.
    pub id: CredentialId,
    /// Where the vault's key is kept: `keychain`, `key-file`, `systemd-credential`.
    pub store: &'static str,
    /// Which value of it: grows with every change.
    pub serial: u64,
    /// Whose it is: the caller it was fetched for.
    pub owner: Owner,
}

/// The number of an appended entry, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// What the machine wants done. Order matters within the queue.
#[derive(Debug)]
pub enum Output {
    /// Record this. Sends that depend on it stay inside until [`Input::Recorded`].
    Append(Ticket, Entry),
    /// End this link's transport. Nothing more comes from it, no [`Input::LinkClosed`] either; an
    /// [`Output::OpenLink`] with the same id may follow at once.
    CloseLink(LinkId),
    /// Everything is settled: the driver may end.
    Done,
    /// Which arguments of a call go into headers on this link too, from now on.
    Headers(LinkId, Box<Headers>),
    /// How the server of this link is opened was learned; with `None`, what was known of it is wrong.
    Learned(LinkId, Arc<ServerDoc>, Option<Opening>),
    /// Start this link's transport for this server.
    OpenLink(LinkId, Arc<ServerDoc>),
    /// Write this line to the client. The newline is included.
    ToClient(Bytes),
    /// Write this line to a link. The newline is included.
    ToLink(LinkId, Bytes),
}

/// One client connection.
///
/// ```text
///   ClientLine ─▶ front ─▶ road: inspect, decide ─▶ links: ready? ─▶ calls: intent ─▶ outbox
///                  │ lists, status                                        held ▲     │ Append
///                  ▼                                                           │     ▼
///   ToClient ◀── outbox ◀── calls: outcome ◀── down: inspect ◀── LinkLine    Recorded ◀─ driver
/// ```
#[derive(Debug)]
pub struct Machine {
    snapshot: Arc<Snapshot>,
    front: Front,
    routes: Routes,
    links: Links,
    calls: Calls,
    repeats: Repeats,
    listens: Listens,
    parks: Parks,
    roots: Roots,
    tasks: Tasks,
    questions: Questions,
    drives: Drives,
    outbox: Outbox,
    edits: Edits,
    closing: bool,
    /// Something of [`Machine::report`] may have changed.
    moved: bool,
}

impl Machine {
    /// Makes a session. Without a snapshot it waits up to [`crate::limits::FIRST_REGISTRY_MS`]
    /// for the first one before it answers lists and calls; discover and initialize never wait.
    /// `client_session` is the client's own session id where its environment claims one.
    ///
    /// Snapshots are numbered by the driver below 2^63; the machine numbers its own from there.
    #[must_use]
    pub fn new(snapshot: Option<Arc<Snapshot>>, client_session: Option<String>) -> Self {
        let front = Front::new(client_session, snapshot.is_none());
        let none = || {
            let trouble = "the registry is not here yet; run `mcpshim status`".to_owned();
            let (id, now) = (SnapshotId(0), Now::default());
            Snapshot::new(id, None, Freshness::Lapsed, None, Some(trouble), &now)
        };
        let snapshot = snapshot.unwrap_or_else(|| Arc::new(none()));
        let mut calls = Calls::default();
        calls.called_by(snapshot.caller().map(Caller::identity));
        Self {
            snapshot,
            front,
            routes: Routes::default(),
            links: Links::default(),
            calls,
            repeats: Repeats::default(),
            listens: Listens::default(),
            parks: Parks::default(),
            roots: Roots::default(),
            tasks: Tasks::default(),
            questions: Questions::default(),
            drives: Drives::default(),
            outbox: Outbox::default(),
            edits: Edits::new(),
            closing: false,
            moved: true,
        }
    }

    /// Takes an input. Call [`Machine::poll`] until it gives `None` afterwards.
    ///
    /// `entropy` is for the ids and handles of what is asked of the client.
    pub fn handle(&mut self, input: Input<'_>, now: &Now, entropy: &mut dyn Entropy) {
        if self.closing {
            // the records of the end are still to be confirmed; nothing else counts any more
            return match input {
                Input::NotRecorded { upto, reason } => self.not_recorded(upto, &reason, now),
                Input::Recorded { upto } => self.recorded(upto, now),
                Input::ClientClosed
                | Input::ClientFault(..)
                | Input::ClientLine(_)
                | Input::LinkClosed { .. }
                | Input::LinkFault { .. }
                | Input::LinkForgotten { .. }
                | Input::LinkKnown { .. }
                | Input::LinkLine { .. }
                | Input::ExchangeDoubted { .. }
                | Input::ExchangeLost { .. }
                | Input::LinkOpened { .. }
                | Input::LinkRedacted { .. }
                | Input::LinkRefused { .. }
                | Input::LinkUnheard { .. }
                | Input::Renew { .. }
                | Input::Snapshot(_)
                | Input::Wake => {}
            };
        }
        match input {
            Input::ClientClosed => self.client_closed(now),
            Input::ClientFault(fault, peeked) => self.client_fault(fault, &peeked, now),
            Input::ClientLine(line) => self.client_line(line, now),
            // words of a guard, or the last of a server
            Input::LinkClosed { link, reason } => {
                let reason = text::short(&reason, crate::limits::REASON_CHARS);
                self.link_closed(link, &reason, now);
            }
            Input::LinkFault { link, place, fault } => self.link_fault(link, place, fault, now),
            Input::LinkForgotten { link, met, said } => {
                self.link_forgotten(link, met, &said, now);
            }
            Input::LinkKnown { link, opening } => self.link_known(link, opening),
            Input::LinkLine { link, place, line } => {
                self.link_line(link, place, line, now, entropy);
            }
            Input::ExchangeDoubted {
                link,
                id,
                loss,
                doubtful,
            } => self.exchange_doubted(link, id, loss, &doubtful, now),
            Input::ExchangeLost { link, id, loss } => self.exchange_lost(link, id, &loss, now),
            Input::LinkRedacted { link, times } => self.redacted(link, times, now),
            Input::LinkRefused { link, reason } => self.link_refused(link, &reason, now),
            Input::LinkUnheard { link, loss } => self.link_unheard(link, &loss, now),
            Input::LinkOpened { link, credential } => {
                self.link_opened(link, credential, now);
            }
            Input::NotRecorded { upto, reason } => self.not_recorded(upto, &reason, now),
            Input::Recorded { upto } => self.recorded(upto, now),
            Input::Renew { server, at_once } => self.renew(&server, at_once, now),
            Input::Snapshot(snapshot) => {
                self.take_snapshot(snapshot, now);
                self.registry_settled(now);
            }
            Input::Wake => {
                self.front_wake(now);
                self.links_wake(now);
                self.questions_wake(now);
                self.drives_wake(now);
                self.parks_wake(now, entropy);
                self.listens_wake(now);
                self.time_out(now);
                self.outbox.flush(now, false);
            }
        }
        // what was held though everything before it is recorded already
        self.recorded(self.outbox.confirmed(), now);
        debug_assert!(
            {
                let (intents, outcomes, in_flight) = self.calls.books();
                intents == outcomes + in_flight
            },
            "intents = outcomes + in flight"
        );
    }

    fn take_snapshot(&mut self, snapshot: Arc<Snapshot>, now: &Now) {
        let new = self.with_live(snapshot, now);
        let old = std::mem::replace(&mut self.snapshot, new);
        let caller = self.snapshot.caller().map(Caller::identity);
        self.calls.called_by(caller);
        self.moved = true;
        self.routes.clear();
        self.links_follow(now);
        self.decide_held(now);
        self.questions_follow(now);
        self.parks_follow(now);
        self.lists_moved(old, now);
        self.warn(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outbox.poll()
    }

    /// When to call `handle(Wake)` at the latest, in monotonic microseconds.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        if self.closing {
            return None;
        }
        [
            self.front.next_wakeup(),
            self.links.next_wakeup(),
            self.listens.next_wakeup(),
            self.questions.next_wakeup(),
            self.parks.next_wakeup(),
            self.drives.next_wakeup(),
            self.calls.next_wakeup(),
            self.outbox.next_wakeup(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the client asked for anything but `server/discover`: clients start throw-away
    /// processes that ask only that, and such a process must leave nothing behind.
    #[must_use]
    pub fn is_engaged(&self) -> bool {
        self.front.era().is_some()
    }

    /// Whether this request to a link has no answer yet.
    #[must_use]
    pub fn awaits(&self, link: LinkId, id: u64) -> bool {
        self.is_awaited(link, id)
    }

    /// Intents, outcomes and calls in flight: the first is always the sum of the other two.
    #[must_use]
    pub fn books(&self) -> (u64, u64, u64) {
        self.calls.books()
    }
}

#[cfg(any(test, fuzzing))]
#[expect(clippy::unwrap_used, reason = "a broken fixture should stop the test")]
mod fixture;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;
