//! Pin files: `pins/<server id>.json`, written by `pin`, read by a reviewer one entry per line.
//!
//! Losing one costs the names assigned in it; it is in git. Whoever can change one unreviewed
//! can change what models read about a tool, until the live server is compared at first use.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::problem::{At, Sink};
use crate::ids::{ServerId, ServerKey};
use crate::pin::{self, Kept, Kind, PinError, assign_names, quarantine};
use crate::registry::doc::{FORMAT, Pinned, ServerDoc, Surface, Transport};

/// One pin file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinFile {
    format: u32,
    server: ServerId,
    /// What was run or asked; another one needs another pin.
    transport: Transport,
    /// What it was told that it may ask of clients; another pin is needed when that changes.
    #[serde(default)]
    declared: Declared,
    names: Names,
    pub(super) surface: Surface,
}

/// The flags of a server's entry that it is told of, and that its tools may depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the flags of the entry, by their names"
)]
struct Declared {
    roots: bool,
    elicitation: bool,
    sampling: bool,
    apps: bool,
}

impl Declared {
    fn of(server: &ServerDoc) -> Self {
        Self {
            roots: server.roots,
            elicitation: server.elicitation,
            sampling: server.sampling,
            apps: server.apps,
        }
    }

    /// The flags that are not the same in the other.
    fn changed(self, other: Self) -> Vec<String> {
        let flags = [
            ("roots", self.roots, other.roots),
            ("elicitation", self.elicitation, other.elicitation),
            ("sampling", self.sampling, other.sampling),
            ("apps", self.apps, other.apps),
        ];
        let changed = flags.into_iter().filter(|(_, was, is)| was != is);
        changed
            .map(|(flag, _, is)| format!("`{flag}: {is}`"))
            .collect()
    }
}

/// Every name ever assigned, those of removed tools included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    tools: Kept,
    prompts: Kept,
}

impl PinFile {
    /// Makes the pin of a surface, keeping the names of an older pin. What a client would choke
    /// on is moved to the quarantine.
    pub(super) fn new(server: &ServerDoc, mut surface: Surface, older: Option<&Self>) -> Self {
        let mut names = older.map(|older| older.names.clone()).unwrap_or_default();
        quarantine::sift(&server.transport, &mut surface);
        name(&server.key, &mut surface.tools, &mut names.tools);
        name(&server.key, &mut surface.prompts, &mut names.prompts);
        Self {
            format: FORMAT,
            server: server.id.clone(),
            transport: server.transport.clone(),
            declared: Declared::of(server),
            names,
            surface,
        }
    }

    /// Reads and verifies a pin file. What is wrong with it is reported; `None` if it cannot be
    /// used at all.
    /// Where the server's transport was not understood, it is not compared.
    pub(super) fn read(
        bytes: &[u8],
        server: &ServerDoc,
        reachable: bool,
        sink: &mut Sink<'_>,
    ) -> Option<Self> {
        let again = format!("run `mcpshim-admin pin DIR {}`", server.key);
        let mut pin: Self = match serde_json::from_slice(bytes) {
            Ok(pin) => pin,
            Err(error) => {
                let at = At {
                    line: error.line(),
                    column: error.column(),
                };
                let message = format!("is not a pin file: {error}");
                sink.error(at, "pin-file", message, again);
                return None;
            }
        };
        // follows from the definitions, whatever the file says
        pin.surface.unfit = quarantine::unfit(&pin.surface);
        let top = At::default();
        if pin.format != FORMAT {
            let message = format!("has format {}, expected {FORMAT}", pin.format);
            let fix = "use the mcpshim-admin that wrote it, or pin again";
            sink.error(top, "pin-file", message, fix);
            return None;
        }
        // maps keep the last of two equal keys; a reviewer sees the first
        if let Err(error @ PinError::Duplicate { .. }) = pin::canonical(bytes) {
            sink.error(top, "pin-edited", error.to_string(), again.as_str());
        }
        if pin.server != server.id {
            let message = format!("is the pin of server `{}`", pin.server);
            sink.error(top, "pin-file", message, again);
            return None;
        }
        if reachable && pin.transport != server.transport {
            let message = "was made with another transport than the server has now";
            sink.error(top, "stale-pin", message, again);
            return Some(pin);
        }
        let changed = pin.declared.changed(Declared::of(server));
        if !changed.is_empty() {
            let message = format!(
                "was made before the server's entry said {}: servers offer other tools to clients \
                 that can be asked for other things",
                changed.join(", ")
            );
            sink.error(top, "stale-pin", message, again.as_str());
        }
        pin.verify(server, bytes, &again, sink);
        Some(pin)
    }

    fn verify(&self, server: &ServerDoc, bytes: &[u8], again: &str, sink: &mut Sink<'_>) {
        let line = |entry: &Pinned| At {
            line: line_of(bytes, &entry.digest.to_string()),
            column: 1,
        };
        let prefix = format!("{}_", server.key);
        for kind in Kind::ALL {
            let mut seen = std::collections::BTreeSet::new();
            for entry in kind.of(&self.surface) {
                let at = line(entry);
                if let Err(sentence) = pin::verify(kind, entry) {
                    sink.error(at, "pin-edited", sentence, again);
                }
                if !seen.insert(&entry.name) {
                    let (word, name) = (kind.word(), pin::printable(&entry.name));
                    let message = format!("{word} `{name}` stands twice");
                    sink.error(at, "pin-edited", message, again);
                }
            }
        }
        self.verify_texts(bytes, again, sink);
        for (kind, names) in [
            (Kind::Tool, &self.names.tools),
            (Kind::Prompt, &self.names.prompts),
        ] {
            let mut taken = std::collections::BTreeMap::new();
            for (name, exposed) in names {
                if let Some(other) = taken.insert(exposed, name) {
                    let (one, two) = (pin::printable(other), pin::printable(name));
                    let message = format!("`{one}` and `{two}` are both exposed as `{exposed}`");
                    sink.error(At::default(), "exposed-name", message, again);
                }
            }
            for entry in kind.of(&self.surface) {
                let at = line(entry);
                let name = pin::printable(&entry.name);
                match &entry.exposed {
                    Some(exposed) if names.get(&entry.name) != Some(exposed) => {
                        let message =
                            format!("`{name}` is exposed as `{exposed}`, not as in `names`");
                        sink.error(at, "exposed-name", message, again);
                    }
                    Some(exposed) if !exposed.as_str().starts_with(&prefix) => {
                        let message = format!("`{exposed}` does not begin with the key `{prefix}`");
                        sink.error(at, "exposed-name", message, again);
                    }
                    Some(_) => {}
                    None => {
                        let message = format!("`{name}` has no exposed name");
                        sink.error(at, "exposed-name", message, again);
                    }
                }
            }
        }
    }

    /// What models read must be what a reviewer sees. `pin` quarantines such tools; nothing does
    /// that for a file edited by hand, nor for what is no tool.
    fn verify_texts(&self, bytes: &[u8], again: &str, sink: &mut Sink<'_>) {
        let fix = "have the server's owner take it out, and pin again";
        for kind in Kind::ALL {
            for entry in kind.of(&self.surface) {
                if let Some(reason) = quarantine::reason(kind, entry) {
                    let (word, name) = (kind.word(), pin::printable(&entry.name));
                    let at = At {
                        line: line_of(bytes, &entry.digest.to_string()),
                        column: 1,
                    };
                    let message = format!("{word} `{name}` must not be offered: {reason}");
                    sink.error(at, "not-offered", message, again);
                }
            }
        }
        let instructions = self.surface.instructions.as_deref().unwrap_or_default();
        if let Some(reason) = quarantine::hidden_in(instructions) {
            let message = format!("the instructions must not be offered: {reason}");
            sink.error(At::default(), "not-offered", message, fix);
        }
    }

    /// Writes the file: every entry verbatim on a line of its own.
    pub(super) fn write(&self) -> Result<String, serde_json::Error> {
        let mut out = String::from("{\n");
        let line = |out: &mut String, text: std::fmt::Arguments<'_>| {
            // writing to a String cannot fail
            out.write_fmt(text).unwrap_or_default();
            out.push('\n');
        };
        line(&mut out, format_args!("\"format\": {},", self.format));
        line(
            &mut out,
            format_args!("\"server\": {},", json(&self.server)?),
        );
        line(
            &mut out,
            format_args!("\"transport\": {},", json(&self.transport)?),
        );
        line(
            &mut out,
            format_args!("\"declared\": {},", json(&self.declared)?),
        );
        out.push_str("\"names\": {\n");
        kept(&mut out, "tools", &self.names.tools, ",")?;
        kept(&mut out, "prompts", &self.names.prompts, "")?;
        out.push_str("},\n\"surface\": {\n");
        let surface = &self.surface;
        line(
            &mut out,
            format_args!("\"protocol\": {},", json(&surface.protocol)?),
        );
        let raw = |out: &mut String, key: &str, value: &Option<Box<RawValue>>| {
            if let Some(value) = value {
                let value = value.get().replace(['\n', '\r'], "");
                line(out, format_args!("\"{key}\": {value},"));
            }
        };
        raw(&mut out, "server_info", &surface.server_info);
        raw(&mut out, "capabilities", &surface.capabilities);
        if let Some(instructions) = &surface.instructions {
            line(
                &mut out,
                format_args!("\"instructions\": {},", json(instructions)?),
            );
        }
        let aside = [
            ("unfit", &surface.unfit),
            ("quarantined", &surface.quarantined),
        ];
        for (key, entries) in aside.into_iter().filter(|(_, entries)| !entries.is_empty()) {
            out.push_str(&format!("\"{key}\": {{"));
            rows(&mut out, entries.iter(), |(name, reason)| {
                Ok(format!("{}: {}", json(name)?, json(reason)?))
            })?;
            out.push_str("},\n");
        }
        let lists = [
            ("tools", &surface.tools),
            ("prompts", &surface.prompts),
            ("templates", &surface.templates),
            ("resources", &surface.resources),
        ];
        for (i, (key, entries)) in lists.iter().enumerate() {
            line_start(&mut out, i);
            out.push_str(&format!("\"{key}\": ["));
            rows(&mut out, entries.iter(), json)?;
            out.push(']');
        }
        out.push_str("\n}\n}\n");
        Ok(out)
    }
}

fn line_start(out: &mut String, i: usize) {
    if i > 0 {
        out.push_str(",\n");
    }
}

fn kept(out: &mut String, key: &str, names: &Kept, end: &str) -> Result<(), serde_json::Error> {
    out.push_str(&format!("\"{key}\": {{"));
    rows(out, names.iter(), |(name, exposed)| {
        Ok(format!("{}: {}", json(name)?, json(exposed)?))
    })?;
    out.push_str(&format!("}}{end}\n"));
    Ok(())
}

fn rows<T>(
    out: &mut String,
    items: impl ExactSizeIterator<Item = T>,
    row: impl Fn(T) -> Result<String, serde_json::Error>,
) -> Result<(), serde_json::Error> {
    let last = items.len();
    for (i, item) in items.enumerate() {
        out.push('\n');
        out.push_str(&row(item)?);
        out.push_str(if i + 1 < last { "," } else { "\n" });
    }
    Ok(())
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    serde_json::to_string(value)
}

/// Gives every entry its exposed name, keeping those that were assigned.
fn name(key: &ServerKey, entries: &mut [Pinned], names: &mut Kept) {
    *names = assign_names(key, entries.iter().map(|entry| entry.name.as_str()), names);
    for entry in entries {
        entry.exposed = names.get(&entry.name).cloned();
    }
}

/// The line that holds a digest; definitions are one per line.
fn line_of(bytes: &[u8], needle: &str) -> usize {
    let at = memchr::memmem::find(bytes, needle.as_bytes());
    at.map_or(0, |at| {
        1 + memchr::memchr_iter(b'\n', bytes.get(..at).unwrap_or_default()).count()
    })
}
