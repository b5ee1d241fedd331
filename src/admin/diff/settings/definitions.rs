//! Definitions that models read, and who is granted what changed.

use std::collections::BTreeMap;

use super::{List, both};
use crate::admin::diff::markup::code;
use crate::admin::diff::view::{View, writes};
use crate::admin::diff::{Change, Effect};
use crate::admin::survey::edits;
use crate::ids::{RoleName, ServerKey};
use crate::pin::{self, Difference};
use crate::registry::doc::{GrantTable, PinMode, Surface};

pub(super) fn definitions(was: &View, is: &View) -> Vec<Change> {
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
    let has = |tables: &BTreeMap<ServerKey, GrantTable>| {
        tables.get(server).is_some_and(|table| match kind {
            "tool" => table.tools.contains_key(name),
            "prompt" => table.prompts.contains_key(name),
            _ => false,
        })
    };
    let roles = policy.grants.iter().filter(|(_, tables)| has(tables));
    roles.map(|(role, _)| role).collect()
}
