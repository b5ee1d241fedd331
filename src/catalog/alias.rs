//! URIs that two servers have: the first in the order of the registry keeps it, the other's is
//! shown under another name.
//!
//! ```text
//!   memo://a        of server crm  ─▶  mcpshim+crm:memo://a
//!   ui://form/main  of server crm  ─▶  ui://crm.mcpshim/form/main      (hosts look at the scheme)
//! ```
//!
//! Who has a URI is read from the pins of all servers, whoever may use them, so that a name never
//! moves from one server to another because a grant did. Servers that are not pinned come last.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::ids::ServerKey;
use crate::policy::Snapshot;
use crate::policy::pattern::Pattern;
use crate::registry::doc::PinMode;
use crate::wire::raw::{self, Object};

/// The name a client sees for a URI of a server that another server has too.
#[must_use]
pub fn alias(server: &ServerKey, uri: &str) -> String {
    match uri.strip_prefix("ui://") {
        Some(rest) => format!("ui://{server}.mcpshim/{rest}"),
        None => format!("mcpshim+{server}:{uri}"),
    }
}

/// The server and its own URI, of such a name.
#[must_use]
pub fn original(alias: &str) -> Option<(ServerKey, Cow<'_, str>)> {
    if let Some(rest) = alias.strip_prefix("ui://") {
        let (server, rest) = rest.split_once(".mcpshim/")?;
        return Some((server.parse().ok()?, Cow::Owned(format!("ui://{rest}"))));
    }
    let (server, uri) = alias.strip_prefix("mcpshim+")?.split_once(':')?;
    Some((server.parse().ok()?, Cow::Borrowed(uri)))
}

/// Whose each URI and template of the registry is.
#[derive(Debug, Default)]
pub(super) struct Owners {
    fixed: BTreeMap<Box<str>, ServerKey>,
    shapes: BTreeMap<Pattern, ServerKey>,
    /// Servers with a URI or template that is another's.
    second: BTreeSet<ServerKey>,
}

impl Owners {
    /// Reads the pins of all servers, then what is known of those that have none.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut owners = Self::default();
        let servers = || snapshot.registry().into_iter().flat_map(|r| &r.servers);
        let pinned = servers().filter(|(_, doc)| doc.pin != PinMode::Off);
        let others = servers().filter(|(_, doc)| doc.pin == PinMode::Off);
        for (key, _) in pinned.chain(others) {
            let Some(surface) = snapshot.surface(key) else {
                continue;
            };
            let mut clash = false;
            for resource in &surface.resources {
                let uri = resource.name.as_str().into();
                clash |= owners.fixed.entry(uri).or_insert_with(|| key.clone()) != key;
            }
            for template in &surface.templates {
                let shape = Pattern::template(&template.name);
                clash |= owners.shapes.entry(shape).or_insert_with(|| key.clone()) != key;
            }
            if clash {
                owners.second.insert(key.clone());
            }
        }
        owners
    }

    /// Whose a static URI is.
    pub(super) fn fixed(&self, uri: &str) -> Option<&ServerKey> {
        self.fixed.get(uri)
    }

    /// Whether a server's template is another server's too, which has it.
    pub(super) fn is_second_shape(&self, server: &ServerKey, shape: &Pattern) -> bool {
        self.shapes.get(shape).is_some_and(|owner| owner != server)
    }

    /// Whether some URI of this server is shown under another name.
    pub(super) fn is_second(&self, server: &ServerKey) -> bool {
        self.second.contains(server)
    }

    /// The other name of a server's URI; `None` where it keeps its own.
    pub(super) fn shown(&self, server: &ServerKey, uri: &str) -> Option<String> {
        if !self.is_second(server) {
            return None;
        }
        let foreign = match self.fixed.get(uri) {
            Some(owner) => owner != server,
            None => {
                let mut shapes = self.shapes.iter().filter(|(shape, _)| shape.matches(uri));
                let first = shapes.clone().any(|(_, owner)| owner == server);
                !first && shapes.next().is_some()
            }
        };
        foreign.then(|| alias(server, uri))
    }
}

/// Where URIs stand in a result: what was read, links to resources, resources themselves.
pub(crate) fn places(result: &Object<'_>, line: &str) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    let mut take = |holder: &str| {
        let Ok(holder) = Object::parse(holder) else {
            return;
        };
        let token = holder.get("uri");
        let place = token.and_then(|token| raw::place(line, token));
        if let Some((place, uri)) = place.zip(holder.text("uri")) {
            found.push((place, uri.into_owned()));
        }
    };
    let mut block = |block: &str| {
        let Ok(object) = Object::parse(block) else {
            return;
        };
        match object.text("type").as_deref() {
            Some("resource_link") => take(block),
            Some("resource") => take(object.get("resource").unwrap_or_default()),
            Some(_) | None => {}
        }
    };
    let list = |key: &str| raw::elements(result.get(key)?).ok();
    for content in list("content").unwrap_or_default() {
        block(content);
    }
    for message in list("messages").unwrap_or_default() {
        let message = Object::parse(message).ok();
        let content = message.as_ref().and_then(|message| message.get("content"));
        match content {
            Some(many) if many.starts_with('[') => {
                for content in raw::elements(many).unwrap_or_default() {
                    block(content);
                }
            }
            Some(one) => block(one),
            None => {}
        }
    }
    for content in list("contents").unwrap_or_default() {
        take(content);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_leads_back_to_its_server_and_uri() {
        let crm: ServerKey = "crm".parse().unwrap();
        for (uri, shown) in [
            ("memo://a", "mcpshim+crm:memo://a"),
            ("urn:x:y", "mcpshim+crm:urn:x:y"),
            ("db://{t}", "mcpshim+crm:db://{t}"),
            ("ui://form/main", "ui://crm.mcpshim/form/main"),
        ] {
            assert_eq!(alias(&crm, uri), shown);
            assert_eq!(original(shown), Some((crm.clone(), Cow::Borrowed(uri))));
        }
        for no in [
            "memo://a",
            "ui://form/main",
            "mcpshim+CRM:x",
            "mcpshim+:x",
            "ui://a/b.mcpshim/c",
        ] {
            assert_eq!(original(no), None, "{no}");
        }
    }

    #[test]
    fn uris_are_found_where_the_protocol_has_them() {
        let line = r#"{"contents":[{"uri":"a:1","text":"uri"}],"content":[{"type":"text","uri":"no"},{"type":"resource_link","uri":"a:2"},{"type":"resource","resource":{"uri":"a:3"}}],"messages":[{"content":{"type":"resource_link","uri":"a:4"}},{"content":[{"type":"resource","resource":{"uri":"a:5"}}]}]}"#;
        let found = places(&Object::parse(line).unwrap(), line);
        let mut uris: Vec<&str> = found.iter().map(|(_, uri)| uri.as_str()).collect();
        uris.sort_unstable();
        assert_eq!(uris, ["a:1", "a:2", "a:3", "a:4", "a:5"]);
        for (place, uri) in found {
            assert_eq!(line[place], format!("{uri:?}"));
        }
    }
}
