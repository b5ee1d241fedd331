//! An organisation in a temporary directory, made with the programs that people use.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::{Ended, Running, Shim, program, run};

/// One approved server, as a reviewer would write it.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    key: String,
    reach: Reach,
    /// Further lines of `transport`, indented.
    transport: String,
    /// Further lines of the file, e.g. `pin: names`.
    extra: String,
}

#[derive(Debug, Clone)]
enum Reach {
    Http {
        url: String,
    },
    Stdio {
        command: String,
        args: Vec<String>,
        env: Vec<(String, String)>,
    },
}

impl Server {
    /// The counting upstream of `tests/peers/counting`, with its flags.
    pub(crate) fn counting<'a>(key: &str, flags: impl IntoIterator<Item = &'a str>) -> Self {
        // cargo builds examples beside the programs
        let path = program("mcpshim-admin")
            .parent()
            .unwrap()
            .join("examples/counting");
        assert!(
            path.exists(),
            "{} is missing: cargo build --example counting",
            path.display()
        );
        Self::new(key, path).args(flags)
    }

    /// A server that runs this command.
    pub(crate) fn new(key: &str, command: impl AsRef<Path>) -> Self {
        Self {
            key: key.to_owned(),
            reach: Reach::Stdio {
                command: command.as_ref().to_str().unwrap().to_owned(),
                args: Vec::new(),
                env: Vec::new(),
            },
            transport: String::new(),
            extra: String::new(),
        }
    }

    /// A server that listens at this address.
    pub(crate) fn http(key: &str, url: &str) -> Self {
        Self {
            key: key.to_owned(),
            reach: Reach::Http {
                url: url.to_owned(),
            },
            transport: String::new(),
            extra: String::new(),
        }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<str>>(mut self, more: impl IntoIterator<Item = S>) -> Self {
        match &mut self.reach {
            Reach::Stdio { args, .. } => {
                args.extend(more.into_iter().map(|a| a.as_ref().to_owned()));
            }
            Reach::Http { .. } => panic!("a remote server has no arguments"),
        }
        self
    }

    /// Sets a variable for the child.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        match &mut self.reach {
            Reach::Stdio { env, .. } => env.push((name.to_owned(), value.to_owned())),
            Reach::Http { .. } => panic!("a remote server has no environment"),
        }
        self
    }

    /// Needs the credential `id`, handed over by `bearer`, `{header: NAME}` or `{env: NAME}`.
    pub(crate) fn credential(self, id: &str, inject: &str) -> Self {
        self.with(&format!(
            "credential: {{id: {id}, inject: {inject}, obtain: 'ask the tests'}}"
        ))
    }

    /// Trusts the CA in this file of the sources, e.g. `trust/ca.pem`.
    pub(crate) fn ca(self, file: &str) -> Self {
        self.reached(&format!("ca: {file}"))
    }

    /// Speaks HTTP+SSE, as its entry says.
    pub(crate) fn legacy_sse(self) -> Self {
        self.reached("legacy_sse: true")
    }

    /// Runs in this directory: an absolute path or `{project_dir}/…`.
    pub(crate) fn cwd(self, dir: &str) -> Self {
        self.reached(&format!("cwd: {}", quoted(dir)))
    }

    /// Adds a line to the server's `transport`.
    fn reached(mut self, yaml: &str) -> Self {
        writeln!(self.transport, "  {yaml}").unwrap();
        self
    }

    /// Adds lines to the server's file, e.g. `audit: {class: disk}`.
    pub(crate) fn with(mut self, yaml: &str) -> Self {
        self.extra.push_str(yaml.trim_end());
        self.extra.push('\n');
        self
    }

    fn yaml(&self) -> String {
        let reach = match &self.reach {
            Reach::Http { url } => format!("  type: http\n  url: {}\n", quoted(url)),
            Reach::Stdio { command, args, env } => {
                let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
                let env = env.iter().map(|(k, v)| format!("{k}: {}", quoted(v)));
                let env: Vec<String> = env.collect();
                format!(
                    "  type: stdio\n  command: {}\n  args: [{}]\n  env: {{{}}}\n",
                    quoted(command),
                    args.join(", "),
                    env.join(", ")
                )
            }
        };
        format!(
            "id: {key}\nkey: {key}\nowner: tests\non_call: tests\npurpose: a peer\nhosted: self\n\
             environment: dev\nzone: loopback\ndata_classes: []\n\
             transport:\n{reach}{transport}{extra}",
            key = self.key,
            transport = self.transport,
            extra = self.extra,
        )
    }
}

/// A text as JSON, which is YAML.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// One identity provider, as a reviewer would write it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub(crate) url: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) groups_claim: &'a str,
    /// Its public keys, a JWK Set.
    pub(crate) jwks: &'a str,
    /// Further members, e.g. `device_flow: true`.
    pub(crate) more: &'a [&'a str],
}

/// What a role may use on one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grant<'a> {
    pub(crate) tools: &'a [&'a str],
    pub(crate) prompts: &'a [&'a str],
    pub(crate) resources: &'a [&'a str],
}

impl Grant<'_> {
    /// Everything.
    pub(crate) const ALL: Self = Grant {
        tools: &["*"],
        prompts: &["*"],
        resources: &["*"],
    };

    /// These tools.
    pub(crate) fn tools<'a>(tools: &'a [&'a str]) -> Grant<'a> {
        Grant {
            tools,
            ..Grant::default()
        }
    }
}

/// An organisation: its registry's sources, keys and published repository, and one laptop.
///
/// When it is dropped, every process that was started for it is ended, detached ones included.
#[derive(Debug)]
pub(crate) struct Org {
    dir: tempfile::TempDir,
}

impl Org {
    /// Makes an organisation with keys and nothing in it.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let org = Self {
            dir: tempfile::Builder::new()
                .prefix("mcpshim-it-")
                .tempdir()
                .unwrap(),
        };
        for dir in ["servers", "roles", "agents", "pins", "audit"] {
            std::fs::create_dir_all(org.sources().join(dir)).unwrap();
        }
        std::fs::create_dir_all(org.state()).unwrap();
        org.write(
            "org.yaml",
            "org: it.example\nname: It\nhelp: '#help'\ngrace_hours: 24\naudit_keys: [audit/*.json]\n",
        );
        let mut command = Command::new(program("mcpshim-collector"));
        command
            .args(["auditkey", "new", "--out"])
            .arg(org.audit_key());
        org.write("audit/tests.json", &run(&mut command).ok().stdout);
        let mut command = Command::new(program("mcpshim-admin"));
        command.args(["key", "new"]).arg(org.sources());
        run(command.arg("--keys").arg(org.keys())).ok();
        org
    }

    /// An organisation with one server, one role that may use all of it, and the agent `ci`.
    #[track_caller]
    pub(crate) fn with(server: Server) -> Self {
        let org = Self::new();
        let key = server.key.clone();
        org.server(&server);
        org.agent("ci");
        org.role("tester", &["ci"], &[(&key, Grant::ALL)]);
        org.publish();
        org
    }

    /// Where everything lies.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
    /// The reviewers' directory.
    pub(crate) fn sources(&self) -> PathBuf {
        self.path().join("sources")
    }
    /// The private signing keys.
    pub(crate) fn keys(&self) -> PathBuf {
        self.path().join("keys")
    }
    /// The private half of the audit key.
    pub(crate) fn audit_key(&self) -> PathBuf {
        self.path().join("audit.key")
    }
    /// The published repository.
    pub(crate) fn repository(&self) -> PathBuf {
        self.path().join("repository")
    }
    /// The laptop's state.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }
    /// The laptop's settings file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("config.toml")
    }
    /// An agent's private key.
    pub(crate) fn agent_key(&self, agent: &str) -> PathBuf {
        self.path().join("agents").join(format!("{agent}.key"))
    }

    /// Writes a source file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.sources().join(name), text).unwrap();
    }

    /// Adds a server's file.
    pub(crate) fn server(&self, server: &Server) {
        self.write(&format!("servers/{}.yaml", server.key), &server.yaml());
    }

    /// Adds lines to `org.yaml`, e.g. `secret_stores: {key_file: true}`.
    pub(crate) fn settings(&self, yaml: &str) {
        let org = std::fs::read_to_string(self.sources().join("org.yaml")).unwrap();
        self.write("org.yaml", &format!("{org}{}\n", yaml.trim_end()));
    }

    /// Names the identity providers; once for an organisation.
    pub(crate) fn issuers(&self, issuers: &[Issuer<'_>]) {
        let mut yaml = "issuers:\n".to_owned();
        for (i, issuer) in issuers.iter().enumerate() {
            let jwks = format!("trust/issuer-{i}.jwks.json");
            std::fs::create_dir_all(self.sources().join("trust")).unwrap();
            self.write(&jwks, issuer.jwks);
            writeln!(yaml, "  - issuer: {}", quoted(issuer.url)).unwrap();
            writeln!(yaml, "    client_id: {}", quoted(issuer.client_id)).unwrap();
            writeln!(yaml, "    groups_claim: {}", quoted(issuer.groups_claim)).unwrap();
            writeln!(yaml, "    jwks: {jwks}").unwrap();
            for line in issuer.more {
                writeln!(yaml, "    {line}").unwrap();
            }
        }
        self.settings(&yaml);
    }

    /// Adds a role held by agents.
    pub(crate) fn role(&self, name: &str, agents: &[&str], grants: &[(&str, Grant<'_>)]) {
        self.role_of(name, &[], agents, grants);
    }

    /// Adds a role held by groups of people and by agents.
    pub(crate) fn role_of(
        &self,
        name: &str,
        groups: &[&str],
        agents: &[&str],
        grants: &[(&str, Grant<'_>)],
    ) {
        let list = |items: &[&str]| serde_json::to_string(items).unwrap();
        let mut yaml = format!("title: {name}\nask: '#ask-{name}'\n");
        for (kind, names) in [("groups", groups), ("agents", agents)] {
            if !names.is_empty() {
                writeln!(yaml, "{kind}: {}", list(names)).unwrap();
            }
        }
        yaml.push_str("servers:\n");
        for (server, grant) in grants {
            writeln!(yaml, "  {server}:").unwrap();
            let kinds = [
                ("tools", grant.tools),
                ("prompts", grant.prompts),
                ("resources", grant.resources),
            ];
            for (kind, names) in kinds {
                if !names.is_empty() {
                    writeln!(yaml, "    {kind}: {}", list(names)).unwrap();
                }
            }
            writeln!(yaml, "    approved_by: tests\n    approved_at: 2026-11-21").unwrap();
        }
        self.write(&format!("roles/{name}.yaml"), &yaml);
    }

    /// Adds an agent with a new key.
    #[track_caller]
    pub(crate) fn agent(&self, name: &str) {
        let key = self.agent_key(name);
        std::fs::create_dir_all(key.parent().unwrap()).unwrap();
        self.admin(["agent", "new", name, "--key"], [key, self.sources()])
            .ok();
    }

    /// Pins every server by running it, then checks, signs and publishes.
    #[track_caller]
    pub(crate) fn publish(&self) {
        self.admin(["pin"], [self.sources()]).ok();
        self.republish();
    }

    /// Checks, signs and publishes with the pins that are there.
    #[track_caller]
    pub(crate) fn republish(&self) {
        let mut command = Command::new(program("mcpshim-admin"));
        command.arg("publish").arg(self.sources());
        command
            .arg("--keys")
            .arg(self.keys())
            .arg("--out")
            .arg(self.repository());
        run(&mut command).ok();
        if !self.config().exists() {
            self.write_config("");
        }
    }

    /// Writes the laptop's settings file, with further lines.
    pub(crate) fn write_config(&self, extra: &str) {
        let quoted = |path: PathBuf| serde_json::to_string(path.to_str().unwrap()).unwrap();
        let text = format!(
            "org = \"it.example\"\nregistry_url = \"file://{}/\"\nroot = {}\n{extra}\n",
            self.repository().display(),
            quoted(self.sources().join("trust/root.json")),
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// Runs `mcpshim-admin` with words and then paths.
    #[track_caller]
    pub(crate) fn admin<const N: usize, const M: usize>(
        &self,
        words: [&str; N],
        paths: [PathBuf; M],
    ) -> Ended {
        run(Command::new(program("mcpshim-admin"))
            .args(words)
            .args(paths))
    }

    /// A command of the laptop, with the laptop's environment and nothing else.
    pub(crate) fn laptop(&self) -> Command {
        let mut command = Command::new(program("mcpshim"));
        self.environment(&mut command);
        command
    }

    /// Gives a command the laptop's environment and nothing else.
    pub(crate) fn environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path())
            .env("MCPSHIM_CONFIG", self.config())
            .env("MCPSHIM_STATE", self.state())
            .current_dir(self.path());
    }

    /// A command of the laptop, as an agent.
    pub(crate) fn laptop_as(&self, agent: &str) -> Command {
        let mut command = self.laptop();
        self.identify(&mut command, agent);
        command
    }

    fn identify(&self, command: &mut Command, agent: &str) {
        command
            .env("MCPSHIM_AGENT", agent)
            .env("MCPSHIM_AGENT_KEY", self.agent_key(agent));
    }

    /// The environment of [`Self::laptop_as`] for a client that starts `mcpshim serve` itself.
    pub(crate) fn environment_as(&self, command: &mut Command, agent: &str) {
        self.environment(command);
        self.identify(command, agent);
    }

    /// Runs a command of the laptop, e.g. `["status", "--json"]`, as an agent.
    #[track_caller]
    pub(crate) fn mcpshim<const N: usize>(&self, agent: &str, words: [&str; N]) -> Ended {
        run(self.laptop_as(agent).args(words))
    }

    /// Starts `mcpshim serve` as an agent.
    #[track_caller]
    pub(crate) fn serve(&self, agent: &str) -> Shim {
        Shim::start(self.laptop_as(agent).arg("serve"))
    }

    /// Starts a collector on loopback for this organisation; its data lie in `collector`.
    #[track_caller]
    pub(crate) fn collector(&self) -> Collector {
        Collector::start(self)
    }

    /// Ids of running processes that carry this organisation's directory in their environment
    /// or command line: shims, guards, shippers, upstream children.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let needle = self.path().to_str().unwrap().as_bytes();
        let holds = |path: PathBuf| {
            std::fs::read(path).is_ok_and(|b| b.windows(needle.len()).any(|w| w == needle))
        };
        let own = std::process::id();
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != own)
            .filter(|pid| {
                holds(format!("/proc/{pid}/environ").into())
                    || holds(format!("/proc/{pid}/cmdline").into())
            })
            .collect()
    }
}

impl Drop for Org {
    fn drop(&mut self) {
        // detached shippers and whatever a killed shim left: only what was started for us
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
    }
}

/// A collector on loopback.
#[derive(Debug)]
pub(crate) struct Collector {
    /// Ended when this is dropped.
    _process: Running,
    pub(crate) url: String,
    data: PathBuf,
}

impl Collector {
    #[track_caller]
    fn start(org: &Org) -> Self {
        let data = org.path().join("collector");
        let mut command = Command::new(program("mcpshim-collector"));
        org.environment(&mut command);
        command
            .args([
                "serve",
                "--org",
                "it.example",
                "--listen",
                "127.0.0.1:0",
                "--registry",
            ])
            .arg(format!("file://{}/", org.repository().display()))
            .arg("--root")
            .arg(org.sources().join("trust/root.json"))
            .arg("--data")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command);
        let stdout = process.stdout();
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let at = line
            .find("http://")
            .unwrap_or_else(|| panic!("no address: {line:?} {}", process.stderr()));
        let url = line[at..].split_whitespace().next().unwrap().to_owned();
        Self {
            _process: process,
            url,
            data,
        }
    }

    /// Runs a reading command, e.g. `query`, against the data directory.
    #[track_caller]
    pub(crate) fn read<const N: usize>(&self, words: [&str; N]) -> Ended {
        let mut command = Command::new(program("mcpshim-collector"));
        run(command.args(words).arg("--data").arg(&self.data))
    }
}

/// Every file below a directory, in order.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        match entry.unwrap().path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}
