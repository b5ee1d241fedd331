//! Differences between protocol revisions live here only.
//!
//! Two ways of speaking meet in a session: the client's [`Era`] and, per link, the upstream's.
//! The functions here say which bytes of a message differ between them; everything they change
//! is listed in `docs/formats/edits.md`, and they change nothing else.

mod can;
mod structured;

use std::borrow::Cow;

pub use self::can::{APPS, Asked, Can, apps};
use self::structured::Content;
pub use self::structured::Schema;
use super::msg::{self, Notification, Params, Request};
use super::raw::{self, Change, Edits, Object};

/// `_meta` key of a request: the revision it is written in.
pub const META_PROTOCOL: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key of a request: who sends it.
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// `_meta` key of a request: what its sender can do.
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `_meta` key of a request: log messages wanted for it.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// `_meta` key of a result: who answers.
pub const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// `_meta` key of a notification: the `subscriptions/listen` it belongs to.
pub const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// The extension of tasks (SEP-2663): between peers of the stateless era only.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Whether an extension may be declared to an upstream of the stateless era: its traffic is
/// carried, and the server's entry allows it.
fn is_carried(extension: &str, allowed: Can) -> bool {
    match extension {
        can::UI => allowed.apps,
        // asks nothing of a client by itself
        TASKS => true,
        _ => false,
    }
}

/// Longest time a client may keep a result of a cacheable method, in milliseconds: a revoked
/// grant must not outlive it by more.
pub const CACHE_MS: u64 = crate::limits::POLL_S * 1000;

/// A protocol revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are MCP's revision dates")]
pub enum Revision {
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

impl Revision {
    /// Every revision known, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
        Self::V2026_07_28,
    ];

    /// The first revision.
    pub const OLDEST: Self = Self::V2024_11_05;

    /// The newest revision that opens with `initialize`.
    pub const NEWEST_HANDSHAKE: Self = Self::V2025_11_25;

    /// The revision whose requests stand by themselves.
    pub const STATELESS: Self = Self::V2026_07_28;

    /// The way it is spoken.
    #[must_use]
    pub fn era(self) -> Era {
        match self {
            Self::V2024_11_05 | Self::V2025_03_26 | Self::V2025_06_18 | Self::V2025_11_25 => {
                Era::Handshake(self)
            }
            Self::V2026_07_28 => Era::Stateless,
        }
    }

    /// Parses the text of `protocolVersion`; `None` for a revision we do not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }

    /// The text of `protocolVersion`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }
}

/// The two ways MCP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Era {
    /// `initialize`, then a session: up to 2025-11-25.
    Handshake(Revision),
    /// Every request by itself: 2026-07-28.
    Stateless,
}

impl Era {
    /// The revision spoken.
    #[must_use]
    pub const fn revision(self) -> Revision {
        match self {
            Self::Handshake(revision) => revision,
            Self::Stateless => Revision::V2026_07_28,
        }
    }
}

/// The revision to answer to an `initialize` that asks for `asked`: the same where it is known
/// (clients leave on an older one), else our newest with a handshake.
#[must_use]
pub fn negotiate(asked: &str) -> Revision {
    match Revision::parse(asked) {
        Some(Revision::V2026_07_28) | None => Revision::NEWEST_HANDSHAKE,
        Some(known) => known,
    }
}

/// What a request of the stateless era says of its sender. All text is raw JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    /// `clientInfo`.
    pub info: Option<&'a str>,
    /// `clientCapabilities`.
    pub capabilities: &'a str,
    /// `logLevel`.
    pub log_level: Option<&'a str>,
}

/// Why a request of the stateless era is refused before it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A required `_meta` key is missing or another type.
    #[error("params._meta[{key:?}] must be {wanted} (MCP 2026-07-28, basic: _meta)")]
    Field {
        /// Which.
        key: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// The revision is not spoken here.
    #[error("Unsupported protocol version: {requested}")]
    Version {
        /// What was asked for.
        requested: String,
    },
}

impl ClaimError {
    /// The JSON-RPC error code.
    #[must_use]
    pub fn rpc_code(&self) -> i64 {
        match self {
            Self::Field { .. } => -32602,
            Self::Version { .. } => -32022,
        }
    }

    /// The JSON-RPC error data, raw JSON.
    #[must_use]
    pub fn data(&self) -> Option<String> {
        match self {
            Self::Field { .. } => None,
            Self::Version { requested } => Some(unsupported(requested)),
        }
    }
}

/// The data of an `UnsupportedProtocolVersion` error (-32022), raw JSON.
#[must_use]
pub fn unsupported(requested: &str) -> String {
    format!(
        r#"{{"supported":["{}"],"requested":{}}}"#,
        Revision::V2026_07_28.as_str(),
        raw::quoted(requested)
    )
}

/// Reads what a request of the stateless era says of its sender; `None` when it does not claim
/// to be of that era.
///
/// # Errors
/// [`ClaimError`] when it claims so and something required is missing.
pub fn claim<'a>(params: Option<&Params<'a>>) -> Result<Option<Claim<'a>>, ClaimError> {
    let Some(meta) = params.and_then(|params| params.meta.as_ref()) else {
        return Ok(None);
    };
    let Some(protocol) = meta.get(META_PROTOCOL) else {
        return Ok(None);
    };
    match raw::string(protocol) {
        Some(text) if text == Revision::V2026_07_28.as_str() => {}
        Some(text) => {
            return Err(ClaimError::Version {
                requested: text.chars().take(80).collect(),
            });
        }
        None => {
            return Err(ClaimError::Field {
                key: META_PROTOCOL,
                wanted: "a string",
            });
        }
    }
    let object = |text: &&str| text.starts_with('{');
    let Some(capabilities) = meta.get(META_CAPABILITIES).filter(object) else {
        return Err(ClaimError::Field {
            key: META_CAPABILITIES,
            wanted: "an object",
        });
    };
    Ok(Some(Claim {
        info: meta.get(META_CLIENT_INFO).filter(object),
        capabilities,
        log_level: meta.get(META_LOG_LEVEL),
    }))
}

/// What an upstream of the stateless era is told of a client of the handshake era, beside its
/// capabilities. Raw JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The client's `clientInfo`, as it gave it.
    pub info: String,
    /// The level of its last `logging/setLevel`.
    pub log_level: Option<String>,
}

/// Reads what a client says it can be asked for: `capabilities` of `initialize`, or
/// `clientCapabilities`.
///
/// # Errors
/// [`ClaimError`] where two readers of it might see two different things: a key stands twice, or
/// differs from one of the protocol's in upper and lower case only.
pub fn capabilities(text: &str) -> Result<(Can, Option<&str>), ClaimError> {
    const KNOWN: [&str; 4] = ["elicitation", "extensions", "roots", "sampling"];
    let wrong = |_| ClaimError::Field {
        key: META_CAPABILITIES,
        wanted: "an object without duplicate keys",
    };
    let odd = || ClaimError::Field {
        key: META_CAPABILITIES,
        wanted: "an object whose keys are spelt as the protocol spells them",
    };
    let object = Object::parse(text).map_err(wrong)?;
    if object.misspelt(&KNOWN).is_some() {
        return Err(odd());
    }
    for key in KNOWN {
        // another type than an object is nothing that anybody can be asked for
        if object.get(key).is_some_and(|value| value.starts_with('{')) {
            let inner = object.object(key).map_err(wrong)?;
            let known = ["context", "form", "tools", "url", can::UI, TASKS];
            if inner.is_some_and(|inner| inner.misspelt(&known).is_some()) {
                return Err(odd());
            }
        }
    }
    Ok((Can::of(&object), apps(&object)))
}

/// The upstream of a request, as far as the request depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Upstream<'a> {
    /// How it speaks.
    pub era: Era,
    /// What its entry lets it ask of a client.
    pub allowed: Can,
    /// What of a handshake client's capabilities it is told, raw JSON.
    pub told: &'a str,
}

/// Changes what differs in a request between the client's era and the upstream's. `introduction`
/// is there for a client of the handshake era; `progress` is the token that stands for the
/// client's, where it gave one.
pub fn request(
    edits: &mut Edits,
    request: &Request<'_>,
    introduction: Option<&Introduction>,
    upstream: Upstream<'_>,
    progress: &str,
) {
    let to = upstream.era;
    let params = request.params.as_ref();
    let meta = params.and_then(|params| params.meta.as_ref());
    let (strip, append): (bool, Vec<(&str, &str)>) = match (introduction, to) {
        (None, Era::Handshake(_)) => (true, Vec::new()),
        (None, Era::Stateless) => {
            if let Some(meta) = meta {
                declare(edits, meta, upstream.allowed);
            }
            (false, Vec::new())
        }
        (Some(_), Era::Handshake(_)) => (false, Vec::new()),
        (Some(own), Era::Stateless) => {
            let mut append = vec![
                (META_PROTOCOL, "\"2026-07-28\""),
                (META_CLIENT_INFO, own.info.as_str()),
                (META_CAPABILITIES, upstream.told),
            ];
            append.extend(
                own.log_level
                    .as_deref()
                    .map(|level| (META_LOG_LEVEL, level)),
            );
            (true, append)
        }
    };
    let mut emptied = false;
    if let Some(meta) = meta {
        let change = |key: &str| match key {
            "progressToken" => Change::Value(progress),
            META_PROTOCOL | META_CLIENT_INFO | META_CAPABILITIES | META_LOG_LEVEL if strip => {
                Change::Remove
            }
            _ => Change::Keep,
        };
        emptied = strip && append.is_empty() && meta.is_emptied(change);
        if !emptied {
            edits.object(meta, change, &append);
        }
    }
    // a legacy task asked for by a client that was not offered tasks: the call is made plainly
    let task = |key: &str| match (key, to) {
        ("_meta", _) if emptied => Change::Remove,
        ("task", Era::Handshake(_)) => Change::Remove,
        // what a stateless client answers goes to who asked, not into the call
        ("inputResponses" | "requestState", Era::Handshake(_)) if introduction.is_none() => {
            Change::Remove
        }
        _ => Change::Keep,
    };
    let fresh = match meta {
        None => object_of(&append),
        Some(_) => String::new(),
    };
    let fresh_meta = [("_meta", fresh.as_str())];
    let fresh_meta = if fresh.is_empty() {
        &[][..]
    } else {
        &fresh_meta[..]
    };
    match params {
        Some(params) => edits.object(&params.object, task, fresh_meta),
        None if !fresh.is_empty() => {
            let params = format!("{{\"_meta\":{fresh}}}");
            edits.object(&request.envelope, |_| Change::Keep, &[("params", &params)]);
        }
        None => {}
    }
}

/// The text of an object with these members, of values that are JSON; empty when there are none.
fn object_of(members: &[(&str, &str)]) -> String {
    // made for every call between the eras: with one allocation, and without formatting
    let bytes = members
        .iter()
        .map(|(key, value)| key.len() + value.len() + 4);
    let mut text = String::with_capacity(bytes.sum::<usize>() + 2);
    for (key, value) in members {
        text.push(if text.is_empty() { '{' } else { ',' });
        for part in ["\"", key, "\":", value] {
            text.push_str(part);
        }
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

/// Takes out of `clientCapabilities` what the server's entry does not allow or what is not
/// carried. What stays stays as it is, its own members included.
fn declare(edits: &mut Edits, meta: &Object<'_>, allowed: Can) {
    let Ok(Some(capabilities)) = meta.object(META_CAPABILITIES) else {
        // refused before (`capabilities`); whatever reaches this declares nothing
        if let Some(span) = meta.value_span(META_CAPABILITIES) {
            edits.replace(span, "{}");
        }
        return;
    };
    let extension = |key: &str| match is_carried(key, allowed) {
        true => Change::Keep,
        false => Change::Remove,
    };
    let extensions = capabilities.object("extensions").ok().flatten();
    let extensions = extensions.filter(|extensions| !extensions.is_emptied(extension));
    let change = |key: &str| {
        let stays = match key {
            "elicitation" => allowed.form || allowed.url,
            "extensions" => extensions.is_some(),
            "roots" => allowed.roots,
            "sampling" => allowed.sampling,
            _ => false,
        };
        match stays {
            true => Change::Keep,
            false => Change::Remove,
        }
    };
    edits.object(&capabilities, change, &[]);
    if let Some(extensions) = &extensions {
        edits.object(extensions, extension, &[]);
    }
}

/// An answer with a result of mcpshim's own in the client's era, newline included. `members` is
/// raw JSON without the braces, in pieces; `note` is a `_meta` member, key and raw JSON.
#[must_use]
pub fn own_line(
    id: &str,
    members: &[&str],
    to: Era,
    cacheable: bool,
    server_info: &str,
    note: Option<(&str, &str)>,
) -> Vec<u8> {
    let mut more: Vec<Cow<'_, str>> = Vec::new();
    let mut meta = Vec::new();
    if to == Era::Stateless {
        more.push("\"resultType\":\"complete\"".into());
        if cacheable {
            more.push("\"ttlMs\":0,\"cacheScope\":\"private\"".into());
        }
        meta.push(format!("\"{META_SERVER_INFO}\":{server_info}"));
    }
    meta.extend(note.map(|(key, value)| format!("\"{key}\":{value}")));
    if !meta.is_empty() {
        more.push(format!("\"_meta\":{{{}}}", meta.join(",")).into());
    }
    let has_members = members.iter().any(|piece| !piece.is_empty());
    let comma = if has_members && !more.is_empty() {
        ","
    } else {
        ""
    };
    let more = more.join(",");
    // a list may be megabytes long: it is copied here, and nowhere else
    let mut parts = vec!["{"];
    parts.extend_from_slice(members);
    parts.extend([comma, more.as_str(), "}"]);
    msg::result_line_of(id, &parts)
}

/// A result of mcpshim's own that asks a client of the stateless era for input. `requests` is raw
/// JSON without the braces, `info` is the upstream's `serverInfo`.
#[must_use]
pub fn input_required(requests: &str, state: &str, info: Option<&str>) -> String {
    let meta = info.map(|info| format!(r#","_meta":{{"{META_SERVER_INFO}":{info}}}"#));
    format!(
        r#"{{"resultType":"input_required","inputRequests":{{{requests}}},"requestState":{}{}}}"#,
        raw::quoted(state),
        meta.unwrap_or_default()
    )
}

/// A `subscriptions/listen` of mcpshim's own for one resource, newline included.
#[must_use]
pub fn listen_line(id: &str, uri: &str, info: &str, capabilities: &str) -> Vec<u8> {
    let params = format!(
        r#"{{"notifications":{{"resourceSubscriptions":[{}]}},"_meta":{{"{META_PROTOCOL}":"{}","{META_CLIENT_INFO}":{info},"{META_CAPABILITIES}":{capabilities}}}}}"#,
        raw::quoted(uri),
        Revision::V2026_07_28.as_str(),
    );
    msg::request_line(id, "subscriptions/listen", Some(&params))
}

/// Whether capabilities of the stateless era, raw JSON, name the extension of tasks.
#[must_use]
pub fn follows_tasks(capabilities: &str) -> bool {
    let named = || {
        let capabilities = Object::parse(capabilities).ok()?;
        let extensions = capabilities.object("extensions").ok()??;
        extensions.object(TASKS).ok()?
    };
    capabilities.contains(TASKS) && named().is_some()
}

/// A `subscriptions/listen` of mcpshim's own for one task, newline included.
#[must_use]
pub fn listen_task_line(id: &str, task: &str, info: &str) -> Vec<u8> {
    let params = format!(
        r#"{{"notifications":{{"taskIds":[{task}]}},"_meta":{{"{META_PROTOCOL}":"{}","{META_CLIENT_INFO}":{info},"{META_CAPABILITIES}":{{"extensions":{{"{TASKS}":{{}}}}}}}}}}"#,
        Revision::V2026_07_28.as_str(),
    );
    msg::request_line(id, "subscriptions/listen", Some(&params))
}

/// The first message of a client's listen: what is honoured, raw JSON without the braces.
#[must_use]
pub fn acknowledgement(id: &str, honoured: &str) -> Vec<u8> {
    let params =
        format!(r#"{{"notifications":{{{honoured}}},"_meta":{{"{META_SUBSCRIPTION}":{id}}}}}"#);
    msg::notification_line("notifications/subscriptions/acknowledged", Some(&params))
}

/// A `list_changed` for one listen of the client's.
#[must_use]
pub fn list_changed(method: &str, id: &str) -> Vec<u8> {
    let params = format!(r#"{{"_meta":{{"{META_SUBSCRIPTION}":{id}}}}}"#);
    msg::notification_line(method, Some(&params))
}

/// That a resource may have changed, for one listen of the client's or a client of the handshake
/// era.
#[must_use]
pub fn updated(uri: &str, id: Option<&str>) -> Vec<u8> {
    let uri = raw::quoted(uri);
    let params = match id {
        Some(id) => format!(r#"{{"uri":{uri},"_meta":{{"{META_SUBSCRIPTION}":{id}}}}}"#),
        None => format!(r#"{{"uri":{uri}}}"#),
    };
    msg::notification_line("notifications/resources/updated", Some(&params))
}

/// The answer to a client's listen: it is over.
#[must_use]
pub fn listen_over(id: &str) -> Vec<u8> {
    let result = format!(r#"{{"resultType":"complete","_meta":{{"{META_SUBSCRIPTION}":{id}}}}}"#);
    msg::result_line(id, &result)
}

/// An upstream's notification as the client gets it, newline included: with the id of the listen
/// it belongs to there, or with none for a client of the handshake era.
#[must_use]
pub fn stamped(
    edits: &mut Edits,
    notification: &Notification<'_>,
    subscription: Option<&str>,
) -> Vec<u8> {
    edits.clear();
    stamp(edits, notification, subscription);
    let mut line = Vec::with_capacity(notification.line.len() + 64);
    edits.apply(notification.line, &mut line);
    line.push(b'\n');
    line
}

/// Takes out an object that was emptied.
pub fn meta_only<'t>(key: &str) -> Change<'t> {
    match key {
        "_meta" => Change::Remove,
        _ => Change::Keep,
    }
}

/// The edits that make it so.
pub fn stamp(edits: &mut Edits, notification: &Notification<'_>, subscription: Option<&str>) {
    let params = notification.params.as_ref();
    let meta = params.and_then(|params| params.meta.as_ref());
    match (meta, params, subscription) {
        (Some(meta), _, id) => {
            let known = meta.get(META_SUBSCRIPTION).is_some();
            let change = |key: &str| match (key, id) {
                (META_SUBSCRIPTION, Some(id)) => Change::Value(id),
                (META_SUBSCRIPTION, None) => Change::Remove,
                _ => Change::Keep,
            };
            let append = id.filter(|_| !known).map(|id| (META_SUBSCRIPTION, id));
            match params.filter(|_| meta.is_emptied(change)) {
                Some(params) => edits.object(&params.object, meta_only, &[]),
                None => edits.object(meta, change, append.as_slice()),
            }
        }
        (None, Some(params), Some(id)) => {
            let meta = format!("{{\"{META_SUBSCRIPTION}\":{id}}}");
            edits.object(&params.object, |_| Change::Keep, &[("_meta", &meta)]);
        }
        (None, None, Some(id)) => {
            let params = format!("{{\"_meta\":{{\"{META_SUBSCRIPTION}\":{id}}}}}");
            edits.object(
                &notification.envelope,
                |_| Change::Keep,
                &[("params", &params)],
            );
        }
        (None, _, None) => {}
    }
}

/// A result that has no form in the client's era.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untranslatable {
    /// `resultType: input_required`.
    #[error("it asks for input, which a client of this protocol version cannot give")]
    InputRequired,
    /// What it asks for may not be asked, for this reason.
    #[error("{0}")]
    Wanted(String),
    /// Another `resultType` than those of the protocol.
    #[error("its result is of a type that is not carried: {0}")]
    Type(String),
}

/// Changes what differs in a result between the upstream's era and the client's. `cacheable` is
/// for methods whose results carry `ttlMs` and `cacheScope`; `server_info` is the upstream's;
/// `wraps` says that it is of a tool whose schema the client has as [`Schema::Wrapped`].
///
/// # Errors
/// [`Untranslatable`] when the client could not read it.
pub fn result(
    edits: &mut Edits,
    result: &Object<'_>,
    from: Era,
    to: Era,
    cacheable: bool,
    server_info: Option<&str>,
    wraps: bool,
) -> Result<(), Untranslatable> {
    let kind = result
        .get("resultType")
        .map(|kind| raw::string(kind).unwrap_or_default());
    match (kind.as_deref().unwrap_or("complete"), from, to) {
        // the handshake era does not know the member, and its clients do not read it
        (_, Era::Handshake(_), Era::Handshake(_))
        | ("complete", _, _)
        | ("input_required", Era::Stateless, Era::Stateless) => {}
        ("input_required", Era::Stateless, Era::Handshake(_)) => {
            return Err(Untranslatable::InputRequired);
        }
        // a server of the handshake era that says it to a client of the other one would ask it for
        // what nobody looked at
        (other, _, _) => {
            return Err(Untranslatable::Type(other.chars().take(40).collect()));
        }
    }
    match (from, to) {
        (_, Era::Handshake(_)) => {
            let stateless = from == Era::Stateless;
            // an object before (MCP 2025-11-25, tools), and not read at all before 2025-06-18
            let structured = Content::of(result, from, to, wraps);
            if !stateless && structured.is_none() {
                return Ok(());
            }
            let content = structured
                .as_ref()
                .and_then(|structured| structured.text(edits, result));
            let change = |key: &str| match (key, &structured) {
                ("resultType", _) if stateless => Change::Remove,
                ("ttlMs" | "cacheScope", _) if stateless && cacheable => Change::Remove,
                (_, Some(structured)) => structured.change(key),
                (_, None) => Change::Keep,
            };
            let append = content.as_deref().map(|content| ("content", content));
            edits.object(result, change, append.as_slice());
        }
        (Era::Handshake(_), Era::Stateless) => {
            let missing = |key| result.get(key).is_none();
            let mut append: Vec<(&str, &str)> = Vec::with_capacity(4);
            append.extend(missing("resultType").then_some(("resultType", "\"complete\"")));
            if cacheable {
                append.extend(missing("ttlMs").then_some(("ttlMs", "0")));
                append.extend(missing("cacheScope").then_some(("cacheScope", "\"private\"")));
            }
            let meta = result.object("_meta").ok().flatten();
            let mut fresh = String::new();
            match (server_info, meta) {
                (Some(info), Some(meta)) if meta.get(META_SERVER_INFO).is_none() => {
                    edits.object(&meta, |_| Change::Keep, &[(META_SERVER_INFO, info)]);
                }
                (Some(info), None) if missing("_meta") => {
                    fresh = format!("{{\"{META_SERVER_INFO}\":{info}}}");
                }
                _ => {}
            }
            append.extend((!fresh.is_empty()).then_some(("_meta", fresh.as_str())));
            keep_private(edits, result, cacheable, &append);
        }
        (Era::Stateless, Era::Stateless) => keep_private(edits, result, cacheable, &[]),
    }
    Ok(())
}

/// Appends members; a cacheable result may be kept by one client only, and not for long.
fn keep_private(edits: &mut Edits, result: &Object<'_>, cacheable: bool, append: &[(&str, &str)]) {
    let ttl = result.get("ttlMs").and_then(|ttl| ttl.parse::<u64>().ok());
    let longest = CACHE_MS.to_string();
    let change = |key: &str| match key {
        "cacheScope" if cacheable => Change::Value("\"private\""),
        "ttlMs" if cacheable && ttl.is_none_or(|ttl| ttl > CACHE_MS) => Change::Value(&longest),
        _ => Change::Keep,
    };
    edits.object(result, change, append);
}

/// The error of 2025-11-25 that wants addresses opened first (`UrlElicitationRequired`).
pub const URL_REQUIRED: i64 = -32042;

/// The error of 2026-07-28 for a request that needs a capability that it does not declare
/// (`MissingRequiredClientCapability`).
pub const LACKS_CAPABILITY: i64 = -32021;

/// What an upstream's error becomes for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorAs {
    /// The same, with this code.
    Code(i64),
    /// For `tools/call`: a result with `isError` and this text. For other methods: `InternalError`
    /// with the same data. The client lacks something.
    Lacks(String),
    /// For `tools/call`: a result with `isError` and this text, because no error code of the
    /// client's era says it. For other methods: `InternalError` with the same data.
    Text(String),
}

/// The code of a resource that is not there, in the client's era.
#[must_use]
pub fn not_found(era: Era) -> i64 {
    match era {
        Era::Handshake(_) => -32002,
        Era::Stateless => -32602,
    }
}

/// Maps an upstream's error to the client's era. `data` is the error's, raw JSON.
#[must_use]
pub fn error(code: i64, message: &str, data: Option<&str>, from: Era, to: Era) -> ErrorAs {
    match (from, to, code) {
        // ResourceNotFound became InvalidParams
        (Era::Handshake(_), Era::Stateless, -32002) => ErrorAs::Code(-32602),
        // UrlElicitationRequired: 2025-11-25 only
        (Era::Handshake(_), Era::Handshake(Revision::V2025_11_25), URL_REQUIRED) => {
            ErrorAs::Code(code)
        }
        // a server of the stateless era must not say it (MCP 2026-07-28, error codes), and a client
        // that knows both eras would ask a person what nobody looked at
        (_, _, URL_REQUIRED) => ErrorAs::Text(open_first(message, data)),
        // MissingRequiredClientCapability: the client's own affair in its own era
        (Era::Stateless, Era::Handshake(_), LACKS_CAPABILITY) => {
            let needs = lacking(data).join(", ");
            let needs = if needs.is_empty() {
                "something"
            } else {
                &needs
            };
            ErrorAs::Lacks(format!(
                "The server needs {needs} of the client, which this client does not offer or the \
                 organisation does not let this server use: {message}"
            ))
        }
        // HeaderMismatch, UnsupportedProtocolVersion: between mcpshim and the upstream
        (Era::Stateless, _, -32020 | -32022) => ErrorAs::Code(-32603),
        _ => ErrorAs::Code(code),
    }
}

/// What a client of another revision is told of a `UrlElicitationRequired` error.
#[must_use]
pub fn open_first(message: &str, data: Option<&str>) -> String {
    let urls = urls(data).join(" ");
    format!("{message}. Open this address, then call again: {urls}")
}

/// What the data of a `MissingRequiredClientCapability` error names.
fn lacking(data: Option<&str>) -> Vec<String> {
    let data = data.and_then(|data| Object::parse(data).ok());
    let needs = data.and_then(|data| data.object("requiredCapabilities").ok()?);
    let names = needs.iter().flat_map(Object::members);
    names
        .take(8)
        .map(|(name, _)| name.chars().take(64).collect())
        .collect()
}

/// Whether a result asks for input before its call goes on (MCP 2026-07-28, multi-round-trip
/// requests).
#[must_use]
pub fn asks_input(result: &Object<'_>, from: Era) -> bool {
    from == Era::Stateless && result.text("resultType").as_deref() == Some("input_required")
}

/// Whether a result of the stateless era begins a task (SEP-2663).
#[must_use]
pub fn is_task(result: &Object<'_>) -> bool {
    result.text("resultType").as_deref() == Some("task")
}

/// The addresses in the data of a `UrlElicitationRequired` error.
fn urls(data: Option<&str>) -> Vec<Cow<'_, str>> {
    let Some(list) = data.and_then(|data| Object::parse(data).ok()?.get("elicitations")) else {
        return Vec::new();
    };
    let entries = raw::elements(list).unwrap_or_default();
    let url = |entry: &&str| {
        let entry: &str = entry;
        raw::string(Object::parse(entry).ok()?.get("url")?).map(|url| Cow::Owned(url.into_owned()))
    };
    entries.iter().filter_map(url).collect()
}

#[cfg(test)]
mod tests;
