//! The signed registry: what an organisation approved, and the proof that it did.
//!
//! Pure: bytes and `now` come in, [`Verified`] registries come out. The client workflow of
//! The Update Framework (TUF 1.0.34 §5) lives here; downloading is `crate::fetch`.
#![warn(missing_docs)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod doc;

/// A value that was reached from the pinned root through every signature and digest.
///
/// Only registry verification makes one; a policy snapshot accepts nothing else.
#[derive(Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// For unit tests of the modules that consume registries.
    #[cfg(test)]
    pub(crate) fn assume_for_tests(value: T) -> Self {
        Self(value)
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// How current a registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freshness {
    /// The timestamp has not expired.
    Fresh,
    /// It has, within the grace the organisation allows: decisions narrow, never widen.
    Grace,
    /// It has, and the grace is over: every call is refused with the reason.
    Lapsed,
}
