//! `mcpshim audit`

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use mcpshim::audit::decode::Said;
use mcpshim::audit::frame::GENESIS;
use mcpshim::audit::{FrameError, decode, frames, verify_chain};
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::config::Config;
use mcpshim::ids::{Digest, ServerKey, StreamId};
use mcpshim::report::{Exit, Failure};
use mcpshim::ship::{self, Ended, Records as _, Waiting};
use mcpshim::spool::{self, RealDisk};
use mcpshim::text;
use serde_json::json;

use crate::history::{self, Call};
use crate::out;
use crate::ship::{Spooled, deliver};

/// Look at the records of this machine that are not delivered yet, or deliver them
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check the chain of every record on this machine
    ///
    /// Hashes everything again and changes nothing. A record that is just being written is no
    /// error; one that was changed, or is missing in the middle, is.
    #[command(
        after_help = "Examples:\n  mcpshim audit check\n\nExit codes: 0 all records hold, 1 one does not."
    )]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Deliver now, and wait until everything is acknowledged
    #[command(
        after_help = "Examples:\n  mcpshim audit flush --wait 10\n\nExit codes: 0 nothing waits any more, 75 something still does."
    )]
    Flush {
        /// Give up after so many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the last calls from this machine: when, who, what, and how they ended
    ///
    /// Reads what lies here without a key: records that are not delivered yet, and of those that
    /// are a list of the last calls. Arguments and results are not in it. The whole record is at
    /// the collector.
    #[command(
        after_help = "Examples:\n  mcpshim audit show --last 20\n  mcpshim audit show --server github --since 2026-12-01T08:00:00Z"
    )]
    Show {
        /// How many of the last calls
        #[arg(long, value_name = "CALLS", default_value_t = 20)]
        last: usize,
        /// Only from this time on: RFC 3339 in UTC, or its beginning (2026-12-01)
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only calls to this server
        #[arg(long, value_name = "SERVER")]
        server: Option<ServerKey>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how many records wait, since when, and what keeps them
    #[command(
        after_help = "Examples:\n  mcpshim audit status\n  mcpshim audit status --json | jq .waiting"
    )]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let config = crate::settings()?;
    match command {
        Command::Check { json } => check(&config, *json),
        Command::Flush { wait, json } => flush(config, *wait, *json),
        Command::Show {
            last,
            since,
            server,
            json,
        } => show(&config, *last, since.as_deref(), server.as_ref(), *json),
        Command::Status { json } => status(&config, *json),
    }
}

fn show(
    config: &Config,
    last: usize,
    since: Option<&str>,
    server: Option<&ServerKey>,
    as_json: bool,
) -> Result<(), Failure> {
    let begins = |since: &str| {
        since.len() >= 4
            && since
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b"-:TZ.".contains(&byte))
    };
    if let Some(since) = since.filter(|since| !begins(since)) {
        return Err(Failure::new(
            Exit::Usage,
            format!("{since:?} is no time, expected 2026-12-01T08:00:00Z"),
        )
        .hint("times are in UTC; a day alone means its beginning"));
    }
    let all = history::calls(config).map_err(|error| unreadable(config, &error))?;
    let first = all.first().map(|call| call.time.clone());
    if let Some(key) = server.filter(|key| !all.iter().any(|call| call.server == key.as_str())) {
        known(config, key)?;
    }
    let mut calls: Vec<&Call> = all
        .iter()
        .filter(|call| since.is_none_or(|since| call.time.as_str() >= since.trim_end_matches('Z')))
        .filter(|call| server.is_none_or(|key| call.server == key.as_str()))
        .collect();
    let more = calls.len().saturating_sub(last);
    calls.drain(..more);
    if as_json {
        return out::print_json(
            &json!({ "calls": calls, "not_shown": more, "first_known": first }),
        );
    }
    let row = |call: &&Call| {
        let took = call
            .took_us
            .map_or_else(String::new, |us| format!("{} ms", us / 1000));
        let cells = [
            &call.time,
            &call.what,
            &call.decision,
            &call.ended,
            &took,
            &call.who,
            &call.event,
        ];
        cells.map(|cell| text::visible(cell).into_owned()).to_vec()
    };
    out::print(&out::columns(&calls.iter().map(row).collect::<Vec<_>>()))?;
    out::note(&match first {
        Some(first) => format!(
            "this machine knows calls since {first}; the collector has the whole record; \
             `mcpshim explain EVENT` tells more of one"
        ),
        None => "this machine knows no call yet; what is older lies at the collector".to_owned(),
    });
    Ok(())
}

/// A server that never was is told with the near name: an empty answer would look like a quiet day.
fn known(config: &Config, key: &ServerKey) -> Result<(), Failure> {
    let Ok(loaded) = mcpshim::fetch::load(config, &crate::now()) else {
        return Ok(());
    };
    if loaded.registry.servers.contains_key(key) {
        return Ok(());
    }
    let known: Vec<&str> = loaded
        .registry
        .servers
        .keys()
        .map(ServerKey::as_str)
        .collect();
    Err(
        Failure::new(Exit::Usage, format!("there is no server {key}"))
            .hint(crate::doctor::near(key, &known)),
    )
}

fn unreadable(config: &Config, error: &std::io::Error) -> Failure {
    let dir = ship::spool_dir(&config.state_dir);
    Failure::from_error(Exit::Failed, error)
        .context(format!("the records in {} cannot be read", dir.display()))
        .hint("check the owner and the permissions of the directory")
}

/// What of this machine's records waits, and what keeps it.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Standing {
    pub(crate) waiting: u64,
    /// Sealed payloads whose records were delivered without them: too large for the way.
    payloads_waiting: usize,
    pub(crate) oldest_age_s: Option<u64>,
    streams: usize,
    live_streams: usize,
    spool_bytes: u64,
    last_acknowledged: Option<String>,
    collector: Option<String>,
    pub(crate) trouble: Option<String>,
}

impl Standing {
    /// How many records wait, and since when.
    pub(crate) fn waits(&self) -> String {
        match (self.oldest_age_s, self.waiting) {
            (Some(age_s), waiting) => format!("{waiting} records, the oldest for {age_s} s"),
            (None, 0) => "nothing".to_owned(),
            (None, waiting) => format!("{waiting} records"),
        }
    }
}

/// Looks at the spool of this machine.
pub(crate) fn standing(config: &Config) -> Result<Standing, Failure> {
    let mut records = Spooled::open(&config.state_dir);
    let streams = records
        .streams()
        .map_err(|error| unreadable(config, &error))?;
    let waiting: u64 = streams.iter().map(Waiting::records).sum();
    let bytes = spool::usage(&RealDisk, &ship::spool_dir(&config.state_dir)).unwrap_or(0);
    let oldest_us = streams
        .iter()
        .filter(|stream| stream.records() > 0)
        .filter_map(|stream| written_us(&mut records, stream))
        .min();
    let oldest_age_s = oldest_us.map(|us| crate::now().wall_us.saturating_sub(us) / 1_000_000);
    let live = streams.iter().filter(|stream| stream.live).count();
    let note = ship::read_note(&config.state_dir);
    let bodies = payloads(&config.state_dir);
    let trouble = note
        .as_ref()
        .filter(|_| waiting > 0 || bodies > 0)
        .and_then(|note| note.trouble.clone());
    let acknowledged = note
        .as_ref()
        .and_then(|note| note.last_acknowledged.clone());
    let collector = note.as_ref().map(|note| note.collector.clone());
    Ok(Standing {
        waiting,
        payloads_waiting: bodies,
        oldest_age_s,
        streams: streams.len(),
        live_streams: live,
        spool_bytes: bytes,
        last_acknowledged: acknowledged,
        collector,
        trouble,
    })
}

fn status(config: &Config, as_json: bool) -> Result<(), Failure> {
    let standing = standing(config)?;
    if as_json {
        return out::print_json(&standing);
    }
    let waits = standing.waits();
    let mut rows = vec![
        vec!["waiting:".to_owned(), waits],
        vec![
            "streams:".to_owned(),
            format!(
                "{} on this machine, {} being written",
                standing.streams, standing.live_streams
            ),
        ],
        vec![
            "space:".to_owned(),
            format!("{} bytes", standing.spool_bytes),
        ],
        vec![
            "delivered:".to_owned(),
            standing
                .last_acknowledged
                .map_or_else(|| "never".to_owned(), |at| format!("last at {at}")),
        ],
        vec![
            "collector:".to_owned(),
            standing
                .collector
                .unwrap_or_else(|| "not spoken to yet".to_owned()),
        ],
    ];
    if standing.payloads_waiting > 0 {
        rows.push(vec![
            "withheld:".to_owned(),
            format!(
                "{}, too large for the way; the rest of the record was delivered",
                sealed_payloads(standing.payloads_waiting)
            ),
        ]);
    }
    rows.extend(
        standing
            .trouble
            .map(|trouble| vec!["trouble:".to_owned(), trouble]),
    );
    out::print(&out::columns(&rows))
}

/// When the oldest record that waits was written, by the wall clock.
fn written_us(records: &mut Spooled, stream: &Waiting) -> Option<u64> {
    let run = records
        .read(stream.stream, stream.next_unacked, 1, 1)
        .ok()??;
    let frame = frames(&run.bytes).next()?.ok()?;
    Some(decode(&frame).ok()?.at.wall_us)
}

/// What was found in one stream.
struct Checked {
    stream: StreamId,
    records: u64,
    /// Bytes of a last record that is not whole.
    unfinished: u64,
    bad: Option<String>,
}

fn check(config: &Config, as_json: bool) -> Result<(), Failure> {
    let dir = ship::spool_dir(&config.state_dir);
    let mut checked = Vec::new();
    for (stream, path) in stream_dirs(&dir).map_err(|error| unreadable(config, &error))? {
        checked.push(check_stream(stream, &path).map_err(|error| unreadable(config, &error))?);
    }
    let records: u64 = checked.iter().map(|stream| stream.records).sum();
    let bad = checked.iter().find(|stream| stream.bad.is_some());
    if as_json {
        out::print_json(&json!({
            "records": records,
            "streams": checked.iter().map(|stream| json!({
                "stream": stream.stream.to_string(),
                "records": stream.records,
                "unfinished_bytes": stream.unfinished,
                "bad": stream.bad,
            })).collect::<Vec<_>>(),
        }))?;
    } else {
        let streams = checked.len();
        out::print(&format!("{records} records in {streams} streams hold\n"))?;
    }
    match bad {
        None => Ok(()),
        Some(stream) => Err(Failure::new(
            Exit::Failed,
            format!("stream {} does not hold", stream.stream),
        )
        .cause(stream.bad.clone().unwrap_or_default())
        .hint("keep the directory as it is and tell your security team")),
    }
}

/// Checks every record on this machine; says of the first that does not hold what is wrong.
pub(crate) fn damaged(config: &Config) -> Result<Option<String>, Failure> {
    let dir = ship::spool_dir(&config.state_dir);
    for (stream, path) in stream_dirs(&dir).map_err(|error| unreadable(config, &error))? {
        let checked = check_stream(stream, &path).map_err(|error| unreadable(config, &error))?;
        if let Some(bad) = checked.bad {
            return Ok(Some(bad));
        }
    }
    Ok(None)
}

pub(crate) fn stream_dirs(dir: &Path) -> std::io::Result<Vec<(StreamId, PathBuf)>> {
    let listing = match std::fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry?;
        if let Ok(stream) = StreamId::parse(&entry.file_name().to_string_lossy())
            && entry.file_type()?.is_dir()
        {
            found.push((stream, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn check_stream(stream: StreamId, dir: &Path) -> std::io::Result<Checked> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let first_seq = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(first_seq) = first_seq
            && path.extension().is_some_and(|ext| ext == "seg")
        {
            segments.push((first_seq, path));
        }
    }
    segments.sort();
    let mut checked = Checked {
        stream,
        records: 0,
        unfinished: 0,
        bad: None,
    };
    // the chain and number after what was read; nothing before the first segment that is here
    let mut place: Option<(u64, Digest)> = None;
    let newest = segments.last().map(|(first_seq, _)| *first_seq);
    for (first_seq, path) in &segments {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            // delivered and removed while we looked
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let (next, prev) = place.unwrap_or_else(|| (*first_seq, before(*first_seq, &bytes)));
        let bad = |sentence: String| Some(format!("{}: {sentence}", path.display()));
        if next != *first_seq {
            checked.bad = bad(format!("records {next} to {} are missing", first_seq - 1));
            break;
        }
        // only the newest may end inside a record: it is being written, or its writer died
        let whole = match frames(&bytes).find_map(Result::err) {
            Some(FrameError::Cut { offset }) if newest == Some(*first_seq) => offset,
            _ => bytes.len(),
        };
        checked.unfinished += u64::try_from(bytes.len() - whole).unwrap_or(0);
        let bytes = bytes.get(..whole).unwrap_or_default();
        if bytes.is_empty() {
            place = Some((next, prev));
            continue;
        }
        match verify_chain(prev, bytes) {
            Ok(tail) if tail.first_seq == *first_seq => {
                checked.records += tail.records;
                place = Some((tail.last_seq + 1, tail.last_hash));
            }
            Ok(tail) => {
                checked.bad = bad(format!("it begins with record {}", tail.first_seq));
                break;
            }
            Err(error) => {
                checked.bad = bad(error.to_string());
                break;
            }
        }
    }
    Ok(checked)
}

/// The chain before the first segment that is still here, as the segment itself says. What lay
/// before it was delivered: the collector checks how they join.
fn before(first_seq: u64, bytes: &[u8]) -> Digest {
    let said = frames(bytes).next().and_then(Result::ok).and_then(|frame| {
        match decode(&frame).ok()?.said {
            Said::Segment(segment) => Some(segment.prev_hash),
            _ => None,
        }
    });
    match said {
        Some(prev) if first_seq > 1 => prev,
        _ => GENESIS,
    }
}

/// How long `flush` waits for another process to try what was too large, in microseconds.
const PAYLOAD_US: u64 = 5_000_000;

/// Word from the thread that delivers.
enum Word {
    Waiting(u64),
    Ended(Result<Ended, Failure>),
}

fn flush(config: Config, wait_s: u64, as_json: bool) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let deadline_us = wait_s.saturating_mul(1_000_000);
    let before = waiting(&config)?;
    let state_dir = config.state_dir.clone();
    let failed = |error: std::io::Error| Failure::from_error(Exit::Failed, &error);
    ship::hurry(&state_dir).map_err(failed)?;
    let (tell, words) = mpsc::channel();
    let mut tell = Some(tell);
    let mut held = None;
    let mut left = before;
    let mut until_us = clock.now().mono_us;
    let mut shown = None;
    let outcome = loop {
        if clock.now().mono_us >= deadline_us {
            break Ok(());
        }
        // somebody delivers already: then they are watched, and taken over from when they end
        if held.is_none() {
            held = ship::lock(&state_dir).map_err(failed)?;
            if held.is_some()
                && let Some(tell) = tell.take()
            {
                let config = config.clone();
                std::thread::spawn(move || {
                    let mut records = Spooled::open(&config.state_dir);
                    let ended = loop {
                        let told = tell.clone();
                        let mut progress = move |left| drop(told.send(Word::Waiting(left)));
                        match deliver(&config, &mut records, true, &mut progress) {
                            Ok(Ended::Reload) => {}
                            ended => break ended,
                        }
                    };
                    drop(tell.send(Word::Ended(ended)));
                });
            }
        }
        match words.recv_timeout(Duration::from_millis(200)) {
            Ok(Word::Waiting(now)) => left = now,
            Ok(Word::Ended(Ok(_))) => {
                left = waiting(&config)?;
                break Ok(());
            }
            Ok(Word::Ended(Err(failure))) => break Err(failure),
            Err(mpsc::RecvTimeoutError::Timeout | mpsc::RecvTimeoutError::Disconnected) => {
                if held.is_none() {
                    left = waiting(&config)?;
                    // whoever delivers was told to hurry, and tries a sealed payload once
                    let patient_us = until_us.saturating_add(PAYLOAD_US).min(deadline_us);
                    let tried = payloads(&state_dir) == 0 || clock.now().mono_us >= patient_us;
                    if left == 0 && tried {
                        break Ok(());
                    }
                    if left > 0 {
                        until_us = clock.now().mono_us;
                    }
                }
            }
        }
        if !as_json && shown != Some(left) {
            shown = Some(left);
            // nobody needs it who is not looking
            drop(writeln!(std::io::stderr().lock(), "{left} records wait"));
        }
    };
    let sent = before.saturating_sub(left);
    if as_json {
        let bodies = payloads(&state_dir);
        out::print_json(
            &json!({ "delivered": sent, "waiting": left, "payloads_waiting": bodies }),
        )?;
    } else if left == 0 {
        let waits = match payloads(&state_dir) {
            0 => "nothing waits".to_owned(),
            bodies => format!(
                "{}, too large for what lies before the collector, {} here",
                sealed_payloads(bodies),
                if bodies == 1 { "waits" } else { "wait" }
            ),
        };
        out::print(&format!("{sent} records delivered, {waits}\n"))?;
    }
    outcome?;
    if left == 0 {
        return Ok(());
    }
    let mut failure = Failure::new(
        Exit::Pending,
        format!("{left} records still wait after {wait_s} s"),
    )
    .hint("nothing is lost: delivery goes on in the background with the next call");
    if let Some(trouble) = ship::read_note(&state_dir).and_then(|note| note.trouble) {
        failure = failure.cause(trouble);
    }
    Err(failure)
}

fn sealed_payloads(count: usize) -> String {
    match count {
        1 => "1 sealed payload".to_owned(),
        count => format!("{count} sealed payloads"),
    }
}

/// Sealed payloads whose records were delivered without them.
fn payloads(state_dir: &Path) -> usize {
    spool::bodies(&RealDisk, &ship::spool_dir(state_dir)).map_or(0, |bodies| bodies.len())
}

/// Records that wait. Opened anew each time: what another process acknowledged is in the files.
fn waiting(config: &Config) -> Result<u64, Failure> {
    let streams = Spooled::open(&config.state_dir)
        .streams()
        .map_err(|error| unreadable(config, &error))?;
    Ok(streams.iter().map(Waiting::records).sum())
}
