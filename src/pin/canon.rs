//! The canonical form of a JSON text, the only thing ever hashed.
//!
//! ```text
//! object   {"k":v,"k":v}   keys by code point, each at most once after unescaping
//! array    [v,v]           in its own order
//! string   "…"             \" and \\ escaped, U+0000 to U+001F as \u00xx, the rest as UTF-8
//! number   verbatim        1.0, 1.00 and 1e0 are three values
//! literal  true false null
//! ```
//!
//! No whitespace anywhere. Refused: duplicate keys, unpaired surrogates, nesting deeper than
//! [`PIN_DEPTH`], text after the value, and whatever RFC 8259 does not allow.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::PinError;
use crate::limits::PIN_DEPTH;

/// A JSON value that can tell every spelling that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// In its own order.
    Array(Vec<Self>),
    /// `true`, `false`, `null` or a number, as it was written.
    Literal(Box<str>),
    /// By code point: the byte order of UTF-8 is the same order.
    Object(BTreeMap<Box<str>, Self>),
    /// Unescaped.
    String(Box<str>),
}

impl Json {
    /// Parses one JSON text.
    ///
    /// # Errors
    /// [`PinError`] with the byte offset for anything the module refuses.
    pub fn parse(text: &str) -> Result<Self, PinError> {
        let mut parser = Parser { text, at: 0 };
        parser.space();
        let value = parser.value(0)?;
        parser.space();
        match parser.peek() {
            None => Ok(value),
            Some(_) => Err(parser.wrong("the end of the text")),
        }
    }

    /// How many levels of arrays and objects it has.
    #[must_use]
    pub fn depth(&self) -> usize {
        let below = match self {
            Self::Array(items) => items.iter().map(Self::depth).max(),
            Self::Literal(_) | Self::String(_) => return 0,
            Self::Object(members) => members.values().map(Self::depth).max(),
        };
        1 + below.unwrap_or_default()
    }

    /// Writes the canonical form.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Literal(token) => out.push_str(token),
            Self::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_string(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
            Self::String(text) => write_string(text, out),
        }
    }

    /// The value of a member, if this is an object that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.get(key),
            Self::Array(_) | Self::Literal(_) | Self::String(_) => None,
        }
    }

    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Array(_) | Self::Literal(_) | Self::Object(_) => None,
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\x1f' => {
                let code = usize::from(u8::try_from(c).unwrap_or_default());
                out.push_str("\\u00");
                for digit in [code >> 4, code & 15] {
                    out.push(char::from(HEX.get(digit).copied().unwrap_or_default()));
                }
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// A strict RFC 8259 reader. `at` is always on a character boundary: it only moves over ASCII
/// bytes it has looked at, or over whole runs that end before one.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let hit = self.peek() == Some(byte);
        if hit {
            self.at += 1;
        }
        hit
    }

    fn wrong(&self, expected: &'static str) -> PinError {
        PinError::Syntax {
            offset: self.at,
            expected,
        }
    }

    fn slice(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Result<Json, PinError> {
        if depth > PIN_DEPTH {
            return Err(PinError::Depth { offset: self.at });
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => Err(self.wrong("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, PinError> {
        let mut members = BTreeMap::new();
        self.at += 1;
        self.space();
        if self.eat(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            let offset = self.at;
            let key = self.string()?;
            self.space();
            if !self.eat(b':') {
                return Err(self.wrong("`:`"));
            }
            self.space();
            let value = self.value(depth + 1)?;
            match members.entry(key) {
                Entry::Occupied(twice) => {
                    let key = twice.key().to_string();
                    return Err(PinError::Duplicate { key, offset });
                }
                Entry::Vacant(free) => free.insert(value),
            };
            self.space();
            if self.eat(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.eat(b',') {
                return Err(self.wrong("`,` or `}`"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, PinError> {
        let mut items = Vec::new();
        self.at += 1;
        self.space();
        if self.eat(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            self.space();
            items.push(self.value(depth + 1)?);
            self.space();
            if self.eat(b']') {
                return Ok(Json::Array(items));
            }
            if !self.eat(b',') {
                return Err(self.wrong("`,` or `]`"));
            }
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<Json, PinError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.wrong("true, false or null"));
        }
        self.at += word.len();
        Ok(Json::Literal(word.into()))
    }

    fn digits(&mut self) -> Result<(), PinError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        match self.at == start {
            true => Err(self.wrong("a digit")),
            false => Ok(()),
        }
    }

    fn number(&mut self) -> Result<Json, PinError> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        Ok(Json::Literal(self.slice(start).into()))
    }

    fn string(&mut self) -> Result<Box<str>, PinError> {
        if !self.eat(b'"') {
            return Err(self.wrong("a string"));
        }
        let mut out = String::new();
        loop {
            let start = self.at;
            while let Some(byte) = self.peek() {
                if byte == b'"' || byte == b'\\' || byte < 0x20 {
                    break;
                }
                self.at += 1;
            }
            out.push_str(self.slice(start));
            if self.eat(b'"') {
                return Ok(out.into());
            }
            if !self.eat(b'\\') {
                return Err(self.wrong("`\"`, and no control character before it"));
            }
            out.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, PinError> {
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\x08',
            Some(b'f') => '\x0c',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return Err(self.wrong("one of \" \\ / b f n r t u")),
        };
        self.at += 1;
        Ok(c)
    }

    /// `\uXXXX`, and the low half that must follow a high one (RFC 8259 §7).
    fn unicode(&mut self) -> Result<char, PinError> {
        let offset = self.at - 1;
        let high = self.hex4()?;
        if let Some(c) = char::from_u32(high) {
            return Ok(c);
        }
        if (0xd800..0xdc00).contains(&high) && self.eat(b'\\') && self.peek() == Some(b'u') {
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(code).ok_or(PinError::Surrogate { offset });
            }
        }
        Err(PinError::Surrogate { offset })
    }

    fn hex4(&mut self) -> Result<u32, PinError> {
        let mut code = 0;
        for _ in 0..4 {
            self.at += 1;
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.wrong("four hexadecimal digits"))?;
        }
        self.at += 1;
        Ok(code)
    }
}
