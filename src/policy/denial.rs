//! Refusals: one value for the client, the record and `explain`.

use std::fmt;

use super::snapshot::Refusal;
use super::{Access, Snapshot};
use crate::clock::Utc;
use crate::identity::Caller;
use crate::ids::RoleName;
use crate::registry::doc::{Registry, RoleDoc};
use crate::text;

/// Why a call is refused. One value feeds the client, the record and `explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// A short stable code for the record and `_meta`, e.g. `not-granted`.
    pub code: DenialCode,
    /// One sentence for the person and the model: what, why, whom to ask.
    pub sentence: String,
    /// What ends it, where it is no rule but a state that ends: "you sign in".
    pub until: Option<&'static str>,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DenialCode {
    /// The live server is not the pinned one.
    Drift,
    /// Not part of any surface this caller may know of.
    Hidden,
    /// The client cannot be asked for what the server needs.
    Incapable,
    /// The registry expired and its grace is over.
    Lapsed,
    /// The tool can only be called in a way that is not carried.
    NeedsTask,
    /// Nobody is signed in, or the proof of who calls no longer holds.
    NoCaller,
    /// The call could not be recorded.
    NoRecord,
    /// There is no verified registry.
    NoRegistry,
    /// No role of the caller has it.
    NotGranted,
    /// Too much at once.
    Overloaded,
    /// The same call was made too often.
    Repeated,
    /// Server, tool or agent is denied everywhere.
    Revoked,
    /// The rule that gave it has ended.
    RuleExpired,
    /// What is answered is not asked (any more), or was asked in another call.
    StaleAnswer,
    /// The registry's timestamp expired; until it is renewed only reading is allowed.
    Stale,
    /// The permit was given under another snapshot.
    StaleSnapshot,
    /// The server cannot be reached.
    Unavailable,
}

impl DenialCode {
    /// The stable text of the code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drift => "drift",
            Self::Hidden => "hidden",
            Self::Incapable => "incapable",
            Self::Lapsed => "lapsed",
            Self::NeedsTask => "needs-task",
            Self::NoCaller => "no-caller",
            Self::NoRecord => "no-record",
            Self::NoRegistry => "no-registry",
            Self::NotGranted => "not-granted",
            Self::Overloaded => "overloaded",
            Self::Repeated => "repeated",
            Self::Revoked => "revoked",
            Self::RuleExpired => "rule-expired",
            Self::Stale => "stale",
            Self::StaleAnswer => "stale-answer",
            Self::StaleSnapshot => "stale-snapshot",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether the client used the protocol wrongly: its program has to know, the model cannot
    /// help it.
    #[must_use]
    pub fn is_misuse(self) -> bool {
        match self {
            Self::StaleAnswer => true,
            Self::Drift
            | Self::Hidden
            | Self::Incapable
            | Self::Lapsed
            | Self::NeedsTask
            | Self::NoCaller
            | Self::NoRecord
            | Self::NoRegistry
            | Self::NotGranted
            | Self::Overloaded
            | Self::Repeated
            | Self::Revoked
            | Self::RuleExpired
            | Self::Stale
            | Self::StaleSnapshot
            | Self::Unavailable => false,
        }
    }

    /// Whether the same call may succeed soon without anyone changing a rule.
    #[must_use]
    pub fn passes(self) -> bool {
        match self {
            Self::NoRecord
            | Self::Overloaded
            | Self::Repeated
            | Self::StaleAnswer
            | Self::StaleSnapshot
            | Self::Unavailable => true,
            Self::Drift
            | Self::Hidden
            | Self::Incapable
            | Self::Lapsed
            | Self::NeedsTask
            | Self::NoCaller
            | Self::NoRegistry
            | Self::NotGranted
            | Self::Revoked
            | Self::RuleExpired
            | Self::Stale => false,
        }
    }
}

impl fmt::Display for DenialCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Denial {
    /// Makes one. A refusal needs no proof; only leave does.
    #[must_use]
    pub fn new(code: DenialCode, sentence: impl Into<String>) -> Self {
        Self {
            code,
            sentence: sentence.into(),
            until: None,
        }
    }

    /// Says what ends it, as the words behind "until". A model then tries again once that is done.
    #[must_use]
    pub fn until(mut self, what: Option<&'static str>) -> Self {
        self.until = what;
        self
    }

    /// What the model reads. A refusal by a rule says that trying again is useless; one by a state
    /// that somebody can end says what ends it; one by circumstance says that nothing was sent.
    #[must_use]
    pub fn client_text(&self) -> String {
        if let Some(what) = self.until {
            format!("Refused until {what}: {}.", self.sentence)
        } else if self.code.passes() {
            format!("Refused, nothing was sent: {}.", self.sentence)
        } else {
            format!("Policy denial, do not retry: {}.", self.sentence)
        }
    }
}

/// Makes a stranger's text fit for a sentence: printable, at most 120 characters.
pub(super) fn shown(stranger: &str) -> String {
    text::short(stranger, 120)
}

/// The refusal as a sentence.
pub(super) fn describe(snapshot: &Snapshot, access: &Access, refusal: Refusal) -> Denial {
    let trouble = |otherwise: &str| snapshot.trouble().unwrap_or(otherwise).to_owned();
    let Some(registry) = snapshot.registry() else {
        return Denial::new(
            DenialCode::NoRegistry,
            format!(
                "there is no verified registry here, so nothing may be called: {}",
                trouble("run `mcpshim registry refresh`")
            ),
        )
        .until(Some("there is a registry"));
    };
    let org = shown(&registry.org.name);
    let help = &registry.org.help;
    let ends = |second: Option<u64>| Utc(second.unwrap_or_default());
    let owner = registry
        .servers
        .get(access.server())
        .map_or_else(|| help.clone(), |s| whom(&s.owner, &s.oncall));
    let (code, sentence) = match refusal {
        Refusal::AgentExpired => (
            DenialCode::NoCaller,
            format!(
                "the time of {} ended at {}; ask {}",
                who(snapshot),
                ends(agent(snapshot, registry).and_then(|doc| doc.not_after)),
                agent(snapshot, registry).map_or(help, |doc| &doc.owner),
            ),
        ),
        Refusal::AgentRevoked => (
            DenialCode::Revoked,
            format!("{org} has revoked {}; ask {help}", who(snapshot)),
        ),
        Refusal::AgentUnknown => (
            DenialCode::NoCaller,
            format!(
                "the registry of {org} does not name {} with this key; ask {help}",
                who(snapshot)
            ),
        ),
        Refusal::Expired { role, rule } => {
            let rule = usize::try_from(rule)
                .ok()
                .and_then(|rule| registry.policy.rules.get(rule));
            let role = snapshot.roles().get(role);
            let (id, source, end) = rule.map_or(("", "", None), |rule| {
                (rule.id.as_str(), rule.source.as_str(), rule.not_after)
            });
            let name = role.map_or("", RoleName::as_str);
            let ask = role
                .and_then(|role| registry.policy.roles.get(role))
                .map_or(help, |doc| &doc.ask);
            (
                DenialCode::RuleExpired,
                format!(
                    "rule {id} ({source}), which gave {access} to role {name}, ended at {}; ask {ask}",
                    ends(end)
                ),
            )
        }
        Refusal::Hidden => (
            DenialCode::Hidden,
            format!(
                "the registry of {org} has no {access}; call mcpshim_status to see what there is"
            ),
        ),
        Refusal::Lapsed => (
            DenialCode::Lapsed,
            format!(
                "the registry of {org} expired at {} and its grace of {} hours is over; run \
                 `mcpshim registry refresh`, or ask {help}",
                Utc(registry.expires),
                registry.org.grace_hours
            ),
        ),
        Refusal::NoCaller => (DenialCode::NoCaller, trouble("nobody is signed in")),
        Refusal::NoRegistry => (DenialCode::NoRegistry, trouble("there is no registry")),
        Refusal::NotGranted => (
            DenialCode::NotGranted,
            not_granted(snapshot, registry, access),
        ),
        Refusal::NotReadOnly => (
            DenialCode::Stale,
            format!(
                "the registry of {org} expired at {}, and until it is renewed only reading is \
                 allowed; the signed definition of {access} does not say readOnlyHint: true; run \
                 `mcpshim registry refresh`, or ask {help}",
                Utc(registry.expires)
            ),
        ),
        Refusal::OddUri => (
            DenialCode::NotGranted,
            format!(
                "{access} is not a plain URI (dot segments, backslashes, blanks, unusual encodings); write it plainly"
            ),
        ),
        Refusal::PersonExpired => (
            DenialCode::NoCaller,
            match snapshot.caller() {
                Some(Caller::Person { expires, .. }) => format!(
                    "the sign-in of {} ended at {}; run `mcpshim login` in any terminal and go on here",
                    who(snapshot),
                    Utc(*expires)
                ),
                Some(Caller::Agent { .. }) | None => {
                    "the sign-in ended; run `mcpshim login`".to_owned()
                }
            },
        ),
        Refusal::ServerRevoked => (
            DenialCode::Revoked,
            format!("{org} has revoked server {}; ask {owner}", access.server()),
        ),
        Refusal::ToolRevoked => (
            DenialCode::Revoked,
            format!("{org} has revoked {access}; ask {owner}"),
        ),
    };
    let until = match refusal {
        Refusal::Lapsed | Refusal::NotReadOnly => Some("the registry is renewed"),
        Refusal::PersonExpired => Some("you sign in"),
        // an agent without its key has nothing to sign in with
        Refusal::NoCaller if sentence.contains("mcpshim login") => Some("you sign in"),
        Refusal::NoCaller => Some("it is known who calls"),
        Refusal::NoRegistry => Some("there is a registry"),
        Refusal::AgentExpired
        | Refusal::AgentRevoked
        | Refusal::AgentUnknown
        | Refusal::Expired { .. }
        | Refusal::Hidden
        | Refusal::NotGranted
        | Refusal::OddUri
        | Refusal::ServerRevoked
        | Refusal::ToolRevoked => None,
    };
    Denial::new(code, sentence).until(until)
}

fn agent<'r>(
    snapshot: &Snapshot,
    registry: &'r Registry,
) -> Option<&'r crate::registry::doc::AgentDoc> {
    match snapshot.caller()? {
        Caller::Agent { name, .. } => registry.policy.agents.get(name),
        Caller::Person { .. } => None,
    }
}

/// Whom to ask about a server: its owner or who is on call, once where both are the same.
pub(super) fn whom(owner: &str, oncall: &str) -> String {
    if owner == oncall {
        owner.to_owned()
    } else {
        format!("{owner} or {oncall}")
    }
}

/// The caller, as a sentence names it.
#[must_use]
pub fn who(snapshot: &Snapshot) -> String {
    match snapshot.caller() {
        Some(Caller::Agent { name, .. }) => format!("agent {name}"),
        Some(Caller::Person { display, .. }) => shown(display),
        None => "nobody".to_owned(),
    }
}

fn not_granted(snapshot: &Snapshot, registry: &Registry, access: &Access) -> String {
    let who = who(snapshot);
    let missing = match snapshot.roles() {
        [] => format!("{who} has no role in {}", shown(&registry.org.name)),
        [role] => format!("role {role} of {who} does not include {access}"),
        roles => {
            let names: Vec<&str> = roles.iter().map(RoleName::as_str).collect();
            format!(
                "roles {} of {who} do not include {access}",
                names.join(", ")
            )
        }
    };
    match super::explain::role_with(registry, access) {
        Some((role, doc)) => format!("{missing}; role {role} does: ask {}", ask(doc, registry)),
        None => {
            let own = snapshot
                .roles()
                .iter()
                .find_map(|role| registry.policy.roles.get(role))
                .filter(|doc| !doc.ask.is_empty());
            let server = registry.servers.get(access.server());
            let contact = match (own, server) {
                (Some(doc), _) => doc.ask.clone(),
                (None, Some(server)) => whom(&server.owner, &server.oncall),
                (None, None) => registry.org.help.clone(),
            };
            format!("{missing}; ask {contact}")
        }
    }
}

fn ask<'r>(role: &'r RoleDoc, registry: &'r Registry) -> &'r str {
    if role.ask.is_empty() {
        &registry.org.help
    } else {
        &role.ask
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::fixture::{
        NOW, ann, at, prompt, registry, resource, server, snapshot, tool,
    };
    use crate::policy::{Access, Decision, decide};
    use crate::registry::doc::Registry;

    fn world() -> Registry {
        let mut registry = registry();
        registry
            .put(server(
                "gh",
                "strict",
                &[("get", true), ("drop", false)],
                &["p"],
                &[],
                &["gh://{+r}"],
            ))
            .put_role("eng", &[])
            .put_role("release", &[])
            .grant("eng", "gh", "get")
            .grant("release", "gh", "drop");
        registry
    }

    fn check(registry: &Registry, roles: &[&str], access: &Access) -> String {
        let snapshot = snapshot(registry, Some(ann(roles)), &at(NOW));
        match decide(&snapshot, access, &at(NOW)) {
            Decision::Allow(_) => "allow".to_owned(),
            Decision::Ask(question) => question.absurd().sentence,
            Decision::Deny(denial) => format!("{}: {}", denial.code, denial.client_text()),
        }
    }

    #[test]
    fn a_refusal_names_role_tool_and_whom_to_ask() {
        let mut registry = world();
        assert_eq!(check(&registry, &["eng"], &tool("gh", "get")), "allow");
        insta::assert_snapshot!(check(&registry, &["eng"], &tool("gh", "drop")), @"not-granted: Policy denial, do not retry: role eng of Ann does not include gh/drop; role release does: ask release-owners.");
        insta::assert_snapshot!(check(&registry, &[], &tool("gh", "get")), @"not-granted: Policy denial, do not retry: Ann has no role in Acme; role eng does: ask eng-owners.");
        insta::assert_snapshot!(check(&registry, &["eng", "release"], &prompt("gh", "p")), @"not-granted: Policy denial, do not retry: roles eng, release of Ann do not include prompt gh/p; ask eng-owners.");
        insta::assert_snapshot!(check(&registry, &["eng"], &tool("gh", "gone\u{7}")), @r"hidden: Policy denial, do not retry: the registry of Acme has no gh/gone\u{7}; call mcpshim_status to see what there is.");
        insta::assert_snapshot!(check(&registry, &["eng"], &resource("gh", "gh://a/../b")), @"not-granted: Policy denial, do not retry: resource gh://a/../b of gh is not a plain URI (dot segments, backslashes, blanks, unusual encodings); write it plainly.");
        let rule = registry.rule(Some(NOW));
        registry
            .table("eng", "gh")
            .tools
            .insert("get".to_owned(), rule);
        insta::assert_snapshot!(check(&registry, &["eng"], &tool("gh", "get")), @"rule-expired: Policy denial, do not retry: rule rule#2 (roles/r.yaml:2), which gave gh/get to role eng, ended at 2027-01-15T08:00:00Z; ask eng-owners.");
        registry
            .revocations
            .tools
            .push((crate::policy::fixture::key("gh"), "drop".to_owned()));
        insta::assert_snapshot!(check(&registry, &["release"], &tool("gh", "drop")), @"revoked: Policy denial, do not retry: Acme has revoked gh/drop; ask team-x or #team-x.");
    }
}
