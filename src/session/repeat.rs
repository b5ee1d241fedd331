//! The same call again and again: noticed, and stopped before it costs anything.
//!
//! A model that is stuck makes one call with the same arguments for ever. What is counted is what
//! went upstream: the same tool with the same bytes of arguments (and of what a retry carries, MCP
//! 2026-07-28 MRTR), in a window that slides. A call that was refused, or that was never sent, does
//! not count, so a stopped call is allowed again when the oldest one leaves the window.
//!
//! Memory is bounded by [`limits::REPEAT_MARKS`]: beyond it the oldest calls are forgotten, which
//! can only allow more.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::clock::Now;
use crate::limits;
use crate::policy::Access;
use crate::registry::doc::RepeatLimit;
use crate::wire::msg::Request;

/// Slots of a table of counts: one a call, so that few fall together.
const SLOTS: usize = limits::REPEAT_MARKS;
/// Arguments longer than this are told apart by their checksums, in bytes.
const LONG_BYTES: usize = 1 << 10;
const _: () = assert!(limits::REPEAT_MARKS < u16::MAX as usize);

/// Which call it is: equal for the same tool and arguments. 64 bits without a secret key: whoever
/// makes two calls collide stops their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Same(u64);

impl Same {
    /// Of a call that is counted; `None` for everything else.
    pub(super) fn of(access: &Access, request: &Request<'_>) -> Option<Self> {
        let Access::Tool { server, name } = access else {
            return None;
        };
        let params = request.params.as_ref()?;
        let mut hasher = DefaultHasher::new();
        (server.as_str(), name).hash(&mut hasher);
        for member in ["arguments", "inputResponses", "requestState"] {
            // one that is missing is not one that is empty
            let text = params.object.get(member).map(str::as_bytes);
            match text {
                // what is long is read at the speed of memory
                Some(long) if long.len() > LONG_BYTES => {
                    let (half, other) = long.split_at(long.len() / 2);
                    let sums = (crc32c::crc32c(half), crc32c::crc32c(other));
                    (long.len(), sums).hash(&mut hasher);
                }
                short => short.hash(&mut hasher),
            }
        }
        Some(Self(hasher.finish()))
    }
}

/// Calls that went upstream lately.
#[derive(Debug)]
pub(super) struct Repeats {
    /// When each was made, in monotonic microseconds, oldest first.
    made: VecDeque<(u64, Same)>,
    /// How many of them fall into each slot: below its limit no call has to be looked for.
    slots: Box<[u16; SLOTS]>,
    /// Calls that were stopped.
    stopped: u64,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            made: VecDeque::new(),
            slots: Box::new([0; SLOTS]),
            stopped: 0,
        }
    }
}

impl Repeats {
    /// Whether one more may be made while so many wait for their record. Those may all go up at
    /// once, and then they are within one window.
    ///
    /// # Errors
    /// For how many seconds not.
    pub(super) fn check(
        &mut self,
        same: Same,
        limit: RepeatLimit,
        waiting: usize,
        now: &Now,
    ) -> Result<(), u64> {
        let Some((calls, within_us)) = limit.window() else {
            return Ok(());
        };
        if usize::from(*self.slot(same)) + waiting < calls {
            return Ok(());
        }
        let over_us = match calls.checked_sub(waiting + 1) {
            None => now.mono_us.saturating_add(within_us),
            // the one that has to leave the window before another may enter it
            Some(before) => {
                let recent = self.made.iter().rev();
                let in_window =
                    |(at_us, _): &&(u64, Same)| at_us.saturating_add(within_us) > now.mono_us;
                let recent = recent.take_while(in_window);
                let decides = recent.filter(|(_, made)| *made == same).nth(before);
                decides.map_or(0, |(at_us, _)| at_us.saturating_add(within_us))
            }
        };
        match over_us.checked_sub(now.mono_us) {
            None | Some(0) => Ok(()),
            Some(left_us) => {
                self.stopped = self.stopped.saturating_add(1);
                Err(left_us.div_ceil(1_000_000))
            }
        }
    }

    /// One goes up.
    pub(super) fn note(&mut self, same: Same, now: &Now) {
        self.made.push_back((now.mono_us, same));
        *self.slot(same) += 1;
        self.forget_old(now);
    }

    /// The latest one did not reach its server after all.
    pub(super) fn unmake(&mut self, same: Same) {
        let latest = self.made.iter().rposition(|(_, made)| *made == same);
        if latest.and_then(|at| self.made.remove(at)).is_some() {
            *self.slot(same) -= 1;
        }
    }

    /// How many calls were stopped.
    pub(super) fn stopped(&self) -> u64 {
        self.stopped
    }

    fn forget_old(&mut self, now: &Now) {
        let (_, seconds) = limits::REPEAT_MOST;
        let longest_us = u64::from(seconds) * 1_000_000;
        while let Some((at_us, same)) = self.made.front().copied() {
            let full = self.made.len() > limits::REPEAT_MARKS;
            if !full && at_us.saturating_add(longest_us) > now.mono_us {
                return;
            }
            self.made.pop_front();
            *self.slot(same) -= 1;
        }
    }

    #[expect(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        reason = "the remainder is a place in the array"
    )]
    fn slot(&mut self, same: Same) -> &mut u16 {
        &mut self.slots[(same.0 % SLOTS as u64) as usize]
    }

    /// How many calls it holds.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        let counted: usize = self.slots.iter().copied().map(usize::from).sum();
        debug_assert_eq!(counted, self.made.len());
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::msg::Message;

    fn at(ms: u64) -> Now {
        Now {
            wall_us: 0,
            mono_us: ms * 1000,
        }
    }

    const LIMIT: RepeatLimit = RepeatLimit {
        calls: 3,
        seconds: 10,
    };

    fn made(repeats: &mut Repeats, same: u64, ms: u64) -> Result<(), u64> {
        let same = Same(same);
        repeats.check(same, LIMIT, 0, &at(ms))?;
        repeats.note(same, &at(ms));
        Ok(())
    }

    #[test]
    fn the_window_slides_and_says_when() {
        let mut repeats = Repeats::default();
        for ms in [1000, 4000, 4000] {
            assert_eq!(made(&mut repeats, 1, ms), Ok(()));
        }
        assert_eq!(made(&mut repeats, 1, 4001), Err(7));
        // another call is another
        assert_eq!(made(&mut repeats, 2, 4001), Ok(()));
        assert_eq!(made(&mut repeats, 1, 10_999), Err(1));
        // a stopped one does not count
        assert_eq!(made(&mut repeats, 1, 11_000), Ok(()));
        assert_eq!(made(&mut repeats, 1, 11_000), Err(3));
        assert_eq!(repeats.stopped(), 3);
    }

    #[test]
    fn one_that_was_not_sent_does_not_count() {
        let mut repeats = Repeats::default();
        for _ in 0..10 {
            assert_eq!(made(&mut repeats, 1, 5), Ok(()));
            repeats.unmake(Same(1));
        }
        assert_eq!(repeats.held(), 0);
    }

    #[test]
    fn without_a_limit_nothing_is_stopped() {
        let mut repeats = Repeats::default();
        for _ in 0..100 {
            assert_eq!(repeats.check(Same(1), RepeatLimit::OFF, 9, &at(1)), Ok(()));
        }
    }

    #[test]
    fn those_that_wait_for_their_record_count_however_long_they_do() {
        let mut repeats = Repeats::default();
        let mut check = |waiting, ms| repeats.check(Same(1), LIMIT, waiting, &at(ms));
        assert_eq!(check(2, 1000), Ok(()));
        assert_eq!(check(3, 1000), Err(10));
        assert_eq!(check(4, 100_000), Err(10));
        assert_eq!(made(&mut repeats, 1, 100_000), Ok(()));
        let mut check = |waiting, ms| repeats.check(Same(1), LIMIT, waiting, &at(ms));
        assert_eq!(check(1, 101_000), Ok(()));
        assert_eq!(check(2, 101_000), Err(9));
        assert_eq!(check(2, 110_000), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        for n in 0..3 * limits::REPEAT_MARKS as u64 {
            assert_eq!(made(&mut repeats, n, n), Ok(()));
        }
        assert_eq!(repeats.held(), limits::REPEAT_MARKS);
        // and old ones go with time
        assert_eq!(made(&mut repeats, 1, 100_000_000), Ok(()));
        assert_eq!(repeats.held(), 1);
        // one call, again and again
        for n in 0..100_u64 {
            let ms = 100_000_000 + n * 3_400;
            assert_eq!(made(&mut repeats, 7, ms), Ok(()), "{n}");
        }
    }

    #[test]
    fn long_arguments_are_told_apart() {
        let same = |text: &str| {
            let line = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{{"a":"{text}"}}}}}}"#
            );
            let Ok(Message::Request(request)) = Message::parse(line.as_bytes()) else {
                panic!("a request: {line}");
            };
            let access = Access::Tool {
                server: crate::policy::fixture::key("alpha"),
                name: "t".into(),
            };
            Same::of(&access, &request).unwrap()
        };
        let long = "x".repeat(3 * LONG_BYTES);
        let (first, last) = (format!("y{}", &long[1..]), format!("{}y", &long[1..]));
        let texts = [&long, &first, &last, &long[1..], "x", "y", ""];
        let told: std::collections::BTreeSet<u64> = texts.iter().map(|text| same(text).0).collect();
        assert_eq!(told.len(), texts.len());
        assert_eq!(same(&long), same(&long));
    }

    /// The window against every time that was let through.
    #[test]
    fn never_more_than_the_limit_in_any_window() {
        arbtest::arbtest(|u| {
            let mut repeats = Repeats::default();
            let mut all: Vec<u64> = Vec::new();
            let mut ms = 0;
            for _ in 0..u.int_in_range(0..=60)? {
                ms += u.int_in_range(0..=6000)?;
                let expected = all.iter().filter(|at| **at + 10_000 > ms).count() < 3;
                let ok = made(&mut repeats, 1, ms).is_ok();
                assert_eq!(ok, expected);
                if ok {
                    all.push(ms);
                }
            }
            Ok(())
        });
    }
}
