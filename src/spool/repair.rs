//! Taking over what dead processes left: the torn end is cut, damage is set aside and declared,
//! and the stream gets the last record its writer could not write.
//!
//! Every step can be cut short and is done again by the next run, with the same result: files are
//! set aside under names that follow from what they are, and what lies there undeclared is declared.

use std::io;
use std::path::Path;

use super::backlog::{Backlog, Cursor, cursor};
use super::disk::{Disk, DiskFile};
use super::{QUARANTINE, lock_path, segment_name, segments, streams};
use crate::audit::decode::Damage;
use crate::audit::{encode, frame, frames};
use crate::clock::Now;
use crate::ids::{Digest, StreamId};

/// How much of a damaged file is searched for readable records, in bytes: more than a segment of
/// ours ever holds.
const LOOK_BYTES: usize = 32 << 20;
/// How much of a file is copied at once, in bytes.
const PART_BYTES: usize = 1 << 20;

/// What was done to one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Which.
    pub stream: StreamId,
    /// Bytes of an unfinished last record that were cut off.
    pub cut_bytes: u64,
    /// Files that now lie in quarantine, below the spool's directory.
    pub quarantined: Vec<String>,
}

impl Backlog {
    /// Takes over every stream whose writer is gone and that has no last record yet.
    ///
    /// # Errors
    /// When the spool's directory cannot be read. A stream that cannot be repaired now (a full
    /// disk) is left for the next time.
    pub fn adopt(&mut self, now: &Now) -> io::Result<Vec<Repair>> {
        let mut repairs = Vec::new();
        for id in streams(&*self.disk, &self.dir)? {
            match self.adopt_stream(id, now) {
                Ok(Some(repair)) => repairs.push(repair),
                Ok(None) => {}
                Err(error) => tracing::warn!(stream = %id, %error, "A stream waits for repair."),
            }
        }
        Ok(repairs)
    }

    fn adopt_stream(&mut self, id: StreamId, now: &Now) -> io::Result<Option<Repair>> {
        let (disk, spool) = (&*self.disk, self.dir.as_path());
        let dir = spool.join(id.to_string());
        if self.cursors.get(&id).is_some_and(|cursor| cursor.ended) {
            return Ok(None);
        }
        let found = segments(disk, &dir)?;
        if found.iter().all(|(_, bytes)| *bytes == 0) {
            // no record yet: a writer that is about to begin, or nothing worth an end
            return Ok(None);
        }
        let Some(lock) = disk.lock(&lock_path(spool, id))? else {
            return Ok(None);
        };
        // with the lock held nobody writes; what was read before may have been cut since
        self.cursors.remove(&id);
        let cursor = cursor(&mut self.cursors, disk, spool, id);
        cursor.live = false;
        cursor.advance(disk, &dir)?;
        if cursor.ended {
            return Ok(None);
        }
        let cut_bytes = settle_tail(disk, spool, &dir, id, cursor)?;
        let quarantined = declare(disk, spool, &dir, id, cursor, cut_bytes, now)?;
        drop(lock);
        self.cursors.remove(&id);
        tracing::info!(stream = %id, cut_bytes, quarantined = quarantined.len(), "Stream taken over.");
        Ok(Some(Repair {
            stream: id,
            cut_bytes,
            quarantined,
        }))
    }
}

/// Deals with everything after the last good frame: cuts a torn end and returns its size, or
/// moves damage to quarantine.
fn settle_tail(
    disk: &dyn Disk,
    spool: &Path,
    dir: &Path,
    id: StreamId,
    cursor: &Cursor,
) -> io::Result<u64> {
    let good = if cursor.begun() {
        (cursor.at.segment, cursor.at.offset)
    } else {
        (0, 0)
    };
    let mut rest = segments(disk, dir)?;
    rest.retain(|(first_seq, bytes)| (*first_seq, *bytes) > good);
    // what a process leaves that dies while it writes: one unfinished frame at the very end
    let mut torn = true;
    for (first_seq, _) in &rest {
        let from = if *first_seq == good.0 { good.1 } else { 0 };
        let tail = disk.read(&dir.join(segment_name(*first_seq)), from, LOOK_BYTES)?;
        let mut budget = LOOK_BYTES;
        torn &= frame::resync(&tail, 0, &mut budget).is_none() && budget > 0;
    }
    let mut cut_bytes = 0;
    let quarantine = spool.join(QUARANTINE);
    for (first_seq, bytes) in rest.into_iter().rev() {
        let path = dir.join(segment_name(first_seq));
        let from = if first_seq == good.0 { good.1 } else { 0 };
        if torn || bytes == from {
            cut_bytes += bytes - from;
        } else {
            // people get every byte before it goes from here
            make_quarantine(disk, spool, &quarantine)?;
            let name = quarantine_name(id, first_seq, from);
            set_aside(disk, &path, from, &quarantine.join(name))?;
            disk.sync_dir(&quarantine)?;
        }
        if from == 0 {
            disk.remove(&path)?;
            disk.sync_dir(dir)?;
        } else {
            let mut file = disk.open(&path)?;
            file.cut(from)?;
            file.sync()?;
        }
    }
    Ok(cut_bytes)
}

/// Declares what lies in quarantine undeclared, and ends the stream.
fn declare(
    disk: &dyn Disk,
    spool: &Path,
    dir: &Path,
    id: StreamId,
    cursor: &Cursor,
    cut_bytes: u64,
    now: &Now,
) -> io::Result<Vec<String>> {
    let quarantine = spool.join(QUARANTINE);
    let prefix = format!("{id}-");
    let mut names: Vec<String> = match disk.list(&quarantine) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed?.into_iter().map(|entry| entry.name).collect(),
    };
    names.retain(|name| {
        name.starts_with(&prefix) && name.ends_with(".bin") && !cursor.declared.contains(name)
    });
    names.sort_unstable();
    if names.is_empty() && !cursor.begun() && cursor.acked == 0 {
        // not one whole record: there is no stream to end, and the directory goes in time
        return Ok(names);
    }
    // what the collector has may be more than what is left here: go on from there
    let (mut seq, mut hash) = if cursor.begun() && cursor.at.seq >= cursor.acked {
        (cursor.at.seq, cursor.at.hash)
    } else {
        (cursor.acked, cursor.acked_hash)
    };
    let onto_last = cursor.begun() && cursor.at.seq == seq;
    let path = if onto_last {
        dir.join(segment_name(cursor.at.segment))
    } else {
        dir.join(segment_name(seq + 1))
    };
    let mut out = Vec::new();
    for name in &names {
        let path = quarantine.join(name);
        let (readable, highest_seq) = readable(&disk.read(&path, 0, LOOK_BYTES)?);
        let (bytes, digest) = measure(disk, &path)?;
        let damage = Damage {
            file: name,
            offset: offset_of(name),
            bytes,
            readable,
            highest_seq,
            digest,
            prev_hash: hash,
        };
        seq += 1;
        hash = encode::damage(seq, now, &damage, &mut out);
    }
    encode::adopted((seq + 1, hash), now, cut_bytes, &mut out);
    let mut file = match disk.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path)?,
        opened => opened?,
    };
    // a crash here leaves a torn end, which the next run cuts before it declares all of it again
    write_all(&mut *file, &out)?;
    file.sync()?;
    disk.sync_dir(dir)?;
    Ok(names)
}

/// Makes the directory if need be, and its name survive loss of power.
fn make_quarantine(disk: &dyn Disk, spool: &Path, path: &Path) -> io::Result<()> {
    match disk.make_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    disk.sync_dir(spool)
}

/// Copies the end of a file into quarantine; anew if a crash left half of it there.
fn set_aside(disk: &dyn Disk, from: &Path, offset: u64, to: &Path) -> io::Result<()> {
    match disk.remove(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.create(to)?;
    each_part(disk, from, offset, |part| write_all(&mut *file, part))?;
    file.sync()
}

/// The size and digest of a file.
fn measure(disk: &dyn Disk, path: &Path) -> io::Result<(u64, Digest)> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut size = 0;
    each_part(disk, path, 0, |part| {
        context.update(part);
        size += part.len() as u64;
        Ok(())
    })?;
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok((size, Digest(digest)))
}

fn each_part(
    disk: &dyn Disk,
    path: &Path,
    mut offset: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let part = disk.read(path, offset, PART_BYTES)?;
        each(&part)?;
        offset += part.len() as u64;
        if part.len() < PART_BYTES {
            return Ok(());
        }
    }
}

fn write_all(file: &mut dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.append(rest)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => done += count,
        }
    }
    Ok(())
}

/// Segment and offset are padded, so that names sort in the order of the stream.
fn quarantine_name(id: StreamId, first_seq: u64, offset: u64) -> String {
    format!("{id}-{first_seq:020}-{offset:010}.bin")
}

fn offset_of(name: &str) -> u64 {
    let digits = name
        .strip_suffix(".bin")
        .and_then(|name| name.rsplit('-').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Whole frames anywhere in the bytes, and the highest number among them.
fn readable(bytes: &[u8]) -> (u64, u64) {
    let (mut count, mut highest, mut at) = (0, 0, 0);
    let mut budget = LOOK_BYTES;
    while let Some(start) = frame::resync(bytes, at, &mut budget) {
        at = start;
        for frame in frames(bytes.get(start..).unwrap_or_default()) {
            let Ok(frame) = frame else { break };
            count += 1;
            highest = highest.max(frame.seq);
            at = start + frame.offset + frame.bytes.len();
        }
    }
    (count, highest)
}
