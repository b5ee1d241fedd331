//! One line of JSON-RPC: what is accepted is JSON that others read the same way, and an edit that
//! changes nothing changes no byte.
#![no_main]

use mcpshim::wire::msg::Message;
use mcpshim::wire::raw::{Change, Edits, Object, elements};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let accepted = Message::parse(bytes).is_ok();
    let Ok(text) = std::str::from_utf8(bytes) else {
        assert!(!accepted, "a message that is not UTF-8");
        return;
    };
    if accepted {
        // a number beyond f64 is the one thing another reader may refuse
        let other = serde_json::from_str::<&serde_json::value::RawValue>(text);
        assert!(other.is_ok(), "accepted, but not JSON: {text}");
    }
    if let Ok(object) = Object::parse(text) {
        let mut edits = Edits::new();
        edits.object(&object, |_| Change::Keep, &[]);
        let mut out = Vec::new();
        edits.apply(text, &mut out);
        assert_eq!(out, bytes);
        for (_, value) in object.members() {
            drop(elements(value));
        }
    }
});
