//! Sealed parts that were too large for the way to the collector.
//!
//! ```text
//! <dir>/bodies/<stream>-<seq, 20 digits>.body     32 bytes: the chain before the record, then its frame
//! ```
//!
//! The record itself was delivered without its sealed part, by whose digest the chain goes on. The
//! whole frame waits here until it fits. It counts in the spool's size.
//!
//! What losing a file costs: that payload; its record stays and says that the payload is withheld.
//! What an attacker who can write it gains: nothing but that; another payload does not fit the
//! chain, neither here nor at the collector.

use std::io;
use std::path::PathBuf;

use super::backlog::{Backlog, Slice};
use super::disk::Disk;
use super::{QUARANTINE, replace, sync_file};
use crate::audit::frame::{BLOB_BYTES, Blob};
use crate::audit::frames;
use crate::ids::{Digest, StreamId};

/// The directory below the spool's.
pub(super) const BODIES: &str = "bodies";
const HASH_BYTES: usize = 32;
/// Most that one file holds, in bytes.
const FILE_BYTES: usize = BLOB_BYTES + (1 << 17);

/// A record whose sealed part waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeptBody {
    /// The size of its file: the smallest goes first.
    pub bytes: u64,
    /// Its stream.
    pub stream: StreamId,
    /// Its number.
    pub seq: u64,
}

fn name(stream: StreamId, seq: u64) -> String {
    format!("{stream}-{seq:020}.body")
}

/// The sealed parts that wait, smallest first.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn bodies(disk: &dyn Disk, spool: &std::path::Path) -> io::Result<Vec<KeptBody>> {
    let listed = match disk.list(&spool.join(BODIES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut found: Vec<KeptBody> = listed
        .into_iter()
        .filter_map(|entry| {
            let (stream, seq) = entry.name.strip_suffix(".body")?.rsplit_once('-')?;
            let (stream, seq) = (StreamId::parse(stream).ok()?, seq.parse().ok()?);
            let bytes = entry.bytes;
            (name(stream, seq) == entry.name).then_some(KeptBody { bytes, stream, seq })
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

impl Backlog {
    /// The sealed parts that wait, smallest first.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn bodies(&self) -> io::Result<Vec<KeptBody>> {
        bodies(&*self.disk, &self.dir)
    }

    /// Keeps a record with its sealed part beside its stream. Durable on return; done again it
    /// changes nothing.
    ///
    /// # Errors
    /// When the record is not here, or the file cannot be written.
    pub fn keep_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()> {
        let slice = self.read(stream, seq, 1, 1)?;
        let slice = slice.ok_or(io::ErrorKind::NotFound)?;
        let dir = self.dir.join(BODIES);
        match self.disk.make_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made?;
                self.disk.sync_dir(&self.dir)?;
            }
        }
        let mut bytes = slice.prev_hash.0.to_vec();
        bytes.extend_from_slice(&slice.frames);
        replace(&*self.disk, &dir.join(name(stream, seq)), &bytes)
    }

    /// Reads a record with its sealed part. One that is not as it was written is set aside, and
    /// nothing is given: it must not stand in the way of the others.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn body(&mut self, stream: StreamId, seq: u64) -> io::Result<Option<Slice>> {
        let path = self.body_path(stream, seq);
        let bytes = match self.disk.read(&path, 0, FILE_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let slice = bytes
            .split_first_chunk::<HASH_BYTES>()
            .and_then(|(prev, rest)| {
                let prev = Digest(*prev);
                let frame = frames(rest).next()?.ok()?;
                let whole = frame.seq == seq
                    && frame.bytes.len() == rest.len()
                    && frame.chain(&prev) == frame.hash
                    && matches!(frame.blob, Blob::Present(_));
                whole.then(|| Slice {
                    first_seq: seq,
                    last_seq: seq,
                    prev_hash: prev,
                    last_hash: frame.hash,
                    frames: rest.to_vec(),
                })
            });
        if slice.is_none() {
            tracing::warn!(%stream, seq, "A sealed part that waited is damaged; it is set aside.");
            let quarantine = self.dir.join(QUARANTINE);
            match self.disk.make_dir(&quarantine) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            self.disk
                .rename(&path, &quarantine.join(name(stream, seq)))?;
        } else {
            // it must not reach the collector and then be another here
            sync_file(&*self.disk, &path)?;
        }
        Ok(slice)
    }

    /// Takes note that the collector has the sealed part.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn drop_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()> {
        match self.disk.remove(&self.body_path(stream, seq)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn body_path(&self, stream: StreamId, seq: u64) -> PathBuf {
        self.dir.join(BODIES).join(name(stream, seq))
    }
}
