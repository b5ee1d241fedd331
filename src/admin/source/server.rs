//! One server: how it is reached, what is recorded of it, its limits, and its pin.

use std::collections::BTreeMap;

use super::{
    PROJECT_DIR, Reader, Server, TransportSpots, choice, endpoint, name, repeat_limit, spot,
    text_or_empty, texts,
};
use crate::admin::credential;
use crate::admin::pins::PinFile;
use crate::admin::problem::{At, Sink, Spot};
use crate::admin::yaml::{self, Fields, Node};
use crate::ids::{ServerId, ServerKey};
use crate::limits;
use crate::registry::doc::{
    AuditDoc, Capture, DurabilityClass, FORMAT, FailMode, Hosted, Isolation, PinMode, ServerDoc,
    ServerLimits, ToolAuditDoc, ToolLimits, Transport,
};

const HOSTED: [(&str, Hosted); 2] = [("self", Hosted::Own), ("vendor", Hosted::Vendor)];
const ISOLATION: [(&str, Isolation); 2] =
    [("session", Isolation::Session), ("user", Isolation::User)];
const PIN: [(&str, PinMode); 4] = [
    ("definitions", PinMode::Definitions),
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
impl Reader<'_> {
    pub(super) fn server(&mut self, file: &str, stem: &str, tree: &Node) -> Option<Server> {
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
        let mut asked = |key: &'static str, otherwise: bool| {
            let node = fields.take(key);
            node.and_then(|node| yaml::flag(node, key, sink))
                .unwrap_or(otherwise)
        };
        // a person sees what they are asked, and by whom
        let elicitation = asked("elicitation", true);
        let (sampling, apps) = (asked("sampling", false), asked("apps", false));
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
        let isolation_at = isolation.map(|node| node.at);
        let isolation = isolation.and_then(|node| choice(node, "isolation", &ISOLATION, sink));
        let shared_at = isolation_at.filter(|_| isolation == Some(Isolation::User));
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
            shared_at,
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

    pub(super) fn pins(&mut self, servers: &mut [Server]) {
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
            let from_project = fields.take("program_from_project");
            let from_project =
                from_project.and_then(|node| yaml::flag(node, "program_from_project", sink));
            fields.finish(sink);
            let value = |spot: &Spot<String>| spot.value.clone();
            let env = spots.env.iter().map(|(k, v)| (k.clone(), value(v)));
            Some(Transport::Stdio {
                command: spots.command.as_ref().map(value).unwrap_or_default(),
                args: spots.args.iter().map(value).collect(),
                cwd: spots.cwd.as_ref().map(value),
                env: env.collect::<BTreeMap<_, _>>(),
                package: spots.package.as_ref().map(value),
                program_from_project: from_project.unwrap_or_default(),
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
