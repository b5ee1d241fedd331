//! `mcpshim client`
//!
//! A file per client says where its settings are and what they look like; how one entry is
//! edited, and how a file is replaced, is the same for all.

mod claude_code;
mod claude_desktop;
mod codex;
mod entry;
mod file;
mod json;
mod managed;
mod program;
#[cfg(test)]
mod tests;
mod toml;
mod verify;
mod vscode;

use std::path::{Path, PathBuf};

use mcpshim::config::{self, Places};
use mcpshim::report::{Exit, Failure};
use serde::Serialize;

use self::entry::{Change, Entry, Removal, Trouble};
use self::file::{FileError, Found};
use crate::out;

pub(crate) use self::verify::{Kind, look};

const EXAMPLES: &str = "\
Examples:
  mcpshim client install claude-code    let Claude Code start this mcpshim
  mcpshim client install --all          the same for every client that is here
  mcpshim client verify                 is it there, is it ours, does anything stand in its way
  mcpshim client remove codex";

const INSTALL: &str = "\
Examples:
  mcpshim client install claude-code
  mcpshim client install --all --dry-run

Exit codes: 0 done or nothing to do, 1 a file could not be edited and is as it was.";

const VERIFY: &str = "\
Examples:
  mcpshim client verify
  mcpshim client verify vscode --json

Exit codes: 0 every client that is here starts this mcpshim, 1 one does not.";

const REMOVE: &str = "\
Examples:
  mcpshim client remove claude-desktop
  mcpshim client remove --all

Exit codes: 0 done or nothing to do, 1 a file could not be edited and is as it was.";

/// Let MCP clients start mcpshim: write, check or take out its entry in their settings
///
/// Knows Claude Code, Claude Desktop, Codex and VS Code. Only the entry `mcpshim` is touched:
/// every other byte of a client's file stays, comments included.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Write the entry `mcpshim`, or put it right
    ///
    /// The file is replaced in one step and keeps its owner and mode; a file that cannot be read
    /// is left as it is. A second run changes nothing. In an entry that starts an mcpshim
    /// already, only what must change is changed: limits of time, enabled tools, approvals,
    /// variables and comments stay. Variables that load other code (`LD_…`, `DYLD_…`) go.
    #[command(after_help = INSTALL)]
    Install {
        #[command(flatten)]
        which: Which,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Also from a place that programs do not stay in, and for clients that are not here yet
        #[arg(long)]
        force: bool,
    },
    /// Take the entry `mcpshim` out again
    ///
    /// What install has made for it goes too; everything else stays as it is.
    #[command(after_help = REMOVE)]
    Remove {
        #[command(flatten)]
        which: Which,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Say whether clients start this mcpshim, and what stands in its way
    ///
    /// Looks at the entry, at the program it names, and at managed settings that would keep the
    /// client from using it. Also names entries that start a server which the registry governs:
    /// calls to those are neither decided nor recorded. Nothing is changed.
    #[command(after_help = VERIFY)]
    Verify {
        /// Only this client
        #[arg(value_name = "CLIENT")]
        client: Option<Name>,
        /// Every client, as without a name
        #[arg(long, conflicts_with = "client")]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which clients a change is for.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The client
    #[arg(value_name = "CLIENT", required_unless_present = "all")]
    client: Option<Name>,
    /// Every client that is here
    #[arg(long, conflicts_with = "client")]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Which {
    fn names(&self) -> Vec<Name> {
        self.client
            .map_or_else(|| Name::ALL.to_vec(), |name| vec![name])
    }
}

/// A client that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// Claude Code, for the user (`~/.claude.json`)
    ClaudeCode,
    /// Claude Desktop (`claude_desktop_config.json`)
    ClaudeDesktop,
    /// Codex (`~/.codex/config.toml`)
    Codex,
    /// Visual Studio Code, for the user (`mcp.json`)
    #[value(name = "vscode")]
    #[serde(rename = "vscode")]
    VsCode,
}

impl Name {
    pub(crate) const ALL: [Self; 4] = [
        Self::ClaudeCode,
        Self::ClaudeDesktop,
        Self::Codex,
        Self::VsCode,
    ];

    /// As the client calls itself.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::ClaudeDesktop => "Claude Desktop",
            Self::Codex => "Codex",
            Self::VsCode => "VS Code",
        }
    }

    /// As the command line calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::ClaudeDesktop => "claude-desktop",
            Self::Codex => "codex",
            Self::VsCode => "vscode",
        }
    }

    /// Where it keeps its settings; nothing where this user has no such place.
    pub(crate) fn home(self, places: &Places) -> Option<Home> {
        match self {
            Self::ClaudeCode => claude_code::home(places),
            Self::ClaudeDesktop => claude_desktop::home(places),
            Self::Codex => codex::home(places),
            Self::VsCode => vscode::home(places),
        }
    }
}

/// Where a client keeps its settings, and how.
#[derive(Debug)]
pub(crate) struct Home {
    /// The file with the list of servers.
    pub(crate) file: PathBuf,
    /// What is there where the client is.
    signs: Vec<PathBuf>,
    format: Format,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Json(json::Dialect),
    Toml,
}

impl Format {
    fn entries(self, text: &str) -> Result<Vec<Entry>, Trouble> {
        match self {
            Self::Json(dialect) => dialect.entries(text),
            Self::Toml => toml::entries(text),
        }
    }

    fn install(self, text: Option<&str>, command: &str) -> Result<Change, Trouble> {
        match self {
            Self::Json(dialect) => dialect.install(text, command),
            Self::Toml => toml::install(text, command),
        }
    }

    fn remove(self, text: &str) -> Result<Removal, Trouble> {
        match self {
            Self::Json(dialect) => dialect.remove(text),
            Self::Toml => toml::remove(text),
        }
    }
}

impl Home {
    /// Whether the client was ever here.
    pub(crate) fn is_here(&self) -> bool {
        self.file.exists() || self.signs.iter().any(|sign| sign.exists())
    }

    /// The entries that are there.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, Failure> {
        let found = Found::read(&self.file).map_err(|error| self.unread(&error))?;
        let text = found.text().map_err(|trouble| self.malformed(&trouble))?;
        let Some(text) = text else {
            return Ok(Vec::new());
        };
        let entries = self.format.entries(text);
        entries.map_err(|trouble| self.malformed(&trouble))
    }

    fn install(&self, command: &str, dry_run: bool) -> Result<Done, Failure> {
        let found = Found::read(&self.file).map_err(|error| self.unread(&error))?;
        let text = found.text().map_err(|trouble| self.malformed(&trouble))?;
        let change = self.format.install(text, command);
        let (new, done) = match change.map_err(|trouble| self.malformed(&trouble))? {
            Change::Same => return Ok(Did::Nothing.into()),
            Change::Added(new) => (new, Did::Added.into()),
            Change::Replaced { text, was, changed } => (
                text,
                Done {
                    did: Did::Replaced,
                    was: Some(was),
                    changed,
                },
            ),
        };
        if !dry_run {
            if let Some(dir) = self.file.parent() {
                mcpshim::files::create_private_dir(dir).map_err(|error| {
                    Failure::from_error(Exit::Failed, &error)
                        .context(format!("{} cannot be made", dir.display()))
                        .hint("check the owner and the permissions of the directory above")
                })?;
            }
            found.replace(&new).map_err(|error| self.unread(&error))?;
        }
        Ok(done)
    }

    fn remove(&self, dry_run: bool) -> Result<Done, Failure> {
        let found = Found::read(&self.file).map_err(|error| self.unread(&error))?;
        let text = found.text().map_err(|trouble| self.malformed(&trouble))?;
        let Some(text) = text else {
            return Ok(Did::Nothing.into());
        };
        let removal = self.format.remove(text);
        match removal.map_err(|trouble| self.malformed(&trouble))? {
            Removal::Absent => return Ok(Did::Nothing.into()),
            Removal::Foreign(what) => {
                return Ok(Done {
                    was: Some(what),
                    ..Did::Kept.into()
                });
            }
            Removal::File if dry_run => {}
            Removal::Text(_) if dry_run => {}
            Removal::File => found.remove().map_err(|error| self.unread(&error))?,
            Removal::Text(new) => found.replace(&new).map_err(|error| self.unread(&error))?,
        }
        Ok(Did::Removed.into())
    }

    fn malformed(&self, trouble: &Trouble) -> Failure {
        Failure::new(
            Exit::Failed,
            format!("{} cannot be edited and is as it was", self.file.display()),
        )
        .cause(trouble.to_string())
        .hint("correct the line, then run the command again")
    }

    fn unread(&self, error: &FileError) -> Failure {
        let hint = match error {
            FileError::Changed => "run the command again, best while the client is closed",
            FileError::Io { .. } => "check the owner, the permissions and the free space",
            FileError::Large | FileError::NotAFile => "put the client's own file there",
            FileError::Nowhere(_) => "remove the link, or put the file it names back",
        };
        Failure::new(
            Exit::Failed,
            format!("{} is as it was", self.file.display()),
        )
        .cause(error.to_string())
        .hint(hint)
    }
}

/// What was done for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Did {
    Added,
    /// An entry of our name starts something else.
    Kept,
    Nothing,
    NotHere,
    Refused,
    Removed,
    Replaced,
}

/// What was done to one file.
struct Done {
    did: Did,
    /// What the entry started before, or starts.
    was: Option<String>,
    /// The members of our entry that were changed.
    changed: Vec<&'static str>,
}

impl From<Did> for Done {
    fn from(did: Did) -> Self {
        Self {
            did,
            was: None,
            changed: Vec::new(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    client: Name,
    file: Option<PathBuf>,
    did: Did,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// What the entry started before, or starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<String>,
    /// The members of our entry that were changed, where the rest of it stayed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Why `install` refuses to write this program into a client's settings without `--force`.
pub(crate) fn passing(places: &Places) -> Option<&'static str> {
    program::passing(&program::own(places).ok()?, places)
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let places = config::places();
    match command {
        Command::Install {
            which,
            dry_run,
            force,
        } => install(&places, which, *dry_run, *force),
        Command::Remove { which, dry_run } => {
            let rows = rows(&places, &which.names(), *dry_run, false, |home| {
                home.remove(*dry_run)
            });
            report(rows, which.json)
        }
        Command::Verify { client, json, .. } => {
            let names = client.map_or_else(|| Name::ALL.to_vec(), |name| vec![name]);
            verify::run(&places, &names, *json)
        }
    }
}

/// Takes our entry out of every client that is here, or says where it would: sentences of what was
/// done, and what could not be.
pub(crate) fn take_out(dry_run: bool) -> (Vec<String>, Vec<Failure>) {
    let places = config::places();
    let rows = rows(&places, &Name::ALL, dry_run, false, |home| {
        home.remove(dry_run)
    });
    let (rows, failures): (Vec<Row>, Vec<Option<Failure>>) = rows.into_iter().unzip();
    let removed = rows.iter().filter(|row| row.did == Did::Removed);
    let sentence = |row: &Row| {
        let file = row
            .file
            .as_deref()
            .unwrap_or_else(|| Path::new("its settings"));
        format!("the entry of {} in {}", row.client.title(), file.display())
    };
    (
        removed.map(sentence).collect(),
        failures.into_iter().flatten().collect(),
    )
}

fn install(places: &Places, which: &Which, dry_run: bool, force: bool) -> Result<(), Failure> {
    let program = program::own(places)?;
    let passing = program::passing(&program, places);
    if let Some(why) = passing {
        let sentence = format!("{} {why}: clients would lose it", program.display());
        if !force {
            return Err(
                Failure::new(Exit::Failed, sentence).hint("install mcpshim first, or say --force")
            );
        }
        out::warn(&sentence);
    }
    let Some(command) = program.to_str() else {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} is not Unicode, and clients' files are",
                program.display()
            ),
        )
        .hint("install mcpshim under another name"));
    };
    let mut rows = rows(
        places,
        &which.names(),
        dry_run,
        force && !which.all,
        |home| home.install(command, dry_run),
    );
    for (row, _) in &mut rows {
        row.command = matches!(row.did, Did::Added | Did::Replaced | Did::Nothing)
            .then(|| command.to_owned());
    }
    report(rows, which.json)
}

fn rows(
    places: &Places,
    names: &[Name],
    dry_run: bool,
    anyway: bool,
    act: impl Fn(&Home) -> Result<Done, Failure>,
) -> Vec<(Row, Option<Failure>)> {
    let one = |name: &Name| {
        let home = name.home(places);
        let mut row = Row {
            client: *name,
            file: home.as_ref().map(|home| home.file.clone()),
            did: Did::NotHere,
            dry_run,
            command: None,
            was: None,
            changed: Vec::new(),
            error: None,
        };
        let Some(home) = home.filter(|home| anyway || home.is_here()) else {
            return (row, None);
        };
        match act(&home) {
            Ok(done) => {
                (row.did, row.was, row.changed) = (done.did, done.was, done.changed);
                (row, None)
            }
            Err(failure) => {
                row.did = Did::Refused;
                row.error = Some(failure.in_one_line());
                (row, Some(failure))
            }
        }
    };
    names.iter().map(one).collect()
}

/// Says what was done; ends in the first failure, and says the others before.
fn report(rows: Vec<(Row, Option<Failure>)>, as_json: bool) -> Result<(), Failure> {
    let (rows, failures): (Vec<Row>, Vec<Option<Failure>>) = rows.into_iter().unzip();
    if as_json {
        out::print_json(&rows)?;
    } else {
        out::print(&rows.iter().map(sentence).collect::<String>())?;
    }
    let mut failures: Vec<Failure> = failures.into_iter().flatten().collect();
    let last = failures.pop();
    for failure in &failures {
        out::complain(failure);
    }
    last.map_or(Ok(()), Err)
}

fn sentence(row: &Row) -> String {
    let title = row.client.title();
    let file = row
        .file
        .as_deref()
        .unwrap_or_else(|| Path::new("its settings"));
    let file = file.display();
    let was = row.was.as_deref().unwrap_or("something else");
    let would = if row.dry_run { "would be " } else { "" };
    match row.did {
        Did::Added => format!("{title}: the entry {would}added to {file}\n"),
        Did::Kept => {
            format!("{title}: the entry in {file} is not ours and stays: it starts {was}\n")
        }
        Did::Nothing if row.command.is_some() => {
            format!("{title}: the entry in {file} is right already, nothing to do\n")
        }
        Did::Nothing => format!("{title}: there is no entry in {file}, nothing to do\n"),
        Did::NotHere => format!("{title}: not here\n"),
        Did::Refused => String::new(),
        Did::Removed => format!("{title}: the entry {would}taken out of {file}\n"),
        Did::Replaced if row.changed.is_empty() => {
            format!("{title}: the entry in {file} {would}written anew; it started {was}\n")
        }
        Did::Replaced => {
            let names: Vec<String> = row.changed.iter().map(|name| format!("`{name}`")).collect();
            format!(
                "{title}: the entry in {file} {would}put right: {} changed, every other setting in \
                 it kept; it started {was}\n",
                names.join(", ")
            )
        }
    }
}
