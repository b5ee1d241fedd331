//! The record: who can open it, where it goes, what is written down.

use std::collections::{BTreeMap, BTreeSet};

use super::{List, both, grown};
use crate::admin::diff::markup::code;
use crate::admin::diff::view::View;
use crate::admin::diff::{Change, Effect};
use crate::clock::Utc;
use crate::registry::doc::{AuditDoc, AuditRule, FailMode, OrgDoc};

pub(super) fn record(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    if let (Some(old), Some(new)) = (&was.org, &is.org) {
        let keys = |org: &OrgDoc| -> BTreeMap<String, (u64, u64)> {
            let keys = org.audit_keys.iter();
            keys.map(|key| (key.id.to_string(), (key.not_before, key.not_after)))
                .collect()
        };
        let (a, b) = (keys(old), keys(new));
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
