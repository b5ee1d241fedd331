//! Entries that must not be offered: one of them makes a client refuse the whole list or the whole
//! conversation, or shows a reviewer another text than the model reads. Such an entry is left out
//! alone, with its reason; the rest of its server is offered.

use std::collections::BTreeMap;

use super::Kind;
use super::canon::Json;
use super::schema;
use crate::limits;
use crate::registry::doc::{Pinned, Surface, Transport};
use crate::text::{self, printable};
use crate::wire::http;

/// Moves what must not be offered out of the lists, and says why. Tools stand in the quarantine
/// under their name, the other kinds behind their word: `prompt/NAME`.
pub fn sift(transport: &Transport, surface: &mut Surface) {
    let mut found = std::mem::take(&mut surface.quarantined);
    let lists = [
        (Kind::Tool, &mut surface.tools),
        (Kind::Prompt, &mut surface.prompts),
        (Kind::Template, &mut surface.templates),
        (Kind::Resource, &mut surface.resources),
    ];
    for (kind, entries) in lists {
        entries.retain(|entry| {
            let Some(reason) = reason_on(transport, kind, entry) else {
                return true;
            };
            found.insert(place(kind, &entry.name), reason);
            false
        });
    }
    surface.quarantined = found;
    surface.unfit = unfit(surface);
}

/// Clients whose model API refuses a whole conversation with a tool that is [`unfit`], by the name
/// that they give themselves.
pub const PARTICULAR_CLIENTS: [&str; 2] = ["claude-ai", "claude-code"];

/// The tools that the model API behind [`PARTICULAR_CLIENTS`] refuses, though they are fine by the
/// protocol, with the reason.
#[must_use]
pub fn unfit(surface: &Surface) -> BTreeMap<String, String> {
    let tools = surface.tools.iter();
    let unfit = tools.filter_map(|tool| {
        let definition = Json::parse(tool.definition.get()).ok()?;
        Some((tool.name.clone(), refused_by_models(&definition)?))
    });
    unfit.collect()
}

/// The name under which an entry stands in the quarantine.
#[must_use]
pub fn place(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Tool => name.to_owned(),
        Kind::Prompt | Kind::Resource | Kind::Template => format!("{}/{name}", kind.word()),
    }
}

/// Returns why an entry must not be offered, if so, and what only counts for servers over HTTP: a
/// tool whose arguments cannot be put into the headers that it wants (MCP 2026-07-28,
/// `x-mcp-header`).
#[must_use]
pub fn reason_on(transport: &Transport, kind: Kind, entry: &Pinned) -> Option<String> {
    let headers = || match (transport, kind) {
        (Transport::Http { .. }, Kind::Tool) => {
            Some(http::unfit(entry.definition.get())?.to_string())
        }
        (Transport::Http { .. } | Transport::Stdio { .. }, _) => None,
    };
    reason(kind, entry).or_else(headers)
}

/// Returns why an entry must not be offered, if so.
///
/// The model APIs behind the clients refuse a request with *any* tool whose input schema is no
/// JSON Schema or is not an object schema; clients that check what they are sent refuse a whole
/// list for one member of another type than the protocol's. What only some clients choke on is
/// [`unfit`].
#[must_use]
pub fn reason(kind: Kind, entry: &Pinned) -> Option<String> {
    let bytes = entry.definition.get().len();
    if bytes > limits::DEFINITION_BYTES {
        let most = limits::DEFINITION_BYTES;
        return Some(format!("it has {bytes} bytes, more than {most}"));
    }
    let definition = match Json::parse(entry.definition.get()) {
        Ok(definition) => definition,
        Err(error) => return Some(error.to_string()),
    };
    let depth = definition.depth();
    if depth > limits::DEFINITION_DEPTH {
        let most = limits::DEFINITION_DEPTH;
        return Some(format!("it nests {depth} levels deep, more than {most}"));
    }
    let schemas = || match kind {
        Kind::Tool => input(&definition).or_else(|| output(&definition)),
        Kind::Prompt | Kind::Resource | Kind::Template => None,
    };
    members(kind, &definition)
        .or_else(schemas)
        .or_else(|| hidden(&definition))
}

/// Members that every revision of the protocol gives one type: clients check them (measured: the
/// TypeScript SDK refuses the list).
fn members(kind: Kind, definition: &Json) -> Option<String> {
    let is_text = |json: &Json| matches!(json, Json::String(_));
    let is_object = |json: &Json| matches!(json, Json::Object(_));
    let is_list = |json: &Json| matches!(json, Json::Array(_));
    let is_flag =
        |json: &Json| matches!(json, Json::Literal(token) if matches!(&**token, "true" | "false"));
    let texts = [
        "name",
        "title",
        "description",
        "uri",
        "uriTemplate",
        "mimeType",
    ];
    for member in texts {
        if definition.get(member).is_some_and(|json| !is_text(json)) {
            return Some(format!("its {member} is not a text"));
        }
    }
    for member in ["_meta", "annotations", "execution"] {
        if definition.get(member).is_some_and(|json| !is_object(json)) {
            return Some(format!("its {member} is not an object"));
        }
    }
    for member in ["icons", "arguments"] {
        if definition.get(member).is_some_and(|json| !is_list(json)) {
            return Some(format!("its {member} are not a list"));
        }
    }
    let annotations = definition.get("annotations");
    for hint in [
        "readOnlyHint",
        "destructiveHint",
        "idempotentHint",
        "openWorldHint",
    ] {
        let hinted = annotations.and_then(|annotations| annotations.get(hint));
        if hinted.is_some_and(|json| !is_flag(json)) {
            return Some(format!("its {hint} is neither true nor false"));
        }
    }
    let unnamed = match kind {
        Kind::Resource | Kind::Template => definition.get("name").is_none(),
        Kind::Prompt | Kind::Tool => false,
    };
    unnamed.then(|| "it has no name".to_owned())
}

fn input(definition: &Json) -> Option<String> {
    let Some(Json::Object(schema)) = definition.get("inputSchema") else {
        return Some("it has no inputSchema that is an object".to_owned());
    };
    if schema.get("type").and_then(Json::as_str) != Some("object") {
        return Some("the type of its inputSchema is not `object`".to_owned());
    }
    let root = definition.get("inputSchema")?;
    schema::no_schema(root).map(|wrong| format!("its inputSchema {wrong}"))
}

/// What Anthropic's API refuses in an `inputSchema` that is a schema.
fn refused_by_models(definition: &Json) -> Option<String> {
    let Some(Json::Object(schema)) = definition.get("inputSchema") else {
        return None;
    };
    for word in ["allOf", "anyOf", "oneOf"] {
        if schema.contains_key(word) {
            return Some(format!(
                "its inputSchema has `{word}` at the top, which model APIs refuse"
            ));
        }
    }
    if let Some(Json::Object(properties)) = schema.get("properties") {
        let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
        let mut keys = properties.keys();
        if let Some(odd) = keys.find(|key| !(1..=64).contains(&key.len()) || !key.bytes().all(fits))
        {
            let odd = printable(odd);
            return Some(format!(
                "model APIs refuse the property key `{odd}`: expected 1 to 64 of a-z A-Z 0-9 _ . -"
            ));
        }
    }
    None
}

/// A schema of results may have any root (MCP 2026-07-28), but must be one.
fn output(definition: &Json) -> Option<String> {
    let root = definition.get("outputSchema")?;
    schema::no_schema(root).map(|wrong| format!("its outputSchema {wrong}"))
}

/// Text that is there for the model and not for the reviewer ([`text::hides`]).
fn hidden(json: &Json) -> Option<String> {
    let mut found = None;
    each_text(json, &mut |one| {
        if found.is_none() {
            found = text::hides(one).map(|hidden| hidden.to_string());
        }
    });
    found
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
    use crate::pin;

    fn check(definition: &str, expected: Option<&str>) {
        let raw = serde_json::from_str(definition).unwrap();
        let tool = pin::entry(Kind::Tool, raw).unwrap();
        assert_eq!(
            reason(Kind::Tool, &tool).as_deref(),
            expected,
            "{definition}"
        );
    }

    #[test]
    fn an_ordinary_tool_is_offered() {
        check(r#"{"name":"a","inputSchema":{"type":"object"}}"#, None);
        check(
            r#"{"name":"a","description":"Größe 👩‍👩‍👧\n\ttwo","inputSchema":{"type":"object","properties":{"a.b-c_1":{"anyOf":[{}]}}}}"#,
            None,
        );
    }

    #[test]
    fn a_schema_that_breaks_every_conversation_is_quarantined() {
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
    }

    #[test]
    fn a_tool_that_one_model_api_refuses_is_unfit_and_offered_to_others() {
        let tool = |schema: &str| {
            let text = format!(r#"{{"name":"a","inputSchema":{schema}}}"#);
            pin::entry(Kind::Tool, serde_json::from_str(&text).unwrap()).unwrap()
        };
        let sifted = |schema: &str| {
            let mut surface = Surface {
                tools: vec![tool(schema)],
                ..Surface::default()
            };
            let stdio = serde_json::from_str(r#"{"type":"stdio","command":"x"}"#).unwrap();
            sift(&stdio, &mut surface);
            assert_eq!(surface.tools.len(), 1, "{schema}");
            surface.unfit.remove("a")
        };
        for word in ["allOf", "anyOf", "oneOf"] {
            let reason = sifted(&format!(r#"{{"type":"object","{word}":[{{}}]}}"#));
            let expected =
                format!("its inputSchema has `{word}` at the top, which model APIs refuse");
            assert_eq!(reason, Some(expected));
            let below = format!(r#"{{"type":"object","properties":{{"p":{{"{word}":[{{}}]}}}}}}"#);
            assert_eq!(sifted(&below), None);
        }
        for (key, fits) in [
            ("$.xgafv", false),
            ("größe", false),
            ("", false),
            ("a.b-c_1", true),
        ] {
            let reason = sifted(&format!(
                r#"{{"type":"object","properties":{{"{key}":{{}}}}}}"#
            ));
            assert_eq!(reason.is_none(), fits, "{key}: {reason:?}");
        }
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

    #[test]
    fn real_text_is_offered_and_a_row_of_what_has_no_width_is_not() {
        let described = |text: &str, expected: Option<&str>| {
            let text = serde_json::to_string(text).unwrap();
            check(
                &format!(
                    r#"{{"name":"a","description":{text},"inputSchema":{{"type":"object"}}}}"#
                ),
                expected,
            );
        };
        described(
            "for \u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f} matches",
            None,
        );
        described("می\u{200c}خواهم, क्\u{200d}ष, ❤\u{fe0f}\u{200d}🔥", None);
        let row = "\u{200b}\u{200c}\u{200b}\u{200b}".repeat(40);
        let hidden = Some("it hides text from reviewers: U+200B");
        described(&format!("ok{row}"), hidden);
        described(&format!("می\u{200c}{row}"), hidden);
    }

    fn with_schema(schema: &str, expected: Option<&str>) {
        let definition = format!(
            r#"{{"name":"a","inputSchema":{{"type":"object","properties":{{"p":{schema}}}}}}}"#
        );
        check(&definition, expected);
    }

    #[test]
    fn what_is_no_json_schema_is_quarantined() {
        let no = |word: &str| {
            format!(
                "its inputSchema is no JSON Schema 2020-12: `{word}` has a value that it cannot have"
            )
        };
        for (schema, word) in [
            (r#"{"type":"any"}"#, "type"),
            (r#"{"type":["string",1]}"#, "type"),
            (r#"{"required":true}"#, "required"),
            (r#"{"enum":"a"}"#, "enum"),
            (r#"{"$ref":1}"#, "$ref"),
            (r#"{"items":{"properties":[]}}"#, "properties"),
            (r#"{"not":{"anyOf":{}}}"#, "anyOf"),
        ] {
            with_schema(schema, Some(&no(word)));
        }
        for schema in [
            "7",
            "\"string\"",
            r#"{"prefixItems":[null]}"#,
            r#"{"not":null}"#,
        ] {
            with_schema(
                schema,
                Some("its inputSchema has a schema in it that is neither an object nor a boolean"),
            );
        }
        check(
            r#"{"name":"a","inputSchema":{"type":"object"},"outputSchema":{"type":"date"}}"#,
            Some(
                "its outputSchema is no JSON Schema 2020-12: `type` has a value that it cannot have",
            ),
        );
        for schema in [
            "true",
            r#"{"type":["string","null"],"enum":[1,{"type":"any"}],"default":{"type":7}}"#,
            r#"{"prefixItems":[{"type":"string"}],"x-anything":{"type":"any"},"const":{"$ref":"http://x"}}"#,
            r##"{"$ref":"#/$defs/a"}"##,
        ] {
            with_schema(schema, None);
        }
    }

    #[test]
    fn a_schema_that_needs_another_document_is_quarantined() {
        for to in [
            "https://x.example/s.json",
            "file:///etc/passwd",
            "other.json#/a",
        ] {
            with_schema(
                &format!(r#"{{"items":{{"$ref":"{to}"}}}}"#),
                Some(&format!(
                    "its inputSchema refers to another document (`{to}`), which nobody fetches"
                )),
            );
        }
        check(
            r##"{"name":"a","inputSchema":{"type":"object","$schema":"https://json-schema.org/draft/2020-12/schema","$defs":{"a":{"$id":"https://x.example/a"}},"properties":{"p":{"$ref":"https://x.example/a#/b"},"$ref":{"type":"string"}}}}"##,
            None,
        );
        check(
            r##"{"name":"a","inputSchema":{"type":"object","$defs":{"a":{"$id":"https://x.example/a"}},"properties":{"p":{"$ref":"https://x.example/a#/b"}}}}"##,
            None,
        );
    }

    #[test]
    fn what_is_too_deep_or_too_large_is_quarantined() {
        let nested = |levels: usize| {
            let open = r#"{"items":"#.repeat(levels);
            format!("{open}{{}}{}", "}".repeat(levels))
        };
        // the definition, its schema, its properties and the innermost schema are four more
        with_schema(&nested(limits::DEFINITION_DEPTH - 4), None);
        let deep = limits::DEFINITION_DEPTH + 1;
        with_schema(
            &nested(limits::DEFINITION_DEPTH - 3),
            Some(&format!(
                "it nests {deep} levels deep, more than {}",
                limits::DEFINITION_DEPTH
            )),
        );
        let long = "x".repeat(limits::DEFINITION_BYTES);
        let definition =
            format!(r#"{{"name":"a","description":"{long}","inputSchema":{{"type":"object"}}}}"#);
        let len = definition.len();
        let most = limits::DEFINITION_BYTES;
        check(
            &definition,
            Some(&format!("it has {len} bytes, more than {most}")),
        );
    }

    #[test]
    fn members_of_another_type_are_quarantined() {
        let tool =
            |member: &str| format!(r#"{{"name":"a",{member},"inputSchema":{{"type":"object"}}}}"#);
        for (member, wrong) in [
            (r#""description":7"#, "its description is not a text"),
            (r#""title":null"#, "its title is not a text"),
            (r#""annotations":[]"#, "its annotations is not an object"),
            (
                r#""annotations":{"readOnlyHint":"yes"}"#,
                "its readOnlyHint is neither true nor false",
            ),
            (r#""_meta":1"#, "its _meta is not an object"),
            (r#""icons":{}"#, "its icons are not a list"),
        ] {
            check(&tool(member), Some(wrong));
        }
        check(&tool(r#""annotations":{"future":1},"new":[]"#), None);
    }

    #[test]
    fn only_the_entries_concerned_are_moved() {
        let entry =
            |kind, text: &str| pin::entry(kind, serde_json::from_str(text).unwrap()).unwrap();
        let mut surface = Surface {
            tools: vec![
                entry(
                    Kind::Tool,
                    r#"{"name":"good","inputSchema":{"type":"object"}}"#,
                ),
                entry(Kind::Tool, r#"{"name":"bad"}"#),
            ],
            prompts: vec![
                entry(Kind::Prompt, r#"{"name":"good"}"#),
                entry(Kind::Prompt, r#"{"name":"bad","arguments":{}}"#),
            ],
            resources: vec![
                entry(Kind::Resource, r#"{"uri":"a:b","name":"b"}"#),
                entry(Kind::Resource, r#"{"uri":"a:c"}"#),
            ],
            ..Surface::default()
        };
        let stdio = Transport::Stdio {
            command: "x".to_owned(),
            args: Vec::new(),
            cwd: None,
            env: BTreeMap::new(),
            package: None,
            program_from_project: false,
        };
        sift(&stdio, &mut surface);
        assert_eq!(surface.tools.len(), 1);
        assert_eq!(surface.prompts.len(), 1);
        assert_eq!(surface.resources.len(), 1);
        let quarantined: Vec<_> = surface.quarantined.iter().collect();
        let shown = format!("{quarantined:?}");
        assert_eq!(
            shown,
            r#"[("bad", "it has no inputSchema that is an object"), ("prompt/bad", "its arguments are not a list"), ("resource/a:c", "it has no name")]"#
        );
    }
}
