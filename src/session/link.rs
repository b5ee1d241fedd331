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
//! **No call is sent on a link unless the live surface was compared with the pin, since the
//! transport started and since the last gathered `list_changed`.**
//!
//! Transports: after [`LinkOutput::Open`] the driver gives `Opened` or `Closed`; after
//! [`LinkOutput::Close`] it gives nothing more of that transport, not even `Closed`. A link may
//! ask for `Close` and `Open` in one breath (a server that must be started anew for its other
//! era), with the same id.

use std::sync::Arc;

use super::LineFault;
use crate::clock::Now;
use crate::ids::LinkId;
use crate::registry::doc::{ServerDoc, Surface};
use crate::wire::era::Era;

/// How mcpshim introduces itself upstream when it speaks for itself: `clientInfo`, raw JSON.
pub const CLIENT_INFO: &str = concat!(
    r#"{"name":"mcpshim","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// The client capabilities declared upstream by the link, raw JSON.
///
/// Servers show other tools to clients of other capabilities (measured: server-everything), so
/// the link declares the same in `pin` and in `serve`, or every pin would drift.
pub const CLIENT_CAPABILITIES: &str = "{}";

/// One upstream connection.
#[derive(Debug)]
pub struct Link {
    id: LinkId,
    server: Arc<ServerDoc>,
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
    /// A line came that cannot be used, as bytes ([`LineFault`]) or as a message.
    Fault(Option<LineFault>),
    /// The transport is up.
    Opened,
    /// `ping` came, with this id (raw JSON).
    Ping(&'a str),
    /// Time passed.
    Wake,
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
    /// Something for the record (code, one line).
    Note(&'static str, String),
    /// Start the transport.
    Open,
    /// The live surface was read and agrees with the pin (or the pin mode allows the difference):
    /// calls that wait may be sent. Comes again after every comparison.
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
    /// It did not start, ended, or did not answer: one line for people.
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
        let _ = survey;
        Self { id, server }
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

    /// The newest entry of the same server, from a new registry: another transport starts the
    /// process anew, another pin compares again before the next call.
    pub fn set_server(&mut self, server: Arc<ServerDoc>, now: &Now) {
        let _ = (server, now);
        todo!()
    }

    /// What the running server said of itself (capabilities, `serverInfo`, instructions; lists
    /// only where the pin is `off`), once it was `Ready`.
    #[must_use]
    pub fn live(&self) -> Option<&Surface> {
        todo!()
    }

    /// A call needs it: opens it if it is closed and its back-off is over, else `Failed` comes.
    /// Does nothing while it is opening or ready.
    pub fn want(&mut self, now: &Now) {
        let _ = now;
        todo!()
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> LinkState {
        todo!()
    }

    /// The next id for a request of the machine's on this link; the link uses the same counter.
    pub fn next_id(&mut self) -> u64 {
        todo!()
    }

    /// Whether the answer with this id is to be given to [`Link::handle`].
    #[must_use]
    pub fn owns(&self, id: u64) -> bool {
        let _ = id;
        todo!()
    }

    /// Tells the link how many calls are open (waiting or sent), so that it can end when idle.
    pub fn set_busy(&mut self, calls: usize, now: &Now) {
        let _ = (calls, now);
        todo!()
    }

    /// Takes an input. Call [`Link::poll`] until `None` afterwards.
    pub fn handle(&mut self, input: LinkInput<'_>, now: &Now) {
        let _ = (input, now);
        todo!()
    }

    /// Ends the transport, if there is one: the session is over, or the server was withdrawn.
    pub fn stop(&mut self) {
        todo!()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<LinkOutput> {
        todo!()
    }

    /// When to call `handle(Wake)`, in monotonic microseconds.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        todo!()
    }
}
