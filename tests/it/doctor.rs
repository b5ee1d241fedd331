//! `mcpshim doctor`: each fault is injected for real, and must be named first, with its fix.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::config::{Config, LogLevel, Network};
use mcpshim::identity::Owner;
use mcpshim::ids::{AgentName, CredentialId, OrgId};
use mcpshim::registry::doc::SecretStoresDoc;
use mcpshim::secret::Secret;
use mcpshim::vault::{self, ItemId};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::credentials::{Bus, set};
use crate::support::{Ended, Org, Server, id_token, run, shifted, skipped, wait_for};

/// A working machine that can be put back after each fault.
struct Bed {
    org: Org,
    kept: tempfile::TempDir,
}

const KEPT: [&str; 4] = ["state", "repository", "config.toml", "agents"];

impl Bed {
    fn new(server: Server) -> Self {
        Self::keep(Org::with(server))
    }

    /// Fetches the registry, and remembers everything as it is now.
    fn keep(org: Org) -> Self {
        run(org.laptop().args(["registry", "refresh"])).ok();
        let kept = tempfile::tempdir().unwrap();
        let bed = Self { org, kept };
        for name in KEPT {
            copy(&bed.org.path().join(name), bed.kept.path());
        }
        bed
    }

    fn restore(&self) {
        for name in KEPT {
            run(Command::new("rm")
                .arg("-rf")
                .arg(self.org.path().join(name)))
            .ok();
            copy(&self.kept.path().join(name), self.org.path());
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.org.state().join(name)
    }

    fn doctor(&self) -> Command {
        let mut command = self.org.laptop_as("ci");
        command.arg("doctor");
        command
    }

    /// The fault is the first thing that is said, with a fix and the right end. Afterwards
    /// everything is as it was.
    #[track_caller]
    fn names(&self, command: &mut Command, code: &str, exit: i32) -> Ended {
        let ended = run(command);
        let mut lines = ended.stdout.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.ends_with(&format!(" [{code}]")), "{code}: {ended:#?}");
        let fix = lines.next().unwrap_or_default();
        assert!(fix.starts_with("fix:     ") && fix.len() > 12, "{ended:#?}");
        assert_eq!(ended.status.code(), Some(exit), "{ended:#?}");
        self.accepts(&ended);
        self.restore();
        ended
    }

    /// No command that is printed as a fix is refused as a command.
    #[track_caller]
    fn accepts(&self, ended: &Ended) {
        for fix in ended
            .stdout
            .lines()
            .filter(|line| line.starts_with("fix: "))
        {
            for words in fix.split('`').skip(1).step_by(2) {
                let Some(words) = words.strip_prefix("mcpshim ") else {
                    continue;
                };
                let home = tempfile::tempdir().unwrap();
                let mut command = self.org.laptop();
                // no settings, no clients: it ends as soon as its words are understood
                command
                    .args(words.split(' '))
                    .env("HOME", home.path())
                    .env("MCPSHIM_CONFIG", home.path().join("none"));
                let tried = run(&mut command);
                assert_ne!(tried.status.code(), Some(2), "{words}: {tried:#?}");
            }
        }
    }

    #[track_caller]
    fn healthy(&self, command: &mut Command) -> Ended {
        let ended = run(command).ok();
        assert!(ended.stdout.starts_with("nothing is wrong "), "{ended:#?}");
        ended
    }
}

fn copy(from: &Path, into: &Path) {
    if from.exists() {
        run(Command::new("cp").arg("-a").arg(from).arg(into)).ok();
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn counting() -> Server {
    Server::counting("up", [])
}

#[test]
fn a_machine_that_works_has_no_finding() {
    let bed = Bed::new(counting());
    // what was not looked at is not called good
    for (words, said) in [
        (
            &[][..],
            "nothing is wrong here; servers were not opened: `mcpshim doctor --servers`",
        ),
        (&["up"], "nothing is wrong with up; up was opened"),
        (&["--servers"], "nothing is wrong here; up was opened"),
        (
            &["registry"],
            "nothing is wrong with registry; only this is shown: `mcpshim doctor` shows all",
        ),
    ] {
        let ended = bed.healthy(bed.doctor().args(words));
        assert_eq!(ended.stdout, format!("{said}\n"), "{words:?}");
    }
    bed.healthy(bed.doctor().env("HTTPS_PROXY", "http://p.example:1"))
        .stdout
        .contains("[proxy-not-used]")
        .then_some(())
        .expect("the proxy is told");
    let ended = run(bed.doctor().arg("--json")).ok();
    let json = ended.json();
    assert_eq!(json["healthy"], true, "{json:#}");
    assert_eq!(json["findings"], json!([]), "{json:#}");
    run(bed.doctor().arg("nosuch")).refused(2, "hint:  the servers are up");
    run(bed.doctor().arg("ups")).refused(2, "did you mean up?");
    run(bed.doctor().arg("No Such")).refused(2, "is no topic");
    // looking leaves nothing behind
    let state = |dir: PathBuf| -> Vec<_> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(state(bed.org.state()), state(bed.kept.path().join("state")));
}

#[test]
fn faults_of_settings_and_state_are_named_first() {
    let bed = Bed::new(counting());
    let org = &bed.org;
    bed.names(
        bed.doctor().env_remove("MCPSHIM_CONFIG"),
        "not-configured",
        5,
    );
    org.write_config("min_root_version = \"x\"");
    bed.names(&mut bed.doctor(), "settings-unreadable", 5);
    // a name that is almost right is the cause, and stands first wherever it stops something
    let text = std::fs::read_to_string(org.config()).unwrap();
    let text = text.replace("registry_url =", "registry-url =");
    let line = text
        .lines()
        .position(|line| line.starts_with("registry-url"));
    let said = format!(
        "line {}: `registry-url` should be `registry_url`",
        line.unwrap() + 1
    );
    for words in [
        &["status"][..],
        &["registry", "refresh"],
        &["tools"],
        &["doctor"],
    ] {
        std::fs::write(org.config(), &text).unwrap();
        let ended = run(org.laptop_as("ci").args(words));
        let first = ended.stderr.lines().next().unwrap_or_default();
        assert!(first.contains(&said), "{words:?}: {ended:#?}");
        let trouble = ["trouble:      ", "problem: "];
        let mut lines = ended.stdout.lines();
        let shown = lines.find(|line| trouble.iter().any(|word| line.starts_with(word)));
        assert!(
            shown.is_none_or(|line| line.contains(&said)),
            "{words:?}: {ended:#?}"
        );
    }
    bed.names(&mut bed.doctor(), "settings-unreadable", 5);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(org.state(), Some(65_534), None).unwrap();
        bed.names(&mut bed.doctor(), "state-foreign", 1);
    } else {
        skipped("doctor: a foreign state directory needs root");
    }
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        org.environment_as(&mut command, "ci");
        let script = format!("{script} && exec \"$@\"");
        command.args(["--mount", "sh", "-c", &script]);
        command
            .arg(org.state())
            .arg(crate::support::program("mcpshim"));
        command.arg("doctor");
        command
    };
    if !run(Command::new("unshare").args(["--mount", "true"]))
        .status
        .success()
    {
        skipped("doctor: mounts of its own need root");
        return;
    }
    let full = "cp -a \"$0\" \"$0.kept\" && mount -t tmpfs -o size=256k,mode=700 none \"$0\" && \
                cp -a \"$0.kept/.\" \"$0\" && { cat /dev/zero > \"$0/full\" 2>/dev/null; true; }";
    bed.names(&mut inside(full), "disk-full", 1);
    let closed = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\"";
    bed.names(&mut inside(closed), "state-not-writable", 1);
    // a copy of /etc stands for the machine's own
    let etc = org.path().join("etc");
    std::fs::create_dir_all(etc.join("mcpshim")).unwrap();
    mode(&etc, 0o755);
    mode(&etc.join("mcpshim"), 0o755);
    for name in ["passwd", "group", "machine-id"] {
        copy(&Path::new("/etc").join(name), &etc);
    }
    let managed = etc.join("mcpshim/managed.toml");
    let within = || inside(&format!("mount --bind {etc:?} /etc"));
    std::fs::write(&managed, "org = \"it.example\"\n").unwrap();
    mode(&managed, 0o666);
    bed.names(&mut within(), "managed-untrusted", 5);
    std::fs::remove_file(&managed).unwrap();
    std::fs::remove_file(etc.join("machine-id")).unwrap();
    bed.names(&mut within(), "machine-id-missing", 1);
}

#[test]
fn faults_of_the_registry_are_named_first() {
    let bed = Bed::new(counting());
    let org = &bed.org;
    let registry = org.state().join("trust/registry.state");
    let from = |url: &str| {
        let text = std::fs::read_to_string(org.config()).unwrap();
        let line = text.lines().find(|line| line.starts_with("registry_url"));
        let text = text.replace(line.unwrap(), &format!("registry_url = {url:?}"));
        std::fs::write(org.config(), text).unwrap();
    };
    let forget = || std::fs::remove_dir_all(org.state().join("trust")).unwrap();

    // with a registry that is fresh it is a warning, without one the cause
    from("http://127.0.0.1:1/");
    let ended = bed.names(&mut bed.doctor(), "registry-unreachable", 1);
    assert!(ended.stdout.starts_with("warning: "), "{ended:#?}");
    from("http://127.0.0.1:1/");
    forget();
    let ended = bed.names(&mut bed.doctor(), "registry-unreachable", 5);
    assert!(ended.stdout.contains("from this follows: "), "{ended:#?}");
    from("https://registry.invalid/");
    forget();
    bed.names(&mut bed.doctor(), "registry-name", 5);
    match Tls::start(org.path()) {
        None => skipped("doctor: a TLS server needs openssl"),
        Some(tls) => {
            from(&format!("https://localhost:{}/", tls.port));
            forget();
            bed.names(&mut bed.doctor(), "registry-tls", 5);
        }
    }
    // one level off: it answers, and nothing is there
    from(&format!("file://{}/metadata/", org.repository().display()));
    forget();
    let mut refresh = org.laptop();
    run(refresh.args(["registry", "refresh"])).refused(5, "name the directory above `metadata/`");
    let ended = bed.names(&mut bed.doctor(), "registry-elsewhere", 5);
    let right = format!(
        "`registry_url = \"file://{}/\"`",
        org.repository().display()
    );
    assert!(ended.stdout.contains(&right), "{ended:#?}");
    let other = Org::with(counting());
    from(&format!("file://{}/", other.repository().display()));
    forget();
    bed.names(&mut bed.doctor(), "registry-signature", 5);
    let mut damaged = std::fs::read(&registry).unwrap();
    let middle = damaged.len() / 2;
    damaged.truncate(middle);
    std::fs::write(&registry, damaged).unwrap();
    bed.names(&mut bed.doctor(), "state-damaged", 5);
    forget();
    bed.names(&mut bed.doctor(), "registry-missing", 5);

    let mut late = bed.doctor();
    if !shifted(&mut late, "+180h") {
        return;
    }
    // within the grace there is a registry that can be used
    let ended = bed.names(&mut late, "registry-expired", 1);
    assert!(ended.stdout.contains("[registry-grace]"), "{ended:#?}");
    from("http://127.0.0.1:1/");
    let mut late = bed.doctor();
    shifted(&mut late, "+9d");
    let ended = bed.names(&mut late, "registry-unreachable", 5);
    assert!(ended.stdout.contains("[registry-lapsed]"), "{ended:#?}");
    let mut early = bed.doctor();
    shifted(&mut early, "-2d");
    bed.names(&mut early, "clock-wrong", 1);
}

/// A TLS server whose certificate nobody knows.
struct Tls {
    port: u16,
    _process: crate::support::Running,
}

impl Tls {
    fn start(dir: &Path) -> Option<Self> {
        let made = Command::new("openssl")
            .current_dir(dir)
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem",
            ])
            .args(["-out", "c.pem", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .output()
            .ok()?;
        made.status.success().then_some(())?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .ok()?
            .local_addr()
            .ok()?
            .port();
        let mut command = Command::new("openssl");
        command
            .current_dir(dir)
            .args(["s_server", "-quiet", "-www", "-cert", "c.pem"]);
        command.args(["-key", "k.pem", "-accept", &format!("127.0.0.1:{port}")]);
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        let process = crate::support::Running::start(&mut command);
        wait_for("the TLS server", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(Self {
            port,
            _process: process,
        })
    }
}

#[test]
fn faults_of_an_agent_are_named_first() {
    let bed = Bed::new(counting());
    let org = &bed.org;
    let key = org.agent_key("ci");
    std::fs::remove_file(&key).unwrap();
    bed.names(&mut bed.doctor(), "agent-key-missing", 4);
    mode(&key, 0o644);
    bed.names(&mut bed.doctor(), "agent-key-open", 4);
    let other = Org::with(counting());
    std::fs::copy(other.agent_key("ci"), &key).unwrap();
    bed.names(&mut bed.doctor(), "agent-key-wrong", 4);
    bed.names(
        bed.doctor().env("MCPSHIM_AGENT", "nobody"),
        "agent-refused",
        4,
    );
}

#[test]
fn faults_of_a_sign_in_are_named_first() {
    let org = Org::new();
    let der = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
    let x = data_encoding::BASE64URL_NOPAD.encode(pair.public_key().as_ref());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
    std::fs::create_dir_all(org.sources().join("trust")).unwrap();
    org.write("trust/jwks.json", &jwks.to_string());
    org.settings(
        "issuers:\n  - issuer: https://idp.example\n    client_id: mcpshim\n    groups_claim: \
         groups\n    jwks: trust/jwks.json",
    );
    org.server(&counting());
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", crate::support::Grant::ALL)]);
    org.publish();
    let bed = Bed::keep(org);
    // without a place to keep a sign-in nobody can sign in: that is the cause
    let mut without = bed.org.laptop();
    without.arg("doctor");
    without.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
    let ended = bed.names(&mut without, "keychain-absent", 4);
    assert!(ended.stdout.contains("from this follows: "), "{ended:#?}");
    assert!(ended.stdout.contains("[not-signed-in]"), "{ended:#?}");
    bed.org.settings("secret_stores: {key_file: true}");
    bed.org.republish();
    let bed = Bed::keep(bed.org);
    let claims = bed.state("session.claims");
    let sign_in = |ends_in: i64, more: Value| {
        let now = i64::try_from(SystemClock::new().now().unix_s()).unwrap();
        let mut claims_of = json!({
            "iss": "https://idp.example", "sub": "ann", "aud": "mcpshim", "name": "Ann Example",
            "iat": now - 7200, "exp": now + ends_in, "groups": ["others"],
        });
        for (name, value) in more.as_object().unwrap() {
            claims_of[name] = value.clone();
        }
        std::fs::write(&claims, id_token(&pair, &claims_of)).unwrap();
        mode(&claims, 0o600);
    };
    let doctor = || {
        let mut command = bed.org.laptop();
        command.arg("doctor");
        command
    };
    bed.names(&mut doctor(), "not-signed-in", 4);
    sign_in(-600, json!({}));
    bed.names(&mut doctor(), "sign-in-ended", 4);
    sign_in(
        7200,
        json!({"groups": null, "_claim_names": {"groups": "src1"}}),
    );
    bed.names(&mut doctor(), "groups-cut", 4);
    sign_in(7200, json!({"aud": "another"}));
    bed.names(&mut doctor(), "sign-in-refused", 4);
    sign_in(7200, json!({}));
    mode(&claims, 0o644);
    bed.names(&mut doctor(), "sign-in-open", 4);
    sign_in(7200, json!({}));
    bed.names(&mut doctor(), "no-role", 1);
}

/// Puts a secret into the vault of a laptop whose key is in a file.
fn put(org: &Org, id: &str, secret: &str, days_ago: u64) {
    let config = Config {
        org: OrgId::parse("it.example").unwrap(),
        registry_url: String::new(),
        root: Vec::new(),
        min_root_version: 0,
        min_timestamp_version: 0,
        state_dir: org.state(),
        agent: None,
        machine_id: "m".to_owned(),
        log_level: LogLevel::Info,
        managed: false,
        network: Network::default(),
        path: None,
        project_dir: None,
        client_session: None,
    };
    let allowed = SecretStoresDoc {
        key_file: true,
        systemd_credential: false,
    };
    let patience = std::time::Duration::from_secs(5);
    let mut vault = vault::open(&config, &allowed, patience).unwrap();
    let owner = Owner::agent(&AgentName::parse("ci").unwrap());
    let item = ItemId::Credential(owner, CredentialId::parse(id).unwrap());
    let secret = Secret::new(secret.as_bytes().to_vec());
    let at = SystemClock::new().now().unix_s() - days_ago * 86_400;
    vault.put(&item, 0, &secret, at).unwrap().unwrap();
}

/// The vault's file, wherever it is below a directory.
fn sealed(dir: &Path) -> Option<PathBuf> {
    std::fs::read_dir(dir).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sealed(&path)
        } else {
            path.ends_with("vault.sealed").then_some(path)
        }
    })
}

/// An organisation whose server needs a credential, pinned before it did.
fn with_credential(settings: &str) -> Bed {
    Bed::keep(needing(settings))
}

fn needing(settings: &str) -> Org {
    let org = Org::with(counting());
    let credential = "credential: {id: up-token, inject: {env: UP_TOKEN}, obtain: 'ask the tests', \
                      rotate_days: 30}";
    org.server(&counting().with(credential));
    if !settings.is_empty() {
        org.settings(settings);
    }
    org.republish();
    org
}

#[test]
fn faults_of_credentials_are_named_first() {
    let without = with_credential("");
    let mut command = without.doctor();
    command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
    without.names(&mut command, "keychain-absent", 1);
    let bed = with_credential("secret_stores: {key_file: true}");
    let ended = bed.names(&mut bed.doctor(), "credential-missing", 1);
    assert!(
        ended.stdout.contains("mcpshim credential set up"),
        "{ended:#?}"
    );
    put(&bed.org, "up-token", "s3cret-value-of-a-token", 90);
    bed.names(&mut bed.doctor(), "credential-overdue", 1);
    put(&bed.org, "up-token", "s3cret-value-of-a-token", 1);
    let ended = bed.healthy(&mut bed.doctor());
    assert!(ended.stdout.contains("[another-store]"), "{ended:#?}");
    bed.healthy(bed.doctor().arg("up"));
    std::fs::write(sealed(&bed.org.state()).unwrap(), "x").unwrap();
    bed.names(&mut bed.doctor(), "vault-unusable", 1);
}

#[test]
fn faults_of_keychains_are_named_first() {
    let Some(mut bus) = Bus::start(false) else {
        return;
    };
    bus.keychain(Some("test-password"));
    let org = needing("");
    run(org.laptop().args(["registry", "refresh"])).ok();
    let given = set(
        bus.give(&mut org.laptop_as("ci")),
        "up",
        b"s3cret-value-of-a-token",
    );
    assert!(given.status.success(), "{given:?}");
    let bed = Bed::keep(org);
    bed.healthy(bus.give(&mut bed.doctor()));
    bed.healthy(bus.give(bed.doctor().arg("up")));
    bus.keychain(None);
    bed.names(bus.give(&mut bed.doctor()), "keychain-locked", 1);
    bus.keychain(Some("test-password"));
    let keychain = bus.keychain.as_ref().unwrap();
    keychain.signal(rustix::process::Signal::STOP);
    bed.names(bus.give(&mut bed.doctor()), "keychain-silent", 1);
}

#[test]
fn faults_of_servers_are_named_first() {
    let org = Org::new();
    let wrapper = org.path().join("wrapper");
    let real = crate::support::program("mcpshim-admin")
        .with_file_name("examples")
        .join("counting");
    let flag = org.path().join("drift");
    let script = |text: &str| {
        std::fs::write(&wrapper, format!("#!/bin/sh\n{text}\n")).unwrap();
        mode(&wrapper, 0o755);
    };
    let works = format!("exec {real:?} --drift-if {flag:?}");
    script(&works);
    org.server(&Server::new("up", &wrapper));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", crate::support::Grant::ALL)]);
    org.publish();
    let bed = Bed::keep(org);
    bed.healthy(bed.doctor().arg("up"));

    script("echo 'no such table: users' >&2; exit 3");
    bed.healthy(&mut bed.doctor());
    let ended = bed.names(bed.doctor().arg("up"), "server-ends", 1);
    assert!(ended.stdout.contains("no such table: users"), "{ended:#?}");
    script(&works);
    std::fs::write(&flag, "").unwrap();
    let ended = bed.names(bed.doctor().arg("--servers"), "server-drifted", 1);
    assert!(
        ended.stdout.contains("reviewed and pinned again"),
        "{ended:#?}"
    );
    std::fs::remove_file(&wrapper).unwrap();
    bed.names(&mut bed.doctor(), "program-missing", 1);
}

#[test]
fn a_question_about_one_server_ends_in_a_finding_or_in_was_opened() {
    let org = Org::new();
    let off = |key: &str, command: &str| Server::new(key, command).with("pin: off");
    org.server(&counting());
    org.server(&off("nowhere", "/nowhere/example-mcp"));
    org.server(&off("variable", "$EXAMPLE_MCP"));
    org.server(&Server::counting("other", []));
    org.server(&Server::counting("gone", []));
    org.agent("ci");
    org.agent("dev");
    let all = || crate::support::Grant::ALL;
    org.role(
        "tester",
        &["ci"],
        &[
            ("up", all()),
            ("gone", all()),
            ("nowhere", all()),
            ("variable", all()),
        ],
    );
    org.role("others", &["dev"], &[("other", all())]);
    org.write("revocations.yaml", "servers: [gone]\n");
    org.publish();
    let bed = Bed::keep(org);
    for key in ["nowhere", "variable"] {
        let ended = bed.names(bed.doctor().arg(key), "program-missing", 1);
        assert!(ended.stdout.contains(key), "{ended:#?}");
        bed.names(bed.doctor().arg("--servers"), "program-missing", 1);
    }
    let ended = bed.names(bed.doctor().arg("other"), "server-not-granted", 1);
    assert!(ended.stdout.contains("for the role others"), "{ended:#?}");
    let ended = bed.names(bed.doctor().arg("gone"), "server-revoked", 1);
    assert!(ended.stdout.contains("was not opened"), "{ended:#?}");
    bed.healthy(bed.doctor().arg("up"));
}

/// What the program prints as a fix mends what it names.
#[test]
fn the_fixes_that_are_printed_are_carried_out() {
    let bed = with_credential("secret_stores: {key_file: true}");
    let fix = |command: &mut Command, code: &str| -> Vec<String> {
        let ended = run(command);
        let mut lines = ended.stdout.lines();
        assert!(
            lines.next().unwrap().ends_with(&format!("[{code}]")),
            "{ended:#?}"
        );
        let quoted = lines.next().unwrap().split('`').nth(1).unwrap().to_owned();
        quoted.split(' ').skip(1).map(str::to_owned).collect()
    };
    let words = fix(&mut bed.doctor(), "credential-missing");
    let mut set = bed.org.laptop_as("ci");
    crate::support::run_with(set.args(words), "s3cret-value-of-a-token\n").ok();
    bed.healthy(&mut bed.doctor());
    std::fs::remove_dir_all(bed.state("trust")).unwrap();
    let words = fix(&mut bed.doctor(), "registry-missing");
    run(bed.org.laptop_as("ci").args(words)).ok();
    bed.healthy(&mut bed.doctor());
    // a program that does not stay is installed first: `client install` would refuse it
    std::fs::write(bed.org.path().join(".claude.json"), "{}").unwrap();
    let ended = run(&mut bed.doctor());
    let said = "fix:     install mcpshim first (it lies among the results of a build), then run";
    assert!(ended.stdout.contains(said), "{ended:#?}");
    let words = fix(&mut bed.doctor(), "client-missing");
    run(bed.org.laptop().args(&words)).refused(1, "lies among the results of a build");
    run(bed.org.laptop().args(&words).arg("--force")).ok();
    bed.healthy(&mut bed.doctor());
    // what a session met, and the command that looks again
    let mut shim = bed.org.serve("ci");
    shim.initialize();
    assert!(
        !shim
            .call("up_echo", json!({"message": "hello"}))
            .is_tool_error()
    );
    let pid = std::fs::read_dir(bed.state("run")).unwrap();
    let file = pid
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "json"))
        .unwrap();
    let mut session: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    session["servers"][0]["trouble"] = json!("server up ended: exit status 3; ask tests");
    session["servers"][0]["retry_at"] = json!(SystemClock::new().now().unix_s() + 600);
    std::fs::write(&file, session.to_string()).unwrap();
    let ended = run(&mut bed.doctor());
    assert!(
        ended.stdout.contains("calls to it are refused for"),
        "{ended:#?}"
    );
    let words = fix(&mut bed.doctor(), "server-ends");
    bed.healthy(bed.org.laptop_as("ci").args(words));
    session["servers"][0]["trouble"] =
        json!("server up is not the one that was approved: tool `tls` was added; ask tests");
    std::fs::write(&file, session.to_string()).unwrap();
    bed.names(&mut bed.doctor(), "server-drifted", 1);
    drop(shim);
}

/// A remote server with one tool, whose mood changes.
pub(crate) struct Remote {
    pub(crate) port: u16,
    mood: std::sync::Arc<std::sync::atomic::AtomicU8>,
}

const REFUSES: u8 = 1;
const GONE: u8 = 2;
/// Its tool only runs as a task.
pub(crate) const TASKS: u8 = 3;

impl Remote {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mood = std::sync::Arc::new(std::sync::atomic::AtomicU8::new(0));
        let now = std::sync::Arc::clone(&mood);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                match now.load(std::sync::atomic::Ordering::SeqCst) {
                    GONE => return,
                    mood => drop(answer(stream.unwrap(), mood)),
                }
            }
        });
        Self { port, mood }
    }

    pub(crate) fn is(&self, mood: u8) {
        self.mood.store(mood, std::sync::atomic::Ordering::SeqCst);
        if mood == GONE {
            // whoever waits for a connection hears of it by one
            drop(std::net::TcpStream::connect(("127.0.0.1", self.port)));
            wait_for("the server to be gone", || {
                std::net::TcpStream::connect(("127.0.0.1", self.port))
                    .is_err()
                    .then_some(())
            });
        }
    }
}

/// Reads one request and answers it.
fn answer(stream: std::net::TcpStream, mood: u8) -> std::io::Result<()> {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let result = match request["method"].as_str().unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}, "tasks": {"requests": {"tools": {"call": {}}}}},
            "serverInfo": {"name": "remote", "version": "1"},
        }),
        "tools/list" if mood == TASKS => json!({"tools": [{
            "name": "t", "inputSchema": {"type": "object"}, "execution": {"taskSupport": "required"},
        }]}),
        "tools/list" => json!({"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}),
        _ => Value::Null,
    };
    let id = &request["id"];
    let (status, body) = if mood == REFUSES {
        ("401 Unauthorized", String::new())
    } else if id.is_null() {
        ("202 Accepted", String::new())
    } else if result.is_null() {
        let error = json!({"code": -32601, "message": "unknown method"});
        (
            "200 OK",
            json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string(),
        )
    } else {
        (
            "200 OK",
            json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string(),
        )
    };
    let length = body.len();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[test]
fn faults_of_remote_servers_are_named_first() {
    let remote = Remote::start();
    let url = format!("http://127.0.0.1:{}/mcp", remote.port);
    let bed = Bed::new(Server::http("up", &url));
    bed.healthy(bed.doctor().arg("up"));
    remote.is(REFUSES);
    // a server nobody asked about is not asked
    bed.healthy(&mut bed.doctor());
    // the registry names no credential for it: none is asked for
    let ended = bed.names(bed.doctor().arg("up"), "server-blocked", 1);
    assert!(!ended.stdout.contains("credential set"), "{ended:#?}");
    bed.org.settings("secret_stores: {key_file: true}");
    let server = Server::http("up", &url).credential("up-token", "bearer");
    bed.org.server(&server);
    bed.org.republish();
    run(bed.org.laptop().args(["registry", "refresh"])).ok();
    put(&bed.org, "up-token", "s3cret-value-of-a-token", 1);
    let ended = bed.names(bed.doctor().arg("up"), "server-refuses", 1);
    assert!(
        ended.stdout.contains("`mcpshim credential set up`"),
        "{ended:#?}"
    );
    remote.is(GONE);
    bed.names(bed.doctor().arg("up"), "server-unreachable", 1);
}

#[test]
fn faults_of_the_record_are_named_first() {
    let org = Org::with(counting());
    run(org.laptop().args(["registry", "refresh"])).ok();
    let mut shim = org.serve("ci");
    shim.initialize();
    shim.call("up_echo", json!({"message": "hello"}));
    drop(shim);
    wait_for("the session's end", || {
        org.processes().is_empty().then_some(())
    });
    let bed = Bed::keep(org);
    let note = |standing: &str| {
        let text = json!({"format": 1, "min_reader": 1, "standing": standing});
        std::fs::create_dir_all(bed.state("ship")).unwrap();
        std::fs::write(bed.state("ship/status.json"), text.to_string()).unwrap();
    };
    let segment = std::fs::read_dir(bed.state("spool"))
        .unwrap()
        .filter_map(|entry| std::fs::read_dir(entry.unwrap().path()).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "seg"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    bed.names(&mut bed.doctor(), "record-damaged", 1);

    let collector = bed.org.collector();
    let name = |url: &str| {
        let org = std::fs::read_to_string(bed.org.sources().join("org.yaml")).unwrap();
        let org: String = org
            .lines()
            .filter(|line| !line.starts_with("collector"))
            .fold(String::new(), |text, line| text + line + "\n");
        bed.org
            .write("org.yaml", &format!("{org}collector: {{url: {url:?}}}\n"));
        bed.org.republish();
        run(bed.org.laptop().args(["registry", "refresh"])).ok();
    };
    name("http://127.0.0.1:1/");
    bed.names(&mut bed.doctor(), "collector-unreachable", 1);
    name(&collector.url);
    note("unknown");
    bed.names(&mut bed.doctor(), "not-enrolled", 1);
    name(&collector.url);
    note("revoked");
    bed.names(&mut bed.doctor(), "installation-revoked", 1);
    name(&collector.url);
    // what delivery noted is told at once, while something waits
    let text = json!({
        "format": 1, "min_reader": 1, "standing": "enrolled", "written": "2026-11-21T09:00:00Z",
        "trouble": "record 2 is refused with status 413",
    });
    std::fs::create_dir_all(bed.state("ship")).unwrap();
    std::fs::write(bed.state("ship/status.json"), text.to_string()).unwrap();
    let ended = bed.names(&mut bed.doctor(), "record-held", 1);
    assert!(ended.stdout.contains("status 413"), "{ended:#?}");
    name(&collector.url);
    let mut late = bed.doctor();
    if shifted(&mut late, "+2d") {
        bed.names(&mut late, "backlog-old", 1);
    }
}

#[test]
fn faults_of_clients_are_named_first() {
    let bed = Bed::new(counting());
    let file = bed.org.path().join(".claude.json");
    let entry = |command: &str| {
        json!({"mcpServers": {"mcpshim": {"command": command, "args": ["serve"]}}}).to_string()
    };
    std::fs::write(&file, "{}").unwrap();
    bed.names(&mut bed.doctor(), "client-missing", 1);
    std::fs::write(&file, "{").unwrap();
    bed.names(&mut bed.doctor(), "client-malformed", 1);
    std::fs::write(&file, entry("/nowhere/mcpshim")).unwrap();
    bed.names(&mut bed.doctor(), "client-wrong", 1);
    let program = crate::support::program("mcpshim");
    std::fs::write(&file, entry(program.to_str().unwrap())).unwrap();
    bed.healthy(&mut bed.doctor());
    // a session that lives, of a program that was replaced since
    let run = bed.state("run");
    std::fs::create_dir_all(&run).unwrap();
    let lock = std::fs::File::create(run.join("1.lock")).unwrap();
    lock.lock().unwrap();
    let session = json!({
        "pid": 1, "version": "0.0.9", "started": 1, "caller": null, "registry": 1, "snapshot": 1,
        "servers": [], "client": {"name": "claude-code", "version": "2", "protocol": "2025-11-25"},
    });
    std::fs::write(run.join("1.json"), session.to_string()).unwrap();
    bed.names(&mut bed.doctor(), "two-versions", 1);
    // a session that did not take the registry that has long been here
    std::fs::create_dir_all(&run).unwrap();
    let lock = std::fs::File::create(run.join("1.lock")).unwrap();
    lock.lock().unwrap();
    let mut session = session;
    session["version"] = json!(env!("CARGO_PKG_VERSION"));
    session["registry"] = json!(0);
    std::fs::write(run.join("1.json"), session.to_string()).unwrap();
    bed.healthy(&mut bed.doctor());
    let stored = std::fs::File::open(bed.state("trust/registry.state")).unwrap();
    let before = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    stored.set_modified(before).unwrap();
    bed.names(&mut bed.doctor(), "session-behind", 1);
}

#[test]
fn a_bundle_holds_no_secret() {
    let bed = with_credential("secret_stores: {key_file: true}");
    let canaries: Vec<String> = (0..6).map(|n| format!("canary{n}-Zx9Qw7Lp2Vb8")).collect();
    put(&bed.org, "up-token", &canaries[0], 1);
    let log = bed.state("log");
    std::fs::create_dir_all(&log).unwrap();
    let key = std::fs::read_to_string(bed.org.agent_key("ci")).unwrap();
    let key_line = key
        .lines()
        .find(|line| !line.starts_with('-'))
        .unwrap()
        .to_owned();
    let home = bed.org.path().to_str().unwrap().to_owned();
    let encoded = data_encoding::BASE64.encode(canaries[0].as_bytes());
    let claims = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl";
    let text = format!(
        "INFO plain {} encoded {encoded} key {key_line}\n\
         WARN Authorization: Bearer {}\n\
         WARN password={} token: {}\n\
         INFO from https://ann:{}@x.example/ in {home}/state\n\
         INFO jwt {claims}\n",
        canaries[0], canaries[1], canaries[2], canaries[3], canaries[4]
    );
    std::fs::write(log.join("mcpshim.2026-11-21"), text).unwrap();
    std::fs::write(bed.state("session.claims"), claims).unwrap();
    mode(&bed.state("session.claims"), 0o600);
    let client = json!({"mcpServers": {"x": {"command": "x", "args": [canaries[5]], "env": {"T": canaries[5]}}}});
    std::fs::write(bed.org.path().join(".claude.json"), client.to_string()).unwrap();
    let file = bed.org.path().join("help.json");
    let mut command = bed.doctor();
    command
        .arg("--bundle")
        .arg(&file)
        .env("HTTPS_PROXY", format!("http://u:{}@p/", canaries[5]));
    drop(run(&mut command));
    let bundle = std::fs::read_to_string(&file).unwrap();
    for canary in canaries.iter().chain([&encoded, &key_line]) {
        assert!(!bundle.contains(canary.as_str()), "{canary} in {bundle}");
    }
    assert!(
        !bundle.contains("eyJ") && !bundle.contains(&home),
        "{bundle}"
    );
    assert!(bundle.contains("~/state"), "{bundle}");
    let bundle: Value = serde_json::from_str(&bundle).unwrap();
    let contents: Vec<&str> = bundle["contents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(contents.len() + 1, bundle.as_object().unwrap().len());
    for part in [
        "versions",
        "configuration",
        "findings",
        "registry",
        "log",
        "state",
    ] {
        assert!(
            contents.contains(&part) && !bundle[part].is_null(),
            "{part}"
        );
    }
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    run(bed.doctor().arg("--bundle").arg(&file)).refused(1, "is there already");
}
