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
//! HTTP+SSE of 2024-11-05 is spoken where the entry says so, and where a server refuses Streamable
//! HTTP as the specification says that an older one does: everything comes by one GET stream, whose
//! first event names where messages are posted, at the same origin. The address and the credential's place come from the
//! signed registry; redirects are not followed, so the credential goes to that address only.

mod coding;
mod exchange;
mod phrase;
mod pool;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use url::{Position, Url};

pub use self::exchange::unanswered;
use self::exchange::{Note, Over, Post, Purpose, Shared, What, messages};
use self::pool::Pool;
use super::{Heard, PipeEvent, SpawnError};
use crate::fetch::Dialer;
use crate::limits;
use crate::registry::doc::{Inject, ServerDoc, Transport};
use crate::secret::Secret;
use crate::session::{Loss, Place};
use crate::wire::http::{self, Headers, Mirrored, Parcel, headers};
use crate::wire::line::LineFault;
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
    /// As many requests at once, subscriptions aside: each may hold a connection, and a server can
    /// leave them open that are settled.
    most: usize,
    next: u64,
    /// What a server of the handshake era gets with every request after `initialize`.
    stamp: Arc<HeaderMap>,
    /// Arguments that go into headers too. The session says it, from the surface that it compared:
    /// nothing is learned from what a server sends here.
    mirrored: Headers,
    /// `initialize` was sent: only a server of the handshake era is given answers.
    handshake: bool,
    /// Lines that wait until `notifications/initialized` was taken, or until it is known where
    /// they go.
    held: Option<VecDeque<Bytes>>,
    /// Set where HTTP+SSE is spoken, or tried.
    older: Option<Older>,
    /// `initialize`, while it is not answered.
    opening: Bytes,
    lines: VecDeque<(Place, Result<Bytes, LineFault>)>,
    line: Bytes,
    events: VecDeque<PipeEvent>,
}

/// What is known of a server of HTTP+SSE.
#[derive(Debug, Default)]
struct Older {
    /// It was so the last time, and need not be so any more.
    guess: bool,
    /// Where messages go.
    endpoint: Option<Uri>,
    /// The `initialize` that was refused before, and how.
    refused: Option<(u64, Loss)>,
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
    /// `subscriptions/listen`.
    Listen,
    /// Everything that comes by HTTP+SSE.
    Older,
    Other,
    /// The GET stream.
    Stream,
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
    /// Makes the link to a server; nothing is sent yet, but to one of HTTP+SSE (its entry says
    /// so, or it was `known_older` the last time), whose stream is asked for.
    ///
    /// # Errors
    /// [`SpawnError`] when the entry is not one of an HTTP server, its address must not be used
    /// or the credential cannot be a header.
    pub fn open(
        dialer: Dialer,
        server: &ServerDoc,
        secret: Option<&Secret>,
        known_older: bool,
    ) -> Result<Self, SpawnError> {
        let Transport::Http {
            url, legacy_sse, ..
        } = &server.transport
        else {
            return Err(SpawnError::Transport);
        };
        let url = address(url)?;
        let unfit = || SpawnError::Address("is not one of HTTP");
        let target = exchange::requested(&url).ok_or_else(unfit)?;
        let host = &url[Position::BeforeHost..Position::AfterPort];
        let host = HeaderValue::from_str(host).ok().ok_or_else(unfit)?;
        let origin = &url[..Position::BeforePath];
        let origin = format!("{origin}/").parse().ok().ok_or_else(unfit)?;
        let credential = match (&server.credential, secret) {
            (Some(doc), Some(secret)) => Some(injected(&doc.inject, secret)?),
            (Some(_), None) => return Err(SpawnError::Credential("is not there")),
            (None, _) => None,
        };
        let (sender, notes) = mpsc::channel(LINES);
        let mut remote = Self {
            shared: Arc::new(Shared {
                pool: Pool::new(dialer, origin),
                url,
                target,
                host,
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
                .saturating_add(OWN),
            next: 0,
            stamp: Arc::default(),
            mirrored: Headers::new(),
            handshake: false,
            held: None,
            older: None,
            opening: Bytes::new(),
            lines: VecDeque::new(),
            line: Bytes::new(),
            events: VecDeque::new(),
        };
        if *legacy_sse || known_older {
            let older = Older {
                guess: !legacy_sse,
                ..Older::default()
            };
            remote.speak_older(older, VecDeque::new());
        }
        remote.events.push_back(PipeEvent::Started);
        Ok(remote)
    }

    /// Whether HTTP+SSE is spoken.
    #[must_use]
    pub fn is_older(&self) -> bool {
        let older = self.older.as_ref();
        older.is_some_and(|older| older.endpoint.is_some())
    }

    /// Asks for the stream of HTTP+SSE; lines wait until it says where they go.
    fn speak_older(&mut self, older: Older, held: VecDeque<Bytes>) {
        self.older = Some(older);
        self.held = Some(held);
        let stream = exchange::older(
            Arc::clone(&self.shared),
            exchange::Tell::new(self.next, self.sender.clone(), &self.shared),
        );
        self.start(stream, Kind::Older, None, false, 0);
    }

    /// Puts these arguments into headers too from now on, and no others.
    pub fn mirror(&mut self, headers: Headers) {
        self.mirrored = headers;
    }

    // ---- up

    /// Sends a line, newline included.
    pub fn push(&mut self, line: Bytes) {
        let line = match line.strip_suffix(b"\n") {
            Some(body) => line.slice_ref(body),
            None => line,
        };
        let Some(held) = &mut self.held else {
            return self.deliver(line);
        };
        let waiting: usize = held.iter().map(Bytes::len).sum();
        if waiting + line.len() <= limits::LINK_QUEUE_BYTES {
            return held.push_back(line);
        }
        let (kind, id) = match Message::parse(&line).map(|message| Parcel::of(&message)) {
            Ok(parcel) if parcel.method.is_none() => (Kind::Answer, None),
            Ok(parcel) => (Kind::Other, parcel.id),
            Err(_) => (Kind::Other, None),
        };
        let why = format!("is not ready, and {waiting} bytes wait for it; wait for it");
        self.refuse(kind, id, &why);
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
            Some("subscriptions/listen") => Kind::Listen,
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
                // its answer comes by the stream
                None if self.older.is_some() => {}
                // over already
                None => return,
                // MCP 2026-07-28, cancellation: closing the stream says it
                Some((serial, true)) => return drop(self.open.remove(&serial)),
                Some((serial, false)) => kind = Kind::Cancel(serial),
            }
        }
        if let Some(many) = self.too_many(kind, parcel.id) {
            if let Kind::Cancel(other) = kind {
                self.open.remove(&other);
            }
            let why = format!("does not end {many} of its answers; wait for it");
            return self.refuse(kind, parcel.id, &why);
        }
        let waiting: usize = self.open.values().map(|open| open.bytes).sum();
        if waiting + line.len() > limits::LINK_QUEUE_BYTES && waiting > 0 {
            let why = format!("has not answered requests of {waiting} bytes; wait for it");
            return self.refuse(kind, parcel.id, &why);
        }
        let stateless = parcel.stateless.is_some();
        let stamp = match (stateless, kind) {
            (true, _) | (_, Kind::Initialize) => Arc::default(),
            (false, _) => Arc::clone(&self.stamp),
        };
        let repeated = repeated.into_iter().filter_map(|(name, value)| {
            let value = HeaderValue::try_from(value).ok()?;
            Some((header(&name)?, value))
        });
        let repeated = repeated.collect();
        match kind {
            Kind::Initialize => {
                self.stamp = Arc::default();
                self.handshake = true;
                self.opening = line.clone();
            }
            Kind::Initialized => self.held = Some(VecDeque::new()),
            Kind::Answer
            | Kind::Cancel(_)
            | Kind::Listen
            | Kind::Older
            | Kind::Other
            | Kind::Stream => {}
        }
        let post = Post {
            id: parcel.id,
            purpose: match kind {
                Kind::Answer => Purpose::Answer,
                Kind::Initialize => Purpose::Initialize,
                Kind::Other if parcel.method.as_deref() == Some("server/discover") => {
                    Purpose::Probe
                }
                Kind::Cancel(_)
                | Kind::Initialized
                | Kind::Listen
                | Kind::Older
                | Kind::Other
                | Kind::Stream => Purpose::Other,
            },
            resumable: !stateless,
            endpoint: self.older.as_ref().and_then(|o| o.endpoint.clone()),
            stamp,
            repeated,
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

    /// How many exchanges of this sort are open, if that is too many for one more.
    fn too_many(&self, kind: Kind, id: Option<u64>) -> Option<usize> {
        let (most, like): (usize, fn(&Open) -> bool) = match (kind, id) {
            // one more is the link's own
            (Kind::Listen, _) => (limits::SUBSCRIPTIONS + 1, |open| open.kind == Kind::Listen),
            (_, Some(_)) => (self.most, |open| {
                open.id.is_some() && open.kind != Kind::Listen
            }),
            (Kind::Older | Kind::Stream, None) => return None,
            (_, None) => (limits::HTTP_NOTES, |open| {
                open.id.is_none() && !matches!(open.kind, Kind::Older | Kind::Stream)
            }),
        };
        let many = self.open.values().filter(|open| like(open)).count();
        (many >= most).then_some(many)
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
            // boxed: it is some kilobytes, which the runtime would move about
            _task: Task(tokio::spawn(Box::pin(task)).abort_handle()),
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

    /// The next line without its newline, and where it came.
    pub fn next_line(&mut self) -> Option<Heard<'_>> {
        let Some((place, line)) = self.lines.pop_front() else {
            // a large one is not kept until the next comes
            self.line = Bytes::new();
            return None;
        };
        let line = match line {
            Ok(line) => {
                self.line = line;
                Ok(&self.line[..])
            }
            Err(fault) => Err(fault),
        };
        Some(Heard { place, line })
    }

    /// [`PipeEvent::Over`], where it is the next event: a turn of the loop less.
    pub fn next_over(&mut self) -> Option<PipeEvent> {
        let is_over = |event: &mut PipeEvent| matches!(event, PipeEvent::Over { .. });
        self.lines
            .is_empty()
            .then(|| self.events.pop_front_if(is_over))?
    }

    fn take(&mut self, Note { serial, what }: Note) {
        // one that was dropped may have left a note
        let Some(open) = self.open.get(&serial) else {
            return;
        };
        let (kind, id) = (open.kind, open.id);
        let place = match (kind, id) {
            (Kind::Older, _) => Place::Only,
            (_, Some(id)) => Place::Answer(id),
            (_, None) => Place::News,
        };
        match what {
            What::Endpoint(endpoint) => {
                if let Some(older) = &mut self.older {
                    older.endpoint = Some(endpoint);
                    for line in self.held.take().into_iter().flatten() {
                        self.push(line);
                    }
                }
            }
            What::Fault(bytes) => {
                let fault = LineFault::TooLong { bytes };
                self.lines.push_back((place, Err(fault)));
            }
            What::Head(session) => {
                if let (Kind::Initialize, Some(session), None) = (kind, session, &self.older)
                    && session.len() <= STAMP_BYTES
                {
                    Arc::make_mut(&mut self.stamp).insert("mcp-session-id", session);
                }
                if let Some(open) = self.open.get_mut(&serial) {
                    open.bytes = 0;
                }
            }
            What::Line(line, _weight) => self.line(kind, place, line),
            What::Over(over) => {
                self.open.remove(&serial);
                match kind {
                    Kind::Cancel(other) => drop(self.open.remove(&other)),
                    Kind::Initialized => self.initialized(),
                    Kind::Answer
                    | Kind::Initialize
                    | Kind::Listen
                    | Kind::Older
                    | Kind::Other
                    | Kind::Stream => {}
                }
                let loss = match over {
                    Over::Answered => None,
                    Over::Body(body, _weight) => {
                        for message in messages(&body) {
                            self.line(kind, place, message);
                        }
                        let over = id.map(|id| PipeEvent::Over { id, body });
                        return self.events.extend(over);
                    }
                    Over::Lost(loss) | Over::Doubted(loss, _) if kind == Kind::Older => {
                        return self.older_over(loss);
                    }
                    Over::Lost(loss) => Some(loss),
                    Over::Doubted(loss, doubtful) => {
                        let doubted = id.map(|id| PipeEvent::Doubted { id, loss, doubtful });
                        return self.events.extend(doubted);
                    }
                    Over::Older(loss) => {
                        let older = Older {
                            refused: id.map(|id| (id, loss)),
                            ..Older::default()
                        };
                        let opening = std::mem::take(&mut self.opening);
                        return self.speak_older(older, VecDeque::from([opening]));
                    }
                    Over::SessionGone(said) => {
                        self.stamp = Arc::default();
                        let said = phrase::says(said.as_deref());
                        let forgotten = PipeEvent::Forgotten { met: id, said };
                        return self.events.push_back(forgotten);
                    }
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
            }
        }
    }

    /// A message came.
    fn line(&mut self, kind: Kind, place: Place, line: Bytes) {
        match kind {
            Kind::Initialize => self.learn_version(place.during(), &line),
            Kind::Answer
            | Kind::Cancel(_)
            | Kind::Initialized
            | Kind::Listen
            | Kind::Older
            | Kind::Other
            | Kind::Stream => {}
        }
        self.lines.push_back((place, Ok(line)));
    }

    /// The stream of HTTP+SSE is over, or there is none.
    fn older_over(&mut self, loss: Loss) {
        let older = self.older.take().unwrap_or_default();
        let held = self.held.take();
        if older.guess && older.endpoint.is_none() {
            // it speaks otherwise by now: as to a server that nothing is known of
            for line in held.into_iter().flatten() {
                self.push(line);
            }
            return;
        }
        match older.refused.filter(|_| older.endpoint.is_none()) {
            Some((id, refused)) => {
                let reason = phrase::neither(&refused.reason, &loss.reason);
                let loss = Loss { reason, ..refused };
                self.events.push_back(PipeEvent::Lost { id, loss });
            }
            None => self.events.push_back(PipeEvent::Ended(loss.reason)),
        }
    }

    /// The server knows that the handshake is done: what waited goes, and its news are listened to.
    fn initialized(&mut self) {
        for line in self.held.take().into_iter().flatten() {
            self.push(line);
        }
        if self.older.is_some() {
            return;
        }
        let stream = exchange::stream(
            Arc::clone(&self.shared),
            Arc::clone(&self.stamp),
            exchange::Tell::new(self.next, self.sender.clone(), &self.shared),
        );
        self.start(stream, Kind::Stream, None, false, 0);
    }

    /// MCP 2025-06-18 and later, protocol version header: from the answer itself, and from nothing
    /// else that comes on its stream.
    fn learn_version(&mut self, asked: Option<u64>, line: &[u8]) {
        #[derive(Deserialize)]
        struct Answer {
            id: Value,
            result: Initialized,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Initialized {
            protocol_version: String,
        }
        if let Ok(answer) = serde_json::from_slice::<Answer>(line)
            && asked.is_none_or(|id| answer.id == id || answer.id.as_str() == Some(&id.to_string()))
            && answer.result.protocol_version.len() <= STAMP_BYTES
            && let Ok(version) = HeaderValue::try_from(answer.result.protocol_version)
        {
            Arc::make_mut(&mut self.stamp).insert("mcp-protocol-version", version);
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

/// The name of a header that repeats a part of a message.
fn header(name: &str) -> Option<HeaderName> {
    Some(match name {
        http::METHOD => HeaderName::from_static("mcp-method"),
        http::NAME => HeaderName::from_static("mcp-name"),
        http::VERSION => HeaderName::from_static("mcp-protocol-version"),
        argument => HeaderName::try_from(argument).ok()?,
    })
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
