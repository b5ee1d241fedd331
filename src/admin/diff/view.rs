//! One side, as far as the comparison needs it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Writes;
use crate::admin::TargetSet;
use crate::ids::{AgentName, RoleName, ServerKey};
use crate::pin::Kind;
use crate::registry::doc::{
    AgentDoc, OrgDoc, PinMode, Pinned, PolicyDoc, Registry, RevocationsDoc, RoleDoc, ServerDoc,
};
use crate::registry::{Cause, RegistryError};

/// The documents of one side.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) org: Option<OrgDoc>,
    pub(super) policy: Option<PolicyDoc>,
    pub(super) revocations: RevocationsDoc,
    pub(super) servers: BTreeMap<ServerKey, ServerDoc>,
}

/// What a role may use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Thing {
    pub(super) server: ServerKey,
    pub(super) kind: &'static str,
    pub(super) name: String,
}

/// Under which grant, until when.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) rule: u32,
    pub(super) until: Option<u64>,
}

impl View {
    pub(super) fn of(registry: &Registry) -> Self {
        Self {
            org: Some(registry.org.clone()),
            policy: Some(registry.policy.clone()),
            revocations: registry.revocations.clone(),
            servers: registry
                .servers
                .iter()
                .map(|(key, doc)| (key.clone(), ServerDoc::clone(doc)))
                .collect(),
        }
    }

    /// Reads documents that machines would refuse, for the side that is left behind.
    pub(super) fn guess(set: &TargetSet) -> Result<Self, RegistryError> {
        let mut view = Self {
            org: Some(parse(set, "org.json")?),
            policy: Some(parse(set, "policy.json")?),
            revocations: parse(set, "revocations.json")?,
            servers: BTreeMap::new(),
        };
        for name in set.files.keys().filter(|name| name.starts_with("server-")) {
            let doc: ServerDoc = parse(set, name)?;
            view.servers.insert(doc.key.clone(), doc);
        }
        Ok(view)
    }

    pub(super) fn roles(&self) -> impl Iterator<Item = (&RoleName, &RoleDoc)> {
        self.policy.iter().flat_map(|policy| &policy.roles)
    }

    pub(super) fn role(&self, role: &RoleName) -> Option<&RoleDoc> {
        self.policy.as_ref()?.roles.get(role)
    }

    pub(super) fn agents(&self) -> impl Iterator<Item = (&AgentName, &AgentDoc)> {
        self.policy.iter().flat_map(|policy| &policy.agents)
    }

    /// Agents that have the role and are not revoked.
    pub(super) fn agents_of(&self, role: &RoleName) -> BTreeSet<&AgentName> {
        let agents = self.agents().filter(|(name, doc)| {
            doc.roles.contains(role) && !self.revocations.agents.contains(name)
        });
        agents.map(|(name, _)| name).collect()
    }

    /// Everything a role may use at a second: the tables over what is pinned and not revoked.
    pub(super) fn access(&self, role: &RoleName, now_s: u64) -> BTreeMap<Thing, Held> {
        let mut found = BTreeMap::new();
        let Some(policy) = &self.policy else {
            return found;
        };
        for (key, table) in policy.grants.get(role).into_iter().flatten() {
            let Some(server) = self.servers.get(key) else {
                continue;
            };
            if self.revocations.servers.contains(key) {
                continue;
            }
            let open = server.pin == PinMode::Off;
            let pinned = |kind: Kind, name: &String| {
                let surface = server.surface.as_ref();
                surface.is_some_and(|s| kind.of(s).iter().any(|entry| entry.name == *name))
            };
            let mut add = |kind, name: &String, rule: u32| {
                let doc = usize::try_from(rule).ok().and_then(|i| policy.rules.get(i));
                let until = doc.and_then(|doc| doc.not_after);
                let revoked = self.revocations.tools.iter();
                let mut revoked = revoked.filter(|_| kind == "tool");
                let over = until.is_some_and(|until| until <= now_s);
                if over || revoked.any(|(server, tool)| server == key && tool == name) {
                    return;
                }
                let thing = Thing {
                    server: key.clone(),
                    kind,
                    name: name.clone(),
                };
                let longer =
                    |old: &Held| until.unwrap_or(u64::MAX) <= old.until.unwrap_or(u64::MAX);
                if !found.get(&thing).is_some_and(longer) {
                    found.insert(thing, Held { rule, until });
                }
            };
            for (name, rule) in &table.tools {
                if open || pinned(Kind::Tool, name) {
                    add("tool", name, *rule);
                }
            }
            for (name, rule) in &table.prompts {
                if open || pinned(Kind::Prompt, name) {
                    add("prompt", name, *rule);
                }
            }
            for (glob, rule) in &table.resources {
                add("resources", glob, *rule);
            }
            if open {
                for (glob, rule) in &table.tool_globs {
                    add("tools", glob, *rule);
                }
                for (glob, rule) in &table.prompt_globs {
                    add("prompts", glob, *rule);
                }
            }
        }
        found
    }

    /// What a thing does. What nothing pins is taken to write.
    pub(super) fn writes(&self, thing: &Thing) -> Writes {
        match thing.kind {
            "tool" => {
                let server = self.servers.get(&thing.server);
                let surface = server.and_then(|server| server.surface.as_ref());
                let tools = surface.map(|s| s.tools.as_slice()).unwrap_or_default();
                let tool = tools.iter().find(|tool| tool.name == thing.name);
                tool.map_or(Writes::Writes, writes)
            }
            "tools" => Writes::Writes,
            _ => Writes::Reads,
        }
    }
}

/// What a tool does, by the hints of its definition (MCP 2025-11-25, tool annotations). A hint
/// that is no boolean says nothing.
pub(in crate::admin) fn writes(tool: &Pinned) -> Writes {
    #[derive(Deserialize, Default)]
    struct Definition {
        #[serde(default)]
        annotations: serde_json::Value,
    }
    let definition: Definition = serde_json::from_str(tool.definition.get()).unwrap_or_default();
    let says = |hint: &str| definition.annotations.get(hint) == Some(&true.into());
    match (says("readOnlyHint"), says("destructiveHint")) {
        (true, _) => Writes::Reads,
        (false, true) => Writes::Destroys,
        (false, false) => Writes::Writes,
    }
}

fn parse<T: DeserializeOwned>(set: &TargetSet, name: &str) -> Result<T, RegistryError> {
    let bytes = set.files.get(name).map(Vec::as_slice).unwrap_or_default();
    serde_json::from_slice(bytes).map_err(|error| RegistryError::Document {
        file: name.to_owned(),
        cause: Cause(error.to_string()),
    })
}
