//! Names and numbers, parsed once at the border and trusted inside.
//!
//! Every newtype here states its alphabet and bound; text that does not fit never gets in.
#![warn(missing_docs)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// Text that is not the identifier it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: expected {expected}")]
pub struct BadId {
    /// What was to be parsed, as a person would call it.
    pub what: &'static str,
    /// The text, cut to 80 characters.
    pub text: String,
    /// The alphabet and the bound.
    pub expected: &'static str,
}

fn is_slug(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_dotted(byte: u8) -> bool {
    is_slug(byte) || byte == b'.' || byte == b'_'
}

fn is_exposed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $test:path, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses the text.
            ///
            /// # Errors
            /// [`BadId`] when the text is empty, too long, or uses another alphabet.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                if (1..=$max).contains(&text.len()) && text.bytes().all($test) {
                    return Ok(Self(text.into()));
                }
                Err(BadId {
                    what: $what,
                    text: text.chars().take(80).collect(),
                    expected: $expected,
                })
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// An organisation, as its registry names itself.
    OrgId, "organisation id", 64, is_dotted, "1 to 64 of a-z 0-9 - . _"
);
name!(
    /// A server's stable id: survives a change of key or owner.
    ServerId, "server id", 64, is_dotted, "1 to 64 of a-z 0-9 - . _"
);
name!(
    /// A server's short key, the first part of every exposed tool name.
    ServerKey, "server key", 16, is_slug, "1 to 16 of a-z 0-9 -"
);
name!(
    /// A role of the organisation.
    RoleName, "role name", 64, is_slug, "1 to 64 of a-z 0-9 -"
);
name!(
    /// An agent of the organisation.
    AgentName, "agent name", 64, is_slug, "1 to 64 of a-z 0-9 -"
);
name!(
    /// A tool or prompt name as the client sees it: accepted by every client measured.
    ExposedName, "exposed name", 50, is_exposed, "1 to 50 of a-z A-Z 0-9 _ -"
);
name!(
    /// A credential as the registry names it; never the secret itself.
    CredentialId, "credential id", 64, is_dotted, "1 to 64 of a-z 0-9 - . _"
);
name!(
    /// The SHA-256 of a public key in lower-case hexadecimal.
    KeyId, "key id", 64, is_hex, "1 to 64 of 0-9 a-f"
);

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes the bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
        Self(out)
    }

    /// Parses 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// [`BadId`] for any other text.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let mut out = [0; 32];
        match data_encoding::HEXLOWER.decode_mut(text.as_bytes(), &mut out) {
            Ok(32) if text.len() == 64 => Ok(Self(out)),
            _ => Err(BadId {
                what: "digest",
                text: text.chars().take(80).collect(),
                expected: "64 lower-case hexadecimal digits",
            }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for KeyId {
    fn from(digest: Digest) -> Self {
        Self(digest.to_string().into())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// One upstream connection within a shim. The caller is carried per call, never by the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// One execution within a stream of records, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub u64);

/// A stream of records: one shim process lifetime, a version 7 UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub [u8; 16]);

impl StreamId {
    /// Makes an id from the wall clock and 10 random bytes (RFC 9562 §5.7).
    #[must_use]
    pub fn new(wall_ms: u64, random: &[u8; 10]) -> Self {
        Self(
            *uuid::Builder::from_unix_timestamp_millis(wall_ms, random)
                .as_uuid()
                .as_bytes(),
        )
    }

    /// Parses the hyphenated form.
    ///
    /// # Errors
    /// [`BadId`] for any other text.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) if text.len() == 36 => Ok(Self(*uuid.as_bytes())),
            _ => Err(BadId {
                what: "stream id",
                text: text.chars().take(80).collect(),
                expected: "a UUID such as 0197f3a2-7b1c-7000-8000-000000000000",
            }),
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&uuid::Uuid::from_bytes(self.0), f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
