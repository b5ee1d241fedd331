//! Questions and answers: filters over everything stored, newest last.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scan::{self, Completeness, Device, Only, Record};
use super::store::StoreError;
use crate::audit::decode::Said;
use crate::audit::frame::Blob;
use crate::audit::view::rfc3339;
use crate::audit::{self, DataKey, PrivateKey, UnsealError};
use crate::batch::Kind;
use crate::batch::protocol::Lane;
use crate::clock::Now;
use crate::ids::{CallId, Digest, KeyId, StreamId};

/// What is asked for. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Calls of this person: the name shown, the subject, or `issuer subject`.
    #[arg(long, value_name = "WHO")]
    pub person: Option<String>,
    /// Calls of this agent.
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Calls to this server, by its key or its stable id.
    #[arg(long, value_name = "SERVER")]
    pub server: Option<String>,
    /// Calls of this tool, as `server/tool`, or `tool` on any server.
    #[arg(long, value_name = "SERVER/TOOL")]
    pub tool: Option<String>,
    /// Calls with this credential, by the id the registry gives it.
    #[arg(long, value_name = "ID")]
    pub credential: Option<String>,
    /// Calls with this decision: `allow` or `deny`.
    #[arg(long, value_name = "DECISION")]
    pub decision: Option<String>,
    /// Records of this phase: `intent`, `outcome`, `denial`, `loss`, `damage`, `link`, `counted`,
    /// `stream`, `segment`, `context`, `carried`, `end`.
    #[arg(long, value_name = "PHASE")]
    pub phase: Option<String>,
    /// Records from this time on: RFC 3339, a date, or an age such as `90s`, `15m`, `2h`, `7d`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Records before this time, written like `--since`.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The call with this tool use id of the client (`claudecode/toolUseId`).
    #[arg(long, value_name = "ID")]
    pub tool_use_id: Option<String>,
    /// The call with this call id of the client (Codex `callId`).
    #[arg(long, value_name = "ID")]
    pub call_id: Option<String>,
    /// Calls of this session of the client.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Calls in this trace (W3C trace id, 32 hexadecimal digits).
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,
    /// The record with this number, as `stream/seq`, and the others of its call.
    #[arg(long, value_name = "STREAM/SEQ")]
    pub event: Option<String>,
    /// The newest so many records; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
}

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not {expected}")]
pub struct BadFilter {
    what: &'static str,
    text: String,
    expected: &'static str,
}

/// The answer to a question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The records, oldest first.
    pub events: Vec<Value>,
    /// How many there were before the limit.
    pub matched: usize,
    /// How far the stored record reaches.
    pub completeness: Completeness,
}

/// The last object of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// How far the stored record reaches.
    #[serde(flatten)]
    pub completeness: Completeness,
    /// How many records matched.
    pub matched: usize,
    /// How many of them, the newest, are in the answer.
    pub shown: usize,
}

impl Answer {
    /// Sums the answer up.
    #[must_use]
    pub fn last(&self) -> Last {
        Last {
            completeness: self.completeness.clone(),
            matched: self.matched,
            shown: self.events.len(),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The question.
    #[error(transparent)]
    Filter(#[from] BadFilter),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A filter whose texts were understood.
#[derive(Debug)]
struct Compiled<'f> {
    filter: &'f Filter,
    since_us: Option<u64>,
    until_us: Option<u64>,
    event: Option<(StreamId, u64)>,
}

/// Parses `stream/seq`.
///
/// # Errors
/// [`BadFilter`].
pub fn event(text: &str) -> Result<(StreamId, u64), BadFilter> {
    text.split_once('/')
        .and_then(|(stream, seq)| Some((StreamId::parse(stream).ok()?, seq.parse().ok()?)))
        .ok_or_else(|| BadFilter {
            what: "event",
            text: text.chars().take(80).collect(),
            expected: "a stream and a number such as 0197f3a2-7b1c-7000-8000-000000000000/12",
        })
}

/// Parses a time: RFC 3339 in UTC or with an offset, a date, or an age.
///
/// # Errors
/// [`BadFilter`].
pub fn time_us(text: &str, now: &Now) -> Result<u64, BadFilter> {
    age_s(text)
        .map(|age| now.wall_us.saturating_sub(age.saturating_mul(1_000_000)))
        .or_else(|| date_us(text))
        .ok_or_else(|| BadFilter {
            what: "time",
            text: text.chars().take(80).collect(),
            expected: "an RFC 3339 time, a date such as 2026-11-21, or an age such as 2h",
        })
}

fn age_s(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    number.checked_mul(seconds)
}

fn date_us(text: &str) -> Option<u64> {
    let (date, time) = text
        .split_once(['T', ' '])
        .map_or((text, "00:00:00Z"), |both| both);
    let mut parts = date.splitn(3, '-');
    let mut part = |digits: usize, most: i64| {
        let text = parts.next().filter(|text| text.len() == digits)?;
        let number: i64 = text.parse().ok()?;
        (0..=most).contains(&number).then_some(number)
    };
    let (year, month, day) = (part(4, 9999)?, part(2, 12)?, part(2, 31)?);
    if month == 0 || day == 0 {
        return None;
    }
    // days from a civil date, the inverse of what `clock::Utc` prints
    let shifted = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;

    let (clock, offset_s) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => match time.rfind(['+', '-']) {
            Some(at) => {
                let (clock, offset) = time.split_at_checked(at)?;
                let (sign, offset) = offset.split_at_checked(1)?;
                let (hours, minutes) = offset.split_once(':')?;
                let hours: i64 = hours.parse().ok().filter(|h| (0..24).contains(h))?;
                let minutes: i64 = minutes.parse().ok().filter(|m| (0..60).contains(m))?;
                let seconds = hours * 3600 + minutes * 60;
                (clock, if sign == "-" { -seconds } else { seconds })
            }
            None => (time, 0),
        },
    };
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut fields = whole.split(':').map(|text| text.parse::<i64>().ok());
    let mut field = |most: i64| fields.next()?.filter(|n| (0..=most).contains(n));
    let (hour, minute, second) = (field(23)?, field(59)?, field(60).unwrap_or(0));
    if fraction.len() > 9 || fraction.bytes().any(|byte| !byte.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_s;
    u64::try_from(seconds * 1_000_000 + micros).ok()
}

impl Filter {
    fn compile(&self, now: &Now) -> Result<Compiled<'_>, BadFilter> {
        if let Some(decision) = &self.decision
            && !["allow", "deny"].contains(&decision.as_str())
        {
            return Err(BadFilter {
                what: "decision",
                text: decision.chars().take(80).collect(),
                expected: "`allow` or `deny`",
            });
        }
        let time = |text: &Option<String>| text.as_deref().map(|t| time_us(t, now)).transpose();
        Ok(Compiled {
            filter: self,
            since_us: time(&self.since)?,
            until_us: time(&self.until)?,
            event: self.event.as_deref().map(event).transpose()?,
        })
    }
}

/// Phases that nobody looks for unless they are named: the machinery of a stream.
const INNER: [&str; 4] = ["carried", "context", "segment", "end"];

impl Compiled<'_> {
    /// Says whether a record matches on its own.
    fn matches(&self, at: &Now, view: &Value) -> bool {
        let filter = self.filter;
        let text = |name: &str| view.get(name).and_then(Value::as_str);
        let equal = |wanted: &Option<String>, fields: &[&str]| {
            wanted
                .as_deref()
                .is_none_or(|wanted| fields.iter().any(|name| text(name) == Some(wanted)))
        };
        let phase = text("phase").unwrap_or_default();
        let phase_wanted = match &filter.phase {
            Some(wanted) => wanted == phase,
            None => !INNER.contains(&phase),
        };
        let person = filter.person.as_deref().is_none_or(|wanted| {
            let both = [text("issuer"), text("subject")];
            let named = both.map(Option::unwrap_or_default).join(" ");
            [text("person"), text("subject"), Some(named.as_str())].contains(&Some(wanted))
        });
        let tool = filter.tool.as_deref().is_none_or(|wanted| {
            let whole = text("tool").unwrap_or_default();
            whole == wanted
                || whole
                    .rsplit_once('/')
                    .is_some_and(|(_, name)| name == wanted)
        });
        phase_wanted
            && person
            && tool
            && equal(&filter.agent, &["agent"])
            && equal(&filter.server, &["server", "server_id"])
            && equal(&filter.credential, &["credential"])
            && equal(&filter.decision, &["decision"])
            && equal(&filter.tool_use_id, &["tool_use_id"])
            && equal(&filter.call_id, &["call_id"])
            && equal(&filter.session, &["session_id", "client_session_id"])
            && equal(&filter.trace, &["trace_id"])
            && self.since_us.is_none_or(|since| at.wall_us >= since)
            && self.until_us.is_none_or(|until| at.wall_us < until)
    }
}

/// A match on its way to the answer; the greatest in the heap is the oldest.
struct Hit<T> {
    key: (u64, StreamId, u64),
    value: T,
}

impl<T> PartialEq for Hit<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl<T> Eq for Hit<T> {}
impl<T> PartialOrd for Hit<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Hit<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key.cmp(&self.key)
    }
}

/// Ids that only an intent carries, passed on to its outcome.
const INTENT_ONLY: [&str; 4] = ["tool_use_id", "call_id", "session_id", "trace_id"];
/// The longest of those that is passed on, in bytes.
const ID_BYTES: usize = 128;
/// Calls whose ids are remembered, per stream.
const CALLS: usize = 1 << 14;

/// Finds the matching records; `keep` makes what the answer holds of each.
fn find<T>(
    root: &Path,
    filter: &Filter,
    now: &Now,
    keep: &mut dyn FnMut(&Record<'_>, Value) -> T,
) -> Result<(Vec<T>, usize, Vec<Device>), QueryError> {
    let compiled = filter.compile(now)?;
    let only = Only {
        stream: compiled.event.map(|(stream, _)| stream),
        received_before_us: None,
    };
    // asking for one record means asking for its call: find that first. Another installation may
    // have sent a stream of the same name, with calls of its own
    let mut calls: BTreeSet<(KeyId, CallId)> = BTreeSet::new();
    if let Some((stream, seq)) = compiled.event {
        scan::scan(root, only, &mut |record| {
            if record.stream == stream && record.frame.seq == seq {
                calls.extend(call_of(record).map(|call| (record.installation.clone(), call)));
            }
        })?;
    }
    let limit = if filter.limit == 0 {
        usize::MAX
    } else {
        filter.limit
    };
    let mut hits: BinaryHeap<Hit<T>> = BinaryHeap::new();
    let mut matched = 0;
    let mut ids: BTreeMap<CallId, Vec<(&'static str, Value)>> = BTreeMap::new();
    let mut place = None;
    let devices = scan::scan(root, only, &mut |record| {
        let here = (record.installation, record.stream, record.lane);
        if place
            .as_ref()
            .is_none_or(|(id, stream, lane)| (id, *stream, *lane) != here)
        {
            place = Some((record.installation.clone(), record.stream, record.lane));
            ids.clear();
        }
        let mut view = view(record);
        let own = call_of(record);
        if let (Value::Object(view), Some(own)) = (&mut view, own) {
            match &record.decoded.said {
                Said::Intent(_) => {
                    let known = INTENT_ONLY
                        .iter()
                        .filter_map(|name| Some((*name, view.get(*name)?)))
                        // a writer keeps at most this much of an id
                        .filter(|(_, id)| id.as_str().is_some_and(|id| id.len() <= ID_BYTES))
                        .map(|(name, id)| (name, id.clone()));
                    ids.insert(own, known.collect());
                    if ids.len() > CALLS {
                        ids.pop_first();
                    }
                }
                Said::Outcome { .. } => {
                    for (name, value) in ids.get(&own).into_iter().flatten() {
                        view.entry(*name).or_insert_with(|| value.clone());
                    }
                }
                _ => {}
            }
        }
        if let Some((_, seq)) = compiled.event
            && record.frame.seq != seq
            && own.is_none_or(|own| !calls.contains(&(record.installation.clone(), own)))
        {
            return;
        }
        if !compiled.matches(&record.decoded.at, &view) && compiled.event.is_none() {
            return;
        }
        matched += 1;
        hits.push(Hit {
            key: (record.decoded.at.wall_us, record.stream, record.frame.seq),
            value: keep(record, view),
        });
        if hits.len() > limit {
            hits.pop();
        }
    })?;
    let mut hits = hits.into_vec();
    hits.sort_by_key(|hit| hit.key);
    Ok((
        hits.into_iter().map(|hit| hit.value).collect(),
        matched,
        devices,
    ))
}

fn call_of(record: &Record<'_>) -> Option<CallId> {
    match &record.decoded.said {
        Said::Denial { call, .. } | Said::Intent(call) => Some(call.call),
        Said::Outcome { call, .. } => Some(*call),
        _ => None,
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
        let received = Now {
            wall_us: record.stored.received_us,
            mono_us: 0,
        };
        put("received", rfc3339(received).into());
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
    let (events, matched, devices) = find(root, filter, now, &mut |_, view| view)?;
    Ok(Answer {
        events,
        matched,
        completeness: scan::completeness(&devices),
    })
}

/// Lists the devices.
///
/// # Errors
/// [`StoreError`].
pub fn devices(root: &Path) -> Result<(Vec<Device>, Completeness), StoreError> {
    let none = Only {
        stream: None,
        received_before_us: Some(0),
    };
    let devices = scan::scan(root, none, &mut |_| {})?;
    let completeness = scan::completeness(&devices);
    Ok((devices, completeness))
}

/// A record with everything its payload needs to be opened, elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sealed {
    /// The record, without its payload.
    pub view: Value,
    /// Its stream.
    pub stream: String,
    /// The frame, base64.
    pub frame: String,
    /// The frame that began its segment, base64: the wrapped data keys are in it.
    pub segment: Option<String>,
    /// The clear digest of the record: what its sealing covers beside the payload, from what is
    /// stored of it, its contexts and its intent.
    #[serde(default)]
    pub clear: Option<Digest>,
}

/// Finds the matching records that carry a sealed payload, with their wrapped keys.
///
/// Whoever calls this writes down who asked before anything leaves the house.
///
/// # Errors
/// [`QueryError`].
pub fn sealed(
    root: &Path,
    filter: &Filter,
    now: &Now,
) -> Result<(Vec<Sealed>, Completeness), QueryError> {
    let (found, _, devices) = find(root, filter, now, &mut |record, view| Sealed {
        view,
        stream: record.stream.to_string(),
        frame: BASE64.encode(record.frame.bytes),
        segment: record.segment.map(|bytes| BASE64.encode(bytes)),
        clear: record.table.clear(record.decoded),
    })?;
    let kept: BTreeSet<&str> = BTreeSet::from(["sealed"]);
    let found = found
        .into_iter()
        .filter(|sealed| {
            ["args_kept", "result_kept"].iter().any(|name| {
                let how = sealed.view.get(*name).and_then(Value::as_str);
                how.is_some_and(|how| kept.contains(how))
            })
        })
        .collect();
    Ok((found, scan::completeness(&devices)))
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
    let frame = decode(&sealed.frame)?;
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
    use super::*;

    fn now() -> Now {
        Now {
            wall_us: 1_795_238_400_000_000,
            mono_us: 0,
        }
    }

    #[test]
    fn times_are_read_in_every_form() {
        let at = |text| time_us(text, &now()).unwrap();
        assert_eq!(at("1970-01-01"), 0);
        assert_eq!(at("2000-02-29T00:00:00Z"), 951_782_400_000_000);
        assert_eq!(at("2000-02-29 00:00:00.25Z"), 951_782_400_250_000);
        assert_eq!(at("2000-02-29T02:00:00+02:00"), 951_782_400_000_000);
        assert_eq!(at("2000-02-28T22:30-01:30"), 951_782_400_000_000);
        assert_eq!(at("2h"), now().wall_us - 7_200_000_000);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "h",
            "yesterday",
            "2026-13-01",
            "2026-1-1",
            "2026-01-01T25:00:00Z",
            "9999999999999999999d",
        ] {
            assert!(time_us(text, &now()).is_err(), "{text} passed");
        }
    }
}
