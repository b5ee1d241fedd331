//! What goes into headers, and what a server puts beside a status.
#![no_main]

use data_encoding::BASE64;
use mcpshim::wire::http::{Mirrored, Parcel, answers, encoded, flatten, headers, refusal, unfit};
use mcpshim::wire::msg::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // two texts: a schema or body, and a message
    let at = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let (first, second) = bytes.split_at(at);
    let second = second.get(1..).unwrap_or_default();
    if let Some(error) = refusal(first, 7) {
        assert!(serde_json::from_str::<serde_json::Value>(&error).is_ok(), "{error}");
    }
    if answers(first, 7) {
        assert!(Message::parse(first).is_ok());
    }
    let mut line = bytes.to_vec();
    flatten(&mut line);
    let mut twice = line.clone();
    flatten(&mut twice);
    assert_eq!(line, twice, "flattened once is flattened");
    let Ok(text) = std::str::from_utf8(first) else { return };
    // a header never ends itself, and its reader gets the value back
    let value = encoded(text);
    assert!(value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')), "{value:?}");
    let marked = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    match marked {
        Some(body) => assert_eq!(BASE64.decode(body.as_bytes()).expect("base64"), text.as_bytes()),
        None => assert_eq!(value, text),
    }
    drop(unfit(text));
    let Ok(schema) = serde_json::from_str(text) else { return };
    let Ok(mirrored) = Mirrored::of(&schema) else { return };
    let Ok(message) = Message::parse(second) else { return };
    let parcel = Parcel::of(&message);
    if let Ok(made) = headers(&message, &mirrored) {
        for (name, value) in made {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert!(!name.is_empty() && name.bytes().all(token), "{name:?}");
            assert!(value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')), "{value:?}");
            assert!(parcel.stateless.is_some(), "headers only for the stateless era");
        }
    }
});
