//! The sources of a registry, read from a directory: what reviewers approve.
//!
//! ```text
//! org.yaml             the organisation
//! servers/<id>.yaml    one approved server
//! roles/<name>.yaml    one role: who has it, what it may use
//! agents/<name>.yaml   one agent and its public key
//! pins/<id>.json       one server's surface, written by `pin`
//! revocations.yaml     what is denied everywhere (may be absent)
//! ```
//!
//! Reading never stops at a mistake: every file is read as far as it makes sense, and every
//! problem is collected. What was reported is filled with a harmless value, since nothing with
//! an error is ever published. `org`, `server` and `role` read one kind of file each; what they
//! share stands here.

mod org;
mod role;
mod server;

use std::fs;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::credential::CredentialSpots;
use super::date;
use super::pins::PinFile;
use super::problem::{At, Problems, Sink, Spot, either, nearest};
use super::yaml::{self, FILE_BYTES, Fields, Node, Value};
use crate::ids::{AgentName, BadId, RoleName, ServerKey};
use crate::limits;
use crate::registry::doc::{
    AgentDoc, FORMAT, OrgDoc, RepeatLimit, RevocationsDoc, RoleDoc, ServerDoc,
};

/// Stands for the client's project in arguments and `cwd`.
pub(super) const PROJECT_DIR: &str = "{project_dir}";

/// Everything that was read.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) problems: Problems,
    pub(super) org: Option<Org>,
    pub(super) servers: Vec<Server>,
    pub(super) roles: Vec<Role>,
    pub(super) agents: Vec<Agent>,
    pub(super) revocations: Option<Revocations>,
    /// Files of servers or agents that could not be read far enough to know whom they describe:
    /// then an unknown name elsewhere is not a mistake of its own.
    pub(super) unread_servers: bool,
    pub(super) unread_agents: bool,
}

#[derive(Debug)]
pub(super) struct Org {
    pub(super) doc: OrgDoc,
    /// Groups the identity providers are said to have; `None` where an issuer does not say.
    pub(super) groups: Option<Vec<Spot<String>>>,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) file: String,
    /// Without its surface.
    pub(super) doc: ServerDoc,
    pub(super) id_at: At,
    pub(super) key_at: At,
    pub(super) pin_at: At,
    pub(super) transport: TransportSpots,
    pub(super) credential: Option<CredentialSpots>,
    /// The transport was understood.
    pub(super) reachable: bool,
    /// Tools that `audit` and `limits` name.
    pub(super) named_tools: Vec<Spot<String>>,
    pub(super) pin: Option<PinFile>,
    /// Where it says `isolation: user`.
    pub(super) shared_at: Option<At>,
    /// The pin file exists but cannot be used; that is reported once.
    pub(super) pin_broken: bool,
}

/// Where the parts of a transport stand.
#[derive(Debug, Default)]
pub(super) struct TransportSpots {
    pub(super) at: At,
    pub(super) url: Option<Spot<String>>,
    pub(super) command: Option<Spot<String>>,
    pub(super) args: Vec<Spot<String>>,
    pub(super) env: Vec<(String, Spot<String>)>,
    pub(super) cwd: Option<Spot<String>>,
    pub(super) package: Option<Spot<String>>,
}

#[derive(Debug)]
pub(super) struct Role {
    pub(super) file: String,
    pub(super) name: RoleName,
    pub(super) doc: RoleDoc,
    pub(super) groups: Vec<Spot<String>>,
    pub(super) agents: Vec<Spot<String>>,
    pub(super) grants: Vec<Grant>,
}

#[derive(Debug)]
pub(super) struct Grant {
    pub(super) at: At,
    pub(super) server: Spot<String>,
    /// From 1, within this role and server.
    pub(super) number: usize,
    pub(super) tools: Vec<Spot<String>>,
    pub(super) prompts: Vec<Spot<String>>,
    pub(super) resources: Vec<Spot<String>>,
    pub(super) approved_by: Spot<String>,
    pub(super) approved_at: Spot<String>,
    pub(super) expires: Option<Spot<u64>>,
}

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) file: String,
    pub(super) name: AgentName,
    /// Without its roles: those stand in the roles.
    pub(super) doc: AgentDoc,
    pub(super) key_at: At,
    pub(super) expires: Option<Spot<u64>>,
}

#[derive(Debug)]
pub(super) struct Revocations {
    pub(super) file: String,
    pub(super) servers: Vec<Spot<String>>,
    pub(super) agents: Vec<Spot<String>>,
    pub(super) tools: Vec<Spot<String>>,
}

impl Sources {
    /// Reads a directory.
    pub(super) fn read(dir: &Path) -> Self {
        let mut problems = Problems::default();
        let mut reader = Reader {
            dir,
            problems: &mut problems,
        };
        if !dir.join("org.yaml").is_file() {
            reader.sink("org.yaml").error(
                At::default(),
                "no-organisation",
                "there is no org.yaml: this is not a registry",
                "name the directory that holds org.yaml, or make one with `mcpshim-admin init DIR`",
            );
            return Self {
                problems,
                org: None,
                servers: Vec::new(),
                roles: Vec::new(),
                agents: Vec::new(),
                revocations: None,
                unread_servers: false,
                unread_agents: false,
            };
        }
        let org = reader.org();
        let (mut servers, unread_servers) = reader.each("servers", Reader::server);
        let (roles, _) = reader.each("roles", Reader::role);
        let (agents, unread_agents) = reader.each("agents", Reader::agent);
        reader.pins(&mut servers);
        let revocations = reader.revocations();
        reader.strays();
        servers.sort_by(|a, b| a.doc.key.cmp(&b.doc.key));
        Self {
            problems,
            org,
            servers,
            roles,
            agents,
            revocations,
            unread_servers,
            unread_agents,
        }
    }

    /// The server with this key.
    pub(super) fn server(&self, key: &str) -> Option<&Server> {
        self.servers.iter().find(|s| s.doc.key.as_str() == key)
    }
}

impl Revocations {
    /// The document, as far as the names are names; problems are reported elsewhere.
    pub(super) fn doc(this: Option<&Self>) -> RevocationsDoc {
        let mut doc = RevocationsDoc {
            format: FORMAT,
            min_reader: FORMAT,
            ..RevocationsDoc::default()
        };
        let Some(this) = this else { return doc };
        let names = |spots: &[Spot<String>]| -> Vec<String> {
            spots.iter().map(|spot| spot.value.clone()).collect()
        };
        doc.servers = names(&this.servers)
            .iter()
            .flat_map(|n| ServerKey::parse(n))
            .collect();
        doc.agents = names(&this.agents)
            .iter()
            .flat_map(|n| AgentName::parse(n))
            .collect();
        for name in names(&this.tools) {
            if let Some((server, tool)) = name.split_once('/')
                && let Ok(server) = ServerKey::parse(server)
            {
                doc.tools.push((server, tool.to_owned()));
            }
        }
        doc
    }
}

/// The trees of every `*.yaml` of a folder that is not part of the registry itself.
pub(super) fn trees(dir: &Path, folder: &str, problems: &mut Problems) -> Vec<(String, Node)> {
    let mut reader = Reader { dir, problems };
    let mut found = Vec::new();
    for name in reader.names(folder) {
        let file = format!("{folder}/{name}");
        match name.ends_with(".yaml") {
            true => found.extend(reader.tree(&file).map(|tree| (file, tree))),
            false => reader.stray(&file, folder, "yaml"),
        }
    }
    found
}

struct Reader<'a> {
    dir: &'a Path,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn sink<'b>(&'b mut self, file: &'b str) -> Sink<'b> {
        Sink {
            file,
            problems: self.problems,
        }
    }

    /// Reads every `*.yaml` of a folder in the order of names; says whether one was unusable.
    fn each<T>(
        &mut self,
        folder: &str,
        read: fn(&mut Self, &str, &str, &Node) -> Option<T>,
    ) -> (Vec<T>, bool) {
        let mut found = Vec::new();
        let mut unread = false;
        for name in self.names(folder) {
            let file = format!("{folder}/{name}");
            let Some(stem) = name.strip_suffix(".yaml") else {
                self.stray(&file, folder, "yaml");
                continue;
            };
            let item = self
                .tree(&file)
                .and_then(|tree| read(self, &file, stem, &tree));
            unread |= item.is_none();
            found.extend(item);
        }
        (found, unread)
    }

    fn stray(&mut self, file: &str, folder: &str, extension: &str) {
        self.sink(file).error(
            At::default(),
            "not-read",
            format!("only `{folder}/*.{extension}` is read; this file is not"),
            format!("rename it to end in `.{extension}`, or move it elsewhere"),
        );
    }

    /// The names in a folder, sorted; hidden ones are left out. A missing folder is empty.
    fn names(&mut self, folder: &str) -> Vec<String> {
        let mut names = Vec::new();
        if self.behind_a_link(folder) {
            let message = "cannot be read: it is, or lies behind, a symbolic link";
            let fix = "put an ordinary folder here";
            self.sink(folder)
                .error(At::default(), "unreadable", message, fix);
            return names;
        }
        if let Ok(entries) = fs::read_dir(self.dir.join(folder)) {
            for entry in entries.flatten() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    /// Whether a path below the directory, or a folder on the way to it, is a symbolic link.
    fn behind_a_link(&self, path: &str) -> bool {
        let below = Path::new(path).ancestors();
        below
            .filter(|path| !path.as_os_str().is_empty())
            .any(|path| self.dir.join(path).is_symlink())
    }

    /// Reads a file of the directory, never through a link out of it.
    fn bytes(&mut self, file: &str, limit: usize) -> Option<Vec<u8>> {
        let path = self.dir.join(file);
        let trouble = match fs::symlink_metadata(&path) {
            Ok(meta) if !meta.is_file() => "it is not an ordinary file".to_owned(),
            Ok(_) if self.behind_a_link(file) => "it lies behind a symbolic link".to_owned(),
            Ok(meta) if meta.len() > limit as u64 => {
                format!("it has {} bytes, expected at most {limit}", meta.len())
            }
            Ok(_) => match fs::read(&path) {
                Ok(bytes) => return Some(bytes),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let message = format!("cannot be read: {trouble}");
        let fix = "put an ordinary, readable file here";
        self.sink(file)
            .error(At::default(), "unreadable", message, fix);
        None
    }

    fn text(&mut self, file: &str) -> Option<String> {
        let bytes = self.bytes(file, FILE_BYTES)?;
        match String::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                let message = format!("is not UTF-8 at byte {offset}");
                let fix = "save it as UTF-8";
                self.sink(file)
                    .error(At::default(), "unreadable", message, fix);
                None
            }
        }
    }

    fn tree(&mut self, file: &str) -> Option<Node> {
        let text = self.text(file)?;
        super::secrets::scan_text(&text, &mut self.sink(file));
        yaml::parse(&text, &mut self.sink(file))
    }

    /// YAML files at the top that nothing reads.
    fn strays(&mut self) {
        for name in self.names("") {
            let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
            if yaml && name != "org.yaml" && name != "revocations.yaml" {
                self.sink(&name).error(
                    At::default(),
                    "not-read",
                    "no file of this name is read here",
                    "move it to servers/, roles/ or agents/, or out of the registry",
                );
            }
        }
        super::secrets::scan_files(self.dir, self.problems);
    }

    /// A file with a CA's certificates, as machines will use them.
    fn certificate(&mut self, file: &str, node: &Node, what: &str) -> Option<String> {
        let (at, included, text) = self.included(file, node, what)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let trouble = match found {
            Ok(found) if found.is_empty() => "holds no certificate".to_owned(),
            Ok(found) => {
                let mut roots = rustls::RootCertStore::empty();
                match found.into_iter().try_for_each(|found| roots.add(found)) {
                    Ok(()) => return Some(text),
                    Err(error) => format!("holds a certificate that cannot be used: {error}"),
                }
            }
            Err(error) => format!("is not in PEM form: {error}"),
        };
        let message = format!("`{included}` {trouble}");
        let fix = "name a file with the CA's certificate in PEM form";
        self.sink(file).error(at, "certificate", message, fix);
        None
    }

    /// A file named by a value, relative to the directory and inside it.
    fn included(&mut self, file: &str, node: &Node, what: &str) -> Option<(At, String, String)> {
        let named = yaml::text(node, what, &mut self.sink(file))?.to_owned();
        if !inside(&named) || !self.dir.join(&named).is_file() {
            let message = format!("{what} names `{named}`, which is not a file of this registry");
            let fix = "write a path relative to org.yaml, without `..`";
            self.sink(file).error(node.at, "no-such-file", message, fix);
            return None;
        }
        let text = self.text(&named)?;
        Some((node.at, named, text))
    }
}

/// Whether a relative path stays below the directory it is relative to.
pub(super) fn inside(path: &str) -> bool {
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    !path.contains(['\\', ':']) && !path.split('/').any(odd)
}

fn name<T>(
    node: &Node,
    what: &str,
    parse: fn(&str) -> Result<T, BadId>,
    sink: &mut Sink<'_>,
) -> Option<T> {
    let text = yaml::text(node, what, sink)?;
    match parse(text) {
        Ok(name) => Some(name),
        Err(error) => {
            let fix = format!("use {}", error.expected);
            sink.error(node.at, "name", format!("{what} is `{text}`"), fix);
            None
        }
    }
}

fn file_name<T>(stem: &str, parse: fn(&str) -> Result<T, BadId>, sink: &mut Sink<'_>) -> Option<T> {
    match parse(stem) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("the file's name is not a {}", error.what);
            let fix = format!("rename it, using {}", error.expected);
            sink.error(At::default(), "file-name", message, fix);
            None
        }
    }
}

fn text_or_empty(node: Option<&Node>, what: &str, sink: &mut Sink<'_>) -> String {
    let text = node.and_then(|node| yaml::text(node, what, sink));
    text.unwrap_or_default().trim_end().to_owned()
}

fn spot(node: &Node, what: &str, sink: &mut Sink<'_>) -> Option<Spot<String>> {
    let value = yaml::text(node, what, sink)?.to_owned();
    Some(Spot { at: node.at, value })
}

fn texts(node: &Node, what: &str, sink: &mut Sink<'_>) -> Vec<Spot<String>> {
    let items = yaml::list(node, what, sink);
    let mut found: Vec<Spot<String>> = Vec::new();
    for item in items {
        let Some(text) = spot(item, what, sink) else {
            continue;
        };
        if found.iter().any(|other| other.value == text.value) {
            let message = format!("`{}` stands twice in {what}", text.value);
            sink.error(text.at, "duplicate-item", message, "keep one of them");
        }
        found.push(text);
    }
    found
}

fn choice<T: Copy>(
    node: &Node,
    what: &str,
    among: &[(&'static str, T)],
    sink: &mut Sink<'_>,
) -> Option<T> {
    let text = yaml::text(node, what, sink)?;
    if let Some((_, value)) = among.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let words = || among.iter().map(|(word, _)| *word);
    let fix = match nearest(text, words()) {
        Some(meant) => format!("did you mean `{meant}`? It is {}", either(words())),
        None => format!("use {}", either(words())),
    };
    sink.error(node.at, "choice", format!("{what} is `{text}`"), fix);
    None
}

fn moment(node: &Node, what: &str, sink: &mut Sink<'_>) -> Option<Spot<u64>> {
    let text = yaml::text(node, what, sink)?;
    let Some(value) = date::parse(text) else {
        let message = format!("{what} is `{text}`, which is no date");
        let fix = "write a day such as `2027-01-31`, or `2027-01-31T18:00:00Z`; both are UTC";
        sink.error(node.at, "date", message, fix);
        return None;
    };
    Some(Spot { at: node.at, value })
}

/// Reads `repeat: {calls: 20, seconds: 60}`, or `repeat: off`.
fn repeat_limit(node: &Node, sink: &mut Sink<'_>) -> Option<RepeatLimit> {
    if matches!(&node.value, Value::Text { text, plain: true } if text == "off") {
        return Some(RepeatLimit::OFF);
    }
    let (calls_most, seconds_most) = limits::REPEAT_MOST;
    let mut fields = Fields::open(node, "repeat", sink)?;
    let calls = fields.need("calls", "write how often, such as `calls: 20`");
    let seconds = fields.need("seconds", "write in which time, such as `seconds: 60`");
    let mut number = |node: Option<&Node>, what, most| {
        let number = node.and_then(|node| yaml::number(node, what, 1..=u64::from(most), sink));
        number.and_then(|number| u32::try_from(number).ok())
    };
    let calls = number(calls, "calls", calls_most);
    let seconds = number(seconds, "seconds", seconds_most);
    fields.finish(sink);
    Some(RepeatLimit {
        calls: calls?,
        seconds: seconds?,
    })
}

fn version(node: &Node, sink: &mut Sink<'_>) -> Option<String> {
    let text = yaml::text(node, "min_client", sink)?;
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok()) {
        return Some(text.to_owned());
    }
    let message = format!("min_client is `{text}`");
    sink.error(
        node.at,
        "version",
        message,
        "write three numbers, such as `0.1.0`",
    );
    None
}

/// `https://…`, or `http://` on a loopback address; no user, password or fragment.
fn endpoint(node: &Node, what: &str, sink: &mut Sink<'_>) -> Option<String> {
    let text = yaml::text(node, what, sink)?;
    let parsed = reqwest::Url::parse(text);
    let trouble = match &parsed {
        Err(error) => error.to_string(),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "it holds a user or password".to_owned()
        }
        Ok(url) if url.fragment().is_some() => "it has a fragment".to_owned(),
        Ok(url) => match (url.scheme(), url.host_str()) {
            ("https", Some(_)) => return Some(text.to_owned()),
            ("http", Some("localhost" | "127.0.0.1" | "[::1]")) => return Some(text.to_owned()),
            ("http", _) => "it is not encrypted".to_owned(),
            _ => "it is not https".to_owned(),
        },
    };
    let fix = "write `https://…`, or `http://127.0.0.1:…` for a server on the same machine";
    let message = format!("{what} is not usable: {trouble}");
    sink.error(node.at, "url", message, fix);
    None
}
