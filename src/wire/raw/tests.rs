use super::*;

#[test]
fn plain_text_in_a_string_ends_where_a_reader_byte_by_byte_ends_it() {
    let slow = |bytes: &[u8]| {
        let stops = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        bytes.iter().position(stops).unwrap_or(bytes.len())
    };
    arbtest::arbtest(|u| {
        let mut bytes = vec![*u.choose(b"x\x20\x80\xff")?; u.int_in_range(0..=300)?];
        for _ in 0..u.int_in_range(0..=3)? {
            let at = u.int_in_range(0..=bytes.len())?;
            let near = *u.choose(b"\"\\\x1f\x00\x20\x21\x23\x5d\x7f\x80\xa2\xdc")?;
            let byte = if u.arbitrary()? { near } else { u.arbitrary()? };
            bytes.insert(at, byte);
        }
        assert_eq!(plain(&bytes), slow(&bytes));
        Ok(())
    });
}

type Unstructured<'a> = arbtest::arbitrary::Unstructured<'a>;

/// Pieces of a JSON value.
fn value(
    u: &mut Unstructured<'_>,
    depth: u8,
    out: &mut Vec<&'static str>,
) -> arbtest::arbitrary::Result<()> {
    const PLAIN: &[&str] = &[
        "0",
        "-1",
        "1.50",
        "1e9",
        "-0E-7",
        "true",
        "false",
        "null",
        "\"\"",
        "\"é\\n\"",
        "\"\\ud800\"",
    ];
    match u.int_in_range(0..=if depth == 0 { 0 } else { 2 })? {
        0 => out.push(u.choose(PLAIN)?),
        1 => {
            out.push("[");
            for i in 0..u.int_in_range(0..=2)? {
                out.extend((i > 0).then_some(","));
                value(u, depth - 1, out)?;
            }
            out.push("]");
        }
        _ => {
            out.push("{");
            for i in 0..u.int_in_range(0..=2)? {
                out.extend((i > 0).then_some(","));
                out.extend([*u.choose(&["\"a\"", "\"\\u0062\""])?, " ", ":", "\n"]);
                value(u, depth - 1, out)?;
            }
            out.push("}");
        }
    }
    Ok(())
}

/// A text that is JSON, or was before one piece of it was changed.
fn near_json(u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<String> {
    const BROKEN: &[&str] = &[
        "",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "01",
        "1.",
        "nul",
        "\u{1}",
        "\"\\q\"",
        "\"\\u12\"",
        " 7",
        "\"a\"",
        "\"\t\"",
        "+1",
        ".5",
        "1e",
        "-",
    ];
    let mut pieces = Vec::new();
    value(u, 4, &mut pieces)?;
    if u.ratio(1, 2)? {
        let at = u.choose_index(pieces.len())?;
        pieces[at] = u.choose(BROKEN)?;
    }
    Ok(pieces.concat())
}

/// A JSON object, its members as (key token, value token, white space before the comma).
fn object(u: &mut Unstructured<'_>) -> arbtest::arbitrary::Result<Vec<(String, String)>> {
    const VALUES: &[&str] = &[
        "1",
        "-0.0",
        "12345678901234567890123",
        "1E+2",
        "\"x\\u00e9\\/\"",
        "\"é\"",
        "null",
        "{}",
        "{\"z\":1, \"a\" :[ 1 ]}",
        "[]",
        "[ 1,{\"k\":2} ]",
    ];
    let keys = ["a", "b", "\\u0063", "d/e", "é"];
    let mut out = Vec::new();
    for key in keys.iter().take(u.int_in_range(0..=keys.len())?) {
        out.push(((*key).to_owned(), (*u.choose(VALUES)?).to_owned()));
    }
    Ok(out)
}

#[test]
fn accepts_exactly_what_serde_json_accepts() {
    let (mut accepted, mut refused) = (0, 0);
    arbtest::arbtest(|u| {
        let text = near_json(u)?;
        let mut scan = Scan::new(&text);
        scan.white();
        let ours = scan.value(0).and_then(|_| scan.end());
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text);
        assert_eq!(
            ours.is_ok(),
            theirs.is_ok(),
            "{text:?}: {ours:?}, {theirs:?}"
        );
        *(if ours.is_ok() {
            &mut accepted
        } else {
            &mut refused
        }) += 1;
        Ok(())
    });
    assert!(accepted > 0 && refused > 0, "{accepted} {refused}");
}

#[test]
fn edits_change_what_they_name_and_copy_the_rest() {
    arbtest::arbtest(|u| {
        let members = object(u)?;
        let blank = *u.choose(&["", " ", "\n\t"])?;
        let text = |members: &[(String, String)]| {
            let body: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("\"{key}\"{blank}:{value}"))
                .collect();
            format!("{{{}}}", body.join(","))
        };
        let before = text(&members);
        let parsed = Object::parse(&before).unwrap();
        let mut edits = Edits::new();
        let mut expected = Vec::new();
        let mut plan = Vec::new();
        for (key, value) in &members {
            let change =
                *u.choose(&[Change::Keep, Change::Remove, Change::Value("{\"new\":1}")])?;
            plan.push(change);
            match change {
                Change::Keep => expected.push((key.clone(), value.clone())),
                Change::Value(new) => expected.push((key.clone(), new.to_owned())),
                Change::Remove => {}
            }
        }
        let append: &[(&str, &str)] =
            u.choose(&[&[][..], &[("y", "2")], &[("y", "2"), ("z", "[]")]])?;
        let mut plan = plan.into_iter();
        edits.object(&parsed, |_| plan.next().unwrap(), append);
        let mut out = Vec::new();
        edits.apply(&before, &mut out);
        let mut after = text(&expected);
        after.pop();
        for (key, value) in append {
            if !after.ends_with('{') {
                after.push(',');
            }
            after.push_str(&format!("\"{key}\":{value}"));
        }
        after.push('}');
        assert_eq!(String::from_utf8(out).unwrap(), after);
        Ok(())
    });
}

#[test]
fn nested_edits_and_plain_ones_go_together() {
    let text = r#"{"id": 1 ,"params":{"name":"x","_meta":{"a":1,"b":2}},"z":9}"#;
    let outer = Object::parse(text).unwrap();
    let params = outer.object("params").unwrap().unwrap();
    let meta = params.object("_meta").unwrap().unwrap();
    let mut edits = Edits::new();
    edits.object(
        &meta,
        |key| {
            if key == "a" {
                Change::Remove
            } else {
                Change::Keep
            }
        },
        &[("c", "3")],
    );
    edits.replace(params.value_span("name").unwrap(), "\"y\"");
    edits.replace(outer.value_span("id").unwrap(), "77");
    let mut out = Vec::new();
    edits.apply(text, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"id": 77 ,"params":{"name":"y","_meta":{"b":2,"c":3}},"z":9}"#
    );
}

#[test]
fn duplicate_keys_are_refused_however_they_are_spelt_and_however_many_there_are() {
    for text in [
        r#"{"a":1,"a":1}"#.to_owned(),
        r#"{"a":1,"\u0061":1}"#.to_owned(),
        r#"{"\u0061":1,"b":2,"\u0061":1}"#.to_owned(),
        format!(
            "{{{},\"k\\u0037\":0}}",
            (0..100)
                .map(|i| format!("\"k{i}\":{i}"))
                .collect::<Vec<_>>()
                .join(",")
        ),
    ] {
        assert!(
            matches!(Object::parse(&text), Err(RawError::Duplicate { .. })),
            "{text}"
        );
    }
    assert!(Object::parse(r#"{"a":1,"A":1,"a ":1,"":1}"#).is_ok());
}

#[test]
fn members_and_elements_come_in_order_with_their_spelling() {
    let object = Object::parse(r#" { "b" : 1.50 , "\u0061":[ ] , "c":"\/" } "#).unwrap();
    let members: Vec<(String, &str)> = object.members().map(|(k, v)| (k.into_owned(), v)).collect();
    assert_eq!(
        members,
        [
            ("b".to_owned(), "1.50"),
            ("a".to_owned(), "[ ]"),
            ("c".to_owned(), "\"\\/\"")
        ]
    );
    assert_eq!(object.get("a"), Some("[ ]"));
    assert_eq!(object.text("c").unwrap(), "/");
    assert_eq!(object.raw(), r#"{ "b" : 1.50 , "\u0061":[ ] , "c":"\/" }"#);
    assert_eq!(
        elements(" [ 1 , {\"a\":[2]},\"x\" ] ").unwrap(),
        ["1", "{\"a\":[2]}", "\"x\""]
    );
    assert!(elements("[]").unwrap().is_empty());
    assert_eq!(elements_up_to("[1,2]", 2).unwrap(), ["1", "2"]);
    assert!(elements_up_to("[1,2,no", 2).is_err());
    assert!(elements_up_to("[1,2,3]", 2).is_err());
    for bad in ["{}", "[1,]", "[1 2]", "[1]x", "["] {
        assert!(elements(bad).is_err(), "{bad}");
    }
}

#[test]
fn strings_are_written_as_serde_json_reads_them() {
    arbtest::arbtest(|u| {
        let text: String = u.arbitrary()?;
        assert_eq!(
            serde_json::from_str::<String>(&quoted(&text)).unwrap(),
            text
        );
        assert_eq!(string(&quoted(&text)).unwrap(), text);
        Ok(())
    });
}

#[test]
fn the_room_of_a_large_edit_is_given_back() {
    let mut edits = Edits::new();
    edits.replace(0..1, &"x".repeat(10 << 20));
    assert!(edits.capacity() >= 10 << 20);
    edits.clear();
    assert_eq!(edits.capacity(), 0);
    // an ordinary one stays
    edits.replace(0..1, "12");
    edits.clear();
    assert!(edits.capacity() > 0);
}

/// The nesting of a value is kept in words of 128 levels.
#[test]
fn what_nests_deeper_than_a_word_is_read_as_it_closes() {
    for levels in [1, 127, 128, 129, 255, 256, 257, 640, limits::JSON_DEPTH - 2] {
        // objects and arrays in turn, so that a wrong bit shows
        let mut text = String::new();
        for level in 0..levels {
            text.push_str(if level % 3 == 0 { "{\"a\":" } else { "[" });
        }
        text.push('1');
        for level in (0..levels).rev() {
            text.push_str(if level % 3 == 0 { ",\"b\":2}" } else { ",3]" });
        }
        let object = format!("{{\"x\":{text}}}");
        let read = Object::parse(&object).unwrap();
        assert_eq!(read.get("x"), Some(text.as_str()), "{levels}");
        // one bracket of the other kind
        let (at, wrong) = match text.rfind(']') {
            Some(at) => (at, "}"),
            None => (text.len() - 1, "]"),
        };
        let mut broken = text.clone();
        broken.replace_range(at..=at, wrong);
        assert!(
            Object::parse(&format!("{{\"x\":{broken}}}")).is_err(),
            "{levels}"
        );
    }
}
