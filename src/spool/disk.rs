//! The seam to the file system: what the spool asks of a disk, and the real one.
//!
//! The twin in memory ([`super::memory::MemoryDisk`]) loses what was not synced, tears writes and
//! fails on demand.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::files;

/// What the spool asks of a disk.
pub trait Disk: std::fmt::Debug + Send {
    /// Makes a directory that only its owner can read; with its parents, which may exist.
    ///
    /// # Errors
    /// `AlreadyExists` when the directory itself exists.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, in any order.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Makes a new file that only its owner can read.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file to write at its end, cut or sync it.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Reads up to `max` bytes from `offset`. Fewer than `max` means the end was reached.
    ///
    /// # Errors
    /// `NotFound` when there is no such file.
    fn read(&self, path: &Path, offset: u64, max: usize) -> io::Result<Vec<u8>>;
    /// Moves a file within the file system, over whatever is there.
    ///
    /// # Errors
    /// `NotFound` when there is nothing to move.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    ///
    /// # Errors
    /// When it is not empty, or not there.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory survive loss of power.
    ///
    /// # Errors
    /// When the disk does not say that they will.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock of that name, creating its file; `None` when another holds it. It is given
    /// back when the value is dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// When the file cannot be made.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// The size; 0 for directories.
    pub bytes: u64,
    /// Whether it is a directory.
    pub dir: bool,
}

/// An open file.
pub trait DiskFile: std::fmt::Debug + Send {
    /// Writes at the end, with one system call; says how many bytes are written, which may be
    /// fewer than given.
    ///
    /// # Errors
    /// When nothing is known to be written. Something may be all the same: see [`DiskFile::size`].
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// The size.
    ///
    /// # Errors
    /// When the disk does not say.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    /// When it may not be cut.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Makes what was written survive loss of power.
    ///
    /// # Errors
    /// When the disk does not say that it will. Asking again proves nothing: the system may have
    /// forgotten the pages.
    fn sync(&mut self) -> io::Result<()>;
}

/// A lock that is held.
pub trait Lock: std::fmt::Debug + Send {}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

#[derive(Debug)]
#[expect(
    dead_code,
    reason = "held for its lock, which closing the file gives back"
)]
struct RealLock(File);

impl Lock for RealLock {}

impl Disk for RealDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt as _;
            builder.mode(0o700);
        }
        match builder.create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    builder.recursive(true).create(parent)?;
                }
                builder.recursive(false).create(path)
            }
            done => done,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            // names of ours are ASCII; others are nobody's business here
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // a file may go between the listing and here
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            let dir = meta.is_dir();
            let bytes = if dir { 0 } else { meta.len() };
            entries.push(Entry { name, bytes, dir });
        }
        Ok(entries)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = files::private().create_new(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Box::new(RealFile(file)))
    }

    fn read(&self, path: &Path, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(max as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if cfg!(unix) {
            File::open(dir)?.sync_all()
        } else {
            // NTFS writes names through its own journal; a directory cannot be opened as a file
            Ok(())
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let lock = files::try_lock(path)?;
        Ok(lock.map(|lock| Box::new(RealLock(lock)) as Box<dyn Lock>))
    }
}

impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        // not opened to append: Windows would then not allow a cut
        self.0.seek(SeekFrom::Start(len)).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
