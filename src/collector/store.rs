//! The collector's data directory: who may write what where, and what is acknowledged.
//!
//! ```text
//! collector.lock                       held by the one server that writes
//! collector.json                       format, minimum reader, organisation
//! installations/<key id>/installation.json   its public key, its device, whom it is bound to
//! installations/<key id>/streams/<stream>/…  see `stream`
//! log/alerts.jsonl                     forks, gaps, damage, unknown keys: one line each
//! log/streams.jsonl                    which installations and streams there were, see `list`
//! log/admin.jsonl                      what people did, such as unsealing
//! reader.token                         what a query over HTTP must show
//! trust/                               the verified registry's state
//! ```
//!
//! Streams lie below the key that signed them: an installation can neither touch nor even make
//! noise in another's streams. Losing `installation.json` costs a new enrolment; whoever can
//! write it can make records look like another person's, which is why the records name their
//! caller as well and every answer says whether the two agree.

mod body;
mod heirs;
mod incoming;
mod installation;
pub mod list;
mod strangers;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use self::heirs::Heirs;
pub use self::incoming::Answer;
pub(super) use self::incoming::judge;
use self::incoming::{Chained, chain, refused};
pub(super) use self::installation::agent_key;
pub use self::installation::{
    Binding, InstallationDoc, Who, installation_docs, stream_dir, streams,
};
use self::installation::{INSTALLATIONS, unusual};
pub use self::strangers::Rooms;
use super::files;
use super::ledger::Place;
use super::stream::Stream;
use crate::audit;
use crate::audit::decode::Said;
use crate::audit::frame::Blob;
use crate::batch::protocol::{Lane, Rewind, Standing, Stored};
use crate::batch::{Batch, Front, Header, Installation};
use crate::clock::{Now, Utc};
use crate::ids::{KeyId, OrgId, StreamId};
use crate::registry::doc::Registry;

/// The format written here, and the newest read.
pub const FORMAT: u32 = 1;
/// Streams kept open; any beyond are opened again when needed. Each may have three files open.
const OPEN_STREAMS: usize = 2048;

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another server writes here.
    #[error("another collector is using {}", .0.display())]
    Busy(PathBuf),
    /// A file is not what was written.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// Not a directory.
    #[error("{} is not a directory", .0.display())]
    File(PathBuf),
    /// The file system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A part of a data directory is not there.
    #[error("{} is missing", .0.display())]
    Lost(PathBuf),
    /// There is no such directory.
    #[error("there is no directory {}", .0.display())]
    Missing(PathBuf),
    /// A newer program wrote it.
    #[error("{} needs a reader of version {needs}, this one is of version {FORMAT}", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version it needs.
        needs: u32,
    },
    /// A directory that no collector made.
    #[error("{} holds no collector data", .0.display())]
    None(PathBuf),
    /// Another organisation's.
    #[error("{} belongs to organisation {have}, not {wanted}", path.display())]
    Org {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        have: OrgId,
        /// Whose it should be.
        wanted: OrgId,
    },
}

impl StoreError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// `collector.json`.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    format: u32,
    min_reader: u32,
    org: OrgId,
}

/// A stream that somebody may have open; nothing before the first use and after an error.
type Slot = Arc<Mutex<Option<Stream>>>;

/// The open data directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    org: OrgId,
    streams: Mutex<BTreeMap<(KeyId, StreamId), Slot>>,
    installations: Mutex<Installations>,
    /// One enrolment at a time: held while the disk is written, which nothing else waits for.
    enrolling: Mutex<()>,
    heirs: Mutex<Heirs>,
    rooms: Rooms,
    open_streams: usize,
    log: Mutex<()>,
    // freed by the kernel when the process ends, however it ends
    _lock: File,
}

#[derive(Debug, Default)]
struct Installations {
    known: BTreeMap<KeyId, InstallationDoc>,
    /// What each that is bound to nobody has stored, see [`strangers::cost`].
    unknown_bytes: BTreeMap<KeyId, u64>,
}

/// What became of a batch.
struct Placed {
    answer: Answer,
    /// It lies on the disk now, and did not before.
    is_new: bool,
}

impl Placed {
    fn nothing(answer: Answer) -> Self {
        Self {
            answer,
            is_new: false,
        }
    }
}

/// A lock whose holder panicked still guards what is on the disk, which is always whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Makes a data directory, or checks that it is one of this organisation.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn init(root: &Path, org: &OrgId) -> Result<(), StoreError> {
        crate::files::create_private_dir(root).map_err(StoreError::io(root))?;
        let made = match about(root) {
            Ok(have) if have.org == *org => true,
            Ok(have) => {
                return Err(StoreError::Org {
                    path: root.to_owned(),
                    have: have.org,
                    wanted: org.clone(),
                });
            }
            Err(StoreError::None(_)) => false,
            Err(error) => return Err(error),
        };
        for name in [INSTALLATIONS, "log", "trust"] {
            let dir = root.join(name);
            files::create_dir(root, &dir).map_err(StoreError::io(&dir))?;
        }
        if made {
            return Ok(());
        }
        // last: what says that this is a data directory says that it is whole, too. A crash
        // before leaves one that holds no data, and the next call makes it
        let path = root.join("collector.json");
        let about = About {
            format: FORMAT,
            min_reader: FORMAT,
            org: org.clone(),
        };
        let text = serde_json::to_vec(&about).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(StoreError::io(&path))
    }

    /// Opens a data directory for writing; makes it first if need be.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Busy`] when another server has it open.
    pub fn open(root: &Path, org: &OrgId) -> Result<Self, StoreError> {
        Self::open_with(root, org, Rooms::default())
    }

    /// The same, with other bounds for installations that are bound to nobody.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_with(root: &Path, org: &OrgId, rooms: Rooms) -> Result<Self, StoreError> {
        Self::init(root, org)?;
        let path = root.join("collector.lock");
        let lock = crate::files::try_lock(&path).map_err(StoreError::io(&path))?;
        let lock = lock.ok_or_else(|| StoreError::Busy(root.to_owned()))?;
        let mut installations = Installations::default();
        for (id, doc) in installation_docs(root)? {
            if doc.bindings.is_empty() {
                let bytes = strangers::stored_bytes(root, &id)?;
                installations.unknown_bytes.insert(id.clone(), bytes);
            }
            installations.known.insert(id, doc);
        }
        list::begin(root, &installations.known)?;
        let files = usize::try_from(files::open_files()).unwrap_or(usize::MAX);
        Ok(Self {
            root: root.to_owned(),
            org: org.clone(),
            streams: Mutex::default(),
            installations: Mutex::new(installations),
            enrolling: Mutex::new(()),
            heirs: Mutex::default(),
            rooms,
            open_streams: OPEN_STREAMS.min(files / 8).max(16),
            log: Mutex::new(()),
            _lock: lock,
        })
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes a batch in. Whatever it answers with 200 is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the disk does not take it: nothing is acknowledged then.
    pub fn accept(
        &self,
        bytes: &[u8],
        stream: StreamId,
        first_seq: u64,
        registry: &Registry,
        now: &Now,
    ) -> Result<Answer, StoreError> {
        let batch = match incoming::open(bytes) {
            Ok(batch) => batch,
            Err(answer) => return Ok(answer),
        };
        let header = &batch.header;
        if let Err(answer) = self.addressed(header, stream, first_seq) {
            return Ok(answer);
        }
        let id = header.installation.id();
        let cost = strangers::cost(batch.raw_bytes);
        if self.standing(&id, registry, now) == Standing::Unknown
            && let Some(full) = self.full(&id, cost)
        {
            return Ok(full);
        }
        let chained = match chain(&batch) {
            Ok(chained) => chained,
            Err(answer) => return Ok(*answer),
        };
        let standing = self.standing(&id, registry, now);
        if standing == Standing::Unknown
            && let Some(full) = self.reserve(&id, header, cost, now)?
        {
            return Ok(full);
        }
        let slot = self.stream(&id, stream);
        let result = {
            let mut slot = locked(&slot);
            let dir = stream_dir(&self.root, &id, stream);
            let open = match slot.take() {
                Some(open) => open,
                None => self.open_stream(&id, stream, &dir, now)?,
            };
            // put back only when it went well: after an error the disk is asked again
            let open = slot.insert(open);
            let result = self.place(open, &id, &batch, chained.as_ref(), standing, bytes, now);
            if result.is_err() {
                *slot = None;
            }
            result
        };
        if standing == Standing::Unknown {
            self.let_go(&id, stream, slot);
            if !result.as_ref().is_ok_and(|placed| placed.is_new) {
                self.give_back(&id, cost);
            }
        } else if result.is_ok() && header.remaining == 0 {
            self.settle_heirs(&id, now)?;
        }
        result.map(|placed| placed.answer)
    }

    /// Judges the front of a batch before its body is read: how far its key is trusted, or what
    /// it is answered with.
    ///
    /// # Errors
    /// The answer, when the body need not come.
    pub fn admits(
        &self,
        front: &Front,
        stream: StreamId,
        first_seq: u64,
        registry: &Registry,
        now: &Now,
    ) -> Result<Standing, Answer> {
        self.addressed(&front.header, stream, first_seq)?;
        let id = front.header.installation.id();
        let standing = self.standing(&id, registry, now);
        match self.full(&id, strangers::cost(front.raw_bytes)) {
            Some(full) if standing == Standing::Unknown => Err(full),
            _ => Ok(standing),
        }
    }

    fn addressed(&self, header: &Header, stream: StreamId, first_seq: u64) -> Result<(), Answer> {
        if header.org != self.org {
            let error = format!("this is the collector of {}, not {}", self.org, header.org);
            return Err(refused(403, error));
        }
        if header.stream != stream || header.first_seq != first_seq {
            let error = "the address names another batch than the header";
            return Err(refused(400, error));
        }
        Ok(())
    }

    /// How far a key is trusted now.
    fn standing(&self, id: &KeyId, registry: &Registry, now: &Now) -> Standing {
        locked(&self.installations)
            .known
            .get(id)
            .map_or(Standing::Unknown, |doc| doc.standing(registry, now))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn place(
        &self,
        open: &mut Stream,
        id: &KeyId,
        batch: &Batch<'_>,
        chained: Option<&Chained>,
        standing: Standing,
        bytes: &[u8],
        now: &Now,
    ) -> Result<Placed, StoreError> {
        let header = &batch.header;
        // whoever makes up keys raises one alert a key, not one a batch
        let is_stranger = standing == Standing::Unknown;
        let acked = |acked_seq, lane| {
            Answer::Stored(Stored {
                acked_seq,
                lane,
                standing,
            })
        };
        let event = Some((header.stream, header.first_seq));
        let lane = match chained {
            None => Lane::Quarantine,
            Some(chained) => match open.ledger().place(header) {
                Place::Append => Lane::Main,
                Place::Compare { seq } if open.hash_at(seq) == chained.hash_at(seq) => {
                    if !body::is_one(header, &chained.frames) {
                        return Ok(Placed::nothing(acked(seq, Lane::Main)));
                    }
                    Lane::Body
                }
                Place::Compare { .. } | Place::Fork => Lane::Fork,
                Place::Rewind {
                    expected_seq,
                    upto_seq,
                } => {
                    return Ok(Placed::nothing(Answer::Rewind(Rewind {
                        expected_seq,
                        upto_seq,
                    })));
                }
            },
        };
        if lane != Lane::Main && open.has_aside(lane, header, &batch.body_digest) {
            return Ok(Placed::nothing(acked(header.last_seq, lane)));
        }
        // the alert goes first: a crash between the two tells once too often, never too seldom
        match lane {
            Lane::Body | Lane::Fork | Lane::Main | Lane::Quarantine if is_stranger => {}
            Lane::Fork => {
                let detail = "records contradict those stored before; both are kept";
                self.alert("fork", id, event, detail, now)?;
            }
            Lane::Quarantine => {
                let detail = "a record that cannot be read is kept apart";
                self.alert("quarantine", id, event, detail, now)?;
            }
            Lane::Body | Lane::Main => {}
        }
        if let Some(chained) = chained.filter(|_| !is_stranger) {
            self.check_claims(id, header, &chained.frames, now)?;
            self.check_whole(id, header, &chained.frames, now)?;
            self.note_heir(id, header, &chained.frames);
        }
        let gaps = open.ledger().gaps().count();
        let is_first = open.ledger().runs().is_empty() && lane == Lane::Main;
        open.append(&self.root, lane, batch, now.wall_us, standing, bytes)
            .map_err(StoreError::io(&stream_dir(&self.root, id, header.stream)))?;
        if is_first && !is_stranger {
            // a crash before this leaves a stream that is not listed: it is not missed if it goes
            let _one_at_a_time = locked(&self.log);
            list::add(&self.root, id, Some(header.stream), now)?;
        }
        if open.ledger().gaps().count() > gaps && !is_stranger {
            let detail = "the device no longer holds the records before this one";
            self.alert("gap", id, event, detail, now)?;
        }
        Ok(Placed {
            answer: acked(header.last_seq, lane),
            is_new: true,
        })
    }

    fn stream(&self, id: &KeyId, stream: StreamId) -> Slot {
        let mut streams = locked(&self.streams);
        if streams.len() >= self.open_streams {
            // those nobody is using right now; what they know is on the disk
            streams.retain(|_, open| Arc::strong_count(open) > 1);
        }
        Arc::clone(streams.entry((id.clone(), stream)).or_default())
    }

    fn open_stream(
        &self,
        id: &KeyId,
        stream: StreamId,
        dir: &Path,
        now: &Now,
    ) -> Result<Stream, StoreError> {
        let open = Stream::open(dir).map_err(StoreError::io(dir))?;
        for trouble in open.troubles() {
            let kind = if trouble.torn { "torn" } else { "damage" };
            let detail = format!("{}: {}", trouble.journal.display(), trouble.sentence);
            self.alert(kind, id, Some((stream, 0)), &detail, now)?;
        }
        Ok(open)
    }

    /// Closes a stream of a stranger, unless somebody else is at it: whoever makes up streams
    /// must not keep files open.
    fn let_go(&self, id: &KeyId, stream: StreamId, slot: Slot) {
        let mut streams = locked(&self.streams);
        if Arc::strong_count(&slot) == 2 {
            streams.remove(&(id.clone(), stream));
        }
    }

    fn write_doc(&self, id: &KeyId, doc: &InstallationDoc) -> Result<(), StoreError> {
        let dir = self.root.join(INSTALLATIONS).join(id.as_str());
        files::create_dir(&self.root, &dir).map_err(StoreError::io(&dir))?;
        let path = dir.join("installation.json");
        let text = serde_json::to_vec_pretty(doc).map_err(io::Error::other);
        text.and_then(|text| files::replace(&path, &text))
            .map_err(StoreError::io(&path))
    }

    /// Binds an installation to somebody whose proof was checked; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn bind(
        &self,
        installation: &Installation,
        machine_id: &str,
        who: Who,
        now: &Now,
    ) -> Result<(), StoreError> {
        let id = installation.id();
        let _one_at_a_time = locked(&self.enrolling);
        let known = locked(&self.installations).known.get(&id).cloned();
        let mut doc = known.unwrap_or_else(|| InstallationDoc::unknown(String::new(), now.wall_us));
        let is_first = doc.bindings.is_empty();
        doc.installation = BASE64.encode(&installation.0);
        doc.machine_id = Some(machine_id.to_owned());
        let new = match doc.bindings.iter_mut().find(|b| b.who.is(&who)) {
            // a name to show may change; who somebody is does not
            Some(binding) => {
                binding.who = who.clone();
                false
            }
            None => {
                doc.bindings.push(Binding {
                    who: who.clone(),
                    enrolled_us: now.wall_us,
                });
                true
            }
        };
        let unusual = if new {
            unusual(&locked(&self.installations).known, &id, &doc, &who)
        } else {
            Vec::new()
        };
        self.write_doc(&id, &doc)?;
        if is_first {
            let _one_at_a_time = locked(&self.log);
            list::add(&self.root, &id, None, now)?;
            // what came before it enrolled counts from here on
            for (stream, _) in streams(&self.root, &id)? {
                list::add(&self.root, &id, Some(stream), now)?;
            }
        }
        let mut installations = locked(&self.installations);
        installations.unknown_bytes.remove(&id);
        installations.known.insert(id.clone(), doc);
        drop(installations);
        for (kind, detail) in unusual {
            self.alert(kind, &id, None, &detail, now)?;
        }
        Ok(())
    }

    /// Reports records whose own words about where they come from are not true: the first of a
    /// batch, for whoever makes them up can make up many.
    fn check_claims(
        &self,
        id: &KeyId,
        header: &Header,
        frames: &[u8],
        now: &Now,
    ) -> Result<(), StoreError> {
        for frame in audit::frames(frames).map_while(Result::ok) {
            let Ok(decoded) = audit::decode(&frame) else {
                continue;
            };
            if let Said::Segment(segment) = &decoded.said
                && (segment.installation != *id
                    || segment.org != self.org
                    || segment.stream != header.stream)
            {
                let event = Some((header.stream, frame.seq));
                let detail = "the segment names another installation, organisation or stream";
                return self.alert("claim", id, event, detail, now);
            }
        }
        Ok(())
    }

    /// Reports sealed payloads that were taken out of records before they came: nothing of ours
    /// does that on a device.
    fn check_whole(
        &self,
        id: &KeyId,
        header: &Header,
        frames: &[u8],
        now: &Now,
    ) -> Result<(), StoreError> {
        let frames = audit::frames(frames).map_while(Result::ok);
        let mut taken = frames.filter(|frame| matches!(frame.blob, Blob::Detached(_)));
        let Some(first) = taken.next() else {
            return Ok(());
        };
        if let Some((kind, detail)) = body::withheld(header) {
            return self.alert(kind, id, Some((header.stream, first.seq)), detail, now);
        }
        let count = 1 + taken.count();
        let detail = format!("{count} sealed payloads were taken out before delivery");
        let event = Some((header.stream, first.seq));
        self.alert("taken-away", id, event, &detail, now)
    }

    /// Writes a line for the people who watch the collector.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn alert(
        &self,
        kind: &str,
        installation: &KeyId,
        event: Option<(StreamId, u64)>,
        detail: &str,
        now: &Now,
    ) -> Result<(), StoreError> {
        tracing::warn!(kind, %installation, detail, "Alert.");
        let line = serde_json::json!({
            "time": Utc(now.unix_s()).to_string(),
            "kind": kind,
            "installation": installation,
            "event": event.map(|(stream, seq)| format!("{stream}/{seq}")),
            "detail": detail,
        });
        let path = self.root.join("log").join("alerts.jsonl");
        let _one_at_a_time = locked(&self.log);
        files::append_line(&path, &line.to_string()).map_err(StoreError::io(&path))
    }
}

/// Reads what a data directory says of itself; anything else is not one.
fn about(root: &Path) -> Result<About, StoreError> {
    let kind = std::fs::metadata(root).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => StoreError::Missing(root.to_owned()),
        _ => StoreError::io(root)(source),
    })?;
    if !kind.is_dir() {
        return Err(StoreError::File(root.to_owned()));
    }
    let path = root.join("collector.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::None(root.to_owned()));
        }
        Err(source) => return Err(StoreError::Io { path, source }),
    };
    let about: About =
        serde_json::from_slice(&text).map_err(|_json| StoreError::Damaged(path.clone()))?;
    if about.min_reader > FORMAT {
        return Err(StoreError::Newer {
            path,
            needs: about.min_reader,
        });
    }
    Ok(about)
}
