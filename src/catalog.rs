//! Merged lists and names: what one caller sees, and what a name means.
//!
//! Everything here is built once per snapshot, in the order of the registry (servers by key, then
//! each server's own order), so that the same registry and caller give the same bytes. An entry is
//! listed when [`crate::policy::decide`] would allow it for some arguments, and for no other reason.
#![warn(missing_docs)]

pub mod alias;
mod list;
mod names;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use self::alias::Owners;
pub use self::list::{Listing, Reader};
pub use self::names::{Entry, needs_task};
use self::names::{Names, Traits, traits};
use crate::clock::Now;
use crate::ids::ServerKey;
use crate::limits;
use crate::pin::Kind;
use crate::policy::pattern::Pattern;
use crate::policy::{Access, Snapshot, allows};
use crate::registry::Verified;
use crate::registry::doc::{PinMode, Pinned, Registry, Surface};
use crate::text::block;
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
        catalog.tools.list.reserve(bound.sum());
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
        let doc = snapshot.registry().and_then(|r| r.servers.get(key));
        if doc.is_some_and(|doc| doc.pin == PinMode::Off) {
            self.tools.claim(&surface.tools);
            self.prompts.claim(&surface.prompts);
        }
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
    /// tool has that, and no tool of the registry is exposed by it, seen or unseen. MCP Apps call
    /// tools by the original name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&Entry> {
        self.tools.get(Kind::Tool, name, self.registry())
    }

    fn registry(&self) -> Option<&Registry> {
        self.registry.as_deref().map(|registry| &**registry)
    }

    /// Whether a tool that the caller sees can only be called as a task of the handshake era.
    #[must_use]
    pub fn needs_task(&self, server: &ServerKey, name: &str) -> bool {
        let entries = self.tools.entries.iter();
        let mut those = entries.filter(|entry| entry.needs_task);
        those.any(|entry| entry.server == *server && entry.name == name)
    }

    /// Whether clients of the handshake era have the results of a tool that the caller sees in
    /// another form, as its `outputSchema` is listed to them.
    #[must_use]
    pub fn wraps(&self, access: &Access) -> bool {
        let Access::Tool { server, name } = access else {
            return false;
        };
        let mut those = self.tools.entries.iter().filter(|entry| entry.wraps);
        those.any(|entry| entry.server == *server && entry.name == *name)
    }

    /// The prompt a client means, by the same rule.
    #[must_use]
    pub fn prompt(&self, name: &str) -> Option<&Entry> {
        self.prompts.get(Kind::Prompt, name, self.registry())
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
    pub fn tool_entries(&self) -> &[Entry] {
        &self.tools.entries
    }

    /// The prompts, in order.
    #[must_use]
    pub fn prompt_entries(&self) -> &[Entry] {
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

/// A definition with another text in one member.
fn renamed(definition: &str, member: &str, text: &str) -> Option<String> {
    let span = raw::Object::parse(definition).ok()?.value_span(member)?;
    let (before, after) = (definition.get(..span.start)?, definition.get(span.end..)?);
    Some(format!("{before}{}{after}", raw::quoted(text)))
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
             it says. One that begins \"Refused until\" names what has to happen before you try \
             again. If an expected tool is missing, call ",
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
            text.push_str(&block(own.trim()));
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
