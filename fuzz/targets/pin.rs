//! Definitions of a server: their canonical form, their place in the quarantine, their names.
#![no_main]

use mcpshim::ids::ServerKey;
use mcpshim::pin::{self, Kept, Kind, assign_names, quarantine};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(canonical) = pin::canonical(bytes) {
        // one spelling: the canonical form of a canonical form is itself
        assert_eq!(pin::canonical(canonical.as_bytes()).as_deref(), Ok(&*canonical));
        let value = serde_json::from_slice::<&serde_json::value::RawValue>(bytes);
        assert!(value.is_ok(), "canonical, but not JSON: {canonical}");
    }
    let Ok(raw) = serde_json::from_slice::<Box<serde_json::value::RawValue>>(bytes) else {
        return;
    };
    let mut names = Vec::new();
    for kind in Kind::ALL {
        let Ok(entry) = pin::entry(kind, &raw) else { continue };
        assert!(pin::verify(kind, &entry).is_ok(), "an entry is its own");
        if let Some(reason) = quarantine::reason(kind, &entry) {
            assert!(reason.len() < 400, "{reason}");
            assert!(!reason.chars().any(char::is_control), "{reason:?}");
        }
        let _hidden = mcpshim::text::hides(&entry.name);
        names.push(entry.name);
    }
    let key = ServerKey::parse("fuzz").expect("a key");
    let kept = assign_names(&key, names.iter().map(String::as_str), &Kept::default());
    for (name, exposed) in &kept {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let exposed = exposed.as_str();
        assert!(exposed.len() <= 50 && exposed.bytes().all(fits), "{name:?}: {exposed}");
    }
    // given once, kept for ever
    assert_eq!(assign_names(&key, ["another"], &kept).get("another").is_some(), true);
    for (name, exposed) in &kept {
        let again = assign_names(&key, ["another", name], &kept);
        assert_eq!(again.get(name), Some(exposed));
    }
});
