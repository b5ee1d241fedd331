//! `mcpshim credential`

use std::fmt;
use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use mcpshim::clock::Utc;
use mcpshim::config::Config;
use mcpshim::identity;
use mcpshim::ids::{CredentialId, ServerKey};
use mcpshim::limits;
use mcpshim::policy::{Snapshot, SnapshotId, who};
use mcpshim::registry::doc::{CredentialDoc, Inject, Registry, ServerDoc};
use mcpshim::report::{Exit, Failure};
use mcpshim::secret::{Scrubber, Secret};
use mcpshim::serve::assemble::assemble;
use mcpshim::text;
use mcpshim::vault::{self, Facts, ItemId, StoreKind, Vault};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::out;

const SET_EXAMPLES: &str = "\
Examples:
  mcpshim credential set github      asks for it; what you type is not shown
  pass show github-token | mcpshim credential set github
  op read op://Private/github/token | mcpshim credential set github --json

The value is never taken from the command line: other programs can read that.";

const LIST_EXAMPLES: &str = "\
Examples:
  mcpshim credential list
  mcpshim credential list --json | jq -r '.[] | select(.set | not) | .id'";

const TEST_EXAMPLES: &str = "\
Examples:
  mcpshim credential test github
  mcpshim credential test github --json | jq .answered

Exit codes: 0 the server answered, 1 it did not, or the credential is not set.";

const REMOVE_EXAMPLES: &str = "\
Examples:
  mcpshim credential remove github
  mcpshim credential remove old-token    one that no server of the registry needs any more";

/// Give, list, test and remove the credentials that servers need
///
/// The registry says which server needs which; the values are yours: whoever else signs in on this
/// account neither uses nor sees them, and an agent has its own. They are kept in a file that is
/// sealed with a key from the keychain, and reach their server only: never its arguments, a log, a
/// record or the model.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    List(List),
    Remove(Remove),
    Set(Set),
    Test(Test),
}

/// List the credentials that the registry names: set or missing, age, rotation, last use
#[derive(Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Remove the credential of a server from this machine
#[derive(Debug, clap::Args)]
#[command(after_help = REMOVE_EXAMPLES)]
pub(crate) struct Remove {
    /// The server's key, or a credential's id
    #[arg(value_name = "SERVER")]
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Set the credential of a server: from a hidden prompt, or from standard input
#[derive(Debug, clap::Args)]
#[command(after_help = SET_EXAMPLES)]
pub(crate) struct Set {
    /// The server's key
    // not parsed by clap, whose error would repeat a secret that somebody put here
    server: String,
    /// Whatever else stands there may be a secret, and must not be repeated in an error
    #[arg(hide = true, allow_hyphen_values = true)]
    rest: Vec<std::ffi::OsString>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Start or reach the server with its credential, and say whether it answered
#[derive(Debug, clap::Args)]
#[command(after_help = TEST_EXAMPLES)]
pub(crate) struct Test {
    /// The server's key
    server: ServerKey,
    /// How long it may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    if let Command::Set(args) = command
        && !args.rest.is_empty()
    {
        let sentence = "a credential is never taken from the command line";
        return Err(Failure::new(Exit::Usage, sentence)
            .cause("other programs can read command lines, and shells keep them")
            .hint("if it was one, renew it; then run the command with the server alone and type it, or pipe it"));
    }
    // from here on there may be a secret in our memory
    let config = crate::settings()?;
    let snapshot = assemble(&config, SnapshotId(1), &crate::now());
    let here = Here {
        config: &config,
        registry: registry(&snapshot)?,
        owner: owner(&snapshot)?,
    };
    match command {
        Command::List(args) => here.list(args),
        Command::Remove(args) => here.remove(args),
        Command::Set(args) => here.set(args),
        Command::Test(args) => here.test(args),
    }
}

fn registry(snapshot: &Snapshot) -> Result<&Registry, Failure> {
    snapshot.registry().ok_or_else(|| {
        let why = snapshot.trouble().unwrap_or("there is no registry");
        Failure::new(Exit::Registry, why)
    })
}

/// Whose credentials are meant: those of the caller, as a session of this machine has it now.
fn owner(snapshot: &Snapshot) -> Result<Owner, Failure> {
    let caller = snapshot.caller().ok_or_else(|| {
        let why = snapshot.trouble().unwrap_or("nobody is signed in");
        Failure::new(
            Exit::NotSignedIn,
            "nobody is known whose credentials these would be",
        )
        .cause(text::visible(why))
        .hint("a credential belongs to whoever sets it: run `mcpshim login` first")
    })?;
    Ok(Owner {
        id: caller.owner(),
        name: who(snapshot),
    })
}

/// Who the caller is.
struct Owner {
    id: identity::Owner,
    /// As sentences name it.
    name: String,
}

/// A credential that a server needs which the caller may use, and that the caller has not set.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    server: ServerKey,
    credential: CredentialId,
}

impl Missing {
    /// All of them. By the names that the vault shows without its key: no keychain is asked, and
    /// none is made, for something that people are only told.
    pub(crate) fn of(config: &Config, snapshot: &Snapshot) -> Vec<Self> {
        let (Some(registry), Some(caller)) = (snapshot.registry(), snapshot.caller()) else {
            return Vec::new();
        };
        // one that cannot be read is told by whoever needs it
        let Ok(kept) = vault::glance(config) else {
            return Vec::new();
        };
        let kept = kept.unwrap_or_default();
        let now = crate::now();
        let wanting = registry
            .servers
            .values()
            .filter(|server| snapshot.uses(&server.key, &now))
            .filter_map(|server| Some((server, server.credential.as_ref()?)));
        let missing = wanting.filter(|(_, doc)| {
            // one without an owner gets one when the vault is opened the next time
            let own = ItemId::Credential(caller.owner(), doc.id.clone());
            !kept.contains(&own) && !kept.contains(&ItemId::Unowned(doc.id.clone()))
        });
        missing
            .map(|(server, doc)| Self {
                server: server.key.clone(),
                credential: doc.id.clone(),
            })
            .collect()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, credential) = (&self.server, &self.credential);
        write!(
            f,
            "{server} needs {credential}: run `mcpshim credential set {server}`"
        )
    }
}

/// What every command looks at.
struct Here<'h> {
    config: &'h Config,
    registry: &'h Registry,
    owner: Owner,
}

/// One credential, as `list` shows it.
#[derive(Debug, Serialize)]
struct Row {
    id: CredentialId,
    servers: Vec<ServerKey>,
    owner: Option<String>,
    set: bool,
    serial: Option<u64>,
    put: Option<String>,
    age_days: Option<u64>,
    rotate_days: Option<u32>,
    rotation_due: Option<String>,
    overdue: bool,
    last_used: Option<String>,
    obtain: Option<String>,
}

impl Here<'_> {
    fn open(&self) -> Result<Box<dyn Vault>, Failure> {
        let patience = Duration::from_millis(limits::KEYCHAIN_PERSON_MS);
        vault::open(self.config, &self.registry.org.secret_stores, patience)
            .map_err(|error| closed(&error))
    }

    /// Servers with a credential, in the order of their keys.
    fn declared(&self) -> impl Iterator<Item = (&ServerDoc, &CredentialDoc)> {
        let servers = self.registry.servers.values();
        servers.filter_map(|server| Some((&**server, server.credential.as_ref()?)))
    }

    /// The caller's credential of this name.
    fn own(&self, id: &CredentialId) -> ItemId {
        ItemId::Credential(self.owner.id, id.clone())
    }

    fn servers_of(&self, id: &CredentialId) -> Vec<ServerKey> {
        let same = self.declared().filter(|(_, doc)| doc.id == *id);
        same.map(|(server, _)| server.key.clone()).collect()
    }

    fn server(&self, key: &ServerKey) -> Result<(&ServerDoc, &CredentialDoc), Failure> {
        let listed = |what: &str, keys: Vec<&str>| match keys.is_empty() {
            true => format!("{what}: none"),
            false => format!("{what}: {}", keys.join(", ")),
        };
        let Some(server) = self.registry.servers.get(key) else {
            let keys = self.registry.servers.keys().map(ServerKey::as_str);
            let sentence = format!("the registry has no server {key}");
            return Err(Failure::new(Exit::Failed, sentence)
                .hint(listed("the servers are", keys.collect())));
        };
        server
            .credential
            .as_ref()
            .map(|doc| (&**server, doc))
            .ok_or_else(|| {
                let keys = self.declared().map(|(server, _)| server.key.as_str());
                let sentence = format!("server {key} needs no credential");
                Failure::new(Exit::Failed, sentence)
                    .cause("the registry declares none for it")
                    .hint(listed("servers that need one", keys.collect()))
            })
    }

    // ---- list

    fn list(&self, args: &List) -> Result<(), Failure> {
        // without a vault nothing is set: no keychain has to be asked for that
        let kept = match vault::exists(self.config) {
            true => self.open()?.list().map_err(|error| closed(&error))?,
            false => std::collections::BTreeMap::new(),
        };
        let now_s = crate::now().unix_s();
        let mut rows: Vec<Row> = Vec::new();
        for (server, doc) in self.declared() {
            match rows.iter_mut().find(|row| row.id == doc.id) {
                Some(row) => row.servers.push(server.key.clone()),
                None => {
                    let facts = kept.get(&self.own(&doc.id));
                    rows.push(Row::of(server, doc, facts, now_s));
                }
            }
        }
        for (item, facts) in &kept {
            if let ItemId::Credential(owner, id) = item
                && *owner == self.owner.id
                && rows.iter().all(|row| row.id != *id)
            {
                rows.push(Row::stray(id, facts, now_s));
            }
        }
        if args.json {
            return out::print_json(&rows);
        }
        // that there are some, and nothing else: names of others' are theirs
        let others = kept
            .keys()
            .any(|item| matches!(item, ItemId::Credential(owner, _) if *owner != self.owner.id));
        if others {
            out::note(&format!(
                "others have credentials here, too; {} neither uses nor sees them",
                self.owner.name
            ));
        }
        for item in kept.keys() {
            if let ItemId::Unowned(id) = item {
                out::warn(&format!(
                    "{id} was set before anybody was signed in, and no server is given it: set it \
                     again, or run `mcpshim credential remove {id}`"
                ));
            }
        }
        if rows.is_empty() {
            return out::print("no server of the registry needs a credential\n");
        }
        let head = [
            "CREDENTIAL",
            "SERVERS",
            "OWNER",
            "STATE",
            "AGE",
            "ROTATION",
            "LAST USED",
        ];
        let mut cells = vec![head.map(str::to_owned).to_vec()];
        cells.extend(rows.iter().map(Row::cells));
        out::print(&out::columns(&cells))?;
        for row in rows.iter().filter(|row| !row.set) {
            if let (Some(server), Some(obtain)) = (row.servers.first(), &row.obtain) {
                let obtain = text::visible(obtain);
                let (id, server) = (&row.id, server.as_str());
                out::warn(&format!(
                    "{id} is missing: get it at {obtain}, then run `mcpshim credential set {server}`"
                ));
            }
        }
        Ok(())
    }

    // ---- set

    fn set(&self, args: &Set) -> Result<(), Failure> {
        let key = ServerKey::parse(&args.server).map_err(|bad| {
            let sentence = format!("that is no server key: expected {}", bad.expected);
            Failure::new(Exit::Usage, sentence)
                .hint("`mcpshim credential list` shows the servers that need a credential")
        })?;
        let (server, doc) = self.server(&key)?;
        // the vault first: nobody should type a secret that cannot be kept
        let mut vault = self.open()?;
        let value = ask(server, doc)?;
        let id = self.own(&doc.id);
        let now_s = crate::now().unix_s();
        let mut serial = None;
        // somebody else may set it at the same time: the last one holds
        for _ in 0..8 {
            let kept = vault.list().map_err(|error| closed(&error))?;
            let seen = kept.get(&id).map_or(0, |facts| facts.serial);
            serial = vault
                .put(&id, seen, &value, now_s)
                .map_err(|error| closed(&error))?;
            if serial.is_some() {
                break;
            }
        }
        let serial = serial.ok_or_else(|| {
            Failure::new(Exit::Failed, format!("{} was not set", doc.id))
                .cause("others keep setting it at the same time")
                .hint("try again")
        })?;
        let servers = self.servers_of(&doc.id);
        if args.json {
            return out::print_json(&json!({
                "credential": doc.id, "servers": servers, "serial": serial,
                "store": vault.store().as_str(),
            }));
        }
        let (kept, key) = (kept_where(vault.store()), &server.key);
        out::print(&format!(
            "{} of {} is set for {}, {kept}\n\
             test it with `mcpshim credential test {key}`\n",
            doc.id,
            self.owner.name,
            joined(&servers),
        ))
    }

    // ---- test

    fn test(&self, args: &Test) -> Result<(), Failure> {
        let (server, doc) = self.server(&args.server)?;
        if self.registry.revocations.servers.contains(&server.key) {
            let sentence = format!("server {} is revoked", server.key);
            return Err(Failure::new(Exit::Denied, sentence)
                .hint(format!("ask {}", self.registry.org.help)));
        }
        let missing = || {
            let sentence = format!("{} is not set for {}", doc.id, self.owner.name);
            Failure::new(Exit::Failed, sentence)
                .hint(format!("run `mcpshim credential set {}`", server.key))
        };
        if !vault::exists(self.config) {
            return Err(missing());
        }
        let item = self
            .open()?
            .get(&self.own(&doc.id))
            .map_err(|error| closed(&error))?
            .ok_or_else(missing)?;
        let scrubber = Scrubber::new();
        scrubber.add(&item.value);
        let answer = survey(self.config, server, &item.value, args.timeout);
        let answer = answer.map_err(|reason| scrubber.scrub_str(&reason).into_owned());
        if args.json {
            out::print_json(&json!({
                "credential": doc.id, "server": server.key, "serial": item.facts.serial,
                "answered": answer.is_ok(), "tools": answer.as_ref().ok(),
                "reason": answer.as_ref().err(),
            }))?;
        }
        match answer {
            Ok(_) if args.json => Ok(()),
            Ok(tools) => out::print(&format!(
                "server {} answered with {} and showed {tools} tools\n\
                 (a server that looks at its credential only in a call shows then whether it is right)\n",
                server.key, doc.id
            )),
            Err(reason) if let Some(status) = refusal(&reason, &doc.id) => Err(Failure::new(
                Exit::Failed,
                format!(
                    "server {} answered {status}: the credential {} is wrong",
                    server.key, doc.id
                ),
            )
            .hint(format!(
                "get another at {}, then run `mcpshim credential set {}`",
                text::visible(&doc.obtain),
                server.key
            ))),
            Err(reason) => Err(Failure::new(
                Exit::Failed,
                format!("server {} did not answer", server.key),
            )
            .cause(text::visible(&reason))
            .hint(format!(
                "if it refuses {}, set it again with `mcpshim credential set {}`; else ask {}",
                doc.id, server.key, server.oncall
            ))),
        }
    }

    // ---- remove

    fn remove(&self, args: &Remove) -> Result<(), Failure> {
        let key = ServerKey::parse(&args.name).ok();
        let named = key.as_ref().and_then(|key| self.registry.servers.get(key));
        let id = match (named, CredentialId::parse(&args.name)) {
            (Some(server), _) => self.server(&server.key)?.1.id.clone(),
            (None, Ok(id)) => id,
            (None, Err(error)) => return Err(Failure::new(Exit::Usage, error.to_string())),
        };
        let not_set = || {
            Failure::new(
                Exit::Failed,
                format!("{id} is not set for {}", self.owner.name),
            )
            .hint("`mcpshim credential list` shows what is")
        };
        if !vault::exists(self.config) {
            return Err(not_set());
        }
        let mut vault = self.open()?;
        let own = [self.own(&id), ItemId::Unowned(id.clone())];
        for _ in 0..8 {
            let kept = vault.list().map_err(|error| closed(&error))?;
            let found = own.iter().find_map(|item| Some((item, kept.get(item)?)));
            let (item, facts) = found.ok_or_else(not_set)?;
            let removed = vault.remove(item, facts.serial);
            if removed.map_err(|error| closed(&error))? {
                let servers = self.servers_of(&id);
                if args.json {
                    return out::print_json(&json!({"credential": id, "servers": servers}));
                }
                return out::print(&format!(
                    "{id} is removed from this machine; take it back where it was made, too\n"
                ));
            }
        }
        Err(Failure::new(Exit::Failed, format!("{id} was not removed"))
            .cause("others keep setting it at the same time")
            .hint("try again"))
    }
}

impl Row {
    fn of(server: &ServerDoc, doc: &CredentialDoc, facts: Option<&Facts>, now_s: u64) -> Self {
        let due_s = facts
            .zip(doc.rotate_days)
            .map(|(facts, days)| facts.put_s + u64::from(days) * 86_400);
        Self {
            id: doc.id.clone(),
            servers: vec![server.key.clone()],
            owner: Some(server.owner.clone()),
            rotate_days: doc.rotate_days,
            rotation_due: due_s.map(|due| Utc(due).to_string()),
            overdue: due_s.is_some_and(|due| due <= now_s),
            obtain: Some(doc.obtain.clone()),
            ..Self::dated(&doc.id, facts, now_s)
        }
    }

    /// One that the registry does not name any more.
    fn stray(id: &CredentialId, facts: &Facts, now_s: u64) -> Self {
        Self::dated(id, Some(facts), now_s)
    }

    fn dated(id: &CredentialId, facts: Option<&Facts>, now_s: u64) -> Self {
        Self {
            id: id.clone(),
            servers: Vec::new(),
            owner: None,
            set: facts.is_some(),
            serial: facts.map(|facts| facts.serial),
            put: facts.map(|facts| Utc(facts.put_s).to_string()),
            age_days: facts.map(|facts| now_s.saturating_sub(facts.put_s) / 86_400),
            rotate_days: None,
            rotation_due: None,
            overdue: false,
            last_used: facts
                .and_then(|f| f.used_s)
                .map(|used| Utc(used).to_string()),
            obtain: None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let none = || "-".to_owned();
        let servers = match self.servers.is_empty() {
            true => "none any more".to_owned(),
            false => joined(&self.servers),
        };
        let rotation = match (&self.rotation_due, self.overdue) {
            (Some(due), true) => format!("overdue since {}", day(due)),
            (Some(due), false) => format!("by {}", day(due)),
            (None, _) => none(),
        };
        vec![
            self.id.to_string(),
            servers,
            self.owner
                .as_deref()
                .map_or_else(none, |owner| text::visible(owner).into_owned()),
            if self.set { "set" } else { "missing" }.to_owned(),
            self.age_days.map_or_else(none, |days| format!("{days} d")),
            rotation,
            self.last_used
                .as_deref()
                .map_or_else(none, |used| day(used).to_owned()),
        ]
    }
}

/// The date of an RFC 3339 time.
fn day(time: &str) -> &str {
    time.split('T').next().unwrap_or(time)
}

fn joined(servers: &[ServerKey]) -> String {
    let keys: Vec<&str> = servers.iter().map(ServerKey::as_str).collect();
    keys.join(", ")
}

fn closed(error: &vault::VaultError) -> Failure {
    Failure::from_error(Exit::Failed, error).hint(error.hint())
}

/// Where a credential lies, for whoever has just set it.
fn kept_where(store: StoreKind) -> &'static str {
    match store {
        StoreKind::Keychain => "kept encrypted in vault.sealed; its key lies in the keychain",
        StoreKind::KeyFile => {
            "kept encrypted in vault.sealed; its key lies in a file, because this machine has no \
             keychain"
        }
        StoreKind::SystemdCredential => {
            "kept encrypted in vault.sealed; its key is a systemd credential, because this machine \
             has no keychain"
        }
    }
}

/// Takes a value from a person or a pipe, and refuses what cannot be one.
fn ask(server: &ServerDoc, doc: &CredentialDoc) -> Result<Secret, Failure> {
    let unread = |error: io::Error| {
        Failure::from_error(Exit::Failed, &error).context("the credential cannot be read")
    };
    let text = if io::stdin().is_terminal() {
        let obtain = text::visible(&doc.obtain);
        out::note(&format!(
            "{} for {}; get it at {obtain}",
            doc.id, server.key
        ));
        let prompt = format!("{} (not shown): ", doc.id);
        Zeroizing::new(
            rpassword::prompt_password(prompt)
                .map_err(unread)?
                .into_bytes(),
        )
    } else {
        // room for one more than may come, so that the buffer never moves and leaves a copy
        let most = limits::SECRET_BYTES.1 + 3;
        let mut text = Zeroizing::new(Vec::with_capacity(most));
        let limit = u64::try_from(most).unwrap_or(u64::MAX);
        io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut text)
            .map_err(unread)?;
        text
    };
    let value = text.strip_suffix(b"\n").unwrap_or(&text);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    check(value, doc).map_err(|reason| {
        Failure::new(Exit::Failed, format!("{} is not set", doc.id))
            .cause(reason)
            .hint(format!("get it at {}", text::visible(&doc.obtain)))
    })?;
    Ok(Secret::new(value.to_vec()))
}

/// Why this cannot be the credential; nothing of it is in the reason.
fn check(value: &[u8], doc: &CredentialDoc) -> Result<(), String> {
    let (shortest, longest) = limits::SECRET_BYTES;
    let len = value.len();
    if len == 0 {
        return Err("nothing was given".to_owned());
    }
    if len > longest {
        return Err(format!("it has more than {longest} bytes"));
    }
    let text = std::str::from_utf8(value).map_err(|_bad| "it is not text".to_owned())?;
    if text.chars().any(char::is_control) {
        return Err("it has control characters, such as a line break".to_owned());
    }
    if text.trim() != text {
        return Err("it begins or ends with a space".to_owned());
    }
    if len < shortest {
        return Err(format!(
            "it has {len} bytes, expected at least {shortest}: a shorter one could not be told from \
             ordinary text and kept out of logs"
        ));
    }
    match doc.inject {
        Inject::Bearer | Inject::Header { .. } if !text.is_ascii() => {
            Err("it has characters that a header cannot hold".to_owned())
        }
        Inject::Bearer | Inject::Env { .. } | Inject::Header { .. } => Ok(()),
    }
}

/// The status with which a server says that this credential is not good for it, where it does.
fn refusal(reason: &str, credential: &CredentialId) -> Option<u16> {
    let named = format!("refuses the credential `{credential}` (");
    let (_, rest) = reason.split_once(&named)?;
    rest.get(..3)?.parse().ok()
}

/// Opens the server once; the number of its tools, or why there is no answer.
fn survey(
    config: &Config,
    server: &ServerDoc,
    secret: &Secret,
    timeout_s: u64,
) -> Result<usize, String> {
    use mcpshim::registry::doc::Transport;
    use mcpshim::upstream::{self, Environment, Means};

    let dialer = match &server.transport {
        Transport::Stdio { .. } => None,
        Transport::Http { ca_pem, .. } => {
            let dialer = mcpshim::fetch::dialer(&config.network, ca_pem.as_deref());
            Some(dialer.map_err(|error| format!("cannot be reached: {error}"))?)
        }
    };
    let environment = Environment::of(mcpshim::config::children(Some(config)));
    let means = Means {
        environment: &environment,
        dialer,
        secret: Some(secret),
    };
    let surveyed = upstream::survey(server, &means, Duration::from_secs(timeout_s));
    surveyed
        .map(|surveyed| surveyed.surface.tools.len())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(value: &[u8], inject: Inject) -> String {
        let doc = CredentialDoc {
            id: CredentialId::parse("token").unwrap(),
            inject,
            obtain: String::new(),
            rotate_days: None,
        };
        check(value, &doc)
            .err()
            .unwrap_or_else(|| "fine".to_owned())
    }

    #[test]
    fn a_server_that_refuses_its_credential_is_told_from_one_that_does_not_answer() {
        let id = CredentialId::parse("crm-token").unwrap();
        let refuses = "refuses the credential `crm-token` (401 Unauthorized); replace it";
        assert_eq!(refusal(refuses, &id), Some(401));
        for other in [
            "cannot be reached: connection refused",
            "refuses the credential `crm-token2` (401 Unauthorized)",
            "refuses the credential `crm-token` (",
            "wants a credential, and its entry names none (401 Unauthorized)",
        ] {
            assert_eq!(refusal(other, &id), None, "{other}");
        }
    }

    #[test]
    fn what_cannot_be_a_credential_is_refused() {
        let env = || Inject::Env {
            name: "TOKEN".to_owned(),
        };
        assert_eq!(verdict(b"ghp_0123456789", env()), "fine");
        assert_eq!(
            verdict("Schlüssel mit Leerzeichen".as_bytes(), env()),
            "fine"
        );
        assert_eq!(verdict(b"", env()), "nothing was given");
        assert!(verdict(b"short", env()).starts_with("it has 5 bytes"));
        assert!(verdict(b"two\nlines of it", env()).contains("line break"));
        assert!(verdict(b"nul\0in the middle", env()).contains("control"));
        assert_eq!(verdict(b"\xff\xfe12345678", env()), "it is not text");
        assert!(verdict(b" 012345678", env()).contains("space"));
        let long = vec![b'x'; limits::SECRET_BYTES.1 + 1];
        assert!(verdict(&long, env()).contains("more than"));
        let umlaut = "Schlüssel".as_bytes();
        assert!(verdict(umlaut, Inject::Bearer).contains("header"));
    }
}
