//! Everything beside roles: servers, definitions, secrets, sign-in, the record, machines.

mod credentials;
mod definitions;
mod record;
mod servers;

use std::collections::{BTreeMap, BTreeSet};

use self::credentials::credentials;
use self::definitions::definitions;
use self::record::record;
use self::servers::servers;
use super::markup::{code, many};
use super::view::View;
use super::{Change, Effect, Section};
use crate::clock::Utc;
use crate::ids::{Digest, ServerKey};
use crate::registry::doc::{IssuerDoc, RepeatLimit, ServerDoc};

/// The sections that hold something.
pub(super) fn sections(was: &View, is: &View) -> Vec<Section> {
    let all = [
        ("Agents", agents(was, is)),
        ("Revocations", revocations(was, is)),
        ("Servers", servers(was, is)),
        ("Definitions", definitions(was, is)),
        ("Credentials", credentials(was, is)),
        ("Sign-in", issuers(was, is)),
        ("Record", record(was, is)),
        ("Machines", machines(was, is)),
    ];
    let sections = all.into_iter().map(|(title, mut changes)| {
        changes.sort_by_key(|change| change.effect);
        Section { title, changes }
    });
    sections
        .filter(|section| !section.changes.is_empty())
        .collect()
}

/// Collects changes.
#[derive(Default)]
struct List(Vec<Change>);

impl List {
    fn add(&mut self, effect: Effect, sentence: String) {
        self.0.push(Change::new(effect, sentence));
    }

    /// A value that is another one now.
    fn moved(&mut self, effect: Effect, what: &str, was: &str, is: &str) {
        if was != is {
            let sentence = format!("{what} is {} now, was {}", code(is), code(was));
            self.add(effect, sentence);
        }
    }

    /// A switch whose `true` widens.
    fn switched(&mut self, what: &str, was: bool, is: bool) {
        match (was, is) {
            (false, true) => self.add(Effect::Widens, format!("{what} now")),
            (true, false) => self.add(Effect::Narrows, format!("{what} no longer")),
            (false, false) | (true, true) => {}
        }
    }
}

/// A value that grew or shrank, where more is wider.
fn grown<T: Ord>(was: &T, is: &T) -> Option<Effect> {
    match was.cmp(is) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(Effect::Narrows),
        std::cmp::Ordering::Less => Some(Effect::Widens),
    }
}

fn agents(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    let before: BTreeMap<_, _> = was.agents().collect();
    let after: BTreeMap<_, _> = is.agents().collect();
    for (name, doc) in &after {
        let agent = format!("agent {}", code(name.as_str()));
        let Some(old) = before.get(name) else {
            let roles: Vec<String> = doc.roles.iter().map(|r| code(r.as_str())).collect();
            let (effect, roles) = match roles.is_empty() {
                true => (Effect::Neutral, "no role".to_owned()),
                false => (Effect::Widens, roles.join(", ")),
            };
            let owner = code(&doc.owner);
            list.add(effect, format!("{agent} of {owner} is new, with {roles}"));
            continue;
        };
        if old.public_key != doc.public_key {
            let sentence = format!("{agent} has another key: somebody else may be the agent");
            list.add(Effect::Widens, sentence);
        }
        list.moved(
            Effect::Review,
            &format!("the owner of {agent}"),
            &old.owner,
            &doc.owner,
        );
        let end = |at: Option<u64>| at.unwrap_or(u64::MAX);
        if let Some(effect) = grown(&end(old.not_after), &end(doc.not_after)) {
            let say = |at: Option<u64>| match at {
                Some(at) => format!("until {}", Utc(at)),
                None => "without end".to_owned(),
            };
            let (old, new) = (say(old.not_after), say(doc.not_after));
            list.add(effect, format!("{agent} works {new}, was {old}"));
        }
    }
    for (name, _) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        let sentence = format!("agent {} is gone", code(name.as_str()));
        list.add(Effect::Narrows, sentence);
    }
    list.0
}

fn revocations(was: &View, is: &View) -> Vec<Change> {
    let names = |view: &View| -> BTreeSet<(&'static str, String)> {
        let revoked = &view.revocations;
        let servers = revoked.servers.iter().map(|s| ("server", s.to_string()));
        let agents = revoked.agents.iter().map(|a| ("agent", a.to_string()));
        let tools = revoked.tools.iter();
        let tools = tools.map(|(server, tool)| ("tool", format!("{server}/{tool}")));
        servers.chain(agents).chain(tools).collect()
    };
    let (before, after) = (names(was), names(is));
    let mut list = List::default();
    for (what, name) in after.difference(&before) {
        list.add(Effect::Narrows, format!("{what} {} is revoked", code(name)));
    }
    for (what, name) in before.difference(&after) {
        let sentence = format!("{what} {} is no longer revoked", code(name));
        list.add(Effect::Widens, sentence);
    }
    list.0
}

/// Pairs of servers that both sides have, by key: what a grant names.
fn both<'v>(
    was: &'v View,
    is: &'v View,
) -> impl Iterator<Item = (&'v ServerKey, &'v ServerDoc, &'v ServerDoc)> {
    let new = is.servers.iter();
    new.filter_map(|(key, doc)| Some((key, was.servers.get(key)?, doc)))
}

fn often(limit: Option<RepeatLimit>) -> String {
    match limit {
        None => "as everywhere".to_owned(),
        Some(limit) if limit.window().is_none() => "without limit".to_owned(),
        Some(RepeatLimit { calls, seconds }) => format!("{calls} in {seconds} s"),
    }
}

fn short(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string().chars().take(12).collect()
}

fn issuers(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    let of = |view: &View| -> BTreeMap<String, IssuerDoc> {
        let issuers = view.org.iter().flat_map(|org| org.issuers.clone());
        issuers.map(|doc| (doc.issuer.clone(), doc)).collect()
    };
    let (before, after) = (of(was), of(is));
    for (url, doc) in &after {
        let issuer = format!("issuer {}", code(url));
        let Some(old) = before.get(url) else {
            list.add(
                Effect::Widens,
                format!("{issuer} may say who people are now"),
            );
            list.switched(
                &format!("{issuer}: signing in on another device is allowed"),
                false,
                doc.device_flow,
            );
            continue;
        };
        let name = |what: &str| format!("{what} of {issuer}");
        list.moved(
            Effect::Widens,
            &name("client_id"),
            &old.client_id,
            &doc.client_id,
        );
        let (a, b) = (&old.groups_claim, &doc.groups_claim);
        list.moved(Effect::Widens, &name("groups_claim"), a, b);
        let (a, b) = (old.scopes.join(" "), doc.scopes.join(" "));
        list.moved(Effect::Review, &name("scopes"), &a, &b);
        let what = format!("{issuer}: signing in on another device is allowed");
        list.switched(&what, old.device_flow, doc.device_flow);
        let (a, b) = (keys(old), keys(doc));
        for key in b.difference(&a) {
            list.add(
                Effect::Review,
                format!("{issuer} has the new key {}", code(key)),
            );
        }
        for key in a.difference(&b) {
            list.add(
                Effect::Neutral,
                format!("{issuer} lost the key {}", code(key)),
            );
        }
    }
    for url in before.keys().filter(|url| !after.contains_key(*url)) {
        let sentence = format!("issuer {} is gone", code(url));
        list.add(Effect::Narrows, sentence);
    }
    list.0
}

/// Its keys, by what they are: a key id may stay while the key changes.
fn keys(issuer: &IssuerDoc) -> BTreeSet<String> {
    let keys = issuer.jwks.get("keys").and_then(|keys| keys.as_array());
    let name = |key: &serde_json::Value| {
        let id = key.get("kid").and_then(|kid| kid.as_str()).unwrap_or("?");
        format!("{id} {}", short(key.to_string().as_bytes()))
    };
    keys.into_iter().flatten().map(name).collect()
}

fn machines(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    let (Some(old), Some(new)) = (&was.org, &is.org) else {
        return list.0;
    };
    let (a, b) = (old.secret_stores, new.secret_stores);
    list.switched(
        "secrets may be kept under a key file",
        a.key_file,
        b.key_file,
    );
    let what = "secrets may be kept under a systemd credential";
    list.switched(what, a.systemd_credential, b.systemd_credential);
    if let Some(effect) = grown(&old.grace_hours, &new.grace_hours) {
        let (a, b) = (old.grace_hours, new.grace_hours);
        let (a, b) = (many(a as usize, "hour"), many(b as usize, "hour"));
        list.add(effect, format!("a stale registry is used for {b}, was {a}"));
    }
    let (a, b) = (often(old.limits.repeat), often(new.limits.repeat));
    list.moved(
        Effect::Review,
        "how often the same call may be made",
        &a,
        &b,
    );
    let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "any".to_owned());
    let (a, b) = (text(&old.min_client), text(&new.min_client));
    list.moved(Effect::Review, "the oldest client", &a, &b);
    list.moved(Effect::Neutral, "the name", &old.name, &new.name);
    list.moved(Effect::Neutral, "the help", &old.help, &new.help);
    list.0
}
