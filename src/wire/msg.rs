//! One JSON-RPC message as spans of its line.
//!
//! Parsing validates the whole line and keeps it: unknown members, number spellings and ids
//! stay as they came. Duplicate keys are refused in the envelope, in `params`, in
//! `params._meta`, at the top of `params.arguments`, and at the top of `result` and `error`.
//! So is what only some readers would take for another message or another member: carriage
//! returns, and members that differ from one that is read here in case only.

use std::borrow::Cow;
use std::ops::Range;

use super::peek::{self, Peek, Peeked};
use super::raw::{self, Object, RawError, Scan};
use crate::limits;

/// The members of a message that are read here.
const ENVELOPE: [&str; 6] = ["error", "id", "jsonrpc", "method", "params", "result"];

/// The members of `params` that are read here.
const PARAMS: [&str; 14] = [
    "_meta",
    "argument",
    "arguments",
    "inputResponses",
    "level",
    "name",
    "notifications",
    "progressToken",
    "ref",
    "requestId",
    "requestState",
    "task",
    "taskId",
    "uri",
];

/// The members of `result` that are read here: what it is, whether it asks for something, and what
/// a client answers when it is asked.
const RESULT: [&str; 11] = [
    "_meta",
    "action",
    "content",
    "inputRequests",
    "isError",
    "model",
    "requestState",
    "resultType",
    "role",
    "roots",
    "taskId",
];

/// The members of `error` that are read here.
const ERROR: [&str; 3] = ["code", "data", "message"];

/// One message.
#[derive(Debug)]
pub enum Message<'a> {
    /// No answer is wanted.
    Notification(Notification<'a>),
    /// An answer is wanted.
    Request(Request<'a>),
    /// An answer.
    Response(Response<'a>),
}

/// A request id as it stands in its line: a string or an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id<'a>(&'a str);

/// An id to look up by: equal ids are equal however a string was escaped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdKey(Box<str>);

impl<'a> Id<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Fault::NullId`] for null, [`Fault::Id`] for what is neither string nor integer.
    pub fn parse(token: &'a str) -> Result<Self, Fault> {
        if token == "null" {
            return Err(Fault::NullId);
        }
        let integer = token.strip_prefix('-').unwrap_or(token);
        let valid = token.starts_with('"') || integer.bytes().all(|byte| byte.is_ascii_digit());
        match valid {
            true if token.len() <= limits::ID_BYTES => Ok(Self(token)),
            _ => Err(Fault::Id),
        }
    }

    /// The token, quotes included: what an answer repeats.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.0
    }

    /// The id to look up by.
    #[must_use]
    pub fn key(&self) -> IdKey {
        match raw::string(self.0) {
            Some(Cow::Owned(text)) => IdKey(raw::quoted(&text).into()),
            Some(Cow::Borrowed(_)) | None => IdKey(self.0.into()),
        }
    }

    /// Reads the token of an answer. Servers in the field write the number they were given as
    /// `1.0`, and SDK clients take that.
    fn of_answer(token: &'a str) -> Result<Self, Fault> {
        let read = Self::parse(token);
        match read {
            Err(Fault::Id) if token.len() <= limits::ID_BYTES && whole(token).is_some() => {
                Ok(Self(token))
            }
            Ok(_) | Err(_) => read,
        }
    }

    /// The id as one of ours, which are plain numbers; servers in the field give them back as text
    /// (`"1"`), and SDK clients take that. Another spelling of the number is another id.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        if let Ok(number) = self.0.parse() {
            return Some(number);
        }
        let Some(text) = raw::string(self.0) else {
            return whole(self.0);
        };
        let number: u64 = text.parse().ok()?;
        (number.to_string() == text).then_some(number)
    }
}

/// A number that is written with a fraction or an exponent and has no fraction (`1.0`, `1e2`).
fn whole(token: &str) -> Option<u64> {
    const SAFE: f64 = 9_007_199_254_740_991.0;
    let number: f64 = token.parse().ok()?;
    let is_number = token.starts_with(|c: char| c.is_ascii_digit());
    let whole = is_number && number.fract() == 0.0 && number <= SAFE;
    whole.then(|| format!("{number:.0}").parse().ok())?
}

impl IdKey {
    /// The id a token means; `None` for what is no id.
    #[must_use]
    pub fn of_token(token: &str) -> Option<Self> {
        Some(Id::parse(token).ok()?.key())
    }
}

/// A message's `params`.
#[derive(Debug)]
pub struct Params<'a> {
    /// The members.
    pub object: Object<'a>,
    /// The members of `_meta`, where it is there.
    pub meta: Option<Object<'a>>,
}

impl<'a> Params<'a> {
    /// The text of `arguments`.
    #[must_use]
    pub fn arguments(&self) -> Option<&'a str> {
        self.object.get("arguments")
    }

    /// The token of `_meta.progressToken`.
    #[must_use]
    pub fn progress_token(&self) -> Option<&'a str> {
        self.meta.as_ref()?.get("progressToken")
    }
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its line.
    pub line: &'a str,
    /// All members.
    pub envelope: Object<'a>,
    /// Its id.
    pub id: Id<'a>,
    /// Its method.
    pub method: Cow<'a, str>,
    /// Its params.
    pub params: Option<Params<'a>>,
}

/// A notification.
#[derive(Debug)]
pub struct Notification<'a> {
    /// Its line.
    pub line: &'a str,
    /// All members.
    pub envelope: Object<'a>,
    /// Its method.
    pub method: Cow<'a, str>,
    /// Its params.
    pub params: Option<Params<'a>>,
}

/// An answer.
#[derive(Debug)]
pub struct Response<'a> {
    /// Its line.
    pub line: &'a str,
    /// All members.
    pub envelope: Object<'a>,
    /// The id it answers; `None` where an error could not name one (`null`).
    pub id: Option<Id<'a>>,
    /// What it says.
    pub body: Body<'a>,
    /// The other of `result` and `error`, where it stands there too and is `null`: as in JSON-RPC
    /// 1.0, which some servers write and SDK clients take.
    pub void: Option<&'static str>,
}

/// What an answer says.
#[derive(Debug)]
pub enum Body<'a> {
    /// `error`.
    Error {
        /// `code`.
        code: i64,
        /// `message`, unescaped.
        message: Cow<'a, str>,
        /// All its members.
        object: Object<'a>,
    },
    /// `result`, which MCP makes an object.
    Result(Object<'a>),
}

/// What a line was, as far as could be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and no id.
    Notification,
    /// It has a method and an id.
    Request,
    /// It has an id, and a result or an error.
    Response,
    /// Nobody knows.
    Unknown,
}

/// A line that is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub fault: Fault,
    /// Its id token, where one was found that an answer can repeat.
    pub id: Option<Box<str>>,
    /// What it was meant to be.
    pub kind: Kind,
}

/// Why a line is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An array of messages.
    #[error("batches are not part of this protocol version: send each message on its own line")]
    Batch,
    /// A carriage return between the tokens: readers of lines in Python, Java and C# end a line
    /// there, and what follows would be a message that nobody here read.
    #[error("a carriage return at byte {at}: some readers would see two messages")]
    CarriageReturn {
        /// Where.
        at: usize,
    },
    /// An object with two members of one name.
    #[error("duplicate key {key:?} in {place}: two readers would see two values")]
    Duplicate {
        /// Which object.
        place: &'static str,
        /// The key, cut to 80 characters.
        key: String,
    },
    /// An error object without an integer `code` and a string `message`.
    #[error("`error` must be an object with an integer `code` and a string `message`")]
    ErrorObject,
    /// Neither string nor integer, or too long.
    #[error(
        "`id` must be a string or an integer of at most {} bytes",
        limits::ID_BYTES
    )]
    Id,
    /// Not exactly one of a method, a result, an error.
    #[error("a message has either `method`, or `id` with one of `result` and `error`")]
    Kind,
    /// Not a string, or too long.
    #[error("`method` must be a string of 1 to {} bytes", limits::METHOD_BYTES)]
    Method,
    /// A request with `"id": null`.
    #[error("`id` must not be null")]
    NullId,
    /// The line is JSON, but no object.
    #[error("a message is a JSON object")]
    Object,
    /// `params`, or its `_meta` or `arguments`, is not an object.
    #[error("`{place}` must be an object")]
    Params {
        /// Which.
        place: &'static str,
    },
    /// Not JSON, or nested too deep.
    #[error("{0}")]
    Raw(#[from] RawError),
    /// A result that is no object.
    #[error("`result` must be an object")]
    Result,
    /// A member that is one of the protocol's but for upper and lower case.
    #[error("{}", misspelt(place, key, meant, *both))]
    Spelling {
        /// Which object.
        place: &'static str,
        /// The key, cut to 80 characters.
        key: String,
        /// The member that some readers take it for.
        meant: String,
        /// Whether that member stands there too.
        both: bool,
    },
    /// Not UTF-8.
    #[error("not valid UTF-8 at byte {at}")]
    Utf8 {
        /// Where.
        at: usize,
    },
    /// `jsonrpc` is missing or another version.
    #[error("`jsonrpc` must be \"2.0\"")]
    Version,
}

fn misspelt(place: &str, key: &str, meant: &str, both: bool) -> String {
    // it is a stranger's text, and may go to a terminal
    let key = key.escape_debug();
    match both {
        true => {
            format!("{place} has both `{meant}` and `{key}`: some readers take one for the other")
        }
        false => format!("{place} has `{key}`, which some readers take for `{meant}`"),
    }
}

impl Fault {
    /// A short code for the record.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Duplicate { .. } | Self::Raw(RawError::Duplicate { .. }) => "duplicate-key",
            Self::Raw(RawError::Depth) => "depth",
            Self::NullId => "null-id",
            Self::CarriageReturn { .. } | Self::Raw(_) | Self::Utf8 { .. } => "parse",
            Self::Spelling { .. } => "spelling",
            Self::ErrorObject
            | Self::Id
            | Self::Kind
            | Self::Method
            | Self::Object
            | Self::Params { .. }
            | Self::Result
            | Self::Version => "envelope",
        }
    }

    /// The JSON-RPC error code a client gets.
    #[must_use]
    pub fn rpc_code(&self) -> i64 {
        match self {
            Self::CarriageReturn { .. }
            | Self::Raw(RawError::Syntax { .. } | RawError::Key { .. })
            | Self::Utf8 { .. } => -32700,
            Self::Params { .. } => -32602,
            Self::Batch
            | Self::Duplicate { .. }
            | Self::ErrorObject
            | Self::Id
            | Self::Kind
            | Self::Method
            | Self::NullId
            | Self::Object
            | Self::Raw(RawError::Depth | RawError::Duplicate { .. } | RawError::Type { .. })
            | Self::Result
            | Self::Spelling { .. }
            | Self::Version => -32600,
        }
    }
}

/// What is known of a line while it is read. The first fault counts; reading goes on after it,
/// because the id may come last (Claude Code puts it there).
#[derive(Default)]
struct Draft<'a> {
    fault: Option<Fault>,
    /// What is wrong with a `null` unless the other of `result` and `error` says something.
    void: Option<Fault>,
    params: Option<Params<'a>>,
    result: Option<Object<'a>>,
    error: Option<Object<'a>>,
}

impl<'a> Draft<'a> {
    fn fault(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn unique(&mut self, object: &Object<'_>, place: &'static str) {
        if let Err(RawError::Duplicate { key }) = object.unique() {
            self.fault(Fault::Duplicate { place, key });
        }
    }

    fn spelt(&mut self, object: &Object<'_>, place: &'static str, known: &[&str]) {
        if let Some((key, meant)) = object.misspelt(known) {
            let fault = Fault::Spelling {
                place,
                key: key.chars().take(80).collect(),
                meant: meant.to_owned(),
                both: object.get(meant).is_some(),
            };
            self.fault(fault);
        }
    }

    /// Reads an object one level deep in the envelope, or passes what is none.
    fn inner(
        &mut self,
        scan: &mut Scan<'a>,
        place: &'static str,
        known: &[&str],
        otherwise: Fault,
    ) -> Result<Option<Object<'a>>, RawError> {
        if scan.peek() != Some(b'{') {
            scan.value(1)?;
            self.fault(otherwise);
            return Ok(None);
        }
        let object = scan.object(1, |scan, _| scan.value(2).map(drop))?;
        self.unique(&object, place);
        self.spelt(&object, place, known);
        Ok(Some(object))
    }

    fn member(&mut self, scan: &mut Scan<'a>, key: &str) -> Result<(), RawError> {
        match key {
            "params" => self.params = self.read_params(scan)?,
            "result" | "error" if scan.peek() == Some(b'n') => {
                scan.value(1)?;
                self.void.get_or_insert(match key {
                    "result" => Fault::Result,
                    _ => Fault::ErrorObject,
                });
            }
            "result" => self.result = self.inner(scan, "result", &RESULT, Fault::Result)?,
            "error" => self.error = self.inner(scan, "error", &ERROR, Fault::ErrorObject)?,
            _ => {
                scan.value(1)?;
            }
        }
        Ok(())
    }

    fn read_params(&mut self, scan: &mut Scan<'a>) -> Result<Option<Params<'a>>, RawError> {
        if scan.peek() != Some(b'{') {
            scan.value(1)?;
            self.fault(Fault::Params { place: "params" });
            return Ok(None);
        }
        let mut meta = None;
        let object = scan.object(1, |scan, key| {
            let place = match key {
                "_meta" => "params._meta",
                "arguments" => "params.arguments",
                _ => return scan.value(2).map(drop),
            };
            if scan.peek() != Some(b'{') {
                scan.value(2)?;
                self.fault(Fault::Params { place });
                return Ok(());
            }
            let inner = scan.object(2, |scan, _| scan.value(3).map(drop))?;
            self.unique(&inner, place);
            if key == "_meta" {
                meta = Some(inner);
            }
            Ok(())
        })?;
        self.unique(&object, "params");
        self.spelt(&object, "params", &PARAMS);
        Ok(Some(Params { object, meta }))
    }
}

impl<'a> Message<'a> {
    /// Reads one line.
    ///
    /// # Errors
    /// [`Rejected`], with the id to answer to wherever the line gives one.
    pub fn parse(line: &'a [u8]) -> Result<Self, Rejected> {
        let unknown = |fault| Rejected {
            fault,
            id: None,
            kind: Kind::Unknown,
        };
        // whoever waits for the answer to what cannot be read is told by its id
        let peeked = |fault| {
            let Peeked { id, kind } = Peek::of(line);
            Rejected { fault, id, kind }
        };
        let text = std::str::from_utf8(line).map_err(|e| {
            peeked(Fault::Utf8 {
                at: e.valid_up_to(),
            })
        });
        let line = text?;
        let mut scan = Scan::new(line);
        scan.white();
        match scan.peek() {
            Some(b'{') => {}
            Some(b'[') => return Err(unknown(Fault::Batch)),
            _ => {
                let read = scan.value(0).and_then(|_| scan.end());
                return Err(unknown(read.map_or_else(Fault::Raw, |()| Fault::Object)));
            }
        }
        let mut draft = Draft::default();
        let envelope = scan
            .object(0, |scan, key| draft.member(scan, key))
            .and_then(|object| scan.end().map(|()| object))
            .map_err(|error| match error {
                RawError::Depth | RawError::Key { .. } => peeked(Fault::Raw(error)),
                RawError::Duplicate { .. } | RawError::Syntax { .. } | RawError::Type { .. } => {
                    unknown(Fault::Raw(error))
                }
            })?;
        draft.unique(&envelope, "the message");
        draft.spelt(&envelope, "the message", &ENVELOPE);
        if let Some(at) = memchr::memchr(b'\r', line.as_bytes()) {
            draft.fault(Fault::CarriageReturn { at });
        }
        Self::classify(line, envelope, draft)
    }

    fn classify(line: &'a str, envelope: Object<'a>, draft: Draft<'a>) -> Result<Self, Rejected> {
        let Draft {
            mut fault,
            void,
            params,
            result,
            error,
        } = draft;
        let method = envelope.get("method");
        let mut answer = (envelope.get("result"), envelope.get("error"));
        let void = void.and_then(|wrong| match answer {
            (Some("null"), Some(error)) if error != "null" => Some("result"),
            (Some(result), Some("null")) if result != "null" => Some("error"),
            (_, _) => {
                fault.get_or_insert(wrong);
                None
            }
        });
        match void {
            Some("result") => answer.0 = None,
            Some(_) => answer.1 = None,
            None => {}
        }
        let id = envelope.get("id").map(match (method, answer) {
            (None, (Some(_), None) | (None, Some(_))) => Id::of_answer,
            (_, _) => Id::parse,
        });
        let kind = match (method, &id, answer) {
            (Some(_), None, (None, None)) => Kind::Notification,
            (Some(_), Some(_), (None, None)) => Kind::Request,
            (None, Some(_), (Some(_), None) | (None, Some(_))) => Kind::Response,
            _ => Kind::Unknown,
        };
        let answerable = match &id {
            Some(Ok(id)) => Some(id.raw()),
            // one that is too long is repeated all the same
            Some(Err(_)) => envelope.get("id").filter(|id| peek::is_echoed(id)),
            None => None,
        };
        let rejected = |fault| Rejected {
            fault,
            id: answerable.map(Into::into),
            kind,
        };
        if fault.is_none() && envelope.get("jsonrpc") != Some("\"2.0\"") {
            fault = Some(Fault::Version);
        }
        if let Some(fault) = fault {
            return Err(rejected(fault));
        }
        let method = match method.map(raw::string) {
            None => None,
            Some(Some(text)) if (1..=limits::METHOD_BYTES).contains(&text.len()) => Some(text),
            Some(_) => return Err(rejected(Fault::Method)),
        };
        match (method, id) {
            (Some(method), None) if kind == Kind::Notification => {
                Ok(Self::Notification(Notification {
                    line,
                    envelope,
                    method,
                    params,
                }))
            }
            (Some(method), Some(id)) if kind == Kind::Request => Ok(Self::Request(Request {
                line,
                envelope,
                id: id.map_err(rejected)?,
                method,
                params,
            })),
            (None, Some(id)) if kind == Kind::Response => {
                let body = match (result, error) {
                    (Some(result), _) => Body::Result(result),
                    (None, Some(object)) => {
                        let code = object.get("code").and_then(|code| code.parse().ok());
                        let (Some(code), Some(message)) = (code, object.text("message")) else {
                            return Err(rejected(Fault::ErrorObject));
                        };
                        Body::Error {
                            code,
                            message,
                            object,
                        }
                    }
                    (None, None) => return Err(rejected(Fault::Kind)),
                };
                let id = match id {
                    Ok(id) => Some(id),
                    Err(Fault::NullId) if matches!(body, Body::Error { .. }) => None,
                    Err(fault) => return Err(rejected(fault)),
                };
                Ok(Self::Response(Response {
                    line,
                    envelope,
                    id,
                    body,
                    void,
                }))
            }
            _ => Err(rejected(Fault::Kind)),
        }
    }
}

impl Request<'_> {
    /// Where the id token lies in the line.
    #[must_use]
    pub fn id_span(&self) -> Range<usize> {
        self.envelope.value_span("id").unwrap_or_default()
    }
}

impl Response<'_> {
    /// Where the id token lies in the line.
    #[must_use]
    pub fn id_span(&self) -> Range<usize> {
        self.envelope.value_span("id").unwrap_or_default()
    }
}

/// Writes `{"jsonrpc":"2.0","id":…,"result":…}` and the newline.
#[must_use]
pub fn result_line(id: &str, result: &str) -> Vec<u8> {
    result_line_of(id, &[result])
}

/// The same with the result in pieces.
#[must_use]
pub fn result_line_of(id: &str, result: &[&str]) -> Vec<u8> {
    let mut parts = vec!["{\"jsonrpc\":\"2.0\",\"id\":", id, ",\"result\":"];
    parts.extend_from_slice(result);
    parts.push("}\n");
    line_of(&parts)
}

/// Writes an error answer and the newline; `data` is JSON text. `id` is `null` where the
/// request gave none that can be repeated.
#[must_use]
pub fn error_line(id: &str, code: i64, message: &str, data: Option<&str>) -> Vec<u8> {
    let (before, data) = data.map_or(("", ""), |data| (",\"data\":", data));
    line_of(&[
        "{\"jsonrpc\":\"2.0\",\"id\":",
        id,
        ",\"error\":{\"code\":",
        &code.to_string(),
        ",\"message\":",
        &raw::quoted(message),
        before,
        data,
        "}}\n",
    ])
}

/// Writes a request and the newline; `params` is JSON text.
#[must_use]
pub fn request_line(id: &str, method: &str, params: Option<&str>) -> Vec<u8> {
    let (before, params) = params.map_or(("", ""), |params| (",\"params\":", params));
    line_of(&[
        "{\"jsonrpc\":\"2.0\",\"id\":",
        id,
        ",\"method\":",
        &raw::quoted(method),
        before,
        params,
        "}\n",
    ])
}

/// Writes a notification and the newline; `params` is JSON text.
#[must_use]
pub fn notification_line(method: &str, params: Option<&str>) -> Vec<u8> {
    let (before, params) = params.map_or(("", ""), |params| (",\"params\":", params));
    line_of(&[
        "{\"jsonrpc\":\"2.0\",\"method\":",
        &raw::quoted(method),
        before,
        params,
        "}\n",
    ])
}

fn line_of(parts: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests;
