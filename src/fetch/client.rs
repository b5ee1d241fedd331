//! The only place where HTTP clients are made.

use std::time::Duration;

use super::FetchError;

/// Makes an HTTP client: TLS by ring, the system's trust store and beside it `ca_pem`.
///
/// No proxy is taken from the environment, for whoever sets a variable would choose whom this
/// machine talks to. Redirects are not followed: a server that moved is configured anew. Nothing
/// is tried twice behind the caller's back.
///
/// # Errors
/// [`FetchError::Client`] when the PEM text holds no certificate, or the trust store cannot be
/// read.
pub fn client(ca_pem: Option<&str>) -> Result<reqwest::Client, FetchError> {
    let failed = |why: String| FetchError::Client {
        cause: crate::registry::Cause(why),
    };
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // an error means that another thread has just installed the same one
        drop(rustls::crypto::ring::default_provider().install_default());
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("mcpshim/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(10))
        .pool_max_idle_per_host(1);
    if let Some(pem) = ca_pem {
        let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|e| failed(e.to_string()))?;
        if certificates.is_empty() {
            return Err(failed(
                "the private CA is not a certificate in PEM form".to_owned(),
            ));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|e| failed(super::chain(&e)))
}
