//! A list as clients get it: entries in pages, some of them otherwise for clients of one era.

use std::borrow::Cow;
use std::ops::Range;

use crate::limits;
use crate::wire::era::Era;
use crate::wire::raw;

/// A list as clients get it, in pages: a client may read one page only, so all that one line can
/// hold is on the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// A JSON array without its brackets.
    text: String,
    /// Where the last entry begins.
    last: usize,
    /// Where pages end that another follows: at a comma.
    ends: Vec<usize>,
    /// How many entries there are, and how many on the first page.
    counts: (usize, usize),
    /// Entries that clients of one era get otherwise, in order.
    variants: Vec<Variant>,
}

/// An entry as clients of one era have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variant {
    /// Where it stands in the list.
    at: Range<usize>,
    stateless: bool,
    entry: String,
}

impl Listing {
    /// Adds an entry, given in pieces.
    pub(super) fn push(&mut self, pieces: &[&str]) {
        let begin = self.ends.last().map_or(0, |end| end + 1);
        if !self.text.is_empty() {
            let len: usize = pieces.iter().map(|piece| piece.len()).sum();
            if self.text.len() - begin + 1 + len > limits::LIST_PAGE_BYTES {
                self.ends.push(self.text.len());
            }
            self.text.push(',');
        }
        self.last = self.text.len();
        self.text.extend(pieces.iter().copied());
        self.counts.0 += 1;
        self.counts.1 += usize::from(self.ends.is_empty());
    }

    /// Makes room, so that a long list is not copied several times while it grows.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    /// The entries of one page, separated by commas, and whether another page follows; `None`
    /// where there is no such page. The first, 0, is always there.
    #[must_use]
    pub fn page(&self, index: usize) -> Option<(&str, bool)> {
        let begin = match index.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before)? + 1,
        };
        let end = self.ends.get(index).copied();
        let entries = self.text.get(begin..end.unwrap_or(self.text.len()))?;
        Some((entries, end.is_some()))
    }

    /// [`Listing::page`] as clients of an era get it.
    #[must_use]
    pub fn page_for(&self, index: usize, era: Era) -> Option<(Cow<'_, str>, bool)> {
        let (page, more) = self.page(index)?;
        let begin = raw::place(&self.text, page)?.start;
        let end = begin + page.len();
        let stateless = era == Era::Stateless;
        let own = self.variants.iter();
        let mut own = own
            .filter(|one| one.stateless == stateless && one.at.start >= begin && one.at.end <= end)
            .peekable();
        if own.peek().is_none() {
            return Some((Cow::Borrowed(page), more));
        }
        let mut out = String::with_capacity(page.len());
        let mut from = begin;
        for Variant { at, entry, .. } in own {
            out.push_str(self.text.get(from..at.start).unwrap_or_default());
            out.push_str(entry);
            from = at.end;
        }
        out.push_str(self.text.get(from..end).unwrap_or_default());
        Some((Cow::Owned(out), more))
    }

    /// The entry that was pushed last is another one for clients of one era.
    pub(super) fn vary(&mut self, stateless: bool, entry: String) {
        let at = self.last..self.text.len();
        self.variants.push(Variant {
            at,
            stateless,
            entry,
        });
    }

    /// All entries, separated by commas.
    #[must_use]
    pub fn entries(&self) -> &str {
        &self.text
    }

    /// How many entries there are, and how many of them are on the first page.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_no_line_can_hold_comes_in_pages() {
        let mut list = Listing::default();
        let entry = format!("\"{}\"", "x".repeat(limits::LIST_PAGE_BYTES / 3));
        for number in 0..7 {
            list.push(&["[", &entry, ",", &number.to_string(), "]"]);
        }
        assert_eq!(list.counts(), (7, 2));
        let mut numbers = Vec::new();
        for index in 0..4 {
            let (page, more) = list.page(index).unwrap();
            assert!(page.len() <= limits::LIST_PAGE_BYTES);
            assert_eq!(more, index < 3);
            let page: Vec<(String, u32)> = serde_json::from_str(&format!("[{page}]")).unwrap();
            numbers.extend(page.into_iter().map(|(_, number)| number));
        }
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(list.page(4), None);
        // what is longer than a page has one for itself
        let mut list = Listing::default();
        let entry = format!("\"{}\"", "x".repeat(limits::LIST_PAGE_BYTES));
        for entry in ["1", &entry, "2"] {
            list.push(&[entry]);
        }
        let page = |index| list.page(index).unwrap();
        assert_eq!(
            [page(0), page(1), page(2)],
            [("1", true), (entry.as_str(), true), ("2", false)]
        );
    }
}
