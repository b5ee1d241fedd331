//! A disk in memory that fails as disks do: it runs full, tears writes, says "failed" and keeps
//! the bytes, and forgets at loss of power what was not synced.
//!
//! For tests, here and in the modules that use the spool.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, Entry, Lock};

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A file cannot be cut.
    CutFails,
    /// The process dies while it writes: this many bytes are kept, and until
    /// [`MemoryDisk::revive`] nothing works.
    Dies(usize),
    /// A write says that it failed, and it did.
    FailsAndLoses,
    /// A write says that it failed, and all the bytes are there.
    FailsButKeeps,
    /// The disk runs full after this many bytes of a write.
    Full(usize),
    /// A file or directory cannot be synced; what was not synced before is not.
    SyncFails,
}

impl Fault {
    fn hits(self, operation: Operation) -> bool {
        let own = match self {
            Self::CutFails => Operation::Cut,
            Self::Dies(_) | Self::FailsAndLoses | Self::FailsButKeeps | Self::Full(_) => {
                Operation::Write
            }
            Self::SyncFails => Operation::Sync,
        };
        own == operation
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Cut,
    Sync,
    Write,
}

/// The disk. Clones share it, as processes share a machine's.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    names: BTreeMap<PathBuf, Name>,
    durable_names: BTreeMap<PathBuf, Name>,
    files: BTreeMap<u64, Content>,
    locked: BTreeSet<u64>,
    faults: VecDeque<Fault>,
    room: Option<u64>,
    read_only: bool,
    dead: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Dir,
    File(u64),
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    id: u64,
}

#[derive(Debug)]
struct MemoryLock {
    disk: MemoryDisk,
    id: u64,
}

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next operation that the fault concerns fail.
    pub fn fail(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// Forgets faults that did not happen yet; ends the death of [`Fault::Dies`].
    pub fn revive(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.dead = false;
    }

    /// Bounds the bytes of all files together, or not.
    pub fn set_room(&self, room: Option<u64>) {
        self.state().room = room;
    }

    /// Allows or forbids every change.
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// Takes the power away and gives it back. Of what was not synced, each file keeps a part that
    /// `choose` picks (it gives a number below its argument), perhaps followed by zeros; names that
    /// were not synced stay or go. No process survives: drop what they held before.
    pub fn power_loss(&self, choose: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.state();
        let names = std::mem::take(&mut state.names);
        let mut after = state.durable_names.clone();
        for (path, name) in names {
            if after.get(&path) != Some(&name) && choose(2) == 1 {
                after.insert(path, name);
            }
        }
        // a name below a directory that is gone is gone
        let dirs: BTreeSet<PathBuf> = after
            .iter()
            .filter(|(_, name)| **name == Name::Dir)
            .map(|(path, _)| path.clone())
            .collect();
        after.retain(|path, _| path.ancestors().skip(1).all(|dir| dirs.contains(dir)));
        let kept: BTreeSet<u64> = after
            .values()
            .filter_map(|name| match name {
                Name::File(id) => Some(*id),
                Name::Dir => None,
            })
            .collect();
        state.files.retain(|id, _| kept.contains(id));
        for content in state.files.values_mut() {
            if content.bytes.starts_with(&content.durable) {
                let unsynced = content.bytes.len() - content.durable.len();
                let keep = content.durable.len() + choose(unsynced + 1);
                let size = keep + choose(content.bytes.len() - keep + 1);
                content.bytes.truncate(keep);
                content.bytes.resize(size, 0);
            } else if choose(2) == 1 {
                content.bytes.clone_from(&content.durable);
            }
            content.durable.clone_from(&content.bytes);
        }
        state.durable_names.clone_from(&after);
        state.names = after;
        state.faults.clear();
        state.locked.clear();
        state.dead = false;
    }

    /// Another disk with the same files, durable and not; nobody holds a lock on it.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            next: state.next,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            files: state.files.clone(),
            ..State::default()
        })))
    }

    /// The bytes of a file.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        match state.names.get(path) {
            Some(Name::File(id)) => state.files.get(id).map(|content| content.bytes.clone()),
            Some(Name::Dir) | None => None,
        }
    }

    /// Changes the bytes of a file, durably, as an attacker or a bad disk would.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(Name::File(id)) = state.names.get(path).copied()
            && let Some(content) = state.files.get_mut(&id)
        {
            change(&mut content.bytes);
            content.durable.clone_from(&content.bytes);
        }
    }

    /// Every file there is.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.state();
        let files = state.names.iter().filter(|(_, name)| **name != Name::Dir);
        files.map(|(path, _)| path.clone()).collect()
    }
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.dead {
            Err(io::Error::other("the process is dead"))
        } else {
            Ok(())
        }
    }

    fn may_change(&self) -> io::Result<()> {
        self.alive()?;
        if self.read_only {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        } else {
            Ok(())
        }
    }

    fn fault(&mut self, operation: Operation) -> Option<Fault> {
        self.faults.pop_front_if(|fault| fault.hits(operation))
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Name::File(id)) => Ok(*id),
            Some(Name::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn make(&mut self, path: &Path) -> io::Result<u64> {
        let dir = path.parent().and_then(|dir| self.names.get(dir));
        if dir != Some(&Name::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.next += 1;
        self.files.insert(self.next, Content::default());
        self.names.insert(path.to_owned(), Name::File(self.next));
        Ok(self.next)
    }

    fn content(&mut self, id: u64) -> io::Result<&mut Content> {
        self.files
            .get_mut(&id)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.may_change()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        for dir in path.ancestors().filter(|dir| dir.parent().is_some()) {
            state.names.entry(dir.to_owned()).or_insert(Name::Dir);
        }
        // what lies above was there before
        let root = path.ancestors().last().unwrap_or(path);
        state.names.insert(root.to_owned(), Name::Dir);
        state.durable_names.insert(root.to_owned(), Name::Dir);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        state.alive()?;
        if state.names.get(dir) != Some(&Name::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, name): (&PathBuf, &Name)| {
            let bytes = match name {
                Name::Dir => 0,
                Name::File(id) => state
                    .files
                    .get(id)
                    .map_or(0, |file| file.bytes.len() as u64),
            };
            let dir = *name == Name::Dir;
            let name = path.file_name()?.to_str()?.to_owned();
            Some(Entry { name, bytes, dir })
        };
        Ok(below.filter_map(entry).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.may_change()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.make(path)?;
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            id,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        state.alive()?;
        let id = state.file(path)?;
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            id,
        }))
    }

    fn read(&self, path: &Path, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        state.alive()?;
        let id = state.file(path)?;
        let bytes = &state.content(id)?.bytes;
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let to = from.saturating_add(max).min(bytes.len());
        Ok(bytes.get(from..to).unwrap_or_default().to_vec())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.may_change()?;
        let id = state.file(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), Name::File(id));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.may_change()?;
        state.file(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.may_change()?;
        if state.names.get(path) != Some(&Name::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        if state.names.get(dir) != Some(&Name::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.fault(Operation::Sync).is_some() {
            return Err(io::Error::other("the disk does not answer"));
        }
        let inside = |path: &PathBuf| path.parent() == Some(dir);
        state.durable_names.retain(|path, _| !inside(path));
        let now: Vec<(PathBuf, Name)> = state
            .names
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(path, name)| (path.clone(), *name))
            .collect();
        state.durable_names.extend(now);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.state();
        state.alive()?;
        let id = match state.file(path) {
            Ok(id) => id,
            Err(_) => {
                state.may_change()?;
                state.make(path)?
            }
        };
        if !state.locked.insert(id) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryLock {
            disk: self.clone(),
            id,
        })))
    }
}

impl DiskFile for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.may_change()?;
        let used: u64 = state
            .files
            .values()
            .map(|file| file.bytes.len() as u64)
            .sum();
        let room = state.room.map_or(usize::MAX, |room| {
            usize::try_from(room.saturating_sub(used)).unwrap_or(usize::MAX)
        });
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let (keep, answer) = match state.fault(Operation::Write) {
            Some(Fault::Dies(count)) => {
                state.dead = true;
                (count, Some(io::Error::other("the process is dead")))
            }
            Some(Fault::FailsAndLoses) => (0, Some(io::Error::other("input/output error"))),
            Some(Fault::FailsButKeeps) => {
                (bytes.len(), Some(io::Error::other("input/output error")))
            }
            Some(Fault::Full(0)) => (0, Some(full())),
            Some(Fault::Full(count)) if count < bytes.len() => {
                state.faults.push_front(Fault::Full(0));
                (count, None)
            }
            _ if room == 0 => (0, Some(full())),
            // a disk that is full later
            Some(Fault::CutFails | Fault::SyncFails | Fault::Full(_)) | None => (room, None),
        };
        let part = bytes.get(..keep.min(bytes.len())).unwrap_or_default();
        state.content(self.id)?.bytes.extend_from_slice(part);
        answer.map_or(Ok(part.len()), Err)
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.alive()?;
        Ok(state.content(self.id)?.bytes.len() as u64)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.may_change()?;
        if state.fault(Operation::Cut).is_some() {
            return Err(io::Error::other("input/output error"));
        }
        let content = state.content(self.id)?;
        content
            .bytes
            .truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.alive()?;
        if state.fault(Operation::Sync).is_some() {
            return Err(io::Error::other("input/output error"));
        }
        let content = state.content(self.id)?;
        content.durable.clone_from(&content.bytes);
        Ok(())
    }
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.id);
    }
}
