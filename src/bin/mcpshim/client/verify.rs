//! `mcpshim client verify`: whether clients start this mcpshim, and what stands in the way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mcpshim::config::Places;
use mcpshim::registry::doc::{Registry, Transport};
use mcpshim::report::{Exit, Failure};
use mcpshim::text;
use serde::Serialize;

use super::entry::{Entry, NAME};
use super::program::{self, State};
use super::{Name, managed};
use crate::out;

/// How long a program may take to say its version.
const VERSION: Duration = Duration::from_secs(5);

/// What was seen of one client.
#[derive(Debug, Serialize)]
pub(crate) struct Seen {
    pub(crate) client: Name,
    pub(crate) file: Option<PathBuf>,
    pub(crate) here: bool,
    /// What the client starts as mcpshim.
    pub(crate) starts: Option<String>,
    /// What keeps it from working.
    pub(crate) fault: Option<Finding>,
    /// What is good to know.
    pub(crate) notes: Vec<Finding>,
}

/// Something to say about a client.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) sentence: String,
    pub(crate) hint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// An entry starts a server that the registry governs.
    Bypass,
    /// The entry is not as it should be.
    Entry,
    /// Managed settings of the client stand in the way.
    Managed,
    /// There is no entry.
    Missing,
    /// The program is not there, or another version.
    Program,
    /// The file cannot be read.
    Unreadable,
}

pub(super) fn run(places: &Places, names: &[Name], as_json: bool) -> Result<(), Failure> {
    // without a registry nothing can be said about servers it governs
    let loaded = crate::settings()
        .ok()
        .and_then(|config| mcpshim::fetch::load(&config, &crate::now()).ok());
    let registry = loaded.as_ref().map(|loaded| &*loaded.registry);
    let seen = look(places, names, registry)?;
    if as_json {
        out::print_json(&seen)?;
    } else {
        out::print(&seen.iter().map(text).collect::<String>())?;
    }
    let mut faults = seen
        .iter()
        .filter_map(|seen| Some((seen.client, seen.fault.as_ref()?)));
    match faults.next() {
        None => Ok(()),
        Some((client, fault)) => Err(Failure::new(
            Exit::Failed,
            format!("{}: {}", client.title(), fault.sentence),
        )
        .hint(fault.hint.clone())),
    }
}

fn text(seen: &Seen) -> String {
    let title = seen.client.title();
    let mut text = match (&seen.starts, &seen.fault) {
        _ if !seen.here => format!("{title}: not here\n"),
        (_, Some(fault)) => format!("{title}: {}\n", fault.sentence),
        (Some(command), None) => format!("{title}: starts {command}\n"),
        (None, None) => format!("{title}: nothing to say\n"),
    };
    for note in &seen.notes {
        text.push_str(&format!("  note: {}\n", note.sentence));
    }
    // entries of others have names of others
    let lines = text
        .lines()
        .map(|line| format!("{}\n", text::visible(line)));
    lines.collect()
}

/// Looks at clients; changes nothing.
pub(crate) fn look(
    places: &Places,
    names: &[Name],
    registry: Option<&Registry>,
) -> Result<Vec<Seen>, Failure> {
    let own = program::own(places)?;
    let root = if cfg!(windows) { "" } else { "/" };
    let one = |name: &Name| seen(*name, places, &own, registry, Path::new(root));
    Ok(names.iter().map(one).collect())
}

fn seen(name: Name, places: &Places, own: &Path, registry: Option<&Registry>, root: &Path) -> Seen {
    let home = name.home(places);
    let mut seen = Seen {
        client: name,
        file: home.as_ref().map(|home| home.file.clone()),
        here: home.as_ref().is_some_and(super::Home::is_here),
        starts: None,
        fault: None,
        notes: Vec::new(),
    };
    let Some(home) = home.filter(|_| seen.here) else {
        return seen;
    };
    let word = name.word();
    let install = format!("run `mcpshim client install {word}`");
    let admin = "tell whoever manages this machine".to_owned();
    let fault = |kind, sentence: String, hint: &str| {
        Some(Finding {
            kind,
            sentence,
            hint: hint.to_owned(),
        })
    };
    let entries = match home.entries() {
        Ok(entries) => entries,
        Err(failure) => {
            let hint = failure.hint.clone().unwrap_or(install);
            let cause = failure.causes.first().cloned().unwrap_or_default();
            let sentence = format!("{} cannot be read: {cause}", home.file.display());
            seen.fault = fault(Kind::Unreadable, sentence, &hint);
            return seen;
        }
    };
    seen.notes = notes(&entries, registry);
    let user = entries.iter().find(|entry| entry.name == NAME);
    let command = user.and_then(|entry| entry.command.as_deref());
    let managed = managed::read(name, command, places, root);
    let (file, entry) = match (&managed.instead, user) {
        (Some((file, entry)), _) => (file.as_path(), Some(entry)),
        (None, user) => (home.file.as_path(), user),
    };
    let by_admin = managed.instead.is_some();
    let fix = if by_admin { &admin } else { &install };
    if let Some(obstacle) = managed.obstacle {
        seen.fault = fault(
            Kind::Managed,
            format!("managed settings keep it from starting mcpshim: {obstacle}"),
            &admin,
        );
        return seen;
    }
    let Some(entry) = entry else {
        let sentence = format!(
            "does not start mcpshim: {} has no entry for it",
            file.display()
        );
        seen.fault = fault(Kind::Missing, sentence, fix);
        return seen;
    };
    let place = format!("the entry `{}` in {}", entry.name, file.display());
    if !entry.is_ours() || entry.disabled || (!by_admin && entry.loaders().next().is_some()) {
        let sentence = format!(
            "{place} is not as it should be: it starts {}",
            entry.shown()
        );
        seen.fault = fault(Kind::Entry, sentence, fix);
        return seen;
    }
    let command = entry.command.clone().unwrap_or_default();
    let sentence = match program::state(&command, own, places, VERSION) {
        State::Copy | State::This => None,
        State::Missing => Some(format!("{place} names {command}, which does not exist")),
        State::NotExecutable => Some(format!("{place} names {command}, which cannot be executed")),
        State::Other(version) => Some(format!(
            "{place} starts mcpshim {version} in {command}, and this is {}",
            env!("CARGO_PKG_VERSION")
        )),
        State::Silent => Some(format!(
            "{place} names {command}, which does not answer as mcpshim does"
        )),
    };
    match sentence {
        Some(sentence) => seen.fault = fault(Kind::Program, sentence, fix),
        None => seen.starts = Some(command),
    }
    seen
}

/// Entries that go around mcpshim, by name. Never what they hold.
fn notes(entries: &[Entry], registry: Option<&Registry>) -> Vec<Finding> {
    let others = entries
        .iter()
        .filter(|entry| !entry.is_ours() && entry.name != NAME);
    others
        .filter_map(|entry| {
            let mut servers = registry?.servers.values();
            let server = servers.find(|server| starts_the_same(entry, &server.transport))?;
            Some(Finding {
                kind: Kind::Bypass,
                sentence: format!(
                    "its entry `{}` starts a server that the registry governs as {}: calls to it \
                     are neither decided nor recorded",
                    entry.name, server.key
                ),
                hint: format!("remove the entry, and use {} through mcpshim", server.key),
            })
        })
        .collect()
}

/// Programs that start others, and words that say nothing about what is started.
const LAUNCHERS: &[&str] = &[
    "npx", "bunx", "uvx", "uv", "pipx", "node", "bun", "deno", "python", "python3", "docker",
    "podman", "cmd", "sh", "bash", "env", "run", "exec", "tool", "dlx", "pnpm", "npm", "yarn",
    "stdio", "serve", "start",
];

/// Whether an entry starts what a server of the registry is: the same address, or the same
/// program or package under any version. It may be wrong in both directions; it only informs.
fn starts_the_same(entry: &Entry, transport: &Transport) -> bool {
    match transport {
        Transport::Http { url, .. } => entry
            .url
            .as_deref()
            .is_some_and(|other| other.trim_end_matches('/') == url.trim_end_matches('/')),
        Transport::Stdio { command, args, .. } => {
            let Some(other) = &entry.command else {
                return false;
            };
            let ours = words(command, args);
            let theirs = words(other, &entry.args);
            // the first word that says something is the program or the package
            ours.first().is_some_and(|word| theirs.contains(word))
        }
    }
}

fn words(command: &str, args: &[String]) -> Vec<String> {
    let all = std::iter::once(command).chain(args.iter().map(String::as_str));
    all.filter(|word| !word.starts_with('-'))
        .map(|word| {
            let file = if word.starts_with('@') {
                word
            } else {
                word.rsplit(['/', '\\']).next().unwrap_or(word)
            };
            let at = file.get(1..).and_then(|rest| rest.find('@'));
            let file = at.and_then(|at| file.get(..=at)).unwrap_or(file);
            let ends = [".exe", ".cmd", ".bat"];
            let file = ends
                .iter()
                .find_map(|end| file.strip_suffix(end))
                .unwrap_or(file);
            file.to_ascii_lowercase()
        })
        .filter(|word| !word.is_empty() && !LAUNCHERS.contains(&word.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_server_is_known_under_other_launchers() {
        let words = |command: &str, args: &[&str]| {
            let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
            words(command, &args)
        };
        let ours = words("npx", &["-y", "@acme/github-mcp@1.2.3", "--read-only"]);
        assert_eq!(ours, ["@acme/github-mcp"]);
        assert_eq!(words("bunx.cmd", &["@acme/github-mcp"]), ours);
        assert_eq!(words("/opt/acme/GitHub-MCP.exe", &[]), ["github-mcp"]);
        assert_eq!(words("uvx", &["mail-mcp==1", "x@y"]), ["mail-mcp==1", "x"]);
    }
}
