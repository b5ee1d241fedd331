//! Whom TLS believes: the system's trust store, and private CAs beside it.
//!
//! On Linux the store is a file of well-known name, read here. The crates that do this elsewhere
//! ask `SSL_CERT_FILE` and `SSL_CERT_DIR` first; whoever sets those would choose whom this machine
//! believes. On macOS and Windows the system itself judges, and asks no variable.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;

/// TLS by ring, trusting the system and these.
pub(super) fn config(private: Vec<CertificateDer<'static>>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let unusable = |error: &dyn std::fmt::Display| format!("the private CA is not usable: {error}");

    #[cfg(any(windows, target_vendor = "apple"))]
    {
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(private, provider)
            .map_err(|error| unusable(&error))?;
        // "dangerous" names any verifier that is not rustls' own; this one asks the system
        Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth())
    }
    #[cfg(not(any(windows, target_vendor = "apple")))]
    {
        let mut store = rustls::RootCertStore::empty();
        for one in private {
            store.add(one).map_err(|error| unusable(&error))?;
        }
        let (_, ignored) = store.add_parsable_certificates(bundle());
        if ignored > 0 {
            tracing::debug!(
                ignored,
                "Certificates of the system's trust store are damaged."
            );
        }
        // a machine without certificates can still use loopback, and trusts nobody else
        if store.is_empty() {
            tracing::warn!("The system's trust store is empty.");
        }
        Ok(builder.with_root_certificates(store).with_no_client_auth())
    }
}

/// Where distributions keep the bundle of everything they trust; the first that is there counts.
#[cfg(not(any(windows, target_vendor = "apple")))]
const BUNDLES: &[&str] = &[
    // Debian, Ubuntu, Arch, Alpine, Gentoo, NixOS
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    // SUSE
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    // OpenELEC, Alpine, the BSDs
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// The certificates of the system's bundle. What cannot be read trusts nobody.
#[cfg(not(any(windows, target_vendor = "apple")))]
fn bundle() -> Vec<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    const BYTES: u64 = 16 << 20;
    for path in BUNDLES {
        match crate::config::read_regular(std::path::Path::new(path), BYTES) {
            Ok(Some(pem)) => {
                return CertificateDer::pem_slice_iter(&pem)
                    .filter_map(Result::ok)
                    .collect();
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(path, %error, "A trust store cannot be read."),
        }
    }
    Vec::new()
}
