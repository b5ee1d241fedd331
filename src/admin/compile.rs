//! From sources to documents: globs become names, roles become tables.

use std::collections::BTreeMap;

use serde::Serialize;

use super::TargetSet;
use super::problem::{At, Problems, Sink, Spot, suggest};
use super::source::{Grant, Revocations, Server, Sources};
use crate::limits;
use crate::pin::Kind;
use crate::policy::pattern::Pattern;
use crate::registry::doc::{FORMAT, GrantTable, PinMode, PolicyDoc, RoleDoc, RuleDoc};
use crate::text::printable;

/// Builds the documents. `None` when there is no organisation; problems are added.
pub(super) fn documents(sources: &mut Sources) -> Option<TargetSet> {
    let mut problems = std::mem::take(&mut sources.problems);
    let set = build(sources, &mut problems);
    sources.problems = problems;
    set
}

fn build(sources: &Sources, problems: &mut Problems) -> Option<TargetSet> {
    let policy = policy(sources, problems);
    let org = &sources.org.as_ref()?.doc;
    let mut set = TargetSet {
        org: org.org.clone(),
        files: BTreeMap::new(),
    };
    let mut add = |name: String, source: &str, bytes: Result<Vec<u8>, serde_json::Error>| {
        let mut sink = Sink {
            file: source,
            problems,
        };
        let top = At::default();
        match bytes {
            Ok(bytes) if bytes.len() > limits::TARGET_BYTES => {
                let (len, most) = (bytes.len(), limits::TARGET_BYTES);
                let message = format!("{name} has {len} bytes, expected at most {most}");
                sink.error(
                    top,
                    "too-large",
                    message,
                    "offer fewer tools through one server",
                );
            }
            Ok(bytes) => drop(set.files.insert(name, bytes)),
            Err(error) => {
                let message = format!("{name} cannot be written: {error}");
                sink.error(
                    top,
                    "document",
                    message,
                    "report this as a fault of mcpshim-admin",
                );
            }
        }
    };
    add("org.json".to_owned(), "org.yaml", json(org));
    add("policy.json".to_owned(), "roles", json(&policy));
    let revoked = Revocations::doc(sources.revocations.as_ref());
    add(
        "revocations.json".to_owned(),
        "revocations.yaml",
        json(&revoked),
    );
    for server in &sources.servers {
        let mut doc = server.doc.clone();
        if doc.pin != PinMode::Off {
            doc.surface = server.pin.as_ref().map(|pin| pin.surface.clone());
        }
        add(format!("server-{}.json", doc.id), &server.file, json(&doc));
    }
    Some(set)
}

fn json<T: Serialize>(doc: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(doc)
}

fn policy(sources: &Sources, problems: &mut Problems) -> PolicyDoc {
    let mut policy = PolicyDoc {
        format: FORMAT,
        min_reader: FORMAT,
        roles: BTreeMap::new(),
        agents: BTreeMap::new(),
        rules: Vec::new(),
        grants: BTreeMap::new(),
    };
    for agent in &sources.agents {
        let mut doc = agent.doc.clone();
        let has = |role: &&super::source::Role| {
            role.agents
                .iter()
                .any(|name| name.value == agent.name.as_str())
        };
        doc.roles = sources
            .roles
            .iter()
            .filter(has)
            .map(|role| role.name.clone())
            .collect();
        policy.agents.insert(agent.name.clone(), doc);
    }
    let help = sources
        .org
        .as_ref()
        .map(|org| org.doc.help.clone())
        .unwrap_or_default();
    for role in &sources.roles {
        let ask = match role.doc.ask.is_empty() {
            true => help.clone(),
            false => role.doc.ask.clone(),
        };
        let doc = RoleDoc {
            ask,
            ..role.doc.clone()
        };
        policy.roles.insert(role.name.clone(), doc);
        let mut tables = BTreeMap::new();
        for grant in &role.grants {
            // an unknown key was reported
            let Some(server) = sources.server(&grant.server.value) else {
                continue;
            };
            let rule = u32::try_from(policy.rules.len()).unwrap_or(u32::MAX);
            policy.rules.push(RuleDoc {
                id: format!("{}/{}#{}", role.name, server.doc.key, grant.number),
                source: format!("{}:{}", role.file, grant.at.line),
                approved_by: grant.approved_by.value.clone(),
                approved_at: grant.approved_at.value.clone(),
                not_after: grant.expires.as_ref().map(|spot| spot.value),
            });
            let mut sink = Sink {
                file: &role.file,
                problems,
            };
            let table: &mut GrantTable = tables.entry(server.doc.key.clone()).or_default();
            expand(server, grant, rule, &policy.rules, table, &mut sink);
        }
        policy.grants.insert(role.name.clone(), tables);
    }
    policy
}

/// Adds one grant to the table of its role and server.
fn expand(
    server: &Server,
    grant: &Grant,
    rule: u32,
    rules: &[RuleDoc],
    table: &mut GrantTable,
    sink: &mut Sink<'_>,
) {
    for spot in &grant.resources {
        if spot.value != "*" && !offers_resources(server, &spot.value) {
            let (glob, key) = (&spot.value, &server.doc.key);
            let message = format!("`{glob}` matches no resource or template of `{key}`");
            let fix = "take it out, unless the server has resources that it does not list";
            sink.warning(spot.at, "matches-nothing", message, fix);
        }
        table.resources.push((spot.value.clone(), rule));
    }
    let lists = [
        (
            Kind::Tool,
            &grant.tools,
            &mut table.tools,
            &mut table.tool_globs,
        ),
        (
            Kind::Prompt,
            &grant.prompts,
            &mut table.prompts,
            &mut table.prompt_globs,
        ),
    ];
    for (kind, spots, names, globs) in lists {
        for spot in spots {
            if server.doc.pin == PinMode::Off {
                match spot.value.contains('*') {
                    true => globs.push((spot.value.clone(), rule)),
                    false => put(names, spot.value.clone(), rule, rules),
                }
                continue;
            }
            for name in matching(server, kind, spot, sink) {
                put(names, name, rule, rules);
            }
        }
    }
}

/// Where two grants give the same, the one that lasts longer counts; then the first.
fn put(names: &mut BTreeMap<String, u32>, name: String, rule: u32, rules: &[RuleDoc]) {
    let until = |rule: u32| {
        let rule = usize::try_from(rule).ok().and_then(|i| rules.get(i));
        rule.and_then(|rule| rule.not_after).unwrap_or(u64::MAX)
    };
    let old = names.entry(name).or_insert(rule);
    if until(rule) > until(*old) {
        *old = rule;
    }
}

/// The pinned names that a name or glob of a grant means.
fn matching(server: &Server, kind: Kind, spot: &Spot<String>, sink: &mut Sink<'_>) -> Vec<String> {
    // a missing or broken pin was reported; without it nothing can be said
    let Some(pin) = server.pin.as_ref().filter(|_| !server.pin_broken) else {
        return Vec::new();
    };
    let (key, word, wanted) = (&server.doc.key, kind.word(), &spot.value);
    let names = || {
        kind.of(&pin.surface)
            .iter()
            .map(|entry| entry.name.as_str())
    };
    let pattern = Pattern::glob(wanted);
    let found: Vec<String> = names()
        .filter(|name| pattern.matches(name))
        .map(str::to_owned)
        .collect();
    if !found.is_empty() {
        return found;
    }
    if let Some(reason) = pin.surface.quarantined.get(wanted)
        && kind == Kind::Tool
    {
        let message = format!("`{wanted}` of `{key}` is quarantined: {reason}");
        let fix = "take it out, and tell the server's owner";
        sink.error(spot.at, "quarantined-tool", message, fix);
        return found;
    }
    if wanted == "*" {
        // all there is, and there is nothing
        return found;
    }
    if wanted.contains('*') {
        let message = format!("`{wanted}` matches no pinned {word} of `{key}`");
        let some: Vec<String> = names()
            .take(5)
            .map(|name| format!("`{}`", printable(name)))
            .collect();
        let fix = match some.is_empty() {
            true => format!("take it out: the server has no {word}s"),
            false => format!("take it out, or correct it; there are {}", some.join(", ")),
        };
        sink.error(spot.at, "matches-nothing", message, fix);
    } else {
        let message = format!("`{wanted}` is not a pinned {word} of `{key}`");
        let exposed = |entry: &&crate::registry::doc::Pinned| {
            entry
                .exposed
                .as_ref()
                .is_some_and(|exposed| exposed.as_str() == wanted)
        };
        let by_exposed = kind.of(&pin.surface).iter().find(exposed);
        let meant = by_exposed.map(|entry| entry.name.as_str());
        let fix = match meant {
            Some(meant) => format!("did you mean `{}`?", printable(meant)),
            None => suggest(wanted, names(), &format!("pin `{key}` again if it is new")),
        };
        let rule = if kind == Kind::Prompt {
            "unknown-prompt"
        } else {
            "unknown-tool"
        };
        sink.error(spot.at, rule, message, fix);
    }
    found
}

/// Whether some resource that the server is known to have can be meant. One with the capability
/// but without any list is taken at its word.
fn offers_resources(server: &Server, glob: &str) -> bool {
    let Some(pin) = &server.pin else { return true };
    let surface = &pin.surface;
    if surface.resources.is_empty() && surface.templates.is_empty() {
        let capabilities = surface.capabilities.as_deref().map(|raw| raw.get());
        let parsed = capabilities.and_then(|text| crate::pin::canon::Json::parse(text).ok());
        return parsed.is_some_and(|json| json.get("resources").is_some());
    }
    let glob = Pattern::glob(glob);
    surface
        .resources
        .iter()
        .any(|entry| glob.matches(&entry.name))
        || surface
            .templates
            .iter()
            .any(|entry| glob.meets(&Pattern::template(&entry.name)))
}
