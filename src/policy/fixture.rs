//! Small registries for unit tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Access, Snapshot, SnapshotId};
use crate::clock::Now;
use crate::identity::Caller;
use crate::ids::{Digest, RoleName, ServerKey};
use crate::registry::doc::{
    GrantTable, OrgDoc, PolicyDoc, Registry, RegistryVersion, RevocationsDoc, ServerDoc,
};
use crate::registry::{Freshness, Verified};

/// The Unix second the fixtures live at.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn at(unix_s: u64) -> Now {
    Now {
        wall_us: unix_s * 1_000_000,
        mono_us: 0,
    }
}

/// A registry that is fresh for an hour, with one day of grace and nothing in it.
pub(crate) fn registry() -> Registry {
    let org: OrgDoc = from(json!({
        "format": 1, "min_reader": 1, "org": "acme", "name": "Acme",
        "help": "#mcp-help", "grace_hours": 24,
    }));
    let policy: PolicyDoc = from(json!({
        "format": 1, "min_reader": 1, "roles": {}, "agents": {}, "rules": [], "grants": {},
    }));
    Registry {
        version: RegistryVersion {
            root: 1,
            timestamp: 7,
            snapshot: 3,
            targets: 3,
        },
        digest: Digest::default(),
        expires: NOW + 3600,
        checked: NOW - 60,
        org,
        policy,
        revocations: RevocationsDoc::default(),
        servers: BTreeMap::new(),
    }
}

/// A pinned server. Tools are `(name, readOnlyHint)`.
pub(crate) fn server(
    key: &str,
    pin: &str,
    tools: &[(&str, bool)],
    prompts: &[&str],
    resources: &[&str],
    templates: &[&str],
) -> ServerDoc {
    let digest = Digest::default().to_string();
    let tools: Vec<Value> = tools
        .iter()
        .map(|(name, reads)| {
            json!({
                "name": name, "exposed": format!("{key}_{name}"), "digest": digest,
                "definition": {
                    "description": "d", "name": name, "inputSchema": {"type": "object"},
                    "annotations": {"readOnlyHint": reads},
                },
            })
        })
        .collect();
    let plain = |member: &str, names: &[&str], exposed: bool| -> Vec<Value> {
        let one = |name: &&str| {
            let mut item = json!({
                "name": name, "digest": digest, "definition": {"name": name, member: name},
            });
            if exposed {
                item["exposed"] = json!(format!("{key}_{name}"));
            }
            item
        };
        names.iter().map(one).collect()
    };
    let doc = json!({
        "format": 1, "min_reader": 1, "id": format!("acme.{key}"), "key": key,
        "owner": "team-x", "oncall": "#team-x", "purpose": "tests", "hosted": "self",
        "environment": "dev", "zone": "lan", "pin": pin,
        "transport": {"type": "stdio", "command": "true"},
        "surface": if pin == "off" { Value::Null } else { json!({
            "protocol": "2025-11-25", "instructions": format!("Use {key} well."),
            "tools": tools,
            "prompts": plain("title", prompts, true),
            "resources": plain("uri", resources, false),
            "templates": plain("uriTemplate", templates, false),
        })},
    });
    // by way of text: raw values cannot be read out of a `Value`
    serde_json::from_str(&doc.to_string()).unwrap()
}

impl Registry {
    pub(crate) fn put(&mut self, server: ServerDoc) -> &mut Self {
        self.servers.insert(server.key.clone(), Arc::new(server));
        self
    }

    /// Changes the entry of a server.
    pub(crate) fn edit(&mut self, server: &str, change: impl FnOnce(&mut ServerDoc)) -> &mut Self {
        change(Arc::make_mut(self.servers.get_mut(&key(server)).unwrap()));
        self
    }

    pub(crate) fn put_role(&mut self, role: &str, groups: &[&str]) -> &mut Self {
        let doc = from(json!({
            "title": role, "groups": groups, "ask": format!("{role}-owners"),
        }));
        self.policy.roles.insert(role_name(role), doc);
        self
    }

    pub(crate) fn rule(&mut self, not_after: Option<u64>) -> u32 {
        let at = self.policy.rules.len();
        let doc = from(json!({
            "id": format!("rule#{at}"), "source": format!("roles/r.yaml:{at}"),
            "approved_by": "ann", "approved_at": "2026-11-01", "not_after": not_after,
        }));
        self.policy.rules.push(doc);
        u32::try_from(at).unwrap()
    }

    pub(crate) fn table(&mut self, role: &str, server: &str) -> &mut GrantTable {
        let role = self.policy.grants.entry(role_name(role)).or_default();
        role.entry(key(server)).or_default()
    }

    pub(crate) fn grant(&mut self, role: &str, server: &str, tool: &str) -> &mut Self {
        let rule = self.rule(None);
        let table = self.table(role, server);
        table.tools.insert(tool.to_owned(), rule);
        self
    }
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn role_name(text: &str) -> RoleName {
    RoleName::parse(text).unwrap()
}

pub(crate) fn key(text: &str) -> ServerKey {
    ServerKey::parse(text).unwrap()
}

/// A person with these roles, signed in for an hour.
pub(crate) fn ann(roles: &[&str]) -> Caller {
    Caller::Person {
        issuer: "https://idp.example".to_owned(),
        subject: "ann".to_owned(),
        display: "Ann".to_owned(),
        roles: roles.iter().map(|role| role_name(role)).collect(),
        expires: NOW + 3600,
    }
}

pub(crate) fn snapshot(registry: &Registry, caller: Option<Caller>, now: &Now) -> Snapshot {
    Snapshot::new(
        SnapshotId(1),
        Some(Arc::new(Verified::assume_for_tests(registry.clone()))),
        Freshness::Fresh,
        caller,
        None,
        now,
    )
}

pub(crate) fn tool(server: &str, name: &str) -> Access {
    Access::Tool {
        server: key(server),
        name: name.to_owned(),
    }
}

pub(crate) fn resource(server: &str, uri: &str) -> Access {
    Access::Resource {
        server: key(server),
        uri: uri.to_owned(),
    }
}

pub(crate) fn prompt(server: &str, name: &str) -> Access {
    Access::Prompt {
        server: key(server),
        name: name.to_owned(),
    }
}
