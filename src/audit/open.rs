//! The calls of a writer that have no outcome yet: what an outcome is bound to, and what goes on
//! in another stream when theirs cannot.

use super::entry::{CallFacts, ContextId};
use crate::ids::{CallId, Digest, StreamId};

/// Calls without an outcome that are kept: far above what one session has under way. A call
/// beyond it ends in an outcome that is bound to itself only.
const CALLS: usize = 4096;
/// Buffers of ended calls that are kept for the next ones.
const SPARE: usize = 64;

/// The contexts a call is made in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refs {
    pub(super) caller: ContextId,
    pub(super) client: ContextId,
    pub(super) target: ContextId,
    pub(super) rule: ContextId,
    pub(super) registry: Option<ContextId>,
    pub(super) credential: Option<ContextId>,
}

impl From<&CallFacts> for Refs {
    fn from(facts: &CallFacts) -> Self {
        Self {
            caller: facts.caller,
            client: facts.client,
            target: facts.target,
            rule: facts.rule,
            registry: facts.registry,
            credential: facts.credential,
        }
    }
}

/// A call without an outcome.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) call: CallId,
    pub(super) leg: u16,
    pub(super) refs: Refs,
    /// What its intent says between the time and the payload.
    pub(super) said: Vec<u8>,
    /// The clear digest of its record in this stream.
    pub(super) clear: Digest,
    /// Which record that is; 0 where it is yet to be written.
    pub(super) written: u64,
    /// Where its intent is, if that is in an earlier stream.
    pub(super) from: Option<(StreamId, u64)>,
    /// The record of its outcome, until that is known to be in the file; 0 for none.
    pub(super) ended: u64,
}

/// The calls under way. A few: they are searched one by one.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    calls: Vec<Begun>,
    spare: Vec<Vec<u8>>,
}

impl OpenCalls {
    /// A buffer for [`Begun::said`].
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn begin(&mut self, begun: Begun) {
        if self.calls.len() >= CALLS {
            self.calls.remove(0);
        }
        self.calls.push(begun);
    }

    /// The call whose outcome comes now: the newest of that name.
    pub(super) fn find(&mut self, call: CallId, leg: u16) -> Option<&mut Begun> {
        let mut calls = self.calls.iter_mut().rev();
        calls.find(|begun| begun.call == call && begun.leg == leg && begun.ended == 0)
    }

    /// What ended is in the file.
    pub(super) fn settle(&mut self) {
        for begun in self.calls.extract_if(.., |begun| begun.ended > 0) {
            if self.spare.len() < SPARE {
                let mut said = begun.said;
                said.clear();
                self.spare.push(said);
            }
        }
    }

    /// Nothing after the record `seq` was written.
    pub(super) fn rewind(&mut self, seq: u64) {
        self.calls.retain_mut(|begun| {
            if begun.ended > seq {
                begun.ended = 0;
            }
            if begun.written > seq {
                begun.written = 0;
            }
            begun.written > 0 || begun.from.is_some()
        });
    }

    /// They go on in another stream; `stream` is the one that was theirs.
    pub(super) fn carry(&mut self, stream: StreamId) {
        self.settle();
        for begun in &mut self.calls {
            begun.from.get_or_insert((stream, begun.written));
            begun.written = 0;
        }
    }
}
