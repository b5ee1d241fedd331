//! An organisation as it would be: signed, with an audit key, ten more servers and 500 tools.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Servers that are listed and never started…
const SERVERS: usize = 10;
/// …each with so many tools.
const TOOLS: usize = 50;

#[derive(Debug)]
pub(crate) struct Org {
    dir: tempfile::TempDir,
    shim: PathBuf,
}

impl Org {
    /// Makes it with the programs in `bin`; `this` is the upstream.
    pub(crate) fn new(shim: &Path, bin: &Path, this: &Path) -> Self {
        let org = Self {
            dir: tempfile::Builder::new()
                .prefix("mcpshim-bench-")
                .tempdir()
                .unwrap(),
            shim: shim.to_owned(),
        };
        let sources = org.path("sources");
        for dir in ["servers", "roles", "agents", "pins", "audit"] {
            std::fs::create_dir_all(sources.join(dir)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(sources.join(name), text).unwrap();
        write(
            "org.yaml",
            "org: bench\nname: Bench\nhelp: '#help'\ngrace_hours: 24\n",
        );
        let mut grants = String::new();
        let mut server = |key: &str, tools: usize, audit: &str| {
            let program = this.to_str().unwrap();
            let yaml = format!(
                "id: {key}\nkey: {key}\nowner: bench\non_call: bench\npurpose: bench\nhosted: self\n\
                 environment: dev\nzone: loopback\ndata_classes: []\naudit: {audit}\n\
                 limits: {{repeat: off}}\n\
                 transport:\n  type: stdio\n  command: {program:?}\n  args: [echo, \"{tools}\"]\n"
            );
            write(&format!("servers/{key}.yaml"), &yaml);
            writeln!(
                grants,
                "  {key}:\n    tools: ['*']\n    approved_by: bench\n    approved_at: 2026-11-21"
            )
            .unwrap();
        };
        server("full", 1, "{arguments: full, results: full}");
        server("digest", 1, "{arguments: digest, results: digest}");
        for number in 0..SERVERS {
            server(&format!("other{number}"), TOOLS, "{class: process}");
        }
        write(
            "roles/bench.yaml",
            &format!("title: bench\nask: '#ask'\nagents: [bench]\nservers:\n{grants}"),
        );
        let [keys, out, agent] = ["keys", "repository", "agent.key"].map(|name| org.path(name));
        let admin = bin.join("mcpshim-admin");
        let collector = bin.join("mcpshim-collector");
        let run = |program: &Path, words: &[&str], paths: &[&Path]| {
            let done = Command::new(program)
                .args(words)
                .args(paths)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(done.status.success(), "{words:?}: {done:?}");
            done.stdout
        };
        let flag = Path::new;
        let audit_key = run(
            &collector,
            &["auditkey", "new", "--out"],
            &[&org.path("audit.key")],
        );
        std::fs::write(sources.join("audit/bench.json"), audit_key).unwrap();
        run(&admin, &["key", "new"], &[&sources, flag("--keys"), &keys]);
        run(
            &admin,
            &["agent", "new", "bench", "--key"],
            &[&agent, &sources],
        );
        run(&admin, &["pin"], &[&sources]);
        let publish = [&*sources, flag("--keys"), &keys, flag("--out"), &out];
        run(&admin, &["publish"], &publish);
        let config = format!(
            "org = \"bench\"\nregistry_url = \"file://{}/\"\nroot = {:?}\n",
            out.display(),
            sources.join("trust/root.json")
        );
        std::fs::write(org.path("config.toml"), config).unwrap();
        let refreshed = org.laptop().args(["registry", "refresh"]).output().unwrap();
        assert!(refreshed.status.success(), "{refreshed:?}");
        org
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn laptop(&self) -> Command {
        let mut command = Command::new(&self.shim);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .env("MCPSHIM_CONFIG", self.path("config.toml"))
            .env("MCPSHIM_STATE", self.path("state"))
            .env("MCPSHIM_AGENT", "bench")
            .env("MCPSHIM_AGENT_KEY", self.path("agent.key"));
        command
    }

    /// `mcpshim serve`.
    pub(crate) fn serve(&self) -> Command {
        let mut command = self.laptop();
        command.arg("serve");
        command
    }
}
