//! Questions and answers: filters over everything stored, newest last.
//!
//! Records of strangers are found like others and marked. They have a limit of their own: whoever
//! makes up keys cannot push an honest record out of an answer.

pub mod filter;
pub mod names;
pub mod sealed;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::filter::{BadFilter, Filter};
use self::filter::{Candidate, Compiled};
use self::names::Names;
pub use self::names::{RegistryNames, UnknownName};
pub use self::sealed::{Content, OpenError, Sealed, open, sealed};
use super::scan::{self, Completeness, Device, Only, Record};
use super::store::StoreError;
use crate::audit;
use crate::audit::decode::Said;
use crate::audit::frame::Blob;
use crate::audit::view::rfc3339;
use crate::batch::Kind;
use crate::batch::protocol::{Lane, Standing};
use crate::clock::Now;
use crate::ids::{CallId, Digest, KeyId, StreamId};

/// From so many seconds on, a device's clock and the collector's are told to be apart.
pub const CLOCK_APART_S: u64 = 300;

/// The answer to a question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The records, oldest first.
    pub events: Vec<Value>,
    /// What is to be said of all of them.
    pub last: Last,
}

/// The last object of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// How far the stored record reaches.
    #[serde(flatten)]
    pub completeness: Completeness,
    /// How many records matched.
    pub matched: usize,
    /// How many of those are of installations that nobody enrolled.
    #[serde(default)]
    pub matched_not_enrolled: usize,
    /// How many of them, the newest, are in the answer.
    pub shown: usize,
    /// How the payloads of all that matched were kept.
    #[serde(default)]
    pub content: Content,
    /// How many of all that matched have no content that anybody can open.
    #[serde(default)]
    pub no_content: u64,
    /// How many of all that matched came when the clocks were apart.
    #[serde(default)]
    pub clocks_apart: usize,
    /// Sentences about names that were asked for.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The question.
    #[error(transparent)]
    Filter(#[from] BadFilter),
    /// A name in it.
    #[error(transparent)]
    Name(#[from] UnknownName),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A match on its way to the answer; the greatest in the heap is the oldest.
struct Hit {
    key: (u64, StreamId, u64),
    view: Value,
    frames: Option<Frames>,
    /// Which leg of which call it is the intent of.
    leg: Option<Leg>,
}

/// What opens a payload: frames in base64, and what the sealing covers beside it.
struct Frames {
    stream: String,
    frame: String,
    segment: Option<String>,
    clear: Option<Digest>,
}

impl PartialEq for Hit {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl Eq for Hit {}
impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key.cmp(&self.key)
    }
}

/// A call of an installation.
type Call = (KeyId, CallId);
/// One leg of a call: an intent and its outcome.
type Leg = (KeyId, StreamId, CallId, u16);
/// Legs without an outcome that are remembered: a bound on what a forged stream costs.
const OPEN_LEGS: usize = 1 << 20;

/// Calls whose end is not stored.
#[derive(Debug, Default)]
struct Open {
    legs: BTreeSet<Leg>,
    ended: BTreeSet<(KeyId, StreamId)>,
    /// Legs that go on in another stream of the same process, with where they began.
    carried: BTreeMap<Leg, Leg>,
    /// The other way: where legs went on last.
    home: BTreeMap<Leg, Leg>,
    /// Installations that were heard of not long ago; empty until the whole record is read.
    heard: BTreeSet<KeyId>,
}

impl Open {
    fn observe(&mut self, record: &Record<'_>) {
        if record.lane != Lane::Main {
            return;
        }
        let leg = |call: CallId, leg: u16| -> Leg {
            (record.installation.clone(), record.stream, call, leg)
        };
        match &record.decoded.said {
            Said::Intent(call) => self.begin(leg(call.call, call.leg)),
            Said::Carried { stream, call, .. } => {
                let here = leg(call.call, call.leg);
                let began = (here.0.clone(), *stream, here.2, here.3);
                self.carry(began, here);
            }
            Said::Outcome { call, leg: own, .. } => self.finish(&leg(*call, *own)),
            Said::End { .. } => {
                self.ended
                    .insert((record.installation.clone(), record.stream));
            }
            _ => {}
        }
    }

    fn begin(&mut self, leg: Leg) {
        if self.legs.len() < OPEN_LEGS {
            self.legs.insert(leg);
        }
    }

    /// A leg that began in an earlier stream goes on in this one.
    fn carry(&mut self, began: Leg, here: Leg) {
        // one that was carried before began where that one did
        let began = self.carried.get(&began).cloned().unwrap_or(began);
        if self.carried.len() < OPEN_LEGS {
            self.home.insert(began.clone(), here.clone());
            self.carried.insert(here, began);
        }
    }

    fn finish(&mut self, leg: &Leg) {
        self.legs.remove(self.carried.get(leg).unwrap_or(leg));
    }

    fn heard(&mut self, devices: &[Device], now: &Now) {
        let heard = devices.iter().cloned().filter_map(|mut device| {
            device.judge_silence(now);
            (!device.is_silent).then_some(device.installation)
        });
        self.heard = heard.collect();
    }

    /// What is known of the end of a leg whose outcome is not stored.
    fn state(&self, leg: &Leg) -> Option<&'static str> {
        if !self.legs.contains(leg) {
            return None;
        }
        let (installation, stream, ..) = self.home.get(leg).unwrap_or(leg);
        let is_over = self.ended.contains(&(installation.clone(), *stream));
        Some(match is_over || !self.heard.contains(installation) {
            true => "unknown",
            false => "running",
        })
    }
}

fn leg_of(record: &Record<'_>) -> Option<Leg> {
    match &record.decoded.said {
        Said::Intent(call) if record.lane == Lane::Main => Some((
            record.installation.clone(),
            record.stream,
            call.call,
            call.leg,
        )),
        _ => None,
    }
}

/// Ids that only an intent, or a carried call, carries, passed on to its outcome.
const INTENT_ONLY: [&str; 4] = ["tool_use_id", "call_id", "session_id", "trace_id"];
/// The longest of those that is passed on, in bytes.
const ID_BYTES: usize = 128;
/// Calls whose ids are remembered, per stream.
const CALLS: usize = 1 << 14;

/// The ids of intents, for the outcomes behind them in the same stream.
#[derive(Default)]
struct Ids {
    place: Option<(KeyId, StreamId, Lane)>,
    calls: BTreeMap<CallId, Vec<(&'static str, Value)>>,
}

impl Ids {
    fn pass_on(&mut self, record: &Record<'_>, view: &mut Value) {
        let here = (record.installation, record.stream, record.lane);
        if self
            .place
            .as_ref()
            .is_none_or(|(id, stream, lane)| (id, *stream, *lane) != here)
        {
            self.place = Some((record.installation.clone(), record.stream, record.lane));
            self.calls.clear();
        }
        let (Value::Object(view), Some(own)) = (view, call_of(record)) else {
            return;
        };
        match &record.decoded.said {
            Said::Carried { .. } | Said::Intent(_) => {
                let known = INTENT_ONLY
                    .iter()
                    .filter_map(|name| Some((*name, view.get(*name)?)))
                    // a writer keeps at most this much of an id
                    .filter(|(_, id)| id.as_str().is_some_and(|id| id.len() <= ID_BYTES))
                    .map(|(name, id)| (name, id.clone()));
                self.calls.insert(own, known.collect());
                if self.calls.len() > CALLS {
                    self.calls.pop_first();
                }
            }
            Said::Outcome { .. } => {
                for (name, value) in self.calls.get(&own).into_iter().flatten() {
                    view.entry(*name).or_insert_with(|| value.clone());
                }
            }
            _ => {}
        }
    }
}

/// The newest matches, so many at most.
struct Newest {
    limit: usize,
    hits: BinaryHeap<Hit>,
    matched: usize,
}

impl Newest {
    fn new(limit: usize) -> Self {
        Self {
            limit: if limit == 0 { usize::MAX } else { limit },
            hits: BinaryHeap::new(),
            matched: 0,
        }
    }

    fn push(&mut self, hit: Hit) {
        self.matched += 1;
        self.hits.push(hit);
        if self.hits.len() > self.limit {
            self.hits.pop();
        }
    }
}

/// What was found.
struct Found {
    hits: Vec<Hit>,
    matched: usize,
    matched_not_enrolled: usize,
    content: Content,
    clocks_apart: usize,
    notes: Vec<String>,
    devices: Vec<Device>,
}

impl Found {
    fn last(&self) -> Last {
        Last {
            completeness: scan::completeness(&self.devices),
            matched: self.matched,
            matched_not_enrolled: self.matched_not_enrolled,
            shown: self.hits.len(),
            no_content: self.content.without(),
            content: self.content.clone(),
            clocks_apart: self.clocks_apart,
            notes: self.notes.clone(),
        }
    }
}

/// Finds the matching records, with what opens their payloads if that is wanted.
fn find(root: &Path, filter: &Filter, now: &Now, with_frames: bool) -> Result<Found, QueryError> {
    let compiled = filter.compile(now)?;
    let only = Only {
        stream: compiled.event.map(|(stream, _)| stream),
        received_before_us: None,
    };
    let (calls, before) = look_ahead(root, only, &compiled, now)?;
    let mut names = Names::of(filter);
    let [mut known, mut strangers] = [Newest::new(filter.limit), Newest::new(filter.limit)];
    let (mut ids, mut open) = (Ids::default(), Open::default());
    let (mut content, mut clocks_apart) = (Content::default(), 0);
    let devices = scan::scan(root, only, &mut |record| {
        let is_stranger = record.standing() == Standing::Unknown;
        let mut view = view(record);
        ids.pass_on(record, &mut view);
        open.observe(record);
        if let Some((_, seq)) = compiled.event {
            let own = call_of(record).map(|call| (record.installation.clone(), call));
            if record.frame.seq != seq && own.is_none_or(|own| !calls.contains(&own)) {
                return;
            }
        } else {
            names.observe(&view, is_stranger);
            let leg = leg_of(record);
            let candidate = Candidate {
                at_us: record.decoded.at.wall_us,
                received_us: record.stored.received_us,
                view: &view,
                open: before
                    .as_ref()
                    .zip(leg)
                    .and_then(|(open, leg)| open.state(&leg)),
            };
            if !compiled.matches(&candidate) {
                return;
            }
        }
        content.count(&view);
        clocks_apart += usize::from(view.get("clock_apart_s").is_some());
        let newest = if is_stranger {
            &mut strangers
        } else {
            &mut known
        };
        newest.push(Hit {
            key: (record.decoded.at.wall_us, record.stream, record.frame.seq),
            view,
            frames: with_frames.then(|| Frames {
                stream: record.stream.to_string(),
                frame: BASE64.encode(record.frame.bytes),
                segment: record.segment.map(|bytes| BASE64.encode(bytes)),
                clear: record.table.clear(record.decoded),
            }),
            leg: leg_of(record),
        });
    })?;
    let mut notes = Vec::new();
    if known.matched + strangers.matched == 0 && compiled.event.is_none() {
        notes = names.judge(root)?;
    }
    open.heard(&devices, now);
    let matched = known.matched + strangers.matched;
    let mut hits = known.hits.into_vec();
    hits.extend(strangers.hits);
    hits.sort_by_key(|hit| hit.key);
    for hit in &mut hits {
        if let (Value::Object(view), Some(leg)) = (&mut hit.view, &hit.leg)
            && let Some(state) = open.state(leg)
        {
            view.insert("outcome".to_owned(), state.into());
        }
    }
    Ok(Found {
        hits,
        matched,
        matched_not_enrolled: strangers.matched,
        content,
        clocks_apart,
        notes,
        devices,
    })
}

/// Reads the record once before it is searched, where a question needs that: the call of one
/// record, or the calls without an end.
fn look_ahead(
    root: &Path,
    only: Only,
    compiled: &Compiled<'_>,
    now: &Now,
) -> Result<(BTreeSet<Call>, Option<Open>), StoreError> {
    // another installation may have sent a stream of the same name, with calls of its own
    let mut calls = BTreeSet::new();
    if let Some((stream, seq)) = compiled.event {
        scan::scan(root, only, &mut |record| {
            if record.stream == stream && record.frame.seq == seq {
                calls.extend(call_of(record).map(|call| (record.installation.clone(), call)));
            }
        })?;
    }
    let outcome = compiled.filter.outcome.as_deref();
    if !matches!(outcome, Some("running" | "unknown")) {
        return Ok((calls, None));
    }
    let mut open = Open::default();
    let devices = scan::scan(root, only, &mut |record| open.observe(record))?;
    open.heard(&devices, now);
    Ok((calls, Some(open)))
}

fn call_of(record: &Record<'_>) -> Option<CallId> {
    match &record.decoded.said {
        Said::Carried { call, .. } | Said::Denial { call, .. } | Said::Intent(call) => {
            Some(call.call)
        }
        Said::Outcome { call, .. } => Some(*call),
        _ => None,
    }
}

/// How far a record's time and the time it was received are apart, in seconds, and in words;
/// nothing up to [`CLOCK_APART_S`]. A record cannot come before it was made, and a device says what
/// its clock was when it sent. What comes late may just have waited.
fn clock_apart(at_us: u64, sent_us: u64, received_us: u64) -> Option<(i64, String)> {
    let bound_us = CLOCK_APART_S * 1_000_000;
    let seconds = |us: u64| i64::try_from(us / 1_000_000).unwrap_or(i64::MAX);
    let apart = match at_us > received_us {
        true => seconds(at_us - received_us),
        false => -seconds(received_us - at_us),
    };
    let far = |a: u64, b: u64| a.abs_diff(b) > bound_us;
    let words = |us: u64| age(us / 1_000_000);
    if far(sent_us, received_us) {
        let off = words(sent_us.abs_diff(received_us));
        let side = if sent_us > received_us {
            "ahead"
        } else {
            "behind"
        };
        return Some((apart, format!("clock {off} {side}")));
    }
    if at_us > received_us && far(at_us, received_us) {
        return Some((apart, format!("clock {} ahead", words(at_us - received_us))));
    }
    far(at_us, received_us).then(|| {
        (
            apart,
            format!("received {} later", words(received_us - at_us)),
        )
    })
}

/// A span of time in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A record as one JSON object, with what the collector knows of it.
fn view(record: &Record<'_>) -> Value {
    let mut view = audit::json(record.decoded, record.table);
    if let Value::Object(view) = &mut view {
        let mut put = |name: &str, value: Value| {
            view.entry(name.to_owned()).or_insert(value);
        };
        put("installation", record.installation.as_str().into());
        put("machine_id", record.doc.machine_id.clone().into());
        put(
            "standing",
            serde_json::to_value(record.standing()).unwrap_or_default(),
        );
        if let Some(attested) = record.attested() {
            put("attested", attested.into());
        }
        if record.lane == Lane::Fork {
            put("lane", "fork".into());
        }
        let received_us = record.stored.received_us;
        let received = Now {
            wall_us: received_us,
            mono_us: 0,
        };
        put("received", rfc3339(received).into());
        let apart = clock_apart(
            record.decoded.at.wall_us,
            record.stored.header.sent_us,
            received_us,
        );
        if let Some((seconds, words)) = apart {
            put("clock_apart_s", seconds.into());
            put("clock", words.into());
        }
        put("hash", record.frame.hash.to_string().into());
        if record.stored.header.kind == Kind::Withheld
            && matches!(record.frame.blob, Blob::Detached(_))
        {
            for name in ["args_kept", "result_kept"] {
                if let Some(kept) = view.get_mut(name).filter(|kept| *kept == "taken-away") {
                    *kept = "withheld".into();
                }
            }
        }
    }
    view
}

/// Answers a question.
///
/// # Errors
/// [`QueryError`].
pub fn query(root: &Path, filter: &Filter, now: &Now) -> Result<Answer, QueryError> {
    let found = find(root, filter, now, false)?;
    let last = found.last();
    Ok(Answer {
        events: found.hits.into_iter().map(|hit| hit.view).collect(),
        last,
    })
}

/// Lists the devices.
///
/// # Errors
/// [`StoreError`].
pub fn devices(root: &Path, now: &Now) -> Result<(Vec<Device>, Completeness), StoreError> {
    let none = Only {
        stream: None,
        received_before_us: Some(0),
    };
    let mut devices = scan::scan(root, none, &mut |_| {})?;
    for device in &mut devices {
        device.judge_silence(now);
    }
    let completeness = scan::completeness(&devices);
    Ok((devices, completeness))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_call_that_goes_on_in_another_stream_ends_there() {
        let id = KeyId::from(Digest::default());
        let leg = |stream: u8, call| (id.clone(), StreamId([stream; 16]), CallId(call), 0);
        let mut open = Open::default();
        open.heard.insert(id.clone());
        for call in [1, 2, 3] {
            open.begin(leg(1, call));
        }
        // the process gave up its first stream, and its second
        open.carry(leg(1, 1), leg(2, 1));
        open.carry(leg(1, 2), leg(2, 2));
        open.carry(leg(2, 2), leg(3, 2));
        open.ended.insert((id.clone(), StreamId([1; 16])));
        assert_eq!(open.state(&leg(1, 1)), Some("running"));
        assert_eq!(open.state(&leg(1, 2)), Some("running"));
        assert_eq!(open.state(&leg(1, 3)), Some("unknown"), "nobody carried it");
        open.finish(&leg(2, 1));
        open.finish(&leg(3, 2));
        assert_eq!(open.state(&leg(1, 1)), None);
        assert_eq!(open.state(&leg(1, 2)), None);
        open.finish(&leg(2, 3));
        assert_eq!(open.state(&leg(1, 3)), Some("unknown"), "it is another's");
    }

    #[test]
    fn clocks_that_are_apart_are_told_and_those_within_the_bound_are_not() {
        let now = 1_795_238_400 * S;
        let said = |at, sent, received| clock_apart(at, sent, received).map(|(_, words)| words);
        assert_eq!(said(now, now, now + CLOCK_APART_S * S), None);
        assert_eq!(said(now + CLOCK_APART_S * S, now, now), None);
        let day = 86_400 * S;
        // a clock that is put right before the record is delivered, and one that is not
        assert_eq!(said(now + 8 * day, now, now).unwrap(), "clock 8 d ahead");
        assert_eq!(
            said(now + 8 * day, now + 8 * day, now).unwrap(),
            "clock 8 d ahead"
        );
        assert_eq!(
            said(now - day, now - day, now).unwrap(),
            "clock 24 h behind"
        );
        // late, or behind when it was recorded: nobody can tell
        assert_eq!(said(now - day, now, now).unwrap(), "received 24 h later");
        assert_eq!(clock_apart(now - day, now, now).unwrap().0, -86_400);
    }
}
