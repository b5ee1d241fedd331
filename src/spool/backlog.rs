//! The reading end of the spool: what waits, what was delivered, what can go.
//!
//! One process per device uses it at a time (the shipper, under its own lock); the writers go on
//! meanwhile. It believes nothing it has not checked: every frame's checksum and chain.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{Disk, RealDisk};
use super::{
    ACK, delivered, lock_path, replace, segment_name, segments, streams, sync_file, sync_names,
};
use crate::audit::decode::{Said, kind};
use crate::audit::encode::Previous;
use crate::audit::frame::{Frame, FrameError, GENESIS};
use crate::audit::{decode, frames};
use crate::clock::Now;
use crate::ids::{Digest, StreamId};

/// What [`replace`] calls the ack file before it is whole.
const ACK_NEW: &str = "ack.new";
/// The format of the ack file that this code writes, and the newest it reads.
const ACK_FORMAT: u32 = 1;
/// How much of a segment is read at once, in bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Most that is read to get one frame, in bytes.
const FRAME_BYTES: usize = crate::audit::frame::BLOB_BYTES + (1 << 17);
/// Every so many records their place is remembered.
const MARK_RECORDS: u64 = 64;
/// A stream's directory without segments is kept this long, in milliseconds: its writer may be
/// about to begin.
pub(super) const EMPTY_MS: u64 = 3_600_000;

/// Reads the streams of all processes of the device.
#[derive(Debug)]
pub struct Backlog {
    pub(super) dir: PathBuf,
    pub(super) disk: Box<dyn Disk>,
    pub(super) cursors: BTreeMap<StreamId, Cursor>,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamState {
    /// Which.
    pub id: StreamId,
    /// The oldest record that is still here and not acknowledged. Larger than `last_seq` when
    /// there is none.
    pub next_unacked: u64,
    /// The newest record that is whole and chained; 0 when there is none.
    pub last_seq: u64,
    /// Its hash.
    pub last_hash: Digest,
    /// Its writer lives.
    pub live: bool,
    /// Its last record says that it is the last.
    pub ended: bool,
}

/// A run of whole frames of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The first record.
    pub first_seq: u64,
    /// The last record.
    pub last_seq: u64,
    /// The chain before the first.
    pub prev_hash: Digest,
    /// The chain after the last.
    pub last_hash: Digest,
    /// The frames as they lie in the file.
    pub frames: Vec<u8>,
}

/// How far the collector has a stream.
#[derive(Debug, Serialize, Deserialize)]
struct Ack {
    format: u32,
    min_reader: u32,
    stream: String,
    acked: u64,
    hash: Digest,
}

/// How far a stream was read and checked.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    pub(super) acked: u64,
    pub(super) acked_hash: Digest,
    /// False where the ack file is there and cannot be read. Then the collector says what it has;
    /// else a record that is neither acknowledged nor here is lost.
    ack_known: bool,
    pub(super) live: bool,
    pub(super) ended: bool,
    /// First sequence numbers of the segments there are.
    pub(super) segments: Vec<u64>,
    /// The next frame is expected here.
    pub(super) at: Mark,
    /// The oldest record that is here; 0 as long as none was read, and then `at` is only where one
    /// might begin.
    pub(super) first_seq: u64,
    marks: Vec<Mark>,
    /// The names of segments up to this one survive loss of power.
    named: u64,
    /// Quarantined files this stream declares.
    pub(super) declared: Vec<String>,
    /// The streams it names, and how far it saw each.
    named_streams: Vec<(StreamId, u64)>,
}

/// A place between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// The segment, by its first sequence number.
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// The frame before this place, 0 for none, and its hash.
    pub(super) seq: u64,
    pub(super) hash: Digest,
}

impl Backlog {
    /// Opens the spool below `dir`, which need not exist.
    #[must_use]
    pub fn open(dir: PathBuf) -> Self {
        Self::on(dir, Box::new(RealDisk))
    }

    /// Opens a spool on another disk.
    #[must_use]
    pub fn on(dir: PathBuf, disk: Box<dyn Disk>) -> Self {
        Self {
            dir,
            disk,
            cursors: BTreeMap::new(),
        }
    }

    /// Looks at every stream, oldest first, and checks what is new since the last look.
    ///
    /// # Errors
    /// When the spool's directory cannot be read. A stream that cannot be read is left out.
    pub fn streams(&mut self) -> io::Result<Vec<StreamState>> {
        let found = streams(&*self.disk, &self.dir)?;
        self.cursors.retain(|id, _| found.binary_search(id).is_ok());
        let mut states = Vec::new();
        for id in found {
            match self.look(id) {
                Ok(state) => states.push(state),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(stream = %id, %error, "A stream cannot be read."),
            }
        }
        Ok(states)
    }

    fn look(&mut self, id: StreamId) -> io::Result<StreamState> {
        let (disk, dir) = (&*self.disk, self.dir.as_path());
        let cursor = cursor(&mut self.cursors, disk, dir, id);
        if cursor.live {
            // asked before the last read: what a writer left when it died is then read below
            cursor.live = disk.lock(&lock_path(dir, id))?.is_none();
        }
        let stream_dir = dir.join(id.to_string());
        // one process acknowledges; a shim that waits for it, or a person, looks on
        if let (Some(ack), _) = read_ack(disk, &stream_dir, id)
            && ack.acked > cursor.acked
        {
            (cursor.acked, cursor.acked_hash) = (ack.acked, ack.hash);
        }
        cursor.advance(disk, &stream_dir)?;
        Ok(cursor.state(id))
    }

    /// Reads a run of records that begins with `from_seq`: at most `max_records`, and at most
    /// `max_bytes` unless one record alone is larger. `None` when there is no such record.
    ///
    /// What is returned survives loss of power: a record must not reach the collector and then be
    /// missing here, or another would take its number.
    ///
    /// # Errors
    /// When the files cannot be read or synced.
    pub fn read(
        &mut self,
        stream: StreamId,
        from_seq: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> io::Result<Option<Slice>> {
        let (disk, dir) = (&*self.disk, self.dir.join(stream.to_string()));
        let cursor = cursor(&mut self.cursors, disk, &self.dir, stream);
        if !cursor.begun() {
            cursor.advance(disk, &dir)?;
        }
        if from_seq < cursor.first_seq || from_seq > cursor.at.seq || from_seq == 0 {
            return Ok(None);
        }
        let mut slice: Option<Slice> = None;
        let mut touched = Vec::new();
        cursor.walk(disk, &dir, from_seq, |segment, prev, frame| {
            if frame.seq < from_seq {
                return true;
            }
            let slice = slice.get_or_insert_with(|| Slice {
                first_seq: frame.seq,
                last_seq: frame.seq,
                prev_hash: *prev,
                last_hash: frame.hash,
                frames: Vec::new(),
            });
            let records = frame.seq - slice.first_seq;
            if records >= max_records as u64
                || (records > 0 && slice.frames.len() + frame.bytes.len() > max_bytes)
            {
                return false;
            }
            slice.frames.extend_from_slice(frame.bytes);
            slice.last_seq = frame.seq;
            slice.last_hash = frame.hash;
            if touched.last() != Some(&segment) {
                touched.push(segment);
            }
            true
        })?;
        for segment in touched {
            sync_file(disk, &dir.join(segment_name(segment)))?;
            if segment > cursor.named {
                sync_names(disk, &self.dir, &dir)?;
                cursor.named = segment;
            }
        }
        Ok(slice)
    }

    /// Takes note that the collector has the stream up to and including `upto_seq`. Durable on
    /// return. Less than before is ignored.
    ///
    /// # Errors
    /// `InvalidInput` for a record that is not here; else when the file cannot be written.
    pub fn ack(&mut self, stream: StreamId, upto_seq: u64) -> io::Result<()> {
        let dir = self.dir.join(stream.to_string());
        let disk = &*self.disk;
        let cursor = cursor(&mut self.cursors, disk, &self.dir, stream);
        if upto_seq <= cursor.acked {
            return Ok(());
        }
        let mut hash = None;
        if (cursor.first_seq..=cursor.at.seq).contains(&upto_seq) {
            cursor.walk(disk, &dir, upto_seq, |_, _, frame| {
                if frame.seq == upto_seq {
                    hash = Some(frame.hash);
                }
                frame.seq < upto_seq
            })?;
        }
        let hash = hash.ok_or_else(|| {
            let text = format!("record {upto_seq} of stream {stream} is not here");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let ack = Ack {
            format: ACK_FORMAT,
            min_reader: 1,
            stream: stream.to_string(),
            acked: upto_seq,
            hash,
        };
        let mut text = serde_json::to_vec(&ack)?;
        text.push(b'\n');
        // a crash before this leaves the old position: the batch is sent again and is known there
        replace(disk, &dir.join(ACK), &text)?;
        cursor.acked = upto_seq;
        cursor.acked_hash = hash;
        Ok(())
    }

    /// Removes segments that are closed and acknowledged to their last record, and streams that
    /// have ended and are. Returns how many bytes went.
    ///
    /// # Errors
    /// When something cannot be removed. What was removed stays so; call again.
    pub fn collect(&mut self, now: &Now) -> io::Result<u64> {
        let (mut freed, mut failed) = (0, None);
        for id in streams(&*self.disk, &self.dir)? {
            match self.collect_stream(id, now) {
                Ok(bytes) => freed += bytes,
                Err(error) => failed = Some(error),
            }
        }
        // a lock without a directory is what a crash in the last step below left
        for entry in self.disk.list(&self.dir).unwrap_or_default() {
            let stream = entry
                .name
                .strip_suffix(".lock")
                .and_then(|id| StreamId::parse(id).ok());
            if let Some(id) = stream
                && is_missing(&*self.disk, &self.dir.join(id.to_string()))
            {
                self.disk.remove(&self.dir.join(&entry.name))?;
            }
        }
        failed.map_or(Ok(freed), Err)
    }

    fn collect_stream(&mut self, id: StreamId, now: &Now) -> io::Result<u64> {
        let disk = &*self.disk;
        let dir = self.dir.join(id.to_string());
        let cursor = cursor(&mut self.cursors, disk, &self.dir, id);
        let found = segments(disk, &dir)?;
        let whole = cursor.ended && cursor.acked >= cursor.at.seq && !cursor.live;
        let mut freed = 0;
        let ended = Previous {
            stream: id,
            at_least: cursor.at.seq,
            hash: cursor.at.hash,
        };
        let remember =
            |named: &[(StreamId, u64)]| delivered::remember(disk, &self.dir, ended, named);
        // first: a crash in between leaves the stream in both places. Only on a disk without room
        // for it something goes before
        let remembered = !whole || remember(&cursor.named_streams).is_ok();
        for (index, (first_seq, bytes)) in found.iter().enumerate() {
            let next = found.get(index + 1).map(|(first_seq, _)| *first_seq);
            let delivered = next.is_some_and(|next| next <= cursor.acked + 1);
            if !whole && !delivered {
                break;
            }
            disk.remove(&dir.join(segment_name(*first_seq)))?;
            freed += bytes;
            cursor.first_seq = next.unwrap_or(cursor.at.seq + 1);
        }
        if !remembered && let Err(error) = remember(&cursor.named_streams) {
            // a full disk gets its room back all the same: without it no call is recorded
            tracing::warn!(stream = %id, %error, "No later stream will name this one.");
        }
        cursor
            .segments
            .retain(|first_seq| *first_seq >= cursor.first_seq);
        let first_seq = cursor.first_seq;
        cursor.marks.retain(|mark| mark.segment >= first_seq);
        let made_ms =
            id.0.iter()
                .take(6)
                .fold(0_u64, |ms, byte| ms << 8 | u64::from(*byte));
        let abandoned = found.iter().all(|(_, bytes)| *bytes == 0)
            && now.wall_us / 1000 > made_ms.saturating_add(EMPTY_MS);
        if !whole && !abandoned {
            return Ok(freed);
        }
        // the lock is held until its file goes, and that goes last: a writer that comes now finds
        // no directory and takes another name
        let Some(lock) = disk.lock(&lock_path(&self.dir, id))? else {
            return Ok(freed);
        };
        for entry in disk.list(&dir)? {
            let ours = entry.name == ACK || entry.name == ACK_NEW;
            if ours || (entry.name.ends_with(".seg") && entry.bytes == 0) {
                disk.remove(&dir.join(&entry.name))?;
            }
        }
        disk.remove_dir(&dir)?;
        disk.remove(&lock_path(&self.dir, id))?;
        drop(lock);
        self.cursors.remove(&id);
        Ok(freed)
    }
}

fn is_missing(disk: &dyn Disk, dir: &Path) -> bool {
    matches!(disk.list(dir), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

pub(super) fn cursor<'c>(
    cursors: &'c mut BTreeMap<StreamId, Cursor>,
    disk: &dyn Disk,
    spool: &Path,
    id: StreamId,
) -> &'c mut Cursor {
    cursors
        .entry(id)
        .or_insert_with(|| Cursor::new(disk, &spool.join(id.to_string()), id))
}

/// What the ack file says, and whether there is none.
fn read_ack(disk: &dyn Disk, dir: &Path, id: StreamId) -> (Option<Ack>, bool) {
    let read = disk.read(&dir.join(ACK), 0, 4096);
    let missing = matches!(&read, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let ack = read
        .ok()
        .and_then(|text| serde_json::from_slice::<Ack>(&text).ok())
        .filter(|ack| ack.min_reader <= ACK_FORMAT && ack.stream == id.to_string());
    (ack, missing)
}

impl Cursor {
    fn new(disk: &dyn Disk, dir: &Path, id: StreamId) -> Self {
        let (ack, missing) = read_ack(disk, dir, id);
        let ack_known = ack.is_some() || missing;
        let (acked, acked_hash) = ack.map_or((0, GENESIS), |ack| (ack.acked, ack.hash));
        Self {
            acked,
            acked_hash,
            ack_known,
            live: true,
            ended: false,
            segments: Vec::new(),
            at: Mark {
                segment: 0,
                offset: 0,
                seq: 0,
                hash: GENESIS,
            },
            first_seq: 0,
            marks: Vec::new(),
            named: 0,
            declared: Vec::new(),
            named_streams: Vec::new(),
        }
    }

    /// Whether a record was read.
    pub(super) fn begun(&self) -> bool {
        self.first_seq > 0
    }

    fn state(&self, id: StreamId) -> StreamState {
        StreamState {
            id,
            next_unacked: (self.acked + 1).max(self.first_seq),
            last_seq: self.at.seq,
            last_hash: self.at.hash,
            live: self.live,
            ended: self.ended,
        }
    }

    /// Checks what stands after the place reached, as far as it is whole.
    pub(super) fn advance(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        self.segments = segments(disk, dir)?
            .into_iter()
            .map(|(first_seq, _)| first_seq)
            .collect();
        if !self.begun() {
            let Some(first) = self.segments.first() else {
                return Ok(());
            };
            self.at.segment = *first;
        }
        loop {
            if self.read_on(disk, dir)? {
                continue;
            }
            if !self.begun() || self.ended {
                return Ok(());
            }
            // on to the next segment, once it holds a whole frame
            let (here, next) = (self.at, self.at.seq + 1);
            let (segment, offset) = (next, 0);
            if here.segment != next && self.segments.contains(&next) {
                self.at = Mark {
                    segment,
                    offset,
                    ..here
                };
            } else if self.acked >= next && self.segments.contains(&(self.acked + 1)) {
                // less is left here than the collector has: its end stands after what it has
                let (segment, seq, hash) = (self.acked + 1, self.acked, self.acked_hash);
                self.at = Mark {
                    segment,
                    offset,
                    seq,
                    hash,
                };
            } else {
                return Ok(());
            }
            if !self.read_on(disk, dir)? {
                self.at = here;
                return Ok(());
            }
        }
    }

    /// Takes the frames at the place reached, as far as one read goes. Says whether there were any.
    fn read_on(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
        let path = dir.join(segment_name(self.at.segment));
        let bytes = match chunk(disk, &path, self.at.offset) {
            // the last one that was read may be delivered and gone
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            read => read?,
        };
        let before = self.at.offset;
        for frame in frames(&bytes) {
            let Ok(frame) = frame else { break };
            if self.ended || !self.take(&frame) {
                break;
            }
        }
        Ok(self.at.offset > before)
    }

    /// Takes the frame if it is the next of the chain.
    fn take(&mut self, frame: &Frame<'_>) -> bool {
        let before = if self.begun() {
            self.at
        } else if let Some(hash) = self.before_first(frame) {
            Mark {
                seq: frame.seq - 1,
                hash,
                ..self.at
            }
        } else {
            return false;
        };
        if frame.seq != before.seq + 1 || frame.chain(&before.hash) != frame.hash {
            return false;
        }
        if !self.begun() {
            self.first_seq = frame.seq;
        }
        if before.offset == 0 || frame.seq.is_multiple_of(MARK_RECORDS) {
            self.marks.push(before);
        }
        self.at = Mark {
            segment: before.segment,
            offset: before.offset + frame.bytes.len() as u64,
            seq: frame.seq,
            hash: frame.hash,
        };
        match frame.kind {
            kind::END => self.ended = true,
            kind::DAMAGE => {
                if let Ok(record) = decode(frame)
                    && let Said::Damage(damage) = record.said
                {
                    self.declared.push(damage.file.to_owned());
                }
            }
            kind::STREAM => {
                if let Ok(record) = decode(frame)
                    && let Said::Stream(header) = record.said
                {
                    let named = header.previous.iter();
                    self.named_streams = named.map(|one| (one.stream, one.at_least)).collect();
                }
            }
            _ => {}
        }
        true
    }

    /// The chain before the first frame that is here. Segments before it were delivered and
    /// removed; the ack file or the frame itself says how the chain stood. `None` where records
    /// between what was acknowledged and this frame are missing: then all that follows is set
    /// aside and declared, like any damage.
    fn before_first(&self, frame: &Frame<'_>) -> Option<Digest> {
        if frame.seq != self.at.segment || (self.ack_known && frame.seq > self.acked + 1) {
            return None;
        }
        if frame.seq == 1 {
            return Some(GENESIS);
        }
        if frame.seq == self.acked + 1 {
            return Some(self.acked_hash);
        }
        match decode(frame).ok()?.said {
            Said::Damage(damage) => Some(damage.prev_hash),
            Said::End { prev_hash, .. } => Some(prev_hash),
            Said::Segment(segment) => Some(segment.prev_hash),
            _ => None,
        }
    }

    /// Reads frames again that were checked before, from the nearest mark at or before `from`,
    /// until `each` says false. `each` gets the segment and the chain before the frame, too.
    fn walk(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        from: u64,
        mut each: impl FnMut(u64, &Digest, &Frame<'_>) -> bool,
    ) -> io::Result<()> {
        let after = self.marks.partition_point(|mark| mark.seq < from);
        let Some(mut at) = after
            .checked_sub(1)
            .and_then(|index| self.marks.get(index))
            .copied()
        else {
            return Ok(());
        };
        while at.seq < self.at.seq {
            let bytes = chunk(disk, &dir.join(segment_name(at.segment)), at.offset)?;
            let before = at.seq;
            for frame in frames(&bytes) {
                let Ok(frame) = frame else { break };
                if frame.seq != at.seq + 1 || frame.seq > self.at.seq {
                    break;
                }
                if !each(at.segment, &at.hash, &frame) {
                    return Ok(());
                }
                at.seq = frame.seq;
                at.hash = frame.hash;
                at.offset += frame.bytes.len() as u64;
            }
            if at.seq == before {
                if at.segment == before + 1 || !self.segments.contains(&(before + 1)) {
                    // not as it was when it was checked
                    return Err(io::ErrorKind::InvalidData.into());
                }
                at = Mark {
                    segment: before + 1,
                    offset: 0,
                    ..at
                };
            }
        }
        Ok(())
    }
}

/// Reads from `offset` at least one frame, if one is there as a whole, and otherwise what is there.
pub(super) fn chunk(disk: &dyn Disk, path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let bytes = disk.read(path, offset, CHUNK_BYTES)?;
    let cut = matches!(frames(&bytes).next(), Some(Err(FrameError::Cut { .. })));
    if cut && bytes.len() == CHUNK_BYTES {
        return disk.read(path, offset, FRAME_BYTES);
    }
    Ok(bytes)
}
