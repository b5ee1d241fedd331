//! Who calls here, and if nobody does, why.

use mcpshim::identity::{self, Caller, IdentityError};
use mcpshim::limits;
use mcpshim::login;
use mcpshim::report::Failure;
use mcpshim::serve::assemble;
use mcpshim::vault::{self, VaultError};

use super::Context;
use super::finding::{Finding, found};
use super::registry::span;

pub(super) fn check(context: &Context) -> Vec<Finding> {
    let Some(loaded) = &context.loaded else {
        return Vec::new();
    };
    let (config, registry) = (&context.config, &loaded.registry);
    let caller = match assemble::caller(config, registry, &context.now) {
        Ok(caller) => caller,
        Err(failure) => return vec![nobody(context, &failure)],
    };
    let mut findings = Vec::new();
    if caller.roles().is_empty() {
        let who = match &caller {
            Caller::Agent { name, .. } => format!("agent {name}"),
            Caller::Person { display, .. } => display.clone(),
        };
        let help = &registry.org.help;
        let finding = found(
            "no-role",
            format!("{who} has no role here: no tool is allowed"),
        );
        findings.push(finding.fix(format!("ask {help} for a role")));
    }
    if let Caller::Person { expires, .. } = caller {
        let left = expires.saturating_sub(context.now.unix_s());
        let life = login::life(&config.state_dir);
        let short = life.is_some_and(|life| {
            life.expires_s.saturating_sub(life.issued_s) / 2 < limits::RENEW_AHEAD_S
        });
        if left < limits::RENEW_AHEAD_S && !short {
            findings.push(found(
                "sign-in-ending",
                format!("the sign-in ends in {} and was not renewed", span(left)),
            ));
        }
    }
    findings
}

/// Why nobody is recognised: the sentence of whoever decides it, under a code.
fn nobody(context: &Context, failure: &Failure) -> Finding {
    let mut finding = found(code(context), failure.sentence.clone());
    finding.details.clone_from(&failure.causes);
    // sentences of the decider's may end in what to do
    if let Some((sentence, fix)) = finding.sentence.clone().split_once("; ") {
        finding.sentence = sentence.to_owned();
        finding.fix = fix.to_owned();
    }
    if let Some(hint) = &failure.hint {
        finding.fix.clone_from(hint);
    }
    finding
}

/// Asks the same questions again, to know which one failed.
fn code(context: &Context) -> &'static str {
    let Some(loaded) = &context.loaded else {
        return "sign-in-refused";
    };
    let (config, registry, now) = (&context.config, &loaded.registry, &context.now);
    if let Some((name, file)) = &config.agent {
        return match vault::read_private(file) {
            Ok(None) => "agent-key-missing",
            Ok(Some(key)) => match identity::agent(registry, name, key.expose(), now) {
                Err(IdentityError::AgentKey { .. } | IdentityError::UnreadableKey) => {
                    "agent-key-wrong"
                }
                _ => "agent-refused",
            },
            Err(VaultError::Open { .. }) => "agent-key-open",
            Err(_) => "agent-key-missing",
        };
    }
    match vault::read_private(&assemble::session_claims(config)) {
        Ok(None) => "not-signed-in",
        Err(VaultError::Open { .. }) => "sign-in-open",
        Ok(Some(token)) => {
            let text = String::from_utf8_lossy(token.expose());
            match identity::person(registry, &text, now) {
                Err(IdentityError::Ended { .. }) => "sign-in-ended",
                Err(IdentityError::GroupsCut { .. }) => "groups-cut",
                _ => "sign-in-refused",
            }
        }
        Err(_) => "sign-in-refused",
    }
}
