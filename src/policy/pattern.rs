//! Globs of grants, URI templates of servers, and whether the two can meet.
//!
//! Both are read as sequences of [`Token`]s and matched by the same function, so that a listed
//! template is one for which some URI is really granted.

use crate::text;

/// One element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    /// This character.
    Literal(char),
    /// Any run of characters, the empty one included.
    Run,
    /// Any run without `/`, `?` and `#`, the empty one included.
    Segment,
}

impl Token {
    fn takes(self, ch: char) -> bool {
        match self {
            Self::Literal(own) => own == ch,
            Self::Run => true,
            Self::Segment => !matches!(ch, '/' | '?' | '#'),
        }
    }

    fn repeats(self) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Run | Self::Segment => true,
        }
    }

    /// Whether some character is taken by both.
    fn meets(self, other: Self) -> bool {
        match (self, other) {
            (Self::Literal(ch), token) | (token, Self::Literal(ch)) => token.takes(ch),
            (Self::Run | Self::Segment, Self::Run | Self::Segment) => true,
        }
    }
}

/// A pattern over names or URIs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pattern(Vec<Token>);

impl Pattern {
    /// A glob of a grant: `*` is any run of characters, everything else is itself.
    pub(crate) fn glob(text: &str) -> Self {
        Self(
            text.chars()
                .map(|ch| match ch {
                    '*' => Token::Run,
                    _ => Token::Literal(ch),
                })
                .collect(),
        )
    }

    /// Exactly this text.
    pub(crate) fn literal(text: &str) -> Self {
        Self(text.chars().map(Token::Literal).collect())
    }

    /// A URI template (RFC 6570). `{name}` (level 1) takes a run without `/`, `?` and `#`, as
    /// servers in the field do; any other expression takes any run. A template only routes and
    /// lists; what may be read is decided on the URI itself.
    pub(crate) fn template(text: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((expression, tail)) = after.split_once('}') else {
                break;
            };
            tokens.extend(before.chars().map(Token::Literal));
            let simple = !expression.is_empty()
                && expression
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'%'));
            tokens.push(if simple { Token::Segment } else { Token::Run });
            rest = tail;
        }
        tokens.extend(rest.chars().map(Token::Literal));
        Self(tokens)
    }

    /// Whether the whole text is matched. Time is at most the product of both lengths.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let mut reached = self.start();
        for ch in text.chars() {
            let mut next = vec![false; self.0.len() + 1];
            for (at, token) in self.0.iter().enumerate() {
                if reached.get(at) == Some(&true) && token.takes(ch) {
                    let to = if token.repeats() { at } else { at + 1 };
                    mark(&mut next, to);
                }
            }
            self.skip(&mut next);
            if !next.contains(&true) {
                return false;
            }
            reached = next;
        }
        reached.last() == Some(&true)
    }

    /// Whether some text is matched by both patterns.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        // reached[at] holds the positions of `other` that go with position `at` of ours
        let width = other.0.len() + 1;
        let mut reached = vec![vec![false; width]; self.0.len() + 1];
        let mut work = vec![(0, 0)];
        while let Some((at, of)) = work.pop() {
            let Some(cell) = reached.get_mut(at).and_then(|row| row.get_mut(of)) else {
                continue;
            };
            if std::mem::replace(cell, true) {
                continue;
            }
            let (mine, its) = (self.0.get(at), other.0.get(of));
            if mine.is_some_and(|token| token.repeats()) {
                work.push((at + 1, of));
            }
            if its.is_some_and(|token| token.repeats()) {
                work.push((at, of + 1));
            }
            if let (Some(mine), Some(its)) = (mine, its)
                && mine.meets(*its)
            {
                let step = |token: &Token| usize::from(!token.repeats());
                work.push((at + step(mine), of + step(its)));
            }
        }
        reached.last().and_then(|row| row.last()) == Some(&true)
    }

    fn start(&self) -> Vec<bool> {
        let mut reached = vec![false; self.0.len() + 1];
        mark(&mut reached, 0);
        self.skip(&mut reached);
        reached
    }

    /// A run may be empty: whoever stands before it stands behind it too.
    fn skip(&self, reached: &mut [bool]) {
        for (at, token) in self.0.iter().enumerate() {
            if token.repeats() && reached.get(at) == Some(&true) {
                mark(reached, at + 1);
            }
        }
    }
}

fn mark(cells: &mut [bool], at: usize) {
    if let Some(cell) = cells.get_mut(at) {
        *cell = true;
    }
}

/// Whether a URI climbs for no reader: `file:///repo/../etc/passwd` matches the glob
/// `file:///repo/*` and yet is not under `/repo`.
///
/// Refused, as it stands and each time it is decoded: a backslash, a control character, bytes that
/// are no UTF-8, `%u` escapes, and a segment that is nothing but dots to some reader. Readers drop
/// blanks and characters without a shape, take full-width forms for ASCII, and decode twice. A
/// blank may stand as `%20` between other characters of a segment, never as it is and never at an
/// end of a segment. Other percent-encoded UTF-8 passes, `%2F` too: a glob's `*` takes `/` anyway.
pub(crate) fn is_plain(uri: &str) -> bool {
    if uri.len() > crate::limits::URI_BYTES || uri.contains(char::is_whitespace) {
        return false;
    }
    let mut text = uri.to_owned();
    // a server may decode once more than we expect; three rounds are more than any has been seen to
    for _ in 0..3 {
        if text.contains('\\') || text.contains(text::controls) {
            return false;
        }
        let seen: String = text.chars().map(ascii).collect();
        if has_wide_escape(&seen) || seen.split(is_separator).any(climbs) {
            return false;
        }
        let Ok(decoded) = String::from_utf8(decode(seen.as_bytes())) else {
            return false;
        };
        if decoded == seen {
            return true;
        }
        text = decoded;
    }
    false
}

fn is_separator(c: char) -> bool {
    matches!(c, '/' | '\\' | '?' | '#' | ';')
}

/// Whether some reader takes a segment for `.`, `..` or another name with its blanks cut off.
fn climbs(segment: &str) -> bool {
    let blank = |c: char| c.is_whitespace() || text::is_shapeless(c);
    segment.starts_with(char::is_whitespace)
        || segment.ends_with(char::is_whitespace)
        || segment.contains('.') && segment.chars().all(|c| c == '.' || blank(c))
}

/// What a character is once a reader has made compatible forms one (Unicode NFKC, and the best fit
/// of Windows' code pages), as far as dots and separators go.
fn ascii(c: char) -> char {
    match c {
        '\u{2024}'..='\u{2026}' | '\u{fe52}' | '\u{3002}' | '\u{ff61}' => '.',
        '\u{2044}' | '\u{2215}' | '\u{29f8}' => '/',
        '\u{2216}' | '\u{29f5}' | '\u{fe68}' => '\\',
        // the full-width forms lie as ASCII does
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

/// `%u` and four hexadecimal digits: never a standard, decoded by some servers still.
fn has_wide_escape(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = rest.get(at + 1..).unwrap_or_default();
        if let [b'u' | b'U', digits @ ..] = rest
            && digits
                .get(..4)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        {
            return true;
        }
    }
    false
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let pair = tail.get(..2).and_then(|pair| {
            let digit = |b: u8| char::from(b).to_digit(16);
            u8::try_from(digit(*pair.first()?)? * 16 + digit(*pair.get(1)?)?).ok()
        });
        match pair {
            Some(byte) if first == b'%' => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_whole_names_only() {
        let check = |glob, text| Pattern::glob(glob).matches(text);
        assert!(check("get_*", "get_issue") && check("get_*", "get_"));
        assert!(!check("get_*", "forget_issue") && !check("get_*", "GET_issue"));
        assert!(check("*", "") && check("a*b*c", "aXbYbc") && !check("a*b*c", "acb"));
        assert!(!check("", "a") && check("", ""));
        assert!(check("a?[x]", "a?[x]") && !check("a?", "ab"));
    }

    #[test]
    fn a_template_takes_one_segment_per_simple_expression() {
        let check = |template, uri| Pattern::template(template).matches(uri);
        assert!(check("db://{table}/rows", "db://users/rows"));
        assert!(!check("db://{table}/rows", "db://a/b/rows"));
        assert!(check("file:///{+path}", "file:///a/b.txt"));
        assert!(check("s://x{?q,lang}", "s://x?q=1&lang=de"));
        assert!(check("open{brace", "open{brace"));
    }

    #[test]
    fn meeting_is_having_a_common_text() {
        let check = |template, glob| Pattern::template(template).meets(&Pattern::glob(glob));
        assert!(check("db://{table}/rows", "db://users/*"));
        assert!(check("db://{table}/rows", "*"));
        assert!(!check("db://{table}/rows", "db://a/b/*"));
        assert!(!check("db://{table}/rows", "file:*"));
        assert!(check("{+any}", "x*y"));
    }

    #[test]
    fn meeting_agrees_with_matching() {
        arbtest::arbtest(|u| {
            let mut text = |alphabet: &[&str]| -> arbtest::arbitrary::Result<String> {
                (0..u.int_in_range(0..=6)?)
                    .map(|_| Ok(*u.choose(alphabet)?))
                    .collect()
            };
            let template = text(&["a", "b", "/", "{x}", "{+x}"])?;
            let glob = text(&["a", "b", "/", "*"])?;
            let uri = text(&["a", "b", "/"])?;
            let (template, glob) = (Pattern::template(&template), Pattern::glob(&glob));
            if template.matches(&uri) && glob.matches(&uri) {
                assert!(template.meets(&glob) && glob.meets(&template));
            }
            Ok(())
        });
    }

    /// Found: a percent-coded blank, bytes that are no UTF-8, `%u` and full-width dots passed.
    #[test]
    fn a_uri_that_climbs_for_some_reader_is_not_plain() {
        for bad in [
            "file:///repo/../etc/passwd",
            "file:///repo/%2e%2e/etc",
            "file:///repo/..%2fetc",
            "file:///repo/%252e%252e/etc",
            "file:///repo/%25252e%25252e/etc",
            "file:///repo/%%32%65./etc",
            "file:///repo/..;x/etc",
            "file:///repo\\..\\etc",
            "file:///repo/..%5cetc",
            "file:///repo/x%255cetc",
            "file:///repo/.",
            "file:///repo/.../etc",
            "file:///repo/\u{0}",
            "file:///repo/%00",
            "file:///repo/%c2%85",
            "file:///a b",
            "file:///a\u{a0}b",
            "x://%25252525252e",
            // blanks
            "file:///repo/..%20/x",
            "file:///repo/%20../x",
            "file:///repo/.%20./x",
            "file:///repo/..%2520/x",
            "file:///repo/..%c2%a0/x",
            "file:///repo/..%e3%80%80/x",
            "file:///repo/..%e2%80%8b/x",
            "file:///repo/..\u{200b}/x",
            "file:///repo/.%c2%ad./x",
            "file:///repo/name%20/x",
            "file:///repo/name%09/x",
            // no UTF-8, and overlong forms
            "file:///repo/%c0%ae%c0%ae/x",
            "file:///repo/%e0%80%ae%e0%80%ae/x",
            "file:///repo/%c0%af../x",
            "file:///repo/%25c0%25ae/x",
            "file:///repo/%ff",
            // other escapes and forms
            "file:///repo/%u002e%u002e/x",
            "file:///repo/%U002E/x",
            "file:///repo/%25u002e%25u002e/x",
            "file:///repo/\u{ff0e}\u{ff0e}/x",
            "file:///repo/%ef%bc%8e%ef%bc%8e/x",
            "file:///repo/\u{2024}\u{2024}/x",
            "file:///repo/\u{2025}/x",
            "file:///repo\u{ff0f}..\u{2215}x",
            "file:///repo/..\u{2216}x",
            "file:///repo/\u{ff05}2e\u{ff05}2e/x",
        ] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        for good in [
            "file:///repo/a..b/.hidden/x.txt",
            "file:///repo/..a/b../c...d",
            "db://users/%C3%A9%20x?q=1..2",
            "file:///repo/My%20Documents/notes%20of%20May.txt",
            "file:///repo/%E6%97%A5%E6%9C%AC%E8%AA%9E.txt",
            "file:///repo/日本語。txt",
            "file:///repo/\u{ff21}\u{ff1f}.txt",
            "file:///repo/100%25.txt",
            "file:///repo/100%.txt",
            "file:///repo/%useful",
            "gitlab://group%2Fproject/issues/7",
            "repo://compare/main...feature",
            "mailto:%22a%20b%22@example.org",
            "x://%F0%9F%98%80",
            "memo://insights",
        ] {
            assert!(is_plain(good), "{good:?}");
        }
    }
}
