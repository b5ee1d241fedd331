//! Everything beside roles: servers, definitions, secrets, sign-in, the record, machines.

use std::collections::{BTreeMap, BTreeSet};

use super::markup::{code, many};
use super::view::{View, writes};
use super::{Change, Effect, Section};
use crate::admin::survey::edits;
use crate::clock::Utc;
use crate::ids::{Digest, RoleName, ServerKey};
use crate::pin::{self, Difference};
use crate::registry::doc::{
    AuditDoc, AuditRule, FailMode, Inject, Isolation, IssuerDoc, OrgDoc, PinMode, RepeatLimit,
    ServerDoc, ServerLimits, Surface, Transport,
};

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

fn servers(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    for (key, doc) in &is.servers {
        let server = format!("server {}", code(key.as_str()));
        if was.servers.contains_key(key) {
            continue;
        }
        let reach = reach(&doc.transport);
        let owner = code(&doc.owner);
        list.add(
            Effect::Review,
            format!("{server} of {owner} is new: {reach}"),
        );
        for (what, _, on) in asks(doc, doc) {
            if on {
                list.add(Effect::Widens, format!("{server} {what}"));
            }
        }
        if doc.pin == PinMode::Off {
            list.add(Effect::Review, format!("{server} is not pinned"));
        }
    }
    for (key, _) in was
        .servers
        .iter()
        .filter(|(key, _)| !is.servers.contains_key(*key))
    {
        let sentence = format!("server {} is gone", code(key.as_str()));
        list.add(Effect::Narrows, sentence);
    }
    for (key, old, new) in both(was, is) {
        let server = format!("server {}", code(key.as_str()));
        transport(&server, &old.transport, &new.transport, &mut list);
        if let Some(effect) = grown(&looseness(old.pin), &looseness(new.pin)) {
            let (old, new) = (word(old.pin), word(new.pin));
            list.add(
                effect,
                format!("{server} has `pin: {new}` now, was `pin: {old}`"),
            );
        }
        for (what, old, new) in asks(old, new) {
            list.switched(&format!("{server} {what}"), old, new);
        }
        if (old.isolation, new.isolation) == (Isolation::Session, Isolation::User) {
            let sentence = format!("{server} may serve several sessions of a user in one process");
            list.add(Effect::Review, sentence);
        }
        let texts = [
            ("id", Effect::Review, old.id.as_str(), new.id.as_str()),
            ("owner", Effect::Review, &*old.owner, &*new.owner),
            ("zone", Effect::Review, &*old.zone, &*new.zone),
            (
                "environment",
                Effect::Review,
                &*old.environment,
                &*new.environment,
            ),
            ("on_call", Effect::Neutral, &*old.oncall, &*new.oncall),
            ("purpose", Effect::Neutral, &*old.purpose, &*new.purpose),
        ];
        for (what, effect, old, new) in texts {
            list.moved(effect, &format!("{what} of {server}"), old, new);
        }
        if old.hosted != new.hosted {
            let sentence = format!("{server} is run by somebody else: {:?}", new.hosted);
            list.add(Effect::Review, sentence);
        }
        let classes = |doc: &ServerDoc| doc.data_classes.join(", ");
        let what = format!("data classes of {server}");
        list.moved(Effect::Review, &what, &classes(old), &classes(new));
        repeats(&server, &old.limits, &new.limits, &mut list);
        let others = |doc: &ServerDoc| {
            let limits = &doc.limits;
            (
                limits.call_ms,
                limits.idle_ms,
                limits.in_flight,
                doc.stateful,
            )
        };
        if others(old) != others(new) {
            list.add(Effect::Neutral, format!("limits of {server} changed"));
        }
    }
    list.0
}

/// How often the same call may be made.
fn repeats(server: &str, old: &ServerLimits, new: &ServerLimits, list: &mut List) {
    let what = format!("how often the same call to {server} may be made");
    list.moved(
        Effect::Review,
        &what,
        &often(old.repeat),
        &often(new.repeat),
    );
    let tools: BTreeSet<&String> = old.tools.keys().chain(new.tools.keys()).collect();
    for tool in tools {
        let of = |limits: &ServerLimits| often(limits.tools.get(tool).and_then(|own| own.repeat));
        let what = format!(
            "how often the same call to {server}/{} may be made",
            pin::printable(tool)
        );
        list.moved(Effect::Review, &what, &of(old), &of(new));
    }
}

fn often(limit: Option<RepeatLimit>) -> String {
    match limit {
        None => "as everywhere".to_owned(),
        Some(limit) if limit.window().is_none() => "without limit".to_owned(),
        Some(RepeatLimit { calls, seconds }) => format!("{calls} in {seconds} s"),
    }
}

fn looseness(mode: PinMode) -> u8 {
    match mode {
        PinMode::Strict => 0,
        PinMode::Names => 1,
        PinMode::Off => 2,
    }
}

fn word(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Strict => "strict",
        PinMode::Names => "names",
        PinMode::Off => "off",
    }
}

fn reach(transport: &Transport) -> String {
    match transport {
        Transport::Http { url, .. } => format!("http {}", code(url)),
        Transport::Stdio { command, args, .. } => {
            let line: Vec<&str> = std::iter::once(command).chain(args).map(|s| &**s).collect();
            format!("stdio {}", code(&line.join(" ")))
        }
    }
}

fn transport(server: &str, old: &Transport, new: &Transport, list: &mut List) {
    let mut look = |what: &str, was: String, is: String| {
        if was != is {
            let sentence = format!("{server}: {what} is {} now, was {}", code(&is), code(&was));
            list.add(Effect::Review, sentence);
        }
    };
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    match (old, new) {
        (
            Transport::Http {
                url,
                ca_pem,
                legacy_sse,
            },
            Transport::Http {
                url: to,
                ca_pem: ca,
                legacy_sse: to_legacy,
            },
        ) => {
            look("the address", url.clone(), to.clone());
            let short = |pem: &Option<String>| match pem {
                Some(pem) => short(pem.as_bytes()),
                None => "none".to_owned(),
            };
            look("the private CA", short(ca_pem), short(ca));
            let spoken = |legacy: &bool| match legacy {
                true => "HTTP+SSE".to_owned(),
                false => "Streamable HTTP".to_owned(),
            };
            look("the transport", spoken(legacy_sse), spoken(to_legacy));
        }
        (
            Transport::Stdio {
                command,
                args,
                cwd,
                env,
                package,
            },
            Transport::Stdio {
                command: to_command,
                args: to_args,
                cwd: to_cwd,
                env: to_env,
                package: to_package,
            },
        ) => {
            look("the program", command.clone(), to_command.clone());
            look("the arguments", args.join(" "), to_args.join(" "));
            look("the directory", optional(cwd), optional(to_cwd));
            look("the package", optional(package), optional(to_package));
            let value = |env: &BTreeMap<String, String>, name: &String| {
                env.get(name).cloned().unwrap_or_else(|| "unset".to_owned())
            };
            let names: BTreeSet<&String> = env.keys().chain(to_env.keys()).collect();
            for name in names {
                let what = format!("the variable {}", code(name));
                look(&what, value(env, name), value(to_env, name));
            }
        }
        (Transport::Http { .. }, Transport::Stdio { .. })
        | (Transport::Stdio { .. }, Transport::Http { .. }) => {
            let sentence = format!("{server} moved: {}, was {}", reach(new), reach(old));
            list.add(Effect::Review, sentence);
        }
    }
}

fn short(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string().chars().take(12).collect()
}

fn definitions(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    for (key, old, new) in both(was, is) {
        let (Some(a), Some(b)) = (&old.surface, &new.surface) else {
            continue;
        };
        for difference in pin::differences(a, b, PinMode::Strict) {
            let mut change = Change::new(
                effect(&difference, a, b),
                format!("{}: {}", code(key.as_str()), sentence(&difference)),
            );
            if let Difference::Entry { kind, name, .. } = &difference
                && let holders = holders(is, key, kind.word(), name)
                && !holders.is_empty()
            {
                let holders: Vec<String> = holders.iter().map(|r| code(r.as_str())).collect();
                change
                    .sentence
                    .push_str(&format!(" (granted to {})", holders.join(", ")));
            }
            change.edits = edits(&difference, a, b);
            list.0.push(change);
        }
        for (name, reason) in &b.quarantined {
            if !a.quarantined.contains_key(name) {
                let (key, name) = (code(key.as_str()), code(name));
                let sentence = format!("{key}: tool {name} is quarantined: {}", code(reason));
                list.add(Effect::Narrows, sentence);
            }
        }
        for name in a.quarantined.keys() {
            if b.tools.iter().any(|tool| tool.name == *name) {
                let (key, name) = (code(key.as_str()), code(name));
                let sentence = format!("{key}: tool {name} is no longer quarantined");
                list.add(Effect::Review, sentence);
            }
        }
    }
    list.0
}

/// The difference with its names marked; `Display` puts them between backticks.
fn sentence(difference: &Difference) -> String {
    let text = difference.to_string();
    let mut out = String::new();
    for (i, part) in text.split('`').enumerate() {
        // names and paths are printable ASCII there, and a backtick in one only splits it
        match i % 2 {
            0 => out.push_str(part),
            _ => out.push_str(&code(part)),
        }
    }
    out
}

fn effect(difference: &Difference, was: &Surface, is: &Surface) -> Effect {
    let Difference::Entry {
        kind: pin::Kind::Tool,
        name,
        change,
    } = difference
    else {
        return Effect::Review;
    };
    let find = |surface: &Surface| {
        let tool = surface.tools.iter().find(|tool| tool.name == *name);
        tool.map(writes)
    };
    match (change, find(was), find(is)) {
        // more than before, by its own word
        (_, Some(was), Some(is)) if is < was => Effect::Widens,
        (pin::Change::Added | pin::Change::Removed, ..) => Effect::Neutral,
        _ => Effect::Review,
    }
}

/// Roles whose tables hold it.
fn holders<'v>(view: &'v View, server: &ServerKey, kind: &str, name: &str) -> Vec<&'v RoleName> {
    let Some(policy) = &view.policy else {
        return Vec::new();
    };
    let has = |tables: &BTreeMap<ServerKey, crate::registry::doc::GrantTable>| {
        tables.get(server).is_some_and(|table| match kind {
            "tool" => table.tools.contains_key(name),
            "prompt" => table.prompts.contains_key(name),
            _ => false,
        })
    };
    let roles = policy.grants.iter().filter(|(_, tables)| has(tables));
    roles.map(|(role, _)| role).collect()
}

fn credentials(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    for (key, new) in &is.servers {
        let server = format!("server {}", code(key.as_str()));
        let old = was.servers.get(key);
        let before = old.and_then(|old| old.credential.as_ref());
        let Some(credential) = &new.credential else {
            if let Some(before) = before {
                let id = code(before.id.as_str());
                list.add(Effect::Narrows, format!("{server} no longer gets {id}"));
            }
            continue;
        };
        let id = code(credential.id.as_str());
        let Some(before) = before else {
            let how = how(&credential.inject);
            list.add(
                Effect::Widens,
                format!("{server} gets the secret {id} {how}"),
            );
            continue;
        };
        if before.id != credential.id {
            let old = code(before.id.as_str());
            list.add(
                Effect::Widens,
                format!("{server} gets the secret {id}, was {old}"),
            );
        }
        let elsewhere = old.is_some_and(|old| place(&old.transport) != place(&new.transport));
        if elsewhere {
            let to = code(&place(&new.transport));
            list.add(
                Effect::Widens,
                format!("the secret {id} of {server} goes to {to} now"),
            );
        }
        if before.inject != credential.inject {
            let (old, new) = (how(&before.inject), how(&credential.inject));
            list.add(
                Effect::Review,
                format!("{server} gets {id} {new}, was {old}"),
            );
        }
        let what = format!("where to obtain {id}");
        list.moved(Effect::Review, &what, &before.obtain, &credential.obtain);
        let days = |days: Option<u32>| days.map_or("never".to_owned(), |days| days.to_string());
        let end = |days: Option<u32>| days.unwrap_or(u32::MAX);
        let effect = match grown(&end(before.rotate_days), &end(credential.rotate_days)) {
            Some(Effect::Widens) => Effect::Review,
            _ => Effect::Neutral,
        };
        let (old, new) = (days(before.rotate_days), days(credential.rotate_days));
        list.moved(effect, &format!("rotate_days of {id}"), &old, &new);
    }
    list.0
}

/// Who receives what is sent: the host, or the program. A newer version of the same package is
/// looked at elsewhere.
fn place(transport: &Transport) -> String {
    match transport {
        Transport::Http { url, .. } => match reqwest::Url::parse(url) {
            Ok(url) => url.origin().ascii_serialization(),
            Err(_) => url.clone(),
        },
        Transport::Stdio {
            command, package, ..
        } => {
            let package = package.as_deref().unwrap_or_default();
            let name = package.rsplit_once('@').map_or(package, |(name, _)| name);
            match name.is_empty() {
                true => command.clone(),
                false => format!("{command} {name}"),
            }
        }
    }
}

fn how(inject: &Inject) -> String {
    match inject {
        Inject::Bearer => "as a bearer token".to_owned(),
        Inject::Env { name } => format!("in the variable {}", code(name)),
        Inject::Header { name } => format!("in the header {}", code(name)),
    }
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

fn record(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    let org = |view: &View| -> Option<OrgDoc> { view.org.clone() };
    if let (Some(old), Some(new)) = (org(was), org(is)) {
        let keys = |org: &OrgDoc| -> BTreeMap<String, (u64, u64)> {
            let keys = org.audit_keys.iter();
            keys.map(|key| (key.id.to_string(), (key.not_before, key.not_after)))
                .collect()
        };
        let (a, b) = (keys(&old), keys(&new));
        let brief = |id: &String| code(&id.chars().take(12).collect::<String>());
        for id in b.keys().filter(|id| !a.contains_key(*id)) {
            let sentence = format!("audit key {} can open new records", brief(id));
            list.add(Effect::Widens, sentence);
        }
        for id in a.keys().filter(|id| !b.contains_key(*id)) {
            let sentence = format!("audit key {} opens no new record", brief(id));
            list.add(Effect::Review, sentence);
        }
        for (id, times) in b
            .iter()
            .filter(|(id, times)| a.get(*id).is_some_and(|t| t != *times))
        {
            let (from, to) = (Utc(times.0), Utc(times.1));
            let sentence = format!("audit key {} is used from {from} to {to} now", brief(id));
            list.add(Effect::Review, sentence);
        }
        match (&old.collector, &new.collector) {
            (Some(a), Some(b)) => {
                list.moved(Effect::Review, "the collector", &a.url, &b.url);
                if a.ca_pem != b.ca_pem {
                    list.add(
                        Effect::Review,
                        "the collector has another private CA".to_owned(),
                    );
                }
            }
            (Some(a), None) => {
                let sentence = format!("records are delivered nowhere, was {}", code(&a.url));
                list.add(Effect::Widens, sentence);
            }
            (None, Some(b)) => {
                let sentence = format!("records are delivered to {}", code(&b.url));
                list.add(Effect::Narrows, sentence);
            }
            (None, None) => {}
        }
    }
    for (key, old, new) in both(was, is) {
        let server = format!("server {}", code(key.as_str()));
        audit(
            &server,
            old.audit.for_others(),
            new.audit.for_others(),
            &mut list,
        );
        let named = |doc: &AuditDoc| doc.tools.keys().cloned().collect::<BTreeSet<String>>();
        for tool in named(&old.audit).union(&named(&new.audit)) {
            let what = format!("tool {}", code(&format!("{key}/{tool}")));
            audit(
                &what,
                old.audit.for_tool(tool),
                new.audit.for_tool(tool),
                &mut list,
            );
        }
    }
    list.0
}

/// Less of a record is wider; so is going on without one.
fn audit(what: &str, old: AuditRule, new: AuditRule, list: &mut List) {
    let say = |value: &dyn std::fmt::Debug| format!("{value:?}").to_ascii_lowercase();
    let mut less = |name: &str, effect: Option<Effect>, was: String, is: String| {
        if let Some(effect) = effect {
            let effect = match effect {
                Effect::Narrows => Effect::Widens,
                Effect::Widens => Effect::Narrows,
                Effect::Neutral | Effect::Review => effect,
            };
            let sentence = format!("{what}: `{name}: {is}` now, was `{name}: {was}`");
            list.add(effect, sentence);
        }
    };
    let (a, b) = (old.class, new.class);
    less("class", grown(&a, &b), say(&a), say(&b));
    let (a, b) = (old.arguments, new.arguments);
    less("arguments", grown(&a, &b), say(&a), say(&b));
    let (a, b) = (old.results, new.results);
    less("results", grown(&a, &b), say(&a), say(&b));
    let closed = |mode: FailMode| mode == FailMode::Closed;
    let (a, b) = (old.fail_mode, new.fail_mode);
    less("fail_mode", grown(&closed(a), &closed(b)), say(&a), say(&b));
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

/// What a server may ask of a client, before and now.
fn asks(old: &ServerDoc, new: &ServerDoc) -> [(&'static str, bool, bool); 4] {
    [
        ("learns the client's roots", old.roots, new.roots),
        ("asks the person", old.elicitation, new.elicitation),
        ("asks the client's model", old.sampling, new.sampling),
        ("shows apps in the client", old.apps, new.apps),
    ]
}
