//! Installations that are bound to nobody: how much of theirs is kept.
//!
//! Counted is what readers pay: the unpacked size of each batch. A few bytes on the way may be
//! many mebibytes to read, and every question reads everything.

use std::path::Path;

use data_encoding::BASE64;

use super::incoming::Answer;
use super::{InstallationDoc, Store, StoreError, locked, streams};
use crate::batch::Header;
use crate::batch::protocol::{Lane, Refused};
use crate::clock::Now;
use crate::collector::stream;
use crate::ids::KeyId;

/// What the smallest batch costs beside its records, in bytes: files, names and a look at it.
const BATCH_COST: u64 = 4096;

/// Room for installations that are bound to nobody.
#[derive(Debug, Clone, Copy)]
pub struct Rooms {
    /// Of one of them, in bytes.
    pub each_bytes: u64,
    /// Of all together, in bytes.
    pub all_bytes: u64,
    /// How many of them are kept.
    pub installations: usize,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            each_bytes: 64 << 20,
            all_bytes: 1 << 30,
            installations: 10_000,
        }
    }
}

/// What a batch of that unpacked size counts for, in bytes.
pub(super) fn cost(raw_bytes: u32) -> u64 {
    u64::from(raw_bytes) + BATCH_COST
}

/// What the stored batches of an installation count for.
pub(super) fn stored_bytes(root: &Path, id: &KeyId) -> Result<u64, StoreError> {
    let mut total = 0;
    for (_, dir) in streams(root, id)? {
        for lane in [Lane::Main, Lane::Fork, Lane::Quarantine, Lane::Body] {
            let dir = stream::lane_dir(&dir, lane);
            let index = stream::index(&dir).map_err(StoreError::io(&dir))?;
            total += index.batches.iter().map(|b| cost(b.raw_bytes)).sum::<u64>();
        }
    }
    Ok(total)
}

impl Store {
    /// Says whether a batch of a stranger finds no room.
    pub(super) fn full(&self, id: &KeyId, cost: u64) -> Option<Answer> {
        let installations = locked(&self.installations);
        let own = installations.unknown_bytes.get(id).copied().unwrap_or(0);
        let all: u64 = installations.unknown_bytes.values().sum();
        let is_crowded = installations.unknown_bytes.len() >= self.rooms.installations
            && !installations.known.contains_key(id);
        let is_full = own + cost > self.rooms.each_bytes || all + cost > self.rooms.all_bytes;
        (is_full || is_crowded).then(|| Answer::Later {
            status: 429,
            retry_s: 3600,
            refused: Refused {
                error: "the room for installations that are not enrolled is used up".to_owned(),
                seq: None,
            },
        })
    }

    /// Takes room for a batch of a stranger, and takes note of one that is met the first time.
    pub(super) fn reserve(
        &self,
        id: &KeyId,
        header: &Header,
        cost: u64,
        now: &Now,
    ) -> Result<Option<Answer>, StoreError> {
        if let Some(full) = self.full(id, cost) {
            return Ok(Some(full));
        }
        let doc = InstallationDoc::unknown(BASE64.encode(&header.installation.0), now.wall_us);
        let is_new = {
            let mut installations = locked(&self.installations);
            *installations.unknown_bytes.entry(id.clone()).or_default() += cost;
            let is_new = !installations.known.contains_key(id);
            if is_new {
                installations.known.insert(id.clone(), doc.clone());
            }
            is_new
        };
        if !is_new {
            return Ok(None);
        }
        // no lock is held while the disk is waited for
        let detail = "batches of an installation that is not enrolled are kept apart";
        let noted = self
            .write_doc(id, &doc)
            .and_then(|()| self.alert("unknown-key", id, None, detail, now));
        if noted.is_err() {
            let mut installations = locked(&self.installations);
            installations.known.remove(id);
            installations.unknown_bytes.remove(id);
        }
        noted.map(|()| None)
    }

    /// Gives room back that nothing was stored in.
    pub(super) fn give_back(&self, id: &KeyId, cost: u64) {
        if let Some(own) = locked(&self.installations).unknown_bytes.get_mut(id) {
            *own = own.saturating_sub(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{self, InstallationKey, Kind};
    use crate::collector::enrol::tests::registry;
    use crate::collector::store::Who;
    use crate::ids::{Digest, StreamId};

    /// Room for two batches of 1,000 bytes each, for three of them together, and two keys.
    const ROOMS: Rooms = Rooms {
        each_bytes: 2 * (1_000 + BATCH_COST),
        all_bytes: 3 * (1_000 + BATCH_COST),
        installations: 2,
    };

    fn key(seed: u8) -> InstallationKey {
        InstallationKey::from_seed(&[seed; 32]).unwrap()
    }

    /// A batch that nobody can read, of so many bytes once it is unpacked.
    fn junk(seed: u8, number: u8, bytes: usize) -> (Header, Vec<u8>) {
        let key = key(seed);
        let header = Header {
            org: "example".parse().unwrap(),
            stream: StreamId([seed; 16]),
            first_seq: 1,
            last_seq: 1,
            prev_hash: Digest::default(),
            last_hash: Digest::default(),
            kind: Kind::Quarantine,
            remaining: 0,
            sent_us: 0,
            installation: key.public(),
        };
        let mut frames = vec![0; bytes];
        frames[0] = number;
        let bytes = batch::seal(&header, &frames, key.pair()).unwrap();
        (header, bytes)
    }

    /// The status of sending one.
    fn send(store: &Store, (header, bytes): &(Header, Vec<u8>)) -> u16 {
        let now = Now {
            wall_us: 1_795_238_400_000_000,
            mono_us: 0,
        };
        let front = batch::Front::read(bytes).unwrap();
        let fits = store.admits(&front, header.stream, 1, &registry(), &now);
        let answer = store.accept(bytes, header.stream, 1, &registry(), &now);
        match answer.unwrap() {
            Answer::Stored(_) => 200,
            Answer::Later { status, .. } => {
                assert!(fits.is_err(), "the front says the same as the whole");
                status
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn room_of_strangers_is_counted_unpacked_each_and_together() {
        let root = tempfile::tempdir().unwrap();
        let org = "example".parse().unwrap();
        let store = Store::open_with(root.path(), &org, ROOMS).unwrap();
        let zeros = junk(1, 1, 1_000);
        assert!(zeros.1.len() < 500, "far smaller on the way");
        assert_eq!(send(&store, &zeros), 200);
        // what is stored already takes no room again
        for _ in 0..5 {
            assert_eq!(send(&store, &zeros), 200);
        }
        assert_eq!(send(&store, &junk(1, 2, 1_001)), 429, "beyond its own room");
        assert_eq!(send(&store, &junk(1, 2, 1_000)), 200);
        assert_eq!(send(&store, &junk(2, 1, 1_000)), 200);
        assert_eq!(
            send(&store, &junk(2, 2, 1_000)),
            429,
            "beyond the room of all"
        );
        assert_eq!(send(&store, &junk(3, 1, 1)), 429, "one key too many");
        // and the same after a restart
        drop(store);
        let store = Store::open_with(root.path(), &org, ROOMS).unwrap();
        assert_eq!(send(&store, &junk(2, 2, 1)), 429);
    }

    #[test]
    fn who_enrols_needs_no_room_of_strangers_and_leaves_theirs() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open_with(root.path(), &"example".parse().unwrap(), ROOMS).unwrap();
        assert_eq!(send(&store, &junk(1, 1, 1_000)), 200);
        assert_eq!(send(&store, &junk(1, 2, 1_000)), 200);
        assert_eq!(send(&store, &junk(1, 3, 1_000)), 429);
        let who = Who::Person {
            issuer: "https://idp.example".to_owned(),
            subject: "u1".to_owned(),
            display: "Ada".to_owned(),
        };
        let now = Now::default();
        store.bind(&key(1).public(), "laptop", who, &now).unwrap();
        assert_eq!(send(&store, &junk(1, 3, 100_000)), 200);
        assert_eq!(
            send(&store, &junk(2, 1, 1_000)),
            200,
            "room was left behind"
        );
        assert_eq!(send(&store, &junk(2, 2, 1_000)), 200);
    }
}
