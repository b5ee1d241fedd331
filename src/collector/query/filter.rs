//! What is asked for, and whether it can be understood.
//!
//! A word that is none of those it could be, and a range that nothing can lie in, are errors: an
//! empty answer to them would look like innocence.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::nearest;
use crate::clock::Now;
use crate::ids::StreamId;

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
    /// Calls of this tool: `server/tool`, the name clients show (`server_tool`), or `tool` on any
    /// server.
    #[arg(long, value_name = "TOOL")]
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
    /// Calls with this outcome: `ok`, `tool_error`, `error`, `input_required`, `cancelled`,
    /// `timeout`, `not_sent`; `unknown` for calls whose end nobody knows, `running` for calls
    /// without an end so far.
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Option<String>,
    /// Records from this time on, by the device's clock: RFC 3339, a date, or an age such as
    /// `90s`, `15m`, `2h`, `7d`. A time without a zone is UTC.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Records before this time, written like `--since`.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Records that were received from this time on, by the collector's clock, which no device
    /// can set. Written like `--since`.
    #[arg(long, value_name = "TIME")]
    pub received_since: Option<String>,
    /// Records that were received before this time, written like `--since`.
    #[arg(long, value_name = "TIME")]
    pub received_until: Option<String>,
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
    /// The newest so many records, and as many of installations that nobody enrolled; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
}

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFilter(String);

impl BadFilter {
    fn form(what: &str, text: &str, expected: &str) -> Self {
        let text: String = text.chars().take(80).collect();
        Self(format!("{what} {text:?} is not {expected}"))
    }

    /// A word that is none of these.
    fn word(what: &str, text: &str, known: &[&str]) -> Self {
        let short: String = text.chars().take(80).collect();
        let all = known.iter().map(|word| format!("`{word}`"));
        let all = all.collect::<Vec<_>>().join(", ");
        match nearest(text, known.iter().copied()) {
            Some(near) => Self(format!(
                "there is no {what} {short:?}; did you mean `{near}`?"
            )),
            None => Self(format!("there is no {what} {short:?}: it is one of {all}")),
        }
    }
}

const PHASES: [&str; 13] = [
    "carried", "context", "counted", "damage", "denial", "end", "intent", "link", "loss",
    "outcome", "segment", "stream", "unknown",
];
const OUTCOMES: [&str; 9] = [
    "cancelled",
    "error",
    "input_required",
    "not_sent",
    "ok",
    "running",
    "timeout",
    "tool_error",
    "unknown",
];

/// A filter whose texts were understood.
#[derive(Debug)]
pub(super) struct Compiled<'f> {
    pub(super) filter: &'f Filter,
    since_us: Option<u64>,
    until_us: Option<u64>,
    received_since_us: Option<u64>,
    received_until_us: Option<u64>,
    pub(super) event: Option<(StreamId, u64)>,
}

/// Parses `stream/seq`.
///
/// # Errors
/// [`BadFilter`].
pub fn event(text: &str) -> Result<(StreamId, u64), BadFilter> {
    text.split_once('/')
        .and_then(|(stream, seq)| Some((StreamId::parse(stream).ok()?, seq.parse().ok()?)))
        .ok_or_else(|| {
            let expected = "a stream and a number such as 0197f3a2-7b1c-7000-8000-000000000000/12";
            BadFilter::form("event", text, expected)
        })
}

/// Parses a time: RFC 3339 in UTC or with an offset, a date, or an age. Without a zone it is UTC.
///
/// # Errors
/// [`BadFilter`].
pub fn time_us(text: &str, now: &Now) -> Result<u64, BadFilter> {
    age_s(text)
        .map(|age| now.wall_us.saturating_sub(age.saturating_mul(1_000_000)))
        .or_else(|| date_us(text))
        .ok_or_else(|| {
            let expected = "an RFC 3339 time, a date such as 2026-11-21, or an age such as 2h";
            BadFilter::form("time", text, expected)
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
    pub(super) fn compile(&self, now: &Now) -> Result<Compiled<'_>, BadFilter> {
        if let Some(decision) = &self.decision
            && !["allow", "deny"].contains(&decision.as_str())
        {
            return Err(BadFilter::form("decision", decision, "`allow` or `deny`"));
        }
        let words = [
            ("phase", &self.phase, PHASES.as_slice()),
            ("outcome", &self.outcome, OUTCOMES.as_slice()),
        ];
        for (what, word, known) in words {
            if let Some(word) = word
                && !known.contains(&word.as_str())
            {
                return Err(BadFilter::word(what, word, known));
            }
        }
        let time = |text: &Option<String>| text.as_deref().map(|t| time_us(t, now)).transpose();
        let compiled = Compiled {
            filter: self,
            since_us: time(&self.since)?,
            until_us: time(&self.until)?,
            received_since_us: time(&self.received_since)?,
            received_until_us: time(&self.received_until)?,
            event: self.event.as_deref().map(event).transpose()?,
        };
        range("", compiled.since_us, compiled.until_us)?;
        let received = (compiled.received_since_us, compiled.received_until_us);
        range("received-", received.0, received.1)?;
        Ok(compiled)
    }
}

/// Refuses a range that nothing lies in.
fn range(kind: &str, since: Option<u64>, until: Option<u64>) -> Result<(), BadFilter> {
    match (since, until) {
        (Some(since), Some(until)) if since >= until => {
            let how = if since == until { "is" } else { "is after" };
            Err(BadFilter(format!(
                "nothing lies in that range: --{kind}since {how} --{kind}until"
            )))
        }
        _ => Ok(()),
    }
}

/// Phases that nobody looks for unless they are named: the machinery of a stream.
const INNER: [&str; 4] = ["carried", "context", "segment", "end"];

/// What a record is held against a filter with.
pub(super) struct Candidate<'a> {
    /// When it was recorded, by the device's clock.
    pub(super) at_us: u64,
    /// When it was received, by the collector's.
    pub(super) received_us: u64,
    pub(super) view: &'a Value,
    /// What is known of the end of the call of an intent: `unknown` or `running`.
    pub(super) open: Option<&'static str>,
}

/// Whether a record's tool is the one that is meant, in any of the ways it is called.
pub(super) fn is_tool(view: &Value, wanted: &str) -> bool {
    let text = |name: &str| view.get(name).and_then(Value::as_str);
    let whole = text("tool").unwrap_or_default();
    if whole.is_empty() {
        return false;
    }
    // as some clients show it: mcp__<name of mcpshim's entry>__<exposed name>
    let bare = wanted
        .strip_prefix("mcp__")
        .and_then(|rest| rest.split_once("__"))
        .map_or(wanted, |(_, tool)| tool);
    whole == wanted
        || text("exposed") == Some(bare)
        || whole.split_once('/').is_some_and(|(server, name)| {
            name == wanted
                || bare
                    .strip_prefix(server)
                    .and_then(|rest| rest.strip_prefix('_'))
                    == Some(name)
        })
}

/// Whether a record's person is the one that is meant.
pub(super) fn is_person(view: &Value, wanted: &str) -> bool {
    let text = |name: &str| view.get(name).and_then(Value::as_str);
    let both = [text("issuer"), text("subject")];
    let named = both.map(Option::unwrap_or_default).join(" ");
    [text("person"), text("subject"), Some(named.as_str())].contains(&Some(wanted))
}

impl Compiled<'_> {
    /// Says whether a record matches on its own.
    pub(super) fn matches(&self, record: &Candidate<'_>) -> bool {
        let (filter, view) = (self.filter, record.view);
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
        let outcome_wanted = filter.outcome.as_deref().is_none_or(|wanted| {
            let own = match phase {
                "outcome" => text("end"),
                _ => record.open,
            };
            own == Some(wanted)
        });
        let within = |at: u64, since: Option<u64>, until: Option<u64>| {
            since.is_none_or(|since| at >= since) && until.is_none_or(|until| at < until)
        };
        let person = filter.person.as_deref();
        let tool = filter.tool.as_deref();
        phase_wanted
            && outcome_wanted
            && person.is_none_or(|wanted| is_person(view, wanted))
            && tool.is_none_or(|wanted| is_tool(view, wanted))
            && equal(&filter.agent, &["agent"])
            && equal(&filter.server, &["server", "server_id"])
            && equal(&filter.credential, &["credential"])
            && equal(&filter.decision, &["decision"])
            && equal(&filter.tool_use_id, &["tool_use_id"])
            && equal(&filter.call_id, &["call_id"])
            && equal(&filter.session, &["session_id", "client_session_id"])
            && equal(&filter.trace, &["trace_id"])
            && within(record.at_us, self.since_us, self.until_us)
            && within(
                record.received_us,
                self.received_since_us,
                self.received_until_us,
            )
    }
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
    fn a_range_that_nothing_lies_in_is_refused() {
        let ask = |since: &str, until: &str| {
            let filter = Filter {
                since: Some(since.to_owned()),
                until: Some(until.to_owned()),
                ..Filter::default()
            };
            filter
                .compile(&now())
                .map(drop)
                .map_err(|bad| bad.to_string())
        };
        assert_eq!(ask("2h", "1h"), Ok(()));
        assert!(
            ask("1h", "2h")
                .unwrap_err()
                .contains("--since is after --until")
        );
        assert!(
            ask("2026-01-01", "2026-01-01")
                .unwrap_err()
                .contains("nothing lies")
        );
        let received = Filter {
            received_since: Some("1h".to_owned()),
            received_until: Some("2h".to_owned()),
            ..Filter::default()
        };
        assert!(received.compile(&now()).is_err());
    }

    #[test]
    fn a_word_that_is_no_phase_and_no_outcome_is_refused_with_the_near_one() {
        let filter = |phase: &str, outcome: &str| Filter {
            phase: Some(phase.to_owned()).filter(|text| !text.is_empty()),
            outcome: Some(outcome.to_owned()).filter(|text| !text.is_empty()),
            ..Filter::default()
        };
        let said = |filter: Filter| filter.compile(&now()).map(drop).map_err(|bad| bad.0);
        assert_eq!(said(filter("denial", "unknown")), Ok(()));
        let denied = said(filter("denials", "")).unwrap_err();
        assert_eq!(
            denied,
            "there is no phase \"denials\"; did you mean `denial`?"
        );
        let odd = said(filter("", "banana")).unwrap_err();
        assert!(odd.contains("one of `cancelled`, `error`"), "{odd}");
    }

    #[test]
    fn a_tool_is_found_by_every_name_that_people_see() {
        let view = serde_json::json!({"tool": "crm/read_customer", "exposed": "crm_read_customer"});
        for name in [
            "crm/read_customer",
            "read_customer",
            "crm_read_customer",
            "mcp__tools__crm_read_customer",
        ] {
            assert!(is_tool(&view, name), "{name}");
        }
        for other in [
            "crm",
            "customer",
            "crm_",
            "cr_read_customer",
            "mcp__crm",
            "",
        ] {
            assert!(!is_tool(&view, other), "{other}");
        }
        assert!(!is_tool(&serde_json::json!({"prompt": "a/b"}), ""));
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
