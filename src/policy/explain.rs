//! Why the answer is what it is: the questions of [`decide`] one by one, with rule and source.

use std::collections::BTreeMap;

use serde::Serialize;

use super::denial::who;
use super::pattern::Pattern;
use super::{Access, Decision, Snapshot, decide};
use crate::clock::{Latest, Now, Utc};
use crate::identity::Caller;
use crate::ids::RoleName;
use crate::registry::Freshness;
use crate::registry::doc::{GrantTable, PinMode, Registry, RoleDoc, RuleDoc};

/// A decision with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `server/tool`, or the prompt or resource.
    pub access: String,
    /// Who asks.
    pub caller: String,
    /// What [`decide`] says.
    pub verdict: Verdict,
    /// The questions, in their order.
    pub reasons: Vec<Reason>,
}

/// What [`decide`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Verdict {
    /// It may go.
    Allow {
        /// The role that allows it.
        role: String,
        /// The rule.
        rule: String,
        /// File and line in the registry's sources.
        source: String,
    },
    /// It may not.
    Deny {
        /// The denial's code.
        code: &'static str,
        /// What the client reads.
        sentence: String,
    },
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What was asked: `registry`, `revocations`, `caller`, `surface`, `role <name>`, `freshness`.
    pub question: String,
    /// Whether the answer lets the call go on.
    pub passes: bool,
    /// The answer, one line.
    pub answer: String,
    /// The rule it rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// File and line of that rule in the registry's sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Reason {
    fn new(question: impl Into<String>, passes: bool, answer: impl Into<String>) -> Self {
        Self {
            question: question.into(),
            passes,
            answer: answer.into(),
            rule: None,
            source: None,
        }
    }

    fn by(mut self, rule: &RuleDoc) -> Self {
        self.rule = Some(rule.id.clone());
        self.source = Some(rule.source.clone());
        self
    }
}

/// Explains what [`decide`] answers. The verdict is its answer; the reasons only comment on it.
#[must_use]
pub fn explain(snapshot: &Snapshot, access: &Access, now: &Now) -> Explanation {
    let verdict = match decide(snapshot, access, now) {
        Decision::Allow(permit) => match permit.start(snapshot) {
            Ok(started) => Verdict::Allow {
                role: started.role.to_string(),
                rule: started.rule.id.clone(),
                source: started.rule.source.clone(),
            },
            Err(denial) => Verdict::from(denial),
        },
        Decision::Ask(question) => Verdict::from(question.absurd()),
        Decision::Deny(denial) => Verdict::from(denial),
    };
    let mut reasons = reasons(snapshot, access, now);
    if let (Verdict::Deny { .. }, Some(registry)) = (&verdict, snapshot.registry()) {
        reasons.extend(elsewhere(snapshot, registry, access));
    }
    Explanation {
        access: access.to_string(),
        caller: who(snapshot),
        verdict,
        reasons,
    }
}

impl From<super::Denial> for Verdict {
    fn from(denial: super::Denial) -> Self {
        Self::Deny {
            code: denial.code.as_str(),
            sentence: denial.sentence,
        }
    }
}

fn reasons(snapshot: &Snapshot, access: &Access, now: &Now) -> Vec<Reason> {
    let Some(registry) = snapshot.registry() else {
        let why = snapshot.trouble().unwrap_or("there is none");
        return vec![Reason::new("registry", false, why)];
    };
    let freshness = snapshot.freshness_at(now);
    let version = registry.version.targets;
    let expires = Utc(registry.expires);
    let mut reasons = vec![Reason::new(
        "registry",
        freshness != Freshness::Lapsed,
        match freshness {
            Freshness::Fresh => format!("version {version}, fresh until {expires}"),
            Freshness::Grace => format!("version {version}, expired at {expires}, in grace"),
            Freshness::Lapsed => format!("version {version}, expired at {expires}, grace is over"),
        },
    )];
    reasons.push(revocations(registry, snapshot, access));
    reasons.push(caller(snapshot, now));
    reasons.push(surface(snapshot, registry, access));
    reasons.extend(
        snapshot
            .roles()
            .iter()
            .map(|role| role_reason(registry, role, access, now)),
    );
    if snapshot.roles().is_empty() {
        reasons.push(Reason::new("roles", false, "the caller has none"));
    }
    if freshness == Freshness::Grace {
        let reads = !matches!(
            decide(snapshot, access, now),
            Decision::Deny(denial) if denial.code == super::DenialCode::Stale
        );
        reasons.push(Reason::new(
            "grace",
            reads,
            "while the timestamp is expired, only prompts, resources and tools whose signed \
             definition says readOnlyHint: true",
        ));
    }
    reasons
}

/// A role that has it and that the caller does not have.
fn elsewhere(snapshot: &Snapshot, registry: &Registry, access: &Access) -> Option<Reason> {
    let (role, doc) = role_with(registry, access)?;
    (!snapshot.roles().contains(role)).then(|| {
        let question = format!("role {role} (not the caller's)");
        Reason::new(question, false, format!("would give it: ask {}", doc.ask))
    })
}

fn revocations(registry: &Registry, snapshot: &Snapshot, access: &Access) -> Reason {
    let revoked = &registry.revocations;
    let agent = match snapshot.caller() {
        Some(Caller::Agent { name, .. }) => revoked.agents.contains(name),
        // one that is revoked is nobody, and why stands in the trouble
        None => snapshot.trouble().is_some_and(|trouble| {
            let mut agents = revoked.agents.iter();
            agents.any(|name| trouble.contains(&format!("agent {name} is revoked")))
        }),
        Some(Caller::Person { .. }) => false,
    };
    let tool = match access {
        Access::Tool { server, name } => {
            let mut tools = revoked.tools.iter();
            tools.any(|(key, tool)| key == server && tool == name)
        }
        Access::Prompt { .. } | Access::Resource { .. } => false,
    };
    let found = if revoked.servers.contains(access.server()) {
        Some(format!("server {} is revoked", access.server()))
    } else if tool {
        Some(format!("{access} is revoked"))
    } else if agent {
        let who = snapshot
            .caller()
            .map(|_| format!("{} is revoked", who(snapshot)));
        who.or_else(|| snapshot.trouble().map(str::to_owned))
    } else {
        None
    };
    match found {
        Some(answer) => Reason::new("revocations", false, answer),
        None => Reason::new("revocations", true, "none applies"),
    }
}

fn caller(snapshot: &Snapshot, now: &Now) -> Reason {
    match snapshot.caller() {
        None => Reason::new(
            "caller",
            false,
            snapshot.trouble().unwrap_or("nobody is signed in"),
        ),
        Some(_) => match snapshot.doubt(now) {
            Some(doubt) => Reason::new("caller", false, format!("{}: {doubt}", who(snapshot))),
            None => Reason::new("caller", true, who(snapshot)),
        },
    }
}

fn surface(snapshot: &Snapshot, registry: &Registry, access: &Access) -> Reason {
    let Some(server) = registry.servers.get(access.server()) else {
        let answer = format!("no server has the key {}", access.server());
        return Reason::new("surface", false, answer);
    };
    let state = match (server.pin, snapshot.surface(access.server())) {
        (PinMode::Off, None) => {
            let answer = "the server is not pinned and not running: grants alone decide";
            return Reason::new("surface", true, answer);
        }
        (PinMode::Off, Some(_)) => "offered by the running server (not pinned)",
        (PinMode::Names, _) => "pinned by name",
        (PinMode::Definitions | PinMode::Strict, _) => "pinned",
    };
    if snapshot.offers(access) {
        Reason::new("surface", true, state)
    } else {
        let answer = format!("{access} is not there ({state})");
        Reason::new("surface", false, answer)
    }
}

fn role_reason(registry: &Registry, role: &RoleName, access: &Access, now: &Now) -> Reason {
    let at = registry.latest(now);
    let question = format!("role {role}");
    let rule = registry
        .policy
        .grants
        .get(role)
        .and_then(|servers| servers.get(access.server()))
        .and_then(|table| rule_for(registry, table, access, at));
    match rule {
        None => Reason::new(question, false, format!("does not include {access}")),
        Some(rule) => match rule.not_after {
            Some(end) if at.is_past(end) => {
                Reason::new(question, false, format!("included it until {}", Utc(end))).by(rule)
            }
            Some(end) => {
                Reason::new(question, true, format!("includes it until {}", Utc(end))).by(rule)
            }
            None => Reason::new(question, true, "includes it").by(rule),
        },
    }
}

/// The rule by which a table holds the access, found the slow and plain way: the first that has
/// not expired, or else the first.
fn rule_for<'r>(
    registry: &'r Registry,
    table: &GrantTable,
    access: &Access,
    at: Latest,
) -> Option<&'r RuleDoc> {
    let open = registry
        .servers
        .get(access.server())
        .is_some_and(|server| server.pin == PinMode::Off);
    let named = |names: &BTreeMap<String, u32>| names.get(access.name()).copied();
    let (exact, globs, counts) = match access {
        Access::Prompt { .. } => (named(&table.prompts), &table.prompt_globs, open),
        Access::Resource { .. } => (None, &table.resources, true),
        Access::Tool { .. } => (named(&table.tools), &table.tool_globs, open),
    };
    let matching = globs
        .iter()
        .filter(|(glob, _)| counts && Pattern::glob(glob).matches(access.name()));
    let mut indexes: Vec<u32> = exact
        .into_iter()
        .chain(matching.map(|(_, rule)| *rule))
        .collect();
    indexes.sort_unstable();
    let rules: Vec<&RuleDoc> = indexes
        .into_iter()
        .filter_map(|index| registry.policy.rules.get(usize::try_from(index).ok()?))
        .collect();
    let live = |rule: &&&RuleDoc| rule.not_after.is_none_or(|end| !at.is_past(end));
    rules.iter().find(live).or(rules.first()).copied()
}

/// A role whose tables hold the access, or held it once: the first by name.
pub(super) fn role_with<'r>(
    registry: &'r Registry,
    access: &Access,
) -> Option<(&'r RoleName, &'r RoleDoc)> {
    let at = Latest::of(&Now::default(), 0);
    registry.policy.grants.iter().find_map(|(role, servers)| {
        rule_for(registry, servers.get(access.server())?, access, at)?;
        Some((role, registry.policy.roles.get(role)?))
    })
}
