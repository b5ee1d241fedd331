//! Reads a server's whole surface, page by page, within bounds.
//!
//! What is refused: a list that never ends, or holds too much. An entry that cannot be used is left
//! out alone.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ids::Digest;
use crate::limits;
use crate::pin::{self, Kind};
use crate::registry::doc::Surface;

/// The method that reads the entries of a kind.
pub(super) fn method(kind: Kind) -> &'static str {
    match kind {
        Kind::Prompt => "prompts/list",
        Kind::Resource => "resources/list",
        Kind::Template => "resources/templates/list",
        Kind::Tool => "tools/list",
    }
}

/// What a server offers, by its `capabilities`; a shape we do not know offers nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
    pub(super) changes: Changes,
}

/// Which `list_changed` notifications a server says it sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) tools: bool,
    pub(super) prompts: bool,
    pub(super) resources: bool,
}

impl Changes {
    pub(super) fn any(self) -> bool {
        self.tools || self.prompts || self.resources
    }
}

impl Offer {
    pub(super) fn of(capabilities: Option<&RawValue>) -> Self {
        #[derive(Deserialize, Default)]
        struct Capabilities<'a> {
            #[serde(borrow)]
            tools: Option<&'a RawValue>,
            #[serde(borrow)]
            prompts: Option<&'a RawValue>,
            #[serde(borrow)]
            resources: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Flags {
            #[serde(rename = "listChanged")]
            list_changed: Option<bool>,
        }
        let text = capabilities.map_or("{}", RawValue::get);
        let all: Capabilities<'_> = serde_json::from_str(text).unwrap_or_default();
        let changed = |flags: Option<&RawValue>| {
            flags
                .and_then(|raw| serde_json::from_str::<Flags>(raw.get()).ok())
                .and_then(|flags| flags.list_changed)
                .unwrap_or(false)
        };
        Self {
            tools: all.tools.is_some(),
            prompts: all.prompts.is_some(),
            resources: all.resources.is_some(),
            changes: Changes {
                tools: changed(all.tools),
                prompts: changed(all.prompts),
                resources: changed(all.resources),
            },
        }
    }

    /// The lists there are to read.
    pub(super) fn lists(self) -> Vec<Kind> {
        let mut lists = Vec::new();
        if self.tools {
            lists.push(Kind::Tool);
        }
        if self.prompts {
            lists.push(Kind::Prompt);
        }
        if self.resources {
            lists.extend([Kind::Resource, Kind::Template]);
        }
        lists
    }
}

/// What came of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// The list goes on at this cursor.
    More(String),
    /// That was its last page.
    Last,
}

/// A surface being read.
#[derive(Debug)]
pub(super) struct Survey {
    surface: Surface,
    /// Lists that are not at their end yet.
    open: usize,
    pages: usize,
    bytes: usize,
    /// Entries that could not be read.
    unusable: usize,
    /// Cursors that were followed, with their lists.
    followed: BTreeSet<(Kind, String)>,
    /// What is remarkable about the way the lists were given, one phrase each that follows the
    /// server's name.
    remarks: Vec<String>,
}

impl Survey {
    /// Begins with what the server said of itself and the number of lists to read.
    pub(super) fn new(about: Surface, lists: usize) -> Self {
        Self {
            surface: about,
            open: lists,
            pages: 0,
            bytes: 0,
            unusable: 0,
            followed: BTreeSet::new(),
            remarks: Vec::new(),
        }
    }

    /// Takes one page: the `result` as raw JSON.
    ///
    /// # Errors
    /// A phrase that follows the server's name, e.g. `answered tools/list with …`.
    pub(super) fn page(&mut self, kind: Kind, result: &str) -> Result<Page, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            #[serde(borrow)]
            tools: Option<Vec<&'a RawValue>>,
            #[serde(borrow)]
            prompts: Option<Vec<&'a RawValue>>,
            #[serde(borrow)]
            resources: Option<Vec<&'a RawValue>>,
            #[serde(borrow)]
            resource_templates: Option<Vec<&'a RawValue>>,
            next_cursor: Option<String>,
        }
        let method = method(kind);
        self.pages += 1;
        self.bytes = self.bytes.saturating_add(result.len());
        if self.pages > limits::LIST_PAGES {
            return Err(format!(
                "has lists of more than {} pages",
                limits::LIST_PAGES
            ));
        }
        if self.bytes > limits::SURFACE_BYTES {
            return Err(format!(
                "has lists of more than {} bytes",
                limits::SURFACE_BYTES
            ));
        }
        let body: Body<'_> = serde_json::from_str(result)
            .map_err(|error| format!("answered {method} with an unusable result: {error}"))?;
        let (entries, into) = match kind {
            Kind::Prompt => (body.prompts, &mut self.surface.prompts),
            Kind::Resource => (body.resources, &mut self.surface.resources),
            Kind::Template => (body.resource_templates, &mut self.surface.templates),
            Kind::Tool => (body.tools, &mut self.surface.tools),
        };
        let entries = entries.ok_or_else(|| format!("answered {method} without a list"))?;
        if into.len() + self.unusable + entries.len() > limits::TOOLS_PER_SERVER {
            return Err(format!(
                "answered {method} with more than {} entries",
                limits::TOOLS_PER_SERVER
            ));
        }
        let mut unusable: Vec<String> = Vec::new();
        let mut page = Vec::new();
        for entry in entries {
            match pin::entry(kind, entry) {
                Ok(pinned) => page.push(pinned),
                // it may quote a key of the server's
                Err(error) => unusable.push(error.to_string().chars().take(200).collect()),
            }
        }
        // a server that ignores cursors gives its first page again and again
        let followed = self.followed.iter().any(|(of, _)| *of == kind);
        let again = followed && !page.is_empty() && {
            let known: BTreeSet<Digest> = into.iter().map(|entry| entry.digest).collect();
            page.iter().all(|entry| known.contains(&entry.digest))
        };
        let next = match body.next_cursor {
            Some(_) if again => {
                self.remarks.push(format!(
                    "gives the same page of {method} again: its list is taken as ended"
                ));
                None
            }
            // where it was followed before it leads in a circle
            Some(cursor) if self.followed.contains(&(kind, cursor.clone())) => {
                self.remarks.push(format!(
                    "gives a cursor of {method} that it gave before: its list is taken as ended"
                ));
                None
            }
            next => next,
        };
        if !again {
            into.append(&mut page);
        }
        // what has no name that could be used is left out alone; it is numbered, so that the same
        // list gives the same quarantine
        for reason in unusable {
            let number = self.unusable;
            self.unusable += 1;
            let place = pin::quarantine::place(kind, &format!("#{number}"));
            self.surface.quarantined.insert(place, reason);
        }
        match next {
            Some(cursor) => {
                self.followed.insert((kind, cursor.clone()));
                Ok(Page::More(cursor))
            }
            None => {
                self.end_of_list();
                Ok(Page::Last)
            }
        }
    }

    /// A list is at its end; also for one the server declares and does not have.
    pub(super) fn end_of_list(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Whether every list is at its end.
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// The surface, and remarks on how the lists were given.
    pub(super) fn into_surface(self) -> (Surface, Vec<String>) {
        (self.surface, self.remarks)
    }
}
