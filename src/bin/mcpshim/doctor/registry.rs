//! Is there a registry, is it current, and would a refresh work? Is the clock right?

use std::time::Duration;

use mcpshim::clock::{SystemClock, Utc};
use mcpshim::config::Config;
use mcpshim::fetch::{self, FetchError, Patience};
use mcpshim::registry::{Freshness, Loaded, RegistryError};
use mcpshim::report::{Exit, Failure};

use super::Context;
use super::finding::{Finding, Level, found};

/// The clock may differ from others' by this much, in seconds.
const CLOCK_S: u64 = 300;
/// How long the source may take.
const PATIENCE: Patience = Patience {
    total_ms: 10_000,
    stall_ms: 5_000,
    stall_bytes: 1,
};

/// What is on this machine.
pub(super) fn here(loaded: &Result<std::sync::Arc<Loaded>, FetchError>) -> Vec<Finding> {
    match loaded {
        Ok(loaded) => {
            let registry = &loaded.registry;
            let end = Utc(registry.expires);
            let mut findings: Vec<Finding> = loaded
                .warnings
                .iter()
                .map(|warning| found("registry-note", warning.clone()))
                .collect();
            match loaded.freshness {
                Freshness::Fresh => {}
                Freshness::Grace => findings.push(found(
                    "registry-grace",
                    format!("the registry expired at {end}: only reading is allowed"),
                )),
                Freshness::Lapsed => findings.push(found(
                    "registry-lapsed",
                    format!("the registry expired at {end}, and its grace is over: nothing may be called"),
                )),
            }
            findings
        }
        Err(FetchError::Missing { .. }) => vec![found(
            "registry-missing",
            "no registry was ever verified on this machine",
        )],
        Err(error) => vec![failed(error)],
    }
}

/// An error of the registry's own functions, under its code.
fn failed(error: &FetchError) -> Finding {
    let failure = Failure::from_error(Exit::Registry, error).hint(error.hint());
    let said = failure.in_one_line();
    let code = match error {
        FetchError::Busy => "registry-unreachable",
        FetchError::Client { .. } => "registry-tls",
        FetchError::Disk { source, .. } => {
            if source.kind() == std::io::ErrorKind::StorageFull {
                "disk-full"
            } else {
                "state-damaged"
            }
        }
        FetchError::Missing { .. } => "registry-missing",
        FetchError::Url { .. } => "settings-unreadable",
        FetchError::Registry(error) => match error {
            RegistryError::BelowMinimum { .. } | RegistryError::RolledBack { .. } => {
                "registry-older"
            }
            RegistryError::Damaged { .. } => "state-damaged",
            RegistryError::Expired { .. } => "registry-expired",
            RegistryError::TooFewSignatures { .. } | RegistryError::UnknownKey { .. } => {
                "registry-signature"
            }
            RegistryError::Elsewhere { .. } => "registry-elsewhere",
            RegistryError::Unavailable { .. } => unreachable(&said).0,
            RegistryError::Document { .. }
            | RegistryError::Malformed { .. }
            | RegistryError::OtherOrganisation { .. }
            | RegistryError::TooNew { .. }
            | RegistryError::WrongDigest { .. }
            | RegistryError::WrongVersion { .. } => "registry-unusable",
        },
    };
    let mut finding = found(code, failure.sentence.clone());
    finding.details.clone_from(&failure.causes);
    match error {
        FetchError::Registry(RegistryError::Unavailable { .. }) => finding,
        _ => finding.fix(error.hint()),
    }
}

/// What kind of not answering an error tells of: the end of a code, and a phrase that follows a
/// subject. By its words, since they are all that crosses the library of HTTP.
pub(super) fn unreachable(said: &str) -> (&'static str, &'static str) {
    let lower = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&[
        "dns error",
        "failed to lookup",
        "name or service not known",
        "resolve",
    ]) {
        ("registry-name", "has a name that cannot be resolved")
    } else if has(&["certificate", "unknownissuer", "tls", "handshake"]) {
        (
            "registry-tls",
            "shows a certificate that is not trusted here",
        )
    } else {
        ("registry-unreachable", "cannot be reached")
    }
}

/// What is published, and what time it is there.
pub(super) fn source(context: &Context) -> Vec<Finding> {
    let mut findings = clock(context);
    let url = &context.config.registry_url;
    let usable = context
        .loaded
        .as_ref()
        .is_some_and(|loaded| loaded.freshness == Freshness::Fresh);
    let probed = run(fetch::probe(
        &context.config,
        &SystemClock::new(),
        &PATIENCE,
    ));
    if let (Some(Ok(false)), Some(loaded), false) = (&probed, &context.loaded, usable) {
        let end = Utc(loaded.registry.expires);
        findings.push(found(
            "registry-expired",
            format!("the registry that is published at {url} expired at {end}"),
        ));
    }
    if let Some(Err(error)) = probed {
        // what is wrong with the state on the disk is said by whoever reads it
        let mut finding = failed(&error);
        if let FetchError::Registry(RegistryError::Unavailable { .. }) = &error {
            let said = Failure::from_error(Exit::Registry, &error).in_one_line();
            finding.sentence = format!("the registry at {url} {}", unreachable(&said).1);
        }
        if let FetchError::Registry(RegistryError::Elsewhere { .. }) = &error {
            finding.sentence = format!("{url} answers, but no registry is there");
            finding.fix = above(url);
        }
        if usable && finding.code != "state-damaged" {
            // what was verified before is in use until it expires
            let level = match finding.code {
                "registry-signature" | "registry-older" => Level::Problem,
                _ => Level::Warning,
            };
            finding = finding.level(level);
        }
        findings.push(finding);
    }
    findings
}

/// Which address to name instead of one at which no registry is.
fn above(url: &str) -> String {
    let trimmed = url.trim_end_matches('/');
    let below = ["metadata", "targets"];
    let above = below.iter().find_map(|name| trimmed.strip_suffix(name));
    match above.filter(|above| above.ends_with('/')) {
        Some(above) => format!("name the directory above metadata/: `registry_url = {above:?}`"),
        None => "name the directory above metadata/ in `registry_url`, and see that its files may \
                 be read"
            .to_owned(),
    }
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().ok()?;
    Some(runtime.block_on(future))
}

/// Compares the clock with when the registry was checked, and with what its host says.
fn clock(context: &Context) -> Vec<Finding> {
    let now_s = context.now.unix_s();
    let wrong = |seconds: u64, way: &str, by: &str| {
        vec![
            found(
                "clock-wrong",
                format!(
                    "this machine's clock is {} {way}, going by {by}",
                    span(seconds)
                ),
            )
            .detail(format!("it says {}", Utc(now_s))),
        ]
    };
    if let Some(loaded) = &context.loaded {
        let checked = loaded.registry.checked;
        if checked > now_s + CLOCK_S {
            let by = format!("the registry, which was checked at {}", Utc(checked));
            return wrong(checked - now_s, "behind", &by);
        }
    }
    let Some(Some(there)) = run(date(&context.config)) else {
        return Vec::new();
    };
    let by = "the registry's host";
    if there > now_s + CLOCK_S {
        wrong(there - now_s, "behind", by)
    } else if now_s > there + CLOCK_S {
        wrong(now_s - there, "ahead", by)
    } else {
        Vec::new()
    }
}

/// The time at the registry's host, if it has one and says it.
async fn date(config: &Config) -> Option<u64> {
    let url = reqwest::Url::parse(&config.registry_url).ok()?;
    if !url.scheme().starts_with("http") {
        return None;
    }
    let client = fetch::client(&config.network, None).ok()?;
    let asked = client.head(url).timeout(Duration::from_secs(5)).send();
    let answer = asked.await.ok()?;
    parse_date(answer.headers().get("date")?.to_str().ok()?)
}

/// RFC 9110 §5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<u64> {
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = u64::try_from(months.iter().position(|name| *name == month)?).ok()? + 1;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut time = parts
        .next()?
        .split(':')
        .map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1970..=9999).contains(&year) || day > 31 || parts.next() != Some("GMT") {
        return None;
    }
    // days from civil (proleptic Gregorian), years that begin in March
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Seconds as people say them.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_hosts_are_read() {
        assert_eq!(
            parse_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777)
        );
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(
            parse_date("Thu, 29 Feb 2024 12:00:00 GMT"),
            Some(1_709_208_000)
        );
        for bad in [
            "",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "x, 1 Foo 1994 1:1:1 GMT",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_address_one_level_off_is_put_right() {
        let right = "name the directory above metadata/: `registry_url = \"https://r.example/a/\"`";
        assert_eq!(above("https://r.example/a/metadata"), right);
        assert_eq!(above("https://r.example/a/metadata/"), right);
        assert_eq!(above("https://r.example/a/targets/"), right);
        for other in ["https://r.example/a", "https://r.example/mymetadata"] {
            assert!(!above(other).contains("r.example"), "{other}");
        }
    }

    #[test]
    fn ways_of_not_answering_are_told_apart() {
        assert_eq!(
            unreachable("error: dns error: failed to lookup").0,
            "registry-name"
        );
        assert_eq!(
            unreachable("invalid peer certificate: UnknownIssuer").0,
            "registry-tls"
        );
        assert_eq!(
            unreachable("Connection refused (os error 111)").0,
            "registry-unreachable"
        );
    }
}
