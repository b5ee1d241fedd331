//! Dates as people write them in a grant.

/// Days from 1970-01-01 to a civil date of the proleptic Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    // years begin in March, so that the leap day is the last one
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let in_year = (153 * month + 2) / 5 + day - 1;
    Some(year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468)
}

/// Reads `2026-11-21`, the first second of that day in UTC, or `2026-11-21T05:20:00Z`
/// (RFC 3339, UTC only), as Unix seconds.
pub(super) fn parse(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
        digits.parse().ok()
    };
    let is = |at: usize, byte: u8| text.as_bytes().get(at) == Some(&byte);
    let day = days(number(0..4)?, number(5..7)?, number(8..10)?)? * 86_400;
    if !(is(4, b'-') && is(7, b'-')) {
        return None;
    }
    match text.len() {
        10 => Some(day),
        20 if is(10, b'T') && is(13, b':') && is(16, b':') && is(19, b'Z') => {
            let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
            let fits = hour < 24 && minute < 60 && second < 60;
            fits.then_some(day + hour * 3600 + minute * 60 + second)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_moments_are_read() {
        assert_eq!(parse("1970-01-01"), Some(0));
        assert_eq!(parse("2000-02-29"), Some(951_782_400));
        assert_eq!(parse("2026-11-21"), Some(1_795_219_200));
        assert_eq!(parse("2026-11-21T05:20:01Z"), Some(1_795_238_401));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-04-31",
            "2026-1-1",
            "26-01-01",
            "2026/01/01",
            "2026-01-01 ",
            "tomorrow",
            "2026-01-01T24:00:00Z",
            "+026-01-01",
            "2026-01-01T00:00:00+01:00",
            "1969-12-31",
            "",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
