//! Lines out of a stream of bytes.
//!
//! The reader appends to one growing buffer; lines are lent out of it without a copy. A line
//! longer than the bound is read to its end, dropped and reported with its size and its id, so that
//! the next line is whole again and whoever waits for its answer is told. A carriage return before the newline is tolerated, empty lines
//! are passed over.

use std::ops::Range;

use super::peek::{Peek, Peeked};
use crate::limits;

/// Room made for one read, in bytes.
const READ_BYTES: usize = 64 << 10;
/// A buffer larger than this gives its room back…
const KEEP_BYTES: usize = 256 << 10;
/// …at once when it is larger than this,
const DROP_BYTES: usize = 4 << 20;
/// else after it was empty this often when it was filled, without having needed the room. A fill may
/// find nothing to read, and while a large message comes one way, in pieces of a pipe's size, the
/// buffers of the other ways are filled in vain for every piece: of the largest that is kept, 64.
const QUIET_ROUNDS: u32 = 256;

/// Why a line is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    /// The stream ended inside a line.
    Cut {
        /// How many bytes of it came.
        bytes: usize,
    },
    /// Longer than [`crate::limits::LINE_BYTES`]; it was read to its end and dropped.
    TooLong {
        /// How long it was.
        bytes: usize,
    },
}

/// A buffer that is filled with bytes and emptied by lines.
#[derive(Debug)]
pub struct LineBuffer {
    buf: Vec<u8>,
    /// Where the next line starts.
    start: usize,
    /// Up to where no newline was found.
    seen: usize,
    /// Bytes of an over-long line dropped so far.
    skipped: Option<usize>,
    /// What is seen of it on the way.
    peek: Option<Box<Peek>>,
    /// What was seen of the last one that was dropped.
    peeked: Peeked,
    bound: usize,
    /// The longest line since the last quiet round began.
    longest: usize,
    quiet: u32,
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl LineBuffer {
    /// Makes one for lines up to [`limits::LINE_BYTES`]; allocates nothing before the first read.
    #[must_use]
    pub fn new() -> Self {
        Self::with_bound(limits::LINE_BYTES)
    }

    /// Makes one for lines up to `bound` bytes.
    #[must_use]
    pub fn with_bound(bound: usize) -> Self {
        Self {
            buf: Vec::new(),
            start: 0,
            seen: 0,
            skipped: None,
            peek: None,
            peeked: Peeked::default(),
            bound,
            longest: 0,
            quiet: 0,
        }
    }

    /// Lends the buffer to a reader, with at least 64 KiB of room. The reader may only append.
    /// Call [`LineBuffer::next_line`] until it gives `None` before the next fill.
    pub fn fill<T>(&mut self, read: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.start == self.buf.len() {
            self.buf.clear();
            self.start = 0;
            self.seen = 0;
            self.shrink();
        } else if self.start > 0 {
            // less than one line is moved, and only after whole lines were taken from before it
            self.buf.drain(..self.start);
            self.seen -= self.start;
            self.start = 0;
        }
        self.buf.reserve(READ_BYTES);
        read(&mut self.buf)
    }

    /// Appends bytes that were read elsewhere.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.fill(|buf| buf.extend_from_slice(bytes));
    }

    fn shrink(&mut self) {
        let capacity = self.buf.capacity();
        if capacity <= KEEP_BYTES {
            return;
        }
        if self.longest > KEEP_BYTES / 2 {
            self.quiet = 0;
        } else {
            self.quiet += 1;
        }
        self.longest = 0;
        if capacity > DROP_BYTES || self.quiet >= QUIET_ROUNDS {
            self.buf = Vec::new();
            self.quiet = 0;
        }
    }

    /// The next whole line without its newline, or the fault of one that is over.
    pub fn next_line(&mut self) -> Option<Result<&[u8], LineFault>> {
        loop {
            let rest = self.buf.get(self.seen..).unwrap_or_default();
            let Some(run) = memchr::memchr(b'\n', rest) else {
                self.seen = self.buf.len();
                self.hold_back();
                return None;
            };
            let newline = self.seen + run;
            let start = std::mem::replace(&mut self.start, newline + 1);
            self.seen = newline + 1;
            let mut len = newline - start;
            self.longest = self.longest.max(len);
            if let Some(skipped) = self.skipped.take() {
                self.look(start..newline, true);
                return Some(Err(LineFault::TooLong {
                    bytes: skipped + len,
                }));
            }
            if self
                .buf
                .get(start..newline)
                .is_some_and(|l| l.ends_with(b"\r"))
            {
                len -= 1;
            }
            if len > self.bound {
                // the carriage return counts, as it does in a line that was dropped in pieces
                self.look(start..newline, true);
                return Some(Err(LineFault::TooLong {
                    bytes: newline - start,
                }));
            }
            if len > 0 {
                return self.buf.get(start..start + len).map(Ok);
            }
        }
    }

    /// Drops what is held of a line that is too long already.
    fn hold_back(&mut self) {
        let held = self.buf.len() - self.start;
        // one more than the bound: a carriage return may be the last byte
        if self.skipped.is_some() || held > self.bound + 1 {
            *self.skipped.get_or_insert(0) += held;
            self.look(self.start..self.buf.len(), false);
            self.start = self.buf.len();
        }
    }

    /// Looks through a piece of a line that is dropped.
    fn look(&mut self, piece: Range<usize>, ends: bool) {
        let mut peek = self.peek.take().unwrap_or_default();
        peek.push(self.buf.get(piece).unwrap_or_default());
        match ends {
            true => self.peeked = peek.finish(),
            false => self.peek = Some(peek),
        }
    }

    /// What was seen of the line that [`LineBuffer::next_line`] last gave as
    /// [`LineFault::TooLong`].
    #[must_use]
    pub fn peeked(&mut self) -> Peeked {
        std::mem::take(&mut self.peeked)
    }

    /// The stream ended: what is left of a line that did not.
    pub fn finish(&mut self) -> Option<LineFault> {
        let held = self.buf.len() - self.start;
        let skipped = self.skipped.take();
        self.peek = None;
        self.start = self.buf.len();
        self.seen = self.buf.len();
        match (skipped, held) {
            (None, 0) => None,
            (skipped, held) => Some(LineFault::Cut {
                bytes: skipped.unwrap_or(0) + held,
            }),
        }
    }

    /// How many bytes of a line without an end were dropped so far.
    #[must_use]
    pub fn dropped_bytes(&self) -> usize {
        self.skipped.unwrap_or(0)
    }

    /// How many bytes it holds room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::msg::Kind;

    fn all(buffer: &mut LineBuffer) -> Vec<Result<String, LineFault>> {
        let mut out = Vec::new();
        while let Some(line) = buffer.next_line() {
            out.push(line.map(|l| String::from_utf8_lossy(l).into_owned()));
        }
        out
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_were_cut() {
        arbtest::arbtest(|u| {
            let text: Vec<u8> = (0..u.int_in_range(0..=60)?)
                .map(|_| u.choose(b"ab\r\n\n").copied())
                .collect::<Result<_, _>>()?;
            let mut whole = LineBuffer::with_bound(4);
            whole.extend(&text);
            let expected = all(&mut whole);
            let expected_end = whole.finish();
            let mut cut = LineBuffer::with_bound(4);
            let mut got = Vec::new();
            let mut rest = text.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(u.int_in_range(1..=rest.len())?);
                cut.extend(now);
                got.extend(all(&mut cut));
                rest = later;
            }
            assert_eq!(got, expected);
            assert_eq!(cut.finish(), expected_end);
            Ok(())
        });
    }

    #[test]
    fn over_long_lines_are_dropped_whole_with_their_size() {
        let mut buffer = LineBuffer::with_bound(5);
        buffer.extend(b"12345\r\n123456\nok\n");
        assert_eq!(
            all(&mut buffer),
            [
                Ok("12345".to_owned()),
                Err(LineFault::TooLong { bytes: 6 }),
                Ok("ok".to_owned())
            ]
        );
        for _ in 0..100 {
            buffer.extend(&[b'x'; 1000]);
            assert_eq!(all(&mut buffer), []);
            assert!(buffer.capacity() <= 2 * READ_BYTES);
        }
        buffer.extend(b"\nok\n");
        assert_eq!(
            all(&mut buffer),
            [
                Err(LineFault::TooLong { bytes: 100_000 }),
                Ok("ok".to_owned())
            ]
        );
    }

    /// Found: the refusal of a message that is too long reached nobody, because it named no id.
    #[test]
    fn the_id_of_a_dropped_line_is_kept_wherever_it_stands() {
        let first = format!(
            "{{\"id\":1,\"method\":\"a\",\"x\":\"{}\"}}\n",
            "y".repeat(90)
        );
        let last = format!(
            "{{\"x\":\"{}\",\"id\":\"b\",\"result\":{{}}}}\n",
            "y".repeat(90)
        );
        for (line, id, kind) in [(first, "1", Kind::Request), (last, "\"b\"", Kind::Response)] {
            for bound in [5, 40, line.len() - 2] {
                for step in [1, 7, 1000] {
                    let mut buffer = LineBuffer::with_bound(bound);
                    let mut faults = 0;
                    for piece in line.as_bytes().chunks(step) {
                        buffer.extend(piece);
                        faults += all(&mut buffer).len();
                    }
                    let peeked = buffer.peeked();
                    assert_eq!((faults, peeked.kind), (1, kind), "{bound} {step}");
                    assert_eq!(peeked.id.as_deref(), Some(id), "{bound} {step}");
                    assert_eq!(buffer.peeked(), Peeked::default());
                }
            }
        }
    }

    #[test]
    fn a_line_cut_by_the_end_is_reported() {
        let mut buffer = LineBuffer::with_bound(5);
        buffer.extend(b"a\nbc");
        assert_eq!(all(&mut buffer), [Ok("a".to_owned())]);
        assert_eq!(buffer.finish(), Some(LineFault::Cut { bytes: 2 }));
        assert_eq!(buffer.finish(), None);
        buffer.extend(b"1234567890");
        assert_eq!(all(&mut buffer), []);
        assert_eq!(buffer.finish(), Some(LineFault::Cut { bytes: 10 }));
    }

    #[test]
    fn the_room_of_a_large_line_is_given_back() {
        let mut buffer = LineBuffer::new();
        let mut line = vec![b'x'; 9 << 20];
        line.push(b'\n');
        buffer.extend(&line);
        assert_eq!(all(&mut buffer).len(), 1);
        buffer.extend(b"a\n");
        assert!(buffer.capacity() <= KEEP_BYTES);
        line.drain(..8 << 20);
        buffer.extend(&line);
        assert_eq!(all(&mut buffer).len(), 2);
        for _ in 0..=QUIET_ROUNDS + 1 {
            buffer.extend(b"a\n");
            assert_eq!(all(&mut buffer).len(), 1);
        }
        assert!(buffer.capacity() <= KEEP_BYTES);
    }

    #[test]
    fn the_room_of_large_lines_is_kept_while_they_come() {
        let mut buffer = LineBuffer::new();
        let mut line = vec![b'x'; 1 << 20];
        line.push(b'\n');
        buffer.extend(&line);
        let room = buffer.capacity();
        for _ in 0..10 {
            assert_eq!(all(&mut buffer).len(), 1);
            for _ in 0..DROP_BYTES / READ_BYTES {
                buffer.extend(b"");
            }
            assert_eq!(buffer.capacity(), room);
            buffer.extend(&line);
        }
    }
}
