//! The names clients see: assigned once, never changed by a newcomer.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, ExposedName, ServerKey};
use crate::limits::EXPOSED_NAME_BYTES;

/// Names as they were assigned: the upstream's own name to the exposed one.
///
/// Entries outlive their tool. A name that was given away is never given to another tool: clients
/// keep "always allow" lists by name.
pub type Kept = BTreeMap<String, ExposedName>;

/// Returns a name for each of `names`, and every kept one unchanged.
///
/// A name is `<server>_<name>` with everything but `a-z A-Z 0-9 _ -` turned into `_`. Where that
/// is taken or longer than [`EXPOSED_NAME_BYTES`], it is cut and gets `_` and six hexadecimal
/// digits of SHA-256 over server key, zero byte and name. Kept names that do not begin with this
/// server's key are assigned anew: the key has changed.
///
/// The order of `names` is irrelevant: among newcomers, those that need no change come first,
/// then by code point. Server keys hold no `_`, so two servers never meet.
#[must_use]
pub fn assign_names<'a>(
    key: &ServerKey,
    names: impl IntoIterator<Item = &'a str>,
    kept: &Kept,
) -> Kept {
    let prefix = format!("{key}_");
    let mut taken: BTreeSet<ExposedName> = BTreeSet::new();
    let mut assigned: Kept = kept
        .iter()
        .filter(|(_, exposed)| exposed.as_str().starts_with(&prefix))
        // of two that are equal, which only an editor can make, the second is assigned anew
        .filter(|(_, exposed)| taken.insert((*exposed).clone()))
        .map(|(name, exposed)| (name.clone(), exposed.clone()))
        .collect();
    let newcomers: BTreeSet<(bool, &str)> = names
        .into_iter()
        .filter(|name| !assigned.contains_key(*name))
        .map(|name| (format!("{prefix}{name}") != plain(key, name), name))
        .collect();
    for (_, name) in newcomers {
        let exposed = free(key, name, &taken);
        taken.insert(exposed.clone());
        assigned.insert(name.to_owned(), exposed);
    }
    assigned
}

/// The first candidate that fits and is free. Six digits may collide as well; then the round is
/// hashed along, until some are free.
fn free(key: &ServerKey, name: &str, taken: &BTreeSet<ExposedName>) -> ExposedName {
    let plain = plain(key, name);
    let mut candidate = plain.clone();
    let mut round = 0_u64;
    loop {
        if let Ok(exposed) = ExposedName::parse(&candidate)
            && !taken.contains(&exposed)
        {
            return exposed;
        }
        let mut text = format!("{key}\0{name}");
        if round > 0 {
            text.push_str(&format!("\0{round}"));
        }
        let hex = Digest::of(text.as_bytes()).to_string();
        let stem: String = plain.chars().take(EXPOSED_NAME_BYTES - 7).collect();
        let digits: String = hex.chars().take(6).collect();
        candidate = format!("{stem}_{digits}");
        round += 1;
    }
}

fn plain(key: &ServerKey, name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    format!("{key}_{name}")
}
