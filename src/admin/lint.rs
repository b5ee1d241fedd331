//! Rules over the sources as a whole. One function per rule or family.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::diff::{Writes, writes};
use super::pins::PinFile;
use super::problem::{At, Problems, Sink, Spot, nearest, suggest};
use super::source::{Grant, PROJECT_DIR, Server, Sources};
use super::{credential, secrets};
use crate::catalog::needs_task;
use crate::clock::{Now, Utc};
use crate::limits;
use crate::pin::Kind;
use crate::policy::pattern::Pattern;
use crate::registry::doc::{PinMode, Transport};
use crate::registry::program::{from_project, is_path, is_relative};
use crate::text::printable;

/// The one who approves in the example of `init`: nobody.
pub(super) const NOBODY: &str = "nobody yet";

/// The purpose in what `new server` writes: none yet.
pub(super) const UNSAID: &str = "not said yet";

/// The rules of one entry that only look at itself, for one that is about to be written.
pub(super) fn entry(server: &Server, problems: &mut Problems) {
    let mut sink = Sink {
        file: &server.file,
        problems,
    };
    package(server, &mut sink);
    program(server, &mut sink);
    secrets(server, &mut sink);
    placeholders(server, &mut sink);
}

/// Runs every rule that does not depend on time.
pub(super) fn all(sources: &mut Sources) {
    let mut problems = std::mem::take(&mut sources.problems);
    org(sources, &mut problems);
    servers(sources, &mut problems);
    roles(sources, &mut problems);
    agents(sources, &mut problems);
    revocations(sources, &mut problems);
    sources.problems = problems;
}

/// Reports what only time tells.
pub(super) fn by_time(sources: &mut Sources, now: &Now) {
    let mut problems = std::mem::take(&mut sources.problems);
    let today = now.unix_s();
    for role in &sources.roles {
        let mut sink = Sink {
            file: &role.file,
            problems: &mut problems,
        };
        for grant in &role.grants {
            if let Some(expires) = &grant.expires
                && expires.value <= today
            {
                let (server, at) = (&grant.server.value, Utc(expires.value));
                let message = format!("the grant for `{server}` expired at {at}");
                let fix = "delete it, or have it approved again";
                sink.warning(expires.at, "expired", message, fix);
            }
            let approved = super::date::parse(&grant.approved_at.value);
            // a day has begun somewhere up to 14 hours before it begins in UTC
            if approved.is_some_and(|at| at > today + 14 * 3600) {
                let message = format!("approved_at is in the future: {}", grant.approved_at.value);
                let fix = "write the day it was approved";
                sink.error(grant.approved_at.at, "date", message, fix);
            }
        }
    }
    for agent in &sources.agents {
        if let Some(expires) = &agent.expires
            && expires.value <= today
        {
            let message = format!("the agent expired at {}", Utc(expires.value));
            let mut sink = Sink {
                file: &agent.file,
                problems: &mut problems,
            };
            let fix = "delete it, or set a later day";
            sink.warning(expires.at, "expired", message, fix);
        }
    }
    sources.problems = problems;
}

fn org(sources: &Sources, problems: &mut Problems) {
    let Some(org) = &sources.org else { return };
    let mut sink = Sink {
        file: "org.yaml",
        problems,
    };
    let top = At::default();
    // a key that was meant and is wrong has its own message
    let meant = |rule: &str| matches!(rule, "audit-key" | "no-such-file");
    if org.doc.audit_keys.is_empty() && !sink.problems.0.iter().any(|p| meant(p.rule)) {
        sink.warning(
            top,
            "no-audit-key",
            "there is no audit key: of arguments and results only the size is recorded",
            "run `mcpshim-collector auditkey new`, put the public half into audit/ and name it \
             in `audit_keys`",
        );
    }
    if org.doc.collector.is_none() {
        sink.warning(
            top,
            "no-collector",
            "there is no collector: records stay on the machines they are made on",
            "set `collector.url`",
        );
    }
    for group in org.groups.iter().flatten() {
        let mapped = |role: &super::source::Role| role.doc.groups.contains(&group.value);
        if !sources.unread_roles && !sources.roles.iter().any(mapped) {
            let message = format!("no role maps the group `{}`", group.value);
            sink.warning(
                group.at,
                "unmapped-group",
                message,
                "name it in a role, or take it out",
            );
        }
    }
}

fn servers(sources: &Sources, problems: &mut Problems) {
    if sources.servers.len() > limits::SERVERS {
        let mut sink = Sink {
            file: "servers",
            problems,
        };
        let (count, most) = (sources.servers.len(), limits::SERVERS);
        let message = format!("there are {count} servers, expected at most {most}");
        sink.error(
            At::default(),
            "too-large",
            message,
            "split the organisation's registry",
        );
    }
    let mut ids = BTreeMap::new();
    let mut keys = BTreeMap::new();
    for server in &sources.servers {
        let mut sink = Sink {
            file: &server.file,
            problems,
        };
        if let Some(other) = ids.insert(&server.doc.id, &server.file) {
            let message = format!("the id `{}` is already that of {other}", server.doc.id);
            sink.error(server.id_at, "duplicate-id", message, "choose another one");
        }
        if let Some(other) = keys.insert(&server.doc.key, &server.file) {
            let message = format!("the key `{}` is already that of {other}", server.doc.key);
            let fix = "choose another one: it begins every tool name";
            sink.error(server.key_at, "duplicate-key-of-server", message, fix);
        }
        if server.doc.key.as_str() == "mcpshim" {
            let fix = "choose another one: `mcpshim_…` are mcpshim's own tools";
            sink.error(
                server.key_at,
                "reserved-key",
                "the key `mcpshim` is reserved",
                fix,
            );
        }
        unsaid(server, &mut sink);
        pin(server, &mut sink);
        if let Some(at) = server.shared_at {
            let message =
                "`isolation: user` has no effect yet: each session starts a process of its own";
            sink.warning(
                at,
                "isolation",
                message,
                "take it out, or keep it for a later version",
            );
        }
        package(server, &mut sink);
        program(server, &mut sink);
        secrets(server, &mut sink);
        placeholders(server, &mut sink);
        credential::fits(server, &mut sink);
        named_tools(server, &mut sink);
        taken_names(server, sources, problems);
    }
    credential::shared(sources, problems);
}

/// What `new server` could not know and nobody wrote since.
fn unsaid(server: &Server, sink: &mut Sink<'_>) {
    let doc = &server.doc;
    let texts = [
        ("owner", &doc.owner),
        ("on_call", &doc.oncall),
        ("purpose", &doc.purpose),
    ];
    let texts = texts
        .into_iter()
        .filter(|(_, text)| *text == NOBODY || *text == UNSAID);
    let keys: Vec<String> = texts.map(|(key, _)| format!("`{key}`")).collect();
    if !keys.is_empty() {
        let message = format!("nobody has filled in {}", keys.join(", "));
        let fix = "write what the people who use the server and review it need to know";
        sink.warning(server.id_at, "not-filled-in", message, fix);
    }
}

fn pin(server: &Server, sink: &mut Sink<'_>) {
    let doc = &server.doc;
    match doc.pin {
        PinMode::Off if doc.environment != "dev" => {
            let message = format!("`pin: off` in environment `{}`", doc.environment);
            let fix = "use `strict` or `names`; `off` is for environment `dev`";
            sink.error(server.pin_at, "pin-off", message, fix);
        }
        PinMode::Off => {}
        PinMode::Definitions | PinMode::Names | PinMode::Strict
            if server.pin.is_none() && !server.pin_broken =>
        {
            let message = format!(
                "server `{}` has no pin: nothing is known of its tools",
                doc.key
            );
            let fix = format!("run `mcpshim-admin pin DIR {}`", doc.key);
            sink.error(At::default(), "no-pin", message, fix);
        }
        PinMode::Definitions | PinMode::Names | PinMode::Strict => {}
    }
    let surface = server.pin.as_ref().map(|pin| &pin.surface);
    let tools = surface.into_iter().flat_map(|surface| {
        let tools = surface.tools.iter();
        tools.filter(|tool| needs_task(surface, tool))
    });
    for tool in tools {
        let message = format!(
            "`{}` of `{}` only runs as a task of MCP 2025-11-25, which mcpshim does not carry: \
             every call of it is refused",
            tool.name, doc.key
        );
        let fix = "ask the server's owner for a version that answers directly";
        sink.warning(At::default(), "needs-task", message, fix);
    }
}

/// Own names that clients know as the exposed name of another server: a call of one is meant for
/// the other, also where the caller does not see that.
fn taken_names(server: &Server, sources: &Sources, problems: &mut Problems) {
    let Some(pin) = &server.pin else { return };
    let file = format!("pins/{}.json", server.doc.id);
    for kind in [Kind::Tool, Kind::Prompt] {
        for entry in kind.of(&pin.surface) {
            // every exposed name begins with the key of its server and `_`
            let owner = entry.name.split_once('_');
            let owner = owner.and_then(|(key, _)| sources.server(key));
            let owner = owner.filter(|owner| {
                let gave = |pin: &PinFile| pin.gave(kind, &entry.name);
                owner.doc.key != server.doc.key && owner.pin.as_ref().is_some_and(gave)
            });
            let Some(owner) = owner else { continue };
            let (word, name) = (kind.word(), printable(&entry.name));
            let (key, other) = (&server.doc.key, &owner.doc.key);
            let message = format!(
                "`{key}` calls a {word} of its own `{name}`, the name by which clients know a \
                 {word} of server `{other}`"
            );
            let fix = format!("have the owner of `{key}` rename it, and pin again");
            let mut sink = Sink {
                file: &file,
                problems,
            };
            sink.error(At::default(), "taken-name", message, fix);
        }
    }
}

/// Programs that fetch what they run, and how their packages are written.
fn runner(command: &str, args: &[Spot<String>]) -> Option<&'static str> {
    let name = command.rsplit(['/', '\\']).next().unwrap_or(command);
    let name = name.trim_end_matches(".cmd").trim_end_matches(".exe");
    let first = args.first().map(|arg| arg.value.as_str());
    match (name, first) {
        ("npx" | "bunx" | "pnpx", _)
        | ("npm" | "pnpm" | "yarn" | "bun", Some("exec" | "x" | "dlx")) => Some("npm"),
        ("uvx", _) | ("uv", Some("tool" | "run")) | ("pipx", Some("run")) => Some("pypi"),
        ("docker" | "podman" | "nerdctl", Some("run" | "container")) => Some("oci"),
        _ => None,
    }
}

/// [`runner`], for a command line that stands in no file yet.
pub(super) fn runner_of(command: &str, args: &[String]) -> Option<&'static str> {
    let spot = |arg: &String| Spot {
        at: At::default(),
        value: arg.clone(),
    };
    let first: Vec<Spot<String>> = args.first().map(spot).into_iter().collect();
    runner(command, &first)
}

/// Programs that run a command line or a program that they are given.
const WRAPPERS: [&str; 20] = [
    "sh",
    "bash",
    "zsh",
    "dash",
    "ksh",
    "fish",
    "cmd",
    "powershell",
    "pwsh",
    "env",
    "sudo",
    "doas",
    "nice",
    "nohup",
    "timeout",
    "setsid",
    "stdbuf",
    "xargs",
    "script",
    "time",
];

/// The name of a program without its directory and what Windows adds.
fn program_name(command: &str) -> String {
    let name = command.rsplit(['/', '\\']).next().unwrap_or(command);
    let lower = name.to_ascii_lowercase();
    let ends = [".exe", ".cmd", ".bat"];
    let bare = ends.iter().find_map(|end| lower.strip_suffix(end));
    bare.unwrap_or(&lower).to_owned()
}

/// A package runner inside what a shell or another wrapper is given: the rule of pinned packages
/// cannot hold there, whatever `package` says.
fn wrapped_runner(command: &str, args: &[Spot<String>]) -> Option<(At, String)> {
    if !WRAPPERS.contains(&program_name(command).as_str()) {
        return None;
    }
    let ends = |c: char| c.is_whitespace() || "|&;()<>`$\"'{}=".contains(c);
    for (at, arg) in args.iter().enumerate() {
        let words: Vec<&str> = arg
            .value
            .split(ends)
            .filter(|word| !word.is_empty())
            .collect();
        let rest = args.get(at + 1..).unwrap_or_default();
        for (at, word) in words.iter().enumerate() {
            let next = words.get(at + 1).copied();
            let next = next.or_else(|| rest.first().map(|arg| arg.value.as_str()));
            let next = next.map(|value| Spot {
                at: arg.at,
                value: value.to_owned(),
            });
            if runner(&program_name(word), next.as_slice()).is_some() {
                return Some((arg.at, program_name(word)));
            }
        }
    }
    None
}

/// The package is written once for people and once in the arguments; both must be one exact
/// version. Outside `dev`, a program that fetches what it runs needs one.
fn package(server: &Server, sink: &mut Sink<'_>) {
    let Transport::Stdio { command, args, .. } = &server.doc.transport else {
        return;
    };
    let spots = &server.transport;
    if server.doc.environment != "dev"
        && let Some((at, runner)) = wrapped_runner(command, &spots.args)
    {
        let message = format!("`{command}` starts `{runner}`, where no rule pins the package");
        let fix = format!("write `command: {runner}`, its arguments in `args`, and `package`");
        sink.error(at, "unpinned-package", message, fix);
    }
    let Some(package) = &spots.package else {
        if let Some(kind) = runner(command, &spots.args)
            && server.doc.environment != "dev"
        {
            let at = spots.command.as_ref().map_or(spots.at, |spot| spot.at);
            let message = format!("`{command}` runs a package that is not pinned");
            let fix = match kind {
                "npm" => "add `package: npm:NAME@1.2.3`, and the same version in `args`",
                "pypi" => "add `package: pypi:NAME@1.2.3`, and the same version in `args`",
                _ => "add `package: oci:NAME@sha256:…`, and the same digest in `args`",
            };
            sink.error(at, "unpinned-package", message, fix);
        }
        return;
    };
    let fix = "write `npm:NAME@1.2.3`, `pypi:NAME@1.2.3` or `oci:NAME@sha256:…`, one exact version";
    let parts = package.value.split_once(':').and_then(|(kind, rest)| {
        let (name, version) = rest.rsplit_once('@')?;
        (!name.is_empty()).then_some((kind, name, version))
    });
    let exact = |kind: &str, version: &str| match kind {
        "npm" | "pypi" => {
            version.starts_with(|c: char| c.is_ascii_digit())
                && version.contains('.')
                && version
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b".-+!".contains(&b))
                && !version
                    .split(['.', '-'])
                    .any(|part| part == "x" || part == "X")
        }
        "oci" => {
            let digest = version.strip_prefix("sha256:");
            digest.is_some_and(|hex| crate::ids::Digest::parse(hex).is_ok())
        }
        _ => false,
    };
    let Some((kind, name, version)) = parts.filter(|(kind, _, version)| exact(kind, version))
    else {
        let message = format!("`{}` is not one exact version of a package", package.value);
        sink.error(package.at, "unpinned-package", message, fix);
        return;
    };
    let spellings = match kind {
        "pypi" => vec![format!("{name}=={version}"), format!("{name}@{version}")],
        _ => vec![format!("{name}@{version}")],
    };
    // `--from=NAME==1.2.3` and `--package=NAME@1.2.3` name it as well
    let names_it = |arg: &String| {
        let value = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => value,
            _ => arg,
        };
        spellings.iter().any(|spelling| spelling == value)
    };
    if !args.iter().any(names_it) {
        let message = format!("the arguments do not name the package `{}`", package.value);
        let fix = format!(
            "write `{}` in `args`",
            spellings.first().map_or("", String::as_str)
        );
        sink.error(package.at, "package-mismatch", message, fix);
    }
}

/// In whose home a path lies.
fn personal(path: &str) -> Option<String> {
    if path.starts_with('~') {
        return Some("whoever runs it".to_owned());
    }
    let parts: Vec<&str> = path
        .split(['/', '\\'])
        .filter(|part| !part.is_empty())
        .collect();
    let parts = match parts.as_slice() {
        [drive, rest @ ..] if drive.ends_with(':') => rest,
        all => all,
    };
    match parts {
        ["root", _, ..] if path.starts_with('/') => Some("root".to_owned()),
        [homes, person, _, ..] if ["home", "users"].contains(&homes.to_lowercase().as_str()) => {
            // Windows and macOS have places of all there
            let all = ["public", "shared"].contains(&person.to_lowercase().as_str());
            (!all).then(|| printable(person))
        }
        _ => None,
    }
}

/// A program that a reviewer can find. What the client's project brings is a stranger's.
fn program(server: &Server, sink: &mut Sink<'_>) {
    let Transport::Stdio {
        command,
        args,
        cwd,
        program_from_project: false,
        ..
    } = &server.doc.transport
    else {
        return;
    };
    let spots = &server.transport;
    let at = spots.command.as_ref().map_or(spots.at, |spot| spot.at);
    if let Some(person) = personal(command) {
        let message = format!("`{command}` lies in the home of {person}: nobody else has it");
        let fix = "name a program that is installed on every machine";
        match server.doc.environment.as_str() {
            "dev" => sink.warning(at, "personal-program", message, fix),
            _ => sink.error(at, "personal-program", message, fix),
        }
        return;
    }
    if let Some(what) = from_project(command, args, cwd.as_deref()) {
        let message = format!("it would run {what}");
        let fix = "name a program that is installed, by a whole path or found on the PATH, and \
                   start it elsewhere; `program_from_project: true` in `transport` lets every \
                   cloned project choose the program";
        sink.error(at, "program-from-project", message, fix);
    } else if is_path(command) && is_relative(command) {
        let message = format!("`{command}` is a relative path, so where it leads is not signed");
        let fix = "write the whole path, or a name that is found on the PATH";
        sink.error(at, "relative-program", message, fix);
    }
}

fn secrets(server: &Server, sink: &mut Sink<'_>) {
    let spots = &server.transport;
    let mut found = |at: At, what: String| {
        // the value's own place says more than the line, which was reported when it was read
        let file = sink.file;
        sink.problems
            .0
            .retain(|p| !(p.file == file && p.line == at.line && secrets::is_of_line(p)));
        sink.error(at, "secret", what, secrets::fix());
    };
    for (name, value) in &spots.env {
        if let Some(what) = secrets::named(name, &value.value) {
            found(value.at, format!("the variable `{name}` {what}"));
        }
    }
    let mut before = None;
    for arg in &spots.args {
        if let Some(what) = secrets::argument(before, &arg.value) {
            found(arg.at, format!("an argument {what}"));
        }
        before = Some(arg.value.as_str());
    }
    if let Some(url) = &spots.url
        && let Some(what) = secrets::query(&url.value)
    {
        found(url.at, format!("the url {what}"));
    }
    let values = spots.env.iter().map(|(_, value)| value).chain(&spots.args);
    let values = values.chain(&spots.url).chain(&spots.command);
    for value in values.filter(|value| expands(&value.value)) {
        let message = format!(
            "`{}` is passed as it stands: nothing is expanded",
            value.value
        );
        let fix = "write the value itself";
        sink.warning(value.at, "not-expanded", message, fix);
    }
}

/// Whether a shell would put a variable here.
fn expands(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '{';
    text.split('$').skip(1).any(|rest| rest.starts_with(name))
}

/// `{project_dir}` stands for the project in arguments and `cwd` only, must be spelled so, and be
/// the whole first part of a path: the argument's own, or that behind its first `=`.
fn placeholders(server: &Server, sink: &mut Sink<'_>) {
    let spots = &server.transport;
    let begins = |path: &str| {
        let rest = path.strip_prefix(PROJECT_DIR);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    for arg in spots
        .args
        .iter()
        .filter(|arg| arg.value.contains(PROJECT_DIR))
    {
        let value = arg.value.split_once('=').map(|(_, value)| value);
        if !(begins(&arg.value) || value.is_some_and(begins)) {
            let message = format!("`{}` is passed as it stands", arg.value);
            let fix = "write `{project_dir}` or `{project_dir}/…` alone, or behind `--option=`";
            sink.warning(arg.at, "not-expanded", message, fix);
        }
    }
    for arg in &spots.args {
        for word in braced(&arg.value).filter(|word| format!("{{{word}}}") != PROJECT_DIR) {
            if nearest(word, ["project_dir"]).is_some() {
                let message = format!("`{{{word}}}` is passed as it stands");
                let fix = "did you mean `{project_dir}`?";
                sink.warning(arg.at, "not-expanded", message, fix);
            }
        }
    }
    let elsewhere = spots.env.iter().map(|(_, value)| value);
    let elsewhere = elsewhere.chain(&spots.url).chain(&spots.command);
    for spot in elsewhere.filter(|spot| spot.value.contains(PROJECT_DIR)) {
        let message = format!("`{PROJECT_DIR}` is passed as it stands here");
        let fix = "use it in `args` or `cwd`";
        sink.warning(spot.at, "not-expanded", message, fix);
    }
}

/// The words in braces.
fn braced(text: &str) -> impl Iterator<Item = &str> {
    let word = |part: &str| part.split_once('}').map(|(word, _)| word.len());
    text.split('{')
        .skip(1)
        .filter_map(move |part| part.get(..word(part)?))
}

/// Tools that have settings of their own exist.
fn named_tools(server: &Server, sink: &mut Sink<'_>) {
    let Some(pin) = &server.pin else { return };
    let quarantined = pin.surface.quarantined.keys().map(String::as_str);
    let offered = pin.surface.tools.iter().map(|tool| tool.name.as_str());
    let names: Vec<&str> = offered.chain(quarantined).collect();
    for tool in &server.named_tools {
        if !names.contains(&tool.value.as_str()) {
            let fix = suggest(&tool.value, names.iter().copied(), "pin again if it is new");
            let (name, key) = (&tool.value, &server.doc.key);
            let message = format!("`{name}` is not a pinned tool of `{key}`");
            sink.error(tool.at, "unknown-tool", message, fix);
        }
    }
}

fn roles(sources: &Sources, problems: &mut Problems) {
    let issuers = sources
        .org
        .as_ref()
        .is_some_and(|org| !org.doc.issuers.is_empty());
    let known = sources.org.as_ref().and_then(|org| org.groups.as_ref());
    for role in &sources.roles {
        let mut sink = Sink {
            file: &role.file,
            problems,
        };
        if role.groups.is_empty() && role.agents.is_empty() {
            let message = format!("nobody has the role `{}`: no groups, no agents", role.name);
            let fix = "name groups of the identity provider in `groups`, or agents in `agents`";
            sink.error(At::default(), "empty-role", message, fix);
        }
        for group in &role.groups {
            if sources.org.is_none() {
                // nothing is known of issuers; why has its own message
            } else if !issuers {
                let name = &group.value;
                let message = format!("nobody can show the group `{name}`: org.yaml has no issuer");
                let fix = "add your identity provider under `issuers`";
                sink.warning(group.at, "no-issuer", message, fix);
            } else if let Some(known) = known
                && !known.iter().any(|other| other.value == group.value)
            {
                let names = known.iter().map(|spot| spot.value.as_str());
                let fix = suggest(&group.value, names, "add it to the issuer's `groups`");
                let message = format!("no issuer has the group `{}`", group.value);
                sink.error(group.at, "unknown-group", message, fix);
            }
        }
        for agent in &role.agents {
            let names = || sources.agents.iter().map(|agent| agent.name.as_str());
            if names().any(|name| name == agent.value) || sources.unread_agents {
                continue;
            }
            let fix = match nearest(&agent.value, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!(
                    "make it with `mcpshim-admin agent new {} --owner TEAM --key FILE DIR`",
                    printable(&agent.value)
                ),
            };
            let message = format!("there is no agents/{}.yaml", agent.value);
            sink.error(agent.at, "unknown-agent", message, fix);
        }
        let mut seen = BTreeSet::new();
        for grant in &role.grants {
            if grant.approved_by.value == NOBODY {
                let message = format!("nobody approved the grant for `{}`", grant.server.value);
                let fix = "write who approved it, and when";
                sink.warning(grant.approved_by.at, "not-approved", message, fix);
            }
            if let Some(server) = sources.server(&grant.server.value) {
                wide(server, grant, &mut sink);
            }
            let server = &grant.server;
            let unread = sources.unread_servers;
            if !unread && sources.server(&server.value).is_none() && seen.insert(&server.value) {
                let by_id = sources
                    .servers
                    .iter()
                    .find(|s| s.doc.id.as_str() == server.value);
                let keys = sources.servers.iter().map(|s| s.doc.key.as_str());
                let meant = by_id.map(|s| s.doc.key.as_str());
                let fix = match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => suggest(&server.value, keys, "add the server to servers/"),
                };
                let message = format!("no server has the key `{}`", server.value);
                sink.error(server.at, "unknown-server", message, fix);
            }
        }
    }
}

/// Patterns of a grant that add nothing, and what `*` gives that does more than read: one line.
fn wide(server: &Server, grant: &Grant, sink: &mut Sink<'_>) {
    let mut said = Vec::new();
    let mut at = None;
    for list in [&grant.tools, &grant.prompts, &grant.resources] {
        for spot in list {
            let covers = |other: &&Spot<String>| {
                other.value != spot.value && Pattern::glob(&other.value).matches(&spot.value)
            };
            // the widest one says it best
            let wider = list
                .iter()
                .filter(covers)
                .min_by_key(|other| other.value.len());
            if let Some(wider) = wider {
                let (one, other) = (printable(&spot.value), printable(&wider.value));
                said.push(format!("`{one}` adds nothing: `{other}` has it"));
                at = at.or(Some(spot.at));
            }
        }
    }
    let redundant = !said.is_empty();
    let all = grant.tools.iter().find(|spot| spot.value == "*");
    if let (Some(all), Some(pin)) = (all, &server.pin) {
        let tools = pin.surface.tools.iter();
        let writing = tools.filter(|tool| writes(tool) != Writes::Reads).count();
        if writing > 0 {
            let of = pin.surface.tools.len();
            said.push(format!(
                "`*` gives {writing} of {of} tools that do more than read"
            ));
            at = at.or(Some(all.at));
        }
    }
    let Some(at) = at else { return };
    let (rule, fix) = match redundant {
        true => ("adds-nothing", "keep what you mean, and take the rest out"),
        false => (
            "writes-by-star",
            "name the tools, unless all of them are meant",
        ),
    };
    sink.warning(at, rule, said.join("; "), fix);
}

fn agents(sources: &Sources, problems: &mut Problems) {
    let mut keys = BTreeMap::new();
    for agent in &sources.agents {
        let mut sink = Sink {
            file: &agent.file,
            problems,
        };
        let key = &agent.doc.public_key;
        if let Some(other) = keys.insert(key, &agent.file)
            && !key.is_empty()
        {
            let message = format!("{other} has the same public key");
            let fix = "make each agent a key of its own: records name the agent by it";
            sink.error(agent.key_at, "duplicate-public-key", message, fix);
        }
        let named = |role: &super::source::Role| {
            role.agents
                .iter()
                .any(|name| name.value == agent.name.as_str())
        };
        if !sources.unread_roles && !sources.roles.iter().any(named) {
            let message = format!(
                "the agent `{}` has no role, so it may use nothing",
                agent.name
            );
            let fix = "name it under `agents` of a role, or delete it";
            sink.warning(At::default(), "unused-agent", message, fix);
        }
    }
}

fn revocations(sources: &Sources, problems: &mut Problems) {
    let Some(revoked) = &sources.revocations else {
        return;
    };
    let mut sink = Sink {
        file: &revoked.file,
        problems,
    };
    let mut unknown = |spot: &Spot<String>, what: &str, meant: Option<&str>| {
        let message = format!("there is no {what} `{}` to revoke", spot.value);
        let fix = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "take it out if it is gone for good".to_owned(),
        };
        sink.error(spot.at, "unknown-revoked", message, fix);
    };
    let keys = || sources.servers.iter().map(|s| s.doc.key.as_str());
    let agents = || sources.agents.iter().map(|a| a.name.as_str());
    for spot in &revoked.servers {
        if !sources.unread_servers && !keys().any(|key| key == spot.value) {
            unknown(spot, "server", nearest(&spot.value, keys()));
        }
    }
    for spot in &revoked.agents {
        if !sources.unread_agents && !agents().any(|name| name == spot.value) {
            unknown(spot, "agent", nearest(&spot.value, agents()));
        }
    }
    for spot in &revoked.tools {
        let (key, tool) = spot.value.split_once('/').unwrap_or((&spot.value, ""));
        match sources.server(key) {
            None if sources.unread_servers => {}
            None => unknown(spot, "tool", None),
            Some(server) => {
                let Some(pin) = &server.pin else { continue };
                let names = || pin.surface.tools.iter().map(|tool| tool.name.as_str());
                if !names().any(|name| name == tool) {
                    let meant = nearest(tool, names()).map(|tool| format!("{key}/{tool}"));
                    unknown(spot, "tool", meant.as_deref());
                }
            }
        }
    }
}
