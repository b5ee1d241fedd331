//! The Windows binary under Wine: it starts, reads its policy, stores a secret, serves a call and
//! leaves nothing behind. `scripts/wine` builds what is needed and runs this.
//!
//! The authoring side stays on Linux. What the registry names as a command is therefore a name that
//! is looked up: a shell script on the PATH of the one, a batch file on the PATH of the other, as with
//! `npx`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{Ended, Grant, Org, Server, Shim, program, run, skipped, wait_for};

/// A laptop whose policy is in its registry, and the organisation it belongs to.
struct Windows {
    org: Org,
    /// Where `mcpshim.exe` is.
    built: PathBuf,
}

/// A path as Windows programs name it: Wine shows the whole tree as drive Z.
fn z(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}

impl Windows {
    /// Nothing when this was not prepared by `scripts/wine`.
    fn new(server: impl FnOnce(&Self) -> Server) -> Option<Self> {
        let Some(built) = std::env::var_os("MCPSHIM_WINDOWS") else {
            skipped("the Windows binary was not run: scripts/wine builds and runs it");
            return None;
        };
        let windows = Self {
            org: Org::new(),
            built: built.into(),
        };
        std::fs::create_dir(windows.bin()).unwrap();
        let org = &windows.org;
        org.server(&server(&windows));
        org.agent("ci");
        org.role(
            "tester",
            &["ci"],
            &[("up", Grant::tools(&["echo", "environment"]))],
        );
        let mut pin = Command::new(program("mcpshim-admin"));
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", windows.bin().display());
        run(pin.env("PATH", path).arg("pin").arg(org.sources())).ok();
        windows.org.republish();
        Some(windows)
    }

    /// Where the client works: what lies in it is not run.
    fn project(&self) -> PathBuf {
        let project = self.org.path().join("project");
        std::fs::create_dir_all(&project).unwrap();
        project
    }

    /// On the PATH of Linux and of Windows.
    fn bin(&self) -> PathBuf {
        self.org.path().join("bin")
    }

    /// Makes the counting upstream a program of that name on both systems: a script here, a batch
    /// file there.
    fn counting(&self, name: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let here = program("mcpshim-admin").with_file_name("examples/counting");
        let script = self.bin().join(name);
        let text = format!("#!/bin/sh\nexec '{}' \"$@\"\n", here.display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let there = z(&self.built.join("examples/counting.exe"));
        let batch = format!("@echo off\r\n\"{there}\" %*\r\n");
        std::fs::write(script.with_extension("cmd"), batch).unwrap();
    }

    fn wine(&self) -> Command {
        let mut command = Command::new("wine");
        command
            .env_clear()
            .env("WINEPATH", z(&self.bin()))
            .current_dir(self.project());
        for name in [
            "HOME",
            "PATH",
            "WINEPREFIX",
            "WINEDEBUG",
            "WINEDLLOVERRIDES",
        ] {
            command.env(name, std::env::var_os(name).unwrap_or_default());
        }
        command
    }

    fn mcpshim(&self) -> Command {
        let mut command = self.wine();
        command.arg(self.built.join("mcpshim.exe"));
        command
    }

    fn set_credential(&self, server: &str, value: &str) {
        let mut set = self
            .mcpshim()
            .args(["credential", "set", server])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = set.stdin.take().unwrap();
        stdin.write_all(value.as_bytes()).unwrap();
        drop(stdin);
        assert!(set.wait().unwrap().success());
    }

    /// Writes the policy as device management would.
    fn manage(&self) {
        let root = std::fs::read_to_string(self.org.sources().join("trust/root.json")).unwrap();
        let repository = z(&self.org.repository()).replace('\\', "/");
        let values = [
            ("org", "it.example".to_owned()),
            ("registry_url", format!("file:///{repository}/")),
            ("root", root),
            ("state_dir", z(&self.org.state())),
            ("agent", "ci".to_owned()),
            ("agent_key", z(&self.org.agent_key("ci"))),
        ];
        for (name, value) in values {
            self.reg(&[
                "add", POLICY, "/v", name, "/t", "REG_SZ", "/d", &value, "/f",
            ]);
        }
    }

    fn reg(&self, words: &[&str]) -> Ended {
        run(self.wine().arg("reg").args(words)).ok()
    }

    /// Windows programs of this test that run, by what `ps` would show.
    fn left(&self) -> Vec<String> {
        self.org
            .processes()
            .into_iter()
            .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains("mcpshim") || line.contains("counting"))
            .collect()
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        drop(run(self.wine().args(["reg", "delete", POLICY, "/f"])));
    }
}

const POLICY: &str = r"HKLM\SOFTWARE\Policies\mcpshim";

/// One test: they would share one policy.
#[test]
fn the_windows_binary_reads_its_policy_stores_a_secret_and_serves_a_call() {
    let Some(windows) = Windows::new(|windows| {
        windows.counting("counting-peer");
        Server::new("up", "counting-peer")
            .args(["--grandchild"])
            .credential("up-token", "{env: UP_TOKEN}")
    }) else {
        return;
    };
    let version = run(windows.mcpshim().arg("--version")).ok().stdout;
    assert_eq!(
        version.trim(),
        concat!("mcpshim ", env!("CARGO_PKG_VERSION"))
    );

    // the policy, and where it is from; the environment is not asked
    windows.manage();
    let config = run(windows
        .mcpshim()
        .env("MCPSHIM_AGENT", "other")
        .args(["config", "--json"]))
    .ok()
    .stdout;
    for words in ["it.example", "HKEY_LOCAL_MACHINE", r#""ci""#] {
        assert!(config.contains(words), "no {words} in {config}");
    }
    assert!(!config.contains("\"other\""), "{config}");

    run(windows.mcpshim().args(["registry", "refresh"])).ok();

    // a secret, kept by the Credential Manager and a sealed file
    windows.set_credential("up", "a-secret-of-windows\n");
    let list = ["credential", "list", "--json"];
    let listed = run(windows.mcpshim().args(list)).ok().stdout;
    assert!(listed.contains("up-token"), "{listed}");
    assert!(!listed.contains("a-secret"), "{listed}");

    // a call through a batch file to a server with a child of its own
    let mut shim = Shim::start(windows.mcpshim().arg("serve"));
    let hello = shim.initialize();
    assert_eq!(hello["serverInfo"]["name"], "mcpshim");
    let tools = shim.names("tools");
    assert!(tools.contains(&"up_echo".to_owned()), "{tools:?}");
    assert!(!tools.contains(&"up_count".to_owned()), "{tools:?}");
    let answer = shim.call("up_echo", json!({"text": "héllo"}));
    assert_eq!(answer.text(), "héllo");
    let environment = shim.call("up_environment", json!({}));
    let environment = environment.text();
    assert!(environment.contains("UP_TOKEN="), "{environment}");
    assert!(!environment.contains("WINEPREFIX="), "{environment}");
    let (status, _, _) = shim.close();
    assert!(status.success(), "{status}");
    wait_for("everything that was started to end", || {
        windows.left().is_empty().then_some(())
    });

    // its record, as Windows and as this system read it
    let held = |ended: Ended| {
        let text = ended.ok().stdout;
        assert!(text.contains("records in 1 streams hold"), "{text}");
        text
    };
    let there = held(run(windows.mcpshim().args(["audit", "check"])));
    assert_eq!(held(windows.org.mcpshim("ci", ["audit", "check"])), there);

    // a shim that is killed takes its server and the server's child with it
    let mut shim = Shim::start(windows.mcpshim().arg("serve"));
    shim.initialize();
    shim.call("up_echo", json!({"text": "again"}));
    assert!(windows.left().len() >= 3, "{:?}", windows.left());
    shim.process.kill();
    wait_for("the job to end", || windows.left().is_empty().then_some(()));
}
