//! Merged lists and names: what one caller sees, and what a name means.
//!
//! Everything here is built once per snapshot, in the order of the registry (servers by key, then
//! each server's own order), so that the same registry and caller give the same bytes. An entry is
//! listed when [`crate::policy::decide`] would allow it for some arguments, and for no other reason.
#![warn(missing_docs)]

pub mod alias;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use self::alias::Owners;

use crate::clock::Now;
use crate::ids::{Digest, ExposedName, ServerKey};
use crate::limits;
use crate::policy::pattern::Pattern;
use crate::policy::{Access, Snapshot, allows};
use crate::registry::Verified;
use crate::registry::doc::{Pinned, Registry, Surface};
use crate::wire::era::{Era, Revision};
use crate::wire::raw;

/// The tool that is always there, whoever calls and whatever is wrong.
pub const STATUS_TOOL: &str = "mcpshim_status";

/// Its list entry.
pub const STATUS_DEFINITION: &str = concat!(
    r#"{"name":"mcpshim_status","title":"mcpshim status","#,
    r#""description":"Says who you are to the organisation, which servers and tools you may use, "#,
    r#"and why something is missing or refused. Call it when an expected tool is not there.","#,
    r#""inputSchema":{"type":"object","properties":{},"additionalProperties":false},"#,
    r#""annotations":{"title":"mcpshim status","readOnlyHint":true,"destructiveHint":false,"#,
    r#""idempotentHint":true,"openWorldHint":false}}"#,
);

/// What one caller sees of a registry.
#[derive(Debug, Default)]
pub struct Catalog {
    tools: Names,
    prompts: Names,
    resources: Listing,
    templates: Listing,
    /// Static URIs and who serves them.
    fixed: BTreeMap<Box<str>, ServerKey>,
    /// Templates in registry order.
    shapes: Vec<(Pattern, ServerKey)>,
    instructions: String,
    owners: Owners,
    /// URIs that are shown under another name: server and its own URI.
    shown: Vec<(ServerKey, String)>,
    registry: Option<Arc<Verified<Registry>>>,
}

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

/// A tool the caller sees.
pub type ToolEntry = Entry;
/// A prompt the caller sees.
pub type PromptEntry = Entry;

/// A list as clients get it, in pages: a client may read one page only, so all that one line can
/// hold is on the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// A JSON array without its brackets.
    text: String,
    /// Where the last entry begins.
    last: usize,
    /// Where pages end that another follows: at a comma.
    ends: Vec<usize>,
    /// How many entries there are, and how many on the first page.
    counts: (usize, usize),
    /// Entries that clients of one era get otherwise, in order.
    variants: Vec<Variant>,
}

/// An entry without a member that clients of one era cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variant {
    /// Where it stands in the list.
    at: Range<usize>,
    stateless: bool,
    without: String,
}

impl Listing {
    /// Adds an entry, given in pieces.
    fn push(&mut self, pieces: &[&str]) {
        let begin = self.ends.last().map_or(0, |end| end + 1);
        if !self.text.is_empty() {
            let len: usize = pieces.iter().map(|piece| piece.len()).sum();
            if self.text.len() - begin + 1 + len > limits::LIST_PAGE_BYTES {
                self.ends.push(self.text.len());
            }
            self.text.push(',');
        }
        self.last = self.text.len();
        self.text.extend(pieces.iter().copied());
        self.counts.0 += 1;
        self.counts.1 += usize::from(self.ends.is_empty());
    }

    /// The entries of one page, separated by commas, and whether another page follows; `None`
    /// where there is no such page. The first, 0, is always there.
    #[must_use]
    pub fn page(&self, index: usize) -> Option<(&str, bool)> {
        let begin = match index.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before)? + 1,
        };
        let end = self.ends.get(index).copied();
        let entries = self.text.get(begin..end.unwrap_or(self.text.len()))?;
        Some((entries, end.is_some()))
    }

    /// [`Listing::page`] as clients of an era get it.
    #[must_use]
    pub fn page_for(&self, index: usize, era: Era) -> Option<(Cow<'_, str>, bool)> {
        let (page, more) = self.page(index)?;
        let begin = raw::place(&self.text, page)?.start;
        let end = begin + page.len();
        let stateless = era == Era::Stateless;
        let own = self.variants.iter();
        let mut own = own
            .filter(|one| one.stateless == stateless && one.at.start >= begin && one.at.end <= end)
            .peekable();
        if own.peek().is_none() {
            return Some((Cow::Borrowed(page), more));
        }
        let mut out = String::with_capacity(page.len());
        let mut from = begin;
        for Variant { at, without, .. } in own {
            out.push_str(self.text.get(from..at.start).unwrap_or_default());
            out.push_str(without);
            from = at.end;
        }
        out.push_str(self.text.get(from..end).unwrap_or_default());
        Some((Cow::Owned(out), more))
    }

    /// The entry that was pushed last is another one for clients of one era.
    fn vary(&mut self, stateless: bool, without: String) {
        let at = self.last..self.text.len();
        self.variants.push(Variant {
            at,
            stateless,
            without,
        });
    }

    /// All entries, separated by commas.
    #[must_use]
    pub fn entries(&self) -> &str {
        &self.text
    }

    /// How many entries there are, and how many of them are on the first page.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.counts
    }
}

/// Tools or prompts: the list, and the way back from names.
#[derive(Debug, Default)]
struct Names {
    entries: Vec<Entry>,
    exposed: BTreeMap<ExposedName, usize>,
    /// Original names; `None` once a second entry has the same.
    bare: BTreeMap<Box<str>, Option<usize>>,
    list: Listing,
}

/// How an entry differs from its definition, beside its name.
#[derive(Debug, Default)]
struct Traits {
    needs_task: bool,
    /// Where URIs stand that are shown under another name, and those names as JSON tokens.
    uris: Vec<(Range<usize>, String)>,
    /// A member that clients of the other era cannot have: whether those are stateless.
    without: Option<(&'static str, bool)>,
}

impl Names {
    /// Takes an entry in, unless its exposed name is taken: the first in the order keeps it.
    fn add(&mut self, server: &ServerKey, pinned: &Pinned, traits: &Traits) {
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

    fn get(&self, name: &str) -> Option<&Entry> {
        let at = self
            .exposed
            .get(name)
            .copied()
            .or_else(|| self.bare.get(name).copied().flatten())?;
        self.entries.get(at)
    }
}

impl Catalog {
    /// Builds what the caller of the snapshot sees at `now`.
    pub(crate) fn build(snapshot: &Snapshot, now: &Now) -> Self {
        let mut catalog = Self {
            registry: snapshot.shared_registry(),
            ..Self::default()
        };
        // at most this long: growing step by step would copy megabytes several times
        let surfaces = || {
            let keys = snapshot
                .registry()
                .into_iter()
                .flat_map(|r| r.servers.keys());
            keys.filter_map(|key| snapshot.surface(key))
        };
        let tools = surfaces().flat_map(|surface| &surface.tools);
        let bound = tools.map(|tool| tool.definition.get().len() + limits::EXPOSED_NAME_BYTES);
        catalog.tools.list.text.reserve(bound.sum());
        catalog.tools.list.push(&[STATUS_DEFINITION]);
        catalog.owners = Owners::of(snapshot);
        let mut visible = Vec::new();
        for key in snapshot
            .registry()
            .into_iter()
            .flat_map(|r| r.servers.keys())
        {
            if let Some(surface) = snapshot.surface(key)
                && catalog.add_surface(snapshot, key, surface, now)
            {
                visible.push((key, surface));
            }
        }
        catalog.instructions = instructions(snapshot, &visible);
        catalog
    }

    /// Adds what the caller may use of one server; says whether that is anything.
    fn add_surface(
        &mut self,
        snapshot: &Snapshot,
        key: &ServerKey,
        surface: &Surface,
        now: &Now,
    ) -> bool {
        let mut any = false;
        let mut access = Access::Tool {
            server: key.clone(),
            name: String::new(),
        };
        for tool in &surface.tools {
            if let Access::Tool { name, .. } = &mut access {
                name.clone_from(&tool.name);
            }
            if allows(snapshot, &access, now) {
                let traits = traits(key, surface, tool, &self.owners);
                self.tools.add(key, tool, &traits);
                any = true;
            }
        }
        for prompt in &surface.prompts {
            let (server, name) = (key.clone(), prompt.name.clone());
            if allows(snapshot, &Access::Prompt { server, name }, now) {
                self.prompts.add(key, prompt, &Traits::default());
                any = true;
            }
        }
        for resource in &surface.resources {
            let (server, uri) = (key.clone(), resource.name.clone());
            if !allows(snapshot, &Access::Resource { server, uri }, now) {
                continue;
            }
            any = true;
            let foreign = self.owners.fixed(&resource.name) != Some(key);
            let own = resource.definition.get();
            if !foreign {
                self.fixed
                    .insert(resource.name.as_str().into(), key.clone());
                self.resources.push(&[own]);
            } else if let Some(entry) = renamed(own, "uri", &alias::alias(key, &resource.name)) {
                self.shown.push((key.clone(), resource.name.clone()));
                self.resources.push(&[&entry]);
            }
        }
        for template in &surface.templates {
            if !snapshot.allows_some(key, &template.name, now) {
                continue;
            }
            any = true;
            let shape = Pattern::template(&template.name);
            let own = template.definition.get();
            if !self.owners.is_second_shape(key, &shape) {
                self.templates.push(&[own]);
                self.shapes.push((shape, key.clone()));
            } else if let Some(entry) =
                renamed(own, "uriTemplate", &alias::alias(key, &template.name))
            {
                self.shown.push((key.clone(), template.name.clone()));
                self.templates.push(&[&entry]);
            }
        }
        any
    }

    /// The tool a client means: its exposed name, or its original name while exactly one visible
    /// tool has that. MCP Apps call tools by the original name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&ToolEntry> {
        self.tools.get(name)
    }

    /// Whether a tool that the caller sees can only be called as a task of the handshake era.
    #[must_use]
    pub fn needs_task(&self, server: &ServerKey, name: &str) -> bool {
        let entries = self.tools.entries.iter();
        let mut those = entries.filter(|entry| entry.needs_task);
        those.any(|entry| entry.server == *server && entry.name == name)
    }

    /// The prompt a client means, by the same rule.
    #[must_use]
    pub fn prompt(&self, name: &str) -> Option<&PromptEntry> {
        self.prompts.get(name)
    }

    /// Who serves a URI: a static resource, else the first template in the order that matches.
    #[must_use]
    pub fn route(&self, uri: &str) -> Option<ServerKey> {
        self.resource(uri).map(|(server, _)| server)
    }

    /// Who serves a URI, and the URI that server knows it by.
    #[must_use]
    pub fn resource<'a>(&self, uri: &'a str) -> Option<(ServerKey, Cow<'a, str>)> {
        if uri.len() > limits::URI_BYTES {
            return None;
        }
        if let Some((server, own)) = alias::original(uri) {
            // a name of ours, for whoever it is: whether it may be had is decided like any other
            let registry = self.registry.as_ref()?;
            return registry
                .servers
                .contains_key(&server)
                .then_some((server, own));
        }
        if let Some(server) = self.fixed.get(uri) {
            return Some((server.clone(), Cow::Borrowed(uri)));
        }
        // what is a server's own does not become another's because the caller may not see it
        let owner = self.owners.fixed(uri);
        let mut shapes = self.shapes.iter();
        let (_, server) = shapes.find(|(shape, server)| {
            owner.is_none_or(|owner| owner == server) && shape.matches(uri)
        })?;
        Some((server.clone(), Cow::Borrowed(uri)))
    }

    /// The name a client sees for a server's URI, where it is another than its own.
    #[must_use]
    pub fn shown_uri(&self, server: &ServerKey, uri: &str) -> Option<String> {
        self.owners.shown(server, uri)
    }

    /// Whether some URI of a server is shown under another name.
    #[must_use]
    pub fn shows_others(&self, server: &ServerKey) -> bool {
        self.owners.is_second(server)
    }

    /// A tool of the registry that this caller does not see: for the record only, the client is
    /// told that there is no such tool. Linear in the registry; asked for refused names only.
    #[must_use]
    pub fn hidden_tool(&self, name: &str) -> Option<(ServerKey, String)> {
        let registry = self.registry.as_ref()?;
        let tools = || {
            registry.servers.iter().flat_map(|(key, doc)| {
                let surface = doc.surface.as_ref();
                surface
                    .into_iter()
                    .flat_map(move |s| s.tools.iter().map(move |t| (key, t)))
            })
        };
        let exposed = |tool: &Pinned| tool.exposed.as_ref().is_some_and(|e| e.as_str() == name);
        tools()
            .find(|(_, tool)| exposed(tool))
            .or_else(|| tools().find(|(_, tool)| tool.name == name))
            .map(|(key, tool)| (key.clone(), tool.name.clone()))
    }

    /// The tools, in order.
    #[must_use]
    pub fn tool_entries(&self) -> &[ToolEntry] {
        &self.tools.entries
    }

    /// The prompts, in order.
    #[must_use]
    pub fn prompt_entries(&self) -> &[PromptEntry] {
        &self.prompts.entries
    }

    /// URIs and templates of servers that are listed under another name, because a server earlier
    /// in the order has the same.
    #[must_use]
    pub fn shown(&self) -> &[(ServerKey, String)] {
        &self.shown
    }

    /// The `tools` of a `tools/list` result, [`STATUS_TOOL`] first.
    #[must_use]
    pub fn tools(&self) -> &Listing {
        &self.tools.list
    }

    /// The `prompts` of a `prompts/list` result.
    #[must_use]
    pub fn prompts(&self) -> &Listing {
        &self.prompts.list
    }

    /// The `resources` of a `resources/list` result.
    #[must_use]
    pub fn resources(&self) -> &Listing {
        &self.resources
    }

    /// The `resourceTemplates` of a `resources/templates/list` result.
    #[must_use]
    pub fn templates(&self) -> &Listing {
        &self.templates
    }

    /// The merged `instructions`, at most [`limits::INSTRUCTIONS_BYTES`].
    #[must_use]
    pub fn instructions(&self) -> String {
        self.instructions.clone()
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
fn traits(server: &ServerKey, surface: &Surface, tool: &Pinned, owners: &Owners) -> Traits {
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
    let Some(definition) = definition else {
        return Traits::default();
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

/// A definition with another text in one member.
fn renamed(definition: &str, member: &str, text: &str) -> Option<String> {
    let span = raw::Object::parse(definition).ok()?.value_span(member)?;
    let (before, after) = (definition.get(..span.start)?, definition.get(span.end..)?);
    Some(format!("{before}{}{after}", raw::quoted(text)))
}

/// What stands before and after the value of a definition's `name`.
fn around_name(pinned: &Pinned) -> Option<(&str, &str)> {
    let definition = pinned.definition.get();
    let span = raw::Object::parse(definition).ok()?.value_span("name")?;
    Some((definition.get(..span.start)?, definition.get(span.end..)?))
}

const CUT: &str = "\n[cut here: the instructions of all servers together are too long]";

/// What is wrong first, then how refusals read, then each visible server's own words.
fn instructions(snapshot: &Snapshot, visible: &[(&ServerKey, &Surface)]) -> String {
    let mut text = String::new();
    if let Some(trouble) = snapshot.trouble() {
        text.push_str("mcpshim cannot offer tools now: ");
        text.push_str(trouble);
        text.push_str(".\nCall ");
        text.push_str(STATUS_TOOL);
        text.push_str(" for details and tell the user what to do.\n");
    } else if let Some(registry) = snapshot.registry() {
        text.push_str("Tools of several servers, approved by ");
        text.push_str(&registry.org.name);
        text.push_str(
            ". A result that begins \"Policy denial, do not retry:\" is final: tell the user what \
             it says. If an expected tool is missing, call ",
        );
        text.push_str(STATUS_TOOL);
        text.push_str(".\n");
    }
    for (key, surface) in visible {
        if let Some(own) = surface
            .instructions
            .as_deref()
            .filter(|own| !own.is_empty())
        {
            text.push_str("\n## ");
            text.push_str(key.as_str());
            text.push('\n');
            text.push_str(own.trim());
            text.push('\n');
        }
    }
    if text.len() > limits::INSTRUCTIONS_BYTES {
        let mut end = limits::INSTRUCTIONS_BYTES - CUT.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixture::{NOW, ann, at, key, registry, resource, server, snapshot, tool};
    use crate::policy::{Decision, SnapshotId, decide};
    use crate::registry::Freshness;

    fn world() -> Registry {
        let mut registry = registry();
        let uris = ["memo://a", "memo://b"];
        registry
            .put(server(
                "a",
                "strict",
                &[("get", true), ("put", false)],
                &["p"],
                &uris,
                &["db://{t}"],
            ))
            .put(server(
                "b",
                "strict",
                &[("get", true), ("list", true)],
                &[],
                &uris,
                &["db://{u}"],
            ))
            .put_role("eng", &[])
            .grant("eng", "a", "get")
            .grant("eng", "b", "list");
        registry
    }

    fn names(list: &Listing) -> Vec<String> {
        let list = format!("[{}]", list.entries());
        let entries: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
        let name = |entry: &serde_json::Value| entry["name"].as_str().unwrap().to_owned();
        entries.iter().map(name).collect()
    }

    #[test]
    fn lists_hold_what_is_granted_in_the_order_of_the_registry() {
        let registry = world();
        let snapshot = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
        let catalog = snapshot.catalog();
        assert_eq!(names(catalog.tools()), [STATUS_TOOL, "a_get", "b_list"]);
        assert_eq!(catalog.prompts().page(0), Some(("", false)));
        insta::assert_snapshot!(
            catalog.tools().entries().split_once("},{").unwrap().1,
            @r#""annotations":{"readOnlyHint":true},"description":"d","inputSchema":{"type":"object"},"name":"a_get"},{"annotations":{"readOnlyHint":true},"description":"d","inputSchema":{"type":"object"},"name":"b_list"}"#
        );
    }

    #[test]
    fn a_list_that_no_line_can_hold_comes_in_pages() {
        let mut list = Listing::default();
        let entry = format!("\"{}\"", "x".repeat(limits::LIST_PAGE_BYTES / 3));
        for number in 0..7 {
            list.push(&["[", &entry, ",", &number.to_string(), "]"]);
        }
        assert_eq!(list.counts(), (7, 2));
        let mut numbers = Vec::new();
        for index in 0..4 {
            let (page, more) = list.page(index).unwrap();
            assert!(page.len() <= limits::LIST_PAGE_BYTES);
            assert_eq!(more, index < 3);
            let page: Vec<(String, u32)> = serde_json::from_str(&format!("[{page}]")).unwrap();
            numbers.extend(page.into_iter().map(|(_, number)| number));
        }
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(list.page(4), None);
        // what is longer than a page has one for itself
        let mut list = Listing::default();
        let entry = format!("\"{}\"", "x".repeat(limits::LIST_PAGE_BYTES));
        for entry in ["1", &entry, "2"] {
            list.push(&[entry]);
        }
        let page = |index| list.page(index).unwrap();
        assert_eq!(
            [page(0), page(1), page(2)],
            [("1", true), (entry.as_str(), true), ("2", false)]
        );
    }

    #[test]
    fn a_bare_name_is_accepted_while_one_visible_tool_has_it() {
        let mut registry = world();
        let one = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
        assert_eq!(one.catalog().tool("get").unwrap().server, key("a"));
        assert_eq!(one.catalog().tool("a_get"), one.catalog().tool("get"));
        assert_eq!(one.catalog().tool("put"), None);
        registry.grant("eng", "b", "get");
        let two = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
        assert_eq!(two.catalog().tool("get"), None);
        assert_eq!(two.catalog().tool("b_get").unwrap().server, key("b"));
    }

    #[test]
    fn hidden_tools_are_known_to_the_record_only() {
        let snapshot = snapshot(&world(), Some(ann(&["eng"])), &at(NOW));
        let catalog = snapshot.catalog();
        for name in ["a_put", "put"] {
            assert_eq!(catalog.tool(name), None);
            assert_eq!(
                catalog.hidden_tool(name),
                Some((key("a"), "put".to_owned()))
            );
        }
        assert_eq!(catalog.hidden_tool("nothing"), None);
    }

    #[test]
    fn the_first_server_keeps_a_uri_and_the_template() {
        let mut registry = world();
        let rule = registry.rule(None);
        for server in ["a", "b"] {
            registry.table("eng", server).resources = vec![("*".to_owned(), rule)];
        }
        let both = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
        let catalog = both.catalog();
        let uris = |list: &Listing, member: &str| -> Vec<String> {
            let list = format!("[{}]", list.entries());
            let entries: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
            let uri = |entry: &serde_json::Value| entry[member].as_str().unwrap().to_owned();
            entries.iter().map(uri).collect()
        };
        let seconds = ["mcpshim+b:memo://a", "mcpshim+b:memo://b"];
        assert_eq!(
            uris(catalog.resources(), "uri"),
            ["memo://a", "memo://b", seconds[0], seconds[1]]
        );
        let templates = ["db://{t}", "mcpshim+b:db://{u}"];
        assert_eq!(uris(catalog.templates(), "uriTemplate"), templates);
        let own = Some((key("b"), Cow::Borrowed("db://users")));
        assert_eq!(catalog.resource("mcpshim+b:db://users"), own);
        assert_eq!(catalog.route("memo://a"), Some(key("a")));
        assert_eq!(catalog.route("db://users"), Some(key("a")));
        assert_eq!(catalog.route("db://users/1"), None);
        assert_eq!(catalog.shown().len(), 3);
        // for a caller who sees only the second, it stays the first's
        registry.table("eng", "a").resources.clear();
        registry.table("eng", "b").resources = vec![("memo://b".to_owned(), rule)];
        let only = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
        assert_eq!(uris(only.catalog().resources(), "uri"), [seconds[1]]);
        assert_eq!(only.catalog().route(seconds[1]), Some(key("b")));
        assert_eq!(only.catalog().route("memo://b"), None);
        assert_eq!(only.catalog().route("memo://a"), None);
    }

    #[test]
    fn in_grace_only_what_reads_is_listed_and_callable() {
        let mut registry = world();
        registry.grant("eng", "a", "put");
        let late = at(registry.expires);
        let snapshot = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
        assert_eq!(names(snapshot.catalog().tools()).len(), 4);
        assert!(matches!(
            decide(&snapshot, &tool("a", "get"), &late),
            Decision::Allow(_)
        ));
        let Decision::Deny(denial) = decide(&snapshot, &tool("a", "put"), &late) else {
            panic!("put writes");
        };
        insta::assert_snapshot!(denial.client_text(), @"Policy denial, do not retry: the registry of Acme expired at 2027-01-15T09:00:00Z, and until it is renewed only reading is allowed; the signed definition of a/put does not say readOnlyHint: true; run `mcpshim registry refresh`, or ask #mcp-help.");
        let then = snapshot.with_live(SnapshotId(2), BTreeMap::new(), &late);
        assert_eq!(
            names(then.catalog().tools()),
            [STATUS_TOOL, "a_get", "b_list"]
        );
        let lapsed = at(registry.expires + 86_400);
        let then = snapshot.with_live(SnapshotId(3), BTreeMap::new(), &lapsed);
        assert_eq!(names(then.catalog().tools()), [STATUS_TOOL]);
    }

    #[test]
    fn an_unpinned_server_is_listed_once_it_is_known() {
        let mut registry = registry();
        registry
            .put(server("w", "off", &[], &[], &[], &[]))
            .put_role("eng", &[]);
        let rule = registry.rule(None);
        registry.table("eng", "w").tool_globs = vec![("get*".to_owned(), rule)];
        let before = snapshot(&registry, Some(ann(&["eng"])), &at(NOW));
        assert_eq!(names(before.catalog().tools()), [STATUS_TOOL]);
        assert!(matches!(
            decide(&before, &tool("w", "get_x"), &at(NOW)),
            Decision::Allow(_)
        ));
        assert!(matches!(
            decide(&before, &tool("w", "put_x"), &at(NOW)),
            Decision::Deny(_)
        ));
        let live = server(
            "w",
            "strict",
            &[("get_x", true), ("put_x", true)],
            &[],
            &[],
            &[],
        );
        let live = BTreeMap::from([(key("w"), Arc::new(live.surface.unwrap()))]);
        let after = before.with_live(SnapshotId(2), live, &at(NOW));
        assert_eq!(names(after.catalog().tools()), [STATUS_TOOL, "w_get_x"]);
        assert!(matches!(
            decide(&after, &tool("w", "get_y"), &at(NOW)),
            Decision::Deny(_)
        ));
    }

    #[test]
    fn whatever_is_wrong_the_status_tool_is_there() {
        let wrong = Snapshot::new(
            SnapshotId(1),
            None,
            Freshness::Fresh,
            None,
            Some("no registry could be read; run `mcpshim registry refresh`".to_owned()),
            &at(NOW),
        );
        let catalog = wrong.catalog();
        assert_eq!(names(catalog.tools()), [STATUS_TOOL]);
        for list in [catalog.prompts(), catalog.resources(), catalog.templates()] {
            assert_eq!(list.page(0), Some(("", false)));
        }
        assert!(catalog.instructions().contains("mcpshim registry refresh"));
        assert!(matches!(
            decide(&wrong, &resource("a", "m://x"), &at(NOW)),
            Decision::Deny(_)
        ));
    }

    #[test]
    fn instructions_are_cut_at_a_character() {
        let mut registry = world();
        let mut long = server("c", "strict", &[("get", true)], &[], &[], &[]);
        if let Some(surface) = &mut long.surface {
            surface.instructions = Some("é".repeat(4000));
        }
        registry.put(long).grant("eng", "c", "get");
        let text = snapshot(&registry, Some(ann(&["eng"])), &at(NOW))
            .catalog()
            .instructions();
        assert!(text.len() <= limits::INSTRUCTIONS_BYTES && text.len() > 4090);
        assert!(text.contains("## a\nUse a well.") && text.ends_with(CUT));
    }
}
