//! What the metadata of each role says, before it is signed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::admin::TargetSet;
use crate::ids::Digest;
use crate::limits;
use crate::registry::metadata::Expiry;

/// The version of the TUF specification that the metadata follows.
pub(in crate::admin) const SPEC_VERSION: &str = "1.0.34";

/// The documents by name, with their lengths and digests.
pub(super) fn entries(set: &TargetSet) -> BTreeMap<&str, (u64, Digest)> {
    let files = set.files.iter();
    files
        .map(|(name, bytes)| (name.as_str(), (bytes.len() as u64, Digest::of(bytes))))
        .collect()
}

pub(super) fn targets_content(
    version: u64,
    entries: &BTreeMap<&str, (u64, Digest)>,
    now_s: u64,
) -> Value {
    let list: serde_json::Map<String, Value> = entries
        .iter()
        .map(|(name, (length, digest))| {
            let entry = json!({ "length": length, "hashes": { "sha256": digest } });
            ((*name).to_owned(), entry)
        })
        .collect();
    json!({
        "_type": "targets",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": Expiry(now_s + limits::TARGETS_LIFE_S).text(),
        "targets": list,
    })
}

pub(super) fn snapshot_content(version: u64, (targets, bytes): (u64, &[u8]), now_s: u64) -> Value {
    json!({
        "_type": "snapshot",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": Expiry(now_s + limits::SNAPSHOT_LIFE_S).text(),
        "meta": { "targets.json": file_entry(targets, bytes) },
    })
}

pub(super) fn timestamp_content(
    version: u64,
    (snapshot, bytes): (u64, &[u8]),
    now_s: u64,
) -> Value {
    json!({
        "_type": "timestamp",
        "spec_version": SPEC_VERSION,
        "version": version,
        "expires": Expiry(now_s + limits::TIMESTAMP_LIFE_S).text(),
        "meta": { "snapshot.json": file_entry(snapshot, bytes) },
    })
}

fn file_entry(version: u64, bytes: &[u8]) -> Value {
    json!({
        "version": version,
        "length": bytes.len(),
        "hashes": { "sha256": Digest::of(bytes) },
    })
}
