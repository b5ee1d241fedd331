//! The same call again and again: noticed, and stopped before it costs anything.
//!
//! A model that is stuck makes one call with the same arguments for ever. What is counted is what
//! went upstream: the same tool with the same bytes of arguments (and of what a retry carries, MCP
//! 2026-07-28 MRTR), in a window that slides. A call that was refused, or that was never sent, does
//! not count, so a stopped call is allowed again when the oldest one leaves the window.
//!
//! Memory is bounded by [`limits::REPEAT_MARKS`]: beyond it the oldest calls are forgotten, which
//! can only allow more.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::clock::Now;
use crate::limits;
use crate::policy::Access;
use crate::registry::doc::RepeatLimit;
use crate::wire::msg::Request;

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
            params.object.get(member).hash(&mut hasher);
        }
        Some(Self(hasher.finish()))
    }
}

/// Calls that went upstream lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// When each call was made, in monotonic microseconds, oldest first.
    seen: HashMap<Same, VecDeque<u64>>,
    /// All of them, oldest first; some of them are not in `seen` any more.
    order: VecDeque<(u64, Same)>,
    /// Calls that were stopped.
    stopped: u64,
}

impl Repeats {
    /// Whether one more may be made.
    ///
    /// # Errors
    /// For how many seconds not.
    pub(super) fn check(&mut self, same: Same, limit: RepeatLimit, now: &Now) -> Result<(), u64> {
        let Some((calls, within_us)) = limit.window() else {
            return Ok(());
        };
        let Some(times) = self.seen.get(&same) else {
            return Ok(());
        };
        // the one that has to leave the window before another may enter it
        let decides = times.len().checked_sub(calls).and_then(|at| times.get(at));
        let over_us = decides.map_or(0, |at_us| at_us.saturating_add(within_us));
        match over_us.checked_sub(now.mono_us) {
            None | Some(0) => Ok(()),
            Some(left_us) => {
                self.stopped = self.stopped.saturating_add(1);
                Err(left_us.div_ceil(1_000_000))
            }
        }
    }

    /// One is made.
    pub(super) fn note(&mut self, same: Same, limit: RepeatLimit, now: &Now) {
        let Some((calls, _)) = limit.window() else {
            return;
        };
        let times = self.seen.entry(same).or_default();
        times.push_back(now.mono_us);
        // earlier ones decide nothing any more
        while times.len() > calls {
            times.pop_front();
        }
        self.order.push_back((now.mono_us, same));
        self.forget_old(now);
    }

    /// The latest one was not sent after all.
    pub(super) fn unmake(&mut self, same: Same) {
        if let Some(times) = self.seen.get_mut(&same) {
            times.pop_back();
            if times.is_empty() {
                self.seen.remove(&same);
            }
        }
    }

    /// How many calls were stopped.
    pub(super) fn stopped(&self) -> u64 {
        self.stopped
    }

    fn forget_old(&mut self, now: &Now) {
        let (_, seconds) = limits::REPEAT_MOST;
        let longest_us = u64::from(seconds) * 1_000_000;
        while let Some((at_us, same)) = self.order.front().copied() {
            let full = self.order.len() > limits::REPEAT_MARKS;
            if !full && at_us.saturating_add(longest_us) > now.mono_us {
                return;
            }
            self.order.pop_front();
            if let Some(times) = self.seen.get_mut(&same) {
                while times.front().is_some_and(|time| *time <= at_us) {
                    times.pop_front();
                }
                if times.is_empty() {
                    self.seen.remove(&same);
                }
            }
        }
    }

    /// How many calls it holds.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        let seen: usize = self.seen.values().map(VecDeque::len).sum();
        debug_assert!(seen <= self.order.len());
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        repeats.check(same, LIMIT, &at(ms))?;
        repeats.note(same, LIMIT, &at(ms));
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
        assert!(repeats.seen.is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_remembered() {
        let mut repeats = Repeats::default();
        for _ in 0..100 {
            assert_eq!(repeats.check(Same(1), RepeatLimit::OFF, &at(1)), Ok(()));
            repeats.note(Same(1), RepeatLimit::OFF, &at(1));
        }
        assert_eq!(repeats.held(), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        for n in 0..3 * limits::REPEAT_MARKS as u64 {
            assert_eq!(made(&mut repeats, n, n), Ok(()));
        }
        assert_eq!(repeats.held(), limits::REPEAT_MARKS);
        assert_eq!(repeats.seen.len(), limits::REPEAT_MARKS);
        // and old ones go with time
        assert_eq!(made(&mut repeats, 1, 100_000_000), Ok(()));
        assert_eq!(repeats.held(), 1);
        // one call, again and again
        for n in 0..100_u64 {
            let ms = 100_000_000 + n * 3_400;
            assert_eq!(made(&mut repeats, 7, ms), Ok(()), "{n}");
            assert!(repeats.seen[&Same(7)].len() <= 3);
        }
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
