//! How a live surface differs from the pinned one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::value::RawValue;

use super::canon::Json;
use super::{Kind, printable, quarantine};
use crate::registry::doc::{PinMode, Pinned, Surface};
use crate::wire::http::Mirrored;

/// The live surface is not the pinned one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Drift {
    /// The first difference, fit for a client: names and paths, no text of the upstream.
    pub sentence: String,
}

/// One difference between two surfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The capabilities object, at this path.
    Capabilities(String),
    /// An entry of a list.
    Entry {
        /// Of which list.
        kind: Kind,
        /// The upstream's own name, or the URI.
        name: String,
        /// What happened to it.
        change: Change,
    },
    /// The instructions.
    Instructions,
}

/// What happened to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is not in the pin.
    Added,
    /// What it says about its effects, at this path.
    Annotation(String),
    /// The live list has it twice.
    Duplicate,
    /// Another member, at this path.
    Member(String),
    /// It is pinned but no longer there.
    Removed,
    /// Its input or output schema, at this path.
    Schema(String),
    /// Nothing but titles and descriptions, at this path: what a model reads.
    Text(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities(path) => write!(f, "the capabilities changed at `{path}`"),
            Self::Entry { kind, name, change } => {
                let word = kind.word();
                let name = printable(name);
                match change {
                    Change::Added => write!(f, "{word} `{name}` was added"),
                    Change::Annotation(path) => {
                        write!(f, "{word} `{name}`: an annotation changed at `{path}`")
                    }
                    Change::Duplicate => write!(f, "{word} `{name}` is listed twice"),
                    Change::Member(path) => write!(f, "{word} `{name}` changed at `{path}`"),
                    Change::Removed => write!(f, "{word} `{name}` was removed"),
                    Change::Schema(path) => {
                        write!(f, "{word} `{name}`: the schema changed at `{path}`")
                    }
                    Change::Text(path) => {
                        write!(f, "{word} `{name}`: only the text changed, at `{path}`")
                    }
                }
            }
            Self::Instructions => f.write_str("the instructions changed"),
        }
    }
}

/// For which client a live surface was read, compared with the one the pin was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// For one that can be asked for as much: all of the pin must be there.
    All,
    /// For one of fewer capabilities: servers show such clients less, so what is not there is no
    /// difference.
    Less,
}

/// What of a pinned surface may be used at a server whose live surface was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What is not there because of the client.
    pub absent: BTreeSet<(Kind, String)>,
    /// What is not what was reviewed, each with its difference: its calls are refused.
    pub changed: BTreeMap<(Kind, String), String>,
    /// Every difference, fit for the record: those above, what was added (which nobody is offered)
    /// and what a server says of itself (which clients hear from the pin).
    pub differences: Vec<String>,
}

/// Compares a live surface with the pinned one.
///
/// `strict`: instructions, capabilities, and every tool, prompt, template and static resource
/// must be the pinned ones, by digest; any difference is a drift of the whole server.
/// `definitions`: the same is compared, and a difference concerns its own entry only. `names`: the
/// names of tools, prompts and templates are; definitions, instructions, capabilities and static
/// resources may change. `off`: anything goes. Where the server is `remote`, no tool may want
/// further arguments in headers. Order never matters, and quarantined tools may be there or not.
/// The protocol revision is not compared, since it depends on what was negotiated; `serverInfo` is
/// not, since the server says it of itself.
///
/// # Errors
/// In `strict`, [`Drift`] with the first difference, the gravest of its entry.
pub fn compare(
    pinned: &Surface,
    live: &Surface,
    mode: PinMode,
    shown: Shown,
    remote: bool,
) -> Result<Comparison, Drift> {
    let mut compared = Comparison::default();
    for difference in differences(pinned, live, mode) {
        let sentence = sentence(&difference, pinned, live);
        let entry = match difference {
            Difference::Entry {
                kind,
                name,
                change: Change::Removed,
            } if shown == Shown::Less => {
                compared.absent.insert((kind, name));
                continue;
            }
            Difference::Entry {
                change: Change::Added,
                ..
            }
            | Difference::Capabilities(_)
            | Difference::Instructions => None,
            Difference::Entry { kind, name, .. } => Some((kind, name)),
        };
        if mode == PinMode::Strict {
            return Err(Drift { sentence });
        }
        if let Some(entry) = entry {
            let first = compared.changed.entry(entry);
            first.or_insert_with(|| sentence.clone());
        }
        compared.differences.push(sentence);
    }
    let headers = if remote && mode != PinMode::Off {
        headers_beyond(pinned, live)
    } else {
        Vec::new()
    };
    for (name, sentence) in headers {
        if mode == PinMode::Strict {
            return Err(Drift { sentence });
        }
        let entry = compared.changed.entry((Kind::Tool, name));
        entry.or_insert_with(|| {
            compared.differences.push(sentence.clone());
            sentence
        });
    }
    Ok(compared)
}

fn sentence(difference: &Difference, pinned: &Surface, live: &Surface) -> String {
    let mut sentence = difference.to_string();
    if pinned.protocol != live.protocol {
        let (was, is) = (printable(&pinned.protocol), printable(&live.protocol));
        sentence.push_str(&format!(" (pinned speaking {was}, now speaking {is})"));
    }
    sentence
}

/// The pinned tools that want an argument in a header over HTTP (MCP 2026-07-28, `x-mcp-header`)
/// that they did not when they were reviewed: whatever stands in between may write a header down.
fn headers_beyond(pinned: &Surface, live: &Surface) -> Vec<(String, String)> {
    let mirrored = |entry: &Pinned| {
        let definition = entry.definition.get();
        if !definition.contains("x-mcp-header") {
            return Mirrored::default();
        }
        let definition = serde_json::from_str::<serde_json::Value>(definition).ok();
        let schema = definition.as_ref().and_then(|d| d.get("inputSchema"));
        // unusable ones are refused where calls are made
        schema
            .and_then(|schema| Mirrored::of(schema).ok())
            .unwrap_or_default()
    };
    let was: BTreeMap<&str, &Pinned> = pinned.tools.iter().map(|e| (&*e.name, e)).collect();
    let both = live.tools.iter();
    let both = both.filter_map(|is| Some((*was.get(is.name.as_str())?, is)));
    both.filter_map(|(was, is)| {
        let path = mirrored(is).beyond(&mirrored(was))?;
        let (name, path) = (printable(&is.name), printable(&path));
        let sentence =
            format!("tool `{name}` wants the argument `{path}` in a header (x-mcp-header)");
        Some((is.name.clone(), sentence))
    })
    .collect()
}

/// Returns every difference that matters in this mode, one per entry, tools first.
#[must_use]
pub fn differences(pinned: &Surface, live: &Surface, mode: PinMode) -> Vec<Difference> {
    let mut found = Vec::new();
    let kinds: &[Kind] = match mode {
        PinMode::Names => &[Kind::Tool, Kind::Prompt, Kind::Template],
        PinMode::Off => return found,
        PinMode::Definitions | PinMode::Strict => &Kind::ALL,
    };
    for kind in kinds {
        entries(*kind, pinned, live, mode, &mut found);
    }
    if matches!(mode, PinMode::Definitions | PinMode::Strict) {
        if pinned.instructions != live.instructions {
            found.push(Difference::Instructions);
        }
        let was = pinned.capabilities.as_deref().map(RawValue::get);
        let is = live.capabilities.as_deref().map(RawValue::get);
        if was != is
            && let Some(edit) = edits_between(was, is).into_iter().next()
        {
            found.push(Difference::Capabilities(edit.path));
        }
    }
    found
}

fn entries(kind: Kind, pinned: &Surface, live: &Surface, mode: PinMode, out: &mut Vec<Difference>) {
    let mut found = |name: &str, change| {
        out.push(Difference::Entry {
            kind,
            name: name.to_owned(),
            change,
        });
    };
    let mut by_name: BTreeMap<&str, &Pinned> = BTreeMap::new();
    for entry in kind.of(live) {
        if by_name.insert(&entry.name, entry).is_some() {
            found(&entry.name, Change::Duplicate);
        }
    }
    for was in kind.of(pinned) {
        match by_name.get(was.name.as_str()) {
            None => found(&was.name, Change::Removed),
            Some(is) if mode != PinMode::Names && is.digest != was.digest => {
                found(&was.name, change(kind, &was.definition, &is.definition));
            }
            Some(_) => {}
        }
    }
    let mut known: BTreeSet<&str> = kind.of(pinned).iter().map(|e| e.name.as_str()).collect();
    // seen when the pin was made, and neither listed nor callable
    let aside: BTreeSet<&str> = pinned.quarantined.keys().map(String::as_str).collect();
    known.extend(
        kind.of(live)
            .iter()
            .map(|e| e.name.as_str())
            .filter(|name| {
                let place = quarantine::place(kind, name);
                aside.contains(place.as_str())
            }),
    );
    for entry in kind.of(live) {
        // inserted, so that a duplicate newcomer is one addition
        if known.insert(&entry.name) {
            found(&entry.name, Change::Added);
        }
    }
}

/// Names the gravest edit: schema, annotation, member, text. Digests already differ, so an empty
/// list of edits can only mean a definition that does not parse.
fn change(kind: Kind, was: &RawValue, is: &RawValue) -> Change {
    let mut best: Option<(u8, Change)> = None;
    for edit in edits_between(Some(was.get()), Some(is.get())) {
        let path = edit.path.clone();
        let graded = match edit.grade(kind) {
            Grade::Annotation => (2, Change::Annotation(path)),
            Grade::Member => (1, Change::Member(path)),
            Grade::Schema => (3, Change::Schema(path)),
            Grade::Text => (0, Change::Text(path)),
        };
        if best.as_ref().is_none_or(|(grade, _)| *grade < graded.0) {
            best = Some(graded);
        }
    }
    best.map_or_else(|| Change::Member("$".to_owned()), |(_, change)| change)
}

/// One place where two definitions differ, for the reviewer of a pin. Holds text of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Where, e.g. `inputSchema.properties.path.type`; segments printable and cut.
    pub path: String,
    /// The canonical form of the old value; absent if there was none.
    pub was: Option<String>,
    /// The canonical form of the new value; absent if there is none.
    pub is: Option<String>,
    steps: Vec<String>,
    texts: bool,
}

enum Grade {
    Annotation,
    Member,
    Schema,
    Text,
}

impl Edit {
    fn grade(&self, kind: Kind) -> Grade {
        let step = |i: usize| self.steps.get(i).map(String::as_str);
        let last = self.steps.len().checked_sub(1);
        // below these, a key called `description` is data or a parameter, not a description
        let data = ["const", "default", "enum", "examples", "properties"];
        let parent = last.and_then(|i| i.checked_sub(1)).and_then(step);
        let text = self.texts
            && matches!(last.and_then(step), Some("description" | "title"))
            && !parent.is_some_and(|parent| data.contains(&parent));
        if text {
            return Grade::Text;
        }
        match (kind, step(0)) {
            (_, Some("annotations")) => Grade::Annotation,
            (Kind::Tool, Some("inputSchema" | "outputSchema"))
            | (Kind::Prompt, Some("arguments")) => Grade::Schema,
            _ => Grade::Member,
        }
    }
}

/// Returns every edit that turns one definition into the other, in the order of the canonical
/// form. Arrays of different length are one edit.
#[must_use]
pub fn edits(was: &RawValue, is: &RawValue) -> Vec<Edit> {
    edits_between(Some(was.get()), Some(is.get()))
}

fn edits_between(was: Option<&str>, is: Option<&str>) -> Vec<Edit> {
    // a text without a canonical form is an edit of the whole
    let parse = |text: Option<&str>| text.map(Json::parse).transpose();
    let mut found = Vec::new();
    match (parse(was), parse(is)) {
        (Ok(was), Ok(is)) => walk(was.as_ref(), is.as_ref(), &mut Vec::new(), &mut found),
        _ => found.push(Edit {
            path: "$".to_owned(),
            was: was.map(str::to_owned),
            is: is.map(str::to_owned),
            steps: Vec::new(),
            texts: false,
        }),
    }
    found
}

fn walk(was: Option<&Json>, is: Option<&Json>, steps: &mut Vec<String>, found: &mut Vec<Edit>) {
    match (was, is) {
        (Some(Json::Object(a)), Some(Json::Object(b))) => {
            let keys: BTreeSet<&str> = a.keys().chain(b.keys()).map(AsRef::as_ref).collect();
            for key in keys {
                steps.push(key.to_owned());
                walk(a.get(key), b.get(key), steps, found);
                steps.pop();
            }
        }
        (Some(Json::Array(a)), Some(Json::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                steps.push(i.to_string());
                walk(Some(a), Some(b), steps, found);
                steps.pop();
            }
        }
        (was, is) if was == is => {}
        (was, is) => found.push(Edit {
            path: path(steps),
            was: was.map(spell),
            is: is.map(spell),
            steps: steps.clone(),
            texts: [was, is]
                .iter()
                .flatten()
                .all(|json| json.as_str().is_some()),
        }),
    }
}

fn spell(json: &Json) -> String {
    let mut out = String::new();
    json.write(&mut out);
    out
}

/// Keys of an upstream reach a sentence here: each is cut, and dots in it are hidden.
fn path(steps: &[String]) -> String {
    if steps.is_empty() {
        return "$".to_owned();
    }
    let cut = |step: &String| -> String {
        let step = printable(step);
        step.chars()
            .take(40)
            .map(|c| if c == '.' { '?' } else { c })
            .collect()
    };
    steps.iter().take(16).map(cut).collect::<Vec<_>>().join(".")
}
