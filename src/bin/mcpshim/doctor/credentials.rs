//! Can secrets be had, and are those there that servers need?

use std::time::Duration;

use mcpshim::policy::{self, SnapshotId};
use mcpshim::registry::doc::ServerDoc;
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::{assemble, caller};
use mcpshim::vault::{self, ItemId, KeychainError, StoreKind, VaultError};

use super::Context;
use super::finding::{Finding, found};
use super::registry::span;

/// How long the keychain may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The servers that this caller may use something of.
pub(super) fn servers(context: &Context) -> Vec<&ServerDoc> {
    let Some(loaded) = &context.loaded else {
        return Vec::new();
    };
    let snapshot = assemble(&context.config, SnapshotId(1), &context.now);
    let status = policy::status(&snapshot, &context.now);
    let usable = |server: &&ServerDoc| {
        // of nobody nothing is known: then all of them count
        snapshot.caller().is_none()
            || status
                .servers
                .iter()
                .any(|known| known.key == server.key.as_str() && known.tools > 0)
    };
    let servers = loaded.registry.servers.values().map(AsRef::as_ref);
    servers.filter(usable).collect()
}

pub(super) fn check(context: &Context) -> Vec<Finding> {
    let Some(loaded) = &context.loaded else {
        return Vec::new();
    };
    let config = &context.config;
    let servers = servers(context);
    let wanting: Vec<_> = servers
        .iter()
        .filter_map(|server| Some((*server, server.credential.as_ref()?)))
        .collect();
    let there = vault::exists(config);
    if !there && wanting.is_empty() {
        return Vec::new();
    }
    let allowed = &loaded.registry.org.secret_stores;
    let mut findings = Vec::new();
    match vault::probe(config, allowed, PATIENCE) {
        Ok(StoreKind::Keychain) => {}
        Ok(StoreKind::KeyFile) => findings.push(found(
            "another-store",
            "the vault's key is in a file, as the registry allows",
        )),
        Ok(StoreKind::SystemdCredential) => findings.push(found(
            "another-store",
            "the vault's key is a systemd credential, as the registry allows",
        )),
        Err(error) => return vec![closed(&error)],
    }
    let mut items = std::collections::BTreeMap::new();
    if there {
        let list = vault::open(config, allowed, PATIENCE).and_then(|mut vault| vault.list());
        match list {
            Ok(list) => items = list,
            Err(error) => return vec![closed(&error)],
        }
    }
    let now_s = context.now.unix_s();
    // a credential is somebody's: that nobody is known is said by whoever looks at the sign-in
    let registry = context.loaded.as_ref().map(|loaded| &*loaded.registry);
    let caller = registry.and_then(|registry| caller(config, registry, &context.now).ok());
    let Some(owner) = caller.map(|caller| caller.owner()) else {
        return findings;
    };
    for (server, credential) in wanting {
        let key = &server.key;
        let set = format!("run `mcpshim credential set {key}`");
        match items.get(&ItemId::Credential(owner, credential.id.clone())) {
            None => findings.push(
                found(
                    "credential-missing",
                    format!(
                        "{key} needs the credential {}, and there is none here",
                        credential.id
                    ),
                )
                .about(key.as_str())
                .fix(format!("{set}; to get one: {}", credential.obtain)),
            ),
            Some(facts) => {
                let age_s = now_s.saturating_sub(facts.put_s);
                let due = credential.rotate_days.map(|days| u64::from(days) * 86_400);
                if due.is_some_and(|due| age_s > due) {
                    findings.push(
                        found(
                            "credential-overdue",
                            format!(
                                "the credential {} of {key} is {} old, and should be replaced \
                                 after {}",
                                credential.id,
                                span(age_s),
                                span(due.unwrap_or_default())
                            ),
                        )
                        .about(key.as_str())
                        .fix(format!("{set}; to get a new one: {}", credential.obtain)),
                    );
                }
            }
        }
    }
    findings
}

fn closed(error: &VaultError) -> Finding {
    let code = match error {
        VaultError::Keychain(error) => match error {
            KeychainError::NeverMade
            | KeychainError::NoBus
            | KeychainError::NoService
            | KeychainError::Unsupported => "keychain-absent",
            KeychainError::Locked | KeychainError::Denied(_) => "keychain-locked",
            KeychainError::Silent(_) => "keychain-silent",
            KeychainError::Failed(_)
            | KeychainError::OtherBus(_)
            | KeychainError::Strange { .. } => "vault-unusable",
        },
        _ => "vault-unusable",
    };
    let mut failure = Failure::from_error(Exit::Failed, error);
    if code.starts_with("keychain") && !failure.causes.is_empty() {
        // the vault says that it cannot, the keychain why
        failure.sentence = failure.causes.remove(0);
    }
    let fix = match error {
        // its hint leads here
        VaultError::Keychain(KeychainError::Failed(_)) => {
            "check the keychain with its own program".to_owned()
        }
        _ => error.hint(),
    };
    let mut finding = found(code, failure.sentence).fix(fix);
    finding.details = failure.causes;
    finding
}
