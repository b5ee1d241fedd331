//! Who calls: an agent by its key, a person by an ID token, or nobody.
//!
//! Pure: key bytes, token text, the registry and `now` come in. An agent proves possession of the
//! private half of the key the registry names. A person's ID token (OpenID Connect Core §3.1.3.7)
//! is verified against the issuer's keys as the registry holds them, never as the network or the
//! token offers them. Neither ever becomes the other.
#![warn(missing_docs)]

mod jws;

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Map, Value};

use crate::clock::{Latest, Now, Span, Utc};
use crate::ids::{AgentName, Digest, KeyId, RoleName};
use crate::limits;
use crate::registry::doc::{IssuerDoc, Registry, RoleDoc};
use crate::text;

/// Who calls. Made only by verification; the roles are those the registry gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// An agent that proved possession of its key.
    Agent {
        /// Its name in the registry.
        name: AgentName,
        /// The key that proved it.
        key: KeyId,
        /// Its roles, sorted.
        roles: Vec<RoleName>,
    },
    /// A person whose ID token the registry's issuer keys verified.
    Person {
        /// `iss`.
        issuer: String,
        /// `sub`.
        subject: String,
        /// A name to show, from the token; never decides anything.
        display: String,
        /// Roles by the registry's group mapping, sorted.
        roles: Vec<RoleName>,
        /// `exp`, in Unix seconds.
        expires: u64,
    },
}

impl Caller {
    /// Its roles, sorted.
    #[must_use]
    pub fn roles(&self) -> &[RoleName] {
        match self {
            Self::Agent { roles, .. } | Self::Person { roles, .. } => roles,
        }
    }

    /// Whose credentials this caller uses: its own, and no other's.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match self {
            Self::Agent { name, .. } => Owner::agent(name),
            Self::Person {
                issuer, subject, ..
            } => Owner::person(issuer, subject),
        }
    }

    /// A digest of what makes a caller the same one: the agent and its key, or the person.
    #[must_use]
    pub fn identity(&self) -> Digest {
        let parts = match self {
            Self::Agent { name, key, .. } => {
                ["agent", &name.to_string(), &key.to_string()].join("\0")
            }
            Self::Person {
                issuer, subject, ..
            } => ["person", issuer, subject].join("\0"),
        };
        Digest::of(parts.as_bytes())
    }
}

/// Whose a kept credential is: one agent, whatever its key, or one person of one issuer.
///
/// A digest, so that it has one length and tells nothing to whoever reads names of a vault or a
/// record; whoever knows the caller can make it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub Digest);

impl Owner {
    /// An agent of the organisation.
    #[must_use]
    pub fn agent(name: &AgentName) -> Self {
        Self(Digest::of(["agent", name.as_str()].join("\0").as_bytes()))
    }

    /// A person: `iss` and `sub` of their ID token.
    #[must_use]
    pub fn person(issuer: &str, subject: &str) -> Self {
        let parts = ["person", issuer, subject].join("\0");
        Self(Digest::of(parts.as_bytes()))
    }
}

/// Why nobody was recognised. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The agent's time is over.
    #[error("the time of agent {name} ended at {}; ask {owner} to renew it", Utc(*.at))]
    AgentExpired {
        /// The agent.
        name: AgentName,
        /// When.
        at: u64,
        /// Who answers for it.
        owner: String,
    },
    /// The registry denies the agent.
    #[error("agent {name} is revoked; ask {owner}")]
    AgentRevoked {
        /// The agent.
        name: AgentName,
        /// Who answers for it.
        owner: String,
    },
    /// Another key than the registry's.
    #[error(
        "the key at hand is {found}, but the registry names {expected} for agent {name}; use the \
         right key file, or ask {owner}"
    )]
    AgentKey {
        /// The agent.
        name: AgentName,
        /// The key that was offered.
        found: KeyId,
        /// The key the registry names.
        expected: String,
        /// Who answers for it.
        owner: String,
    },
    /// The registry does not name the agent.
    #[error(
        "the registry of {org} has no agent {name}; run `mcpshim registry refresh`, or ask {help}"
    )]
    AgentUnknown {
        /// The agent.
        name: AgentName,
        /// The organisation.
        org: String,
        /// Whom to ask.
        help: String,
    },
    /// A claim that must hold does not.
    #[error("the ID token is refused: {why}; run `mcpshim login`")]
    Claim {
        /// Which, and how.
        why: String,
    },
    /// The token's time has not begun: the clocks of this machine and the provider differ.
    #[error(
        "the clock of this machine is {} behind that of {issuer}, whose ID token begins at {}; \
         correct the clock, then run `mcpshim login`",
        Span(*.ahead_s),
        Utc(*.begin_s)
    )]
    Early {
        /// When it begins.
        begin_s: u64,
        /// How far ahead that is, in seconds.
        ahead_s: u64,
        /// `iss`.
        issuer: String,
    },
    /// The token's time is over.
    #[error("the sign-in ended at {}; run `mcpshim login` in any terminal and go on here", Utc(*.at))]
    Ended {
        /// `exp`.
        at: u64,
    },
    /// The identity provider cut the list of groups, so that roles cannot be known.
    #[error(
        "the identity provider did not put all groups into the ID token ({why}); ask {help} to \
         limit the claim to the groups that mcpshim uses"
    )]
    GroupsCut {
        /// What shows it.
        why: String,
        /// Whom to ask.
        help: String,
    },
    /// The ID token says nothing of groups, so that roles cannot be known.
    #[error(
        "the ID token has no claim `{claim}`, so that nobody knows which groups you are in; ask \
         {help} to let {issuer} put it into the ID token"
    )]
    GroupsMissing {
        /// The claim that is missing.
        claim: String,
        /// `iss`.
        issuer: String,
        /// Whom to ask.
        help: String,
    },
    /// No key of the issuer fits, or the signature is wrong.
    #[error(
        "the ID token is not signed by a key of {issuer} that the registry names \
         ({why}); run `mcpshim registry refresh` and `mcpshim login`, or ask {help}"
    )]
    Signature {
        /// `iss`.
        issuer: String,
        /// What is wrong.
        why: String,
        /// Whom to ask.
        help: String,
    },
    /// Not an Ed25519 private key.
    #[error("the agent key is not an Ed25519 private key (PKCS#8, PEM or DER); ask for a new one")]
    UnreadableKey,
    /// Not an ID token.
    #[error("the sign-in file holds no ID token ({why}); run `mcpshim login`")]
    UnreadableToken {
        /// What is wrong.
        why: &'static str,
    },
    /// No issuer of the registry.
    #[error(
        "the ID token comes from {issuer:?}, which the registry does not name; run `mcpshim login` \
         to sign in at {known}"
    )]
    UnknownIssuer {
        /// `iss`, cut.
        issuer: String,
        /// The registry's issuers.
        known: String,
    },
}

/// Recognises an agent by possession of its private key.
///
/// # Errors
/// [`IdentityError`] when the registry does not name it, revokes it, has let it expire, or names
/// another key.
pub fn agent(
    registry: &Registry,
    name: &AgentName,
    private_key: &[u8],
    now: &Now,
) -> Result<Caller, IdentityError> {
    let pair = signing_key(private_key)?;
    let Some(doc) = registry.policy.agents.get(name) else {
        return Err(IdentityError::AgentUnknown {
            name: name.clone(),
            org: registry.org.name.clone(),
            help: registry.org.help.clone(),
        });
    };
    let owner = || doc.owner.clone();
    if registry.revocations.agents.contains(name) {
        return Err(IdentityError::AgentRevoked {
            name: name.clone(),
            owner: owner(),
        });
    }
    let latest = registry.latest(now);
    if let Some(at) = doc.not_after.filter(|at| latest.is_past(*at)) {
        return Err(IdentityError::AgentExpired {
            name: name.clone(),
            at,
            owner: owner(),
        });
    }
    let expected = key_id(&doc.public_key);
    match key_id_of(pair.public_key().as_ref()) {
        Some(found) if expected.as_ref() == Some(&found) => {
            let mut roles = doc.roles.clone();
            roles.sort_unstable();
            roles.dedup();
            Ok(Caller::Agent {
                name: name.clone(),
                key: found,
                roles,
            })
        }
        Some(found) => Err(IdentityError::AgentKey {
            name: name.clone(),
            found,
            expected: expected.map_or_else(|| "no readable key".to_owned(), |id| id.to_string()),
            owner: owner(),
        }),
        None => Err(IdentityError::UnreadableKey),
    }
}

/// Reads an Ed25519 private key: PKCS#8 as PEM, as base64 or as DER.
///
/// # Errors
/// [`IdentityError::UnreadableKey`].
pub fn signing_key(bytes: &[u8]) -> Result<Ed25519KeyPair, IdentityError> {
    let pair = |der: &[u8]| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok();
    let from_text = || {
        let text = std::str::from_utf8(bytes).ok()?;
        let body: String = text
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .flat_map(str::chars)
            .filter(|ch| !ch.is_whitespace())
            .collect();
        let body = zeroize::Zeroizing::new(body);
        let der = data_encoding::BASE64.decode(body.as_bytes()).ok()?;
        pair(&zeroize::Zeroizing::new(der))
    };
    pair(bytes)
        .or_else(from_text)
        .ok_or(IdentityError::UnreadableKey)
}

/// The id of a public key that stands in a document as base64.
#[must_use]
pub fn key_id(public_key: &str) -> Option<KeyId> {
    key_id_of(&data_encoding::BASE64.decode(public_key.as_bytes()).ok()?)
}

fn key_id_of(public_key: &[u8]) -> Option<KeyId> {
    KeyId::parse(&Digest::of(public_key).to_string()).ok()
}

/// Recognises a person by an ID token.
///
/// # Errors
/// [`IdentityError`] for every token that is not exactly what the registry's issuer would give
/// this program's user now.
pub fn person(registry: &Registry, id_token: &str, now: &Now) -> Result<Caller, IdentityError> {
    let help = &registry.org.help;
    let id_token = id_token.trim();
    if id_token.len() > limits::ID_TOKEN_BYTES {
        return Err(IdentityError::UnreadableToken { why: "too long" });
    }
    let (header, unverified) = parts(id_token)?;
    let issuer = registry.org.issuers.iter().find(|issuer| {
        unverified.get("iss").and_then(Value::as_str) == Some(issuer.issuer.as_str())
    });
    let Some(issuer) = issuer else {
        let named = unverified.get("iss").and_then(Value::as_str);
        let known: Vec<&str> = registry
            .org
            .issuers
            .iter()
            .map(|i| i.issuer.as_str())
            .collect();
        return Err(IdentityError::UnknownIssuer {
            issuer: named.unwrap_or_default().chars().take(120).collect(),
            known: if known.is_empty() {
                format!("no issuer yet: ask {help}")
            } else {
                known.join(" or ")
            },
        });
    };
    let claims =
        verify(id_token, &header, unverified, issuer).map_err(|why| IdentityError::Signature {
            issuer: issuer.issuer.clone(),
            why,
            help: help.clone(),
        })?;
    let expires = check(&claims, issuer, registry.latest(now))?;
    let groups = groups(&claims, issuer, help)?;
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let subject = text("sub")
        .filter(|sub| !sub.is_empty() && sub.len() <= 255)
        .ok_or_else(|| IdentityError::Claim {
            why: "`sub` is missing".to_owned(),
        })?;
    let mut names = ["name", "preferred_username", "email"].into_iter();
    let display = names
        .find_map(|claim| text(claim).filter(|name| !name.is_empty()))
        .unwrap_or(subject);
    Ok(Caller::Person {
        issuer: issuer.issuer.clone(),
        subject: subject.to_owned(),
        display: text::plain(display).chars().take(120).collect(),
        roles: roles_of(registry, &groups),
        expires,
    })
}

/// The claims of an ID token, before anything is proved: for looking at one that [`person`]
/// accepted, or for deciding when to look. Decides nothing about who somebody is.
#[must_use]
pub fn unverified(id_token: &str) -> Option<Map<String, Value>> {
    let id_token = id_token.trim();
    if id_token.len() > limits::ID_TOKEN_BYTES {
        return None;
    }
    parts(id_token).ok().map(|(_, claims)| claims)
}

/// The roles that groups of the identity provider give, sorted.
#[must_use]
pub fn roles_of(registry: &Registry, groups: &[&str]) -> Vec<RoleName> {
    let given = |role: &RoleDoc| role.groups.iter().any(|group| groups.contains(&&**group));
    // the map is sorted by name, and so are the roles
    let roles = registry.policy.roles.iter();
    roles
        .filter(|(_, role)| given(role))
        .map(|(name, _)| name.clone())
        .collect()
}

type Claims = Map<String, Value>;

/// Header and claims, before anything is proved.
fn parts(token: &str) -> Result<(Claims, Claims), IdentityError> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        let why = "it does not have three parts";
        return Err(IdentityError::UnreadableToken { why });
    };
    let read = |part: &str, why| {
        data_encoding::BASE64URL_NOPAD
            .decode(part.as_bytes())
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or(IdentityError::UnreadableToken { why })
    };
    let header = read(header, "its header is not readable")?;
    let claims = read(claims, "its claims are not readable")?;
    Ok((header, claims))
}

/// Gives the claims back once a key of the issuer has signed the token they were read from.
fn verify(
    token: &str,
    header: &Claims,
    claims: Claims,
    issuer: &IssuerDoc,
) -> Result<Claims, String> {
    if header.contains_key("crit") {
        return Err("it asks for an extension that is not known".to_owned());
    }
    let typ = header.get("typ").and_then(Value::as_str);
    if typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
        return Err(format!(
            "its type is {}, not an ID token",
            typ.unwrap_or_default()
        ));
    }
    let alg = header
        .get("alg")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let kid = header.get("kid").and_then(Value::as_str);
    let keys = issuer.jwks.get("keys").and_then(Value::as_array);
    let keys = keys.into_iter().flatten().filter_map(jws::Key::read);
    let mut fitting = keys.filter(|key| key.fits(kid, alg));
    let Some(key) = fitting.next() else {
        return Err(match kid {
            Some(kid) => format!("no key {kid:.80} for {alg:.20}"),
            None => format!("no key for {alg:.20}"),
        });
    };
    if fitting.next().is_some() {
        return Err("it does not say which of several keys signed it".to_owned());
    }
    if key.signed(token) {
        Ok(claims)
    } else {
        Err("its signature is not the issuer's".to_owned())
    }
}

/// OpenID Connect Core §3.1.3.7, steps 2 to 5 and 9 to 10; returns `exp`.
fn check(claims: &Claims, issuer: &IssuerDoc, at: Latest) -> Result<u64, IdentityError> {
    let refuse = |why: String| Err(IdentityError::Claim { why });
    if claims.get("iss").and_then(Value::as_str) != Some(issuer.issuer.as_str()) {
        return refuse("`iss` is another".to_owned());
    }
    let audience: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let ours = issuer.client_id.as_str();
    if !audience.contains(&ours) {
        return refuse(format!("it is meant for {audience:?}, not for {ours}"));
    }
    match claims.get("azp").map(Value::as_str) {
        Some(Some(azp)) if azp == ours => {}
        Some(azp) => {
            let azp = azp.unwrap_or_default();
            return refuse(format!("it was issued to {azp:?}, not to {ours}"));
        }
        None if audience.len() > 1 => {
            return refuse("it has several audiences and no `azp`".to_owned());
        }
        None => {}
    }
    let Some(expires) = seconds(claims.get("exp")) else {
        return refuse("`exp` is missing".to_owned());
    };
    if at.is_past(holds_until(expires)) {
        return Err(IdentityError::Ended { at: expires });
    }
    let Some(issued) = seconds(claims.get("iat")) else {
        return refuse("`iat` is missing".to_owned());
    };
    let early = |begin_s: u64| IdentityError::Early {
        begin_s,
        ahead_s: at.left_s(begin_s),
        issuer: issuer.issuer.clone(),
    };
    if at.is_before(issued, limits::TOKEN_LEEWAY_S) {
        return Err(early(issued));
    }
    match (claims.get("nbf"), seconds(claims.get("nbf"))) {
        (None, _) => {}
        (Some(_), Some(from)) if !at.is_before(from, limits::TOKEN_LEEWAY_S) => {}
        (Some(_), Some(from)) => return Err(early(from)),
        (Some(_), None) => return refuse("`nbf` is not a time".to_owned()),
    }
    Ok(expires)
}

/// The Unix second at which a sign-in stops to hold: its `exp`, and what clocks may differ by. The
/// one answer for calls, `status` and verification.
#[must_use]
pub fn holds_until(expires: u64) -> u64 {
    expires.saturating_add(limits::TOKEN_LEEWAY_S)
}

/// A `NumericDate` (RFC 7519 §2): whole seconds, or a fraction that is cut.
fn seconds(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value.as_u64().or_else(|| {
        let text = value.as_f64().filter(|n| n.is_finite() && *n >= 0.0)?;
        // by way of its digits: a cast would saturate in silence
        format!("{:.0}", text.floor()).parse().ok()
    })
}

/// The groups, when the token surely holds all of them.
fn groups<'c>(
    claims: &'c Claims,
    issuer: &IssuerDoc,
    help: &str,
) -> Result<Vec<&'c str>, IdentityError> {
    let cut = |why: String| {
        Err(IdentityError::GroupsCut {
            why,
            help: help.to_owned(),
        })
    };
    let claim = issuer.groups_claim.as_str();
    // Entra ID: above 200 groups the claim is left out and this pointer put in its place
    let elsewhere = match claims.get("_claim_names") {
        None => false,
        Some(Value::Object(names)) => names.contains_key(claim) || names.contains_key("groups"),
        // OpenID Connect Core §5.6.2 knows no other form: what it means is not known
        Some(_) => true,
    };
    if elsewhere {
        return cut("`_claim_names` points elsewhere for them".to_owned());
    }
    if claims
        .get("hasgroups")
        .is_some_and(|has| has != &Value::Bool(false))
    {
        return cut("`hasgroups` stands for them".to_owned());
    }
    let groups: Vec<&str> = match claims.get(claim) {
        // an empty list says that there are none; no list says nothing
        None => {
            return Err(IdentityError::GroupsMissing {
                claim: claim.to_owned(),
                issuer: issuer.issuer.clone(),
                help: help.to_owned(),
            });
        }
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => match many.iter().map(Value::as_str).collect() {
            Some(names) => names,
            None => return cut(format!("`{claim}` holds something that is not a name")),
        },
        Some(_) => return cut(format!("`{claim}` is not a list of names")),
    };
    // Okta cuts at 100 without a word; Entra ID leaves the claim out above 200, and what stands
    // between the two and cuts there is not worth a guess
    if let count @ (100 | 200) = groups.len() {
        return cut(format!(
            "it holds exactly {count}, where some providers stop"
        ));
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use serde_json::json;

    use super::*;
    use crate::policy::fixture::{NOW, at, registry};
    use crate::registry::doc::AgentDoc;

    const ISSUER: &str = "https://idp.example";

    /// A fresh Ed25519 key: PKCS#8, and its public half as base64url.
    fn ed25519() -> (Vec<u8>, String) {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let public = encode(pair(der.as_ref()).public_key());
        (der.as_ref().to_vec(), public)
    }

    fn pair(der: &[u8]) -> Ed25519KeyPair {
        Ed25519KeyPair::from_pkcs8(der).unwrap()
    }

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        data_encoding::BASE64URL_NOPAD.encode(bytes.as_ref())
    }

    /// A token with that header and those claims, signed by whatever makes signatures.
    fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
        let head = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let signature = encode(sign(head.as_bytes()));
        format!("{head}.{signature}")
    }

    struct Idp {
        registry: Registry,
        key: Ed25519KeyPair,
    }

    fn idp() -> Idp {
        let (der, x) = ed25519();
        let mut registry = registry();
        registry
            .put_role("eng", &["g-eng", "g-all"])
            .put_role("ops", &["g-ops"]);
        registry.org.issuers = vec![IssuerDoc {
            issuer: ISSUER.to_owned(),
            client_id: "mcpshim".to_owned(),
            groups_claim: "groups".to_owned(),
            scopes: Vec::new(),
            device_flow: false,
            pkce_unadvertised: false,
            jwks: json!({"keys": [
                {"kty": "weird", "kid": "future"},
                {"kty": "oct", "kid": "mac", "k": "c2VjcmV0"},
                {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x},
            ]}),
        }];
        let key = pair(&der);
        Idp { registry, key }
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "sub": "ann", "aud": "mcpshim", "name": "Ann\u{1b} Lee",
            "iat": NOW - 10, "exp": NOW + 600, "groups": ["g-eng", "x"],
        })
    }

    fn header(alg: &str, kid: &str) -> Value {
        json!({"typ": "JWT", "alg": alg, "kid": kid})
    }

    impl Idp {
        fn token(&self, claims: &Value) -> String {
            token(&header("EdDSA", "k1"), claims, |head| {
                self.key.sign(head).as_ref().to_vec()
            })
        }

        fn check(&self, claims: &Value) -> Result<Caller, IdentityError> {
            person(&self.registry, &self.token(claims), &at(NOW))
        }

        /// The refusal of the usual claims with one of them changed.
        fn refusal(&self, claim: &str, value: Value) -> String {
            let mut claims = claims();
            claims[claim] = value;
            self.check(&claims).unwrap_err().to_string()
        }
    }

    #[test]
    fn a_person_has_the_roles_of_the_groups() {
        let idp = idp();
        let Ok(Caller::Person {
            subject,
            display,
            roles,
            expires,
            ..
        }) = idp.check(&claims())
        else {
            panic!("a good token");
        };
        assert_eq!((subject.as_str(), display.as_str()), ("ann", "Ann Lee"));
        assert_eq!(roles, [RoleName::parse("eng").unwrap()]);
        assert_eq!(expires, NOW + 600);
        let mut many = claims();
        many["aud"] = json!(["other", "mcpshim"]);
        many["azp"] = json!("mcpshim");
        many["groups"] = json!("g-ops");
        many["exp"] = json!(NOW as f64 + 0.5);
        let caller = idp.check(&many).unwrap();
        assert_eq!(caller.roles(), [RoleName::parse("ops").unwrap()]);
    }

    #[test]
    fn a_person_without_groups_has_no_role() {
        let idp = idp();
        let mut bare = claims();
        bare["groups"] = json!([]);
        assert_eq!(idp.check(&bare).unwrap().roles(), []);
    }

    #[test]
    fn every_claim_is_checked() {
        let idp = idp();
        insta::assert_snapshot!(idp.refusal("iss", json!("https://idp.example/")), @r#"the ID token comes from "https://idp.example/", which the registry does not name; run `mcpshim login` to sign in at https://idp.example"#);
        insta::assert_snapshot!(idp.refusal("aud", json!("other")), @r#"the ID token is refused: it is meant for ["other"], not for mcpshim; run `mcpshim login`"#);
        insta::assert_snapshot!(idp.refusal("aud", json!(["mcpshim", "other"])), @"the ID token is refused: it has several audiences and no `azp`; run `mcpshim login`");
        insta::assert_snapshot!(idp.refusal("azp", json!("other")), @r#"the ID token is refused: it was issued to "other", not to mcpshim; run `mcpshim login`"#);
        insta::assert_snapshot!(idp.refusal("exp", json!(NOW - 61)), @"the sign-in ended at 2027-01-15T07:58:59Z; run `mcpshim login` in any terminal and go on here");
        insta::assert_snapshot!(idp.refusal("exp", json!("soon")), @"the ID token is refused: `exp` is missing; run `mcpshim login`");
        insta::assert_snapshot!(idp.refusal("iat", json!(NOW + 61)), @"the clock of this machine is 1 min 1 s behind that of https://idp.example, whose ID token begins at 2027-01-15T08:01:01Z; correct the clock, then run `mcpshim login`");
        insta::assert_snapshot!(idp.refusal("iat", json!(null)), @"the ID token is refused: `iat` is missing; run `mcpshim login`");
        insta::assert_snapshot!(idp.refusal("nbf", json!(NOW + 61)), @"the clock of this machine is 1 min 1 s behind that of https://idp.example, whose ID token begins at 2027-01-15T08:01:01Z; correct the clock, then run `mcpshim login`");
        insta::assert_snapshot!(idp.refusal("sub", json!("")), @"the ID token is refused: `sub` is missing; run `mcpshim login`");
        // the leeway, and not a second more
        let mut late = claims();
        late["exp"] = json!(NOW - 59);
        assert!(idp.check(&late).is_ok());
        late["exp"] = json!(NOW - 60);
        assert!(idp.check(&late).is_err());
    }

    #[test]
    fn groups_that_were_cut_are_refused() {
        let idp = idp();
        insta::assert_snapshot!(idp.refusal("_claim_names", json!({"groups": "src1"})), @"the identity provider did not put all groups into the ID token (`_claim_names` points elsewhere for them); ask #mcp-help to limit the claim to the groups that mcpshim uses");
        let groups = |n: usize| json!((0..n).map(|i| format!("g{i}")).collect::<Vec<_>>());
        assert!(
            idp.refusal("hasgroups", json!(true))
                .contains("`hasgroups`")
        );
        assert!(idp.refusal("groups", groups(100)).contains("exactly 100"));
        assert!(idp.refusal("groups", groups(200)).contains("exactly 200"));
        assert!(
            idp.refusal("_claim_names", json!("groups"))
                .contains("`_claim_names`")
        );
        let mut missing = claims();
        missing.as_object_mut().unwrap().remove("groups");
        insta::assert_snapshot!(idp.check(&missing).unwrap_err(), @"the ID token has no claim `groups`, so that nobody knows which groups you are in; ask #mcp-help to let https://idp.example put it into the ID token");
        assert!(
            idp.refusal("groups", json!(["g-eng", 7]))
                .contains("not a name")
        );
        assert!(
            idp.refusal("groups", json!({"g-eng": 1}))
                .contains("not a list")
        );
        let mut fine = claims();
        fine["groups"] = groups(99);
        assert!(idp.check(&fine).is_ok());
    }

    #[test]
    fn only_a_key_of_the_registry_signs() {
        let idp = idp();
        let stranger = pair(&ed25519().0);
        let check = |header: &Value, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
            let token = token(header, &claims(), sign);
            person(&idp.registry, &token, &at(NOW))
                .unwrap_err()
                .to_string()
        };
        let by = |key: &Ed25519KeyPair, head: &[u8]| key.sign(head).as_ref().to_vec();
        let refused = check(&header("EdDSA", "k1"), &|head| by(&stranger, head));
        assert!(
            refused.contains("its signature is not the issuer's"),
            "{refused}"
        );
        let refused = check(&header("EdDSA", "k2"), &|head| by(&idp.key, head));
        assert!(refused.contains("no key k2 for EdDSA"), "{refused}");
        // a MAC over a secret that the set publishes
        let mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
        let refused = check(&header("HS256", "mac"), &|head| {
            ring::hmac::sign(&mac, head).as_ref().to_vec()
        });
        assert!(refused.contains("no key mac for HS256"), "{refused}");
        let mut other = header("EdDSA", "k1");
        other["typ"] = json!("at+jwt");
        let refused = check(&other, &|head| by(&idp.key, head));
        assert!(refused.contains("not an ID token"), "{refused}");
    }

    #[test]
    fn unsigned_and_mangled_tokens_are_refused() {
        let idp = idp();
        let token = idp.token(&claims());
        let (head, signature) = token.rsplit_once('.').unwrap();
        let (_, body) = head.split_once('.').unwrap();
        let encode = |json: &str| data_encoding::BASE64URL_NOPAD.encode(json.as_bytes());
        let none = encode(r#"{"alg":"none"}"#);
        let crit = encode(r#"{"alg":"EdDSA","kid":"k1","crit":["b64"],"b64":false}"#);
        for bad in [
            format!("{none}.{body}."),
            format!("{none}.{body}.{signature}"),
            format!("{crit}.{body}.{signature}"),
            format!("{head}."),
            format!("{head}.{signature}.x"),
            String::new(),
            "a.b.c".to_owned(),
            "x".repeat(limits::ID_TOKEN_BYTES + 1),
        ] {
            assert!(person(&idp.registry, &bad, &at(NOW)).is_err(), "{bad}");
        }
        assert!(person(&idp.registry, &format!("{token}\n"), &at(NOW)).is_ok());
    }

    #[test]
    fn a_key_is_used_for_its_own_algorithm_only() {
        let mut idp = idp();
        let rng = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &rng).unwrap();
        let point = pair.public_key().as_ref();
        let mut jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": "e1", "use": "sig", "alg": "ES256",
            "x": encode(&point[1..33]), "y": encode(&point[33..]),
        });
        let token = token(&header("ES256", "e1"), &claims(), |head| {
            pair.sign(&rng, head).unwrap().as_ref().to_vec()
        });
        let mut check = |jwk: &Value| {
            idp.registry.org.issuers[0].jwks = json!({"keys": [jwk]});
            person(&idp.registry, &token, &at(NOW))
        };
        assert!(check(&jwk).is_ok());
        jwk["use"] = json!("enc");
        assert!(check(&jwk).is_err());
        jwk["use"] = json!("sig");
        jwk["alg"] = json!("ES384");
        assert!(check(&jwk).is_err());
    }

    #[test]
    fn rs256_of_rfc_7515_is_read() {
        // RFC 7515 appendix A.2: the signature holds, the claims are not ours
        let mut idp = idp();
        let issuer = &mut idp.registry.org.issuers[0];
        issuer.issuer = "joe".to_owned();
        issuer.jwks = json!({"keys": [{"kty": "RSA", "e": "AQAB", "n": concat!(
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1P",
            "t0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSX",
            "ndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5I",
            "hlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        )}]});
        let token = concat!(
            "eyJhbGciOiJSUzI1NiJ9.",
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt",
            "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7",
            "AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4",
            "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K",
            "0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv",
            "hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB",
            "p0igcN_IoypGlUPQGe77Rw",
        );
        let error = person(&idp.registry, token, &at(NOW)).unwrap_err();
        assert!(matches!(error, IdentityError::Claim { .. }), "{error}");
        let forged = token.replacen("p0igcN", "p0igcM", 1);
        let error = person(&idp.registry, &forged, &at(NOW)).unwrap_err();
        assert!(matches!(error, IdentityError::Signature { .. }), "{error}");
    }

    fn agent_registry(public: &[u8]) -> (Registry, AgentName) {
        let name = AgentName::parse("ci").unwrap();
        let mut registry = registry();
        registry.put_role("ci", &[]);
        let doc = AgentDoc {
            owner: "build team".to_owned(),
            public_key: data_encoding::BASE64.encode(public),
            roles: vec![RoleName::parse("ci").unwrap()],
            not_after: Some(NOW + 10),
        };
        registry.policy.agents.insert(name.clone(), doc);
        (registry, name)
    }

    #[test]
    fn an_agent_is_who_holds_its_key() {
        let (der, public) = ed25519();
        let public = data_encoding::BASE64URL_NOPAD
            .decode(public.as_bytes())
            .unwrap();
        let (mut registry, name) = agent_registry(&public);
        let base64 = data_encoding::BASE64.encode(&der);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
        for form in [der.as_slice(), base64.as_bytes(), pem.as_bytes()] {
            let caller = agent(&registry, &name, form, &at(NOW)).unwrap();
            assert_eq!(caller.roles(), [RoleName::parse("ci").unwrap()]);
        }
        let refusal = |registry: &Registry, key: &[u8], second| {
            agent(registry, &name, key, &at(second)).unwrap_err()
        };
        let (other, _) = ed25519();
        assert!(matches!(
            refusal(&registry, &other, NOW),
            IdentityError::AgentKey { .. }
        ));
        assert_eq!(
            refusal(&registry, b"junk", NOW),
            IdentityError::UnreadableKey
        );
        insta::assert_snapshot!(refusal(&registry, &der, NOW + 10), @"the time of agent ci ended at 2027-01-15T08:00:10Z; ask build team to renew it");
        registry.revocations.agents.push(name.clone());
        insta::assert_snapshot!(refusal(&registry, &der, NOW), @"agent ci is revoked; ask build team");
        registry.policy.agents.clear();
        insta::assert_snapshot!(refusal(&registry, &der, NOW), @"the registry of Acme has no agent ci; run `mcpshim registry refresh`, or ask #mcp-help");
    }
}
