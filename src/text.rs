//! Which text may reach a person, a terminal, a model or a record.
//!
//! Text of a server, a device, a provider or a repository is a stranger's. It may hold characters
//! that steer a terminal, turn the direction of writing, break a line, or are not seen at all.
//! This is the only place that says which those are; `tests/it/tidy.rs` keeps it so.
//!
//! | form | for | what it does with such a character |
//! |---|---|---|
//! | [`visible`] | one line | shows its number: `\u{202e}`; line breaks as `\n` |
//! | [`short`] | one line in a sentence of ours | the same, and cuts the text |
//! | [`block`] | several lines | the same, and keeps line breaks |
//! | [`message`] | what a person is asked | the same, and keeps its beginning in view |
//! | [`plain`] | records and names of people | leaves it out; line breaks too |
//! | [`json`] | a JSON text | writes it as an escape of JSON: the value stays |
//! | [`printable`] | a name that a model reads in a sentence of ours | ASCII only, `?` for others |
//! | [`hides`] | what must be refused | names the first |
//!
//! Real text passes as it is: emoji with their joiners and selectors, flags of regions, the joiners
//! of Arabic and Indic scripts, word breaks of Thai and Khmer, variants of ideographs. Each of those
//! characters is let through where its script uses it, once, and nowhere else. Private use
//! characters pass: readers see a box or an icon. Combining marks pass in any number.
#![warn(missing_docs)]

use std::borrow::Cow;
use std::fmt;
use std::iter::Peekable;
use std::str::CharIndices;

/// A character that a reader does not see, or that changes how other text is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden(char);

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it hides text from reviewers: U+{:04X}",
            u32::from(self.0)
        )
    }
}

/// Returns the first character that hides or plays, if there is one. Line breaks and tabs are
/// none.
#[must_use]
pub fn hides(text: &str) -> Option<Hidden> {
    if is_simple(text) {
        return None;
    }
    let mut found = Walk::new(text).filter(|(_, _, kind)| *kind == Kind::Odd);
    found.next().map(|(_, ch, _)| Hidden(ch))
}

/// Returns a text as one line in which nothing hides or plays. Line breaks are shown, too.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    rewritten(text, Lines::Shown)
}

/// Returns a text of several lines in which nothing hides or plays.
#[must_use]
pub fn block(text: &str) -> Cow<'_, str> {
    rewritten(text, Lines::Kept)
}

/// Returns [`visible`] text of at most `most` characters, with `…` where it was cut.
#[must_use]
pub fn short(text: &str, most: usize) -> String {
    let end = text.char_indices().nth(most).map(|(at, _)| at);
    let head = text.get(..end.unwrap_or(text.len())).unwrap_or(text);
    let mut out = visible(head).into_owned();
    if end.is_some() {
        out.push('…');
    }
    out
}

/// Lines of a [`message`].
const MESSAGE_LINES: usize = 40;
/// Blanks in a row in one.
const MESSAGE_BLANKS: usize = 32;

/// Returns a [`block`] that cannot push away what stands before it: it begins with text, has at
/// most one empty line in a row, 40 lines and 32 blanks in a row. Further line breaks are shown.
#[must_use]
pub fn message(text: &str) -> Cow<'_, str> {
    let shown = block(text);
    let (mut lines, mut empty, mut blanks) = (0, 0, MESSAGE_BLANKS);
    let mut out = String::new();
    let mut changed = false;
    for ch in shown.chars() {
        let keep = match ch {
            // of a line break: without it, where the text changes at all
            '\r' => continue,
            '\n' => {
                empty += 1;
                lines += 1;
                empty <= 2 && lines < MESSAGE_LINES && !out.is_empty()
            }
            // the pattern of braille without a dot is as wide as a blank
            ch if ch.is_whitespace() || ch == '\u{2800}' => {
                blanks += 1;
                blanks <= MESSAGE_BLANKS && !out.is_empty()
            }
            _ => {
                (empty, blanks) = (0, 0);
                true
            }
        };
        changed |= !keep;
        match (keep, ch) {
            (true, '\n') => {
                blanks = 0;
                out.push('\n');
            }
            (true, _) => out.push(ch),
            (false, '\n') if lines >= MESSAGE_LINES && empty == 1 => out.push_str("\\n"),
            // what follows another blank tells a reader nothing
            (false, _) => {}
        }
    }
    if changed { Cow::Owned(out) } else { shown }
}

/// Returns a text as one line without what hides or plays.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    rewritten(text, Lines::Dropped)
}

/// Returns the same JSON with what hides or plays in its strings as escapes.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    rewritten(text, Lines::Json)
}

/// Characters of a [`printable`] text.
const PRINTABLE_CHARS: usize = 64;

/// Returns a stranger's name as it may stand in a sentence of ours that a model reads: printable
/// ASCII, at most 64 characters, without the quotes that would end it.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(PRINTABLE_CHARS)
        .map(|ch| match ch {
            '`' | '"' => '\'',
            ' '..='~' => ch,
            _ => '?',
        })
        .collect();
    if text.chars().nth(PRINTABLE_CHARS).is_some() {
        out.push_str("...");
    }
    out
}

/// Whether a character is a control of a terminal: what is compared and matched holds none.
#[must_use]
pub fn controls(c: char) -> bool {
    c.is_control()
}

/// Whether some readers drop a character before they compare, since it has no shape.
#[must_use]
pub fn is_shapeless(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// What becomes of line breaks, and of what hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    Dropped,
    Json,
    Kept,
    Shown,
}

/// Whether a text needs no look at each character: nearly all texts.
fn is_simple(text: &str) -> bool {
    text.bytes()
        .all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n'))
}

fn rewritten(text: &str, lines: Lines) -> Cow<'_, str> {
    let breaks = matches!(lines, Lines::Dropped | Lines::Shown);
    if is_simple(text) && !(breaks && text.contains('\n')) && lines != Lines::Dropped {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut copied = 0;
    for (at, ch, kind) in Walk::new(text) {
        let stays = match kind {
            Kind::Shown => true,
            Kind::Break => matches!(lines, Lines::Json | Lines::Kept),
            Kind::Tab => lines != Lines::Dropped,
            // a bare one is no part of a string
            Kind::Odd => lines == Lines::Json && ch == '\r',
        };
        if stays {
            continue;
        }
        out.push_str(text.get(copied..at).unwrap_or_default());
        copied = at + ch.len_utf8();
        match lines {
            Lines::Dropped => {}
            Lines::Json => {
                for unit in ch.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            Lines::Kept | Lines::Shown if matches!(ch, '\n' | '\r') => {
                out.extend(ch.escape_default());
            }
            Lines::Kept | Lines::Shown => out.extend(ch.escape_unicode()),
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// What a character is where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `\n`, or the `\r` before one.
    Break,
    /// It hides or plays.
    Odd,
    Shown,
    Tab,
}

/// Flags of regions in a text beside those of England, Scotland and Wales: as many letters that a
/// reader may not see hide no sentence.
const FLAGS: u32 = 4;

/// Goes through a text, character by character.
struct Walk<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
    /// The character before, where it is shown.
    before: Option<char>,
    /// Until here tags belong to a flag.
    flag: usize,
    flags: u32,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            rest: text.char_indices().peekable(),
            before: None,
            flag: 0,
            flags: 0,
        }
    }

    /// The end of the tags that make a flag of the black one that ends at `at`.
    fn flag_after(&mut self, at: usize) -> Option<usize> {
        let mut region = String::new();
        for (past, ch) in self.text.get(at..)?.char_indices() {
            match ch {
                '\u{e0030}'..='\u{e0039}' | '\u{e0061}'..='\u{e007a}' if region.len() < 6 => {
                    region.push(char::from_u32(u32::from(ch) - 0xe_0000)?);
                }
                '\u{e007f}' => {
                    let known = matches!(region.as_str(), "gbeng" | "gbsct" | "gbwls");
                    let country = region.chars().take(2).all(|ch| ch.is_ascii_lowercase());
                    if !known {
                        self.flags += 1;
                    }
                    let fits = known || (region.len() >= 3 && country && self.flags <= FLAGS);
                    return fits.then_some(at + past + ch.len_utf8());
                }
                _ => return None,
            }
        }
        None
    }

    fn kind(&mut self, at: usize, ch: char) -> Kind {
        let next = self.rest.peek().map(|(_, next)| *next);
        let shown = |fits| if fits { Kind::Shown } else { Kind::Odd };
        let before = |test: fn(char) -> bool| shown(self.before.is_some_and(test));
        match ch {
            '\t' => Kind::Tab,
            '\n' => Kind::Break,
            '\r' if next == Some('\n') => Kind::Break,
            ch if ch.is_control() => Kind::Odd,
            ' '..='~' => Kind::Shown,
            '\u{1f3f4}' => {
                if let Some(end) = self.flag_after(at + ch.len_utf8()) {
                    self.flag = end;
                }
                Kind::Shown
            }
            // tags
            '\u{e0000}'..='\u{e007f}' => shown(at < self.flag),
            // a soft hyphen
            '\u{ad}' => shown(
                self.before.is_some_and(char::is_alphabetic)
                    && next.is_some_and(char::is_alphabetic),
            ),
            // what keeps marks apart
            '\u{34f}' => before(|ch| !ch.is_ascii()),
            // zero width: a space, where words are not divided; joiners
            '\u{200b}' => before(has_no_blanks),
            '\u{200c}' => before(joins),
            '\u{200d}' => shown(self.before.is_some_and(|ch| {
                joins(ch) || ((is_emoji(ch) || ch == '\u{fe0f}') && next.is_some_and(is_emoji))
            })),
            // variation selectors
            '\u{180b}'..='\u{180f}' => before(|ch| matches!(ch, '\u{1820}'..='\u{18aa}')),
            '\u{fe00}'..='\u{fe0d}' => before(|ch| is_ideograph(ch) || has_variants(ch)),
            '\u{fe0e}' | '\u{fe0f}' => {
                before(|ch| is_emoji(ch) || matches!(ch, '#' | '*' | '0'..='9'))
            }
            '\u{e0100}'..='\u{e01ef}' => before(is_ideograph),
            ch if never_shown(ch) => Kind::Odd,
            _ => Kind::Shown,
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = (usize, char, Kind);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, ch) = self.rest.next()?;
        let kind = self.kind(at, ch);
        self.before = (kind == Kind::Shown).then_some(ch);
        Some((at, ch, kind))
    }
}

/// Marks of direction, separators of lines, and what has neither width nor shape, wherever it
/// stands. Controls aside.
fn never_shown(ch: char) -> bool {
    let noncharacter = u32::from(ch) & 0xfffe == 0xfffe;
    noncharacter
        || matches!(
            ch,
            '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{17b4}'
                | '\u{17b5}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fdd0}'..='\u{fdef}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// Symbols that are shown as emoji, skin tones among them, and what may end one.
fn is_emoji(ch: char) -> bool {
    matches!(
        ch,
        '\u{a9}'
            | '\u{ae}'
            | '\u{203c}'
            | '\u{2049}'
            | '\u{20e3}'
            | '\u{2122}'
            | '\u{2139}'
            | '\u{2190}'..='\u{21ff}'
            | '\u{2300}'..='\u{23ff}'
            | '\u{2460}'..='\u{27bf}'
            | '\u{2900}'..='\u{297f}'
            | '\u{2b00}'..='\u{2bff}'
            | '\u{3030}'
            | '\u{303d}'
            | '\u{3297}'
            | '\u{3299}'
            | '\u{1f000}'..='\u{1faff}'
    )
}

/// Letters and signs of scripts that use joiners: Arabic and its neighbours, those of India, of
/// Tibet, Myanmar, Khmer, Mongolian and Java.
fn joins(ch: char) -> bool {
    matches!(
        ch,
        '\u{600}'..='\u{8ff}'
            | '\u{900}'..='\u{dff}'
            | '\u{f00}'..='\u{109f}'
            | '\u{1780}'..='\u{18af}'
            | '\u{1a20}'..='\u{1aaf}'
            | '\u{1b00}'..='\u{1c7f}'
            | '\u{1cd0}'..='\u{1cff}'
            | '\u{a840}'..='\u{abff}'
            | '\u{fb50}'..='\u{fdcf}'
            | '\u{fdf0}'..='\u{fdff}'
            | '\u{fe70}'..='\u{fefc}'
            | '\u{10a00}'..='\u{11fff}'
    )
}

/// Scripts that write words without blanks between them, Chinese and Japanese aside.
fn has_no_blanks(ch: char) -> bool {
    matches!(
        ch,
        '\u{e00}'..='\u{109f}'
            | '\u{1780}'..='\u{17ff}'
            | '\u{1950}'..='\u{19df}'
            | '\u{1a20}'..='\u{1aaf}'
            | '\u{1b00}'..='\u{1b7f}'
            | '\u{a980}'..='\u{a9ff}'
            | '\u{aa60}'..='\u{aadf}'
    )
}

fn is_ideograph(ch: char) -> bool {
    matches!(
        ch,
        '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3fffd}'
    )
}

/// Others with variants of a standard: operators, letters of Myanmar and Phags-pa, wide
/// punctuation.
fn has_variants(ch: char) -> bool {
    matches!(
        ch,
        '\u{1000}'..='\u{109f}' | '\u{2200}'..='\u{22ff}' | '\u{2a00}'..='\u{2aff}'
            | '\u{3000}'..='\u{303f}' | '\u{a840}'..='\u{a87f}' | '\u{aa60}'..='\u{aa7f}'
            | '\u{ff00}'..='\u{ff9f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOTLAND: &str = "\u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}";

    /// Texts as people write them.
    const REAL: &[&str] = &[
        "Größe, naïve, Ünïcode 日本 русский עברית العربية",
        "tabs\tand\r\nlines\n",
        "for \u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f} matches",
        "\u{1f3f4}\u{e0075}\u{e0073}\u{e0074}\u{e0078}\u{e007f}",
        // a family, a pirate, a judge, a nod, a skin tone
        "👨\u{200d}👩\u{200d}👧 🏴\u{200d}☠\u{fe0f} 🧑🏽\u{200d}⚖\u{fe0f} 🙂\u{200d}↔\u{fe0f} ❤\u{fe0f}\u{200d}🔥",
        "1\u{fe0f}\u{20e3} #\u{fe0f}\u{20e3} ©\u{fe0f} ™\u{fe0e} ☺\u{fe0f}",
        // Persian, Hindi, Malayalam at the end of a word, Sinhala
        "می\u{200c}خواهم نامه\u{200c}ها",
        "क्\u{200d}ष क्\u{200c}ष അവന്\u{200d} ശ්\u{200d}රී",
        // Khmer and Thai, divided into words
        "ភាសា\u{200b}ខ្មែរ ภาษา\u{200b}ไทย",
        // a name of Japan with its variant, a soft hyphen of German
        "葛\u{e0100}城市 Donau\u{ad}dampf",
        // a blank of no break, private use, a replacement
        "1\u{a0}000 \u{f8ff} \u{fffd}",
    ];

    #[test]
    fn real_text_passes_as_it_is() {
        for text in REAL {
            assert_eq!(hides(text), None, "{text:?}");
            assert!(matches!(block(text), Cow::Borrowed(_)), "{text:?}");
            assert!(matches!(json(text), Cow::Borrowed(_)), "{text:?}");
        }
        assert!(matches!(visible(SCOTLAND), Cow::Borrowed(_)));
    }

    #[test]
    fn what_hides_or_plays_is_named_wherever_it_stands() {
        let always = [
            '\0',
            '\u{7}',
            '\u{8}',
            '\u{b}',
            '\u{c}',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{80}',
            '\u{85}',
            '\u{9b}',
            '\u{61c}',
            '\u{115f}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2064}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{3164}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{fffe}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e0fff}',
        ];
        for ch in always {
            for (before, after) in [
                ("", ""),
                ("a", "b"),
                ("می", "خ"),
                ("👨", "👩"),
                ("葛", "城"),
            ] {
                let text = format!("{before}{ch}{after}");
                assert_eq!(hides(&text), Some(Hidden(ch)), "{text:?}");
                assert!(!visible(&text).contains(ch), "{text:?}");
                assert!(!block(&text).contains(ch), "{text:?}");
                assert!(!plain(&text).contains(ch), "{text:?}");
                assert_eq!(hides(&visible(&text)), None, "{text:?}");
            }
        }
    }

    #[test]
    fn a_joiner_or_selector_hides_where_no_script_uses_it() {
        for text in [
            "a\u{200b}b",
            "a\u{200c}b",
            "a\u{200d}b",
            "a\u{fe0f}b",
            "a\u{e0100}",
            "a\u{180e}b",
            // one after the other carries whatever somebody likes
            "ok\u{200b}\u{200c}\u{200b}\u{200b}",
            "می\u{200c}\u{200d}خ",
            "❤\u{fe0f}\u{fe0f}\u{fe0e}",
            "ไทย\u{200b}\u{200b}",
            "葛\u{e0100}\u{e0101}",
            "👨\u{200d}",
            "👨\u{200d}a",
            "-\u{ad}b",
            // tags that make no flag, and a flag that goes on
            "\u{1f3f4}\u{e0067}\u{e0062}",
            "\u{1f3f4}\u{e007f}",
            "🏁\u{e0067}\u{e0062}\u{e0073}\u{e007f}",
        ] {
            assert!(hides(text).is_some(), "{text:?}");
        }
        let more = format!("{SCOTLAND}\u{e0041}");
        assert_eq!(hides(&more), Some(Hidden('\u{e0041}')));
        let tag = |ch: char| char::from_u32(0xe_0000 + u32::from(ch)).unwrap();
        let flag = |name: &str| {
            format!(
                "\u{1f3f4}{}\u{e007f}",
                name.chars().map(tag).collect::<String>()
            )
        };
        assert_eq!(hides(&SCOTLAND.repeat(50)), None);
        assert_eq!(hides(&flag("gbnir").repeat(4)), None);
        assert!(hides(&flag("ignore").repeat(5)).is_some());
    }

    #[test]
    fn one_line_stays_one_line_and_its_value_can_be_read() {
        assert_eq!(visible("a\u{1b}[2Jb\tc\nd\r"), "a\\u{1b}[2Jb\tc\\nd\\r");
        assert_eq!(
            visible("\u{202e}evil \u{e0041}"),
            "\\u{202e}evil \\u{e0041}"
        );
        assert_eq!(block("a\u{85}b\nc"), "a\\u{85}b\nc");
        assert_eq!(plain("a\nb\u{1b}[31m\t\u{61c}c"), "ab[31mc");
        assert_eq!(short("a\u{1b}b", 9), "a\\u{1b}b");
        assert_eq!(short("äöü", 2), "äö…");
        assert_eq!(printable("x`\n\u{202e}\"y"), "x'??'y");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({"a\u{202e}": ["\u{e0041}\u{200b}\u{9b}", "ok\n", SCOTLAND]});
        for text in [
            value.to_string(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let shown = json(&text);
            assert_eq!(hides(&shown), None);
            assert!(shown.contains("\\udb40\\udc41\\u200b\\u009b"), "{shown}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
                value
            );
        }
    }

    #[test]
    fn a_message_keeps_what_stands_before_it_in_view() {
        for text in ["Which branch?", "One.\n\nTwo.\n- a\n- b\n", "a  b\r\nc"] {
            assert!(matches!(message(text), Cow::Borrowed(_)), "{text:?}");
        }
        assert_eq!(message("\n\n \u{3000}\tEnter"), "Enter");
        assert_eq!(message("a\n\n\n\n\n\n\n\n\n\nb"), "a\n\nb");
        assert_eq!(message("a\n \n \n \n \nb"), "a\n \n   b");
        assert_eq!(message("\r\n\r\na\r\n\r\n\r\n\r\nb"), "a\n\nb");
        let gap = message(&format!("a{}b", format!("\n{}", " ".repeat(30)).repeat(50))).len();
        assert_eq!(gap, 2 + 2 + 30 + 32);
        let blanks = format!("a{}b", " ".repeat(900));
        assert_eq!(message(&blanks).len(), 34);
        let lines = "x\n".repeat(900);
        let shown = message(&lines);
        assert_eq!(shown.matches('\n').count(), 39);
        assert!(shown.ends_with("x\\nx\\n"), "{shown}");
        assert_eq!(
            message("\u{8}\u{8}\u{1b}[2K\r[github] Enter"),
            "\\u{8}\\u{8}\\u{1b}[2K\\r[github] Enter"
        );
    }
}
