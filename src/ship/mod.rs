//! Delivery: one process per device takes records from the spool to the collector.
//!
//! ```text
//! shim ─append─▶ spool ◀─read─ courier ─batch, signed─▶ collector
//!                  ▲                                        │
//!                  └──────────── ack ◀──────── 200 ─────────┘
//! ```
//!
//! The first shim that records something starts it ([`spawn_detached`]); whoever comes second
//! finds the lock taken and leaves. It outlives the shims until everything is delivered.
//! **Nothing is deleted before the collector has acknowledged it**, and it acknowledges after its
//! own sync. What happens on every reply is decided in [`courier`]; `docs/formats/batch.md` is
//! the protocol.
#![warn(missing_docs)]

pub mod courier;
mod link;
mod note;
mod wake;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;

use self::courier::{Ask, Courier, Effect, Next, Reply, Sent};
pub use self::courier::{Kept, Waiting};
pub use self::link::{HttpLink, LinkError};
pub use self::note::{Note, read_note};
use crate::audit::decode::kind;
use crate::audit::frame::Blob;
use crate::batch::protocol::{
    self, ChallengeReply, ChallengeRequest, EnrolReply, Enrolling, Refused, Standing,
};
use crate::batch::{self, BatchError, Header, InstallationKey, Kind};
use crate::clock::{Clock, Entropy, Now};
use crate::ids::{Digest, OrgId, StreamId};
use crate::{files, limits};

/// Batches of one burst go at least this far apart, in milliseconds; the first goes at once.
const GATHER_MS: u64 = 500;
/// The longest sleep between two looks at the spool, in milliseconds.
const LOOK_MS: u64 = 30_000;
/// While batches go, the spool is tidied this often, in milliseconds.
const TIDY_MS: u64 = 5_000;
/// Settings, registry and sign-in are read anew this often, in milliseconds.
const RELOAD_MS: u64 = 600_000;
/// With no shim left, a collector that does not take anything is given up after this, in
/// milliseconds; the next shim, or `mcpshim audit flush`, goes on.
const PATIENCE_MS: u64 = 3_600_000;
/// A refused enrolment is tried again after this, in milliseconds.
const ENROL_MS: u64 = 60_000;

/// A run of whole frames of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// The first record.
    pub first_seq: u64,
    /// The last record.
    pub last_seq: u64,
    /// The chain before the first.
    pub prev_hash: Digest,
    /// The chain after the last.
    pub last_hash: Digest,
    /// The frames.
    pub bytes: Vec<u8>,
}

/// Where records come from: the spool, or its twin in tests.
pub trait Records {
    /// Says what waits, by stream, in the order of their ids.
    ///
    /// # Errors
    /// When nothing can be read.
    fn streams(&mut self) -> io::Result<Vec<Waiting>>;

    /// Reads records; nothing when the first is not here.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(
        &mut self,
        stream: StreamId,
        from_seq: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> io::Result<Option<Frames>>;

    /// Takes note, durably, that the collector has the stream up to and including a record.
    ///
    /// # Errors
    /// When it cannot be written.
    fn ack(&mut self, stream: StreamId, upto_seq: u64) -> io::Result<()>;

    /// Says which records were delivered without their sealed part.
    ///
    /// # Errors
    /// When it cannot be read.
    fn bodies(&mut self) -> io::Result<Vec<Kept>>;

    /// Keeps a record with its sealed part, durably, beside its stream.
    ///
    /// # Errors
    /// When it cannot be written.
    fn keep_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()>;

    /// Reads such a record; nothing when it is not here, or not as it was.
    ///
    /// # Errors
    /// When it cannot be read.
    fn body(&mut self, stream: StreamId, seq: u64) -> io::Result<Option<Frames>>;

    /// Takes note that the collector has it.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn drop_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()>;

    /// Takes over what dead processes left, and removes what is acknowledged.
    ///
    /// # Errors
    /// When it cannot be done now.
    fn tidy(&mut self, now: &Now) -> io::Result<()>;
}

/// The way to the collector: HTTP, or its twin in tests.
pub trait Link {
    /// Posts a body to a path below the collector's address.
    fn post(&mut self, path: &str, body: Vec<u8>) -> impl Future<Output = Reply>;
}

/// Who sends.
#[derive(Debug)]
pub struct Sender<'a> {
    /// The organisation.
    pub org: &'a OrgId,
    /// The device.
    pub machine_id: &'a str,
    /// The installation's key.
    pub key: &'a InstallationKey,
    /// Whom the installation belongs to, with a name for them that stays the same.
    pub who: Option<(Enrolling<'a>, String)>,
    /// The collector's address, for the notes.
    pub collector: &'a str,
    /// The state directory.
    pub state_dir: &'a Path,
    /// Ends as soon as nothing waits, whoever still writes.
    pub flush: bool,
}

/// Why delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing waits and, unless flushing, nobody writes any more.
    Done,
    /// Nobody writes any more and the collector does not take what waits.
    GaveUp,
    /// Settings may have changed: read them and call again.
    Reload,
}

/// Why delivery stopped.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The spool.
    #[error("cannot read the records in {}", path.display())]
    Spool {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where the lock and the notes of delivery are.
#[must_use]
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("ship")
}

/// The spool's directory.
#[must_use]
pub fn spool_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("spool")
}

/// The right to deliver from this device; ends with the value or the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

/// Takes the right to deliver, unless somebody has it.
///
/// # Errors
/// What the file system says.
pub fn lock(state_dir: &Path) -> io::Result<Option<Lock>> {
    let dir = dir(state_dir);
    files::create_private_dir(&dir)?;
    Ok(files::try_lock(&dir.join("ship.lock"))?.map(Lock))
}

/// What the process that delivers gets of the environment: enough to find the same settings, and
/// nothing that may hold a secret.
const ENVIRONMENT: &[&str] = &[
    "APPDATA",
    "HOME",
    "LOCALAPPDATA",
    "MCPSHIM_AGENT",
    "MCPSHIM_AGENT_KEY",
    "MCPSHIM_CONFIG",
    "MCPSHIM_STATE",
    "PROGRAMDATA",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SYSTEMROOT",
    "TEMP",
    "TMPDIR",
    "USERPROFILE",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
];

/// Starts a process that delivers, and comes back at once.
///
/// `program` is this program; it runs `__ship --detach`, which starts the process that stays in a
/// session of its own and ends: the one that stays is nobody's child, so that it neither dies
/// with the client's process group nor is left behind as a zombie. Of `environment` it gets what
/// it needs to find the same settings. Call it after the first record of a stream, and again now
/// and then while recording: whoever comes second leaves at once.
///
/// # Errors
/// What the operating system says to the thread that starts it.
pub fn spawn_detached(
    program: PathBuf,
    environment: impl Iterator<Item = (OsString, OsString)>,
    run: fn(&mut std::process::Command) -> io::Result<std::process::ExitStatus>,
) -> io::Result<()> {
    let environment: Vec<_> = environment
        .filter(|(name, _)| ENVIRONMENT.iter().any(|known| is(name, known)))
        .collect();
    let start = move || {
        let mut command = std::process::Command::new(&program);
        command
            .args(["__ship", "--detach"])
            .env_clear()
            .envs(environment)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        // `CREATE_NO_WINDOW`: clients without a console are not to flash one up
        #[cfg(windows)]
        std::os::windows::process::CommandExt::creation_flags(&mut command, 0x0800_0000);
        match run(&mut command) {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!(%status, "The shipper did not start."),
            Err(error) => tracing::warn!(%error, "The shipper did not start."),
        }
    };
    // starting and reaping takes milliseconds that the caller's loop should not wait for
    std::thread::Builder::new()
        .name("ship-start".to_owned())
        .spawn(start)
        .map(drop)
}

/// Whether a variable has this name.
fn is(name: &OsStr, known: &str) -> bool {
    match cfg!(windows) {
        true => name.eq_ignore_ascii_case(known),
        false => name == known,
    }
}

/// Tells whoever delivers from this device to try again now, whatever it waits for.
///
/// # Errors
/// What the file system says.
pub fn hurry(state_dir: &Path) -> io::Result<()> {
    let dir = dir(state_dir).join("hurry");
    files::create_private_dir(&dir)?;
    files::write_private(&dir.join("now"), b"")
}

/// Says whether somebody is in a hurry, once.
fn is_hurried(state_dir: &Path) -> bool {
    std::fs::remove_file(dir(state_dir).join("hurry").join("now")).is_ok()
}

/// Starts the process that stays: `__ship` without `--detach`.
///
/// # Errors
/// What the operating system says.
pub fn spawn_stayer(program: &Path) -> io::Result<()> {
    let mut command = std::process::Command::new(program);
    command
        .arg("__ship")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    #[cfg(windows)]
    {
        /// `DETACHED_PROCESS`, `CREATE_NEW_PROCESS_GROUP`: no console, and no Ctrl-C from one.
        const OF_ITS_OWN: u32 = 0x0000_0008 | 0x0000_0200;
        std::os::windows::process::CommandExt::creation_flags(&mut command, OF_ITS_OWN);
    }
    let child = command.spawn()?;
    // not waited for: this process ends now, and the system takes the child over
    drop(child);
    Ok(())
}

/// Leaves the session and process group of whoever started this process.
pub fn leave_session() {
    #[cfg(unix)]
    if let Err(error) = rustix::process::setsid() {
        // a group leader already: started from a shell, which is as good
        tracing::debug!(%error, "Stays in the session.");
    }
}

/// Delivers until nothing is left to do.
///
/// `progress` hears after every batch how many records still wait.
///
/// # Errors
/// [`ShipError`] when the spool cannot be read at all; what cannot be sent is no error but waits.
pub async fn run<R: Records, L: Link>(
    sender: &Sender<'_>,
    records: &mut R,
    link: &mut L,
    clock: &dyn Clock,
    entropy: &mut dyn Entropy,
    progress: &mut dyn FnMut(u64),
) -> Result<Ended, ShipError> {
    let mut run = Run {
        sender,
        courier: Courier::default(),
        note: note::Keeper::open(&dir(sender.state_dir), sender.collector),
        enrol_not_before_us: 0,
        enrol_trouble: None,
        bodies: Vec::new(),
    };
    if !sender.flush {
        run.courier.bodies_later(&clock.now());
    }
    let hurry = dir(sender.state_dir).join("hurry");
    let mut wake = wake::Wake::new(spool_dir(sender.state_dir), hurry);
    let start = clock.now();
    let mut last_busy_us = start.mono_us;
    let mut last_progress_us = start.mono_us;
    let mut tidied_us = None;
    loop {
        wake.drain();
        let now = clock.now();
        if tidied_us.is_none_or(|at| now.mono_us.saturating_sub(at) >= TIDY_MS * 1000) {
            tidied_us = Some(now.mono_us);
            if let Err(error) = records.tidy(&now) {
                tracing::warn!(%error, "The spool cannot be tidied now.");
            }
        }
        let streams = records.streams().map_err(|source| ShipError::Spool {
            path: spool_dir(sender.state_dir),
            source,
        })?;
        let now = clock.now();
        let waiting: u64 = streams.iter().map(Waiting::records).sum();
        let live = streams.iter().any(|waiting| waiting.live);
        if live {
            last_busy_us = now.mono_us;
        }
        if waiting > 0 {
            run.enrol(link, clock, entropy).await;
        }
        run.bodies = records.bodies().unwrap_or_else(|error| {
            tracing::warn!(%error, "The sealed parts that wait cannot be listed.");
            Vec::new()
        });
        let left = (waiting, run.bodies.len() as u64);
        match run.courier.next(&streams, &run.bodies, &now) {
            Next::Body(body) => {
                run.send_body(&body, waiting, records, link, clock, entropy)
                    .await;
                last_busy_us = clock.now().mono_us;
            }
            Next::Send(ask) => {
                if run
                    .send(&ask, &streams, records, link, clock, entropy)
                    .await
                {
                    last_progress_us = clock.now().mono_us;
                }
                last_busy_us = clock.now().mono_us;
                progress(waiting_now(records));
                continue;
            }
            Next::Idle => {
                if let Err(error) = records.tidy(&now) {
                    tracing::warn!(%error, "The spool cannot be tidied now.");
                }
                run.note.write(left, run.trouble(), &now);
                let idle_ms = now.mono_us.saturating_sub(last_busy_us) / 1000;
                if sender.flush || (!live && idle_ms >= limits::SHIP_LINGER_MS) {
                    return Ok(Ended::Done);
                }
                if now.mono_us.saturating_sub(start.mono_us) / 1000 >= RELOAD_MS {
                    return Ok(Ended::Reload);
                }
                let pause_ms = if live {
                    LOOK_MS
                } else {
                    limits::SHIP_LINGER_MS - idle_ms
                };
                if wake.changed(Duration::from_millis(pause_ms.max(1))).await {
                    if !run.bodies.is_empty() && is_hurried(sender.state_dir) {
                        run.courier.hurry();
                    }
                    let since_ms = clock.now().mono_us.saturating_sub(last_progress_us) / 1000;
                    let gather_ms = GATHER_MS.saturating_sub(since_ms);
                    tokio::time::sleep(Duration::from_millis(gather_ms)).await;
                }
            }
            Next::Wait { until_us } => {
                run.note.write(left, run.trouble(), &now);
                let fruitless_ms = now.mono_us.saturating_sub(last_progress_us) / 1000;
                if !live && fruitless_ms >= PATIENCE_MS {
                    return Ok(Ended::GaveUp);
                }
                if now.mono_us.saturating_sub(start.mono_us) / 1000 >= RELOAD_MS {
                    return Ok(Ended::Reload);
                }
                let pause_us = until_us.saturating_sub(now.mono_us).min(LOOK_MS * 1000);
                if wake
                    .changed(Duration::from_micros(pause_us.max(1000)))
                    .await
                {
                    if is_hurried(sender.state_dir) {
                        run.courier.hurry();
                        run.enrol_not_before_us = 0;
                    } else {
                        // more was recorded, which changes nothing about what we wait for
                        let gather_us = pause_us.min(GATHER_MS * 1000);
                        tokio::time::sleep(Duration::from_micros(gather_us)).await;
                    }
                }
            }
        }
    }
}

fn waiting_now(records: &mut impl Records) -> u64 {
    let streams = records.streams().unwrap_or_default();
    streams.iter().map(Waiting::records).sum()
}

struct Run<'r, 'a> {
    sender: &'r Sender<'a>,
    courier: Courier,
    note: note::Keeper,
    enrol_not_before_us: u64,
    enrol_trouble: Option<String>,
    /// Records that were delivered without their sealed part.
    bodies: Vec<Kept>,
}

impl Run<'_, '_> {
    fn trouble(&self) -> Option<String> {
        self.courier
            .trouble()
            .map(|trouble| trouble.sentence.clone())
            .or_else(|| {
                let count = Some(self.bodies.len()).filter(|count| *count > 0)?;
                let what = match count {
                    1 => "1 sealed payload is".to_owned(),
                    count => format!("{count} sealed payloads are"),
                };
                Some(format!(
                    "{what} too large for what lies before the collector: the rest of the record was \
                     delivered, and what is kept here follows when it fits"
                ))
            })
            .or_else(|| self.enrol_trouble.clone())
    }

    /// Sends one batch; says whether something was acknowledged.
    async fn send(
        &mut self,
        ask: &Ask,
        streams: &[Waiting],
        records: &mut impl Records,
        link: &mut impl Link,
        clock: &dyn Clock,
        entropy: &mut dyn Entropy,
    ) -> bool {
        let stream = ask.stream;
        let read = records.read(
            stream,
            ask.from_seq,
            ask.max_records,
            limits::BATCH_FILL_BYTES,
        );
        let frames = match read {
            Ok(Some(frames)) => frames,
            Ok(None) => {
                self.gone(ask, streams, records, clock, entropy);
                return false;
            }
            Err(error) => {
                let sentence = format!("stream {stream} cannot be read: {error}");
                self.courier.stuck(stream, sentence, &clock.now(), entropy);
                return false;
            }
        };
        let frames = match ask.kind {
            Kind::Withheld => match without_body(frames) {
                Some(frames) => frames,
                None => {
                    let sentence = format!(
                        "record {} of stream {stream} is too large for what lies before the collector",
                        ask.from_seq
                    );
                    self.courier.stuck(stream, sentence, &clock.now(), entropy);
                    return false;
                }
            },
            _ => frames,
        };
        let now = clock.now();
        let remaining = remaining(streams, stream, &frames);
        let body = self.seal(stream, &frames, ask.kind, remaining, &now);
        let mut sent = Sent {
            stream,
            first_seq: frames.first_seq,
            last_seq: frames.last_seq,
            kind: ask.kind,
            bytes: body.as_ref().map_or(0, Vec::len),
        };
        let body = match body {
            // known not to get through, or more than any batch may hold: not sent to be refused
            Ok(body)
                if ask.kind != Kind::Withheld && self.courier.is_too_large(body.len(), &now) =>
            {
                self.courier.too_large(&sent, &now, entropy);
                return false;
            }
            Err(BatchError::TooLarge { .. }) => {
                sent.bytes = usize::MAX;
                self.courier.too_large(&sent, &now, entropy);
                return false;
            }
            Ok(body) => body,
            Err(error) => {
                self.courier.stuck(stream, error.to_string(), &now, entropy);
                return false;
            }
        };
        let path = format!("v1/streams/{stream}/batches/{}", frames.first_seq);
        let reply = link.post(&path, body).await;
        let now = clock.now();
        match self.courier.replied(&sent, &reply, &now, entropy) {
            Effect::Acked {
                stream,
                upto_seq,
                standing,
            } => {
                if standing == Standing::Unknown {
                    self.note.forget();
                }
                // before the record may go from here. A crash between the two leaves both: the record
                // is sent again, whole or not, and the collector knows it
                if ask.kind == Kind::Withheld
                    && let Err(error) = records.keep_body(stream, ask.from_seq)
                {
                    let sentence = format!("a sealed payload cannot be kept here: {error}");
                    self.courier.stuck(stream, sentence, &now, entropy);
                    return false;
                }
                // point of no return: from here on the spool may delete these records. A crash
                // before leaves them here; they are sent again, and the collector knows them.
                if let Err(error) = records.ack(stream, upto_seq) {
                    let sentence = format!("the acknowledgement cannot be kept: {error}");
                    self.courier.stuck(stream, sentence, &now, entropy);
                    return false;
                }
                self.note.sent(standing, &now);
                true
            }
            Effect::None => {
                if let Some(trouble) = self.courier.trouble() {
                    tracing::warn!(%stream, sentence = trouble.sentence, "Batch not taken.");
                }
                false
            }
        }
    }

    fn seal(
        &self,
        stream: StreamId,
        frames: &Frames,
        kind: Kind,
        remaining: u64,
        now: &Now,
    ) -> Result<Vec<u8>, BatchError> {
        let header = Header {
            org: self.sender.org.clone(),
            stream,
            first_seq: frames.first_seq,
            last_seq: frames.last_seq,
            prev_hash: frames.prev_hash,
            last_hash: frames.last_hash,
            kind,
            remaining,
            sent_us: now.wall_us,
            installation: self.sender.key.public(),
        };
        batch::seal(&header, &frames.bytes, self.sender.key.pair())
    }

    /// Sends the sealed part of a record that was delivered without. Whatever comes of it, nothing
    /// else waits for it.
    async fn send_body(
        &mut self,
        kept: &Kept,
        waiting: u64,
        records: &mut impl Records,
        link: &mut impl Link,
        clock: &dyn Clock,
        entropy: &mut dyn Entropy,
    ) {
        let (stream, seq) = (kept.stream, kept.seq);
        let sealed = match records.body(stream, seq) {
            Ok(Some(frames)) => self
                .seal(stream, &frames, Kind::Body, waiting, &clock.now())
                .map_err(|error| error.to_string()),
            // set aside: the next look does not find it
            Ok(None) => return,
            Err(error) => Err(error.to_string()),
        };
        let (bytes, reply) = match sealed {
            Ok(body) => {
                let path = format!("v1/streams/{stream}/batches/{seq}");
                (body.len(), link.post(&path, body).await)
            }
            Err(error) => (0, Reply::Cut(error)),
        };
        if !self
            .courier
            .body_replied(bytes, &reply, &clock.now(), entropy)
        {
            tracing::debug!(%stream, seq, bytes, "A sealed part still does not get through.");
            return;
        }
        // a crash before this sends it again, and the collector knows it
        if let Err(error) = records.drop_body(stream, seq) {
            tracing::warn!(%stream, seq, %error, "A delivered sealed part cannot be removed.");
            self.courier.bodies_later(&clock.now());
        }
    }

    /// The collector asked for a record that is not here: finds the oldest that is, to go on
    /// behind a gap the collector then reports.
    fn gone(
        &mut self,
        ask: &Ask,
        streams: &[Waiting],
        records: &mut impl Records,
        clock: &dyn Clock,
        entropy: &mut dyn Entropy,
    ) {
        let stream = ask.stream;
        let Some(waiting) = streams.iter().find(|waiting| waiting.stream == stream) else {
            return;
        };
        // what is here is one piece up to the newest, so half of the doubt goes at each look
        let (mut missing, mut here) = (ask.from_seq, waiting.next_unacked);
        while missing + 1 < here {
            let middle = missing + (here - missing) / 2;
            match records.read(stream, middle, 1, 1) {
                Ok(Some(_)) => here = middle,
                Ok(None) => missing = middle,
                Err(_) => break,
            }
        }
        if here <= ask.from_seq {
            let sentence = format!("record {} of stream {stream} cannot be read", ask.from_seq);
            self.courier.stuck(stream, sentence, &clock.now(), entropy);
            return;
        }
        tracing::warn!(%stream, from = ask.from_seq, here, "Records the collector lacks are gone.");
        self.courier.gone(stream, here);
    }

    /// Makes the installation known to the collector, once per installation, address and person.
    async fn enrol(&mut self, link: &mut impl Link, clock: &dyn Clock, entropy: &mut dyn Entropy) {
        let Some((who, label)) = &self.sender.who else {
            return;
        };
        let installation = self.sender.key.id();
        if self.note.is_enrolled(&installation, label)
            || clock.now().mono_us < self.enrol_not_before_us
        {
            return;
        }
        let mut random = [0; 2];
        entropy.fill(&mut random);
        let spread_ms = u64::from(u16::from_le_bytes(random)) % (ENROL_MS / 2);
        let sender = self.sender;
        let result = enrol(sender.org, sender.key, sender.machine_id, who, link).await;
        let now = clock.now();
        self.enrol_not_before_us = now.mono_us + (ENROL_MS + spread_ms) * 1000;
        match result {
            Ok(enrolled) => {
                tracing::info!(who = enrolled, "Enrolled at the collector.");
                self.enrol_trouble = None;
                self.note.enrolled(&installation, label);
            }
            Err(why) => {
                tracing::warn!(why, "Not enrolled at the collector.");
                self.enrol_trouble =
                    Some(format!("the collector does not enrol this device: {why}"));
            }
        }
    }
}

/// Makes an installation known to a collector; gives whom it is bound to there. Asked again and
/// again it changes nothing.
///
/// # Errors
/// One sentence: what the collector says, or why it is not reached.
pub async fn enrol(
    org: &OrgId,
    key: &InstallationKey,
    machine_id: &str,
    who: &Enrolling<'_>,
    link: &mut impl Link,
) -> Result<String, String> {
    let asked = ChallengeRequest {
        installation: BASE64.encode(&key.public().0),
    };
    let challenge: ChallengeReply = exchange(link, "v1/enrol/challenge", &asked).await?;
    let request = protocol::answer(org, key, machine_id, &challenge.challenge, who)
        .map_err(|error| error.to_string())?;
    let reply: EnrolReply = exchange(link, "v1/enrol", &request).await?;
    Ok(reply.enrolled)
}

async fn exchange<T: serde::de::DeserializeOwned>(
    link: &mut impl Link,
    path: &str,
    request: &impl serde::Serialize,
) -> Result<T, String> {
    let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    match link.post(path, body).await {
        Reply::Cut(why) | Reply::Unreachable(why) => Err(why),
        Reply::Answer {
            status: 200, body, ..
        } => serde_json::from_slice(&body)
            .map_err(|_not| "something else answers at the collector's address".to_owned()),
        Reply::Answer { status, body, .. } => {
            let refused: Option<Refused> = serde_json::from_slice(&body).ok();
            Err(refused.map_or_else(
                || format!("status {status}"),
                |refused| refused.error.chars().take(200).collect(),
            ))
        }
    }
}

/// A record without its sealed part, whose digest stands in its place. Nothing where it has none,
/// or where it begins a segment: without the keys in it nothing of the segment opens.
fn without_body(frames: Frames) -> Option<Frames> {
    let frame = crate::audit::frames(&frames.bytes).next()?.ok()?;
    if frame.kind == kind::SEGMENT || !matches!(frame.blob, Blob::Present(_)) {
        return None;
    }
    let mut bytes = Vec::new();
    frame.detach(&mut bytes);
    Some(Frames { bytes, ..frames })
}

/// Records that still wait on this device once this batch is stored.
fn remaining(streams: &[Waiting], stream: StreamId, frames: &Frames) -> u64 {
    let all: u64 = streams.iter().map(Waiting::records).sum();
    let next = streams
        .iter()
        .find(|waiting| waiting.stream == stream)
        .map_or(0, |waiting| waiting.next_unacked);
    // of a batch that was rewound only the new part counts
    let own = (frames.last_seq + 1).saturating_sub(frames.first_seq.max(next));
    all.saturating_sub(own)
}

#[cfg(test)]
mod tests;
