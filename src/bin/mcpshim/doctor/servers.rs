//! Can servers be started or reached, and are they what was reviewed?
//!
//! Without being asked nothing is started: the programs are looked for, and running sessions tell
//! what they met. A server that is asked about is opened as a session would open it.

use std::collections::BTreeMap;
use std::time::Duration;

use mcpshim::catalog::{alias::alias, needs_task};
use mcpshim::ids::ServerKey;
use mcpshim::policy::{self, Snapshot, SnapshotId};
use mcpshim::registry::doc::{Registry, ServerDoc, Transport};
use mcpshim::serve::assemble::assemble;
use mcpshim::serve::run_file;

use super::finding::{Finding, found};
use super::{Context, credentials};

/// How long a server may take to show itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The servers that this caller may use something of. Of nobody nothing is known: then all of
/// them count. One that is not pinned counts as soon as a role names it: what it has is known
/// when it runs.
pub(super) fn usable(context: &Context) -> Vec<&ServerDoc> {
    let Some(loaded) = &context.loaded else {
        return Vec::new();
    };
    let registry = &loaded.registry;
    let snapshot = assemble(&context.config, SnapshotId(1), &context.now);
    let servers = registry.servers.values().map(AsRef::as_ref);
    servers
        .filter(|server| {
            !registry.revocations.servers.contains(&server.key)
                && (snapshot.caller().is_none() || granted(&snapshot, registry, &server.key))
        })
        .collect()
}

/// Whether any role of the caller names a server.
fn granted(snapshot: &Snapshot, registry: &Registry, key: &ServerKey) -> bool {
    let grants = &registry.policy.grants;
    let mut roles = snapshot.roles().iter();
    roles.any(|role| {
        grants
            .get(role)
            .is_some_and(|servers| servers.contains_key(key))
    })
}

/// Why a server that was asked about is not opened.
pub(super) fn closed(context: &Context, key: &ServerKey) -> Option<Finding> {
    let registry = &context.loaded.as_ref()?.registry;
    let server = registry.servers.get(key)?;
    if registry.revocations.servers.contains(key) {
        return Some(
            found(
                "server-revoked",
                format!("{key} is revoked, and was not opened"),
            )
            .about(key.as_str())
            .fix(format!("ask {} ({})", server.owner, server.oncall)),
        );
    }
    let snapshot = assemble(&context.config, SnapshotId(1), &context.now);
    // who calls is not known, and that is said: nothing is started for nobody
    let who = match snapshot.caller() {
        Some(_) if granted(&snapshot, registry, key) => return None,
        Some(_) => policy::who(&snapshot),
        None => "anybody while nobody is recognised here".to_owned(),
    };
    let mut roles = registry.policy.grants.iter();
    let role = roles.find(|(_, servers)| servers.contains_key(key));
    let role = role.and_then(|(role, _)| Some((role, registry.policy.roles.get(role)?)));
    let fix = match role {
        Some((role, doc)) => format!("ask {} for the role {role}", doc.ask),
        None => format!("ask {}: no role has it", server.owner),
    };
    Some(
        found(
            "server-not-granted",
            format!("nothing of {key} is granted to {who}, and it was not opened"),
        )
        .about(key.as_str())
        .fix(fix),
    )
}

/// What to say of a key that the registry does not have.
pub(crate) fn near(asked: &ServerKey, known: &[&str]) -> String {
    match mcpshim::config::near(asked.as_str(), known.iter().copied()) {
        Some(near) => format!("did you mean {near}? the servers are {}", known.join(", ")),
        None => format!("the servers are {}", known.join(", ")),
    }
}

/// What can be seen without starting anything.
pub(super) fn check(context: &Context) -> Vec<Finding> {
    let servers = usable(context);
    let mut findings: Vec<Finding> = servers
        .iter()
        .filter(|server| !context.asked(server.key.as_str()))
        .filter_map(|server| program(server, context))
        .collect();
    for server in &servers {
        let surface = server.surface.as_ref();
        let tools = surface.into_iter().flat_map(|surface| {
            let tools = surface.tools.iter();
            tools.filter(|tool| needs_task(surface, tool))
        });
        for tool in tools {
            let sentence = format!(
                "{}/{} is refused: it only runs as a task",
                server.key, tool.name
            );
            let fix = format!("ask {} for a version that answers directly", server.owner);
            findings.push(
                found("needs-task", sentence)
                    .about(server.key.as_str())
                    .fix(fix),
            );
        }
        let unfit = surface.into_iter().flat_map(|surface| &surface.unfit);
        for (tool, reason) in unfit {
            let sentence = format!(
                "{}/{tool} is not offered to Claude Code and Claude Desktop: {reason}",
                server.key
            );
            findings.push(found("unfit", sentence).about(server.key.as_str()));
        }
        let quarantined = server.surface.as_ref().map(|surface| &surface.quarantined);
        for (tool, reason) in quarantined.into_iter().flatten() {
            findings.push(
                found(
                    "quarantined",
                    format!("{}/{tool} is not offered: {reason}", server.key),
                )
                .about(server.key.as_str()),
            );
        }
    }
    findings.extend(other_names(context));
    for session in run_file::running(&context.config.state_dir) {
        let stopped = session.session.repeats_stopped;
        if stopped > 0 {
            let pid = session.pid;
            let sentence = format!(
                "{stopped} calls of the session of process {pid} were stopped: the same one, too often"
            );
            findings.push(found("repeats-stopped", sentence));
        }
        for seen in session.session.servers {
            for (name, reason) in &seen.quarantined {
                let sentence = format!("{}/{name} is not offered: {reason}", seen.key);
                findings.push(found("quarantined", sentence).about(seen.key.as_str()));
            }
            if seen.unconfirmed > 0 {
                let sentence = format!(
                    "{} has not confirmed {} of what a client listens to",
                    seen.key, seen.unconfirmed
                );
                let detail = format!("met by the session of process {}", session.pid);
                let finding = found("unconfirmed", sentence).about(seen.key.as_str());
                findings.push(finding.detail(detail));
            }
            // what was opened now is told from now
            if context.asked(&seen.key) {
                continue;
            }
            let (pid, key) = (session.pid, &seen.key);
            let server = servers.iter().find(|server| server.key.as_str() == key);
            if !seen.differing.is_empty() {
                let mut finding = found("server-drifted", things(key, seen.differing.len()))
                    .about(key.as_str())
                    .detail(format!("met by the session of process {pid}"));
                let shown = seen.differing.values().take(DIFFERENCES_SHOWN).cloned();
                finding.details.extend(shown);
                findings.push(match server {
                    Some(server) => finding.fix(drifted(server)),
                    None => finding,
                });
            }
            let Some(trouble) = seen.trouble else {
                continue;
            };
            let credential = server.is_none_or(|server| server.credential.is_some());
            let finding = failed(key, &trouble, credential);
            let fix = match (finding.code, server) {
                ("server-drifted", Some(server)) => drifted(server),
                // the caller lost it, or the registry has it no more: nothing can be opened
                (_, None) => {
                    "restart the client; it uses a server that is not yours any more".to_owned()
                }
                (_, Some(_)) => {
                    format!("run `mcpshim doctor {key}`, which opens it and tells more")
                }
            };
            let mut finding = finding
                .fix(fix)
                .detail(format!("met by the session of process {pid}"));
            if seen.failures > 1 {
                finding = finding.detail(format!("failed {} times in a row", seen.failures));
            }
            let now_s = context.now.unix_s();
            let left_s = seen.retry_at.and_then(|at| at.checked_sub(now_s));
            if let Some(left_s) = left_s.filter(|left_s| *left_s > 0) {
                finding = finding.detail(format!("calls to it are refused for {left_s} s more"));
            }
            findings.push(finding);
        }
    }
    findings
}

/// URIs and templates that the caller sees under another name: one finding for each server.
fn other_names(context: &Context) -> Vec<Finding> {
    if context.loaded.is_none() {
        return Vec::new();
    }
    let snapshot = assemble(&context.config, SnapshotId(1), &context.now);
    let mut by_server: BTreeMap<&ServerKey, Vec<&str>> = BTreeMap::new();
    for (key, uri) in snapshot.catalog().shown() {
        by_server.entry(key).or_default().push(uri);
    }
    let one = |(key, uris): (&ServerKey, Vec<&str>)| {
        let shown: Vec<String> = uris
            .iter()
            .map(|uri| format!("{uri} is shown as {}", alias(key, uri)))
            .collect();
        let first = shown.first().cloned().unwrap_or_default();
        let sentence = match shown.len() {
            0 | 1 => format!("of {key}, {first}"),
            many => format!("{many} URIs of {key} are shown under other names: {first}, and so on"),
        };
        let mut finding = found("other-name", sentence).about(key.as_str());
        finding.details = shown;
        finding
    };
    by_server.into_iter().map(one).collect()
}

/// How many of the differences that a session met are told: `mcpshim doctor SERVER` tells more.
const DIFFERENCES_SHOWN: usize = 3;

/// How much of a server is refused since it is not what was reviewed.
fn things(key: &str, count: usize) -> String {
    match count {
        1 => format!("one thing of {key} is not what was reviewed"),
        count => format!("{count} things of {key} are not what was reviewed"),
    }
}

/// What to do about a server that is not what was reviewed.
fn drifted(server: &ServerDoc) -> String {
    let (owner, oncall) = (&server.owner, &server.oncall);
    format!(
        "{} to have it reviewed and pinned again",
        ask(owner, oncall)
    )
}

/// Whom to ask about a server.
fn ask(owner: &str, oncall: &str) -> String {
    match owner == oncall {
        true => format!("ask {owner}"),
        false => format!("ask {owner} ({oncall})"),
    }
}

fn program(server: &ServerDoc, context: &Context) -> Option<Finding> {
    let Transport::Stdio {
        command, package, ..
    } = &server.transport
    else {
        return None;
    };
    let key = &server.key;
    let path = std::path::Path::new(command);
    let sentence = if path.is_absolute() {
        if path.is_file() {
            return None;
        }
        format!("{command} does not exist (needed by {key})")
    } else {
        let mut known = context.path.iter();
        let ends: &[&str] = if cfg!(windows) {
            &["", ".exe", ".cmd", ".bat"]
        } else {
            &[""]
        };
        if known.any(|dir| {
            ends.iter()
                .any(|end| dir.join(format!("{command}{end}")).is_file())
        }) {
            return None;
        }
        format!("{command} is not on the PATH (needed by {key})")
    };
    let finding = found("program-missing", sentence).about(key.as_str());
    let finding = match package {
        Some(package) => finding.detail(format!("it then runs {package}")),
        None => finding,
    };
    if command.contains('$') {
        return Some(finding.fix(format!(
            "ask {} to correct `command`: nothing is put in for variables there",
            server.owner
        )));
    }
    Some(finding.fix(format!(
        "install {command}; if you cannot, ask {}",
        server.owner
    )))
}

/// Opens one server as a session would, and compares it with what was reviewed.
pub(super) fn open(context: &Context, server: &ServerDoc) -> Vec<Finding> {
    use mcpshim::serve::assemble::caller;
    use mcpshim::upstream::{Environment, Means, survey};
    use mcpshim::vault::{self, ItemId};
    use mcpshim::{config, fetch, pin};

    let Some(loaded) = &context.loaded else {
        return Vec::new();
    };
    let key = server.key.as_str();
    if let Some(missing) = program(server, context) {
        return vec![missing];
    }
    let allowed = &loaded.registry.org.secret_stores;
    let secret = server.credential.as_ref().and_then(|credential| {
        // why there is none, or no vault, is said by whoever looks at credentials
        let there = vault::exists(&context.config);
        let vault = there.then(|| vault::open(&context.config, allowed, PATIENCE / 6));
        let caller = caller(&context.config, &loaded.registry, &context.now).ok()?;
        let own = ItemId::Credential(caller.owner(), credential.id.clone());
        let item = vault?.ok()?.get(&own);
        Some(item.ok()??.value)
    });
    if server.credential.is_some() && secret.is_none() {
        return credentials::missing(context, server);
    }
    let dialer = match &server.transport {
        Transport::Stdio { .. } => None,
        Transport::Http { ca_pem, .. } => {
            match fetch::dialer(&context.config.network, ca_pem.as_deref()) {
                Ok(dialer) => Some(dialer),
                Err(error) => {
                    let failed = failed(key, &error.to_string(), server.credential.is_some());
                    return vec![failed.fix("correct `ca_file` or the CA of the server's entry")];
                }
            }
        }
    };
    let environment = Environment::of(config::children(Some(&context.config)));
    let means = Means {
        environment: &environment,
        dialer,
        secret: secret.as_ref(),
    };
    let ask = ask(&server.owner, &server.oncall);
    match survey(server, &means, PATIENCE) {
        Err(error) => {
            let mut scrubbed = error.to_string();
            if let Some(secret) = &secret {
                let scrubber = mcpshim::secret::Scrubber::new();
                scrubber.add(secret);
                scrubbed = scrubber.scrub_str(&scrubbed).into_owned();
            }
            let finding = failed(key, &scrubbed, server.credential.is_some());
            let variable = match &server.transport {
                Transport::Http { url, .. } => url.contains("${"),
                Transport::Stdio { .. } => false,
            };
            let fix = match finding.code {
                _ if variable => {
                    format!("{ask} to correct `url`: nothing is put in for variables there")
                }
                "server-refuses" => {
                    format!("get a new credential and run `mcpshim credential set {key}`; or {ask}")
                }
                "server-blocked" if server.credential.is_some() => {
                    format!(
                        "{ask} whether this machine is blocked, before you replace the credential"
                    )
                }
                "server-blocked" => format!(
                    "{ask}: no credential is named for it, so it wants one, or something between \
                     here and it refuses"
                ),
                "server-ends" => format!("do what its last words say, or {ask}"),
                "server-tls" => format!("{ask} for the CA, to be named in the registry"),
                _ => format!("check the network; if others reach it, {ask}"),
            };
            vec![finding.fix(fix)]
        }
        Ok(surveyed) => {
            let live = surveyed.surface;
            let Some(pinned) = &server.surface else {
                return Vec::new();
            };
            let remote = matches!(&server.transport, Transport::Http { .. });
            let fix = drifted(server);
            match pin::compare(pinned, &live, server.pin, pin::Shown::All, remote) {
                Ok(compared) => {
                    let calls = compared.changed.len();
                    let more = compared.differences.len().saturating_sub(1);
                    let Some(first) = compared.differences.into_iter().next() else {
                        return Vec::new();
                    };
                    let (code, sentence) = match calls {
                        0 => (
                            "server-added",
                            format!("{key} has more than was reviewed, which nobody is offered"),
                        ),
                        calls => ("server-drifted", things(key, calls)),
                    };
                    let detail = match more {
                        0 => first,
                        more => format!("{first}, and {more} more"),
                    };
                    vec![found(code, sentence).about(key).detail(detail).fix(fix)]
                }
                Err(drift) => vec![
                    found("server-drifted", format!("{key} is not what was reviewed"))
                        .about(key)
                        .detail(drift.sentence)
                        .fix(fix),
                ],
            }
        }
    }
}

/// What a phrase about a server tells, under its code. By its words: it crosses processes as text.
/// A status means what it means by whether a credential is sent at all.
fn failed(key: &str, phrase: &str, credential: bool) -> Finding {
    let lower = phrase.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let code = if has(&["is not the one that was approved"]) {
        "server-drifted"
    } else if has(&["blocks the request"]) {
        "server-blocked"
    } else if has(&[
        "status 401",
        "status 403",
        " 401",
        " 403",
        "(401",
        "(403",
        "unauthorized",
        "forbidden",
        "wants a credential",
    ]) {
        match credential {
            true => "server-refuses",
            false => "server-blocked",
        }
    } else if has(&["certificate", "tls"]) {
        "server-tls"
    } else if has(&["exit status", "last words", "signal", "ended"]) {
        "server-ends"
    } else if has(&["reach", "connect", "dns", "status 5", "refused"]) {
        "server-unreachable"
    } else {
        "server-fails"
    };
    let sentence = match phrase.strip_prefix("server ") {
        // sentences of sessions name the server themselves
        Some(named) if named.starts_with(key) => named.to_owned(),
        _ => format!("{key} {phrase}"),
    };
    found(code, sentence).about(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_of_servers_have_their_codes() {
        for (phrase, code) in [
            ("answered with status 401", "server-refuses"),
            (
                "answered 403 Forbidden: it, or something in between (a firewall, a proxy), blocks \
                 the request; ask who runs it",
                "server-blocked",
            ),
            ("ended: exit status 2; its last words: no", "server-ends"),
            (
                "cannot be reached: connection refused",
                "server-unreachable",
            ),
            ("cannot be reached: invalid peer certificate", "server-tls"),
            ("did not show its tools within 60 s", "server-fails"),
        ] {
            assert_eq!(failed("x", phrase, true).code, code, "{phrase}");
        }
        // without a credential nothing is said of one
        for phrase in ["answered with status 403", "refuses access (403)"] {
            assert_eq!(failed("x", phrase, false).code, "server-blocked");
        }
        let drift = "server x is not the one that was approved: tool `tls` changed; ask y";
        let drift = failed("x", drift, true);
        assert_eq!(drift.code, "server-drifted");
        assert!(drift.sentence.starts_with("x is not the one"), "{drift:?}");
    }
}
