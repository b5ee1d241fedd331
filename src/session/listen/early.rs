//! What servers confirm of a `subscriptions/listen`, before the client is told that it stands and
//! after.
//!
//! ```text
//!   listen ─▶ its servers are asked ─▶ all confirmed, refused or failed ─▶ acknowledged ─▶ news
//!                      └── LISTEN_ACK_MS ──▶ acknowledged ─▶ confirmed later: told as changed
//! ```
//!
//! A listen is acknowledged once nobody is waited for any more, so that a change right after the
//! acknowledgement is told. What a server or the rules refused is not in it, and nothing is told of
//! it: clients end a subscription that tells more than was acknowledged. What is only late, or whose
//! link failed, is in it: it is asked for again, and once it is confirmed the client is told that
//! it changed, because it may have. Before the acknowledgement nothing may be said (MCP 2026-07-28,
//! subscriptions): news that come meanwhile are kept and follow it.

use std::collections::{BTreeMap, BTreeSet};

use super::{LISTS, Listen, Machine};
use crate::audit::entry::{Body as Record, End};
use crate::clock::Now;
use crate::ids::ServerKey;
use crate::limits;
use crate::session::call::{Key, Origin};
use crate::wire::era;
use crate::wire::msg::IdKey;
use crate::wire::raw;

/// A listen that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Early {
    /// When it is acknowledged at the latest.
    until_us: u64,
    /// What of it is waited for.
    waits: BTreeSet<String>,
    /// Lists that changed meanwhile.
    lists: [bool; 3],
    /// What the client is told right after the acknowledgement, and of which resource or task.
    news: Vec<(String, Vec<u8>)>,
    news_bytes: usize,
}

impl Early {
    /// One that waits for these resources and tasks.
    pub(super) fn new(waits: BTreeSet<String>, now: &Now) -> Self {
        Self {
            until_us: now.mono_us + limits::LISTEN_ACK_MS * 1000,
            waits,
            lists: [false; 3],
            news: Vec::new(),
            news_bytes: 0,
        }
    }

    pub(super) fn until_us(&self) -> u64 {
        self.until_us
    }
}

impl Listen {
    /// Its acknowledgement, with what is honoured.
    fn acknowledgement(&self) -> Vec<u8> {
        let lists = LISTS.iter().zip(self.lists).filter(|(_, on)| *on);
        let mut honoured: Vec<String> = lists
            .map(|((flag, _), _)| format!("\"{flag}\":true"))
            .collect();
        let quoted = |tasks: bool| -> Vec<String> {
            let uris = self.uris.iter();
            let uris = uris.filter(|uri| self.tasks.contains(*uri) == tasks);
            uris.map(|uri| raw::quoted(uri)).collect()
        };
        for (flag, tokens) in [
            ("resourceSubscriptions", quoted(false)),
            ("taskIds", quoted(true)),
        ] {
            if !tokens.is_empty() {
                honoured.push(format!("\"{flag}\":[{}]", tokens.join(",")));
            }
        }
        era::acknowledgement(&self.id, &honoured.join(","))
    }
}

impl Machine {
    /// A server confirmed that it tells of a resource or task: whoever was told before that it
    /// would be is told that it changed.
    pub(super) fn confirmed(&mut self, uri: &str, now: &Now) {
        let mut late = Vec::new();
        let mut known = false;
        for listen in &mut self.listens.open {
            if !listen.unconfirmed.remove(uri) {
                continue;
            }
            known |= listen.early.is_none();
            match &mut listen.early {
                Some(early) => {
                    early.waits.remove(uri);
                }
                // how a task is is asked for, not told
                None if listen.tasks.contains(uri) => {}
                None => late.push(Some(listen.id.clone())),
            }
        }
        if self.listens.own_unconfirmed.remove(uri) {
            late.push(None);
        }
        self.moved |= known || !late.is_empty();
        for id in late {
            self.outbox.send_client(era::updated(uri, id.as_deref()));
        }
        self.acknowledge(now);
    }

    /// Whether what a call asked for is part of a listen that is not acknowledged yet.
    pub(super) fn is_early(&self, uri: &str) -> bool {
        let mut open = self.listens.open.iter();
        open.any(|listen| listen.early.is_some() && listen.unconfirmed.contains(uri))
    }

    /// What a call in flight listens to, unless its server confirmed it.
    pub(in crate::session) fn listened(&self, key: Key) -> Option<String> {
        let call = self.calls.get(key)?;
        let uri = call.uri.as_deref()?;
        matches!(call.origin, Origin::Listen).then(|| uri.to_owned())
    }

    /// A call for a listen is over.
    pub(in crate::session) fn listen_settled(&mut self, uri: &str, end: End, now: &Now) {
        // a status is of HTTP: the server did not say what it makes of it
        let refused = matches!(end, End::Error(code) if code < 0);
        self.unconfirmed(uri, refused, now);
    }

    /// A server does not confirm something that is listened to: because it refuses it, or because
    /// the rules do, or for now.
    pub(in crate::session) fn unconfirmed(&mut self, uri: &str, refused: bool, now: &Now) {
        let waits = self.listens.open.iter();
        let mut waits = waits.filter(|listen| listen.unconfirmed.contains(uri));
        let own = self.listens.own_unconfirmed.contains(uri);
        let again = |uri: &str| {
            let again = self.calls.select(|_, call| {
                call.uri.as_deref() == Some(uri) && matches!(call.origin, Origin::Listen)
            });
            !again.is_empty()
        };
        // another call for it is on its way
        if self.closing || !(waits.next().is_some() || own) || again(uri) {
            return;
        }
        if refused || !self.may_listen(uri, now) {
            self.refused(uri, now);
        } else {
            for listen in &mut self.listens.open {
                if let Some(early) = &mut listen.early {
                    early.waits.remove(uri);
                }
            }
            if let Some(server) = self.owner(uri) {
                self.links.listen_again_at(&server, now);
            }
        }
        self.acknowledge(now);
    }

    /// Something is not honoured: it is no part of what is not acknowledged yet.
    pub(super) fn refused(&mut self, uri: &str, now: &Now) {
        let mut gone = false;
        for listen in &mut self.listens.open {
            if let Some(early) = &mut listen.early
                && listen.unconfirmed.remove(uri)
            {
                early.waits.remove(uri);
                gone |= listen.uris.remove(uri);
            }
        }
        if gone {
            self.unwatch(uri, now);
        }
    }

    /// Acknowledges every listen that waits for nobody any more.
    pub(super) fn acknowledge(&mut self, now: &Now) {
        let settled = |early: &Early| early.waits.is_empty() || early.until_us <= now.mono_us;
        let ready = |listen: &Listen| listen.early.as_ref().is_some_and(settled);
        let keys = self.listens.open.iter().filter(|listen| ready(listen));
        let keys: Vec<IdKey> = keys.map(|listen| listen.key.clone()).collect();
        for key in keys {
            self.acknowledge_one(&key, now);
        }
    }

    fn acknowledge_one(&mut self, key: &IdKey, now: &Now) {
        let gone = self.not_allowed(key, now);
        let mut open = self.listens.open.iter_mut();
        let Some(listen) = open.find(|listen| listen.key == *key) else {
            return;
        };
        let Some(early) = listen.early.take() else {
            return;
        };
        for uri in &gone {
            listen.uris.remove(uri);
            listen.unconfirmed.remove(uri);
        }
        self.outbox.send_client(listen.acknowledgement());
        for ((_, method), changed) in LISTS.iter().zip(early.lists) {
            if changed {
                self.outbox
                    .send_client(era::list_changed(method, &listen.id));
            }
        }
        for (name, line) in early.news {
            // of what was refused since nothing is told
            if listen.uris.iter().any(|uri| name.starts_with(uri.as_str())) {
                self.outbox.send_client(line);
            }
        }
        let unconfirmed = listen.unconfirmed.clone();
        self.note_unconfirmed(&unconfirmed, now);
        for uri in &gone {
            self.unwatch(uri, now);
        }
    }

    /// What of a listen the caller may not watch any more.
    fn not_allowed(&mut self, key: &IdKey, now: &Now) -> Vec<String> {
        let mut open = self.listens.open.iter();
        let listen = open.find(|listen| listen.key == *key);
        let mut uris: Vec<String> = listen
            .into_iter()
            .flat_map(|listen| &listen.uris)
            .cloned()
            .collect();
        uris.retain(|uri| !self.may_listen(uri, now));
        uris
    }

    /// Whether the caller may watch a resource or follow a task now.
    fn may_listen(&mut self, uri: &str, now: &Now) -> bool {
        match self.tasks.server(uri) {
            Some(_) => self.may_follow(uri, now),
            None => self.may_watch(uri, now),
        }
    }

    /// Records what was acknowledged though its servers did not confirm it.
    fn note_unconfirmed(&mut self, uris: &BTreeSet<String>, now: &Now) {
        let mut of: BTreeMap<ServerKey, usize> = BTreeMap::new();
        for server in uris.iter().filter_map(|uri| self.owner(uri)) {
            *of.entry(server).or_default() += 1;
        }
        self.moved |= !of.is_empty();
        for (key, count) in of {
            let Some(server) = self.entry(&key) else {
                continue;
            };
            let server = self.server_context(&server, now);
            let note = Record::Link {
                server,
                code: "unconfirmed",
                detail: format!(
                    "{count} resources or tasks that the client listens to are not confirmed; \
                     they are asked for again"
                ),
            };
            self.outbox.append(note, now);
        }
    }

    /// Tells a listen of a changed list, or does once it is acknowledged.
    pub(super) fn tell_list(&mut self, key: &IdKey, list: usize) {
        let mut open = self.listens.open.iter_mut();
        let Some(listen) = open.find(|listen| listen.key == *key) else {
            return;
        };
        let Some((_, method)) = LISTS.get(list) else {
            return;
        };
        match listen.early.as_mut().map(|early| &mut early.lists) {
            Some(lists) => {
                if let Some(changed) = lists.get_mut(list) {
                    *changed = true;
                }
            }
            None => {
                let line = era::list_changed(method, &listen.id);
                self.outbox.send_client(line);
            }
        }
    }

    /// Tells a listen something, or does once it is acknowledged: at once, where more cannot be
    /// kept.
    pub(in crate::session) fn tell_listen(
        &mut self,
        key: &IdKey,
        name: &str,
        line: Vec<u8>,
        now: &Now,
    ) {
        let mut open = self.listens.open.iter_mut();
        let early = open.find(|listen| listen.key == *key);
        if let Some(early) = early.and_then(|listen| listen.early.as_mut())
            && early.news_bytes + line.len() <= limits::LISTEN_NEWS_BYTES
        {
            early.news_bytes += line.len();
            early.news.push((name.to_owned(), line));
            return;
        }
        self.acknowledge_one(key, now);
        self.outbox.send_client(line);
    }

    /// Whose a resource or task is.
    fn owner(&self, uri: &str) -> Option<ServerKey> {
        match self.tasks.server(uri) {
            Some(server) => Some(server.clone()),
            None => self.snapshot.catalog().route(uri),
        }
    }

    /// How much of what is listened to is acknowledged and not confirmed, by server.
    pub(in crate::session) fn unconfirmed_at(&self) -> BTreeMap<ServerKey, usize> {
        let open = self.listens.open.iter();
        let open = open.filter(|listen| listen.early.is_none());
        let uris = open.flat_map(|listen| &listen.unconfirmed);
        let uris: BTreeSet<&String> = uris.chain(&self.listens.own_unconfirmed).collect();
        let mut of: BTreeMap<ServerKey, usize> = BTreeMap::new();
        for server in uris.into_iter().filter_map(|uri| self.owner(uri)) {
            *of.entry(server).or_default() += 1;
        }
        of
    }
}
