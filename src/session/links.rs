//! The machine's side of its links: which there are, what waits for them, what is known of each.
//!
//! How they live is [`life`]'s, what it costs to lose one [`loss`]'s, what they say [`heard`]'s, and
//! what servers that are not pinned offer [`live`]'s.

mod heard;
mod life;
mod live;
mod loss;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Machine;
use super::call::Key;
use super::link::{self, Link, LinkState};
use super::outbox::Level;
use super::report::{self, ServerReport};
use crate::audit::entry::ContextId;
use crate::clock::Now;
use crate::ids::{LinkId, ServerKey};
use crate::limits;
use crate::pin::{self, Kept};
use crate::policy::{Access, Denial, DenialCode};
use crate::registry::doc::Surface;
use crate::text;
use crate::wire::era::{Can, Era};
use crate::wire::msg::IdKey;

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
    /// What was not what was approved when it was ready the last time.
    differing: BTreeSet<(pin::Kind, String)>,
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

/// New sessions that were tried because of a refusal.
#[derive(Debug)]
struct Doubt {
    /// When the first of this minute was tried, in monotonic microseconds, and how many were.
    since_us: u64,
    tried: u32,
    /// A call was answered since the last one.
    served: bool,
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
    /// Servers whose session was doubted, and no call answered since.
    doubts: BTreeMap<ServerKey, Doubt>,
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

    /// What is added to the reason of a call that got no answer in its time: see
    /// [`Link::stray_since`].
    pub(super) fn stray_since(&self, key: Key, now: &Now) -> String {
        self.seen(key.link).map_or_else(String::new, |slot| {
            let limit_us = slot.link.server().limits.call_ms.saturating_mul(1000);
            slot.link.stray_since(now.mono_us.saturating_sub(limit_us))
        })
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

    /// Why something that is pinned cannot be called at a link that is ready: it is not what was
    /// reviewed any more, or its server offers it to other clients only.
    pub(super) fn withholds(&self, id: LinkId, access: &Access) -> Option<Denial> {
        let link = &self.seen(id)?.link;
        let server = link.server();
        if let Some(difference) = differs(link, access) {
            let text = format!(
                "{access} is not what was approved any more: {difference}; ask {} to have server \
                 {} reviewed and pinned again",
                server.owner, server.key
            );
            return Some(Denial::new(DenialCode::Drift, text));
        }
        let (kind, name) = match access {
            Access::Prompt { name, .. } => (pin::Kind::Prompt, name),
            Access::Resource { .. } => return None,
            Access::Tool { name, .. } => (pin::Kind::Tool, name),
        };
        let lacking = link.lacks(kind, name)?.join(", ");
        let text = format!(
            "server {} offers {access} only to clients that can be asked for what this one does \
             not declare: {lacking}; use another client, or ask {}",
            server.key, server.owner
        );
        Some(Denial::new(DenialCode::Incapable, text))
    }

    /// A server answered a call.
    pub(super) fn served(&mut self, id: LinkId, trusted: bool) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        slot.link.served();
        if trusted
            && !self.doubts.is_empty()
            && let Some(slot) = self.seen(id)
        {
            let server = slot.link.server().key.clone();
            if let Some(doubt) = self.doubts.get_mut(&server) {
                doubt.served = true;
            }
        }
    }

    /// Whether a new session is tried because of a refusal. A server that refuses everything is
    /// asked for one once a minute; one that answers in between is, a few times.
    pub(super) fn doubts(&mut self, id: LinkId, now: &Now) -> bool {
        let Some(slot) = self.seen(id) else {
            return false;
        };
        if slot.retired || !slot.link.has_session() {
            return false;
        }
        let server = slot.link.server().key.clone();
        let fresh = Doubt {
            since_us: now.mono_us,
            tried: 0,
            served: true,
        };
        let doubt = self.doubts.entry(server).or_insert(fresh);
        if now.mono_us.saturating_sub(doubt.since_us) >= limits::DOUBT_MS * 1000 {
            (doubt.since_us, doubt.tried, doubt.served) = (now.mono_us, 0, true);
        }
        let tries = doubt.served && doubt.tried < limits::DOUBTS;
        if tries {
            doubt.tried += 1;
            doubt.served = false;
        }
        tries
    }

    /// A server is opened anew by a person, or with another credential: what it refused before says
    /// nothing.
    pub(super) fn trust(&mut self, server: &ServerKey) {
        self.doubts.remove(server);
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
                differing: slot
                    .link
                    .differing()
                    .iter()
                    .take(limits::DIFFERING_SHOWN)
                    .map(|((kind, name), how)| {
                        let place = pin::quarantine::place(*kind, &text::printable(name));
                        (place, how.clone())
                    })
                    .collect(),
                quarantined: shown
                    .map(|(name, reason)| (text::printable(name), reason.clone()))
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

impl Machine {
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
}

/// How what is asked for differs from what was reviewed. A resource that is listed nowhere belongs
/// to the templates whose literal beginning it shares.
fn differs<'l>(link: &'l Link, access: &Access) -> Option<&'l str> {
    let differing = link.differing();
    if differing.is_empty() {
        return None;
    }
    let of = |kind, name: &str| differing.get(&(kind, name.to_owned()));
    let found = match access {
        Access::Prompt { name, .. } => of(pin::Kind::Prompt, name),
        Access::Resource { uri, .. } => of(pin::Kind::Resource, uri).or_else(|| {
            let templates = differing
                .iter()
                .filter(|((kind, _), _)| *kind == pin::Kind::Template);
            let literal = |template: &'l str| template.split('{').next().unwrap_or_default();
            let mut sharing = templates.filter(|((_, name), _)| uri.starts_with(literal(name)));
            sharing.next().map(|(_, difference)| difference)
        }),
        Access::Tool { name, .. } => of(pin::Kind::Tool, name),
    };
    found.map(String::as_str)
}
