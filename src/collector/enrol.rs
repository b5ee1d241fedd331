//! Enrolment: whose installation is this? Pure.
//!
//! Both proofs begin with the installation's own signature over a challenge of this server, so
//! that nobody enrols a key they do not hold. An agent adds a signature of its key over the same
//! statement. A person adds an ID token, which names no installation: whoever holds a person's
//! token while it is valid can enrol a key of their own for that person.

use data_encoding::BASE64;
use ring::hmac;

use super::store::{Who, agent_key};
use crate::batch::Installation;
use crate::batch::protocol::{self, CHALLENGE_S, EnrolRequest, Proof};
use crate::clock::{Entropy, Now};
use crate::identity::{self, Caller};
use crate::ids::OrgId;
use crate::registry::doc::Registry;
use crate::registry::{Freshness, Verified};

/// The longest name a device gives itself, in bytes.
const MACHINE_ID_BYTES: usize = 128;

/// An enrolment that is refused: status and sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub u16, pub String);

fn refuse<T>(status: u16, sentence: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(status, sentence.into()))
}

/// Makes challenges and knows its own again, without remembering any.
pub struct Challenger(hmac::Key);

impl std::fmt::Debug for Challenger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenger")
    }
}

impl Challenger {
    /// Makes one that lives as long as the process: a challenge does not survive a restart.
    #[must_use]
    pub fn new(entropy: &mut dyn Entropy) -> Self {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        entropy.fill(secret.as_mut());
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()))
    }

    /// Returns a challenge for this installation: when it was made, and a tag over both.
    #[must_use]
    pub fn challenge(&self, installation: &Installation, now: &Now) -> Vec<u8> {
        let mut out = now.unix_s().to_be_bytes().to_vec();
        let tag = hmac::sign(&self.0, &tagged(&out, installation));
        out.extend_from_slice(tag.as_ref());
        out
    }

    fn check(&self, challenge: &[u8], installation: &Installation, now: &Now) -> bool {
        let Some((made, tag)) = challenge.split_first_chunk::<8>() else {
            return false;
        };
        let made_s = u64::from_be_bytes(*made);
        hmac::verify(&self.0, &tagged(made, installation), tag).is_ok()
            && made_s <= now.unix_s()
            && now.unix_s() - made_s <= CHALLENGE_S
    }
}

fn tagged(made: &[u8], installation: &Installation) -> Vec<u8> {
    let mut message = made.to_vec();
    message.extend_from_slice(&installation.0);
    message
}

/// Reads an installation's public key.
///
/// # Errors
/// [`Refusal`] when it is not one.
pub fn installation(text: &str) -> Result<Installation, Refusal> {
    BASE64
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map(Installation)
        .ok_or_else(|| {
            Refusal(
                400,
                "the installation key is not 32 bytes in base64".to_owned(),
            )
        })
}

/// Checks an enrolment and says who it binds the installation to.
///
/// # Errors
/// [`Refusal`] for everything that is not a proof under this registry.
pub fn check(
    request: &EnrolRequest,
    challenger: &Challenger,
    org: &OrgId,
    registry: &Verified<Registry>,
    freshness: Freshness,
    now: &Now,
) -> Result<(Installation, Who), Refusal> {
    if request.org != *org {
        return refuse(
            403,
            format!("this is the collector of {org}, not {}", request.org),
        );
    }
    if request.machine_id.len() > MACHINE_ID_BYTES {
        return refuse(
            400,
            format!("the machine id is longer than {MACHINE_ID_BYTES} bytes"),
        );
    }
    // who may act for whom changes; an old registry answers no new question
    if freshness == Freshness::Lapsed {
        return refuse(
            503,
            "the collector's registry has lapsed; nobody is enrolled until it is renewed",
        );
    }
    let installation = installation(&request.installation)?;
    let Ok(challenge) = BASE64.decode(request.challenge.as_bytes()) else {
        return refuse(400, "the challenge is not base64");
    };
    if !challenger.check(&challenge, &installation, now) {
        return refuse(
            401,
            "the challenge is not one of ours, or is too old; ask for another",
        );
    }
    let statement =
        protocol::statement(&request.org, &installation, &request.machine_id, &challenge);
    let signature = BASE64
        .decode(request.signature.as_bytes())
        .unwrap_or_default();
    if installation.verify(&statement, &signature).is_err() {
        return refuse(
            401,
            "the installation's signature over the statement does not hold",
        );
    }
    let who = match &request.proof {
        Proof::Agent { name, signature } => {
            let Some(public) = agent_key(registry, name, now) else {
                return refuse(403, format!("the registry names no live agent {name}"));
            };
            let key = Installation(public);
            let signature = BASE64.decode(signature.as_bytes()).unwrap_or_default();
            if key
                .verify(&protocol::agent_statement(name, &statement), &signature)
                .is_err()
            {
                return refuse(403, format!("the signature is not that of agent {name}"));
            }
            Who::Agent {
                name: name.clone(),
                key: key.id(),
            }
        }
        Proof::Person { id_token } => match identity::person(registry, id_token, now) {
            Ok(Caller::Person {
                issuer,
                subject,
                display,
                ..
            }) => Who::Person {
                issuer,
                subject,
                display,
            },
            Ok(Caller::Agent { .. }) => return refuse(403, "an ID token names a person"),
            Err(error) => return refuse(403, error.to_string()),
        },
    };
    Ok((installation, who))
}
