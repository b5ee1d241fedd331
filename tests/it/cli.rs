//! The person's commands, as people and scripts meet them.

use std::path::Path;
use std::process::Command;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use crate::support::{Grant, Org, Server, id_token, program, run, skipped, wait_for};

/// The manual and the errors of a machine without settings: `tests/cmd`.
#[test]
fn commands_say_what_the_manual_says() {
    let cases = trycmd::TestCases::new();
    cases
        .register_bin("mcpshim", program("mcpshim"))
        .register_bin("mcpshim-admin", program("mcpshim-admin"))
        .register_bin("mcpshim-collector", program("mcpshim-collector"))
        .insert_var("[VERSION]", env!("CARGO_PKG_VERSION"))
        .unwrap()
        .env("HOME", "/nobody")
        .env("COLUMNS", "100")
        .case("tests/cmd/*.md");
    // what the developer has set is not the machine under test
    for variable in [
        "MCPSHIM_CONFIG",
        "MCPSHIM_STATE",
        "MCPSHIM_AGENT",
        "MCPSHIM_AGENT_KEY",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
    ] {
        cases.env(variable, "");
    }
}

/// One server with three tools; `ci` may use `echo`, people of the group `admins` everything.
fn organisation() -> Org {
    let org = Org::new();
    org.server(&Server::counting("up", []));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", Grant::tools(&["echo"]))]);
    org.write(
        "roles/admin.yaml",
        "title: admins\nask: '#ask-admin'\ngroups: [admins]\nservers:\n  up:\n    tools: ['*']\n    \
         approved_by: tests\n    approved_at: 2026-11-21\n",
    );
    org.publish();
    org
}

#[test]
fn a_machine_finds_its_registry_and_its_tools() {
    let org = organisation();
    let before = org
        .mcpshim("ci", ["status", "--json"])
        .refused(5, "no usable registry");
    assert!(
        before.json()["status"]["trouble"][0]
            .as_str()
            .unwrap()
            .contains("registry refresh")
    );

    let fetched = org.mcpshim("ci", ["registry", "refresh", "--json"]).ok();
    assert_eq!(fetched.json()["updated"], true);
    let again = org.mcpshim("ci", ["registry", "refresh"]).ok();
    assert!(
        again.stdout.contains("still at version 1"),
        "{}",
        again.stdout
    );

    let status = org.mcpshim("ci", ["status", "--json"]).ok().json();
    assert_eq!(status["status"]["caller"], "agent ci");
    assert_eq!(status["status"]["roles"], json!(["tester"]));
    assert_eq!(status["status"]["freshness"], "fresh");
    assert_eq!(status["status"]["servers"][0]["tools"], 1);
    assert_eq!(status["status"]["servers"][0]["of_tools"], 3);
    assert_eq!(status["managed"], false);

    let tools = org.mcpshim("ci", ["tools", "--json"]).ok().json();
    assert_eq!(tools.as_array().unwrap().len(), 1);
    assert_eq!(tools[0]["tool"], "up/echo");
    assert_eq!(tools[0]["exposed"], "up_echo");
    assert_eq!(tools[0]["role"], "tester");
    let all = org.mcpshim("ci", ["tools", "up", "--all"]).ok();
    assert!(
        all.stdout.contains("role admin does: ask #ask-admin"),
        "{}",
        all.stdout
    );
    org.mcpshim("ci", ["tools", "down"])
        .refused(1, "the servers are up");
}

#[test]
fn a_refusal_is_explained() {
    let org = organisation();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let allowed = org.mcpshim("ci", ["explain", "up/echo"]).ok();
    assert!(
        allowed
            .stdout
            .contains("rule tester/up#1 (roles/tester.yaml:5)"),
        "{}",
        allowed.stdout
    );
    for spelling in ["up/count", "up_count", "count"] {
        let denied = org
            .mcpshim("ci", ["explain", spelling])
            .refused(3, "up/count is denied");
        assert!(
            denied
                .stdout
                .contains("role tester of agent ci does not include up/count")
        );
        assert!(denied.stdout.contains("would give it: ask #ask-admin"));
    }
    let hidden = org
        .mcpshim("ci", ["explain", "up/nothing", "--json"])
        .refused(3, "is denied");
    assert_eq!(hidden.json()["verdict"]["code"], "hidden");
    org.mcpshim("ci", ["explain", "nothing"])
        .refused(1, "no tool named nothing");
    org.mcpshim("ci", ["explain", "--resource", "x://y"])
        .refused(1, "offers x://y");
}

#[test]
fn a_copy_is_imported_without_a_network() {
    let org = organisation();
    let copy = org.path().join("usb");
    std::fs::rename(org.repository(), &copy).unwrap();
    org.mcpshim("ci", ["registry", "refresh"]).refused(5, "");
    let imported = org.mcpshim("ci", ["registry", "import", "usb"]).ok();
    assert!(
        imported.stdout.contains("now at version 1"),
        "{}",
        imported.stdout
    );
    let shown = org.mcpshim("ci", ["registry", "show"]).ok();
    assert!(
        shown.stdout.contains("server:        up - 3 tools"),
        "{}",
        shown.stdout
    );
    org.mcpshim("ci", ["registry", "import", "nowhere"])
        .refused(1, "nowhere cannot be read");
    // nor is a directory without one, or a file, a registry in which nothing is new
    std::fs::create_dir(org.path().join("empty")).unwrap();
    for place in ["empty", "usb/metadata/timestamp.json"] {
        let ended = org.mcpshim("ci", ["registry", "import", place]);
        let ended = ended.refused(5, "timestamp.json");
        assert_eq!(ended.stdout, "");
    }
    // a copy is not trusted for being a copy
    let timestamp = copy.join("metadata/timestamp.json");
    let forged = std::fs::read_to_string(&timestamp)
        .unwrap()
        .replace("\"version\":1", "\"version\":9");
    std::fs::write(&timestamp, forged).unwrap();
    org.mcpshim("ci", ["registry", "import", "usb"])
        .refused(5, "");
}

#[test]
fn an_agent_runs_with_its_own_name_and_ends_with_its_own_code() {
    let org = organisation();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let as_ci = |words: &[&str]| {
        let key = org.agent_key("ci");
        run(org
            .laptop()
            .args(["run", "--as", "ci", "--key"])
            .arg(key)
            .arg("--")
            .args(words))
    };
    let who = as_ci(&[program("mcpshim").to_str().unwrap(), "status"]).ok();
    assert!(
        who.stdout.contains("caller:       agent ci"),
        "{}",
        who.stdout
    );
    assert_eq!(as_ci(&["sh", "-c", "exit 42"]).status.code(), Some(42));
    let killed = as_ci(&["sh", "-c", "kill -TERM $$"]).status;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&killed),
        Some(15)
    );
    as_ci(&["no-such-program"]).refused(1, "no-such-program cannot be started");

    let other = |name: &str, key: &Path| {
        run(org
            .laptop()
            .args(["run", "--as", name, "--key"])
            .arg(key)
            .args(["--", "true"]))
    };
    other("stranger", &org.agent_key("ci")).refused(4, "no agent stranger");
    other("ci", Path::new("missing.key")).refused(4, "there is no key in");
    let open = org.path().join("open.key");
    std::fs::copy(org.agent_key("ci"), &open).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&open, mode).unwrap();
    other("ci", &open).refused(4, "agent ci cannot prove who it is");
}

#[test]
fn a_person_is_who_the_identity_provider_says() {
    let org = organisation();
    let der = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
    let x = data_encoding::BASE64URL_NOPAD.encode(pair.public_key().as_ref());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
    org.write("trust/jwks.json", &jwks.to_string());
    org.write(
        "org.yaml",
        "org: it.example\nname: It\nhelp: '#help'\ngrace_hours: 24\nissuers:\n  - issuer: \
         https://idp.example\n    client_id: mcpshim\n    groups_claim: groups\n    jwks: trust/jwks.json\n",
    );
    org.republish();
    run(org.laptop().args(["registry", "refresh"])).ok();
    run(org.laptop().arg("status")).refused(4, "nobody is recognised");

    let token = |groups: &[&str]| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({
            "iss": "https://idp.example", "sub": "ann", "aud": "mcpshim", "name": "Ann",
            "iat": now, "exp": now + 600, "groups": groups,
        });
        id_token(&pair, &claims)
    };
    let sign_in = |token: &str| {
        let file = org.state().join("session.claims");
        std::fs::write(&file, token).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).unwrap();
    };
    sign_in(&token(&["admins"]));
    let tools = run(org.laptop().args(["tools", "--json"])).ok().json();
    assert_eq!(tools.as_array().unwrap().len(), 3);
    sign_in(&token(&["others"]));
    let status = run(org.laptop().arg("status")).ok();
    assert!(
        status.stdout.contains("Ann has no role; ask #help"),
        "{}",
        status.stdout
    );
    run(org.laptop().args(["explain", "up/echo"])).refused(3, "up/echo is denied");
    sign_in(&token(&["admins"]).replace('.', ".x"));
    run(org.laptop().arg("status")).refused(4, "nobody is recognised");
    // an agent that cannot prove itself is not the person beside it
    sign_in(&token(&["admins"]));
    let mut agent = org.laptop();
    agent
        .env("MCPSHIM_AGENT", "ci")
        .env("MCPSHIM_AGENT_KEY", "/missing.key");
    run(agent.arg("tools")).refused(4, "agent ci cannot prove who it is");
}

#[test]
fn settings_say_where_they_come_from() {
    let org = organisation();
    org.write_config("log_level = \"loud\"\nregistri_url = 1\n");
    let shown = org.mcpshim("ci", ["config"]).ok();
    assert!(
        shown.stdout.contains("[variable MCPSHIM_AGENT]"),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("config.toml:1]"), "{}", shown.stdout);
    assert!(
        shown.stderr.contains("did you mean `registry_url`?"),
        "{}",
        shown.stderr
    );
    let one = org.mcpshim("ci", ["config", "org"]).ok();
    assert_eq!(one.stdout, "it.example\n");
    let all = org.mcpshim("ci", ["config", "--json"]).ok().json();
    let keys = mcpshim::config::KEYS.len();
    assert_eq!(all["settings"].as_array().unwrap().len(), keys);
    assert_eq!(all["warnings"].as_array().unwrap().len(), 2);
    let level = org
        .mcpshim("ci", ["config", "log_level", "--json"])
        .ok()
        .json();
    assert_eq!(level["security"], false);
    assert!(
        level["setting"]["problem"]
            .as_str()
            .unwrap()
            .contains("\"loud\"")
    );
    org.write_config("min_root_version = \"x\"");
    org.mcpshim("ci", ["tools"])
        .refused(5, "`min_root_version` is \"x\", expected a number");
}

#[test]
fn a_reader_that_leaves_early_is_not_an_error() {
    let org = organisation();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let shim = program("mcpshim").display();
    let mut shell = Command::new("bash");
    org.environment_as(&mut shell, "ci");
    let script = format!("set -o pipefail; {shim} completion bash | head -c 1");
    let ended = run(shell.args(["-c", &script])).ok();
    assert_eq!(ended.stderr, "");
}

/// Managed settings, on a machine that has them: a mount namespace of its own, as root.
#[cfg(target_os = "linux")]
#[test]
fn a_managed_machine_listens_to_its_managers_only() {
    let org = organisation();
    if !rustix::process::geteuid().is_root() {
        return skipped("managed settings can be tried by root only");
    }
    let etc = org.path().join("etc");
    let managed = etc.join("mcpshim/managed.toml");
    std::fs::create_dir_all(managed.parent().unwrap()).unwrap();
    let mode = |path: &Path, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    mode(&etc, 0o755);
    mode(managed.parent().unwrap(), 0o755);
    // the account database of that machine: HOME does not decide where home is
    let home = org.path().join("account");
    std::fs::create_dir(&home).unwrap();
    let account = format!("root:x:0:0:root:{}:/bin/sh\n", home.display());
    std::fs::write(etc.join("passwd"), account).unwrap();
    // the root lies beside it, where only root can have written it
    let root = org.sources().join("trust/root.json");
    std::fs::copy(root, etc.join("mcpshim/root.json")).unwrap();
    let text = std::fs::read_to_string(org.config()).unwrap();
    let text = text
        .lines()
        .filter(|line| !line.starts_with("root"))
        .collect::<Vec<_>>();
    let text = format!("{}\nroot = \"root.json\"\n", text.join("\n"));
    std::fs::write(&managed, text).unwrap();
    mode(&managed, 0o644);
    mode(&etc.join("mcpshim/root.json"), 0o644);

    let inside = |words: &[&str]| {
        let mut command = Command::new("unshare");
        org.environment_as(&mut command, "ci");
        let script = "mount --bind \"$0\" /etc && exec \"$@\"";
        command
            .args(["--mount", "sh", "-c", script])
            .arg(&etc)
            .arg(program("mcpshim"));
        run(command.args(words))
    };
    let config = inside(&["config", "--json"]).ok().json();
    assert_eq!(config["managed"], true);
    let said = config["warnings"].to_string();
    for ignored in [
        "MCPSHIM_AGENT:",
        "MCPSHIM_AGENT_KEY:",
        "MCPSHIM_STATE:",
        "config.toml:",
    ] {
        assert!(said.contains(ignored), "{ignored} is read: {said}");
    }
    inside(&["registry", "refresh"]).ok();
    assert!(home.join(".local/share/mcpshim/managed.seen").exists());
    inside(&["tools"]).refused(4, "nobody is signed in");
    inside(&["run", "--as", "ci", "--", "true"]).refused(3, "this machine is managed");
    // what is not read cannot hold anything up either
    std::fs::remove_file(org.config()).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        org.config(),
        fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    inside(&["config", "--json"]).ok();

    mode(&managed, 0o666);
    inside(&["tools"]).refused(5, "can be written by others than root");
    std::fs::remove_file(&managed).unwrap();
    inside(&["tools"]).refused(5, "the managed configuration of this machine is gone");
}

#[test]
fn status_shows_the_sessions_that_run_and_only_those() {
    let org = Org::with(Server::counting("up", []));
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let sessions = || org.mcpshim("ci", ["status", "--json"]).ok().json()["sessions"].clone();
    let mut probe = org.serve("ci");
    probe.discover();
    assert_eq!(sessions(), json!([]), "a probe is no session");
    probe.close();

    let mut shim = org.serve("ci");
    shim.initialize();
    shim.call("up_echo", json!({"text": "x"}));
    let seen = wait_for("the session to say that its server is up", || {
        let seen = sessions();
        (seen[0]["servers"][0]["state"] == "up").then_some(seen)
    });
    assert_eq!(seen.as_array().unwrap().len(), 1);
    assert_eq!(seen[0]["pid"], shim.process.pid());
    assert_eq!(seen[0]["client"]["name"], "it");
    assert_eq!(seen[0]["servers"][0]["key"], "up");
    assert_eq!(seen[0]["caller"], "agent ci");
    let text = org.mcpshim("ci", ["status"]).ok().stdout;
    assert!(text.contains("it 1 (2025-11-25)"), "{text}");
    assert!(text.contains("up up (2025-11-25)"), "{text}");
    shim.close();
    assert_eq!(sessions(), json!([]));

    let mut shim = org.serve("ci");
    shim.initialize();
    wait_for("the session", || (sessions() != json!([])).then_some(()));
    shim.process.signal(rustix::process::Signal::KILL);
    shim.process.ended();
    assert_eq!(sessions(), json!([]));
    let left = std::fs::read_dir(org.state().join("run")).unwrap().count();
    assert_eq!(left, 0, "swept");
}
