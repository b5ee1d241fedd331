//! The loop: one event in, the machine's outputs out, everything written once per turn.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::assemble::{assemble, without_registry};
use super::credentials::{self, Answer, Keeper, phrase};
use super::learned::{Known, Learned};
use super::record::{Recorder, Settled};
use super::requests::Request;
use super::run_file::Restarted;
use super::server_log;
use super::signals::signals;
use super::watch::{News, Watcher};
use crate::audit::encode::StreamHeader;
use crate::audit::entry::{Body, Entry};
use crate::clock::{Clock as _, Now, SystemClock, SystemEntropy};
use crate::config::{self, Config, Network};
use crate::identity::{Caller, Owner};
use crate::ids::{CredentialId, Digest, KeyId, LinkId, ServerKey};
use crate::policy::{Snapshot, SnapshotId};
use crate::registry::doc::{RegistryVersion, ServerDoc, Transport};
use crate::report::Failure;
use crate::secret::{Content, Scrubber, Secret};
use crate::session::{CredentialUse, Input, Machine, Output, Place};
use crate::spool::{RealDisk, Spool};
use crate::upstream::streams::{Sink, Source};
use crate::upstream::{
    Child, Environment, Heard, Launch, Pipe, PipeEvent, Places, Remote, SpawnError, unanswered,
};
use crate::wire::line::{LineBuffer, LineFault};
use crate::wire::peek::Peeked;
use crate::{fetch, limits, ship, telemetry, upstream, vault};

/// While the client has this much to read, nothing more is read from upstreams.
const CLIENT_QUEUE_BYTES: usize = 8 << 20;
/// While the client has this much to read, nothing more is read from itself either.
const CLIENT_FULL_BYTES: usize = 64 << 20;
/// Turns that may bring lines before signals, news and the clock are asked again.
const DATA_IN_A_ROW: u32 = 8;
/// How long we may go on with what is at hand before we look who else has something, in
/// microseconds.
const UNINTERRUPTED_US: u64 = 2_000;
/// How long the end may take: a client that ends us gives half a second (measured: Claude Code).
const SETTLE: Duration = Duration::from_millis(300);
/// How long remote servers may take to hear that their sessions are over.
const FAREWELL: Duration = Duration::from_millis(100);
/// How long what a killed guard left may take to end. Only a hostile server leaves something.
const ORPHANS: Duration = Duration::from_millis(400);
/// Reads for each server and the client before a time that has come is told to the machine.
const READS_OVERDUE: u32 = 4;
/// Turns of the runtime without anything to read before it is told.
const TURNS_OVERDUE: u32 = 4;
/// How often the process that delivers is asked for while records are written, in microseconds.
const DELIVERY_US: u64 = 60_000_000;
/// The run file is written at most this often, in microseconds.
const REPORT_US: u64 = 1_000_000;

/// Everything that can happen to the driver.
#[derive(Debug)]
enum Event {
    /// The client's bytes were read; none means it closed its end.
    ClientRead(usize),
    /// The client's streams broke.
    ClientBroke(io::Error),
    /// What was there when the timer rang has been read.
    CaughtUp,
    /// Something about credentials.
    Credential(credentials::News),
    /// A server moved.
    Link(LinkId, PipeEvent),
    /// Records were settled on the spool's thread.
    Settled(Vec<Settled>),
    /// A signal asks us to end.
    Signal,
    /// The watcher has something new.
    News(News),
    /// The machine's time has come, or the end's.
    Timer,
    /// The client has read the last of what there was for it, and nothing more will come.
    Written,
}

/// A transport that was not started.
#[derive(Debug)]
struct Stillborn {
    link: LinkId,
    reason: String,
    /// A person can mend it here: it is tried again with the next call.
    ours: bool,
}

/// Whether the client wants more than to know who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engaged {
    /// Clients start throw-away processes: nothing is made or started for one.
    No,
    /// It asked; its answer goes first.
    Asked,
    /// What changes is watched, or could not be.
    Watching,
}

/// What is still read before the machine hears that its time has come.
///
/// After a stop (a debugger, `docker pause`, a frozen machine) the timer has rung, and the answer
/// it was set for may lie in a pipe. The system tells of the timer first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Overdue {
    /// Reads left: a server that never stops writing does not hold up the time.
    reads: u32,
    /// Turns of the runtime left that bring nothing; what comes by HTTP takes a few.
    turns: u32,
}

impl Overdue {
    fn new(pipes: usize) -> Self {
        // a pipe holds no more than one read, or a few
        let reads = u32::try_from(pipes).unwrap_or(u32::MAX);
        Self {
            reads: reads.saturating_add(1).saturating_mul(READS_OVERDUE),
            turns: TURNS_OVERDUE,
        }
    }
}

struct Driver {
    machine: Machine,
    recorder: Recorder,
    clock: SystemClock,
    /// When this turn of the loop began: one reading serves all that came together.
    now: Now,
    entropy: SystemEntropy,
    config: Option<Config>,
    environment: Environment,
    /// Where programs are that the environment does not know of.
    places: Places,
    client_in: Option<Source>,
    client_buffer: LineBuffer,
    client_out: Sink,
    pipes: BTreeMap<LinkId, Pipe>,
    keeper: Keeper,
    /// What nobody may be shown.
    scrubber: Scrubber,
    /// How servers were found to speak; `None` where there is no place to keep it.
    learned: Option<Learned>,
    /// What was known of links that are being opened.
    known: BTreeMap<LinkId, Known>,
    /// The credentials of links, by name.
    credentials: BTreeMap<LinkId, (ServerKey, CredentialUse)>,
    /// Sessions of servers behind an address whose end is being said.
    farewells: JoinSet<()>,
    /// Transports that could not be started: the machine is told after its outputs were read.
    stillborn: VecDeque<Stillborn>,
    /// The link that is looked at first, so that a busy one does not starve the others.
    turn: u32,
    /// A link was heard last, so the client is asked first.
    links_last: bool,
    /// Turns in a row that brought lines, without anything else being asked.
    in_a_row: u32,
    /// Rings when a signal asks us to end.
    signals: oneshot::Receiver<()>,
    watcher: Option<Watcher>,
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to, in monotonic microseconds.
    armed_us: Option<u64>,
    /// The machine's time has come, and what is there already is read first.
    overdue: Option<Overdue>,
    /// The newest snapshot, `None` while a first one is waited for.
    snapshot: Option<Arc<Snapshot>>,
    engaged: Engaged,
    /// The process that delivers is not asked for before this.
    delivery_not_before_us: u64,
    /// When the run file is written next; `None` while it says what holds.
    report_at_us: Option<u64>,
    report_not_before_us: u64,
    /// The machine has settled everything.
    done: bool,
    /// The end was asked for; by then it comes.
    ends_us: Option<u64>,
}

/// Serves until the client or a signal ends it.
pub(super) async fn serve(config: Result<Config, Failure>) -> io::Result<()> {
    let mut driver = Driver::new(config)?;
    let mut waited_us = 0;
    while !driver.is_over() {
        driver.arm();
        let mut waited = false;
        let event = poll_fn(|cx| {
            let event = driver.poll_event(cx);
            waited |= event.is_pending();
            event
        });
        let event = event.await;
        driver.now = driver.clock.now();
        driver.on(event);
        driver.settle();
        if driver.overdue.is_some() {
            // the runtime asks the system what has come
            tokio::task::yield_now().await;
        }
        if waited {
            waited_us = driver.now.mono_us;
        } else if driver.now.mono_us.saturating_sub(waited_us) > UNINTERRUPTED_US {
            // whoever always has something to read keeps tokio from looking who else has
            tokio::task::yield_now().await;
            waited_us = driver.now.mono_us;
        }
    }
    if !driver.has_settled() {
        tracing::warn!("The end took too long: not everything was written.");
    }
    driver.end().await;
    Ok(())
}

impl Driver {
    fn new(config: Result<Config, Failure>) -> io::Result<Self> {
        let clock = SystemClock::new();
        let now = clock.now();
        let id = SnapshotId(0);
        let scrubber = Scrubber::new();
        let (config, snapshot) = match config {
            Ok(config) => {
                telemetry::scrub_with(&scrubber);
                telemetry::prepare(&config);
                let snapshot = assemble(&config, id, &now);
                (Some(config), snapshot)
            }
            Err(failure) => (None, without_registry(&failure, id, &now)),
        };
        // only a machine that can still get its first registry lets its client wait
        let waits = config.is_some() && snapshot.registry().is_none();
        let session = config.as_ref().and_then(|c| c.client_session.clone());
        let recorder = match &config {
            Some(config) => Recorder::new(
                spool(config, &snapshot, &clock),
                spool_dir(config),
                clock.clone(),
            ),
            None => Recorder::nowhere("mcpshim is not configured".to_owned(), clock.clone()),
        };
        let snapshot = (!waits).then_some(snapshot);
        let mut machine = Machine::new(snapshot.clone(), session);
        let project = config.as_ref().and_then(|c| c.project_dir.as_deref());
        if let Some(uri) = project.and_then(as_root) {
            machine.set_project(&uri);
        }
        Ok(Self {
            machine,
            snapshot,
            recorder,
            entropy: SystemEntropy,
            environment: Environment::of(config::children(config.as_ref())),
            places: Places::default(),
            keeper: Keeper::new(config.clone(), clock.clone(), scrubber.clone()),
            scrubber,
            learned: config.as_ref().map(|c| Learned::new(&c.state_dir)),
            known: BTreeMap::new(),
            credentials: BTreeMap::new(),
            config,
            client_in: Some(Source::standard()?),
            client_buffer: LineBuffer::new(),
            client_out: Sink::standard(),
            pipes: BTreeMap::new(),
            farewells: JoinSet::new(),
            stillborn: VecDeque::new(),
            turn: 0,
            links_last: false,
            in_a_row: 0,
            signals: signals()?,
            watcher: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed_us: None,
            overdue: None,
            engaged: Engaged::No,
            delivery_not_before_us: 0,
            report_at_us: None,
            report_not_before_us: 0,
            done: false,
            ends_us: None,
            clock,
            now,
        })
    }

    // ---- waiting

    /// Over when everything is settled and written, or when the end has taken too long.
    fn is_over(&self) -> bool {
        let late = || self.ends_us.is_some_and(|at| self.clock.mono_us() >= at);
        self.has_settled() || late()
    }

    fn has_settled(&self) -> bool {
        self.done && !self.recorder.is_away() && self.client_out.queued_bytes() == 0
    }

    /// Sets the timer if it would ring too late. One that rings too early costs a turn; setting
    /// it for every call would cost more.
    fn arm(&mut self) {
        let wanted = [self.machine.next_wakeup(), self.ends_us, self.report_at_us];
        let Some(at) = wanted.into_iter().flatten().min() else {
            return;
        };
        if self.armed_us.is_some_and(|armed| armed <= at) {
            return;
        }
        let pause = at.saturating_sub(self.clock.mono_us());
        let deadline = Instant::now() + Duration::from_micros(pause);
        self.timer.as_mut().reset(deadline);
        self.armed_us = Some(at);
    }

    /// Writes what can be written, then finds the next event. Everything that can move us is
    /// asked, so everything can wake us.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(Err(error)) = self.client_out.poll_flush(cx) {
            return Poll::Ready(Event::ClientBroke(error));
        }
        for pipe in self.pipes.values_mut() {
            pipe.poll_flush(cx);
        }
        // nobody else rings when the last byte is out
        if self.has_settled() {
            return Poll::Ready(Event::Written);
        }
        if let Some(overdue) = self.overdue {
            return Poll::Ready(self.poll_overdue(cx, overdue));
        }
        // only now: what it does at first would keep a lone processor from the first answer
        if self.engaged == Engaged::Asked {
            self.watch();
        }
        // most turns bring a line: what is rare is asked where there is none, and every few lines
        let rare_first = self.in_a_row >= DATA_IN_A_ROW;
        for rare in [rare_first, !rare_first] {
            let event = match rare {
                true => self.poll_rare(cx),
                false => self.poll_lines(cx),
            };
            if event.is_ready() {
                let asked = rare || rare_first;
                self.in_a_row = if asked { 0 } else { self.in_a_row + 1 };
                return event;
            }
        }
        Poll::Pending
    }

    /// Everything but lines.
    fn poll_rare(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.client_in.is_some() && Pin::new(&mut self.signals).poll(cx).is_ready() {
            return Poll::Ready(Event::Signal);
        }
        if let Poll::Ready(settled) = self.recorder.poll_settled(cx) {
            return Poll::Ready(Event::Settled(settled));
        }
        if let Some(watcher) = &mut self.watcher {
            match watcher.poll_news(cx) {
                Poll::Pending => {}
                Poll::Ready(Some(news)) => return Poll::Ready(Event::News(news)),
                Poll::Ready(None) => {
                    tracing::error!("The watcher ended: restart the client to follow changes.");
                    self.watcher = None;
                }
            }
        }
        if let Poll::Ready(news) = self.keeper.poll_news(cx) {
            return Poll::Ready(Event::Credential(news));
        }
        if self.armed_us.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Timer);
        }
        Poll::Pending
    }

    /// The time has come: what is there is read first, and then it is told.
    fn poll_overdue(&mut self, cx: &mut Context<'_>, mut overdue: Overdue) -> Event {
        if let Some(reads) = overdue.reads.checked_sub(1)
            && let Poll::Ready(event) = self.poll_lines(cx)
        {
            overdue.reads = reads;
            self.overdue = Some(overdue);
            return event;
        }
        self.overdue = overdue.turns.checked_sub(1).map(|turns| Overdue {
            turns,
            reads: overdue.reads,
        });
        Event::CaughtUp
    }

    fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // a server that never stops writing must not keep us from the client, nor the client us
        // from servers: whoever was heard last is asked last
        let held = self.client_out.queued_bytes();
        let read_links = held < CLIENT_QUEUE_BYTES;
        // a server that we do not read stops reading us: more for it would only pile up
        let read_client = held < CLIENT_FULL_BYTES
            && (read_links || self.queued_for_links() < limits::LINK_QUEUE_BYTES / 2);
        for links in [!self.links_last, self.links_last] {
            let event = match links {
                true => self.poll_links(cx, read_links),
                false => self.poll_client(cx, read_client),
            };
            if event.is_ready() {
                self.links_last = links;
                return event;
            }
        }
        Poll::Pending
    }

    fn poll_client(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        if let Some(source) = self.client_in.as_mut().filter(|_| read)
            && let Poll::Ready(read) = source.poll_fill(cx, &mut self.client_buffer)
        {
            return Poll::Ready(match read {
                Ok(len) => Event::ClientRead(len),
                Err(error) => Event::ClientBroke(error),
            });
        }
        Poll::Pending
    }

    /// Bytes that wait for all servers together.
    fn queued_for_links(&self) -> usize {
        self.pipes.values().map(Pipe::queued_bytes).sum()
    }

    /// Looks at every link once, the one after the last that had something first.
    fn poll_links(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Event> {
        for second_half in [true, false] {
            for (id, pipe) in &mut self.pipes {
                if (id.0 >= self.turn) == second_half
                    && let Poll::Ready(event) = pipe.poll_event(cx, read)
                {
                    self.turn = id.0.wrapping_add(1);
                    return Poll::Ready(Event::Link(*id, event));
                }
            }
        }
        Poll::Pending
    }

    // ---- what happens

    fn on(&mut self, event: Event) {
        match event {
            Event::ClientBroke(error) => {
                tracing::info!(%error, "The client is gone.");
                self.client_in = None;
                self.client_out = Sink::closed();
                self.ask_to_end();
            }
            Event::ClientRead(0) => {
                self.client_in = None;
                if let Some(fault) = self.client_buffer.finish() {
                    self.handle(Input::ClientFault(fault, Peeked::default()));
                }
                self.ask_to_end();
            }
            Event::ClientRead(_) => self.client_lines(),
            Event::CaughtUp if self.overdue.is_some() => {}
            Event::CaughtUp => self.handle(Input::Wake),
            Event::Credential(credentials::News::Answer(answer)) => self.credential(answer),
            Event::Credential(credentials::News::Serials(kept)) => self.renew_changed(&kept),
            Event::Link(link, event) => self.on_link(link, event),
            Event::Settled(settled) => self.give(settled),
            Event::Signal => {
                self.client_in = None;
                self.ask_to_end();
            }
            Event::News(news) => self.on_news(news),
            Event::Timer => {
                self.armed_us = None;
                let due = self.machine.next_wakeup();
                if due.is_some_and(|at| at <= self.now.mono_us) {
                    self.overdue = Some(Overdue::new(self.pipes.len()));
                }
            }
            Event::Written => {}
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Credentials => {
                self.keeper.look();
                for server in self.machine.without_credential() {
                    self.handle(Input::Renew {
                        server,
                        at_once: false,
                    });
                }
            }
            News::Restart(request) => self.restart(&request),
            News::Snapshot(snapshot) => {
                if let Some(registry) = snapshot.registry() {
                    self.recorder.set_audit_keys(&registry.org.audit_keys);
                }
                self.snapshot = Some(Arc::clone(&snapshot));
                let ended = self.end_others(snapshot.caller().map(Caller::owner));
                self.handle(Input::Snapshot(snapshot));
                for server in ended {
                    let at_once = false;
                    self.handle(Input::Renew { server, at_once });
                }
            }
        }
    }

    /// Somebody else is signed in: servers that were given another's credential end now, and so do
    /// the calls in flight there. Nobody's sign-in ends none: no call is allowed then, and whoever
    /// signs in again goes on.
    fn end_others(&mut self, owner: Option<Owner>) -> BTreeSet<ServerKey> {
        let Some(owner) = owner else {
            return BTreeSet::new();
        };
        let given = self.credentials.iter();
        let others: Vec<(LinkId, ServerKey)> = given
            .filter(|(_, (_, credential))| credential.owner != owner)
            .map(|(link, (server, _))| (*link, server.clone()))
            .collect();
        for (link, server) in &others {
            tracing::info!(%server, "Ended: its credential is not that of who is signed in now.");
            self.credentials.remove(link);
            if let Some(pipe) = self.pipes.remove(link) {
                self.stop(pipe);
            }
            let reason = "was ended, because somebody else signed in".to_owned();
            self.handle(Input::LinkClosed {
                link: *link,
                reason,
            });
        }
        others.into_iter().map(|(_, server)| server).collect()
    }

    /// Opens servers anew, because a person asked for it in a terminal.
    fn restart(&mut self, request: &Request) {
        let meant = |key: &ServerKey| request.server.as_ref().is_none_or(|only| only == key);
        let mut servers = self.machine.servers_in_use();
        servers.retain(meant);
        let registry = self.snapshot.as_deref().and_then(Snapshot::registry);
        if let (Some(registry), Some(learned)) = (registry, &mut self.learned) {
            for (_, server) in registry.servers.iter().filter(|(key, _)| meant(key)) {
                learned.learn(&server.transport, None, &self.now);
            }
        }
        let restarted = Restarted {
            request: request.id.clone(),
            servers: servers.len(),
        };
        for server in servers {
            tracing::info!(%server, "Restarted on request.");
            let at_once = request.at_once;
            self.handle(Input::Renew { server, at_once });
        }
        if let Some(watcher) = &self.watcher {
            watcher.restarted(restarted);
        }
    }

    fn client_lines(&mut self) {
        while let Some(line) = self.client_buffer.next_line() {
            let input = match line {
                Ok(line) => Input::ClientLine(line),
                Err(fault) => Input::ClientFault(fault, self.client_buffer.peeked()),
            };
            self.machine.handle(input, &self.now, &mut self.entropy);
        }
        if self.engaged == Engaged::No && self.machine.is_engaged() {
            self.engage();
        }
    }

    fn on_link(&mut self, link: LinkId, event: PipeEvent) {
        match event {
            PipeEvent::Ended(reason) => {
                let reason = self.shown(reason);
                self.credentials.remove(&link);
                if let Some(mut pipe) = self.pipes.remove(&link)
                    && let Some(fault) = pipe.finish()
                {
                    self.handle(Input::LinkFault {
                        link,
                        place: Place::Only,
                        fault,
                    });
                }
                self.handle(Input::LinkClosed { link, reason });
            }
            PipeEvent::Doubted {
                id,
                mut loss,
                doubtful,
            } => {
                loss.reason = self.shown(loss.reason);
                let doubtful = self.shown(doubtful);
                self.handle(Input::ExchangeDoubted {
                    link,
                    id,
                    loss,
                    doubtful,
                });
            }
            PipeEvent::Forgotten { met, said } => {
                let said = self.shown(said);
                self.credentials.remove(&link);
                self.pipes.remove(&link);
                self.handle(Input::LinkForgotten { link, met, said });
            }
            PipeEvent::Lost { id, mut loss } => {
                loss.reason = self.shown(loss.reason);
                self.handle(Input::ExchangeLost { link, id, loss });
            }
            PipeEvent::Over { id, body } if self.machine.awaits(link, id) => {
                let mut loss = unanswered(&body);
                loss.reason = self.shown(loss.reason);
                let doubtful = loss.reason.clone();
                self.handle(Input::ExchangeDoubted {
                    link,
                    id,
                    loss,
                    doubtful,
                });
            }
            PipeEvent::Over { .. } => {}
            PipeEvent::Read => {
                let Some(pipe) = self.pipes.get_mut(&link) else {
                    return;
                };
                // only a server that was given a credential can give it back
                let scrubber = self.credentials.get(&link).map(|_| &self.scrubber);
                while let Some(Heard { place, line }) = pipe.next_line() {
                    if let Err(fault @ LineFault::TooLong { .. }) = line {
                        let place = pipe.place_of_dropped().unwrap_or(place);
                        let input = Input::LinkFault { link, place, fault };
                        self.machine.handle(input, &self.now, &mut self.entropy);
                        continue;
                    }
                    let clean = match (&line, scrubber) {
                        (Ok(line), Some(scrubber)) => scrubber.scrub_json(line),
                        (_, _) => None,
                    };
                    let input = match (line, &clean) {
                        (Ok(_), Some((line, times))) => {
                            let times = *times;
                            let redacted = Input::LinkRedacted { link, times };
                            self.machine.handle(redacted, &self.now, &mut self.entropy);
                            Input::LinkLine { link, place, line }
                        }
                        (Ok(line), None) => Input::LinkLine { link, place, line },
                        (Err(fault), _) => Input::LinkFault { link, place, fault },
                    };
                    self.machine.handle(input, &self.now, &mut self.entropy);
                }
                if let Some(over) = self.pipes.get_mut(&link).and_then(Pipe::next_over) {
                    self.on_link(link, over);
                }
            }
            PipeEvent::Started => {
                if let Some(known) = self.known.remove(&link) {
                    let opening = known.opening;
                    self.handle(Input::LinkKnown { link, opening });
                }
                let credential = self.credentials.get(&link);
                let credential = credential.map(|(_, credential)| credential.clone());
                self.handle(Input::LinkOpened { link, credential });
            }
            PipeEvent::Unheard(mut loss) => {
                loss.reason = self.shown(loss.reason);
                self.handle(Input::LinkUnheard { link, loss });
            }
        }
    }

    /// A sentence with a stranger's words in it, without live secrets.
    fn shown(&self, text: String) -> String {
        match self.scrubber.scrub_str(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(clean) => clean,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.machine.handle(input, &self.now, &mut self.entropy);
    }

    fn give(&mut self, settled: Vec<Settled>) {
        let mut recorded = false;
        for settled in settled {
            self.handle(match settled {
                Settled::NotRecorded { upto, reason } => Input::NotRecorded { upto, reason },
                Settled::Recorded { upto } => {
                    recorded = true;
                    Input::Recorded { upto }
                }
            });
        }
        if recorded {
            self.see_to_delivery();
        }
    }

    /// Something was recorded: a process that delivers is started with the first record, and
    /// asked for again once a minute, in case it died.
    fn see_to_delivery(&mut self) {
        let now_us = self.now.mono_us;
        let registry = self.snapshot.as_deref().and_then(Snapshot::registry);
        let collected = registry.is_some_and(|registry| registry.org.collector.is_some());
        if self.config.is_none() || !collected || now_us < self.delivery_not_before_us {
            return;
        }
        self.delivery_not_before_us = now_us.saturating_add(DELIVERY_US);
        let started = std::env::current_exe().and_then(|program| {
            let environment = config::children(self.config.as_ref());
            ship::spawn_detached(program, environment.into_iter(), |command| {
                upstream::beside(|| command.spawn(), |mut child| child.wait())?
            })
        });
        if let Err(error) = started {
            tracing::warn!(%error, "Records wait: the process that delivers is not started.");
        }
    }

    /// The first real request: from here on files may be made, and the registry renewed.
    fn engage(&mut self) {
        self.engaged = Engaged::Asked;
        let Some(config) = &self.config else {
            return;
        };
        if let Err(error) = telemetry::open() {
            tracing::debug!(%error, "There is no local log.");
        }
        if let Err(error) = config::remember(config) {
            tracing::warn!(%error, "That this machine is managed is not noted.");
        }
        self.places.ask(&self.environment);
    }

    /// Follows the registry, sign-ins and requests from here on.
    fn watch(&mut self) {
        self.engaged = Engaged::Watching;
        let Some(config) = &self.config else {
            return;
        };
        let snapshot = self.snapshot.as_deref();
        match Watcher::start(config.clone(), self.clock.clone(), snapshot) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => tracing::warn!(%error, "The registry is not watched."),
        }
    }

    fn ask_to_end(&mut self) {
        if self.ends_us.is_none() {
            let settle_us = u64::try_from(SETTLE.as_micros()).unwrap_or(u64::MAX);
            self.ends_us = Some(self.now.mono_us.saturating_add(settle_us));
            self.handle(Input::ClientClosed);
        }
    }

    // ---- doing

    /// Carries out what the machine wants, until it wants nothing more.
    fn settle(&mut self) {
        loop {
            while let Some(output) = self.machine.poll() {
                self.carry_out(output);
            }
            let settled = self.recorder.settle(&self.now);
            // a record may be waiting for the collector: nobody settles it before it is delivered
            if self.recorder.is_away() {
                self.see_to_delivery();
            }
            let told = !settled.is_empty() || !self.stillborn.is_empty();
            self.give(settled);
            while let Some(one) = self.stillborn.pop_front() {
                let Stillborn { link, reason, ours } = one;
                self.handle(match ours {
                    true => Input::LinkRefused { link, reason },
                    false => Input::LinkClosed { link, reason },
                });
            }
            // what ends with them is recorded and told in another round
            if !self.end_the_unfit() && !told {
                break;
            }
        }
        self.report();
    }

    /// Says in the run file what has moved.
    fn report(&mut self) {
        if self.watcher.is_some() && self.machine.take_moved() {
            let at_us = self.now.mono_us.max(self.report_not_before_us);
            self.report_at_us.get_or_insert(at_us);
        }
        if let Some(watcher) = &self.watcher
            && self.report_at_us.is_some_and(|at| at <= self.now.mono_us)
        {
            self.report_at_us = None;
            self.report_not_before_us = self.now.mono_us.saturating_add(REPORT_US);
            watcher.report(self.machine.report());
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Append(ticket, mut entry) => {
                self.scrub(&mut entry);
                self.recorder.push(ticket, entry);
            }
            Output::CloseLink(link) => {
                self.keeper.forget(link);
                self.credentials.remove(&link);
                if let Some(pipe) = self.pipes.remove(&link) {
                    self.stop(pipe);
                }
            }
            Output::Done => self.done = true,
            Output::Headers(link, headers) => {
                if let Some(pipe) = self.pipes.get_mut(&link) {
                    pipe.mirror(*headers);
                }
            }
            Output::Learned(link, server, opening) => {
                let older = self.pipes.get(&link).is_some_and(Pipe::is_older);
                let known = opening.map(|opening| Known { opening, older });
                if let Some(learned) = &mut self.learned {
                    learned.learn(&server.transport, known, &self.now);
                }
            }
            Output::OpenLink(link, server) if server.credential.is_some() => {
                self.keeper.acquire(link, server, self.snapshot.as_deref());
            }
            Output::OpenLink(link, server) => self.open(link, &server, None),
            Output::ToClient(line) => self.client_out.push(line),
            Output::ToLink(link, line) => self.send(link, line),
        }
    }

    /// What a client sends may hold a live credential; the record of it does not.
    fn scrub(&self, entry: &mut Entry) {
        let (Body::Intent(facts) | Body::Denial { facts, .. }) = &mut entry.body else {
            return;
        };
        let content = &facts.content.0;
        // arguments are JSON, addresses are not
        let clean = match content.first() {
            Some(b'{') => self.scrubber.scrub_json(content).map(|(clean, _)| clean),
            Some(_) | None => match self.scrubber.scrub(content) {
                Cow::Borrowed(_) => None,
                Cow::Owned(clean) => Some(clean),
            },
        };
        if let Some(clean) = clean {
            facts.content = Content(clean.into());
        }
    }

    /// Servers that run with another value than the one that is kept now are opened anew.
    fn renew_changed(&mut self, kept: &BTreeMap<(Owner, CredentialId), u64>) {
        let mut changed = BTreeSet::new();
        for (server, credential) in self.credentials.values_mut() {
            let own = (credential.owner, credential.id.clone());
            let now = kept.get(&own).copied().unwrap_or_default();
            if credential.serial != now {
                // asked for once
                credential.serial = now;
                changed.insert(server.clone());
            }
        }
        for server in changed {
            let at_once = false;
            self.handle(Input::Renew { server, at_once });
        }
    }

    /// The keeper has answered for a link that waits.
    fn credential(&mut self, answer: Answer) {
        let (link, server) = (answer.link, answer.server);
        let caller = self.snapshot.as_deref().and_then(Snapshot::caller);
        let owner = caller.map(Caller::owner);
        match answer.result {
            Ok((credential, _)) if owner.is_some_and(|owner| owner != credential.owner) => {
                let reason = "was not opened, because somebody else signed in".to_owned();
                let ours = true;
                self.stillborn.push_back(Stillborn { link, reason, ours });
            }
            Ok((credential, secret)) => {
                let given = (server.key.clone(), credential);
                self.credentials.insert(link, given);
                self.open(link, &server, Some(&secret));
            }
            Err(failure) => {
                let reason = phrase(&server, &failure);
                tracing::warn!(server = %server.key, %reason, "A credential is not there.");
                let ours = true;
                self.stillborn.push_back(Stillborn { link, reason, ours });
            }
        }
    }

    fn open(&mut self, link: LinkId, server: &ServerDoc, secret: Option<&Secret>) {
        let learned = self.learned.as_ref();
        let known = learned.and_then(|learned| learned.look(&server.transport, &self.now));
        let older = known.is_some_and(|known| known.older);
        match known {
            Some(known) => drop(self.known.insert(link, known)),
            None => drop(self.known.remove(&link)),
        }
        let opened = match &server.transport {
            Transport::Http { ca_pem, .. } => self.reach(server, ca_pem.as_deref(), secret, older),
            Transport::Stdio { .. } => self.spawn(server, secret),
        };
        match opened {
            Ok(pipe) => drop(self.pipes.insert(link, pipe)),
            Err(reason) => {
                self.credentials.remove(&link);
                let ours = false;
                self.stillborn.push_back(Stillborn { link, reason, ours });
            }
        }
    }

    fn spawn(&self, server: &ServerDoc, secret: Option<&Secret>) -> Result<Pipe, String> {
        let config = self.config.as_ref();
        let log = config.map(|config| server_log(config, &server.key));
        let project = config.and_then(|config| config.project_dir.as_deref());
        let launch = Launch::of(server, &self.environment, log);
        let child = launch.and_then(|mut launch| {
            launch.settle(project, &self.places)?;
            launch.scrubber = self.scrubber.clone();
            if let Some((doc, secret)) = server.credential.as_ref().zip(secret) {
                launch.inject(doc, secret)?;
            }
            Child::spawn(&launch)
        });
        child.map(Pipe::from).map_err(|error| error.to_string())
    }

    fn reach(
        &self,
        server: &ServerDoc,
        ca_pem: Option<&str>,
        secret: Option<&Secret>,
        older: bool,
    ) -> Result<Pipe, String> {
        let network = self.config.as_ref().map(|config| &config.network);
        let dialer = fetch::dialer(network.unwrap_or(&Network::default()), ca_pem)
            .map_err(|error| format!("cannot be reached: {error}"))?;
        let remote = Remote::open(dialer, server, secret, older);
        remote
            .map(Pipe::from)
            .map_err(|error: SpawnError| error.to_string())
    }

    /// Ends a transport. What it still has to say is said beside everything else.
    fn stop(&mut self, pipe: Pipe) {
        if let Some(farewell) = pipe.stop() {
            self.farewells.spawn(farewell);
        }
        while self.farewells.try_join_next().is_some() {}
    }

    fn send(&mut self, link: LinkId, line: Bytes) {
        // one that is gone: the machine hears of it, or closed it itself
        if let Some(pipe) = self.pipes.get_mut(&link) {
            pipe.push(line);
        }
    }

    /// One upstream that does not read must not fill our memory, and one that never ends a line
    /// must not keep us reading. Returns whether any was ended.
    fn end_the_unfit(&mut self) -> bool {
        // while the client does not read, no server is read: it may wait for us
        let heard = self.client_out.queued_bytes() < CLIENT_QUEUE_BYTES;
        let unfit = |pipe: &Pipe| {
            let limit = limits::LINK_UNREAD_BYTES;
            if heard && pipe.queued_bytes() > limit {
                let limit = limit >> 20;
                return Some(format!("does not read: more than {limit} MiB wait for it"));
            }
            let limit = limits::LINE_ENDLESS_BYTES;
            let limit_mib = limit >> 20;
            (pipe.dropped_bytes() > limit)
                .then(|| format!("sent a line of more than {limit_mib} MiB that has no end"))
        };
        let unfit: Vec<_> = self
            .pipes
            .iter()
            .filter_map(|(link, pipe)| Some((*link, unfit(pipe)?)))
            .collect();
        let any = !unfit.is_empty();
        for (link, reason) in unfit {
            if let Some(pipe) = self.pipes.remove(&link) {
                self.stop(pipe);
                self.credentials.remove(&link);
                self.handle(Input::LinkClosed { link, reason });
            }
        }
        any
    }

    // ---- the end

    /// Children end with their guards, which see us go.
    async fn end(mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.end();
        }
        self.recorder.close();
        let flushed = poll_fn(|cx| self.client_out.poll_flush(cx));
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_millis(50), flushed).await {
            tracing::debug!(%error, "The client did not read to the end.");
        }
        let said = async { while self.farewells.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, said).await.is_err() {
            tracing::debug!("A remote session was left to time out.");
        }
        upstream::settled(ORPHANS).await;
    }
}

/// A directory as a root.
fn as_root(dir: &Path) -> Option<String> {
    Some(reqwest::Url::from_file_path(dir).ok()?.into())
}

fn spool_dir(config: &Config) -> PathBuf {
    config.state_dir.join("spool")
}

/// The stream of this process; nothing is made before its first record.
fn spool(config: &Config, snapshot: &Snapshot, clock: &SystemClock) -> Spool {
    let registry = snapshot.registry();
    let version: Option<RegistryVersion> = registry.map(|registry| registry.version);
    let keys = registry.map_or(&[][..], |registry| &registry.org.audit_keys);
    let (org, machine_id) = (config.org.clone(), config.machine_id.clone());
    let state_dir = config.state_dir.clone();
    let started = clock.now();
    let describe = move |stream, _: &_| StreamHeader {
        stream,
        org: org.clone(),
        machine_id: machine_id.clone(),
        installation: installation(&state_dir),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        registry: version,
        others: 0,
        previous: Vec::new(),
    };
    Spool::new(
        spool_dir(config),
        Box::new(RealDisk),
        Box::new(describe),
        keys,
        Box::new(SystemEntropy),
    )
}

/// The key that signs this installation's batches; made when it is first needed. Without one
/// the stream names a key of zeros, and is not delivered until there is one.
fn installation(state_dir: &Path) -> KeyId {
    match vault::installation_key(state_dir, &mut SystemEntropy) {
        Ok(key) => key.id().clone(),
        Err(error) => {
            tracing::warn!(%error, "This installation has no key: records are not delivered.");
            Digest::default().into()
        }
    }
}
