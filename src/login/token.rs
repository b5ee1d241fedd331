//! The token endpoint: a code, a device code or a refresh token for tokens (RFC 6749 §4.1.3, §6).

use crate::text;
use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::provider::Provider;
use super::{LoginError, http};

/// What the endpoint gives.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct Tokens {
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    pub(super) access_token: Option<String>,
    #[serde(default)]
    pub(super) id_token: Option<String>,
    #[serde(default)]
    pub(super) refresh_token: Option<String>,
}

/// Why it gives nothing: its own code and words (RFC 6749 §5.2).
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    pub(super) error: String,
    #[serde(default)]
    pub(super) error_description: Option<String>,
}

/// Asks for tokens. `client_id` is added: we are a public client (RFC 8252 §8.4), and what would
/// be a secret of ours is in every copy of the program.
pub(super) async fn request(
    client: &reqwest::Client,
    provider: &Provider,
    client_id: &str,
    form: &[(&str, &str)],
) -> Result<Result<Tokens, Refusal>, LoginError> {
    let mut whole = vec![("client_id", client_id)];
    whole.extend_from_slice(form);
    let answer = http::post(client, &provider.token, &whole, "the identity provider").await?;
    let refuse = |why: String| LoginError::Provider {
        issuer: provider.issuer.clone(),
        why,
    };
    if answer.status == 200 {
        // where the error is says nothing about what is in it
        let tokens: Tokens = serde_json::from_slice(&answer.body).map_err(|error| {
            let line = error.line();
            refuse(format!("its tokens cannot be read (line {line})"))
        })?;
        if !tokens.token_type.eq_ignore_ascii_case("bearer") {
            return Err(refuse("its tokens are not of type Bearer".to_owned()));
        }
        return Ok(Ok(tokens));
    }
    if answer.is_down() {
        return Err(LoginError::Down {
            issuer: provider.issuer.clone(),
            status: answer.status,
        });
    }
    // a refusal is a 4xx with a code of its own; anything else is trouble on the way
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) if (400..500).contains(&answer.status) => Ok(Err(refusal)),
        Ok(_) | Err(_) => Err(LoginError::Network {
            what: "the identity provider",
            cause: format!("its token endpoint answers with status {}", answer.status),
        }),
    }
}

impl Refusal {
    /// The refusal as an error, in words that cannot play with a terminal.
    pub(super) fn into_error(self, issuer: &str) -> LoginError {
        declined(issuer, &self.error, self.error_description.as_deref())
    }
}

/// A provider's refusal. Its words are a stranger's: cut, and without controls.
pub(super) fn declined(issuer: &str, code: &str, description: Option<&str>) -> LoginError {
    LoginError::Declined {
        issuer: issuer.to_owned(),
        code: plain(code, 60),
        description: description.map(|text| plain(text, 300)).unwrap_or_default(),
    }
}

/// Text of a stranger on one line.
pub(super) fn plain(stranger: &str, most: usize) -> String {
    let line: String = stranger
        .chars()
        .map(|ch| if ch.is_whitespace() { ' ' } else { ch })
        .collect();
    text::plain(&line).chars().take(most).collect()
}
