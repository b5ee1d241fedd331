//! `mcpshim-admin` as a platform engineer uses it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Ended, Grant, Issuer, Org, Server, program, run};

fn admin<S: AsRef<std::ffi::OsStr>>(dir: &Path, words: impl IntoIterator<Item = S>) -> Ended {
    run(Command::new(program("mcpshim-admin"))
        .args(words)
        .current_dir(dir))
}

/// Where `scripts/peers` installed the npm servers.
fn npm() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let path = target.join("peers/npm/node_modules");
    assert!(
        path.exists(),
        "{} is missing: run scripts/peers",
        path.display()
    );
    path
}

/// An `npx` that runs the installed servers instead of downloading them, first on the PATH.
fn offline_npx(dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -y ] || exit 9\npackage=\"${{2%@*}}\"\nshift 2\n\
         exec node \"{}/$package/dist/index.js\" \"$@\"\n",
        npm().display()
    );
    fs::write(bin.join("npx"), script).unwrap();
    fs::set_permissions(bin.join("npx"), fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

fn rules(ended: &Ended) -> Vec<String> {
    let report = ended.json();
    let problems = report["problems"].as_array().unwrap();
    let errors = problems
        .iter()
        .filter(|problem| problem["level"] == "error");
    errors
        .map(|p| {
            format!(
                "{} {}",
                p["file"].as_str().unwrap(),
                p["rule"].as_str().unwrap()
            )
        })
        .collect()
}

#[test]
fn an_example_becomes_a_signed_registry_by_the_steps_it_prints() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let files = at.join("files");
    fs::create_dir(&files).unwrap();
    let made = admin(at, ["init", "acme", "--files", files.to_str().unwrap()]).ok();
    for step in [
        "key new acme",
        "agent new ci",
        "pin acme",
        "check acme",
        "publish acme",
    ] {
        assert!(
            made.stdout.contains(&format!("mcpshim-admin {step}")),
            "{made:?}"
        );
    }
    // exactly what the steps will make is missing
    let check = admin(at, ["check", "acme", "--json"]).refused(1, "acme has 3 errors and");
    assert_eq!(
        rules(&check),
        [
            "roles/ci.yaml unknown-agent",
            "servers/everything.yaml no-pin",
            "servers/filesystem.yaml no-pin"
        ]
    );
    admin(at, ["key", "new", "acme", "--keys", "keys"]).ok();
    admin(
        at,
        [
            "agent", "new", "ci", "--owner", "platform", "--key", "ci.key", "acme",
        ],
    )
    .ok();
    let mode = fs::metadata(at.join("ci.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut pin = Command::new(program("mcpshim-admin"));
    pin.args(["pin", "acme", "--json"]).current_dir(at);
    pin.env("PATH", offline_npx(at)).env("HOME", at);
    let first = run(&mut pin).ok().json_lines();
    assert_eq!(first.len(), 2);
    assert_eq!(
        (&first[1]["server"], &first[1]["outcome"]),
        (&"fs".into(), &"new".into())
    );
    let again = run(&mut pin).ok().json_lines();
    assert!(
        again
            .iter()
            .all(|pinning| pinning["outcome"] == "unchanged"),
        "{again:?}"
    );
    let pinned = fs::read_to_string(at.join("acme/pins/filesystem.json")).unwrap();
    let line = pinned
        .lines()
        .find(|line| line.starts_with("{\"name\":\"read_text_file\""));
    let entry: Value = serde_json::from_str(line.unwrap().trim_end_matches(',')).unwrap();
    assert_eq!(entry["exposed"], "fs_read_text_file");
    assert_eq!(entry["definition"]["name"], "read_text_file");
    let check = admin(at, ["check", "acme"]).ok();
    assert!(check.stdout.contains("acme: no errors and"), "{check:?}");
    let publish = ["publish", "acme", "--keys", "keys", "--out", "repository"];
    let first = admin(at, publish).ok();
    for said in [
        "Serve repository",
        "org = \"acme\"",
        "registry_url = ",
        "root = \"root.json\"",
        "acme/trust/root.json",
    ] {
        assert!(
            made.stdout.contains(&said.replace("repository", "REPO")),
            "{made:?}"
        );
        assert!(first.stdout.contains(said), "{first:?}");
    }
    // whoever publishes again knows it
    let again = admin(at, publish).ok();
    assert!(!again.stdout.contains("registry_url"), "{again:?}");
    let listed = admin(at, ["agent", "list", "acme"]).ok();
    assert!(listed.stdout.contains("ci  ci; platform"), "{listed:?}");
    let targets = fs::read_dir(at.join("repository/targets")).unwrap();
    let names: Vec<String> = targets
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .collect();
    for target in [
        "org.json",
        "policy.json",
        "server-filesystem.json",
        "server-everything.json",
    ] {
        assert!(names.iter().any(|name| name.ends_with(target)), "{names:?}");
    }
}

#[test]
fn an_entry_is_made_from_a_command_or_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    admin(at, ["init", "acme"]).ok();
    let new = |words: &[&str]| {
        let first = ["new", "server", "git", "--dir", "acme"];
        admin(at, first.iter().chain(words))
    };
    new(&[]).refused(2, "required");
    new(&["https://x.example/mcp", "--", "git-mcp"]).refused(2, "cannot be used with");
    new(&["--", "npx", "-y", "server"]).refused(1, "package that is not pinned");
    let made = new(&[
        "--json",
        "--",
        "uvx",
        "mcp-server-git==2026.8.31",
        "--verbose",
    ])
    .ok();
    assert_eq!(made.json()["package"], "pypi:mcp-server-git@2026.8.31");
    new(&["--", "other"]).refused(1, "acme/servers/git.yaml exists already");
    let remote = [
        "new",
        "server",
        "crm",
        "https://crm.example/mcp",
        "--dir",
        "acme",
    ];
    let said = admin(at, remote).ok();
    for next in [
        "review",
        "mcpshim-admin pin acme crm",
        "acme/roles",
        "mcpshim-admin check acme",
    ] {
        assert!(said.stdout.contains(next), "{said:?}");
    }
    let check = admin(at, ["check", "acme", "--json"]);
    assert!(
        rules(&check).contains(&"servers/crm.yaml no-pin".to_owned()),
        "{check:?}"
    );
    let completion = admin(at, ["completion", "bash"]).ok();
    assert!(
        completion.stdout.contains("__new,server)"),
        "{completion:?}"
    );
}

#[test]
fn init_overwrites_nothing_and_asks_for_an_id_it_can_use() {
    let dir = tempfile::tempdir().unwrap();
    admin(dir.path(), ["init", "acme"]).ok();
    let org = dir.path().join("acme/org.yaml");
    fs::write(&org, "changed").unwrap();
    admin(dir.path(), ["init", "acme"]).refused(1, "error: acme/org.yaml exists already");
    assert_eq!(fs::read_to_string(&org).unwrap(), "changed");
    admin(dir.path(), ["init", "Acme Ltd"]).refused(2, "--org ID");
    assert!(!dir.path().join("Acme Ltd").exists());
    admin(
        dir.path(),
        [
            "init",
            "Acme Ltd",
            "--org",
            "acme",
            "--name",
            "Acme: \"Ltd\"",
        ],
    )
    .ok();
    let check = admin(dir.path(), ["check", "Acme Ltd", "--json"]);
    assert_eq!(rules(&check).len(), 3, "{check:?}");
    admin(dir.path(), ["init", "other", "--files", "here"]).refused(2, "not an absolute path");
}

#[test]
fn check_reports_as_text_and_as_json_and_ends_accordingly() {
    let org = Org::new();
    let at = org.path();
    let good = admin(at, ["check", "sources"]).ok();
    assert!(
        good.stdout.contains("sources: no errors and 1 warning."),
        "{good:?}"
    );
    org.role("eng", &["nobody"], &[("nowhere", Grant::ALL)]);
    let text = admin(at, ["check", "sources"]).refused(1, "error: sources has 2 errors and");
    assert!(
        text.stdout.contains(
            "roles/eng.yaml:3:10: error: there is no agents/nobody.yaml [unknown-agent]\n  fix: "
        ),
        "{text:?}"
    );
    let json = admin(at, ["check", "sources", "--json"]).refused(1, "2 errors");
    let report = json.json();
    assert_eq!(
        (&report["errors"], &report["warnings"]),
        (&2.into(), &1.into())
    );
    let problem = &report["problems"][2];
    assert_eq!(
        (&problem["file"], &problem["line"]),
        (&"roles/eng.yaml".into(), &5.into())
    );
    admin(at, ["check", "elsewhere"]).refused(1, "elsewhere has 1 error");
    admin(
        at,
        [
            "publish",
            "sources",
            "--keys",
            "keys",
            "--out",
            "repository",
        ],
    )
    .refused(1, "mcpshim-admin check sources");
    assert!(!at.join("repository").exists());
}

#[test]
fn pin_says_what_changed_and_check_knows_before_it() {
    let org = Org::new();
    let at = org.path();
    org.server(&Server::counting("up", []));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    let first = admin(at, ["pin", "sources", "up"]).ok();
    assert!(first.stdout.starts_with("up: "), "{first:?}");
    admin(at, ["check", "sources"]).ok();
    org.server(&Server::counting("up", ["--drift-if", "/dev/null"]));
    let stale = admin(at, ["check", "sources", "--json"]).refused(1, "1 error");
    assert_eq!(rules(&stale), ["pins/up.json stale-pin"]);
    let text = fs::read(at.join("sources/pins/up.json")).unwrap();
    let changed = admin(at, ["pin", "sources"]).ok();
    assert!(
        changed
            .stdout
            .starts_with("up: changed, review pins/up.json\n"),
        "{changed:?}"
    );
    assert!(
        changed
            .stdout
            .contains(": the schema changed at `inputSchema."),
        "{changed:?}"
    );
    assert!(changed.stdout.contains("\n      + "), "{changed:?}");
    fs::write(at.join("sources/pins/up.json"), text).unwrap();
    let json = admin(at, ["pin", "sources", "--json"]).ok().json_lines();
    assert_eq!(json[0]["outcome"], "changed");
    assert!(
        json[0]["changes"][0]["edits"][0]["path"]
            .as_str()
            .unwrap()
            .starts_with("inputSchema")
    );
    admin(at, ["check", "sources"]).ok();
}

#[test]
fn a_server_that_cannot_be_pinned_does_not_hinder_the_others() {
    let org = Org::new();
    let at = org.path();
    org.server(&Server::counting("up", []));
    org.server(&Server::new("gone", "/does/not/exist"));
    org.server(&Server::new("dumb", "/bin/sh").args(["-c", "echo no such option >&2; exit 3"]));
    let ended =
        admin(at, ["pin", "sources"]).refused(1, "error: 2 of 3 servers could not be pinned");
    assert!(
        ended
            .stdout
            .contains("gone: failed, pins/gone.json is as it was\n"),
        "{ended:?}"
    );
    assert!(at.join("sources/pins/up.json").exists());
    assert!(!at.join("sources/pins/gone.json").exists());
    org.server(&Server::new("dumb", "/bin/sh").args(["-c", "sleep 60"]));
    let slow = admin(at, ["pin", "sources", "dumb", "--timeout", "1"]).refused(1, "1 of 1");
    assert!(slow.stdout.contains("within 1 s"), "{slow:?}");
    admin(at, ["pin", "sources", "pu"]).refused(1, "did you mean `up`?");
}

#[test]
fn pinned_servers_see_a_cleared_environment() {
    let org = Org::new();
    let seen = org.path().join("seen");
    let counting = program("mcpshim-admin")
        .parent()
        .unwrap()
        .join("examples/counting");
    let script = format!("env > {}; exec {}", seen.display(), counting.display());
    org.server(
        &Server::new("up", "/bin/sh")
            .args(["-c", &script])
            .env("GIVEN", "by the registry"),
    );
    let mut pin = Command::new(program("mcpshim-admin"));
    pin.arg("pin")
        .arg(org.sources())
        .env("ANTHROPIC_API_KEY", "leaked");
    run(&mut pin).ok();
    let seen = fs::read_to_string(seen).unwrap();
    assert!(
        seen.contains("GIVEN=by the registry\n") && seen.contains("PATH="),
        "{seen}"
    );
    assert!(!seen.contains("leaked"), "{seen}");
}

#[test]
fn private_keys_stay_out_of_the_sources() {
    let org = Org::new();
    let at = org.path();
    admin(
        at,
        ["agent", "new", "ci", "--key", "sources/ci.key", "sources"],
    )
    .refused(2, "may not lie inside the registry's sources");
    assert!(!at.join("sources/ci.key").exists());
    org.agent("ci");
    admin(at, ["agent", "new", "ci", "--key", "other.key", "sources"])
        .refused(1, "agents/ci.yaml exists already");
    assert!(!at.join("other.key").exists());
    admin(at, ["agent", "new", "Ci", "--key", "other.key", "sources"])
        .refused(2, "1 to 64 of a-z 0-9 -");
    // and if one gets there by another way, check says so
    fs::copy(org.agent_key("ci"), at.join("sources/agents/.ci.key")).unwrap();
    fs::copy(org.agent_key("ci"), at.join("sources/note.txt")).unwrap();
    let check = admin(at, ["check", "sources", "--json"]).refused(1, "error");
    assert_eq!(rules(&check), ["agents/.ci.key secret", "note.txt secret"]);
}

#[test]
fn every_command_has_help_with_an_example_and_can_be_completed() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["init", "check", "pin", "publish", "refresh"] {
        let help = admin(dir.path(), [command, "--help"]).ok();
        assert!(help.stdout.contains("Example"), "{command}: {help:?}");
    }
    let help = admin(dir.path(), ["agent", "new", "--help"]).ok();
    assert!(help.stdout.contains("Example"), "{help:?}");
    let script = admin(dir.path(), ["completion", "bash"]).ok();
    assert!(script.stdout.contains("mcpshim-admin"), "{script:?}");
    admin(dir.path(), ["chekc"]).refused(2, "check");
    admin(dir.path(), ["pin"]).refused(2, "<DIR>");
}

/// The document of this name in the published repository.
fn published(org: &Org, name: &str) -> Value {
    let found = fs::read_dir(org.repository().join("targets")).unwrap();
    let path = found
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with(&format!(".{name}")));
    serde_json::from_slice(&fs::read(path.unwrap()).unwrap()).unwrap()
}

#[test]
fn sign_in_credentials_and_remote_servers_are_published_as_written() {
    let org = Org::new();
    org.settings("secret_stores: {key_file: true}");
    org.issuers(&[Issuer {
        url: "https://login.example.com",
        client_id: "mcpshim",
        groups_claim: "groups",
        jwks: r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}]}"#,
        more: &["device_flow: true", "scopes: [profile]"],
    }]);
    let pem = include_str!("../data/ca.pem");
    fs::write(org.sources().join("trust/ca.pem"), pem).unwrap();
    let wiki = Server::http("wiki", "https://wiki.example.com/mcp").ca("trust/ca.pem");
    org.server(&wiki.credential("wiki", "bearer").with("pin: off"));
    let up = Server::counting("up", []).cwd(org.path().to_str().unwrap());
    org.server(
        &up.credential("up", "{env: UP_TOKEN}")
            .with("roots: true\npin: off"),
    );
    org.role_of(
        "eng",
        &["engineering"],
        &[],
        &[("up", Grant::ALL), ("wiki", Grant::ALL)],
    );
    org.republish();
    let doc = published(&org, "org.json");
    assert_eq!(doc["secret_stores"]["key_file"], true);
    assert_eq!(doc["secret_stores"]["systemd_credential"], false);
    assert_eq!(doc["issuers"][0]["device_flow"], true);
    assert_eq!(doc["issuers"][0]["scopes"], serde_json::json!(["profile"]));
    let doc = published(&org, "server-wiki.json");
    assert_eq!(doc["transport"]["ca_pem"], pem);
    assert_eq!(
        doc["credential"],
        serde_json::json!({"id": "wiki", "inject": {"as": "bearer"}, "obtain": "ask the tests"})
    );
    let doc = published(&org, "server-up.json");
    assert_eq!(doc["transport"]["cwd"], org.path().to_str().unwrap());
    assert_eq!(
        doc["credential"]["inject"],
        serde_json::json!({"as": "env", "name": "UP_TOKEN"})
    );
    assert_eq!(doc["roots"], true);
}
