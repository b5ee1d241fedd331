//! Subscriptions: `subscriptions/listen` of stateless clients, `resources/subscribe` of handshake
//! clients, and what upstreams report.
//!
//! Changes of lists are mcpshim's own news: the lists come from the snapshot. Changes of
//! resources are an upstream's: every subscribed URI is decided and recorded like a call, and
//! goes to the server that owns the URI in that server's own era:
//!
//! | | upstream of the handshake era | of the stateless era |
//! |---|---|---|
//! | `resources/subscribe` | passed on | a `subscriptions/listen` of ours, open until unsubscribed |
//! | a URI in `subscriptions/listen` | a `resources/subscribe` of ours | the same |
//!
//! When a listen is acknowledged, and with what, is [`early`]'s.

mod early;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::early::Early;
use super::Machine;
use super::call::{Execution, Key, Method, Origin, Outcome, Stage};
use super::front::{Asker, List};
use super::link::LinkInput;
use super::outbox::{Housekeeping, Upstream};
use super::road::Fate;
use crate::audit::entry::End;
use crate::catalog::alias;
use crate::clock::Now;
use crate::ids::{LinkId, ServerKey};
use crate::limits;
use crate::policy::{Access, Snapshot};
use crate::secret::Content;
use crate::wire::era::{self, Can, Era};
use crate::wire::msg::{self, IdKey, Message, Notification, Request};
use crate::wire::raw;

/// One `subscriptions/listen` of the client's.
#[derive(Debug)]
struct Listen {
    key: IdKey,
    /// Its id token, which stamps every notification.
    id: Box<str>,
    line: Vec<u8>,
    lists: [bool; 3],
    /// What is honoured: resources, and tasks by the ids the client has for them.
    uris: BTreeSet<String>,
    /// Every task it asks for.
    tasks: BTreeSet<String>,
    /// What of it is honoured, and not confirmed by its server.
    unconfirmed: BTreeSet<String>,
    /// Until it is acknowledged.
    early: Option<Early>,
    /// What its client can be asked for, as it says.
    can: Can,
}

/// Every subscription of the session.
#[derive(Debug, Default)]
pub(super) struct Listens {
    open: Vec<Listen>,
    /// URIs a handshake client is subscribed to.
    own: BTreeSet<String>,
    /// Those that are asked for again, until their server confirms it.
    own_unconfirmed: BTreeSet<String>,
    /// Subscriptions held at servers of the handshake era.
    held: BTreeSet<(LinkId, String)>,
    /// Changes of lists that the client is not told yet.
    news: Option<News>,
}

/// Lists that moved and are watched for more of it.
#[derive(Debug)]
struct News {
    /// What the client was told last.
    before: Arc<Snapshot>,
    due_us: u64,
}

const LISTS: [(&str, &str); 3] = [
    ("toolsListChanged", "notifications/tools/list_changed"),
    ("promptsListChanged", "notifications/prompts/list_changed"),
    (
        "resourcesListChanged",
        "notifications/resources/list_changed",
    ),
];

impl Listens {
    pub(super) fn next_wakeup(&self) -> Option<u64> {
        let news = self.news.as_ref().map(|news| news.due_us);
        let early = self.open.iter().filter_map(|listen| listen.early.as_ref());
        news.into_iter().chain(early.map(Early::until_us)).min()
    }

    pub(super) fn has(&self, key: &IdKey) -> bool {
        self.open.iter().any(|listen| listen.key == *key)
    }

    /// A link's transport is gone, and its subscriptions with it: how many.
    pub(super) fn lose(&mut self, link: LinkId) -> usize {
        let before = self.held.len();
        self.held.retain(|(of, _)| *of != link);
        before - self.held.len()
    }

    /// What is watched, each URI once: the listen it is part of, if it is part of one.
    fn watched(&self) -> BTreeMap<&str, Option<&IdKey>> {
        let own = self.own.iter().map(|uri| (uri.as_str(), None));
        let open = self.open.iter();
        let listens = open.flat_map(|listen| {
            listen
                .uris
                .iter()
                .map(|uri| (uri.as_str(), Some(&listen.key)))
        });
        own.chain(listens).collect()
    }

    /// The listens that a task is part of: their id tokens, and what their clients can be asked.
    pub(super) fn of_task(&self, label: &str) -> Vec<(IdKey, Box<str>, Can)> {
        let open = self.open.iter();
        let open = open.filter(|open| open.tasks.contains(label) && open.uris.contains(label));
        open.map(|open| (open.key.clone(), open.id.clone(), open.can))
            .collect()
    }

    /// How many want a URI: the handshake client itself, and each listen.
    fn wanted(&self, uri: &str) -> usize {
        let open = self.open.iter();
        let listens = open.filter(|listen| listen.uris.contains(uri)).count();
        listens + usize::from(self.own.contains(uri))
    }
}

impl Machine {
    /// Whether the session may not be subscribed to more resources.
    pub(super) fn subscriptions_full(&self) -> bool {
        self.listens.own.len().max(self.links.held()) >= limits::SUBSCRIPTIONS
    }

    /// Takes a `subscriptions/listen`: asks the servers of what it watches, and acknowledges it
    /// once they have answered.
    pub(super) fn listen(&mut self, request: &Request<'_>, asker: &Asker<'_>, now: &Now) {
        let params = request.params.as_ref().map(|params| &params.object);
        let Some(Ok(Some(wanted))) = params.map(|params| params.object("notifications")) else {
            let text = "params.notifications must be an object without duplicate keys";
            return self.error(&request.id, -32602, text, None);
        };
        let asked = wanted.get("resourceSubscriptions").unwrap_or("[]");
        let Ok(asked) = raw::elements(asked) else {
            let text = "params.notifications.resourceSubscriptions must be an array";
            return self.error(&request.id, -32602, text, None);
        };
        // what a client cannot follow it cannot ask for
        let tasks = match asker.follows_tasks() {
            true => wanted.get("taskIds").unwrap_or("[]"),
            false => "[]",
        };
        let Ok(tasks) = raw::elements(tasks) else {
            let text = "params.notifications.taskIds must be an array";
            return self.error(&request.id, -32602, text, None);
        };
        // what may be watched is in the registry
        let watches = !(asked.is_empty() && tasks.is_empty());
        if watches && self.waits_for_registry(request, now) {
            return;
        }
        let held: usize = self
            .listens
            .open
            .iter()
            .map(|listen| listen.uris.len())
            .sum();
        if self.listens.open.len() >= limits::LISTENS
            || held + asked.len() + tasks.len() > limits::SUBSCRIPTIONS
            || request.line.len() > limits::LISTEN_BYTES
        {
            self.outbox.count("listen-limit", now);
            let text = "too many subscriptions at once; cancel some, or ask for fewer";
            return self.error(&request.id, -32603, text, None);
        }
        let texts = |tokens: Vec<&str>| -> BTreeSet<String> {
            let texts = tokens.into_iter();
            let texts = texts.filter_map(|token| Some(raw::string(token)?.into_owned()));
            texts.collect()
        };
        let tasks = texts(tasks);
        let asked: BTreeSet<String> = texts(asked).difference(&tasks).cloned().collect();
        let lists = LISTS.map(|(flag, _)| wanted.get(flag) == Some("true"));
        let mut uris: BTreeSet<String> = asked
            .iter()
            .filter(|uri| self.may_watch(uri, now))
            .cloned()
            .collect();
        let followed = tasks.iter().filter(|task| self.may_follow(task, now));
        let followed: BTreeSet<String> = followed.cloned().collect();
        uris.extend(followed);
        let key = request.id.key();
        self.listens.open.push(Listen {
            key: key.clone(),
            id: request.id.raw().into(),
            line: request.line.as_bytes().to_vec(),
            lists,
            early: Some(Early::new(uris.clone(), now)),
            uris,
            tasks: tasks.clone(),
            unconfirmed: BTreeSet::new(),
            can: asker.can,
        });
        debug_assert_eq!(asker.era, Era::Stateless);
        for uri in asked.iter().chain(&tasks) {
            self.listen_resource(&key, uri, Fate::Fresh, now);
        }
        self.acknowledge(now);
    }

    /// Puts one URI of a listen on the road. A refusal is recorded.
    pub(super) fn listen_resource(&mut self, listen: &IdKey, uri: &str, fate: Fate<'_>, now: &Now) {
        let mut open = self.listens.open.iter_mut();
        let Some(open) = open.find(|open| open.key == *listen) else {
            return;
        };
        if open.uris.contains(uri) {
            open.unconfirmed.insert(uri.to_owned());
        }
        let (line, task) = (open.line.clone(), open.tasks.contains(uri));
        match (Message::parse(&line), task) {
            (Ok(Message::Request(request)), true) => self.watch_task(&request, uri, fate, now),
            (Ok(Message::Request(request)), false) => self.watch(&request, uri, fate, now),
            _ => {}
        }
    }

    /// Whether a resource is watched that this server has for this caller.
    pub(super) fn is_watched(&self, server: &ServerKey) -> bool {
        let watched = self.listens.watched();
        watched.keys().any(|uri| self.is_at(uri, server))
    }

    /// Whether a resource or task is this server's.
    fn is_at(&self, uri: &str, server: &ServerKey) -> bool {
        match self.tasks.server(uri) {
            Some(owner) => owner == server,
            None => self.snapshot.catalog().route(uri).as_ref() == Some(server),
        }
    }

    /// A link is ready: what is watched there and is not subscribed to on this transport is asked
    /// for anew. Each is decided and recorded like the first time.
    pub(super) fn subscribe_again(&mut self, link: LinkId, era: Era, now: &Now) {
        let Some(server) = self.server_of(link) else {
            return;
        };
        let lost = |uri: &str| {
            self.is_at(uri, &server.key)
                && !self.listens.held.contains(&(link, uri.to_owned()))
                && self
                    .calls
                    .select(|key, call| key.link == link && call.uri.as_deref() == Some(uri))
                    .is_empty()
        };
        let watched = self.listens.watched();
        let lost: Vec<(String, Option<IdKey>)> = watched
            .into_iter()
            .filter(|(uri, _)| lost(uri))
            .map(|(uri, listen)| (uri.to_owned(), listen.cloned()))
            .collect();
        for (uri, listen) in lost {
            match listen {
                Some(listen) => self.listen_resource(&listen, &uri, Fate::Ready(link, era), now),
                None => {
                    self.listens.own_unconfirmed.insert(uri.clone());
                    self.watch_again(&uri, Fate::Ready(link, era), now);
                }
            }
        }
    }

    /// Ends a listen the client took back.
    pub(super) fn end_listen(&mut self, key: &IdKey, now: &Now) {
        let Some(at) = self.listens.open.iter().position(|open| open.key == *key) else {
            return;
        };
        let listen = self.listens.open.remove(at);
        self.links.forget_resources(key);
        for uri in &listen.uris {
            self.unwatch(uri, now);
        }
    }

    /// Ends what is held upstream for a URI beyond what is still wanted of it.
    fn unwatch(&mut self, uri: &str, now: &Now) {
        let wanted = self.listens.wanted(uri);
        let mut open = self.calls.select(|_, call| {
            call.uri.as_deref() == Some(uri) && !matches!(call.origin, Origin::Client { .. })
        });
        // what stands stays, and of the rest the newest: an older one may be of a link that is on
        // its way out
        open.sort_by_key(|key| {
            let call = self.calls.get(*key);
            let stands = call.is_some_and(|call| matches!(call.origin, Origin::Standing));
            stands && self.links.is_current(key.link)
        });
        let surplus = open.len().saturating_sub(wanted);
        for call in open.into_iter().take(surplus) {
            self.cancel(call, now);
        }
        if wanted > 0 {
            return;
        }
        let held: Vec<LinkId> = self
            .listens
            .held
            .iter()
            .filter(|(_, of)| of == uri)
            .map(|(link, _)| *link)
            .collect();
        for link in held {
            self.listens.held.remove(&(link, uri.to_owned()));
            self.links.released(link, now);
            if let Some(id) = self.links.chore(link) {
                let own = alias::original(uri).map(|(_, own)| own.into_owned());
                let line = Housekeeping::Unsubscribe(id, own.unwrap_or_else(|| uri.to_owned()));
                self.outbox.send_link(link, Upstream::Housekeeping(line));
            }
            // it may have been the last thing that kept a retired link
            self.pump(link, now);
        }
    }

    /// A handshake client's `resources/unsubscribe` for a server of the stateless era: the listen
    /// of ours ends.
    pub(super) fn unsubscribe_here(&mut self, id: &str, era: Era, uri: &str, now: &Now) {
        self.listens.own.remove(uri);
        self.listens.own_unconfirmed.remove(uri);
        self.unwatch(uri, now);
        self.own(id, era, &[], false);
    }

    /// Keeps book of a handshake client's own subscriptions, before their call is closed.
    pub(super) fn subscribed(&mut self, key: Key, end: End, now: &Now) {
        let Some(call) = self.calls.get(key) else {
            return;
        };
        let (method, uri) = (
            call.method,
            call.uri.as_deref().unwrap_or_default().to_owned(),
        );
        match (method, end) {
            (Method::Subscribe, End::Ok) => {
                self.hold(key.link, &uri, now);
                self.listens.own.insert(uri);
            }
            (Method::Unsubscribe, End::Ok) => {
                self.listens.own.remove(&uri);
                self.listens.own_unconfirmed.remove(&uri);
                if self.listens.wanted(&uri) == 0 && self.listens.held.remove(&(key.link, uri)) {
                    self.links.released(key.link, now);
                }
            }
            _ => {}
        }
    }

    fn hold(&mut self, link: LinkId, uri: &str, now: &Now) {
        if self.listens.held.insert((link, uri.to_owned())) {
            self.links.holds(link, now);
        }
    }

    /// The answer to a call made for a listen: a `resources/subscribe` of ours is done, or a
    /// `subscriptions/listen` of ours is over.
    pub(super) fn listen_answered(&mut self, key: Key, end: End, content: Content, now: &Now) {
        let Some(call) = self.calls.get(key) else {
            return;
        };
        let stood = matches!(call.origin, Origin::Standing);
        let subscribed = matches!(call.origin, Origin::Listen)
            && matches!(self.links.era(key.link), Some(Era::Handshake(_)));
        if let (true, End::Ok, Some(uri)) = (subscribed, end, &call.uri) {
            let uri = uri.to_string();
            self.hold(key.link, &uri, now);
            self.confirmed(&uri, now);
        }
        self.settle(key, Outcome { end, content }, None, now);
        if stood {
            // the server ended it: what is still watched there is asked for again
            self.links.listen_again(key.link, now);
        }
    }

    /// A server of the stateless era takes back a listen of ours (MCP 2026-07-28: as good as its
    /// answer). Requests of its own are another matter.
    pub(super) fn listen_withdrawn(
        &mut self,
        link: LinkId,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let id = params.and_then(|params| params.get("requestId")?.parse().ok());
        let (Some(id), Some(Era::Stateless)) = (id, self.links.era(link)) else {
            return;
        };
        let key = Key { link, id };
        let standing = |call: &Execution| matches!(call.origin, Origin::Standing);
        if self.calls.get(key).is_some_and(standing) {
            self.listen_answered(key, End::Cancelled, Content::default(), now);
        } else if self.links.listens(link, id) {
            self.link_input(link, LinkInput::Withdrawn(id), now);
        }
    }

    /// A server of the stateless era acknowledges a listen of ours.
    pub(super) fn acknowledged(
        &mut self,
        link: LinkId,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        let meta = notification
            .params
            .as_ref()
            .and_then(|params| params.meta.as_ref());
        let id = meta.and_then(|meta| meta.get(era::META_SUBSCRIPTION)?.parse().ok());
        let Some(key) = id.map(|id| Key { link, id }) else {
            return;
        };
        let Some(call) = self.calls.get(key) else {
            // the link's own
            return;
        };
        let ours = matches!(call.method, Method::Listen | Method::Subscribe)
            && matches!(self.links.era(link), Some(Era::Stateless))
            && matches!(call.stage, Stage::Sent);
        if !ours {
            return self.outbox.count("stray-answer", now);
        }
        let uri = call.uri.as_deref().unwrap_or_default().to_owned();
        let honoured = honours(notification, &call.access, call.uri.as_deref());
        if !honoured {
            self.outbox.count("not-honoured", now);
            if self.is_early(&uri) {
                // the client is told so, and that is the end of it
                self.refused(&uri, now);
                self.cancel(key, now);
                return self.acknowledge(now);
            }
        }
        if let (Method::Subscribe, Origin::Client { id, .. }, Some(uri)) =
            (call.method, &call.origin, &call.uri)
        {
            let (id, era, uri) = (id.clone(), call.era, uri.to_string());
            self.listens.own.insert(uri);
            self.own(&id, era, &[], false);
        }
        if self.calls.stand(key) {
            self.links.stands(link);
        }
        if honoured {
            self.confirmed(&uri, now);
        }
    }

    /// Whether a server tells a second listen of ours what it tells the first: each of the
    /// client's has one, and one notification reaches them all.
    pub(super) fn is_twin(&self, link: LinkId, notification: &Notification<'_>) -> bool {
        let params = notification.params.as_ref();
        let meta = params.and_then(|params| params.meta.as_ref());
        let id = meta.and_then(|meta| meta.get(era::META_SUBSCRIPTION)?.parse().ok());
        let Some(id) = id else {
            return false;
        };
        let told = self.calls.get(Key { link, id });
        let Some(uri) = told.and_then(|call| call.uri.as_deref()) else {
            return false;
        };
        let standing = self.calls.select(|key, call| {
            key.link == link
                && matches!(call.origin, Origin::Standing)
                && call.uri.as_deref() == Some(uri)
        });
        standing.first().is_some_and(|first| first.id < id)
    }

    /// A resource changed: whoever is subscribed to it is told.
    pub(super) fn resource_updated(
        &mut self,
        link: LinkId,
        notification: &Notification<'_>,
        now: &Now,
    ) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let Some(uri) = params.and_then(|params| params.text("uri")) else {
            return;
        };
        let span = params.and_then(|params| params.value_span("uri"));
        let server = self.server_of(link);
        let (Some(span), Some(server)) = (span, server) else {
            return;
        };
        if self.is_twin(link, notification) {
            return;
        }
        // it may be a part of what was subscribed to, by its own name or by the client's for it
        let catalog = self.snapshot.catalog();
        let other = catalog
            .shows_others(&server.key)
            .then(|| alias::alias(&server.key, &uri));
        let names = std::iter::once(uri.as_ref()).chain(other.as_deref());
        let names: Vec<&str> = names.collect();
        let watched = |name: &&&str| {
            let within = |subscribed: &str| name.starts_with(subscribed);
            let mut held = self.listens.held.iter();
            held.any(|(of, subscribed)| *of == link && within(subscribed))
                || !self
                    .calls
                    .select(|key, call| key.link == link && call.uri.as_deref().is_some_and(within))
                    .is_empty()
        };
        let Some(name) = names.iter().find(watched).map(|name| (*name).to_owned()) else {
            return self.outbox.count("stray-update", now);
        };
        // a grant taken back ends the news of it too; nobody tells of another's resources
        if !self.is_at(&name, &server.key) || !self.may_watch(&name, now) {
            return self.outbox.count("stray-update", now);
        }
        let within = |subscribed: &String| name.starts_with(subscribed.as_str());
        let own = self.listens.own.iter().any(within).then_some(None);
        let open = self.listens.open.iter();
        let open = open.filter(|listen| listen.uris.iter().any(within));
        let open = open.map(|listen| Some((listen.key.clone(), listen.id.clone())));
        let told: Vec<_> = own.into_iter().chain(open).collect();
        for listen in told {
            self.edits.clear();
            let id = listen.as_ref().map(|(_, id)| &**id);
            era::stamp(&mut self.edits, notification, id);
            if name != uri {
                self.edits.replace(span.clone(), &raw::quoted(&name));
            }
            let mut line = Vec::with_capacity(notification.line.len() + 64);
            self.edits.apply(notification.line, &mut line);
            line.push(b'\n');
            match listen {
                Some((key, _)) => self.tell_listen(&key, &name, line, now),
                None => self.outbox.send_client(line),
            }
        }
    }

    /// The snapshot moved: where the lists did too the client is told of it, once for all that
    /// moves within [`limits::LIST_CHANGED_DEBOUNCE_MS`].
    pub(super) fn lists_moved(&mut self, before: Arc<Snapshot>, now: &Now) {
        let moved = changed(&before, &self.snapshot).contains(&true);
        if moved && self.listens.news.is_none() {
            let due_us = now.mono_us + limits::LIST_CHANGED_DEBOUNCE_MS * 1000;
            self.listens.news = Some(News { before, due_us });
        }
    }

    /// Tells the client which lists differ from those it was told of last, when it is time, and
    /// acknowledges what has waited for long enough.
    pub(super) fn listens_wake(&mut self, now: &Now) {
        self.acknowledge(now);
        let due = |news: &mut News| news.due_us <= now.mono_us;
        let Some(News { before, .. }) = self.listens.news.take_if(due) else {
            return;
        };
        let changed = changed(&before, &self.snapshot);
        for (at, ((_, method), changed)) in LISTS.iter().zip(changed).enumerate() {
            if !changed {
                continue;
            }
            if let Some(Era::Handshake(_)) = self.front.era() {
                self.outbox
                    .send_client(msg::notification_line(method, None));
            }
            let open = self.listens.open.iter();
            let open = open.filter(|listen| listen.lists.get(at) == Some(&true));
            let keys: Vec<IdKey> = open.map(|listen| listen.key.clone()).collect();
            for key in keys {
                self.tell_list(&key, at);
            }
        }
    }

    /// The session ends: every listen is answered.
    pub(super) fn end_listens(&mut self) {
        for listen in std::mem::take(&mut self.listens.open) {
            self.outbox.send_client(era::listen_over(&listen.id));
        }
    }
}

/// Which of [`LISTS`] differ between two snapshots, as their callers see them.
fn changed(before: &Snapshot, after: &Snapshot) -> [bool; 3] {
    let differs = |list: List| list.body(before).1 != list.body(after).1;
    [
        differs(List::Tools),
        differs(List::Prompts),
        differs(List::Resources) || differs(List::Templates),
    ]
}

/// Whether an acknowledgement names what was asked for: a resource by its server's URI, or a task.
fn honours(notification: &Notification<'_>, access: &Access, label: Option<&str>) -> bool {
    let params = notification.params.as_ref().map(|params| &params.object);
    let honoured = params.and_then(|params| params.object("notifications").ok().flatten());
    let (key, own) = match access {
        Access::Resource { uri, .. } => ("resourceSubscriptions", uri.as_str()),
        Access::Prompt { .. } | Access::Tool { .. } => {
            let id = label.and_then(|label| Some(label.split_once('.')?.1));
            ("taskIds", id.unwrap_or_default())
        }
    };
    let named = honoured.and_then(|honoured| raw::elements(honoured.get(key)?).ok());
    let mut named = named.into_iter().flatten();
    named.any(|token| raw::string(token).as_deref() == Some(own))
}
