//! Journals: the files batches are kept in, byte for byte as they were signed.
//!
//! ```text
//! file     "MCJ1" ‖ minimum reader (1) ‖ 3 × 0 ‖ entry ‖ entry ‖ …
//! entry     0   4  "MCE1"
//!           4   4  length of the batch          (integers are big-endian)
//!           8   8  received at, microseconds since the Unix epoch
//!          16   1  standing of the key: 1 enrolled, 2 unknown, 3 revoked
//!          17   3  0
//!          20  32  SHA-256("mcpshim/journal/1\0" ‖ bytes 0..20 ‖ batch)
//!          52   …  the batch
//! ```
//!
//! Entries are appended and synced before anybody is told, and never changed. Because the batch
//! is kept whole, its signature goes on saying who sent it: losing a journal loses those records
//! for good (devices delete what was acknowledged); whoever can write it can remove the newest
//! entries unseen, but cannot change or add any without an installation's private key.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use ring::digest::{Context, SHA256};

use crate::batch::protocol::Standing;
use crate::ids::Digest;
use crate::limits;

const FILE_HEAD: &[u8; 8] = b"MCJ1\x01\0\0\0";
const ENTRY_MAGIC: &[u8; 4] = b"MCE1";
const ENTRY_HEAD: usize = 52;
const DOMAIN: &[u8] = b"mcpshim/journal/1\0";
/// Behind a bad entry, a whole one is looked for until so many bytes were hashed; from there on
/// one is taken to be there.
const SEARCH_BYTES: usize = 1 << 30;
/// The longest batch an entry holds, in bytes.
pub const ENTRY_BYTES: usize = limits::BATCH_BYTES.0 + crate::batch::HEADER_BYTES;

/// One stored batch.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it starts in its file.
    pub offset: u64,
    /// When it was received, in microseconds since the Unix epoch.
    pub received_us: u64,
    /// How far the key was trusted then.
    pub standing: Standing,
    /// The batch, as it was sent.
    pub batch: Vec<u8>,
}

/// A journal that cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Bytes that were not written here, or not so.
    #[error("entry at byte {offset} is damaged")]
    Damaged {
        /// Where.
        offset: u64,
        /// Where the next one may start, if its own length can be believed.
        next: u64,
    },
    /// The file system refused.
    #[error("cannot read it")]
    Io(#[from] io::Error),
    /// Another format.
    #[error("it is not a journal of format 1")]
    Format,
    /// The end of an entry is missing: a write that never finished, and was never acknowledged.
    #[error("entry at byte {offset} is cut")]
    Torn {
        /// Where it starts.
        offset: u64,
    },
}

fn standing_code(standing: Standing) -> u8 {
    match standing {
        Standing::Enrolled => 1,
        Standing::Unknown => 2,
        Standing::Revoked => 3,
    }
}

fn digest(head: &[u8], batch: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(DOMAIN);
    context.update(head);
    context.update(batch);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    Digest(out)
}

/// Reads a journal from its beginning, or from the start of an entry.
#[derive(Debug)]
pub struct Reader {
    file: io::BufReader<File>,
    offset: u64,
}

impl Reader {
    /// Opens a journal. A file shorter than its head is an empty one: it was being made.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let mut file = io::BufReader::with_capacity(64 << 10, File::open(path)?);
        let mut head = Vec::with_capacity(FILE_HEAD.len());
        file.by_ref().take(8).read_to_end(&mut head)?;
        if head.len() < FILE_HEAD.len() && FILE_HEAD.starts_with(&head) {
            return Ok(Self { file, offset: 0 });
        }
        if head != FILE_HEAD {
            return Err(JournalError::Format);
        }
        Ok(Self { file, offset: 8 })
    }

    /// Goes to the start of an entry.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn seek(&mut self, offset: u64) -> Result<(), JournalError> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.offset = offset;
        Ok(())
    }

    /// The end of the last whole entry.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next entry; nothing at the end. A torn end is an error, once. It is torn only if
    /// no whole entry begins in it: a changed length must not make acknowledged ones look cut.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, JournalError> {
        match self.entry() {
            Err(JournalError::Torn { offset }) => Err(match self.whole_after(offset)? {
                Some(next) => JournalError::Damaged { offset, next },
                None => JournalError::Torn { offset },
            }),
            Err(JournalError::Damaged { offset, next }) => {
                let next = self.whole_after(offset)?.unwrap_or(next);
                Err(JournalError::Damaged { offset, next })
            }
            result => result,
        }
    }

    /// Where the first whole entry behind the start of a bad one begins.
    fn whole_after(&mut self, offset: u64) -> Result<Option<u64>, JournalError> {
        self.file.seek(SeekFrom::Start(offset))?;
        let mut rest = Vec::new();
        self.file.read_to_end(&mut rest)?;
        // a batch may be full of what looks like an entry
        let mut hashed = 0;
        for at in 1..rest.len() {
            let Some(bytes) = rest.get(at..).filter(|rest| rest.starts_with(ENTRY_MAGIC)) else {
                continue;
            };
            let Some((fixed, behind)) = bytes.split_at_checked(20) else {
                break;
            };
            let [_, _, _, _, l0, l1, l2, l3, ..] = fixed else {
                break;
            };
            let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
            let Some((sum, batch)) = behind.split_at_checked(32) else {
                break;
            };
            let Some(batch) = batch.get(..length) else {
                continue;
            };
            hashed += length;
            if hashed > SEARCH_BYTES || digest(fixed, batch).0 == sum {
                return Ok(Some(offset + u64::try_from(at).unwrap_or(u64::MAX)));
            }
        }
        Ok(None)
    }

    fn entry(&mut self) -> Result<Option<Entry>, JournalError> {
        let offset = self.offset;
        let torn = JournalError::Torn { offset };
        let mut head = Vec::with_capacity(ENTRY_HEAD);
        let wanted = u64::try_from(ENTRY_HEAD).unwrap_or(u64::MAX);
        self.file.by_ref().take(wanted).read_to_end(&mut head)?;
        if head.is_empty() || offset == 0 {
            return Ok(None);
        }
        let Some((fixed, sum)) = head.split_at_checked(20) else {
            return Err(torn);
        };
        let [m0, m1, m2, m3, l0, l1, l2, l3, at @ .., standing, _, _, _] = fixed else {
            return Err(torn);
        };
        let received: [u8; 8] = at.try_into().map_err(|_size| JournalError::Format)?;
        let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let next = offset + wanted + u64::from(length);
        let damaged = JournalError::Damaged { offset, next };
        let standing = match standing {
            1 => Standing::Enrolled,
            2 => Standing::Unknown,
            3 => Standing::Revoked,
            _ => return Err(damaged),
        };
        if [*m0, *m1, *m2, *m3] != *ENTRY_MAGIC || bytes > ENTRY_BYTES {
            return Err(damaged);
        }
        let mut batch = Vec::new();
        self.file
            .by_ref()
            .take(u64::from(length))
            .read_to_end(&mut batch)?;
        if sum.len() < 32 || batch.len() < bytes {
            return Err(torn);
        }
        if digest(fixed, &batch).0 != sum {
            return Err(damaged);
        }
        self.offset = next;
        Ok(Some(Entry {
            offset,
            received_us: u64::from_be_bytes(received),
            standing,
            batch,
        }))
    }
}

/// Appends to a journal. One writer per file; the caller sees to it.
#[derive(Debug)]
pub struct Writer {
    file: File,
    end: u64,
}

impl Writer {
    /// Opens or makes a journal whose whole entries end at `end` (0 for a new one), and cuts off
    /// what lies behind: the rest of a write that was never acknowledged.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, end: u64) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let have = file.metadata()?.len();
        if end == 0 {
            file.set_len(0)?;
            file.write_all(FILE_HEAD)?;
        } else if have > end {
            file.set_len(end)?;
        }
        if end == 0 || have > end {
            file.sync_all()?;
        }
        let end = end.max(8);
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { file, end })
    }

    /// The end of the last entry.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Appends an entry and returns once it is on the disk. After an error the file may hold a
    /// part of it: open the journal again at [`Writer::end`], which cuts that off.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append(
        &mut self,
        received_us: u64,
        standing: Standing,
        batch: &[u8],
    ) -> io::Result<u64> {
        let length = u32::try_from(batch.len())
            .ok()
            .filter(|_| batch.len() <= ENTRY_BYTES)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let mut out = Vec::with_capacity(ENTRY_HEAD + batch.len());
        out.extend_from_slice(ENTRY_MAGIC);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&received_us.to_be_bytes());
        out.extend_from_slice(&[standing_code(standing), 0, 0, 0]);
        let sum = digest(&out, batch);
        out.extend_from_slice(&sum.0);
        out.extend_from_slice(batch);
        self.file.write_all(&out)?;
        // point of no return: what is synced here is acknowledged next, and the device may then
        // delete its copy. A crash before leaves a torn or a whole entry that nobody was told
        // of; the device sends it again, and recovery keeps or cuts it.
        self.file.sync_data()?;
        let offset = self.end;
        self.end += u64::try_from(out.len()).unwrap_or(u64::MAX);
        Ok(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, std::path::PathBuf, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.journal");
        let mut writer = Writer::open(&path, 0).unwrap();
        writer.append(5, Standing::Enrolled, b"first").unwrap();
        writer.append(6, Standing::Unknown, b"second one").unwrap();
        (dir, path, writer.end())
    }

    fn read(path: &Path) -> (Vec<Vec<u8>>, Option<JournalError>, u64) {
        let mut reader = Reader::open(path).unwrap();
        let mut found = Vec::new();
        loop {
            match reader.next_entry() {
                Ok(Some(entry)) => found.push(entry.batch),
                Ok(None) => return (found, None, reader.offset()),
                Err(error) => return (found, Some(error), reader.offset()),
            }
        }
    }

    #[test]
    fn entries_come_back_as_they_were_given() {
        let (_dir, path, end) = written();
        let (found, error, offset) = read(&path);
        assert_eq!(found, [b"first".to_vec(), b"second one".to_vec()]);
        assert!(error.is_none());
        assert_eq!(offset, end);
    }

    #[test]
    fn cut_anywhere_in_the_last_entry_it_keeps_the_first_and_goes_on() {
        let (_dir, path, end) = written();
        let whole = std::fs::read(&path).unwrap();
        let second = 8 + ENTRY_HEAD + b"first".len();
        for length in second + 1..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (found, error, offset) = read(&path);
            assert_eq!(found, [b"first".to_vec()], "cut at {length}");
            assert!(matches!(error, Some(JournalError::Torn { .. })));
            let mut writer = Writer::open(&path, offset).unwrap();
            writer.append(6, Standing::Unknown, b"second one").unwrap();
            assert_eq!(writer.end(), end);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn changed_byte_is_found() {
        let (_dir, path, _end) = written();
        let whole = std::fs::read(&path).unwrap();
        for at in 8..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let (found, error, _) = read(&path);
            assert!(found.len() < 2, "byte {at} was changed unseen");
            assert!(error.is_some());
        }
    }

    #[test]
    fn changed_length_hides_no_entry_behind_it() {
        let (_dir, path, _end) = written();
        let whole = std::fs::read(&path).unwrap();
        let second = 8 + ENTRY_HEAD + b"first".len();
        for length in [0_u32, 4, 6, 200, 1 << 20, u32::MAX] {
            let mut bad = whole.clone();
            bad[12..16].copy_from_slice(&length.to_be_bytes());
            std::fs::write(&path, &bad).unwrap();
            let mut reader = Reader::open(&path).unwrap();
            let error = reader.next_entry().unwrap_err();
            let JournalError::Damaged { offset: 8, next } = error else {
                panic!("{length}: {error:?}");
            };
            assert_eq!(next, u64::try_from(second).unwrap(), "{length}");
            reader.seek(next).unwrap();
            let entry = reader.next_entry().unwrap().unwrap();
            assert_eq!(entry.batch, b"second one");
        }
    }

    #[test]
    fn file_cut_inside_its_head_is_an_empty_journal() {
        let (_dir, path, _end) = written();
        std::fs::write(&path, b"MCJ").unwrap();
        let (found, error, offset) = read(&path);
        assert!(found.is_empty() && error.is_none());
        assert_eq!(offset, 0);
        assert_eq!(Writer::open(&path, 0).unwrap().end(), 8);
    }
}
