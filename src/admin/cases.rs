//! `mcpshim-admin test`: authored cases of who may do what, asked of the function that decides.
//!
//! ```text
//! tests/*.yaml    a list of {who, call | prompt | resource, expect}, and why, arguments
//! ```
//!
//! The sources are compiled, signed in memory and verified like a published registry, so a case
//! meets what a machine would. A case that cannot fail, because what it names is not there, is a
//! mistake: it would still pass when it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::problem::{At, Problems, Sink, Spot, either, nearest, suggest};
use super::publish::{PublishError, rehearsed};
use super::source;
use super::yaml::{self, Fields, Node, Value};
use crate::clock::{Entropy, Now};
use crate::identity::{self, Caller};
use crate::ids::{AgentName, RoleName, ServerKey};
use crate::pin::Kind;
use crate::policy::{Access, Decision, DenialCode, Snapshot, SnapshotId, decide};
use crate::registry::Loaded;
use crate::registry::doc::{PinMode, Registry, Surface};

/// The folder of the cases.
const FOLDER: &str = "tests";

/// Stands for the person of a case, who has no name, until the sentence is made without one.
const NOBODY_NAMED: &str = "whoever asks";

/// Refusals that rules cause; what networks and machines add is not to be tested here.
const CODES: [DenialCode; 5] = [
    DenialCode::Hidden,
    DenialCode::NoCaller,
    DenialCode::NotGranted,
    DenialCode::Revoked,
    DenialCode::RuleExpired,
];

/// One case and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The file, relative to the directory.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// Why the case is there, as its author says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Who asks.
    pub who: String,
    /// For what.
    pub what: String,
    /// The expected answer.
    pub expected: String,
    /// The answer.
    pub found: String,
    /// Whether the two agree.
    pub passed: bool,
}

/// Every case, and what is wrong with cases.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Mistakes in the cases themselves; a run with one fails.
    pub problems: Problems,
    /// The cases that could be asked, in the order of files and lines.
    pub cases: Vec<Outcome>,
}

impl Report {
    /// How many cases failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.passed).count()
    }
}

/// Why no case could be asked.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// The sources would not be published.
    #[error("the sources have mistakes")]
    Mistakes(Problems),
    /// There is nothing to ask.
    #[error("there are no cases in {FOLDER}/")]
    Nothing,
    /// Machines would refuse the registry.
    #[error(transparent)]
    Refused(#[from] PublishError),
}

/// How many files of cases there are.
#[must_use]
pub fn files(dir: &Path) -> usize {
    source::trees(dir, FOLDER, &mut Problems::default()).len()
}

/// Asks every case of a directory.
///
/// # Errors
/// [`TestError`] when there is nothing to ask, or nobody to answer.
pub fn test(dir: &Path, now: &Now, entropy: &mut dyn Entropy) -> Result<Report, TestError> {
    let set = super::compile(dir).map_err(TestError::Mistakes)?;
    let mut problems = Problems::default();
    let files = source::trees(dir, FOLDER, &mut problems);
    let known_groups = super::Sources::read(dir)
        .org
        .and_then(|org| org.groups)
        .unwrap_or_default();
    let Loaded {
        registry,
        freshness,
        ..
    } = rehearsed(&set, now, entropy)?;
    let registry = Arc::new(registry);
    let world = World {
        registry: &registry,
        groups: known_groups
            .iter()
            .map(|spot| spot.value.as_str())
            .collect(),
    };
    let mut snapshots: BTreeMap<Who, Snapshot> = BTreeMap::new();
    let mut seen = BTreeMap::new();
    let mut cases = Vec::new();
    for (file, tree) in &files {
        let mut sink = Sink {
            file,
            problems: &mut problems,
        };
        for node in yaml::list(tree, "the file", &mut sink) {
            let before = sink.problems.0.len();
            let Some(case) = case(node, &mut sink) else {
                continue;
            };
            world.check(&case, &mut sink);
            let names = case.arguments.iter().flatten();
            let names: Vec<String> = names.map(|name| name.value.clone()).collect();
            let same = (case.who.value.clone(), case.what.to_string(), names);
            if let Some((file, line)) = seen.insert(same, (file.clone(), node.at.line)) {
                let message = format!("{file}:{line} asks the same");
                sink.error(node.at, "duplicate-case", message, "keep one of them");
            }
            if sink.problems.0.len() > before {
                continue;
            }
            let snapshot = snapshots.entry(case.who.value.clone()).or_insert_with(|| {
                let caller = world.caller(&case.who.value);
                let registry = Some(Arc::clone(&registry));
                Snapshot::new(SnapshotId(1), registry, freshness, caller, None, now)
            });
            cases.push(answer(file, &case, snapshot, now));
        }
    }
    problems.sort();
    match cases.is_empty() && problems.0.is_empty() {
        true => Err(TestError::Nothing),
        false => Ok(Report { problems, cases }),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Agent(String),
    Groups(Vec<String>),
    Role(String),
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Groups(names) => write!(f, "groups {}", names.join(", ")),
            Self::Role(name) => write!(f, "role {name}"),
        }
    }
}

#[derive(Debug)]
enum Expected {
    Allow(Option<String>),
    Deny(DenialCode),
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Allow(None) => f.write_str("allow"),
            Self::Allow(Some(rule)) => write!(f, "allow by rule {rule}"),
            Self::Deny(code) => write!(f, "deny ({code})"),
        }
    }
}

#[derive(Debug)]
struct Case {
    at: At,
    why: Option<String>,
    who: Spot<Who>,
    what: Access,
    what_at: At,
    /// Names only: nothing decides by values yet.
    arguments: Option<Vec<Spot<String>>>,
    expected: Expected,
}

fn case(node: &Node, sink: &mut Sink<'_>) -> Option<Case> {
    let mut fields = Fields::open(node, "the case", sink)?;
    let why = fields.take("why");
    let why = why.and_then(|node| yaml::text(node, "why", sink).map(str::to_owned));
    let fix = "write `{role: NAME}`, `{agent: NAME}` or `{groups: [NAME]}`";
    let who = fields.need("who", fix);
    let who = who.and_then(|node| asker(node, fix, sink));
    let wanted = [
        fields.take("call"),
        fields.take("prompt"),
        fields.take("resource"),
    ];
    let arguments = fields.take("arguments");
    let fix = "write `allow`, `{allow: RULE}` or `{deny: CODE}`";
    let expected = fields.need("expect", fix);
    let expected = expected.and_then(|node| expectation(node, fix, sink));
    fields.finish(sink);
    let what = match wanted {
        [Some(node), None, None] => {
            thing(node, "call", sink).map(|(server, name)| (node, Access::Tool { server, name }))
        }
        [None, Some(node), None] => thing(node, "prompt", sink)
            .map(|(server, name)| (node, Access::Prompt { server, name })),
        [None, None, Some(node)] => resource(node, sink).map(|access| (node, access)),
        _ => {
            let message = "the case asks for nothing, or for several things";
            let fix = "write one of `call`, `prompt` and `resource`";
            sink.error(node.at, "case", message, fix);
            None
        }
    };
    let arguments = arguments.map(|node| {
        let members = yaml::mapping(node, "arguments", sink).unwrap_or_default();
        let name = |(key, _): &(yaml::Key, Node)| Spot {
            at: key.at,
            value: key.text.clone(),
        };
        members.iter().map(name).collect::<Vec<_>>()
    });
    let (what_node, what) = what?;
    Some(Case {
        at: node.at,
        why,
        who: who?,
        what,
        what_at: what_node.at,
        arguments,
        expected: expected?,
    })
}

fn asker(node: &Node, fix: &str, sink: &mut Sink<'_>) -> Option<Spot<Who>> {
    let members = yaml::mapping(node, "who", sink)?;
    let [(key, value)] = members else {
        let message = "who is not one role, agent or list of groups";
        sink.error(node.at, "case", message, fix);
        return None;
    };
    let who = match key.text.as_str() {
        "agent" => Who::Agent(yaml::text(value, "who.agent", sink)?.to_owned()),
        "groups" => {
            let items = yaml::list(value, "who.groups", sink).iter();
            let names = items.map(|item| Some(yaml::text(item, "who.groups", sink)?.to_owned()));
            let mut names = names.collect::<Option<Vec<_>>>()?;
            names.sort();
            names.dedup();
            Who::Groups(names)
        }
        "role" => Who::Role(yaml::text(value, "who.role", sink)?.to_owned()),
        other => {
            let known = ["role", "agent", "groups"];
            let fix = suggest(other, known, fix);
            sink.error(key.at, "case", format!("who is no `{other}`"), fix);
            return None;
        }
    };
    Some(Spot {
        at: value.at,
        value: who,
    })
}

fn thing(node: &Node, what: &str, sink: &mut Sink<'_>) -> Option<(ServerKey, String)> {
    let text = yaml::text(node, what, sink)?;
    let parts = text.split_once('/');
    let parts = parts.and_then(|(server, name)| Some((ServerKey::parse(server).ok()?, name)));
    if let Some((server, name)) = parts.filter(|(_, name)| !name.is_empty()) {
        return Some((server, name.to_owned()));
    }
    let message = format!("{what} is `{text}`");
    let fix = "write `SERVER/NAME`, with the server's key and its own name of the thing";
    sink.error(node.at, "case", message, fix);
    None
}

fn resource(node: &Node, sink: &mut Sink<'_>) -> Option<Access> {
    let mut fields = Fields::open(node, "resource", sink)?;
    let server = fields.need("server", "name the server by its key");
    let server_text = server.and_then(|node| yaml::text(node, "resource.server", sink));
    let uri = fields.need("uri", "write the URI");
    let uri = uri.and_then(|node| yaml::text(node, "resource.uri", sink));
    fields.finish(sink);
    match ServerKey::parse(server_text?) {
        Ok(server) => Some(Access::Resource {
            server,
            uri: uri?.to_owned(),
        }),
        Err(error) => {
            let fix = format!("use {}", error.expected);
            sink.error(node.at, "case", "resource.server is no key", fix);
            None
        }
    }
}

fn expectation(node: &Node, fix: &str, sink: &mut Sink<'_>) -> Option<Expected> {
    let members = match &node.value {
        Value::Text { text, .. } if text == "allow" => return Some(Expected::Allow(None)),
        Value::Map(members) => members.as_slice(),
        Value::List(_) | Value::Text { .. } => &[],
    };
    let [(key, value)] = members else {
        let message = "expect does not say one answer";
        sink.error(node.at, "case", message, fix);
        return None;
    };
    match key.text.as_str() {
        "allow" => {
            let rule = yaml::text(value, "expect.allow", sink)?;
            Some(Expected::Allow(Some(rule.to_owned())))
        }
        "deny" => {
            let text = yaml::text(value, "expect.deny", sink)?;
            let code = CODES.into_iter().find(|code| code.as_str() == text);
            if code.is_none() {
                let words = || CODES.into_iter().map(DenialCode::as_str);
                let fix = match nearest(text, words()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("use {}", either(words())),
                };
                let message = format!("there is no refusal `{text}`");
                sink.error(value.at, "case", message, fix);
            }
            code.map(Expected::Deny)
        }
        other => {
            let message = format!("there is no answer `{other}`");
            sink.error(key.at, "case", message, fix);
            None
        }
    }
}

/// The registry that answers, and what the sources know beside it.
struct World<'a> {
    registry: &'a Registry,
    groups: BTreeSet<&'a str>,
}

impl World<'_> {
    /// Who asks, as if they had proved who they are.
    fn caller(&self, who: &Who) -> Option<Caller> {
        let person = |roles| Caller::Person {
            issuer: String::new(),
            subject: NOBODY_NAMED.to_owned(),
            display: NOBODY_NAMED.to_owned(),
            roles,
            expires: u64::MAX,
        };
        match who {
            Who::Agent(name) => {
                let name = AgentName::parse(name).ok()?;
                let doc = self.registry.policy.agents.get(&name)?;
                Some(Caller::Agent {
                    key: identity::key_id(&doc.public_key)?,
                    roles: doc.roles.clone(),
                    name,
                })
            }
            Who::Groups(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                Some(person(identity::roles_of(self.registry, &names)))
            }
            Who::Role(name) => Some(person(vec![RoleName::parse(name).ok()?])),
        }
    }

    /// Reports what makes a case meaningless.
    fn check(&self, case: &Case, sink: &mut Sink<'_>) {
        let policy = &self.registry.policy;
        let mut absent = |at: At, message: String, fix: String| {
            sink.error(at, "never-matches", message, fix);
        };
        let who = &case.who;
        match &who.value {
            Who::Agent(name) if !policy.agents.contains_key(name.as_str()) => {
                let names = policy.agents.keys().map(AgentName::as_str);
                let fix = suggest(name, names, "take the case out if the agent is gone");
                absent(who.at, format!("there is no agent `{name}`"), fix);
            }
            Who::Role(name) if !policy.roles.contains_key(name.as_str()) => {
                let names = policy.roles.keys().map(RoleName::as_str);
                let fix = suggest(name, names, "take the case out if the role is gone");
                absent(who.at, format!("there is no role `{name}`"), fix);
            }
            Who::Groups(names) => {
                let mapped = || policy.roles.values().flat_map(|role| &role.groups);
                let known = |name: &String| {
                    mapped().any(|group| group == name) || self.groups.contains(name.as_str())
                };
                for name in names.iter().filter(|name| !known(name)) {
                    let all = mapped()
                        .map(String::as_str)
                        .chain(self.groups.iter().copied());
                    let fix = suggest(name, all, "name it in the issuer's `groups`");
                    let message = format!("no role maps the group `{name}`, and no issuer has it");
                    absent(who.at, message, fix);
                }
            }
            Who::Agent(_) | Who::Role(_) => {}
        }
        let at = case.what_at;
        let Some(server) = self.registry.servers.get(case.what.server()) else {
            let key = case.what.server();
            let keys = self.registry.servers.keys().map(ServerKey::as_str);
            let fix = suggest(
                key.as_str(),
                keys,
                "take the case out if the server is gone",
            );
            absent(at, format!("no server has the key `{key}`"), fix);
            return;
        };
        let hidden = matches!(case.expected, Expected::Deny(DenialCode::Hidden));
        let Some(surface) = server
            .surface
            .as_ref()
            .filter(|_| server.pin != PinMode::Off)
        else {
            return;
        };
        let (kind, name) = match &case.what {
            Access::Prompt { name, .. } => (Kind::Prompt, name),
            Access::Tool { name, .. } => (Kind::Tool, name),
            Access::Resource { .. } => return,
        };
        let entry = kind.of(surface).iter().find(|entry| entry.name == *name);
        if entry.is_none() && !hidden {
            let (key, word) = (case.what.server(), kind.word());
            let names = kind.of(surface).iter().map(|entry| entry.name.as_str());
            let fix = suggest(name, names, "expect `{deny: hidden}` if that is meant");
            absent(at, format!("`{key}` has no pinned {word} `{name}`"), fix);
        }
        if let (Some(arguments), Kind::Tool) = (&case.arguments, kind) {
            check_arguments(surface, name, arguments, at, sink);
        }
    }
}

/// The names of arguments must be those of the pinned schema, or the case is about another call.
fn check_arguments(
    surface: &Surface,
    tool: &str,
    arguments: &[Spot<String>],
    at: At,
    sink: &mut Sink<'_>,
) {
    let Some(tool) = surface.tools.iter().find(|entry| entry.name == tool) else {
        return;
    };
    let definition: serde_json::Value =
        serde_json::from_str(tool.definition.get()).unwrap_or_default();
    let schema = definition.get("inputSchema");
    let part = |name: &str| schema.and_then(|schema| schema.get(name));
    let open = part("additionalProperties").is_some_and(|more| *more != false);
    let properties = part("properties").and_then(|properties| properties.as_object());
    if let Some(properties) = properties.filter(|_| !open) {
        for argument in arguments
            .iter()
            .filter(|arg| !properties.contains_key(&arg.value))
        {
            let names = properties.keys().map(String::as_str);
            let fix = suggest(&argument.value, names, "take it out");
            let message = format!("the tool has no argument `{}`", argument.value);
            sink.error(argument.at, "never-matches", message, fix);
        }
    }
    let required = part("required").and_then(|required| required.as_array());
    for name in required
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
    {
        if !arguments.iter().any(|argument| argument.value == name) {
            let message = format!("the tool needs the argument `{name}`");
            sink.error(at, "never-matches", message, "add it");
        }
    }
}

fn answer(file: &str, case: &Case, snapshot: &Snapshot, now: &Now) -> Outcome {
    let (found, passed) = match decide(snapshot, &case.what, now) {
        Decision::Allow(permit) => match permit.start(snapshot) {
            Ok(started) => {
                let (role, rule) = (&started.role, started.rule);
                let text = format!("allow by role {role}, rule {} ({})", rule.id, rule.source);
                let passed = match &case.expected {
                    Expected::Allow(Some(id)) => *id == rule.id,
                    Expected::Allow(None) => true,
                    Expected::Deny(_) => false,
                };
                (text, passed)
            }
            Err(denial) => (
                format!("deny ({}): {}", denial.code, denial.sentence),
                false,
            ),
        },
        Decision::Ask(question) => {
            let denial = question.absurd();
            (format!("deny ({})", denial.code), false)
        }
        Decision::Deny(denial) => {
            let passed = matches!(case.expected, Expected::Deny(code) if code == denial.code);
            let sentence = denial.sentence.replace(&format!(" of {NOBODY_NAMED}"), "");
            (format!("deny ({}): {sentence}", denial.code), passed)
        }
    };
    Outcome {
        file: file.to_owned(),
        line: case.at.line,
        why: case.why.clone(),
        who: case.who.value.to_string(),
        what: case.what.to_string(),
        expected: case.expected.to_string(),
        found,
        passed,
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::admin::tests::{NOW, Org};
    use crate::clock::CountingEntropy;

    fn ask(org: &Org) -> Result<Report, TestError> {
        let now = Now {
            wall_us: NOW * 1_000_000,
            mono_us: 0,
        };
        test(org.dir(), &now, &mut CountingEntropy::default())
    }

    /// What the cases say about the good organisation.
    fn check(cases: &str) -> String {
        let org = Org::new();
        org.write("tests/a.yaml", cases);
        say(&org)
    }

    #[test]
    fn a_refusal_of_a_case_names_nobody() {
        let found = check("- {who: {role: eng}, call: gh/nosuch, expect: allow}\n");
        assert!(
            !found.contains("a case") && !found.contains(NOBODY_NAMED),
            "{found}"
        );
        let org = Org::new();
        org.edit("roles/eng.yaml", "read_*, write", "write");
        org.write(
            "tests/a.yaml",
            "- {who: {role: eng}, call: gh/read_file, expect: allow}\n",
        );
        let found = say(&org);
        assert!(
            found.contains("role eng does not include gh/read_file"),
            "{found}"
        );
    }

    fn say(org: &Org) -> String {
        let report = ask(org).unwrap();
        let mut out = report.problems.to_string();
        if !out.is_empty() {
            out.push('\n');
        }
        for case in &report.cases {
            let mark = if case.passed { "ok" } else { "FAILED" };
            let (who, what, found) = (&case.who, &case.what, &case.found);
            out.push_str(&format!("{mark} {}: {who}, {what}: {found}\n", case.line));
        }
        out
    }

    #[test]
    fn cases_are_answered_by_the_function_that_decides() {
        assert_snapshot!(check("\
- {who: {role: eng}, call: gh/write, expect: allow}
- {who: {agent: ci}, call: gh/write, expect: {allow: eng/gh#1}}
- {who: {groups: [engineering]}, prompt: gh/review, expect: {allow: eng/gh#2}}
- {who: {groups: [engineering]}, resource: {server: gh, uri: 'repo://a/b'}, expect: allow}
- {who: {role: eng}, call: gh/read_file, expect: {deny: not-granted}}
- {who: {role: eng}, call: gh/gone, expect: {deny: hidden}}
"), @r##"
ok 1: role eng, gh/write: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
ok 2: agent ci, gh/write: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
FAILED 3: groups engineering, prompt gh/review: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
ok 4: groups engineering, resource repo://a/b of gh: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
FAILED 5: role eng, gh/read_file: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
ok 6: role eng, gh/gone: deny (hidden): the registry of Acme has no gh/gone; call mcpshim_status to see what there is
"##);
        let org = Org::new();
        org.write("revocations.yaml", "agents: [ci]\ntools: [gh/write]\n");
        org.write(
            "tests/a.yaml",
            "\
- {who: {agent: ci}, call: gh/read_file, expect: {deny: revoked}}
- {who: {role: eng}, call: gh/write, expect: {deny: revoked}}
- {who: {role: eng}, call: gh/read_file, expect: allow}
",
        );
        assert_snapshot!(say(&org), @r##"
ok 1: agent ci, gh/read_file: deny (revoked): Acme has revoked agent ci; ask #help
ok 2: role eng, gh/write: deny (revoked): Acme has revoked gh/write; ask platform
ok 3: role eng, gh/read_file: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
"##);
        let org = Org::new();
        org.edit(
            "roles/eng.yaml",
            "expires: 2027-11-20",
            "expires: 2026-11-20",
        );
        let case = "- {who: {role: eng}, call: gh/write, expect: {deny: rule-expired}}\n";
        org.write("tests/a.yaml", case);
        assert_snapshot!(say(&org), @r##"ok 1: role eng, gh/write: deny (rule-expired): rule eng/gh#1 (roles/eng.yaml:5), which gave gh/write to role eng, ended at 2026-11-20T00:00:00Z; ask #help"##);
    }

    #[test]
    fn a_case_that_cannot_fail_is_a_mistake() {
        assert_snapshot!(check("\
- {who: {role: ops}, call: gh/write, expect: {deny: not-granted}}
- {who: {agent: cy}, call: gh/write, expect: {deny: not-granted}}
- {who: {groups: [enginering]}, call: gh/write, expect: {deny: not-granted}}
- {who: {role: eng}, call: gx/write, expect: {deny: hidden}}
- {who: {role: eng}, call: gh/wirte, expect: {deny: not-granted}}
- {who: {role: eng}, call: gh/write, expect: allow}
- {who: {role: eng}, call: gh/write, expect: {deny: revoked}}
"), @r##"
tests/a.yaml:1:16: error: there is no role `ops` [never-matches]
  fix: use `eng`; or take the case out if the role is gone
tests/a.yaml:2:17: error: there is no agent `cy` [never-matches]
  fix: did you mean `ci`?
tests/a.yaml:3:18: error: no role maps the group `enginering`, and no issuer has it [never-matches]
  fix: did you mean `engineering`?
tests/a.yaml:4:28: error: no server has the key `gx` [never-matches]
  fix: did you mean `gh`?
tests/a.yaml:5:28: error: `gh` has no pinned tool `wirte` [never-matches]
  fix: did you mean `write`?
tests/a.yaml:7:3: error: tests/a.yaml:6 asks the same [duplicate-case]
  fix: keep one of them
ok 6: role eng, gh/write: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
"##);
    }

    #[test]
    fn a_case_says_one_thing() {
        assert_snapshot!(check("\
- {who: eng, call: gh/write, expect: allow}
- {who: {roel: eng}, call: gh/write, expect: allow}
- {who: {role: eng}, call: write, expect: allow}
- {who: {role: eng}, call: gh/write, prompt: gh/review, expect: allow}
- {who: {role: eng}, call: gh/write, expect: deny}
- {who: {role: eng}, call: gh/write, expect: {deny: no-granted}}
- {who: {role: eng}, call: gh/write, expect: {deny: unavailable}}
- {who: {role: eng}, call: gh/write, expcet: allow}
"), @r##"
tests/a.yaml:1:9: error: who is `eng` [wrong-type]
  fix: write a mapping, `key: value` on lines of their own
tests/a.yaml:2:10: error: who is no `roel` [case]
  fix: did you mean `role`?
tests/a.yaml:3:28: error: call is `write` [case]
  fix: write `SERVER/NAME`, with the server's key and its own name of the thing
tests/a.yaml:4:3: error: the case asks for nothing, or for several things [case]
  fix: write one of `call`, `prompt` and `resource`
tests/a.yaml:5:46: error: expect does not say one answer [case]
  fix: write `allow`, `{allow: RULE}` or `{deny: CODE}`
tests/a.yaml:6:53: error: there is no refusal `no-granted` [case]
  fix: did you mean `not-granted`?
tests/a.yaml:7:53: error: there is no refusal `unavailable` [case]
  fix: use `hidden`, `no-caller`, `not-granted`, `revoked` or `rule-expired`
tests/a.yaml:8:38: error: the case has no key `expcet` [unknown-key]
  fix: did you mean `expect`?
"##);
    }

    #[test]
    fn arguments_are_those_of_the_tool() {
        let org = Org::new();
        let mut surface = crate::admin::tests::surface(&["read_file", "read_tree"]);
        let text = r#"{"name": "write", "inputSchema": {"type": "object", "properties": {"path": {}, "text": {}}, "required": ["path"]}}"#;
        let raw = serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
        surface
            .tools
            .push(crate::pin::entry(Kind::Tool, &raw).unwrap());
        org.pin_as(&surface);
        org.write(
            "tests/a.yaml",
            "\
- {who: {role: eng}, call: gh/write, arguments: {path: /x}, expect: allow}
- {who: {role: eng}, call: gh/write, arguments: {paht: /x}, expect: allow}
- {who: {role: eng}, call: gh/write, expect: allow}
",
        );
        assert_snapshot!(say(&org), @r##"
tests/a.yaml:2:28: error: the tool needs the argument `path` [never-matches]
  fix: add it
tests/a.yaml:2:50: error: the tool has no argument `paht` [never-matches]
  fix: did you mean `path`?
ok 1: role eng, gh/write: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
ok 3: role eng, gh/write: allow by role eng, rule eng/gh#1 (roles/eng.yaml:5)
"##);
    }

    #[test]
    fn without_cases_or_with_mistakes_nothing_passes() {
        assert!(matches!(ask(&Org::new()), Err(TestError::Nothing)));
        let org = Org::new();
        org.write("tests/a.yaml", "[]\n");
        assert!(matches!(ask(&org), Err(TestError::Nothing)));
        org.write("tests/a.yml", "[]\n");
        assert_eq!(ask(&org).unwrap().problems.errors(), 1);
        org.edit("roles/eng.yaml", "write]", "wriet]");
        assert!(matches!(ask(&org), Err(TestError::Mistakes(_))));
    }
}
