//! An organisation as it would be: signed, with an audit key, and all its servers granted.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::load::Era;

/// What a server is.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// This program's `echo` with so many tools.
    Stdio(Era, usize),
    /// This program's `web` at this address.
    Http(String),
}

/// How much the record keeps of a server's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capture {
    Digest,
    Full,
}

impl Capture {
    pub(crate) const BOTH: [Self; 2] = [Self::Digest, Self::Full];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Digest => "digest",
            Self::Full => "full",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Org {
    dir: tempfile::TempDir,
    shim: PathBuf,
}

impl Org {
    /// Makes one of these servers with the programs in `bin`; `this` is the upstream.
    pub(crate) fn new(
        shim: &Path,
        bin: &Path,
        this: &Path,
        servers: &[(String, Reach, Capture)],
    ) -> Self {
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
            "org: bench\nname: Bench\nhelp: '#help'\ngrace_hours: 24\naudit_keys: [audit/*.json]\n",
        );
        let mut grants = String::new();
        for (key, reach, capture) in servers {
            let transport = match reach {
                Reach::Http(url) => format!("type: http\n  url: {url:?}"),
                Reach::Stdio(era, tools) => {
                    let (program, era) = (this.to_str().unwrap(), era.name());
                    format!(
                        "type: stdio\n  command: {program:?}\n  args: [echo, {era}, \"{tools}\"]"
                    )
                }
            };
            let capture = capture.name();
            let yaml = format!(
                "id: {key}\nkey: {key}\nowner: bench\non_call: bench\npurpose: bench\nhosted: self\n\
                 environment: dev\nzone: loopback\ndata_classes: []\n\
                 audit: {{arguments: {capture}, results: {capture}}}\n\
                 transport:\n  {transport}\n"
            );
            write(&format!("servers/{key}.yaml"), &yaml);
            writeln!(
                grants,
                "  {key}:\n    tools: ['*']\n    approved_by: bench\n    approved_at: 2026-11-21"
            )
            .unwrap();
        }
        write(
            "roles/bench.yaml",
            &format!("title: bench\nask: '#ask'\nagents: [bench]\nservers:\n{grants}"),
        );
        org.publish(bin, &sources);
        org
    }

    /// Pins the servers and publishes, as a platform team does; fetches the registry.
    fn publish(&self, bin: &Path, sources: &Path) {
        let [keys, out, agent] = ["keys", "repository", "agent.key"].map(|name| self.path(name));
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
            &[&self.path("audit.key")],
        );
        std::fs::write(sources.join("audit/bench.json"), audit_key).unwrap();
        run(&admin, &["key", "new"], &[sources, flag("--keys"), &keys]);
        run(
            &admin,
            &["agent", "new", "bench", "--key"],
            &[&agent, sources],
        );
        run(&admin, &["pin"], &[sources]);
        let publish = [sources, flag("--keys"), &keys, flag("--out"), &out];
        run(&admin, &["publish"], &publish);
        let config = format!(
            "org = \"bench\"\nregistry_url = \"file://{}/\"\nroot = {:?}\n",
            out.display(),
            sources.join("trust/root.json")
        );
        std::fs::write(self.path("config.toml"), config).unwrap();
        let mut refresh = self.laptop();
        let refreshed = refresh.args(["registry", "refresh"]).output().unwrap();
        assert!(refreshed.status.success(), "{refreshed:?}");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
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

    /// Bytes of all records that wait for delivery.
    pub(crate) fn spool_bytes(&self) -> u64 {
        let mut bytes = 0;
        walk(&self.path("state"), &mut |entry| {
            bytes += entry.metadata().unwrap().len();
        });
        bytes
    }

    /// Removes what the record of dead sessions has come to: nobody delivers here, and a full
    /// spool takes no more calls.
    pub(crate) fn empty_spool(&self) {
        walk(&self.path("state"), &mut |entry| {
            if entry.path().extension().is_some_and(|name| name == "seg") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        });
    }

    /// `mcpshim serve`.
    pub(crate) fn serve(&self) -> Command {
        let mut command = self.laptop();
        command.arg("serve");
        command
    }
}

/// Looks at every file below a directory.
fn walk(dir: &Path, each: &mut dyn FnMut(&std::fs::DirEntry)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path(), each),
            false => each(&entry),
        }
    }
}
