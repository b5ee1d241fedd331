//! Differences between protocol revisions live here only.

/// A protocol revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are MCP's revision dates")]
pub enum Revision {
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

impl Revision {
    /// Every revision known, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
        Self::V2026_07_28,
    ];

    /// The newest revision that opens with `initialize`.
    pub const NEWEST_HANDSHAKE: Self = Self::V2025_11_25;

    /// Parses the text of `protocolVersion`; `None` for a revision we do not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == text)
    }

    /// The text of `protocolVersion`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }
}

/// The two ways MCP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Era {
    /// `initialize`, then a session: up to 2025-11-25.
    Handshake(Revision),
    /// Every request by itself: 2026-07-28.
    Stateless,
}

impl Era {
    /// The revision spoken.
    #[must_use]
    pub fn revision(self) -> Revision {
        match self {
            Self::Handshake(revision) => revision,
            Self::Stateless => Revision::V2026_07_28,
        }
    }
}
