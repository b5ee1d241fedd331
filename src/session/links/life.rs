//! A link's life: made, opened, used, followed by the registry, retired.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Slot, Waiting};
use crate::audit::entry::Body as Record;
use crate::audit::entry::{Context, ContextId};
use crate::clock::Now;
use crate::ids::{LinkId, ServerKey};
use crate::policy::{Denial, DenialCode};
use crate::registry::doc::{ServerDoc, Transport};
use crate::session::call::Origin;
use crate::session::link::{Link, LinkInput, LinkOutput, LinkState};
use crate::session::outbox::{Housekeeping, Upstream};
use crate::session::road::Fate;
use crate::session::{CredentialUse, Machine, Opening, Output};
use crate::wire::era::Era;
use crate::wire::msg::Message;

impl Machine {
    /// The link to a server; makes one that is not running.
    pub(in crate::session) fn link_for(&mut self, server: &Arc<ServerDoc>) -> LinkId {
        if let Some(id) = self.links.by_server.get(&server.key) {
            return *id;
        }
        let id = LinkId(u32::try_from(self.links.slots.len()).unwrap_or(u32::MAX));
        self.links.slots.push(Slot {
            link: Link::new(id, Arc::clone(server), false),
            era: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            open: 0,
            held: 0,
            retired: false,
            trouble: None,
            differing: BTreeSet::new(),
            chores: Vec::new(),
            level: None,
            asks: [0; 2],
            early_roots: None,
            one_by_one: false,
            elicitations: VecDeque::new(),
            transport: 0,
            given: 0,
            credential: None,
            ending: None,
            rewatch_at_us: None,
            forgotten: None,
            resting: Vec::new(),
        });
        self.links.by_server.insert(server.key.clone(), id);
        id
    }

    /// How a link's server was opened the last time.
    pub(in crate::session) fn link_known(&mut self, id: LinkId, opening: Opening) {
        if let Some(slot) = self.links.slot(id) {
            slot.link.know(opening);
        }
    }

    /// A link's transport is up, with this credential.
    pub(in crate::session) fn link_opened(
        &mut self,
        id: LinkId,
        credential: Option<CredentialUse>,
        now: &Now,
    ) {
        let credential = credential.map(|credential| {
            let context = Context::Credential {
                id: credential.id,
                store: credential.store.to_owned(),
                serial: credential.serial,
                owner: Some(credential.owner.0),
            };
            self.outbox.context(context, now)
        });
        if let Some(slot) = self.links.slot(id) {
            slot.credential = credential;
        }
        self.link_input(id, LinkInput::Opened, now);
    }

    /// A server's transport is to be opened anew.
    pub(in crate::session) fn renew(&mut self, server: &ServerKey, at_once: bool, now: &Now) {
        let Some(id) = self.links.by_server.get(server).copied() else {
            return;
        };
        self.moved = true;
        *self.links.renewals.entry(server.clone()).or_default() += 1;
        self.links.trust(server);
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        slot.trouble = None;
        slot.link.forgive();
        self.open_anew(id, server, at_once, now);
        if self.front.era().is_some() {
            self.open_unpinned(now);
        }
    }

    /// Opens a link's transport anew: at once, or for the calls that come while those in flight end
    /// with the old one.
    pub(super) fn open_anew(&mut self, id: LinkId, server: &ServerKey, at_once: bool, now: &Now) {
        let watched = self.is_watched(server);
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        let watched = watched || slot.held > 0;
        let in_use = slot.open > 0 || watched;
        if !at_once && in_use && slot.link.is_open() {
            // calls in flight end with their own transport; what comes now gets another
            self.retire(id, now);
            if watched && let Some(doc) = self.entry(server) {
                self.want(&doc, now);
            }
        } else {
            slot.ending = Some(if at_once {
                "was restarted by `mcpshim restart`"
            } else {
                "was started anew"
            });
            slot.link.stop();
            let wanted = watched || !slot.waiting.is_empty() || !slot.resting.is_empty();
            self.pump(id, now);
            if let Some(slot) = self.links.slot(id) {
                slot.ending = None;
                if wanted {
                    slot.link.declare(self.front.declared());
                    slot.link.want(now);
                }
            }
            self.pump(id, now);
        }
    }

    /// A server's entry in the registry that decides.
    pub(in crate::session) fn entry(&self, server: &ServerKey) -> Option<Arc<ServerDoc>> {
        let registry = self.snapshot.registry()?;
        registry.servers.get(server).cloned()
    }

    /// Opens a server's link if it is closed and may be.
    pub(super) fn want(&mut self, server: &Arc<ServerDoc>, now: &Now) {
        let id = self.link_for(server);
        if let Some(slot) = self.links.slot(id) {
            slot.link.declare(self.front.declared());
            slot.link.want(now);
        }
        self.pump(id, now);
    }

    /// Gives a link no more calls: it ends with its last one. What waits is decided again.
    fn retire(&mut self, id: LinkId, now: &Now) {
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        let key = slot.link.server().key.clone();
        slot.retired = true;
        slot.resting.clear();
        if slot.forgotten.take().is_some() {
            let text = format!("server {key} changed before the call was sent; call again");
            self.fail_held(id, &text, now);
        }
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        slot.waiting_bytes = 0;
        let waiting = std::mem::take(&mut slot.waiting);
        slot.busy(now);
        self.links.by_server.remove(&key);
        // calls may end; subscriptions never would
        for _ in 0..self.listens.lose(id) {
            self.links.released(id, now);
        }
        let standing = self
            .calls
            .select(|key, call| key.link == id && matches!(call.origin, Origin::Standing));
        for call in standing {
            self.cancel(call, now);
        }
        // a refusal, or another link
        for one in waiting {
            self.resume(one, Fate::Fresh, now);
        }
        self.pump(id, now);
    }

    /// Servers that this session has used and may use again.
    #[must_use]
    pub fn servers_in_use(&self) -> Vec<ServerKey> {
        self.links.by_server.keys().cloned().collect()
    }

    /// Servers whose entry names a credential and that could not be used the last time.
    #[must_use]
    pub fn without_credential(&self) -> Vec<ServerKey> {
        let lacks = |id: &LinkId| {
            let slot = self.links.seen(*id);
            slot.is_some_and(|slot| {
                slot.link.server().credential.is_some() && slot.trouble.is_some()
            })
        };
        let links = self.links.by_server.iter();
        links
            .filter(|(_, id)| lacks(id))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Lets something wait until the link is ready.
    pub(in crate::session) fn wait(&mut self, id: LinkId, waiting: Waiting, now: &Now) {
        if let Some(slot) = self.links.slot(id) {
            slot.waiting_bytes += waiting.bytes();
            slot.waiting.push_back(waiting);
            slot.link.declare(self.front.declared());
            slot.link.want(now);
            slot.busy(now);
        }
        self.pump(id, now);
    }

    /// Gives a link an input and does what it then wants.
    pub(in crate::session) fn link_input(&mut self, id: LinkId, input: LinkInput<'_>, now: &Now) {
        if let Some(slot) = self.links.slot(id) {
            slot.link.handle(input, now);
        }
        self.pump(id, now);
    }

    /// Does what a link wants done.
    pub(in crate::session) fn pump(&mut self, id: LinkId, now: &Now) {
        while let Some(wanted) = self.links.slot(id).and_then(|slot| slot.link.poll()) {
            self.moved |= !matches!(
                wanted,
                LinkOutput::Headers(_)
                    | LinkOutput::Learned(_)
                    | LinkOutput::Note(..)
                    | LinkOutput::Send(_)
            );
            match wanted {
                LinkOutput::Close => {
                    self.outbox.push(Output::CloseLink(id));
                    let ending = self.links.slot(id).and_then(|slot| slot.ending.take());
                    self.link_lost(id, ending.unwrap_or("was stopped"), now);
                }
                LinkOutput::Failed(failure) => self.link_failed(id, &failure, now),
                LinkOutput::Headers(headers) => {
                    self.outbox.push(Output::Headers(id, headers));
                }
                LinkOutput::Learned(opening) => {
                    if let Some(server) = self.server_of(id) {
                        self.outbox.push(Output::Learned(id, server, opening));
                    }
                }
                LinkOutput::Note(code, detail) => {
                    let server = self
                        .links
                        .seen(id)
                        .map(|slot| Arc::clone(slot.link.server()));
                    if let Some(server) = server {
                        let server = self.server_context(&server, now);
                        let note = Record::Link {
                            server,
                            code,
                            detail,
                        };
                        self.outbox.append(note, now);
                    }
                }
                LinkOutput::Open => {
                    if let Some(slot) = self.links.slot(id) {
                        (slot.level, slot.asks) = (None, [0; 2]);
                        slot.transport = slot.transport.wrapping_add(1);
                        let server = Arc::clone(slot.link.server());
                        self.outbox.push(Output::OpenLink(id, server));
                    }
                }
                LinkOutput::Ready(era) => self.link_ready(id, era, now),
                LinkOutput::Send(line) => {
                    let line = Upstream::Housekeeping(Housekeeping::Link(line));
                    self.outbox.send_link(id, line);
                }
                LinkOutput::Surface(surface) => self.link_surface(id, *surface, now),
            }
        }
    }

    fn link_ready(&mut self, id: LinkId, era: Era, now: &Now) {
        let level = self.front.level;
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        (slot.trouble, slot.rewatch_at_us) = (None, None);
        slot.waiting_bytes = 0;
        let waiting = std::mem::take(&mut slot.waiting);
        if slot.era.replace(era) != Some(era) {
            // the server's context names its protocol version
            self.routes.clear();
        }
        let credential = slot.credential;
        let resting = std::mem::take(&mut slot.resting);
        let before = slot.forgotten.take();
        // held ones were decided before it was known
        let differing: BTreeSet<_> = slot.link.differing().keys().cloned().collect();
        let newly = !differing.is_subset(&slot.differing);
        slot.differing = differing;
        if slot.early_roots.take() == Some(slot.transport) {
            let line = Upstream::Housekeeping(Housekeeping::RootsChanged);
            self.outbox.send_link(id, line);
        }
        if let Some(level) = level {
            self.tell_level(id, level);
        }
        if before.is_some_and(|before| before != (Some(era), credential)) {
            let (key, _) = self.links.describe(id);
            let text = format!("server {key} changed before the call was sent; call again");
            self.fail_held(id, &text, now);
        } else if newly {
            let (key, _) = self.links.describe(id);
            let text = format!(
                "something of server {key} is not what was approved any more, which was found \
                 before the call was sent; call again"
            );
            self.fail_held(id, &text, now);
        }
        let transport = self.links.transport(id);
        for call in resting {
            self.calls.moves_to(call, transport);
            self.let_go(call, now);
        }
        for one in waiting {
            self.resume(one, Fate::Ready(id, era), now);
        }
        self.subscribe_again(id, era, now);
        if let Some(slot) = self.links.slot(id) {
            slot.busy(now);
        }
    }

    /// A call ended, or waits for its client: the next one may go, where they go one at a time.
    pub(in crate::session) fn next_in_line(&mut self, id: LinkId, now: &Now) {
        if self.closing || !self.links.is_one_by_one(id) {
            return;
        }
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        let LinkState::Ready(era) = slot.link.state() else {
            return;
        };
        slot.waiting_bytes = 0;
        for one in std::mem::take(&mut slot.waiting) {
            self.resume(one, Fate::Ready(id, era), now);
        }
    }

    pub(super) fn resume(&mut self, waiting: Waiting, fate: Fate<'_>, now: &Now) {
        match waiting {
            Waiting::Driven { key } => self.drive_resumes(&key, fate, now),
            Waiting::Request { line, .. } => {
                if let Ok(Message::Request(request)) = Message::parse(&line) {
                    self.client_request(&request, fate, now);
                }
            }
            Waiting::Resource { listen, uri } => self.listen_resource(&listen, &uri, fate, now),
        }
    }

    /// Gives links the entries of a new registry; ends those whose server is gone or moved.
    pub(in crate::session) fn links_follow(&mut self, now: &Now) {
        let snapshot = Arc::clone(&self.snapshot);
        let servers = snapshot.registry().map(|registry| &registry.servers);
        for id in self.links.ids() {
            let Some(slot) = self.links.slot(id) else {
                continue;
            };
            if slot.retired {
                continue;
            }
            let key = slot.link.server().key.clone();
            let new = servers.and_then(|servers| servers.get(&key)).cloned();
            let kept = new.is_some_and(|new| slot.link.set_server(new, now));
            if !kept {
                self.links.live.remove(&key);
                self.retire(id, now);
            }
            self.pump(id, now);
            if !kept
                && self.is_watched(&key)
                && let Some(server) = self.entry(&key)
            {
                self.want(&server, now);
            }
        }
    }

    /// Ends every link: the session is over.
    pub(in crate::session) fn end_links(&mut self, now: &Now) {
        for id in self.links.ids() {
            if let Some(slot) = self.links.slot(id) {
                slot.waiting.clear();
                slot.waiting_bytes = 0;
                slot.link.stop();
            }
            self.pump(id, now);
        }
    }

    /// Refuses what has waited for its link for as long as its call may take.
    fn give_up_waiting(&mut self, now: &Now) {
        if self.links.impatient_us().is_none_or(|at| at > now.mono_us) {
            return;
        }
        for id in self.links.ids() {
            let Some(slot) = self.links.slot(id) else {
                continue;
            };
            let over = |one: &Waiting| one.until_us().is_some_and(|at| at <= now.mono_us);
            let (late, on_time): (VecDeque<_>, _) = std::mem::take(&mut slot.waiting)
                .into_iter()
                .partition(over);
            slot.waiting = on_time;
            slot.waiting_bytes = slot.waiting.iter().map(Waiting::bytes).sum();
            let server = slot.link.server();
            let text = format!(
                "server {} has not come up within {} s; ask {}",
                server.key,
                server.limits.call_ms / 1000,
                server.oncall
            );
            let denial = Denial::new(DenialCode::Unavailable, text);
            for one in late {
                self.resume(one, Fate::Refused(id, &denial), now);
            }
            if let Some(slot) = self.links.slot(id) {
                slot.busy(now);
            }
            self.pump(id, now);
        }
    }

    pub(in crate::session) fn links_wake(&mut self, now: &Now) {
        self.give_up_waiting(now);
        for id in self.links.ids() {
            let due = self.links.seen(id).and_then(|slot| slot.link.next_wakeup());
            if due.is_some_and(|at| at <= now.mono_us) {
                self.link_input(id, LinkInput::Wake, now);
            }
            self.watch_due(id, now);
        }
    }

    /// The number of a server's context.
    pub(in crate::session) fn server_context(
        &mut self,
        server: &ServerDoc,
        now: &Now,
    ) -> ContextId {
        let link = self.links.by_server.get(&server.key);
        let era = link.and_then(|id| self.links.era(*id));
        let context = Context::Server {
            id: server.id.clone(),
            key: server.key.clone(),
            transport: match server.transport {
                Transport::Http { .. } => "http".to_owned(),
                Transport::Stdio { .. } => "stdio".to_owned(),
            },
            protocol: era.map_or(String::new(), |era| era.revision().as_str().to_owned()),
        };
        self.outbox.context(context, now)
    }

    pub(in crate::session) fn server_of(&self, id: LinkId) -> Option<Arc<ServerDoc>> {
        Some(Arc::clone(self.links.seen(id)?.link.server()))
    }
}
