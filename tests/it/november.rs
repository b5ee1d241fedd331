//! What the programs of commit e8cf4f9 left on disks still delivers, opens and verifies
//! (`tests/data/november`).

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Ended, Running, files, program, run, shifted};

/// While the registry of then was current.
const THEN: &str = "@2026-12-01 15:00:00";
/// Where that registry says the collector is.
const COLLECTOR: &str = "127.0.0.1:18419";

/// A copy of it all, with the modes that a repository does not keep.
struct November(tempfile::TempDir);

impl November {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/november");
        for path in files(&from) {
            let to = dir.path().join(path.strip_prefix(&from).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&path, &to).unwrap();
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        // as empty as it was, which a repository does not keep either
        std::fs::create_dir_all(dir.path().join("collector/log")).unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "org = \"it.example\"\nregistry_url = \"file://{}/\"\nroot = \"{}\"\n",
            at("registry"),
            at("root.json")
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        Self(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program with the laptop's environment, on the clock of then; nothing where that cannot be.
    fn program(&self, name: &str) -> Option<Command> {
        let mut command = Command::new(program(name));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TZ", "UTC")
            .env("HOME", self.0.path())
            .env("MCPSHIM_CONFIG", self.at("config.toml"))
            .env("MCPSHIM_STATE", self.at("state"))
            .env("MCPSHIM_AGENT", "ci")
            .env("MCPSHIM_AGENT_KEY", self.at("agent.key"))
            .current_dir(self.0.path());
        shifted(&mut command, THEN).then_some(command)
    }

    fn read(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(program("mcpshim-collector"));
        run(command.args(words).arg("--data").arg(self.at("collector")))
    }

    /// Every payload that opens, as text.
    fn unsealed(&self) -> String {
        let key = self.at("audit.key");
        let key = key.to_str().unwrap();
        self.read(&["unseal", "--key", key, "--reason", "fixture", "--json"])
            .ok()
            .stdout
    }
}

#[test]
fn store_of_november_verifies_and_opens() {
    let then = November::new();
    then.read(&["verify"]).ok();
    let opened = then.unsealed();
    for text in [
        "delivered 0 0",
        "delivered 0 2",
        "delivered 1 0",
        "delivered 1 2",
    ] {
        assert!(opened.contains(text), "no {text:?} in {opened}");
    }
    assert!(!opened.contains("not_opened"), "{opened}");
    let refused = then.read(&["query", "--decision", "deny", "--json"]).ok();
    assert_eq!(
        refused.stdout.matches("\"denial\"").count(),
        2,
        "{refused:?}"
    );
}

#[test]
fn undelivered_streams_of_november_deliver_verify_and_open() {
    let then = November::new();
    let Some(mut serve) = then.program("mcpshim-collector") else {
        return;
    };
    serve
        .args([
            "serve",
            "--org",
            "it.example",
            "--listen",
            COLLECTOR,
            "--registry",
        ])
        .arg(format!("file://{}/", then.at("registry").display()))
        .arg("--root")
        .arg(then.at("root.json"))
        .arg("--data")
        .arg(then.at("collector"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut collector = Running::start(&mut serve);
    let stdout = collector.stdout();
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert!(line.contains("http://"), "{line:?} {}", collector.stderr());

    let mut flush = then.program("mcpshim").unwrap();
    run(flush.args(["audit", "flush", "--wait", "60"])).ok();
    let left = files(&then.at("state/spool"));
    assert!(
        left.iter()
            .all(|path| path.extension().is_none_or(|ext| ext != "seg")),
        "{left:?}"
    );
    drop(collector);

    then.read(&["verify"]).ok();
    let opened = then.unsealed();
    for text in ["delivered 0 0", "ended well", "killed"] {
        assert!(opened.contains(text), "no {text:?} in {opened}");
    }
    let ends = then.read(&["query", "--phase", "end", "--json"]).ok();
    assert_eq!(ends.stdout.matches("\"closed\"").count(), 3, "{ends:?}");
    assert_eq!(ends.stdout.matches("\"adopted\"").count(), 1, "{ends:?}");
}

#[test]
fn vault_of_november_opens() {
    let then = November::new();
    let Some(mut list) = then.program("mcpshim") else {
        return;
    };
    let listed = run(list.args(["credential", "list", "--json"])).ok();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let text = listed.to_string();
    assert!(
        text.contains("needy-token") && text.contains("\"serial\":1"),
        "{text}"
    );
}
