//! Tools and prompts: their entries, and the way back from the names that clients use.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::alias::Owners;
use super::{Listing, STATUS_TOOL};
use crate::ids::{Digest, ExposedName, ServerKey};
use crate::limits;
use crate::pin::Kind;
use crate::registry::doc::{PinMode, Pinned, Registry, Surface};
use crate::wire::era::{Revision, Schema};
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
    /// A tool whose `outputSchema` clients of the handshake era have in another form
    /// ([`Schema::Wrapped`]).
    pub wraps: bool,
}

/// Tools or prompts: the list, and the way back from names.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) entries: Vec<Entry>,
    exposed: BTreeMap<ExposedName, usize>,
    /// Original names; `None` once a second entry has the same.
    bare: BTreeMap<Box<str>, Option<usize>>,
    /// Exposed names of servers that are not pinned, whoever may use them.
    unpinned: BTreeSet<ExposedName>,
    pub(super) list: Listing,
}

/// How an entry differs from its definition, beside its name.
#[derive(Debug, Default)]
pub(super) struct Traits {
    needs_task: bool,
    /// Where URIs stand that are shown under another name, and those names as JSON tokens.
    uris: Vec<(Range<usize>, String)>,
    /// The model APIs behind some clients refuse it.
    unfit: bool,
    /// What clients of the other era have otherwise.
    other: Option<Other>,
}

/// How clients of one era have an entry otherwise than those of the other.
#[derive(Debug)]
enum Other {
    /// Stateless ones, without `execution`.
    NoExecution,
    /// Those of the handshake era: the `outputSchema` instead, or none.
    Output(Option<String>),
}

impl Other {
    fn is_stateless(&self) -> bool {
        matches!(self, Self::NoExecution)
    }

    fn change(&self, key: &str) -> raw::Change<'_> {
        match (self, key) {
            (Self::NoExecution, "execution") | (Self::Output(None), "outputSchema") => {
                raw::Change::Remove
            }
            (Self::Output(Some(schema)), "outputSchema") => raw::Change::Value(schema),
            _ => raw::Change::Keep,
        }
    }
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
        if let Some(other) = &traits.other
            && let Some(entry) = rendition(pinned, exposed, &traits.uris, Some(other))
        {
            self.list.vary(other.is_stateless(), entry);
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
            wraps: matches!(traits.other, Some(Other::Output(Some(_)))),
        });
    }

    /// Takes note of what a server that is not pinned exposes, whoever may use it.
    pub(super) fn claim(&mut self, entries: &[Pinned]) {
        let exposed = entries.iter().filter_map(|entry| entry.exposed.clone());
        self.unpinned.extend(exposed);
    }

    /// The entry with this exposed name, else the only one with this original name. An exposed
    /// name of the registry is never an original one: its owner may be hidden, revoked or not
    /// opened yet, and a call that means it must not reach another.
    pub(super) fn get(
        &self,
        kind: Kind,
        name: &str,
        registry: Option<&Registry>,
    ) -> Option<&Entry> {
        if let Some(at) = self.exposed.get(name) {
            return self.entries.get(*at);
        }
        let entry = self.entries.get(self.bare.get(name).copied().flatten()?)?;
        let exposed = registry.is_none_or(|registry| self.is_exposed(kind, name, entry, registry));
        (!exposed).then_some(entry)
    }

    /// Whether a name is, or may be, exposed for an entry that this caller does not see. Exposed
    /// names begin with the key of their server and `_`, which no key holds.
    fn is_exposed(&self, kind: Kind, name: &str, bare: &Entry, registry: &Registry) -> bool {
        let key = name.split_once('_').map(|(key, _)| key);
        let key = key.and_then(|key| key.parse::<ServerKey>().ok());
        let Some(owner) = key.and_then(|key| registry.servers.get(&key)) else {
            return false;
        };
        match owner.pin {
            // what it offers is not known before it is opened
            PinMode::Off if owner.key != bare.server => true,
            PinMode::Off => self.unpinned.contains(name),
            PinMode::Definitions | PinMode::Names | PinMode::Strict => {
                let surface = owner.surface.as_ref();
                let mut entries = surface.into_iter().flat_map(|surface| kind.of(surface));
                entries.any(|entry| entry.exposed.as_ref().is_some_and(|e| e.as_str() == name))
            }
        }
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
    let other = match (stateless, definition.get("outputSchema")) {
        // MCP 2025-11-25, tools: the root of an outputSchema is an object
        (true, Some(schema)) => match Schema::of(schema) {
            Schema::Kept => None,
            Schema::Removed => Some(Other::Output(None)),
            Schema::Wrapped(schema) => Some(Other::Output(Some(schema))),
        },
        (true, None) => None,
        // gone in MCP 2026-07-28
        (false, _) => definition.get("execution").map(|_| Other::NoExecution),
    };
    Traits {
        needs_task: needs_task(surface, tool),
        uris: if apps {
            app_uris(server, &definition, owners)
        } else {
            Vec::new()
        },
        other,
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

/// A definition as an entry: with its exposed name and other names of URIs, and otherwise for
/// clients of one era.
fn rendition(
    pinned: &Pinned,
    exposed: &ExposedName,
    uris: &[(Range<usize>, String)],
    other: Option<&Other>,
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
    if let Some(other) = other {
        edits.object(&definition, |key| other.change(key), &[]);
    }
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
