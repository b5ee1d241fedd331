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
    let issuers: Vec<String> = match vault.list() {
        Ok(items) => items
            .into_keys()
            .filter_map(|id| match id {
                ItemId::Tokens(issuer) => Some(issuer),
                ItemId::Credential(_) | ItemId::InstallationKey => None,
            })
            .collect(),
        Err(error) => {
            out.left.push(error.into());
            return out;
        }
    };
    for issuer in issuers {
        out.was_in = true;
        // a renewal under way would put a new token in the place of the one that goes
        let held = kept::lock(state_dir, &issuer).await;
        let found = kept::tokens(vault, &issuer);
        let serial = match &found {
            Ok((_, serial)) => *serial,
            Err(_) => 0,
        };
        match found {
            Ok((Some(tokens), _)) => match revoke(client, &tokens).await {
                Ok(()) => out.revoked.push(issuer.clone()),
                Err(error) => out.not_revoked.push((issuer.clone(), error)),
            },
            Ok((None, _)) => {}
            Err(error) => out.left.push(error),
        }
        match vault.remove(&ItemId::Tokens(issuer.clone()), serial) {
            Ok(true) => {}
            // whoever was faster removed it, or signed in again: that is theirs
            Ok(false) => {}
            Err(error) => out.left.push(error.into()),
        }
        drop(held);
    }
    // a renewal that held the lock while we began may have written it once more
    if let Err(error) = kept::forget_claims(state_dir) {
        out.left.push(error);
    }
    out
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
