//! The client's side: its era, and what is answered here without any upstream.
//!
//! ```text
//!   Opening ──initialize──▶ Handshake(revision)
//!      │ └─ any request with valid `_meta`, but server/discover ─▶ Stateless
//!      └─ server/discover: answered, decides nothing (clients probe with it)
//! ```
//!
//! Discover, initialize and every list come from the snapshot: no child is started for them. Only
//! servers that are not pinned (`pin: off`, for development) are started by the first list, which
//! does not wait for them: a `list_changed` follows.

use std::sync::Arc;

use super::call::Method;
use super::link::Declared;
use super::outbox::{Held, Level};
use super::report::ClientReport;
use super::road::Fate;
use super::{LineFault, Machine, Output};
use crate::audit::entry::{Context, ContextId};
use crate::catalog::{Listing, Reader, STATUS_TOOL};
use crate::clock::Now;
use crate::limits;
use crate::pin::quarantine;
use crate::policy::{self, Snapshot};
use crate::text;
use crate::wire::era::{self, Can, Claim, ClaimError, Era, Introduction, Revision};
use crate::wire::msg::{self, Id, IdKey, Kind, Message, Notification, Rejected, Request};
use crate::wire::peek::Peeked;
use crate::wire::raw::{self, Object};

/// How mcpshim names itself, raw JSON.
pub(super) const SERVER_INFO: &str = concat!(
    r#"{"name":"mcpshim","title":"mcpshim","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// What it offers, raw JSON without the braces. The same whatever the registry says: a registry may come later.
const CAPABILITIES: &str = r#""completions":{},"logging":{},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"tools":{"listChanged":true}"#;

/// What it offers clients of the stateless era besides.
const EXTENSIONS: &str = r#""extensions":{"io.modelcontextprotocol/tasks":{}}"#;

/// What is known of the client.
#[derive(Debug, Default)]
pub(super) struct Front {
    pin: Pin,
    introduction: Option<Introduction>,
    pub(super) level: Option<Level>,
    /// What it can be asked for: by its `initialize`, or by its last request.
    pub(super) can: Can,
    /// The last capabilities that a request said, and what can be asked by them.
    said: (String, Can),
    /// Its settings of MCP Apps, raw JSON.
    apps: Option<Box<str>>,
    /// How the last request of the stateless era named its sender.
    claimed: String,
    /// The client's own session id, claimed through the environment.
    session: Option<String>,
    /// The last client context made, and what it was made from.
    known: Option<(String, Revision, ContextId)>,
    /// Requests that wait for the first registry: until when, and their lines.
    first: Option<First>,
    /// Why nobody is recognised, as the client was told in full.
    pub(super) told: Option<String>,
    /// The last warning that the sign-in ends, as the client was told.
    warned: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Pin {
    #[default]
    Opening,
    Handshake(Revision),
    Stateless,
}

#[derive(Debug, Default)]
struct First {
    until_us: Option<u64>,
    lines: Vec<(IdKey, Vec<u8>)>,
    bytes: usize,
}

/// Who asks, as far as one request says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) era: Era,
    /// What its sender can be asked for: by the request itself, in the stateless era.
    pub(super) can: Can,
    /// What the request says of its sender (stateless era).
    claim: Option<Claim<'a>>,
}

impl<'a> Asker<'a> {
    /// Who sent a `subscriptions/listen`.
    pub(super) fn of_listen(request: &Request<'a>) -> Option<Self> {
        let claim = era::claim(request.params.as_ref()).ok().flatten()?;
        Some(Self {
            era: Era::Stateless,
            can: Can::default(),
            claim: Some(claim),
        })
    }

    /// A client of which no request says more, and that is not asked.
    pub(super) fn unclaimed(era: Era) -> Self {
        let can = Can::default();
        Self {
            era,
            can,
            claim: None,
        }
    }

    /// Whether its client can follow a task.
    pub(super) fn follows_tasks(&self) -> bool {
        self.claim
            .is_some_and(|claim| era::follows_tasks(claim.capabilities))
    }

    /// Log messages asked for by this request.
    pub(super) fn level(&self) -> Option<Level> {
        Level::parse(self.claim?.log_level?)
    }
}

impl Front {
    pub(super) fn new(session: Option<String>, waits: bool) -> Self {
        Self {
            session,
            first: waits.then(First::default),
            ..Self::default()
        }
    }

    /// The era notifications to the client are written in; `None` before it opened.
    pub(super) fn era(&self) -> Option<Era> {
        match self.pin {
            Pin::Opening => None,
            Pin::Handshake(revision) => Some(Era::Handshake(revision)),
            Pin::Stateless => Some(Era::Stateless),
        }
    }

    /// Reads what a request says its sender can be asked for. What a client declared when it
    /// opened the session stays what counts for the session.
    fn learn(&mut self, capabilities: &str) -> Result<Can, ClaimError> {
        let (text, can) = &mut self.said;
        if text != capabilities {
            let (new, apps) = era::capabilities(capabilities)?;
            capabilities.clone_into(text);
            *can = new;
            if !matches!(self.pin, Pin::Handshake(_)) {
                self.apps = apps.map(Into::into);
            }
        }
        let can = *can;
        if !matches!(self.pin, Pin::Handshake(_)) {
            self.can = can;
        }
        Ok(can)
    }

    /// What the client says it can be asked for.
    pub(super) fn declared(&self) -> Declared {
        Declared {
            can: self.can,
            apps: self.apps.clone(),
            each: self.pin == Pin::Stateless,
        }
    }

    /// What an upstream of the stateless era is told of a handshake client.
    pub(super) fn introduction(&self, asker: &Asker<'_>) -> Option<&Introduction> {
        match asker.era {
            Era::Handshake(_) => self.introduction.as_ref(),
            Era::Stateless => None,
        }
    }

    /// The client by its own words, as far as it has said any.
    pub(super) fn client(&self) -> Option<ClientReport> {
        let era = self.era()?;
        let own = self.introduction.as_ref().map(|own| own.info.as_str());
        let (info, revision) = match (&self.known, era) {
            (Some((info, revision, _)), _) => (info.as_str(), *revision),
            (None, Era::Handshake(revision)) => (own.unwrap_or("{}"), revision),
            (None, Era::Stateless) => (self.claimed.as_str(), era.revision()),
        };
        let (name, version) = named(info);
        Some(ClientReport {
            name,
            version,
            protocol: revision.as_str().to_owned(),
        })
    }

    /// Whether its model API refuses tools that others take, as far as its name tells.
    fn is_particular(&self, era: Era) -> bool {
        let info = match (era, &self.introduction) {
            (Era::Handshake(_), Some(own)) => own.info.as_str(),
            (Era::Handshake(_), None) => return false,
            (Era::Stateless, _) => self.claimed.as_str(),
        };
        quarantine::PARTICULAR_CLIENTS.contains(&named(info).0.as_str())
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        self.first.as_ref()?.until_us
    }

    /// Whether a request with this id waits for the first registry.
    pub(super) fn waits(&self, key: &IdKey) -> bool {
        let first = self.first.as_ref();
        first.is_some_and(|first| first.lines.iter().any(|(waiting, _)| waiting == key))
    }
}

/// The lists and the member they come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Prompts,
    Resources,
    Templates,
    Tools,
}

impl List {
    pub(super) fn body(self, snapshot: &Snapshot) -> (&'static str, &Listing) {
        let catalog = snapshot.catalog();
        match self {
            Self::Prompts => ("prompts", catalog.prompts()),
            Self::Resources => ("resources", catalog.resources()),
            Self::Templates => ("resourceTemplates", catalog.templates()),
            Self::Tools => ("tools", catalog.tools()),
        }
    }
}

impl Machine {
    pub(super) fn client_line(&mut self, line: &[u8], now: &Now) {
        match Message::parse(line) {
            Ok(Message::Request(request)) => self.client_request(&request, Fate::Fresh, now),
            Ok(Message::Notification(notification)) => self.client_notification(&notification, now),
            Ok(Message::Response(response)) => self.client_answers(&response, now),
            Err(rejected) => self.client_rejected(&rejected, now),
        }
    }

    fn client_rejected(&mut self, rejected: &Rejected, now: &Now) {
        let Rejected { fault, id, kind } = rejected;
        self.outbox.count(fault.code(), now);
        let (code, text) = (fault.rpc_code(), fault.to_string());
        self.unreadable(*kind, id.as_deref(), code, &text, now);
    }

    /// Says why something of the client's was not read, to what it was meant to be.
    fn unreadable(&mut self, kind: Kind, id: Option<&str>, code: i64, text: &str, now: &Now) {
        match kind {
            Kind::Request | Kind::Unknown => {
                let line = msg::error_line(id.unwrap_or("null"), code, text, None);
                self.outbox.send_client(line);
            }
            // JSON-RPC answers neither
            Kind::Notification => {}
            Kind::Response => self.client_mumbles(id, now),
        }
    }

    pub(super) fn client_fault(&mut self, fault: LineFault, peeked: &Peeked, now: &Now) {
        let (code, text) = match fault {
            LineFault::Cut { bytes } => (
                "cut-line",
                format!("the input ended inside a line, after {bytes} bytes of it"),
            ),
            LineFault::TooLong { bytes } => (
                "long-line",
                format!(
                    "a message of {bytes} bytes is longer than {} bytes and was dropped",
                    limits::LINE_BYTES
                ),
            ),
        };
        self.outbox.count(code, now);
        self.unreadable(peeked.kind, peeked.id.as_deref(), -32600, &text, now);
    }

    /// Takes one request of the client's; a second time, with its `fate`, when it had to wait.
    pub(super) fn client_request(&mut self, request: &Request<'_>, fate: Fate<'_>, now: &Now) {
        if self.in_flight(&request.id) {
            self.outbox.count("repeated-id", now);
            let text = format!("a request with id {} is still in flight", request.id.raw());
            return self.error(&request.id, -32600, &text, None);
        }
        let asker = match (request.method.as_ref(), era::claim(request.params.as_ref())) {
            // removed in 2026-07-28: who speaks that revision must not have it read first
            ("initialize", Ok(Some(_)) | Err(ClaimError::Field { .. })) => {
                self.outbox.count("unknown-method", now);
                let text = "Method not found: initialize (removed in MCP 2026-07-28)";
                return self.error(&request.id, -32601, text, None);
            }
            ("initialize", Ok(None) | Err(ClaimError::Version { .. })) => {
                return self.initialize(request, now);
            }
            ("ping", Ok(None)) if self.front.pin != Pin::Stateless => {
                let line = msg::result_line(request.id.raw(), "{}");
                return self.outbox.send_client(line);
            }
            (_, Err(wrong)) => {
                let data = wrong.data();
                let (code, text) = (wrong.rpc_code(), wrong.to_string());
                return self.error(&request.id, code, &text, data.as_deref());
            }
            (_, Ok(Some(claim))) => {
                let can = match self.front.learn(claim.capabilities) {
                    Ok(can) => can,
                    Err(wrong) => {
                        self.outbox.count("unreadable-params", now);
                        return self.error(&request.id, wrong.rpc_code(), &wrong.to_string(), None);
                    }
                };
                let info = claim.info.unwrap_or("{}");
                if self.front.claimed != info {
                    info.clone_into(&mut self.front.claimed);
                    self.moved |= self.front.pin != Pin::Opening;
                }
                Asker {
                    era: Era::Stateless,
                    can,
                    claim: Some(claim),
                }
            }
            (_, Ok(None)) => match self.front.pin {
                Pin::Handshake(revision) => Asker {
                    era: Era::Handshake(revision),
                    can: self.front.can,
                    claim: None,
                },
                Pin::Opening | Pin::Stateless => {
                    let text = format!(
                        "params._meta[{:?}] is missing (MCP {}), and there was no initialize",
                        era::META_PROTOCOL,
                        Era::Stateless.revision().as_str()
                    );
                    return self.error(&request.id, -32602, &text, None);
                }
            },
        };
        if request.method == "server/discover" && asker.era == Era::Stateless {
            return self.discover(request, &asker);
        }
        if self.front.pin == Pin::Opening {
            self.front.pin = Pin::Stateless;
            self.moved = true;
        }
        let stateless = asker.era == Era::Stateless;
        match request.method.as_ref() {
            "tools/list" => self.list(request, &asker, List::Tools, now),
            "prompts/list" => self.list(request, &asker, List::Prompts, now),
            "resources/list" => self.list(request, &asker, List::Resources, now),
            "resources/templates/list" => self.list(request, &asker, List::Templates, now),
            "tools/call" | "prompts/get" | "resources/read" | "completion/complete" => {
                self.routed(request, &asker, fate, now);
            }
            "resources/subscribe" | "resources/unsubscribe" if !stateless => {
                self.routed(request, &asker, fate, now);
            }
            "tasks/cancel" | "tasks/get" | "tasks/update" if stateless => {
                self.tasked(request, &asker, fate, now);
            }
            "logging/setLevel" if !stateless => self.set_level(request),
            "subscriptions/listen" if stateless => self.listen(request, &asker, now),
            other => {
                self.outbox.count("unknown-method", now);
                let text = format!("Method not found: {other}");
                self.error(&request.id, -32601, &text, None);
            }
        }
    }

    /// Whether a request with this id is not answered yet.
    fn in_flight(&self, id: &Id<'_>) -> bool {
        let key = id.key();
        self.calls.of_client(&key).is_some()
            || self.drives.has(&key)
            || self.links.waits(&key)
            || self.front.waits(&key)
            || self.listens.has(&key)
    }

    pub(super) fn error(&mut self, id: &Id<'_>, code: i64, words: &str, data: Option<&str>) {
        let line = msg::error_line(id.raw(), code, &text::block(words), data);
        self.outbox.send_client(line);
    }

    /// Answers with a result of mcpshim's own.
    /// `members` is raw JSON without the braces, in pieces.
    pub(super) fn own(&mut self, id: &str, era: Era, members: &[&str], cacheable: bool) {
        let line = era::own_line(id, members, era, cacheable, SERVER_INFO, None);
        self.outbox.send_client(line);
    }

    fn initialize(&mut self, request: &Request<'_>, now: &Now) {
        let params = request.params.as_ref().map(|params| &params.object);
        let asked = params.and_then(|params| params.text("protocolVersion"));
        let (Some(params), Some(asked)) = (params, asked) else {
            let text = "params.protocolVersion must be a string";
            return self.error(&request.id, -32602, text, None);
        };
        if self.front.pin == Pin::Stateless {
            let (text, data) = (
                format!("Unsupported protocol version: {asked}"),
                era::unsupported(&asked),
            );
            return self.error(&request.id, -32022, &text, Some(&data));
        }
        // one that opens the session again knows nothing of what it was asked before
        self.end_questions("the client opened its session anew", now);
        let revision = era::negotiate(&asked);
        let capabilities = params.object("capabilities").ok().flatten();
        self.front.pin = Pin::Handshake(revision);
        let has_roots = |capabilities: &Object<'_>| {
            capabilities
                .object("roots")
                .is_ok_and(|roots| roots.is_some())
        };
        self.roots
            .opened(capabilities.as_ref().is_some_and(has_roots));
        self.front.known = None;
        self.front.can = capabilities
            .as_ref()
            .map(|capabilities| Can::of(capabilities).at_most(revision))
            .unwrap_or_default();
        let apps = capabilities.as_ref().and_then(era::apps);
        self.front.apps = apps.map(Into::into);
        self.moved = true;
        self.front.introduction = Some(Introduction {
            info: params.get("clientInfo").unwrap_or("{}").to_owned(),
            log_level: None,
        });
        let result = format!(
            r#"{{"protocolVersion":"{}","capabilities":{{{CAPABILITIES}}},"serverInfo":{SERVER_INFO},"instructions":{}}}"#,
            revision.as_str(),
            raw::quoted(&self.snapshot.catalog().instructions())
        );
        self.outbox
            .send_client(msg::result_line(request.id.raw(), &result));
    }

    fn discover(&mut self, request: &Request<'_>, asker: &Asker<'_>) {
        let members = format!(
            r#""supportedVersions":["{}"],"capabilities":{{{CAPABILITIES},{EXTENSIONS}}},"instructions":{}"#,
            Era::Stateless.revision().as_str(),
            raw::quoted(&self.snapshot.catalog().instructions())
        );
        self.own(request.id.raw(), asker.era, &[&members], true);
    }

    /// Keeps a request until the first registry is here, for at most
    /// [`limits::FIRST_REGISTRY_MS`]. False when there is nothing to wait for.
    pub(super) fn waits_for_registry(&mut self, request: &Request<'_>, now: &Now) -> bool {
        let Some(first) = &mut self.front.first else {
            return false;
        };
        let bytes = first.bytes + request.line.len();
        if first.lines.len() >= limits::CALLS_IN_FLIGHT || bytes > limits::LINK_QUEUE_BYTES {
            return false;
        }
        first.bytes = bytes;
        first
            .until_us
            .get_or_insert(now.mono_us + limits::FIRST_REGISTRY_MS * 1000);
        let line = request.line.as_bytes().to_vec();
        first.lines.push((request.id.key(), line));
        true
    }

    /// Answers what waited for the first registry: it is here, or it did not come.
    pub(super) fn registry_settled(&mut self, now: &Now) {
        let Some(first) = self.front.first.take() else {
            return;
        };
        for (_, line) in first.lines {
            self.client_line(&line, now);
        }
    }

    pub(super) fn front_wake(&mut self, now: &Now) {
        let until = self.front.first.as_ref().and_then(|first| first.until_us);
        if until.is_some_and(|until| until <= now.mono_us) {
            self.registry_settled(now);
        }
    }

    fn list(&mut self, request: &Request<'_>, asker: &Asker<'_>, list: List, now: &Now) {
        if self.waits_for_registry(request, now) {
            return;
        }
        self.open_unpinned(now);
        let params = request.params.as_ref();
        let cursor = params.and_then(|params| params.object.get("cursor"));
        let snapshot = Arc::clone(&self.snapshot);
        let (member, listing) = list.body(&snapshot);
        let index = match cursor {
            None => Some(0),
            Some(token) => cursor_index(token, snapshot.id().0),
        };
        let reader = Reader {
            era: asker.era,
            particular: self.front.is_particular(asker.era),
        };
        match index.and_then(|index| Some((index, listing.page_for(index, reader)?))) {
            Some((index, (entries, more))) => {
                let head = format!("\"{member}\":[");
                let tail = match more {
                    true => format!("],\"nextCursor\":\"{}.{}\"", snapshot.id().0, index + 1),
                    false => "]".to_owned(),
                };
                let members = [head.as_str(), &*entries, tail.as_str()];
                self.own(request.id.raw(), asker.era, &members, true);
            }
            None => {
                let text =
                    "the cursor is not one of this list, or the list has changed: start over";
                self.error(&request.id, -32602, text, None);
            }
        }
    }

    fn set_level(&mut self, request: &Request<'_>) {
        let params = request.params.as_ref();
        let token = params.and_then(|params| params.object.get("level"));
        let Some(level) = token.and_then(Level::parse) else {
            let text = "params.level must be one of debug, info, notice, warning, error, critical, alert, emergency";
            return self.error(&request.id, -32602, text, None);
        };
        self.front.level = Some(level);
        if let Some(introduction) = &mut self.front.introduction {
            introduction.log_level = Some(level.token().to_owned());
        }
        self.links_level(level);
        let line = msg::result_line(request.id.raw(), "{}");
        self.outbox.send_client(line);
    }

    /// Answers a call of `mcpshim_status`.
    pub(super) fn status(&mut self, request: &Request<'_>, asker: &Asker<'_>, now: &Now) {
        let mut status = policy::status(&self.snapshot, now).to_string();
        for (key, trouble) in self.links.troubles() {
            // a server may speak in it
            let trouble = text::visible(trouble);
            status.push_str(&format!("link:         {key} {trouble}\n"));
        }
        let members = format!(
            r#""content":[{{"type":"text","text":{}}}],"isError":false"#,
            raw::quoted(&text::block(&status))
        );
        self.own(request.id.raw(), asker.era, &[&members], false);
    }

    /// Warns a client that takes log messages, once, that the sign-in ends soon.
    pub(super) fn warn(&mut self, now: &Now) {
        let Some(text) = self.snapshot.warning(now) else {
            return;
        };
        let takes = match self.front.era() {
            None => false,
            Some(Era::Handshake(_)) => self.front.level.is_none_or(|least| Level::Warning >= least),
            // MCP 2026-07-28: only for a request in flight that asked for them
            Some(Era::Stateless) => {
                let asked = |least: Level| Level::Warning >= least;
                let asked = self.calls.select(|_, call| call.level.is_some_and(asked));
                !asked.is_empty()
            }
        };
        if takes && self.front.warned.as_ref() != Some(&text) {
            let params = format!(
                r#"{{"level":"warning","logger":"mcpshim","data":{}}}"#,
                raw::quoted(&text)
            );
            let line = msg::notification_line("notifications/message", Some(&params));
            self.outbox.send_client(line);
            self.front.warned = Some(text);
        }
    }

    fn client_notification(&mut self, notification: &Notification<'_>, now: &Now) {
        match notification.method.as_ref() {
            "notifications/initialized" => self.warn(now),
            "notifications/roots/list_changed" => self.roots_changed(),
            // progress can only be of requests to the client
            "notifications/progress" => self.client_progress(notification, now),
            "notifications/cancelled" => self.client_cancels(notification, now),
            _ => self.outbox.count("unknown-notification", now),
        }
    }

    fn client_cancels(&mut self, notification: &Notification<'_>, now: &Now) {
        let params = notification.params.as_ref();
        let Some(id) = params.and_then(|params| params.object.get("requestId")) else {
            return self.outbox.count("cancel-without-id", now);
        };
        let Ok(id) = Id::parse(id) else {
            return self.outbox.count("cancel-without-id", now);
        };
        let key = id.key();
        if let Some(call) = self.calls.of_client(&key) {
            self.cancel(call, now);
        } else if self.drives.has(&key) {
            self.cancel_drive(&key, now);
        } else if self.listens.has(&key) {
            self.end_listen(&key, now);
        } else if self.links.forget(&key) {
            self.outbox.count("cancelled-early", now);
        } else if let Some(first) = &mut self.front.first {
            first.lines.retain(|(waiting, _)| *waiting != key);
        }
        // an unknown id is that of a request answered in the meantime
    }

    /// The number of the client's context.
    pub(super) fn client_context(&mut self, asker: &Asker<'_>, now: &Now) -> ContextId {
        let (info, protocol) = match (&asker.claim, &self.front.introduction) {
            (Some(claim), _) => (claim.info.unwrap_or("{}"), asker.era.revision()),
            (None, Some(own)) => (own.info.as_str(), asker.era.revision()),
            (None, None) => ("{}", asker.era.revision()),
        };
        if let Some((text, revision, id)) = &self.front.known
            && text == info
            && *revision == protocol
        {
            return *id;
        }
        let (name, version) = named(info);
        let session = self.front.session.clone();
        let context = |name, version| Context::Client {
            name,
            version,
            protocol: protocol.as_str().to_owned(),
            session: session.clone(),
        };
        let info = info.to_owned();
        let id = self.outbox.strange_context(
            context(name, version),
            || context(String::new(), String::new()),
            now,
        );
        self.front.known = Some((info, protocol, id));
        self.moved = true;
        id
    }

    /// The client's context for what is not a request of its.
    pub(super) fn last_client_context(&mut self, now: &Now) -> ContextId {
        if let Some((_, _, id)) = &self.front.known {
            return *id;
        }
        let era = self.front.era().unwrap_or(Era::Stateless);
        self.client_context(&Asker::unclaimed(era), now)
    }

    /// The client is gone or we are told to end: settles what is open.
    pub(super) fn client_closed(&mut self, now: &Now) {
        self.closing = true;
        self.front.first = None;
        self.forget_parks(None, now);
        for call in self.calls.select(|_, _| true) {
            self.abandon(call, now);
        }
        self.abandon_drives(now);
        self.forget_asks(None, now);
        self.end_listens();
        self.end_links(now);
        self.outbox.flush(now, true);
        if self.outbox.settled() {
            self.outbox.push(Output::Done);
        } else {
            self.outbox.hold(Held::Done);
        }
    }

    /// The requests whose name may be `mcpshim_status`.
    pub(super) fn is_status(method: Method, name: &str) -> bool {
        method == Method::Tool && name == STATUS_TOOL
    }
}

/// Name and version of an implementation that introduces itself, bounded.
fn named(info: &str) -> (String, String) {
    let object = Object::parse(info).ok();
    let field = |key| {
        let text = object.as_ref().and_then(|object| object.text(key));
        text.unwrap_or_default().chars().take(128).collect()
    };
    (field("name"), field("version"))
}

/// The page that a cursor of ours means; `None` for one of another snapshot or another's.
fn cursor_index(token: &str, snapshot: u64) -> Option<usize> {
    let text = raw::string(token)?;
    let (of, index) = text.split_once('.')?;
    (of.parse() == Ok(snapshot)).then_some(())?;
    index.parse().ok()
}
