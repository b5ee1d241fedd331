//! Roles: what their holders gain and lose, and who holds them.

use std::collections::BTreeSet;

use super::markup::{code, many};
use super::view::{Held, Thing, View};
use super::{Change, Effect, Item, RoleDiff, State, Writes};
use crate::clock::{Now, Utc};
use crate::ids::RoleName;

/// Every role of either side that differs.
pub(super) fn roles(was: &View, is: &View, now: &Now) -> Vec<RoleDiff> {
    let names: BTreeSet<&RoleName> = was
        .roles()
        .chain(is.roles())
        .map(|(name, _)| name)
        .collect();
    let differs = |role: &RoleDiff| {
        let RoleDiff {
            gains,
            losses,
            changes,
            state,
            ..
        } = role;
        *state != State::Kept || !(gains.is_empty() && losses.is_empty() && changes.is_empty())
    };
    names
        .into_iter()
        .map(|name| role(name, was, is, now))
        .filter(differs)
        .collect()
}

fn role(name: &RoleName, was: &View, is: &View, now: &Now) -> RoleDiff {
    let state = match (was.role(name), is.role(name)) {
        (None, _) => State::Added,
        (Some(_), None) => State::Removed,
        (Some(_), Some(_)) => State::Kept,
    };
    let (before, after) = (
        was.access(name, now.unix_s()),
        is.access(name, now.unix_s()),
    );
    let mut gains = Vec::new();
    let mut losses = Vec::new();
    let mut changes = Vec::new();
    for (thing, held) in &after {
        match before.get(thing) {
            None => gains.push(item(is, thing, held)),
            Some(old) => changes.extend(lasting(thing, old, held)),
        }
        if let Some(change) = before.get(thing).and_then(|_| writing(was, is, thing)) {
            changes.push(change);
        }
    }
    for (thing, held) in before
        .iter()
        .filter(|(thing, _)| !after.contains_key(thing))
    {
        losses.push(item(was, thing, held));
    }
    // what writes first
    gains.sort_by_key(|item| item.writes);
    losses.sort_by_key(|item| item.writes);
    if state == State::Kept {
        let tools: Vec<Writes> = after.keys().map(|thing| is.writes(thing)).collect();
        holders(name, was, is, &tools, &mut changes);
    }
    changes.sort_by_key(|change| change.effect);
    let now_held = if state == State::Removed { was } else { is };
    RoleDiff {
        role: name.clone(),
        state,
        groups: groups(now_held, name).into_iter().cloned().collect(),
        agents: now_held
            .agents_of(name)
            .iter()
            .map(ToString::to_string)
            .collect(),
        gains,
        losses,
        changes,
    }
}

fn groups<'v>(view: &'v View, role: &RoleName) -> BTreeSet<&'v String> {
    view.role(role)
        .into_iter()
        .flat_map(|doc| &doc.groups)
        .collect()
}

fn item(view: &View, thing: &Thing, held: &Held) -> Item {
    let rules = view.policy.as_ref().map(|policy| policy.rules.as_slice());
    let rule = usize::try_from(held.rule).ok();
    let rule = rule.and_then(|i| rules.unwrap_or_default().get(i));
    Item {
        server: thing.server.to_string(),
        kind: thing.kind,
        name: thing.name.clone(),
        writes: view.writes(thing),
        source: rule.map(|rule| rule.source.clone()).unwrap_or_default(),
        approved_by: rule
            .map(|rule| rule.approved_by.clone())
            .unwrap_or_default(),
        until: held.until.map(|until| Utc(until).to_string()),
    }
}

/// A grant that lasts longer or shorter.
fn lasting(thing: &Thing, old: &Held, new: &Held) -> Option<Change> {
    let end = |held: &Held| held.until.unwrap_or(u64::MAX);
    let effect = match end(old).cmp(&end(new)) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => Effect::Narrows,
        std::cmp::Ordering::Less => Effect::Widens,
    };
    let say = |held: &Held| match held.until {
        Some(until) => format!("until {}", Utc(until)),
        None => "without end".to_owned(),
    };
    let sentence = format!("{} is granted {}, was {}", path(thing), say(new), say(old));
    Some(Change::new(effect, sentence))
}

/// A tool that was granted and says something else about its effects now.
fn writing(was: &View, is: &View, thing: &Thing) -> Option<Change> {
    let (old, new) = (was.writes(thing), is.writes(thing));
    let effect = match old.cmp(&new) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => Effect::Widens,
        std::cmp::Ordering::Less => Effect::Narrows,
    };
    let sentence = format!("{} {} now, before: {}", path(thing), new.word(), old.word());
    Some(Change::new(effect, sentence))
}

/// Groups and agents that get or lose the whole role.
fn holders(name: &RoleName, was: &View, is: &View, things: &[Writes], out: &mut Vec<Change>) {
    let writes = things.iter().filter(|writes| **writes != Writes::Reads);
    let worth = format!(
        "{}, {} that write",
        many(things.len(), "grant"),
        writes.count()
    );
    let mut say = |effect, what: &str, who: &str, verb: &str| {
        let sentence = format!("{what} {} {verb} the role: {worth}", code(who));
        out.push(Change::new(effect, sentence));
    };
    let (before, after) = (groups(was, name), groups(is, name));
    for group in after.difference(&before) {
        say(Effect::Widens, "the group", group, "gets");
    }
    for group in before.difference(&after) {
        say(Effect::Narrows, "the group", group, "loses");
    }
    let (before, after) = (was.agents_of(name), is.agents_of(name));
    for agent in after.difference(&before) {
        say(Effect::Widens, "the agent", agent.as_str(), "gets");
    }
    for agent in before.difference(&after) {
        say(Effect::Narrows, "the agent", agent.as_str(), "loses");
    }
}

/// `server/name`, as people write it.
fn path(thing: &Thing) -> String {
    match thing.kind {
        "tool" => code(&format!("{}/{}", thing.server, thing.name)),
        kind => format!(
            "{kind} {}",
            code(&format!("{}/{}", thing.server, thing.name))
        ),
    }
}
