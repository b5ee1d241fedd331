//! The frozen inputs of a decision, and the tables that make it quick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Access;
use super::pattern::{Pattern, is_plain};
use crate::catalog::Catalog;
use crate::clock::{Latest, Now, Utc};
use crate::identity::Caller;
use crate::ids::{RoleName, ServerKey};
use crate::registry::doc::{AuditRule, GrantTable, PinMode, Pinned, Registry, ServerDoc, Surface};
use crate::registry::{self, Freshness, Verified};

/// The number of a snapshot within a process; a [`super::Permit`] is bound to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId(pub u64);

/// Everything a decision depends on, frozen: the registry, the caller, the freshness.
#[derive(Debug)]
pub struct Snapshot {
    id: SnapshotId,
    registry: Option<Arc<Verified<Registry>>>,
    freshness: Freshness,
    caller: Option<Caller>,
    /// Why there is no registry or no caller, and what to do: for `mcpshim_status`.
    trouble: Option<String>,
    /// From this Unix second on the end of the sign-in is warned of.
    warns_at: Option<u64>,
    /// What servers that are not pinned offer just now, with names assigned.
    live: BTreeMap<ServerKey, Arc<Surface>>,
    standing: Standing,
    /// The caller's roles that the registry knows, sorted.
    roles: Vec<RoleName>,
    rows: BTreeMap<ServerKey, Row>,
    catalog: Catalog,
}

/// Whether the caller's proof holds under this registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// An agent the registry names with this key, until this Unix second.
    Agent(Option<u64>),
    /// No caller.
    Nobody,
    /// A person, until this Unix second.
    Person(u64),
    /// An agent the registry revokes.
    Revoked,
    /// An agent the registry does not name, or names with another key.
    Unknown,
}

/// What one caller may use on one server: the tables of all its roles, merged over the surface.
#[derive(Debug)]
struct Row {
    doc: Arc<ServerDoc>,
    revoked: bool,
    revoked_tools: BTreeSet<Box<str>>,
    tools: BTreeMap<Box<str>, Cell>,
    prompts: BTreeMap<Box<str>, Cell>,
    /// Which URIs the surface offers.
    fixed: BTreeSet<Box<str>>,
    shapes: Vec<Pattern>,
    resources: Vec<(Pattern, Grant)>,
    /// Set while the surface is neither pinned nor known: the grants alone judge names.
    open: Option<Open>,
}

/// One tool or prompt of a surface.
#[derive(Debug)]
struct Cell {
    /// Its place in the surface.
    at: usize,
    /// Who grants it, sorted by role and rule: mostly one, often none.
    grants: Vec<Grant>,
}

/// Grants by name where no surface is known.
#[derive(Debug)]
struct Open {
    tools: Vec<(Pattern, Grant)>,
    prompts: Vec<(Pattern, Grant)>,
}

/// One grant: which role, by which rule, until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    /// Index into [`Snapshot::roles`].
    role: usize,
    /// Index into the registry's rules.
    rule: u32,
    /// First Unix second at which it no longer grants.
    until: u64,
}

/// Why [`Snapshot::judge`] refuses. The sentence is made later, and only for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    AgentExpired,
    AgentRevoked,
    AgentUnknown,
    Expired { role: usize, rule: u32 },
    Hidden,
    Lapsed,
    NoCaller,
    NoRegistry,
    NotGranted,
    NotReadOnly,
    OddUri,
    PersonExpired,
    ServerRevoked,
    ToolRevoked,
}

/// What [`Snapshot::judge`] allows.
#[derive(Debug)]
pub(super) struct Granted<'s> {
    pub(super) role: &'s RoleName,
    pub(super) rule: u32,
    pub(super) audit: AuditRule,
}

impl Snapshot {
    /// Freezes the inputs and builds what this caller sees at `now`.
    ///
    /// `trouble` says why there is no registry or no caller, and what to do about it.
    #[must_use]
    pub fn new(
        id: SnapshotId,
        registry: Option<Arc<Verified<Registry>>>,
        freshness: Freshness,
        caller: Option<Caller>,
        trouble: Option<String>,
        now: &Now,
    ) -> Self {
        Self::with(
            id,
            registry,
            freshness,
            caller,
            trouble,
            BTreeMap::new(),
            now,
        )
    }

    /// The same inputs under a new number, with what servers that are not pinned (`pin: off`)
    /// offer just now. Surfaces of pinned servers are ignored: the signed ones hold.
    #[must_use]
    pub fn with_live(
        &self,
        id: SnapshotId,
        live: BTreeMap<ServerKey, Arc<Surface>>,
        now: &Now,
    ) -> Self {
        let snapshot = Self::with(
            id,
            self.registry.clone(),
            self.freshness,
            self.caller.clone(),
            self.trouble.clone(),
            live,
            now,
        );
        snapshot.warning_at(self.warns_at)
    }

    /// Warns of the end of a person's sign-in from this Unix second on.
    #[must_use]
    pub fn warning_at(mut self, second: Option<u64>) -> Self {
        self.warns_at = second;
        self
    }

    /// That the sign-in ends soon, if it does.
    #[must_use]
    pub fn warning(&self, now: &Now) -> Option<String> {
        let Some(Caller::Person { expires, .. }) = &self.caller else {
            return None;
        };
        let latest = self.latest(now);
        let soon = self.warns_at.is_some_and(|at| latest.is_past(at)) && !latest.is_past(*expires);
        soon.then(|| {
            format!(
                "your sign-in ends at {} and was not renewed by itself; run `mcpshim login` in any \
                 terminal, sessions go on by themselves",
                Utc(*expires)
            )
        })
    }

    fn with(
        id: SnapshotId,
        registry: Option<Arc<Verified<Registry>>>,
        freshness: Freshness,
        caller: Option<Caller>,
        trouble: Option<String>,
        live: BTreeMap<ServerKey, Arc<Surface>>,
        now: &Now,
    ) -> Self {
        let mut snapshot = Self {
            id,
            registry,
            freshness,
            caller,
            trouble,
            warns_at: None,
            live,
            standing: Standing::Nobody,
            roles: Vec::new(),
            rows: BTreeMap::new(),
            catalog: Catalog::default(),
        };
        if let Some(registry) = snapshot.registry.clone() {
            snapshot.standing = standing(snapshot.caller.as_ref(), &registry);
            snapshot.roles = roles(snapshot.caller.as_ref(), &registry);
            snapshot.rows = registry
                .servers
                .iter()
                .map(|(key, doc)| (key.clone(), snapshot.row(&registry, key, doc)))
                .collect();
        }
        snapshot.catalog = Catalog::build(&snapshot, now);
        snapshot
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// The registry that decides; without one everything is refused.
    #[must_use]
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref().map(|registry| &***registry)
    }

    pub(crate) fn shared_registry(&self) -> Option<Arc<Verified<Registry>>> {
        self.registry.clone()
    }

    /// How current the registry was when the snapshot was made.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// How current the registry is at `now`: never better than when the snapshot was made.
    #[must_use]
    pub fn freshness_at(&self, now: &Now) -> Freshness {
        self.registry().map_or(self.freshness, |registry| {
            self.freshness.max(registry::freshness(registry, now))
        })
    }

    /// What every end is held against at `now`.
    #[must_use]
    pub fn latest(&self, now: &Now) -> Latest {
        let checked_s = self.registry().map_or(0, |registry| registry.checked);
        Latest::of(now, checked_s)
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// The caller's roles that this registry knows, sorted.
    #[must_use]
    pub fn roles(&self) -> &[RoleName] {
        &self.roles
    }

    /// Why there is no registry or no caller, and what to do.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What the caller sees.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// What the server offers: its pinned surface, or the live one where it is not pinned.
    #[must_use]
    pub fn surface(&self, server: &ServerKey) -> Option<&Surface> {
        let doc = self.registry()?.servers.get(server)?;
        match doc.pin {
            PinMode::Definitions | PinMode::Names | PinMode::Strict => doc.surface.as_ref(),
            PinMode::Off => self.live.get(server).map(AsRef::as_ref),
        }
    }

    /// The next Unix second at which time alone changes an answer: make a new snapshot then.
    #[must_use]
    pub fn changes_at(&self, now: &Now) -> Option<u64> {
        let registry = self.registry()?;
        let latest = registry.latest(now);
        let (expires, lapses) = self.expiry()?;
        let until = match self.standing {
            Standing::Agent(until) => until,
            Standing::Person(until) => Some(until),
            Standing::Nobody | Standing::Revoked | Standing::Unknown => None,
        };
        let rules = registry.policy.rules.iter().filter_map(|r| r.not_after);
        [expires, lapses]
            .into_iter()
            .chain(until)
            .chain(self.warns_at)
            .chain(rules)
            .filter(|second| !latest.is_past(*second))
            .min()
    }

    /// Unix seconds: the end of the timestamp, and the end of the grace after it.
    fn expiry(&self) -> Option<(u64, u64)> {
        let registry = self.registry()?;
        let grace_s = u64::from(registry.org.grace_hours) * 3600;
        Some((registry.expires, registry.expires.saturating_add(grace_s)))
    }

    fn row(&self, registry: &Registry, key: &ServerKey, doc: &Arc<ServerDoc>) -> Row {
        let tables: Vec<(usize, &GrantTable)> = self
            .roles
            .iter()
            .enumerate()
            .filter_map(|(at, role)| Some((at, registry.policy.grants.get(role)?.get(key)?)))
            .collect();
        let grants = Grants {
            registry,
            tables: &tables,
            by_glob: doc.pin == PinMode::Off,
        };
        let surface = self.surface(key);
        let tools_of = |surface: &Surface| grants.over(&surface.tools, TOOLS);
        let prompts_of = |surface: &Surface| grants.over(&surface.prompts, PROMPTS);
        let names = |items: &[Pinned]| items.iter().map(|item| item.name.as_str().into()).collect();
        Row {
            doc: Arc::clone(doc),
            revoked: registry.revocations.servers.contains(key),
            revoked_tools: registry
                .revocations
                .tools
                .iter()
                .filter(|(server, _)| server == key)
                .map(|(_, tool)| tool.as_str().into())
                .collect(),
            tools: surface.map(tools_of).unwrap_or_default(),
            prompts: surface.map(prompts_of).unwrap_or_default(),
            fixed: surface.map(|s| names(&s.resources)).unwrap_or_default(),
            shapes: surface
                .map(|s| {
                    s.templates
                        .iter()
                        .map(|t| Pattern::template(&t.name))
                        .collect()
                })
                .unwrap_or_default(),
            resources: grants.globs(|table| &table.resources),
            open: (doc.pin == PinMode::Off && surface.is_none()).then(|| Open {
                tools: grants.alone(TOOLS),
                prompts: grants.alone(PROMPTS),
            }),
        }
    }

    /// Answers the questions of the module's list in their order.
    pub(super) fn judge(&self, access: &Access, now: &Now) -> Result<Granted<'_>, Refusal> {
        let tool = match access {
            Access::Tool { name, .. } => Some(name.as_str()),
            Access::Prompt { .. } | Access::Resource { .. } => None,
        };
        let (row, freshness) = self.gate(access.server(), tool, now)?;
        let grant = row.grant(access, self.latest(now))?;
        if freshness == Freshness::Grace && !self.only_reads(row, access) {
            return Err(Refusal::NotReadOnly);
        }
        Ok(Granted {
            role: self.roles.get(grant.role).ok_or(Refusal::NotGranted)?,
            rule: grant.rule,
            audit: match access {
                Access::Tool { name, .. } => row.doc.audit.for_tool(name),
                Access::Prompt { .. } | Access::Resource { .. } => row.doc.audit.for_others(),
            },
        })
    }

    /// What is asked before any grant: registry, revocations, caller, server.
    fn gate(
        &self,
        server: &ServerKey,
        tool: Option<&str>,
        now: &Now,
    ) -> Result<(&Row, Freshness), Refusal> {
        if self.registry.is_none() {
            return Err(Refusal::NoRegistry);
        }
        let freshness = self.freshness_at(now);
        if freshness == Freshness::Lapsed {
            return Err(Refusal::Lapsed);
        }
        let row = self.rows.get(server);
        if row.is_some_and(|row| row.revoked) {
            return Err(Refusal::ServerRevoked);
        }
        if let (Some(row), Some(tool)) = (row, tool)
            && row.revoked_tools.contains(tool)
        {
            return Err(Refusal::ToolRevoked);
        }
        let latest = self.latest(now);
        match self.standing {
            Standing::Agent(Some(until)) if latest.is_past(until) => Err(Refusal::AgentExpired),
            Standing::Person(until) if latest.is_past(until) => Err(Refusal::PersonExpired),
            Standing::Agent(_) | Standing::Person(_) => {
                Ok((row.ok_or(Refusal::Hidden)?, freshness))
            }
            Standing::Nobody => Err(Refusal::NoCaller),
            Standing::Revoked => Err(Refusal::AgentRevoked),
            Standing::Unknown => Err(Refusal::AgentUnknown),
        }
    }

    /// Whether some URI of the template is granted: what the list of templates asks.
    pub(crate) fn allows_some(&self, server: &ServerKey, template: &str, now: &Now) -> bool {
        let Ok((row, _)) = self.gate(server, None, now) else {
            return false;
        };
        let shape = Pattern::template(template);
        let latest = self.latest(now);
        let mut live = row
            .resources
            .iter()
            .filter(|(_, g)| !latest.is_past(g.until));
        live.any(|(glob, _)| shape.meets(glob))
    }

    /// Whether the caller may use anything of a server: what a question of that server asks.
    #[must_use]
    pub fn uses(&self, server: &ServerKey, now: &Now) -> bool {
        let Ok((row, _)) = self.gate(server, None, now) else {
            return false;
        };
        let latest = self.latest(now);
        let live = |grant: &Grant| !latest.is_past(grant.until);
        let named = row.tools.values().chain(row.prompts.values());
        let open = row
            .open
            .iter()
            .flat_map(|open| open.tools.iter().chain(&open.prompts));
        named.flat_map(|cell| &cell.grants).any(live)
            || row
                .resources
                .iter()
                .chain(open)
                .any(|(_, grant)| live(grant))
    }

    /// Whether the surface has it, whoever may use it.
    #[must_use]
    pub fn offers(&self, access: &Access) -> bool {
        let Some(row) = self.rows.get(access.server()) else {
            return false;
        };
        row.open.is_some()
            || match access {
                Access::Prompt { name, .. } => row.prompts.contains_key(name.as_str()),
                Access::Resource { uri, .. } => row.offers_uri(uri),
                Access::Tool { name, .. } => row.tools.contains_key(name.as_str()),
            }
    }

    /// Why the proof of who calls does not hold now.
    pub(super) fn doubt(&self, now: &Now) -> Option<String> {
        let latest = self.latest(now);
        match self.standing {
            Standing::Agent(Some(until)) if latest.is_past(until) => {
                Some(format!("its time ended at {}", Utc(until)))
            }
            Standing::Person(until) if latest.is_past(until) => Some(
                "the sign-in ended; run `mcpshim login` in any terminal and go on here".to_owned(),
            ),
            Standing::Agent(_) | Standing::Person(_) | Standing::Nobody => None,
            Standing::Revoked => Some("revoked".to_owned()),
            Standing::Unknown => Some("the registry does not name it with this key".to_owned()),
        }
    }

    /// What an expired timestamp still leaves: reading. A tool reads when the signed definition
    /// says so; a tool whose definition is not signed does not.
    fn only_reads(&self, row: &Row, access: &Access) -> bool {
        match access {
            Access::Prompt { .. } | Access::Resource { .. } => true,
            Access::Tool { server, name } => {
                let pinned = || {
                    let at = row.tools.get(name.as_str())?.at;
                    self.surface(server)?.tools.get(at)
                };
                row.doc.pin != PinMode::Off && pinned().is_some_and(says_read_only)
            }
        }
    }
}

impl Row {
    fn grant(&self, access: &Access, at: Latest) -> Result<Grant, Refusal> {
        let (named, open) = match access {
            Access::Prompt { .. } => (&self.prompts, self.open.as_ref().map(|o| &o.prompts)),
            Access::Tool { .. } => (&self.tools, self.open.as_ref().map(|o| &o.tools)),
            Access::Resource { uri, .. } => return self.readable(uri, at),
        };
        match (named.get(access.name()), open) {
            (Some(cell), _) => pick(&cell.grants, at),
            (None, Some(open)) => pick(&matching(open, access.name()), at),
            (None, None) => Err(Refusal::Hidden),
        }
    }

    fn offers_uri(&self, uri: &str) -> bool {
        self.fixed.contains(uri) || self.shapes.iter().any(|shape| shape.matches(uri))
    }

    fn readable(&self, uri: &str, at: Latest) -> Result<Grant, Refusal> {
        if !is_plain(uri) {
            return Err(Refusal::OddUri);
        }
        if self.open.is_none() && !self.offers_uri(uri) {
            return Err(Refusal::Hidden);
        }
        pick(&matching(&self.resources, uri), at)
    }
}

/// The grants whose pattern matches, sorted.
fn matching(patterns: &[(Pattern, Grant)], text: &str) -> Vec<Grant> {
    let mut grants: Vec<Grant> = patterns
        .iter()
        .filter(|(pattern, _)| pattern.matches(text))
        .map(|(_, grant)| *grant)
        .collect();
    grants.sort_unstable();
    grants
}

/// The first grant that has not expired.
fn pick(grants: &[Grant], at: Latest) -> Result<Grant, Refusal> {
    match grants.iter().find(|grant| !at.is_past(grant.until)) {
        Some(grant) => Ok(*grant),
        None => Err(match grants.first() {
            Some(&Grant { role, rule, .. }) => Refusal::Expired { role, rule },
            None => Refusal::NotGranted,
        }),
    }
}

/// Which of a table's maps hold one kind of name.
#[derive(Clone, Copy)]
struct Kind {
    names: fn(&GrantTable) -> &BTreeMap<String, u32>,
    globs: fn(&GrantTable) -> &Vec<(String, u32)>,
}

const TOOLS: Kind = Kind {
    names: |table| &table.tools,
    globs: |table| &table.tool_globs,
};

const PROMPTS: Kind = Kind {
    names: |table| &table.prompts,
    globs: |table| &table.prompt_globs,
};

/// The tables of all roles for one server.
struct Grants<'a> {
    registry: &'a Registry,
    tables: &'a [(usize, &'a GrantTable)],
    /// Globs count, because the server is not pinned.
    by_glob: bool,
}

impl Grants<'_> {
    fn grant(&self, role: usize, rule: u32) -> Option<Grant> {
        let doc = self
            .registry
            .policy
            .rules
            .get(usize::try_from(rule).ok()?)?;
        let until = doc.not_after.unwrap_or(u64::MAX);
        Some(Grant { role, rule, until })
    }

    /// Every nameable entry of a surface with its grants, the empty ones included.
    fn over(&self, items: &[Pinned], kind: Kind) -> BTreeMap<Box<str>, Cell> {
        let globs = if self.by_glob {
            self.globs(kind.globs)
        } else {
            Vec::new()
        };
        let mut cells = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            if item.exposed.is_none() {
                continue;
            }
            let exact = self.tables.iter().filter_map(|(role, table)| {
                self.grant(*role, *(kind.names)(table).get(item.name.as_str())?)
            });
            let mut grants: Vec<Grant> = exact.chain(matching(&globs, &item.name)).collect();
            grants.sort_unstable();
            cells.insert(item.name.as_str().into(), Cell { at, grants });
        }
        cells
    }

    /// The grants by name and by glob, for a surface that is not known.
    fn alone(&self, kind: Kind) -> Vec<(Pattern, Grant)> {
        let exact = self.tables.iter().flat_map(|(role, table)| {
            (kind.names)(table).iter().filter_map(|(name, rule)| {
                Some((Pattern::literal(name), self.grant(*role, *rule)?))
            })
        });
        exact.chain(self.globs(kind.globs)).collect()
    }

    fn globs(&self, list: fn(&GrantTable) -> &Vec<(String, u32)>) -> Vec<(Pattern, Grant)> {
        self.tables
            .iter()
            .flat_map(|(role, table)| list(table).iter().map(move |entry| (*role, entry)))
            .filter_map(|(role, (glob, rule))| {
                Some((Pattern::glob(glob), self.grant(role, *rule)?))
            })
            .collect()
    }
}

fn standing(caller: Option<&Caller>, registry: &Registry) -> Standing {
    match caller {
        None => Standing::Nobody,
        Some(Caller::Person { expires, .. }) => {
            Standing::Person(crate::identity::holds_until(*expires))
        }
        Some(Caller::Agent { name, .. }) if registry.revocations.agents.contains(name) => {
            Standing::Revoked
        }
        Some(Caller::Agent { name, key, .. }) => match registry.policy.agents.get(name) {
            Some(doc) if crate::identity::key_id(&doc.public_key).as_ref() == Some(key) => {
                Standing::Agent(doc.not_after)
            }
            _ => Standing::Unknown,
        },
    }
}

/// The caller's roles, as far as this registry still gives them.
fn roles(caller: Option<&Caller>, registry: &Registry) -> Vec<RoleName> {
    let given = |role: &&RoleName| match caller {
        Some(Caller::Agent { name, .. }) => registry
            .policy
            .agents
            .get(name)
            .is_some_and(|doc| doc.roles.contains(role)),
        Some(Caller::Person { .. }) => true,
        None => false,
    };
    let mut roles: Vec<RoleName> = caller
        .map(|caller| match caller {
            Caller::Agent { roles, .. } | Caller::Person { roles, .. } => roles.as_slice(),
        })
        .unwrap_or_default()
        .iter()
        .filter(given)
        .filter(|role| registry.policy.roles.contains_key(*role))
        .cloned()
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// Whether a signed definition carries `annotations.readOnlyHint: true`.
fn says_read_only(tool: &Pinned) -> bool {
    #[derive(serde::Deserialize)]
    struct Definition {
        annotations: Annotations,
    }
    #[derive(serde::Deserialize)]
    struct Annotations {
        #[serde(rename = "readOnlyHint")]
        read_only_hint: bool,
    }
    serde_json::from_str(tool.definition.get())
        .is_ok_and(|definition: Definition| definition.annotations.read_only_hint)
}
