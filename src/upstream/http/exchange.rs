//! One exchange: a request goes out, its answer comes back as lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, StatusCode, Uri};
use tokio::sync::mpsc;
use url::{Position, Url};

use super::coding::{Body, BodyError};
use super::phrase::{self, Wants};
use super::pool::{Pool, Reply, SendError};
use crate::fetch;
use crate::ids::{CredentialId, ServerKey};
use crate::limits;
use crate::session::{Loss, Reach};
use crate::wire::http::{answers, flatten, refusal, said};
use crate::wire::msg::{self, Message};
use crate::wire::raw;
use crate::wire::sse::{Parser, Piece};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const EITHER: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// RFC 9110, 12.5.3: whoever says nothing gets any coding.
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const AGENT: HeaderValue = HeaderValue::from_static(fetch::USER_AGENT);
/// Headers of a usual request: the map need not grow.
const HEADERS: usize = 13;

/// What every exchange of one server shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) url: Url,
    /// What of it stands in a request: path and query.
    pub(super) target: Uri,
    /// What of it stands in a header: host and port.
    pub(super) host: HeaderValue,
    pub(super) credential: Option<(HeaderName, HeaderValue)>,
    pub(super) server: ServerKey,
    pub(super) credential_id: Option<CredentialId>,
    /// Bytes of incomplete answers that are held.
    pub(super) held: AtomicUsize,
}

/// What a line is, as far as its refusal means something of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An answer to a question of the server's.
    Answer,
    Initialize,
    Other,
    /// `server/discover`: a refusal tells of the server's era.
    Probe,
}

/// A line to send.
#[derive(Debug)]
pub(super) struct Post {
    /// The id of a request.
    pub(super) id: Option<u64>,
    pub(super) purpose: Purpose,
    /// Of the handshake era.
    pub(super) resumable: bool,
    /// Where it goes in HTTP+SSE; its answer comes by the stream of events then.
    pub(super) endpoint: Option<Uri>,
    pub(super) stamp: Arc<HeaderMap>,
    /// What repeats parts of the body.
    pub(super) repeated: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

/// Something an exchange has to say.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) serial: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Where messages go in HTTP+SSE.
    Endpoint(Uri),
    /// An event that belongs to no request was too long, and was passed over: its size.
    Fault(usize),
    /// The answer begins, with this session.
    Head(Option<HeaderValue>),
    Line(Bytes, Weight),
    /// Nothing more comes.
    Over(Over),
}

#[derive(Debug)]
pub(super) enum Over {
    /// An answer came, or there was nothing to answer.
    Answered,
    /// This is all that came, as JSON.
    Body(Bytes, Weight),
    /// The same of a refusal that may mean that the session is lost: what is told if a new one is
    /// tried.
    Doubted(Loss, String),
    /// There is no answer to come; means nothing where one came.
    Lost(Loss),
    /// Streamable HTTP was refused as a server of HTTP+SSE does.
    Older(Loss),
    /// The server does not know the session, and may say more of it.
    SessionGone(Option<String>),
}

/// A line that nobody has taken yet: it counts with what is held.
#[derive(Debug)]
pub(super) struct Weight {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where an exchange's notes go.
#[derive(Debug)]
pub(super) struct Tell {
    serial: u64,
    sender: mpsc::Sender<Note>,
    shared: Arc<Shared>,
}

impl Tell {
    pub(super) fn new(serial: u64, sender: mpsc::Sender<Note>, shared: &Arc<Shared>) -> Self {
        Self {
            serial,
            sender,
            shared: Arc::clone(shared),
        }
    }

    async fn line(&self, line: Bytes) {
        let weight = self.weight(line.len());
        self.tell(What::Line(line, weight)).await;
    }

    fn weight(&self, bytes: usize) -> Weight {
        let shared = Arc::clone(&self.shared);
        shared.held.fetch_add(bytes, Ordering::Relaxed);
        Weight { shared, bytes }
    }

    async fn tell(&self, what: What) {
        let serial = self.serial;
        // nobody listens any more: the link is gone, and this task with it
        drop(self.sender.send(Note { serial, what }).await);
    }
}

/// Bytes of one incomplete answer, counted with those of the others.
struct Holding<'a> {
    all: &'a AtomicUsize,
    own: usize,
}

impl Holding<'_> {
    /// False when all together are too much.
    fn set(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.own, bytes);
        let all = if bytes >= before {
            let more = bytes - before;
            self.all.fetch_add(more, Ordering::Relaxed) + more
        } else {
            self.all.fetch_sub(before - bytes, Ordering::Relaxed)
        };
        all <= limits::HTTP_HELD_BYTES
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// How a stream of events ended.
enum Ended {
    /// With the answer.
    Answered,
    /// Without.
    Broken(String),
    Lost(Loss),
}

/// What is remembered of a stream, so that it can be opened again.
#[derive(Default)]
struct Place {
    last_id: Option<HeaderValue>,
    retry_ms: Option<u64>,
    /// Events came since it was opened.
    moved: bool,
}

impl Shared {
    /// A request to the server's address, or to the endpoint it named there.
    fn request(
        &self,
        method: Method,
        endpoint: Option<&Uri>,
        stamp: &HeaderMap,
        repeated: &[(HeaderName, HeaderValue)],
        accept: HeaderValue,
        body: Option<Bytes>,
    ) -> Request<Full<Bytes>> {
        let mut headers = HeaderMap::with_capacity(HEADERS);
        headers.insert(HOST, self.host.clone());
        for (name, value) in stamp {
            headers.append(name, value.clone());
        }
        for (name, value) in repeated {
            headers.insert(name, value.clone());
        }
        headers.insert(ACCEPT, accept);
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        headers.insert(USER_AGENT, AGENT);
        let body = body.map_or_else(Full::default, |body| {
            headers.insert(CONTENT_TYPE, JSON);
            Full::new(body)
        });
        // last, so that nothing a server chose can stand in its place
        if let Some((name, value)) = &self.credential {
            headers.insert(name, value.clone());
        }
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = endpoint.unwrap_or(&self.target).clone();
        *request.headers_mut() = headers;
        request
    }

    fn holding(&self) -> Holding<'_> {
        Holding {
            all: &self.held,
            own: 0,
        }
    }

    fn failed(&self, error: &SendError) -> Loss {
        let reach = match error.is_unsent() {
            true => Reach::NotSent,
            false => Reach::Unknown,
        };
        Loss {
            reach,
            reason: phrase::network(error, &self.url),
            pause_ms: None,
            broken: true,
        }
    }
}

/// Sends a line and gives what comes back.
pub(super) async fn post(shared: Arc<Shared>, post: Post, tell: Tell) {
    let exchanged = exchange(&shared, &post, &tell);
    let over = match post.id {
        Some(_) => exchanged.await,
        // nobody waits for the answer to a notification, and so nobody would ever end this
        None => {
            let patience = Duration::from_millis(limits::HTTP_NOTE_MS);
            let over = tokio::time::timeout(patience, exchanged).await;
            over.unwrap_or_else(|_late| match post.purpose {
                Purpose::Answer => Over::Lost(Loss {
                    reach: Reach::Unknown,
                    reason: "did not take it in time".to_owned(),
                    pause_ms: None,
                    broken: true,
                }),
                Purpose::Initialize | Purpose::Other | Purpose::Probe => Over::Answered,
            })
        }
    };
    tell.tell(What::Over(over)).await;
}

async fn exchange(shared: &Shared, post: &Post, tell: &Tell) -> Over {
    let endpoint = post.endpoint.as_ref();
    let sent = Some(post.body.clone());
    let (stamp, repeated) = (&post.stamp, &post.repeated);
    let request = shared.request(Method::POST, endpoint, stamp, repeated, EITHER, sent);
    let response = match shared.pool.send(request).await {
        Ok(response) => response,
        Err(error) => return Over::Lost(shared.failed(&error)),
    };
    if !response.status().is_success() {
        return refused(shared, post, response, tell).await;
    }
    let session = response.headers().get(SESSION).cloned();
    let coming = Coming::of(&response);
    if session.is_some() || coming != Coming::Json {
        tell.tell(What::Head(session)).await;
    }
    if post.endpoint.is_some() {
        drain(response).await;
        return Over::Answered;
    }
    let Some(id) = post.id else {
        return Over::Answered;
    };
    let lost = |reason: String| Loss {
        reach: Reach::Unknown,
        reason,
        pause_ms: None,
        broken: false,
    };
    let status = response.status();
    let body = match Body::of(response) {
        Ok(body) => body,
        Err(why) => return Over::Lost(lost(why)),
    };
    match coming {
        Coming::Json => match whole(shared, body, limits::LINE_BYTES).await {
            Ok(text) => {
                let weight = tell.weight(text.len());
                Over::Body(text, weight)
            }
            Err(loss) => Over::Lost(loss),
        },
        Coming::Events => events(shared, post, id, body, tell).await,
        Coming::Other(other) if other.is_empty() && status != StatusCode::OK => Over::Lost(lost(
            format!("took the request and gave no answer to it ({status})"),
        )),
        Coming::Other(other) => {
            let reason = phrase::not_mcp(&other);
            match in_session(post) {
                true => Over::Doubted(lost(reason.clone()), reason),
                false => Over::Lost(lost(reason)),
            }
        }
    }
}

/// Whether a refusal of it may mean that the server lost its session.
fn in_session(post: &Post) -> bool {
    post.stamp.contains_key(SESSION) || post.endpoint.is_some()
}

/// What a body is said to be.
#[derive(Debug, PartialEq, Eq)]
enum Coming {
    Events,
    Json,
    /// Its type, without parameters; nothing where none is said.
    Other(String),
}

impl Coming {
    fn of(response: &Reply<'_>) -> Self {
        let value = response.headers().get(CONTENT_TYPE);
        let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
        let essence = text.split(';').next().unwrap_or("").trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Self::Json
        } else if essence.eq_ignore_ascii_case("text/event-stream") {
            Self::Events
        } else {
            Self::Other(essence.to_ascii_lowercase())
        }
    }
}

/// Reads what nobody needs, so that the connection can be used again.
async fn drain(mut response: Reply<'_>) {
    let patience = Duration::from_millis(limits::ANSWER_END_MS);
    let rest = async {
        let mut left = limits::REFUSAL_BYTES;
        while let Ok(Some(chunk)) = response.chunk().await {
            match left.checked_sub(chunk.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // too slow, or too long: the connection is closed instead
    drop(tokio::time::timeout(patience, rest).await);
}

/// Reads a body up to a bound, as one line.
async fn whole(shared: &Shared, mut body: Body<'_>, bound: usize) -> Result<Bytes, Loss> {
    let lost = |reason: String, broken| Loss {
        reach: Reach::Unknown,
        reason,
        pause_ms: None,
        broken,
    };
    let mut holding = shared.holding();
    let length = body.length().and_then(|len| usize::try_from(len).ok());
    let mut text = Vec::new();
    loop {
        match body.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) => {
                if text.len() + chunk.len() > bound {
                    let why = format!("gave an answer of more than {bound} bytes; ask for less");
                    return Err(lost(why, false));
                }
                if text.is_empty() {
                    let believed = bound.min(limits::BODY_BELIEVED_BYTES);
                    text.reserve_exact(length.unwrap_or(0).min(believed));
                }
                text.extend_from_slice(&chunk);
                if !holding.set(text.len()) {
                    return Err(lost(phrase::too_much(), false));
                }
            }
            Err(error) => return Err(lost(broke(&error), true)),
        }
    }
    flatten(&mut text);
    Ok(Bytes::from(text))
}

fn broke(error: &BodyError) -> String {
    match error {
        BodyError::Broken(error) => phrase::cut_off(error),
        BodyError::Spoilt(coding) => phrase::spoilt(coding),
    }
}

/// The messages of a JSON body: one, or those of an array, which 2025-03-26 lets a server send;
/// none of an array of more than [`limits::HTTP_MESSAGES`].
pub(super) fn messages(body: &Bytes) -> Vec<Bytes> {
    let text = body.trim_ascii();
    if text.first() != Some(&b'[') {
        let one = (!text.is_empty()).then(|| body.slice_ref(text));
        return one.into_iter().collect();
    }
    let elements = std::str::from_utf8(text).ok();
    let most = limits::HTTP_MESSAGES;
    let elements = elements.and_then(|text| raw::elements_up_to(text, most).ok());
    let copied = |one: &str| Bytes::copy_from_slice(one.as_bytes());
    elements.into_iter().flatten().map(copied).collect()
}

/// What a JSON body is that holds no answer to its request.
#[must_use]
pub fn unanswered(body: &[u8]) -> Loss {
    let text = body.trim_ascii();
    let reason = if text.is_empty() {
        "gave an empty answer".to_owned()
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_err() {
        "gave an answer that is not JSON".to_owned()
    } else if text.first() == Some(&b'[') {
        let most = limits::HTTP_MESSAGES;
        format!("gave an array without the answer, or of more than {most} messages")
    } else {
        let error = std::str::from_utf8(text).ok().and_then(|text| {
            let error = raw::Object::parse(text).ok()?.object("error").ok()??;
            Some(error.text("message")?.into_owned())
        });
        let words = phrase::says(error.as_deref());
        format!("answered another request than the one it was sent{words}")
    };
    Loss {
        reach: Reach::Unknown,
        reason,
        pause_ms: None,
        broken: false,
    }
}

/// Reads the events of an answer; one that breaks off is resumed where its era allows.
async fn events(shared: &Shared, post: &Post, id: u64, mut body: Body<'_>, tell: &Tell) -> Over {
    let mut place = Place::default();
    let mut failures = 0;
    loop {
        let of = Stream::Answer(id);
        let reason = match read(shared, body, of, &mut place, tell).await {
            Ended::Answered => return Over::Answered,
            Ended::Lost(loss) => return Over::Lost(loss),
            Ended::Broken(reason) => reason,
        };
        let lost = |reason| {
            Over::Lost(Loss {
                reach: Reach::Unknown,
                reason,
                pause_ms: None,
                broken: true,
            })
        };
        body = loop {
            let Some(last) = place.last_id.clone().filter(|_| post.resumable) else {
                return lost(reason);
            };
            if failures >= limits::RESUME_TRIES {
                return lost(format!("{reason}, and did not take it up again"));
            }
            failures += 1;
            pause(&place, 1).await;
            match resume(shared, &post.stamp, Some(last)).await {
                // servers may close a stream on purpose and be polled (2025-11-25, SSE polling)
                Ok(body_again) => {
                    failures = 0;
                    break body_again;
                }
                Err(Over::Lost(loss)) if loss.broken => {}
                Err(Over::SessionGone(said)) => return Over::SessionGone(said),
                Err(
                    Over::Answered
                    | Over::Body(..)
                    | Over::Doubted(..)
                    | Over::Lost(_)
                    | Over::Older(_),
                ) => return lost(reason),
            }
        };
    }
}

async fn pause(place: &Place, times: u64) {
    let (shortest, longest) = limits::STREAM_PAUSE_MS;
    let pause_ms = place.retry_ms.unwrap_or(1000).saturating_mul(times);
    let pause_ms = pause_ms.clamp(shortest, longest);
    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
}

/// Opens a stream of events by GET: of an answer that broke off, or of news.
async fn resume<'a>(
    shared: &'a Shared,
    stamp: &HeaderMap,
    last_id: Option<HeaderValue>,
) -> Result<Body<'a>, Over> {
    let mut request = shared.request(Method::GET, None, stamp, &[], EVENTS, None);
    if let Some(last) = last_id {
        request.headers_mut().insert(LAST_EVENT, last);
    }
    let response = shared.pool.send(request).await;
    let response = response.map_err(|error| Over::Lost(shared.failed(&error)))?;
    let status = response.status();
    if status == StatusCode::NOT_FOUND && stamp.contains_key(SESSION) {
        return Err(Over::SessionGone(None));
    }
    let reason = match status {
        _ if status.is_success() => match Coming::of(&response) {
            Coming::Events => match Body::of(response) {
                Ok(body) => return Ok(body),
                Err(why) => why,
            },
            Coming::Json => phrase::not_mcp("application/json"),
            Coming::Other(other) => phrase::not_mcp(&other),
        },
        _ if status.is_redirection() => {
            phrase::redirect(status, &shared.url, target(shared, &response).as_ref())
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let (server, credential) = (&shared.server, shared.credential_id.as_ref());
            phrase::credential(status, server, credential, &wants(&response))
        }
        _ => phrase::status(status),
    };
    Err(Over::Lost(Loss {
        reach: Reach::Refused(status.as_u16()),
        reason,
        pause_ms: None,
        broken: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
    }))
}

/// Where a redirect leads.
fn target(shared: &Shared, response: &Reply<'_>) -> Option<Url> {
    let to = response.headers().get(LOCATION)?;
    shared.url.join(to.to_str().ok()?).ok()
}

/// What a refusal says that it wants.
fn wants(response: &Reply<'_>) -> Wants {
    let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    Wants::of(&texts.join(", "))
}

/// What a stream of events is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// The answer to the request with this id.
    Answer(u64),
    /// The server's news.
    News,
    /// All that comes by HTTP+SSE.
    Older,
}

/// Reads one stream to its end, or to the answer and a little further.
async fn read(
    shared: &Shared,
    mut body: Body<'_>,
    of: Stream,
    place: &mut Place,
    tell: &Tell,
) -> Ended {
    let lost = |reason: String| {
        Ended::Lost(Loss {
            reach: Reach::Unknown,
            reason,
            pause_ms: None,
            broken: false,
        })
    };
    let mut holding = shared.holding();
    let mut parser = Parser::new(limits::LINE_BYTES);
    let mut answered = false;
    // set with the answer: a server that goes on afterwards must not keep its connection for ever
    let mut end = None;
    let mut named = of != Stream::Older;
    let patience = Duration::from_millis(limits::ENDPOINT_MS);
    let name_by = tokio::time::Instant::now() + patience;
    let mut pieces = Vec::new();
    // of a body in a coding: what was unpacked since the last message
    let mut unpacked = 0;
    let mut other = None;
    loop {
        let chunk = body.chunk();
        let chunk = if !named {
            match tokio::time::timeout_at(name_by, chunk).await {
                Ok(chunk) => chunk,
                Err(_late) => return lost("does not say where its messages go".to_owned()),
            }
        } else if answered {
            let now = tokio::time::Instant::now();
            let end = *end.get_or_insert(now + Duration::from_millis(limits::ANSWER_END_MS));
            match tokio::time::timeout_at(end, chunk).await {
                Ok(chunk) if now < end => chunk,
                Ok(_) | Err(_) => return Ended::Answered,
            }
        } else {
            chunk.await
        };
        match chunk {
            Ok(None) | Err(_) if answered => return Ended::Answered,
            Ok(None) => {
                return Ended::Broken(match of {
                    Stream::Answer(_) if other.is_some() => {
                        format!("answered another request{}", other.unwrap_or_default())
                    }
                    Stream::Answer(_) => "closed its answer before it was complete".to_owned(),
                    Stream::News | Stream::Older => "closed its stream of events".to_owned(),
                });
            }
            Err(BodyError::Spoilt(coding)) => return lost(phrase::spoilt(coding)),
            Err(error) => return Ended::Broken(broke(&error)),
            Ok(Some(chunk)) => {
                unpacked += if body.is_coded() { chunk.len() } else { 0 };
                parser.push(&chunk, &mut |piece| pieces.push(piece));
            }
        }
        if parser.passed_over() > limits::PASSED_OVER_BYTES {
            return lost(too_long(parser.passed_over()));
        }
        if !holding.set(parser.held_bytes()) {
            return lost(phrase::too_much());
        }
        if unpacked > limits::UNPACKED_BYTES {
            return lost(phrase::unpacks_to_much());
        }
        for piece in pieces.drain(..) {
            match piece {
                Piece::Message(mut data) => {
                    flatten(&mut data);
                    let text = Bytes::from(data);
                    let line = text.slice_ref(text.trim_ascii());
                    if line.is_empty() {
                        continue;
                    }
                    if let Stream::Answer(id) = of {
                        let is_answer = answers(&line, id);
                        answered |= is_answer;
                        if !is_answer && other.is_none() {
                            other = stranger(&line);
                        }
                    }
                    unpacked = 0;
                    place.moved = true;
                    tell.line(line).await;
                }
                Piece::Endpoint(data) if !named => match endpoint(shared, &data) {
                    Ok(endpoint) => {
                        named = true;
                        tell.tell(What::Endpoint(endpoint)).await;
                    }
                    Err(reason) => return lost(reason),
                },
                // one that moves in the middle of a session would take answers elsewhere
                Piece::Endpoint(_) | Piece::Other => {}
                Piece::Retry(ms) => place.retry_ms = Some(ms),
                Piece::TooLong { bytes } => match of {
                    Stream::Answer(_) => return lost(too_long(bytes)),
                    Stream::News | Stream::Older => tell.tell(What::Fault(bytes)).await,
                },
            }
        }
        if let Some(last) = parser.last_id() {
            place.last_id = HeaderValue::from_bytes(last).ok();
        }
    }
}

/// What is told of an answer to something else, on the stream of this one.
fn stranger(line: &[u8]) -> Option<String> {
    // most that is no answer is a notification
    memchr::memmem::find(line, b"\"result\"")
        .or_else(|| memchr::memmem::find(line, b"\"error\""))?;
    match Message::parse(line) {
        Ok(Message::Response(response)) => Some(match response.id {
            Some(id) => format!(" (id {})", crate::text::printable(id.raw())),
            None => phrase::says(said(line).as_deref()),
        }),
        Ok(Message::Notification(_) | Message::Request(_)) | Err(_) => None,
    }
}

fn too_long(bytes: usize) -> String {
    format!(
        "gave an answer of {bytes} bytes, more than {}; ask for less",
        limits::LINE_BYTES
    )
}

/// Where messages go, as an `endpoint` event says: at the same origin, or the credential and what
/// is asked would go to somebody whom nobody approved.
fn endpoint(shared: &Shared, data: &[u8]) -> Result<Uri, String> {
    let text = std::str::from_utf8(data).ok().map(str::trim);
    let text = text.filter(|text| !text.is_empty() && text.len() <= limits::ENDPOINT_BYTES);
    let url = text.and_then(|text| shared.url.join(text).ok());
    let Some(url) = url else {
        return Err(phrase::endpoint(None));
    };
    let named = !url.username().is_empty() || url.password().is_some();
    if named || url.origin() != shared.url.origin() {
        return Err(phrase::endpoint(Some(&url)));
    }
    requested(&url).ok_or_else(|| phrase::endpoint(None))
}

/// What of an address stands in a request; `None` for what HTTP cannot ask for.
pub(super) fn requested(url: &Url) -> Option<Uri> {
    let target = &url[Position::BeforePath..Position::AfterQuery];
    target.parse().ok()
}

/// Everything that comes from a server of HTTP+SSE (MCP 2024-11-05, transports), until it ends.
pub(super) async fn older(shared: Arc<Shared>, tell: Tell) {
    let lost = |reason| Loss {
        reach: Reach::Unknown,
        reason,
        pause_ms: None,
        broken: true,
    };
    let none = HeaderMap::new();
    let loss = match resume(&shared, &none, None).await {
        Err(Over::Lost(loss) | Over::Older(loss)) => loss,
        Err(Over::Answered | Over::Body(..) | Over::Doubted(..) | Over::SessionGone(_)) => {
            lost("gave no stream of events".to_owned())
        }
        Ok(response) => {
            let mut place = Place::default();
            match read(&shared, response, Stream::Older, &mut place, &tell).await {
                Ended::Answered => lost("closed its stream of events".to_owned()),
                Ended::Broken(reason) => lost(reason),
                Ended::Lost(loss) => loss,
            }
        }
    };
    tell.tell(What::Over(Over::Lost(loss))).await;
}

/// The server's news that belong to no request (MCP 2025-03-26 to 2025-11-25), for as long as it
/// offers them.
pub(super) async fn stream(shared: Arc<Shared>, stamp: Arc<HeaderMap>, tell: Tell) {
    let over = news(&shared, &stamp, &tell).await;
    tell.tell(What::Over(over)).await;
}

async fn news(shared: &Shared, stamp: &HeaderMap, tell: &Tell) -> Over {
    let mut place = Place::default();
    let mut times = 0;
    let mut offered = false;
    loop {
        match resume(shared, stamp, place.last_id.clone()).await {
            Ok(response) => {
                offered = true;
                match read(shared, response, Stream::News, &mut place, tell).await {
                    Ended::Answered => {}
                    Ended::Broken(reason) | Ended::Lost(Loss { reason, .. }) => {
                        tracing::debug!(server = %shared.server, reason, "A stream of news ended.");
                    }
                }
            }
            Err(Over::Lost(loss)) if loss.broken => {}
            // a router that knows POST only says so too; if the session is gone, a request is told
            Err(Over::SessionGone(_)) if !offered => return Over::Answered,
            // most often 405: it has none
            Err(over) => return over,
        }
        times = match std::mem::take(&mut place.moved) {
            true => 1,
            false => (times * 2).clamp(1, 1 << 10),
        };
        pause(&place, times).await;
    }
}

/// Says that a session is over.
pub(super) async fn farewell(shared: Arc<Shared>, stamp: Arc<HeaderMap>) {
    let request = shared.request(Method::DELETE, None, &stamp, &[], EITHER, None);
    let patience = Duration::from_millis(limits::FAREWELL_MS);
    if let Ok(Err(error)) = tokio::time::timeout(patience, shared.pool.send(request)).await {
        let why = phrase::network(&error, &shared.url);
        tracing::debug!(server = %shared.server, why, "A session's end was not said.");
    }
}

/// What a refusal holds, as far as it is JSON-RPC.
#[derive(Debug, Default)]
struct Refusal {
    /// The answer to the request, as a line.
    answer: Option<Bytes>,
    /// The error object of one that names no request.
    unnamed: Option<String>,
    /// What either says, where it is an error.
    said: Option<String>,
}

impl Refusal {
    /// Reads what came with a status other than success. It is JSON-RPC whatever its type says it
    /// is: some frameworks send every error as plain text.
    async fn read(shared: &Shared, response: Reply<'_>, id: u64) -> Self {
        let coming = Coming::of(&response);
        let Ok(body) = Body::of(response) else {
            return Self::default();
        };
        let patience = Duration::from_millis(limits::REFUSAL_MS);
        match coming {
            // an answer may be as long here as anywhere
            Coming::Json => whole(shared, body, limits::LINE_BYTES)
                .await
                .map_or_else(|_| Self::default(), |text| Self::of(&text, id)),
            Coming::Other(_) => {
                let text = whole(shared, body, limits::REFUSAL_BYTES);
                match tokio::time::timeout(patience, text).await {
                    Ok(Ok(text)) => Self::of(&text, id),
                    Ok(Err(_)) | Err(_) => Self::default(),
                }
            }
            Coming::Events => {
                let first = Self::of_events(body, id);
                let first = tokio::time::timeout(patience, first).await;
                first.unwrap_or_default()
            }
        }
    }

    fn of(text: &Bytes, id: u64) -> Self {
        let all = messages(text);
        if let Some(answer) = all.iter().find(|line| answers(line, id)) {
            return Self {
                answer: Some(answer.clone()),
                unnamed: None,
                said: said(answer),
            };
        }
        // some leave the id out where they could not read it
        let unnamed = all.iter().find_map(|line| refusal(line, id));
        let message = unnamed
            .as_deref()
            .and_then(|error| raw::Object::parse(error).ok()?.text("message"));
        Self {
            answer: None,
            said: message.map(Into::into),
            unnamed,
        }
    }

    /// The first answer or error among events, up to [`limits::REFUSAL_BYTES`] of them.
    async fn of_events(mut body: Body<'_>, id: u64) -> Self {
        let mut parser = Parser::new(limits::REFUSAL_BYTES);
        let mut left = limits::REFUSAL_BYTES;
        let mut pieces = Vec::new();
        while let Ok(Some(chunk)) = body.chunk().await {
            let Some(less) = left.checked_sub(chunk.len()) else {
                break;
            };
            left = less;
            parser.push(&chunk, &mut |piece| pieces.push(piece));
            for piece in pieces.drain(..) {
                if let Piece::Message(mut data) = piece {
                    flatten(&mut data);
                    let found = Self::of(&Bytes::from(data), id);
                    if found.answer.is_some() || found.unnamed.is_some() {
                        return found;
                    }
                }
            }
        }
        Self::default()
    }
}

/// What a status other than success means.
async fn refused(shared: &Shared, post: &Post, response: Reply<'_>, tell: &Tell) -> Over {
    let status = response.status();
    let in_session = in_session(post);
    let id = match (post.id, post.purpose == Purpose::Answer) {
        _ if post.id.is_none() && status == StatusCode::NOT_FOUND && in_session => {
            return Over::SessionGone(None);
        }
        (Some(id), _) => id,
        (None, true) => {
            return Over::Lost(Loss {
                reach: Reach::Refused(status.as_u16()),
                reason: phrase::status(status),
                pause_ms: None,
                broken: status.is_server_error(),
            });
        }
        (None, false) => {
            tracing::debug!(server = %shared.server, %status, "A notification was refused.");
            return Over::Answered;
        }
    };
    let pause_ms = retry_after(&response);
    let wants = wants(&response);
    let to = target(shared, &response);
    let Refusal {
        answer,
        unnamed,
        said,
    } = Refusal::read(shared, response, id).await;
    if in_session && says_session_gone(status, &answer, &unnamed, said.as_deref()) {
        return Over::SessionGone(said);
    }
    let credential = shared.credential_id.as_ref();
    let asks_for_credential = status == StatusCode::UNAUTHORIZED
        || status == StatusCode::FORBIDDEN && matches!(wants, Wants::Scope(_));
    let opens = matches!(post.purpose, Purpose::Initialize | Purpose::Probe);
    // MCP 2026-07-28, backward compatibility: a refusal tells of the era, a failure does not
    let told = match (answer, &unnamed) {
        _ if asks_for_credential || opens && status.is_server_error() => None,
        (Some(line), _) => {
            tell.line(line).await;
            return paused(status, pause_ms).map_or(Over::Answered, Over::Lost);
        }
        (None, Some(_)) if is_of_http(status) => None,
        (None, Some(error)) => Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)),
        (None, None) if post.purpose == Purpose::Probe && era_evidence(status) => {
            let line = msg::error_line(&id.to_string(), -32601, &phrase::status(status), None);
            Some(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
        }
        (None, None) => None,
    };
    let words = phrase::says(said.as_deref());
    let mut loss = Loss {
        reach: Reach::Refused(status.as_u16()),
        reason: match status {
            _ if status.is_redirection() => phrase::redirect(status, &shared.url, to.as_ref()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                phrase::credential(status, &shared.server, credential, &wants)
            }
            _ => phrase::status(status),
        },
        pause_ms: None,
        broken: false,
    };
    loss.reason.push_str(&words);
    if let Some(line) = told {
        tell.line(Bytes::from(line)).await;
        return match in_session {
            true => Over::Doubted(loss.clone(), loss.reason),
            false => Over::Answered,
        };
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        loss.pause_ms = Some(pause_ms.unwrap_or(limits::RETRY_AFTER_MS.0));
    } else if !status.is_client_error() && !status.is_redirection() {
        // what is no answer of HTTP says nothing of the call either
        loss.reach = Reach::Unknown;
        loss.pause_ms = pause_ms.filter(|_| status == StatusCode::SERVICE_UNAVAILABLE);
        loss.broken = true;
    } else if status == StatusCode::REQUEST_TIMEOUT {
        loss.reach = Reach::Unknown;
    }
    if in_session && may_be_the_session(status) && loss.pause_ms.is_none() {
        let doubtful = match status {
            StatusCode::UNAUTHORIZED => phrase::doubtful(status, credential) + &words,
            _ => loss.reason.clone(),
        };
        return Over::Doubted(loss, doubtful);
    }
    if status.is_client_error() && post.purpose == Purpose::Initialize && post.endpoint.is_none() {
        // MCP 2025-11-25, transports: backwards compatibility
        let older = [
            StatusCode::BAD_REQUEST,
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
        ];
        if older.contains(&status) {
            loss.reason = phrase::no_endpoint(status) + &words;
            return Over::Older(loss);
        }
    }
    Over::Lost(loss)
}

/// The pause that a server asks for beside an answer.
fn paused(status: StatusCode, pause_ms: Option<u64>) -> Option<Loss> {
    let pause_ms = match status {
        StatusCode::TOO_MANY_REQUESTS => pause_ms.unwrap_or(limits::RETRY_AFTER_MS.0),
        StatusCode::SERVICE_UNAVAILABLE => pause_ms?,
        _ => return None,
    };
    Some(Loss {
        reach: Reach::Refused(status.as_u16()),
        reason: phrase::status(status),
        pause_ms: Some(pause_ms),
        broken: false,
    })
}

/// Whether a status speaks of HTTP, so that an error that names no request adds words only.
fn is_of_http(status: StatusCode) -> bool {
    status.is_redirection()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        )
}

/// Whether a refusal may come of a session that the server lost. Servers say that in many ways;
/// these speak of the request's size, of a pause, or of what stands in between.
fn may_be_the_session(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            | StatusCode::NETWORK_AUTHENTICATION_REQUIRED
    )
}

/// Whether a refusal says for certain that the session is not known. The specification wants 404;
/// the servers that were written after the SDK's own example answer 400 and an error.
fn says_session_gone(
    status: StatusCode,
    answer: &Option<Bytes>,
    unnamed: &Option<String>,
    said: Option<&str>,
) -> bool {
    let of_session = said.is_some_and(|said| said.to_ascii_lowercase().contains("session"));
    let error = match answer {
        None => unnamed.clone(),
        Some(line) => std::str::from_utf8(line)
            .ok()
            .and_then(|line| Some(raw::Object::parse(line).ok()?.get("error")?.to_owned())),
    };
    let code =
        error.and_then(|error| Some(raw::Object::parse(&error).ok()?.get("code")?.to_owned()));
    let reserved = matches!(code.as_deref(), Some("-32000" | "-32001"));
    match status {
        StatusCode::NOT_FOUND => answer.is_none() || of_session || reserved,
        StatusCode::BAD_REQUEST => of_session && reserved,
        _ => false,
    }
}

/// Whether a refused probe means that the server does not know it.
fn era_evidence(status: StatusCode) -> bool {
    status.is_client_error() && status != StatusCode::PROXY_AUTHENTICATION_REQUIRED
}

/// RFC 9110, 10.2.3, in seconds; a date is taken for the shortest pause.
fn retry_after(response: &Reply<'_>) -> Option<u64> {
    let (shortest, longest) = limits::RETRY_AFTER_MS;
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let pause_ms = value
        .trim()
        .parse::<u64>()
        .unwrap_or(0)
        .saturating_mul(1000);
    Some(pause_ms.clamp(shortest, longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_for_the_answer_to_its_request_or_for_one_without_a_name() {
        let of = |body: &str| Refusal::of(&Bytes::copy_from_slice(body.as_bytes()), 7);
        let error = r#""error":{"code":-32001,"message":"no"}"#;
        let with = |id: &str| format!(r#"{{"jsonrpc":"2.0",{id}{error}}}"#);
        for own in [
            with(r#""id":7,"#),
            with(r#""id":"7","#),
            format!("[{}]", with(r#""id":7,"#)),
        ] {
            let found = of(&own);
            assert!(
                found.answer.is_some() && found.said.as_deref() == Some("no"),
                "{own}"
            );
        }
        for unnamed in [with(""), with(r#""id":null,"#)] {
            let found = of(&unnamed);
            assert!(
                found.answer.is_none() && found.unnamed.is_some(),
                "{unnamed}"
            );
            assert_eq!(found.said.as_deref(), Some("no"));
        }
        let result = of(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
        assert!(result.answer.is_some() && result.said.is_none());
        for nothing in ["", "<html>", "[]", r#"{"error":"no"}"#, &with(r#""id":8,"#)] {
            let found = of(nothing);
            assert!(
                found.answer.is_none() && found.unnamed.is_none(),
                "{nothing}"
            );
        }
    }

    #[test]
    fn a_session_is_gone_for_certain_where_the_protocol_or_the_sdk_says_so() {
        let gone = |status: u16, body: &str| {
            let refusal = Refusal::of(&Bytes::copy_from_slice(body.as_bytes()), 7);
            let status = StatusCode::from_u16(status).unwrap();
            let said = refusal.said.as_deref();
            says_session_gone(status, &refusal.answer, &refusal.unnamed, said)
        };
        let error = |id: &str, code: i32, message: &str| {
            format!(
                r#"{{"id":{id},"jsonrpc":"2.0","error":{{"code":{code},"message":"{message}"}}}}"#
            )
        };
        assert!(gone(404, "") && gone(404, "<html>"));
        assert!(gone(404, &error("null", -32001, "Session not found")));
        assert!(gone(404, &error("7", -32001, "Session not found")));
        assert!(gone(
            400,
            &error("null", -32000, "Bad Request: No valid session ID provided")
        ));
        // an answer to the call, or a doubt
        assert!(!gone(404, &error("7", -32602, "no such resource")));
        assert!(!gone(400, &error("7", -32602, "no such browser session")));
        assert!(!gone(400, "Invalid session ID") && !gone(401, "") && !gone(410, ""));
    }

    fn count(body: &str) -> usize {
        messages(&Bytes::copy_from_slice(body.as_bytes())).len()
    }

    /// Found: eight million elements took a gigabyte, and the session's only thread with them.
    #[test]
    fn an_array_of_very_many_messages_is_not_read() {
        let array = |elements: usize| format!("[{}]", vec!["0"; elements].join(","));
        assert_eq!(count(&array(limits::HTTP_MESSAGES)), limits::HTTP_MESSAGES);
        let many = array(limits::HTTP_MESSAGES + 1);
        assert_eq!(count(&many), 0);
        assert!(unanswered(many.as_bytes()).reason.contains("1024 messages"));
        for (body, expected) in [
            ("", 0),
            (" \n", 0),
            ("{}", 1),
            ("[]", 0),
            ("[", 0),
            ("no", 1),
        ] {
            assert_eq!(count(body), expected, "{body}");
        }
    }
}
