//! What a session tells about itself, for `status`, `doctor` and `restart`: names and states, never
//! a payload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Machine;
use super::link::LinkState;
use crate::policy::{self, Access};
use crate::{pin, text};

/// A session in one picture.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The client, as it calls itself; `None` until it said so.
    pub client: Option<ClientReport>,
    /// Who calls; `None` when nobody is recognised.
    pub caller: Option<String>,
    /// The version of the registry that decides.
    pub registry: Option<u64>,
    /// The number of the snapshot that decides; another one for each change.
    pub snapshot: u64,
    /// Every server this session has used, by key.
    pub servers: Vec<ServerReport>,
    /// Calls that were stopped because the same one had been made too often.
    #[serde(default)]
    pub repeats_stopped: u64,
}

/// A client's own claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientReport {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The protocol revision it speaks.
    pub protocol: String,
}

/// One server, as this session meets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerReport {
    /// Its key.
    pub key: String,
    /// Where its link is in its life.
    pub state: ServerState,
    /// The protocol revision it speaks, once it was up.
    pub protocol: Option<String>,
    /// Why it could not be used the last time, until it can.
    pub trouble: Option<String>,
    /// How often it was opened anew because somebody asked for it, or its credential changed.
    pub renewals: u64,
    /// How often in a row it could not be used.
    #[serde(default)]
    pub failures: u32,
    /// The Unix second from which it is tried again; calls are refused until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<u64>,
    /// Resources and tasks of it that the client listens to, and that it has not confirmed.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unconfirmed: usize,
    /// What is not what was approved any more, and how it differs: calls of it are refused. Tools
    /// stand under their own name, the other kinds behind their word: `prompt/NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub differing: BTreeMap<String, String>,
    /// What a server that is not pinned has and does not offer, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<String, String>,
}

impl ServerReport {
    /// How what is asked for differs from what was approved, if calls of it are refused for that.
    /// A resource that is listed nowhere belongs to the templates whose literal beginning it shares.
    #[must_use]
    pub fn differs(&self, access: &Access) -> Option<&str> {
        let place = |kind, name: &str| pin::quarantine::place(kind, &text::printable(name));
        let found = match access {
            Access::Prompt { name, .. } => self.differing.get(&place(pin::Kind::Prompt, name)),
            Access::Tool { name, .. } => self.differing.get(&place(pin::Kind::Tool, name)),
            Access::Resource { uri, .. } => {
                let listed = self.differing.get(&place(pin::Kind::Resource, uri));
                listed.or_else(|| {
                    let asked = place(pin::Kind::Template, uri);
                    let own = place(pin::Kind::Template, "");
                    let literal = |name: &str| {
                        let end = name.find('{').unwrap_or(name.len());
                        name.get(..end)
                            .is_some_and(|start| asked.starts_with(start))
                    };
                    let mut all = self.differing.iter();
                    let found = all.find(|(name, _)| name.starts_with(&own) && literal(name));
                    found.map(|(_, how)| how)
                })
            }
        };
        found.map(String::as_str)
    }
}

/// Where a link is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// It could not be used, or ended by itself.
    Down,
    /// Not running; the next call starts it.
    Idle,
    /// Starting, or its surface is read.
    Opening,
    /// Calls may be sent.
    Up,
}

impl ServerState {
    /// One word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Idle => "idle",
            Self::Opening => "opening",
            Self::Up => "up",
        }
    }
}

impl Machine {
    /// The session as it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            client: self.front.client(),
            caller: self.snapshot.caller().map(|_| policy::who(&self.snapshot)),
            registry: self.snapshot.registry().map(|r| r.version.targets),
            snapshot: self.snapshot.id().0,
            servers: self.links.report(&self.unconfirmed_at()),
            repeats_stopped: self.repeats.stopped(),
        }
    }

    /// Whether [`Machine::report`] may say something else than when this was asked last.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// The state of a link, for people.
pub(super) fn state(link: LinkState, trouble: Option<&str>) -> ServerState {
    match (link, trouble) {
        (LinkState::Ready(_), _) => ServerState::Up,
        (LinkState::Opening, _) => ServerState::Opening,
        (LinkState::Closed { .. }, Some(_)) => ServerState::Down,
        (LinkState::Closed { .. }, None) => ServerState::Idle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ServerKey;

    fn report(places: &[&str]) -> ServerReport {
        let entry = |place: &&str| ((*place).to_owned(), format!("{place} changed"));
        ServerReport {
            key: "up".to_owned(),
            state: ServerState::Up,
            protocol: None,
            trouble: None,
            renewals: 0,
            failures: 0,
            retry_at: None,
            unconfirmed: 0,
            differing: places.iter().map(entry).collect(),
            quarantined: BTreeMap::new(),
        }
    }

    #[test]
    fn what_differs_is_found_by_what_is_asked_for_and_nothing_beside_it() {
        let report = report(&[
            "echo",
            "prompt/review",
            "resource/file:///a",
            "template/db://{t}",
        ]);
        let server = || ServerKey::parse("up").unwrap();
        let tool = |name: &str| Access::Tool {
            server: server(),
            name: name.to_owned(),
        };
        let prompt = |name: &str| Access::Prompt {
            server: server(),
            name: name.to_owned(),
        };
        let resource = |uri: &str| Access::Resource {
            server: server(),
            uri: uri.to_owned(),
        };
        let differs = |access: Access| report.differs(&access).map(str::to_owned);
        for (access, found) in [
            (tool("echo"), "echo changed"),
            (prompt("review"), "prompt/review changed"),
            (resource("file:///a"), "resource/file:///a changed"),
            (resource("db://users"), "template/db://{t} changed"),
        ] {
            assert_eq!(differs(access).as_deref(), Some(found));
        }
        for access in [
            tool("review"),
            tool("other"),
            prompt("echo"),
            resource("file:///b"),
            resource("echo"),
        ] {
            assert_eq!(differs(access), None);
        }
    }
}
