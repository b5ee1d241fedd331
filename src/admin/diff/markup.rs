//! A difference as text for terminals and as Markdown for pull requests.
//!
//! Names come from servers and from the pull request itself. In a sentence they stand between
//! two control characters, which no name can hold, and become `` `name` `` in text and a
//! `<code>` element with every character that could mean something written as a number in
//! Markdown: no name becomes markup, a mention, a link or another cell.

use serde::Serializer;

use super::{Change, Diff, Effect, Item, RoleDiff, State, Writes};
use crate::text;

const OPEN: char = '\u{1}';
const CLOSE: char = '\u{2}';
/// Longest name shown.
const NAME: usize = 200;
/// Most items of one role shown in text and Markdown; JSON has all.
const ITEMS: usize = 60;
/// Most changes of one section shown, and edits of one change.
const CHANGES: usize = 100;
const EDITS: usize = 8;

/// A name within a sentence.
pub(super) fn code(name: &str) -> String {
    // controls are escaped by `visible`, so the marks cannot be part of a name
    format!("{OPEN}{}{CLOSE}", text::short(name, NAME))
}

/// A number and its noun.
pub(super) fn many(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

impl Change {
    pub(super) fn new(effect: Effect, sentence: String) -> Self {
        Self {
            effect,
            sentence,
            edits: Vec::new(),
        }
    }
}

impl Effect {
    fn sign(self) -> char {
        match self {
            Self::Narrows => '-',
            Self::Neutral => ' ',
            Self::Review => '!',
            Self::Widens => '+',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Narrows => "narrower",
            Self::Neutral => "",
            Self::Review => "look",
            Self::Widens => "**wider**",
        }
    }
}

impl Writes {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Destroys => "writes, destructive",
            Self::Reads => "reads",
            Self::Writes => "writes",
        }
    }
}

fn ticks(sentence: &str) -> String {
    sentence.replace([OPEN, CLOSE], "`")
}

/// [`plain`] for several.
pub(super) fn plains<S: Serializer>(
    sentences: &[String],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(sentences.iter().map(|sentence| ticks(sentence)))
}

/// Serializes a sentence with backticks around its names.
pub(super) fn plain<S: Serializer>(sentence: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&ticks(sentence))
}

fn title(diff: &Diff) -> String {
    if diff.no_change_of_access() {
        return match diff.counts.review {
            0 => "no change of access".to_owned(),
            more => format!("no change of access, {more} to look at"),
        };
    }
    let counts = &diff.counts;
    let mut parts = Vec::new();
    if counts.gained > 0 {
        let writes = match counts.gained_writes {
            0 => String::new(),
            count => format!(" ({count} that write)"),
        };
        parts.push(format!("{} gained{writes}", counts.gained));
    }
    for (count, word) in [
        (counts.lost, "lost"),
        (counts.widen, "wider otherwise"),
        (counts.narrow, "narrower otherwise"),
        (counts.review, "to look at"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    parts.join(", ")
}

fn thing(item: &Item) -> String {
    let path = format!("{}/{}", item.server, item.name);
    match item.kind {
        "tool" => path,
        kind => format!("{kind} {path}"),
    }
}

fn state(role: &RoleDiff) -> &'static str {
    match role.state {
        State::Added => ", new",
        State::Kept => "",
        State::Removed => ", removed",
    }
}

/// Adds a line to a `String`.
macro_rules! put {
    ($out:expr, $($part:tt)*) => {{
        $out.push_str(&format!($($part)*));
        $out.push('\n');
    }};
}

pub(super) fn text(diff: &Diff) -> String {
    let mut out = String::new();
    put!(out, "{}: {}.", diff.compared, title(diff));
    for note in &diff.notes {
        put!(out, "note: {}", ticks(note));
    }
    for role in &diff.roles {
        let shown = |names: &[String]| {
            let names: Vec<String> = names.iter().map(|name| text::short(name, NAME)).collect();
            match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            }
        };
        put!(out, "\nrole {}{}", role.role, state(role));
        put!(
            out,
            "  held by groups {}; agents {}",
            shown(&role.groups),
            shown(&role.agents)
        );
        for (sign, items) in [('+', &role.gains), ('-', &role.losses)] {
            for item in items.iter().take(ITEMS) {
                let mut line = format!("  {sign} {}", text::short(&thing(item), NAME));
                line.push_str(&format!("  {}", item.writes.word()));
                if sign == '+' {
                    let by = text::short(&item.approved_by, NAME);
                    line.push_str(&format!(", {} by {by}", text::short(&item.source, NAME)));
                    if let Some(until) = &item.until {
                        line.push_str(&format!(", until {until}"));
                    }
                }
                put!(out, "{line}");
            }
            if let Some(more) = more(items) {
                put!(out, "  {sign} {more}");
            }
        }
        lines(&mut out, &role.changes);
    }
    for section in &diff.sections {
        put!(out, "\n{}", section.title);
        lines(&mut out, &section.changes);
    }
    out
}

fn lines(out: &mut String, changes: &[Change]) {
    for change in changes.iter().take(CHANGES) {
        put!(
            out,
            "  {} {}",
            change.effect.sign(),
            ticks(&change.sentence)
        );
        for edit in change.edits.iter().take(EDITS) {
            put!(out, "      {}", edit.path);
            for (sign, value) in [('-', &edit.was), ('+', &edit.is)] {
                if let Some(value) = value {
                    put!(out, "        {sign} {}", text::short(value, 400));
                }
            }
        }
        rest(out, "      ", change.edits.len(), EDITS);
    }
    rest(out, "  ", changes.len(), CHANGES);
}

fn rest(out: &mut String, indent: &str, there: usize, shown: usize) {
    if there > shown {
        put!(out, "{indent}and {} more; --json has all", there - shown);
    }
}

fn more(items: &[Item]) -> Option<String> {
    let rest = items.get(ITEMS..).filter(|rest| !rest.is_empty())?;
    let writes = rest.iter().filter(|i| i.writes != Writes::Reads).count();
    let all = rest.len();
    Some(format!(
        "and {all} more, {writes} that write; --json has all"
    ))
}

pub(super) fn markdown(diff: &Diff) -> String {
    let mut out = String::new();
    put!(out, "### Access: {}", title(diff));
    put!(out, "\n{}", element(&diff.compared));
    for note in &diff.notes {
        put!(out, "\n> {}", marked(note));
    }
    for role in &diff.roles {
        let shown = |names: &[String]| {
            let names: Vec<String> = names.iter().take(50).map(|name| element(name)).collect();
            match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            }
        };
        put!(
            out,
            "\n#### Role {}{}",
            element(role.role.as_str()),
            state(role)
        );
        put!(
            out,
            "\nHeld by groups {}; agents {}.",
            shown(&role.groups),
            shown(&role.agents)
        );
        if !(role.gains.is_empty() && role.losses.is_empty()) {
            put!(out, "\n| | what | does | granted by |\n|---|---|---|---|");
        }
        for (sign, items) in [("**gains**", &role.gains), ("loses", &role.losses)] {
            for item in items.iter().take(ITEMS) {
                let does = match item.writes {
                    Writes::Reads => "reads".to_owned(),
                    writes => format!("**{}**", writes.word()),
                };
                let mut by = format!("{} {}", element(&item.source), element(&item.approved_by));
                if let Some(until) = &item.until {
                    by.push_str(&format!(", until {until}"));
                }
                put!(
                    out,
                    "| {sign} | {} | {does} | {by} |",
                    element(&thing(item))
                );
            }
            if let Some(more) = more(items) {
                put!(out, "| {sign} | {more} | | |");
            }
        }
        bullets(&mut out, &role.changes);
    }
    for section in &diff.sections {
        put!(out, "\n#### {}", section.title);
        bullets(&mut out, &section.changes);
    }
    out
}

fn bullets(out: &mut String, changes: &[Change]) {
    if !changes.is_empty() {
        out.push('\n');
    }
    for change in changes.iter().take(CHANGES) {
        let word = match change.effect.word() {
            "" => String::new(),
            word => format!("{word}: "),
        };
        put!(out, "- {word}{}", marked(&change.sentence));
        for edit in change.edits.iter().take(EDITS) {
            let value = |value: &Option<String>| match value {
                Some(value) => element(value),
                None => "nothing".to_owned(),
            };
            let (path, was, is) = (element(&edit.path), value(&edit.was), value(&edit.is));
            put!(out, "  - {path}: {was} → {is}");
        }
        rest(out, "  - ", change.edits.len(), EDITS);
    }
    rest(out, "- ", changes.len(), CHANGES);
}

/// A sentence of ours with its names as elements.
fn marked(sentence: &str) -> String {
    let mut out = String::new();
    let mut rest = sentence;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let (name, after) = after.split_once(CLOSE).unwrap_or((after, ""));
        out.push_str(&escaped(before));
        out.push_str(&element(name));
        rest = after;
    }
    out.push_str(&escaped(rest));
    out
}

fn element(text: &str) -> String {
    format!("<code>{}</code>", escaped(&text::short(text, NAME)))
}

/// Writes every ASCII character that is not a letter, digit, blank or a harmless sign as a number:
/// such a character is text wherever it stands (`CommonMark` 0.31 §2.5).
fn escaped(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let word = |c: Option<&char>| c.is_some_and(char::is_ascii_alphanumeric);
        let inner = before.is_ascii_alphanumeric() && word(chars.peek());
        let plain = match c {
            ' ' | ',' | '/' | ';' => true,
            // within a word they mean nothing
            '_' | '-' => inner,
            c => c.is_ascii_alphanumeric() || !c.is_ascii(),
        };
        match plain {
            true => out.push(c),
            false => out.push_str(&format!("&#{};", u32::from(c))),
        }
        before = c;
    }
    out
}
