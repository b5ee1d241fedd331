//! The spool: where records wait, on the machine they were made, until the collector has them.
//!
//! ```text
//! <dir>/<stream>.lock             held by the one process that may write the stream
//! <dir>/<stream>/<first_seq>.seg  frames, nothing else; see docs/formats/spool.md
//! <dir>/<stream>/ack              how far the collector has it
//! <dir>/delivered                 the last streams that were delivered and deleted, and their ends
//! <dir>/bodies/…                  sealed parts that were too large for the way
//! <dir>/quarantine/…              bytes that were not as written
//! ```
//!
//! [`Spool`] writes one stream: this process's. [`Backlog`] reads all of them, delivers, repairs
//! what dead processes left and removes what was acknowledged. They meet in the files only.
//!
//! What losing it costs: the records that were not yet delivered; the collector sees the stream
//! stop without an end, or a later stream name it. What an attacker who can write it gains: they
//! can hold back or destroy undelivered records, and both show; they cannot change one that was
//! delivered, nor read a payload.
#![warn(missing_docs)]

mod backlog;
mod bodies;
mod delivered;
mod disk;
pub mod memory;
mod repair;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use backlog::{Backlog, Slice, StreamState};
pub use bodies::{KeptBody, bodies};
pub use disk::{Disk, DiskFile, Entry as DirEntry, Lock, RealDisk};
pub use repair::Repair;

use crate::audit::decode::Said;
use crate::audit::encode::{Encoder, PREVIOUS, Previous, Room, StreamHeader};
use crate::audit::entry::{Body, Context, ContextId, Entry};
use crate::audit::{decode, frames};
use crate::clock::{Entropy, Now};
use crate::ids::{Digest, StreamId};
use crate::limits;
use crate::registry::doc::{AuditKeyDoc, Capture};

/// The directory for bytes that were not as written.
const QUARANTINE: &str = "quarantine";
/// The name of the file that says how far the collector has a stream.
const ACK: &str = "ack";
/// A buffer that grew beyond this for one large record is given back, in bytes.
const BUFFER_BYTES: usize = 2 << 20;
/// What a new stream reads of each earlier one, to name how far that had come.
const HEIR_BYTES: usize = 64 << 10;
/// The size of the whole spool is looked up at most this often, in microseconds.
const LOOK_US: u64 = 1_000_000;
/// Segments whose sync is put off until somebody asks for one; most are delivered, or written by
/// the system, long before.
const UNSYNCED: usize = 512;

/// How large things may grow.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// All streams of the device together, in bytes.
    pub spool_bytes: u64,
    /// The part of it that intents leave free for outcomes, denials and losses, in bytes.
    pub reserve_bytes: u64,
    /// One segment, in bytes.
    pub segment_bytes: u64,
    /// One segment, in microseconds.
    pub segment_age_us: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            spool_bytes: limits::SPOOL_BYTES,
            reserve_bytes: limits::SPOOL_RESERVE_BYTES,
            segment_bytes: limits::SEGMENT_BYTES,
            segment_age_us: limits::SEGMENT_AGE_MS * 1000,
        }
    }
}

/// Why entries are not recorded, in one line for people.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct SpoolError {
    /// What is in the way.
    pub why: Why,
    /// Leading entries of the slice that are recorded.
    pub recorded: usize,
    /// Entries after those that are not recorded. The rest of the slice was not tried: append it
    /// again. Contexts are never lost, they wait here.
    pub lost: usize,
    /// What the system said.
    #[source]
    pub source: Option<io::Error>,
}

/// What is in the way of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The file system has no room.
    DiskFull,
    /// Something else the system said.
    Io,
    /// The spool may not be written.
    ReadOnly,
    /// The spool has reached its cap; it empties when the collector is reached.
    SpoolFull,
    /// Records were written, and the disk did not say that they survive loss of power.
    SyncFailed,
}

impl Why {
    const ALL: [Self; 5] = [
        Self::DiskFull,
        Self::Io,
        Self::ReadOnly,
        Self::SpoolFull,
        Self::SyncFailed,
    ];

    /// The code in the loss record.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::DiskFull => "disk-full",
            Self::Io => "io",
            Self::ReadOnly => "read-only",
            Self::SpoolFull => "spool-full",
            Self::SyncFailed => "sync-failed",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::DiskFull,
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Self::ReadOnly,
            _ => Self::Io,
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DiskFull => "the disk is full, the record of calls cannot be written",
            Self::Io => "the disk fails, the record of calls cannot be written",
            Self::ReadOnly => "the record of calls may not be written: its directory is read-only",
            Self::SpoolFull => "too many records wait for the collector, no more calls are taken",
            Self::SyncFailed => "the disk does not confirm the record of calls",
        })
    }
}

/// Tells who writes a stream. Called once, when the stream begins; `previous` is filled in here.
pub type Describe = Box<dyn FnMut(StreamId, &Now) -> StreamHeader + Send>;

/// Writes this process's stream.
///
/// Nothing is touched on the disk before the first entry that is not a context: clients start
/// throw-away processes to probe, and those leave nothing behind.
pub struct Spool {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    describe: Describe,
    audit_keys: Vec<AuditKeyDoc>,
    entropy: Box<dyn Entropy + Send>,
    caps: Caps,
    stream: Option<Stream>,
    /// Contexts that came before the stream began.
    early: Vec<(ContextId, Arc<Context>)>,
    buffer: Vec<u8>,
    lost: [u64; Why::ALL.len()],
}

/// The stream while it is open.
struct Stream {
    dir: PathBuf,
    encoder: Encoder,
    segment: Option<Segment>,
    /// Size of the whole spool when it was last looked up, and of what was written here since.
    usage: u64,
    looked_us: u64,
    /// Segments, and whether names of files, that a sync has yet to cover.
    unsynced: Vec<PathBuf>,
    names_unsynced: bool,
    records_unsynced: u64,
    rotate: bool,
    /// A sync failed: what it was to cover may be gone, and with it the chain of all that would
    /// follow. The next record begins another stream.
    doubtful: bool,
    #[expect(
        dead_code,
        reason = "held until the stream is closed or the process ends"
    )]
    lock: Box<dyn Lock>,
}

struct Segment {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Every byte before this is a whole frame.
    good: u64,
    /// Bytes may stand after `good` that are not ours to keep; they must go before more is written.
    torn: bool,
    opened_us: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spool({}, {:?})", self.dir.display(), self.stream())
    }
}

/// What became of a write: how much of the buffer is in the file as whole frames, and why no more.
struct Written {
    whole: usize,
    error: Option<io::Error>,
}

impl Spool {
    /// Makes a spool below `dir`, which need not exist. Nothing is touched.
    #[must_use]
    pub fn new(
        dir: PathBuf,
        disk: Box<dyn Disk>,
        describe: Describe,
        audit_keys: &[AuditKeyDoc],
        entropy: Box<dyn Entropy + Send>,
    ) -> Self {
        Self {
            dir,
            disk,
            describe,
            audit_keys: audit_keys.to_vec(),
            entropy,
            caps: Caps::default(),
            stream: None,
            early: Vec::new(),
            buffer: Vec::new(),
            lost: [0; Why::ALL.len()],
        }
    }

    /// Uses other caps.
    #[must_use]
    pub fn with_caps(mut self, caps: Caps) -> Self {
        self.caps = caps;
        self
    }

    /// The stream, once it has begun.
    #[must_use]
    pub fn stream(&self) -> Option<StreamId> {
        self.stream.as_ref().map(|stream| stream.encoder.stream())
    }

    /// The last record's number; 0 before the first.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.stream
            .as_ref()
            .map_or(0, |stream| stream.encoder.seq())
    }

    /// Entries that could not be recorded and are not declared yet.
    #[must_use]
    pub fn undeclared(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// Takes the audit keys of a new registry. What is recorded from here on is sealed to them.
    pub fn set_audit_keys(&mut self, keys: &[AuditKeyDoc]) {
        if self.audit_keys != keys {
            self.audit_keys = keys.to_vec();
            if let Some(stream) = &mut self.stream {
                stream.encoder.set_audit_keys(keys);
                stream.rotate = true;
            }
        }
    }

    /// Records the entries, in order, with one write. On return they survive the death of this
    /// process (class `process`); for loss of power call [`Spool::sync`].
    ///
    /// Entries that could not be recorded before are declared first.
    ///
    /// # Errors
    /// [`SpoolError`] says which entries are recorded and which are not: handle those, then call
    /// again with the rest, if any. Every call settles at least one entry.
    pub fn append(&mut self, entries: &[Entry], now: &Now) -> Result<(), SpoolError> {
        let contexts = |entry: &&Entry| matches!(entry.body, Body::Context(..));
        if self.stream.is_none() {
            if entries.iter().all(|entry| contexts(&entry)) {
                for entry in entries {
                    if let Body::Context(id, context) = &entry.body {
                        self.early.push((*id, Arc::clone(context)));
                    }
                }
                return Ok(());
            }
            if let Err(error) = self.begin(now) {
                return Err(self.refuse(entries, 0, Why::of(&error), Some(error)));
            }
        }
        if self.stream.as_ref().is_some_and(|stream| stream.doubtful)
            && let Err(error) = self.begin(now)
        {
            self.keep_contexts(entries);
            return Err(self.refuse(entries, 0, Why::of(&error), Some(error)));
        }
        self.append_open(entries, now)
    }

    /// Keeps the contexts among entries that are not recorded: they are never lost.
    fn keep_contexts(&mut self, entries: &[Entry]) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        for entry in entries {
            if matches!(entry.body, Body::Context(..)) {
                let mut none = Vec::new();
                stream.encoder.append(entry, &mut *self.entropy, &mut none);
            }
        }
    }

    fn append_open(&mut self, entries: &[Entry], now: &Now) -> Result<(), SpoolError> {
        let Some(stream) = &mut self.stream else {
            return Err(self.refuse(entries, 0, Why::Io, None));
        };
        if let Err(error) = stream.mend() {
            // a context is kept in memory, whatever the disk says
            self.keep_contexts(entries);
            return Err(self.refuse(entries, 0, Why::of(&error), Some(error)));
        }
        let payloads = entries.iter().map(|entry| payload_bytes(&entry.body)).sum();
        stream.rotate_if_due(now, payloads, &self.caps, &*self.disk, &self.dir);

        let before = (stream.encoder.seq(), stream.encoder.hash());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for (why, count) in Why::ALL
            .into_iter()
            .zip(self.lost)
            .filter(|(_, count)| *count > 0)
        {
            let loss = Entry {
                at: *now,
                body: Body::Loss {
                    count,
                    code: why.code(),
                },
            };
            stream
                .encoder
                .append(&loss, &mut *self.entropy, &mut buffer);
        }
        let declared = stream.encoder.seq();
        // the number of the last frame each entry needs
        let mut upto = Vec::with_capacity(entries.len());
        let mut full = false;
        for entry in entries {
            let (seq, hash, len) = (stream.encoder.seq(), stream.encoder.hash(), buffer.len());
            let room = self.caps.room(stream.usage + len as u64, &entry.body);
            if room.is_some_and(|room| {
                stream
                    .encoder
                    .append_in(room, entry, &mut *self.entropy, &mut buffer);
                self.caps
                    .room(stream.usage + buffer.len() as u64, &entry.body)
                    .is_some()
            }) {
                upto.push(stream.encoder.seq());
                continue;
            }
            buffer.truncate(len);
            stream.encoder.rewind(seq, hash);
            full = true;
            break;
        }
        if full && now.mono_us.saturating_sub(stream.looked_us) >= LOOK_US {
            stream.usage = usage(&*self.disk, &self.dir).unwrap_or(stream.usage);
            stream.looked_us = now.mono_us;
        }

        let written = stream.write(&buffer, before, now, &*self.disk);
        stream.encoder.settle();
        let reached = stream.encoder.seq();
        let recorded = upto.iter().take_while(|seq| **seq <= reached).count();
        stream.records_unsynced += recorded as u64;
        if reached >= declared && written.whole > 0 {
            self.lost = [0; Why::ALL.len()];
        }
        if buffer.capacity() <= BUFFER_BYTES {
            self.buffer = buffer;
        }
        // entries after one there was no room for were not tried
        let tried = if full {
            entries.get(..=upto.len()).unwrap_or(entries)
        } else {
            entries
        };
        match written.error {
            Some(error) => Err(self.refuse(tried, recorded, Why::of(&error), Some(error))),
            None if full => Err(self.refuse(tried, recorded, Why::SpoolFull, None)),
            None => Ok(()),
        }
    }

    /// Counts what is lost and says so.
    fn refuse(
        &mut self,
        entries: &[Entry],
        recorded: usize,
        why: Why,
        source: Option<io::Error>,
    ) -> SpoolError {
        let lost = entries.get(recorded..).unwrap_or_default();
        for entry in lost {
            match &entry.body {
                Body::Context(id, context) if self.stream.is_none() => {
                    self.early.push((*id, Arc::clone(context)));
                }
                Body::Context(..) => {}
                Body::Counted { .. }
                | Body::Denial { .. }
                | Body::Intent(_)
                | Body::Link { .. }
                | Body::Loss { .. }
                | Body::Outcome { .. } => self.count(why, 1),
            }
        }
        SpoolError {
            why,
            recorded,
            lost: lost.len(),
            source,
        }
    }

    fn count(&mut self, why: Why, count: u64) {
        for (slot, other) in self.lost.iter_mut().zip(Why::ALL) {
            if other == why {
                *slot += count;
            }
        }
    }

    /// Makes what was recorded survive loss of power.
    ///
    /// # Errors
    /// [`Why::SyncFailed`]: the records since the last sync are written and may be lost. They are
    /// declared as such, first thing in a new stream: asking a disk again after a failed sync
    /// proves nothing, and what is chained to lost records is lost with them.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let Err(error) = stream.sync(&*self.disk, &self.dir) else {
            return Ok(());
        };
        let count = std::mem::take(&mut stream.records_unsynced);
        stream.doubtful = true;
        self.count(Why::SyncFailed, count);
        Err(SpoolError {
            why: Why::SyncFailed,
            recorded: 0,
            lost: 0,
            source: Some(error),
        })
    }

    /// Ends the stream: writes its last record and gives the lock back. A spool that never wrote
    /// does nothing. Another append begins another stream.
    ///
    /// # Errors
    /// [`SpoolError`] when the last record cannot be written. The stream then looks like that of
    /// a process that died, and is taken over like one.
    pub fn close(&mut self, now: &Now) -> Result<(), SpoolError> {
        if self.stream.is_none() {
            return Ok(());
        }
        let declared = if self.undeclared() > 0 {
            self.append(&[], now)
        } else {
            Ok(())
        };
        let Some(mut stream) = self.stream.take() else {
            return declared;
        };
        declared?;
        let failed = |error: io::Error| SpoolError {
            why: Why::of(&error),
            recorded: 0,
            lost: 0,
            source: Some(error),
        };
        stream.mend().map_err(failed)?;
        let before = (stream.encoder.seq(), stream.encoder.hash());
        self.buffer.clear();
        stream
            .encoder
            .end(now, &mut *self.entropy, &mut self.buffer);
        match stream.write(&self.buffer, before, now, &*self.disk).error {
            Some(error) => Err(failed(error)),
            None => Ok(()),
        }
    }

    /// Begins the stream, or the next one where the last cannot go on: directory, then lock. The
    /// order matters to whoever takes over streams: a lock without a directory is never one that is
    /// about to be used.
    fn begin(&mut self, now: &Now) -> io::Result<()> {
        let (usage, others) = survey(&*self.disk, &self.dir)?;
        // another process may hold the new stream's lock for the moment it looks at it
        for _ in 0..3 {
            let mut random = [0; 10];
            self.entropy.fill(&mut random);
            let id = StreamId::new(now.wall_us / 1000, &random);
            let dir = self.dir.join(id.to_string());
            self.disk.make_dir(&dir)?;
            let lock = match self.disk.lock(&lock_path(&self.dir, id)) {
                Ok(Some(lock)) => lock,
                Ok(None) => continue,
                Err(error) => {
                    // or every attempt on a full disk would leave a directory behind
                    let removed = self.disk.remove_dir(&dir);
                    return Err(removed.err().unwrap_or(error));
                }
            };
            let mut header = (self.describe)(id, now);
            header.stream = id;
            let here = previous(&*self.disk, &self.dir, &others);
            header.others = (others.len() - here.len()) as u64;
            header.previous = delivered::join(&*self.disk, &self.dir, here);
            let mut encoder = match self.stream.take() {
                None => Encoder::open(header, &self.audit_keys),
                Some(before) => before
                    .end(now, &mut *self.entropy, &*self.disk)
                    .follow(header),
            };
            for (id, context) in self.early.drain(..) {
                let entry = Entry {
                    at: *now,
                    body: Body::Context(id, context),
                };
                encoder.append(&entry, &mut *self.entropy, &mut self.buffer);
            }
            self.stream = Some(Stream {
                dir,
                encoder,
                segment: None,
                usage,
                looked_us: now.mono_us,
                unsynced: Vec::new(),
                names_unsynced: true,
                records_unsynced: 0,
                rotate: false,
                doubtful: false,
                lock,
            });
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "the lock of a new stream is taken",
        ))
    }
}

impl Caps {
    /// How much of an entry there is room for at this size of the spool; `None` for nothing.
    fn room(&self, usage: u64, body: &Body) -> Option<Room> {
        let soft = self.spool_bytes.saturating_sub(self.reserve_bytes);
        match body {
            Body::Context(..) => Some(Room::Plenty),
            Body::Intent(_) => (usage <= soft).then_some(Room::Plenty),
            Body::Counted { .. }
            | Body::Denial { .. }
            | Body::Link { .. }
            | Body::Loss { .. }
            | Body::Outcome { .. } => {
                let room = if usage <= soft {
                    Room::Plenty
                } else {
                    Room::Reserve
                };
                (usage <= self.spool_bytes).then_some(room)
            }
        }
    }
}

impl Stream {
    /// Ends the stream for another one of this process, as far as the disk still takes it: without,
    /// it looks like that of a process that died, and is taken over like one.
    fn end(mut self, now: &Now, entropy: &mut dyn Entropy, disk: &dyn Disk) -> Encoder {
        let before = (self.encoder.seq(), self.encoder.hash());
        let mut last = Vec::new();
        self.encoder.end(now, entropy, &mut last);
        let ended = match self.mend() {
            Err(error) => Some(error),
            Ok(()) => self.write(&last, before, now, disk).error,
        };
        if let Some(error) = ended {
            tracing::warn!(%error, "The stream of records has no end.");
        }
        self.encoder
    }

    /// Removes what a failed write left behind. Nothing is written before this works.
    fn mend(&mut self) -> io::Result<()> {
        match &mut self.segment {
            Some(segment) if segment.torn => {
                segment.file.cut(segment.good)?;
                segment.torn = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rotate_if_due(&mut self, now: &Now, more: u64, caps: &Caps, disk: &dyn Disk, spool: &Path) {
        let due = self.segment.as_ref().is_some_and(|segment| {
            let old = now.mono_us.saturating_sub(segment.opened_us) >= caps.segment_age_us;
            segment.good > 0
                && (self.rotate || old || segment.good.saturating_add(more) > caps.segment_bytes)
        });
        self.rotate = self.rotate && !due && self.segment.is_some();
        if !due {
            return;
        }
        self.encoder.rotate();
        if let Some(segment) = self.segment.take() {
            self.unsynced.push(segment.path);
        }
        if self.unsynced.len() > UNSYNCED {
            let oldest = self.unsynced.remove(0);
            // a sync that fails here is told by the next one that somebody waits for
            if let Err(error) = sync_file(disk, &oldest) {
                tracing::warn!(%error, "A closed segment could not be synced.");
                self.doubtful = true;
            }
        }
        // the other streams' share may be stale by what they write in this time: far below the reserve
        if now.mono_us.saturating_sub(self.looked_us) >= LOOK_US {
            self.usage = usage(disk, spool).unwrap_or(self.usage);
            self.looked_us = now.mono_us;
        }
    }

    /// Writes the buffer to the segment. `before` is the chain before its first frame; afterwards
    /// the encoder stands at the last frame that is whole in the file.
    fn write(
        &mut self,
        buffer: &[u8],
        before: (u64, Digest),
        now: &Now,
        disk: &dyn Disk,
    ) -> Written {
        let none = |error| Written { whole: 0, error };
        if buffer.is_empty() {
            return none(None);
        }
        if self.segment.is_none() {
            let path = self.dir.join(segment_name(before.0 + 1));
            match disk.create(&path) {
                Ok(file) => {
                    self.names_unsynced = true;
                    let opened_us = now.mono_us;
                    self.segment = Some(Segment {
                        path,
                        file,
                        good: 0,
                        torn: false,
                        opened_us,
                    });
                }
                Err(error) => {
                    self.encoder.rewind(before.0, before.1);
                    return none(Some(error));
                }
            }
        }
        let Some(segment) = &mut self.segment else {
            return none(None);
        };
        // a crash here, before the write: nothing was promised
        let written = segment.write(buffer, disk);
        // a crash here, after it: the frames are in the file and are delivered by whoever takes
        // the stream over; a torn last one is cut
        self.usage += written.whole as u64;
        if written.whole < buffer.len() {
            let last = frames(buffer.get(..written.whole).unwrap_or_default())
                .filter_map(Result::ok)
                .last()
                .map_or(before, |frame| (frame.seq, frame.hash));
            self.encoder.rewind(last.0, last.1);
        }
        written
    }

    fn sync(&mut self, disk: &dyn Disk, spool: &Path) -> io::Result<()> {
        if self.doubtful {
            return Err(io::Error::other("an earlier sync failed"));
        }
        for path in self.unsynced.drain(..) {
            sync_file(disk, &path)?;
        }
        if let Some(segment) = &mut self.segment {
            segment.file.sync()?;
        }
        if self.names_unsynced {
            sync_names(disk, spool, &self.dir)?;
            self.names_unsynced = false;
        }
        self.records_unsynced = 0;
        Ok(())
    }
}

impl Segment {
    /// Writes all of the buffer, or as many whole frames as get in. Whole frames stay: a reader
    /// may have seen them already.
    fn write(&mut self, buffer: &[u8], disk: &dyn Disk) -> Written {
        let mut done = 0;
        let error = loop {
            let rest = buffer.get(done..).unwrap_or_default();
            if rest.is_empty() {
                self.good += buffer.len() as u64;
                return Written {
                    whole: done,
                    error: None,
                };
            }
            match self.file.append(rest) {
                Ok(0) => break io::Error::from(io::ErrorKind::WriteZero),
                Ok(count) => done += count,
                Err(error) => break error,
            }
        };
        // "failed" may still mean "kept": the file says
        let kept = self
            .file
            .size()
            .map(|len| usize::try_from(len.saturating_sub(self.good)).unwrap_or(usize::MAX))
            .unwrap_or(done)
            .min(buffer.len());
        let whole = frames(buffer.get(..kept).unwrap_or_default())
            .filter_map(Result::ok)
            .last()
            .map_or(0, |frame| frame.offset + frame.bytes.len());
        let same = disk
            .read(&self.path, self.good, whole)
            .is_ok_and(|kept| Some(&kept[..]) == buffer.get(..whole));
        let whole = if same { whole } else { 0 };
        self.good += whole as u64;
        self.torn = self.file.cut(self.good).is_err();
        let error = (whole < buffer.len()).then_some(error);
        Written { whole, error }
    }
}

/// What an entry carries of a payload, in bytes; a digest is none.
fn payload_bytes(body: &Body) -> u64 {
    let (capture, content) = match body {
        Body::Denial { facts, .. } | Body::Intent(facts) => (facts.audit.arguments, &facts.content),
        Body::Outcome { content, audit, .. } => (audit.results, content),
        Body::Context(..) | Body::Counted { .. } | Body::Link { .. } | Body::Loss { .. } => {
            return 0;
        }
    };
    match capture {
        Capture::Full => content.0.len() as u64,
        Capture::Digest | Capture::None => 0,
    }
}

fn sync_file(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.open(path) {
        Ok(mut file) => file.sync(),
        // delivered, acknowledged and removed meanwhile
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a stream's files findable after loss of power: their names, its name, the spool's name.
fn sync_names(disk: &dyn Disk, spool: &Path, dir: &Path) -> io::Result<()> {
    disk.sync_dir(dir)?;
    disk.sync_dir(spool)?;
    spool.parent().map_or(Ok(()), |state| disk.sync_dir(state))
}

fn lock_path(dir: &Path, stream: StreamId) -> PathBuf {
    dir.join(format!("{stream}.lock"))
}

/// Twenty digits, so that names sort as numbers do.
fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

/// The segments of a stream: first sequence numbers and sizes, in order.
fn segments(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut found: Vec<(u64, u64)> = disk
        .list(dir)?
        .into_iter()
        .filter_map(|entry| {
            let first_seq = entry.name.strip_suffix(".seg")?.parse().ok()?;
            (segment_name(first_seq) == entry.name && !entry.dir)
                .then_some((first_seq, entry.bytes))
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// The streams below the directory, oldest first; none where it does not exist.
fn streams(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<StreamId>> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut found: Vec<StreamId> = entries
        .into_iter()
        .filter(|entry| entry.dir)
        .filter_map(|entry| StreamId::parse(&entry.name).ok())
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Bytes in all streams of the spool.
///
/// # Errors
/// When the directory is there and cannot be read.
pub fn usage(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    survey(disk, dir).map(|(bytes, _)| bytes)
}

/// Bytes in all streams and of sealed parts that wait; the streams with their last segments, newest first.
fn survey(disk: &dyn Disk, dir: &Path) -> io::Result<(u64, Vec<(StreamId, u64)>)> {
    let mut total = 0_u64;
    let mut last = Vec::new();
    for stream in streams(disk, dir)?.into_iter().rev() {
        // a stream may be removed while we look
        let segments = segments(disk, &dir.join(stream.to_string())).unwrap_or_default();
        total = segments
            .iter()
            .fold(total, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if let Some((first_seq, _)) = segments.last() {
            last.push((stream, *first_seq));
        }
    }
    let waiting = bodies(disk, dir).unwrap_or_default();
    total = waiting
        .iter()
        .fold(total, |sum, body| sum.saturating_add(body.bytes));
    Ok((total, last))
}

/// How far the newest of the other streams had come, at least: the last whole frame in the first
/// [`HEIR_BYTES`] of each one's last segment. One small read each; the whole length would mean
/// reading it all.
fn previous(disk: &dyn Disk, dir: &Path, others: &[(StreamId, u64)]) -> Vec<Previous> {
    let seen = |(stream, first_seq): &(StreamId, u64)| {
        let path = dir.join(stream.to_string()).join(segment_name(*first_seq));
        let bytes = disk.read(&path, 0, HEIR_BYTES).ok()?;
        let mut whole = frames(&bytes).map_while(Result::ok);
        let first = whole.next()?;
        let of_stream = match decode(&first).ok()?.said {
            Said::Segment(segment) => segment.stream == *stream,
            _ => false,
        };
        let last = whole.last().unwrap_or(first);
        of_stream.then_some(Previous {
            stream: *stream,
            at_least: last.seq,
            hash: last.hash,
        })
    };
    others.iter().take(PREVIOUS).filter_map(seen).collect()
}

/// Replaces a file so that at every moment, loss of power included, it is the old or the new one.
fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.create(&temporary)?;
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.append(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => done += count,
        }
    }
    file.sync()?;
    disk.rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => disk.sync_dir(dir),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
