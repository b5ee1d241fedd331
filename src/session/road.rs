//! The road of a call, up. The way down is [`super::down`]'s.
//!
//! who → inspect → decide → ready(link) → intent appended → sent. A request that has to wait for
//! its link keeps its line and no permit: when the link is ready it walks the road again from the
//! start, so a decision is never older than the step that sends.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Machine;
use super::call::{Key, Leg, Method, Origin, Start};
use super::front::Asker;
use super::link::{self, CLIENT_INFO};
use super::links::{Readiness, Waiting};
use super::outbox::Held;
use super::park::{self, Retry, Step};
use super::repeat::Same;
use super::route::Route;
use super::{payload, tasks};
use crate::audit::entry::{CallFacts, ContextId};
use crate::clock::Now;
use crate::ids::LinkId;
use crate::inspect::{self, Finding};
use crate::limits;
use crate::policy::{Access, Decision, Denial, DenialCode, Started, decide};
use crate::registry::doc::{AuditRule, RepeatLimit, ServerDoc};
use crate::secret::Content;
use crate::wire::era::{self, Can, Era, Introduction, Revision};
use crate::wire::meta;
use crate::wire::msg::{self, Request};
use crate::wire::raw::{self, Object};

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

/// One request of the client's on the road.
pub(super) struct Ask<'r, 'a> {
    pub(super) request: &'r Request<'a>,
    pub(super) asker: &'r Asker<'a>,
    pub(super) method: Method,
    /// Where in its line lies what the record keeps of it.
    pub(super) content: Range<usize>,
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
        let content = payload::of(request, method, content);
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
                if dead.denial.code == DenialCode::Hidden
                    && self.waits_for_lists(request, fate, now)
                {
                    return;
                }
                let unknown = dead.hidden.then_some(name.as_ref());
                self.refuse(&ask, dead.target, dead.audit, &dead.denial, unknown, now);
            }
        }
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
        let has_state = retry.as_ref().is_some_and(|retry| retry.state);
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
            && let waiting = self.calls.waiting_as(same)
            && let Err(seconds) = self.repeats.check(same, limit, waiting, now)
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
        if let Some(denial) = self.links.withholds(link, &route.access) {
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
            // an answer to a question that is not open never makes a call; answers alone are to
            // none, because all that is asked here has a state
            if has_state && leg.is_none() {
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
                if let (Some(key), Some((same, _))) = (key, repeat) {
                    self.calls.counts_as(key, same);
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
                (line.into(), tasks::noted(label, None, ""))
            }
            (Method::Task, _, _) => {
                let params = request.params.as_ref().map(|params| &params.object);
                let label = params.and_then(|params| params.text("taskId"));
                let responses = request.line.get(ask.content.clone());
                let responses = responses.filter(|responses| !responses.is_empty());
                let beside = payload::beside_task(request);
                let noted = tasks::noted(&label.unwrap_or_default(), responses, &beside);
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

    pub(super) fn facts(
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
}

/// Whether every reader takes a `ref` of `completion/complete` for the same thing.
fn is_reference(reference: &Object<'_>) -> bool {
    let known = matches!(
        reference.text("type").as_deref(),
        Some("ref/prompt" | "ref/resource")
    );
    known && reference.misspelt(&["name", "type", "uri"]).is_none()
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
         most that is allowed; call it with other arguments, or again in {seconds} s; if it is \
         there to be polled, {owner} can give it another limit"
    );
    Denial::new(DenialCode::Repeated, text)
}

pub(super) fn copied(line: &str, span: &Range<usize>) -> Bytes {
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
