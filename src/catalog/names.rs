//! Tools and prompts: their entries, and the way back from the names that clients use.

use std::collections::BTreeMap;
use std::ops::Range;

use super::alias::Owners;
use super::{Listing, STATUS_TOOL};
use crate::ids::{Digest, ExposedName, ServerKey};
use crate::limits;
use crate::registry::doc::{Pinned, Surface};
use crate::wire::era::Revision;
use crate::wire::raw;

/// A tool or prompt the caller sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub server: ServerKey,
    /// The upstream's own name.
    pub name: String,
    /// The name the client sees.
    pub exposed: ExposedName,
    /// The pinned definition's digest.
    pub digest: Digest,
    /// A tool that its server, of the handshake era, only runs as a task (MCP 2025-11-25).
    pub needs_task: bool,
}

/// Tools or prompts: the list, and the way back from names.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) entries: Vec<Entry>,
    exposed: BTreeMap<ExposedName, usize>,
    /// Original names; `None` once a second entry has the same.
    bare: BTreeMap<Box<str>, Option<usize>>,
    pub(super) list: Listing,
}

/// How an entry differs from its definition, beside its name.
#[derive(Debug, Default)]
pub(super) struct Traits {
    needs_task: bool,
    /// Where URIs stand that are shown under another name, and those names as JSON tokens.
    uris: Vec<(Range<usize>, String)>,
    /// A member that clients of the other era cannot have: whether those are stateless.
    without: Option<(&'static str, bool)>,
    /// The model APIs behind some clients refuse it.
    unfit: bool,
}

impl Names {
    /// Takes an entry in, unless its exposed name is taken: the first in the order keeps it.
    pub(super) fn add(&mut self, server: &ServerKey, pinned: &Pinned, traits: &Traits) {
        let (Some(exposed), Some((before, after))) = (&pinned.exposed, around_name(pinned)) else {
            return;
        };
        if exposed.as_str() == STATUS_TOOL || self.exposed.contains_key(exposed) {
            return;
        }
        // the exposed name in place of the original, every other byte stays; it needs no escapes
        let own = match traits.uris.is_empty() {
            true => None,
            false => rendition(pinned, exposed, &traits.uris, None),
        };
        match &own {
            None => self
                .list
                .push(&[before, "\"", exposed.as_str(), "\"", after]),
            Some(own) => self.list.push(&[own]),
        }
        if traits.unfit {
            self.list.withhold();
        }
        if let Some((member, stateless)) = traits.without
            && let Some(without) = rendition(pinned, exposed, &traits.uris, Some(member))
        {
            self.list.vary(stateless, without);
        }
        let at = self.entries.len();
        self.exposed.insert(exposed.clone(), at);
        self.bare
            .entry(pinned.name.as_str().into())
            .and_modify(|one| *one = None)
            .or_insert(Some(at));
        self.entries.push(Entry {
            server: server.clone(),
            name: pinned.name.clone(),
            exposed: exposed.clone(),
            digest: pinned.digest,
            needs_task: traits.needs_task,
        });
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        let at = self
            .exposed
            .get(name)
            .copied()
            .or_else(|| self.bare.get(name).copied().flatten())?;
        self.entries.get(at)
    }
}

/// Whether a tool can only be called as a task of MCP 2025-11-25 (`execution.taskSupport`). In the
/// stateless era the member means nothing.
#[must_use]
pub fn needs_task(surface: &Surface, tool: &Pinned) -> bool {
    let definition = tool.definition.get();
    if !may_have(definition, "taskSupport") || surface.protocol == Revision::STATELESS.as_str() {
        return false;
    }
    let support = || {
        let definition = raw::Object::parse(definition).ok()?;
        let execution = definition.object("execution").ok()??;
        Some(execution.text("taskSupport")? == "required")
    };
    support().unwrap_or(false)
}

/// Whether a text may name a member: keys can be spelled with escapes. Cheaper than reading it.
fn may_have(text: &str, member: &str) -> bool {
    text.contains(member) || text.contains("\\u")
}

/// How a tool's entry differs from its definition.
pub(super) fn traits(
    server: &ServerKey,
    surface: &Surface,
    tool: &Pinned,
    owners: &Owners,
) -> Traits {
    let text = tool.definition.get();
    let stateless = surface.protocol == Revision::STATELESS.as_str();
    let apps = owners.is_second(server) && may_have(text, "esourceUri");
    let looks = match stateless {
        true => may_have(text, "outputSchema"),
        false => may_have(text, "execution"),
    };
    let definition = match looks || apps {
        true => raw::Object::parse(text).ok(),
        false => None,
    };
    let unfit = surface.unfit.contains_key(&tool.name);
    let Some(definition) = definition else {
        return Traits {
            unfit,
            ..Traits::default()
        };
    };
    let without = match (stateless, definition.object("outputSchema")) {
        // MCP 2025-11-25, tools: the root of an outputSchema is an object
        (true, Ok(Some(schema))) if schema.text("type").as_deref() == Some("object") => None,
        (true, _) => definition
            .get("outputSchema")
            .map(|_| ("outputSchema", false)),
        // gone in MCP 2026-07-28
        (false, _) => definition.get("execution").map(|_| ("execution", true)),
    };
    Traits {
        needs_task: needs_task(surface, tool),
        uris: if apps {
            app_uris(server, &definition, owners)
        } else {
            Vec::new()
        },
        without,
        unfit,
    }
}

/// Where a tool names the resource that shows it (MCP Apps; hosts read both spellings), if that is
/// shown under another name.
fn app_uris(
    server: &ServerKey,
    definition: &raw::Object<'_>,
    owners: &Owners,
) -> Vec<(Range<usize>, String)> {
    let Ok(Some(meta)) = definition.object("_meta") else {
        return Vec::new();
    };
    let ui = meta.object("ui").ok().flatten();
    let nested = ui.as_ref().map(|ui| (ui, "resourceUri"));
    let places = [nested, Some((&meta, "ui/resourceUri"))];
    let renamed = |(holder, key): (&raw::Object<'_>, &str)| {
        let shown = owners.shown(server, &holder.text(key)?)?;
        Some((holder.value_span(key)?, raw::quoted(&shown)))
    };
    places.into_iter().flatten().filter_map(renamed).collect()
}

/// A definition as an entry: with its exposed name and other names of URIs, and without a member.
fn rendition(
    pinned: &Pinned,
    exposed: &ExposedName,
    uris: &[(Range<usize>, String)],
    without: Option<&str>,
) -> Option<String> {
    let text = pinned.definition.get();
    let definition = raw::Object::parse(text).ok()?;
    let mut edits = raw::Edits::new();
    edits.replace(
        definition.value_span("name")?,
        &raw::quoted(exposed.as_str()),
    );
    for (place, uri) in uris {
        edits.replace(place.clone(), uri);
    }
    let change = |key: &str| match Some(key) == without {
        true => raw::Change::Remove,
        false => raw::Change::Keep,
    };
    edits.object(&definition, change, &[]);
    let mut out = Vec::with_capacity(text.len() + limits::EXPOSED_NAME_BYTES);
    edits.apply(text, &mut out);
    String::from_utf8(out).ok()
}

/// What stands before and after the value of a definition's `name`.
fn around_name(pinned: &Pinned) -> Option<(&str, &str)> {
    let definition = pinned.definition.get();
    let span = raw::Object::parse(definition).ok()?.value_span("name")?;
    Some((definition.get(..span.start)?, definition.get(span.end..)?))
}
