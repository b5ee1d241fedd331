//! Server certificates that no client of ours believes, though servers start with them.
//!
//! `openssl req -x509` makes a certificate of a CA. Used as a server's own it is refused by
//! whoever checks it as RFC 5280 says, however often it is named as the CA. The programs that
//! people give such a certificate to say so, before a device has to.

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

/// One sentence about a certificate that is a CA's and is used as a server's.
pub const CA_AS_SERVER: &str = "it is the certificate of a CA, and devices refuse one as a server's own (CaUsedAsEndEntity): make \
     one with `basicConstraints=CA:FALSE`";

/// How to make a certificate for one server that is its own CA.
pub const SELF_SIGNED: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -keyout key.pem \
     -out cert.pem -subj /CN=collector -addext subjectAltName=DNS:collector.example -addext \
     basicConstraints=critical,CA:FALSE";

/// `basicConstraints` (RFC 5280 §4.2.1.9) in DER, up to where its value begins.
const BASIC_CONSTRAINTS: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x13];
/// `true` in DER.
const TRUE: [u8; 3] = [0x01, 0x01, 0xff];

/// Says whether a certificate is a CA's, so that nobody believes it as a server's own. It may have
/// ended already.
#[must_use]
pub fn is_ca(certificate: &CertificateDer<'_>) -> bool {
    let bytes: &[u8] = certificate;
    (0..bytes.len()).any(|at| {
        let extension = bytes.get(at..).unwrap_or_default();
        let Some(rest) = extension.strip_prefix(&BASIC_CONSTRAINTS) else {
            return false;
        };
        // critical or not; an octet string, in it a sequence, which begins with the answer
        let rest = rest.strip_prefix(&TRUE).unwrap_or(rest);
        matches!(rest, [0x04, _, 0x30, _, value @ ..] if value.starts_with(&TRUE))
    })
}

/// Says whether one of these certificates is a CA's and bears the name of the server itself: it
/// was made for the server, and will be used as its own.
#[must_use]
pub fn has_servers_own_ca(pem: &str, host: &str) -> bool {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    let mut found = found.filter(is_ca);
    found.any(|certificate| names(&certificate, host))
}

fn names(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let alternative = ServerName::try_from(host).is_ok_and(|name| {
        ParsedCertificate::try_from(certificate)
            .is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    });
    // `-subj /CN=host`: id-at-commonName, a string, its length, the host
    let Ok(length) = u8::try_from(host.len()) else {
        return alternative;
    };
    let common = certificate.windows(host.len() + 7).any(|at| {
        at.starts_with(&[0x06, 0x03, 0x55, 0x04, 0x03])
            && at.get(6) == Some(&length)
            && at.get(7..) == Some(host.as_bytes())
    });
    alternative || common
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = include_str!("../../tests/data/ca.pem");

    #[test]
    fn a_certificate_of_a_ca_is_known_and_is_nobodys_own_without_the_name() {
        let found = CertificateDer::pem_slice_iter(CA.as_bytes());
        let found: Vec<_> = found.collect::<Result<_, _>>().unwrap();
        assert!(found.iter().all(is_ca));
        assert!(!has_servers_own_ca(CA, "collector.example"));
        let mut other = found[0].to_vec();
        let at = other
            .windows(5)
            .position(|bytes| bytes == BASIC_CONSTRAINTS)
            .unwrap();
        other[at + 4] ^= 1;
        assert!(!is_ca(&CertificateDer::from(other)), "another extension");
    }
}
