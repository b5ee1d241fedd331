//! What was called from this machine, as its own records say without any key: who, what, how it
//! was decided and how it ended. Never an argument or a result.
//!
//! ```text
//!   spool/<stream>/*.seg   records that are still here, delivered or not
//!   ship/told.jsonl        the calls of segments that were delivered and removed: one a line
//! ```
//!
//! `told.jsonl` is written by whoever delivers, mode 0600, and cut to its newer half at 1 MiB.
//! What losing it costs: `mcpshim audit show` begins later. What an attacker who can write it
//! gains: that list lies to the person at this machine; nothing is decided by it, and what the
//! collector has does not change. Whoever can read it sees which tools were called when.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use mcpshim::audit::view::{ContextTable, json};
use mcpshim::audit::{decode, frames};
use mcpshim::config::Config;
use mcpshim::files;
use mcpshim::ids::StreamId;
use mcpshim::ship;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file of what was delivered is cut when it is larger, in bytes.
const TOLD_BYTES: u64 = 1 << 20;
/// So many segments are held open while delivered ones are removed.
const HELD: usize = 64;
/// A segment that is larger is not one of ours, in bytes.
const SEGMENT_BYTES: u64 = 64 << 20;

/// One call, or a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// Its event in the record: stream and number.
    pub(crate) event: String,
    pub(crate) time: String,
    /// The person or agent; empty for nobody.
    pub(crate) who: String,
    pub(crate) client: String,
    pub(crate) server: String,
    /// `server/tool`, or the prompt, the URI, the name that was asked for.
    pub(crate) what: String,
    /// `allow` or `deny`.
    pub(crate) decision: String,
    /// The denial's code, or how the answer ended; `unknown` while there is none.
    pub(crate) ended: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) took_us: Option<u64>,
    pub(crate) role: String,
    pub(crate) rule: String,
    pub(crate) rule_source: String,
}

fn told(state_dir: &Path) -> PathBuf {
    ship::dir(state_dir).join("told.jsonl")
}

/// Every call this machine still knows, oldest first.
pub(crate) fn calls(config: &Config) -> io::Result<Vec<Call>> {
    let mut found = BTreeMap::new();
    let kept = match std::fs::read(told(&config.state_dir)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    for line in kept.split(|byte| *byte == b'\n') {
        // a line that was cut by a crash is left out
        if let Ok(call) = serde_json::from_slice::<Call>(line) {
            found.insert((call.time.clone(), call.event.clone()), call);
        }
    }
    for (stream, paths) in segments(&ship::spool_dir(&config.state_dir))? {
        let mut bytes = Vec::new();
        for path in paths {
            match File::open(path) {
                Ok(file) => bytes.push(read(file)?),
                // delivered and removed while we looked
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for call in summed(stream, &bytes) {
            found.insert((call.time.clone(), call.event.clone()), call);
        }
    }
    Ok(found.into_values().collect())
}

/// The segments of each stream, in their order.
fn segments(dir: &Path) -> io::Result<Vec<(StreamId, Vec<PathBuf>)>> {
    let mut found = Vec::new();
    for (stream, dir) in crate::audit::stream_dirs(dir)? {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "seg"))
            .collect();
        paths.sort_by_key(|path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            stem.and_then(|stem| stem.parse::<u64>().ok())
        });
        found.push((stream, paths));
    }
    Ok(found)
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(SEGMENT_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The calls of segments of one stream. What cannot be read is left out: whether records hold is
/// for `mcpshim audit check` to say.
fn summed(stream: StreamId, segments: &[Vec<u8>]) -> Vec<Call> {
    let mut table = ContextTable::new(stream);
    let mut calls: Vec<Call> = Vec::new();
    for bytes in segments {
        for frame in frames(bytes).map_while(Result::ok) {
            let Ok(record) = decode(&frame) else { continue };
            table.observe(&record);
            let view = json(&record, &table);
            let text = |name: &str| view.get(name).and_then(Value::as_str).unwrap_or_default();
            match text("phase") {
                "intent" | "denial" => {
                    let any = |names: &[&str]| {
                        let mut texts = names.iter().map(|name| text(name));
                        texts
                            .find(|text| !text.is_empty())
                            .unwrap_or_default()
                            .to_owned()
                    };
                    calls.push(Call {
                        event: text("event").to_owned(),
                        time: text("time").to_owned(),
                        who: any(&["person", "agent"]),
                        client: text("client").to_owned(),
                        server: text("server").to_owned(),
                        what: any(&["tool", "prompt", "name", "target"]),
                        decision: text("decision").to_owned(),
                        ended: match text("phase") {
                            "denial" => text("code").to_owned(),
                            _ => "unknown".to_owned(),
                        },
                        took_us: None,
                        role: text("role").to_owned(),
                        rule: text("rule").to_owned(),
                        rule_source: text("rule_source").to_owned(),
                    });
                }
                "outcome" => {
                    let Some(call) = view.get("call").and_then(Value::as_u64) else {
                        continue;
                    };
                    let event = format!("{stream}/{call}");
                    if let Some(call) = calls.iter_mut().rfind(|call| call.event == event) {
                        text("end").clone_into(&mut call.ended);
                        call.took_us = view.get("took_us").and_then(Value::as_u64);
                    }
                }
                _ => {}
            }
        }
    }
    calls
}

/// Segments that may be removed now, held open so that they can be read after they are gone.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<(StreamId, Vec<(PathBuf, File)>)>);

impl Held {
    pub(crate) fn open(state_dir: &Path) -> Self {
        let (mut held, mut left) = (Vec::new(), HELD);
        for (stream, paths) in segments(&ship::spool_dir(state_dir)).unwrap_or_default() {
            let open = |path: PathBuf| Some((path.clone(), File::open(path).ok()?));
            let files: Vec<_> = paths.into_iter().take(left).filter_map(open).collect();
            left = left.saturating_sub(files.len());
            held.push((stream, files));
        }
        Self(held)
    }

    /// Keeps the calls of those that are gone. Not synced: a crash loses lines of a list that
    /// only informs.
    pub(crate) fn keep(self, state_dir: &Path) -> io::Result<()> {
        let mut lines = Vec::new();
        for (stream, files) in self.0 {
            let gone = files.into_iter().filter(|(path, _)| !path.exists());
            let bytes: Vec<Vec<u8>> = gone.filter_map(|(_, file)| read(file).ok()).collect();
            for call in summed(stream, &bytes) {
                serde_json::to_writer(&mut lines, &call)?;
                lines.push(b'\n');
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        let path = told(state_dir);
        let mut file = files::private().create(true).append(true).open(&path)?;
        file.write_all(&lines)?;
        if file.metadata()?.len() <= TOLD_BYTES {
            return Ok(());
        }
        let all = std::fs::read(&path)?;
        let half = all
            .len()
            .saturating_sub(usize::try_from(TOLD_BYTES / 2).unwrap_or(0));
        let newer = all.get(half..).unwrap_or_default();
        let from = newer
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let draft = path.with_extension("draft");
        let mut file = files::private().create(true).truncate(true).open(&draft)?;
        file.write_all(newer.get(from..).unwrap_or_default())?;
        drop(file);
        std::fs::rename(draft, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_is_kept_within_its_bound() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(ship::dir(state.path())).unwrap();
        let path = told(state.path());
        let line = "{\"event\":\"x\"}\n";
        std::fs::write(&path, line.repeat(100_000)).unwrap();
        // nothing is gone: nothing is written
        Held::default().keep(state.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap().len(), line.len() * 100_000);
        assert_eq!(summed(StreamId([7; 16]), &[b"no record".to_vec()]), []);
    }
}
