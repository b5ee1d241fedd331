//! The device flow (RFC 8628): a code typed into a browser on another machine.
//!
//! Whoever sends a person such a code in a mail can sign in as them, which is why the registry
//! has to allow it by name. It has no nonce: the ID token it brings belongs to no sign-in.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::provider::Provider;
use super::token::{self, Refusal, Tokens, plain};
use super::{LoginError, Progress, http};
use crate::limits;
use crate::registry::doc::IssuerDoc;

/// RFC 8628 §3.5: how often to ask when the provider says nothing, and how much slower when it
/// asks for that, in seconds.
const INTERVAL_S: u64 = 5;

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
struct Codes {
    device_code: String,
    user_code: String,
    verification_uri: String,
    expires_in: u64,
    #[serde(default)]
    interval: Option<u64>,
}

/// Asks for a code, shows it, and waits until it was typed.
pub(super) async fn tokens(
    client: &reqwest::Client,
    provider: &Provider,
    issuer: &IssuerDoc,
    deadline: Instant,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Tokens, LoginError> {
    let named = || issuer.issuer.clone();
    let Some(endpoint) = &provider.device else {
        return Err(LoginError::DeviceUnknown { issuer: named() });
    };
    let scopes = provider.scopes(issuer);
    let form = [("client_id", issuer.client_id.as_str()), ("scope", &scopes)];
    let answer = http::post(client, endpoint, &form, "the identity provider").await?;
    let refuse = |why: &str| LoginError::Provider {
        issuer: named(),
        why: why.to_owned(),
    };
    if answer.is_down() {
        return Err(LoginError::Down {
            issuer: named(),
            status: answer.status,
        });
    }
    if answer.status != 200 {
        return Err(match serde_json::from_slice::<Refusal>(&answer.body) {
            Ok(refusal) => refusal.into_error(&issuer.issuer),
            Err(_) => refuse("it gives no device code"),
        });
    }
    let codes: Codes = serde_json::from_slice(&answer.body)
        .map_err(|_not| refuse("its device code cannot be read"))?;
    let Some(page) = http::address(&codes.verification_uri) else {
        return Err(refuse(
            "the page for its device code is not an https:// URL",
        ));
    };
    progress(Progress::Type {
        url: page.as_str(),
        code: &plain(&codes.user_code, 40),
    });
    let life = Duration::from_secs(codes.expires_in.min(limits::LOGIN_MS / 1000));
    let deadline = deadline.min(Instant::now() + life);
    let mut interval_s = codes.interval.unwrap_or(INTERVAL_S).clamp(1, 60);
    let mut word = Instant::now() + Duration::from_millis(limits::LOGIN_WORD_MS);
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", codes.device_code.as_str()),
    ];
    loop {
        let next = Instant::now() + Duration::from_secs(interval_s);
        if next >= deadline {
            return Err(LoginError::TimeOut);
        }
        tokio::time::sleep_until(next).await;
        if Instant::now() >= word {
            word = Instant::now() + Duration::from_millis(limits::LOGIN_WORD_MS);
            let left = deadline.saturating_duration_since(Instant::now());
            progress(Progress::Waiting {
                left_s: left.as_secs(),
            });
        }
        match token::request(client, provider, &issuer.client_id, &form).await {
            Ok(Ok(tokens)) => return Ok(tokens),
            Ok(Err(refusal)) => match refusal.error.as_str() {
                "authorization_pending" => {}
                "slow_down" => interval_s += INTERVAL_S,
                _ => return Err(refusal.into_error(&issuer.issuer)),
            },
            // §3.5: a time-out on the way is no answer; ask more slowly
            Err(LoginError::Down { .. } | LoginError::Network { .. }) => {
                interval_s = (interval_s * 2).min(60);
            }
            Err(error) => return Err(error),
        }
    }
}
