//! Can servers be started or reached, and are they what was reviewed?
//!
//! Without being asked nothing is started: the programs are looked for, and running sessions tell
//! what they met. A server that is asked about is opened as a session would open it.

use std::time::Duration;

use mcpshim::catalog::{alias::alias, needs_task};
use mcpshim::ids::ServerKey;
use mcpshim::policy::SnapshotId;
use mcpshim::registry::doc::{ServerDoc, Transport};
use mcpshim::serve::assemble::assemble;
use mcpshim::serve::run_file;

use super::finding::{Finding, found};
use super::{Context, credentials};

/// How long a server may take to show itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What can be seen without starting anything.
pub(super) fn check(context: &Context) -> Vec<Finding> {
    let servers = credentials::servers(context);
    let mut findings: Vec<Finding> = servers
        .iter()
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
    for (key, uri) in other_names(context) {
        let sentence = format!("{uri} of {key} is shown as {}", alias(&key, &uri));
        findings.push(found("other-name", sentence).about(key.as_str()));
    }
    for session in run_file::running(&context.config.state_dir) {
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
            let Some(trouble) = seen.trouble else {
                continue;
            };
            // what was opened now is told from now
            if context.asked(&seen.key) {
                continue;
            }
            let (pid, key) = (session.pid, &seen.key);
            findings.push(
                failed(key, &trouble)
                    .fix(format!(
                        "run `mcpshim doctor {key}`, which opens it and tells more"
                    ))
                    .detail(format!("met by the session of process {pid}")),
            );
        }
    }
    findings
}

/// URIs and templates that the caller sees under another name.
fn other_names(context: &Context) -> Vec<(ServerKey, String)> {
    if context.loaded.is_none() {
        return Vec::new();
    }
    let snapshot = assemble(&context.config, SnapshotId(1), &context.now);
    snapshot.catalog().shown().to_vec()
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
        format!("{key} is started by {command}, which does not exist")
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
        format!("{key} is started by {command}, which is not on the PATH")
    };
    let finding = found("program-missing", sentence).about(key.as_str());
    let finding = match package {
        Some(package) => finding.detail(format!("it then runs {package}")),
        None => finding,
    };
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
    if program(server, context).is_some() {
        return Vec::new();
    }
    let allowed = &loaded.registry.org.secret_stores;
    let secret = server.credential.as_ref().and_then(|credential| {
        // that there is none, or no vault, is said by whoever looks at credentials
        let there = vault::exists(&context.config);
        let vault = there.then(|| vault::open(&context.config, allowed, PATIENCE / 6));
        let caller = caller(&context.config, &loaded.registry, &context.now).ok()?;
        let own = ItemId::Credential(caller.owner(), credential.id.clone());
        let item = vault?.ok()?.get(&own);
        Some(item.ok()??.value)
    });
    if server.credential.is_some() && secret.is_none() {
        return Vec::new();
    }
    let dialer = match &server.transport {
        Transport::Stdio { .. } => None,
        Transport::Http { ca_pem, .. } => {
            match fetch::dialer(&context.config.network, ca_pem.as_deref()) {
                Ok(dialer) => Some(dialer),
                Err(error) => return vec![failed(key, &error.to_string())],
            }
        }
    };
    let environment = Environment::of(config::children(Some(&context.config)));
    let means = Means {
        environment: &environment,
        dialer,
        secret: secret.as_ref(),
    };
    let ask = format!("ask {} ({})", server.owner, server.oncall);
    match survey(server, &means, PATIENCE) {
        Err(error) => {
            let mut scrubbed = error.to_string();
            if let Some(secret) = &secret {
                let scrubber = mcpshim::secret::Scrubber::new();
                scrubber.add(secret);
                scrubbed = scrubber.scrub_str(&scrubbed).into_owned();
            }
            let finding = failed(key, &scrubbed);
            let fix = match finding.code {
                "server-blocks" => {
                    format!("ask who runs it whether this machine is blocked; or {ask}")
                }
                "server-refuses" if server.credential.is_none() => {
                    format!("its entry in the registry names no credential: {ask}")
                }
                "server-refuses" => {
                    format!("get a new credential and run `mcpshim credential set {key}`; or {ask}")
                }
                "server-ends" => format!("do what its last words say, or {ask}"),
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
            let fix = format!("{ask} to have it reviewed and pinned again");
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
                        1 => (
                            "server-drifted",
                            format!("one thing of {key} is not what was reviewed"),
                        ),
                        calls => (
                            "server-drifted",
                            format!("{calls} things of {key} are not what was reviewed"),
                        ),
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
fn failed(key: &str, phrase: &str) -> Finding {
    let lower = phrase.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let code = if has(&["blocks the request"]) {
        "server-blocks"
    } else if has(&[
        "status 401",
        "status 403",
        " 401",
        " 403",
        "unauthorized",
        "forbidden",
    ]) {
        "server-refuses"
    } else if has(&["certificate", "tls"]) {
        "server-tls"
    } else if has(&["exit status", "last words", "signal", "ended"]) {
        "server-ends"
    } else if has(&["reach", "connect", "dns", "status 5", "refused"]) {
        "server-unreachable"
    } else {
        "server-fails"
    };
    found(code, format!("{key} {phrase}")).about(key)
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
                "server-blocks",
            ),
            ("ended: exit status 2; its last words: no", "server-ends"),
            (
                "cannot be reached: connection refused",
                "server-unreachable",
            ),
            ("cannot be reached: invalid peer certificate", "server-tls"),
            ("did not show its tools within 60 s", "server-fails"),
        ] {
            assert_eq!(failed("x", phrase).code, code, "{phrase}");
        }
    }
}
