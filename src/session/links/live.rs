//! Servers that are not pinned: what they offer is known once they run, and is part of snapshots
//! that are made here.

use std::sync::Arc;

use crate::audit::entry::Body as Record;
use crate::clock::Now;
use crate::ids::{LinkId, ServerKey};
use crate::limits;
use crate::pin::{Kept, assign_names, quarantine};
use crate::policy::SnapshotId;
use crate::registry::doc::{PinMode, Pinned, ServerDoc, Surface};
use crate::session::Machine;
use crate::session::road::Fate;
use crate::text;
use crate::wire::msg::Request;

use super::{Readiness, Waiting};

/// Snapshots made here, with live surfaces in them, are numbered from here on, so that no
/// permit of a driver's snapshot is ever taken for one of them.
const MINTED: u64 = 1 << 63;

impl Machine {
    /// What a server that is not pinned offers: part of a snapshot of our own.
    pub(super) fn link_surface(&mut self, id: LinkId, mut surface: Surface, now: &Now) {
        let Some(server) = self.links.seen(id).map(|slot| slot.link.server()) else {
            return;
        };
        if server.pin == PinMode::Off {
            let key = server.key.clone();
            quarantine::sift(&server.transport, &mut surface);
            self.note_quarantine(id, &surface, now);
            let (tools, prompts) = self.links.names.entry(key.clone()).or_default();
            expose(&key, &mut surface.tools, tools);
            expose(&key, &mut surface.prompts, prompts);
            self.links.live.insert(key, Arc::new(surface));
            let snapshot = Arc::clone(&self.snapshot);
            self.take_snapshot(snapshot, now);
        }
    }

    /// Records what a live server has that is not offered, when that is something else than before.
    fn note_quarantine(&mut self, id: LinkId, surface: &Surface, now: &Now) {
        let Some(server) = self.server_of(id) else {
            return;
        };
        let before = self.links.live.get(&server.key);
        let same = before.is_some_and(|before| before.quarantined == surface.quarantined);
        if same || (before.is_none() && surface.quarantined.is_empty()) {
            return;
        }
        let count = surface.quarantined.len();
        let detail = match surface.quarantined.first_key_value() {
            Some((name, reason)) => {
                let name = text::printable(name);
                format!("{count} entries are not offered; first of all {name}: {reason}")
            }
            None => "everything is offered again".to_owned(),
        };
        let server = self.server_context(&server, now);
        let note = Record::Link {
            server,
            code: "quarantine",
            detail,
        };
        self.outbox.append(note, now);
    }

    /// Servers that are not pinned, that the caller may use, and of which nobody knows yet what
    /// they offer.
    fn unlisted(&self) -> Vec<Arc<ServerDoc>> {
        let Some(registry) = self.snapshot.registry() else {
            return Vec::new();
        };
        let wanted = |(key, server): &(&ServerKey, &Arc<ServerDoc>)| {
            let grants = |role| registry.policy.grants.get(role)?.get(*key);
            server.pin == PinMode::Off
                && !self.links.live.contains_key(*key)
                && !registry.revocations.servers.contains(*key)
                && self
                    .snapshot
                    .roles()
                    .iter()
                    .any(|role| grants(role).is_some())
        };
        let servers = registry.servers.iter().filter(wanted);
        servers.map(|(_, server)| Arc::clone(server)).collect()
    }

    /// Starts servers that are not pinned and that the caller may use: what they offer is known
    /// once they run.
    pub(in crate::session) fn open_unpinned(&mut self, now: &Now) {
        for server in self.unlisted() {
            self.want(&server, now);
        }
    }

    /// Lets a request for a name that nobody has wait for the lists of servers that are not
    /// pinned, one after the other in their order. False when there is none to wait for.
    pub(in crate::session) fn waits_for_lists(
        &mut self,
        request: &Request<'_>,
        fate: Fate<'_>,
        now: &Now,
    ) -> bool {
        let last = match fate {
            Fate::Fresh => None,
            Fate::Ready(link, _) | Fate::Refused(link, _) => self.server_of(link),
        };
        let is_next =
            |server: &Arc<ServerDoc>| last.as_ref().is_none_or(|last| server.key > last.key);
        for server in self.unlisted().into_iter().filter(is_next) {
            let link = self.link_for(&server);
            let bytes = request.line.len();
            match self.links.readiness(link, bytes, now) {
                Readiness::Waits => {}
                // it is told elsewhere why not
                Readiness::Full(_) | Readiness::Ready(_) => continue,
            }
            let waiting = Waiting::Request {
                key: request.id.key(),
                line: request.line.as_bytes().to_vec(),
                until_us: now.mono_us + server.limits.call_ms * 1000,
            };
            self.wait(link, waiting, now);
            return true;
        }
        false
    }

    /// The snapshot with what is known of servers that are not pinned.
    pub(in crate::session) fn with_live(
        &mut self,
        snapshot: Arc<crate::policy::Snapshot>,
        now: &Now,
    ) -> Arc<crate::policy::Snapshot> {
        if self.links.live.is_empty() {
            return snapshot;
        }
        self.links.minted += 1;
        let id = SnapshotId(MINTED + self.links.minted);
        Arc::new(snapshot.with_live(id, self.links.live.clone(), now))
    }
}

/// Gives each entry of a live surface a name, as `pin` would.
fn expose(key: &ServerKey, entries: &mut [Pinned], names: &mut Kept) {
    if names.len() > limits::TOOLS_PER_SERVER {
        // a server that keeps inventing names loses their constancy, not our memory
        names.clear();
    }
    let own = entries.iter().map(|entry| entry.name.as_str());
    *names = assign_names(key, own, names);
    for entry in entries {
        entry.exposed = names.get(&entry.name).cloned();
    }
}
