//! Reads everything that is stored, in order, without changing it.
//!
//! Segments are the truth: every answer is made from them by this one function. An index that
//! gives the same answers faster comes on top, and can be thrown away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::ledger::{Ledger, Run};
use super::store::{self, InstallationDoc, StoreError, Who};
use super::stream::{self, Stored};
use crate::audit::decode::Said;
use crate::audit::entry::{CallerContext, Context};
use crate::audit::frame::Blob;
use crate::audit::{self, ContextTable, Decoded, Frame};
use crate::batch::protocol::{Lane, Standing};
use crate::batch::{self, Kind};
use crate::clock::Now;
use crate::ids::{Digest, KeyId, StreamId};

/// One stored record, with what is known around it.
#[derive(Debug)]
pub struct Record<'a> {
    /// Which installation sent it.
    pub installation: &'a KeyId,
    /// What is known of that installation.
    pub doc: &'a InstallationDoc,
    /// Its stream.
    pub stream: StreamId,
    /// The frame, whole.
    pub frame: &'a Frame<'a>,
    /// What it says.
    pub decoded: &'a Decoded<'a>,
    /// What earlier records of the stream said.
    pub table: &'a ContextTable,
    /// The frame that began its segment, if it is stored: the wrapped data keys are in it.
    pub segment: Option<&'a [u8]>,
    /// The batch it came in.
    pub stored: &'a Stored,
    /// The lane it lies in.
    pub lane: Lane,
}

impl Record<'_> {
    /// Says how far the key is trusted: as it was when the batch came, or enrolled since.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.stored.standing {
            Standing::Unknown if !self.doc.bindings.is_empty() => Standing::Enrolled,
            standing => standing,
        }
    }

    /// Says whether the caller the record names is one its installation was enrolled for.
    /// Nothing for records without a caller.
    #[must_use]
    pub fn attested(&self) -> Option<bool> {
        let facts = self.table.facts(self.decoded)?;
        let Context::Caller(caller) = self.table.context(facts.caller)? else {
            return Some(false);
        };
        Some(
            self.doc
                .bindings
                .iter()
                .any(|bound| match (&bound.who, caller) {
                    (
                        Who::Agent { name, key },
                        CallerContext::Agent {
                            name: n, key: k, ..
                        },
                    ) => name.as_str() == n && key.as_str() == k,
                    (
                        Who::Person {
                            issuer, subject, ..
                        },
                        CallerContext::Person {
                            issuer: i,
                            subject: s,
                            ..
                        },
                    ) => issuer == i && subject == s,
                    _ => false,
                }),
        )
    }
}

/// A hole in a stream.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gap {
    /// The stream.
    pub stream: String,
    /// The first record missing.
    pub first_seq: u64,
    /// The last one known to be missing.
    pub last_seq: u64,
    /// Known because a later stream of the machine names them, not by what is stored around them.
    #[serde(default)]
    pub named: bool,
}

/// What is known of one installation.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// Its key's id.
    pub installation: KeyId,
    /// The device, as it names itself.
    pub machine_id: Option<String>,
    /// Whom it is bound to.
    pub bound_to: Vec<String>,
    /// How far its newest batch was trusted.
    pub standing: Standing,
    /// Its streams.
    pub streams: u64,
    /// Its records in main lanes.
    pub records: u64,
    /// When its newest batch came, in microseconds since the Unix epoch.
    pub received_us: u64,
    /// Records it said it still held, in its newest batch.
    pub behind: u64,
    /// Through when everything it recorded is stored, in microseconds since the Unix epoch;
    /// nothing where something is missing for good or was never complete.
    pub complete_us: Option<u64>,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// Batches that contradict what was stored.
    pub forks: u64,
    /// Records nobody could read.
    pub quarantined: u64,
    /// Places where the stored bytes are not as they were written.
    pub damaged: u64,
    /// Sealed payloads that were taken out of records before they were delivered.
    #[serde(default)]
    pub taken_away: u64,
    /// Records whose sealed part their device keeps: it was too large for the way.
    #[serde(default)]
    pub withheld: u64,
    /// Records that are not the ones a later stream of the machine saw, as `stream/seq`: the
    /// stream was written anew before it was delivered.
    #[serde(default)]
    pub rewritten: Vec<String>,
    /// Streams that were stored here once and are not here any more.
    #[serde(default)]
    pub lost_streams: Vec<String>,
    /// The installation was enrolled here once, and nothing of it is here any more.
    #[serde(default)]
    pub is_gone: bool,
    /// Bound to nobody, so that anybody may have made it up: counted apart.
    #[serde(default)]
    pub is_stranger: bool,
    /// Nothing was heard of it for [`SILENT_S`].
    #[serde(default)]
    pub is_silent: bool,
}

/// A device that nothing was heard of for so long is silent, in seconds: longer than a weekend
/// with a holiday.
pub const SILENT_S: u64 = 7 * 86_400;

impl Device {
    fn new(installation: KeyId) -> Self {
        Self {
            installation,
            machine_id: None,
            bound_to: Vec::new(),
            standing: Standing::Unknown,
            streams: 0,
            records: 0,
            received_us: 0,
            behind: 0,
            complete_us: None,
            gaps: Vec::new(),
            forks: 0,
            quarantined: 0,
            damaged: 0,
            taken_away: 0,
            withheld: 0,
            rewritten: Vec::new(),
            lost_streams: Vec::new(),
            is_gone: false,
            is_stranger: false,
            is_silent: false,
        }
    }

    /// Takes note of the time: who was not heard of for long is silent.
    pub fn judge_silence(&mut self, now: &Now) {
        let since_us = now.wall_us.saturating_sub(self.received_us);
        self.is_silent = !self.is_stranger && since_us > SILENT_S * 1_000_000;
    }
}

/// Which streams to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Only {
    /// This one only.
    pub stream: Option<StreamId>,
    /// Nothing after this, in microseconds since the Unix epoch: batches received long before a
    /// `since` are still read, since records refer to earlier ones.
    pub received_before_us: Option<u64>,
}

/// Reads all records, installation by installation, stream by stream, main lane first, in order.
///
/// # Errors
/// [`StoreError`] when a file cannot be read at all. Damage inside one is counted instead: the
/// rest is still shown.
pub fn scan(
    root: &Path,
    only: Only,
    each: &mut dyn FnMut(&Record<'_>),
) -> Result<Vec<Device>, StoreError> {
    let mut devices = Vec::new();
    // every chained lane of a stream, of whichever installation
    let mut held: BTreeMap<StreamId, Vec<Held>> = BTreeMap::new();
    let mut named: BTreeMap<(usize, StreamId), BTreeSet<Mark>> = BTreeMap::new();
    for (id, doc) in store::installation_docs(root)? {
        let mut device = Device {
            machine_id: doc.machine_id.clone(),
            bound_to: doc
                .bindings
                .iter()
                .map(|bound| bound.who.to_string())
                .collect(),
            // until a batch says how it was when that came
            standing: if doc.bindings.is_empty() {
                Standing::Unknown
            } else {
                Standing::Enrolled
            },
            is_stranger: doc.bindings.is_empty(),
            ..Device::new(id.clone())
        };
        for (stream, dir) in store::streams(root, &id)? {
            device.streams += 1;
            let bodies = Bodies::open(&dir)?;
            device.damaged += bodies.damaged;
            for sent in bodies.stored.values() {
                tally(&mut device, Lane::Body, sent, &doc);
                device.is_stranger &= sent.iter().all(|b| b.standing == Standing::Unknown);
            }
            for lane in [Lane::Main, Lane::Fork, Lane::Quarantine] {
                let lane_dir = stream::lane_dir(&dir, lane);
                let index = stream::index(&lane_dir).map_err(StoreError::io(&lane_dir))?;
                let damaged = index.troubles.iter().filter(|t| !t.torn).count();
                device.damaged += u64::try_from(damaged).unwrap_or(u64::MAX);
                tally(&mut device, lane, &index.batches, &doc);
                if lane == Lane::Main {
                    let ledger = ledger(&index.batches);
                    device
                        .gaps
                        .extend(ledger.gaps().map(|(first_seq, last_seq)| Gap {
                            stream: stream.to_string(),
                            first_seq,
                            last_seq,
                            named: false,
                        }));
                }
                if lane == Lane::Quarantine {
                    continue;
                }
                let shown = only.stream.is_none_or(|wanted| wanted == stream);
                let number = devices.len();
                let (mut taken_away, mut withheld) = (0, 0);
                device.damaged += records(
                    &index.batches,
                    &bodies,
                    stream,
                    &mut |frame, decoded, table, segment, stored| {
                        if let Said::Stream(header) = &decoded.said {
                            for previous in header.previous.iter().take(audit::encode::PREVIOUS) {
                                let marks = named.entry((number, previous.stream)).or_default();
                                // a machine has few heirs of one stream; a forger may say many
                                if marks.len() < MARKS {
                                    marks.insert((previous.at_least, previous.hash));
                                }
                            }
                        }
                        if matches!(frame.blob, Blob::Detached(_)) {
                            match stored.header.kind {
                                Kind::Withheld => withheld += 1,
                                _ => taken_away += 1,
                            }
                        }
                        let early = only
                            .received_before_us
                            .is_none_or(|us| stored.received_us <= us);
                        if shown && early {
                            each(&Record {
                                installation: &id,
                                doc: &doc,
                                stream,
                                frame,
                                decoded,
                                table,
                                segment,
                                stored,
                                lane,
                            });
                        }
                    },
                );
                device.taken_away += taken_away;
                device.withheld += withheld;
                // whose note is lost was known all the same when this came
                let batches = &index.batches;
                device.is_stranger &= batches.iter().all(|b| b.standing == Standing::Unknown);
                held.entry(stream).or_default().push(Held {
                    device: number,
                    lane,
                    batches: index.batches,
                });
            }
        }
        devices.push(device);
    }
    let strangers: Vec<bool> = devices.iter().map(|device| device.is_stranger).collect();
    let is_stranger = |device: usize| strangers.get(device).is_none_or(|is| *is);
    for ((number, stream), marks) in named {
        // what strangers name proves and contradicts nothing, and neither does what they hold
        if let Some(device) = devices.get_mut(number).filter(|d| !d.is_stranger) {
            let lanes = held.get(&stream).map(Vec::as_slice).unwrap_or_default();
            let lanes = lanes.iter().filter(|held| !is_stranger(held.device));
            inherited(device, stream, &marks, &lanes.collect::<Vec<_>>());
        }
    }
    vanished(root, &mut devices, &held)?;
    // those that count first
    devices.sort_by_key(|device| device.is_stranger);
    for device in &mut devices {
        let lacks = !(device.gaps.is_empty()
            && device.rewritten.is_empty()
            && device.lost_streams.is_empty());
        let bad = device.damaged > 0 || device.quarantined > 0 || device.taken_away > 0;
        if lacks || bad {
            device.complete_us = None;
        }
    }
    Ok(devices)
}

/// What a later stream of the machine saw of an earlier one: a record and the chain there.
type Mark = (u64, Digest);
/// Different ones of one stream that are looked at.
const MARKS: usize = 64;

/// A chained lane of a stream that is stored.
struct Held {
    /// Of which device, by its place.
    device: usize,
    lane: Lane,
    batches: Vec<Stored>,
}

/// Finds installations and streams that were here once: the files beside the journals name them.
fn vanished(
    root: &Path,
    devices: &mut Vec<Device>,
    held: &BTreeMap<StreamId, Vec<Held>>,
) -> Result<(), StoreError> {
    for (id, streams) in store::list::named(root)? {
        let place = devices.iter().position(|device| device.installation == id);
        let (number, device) = match place.and_then(|at| Some((at, devices.get_mut(at)?))) {
            Some(found) => found,
            None => {
                let number = devices.len();
                devices.push(Device {
                    is_gone: true,
                    ..Device::new(id)
                });
                match devices.last_mut() {
                    Some(device) => (number, device),
                    None => continue,
                }
            }
        };
        for stream in streams {
            let lanes = held.get(&stream).map(Vec::as_slice).unwrap_or_default();
            let is_here = lanes.iter().any(|held| {
                held.device == number && held.lane == Lane::Main && !held.batches.is_empty()
            });
            let stream = stream.to_string();
            let is_told = device
                .gaps
                .iter()
                .any(|gap| gap.stream == stream && gap.named && gap.first_seq == 1);
            if !is_here && !is_told {
                device.lost_streams.push(stream);
            }
        }
    }
    Ok(())
}

/// Compares what is stored of a stream with what later streams of its machine saw of it: missing
/// records, unless the device says that it still holds some, and records that are others now.
fn inherited(device: &mut Device, stream: StreamId, marks: &BTreeSet<Mark>, lanes: &[&Held]) {
    let main = lanes.iter().filter(|held| held.lane == Lane::Main);
    let last = main.flat_map(|held| &held.batches);
    let last = last.map(|stored| stored.header.last_seq).max().unwrap_or(0);
    let at_least = marks.iter().map(|(seq, _)| *seq).max().unwrap_or(0);
    if last < at_least && device.behind == 0 {
        let gap = Gap {
            stream: stream.to_string(),
            first_seq: last + 1,
            last_seq: at_least,
            named: true,
        };
        if !device.gaps.contains(&gap) {
            device.gaps.push(gap);
        }
    }
    for (seq, hash) in marks {
        let stored = lanes.iter();
        let stored = stored.filter_map(|held| stream::hash_in(&held.batches, *seq));
        let stored: Vec<Digest> = stored.collect();
        if !stored.is_empty() && !stored.contains(hash) {
            device.rewritten.push(format!("{stream}/{seq}"));
        }
    }
}

/// The runs that a lane's batches make.
#[must_use]
pub fn ledger(batches: &[Stored]) -> Ledger {
    let mut ledger = Ledger::default();
    for stored in batches {
        ledger.append(Run::of(&stored.header));
    }
    ledger
}

fn tally(device: &mut Device, lane: Lane, batches: &[Stored], doc: &InstallationDoc) {
    for stored in batches {
        let header = &stored.header;
        match lane {
            Lane::Fork => device.forks += 1,
            Lane::Main => device.records += header.last_seq - header.first_seq + 1,
            Lane::Quarantine => device.quarantined += 1,
            Lane::Body => {}
        }
        if stored.received_us >= device.received_us {
            device.received_us = stored.received_us;
            device.behind = header.remaining;
            device.standing = match stored.standing {
                Standing::Unknown if !doc.bindings.is_empty() => Standing::Enrolled,
                standing => standing,
            };
        }
        if header.remaining == 0 {
            // the earlier of two clocks: one that runs ahead must not promise the future
            let through = header.sent_us.min(stored.received_us);
            device.complete_us = device.complete_us.max(Some(through));
        }
    }
}

/// The sealed parts of a stream that came after their records.
struct Bodies {
    stored: BTreeMap<u64, Vec<Stored>>,
    damaged: u64,
}

impl Bodies {
    fn open(stream: &Path) -> Result<Self, StoreError> {
        let dir = stream::lane_dir(stream, Lane::Body);
        let index = stream::index(&dir).map_err(StoreError::io(&dir))?;
        let damaged = index.troubles.iter().filter(|t| !t.torn).count();
        let mut stored: BTreeMap<u64, Vec<Stored>> = BTreeMap::new();
        for one in index.batches {
            stored.entry(one.header.first_seq).or_default().push(one);
        }
        Ok(Self {
            stored,
            damaged: u64::try_from(damaged).unwrap_or(u64::MAX),
        })
    }

    /// The record with its sealed part, if it lacks one and that came: the one whose digest stands
    /// in its place.
    fn of(&self, frame: &Frame<'_>) -> Option<Vec<u8>> {
        let Blob::Detached(digest) = frame.blob else {
            return None;
        };
        self.stored.get(&frame.seq)?.iter().find_map(|stored| {
            let bytes = batch::open(&stored.read().ok()?.batch)
                .ok()?
                .frames()
                .ok()?;
            let whole = audit::frames(&bytes).next()?.ok()?;
            let Blob::Present(blob) = whole.blob else {
                return None;
            };
            let fits = whole.meta == frame.meta
                && (whole.kind, whole.seq, whole.hash) == (frame.kind, frame.seq, frame.hash)
                && Digest::of(blob) == digest;
            fits.then_some(bytes)
        })
    }
}

type Visit<'v> = dyn FnMut(&Frame<'_>, &Decoded<'_>, &ContextTable, Option<&[u8]>, &Stored) + 'v;

/// Reads the records of one lane in order; returns how many batches could not be read.
fn records(batches: &[Stored], bodies: &Bodies, stream: StreamId, visit: &mut Visit<'_>) -> u64 {
    let mut table = ContextTable::new(stream);
    let mut segment: Option<Vec<u8>> = None;
    let mut damaged = 0;
    for stored in batches {
        let frames = stored
            .read()
            .ok()
            .and_then(|entry| batch::open(&entry.batch).ok()?.frames().ok());
        let Some(frames) = frames else {
            damaged += 1;
            continue;
        };
        for frame in audit::frames(&frames) {
            let Ok(frame) = frame else {
                damaged += 1;
                break;
            };
            // one whose sealed part came later is whole again
            let body = bodies.of(&frame);
            let frame = body
                .as_deref()
                .and_then(|bytes| audit::frames(bytes).next()?.ok())
                .unwrap_or(frame);
            let Ok(decoded) = audit::decode(&frame) else {
                damaged += 1;
                continue;
            };
            if let Said::Segment(_) = decoded.said {
                segment = Some(frame.bytes.to_vec());
            }
            table.observe(&decoded);
            visit(&frame, &decoded, &table, segment.as_deref(), stored);
        }
    }
    damaged
}

/// How far the stored record reaches, over all devices.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Completeness {
    /// Through when, in RFC 3339; nothing when no device was ever complete.
    pub complete_through: Option<String>,
    /// For how many devices.
    pub devices_complete: usize,
    /// Of how many.
    pub devices: usize,
    /// Installations bound to nobody, which count for none of the above.
    #[serde(default)]
    pub strangers: usize,
}

/// Devices heard from within this of the newest one set the time of "complete through".
const HEARD_US: u64 = 24 * 3600 * 1_000_000;

/// Sums up: the earliest watermark among the devices that were complete within a day of the
/// newest, and how many devices reach it. The others are silent, behind, or miss something.
#[must_use]
pub fn completeness(devices: &[Device]) -> Completeness {
    let known = || devices.iter().filter(|device| !device.is_stranger);
    let marks = || known().filter_map(|device| device.complete_us);
    let newest = marks().max();
    let through = newest.and_then(|newest| {
        marks()
            .filter(|mark| newest.saturating_sub(*mark) <= HEARD_US)
            .min()
    });
    Completeness {
        complete_through: through.map(|us| crate::clock::Utc(us / 1_000_000).to_string()),
        devices_complete: through
            .map_or(0, |through| marks().filter(|mark| *mark >= through).count()),
        devices: known().count(),
        strangers: devices.len() - known().count(),
    }
}

impl std::fmt::Display for Completeness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, m) = (self.devices_complete, self.devices);
        match &self.complete_through {
            Some(through) => write!(f, "complete through {through} for {n} of {m} devices"),
            None => write!(f, "complete through no time yet: {n} of {m} devices"),
        }?;
        match self.strangers {
            0 => Ok(()),
            n => write!(f, "; not counted: {n} that nobody enrolled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(received_s: u64, is_stranger: bool) -> Device {
        Device {
            received_us: received_s * 1_000_000,
            complete_us: Some(received_s * 1_000_000),
            is_stranger,
            ..Device::new(Digest::of(&received_s.to_be_bytes()).into())
        }
    }

    #[test]
    fn a_device_that_nothing_was_heard_of_for_long_is_silent() {
        let now = Now {
            wall_us: 1_795_238_400_000_000,
            mono_us: 0,
        };
        let silent = |ago_s: u64, is_stranger| {
            let mut device = device(now.unix_s() - ago_s, is_stranger);
            device.judge_silence(&now);
            device.is_silent
        };
        assert!(!silent(SILENT_S, false));
        assert!(silent(SILENT_S + 1, false));
        assert!(!silent(SILENT_S + 1, true), "who made it up is not missed");
    }

    #[test]
    fn strangers_are_in_no_number_of_the_others() {
        let known = [device(1_795_238_400, false), device(1_795_238_500, false)];
        let before = completeness(&known);
        let [a, b] = known;
        let with = completeness(&[a, b, device(1_795_230_000, true)]);
        assert_eq!(with.strangers, 1);
        assert_eq!(
            Completeness {
                strangers: 0,
                ..with
            },
            before
        );
        assert_eq!((before.devices, before.devices_complete), (2, 2));
    }
}
