//! The credential of a server: which one, how it gets it, and which names cannot carry it.

use std::collections::BTreeMap;

use super::problem::{At, Problems, Sink, either, nearest};
use super::source::{Server, Sources};
use super::yaml::{self, Fields, Node, Value};
use crate::ids::CredentialId;
use crate::registry::doc::{CredentialDoc, Inject, Transport};
use crate::upstream::Environment;

/// Where the parts of a credential stand.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct CredentialSpots {
    pub(super) id: At,
    inject: At,
}

/// Longest name of a header or variable.
const NAME_BYTES: usize = 128;

/// Variables that programs act on, beside those that every server gets from the machine: compared
/// without case, since Windows does not know it.
const VARIABLES: &[&str] = &[
    "_java_options",
    "all_proxy",
    "appdata",
    "bash_env",
    "classpath",
    "comspec",
    "editor",
    "env",
    "gconv_path",
    "glibc_tunables",
    "home",
    "homedrive",
    "homepath",
    "http_proxy",
    "https_proxy",
    "ifs",
    "java_tool_options",
    "jdk_java_options",
    "lang",
    "language",
    "localappdata",
    "logname",
    "no_proxy",
    "node_extra_ca_certs",
    "node_options",
    "node_path",
    "number_of_processors",
    "path",
    "pathext",
    "perl5lib",
    "perl5opt",
    "processor_architecture",
    "programdata",
    "programfiles",
    "pwd",
    "pythonhome",
    "pythonpath",
    "pythonstartup",
    "requests_ca_bundle",
    "rubylib",
    "rubyopt",
    "shell",
    "ssl_cert_dir",
    "ssl_cert_file",
    "sslkeylogfile",
    "systemdrive",
    "systemroot",
    "temp",
    "tmp",
    "tmpdir",
    "tz",
    "user",
    "username",
    "userprofile",
    "windir",
];
/// Families of such variables.
const VARIABLE_PREFIXES: &[&str] = &["dyld_", "git_config", "ld_", "lc_", "mcpshim", "xdg_"];

/// Headers that belong to the connection, the message or the protocol.
const HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "max-forwards",
    "origin",
    "range",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];
const HEADER_PREFIXES: &[&str] = &["mcp-", "proxy-", "sec-"];

/// Whether a variable may be set for a server at all (POSIX.1 §8.1: no `=`, no NUL).
pub(super) fn is_variable(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=NAME_BYTES).contains(&name.len())
        && name.bytes().all(word)
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn reserved(name: &str, names: &[&str], prefixes: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    names.contains(&name.as_str()) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a text is a token (RFC 9110 §5.6.2).
fn is_token(name: &str) -> bool {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(part)
}

/// Reads `credential`.
pub(super) fn read(node: &Node, sink: &mut Sink<'_>) -> Option<(CredentialDoc, CredentialSpots)> {
    let mut fields = Fields::open(node, "the credential", sink)?;
    let fix = "name it, such as `id: github`: records and `mcpshim credential` say this name";
    let id_node = fields.need("id", fix);
    let id = id_node.and_then(|node| {
        let text = yaml::text(node, "credential.id", sink)?;
        let id = CredentialId::parse(text);
        if let Err(error) = &id {
            let fix = format!("use {}", error.expected);
            let message = format!("credential.id is `{text}`");
            sink.error(node.at, "name", message, fix);
        }
        id.ok()
    });
    let inject_node = fields.need("inject", HOW);
    let inject = inject_node.and_then(|node| inject(node, sink));
    let fix = "tell people where to get one: a URL or a sentence";
    let obtain = fields.need("obtain", fix);
    let obtain = obtain.and_then(|node| yaml::text(node, "obtain", sink));
    let obtain = obtain.unwrap_or_default().trim_end().to_owned();
    let rotate = fields.take("rotate_days");
    let rotate = rotate.and_then(|node| yaml::number(node, "rotate_days", 1..=3650, sink));
    fields.finish(sink);
    let spots = CredentialSpots {
        id: id_node.map(|node| node.at).unwrap_or_default(),
        inject: inject_node.map(|node| node.at).unwrap_or_default(),
    };
    let doc = CredentialDoc {
        id: id?,
        inject: inject?,
        obtain,
        rotate_days: rotate.and_then(|days| u32::try_from(days).ok()),
    };
    Some((doc, spots))
}

const HOW: &str = "write `inject: bearer`, `inject: {header: NAME}` or `inject: {env: NAME}`";

fn inject(node: &Node, sink: &mut Sink<'_>) -> Option<Inject> {
    let members = match &node.value {
        Value::Text { text, .. } if text == "bearer" => return Some(Inject::Bearer),
        Value::Map(members) => members.as_slice(),
        Value::List(_) | Value::Text { .. } => &[],
    };
    let [(key, value)] = members else {
        let message = "inject does not say one way to hand the credential over";
        sink.error(node.at, "inject", message, HOW);
        return None;
    };
    match key.text.as_str() {
        "env" => variable(value, sink).map(|name| Inject::Env { name }),
        "header" => header(value, sink).map(|name| Inject::Header { name }),
        other => {
            let known = ["bearer", "env", "header"];
            let fix = match nearest(other, known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("use {}", either(known)),
            };
            let message = format!("inject has no way `{other}`");
            sink.error(key.at, "inject", message, fix);
            None
        }
    }
}

fn variable(node: &Node, sink: &mut Sink<'_>) -> Option<String> {
    let name = yaml::text(node, "inject.env", sink)?;
    let fix = "use the variable that the server's documentation names, letters, digits and `_`";
    if !is_variable(name) {
        let message = format!("`{name}` is no name of a variable");
        sink.error(node.at, "inject", message, fix);
        return None;
    }
    let inherited = Environment::names().any(|other| other.eq_ignore_ascii_case(name));
    if inherited || reserved(name, VARIABLES, VARIABLE_PREFIXES) {
        let message = format!("the variable `{name}` is reserved: programs act on it");
        sink.error(node.at, "reserved-name", message, fix);
        return None;
    }
    Some(name.to_owned())
}

fn header(node: &Node, sink: &mut Sink<'_>) -> Option<String> {
    let name = yaml::text(node, "inject.header", sink)?;
    let fix = "use the header that the server's documentation names, such as `X-Api-Key`";
    if !is_token(name) {
        let message = format!("`{name}` is no name of a header");
        sink.error(node.at, "inject", message, fix);
        return None;
    }
    if name.eq_ignore_ascii_case("authorization") {
        let message = "`Authorization` is set by `inject: bearer`";
        sink.error(
            node.at,
            "reserved-name",
            message,
            "write `inject: bearer` in its place",
        );
        return None;
    }
    if reserved(name, HEADERS, HEADER_PREFIXES) {
        let message = format!("the header `{name}` is reserved: the protocol uses it");
        sink.error(node.at, "reserved-name", message, fix);
        return None;
    }
    Some(name.to_owned())
}

/// The rules over one server: the way must fit the transport.
pub(super) fn fits(server: &Server, sink: &mut Sink<'_>) {
    let (Some(credential), Some(spots)) = (&server.doc.credential, &server.credential) else {
        return;
    };
    if !server.reachable {
        return;
    }
    match (&credential.inject, &server.doc.transport) {
        (Inject::Bearer | Inject::Header { .. }, Transport::Stdio { .. }) => {
            let message = "a stdio server has no headers";
            let fix = "write `inject: {env: NAME}` with the variable it reads";
            sink.error(spots.inject, "inject", message, fix);
        }
        (Inject::Env { name }, Transport::Http { .. }) => {
            let message = format!("an http server has no environment to put `{name}` into");
            let fix = "write `inject: bearer` or `inject: {header: NAME}`";
            sink.error(spots.inject, "inject", message, fix);
        }
        (Inject::Env { name }, Transport::Stdio { env, .. }) => {
            if let Some(other) = env.keys().find(|other| other.eq_ignore_ascii_case(name)) {
                let message = format!("`env` sets `{other}`, which the credential is put into");
                let fix = "take it out of `env`";
                sink.error(spots.inject, "inject", message, fix);
            }
        }
        (Inject::Bearer | Inject::Header { .. }, Transport::Http { .. }) => {}
    }
}

/// One secret for servers that are not in the same hands goes further than its owner thinks.
pub(super) fn shared(sources: &Sources, problems: &mut Problems) {
    let mut first: BTreeMap<&CredentialId, &Server> = BTreeMap::new();
    for server in &sources.servers {
        let (Some(credential), Some(spots)) = (&server.doc.credential, &server.credential) else {
            continue;
        };
        let Some(other) = first.get(&credential.id) else {
            first.insert(&credential.id, server);
            continue;
        };
        let (one, two) = (&other.doc, &server.doc);
        let differ = match () {
            () if one.owner != two.owner => "owners",
            () if one.hosted != two.hosted => "operators",
            () if one.zone != two.zone => "zones",
            () => continue,
        };
        let mut sink = Sink {
            file: &server.file,
            problems,
        };
        let message = format!(
            "the credential `{}` is also that of {}, and the two have different {differ}: each \
             gets the same secret",
            credential.id, other.file
        );
        let fix = "give it an id of its own, unless both are meant to see one secret";
        sink.warning(spots.id, "shared-credential", message, fix);
    }
}
