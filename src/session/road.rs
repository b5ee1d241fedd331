//! The road of a call, up and down.
//!
//! Up: who → inspect → decide → ready(link) → intent appended → sent. A request that has to wait
//! for its link keeps its line and no permit: when the link is ready it walks the road again
//! from the start, so a decision is never older than the step that sends.
//! Down: inspect → outcome appended → client.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Machine;
use super::ask;
use super::call::{Closed, Execution, Key, Leg, Method, Origin, Outcome, Stage, Start};
use super::front::{Asker, SERVER_INFO};
use super::link::{self, CLIENT_INFO, LinkInput};
use super::links::{Readiness, Waiting};
use super::outbox::{Held, Housekeeping, Instead, Upstream};
use super::park::{self, Retry, Step};
use super::question;
use super::repeat::Same;
use super::tasks::{self, Tasked};
use crate::audit::entry::Body as Record;
use crate::audit::entry::{CallFacts, CallerContext, Context, ContextId, End, TargetKind};
use crate::catalog::{STATUS_TOOL, alias};
use crate::clock::{Entropy, Now};
use crate::identity::Caller;
use crate::ids::{Digest, ExposedName, LinkId, RoleName, ServerKey};
use crate::inspect::{self, Finding};
use crate::limits;
use crate::policy::{Access, Decision, Denial, DenialCode, Started, allows, decide};
use crate::registry::doc::{AuditRule, FailMode, RepeatLimit, ServerDoc};
use crate::secret::Content;
use crate::wire::era::{self, Can, Era, ErrorAs, Introduction, Revision, Untranslatable};
use crate::wire::meta;
use crate::wire::msg::{self, Body, Request, Response};
use crate::wire::raw::{self, Object};

/// `_meta` key of a refusal: an object with its `code`.
pub(super) const META_DENIAL: &str = "mcpshim/denial";

/// JSON-RPC error code of a refusal where no tool result can carry it; outside the range the
/// protocol reserves.
const DENIED: i64 = 4030;

/// What became of a request's wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate<'a> {
    /// It just came.
    Fresh,
    /// Its link is ready.
    Ready(LinkId, Era),
    /// Its link cannot be used.
    Refused(LinkId, &'a Denial),
}

/// Where a name leads: made once per name and snapshot.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) access: Access,
    pub(super) server: Arc<ServerDoc>,
    pub(super) target: ContextId,
    /// The upstream's own name as a JSON token, or its id of a task.
    pub(super) token: String,
    /// A tool that can only be called as a task of the handshake era, which is not offered.
    needs_task: bool,
    /// The client asked for a resource under another name than its server's.
    aliased: bool,
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
    hidden: bool,
}

/// One request of the client's on the road.
pub(super) struct Ask<'r, 'a> {
    pub(super) request: &'r Request<'a>,
    pub(super) asker: &'r Asker<'a>,
    pub(super) method: Method,
    /// Where in its line lies what the record keeps of it.
    pub(super) content: Range<usize>,
}

impl Route {
    /// What the client calls the resource or task it leads to.
    fn label(&self) -> String {
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
    fn is_task(&self, method: Method) -> bool {
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
    /// Takes a request that belongs to an upstream.
    pub(super) fn routed(
        &mut self,
        request: &Request<'_>,
        asker: &Asker<'_>,
        fate: Fate<'_>,
        now: &Now,
    ) {
        let method = match request.method.as_ref() {
            "completion/complete" => Method::Complete,
            "prompts/get" => Method::Prompt,
            "resources/read" => Method::Read,
            "resources/subscribe" => Method::Subscribe,
            "resources/unsubscribe" => Method::Unsubscribe,
            _ => Method::Tool,
        };
        let Some(params) = &request.params else {
            self.outbox.count("unreadable-params", now);
            return self.error(&request.id, -32602, "params are missing", None);
        };
        // the name may lie one level down, in `ref`
        let reference = match (method, params.object.object("ref")) {
            (Method::Complete, Ok(Some(reference))) if is_reference(&reference) => Some(reference),
            (Method::Complete, _) => {
                let text = "params.ref must be an object of type ref/prompt or ref/resource, and \
                            without duplicate keys in any case";
                self.outbox.count("unreadable-params", now);
                return self.error(&request.id, -32602, text, None);
            }
            _ => None,
        };
        let holder = reference.as_ref().unwrap_or(&params.object);
        let uses_uri = match method {
            Method::Complete => holder.text("type").as_deref() == Some("ref/resource"),
            Method::Prompt | Method::Task | Method::Tool => false,
            Method::Listen | Method::Read | Method::Subscribe | Method::Unsubscribe => true,
        };
        let member = if uses_uri { "uri" } else { "name" };
        let (Some(name), Some(span)) = (holder.text(member), holder.value_span(member)) else {
            let text = format!("params.{member} must be a string");
            self.outbox.count("unreadable-params", now);
            return self.error(&request.id, -32602, &text, None);
        };
        if Self::is_status(method, &name) {
            return self.status(request, asker, now);
        }
        if self.waits_for_registry(request, now) {
            return;
        }
        let content = match (method, uses_uri) {
            // a retry carries what its user answered: all of it is recorded (MCP 2026-07-28, MRTR)
            _ if params.object.get("inputResponses").is_some() => Some(params.object.span()),
            (Method::Complete, _) => params.object.value_span("argument"),
            (_, true) => Some(span.clone()),
            (_, false) => params.object.value_span("arguments"),
        }
        .unwrap_or_default();
        let ask = Ask {
            request,
            asker,
            method,
            content,
        };
        let route = match (method, uses_uri) {
            (_, true) => self.resource_route(&name, method, now),
            (Method::Tool, _) => self.tool_route(&name, now),
            _ => self.prompt_route(&name, method, now),
        };
        match route {
            Ok(route) => {
                let rename = (!uses_uri || route.aliased).then_some(span);
                self.walk(&ask, &route, rename, fate, now);
            }
            Err(dead) => {
                let unknown = dead.hidden.then_some(name.as_ref());
                self.refuse(&ask, dead.target, dead.audit, &dead.denial, unknown, now);
            }
        }
    }

    fn tool_route(&mut self, name: &str, now: &Now) -> Result<Arc<Route>, Box<Dead>> {
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

    fn prompt_route(
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

    fn resource_route(
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
                ),
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

    pub(super) fn walk(
        &mut self,
        ask: &Ask<'_, '_>,
        route: &Arc<Route>,
        rename: Option<Range<usize>>,
        fate: Fate<'_>,
        now: &Now,
    ) {
        if let Finding::Stop(why) = inspect::request(ask.request) {
            let denial = Denial::new(DenialCode::Overloaded, why);
            return self.refuse_route(ask, route, &denial, now);
        }
        let snapshot = Arc::clone(&self.snapshot);
        let retry = self.retry(ask);
        let handle = retry.as_ref().and_then(|retry| retry.handle.as_deref());
        let decided = || match decide(&snapshot, &route.access, now) {
            Decision::Allow(permit) => Ok(permit),
            Decision::Ask(question) => Err(question.absurd()),
            Decision::Deny(denial) => Err(denial),
        };
        let mut permit = match decided() {
            Ok(permit) => permit,
            Err(denial) => {
                if let Some(handle) = handle {
                    self.park_denied(handle, now);
                }
                return self.refuse_route(ask, route, &denial, now);
            }
        };
        let mut leg = None;
        if let Some(handle) = handle {
            match self.park_resumed(ask.request, ask.asker, permit, handle, now) {
                Step::Again(next) => leg = Some(next),
                Step::Done => return,
                Step::Refused(denial) => return self.refuse_route(ask, route, &denial, now),
            }
            // that permit is spent
            permit = match decided() {
                Ok(permit) => permit,
                Err(denial) => return self.refuse_route(ask, route, &denial, now),
            };
        }
        if ask.method == Method::Complete && !self.offers(&route.server, "completions") {
            // nothing to ask it for (MCP 2025-03-26 on: a capability of its own)
            self.outbox.count("no-completions", now);
            let members = r#""completion":{"values":[],"total":0,"hasMore":false}"#;
            return self.own(ask.request.id.raw(), ask.asker.era, &[members], false);
        }
        if route.needs_task && ask.method == Method::Tool {
            let text = format!(
                "{} can only be called as a task of MCP 2025-11-25, which mcpshim does not carry; \
                 ask {} for a version of it that answers directly",
                route.access, route.server.owner
            );
            let denial = Denial::new(DenialCode::NeedsTask, text);
            return self.refuse_route(ask, route, &denial, now);
        }
        if matches!(ask.method, Method::Listen | Method::Subscribe) && self.subscriptions_full() {
            let text = "too many resources are subscribed to; unsubscribe from some";
            let denial = Denial::new(DenialCode::Overloaded, text);
            return self.refuse_route(ask, route, &denial, now);
        }
        let repeat = self.repeat_of(ask, route);
        if let Some((same, limit)) = repeat
            && let Err(seconds) = self.repeats.check(same, limit, now)
        {
            self.moved = true;
            let denial = repeated(route, limit, seconds);
            return self.refuse_route(ask, route, &denial, now);
        }
        let link = self.link_for(&route.server);
        let era = match fate {
            Fate::Ready(ready, era) if ready == link => era,
            Fate::Refused(refused, denial) if refused == link => {
                return self.refuse_route(ask, route, denial, now);
            }
            Fate::Fresh | Fate::Ready(..) | Fate::Refused(..) => {
                let bytes = ask.request.line.len();
                let readiness = match self.crowded(link, bytes) {
                    Some(why) => Readiness::Full(why),
                    None => self.links.readiness(link, bytes, now),
                };
                match readiness {
                    Readiness::Ready(era) => era,
                    Readiness::Full(why) => {
                        let denial = Denial::new(DenialCode::Overloaded, why);
                        return self.refuse_route(ask, route, &denial, now);
                    }
                    Readiness::Waits => return self.queue(ask, route, link, now),
                }
            }
        };
        if let Some(denial) = self.links.lacks(link, &route.access) {
            return self.refuse_route(ask, route, &denial, now);
        }
        if route.is_task(ask.method) && era != Era::Stateless {
            let text = format!(
                "server {} speaks another protocol version by now, which does not know this task",
                route.server.key
            );
            let denial = Denial::new(DenialCode::Unavailable, text);
            return self.refuse_route(ask, route, &denial, now);
        }
        if let (Era::Stateless, Era::Handshake(_)) = (ask.asker.era, era) {
            // an answer to a question that is not open never makes a call
            if retry.is_some() && leg.is_none() {
                return self.refuse_route(ask, route, &park::stale(), now);
            }
            let alone = ask.method.may_ask() && self.links.is_one_by_one(link);
            if alone && self.asking_calls(link) > 0 {
                return self.queue(ask, route, link, now);
            }
        }
        if let (Some(_), Some(handle)) = (leg, handle) {
            self.park_spent(ask.request, handle, now);
        }
        match permit.start(&snapshot) {
            Ok(started) => {
                let key = self.start(ask, route, rename, &started, (link, era, leg), now);
                if let (Some(key), Some((same, limit))) = (key, repeat) {
                    self.calls.counts_as(key, same);
                    self.repeats.note(same, limit, now);
                }
            }
            Err(denial) => self.refuse_route(ask, route, &denial, now),
        }
    }

    /// Whether a request of a stateless client answers what was asked in a call before.
    fn retry<'r>(&self, ask: &Ask<'r, '_>) -> Option<Retry<'r>> {
        if ask.asker.era != Era::Stateless || !ask.method.may_ask() {
            return None;
        }
        Retry::of(&ask.request.params.as_ref()?.object)
    }

    /// Lets a request wait for its link. The permit is dropped: it is decided again.
    fn queue(&mut self, ask: &Ask<'_, '_>, route: &Route, link: LinkId, now: &Now) {
        let key = ask.request.id.key();
        let waiting = match (ask.method, &route.access) {
            (Method::Listen, _) => Waiting::Resource {
                listen: key,
                uri: route.label(),
            },
            _ => Waiting::Request {
                key,
                line: ask.request.line.as_bytes().to_vec(),
                until_us: now.mono_us + route.server.limits.call_ms * 1000,
            },
        };
        self.wait(link, waiting, now);
    }

    /// Why no more bytes may go to a link: what it was sent is not answered, and may not even be
    /// read.
    fn crowded(&self, link: LinkId, bytes: usize) -> Option<String> {
        let sent = self.calls.bytes_of(link);
        (sent > 0 && sent + bytes > limits::LINK_QUEUE_BYTES).then(|| {
            let (server, _) = self.links.describe(link);
            format!("{sent} bytes of calls to server {server} are in flight; wait for some")
        })
    }

    /// What a call counts as, and how often it may be made; `None` where there is no limit.
    fn repeat_of(&self, ask: &Ask<'_, '_>, route: &Route) -> Option<(Same, RepeatLimit)> {
        let (Access::Tool { name, .. }, Method::Tool) = (&route.access, ask.method) else {
            return None;
        };
        let org = &self.snapshot.registry()?.org.limits;
        let limit = route.server.limits.repeat_of(name, org);
        limit.window()?;
        Some((Same::of(&route.access, ask.request)?, limit))
    }

    /// Appends the intent of a call and holds its line until that is recorded.
    fn start(
        &mut self,
        ask: &Ask<'_, '_>,
        route: &Route,
        rename: Option<Range<usize>>,
        started: &Started<'_>,
        (link, era, leg): (LinkId, Era, Option<Leg>),
        now: &Now,
    ) -> Option<Key> {
        let request = ask.request;
        let uri = match (ask.method, &route.access) {
            (Method::Listen | Method::Subscribe | Method::Unsubscribe, Access::Resource { .. })
            | (Method::Listen, Access::Tool { .. }) => Some(route.label()),
            _ => None,
        };
        let uri = uri.as_deref();
        let own = match &route.access {
            Access::Resource { uri, .. } => uri.as_str(),
            Access::Prompt { .. } | Access::Tool { .. } => "",
        };
        if let (Method::Unsubscribe, Era::Stateless, Some(uri)) = (ask.method, era, uri) {
            self.unsubscribe_here(request.id.raw(), ask.asker.era, uri, now);
            return None;
        }
        let id = self.links.next_id(link)?;
        let key = Key { link, id };
        let token = id.to_string();
        let (line, content) = match (ask.method, era, uri) {
            (Method::Listen, Era::Stateless, Some(label)) if route.is_task(ask.method) => {
                let line = era::listen_task_line(&token, &route.token, CLIENT_INFO);
                (line.into(), tasks::noted(label, None))
            }
            (Method::Task, _, _) => {
                let params = request.params.as_ref().map(|params| &params.object);
                let label = params.and_then(|params| params.text("taskId"));
                let responses = request.line.get(ask.content.clone());
                let responses = responses.filter(|responses| !responses.is_empty());
                let noted = tasks::noted(&label.unwrap_or_default(), responses);
                (
                    self.edited(ask, route, rename, (link, era), &token).0,
                    noted,
                )
            }
            (Method::Listen | Method::Subscribe, Era::Stateless, Some(_)) => {
                let (_, told) = self.links.declared(link);
                let line = era::listen_line(&token, own, CLIENT_INFO, told);
                (line.into(), copied(request.line, &ask.content))
            }
            (Method::Listen, Era::Handshake(_), Some(_)) => {
                let params = format!("{{\"uri\":{}}}", raw::quoted(own));
                let line = msg::request_line(&token, "resources/subscribe", Some(&params));
                (line.into(), copied(request.line, &ask.content))
            }
            _ => self.edited(ask, route, rename, (link, era), &token),
        };
        let rule = self.rule_context(started, now);
        let mut facts = self.facts(ask, route.target, rule, started.audit, content, now);
        facts.credential = self.links.credential(link);
        if let Some(leg) = leg {
            (facts.call, facts.leg) = (leg.call, leg.leg);
        }
        let asks = ask.method.may_ask();
        let again = match (ask.asker.era, era) {
            (Era::Handshake(_), Era::Stateless) if asks => self.kept(&line, &facts),
            (Era::Handshake(_) | Era::Stateless, _) => None,
        };
        let params = request.params.as_ref();
        let asked = link::allowed(&route.server) != Can::default();
        let bound = match (ask.asker.era, era) {
            (Era::Stateless, Era::Handshake(_)) if asks && asked => {
                let args = park::digest(params.map(|params| &params.object));
                started.park(&self.snapshot, args).map(Box::new)
            }
            (Era::Handshake(_) | Era::Stateless, _) => None,
        };
        let start = Start {
            origin: match ask.method {
                Method::Listen => Origin::Listen,
                Method::Complete
                | Method::Prompt
                | Method::Read
                | Method::Subscribe
                | Method::Task
                | Method::Tool
                | Method::Unsubscribe => Origin::Client {
                    id: request.id.raw().into(),
                    key: request.id.key(),
                    progress: params.and_then(|p| p.progress_token()).map(Into::into),
                },
            },
            method: ask.method,
            era: ask.asker.era,
            level: ask.asker.level(),
            uri: uri.map(Into::into),
            deadline_us: now.mono_us + route.server.limits.call_ms * 1000,
            line,
            again,
            bound,
            can: ask.asker.can,
            transport: self.links.transport(link),
        };
        self.wants_level(link, start.level);
        if ask.method == Method::Tool && ask.asker.follows_tasks() {
            self.tasks.expect(key);
        }
        let intent = self.calls.open(key, started, facts, start, now);
        self.outbox.append(intent, now);
        self.outbox.hold(Held::Call(key));
        self.links.opened(link, now);
        Some(key)
    }

    /// The client's line as this upstream gets it, and what of it the record keeps.
    fn edited(
        &mut self,
        ask: &Ask<'_, '_>,
        route: &Route,
        rename: Option<Range<usize>>,
        (link, era): (LinkId, Era),
        token: &str,
    ) -> (Bytes, Bytes) {
        let request = ask.request;
        let logs = self.offers(&route.server, "logging");
        let edits = &mut self.edits;
        edits.clear();
        edits.replace(request.id_span(), token);
        if let Some(span) = rename {
            edits.replace(span, &route.token);
        }
        let introduction = self.front.introduction(ask.asker);
        // a level means something to a server that logs only
        let silent = introduction
            .filter(|own| own.log_level.is_some() && !logs)
            .map(|own| Introduction {
                log_level: None,
                ..own.clone()
            });
        let introduction = silent.as_ref().or(introduction);
        let (allowed, told) = self.links.declared(link);
        let upstream = era::Upstream { era, allowed, told };
        era::request(edits, request, introduction, upstream, token);
        let mut line = Vec::with_capacity(request.line.len() + 64);
        edits.apply(request.line, &mut line);
        line.push(b'\n');
        let line = Bytes::from(line);
        let content = match edits.moved(&ask.content) {
            Some(span) => line.slice(span),
            None => copied(request.line, &ask.content),
        };
        (line, content)
    }

    /// Whether a server offers what goes by this capability, going by what was reviewed of it. One
    /// of which nothing is known may; so may one of the first revision, which names fewer.
    pub(super) fn offers(&self, server: &ServerDoc, capability: &str) -> bool {
        let Some(surface) = self.snapshot.surface(&server.key) else {
            return true;
        };
        let old = surface.protocol == Revision::OLDEST.as_str();
        let Some(capabilities) = surface.capabilities.as_ref().filter(|_| !old) else {
            return true;
        };
        let capabilities = Object::parse(capabilities.get());
        capabilities.is_ok_and(|capabilities| capabilities.get(capability).is_some())
    }

    /// Whether a URI may be watched, as far as can be said without its server.
    pub(super) fn may_watch(&mut self, uri: &str, now: &Now) -> bool {
        let Some((server, uri)) = self.snapshot.catalog().resource(uri) else {
            return false;
        };
        let uri = uri.into_owned();
        let decision = decide(&self.snapshot, &Access::Resource { server, uri }, now);
        matches!(decision, Decision::Allow(_))
    }

    /// Puts one URI of a `subscriptions/listen` on the road.
    pub(super) fn watch(&mut self, request: &Request<'_>, uri: &str, fate: Fate<'_>, now: &Now) {
        let Some(asker) = Asker::of_listen(request) else {
            return;
        };
        let ask = Ask {
            request,
            asker: &asker,
            method: Method::Listen,
            content: span_in_listen(request, uri).unwrap_or_default(),
        };
        match self.resource_route(uri, Method::Listen, now) {
            Ok(route) => self.walk(&ask, &route, None, fate, now),
            Err(dead) => {
                self.unconfirmed(uri, true, now);
                self.refuse(&ask, dead.target, dead.audit, &dead.denial, Some(uri), now);
            }
        }
    }

    /// Puts a resource on the road that a handshake client is subscribed to, and that its server
    /// has forgotten. In the client's name: nobody waits for the answer.
    pub(super) fn watch_again(&mut self, uri: &str, fate: Fate<'_>, now: &Now) {
        let Some(era) = self.front.era() else {
            return;
        };
        let params = format!("{{\"uri\":{}}}", raw::quoted(uri));
        let line = msg::request_line("0", "resources/subscribe", Some(&params));
        let Ok(msg::Message::Request(request)) = msg::Message::parse(line.trim_ascii_end()) else {
            return;
        };
        let params = request.params.as_ref();
        let content = params.and_then(|params| params.object.value_span("uri"));
        let asker = Asker::unclaimed(era);
        let ask = Ask {
            request: &request,
            asker: &asker,
            method: Method::Listen,
            content: content.unwrap_or_default(),
        };
        match self.resource_route(uri, Method::Listen, now) {
            Ok(route) => self.walk(&ask, &route, None, fate, now),
            Err(dead) => self.refuse(&ask, dead.target, dead.audit, &dead.denial, Some(uri), now),
        }
    }

    fn facts(
        &mut self,
        ask: &Ask<'_, '_>,
        target: ContextId,
        rule: ContextId,
        audit: AuditRule,
        content: Bytes,
        now: &Now,
    ) -> CallFacts {
        let meta = ask.request.params.as_ref().and_then(|p| p.meta.as_ref());
        CallFacts {
            call: self.calls.attempt(),
            leg: 0,
            caller: self.caller_context(now),
            client: self.client_context(ask.asker, now),
            target,
            registry: self.registry_context(now),
            rule,
            credential: None,
            correlation: meta::correlation(meta),
            content: Content(content),
            audit,
        }
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

    fn refuse_route(&mut self, ask: &Ask<'_, '_>, route: &Route, denial: &Denial, now: &Now) {
        let audit = match &route.access {
            Access::Tool { name, .. } => route.server.audit.for_tool(name),
            Access::Prompt { .. } | Access::Resource { .. } => route.server.audit.for_others(),
        };
        if ask.method == Method::Listen {
            self.unconfirmed(&route.label(), false, now);
        }
        let hidden = denial.code == DenialCode::Hidden;
        let name = hidden.then(|| match &route.access {
            Access::Resource { .. } => Cow::Owned(route.label()),
            Access::Prompt { name, .. } | Access::Tool { name, .. } => Cow::Borrowed(&**name),
        });
        self.refuse(ask, route.target, audit, denial, name.as_deref(), now);
    }

    /// Records a refusal and tells the client, who does not wait for the record. `unknown` is the
    /// name to call unknown, where the client is not to learn more.
    pub(super) fn refuse(
        &mut self,
        ask: &Ask<'_, '_>,
        target: ContextId,
        audit: AuditRule,
        denial: &Denial,
        unknown: Option<&str>,
        now: &Now,
    ) {
        let code = denial.code.as_str();
        let rule = Context::Rule {
            id: code.to_owned(),
            source: String::new(),
            role: String::new(),
        };
        let rule = self.outbox.context(rule, now);
        let content = copied(ask.request.line, &ask.content);
        let facts = self.facts(ask, target, rule, audit, content, now);
        self.outbox.append(Record::Denial { facts, code }, now);
        let (id, era) = (&ask.request.id, ask.asker.era);
        match (unknown, ask.method) {
            // its acknowledgement says so
            (_, Method::Listen) => {}
            (Some(name), Method::Tool) => {
                self.error(id, -32602, &format!("Unknown tool: {}", echoed(name)), None);
            }
            (Some(_), Method::Task) => self.error(id, -32602, "Unknown task", None),
            (Some(name), Method::Prompt | Method::Complete) => {
                self.error(
                    id,
                    -32602,
                    &format!("Unknown prompt: {}", echoed(name)),
                    None,
                );
            }
            (Some(uri), Method::Read | Method::Subscribe | Method::Unsubscribe) => {
                let uri = echoed(uri);
                let data = format!("{{\"uri\":{}}}", raw::quoted(&uri));
                let text = format!("Resource not found: {uri}");
                self.error(id, era::not_found(era), &text, Some(&data));
            }
            (None, method) => {
                let tool = method == Method::Tool;
                let text = self.told(denial);
                self.outbox
                    .send_client(denied(id.raw(), era, tool, code, &text));
            }
        }
    }

    /// How the client is told of a refusal: that somebody has to sign in is said once in full,
    /// then briefly, until it changes.
    fn told(&mut self, denial: &Denial) -> String {
        let text = denial.client_text();
        if denial.code != DenialCode::NoCaller {
            return text;
        }
        if self.front.told.as_deref() != Some(denial.sentence.as_str()) {
            self.front.told = Some(denial.sentence.clone());
            return text;
        }
        let what = denial.sentence.split(';').next().unwrap_or_default();
        let brief = format!("{what} (what to do was said before; {STATUS_TOOL} says it again)");
        Denial::new(DenialCode::NoCaller, brief).client_text()
    }

    // ---- down

    /// Takes an upstream's answer to a call.
    pub(super) fn answered(
        &mut self,
        link: LinkId,
        id: u64,
        response: &Response<'_>,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) {
        let key = Key { link, id };
        let Some(call) = self.calls.get(key) else {
            // to a call that was cancelled or timed out, a second time, or to nothing
            let code = match self.links.gave(link, id) {
                true => "late-answer",
                false => "stray-answer",
            };
            return self.outbox.count(code, now);
        };
        if matches!(call.stage, Stage::Held(_)) {
            // the request is not even sent
            return self.outbox.count("stray-answer", now);
        }
        let Some(from) = self.links.era(link) else {
            return;
        };
        let (method, to, can) = (call.method, call.era, call.can);
        self.links.served(link);
        let (end, span) = match &response.body {
            Body::Error { code, object, .. } => (End::Error(*code), object.span()),
            Body::Result(result) => {
                let failed = method == Method::Tool && result.get("isError") == Some("true");
                (if failed { End::ToolError } else { End::Ok }, result.span())
            }
        };
        let client: Box<str> = match &call.origin {
            Origin::Client { id, .. } => id.clone(),
            Origin::Listen | Origin::Standing => {
                let content = Content(copied(response.line, &span));
                return self.listen_answered(key, end, content, now);
            }
            // kept for its retry, which puts its own
            Origin::Parked => "0".into(),
        };
        if let (Body::Result(result), Era::Handshake(_)) = (&response.body, to)
            && era::asks_input(result, from)
        {
            return self.drive(key, response, result, now, entropy);
        }
        let mut end = end;
        let mut passed = Ok(Vec::new());
        match (&response.body, to, from) {
            (Body::Result(result), Era::Stateless, _) if era::asks_input(result, from) => {
                end = End::Input;
                passed = self.passes(link, can, method, response.line, result, now);
            }
            // SEP-2663: a task that waits for input says so in its own members, its first answer too
            (Body::Result(result), Era::Stateless, Era::Stateless)
                if (method == Method::Task || era::is_task(result))
                    && result.get("inputRequests").is_some() =>
            {
                passed = self.passes(link, can, method, response.line, result, now);
            }
            (Body::Error { code, object, .. }, Era::Stateless, Era::Handshake(_))
                if *code == era::URL_REQUIRED =>
            {
                if self.park_for_address(key, response, object, now, entropy) {
                    return;
                }
            }
            (Body::Error { .. } | Body::Result(_), Era::Handshake(_) | Era::Stateless, _) => {}
        }
        let tasked = match &response.body {
            Body::Result(result) => self.task_in(key, result),
            Body::Error { .. } => Tasked::No,
        };
        let to_address = match (&response.body, to) {
            (Body::Error { code, object, .. }, Era::Handshake(_)) if *code == era::URL_REQUIRED => {
                Some(self.elicits_in_error(link, object, from))
            }
            (Body::Error { .. } | Body::Result(_), _) => None,
        };
        let renamed = match &response.body {
            Body::Result(task) if method == Method::Task => {
                self.renamed_in_task(link, task, response.line)
            }
            Body::Result(result) => self.renamed_uris(link, result, response.line),
            Body::Error { .. } => Vec::new(),
        };
        let edits = &mut self.edits;
        edits.clear();
        edits.replace(response.id_span(), &client);
        for (place, uri) in renamed {
            edits.replace(place, &uri);
        }
        let reply = match (inspect::response(response), &response.body) {
            (Finding::Stop(why), _) => Reply::Text(why),
            (Finding::Clear, Body::Result(result)) => {
                let info = self.links.server_info(link);
                for (at, label) in passed.iter().flatten() {
                    edits.replace(*at..*at, label);
                }
                let done = era::result(edits, result, from, to, method.cacheable(), info);
                let done = passed.map_err(Untranslatable::Wanted).and(done);
                match (done, &tasked) {
                    (Err(Untranslatable::Wanted(why)), _) => Reply::Text(why),
                    (Err(Untranslatable::Type(kind)), Tasked::Named(span, label))
                        if kind == "task" =>
                    {
                        edits.replace(span.clone(), &raw::quoted(label));
                        Reply::Edited
                    }
                    (Ok(()), Tasked::Named(span, label)) => {
                        edits.replace(span.clone(), &raw::quoted(label));
                        Reply::Edited
                    }
                    (Ok(()), Tasked::No) => Reply::Edited,
                    (Err(wrong), _) => {
                        Reply::Text(format!("the server's answer was dropped: {wrong}"))
                    }
                }
            }
            (
                Finding::Clear,
                Body::Error {
                    code,
                    message,
                    object,
                },
            ) => match era::error(*code, message, object.get("data"), from, to) {
                ErrorAs::Code(mapped) => {
                    if let Some(labels) = to_address {
                        for (at, label) in labels.iter().flatten() {
                            edits.replace(*at..*at, label);
                        }
                        // the client cannot open it, or the organisation does not let it be asked
                        match labels {
                            Some(_) => Reply::Edited,
                            None => Reply::Text(era::open_first(message, object.get("data"))),
                        }
                    } else {
                        if mapped != *code
                            && let Some(span) = object.value_span("code")
                        {
                            edits.replace(span, &mapped.to_string());
                        }
                        Reply::Edited
                    }
                }
                ErrorAs::Text(text) => Reply::Text(text),
                ErrorAs::Lacks(text) => Reply::Failure(text, object.get("data")),
            },
        };
        let (line, content) = match reply {
            Reply::Edited => {
                let mut line = Vec::with_capacity(response.line.len() + 64);
                edits.apply(response.line, &mut line);
                line.push(b'\n');
                let line = Bytes::from(line);
                let content = match edits.moved(&span) {
                    Some(span) => line.slice(span),
                    None => copied(response.line, &span),
                };
                (line, content)
            }
            Reply::Failure(text, data) => (
                failed(&client, to, method == Method::Tool, &text, data).into(),
                copied(response.line, &span),
            ),
            Reply::Text(text) => (
                failed(&client, to, method == Method::Tool, &text, None).into(),
                copied(response.line, &span),
            ),
        };
        let content = match &tasked {
            Tasked::Named(id, label) => tasks::sealed(response.line, &span, id, label),
            Tasked::No => content,
        };
        self.subscribed(key, end, now);
        let outcome = Outcome {
            end,
            content: Content(content),
        };
        self.settle(key, outcome, Some(line), now);
        if end == End::Error(-32020) {
            // MCP 2026-07-28, header mismatch: its definitions may be others by now
            self.link_input(link, LinkInput::Changed, now);
        }
    }

    /// A server wants a person to open an address before a call (2025-11-25, error -32042): where
    /// its questions begin in the line, and who says it asks. `None` where the client cannot be
    /// asked that, or not by this server.
    fn elicits_in_error(
        &mut self,
        link: LinkId,
        error: &Object<'_>,
        from: Era,
    ) -> Option<Vec<(usize, String)>> {
        let server = self.server_of(link)?;
        let may = link::allowed(&server)
            .and(self.front.can)
            .covers(era::Asked::Url);
        if !may || !matches!(from, Era::Handshake(_)) {
            return None;
        }
        let data = error.object("data").ok()??;
        let list = data.value_span("elicitations")?;
        let asked = raw::elements(data.get("elicitations")?).ok()?;
        if asked.is_empty() || asked.len() > limits::INPUT_REQUESTS {
            return None;
        }
        let base = data.get("elicitations")?;
        let mut labels = Vec::new();
        let mut ids = Vec::new();
        for one in asked {
            let at = list.start + raw::place(base, one)?.start;
            let one = Object::parse(one).ok()?;
            let text = |key: &str| one.text(key);
            if ask::is_ambiguous(&one) || !text("url").is_some_and(|url| question::is_web(&url)) {
                return None;
            }
            text("message")?;
            let label = format!("[{}] ", server.key);
            labels.push((at + one.value_span("message")?.start + 1, label));
            ids.push(text("elicitationId")?.into_owned());
        }
        for id in ids.iter().filter(|id| id.len() <= limits::ID_BYTES) {
            self.links.elicits(link, id);
        }
        Some(labels)
    }

    /// URIs in a result that the client knows by another name, and those names as JSON tokens.
    pub(super) fn renamed_uris(
        &self,
        link: LinkId,
        result: &Object<'_>,
        line: &str,
    ) -> Vec<(Range<usize>, String)> {
        let catalog = self.snapshot.catalog();
        let server = self.server_of(link);
        let Some(server) = server.filter(|server| catalog.shows_others(&server.key)) else {
            return Vec::new();
        };
        let places = alias::places(result, line).into_iter();
        let shown = |(place, uri): (Range<usize>, String)| {
            let shown = catalog.shown_uri(&server.key, &uri)?;
            Some((place, raw::quoted(&shown)))
        };
        places.filter_map(shown).collect()
    }

    /// Closes a call, records its outcome and holds the client's answer until that is done.
    /// Gives the entry.
    pub(super) fn settle(
        &mut self,
        key: Key,
        outcome: Outcome,
        line: Option<Bytes>,
        now: &Now,
    ) -> Option<super::Ticket> {
        let end = outcome.end;
        let listened = self.listened(key);
        let closed = self.calls.close(key, outcome, now)?;
        let instead = closed.instead();
        let fail_mode = closed.fail_mode;
        self.unmake(&closed);
        self.tasks.over(key);
        let stood = matches!(closed.origin, Origin::Standing);
        let parked = matches!(closed.origin, Origin::Parked);
        let recorded = self.outbox.append(closed.body, now);
        self.call_ended(key, end, now);
        self.park_over(key, parked, line.as_ref(), (recorded, fail_mode), now);
        if let (Some(line), Some(instead)) = (line, instead) {
            let answer = Held::Answer {
                line,
                fail_mode,
                instead,
            };
            self.outbox.hold_for(recorded..=recorded, answer);
        }
        if stood {
            self.links.released(key.link, now);
        } else {
            self.links.closed(key.link, now);
        }
        if let Some(uri) = listened {
            self.listen_settled(&uri, end, now);
        }
        self.pump(key.link, now);
        self.next_in_line(key.link, now);
        Some(recorded)
    }

    /// Closes a call that got no answer, and tells the client why.
    pub(super) fn fail(&mut self, key: Key, outcome: Outcome, text: &str, now: &Now) {
        let Some(call) = self.calls.get(key) else {
            return;
        };
        let line = match &call.origin {
            Origin::Client { id, .. } => {
                let tool = call.method == Method::Tool;
                Some(failed(id, call.era, tool, text, None).into())
            }
            Origin::Parked => {
                let tool = call.method == Method::Tool;
                Some(failed("0", call.era, tool, text, None).into())
            }
            Origin::Listen | Origin::Standing => None,
        };
        self.settle(key, outcome, line, now);
    }

    /// The client takes a call back: nothing more is said of it.
    pub(super) fn cancel(&mut self, key: Key, now: &Now) {
        self.withdraw(key, End::Cancelled, now);
    }

    /// The session ends with the call in flight.
    pub(super) fn abandon(&mut self, key: Key, now: &Now) {
        self.withdraw(key, End::Unknown, now);
    }

    /// Takes a call back from its upstream: nobody is told.
    pub(super) fn withdraw(&mut self, key: Key, sent: End, now: &Now) {
        let end = match self.calls.get(key).map(|call| &call.stage) {
            Some(Stage::Sent) => {
                let cancel = Upstream::Housekeeping(Housekeeping::Cancel(key.id));
                self.outbox.send_link(key.link, cancel);
                sent
            }
            Some(Stage::Held(_)) => End::NotSent,
            None => return,
        };
        self.settle(key, Outcome::bare(end), None, now);
    }

    /// Fails the calls that took longer than their server entry allows.
    pub(super) fn time_out(&mut self, now: &Now) {
        for key in self.calls.overdue(now) {
            let sent = self
                .calls
                .get(key)
                .map(|call| matches!(call.stage, Stage::Sent));
            let (key_text, limit_s) = self.links.describe(key.link);
            let text = format!("server {key_text} gave no answer within {limit_s} s");
            if sent == Some(true) {
                let cancel = Upstream::Housekeeping(Housekeeping::Cancel(key.id));
                self.outbox.send_link(key.link, cancel);
                // one that asked a person something may have waited for them
                let waited = self.calls.get(key).is_some_and(Execution::asked);
                self.fail(key, Outcome::bare(End::Timeout), &text, now);
                if !waited {
                    let reason = format!("gave no answer within {limit_s} s");
                    self.link_input(key.link, LinkInput::Overdue(&reason), now);
                }
            } else {
                self.fail(key, Outcome::bare(End::NotSent), &text, now);
            }
        }
    }

    /// Sends what waited for the record.
    pub(super) fn recorded(&mut self, upto: super::Ticket, now: &Now) {
        self.outbox.confirm(upto);
        while let Some((held, failed)) = self.outbox.release(upto) {
            match failed {
                None => self.release(held, now),
                Some(reason) => self.withhold(held, &reason, now),
            }
        }
    }

    /// Refuses or lets go, by fail mode, what waited for a record that cannot be written.
    pub(super) fn not_recorded(&mut self, upto: super::Ticket, reason: &str, now: &Now) {
        self.outbox.fail(upto, reason);
        self.recorded(upto, now);
    }

    fn release(&mut self, held: Held, now: &Now) {
        match held {
            Held::Answer { line, .. } => self.outbox.send_client(line),
            Held::Asks(key, asks) => self.ask_for_address(key, *asks),
            Held::Call(key) => self.let_go(key, now),
            Held::Done => self.outbox.push(super::Output::Done),
            Held::Kept(..) => {}
            Held::Parked(key, leg, _) => self.parks.recorded(key, leg),
            Held::Question(number) => self.question_recorded(number),
            Held::Told { to, line, .. } => self.tell_upstream(&to, line, now),
        }
    }

    fn withhold(&mut self, held: Held, reason: &str, now: &Now) {
        match held {
            Held::Answer {
                line,
                fail_mode: FailMode::Open,
                ..
            } => {
                self.outbox.count("unrecorded", now);
                self.outbox.send_client(line);
            }
            Held::Answer { instead, .. } => self.unrecorded(&instead, reason),
            Held::Asks(key, asks) => match asks.fail_mode {
                FailMode::Open => {
                    self.outbox.count("unrecorded", now);
                    self.ask_for_address(key, *asks);
                }
                FailMode::Closed => self.unrecorded(&asks.instead, reason),
            },
            Held::Call(key) => match self.calls.fail_mode(key) {
                Some(FailMode::Open) => {
                    self.outbox.count("unrecorded", now);
                    self.let_go(key, now);
                }
                Some(FailMode::Closed) => {
                    let text = format!("the call could not be recorded ({reason})");
                    let denial = Denial::new(DenialCode::NoRecord, text);
                    if let Some(instead) = self.take_back(key, now) {
                        self.withheld(&instead, &denial);
                    }
                }
                None => {}
            },
            Held::Done => self.outbox.push(super::Output::Done),
            Held::Kept(_, FailMode::Open) => self.outbox.count("unrecorded", now),
            Held::Kept(key, FailMode::Closed) => self.keep_nothing(key, reason),
            Held::Parked(key, leg, FailMode::Open) => {
                self.outbox.count("unrecorded", now);
                self.parks.recorded(key, leg);
            }
            Held::Parked(key, leg, FailMode::Closed) => {
                self.parked_unrecorded(key, leg, now);
            }
            Held::Told {
                to,
                line,
                fail_mode: FailMode::Open,
                ..
            } => {
                self.outbox.count("unrecorded", now);
                self.tell_upstream(&to, line, now);
            }
            Held::Question(number) => self.question_unrecorded(number, now),
            Held::Told { to, instead, .. } => self.tell_upstream(&to, instead, now),
        }
    }

    /// A call that was not sent does not count among repeated ones.
    fn unmake(&mut self, closed: &Closed) {
        if let Some(same) = closed.unmade {
            self.repeats.unmake(same);
        }
    }

    /// Ends a call that is not sent; gives whom to tell.
    fn take_back(&mut self, key: Key, now: &Now) -> Option<Instead> {
        let listened = self.listened(key);
        let closed = self.calls.close(key, Outcome::bare(End::NotSent), now)?;
        let instead = closed.instead();
        self.unmake(&closed);
        self.tasks.over(key);
        self.outbox.append(closed.body, now);
        self.links.closed(key.link, now);
        if let Some(uri) = listened {
            self.listen_settled(&uri, End::NotSent, now);
        }
        self.pump(key.link, now);
        self.next_in_line(key.link, now);
        instead
    }

    /// Sends a held call, if it is still allowed: the record may have taken as long as a collector
    /// does, and time alone ends sign-ins, agents, rules and registries.
    pub(super) fn let_go(&mut self, key: Key, now: &Now) {
        let snapshot = Arc::clone(&self.snapshot);
        let held = self.calls.get(key).map(|call| &call.access);
        if let Some(access) = held.filter(|access| !allows(&snapshot, access, now)) {
            let denial = match decide(&snapshot, access, now) {
                Decision::Ask(question) => question.absurd(),
                Decision::Deny(denial) => denial,
                // one function judges both; a difference must not become a call
                Decision::Allow(_) => Denial::new(
                    DenialCode::StaleSnapshot,
                    format!("the rules changed while {access} was waiting; call it again"),
                ),
            };
            return self.take_back_for(key, &denial, now);
        }
        let Some(made_for) = self.calls.get(key).map(|call| call.transport) else {
            return;
        };
        if self.rests(key, now) {
            return;
        }
        // what runs there now was not compared with its pin, or for other calls
        if made_for != self.links.transport(key.link) {
            let (server, _) = self.links.describe(key.link);
            let text = format!("server {server} ended before the call was sent; call it again");
            return self.take_back_for(key, &Denial::new(DenialCode::Unavailable, text), now);
        }
        if let Some(line) = self.calls.send(key) {
            self.outbox.send_link(key.link, Upstream::Call(line));
        }
    }

    /// The snapshot moved: calls whose intent is still on its way into the record are decided
    /// again, because that may take as long as a collector does. Where somebody else calls now,
    /// none of them is sent: their intents name the caller of before.
    pub(super) fn decide_held(&mut self, now: &Now) {
        let snapshot = Arc::clone(&self.snapshot);
        let held = self
            .calls
            .select(|_, call| matches!(call.stage, Stage::Held(_)));
        for key in held {
            let Some(access) = self.calls.get(key).map(|call| &call.access) else {
                continue;
            };
            let denial = match decide(&snapshot, access, now) {
                Decision::Allow(_) if self.calls.is_own(key) => continue,
                Decision::Allow(_) => Denial::new(
                    DenialCode::StaleSnapshot,
                    format!("somebody else signed in while {access} was waiting; call it again"),
                ),
                Decision::Ask(question) => question.absurd(),
                Decision::Deny(denial) => denial,
            };
            self.take_back_for(key, &denial, now);
        }
    }

    /// Ends a call that is not sent, and tells the client why.
    fn take_back_for(&mut self, key: Key, denial: &Denial, now: &Now) {
        // one that is sent again was sent before
        let again = self.calls.get(key).is_some_and(|call| call.legs() > 1);
        if let Some(Instead { id, tool, era }) = self.take_back(key, now) {
            let code = denial.code.as_str();
            let text = match again {
                true => refused_later(denial),
                false => denial.client_text(),
            };
            self.outbox.send_client(denied(&id, era, tool, code, &text));
        }
    }

    fn unrecorded(&mut self, instead: &Instead, reason: &str) {
        let text = format!(
            "the call was made, but its outcome could not be recorded ({reason}), so its result is \
             withheld"
        );
        self.withheld(instead, &Denial::new(DenialCode::NoRecord, text));
    }

    pub(super) fn withheld(&mut self, instead: &Instead, denial: &Denial) {
        let Instead { id, tool, era } = instead;
        let code = denial.code.as_str();
        // not `Denial::client_text`: a withheld result was sent
        let text = format!("Refused: {}.", denial.sentence);
        self.outbox
            .send_client(denied(id, *era, *tool, code, &text));
    }
}

/// Whether every reader takes a `ref` of `completion/complete` for the same thing.
fn is_reference(reference: &Object<'_>) -> bool {
    let known = matches!(
        reference.text("type").as_deref(),
        Some("ref/prompt" | "ref/resource")
    );
    known && reference.misspelt(&["name", "type", "uri"]).is_none()
}

/// A name of the client's own, given back: one that nobody would use is cut.
fn echoed(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(limits::ECHOED_CHARS) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", name.get(..end).unwrap_or_default())),
    }
}

/// The same call was made too often: what is told, and when it may be made again.
fn repeated(route: &Route, limit: RepeatLimit, seconds: u64) -> Denial {
    let (access, owner) = (&route.access, &route.server.owner);
    let RepeatLimit {
        calls,
        seconds: within,
    } = limit;
    let text = format!(
        "{access} was called {calls} times within {within} s with the same arguments, which is the \
         most, and its answers are the ones you have; call it with other arguments, or again in \
         {seconds} s; where it is there to be polled, {owner} can give it another limit"
    );
    Denial::new(DenialCode::Repeated, text)
}

/// How a refusal is told of a call that was sent before: not [`Denial::client_text`], which may
/// say that nothing was.
pub(super) fn refused_later(denial: &Denial) -> String {
    format!(
        "Refused, the call does not go on and may have taken effect in part: {}.",
        denial.sentence
    )
}

/// What the client gets for an answer.
enum Reply<'a> {
    /// A failure with this text, and the error's own data where no tool result says it.
    Failure(String, Option<&'a str>),
    /// The upstream's line with the edits made.
    Edited,
    /// A failure with this text.
    Text(String),
}

fn copied(line: &str, span: &Range<usize>) -> Bytes {
    Bytes::copy_from_slice(line.get(span.clone()).unwrap_or_default().as_bytes())
}

/// Where a URI stands in a `subscriptions/listen`.
fn span_in_listen(request: &Request<'_>, uri: &str) -> Option<Range<usize>> {
    let params = &request.params.as_ref()?.object;
    let wanted = params.object("notifications").ok()??;
    let uris = raw::elements(wanted.get("resourceSubscriptions")?).ok()?;
    let token = uris
        .into_iter()
        .find(|token| raw::string(token).as_deref() == Some(uri))?;
    raw::place(request.line, token)
}

/// A tool result that says what went wrong, or an error where there is no tool.
pub(super) fn failed(id: &str, era: Era, tool: bool, text: &str, data: Option<&str>) -> Vec<u8> {
    if !tool {
        return msg::error_line(id, -32603, text, data);
    }
    era::own_line(id, &[&tool_text(text)], era, false, SERVER_INFO, None)
}

/// The same for a refusal, with its code.
pub(super) fn denied(id: &str, era: Era, tool: bool, code: &str, text: &str) -> Vec<u8> {
    let note = format!("{{\"code\":\"{code}\"}}");
    if !tool {
        return msg::error_line(id, DENIED, text, Some(&note));
    }
    let note = Some((META_DENIAL, note.as_str()));
    era::own_line(id, &[&tool_text(text)], era, false, SERVER_INFO, note)
}

fn tool_text(text: &str) -> String {
    format!(
        r#""content":[{{"type":"text","text":{}}}],"isError":true"#,
        raw::quoted(text)
    )
}
