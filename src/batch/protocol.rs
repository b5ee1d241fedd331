//! What device and collector say to each other around the batches: enrolment and replies.
//!
//! Every reply is a JSON object; readers ignore members they do not know.
#![warn(missing_docs)]

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::{Deserialize, Serialize};

use super::{BatchError, Installation, InstallationKey};
use crate::ids::{AgentName, Digest, OrgId};

/// The largest enrolment request, in bytes: an ID token may carry many groups, and more stands
/// beside it.
pub const ENROL_BYTES: usize = crate::limits::ID_TOKEN_BYTES + (16 << 10);
/// How long a challenge is good for, in seconds.
pub const CHALLENGE_S: u64 = 300;

const ENROL_DOMAIN: &[u8] = b"mcpshim/enrol/1\0";
const AGENT_DOMAIN: &[u8] = b"mcpshim/enrol-agent/1\0";
const PERSON_DOMAIN: &[u8] = b"mcpshim/enrol-person/1\0";
const NONCE_DOMAIN: &[u8] = b"mcpshim/login-nonce/1\0";

/// `POST /v1/enrol/challenge`: asks for something fresh to sign.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChallengeRequest {
    /// The installation's public key, base64.
    pub installation: String,
}

/// Its reply.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChallengeReply {
    /// Opaque bytes, base64; good for [`CHALLENGE_S`] and this installation only.
    pub challenge: String,
}

/// `POST /v1/enrol`: binds an installation key to who uses it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The organisation.
    pub org: OrgId,
    /// The installation's public key, base64.
    pub installation: String,
    /// The device, as it names itself; at most 128 bytes.
    pub machine_id: String,
    /// The challenge, as it came.
    pub challenge: String,
    /// The installation's signature over [`statement`], base64.
    pub signature: String,
    /// Who uses the installation, and the proof of it.
    pub proof: Proof,
}

/// Who uses an installation, and the proof of it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Proof {
    /// An agent, by a signature of its own key over [`agent_statement`].
    Agent {
        /// Its name in the registry.
        name: AgentName,
        /// The signature, base64.
        signature: String,
    },
    /// A person, by an ID token of an issuer in the registry.
    Person {
        /// The token. It is checked and forgotten; the collector keeps issuer, subject and name.
        id_token: String,
        /// What its nonce was made with, see [`login_nonce`]; none for a token without a nonce.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        salt: Option<String>,
        /// The installation's signature over [`person_statement`], base64.
        signature: String,
    },
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent { name, .. } => write!(f, "Agent({name})"),
            Self::Person { id_token, .. } => {
                write!(f, "Person(«redacted {} bytes»)", id_token.len())
            }
        }
    }
}

/// The reply to an enrolment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolReply {
    /// Whom the installation is bound to now, e.g. `agent nightly`.
    pub enrolled: String,
}

/// Where a batch was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lane {
    /// A sealed part that came after its record.
    Body,
    /// It contradicts what was stored of the same stream; both are kept.
    Fork,
    /// With the rest of its stream.
    Main,
    /// A frame nobody could read; its bytes are kept.
    Quarantine,
}

/// How far the collector trusts the key that signed, when the batch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Bound to a person or an agent that the registry still names.
    Enrolled,
    /// Bound only to agents that the registry revoked or no longer names.
    Revoked,
    /// Bound to nobody yet.
    Unknown,
}

/// 200: durable at the collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The collector holds the stream up to and including this record, as far as this batch is
    /// concerned. May be less than the batch's last: the rest is to be sent from there.
    pub acked_seq: u64,
    /// Where it lies.
    pub lane: Lane,
    /// How far the key is trusted.
    pub standing: Standing,
}

/// 409: the batch does not follow what is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewind {
    /// The record to go on from.
    pub expected_seq: u64,
    /// The last record to send before what is already stored begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto_seq: Option<u64>,
}

/// Any other refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One sentence for people.
    pub error: String,
    /// 422: the first record that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// Returns the bytes an installation signs to enrol.
///
/// Each part goes with its length, so that no two statements are the same bytes.
#[must_use]
pub fn statement(
    org: &OrgId,
    installation: &Installation,
    machine_id: &str,
    challenge: &[u8],
) -> Vec<u8> {
    let mut out = ENROL_DOMAIN.to_vec();
    for part in [
        org.as_str().as_bytes(),
        &installation.0,
        machine_id.as_bytes(),
        challenge,
    ] {
        // parts are bounded by their readers, far below 4 GiB
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// Returns the bytes an agent signs to say that an installation is its own.
#[must_use]
pub fn agent_statement(name: &AgentName, statement: &[u8]) -> Vec<u8> {
    let mut out = AGENT_DOMAIN.to_vec();
    let name = name.as_str().as_bytes();
    out.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(statement);
    out
}

/// Returns the bytes an installation signs to say that this ID token is meant for it: nobody on
/// the way can put another token in the place of the one that was sent.
#[must_use]
pub fn person_statement(id_token: &str, statement: &[u8]) -> Vec<u8> {
    let mut out = PERSON_DOMAIN.to_vec();
    out.extend_from_slice(&Digest::of(id_token.as_bytes()).0);
    out.extend_from_slice(statement);
    out
}

/// The nonce of a sign-in that is to enrol this installation, from a salt nobody else knows yet.
///
/// The identity provider signs the nonce into the ID token. So the token names the installation
/// it was asked for: for another key nobody finds a salt.
#[must_use]
pub fn login_nonce(installation: &Installation, salt: &str) -> String {
    let mut bytes = NONCE_DOMAIN.to_vec();
    bytes.extend_from_slice(&installation.0);
    bytes.extend_from_slice(salt.as_bytes());
    BASE64URL_NOPAD.encode(&Digest::of(&bytes).0)
}

/// Who enrols, as the device holds it.
#[derive(Debug)]
pub enum Enrolling<'a> {
    /// An agent and its Ed25519 key.
    Agent(&'a AgentName, &'a ring::signature::Ed25519KeyPair),
    /// A person's ID token, and the salt of its nonce.
    Person(&'a str, Option<&'a str>),
}

/// Makes the request that answers a challenge.
///
/// # Errors
/// [`BatchError::Field`] when the challenge is not base64.
pub fn answer(
    org: &OrgId,
    key: &InstallationKey,
    machine_id: &str,
    challenge: &str,
    who: &Enrolling<'_>,
) -> Result<EnrolRequest, BatchError> {
    let bytes = BASE64
        .decode(challenge.as_bytes())
        .map_err(|_not| BatchError::Field("challenge"))?;
    let statement = statement(org, &key.public(), machine_id, &bytes);
    Ok(EnrolRequest {
        org: org.clone(),
        installation: BASE64.encode(&key.public().0),
        machine_id: machine_id.to_owned(),
        challenge: challenge.to_owned(),
        signature: BASE64.encode(key.pair().sign(&statement).as_ref()),
        proof: match who {
            Enrolling::Agent(name, pair) => Proof::Agent {
                name: (*name).clone(),
                signature: BASE64.encode(pair.sign(&agent_statement(name, &statement)).as_ref()),
            },
            Enrolling::Person(id_token, salt) => Proof::Person {
                signature: BASE64.encode(
                    key.pair()
                        .sign(&person_statement(id_token, &statement))
                        .as_ref(),
                ),
                id_token: (*id_token).to_owned(),
                salt: salt.map(str::to_owned),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_statements_share_their_bytes() {
        let installation = Installation([1; 32]);
        let a = statement(&"a".parse().unwrap(), &installation, "bc", b"d");
        let b = statement(&"a".parse().unwrap(), &installation, "b", b"cd");
        assert_ne!(a, b);
    }

    #[test]
    fn token_is_not_printed() {
        let proof = Proof::Person {
            id_token: "eyJhbGciOi".to_owned(),
            salt: None,
            signature: String::new(),
        };
        assert_eq!(format!("{proof:?}"), "Person(«redacted 10 bytes»)");
    }
}
