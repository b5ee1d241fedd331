//! Strict JSON for metadata, and the canonical form that is signed.
//!
//! Two readers that disagree about a document are an attack, so the parser refuses what readers
//! disagree about: duplicate member names, numbers that are not whole, and anything after the
//! document. The canonical form is OLPC canonical JSON, which python-tuf, go-tuf and tough sign:
//! members ordered by code point, no white space, and only `"` and `\` escaped.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A [`Value`] in which no object repeats a member name and every number is whole.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StrictVisitor;

        impl<'de> Visitor<'de> for StrictVisitor {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON without duplicate members or fractions")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
                Ok(Strict(Value::Bool(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
                Ok(Strict(Value::Number(Number::from(value))))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
                Ok(Strict(Value::Number(Number::from(value))))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Strict, E> {
                Err(E::custom(format_args!("number {value} is not whole")))
            }

            fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
                Ok(Strict(Value::String(value.to_owned())))
            }

            fn visit_string<E>(self, value: String) -> Result<Strict, E> {
                Ok(Strict(Value::String(value)))
            }

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
                let mut items = Vec::new();
                while let Some(Strict(item)) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Strict(Value::Array(items)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut members = Map::new();
                while let Some((name, Strict(value))) = map.next_entry::<String, Strict>()? {
                    if members.contains_key(&name) {
                        return Err(de::Error::custom(format_args!(
                            "member {name:?} is repeated"
                        )));
                    }
                    members.insert(name, value);
                }
                Ok(Strict(Value::Object(members)))
            }
        }

        deserializer.deserialize_any(StrictVisitor)
    }
}

/// Parses one document strictly. Nesting is bounded by `serde_json` (128 levels).
pub(super) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Strict>(bytes).map(|strict| strict.0)
}

/// Writes OLPC canonical JSON.
///
/// Bytes outside the reach of [`parse`] (fractions) cannot occur: the value came from there or
/// from types of ours that hold none; they would be written as `serde_json` prints them.
pub(crate) fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            // sorted here, whatever order `serde_json` was built to keep; UTF-8 bytes sort as
            // code points do
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(member, out);
            }
            out.push(b'}');
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        match parse(text.as_bytes()) {
            Ok(value) => String::from_utf8(canonical(&value)).unwrap(),
            Err(error) => format!("refused: {error}"),
        }
    }

    #[test]
    fn canonical_form_is_olpc() {
        // what securesystemslib's encode_canonical gives for the same documents
        assert_eq!(
            check(r#"{ "b": [1, -2, null], "a": true }"#),
            r#"{"a":true,"b":[1,-2,null]}"#
        );
        assert_eq!(
            check(r#""q\"b\\n\ntab\tü\u00e9/""#),
            "\"q\\\"b\\\\n\ntab\tüé/\""
        );
        assert_eq!(check(r#"{"é":1,"z":2,"Z":3}"#), "{\"Z\":3,\"z\":2,\"é\":1}");
    }

    #[test]
    fn ambiguous_documents_are_refused() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"[{"x":{"a":1,"\u0061":2}}]"#,
            "1.0",
            "1e3",
            "{} {}",
            "",
            "18446744073709551616",
            "\"\u{1}\"",
            "\"\\ud800\"",
        ] {
            assert!(
                check(text).starts_with("refused"),
                "{text} gave {}",
                check(text)
            );
        }
        let deep = "[".repeat(5000);
        assert!(check(&deep).starts_with("refused"));
    }
}
