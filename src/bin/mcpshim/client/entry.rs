//! One entry of a client's list of servers, and what can be done to it.

/// The name of our entry, in every client.
pub(super) const NAME: &str = "mcpshim";

/// A server as a client's file lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name in the client.
    pub(crate) name: String,
    /// What is started, if it is a program.
    pub(crate) command: Option<String>,
    /// With which arguments.
    pub(crate) args: Vec<String>,
    /// Where it is, if it is on the network.
    pub(crate) url: Option<String>,
    /// The names of the variables it is given. Their values may be secrets and are not kept.
    pub(crate) variables: Vec<String>,
    /// Whether the client was told not to start it.
    pub(crate) disabled: bool,
    /// What kind of server its entry says it is.
    pub(crate) kind: Option<String>,
    /// Where it is, from 1.
    pub(crate) line: usize,
}

impl Entry {
    /// Whether it starts mcpshim, wherever that lies.
    pub(crate) fn is_ours(&self) -> bool {
        self.command.as_deref().is_some_and(is_mcpshim) && self.args == ["serve"]
    }

    /// Whether a client that reads it starts this program, and nothing else with it.
    pub(super) fn is_right(&self, command: &str) -> bool {
        self.command.as_deref() == Some(command)
            && self.args == ["serve"]
            && self.loaders().next().is_none()
            && self.url.is_none()
            && !self.disabled
            && self.kind.as_deref().is_none_or(|kind| kind == STDIO)
    }

    /// Whether it is our entry, however wrong: what a person has set in it stays.
    pub(super) fn is_about_us(&self) -> bool {
        self.command.as_deref().is_some_and(is_mcpshim)
    }

    /// The variables that put other code into the program.
    pub(crate) fn loaders(&self) -> impl Iterator<Item = &str> {
        self.variables
            .iter()
            .map(String::as_str)
            .filter(|name| is_loader(name))
    }

    /// What it starts, for people. Arguments of others may hold secrets and are not shown.
    pub(crate) fn shown(&self) -> String {
        match (&self.command, &self.url) {
            (Some(command), _) if self.is_ours() && self.loaders().next().is_some() => {
                let loaders: Vec<&str> = self.loaders().collect();
                format!("{command} with {}", loaders.join(", "))
            }
            (Some(command), _) if self.disabled => format!("{command}, disabled"),
            (Some(command), _) => command.clone(),
            (None, Some(_)) => "a server on the network".to_owned(),
            (None, None) => "nothing that can be started".to_owned(),
        }
    }
}

/// The kind of server that a client starts.
pub(super) const STDIO: &str = "stdio";

/// Whether a variable tells a dynamic linker to load other code.
pub(super) fn is_loader(name: &str) -> bool {
    name.starts_with("LD_") || name.starts_with("DYLD_")
}

/// More steps than an entry can need.
const STEPS: usize = 64;

/// Puts an entry right member by member, each step on a text that was read anew. A step that
/// changes nothing ends it.
pub(super) fn in_steps(
    text: &str,
    mut step: impl FnMut(&str) -> Result<Option<(String, &'static str)>, Trouble>,
) -> Result<(String, Vec<&'static str>), Trouble> {
    let (mut text, mut changed) = (text.to_owned(), Vec::new());
    for _ in 0..STEPS {
        let Some((next, member)) = step(&text)? else {
            break;
        };
        text = next;
        if !changed.contains(&member) {
            changed.push(member);
        }
    }
    Ok((text, changed))
}

/// Whether a command's file is called mcpshim.
fn is_mcpshim(command: &str) -> bool {
    let file = command.rsplit(['/', '\\']).next().unwrap_or(command);
    let stem = file.strip_suffix(".exe").unwrap_or(file);
    stem == "mcpshim"
}

/// What installing would do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The entry was not there.
    Added(String),
    /// It was there, and wrong.
    Replaced {
        /// The new text.
        text: String,
        /// What it started.
        was: String,
        /// The members that were changed; empty where the whole entry was written anew, because it
        /// started something else.
        changed: Vec<&'static str>,
    },
    /// It is right.
    Same,
}

/// What removing would do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// There is none.
    Absent,
    /// The file was made for the entry and holds nothing else.
    File,
    /// There is one under our name that starts something else.
    Foreign(String),
    /// The new text.
    Text(String),
}

/// Why a file is left as it is: where, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub(crate) struct Trouble {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) what: String,
}

impl Trouble {
    /// Something wrong at a byte of a text.
    pub(super) fn at(text: &str, at: usize, what: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let what = what.into();
        Self { line, column, what }
    }

    /// A shape that cannot be edited by cutting and inserting.
    pub(super) fn by_hand(text: &str, at: usize) -> Self {
        Self::at(
            text,
            at,
            "the list is written in a way that only a person can edit safely",
        )
    }
}

/// The one line end of a text: the first, or the usual one.
pub(super) fn newline(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text.as_bytes().get(at.wrapping_sub(1)) == Some(&b'\r') => "\r\n",
        _ => "\n",
    }
}

/// Cuts and inserts, from the end so that places hold. Edits may touch but not overlap; those at
/// one place happen in their order.
pub(super) fn apply(text: &str, mut edits: Vec<(std::ops::Range<usize>, String)>) -> String {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut out = String::with_capacity(text.len() + 256);
    let mut from = 0;
    for (range, insert) in edits {
        out.push_str(text.get(from..range.start).unwrap_or_default());
        out.push_str(&insert);
        from = range.end.max(from);
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_known_by_what_it_starts() {
        let entry = |command: &str, args: &[&str]| Entry {
            command: Some(command.to_owned()),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            ..Entry::default()
        };
        for ours in [
            "mcpshim",
            "/usr/bin/mcpshim",
            r"C:\Program Files\m\mcpshim.exe",
        ] {
            assert!(entry(ours, &["serve"]).is_ours(), "{ours}");
            assert!(!entry(ours, &["serve", "-v"]).is_ours());
            assert!(!entry(ours, &[]).is_ours());
        }
        assert!(!entry("/usr/bin/mcpshim-admin", &["serve"]).is_ours());
        assert!(!entry("/usr/bin/mcpshim/x", &["serve"]).is_ours());
        let mut other = entry("mcpshim", &["serve"]);
        assert!(other.is_right("mcpshim"));
        other.variables.push("MCPSHIM_STATE".to_owned());
        assert!(
            other.is_right("mcpshim"),
            "what a person gives it is theirs"
        );
        other.variables.push("LD_PRELOAD".to_owned());
        assert!(other.is_ours() && !other.is_right("mcpshim"));
        assert_eq!(other.shown(), "mcpshim with LD_PRELOAD");
    }

    #[test]
    fn places_are_told_as_editors_show_them() {
        let trouble = Trouble::at("a\nä{", 4, "x");
        assert_eq!((trouble.line, trouble.column), (2, 2));
        assert_eq!(newline("a\r\nb\n"), "\r\n");
        assert_eq!(newline("\n"), "\n");
        assert_eq!(newline(""), "\n");
    }
}
