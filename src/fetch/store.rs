//! The file that holds the trusted state, and its lock.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::config::{self, Config};
use crate::{files, limits};

/// `<state_dir>/trust/registry.state`: replaced whole, read without a lock.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

/// The right to replace the state; ends with the value.
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    _lock: File,
}

impl Store {
    /// The store of this user.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            path: config.state_dir.join("trust").join("registry.state"),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the state; `None` when there is none.
    ///
    /// # Errors
    /// What the file system says, and a file larger than any state of ours.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.path)
    }

    /// Reads the state before the present one: a witness of which versions were seen, for when
    /// the present one is lost.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_previous(&self) -> io::Result<Option<Vec<u8>>> {
        read(&self.previous())
    }

    fn previous(&self) -> PathBuf {
        self.path.with_extension("state.previous")
    }

    /// Takes the lock if nobody holds it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn try_lock(&self) -> io::Result<Option<Locked<'_>>> {
        if let Some(dir) = self.path.parent() {
            files::create_private_dir(dir)?;
        }
        // locks only on a sibling: the state itself is renamed over
        let lock = files::try_lock(&self.path.with_extension("state.lock"))?;
        Ok(lock.map(|lock| Locked {
            store: self,
            _lock: lock,
        }))
    }
}

impl Locked<'_> {
    /// Replaces the state.
    ///
    /// A crash before the rename leaves the old state and a `.new` file that the next replacement
    /// overwrites; after it, the new state.
    ///
    /// # Errors
    /// What the file system says; the old state is then still whole.
    pub fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let path = &self.store.path;
        let temporary = path.with_extension("state.new");
        let mut file = files::private()
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.keep_previous()?;
        fs::rename(&temporary, path)?;
        #[cfg(unix)]
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    /// Gives the present state a second name, so that there is never a moment without one.
    fn keep_previous(&self) -> io::Result<()> {
        let temporary = self.store.path.with_extension("state.link");
        remove(&temporary)?;
        let named = match fs::hard_link(&self.store.path, &temporary) {
            // a file system without links: a copy, on the disk before it takes the name
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                fs::copy(&self.store.path, &temporary)
                    .and_then(|_| File::open(&temporary)?.sync_all())
            }
            named => named,
        };
        match named {
            Ok(()) => fs::rename(&temporary, self.store.previous()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = config::open_regular(path)? else {
        return Ok(None);
    };
    let most = limits::REGISTRY_BYTES as u64 * 2;
    let size = file.metadata()?.len();
    if size > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {size} bytes, the limit is {most}"),
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
