//! Judges whether a JSON value is a schema of JSON Schema 2020-12, as the meta-schema of that draft
//! defines it: which is what model APIs check, whatever dialect a server means.
//!
//! The table below is that meta-schema: the vocabularies core, applicator, unevaluated, validation,
//! meta-data, format and content, and the deprecated words it still knows. A word that it does not
//! know may have any value. Beyond it, a schema that needs another document is refused, because
//! nobody fetches one. Formats (`uri`, `regex`) are not checked, as in the meta-schema itself.

use std::collections::BTreeSet;

use super::canon::Json;
use super::printable;

/// What a word of the draft may have as its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    /// `$anchor`, `$dynamicAnchor`: a name.
    Anchor,
    /// `true` or `false`.
    Flag,
    /// Any list.
    List,
    /// `dependencies`: an object of schemas or of lists of texts, each once.
    NamedEither,
    /// `$vocabulary`: an object of flags.
    NamedFlags,
    /// An object of lists of texts, each once.
    NamedNames,
    /// An object of schemas.
    NamedSchemas,
    /// A list of texts, each once.
    Names,
    /// A whole number from 0 on.
    Natural,
    /// A number.
    Number,
    /// A number above 0.
    Positive,
    /// `$ref`, `$dynamicRef`: a text that names a schema.
    Reference,
    /// A schema.
    Schema,
    /// A list of schemas, one at least.
    Schemas,
    /// A text.
    Text,
    /// `type`: the name of a type, or a list of them, each once and one at least.
    Types,
    /// `$id`: a text without a fragment.
    Uri,
}

/// The words of the draft. `const` and `default` may have any value, as unknown words may.
fn value_of(word: &str) -> Option<Value> {
    Some(match word {
        "$anchor" | "$dynamicAnchor" | "$recursiveAnchor" => Value::Anchor,
        "$dynamicRef" | "$recursiveRef" | "$ref" => Value::Reference,
        "$id" => Value::Uri,
        "$vocabulary" => Value::NamedFlags,
        "$comment" | "$schema" | "contentEncoding" | "contentMediaType" | "description"
        | "format" | "pattern" | "title" => Value::Text,
        "$defs" | "definitions" | "dependentSchemas" | "patternProperties" | "properties" => {
            Value::NamedSchemas
        }
        "additionalProperties"
        | "contains"
        | "contentSchema"
        | "else"
        | "if"
        | "items"
        | "not"
        | "propertyNames"
        | "then"
        | "unevaluatedItems"
        | "unevaluatedProperties" => Value::Schema,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Value::Schemas,
        "deprecated" | "readOnly" | "uniqueItems" | "writeOnly" => Value::Flag,
        "enum" | "examples" => Value::List,
        "dependencies" => Value::NamedEither,
        "dependentRequired" => Value::NamedNames,
        "required" => Value::Names,
        "maxContains" | "maxItems" | "maxLength" | "maxProperties" | "minContains" | "minItems"
        | "minLength" | "minProperties" => Value::Natural,
        "exclusiveMaximum" | "exclusiveMinimum" | "maximum" | "minimum" => Value::Number,
        "multipleOf" => Value::Positive,
        "type" => Value::Types,
        _ => return None,
    })
}

/// Says why a value is no schema, or cannot be read without another document; a phrase that follows
/// its name.
pub(super) fn no_schema(root: &Json) -> Option<String> {
    walk(root, &ids(root))
}

fn walk(schema: &Json, ids: &BTreeSet<&str>) -> Option<String> {
    let members = match schema {
        json if flag(json) => return None,
        Json::Object(members) => members,
        Json::Array(_) | Json::Literal(_) | Json::String(_) => {
            return Some("has a schema in it that is neither an object nor a boolean".to_owned());
        }
    };
    members.iter().find_map(|(word, value)| {
        let expected = value_of(word)?;
        // what zod 3 writes for a tuple
        if matches!((&**word, value), ("items", Json::Array(_))) {
            let wrong =
                "is no JSON Schema 2020-12: `items` is a list, which is `prefixItems` there";
            return Some(wrong.to_owned());
        }
        if !fits(expected, value) {
            return Some(format!(
                "is no JSON Schema 2020-12: `{word}` has a value that it cannot have"
            ));
        }
        below(expected, value, ids)
    })
}

/// Whether a value has the form that its word wants; the schemas in it are looked at afterwards.
fn fits(expected: Value, value: &Json) -> bool {
    let texts = |json: &Json| match json {
        Json::Array(items) => distinct(items, |_| true),
        Json::Literal(_) | Json::Object(_) | Json::String(_) => false,
    };
    match (expected, value) {
        (Value::Schema, _) => true,
        (Value::Flag, json) => flag(json),
        (Value::Anchor, Json::String(name)) => anchor(name),
        (Value::Uri, Json::String(id)) => !id.trim_end_matches('#').contains('#'),
        (Value::Reference | Value::Text, Json::String(_)) | (Value::List, Json::Array(_)) => true,
        (Value::Types, Json::String(one)) => is_type(one),
        (Value::Types, Json::Array(some)) => !some.is_empty() && distinct(some, is_type),
        (Value::Schemas, Json::Array(some)) => !some.is_empty(),
        (Value::Names, json) => texts(json),
        (Value::NamedSchemas, Json::Object(_)) => true,
        (Value::NamedEither, Json::Object(named)) => named
            .values()
            .all(|json| !matches!(json, Json::Array(_)) || texts(json)),
        (Value::NamedNames, Json::Object(named)) => named.values().all(texts),
        (Value::NamedFlags, Json::Object(named)) => named.values().all(flag),
        (Value::Natural, Json::Literal(token)) => natural(token),
        (Value::Number, Json::Literal(token)) => number(token).is_some(),
        (Value::Positive, Json::Literal(token)) => number(token).is_some_and(|n| n > 0.0),
        _ => false,
    }
}

/// Looks at the schemas that a value holds, and at what a reference names.
fn below(expected: Value, value: &Json, ids: &BTreeSet<&str>) -> Option<String> {
    match (expected, value) {
        (Value::Reference, Json::String(to)) if is_elsewhere(to, ids) => {
            let to = printable(to);
            Some(format!(
                "refers to another document (`{to}`), which nobody fetches"
            ))
        }
        (Value::Schema, schema) => walk(schema, ids),
        (Value::Schemas, Json::Array(some)) => some.iter().find_map(|one| walk(one, ids)),
        (Value::NamedSchemas, Json::Object(named)) => named.values().find_map(|one| walk(one, ids)),
        (Value::NamedEither, Json::Object(named)) => {
            let mut schemas = named.values().filter(|one| !matches!(one, Json::Array(_)));
            schemas.find_map(|one| walk(one, ids))
        }
        _ => None,
    }
}

fn flag(json: &Json) -> bool {
    matches!(json, Json::Literal(token) if matches!(&**token, "true" | "false"))
}

/// Whether all are texts of a kind, and none stands there twice.
fn distinct(items: &[Json], kind: impl Fn(&str) -> bool) -> bool {
    let mut seen = BTreeSet::new();
    items.iter().all(|item| {
        item.as_str()
            .is_some_and(|text| kind(text) && seen.insert(text))
    })
}

fn is_type(text: &str) -> bool {
    matches!(
        text,
        "array" | "boolean" | "integer" | "null" | "number" | "object" | "string"
    )
}

/// `^[A-Za-z_][-A-Za-z0-9._]*$`
fn anchor(name: &str) -> bool {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    let goes_on = |c: char| begins(c) || c.is_ascii_digit() || matches!(c, '-' | '.');
    name.starts_with(begins) && name.chars().all(goes_on)
}

/// The number that a token is, as readers with 64-bit floats take it.
fn number(token: &str) -> Option<f64> {
    if matches!(token, "true" | "false" | "null") {
        return None;
    }
    token.parse().ok()
}

/// A whole number from 0 on: `1.0` and `1e2` are whole numbers, too (2020-12 validation §6.1.1).
fn natural(token: &str) -> bool {
    number(token).is_some_and(|n| n >= 0.0 && n.fract() == 0.0)
}

/// Whether a reference leads out of the document. One that names an `$id` of the document's does
/// not.
fn is_elsewhere(to: &str, ids: &BTreeSet<&str>) -> bool {
    let base = to.split('#').next().unwrap_or_default();
    !base.is_empty() && !ids.contains(base)
}

/// Every `$id` of a document.
fn ids(root: &Json) -> BTreeSet<&str> {
    fn gather<'j>(json: &'j Json, ids: &mut BTreeSet<&'j str>) {
        match json {
            Json::Array(items) => items.iter().for_each(|item| gather(item, ids)),
            Json::Literal(_) | Json::String(_) => {}
            Json::Object(members) => {
                ids.extend(members.get("$id").and_then(Json::as_str));
                members.values().for_each(|value| gather(value, ids));
            }
        }
    }
    let mut ids = BTreeSet::new();
    gather(root, &mut ids);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(schema: &str) -> Option<String> {
        no_schema(&Json::parse(schema).unwrap())
    }

    #[test]
    fn each_word_of_the_draft_has_values_that_it_takes_and_values_that_it_does_not() {
        for (word, good, bad) in [
            ("$anchor", r#""a-1""#, r#""1a""#),
            ("$comment", r#""x""#, "1"),
            ("$defs", r#"{"a":{}}"#, r#"{"a":1}"#),
            ("$dynamicAnchor", r#""_""#, r#""""#),
            ("$id", r##""https://a/b#""##, r##""https://a/b#c""##),
            ("$ref", r##""#/$defs/a""##, "{}"),
            (
                "$schema",
                r#""http://json-schema.org/draft-07/schema#""#,
                "7",
            ),
            ("$vocabulary", r#"{"a":true}"#, r#"{"a":1}"#),
            ("additionalProperties", "false", "null"),
            ("allOf", "[{}]", "[]"),
            ("anyOf", "[true]", "{}"),
            ("contains", "{}", "[]"),
            ("contentSchema", "{}", "1"),
            ("dependencies", r#"{"a":["b"],"c":{}}"#, r#"{"a":[1]}"#),
            ("dependentRequired", r#"{"a":["b"]}"#, r#"{"a":["b","b"]}"#),
            ("dependentSchemas", r#"{"a":{}}"#, r#"{"a":[]}"#),
            ("deprecated", "true", r#""yes""#),
            ("description", r#""x""#, r#"["x"]"#),
            ("enum", "[]", r#""a""#),
            ("examples", "[1]", "1"),
            ("exclusiveMinimum", "0", "true"),
            ("format", r#""uri""#, "null"),
            ("if", "{}", r#""a""#),
            ("items", "{}", r#"[{"type":"string"}]"#),
            ("maxItems", "1.0", "-1"),
            ("maxLength", "0", "1.5"),
            ("minItems", "1e2", r#""1""#),
            ("maximum", "-1.5", r#""1""#),
            ("minimum", "1", "null"),
            ("multipleOf", "0.1", "0"),
            ("not", "{}", "[]"),
            ("oneOf", "[{}]", "[7]"),
            ("pattern", r#""^a""#, "3"),
            ("patternProperties", r#"{"^a":{}}"#, "[]"),
            ("prefixItems", "[{}]", "[]"),
            (
                "properties",
                r#"{"type":{"type":"string"}}"#,
                r#"{"a":"string"}"#,
            ),
            ("propertyNames", "{}", "1"),
            ("readOnly", "false", "0"),
            ("required", r#"["a"]"#, "true"),
            ("required", "[]", r#"["a","a"]"#),
            ("title", r#""x""#, "{}"),
            ("type", r#"["string","null"]"#, r#""text""#),
            ("type", r#""integer""#, "[]"),
            ("type", r#"["string"]"#, r#"["string","string"]"#),
            ("unevaluatedProperties", "false", "1"),
            ("uniqueItems", "true", "1"),
        ] {
            // at the root, and where a reader comes only through other schemas
            for (before, after) in [
                ("", ""),
                (r#"{"properties":{"a":{"items":"#, "}}}"),
                (r#"{"$defs":{"a":{"anyOf":[{},"#, "]}}}"),
                (r#"{"dependencies":{"a":"#, "}}"),
            ] {
                let schema = |value: &str| format!("{before}{{\"{word}\":{value}}}{after}");
                assert_eq!(judge(&schema(good)), None, "{}", schema(good));
                assert!(judge(&schema(bad)).is_some(), "{}", schema(bad));
            }
        }
    }

    #[test]
    fn what_the_draft_does_not_know_may_be_anything() {
        for schema in [
            "true",
            "{}",
            r#"{"additionalItems":7,"x-vendor":[{"type":"nonsense"}],"nullable":true,"id":1}"#,
            r#"{"const":{"type":"nonsense"},"default":{"items":[]},"enum":[{"required":1}]}"#,
            r#"{"examples":[{"properties":1}]}"#,
        ] {
            assert_eq!(judge(schema), None, "{schema}");
        }
        for schema in ["null", "[]", "1", r#""string""#] {
            assert!(judge(schema).is_some(), "{schema}");
        }
    }

    #[test]
    fn a_reference_stays_in_its_document() {
        for (to, inside) in [
            ("#", true),
            ("#/$defs/a", true),
            ("https://a/own", true),
            ("https://a/own#/b", true),
            ("https://a/other", false),
            ("other.json", false),
        ] {
            let schema = format!(r#"{{"$id":"https://a/own","items":{{"$ref":"{to}"}}}}"#);
            assert_eq!(judge(&schema).is_none(), inside, "{to}");
        }
    }
}
