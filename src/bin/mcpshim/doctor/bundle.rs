//! One file that helps whoever helps: readable JSON that lists its own contents.
//!
//! What goes in is chosen, not filtered: settings, versions, names, states, sizes. The one text of
//! others is the end of our own log. All of it passes a scrubber that knows every live secret of
//! this user, then patterns of what secrets look like; names and the home directory are shortened.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use mcpshim::clock::{SystemEntropy, Utc};
use mcpshim::config::{self, Config};
use mcpshim::identity::Caller;
use mcpshim::report::{Exit, Failure};
use mcpshim::secret::{Scrubber, Secret};
use mcpshim::serve::{assemble, learned, run_file};
use mcpshim::text;
use mcpshim::vault;
use serde_json::{Value, json};

use super::{Context, Report};
use crate::audit;

/// How much of the end of each log file is taken, in bytes.
const LOG_BYTES: u64 = 128 << 10;
/// How many of the newest log files.
const LOGS: usize = 2;

pub(super) fn write(
    file: &Path,
    report: &Report,
    context: Option<&Context>,
) -> Result<(), Failure> {
    let mut mask = Mask::default();
    let effective = config::effective();
    let mut parts = vec![
        (
            "versions",
            json!({
                "mcpshim": env!("CARGO_PKG_VERSION"),
                "system": std::env::consts::OS,
                "processor": std::env::consts::ARCH,
                "written": Utc(crate::now().unix_s()).to_string(),
            }),
        ),
        (
            "configuration",
            json!({
                "managed": effective.managed,
                "settings": effective.settings,
                "warnings": effective.warnings,
            }),
        ),
        (
            "findings",
            json!({ "findings": report.findings, "checks": report.checks }),
        ),
    ];
    if let Some(context) = context {
        mask.learn(context);
        parts.extend(local(context));
    }
    if let Some(home) = config::places().home {
        mask.home(&home);
    }
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    let mut bundle = serde_json::Map::new();
    bundle.insert("contents".to_owned(), json!(names));
    for (name, mut part) in parts {
        mask.clean(&mut part);
        bundle.insert(name.to_owned(), part);
    }
    let failed = |error: &dyn std::error::Error| {
        Failure::from_error(Exit::Failed, error)
            .context(format!("{} cannot be written", file.display()))
            .hint("name a new file in a directory that is yours")
    };
    let text = serde_json::to_vec_pretty(&bundle).map_err(|error| failed(&error))?;
    // once more over the whole: a secret may only show where two parts meet
    let text = mask.scrubber.scrub(&text);
    // servers speak in it, and people read it
    let text = String::from_utf8_lossy(&text);
    let text = text::json(&text);
    match vault::create_private(file, text.as_bytes(), &mut SystemEntropy) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(
            Exit::Failed,
            format!("{} is there already", file.display()),
        )
        .hint("name a new file")),
        Err(error) => Err(failed(&error)),
    }
}

fn local(context: &Context) -> Vec<(&'static str, Value)> {
    let config = &context.config;
    let now = crate::now();
    let registry = context.loaded.as_ref().map(|loaded| {
        let registry = &loaded.registry;
        let servers: Vec<Value> = registry
            .servers
            .values()
            .map(|server| {
                let surface = server.surface.as_ref();
                json!({
                    "key": server.key,
                    "tools": surface.map_or(0, |surface| surface.tools.len()),
                    "protocol": surface.map(|surface| &surface.protocol),
                    "spoken": learned::spoken(&config.state_dir, &server.transport, &now),
                    "credential": server.credential.as_ref().map(|credential| &credential.id),
                })
            })
            .collect();
        json!({
            "version": registry.version,
            "digest": registry.digest,
            "expires": Utc(registry.expires).to_string(),
            "checked": Utc(registry.checked).to_string(),
            "freshness": format!("{:?}", loaded.freshness).to_lowercase(),
            "servers": servers,
        })
    });
    let sessions: Vec<Value> = run_file::running(&config.state_dir)
        .into_iter()
        .map(|session| {
            let report = &session.session;
            json!({
                "pid": session.pid,
                "version": session.version,
                "started": Utc(session.started).to_string(),
                "client": report.client,
                "registry": report.registry,
                "servers": report.servers,
            })
        })
        .collect();
    vec![
        ("registry", json!(registry)),
        ("sessions", json!(sessions)),
        ("records", json!(audit::standing(config).ok())),
        ("state", json!(sizes(config))),
        ("log", json!(log(config))),
    ]
}

/// The names and sizes of what lies in the state directory.
fn sizes(config: &Config) -> Vec<Value> {
    let mut found = Vec::new();
    let mut dirs = vec![config.state_dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let path = entry.path();
            if meta.is_dir() {
                dirs.push(path);
            } else if found.len() < 1000 {
                let name = path.strip_prefix(&config.state_dir).unwrap_or(&path);
                found.push(json!({ "file": name, "bytes": meta.len() }));
            }
        }
    }
    found.sort_by_key(|file| file.to_string());
    found
}

/// The ends of our newest log files. What servers write is theirs, and stays here.
fn log(config: &Config) -> Vec<Value> {
    let dir = config.state_dir.join("log");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let newest = files.iter().rev().take(LOGS);
    newest
        .filter_map(|path| {
            let mut file = std::fs::File::open(path).ok()?;
            let len = file.metadata().ok()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(LOG_BYTES)))
                .ok()?;
            let mut bytes = Vec::new();
            file.take(LOG_BYTES).read_to_end(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            Some(json!({ "file": path.file_name()?.to_string_lossy(), "lines": lines }))
        })
        .collect()
}

/// What must not be read in the file, and what stands for it.
#[derive(Debug, Default)]
struct Mask {
    scrubber: Scrubber,
    words: Vec<(String, &'static str)>,
}

impl Mask {
    /// Learns every secret that this user has here, and the names of the person.
    fn learn(&mut self, context: &Context) {
        let config = &context.config;
        let mut private = vec![assemble::session_claims(config)];
        private.extend(config.agent.as_ref().map(|(_, file)| file.clone()));
        for path in private {
            if let Ok(Some(secret)) = vault::read_private(&path) {
                self.secret(&secret);
            }
        }
        let Some(loaded) = &context.loaded else {
            return;
        };
        if vault::exists(config) {
            let allowed = &loaded.registry.org.secret_stores;
            let patience = std::time::Duration::from_secs(5);
            if let Ok(mut vault) = vault::open(config, allowed, patience) {
                for id in vault.list().unwrap_or_default().into_keys() {
                    if let Ok(Some(item)) = vault.get(&id) {
                        self.secret(&item.value);
                    }
                }
            }
        }
        if let Ok(Caller::Person {
            display, subject, ..
        }) = assemble::caller(config, &loaded.registry, &context.now)
        {
            self.words.push((display, "PERSON"));
            self.words.push((subject, "PERSON"));
        }
    }

    /// The secret as a whole, and each of its lines: files end in one, tokens stand in JSON.
    fn secret(&self, secret: &Secret) {
        self.scrubber.add(secret);
        let lines = secret.expose().split(|byte| b"\n\"".contains(byte));
        for line in lines.filter(|line| line.len() >= 16) {
            self.scrubber.add(&Secret::new(line.to_vec()));
        }
    }

    fn home(&mut self, home: &Path) {
        if let Some(path) = home.to_str().filter(|path| path.len() > 1) {
            self.words.push((path.to_owned(), "~"));
        }
        let user = home.file_name().and_then(|name| name.to_str());
        if let Some(user) = user.filter(|user| user.len() > 2) {
            self.words.push((user.to_owned(), "USER"));
        }
    }

    fn clean(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.clean(item)),
            Value::Object(members) => members.values_mut().for_each(|member| self.clean(member)),
            Value::Bool(_) | Value::Null | Value::Number(_) => {}
        }
    }

    fn text(&self, text: &str) -> String {
        let mut text = self.scrubber.scrub_str(text).into_owned();
        for (word, stand_in) in &self.words {
            text = whole_words(&text, word, stand_in);
        }
        patterns(&text)
    }
}

/// Replaces a word where it stands by itself, or where it begins a path.
fn whole_words(text: &str, word: &str, stand_in: &str) -> String {
    if word.is_empty() {
        return text.to_owned();
    }
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, from) = rest.split_at(at);
        let after = from.get(word.len()..).unwrap_or_default();
        out.push_str(before);
        let last = before
            .chars()
            .next_back()
            .or_else(|| out.chars().next_back());
        if inside(last) || inside(after.chars().next()) {
            out.push_str(word);
        } else {
            out.push_str(stand_in);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Words before a value that is nobody's business.
const TELLTALE: &[&str] = &[
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "bearer",
    "api_key",
    "apikey",
    "api-key",
    "cookie",
    "credential=",
    "assertion",
];
/// How tokens of known issuers begin.
const PREFIXES: &[&str] = &[
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "sk-",
    "xox",
    "AKIA",
    "ya29.",
    "npm_",
    "pypi-",
    "-----BEGIN",
];

/// Hides what looks like a secret: tokens of known issuers, long mixed runs, values after
/// telltale words, user names and passwords in URLs, and addresses of people.
fn patterns(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut telltale = false;
    for piece in text.split_inclusive(|c: char| c.is_whitespace() || ",;\"'`()[]{}<>&?".contains(c))
    {
        let end = piece
            .char_indices()
            .next_back()
            .filter(|(_, c)| c.is_whitespace() || ",;\"'`()[]{}<>&?".contains(*c))
            .map_or(piece.len(), |(at, _)| at);
        let (word, tail) = piece.split_at(end);
        let lower = word.to_lowercase();
        let named = TELLTALE.iter().any(|known| lower.contains(known));
        let assigned = named
            .then(|| word.find(['=', ':']))
            .flatten()
            .filter(|at| at + 1 < word.len());
        if let Some(at) = assigned {
            out.push_str(word.get(..=at).unwrap_or_default());
            out.push('…');
        } else if (telltale && !word.is_empty() && !named) || looks_secret(word) {
            out.push('…');
        } else {
            out.push_str(word);
        }
        out.push_str(tail);
        // `Authorization: Bearer x`, `token = x`: the value is the next word
        let ends_open = named && (word.ends_with(['=', ':']) || lower.ends_with("bearer"));
        telltale = ends_open || (telltale && (word.is_empty() || named || word == "="));
    }
    out
}

fn looks_secret(word: &str) -> bool {
    if PREFIXES.iter().any(|known| word.contains(known)) {
        return true;
    }
    if let Some((_, after)) = word.split_once("://")
        && after
            .split('/')
            .next()
            .is_some_and(|host| host.contains('@'))
    {
        return true;
    }
    if word.contains('@')
        && word
            .rsplit('@')
            .next()
            .is_some_and(|host| host.contains('.'))
    {
        return true;
    }
    let run = |c: char| c.is_ascii_alphanumeric() || "+/=_-".contains(c);
    word.split(|c| !run(c)).any(|run| {
        let has = |kind: fn(&char) -> bool| run.chars().any(|c| kind(&c));
        run.len() >= 24
            && !run.contains('/')
            && has(char::is_ascii_digit)
            && has(char::is_ascii_lowercase)
            && has(char::is_ascii_uppercase)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_hidden() {
        for (text, shown) in [
            ("token=abc next", "token=… next"),
            (
                "Authorization: Bearer abc.def x",
                "Authorization: Bearer … x",
            ),
            ("password: hunter2, ok", "password: …, ok"),
            ("at https://u:p@x.example/y now", "at … now"),
            ("by ann@acme.example today", "by … today"),
            ("got eyJhbGciOi.J9.x", "got …"),
            ("k=Zm9vYmFyQmF6UXV4MTIzNDU2", "…"),
            (
                "server=mail version=0.1.0 bytes=412",
                "server=mail version=0.1.0 bytes=412",
            ),
            (
                "sha256 9f86d081884c7d659a2feaa0c55ad015",
                "sha256 9f86d081884c7d659a2feaa0c55ad015",
            ),
        ] {
            assert_eq!(patterns(text), shown);
        }
    }

    #[test]
    fn names_are_shortened_where_they_stand_alone() {
        let mask = |text: &str| {
            let text = whole_words(text, "/users/ann", "~");
            whole_words(&text, "ann", "USER")
        };
        assert_eq!(mask("/users/ann/x and /users/anna"), "~/x and /users/anna");
        assert_eq!(mask("ann planned"), "USER planned");
    }
}
