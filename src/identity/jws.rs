//! Verifies the signature of a compact JWS (RFC 7515 §7.1) by one key of a JWK set (RFC 7517).
//!
//! Three algorithms: EdDSA with Ed25519 (RFC 8037), ES256 and RS256 (RFC 7518 §3). A key decides
//! which of them it is good for; the token's header only says which it claims to be. Everything
//! else is refused: `none`, MACs, other curves, RSA keys below 2,048 or above 8,192 bits.
//! Claims are not looked at here.

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde_json::Value;

/// A public key of an issuer and the one algorithm it may be used with.
#[derive(Debug)]
pub(super) struct Key<'k> {
    /// `kid`.
    id: Option<&'k str>,
    material: Material,
}

/// What a signature is verified with; there is no way to use a key for another algorithm.
#[derive(Debug)]
enum Material {
    /// An Ed25519 public key, 32 bytes.
    EdDsa(Vec<u8>),
    /// A point of P-256, uncompressed: 4, x, y.
    Es256(Vec<u8>),
    /// Modulus and exponent, big-endian.
    Rs256 { n: Vec<u8>, e: Vec<u8> },
}

/// Bytes of one coordinate of P-256.
const COORDINATE: usize = 32;

impl<'k> Key<'k> {
    /// Reads one member of a JWK set's `keys`. `None` for a key of another kind, for another use
    /// than signatures, for another algorithm than its kind has here, and for one that is broken:
    /// such a key must not hide the others.
    pub(super) fn read(jwk: &'k Value) -> Option<Self> {
        let text = |member: &str| jwk.get(member).map(Value::as_str);
        let bytes = |member: &str| decode(text(member)??);
        let coordinate = |member: &str| bytes(member).filter(|xy| xy.len() == COORDINATE);
        let material = match (text("kty")??, text("crv").flatten()) {
            ("OKP", Some("Ed25519")) => Material::EdDsa(bytes("x")?),
            ("EC", Some("P-256")) => {
                let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
                Material::Es256(point)
            }
            ("RSA", _) => Material::Rs256 {
                n: without_zeros(bytes("n")?),
                e: without_zeros(bytes("e")?),
            },
            _ => return None,
        };
        let key = Self {
            id: match text("kid") {
                None => None,
                Some(id) => Some(id?),
            },
            material,
        };
        let for_signatures = text("use").is_none_or(|purpose| purpose == Some("sig"));
        let agrees = text("alg").is_none_or(|alg| alg == Some(key.algorithm()));
        let may_verify = jwk.get("key_ops").is_none_or(|operations| {
            let operations = operations.as_array();
            operations.is_some_and(|all| all.iter().any(|operation| operation == "verify"))
        });
        (for_signatures && agrees && may_verify).then_some(key)
    }

    /// Whether a token that names `kid` and `alg` in its header may be of this key.
    pub(super) fn fits(&self, kid: Option<&str>, alg: &str) -> bool {
        (kid.is_none() || self.id == kid) && self.algorithm() == alg
    }

    /// `alg` of the tokens this key signs.
    fn algorithm(&self) -> &'static str {
        match self.material {
            Material::EdDsa(_) => "EdDSA",
            Material::Es256(_) => "ES256",
            Material::Rs256 { .. } => "RS256",
        }
    }

    /// Whether this key signed `token`, all of it but its third part.
    pub(super) fn signed(&self, token: &str) -> bool {
        let Some((signed, signature)) = token.rsplit_once('.') else {
            return false;
        };
        let Some(signature) = decode(signature) else {
            return false;
        };
        let message = signed.as_bytes();
        let verified = match &self.material {
            Material::EdDsa(x) => UnparsedPublicKey::new(&ED25519, x).verify(message, &signature),
            Material::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, &signature)
            }
            Material::Rs256 { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                &signature,
            ),
        };
        verified.is_ok()
    }
}

/// base64url without padding, as JOSE writes it.
fn decode(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}

/// Some issuers pad the modulus with a zero byte, which RFC 7518 §6.3.1.1 tells readers to expect.
fn without_zeros(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
    use serde_json::json;

    use super::*;

    fn encode(bytes: &[u8]) -> String {
        data_encoding::BASE64URL_NOPAD.encode(bytes)
    }

    /// RFC 8037 appendix A: key and token.
    fn rfc_8037() -> (Value, String) {
        let key = json!({
            "kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        });
        let token = concat!(
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        );
        (key, token.to_owned())
    }

    #[test]
    fn the_vectors_of_the_standards_hold() {
        let (ed, token) = rfc_8037();
        assert!(Key::read(&ed).unwrap().signed(&token));
        // RFC 7515 appendix A.3
        let es = json!({
            "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        });
        let token = concat!(
            "eyJhbGciOiJFUzI1NiJ9.",
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt",
            "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA",
            "pmWQxfKTUJqPP3-Kg6NU1Q",
        );
        let es = Key::read(&es).unwrap();
        assert!(es.signed(token));
        assert!(!es.signed(&token.replacen("DtEh", "DtEi", 1)));
    }

    #[test]
    fn nothing_of_a_token_can_change() {
        let (key, token) = rfc_8037();
        let key = Key::read(&key).unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // the last character of a part has bits that say nothing; they must be zero then
            assert!(!key.signed(&changed), "{changed}");
        }
        for cut in ["", ".", "a", "a.b", "a.b.", "..."] {
            assert!(!key.signed(cut), "{cut}");
        }
    }

    #[test]
    fn a_key_is_good_for_one_algorithm_and_for_signatures_only() {
        let (mut key, _) = rfc_8037();
        key["kid"] = json!("k");
        let fits = |key: &Value, kid, alg| Key::read(key).is_some_and(|k| k.fits(kid, alg));
        assert!(fits(&key, Some("k"), "EdDSA"));
        assert!(fits(&key, None, "EdDSA"));
        assert!(!fits(&key, Some("K"), "EdDSA"));
        for alg in ["", "none", "HS256", "ES256", "RS256", "eddsa"] {
            assert!(!fits(&key, Some("k"), alg), "{alg}");
        }
        for (member, good, bad) in [
            ("use", json!("sig"), json!("enc")),
            ("use", json!("sig"), json!(7)),
            ("alg", json!("EdDSA"), json!("ES256")),
            ("alg", json!("EdDSA"), json!(null)),
            ("key_ops", json!(["sign", "verify"]), json!(["sign"])),
            ("key_ops", json!(["verify"]), json!("verify")),
            ("kid", json!("k"), json!(7)),
        ] {
            let with = |value: Value| {
                let mut key = key.clone();
                key[member] = value;
                fits(&key, None, "EdDSA")
            };
            assert!(with(good), "{member}");
            assert!(!with(bad.clone()), "{member}: {bad}");
        }
        for other in [
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
            json!({"kty": "RSA", "e": "AQAB"}),
            json!({"kty": "OKP"}),
            json!({"kty": 1}),
            json!("text"),
            json!(null),
        ] {
            assert!(Key::read(&other).is_none(), "{other}");
        }
    }

    #[test]
    fn short_keys_and_points_off_the_curve_sign_nothing() {
        let rng = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &rng).unwrap();
        let point = pair.public_key().as_ref();
        let head = encode(br#"{"alg":"ES256"}"#);
        let signature = pair.sign(&rng, format!("{head}.").as_bytes()).unwrap();
        let token = format!("{head}..{}", encode(signature.as_ref()));
        let key = |y: &[u8]| {
            let (x, y) = (encode(&point[1..33]), encode(y));
            json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
        };
        assert!(Key::read(&key(&point[33..])).unwrap().signed(&token));
        assert!(!Key::read(&key(&[1; 32])).unwrap().signed(&token));
        // the signature in ASN.1, as other protocols write it
        let asn1 = format!("{head}..{}", encode(&[0x30, 0x06, 2, 1, 1, 2, 1, 1]));
        assert!(!Key::read(&key(&point[33..])).unwrap().signed(&asn1));
        let short = json!({"kty": "RSA", "n": encode(&[0xc5; 128]), "e": "AQAB"});
        assert!(!Key::read(&short).unwrap().signed(&token));
        let small = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(&[0; 31])});
        assert!(!Key::read(&small).unwrap().signed(&token));
        let seed = Ed25519KeyPair::generate_pkcs8(&rng).unwrap();
        let stranger = Ed25519KeyPair::from_pkcs8(seed.as_ref()).unwrap();
        let x = encode(stranger.public_key().as_ref());
        let stranger = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        assert!(!Key::read(&stranger).unwrap().signed(&rfc_8037().1));
    }
}
