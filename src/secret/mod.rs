//! Values that never print themselves.
#![warn(missing_docs)]

mod scrub;

pub use self::scrub::{MARK, Scrubber, Stream};

use std::fmt;

use zeroize::Zeroizing;

/// A secret: wiped when dropped, `Debug` prints its size only, and it has no `Display`.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes custody of the bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one use they were fetched for.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "«redacted {} bytes»", self.0.len())
    }
}

/// Arguments, results and other content: kept, passed on and sealed, but never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content(pub bytes::Bytes);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "«redacted {} bytes»", self.0.len())
    }
}
