//! The id of a message that is not read: too long, nested too deep, or no UTF-8.
//!
//! One pass over the bytes, in pieces as they come, keeps the text of the top-level `id` and which
//! of `method`, `result` and `error` stand beside it. It holds at most
//! [`limits::ID_ECHO_BYTES`] and follows no nesting, so a line of any length and depth costs it
//! nothing more. It judges nothing else: a line it finds an id in may still be no JSON.
//!
//! Refused: an id that stands twice, that is neither a string nor a number, or that is longer.

use super::msg::Kind;
use super::raw;
use crate::limits;

/// Longest key that is told apart, in bytes of its spelling: `result`, all escaped, has 36.
const KEY_BYTES: usize = 40;

/// What was seen of a message that is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// Its id token, where one was found that an answer can repeat.
    pub id: Option<Box<str>>,
    /// What it was meant to be.
    pub kind: Kind,
}

impl Default for Peeked {
    fn default() -> Self {
        Self {
            id: None,
            kind: Kind::Unknown,
        }
    }
}

/// Where in the outermost object the scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the object.
    Begin,
    /// A key comes, or is read.
    Key,
    /// Between a key and its value's end; true for the value of `id`.
    Value(bool),
    /// After the object, or in what is none.
    Over,
}

/// Whether the scan is in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// Behind a backslash in one.
    Escape,
    Inside,
    Outside,
}

/// Looks through one message.
#[derive(Debug)]
pub struct Peek {
    at: At,
    /// Arrays and objects open, the outermost included.
    depth: usize,
    text: Text,
    /// The key that is read, without its quotes; one byte too many where it is too long.
    key: Vec<u8>,
    id: Vec<u8>,
    /// How often `id` stands there.
    ids: usize,
    method: bool,
    answer: bool,
}

impl Default for Peek {
    fn default() -> Self {
        Self {
            at: At::Begin,
            depth: 0,
            text: Text::Outside,
            key: Vec::new(),
            id: Vec::new(),
            ids: 0,
            method: false,
            answer: false,
        }
    }
}

impl Peek {
    /// Looks through a whole message.
    #[must_use]
    pub fn of(line: &[u8]) -> Peeked {
        let mut peek = Self::default();
        peek.push(line);
        peek.finish()
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while self.at != At::Over {
            if self.text == Text::Inside {
                let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                let (text, rest) = bytes.split_at(end);
                self.keep(text);
                bytes = rest;
            }
            let Some((&byte, rest)) = bytes.split_first() else {
                return;
            };
            bytes = rest;
            match self.text {
                Text::Escape | Text::Inside => self.in_string(byte),
                Text::Outside => self.outside(byte),
            }
        }
    }

    fn in_string(&mut self, byte: u8) {
        if self.text == Text::Escape {
            self.text = Text::Inside;
            return self.keep(&[byte]);
        }
        match byte {
            b'\\' => {
                self.text = Text::Escape;
                self.keep(b"\\");
            }
            b'"' => {
                self.text = Text::Outside;
                if self.depth == 1 && self.at == At::Key {
                    return self.name();
                }
                self.keep(b"\"");
            }
            byte => self.keep(&[byte]),
        }
    }

    fn outside(&mut self, byte: u8) {
        match (byte, self.depth) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => {}
            (b'{', 0) if self.at == At::Begin => (self.depth, self.at) = (1, At::Key),
            (_, 0) => self.at = At::Over,
            (b',', 1) => self.at = At::Key,
            (b'}', 1) => self.at = At::Over,
            (b'"', _) => {
                self.text = Text::Inside;
                if self.depth == 1 && self.at == At::Key {
                    self.key.clear();
                } else {
                    self.keep(b"\"");
                }
            }
            (b'{' | b'[', _) => {
                self.keep(&[byte]);
                self.depth += 1;
            }
            (b'}' | b']', _) => {
                self.depth -= 1;
            }
            (b':', 1) => {}
            (byte, _) => self.keep(&[byte]),
        }
    }

    /// Keeps what belongs to a key or to the id.
    fn keep(&mut self, bytes: &[u8]) {
        let (held, most) = match self.at {
            At::Key if self.depth == 1 => (&mut self.key, KEY_BYTES),
            At::Value(true) if self.depth == 1 => (&mut self.id, limits::ID_ECHO_BYTES),
            At::Begin | At::Key | At::Over | At::Value(_) => return,
        };
        let room = (most + 1).saturating_sub(held.len());
        held.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// A key of the outermost object is over.
    fn name(&mut self) {
        let key = std::str::from_utf8(&self.key).ok();
        let key = key.filter(|key| key.len() <= KEY_BYTES);
        let token = key.map(|key| format!("\"{key}\""));
        let key = token.as_deref().and_then(raw::string);
        match key.as_deref() {
            Some("id") => {
                self.ids += 1;
                self.id.clear();
                self.at = At::Value(true);
                return;
            }
            Some("method") => self.method = true,
            Some("result" | "error") => self.answer = true,
            Some(_) | None => {}
        }
        self.at = At::Value(false);
    }

    /// What was seen.
    #[must_use]
    pub fn finish(self) -> Peeked {
        let kind = match (self.method, self.answer, self.ids) {
            (true, false, 0) => Kind::Notification,
            (true, false, _) => Kind::Request,
            (false, true, 1..) => Kind::Response,
            (_, _, _) => Kind::Unknown,
        };
        let id = std::str::from_utf8(&self.id).ok();
        let id = id.filter(|id| self.ids == 1 && is_echoed(id));
        Peeked {
            id: id.map(Into::into),
            kind,
        }
    }
}

/// Whether an answer may repeat this token as its id.
#[must_use]
pub fn is_echoed(token: &str) -> bool {
    let begins = |c: char| c == '"' || c == '-' || c.is_ascii_digit();
    if token.len() > limits::ID_ECHO_BYTES || !token.starts_with(begins) {
        return false;
    }
    let is_one = raw::elements(&format!("[{token}]")).is_ok_and(|all| all == [token]);
    is_one && (!token.starts_with('"') || raw::string(token).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peeked(line: &str) -> (Option<String>, Kind) {
        let Peeked { id, kind } = Peek::of(line.as_bytes());
        // however it is cut, the same is seen
        for at in 0..=line.len().min(200) {
            let mut peek = Peek::default();
            let (one, two) = line.as_bytes().split_at(at);
            peek.push(one);
            peek.push(two);
            let cut = peek.finish();
            assert_eq!((&cut.id, cut.kind), (&id, kind), "{line} cut at {at}");
        }
        (id.map(Into::into), kind)
    }

    #[test]
    fn the_id_is_found_before_and_behind_what_is_not_read() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for (line, id, kind) in [
            (
                format!(r#"{{"id":7,"method":"a","params":{deep}}}"#),
                Some("7"),
                Kind::Request,
            ),
            (
                format!(r#" {{ "params" : {deep} , "method":"a", "id" : "x\"y" }} "#),
                Some(r#""x\"y""#),
                Kind::Request,
            ),
            (
                format!(r#"{{"result":{{"id":9,"method":"b","x":{deep}}},"id":-3}}"#),
                Some("-3"),
                Kind::Response,
            ),
            (
                r#"{"i\u0064":1.5,"method":"a"}"#.to_owned(),
                Some("1.5"),
                Kind::Request,
            ),
            (
                r#"{"method":"a","params":{"id":1}}"#.to_owned(),
                None,
                Kind::Notification,
            ),
            (
                r#"{"x":"\"id\":1","id":2,"error":{}}"#.to_owned(),
                Some("2"),
                Kind::Response,
            ),
            // it may go on for ever
            (
                r#"{"id":5,"method":"a","params":{"x":"yyyy"#.to_owned(),
                Some("5"),
                Kind::Request,
            ),
        ] {
            let (found, as_what) = peeked(&line);
            assert_eq!(
                (found.as_deref(), as_what),
                (id, kind),
                "{}",
                &line[..40.min(line.len())]
            );
        }
    }

    #[test]
    fn what_no_answer_can_repeat_is_no_id() {
        for line in [
            r#"{"id":1,"id":2,"method":"a"}"#,
            r#"{"id":1,"i\u0064":1,"method":"a"}"#,
            r#"{"id":null,"method":"a"}"#,
            r#"{"id":true,"method":"a"}"#,
            r#"{"id":{"id":1},"method":"a"}"#,
            r#"{"id":[1],"method":"a"}"#,
            r#"{"id":"a" "b","method":"a"}"#,
            r#"{"id":"\ud800","method":"a"}"#,
            "{\"id\":\"a\tb\",\"method\":\"a\"}",
            r#"[{"id":1,"method":"a"}]"#,
            r#""id":1"#,
            "",
        ] {
            assert_eq!(peeked(line).0, None, "{line}");
        }
        let long = |bytes: usize| format!(r#"{{"method":"a","id":"{}"}}"#, "x".repeat(bytes - 2));
        let most = limits::ID_ECHO_BYTES;
        assert!(Peek::of(long(most).as_bytes()).id.is_some());
        assert_eq!(Peek::of(long(most + 1).as_bytes()).id, None);
    }
}
