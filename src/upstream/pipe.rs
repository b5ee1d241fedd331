//! One running transport, whichever it is: lines go in, lines and ends come out.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::{Child, Farewell, Heard, PipeEvent, Remote};
use crate::session::Place;
use crate::wire::http::Headers;
use crate::wire::line::{LineBuffer, LineFault};
use crate::wire::msg::{Id, Kind};
use crate::wire::peek::Peeked;

/// A server that is reached.
#[derive(Debug)]
pub enum Pipe {
    /// A child process, and what it wrote so far.
    Child(Box<Child>, LineBuffer),
    /// A server behind an address.
    Remote(Box<Remote>),
}

impl From<Child> for Pipe {
    fn from(child: Child) -> Self {
        Self::Child(Box::new(child), LineBuffer::new())
    }
}

impl From<Remote> for Pipe {
    fn from(remote: Remote) -> Self {
        Self::Remote(Box::new(remote))
    }
}

impl Pipe {
    /// Adds a line, newline included. One that has ended gets no more.
    pub fn push(&mut self, line: Bytes) {
        match self {
            Self::Child(child, _) => child.push(line),
            Self::Remote(remote) => remote.push(line),
        }
    }

    /// Whether it is reached by HTTP+SSE of 2024-11-05.
    #[must_use]
    pub fn is_older(&self) -> bool {
        match self {
            Self::Child(..) => false,
            Self::Remote(remote) => remote.is_older(),
        }
    }

    /// Puts these arguments of calls into headers too, from now on.
    pub fn mirror(&mut self, headers: Headers) {
        match self {
            Self::Child(..) => {}
            Self::Remote(remote) => remote.mirror(headers),
        }
    }

    /// Bytes that were not taken yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        match self {
            Self::Child(child, _) => child.queued_bytes(),
            // it refuses what is too much, line by line
            Self::Remote(_) => 0,
        }
    }

    /// Bytes of a line that has no end yet, of those that were dropped.
    #[must_use]
    pub fn dropped_bytes(&self) -> usize {
        match self {
            Self::Child(_, buffer) => buffer.dropped_bytes(),
            // its events and bodies are bounded where they are read
            Self::Remote(_) => 0,
        }
    }

    /// Writes what is queued, as far as it goes.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Child(child, _) => child.poll_flush(cx),
            Self::Remote(_) => {}
        }
    }

    /// The next thing that comes. `read` is false while nobody has room for its lines.
    pub fn poll_event(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<PipeEvent> {
        match self {
            Self::Child(child, buffer) => child.poll_event(cx, buffer, read),
            Self::Remote(remote) => remote.poll_event(cx, read),
        }
    }

    /// The next whole line without its newline, or the fault of one that is over.
    pub fn next_line(&mut self) -> Option<Heard<'_>> {
        match self {
            Self::Child(_, buffer) => {
                let line = buffer.next_line()?;
                Some(Heard {
                    place: Place::Only,
                    line,
                })
            }
            Self::Remote(remote) => remote.next_line(),
        }
    }

    /// Where the line came that was just given as too long: with the answer to the request whose id
    /// it had, as far as that was seen.
    #[must_use]
    pub fn place_of_dropped(&mut self) -> Option<Place> {
        let Self::Child(_, buffer) = self else {
            return None;
        };
        let Peeked { id, kind } = buffer.peeked();
        let id = id.filter(|_| kind == Kind::Response);
        Some(Place::Answer(Id::parse(&id?).ok()?.number()?))
    }

    /// That an answer is over whose lines were the last to be taken: the next event, if it is that.
    pub fn next_over(&mut self) -> Option<PipeEvent> {
        match self {
            Self::Child(..) => None,
            Self::Remote(remote) => remote.next_over(),
        }
    }

    /// It ended: what is left of a line that did not.
    pub fn finish(&mut self) -> Option<LineFault> {
        match self {
            Self::Child(_, buffer) => buffer.finish(),
            Self::Remote(_) => None,
        }
    }

    /// Ends it. A remote session says so to its server, for as long as somebody drives that.
    pub fn stop(self) -> Option<Farewell> {
        match self {
            Self::Child(child, _) => {
                child.stop();
                None
            }
            Self::Remote(remote) => remote.stop(),
        }
    }
}
