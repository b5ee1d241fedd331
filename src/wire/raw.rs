//! JSON as spans of its own text: ordered members, duplicate refusal, surgical edits.
//!
//! One strict pass (RFC 8259) finds where keys and values lie and copies nothing. An edit names
//! a span and what stands there instead; every byte outside the edits is copied as it came, so
//! numbers, escapes, key order and unknown members survive. Nothing here recurses: the nesting
//! of a value is a bit per level, and [`limits::JSON_DEPTH`] bounds it. What is 128 levels deep or
//! less allocates nothing.
//!
//! Refused: duplicate keys (compared after unescaping) wherever an [`Object`] is read. Two
//! readers of one text must not see two values.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use crate::limits;

/// Why a text is not the JSON that is wanted here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// Nested deeper than [`limits::JSON_DEPTH`].
    #[error(
        "arrays and objects are nested deeper than {} levels",
        limits::JSON_DEPTH
    )]
    Depth,
    /// One object names a member twice.
    #[error("duplicate key {key:?}")]
    Duplicate {
        /// The key, unescaped, cut to 80 characters.
        key: String,
    },
    /// A key holds an escape that is no character (a lone surrogate).
    #[error("the key at byte {at} is not a valid string")]
    Key {
        /// Where.
        at: usize,
    },
    /// Not JSON.
    #[error("not valid JSON at byte {at}: {what}")]
    Syntax {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Another type than the one wanted.
    #[error("expected {wanted}")]
    Type {
        /// What was wanted, e.g. `an object`.
        wanted: &'static str,
    },
}

/// Strings up to this length are read a word at a time, in bytes.
const SHORT_BYTES: usize = 64;

/// Levels of nesting in one word.
const WORD: usize = 128;

/// Reads JSON text front to back. The text is UTF-8 by its type.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    src: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(src: &'a str) -> Self {
        Self { src, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.src.as_bytes().get(self.at).copied()
    }

    pub(crate) fn white(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn wrong<T>(&self, what: &'static str) -> Result<T, RawError> {
        Err(RawError::Syntax { at: self.at, what })
    }

    /// Only white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), RawError> {
        self.white();
        match self.peek() {
            None => Ok(()),
            Some(_) => self.wrong("something follows the value"),
        }
    }

    /// Passes a string; true when it holds an escape.
    fn string(&mut self) -> Result<bool, RawError> {
        let mut escaped = false;
        self.at += 1;
        loop {
            let rest = self.src.as_bytes().get(self.at..).unwrap_or_default();
            let run = plain(rest);
            self.at += run;
            match rest.get(run..).unwrap_or_default() {
                [b'"', ..] => {
                    self.at += 1;
                    return Ok(escaped);
                }
                [
                    b'\\',
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                    ..,
                ] => self.at += 2,
                [b'\\', b'u', a, b, c, d, ..]
                    if [a, b, c, d].iter().all(|hex| hex.is_ascii_hexdigit()) =>
                {
                    self.at += 6;
                }
                [b'\\', ..] => return self.wrong("an unknown escape in a string"),
                [_, ..] => return self.wrong("a control character in a string"),
                [] => return self.wrong("a string does not end"),
            }
            escaped = true;
        }
    }

    fn digits(&mut self) -> Result<(), RawError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.wrong("a digit is missing");
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), RawError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<(), RawError> {
        let rest = self.src.as_bytes().get(self.at..).unwrap_or_default();
        for word in [&b"true"[..], b"false", b"null"] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(());
            }
        }
        self.wrong("expected a value")
    }

    /// Passes `"key" :` and returns the key's span, quotes included, and whether it is escaped.
    fn key(&mut self) -> Result<(Range<usize>, bool), RawError> {
        if self.peek() != Some(b'"') {
            return self.wrong("expected a key in quotes");
        }
        let start = self.at;
        let escaped = self.string()?;
        let key = start..self.at;
        self.white();
        if self.peek() != Some(b':') {
            return self.wrong("expected a colon");
        }
        self.at += 1;
        self.white();
        Ok((key, escaped))
    }

    /// Passes one value that lies `depth` levels deep. White space before it is passed already.
    pub(crate) fn value(&mut self, depth: usize) -> Result<Range<usize>, RawError> {
        let start = self.at;
        // one bit a level, the innermost lowest: 1 is an object, 0 an array
        let mut levels = 0u128;
        let mut open = 0usize;
        // the outer levels of what nests deeper than that, WORD at a time
        let mut outer: Vec<u128> = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(opener @ (b'{' | b'[')) => {
                    if depth + open >= limits::JSON_DEPTH {
                        return Err(RawError::Depth);
                    }
                    let object = opener == b'{';
                    self.at += 1;
                    self.white();
                    if self.peek() == Some(if object { b'}' } else { b']' }) {
                        self.at += 1;
                    } else {
                        if open > 0 && open.is_multiple_of(WORD) {
                            outer.push(levels);
                        }
                        levels = levels << 1 | u128::from(object);
                        open += 1;
                        if object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(_) => self.literal()?,
                None => return self.wrong("the text ends where a value should be"),
            }
            // a value ended; so do the levels that end with it
            loop {
                if open == 0 {
                    return Ok(start..self.at);
                }
                self.white();
                let object = levels & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.white();
                        if object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if object => self.at += 1,
                    Some(b']') if !object => self.at += 1,
                    _ => return self.wrong("expected a comma or the end of the value"),
                }
                levels >>= 1;
                open -= 1;
                if open > 0 && open.is_multiple_of(WORD) {
                    levels = outer.pop().unwrap_or_default();
                }
            }
        }
    }

    /// Reads one object that lies `depth` levels deep. `each` is called with the key at the
    /// start of every value and must pass exactly that value; [`Scan::value`] does.
    ///
    /// A duplicate key is left to [`Object::unique`], so that a caller can still find its id.
    pub(crate) fn object(
        &mut self,
        depth: usize,
        mut each: impl FnMut(&mut Self, &str) -> Result<(), RawError>,
    ) -> Result<Object<'a>, RawError> {
        if self.peek() != Some(b'{') {
            return Err(RawError::Type {
                wanted: "an object",
            });
        }
        if depth >= limits::JSON_DEPTH {
            return Err(RawError::Depth);
        }
        let start = self.at;
        let mut members = Vec::new();
        self.at += 1;
        self.white();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            members.reserve(6);
            loop {
                let (key, escaped) = self.key()?;
                let from = self.at;
                let text = text_of(self.src, &key, escaped)?;
                each(self, &text)?;
                members.push(Member {
                    key,
                    value: from..self.at,
                    escaped,
                });
                self.white();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.white();
                    }
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return self.wrong("expected a comma or the end of the object"),
                }
            }
        }
        Ok(Object {
            src: self.src,
            span: start..self.at,
            members,
        })
    }
}

/// How many bytes of a string come before its end, an escape or a control character.
fn plain(bytes: &[u8]) -> usize {
    // most strings are names: eight bytes at a time are done before a search has begun
    let mut at = 0;
    while at < SHORT_BYTES
        && let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk)
    {
        let stops = stops(u64::from_le_bytes(*word));
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    let rest = rest.get(..run).unwrap_or_default();
    let control = if has_control(rest) {
        rest.iter().position(|byte| *byte < 0x20)
    } else {
        None
    };
    at + control.unwrap_or(run)
}

/// The top bits of the bytes that are no plain text in a string, up to the first of them; after it
/// others may be marked too.
fn stops(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & (ONES << 7)
}

/// Whether a byte below 0x20 is among them. In blocks without an early exit, which compilers
/// turn into vector code; byte by byte it would be the dearest part of a large message.
fn has_control(bytes: &[u8]) -> bool {
    let any = |block: &[u8]| block.iter().fold(false, |any, byte| any | (*byte < 0x20));
    bytes.chunks(128).any(any)
}

/// Whether a key is this ASCII one but for case, character by character: as readers in Go, C# and
/// Java compare names. `\u{17f}` is an `s`, `\u{212a}` a `k`, `\u{130}` and `\u{131}` an `i`.
fn folds(key: &str, known: &str) -> bool {
    if key.is_ascii() {
        return key.eq_ignore_ascii_case(known);
    }
    let folded = |c: char| {
        let c = if c == '\u{130}' { 'i' } else { c };
        c.to_uppercase().flat_map(char::to_lowercase)
    };
    key.chars()
        .flat_map(folded)
        .eq(known.chars().flat_map(folded))
}

/// A key's text without its quotes, unescaped where needed.
fn text_of<'a>(src: &'a str, key: &Range<usize>, escaped: bool) -> Result<Cow<'a, str>, RawError> {
    let token = src.get(key.clone()).unwrap_or_default();
    if escaped {
        return string(token).ok_or(RawError::Key { at: key.start });
    }
    Ok(Cow::Borrowed(
        src.get(key.start + 1..key.end - 1).unwrap_or_default(),
    ))
}

#[derive(Debug, Clone)]
struct Member {
    /// With its quotes.
    key: Range<usize>,
    value: Range<usize>,
    escaped: bool,
}

/// An object as spans of the text it lies in.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    src: &'a str,
    span: Range<usize>,
    members: Vec<Member>,
}

impl<'a> Object<'a> {
    /// Reads a text that is one object.
    ///
    /// # Errors
    /// [`RawError`] for anything else, and for duplicate keys in this object (not in the values
    /// of its members: read those in turn).
    pub fn parse(src: &'a str) -> Result<Self, RawError> {
        let mut scan = Scan::new(src);
        scan.white();
        let object = scan.object(0, |scan, _| scan.value(1).map(drop))?;
        scan.end()?;
        object.unique()?;
        Ok(object)
    }

    /// Refuses duplicate keys.
    ///
    /// # Errors
    /// [`RawError::Duplicate`] names the first.
    pub fn unique(&self) -> Result<(), RawError> {
        // quadratic below 24 members, where it beats hashing
        let duplicate = if self.members.len() <= 24 {
            self.members.iter().enumerate().find(|(i, member)| {
                self.members.iter().take(*i).any(|other| {
                    if member.escaped || other.escaped {
                        self.key(member) == self.key(other)
                    } else {
                        let token = |member: &Member| self.src.as_bytes().get(member.key.clone());
                        member.key.len() == other.key.len() && token(member) == token(other)
                    }
                })
            })
        } else {
            let mut seen = HashSet::with_capacity(self.members.len());
            let mut members = self.members.iter().enumerate();
            members.find(|(_, member)| !seen.insert(self.key(member)))
        };
        match duplicate {
            None => Ok(()),
            Some((_, member)) => Err(RawError::Duplicate {
                key: self.key(member).chars().take(80).collect(),
            }),
        }
    }

    fn key(&self, member: &Member) -> Cow<'a, str> {
        // cannot fail: the same key was read once already
        text_of(self.src, &member.key, member.escaped).unwrap_or_default()
    }

    /// Where it lies in its text, braces included.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Its own text.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.src.get(self.span.clone()).unwrap_or_default()
    }

    /// How many members it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn find(&self, key: &str) -> Option<&Member> {
        self.members.iter().find(|member| {
            if member.escaped {
                self.key(member) == key
            } else {
                let inner = member.key.start + 1..member.key.end - 1;
                inner.len() == key.len() && self.src.as_bytes().get(inner) == Some(key.as_bytes())
            }
        })
    }

    /// The first key that is one of `known` but for upper and lower case, and which. Go and C# read
    /// such a key as the known one.
    #[must_use]
    pub fn misspelt<'k>(&self, known: &[&'k str]) -> Option<(Cow<'a, str>, &'k str)> {
        let mut keys = self.members.iter().map(|member| self.key(member));
        // no two known keys differ in case only
        keys.find_map(|key| {
            if known.contains(&key.as_ref()) {
                return None;
            }
            let meant = known.iter().find(|known| folds(&key, known))?;
            Some((key, *meant))
        })
    }

    /// The text of a member's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let member = self.find(key)?;
        self.src.get(member.value.clone())
    }

    /// Where a member's value lies in the text.
    #[must_use]
    pub fn value_span(&self, key: &str) -> Option<Range<usize>> {
        self.find(key).map(|member| member.value.clone())
    }

    /// A member that is a string, unescaped.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        string(self.get(key)?)
    }

    /// A member that is an object.
    ///
    /// # Errors
    /// [`RawError`] when it is there and another type, or names a member twice.
    pub fn object(&self, key: &str) -> Result<Option<Self>, RawError> {
        let Some(member) = self.find(key) else {
            return Ok(None);
        };
        let mut scan = Scan {
            src: self.src,
            at: member.value.start,
        };
        let object = scan.object(0, |scan, _| scan.value(1).map(drop))?;
        object.unique()?;
        Ok(Some(object))
    }

    /// Whether a change takes all members out of an object that has some. Nobody sent an empty object
    /// there, and servers exist that refuse one: it goes with its last member.
    #[must_use]
    pub fn is_emptied<'t>(&self, mut change: impl FnMut(&str) -> Change<'t>) -> bool {
        let mut members = self.members.iter();
        !self.is_empty() && members.all(|member| change(&self.key(member)) == Change::Remove)
    }

    /// Keys (unescaped) and values (as they stand), in order.
    pub fn members(&self) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> + '_ {
        self.members.iter().map(|member| {
            let value = self.src.get(member.value.clone()).unwrap_or_default();
            (self.key(member), value)
        })
    }
}

/// Where a piece of a text lies in it; `None` when it is no piece of this text.
#[must_use]
pub fn place(text: &str, piece: &str) -> Option<Range<usize>> {
    let start = (piece.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let place = start..start + piece.len();
    (text.get(place.clone()) == Some(piece)).then_some(place)
}

/// Reads a text that is one array into the texts of its elements.
///
/// # Errors
/// [`RawError`] for anything else.
pub fn elements(src: &str) -> Result<Vec<&str>, RawError> {
    elements_up_to(src, usize::MAX)
}

/// The same of an array of at most so many elements.
///
/// # Errors
/// [`RawError`] for anything else; what follows the last element that may be is not read.
pub fn elements_up_to(src: &str, most: usize) -> Result<Vec<&str>, RawError> {
    let mut scan = Scan::new(src);
    scan.white();
    if scan.peek() != Some(b'[') {
        return Err(RawError::Type { wanted: "an array" });
    }
    let mut out = Vec::new();
    scan.at += 1;
    scan.white();
    if scan.peek() == Some(b']') {
        scan.at += 1;
    } else {
        loop {
            if out.len() == most {
                return Err(RawError::Type {
                    wanted: "an array of fewer elements",
                });
            }
            let span = scan.value(1)?;
            out.push(src.get(span).unwrap_or_default());
            scan.white();
            match scan.peek() {
                Some(b',') => {
                    scan.at += 1;
                    scan.white();
                }
                Some(b']') => {
                    scan.at += 1;
                    break;
                }
                _ => return scan.wrong("expected a comma or the end of the array"),
            }
        }
    }
    scan.end()?;
    Ok(out)
}

/// The text a JSON string token stands for; `None` when the token is no string, or holds an
/// escape that is no character.
#[must_use]
pub fn string(token: &str) -> Option<Cow<'_, str>> {
    let inner = token.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(token).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// Writes a text as a JSON string token.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(bytes.get(plain..i).unwrap_or_default());
        if escape.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.extend_from_slice(escape);
        }
        plain = i + 1;
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
    out.push(b'"');
}

/// A text as a JSON string token.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    // cannot fail: only ASCII was put between pieces of a str
    String::from_utf8(out).unwrap_or_default()
}

/// What happens to one member of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'t> {
    /// It stays as it is.
    Keep,
    /// It goes, with the comma and white space between it and the next; the last goes with the
    /// comma before it.
    Remove,
    /// Its value becomes this text; the key and all around it stay.
    Value(&'t str),
}

#[derive(Debug)]
struct Edit {
    at: Range<usize>,
    text: Range<usize>,
}

/// Room that edits keep from one message to the next, in bytes of new text, and in edits.
const KEEP_BYTES: usize = 64 << 10;
const KEEP_EDITS: usize = 1024;

/// Changes to one text, gathered, then applied in one copy. Keep one and [`Edits::clear`] it: a
/// warm one allocates nothing.
#[derive(Debug, Default)]
pub struct Edits {
    list: Vec<Edit>,
    text: Vec<u8>,
}

impl Edits {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all changes.
    pub fn clear(&mut self) {
        // the room of an unusual message is given back
        if self.text.capacity() > KEEP_BYTES || self.list.capacity() > KEEP_EDITS {
            *self = Self::default();
        }
        self.list.clear();
        self.text.clear();
    }

    /// How many bytes of new text it holds room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.text.capacity()
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn put(&mut self, at: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.text.len();
        write(&mut self.text);
        self.list.push(Edit {
            at,
            text: from..self.text.len(),
        });
    }

    /// Puts `text` where `span` is.
    pub fn replace(&mut self, span: Range<usize>, text: &str) {
        self.put(span, |out| out.extend_from_slice(text.as_bytes()));
    }

    /// Changes members of one object and appends others at its end. The appended keys must be
    /// plain ASCII without quotes, and none that the object keeps; the values are JSON text.
    ///
    /// Changes to a nested object may be made besides, as long as its member is kept here.
    pub fn object<'t>(
        &mut self,
        object: &Object<'_>,
        mut change: impl FnMut(&str) -> Change<'t>,
        append: &[(&str, &str)],
    ) {
        let mut last: Option<&Member> = None;
        // the first member of a run that is removed
        let mut run: Option<&Member> = None;
        for member in &object.members {
            let change = change(&object.key(member));
            if change == Change::Remove {
                run = run.or(Some(member));
                continue;
            }
            if let Some(first) = run.take() {
                self.put(first.key.start..member.key.start, |_| ());
            }
            last = Some(member);
            if let Change::Value(text) = change {
                self.replace(member.value.clone(), text);
            }
        }
        let end = object.members.last().map(|member| member.value.end);
        let at = match (last, object.members.first(), end) {
            (Some(last), _, Some(end)) => last.value.end..end,
            (None, Some(first), Some(end)) => first.key.start..end,
            _ => object.span.start + 1..object.span.start + 1,
        };
        if append.is_empty() && at.is_empty() {
            return;
        }
        self.put(at, |out| {
            for (i, (key, value)) in append.iter().enumerate() {
                if i > 0 || last.is_some() {
                    out.push(b',');
                }
                out.push(b'"');
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(b"\":");
                out.extend_from_slice(value.as_bytes());
            }
        });
    }

    /// Where a span lies after the changes; `None` when one of them touches it. Call it after
    /// [`Edits::apply`].
    #[must_use]
    pub fn moved(&self, span: &Range<usize>) -> Option<Range<usize>> {
        let (mut added, mut removed) = (0, 0);
        for edit in &self.list {
            if edit.at.end <= span.start {
                added += edit.text.len();
                removed += edit.at.len();
            } else if edit.at.start < span.end {
                return None;
            }
        }
        Some(span.start + added - removed..span.end + added - removed)
    }

    /// Writes `src` with all changes made.
    pub fn apply(&mut self, src: &str, out: &mut Vec<u8>) {
        // stable: two edits at one point keep the order they were made in
        self.list.sort_by_key(|edit| edit.at.start);
        let bytes = src.as_bytes();
        out.reserve(bytes.len() + self.text.len());
        let mut from = 0;
        for edit in &self.list {
            debug_assert!(from <= edit.at.start, "edits overlap");
            out.extend_from_slice(bytes.get(from..edit.at.start).unwrap_or_default());
            out.extend_from_slice(self.text.get(edit.text.clone()).unwrap_or_default());
            from = edit.at.end;
        }
        out.extend_from_slice(bytes.get(from..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
