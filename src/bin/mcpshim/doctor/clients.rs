//! Do clients start this program, and do running ones run it?

use mcpshim::serve::run_file;

use super::Context;
use super::finding::{Finding, found};
use crate::client::{self, Kind, Name};

/// Sessions take a new registry within this, in seconds.
const TAKEN_S: u64 = 60;

/// Whether what is stored has been there for as long as sessions may take to see it.
fn settled(context: &Context) -> bool {
    let stored = mcpshim::fetch::stored_at(&context.config);
    stored.is_some_and(|at| at + TAKEN_S < context.now.unix_s())
}

pub(super) fn check(context: &Context) -> Vec<Finding> {
    let registry = context.loaded.as_ref().map(|loaded| &*loaded.registry);
    let Ok(seen) = client::look(&context.places, &Name::ALL, registry) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let any = seen.iter().any(|seen| seen.starts.is_some());
    let mut without = Vec::new();
    for seen in &seen {
        let title = seen.client.title();
        for note in &seen.notes {
            findings.push(
                found("bypass", format!("{title}: {}", note.sentence))
                    .about(seen.client.word())
                    .fix(note.hint.clone()),
            );
        }
        let Some(fault) = &seen.fault else { continue };
        let code = match fault.kind {
            Kind::Missing if any => "client-other",
            Kind::Missing => {
                without.push(title);
                continue;
            }
            Kind::Managed => "client-blocked",
            Kind::Unreadable => "client-malformed",
            Kind::Bypass | Kind::Entry | Kind::Program => "client-wrong",
        };
        findings.push(
            found(code, format!("{title}: {}", fault.sentence))
                .about(seen.client.word())
                .fix(fault.hint.clone()),
        );
    }
    if !without.is_empty() {
        let finding = found(
            "client-missing",
            format!(
                "{} here, and none of them starts mcpshim",
                match without.as_slice() {
                    [one] => format!("{one} is"),
                    many => format!("{} are", many.join(", ")),
                }
            ),
        );
        findings.push(finding);
    }
    // a program that does not stay where it is, is not written into a client's settings
    if let Some(why) = client::passing(&context.places) {
        for finding in &mut findings {
            if finding.fix.contains("client install") {
                let then = std::mem::take(&mut finding.fix);
                finding.fix = format!("install mcpshim first (it {why}), then {then}");
            }
        }
    }
    let newest = context
        .loaded
        .as_ref()
        .map(|loaded| loaded.registry.version.targets);
    for session in run_file::running(&context.config.state_dir) {
        if let (Some(newest), Some(used)) = (newest, session.session.registry)
            && used < newest
            && settled(context)
        {
            let pid = session.pid;
            let sentence = format!(
                "the session of process {pid} decides by registry version {used}, and this \
                 machine has {newest}"
            );
            findings.push(found("session-behind", sentence));
        }
        let own = env!("CARGO_PKG_VERSION");
        if session.version != own {
            let client = session.session.client.map(|client| client.name);
            let client = client.unwrap_or_else(|| "a client".to_owned());
            let sentence = format!(
                "{client} runs mcpshim {} in process {}, and this is {own}",
                session.version, session.pid
            );
            findings.push(found("two-versions", sentence).fix(format!("restart {client}")));
        }
    }
    findings
}
