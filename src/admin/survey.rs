//! `mcpshim-admin pin`: runs the real servers and records what they offer.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

use super::pins::PinFile;
use super::problem::{Level, Problem, Problems, suggest};
use super::source::{Server, Sources};
use crate::catalog;
use crate::ids::{RoleName, ServerKey};
use crate::pin::{self, Change, Difference, Kind, quarantine};
use crate::policy::pattern::Pattern;
use crate::registry::doc::{PinMode, ServerDoc, Surface, Transport};

/// What became of one server's pin.
#[derive(Debug, Serialize)]
pub struct Pinning {
    /// The server.
    pub server: ServerKey,
    /// The pin file, relative to the directory.
    pub file: String,
    /// What happened.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Tools that Claude Code and Claude Desktop are not offered, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unfit: BTreeMap<String, String>,
    /// Tools that only run as a task of MCP 2025-11-25: every call of them is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_task: Vec<String>,
}

/// What happened to a pin file.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was replaced: this is what to review.
    Changed {
        /// How the old surface differs from the new one.
        changes: Vec<PinChange>,
        /// Tools that are not offered, with the reason.
        quarantined: Vec<(String, String)>,
    },
    /// Nothing was written.
    Failed {
        /// Why, one line.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// It was written for the first time.
    New {
        /// How many tools are offered.
        tools: usize,
        /// How many prompts.
        prompts: usize,
        /// How many templates.
        templates: usize,
        /// How many static resources.
        resources: usize,
        /// Tools that are not offered, with the reason.
        quarantined: Vec<(String, String)>,
    },
    /// The server's `pin` is `off`.
    Off,
    /// It is as it was.
    Unchanged,
}

/// One difference between the old and the new surface.
#[derive(Debug, Serialize)]
pub struct PinChange {
    /// A sentence.
    pub sentence: String,
    /// Every place where the definition differs; empty for what came or went.
    pub edits: Vec<PinEdit>,
    /// Roles that may use what came, by grants that were approved before it.
    pub roles: Vec<RoleName>,
}

/// One place where a definition differs. The values are the server's own text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinEdit {
    /// Where.
    pub path: String,
    /// The old value, as JSON.
    pub was: Option<String>,
    /// The new value, as JSON.
    pub is: Option<String>,
}

/// Surveys servers and writes their pins; all of them when `only` is empty. `survey` runs one
/// server and reads its surface. A server that fails leaves its old pin untouched, and the rest
/// goes on.
///
/// # Errors
/// [`Problems`] when the directory is not a registry, or a name in `only` is no server's key.
pub fn pin(
    dir: &Path,
    only: &[String],
    survey: &mut dyn FnMut(&ServerDoc) -> Result<Surface, String>,
) -> Result<Vec<Pinning>, Problems> {
    let mut sources = Sources::read(dir);
    if sources.org.is_none() && sources.servers.is_empty() {
        return Err(sources.problems);
    }
    let unknown: Vec<Problem> = only
        .iter()
        .filter(|key| sources.server(key).is_none())
        .map(|key| unknown(key, &sources))
        .collect();
    if !unknown.is_empty() {
        return Err(Problems(unknown));
    }
    sources.problems.sort();
    let wanted =
        |server: &&Server| only.is_empty() || only.iter().any(|key| key == server.doc.key.as_str());
    let servers = sources.servers.iter().filter(wanted);
    Ok(servers
        .map(|server| one(dir, server, &sources, survey))
        .collect())
}

fn unknown(key: &str, sources: &Sources) -> Problem {
    let broken = sources.problems.0.iter().find(|problem| {
        problem
            .file
            .strip_prefix("servers/")
            .and_then(|f| f.strip_suffix(".yaml"))
            == Some(key)
    });
    if let Some(problem) = broken {
        return problem.clone();
    }
    let keys = sources.servers.iter().map(|server| server.doc.key.as_str());
    Problem {
        file: "servers".to_owned(),
        line: 0,
        column: 0,
        level: Level::Error,
        rule: "unknown-server",
        message: format!("no server has the key `{key}`"),
        fix: suggest(key, keys, "add the server to servers/"),
    }
}

fn one(
    dir: &Path,
    server: &Server,
    sources: &Sources,
    survey: &mut dyn FnMut(&ServerDoc) -> Result<Surface, String>,
) -> Pinning {
    let file = format!("pins/{}.json", server.doc.id);
    let mut needs_task = Vec::new();
    let mut unfit = BTreeMap::new();
    let mut survey = |server: &ServerDoc| {
        let surface = survey(server)?;
        let tools = surface.tools.iter();
        let tools = tools.filter(|tool| catalog::needs_task(&surface, tool));
        needs_task = tools.map(|tool| tool.name.clone()).collect();
        unfit = quarantine::unfit(&surface);
        Ok(surface)
    };
    let outcome = renew(dir, &file, server, sources, &mut survey);
    Pinning {
        server: server.doc.key.clone(),
        file,
        outcome: outcome.unwrap_or_else(|(reason, hint)| Outcome::Failed { reason, hint }),
        unfit,
        needs_task,
    }
}

fn renew(
    dir: &Path,
    file: &str,
    server: &Server,
    sources: &Sources,
    survey: &mut dyn FnMut(&ServerDoc) -> Result<Surface, String>,
) -> Result<Outcome, (String, String)> {
    if server.doc.pin == PinMode::Off {
        return Ok(Outcome::Off);
    }
    let mistakes = sources.problems.0.iter();
    let mut mistakes = mistakes.filter(|p| p.file == server.file && p.level == Level::Error);
    if let Some(first) = mistakes.next() {
        // what would run is what is written there, so it must be right first
        let at = format!("{}:{}: {}", first.file, first.line, first.message);
        return Err((at, first.fix.clone()));
    }
    let path = dir.join(file);
    if server.pin.is_none() && path.exists() {
        return Err((
            format!("{file} cannot be read, and it holds the names that were assigned"),
            "restore it from version control, or delete it to assign all names anew".to_owned(),
        ));
    }
    let surface = survey(&server.doc).map_err(|reason| {
        let hint = match server.doc.transport {
            Transport::Http { .. } => "see that its address is right and that it is up",
            Transport::Stdio { .. } => {
                "start it by hand with the same command, and see what it says"
            }
        };
        let hint = hint.to_owned();
        (reason, hint)
    })?;
    if surface.tools.len() > crate::limits::TOOLS_PER_SERVER {
        let (count, most) = (surface.tools.len(), crate::limits::TOOLS_PER_SERVER);
        let hint = "offer fewer tools through one server".to_owned();
        return Err((
            format!("it has {count} tools, expected at most {most}"),
            hint,
        ));
    }
    let pin = PinFile::new(&server.doc, surface, server.pin.as_ref());
    let text = pin.write().map_err(|error| {
        let hint = "report this as a fault of mcpshim-admin".to_owned();
        (format!("its pin cannot be written: {error}"), hint)
    })?;
    if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(Outcome::Unchanged);
    }
    replace(&path, text.as_bytes()).map_err(|error| {
        let hint = "nothing was changed; see that the directory can be written".to_owned();
        (format!("{file} cannot be written: {error}"), hint)
    })?;
    let quarantined = &pin.surface.quarantined;
    let quarantined = quarantined
        .iter()
        .map(|(n, r)| (n.clone(), r.clone()))
        .collect();
    Ok(match &server.pin {
        None => Outcome::New {
            tools: pin.surface.tools.len(),
            prompts: pin.surface.prompts.len(),
            templates: pin.surface.templates.len(),
            resources: pin.surface.resources.len(),
            quarantined,
        },
        Some(old) => Outcome::Changed {
            changes: changes(&old.surface, &pin.surface, server, sources),
            quarantined,
        },
    })
}

/// A crash before the rename leaves the old pin and a hidden file, which the next run replaces.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

fn changes(was: &Surface, is: &Surface, server: &Server, sources: &Sources) -> Vec<PinChange> {
    let all = pin::differences(was, is, PinMode::Strict);
    let change = |difference: &Difference| PinChange {
        sentence: difference.to_string(),
        edits: edits(difference, was, is),
        roles: gainers(difference, server, sources),
    };
    // what went into the quarantine is reported there
    let quarantined = |difference: &&Difference| match difference {
        Difference::Entry {
            kind: Kind::Tool,
            name,
            change: Change::Removed,
        } => is.quarantined.contains_key(name),
        Difference::Capabilities(_) | Difference::Entry { .. } | Difference::Instructions => false,
    };
    let worth = all.iter().filter(|difference| !quarantined(difference));
    worth.map(change).collect()
}

pub(super) fn edits(difference: &Difference, was: &Surface, is: &Surface) -> Vec<PinEdit> {
    let found = match difference {
        Difference::Capabilities(_) => match (&was.capabilities, &is.capabilities) {
            (Some(was), Some(is)) => pin::edits(was, is),
            _ => Vec::new(),
        },
        Difference::Entry { kind, name, .. } => {
            let find = |surface| kind.of(surface).iter().find(|entry| entry.name == *name);
            match (find(was), find(is)) {
                (Some(was), Some(is)) => pin::edits(&was.definition, &is.definition),
                _ => Vec::new(),
            }
        }
        Difference::Instructions => {
            let json = |text: &Option<String>| {
                text.as_ref()
                    .map(|text| serde_json::Value::from(text.as_str()).to_string())
            };
            return vec![PinEdit {
                path: "instructions".to_owned(),
                was: json(&was.instructions),
                is: json(&is.instructions),
            }];
        }
    };
    let edit = |edit: pin::Edit| PinEdit {
        path: edit.path,
        was: edit.was,
        is: edit.is,
    };
    found.into_iter().map(edit).collect()
}

/// Who may use an added tool or prompt at once, because an approved glob happens to cover it.
fn gainers(difference: &Difference, server: &Server, sources: &Sources) -> Vec<RoleName> {
    let Difference::Entry {
        kind,
        name,
        change: Change::Added,
    } = difference
    else {
        return Vec::new();
    };
    let covers = |grant: &super::source::Grant| {
        let patterns = match kind {
            Kind::Prompt => &grant.prompts,
            Kind::Resource | Kind::Template => &grant.resources,
            Kind::Tool => &grant.tools,
        };
        grant.server.value == server.doc.key.as_str()
            && patterns.iter().any(|spot| match kind {
                Kind::Template => Pattern::glob(&spot.value).meets(&Pattern::template(name)),
                Kind::Prompt | Kind::Resource | Kind::Tool => {
                    Pattern::glob(&spot.value).matches(name)
                }
            })
    };
    let roles = sources.roles.iter();
    let gains = roles.filter(|role| role.grants.iter().any(covers));
    gains.map(|role| role.name.clone()).collect()
}

/// Text of a server for a terminal: controls and what hides or reverses text become escapes, and
/// it is cut after `most` characters.
#[must_use]
pub fn visible(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars().take(most) {
        let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}');
        match c.is_control() || hides {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}
