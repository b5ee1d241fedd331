//! What an identity provider says about itself (OpenID Connect Discovery 1.0, RFC 8414).

use serde::Deserialize;
use url::Url;

use super::{LoginError, http};
use crate::registry::doc::IssuerDoc;

/// The members we read; all others are ignored.
#[derive(Debug, Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    #[serde(default)]
    device_authorization_endpoint: Option<String>,
    #[serde(default)]
    revocation_endpoint: Option<String>,
    #[serde(default)]
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    scopes_supported: Option<Vec<String>>,
}

/// A provider that answered for the issuer the registry names.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) issuer: String,
    pub(super) authorize: Url,
    pub(super) token: Url,
    pub(super) device: Option<Url>,
    pub(super) revoke: Option<Url>,
    /// What it says of PKCE: the methods, or nothing at all.
    pub(super) challenges: Option<Vec<String>>,
    /// Whether its answers carry `iss` (RFC 9207 §3).
    pub(super) names_itself: bool,
    /// Whether it knows `offline_access`: to ask one for it that does not is an error at some.
    pub(super) offline: bool,
}

/// Asks an issuer where its endpoints are.
///
/// `issuer` is compared by simple string comparison with the registry's: whoever answers for
/// another name, or for this one with a slash more, is not believed.
pub(super) async fn discover(
    client: &reqwest::Client,
    issuer: &str,
) -> Result<Provider, LoginError> {
    let refuse = |why: String| LoginError::Provider {
        issuer: issuer.to_owned(),
        why,
    };
    let well_known = format!(
        "{}/.well-known/openid-configuration",
        issuer.strip_suffix('/').unwrap_or(issuer)
    );
    let Some(url) = http::address(&well_known) else {
        return Err(refuse("its address is not an https:// URL".to_owned()));
    };
    let answer = http::get(client, &url, "the identity provider").await?;
    if answer.is_down() {
        return Err(LoginError::Down {
            issuer: issuer.to_owned(),
            status: answer.status,
        });
    }
    if answer.status != 200 {
        return Err(refuse(format!(
            "{url} answers with status {}",
            answer.status
        )));
    }
    let metadata: Metadata = serde_json::from_slice(&answer.body)
        .map_err(|error| refuse(format!("{url} is not its metadata: {error}")))?;
    if metadata.issuer != issuer {
        return Err(refuse(format!(
            "its metadata are those of {:.200?}",
            metadata.issuer
        )));
    }
    let endpoint = |name: &str, text: &str| {
        http::address(text)
            .ok_or_else(|| refuse(format!("its {name} is not an https:// URL: {text:.200?}")))
    };
    let optional = |name: &str, text: &Option<String>| {
        text.as_deref().map(|text| endpoint(name, text)).transpose()
    };
    Ok(Provider {
        authorize: endpoint("authorization_endpoint", &metadata.authorization_endpoint)?,
        token: endpoint("token_endpoint", &metadata.token_endpoint)?,
        device: optional(
            "device_authorization_endpoint",
            &metadata.device_authorization_endpoint,
        )?,
        revoke: optional("revocation_endpoint", &metadata.revocation_endpoint)?,
        challenges: metadata.code_challenge_methods_supported,
        names_itself: metadata.authorization_response_iss_parameter_supported,
        offline: metadata
            .scopes_supported
            .is_some_and(|scopes| scopes.iter().any(|scope| scope == "offline_access")),
        issuer: metadata.issuer,
    })
}

impl Provider {
    /// Refuses a provider that does not check the proof key: a code that leaks would then be
    /// enough to sign in. Silence counts as no (RFC 8414 §2), unless the registry, signed, says
    /// that this issuer checks it all the same.
    pub(super) fn checks_proof_key(&self, issuer: &IssuerDoc) -> Result<(), LoginError> {
        let checks = match &self.challenges {
            Some(methods) => methods.iter().any(|method| method == "S256"),
            None => issuer.pkce_unadvertised,
        };
        if checks {
            Ok(())
        } else {
            Err(LoginError::ProofKey {
                issuer: self.issuer.clone(),
                silent: self.challenges.is_none(),
            })
        }
    }

    /// The scopes to ask for, separated by spaces.
    pub(super) fn scopes(&self, issuer: &IssuerDoc) -> String {
        let mut scopes = vec!["openid"];
        if self.offline {
            scopes.push("offline_access");
        }
        for scope in &issuer.scopes {
            if !scopes.contains(&scope.as_str()) {
                scopes.push(scope);
            }
        }
        scopes.join(" ")
    }
}
