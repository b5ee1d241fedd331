//! Tasks of the stateless era: calls that go on after their answer (SEP-2663,
//! `io.modelcontextprotocol/tasks`).
//!
//! ```text
//!   tools/call ─▶ … ─▶ resultType: task, taskId t   ── learned: <server>.t is of this tool
//!   tasks/get|update|cancel <server>.t ─▶ learned? ─▶ decide (that tool) ─▶ record ─▶ t upstream
//!   subscriptions/listen taskIds: the same, and a listen of ours upstream
//! ```
//!
//! The client sees `<server key>.<task id>`. What a task is allowed by is the tool that began it,
//! so only tasks that began in this session are followed, by whoever began them; any other id is unknown, whoever asks
//! (`docs/decisions/0014`). Ids may open a task to whoever holds them: the record has their digest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Machine;
use super::call::{Key, Method, Origin, Who};
use super::front::Asker;
use super::road::{Ask, Fate};
use super::route::{Dead, Route};
use crate::audit::entry::TargetKind;
use crate::clock::Now;
use crate::ids::{Digest, LinkId, ServerKey};
use crate::limits;
use crate::policy::{Access, Decision, decide};
use crate::wire::era::{self, Era};
use crate::wire::msg::{Notification, Request};
use crate::wire::raw::{self, Object};

/// A task that began in this session.
#[derive(Debug, Clone)]
struct Task {
    server: ServerKey,
    /// The upstream's own id.
    id: String,
    /// The tool whose call began it, by the upstream's own name.
    tool: String,
    /// Who made that call.
    who: Who,
}

/// Every task of the session.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Calls in flight whose client can follow a task.
    able: BTreeSet<Key>,
    /// By the id the client has.
    known: BTreeMap<String, Task>,
    /// Those ids, oldest first.
    order: VecDeque<String>,
}

/// What the answer to a call has to do with tasks.
#[derive(Debug)]
pub(super) enum Tasked {
    /// Where the task's id stands, and the id the client gets for it.
    Named(Range<usize>, String),
    /// Nothing.
    No,
}

impl Tasks {
    /// A call whose client says that it can follow a task is sent.
    pub(super) fn expect(&mut self, key: Key) {
        self.able.insert(key);
    }

    /// A call is over.
    pub(super) fn over(&mut self, key: Key) {
        self.able.remove(&key);
    }

    /// How many calls in flight may become tasks.
    #[cfg(any(test, fuzzing))]
    pub(super) fn expecting(&self) -> usize {
        self.able.len()
    }

    fn learn(&mut self, label: &str, task: Task) {
        if self.known.insert(label.to_owned(), task).is_some() {
            return;
        }
        self.order.push_back(label.to_owned());
        if self.order.len() > limits::TASKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// One that this caller began.
    fn of(&self, label: &str, who: Who) -> Option<&Task> {
        self.known.get(label).filter(|task| task.who == who)
    }

    /// The server of a task.
    pub(super) fn server(&self, label: &str) -> Option<&ServerKey> {
        Some(&self.known.get(label)?.server)
    }
}

/// The id a client gets for an upstream's task.
pub(super) fn label(server: &ServerKey, id: &str) -> String {
    format!("{server}.{id}")
}

/// What the record keeps of a request about a task: never its id.
pub(super) fn noted(label: &str, responses: Option<&str>, beside: &str) -> Bytes {
    let digest = Digest::of(label.as_bytes());
    let responses = responses.map(|responses| format!(r#","inputResponses":{responses}"#));
    format!(
        r#"{{"task":"sha256:{digest}"{}{beside}}}"#,
        responses.unwrap_or_default()
    )
    .into()
}

/// A result as the record keeps it: with the digest of the client's id in the place of the task's.
pub(super) fn sealed(line: &str, result: &Range<usize>, id: &Range<usize>, label: &str) -> Bytes {
    let part = |span: Range<usize>| line.get(span).unwrap_or_default();
    let digest = Digest::of(label.as_bytes());
    let (before, after) = (part(result.start..id.start), part(id.end..result.end));
    format!(r#"{before}"sha256:{digest}"{after}"#).into()
}

impl Machine {
    /// Takes `tasks/get`, `tasks/update` or `tasks/cancel`.
    pub(super) fn tasked(
        &mut self,
        request: &Request<'_>,
        asker: &Asker<'_>,
        fate: Fate<'_>,
        now: &Now,
    ) {
        let params = request.params.as_ref().map(|params| &params.object);
        let named = params.and_then(|params| {
            let (id, span) = (params.text("taskId")?, params.value_span("taskId")?);
            Some((id, span, params.value_span("inputResponses")))
        });
        let odd = params.is_some_and(|p| p.misspelt(&["inputResponses", "taskId"]).is_some());
        let Some((id, span, responses)) = named.filter(|_| !odd) else {
            self.outbox.count("unreadable-params", now);
            let text = "params.taskId must be a string, and no other member but for its case";
            return self.error(&request.id, -32602, text, None);
        };
        if !asker.follows_tasks() {
            // SEP-2663: as a request that lacks a capability, whatever its id
            self.outbox.count("undeclared-tasks", now);
            let text = format!("{} needs the extension {}", request.method, era::TASKS);
            let required = format!("{{\"extensions\":{{\"{}\":{{}}}}}}", era::TASKS);
            let data = format!("{{\"requiredCapabilities\":{required}}}");
            return self.error(&request.id, era::LACKS_CAPABILITY, &text, Some(&data));
        }
        if self.waits_for_registry(request, now) {
            return;
        }
        let ask = Ask {
            request,
            asker,
            method: Method::Task,
            content: responses.unwrap_or_default(),
        };
        match self.task_route(&id, now) {
            Ok(route) => self.walk(&ask, &route, Some(span), fate, now),
            Err(dead) => {
                // an id may open somebody's task: it is not given back
                self.refuse(&ask, dead.target, dead.audit, &dead.denial, Some(""), now);
            }
        }
    }

    /// Where a task's id leads: to its server, by leave of the tool that began it.
    fn task_route(&mut self, label: &str, now: &Now) -> Result<Arc<Route>, Box<Dead>> {
        let task = self.tasks.of(label, self.calls.who()).cloned();
        let route = task.and_then(|task| {
            let (server, name) = (task.server, task.tool);
            let access = Access::Tool { server, name };
            let route = self.route(TargetKind::Task, access, None, None, now)?;
            let mut route = Arc::into_inner(route)?;
            route.token = raw::quoted(&task.id);
            Some(Arc::new(route))
        });
        route.ok_or_else(|| self.dead(TargetKind::Task, None, "such task", now))
    }

    /// Whether the caller may follow a task now.
    pub(super) fn may_follow(&self, label: &str, now: &Now) -> bool {
        let task = self.tasks.of(label, self.calls.who());
        let access = task.map(|task| Access::Tool {
            server: task.server.clone(),
            name: task.tool.clone(),
        });
        access.is_some_and(|access| {
            matches!(decide(&self.snapshot, &access, now), Decision::Allow(_))
        })
    }

    /// Puts one task of a `subscriptions/listen` on the road.
    pub(super) fn watch_task(
        &mut self,
        request: &Request<'_>,
        label: &str,
        fate: Fate<'_>,
        now: &Now,
    ) {
        let Some(asker) = Asker::of_listen(request) else {
            return;
        };
        let ask = Ask {
            request,
            asker: &asker,
            method: Method::Listen,
            content: 0..0,
        };
        match self.task_route(label, now) {
            Ok(route) => self.walk(&ask, &route, None, fate, now),
            Err(dead) => {
                self.unconfirmed(label, true, now);
                self.refuse(&ask, dead.target, dead.audit, &dead.denial, Some(""), now);
            }
        }
    }

    /// Reads what an answer says of a task, before it is edited.
    pub(super) fn task_in(&mut self, key: Key, result: &Object<'_>) -> Tasked {
        let Some(call) = self.calls.get(key) else {
            return Tasked::No;
        };
        let bridged =
            (self.links.era(key.link), call.era) == (Some(Era::Stateless), Era::Stateless);
        let begins = match call.method {
            Method::Tool => {
                let able = self.tasks.able.contains(&key);
                able && result.text("resultType").as_deref() == Some("task")
            }
            Method::Task => false,
            Method::Complete
            | Method::Listen
            | Method::Prompt
            | Method::Read
            | Method::Subscribe
            | Method::Unsubscribe => return Tasked::No,
        };
        let follows = call.method == Method::Task;
        let named = result.text("taskId").zip(result.value_span("taskId"));
        let Some((id, span)) = named.filter(|_| bridged && (begins || follows)) else {
            return Tasked::No;
        };
        if !(1..=limits::TASK_ID_BYTES).contains(&id.len()) {
            return Tasked::No;
        }
        let Access::Tool { server, name } = &call.access else {
            return Tasked::No;
        };
        let label = label(server, &id);
        if begins {
            let task = Task {
                server: server.clone(),
                id: id.into_owned(),
                tool: name.clone(),
                who: call.who,
            };
            self.tasks.learn(&label, task);
        }
        Tasked::Named(span, label)
    }

    /// A task moved: whoever listens to it is told.
    pub(super) fn task_told(&mut self, link: LinkId, notification: &Notification<'_>, now: &Now) {
        let params = notification.params.as_ref().map(|params| &params.object);
        let named = params.and_then(|p| Some((p.text("taskId")?, p.value_span("taskId")?)));
        let (Some((id, span)), Some(server)) = (named, self.server_of(link)) else {
            return self.outbox.count("stray-task", now);
        };
        let label = label(&server.key, &id);
        let listened = self.calls.select(|key, call| {
            key.link == link
                && matches!(call.origin, Origin::Standing)
                && call.uri.as_deref() == Some(label.as_str())
        });
        if self.is_twin(link, notification) {
            return;
        }
        // a grant taken back ends the news of its tasks too
        if listened.is_empty() || !self.may_follow(&label, now) {
            return self.outbox.count("stray-task", now);
        }
        let renamed = params
            .map(|params| self.renamed_in_task(link, params, notification.line))
            .unwrap_or_default();
        let asks = params.filter(|params| params.get("inputRequests").is_some());
        for (key, id, can) in self.listens.of_task(&label) {
            // what may not be asked is recorded, and the client can read the task itself
            let labels = match asks {
                Some(params) => {
                    self.passes(link, can, Method::Task, notification.line, params, now)
                }
                None => Ok(Vec::new()),
            };
            let Ok(labels) = labels else {
                continue;
            };
            self.edits.clear();
            for (at, label) in &labels {
                self.edits.replace(at.clone(), label);
            }
            for (place, uri) in &renamed {
                self.edits.replace(place.clone(), uri);
            }
            era::stamp(&mut self.edits, notification, Some(&id));
            self.edits.replace(span.clone(), &raw::quoted(&label));
            let mut line = Vec::with_capacity(notification.line.len() + 64);
            self.edits.apply(notification.line, &mut line);
            line.push(b'\n');
            self.tell_listen(&key, &label, line, now);
        }
    }

    /// URIs in what a task came to that the client knows by another name, and those names as JSON
    /// tokens: the result of its call.
    pub(super) fn renamed_in_task(
        &self,
        link: LinkId,
        task: &Object<'_>,
        line: &str,
    ) -> Vec<(Range<usize>, String)> {
        match task.object("result") {
            Ok(Some(result)) => self.renamed_uris(link, &result, line),
            Ok(None) | Err(_) => Vec::new(),
        }
    }
}
