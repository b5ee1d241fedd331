//! ID tokens that a test signs itself.

use ring::signature::Ed25519KeyPair;
use serde_json::{Value, json};

/// A token of the key `k` with those claims, as a provider would issue it.
pub(crate) fn id_token(key: &Ed25519KeyPair, claims: &Value) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": "k"});
    let head = [header.to_string(), claims.to_string()].map(|part| encode(part.as_bytes()));
    let head = head.join(".");
    let signature = encode(key.sign(head.as_bytes()).as_ref());
    format!("{head}.{signature}")
}
