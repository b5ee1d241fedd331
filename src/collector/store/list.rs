//! `log/streams.jsonl`: which enrolled installations and streams there were.
//!
//! One JSON object a line, appended when an installation enrols and when the first batch of a
//! stream is durable. It is not needed to read the record: it says what should be there, so that
//! a directory that is gone is missed. Losing it costs that; whoever can write both the list and
//! the directories can make a stream vanish unseen until its machine speaks again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{InstallationDoc, StoreError, streams};
use crate::clock::{Now, Utc};
use crate::collector::files;
use crate::ids::{KeyId, StreamId};

fn path(root: &Path) -> PathBuf {
    root.join("log").join("streams.jsonl")
}

fn line(id: &KeyId, stream: Option<StreamId>, now: Option<&Now>) -> String {
    json!({
        "time": now.map(|now| Utc(now.unix_s()).to_string()),
        "installation": id,
        "stream": stream.map(|stream| stream.to_string()),
    })
    .to_string()
}

/// Begins the list of a directory that has none, with what is there.
pub(super) fn begin(
    root: &Path,
    known: &BTreeMap<KeyId, InstallationDoc>,
) -> Result<(), StoreError> {
    let path = path(root);
    if path.exists() {
        return Ok(());
    }
    let mut text = String::new();
    for (id, doc) in known {
        if doc.bindings.is_empty() {
            continue;
        }
        let streams = streams(root, id)?
            .into_iter()
            .map(|(stream, _)| Some(stream));
        for stream in std::iter::once(None).chain(streams) {
            text.push_str(&line(id, stream, None));
            text.push('\n');
        }
    }
    files::replace(&path, text.as_bytes()).map_err(StoreError::io(&path))
}

/// Adds an installation, or a stream of one; durable when it returns.
pub(super) fn add(
    root: &Path,
    id: &KeyId,
    stream: Option<StreamId>,
    now: &Now,
) -> Result<(), StoreError> {
    let path = path(root);
    files::append_line(&path, &line(id, stream, Some(now))).map_err(StoreError::io(&path))
}

/// Installations that should be there, each with the streams of it that are named: from the list,
/// and from the alerts that only an enrolled installation raises.
///
/// # Errors
/// [`StoreError::Io`]. Lines that cannot be read are passed over: other programs may write there.
pub fn named(root: &Path) -> Result<BTreeMap<KeyId, BTreeSet<StreamId>>, StoreError> {
    let mut named: BTreeMap<KeyId, BTreeSet<StreamId>> = BTreeMap::new();
    each_line(&path(root), &mut |line| {
        if let Some(id) = key(line) {
            let streams = named.entry(id).or_default();
            streams.extend(line.get("stream").and_then(stream));
        }
    })?;
    each_line(&root.join("log").join("alerts.jsonl"), &mut |line| {
        let kind = line.get("kind").and_then(Value::as_str).unwrap_or_default();
        if ["further-installation", "further-person"].contains(&kind)
            && let Some(id) = key(line)
        {
            named.entry(id).or_default();
        }
    })?;
    Ok(named)
}

/// Streams of which records were unsealed.
///
/// # Errors
/// [`StoreError::Io`], as [`named`].
pub fn unsealed(root: &Path) -> Result<BTreeSet<StreamId>, StoreError> {
    let mut found = BTreeSet::new();
    each_line(&root.join("log").join("admin.jsonl"), &mut |line| {
        let events = line.get("events").and_then(Value::as_array);
        let events = events.into_iter().flatten().filter_map(Value::as_str);
        let streams = events.filter_map(|event| event.split_once('/'));
        found.extend(streams.filter_map(|(stream, _)| StreamId::parse(stream).ok()));
    })?;
    Ok(found)
}

fn key(line: &Value) -> Option<KeyId> {
    KeyId::parse(line.get("installation")?.as_str()?).ok()
}

fn stream(value: &Value) -> Option<StreamId> {
    StreamId::parse(value.as_str()?).ok()
}

fn each_line(path: &Path, each: &mut dyn FnMut(&Value)) -> Result<(), StoreError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io(path)(error)),
    };
    for line in io::BufReader::new(file).split(b'\n') {
        let line = line.map_err(StoreError::io(path))?;
        if let Ok(line) = serde_json::from_slice(&line) {
            each(&line);
        }
    }
    Ok(())
}
