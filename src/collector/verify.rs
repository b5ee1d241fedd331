//! Hashes everything that is stored again: nothing that was noted before is believed.
//!
//! Owns what counts as intact. What strangers send is told apart: whoever makes up a key can make
//! gaps and contradictions of their own, and those say nothing about anybody else's record.

use std::collections::BTreeSet;
use std::path::Path;

use super::scan::{self, Only};
use super::store::{self, StoreError};
use super::stream::{self, Stored, Trouble};
use crate::audit;
use crate::audit::frame::Blob;
use crate::batch::protocol::{Lane, Standing};
use crate::batch::{self, Kind};
use crate::ids::{KeyId, StreamId};

/// What is wrong with the stored bytes of a stream, in order; see [`check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The first record it concerns, as `stream/seq`.
    pub event: String,
    /// What is wrong.
    pub sentence: String,
    /// Only the end of a write that was never acknowledged.
    pub harmless: bool,
    /// It concerns an installation that is bound to nobody: whoever made its key up could make
    /// this up as well.
    pub is_strangers: bool,
}

/// What was hashed, and what does not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records that are intact.
    pub records: u64,
    /// Records of strangers that are intact.
    pub stranger_records: u64,
    /// Installations that are bound to nobody.
    pub strangers: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// The findings that count.
    pub fn bad(&self) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(|finding| !finding.harmless && !finding.is_strangers)
    }
}

/// Hashes everything again: entries, signatures, bodies, chains and how they join.
///
/// What strangers send is checked as well and told apart. Bytes that are not as this collector
/// wrote them count whoever sent them.
///
/// # Errors
/// [`StoreError`] when a file cannot be read at all.
pub fn check(root: &Path) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    let mut here = BTreeSet::new();
    for (id, doc) in store::installation_docs(root)? {
        let mut lanes = Vec::new();
        for (stream, dir) in store::streams(root, &id)? {
            here.insert(stream);
            for lane in [Lane::Main, Lane::Fork, Lane::Quarantine, Lane::Body] {
                let lane_dir = stream::lane_dir(&dir, lane);
                let index = stream::index(&lane_dir).map_err(StoreError::io(&lane_dir))?;
                lanes.push((stream, lane, index));
            }
        }
        let mut batches = lanes.iter().flat_map(|(_, _, index)| &index.batches);
        let is_stranger =
            doc.bindings.is_empty() && batches.all(|b| b.standing == Standing::Unknown);
        checked.strangers += u64::from(is_stranger);
        for (stream, lane, index) in lanes {
            let troubles = index.troubles.iter();
            let troubles = troubles.map(|t| trouble(t, stream, &index.batches));
            checked.findings.extend(troubles);
            for stored in &index.batches {
                match check_batch(stored, &id, stream, lane) {
                    // the record itself was counted where it stands
                    Ok(_) if lane == Lane::Body => {}
                    Ok(count) if is_stranger => checked.stranger_records += count,
                    Ok(count) => checked.records += count,
                    Err((seq, sentence)) => {
                        let finding = bad(format!("{stream}/{seq}"), sentence);
                        checked.findings.push(finding);
                    }
                }
            }
            if lane == Lane::Main {
                let joints = joints(stream, &index.batches).into_iter();
                checked.findings.extend(joints.map(|finding| Finding {
                    is_strangers: is_stranger,
                    ..finding
                }));
            }
        }
    }
    checked.findings.extend(across(root)?);
    for stream in store::list::unsealed(root)? {
        if !here.contains(&stream) {
            let sentence = "the stream is gone: log/admin.jsonl says that it was unsealed";
            let event = format!("{stream}/1");
            checked.findings.push(bad(event, sentence.to_owned()));
        }
    }
    Ok(checked)
}

fn bad(event: String, sentence: String) -> Finding {
    Finding {
        event,
        sentence,
        harmless: false,
        is_strangers: false,
    }
}

/// What no single stream shows: streams that later ones of the machine name and that are not
/// here or are others, records without their payloads, and what was here once.
fn across(root: &Path) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    let devices = scan::scan(root, Only::default(), &mut |record| {
        let withheld = record.stored.header.kind == Kind::Withheld;
        if matches!(record.frame.blob, Blob::Detached(_)) && !withheld {
            let event = format!("{}/{}", record.stream, record.frame.seq);
            let sentence = "its sealed payload was taken out before it was delivered";
            findings.push(Finding {
                is_strangers: record.standing() == Standing::Unknown,
                ..bad(event, sentence.to_owned())
            });
        }
    })?;
    for device in devices {
        let mut found = |event: String, sentence: String| {
            findings.push(Finding {
                is_strangers: device.is_stranger,
                ..bad(event, sentence)
            });
        };
        if device.is_gone {
            let sentence = "the installation is gone: files in log/ say that it was enrolled";
            found(device.installation.to_string(), sentence.to_owned());
            continue;
        }
        for event in device.rewritten {
            let sentence = "a later stream of the machine saw another record there";
            found(event, sentence.to_owned());
        }
        for gap in device.gaps.into_iter().filter(|gap| gap.named) {
            let event = format!("{}/{}", gap.stream, gap.first_seq);
            let sentence = format!(
                "records {} to {} are missing: a later stream of the machine saw them",
                gap.first_seq, gap.last_seq
            );
            found(event, sentence);
        }
        for stream in &device.lost_streams {
            let sentence = "the stream is gone: log/streams.jsonl says that it was here";
            found(format!("{stream}/1"), sentence.to_owned());
        }
    }
    Ok(findings)
}

fn trouble(trouble: &Trouble, stream: StreamId, batches: &[Stored]) -> Finding {
    // the record that should lie there: the one after the last whole batch before it
    let before = batches
        .iter()
        .filter(|stored| stored.journal == trouble.journal && stored.offset < trouble.offset)
        .map(|stored| stored.header.last_seq)
        .max();
    Finding {
        event: format!("{stream}/{}", before.unwrap_or(0).saturating_add(1)),
        sentence: format!("{}: {}", trouble.journal.display(), trouble.sentence),
        harmless: trouble.torn,
        is_strangers: false,
    }
}

fn check_batch(
    stored: &Stored,
    id: &KeyId,
    stream: StreamId,
    lane: Lane,
) -> Result<u64, (u64, String)> {
    let header = &stored.header;
    let first = header.first_seq;
    let at_first = |sentence: String| (first, sentence);
    let entry = stored.read().map_err(|error| at_first(error.to_string()))?;
    let batch = batch::open(&entry.batch).map_err(|error| at_first(error.to_string()))?;
    if batch.header.installation.id() != *id || batch.header.stream != stream {
        return Err(at_first(
            "the batch lies where it does not belong".to_owned(),
        ));
    }
    let frames = batch
        .frames()
        .map_err(|error| at_first(error.to_string()))?;
    if lane == Lane::Quarantine {
        return Ok(0);
    }
    let tail = audit::verify_chain(header.prev_hash, &frames).map_err(|error| {
        let good = audit::frames(&frames).map_while(Result::ok).count();
        let seq = match error {
            audit::ChainError::Hash { seq, .. } => seq,
            audit::ChainError::Seq { expected, .. } => expected,
            audit::ChainError::Empty | audit::ChainError::Frame(_) => {
                first.saturating_add(u64::try_from(good).unwrap_or(u64::MAX))
            }
        };
        (seq, error.to_string())
    })?;
    if (tail.first_seq, tail.last_seq, tail.last_hash)
        != (header.first_seq, header.last_seq, header.last_hash)
    {
        return Err(at_first(
            "the header names other records than the batch holds".to_owned(),
        ));
    }
    Ok(tail.records)
}

/// Gaps, and neighbours that do not join although no number is missing between them.
fn joints(stream: StreamId, batches: &[Stored]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut last, mut hash) = (0, audit::frame::GENESIS);
    for stored in batches {
        let header = &stored.header;
        let sentence = if header.first_seq <= last {
            Some("the record is stored twice".to_owned())
        } else if header.first_seq > last + 1 {
            Some(format!(
                "records {} to {} are missing",
                last + 1,
                header.first_seq - 1
            ))
        } else if header.prev_hash != hash {
            Some("the record does not follow the one before it".to_owned())
        } else {
            None
        };
        if let Some(sentence) = sentence {
            let seq = header.first_seq.min(last.saturating_add(1));
            findings.push(bad(format!("{stream}/{seq}"), sentence));
        }
        (last, hash) = (header.last_seq, header.last_hash);
    }
    findings
}
