//! What the doctor knows: every fault with its fix, in the order in which one causes another.

use mcpshim::report::Exit;
use serde::Serialize;

/// What a part of the checks is about; also what a person may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topic {
    Settings,
    State,
    Registry,
    SignIn,
    Credentials,
    Servers,
    Record,
    Clients,
}

impl Topic {
    pub(crate) const ALL: [(&'static str, Self); 8] = [
        ("settings", Self::Settings),
        ("state", Self::State),
        ("registry", Self::Registry),
        ("sign-in", Self::SignIn),
        ("credentials", Self::Credentials),
        ("servers", Self::Servers),
        ("record", Self::Record),
        ("clients", Self::Clients),
    ];
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    /// Something does not work.
    Problem,
    /// Something will not work soon, or works otherwise than one would think.
    Warning,
    /// Good to know; it keeps nothing from working.
    Note,
}

/// The fix of what needs none.
pub(crate) const NOTHING: &str = "nothing has to be done";

/// One thing that can be wrong. The order of [`KNOWN`] is the order of causes.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) code: &'static str,
    pub(crate) topic: Topic,
    pub(crate) level: Level,
    /// What it means.
    pub(crate) meaning: &'static str,
    /// What to do, where the finding itself does not say it better.
    pub(crate) fix: &'static str,
    /// What explains it, when it is found too.
    pub(crate) follows: &'static [&'static str],
}

use Level::{Note, Problem, Warning};
use Topic::{Clients, Credentials, Record, Registry, Servers, Settings, SignIn, State};

const fn known(
    code: &'static str,
    topic: Topic,
    level: Level,
    meaning: &'static str,
    fix: &'static str,
    follows: &'static [&'static str],
) -> Known {
    Known {
        code,
        topic,
        level,
        meaning,
        fix,
        follows,
    }
}

const SOURCE: &[&str] = &[
    "clock-wrong",
    "registry-name",
    "registry-unreachable",
    "registry-tls",
    "registry-elsewhere",
    "registry-signature",
    "registry-older",
    "registry-expired",
    "registry-unusable",
];
const SECRETS: &[&str] = &[
    "keychain-absent",
    "keychain-unmade",
    "keychain-locked",
    "keychain-silent",
    "vault-unusable",
];
const VAULT: &[&str] = &["state-foreign", "disk-full", "state-not-writable"];

/// Every fault, causes before what follows from them.
#[rustfmt::skip] // a line for what it means, one for the fix, one for what explains it
pub(crate) const KNOWN: &[Known] = &[
    known("managed-untrusted", Settings, Problem,
        "The managed configuration could have been written by others than the administrator.",
        "give the file and every directory above it to root, writable by nobody else",
        &[]),
    known("managed-gone", Settings, Problem,
        "This machine was managed, and its managed configuration is gone.",
        "whoever manages the machine puts it back",
        &[]),
    known("not-configured", Settings, Problem,
        "No configuration says which organisation's registry to use.",
        "write the three lines your platform team gives you",
        &[]),
    known("settings-unreadable", Settings, Problem,
        "A key of the configuration cannot be read, or one that must be there is missing.",
        "correct the key; `mcpshim config` shows every key and where it comes from",
        &[]),
    known("state-foreign", State, Problem,
        "The state directory belongs to another user.",
        "give it back to its user, or name another one in `state_dir`",
        &[]),
    known("disk-full", State, Problem,
        "The file system of the state directory is full: nothing can be recorded, so nothing may be called.",
        "make room on it",
        &[]),
    known("state-not-writable", State, Problem,
        "Nothing can be written into the state directory.",
        "make it writable for its user",
        &[]),
    known("clock-wrong", Registry, Problem,
        "The clock of this machine is wrong: certificates, registry and sign-in seem expired or not valid yet.",
        "set the clock, best by network time",
        &[]),
    known("state-damaged", Registry, Problem,
        "The registry that was verified before is damaged on the disk.",
        "run `mcpshim registry refresh` to fetch and verify it again",
        &["disk-full"]),
    known("registry-name", Registry, Problem,
        "The name of the registry's host cannot be resolved.",
        "check the network and `registry_url`",
        &[]),
    known("registry-tls", Registry, Problem,
        "The certificate of the registry's host is not trusted.",
        "name the CA of your organisation's proxy or host in `ca_file`, or correct the host's certificate",
        &["clock-wrong"]),
    known("registry-unreachable", Registry, Problem,
        "Nothing answers where the registry should be.",
        "check the network, the proxy and `registry_url`",
        &[]),
    known("registry-elsewhere", Registry, Problem,
        "Something answers where the registry should be, but no registry is there.",
        "name the directory above `metadata/` in `registry_url`",
        &[]),
    known("registry-signature", Registry, Problem,
        "The registry is signed by a key this machine does not trust, or by too few.",
        "compare `root` and `registry_url` with what your security team gave you; if they are right, tell them",
        &[]),
    known("registry-older", Registry, Problem,
        "The registry is older than one this machine has seen, or than its configuration accepts.",
        "tell your security team",
        &[]),
    known("registry-expired", Registry, Problem,
        "The published registry has expired: its owners do not renew it.",
        "tell the owners of the registry that `mcpshim-admin refresh` does not run",
        &["clock-wrong"]),
    known("registry-unusable", Registry, Problem,
        "The registry cannot be used as it is published.",
        "tell the owners of the registry",
        &["clock-wrong"]),
    known("registry-missing", Registry, Problem,
        "No registry was ever verified on this machine.",
        "run `mcpshim registry refresh`",
        &["clock-wrong", "state-foreign", "disk-full", "state-not-writable", "registry-name", "registry-unreachable", "registry-tls", "registry-elsewhere", "registry-signature", "registry-older", "registry-expired", "registry-unusable"]),
    known("registry-lapsed", Registry, Problem,
        "The registry on this machine has expired and its grace is over: nothing may be called.",
        "run `mcpshim registry refresh`",
        SOURCE),
    known("registry-grace", Registry, Problem,
        "The registry on this machine has expired: within its grace only reading is allowed.",
        "run `mcpshim registry refresh`",
        SOURCE),
    known("keychain-absent", Credentials, Problem,
        "There is no keychain here, and the registry allows no other store.",
        "start a keychain, or ask for `secret_stores` in the registry",
        VAULT),
    known("keychain-unmade", Credentials, Problem,
        "A keychain runs here, but none was made in it yet, and the registry allows no other store.",
        "sign in to the desktop once, or ask for `secret_stores` in the registry",
        VAULT),
    known("keychain-locked", Credentials, Problem,
        "The keychain is locked.",
        "unlock it",
        VAULT),
    known("keychain-silent", Credentials, Problem,
        "The keychain does not answer.",
        "answer or restart it",
        VAULT),
    known("vault-unusable", Credentials, Problem,
        "The vault cannot be opened.",
        "do what the details say",
        VAULT),
    known("agent-key-missing", SignIn, Problem,
        "The agent this machine runs as has no key.",
        "put the key there with mode 0600",
        &[]),
    known("agent-key-open", SignIn, Problem,
        "Others than its user may read the agent's key.",
        "take the key as known to others and renew it; then make the file yours alone",
        &["state-foreign"]),
    known("agent-key-wrong", SignIn, Problem,
        "The agent's key is not the one the registry names.",
        "use the right key file, or ask for a new one",
        &[]),
    known("agent-refused", SignIn, Problem,
        "The registry does not know the agent, revoked it, or its time is over.",
        "ask the agent's owner",
        &[]),
    known("not-signed-in", SignIn, Problem,
        "Nobody is signed in.",
        "run `mcpshim login`",
        SECRETS),
    known("sign-in-open", SignIn, Problem,
        "Others than its user may read the sign-in.",
        "run `mcpshim login`",
        &["state-foreign"]),
    known("sign-in-ended", SignIn, Problem,
        "The sign-in has ended.",
        "run `mcpshim login`",
        &["clock-wrong", "keychain-absent", "keychain-unmade", "keychain-locked", "keychain-silent", "vault-unusable"]),
    known("groups-cut", SignIn, Problem,
        "The identity provider left groups out of the sign-in, so roles cannot be known.",
        "ask your identity team to limit the claim to the groups that mcpshim uses",
        &[]),
    known("sign-in-refused", SignIn, Problem,
        "The sign-in is not one that the registry accepts.",
        "run `mcpshim login`",
        &["clock-wrong"]),
    known("no-role", SignIn, Problem,
        "The caller has no role, so no tool is allowed.",
        "ask for a role",
        &[]),
    known("sign-in-ending", SignIn, Warning,
        "The sign-in ends soon and was not renewed.",
        "run `mcpshim login`",
        &["clock-wrong", "keychain-absent", "keychain-unmade", "keychain-locked", "keychain-silent", "vault-unusable"]),
    known("credential-missing", Credentials, Problem,
        "A server that may be used has no credential here.",
        "run `mcpshim credential set SERVER`",
        &["keychain-absent", "keychain-unmade", "keychain-locked", "keychain-silent", "vault-unusable"]),
    known("credential-overdue", Credentials, Warning,
        "A credential is older than the registry wants.",
        "get a new one, and run `mcpshim credential set SERVER`",
        &[]),
    known("server-revoked", Servers, Problem,
        "The registry has revoked the server that was asked about: every call to it is refused.",
        "ask its owner",
        &[]),
    known("server-not-granted", Servers, Problem,
        "Nothing of the server that was asked about is granted to the caller.",
        "ask for a role that has it",
        &["no-role", "not-signed-in", "sign-in-open", "sign-in-ended", "sign-in-refused", "groups-cut", "agent-key-missing", "agent-key-open", "agent-key-wrong", "agent-refused"]),
    known("program-missing", Servers, Problem,
        "The program of a server is not installed, or not on the PATH.",
        "install it",
        &[]),
    known("server-ends", Servers, Problem,
        "A server ends as soon as it is started.",
        "do what its last words say, or ask its owner",
        &["program-missing", "credential-missing"]),
    known("server-refuses", Servers, Problem,
        "A server does not accept its credential.",
        "get a new one, and run `mcpshim credential set SERVER`",
        &["credential-missing", "clock-wrong"]),
    known("server-blocked", Servers, Problem,
        "Access to a server is blocked by it or by something in between, or it wants a credential and the registry names none.",
        "ask its owner whether it wants a credential, or blocks this machine",
        &["clock-wrong"]),
    known("server-tls", Servers, Problem,
        "The certificate of a server is not trusted.",
        "ask its owner for the CA, to be named in the registry",
        &["clock-wrong"]),
    known("server-unreachable", Servers, Problem,
        "Nothing answers where a server should be.",
        "check the network; if others reach it, ask its owner",
        &[]),
    known("server-added", Servers, Note,
        "A server has more than was reviewed; nobody is offered it.",
        "ask its owner to have it reviewed and pinned again",
        &[]),
    known("server-drifted", Servers, Problem,
        "Something of a server is not what was reviewed: calls of it are refused, in `pin: strict` all calls to the server.",
        "ask its owner to have it reviewed and pinned again",
        &[]),
    known("server-fails", Servers, Problem,
        "A server cannot be used.",
        "do what the details say, or ask its owner",
        &["program-missing", "credential-missing", "server-ends", "server-refuses", "server-blocked", "server-tls", "server-unreachable", "server-drifted", "keychain-absent", "keychain-unmade", "keychain-locked", "keychain-silent", "vault-unusable"]),
    known("record-damaged", Record, Problem,
        "Records that wait on this machine were changed or are missing.",
        "keep the directory as it is and tell your security team",
        &[]),
    known("collector-tls", Record, Problem,
        "The certificate of the collector is not trusted.",
        "ask the owners of the registry to name its CA",
        &["clock-wrong"]),
    known("collector-unreachable", Record, Problem,
        "The collector does not answer; records wait on this machine.",
        "check the network; nothing is lost meanwhile",
        &[]),
    known("installation-revoked", Record, Problem,
        "The collector treats this machine as revoked.",
        "ask your security team",
        &["agent-refused"]),
    known("not-enrolled", Record, Warning,
        "The collector does not know whose installation this is.",
        "run `mcpshim login`, then `mcpshim audit flush`",
        &["not-signed-in", "sign-in-ended", "sign-in-refused", "groups-cut", "agent-key-missing", "agent-key-open", "agent-key-wrong", "agent-refused", "collector-unreachable", "collector-tls"]),
    known("record-held", Record, Problem,
        "The collector does not take what is recorded here; the records wait on this machine.",
        "run `mcpshim audit flush`; if it says the same, tell the owners of the collector",
        &["collector-unreachable", "collector-tls", "installation-revoked", "not-signed-in", "sign-in-ended", "record-damaged", "clock-wrong"]),
    known("backlog-old", Record, Warning,
        "Records have waited on this machine for more than a day.",
        "run `mcpshim audit flush`",
        &["record-held", "collector-unreachable", "collector-tls", "clock-wrong"]),
    known("client-malformed", Clients, Problem,
        "The settings of a client cannot be read.",
        "correct the line",
        &[]),
    known("client-blocked", Clients, Problem,
        "Managed settings keep a client from starting mcpshim.",
        "tell whoever manages this machine",
        &[]),
    known("client-wrong", Clients, Problem,
        "A client's entry for mcpshim does not start this program as it should.",
        "run `mcpshim client install CLIENT`",
        &[]),
    known("client-missing", Clients, Warning,
        "Clients are here, and none of them starts mcpshim.",
        "run `mcpshim client install --all`",
        &["client-blocked", "client-malformed", "client-wrong"]),
    known("two-versions", Clients, Warning,
        "A client still runs another version of mcpshim.",
        "restart the client",
        &[]),
    known("session-behind", Clients, Warning,
        "A running session still decides by an older registry than this machine has.",
        "restart the client",
        &["two-versions"]),
    known("bypass", Clients, Warning,
        "A client starts a server directly that the registry governs: its calls are neither decided nor recorded.",
        "remove the entry, and use the server through mcpshim",
        &[]),
    known("machine-id-missing", Settings, Warning,
        "The system has no machine id; one was made up for this user.",
        "run `systemd-machine-id-setup` as root",
        &[]),
    known("no-answer", State, Warning,
        "A check did not end in time.",
        "look at what it waits for: a file system or a program that hangs",
        &["keychain-silent"]),
    known("setting-ignored", Settings, Note,
        "Something in the configuration is not used.",
        "`mcpshim config` shows what holds",
        &[]),
    known("registry-note", Registry, Note,
        "Something that the owners of the registry should know.",
        "tell the owners of the registry",
        &[]),
    known("proxy-not-used", Settings, Note,
        "The environment names a proxy; mcpshim uses only the one in its configuration.",
        "if the network needs it, set `proxy` in the configuration",
        &[]),
    known("another-store", Credentials, Note,
        "The vault's key is not in a keychain, as the registry allows.",
        "nothing has to be done",
        &[]),
    known("client-other", Clients, Note,
        "A client that is here does not start mcpshim.",
        "run `mcpshim client install CLIENT`",
        &[]),
    known("needs-task", Servers, Note,
        "A tool can only be called as a task of MCP 2025-11-25, which is not carried: every call of it is refused.",
        "ask the server's owner for a version that answers directly",
        &[]),
    known("other-name", Servers, Note,
        "URIs or templates of a server are also those of a server before it: they are shown under other names.",
        "nothing has to be done",
        &[]),
    known("quarantined", Servers, Note,
        "Tools, prompts or resources of a server are not offered: clients would choke on them, or they hide text. Of servers that are not pinned, running sessions tell.",
        "ask the server's owner",
        &[]),
    known("unfit", Servers, Note,
        "A tool is not offered to clients whose model API refuses its schema, and with it the whole conversation; others have it.",
        "ask the server's owner",
        &[]),
    known("repeats-stopped", Servers, Note,
        "A client made the same call too often, and further ones were stopped.",
        "nothing has to be done",
        &[]),
    known("unconfirmed", Servers, Note,
        "A client listens to resources or tasks of a server that has not confirmed it: what changes meanwhile is told once it has.",
        "nothing has to be done",
        &[]),
];

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) code: &'static str,
    pub(crate) topic: Topic,
    pub(crate) level: Level,
    /// The server or client it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) sentence: String,
    /// What such a finding means.
    pub(crate) meaning: &'static str,
    pub(crate) fix: String,
    pub(crate) details: Vec<String>,
    /// The finding it follows from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) follows: Option<&'static str>,
    #[serde(skip)]
    pub(crate) exit: Exit,
}

/// A finding with the meaning and the fix of the table. An unknown code is a mistake of ours that
/// the tests find; it still says what was seen.
pub(crate) fn found(code: &'static str, sentence: impl Into<String>) -> Finding {
    let known = KNOWN.iter().find(|known| known.code == code);
    let topic = known.map_or(State, |known| known.topic);
    Finding {
        code,
        topic,
        level: known.map_or(Problem, |known| known.level),
        subject: None,
        sentence: sentence.into(),
        meaning: known.map_or("", |known| known.meaning),
        fix: known.map_or("", |known| known.fix).to_owned(),
        details: Vec::new(),
        follows: None,
        exit: exit(code),
    }
}

/// What a finding means for whoever only reads the exit code. Being about the registry or the
/// sign-in is not enough: there must be no usable registry, or nobody who is recognised.
fn exit(code: &str) -> Exit {
    match code {
        "managed-untrusted"
        | "managed-gone"
        | "not-configured"
        | "settings-unreadable"
        | "state-damaged"
        | "registry-missing"
        | "registry-lapsed" => Exit::Registry,
        "agent-key-missing" | "agent-key-open" | "agent-key-wrong" | "agent-refused"
        | "not-signed-in" | "sign-in-open" | "sign-in-ended" | "sign-in-refused" | "groups-cut" => {
            Exit::NotSignedIn
        }
        _ => Exit::Failed,
    }
}

impl Finding {
    pub(crate) fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    pub(crate) fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }
}

fn place(code: &str) -> usize {
    let known = KNOWN.iter().position(|known| known.code == code);
    known.unwrap_or(usize::MAX)
}

/// Puts causes first, and says of the rest what it follows from.
pub(crate) fn order(findings: &mut Vec<Finding>) {
    findings.sort_by_key(|finding| (finding.level, place(finding.code)));
    let seen: Vec<(&'static str, Option<String>)> = findings
        .iter()
        .filter(|finding| finding.level != Note)
        .map(|finding| (finding.code, finding.subject.clone()))
        .collect();
    for finding in findings.iter_mut() {
        let causes = KNOWN.iter().find(|known| known.code == finding.code);
        let causes = causes.map_or(&[][..], |known| known.follows);
        finding.follows = causes.iter().copied().find(|cause| {
            seen.iter().any(|(code, subject)| {
                code == cause
                    // what is wrong with one server explains nothing of another
                    && (subject.is_none() || *subject == finding.subject)
            })
        });
    }
    findings.sort_by_key(|finding| (finding.level, finding.follows.is_some()));
    findings
        .dedup_by(|a, b| (a.code, &a.subject, &a.sentence) == (b.code, &b.subject, &b.sentence));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_come_before_what_follows_from_them() {
        for (at, known) in KNOWN.iter().enumerate() {
            assert!(
                !known.fix.is_empty() && known.meaning.ends_with('.'),
                "{}",
                known.code
            );
            for cause in known.follows {
                assert_ne!(*cause, known.code);
                assert!(
                    place(cause) < usize::MAX,
                    "{} follows from {cause}",
                    known.code
                );
                let before = place(cause) < at;
                let graver = KNOWN[place(cause)].level <= known.level;
                assert!(
                    before && graver || known.code == "sign-in-ending",
                    "{}",
                    known.code
                );
            }
        }
        let mut codes: Vec<&str> = KNOWN.iter().map(|known| known.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KNOWN.len());
    }

    #[test]
    fn one_cause_goes_first_and_takes_its_own_along() {
        let mut findings = vec![
            found("proxy-not-used", "p"),
            found("server-fails", "a fails").about("a"),
            found("server-fails", "b fails").about("b"),
            found("sign-in-ended", "s"),
            found("program-missing", "no a").about("a"),
            found("registry-grace", "g"),
            found("clock-wrong", "c"),
        ];
        order(&mut findings);
        let said: Vec<_> = findings.iter().map(|f| (f.code, f.follows)).collect();
        assert_eq!(
            said,
            [
                ("clock-wrong", None),
                ("program-missing", None),
                ("server-fails", None),
                ("registry-grace", Some("clock-wrong")),
                ("sign-in-ended", Some("clock-wrong")),
                ("server-fails", Some("program-missing")),
                ("proxy-not-used", None),
            ]
        );
    }

    /// The commands that a fix names, with a server and a client put in.
    fn commands(fix: &str) -> Vec<Vec<String>> {
        let quoted = fix.split('`').skip(1).step_by(2);
        let ours = quoted.filter(|text| text.starts_with("mcpshim "));
        ours.map(|text| {
            let text = text.replace("SERVER", "up").replace("CLIENT", "codex");
            text.split(' ').map(str::to_owned).collect()
        })
        .collect()
    }

    #[test]
    fn every_command_of_a_fix_is_one_of_ours() {
        use clap::Parser as _;
        let mut seen = 0;
        for known in KNOWN {
            for words in commands(known.fix) {
                seen += 1;
                let parsed = crate::Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{}: {words:?}", known.code);
            }
        }
        assert!(seen > 12, "{seen}");
        assert!(crate::Cli::try_parse_from(["mcpshim", "credential", "set"]).is_err());
    }

    #[test]
    fn the_exit_code_is_what_the_page_says() {
        for (code, exit) in [
            ("clock-wrong", Exit::Failed),
            ("no-role", Exit::Failed),
            ("registry-grace", Exit::Failed),
            ("registry-lapsed", Exit::Registry),
            ("not-signed-in", Exit::NotSignedIn),
        ] {
            assert_eq!(found(code, "x").exit, exit, "{code}");
        }
    }

    /// `docs/doctor.md` has exactly the rows that the table gives.
    #[test]
    fn the_page_and_the_table_are_the_same() {
        let rows: String = KNOWN
            .iter()
            .map(|known| {
                let level = match known.level {
                    Problem => "problem",
                    Warning => "warning",
                    Note => "note",
                };
                format!(
                    "| `{}` | {level} | {} | {} |\n",
                    known.code, known.meaning, known.fix
                )
            })
            .collect();
        let page = include_str!("../../../../docs/doctor.md");
        let start = page.find("|---|---|---|---|\n").unwrap() + "|---|---|---|---|\n".len();
        let there: String = page[start..]
            .lines()
            .take_while(|line| line.starts_with('|'))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(there, rows, "the rows should be:\n{rows}");
    }
}
