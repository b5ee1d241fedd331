//! What a server says on its standard error: kept in a bounded file, the end of it in memory.
//!
//! Losing the file costs a diagnosis. Whoever can write it can mislead a person who reads it,
//! nothing else: no program of ours reads it back. It may hold whatever the server prints, so it
//! is readable by its owner only.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use crate::clock::{Clock as _, SystemClock, Utc};
use crate::secret::{Scrubber, Stream};
use crate::text;

/// Bytes kept in memory.
const KEPT_BYTES: usize = 2 << 10;
/// Characters of the last line in a reason.
const SHOWN_CHARS: usize = 200;
/// A file larger than this is moved aside, once.
const FILE_BYTES: u64 = 1 << 20;

/// The last words of a server.
#[derive(Debug, Default)]
pub struct Words {
    stream: Stream,
    tail: VecDeque<u8>,
    path: Option<PathBuf>,
    file: Option<File>,
    /// Whether the file ends inside a line of ours.
    midline: bool,
}

impl Words {
    /// Keeps them in this file too, without the secrets of the scrubber.
    #[must_use]
    pub fn new(path: Option<PathBuf>, scrubber: Scrubber) -> Self {
        Self {
            stream: Stream::new(scrubber),
            tail: VecDeque::new(),
            path,
            file: None,
            midline: false,
        }
    }

    /// Takes what was printed.
    pub fn push(&mut self, bytes: &[u8]) {
        let shown = self.stream.push(bytes);
        self.keep(&shown);
    }

    /// Nothing more will come.
    pub fn finish(&mut self) {
        let rest = self.stream.finish();
        self.keep(&rest);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let keep = bytes.len().saturating_sub(KEPT_BYTES);
        self.tail.extend(bytes.iter().skip(keep));
        let over = self.tail.len().saturating_sub(KEPT_BYTES);
        self.tail.drain(..over);
        if let Err(error) = self.log(bytes) {
            tracing::debug!(%error, "A server's standard error is not kept in its file.");
            self.path = None;
            self.file = None;
        }
    }

    fn log(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                if let Some(dir) = path.parent() {
                    crate::files::create_private_dir(dir)?;
                }
                if std::fs::metadata(path).is_ok_and(|meta| meta.len() > FILE_BYTES) {
                    std::fs::rename(path, path.with_extension("old"))?;
                }
                let mut options = File::options();
                options.append(true).create(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                none.insert(options.open(path)?)
            }
        };
        // a flood ends with the file's room; the next start moves it aside
        if file.metadata()?.len() > 2 * FILE_BYTES {
            return Ok(());
        }
        // one file for all sessions: each line says when, and in the session of which process
        let mut text = Vec::with_capacity(bytes.len() + 64);
        let (at, pid) = (Utc(SystemClock::new().now().unix_s()), std::process::id());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.midline {
                write!(text, "{at} {pid} ")?;
            }
            text.extend_from_slice(line);
            self.midline = !line.ends_with(b"\n");
        }
        file.write_all(&text)
    }

    /// The last line that says something, printable and cut.
    #[must_use]
    pub fn last(&self) -> Option<String> {
        let mut bytes: Vec<u8> = self.tail.iter().copied().collect();
        bytes.extend(self.stream.held());
        let said = String::from_utf8_lossy(&bytes);
        let line = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(text::short(line, SHOWN_CHARS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_kept_whatever_came_before() {
        let mut words = Words::new(None, Scrubber::new());
        assert_eq!(words.last(), None);
        for _ in 0..1000 {
            words.push(b"noise noise noise\n");
        }
        words.push(b"Error: no\x1b[1m key\n\n  \n");
        assert_eq!(words.last().as_deref(), Some("Error: no\\u{1b}[1m key"));
        words.push("\u{202e}evil\n".as_bytes());
        assert_eq!(words.last().as_deref(), Some("\\u{202e}evil"));
        assert!(words.tail.len() <= KEPT_BYTES);
        words.push(&[b'x'; 10_000]);
        assert_eq!(
            words.last().map(|line| line.chars().count()),
            Some(SHOWN_CHARS + 1)
        );
    }

    #[test]
    fn a_secret_is_in_neither_the_file_nor_the_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server-x.log");
        let scrubber = Scrubber::new();
        scrubber.add(&crate::secret::Secret::new(
            b"ghp_0123456789abcdef".to_vec(),
        ));
        let mut words = Words::new(Some(path.clone()), scrubber);
        for part in [
            "401 for ghp_01",
            "23456789ab",
            "cdef, bye\ntoken ghp_0123456789abcd",
        ] {
            words.push(part.as_bytes());
        }
        words.push(b"ef");
        let last = words.last().unwrap();
        assert_eq!(last, format!("token {}", crate::secret::MARK));
        words.finish();
        let file = std::fs::read_to_string(&path).unwrap();
        let mark = crate::secret::MARK;
        let said: Vec<&str> = file
            .lines()
            .map(|line| {
                // when, in the session of which process, what
                let mut parts = line.splitn(3, ' ');
                assert!(parts.next().unwrap().ends_with('Z'), "{line}");
                assert_eq!(parts.next().unwrap(), std::process::id().to_string());
                parts.next().unwrap()
            })
            .collect();
        assert_eq!(
            said,
            [format!("401 for {mark}, bye"), format!("token {mark}")]
        );
    }

    #[test]
    fn the_file_is_private_and_bounded() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/server-x.log");
        let flood = vec![b'x'; 300_000];
        let mut words = Words::new(Some(path.clone()), Scrubber::new());
        for _ in 0..20 {
            words.push(&flood);
        }
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.len() <= 2 * FILE_BYTES + 300_000, "{}", meta.len());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        Words::new(Some(path.clone()), Scrubber::new()).push(b"new\n");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with(" new\n") && text.lines().count() == 1,
            "{text}"
        );
    }
}
