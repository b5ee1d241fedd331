//! The last streams that were delivered and deleted, and where each of them ended.
//!
//! ```text
//! <dir>/delivered    {"format":1,"min_reader":1,"streams":[{"stream":"…","records":N,"hash":"…"}]}
//! ```
//!
//! The next stream names them beside those that still lie here. So a delivered stream that
//! vanishes at the collector, or a whole installation, is missed at the next contact. A stream
//! leaves the list once one that names its end was delivered itself: the collector holds the
//! link then.
//!
//! One process writes the file, the one that delivers; it is replaced as a whole.
//!
//! What losing it costs: the streams in it are named by no later one. What an attacker who can
//! write it gains: links left out, or false ones, which the collector reports as missing streams
//! of this device. An older copy from a backup names true ends of older streams.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::replace;
use crate::audit::encode::{PREVIOUS, Previous};
use crate::ids::{Digest, StreamId};

/// The file below the spool's directory.
pub(super) const FILE: &str = "delivered";
/// The format that this code writes, and the newest it reads.
const FORMAT: u32 = 1;
/// Most that is read of it, in bytes: far above [`PREVIOUS`] streams.
const BYTES: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    min_reader: u32,
    streams: Vec<One>,
}

#[derive(Debug, Serialize, Deserialize)]
struct One {
    stream: String,
    records: u64,
    hash: Digest,
}

/// The streams in the list, newest first; none where it cannot be read.
pub(super) fn read(disk: &dyn Disk, spool: &Path) -> Vec<Previous> {
    let text = disk.read(&spool.join(FILE), 0, BYTES).unwrap_or_default();
    let list: Option<List> = serde_json::from_slice(&text).ok();
    let list = list.filter(|list| list.min_reader <= FORMAT);
    let streams = list.map(|list| list.streams).unwrap_or_default();
    let mut streams: Vec<Previous> = streams
        .into_iter()
        .filter_map(|one| {
            Some(Previous {
                stream: StreamId::parse(&one.stream).ok()?,
                at_least: one.records,
                hash: one.hash,
            })
        })
        .collect();
    streams.sort_unstable_by_key(|one| std::cmp::Reverse(one.stream));
    streams.truncate(PREVIOUS);
    streams
}

/// Puts a delivered stream into the list before it is deleted, and takes out those whose end it
/// names. Durable on return.
///
/// A crash after this leaves the stream both here and in its directory; the next stream names it
/// once, as far as either says.
pub(super) fn remember(
    disk: &dyn Disk,
    spool: &Path,
    ended: Previous,
    named: &[(StreamId, u64)],
) -> io::Result<()> {
    let mut streams = read(disk, spool);
    if streams.contains(&ended) {
        return Ok(());
    }
    streams.retain(|one| {
        let linked =
            |(stream, upto): &(StreamId, u64)| *stream == one.stream && *upto >= one.at_least;
        one.stream != ended.stream && !named.iter().any(linked)
    });
    streams.push(ended);
    streams.sort_unstable_by_key(|one| std::cmp::Reverse(one.stream));
    streams.truncate(PREVIOUS);
    let list = List {
        format: FORMAT,
        min_reader: FORMAT,
        streams: streams
            .iter()
            .map(|one| One {
                stream: one.stream.to_string(),
                records: one.at_least,
                hash: one.hash,
            })
            .collect(),
    };
    let mut text = serde_json::to_vec(&list)?;
    text.push(b'\n');
    replace(disk, &spool.join(FILE), &text)
}

/// Adds the delivered streams to those that lie here, newest first, as many as one stream names.
pub(super) fn join(disk: &dyn Disk, spool: &Path, mut here: Vec<Previous>) -> Vec<Previous> {
    for gone in read(disk, spool) {
        let full = here.len() >= PREVIOUS;
        match here.iter_mut().find(|one| one.stream == gone.stream) {
            // delivered, and about to be deleted
            Some(one) if one.at_least < gone.at_least => *one = gone,
            Some(_) => {}
            None if full => {}
            None => here.push(gone),
        }
    }
    here.sort_unstable_by_key(|one| std::cmp::Reverse(one.stream));
    here
}
