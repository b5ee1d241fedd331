//! Local logs: files in the state directory, one a day, a week of them. Never standard output,
//! where the protocol lives.
//!
//! Clients start mcpshim only to probe it, and a probe must leave nothing behind: until [`open`]
//! is called, events wait in memory. What losing the logs costs: hints for whoever looks for a
//! fault. What an attacker who can write them gains: nothing, the record is elsewhere.
#![warn(missing_docs)]

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::clock::{Clock as _, SystemClock, Utc};
use crate::config::{Config, LogLevel};
use crate::secret::Scrubber;
use crate::{files, limits};

/// What the name of a file begins and ends with; its date is between.
const PREFIX: &str = "mcpshim.";
const SUFFIX: &str = ".log";
/// Bytes of a date: `2026-12-01`.
const DATE_BYTES: usize = 10;

/// The one log of this process.
static LOG: OnceLock<Log> = OnceLock::new();

/// What no event may hold.
static SCRUBBER: OnceLock<Scrubber> = OnceLock::new();

/// Starts to listen for events, without touching the disk. Does nothing the second time.
pub fn prepare(config: &Config) {
    let log = LOG.get_or_init(|| Log::new(config.state_dir.join("log")));
    let level = match config.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(true)
        .with_writer(log)
        .finish();
    // there is one already: another call of this function, or a test's own
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// Takes these secrets out of every event from now on. Does nothing the second time.
pub fn scrub_with(scrubber: &Scrubber) {
    drop(SCRUBBER.set(scrubber.clone()));
}

/// Opens the file and writes what has waited. Call it at the first real request.
///
/// # Errors
/// What the file system says; events are then dropped.
pub fn open() -> io::Result<()> {
    LOG.get().map_or(Ok(()), Log::open)
}

/// Where events go.
#[derive(Debug)]
struct Log {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Not opened: whole lines, as many as fit.
    Held(Vec<u8>),
    /// Nowhere: it could not be opened.
    Off,
    Open(Daily),
}

impl Log {
    fn new(dir: PathBuf) -> Self {
        let state = Mutex::new(State::Held(Vec::new()));
        Self { dir, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // a panic while a line was written leaves at worst half a line
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> io::Result<()> {
        let mut state = self.state();
        let State::Held(held) = &mut *state else {
            return Ok(());
        };
        let held = std::mem::take(held);
        *state = State::Off;
        files::create_private_dir(&self.dir)?;
        let mut file = Daily::open(self.dir.clone(), today())?;
        file.write_all(&held)?;
        *state = State::Open(file);
        Ok(())
    }
}

/// The file of one day, which only its owner may read.
#[derive(Debug)]
struct Daily {
    dir: PathBuf,
    day: String,
    file: File,
}

impl Daily {
    fn open(dir: PathBuf, day: String) -> io::Result<Self> {
        let path = dir.join(format!("{PREFIX}{day}{SUFFIX}"));
        let file = files::private().append(true).create(true).open(path)?;
        if let Err(error) = remove_oldest(&dir) {
            // the events matter more than the room
            drop(error);
        }
        Ok(Self { dir, day, file })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let day = today();
        if day != self.day {
            *self = Self::open(self.dir.clone(), day)?;
        }
        self.file.write_all(bytes)
    }
}

/// The date in UTC.
fn today() -> String {
    let mut day = Utc(SystemClock::new().now().unix_s()).to_string();
    day.truncate(DATE_BYTES);
    day
}

/// Leaves the newest [`limits::LOG_FILES`]. Another process may remove the same ones.
fn remove_oldest(dir: &Path) -> io::Result<()> {
    let mut names: Vec<String> = std::fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            let day = name.strip_prefix(PREFIX);
            let day = day.and_then(|rest| rest.strip_suffix(SUFFIX));
            day.is_some_and(|day| day.len() == DATE_BYTES)
        })
        .collect();
    names.sort_unstable();
    let over = names.len().saturating_sub(limits::LOG_FILES);
    for name in names.iter().take(over) {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// One event on its way.
#[derive(Debug)]
struct Line(&'static Log);

impl MakeWriter<'_> for &'static Log {
    type Writer = Line;
    fn make_writer(&self) -> Line {
        Line(self)
    }
}

impl Write for Line {
    /// Takes one event: they come whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = match SCRUBBER.get() {
            Some(scrubber) => scrubber.scrub(bytes),
            None => Cow::Borrowed(bytes),
        };
        match &mut *self.0.state() {
            State::Held(held) => {
                // the first events say what is wrong; those that do not fit repeat it
                if held.len() + text.len() <= limits::LOG_HELD_BYTES {
                    held.extend_from_slice(&text);
                }
            }
            State::Off => {}
            State::Open(file) => file.write_all(&text)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut *self.0.state() {
            State::Held(_) | State::Off => Ok(()),
            State::Open(daily) => daily.file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path) -> &'static Log {
        // lives as long as the process, as the real one does
        Box::leak(Box::new(Log::new(dir.join("log"))))
    }

    fn written(dir: &Path) -> String {
        std::fs::read_dir(dir.join("log"))
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn events_wait_until_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        Line(log).write_all(b"one\n").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        log.open().unwrap();
        Line(log).write_all(b"two\n").unwrap();
        log.open().unwrap();
        assert_eq!(written(dir.path()), "one\ntwo\n");
    }

    #[test]
    fn what_waits_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path());
        let line = vec![b'x'; 1000];
        for _ in 0..200 {
            Line(log).write_all(&line).unwrap();
        }
        log.open().unwrap();
        assert!(written(dir.path()).len() <= limits::LOG_HELD_BYTES);
    }

    #[test]
    fn a_day_has_a_file_of_its_own_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::fs::write(dir.join("mcpshim.notes.log"), "not ours").unwrap();
        for day in 1..=12 {
            let day = format!("2026-12-{day:02}");
            let mut daily = Daily::open(dir.to_owned(), day).unwrap();
            daily.file.write_all(b"x\n").unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), limits::LOG_FILES + 1);
        assert_eq!(names.first().unwrap(), "mcpshim.2026-12-06.log");
        assert_eq!(names.last().unwrap(), "mcpshim.notes.log");
        // a new day begins a new file
        let mut daily = Daily::open(dir.to_owned(), "2026-12-12".to_owned()).unwrap();
        daily.write_all(b"later\n").unwrap();
        assert_eq!(daily.day, today());
    }

    #[test]
    fn a_log_that_cannot_be_opened_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log"), "a file in the way").unwrap();
        let log = log(dir.path());
        log.open().unwrap_err();
        Line(log).write_all(b"one\n").unwrap();
    }
}
