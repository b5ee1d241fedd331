//! Dates as people write them in a grant.

use crate::registry::metadata::Expiry;

/// Reads `2026-11-21`, the first second of that day in UTC, or `2026-11-21T05:20:00Z`
/// (RFC 3339, UTC only), as Unix seconds.
pub(super) fn parse(text: &str) -> Option<u64> {
    let moment = match text.len() {
        10 => Expiry::parse(&format!("{text}T00:00:00Z")),
        _ => Expiry::parse(text),
    };
    moment.map(|moment| moment.0)
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
