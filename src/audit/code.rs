//! The primitives of the record: varints, bounded text, and a reader that cannot run past its end.

use crate::text;

/// A reader over bytes of unknown origin. Every method returns `None` at the end of the bytes or
/// when they do not hold what was asked for.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// How much of `whole` was read, which this reader was made of.
    pub(super) fn at(&self, whole: &[u8]) -> usize {
        whole.len() - self.0.len()
    }

    /// Whether everything was read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An LEB128 number of at most 64 bits, in its shortest form.
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                // one spelling per number: no trailing zero group
                return (shift == 0 || byte != 0).then_some(value);
            }
        }
        None
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// A number of either sign, zigzag.
    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let len = self.small::<usize>()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }
}

pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_number(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Writes text of somebody else's: cut to `max` bytes at a character, and without what hides or
/// plays ([`text::plain`]), so that it cannot forge lines or play with a terminal.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    if text.len() <= max && text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        put_number(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let clean = clean(text, max);
    put_number(out, clean.len() as u64);
    out.extend_from_slice(clean.as_bytes());
}

fn clean(text: &str, max: usize) -> String {
    // what is left out may be more than what stays, but not without end
    let head = text
        .get(..text.floor_char_boundary(max.saturating_mul(4)))
        .unwrap_or(text);
    let clean = text::plain(head);
    clean
        .get(..clean.floor_char_boundary(max))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_one_spelling() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = Vec::new();
            put_number(&mut out, value);
            assert_eq!(Reader::new(&out).number(), Some(value));
            assert!(out.len() <= 10);
        }
        for value in [0, -1, 1, -32_601, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(Reader::new(&out).signed(), Some(value));
        }
        assert_eq!(Reader::new(&[0x80, 0x00]).number(), None, "a longer zero");
        assert_eq!(Reader::new(&[0xff; 10]).number(), None, "more than 64 bits");
        assert_eq!(Reader::new(&[0x80]).number(), None, "cut");
    }

    #[test]
    fn text_is_cut_at_a_character_and_cannot_forge_lines() {
        let check = |text: &str, max: usize, expected: &str| {
            let mut out = Vec::new();
            put_text(&mut out, text, max);
            assert_eq!(Reader::new(&out).text(), Some(expected));
        };
        check("toolu_01", 128, "toolu_01");
        check("a\nb\u{1b}[31mc\0", 128, "ab[31mc");
        check("é\u{202e}é", 3, "é");
        check("a\u{61c}\u{200b}\u{200e}\u{feff}\u{2028}b", 9, "ab");
        check("می\u{200c}خ 👩\u{200d}🚀", 64, "می\u{200c}خ 👩\u{200d}🚀");
        let junk = "\u{202e}".repeat(1000);
        check(&junk, 9, "");
        check("abcdef", 4, "abcd");
    }
}
