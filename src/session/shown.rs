//! What a person sees of a server's question: who asks, and nothing that hides or plays.
//!
//! The message and the texts beside the fields of a form are shown as [`text`] shows them. What goes
//! back to the server with the answer (keys, values to choose from, a default) cannot be changed: a
//! question that hides something there is not asked.

use std::borrow::Cow;
use std::ops::Range;

use crate::text;
use crate::wire::era::Asked;
use crate::wire::raw::{self, Object};

/// Places in a text, and what stands there instead.
pub(super) type Texts = Vec<(Range<usize>, String)>;

/// What to put where in the params of a question; places count in the text that `params` was read
/// from. `None` when it must not be asked.
pub(super) fn texts(params: &Object<'_>, asked: Asked, server: &str) -> Option<Texts> {
    match asked {
        Asked::Roots | Asked::Sampling { .. } => return Some(Vec::new()),
        Asked::Form | Asked::Url => {}
    }
    let message = params.text("message")?;
    let span = params.value_span("message")?;
    let shown = text::message(&message);
    // a server's key has nothing that needs an escape
    let mut texts = vec![match *shown == *message {
        true => (span.start + 1..span.start + 1, format!("[{server}] ")),
        false => (span, raw::quoted(&format!("[{server}] {shown}"))),
    }];
    if asked == Asked::Url {
        let url = params.text("url")?;
        return is_one_line(&url).then_some(texts);
    }
    if let (Some(schema), Some(span)) = (
        params.get("requestedSchema"),
        params.value_span("requestedSchema"),
    ) {
        for (place, text) in labels(schema)? {
            texts.push((span.start + place.start..span.start + place.end, text));
        }
    }
    Some(texts)
}

/// Whether a text is one line that hides nothing.
fn is_one_line(value: &str) -> bool {
    matches!(text::visible(value), Cow::Borrowed(_))
}

/// The texts of a form that are shown in another way than they stand there. `None` when something
/// hides that must stay as it is.
fn labels(schema: &str) -> Option<Texts> {
    let mut texts = Vec::new();
    let mut fits = true;
    strings(schema, |place, token, under| {
        let Some(value) = raw::string(token) else {
            fits = false;
            return;
        };
        let shown = match under {
            Under::Member("description") => text::message(&value),
            Under::Member("title" | "enumNames") => text::visible(&value),
            Under::Key | Under::Member("const" | "enum") => {
                fits &= is_one_line(&value);
                return;
            }
            Under::Member(_) => {
                fits &= text::hides(&value).is_none();
                return;
            }
        };
        if *shown != *value {
            texts.push((place, raw::quoted(&shown)));
        }
    });
    fits.then_some(texts)
}

/// What a string is.
#[derive(Debug, Clone, Copy)]
enum Under<'a> {
    Key,
    /// A value, or an item of a list, of this member.
    Member(&'a str),
}

/// Visits every string of a JSON text: where it stands, its token, and what it is.
fn strings(json: &str, mut visit: impl FnMut(Range<usize>, &str, Under<'_>)) {
    let bytes = json.as_bytes();
    let byte = |at: usize| bytes.get(at).copied();
    // for each open object or list, the member that its values stand under
    let mut open: Vec<String> = vec![String::new()];
    let mut at = 0;
    while let Some(this) = byte(at) {
        match this {
            b'{' | b'[' => open.push(open.last().cloned().unwrap_or_default()),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let start = at;
                at += 1;
                while let Some(inner) = byte(at).filter(|inner| *inner != b'"') {
                    at += if inner == b'\\' { 2 } else { 1 };
                }
                let token = json.get(start..=at).unwrap_or_default();
                let mut after = at + 1;
                while matches!(byte(after), Some(b' ' | b'\t' | b'\n' | b'\r')) {
                    after += 1;
                }
                match (byte(after), open.last_mut()) {
                    (Some(b':'), Some(member)) => {
                        visit(start..at + 1, token, Under::Key);
                        *member = raw::string(token).unwrap_or_default().into_owned();
                    }
                    (_, member) => {
                        let member = member.map_or("", |member| member.as_str());
                        visit(start..at + 1, token, Under::Member(member));
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The params as the client gets them.
    fn check(params: &str, asked: Asked) -> Option<String> {
        let object = Object::parse(params).unwrap();
        let mut edits = raw::Edits::new();
        for (place, text) in texts(&object, asked, "evil")? {
            edits.replace(place, &text);
        }
        let mut out = Vec::new();
        edits.apply(params, &mut out);
        Some(String::from_utf8(out).unwrap())
    }

    fn form(message: &str, field: &str) -> String {
        format!(
            r#"{{"message":{message},"requestedSchema":{{"type":"object","properties":{{"t":{field}}}}}}}"#
        )
    }

    #[test]
    fn a_question_begins_visibly_with_the_key_of_its_server() {
        for (message, shown) in [
            (r#""Which \u00e9?""#, r#""[evil] Which \u00e9?""#),
            (
                r#""\u001b[2K\r[github] Enter your token""#,
                r#""[evil] \\u{1b}[2K\\r[github] Enter your token""#,
            ),
            (r#""\u202e[github]""#, r#""[evil] \\u{202e}[github]""#),
            (
                r#""\u061c\u2067\u200f x""#,
                r#""[evil] \\u{61c}\\u{2067}\\u{200f} x""#,
            ),
            (
                r#""\b\b\b\b\b\b\b\b[github]""#,
                &format!(r#""[evil] {}[github]""#, r"\\u{8}".repeat(8)),
            ),
            (r#""\n\n\n\n\n\n\n\n\n\n[github]""#, r#""[evil] [github]""#),
            (r#""x\u2028\u2028y""#, r#""[evil] x\\u{2028}\\u{2028}y""#),
            (r#""one\n\ntwo 👩‍👩‍👧""#, r#""[evil] one\n\ntwo 👩‍👩‍👧""#),
        ] {
            let field = r#"{"type":"string"}"#;
            assert_eq!(
                check(&form(message, field), Asked::Form).unwrap(),
                form(shown, field)
            );
        }
        let url = r#"{"message":"\rx","url":"https://a/"}"#;
        let shown = r#"{"message":"[evil] \\rx","url":"https://a/"}"#;
        assert_eq!(check(url, Asked::Url).unwrap(), shown);
    }

    #[test]
    fn titles_and_descriptions_of_fields_hide_nothing() {
        for (field, shown) in [
            (
                r#"{"title":"\u202e[github] token"}"#,
                r#"{"title":"\\u{202e}[github] token"}"#,
            ),
            (r#"{"title":"a\nb"}"#, r#"{"title":"a\\nb"}"#),
            (
                r#"{"t\u0069tle" : "\u001b[2J"}"#,
                r#"{"t\u0069tle" : "\\u{1b}[2J"}"#,
            ),
            (
                r#"{"description":"a\n\u200bb"}"#,
                r#"{"description":"a\n\\u{200b}b"}"#,
            ),
            (
                r#"{"enum":["a"],"enumNames":["\u202ea"]}"#,
                r#"{"enum":["a"],"enumNames":["\\u{202e}a"]}"#,
            ),
            (
                r#"{"oneOf":[{"const":"a","title":"\rA"}]}"#,
                r#"{"oneOf":[{"const":"a","title":"\\rA"}]}"#,
            ),
            (
                r#"{"title":"Größe 🏴󠁧󠁢󠁳󠁣󠁴󠁿","default":"two\nlines"}"#,
                r#"{"title":"Größe 🏴󠁧󠁢󠁳󠁣󠁴󠁿","default":"two\nlines"}"#,
            ),
        ] {
            let made = check(&form(r#""m""#, field), Asked::Form).unwrap();
            assert_eq!(made, form(r#""[evil] m""#, shown));
        }
    }

    #[test]
    fn what_goes_back_to_the_server_hides_nothing_or_is_not_asked() {
        for field in [
            r#"{"enum":["\u202ea"]}"#,
            r#"{"enum":["a\nb"]}"#,
            r#"{"oneOf":[{"const":"a\u200b","title":"A"}]}"#,
            r#"{"default":"\u001b[2J"}"#,
            r#"{"\u202ex":1}"#,
            r#"{"title":"\ud800"}"#,
            r#"{"Title":"\u202ea"}"#,
        ] {
            assert_eq!(check(&form(r#""m""#, field), Asked::Form), None, "{field}");
        }
        assert_eq!(
            check(r#"{"message":"m","url":"https://a/\u202e"}"#, Asked::Url),
            None
        );
        assert_eq!(check(r#"{"requestedSchema":{}}"#, Asked::Form), None);
    }
}
