//! What Streamable HTTP says about a message outside of it: headers that repeat parts of the body
//! (MCP 2026-07-28, transports: request metadata), and bodies that are not one line.
//!
//! Intermediaries route on these headers and servers compare them with the body, so they are made
//! from the bytes that are sent and from nothing else.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64;
use serde_json::Value;

use super::era::META_PROTOCOL;
use super::msg::{Body, Message, Params};
use super::raw::{self, Object};

/// The header that repeats the revision a message is written in.
pub const VERSION: &str = "MCP-Protocol-Version";
/// The header that repeats a request's method.
pub const METHOD: &str = "Mcp-Method";
/// The header that repeats what a request names.
pub const NAME: &str = "Mcp-Name";

/// `inputSchema` keyword: the argument goes into a header of this name too.
const ANNOTATION: &str = "x-mcp-header";
/// Longest header made of an argument, in bytes; servers stop between 8 and 64 KiB.
const HEADER_BYTES: usize = 16 << 10;

/// The arguments of one tool that go into headers too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mirrored(Vec<Mirror>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    /// `Mcp-Param-…`
    header: String,
    /// The property's name on each level.
    path: Vec<String>,
}

/// What of each tool's arguments goes into headers, by the tool's name. Tools without any are left
/// out.
pub type Headers = BTreeMap<String, Result<Mirrored, AnnotationError>>;

/// Reads it off the definitions of a server's tools.
pub fn headers_of<'a>(tools: impl Iterator<Item = (&'a str, &'a str)>) -> Headers {
    let annotated = tools.filter(|(_, definition)| definition.contains(ANNOTATION));
    let read = annotated.filter_map(|(name, definition)| {
        let definition: Value = serde_json::from_str(definition).ok()?;
        let mirrored = Mirrored::of(definition.get("inputSchema")?);
        Some((name.to_owned(), mirrored))
    });
    read.collect()
}

/// Why a tool's annotations cannot be used: a client must not offer such a tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Two properties name one header.
    #[error("two properties of its inputSchema have the x-mcp-header `{0}`")]
    Duplicate(String),
    /// Not a name of a header.
    #[error("its inputSchema has an x-mcp-header that is no header name")]
    Name,
    /// Somewhere else than on a property that is reached through `properties` only.
    #[error("its inputSchema has an x-mcp-header where no argument can be found by its path")]
    Place,
    /// Only strings, integers and booleans have one spelling.
    #[error("the x-mcp-header `{0}` is on a property that is no string, integer or boolean")]
    Type(String),
}

/// Why a tool must not be offered over HTTP, given its definition.
#[must_use]
pub fn unfit(definition: &str) -> Option<AnnotationError> {
    if !definition.contains(ANNOTATION) {
        return None;
    }
    let definition: Value = serde_json::from_str(definition).ok()?;
    Mirrored::of(definition.get("inputSchema")?).err()
}

impl Mirrored {
    /// Reads an `inputSchema`.
    ///
    /// # Errors
    /// [`AnnotationError`]: the tool must not be offered over HTTP.
    pub fn of(schema: &Value) -> Result<Self, AnnotationError> {
        let mut found = Self::default();
        found.visit(schema, Some(&mut Vec::new()))?;
        let mut names = BTreeSet::new();
        for mirror in &found.0 {
            if !names.insert(mirror.header.to_ascii_lowercase()) {
                let name = mirror.header.trim_start_matches("Mcp-Param-").to_owned();
                return Err(AnnotationError::Duplicate(name));
            }
        }
        Ok(found)
    }

    /// Whether no argument goes into a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the first argument stands that goes into a header here and not, or into another one,
    /// there.
    #[must_use]
    pub fn beyond(&self, there: &Self) -> Option<String> {
        let new = self.0.iter().find(|mirror| !there.0.contains(mirror));
        new.map(|mirror| mirror.path.join("."))
    }

    /// Walks a schema; `path` is there as long as only `properties` led here. The nesting is
    /// bounded by the reader that made the value.
    fn visit(
        &mut self,
        schema: &Value,
        mut path: Option<&mut Vec<String>>,
    ) -> Result<(), AnnotationError> {
        let Value::Object(members) = schema else {
            return Ok(());
        };
        if let Some(name) = members.get(ANNOTATION) {
            let name = name.as_str().filter(|name| is_token(name));
            let name = name.ok_or(AnnotationError::Name)?;
            match &path {
                Some(path) if !path.is_empty() => {
                    if !is_primitive(members.get("type")) {
                        return Err(AnnotationError::Type(name.to_owned()));
                    }
                    self.0.push(Mirror {
                        header: format!("Mcp-Param-{name}"),
                        path: path.to_vec(),
                    });
                }
                Some(_) | None => return Err(AnnotationError::Place),
            }
        }
        for (key, value) in members {
            match (key.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    for (name, property) in properties {
                        match &mut path {
                            Some(path) => {
                                path.push(name.clone());
                                self.visit(property, Some(path))?;
                                path.pop();
                            }
                            None => self.visit(property, None)?,
                        }
                    }
                }
                (
                    "$defs" | "definitions" | "dependentSchemas" | "patternProperties",
                    Value::Object(schemas),
                ) => {
                    for schema in schemas.values() {
                        self.visit(schema, None)?;
                    }
                }
                (
                    "additionalItems"
                    | "additionalProperties"
                    | "allOf"
                    | "anyOf"
                    | "contains"
                    | "contentSchema"
                    | "else"
                    | "if"
                    | "items"
                    | "not"
                    | "oneOf"
                    | "prefixItems"
                    | "propertyNames"
                    | "then"
                    | "unevaluatedItems"
                    | "unevaluatedProperties",
                    schema,
                ) => match schema {
                    Value::Array(schemas) => {
                        for schema in schemas {
                            self.visit(schema, None)?;
                        }
                    }
                    schema => self.visit(schema, None)?,
                },
                _ => {}
            }
        }
        Ok(())
    }
}

/// RFC 9110, 5.1: `1*tchar`.
fn is_token(name: &str) -> bool {
    let tchar = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.len() <= 128 && name.bytes().all(tchar)
}

fn is_primitive(kind: Option<&Value>) -> bool {
    let one = |kind: &Value| {
        let known = ["boolean", "integer", "string"];
        kind.as_str().is_some_and(|kind| known.contains(&kind))
    };
    match kind {
        Some(Value::Array(kinds)) => {
            let mut others = kinds.iter().filter(|kind| kind.as_str() != Some("null"));
            kinds.len() <= 2 && others.next().is_some_and(one) && others.next().is_none()
        }
        Some(kind) => one(kind),
        None => false,
    }
}

/// What a line is, as far as its delivery over HTTP depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The id of a request; ours are numbers.
    pub id: Option<u64>,
    /// `method`; `None` for an answer of ours.
    pub method: Option<String>,
    /// The revision a request of the stateless era says it is written in.
    pub stateless: Option<String>,
    /// The request a `notifications/cancelled` takes back.
    pub cancels: Option<u64>,
    /// The tool of a `tools/call`.
    pub tool: Option<String>,
}

impl Parcel {
    /// Reads a message of ours.
    #[must_use]
    pub fn of(message: &Message<'_>) -> Self {
        let (id, method, params) = match message {
            Message::Notification(note) => (None, Some(&note.method), note.params.as_ref()),
            Message::Request(request) => (
                request.id.number(),
                Some(&request.method),
                request.params.as_ref(),
            ),
            Message::Response(_) => (None, None, None),
        };
        let meta = params.and_then(|params| params.meta.as_ref());
        let stateless = meta.and_then(|meta| meta.text(META_PROTOCOL));
        let member = |of: &str, key: &str| {
            let params = params.filter(|_| method.is_some_and(|method| method == of));
            params.and_then(|params: &Params<'_>| params.object.get(key))
        };
        let number = member("notifications/cancelled", "requestId");
        Self {
            id,
            method: method.map(|method| method.clone().into_owned()),
            stateless: stateless.map(Cow::into_owned),
            cancels: number.and_then(|number| number.parse().ok()),
            tool: member("tools/call", "name")
                .and_then(raw::string)
                .map(Cow::into_owned),
        }
    }
}

/// Why a message cannot be sent over HTTP. A phrase that follows the server's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// An argument is looked for in an object that can be read in two ways.
    #[error("wants the argument `{0}` in a header, where it is not readable in one way only")]
    Ambiguous(String),
    /// Too long for a header.
    #[error("wants `{0}` in a header, and it is longer than {HEADER_BYTES} bytes")]
    TooLong(String),
}

/// The headers that repeat parts of a message of the stateless era, in order, none for others.
///
/// # Errors
/// [`HeaderError`] when a part cannot be repeated.
pub fn headers(
    message: &Message<'_>,
    mirrored: &Mirrored,
) -> Result<Vec<(Cow<'static, str>, String)>, HeaderError> {
    let Message::Request(request) = message else {
        return Ok(Vec::new());
    };
    let params = request.params.as_ref();
    let meta = params.and_then(|params| params.meta.as_ref());
    let Some(version) = meta.and_then(|meta| meta.text(META_PROTOCOL)) else {
        return Ok(Vec::new());
    };
    let mut out = vec![
        (Cow::Borrowed(VERSION), encoded(&version)),
        (Cow::Borrowed(METHOD), encoded(&request.method)),
    ];
    let object = params.map(|params| &params.object);
    let named = match request.method.as_ref() {
        "prompts/get" | "tools/call" => Some("name"),
        "resources/read" => Some("uri"),
        // SEP-2663
        "tasks/cancel" | "tasks/get" | "tasks/update" => Some("taskId"),
        _ => None,
    };
    if let Some(name) = named.and_then(|key| object?.text(key)) {
        let name = bounded("the name", encoded(&name))?;
        out.push((Cow::Borrowed(NAME), name));
    }
    if request.method == "tools/call"
        && let Some(arguments) = object.and_then(|object| object.get("arguments"))
    {
        for mirror in &mirrored.0 {
            if let Some(value) = mirror.value(arguments)? {
                let label = mirror.path.join(".");
                let header = Cow::Owned(mirror.header.clone());
                out.push((header, bounded(&label, encoded(&value))?));
            }
        }
    }
    Ok(out)
}

fn bounded(what: &str, value: String) -> Result<String, HeaderError> {
    match value.len() {
        0..=HEADER_BYTES => Ok(value),
        _ => Err(HeaderError::TooLong(what.to_owned())),
    }
}

impl Mirror {
    /// The value at the path, spelt for a header; `None` where there is none to repeat.
    fn value<'a>(&self, arguments: &'a str) -> Result<Option<Cow<'a, str>>, HeaderError> {
        let ambiguous = || HeaderError::Ambiguous(self.path.join("."));
        let mut token = arguments;
        for name in &self.path {
            if !token.starts_with('{') {
                return Ok(None);
            }
            let object = Object::parse(token).ok().ok_or_else(ambiguous)?;
            object.unique().ok().ok_or_else(ambiguous)?;
            match object.get(name) {
                Some(value) => token = value,
                None => return Ok(None),
            }
        }
        match token.as_bytes().first() {
            Some(b'"') => raw::string(token).map(Some).ok_or_else(ambiguous),
            Some(b'{' | b'[' | b'n') | None => Ok(None),
            Some(b't' | b'f') => Ok(Some(Cow::Borrowed(token))),
            Some(_) => Ok(Some(decimal(token))),
        }
    }
}

/// An integer in decimal digits, however it is spelt; what is none stays as it is, and the server
/// says so.
fn decimal(token: &str) -> Cow<'_, str> {
    let digits = token.strip_prefix('-').unwrap_or(token);
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Cow::Borrowed(token);
    }
    const SAFE: f64 = 9_007_199_254_740_991.0;
    match token.parse::<f64>() {
        Ok(number) if number.fract() == 0.0 && number.abs() <= SAFE => {
            Cow::Owned(format!("{number:.0}"))
        }
        Ok(_) | Err(_) => Cow::Borrowed(token),
    }
}

/// A value as a header carries it (MCP 2026-07-28, value encoding): as it is where every reader
/// of HTTP gives it back unchanged, else in Base64 between two marks.
#[must_use]
pub fn encoded(value: &str) -> String {
    const MARKS: (&str, &str) = ("=?base64?", "?=");
    let visible = |c: u8| matches!(c, b'\t' | b' '..=b'~');
    let blank = |c: char| matches!(c, ' ' | '\t');
    let marked = value.starts_with(MARKS.0) && value.ends_with(MARKS.1);
    let blanks = value.starts_with(blank) || value.ends_with(blank);
    if value.bytes().all(visible) && !marked && !blanks {
        return value.to_owned();
    }
    let body = BASE64.encode(value.as_bytes());
    format!("{}{body}{}", MARKS.0, MARKS.1)
}

/// Whether a line is an answer to the request with this id.
#[must_use]
pub fn answers(line: &[u8], id: u64) -> bool {
    match Message::parse(line) {
        Ok(Message::Response(response)) => response.id.and_then(|own| own.number()) == Some(id),
        Ok(Message::Notification(_) | Message::Request(_)) | Err(_) => false,
    }
}

/// What an answer says that is an error.
#[must_use]
pub fn said(line: &[u8]) -> Option<String> {
    match Message::parse(line) {
        Ok(Message::Response(response)) => match response.body {
            Body::Error { message, .. } => Some(message.into_owned()),
            Body::Result(_) => None,
        },
        Ok(Message::Notification(_) | Message::Request(_)) | Err(_) => None,
    }
}

/// The error object of a refusal that a server put beside an HTTP status, where it is for the
/// request with this id or names none.
#[must_use]
pub fn refusal(body: &[u8], id: u64) -> Option<String> {
    match Message::parse(body) {
        Ok(Message::Response(response)) => match (&response.id, &response.body) {
            (Some(own), _) if own.number() != Some(id) => None,
            (_, Body::Error { object, .. }) => Some(object.raw().to_owned()),
            (_, Body::Result(_)) => None,
        },
        Ok(Message::Notification(_) | Message::Request(_)) => None,
        // some leave the id out where they could not read it
        Err(_) => {
            let object = Object::parse(std::str::from_utf8(body).ok()?.trim()).ok()?;
            let error = object.object("error").ok()??;
            let known = object.get("id").is_none()
                && error.get("code")?.parse::<i64>().is_ok()
                && error.text("message").is_some();
            known.then(|| error.raw().to_owned())
        }
    }
}

/// Makes one line of a JSON text: each line break between its tokens becomes a space. Inside a
/// string a line break is not JSON; it stays, for the reader that refuses it.
pub fn flatten(text: &mut [u8]) {
    if memchr::memchr2(b'\n', b'\r', text).is_none() {
        return;
    }
    let (mut string, mut escaped) = (false, false);
    for byte in text {
        match (*byte, string) {
            (_, true) if escaped => escaped = false,
            (b'\\', true) => escaped = true,
            (b'"', _) => string = !string,
            (b'\n' | b'\r', false) => *byte = b' ',
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn of(line: &str, schema: &Value) -> Result<Vec<(Cow<'static, str>, String)>, HeaderError> {
        let mirrored = Mirrored::of(schema).unwrap();
        headers(&Message::parse(line.as_bytes()).unwrap(), &mirrored)
    }

    fn call(arguments: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"sql","arguments":{arguments},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
        )
    }

    fn pairs<'a>(found: &'a [(Cow<'static, str>, String)]) -> Vec<(&'a str, &'a str)> {
        found
            .iter()
            .map(|(n, v)| (n.as_ref(), v.as_str()))
            .collect()
    }

    #[test]
    fn a_request_of_the_stateless_era_repeats_its_method_and_name() {
        let found = of(&call("{}"), &json!({})).unwrap();
        assert_eq!(
            pairs(&found),
            [
                ("MCP-Protocol-Version", "2026-07-28"),
                ("Mcp-Method", "tools/call"),
                ("Mcp-Name", "sql")
            ]
        );
    }

    #[test]
    fn a_request_of_the_handshake_era_repeats_nothing() {
        let line = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"sql"}}"#;
        assert_eq!(of(line, &json!({})).unwrap(), []);
    }

    #[test]
    fn annotated_arguments_go_into_headers() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {
                "limit": {"type": "integer", "x-mcp-header": "Limit"},
                "flag": {"type": ["boolean", "null"], "x-mcp-header": "Flag"},
            }},
            // the name of a property, not an annotation
            "x-mcp-header": {"type": "string"},
        }});
        let found = of(
            &call(r#"{"region":"Gr\u00f6nland","deep":{"limit":4.2e1,"flag":true}}"#),
            &schema,
        )
        .unwrap();
        assert_eq!(
            pairs(&found[3..]),
            [
                ("Mcp-Param-Flag", "true"),
                ("Mcp-Param-Limit", "42"),
                ("Mcp-Param-Region", "=?base64?R3LDtm5sYW5k?="),
            ]
        );
        for nothing in [
            r#"{"region":null,"deep":{"limit":null}}"#,
            r#"{"deep":7}"#,
            "{}",
        ] {
            assert_eq!(of(&call(nothing), &schema).unwrap().len(), 3, "{nothing}");
        }
        let twice = of(&call(r#"{"deep":{"limit":1,"limit":2}}"#), &schema);
        assert!(matches!(twice, Err(HeaderError::Ambiguous(_))));
        let long = of(
            &call(&format!(r#"{{"region":"{}"}}"#, "a".repeat(20_000))),
            &schema,
        );
        assert!(matches!(long, Err(HeaderError::TooLong(_))));
    }

    #[test]
    fn annotations_that_a_client_must_not_use_are_refused() {
        let property = |annotated: Value| json!({"type": "object", "properties": {"a": annotated}});
        let string = json!({"type": "string", "x-mcp-header": "A"});
        for (schema, expected) in [
            (
                property(json!({"type": "string", "x-mcp-header": ""})),
                AnnotationError::Name,
            ),
            (
                property(json!({"type": "string", "x-mcp-header": "a b"})),
                AnnotationError::Name,
            ),
            (
                property(json!({"type": "string", "x-mcp-header": "a\r\nb"})),
                AnnotationError::Name,
            ),
            (
                property(json!({"type": "string", "x-mcp-header": 1})),
                AnnotationError::Name,
            ),
            (
                property(json!({"type": "number", "x-mcp-header": "A"})),
                AnnotationError::Type("A".to_owned()),
            ),
            (
                property(json!({"x-mcp-header": "A"})),
                AnnotationError::Type("A".to_owned()),
            ),
            (
                property(json!({"type": "array", "items": string})),
                AnnotationError::Place,
            ),
            (
                json!({"type": "object", "x-mcp-header": "A"}),
                AnnotationError::Place,
            ),
            (
                json!({"allOf": [property(string.clone())]}),
                AnnotationError::Place,
            ),
            (json!({"$defs": {"x": string}}), AnnotationError::Place),
            (
                json!({"properties": {"a": string, "b": {"type": "string", "x-mcp-header": "a"}}}),
                AnnotationError::Duplicate("a".to_owned()),
            ),
        ] {
            assert_eq!(Mirrored::of(&schema), Err(expected), "{schema}");
        }
    }

    /// The table of the specification.
    #[test]
    fn values_are_encoded_as_the_specification_shows() {
        for (value, header) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("=?base64?open", "=?base64?open"),
            ("", ""),
        ] {
            assert_eq!(encoded(value), header);
        }
    }

    #[test]
    fn no_argument_can_add_a_header() {
        arbtest::arbtest(|u| {
            let value: String = u.arbitrary()?;
            let header = encoded(&value);
            assert!(header.bytes().all(|c| matches!(c, b'\t' | b' '..=b'~')));
            match header
                .strip_prefix("=?base64?")
                .and_then(|h| h.strip_suffix("?="))
            {
                Some(body) => assert_eq!(BASE64.decode(body.as_bytes()).unwrap(), value.as_bytes()),
                None => assert_eq!(header, value),
            }
            Ok(())
        });
    }

    #[test]
    fn a_text_of_many_lines_becomes_one() {
        let check = |text: &str, expected: &str| {
            let mut text = text.as_bytes().to_vec();
            flatten(&mut text);
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        };
        check("{\n  \"a\": 1\r\n}\n", "{   \"a\": 1  } ");
        check("{\"a\\\"\":\n\"b\\\\\"\n}", "{\"a\\\"\": \"b\\\\\" }");
        check("{\"a\":\"b\nc\"}", "{\"a\":\"b\nc\"}");
    }

    #[test]
    fn a_refusal_is_for_the_request_or_for_nobody_by_name() {
        let error = r#"{"code":-32000,"message":"no"}"#;
        for id in [r#""id":7,"#, r#""id":null,"#, ""] {
            let body = format!(r#"{{"jsonrpc":"2.0",{id}"error":{error}}}"#);
            assert_eq!(
                refusal(body.as_bytes(), 7).as_deref(),
                Some(error),
                "{body}"
            );
        }
        for body in [
            r#"{"jsonrpc":"2.0","id":8,"error":{"code":-32000,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
            r#"{"error":"no"}"#,
            r#"{"error":{"code":"x","message":"no"}}"#,
            "<html>",
            "",
        ] {
            assert_eq!(refusal(body.as_bytes(), 7), None, "{body}");
        }
        assert!(answers(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#, 7));
        assert!(!answers(br#"{"jsonrpc":"2.0","id":8,"result":{}}"#, 7));
        assert!(!answers(br#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, 7));
    }

    #[test]
    fn a_message_says_how_it_is_delivered() {
        let of = |line: &str| Parcel::of(&Message::parse(line.as_bytes()).unwrap());
        let call = call("{}");
        let parcel = of(&call);
        assert_eq!((parcel.id, parcel.tool.as_deref()), (Some(7), Some("sql")));
        assert_eq!(parcel.stateless.as_deref(), Some("2026-07-28"));
        let cancel =
            of(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#);
        assert_eq!((cancel.id, cancel.cancels), (None, Some(7)));
        let answer = of(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
        assert_eq!((answer.id, answer.method.as_deref()), (None, None));
    }
}
