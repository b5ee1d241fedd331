//! Finds live secrets in what others print, and takes them out.
//!
//! A secret is looked for as it is and in the forms that programs print things in: base64 at each
//! of its three alignments in both alphabets, percent-encoded as four kinds of encoder do it,
//! escaped as JSON up to three times, hexadecimal. Whoever wants to hide it (reversed, split over two
//! lines, one character escaped) can: this stops accidents, not a server that means to.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

use super::Secret;
use crate::limits;

/// JSON inside of JSON is looked through this deep: a tool's text that is a document with a document
/// in it.
const JSON_LEVELS: usize = 3;

/// What stands in the place of a secret: fit for text and for the inside of a JSON string.
pub const MARK: &str = "[credential removed by mcpshim]";

/// The live secrets of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Scrubber(Arc<RwLock<Arc<Table>>>);

/// Everything that is looked for. Holds secrets in clear, as the process does anyway: they are in
/// use.
#[derive(Default)]
struct Table {
    forms: BTreeSet<Vec<u8>>,
    longest: usize,
    /// Where anything may stand beside the secret.
    text: Option<AhoCorasick>,
    /// Inside of JSON: only forms that a JSON string can hold as they are.
    json: Option<AhoCorasick>,
}

/// Numbers only: the forms are secrets.
impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scrubber({} forms)", self.table().forms.len())
    }
}

impl Scrubber {
    /// One without secrets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn table(&self) -> Arc<Table> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&table)
    }

    /// Whether there is anything to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table().forms.is_empty()
    }

    /// Looks for this secret from now on. One of fewer than
    /// [`limits::SECRET_BYTES`]`.0` bytes is not looked for: it would be found
    /// everywhere.
    pub fn add(&self, secret: &Secret) {
        let new = forms(secret.expose());
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if new.iter().all(|form| table.forms.contains(form)) {
            return;
        }
        let mut all = table.forms.clone();
        all.extend(new);
        *table = Arc::new(Table::of(all));
    }

    /// The text without live secrets; borrowed when there was none in it.
    #[must_use]
    pub fn scrub<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let table = self.table();
        let Some(found) = table.text.as_ref().filter(|found| found.is_match(text)) else {
            return Cow::Borrowed(text);
        };
        let mut out = Vec::with_capacity(text.len());
        let mut from = 0;
        for hit in found.find_iter(text) {
            out.extend_from_slice(text.get(from..hit.start()).unwrap_or_default());
            out.extend_from_slice(MARK.as_bytes());
            from = hit.end();
        }
        out.extend_from_slice(text.get(from..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// [`Scrubber::scrub`] for strings.
    #[must_use]
    pub fn scrub_str<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.scrub(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // forms begin and end between characters; if ever not, the text is not worth more
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// A JSON text without live secrets, and how many there were. `None` when there was none.
    /// What was JSON stays JSON: a secret inside of a string is replaced there, one that is a
    /// number becomes a string.
    #[must_use]
    pub fn scrub_json(&self, json: &[u8]) -> Option<(Vec<u8>, u64)> {
        let table = self.table();
        let found = table.json.as_ref()?;
        if !found.is_match(json) {
            return None;
        }
        let mut out = Vec::with_capacity(json.len());
        let mut count = 0;
        let mut place = Place::default();
        let mut from = 0;
        for hit in found.find_iter(json) {
            if hit.start() < from {
                // inside of a number that was replaced whole
                continue;
            }
            place.walk(json, hit.start());
            if place.escaped {
                // begins with the letter of an escape: another text that looks alike
                continue;
            }
            let (start, end) = match place.in_string {
                true => (hit.start(), hit.end()),
                false => number(json, hit.start(), hit.end()),
            };
            out.extend_from_slice(json.get(from..start).unwrap_or_default());
            if place.in_string {
                out.extend_from_slice(MARK.as_bytes());
            } else {
                out.extend_from_slice(format!("\"{MARK}\"").as_bytes());
            }
            from = end;
            count += 1;
        }
        out.extend_from_slice(json.get(from..).unwrap_or_default());
        (count > 0).then_some((out, count))
    }
}

/// Where in a JSON text we are.
#[derive(Default)]
struct Place {
    at: usize,
    in_string: bool,
    /// The byte before was a backslash that counts.
    escaped: bool,
}

impl Place {
    fn walk(&mut self, json: &[u8], to: usize) {
        for byte in json.get(self.at..to).unwrap_or_default() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ => {}
            }
        }
        self.at = to;
    }
}

/// The whole number around these bytes.
fn number(json: &[u8], start: usize, end: usize) -> (usize, usize) {
    let part = |byte: &&u8| matches!(**byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let before = json.get(..start).unwrap_or_default();
    let before = before.iter().rev().take_while(part).count();
    let after = json.get(end..).unwrap_or_default();
    let after = after.iter().take_while(part).count();
    (start - before, end + after)
}

impl Table {
    fn of(forms: BTreeSet<Vec<u8>>) -> Self {
        let automaton = |forms: &[&Vec<u8>]| {
            // fails only beyond billions of states: then nothing would be found, and the number
            // of credentials is bounded by the vault's
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(forms)
                .ok()
        };
        let all: Vec<_> = forms.iter().collect();
        let inside: Vec<_> = forms.iter().filter(|form| fits_json(form)).collect();
        Self {
            longest: all.iter().map(|form| form.len()).max().unwrap_or_default(),
            text: automaton(&all),
            json: automaton(&inside),
            forms,
        }
    }
}

/// A stream of text whose secrets may lie across two reads.
#[derive(Debug, Default)]
pub struct Stream {
    scrubber: Scrubber,
    /// The end of an unfinished line, in case a secret begins there.
    held: Vec<u8>,
}

impl Stream {
    /// One that looks for the secrets of this scrubber.
    #[must_use]
    pub fn new(scrubber: Scrubber) -> Self {
        let held = Vec::new();
        Self { scrubber, held }
    }

    /// Takes what was read, and gives what can be shown of it. Whole lines are never held: no
    /// form spans two.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let table = self.scrubber.table();
        if table.forms.is_empty() && self.held.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        let lines = memchr::memrchr(b'\n', &self.held).map_or(0, |at| at + 1);
        let room = self
            .held
            .len()
            .saturating_sub(table.longest.saturating_sub(1));
        let mut cut = lines.max(room);
        if cut > lines
            && let Some(found) = &table.text
        {
            // a secret that lies across the cut is shown with what follows it
            for hit in found.find_iter(self.held.as_slice()) {
                if hit.start() < cut && hit.end() > cut {
                    cut = hit.start();
                }
            }
        }
        let rest = self.held.split_off(cut);
        let shown = std::mem::replace(&mut self.held, rest);
        self.scrubber.scrub(&shown).into_owned()
    }

    /// The rest, at the end.
    pub fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        self.scrubber.scrub(&held).into_owned()
    }

    /// What is still held, as it may be shown if nothing followed.
    #[must_use]
    pub fn held(&self) -> Vec<u8> {
        self.scrubber.scrub(&self.held).into_owned()
    }
}

/// Every form a secret is looked for in.
fn forms(secret: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut out = BTreeSet::new();
    // a key of several lines is printed line by line
    let lines = secret.split(|byte| *byte == b'\n' || *byte == b'\r');
    for part in lines.chain([secret]) {
        if part.len() < limits::SECRET_BYTES.0 {
            continue;
        }
        out.insert(part.to_vec());
        for before in 0..3 {
            let padded = [vec![0; before], part.to_vec()].concat();
            // only what the secret alone decides: six bits a character
            let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
            for alphabet in [BASE64_NOPAD, BASE64URL_NOPAD] {
                let encoded = alphabet.encode(&padded).into_bytes();
                out.extend(encoded.get(first..last).map(<[u8]>::to_vec));
            }
        }
        for also in [&b"-._~"[..], b"-._~!'()*", b"-._*", b"-._~!'()*;,/?:@&=+$#"] {
            for upper in [true, false] {
                out.insert(percent(part, also, upper, false));
                out.insert(percent(part, also, upper, true));
            }
        }
        if let Ok(text) = std::str::from_utf8(part) {
            let mut level = BTreeSet::from([text.to_owned()]);
            for _ in 0..JSON_LEVELS {
                level = level.iter().flat_map(|form| escapes(form)).collect();
                out.extend(level.iter().map(|form| form.clone().into_bytes()));
            }
        }
        out.insert(HEXLOWER.encode(part).into_bytes());
        out.insert(HEXUPPER.encode(part).into_bytes());
    }
    out
}

/// Percent-encoded, but for letters, digits and `also`; a space may be a plus (forms).
fn percent(secret: &[u8], also: &[u8], upper: bool, plus: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(secret.len() * 3);
    for byte in secret {
        if byte.is_ascii_alphanumeric() || also.contains(byte) {
            out.push(*byte);
        } else if plus && *byte == b' ' {
            out.push(b'+');
        } else {
            let code = match upper {
                true => format!("%{byte:02X}"),
                false => format!("%{byte:02x}"),
            };
            out.extend_from_slice(code.as_bytes());
        }
    }
    out
}

/// Escaped as JSON: as little as possible, with its slashes, as Go does it (`<`, `>`, `&`), and
/// down to ASCII as Python does it.
fn escapes(text: &str) -> Vec<String> {
    let Ok(quoted) = serde_json::to_string(text) else {
        return Vec::new();
    };
    let least = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let least = least.unwrap_or(&quoted).to_owned();
    let slashes = least.replace('/', "\\/");
    let go = least
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    let mut ascii = String::with_capacity(least.len());
    for c in least.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    vec![least, slashes, go, ascii]
}

/// Whether these bytes can stand inside of a JSON string as they are.
fn fits_json(form: &[u8]) -> bool {
    let mut rest = form.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' | 0..=0x1f => return false,
            b'\\' => match rest.next() {
                Some(b'u') => {
                    let digits = rest.by_ref().take(4);
                    if digits.filter(|byte| byte.is_ascii_hexdigit()).count() != 4 {
                        return false;
                    }
                }
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                Some(_) | None => return false,
            },
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubber(secrets: &[&str]) -> Scrubber {
        let scrubber = Scrubber::new();
        for secret in secrets {
            scrubber.add(&Secret::new(secret.as_bytes().to_vec()));
        }
        scrubber
    }

    fn clean(scrubber: &Scrubber, text: &str) -> String {
        String::from_utf8(scrubber.scrub(text.as_bytes()).into_owned()).unwrap()
    }

    const SECRET: &str = "s3cr3t/+? \"ключ\" %&<x>\\~";

    #[test]
    fn each_usual_form_is_found() {
        let scrubber = scrubber(&[SECRET]);
        let python = "s3cr3t/+? \\\"\\u043a\\u043b\\u044e\\u0447\\\" %&<x>\\\\~";
        let go = serde_json::to_string(SECRET)
            .unwrap()
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026");
        let twice = serde_json::to_string(&serde_json::to_string(SECRET).unwrap()).unwrap();
        let thrice = serde_json::to_string(&twice).unwrap();
        let uri = "s3cr3t%2F%2B%3F%20%22%D0%BA%D0%BB%D1%8E%D1%87%22%20%25%26%3Cx%3E%5C~";
        for form in [
            SECRET.to_owned(),
            serde_json::to_string(SECRET).unwrap(),
            python.to_owned(),
            go,
            twice,
            thrice,
            uri.to_owned(),
            uri.to_lowercase(),
            uri.replace("%20", "+").replace('~', "%7E"),
            HEXLOWER.encode(SECRET.as_bytes()),
        ] {
            let text = format!("before {form} after");
            let cleaned = clean(&scrubber, &text);
            assert!(cleaned.contains(MARK), "{form} was not found");
            assert!(!cleaned.contains("s3cr3t"), "{cleaned}");
        }
    }

    #[test]
    fn base64_is_found_at_each_alignment() {
        for secret in [
            "12345678",
            "correct horse battery staple",
            "\u{ff}~\u{ff}~?>?>?>",
        ] {
            let scrubber = scrubber(&[secret]);
            for before in 0..7 {
                for after in 0..4 {
                    let text = format!("{}{secret}{}", "u".repeat(before), ":".repeat(after));
                    for alphabet in [
                        data_encoding::BASE64,
                        data_encoding::BASE64URL,
                        BASE64_NOPAD,
                        BASE64URL_NOPAD,
                    ] {
                        let encoded = alphabet.encode(text.as_bytes());
                        let cleaned = clean(&scrubber, &encoded);
                        assert!(cleaned.contains(MARK), "{text} as {encoded}");
                        // at most the characters that its neighbours share are left
                        assert!(cleaned.len() - MARK.len() <= before * 2 + after * 2 + 8);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_short_or_unknown_passes_untouched() {
        let scrubber = scrubber(&["short", ""]);
        assert!(scrubber.is_empty());
        let text = b"a short text";
        assert!(matches!(scrubber.scrub(text), Cow::Borrowed(_)));
        assert_eq!(scrubber.scrub_json(text), None);
        assert_eq!(format!("{scrubber:?}"), "Scrubber(0 forms)");
    }

    #[test]
    fn secrets_across_two_reads_are_found() {
        let scrubber = scrubber(&["correct horse battery", "battery staple"]);
        let text =
            b"one\ntoken=correct horse battery staple.\nBasic Y29ycmVjdCBob3JzZSBiYXR0ZXJ5 end";
        let whole = scrubber.scrub(text).into_owned();
        assert!(!String::from_utf8_lossy(&whole).contains("horse"));
        for cut in 0..text.len() {
            for second in [cut, (cut + 7).min(text.len())] {
                let mut stream = Stream::new(scrubber.clone());
                let mut shown = stream.push(&text[..cut]);
                shown.extend(stream.push(&text[cut..second]));
                shown.extend(stream.push(&text[second..]));
                shown.extend(stream.finish());
                assert_eq!(
                    String::from_utf8_lossy(&shown),
                    String::from_utf8_lossy(&whole),
                    "cut at {cut} and {second}"
                );
            }
        }
        let mut stream = Stream::new(scrubber);
        let shown: Vec<u8> = text.iter().flat_map(|byte| stream.push(&[*byte])).collect();
        assert!(!String::from_utf8_lossy(&shown).contains("horse"));
        assert!(!String::from_utf8_lossy(&stream.held()).contains("horse"));
    }

    #[test]
    fn a_finished_line_is_shown_at_once() {
        let mut stream = Stream::new(scrubber(&["correct horse battery"]));
        assert_eq!(stream.push(b"listening\n"), b"listening\n");
        assert_eq!(stream.push(b"correct "), b"");
        assert_eq!(stream.held(), b"correct ");
        assert_eq!(stream.push(b"answer\n"), b"correct answer\n");
    }

    #[test]
    fn json_stays_json() {
        let tricky = [
            "12345678",
            "nabcdefgh",
            "ends in \\",
            "quoted\"inside",
            "\",\"id\":7,\"",
            SECRET,
        ];
        let scrubber = scrubber(&tricky);
        for secret in tricky {
            let number = serde_json::from_str::<u64>(secret).unwrap_or(5);
            let value = serde_json::json!({
                "text": format!("before {secret} after"),
                secret: [secret, number, -1.5],
                "new line": format!("\n{}", &secret[1..]),
                "url": secret.replace('/', "%2F"),
                "next": "",
                "quote": "ends in \"quoted",
            });
            let line = value.to_string();
            let (cleaned, count) = scrubber.scrub_json(line.as_bytes()).unwrap();
            assert!(count >= 2, "{secret}: {count}");
            let read: serde_json::Value = serde_json::from_slice(&cleaned)
                .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&cleaned)));
            assert_eq!(read["text"], format!("before {MARK} after"));
            assert_eq!(read["quote"], "ends in \"quoted");
            assert_eq!(read["new line"], value["new line"]);
        }
        assert_eq!(scrubber.scrub_json(br#"{"nothing":"here"}"#), None);
    }

    #[test]
    fn a_key_of_several_lines_is_found_line_by_line() {
        let scrubber = scrubber(&["-----BEGIN KEY-----\nMC4CAQAwBQYDK2Vw\n-----END KEY-----\n"]);
        assert_eq!(
            clean(&scrubber, "x MC4CAQAwBQYDK2Vw y"),
            format!("x {MARK} y")
        );
    }
}
