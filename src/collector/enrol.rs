//! Enrolment: whose installation is this? Pure.
//!
//! Both proofs begin with the installation's own signature over a challenge of this server, so
//! that nobody enrols a key they do not hold. An agent adds a signature of its key over the same
//! statement. A person adds an ID token whose nonce was made of this installation's key before the
//! person signed in, and the installation's signature over that token: neither a token alone nor
//! a whole request that somebody saw enrols another key. A token of the device flow has no nonce;
//! where the registry allows that flow, whoever holds such a token while it is valid can enrol a
//! key of their own, which the alert about a further installation tells.

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
        Proof::Person {
            id_token,
            salt,
            signature,
        } => {
            let signature = BASE64.decode(signature.as_bytes()).unwrap_or_default();
            let bound = protocol::person_statement(id_token, &statement);
            if installation.verify(&bound, &signature).is_err() {
                return refuse(
                    401,
                    "the installation's signature over the ID token does not hold",
                );
            }
            person(registry, id_token, salt.as_deref(), &installation, now)?
        }
    };
    Ok((installation, who))
}

/// Checks an ID token, and that the sign-in it comes from was begun for this installation.
fn person(
    registry: &Registry,
    id_token: &str,
    salt: Option<&str>,
    installation: &Installation,
    now: &Now,
) -> Result<Who, Refusal> {
    let (issuer, subject, display) = match identity::person(registry, id_token, now) {
        Ok(Caller::Person {
            issuer,
            subject,
            display,
            ..
        }) => (issuer, subject, display),
        Ok(Caller::Agent { .. }) => return refuse(403, "an ID token names a person"),
        Err(error) => return refuse(403, error.to_string()),
    };
    let claims = identity::unverified(id_token).unwrap_or_default();
    let nonce = claims.get("nonce").and_then(serde_json::Value::as_str);
    match (nonce, salt) {
        (Some(nonce), Some(salt)) if protocol::login_nonce(installation, salt) == nonce => {}
        (Some(_), _) => {
            return refuse(
                403,
                "the ID token comes from a sign-in for another installation; run `mcpshim login` \
                 on this one",
            );
        }
        (None, _) => {
            let mut issuers = registry.org.issuers.iter();
            // only a device code brings a token that belongs to no sign-in
            if !issuers.any(|doc| doc.issuer == issuer && doc.device_flow) {
                return refuse(
                    403,
                    "the ID token does not say for which installation it was given; run `mcpshim \
                     login` on this one",
                );
            }
        }
    }
    Ok(Who::Person {
        issuer,
        subject,
        display,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use data_encoding::BASE64URL_NOPAD;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;
    use crate::batch::InstallationKey;
    use crate::batch::protocol::{Enrolling, Standing};
    use crate::clock::CountingEntropy;
    use crate::collector::store::{Binding, InstallationDoc};
    use crate::registry::doc::{
        AgentDoc, IssuerDoc, OrgDoc, PolicyDoc, RegistryVersion, RevocationsDoc,
    };

    const UNIX_S: u64 = 1_795_238_400;

    fn now(after_s: u64) -> Now {
        Now {
            wall_us: (UNIX_S + after_s) * 1_000_000,
            mono_us: 0,
        }
    }

    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    pub(in crate::collector) fn registry() -> Registry {
        let agent = AgentDoc {
            owner: "robots".to_owned(),
            public_key: BASE64.encode(pair(2).public_key().as_ref()),
            roles: Vec::new(),
            not_after: None,
        };
        let issuer_key = BASE64URL_NOPAD.encode(pair(3).public_key().as_ref());
        Registry {
            version: RegistryVersion::default(),
            digest: crate::ids::Digest::default(),
            expires: u64::MAX,
            checked: 0,
            org: OrgDoc {
                format: 1,
                min_reader: 1,
                org: org(),
                name: String::new(),
                help: String::new(),
                collector: None,
                audit_keys: Vec::new(),
                issuers: vec![IssuerDoc {
                    issuer: "https://idp.example".to_owned(),
                    client_id: "mcpshim".to_owned(),
                    groups_claim: "groups".to_owned(),
                    scopes: Vec::new(),
                    device_flow: false,
                    pkce_unadvertised: false,
                    jwks: json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": issuer_key}]}),
                }],
                secret_stores: crate::registry::doc::SecretStoresDoc::default(),
                grace_hours: 0,
                limits: crate::registry::doc::OrgLimits::default(),
                min_client: None,
            },
            policy: PolicyDoc {
                format: 1,
                min_reader: 1,
                roles: BTreeMap::default(),
                agents: BTreeMap::from([("ci".parse().unwrap(), agent)]),
                rules: Vec::new(),
                grants: BTreeMap::default(),
            },
            revocations: RevocationsDoc::default(),
            servers: BTreeMap::default(),
        }
    }

    fn org() -> OrgId {
        "example".parse().unwrap()
    }

    fn installation_key() -> InstallationKey {
        InstallationKey::from_seed(&[1; 32]).unwrap()
    }

    fn challenger() -> Challenger {
        Challenger::new(&mut CountingEntropy(7))
    }

    fn request(who: &Enrolling<'_>, asked: &Installation) -> EnrolRequest {
        let challenge = BASE64.encode(&challenger().challenge(asked, &now(0)));
        protocol::answer(&org(), &installation_key(), "laptop", &challenge, who).unwrap()
    }

    fn agent_request(seed: u8) -> EnrolRequest {
        let name = "ci".parse().unwrap();
        let who = Enrolling::Agent(&name, &pair(seed));
        request(&who, &installation_key().public())
    }

    const SALT: &str = "a salt";

    /// A token of a sign-in for the installation of these tests.
    fn token(signer: u8, expires: u64) -> String {
        let nonce = protocol::login_nonce(&installation_key().public(), SALT);
        token_of(signer, expires, Some(&nonce))
    }

    fn token_of(signer: u8, expires: u64, nonce: Option<&str>) -> String {
        let part = |value: serde_json::Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let mut claims = json!({"iss": "https://idp.example", "aud": "mcpshim", "sub": "u1",
            "name": "Ada", "iat": UNIX_S - 10, "exp": expires, "groups": []});
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let text = format!(
            "{}.{}",
            part(json!({"alg": "EdDSA", "kid": "k", "typ": "JWT"})),
            part(claims),
        );
        let signature = pair(signer).sign(text.as_bytes());
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }

    fn checked(request: &EnrolRequest, registry: Registry, at: u64) -> Result<String, u16> {
        let registry = Verified::assume_for_tests(registry);
        check(
            request,
            &challenger(),
            &org(),
            &registry,
            Freshness::Fresh,
            &now(at),
        )
        .map(|(_, who)| who.to_string())
        .map_err(|Refusal(status, _)| status)
    }

    #[test]
    fn agent_enrols_by_its_key_and_by_no_other() {
        assert_eq!(
            checked(&agent_request(2), registry(), 1),
            Ok("agent ci".to_owned())
        );
        assert_eq!(checked(&agent_request(9), registry(), 1), Err(403));
    }

    #[test]
    fn agent_that_is_revoked_expired_or_gone_does_not_enrol() {
        let mut revoked = registry();
        revoked.revocations.agents.push("ci".parse().unwrap());
        assert_eq!(checked(&agent_request(2), revoked, 1), Err(403));
        let mut expired = registry();
        for agent in expired.policy.agents.values_mut() {
            agent.not_after = Some(UNIX_S);
        }
        assert_eq!(checked(&agent_request(2), expired, 1), Err(403));
        let mut gone = registry();
        gone.policy.agents.clear();
        assert_eq!(checked(&agent_request(2), gone, 1), Err(403));
    }

    #[test]
    fn person_enrols_by_an_id_token_of_a_known_issuer() {
        let ask = |token: &str| {
            let who = Enrolling::Person(token, Some(SALT));
            checked(&request(&who, &installation_key().public()), registry(), 1)
        };
        assert_eq!(ask(&token(3, UNIX_S + 600)), Ok("Ada".to_owned()));
        assert_eq!(ask(&token(4, UNIX_S + 600)), Err(403), "another signer");
        assert_eq!(ask(&token(3, UNIX_S - 86_400)), Err(403), "expired");
        assert_eq!(ask("no token"), Err(403));
    }

    #[test]
    fn token_of_a_sign_in_elsewhere_enrols_nothing() {
        let ask = |token: &str, salt| {
            let who = Enrolling::Person(token, salt);
            checked(&request(&who, &installation_key().public()), registry(), 1)
        };
        let good = token(3, UNIX_S + 600);
        assert_eq!(ask(&good, Some(SALT)), Ok("Ada".to_owned()));
        // a thief's installation: the token and even its salt were made for another key
        let other = InstallationKey::from_seed(&[6; 32]).unwrap().public();
        let stolen = protocol::login_nonce(&other, SALT);
        let stolen = token_of(3, UNIX_S + 600, Some(&stolen));
        assert_eq!(ask(&stolen, Some(SALT)), Err(403));
        assert_eq!(ask(&good, Some("another salt")), Err(403));
        assert_eq!(ask(&good, None), Err(403));
        assert_eq!(ask(&token_of(3, UNIX_S + 600, None), None), Err(403));
    }

    #[test]
    fn token_without_a_nonce_enrols_only_where_the_device_flow_is_allowed() {
        let bare = token_of(3, UNIX_S + 600, None);
        let ask = |device_flow| {
            let mut registry = registry();
            registry.org.issuers[0].device_flow = device_flow;
            let who = Enrolling::Person(&bare, None);
            checked(&request(&who, &installation_key().public()), registry, 1)
        };
        assert_eq!(ask(true), Ok("Ada".to_owned()));
        assert_eq!(ask(false), Err(403));
    }

    #[test]
    fn token_cannot_be_put_in_the_place_of_another() {
        let (mine, other) = (token(3, UNIX_S + 600), token(3, UNIX_S + 601));
        let who = Enrolling::Person(&mine, Some(SALT));
        let mut changed = request(&who, &installation_key().public());
        if let Proof::Person { id_token, .. } = &mut changed.proof {
            *id_token = other;
        }
        assert_eq!(checked(&changed, registry(), 1), Err(401));
    }

    #[test]
    fn challenge_is_for_one_installation_and_a_short_time() {
        assert_eq!(
            checked(&agent_request(2), registry(), CHALLENGE_S),
            Ok("agent ci".to_owned())
        );
        assert_eq!(
            checked(&agent_request(2), registry(), CHALLENGE_S + 1),
            Err(401)
        );
        let name = "ci".parse().unwrap();
        let stranger = InstallationKey::from_seed(&[5; 32]).unwrap().public();
        let who = Enrolling::Agent(&name, &pair(2));
        assert_eq!(checked(&request(&who, &stranger), registry(), 1), Err(401));
    }

    #[test]
    fn every_part_of_the_statement_is_signed() {
        let good = agent_request(2);
        let mut changed = good.clone();
        changed.machine_id.push('x');
        assert_eq!(checked(&changed, registry(), 1), Err(401));
        let mut changed = good.clone();
        changed.org = "other".parse().unwrap();
        assert_eq!(checked(&changed, registry(), 1), Err(403));
        let mut changed = good.clone();
        changed.signature = agent_request(9).signature.replace('A', "B");
        assert_eq!(checked(&changed, registry(), 1), Err(401));
        let mut changed = good;
        changed.machine_id = "x".repeat(MACHINE_ID_BYTES + 1);
        assert_eq!(checked(&changed, registry(), 1), Err(400));
    }

    #[test]
    fn nobody_is_enrolled_under_a_lapsed_registry() {
        let registry = Verified::assume_for_tests(registry());
        let result = check(
            &agent_request(2),
            &challenger(),
            &org(),
            &registry,
            Freshness::Lapsed,
            &now(1),
        );
        assert_eq!(result.map_err(|Refusal(status, _)| status), Err(503));
    }

    #[test]
    fn standing_follows_the_registry() {
        let mut doc = InstallationDoc {
            format: 1,
            min_reader: 1,
            installation: String::new(),
            machine_id: None,
            first_seen_us: 0,
            bindings: Vec::new(),
        };
        assert_eq!(doc.standing(&registry(), &now(0)), Standing::Unknown);
        let public: [u8; 32] = pair(2).public_key().as_ref().try_into().unwrap();
        doc.bindings.push(Binding {
            who: Who::Agent {
                name: "ci".parse().unwrap(),
                key: Installation(public).id(),
            },
            enrolled_us: 0,
        });
        assert_eq!(doc.standing(&registry(), &now(0)), Standing::Enrolled);
        let mut revoked = registry();
        revoked.revocations.agents.push("ci".parse().unwrap());
        assert_eq!(doc.standing(&revoked, &now(0)), Standing::Revoked);
        let mut other_key = registry();
        for agent in other_key.policy.agents.values_mut() {
            agent.public_key = BASE64.encode(pair(9).public_key().as_ref());
        }
        assert_eq!(doc.standing(&other_key, &now(0)), Standing::Revoked);
    }
}
