//! Secrets that stand in the sources, where everybody who has the registry reads them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::problem::{At, Problem, Problems, Sink};

const FIX: &str =
    "take it out and change it: everyone who has the registry or its history can read it";

/// How the tokens of well-known issuers begin, and how long they are at least.
const TOKENS: [(&str, usize, &str); 28] = [
    ("AGE-SECRET-KEY-1", 40, "an age key"),
    ("AIza", 39, "a Google API key"),
    ("AKIA", 20, "an AWS access key"),
    ("ASIA", 20, "an AWS access key"),
    ("SG.", 60, "a SendGrid key"),
    ("dop_v1_", 60, "a DigitalOcean token"),
    ("ghp_", 40, "a GitHub token"),
    ("gho_", 40, "a GitHub token"),
    ("ghu_", 40, "a GitHub token"),
    ("ghs_", 40, "a GitHub token"),
    ("ghr_", 40, "a GitHub token"),
    ("github_pat_", 40, "a GitHub token"),
    ("glpat-", 26, "a GitLab token"),
    ("hf_", 34, "a Hugging Face token"),
    ("hvs.", 24, "a Vault token"),
    ("lin_api_", 40, "a Linear key"),
    ("npm_", 40, "an npm token"),
    ("ntn_", 40, "a Notion token"),
    ("pypi-AgEI", 40, "a PyPI token"),
    ("rk_live_", 24, "a Stripe key"),
    ("shpat_", 36, "a Shopify token"),
    ("sk-", 32, "an API key"),
    ("sk_live_", 24, "a Stripe key"),
    ("xapp-", 20, "a Slack token"),
    ("xoxa-", 20, "a Slack token"),
    ("xoxb-", 20, "a Slack token"),
    ("xoxp-", 20, "a Slack token"),
    ("ya29.", 30, "a Google token"),
];

/// How the private half of an audit key begins, whatever its version (`docs/formats/record.md`).
const AUDIT_KEY: &str = "mcpshim-audit-private-";

/// Words in the name of a variable, flag or query key that say its value is a secret.
const NAMES: [&str; 17] = [
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "key",
    "passphrase",
    "passwd",
    "password",
    "pat",
    "privatekey",
    "pwd",
    "secret",
    "session",
    "token",
];

/// Says what a text holds that looks like the token of a known issuer.
fn token(text: &str) -> Option<&'static str> {
    if text.contains("PRIVATE KEY-----") {
        return Some("a private key");
    }
    if text.contains(AUDIT_KEY) {
        return Some("a private audit key, which opens every sealed argument");
    }
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    for word in text.split(|c| !part(c)) {
        let known = |(prefix, least, what): &(&str, usize, &'static str)| {
            (word.starts_with(prefix) && word.len() >= *least).then_some(*what)
        };
        if let Some(what) = TOKENS.iter().find_map(known) {
            return Some(what);
        }
        // RFC 7519: three base64url parts, the first two JSON objects
        if word.starts_with("eyJ") && word.split('.').nth(1).is_some_and(|p| p.starts_with("eyJ")) {
            return Some("a signed token (JWT)");
        }
    }
    None
}

/// Whether a word looks drawn at random: long, mixed, and no letter much more frequent. Digits at
/// its end, a year or a number, do not make it mixed.
fn random(text: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '=');
    text.split(|c| !part(c)).any(|word| {
        let word = word.trim_end_matches(|c: char| c == '=' || c.is_ascii_digit());
        let digits = word.bytes().any(|b| b.is_ascii_digit());
        let hex = word.bytes().all(|b| b.is_ascii_hexdigit());
        let both_cases = word.bytes().any(|b| b.is_ascii_uppercase())
            && word.bytes().any(|b| b.is_ascii_lowercase());
        digits
            && ((hex && word.len() >= 28 && entropy(word) > 3.0)
                || (both_cases && word.len() >= 20 && entropy(word) > 3.6))
    })
}

/// Bits per character by the frequencies in the word itself.
fn entropy(word: &str) -> f64 {
    let mut counts: BTreeMap<u8, u32> = BTreeMap::new();
    for byte in word.bytes() {
        *counts.entry(byte).or_default() += 1;
    }
    let total = f64::from(u32::try_from(word.len()).unwrap_or(u32::MAX));
    let part = |count: &u32| {
        let p = f64::from(*count) / total;
        -p * p.log2()
    };
    counts.values().map(part).sum()
}

/// Whether a name says that its value is a secret: `GITHUB_TOKEN`, `apiKey`, `--api-key`.
fn names_a_secret(name: &str) -> bool {
    let mut words = vec![String::new()];
    let mut previous = ' ';
    for c in name.chars() {
        let boundary = c.is_ascii_uppercase() && previous.is_ascii_lowercase();
        if !c.is_ascii_alphanumeric() || boundary {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.push(c.to_ascii_lowercase());
        }
        previous = c;
    }
    words.retain(|word| !word.is_empty());
    // a path to a secret is no secret
    if words
        .last()
        .is_some_and(|word| matches!(word.as_str(), "file" | "path" | "dir" | "url"))
    {
        return false;
    }
    words.iter().any(|word| NAMES.contains(&word.as_str()))
}

/// Whether a value is too plain to be a secret: a number, a flag, a path.
fn plain(value: &str) -> bool {
    value.len() < 4
        || value.bytes().all(|b| b.is_ascii_digit())
        || ["true", "false", "none", "null"].contains(&value.to_ascii_lowercase().as_str())
        || value.starts_with(['/', '.', '~'])
}

/// Looks for a secret in the value of a named thing; says what it seems to be.
pub(super) fn named(name: &str, value: &str) -> Option<String> {
    if let Some(what) = token(value) {
        return Some(format!("holds what looks like {what}"));
    }
    if names_a_secret(name) && !plain(value) {
        return Some("is named like a secret and has a value".to_owned());
    }
    random(value).then(|| "holds a word that looks random, as secrets do".to_owned())
}

/// Looks for a secret in one argument, given the one before it.
pub(super) fn argument(before: Option<&str>, argument: &str) -> Option<String> {
    let flag = |text: &str| text.starts_with('-');
    if let Some((name, value)) = argument.split_once('=')
        && flag(name)
    {
        return named(name, value);
    }
    match before {
        Some(name) if flag(name) && !name.contains('=') && !flag(argument) => named(name, argument),
        _ => named("", argument),
    }
}

/// Looks for a secret in the query of a URL.
pub(super) fn query(url: &str) -> Option<String> {
    let parsed = reqwest::Url::parse(url).ok()?;
    let found = parsed
        .query_pairs()
        .find_map(|(name, value)| named(&name, &value));
    found.or_else(|| named("", parsed.path()))
}

/// Reports tokens of known issuers anywhere in a source file, comments included.
pub(super) fn scan_text(text: &str, sink: &mut Sink<'_>) {
    for (i, line) in text.lines().enumerate() {
        if let Some(what) = token(line) {
            let at = At {
                line: i + 1,
                column: 1,
            };
            let message = format!("the line holds what looks like {what}");
            sink.error(at, "secret", message, FIX);
        }
    }
}

/// Largest file that is looked through for private keys, in bytes.
const SCANNED_BYTES: u64 = 1 << 20;

/// What stands for a secret in everything that is printed.
const HIDDEN: &str = "«a secret»";

/// Takes whatever looks like a secret out of a sentence: a value that is quoted in an error ends in
/// logs of other systems.
pub(super) fn hide(sentence: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | ',' | ';');
    let mut out = String::with_capacity(sentence.len());
    for word in sentence.split_inclusive(ends) {
        let body = word.trim_end_matches(ends);
        match token(body) {
            Some(_) => {
                out.push_str(HIDDEN);
                out.push_str(word.get(body.len()..).unwrap_or_default());
            }
            None => out.push_str(word),
        }
    }
    out
}

/// Reports private keys in any file of the directory. Version control, other hidden folders and
/// files above [`SCANNED_BYTES`] are not looked at; at most 10,000 files are.
pub(super) fn scan_files(dir: &Path, problems: &mut Problems) {
    let mut folders = vec![String::new()];
    let mut left = 10_000;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(dir.join(&folder)) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = match folder.is_empty() {
                true => name.clone(),
                false => format!("{folder}/{name}"),
            };
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && !name.starts_with('.') {
                folders.push(path);
                continue;
            }
            if !kind.is_file() || left == 0 {
                continue;
            }
            left -= 1;
            let small = entry
                .metadata()
                .is_ok_and(|meta| meta.len() <= SCANNED_BYTES);
            let Some(bytes) = small.then(|| fs::read(entry.path()).ok()).flatten() else {
                continue;
            };
            let has = |text: &str| memchr::memmem::find(&bytes, text.as_bytes()).is_some();
            // the texts of a pinned server may show what a key looks like
            let texts = name.ends_with(".json");
            let message = match has(AUDIT_KEY) {
                true => "a private audit key lies in the registry's sources",
                false if !texts && has("PRIVATE KEY-----") || name.ends_with(".pk8") => {
                    "a private key lies in the registry's sources"
                }
                false => continue,
            };
            // source files were scanned line by line
            let told = |problem: &Problem| problem.file == path && problem.rule == "secret";
            if problems.0.iter().any(told) {
                continue;
            }
            let mut sink = Sink {
                file: &path,
                problems,
            };
            let fix = "move it out of the directory and replace it: it is to be taken as known";
            sink.error(At::default(), "secret", message, fix);
        }
    }
}

/// The fix for every secret.
pub(super) fn fix() -> &'static str {
    FIX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_known_issuers_are_seen_anywhere() {
        let github = format!("ghp_{}", "a1B2c3D4e5".repeat(4));
        for text in [
            github.as_str(),
            &format!("# old: {github}!"),
            "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "AKIAIOSFODNN7EXAMPLE",
            "postgres://AKIAIOSFODNN7EXAMPLE@db",
        ] {
            assert!(token(text).is_some(), "{text}");
        }
    }

    #[test]
    fn nothing_that_is_printed_holds_a_secret() {
        let key = format!("mcpshim-audit-private-1:{}", "A1b2".repeat(11));
        // messages cut what they quote
        for cut in [key.len(), 40, 24] {
            let part = &key[..cut];
            let sentence = format!("the audit key is `{part}`, expected a mapping");
            assert_eq!(
                hide(&sentence),
                "the audit key is `«a secret»`, expected a mapping"
            );
        }
        let plain = "`on-call` is not a key here; did you mean `on_call`?";
        assert_eq!(hide(plain), plain);
    }

    #[test]
    fn ordinary_words_are_no_tokens_and_not_random() {
        for text in [
            "@modelcontextprotocol/server-filesystem@2026.8.31",
            "ghcr.io/acme/server@sha256:abc",
            "sk-learn",
            "hf_model",
            "sha1-is-old",
            "https://mcp.example.com/v1/organisations/acme/servers",
            "Europe/Berlin-and-other-long-zones-2026",
            "/usr/local/share/ca-certificates/acme-root-2026.pem",
            "MCPSHIM",
            "AwsServiceAccountNameForProduction2026",
            "0197f3a2-7b1c-7000-8000-000000000000",
        ] {
            assert_eq!(token(text), None, "{text}");
            assert!(!random(text), "{text}");
        }
    }

    #[test]
    fn random_words_are_seen() {
        assert!(random("9f86d081884c7d659a2feaa0c55ad015"));
        assert!(random("dGhpcyBpcyBhIHNlY3JldCBrZXk9MQ=="));
        assert!(random("x7Kq_Zt3vB9mLw2RfHs8YdPe4Qk1N-J4"));
        assert!(!random("a".repeat(40).as_str()));
    }

    #[test]
    fn names_that_say_secret_need_no_pattern() {
        for name in [
            "GITHUB_TOKEN",
            "apiKey",
            "--api-key",
            "DB_PASSWORD",
            "X-Auth",
            "PAT",
        ] {
            assert!(named(name, "hunter2hunter2").is_some(), "{name}");
        }
        for (name, value) in [
            ("MAX_TOKENS", "hunter2hunter2"),
            ("TOKEN_FILE", "hunter2hunter2"),
            ("SSH_KEY_PATH", "hunter2hunter2"),
            ("AUTH", "true"),
            ("API_KEY", "/run/secrets/key"),
            ("MONKEY", "hunter2hunter2"),
        ] {
            assert_eq!(named(name, value), None, "{name}");
        }
    }

    #[test]
    fn arguments_are_read_with_their_flag() {
        assert!(argument(Some("--api-key"), "hunter2hunter2").is_some());
        assert!(argument(None, "--password=hunter2hunter2").is_some());
        assert_eq!(argument(Some("--api-key"), "--verbose"), None);
        assert_eq!(argument(Some("--token=x"), "hunter2hunter2"), None);
        assert_eq!(argument(Some("-y"), "some-package"), None);
        assert!(query("https://x.example/mcp?api_key=hunter2hunter2").is_some());
        assert_eq!(query("https://x.example/mcp?team=platform"), None);
    }
}
