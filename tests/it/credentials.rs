//! Credentials: the vault behind real keychains and without one, the commands, the way to the
//! servers, and that a secret shows up nowhere else.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use aho_corasick::AhoCorasick;
use mcpshim::audit::view::{self, ContextTable};
use mcpshim::audit::{decode, frames};
use mcpshim::ids::StreamId;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::support::{
    Answer, Grant, Issuer, Org, Running, Server, Shim, id_token, program, run, skipped, wait_for,
};

/// An organisation with one server that needs a credential, and one that needs none.
fn organisation(settings: &str) -> Org {
    organisation_of(settings, [Server::counting("up", [])])
}

fn organisation_of(settings: &str, servers: impl IntoIterator<Item = Server>) -> Org {
    let org = Org::new();
    if !settings.is_empty() {
        org.settings(settings);
    }
    let needy = Server::counting("needy", []).credential("needy-token", "{env: NEEDY_TOKEN}");
    let mut grants = vec![("needy", Grant::ALL)];
    org.server(&needy.with("audit: {arguments: full, results: full}"));
    for server in servers {
        org.server(&server);
        grants.push(("up", Grant::ALL));
    }
    org.agent("ci");
    org.role("tester", &["ci"], &grants);
    org.publish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    org
}

const KEY_FILE: &str = "secret_stores: {key_file: true}";

/// The secret as the server under test sees it.
fn seen(shim: &mut Shim) -> Option<String> {
    let answer = shim.call("needy_environment", json!({}));
    let text = answer.text();
    let line = text.lines().find(|line| line.starts_with("NEEDY_TOKEN="));
    line.map(|line| line["NEEDY_TOKEN=".len()..].to_owned())
}

/// Runs `credential set SERVER` with the value on standard input.
pub(crate) fn set(command: &mut Command, server: &str, value: &[u8]) -> Output {
    let mut child = start_set(command, server, value);
    let deadline = Instant::now() + Duration::from_secs(90);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "`credential set` hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn start_set(command: &mut Command, server: &str, value: &[u8]) -> std::process::Child {
    let mut child = command
        .args(["credential", "set", server, "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // one that has refused already does not read
    drop(child.stdin.take().unwrap().write_all(value));
    child
}

#[track_caller]
fn ok(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The reason of a call that was not sent.
#[track_caller]
fn reason_of(answer: &Answer) -> &str {
    assert!(answer.is_tool_error(), "{answer:?}");
    answer.text()
}

// ---- keychains

/// A throw-away session bus, with or without a keychain on it.
pub(crate) struct Bus {
    dir: tempfile::TempDir,
    address: String,
    /// Ended when this is dropped.
    _bus: Running,
    pub(crate) keychain: Option<Running>,
}

impl Bus {
    /// `None`, loudly, where the programs are not installed.
    pub(crate) fn start(services: bool) -> Option<Self> {
        let found = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|dir| dir.join(name).exists())
        };
        if !found("dbus-daemon") || !found("gnome-keyring-daemon") {
            skipped("gnome-keyring or dbus is not installed; keychains were not tested");
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("mcpshim-bus-")
            .tempdir()
            .unwrap();
        let services = match services {
            true => "<standard_session_servicedirs/>",
            false => "",
        };
        let config = dir.path().join("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
                 <busconfig><type>session</type><listen>unix:tmpdir={}</listen>{services}\
                 <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
                 <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
                dir.path().display()
            ),
        )
        .unwrap();
        let mut command = Command::new("dbus-daemon");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", dir.path())
            .arg("--nofork")
            .arg("--print-address=1")
            .arg(format!("--config-file={}", config.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut bus = Running::start(&mut command);
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(bus.stdout());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        Some(Self {
            address: line.trim().to_owned(),
            dir,
            _bus: bus,
            keychain: None,
        })
    }

    /// Starts gnome-keyring; without a password it comes up locked.
    pub(crate) fn keychain(&mut self, password: Option<&str>) {
        self.keychain = None;
        let mut command = Command::new("gnome-keyring-daemon");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("XDG_DATA_HOME", self.dir.path().join("data"))
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address)
            .args(["--foreground", "--components=secrets"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        if password.is_some() {
            command.arg("--unlock");
        }
        let mut keychain = Running::start(&mut command);
        let mut stdin = keychain.stdin();
        stdin
            .write_all(password.unwrap_or_default().as_bytes())
            .unwrap();
        drop(stdin);
        self.keychain = Some(keychain);
        wait_for("the keychain on its bus", || {
            let mut ask = Command::new("dbus-send");
            ask.env("DBUS_SESSION_BUS_ADDRESS", &self.address).args([
                "--session",
                "--print-reply",
                "--dest=org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus.NameHasOwner",
                "string:org.freedesktop.secrets",
            ]);
            run(&mut ask).stdout.contains("boolean true").then_some(())
        });
    }

    /// Gives a command this bus and the keychain's own directories.
    pub(crate) fn give<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address)
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
    }
}

#[test]
fn a_credential_lies_in_a_real_keychain_and_reaches_its_server() {
    let Some(mut bus) = Bus::start(false) else {
        return;
    };
    bus.keychain(Some("test-password"));
    let org = organisation("");
    let told = ok(&set(
        bus.give(&mut org.laptop_as("ci")),
        "needy",
        b"ghp_keychain_1\n",
    ));
    assert_eq!(told["store"], "keychain");
    assert_eq!(
        (&told["serial"], &told["servers"]),
        (&json!(1), &json!(["needy"]))
    );
    let sealed = std::fs::read(org.state().join("vault/vault.sealed")).unwrap();
    assert!(!holds(&sealed, b"ghp_keychain_1"));
    assert!(!org.state().join("vault/vault.key").exists());

    let mut shim = Shim::start(bus.give(&mut org.laptop_as("ci")).arg("serve"));
    shim.initialize();
    // the server has it, and its answer does not
    let mark = "[credential removed by mcpshim]";
    assert_eq!(seen(&mut shim).as_deref(), Some(mark));
    drop(shim);
    let records = records(&org);
    let intent = records.iter().find(|r| r["phase"] == "intent").unwrap();
    assert_eq!(intent["credential"], "needy-token");
    assert_eq!(intent["credential_store"], "keychain");
    assert_eq!(intent["credential_serial"], 1);
    let redacted = records.iter().find(|r| r["code"] == "redacted").unwrap();
    assert_eq!(redacted["server"], "needy");

    let list = run(bus
        .give(&mut org.laptop_as("ci"))
        .args(["credential", "list", "--json"]))
    .ok();
    let row = &list.json()[0];
    assert_eq!((&row["set"], &row["serial"]), (&json!(true), &json!(1)));
    assert!(row["last_used"].is_string(), "{row}");
    assert!(!list.stdout.contains("ghp_keychain"));

    // another machine's keychain, or one that was reset: never a new vault in silence
    let mut other = Bus::start(false).unwrap();
    other.keychain(Some("test-password"));
    let refused = set(
        other.give(&mut org.laptop_as("ci")),
        "needy",
        b"ghp_keychain_2",
    );
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(
        text.contains("the keychain has no key for the vault"),
        "{text}"
    );
    assert!(
        text.contains("move") && text.contains("vault.sealed"),
        "{text}"
    );
    assert_eq!(
        std::fs::read(org.state().join("vault/vault.sealed"))
            .map(|b| b.len())
            .ok(),
        Some(sealed.len())
    );
}

#[test]
fn a_locked_keychain_says_so_and_nothing_falls_back() {
    let Some(mut bus) = Bus::start(false) else {
        return;
    };
    bus.keychain(Some("test-password"));
    // even where the registry would allow a key file
    let org = organisation(KEY_FILE);
    ok(&set(
        bus.give(&mut org.laptop_as("ci")),
        "needy",
        b"ghp_locked_1",
    ));
    bus.keychain(None);
    let refused = run(bus
        .give(&mut org.laptop_as("ci"))
        .args(["credential", "list"]));
    let refused = refused.refused(1, "the keychain is locked");
    assert!(
        refused.stderr.contains("unlock the keychain"),
        "{}",
        refused.stderr
    );
    let mut shim = Shim::start(bus.give(&mut org.laptop_as("ci")).arg("serve"));
    shim.initialize();
    let answer = shim.call("needy_echo", json!({"text": "x"}));
    let text = reason_of(&answer);
    assert!(text.contains("needs the credential needy-token"), "{text}");
    assert!(text.contains("the keychain is locked"), "{text}");
    assert_eq!(
        shim.call("up_echo", json!({"text": "alive"})).text(),
        "alive"
    );
    // unlocked: the next call works, without a back-off
    bus.keychain(Some("test-password"));
    assert_eq!(
        shim.call("needy_echo", json!({"text": "again"})).text(),
        "again"
    );
    assert!(!org.state().join("vault/vault.key").exists());
    // a locked keychain on a machine without a vault is an error too
    let fresh = organisation(KEY_FILE);
    bus.keychain(None);
    let refused = set(
        bus.give(&mut fresh.laptop_as("ci")),
        "needy",
        b"ghp_locked_2",
    );
    assert_eq!(refused.status.code(), Some(1));
    assert!(!fresh.state().join("vault/vault.key").exists());
    assert!(!fresh.state().join("vault/vault.sealed").exists());
}

#[test]
fn without_a_bus_or_a_keychain_the_remedy_is_named() {
    let org = organisation("");
    let refused = set(&mut org.laptop_as("ci"), "needy", b"ghp_nowhere");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("there is no D-Bus session bus"), "{text}");
    assert!(text.contains("secret_stores"), "{text}");
    assert!(!org.state().join("vault/vault.sealed").exists());
    if let Some(bus) = Bus::start(false) {
        let refused = set(bus.give(&mut org.laptop_as("ci")), "needy", b"ghp_nowhere");
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("no keychain runs here"), "{text}");
        assert!(text.contains("secret_stores"), "{text}");
    }
}

#[test]
fn a_keychain_that_hangs_holds_up_nobody_else() {
    let Some(mut bus) = Bus::start(true) else {
        return;
    };
    bus.keychain(Some("test-password"));
    let org = organisation("");
    ok(&set(
        bus.give(&mut org.laptop_as("ci")),
        "needy",
        b"ghp_hanging_1",
    ));
    bus.keychain
        .as_ref()
        .unwrap()
        .signal(rustix::process::Signal::STOP);
    let mut command = org.laptop_as("ci");
    bus.give(&mut command).arg("serve");
    let mut shim = Shim::start(&mut command);
    shim.initialize();
    let waits = shim.post(
        "tools/call",
        json!({"name": "needy_echo", "arguments": {"text": "x"}}),
    );
    let started = Instant::now();
    assert_eq!(
        shim.call("up_echo", json!({"text": "alive"})).text(),
        "alive"
    );
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "the other server waited"
    );
    let answer = shim.answer(&json!(waits));
    let text = reason_of(&answer);
    assert!(text.contains("did not answer within 10 s"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(40));
    bus.keychain
        .as_ref()
        .unwrap()
        .signal(rustix::process::Signal::CONT);
    let answer = shim.call("needy_echo", json!({"text": "again"}));
    assert_eq!(answer.text(), "again");
}

#[test]
fn two_who_make_the_first_key_at_once_share_it() {
    let Some(mut bus) = Bus::start(false) else {
        return;
    };
    bus.keychain(Some("test-password"));
    let org = organisation("");
    let done: Vec<Output> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|number: u32| {
                let mut command = org.laptop_as("ci");
                bus.give(&mut command);
                let value = format!("ghp_first_key_{number}");
                scope.spawn(move || set(&mut command, "needy", value.as_bytes()))
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut serials: Vec<_> = done.iter().map(|one| ok(one)["serial"].as_u64()).collect();
    serials.sort();
    assert_eq!(serials, [Some(1), Some(2), Some(3), Some(4)]);
    let list = run(bus
        .give(&mut org.laptop_as("ci"))
        .args(["credential", "list", "--json"]))
    .ok();
    assert_eq!(list.json()[0]["serial"], 4);
}

// ---- without a keychain, where the registry allows it

#[test]
fn a_key_file_stands_in_where_the_registry_allows_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let org = organisation(KEY_FILE);
    let told = ok(&set(&mut org.laptop_as("ci"), "needy", b"ghp_in_a_file"));
    assert_eq!(told["store"], "key-file");
    let status = org.mcpshim("ci", ["status", "--json"]).ok();
    assert_eq!(status.json()["secret_store"], "key-file");
    let key = org.state().join("vault/vault.key");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let mut shim = org.serve("ci");
    shim.initialize();
    assert!(seen(&mut shim).is_some());
    drop(shim);
    let records = records(&org);
    let intent = records.iter().find(|r| r["phase"] == "intent").unwrap();
    assert_eq!(intent["credential_store"], "key-file");

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = org
        .mcpshim("ci", ["credential", "list"])
        .refused(1, "has mode 644");
    assert!(refused.stderr.contains("chmod 600"), "{}", refused.stderr);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    // not allowed any more: the vault stays closed
    let yaml = std::fs::read_to_string(org.sources().join("org.yaml")).unwrap();
    org.write("org.yaml", &yaml.replace(KEY_FILE, ""));
    org.republish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let refused = org.mcpshim("ci", ["credential", "list"]);
    refused.refused(1, "which the registry does not allow");
}

#[test]
fn a_systemd_credential_stands_in_where_the_registry_allows_it() {
    let org = organisation("secret_stores: {systemd_credential: true}");
    let dir = org.path().join("credentials");
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join("mcpshim-vault-key");
    std::fs::write(&file, [7; 32]).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    let mut command = org.laptop_as("ci");
    let told = ok(&set(
        command.env("CREDENTIALS_DIRECTORY", &dir),
        "needy",
        b"ghp_by_systemd",
    ));
    assert_eq!(told["store"], "systemd-credential");
    assert!(!org.state().join("vault/vault.key").exists());
    let list = org.mcpshim("ci", ["credential", "list"]);
    list.refused(1, "the systemd credential has no key for the vault");
}

// ---- commands

#[test]
fn the_commands_never_show_a_value() {
    let org = organisation(KEY_FILE);
    let missing = org.mcpshim("ci", ["credential", "list"]).ok();
    assert!(missing.stdout.contains("missing"), "{}", missing.stdout);
    assert!(
        missing.stderr.contains("mcpshim credential set needy"),
        "{}",
        missing.stderr
    );
    assert!(!org.state().join("vault").exists(), "looking makes nothing");
    org.mcpshim("ci", ["credential", "test", "needy"])
        .refused(1, "needy-token is not set");
    org.mcpshim("ci", ["credential", "remove", "needy"])
        .refused(1, "needy-token is not set");
    let none = org.mcpshim("ci", ["credential", "set", "up"]);
    none.refused(1, "server up needs no credential");
    org.mcpshim("ci", ["credential", "set", "nowhere"])
        .refused(1, "no server nowhere");
    for (value, why) in [
        (&b""[..], "nothing was given"),
        (b"\n", "nothing was given"),
        (b"short", "at least 8"),
        (b"two lines\nof it here", "control characters"),
        (&[b'x'; 20_000], "more than"),
    ] {
        let refused = set(&mut org.laptop_as("ci"), "needy", value);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(text.contains(why), "{text}");
    }
    let value = "ghp_commands_0123456789";
    let told = set(
        &mut org.laptop_as("ci"),
        "needy",
        format!("{value}\r\n").as_bytes(),
    );
    ok(&told);
    let tested = org
        .mcpshim("ci", ["credential", "test", "needy", "--json"])
        .ok();
    assert_eq!(tested.json()["answered"], true);
    assert_eq!(tested.json()["tools"], 3);
    let list = org.mcpshim("ci", ["credential", "list"]).ok();
    for text in [&list.stdout, &list.stderr, &tested.stdout, &tested.stderr] {
        assert!(!text.contains(value), "{text}");
    }
    let removed = org
        .mcpshim("ci", ["credential", "remove", "needy", "--json"])
        .ok();
    assert_eq!(removed.json()["credential"], "needy-token");
    let list = org.mcpshim("ci", ["credential", "list", "--json"]).ok();
    assert_eq!(list.json()[0]["set"], false);
    // what was removed leaves its number: the next value is another
    let again = ok(&set(&mut org.laptop_as("ci"), "needy", b"ghp_another_one"));
    assert_eq!(again["serial"], 2);
}

/// What a person at a terminal types and sees.
const TERMINAL: &str = r#"
import os, pty, sys, termios, time
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], "credential", "set", "needy"])
seen = b""
typed = False
while True:
    try:
        part = os.read(fd, 4096)
    except OSError:
        break
    if not part:
        break
    seen += part
    if not typed and b"(not shown): " in seen:
        # the question is asked just before echo is turned off
        while termios.tcgetattr(fd)[3] & termios.ECHO:
            time.sleep(0.01)
        os.write(fd, b"ghp_typed_by_hand\n")
        typed = True
sys.stdout.write(seen.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

#[test]
fn a_typed_credential_is_not_shown() {
    let org = organisation(KEY_FILE);
    let mut command = Command::new("python3");
    org.environment_as(&mut command, "ci");
    command.args(["-c", TERMINAL]).arg(program("mcpshim"));
    let ended = run(&mut command).ok();
    assert!(ended.stdout.contains("ask the tests"), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("needy-token of agent ci is set"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stdout.contains("ghp_typed"), "{}", ended.stdout);
    let mut shim = org.serve("ci");
    shim.initialize();
    assert!(seen(&mut shim).is_some());
}

#[test]
fn a_missing_credential_is_refused_with_its_remedy_and_works_once_it_is_set() {
    let org = organisation(KEY_FILE);
    let mut shim = org.serve("ci");
    shim.initialize();
    for _ in 0..3 {
        let answer = shim.call("needy_echo", json!({"text": "x"}));
        let text = reason_of(&answer);
        assert!(
            text.contains("needs the credential needy-token: it is not set"),
            "{text}"
        );
        assert!(text.contains("mcpshim credential set needy"), "{text}");
        assert!(!text.contains("tried again in"), "{text}");
    }
    ok(&set(
        &mut org.laptop_as("ci"),
        "needy",
        b"ghp_set_while_running",
    ));
    assert_eq!(
        shim.call("needy_echo", json!({"text": "now"})).text(),
        "now"
    );
    // another value: the server is started anew with it, between two calls
    ok(&set(
        &mut org.laptop_as("ci"),
        "needy",
        b"ghp_set_while_running",
    ));
    wait_for("the new value", || {
        shim.call("needy_echo", json!({"text": "still"})).result();
        let records = records(&org);
        let last = records.iter().rev().find(|r| r["phase"] == "intent")?;
        (last["credential_serial"] == 2).then_some(())
    });
    // the guard between us and the server does not have it
    let value = b"ghp_set_while_running";
    let mut with = Vec::new();
    for pid in org.processes() {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        if holds(&read("environ"), value) || holds(&read("cmdline"), value) {
            with.push(String::from_utf8_lossy(&read("cmdline")).into_owned());
        }
        let limits = String::from_utf8_lossy(&read("limits")).into_owned();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let small = core.is_some_and(|line| line.split_whitespace().rev().nth(1) == Some("1"));
        assert!(limits.is_empty() || small, "{pid}: {core:?}");
    }
    assert!(with.len() == 1 && with[0].contains("counting"), "{with:?}");
}

// ---- many writers, and their deaths

// ---- whose

/// People who sign in by a token of a provider that nobody runs.
struct People {
    org: Org,
    key: Vec<u8>,
}

impl People {
    fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
        let x = data_encoding::BASE64URL_NOPAD.encode(pair.public_key().as_ref());
        let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
        let org = Org::new();
        org.issuers(&[Issuer {
            url: "https://idp.example",
            client_id: "mcpshim",
            groups_claim: "groups",
            jwks: &jwks.to_string(),
            more: &[],
        }]);
        org.settings(KEY_FILE);
        let needy = Server::counting("needy", []).credential("needy-token", "{env: NEEDY_TOKEN}");
        org.server(&needy);
        org.agent("ci");
        org.role_of("eng", &["eng"], &["ci"], &[("needy", Grant::ALL)]);
        org.publish();
        run(org.laptop().args(["registry", "refresh"])).ok();
        let key = key.as_ref().to_vec();
        Self { org, key }
    }

    /// As a sign-in leaves it. `subject` is what the provider knows them by.
    fn sign_in(&self, subject: &str, name: &str) {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({
            "iss": "https://idp.example", "sub": subject, "aud": "mcpshim", "name": name,
            "iat": now, "exp": now + 600, "groups": ["eng"],
        });
        let pair = Ed25519KeyPair::from_pkcs8(&self.key).unwrap();
        let token = id_token(&pair, &claims);
        let (file, draft) = (
            self.org.state().join("session.claims"),
            self.org.state().join("session.draft"),
        );
        std::fs::write(&draft, token).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&draft, mode).unwrap();
        std::fs::rename(draft, file).unwrap();
    }

    /// Which credentials whoever calls sees as set.
    fn list(&self, mut command: Command) -> (Value, String) {
        let listed = run(command.args(["credential", "list", "--json"])).ok();
        let text = run(self.org.laptop().args(["credential", "list"])).stderr;
        (listed.json()[0]["set"].clone(), text)
    }
}

/// Whether a process of this machine has this as its credential. What a server says of it is
/// taken out on the way.
fn is_held(secret: &str) -> bool {
    let wanted = format!("NEEDY_TOKEN={secret}");
    let processes = std::fs::read_dir("/proc").unwrap();
    let mut environments =
        processes.filter_map(|entry| std::fs::read(entry.ok()?.path().join("environ")).ok());
    environments.any(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == wanted.as_bytes())
    })
}

#[test]
fn a_credential_belongs_to_the_person_who_set_it() {
    let people = People::new();
    let org = &people.org;
    // nobody is signed in: nobody could say whose it is
    let refused = set(&mut org.laptop(), "needy", b"ghp_of_nobody");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("a credential belongs to whoever sets it"),
        "{text}"
    );
    people.sign_in("ann", "Ann");
    // what is missing is said, and all is not well
    let status = run(org.laptop().arg("status")).refused(1, "a credential is missing");
    let line = "trouble:      needy needs needy-token: run `mcpshim credential set needy`";
    assert!(status.stdout.contains(line), "{}", status.stdout);
    ok(&set(&mut org.laptop(), "needy", b"ghp_of_ann"));
    run(org.laptop().arg("status")).ok();
    let mut shim = Shim::start(org.laptop().arg("serve"));
    shim.initialize();
    seen(&mut shim).unwrap();
    assert!(is_held("ghp_of_ann"));

    // another person on the same account, in the session that runs
    people.sign_in("bob", "Bob");
    // what was in flight ends with what it was given; the next call is Bob's
    let refused = wait_for("the server of Ann to end", || {
        let answer = shim.call("needy_environment", json!({}));
        let text = answer.text().to_owned();
        (answer.is_tool_error() && !text.contains("somebody else signed in")).then_some(text)
    });
    assert!(
        refused.contains("needs the credential needy-token: it is not set for Bob"),
        "{refused}"
    );
    wait_for("the process with Ann's to end", || {
        (!is_held("ghp_of_ann")).then_some(())
    });
    let (set_for_bob, said) = people.list(org.laptop());
    assert_eq!(set_for_bob, json!(false));
    assert!(said.contains("others have credentials here, too"), "{said}");
    assert!(!said.contains("ghp_"), "{said}");
    run(org.laptop().args(["credential", "remove", "needy"])).refused(1, "is not set for Bob");
    run(org.laptop().args(["credential", "test", "needy"])).refused(1, "is not set for Bob");
    // nor does an agent use a person's, or a person an agent's
    assert_eq!(people.list(org.laptop_as("ci")).0, json!(false));
    ok(&set(&mut org.laptop_as("ci"), "needy", b"ghp_of_ci"));
    ok(&set(&mut org.laptop(), "needy", b"ghp_of_bob"));
    wait_for("the server of Bob", || seen(&mut shim));
    assert!(is_held("ghp_of_bob") && !is_held("ghp_of_ann") && !is_held("ghp_of_ci"));
    // the same name at the provider's is not the same person
    people.sign_in("bob2", "Bob");
    run(org.laptop().arg("status")).refused(1, "a credential is missing");
    people.sign_in("ann", "Ann");
    wait_for("the server of Ann", || {
        seen(&mut shim)?;
        (is_held("ghp_of_ann") && !is_held("ghp_of_bob")).then_some(())
    });
    shim.close();

    let owner = |subject: &str| {
        let person = ["person", "https://idp.example", subject].join("\0");
        mcpshim::ids::Digest::of(person.as_bytes()).to_string()
    };
    let mut whose: BTreeMap<String, String> = BTreeMap::new();
    for record in records(org) {
        if let (Some(owner), Some(subject)) = (
            record["credential_owner"].as_str(),
            record["subject"].as_str(),
        ) {
            whose.insert(subject.to_owned(), owner.to_owned());
        }
    }
    let expected = ["ann", "bob"].map(|subject| (subject.to_owned(), owner(subject)));
    assert_eq!(whose, BTreeMap::from(expected));
}

#[test]
fn a_keychain_that_was_never_made_is_not_called_locked() {
    let Some(mut bus) = Bus::start(false) else {
        return;
    };
    bus.keychain(None);
    let org = organisation("");
    let refused = set(bus.give(&mut org.laptop_as("ci")), "needy", b"ghp_nowhere");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("none was made in it yet"), "{text}");
    assert!(text.contains("make one"), "{text}");
    assert!(!text.contains("locked"), "{text}");
    // `doctor` names the same, and no command that would fail for the same reason
    let doctor = run(bus
        .give(&mut org.laptop_as("ci"))
        .args(["doctor", "credentials"]));
    assert!(
        doctor.stdout.contains("keychain-unmade"),
        "{}",
        doctor.stdout
    );
    assert!(
        !doctor.stdout.contains("credential set"),
        "{}",
        doctor.stdout
    );
    // where the registry allows a file, it stands in
    let org = organisation(KEY_FILE);
    ok(&set(
        bus.give(&mut org.laptop_as("ci")),
        "needy",
        b"ghp_in_a_file",
    ));
}

#[test]
fn purge_takes_everything_away_and_nothing_that_was_not_delivered() {
    let people = People::new();
    let org = &people.org;
    people.sign_in("ann", "Ann");
    ok(&set(&mut org.laptop(), "needy", b"ghp_of_ann"));
    let mut shim = Shim::start(org.laptop().arg("serve"));
    shim.initialize();
    seen(&mut shim).unwrap();
    let purge = |more: &[&str]| run(org.laptop().arg("purge").args(more));
    purge(&["--yes"]).refused(1, "nothing was removed: 1 sessions run");
    shim.close();
    purge(&["--yes"]).refused(1, "records were not delivered");
    let all = ["--yes", "--lose-records"];
    purge(&["--lose-records"]).refused(1, "nothing was removed");
    let planned = purge(&["--dry-run", "--json"]).ok().json();
    assert!(org.state().join("vault/vault.sealed").exists());
    let removed = purge(&[&all[..], &["--json"]].concat()).ok().json();
    assert_eq!(removed["removed"], planned["removed"]);
    assert!(!org.state().exists());
    assert!(
        purge(&all)
            .ok()
            .stdout
            .contains("there is nothing to remove")
    );
    // and it can be begun again
    run(org.laptop().args(["registry", "refresh"])).ok();
    assert_eq!(people.list(org.laptop_as("ci")).0, json!(false));
}

#[test]
fn ten_processes_at_once_lose_no_value() {
    let org = organisation(KEY_FILE);
    let children: Vec<_> = (0..10)
        .map(|number| {
            let value = format!("ghp_race_value_{number}");
            start_set(&mut org.laptop_as("ci"), "needy", value.as_bytes())
        })
        .collect();
    let mut serials: Vec<u64> = children
        .into_iter()
        .map(|child| {
            ok(&child.wait_with_output().unwrap())["serial"]
                .as_u64()
                .unwrap()
        })
        .collect();
    serials.sort_unstable();
    assert_eq!(serials, (1..=10).collect::<Vec<u64>>());
}

#[test]
fn a_writer_that_is_killed_loses_nothing() {
    let org = organisation(KEY_FILE);
    let mut highest = ok(&set(&mut org.laptop_as("ci"), "needy", b"ghp_kill_value_0"))["serial"]
        .as_u64()
        .unwrap();
    for round in 0..25_u64 {
        let value = format!("ghp_kill_value_{round}");
        let mut child = start_set(&mut org.laptop_as("ci"), "needy", value.as_bytes());
        std::thread::sleep(Duration::from_millis(round * 3));
        drop(child.kill());
        child.wait().unwrap();
        let list = org.mcpshim("ci", ["credential", "list", "--json"]).ok();
        let serial = list.json()[0]["serial"].as_u64().unwrap();
        assert!(
            serial == highest || serial == highest + 1,
            "{highest} → {serial}"
        );
        highest = serial;
    }
    let told = ok(&set(
        &mut org.laptop_as("ci"),
        "needy",
        b"ghp_kill_value_end",
    ));
    assert_eq!(told["serial"], highest + 1);
    let mut left: Vec<_> = std::fs::read_dir(org.state().join("vault"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["vault.key", "vault.lock", "vault.sealed"]);
}

// ---- a hundred canaries

/// Servers, and how often each gets another value.
const LEAKY: usize = 20;
const ROUNDS: usize = 5;

/// A secret with everything in it that encodings change.
fn canary(server: usize, round: usize) -> String {
    format!(
        "cnry{server:02}{round}/+=&<\"{:016x}\\%~",
        (server * 131 + round * 7919 + 17) * 0x9e37_79b9_7f4a
    )
}

/// What must be found nowhere: the middle of a canary as it is, in base64 at each alignment, and in
/// hexadecimal. No encoding leaves another trace of letters and digits.
fn traces(canary: &str) -> Vec<Vec<u8>> {
    let digits = canary
        .split('"')
        .nth(1)
        .unwrap()
        .split('\\')
        .next()
        .unwrap();
    let mut all = vec![digits.as_bytes().to_vec()];
    for before in 0..3 {
        let padded = [&b"\0\0\0"[..before], digits.as_bytes()].concat();
        let encoded = data_encoding::BASE64_NOPAD.encode(&padded).into_bytes();
        all.push(encoded[(before * 8).div_ceil(6)..padded.len() * 8 / 6].to_vec());
    }
    all.push(
        data_encoding::HEXLOWER
            .encode(digits.as_bytes())
            .into_bytes(),
    );
    all
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(bytes, needle).is_some()
}

#[test]
fn no_canary_is_found_anywhere() {
    let org = Org::new();
    org.settings(KEY_FILE);
    let names: Vec<String> = (0..LEAKY).map(|number| format!("leaky{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let mut flags = vec!["--leak", "LEAKY_TOKEN"];
        if number % 4 == 3 {
            flags.push("--crash");
        }
        let server = Server::counting(name, flags)
            .credential(&format!("{name}-token"), "{env: LEAKY_TOKEN}");
        org.server(&server.with("audit: {arguments: full, results: full}"));
    }
    org.agent("ci");
    let grants: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), Grant::ALL))
        .collect();
    org.role("tester", &["ci"], &grants);
    org.publish();
    let collector = org.collector();
    org.settings(&format!("collector: {{url: '{}'}}", collector.url));
    org.republish();
    org.write_config("log_level = \"trace\"");
    org.mcpshim("ci", ["registry", "refresh"]).ok();

    let mut seen = BTreeMap::new();
    let all = (0..ROUNDS)
        .flat_map(|round| (0..LEAKY).flat_map(move |server| traces(&canary(server, round))));
    let all = AhoCorasick::new(all).unwrap();
    for round in 0..ROUNDS {
        for (number, name) in names.iter().enumerate() {
            let mut command = org.laptop_as("ci");
            command
                .env("RUST_LOG", "trace")
                .env("RUST_BACKTRACE", "full");
            let told = set(&mut command, name, canary(number, round).as_bytes());
            check_output(&all, &told.stdout, "credential set");
            check_output(&all, &told.stderr, "credential set");
            ok(&told);
        }
        let mut command = org.laptop_as("ci");
        command
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "full")
            .arg("serve");
        let mut shim = Shim::start(&mut command);
        shim.initialize();
        let posts: Vec<u64> = names
            .iter()
            .map(|name| {
                let params =
                    json!({"name": format!("{name}_echo"), "arguments": {"text": "hello"}});
                shim.post("tools/call", params)
            })
            .collect();
        let mut answers = Vec::new();
        for id in posts {
            answers.push(shim.answer(&json!(id)).0.to_string());
        }
        let given = answers
            .iter()
            .filter(|text| text.contains("credential removed"))
            .count();
        *seen.entry("answers with a removed credential").or_insert(0) += given;
        for text in answers {
            check_output(&all, text.as_bytes(), "an answer");
        }
        while let Some(message) = shim.next(Duration::from_millis(50)) {
            check_output(&all, message.to_string().as_bytes(), "a notification");
        }
        check_processes(&org, &all);
        if round == ROUNDS - 1 {
            // a shim that crashes leaves nothing either
            shim.crash();
        } else {
            let (_, messages, stderr) = shim.close();
            check_output(&all, stderr.as_bytes(), "the shim's standard error");
            for message in messages {
                check_output(&all, message.to_string().as_bytes(), "a late message");
            }
        }
        let tested = org.mcpshim("ci", ["credential", "test", "leaky3", "--json"]);
        check_output(&all, tested.stdout.as_bytes(), "credential test");
        check_output(&all, tested.stderr.as_bytes(), "credential test");
    }
    org.mcpshim("ci", ["audit", "flush"]).ok();
    for words in [
        ["audit", "show", "--json"],
        ["credential", "list", "--json"],
    ] {
        let shown = org.mcpshim("ci", words);
        check_output(&all, shown.stdout.as_bytes(), words[0]);
    }
    let query = collector.read(["query", "--json"]).ok();
    check_output(&all, query.stdout.as_bytes(), "query");
    assert!(
        query.stdout.contains("leaky3-token"),
        "the record names the credential"
    );
    let unsealed = collector_unsealed(&org);
    check_output(&all, &unsealed, "unsealed records");
    let mut files = 0;
    for path in tree(org.path()) {
        let content = std::fs::read(&path).unwrap_or_default();
        check_output(&all, &content, &path.display().to_string());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.starts_with("core"), "a core file: {}", path.display());
        files += 1;
    }
    assert!(files > 40, "{files} files were searched");
    assert!(
        seen["answers with a removed credential"] >= ROUNDS * LEAKY / 2,
        "{seen:?}"
    );
    let log = tree(&org.state().join("log"));
    let text: String = log
        .iter()
        .map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned())
        .collect();
    assert!(
        text.matches("credential removed").count() > ROUNDS * LEAKY,
        "children were heard"
    );
}

/// Every record of the collector with its sealed content, as the holder of the audit key sees it.
fn collector_unsealed(org: &Org) -> Vec<u8> {
    let mut command = Command::new(program("mcpshim-collector"));
    command.args(["unseal", "--json", "--reason", "canaries", "--key"]);
    command.arg(org.audit_key());
    command.arg("--data").arg(org.path().join("collector"));
    let ended = run(&mut command).ok();
    assert!(ended.stdout.contains("hello"), "arguments can be read");
    (ended.stdout + &ended.stderr).into_bytes()
}

#[track_caller]
fn check_output(traces: &AhoCorasick, bytes: &[u8], what: &str) {
    if let Some(hit) = traces.find(bytes) {
        let from = hit.start().saturating_sub(120);
        let to = (hit.end() + 20).min(bytes.len());
        let around = String::from_utf8_lossy(&bytes[from..to]).into_owned();
        panic!("a canary in {what}: …{around}…");
    }
}

/// Command lines and environments of everything that was started for the organisation, but the
/// servers themselves.
#[track_caller]
fn check_processes(org: &Org, traces: &AhoCorasick) {
    for pid in org.processes() {
        let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let line = read("cmdline");
        check_output(traces, &line, "a command line");
        let own = line.split(|byte| *byte == 0).next().unwrap_or_default();
        if !own.ends_with(b"/counting") {
            check_output(traces, &read("environ"), "an environment");
        }
    }
}

fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() && !path.is_symlink() {
            true => found.extend(tree(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The records of this machine, as the collector would show them.
fn records(org: &Org) -> Vec<Value> {
    let mut found = Vec::new();
    let mut segments = tree(&org.state().join("spool"));
    segments.retain(|path| path.extension().is_some_and(|kind| kind == "seg"));
    segments.sort();
    for path in segments {
        let stream = path.parent().unwrap().file_name().unwrap();
        let stream = StreamId::parse(stream.to_str().unwrap()).unwrap();
        let mut table = ContextTable::new(stream);
        let bytes = std::fs::read(&path).unwrap();
        for frame in frames(&bytes) {
            let frame = frame.unwrap();
            let record = decode(&frame).unwrap();
            table.observe(&record);
            found.push(view::json(&record, &table));
        }
    }
    found
}
