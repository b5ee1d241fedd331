//! From what the sources say to what holds. Pure, but for the files that settings name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::managed::{self, Managed};
use super::owned::Untrusted;
use super::sheet::{self, Raw, Table};
use super::value::{self, number, text};
use super::{Config, KEYS, Key, LogLevel, Network, Proxy, keys, refuse};
use crate::ids::{AgentName, OrgId};
use crate::report::Failure;

/// Everything the sources say.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) managed: Result<Option<Managed>, Untrusted>,
    /// Whether a managed file was seen here before, and the note that says so.
    pub(super) seen: bool,
    pub(super) marker: Option<PathBuf>,
    /// What looks like management and is not, one line each.
    pub(super) unread: Vec<String>,
    pub(super) user: Option<(PathBuf, std::io::Result<Option<String>>)>,
    /// Whether `MCPSHIM_CONFIG` names the user's file: it must then exist.
    pub(super) user_is_named: bool,
    pub(super) environment: BTreeMap<&'static str, OsString>,
    /// Variables that are set, would matter elsewhere, and are never read.
    pub(super) others: Vec<&'static str>,
    pub(super) machine: String,
    pub(super) client_session: Option<String>,
    pub(super) project_dir: Option<PathBuf>,
    pub(super) home: Option<PathBuf>,
    pub(super) data: Option<PathBuf>,
}

/// The settings with everything there is to say about each.
#[derive(Debug)]
pub struct Effective {
    /// What holds, or why nothing can.
    pub config: Result<Config, Failure>,
    /// Every key, by name.
    pub settings: Vec<Setting>,
    /// What is wrong but stops nothing, and what is not read: one line each.
    pub warnings: Vec<String>,
    /// Whether managed configuration is in force.
    pub managed: bool,
}

/// One setting as it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key.
    pub key: &'static str,
    /// Its value as text; `None` when there is none.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
    /// Why what a source says cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Source {
    /// Nobody set it.
    Default,
    /// A variable.
    Environment {
        /// Its name.
        variable: &'static str,
    },
    /// The user's file.
    File {
        /// Which.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Device management.
    Managed {
        /// Where this system keeps it.
        place: &'static str,
        /// The line, from 1, where there are lines.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<usize>,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment { variable } => write!(f, "variable {variable}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Managed {
                place,
                line: Some(line),
            } => write!(f, "managed {place}:{line}"),
            Self::Managed { place, line: None } => write!(f, "managed {place}"),
        }
    }
}

pub(super) fn resolve(inputs: &Inputs) -> Effective {
    let mut warnings = Vec::new();
    let managed = !matches!(inputs.managed, Ok(None)) || inputs.seen;
    let table = match table(inputs, &mut warnings) {
        Ok(table) => table,
        Err(failure) => {
            return Effective {
                config: Err(failure),
                settings: Vec::new(),
                warnings,
                managed,
            };
        }
    };
    let base = match (&inputs.managed, &inputs.user) {
        (Ok(Some(_)), _) => managed::base(),
        (_, Some((path, _))) => path.parent().map(Path::to_owned),
        (_, None) => None,
    };
    let mut reader = Reader {
        inputs,
        managed,
        table,
        base,
        settings: Vec::new(),
        failures: Vec::new(),
    };
    let config = reader.config(&mut warnings);
    let mut settings = reader.settings;
    settings.sort_by_key(|setting| setting.key);
    Effective {
        config,
        settings,
        warnings,
        managed,
    }
}

/// The one source that counts, as a table.
fn table(inputs: &Inputs, warnings: &mut Vec<String>) -> Result<Table, Failure> {
    warnings.extend(inputs.unread.iter().cloned());
    match &inputs.managed {
        Err(untrusted) => {
            ignored(inputs, warnings);
            return Err(
                Failure::from_error(crate::report::Exit::Registry, untrusted)
                    .context("the managed configuration cannot be trusted")
                    .hint(if cfg!(any(windows, target_os = "macos")) {
                        format!("whoever manages this machine must deliver {} again", managed::PLACE)
                    } else {
                        format!(
                            "root must own {} and every directory above it, and nobody else may write \
                             them; tell whoever manages this machine",
                            managed::PLACE
                        )
                    }),
            );
        }
        Ok(Some(Managed::Text(text))) => {
            ignored(inputs, warnings);
            return sheet::parse(text, managed::PLACE, warnings).map_err(|error| {
                not_toml(managed::PLACE, error).hint("tell whoever manages this machine")
            });
        }
        Ok(Some(Managed::Values(values))) => {
            ignored(inputs, warnings);
            return Ok(sheet::collect(values, managed::PLACE, warnings));
        }
        Ok(None) if inputs.seen => {
            ignored(inputs, warnings);
            let note = inputs.marker.as_ref().map_or_else(String::new, |marker| {
                format!("; if the machine is yours now, remove {}", marker.display())
            });
            return Err(
                refuse("the managed configuration of this machine is gone").hint(format!(
                    "whoever manages this machine must put {} back{note}",
                    managed::PLACE
                )),
            );
        }
        Ok(None) => {}
    }
    let (path, text) = match &inputs.user {
        Some((path, Ok(text))) => {
            if text.is_none() && inputs.user_is_named {
                return Err(refuse(format!("there is no {}", path.display()))
                    .hint("correct or unset MCPSHIM_CONFIG"));
            }
            (path.as_path(), text.as_ref())
        }
        Some((path, Err(error))) => {
            return Err(Failure::from_error(crate::report::Exit::Registry, error)
                .context(format!("{} cannot be read", path.display()))
                .hint("check its kind, owner and permissions"));
        }
        None => return Ok(Table::new()),
    };
    let Some(text) = text else {
        return Ok(Table::new());
    };
    let place = path.display().to_string();
    sheet::parse(text, &place, warnings).map_err(|error| {
        not_toml(&place, error)
            .hint("correct the line; `mcpshim config --help` shows a complete file")
    })
}

fn not_toml(place: &str, error: sheet::NotToml) -> Failure {
    refuse(format!("{place}:{} is not TOML", error.line)).cause(error.why)
}

/// What a managed machine does not read.
fn ignored(inputs: &Inputs, warnings: &mut Vec<String>) {
    let why = "not read, because this machine is managed";
    if let Some((path, Ok(Some(_)))) = &inputs.user {
        warnings.push(format!("{}: {why}", path.display()));
    }
    for variable in inputs.environment.keys().chain(&inputs.others) {
        warnings.push(format!("{variable}: {why}"));
    }
}

struct Reader<'i> {
    inputs: &'i Inputs,
    managed: bool,
    table: Table,
    /// The directory that relative paths in the file start from.
    base: Option<PathBuf>,
    settings: Vec<Setting>,
    failures: Vec<String>,
}

impl Reader<'_> {
    /// Takes one key from the source that goes first, and says what became of it.
    fn take<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&Raw) -> Result<(T, String), String>,
    ) -> Option<T> {
        let key = keys::key(name)?;
        let (raw, source) = self.find(key)?;
        let (value, shown, problem) = match parse(&raw) {
            Ok((value, shown)) => (Some(value), Some(shown), None),
            Err(problem) => (None, None, Some(problem)),
        };
        if let Some(problem) = &problem
            && key.security
        {
            self.failures.push(format!("{source}: `{name}` {problem}"));
        }
        self.settings.push(Setting {
            key: key.name,
            value: shown,
            source,
            problem,
        });
        value
    }

    fn find(&self, key: &'static Key) -> Option<(Raw, Source)> {
        if let (false, Some(variable)) = (self.managed, key.variable)
            && let Some(value) = self.inputs.environment.get(variable)
        {
            let raw = match value.to_str() {
                Some(text) => Raw::Text(text.to_owned()),
                None => Raw::Other("text that is not Unicode"),
            };
            return Some((raw, Source::Environment { variable }));
        }
        let (raw, line) = self.table.get(key.name)?.clone();
        let source = match (&self.inputs.user, self.managed) {
            (Some((path, _)), false) => Source::File {
                path: path.clone(),
                line: line.unwrap_or(1),
            },
            (_, true) | (None, false) => Source::Managed {
                place: managed::PLACE,
                line,
            },
        };
        Some((raw, source))
    }

    fn config(&mut self, warnings: &mut Vec<String>) -> Result<Config, Failure> {
        let org = self.take("org", |raw| {
            let org = OrgId::parse(text(raw)?).map_err(invalid)?;
            let shown = org.to_string();
            Ok((org, shown))
        });
        let registry_url = self.take("registry_url", |raw| {
            let url = text(raw)?.to_owned();
            let known = ["https://", "http://", "file:///"];
            if known.iter().any(|scheme| url.starts_with(scheme)) {
                Ok((url.clone(), url))
            } else {
                Err(format!(
                    "is {url:?}, expected https://…, file:///… or http:// on loopback"
                ))
            }
        });
        let (managed, base) = (self.managed, self.base.clone());
        let root = self.take("root", |raw| {
            value::root(text(raw)?, base.as_deref(), managed)
        });
        let network = self.network(warnings);
        let search = self.take("path", |raw| value::search(text(raw)?));
        let min_root_version = self.take("min_root_version", number).unwrap_or_default();
        let min_timestamp_version = self
            .take("min_timestamp_version", number)
            .unwrap_or_default();
        let log_level = self.take("log_level", |raw| {
            let name = text(raw)?;
            let level = LogLevel::parse(name).ok_or_else(|| {
                format!("is {name:?}, expected error, warn, info, debug or trace")
            })?;
            Ok((level, name.to_owned()))
        });
        let home = self.inputs.home.clone();
        let given = self.take("state_dir", |raw| value::path(text(raw)?, home.as_deref()));
        let agent = self.take("agent", |raw| {
            let name = AgentName::parse(text(raw)?).map_err(invalid)?;
            let shown = name.to_string();
            Ok((name, shown))
        });
        let agent_key = self.take("agent_key", |raw| value::path(text(raw)?, home.as_deref()));

        let own = self.inputs.data.as_ref().zip(org.as_ref());
        let machine = &self.inputs.machine;
        let state_dir =
            given.or_else(|| own.map(|(data, org)| data.join(machine).join(org.as_str())));
        let agent = agent.zip(state_dir.as_ref()).map(|(name, state)| {
            let file = format!("{name}.key");
            let key = agent_key.unwrap_or_else(|| state.join("agents").join(file));
            (name, key)
        });
        let log_level = log_level.unwrap_or_default();
        self.fill("log_level", Some(log_level.as_str().to_owned()));
        self.fill(
            "state_dir",
            state_dir.as_ref().map(|dir| dir.display().to_string()),
        );
        self.fill(
            "agent_key",
            agent.as_ref().map(|(_, key)| key.display().to_string()),
        );
        for number in ["min_root_version", "min_timestamp_version"] {
            self.fill(number, Some("0".to_owned()));
        }
        self.fill("proxy", Some("none".to_owned()));
        for key in KEYS {
            self.fill(key.name, None);
        }
        for setting in &self.settings {
            if let (Some(problem), Some(false)) = (
                &setting.problem,
                keys::key(setting.key).map(|key| key.security),
            ) {
                let (source, key) = (&setting.source, setting.key);
                warnings.push(format!("{source}: `{key}` {problem}; the default holds"));
            }
        }
        if !self.failures.is_empty() {
            return Err(self.unreadable());
        }
        match (org, registry_url, root, state_dir) {
            (Some(org), Some(registry_url), Some(root), Some(state_dir)) => Ok(Config {
                org,
                registry_url,
                root,
                min_root_version,
                min_timestamp_version,
                state_dir,
                agent,
                machine_id: machine.clone(),
                log_level,
                managed: self.managed,
                network,
                path: search,
                project_dir: self.inputs.project_dir.clone(),
                client_session: self.inputs.client_session.clone(),
            }),
            _ => Err(self.missing()),
        }
    }

    fn network(&mut self, warnings: &mut Vec<String>) -> Network {
        let (managed, base) = (self.managed, self.base.clone());
        let proxy = self.take("proxy", |raw| value::proxy(text(raw)?));
        let no_proxy = self.take("no_proxy", |raw| value::no_proxy(text(raw)?));
        let ca = self.take("ca_file", |raw| {
            value::authorities(text(raw)?, base.as_deref(), managed)
        });
        let proxy = proxy.unwrap_or_default();
        if proxy == Proxy::System && cfg!(not(any(windows, target_os = "macos"))) {
            warnings.push(
                "`proxy` is system, and this system has no such setting: none holds".to_owned(),
            );
        }
        let (ca_pem, ca_files) = ca.unzip();
        Network {
            proxy,
            no_proxy: no_proxy.unwrap_or_default(),
            ca_pem,
            ca_files: ca_files.unwrap_or_default(),
        }
    }

    /// Says what holds for a key that no source sets.
    fn fill(&mut self, name: &str, value: Option<String>) {
        if let Some(key) = keys::key(name)
            && !self.settings.iter().any(|setting| setting.key == key.name)
        {
            self.settings.push(Setting {
                key: key.name,
                value,
                source: Source::Default,
                problem: None,
            });
        }
    }

    fn unreadable(&self) -> Failure {
        let who = if self.managed {
            "tell whoever manages this machine"
        } else {
            "correct it"
        };
        let mut failure = refuse("the configuration cannot be used").hint(format!(
            "{who}; `mcpshim config` shows every key, where it comes from and what is wrong"
        ));
        failure.causes.clone_from(&self.failures);
        failure
    }

    fn missing(&self) -> Failure {
        let file = match &self.inputs.user {
            _ if self.managed => managed::PLACE.to_owned(),
            Some((path, _)) => path.display().to_string(),
            None => "a file that MCPSHIM_CONFIG names".to_owned(),
        };
        let missing: Vec<&str> = ["org", "registry_url", "root"]
            .into_iter()
            .filter(|name| !self.table.contains_key(*name))
            .collect();
        let text = match (&self.inputs.managed, &self.inputs.user) {
            (Ok(Some(Managed::Text(text))), _) => Some(text),
            (Ok(None), Some((_, Ok(text)))) => text.as_ref(),
            _ => None,
        };
        if let Some((line, name, near)) = text.and_then(|text| sheet::misnamed(text, &missing)) {
            let hint = match self.managed {
                true => "tell whoever manages this machine",
                false => "correct the line",
            };
            return refuse(format!("line {line}: `{name}` should be `{near}`"))
                .cause(format!("{file} sets no `{}`", missing.join("`, no `")))
                .hint(hint);
        }
        let failure = if missing.is_empty() {
            refuse("there is no home directory to keep state in").hint("set state_dir")
        } else if missing.len() == 3 {
            refuse("mcpshim is not configured here")
                .cause(format!("{file} sets no `org`, `registry_url` or `root`"))
        } else {
            refuse(format!(
                "the configuration is not complete: {file} sets no `{}`",
                missing.join("`, no `")
            ))
        };
        if failure.hint.is_some() {
            return failure;
        }
        failure.hint(if self.managed {
            "tell whoever manages this machine".to_owned()
        } else {
            format!("write the three lines your platform team gives you into {file} (`mcpshim config --help` shows them)")
        })
    }
}

fn invalid(error: crate::ids::BadId) -> String {
    format!("is {:?}, expected {}", error.text, error.expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(user: &str) -> Inputs {
        Inputs {
            managed: Ok(None),
            seen: false,
            unread: Vec::new(),
            marker: Some(PathBuf::from("/users/ann/data/managed.seen")),
            user: Some((
                PathBuf::from("/users/ann/c.toml"),
                Ok(Some(user.to_owned())),
            )),
            user_is_named: false,
            environment: BTreeMap::new(),
            others: Vec::new(),
            machine: "m1".to_owned(),
            project_dir: None,
            client_session: None,
            home: Some(PathBuf::from("/users/ann")),
            data: Some(PathBuf::from("/users/ann/data")),
        }
    }

    const GOOD: &str = "org = \"acme\"\nregistry_url = \"https://r.example/\"\nroot = \"{}\"\n";

    fn refusal(inputs: &Inputs) -> String {
        resolve(inputs).config.unwrap_err().to_string()
    }

    fn said(inputs: &Inputs) -> String {
        resolve(inputs)
            .settings
            .iter()
            .map(|s| format!("{} = {:?} ({})\n", s.key, s.value.as_deref(), s.source))
            .collect()
    }

    #[test]
    fn three_lines_are_enough() {
        let inputs = inputs(GOOD);
        let config = resolve(&inputs).config.unwrap();
        assert_eq!(config.org.as_str(), "acme");
        assert_eq!(config.state_dir, Path::new("/users/ann/data/m1/acme"));
        assert!(!config.managed && config.agent.is_none());
        insta::assert_snapshot!(said(&inputs), @r#"
agent = None (default)
agent_key = None (default)
ca_file = None (default)
log_level = Some("info") (default)
min_root_version = Some("0") (default)
min_timestamp_version = Some("0") (default)
no_proxy = None (default)
org = Some("acme") (/users/ann/c.toml:1)
path = None (default)
proxy = Some("none") (default)
registry_url = Some("https://r.example/") (/users/ann/c.toml:2)
root = Some("(the metadata itself)") (/users/ann/c.toml:3)
state_dir = Some("/users/ann/data/m1/acme") (default)
"#);
    }

    #[test]
    fn the_environment_goes_before_the_file() {
        let mut inputs = inputs(&format!("{GOOD}agent = \"file\"\nstate_dir = \"~/s\"\n"));
        inputs.environment.insert("MCPSHIM_AGENT", "ci".into());
        let config = resolve(&inputs).config.unwrap();
        let (name, key) = config.agent.unwrap();
        assert_eq!(name.as_str(), "ci");
        assert_eq!(key, Path::new("/users/ann/s/agents/ci.key"));
    }

    #[test]
    fn a_managed_machine_reads_nothing_else() {
        let mut inputs = inputs("org = \"evil\"\nagent = \"root\"\n");
        inputs.managed = Ok(Some(Managed::Text(GOOD.to_owned())));
        inputs.environment.insert("MCPSHIM_AGENT", "ci".into());
        inputs.environment.insert("MCPSHIM_STATE", "/tmp/x".into());
        let effective = resolve(&inputs);
        let config = effective.config.unwrap();
        assert!(config.managed && config.agent.is_none());
        assert_eq!(config.org.as_str(), "acme");
        assert_eq!(config.state_dir, Path::new("/users/ann/data/m1/acme"));
        insta::assert_snapshot!(effective.warnings.join("\n"), @r#"
/users/ann/c.toml: not read, because this machine is managed
MCPSHIM_AGENT: not read, because this machine is managed
MCPSHIM_STATE: not read, because this machine is managed
"#);
    }

    /// Values that device management delivers one by one, as text.
    #[test]
    fn managed_values_hold_as_a_managed_file_does() {
        let text = |text: &str| Raw::Text(text.to_owned());
        let mut inputs = inputs("org = \"evil\"\n");
        inputs.unread = vec!["preferences: `org` is not read".to_owned()];
        let mut values = vec![
            ("org".to_owned(), text("acme")),
            ("registry_url".to_owned(), text("https://r.example/")),
            ("root".to_owned(), text("{}")),
            ("min_root_version".to_owned(), text("4")),
            (
                "min_timestamp_version".to_owned(),
                Raw::Number("5".to_owned()),
            ),
            ("proxi".to_owned(), text("none")),
        ];
        inputs.managed = Ok(Some(Managed::Values(values.clone())));
        let effective = resolve(&inputs);
        let config = effective.config.unwrap();
        assert_eq!(
            (config.min_root_version, config.min_timestamp_version),
            (4, 5)
        );
        let place = managed::PLACE;
        assert_eq!(
            effective.warnings,
            [
                "preferences: `org` is not read".to_owned(),
                "/users/ann/c.toml: not read, because this machine is managed".to_owned(),
                format!("{place}: there is no key `proxi`; did you mean `proxy`?"),
            ]
        );
        let org = effective.settings.iter().find(|s| s.key == "org").unwrap();
        assert_eq!(org.source.to_string(), format!("managed {place}"));

        // one that cannot be read fails closed, and the others are still shown
        values.push(("proxy".to_owned(), Raw::Other("a list")));
        inputs.managed = Ok(Some(Managed::Values(values)));
        let effective = resolve(&inputs);
        let said = effective.config.unwrap_err().to_string();
        assert!(said.contains("`proxy` is a list, expected text"), "{said}");
        assert_eq!(effective.settings.len(), KEYS.len());
    }

    /// Each key that matters for security, with a value that no source should have.
    #[test]
    fn a_bad_security_key_fails_closed() {
        for key in KEYS {
            let others: String = GOOD
                .lines()
                .filter(|line| !line.starts_with(&format!("{} ", key.name)))
                .map(|line| format!("{line}\n"))
                .collect();
            let with_agent = if key.name == "agent" {
                ""
            } else {
                "agent = \"ci\"\n"
            };
            for bad in ["[]", "\" /\\u0000\"", "true"] {
                let inputs = inputs(&format!("{others}{with_agent}{} = {bad}\n", key.name));
                let effective = resolve(&inputs);
                assert_eq!(
                    effective.config.is_err(),
                    key.security,
                    "{} = {bad}",
                    key.name
                );
                assert_eq!(effective.settings.len(), KEYS.len());
                let setting = effective.settings.iter().find(|s| s.key == key.name);
                assert!(setting.unwrap().problem.is_some(), "{} = {bad}", key.name);
            }
        }
    }

    #[test]
    fn a_managed_file_that_is_gone_is_an_error() {
        let mut inputs = inputs(GOOD);
        inputs.seen = true;
        insta::assert_snapshot!(refusal(&inputs), @r#"
error: the managed configuration of this machine is gone
hint:  whoever manages this machine must put /etc/mcpshim/managed.toml back; if the machine is yours now, remove /users/ann/data/managed.seen
"#);
        inputs.managed = Err(Untrusted::Open {
            path: PathBuf::from("/etc/mcpshim"),
            mode: 0o777,
        });
        insta::assert_snapshot!(refusal(&inputs), @r#"
error: the managed configuration cannot be trusted
cause: /etc/mcpshim can be written by others than root (mode 777)
hint:  root must own /etc/mcpshim/managed.toml and every directory above it, and nobody else may write them; tell whoever manages this machine
"#);
    }

    #[test]
    fn one_bad_key_stops_only_what_it_must() {
        let lenient = inputs(&format!("{GOOD}log_level = \"loud\"\nregistry-url = 1\n"));
        let effective = resolve(&lenient);
        assert_eq!(effective.config.unwrap().log_level, LogLevel::Info);
        insta::assert_snapshot!(effective.warnings.join("\n"), @r#"
/users/ann/c.toml:5: there is no key `registry-url`; did you mean `registry_url`?
/users/ann/c.toml:4: `log_level` is "loud", expected error, warn, info, debug or trace; the default holds
"#);
        let strict = inputs(&format!(
            "{GOOD}min_root_version = \"four\"\nagent = \"A B\"\nstate_dir = \"here\"\n"
        ));
        insta::assert_snapshot!(refusal(&strict), @r#"
error: the configuration cannot be used
cause: /users/ann/c.toml:4: `min_root_version` is "four", expected a number from 0 on
cause: /users/ann/c.toml:6: `state_dir` is "here", expected an absolute path
cause: /users/ann/c.toml:5: `agent` is "A B", expected 1 to 64 of a-z 0-9 -
hint:  correct it; `mcpshim config` shows every key, where it comes from and what is wrong
"#);
        assert_eq!(resolve(&strict).settings.len(), KEYS.len());
    }

    #[test]
    fn what_is_missing_is_said() {
        insta::assert_snapshot!(refusal(&inputs("")), @r#"
error: mcpshim is not configured here
cause: /users/ann/c.toml sets no `org`, `registry_url` or `root`
hint:  write the three lines your platform team gives you into /users/ann/c.toml (`mcpshim config --help` shows them)
"#);
        insta::assert_snapshot!(refusal(&inputs("org = \"acme\"\nroot = \"gone.json\"\n")), @r#"
error: the configuration cannot be used
cause: /users/ann/c.toml:2: `root` names /users/ann/gone.json, which does not exist
hint:  correct it; `mcpshim config` shows every key, where it comes from and what is wrong
"#);
        insta::assert_snapshot!(refusal(&inputs("org = \"acme\"\nroot = \"{}\"\n")), @r#"
error: the configuration is not complete: /users/ann/c.toml sets no `registry_url`
hint:  write the three lines your platform team gives you into /users/ann/c.toml (`mcpshim config --help` shows them)
"#);
        insta::assert_snapshot!(refusal(&inputs("org = \"acme\"\n= 7\n")), @r#"
error: /users/ann/c.toml:2 is not TOML
cause: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`
hint:  correct the line; `mcpshim config --help` shows a complete file
"#);
        let mut named = inputs(GOOD);
        named.user = Some((PathBuf::from("/x.toml"), Ok(None)));
        named.user_is_named = true;
        insta::assert_snapshot!(refusal(&named), @r#"
error: there is no /x.toml
hint:  correct or unset MCPSHIM_CONFIG
"#);
    }
}
