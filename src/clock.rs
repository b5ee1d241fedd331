//! The seams for time and randomness: the only places where either enters.
#![warn(missing_docs)]

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Microseconds since the Unix epoch. May step; never used to order or to measure.
    pub wall_us: u64,
    /// Microseconds on a clock that never steps back, from any start.
    pub mono_us: u64,
}

impl Now {
    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub fn unix_s(&self) -> u64 {
        self.wall_us / 1_000_000
    }
}

/// The second that every end is held against: the later of the clock's and of the last check of
/// the registry that this machine has stored.
///
/// A clock that steps back would otherwise give back what had ended: a grant, an agent, a sign-in.
/// Only [`Latest::of`] makes one, so that what compares an end cannot be given the bare clock. A
/// clock that ran ahead and was put right counts again from the next check on, which takes its
/// place as the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latest(u64);

impl Latest {
    /// The later of both: `checked_s` is the Unix second of the last check, 0 where there is none.
    #[must_use]
    pub fn of(now: &Now, checked_s: u64) -> Self {
        Self(now.unix_s().max(checked_s))
    }

    /// Whether what lasts until this Unix second is over. The second itself is over.
    #[must_use]
    pub fn is_past(self, end_s: u64) -> bool {
        end_s <= self.0
    }

    /// How many seconds are left until this Unix second; none when it is over.
    #[must_use]
    pub fn left_s(self, end_s: u64) -> u64 {
        end_s.saturating_sub(self.0)
    }

    /// Whether this Unix second is further ahead than `leeway_s`.
    #[must_use]
    pub fn is_before(self, begin_s: u64, leeway_s: u64) -> bool {
        begin_s > self.0.saturating_add(leeway_s)
    }
}

/// A Unix second as people write it: `2026-11-21T05:20:00Z` (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utc(pub u64);

impl std::fmt::Display for Utc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // civil date from days (proleptic Gregorian), eras of 400 years from 0000-03-01
        let (days, second) = (self.0 / 86_400 + 719_468, self.0 % 86_400);
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month) = (
            day - (153 * month + 2) / 5 + 1,
            if month < 10 { month + 3 } else { month - 9 },
        );
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

/// A number of seconds as people say it, in its two largest units: `3 h 12 min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (large, size, small, rest) = match self.0 {
            second @ 0..60 => return write!(f, "{second} s"),
            second @ 60..3_600 => (second / 60, "min", second % 60, "s"),
            second @ 3_600..86_400 => (second / 3_600, "h", second % 3_600 / 60, "min"),
            second => (second / 86_400, "d", second % 86_400 / 3_600, "h"),
        };
        match small {
            0 => write!(f, "{large} {size}"),
            _ => write!(f, "{large} {size} {small} {rest}"),
        }
    }
}

/// Tells the time.
pub trait Clock {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// Gives random bytes fit for keys and nonces.
pub trait Entropy {
    /// Fills the buffer.
    fn fill(&mut self, out: &mut [u8]);
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// Starts the monotonic clock at zero.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock everyone else takes"
    )]
    pub fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }
}

impl SystemClock {
    /// Reads the monotonic clock alone, where both would cost: see [`Now::mono_us`].
    #[must_use]
    pub fn mono_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock everyone else takes"
    )]
    fn now(&self) -> Now {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Now {
            wall_us: micros(wall),
            mono_us: micros(self.start.elapsed()),
        }
    }
}

/// The machine's random number generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(
        clippy::expect_used,
        reason = "without randomness no key is safe; the process must not go on"
    )]
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system gives random bytes");
    }
}

/// A clock for tests: stands still until it is moved.
#[derive(Debug, Default)]
pub struct FixedClock(std::cell::Cell<Now>);

impl FixedClock {
    /// Stands at the given wall second and monotonic zero.
    #[must_use]
    pub fn at(unix_s: u64) -> Self {
        Self(std::cell::Cell::new(Now {
            wall_us: unix_s * 1_000_000,
            mono_us: 0,
        }))
    }

    /// Moves both clocks forward.
    pub fn advance_ms(&self, ms: u64) {
        let now = self.0.get();
        self.0.set(Now {
            wall_us: now.wall_us + ms * 1000,
            mono_us: now.mono_us + ms * 1000,
        });
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Now {
        self.0.get()
    }
}

/// Entropy for tests: a counter, so that every run gives the same bytes.
#[derive(Debug, Default, Clone)]
pub struct CountingEntropy(pub u64);

impl Entropy for CountingEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word ^= word >> 27;
            for (byte, value) in chunk.iter_mut().zip(word.to_le_bytes()) {
                *byte = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_seen_stays_past_when_the_clock_goes_back() {
        let at = |second| FixedClock::at(second).now();
        for (now, checked) in [(100, 0), (100, 100), (40, 100), (0, 100)] {
            let latest = Latest::of(&at(now), checked);
            assert!(latest.is_past(100) && latest.is_past(99), "{now} {checked}");
            assert!(!latest.is_past(101), "{now} {checked}");
            assert_eq!((latest.left_s(130), latest.left_s(100)), (30, 0));
            assert!(latest.is_before(161, 60) && !latest.is_before(160, 60));
        }
    }

    #[test]
    fn spans_are_said_in_their_two_largest_units() {
        for (second, said) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_600, "1 h"),
            (3_725, "1 h 2 min"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(Span(second).to_string(), said);
        }
    }

    #[test]
    fn seconds_become_dates() {
        for (second, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(second).to_string(), date);
        }
    }
}
