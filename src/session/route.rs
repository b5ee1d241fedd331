//! Where a name of the client's leads: to its server and the server's own name, or nowhere.
//!
//! Made once per name and snapshot, with the contexts that the record needs of it. A name that the
//! caller may not see is unknown to them; what it leads to is in the record.

use std::collections::HashMap;
use std::sync::Arc;

use super::Machine;
use super::call::Method;
use super::tasks;
use crate::audit::entry::{CallerContext, Context, ContextId, TargetKind};
use crate::catalog::{STATUS_TOOL, alias};
use crate::clock::Now;
use crate::identity::Caller;
use crate::ids::{Digest, ExposedName, RoleName, ServerKey};
use crate::limits;
use crate::policy::{Access, Decision, Denial, DenialCode, Started, decide};
use crate::registry::doc::{AuditRule, ServerDoc};
use crate::wire::raw;

/// Where a name leads: made once per name and snapshot.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) access: Access,
    pub(super) server: Arc<ServerDoc>,
    pub(super) target: ContextId,
    /// The upstream's own name as a JSON token, or its id of a task.
    pub(super) token: String,
    /// A tool that can only be called as a task of the handshake era, which is not offered.
    pub(super) needs_task: bool,
    /// The client asked for a resource under another name than its server's.
    pub(super) aliased: bool,
}

/// What is kept between calls of one snapshot.
#[derive(Debug, Default)]
pub(super) struct Routes {
    tools: HashMap<Box<str>, Arc<Route>>,
    prompts: HashMap<Box<str>, Arc<Route>>,
    caller: Option<ContextId>,
    registry: Option<Option<ContextId>>,
    rules: Vec<(String, RoleName, ContextId)>,
}

/// A name that leads nowhere the caller may go.
pub(super) struct Dead {
    /// What it leads to, for the record.
    pub(super) target: ContextId,
    pub(super) audit: AuditRule,
    pub(super) denial: Denial,
    /// The caller does not even see the server: the client is told that there is no such thing.
    pub(super) hidden: bool,
}

impl Route {
    /// What the client calls the resource or task it leads to.
    pub(super) fn label(&self) -> String {
        match &self.access {
            Access::Resource { server, uri } if self.aliased => alias::alias(server, uri),
            Access::Resource { uri, .. } => uri.clone(),
            Access::Prompt { .. } | Access::Tool { .. } => {
                let id = raw::string(&self.token).unwrap_or_default();
                tasks::label(&self.server.key, &id)
            }
        }
    }

    /// Whether it leads to a task, asked for in this way.
    pub(super) fn is_task(&self, method: Method) -> bool {
        let tool = matches!(self.access, Access::Tool { .. });
        method == Method::Task || (method == Method::Listen && tool)
    }
}

impl Routes {
    /// Forgets everything: the snapshot moved, or a server's protocol version is known now.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Machine {
    pub(super) fn tool_route(&mut self, name: &str, now: &Now) -> Result<Arc<Route>, Box<Dead>> {
        if let Some(route) = self.routes.tools.get(name) {
            return Ok(Arc::clone(route));
        }
        let snapshot = Arc::clone(&self.snapshot);
        let catalog = snapshot.catalog();
        if let Some(entry) = catalog.tool(name) {
            let access = Access::Tool {
                server: entry.server.clone(),
                name: entry.name.clone(),
            };
            let exposed = Some(entry.exposed.clone());
            if let Some(route) =
                self.route(TargetKind::Tool, access, exposed, Some(entry.digest), now)
            {
                self.routes.tools.insert(name.into(), Arc::clone(&route));
                return Ok(route);
            }
        }
        let hidden = catalog.hidden_tool(name);
        let access = hidden.map(|(server, name)| Access::Tool { server, name });
        Err(self.dead(TargetKind::Tool, access, name, now))
    }

    pub(super) fn prompt_route(
        &mut self,
        name: &str,
        method: Method,
        now: &Now,
    ) -> Result<Arc<Route>, Box<Dead>> {
        let kind = match method {
            Method::Complete => TargetKind::Completion,
            Method::Listen
            | Method::Prompt
            | Method::Read
            | Method::Subscribe
            | Method::Task
            | Method::Tool
            | Method::Unsubscribe => TargetKind::Prompt,
        };
        if let Some(route) = self.routes.prompts.get(name)
            && kind == TargetKind::Prompt
        {
            return Ok(Arc::clone(route));
        }
        let snapshot = Arc::clone(&self.snapshot);
        if let Some(entry) = snapshot.catalog().prompt(name) {
            let access = Access::Prompt {
                server: entry.server.clone(),
                name: entry.name.clone(),
            };
            let exposed = Some(entry.exposed.clone());
            if let Some(route) = self.route(kind, access, exposed, Some(entry.digest), now) {
                if kind == TargetKind::Prompt {
                    self.routes.prompts.insert(name.into(), Arc::clone(&route));
                }
                return Ok(route);
            }
        }
        Err(self.dead(kind, None, name, now))
    }

    pub(super) fn resource_route(
        &mut self,
        uri: &str,
        method: Method,
        now: &Now,
    ) -> Result<Arc<Route>, Box<Dead>> {
        let kind = match method {
            Method::Complete => TargetKind::Completion,
            Method::Listen | Method::Subscribe | Method::Unsubscribe => TargetKind::Subscription,
            Method::Prompt | Method::Read | Method::Task | Method::Tool => TargetKind::Resource,
        };
        let found = self.snapshot.catalog().resource(uri);
        let found = found.map(|(server, own)| (own != uri, server, own.into_owned()));
        // a name that the client made up itself says nothing of servers it may not know
        let found =
            found.filter(|(aliased, server, _)| !aliased || self.snapshot.uses(server, now));
        let route = found.and_then(|(aliased, server, uri)| {
            let token = raw::quoted(&uri);
            let access = Access::Resource { server, uri };
            let route = self.route(kind, access, None, None, now)?;
            let route = Arc::into_inner(route)?;
            Some(Arc::new(Route {
                token,
                aliased,
                ..route
            }))
        });
        match route {
            Some(route) => Ok(route),
            None => Err(self.dead(kind, None, "", now)),
        }
    }

    pub(super) fn route(
        &mut self,
        kind: TargetKind,
        access: Access,
        exposed: Option<ExposedName>,
        definition: Option<Digest>,
        now: &Now,
    ) -> Option<Arc<Route>> {
        let registry = self.snapshot.registry()?;
        let server = Arc::clone(registry.servers.get(access.server())?);
        let context = self.server_context(&server, now);
        // URIs travel as content
        let name = match &access {
            Access::Prompt { name, .. } | Access::Tool { name, .. } => name.as_str(),
            Access::Resource { .. } => "",
        };
        let token = raw::quoted(name);
        let target = Context::Target {
            kind,
            server: Some(context),
            name: name.to_owned(),
            exposed,
            definition,
        };
        let target = self.outbox.context(target, now);
        let needs_task = match &access {
            Access::Tool { server, name } => self.snapshot.catalog().needs_task(server, name),
            Access::Prompt { .. } | Access::Resource { .. } => false,
        };
        Some(Arc::new(Route {
            access,
            server,
            target,
            token,
            needs_task,
            aliased: false,
        }))
    }

    /// A name that leads to nothing the caller sees: what to record, what to say.
    pub(super) fn dead(
        &mut self,
        kind: TargetKind,
        access: Option<Access>,
        name: &str,
        now: &Now,
    ) -> Box<Dead> {
        let snapshot = Arc::clone(&self.snapshot);
        let server = |access: &Access| {
            let registry = snapshot.registry()?;
            registry.servers.get(access.server()).cloned()
        };
        let denied = access.as_ref().and_then(|access| {
            let server = server(access)?;
            match decide(&snapshot, access, now) {
                Decision::Deny(denial) => Some((server, denial)),
                // decide and the catalog are one function; a difference must not become a call
                Decision::Allow(_) => {
                    let text = format!("{access} is not listed for you; list the tools again");
                    Some((server, Denial::new(DenialCode::Hidden, text)))
                }
                Decision::Ask(question) => Some((server, question.absurd())),
            }
        });
        let Some((server, denial)) = denied else {
            let target = |name: String| Context::Target {
                kind: TargetKind::Unknown,
                server: None,
                name,
                exposed: None,
                definition: None,
            };
            let shown: String = name.chars().take(limits::TOOL_NAME_BYTES).collect();
            let text = format!("there is no {shown}; call {STATUS_TOOL} to see what there is");
            let denial = match (snapshot.registry(), snapshot.trouble()) {
                (Some(_), _) => Denial::new(DenialCode::Hidden, text),
                (None, trouble) => Denial::new(
                    DenialCode::NoRegistry,
                    format!(
                        "there is no verified registry here, so nothing may be called: {}",
                        trouble.unwrap_or("run `mcpshim status`")
                    ),
                )
                .until(Some("there is a registry")),
            };
            let (with, without) = (target(shown), || target(String::new()));
            return Box::new(Dead {
                target: self.outbox.strange_context(with, without, now),
                audit: AuditRule::default(),
                hidden: denial.code == DenialCode::Hidden,
                denial,
            });
        };
        let context = self.server_context(&server, now);
        let own = access.as_ref().map_or("", Access::name);
        let target = Context::Target {
            kind,
            server: Some(context),
            name: own.to_owned(),
            exposed: None,
            definition: None,
        };
        let sees = |key: &ServerKey| {
            let catalog = snapshot.catalog();
            let tools = catalog.tool_entries().iter();
            let mut entries = tools.chain(catalog.prompt_entries());
            entries.any(|entry| entry.server == *key)
        };
        let hidden = match denial.code {
            DenialCode::Hidden => true,
            DenialCode::NotGranted => !sees(&server.key),
            DenialCode::Drift
            | DenialCode::Incapable
            | DenialCode::Lapsed
            | DenialCode::NeedsTask
            | DenialCode::NoCaller
            | DenialCode::NoRecord
            | DenialCode::NoRegistry
            | DenialCode::Overloaded
            | DenialCode::Repeated
            | DenialCode::Revoked
            | DenialCode::RuleExpired
            | DenialCode::Stale
            | DenialCode::StaleAnswer
            | DenialCode::StaleSnapshot
            | DenialCode::Unavailable => false,
        };
        Box::new(Dead {
            target: self.outbox.context(target, now),
            audit: server.audit.for_tool(own),
            denial,
            hidden,
        })
    }

    pub(super) fn caller_context(&mut self, now: &Now) -> ContextId {
        if let Some(id) = self.routes.caller {
            return id;
        }
        let names = |roles: &[RoleName]| roles.iter().map(ToString::to_string).collect();
        let context = match self.snapshot.caller() {
            Some(Caller::Agent { name, key, roles }) => CallerContext::Agent {
                name: name.to_string(),
                key: key.to_string(),
                roles: names(roles),
            },
            Some(Caller::Person {
                issuer,
                subject,
                display,
                roles,
                expires: _,
            }) => CallerContext::Person {
                issuer: issuer.clone(),
                subject: subject.clone(),
                display: display.clone(),
                roles: names(roles),
            },
            None => CallerContext::Nobody,
        };
        let id = self.outbox.context(Context::Caller(context), now);
        self.routes.caller = Some(id);
        id
    }

    pub(super) fn registry_context(&mut self, now: &Now) -> Option<ContextId> {
        if let Some(id) = self.routes.registry {
            return id;
        }
        let context = self.snapshot.registry().map(|registry| Context::Registry {
            org: registry.org.org.clone(),
            version: registry.version,
            digest: registry.digest,
            freshness: self.snapshot.freshness(),
        });
        let id = context.map(|context| self.outbox.context(context, now));
        self.routes.registry = Some(id);
        id
    }

    pub(super) fn rule_context(&mut self, started: &Started<'_>, now: &Now) -> ContextId {
        let known = self.routes.rules.iter();
        let mut known =
            known.filter(|(rule, role, _)| *rule == started.rule.id && *role == started.role);
        if let Some((_, _, id)) = known.next() {
            return *id;
        }
        let context = Context::Rule {
            id: started.rule.id.clone(),
            source: started.rule.source.clone(),
            role: started.role.to_string(),
        };
        let id = self.outbox.context(context, now);
        let entry = (started.rule.id.clone(), started.role.clone(), id);
        self.routes.rules.push(entry);
        id
    }
}
