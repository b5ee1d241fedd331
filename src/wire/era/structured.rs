//! Structured content of tools between the revisions (SEP-2106).
//!
//! 2026-07-28 lets `outputSchema` and `structuredContent` be any JSON. Up to 2025-11-25 both are
//! objects, and before 2025-06-18 nobody reads them. What a client cannot read as it is becomes
//!
//! ```text
//!   "outputSchema": S        ─▶  {"type":"object","properties":{"result":S},"required":["result"]}
//!   "structuredContent": V   ─▶  {"result":V}, and V as text where the content has no text
//! ```
//!
//! The two agree: a tool whose schema is listed in that form has all its results in it. Nothing is
//! left out because a server SHOULD have said it in another place too.

use std::borrow::Cow;

use super::{Era, Revision};
use crate::wire::raw::{self, Change, Edits, Object};

/// The first revision whose clients read `structuredContent`.
const FIRST: Revision = Revision::V2025_06_18;

/// How a client of the handshake era gets the `outputSchema` of a tool of a stateless server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// As it is: its root is an object.
    Kept,
    /// Not at all: it is no schema.
    Removed,
    /// As this one, whose `result` is it.
    Wrapped(String),
}

impl Schema {
    /// Reads a schema, raw JSON.
    #[must_use]
    pub fn of(schema: &str) -> Self {
        if matches!(schema, "true" | "false") {
            return Self::Wrapped(wrapper("", schema));
        }
        let Ok(root) = Object::parse(schema) else {
            return Self::Removed;
        };
        if root.text("type").as_deref() == Some("object") {
            return Self::Kept;
        }
        Self::Wrapped(moved(&root))
    }
}

fn wrapper(dialect: &str, schema: &str) -> String {
    format!(
        r#"{{{dialect}"type":"object","properties":{{"result":{schema}}},"required":["result"]}}"#
    )
}

/// A schema as `result` of another: references into itself are to its new place.
fn moved(root: &Object<'_>) -> String {
    let text = root.raw();
    // what validators look for at the root
    let dialect = root.get("$schema").filter(|value| value.starts_with('"'));
    let member = dialect.map(|value| format!("\"$schema\":{value},"));
    let dialect = member.unwrap_or_default();
    if root.text("$id").is_some_and(|id| is_base(&id)) {
        // its references are to that, wherever it stands
        return wrapper(&dialect, text);
    }
    let mut edits = Edits::new();
    match references(text, &mut edits) {
        Some(()) => {
            let mut out = Vec::with_capacity(text.len() + 64);
            edits.apply(text, &mut out);
            let schema = String::from_utf8(out).unwrap_or_default();
            wrapper(&dialect, &schema)
        }
        // says less, and nothing that is wrong
        None => wrapper(&dialect, "{}"),
    }
}

/// Whether references are to be read relative to this `$id`; one of an anchor is not.
fn is_base(id: &str) -> bool {
    !id.starts_with('#')
}

/// What the members of a part of a schema are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Keywords.
    Keywords,
    /// Names that the author chose, of schemas.
    Names,
}

/// Edits the references of a schema into itself (JSON pointers, RFC 6901). `None` where one is of
/// a kind that is not moved so: relative to the root by another rule (JSON Schema 2019-09).
fn references(text: &str, edits: &mut Edits) -> Option<()> {
    let mut left = vec![(text, Part::Keywords)];
    while let Some((part, kind)) = left.pop() {
        if part.starts_with('[') {
            let parts = raw::elements(part).ok()?;
            left.extend(parts.into_iter().map(|part| (part, Part::Keywords)));
            continue;
        }
        if !part.starts_with('{') {
            continue;
        }
        let object = Object::parse(part).ok()?;
        let inner = part.len() < text.len();
        if kind == Part::Keywords && inner && object.text("$id").is_some_and(|id| is_base(&id)) {
            continue;
        }
        for (key, value) in object.members() {
            match (kind, key.as_ref()) {
                (Part::Names, _) => left.push((value, Part::Keywords)),
                (Part::Keywords, "$recursiveRef" | "$recursiveAnchor") => return None,
                (Part::Keywords, "$ref" | "$dynamicRef") => {
                    let target = raw::string(value)?;
                    if let Some(pointer) = target.strip_prefix('#')
                        && (pointer.is_empty() || pointer.starts_with('/'))
                    {
                        let target = raw::quoted(&format!("#/properties/result{pointer}"));
                        edits.replace(raw::place(text, value)?, &target);
                    }
                }
                // instances, no schemas
                (Part::Keywords, "const" | "default" | "enum" | "examples") => {}
                (
                    Part::Keywords,
                    "$defs" | "definitions" | "dependencies" | "dependentSchemas"
                    | "patternProperties" | "properties",
                ) => left.push((value, Part::Names)),
                (Part::Keywords, _) => left.push((value, Part::Keywords)),
            }
        }
    }
    Some(())
}

/// What becomes of `structuredContent` in a result.
pub(super) struct Content<'a> {
    /// Its value for the client, where that is another.
    value: Option<String>,
    /// A block of text, which the content has none of.
    text: Option<String>,
    content: Option<&'a str>,
}

impl<'a> Content<'a> {
    /// What a client reads otherwise. `wraps` says that the tool's schema was listed in the other
    /// form.
    pub(super) fn of(result: &Object<'a>, from: Era, to: Era, wraps: bool) -> Option<Self> {
        let structured = result.get("structuredContent")?;
        let reads = to.revision() >= FIRST;
        let is_object = structured.starts_with('{');
        let between = from == Era::Stateless && matches!(to, Era::Handshake(_));
        let value =
            (between && (wraps || !is_object)).then(|| format!("{{\"result\":{structured}}}"));
        let lost = (between && !is_object) || (!reads && from.revision() >= FIRST);
        let content = result.get("content");
        let text = (lost && !content.is_some_and(has_text)).then(|| {
            let text = raw::quoted(structured);
            format!(r#"{{"type":"text","text":{text}}}"#)
        });
        (value.is_some() || text.is_some()).then_some(Self {
            value,
            text,
            content,
        })
    }

    /// The change of a member.
    pub(super) fn change(&self, key: &str) -> Change<'_> {
        match (key, &self.value) {
            ("structuredContent", Some(value)) => Change::Value(value),
            _ => Change::Keep,
        }
    }

    /// Puts the text into the content; gives the content to append where there is none.
    pub(super) fn text(&self, edits: &mut Edits, result: &Object<'_>) -> Option<String> {
        let text = self.text.as_deref()?;
        let (Some(content), Some(span)) = (self.content, result.value_span("content")) else {
            return Some(format!("[{text}]"));
        };
        // one that is no list is the server's fault, and passes
        let blocks = raw::elements(content).ok()?;
        let (at, text) = match blocks.last().and_then(|last| raw::place(content, last)) {
            Some(last) => (span.start + last.end, Cow::Owned(format!(",{text}"))),
            None => (span.start + 1, Cow::Borrowed(text)),
        };
        edits.replace(at..at, &text);
        None
    }
}

/// Whether a content has a block of text.
fn has_text(content: &str) -> bool {
    let blocks = raw::elements(content).unwrap_or_default();
    let is_text = |block: &&str| {
        let block = Object::parse(block).ok();
        block.is_some_and(|block| block.text("type").as_deref() == Some("text"))
    };
    blocks.iter().any(is_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(schema: &str) -> String {
        match Schema::of(schema) {
            Schema::Wrapped(wrapped) => wrapped,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_schema_of_any_root_becomes_one_of_an_object_and_an_object_stays() {
        assert_eq!(
            wrapped(r#"{ "type" : ["array","null"], "x":1.0 }"#),
            r#"{"type":"object","properties":{"result":{ "type" : ["array","null"], "x":1.0 }},"required":["result"]}"#
        );
        assert_eq!(
            wrapped("true"),
            r#"{"type":"object","properties":{"result":true},"required":["result"]}"#
        );
        assert!(wrapped(r#"{"anyOf":[{"type":"object"}]}"#).contains(r#""result":{"anyOf""#));
        for object in [
            r#"{"type":"object"}"#,
            r##"{"$ref":"#/x","\u0074ype":"object"}"##,
        ] {
            assert_eq!(Schema::of(object), Schema::Kept);
        }
        for none in ["null", "7", "[]", "\"x\"", r#"{"type":1,"type":2}"#] {
            assert_eq!(Schema::of(none), Schema::Removed, "{none}");
        }
    }

    /// A result of a stateless server, or of this revision, as this client reads it.
    fn read(result: &str, from: Era, to: Revision, wraps: bool) -> String {
        let object = Object::parse(result).unwrap();
        let mut edits = Edits::new();
        let era = to.era();
        super::super::result(&mut edits, &object, from, era, false, None, wraps).unwrap();
        let mut out = Vec::new();
        edits.apply(result, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_result_that_is_no_object_reaches_an_older_client_as_one_and_as_text() {
        let read = |result: &str| read(result, Era::Stateless, Revision::V2025_11_25, false);
        for value in ["[1, 2]", "\"a\\n\"", "7.10", "null", "false"] {
            let quoted = raw::quoted(value);
            let result =
                format!(r#"{{"resultType":"complete","content":[ ],"structuredContent":{value}}}"#);
            assert_eq!(
                read(&result),
                format!(
                    r#"{{"content":[{{"type":"text","text":{quoted}}} ],"structuredContent":{{"result":{value}}}}}"#
                )
            );
        }
        // what is there stays, and stays alone where it is text
        assert_eq!(
            read(r#"{"content":[{"type":"image"} ],"structuredContent":[1],"isError":true}"#),
            r#"{"content":[{"type":"image"},{"type":"text","text":"[1]"} ],"structuredContent":{"result":[1]},"isError":true}"#
        );
        assert_eq!(
            read(r#"{"content":[{"type":"text","text":"one"}],"structuredContent":[1]}"#),
            r#"{"content":[{"type":"text","text":"one"}],"structuredContent":{"result":[1]}}"#
        );
        assert_eq!(
            read(r#"{"structuredContent":[1]}"#),
            r#"{"structuredContent":{"result":[1]},"content":[{"type":"text","text":"[1]"}]}"#
        );
        // not a list: passes, and nothing is lost
        assert_eq!(
            read(r#"{"content":7,"structuredContent":[1]}"#),
            r#"{"content":7,"structuredContent":{"result":[1]}}"#
        );
    }

    #[test]
    fn a_result_that_is_an_object_stays_as_it_is_unless_its_schema_was_listed_otherwise() {
        let result = r#"{"content":[],"structuredContent":{"a":1}}"#;
        let handshake = Era::Handshake(Revision::V2025_11_25);
        for to in [Revision::V2025_06_18, Revision::V2025_11_25] {
            assert_eq!(read(result, Era::Stateless, to, false), result);
            assert_eq!(read(result, handshake, to, false), result);
            assert_eq!(
                read(result, Era::Stateless, to, true),
                r#"{"content":[],"structuredContent":{"result":{"a":1}}}"#
            );
        }
        // nor is what a handshake server says to a client of its own era touched
        let odd = r#"{"content":[],"structuredContent":[1]}"#;
        assert_eq!(read(odd, handshake, Revision::V2025_11_25, false), odd);
        assert_eq!(read(odd, Era::Stateless, Revision::V2026_07_28, false), odd);
    }

    #[test]
    fn a_client_that_does_not_read_structured_content_has_it_as_text() {
        let result = r#"{"content":[],"structuredContent":{"a":1}}"#;
        let said =
            r#"{"content":[{"type":"text","text":"{\"a\":1}"}],"structuredContent":{"a":1}}"#;
        for to in [Revision::V2024_11_05, Revision::V2025_03_26] {
            for from in [
                Era::Stateless,
                Era::Handshake(Revision::V2025_06_18),
                Era::Handshake(Revision::V2025_11_25),
            ] {
                assert_eq!(read(result, from, to, false), said);
            }
            // a server of that time says nothing by it
            assert_eq!(read(result, Era::Handshake(to), to, false), result);
        }
    }

    #[test]
    fn references_of_a_schema_into_itself_lead_to_its_new_place() {
        let schema = r##"{"type":"array","items":{"$ref":"#/$defs/a"},"$defs":{"a":{"anyOf":[{"$ref" : "#"},{"$ref":"other.json#/a"},{"$ref":"#anchor"}]},"$ref":{"type":"null"}},"default":{"$ref":"#"}}"##;
        assert_eq!(
            wrapped(schema),
            r##"{"type":"object","properties":{"result":{"type":"array","items":{"$ref":"#/properties/result/$defs/a"},"$defs":{"a":{"anyOf":[{"$ref" : "#/properties/result"},{"$ref":"other.json#/a"},{"$ref":"#anchor"}]},"$ref":{"type":"null"}},"default":{"$ref":"#"}}},"required":["result"]}"##
        );
        // a base of its own, at the root and below
        let own = r##"{"$id":"https://x.example/s","type":"array","items":{"$ref":"#"}}"##;
        assert!(wrapped(own).contains(own));
        let below = r##"{"type":"array","items":{"$id":"https://x.example/s","$ref":"#"}}"##;
        assert!(wrapped(below).contains(below));
        let anchor = r##"{"$id":"#a","type":"array","items":{"$ref":"#/x"}}"##;
        assert!(wrapped(anchor).contains("#/properties/result/x"));
        // the dialect is looked for at the root
        let old = r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"null"}"#;
        assert!(
            wrapped(old).starts_with(r#"{"$schema":"http://json-schema.org/draft-07/schema#","#)
        );
        // what cannot be moved is left open, and so are texts that are no references
        let recursive = r##"{"type":"array","items":{"$recursiveRef":"#"}}"##;
        assert!(wrapped(recursive).contains(r#""result":{}"#));
        assert!(wrapped(r#"{"$ref":7}"#).contains(r#""result":{}"#));
    }
}
