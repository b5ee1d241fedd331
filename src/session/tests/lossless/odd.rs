//! JSON as strange as it may be: odd numbers, odd escapes, any order and white space, members
//! nobody knows at every level.

use super::super::laws::Unstructured;
use arbtest::arbitrary::Result;

/// Members, as tokens of key and value.
pub(super) type Members = Vec<(String, String)>;

/// White space that a line may hold.
fn white(u: &mut Unstructured<'_>) -> Result<&'static str> {
    u.choose(&["", "", "", "", " ", "\t", "  \t "]).copied()
}

pub(super) fn number(u: &mut Unstructured<'_>) -> Result<String> {
    let mut out = (*u.choose(&["", "", "-"])?).to_owned();
    match u.int_in_range(0..=3)? {
        0 => out.push('0'),
        1 => out.push_str("12345678901234567890123"),
        _ => out.push_str(&u.int_in_range(1..=99_999_u32)?.to_string()),
    }
    out.push_str(u.choose(&["", "", ".0", ".50", ".00000000000000000001"])?);
    out.push_str(u.choose(&["", "", "", "e2", "E+2", "e-07", "E400"])?);
    Ok(out)
}

/// A string token. Lone surrogates only where no key or message stands.
pub(super) fn string(u: &mut Unstructured<'_>, lone: bool) -> Result<String> {
    const PIECES: &[&str] = &[
        "a",
        "é",
        r"\u00e9",
        r"\u00E9",
        r"\ud83d\ude00",
        r"\/",
        r"\\",
        r#"\""#,
        r"\u0000",
        r"\n",
        r"\u2028",
        "\u{2028}",
        "\u{7f}",
        "\u{feff}",
        "😀",
        "{",
        "]",
        ",",
        "null",
        r"\ud800",
        r"\udc00x",
    ];
    let known = if lone { PIECES.len() } else { PIECES.len() - 2 };
    let mut out = "\"".to_owned();
    for _ in 0..u.int_in_range(0..=4)? {
        out.push_str(u.choose(&PIECES[..known])?);
    }
    out.push('"');
    Ok(out)
}

/// Whether no string of a value hides something, or breaks its line.
pub(super) fn hides_nothing(value: &str) -> bool {
    let mut rest = value;
    while let Some(from) = rest.find('"') {
        let mut to = from + 1;
        while rest.as_bytes()[to] != b'"' {
            to += if rest.as_bytes()[to] == b'\\' { 2 } else { 1 };
        }
        let text = serde_json::from_str::<String>(&rest[from..=to]);
        if !text.is_ok_and(|text| crate::text::visible(&text) == text) {
            return false;
        }
        rest = &rest[to + 1..];
    }
    true
}

/// A key or another name that is read, now and then with one of its letters escaped.
pub(super) fn spelt(u: &mut Unstructured<'_>, name: &str) -> Result<String> {
    if !u.ratio(1, 6)? || name.is_empty() {
        return Ok(format!("\"{name}\""));
    }
    let at = u.choose_index(name.len())?;
    let letter = name.as_bytes()[at];
    let (before, after) = (&name[..at], &name[at + 1..]);
    Ok(match letter {
        b'/' => format!(r#""{before}\/{after}""#),
        letter => format!(r#""{before}\u{letter:04x}{after}""#),
    })
}

/// Any value.
pub(super) fn value(u: &mut Unstructured<'_>, depth: usize) -> Result<String> {
    Ok(match u.int_in_range(0..=11)? {
        0 => "null".to_owned(),
        1 => (*u.choose(&["true", "false"])?).to_owned(),
        2..=4 => number(u)?,
        5..=7 => string(u, true)?,
        _ if depth == 0 => "{}".to_owned(),
        8 => {
            let mut out = format!("[{}", white(u)?);
            for n in 0..u.int_in_range(0..=3)? {
                out.push_str(if n > 0 { "," } else { "" });
                out.push_str(white(u)?);
                out.push_str(&value(u, depth - 1)?);
                out.push_str(white(u)?);
            }
            out + "]"
        }
        // names that mean something elsewhere
        9 => {
            let mut members = unknown(u, "w", depth - 1)?;
            let known = [
                "_meta",
                "id",
                "name",
                "resultType",
                "progressToken",
                "error",
            ];
            for name in known {
                if u.ratio(1, 3)? {
                    members.push((spelt(u, name)?, value(u, depth - 1)?));
                }
            }
            object(u, members)?
        }
        // the same key twice, where nobody reads it
        10 => {
            let mut members = unknown(u, "d", depth - 1)?;
            members.extend(members.clone());
            object(u, members)?
        }
        _ => {
            let members = unknown(u, "x", depth - 1)?;
            object(u, members)?
        }
    })
}

/// Members that no edit may touch, of distinct names.
pub(super) fn unknown(u: &mut Unstructured<'_>, prefix: &str, depth: usize) -> Result<Members> {
    let mut out = Vec::new();
    for n in 0..u.int_in_range(0..=3)? {
        let odd = string(u, false)?;
        let key = format!("\"x-{prefix}{n}{}", &odd[1..]);
        out.push((key, value(u, depth)?));
    }
    Ok(out)
}

/// An object of these members in any order, with any white space.
pub(super) fn object(u: &mut Unstructured<'_>, mut members: Members) -> Result<String> {
    for at in (1..members.len()).rev() {
        let other = u.int_in_range(0..=at)?;
        members.swap(at, other);
    }
    let mut out = format!("{{{}", white(u)?);
    for (n, (key, value)) in members.iter().enumerate() {
        if n > 0 {
            out.push(',');
            out.push_str(white(u)?);
        }
        let (before, after) = (white(u)?, white(u)?);
        out.push_str(&format!("{key}{before}:{after}{value}{}", white(u)?));
    }
    Ok(out + "}")
}
