//! Edits of one object change what they are told to change, and not one byte else.
#![no_main]

use mcpshim::wire::raw::{Change, Edits, Object};

// The first bytes say what happens to each member, the rest is the object. The oracle is a list of
// members with their texts.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((plan, text)) = bytes.split_at_checked(9) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(object) = Object::parse(text) else { return };
    let change = |key: &str| match plan[key.bytes().map(usize::from).sum::<usize>() % 8] % 4 {
        0 => Change::Remove,
        1 => Change::Value("[1,\"new\"]"),
        _ => Change::Keep,
    };
    let append: &[(&str, &str)] = match plan[8] % 3 {
        0 => &[],
        1 => &[("mcpshim.new", "{}")],
        _ => &[("mcpshim.new", "{}"), ("mcpshim.other", "null")],
    };
    // found: an object that has the member already; callers append only what it does not have
    let has = |key: &str| object.members().any(|(own, _)| own == key);
    if append.iter().any(|(key, _)| has(key)) {
        return;
    }
    let mut edits = Edits::new();
    edits.object(&object, change, append);
    let mut out = Vec::new();
    edits.apply(text, &mut out);
    let out = String::from_utf8(out).expect("edits are text");
    let edited = Object::parse(&out).unwrap_or_else(|wrong| panic!("{wrong:?}: {out}"));
    let mut expected: Vec<(String, String)> = Vec::new();
    for (key, value) in object.members() {
        match change(&key) {
            Change::Keep => expected.push((key.into_owned(), value.to_owned())),
            Change::Remove => {}
            Change::Value(new) => expected.push((key.into_owned(), new.to_owned())),
        }
    }
    expected.extend(append.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let found: Vec<(String, String)> = edited
        .members()
        .map(|(key, value)| (key.into_owned(), value.to_owned()))
        .collect();
    assert_eq!(found, expected, "{text} became {out}");
    // a span that no edit touches lies where it is said to lie
    for (key, value) in object.members() {
        if change(&key) != Change::Keep {
            continue;
        }
        if let Some(span) = object.value_span(&key)
            && text.get(span.clone()) == Some(value)
            && let Some(moved) = edits.moved(&span)
        {
            assert_eq!(out.get(moved), Some(value), "{text} became {out}");
        }
    }
    assert!(edits.capacity() <= 1 << 20);
});
