//! Upstream servers behind an address: Streamable HTTP of both eras, as a client.
//!
//! Every line becomes one POST, on a task of its own, and every message of its answer becomes a
//! line; the session machine sees what it sees of a child process. What HTTP adds stays here:
//!
//! | | handshake era | stateless era |
//! |---|---|---|
//! | headers | session and version, after `initialize` | version, method, name, annotated arguments |
//! | taking a request back | `notifications/cancelled` is sent | its answer is dropped |
//! | an answer that breaks off | resumed by its last event's id | lost |
//! | news that belong to no request | a GET stream | the answer of `subscriptions/listen` |
//! | the end | DELETE | nothing |
//!
//! HTTP+SSE of 2024-11-05 is not spoken. The address and the credential's place come from the
//! signed registry; redirects are not followed, so the credential goes to that address only.

mod exchange;
mod phrase;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use self::exchange::{Note, Over, Post, Shared, What};
use super::{PipeEvent, SpawnError};
use crate::limits;
use crate::registry::doc::{Inject, ServerDoc, Transport};
use crate::secret::Secret;
use crate::session::{Loss, Reach};
use crate::wire::http::{AnnotationError, Mirrored, Parcel, headers};
use crate::wire::msg::Message;

/// Exchanges of the link's own at once: lists, the stream of news, notifications.
const OWN: usize = 16;
/// Lines taken from the tasks at once.
const LINES: usize = 32;
/// Longest session id and version that are sent back, in bytes.
const STAMP_BYTES: usize = 1024;

/// Tells a server that its session is over. It may be dropped at any time.
pub type Farewell = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server behind an address. Dropping it drops every exchange under way.
#[derive(Debug)]
pub struct Remote {
    shared: Arc<Shared>,
    notes: mpsc::Receiver<Note>,
    sender: mpsc::Sender<Note>,
    open: BTreeMap<u64, Open>,
    /// As many exchanges at once: each may hold a connection, and a server can leave them open
    /// that are settled.
    most: usize,
    next: u64,
    /// What a server of the handshake era gets with every request after `initialize`.
    stamp: HeaderMap,
    /// Arguments that go into headers too, as the server's own lists say. No call is sent before
    /// they were compared with the pin.
    mirrored: BTreeMap<String, Result<Mirrored, AnnotationError>>,
    /// `initialize` was sent: only a server of the handshake era is given answers.
    handshake: bool,
    /// Lines that wait until `notifications/initialized` was taken.
    held: Option<VecDeque<Bytes>>,
    /// Each with the request on whose answer's stream it came.
    lines: VecDeque<(Option<u64>, Bytes)>,
    line: Bytes,
    events: VecDeque<PipeEvent>,
}

/// One exchange under way.
#[derive(Debug)]
struct Open {
    _task: Task,
    kind: Kind,
    id: Option<u64>,
    stateless: bool,
    /// How long its body is.
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Answers a question of the server's.
    Answer,
    /// Tells of the end of another exchange, which is dropped afterwards.
    Cancel(u64),
    Initialize,
    Initialized,
    Other,
    /// The GET stream.
    Stream,
    ToolsList,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Remote {
    /// Makes the link to a server; nothing is sent yet. `client` must not follow redirects.
    ///
    /// # Errors
    /// [`SpawnError`] when the entry is not one of an HTTP server, its address must not be used
    /// or the credential cannot be a header.
    pub fn open(
        client: reqwest::Client,
        server: &ServerDoc,
        secret: Option<&Secret>,
    ) -> Result<Self, SpawnError> {
        let Transport::Http { url, .. } = &server.transport else {
            return Err(SpawnError::Transport);
        };
        let url = address(url)?;
        let credential = match (&server.credential, secret) {
            (Some(doc), Some(secret)) => Some(injected(&doc.inject, secret)?),
            (Some(_), None) => return Err(SpawnError::Credential("is not there")),
            (None, _) => None,
        };
        let (sender, notes) = mpsc::channel(LINES);
        let mut remote = Self {
            shared: Arc::new(Shared {
                client,
                url,
                credential,
                server: server.key.clone(),
                credential_id: server.credential.as_ref().map(|doc| doc.id.clone()),
                held: AtomicUsize::new(0),
            }),
            notes,
            sender,
            open: BTreeMap::new(),
            most: usize::try_from(server.limits.in_flight)
                .unwrap_or(usize::MAX)
                .saturating_mul(2)
                .saturating_add(limits::SUBSCRIPTIONS + OWN),
            next: 0,
            stamp: HeaderMap::new(),
            mirrored: BTreeMap::new(),
            handshake: false,
            held: None,
            lines: VecDeque::new(),
            line: Bytes::new(),
            events: VecDeque::new(),
        };
        remote.events.push_back(PipeEvent::Started);
        Ok(remote)
    }

    // ---- up

    /// Sends a line, newline included.
    pub fn push(&mut self, line: Bytes) {
        let line = match line.strip_suffix(b"\n") {
            Some(body) => line.slice_ref(body),
            None => line,
        };
        match &mut self.held {
            Some(held) => held.push_back(line),
            None => self.deliver(line),
        }
    }

    fn deliver(&mut self, line: Bytes) {
        let message = match Message::parse(&line) {
            Ok(message) => message,
            Err(rejected) => {
                // we wrote it ourselves
                tracing::error!(fault = %rejected.fault, "A line was not sent.");
                let id = rejected.id.as_deref().and_then(|id| id.parse().ok());
                return self.refuse(Kind::Other, id, "was not sent what cannot be read");
            }
        };
        let parcel = Parcel::of(&message);
        let none = Mirrored::default();
        let mirrored = match parcel
            .tool
            .as_ref()
            .and_then(|tool| self.mirrored.get(tool))
        {
            None => &none,
            Some(Ok(mirrored)) => mirrored,
            Some(Err(error)) => {
                let why = format!("must not be called with this tool over HTTP: {error}");
                return self.refuse(Kind::Other, parcel.id, &why);
            }
        };
        let repeated = match headers(&message, mirrored) {
            Ok(repeated) => repeated,
            Err(error) => return self.refuse(Kind::Other, parcel.id, &error.to_string()),
        };
        let mut kind = match parcel.method.as_deref() {
            Some("initialize") => Kind::Initialize,
            Some("notifications/initialized") => Kind::Initialized,
            Some("tools/list") => Kind::ToolsList,
            Some(_) => Kind::Other,
            None => Kind::Answer,
        };
        if kind == Kind::Answer && !self.handshake {
            // MCP 2026-07-28, transports: servers ask nothing there, and nobody answers
            tracing::debug!(server = %self.shared.server, "A question out of turn is not answered.");
            return;
        }
        if let Some(id) = parcel.cancels {
            let taken = self.open.iter().find(|(_, open)| open.id == Some(id));
            match taken.map(|(serial, open)| (*serial, open.stateless)) {
                // over already
                None => return,
                // MCP 2026-07-28, cancellation: closing the stream says it
                Some((serial, true)) => return drop(self.open.remove(&serial)),
                Some((serial, false)) => kind = Kind::Cancel(serial),
            }
        }
        if self.open.len() >= self.most {
            if let Kind::Cancel(other) = kind {
                self.open.remove(&other);
            }
            let why = format!(
                "does not end {} of its answers; wait for it",
                self.open.len()
            );
            return self.refuse(kind, parcel.id, &why);
        }
        let waiting: usize = self.open.values().map(|open| open.bytes).sum();
        if waiting + line.len() > limits::LINK_QUEUE_BYTES && waiting > 0 {
            let why = format!("has not answered requests of {waiting} bytes; wait for it");
            return self.refuse(kind, parcel.id, &why);
        }
        let stateless = parcel.stateless.is_some();
        let mut stamp = match (stateless, kind) {
            (true, _) | (_, Kind::Initialize) => HeaderMap::new(),
            (false, _) => self.stamp.clone(),
        };
        for (name, value) in repeated {
            let name = HeaderName::try_from(name);
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                stamp.insert(name, value);
            }
        }
        match kind {
            Kind::Initialize => {
                self.stamp.clear();
                self.handshake = true;
            }
            Kind::Initialized => self.held = Some(VecDeque::new()),
            Kind::ToolsList if stateless && !line_has_cursor(&message) => self.mirrored.clear(),
            Kind::Answer | Kind::Cancel(_) | Kind::Other | Kind::Stream | Kind::ToolsList => {}
        }
        let post = Post {
            id: parcel.id,
            answer: kind == Kind::Answer,
            probe: parcel.method.as_deref() == Some("server/discover"),
            initialize: kind == Kind::Initialize,
            resumable: !stateless,
            stamp,
            body: line,
        };
        let bytes = post.body.len();
        let (serial, id) = (self.next, post.id);
        let task = exchange::post(
            Arc::clone(&self.shared),
            post,
            exchange::Tell::new(serial, self.sender.clone(), &self.shared),
        );
        self.start(task, kind, id, stateless, bytes);
    }

    fn start(
        &mut self,
        task: impl Future<Output = ()> + Send + 'static,
        kind: Kind,
        id: Option<u64>,
        stateless: bool,
        bytes: usize,
    ) {
        let open = Open {
            _task: Task(tokio::spawn(task).abort_handle()),
            kind,
            id,
            stateless,
            bytes,
        };
        self.open.insert(self.next, open);
        self.next += 1;
    }

    /// Does not send a line.
    fn refuse(&mut self, kind: Kind, id: Option<u64>, why: &str) {
        let loss = Loss::not_sent(why);
        if let Some(id) = id {
            self.events.push_back(PipeEvent::Lost { id, loss });
        } else if kind == Kind::Answer {
            self.events.push_back(PipeEvent::Unheard(loss));
        }
    }

    // ---- down

    /// The next thing that comes. `read` is false while nobody has room for its lines.
    pub fn poll_event(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<PipeEvent> {
        while read && self.lines.len() < LINES {
            match self.notes.poll_recv(cx) {
                Poll::Ready(Some(note)) => self.take(note),
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if !self.lines.is_empty() {
            return Poll::Ready(PipeEvent::Read);
        }
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }

    /// The next line without its newline, and the request on whose answer's stream it came: none
    /// for the server's news.
    pub fn next_line(&mut self) -> Option<(Option<u64>, &[u8])> {
        let (during, line) = self.lines.pop_front()?;
        self.line = line;
        Some((during, &self.line))
    }

    fn take(&mut self, Note { serial, what }: Note) {
        // one that was dropped may have left a note
        let Some(open) = self.open.get(&serial) else {
            return;
        };
        let (kind, id, stateless) = (open.kind, open.id, open.stateless);
        match what {
            What::Head(session) => {
                if let (Kind::Initialize, Some(session)) = (kind, session)
                    && session.len() <= STAMP_BYTES
                {
                    self.stamp.insert("mcp-session-id", session);
                }
                if let Some(open) = self.open.get_mut(&serial) {
                    open.bytes = 0;
                }
            }
            What::Line(line, _weight) => {
                match kind {
                    Kind::Initialize => self.learn_version(&line),
                    Kind::ToolsList if stateless => self.learn_headers(&line),
                    Kind::Answer
                    | Kind::Cancel(_)
                    | Kind::Initialized
                    | Kind::Other
                    | Kind::Stream
                    | Kind::ToolsList => {}
                }
                self.lines.push_back((id, line));
            }
            What::Over(over) => {
                self.open.remove(&serial);
                match kind {
                    Kind::Cancel(other) => drop(self.open.remove(&other)),
                    Kind::Initialized => self.initialized(),
                    Kind::Answer
                    | Kind::Initialize
                    | Kind::Other
                    | Kind::Stream
                    | Kind::ToolsList => {}
                }
                let gone = over == Over::SessionGone;
                let loss = match over {
                    Over::Answered => None,
                    Over::Lost(loss) => Some(loss),
                    // MCP 2025-11-25, session management: it was not executed
                    Over::SessionGone => Some(Loss {
                        reach: Reach::Refused(404),
                        reason: "does not know this session any more, so it did not take the \
                                 call; call again"
                            .to_owned(),
                        pause_ms: None,
                        broken: false,
                    }),
                };
                match (id, loss) {
                    (Some(id), Some(loss)) => {
                        self.events.push_back(PipeEvent::Lost { id, loss });
                    }
                    (None, Some(loss)) if kind == Kind::Answer => {
                        self.events.push_back(PipeEvent::Unheard(loss));
                    }
                    (_, _) => {}
                }
                if gone {
                    self.stamp.clear();
                    let reason = "does not know the session any more".to_owned();
                    self.events.push_back(PipeEvent::Ended(reason));
                }
            }
        }
    }

    /// The server knows that the handshake is done: what waited goes, and its news are listened to.
    fn initialized(&mut self) {
        for line in self.held.take().into_iter().flatten() {
            self.push(line);
        }
        let stream = exchange::stream(
            Arc::clone(&self.shared),
            self.stamp.clone(),
            exchange::Tell::new(self.next, self.sender.clone(), &self.shared),
        );
        self.start(stream, Kind::Stream, None, false, 0);
    }

    /// MCP 2025-06-18 and later, protocol version header.
    fn learn_version(&mut self, line: &[u8]) {
        #[derive(Deserialize)]
        struct Answer {
            result: Initialized,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Initialized {
            protocol_version: String,
        }
        if let Ok(answer) = serde_json::from_slice::<Answer>(line)
            && answer.result.protocol_version.len() <= STAMP_BYTES
            && let Ok(version) = HeaderValue::try_from(answer.result.protocol_version)
        {
            self.stamp.insert("mcp-protocol-version", version);
        }
    }

    fn learn_headers(&mut self, line: &[u8]) {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            result: Page<'a>,
        }
        #[derive(Deserialize)]
        struct Page<'a> {
            #[serde(borrow)]
            tools: Vec<&'a RawValue>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tool {
            name: String,
            #[serde(default)]
            input_schema: Value,
        }
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(line) else {
            return;
        };
        for tool in answer.result.tools {
            if !tool.get().contains("x-mcp-header") {
                continue;
            }
            let Ok(tool) = serde_json::from_str::<Tool>(tool.get()) else {
                continue;
            };
            if self.mirrored.len() < limits::TOOLS_PER_SERVER {
                let mirrored = Mirrored::of(&tool.input_schema);
                self.mirrored.insert(tool.name, mirrored);
            }
        }
    }

    /// Ends it: exchanges under way are dropped. A session of the handshake era is said to be
    /// over, while the future is driven.
    #[must_use]
    pub fn stop(mut self: Box<Self>) -> Option<Farewell> {
        self.open.clear();
        self.stamp.contains_key("mcp-session-id").then(|| {
            let stamp = std::mem::take(&mut self.stamp);
            let farewell = exchange::farewell(Arc::clone(&self.shared), stamp);
            Box::pin(farewell) as Farewell
        })
    }
}

fn line_has_cursor(message: &Message<'_>) -> bool {
    let params = match message {
        Message::Request(request) => request.params.as_ref(),
        Message::Notification(_) | Message::Response(_) => None,
    };
    params.is_some_and(|params| params.object.get("cursor").is_some())
}

/// Where the server is.
fn address(url: &str) -> Result<Url, SpawnError> {
    let url = Url::parse(url)
        .ok()
        .ok_or(SpawnError::Address("is not a URL"))?;
    let loopback = match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    };
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err(SpawnError::Address("holds a credential"))
        }
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err(SpawnError::Address("is not https, and not on this machine")),
        _ => Err(SpawnError::Address("is not https")),
    }
}

/// The header a credential goes into. Never printed: it is marked as sensitive.
fn injected(inject: &Inject, secret: &Secret) -> Result<(HeaderName, HeaderValue), SpawnError> {
    let unfit = || SpawnError::Credential("has characters that no header can carry");
    let (name, mut value) = match inject {
        Inject::Bearer => {
            let mut text = zeroize::Zeroizing::new(b"Bearer ".to_vec());
            text.extend_from_slice(secret.expose());
            (
                AUTHORIZATION,
                HeaderValue::from_bytes(&text).ok().ok_or_else(unfit)?,
            )
        }
        Inject::Header { name } => {
            let name = HeaderName::try_from(name.as_str())
                .ok()
                .ok_or(SpawnError::Credential("is to go into what is no header"))?;
            let value = HeaderValue::from_bytes(secret.expose())
                .ok()
                .ok_or_else(unfit)?;
            (name, value)
        }
        Inject::Env { .. } => {
            return Err(SpawnError::Credential(
                "is to go into an environment it has not",
            ));
        }
    };
    value.set_sensitive(true);
    Ok((name, value))
}
