//! What reaches a link, and what it wants done.

use super::Opening;
use crate::registry::doc::Surface;
use crate::session::{LineFault, Loss};
use crate::wire::era::Era;
use crate::wire::http::Headers;
use crate::wire::msg::Body;

/// What reaches a link.
#[derive(Debug, Clone, Copy)]
pub enum LinkInput<'a> {
    /// A response to a request of the link's own, i.e. one whose id it [`owns`](super::Link::owns).
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
    /// An answer came whose id, this token, no open request has.
    Stray(&'a str),
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
    /// The server takes back a listen of the link's own, which it [`listens`](super::Link::listens) to.
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

impl<'a> Answer<'a> {
    /// The answer that a response holds.
    #[must_use]
    pub fn of(body: &'a Body<'_>) -> Self {
        match body {
            Body::Error {
                code,
                message,
                object,
            } => Self::Error {
                code: *code,
                message,
                data: object.get("data"),
            },
            Body::Result(result) => Self::Result(result.raw()),
        }
    }
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
    /// Which arguments go into headers from now on, as the surface says that was accepted. For
    /// servers over HTTP in the stateless era; comes before `Ready`.
    Headers(Box<Headers>),
    /// How its server is opened is known now; with `None`, what was known is wrong. To be
    /// remembered beyond this link.
    Learned(Option<Opening>),
    /// Something for the record (code, one line).
    Note(&'static str, String),
    /// Start the transport.
    Open,
    /// The live surface was read and agrees with the pin (or the pin mode allows the difference):
    /// send the calls that wait, whatever [`Link::state`](super::Link::state) says by then. Comes again after every
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
