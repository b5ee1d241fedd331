//! The table of settings: the one place where a key is declared.

use serde::Serialize;

/// The type of a value. Each may also be given as text, which is all that some device management
/// can deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Type {
    /// A whole number from 0 on.
    Integer,
    /// Text.
    String,
}

/// One setting.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its name in files.
    pub name: &'static str,
    /// The variable that sets it where nothing is managed.
    pub variable: Option<&'static str>,
    /// The type of its values.
    #[serde(rename = "type")]
    pub typ: Type,
    /// What a value looks like.
    pub kind: &'static str,
    /// What holds without one; empty when one must be given.
    pub default: &'static str,
    /// The first version that knows it.
    pub since: &'static str,
    /// Whether a value that cannot be read stops everything.
    pub security: bool,
    /// Whether a change is seen by running programs only after a restart.
    pub restart: bool,
    /// What it is for, one line.
    pub summary: &'static str,
}

/// Every setting, by name.
pub const KEYS: &[Key] = &[
    Key {
        name: "agent",
        variable: Some("MCPSHIM_AGENT"),
        typ: Type::String,
        kind: "agent name",
        default: "none: the caller is the person who is signed in",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "the agent this machine or pipeline runs as",
    },
    Key {
        name: "agent_key",
        variable: Some("MCPSHIM_AGENT_KEY"),
        typ: Type::String,
        kind: "absolute path",
        default: "agents/<agent>.key in state_dir",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "the file that holds the agent's private key",
    },
    Key {
        name: "ca_file",
        variable: None,
        typ: Type::String,
        kind: "paths of PEM files, or the PEM itself",
        default: "none",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "certificate authorities that are trusted beside those of the system",
    },
    Key {
        name: "log_level",
        variable: None,
        typ: Type::String,
        kind: "error, warn, info, debug or trace",
        default: "info",
        since: "0.1.0",
        security: false,
        restart: true,
        summary: "what goes to the local log",
    },
    Key {
        name: "min_root_version",
        variable: None,
        typ: Type::Integer,
        kind: "number",
        default: "0",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "the lowest version of the root metadata that is accepted",
    },
    Key {
        name: "min_timestamp_version",
        variable: None,
        typ: Type::Integer,
        kind: "number",
        default: "0",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "the lowest version of the timestamp metadata that is accepted",
    },
    Key {
        name: "no_proxy",
        variable: None,
        typ: Type::String,
        kind: "host names, domains, addresses and networks, with commas between",
        default: "none; loopback is never reached through a proxy",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "what is reached without the proxy",
    },
    Key {
        name: "org",
        variable: None,
        typ: Type::String,
        kind: "organisation id",
        default: "",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "the organisation whose registry is accepted",
    },
    Key {
        name: "path",
        variable: None,
        typ: Type::String,
        kind: "absolute directories",
        default: "what PATH says, its absolute directories on a managed machine",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "where the programs of servers are looked for",
    },
    Key {
        name: "proxy",
        variable: None,
        typ: Type::String,
        kind: "none, system, or http://host:port",
        default: "none",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "through what other machines are reached; never taken from the environment",
    },
    Key {
        name: "registry_url",
        variable: None,
        typ: Type::String,
        kind: "https://, file:///, or http:// on loopback",
        default: "",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "where the registry is published",
    },
    Key {
        name: "root",
        variable: None,
        typ: Type::String,
        kind: "path of a file, or the metadata itself",
        default: "",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "the root metadata that all trust starts from",
    },
    Key {
        name: "state_dir",
        variable: Some("MCPSHIM_STATE"),
        typ: Type::String,
        kind: "absolute path, or ~/…",
        default: "a directory per machine and organisation in the user's data directory",
        since: "0.1.0",
        security: true,
        restart: true,
        summary: "everything mcpshim keeps for this user; never shared between machines",
    },
];

/// Everything about the keys that packages for device management are made from.
#[must_use]
pub fn schema() -> serde_json::Value {
    serde_json::json!({
        "format": "mcpshim settings 1",
        "version": env!("CARGO_PKG_VERSION"),
        "sources": {
            "linux": "/etc/mcpshim/managed.toml",
            "macos": "com.mcpshim",
            "windows": r"HKEY_LOCAL_MACHINE\SOFTWARE\Policies\mcpshim",
        },
        "keys": KEYS,
    })
}

/// The key of this name.
pub(super) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known name that is nearest to an unknown one, if any is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    near(name, KEYS.iter().map(|key| key.name))
}

/// The word of several that is nearest to one that is none of them, if any is near.
pub fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter();
    known
        .map(|known| (distance(word, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein distance, by rows; names are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            left = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(KEYS.is_sorted_by(|a, b| a.name < b.name));
    }

    /// `docs/configuration.md` has exactly the rows that the table gives.
    #[test]
    fn the_page_and_the_table_are_the_same() {
        let rows: String = KEYS
            .iter()
            .map(|key| {
                format!(
                    "| `{}` | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                    key.name,
                    match key.typ {
                        Type::Integer => "integer",
                        Type::String => "string",
                    },
                    key.kind,
                    if key.default.is_empty() {
                        "must be set"
                    } else {
                        key.default
                    },
                    key.variable
                        .map_or_else(|| "-".to_owned(), |name| format!("`{name}`")),
                    if key.security { "yes" } else { "no" },
                    if key.restart { "yes" } else { "no" },
                    key.since,
                    key.summary,
                )
            })
            .collect();
        let page = include_str!("../../docs/configuration.md");
        let start = page.find("|---|\n").unwrap() + "|---|\n".len();
        let there: String = page[start..]
            .lines()
            .take_while(|line| line.starts_with('|'))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(there, rows, "the rows should be:\n{rows}");
    }

    /// The sources of the schema are those that are read.
    #[test]
    fn the_schema_names_the_place() {
        let place = super::super::managed::PLACE;
        let sources = schema()["sources"].clone();
        assert_eq!(sources[std::env::consts::OS], place);
        assert_eq!(schema()["keys"][0]["type"], "string");
    }

    #[test]
    fn a_slip_finds_its_key() {
        assert_eq!(nearest("registry-url"), Some("registry_url"));
        assert_eq!(nearest("registryurl"), Some("registry_url"));
        assert_eq!(nearest("rot"), Some("root"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
    }
}
