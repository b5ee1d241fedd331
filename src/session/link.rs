//! One upstream connection: opening, era, surface, readiness.
//!
//! The link owns its own housekeeping (probe, initialize, lists, listen, ping) and never sees a
//! caller or a client payload. The machine parses each line once and hands over only what is the
//! link's: answers to ids the link [`owns`](Link::owns), `list_changed` notifications and pings.
//! Everything else (answers to calls, progress, server-to-client requests) is the machine's.
//!
//! ```text
//!   Closed ──want──▶ Opening: transport ─▶ probe / initialize ─▶ survey ─▶ compare with the pin
//!     ▲                                                                        │
//!     │ ended, drift, idle, deadline                                           ▼
//!     └──────────────────────────────── Ready ◀──────────────── equal ─────────┘
//!                                         │ list_changed: Opening again until compared
//! ```
//!
//! **No call is sent on a link before its live surface was compared with the pin.** A
//! `list_changed` makes later calls wait for a new comparison; one that arrives during a
//! comparison starts the next, and calls that waited go between the two, so that a server that
//! never stops changing starves nobody.
//!
//! Transports: after [`LinkOutput::Open`] the driver gives `Opened` or `Closed`; after
//! [`LinkOutput::Close`] it gives nothing more of that transport, not even `Closed`. A link may
//! ask for `Close` and `Open` in one breath (a server that must be started anew for its other
//! era), with the same id.

mod compare;
mod end;
mod events;
mod open;
mod survey;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub use self::events::{Answer, LinkFailure, LinkInput, LinkOutput, LinkState};
pub use self::open::Opening;
use self::survey::Survey;
use self::told::Told;
pub use self::told::{Declared, allowed};
use crate::clock::Now;
use crate::ids::LinkId;
use crate::limits;
use crate::pin::Kind;
use crate::registry::doc::{ServerDoc, Surface};
use crate::text::printable;
use crate::wire::era::{Era, Revision};

/// How mcpshim introduces itself upstream when it speaks for itself: `clientInfo`, raw JSON.
pub const CLIENT_INFO: &str = concat!(
    r#"{"name":"mcpshim","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// Characters of an id that are told, of an answer that fitted nothing.
const STRAY_CHARS: usize = 40;

/// One upstream connection.
#[derive(Debug)]
pub struct Link {
    id: LinkId,
    server: Arc<ServerDoc>,
    /// Whether the caller only wants the surface.
    survey: bool,
    phase: Phase,
    /// What a client says it can be asked for, for the next transport…
    client: Declared,
    /// …and what the server of this one was told.
    told: Told,
    /// What is known of the running transport's server.
    run: Run,
    /// Requests of the link's own that are not answered.
    asks: BTreeMap<u64, Ask>,
    next_id: u64,
    /// How its server wants to be opened, learned from earlier transports of this link.
    learned: Option<Opening>,
    busy: usize,
    failures: u32,
    not_before_us: u64,
    last_failure: Option<LinkFailure>,
    /// Exchanges lost in a row by a fault of the server or the way to it.
    strain: u32,
    /// Calls in a row that got no answer in their time.
    overdue: u32,
    /// The Unix second from which it may be opened again.
    retry_at_s: Option<u64>,
    /// The server asked for a pause: until when, and in which words.
    pause: Option<(u64, String)>,
    /// `subscriptions/listen` broke: when it is asked for again, and how often it broke.
    relisten_at_us: Option<u64>,
    relistens: u32,
    /// Since when it is listened to.
    listened_us: u64,
    live: Option<Surface>,
    /// What of the pin is not there for a client of these capabilities.
    absent: Option<(Era, BTreeSet<(Kind, String)>)>,
    /// What is not what was reviewed, with its difference: its calls are refused.
    differing: BTreeMap<(Kind, String), String>,
    /// What the record was told of differences.
    differences: Vec<String>,
    out: VecDeque<LinkOutput>,
}

/// Where it is in its life, with what only matters there.
#[derive(Debug)]
enum Phase {
    /// No transport.
    Closed,
    /// The live surface is not the pinned one; the transport lives until its calls have ended.
    Draining(Era),
    /// `list_changed` came; more of them are gathered before the surface is read again.
    Gathering { era: Era, until_us: u64 },
    /// `initialize` was sent.
    Initializing { deadline_us: u64 },
    /// `server/discover` was sent.
    Probing { deadline_us: u64, until_us: u64 },
    /// Calls may be sent.
    Ready {
        era: Era,
        since_us: u64,
        idle_at_us: Option<u64>,
    },
    /// The transport was asked for.
    Starting { deadline_us: u64 },
    /// The lists are being read.
    Surveying {
        era: Era,
        survey: Box<Survey>,
        deadline_us: u64,
        changed: bool,
    },
}

/// What was seen of one transport.
#[derive(Debug, Default)]
struct Run {
    /// What became of `server/discover`.
    probed: Probed,
    /// It was opened anew for its other era; that is done once.
    reopened: bool,
    /// The other way of opening was tried on the same transport because it said so; once.
    redirected: bool,
    /// A `DiscoverResult` came, perhaps late.
    discovered: Option<Surface>,
    /// Since when its calls may be sent, for the first time.
    ready_us: Option<u64>,
    faults: u32,
    /// The last answer that fitted nothing: when it came, and its id.
    stray: Option<(u64, String)>,
}

/// What became of `server/discover` on one transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Probed {
    /// It was not sent.
    #[default]
    No,
    Sent,
    /// No answer came in time, which proves nothing.
    Silent,
}

/// A request of the link's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Discover,
    Initialize,
    List(Kind),
    Listen,
}

impl Link {
    /// Makes a link that is not running. `survey` asks for [`LinkOutput::Surface`] and compares
    /// with nothing.
    #[must_use]
    pub fn new(id: LinkId, server: Arc<ServerDoc>, survey: bool) -> Self {
        Self {
            id,
            server,
            survey,
            phase: Phase::Closed,
            client: Declared::default(),
            told: Told::default(),
            run: Run::default(),
            asks: BTreeMap::new(),
            next_id: 1,
            learned: None,
            busy: 0,
            failures: 0,
            not_before_us: 0,
            last_failure: None,
            strain: 0,
            overdue: 0,
            retry_at_s: None,
            pause: None,
            relisten_at_us: None,
            relistens: 0,
            listened_us: 0,
            live: None,
            absent: None,
            differing: BTreeMap::new(),
            differences: Vec::new(),
            out: VecDeque::new(),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// The server's entry.
    #[must_use]
    pub fn server(&self) -> &Arc<ServerDoc> {
        &self.server
    }

    /// Takes the entry of the same server from a newer registry: another pin is compared again
    /// before the next call. Returns false, and changes nothing, when the transport is another
    /// one: then a new link is needed, and this one is stopped when its calls have ended.
    #[must_use]
    pub fn set_server(&mut self, server: Arc<ServerDoc>, now: &Now) -> bool {
        let given = |server: &ServerDoc| {
            let credential = server.credential.as_ref();
            credential.map(|credential| (credential.id.clone(), credential.inject.clone()))
        };
        // what was declared or given when it was opened cannot be taken back
        if server.id != self.server.id
            || server.transport != self.server.transport
            || given(&server) != given(&self.server)
            || allowed(&server) != allowed(&self.server)
        {
            return false;
        }
        let same_pin = server.pin == self.server.pin
            && match (&server.surface, &self.server.surface) {
                (None, None) => true,
                (Some(new), Some(old)) => compare::is_same_surface(new, old),
                (None, Some(_)) | (Some(_), None) => false,
            };
        self.server = server;
        if same_pin {
            return true;
        }
        self.failures = 0;
        self.not_before_us = 0;
        match self.phase {
            Phase::Ready { era, .. } => {
                self.phase = Phase::Gathering {
                    era,
                    until_us: now.mono_us,
                };
            }
            Phase::Surveying {
                ref mut changed, ..
            } => *changed = true,
            // compared when it is wanted, or at the end of what is under way
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Initializing { .. }
            | Phase::Probing { .. }
            | Phase::Starting { .. } => {}
        }
        true
    }

    /// What the running server said of itself (capabilities, `serverInfo`, instructions; lists
    /// only where the pin is `off`), once it was `Ready`.
    #[must_use]
    pub fn live(&self) -> Option<&Surface> {
        self.live.as_ref()
    }

    /// Says what the client can be asked for, before [`Link::want`]: its server is told so, as far
    /// as its entry allows, when a transport is opened.
    pub fn declare(&mut self, client: Declared) {
        if matches!(self.phase, Phase::Closed) {
            self.client = client;
        }
    }

    /// What of a client's capabilities the server of this transport was told in the stateless
    /// era, raw JSON.
    #[must_use]
    pub fn told(&self) -> &str {
        &self.told.text
    }

    /// Why a pinned tool or prompt is not there, where that may be because of the client: what the
    /// server was not told that the client can.
    #[must_use]
    pub fn lacks(&self, kind: Kind, name: &str) -> Option<Vec<&'static str>> {
        let (era, absent) = self.absent.as_ref()?;
        let missing = absent.contains(&(kind, name.to_owned()));
        missing.then(|| self.lacking(*era))
    }

    /// What is not what was reviewed at the running server, with its difference: sorted by kind
    /// and name.
    #[must_use]
    pub fn differing(&self) -> &BTreeMap<(Kind, String), String> {
        &self.differing
    }

    /// What its entry allows and the server of this transport was not told.
    fn lacking(&self, era: Era) -> Vec<&'static str> {
        let allowed = allowed(&self.server);
        self.told.under(era, allowed).lacking(allowed)
    }

    /// A call needs it: opens it if it is closed and its back-off is over, else `Failed` comes.
    /// Does nothing while it is opening or ready.
    pub fn want(&mut self, now: &Now) {
        let drained = match self.phase {
            Phase::Closed => None,
            Phase::Draining(era) => Some(era),
            Phase::Gathering { .. }
            | Phase::Initializing { .. }
            | Phase::Probing { .. }
            | Phase::Ready { .. }
            | Phase::Starting { .. }
            | Phase::Surveying { .. } => return,
        };
        if now.mono_us < self.not_before_us {
            let seconds = (self.not_before_us - now.mono_us).div_ceil(1_000_000);
            let failure = match self.last_failure.clone() {
                Some(LinkFailure::Down(phrase)) => {
                    LinkFailure::Down(format!("{phrase} (it is tried again in {seconds} s)"))
                }
                Some(drift @ LinkFailure::Drift(_)) => drift,
                None => LinkFailure::Down(format!("is tried again in {seconds} s")),
            };
            self.out.push_back(LinkOutput::Failed(failure));
            return;
        }
        match drained {
            Some(era) => self.start_survey(era, now),
            None => {
                self.run = Run::default();
                self.open(now.mono_us + limits::LINK_OPEN_MS * 1000);
            }
        }
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> LinkState {
        match self.phase {
            Phase::Closed | Phase::Draining(_) => LinkState::Closed {
                not_before_us: self.not_before_us,
            },
            Phase::Gathering { .. }
            | Phase::Initializing { .. }
            | Phase::Probing { .. }
            | Phase::Starting { .. }
            | Phase::Surveying { .. } => LinkState::Opening,
            Phase::Ready { era, .. } => LinkState::Ready(era),
        }
    }

    /// Whether its transport was compared with the pin and nothing was found against it since: also
    /// while its lists, which changed, are read again.
    #[must_use]
    pub fn is_approved(&self) -> bool {
        self.run.ready_us.is_some() && !matches!(self.phase, Phase::Closed | Phase::Draining(_))
    }

    /// The next id for a request of the machine's on this link; the link uses the same counter.
    pub fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Whether the answer with this id is to be given to [`Link::handle`].
    #[must_use]
    pub fn owns(&self, id: u64) -> bool {
        self.asks.contains_key(&id)
    }

    /// Whether a request of this id is its `subscriptions/listen`.
    #[must_use]
    pub fn listens(&self, id: u64) -> bool {
        self.asks.get(&id) == Some(&Ask::Listen)
    }

    /// Tells the link how many calls are open (waiting or sent), so that it can end when idle.
    pub fn set_busy(&mut self, calls: usize, now: &Now) {
        self.busy = calls;
        let idle_at = self.idle_at(now);
        match &mut self.phase {
            Phase::Ready { idle_at_us, .. } => *idle_at_us = idle_at,
            Phase::Draining(_) if calls == 0 => self.close(),
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Initializing { .. }
            | Phase::Probing { .. }
            | Phase::Starting { .. }
            | Phase::Surveying { .. } => {}
        }
    }

    /// Takes an input. Call [`Link::poll`] until `None` afterwards.
    pub fn handle(&mut self, input: LinkInput<'_>, now: &Now) {
        match input {
            LinkInput::Answer { id, answer } => {
                if let Some(ask) = self.asks.remove(&id) {
                    self.answered(ask, answer, now);
                }
            }
            LinkInput::Changed => self.changed(now),
            LinkInput::Closed(reason) => self.closed(reason, now),
            LinkInput::Fault(fault) => self.fault(fault, now),
            LinkInput::Lost { id, loss } => {
                if let Some(ask) = self.asks.remove(&id) {
                    self.lost(ask, loss, now);
                }
            }
            LinkInput::Opened => self.opened(now),
            LinkInput::Ping(id) => {
                self.send(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
            }
            LinkInput::Spoilt(reason) => self.spoilt(reason, now),
            LinkInput::Stray(token) => {
                self.run.stray = Some((now.mono_us, token.chars().take(STRAY_CHARS).collect()));
            }
            LinkInput::Overdue(reason) => self.overdue(reason, now),
            LinkInput::Strained(loss) => self.strained(loss, now),
            LinkInput::Refused(reason) => self.refused(reason, now),
            LinkInput::Roots(id) => {
                self.send(format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"roots":[]}}}}"#
                ));
            }
            LinkInput::Wake => self.wake(now),
            LinkInput::Withdrawn(id) => {
                if self.listens(id) {
                    self.asks.remove(&id);
                    self.listen_again(now);
                }
            }
        }
    }

    /// Something came from the server: it is there.
    pub fn heard(&mut self) {
        self.strain = 0;
    }

    /// It answered a call.
    pub fn served(&mut self) {
        self.overdue = 0;
    }

    /// What is added to the reason of a request that was open since then and got no answer in time,
    /// where one came that fitted nothing. Empty otherwise.
    #[must_use]
    pub fn stray_since(&self, since_us: u64) -> String {
        match &self.run.stray {
            Some((at_us, token)) if *at_us >= since_us => {
                let token = printable(token);
                format!(", but an answer came with the id {token}, which no open request has")
            }
            Some(_) | None => String::new(),
        }
    }

    fn overdue_at(&self, what: &str) -> String {
        format!("did not answer {what} in time{}", self.stray_since(0))
    }

    /// How often in a row it could not be used, and the Unix second from which it is tried again.
    #[must_use]
    pub fn failures(&self) -> (u32, Option<u64>) {
        (self.failures, self.retry_at_s)
    }

    /// Why no call may be sent for a while though the transport is there, and for how many
    /// seconds.
    #[must_use]
    pub fn pause(&self, now: &Now) -> Option<(&str, u64)> {
        let (until_us, reason) = self.pause.as_ref()?;
        let left_us = until_us.checked_sub(now.mono_us).filter(|left| *left > 0)?;
        Some((reason, left_us.div_ceil(1_000_000)))
    }

    /// Ends the transport, if there is one: the session is over, or the server was withdrawn.
    pub fn stop(&mut self) {
        match self.phase {
            Phase::Closed => {}
            Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Initializing { .. }
            | Phase::Probing { .. }
            | Phase::Ready { .. }
            | Phase::Starting { .. }
            | Phase::Surveying { .. } => self.close(),
        }
    }

    /// Forgets what went wrong before: the next call may start it at once.
    pub fn forgive(&mut self) {
        self.failures = 0;
        self.not_before_us = 0;
        self.retry_at_s = None;
        self.last_failure = None;
        // another program may be behind it now
        self.unlearn();
    }

    /// How the server was opened the last time that anybody met it.
    pub fn know(&mut self, opening: Opening) {
        self.learned.get_or_insert(opening);
    }

    fn unlearn(&mut self) {
        if self.learned.take().is_some() {
            self.out.push_back(LinkOutput::Learned(None));
        }
    }

    /// Whether calls were ever sent on the transport that runs.
    #[must_use]
    pub fn is_ready_run(&self) -> bool {
        self.run.ready_us.is_some()
    }

    /// The server forgot the session of the transport, which is gone. That is no failure: it may
    /// be opened at once. Returns whether the session had lasted.
    #[must_use]
    pub fn forgotten(&mut self, now: &Now) -> bool {
        let lasted = self.run.ready_us.is_some_and(|since| {
            now.mono_us.saturating_sub(since) > limits::LINK_BACKOFF_MS.1 * 1000
        });
        self.asks.clear();
        self.relisten_at_us = None;
        self.pause = None;
        self.run = Run::default();
        self.phase = Phase::Closed;
        self.not_before_us = now.mono_us;
        let detail = "the server does not know the session any more".to_owned();
        self.out.push_back(LinkOutput::Note("forgotten", detail));
        lasted
    }

    /// Puts something into the record.
    pub fn note(&mut self, code: &'static str, detail: String) {
        self.out.push_back(LinkOutput::Note(code, detail));
    }

    /// Whether its server has a session of the handshake era over HTTP that it could lose.
    #[must_use]
    pub fn has_session(&self) -> bool {
        self.is_remote()
            && matches!(
                self.phase,
                Phase::Ready {
                    era: Era::Handshake(_),
                    ..
                }
            )
    }

    /// Whether a transport runs, or was asked for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Closed)
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<LinkOutput> {
        self.out.pop_front()
    }

    /// When to call `handle(Wake)`, in monotonic microseconds.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        match &self.phase {
            Phase::Closed | Phase::Draining(_) => None,
            Phase::Gathering { until_us, .. } => Some(*until_us),
            Phase::Initializing { deadline_us }
            | Phase::Starting { deadline_us }
            | Phase::Surveying { deadline_us, .. } => Some(*deadline_us),
            Phase::Probing {
                deadline_us,
                until_us,
            } => Some(*until_us.min(deadline_us)),
            Phase::Ready { idle_at_us, .. } => {
                let both = [*idle_at_us, self.relisten_at_us];
                both.into_iter().flatten().min()
            }
        }
    }

    fn wake(&mut self, now: &Now) {
        match &self.phase {
            Phase::Closed | Phase::Draining(_) => {}
            Phase::Gathering { era, until_us } => {
                if now.mono_us >= *until_us {
                    let era = *era;
                    self.start_survey(era, now);
                }
            }
            Phase::Initializing { deadline_us } => {
                if now.mono_us >= *deadline_us {
                    self.fail(self.overdue_at("initialize"), now);
                }
            }
            Phase::Probing {
                deadline_us,
                until_us,
            } => {
                // silence is an answer of the handshake era; the pipe stays
                if now.mono_us >= *until_us {
                    let deadline_us = *deadline_us;
                    if self.is_remote() {
                        return self.fail(self.overdue_at("server/discover"), now);
                    }
                    self.run.probed = Probed::Silent;
                    self.initialize(Revision::NEWEST_HANDSHAKE, deadline_us);
                }
            }
            Phase::Ready {
                idle_at_us, era, ..
            } => {
                if idle_at_us.is_some_and(|at| now.mono_us >= at) {
                    self.out
                        .push_back(LinkOutput::Note("idle", "stopped: no calls".to_owned()));
                    self.close();
                } else if self.relisten_at_us.is_some_and(|at| now.mono_us >= at) {
                    // what changed in between was not heard: read again, and listen
                    let era = *era;
                    self.start_survey(era, now);
                }
            }
            Phase::Starting { deadline_us } => {
                if now.mono_us >= *deadline_us {
                    self.fail(self.overdue_at("starting"), now);
                }
            }
            Phase::Surveying { deadline_us, .. } => {
                if now.mono_us >= *deadline_us {
                    let open = self.asks.values().find_map(|ask| match ask {
                        Ask::List(kind) => Some(survey::method(*kind)),
                        Ask::Discover | Ask::Initialize | Ask::Listen => None,
                    });
                    let phrase = self.overdue_at(open.unwrap_or("lists"));
                    self.fail(phrase, now);
                }
            }
        }
    }

    // ---- sending

    /// Sends a request of the link's own; `members` are raw JSON, each followed by a comma.
    fn request(&mut self, ask: Ask, method: &str, members: &str, era: Era) {
        let id = self.next_id();
        self.asks.insert(id, ask);
        let params = match era {
            Era::Handshake(_) => members.trim_end_matches(',').to_owned(),
            // MCP 2026-07-28, basic: every request carries these
            Era::Stateless => format!(
                r#"{members}"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}","io.modelcontextprotocol/clientInfo":{CLIENT_INFO},"io.modelcontextprotocol/clientCapabilities":{told}}}"#,
                version = Revision::STATELESS.as_str(),
                told = self.told.text,
            ),
        };
        self.send(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#
        ));
    }

    fn send(&mut self, line: String) {
        let mut line = line.into_bytes();
        line.push(b'\n');
        self.out.push_back(LinkOutput::Send(line));
    }
}
