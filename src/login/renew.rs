//! Silent renewal: the refresh token for a new ID token, once per device.

use std::path::Path;

use super::kept::{self, Kept};
use super::provider;
use super::token::{self, Tokens, plain};
use super::{LoginError, Seat};
use crate::clock::{Clock, Entropy};
use crate::identity::{self, Caller};
use crate::limits;
use crate::vault::Vault;

/// What a renewal came to.
#[derive(Debug)]
pub enum Renewal {
    /// Nothing was to be done: the sign-in lasts long enough, or another process renewed it.
    Current {
        /// Until when, in Unix seconds.
        expires_s: u64,
    },
    /// Not now: the network, the provider or a busy machine. Try again later.
    Later(LoginError),
    /// Nobody is signed in.
    Nobody,
    /// It was renewed.
    Renewed {
        /// Until when, in Unix seconds.
        expires_s: u64,
    },
    /// The provider has ended the sign-in: only a person can begin another.
    SignedOut(LoginError),
    /// It cannot be renewed silently: there is no refresh token, or what came back is not to be
    /// used. It lasts until its end, and then a person signs in again.
    Stays(LoginError),
}

impl Renewal {
    /// When to ask again, in seconds, while `session.claims` stays as it is; `None`: not before it
    /// changes, for every further request would be refused as this one was.
    #[must_use]
    pub fn again_s(&self, now_s: u64) -> Option<u64> {
        match self {
            Self::Current { expires_s } | Self::Renewed { expires_s } => {
                Some((expires_s.saturating_sub(now_s) / 4).max(1))
            }
            Self::Later(_) => Some(limits::RENEW_RETRY_S),
            Self::Nobody | Self::SignedOut(_) | Self::Stays(_) => None,
        }
    }

    /// What went wrong, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<&LoginError> {
        match self {
            Self::Later(error) | Self::SignedOut(error) | Self::Stays(error) => Some(error),
            Self::Current { .. } | Self::Nobody | Self::Renewed { .. } => None,
        }
    }
}

/// Says whether it is time to renew a sign-in.
///
/// From 30 minutes before its end, or when a quarter of its life is left if that is longer, so
/// that renewal was tried before the 30 minutes of warning begin; but never in the first half of
/// a short life.
#[must_use]
pub fn is_due(life: &Life, now_s: u64) -> bool {
    let whole = life.expires_s.saturating_sub(life.issued_s);
    let ahead = limits::RENEW_AHEAD_S.max(whole / 4).min(whole / 2);
    now_s.saturating_add(ahead) >= life.expires_s
}

/// From when to when an ID token says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// `iat`, in Unix seconds.
    pub issued_s: u64,
    /// `exp`, in Unix seconds.
    pub expires_s: u64,
}

/// The life of the sign-in on this machine, as its file says; nothing when nobody is signed in.
/// Not verified: good for deciding when to look, and for nothing else.
#[must_use]
pub fn life(state_dir: &Path) -> Option<Life> {
    let token = kept::claims(state_dir).ok()??;
    let text = std::str::from_utf8(token.expose()).ok()?;
    let claims = identity::unverified(text)?;
    let second = |name: &str| claims.get(name).and_then(serde_json::Value::as_u64);
    Some(Life {
        issued_s: second("iat")?,
        expires_s: second("exp")?,
    })
}

/// Renews the sign-in if it is due.
///
/// Any number of processes may ask at once. One of them asks the provider, under a lock beside
/// the issuer's tokens; the others look again once they have it, and use what it got. A refresh
/// token that was used twice would end the sign-in everywhere, for providers take it as stolen.
///
/// A refusal removes the refused token only if the vault still holds that one: somebody may have
/// signed in meanwhile.
pub async fn renew(
    seat: &Seat<'_>,
    vault: &mut dyn Vault,
    clock: &dyn Clock,
    entropy: &mut dyn Entropy,
) -> Renewal {
    let now_s = clock.now().unix_s();
    let Some(before) = life(seat.state_dir) else {
        return Renewal::Nobody;
    };
    if !is_due(&before, now_s) {
        return Renewal::Current {
            expires_s: before.expires_s,
        };
    }
    match due(seat, vault, clock, entropy).await {
        Ok(renewal) => renewal,
        Err(error) => match error {
            LoginError::Busy
            | LoginError::Disk { .. }
            | LoginError::Down { .. }
            | LoginError::Network { .. }
            | LoginError::Provider { .. }
            | LoginError::Vault(_) => Renewal::Later(error),
            LoginError::Declined { .. } => Renewal::SignedOut(error),
            _ => Renewal::Stays(error),
        },
    }
}

async fn due(
    seat: &Seat<'_>,
    vault: &mut dyn Vault,
    clock: &dyn Clock,
    entropy: &mut dyn Entropy,
) -> Result<Renewal, LoginError> {
    let Some(issuer) = signed_in_at(seat) else {
        return Ok(Renewal::Nobody);
    };
    let held = kept::lock(seat.state_dir, issuer.issuer.as_str()).await?;
    // look again: whoever had the lock may have renewed it, or signed out
    let Some(now) = life(seat.state_dir) else {
        return Ok(Renewal::Nobody);
    };
    if !is_due(&now, clock.now().unix_s()) {
        return Ok(Renewal::Current {
            expires_s: now.expires_s,
        });
    }
    let (found, serial) = kept::tokens(vault, &issuer.issuer)?;
    let none = || LoginError::NoRefreshToken {
        issuer: issuer.issuer.clone(),
    };
    let Some(mut tokens) = found else {
        return Err(none());
    };
    let Some(refresh_token) = tokens.refresh_token.clone().map(zeroize::Zeroizing::new) else {
        return Err(none());
    };
    let provider = provider::discover(seat.client, &issuer.issuer).await?;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token.as_str()),
    ];
    let client_id = tokens.client_id.clone();
    let answer = token::request(seat.client, &provider, &client_id, &form).await?;
    let fresh = match answer {
        Ok(fresh) => fresh,
        Err(refusal) if refusal.error == "invalid_grant" => {
            // only what was refused goes: another sign-in may have taken its place
            tokens.refresh_token = None;
            if !kept::replace(vault, &tokens, serial, clock.now().unix_s())? {
                return Ok(as_it_is(seat));
            }
            return Err(refusal.into_error(&issuer.issuer));
        }
        // the provider has a complaint that is not about this token: nothing is thrown away
        Err(refusal) => {
            return Err(LoginError::Provider {
                issuer: issuer.issuer.clone(),
                why: format!(
                    "it does not renew the sign-in: {}",
                    plain(&refusal.error, 60)
                ),
            });
        }
    };
    // Point of no return: the provider has made the old refresh token void. A crash before the
    // new one is kept ends silent renewal; the ID token holds until its end, and then the person
    // signs in again. Kept before anything is judged, for a token that is lost helps nobody.
    take(&mut tokens, &fresh);
    if !kept::replace(vault, &tokens, serial, clock.now().unix_s())? {
        return Ok(as_it_is(seat));
    }
    let Some(id_token) = fresh.id_token.as_deref() else {
        return Err(LoginError::NoIdToken {
            issuer: issuer.issuer.clone(),
        });
    };
    let expires_s = judge(seat, &tokens, id_token, clock)?;
    // whoever signed in at another issuer meanwhile, or signed out, is not written over
    let _said = kept::lock_claims(seat.state_dir).await?;
    if !is_still(seat.state_dir, &tokens) {
        return Ok(as_it_is(seat));
    }
    kept::write_claims(seat.state_dir, id_token, entropy)?;
    drop(held);
    Ok(Renewal::Renewed { expires_s })
}

/// Somebody signed in or out in the meantime without the lock: what they left holds.
fn as_it_is(seat: &Seat<'_>) -> Renewal {
    life(seat.state_dir).map_or(Renewal::Nobody, |life| Renewal::Current {
        expires_s: life.expires_s,
    })
}

/// Whether the person these tokens are of is the one who is signed in.
fn is_still(state_dir: &Path, tokens: &Kept) -> bool {
    let claims = kept::claims(state_dir).ok().flatten();
    let claims = claims.as_ref().and_then(|token| {
        let text = std::str::from_utf8(token.expose()).ok()?;
        identity::unverified(text)
    });
    claims.is_some_and(|claims| {
        let is = |name: &str, text: &str| {
            claims.get(name).and_then(serde_json::Value::as_str) == Some(text)
        };
        is("iss", &tokens.issuer) && is("sub", &tokens.subject)
    })
}

/// The issuer of the registry where the person signed in.
fn signed_in_at<'r>(seat: &Seat<'r>) -> Option<&'r crate::registry::doc::IssuerDoc> {
    let token = kept::claims(seat.state_dir).ok()??;
    let text = std::str::from_utf8(token.expose()).ok()?;
    let claims = identity::unverified(text)?;
    let named = claims.get("iss")?.as_str()?;
    let issuers = &seat.registry.org.issuers;
    issuers.iter().find(|issuer| issuer.issuer == named)
}

fn take(tokens: &mut Kept, fresh: &Tokens) {
    // a provider that does not rotate sends none: the old one goes on (RFC 6749 §6)
    if fresh.refresh_token.is_some() {
        tokens.refresh_token.clone_from(&fresh.refresh_token);
    }
    tokens.access_token.clone_from(&fresh.access_token);
}

/// A renewed ID token is of the same person, and of the same sign-in where it says so (OpenID
/// Connect Core §12.2).
fn judge(
    seat: &Seat<'_>,
    tokens: &Kept,
    id_token: &str,
    clock: &dyn Clock,
) -> Result<u64, LoginError> {
    let caller = identity::person(seat.registry, id_token, &clock.now())?;
    let other = |what: &'static str| LoginError::Swapped { what };
    let nonce = identity::unverified(id_token)
        .and_then(|claims| Some(claims.get("nonce")?.as_str()?.to_owned()));
    if nonce.is_some() && nonce != tokens.nonce {
        return Err(other("its nonce is that of another sign-in"));
    }
    match caller {
        Caller::Person {
            issuer,
            subject,
            expires,
            ..
        } if issuer == tokens.issuer && subject == tokens.subject => Ok(expires),
        Caller::Person { .. } => Err(other("it names another person")),
        Caller::Agent { .. } => Err(other("it names no person")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::CountingEntropy;

    #[test]
    fn renewed_is_only_who_is_signed_in_still() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let tokens = Kept::new("https://one.example", "c", "ann", None);
        assert!(!is_still(state, &tokens), "signed out");
        let sign_in = |iss: &str, sub: &str| {
            let part = |value: serde_json::Value| {
                data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes())
            };
            let header = part(serde_json::json!({"alg": "EdDSA"}));
            let claims = part(serde_json::json!({"iss": iss, "sub": sub}));
            let token = format!("{header}.{claims}.eA");
            kept::write_claims(state, &token, &mut CountingEntropy(7)).unwrap();
        };
        for (iss, sub, still) in [
            ("https://one.example", "ann", true),
            ("https://one.example", "bea", false),
            ("https://two.example", "ann", false),
        ] {
            sign_in(iss, sub);
            assert_eq!(is_still(state, &tokens), still, "{iss} {sub}");
        }
    }

    #[test]
    fn renewal_is_due_before_the_warning_and_not_at_once() {
        let due_at = |life_s: u64| {
            let life = Life {
                issued_s: 1_000_000,
                expires_s: 1_000_000 + life_s,
            };
            (0..=life_s)
                .find(|after| is_due(&life, life.issued_s + after))
                .map(|after| life_s - after)
        };
        // the life of the token, and how long before its end renewal begins, in seconds
        for (life_s, ahead_s) in [(300, 150), (3600, 1800), (43_200, 10_800), (10, 5)] {
            assert_eq!(due_at(life_s), Some(ahead_s), "{life_s}");
        }
    }
}
