//! Server-sent events out of a stream of bytes (WHATWG HTML, 9.2.6).
//!
//! Bytes may be cut anywhere: inside a field, between the two halves of a line end, inside the
//! byte order mark. What is held is bounded: an event that is too long is read to its end,
//! dropped and reported with its size, so that the next one is whole again.

/// Longest id that is kept, in bytes. It goes back as a header, and servers bound those.
const ID_BYTES: usize = 1024;
/// Longest event name that is told apart from others, in bytes.
const NAME_BYTES: usize = 64;
/// Room for the name of a field before its value, in bytes.
const FIELD_BYTES: usize = 16;

/// One thing that came out of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// An event of the type `endpoint`, with its data: where messages go, in HTTP+SSE
    /// (MCP 2024-11-05, transports).
    Endpoint(Vec<u8>),
    /// An event of the type `message`, with its data. Data may be empty: MCP servers send such
    /// events to give a stream its first id.
    Message(Vec<u8>),
    /// An event of another type, which MCP does not define.
    Other,
    /// The server wants this pause before the stream is opened again, in milliseconds.
    Retry(u64),
    /// An event was longer than the bound and was dropped.
    TooLong {
        /// How long its lines were together.
        bytes: usize,
    },
}

/// Reads one stream. A stream that is opened again needs a new parser.
#[derive(Debug)]
pub struct Parser {
    bound: usize,
    /// What is held of the line that has not ended.
    line: Vec<u8>,
    /// Whether the line is the first: only there a byte order mark is passed over.
    first: bool,
    /// The last byte was a carriage return, so a newline belongs to it.
    after_return: bool,
    /// Set while an event that is too long is passed over: how much of it came.
    over: Option<usize>,
    data: Vec<u8>,
    name: Vec<u8>,
    /// The id of the event that is being read…
    new_id: Option<Vec<u8>>,
    /// …and of the last that was complete.
    id: Option<Vec<u8>>,
}

impl Parser {
    /// Makes one for events whose data has up to `bound` bytes.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self {
            bound,
            line: Vec::new(),
            first: true,
            after_return: false,
            over: None,
            data: Vec::new(),
            name: Vec::new(),
            new_id: None,
            id: None,
        }
    }

    /// The last id a complete event gave; `None` where none did or the last one was empty.
    #[must_use]
    pub fn last_id(&self) -> Option<&[u8]> {
        self.id.as_deref().filter(|id| !id.is_empty())
    }

    /// Bytes held of what is incomplete.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.line.len() + self.data.len()
    }

    /// Bytes of an event that is too long, as far as they were passed over.
    #[must_use]
    pub fn passed_over(&self) -> usize {
        self.over.unwrap_or(0)
    }

    /// Takes bytes and gives what they complete. What is incomplete at the end of the stream is
    /// nothing, by the standard.
    pub fn push(&mut self, mut bytes: &[u8], give: &mut impl FnMut(Piece)) {
        loop {
            if std::mem::take(&mut self.after_return) {
                match bytes.split_first() {
                    None => {
                        self.after_return = true;
                        return;
                    }
                    Some((b'\n', rest)) => bytes = rest,
                    Some(_) => {}
                }
            }
            let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
                return self.hold(bytes);
            };
            let (line, rest) = bytes.split_at(end);
            let (ending, rest) = rest.split_at(1);
            self.after_return = ending == b"\r";
            bytes = rest;
            if self.line.is_empty() {
                // the same bound as for a line that comes in pieces
                let held = self.data.len() + line.len();
                if self.over.is_none() && held > self.bound + FIELD_BYTES {
                    self.pass_over(held);
                } else {
                    self.line_of(line, give);
                }
            } else {
                self.hold(line);
                let mut line = std::mem::take(&mut self.line);
                self.line_of(&line, give);
                line.clear();
                if line.capacity() <= 4096 {
                    self.line = line;
                }
            }
        }
    }

    /// Keeps a piece of a line whose end has not come.
    fn hold(&mut self, bytes: &[u8]) {
        let held = self.line.len() + self.data.len() + bytes.len();
        if let Some(over) = &mut self.over {
            *over += bytes.len();
            // one byte tells an empty line from one that is passed over
            if self.line.is_empty() && !bytes.is_empty() {
                self.line.push(b':');
            }
        } else if held > self.bound + FIELD_BYTES {
            self.pass_over(held);
            self.line.push(b':');
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn pass_over(&mut self, bytes: usize) {
        self.over = Some(bytes);
        self.first = false;
        self.line = Vec::new();
        self.data = Vec::new();
    }

    fn line_of(&mut self, line: &[u8], give: &mut impl FnMut(Piece)) {
        let first = std::mem::replace(&mut self.first, false);
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if first => rest,
            Some(_) | None => line,
        };
        if line.is_empty() {
            return self.dispatch(give);
        }
        if let Some(over) = &mut self.over {
            *over += line.len();
            return;
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(0) => return,
            Some(colon) => {
                let (name, value) = line.split_at(colon);
                let value = value.get(1..).unwrap_or_default();
                (name, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match name {
            b"data" => {
                if self.data.len() + value.len() > self.bound {
                    return self.pass_over(self.data.len() + line.len());
                }
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => {
                self.name.clear();
                let kept = value.len().min(NAME_BYTES);
                self.name
                    .extend_from_slice(value.get(..kept).unwrap_or_default());
            }
            b"id" if !value.contains(&0) && value.len() <= ID_BYTES => {
                self.new_id = Some(value.to_vec());
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let digits = std::str::from_utf8(value).unwrap_or_default();
                give(Piece::Retry(digits.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }

    /// An empty line: the event is complete.
    fn dispatch(&mut self, give: &mut impl FnMut(Piece)) {
        if let Some(id) = self.new_id.take() {
            self.id = Some(id);
        }
        let mut data = std::mem::take(&mut self.data);
        let name = std::mem::take(&mut self.name);
        if let Some(bytes) = self.over.take() {
            give(Piece::TooLong { bytes });
        } else if data.pop().is_some() {
            give(match &name[..] {
                b"" | b"message" => Piece::Message(data),
                b"endpoint" => Piece::Endpoint(data),
                _ => Piece::Other,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(cuts: &[&[u8]], bound: usize) -> (Vec<Piece>, Option<Vec<u8>>) {
        let mut parser = Parser::new(bound);
        let mut out = Vec::new();
        for cut in cuts {
            parser.push(cut, &mut |piece| out.push(piece));
        }
        (out, parser.last_id().map(<[u8]>::to_vec))
    }

    #[track_caller]
    fn check(text: &str, expected: &[Piece], id: Option<&str>) {
        let (pieces, last) = all(&[text.as_bytes()], 1000);
        assert_eq!(pieces, expected, "{text:?}");
        assert_eq!(last.as_deref(), id.map(str::as_bytes), "{text:?}");
    }

    fn message(text: &str) -> Piece {
        Piece::Message(text.as_bytes().to_vec())
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        check("data: a\n\n", &[message("a")], None);
        check(
            "data:a\r\n\r\ndata:  b\r\r",
            &[message("a"), message(" b")],
            None,
        );
        check("\u{feff}data: a\n\n", &[message("a")], None);
        check("\n\u{feff}data: a\n\n", &[], None);
        check("data: a\ndata\ndata: b\n\n", &[message("a\n\nb")], None);
        check(": hello\n:\n\n\n", &[], None);
        check("event: message\ndata: a\n\n", &[message("a")], None);
        check(
            "event: other\ndata: a\n\ndata: b\n\n",
            &[Piece::Other, message("b")],
            None,
        );
        check(
            "event: endpoint\ndata: /a?b\n\n",
            &[Piece::Endpoint(b"/a?b".to_vec())],
            None,
        );
        check("id: 7\ndata:\n\n", &[message("")], Some("7"));
        // by itself an id is no event, but it counts
        check("id: 7\n\n", &[], Some("7"));
        check("id: 7\n\nid\n\n", &[], None);
        check("id: 7\n\nid: a\0b\n\n", &[], Some("7"));
        check(
            "retry: 250\nretry: 2x\nretry:\n",
            &[Piece::Retry(250)],
            None,
        );
        check(
            "retry: 99999999999999999999\n",
            &[Piece::Retry(u64::MAX)],
            None,
        );
        check("datax: a\nDATA: b\nunknown\n\n", &[], None);
    }

    #[test]
    fn what_is_incomplete_at_the_end_is_nothing() {
        check(
            "id: 1\ndata: a\n\nid: 2\ndata: b\n",
            &[message("a")],
            Some("1"),
        );
        check("data: a", &[], None);
    }

    #[test]
    fn an_event_that_is_too_long_is_dropped_and_the_next_is_whole() {
        let long = format!("data: {}\ndata: x\n\ndata: b\n\n", "a".repeat(100));
        let (pieces, _) = all(&[long.as_bytes()], 50);
        assert_eq!(pieces, [Piece::TooLong { bytes: 113 }, message("b")]);
        let many = "data: aaaa\n".repeat(20) + "\ndata: b\n\n";
        let (pieces, _) = all(&[many.as_bytes()], 50);
        assert!(matches!(pieces[0], Piece::TooLong { bytes } if bytes > 50));
        assert_eq!(pieces[1..], [message("b")]);
        let exact = format!("data: {}\n\n", "a".repeat(50));
        assert_eq!(all(&[exact.as_bytes()], 50).0, [message(&"a".repeat(50))]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut parser = Parser::new(100);
        for _ in 0..1000 {
            parser.push(&[b'a'; 64], &mut |_| {});
        }
        assert!(parser.line.capacity() + parser.data.capacity() < 1000);
    }

    /// The standard's algorithm over the whole text, with no regard to cost.
    fn naive(text: &[u8]) -> (Vec<Piece>, Option<Vec<u8>>) {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut lines = vec![Vec::new()];
        let mut at = 0;
        while at < text.len() {
            match text[at] {
                b'\r' => {
                    lines.push(Vec::new());
                    at += usize::from(text.get(at + 1) == Some(&b'\n'));
                }
                b'\n' => lines.push(Vec::new()),
                byte => lines.last_mut().unwrap().push(byte),
            }
            at += 1;
        }
        lines.pop();
        let (mut out, mut last) = (Vec::new(), None);
        let (mut data, mut name, mut id) = (Vec::new(), Vec::new(), None);
        for line in lines {
            if line.is_empty() {
                if let Some(id) = id.take() {
                    last = Some(id);
                }
                let data: Vec<Vec<u8>> = std::mem::take(&mut data);
                let name = std::mem::take(&mut name);
                if !data.is_empty() {
                    let text = data.join(&b'\n');
                    out.push(match &name[..] {
                        b"" | b"message" => Piece::Message(text),
                        b"endpoint" => Piece::Endpoint(text),
                        _ => Piece::Other,
                    });
                }
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (field, value) = match colon {
                Some(at) => (line[..at].to_vec(), line[at + 1..].to_vec()),
                None => (line, Vec::new()),
            };
            let value = value
                .strip_prefix(b" ")
                .map_or(value.clone(), <[u8]>::to_vec);
            match &field[..] {
                b"data" => data.push(value),
                b"event" => name = value,
                b"id" if !value.contains(&0) => id = Some(value),
                b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                    let value = String::from_utf8(value).unwrap();
                    out.push(Piece::Retry(value.parse().unwrap_or(u64::MAX)));
                }
                _ => {}
            }
        }
        (out, last.filter(|id| !id.is_empty()))
    }

    #[test]
    fn events_do_not_depend_on_how_the_bytes_were_cut() {
        // a bound that is reached: whether an event is too long does not depend on it either
        let is_long = |pieces: Vec<Piece>| -> Vec<Option<Piece>> {
            let known = |piece| (!matches!(piece, Piece::TooLong { .. })).then_some(piece);
            pieces.into_iter().map(known).collect()
        };
        const WORDS: [&[u8]; 14] = [
            b"data",
            b":",
            b" ",
            b"\n",
            b"\r",
            b"\r\n",
            b"id",
            b"event",
            b"retry",
            b"7",
            b"{}",
            b"endpoint",
            b"\xef\xbb\xbf",
            b"\0",
        ];
        arbtest::arbtest(|u| {
            let words: Vec<usize> = u.arbitrary()?;
            let text: Vec<u8> = words
                .iter()
                .flat_map(|word| WORDS[word % WORDS.len()])
                .copied()
                .collect();
            let mut cuts = Vec::new();
            let mut rest = &text[..];
            while !rest.is_empty() {
                let len = u.int_in_range(1..=rest.len())?;
                let (cut, left) = rest.split_at(len);
                cuts.push(cut);
                rest = left;
            }
            let expected = naive(&text);
            assert_eq!(all(&cuts, 1 << 20), expected);
            assert_eq!(is_long(all(&cuts, 8).0), is_long(all(&[&text], 8).0));
            assert_eq!(all(&[&text], 1 << 20), expected);
            Ok(())
        });
    }
}
