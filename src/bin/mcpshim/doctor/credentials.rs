//! Can secrets be had, and are those there that servers need?

use std::time::Duration;

use mcpshim::config::Config;
use mcpshim::identity::Owner;
use mcpshim::registry::doc::{CredentialDoc, SecretStoresDoc, ServerDoc};
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble;
use mcpshim::vault::{self, ItemId, KeychainError, StoreKind, VaultError};

use super::Context;
use super::finding::{Finding, found};
use super::registry::span;
use super::servers::usable;

/// How long the keychain may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn check(context: &Context) -> Vec<Finding> {
    let Some(loaded) = &context.loaded else {
        return Vec::new();
    };
    let config = &context.config;
    let servers = usable(context);
    let wanting: Vec<_> = servers
        .iter()
        .filter_map(|server| Some((*server, server.credential.as_ref()?)))
        .collect();
    let there = vault::exists(config);
    // whoever still has to sign in needs a place to keep that
    let caller = assemble::caller(config, &loaded.registry, &context.now).ok();
    let keeps = config.agent.is_none() && caller.is_none();
    if !there && wanting.is_empty() && !keeps {
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
    if wanting.is_empty() && !there {
        // a store that nothing is kept in yet is not worth a note
        return Vec::new();
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
    let Some(owner) = caller.map(|caller| caller.owner()) else {
        return findings;
    };
    for (server, credential) in wanting {
        let key = &server.key;
        let set = format!("run `mcpshim credential set {key}`");
        match items.get(&ItemId::Credential(owner, credential.id.clone())) {
            None => findings.push(lacking(server, credential)),
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

/// Whether the vault of this machine has a credential that is this owner's.
pub(crate) fn is_set(
    config: &Config,
    allowed: &SecretStoresDoc,
    owner: Owner,
    credential: &CredentialDoc,
) -> Result<bool, VaultError> {
    if !vault::exists(config) {
        return Ok(false);
    }
    let mut vault = vault::open(config, allowed, PATIENCE)?;
    let item = ItemId::Credential(owner, credential.id.clone());
    Ok(vault.list()?.contains_key(&item))
}

/// A server that cannot be opened for want of its credential: that it is missing, or why it
/// cannot be had.
pub(super) fn missing(context: &Context, server: &ServerDoc) -> Vec<Finding> {
    let (Some(loaded), Some(credential)) = (&context.loaded, &server.credential) else {
        return Vec::new();
    };
    let allowed = &loaded.registry.org.secret_stores;
    let mut findings = vec![lacking(server, credential)];
    if let Err(error) = vault::probe(&context.config, allowed, PATIENCE) {
        findings.push(closed(&error));
    }
    findings
}

fn lacking(server: &ServerDoc, credential: &CredentialDoc) -> Finding {
    let (key, id) = (&server.key, &credential.id);
    let sentence = format!("{key} needs the credential {id}, and there is none here");
    let fix = format!(
        "run `mcpshim credential set {key}`; to get one: {}",
        credential.obtain
    );
    found("credential-missing", sentence)
        .about(key.as_str())
        .fix(fix)
}

fn closed(error: &VaultError) -> Finding {
    let code = match error {
        VaultError::Keychain(error) => match error {
            KeychainError::NeverMade => "keychain-unmade",
            KeychainError::NoBus | KeychainError::NoService | KeychainError::Unsupported => {
                "keychain-absent"
            }
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
