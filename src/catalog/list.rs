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
    /// Entries that some clients get otherwise, in order.
    variants: Vec<Variant>,
}

/// Who lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// How it speaks.
    pub era: Era,
    /// Its model API refuses tools that others take
    /// ([`PARTICULAR_CLIENTS`](crate::pin::quarantine::PARTICULAR_CLIENTS)).
    pub particular: bool,
}

/// An entry as some clients have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Variant {
    /// Where it stands in the list.
    at: Range<usize>,
    /// Which.
    of: Audience,
    /// What they get instead.
    text: String,
}

/// Who gets a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// Clients of one era: whether of the stateless one.
    Era { stateless: bool },
    /// Clients that are particular, which do not get it at all.
    Particular,
}

impl Audience {
    fn has(self, reader: Reader) -> bool {
        match self {
            Self::Era { stateless } => stateless == (reader.era == Era::Stateless),
            Self::Particular => reader.particular,
        }
    }
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

    /// [`Listing::page`] as a client gets it.
    #[must_use]
    pub fn page_for(&self, index: usize, reader: Reader) -> Option<(Cow<'_, str>, bool)> {
        let (page, more) = self.page(index)?;
        let begin = raw::place(&self.text, page)?.start;
        let end = begin + page.len();
        let own = self.variants.iter();
        let mut own = own
            .filter(|one| one.of.has(reader) && one.at.start >= begin && one.at.end <= end)
            .peekable();
        if own.peek().is_none() {
            return Some((Cow::Borrowed(page), more));
        }
        let mut out = String::with_capacity(page.len());
        let mut from = begin;
        for Variant { at, of, text } in own {
            // one that is withheld has no other variant
            if at.start < from {
                continue;
            }
            out.push_str(self.text.get(from..at.start).unwrap_or_default());
            out.push_str(text);
            from = at.end;
            if *of == Audience::Particular {
                // its comma goes with it: the one after it, or at the end the one before it
                match from < end {
                    true => from += 1,
                    false => {
                        out.pop();
                    }
                }
            }
        }
        out.push_str(self.text.get(from..end).unwrap_or_default());
        Some((Cow::Owned(out), more))
    }

    /// The entry that was pushed last is another one for clients of one era.
    pub(super) fn vary(&mut self, stateless: bool, text: String) {
        self.variants.push(Variant {
            at: self.last..self.text.len(),
            of: Audience::Era { stateless },
            text,
        });
    }

    /// The entry that was pushed last is none for clients that are particular. Called before
    /// [`Listing::vary`].
    pub(super) fn withhold(&mut self) {
        self.variants.push(Variant {
            at: self.last..self.text.len(),
            of: Audience::Particular,
            text: String::new(),
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
    fn what_is_withheld_is_missing_for_particular_clients_only() {
        let reader = |particular| Reader {
            era: Era::Stateless,
            particular,
        };
        for withheld in [
            &[][..],
            &[0],
            &[1],
            &[2],
            &[0, 1],
            &[1, 2],
            &[0, 2],
            &[0, 1, 2],
        ] {
            let mut list = Listing::default();
            for number in 0..3 {
                list.push(&["{\"n\":", &number.to_string(), "}"]);
                if withheld.contains(&number) {
                    list.withhold();
                }
                // another variant of the same entry does not bring it back
                list.vary(true, format!("{{\"n\":{number},\"own\":1}}"));
            }
            let numbers = |particular| {
                let (page, more) = list.page_for(0, reader(particular)).unwrap();
                assert!(!more);
                let page: Vec<serde_json::Value> =
                    serde_json::from_str(&format!("[{page}]")).unwrap();
                page.iter()
                    .map(|entry| entry["n"].as_u64().unwrap())
                    .collect::<Vec<_>>()
            };
            assert_eq!(numbers(false), [0, 1, 2]);
            let left = (0..3).filter(|number| !withheld.contains(number));
            assert_eq!(numbers(true), left.collect::<Vec<_>>(), "{withheld:?}");
        }
    }

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
