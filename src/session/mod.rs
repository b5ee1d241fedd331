//! The session machine: one client connection, its links, its calls.
//!
//! Sans-IO. The driver feeds [`Input`]s and drains [`Machine::poll`]; nothing here waits, reads a
//! clock or touches a file. After every `handle`, call `poll` until it returns `None`; call
//! `handle(Input::Wake)` when `next_wakeup` has passed. Spurious wakes are harmless.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod link;

use std::sync::Arc;

use bytes::Bytes;

use crate::audit::entry::Entry;
use crate::ids::LinkId;
use crate::policy::Snapshot;
use crate::registry::doc::ServerDoc;
pub use crate::wire::line::LineFault;

/// What reaches the machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// The client closed its end, or a signal asked us to end: settle what is open.
    ClientClosed,
    /// A line from the client that is not usable as a line.
    ClientFault(LineFault),
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
        /// What was wrong with it.
        fault: LineFault,
    },
    /// One line from a link, without its newline.
    LinkLine {
        /// Which.
        link: LinkId,
        /// The line.
        line: &'a [u8],
    },
    /// A link's transport is up: bytes may be sent.
    LinkOpened {
        /// Which.
        link: LinkId,
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
    /// A new snapshot: registry, login or freshness moved.
    Snapshot(Arc<Snapshot>),
    /// Time passed.
    Wake,
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
    /// Start this link's transport for this server.
    OpenLink(LinkId, Arc<ServerDoc>),
    /// Write this line to the client. The newline is included.
    ToClient(Bytes),
    /// Write this line to a link. The newline is included.
    ToLink(LinkId, Bytes),
}
