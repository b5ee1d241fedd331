//! What `mcpshim status` and the `mcpshim_status` tool say.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::denial::{who, whom};
use super::snapshot::Refusal;
use super::{Access, Snapshot};
use crate::clock::{Now, Span, Utc};
use crate::identity::Caller;
use crate::limits;
use crate::registry::Freshness;
use crate::registry::doc::PinMode;
use crate::text;

/// The state of one snapshot, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// This program's version.
    pub version: &'static str,
    /// Who calls; `None` when nobody does.
    pub caller: Option<String>,
    /// The caller's roles.
    pub roles: Vec<String>,
    /// The organisation.
    pub organisation: Option<String>,
    /// The registry's version.
    pub registry_version: Option<u64>,
    /// How current it is: `fresh`, `grace` or `lapsed`.
    pub freshness: Option<&'static str>,
    /// When its timestamp expires, or expired.
    pub expires: Option<String>,
    /// A person's sign-in; `None` for agents.
    pub sign_in: Option<SignIn>,
    /// What is wrong and what to do.
    pub trouble: Vec<String>,
    /// Every server of the registry.
    pub servers: Vec<ServerStatus>,
}

/// How long a person's sign-in lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignIn {
    /// When it ends, or ended.
    pub ends: String,
    /// Seconds left; none when it is over.
    pub left_s: u64,
    /// Whether calls are still allowed: clocks may differ a little, so for a minute after its end
    /// they are.
    pub holds: bool,
}

/// One server, as this caller meets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    /// Its key.
    pub key: String,
    /// What it is for.
    pub purpose: String,
    /// How many of its tools the caller may use.
    pub tools: usize,
    /// How many tools it offers.
    pub of_tools: usize,
    /// Why there are none, or fewer than one could expect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What it has and nobody is offered, with the reason; the first of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<String, String>,
}

/// Sums a snapshot up.
#[must_use]
pub fn status(snapshot: &Snapshot, now: &Now) -> Status {
    let registry = snapshot.registry();
    let freshness = registry.map(|_| snapshot.freshness_at(now));
    let latest = snapshot.latest(now);
    let mut trouble: Vec<String> = snapshot.trouble().map(str::to_owned).into_iter().collect();
    if let Some(registry) = registry {
        let (expires, help) = (Utc(registry.expires), &registry.org.help);
        match freshness {
            Some(Freshness::Grace) => trouble.push(format!(
                "the registry expired at {expires}: only reading is allowed until it is renewed; \
                 run `mcpshim registry refresh`, or ask {help}"
            )),
            Some(Freshness::Lapsed) => trouble.push(format!(
                "the registry expired at {expires} and its grace is over: nothing may be called; \
                 run `mcpshim registry refresh`, or ask {help}"
            )),
            Some(Freshness::Fresh) | None => {}
        }
        if let (Some(_), Some(doubt)) = (snapshot.caller(), snapshot.doubt(now)) {
            trouble.push(format!("{}: {doubt}", who(snapshot)));
        }
        if snapshot.caller().is_some() && snapshot.roles().is_empty() {
            trouble.push(format!("{} has no role; ask {help}", who(snapshot)));
        }
    }
    trouble.extend(snapshot.warning(now));
    let (tools, first) = snapshot.catalog().tools().counts();
    if first < tools {
        trouble.push(format!(
            "you may use so many tools that no one message holds their list: a client that reads \
             only its first page offers {first} of {tools}; ask for a role with fewer"
        ));
    }
    Status {
        version: env!("CARGO_PKG_VERSION"),
        caller: snapshot.caller().map(|_| who(snapshot)),
        roles: snapshot.roles().iter().map(ToString::to_string).collect(),
        organisation: registry.map(|r| r.org.name.clone()),
        registry_version: registry.map(|r| r.version.targets),
        freshness: freshness.map(|freshness| match freshness {
            Freshness::Fresh => "fresh",
            Freshness::Grace => "grace",
            Freshness::Lapsed => "lapsed",
        }),
        expires: registry.map(|r| Utc(r.expires).to_string()),
        sign_in: match snapshot.caller() {
            Some(Caller::Person { expires, .. }) => Some(SignIn {
                ends: Utc(*expires).to_string(),
                left_s: latest.left_s(*expires),
                holds: snapshot.doubt(now).is_none(),
            }),
            Some(Caller::Agent { .. }) | None => None,
        },
        trouble,
        servers: servers(snapshot, now),
    }
}

fn servers(snapshot: &Snapshot, now: &Now) -> Vec<ServerStatus> {
    let Some(registry) = snapshot.registry() else {
        return Vec::new();
    };
    let one = |(key, doc): (&crate::ids::ServerKey, &std::sync::Arc<_>)| {
        let doc: &crate::registry::doc::ServerDoc = doc;
        let surface = snapshot.surface(key);
        let tools = surface.map_or(&[][..], |surface| &surface.tools);
        let (mut visible, mut stale) = (0, 0);
        for tool in tools {
            let (server, name) = (key.clone(), tool.name.clone());
            match snapshot.judge(&Access::Tool { server, name }, now) {
                Ok(_) => visible += 1,
                Err(Refusal::NotReadOnly) => stale += 1,
                Err(_) => {}
            }
        }
        let freshness = snapshot.freshness_at(now);
        // what refuses everything is the reason, not what is or is not granted
        let note = if freshness == Freshness::Lapsed {
            Some(format!("the registry ended on {}", Utc(registry.expires)))
        } else if snapshot.caller().is_some() && snapshot.doubt(now).is_some() {
            Some(format!("{} may not call now", who(snapshot)))
        } else if registry.revocations.servers.contains(key) {
            Some("revoked".to_owned())
        } else if doc.pin == PinMode::Off && surface.is_none() {
            Some("not pinned: its tools are known once it runs".to_owned())
        } else if visible == 0 && !tools.is_empty() && snapshot.caller().is_some() {
            Some(if stale == 0 {
                format!("none granted; ask {}", whom(&doc.owner, &doc.oncall))
            } else {
                "none only reads; what writes waits until the registry is renewed".to_owned()
            })
        } else {
            None
        };
        // names of a server that the caller does not see are not told
        let aside = surface.filter(|_| visible > 0);
        let aside = aside.into_iter().flat_map(|surface| &surface.quarantined);
        let shown = aside.take(limits::QUARANTINED_SHOWN);
        ServerStatus {
            quarantined: shown
                .map(|(name, reason)| (text::printable(name), reason.clone()))
                .collect(),
            key: key.to_string(),
            purpose: doc.purpose.clone(),
            tools: visible,
            of_tools: tools.len(),
            note,
        }
    };
    registry.servers.iter().map(one).collect()
}

/// A few lines for people and models.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &Option<String>, otherwise: &'static str| {
            text.clone().unwrap_or_else(|| otherwise.to_owned())
        };
        writeln!(f, "mcpshim {}", self.version)?;
        writeln!(f, "organisation: {}", or(&self.organisation, "none"))?;
        match (self.registry_version, self.freshness, &self.expires) {
            (Some(version), Some(freshness), Some(expires)) => {
                writeln!(
                    f,
                    "registry:     version {version}, {freshness}, timestamp ends {expires}"
                )?;
            }
            _ => writeln!(f, "registry:     none")?,
        }
        writeln!(
            f,
            "caller:       {}",
            or(&self.caller, "nobody is signed in")
        )?;
        if self.caller.is_some() {
            let roles = if self.roles.is_empty() {
                "none".to_owned()
            } else {
                self.roles.join(", ")
            };
            writeln!(f, "roles:        {roles}")?;
        }
        match &self.sign_in {
            Some(SignIn {
                ends, holds: false, ..
            }) => writeln!(f, "sign-in:      ended {ends}")?,
            Some(SignIn {
                ends, left_s: 0, ..
            }) => writeln!(f, "sign-in:      ends now ({ends})")?,
            Some(SignIn { ends, left_s, .. }) => {
                writeln!(f, "sign-in:      ends {ends}, {} left", Span(*left_s))?;
            }
            None => {}
        }
        for trouble in &self.trouble {
            writeln!(f, "trouble:      {trouble}")?;
        }
        for server in &self.servers {
            write!(
                f,
                "server:       {} - {} of {} tools",
                server.key, server.tools, server.of_tools
            )?;
            match &server.note {
                Some(note) => writeln!(f, " ({note})")?,
                None => writeln!(f)?,
            }
            for (name, reason) in &server.quarantined {
                writeln!(
                    f,
                    "              {}/{name} is not offered: {reason}",
                    server.key
                )?;
            }
        }
        Ok(())
    }
}
