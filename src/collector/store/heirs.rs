//! Streams that a later stream of the same machine names: are they here?
//!
//! A stream's first records name earlier ones with a record they had and the chain there. That is
//! looked up when the machine says that it holds nothing more: until then the earlier stream may
//! still be on its way. What is found is an alert at the next contact; `verify` and `devices`
//! find it again from what is stored.

use std::collections::BTreeMap;

use super::{Header, Store, StoreError, locked, stream_dir};
use crate::audit::decode::Said;
use crate::audit::{self, encode};
use crate::batch::protocol::Lane;
use crate::clock::Now;
use crate::collector::stream;
use crate::ids::{Digest, KeyId, StreamId};

/// A later stream, and what it saw of an earlier one.
#[derive(Debug, Clone, Copy)]
struct Heir {
    heir: StreamId,
    stream: StreamId,
    at_least: u64,
    hash: Digest,
}

/// What is to be looked up, by installation. Forgotten when the collector ends.
#[derive(Debug, Default)]
pub(super) struct Heirs(BTreeMap<KeyId, Vec<Heir>>);

impl Store {
    /// Takes note of the streams that the first records of a stream name.
    pub(super) fn note_heir(&self, id: &KeyId, header: &Header, frames: &[u8]) {
        if header.first_seq > 2 {
            return;
        }
        let decoded = audit::frames(frames).map_while(Result::ok).take(2);
        for frame in decoded {
            let Ok(decoded) = audit::decode(&frame) else {
                continue;
            };
            let Said::Stream(said) = &decoded.said else {
                continue;
            };
            let mut heirs = locked(&self.heirs);
            let own = heirs.0.entry(id.clone()).or_default();
            own.extend(said.previous.iter().map(|previous| Heir {
                heir: header.stream,
                stream: previous.stream,
                at_least: previous.at_least,
                hash: previous.hash,
            }));
            own.truncate(encode::PREVIOUS);
        }
    }

    /// Looks up what was noted, now that the machine holds nothing more.
    pub(super) fn settle_heirs(&self, id: &KeyId, now: &Now) -> Result<(), StoreError> {
        let Some(noted) = locked(&self.heirs).0.remove(id) else {
            return Ok(());
        };
        for heir in noted {
            if let Some((kind, detail)) = self.misses(id, &heir)? {
                let event = Some((heir.stream, heir.at_least));
                self.alert(kind, id, event, &detail, now)?;
            }
        }
        Ok(())
    }

    fn misses(
        &self,
        id: &KeyId,
        heir: &Heir,
    ) -> Result<Option<(&'static str, String)>, StoreError> {
        // a machine whose key was made anew goes on under another id; strangers prove nothing
        let others: Vec<KeyId> = {
            let installations = locked(&self.installations);
            let known = installations.known.iter();
            let known = known.filter(|(other, doc)| *other != id && !doc.bindings.is_empty());
            known.map(|(other, _)| other.clone()).collect()
        };
        let (mut last, mut is_other) = (0, false);
        for other in std::iter::once(id).chain(&others) {
            let dir = stream_dir(&self.root, other, heir.stream);
            if !dir.exists() {
                continue;
            }
            let dir = stream::lane_dir(&dir, Lane::Main);
            let index = stream::index(&dir).map_err(StoreError::io(&dir))?;
            let newest = index.batches.iter().map(|b| b.header.last_seq).max();
            last = last.max(newest.unwrap_or(0));
            match stream::hash_in(&index.batches, heir.at_least) {
                Some(hash) if hash == heir.hash => return Ok(None),
                Some(_) => is_other = true,
                None => {}
            }
        }
        let Heir {
            heir,
            stream,
            at_least,
            ..
        } = heir;
        Ok(if is_other {
            let detail = format!("stream {heir} of the machine saw another record there");
            Some(("rewritten", detail))
        } else if last < *at_least {
            let first = last + 1;
            let detail = format!(
                "records {first} to {at_least} of stream {stream} are missing: stream {heir} of \
                 the machine names them"
            );
            Some(("missing", detail))
        } else {
            None
        })
    }
}
