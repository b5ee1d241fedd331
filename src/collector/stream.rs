//! One stream of one installation on the disk: four lanes of journals.
//!
//! ```text
//! <stream>/main/<first seq>.journal         the chain, each record once
//! <stream>/fork/<first seq>.journal         what contradicts it, if anything ever does
//! <stream>/quarantine/<first seq>.journal   frames nobody could read
//! <stream>/body/<seq>.journal               sealed parts that came after their records
//! ```

use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::journal::{Entry, JournalError, Reader, Writer};
use super::ledger::{Ledger, Run};
use crate::audit;
use crate::batch::protocol::{Lane, Standing};
use crate::batch::{self, Batch, Header};
use crate::ids::Digest;

/// A journal is closed at this size, in bytes.
const JOURNAL_BYTES: u64 = 64 << 20;

/// Where a stored batch lies, and what it says.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its header, signature checked.
    pub header: Header,
    /// SHA-256 of its body as it travelled.
    pub body_digest: Digest,
    /// The length of its body once decompressed.
    pub raw_bytes: u32,
    /// In which journal.
    pub journal: PathBuf,
    /// At which byte.
    pub offset: u64,
    /// When it was received, in microseconds since the Unix epoch.
    pub received_us: u64,
    /// How far its key was trusted then.
    pub standing: Standing,
}

/// Something wrong with what is stored.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Which journal.
    pub journal: PathBuf,
    /// At which byte.
    pub offset: u64,
    /// What.
    pub sentence: String,
    /// The end of a write that never finished: harmless.
    pub torn: bool,
}

/// What lies in one lane.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// The batches, by first record.
    pub batches: Vec<Stored>,
    /// What could not be read.
    pub troubles: Vec<Trouble>,
    /// The newest journal and the end of its last whole entry, if it may be appended to.
    tail: Option<(PathBuf, u64)>,
}

/// The directory of a lane.
#[must_use]
pub fn lane_dir(stream: &Path, lane: Lane) -> PathBuf {
    stream.join(match lane {
        Lane::Body => "body",
        Lane::Fork => "fork",
        Lane::Main => "main",
        Lane::Quarantine => "quarantine",
    })
}

/// Reads what lies in a lane; a lane that does not exist is empty. Changes nothing.
///
/// # Errors
/// What the file system says. Content that is not as it was written is a [`Trouble`] instead.
pub fn index(dir: &Path) -> io::Result<Index> {
    let mut index = Index::default();
    for journal in journals(dir)? {
        let mut trouble = |offset, sentence: String, torn| {
            index.troubles.push(Trouble {
                journal: journal.clone(),
                offset,
                sentence,
                torn,
            });
        };
        let mut reader = match Reader::open(&journal) {
            Ok(reader) => reader,
            Err(JournalError::Io(error)) => return Err(error),
            Err(error) => {
                trouble(0, error.to_string(), false);
                index.tail = None;
                continue;
            }
        };
        let mut sound = true;
        loop {
            match reader.next_entry() {
                Ok(None) => break,
                Ok(Some(entry)) => match batch::open(&entry.batch) {
                    Ok(batch) => index.batches.push(Stored {
                        header: batch.header,
                        body_digest: batch.body_digest,
                        raw_bytes: batch.raw_bytes,
                        journal: journal.clone(),
                        offset: entry.offset,
                        received_us: entry.received_us,
                        standing: entry.standing,
                    }),
                    Err(error) => trouble(entry.offset, error.to_string(), false),
                },
                Err(JournalError::Io(error)) => return Err(error),
                Err(error @ JournalError::Damaged { offset, next }) => {
                    trouble(offset, error.to_string(), false);
                    sound = false;
                    reader.seek(next).map_err(io::Error::other)?;
                }
                Err(error @ JournalError::Torn { offset }) => {
                    trouble(offset, error.to_string(), true);
                    break;
                }
                Err(error @ JournalError::Format) => {
                    trouble(reader.offset(), error.to_string(), false);
                    sound = false;
                    break;
                }
            }
        }
        index.tail = sound.then(|| (journal.clone(), reader.offset()));
    }
    index.batches.sort_by_key(|stored| stored.header.first_seq);
    Ok(index)
}

fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match std::fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in listing {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "journal") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl Stored {
    /// Reads the batch again.
    ///
    /// # Errors
    /// [`JournalError`] when it is not there any more as it was written.
    pub fn read(&self) -> Result<Entry, JournalError> {
        let mut reader = Reader::open(&self.journal)?;
        reader.seek(self.offset)?;
        reader.next_entry()?.ok_or(JournalError::Torn {
            offset: self.offset,
        })
    }
}

/// The chain of a lane at a record; nothing where it is not stored or cannot be read.
#[must_use]
pub fn hash_in(batches: &[Stored], seq: u64) -> Option<Digest> {
    let stored = batches
        .iter()
        .find(|stored| (stored.header.first_seq..=stored.header.last_seq).contains(&seq))?;
    if stored.header.last_seq == seq {
        return Some(stored.header.last_hash);
    }
    let entry = stored.read().ok()?;
    let frames = batch::open(&entry.batch).ok()?.frames().ok()?;
    audit::frames(&frames)
        .map_while(Result::ok)
        .find(|frame| frame.seq == seq)
        .map(|frame| frame.hash)
}

/// One lane open for writing.
#[derive(Debug)]
struct LaneWriter {
    dir: PathBuf,
    index: Index,
    writer: Option<(PathBuf, Writer)>,
}

impl LaneWriter {
    fn open(stream: &Path, lane: Lane) -> io::Result<Self> {
        let dir = lane_dir(stream, lane);
        Ok(Self {
            index: index(&dir)?,
            dir,
            writer: None,
        })
    }

    fn append(
        &mut self,
        root: &Path,
        batch: &Batch<'_>,
        received_us: u64,
        standing: Standing,
        bytes: &[u8],
    ) -> io::Result<()> {
        let header = &batch.header;
        let (journal, mut writer) = match self.writer.take() {
            Some(open) if open.1.end() < JOURNAL_BYTES => open,
            _ => self.open_writer(root, header.first_seq)?,
        };
        // on an error the writer is dropped, and the next append cuts off what it left
        let offset = writer.append(received_us, standing, bytes)?;
        self.index.tail = Some((journal.clone(), writer.end()));
        self.index.batches.push(Stored {
            header: header.clone(),
            body_digest: batch.body_digest,
            raw_bytes: batch.raw_bytes,
            journal: journal.clone(),
            offset,
            received_us,
            standing,
        });
        self.writer = Some((journal, writer));
        Ok(())
    }

    fn open_writer(&self, root: &Path, first_seq: u64) -> io::Result<(PathBuf, Writer)> {
        files::create_dir(root, &self.dir)?;
        if let Some((journal, end)) = &self.index.tail
            && *end < JOURNAL_BYTES
        {
            keep_torn_end(journal, *end)?;
            let writer = Writer::open(journal, *end)?;
            crate::vault::sync_dir(&self.dir)?;
            return Ok((journal.clone(), writer));
        }
        let mut number = first_seq;
        loop {
            let journal = self.dir.join(format!("{number:020}.journal"));
            if journal.exists() {
                number += 1;
                continue;
            }
            let writer = Writer::open(&journal, 0)?;
            crate::vault::sync_dir(&self.dir)?;
            return Ok((journal, writer));
        }
    }
}

/// What lies behind the last whole entry is almost surely a write that was cut off before it
/// was acknowledged. Almost: it is copied aside before it is cut.
fn keep_torn_end(journal: &Path, end: u64) -> io::Result<()> {
    let content = std::fs::read(journal)?;
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    match content.get(end..) {
        Some(torn) if !torn.is_empty() && end > 0 => {
            files::replace(&journal.with_extension(format!("torn-{end}")), torn)
        }
        _ => Ok(()),
    }
}

/// A stream open for writing. One per process; the store sees to it.
#[derive(Debug)]
pub struct Stream {
    main: LaneWriter,
    fork: LaneWriter,
    quarantine: LaneWriter,
    body: LaneWriter,
    ledger: Ledger,
}

impl Stream {
    /// Reads what is stored of it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let main = LaneWriter::open(dir, Lane::Main)?;
        let mut ledger = Ledger::default();
        for stored in &main.index.batches {
            ledger.append(Run::of(&stored.header));
        }
        Ok(Self {
            main,
            fork: LaneWriter::open(dir, Lane::Fork)?,
            quarantine: LaneWriter::open(dir, Lane::Quarantine)?,
            body: LaneWriter::open(dir, Lane::Body)?,
            ledger,
        })
    }

    /// The runs held in the main lane.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What was wrong with the stored lanes when the stream was opened.
    pub fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        [&self.main, &self.fork, &self.quarantine, &self.body]
            .into_iter()
            .flat_map(|lane| &lane.index.troubles)
    }

    /// Says whether this very batch lies in a lane beside the main one: the same range with the
    /// same body. Digests are compared; nothing that lies there is read again.
    #[must_use]
    pub fn has_aside(&self, lane: Lane, header: &Header, body_digest: &Digest) -> bool {
        let lane = match lane {
            Lane::Body => &self.body,
            Lane::Fork => &self.fork,
            Lane::Main => return false,
            Lane::Quarantine => &self.quarantine,
        };
        let run = Run::of(header);
        let mut held = lane.index.batches.iter();
        held.any(|stored| stored.body_digest == *body_digest && Run::of(&stored.header) == run)
    }

    /// The stored chain at a record of the main lane; nothing where it cannot be read.
    #[must_use]
    pub fn hash_at(&self, seq: u64) -> Option<Digest> {
        if let Some(run) = self.ledger.runs().iter().find(|run| run.last_seq == seq) {
            return Some(run.last_hash);
        }
        hash_in(&self.main.index.batches, seq)
    }

    /// Appends a batch to a lane and returns once it is durable.
    ///
    /// # Errors
    /// What the file system says; nothing is then taken note of.
    pub fn append(
        &mut self,
        root: &Path,
        lane: Lane,
        batch: &Batch<'_>,
        received_us: u64,
        standing: Standing,
        bytes: &[u8],
    ) -> io::Result<()> {
        let writer = match lane {
            Lane::Body => &mut self.body,
            Lane::Fork => &mut self.fork,
            Lane::Main => &mut self.main,
            Lane::Quarantine => &mut self.quarantine,
        };
        writer.append(root, batch, received_us, standing, bytes)?;
        if lane == Lane::Main {
            self.ledger.append(Run::of(&batch.header));
        }
        Ok(())
    }
}
