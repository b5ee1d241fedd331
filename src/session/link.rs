//! One upstream connection: opening, era, surface, readiness.
//!
//! The link owns its own housekeeping (probe, initialize, lists, ping) and hands everything else
//! back to the machine. It never sees a caller or a client payload.

use std::sync::Arc;

use super::LineFault;
use crate::clock::Now;
use crate::ids::LinkId;
use crate::registry::doc::{ServerDoc, Surface};
use crate::wire::era::Era;

/// One upstream connection.
#[derive(Debug)]
pub struct Link {
    id: LinkId,
    server: Arc<ServerDoc>,
}

/// What reaches a link.
#[derive(Debug)]
pub enum LinkInput<'a> {
    /// The transport ended or never started.
    Closed(&'a str),
    /// An unusable line came.
    Fault(LineFault),
    /// A line came.
    Line(&'a [u8]),
    /// The transport is up.
    Opened,
    /// Time passed.
    Wake,
}

/// What a link wants done.
#[derive(Debug)]
pub enum LinkOutput {
    /// End the transport.
    Close,
    /// It cannot be used now: every call waiting for it fails with this.
    Failed(LinkFailure),
    /// Something for the record (code, one line).
    Note(&'static str, String),
    /// Start the transport.
    Open,
    /// The live surface was read and agrees with the pin (or the pin mode allows the difference).
    Ready(Era),
    /// Write this line, newline included.
    Send(Vec<u8>),
    /// The live surface, where the caller asked for it (`pin`, and servers whose pin is `off`).
    Surface(Box<Surface>),
}

/// Why a link cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFailure {
    /// The live surface is not the pinned one: the sentence names the first difference.
    Drift(String),
    /// It did not start, ended, or did not answer: one line for people.
    Down(String),
}

/// Where a link is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not running; may be wanted again from this monotonic microsecond on.
    Closed { not_before_us: u64 },
    /// Starting, probing or reading the surface.
    Opening,
    /// Calls may be sent.
    Ready(Era),
}

impl Link {
    /// Makes a link that is not running. `survey` asks for [`LinkOutput::Surface`].
    #[must_use]
    pub fn new(id: LinkId, server: Arc<ServerDoc>, survey: bool) -> Self {
        let _ = survey;
        Self { id, server }
    }
    /// Whom it belongs to.
    pub fn id(&self) -> LinkId {
        self.id
    }
    /// The server's entry.
    pub fn server(&self) -> &Arc<ServerDoc> {
        &self.server
    }
    /// A call needs it: opens it if it is closed and its back-off is over (else `Failed` comes).
    pub fn want(&mut self, now: &Now) {
        let _ = now;
        todo!()
    }
    /// Where it is in its life.
    pub fn state(&self) -> LinkState {
        todo!()
    }
    /// The next id for a request of the machine's on this link; the link uses the same counter.
    pub fn next_id(&mut self) -> u64 {
        todo!()
    }
    /// Tells the link how many calls are open, so that it can end when idle.
    pub fn set_busy(&mut self, calls: usize, now: &Now) {
        let _ = (calls, now);
        todo!()
    }
    /// Takes an input. Returns true when a `Line` was the link's own affair; false hands it back
    /// to the machine (responses to the machine's ids, notifications, server requests).
    pub fn handle(&mut self, input: LinkInput<'_>, now: &Now) -> bool {
        let _ = (input, now);
        todo!()
    }
    /// The next thing to do.
    pub fn poll(&mut self) -> Option<LinkOutput> {
        todo!()
    }
    /// When to call `handle(Wake)`, in monotonic microseconds.
    pub fn next_wakeup(&self) -> Option<u64> {
        todo!()
    }
}
