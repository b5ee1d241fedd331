//! The trusted state of one machine: one file, written whole, believed never.
//!
//! ```text
//! mcpshim-registry-state 1 1 <bytes of head> <SHA-256 of head, hex>\n
//! <head: one JSON object>\n
//! <roots after the pinned one> <timestamp> <snapshot> <targets> <documents>
//! ```
//!
//! The two numbers are the format and the lowest reader. The head gives the length of every
//! part, in order; the parts are the bytes as they were published. The digest finds a damaged
//! head; every other byte is covered by the signatures and digests that [`super::load`] checks.
//!
//! Losing it costs a refresh. Which versions were seen survives in the state before it, which the
//! store keeps beside it; losing both leaves the minimum versions of managed configuration. Who
//! can put back older ones that were validly signed, until those lapse; they cannot grant anything.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Cause, RegistryError};
use crate::ids::Digest;

const MAGIC: &str = "mcpshim-registry-state";
const FORMAT: u32 = 1;
const MIN_READER: u32 = 1;

/// The state, borrowed from the bytes it was read from or is to be written from.
#[derive(Debug, Clone, Default)]
pub(super) struct State<'a> {
    /// When the source was last heard, in Unix seconds.
    pub(super) checked: u64,
    /// The entity tag of the timestamp, for the next conditional request.
    pub(super) etag: Option<String>,
    /// The roots that follow the pinned one, ascending without a gap.
    pub(super) roots: Vec<&'a [u8]>,
    /// Everything below the root; absent only where nothing is stored.
    pub(super) metadata: Option<Metadata<'a>>,
    /// Documents by target name.
    pub(super) documents: Vec<(String, &'a [u8])>,
}

/// The three metadata files below the root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) timestamp: &'a [u8],
    pub(super) snapshot: &'a [u8],
    pub(super) targets: &'a [u8],
}

#[derive(Serialize, Deserialize)]
struct Head {
    checked: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    roots: Vec<usize>,
    /// Timestamp, snapshot, targets.
    metadata: [usize; 3],
    documents: Vec<(String, usize)>,
}

fn damaged(why: impl Into<String>) -> RegistryError {
    RegistryError::Damaged {
        cause: Cause(why.into()),
    }
}

impl<'a> State<'a> {
    /// Reads the container; says nothing about trust.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, RegistryError> {
        let (line, rest) = split_line(bytes).ok_or_else(|| damaged("its first line is cut off"))?;
        let mut words = line.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(damaged("it does not begin as a registry state does"));
        }
        let mut number = || words.next().and_then(|word| word.parse::<u32>().ok());
        let (Some(_format), Some(min_reader), Some(head_bytes)) = (number(), number(), number())
        else {
            return Err(damaged("its first line is not complete"));
        };
        if min_reader > FORMAT {
            return Err(RegistryError::TooNew {
                cause: Cause(format!(
                    "the trusted state asks for reader {min_reader}, this is reader {FORMAT}"
                )),
            });
        }
        let digest = words.next().and_then(|word| Digest::parse(word).ok());
        let (head, mut parts) = usize::try_from(head_bytes)
            .ok()
            .and_then(|len| rest.split_at_checked(len))
            .and_then(|(head, rest)| Some((head, rest.strip_prefix(b"\n")?)))
            .ok_or_else(|| damaged("its head is cut off"))?;
        if digest != Some(Digest::of(head)) {
            return Err(damaged("its head has changed since it was written"));
        }
        let head: Head =
            serde_json::from_slice(head).map_err(|e| damaged(format!("its head: {e}")))?;
        let mut take = |len: usize, what: &dyn std::fmt::Display| {
            let (part, rest) = parts
                .split_at_checked(len)
                .ok_or_else(|| damaged(format!("it ends inside {what}")))?;
            parts = rest;
            Ok::<_, RegistryError>(part)
        };
        let roots = head
            .roots
            .iter()
            .map(|len| take(*len, &"a root"))
            .collect::<Result<_, _>>()?;
        let [timestamp, snapshot, targets] = head.metadata;
        let metadata = Some(Metadata {
            timestamp: take(timestamp, &"the timestamp")?,
            snapshot: take(snapshot, &"the snapshot")?,
            targets: take(targets, &"the targets")?,
        });
        let documents = head
            .documents
            .into_iter()
            .map(|(name, len)| {
                let part = take(len, &name)?;
                Ok((name, part))
            })
            .collect::<Result<_, RegistryError>>()?;
        if !parts.is_empty() {
            return Err(damaged(format!("{} bytes follow its end", parts.len())));
        }
        Ok(Self {
            checked: head.checked,
            etag: head.etag,
            roots,
            metadata,
            documents,
        })
    }

    /// Writes the container.
    pub(super) fn write(&self) -> Vec<u8> {
        let head = Head {
            checked: self.checked,
            etag: self.etag.clone(),
            roots: self.roots.iter().map(|part| part.len()).collect(),
            metadata: self.metadata.map_or([0; 3], |m| {
                [m.timestamp.len(), m.snapshot.len(), m.targets.len()]
            }),
            documents: self
                .documents
                .iter()
                .map(|(name, part)| (name.clone(), part.len()))
                .collect(),
        };
        #[expect(clippy::expect_used, reason = "numbers and strings always serialise")]
        let head = serde_json::to_vec(&head).expect("a head of numbers and strings is JSON");
        let parts: usize = self.parts().map(<[u8]>::len).sum();
        let mut line = String::new();
        #[expect(clippy::expect_used, reason = "writing to a String cannot fail")]
        writeln!(
            line,
            "{MAGIC} {FORMAT} {MIN_READER} {} {}",
            head.len(),
            Digest::of(&head)
        )
        .expect("memory is there");
        let mut out = Vec::with_capacity(line.len() + head.len() + 1 + parts);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(&head);
        out.push(b'\n');
        for part in self.parts() {
            out.extend_from_slice(part);
        }
        out
    }

    fn parts(&self) -> impl Iterator<Item = &'a [u8]> {
        self.roots
            .iter()
            .copied()
            .chain(
                self.metadata
                    .iter()
                    .flat_map(|m| [m.timestamp, m.snapshot, m.targets]),
            )
            .chain(self.documents.iter().map(|(_, part)| *part))
    }
}

fn split_line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    // a first line of ours is far shorter than 200 bytes
    let end = bytes.iter().take(200).position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at_checked(end)?;
    Some((std::str::from_utf8(line).ok()?, rest.get(1..)?))
}
