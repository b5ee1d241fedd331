//! Signing out: tokens are revoked where the provider can (RFC 7009), and wiped in any case.

use super::kept::{self, Kept};
use super::{LoginError, http, provider};
use crate::vault::{ItemId, Vault};

/// What signing out came to.
#[derive(Debug, Default)]
pub struct SignedOut {
    /// Whether anything was there to be signed out of.
    pub was_in: bool,
    /// The issuers where the tokens were revoked.
    pub revoked: Vec<String>,
    /// The issuers where they were not, and why. What was here is gone all the same.
    pub not_revoked: Vec<(String, LoginError)>,
    /// What could not be wiped.
    pub left: Vec<LoginError>,
}

/// Signs out everywhere: revokes, then wipes the vault's tokens, `session.claims` and
/// `session.enrol`. Without a vault, what it holds stays and is told by the caller.
pub async fn sign_out(
    state_dir: &std::path::Path,
    client: &reqwest::Client,
    vault: Option<&mut (dyn Vault + '_)>,
) -> SignedOut {
    let mut out = SignedOut::default();
    // first what others look at: from here on nobody is signed in on this machine
    match kept::forget_claims(state_dir) {
        Ok(was_in) => out.was_in = was_in,
        Err(error) => out.left.push(error),
    }
    if let Err(error) = kept::forget_enrolment(state_dir) {
        out.left.push(error);
    }
    let Some(vault) = vault else { return out };
    let issuers = match signed_in(vault) {
        Ok(issuers) => issuers,
        Err(error) => {
            out.left.push(error);
            return out;
        }
    };
    for issuer in issuers {
        out.was_in = true;
        match end(state_dir, client, vault, &issuer).await {
            Ok(None) => {}
            Ok(Some(Ok(()))) => out.revoked.push(issuer),
            Ok(Some(Err(error))) => out.not_revoked.push((issuer, error)),
            Err(error) => out.left.push(error),
        }
    }
    // a renewal that held the lock while we began may have written it once more
    if let Err(error) = kept::forget_claims(state_dir) {
        out.left.push(error);
    }
    out
}

/// The issuers whose tokens the vault holds.
pub(super) fn signed_in(vault: &mut dyn Vault) -> Result<Vec<String>, LoginError> {
    let items = vault.list()?;
    Ok(items
        .into_keys()
        .filter_map(|id| match id {
            ItemId::Tokens(issuer) => Some(issuer),
            ItemId::Credential(..) | ItemId::Unowned(_) | ItemId::InstallationKey => None,
        })
        .collect())
}

/// Ends one sign-in: revokes what can be revoked, then wipes it in any case. Says how the
/// revocation went, where there was something to revoke.
pub(super) async fn end(
    state_dir: &std::path::Path,
    client: &reqwest::Client,
    vault: &mut dyn Vault,
    issuer: &str,
) -> Result<Option<Result<(), LoginError>>, LoginError> {
    // a renewal under way would put a new token in the place of the one that goes; one that
    // hangs for longer than the lock is waited for finds another serial and gives up
    let held = kept::lock(state_dir, issuer).await;
    let (found, serial) = kept::tokens(vault, issuer)?;
    let revoked = match &found {
        Some(tokens) => Some(revoke(client, tokens).await),
        None => None,
    };
    // false: whoever was faster removed it, or signed in again, which is theirs
    let _gone: bool = vault.remove(&ItemId::Tokens(issuer.to_owned()), serial)?;
    drop(held);
    Ok(revoked)
}

/// Revokes both tokens. The refresh token first: with it goes everything it could bring.
pub(super) async fn revoke(client: &reqwest::Client, tokens: &Kept) -> Result<(), LoginError> {
    let provider = provider::discover(client, &tokens.issuer).await?;
    let Some(endpoint) = &provider.revoke else {
        return Err(LoginError::NoRevocation {
            issuer: tokens.issuer.clone(),
        });
    };
    let both = [
        (tokens.refresh_token.as_deref(), "refresh_token"),
        (tokens.access_token.as_deref(), "access_token"),
    ];
    for (token, kind) in both {
        let Some(token) = token else { continue };
        let form = [
            ("client_id", tokens.client_id.as_str()),
            ("token", token),
            ("token_type_hint", kind),
        ];
        let answer = http::post(client, endpoint, &form, "the identity provider").await?;
        // RFC 7009 §2.2: an unknown token is a success too
        if answer.status != 200 {
            return Err(LoginError::Provider {
                issuer: tokens.issuer.clone(),
                why: format!(
                    "its revocation endpoint answers with status {}",
                    answer.status
                ),
            });
        }
    }
    Ok(())
}
