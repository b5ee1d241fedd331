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
//! an error is ever published.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::credential::{self, CredentialSpots};
use super::date;
use super::pins::PinFile;
use super::problem::{At, Problems, Sink, Spot, either, nearest};
use super::yaml::{self, FILE_BYTES, Fields, Node, Value};
use crate::ids::{AgentName, BadId, OrgId, RoleName, ServerId, ServerKey};
use crate::limits;
use crate::registry::doc::{
    AgentDoc, AuditDoc, AuditKeyDoc, Capture, CollectorDoc, DurabilityClass, FORMAT, FailMode,
    Hosted, Isolation, IssuerDoc, OrgDoc, OrgLimits, PinMode, RepeatLimit, RevocationsDoc, RoleDoc,
    SecretStoresDoc, ServerDoc, ServerLimits, ToolAuditDoc, ToolLimits, Transport,
};

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

    fn org(&mut self) -> Option<Org> {
        let file = "org.yaml";
        let tree = self.tree(file)?;
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let mut fields = Fields::open(&tree, "the organisation", sink)?;
        let org = fields.need("org", "write its id, such as `org: acme`");
        let org = org.and_then(|node| name(node, "org", OrgId::parse, sink));
        let known = fields.need("name", "write the name people use");
        let known = text_or_empty(known, "name", sink);
        let help = fields.need("help", "write whom to ask when something is refused");
        let help = text_or_empty(help, "help", sink);
        let grace = fields.need("grace_hours", "write hours, such as `grace_hours: 72`");
        let grace = grace.and_then(|node| yaml::number(node, "grace_hours", 0..=24 * 366, sink));
        let min_client = fields
            .take("min_client")
            .and_then(|node| version(node, sink));
        let collector = fields.take("collector");
        let keys = fields.take("audit_keys");
        let issuers = fields.take("issuers");
        let stores = fields.take("secret_stores");
        let stores = stores.and_then(|node| secret_stores(node, sink));
        let limits = fields.take("limits");
        let limits = limits.and_then(|node| org_limits(node, sink));
        fields.finish(sink);
        let collector = collector.and_then(|node| self.collector(file, node));
        let audit_keys = keys
            .map(|node| self.audit_keys(file, node))
            .unwrap_or_default();
        let (issuers, groups) = match issuers {
            Some(node) => self.issuers(file, node),
            None => (Vec::new(), None),
        };
        Some(Org {
            doc: OrgDoc {
                format: FORMAT,
                min_reader: FORMAT,
                org: org?,
                name: known,
                help,
                collector,
                audit_keys,
                issuers,
                secret_stores: stores.unwrap_or_default(),
                grace_hours: u32::try_from(grace.unwrap_or_default()).unwrap_or_default(),
                min_client,
                limits: limits.unwrap_or_default(),
            },
            groups,
        })
    }

    fn collector(&mut self, file: &str, node: &Node) -> Option<CollectorDoc> {
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let mut fields = Fields::open(node, "collector", sink)?;
        let url = fields.need("url", "write where it listens, such as `https://…`");
        let url = url.and_then(|node| endpoint(node, "collector.url", sink));
        let ca = fields.take("ca");
        fields.finish(sink);
        let ca_pem = ca.and_then(|node| self.certificate(file, node, "collector.ca"));
        Some(CollectorDoc {
            url: url.unwrap_or_default(),
            ca_pem,
        })
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

    /// Audit keys: each item a path, a glob over `folder/*.json`, or the key itself.
    fn audit_keys(&mut self, file: &str, node: &Node) -> Vec<AuditKeyDoc> {
        let mut keys: Vec<AuditKeyDoc> = Vec::new();
        for item in yaml::list(node, "audit_keys", &mut self.sink(file)) {
            let found = match &item.value {
                Value::Map(_) => audit_key(item, &mut self.sink(file)).into_iter().collect(),
                Value::List(_) | Value::Text { .. } => self.audit_key_files(file, item),
            };
            for key in found {
                if keys.iter().any(|other| other.id == key.id) {
                    let message = format!("the audit key {} is given twice", short(&key.id));
                    let fix = "keep one of them";
                    self.sink(file)
                        .error(item.at, "duplicate-audit-key", message, fix);
                } else {
                    keys.push(key);
                }
            }
        }
        keys
    }

    fn audit_key_files(&mut self, file: &str, node: &Node) -> Vec<AuditKeyDoc> {
        let what = "audit_keys";
        let named = yaml::text(node, what, &mut self.sink(file)).map(str::to_owned);
        let Some(named) = named else {
            return Vec::new();
        };
        let paths = match named.rsplit_once('/') {
            Some((folder, "*.json")) if inside(folder) => {
                let names = self.names(folder);
                let json = names.into_iter().filter(|name| name.ends_with(".json"));
                json.map(|name| format!("{folder}/{name}")).collect()
            }
            _ if inside(&named) && self.dir.join(&named).is_file() => vec![named],
            _ => {
                let message =
                    format!("{what} names `{named}`, which is not a file of this registry");
                let fix = "write a path such as `audit/2026.json`, or `audit/*.json`";
                self.sink(file).error(node.at, "no-such-file", message, fix);
                Vec::new()
            }
        };
        let mut keys = Vec::new();
        for path in paths {
            // JSON is YAML, so the same reader with the same strictness reads both
            let tree = self.tree(&path);
            keys.extend(tree.and_then(|tree| audit_key(&tree, &mut self.sink(&path))));
        }
        keys
    }

    fn issuers(&mut self, file: &str, node: &Node) -> (Vec<IssuerDoc>, Option<Vec<Spot<String>>>) {
        let mut issuers: Vec<IssuerDoc> = Vec::new();
        let mut groups = Some(Vec::new());
        for item in yaml::list(node, "issuers", &mut self.sink(file)) {
            let mut sink = self.sink(file);
            let sink = &mut sink;
            let Some(mut fields) = Fields::open(item, "the issuer", sink) else {
                continue;
            };
            let issuer = fields.need("issuer", "write its `iss`, such as `https://…`");
            let issuer = issuer
                .and_then(|node| endpoint(node, "issuer", sink))
                .unwrap_or_default();
            let client = fields.need("client_id", "write our client id there");
            let client = text_or_empty(client, "client_id", sink);
            let claim = fields.need("groups_claim", "write the claim, such as `groups`");
            let claim = text_or_empty(claim, "groups_claim", sink);
            let named = fields
                .take("groups")
                .map(|node| texts(node, "groups", sink));
            let fix = "name a file with the issuer's keys as its `jwks_uri` gives them";
            let jwks = fields.need("jwks", fix);
            let scopes = fields.take("scopes");
            let scopes = scopes.map(|node| scopes_of(node, sink)).unwrap_or_default();
            let device_flow = fields.take("device_flow");
            let device_flow = device_flow.and_then(|node| yaml::flag(node, "device_flow", sink));
            let pkce_unadvertised = fields.take("pkce_unadvertised");
            let pkce_unadvertised =
                pkce_unadvertised.and_then(|node| yaml::flag(node, "pkce_unadvertised", sink));
            fields.finish(sink);
            groups = groups.zip(named).map(|(mut all, more)| {
                all.extend(more);
                all
            });
            let jwks = jwks.and_then(|node| self.jwks(file, node));
            if !issuer.is_empty() && issuers.iter().any(|other| other.issuer == issuer) {
                let message = format!("the issuer `{issuer}` is given twice");
                let fix = "keep one of them";
                self.sink(file)
                    .error(item.at, "duplicate-issuer", message, fix);
            }
            issuers.push(IssuerDoc {
                issuer,
                client_id: client,
                groups_claim: claim,
                scopes,
                device_flow: device_flow.unwrap_or_default(),
                pkce_unadvertised: pkce_unadvertised.unwrap_or_default(),
                jwks: jwks.unwrap_or_default(),
            });
        }
        (issuers, groups)
    }

    fn jwks(&mut self, file: &str, node: &Node) -> Option<serde_json::Value> {
        let (at, named, text) = self.included(file, node, "jwks")?;
        let found: Result<serde_json::Value, _> = serde_json::from_str(&text);
        let keys = found.as_ref().ok().and_then(|v| v.get("keys")?.as_array());
        let Some(keys) = keys.filter(|keys| !keys.is_empty()) else {
            let message = format!("`{named}` is not a JWK Set with keys");
            let fix = "fetch the issuer's `jwks_uri` again and store the answer as it came";
            self.sink(file).error(at, "jwks", message, fix);
            return None;
        };
        // RFC 7518 §6: `d` is the private part of every asymmetric key, `k` a symmetric key
        if keys
            .iter()
            .any(|key| key.get("d").is_some() || key.get("k").is_some())
        {
            let message = format!("`{named}` holds a private key");
            let fix = "store the public set only, and change that key: it was in the registry";
            self.sink(file).error(at, "secret", message, fix);
            return None;
        }
        found.ok()
    }

    fn server(&mut self, file: &str, stem: &str, tree: &Node) -> Option<Server> {
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let mut fields = Fields::open(tree, "the server", sink)?;
        let fix = format!("write `id: {stem}`, the name of the file: it never changes");
        let id_node = fields.need("id", &fix);
        let id = id_node.and_then(|node| name(node, "id", ServerId::parse, sink));
        if let (Some(id), Some(node)) = (&id, id_node)
            && id.as_str() != stem
        {
            let message = format!("the id is `{id}` but the file is called `{stem}.yaml`");
            let fix = format!("rename the file to `{id}.yaml`");
            sink.error(node.at, "file-name", message, fix);
        }
        let fix = "write the short key that begins every tool name, 1 to 16 of a-z 0-9 -";
        let key_node = fields.need("key", fix);
        let key = key_node.and_then(|node| name(node, "key", ServerKey::parse, sink));
        let owner = fields.need("owner", "name the team that answers for it");
        let owner = text_or_empty(owner, "owner", sink);
        let oncall = fields.need("on_call", "write whom to call when it is down");
        let oncall = text_or_empty(oncall, "on_call", sink);
        let purpose = fields.need("purpose", "say in one line what it is for");
        let purpose = text_or_empty(purpose, "purpose", sink);
        let hosted = fields.need("hosted", "write `self` or `vendor`");
        let hosted = hosted.and_then(|node| choice(node, "hosted", &HOSTED, sink));
        let environment = fields.need("environment", "write `prod`, `staging` or `dev`");
        let environment = text_or_empty(environment, "environment", sink);
        let zone = fields.need("zone", "name its network or trust zone");
        let zone = text_or_empty(zone, "zone", sink);
        let fix = "list the classes of data it gives access to, or write `[]`";
        let classes = fields.need("data_classes", fix);
        let classes = classes
            .map(|node| texts(node, "data_classes", sink))
            .unwrap_or_default();
        let fix = "say how to reach it: `type: stdio` with a command, or `type: http` with a url";
        let transport = fields.need("transport", fix);
        let (mut transport, spots, ca) =
            transport.map(|node| reach(node, sink)).unwrap_or_default();
        let (credential, credential_spots) = fields
            .take("credential")
            .and_then(|node| credential::read(node, sink))
            .unzip();
        let roots = fields.take("roots");
        let roots = roots.and_then(|node| yaml::flag(node, "roots", sink));
        let mut asked = |key: &'static str| {
            let node = fields.take(key);
            node.and_then(|node| yaml::flag(node, key, sink))
                .unwrap_or_default()
        };
        let (elicitation, sampling, apps) =
            (asked("elicitation"), asked("sampling"), asked("apps"));
        let (limits, mut named_tools) = fields
            .take("limits")
            .and_then(|node| server_limits(node, sink))
            .unwrap_or_default();
        let (audit, audit_tools) = fields
            .take("audit")
            .and_then(|node| audit(node, sink))
            .unwrap_or_default();
        named_tools.extend(audit_tools);
        let isolation = fields.take("isolation");
        let isolation = isolation.and_then(|node| choice(node, "isolation", &ISOLATION, sink));
        let stateful = fields.take("stateful");
        let stateful = stateful.and_then(|node| yaml::flag(node, "stateful", sink));
        let pin_node = fields.take("pin");
        let pin = pin_node.and_then(|node| choice(node, "pin", &PIN, sink));
        fields.finish(sink);
        if let Some(ca) = ca
            && let Some(Transport::Http { ca_pem, .. }) = &mut transport
        {
            *ca_pem = self.certificate(file, ca, "transport.ca");
        }
        Some(Server {
            file: file.to_owned(),
            id_at: id_node.map(|node| node.at).unwrap_or_default(),
            key_at: key_node.map(|node| node.at).unwrap_or_default(),
            pin_at: pin_node.map_or(tree.at, |node| node.at),
            reachable: transport.is_some(),
            transport: spots,
            credential: credential_spots,
            named_tools,
            pin: None,
            pin_broken: false,
            doc: ServerDoc {
                format: FORMAT,
                min_reader: FORMAT,
                id: id?,
                key: key?,
                owner,
                oncall,
                purpose,
                hosted: hosted.unwrap_or(Hosted::Own),
                environment,
                zone,
                data_classes: classes.into_iter().map(|spot| spot.value).collect(),
                transport: transport.unwrap_or(Transport::Http {
                    url: String::new(),
                    ca_pem: None,
                    legacy_sse: false,
                }),
                credential,
                roots: roots.unwrap_or_default(),
                elicitation,
                sampling,
                apps,
                limits,
                audit,
                isolation: isolation.unwrap_or_default(),
                stateful: stateful.unwrap_or_default(),
                pin: pin.unwrap_or_default(),
                surface: None,
            },
        })
    }

    fn role(&mut self, file: &str, stem: &str, tree: &Node) -> Option<Role> {
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let role = file_name(stem, RoleName::parse, sink);
        let mut fields = Fields::open(tree, "the role", sink)?;
        let title = fields.need("title", "say in one line who has this role");
        let title = text_or_empty(title, "title", sink);
        let ask = fields
            .take("ask")
            .map(|node| text_or_empty(Some(node), "ask", sink));
        let groups = fields
            .take("groups")
            .map(|node| texts(node, "groups", sink));
        let agents = fields
            .take("agents")
            .map(|node| texts(node, "agents", sink));
        let servers = fields.need("servers", "grant something, or delete the role");
        fields.finish(sink);
        let mut grants = Vec::new();
        let members = servers.and_then(|node| yaml::mapping(node, "servers", sink));
        for (key, node) in members.unwrap_or_default() {
            let server = Spot {
                at: key.at,
                value: key.text.clone(),
            };
            let items = match &node.value {
                Value::List(items) => items.iter().collect(),
                Value::Map(_) | Value::Text { .. } => vec![node],
            };
            for (i, item) in items.into_iter().enumerate() {
                grants.extend(grant(server.clone(), i + 1, item, sink));
            }
        }
        let groups = groups.unwrap_or_default();
        Some(Role {
            file: file.to_owned(),
            name: role?,
            doc: RoleDoc {
                title,
                groups: groups.iter().map(|group| group.value.clone()).collect(),
                ask: ask.unwrap_or_default(),
            },
            groups,
            agents: agents.unwrap_or_default(),
            grants,
        })
    }

    fn agent(&mut self, file: &str, stem: &str, tree: &Node) -> Option<Agent> {
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let agent = file_name(stem, AgentName::parse, sink);
        let mut fields = Fields::open(tree, "the agent", sink)?;
        let owner = fields.need("owner", "name the team that answers for it");
        let owner = text_or_empty(owner, "owner", sink);
        let fix = "make a key with `mcpshim-admin agent new NAME --key FILE`";
        let key = fields.need("public_key", fix);
        let expires = fields
            .take("expires")
            .and_then(|node| moment(node, "expires", sink));
        fields.finish(sink);
        let public = key.and_then(|node| {
            let text = yaml::text(node, "public_key", sink)?;
            let bytes = data_encoding::BASE64.decode(text.as_bytes());
            if bytes.is_ok_and(|bytes| bytes.len() == 32) {
                return Some(text.to_owned());
            }
            let message = "public_key is not an Ed25519 public key: 32 bytes in base64";
            sink.error(node.at, "public-key", message, fix);
            None
        });
        Some(Agent {
            file: file.to_owned(),
            name: agent?,
            key_at: key.map(|node| node.at).unwrap_or_default(),
            doc: AgentDoc {
                owner,
                public_key: public.unwrap_or_default(),
                roles: Vec::new(),
                not_after: expires.as_ref().map(|spot| spot.value),
            },
            expires,
        })
    }

    fn revocations(&mut self) -> Option<Revocations> {
        let file = "revocations.yaml";
        if !self.dir.join(file).exists() {
            return None;
        }
        let tree = self.tree(file)?;
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let mut fields = Fields::open(&tree, "the file", sink)?;
        let mut list = |key| {
            let node = fields.take(key);
            node.map(|node| texts(node, key, sink)).unwrap_or_default()
        };
        let (servers, agents, tools) = (list("servers"), list("agents"), list("tools"));
        fields.finish(sink);
        Some(Revocations {
            file: file.to_owned(),
            servers,
            agents,
            tools,
        })
    }

    fn pins(&mut self, servers: &mut [Server]) {
        for name in self.names("pins") {
            let file = format!("pins/{name}");
            let Some(stem) = name.strip_suffix(".json") else {
                self.stray(&file, "pins", "json");
                continue;
            };
            let Some(server) = servers.iter_mut().find(|s| s.doc.id.as_str() == stem) else {
                // a server whose file is broken is reported there
                if !self.dir.join(format!("servers/{stem}.yaml")).exists() {
                    let message = format!("there is no servers/{stem}.yaml");
                    let fix = "delete the pin, or bring the server back";
                    self.sink(&file)
                        .error(At::default(), "orphan-pin", message, fix);
                }
                continue;
            };
            let Some(bytes) = self.bytes(&file, limits::TARGET_BYTES) else {
                server.pin_broken = true;
                continue;
            };
            let before = self.problems.0.len();
            let reachable = server.reachable;
            server.pin = PinFile::read(&bytes, &server.doc, reachable, &mut self.sink(&file));
            server.pin_broken = server.pin.is_none() || self.problems.0.len() > before;
        }
    }
}

const HOSTED: [(&str, Hosted); 2] = [("self", Hosted::Own), ("vendor", Hosted::Vendor)];
const ISOLATION: [(&str, Isolation); 2] =
    [("session", Isolation::Session), ("user", Isolation::User)];
const PIN: [(&str, PinMode); 3] = [
    ("strict", PinMode::Strict),
    ("names", PinMode::Names),
    ("off", PinMode::Off),
];
const CLASS: [(&str, DurabilityClass); 3] = [
    ("process", DurabilityClass::Process),
    ("disk", DurabilityClass::Disk),
    ("collector", DurabilityClass::Collector),
];
const CAPTURE: [(&str, Capture); 3] = [
    ("none", Capture::None),
    ("digest", Capture::Digest),
    ("full", Capture::Full),
];
const FAIL: [(&str, FailMode); 2] = [("closed", FailMode::Closed), ("open", FailMode::Open)];

/// Stands for the client's project in arguments and `cwd`.
pub(super) const PROJECT_DIR: &str = "{project_dir}";

/// Whether a relative path stays below the directory it is relative to.
pub(super) fn inside(path: &str) -> bool {
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    !path.contains(['\\', ':']) && !path.split('/').any(odd)
}

fn short(id: &crate::ids::KeyId) -> String {
    id.as_str().chars().take(8).collect::<String>() + "…"
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

fn secret_stores(node: &Node, sink: &mut Sink<'_>) -> Option<SecretStoresDoc> {
    let mut fields = Fields::open(node, "secret_stores", sink)?;
    let key_file = fields.take("key_file");
    let credential = fields.take("systemd_credential");
    let mut flag = |node: Option<&Node>, what| {
        let flag = node.and_then(|node| yaml::flag(node, what, sink));
        flag.unwrap_or_default()
    };
    let doc = SecretStoresDoc {
        key_file: flag(key_file, "key_file"),
        systemd_credential: flag(credential, "systemd_credential"),
    };
    fields.finish(sink);
    Some(doc)
}

/// Scopes asked for beside `openid` and `offline_access` (RFC 6749 §3.3: printable ASCII without
/// blank, quote and backslash).
fn scopes_of(node: &Node, sink: &mut Sink<'_>) -> Vec<String> {
    let mut scopes = Vec::new();
    for scope in texts(node, "scopes", sink) {
        let part = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        let always = ["openid", "offline_access"].contains(&scope.value.as_str());
        if !scope.value.bytes().all(part) {
            let message = format!("`{}` is not one scope", scope.value);
            let fix = "write each scope as an item of its own, such as `[profile, email]`";
            sink.error(scope.at, "scope", message, fix);
        } else if always {
            let message = format!("`{}` is asked for always", scope.value);
            sink.warning(scope.at, "scope", message, "take it out");
        } else {
            scopes.push(scope.value);
        }
    }
    scopes
}

/// A working directory: absolute on some system, or below the project; without `..`.
fn cwd(node: &Node, sink: &mut Sink<'_>) -> Option<Spot<String>> {
    let found = spot(node, "cwd", sink)?;
    let text = &found.value;
    let drive = text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && matches!(text.get(1..3), Some(":\\" | ":/"));
    let below = text.strip_prefix(PROJECT_DIR);
    let rooted = text.starts_with('/')
        || drive
        || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let up = text.split(['/', '\\']).any(|part| part == "..");
    let braces = below.unwrap_or(text).contains(['{', '}']);
    if rooted && !up && !braces {
        return Some(found);
    }
    let message = format!("cwd is `{text}`, which is neither absolute nor in the project");
    let fix = "write an absolute path, `{project_dir}` or `{project_dir}/…`, without `..`";
    sink.error(node.at, "cwd", message, fix);
    None
}

/// The transport, where its parts stand, and the file of its CA, which is still to be read.
fn reach<'n>(
    node: &'n Node,
    sink: &mut Sink<'_>,
) -> (Option<Transport>, TransportSpots, Option<&'n Node>) {
    let mut spots = TransportSpots {
        at: node.at,
        ..TransportSpots::default()
    };
    let Some(mut fields) = Fields::open(node, "transport", sink) else {
        return (None, spots, None);
    };
    let mut ca = None;
    let kind = fields.need("type", "write `type: stdio` or `type: http`");
    let among = [("stdio", true), ("http", false)];
    let stdio = kind.and_then(|node| choice(node, "transport.type", &among, sink));
    let transport = match stdio {
        None => {
            fields.abandon(sink);
            None
        }
        Some(true) => {
            let command = fields.need("command", "write the program, such as `npx`");
            spots.command = command.and_then(|node| spot(node, "command", sink));
            if let Some(node) = fields.take("args") {
                let items = yaml::list(node, "args", sink).iter();
                spots.args = items.filter_map(|item| spot(item, "args", sink)).collect();
            }
            if let Some(node) = fields.take("env") {
                let members = yaml::mapping(node, "env", sink).unwrap_or_default();
                let variable = |(key, node): &(yaml::Key, Node)| {
                    if !credential::is_variable(&key.text) {
                        let message = format!("`{}` is no name of a variable", key.text);
                        let fix = "use letters, digits and `_`";
                        sink.error(key.at, "env", message, fix);
                    }
                    Some((key.text.clone(), spot(node, &key.text, sink)?))
                };
                spots.env = members.iter().filter_map(variable).collect();
            }
            spots.cwd = fields.take("cwd").and_then(|node| cwd(node, sink));
            let package = fields.take("package");
            spots.package = package.and_then(|node| spot(node, "package", sink));
            fields.finish(sink);
            let value = |spot: &Spot<String>| spot.value.clone();
            let env = spots.env.iter().map(|(k, v)| (k.clone(), value(v)));
            Some(Transport::Stdio {
                command: spots.command.as_ref().map(value).unwrap_or_default(),
                args: spots.args.iter().map(value).collect(),
                cwd: spots.cwd.as_ref().map(value),
                env: env.collect::<BTreeMap<_, _>>(),
                package: spots.package.as_ref().map(value),
            })
        }
        Some(false) => {
            let url = fields.need("url", "write where it listens");
            ca = fields.take("ca");
            let legacy_sse = fields.take("legacy_sse");
            let legacy_sse = legacy_sse.and_then(|node| yaml::flag(node, "legacy_sse", sink));
            fields.finish(sink);
            let text = url.and_then(|node| endpoint(node, "transport.url", sink));
            spots.url = url.and_then(|node| {
                let value = text.clone()?;
                Some(Spot { at: node.at, value })
            });
            let url = text.unwrap_or_default();
            Some(Transport::Http {
                url,
                ca_pem: None,
                legacy_sse: legacy_sse.unwrap_or_default(),
            })
        }
    };
    (transport, spots, ca)
}

/// Reads `limits` of the organisation.
fn org_limits(node: &Node, sink: &mut Sink<'_>) -> Option<OrgLimits> {
    let mut fields = Fields::open(node, "limits", sink)?;
    let repeat = fields.take("repeat");
    let repeat = repeat.and_then(|node| repeat_limit(node, sink));
    fields.finish(sink);
    Some(OrgLimits { repeat })
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

fn server_limits(node: &Node, sink: &mut Sink<'_>) -> Option<(ServerLimits, Vec<Spot<String>>)> {
    let mut found = ServerLimits::default();
    let mut fields = Fields::open(node, "limits", sink)?;
    if let Some(node) = fields.take("call_seconds") {
        let seconds = yaml::number(node, "call_seconds", 1..=86_400, sink);
        found.call_ms = seconds.unwrap_or_default() * 1000;
    }
    if let Some(node) = fields.take("idle_seconds") {
        let seconds = yaml::number(node, "idle_seconds", 1..=86_400, sink);
        found.idle_ms = seconds.unwrap_or_default() * 1000;
    }
    if let Some(node) = fields.take("in_flight") {
        let most = limits::CALLS_IN_FLIGHT as u64;
        let calls = yaml::number(node, "in_flight", 1..=most, sink);
        found.in_flight = u32::try_from(calls.unwrap_or_default()).unwrap_or_default();
    }
    if let Some(node) = fields.take("repeat") {
        found.repeat = repeat_limit(node, sink);
    }
    let tools = fields.take("tools");
    fields.finish(sink);
    let mut spots = Vec::new();
    let members = tools.and_then(|node| yaml::mapping(node, "limits.tools", sink));
    for (key, node) in members.unwrap_or_default() {
        let Some(mut fields) = Fields::open(node, "the tool", sink) else {
            continue;
        };
        let repeat = fields.take("repeat");
        let repeat = repeat.and_then(|node| repeat_limit(node, sink));
        fields.finish(sink);
        found.tools.insert(key.text.clone(), ToolLimits { repeat });
        let (at, value) = (key.at, key.text.clone());
        spots.push(Spot { at, value });
    }
    Some((found, spots))
}

fn audit(node: &Node, sink: &mut Sink<'_>) -> Option<(AuditDoc, Vec<Spot<String>>)> {
    let mut fields = Fields::open(node, "audit", sink)?;
    let own = tool_audit(&mut fields, sink);
    let tools = fields.take("tools");
    fields.finish(sink);
    let standard = AuditDoc::default();
    let mut doc = AuditDoc {
        class: own.class.unwrap_or(standard.class),
        arguments: own.arguments.unwrap_or(standard.arguments),
        results: own.results.unwrap_or(standard.results),
        fail_mode: own.fail_mode.unwrap_or(standard.fail_mode),
        tools: BTreeMap::new(),
    };
    let mut spots = Vec::new();
    let members = tools.and_then(|node| yaml::mapping(node, "audit.tools", sink));
    for (key, node) in members.unwrap_or_default() {
        let Some(mut fields) = Fields::open(node, "the tool", sink) else {
            continue;
        };
        doc.tools
            .insert(key.text.clone(), tool_audit(&mut fields, sink));
        fields.finish(sink);
        spots.push(Spot {
            at: key.at,
            value: key.text.clone(),
        });
    }
    Some((doc, spots))
}

fn tool_audit(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> ToolAuditDoc {
    let class = fields.take("class");
    let arguments = fields.take("arguments");
    let results = fields.take("results");
    let fail = fields.take("fail_mode");
    ToolAuditDoc {
        class: class.and_then(|node| choice(node, "class", &CLASS, sink)),
        arguments: arguments.and_then(|node| choice(node, "arguments", &CAPTURE, sink)),
        results: results.and_then(|node| choice(node, "results", &CAPTURE, sink)),
        fail_mode: fail.and_then(|node| choice(node, "fail_mode", &FAIL, sink)),
    }
}

fn grant(server: Spot<String>, number: usize, node: &Node, sink: &mut Sink<'_>) -> Option<Grant> {
    let mut fields = Fields::open(node, "the grant", sink)?;
    let mut list = |key, sink: &mut Sink<'_>| {
        let node = fields.take(key);
        node.map(|node| texts(node, key, sink)).unwrap_or_default()
    };
    let tools = list("tools", sink);
    let prompts = list("prompts", sink);
    let resources = list("resources", sink);
    let by = fields.need("approved_by", "name the person who approved it");
    let by = by.and_then(|node| spot(node, "approved_by", sink));
    let on = fields.need("approved_at", "write the day it was approved");
    let at = on.and_then(|node| moment(node, "approved_at", sink));
    let on = on.and_then(|node| at.and_then(|_| spot(node, "approved_at", sink)));
    let expires = fields
        .take("expires")
        .and_then(|node| moment(node, "expires", sink));
    fields.finish(sink);
    if tools.is_empty() && prompts.is_empty() && resources.is_empty() {
        let message = format!("the grant for `{}` gives nothing", server.value);
        let fix = "list tools, prompts or resources, or delete it";
        sink.error(node.at, "empty-grant", message, fix);
    }
    let missing = || Spot {
        at: node.at,
        value: String::new(),
    };
    Some(Grant {
        // the mapping begins at its first key; the line of the server's key says more
        at: if number == 1 { server.at } else { node.at },
        server,
        number,
        tools,
        prompts,
        resources,
        approved_by: by.unwrap_or_else(missing),
        approved_at: on.unwrap_or_else(missing),
        expires,
    })
}

/// Reads one audit key, as `mcpshim-collector auditkey new` prints it.
fn audit_key(node: &Node, sink: &mut Sink<'_>) -> Option<AuditKeyDoc> {
    let fix = "paste what `mcpshim-collector auditkey new` printed";
    let mut fields = Fields::open(node, "the audit key", sink)?;
    let id = fields.need("id", fix).and_then(|n| spot(n, "id", sink));
    let suite = fields
        .need("suite", fix)
        .and_then(|n| spot(n, "suite", sink));
    let public = fields
        .need("public", fix)
        .and_then(|n| spot(n, "public", sink));
    let mut second = |key, sink: &mut Sink<'_>| {
        let node = fields.need(key, fix)?;
        let number = yaml::number(node, key, 0..=253_402_300_799, sink)?;
        Some((node.at, number))
    };
    let from = second("not_before", sink);
    let until = second("not_after", sink);
    fields.finish(sink);
    let (id, suite, public) = (id?, suite?, public?);
    let ((_, not_before), (until_at, not_after)) = (from?, until?);
    const SUITE: &str = "x25519-hkdf-sha256/chacha20poly1305";
    if suite.value != SUITE {
        let message = format!("the suite is `{}`, expected `{SUITE}`", suite.value);
        sink.error(suite.at, "audit-key", message, fix);
        return None;
    }
    let bytes = data_encoding::BASE64.decode(public.value.as_bytes());
    let Some(bytes) = bytes.ok().filter(|bytes| bytes.len() == 32) else {
        let message = "public is not an X25519 public key: 32 bytes in base64";
        sink.error(public.at, "audit-key", message, fix);
        return None;
    };
    if crate::ids::Digest::of(&bytes).to_string() != id.value {
        let message = "the id is not the SHA-256 of the public key";
        sink.error(id.at, "audit-key", message, fix);
        return None;
    }
    if not_after <= not_before {
        let message = "the key ends before it begins";
        sink.error(until_at, "audit-key", message, fix);
        return None;
    }
    Some(AuditKeyDoc {
        id: crate::ids::KeyId::parse(&id.value).ok()?,
        suite: suite.value,
        public: public.value,
        not_before,
        not_after,
    })
}
