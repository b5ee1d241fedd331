//! What records have of arguments and results: which have none and why, and opening the others.

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Filter, Last, QueryError, find};
use crate::audit::decode::Said;
use crate::audit::{self, DataKey, PrivateKey, UnsealError};
use crate::clock::Now;
use crate::ids::Digest;

/// How arguments or results of records were kept, by the word of `args_kept` and `result_kept`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Content(BTreeMap<String, u64>);

/// How the payload of a record was kept; nothing where there was none to keep.
#[must_use]
pub fn kept(view: &Value) -> Option<&str> {
    let kept = ["args_kept", "result_kept"];
    let mut kept = kept.iter().filter_map(|name| view.get(*name)?.as_str());
    kept.next().filter(|kept| *kept != "empty")
}

/// The same in words; nothing for a payload that can be opened.
#[must_use]
pub fn why_not(kept: &str) -> Option<&str> {
    Some(match kept {
        "sealed" => return None,
        "digest" => "digest only: the rule says so",
        "size" => "size only: the rule says so",
        "size-no-key" => "size only: no audit key was valid",
        "size-no-room" => "size only: the spool lived off its reserve",
        "taken-away" => "taken out before it came",
        "withheld" => "withheld: too large for the way",
        other => other,
    })
}

impl Content {
    /// Takes note of a record.
    pub(super) fn count(&mut self, view: &Value) {
        if let Some(kept) = kept(view) {
            *self.0.entry(kept.to_owned()).or_default() += 1;
        }
    }

    /// Records that had a payload.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.0.values().sum()
    }

    /// Those of which it cannot be opened by anybody.
    #[must_use]
    pub fn without(&self) -> u64 {
        let without = self.0.iter().filter(|(kept, _)| why_not(kept).is_some());
        without.map(|(_, count)| count).sum()
    }

    /// One sentence about what has no content; nothing where everything has.
    #[must_use]
    pub fn sentence(&self) -> Option<String> {
        if self.without() == 0 {
            return None;
        }
        let reasons = self.0.iter().filter_map(|(kept, count)| {
            let why = why_not(kept)?;
            Some((count, why.replacen(": ", " (", 1)))
        });
        let reasons = reasons.map(|(count, why)| {
            let close = if why.contains('(') { ")" } else { "" };
            match *count == self.without() {
                true => format!("{why}{close}"),
                false => format!("{} {why}{close}", thousands(*count)),
            }
        });
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        Some(format!(
            "{} of {} have no content: {reasons}",
            thousands(self.without()),
            thousands(self.all())
        ))
    }
}

/// A number with its thousands apart.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A record with everything its payload needs to be opened, elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sealed {
    /// The record, without its payload.
    pub view: Value,
    /// Its stream.
    pub stream: String,
    /// The frame, base64; nothing for a record whose payload nobody can open.
    pub frame: Option<String>,
    /// The frame that began its segment, base64: the wrapped data keys are in it.
    pub segment: Option<String>,
    /// The clear digest of the record: what its sealing covers beside the payload, from what is
    /// stored of it, its contexts and its intent.
    #[serde(default)]
    pub clear: Option<Digest>,
}

/// Finds the matching records that had a payload: those that are sealed with their wrapped keys,
/// the others with the reason in their view.
///
/// Whoever calls this writes down who asked before anything leaves the house.
///
/// # Errors
/// [`QueryError`].
pub fn sealed(root: &Path, filter: &Filter, now: &Now) -> Result<(Vec<Sealed>, Last), QueryError> {
    let found = find(root, filter, now, true)?;
    let last = found.last();
    let records = found.hits.into_iter().filter_map(|hit| {
        let is_sealed = why_not(kept(&hit.view)?).is_none();
        let frames = hit.frames.filter(|_| is_sealed);
        let (stream, frame, segment, clear) = match frames {
            Some(frames) => (
                frames.stream,
                Some(frames.frame),
                frames.segment,
                frames.clear,
            ),
            None => (String::new(), None, None, None),
        };
        Some(Sealed {
            view: hit.view,
            stream,
            frame,
            segment,
            clear,
        })
    });
    Ok((records.collect(), last))
}

/// Why a payload stays closed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The answer is not one of a collector.
    #[error("the record or its segment is missing or not readable")]
    Answer,
    /// The key or the payload.
    #[error(transparent)]
    Unseal(#[from] UnsealError),
}

/// Opens the payload of a record and puts it into its view, as `args` or `result`.
///
/// # Errors
/// [`OpenError`].
pub fn open(sealed: &Sealed, key: &PrivateKey) -> Result<Value, OpenError> {
    let decode = |text: &str| {
        BASE64
            .decode(text.as_bytes())
            .map_err(|_not| OpenError::Answer)
    };
    let segment = decode(sealed.segment.as_deref().ok_or(OpenError::Answer)?)?;
    let frame = decode(sealed.frame.as_deref().ok_or(OpenError::Answer)?)?;
    let first = |bytes| match audit::frames(bytes).next() {
        Some(Ok(frame)) => Ok(frame),
        _ => Err(OpenError::Answer),
    };
    let (segment, frame) = (first(&segment)?, first(&frame)?);
    let segment = audit::decode(&segment).map_err(|_odd| OpenError::Answer)?;
    let Said::Segment(header) = &segment.said else {
        return Err(OpenError::Answer);
    };
    let record = audit::decode(&frame).map_err(|_odd| OpenError::Answer)?;
    let unsealed = DataKey::open(header, key)?.unseal(&record, sealed.clear)?;
    let mut view = sealed.view.clone();
    if let Value::Object(view) = &mut view {
        let what = match record.said {
            Said::Outcome { .. } => "result",
            _ => "args",
        };
        // the exact bytes, as text: JSON inside JSON would respell numbers
        let value = match std::str::from_utf8(&unsealed.content.0) {
            Ok(text) => text.into(),
            Err(_) => {
                view.insert(format!("{what}_encoding"), "base64".into());
                BASE64.encode(&unsealed.content.0).into()
            }
        };
        view.insert(what.to_owned(), value);
        if unsealed.cut {
            view.insert(format!("{what}_cut"), true.into());
        }
    }
    Ok(view)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content(kept: &[(&str, u64)]) -> Content {
        let mut content = Content::default();
        for (how, count) in kept {
            for _ in 0..*count {
                content.count(&json!({"args_kept": how}));
            }
        }
        content
    }

    #[test]
    fn what_has_no_content_is_counted_with_its_reason() {
        let mut missing = content(&[("sealed", 234), ("size-no-key", 940)]);
        assert_eq!(
            missing.sentence().unwrap(),
            "940 of 1,174 have no content: size only (no audit key was valid)"
        );
        missing.count(&json!({"result_kept": "taken-away"}));
        assert_eq!(
            missing.sentence().unwrap(),
            "941 of 1,175 have no content: 940 size only (no audit key was valid), \
             1 taken out before it came"
        );
        assert_eq!(
            content(&[("sealed", 1), ("withheld", 2)])
                .sentence()
                .unwrap(),
            "2 of 3 have no content: withheld (too large for the way)"
        );
        assert_eq!(content(&[("sealed", 3), ("empty", 2)]).sentence(), None);
        assert_eq!(content(&[("sealed", 3), ("empty", 2)]).all(), 3);
    }

    #[test]
    fn a_way_of_keeping_that_is_newer_than_this_reader_is_no_content() {
        let newer = content(&[("sealed", 1), ("kept-elsewhere", 1)]);
        assert_eq!(
            newer.sentence().unwrap(),
            "1 of 2 have no content: kept-elsewhere"
        );
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
