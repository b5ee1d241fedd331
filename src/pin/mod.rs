//! Pins: what a server's surface was when it was approved, and whether it still is.
//!
//! Owns the digest over a definition's canonical form ([`canon`], `docs/formats/pin.md`), the
//! comparison of a live surface with the pinned one ([`compare`]), and the names clients see
//! ([`assign_names`]). Pure: surfaces come in, sentences go out.
//!
//! Texts of an upstream are untrusted. A [`Drift`] may reach a model, so its sentence holds names
//! and paths only, reduced to printable ASCII and cut.
#![warn(missing_docs)]

pub mod canon;
mod drift;
mod names;
pub mod quarantine;
mod schema;

use serde_json::value::RawValue;

pub use self::drift::{
    Change, Comparison, Difference, Drift, Edit, Shown, compare, differences, edits,
};
pub use self::names::{Kept, assign_names};
use crate::ids::Digest;
use crate::limits::{TOOL_NAME_BYTES, URI_BYTES};
use crate::registry::doc::{Pinned, Surface};
use crate::text::printable;
use canon::Json;

/// What a definition defines. The digest of one kind never equals that of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An entry of `prompts/list`.
    Prompt,
    /// An entry of `resources/list`.
    Resource,
    /// An entry of `resources/templates/list`.
    Template,
    /// An entry of `tools/list`.
    Tool,
}

impl Kind {
    /// Every kind, tools first.
    pub const ALL: [Self; 4] = [Self::Tool, Self::Prompt, Self::Template, Self::Resource];

    /// The word for it, also the one in the digest's domain.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Resource => "resource",
            Self::Template => "template",
            Self::Tool => "tool",
        }
    }

    /// The member that names an entry of this kind.
    #[must_use]
    pub fn name_member(self) -> &'static str {
        match self {
            Self::Prompt | Self::Tool => "name",
            Self::Resource => "uri",
            Self::Template => "uriTemplate",
        }
    }

    fn name_bytes(self) -> usize {
        match self {
            Self::Prompt | Self::Tool => TOOL_NAME_BYTES,
            Self::Resource | Self::Template => URI_BYTES,
        }
    }

    /// This kind's entries of a surface.
    #[must_use]
    pub fn of(self, surface: &Surface) -> &[Pinned] {
        match self {
            Self::Prompt => &surface.prompts,
            Self::Resource => &surface.resources,
            Self::Template => &surface.templates,
            Self::Tool => &surface.tools,
        }
    }
}

/// Why a definition cannot be pinned. Always the upstream's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Arrays and objects nest too deep.
    #[error(
        "nested deeper than {} levels at byte {offset}",
        crate::limits::PIN_DEPTH
    )]
    Depth {
        /// Where.
        offset: usize,
    },
    /// An object has a key twice: readers would disagree about which counts.
    #[error("the key {key:?} stands twice in one object, the second time at byte {offset}")]
    Duplicate {
        /// Which, unescaped.
        key: String,
        /// Where the second one starts.
        offset: usize,
    },
    /// It does not name itself.
    #[error("has no text member `{member}`")]
    Nameless {
        /// The member that should hold the name.
        member: &'static str,
    },
    /// Its name is empty or too long.
    #[error("its name has {len} bytes, expected 1 to {limit}")]
    NameLength {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Half a surrogate pair: no text has this code point.
    #[error("an unpaired surrogate escape at byte {offset}")]
    Surrogate {
        /// Where.
        offset: usize,
    },
    /// Not JSON.
    #[error("not JSON at byte {offset}: expected {expected}")]
    Syntax {
        /// Where.
        offset: usize,
        /// What should stand there.
        expected: &'static str,
    },
    /// Not UTF-8.
    #[error("not UTF-8 at byte {offset}")]
    Utf8 {
        /// Where.
        offset: usize,
    },
}

/// Returns the canonical form of a JSON text.
///
/// # Errors
/// [`PinError`] for what has no canonical form.
///
/// # Examples
/// ```
/// let canonical = mcpshim::pin::canonical(br#"{"b": 1.0, "a": "\u00e9"}"#)?;
/// assert_eq!(canonical, "{\"a\":\"é\",\"b\":1.0}");
/// # Ok::<(), mcpshim::pin::PinError>(())
/// ```
pub fn canonical(text: &[u8]) -> Result<String, PinError> {
    let json = parse(text)?;
    let mut out = String::with_capacity(text.len());
    json.write(&mut out);
    Ok(out)
}

/// Returns the digest of one definition: SHA-256 over `mcpshim pin 1 <kind>`, a zero byte, and
/// the canonical form.
///
/// # Errors
/// [`PinError`] for what has no canonical form.
pub fn digest(kind: Kind, definition: &[u8]) -> Result<Digest, PinError> {
    Ok(digest_of(kind, &parse(definition)?, definition.len()))
}

/// Makes the pin entry of one list entry, which names itself. No exposed name is assigned.
///
/// Line breaks between tokens are dropped, so that the entry fits on one line of a pin file and
/// of a client's stream; everything else stays as it was.
///
/// # Errors
/// [`PinError`] when the entry has no canonical form or no usable name.
pub fn entry(kind: Kind, definition: &RawValue) -> Result<Pinned, PinError> {
    let json = Json::parse(definition.get())?;
    let member = kind.name_member();
    let name = json.get(member).and_then(Json::as_str);
    let name = name.ok_or(PinError::Nameless { member })?;
    let limit = kind.name_bytes();
    if !(1..=limit).contains(&name.len()) {
        let len = name.len();
        return Err(PinError::NameLength { len, limit });
    }
    Ok(Pinned {
        name: name.to_owned(),
        exposed: None,
        digest: digest_of(kind, &json, definition.get().len()),
        definition: one_line(definition),
    })
}

/// Checks that an entry's name and digest are those of its definition.
///
/// # Errors
/// A sentence for the reviewer of a pin file that was edited by hand.
pub fn verify(kind: Kind, pinned: &Pinned) -> Result<(), String> {
    let word = kind.word();
    let name = printable(&pinned.name);
    let fresh = entry(kind, &pinned.definition)
        .map_err(|error| format!("{word} `{name}` is not usable: {error}"))?;
    if fresh.name != pinned.name {
        let other = printable(&fresh.name);
        return Err(format!("{word} `{name}` holds the definition of `{other}`"));
    }
    if fresh.digest != pinned.digest {
        return Err(format!(
            "{word} `{name}` does not have the digest of its definition"
        ));
    }
    Ok(())
}

fn parse(text: &[u8]) -> Result<Json, PinError> {
    let text = std::str::from_utf8(text).map_err(|error| PinError::Utf8 {
        offset: error.valid_up_to(),
    })?;
    Json::parse(text)
}

fn digest_of(kind: Kind, json: &Json, size_hint: usize) -> Digest {
    let mut text = String::with_capacity(size_hint + 32);
    text.push_str("mcpshim pin 1 ");
    text.push_str(kind.word());
    text.push('\0');
    json.write(&mut text);
    Digest::of(text.as_bytes())
}

/// A line break in a JSON text always stands between tokens (RFC 8259 §7 forbids it in strings),
/// and never as the only separator of two of them.
fn one_line(definition: &RawValue) -> Box<RawValue> {
    if !definition.get().contains(['\n', '\r']) {
        return definition.to_owned();
    }
    RawValue::from_string(definition.get().replace(['\n', '\r'], ""))
        .unwrap_or_else(|_| definition.to_owned())
}

#[cfg(test)]
mod tests;
