//! The machine's side of its links: which there are, what waits for them, what they say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::call::{Key, Origin, Outcome, Stage};
use super::link::{self, Answer, Link, LinkFailure, LinkInput, LinkOutput, LinkState};
use super::outbox::{Housekeeping, Level, Upstream};
use super::report::{self, ServerReport};
use super::road::Fate;
use super::{CredentialUse, LineFault, Loss, Machine, Opening, Output, Place, Reach};
use crate::audit::entry::{Body as Record, Context, ContextId, End};
use crate::clock::{Entropy, Now};
use crate::ids::{LinkId, ServerKey};
use crate::inspect::{self, Finding};
use crate::limits;
use crate::pin::{self, Kept, assign_names, quarantine};
use crate::policy::{Access, Denial, DenialCode, SnapshotId};
use crate::registry::doc::{PinMode, Pinned, ServerDoc, Surface, Transport};
use crate::secret::Content;
use crate::wire::era::{Can, Era};
use crate::wire::msg::{Body, Fault, IdKey, Kind, Message, Notification, Rejected};
use crate::wire::raw::{Object, RawError};

/// Snapshots made here, with live surfaces in them, are numbered from here on, so that no
/// permit of a driver's snapshot is ever taken for one of them.
const MINTED: u64 = 1 << 63;

/// Something that waits for a link.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A call between two legs.
    Driven { key: IdKey },
    /// A request of the client's, and until when it waits, in monotonic microseconds.
    Request {
        key: IdKey,
        line: Vec<u8>,
        until_us: u64,
    },
    /// One resource of a `subscriptions/listen`.
    Resource { listen: IdKey, uri: String },
}

impl Waiting {
    /// Until when it waits; subscriptions wait for as long as they are wanted.
    fn until_us(&self) -> Option<u64> {
        match self {
            Self::Request { until_us, .. } => Some(*until_us),
            // a call between two legs has its own time
            Self::Driven { .. } | Self::Resource { .. } => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            // its request is counted elsewhere
            Self::Driven { .. } => 0,
            Self::Request { line, .. } => line.len(),
            Self::Resource { uri, .. } => uri.len(),
        }
    }
}

/// Whether a call may be sent now.
#[derive(Debug)]
pub(super) enum Readiness {
    /// Too much waits or is in flight: one line for people.
    Full(String),
    Ready(Era),
    Waits,
}

#[derive(Debug)]
struct Slot {
    link: Link,
    /// The era it last was ready in; calls in flight are of this era.
    era: Option<Era>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Calls in flight…
    open: usize,
    /// …and subscriptions, which keep the link up but do not count as calls.
    held: usize,
    /// Its server has another entry now: it ends with its last call.
    retired: bool,
    /// Why it could not be used, until it can.
    trouble: Option<String>,
    /// Requests of the machine's own whose answers mean nothing.
    chores: Vec<u64>,
    /// The log level its server was told.
    level: Option<Level>,
    /// Questions of its transport that may be answered, and those that were refused.
    asks: [u32; 2],
    /// The transport that asked for roots before it was compared with its pin: it is told when it
    /// may ask again.
    early_roots: Option<u32>,
    /// It asked something in a call without saying in which: its calls go one at a time.
    one_by_one: bool,
    /// What a person was sent to for it.
    elicitations: VecDeque<Box<str>>,
    /// Which transport of its life it is.
    transport: u32,
    /// The highest request id given.
    given: u64,
    /// The context of the credential its transport was given.
    credential: Option<ContextId>,
    /// Why its transport is being ended, for the calls that end with it.
    ending: Option<&'static str>,
    /// It is down, and resources of it are watched: when it is started again.
    rewatch_at_us: Option<u64>,
    /// Its server forgot the session, and the next one is not open yet: what held calls were
    /// written for.
    forgotten: Option<(Option<Era>, Option<ContextId>)>,
    /// Calls whose intents are recorded and that wait for the next session.
    resting: Vec<Key>,
}

/// Every link of the session.
#[derive(Debug, Default)]
pub(super) struct Links {
    slots: Vec<Slot>,
    by_server: BTreeMap<ServerKey, LinkId>,
    /// What servers that are not pinned offer.
    live: BTreeMap<ServerKey, Arc<Surface>>,
    /// The names given to their tools and prompts, kept for the session.
    names: BTreeMap<ServerKey, (Kept, Kept)>,
    /// How often each was opened anew on request.
    renewals: BTreeMap<ServerKey, u64>,
    minted: u64,
}

impl Links {
    fn slot(&mut self, id: LinkId) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(id.0).ok()?)
    }

    fn seen(&self, id: LinkId) -> Option<&Slot> {
        self.slots.get(usize::try_from(id.0).ok()?)
    }

    fn ids(&self) -> impl Iterator<Item = LinkId> + use<> {
        (0..self.slots.len()).filter_map(|at| u32::try_from(at).ok().map(LinkId))
    }

    /// Whether a request with this id waits for a link.
    pub(super) fn waits(&self, id: &IdKey) -> bool {
        let mut waiting = self.slots.iter().flat_map(|slot| &slot.waiting);
        waiting.any(|one| matches!(one, Waiting::Request { key, .. } if key == id))
    }

    /// Drops a waiting request; false when there is none with this id.
    pub(super) fn forget(&mut self, id: &IdKey) -> bool {
        let mut found = false;
        for slot in &mut self.slots {
            slot.waiting.retain(|one| {
                let this = matches!(one, Waiting::Request { key, .. } if key == id);
                found |= this;
                !this
            });
            slot.waiting_bytes = slot.waiting.iter().map(Waiting::bytes).sum();
        }
        found
    }

    /// Drops a call that waits to be sent again.
    pub(super) fn forget_driven(&mut self, id: &IdKey) {
        for slot in &mut self.slots {
            slot.waiting
                .retain(|one| !matches!(one, Waiting::Driven { key } if key == id));
        }
    }

    /// Where a link is in its life.
    pub(super) fn state(&self, id: LinkId) -> Option<LinkState> {
        Some(self.seen(id)?.link.state())
    }

    /// Whether new calls to its server go to this link.
    pub(super) fn is_current(&self, id: LinkId) -> bool {
        self.seen(id).is_some_and(|slot| !slot.retired)
    }

    /// A person is sent somewhere for a server, under this id.
    pub(super) fn elicits(&mut self, id: LinkId, elicitation: &str) {
        if let Some(slot) = self.slot(id) {
            if slot.elicitations.len() >= limits::ELICITATION_IDS {
                slot.elicitations.pop_front();
            }
            slot.elicitations.push_back(elicitation.into());
        }
    }

    /// Whether that is so, and is not over yet; it is then.
    pub(super) fn elicited(&mut self, id: LinkId, elicitation: &str) -> bool {
        let Some(slot) = self.slot(id) else {
            return false;
        };
        let at = slot
            .elicitations
            .iter()
            .position(|one| &**one == elicitation);
        at.is_some_and(|at| slot.elicitations.remove(at).is_some())
    }

    /// Drops what waits for a `subscriptions/listen` that is over.
    pub(super) fn forget_resources(&mut self, of: &IdKey) {
        for slot in &mut self.slots {
            slot.waiting
                .retain(|one| !matches!(one, Waiting::Resource { listen, .. } if listen == of));
            slot.waiting_bytes = slot.waiting.iter().map(Waiting::bytes).sum();
        }
    }

    /// The id of a request of the machine's own whose answer means nothing, on a ready link.
    pub(super) fn chore(&mut self, id: LinkId) -> Option<u64> {
        let slot = self.slot(id)?;
        if !matches!(slot.link.state(), LinkState::Ready(_)) {
            return None;
        }
        slot.given = slot.link.next_id();
        slot.chores.push(slot.given);
        Some(slot.given)
    }

    /// Whether one more call may go to a link, or must wait for it.
    pub(super) fn readiness(&self, id: LinkId, bytes: usize, now: &Now) -> Readiness {
        let Some(slot) = self.seen(id) else {
            return Readiness::Full("there is no such link".to_owned());
        };
        let server = slot.link.server();
        let of = |slot: &Slot| slot.open + slot.waiting.len();
        let all: usize = self.slots.iter().map(of).sum();
        if all >= limits::CALLS_IN_FLIGHT {
            return Readiness::Full(format!(
                "{all} calls of this session are in flight, which is the most; wait for some"
            ));
        }
        let most = usize::try_from(server.limits.in_flight).unwrap_or(usize::MAX);
        if of(slot) >= most {
            return Readiness::Full(format!(
                "{most} calls to server {} are in flight, which is the most; wait for some",
                server.key
            ));
        }
        if let Some((reason, seconds)) = slot.link.pause(now) {
            return Readiness::Full(format!(
                "server {} {reason}; call again in {seconds} s",
                server.key
            ));
        }
        // some wait for a link that is ready: calls that go one at a time
        let waits = !slot.waiting.is_empty() || !matches!(slot.link.state(), LinkState::Ready(_));
        if waits && slot.waiting_bytes + bytes > limits::LINK_QUEUE_BYTES {
            return Readiness::Full(format!(
                "{} bytes wait for server {}; wait for it",
                slot.waiting_bytes, server.key
            ));
        }
        if let LinkState::Ready(era) = slot.link.state() {
            return Readiness::Ready(era);
        }
        Readiness::Waits
    }

    /// The next request id on a link.
    pub(super) fn next_id(&mut self, id: LinkId) -> Option<u64> {
        let slot = self.slot(id)?;
        slot.given = slot.link.next_id();
        Some(slot.given)
    }

    /// Whether this is the listen of the link's own.
    pub(super) fn listens(&self, link: LinkId, id: u64) -> bool {
        self.seen(link).is_some_and(|slot| slot.link.listens(id))
    }

    /// A listen broke: after a pause the link's server is asked anew.
    pub(super) fn listen_again(&mut self, link: LinkId, now: &Now) {
        if let Some(slot) = self.slot(link) {
            slot.link.listen_again(now);
        }
    }

    /// The same for the link that calls to this server go to.
    pub(super) fn listen_again_at(&mut self, server: &ServerKey, now: &Now) {
        if let Some(id) = self.by_server.get(server).copied() {
            self.listen_again(id, now);
        }
    }

    /// Whether a request with this id was ever made on the link.
    pub(super) fn gave(&self, link: LinkId, id: u64) -> bool {
        self.seen(link).is_some_and(|slot| id <= slot.given)
    }

    /// The context of the credential a link was given.
    pub(super) fn credential(&self, id: LinkId) -> Option<ContextId> {
        self.seen(id)?.credential
    }

    /// A link's server asked for roots too early: it is told that they changed once it may know
    /// them.
    pub(super) fn asks_roots_again(&mut self, id: LinkId) {
        if let Some(slot) = self.slot(id) {
            slot.early_roots = Some(slot.transport);
        }
    }

    /// From here on calls that a link's server may ask something in go one at a time.
    pub(super) fn go_one_by_one(&mut self, id: LinkId) {
        if let Some(slot) = self.slot(id) {
            slot.one_by_one = true;
        }
    }

    pub(super) fn is_one_by_one(&self, id: LinkId) -> bool {
        self.seen(id).is_some_and(|slot| slot.one_by_one)
    }

    /// What a link's server may ask of the client by its entry, and what it was told in the
    /// stateless era that the client can, raw JSON.
    pub(super) fn declared(&self, id: LinkId) -> (Can, &str) {
        self.seen(id).map_or((Can::default(), "{}"), |slot| {
            (link::allowed(slot.link.server()), slot.link.told())
        })
    }

    /// Why something that is pinned cannot be called: its server offers it to other clients only.
    pub(super) fn lacks(&self, id: LinkId, access: &Access) -> Option<Denial> {
        let link = &self.seen(id)?.link;
        let (kind, name) = match access {
            Access::Prompt { name, .. } => (pin::Kind::Prompt, name),
            Access::Resource { .. } => return None,
            Access::Tool { name, .. } => (pin::Kind::Tool, name),
        };
        let lacking = link.lacks(kind, name)?.join(", ");
        let server = link.server();
        let text = format!(
            "server {} offers {access} only to clients that can be asked for what this one does \
             not declare: {lacking}; use another client, or ask {}",
            server.key, server.owner
        );
        Some(Denial::new(DenialCode::Incapable, text))
    }

    /// A server answered a call.
    pub(super) fn served(&mut self, id: LinkId) {
        if let Some(slot) = self.slot(id) {
            slot.link.served();
        }
    }

    pub(super) fn era(&self, id: LinkId) -> Option<Era> {
        self.seen(id)?.era
    }

    /// The running server's own `serverInfo`, raw JSON.
    pub(super) fn server_info(&self, id: LinkId) -> Option<&str> {
        let info = self.seen(id)?.link.live()?.server_info.as_ref()?;
        Some(info.get())
    }

    /// A link's server and how long its calls may take, in seconds, for sentences.
    pub(super) fn describe(&self, id: LinkId) -> (String, u64) {
        self.seen(id).map_or_else(
            || ("unknown".to_owned(), 0),
            |slot| {
                let server = slot.link.server();
                (server.key.to_string(), server.limits.call_ms / 1000)
            },
        )
    }

    /// One more subscription on a link.
    pub(super) fn holds(&mut self, id: LinkId, now: &Now) {
        if let Some(slot) = self.slot(id) {
            slot.held += 1;
            slot.busy(now);
        }
    }

    /// A call became a subscription.
    pub(super) fn stands(&mut self, id: LinkId) {
        if let Some(slot) = self.slot(id) {
            slot.open = slot.open.saturating_sub(1);
            slot.held += 1;
        }
    }

    /// One subscription fewer.
    pub(super) fn released(&mut self, id: LinkId, now: &Now) {
        if let Some(slot) = self.slot(id) {
            slot.held = slot.held.saturating_sub(1);
            slot.busy(now);
        }
    }

    /// One more call on a link.
    pub(super) fn opened(&mut self, id: LinkId, now: &Now) {
        if let Some(slot) = self.slot(id) {
            slot.open += 1;
            slot.busy(now);
        }
    }

    /// One fewer.
    pub(super) fn closed(&mut self, id: LinkId, now: &Now) {
        if let Some(slot) = self.slot(id) {
            slot.open = slot.open.saturating_sub(1);
            slot.busy(now);
        }
    }

    /// How many subscriptions are held on all links.
    pub(super) fn held(&self) -> usize {
        self.slots.iter().map(|slot| slot.held).sum()
    }

    /// Every link that calls may still go to, for people.
    pub(super) fn report(&self, unconfirmed: &BTreeMap<ServerKey, usize>) -> Vec<ServerReport> {
        let one = |(key, id): (&ServerKey, &LinkId)| {
            let slot = self.seen(*id)?;
            let (failures, retry_at) = slot.link.failures();
            let live = self.live.get(key);
            let aside = live.into_iter().flat_map(|surface| &surface.quarantined);
            let shown = aside.take(limits::QUARANTINED_SHOWN);
            Some(ServerReport {
                failures,
                retry_at,
                quarantined: shown
                    .map(|(name, reason)| (pin::printable(name), reason.clone()))
                    .collect(),
                key: key.to_string(),
                state: report::state(slot.link.state(), slot.trouble.as_deref()),
                protocol: slot.era.map(|era| era.revision().as_str().to_owned()),
                trouble: slot.trouble.clone(),
                renewals: self.renewals.get(key).copied().unwrap_or_default(),
                unconfirmed: unconfirmed.get(key).copied().unwrap_or_default(),
            })
        };
        self.by_server.iter().filter_map(one).collect()
    }

    /// Which transport a link is at.
    pub(super) fn transport(&self, id: LinkId) -> u32 {
        self.seen(id).map_or(0, |slot| slot.transport)
    }

    /// Running servers of the handshake era that may know the client's roots.
    pub(super) fn with_roots(&self) -> Vec<LinkId> {
        let knows = |id: &LinkId| {
            let slot = self.seen(*id);
            slot.is_some_and(|slot| {
                slot.link.server().roots
                    && slot.link.is_open()
                    && matches!(slot.era, Some(Era::Handshake(_)))
            })
        };
        self.ids().filter(knows).collect()
    }

    /// Servers that could not be used, and why.
    pub(super) fn troubles(&self) -> impl Iterator<Item = (&ServerKey, &str)> {
        self.slots.iter().filter_map(|slot| {
            let trouble = slot.trouble.as_deref()?;
            Some((&slot.link.server().key, trouble))
        })
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        let both = |slot: &Slot| [slot.link.next_wakeup(), slot.rewatch_at_us];
        let links = self.slots.iter().flat_map(both).flatten();
        links.chain(self.impatient_us()).min()
    }
}

impl Links {
    /// When the first request has waited for its link for as long as its call may take.
    fn impatient_us(&self) -> Option<u64> {
        let waiting = self.slots.iter().flat_map(|slot| &slot.waiting);
        waiting.filter_map(Waiting::until_us).min()
    }
}

impl Slot {
    fn busy(&mut self, now: &Now) {
        let calls = self.open + self.held + self.waiting.len();
        self.link.set_busy(calls, now);
        if self.retired && calls == 0 {
            self.link.stop();
        }
    }
}

/// Whether a line that cannot be read was to be an answer, and no text that a server prints.
fn is_spoilt_answer(line: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(line, word).is_some();
    line.starts_with(b"{")
        && has(b"\"jsonrpc\"")
        && (has(b"\"result\"") || has(b"\"error\""))
        && !has(b"\"method\"")
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

impl Machine {
    /// The link to a server; makes one that is not running.
    pub(super) fn link_for(&mut self, server: &Arc<ServerDoc>) -> LinkId {
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
    pub(super) fn link_known(&mut self, id: LinkId, opening: Opening) {
        if let Some(slot) = self.links.slot(id) {
            slot.link.know(opening);
        }
    }

    /// A link's transport is up, with this credential.
    pub(super) fn link_opened(&mut self, id: LinkId, credential: Option<CredentialUse>, now: &Now) {
        let credential = credential.map(|credential| {
            let context = Context::Credential {
                id: credential.id,
                store: credential.store.to_owned(),
                serial: credential.serial,
            };
            self.outbox.context(context, now)
        });
        if let Some(slot) = self.links.slot(id) {
            slot.credential = credential;
        }
        self.link_input(id, LinkInput::Opened, now);
    }

    /// A link's transport was not started, because of something on this side.
    pub(super) fn link_refused(&mut self, id: LinkId, reason: &str, now: &Now) {
        self.link_input(id, LinkInput::Refused(reason), now);
        // a person has to mend it, so there is no back-off that would grow
        self.watch_later(id, now.mono_us + limits::LINK_BACKOFF_MS.1 * 1000);
    }

    /// Resources of a link that is down are watched: it is started again at this time, or when
    /// its back-off is over.
    fn watch_later(&mut self, id: LinkId, at_us: u64) {
        let watched = self.watches(id);
        let Some(slot) = self.links.slot(id).filter(|_| watched) else {
            return;
        };
        if let LinkState::Closed { not_before_us } = slot.link.state() {
            slot.rewatch_at_us = Some(at_us.max(not_before_us));
        }
    }

    /// Whether a resource of this link's server is watched, as the catalog routes it now.
    fn watches(&self, id: LinkId) -> bool {
        let slot = self.links.seen(id).filter(|slot| !slot.retired);
        slot.is_some_and(|slot| self.is_watched(&slot.link.server().key))
    }

    /// A server did not take an answer to a question of its own. Its call goes on: only the server
    /// knows what it makes of that.
    pub(super) fn link_unheard(&mut self, id: LinkId, loss: &Loss, now: &Now) {
        if let Some(server) = self.server_of(id) {
            if self.refuses_once_more(id) {
                let server = self.server_context(&server, now);
                let record = Record::Link {
                    server,
                    code: "unheard",
                    detail: format!("an answer to a question of its own: it {}", loss.reason),
                };
                self.outbox.append(record, now);
            } else {
                self.outbox.count("unheard", now);
            }
        }
        self.link_input(id, LinkInput::Strained(loss), now);
    }

    /// A live credential was taken out of the link's next line: the record says so.
    pub(super) fn redacted(&mut self, id: LinkId, times: u64, now: &Now) {
        let Some(server) = self
            .links
            .seen(id)
            .map(|slot| Arc::clone(slot.link.server()))
        else {
            return;
        };
        let server = self.server_context(&server, now);
        let record = Record::Link {
            server,
            code: "redacted",
            detail: format!("its next message held a live credential, {times} times"),
        };
        self.outbox.append(record, now);
    }

    /// One request of a link will not be answered; one that was already is not concerned.
    pub(super) fn exchange_lost(&mut self, id: LinkId, number: u64, loss: &Loss, now: &Now) {
        let key = Key {
            link: id,
            id: number,
        };
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        slot.chores.retain(|chore| *chore != number);
        if slot.link.owns(number) {
            return self.link_input(id, LinkInput::Lost { id: number, loss }, now);
        }
        let Some(call) = self.calls.get(key) else {
            return;
        };
        let stood = matches!(call.origin, Origin::Standing);
        let (server, _) = self.links.describe(id);
        let reason = &loss.reason;
        let (end, text) = match loss.reach {
            Reach::NotSent => (End::NotSent, format!("server {server} {reason}")),
            Reach::Refused(status) => (
                End::Error(i64::from(status)),
                format!("server {server} {reason}"),
            ),
            Reach::Unknown => (
                End::Unknown,
                format!("server {server} {reason}; whether the call took effect is not known"),
            ),
        };
        self.fail(key, Outcome::bare(end), &text, now);
        if stood {
            // what is watched is subscribed to again once the link is ready again
            self.links.listen_again(id, now);
        }
        self.link_input(id, LinkInput::Strained(loss), now);
    }

    /// Whether a request has no answer yet.
    pub(super) fn is_awaited(&self, id: LinkId, number: u64) -> bool {
        let key = Key {
            link: id,
            id: number,
        };
        let slot = self.links.seen(id);
        self.calls.get(key).is_some()
            || slot.is_some_and(|slot| slot.chores.contains(&number) || slot.link.owns(number))
    }

    /// A server's transport is to be opened anew.
    pub(super) fn renew(&mut self, server: &ServerKey, at_once: bool, now: &Now) {
        let Some(id) = self.links.by_server.get(server).copied() else {
            return;
        };
        self.moved = true;
        let watched = self.is_watched(server);
        *self.links.renewals.entry(server.clone()).or_default() += 1;
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        slot.trouble = None;
        slot.link.forgive();
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
                    slot.link.declare(self.front.can, self.front.apps());
                    slot.link.want(now);
                }
            }
            self.pump(id, now);
        }
        if self.front.era().is_some() {
            self.open_unpinned(now);
        }
    }

    /// A server's entry in the registry that decides.
    pub(super) fn entry(&self, server: &ServerKey) -> Option<Arc<ServerDoc>> {
        let registry = self.snapshot.registry()?;
        registry.servers.get(server).cloned()
    }

    /// Opens a server's link if it is closed and may be.
    fn want(&mut self, server: &Arc<ServerDoc>, now: &Now) {
        let id = self.link_for(server);
        if let Some(slot) = self.links.slot(id) {
            slot.link.declare(self.front.can, self.front.apps());
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
    pub(super) fn wait(&mut self, id: LinkId, waiting: Waiting, now: &Now) {
        if let Some(slot) = self.links.slot(id) {
            slot.waiting_bytes += waiting.bytes();
            slot.waiting.push_back(waiting);
            slot.link.declare(self.front.can, self.front.apps());
            slot.link.want(now);
            slot.busy(now);
        }
        self.pump(id, now);
    }

    /// Gives a link an input and does what it then wants.
    pub(super) fn link_input(&mut self, id: LinkId, input: LinkInput<'_>, now: &Now) {
        if let Some(slot) = self.links.slot(id) {
            slot.link.handle(input, now);
        }
        self.pump(id, now);
    }

    /// Does what a link wants done.
    pub(super) fn pump(&mut self, id: LinkId, now: &Now) {
        while let Some(wanted) = self.links.slot(id).and_then(|slot| slot.link.poll()) {
            self.moved |= !matches!(
                wanted,
                LinkOutput::Learned(_) | LinkOutput::Note(..) | LinkOutput::Send(_)
            );
            match wanted {
                LinkOutput::Close => {
                    self.outbox.push(Output::CloseLink(id));
                    let ending = self.links.slot(id).and_then(|slot| slot.ending.take());
                    self.link_lost(id, ending.unwrap_or("was stopped"), now);
                }
                LinkOutput::Failed(failure) => self.link_failed(id, &failure, now),
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
    pub(super) fn next_in_line(&mut self, id: LinkId, now: &Now) {
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

    fn resume(&mut self, waiting: Waiting, fate: Fate<'_>, now: &Now) {
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

    fn link_failed(&mut self, id: LinkId, failure: &LinkFailure, now: &Now) {
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        let server = slot.link.server();
        let (code, sentence) = match failure {
            LinkFailure::Down(phrase) => (
                DenialCode::Unavailable,
                format!("server {} {phrase}; ask {}", server.key, server.oncall),
            ),
            LinkFailure::Drift(difference) => (
                DenialCode::Drift,
                format!(
                    "server {} is not the one that was approved: {difference}; ask {}",
                    server.key, server.owner
                ),
            ),
        };
        slot.trouble = Some(sentence.clone());
        slot.waiting_bytes = 0;
        let waiting = std::mem::take(&mut slot.waiting);
        slot.resting.clear();
        // one that is not what was approved any more gets nothing, even if it was decided before
        let drifted = matches!(failure, LinkFailure::Drift(_));
        if slot.forgotten.take().is_some() || drifted {
            self.fail_held(id, &sentence, now);
        }
        let denial = Denial::new(code, sentence);
        for one in waiting {
            self.resume(one, Fate::Refused(id, &denial), now);
        }
        if let Some(slot) = self.links.slot(id) {
            slot.busy(now);
        }
        match failure {
            LinkFailure::Down(_) => self.watch_later(id, now.mono_us),
            // it stays another server until the registry moves
            LinkFailure::Drift(_) => {}
        }
    }

    /// What a server that is not pinned offers: part of a snapshot of our own.
    fn link_surface(&mut self, id: LinkId, mut surface: Surface, now: &Now) {
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
                let name = pin::printable(name);
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

    /// Starts servers that are not pinned and that the caller may use: what they offer is known
    /// once they run.
    pub(super) fn open_unpinned(&mut self, now: &Now) {
        let snapshot = Arc::clone(&self.snapshot);
        let Some(registry) = snapshot.registry() else {
            return;
        };
        for (key, server) in &registry.servers {
            let grants = |role| registry.policy.grants.get(role)?.get(key);
            let wanted = server.pin == PinMode::Off
                && !self.links.live.contains_key(key)
                && !registry.revocations.servers.contains(key)
                && snapshot.roles().iter().any(|role| grants(role).is_some());
            if wanted {
                let id = self.link_for(server);
                if let Some(slot) = self.links.slot(id) {
                    slot.link.declare(self.front.can, self.front.apps());
                    slot.link.want(now);
                }
                self.pump(id, now);
            }
        }
    }

    /// The snapshot with what is known of servers that are not pinned.
    pub(super) fn with_live(
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

    /// Gives links the entries of a new registry; ends those whose server is gone or moved.
    pub(super) fn links_follow(&mut self, now: &Now) {
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

    /// A link's transport is gone: its calls end here.
    fn link_lost(&mut self, id: LinkId, reason: &str, now: &Now) {
        if let Some(slot) = self.links.slot(id) {
            slot.chores.clear();
            // what still waits to be said on it is said to nobody
            slot.transport = slot.transport.wrapping_add(1);
        }
        let (key, _) = self.links.describe(id);
        self.forget_asks(Some(id), now);
        self.forget_drives(id, reason, now);
        for _ in 0..self.listens.lose(id) {
            self.links.released(id, now);
        }
        let forgotten = self
            .links
            .seen(id)
            .is_some_and(|slot| slot.forgotten.is_some());
        for call in self.calls.of_link(id) {
            let sent = self
                .calls
                .get(call)
                .map(|call| matches!(call.stage, Stage::Sent));
            if sent == Some(false) && forgotten {
                continue;
            }
            let (end, text) = if sent == Some(true) {
                let text = format!(
                    "server {key} {reason} before it answered; whether the call took effect is \
                     not known"
                );
                (End::Unknown, text)
            } else {
                let text = match self.calls.went_before(call) {
                    true => format!(
                        "server {key} {reason} while the call went on; whether it took effect is \
                         not known"
                    ),
                    false => format!("server {key} {reason} before the call was sent"),
                };
                (End::NotSent, text)
            };
            self.fail(call, Outcome::bare(end), &text, now);
        }
    }

    /// A server does not know its session any more: what it was sent is lost, what it was not goes
    /// on with the next session. The call that met it was told so.
    pub(super) fn link_forgotten(&mut self, id: LinkId, met: Option<u64>, now: &Now) {
        const REASON: &str = "does not know the session any more";
        let own = |met: &u64| {
            let slot = self.links.seen(id);
            slot.is_none_or(|slot| slot.link.owns(*met))
        };
        if let Some(met) = met.filter(|met| !own(met)) {
            // MCP 2025-11-25, session management: it was not executed
            let loss = Loss {
                reach: Reach::Refused(404),
                reason: "does not know this session any more, so it did not take the call; call \
                         again"
                    .to_owned(),
                pause_ms: None,
                broken: false,
            };
            self.exchange_lost(id, met, &loss, now);
        }
        let Some(slot) = self.links.slot(id).filter(|slot| slot.link.is_ready_run()) else {
            // one that forgets while it is opened would be opened for ever
            return self.link_closed(id, REASON, now);
        };
        self.moved = true;
        slot.forgotten = Some((slot.era, slot.credential));
        self.link_lost(id, REASON, now);
        let lasted = self
            .links
            .slot(id)
            .is_some_and(|slot| slot.link.forgotten(now));
        if let Some(slot) = self.links.slot(id).filter(|slot| !slot.retired)
            && (!slot.waiting.is_empty() || !slot.resting.is_empty())
        {
            slot.link.declare(self.front.can, self.front.apps());
            slot.link.want(now);
        }
        self.pump(id, now);
        // what is watched alone must not open it for ever
        let pause_us = limits::LINK_BACKOFF_MS.1 * 1000;
        let at_us = now.mono_us + if lasted { 0 } else { pause_us };
        self.watch_later(id, at_us);
        self.watch_due(id, now);
    }

    /// Whether a call that may be sent has to wait for the next session of a server that forgot
    /// the last; it is sent with the link's readiness.
    pub(super) fn rests(&mut self, key: Key, now: &Now) -> bool {
        let Some(slot) = self.links.slot(key.link) else {
            return false;
        };
        if slot.forgotten.is_none() {
            return false;
        }
        slot.resting.push(key);
        slot.link.declare(self.front.can, self.front.apps());
        slot.link.want(now);
        self.pump(key.link, now);
        true
    }

    /// Ends the calls of a link that were not sent.
    fn fail_held(&mut self, id: LinkId, text: &str, now: &Now) {
        let held = self
            .calls
            .select(|key, call| key.link == id && matches!(call.stage, Stage::Held(_)));
        for call in held {
            let went =
                format!("{text}; it went on from an earlier request, which may have had an effect");
            let text = match self.calls.went_before(call) {
                true => &went,
                false => text,
            };
            self.fail(call, Outcome::bare(End::NotSent), text, now);
        }
    }

    pub(super) fn link_closed(&mut self, id: LinkId, reason: &str, now: &Now) {
        self.moved = true;
        // its link knows first: what waits for it must not go there while its calls end
        if let Some(slot) = self.links.slot(id) {
            slot.link.handle(LinkInput::Closed(reason), now);
        }
        self.link_lost(id, reason, now);
        self.pump(id, now);
        // somebody watches its resources: it is started again, at once unless it just was
        self.watch_later(id, now.mono_us);
        self.watch_due(id, now);
    }

    /// Starts a link again whose resources are watched, when it is time.
    fn watch_due(&mut self, id: LinkId, now: &Now) {
        let due = |at: &mut u64| *at <= now.mono_us;
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        if slot.rewatch_at_us.take_if(due).is_some() {
            slot.link.declare(self.front.can, self.front.apps());
            slot.link.want(now);
            self.pump(id, now);
        }
    }

    /// Ends every link: the session is over.
    pub(super) fn end_links(&mut self, now: &Now) {
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

    pub(super) fn links_wake(&mut self, now: &Now) {
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
    pub(super) fn server_context(&mut self, server: &ServerDoc, now: &Now) -> ContextId {
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

    // ---- log levels

    /// The client set a level: servers of the handshake era are told.
    pub(super) fn links_level(&mut self, level: Level) {
        for id in self.links.ids() {
            self.tell_level(id, level);
        }
    }

    /// A request asks for log messages: a server of the handshake era is told the level, unless
    /// it knows one that gives at least as many.
    pub(super) fn wants_level(&mut self, id: LinkId, level: Option<Level>) {
        let known = self.links.seen(id).and_then(|slot| slot.level);
        if let Some(level) = level
            && known.is_none_or(|known| known > level)
        {
            self.tell_level(id, level);
        }
    }

    fn tell_level(&mut self, id: LinkId, level: Level) {
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        let logs = || {
            let capabilities = slot.link.live()?.capabilities.as_ref()?;
            Object::parse(capabilities.get()).ok()?.get("logging")
        };
        let ready = matches!(slot.era, Some(Era::Handshake(_)))
            && matches!(slot.link.state(), LinkState::Ready(_));
        if !ready || slot.level == Some(level) || logs().is_none() {
            return;
        }
        slot.level = Some(level);
        if let Some(chore) = self.links.chore(id) {
            let line = Upstream::Housekeeping(Housekeeping::SetLevel(chore, level));
            self.outbox.send_link(id, line);
        }
    }

    // ---- what an upstream says

    pub(super) fn link_line(
        &mut self,
        id: LinkId,
        during: Option<u64>,
        line: &[u8],
        now: &Now,
        entropy: &mut dyn Entropy,
    ) {
        let Some(slot) = self.links.slot(id) else {
            return;
        };
        slot.link.heard();
        match Message::parse(line) {
            Ok(Message::Response(response)) => {
                let Some(number) = response.id.and_then(|id| id.number()) else {
                    return self.outbox.count("stray-answer", now);
                };
                let owned = self.links.slot(id).is_some_and(|slot| {
                    if let Some(at) = slot.chores.iter().position(|chore| *chore == number) {
                        slot.chores.swap_remove(at);
                        return true;
                    }
                    slot.link.owns(number)
                });
                if !owned {
                    return self.answered(id, number, &response, now, entropy);
                }
                let answer = match &response.body {
                    Body::Error {
                        code,
                        message,
                        object,
                    } => Answer::Error {
                        code: *code,
                        message,
                        data: object.get("data"),
                    },
                    Body::Result(result) => Answer::Result(result.raw()),
                };
                self.link_input(id, LinkInput::Answer { id: number, answer }, now);
            }
            Ok(Message::Notification(notification)) => {
                self.link_notification(id, during, &notification, now);
            }
            Ok(Message::Request(request)) if request.method == "ping" => {
                self.link_input(id, LinkInput::Ping(request.id.raw()), now);
            }
            Ok(Message::Request(request)) => {
                self.upstream_asks(id, during, &request, now);
            }
            Err(rejected) => self.link_rejected(id, line, &rejected, now),
        }
    }

    /// A line of an upstream's that is no message. Where it was to be an answer, its call ends.
    fn link_rejected(&mut self, id: LinkId, line: &[u8], rejected: &Rejected, now: &Now) {
        self.outbox.count("upstream-line", now);
        let number = rejected.id.as_deref().and_then(|id| id.parse().ok());
        let call = number.map(|number| Key {
            link: id,
            id: number,
        });
        if let Some(number) = number
            && self
                .links
                .slot(id)
                .is_some_and(|slot| slot.link.owns(number))
        {
            // what the link asked for itself will not be answered either
            let loss = Loss {
                reach: Reach::Unknown,
                reason: format!("gave an unusable answer: {}", rejected.fault),
                pause_ms: None,
                broken: true,
            };
            let lost = LinkInput::Lost {
                id: number,
                loss: &loss,
            };
            self.link_input(id, lost, now);
        }
        let mut call = call;
        let unreadable = matches!(
            rejected.fault,
            Fault::Raw(RawError::Depth) | Fault::Utf8 { .. }
        );
        if unreadable && is_spoilt_answer(line) {
            // nobody can read to what: while it is opened, or one call is in flight, it is known
            let reason = format!("gave an unusable answer: {}", rejected.fault);
            self.link_input(id, LinkInput::Spoilt(&reason), now);
            if let [only] = self.asked_on(id)[..] {
                call = Some(only);
            }
        }
        let sent = call.and_then(|call| self.calls.get(call));
        let sent = sent.is_some_and(|call| matches!(call.stage, Stage::Sent));
        if let (Kind::Response | Kind::Unknown, Some(call), true) = (rejected.kind, call, sent) {
            let (key, _) = self.links.describe(id);
            let text = format!("server {key} gave an unusable answer: {}", rejected.fault);
            let outcome = Outcome {
                end: End::Unknown,
                content: Content(bytes::Bytes::copy_from_slice(line)),
            };
            self.fail(call, outcome, &text, now);
        }
        self.link_input(id, LinkInput::Fault(None), now);
    }

    /// The calls that a link's server has not answered.
    fn asked_on(&self, id: LinkId) -> Vec<Key> {
        self.calls.select(|key, call| {
            key.link == id
                && matches!(call.stage, Stage::Sent)
                && !matches!(call.origin, Origin::Standing)
        })
    }

    /// Bytes of an upstream's that are no line. Where answers come they were one: of the call that
    /// its transport names, else of the only one that waits.
    pub(super) fn link_fault(&mut self, id: LinkId, place: Place, fault: LineFault, now: &Now) {
        self.outbox.count("upstream-line", now);
        let mut asked = self.asked_on(id);
        asked.retain(|key| match place {
            Place::Answer(request) => key.id == request,
            Place::News => false,
            Place::Only => true,
        });
        if let (LineFault::TooLong { bytes }, [call]) = (fault, &asked[..]) {
            let call = *call;
            let (key, _) = self.links.describe(id);
            let text = format!(
                "the answer of server {key} has {bytes} bytes, more than {}; ask for less",
                limits::LINE_BYTES
            );
            self.fail(call, Outcome::bare(End::Unknown), &text, now);
        }
        self.link_input(id, LinkInput::Fault(Some(fault)), now);
    }

    fn link_notification(
        &mut self,
        id: LinkId,
        during: Option<u64>,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        match notification.method.as_ref() {
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => {
                self.link_input(id, LinkInput::Changed, now);
            }
            "notifications/message"
            | "notifications/progress"
            | "notifications/resources/updated"
            | "notifications/tasks"
                if inspect::notification(notification) != Finding::Clear =>
            {
                self.outbox.count("long-notification", now);
            }
            "notifications/progress" => self.progress(id, notification, now),
            "notifications/message" => self.log_message(id, during, notification),
            "notifications/resources/updated" => self.resource_updated(id, notification, now),
            "notifications/tasks" => self.task_told(id, notification, now),
            "notifications/subscriptions/acknowledged" => self.acknowledged(id, notification, now),
            // of a listen of ours (MCP 2026-07-28, cancellation), or of a question of its own
            "notifications/cancelled" => match self.links.era(id) {
                Some(Era::Stateless) => self.listen_withdrawn(id, notification, now),
                Some(Era::Handshake(_)) | None => self.upstream_cancels(id, notification, now),
            },
            "notifications/elicitation/complete" => {
                self.elicitation_complete(id, notification, now);
            }
            _ => self.outbox.count("unknown-upstream-notification", now),
        }
    }

    fn progress(&mut self, id: LinkId, notification: &Notification<'_>, now: &Now) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let token = params.and_then(|params| params.get("progressToken"));
        let number = token.and_then(|token| token.parse().ok());
        let call = number.and_then(|number| {
            self.calls.get(Key {
                link: id,
                id: number,
            })
        });
        let Some(call) = call else {
            return self.outbox.count("stray-progress", now);
        };
        if let (
            Stage::Sent,
            Origin::Client {
                progress: Some(own),
                ..
            },
            Some(span),
        ) = (
            &call.stage,
            &call.origin,
            params.and_then(|params| params.value_span("progressToken")),
        ) {
            self.edits.clear();
            self.edits.replace(span, own);
            let mut line = Vec::with_capacity(notification.line.len() + 64);
            self.edits.apply(notification.line, &mut line);
            line.push(b'\n');
            self.outbox.send_client(line);
        }
    }

    /// Passes a log message on where the client asked for it: a handshake client by
    /// `logging/setLevel` or by default, a stateless one by a request in flight at this server: the
    /// one on whose answer's stream the message came, where the transport knows.
    fn log_message(&mut self, id: LinkId, during: Option<u64>, notification: &Notification<'_>) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let level = params.and_then(|params| params.get("level"));
        let level = level.and_then(Level::parse).unwrap_or(Level::Info);
        let wanted = match self.front.era() {
            None => false,
            Some(Era::Handshake(_)) => self.front.level.is_none_or(|least| level >= least),
            Some(Era::Stateless) => {
                let asked = self.calls.select(|key, call| {
                    key.link == id
                        && during.is_none_or(|during| during == key.id)
                        && matches!(call.stage, Stage::Sent)
                        && call.level.is_some_and(|least| level >= least)
                });
                !asked.is_empty()
            }
        };
        if wanted {
            let mut line = Vec::with_capacity(notification.line.len() + 1);
            line.extend_from_slice(notification.line.as_bytes());
            line.push(b'\n');
            self.outbox.send_client(line);
        }
    }

    /// Whether one more question of this link's transport is answered.
    pub(super) fn asks_once_more(&mut self, id: LinkId) -> bool {
        let slot = self.links.slot(id);
        slot.is_some_and(|slot| {
            let [answered, _] = &mut slot.asks;
            *answered = answered.saturating_add(1);
            *answered <= limits::ASKS
        })
    }

    /// Whether one more refused question of this link's transport is recorded by itself.
    pub(super) fn refuses_once_more(&mut self, id: LinkId) -> bool {
        let slot = self.links.slot(id);
        slot.is_some_and(|slot| {
            let [_, refused] = &mut slot.asks;
            *refused = refused.saturating_add(1);
            *refused <= limits::ASKS_REFUSED
        })
    }

    pub(super) fn server_of(&self, id: LinkId) -> Option<Arc<ServerDoc>> {
        Some(Arc::clone(self.links.seen(id)?.link.server()))
    }
}
