//! What to send next, and what a reply means. Pure: replies and clock readings come in,
//! decisions come out; no socket and no file is known here.
//!
//! Call [`Courier::next`] whenever something may have changed, do what it says, and tell the
//! reply to [`Courier::replied`]. Every reply has exactly one meaning; what nobody expects waits
//! and is told to a person, and never makes anything be deleted.

use std::collections::BTreeMap;

use crate::batch::Kind;
use crate::batch::protocol::{Lane, Refused, Rewind, Standing, Stored};
use crate::clock::{Entropy, Now};
use crate::ids::StreamId;
use crate::limits;

/// The longest pause a collector may ask for, in milliseconds.
const RETRY_AFTER_MS: u64 = 3_600_000;
/// Rewinds in a row without anything stored, before a stream is put aside.
const REWINDS: u32 = 16;

/// A stream with records, as the spool tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub stream: StreamId,
    /// The oldest record that is not acknowledged; greater than `last_seq` when all are.
    pub next_unacked: u64,
    /// The newest record.
    pub last_seq: u64,
    /// Its writer lives.
    pub live: bool,
}

impl Waiting {
    /// Records that are not acknowledged.
    #[must_use]
    pub fn records(&self) -> u64 {
        (self.last_seq + 1).saturating_sub(self.next_unacked)
    }
}

/// A record whose sealed part waits here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// Its size, about: the smallest goes first.
    pub bytes: u64,
    /// Its stream.
    pub stream: StreamId,
    /// Its number.
    pub seq: u64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send the sealed part of a record that was delivered without.
    Body(Kept),
    /// Nothing waits.
    Idle,
    /// Send a batch that begins with this record.
    Send(Ask),
    /// Something waits, but not before this monotonic microsecond.
    Wait {
        /// When.
        until_us: u64,
    },
}

/// A batch to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Of which stream.
    pub stream: StreamId,
    /// Its first record.
    pub from_seq: u64,
    /// At most so many.
    pub max_records: usize,
    /// How it relates to what was sent before.
    pub kind: Kind,
}

/// A batch that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Of which stream.
    pub stream: StreamId,
    /// Its first record.
    pub first_seq: u64,
    /// Its last record.
    pub last_seq: u64,
    /// How it was said to relate to what was sent before.
    pub kind: Kind,
    /// How large it was, in bytes.
    pub bytes: usize,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An HTTP answer.
    Answer {
        /// Its status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after_s: Option<u64>,
        /// Its body, bounded.
        body: Vec<u8>,
    },
    /// None, after the connection stood: cut while it was sent or answered.
    Cut(String),
    /// None: the network, TLS, or too slow.
    Unreachable(String),
}

/// What to do about a reply, beside what the courier notes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The collector has the stream up to and including this record.
    Acked {
        /// Which stream.
        stream: StreamId,
        /// Up to which record.
        upto_seq: u64,
        /// How far it trusts the key: unknown ones should enrol.
        standing: Standing,
    },
    /// Nothing.
    None,
}

/// What keeps records here, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What happened: lower case, no full stop.
    pub sentence: String,
    /// Whether it concerns one stream only; the others go on.
    pub stream: Option<StreamId>,
}

#[derive(Debug)]
struct Track {
    /// Where to go on; the oldest unacknowledged record if nothing else is known.
    next_seq: Option<u64>,
    max_records: usize,
    /// Not beyond this record, this once.
    upto_seq: Option<u64>,
    kind: Kind,
    /// A record nobody can read: sent alone, as bytes.
    quarantine: Option<u64>,
    /// A record too large for the way: sent alone, without its sealed part.
    withheld: Option<u64>,
    /// Connections that were cut in a row.
    cuts: u32,
    rewinds: u32,
    failures: u32,
    not_before_us: u64,
}

impl Default for Track {
    fn default() -> Self {
        Self {
            next_seq: None,
            max_records: limits::BATCH_RECORDS,
            upto_seq: None,
            kind: Kind::Following,
            quarantine: None,
            withheld: None,
            cuts: 0,
            rewinds: 0,
            failures: 0,
            not_before_us: 0,
        }
    }
}

/// Decides what is sent when.
#[derive(Debug, Default)]
pub struct Courier {
    tracks: BTreeMap<StreamId, Track>,
    /// The stream that was served last: the next one has its turn.
    last: Option<StreamId>,
    not_before_us: u64,
    failures: u32,
    trouble: Option<Trouble>,
    /// Batches of this size do not get through, until this monotonic microsecond.
    too_large: Option<(usize, u64)>,
    bodies_not_before_us: u64,
    bodies_failures: u32,
}

impl Courier {
    /// What keeps records here, if anything does.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Says what to do now. Streams take turns; sealed parts that were too large go when nothing
    /// else can.
    pub fn next(&mut self, streams: &[Waiting], bodies: &[Kept], now: &Now) -> Next {
        self.tracks
            .retain(|id, _| streams.iter().any(|waiting| waiting.stream == *id));
        let mut soonest: Option<u64> = None;
        let after = streams.partition_point(|waiting| Some(waiting.stream) <= self.last);
        let (first, second) = streams.split_at_checked(after).unwrap_or((streams, &[]));
        for waiting in second.iter().chain(first) {
            let track = self.tracks.entry(waiting.stream).or_default();
            let from_seq = track.next_seq.unwrap_or(waiting.next_unacked);
            if from_seq > waiting.last_seq {
                continue;
            }
            let until_us = track.not_before_us.max(self.not_before_us);
            if until_us > now.mono_us {
                soonest = Some(soonest.map_or(until_us, |soonest| soonest.min(until_us)));
                continue;
            }
            self.last = Some(waiting.stream);
            return Next::Send(track.ask(waiting.stream, from_seq));
        }
        // one that does not fit tells that no larger one does
        let due_us = self.bodies_not_before_us.max(self.not_before_us);
        if let Some(body) = bodies.iter().min()
            && due_us <= now.mono_us
        {
            return Next::Body(*body);
        }
        soonest.map_or(Next::Idle, |until_us| Next::Wait { until_us })
    }

    /// Puts the sealed parts that wait aside for the first pause: delivery begins, and nothing is
    /// known of the way.
    pub fn bodies_later(&mut self, now: &Now) {
        self.bodies_not_before_us = after(now, limits::SHIP_BODY_MS.0);
    }

    /// Takes note of the reply to a sealed part; says whether the collector has it.
    pub fn body_replied(
        &mut self,
        bytes: usize,
        reply: &Reply,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) -> bool {
        if let Reply::Answer {
            status: 200, body, ..
        } = reply
            && serde_json::from_slice::<Stored>(body).is_ok()
        {
            self.bodies_failures = 0;
            self.bodies_not_before_us = 0;
            // what fits now is no longer known
            self.too_large = self.too_large.filter(|(limit, _)| *limit > bytes);
            return true;
        }
        if let Reply::Unreachable(why) = reply {
            let sentence = format!("the collector cannot be reached: {why}");
            self.pause(sentence, None, now, entropy);
            return false;
        }
        // too large still, cut, or refused by something between: it waits, and nothing else does
        let (first_ms, most_ms) = limits::SHIP_BODY_MS;
        let doubled = self.bodies_failures.min(20);
        let pause_ms = first_ms.saturating_mul(1 << doubled).min(most_ms);
        self.bodies_failures = self.bodies_failures.saturating_add(1);
        self.bodies_not_before_us = after(now, pause_ms);
        false
    }

    /// Says whether a batch of this size is known not to get through: one did not, not long ago.
    #[must_use]
    pub fn is_too_large(&self, bytes: usize, now: &Now) -> bool {
        self.too_large
            .is_some_and(|(limit, until_us)| bytes >= limit && now.mono_us < until_us)
    }

    /// Takes note that a batch is too large for the way: half as many records go, and of one alone
    /// its sealed part stays here.
    pub fn too_large(&mut self, sent: &Sent, now: &Now, entropy: &mut dyn Entropy) {
        let track = self.tracks.entry(sent.stream).or_default();
        if sent.last_seq > sent.first_seq {
            let records = usize::try_from(sent.last_seq - sent.first_seq + 1).unwrap_or(1);
            track.max_records = (records / 2).max(1);
        } else if sent.kind == Kind::Withheld || sent.kind == Kind::Quarantine {
            let sentence =
                "the collector, or something before it, refuses a single record as too large";
            self.hold(sent.stream, sentence.to_owned(), now, entropy);
        } else {
            track.withheld = Some(sent.first_seq);
        }
    }

    /// Takes note that what the collector asked for is not here any more; `from_seq` is the
    /// oldest record that is.
    pub fn gone(&mut self, stream: StreamId, from_seq: u64) {
        let track = self.tracks.entry(stream).or_default();
        track.next_seq = Some(from_seq);
        track.kind = Kind::Gap;
        track.upto_seq = None;
    }

    /// Waits for nothing any more: a person asked. What fails again waits as long as before.
    pub fn hurry(&mut self) {
        self.not_before_us = 0;
        self.bodies_not_before_us = 0;
        for track in self.tracks.values_mut() {
            track.not_before_us = 0;
        }
    }

    /// Takes note that the spool could not be read or written: the stream waits.
    pub fn stuck(
        &mut self,
        stream: StreamId,
        sentence: String,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) {
        self.hold(stream, sentence, now, entropy);
    }

    /// Takes note of the reply to a batch.
    pub fn replied(
        &mut self,
        sent: &Sent,
        reply: &Reply,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) -> Effect {
        let (status, retry_after_s, body) = match reply {
            Reply::Unreachable(why) => {
                self.pause(
                    format!("the collector cannot be reached: {why}"),
                    None,
                    now,
                    entropy,
                );
                return Effect::None;
            }
            Reply::Cut(why) => {
                let sentence = format!("the connection to the collector is cut: {why}");
                self.pause(sentence, None, now, entropy);
                let track = self.tracks.entry(sent.stream).or_default();
                track.cuts += 1;
                // something between may end connections that carry too much
                if track.cuts >= 2 && sent.bytes >= limits::SHIP_CUT_BYTES {
                    self.too_large(sent, now, entropy);
                    self.failures = 0;
                }
                return Effect::None;
            }
            Reply::Answer {
                status,
                retry_after_s,
                body,
            } => (*status, *retry_after_s, body.as_slice()),
        };
        let refused: Option<Refused> = serde_json::from_slice(body).ok();
        let why = refused.as_ref().map_or_else(
            || format!("status {status}"),
            |refused| refused.error.chars().take(200).collect(),
        );
        match status {
            200 => match serde_json::from_slice::<Stored>(body) {
                // a captive portal answers 200 to everything
                Err(_not) => {
                    let sentence = "something else answers at the collector's address".to_owned();
                    self.pause(sentence, None, now, entropy);
                    Effect::None
                }
                Ok(stored) => self.stored(sent, &stored, now, entropy),
            },
            409 => {
                match serde_json::from_slice::<Rewind>(body) {
                    Ok(rewind) => self.rewind(sent, &rewind, now, entropy),
                    Err(_not) => self.hold(sent.stream, why, now, entropy),
                }
                Effect::None
            }
            413 => {
                // a limit of that size is one; below, a refusal says little of the next batch
                if sent.kind != Kind::Withheld && sent.bytes >= limits::SHIP_CUT_BYTES {
                    let (limit, _) = self.too_large.unwrap_or((usize::MAX, 0));
                    let until_us = after(now, limits::SHIP_BODY_MS.0);
                    self.too_large = Some((limit.min(sent.bytes), until_us));
                }
                self.too_large(sent, now, entropy);
                Effect::None
            }
            422 => {
                match refused.and_then(|refused| refused.seq) {
                    Some(seq)
                        if (sent.first_seq..=sent.last_seq).contains(&seq)
                            && sent.kind != Kind::Quarantine =>
                    {
                        self.tracks.entry(sent.stream).or_default().quarantine = Some(seq);
                    }
                    _ => self.hold(sent.stream, why, now, entropy),
                }
                Effect::None
            }
            400 => {
                self.hold(
                    sent.stream,
                    format!("the collector refuses a batch: {why}"),
                    now,
                    entropy,
                );
                Effect::None
            }
            // 401, 403, 404 are about this installation or address, 5xx and 429 about the
            // collector, 3xx about something between: none of them about one stream
            _ => {
                let sentence = format!("the collector does not take batches: {why}");
                self.pause(sentence, retry_after_s, now, entropy);
                Effect::None
            }
        }
    }

    fn stored(
        &mut self,
        sent: &Sent,
        stored: &Stored,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) -> Effect {
        if stored.acked_seq < sent.first_seq {
            let sentence = "the collector acknowledges less than it was sent before".to_owned();
            self.hold(sent.stream, sentence, now, entropy);
            return Effect::None;
        }
        // never believed beyond what was sent: it could not have it from here
        let upto_seq = stored.acked_seq.min(sent.last_seq);
        self.failures = 0;
        self.not_before_us = 0;
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.stream.is_none_or(|stream| stream == sent.stream))
        {
            self.trouble = None;
        }
        let track = self.tracks.entry(sent.stream).or_default();
        let quarantine = track.quarantine.filter(|seq| *seq > upto_seq);
        if self.too_large.is_some_and(|(limit, _)| sent.bytes >= limit) {
            // somebody raised the limit
            self.too_large = None;
            self.bodies_not_before_us = 0;
        }
        *track = Track {
            next_seq: Some(upto_seq + 1),
            max_records: (track.max_records * 2).min(limits::BATCH_RECORDS),
            quarantine,
            // the collector holds no chain up to a record it could not read
            kind: if stored.lane == Lane::Quarantine {
                Kind::Gap
            } else {
                Kind::Following
            },
            ..Track::default()
        };
        Effect::Acked {
            stream: sent.stream,
            upto_seq,
            standing: stored.standing,
        }
    }

    fn rewind(&mut self, sent: &Sent, rewind: &Rewind, now: &Now, entropy: &mut dyn Entropy) {
        let track = self.tracks.entry(sent.stream).or_default();
        track.rewinds += 1;
        let back = rewind.expected_seq < sent.first_seq;
        let shorter = rewind.expected_seq == sent.first_seq
            && rewind
                .upto_seq
                .is_some_and(|upto| (sent.first_seq..sent.last_seq).contains(&upto));
        if track.rewinds > REWINDS || rewind.expected_seq == 0 || !(back || shorter) {
            let sentence = format!(
                "the collector asks for record {} after it was sent {} to {}",
                rewind.expected_seq, sent.first_seq, sent.last_seq
            );
            self.hold(sent.stream, sentence, now, entropy);
            return;
        }
        track.next_seq = Some(rewind.expected_seq);
        track.upto_seq = rewind.upto_seq;
        track.kind = match sent.kind {
            Kind::Gap if !back => Kind::Gap,
            _ => Kind::Following,
        };
    }

    /// Puts one stream aside for a while.
    fn hold(&mut self, stream: StreamId, sentence: String, now: &Now, entropy: &mut dyn Entropy) {
        let track = self.tracks.entry(stream).or_default();
        *track = Track {
            failures: track.failures.saturating_add(1),
            ..Track::default()
        };
        track.not_before_us = after(now, jitter(track.failures, entropy));
        self.trouble = Some(Trouble {
            sentence,
            stream: Some(stream),
        });
    }

    /// Sends nothing for a while.
    fn pause(
        &mut self,
        sentence: String,
        retry_after_s: Option<u64>,
        now: &Now,
        entropy: &mut dyn Entropy,
    ) {
        self.failures = self.failures.saturating_add(1);
        let asked_ms = retry_after_s
            .map_or(0, |s| s.saturating_mul(1000))
            .min(RETRY_AFTER_MS);
        // what was asked for, and on top of it never all at once
        let pause_ms = asked_ms.saturating_add(jitter(self.failures, entropy));
        self.not_before_us = after(now, pause_ms);
        self.trouble = Some(Trouble {
            sentence,
            stream: None,
        });
    }
}

impl Track {
    fn ask(&mut self, stream: StreamId, from_seq: u64) -> Ask {
        let ask = |max_records, kind| Ask {
            stream,
            from_seq,
            max_records,
            kind,
        };
        if self.quarantine == Some(from_seq) {
            return ask(1, Kind::Quarantine);
        }
        if self.withheld == Some(from_seq) {
            return ask(1, Kind::Withheld);
        }
        let upto = [self.upto_seq, self.quarantine.map(|seq| seq - 1)]
            .into_iter()
            .flatten()
            .filter(|upto| *upto >= from_seq)
            .min();
        let room = upto.map_or(usize::MAX, |upto| {
            usize::try_from(upto - from_seq + 1).unwrap_or(usize::MAX)
        });
        ask(self.max_records.min(room), self.kind)
    }
}

fn after(now: &Now, pause_ms: u64) -> u64 {
    now.mono_us.saturating_add(pause_ms.saturating_mul(1000))
}

/// A pause of any length up to a bound that doubles: devices that lost the collector together
/// do not come back together.
fn jitter(failures: u32, entropy: &mut dyn Entropy) -> u64 {
    let (first_ms, most_ms) = limits::SHIP_BACKOFF_MS;
    let doubled = failures.saturating_sub(1).min(20);
    let bound_ms = first_ms.saturating_mul(1 << doubled).min(most_ms);
    let mut random = [0; 8];
    entropy.fill(&mut random);
    // at least a tenth, so that a run of small numbers does not become a busy loop
    let floor_ms = bound_ms / 10;
    floor_ms + u64::from_le_bytes(random) % (bound_ms - floor_ms + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::CountingEntropy;

    const A: StreamId = StreamId([1; 16]);
    const B: StreamId = StreamId([2; 16]);

    fn waiting(stream: StreamId, next_unacked: u64, last_seq: u64) -> Waiting {
        Waiting {
            stream,
            next_unacked,
            last_seq,
            live: true,
        }
    }

    fn at(ms: u64) -> Now {
        Now {
            wall_us: 0,
            mono_us: ms * 1000,
        }
    }

    fn answer(status: u16, body: &str) -> Reply {
        Reply::Answer {
            status,
            retry_after_s: None,
            body: body.as_bytes().to_vec(),
        }
    }

    fn stored(acked_seq: u64, lane: &str) -> Reply {
        let body = format!(r#"{{"acked_seq":{acked_seq},"lane":"{lane}","standing":"enrolled"}}"#);
        answer(200, &body)
    }

    struct Desk {
        courier: Courier,
        streams: Vec<Waiting>,
        bodies: Vec<Kept>,
        entropy: CountingEntropy,
        now: Now,
    }

    impl Desk {
        fn new(streams: &[Waiting]) -> Self {
            Self {
                courier: Courier::default(),
                streams: streams.to_vec(),
                bodies: Vec::new(),
                entropy: CountingEntropy(1),
                now: at(0),
            }
        }

        fn next(&mut self) -> Next {
            self.courier.next(&self.streams, &self.bodies, &self.now)
        }

        /// What is sent: first record, at most how many, and how.
        #[track_caller]
        fn sends(&mut self) -> (u64, usize, Kind) {
            match self.next() {
                Next::Send(ask) => (ask.from_seq, ask.max_records, ask.kind),
                other => panic!("expected a batch, got {other:?}"),
            }
        }

        #[track_caller]
        fn waits_until_ms(&mut self) -> u64 {
            match self.next() {
                Next::Wait { until_us } => until_us / 1000,
                other => panic!("expected a wait, got {other:?}"),
            }
        }

        fn replied(&mut self, first_seq: u64, last_seq: u64, reply: &Reply) -> Effect {
            self.replied_as(Kind::Following, first_seq, last_seq, reply)
        }

        fn replied_as(
            &mut self,
            kind: Kind,
            first_seq: u64,
            last_seq: u64,
            reply: &Reply,
        ) -> Effect {
            let sent = Sent {
                stream: A,
                first_seq,
                last_seq,
                kind,
                bytes: 1 << 20,
            };
            self.courier
                .replied(&sent, reply, &self.now, &mut self.entropy)
        }
    }

    #[test]
    fn streams_take_turns() {
        let mut desk = Desk::new(&[waiting(A, 1, 5), waiting(B, 1, 5)]);
        let order: Vec<_> = (0..4)
            .map(|_| match desk.next() {
                Next::Send(ask) => ask.stream,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(order, [A, B, A, B]);
    }

    #[test]
    fn acknowledged_streams_are_idle() {
        let mut desk = Desk::new(&[waiting(A, 6, 5)]);
        assert_eq!(desk.next(), Next::Idle);
    }

    #[test]
    fn goes_on_after_what_was_acknowledged_even_if_it_is_less_than_was_sent() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        let effect = desk.replied(1, 9, &stored(4, "main"));
        assert!(matches!(effect, Effect::Acked { upto_seq: 4, .. }));
        assert_eq!(desk.sends().0, 5);
    }

    #[test]
    fn acknowledgement_beyond_what_was_sent_is_not_believed() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        let effect = desk.replied(1, 4, &stored(9, "main"));
        assert!(matches!(effect, Effect::Acked { upto_seq: 4, .. }));
    }

    #[test]
    fn nothing_but_200_with_the_right_body_acknowledges() {
        for status in [
            100, 201, 204, 301, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503,
        ] {
            let mut desk = Desk::new(&[waiting(A, 1, 9)]);
            let body = r#"{"acked_seq":9,"lane":"main","standing":"enrolled"}"#;
            assert_eq!(
                desk.replied(1, 9, &answer(status, body)),
                Effect::None,
                "{status}"
            );
        }
        for body in [
            "<html>Welcome to the hotel</html>",
            "",
            "{}",
            r#"{"acked_seq":0,"lane":"main","standing":"enrolled"}"#,
        ] {
            let mut desk = Desk::new(&[waiting(A, 1, 9)]);
            assert_eq!(
                desk.replied(1, 9, &answer(200, body)),
                Effect::None,
                "{body}"
            );
            assert!(desk.courier.trouble().is_some());
            desk.waits_until_ms();
        }
    }

    #[test]
    fn rewinds_to_what_the_collector_expects_and_says_when_it_is_gone() {
        let mut desk = Desk::new(&[waiting(A, 8, 9)]);
        desk.replied(8, 9, &answer(409, r#"{"expected_seq":3}"#));
        assert_eq!(desk.sends(), (3, limits::BATCH_RECORDS, Kind::Following));
        desk.courier.gone(A, 5);
        assert_eq!(desk.sends(), (5, limits::BATCH_RECORDS, Kind::Gap));
        desk.replied(5, 9, &stored(9, "main"));
        assert_eq!(desk.next(), Next::Idle);
    }

    #[test]
    fn fills_a_hole_and_no_more() {
        let mut desk = Desk::new(&[waiting(A, 8, 9)]);
        desk.replied(8, 9, &answer(409, r#"{"expected_seq":3,"upto_seq":5}"#));
        assert_eq!(desk.sends(), (3, 3, Kind::Following));
    }

    #[test]
    fn collector_that_asks_in_circles_is_left_alone_for_a_while() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        desk.replied(3, 9, &answer(409, r#"{"expected_seq":7}"#));
        assert!(desk.waits_until_ms() > 0);
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        for _ in 0..=REWINDS {
            desk.replied(8, 9, &answer(409, r#"{"expected_seq":3}"#));
        }
        assert!(desk.waits_until_ms() > 0);
    }

    #[test]
    fn too_large_is_halved_down_to_one_record_and_grows_again() {
        let mut desk = Desk::new(&[waiting(A, 1, 900)]);
        let mut last = 400;
        let mut sizes = Vec::new();
        while last > 1 {
            desk.replied(1, last, &answer(413, ""));
            let (_, records, _) = desk.sends();
            sizes.push(records);
            last = records as u64;
        }
        assert_eq!(sizes, [200, 100, 50, 25, 12, 6, 3, 1]);
        desk.replied(1, 1, &stored(1, "main"));
        assert_eq!(desk.sends(), (2, 2, Kind::Following));
        // one alone goes without its sealed part, at once; nothing waits behind it
        desk.replied(2, 2, &answer(413, ""));
        assert_eq!(desk.sends(), (2, 1, Kind::Withheld));
        desk.replied_as(Kind::Withheld, 2, 2, &stored(2, "main"));
        assert_eq!(desk.sends(), (3, 4, Kind::Following));
        // what is too large without it has no other form
        desk.replied(3, 3, &answer(413, ""));
        desk.replied_as(Kind::Withheld, 3, 3, &answer(413, ""));
        assert!(desk.waits_until_ms() > 0);
        assert!(desk.courier.trouble().is_some());
    }

    #[test]
    fn connections_cut_twice_at_a_large_batch_make_it_smaller() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        let cut = Reply::Cut("reset".to_owned());
        desk.replied(1, 9, &cut);
        desk.courier.hurry();
        assert_eq!(
            desk.sends().1,
            limits::BATCH_RECORDS,
            "once may be the network"
        );
        desk.replied(1, 9, &cut);
        desk.courier.hurry();
        assert_eq!(desk.sends(), (1, 4, Kind::Following));
        // no answer at all says nothing of the size, however often
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        for _ in 0..5 {
            desk.replied(1, 9, &Reply::Unreachable("refused".to_owned()));
        }
        desk.courier.hurry();
        assert_eq!(desk.sends().1, limits::BATCH_RECORDS);
    }

    #[test]
    fn sealed_parts_are_tried_with_growing_pauses_the_smallest_first_and_stop_nothing() {
        let kept = |seq, bytes| Kept {
            bytes,
            stream: A,
            seq,
        };
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        desk.bodies = vec![kept(3, 900), kept(2, 500)];
        assert_eq!(desk.sends().0, 1, "records go first");
        desk.replied(1, 9, &stored(9, "main"));
        desk.streams = Vec::new();
        let mut tried = 0;
        for second in 0..3600 {
            desk.now = at(second * 1000);
            if let Next::Body(body) = desk.next() {
                assert_eq!(body, kept(2, 500));
                tried += 1;
                let (now, entropy) = (desk.now, &mut desk.entropy);
                assert!(
                    !desk
                        .courier
                        .body_replied(600, &answer(413, ""), &now, entropy)
                );
            } else {
                assert_eq!(desk.next(), Next::Idle, "nobody is kept awake by them");
            }
        }
        assert!((3..=12).contains(&tried), "{tried} tries in an hour");
        // a person asked; then one that fits says that the next may
        desk.courier.hurry();
        assert_eq!(desk.next(), Next::Body(kept(2, 500)));
        let (now, entropy) = (desk.now, &mut desk.entropy);
        assert!(
            desk.courier
                .body_replied(600, &stored(2, "body"), &now, entropy)
        );
        desk.bodies = vec![kept(3, 900)];
        assert_eq!(desk.next(), Next::Body(kept(3, 900)));
    }

    #[test]
    fn unreadable_record_goes_alone_and_the_stream_goes_on_behind_a_gap() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        desk.replied(1, 9, &answer(422, r#"{"error":"odd","seq":4}"#));
        assert_eq!(desk.sends(), (1, 3, Kind::Following));
        desk.replied(1, 3, &stored(3, "main"));
        assert_eq!(desk.sends(), (4, 1, Kind::Quarantine));
        let effect = desk.replied_as(Kind::Quarantine, 4, 4, &stored(4, "quarantine"));
        assert!(matches!(effect, Effect::Acked { upto_seq: 4, .. }));
        let (from, _, kind) = desk.sends();
        assert_eq!((from, kind), (5, Kind::Gap));
        desk.replied_as(Kind::Gap, 5, 9, &stored(9, "main"));
        assert_eq!(desk.next(), Next::Idle);
    }

    #[test]
    fn one_bad_stream_does_not_stop_the_others() {
        let mut desk = Desk::new(&[waiting(A, 1, 9), waiting(B, 1, 9)]);
        desk.replied(1, 9, &answer(400, r#"{"error":"odd"}"#));
        for _ in 0..3 {
            match desk.next() {
                Next::Send(ask) => assert_eq!(ask.stream, B),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn retry_after_is_kept_and_spread() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        for status in [429, 503] {
            let reply = Reply::Answer {
                status,
                retry_after_s: Some(30),
                body: Vec::new(),
            };
            desk.replied(1, 9, &reply);
            let until = desk.waits_until_ms();
            assert!((30_000..=32_000).contains(&until), "{until}");
        }
        let reply = Reply::Answer {
            status: 503,
            retry_after_s: Some(u64::MAX),
            body: Vec::new(),
        };
        desk.replied(1, 9, &reply);
        assert!(desk.waits_until_ms() <= RETRY_AFTER_MS + limits::SHIP_BACKOFF_MS.1);
    }

    #[test]
    fn person_in_a_hurry_ends_a_pause() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        desk.replied(1, 9, &answer(503, ""));
        desk.waits_until_ms();
        desk.courier.hurry();
        assert_eq!(desk.sends().0, 1);
    }

    #[test]
    fn pauses_grow_to_their_bound_and_one_success_ends_them() {
        let mut desk = Desk::new(&[waiting(A, 1, 9)]);
        let mut longest = 0;
        for round in 1..=40_u32 {
            desk.replied(1, 9, &Reply::Unreachable("refused".to_owned()));
            let pause = desk.waits_until_ms() - desk.now.mono_us / 1000;
            let bound = (1000_u64 << (round - 1).min(20)).min(limits::SHIP_BACKOFF_MS.1);
            assert!(
                (bound / 10..=bound).contains(&pause),
                "round {round}: {pause}"
            );
            longest = longest.max(pause);
            desk.now = at(desk.now.mono_us / 1000 + pause);
            desk.sends();
        }
        assert!(longest > limits::SHIP_BACKOFF_MS.1 / 2);
        desk.replied(1, 9, &stored(9, "main"));
        assert_eq!(desk.courier.trouble(), None);
        desk.streams = vec![waiting(A, 10, 12)];
        assert_eq!(desk.sends().0, 10);
    }
}
