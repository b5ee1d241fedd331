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

mod survey;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use self::survey::{Changes, Offer, Page, Survey};
use super::{LineFault, Loss, Reach};
use crate::clock::Now;
use crate::ids::LinkId;
use crate::limits;
use crate::pin::{self, Kind};
use crate::registry::doc::{PinMode, ServerDoc, Surface, Transport};
use crate::wire::era::{APPS, Can, Era, Revision};

/// How mcpshim introduces itself upstream when it speaks for itself: `clientInfo`, raw JSON.
pub const CLIENT_INFO: &str = concat!(
    r#"{"name":"mcpshim","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// What a server may ask of a client, by its signed entry.
#[must_use]
pub fn allowed(server: &ServerDoc) -> Can {
    Can {
        apps: server.apps,
        form: server.elicitation,
        roots: server.roots,
        sampling: server.sampling,
        sampling_context: server.sampling,
        sampling_tools: server.sampling,
        url: server.elicitation,
    }
}

/// What the server of one transport is told of the client: what its entry allows of what the
/// client says. A survey says all that the entry allows.
///
/// Servers show other tools to clients of other capabilities (measured: server-everything). So it
/// stays the same for the life of a transport, and the comparison with the pin knows of it.
#[derive(Debug, Default)]
struct Told {
    can: Can,
    /// The settings of MCP Apps, raw JSON.
    apps: Option<Box<str>>,
    /// The capabilities in the stateless era, raw JSON.
    text: String,
}

impl Told {
    fn new(can: Can, apps: Option<&str>) -> Self {
        let text = can.declared(Era::Stateless, apps.unwrap_or(APPS));
        let apps = apps.map(Into::into);
        Self { can, apps, text }
    }

    /// The capabilities in an era. Servers of the handshake era are answered here where the
    /// client works, whatever the client can ([`super::roots`]).
    fn declared(&self, to: Era, allowed: Can) -> Cow<'_, str> {
        match to {
            Era::Handshake(_) => {
                let can = self.under(to, allowed);
                Cow::Owned(can.declared(to, self.apps.as_deref().unwrap_or(APPS)))
            }
            Era::Stateless => Cow::Borrowed(&self.text),
        }
    }

    fn under(&self, era: Era, allowed: Can) -> Can {
        Can {
            roots: match era {
                Era::Handshake(_) => allowed.roots,
                Era::Stateless => self.can.roots,
            },
            ..self.can
        }
    }
}

/// Unusable lines on one transport after which it is not taken for an MCP server while it opens.
const FAULTS: u32 = 1000;

/// One upstream connection.
#[derive(Debug)]
pub struct Link {
    id: LinkId,
    server: Arc<ServerDoc>,
    /// Whether the caller only wants the surface.
    survey: bool,
    phase: Phase,
    /// What a client says it can be asked for, for the next transport…
    client: (Can, Option<Box<str>>),
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

/// How a server is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// By `initialize`: it is of the handshake era.
    Initialize,
    /// By `server/discover`.
    Probe,
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

/// What a server says of itself, in either era.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    protocol_version: Option<String>,
    supported_versions: Option<Vec<String>>,
    #[serde(borrow)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow)]
    server_info: Option<&'a RawValue>,
    instructions: Option<String>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<AboutMeta<'a>>,
}

#[derive(Deserialize)]
struct AboutMeta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<&'a RawValue>,
}

impl About<'_> {
    fn into_surface(self, protocol: &str) -> Surface {
        let server_info = self
            .server_info
            .or_else(|| self.meta.and_then(|meta| meta.server_info));
        Surface {
            protocol: protocol.to_owned(),
            capabilities: self.capabilities.map(ToOwned::to_owned),
            server_info: server_info.map(ToOwned::to_owned),
            instructions: self.instructions,
            ..Surface::default()
        }
    }
}

/// What reaches a link.
#[derive(Debug, Clone, Copy)]
pub enum LinkInput<'a> {
    /// A response to a request of the link's own, i.e. one whose id it [`owns`](Link::owns).
    Answer {
        /// The id.
        id: u64,
        /// What was answered.
        answer: Answer<'a>,
    },
    /// `notifications/{tools,prompts,resources}/list_changed` came.
    Changed,
    /// The transport ended or never started: one line for people.
    Closed(&'a str),
    /// A request of the link's own will not be answered, though the transport is alive.
    Lost {
        /// The id.
        id: u64,
        /// What is known of it.
        loss: &'a Loss,
    },
    /// A line came that cannot be used, as bytes ([`LineFault`]) or as a message.
    Fault(Option<LineFault>),
    /// The transport is up.
    Opened,
    /// `ping` came, with this id (raw JSON).
    Ping(&'a str),
    /// A line came that was to be an answer and cannot be read, so that nobody knows to what: one
    /// phrase that follows the server's key.
    Spoilt(&'a str),
    /// A call was not answered in its time: one phrase that follows the server's key.
    Overdue(&'a str),
    /// A call will not be answered, though the transport is alive.
    Strained(&'a Loss),
    /// The transport was not started, because of something on this side that a person can mend:
    /// it is tried again with the next call, without a back-off.
    Refused(&'a str),
    /// `roots/list` came, with this id (raw JSON), where nobody else answers it: there are none.
    Roots(&'a str),
    /// Time passed.
    Wake,
    /// The server takes back a listen of the link's own, which it [`listens`](Link::listens) to.
    Withdrawn(u64),
}

/// The answer to a request of the link's own. All text is raw JSON.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// `error`.
    Error {
        /// `error.code`.
        code: i64,
        /// `error.message`, decoded.
        message: &'a str,
        /// `error.data`, raw JSON.
        data: Option<&'a str>,
    },
    /// `result`, raw JSON.
    Result(&'a str),
}

/// What a link wants done.
#[derive(Debug)]
pub enum LinkOutput {
    /// End the transport. Nothing more of it is to be given, not even `Closed`.
    Close,
    /// It cannot be used now: every call waiting for it fails with this. Calls already sent are
    /// not concerned, unless the transport ended (the machine knows: it passed `Closed` on, or
    /// forwards `Close` right after this).
    Failed(LinkFailure),
    /// How its server is opened is known now; with `None`, what was known is wrong. To be
    /// remembered beyond this link.
    Learned(Option<Opening>),
    /// Something for the record (code, one line).
    Note(&'static str, String),
    /// Start the transport.
    Open,
    /// The live surface was read and agrees with the pin (or the pin mode allows the difference):
    /// send the calls that wait, whatever [`Link::state`] says by then. Comes again after every
    /// comparison.
    Ready(Era),
    /// Write this line, newline included.
    Send(Vec<u8>),
    /// The live surface, where the caller asked for it (`pin`, and servers whose pin is `off`).
    /// Comes before `Ready`, and again when it changed.
    Surface(Box<Surface>),
}

/// Why a link cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFailure {
    /// It did not start, ended, or did not answer. A phrase that follows the server's key, e.g.
    /// `ended: exit status: 1`.
    Down(String),
    /// The live surface is not the pinned one: the sentence names the first difference.
    Drift(String),
}

/// Where a link is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Not running; a call that wants it before this monotonic microsecond gets `Failed`.
    Closed {
        /// When the back-off is over.
        not_before_us: u64,
    },
    /// Starting, probing, or reading the surface: calls wait.
    Opening,
    /// Calls may be sent.
    Ready(Era),
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
            client: (Can::default(), None),
            told: Told::new(Can::default(), None),
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
                (Some(new), Some(old)) => is_same_surface(new, old),
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
    pub fn declare(&mut self, client: Can, apps: Option<&str>) {
        if matches!(self.phase, Phase::Closed)
            && (self.client.0, self.client.1.as_deref()) != (client, apps)
        {
            self.client = (client, apps.map(Into::into));
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

    // ---- opening

    fn open(&mut self, deadline_us: u64) {
        self.asks.clear();
        let allowed = allowed(&self.server);
        self.told = match (&self.client, self.survey) {
            (_, true) => Told::new(allowed, None),
            ((client, apps), false) => Told::new(client.and(allowed), apps.as_deref()),
        };
        self.phase = Phase::Starting { deadline_us };
        self.out.push_back(LinkOutput::Open);
    }

    /// How to open: as it was learned, else as the pin says, else by a probe.
    fn opening(&self) -> Opening {
        let pinned = || {
            let protocol = &self.server.surface.as_ref()?.protocol;
            Some(match Revision::parse(protocol)?.era() {
                Era::Handshake(_) => Opening::Initialize,
                Era::Stateless => Opening::Probe,
            })
        };
        if let Transport::Http {
            legacy_sse: true, ..
        } = self.server.transport
        {
            return Opening::Initialize;
        }
        self.learned.or_else(pinned).unwrap_or(Opening::Probe)
    }

    fn is_remote(&self) -> bool {
        matches!(self.server.transport, Transport::Http { .. })
    }

    /// How long `server/discover` may take: a server that is known to answer it, and a survey
    /// that a person waits for, are given the time a first `npx` takes; so is one over HTTP, where
    /// silence says nothing of the era.
    fn patience_ms(&self) -> u64 {
        if self.is_remote() {
            return limits::PROBE_KNOWN_MS;
        }
        let known = self.learned == Some(Opening::Probe)
            || self
                .server
                .surface
                .as_ref()
                .is_some_and(|pin| pin.protocol == Revision::STATELESS.as_str());
        match (known, self.survey) {
            (true, _) => limits::PROBE_KNOWN_MS,
            (false, true) => limits::PROBE_SURVEY_MS,
            (false, false) => limits::PROBE_MS,
        }
    }

    fn opened(&mut self, now: &Now) {
        let Phase::Starting { deadline_us } = self.phase else {
            return;
        };
        match self.opening() {
            Opening::Initialize => {
                self.initialize(Revision::NEWEST_HANDSHAKE, deadline_us);
            }
            Opening::Probe => self.probe(deadline_us, now),
        }
    }

    fn probe(&mut self, deadline_us: u64, now: &Now) {
        self.run.probed = Probed::Sent;
        self.request(Ask::Discover, "server/discover", "", Era::Stateless);
        self.phase = Phase::Probing {
            deadline_us,
            until_us: now.mono_us + self.patience_ms() * 1000,
        };
    }

    /// MCP 2025-11-25, lifecycle: the newest version we speak is asked for.
    fn initialize(&mut self, revision: Revision, deadline_us: u64) {
        let id = self.next_id();
        self.asks.insert(id, Ask::Initialize);
        let version = revision.as_str();
        let capabilities = self.told.declared(revision.era(), allowed(&self.server));
        self.send(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{CLIENT_INFO}}}}}"#
        ));
        self.phase = Phase::Initializing { deadline_us };
    }

    /// Starts the process anew, to be opened the other way. Once per opening.
    fn reopen(&mut self, opening: Opening, deadline_us: u64) {
        self.learned = Some(opening);
        self.run = Run {
            reopened: true,
            ..Run::default()
        };
        self.open(deadline_us);
    }

    fn answered(&mut self, ask: Ask, answer: Answer<'_>, now: &Now) {
        match ask {
            Ask::Discover => self.answered_discover(answer, now),
            Ask::Initialize => self.answered_initialize(answer, now),
            Ask::List(kind) => self.answered_list(kind, answer, now),
            Ask::Listen => match answer {
                // a server that does not know it: heard again from the next survey on
                Answer::Error { .. } => {}
                // its end
                Answer::Result(_) => self.listen_again(now),
            },
        }
    }

    fn answered_discover(&mut self, answer: Answer<'_>, now: &Now) {
        let about = match answer {
            Answer::Error { .. } => None,
            Answer::Result(text) => serde_json::from_str::<About<'_>>(text)
                .ok()
                .filter(|about| about.supported_versions.is_some()),
        };
        let modern = Revision::STATELESS.as_str();
        let speaks_modern = about
            .as_ref()
            .and_then(|about| about.supported_versions.as_ref())
            .map(|versions| versions.iter().any(|version| version == modern));
        let Phase::Probing { deadline_us, .. } = self.phase else {
            // late, `initialize` is under way: what it says counts if `initialize` is refused
            if speaks_modern == Some(true) {
                self.run.discovered = about.map(|about| about.into_surface(modern));
            }
            return;
        };
        match (speaks_modern, about) {
            (Some(true), Some(about)) => {
                self.learned = Some(Opening::Probe);
                self.live = Some(about.into_surface(modern));
                self.start_survey(Era::Stateless, now);
            }
            // it knows discover, but no revision of ours that goes with it; some servers are
            // bound to the newer era by having answered (measured: Python mcp 2.3)
            (Some(_), _) if !self.run.reopened => {
                self.out.push_back(LinkOutput::Close);
                self.reopen(Opening::Initialize, deadline_us);
            }
            // MCP 2026-07-28, backward compatibility: only that era knows these two
            (_, _) if self.is_remote() && is_modern_refusal(&answer) => {
                self.fail(
                    "refused server/discover as a server of 2026-07-28".to_owned(),
                    now,
                );
            }
            (_, _) => match unsupported(&answer) {
                Some(versions) => match newest_handshake(&versions) {
                    Some(revision) => self.initialize(revision, deadline_us),
                    None => self.fail(no_common(&versions), now),
                },
                None => self.initialize(Revision::NEWEST_HANDSHAKE, deadline_us),
            },
        }
    }

    fn answered_initialize(&mut self, answer: Answer<'_>, now: &Now) {
        let Phase::Initializing { deadline_us } = self.phase else {
            return;
        };
        match answer {
            Answer::Result(text) => {
                let about: About<'_> = match serde_json::from_str(text) {
                    Ok(about) => about,
                    Err(error) => {
                        return self.fail(
                            format!("answered initialize with an unusable result: {error}"),
                            now,
                        );
                    }
                };
                let version = about.protocol_version.clone().unwrap_or_default();
                let era = match Revision::parse(&version).map(Revision::era) {
                    Some(Era::Stateless) | None => {
                        return self.fail(no_common(&[version]), now);
                    }
                    Some(era @ Era::Handshake(_)) => era,
                };
                // one that answered discover late is given more time for it next time
                self.learned = Some(match self.run.discovered {
                    Some(_) => Opening::Probe,
                    None => Opening::Initialize,
                });
                self.live = Some(about.into_surface(&version));
                self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned());
                self.start_survey(era, now);
            }
            Answer::Error { code, message, .. } => {
                if let Some(surface) = self.run.discovered.take() {
                    // its late answer to discover bound it to the newer era
                    self.learned = Some(Opening::Probe);
                    self.live = Some(surface);
                    return self.start_survey(Era::Stateless, now);
                }
                if let Some(versions) = unsupported(&answer) {
                    let modern = Revision::STATELESS.as_str();
                    let speaks_modern = versions.iter().any(|version| version == modern);
                    if !speaks_modern || self.run.redirected {
                        return self.fail(no_common(&versions), now);
                    }
                    self.run.redirected = true;
                    return self.probe(deadline_us, now);
                }
                if self.run.probed == Probed::No {
                    // it was opened as it is known; perhaps it is of the other era by now
                    return self.probe(deadline_us, now);
                }
                self.fail(
                    format!("refused initialize: {} ({code})", printable(message)),
                    now,
                );
            }
        }
    }

    // ---- reading the surface

    fn start_survey(&mut self, era: Era, now: &Now) {
        self.relisten_at_us = None;
        self.asks.retain(|_, ask| *ask == Ask::Listen);
        let about = self.live.take().unwrap_or_default();
        let offer = Offer::of(about.capabilities.as_deref());
        let listening = !self.asks.is_empty();
        if era == Era::Stateless && offer.changes.any() && !listening {
            self.listen(offer.changes);
            self.listened_us = now.mono_us;
        }
        let lists = offer.lists();
        let about = Surface {
            tools: Vec::new(),
            prompts: Vec::new(),
            templates: Vec::new(),
            resources: Vec::new(),
            ..about
        };
        for kind in &lists {
            self.request(Ask::List(*kind), survey::method(*kind), "", era);
        }
        // a comparison on a running link is not allowed the time a first `npx` takes
        let deadline_us = match self.phase {
            Phase::Initializing { deadline_us } | Phase::Probing { deadline_us, .. } => deadline_us,
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Ready { .. }
            | Phase::Starting { .. }
            | Phase::Surveying { .. } => now.mono_us + limits::SURVEY_MS * 1000,
        };
        self.phase = Phase::Surveying {
            era,
            survey: Box::new(Survey::new(about, lists.len())),
            deadline_us,
            changed: false,
        };
        self.finish_survey(now);
    }

    /// MCP 2026-07-28, subscriptions: change notifications come only to who listens.
    fn listen(&mut self, changes: Changes) {
        let mut wanted = Vec::new();
        if changes.tools {
            wanted.push(r#""toolsListChanged":true"#);
        }
        if changes.prompts {
            wanted.push(r#""promptsListChanged":true"#);
        }
        if changes.resources {
            wanted.push(r#""resourcesListChanged":true"#);
        }
        let wanted = format!(r#""notifications":{{{}}},"#, wanted.join(","));
        self.request(Ask::Listen, "subscriptions/listen", &wanted, Era::Stateless);
    }

    fn answered_list(&mut self, kind: Kind, answer: Answer<'_>, now: &Now) {
        let Phase::Surveying { era, survey, .. } = &mut self.phase else {
            return;
        };
        let era = *era;
        let method = survey::method(kind);
        let page = match answer {
            Answer::Result(text) => survey.page(kind, text),
            // declared and not there: seen for templates and prompts
            Answer::Error { code: -32601, .. } => {
                survey.end_of_list();
                Ok(Page::Last)
            }
            Answer::Error { code, message, .. } => {
                Err(format!("refused {method}: {} ({code})", printable(message)))
            }
        };
        match page {
            Ok(Page::Last) => self.finish_survey(now),
            Ok(Page::More(cursor)) => {
                let cursor = serde_json::Value::from(cursor);
                self.request(
                    Ask::List(kind),
                    method,
                    &format!(r#""cursor":{cursor},"#),
                    era,
                );
            }
            Err(phrase) => self.fail(phrase, now),
        }
    }

    /// Compares, once every list is at its end.
    fn finish_survey(&mut self, now: &Now) {
        if !matches!(&self.phase, Phase::Surveying { survey, .. } if survey.is_complete()) {
            return;
        }
        let Phase::Surveying {
            era,
            survey,
            changed,
            ..
        } = std::mem::replace(&mut self.phase, Phase::Closed)
        else {
            return;
        };
        let live = survey.into_surface();
        match self.compare(era, &live) {
            Ok(absent) => self.absent = (!absent.is_empty()).then_some((era, absent)),
            Err(sentence) => return self.drifted(era, sentence, live, now),
        }
        let wants_lists = self.survey || self.server.pin == PinMode::Off;
        if wants_lists {
            self.out
                .push_back(LinkOutput::Surface(Box::new(live.clone())));
            self.live = Some(live);
        } else {
            self.live = Some(without_lists(live));
        }
        self.out.push_back(LinkOutput::Ready(era));
        if self.run.ready_us.is_none() {
            self.run.ready_us = Some(now.mono_us);
            // one slow or broken start must not bind the next week to the older era
            let proved = self.run.probed != Probed::Silent && !self.run.reopened;
            if self.learned.is_some() && (proved || self.learned == Some(Opening::Probe)) {
                self.out.push_back(LinkOutput::Learned(self.learned));
            }
        }
        self.retry_at_s = None;
        let times = self.failures;
        // one that works at the second try is nothing to tell
        if self.last_failure.take().is_some() && times > 1 {
            let detail = format!("works again, after {times} failures in a row");
            self.out.push_back(LinkOutput::Note("up", detail));
        }
        self.phase = if changed {
            Phase::Gathering {
                era,
                until_us: now.mono_us + limits::LIST_CHANGED_DEBOUNCE_MS * 1000,
            }
        } else {
            Phase::Ready {
                era,
                since_us: now.mono_us,
                idle_at_us: self.idle_at(now),
            }
        };
    }

    /// Gives what of the pin is not there because of the client.
    fn compare(&self, era: Era, live: &Surface) -> Result<BTreeSet<(Kind, String)>, String> {
        if self.survey {
            return Ok(BTreeSet::new());
        }
        match (&self.server.surface, self.server.pin) {
            (_, PinMode::Off) => Ok(BTreeSet::new()),
            (None, PinMode::Names | PinMode::Strict) => Err(format!(
                "server {} has no pinned surface to compare with",
                self.server.key
            )),
            (Some(pinned), mode @ (PinMode::Names | PinMode::Strict)) => {
                // the pin was made for a client that can be asked for all that is allowed
                let compared = match self.lacking(era).is_empty() {
                    true => pin::compare(pinned, live, mode).map(|()| BTreeSet::new()),
                    false => pin::compare_fewer(pinned, live, mode),
                };
                let compared = compared.and_then(|absent| match self.is_remote() {
                    true => pin::compare_headers(pinned, live).map(|()| absent),
                    false => Ok(absent),
                });
                compared.map_err(|drift| drift.sentence)
            }
        }
    }

    fn changed(&mut self, now: &Now) {
        match &mut self.phase {
            Phase::Ready { era, .. } => {
                self.phase = Phase::Gathering {
                    era: *era,
                    until_us: now.mono_us + limits::LIST_CHANGED_DEBOUNCE_MS * 1000,
                };
            }
            Phase::Surveying { changed, .. } => *changed = true,
            // gathered already, or read anyway before the next call
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Initializing { .. }
            | Phase::Probing { .. }
            | Phase::Starting { .. } => {}
        }
    }

    // ---- ends

    fn drifted(&mut self, era: Era, sentence: String, live: Surface, now: &Now) {
        self.live = Some(without_lists(live));
        self.out
            .push_back(LinkOutput::Note("drift", sentence.clone()));
        self.back_off(LinkFailure::Drift(sentence), now);
        self.phase = Phase::Draining(era);
        if self.busy == 0 {
            self.close();
        }
    }

    fn fault(&mut self, fault: Option<LineFault>, now: &Now) {
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
                    Some(LineFault::Cut { .. }) | None if self.run.faults > FAULTS => {
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
    fn spoilt(&mut self, reason: &str, now: &Now) {
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
    fn lost(&mut self, ask: Ask, loss: &Loss, now: &Now) {
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
                    self.live = Some(without_lists(survey.into_surface()));
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
    fn overdue(&mut self, reason: &str, now: &Now) {
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
    fn strained(&mut self, loss: &Loss, now: &Now) {
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
    fn closed(&mut self, reason: &str, now: &Now) {
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
    fn refused(&mut self, reason: &str, now: &Now) {
        self.asks.clear();
        self.phase = Phase::Closed;
        self.not_before_us = now.mono_us;
        let failure = LinkFailure::Down(reason.to_owned());
        self.last_failure = Some(failure.clone());
        self.out
            .push_back(LinkOutput::Note("down", reason.to_owned()));
        self.out.push_back(LinkOutput::Failed(failure));
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
                    self.fail(overdue("initialize"), now);
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
                        return self.fail(overdue("server/discover"), now);
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
                    self.fail(overdue("starting"), now);
                }
            }
            Phase::Surveying { deadline_us, .. } => {
                if now.mono_us >= *deadline_us {
                    let open = self.asks.values().find_map(|ask| match ask {
                        Ask::List(kind) => Some(survey::method(*kind)),
                        Ask::Discover | Ask::Initialize | Ask::Listen => None,
                    });
                    let phrase = overdue(open.unwrap_or("lists"));
                    self.fail(phrase, now);
                }
            }
        }
    }

    fn idle_at(&self, now: &Now) -> Option<u64> {
        let stops = self.busy == 0 && !self.server.stateful && !self.survey;
        stops.then(|| {
            let idle_ms = self.server.limits.idle_ms;
            now.mono_us.saturating_add(idle_ms.saturating_mul(1000))
        })
    }

    /// Gives up the transport with this phrase.
    fn fail(&mut self, phrase: String, now: &Now) {
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

    fn close(&mut self) {
        self.asks.clear();
        self.relisten_at_us = None;
        self.pause = None;
        self.phase = Phase::Closed;
        self.out.push_back(LinkOutput::Close);
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

fn is_same_surface(a: &Surface, b: &Surface) -> bool {
    let raw = |value: &Option<Box<RawValue>>| value.as_ref().map(|raw| raw.get().to_owned());
    a.protocol == b.protocol
        && a.instructions == b.instructions
        && raw(&a.capabilities) == raw(&b.capabilities)
        && Kind::ALL.into_iter().all(|kind| {
            let digests = |surface| {
                Kind::of(kind, surface)
                    .iter()
                    .map(|pinned| pinned.digest)
                    .collect::<Vec<_>>()
            };
            digests(a) == digests(b)
        })
}

fn without_lists(surface: Surface) -> Surface {
    Surface {
        tools: Vec::new(),
        prompts: Vec::new(),
        templates: Vec::new(),
        resources: Vec::new(),
        ..surface
    }
}

/// The versions of an `UnsupportedProtocolVersion` error (MCP 2026-07-28, -32022).
fn unsupported(answer: &Answer<'_>) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let Answer::Error {
        code: -32022, data, ..
    } = answer
    else {
        return None;
    };
    let data: Option<Data> = data.and_then(|data| serde_json::from_str(data).ok());
    Some(data.map(|data| data.supported).unwrap_or_default())
}

/// `HeaderMismatch` or `MissingRequiredClientCapability` (MCP 2026-07-28).
fn is_modern_refusal(answer: &Answer<'_>) -> bool {
    matches!(
        answer,
        Answer::Error {
            code: -32020 | -32021,
            ..
        }
    )
}

fn newest_handshake(versions: &[String]) -> Option<Revision> {
    versions
        .iter()
        .filter_map(|version| Revision::parse(version))
        .filter(|revision| *revision <= Revision::NEWEST_HANDSHAKE)
        .max()
}

fn no_common(versions: &[String]) -> String {
    let versions: Vec<_> = versions.iter().take(8).map(|v| printable(v)).collect();
    format!(
        "speaks no protocol version that mcpshim knows (it speaks: {})",
        versions.join(", ")
    )
}

fn overdue(what: &str) -> String {
    format!("did not answer {what} in time")
}

fn printable(text: &str) -> String {
    pin::printable(text)
}
