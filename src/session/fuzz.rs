//! Any interleaving of inputs, from bytes: for fuzzing, and for the laws of the session.
//!
//! [`run`] reads bytes as a list of things that happen and plays them against a machine, a
//! client, three upstreams and a driver that records in its own time. It panics when a law breaks:
//!
//! 1. intents = outcomes + in flight, after every step; in the end nothing is in flight, and
//!    every intent has exactly one outcome;
//! 2. no call goes up before its intent is recorded, and no result comes down before its outcome
//!    is; no question of an upstream comes down before its own is, and no answer to it goes up;
//! 3. what is not granted never goes up;
//! 4. every request is answered exactly once, or, taken back, at most once;
//! 5. what the machine says is JSON-RPC, one line each; tickets and contexts are dense; nothing is
//!    said to a transport that is not there;
//! 6. what it holds is bounded, and nothing is left of it when all is settled;
//! 7. nothing is asked of the client that it did not declare, in the stateless era with the very
//!    request, nor by a server whose entry does not say so; each thing is asked once, and of
//!    whoever is signed in;
//! 8. an upstream gets one answer to its question at most: the client's to that very question, by
//!    the person who was asked, on the transport that asked;
//! 9. a call goes up once, and once more only where its upstream wanted something first, or the
//!    client says so; a retry at a server of the handshake era goes on and never goes up again,
//!    but for one that its upstream refused until an address is opened;
//! 10. a task is followed at its own server only, by whoever began it;
//! 11. the same call goes up no more often than its limit says, in any window of its length;
//! 12. nothing is told of a listen before it is acknowledged, nor what is not in that.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken law should stop the run"
)]

mod book;
mod client;
mod laws;
mod server;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::book::Reached;
use self::book::{Book, Declared, Transport};
use super::{Input, Machine, Output, Place, Ticket};
use crate::audit::entry::{Body, ContextId};
use crate::clock::{CountingEntropy, Now};
use crate::ids::LinkId;
use crate::limits;
use crate::policy::fixture;
use crate::policy::{Snapshot, SnapshotId};
use crate::registry::doc::{RepeatLimit, ServerDoc};
use crate::wire::era::{Era, Revision};

/// How often the same call to beta may be made.
const LIMIT: RepeatLimit = RepeatLimit {
    calls: 2,
    seconds: 5,
};
const NEW: &str = Era::Stateless.revision().as_str();
const OLD: &str = Revision::NEWEST_HANDSHAKE.as_str();
const FIRST: &str = Revision::OLDEST.as_str();
/// The first revision that knows elicitation.
const ASKING: &str = Revision::ALL[2].as_str();
const URIS: [&str; 5] = [
    "alpha://readme",
    "beta://readme",
    "alpha://doc/1",
    "gamma://x",
    "x",
];
/// What clients declare, in turn.
const CAPABILITIES: [&str; 10] = [
    r#"{"roots":{},"elicitation":{"form":{},"url":{}},"sampling":{"tools":{},"context":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
    r#"{"roots":{},"elicitation":{"form":{},"url":{}},"sampling":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
    "{}",
    r#"{"roots":{}}"#,
    r#"{"elicitation":{}}"#,
    r#"{"elicitation":{"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
    r#"{"sampling":{}}"#,
    r#"{"sampling":{"tools":{}},"elicitation":true}"#,
    r#"{"sampling":{"context":{}},"roots":7}"#,
    r#"{"elicitation":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
];

/// One run.
struct World<'b> {
    bytes: &'b [u8],
    machine: Machine,
    now: Now,
    entropy: CountingEntropy,
    snapshots: Vec<(Arc<Snapshot>, Option<&'static str>)>,
    numbered: u64,
    servers: BTreeMap<LinkId, Arc<ServerDoc>>,
    transports: BTreeMap<LinkId, Transport>,
    /// Which tickets are recorded; the rest of those below `settled` failed.
    recorded: BTreeSet<u64>,
    settled: Ticket,
    last: Ticket,
    contexts: u32,
    open: BTreeSet<(u64, u16)>,
    /// When the one call that is made again and again went up, in monotonic microseconds, and as what.
    repeated: Vec<(u64, LinkId, String)>,
    marks: u64,
    /// The client's own era…
    stateless: bool,
    /// …what it usually declares…
    usual: &'static str,
    /// …and what it did when it opened the session, in the handshake era.
    declared: Declared,
    /// …and before that, where it opened it more than once.
    earlier: Vec<Declared>,
    /// Who is signed in, or was last.
    person: Option<&'static str>,
    /// Whether upstreams answer what links ask for themselves.
    helpful: bool,
    done: bool,
    book: Book,
}

thread_local! {
    // made once: a run is much quicker than they are
    static SNAPSHOTS: Vec<(Arc<Snapshot>, Option<&'static str>)> = world::snapshots();
}

/// Plays the bytes; panics when a law breaks.
pub fn run(bytes: &[u8]) {
    play(bytes);
}

/// The same; gives what it came by.
pub fn play(bytes: &[u8]) -> Reached {
    let snapshots = SNAPSHOTS.with(Clone::clone);
    let how = bytes.first().copied().unwrap_or(1);
    let first = !how.is_multiple_of(4);
    let (snapshot, person) = snapshots[0].clone();
    let mut world = World {
        bytes: bytes.get(1..).unwrap_or_default(),
        machine: Machine::new(first.then_some(snapshot), None),
        now: fixture::at(fixture::NOW),
        entropy: CountingEntropy::default(),
        snapshots,
        numbered: 1,
        servers: BTreeMap::new(),
        transports: BTreeMap::new(),
        recorded: BTreeSet::new(),
        settled: Ticket(0),
        last: Ticket(0),
        contexts: 0,
        open: BTreeSet::new(),
        repeated: Vec::new(),
        marks: 0,
        stateless: how % 8 < 4,
        usual: CAPABILITIES[usize::from(how / 8) % CAPABILITIES.len()],
        declared: Declared::NOTHING,
        earlier: Vec::new(),
        person: person.filter(|_| first),
        helpful: true,
        done: false,
        book: Book::default(),
    };
    if !world.stateless {
        world.initialize();
    }
    while !world.bytes.is_empty() {
        world.step();
    }
    world.settle();
    world.book.reached
}

impl World<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *byte
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Yes, one time in so many.
    fn once_in(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    /// One of the latest.
    fn late<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        let at = usize::from(self.byte()) % 8;
        let at = if at < 4 { 0 } else { at - 3 };
        from.iter().rev().nth(at).cloned()
    }

    fn mark(&mut self) -> u64 {
        self.marks += 1;
        self.marks
    }

    fn stray_line(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.bytes.len());
        let (line, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        line.iter().copied().filter(|byte| *byte != b'\n').collect()
    }

    fn step(&mut self) {
        match self.byte() % 64 {
            0..=9 => self.call(),
            10..=19 => self.answer(),
            20..=25 => self.ask_client(),
            26..=30 => self.reply(),
            31..=35 => self.retry(),
            36 | 37 => self.follow_task(),
            38 => self.say_late(),
            39 => self.other_request(),
            40 => self.initialize(),
            41 if self.once_in(2) => self.cancel(),
            41 | 42 => self.listen(),
            43 if self.once_in(2) => self.stray(),
            43 => self.again(),
            44..=47 => self.upstream(),
            48 if self.once_in(2) => self.break_link(),
            48 => self.lose_exchange(),
            49..=52 => {
                let some = u64::from(self.byte());
                self.record(self.settled.0 + some, true);
            }
            53 if self.once_in(4) => {
                let some = u64::from(self.byte() % 8);
                self.record(self.settled.0 + some, false);
            }
            54 => self.turn(),
            55..=58 => {
                let ms = self.pick(&[
                    1, 20, 20, 20, 20, 20, 300, 300, 300, 3000, 3000, 3000, 20_000, 20_000, 60_000,
                    700_000,
                ]);
                self.pass(ms);
            }
            59 => {
                self.request(
                    "tools/call",
                    r#""name":"beta_echo","arguments":{"again":1}"#,
                );
            }
            60 => self.helpful = !self.once_in(8),
            61 => self.renew(),
            _ => {
                // time for what was recorded and gathered
                self.record(self.last.0, true);
                self.pass(20);
            }
        }
    }

    /// Time passes.
    fn pass(&mut self, ms: u64) {
        self.now.mono_us += ms * 1000;
        // slowly: registry and sign-in are to last for most of a run
        self.now.wall_us += ms * 10;
        self.handle(Input::Wake);
    }

    /// Registry or sign-in move.
    fn turn(&mut self) {
        let at = usize::from(self.byte()) % self.snapshots.len();
        let (snapshot, person) = self.snapshots[at].clone();
        self.numbered += 1;
        let id = SnapshotId(self.numbered);
        let snapshot = Arc::new(snapshot.with_live(id, BTreeMap::new(), &self.now));
        // nobody is not somebody else
        self.person = person.or(self.person);
        self.handle(Input::Snapshot(snapshot));
    }

    fn record(&mut self, upto: u64, well: bool) {
        let upto = Ticket(upto.min(self.last.0));
        if upto <= self.settled {
            return;
        }
        if well {
            self.recorded.extend(self.settled.0 + 1..=upto.0);
        }
        self.settled = upto;
        self.handle(match well {
            true => Input::Recorded { upto },
            false => Input::NotRecorded {
                upto,
                reason: "disk full".to_owned(),
            },
        });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.give(input);
        // a wake that is due and stays due would spin the driver
        let mut wakes = 0;
        while let Some(at) = self
            .machine
            .next_wakeup()
            .filter(|at| *at <= self.now.mono_us)
        {
            assert!(wakes < 4, "still due after {wakes} wakes: {at}");
            self.give(Input::Wake);
            wakes += 1;
        }
    }

    fn give(&mut self, input: Input<'_>) {
        self.machine.handle(input, &self.now, &mut self.entropy);
        let mut more = self.drain();
        while let Some((link, line)) = more.pop() {
            let transport = self.transports[&link];
            let input = match &line {
                // it was closed again meanwhile
                _ if !transport.open => continue,
                None if transport.up => continue,
                None => {
                    self.transports.entry(link).or_default().up = true;
                    Input::LinkOpened {
                        link,
                        credential: None,
                    }
                }
                Some(line) => Input::LinkLine {
                    link,
                    place: Place::Only,
                    line,
                },
            };
            self.machine.handle(input, &self.now, &mut self.entropy);
            let further = self.drain();
            more.splice(0..0, further);
        }
        let (intents, outcomes, open) = self.machine.books();
        assert_eq!(intents, outcomes + open, "the books do not balance");
        assert_eq!(
            open,
            self.open.len() as u64,
            "an intent without its execution"
        );
        assert!(self.open.len() <= limits::CALLS_IN_FLIGHT);
    }

    fn drain(&mut self) -> Vec<(LinkId, Option<Vec<u8>>)> {
        let mut more = Vec::new();
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Append(ticket, entry) => self.appended(ticket, &entry.body),
                Output::CloseLink(link) => {
                    assert!(self.servers.contains_key(&link));
                    self.gone(link);
                }
                Output::Done => {
                    assert!(!self.done, "done twice");
                    self.done = true;
                }
                Output::Headers(..) | Output::Learned(..) => {}
                Output::OpenLink(link, server) => {
                    self.servers.insert(link, server);
                    let transport = self.transports.entry(link).or_default();
                    *transport = Transport {
                        number: transport.number + 1,
                        open: true,
                        up: false,
                        era: None,
                    };
                    if self.helpful {
                        more.push((link, None));
                    }
                }
                Output::ToClient(line) => self.client_gets(&line),
                Output::ToLink(link, line) => self.link_gets(link, &line, &mut more),
            }
        }
        more.reverse();
        more
    }

    /// A transport is not there any more.
    fn gone(&mut self, link: LinkId) {
        if let Some(transport) = self.transports.get_mut(&link) {
            (transport.open, transport.up) = (false, false);
        }
        self.book.in_flight.retain(|(of, _), _| *of != link);
    }

    fn appended(&mut self, ticket: Ticket, body: &Body) {
        assert_eq!(ticket.0, self.last.0 + 1, "tickets are dense");
        self.last = ticket;
        match body {
            Body::Context(id, _) => {
                self.contexts += 1;
                assert_eq!(*id, ContextId(self.contexts), "contexts are dense");
            }
            Body::Denial { facts, .. } => {
                for id in [facts.caller, facts.client, facts.target, facts.rule] {
                    assert!((1..=self.contexts).contains(&id.0), "a context comes first");
                }
            }
            Body::Intent(facts) => {
                for id in [facts.caller, facts.client, facts.target, facts.rule] {
                    assert!((1..=self.contexts).contains(&id.0), "a context comes first");
                }
                let leg = (facts.call.0, facts.leg);
                assert!(self.open.insert(leg), "one intent a leg");
                for mark in book::Mark::every_in(&facts.content.0) {
                    self.book.intents.entry(mark).or_default().push(ticket.0);
                }
            }
            Body::Outcome {
                call, leg, content, ..
            } => {
                assert!(self.open.remove(&(call.0, *leg)), "one outcome an intent");
                for mark in book::Mark::every_in(&content.0) {
                    self.book.outcomes.entry(mark).or_default().push(ticket.0);
                }
            }
            Body::Counted { .. } | Body::Link { .. } | Body::Loss { .. } => {}
        }
    }

    /// Everything ends: the driver catches up, links close, time passes, the client goes.
    fn settle(&mut self) {
        self.helpful = true;
        for _ in 0..4 {
            self.record(self.last.0, true);
            for link in self.servers.keys().copied().collect::<Vec<_>>() {
                self.gone(link);
                let reason = "ended".to_owned();
                self.handle(Input::LinkClosed { link, reason });
            }
            self.now.mono_us += 700_000_000;
            self.handle(Input::Wake);
        }
        self.record(self.last.0, true);
        self.nothing_left();
        self.handle(Input::ClientClosed);
        self.record(self.last.0, true);
        assert!(self.done, "the session did not end");
        assert!(self.open.is_empty(), "an intent without an outcome");
        assert_eq!(self.machine.books().2, 0);
        self.nothing_left();
        for (id, request) in &self.book.requests {
            if !request.cancelled && !self.book.strays.contains(id) {
                assert_eq!(request.answered, request.sent, "request {id}");
            }
        }
    }

    /// Nobody waits for anything, so nothing is kept for it.
    fn nothing_left(&self) {
        let machine = &self.machine;
        assert!(machine.outbox.settled(), "something waits for a record");
        let held = [
            ("parked calls", machine.parks.held()),
            ("calls between two legs", machine.drives.held()),
            ("questions", machine.questions.held()),
            ("calls that may become tasks", machine.tasks.expecting()),
            ("upstreams that wait for roots", machine.roots.held()),
            ("requests that are kept", machine.calls.kept_bytes()),
        ];
        for (what, held) in held {
            assert_eq!(held, 0, "{what} are left");
        }
    }
}
