//! Names that a question may mean: those in the record, and those in the registry.
//!
//! A name that nobody knows is an error with the nearest known one; a name that the registry has
//! and the record has not is answered with words. Names of strangers are no suggestions, for
//! anybody can make them up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::filter::{Filter, is_person, is_tool};
use crate::collector::files;
use crate::registry::doc::Registry;

/// Names that are remembered of one kind, to suggest.
const NAMES: usize = 100_000;

/// What a name names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Agent,
    Credential,
    Person,
    Server,
    Tool,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Credential => "credential",
            Self::Person => "person",
            Self::Server => "server",
            Self::Tool => "tool",
        }
    }

    /// The members of a record that hold such a name.
    fn members(self) -> &'static [&'static str] {
        match self {
            Self::Agent => &["agent"],
            Self::Credential => &["credential"],
            Self::Person => &["person", "subject"],
            Self::Server => &["server", "server_id"],
            Self::Tool => &["tool", "exposed"],
        }
    }

    fn is_meant(self, view: &Value, wanted: &str) -> bool {
        match self {
            Self::Person => is_person(view, wanted),
            Self::Tool => is_tool(view, wanted),
            Self::Agent | Self::Credential | Self::Server => self
                .members()
                .iter()
                .any(|name| view.get(*name).and_then(Value::as_str) == Some(wanted)),
        }
    }
}

/// A name that is in no record and not in the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no record of {kind} {name}{}", .near.as_ref().map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
pub struct UnknownName {
    kind: &'static str,
    name: String,
    near: Option<String>,
}

/// One name that was asked for.
#[derive(Debug)]
struct Wanted<'f> {
    kind: Kind,
    name: &'f str,
    is_seen: bool,
    known: BTreeSet<String>,
}

/// The names that were asked for, while the record is read.
#[derive(Debug)]
pub(super) struct Names<'f>(Vec<Wanted<'f>>);

impl<'f> Names<'f> {
    pub(super) fn of(filter: &'f Filter) -> Self {
        let asked = [
            (Kind::Agent, &filter.agent),
            (Kind::Credential, &filter.credential),
            (Kind::Person, &filter.person),
            (Kind::Server, &filter.server),
            (Kind::Tool, &filter.tool),
        ];
        let asked = asked.into_iter().filter_map(|(kind, name)| {
            Some(Wanted {
                kind,
                name: name.as_deref()?,
                is_seen: false,
                known: BTreeSet::new(),
            })
        });
        Self(asked.collect())
    }

    /// Takes note of a record.
    pub(super) fn observe(&mut self, view: &Value, is_stranger: bool) {
        for wanted in self.0.iter_mut().filter(|wanted| !wanted.is_seen) {
            if wanted.kind.is_meant(view, wanted.name) {
                wanted.is_seen = true;
                continue;
            }
            if is_stranger || wanted.known.len() >= NAMES {
                continue;
            }
            for member in wanted.kind.members() {
                if let Some(name) = view.get(*member).and_then(Value::as_str)
                    && !wanted.known.contains(name)
                {
                    wanted.known.insert(name.to_owned());
                }
            }
        }
    }

    /// Judges the names that are in no record: words for those that the registry has.
    pub(super) fn judge(self, root: &Path) -> Result<Vec<String>, UnknownName> {
        let mut words = Vec::new();
        let unseen = self.0.into_iter().filter(|wanted| !wanted.is_seen);
        let mut registry = None;
        for wanted in unseen {
            let registry = registry.get_or_insert_with(|| RegistryNames::load(root));
            let noun = wanted.kind.noun();
            let listed = registry.of(wanted.kind);
            if listed.iter().any(|name| name == wanted.name) {
                words.push(format!(
                    "{noun} {} is in the registry, and there is no record of it here",
                    wanted.name
                ));
                continue;
            }
            let known = wanted.known.iter().map(String::as_str);
            let known = known.chain(listed.iter().map(String::as_str));
            return Err(UnknownName {
                kind: noun,
                near: nearest(wanted.name, known).map(str::to_owned),
                name: wanted.name.chars().take(80).collect(),
            });
        }
        Ok(words)
    }
}

/// `registry-names.json`: the names in the registry the collector judges by, for those who ask.
///
/// Nothing is decided by it. Losing it costs the words about names without a record; whoever can
/// write it can make a name look known that is not.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryNames {
    agents: Vec<String>,
    credentials: Vec<String>,
    servers: Vec<String>,
    tools: Vec<String>,
}

impl RegistryNames {
    fn path(root: &Path) -> PathBuf {
        root.join("registry-names.json")
    }

    /// The names of a registry.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let mut names: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
        let mut put = |kind, name: String| names.entry(kind).or_default().insert(name);
        for agent in registry.policy.agents.keys() {
            put(Kind::Agent, agent.to_string());
        }
        for server in registry.servers.values() {
            put(Kind::Server, server.key.to_string());
            put(Kind::Server, server.id.to_string());
            if let Some(credential) = &server.credential {
                put(Kind::Credential, credential.id.to_string());
            }
            let tools = server.surface.iter().flat_map(|surface| &surface.tools);
            for tool in tools {
                put(Kind::Tool, format!("{}/{}", server.key, tool.name));
                put(Kind::Tool, tool.name.clone());
                if let Some(exposed) = &tool.exposed {
                    put(Kind::Tool, exposed.to_string());
                }
            }
        }
        let mut take = |kind| {
            names
                .remove(&kind)
                .unwrap_or_default()
                .into_iter()
                .collect()
        };
        Self {
            agents: take(Kind::Agent),
            credentials: take(Kind::Credential),
            servers: take(Kind::Server),
            tools: take(Kind::Tool),
        }
    }

    /// Writes them down for those who read the directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, root: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        files::replace(&Self::path(root), &text)
    }

    fn load(root: &Path) -> Self {
        let text = std::fs::read(Self::path(root)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn of(&self, kind: Kind) -> &[String] {
        match kind {
            Kind::Agent => &self.agents,
            Kind::Credential => &self.credentials,
            Kind::Person => &[],
            Kind::Server => &self.servers,
            Kind::Tool => &self.tools,
        }
    }
}

/// The known word nearest to this one, if any is near enough to be meant.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let fold = |text: &str| text.to_lowercase().replace(['-', '/', ' '], "_");
    // quadratic in the length, so names of ours only
    let word: String = fold(word).chars().take(128).collect();
    let limit = (word.chars().count() / 3).max(1);
    known
        .filter(|known| known.len() <= 256)
        .map(|known| (strsim::osa_distance(&word, &fold(known)), known))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(agent: &str, records: &[(Value, bool)]) -> Result<Vec<String>, String> {
        let root = tempfile::tempdir().unwrap();
        let registry = RegistryNames {
            agents: vec!["weekly".to_owned()],
            ..RegistryNames::default()
        };
        registry.save(root.path()).unwrap();
        let filter = Filter {
            agent: Some(agent.to_owned()),
            ..Filter::default()
        };
        let mut names = Names::of(&filter);
        for (view, is_stranger) in records {
            names.observe(view, *is_stranger);
        }
        names
            .judge(root.path())
            .map_err(|unknown| unknown.to_string())
    }

    #[test]
    fn an_unknown_name_is_told_with_the_near_one() {
        let records = [(json!({"agent": "nightly"}), false)];
        assert_eq!(asked("nightly", &records), Ok(Vec::new()));
        assert_eq!(
            asked("nightyl", &records).unwrap_err(),
            "there is no record of agent nightyl; did you mean nightly?"
        );
        assert_eq!(
            asked("weekyl", &records).unwrap_err(),
            "there is no record of agent weekyl; did you mean weekly?"
        );
        assert_eq!(
            asked("payments", &records).unwrap_err(),
            "there is no record of agent payments"
        );
        assert!(asked("", &records).is_err());
    }

    #[test]
    fn a_name_of_the_registry_without_a_record_is_answered_with_words() {
        let words = asked("weekly", &[]).unwrap();
        assert_eq!(
            words,
            ["agent weekly is in the registry, and there is no record of it here"]
        );
    }

    #[test]
    fn strangers_suggest_nothing_and_are_found_by_name() {
        let made_up = [(json!({"agent": "nightli"}), true)];
        assert_eq!(
            asked("nightly", &made_up).unwrap_err(),
            "there is no record of agent nightly"
        );
        assert_eq!(asked("nightli", &made_up), Ok(Vec::new()));
    }
}
