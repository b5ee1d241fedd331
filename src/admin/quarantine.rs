//! Tools that must not be offered: one of them makes a client refuse the whole conversation, or
//! shows a reviewer another text than the model reads.

use crate::pin::canon::Json;
use crate::registry::doc::{Pinned, ServerDoc, Transport};
use crate::wire::http;

/// Returns why a tool must not be offered, if so.
///
/// The model APIs behind the clients refuse a request with *any* tool whose input schema is not
/// an object schema, combines schemas at its top, or has a property key outside
/// `[a-zA-Z0-9_.-]{1,64}`.
pub(super) fn reason(tool: &Pinned) -> Option<String> {
    let definition = match Json::parse(tool.definition.get()) {
        Ok(definition) => definition,
        Err(error) => return Some(error.to_string()),
    };
    schema(&definition).or_else(|| hidden(&definition))
}

/// [`reason`], and what only counts for servers over HTTP: a tool whose arguments cannot be put
/// into the headers that it wants (MCP 2026-07-28, `x-mcp-header`).
pub(super) fn reason_on(server: &ServerDoc, tool: &Pinned) -> Option<String> {
    let headers = || match &server.transport {
        Transport::Http { .. } => Some(http::unfit(tool.definition.get())?.to_string()),
        Transport::Stdio { .. } => None,
    };
    reason(tool).or_else(headers)
}

/// Says how a prompt, a resource or a template hides text. It has no schema to choke on.
pub(super) fn hides(entry: &Pinned) -> Option<String> {
    hidden(&Json::parse(entry.definition.get()).ok()?)
}

fn schema(definition: &Json) -> Option<String> {
    let Some(Json::Object(schema)) = definition.get("inputSchema") else {
        return Some("it has no inputSchema that is an object".to_owned());
    };
    if schema.get("type").and_then(Json::as_str) != Some("object") {
        return Some("the type of its inputSchema is not `object`".to_owned());
    }
    for word in ["allOf", "anyOf", "oneOf"] {
        if schema.contains_key(word) {
            return Some(format!(
                "its inputSchema has `{word}` at the top, which model APIs refuse"
            ));
        }
    }
    let Json::Object(properties) = schema.get("properties")? else {
        return Some("the properties of its inputSchema are not an object".to_owned());
    };
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let odd = properties
        .keys()
        .find(|key| !(1..=64).contains(&key.len()) || !key.bytes().all(fits))?;
    let odd = crate::pin::printable(odd);
    Some(format!(
        "model APIs refuse the property key `{odd}`: expected 1 to 64 of a-z A-Z 0-9 _ . -"
    ))
}

/// Text that is there for the model and not for the reviewer: tag characters, overrides of the
/// writing direction, terminal controls.
fn hidden(json: &Json) -> Option<String> {
    let mut found = None;
    each_text(json, &mut |text| {
        if found.is_none() {
            found = hidden_in(text);
        }
    });
    found
}

/// [`hidden`], of one text.
pub(super) fn hidden_in(text: &str) -> Option<String> {
    let odd = text.chars().find(|c| match c {
        '\t' | '\n' | '\r' => false,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    })?;
    let code = u32::from(odd);
    Some(format!("it hides text from reviewers: U+{code:04X}"))
}

fn each_text(json: &Json, visit: &mut impl FnMut(&str)) {
    match json {
        Json::Array(items) => items.iter().for_each(|item| each_text(item, visit)),
        Json::Literal(_) => {}
        Json::Object(members) => {
            for (key, value) in members {
                visit(key);
                each_text(value, visit);
            }
        }
        Json::String(text) => visit(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pin::{self, Kind};

    fn check(definition: &str, expected: Option<&str>) {
        let raw = serde_json::from_str(definition).unwrap();
        let tool = pin::entry(Kind::Tool, raw).unwrap();
        assert_eq!(reason(&tool).as_deref(), expected, "{definition}");
    }

    #[test]
    fn an_ordinary_tool_is_offered() {
        check(r#"{"name":"a","inputSchema":{"type":"object"}}"#, None);
        check(
            r#"{"name":"a","description":"Größe 👩‍👩‍👧\n\ttwo","inputSchema":{"type":"object","properties":{"a.b-c_1":{"anyOf":[]}}}}"#,
            None,
        );
    }

    #[test]
    fn a_schema_that_breaks_the_conversation_is_quarantined() {
        check(
            r#"{"name":"a"}"#,
            Some("it has no inputSchema that is an object"),
        );
        check(
            r#"{"name":"a","inputSchema":true}"#,
            Some("it has no inputSchema that is an object"),
        );
        check(
            r#"{"name":"a","inputSchema":{}}"#,
            Some("the type of its inputSchema is not `object`"),
        );
        check(
            r#"{"name":"a","inputSchema":{"type":"object","oneOf":[{}]}}"#,
            Some("its inputSchema has `oneOf` at the top, which model APIs refuse"),
        );
        check(
            r#"{"name":"a","inputSchema":{"type":"object","properties":{"$.xgafv":{}}}}"#,
            Some(
                "model APIs refuse the property key `$.xgafv`: expected 1 to 64 of a-z A-Z 0-9 _ . -",
            ),
        );
    }

    #[test]
    fn a_text_that_a_reviewer_cannot_see_is_quarantined() {
        for (text, code) in [
            ("\\u202e", "202E"),
            ("\\udb40\\udc41", "E0041"),
            ("\\u001b[8m", "001B"),
        ] {
            check(
                &format!(
                    r#"{{"name":"a","description":"x{text}","inputSchema":{{"type":"object"}}}}"#
                ),
                Some(&format!("it hides text from reviewers: U+{code}")),
            );
        }
    }
}
