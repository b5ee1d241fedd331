//! `mcpshim logs`

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpshim::config::Config;
use mcpshim::ids::ServerKey;
use mcpshim::registry::doc::Transport;
use mcpshim::report::{Exit, Failure};
use mcpshim::text;

const EXAMPLES: &str = "\
Examples:
  mcpshim logs github
  mcpshim logs github -n 500 | grep -i error
  mcpshim logs github -f";

/// Between two looks at a file that is followed.
const LOOK: Duration = Duration::from_millis(250);
/// More than this is not read back for the last lines, in bytes.
const TAIL_BYTES: u64 = 4 << 20;

/// Show what a server has printed on its standard error
///
/// One file for all sessions of this machine; the one before it is kept beside it. Each line says
/// when it came and in the session of which process. It holds whatever the server prints.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The server's key
    #[arg(value_name = "SERVER")]
    server: ServerKey,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 50)]
    lines: usize,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = crate::settings()?;
    let path = mcpshim::serve::server_log(&config, &args.server);
    let unreadable = |error: io::Error| {
        Failure::from_error(Exit::Failed, &error)
            .context(format!("{} cannot be read", path.display()))
    };
    let mut log = Log::open(path.clone());
    let last = log.last(args.lines).map_err(unreadable)?;
    if last.is_none() {
        expected(&config, &args.server)?;
    }
    if last.is_none() && !args.follow {
        return Err(Failure::new(
            Exit::Failed,
            format!("server {} has printed nothing yet", args.server),
        )
        .cause(format!("there is no {}", path.display()))
        .hint("it is written once a session has started the server: see `mcpshim status`"));
    }
    let mut screen = Screen::new();
    if !screen.show(&last.unwrap_or_default())? {
        return Ok(());
    }
    if !args.follow {
        return Ok(());
    }
    loop {
        std::thread::park_timeout(LOOK);
        let news = log.more().map_err(unreadable)?;
        if !news.is_empty() && !screen.show(&news)? {
            return Ok(());
        }
    }
}

/// Refuses what will never print anything here. Without a registry nothing is known.
fn expected(config: &Config, key: &ServerKey) -> Result<(), Failure> {
    let Ok(loaded) = mcpshim::fetch::load(config, &crate::now()) else {
        return Ok(());
    };
    let servers = &loaded.registry.servers;
    match servers.get(key).map(|server| &server.transport) {
        Some(Transport::Stdio { .. }) => Ok(()),
        Some(Transport::Http { .. }) => Err(Failure::new(
            Exit::Failed,
            format!("server {key} answers at an address and prints nothing here"),
        )
        .hint(format!(
            "whoever runs it has its log; `mcpshim doctor {key}` opens it"
        ))),
        None => {
            let known: Vec<&str> = servers.keys().map(ServerKey::as_str).collect();
            Err(
                Failure::new(Exit::Usage, format!("there is no server {key}"))
                    .hint(crate::doctor::near(key, &known)),
            )
        }
    }
}

/// A file that grows, and is replaced now and then.
struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    fn open(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// The end of the file; `None` when there is none. Lines that the file before it holds are
    /// taken along.
    fn last(&mut self, lines: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = existing(&self.path)? else {
            return Ok(None);
        };
        let mut text = tail(self.file.insert(file))?;
        if count(&text) < lines
            && let Some(mut before) = existing(&self.path.with_extension("old"))?
        {
            let mut both = tail(&mut before)?;
            both.append(&mut text);
            text = both;
        }
        Ok(Some(last_lines(&text, lines).to_vec()))
    }

    /// What was added since.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut news = Vec::new();
        if let Some(file) = &mut self.file {
            // one that was emptied is read from its start
            if file.metadata()?.len() < file.stream_position()? {
                file.rewind()?;
            }
            file.read_to_end(&mut news)?;
        }
        let now = existing(&self.path)?;
        let replaced = match (&self.file, &now) {
            (Some(old), Some(new)) => !same(old, new)?,
            (None, Some(_)) => true,
            // moved aside, and nothing in its place yet: more may come to the old one
            (_, None) => false,
        };
        if replaced && let Some(mut file) = now {
            file.read_to_end(&mut news)?;
            self.file = Some(file);
        }
        Ok(news)
    }
}

fn existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn same(a: &File, b: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

#[cfg(not(unix))]
fn same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok(a.created()? == b.created()?)
}

/// The end of a file, at most [`TAIL_BYTES`]; the file then stands at its end.
fn tail(file: &mut File) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}

fn count(text: &[u8]) -> usize {
    let ends = text.iter().filter(|byte| **byte == b'\n').count();
    ends + usize::from(!text.is_empty() && !text.ends_with(b"\n"))
}

fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev();
    let mut ends = ends.filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    match lines {
        0 => &[],
        lines => match ends.nth(lines - 1) {
            Some(at) => text.get(at + 1..).unwrap_or_default(),
            None => text,
        },
    }
}

/// Standard output: as it is for programs, harmless for a terminal.
struct Screen {
    terminal: bool,
    /// The begin of a character that is not whole yet.
    rest: Vec<u8>,
}

impl Screen {
    fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            rest: Vec::new(),
        }
    }

    /// False when nobody reads any more.
    fn show(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        let shown = match self.terminal {
            true => self.harmless(bytes),
            false => bytes.to_vec(),
        };
        let mut out = io::stdout().lock();
        match out.write_all(&shown).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::from_error(Exit::Failed, &error)
                .context("the log cannot be written to standard output")),
        }
    }

    fn harmless(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let cut = match std::str::from_utf8(&all) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Ok(_) | Err(_) => all.len(),
        };
        self.rest = all.split_off(cut);
        let text = String::from_utf8_lossy(&all);
        let mut shown = String::with_capacity(text.len());
        for (at, line) in text.split('\n').enumerate() {
            if at > 0 {
                shown.push('\n');
            }
            shown.push_str(&text::visible(line.strip_suffix('\r').unwrap_or(line)));
        }
        shown.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_cut_at_line_ends() {
        let cases: [(&[u8], usize, &[u8]); 7] = [
            (b"", 3, b""),
            (b"a\nb\nc\n", 2, b"b\nc\n"),
            (b"a\nb\nc", 2, b"b\nc"),
            (b"a\n", 5, b"a\n"),
            (b"a\nb\n", 0, b""),
            (b"\n\n\n", 2, b"\n\n"),
            (b"one", 1, b"one"),
        ];
        for (text, lines, last) in cases {
            assert_eq!(last_lines(text, lines), last);
        }
    }

    #[test]
    fn a_log_is_followed_through_its_replacement() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server-x.log");
        let mut log = Log::open(path.clone());
        assert_eq!(log.last(2).unwrap(), None);
        assert_eq!(log.more().unwrap(), b"");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(log.more().unwrap(), b"one\ntwo\n");
        std::fs::rename(&path, dir.path().join("server-x.old")).unwrap();
        assert_eq!(log.more().unwrap(), b"");
        std::fs::write(&path, "three\n").unwrap();
        assert_eq!(log.more().unwrap(), b"three\n");
        assert_eq!(log.more().unwrap(), b"");
        let mut log = Log::open(path);
        assert_eq!(log.last(2).unwrap().unwrap(), b"two\nthree\n");
    }

    #[test]
    fn a_terminal_gets_no_controls_and_whole_characters() {
        let mut screen = Screen {
            terminal: true,
            rest: Vec::new(),
        };
        assert_eq!(screen.harmless(b"a\x1b[2J\r\nb"), b"a\\u{1b}[2J\nb");
        let snow = "☃".as_bytes();
        assert_eq!(screen.harmless(&snow[..1]), b"");
        assert_eq!(screen.harmless(&snow[1..]), snow);
        assert_eq!(screen.harmless(b"\xff!"), "\u{fffd}!".as_bytes());
    }
}
