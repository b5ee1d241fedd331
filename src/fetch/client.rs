//! The only place where HTTP clients are made.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::Instant;

use super::dial::CONNECT;
use super::{Dialer, FetchError, proxy, trust};
use crate::config::Network;
use crate::registry::Cause;

/// What servers are told of us.
pub const USER_AGENT: &str = concat!("mcpshim/", env!("CARGO_PKG_VERSION"));

/// Makes an HTTP client: TLS by ring, the system's trust store and beside it the configured CAs
/// and `ca_pem`.
///
/// Neither a proxy nor a trust store is taken from the environment, for whoever sets a variable
/// would choose whom this machine talks to, and whom it believes. Redirects are not followed: a server that moved is configured anew. Nothing
/// is tried twice behind the caller's back.
///
/// # Errors
/// [`FetchError::Client`] when the PEM text holds no certificate, or the proxy is none.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that clients are made in"
)]
pub fn client(network: &Network, ca_pem: Option<&str>) -> Result<reqwest::Client, FetchError> {
    let tls = believed(network, ca_pem)?;
    let builder = reqwest::Client::builder().no_proxy();
    let builder = match proxy::chosen(network) {
        Some(chosen) => builder.proxy(chosen.proxy().map_err(|why| failed(&why))?),
        None => builder,
    };
    builder
        .tls_backend_preconfigured(tls)
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // none at most: else each request is cloned, in case
        .retry(reqwest::retry::never().max_retries_per_request(0))
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(16)
        // shorter than the minute after which common proxies close a connection
        .pool_idle_timeout(Duration::from_secs(50))
        .build()
        .map_err(|e| failed(&super::chain(&e)))
}

/// Makes what opens connections to one server, as [`client`] would: the same trust, the same proxy,
/// the same patience.
///
/// # Errors
/// As those of [`client`].
pub fn dialer(network: &Network, ca_pem: Option<&str>) -> Result<Dialer, FetchError> {
    let tls = believed(network, ca_pem)?;
    let proxy = match proxy::chosen(network) {
        Some(chosen) => Some(chosen.matcher().map_err(|why| failed(&why))?),
        None => None,
    };
    Ok(Dialer::new(tls, proxy))
}

/// Whom TLS believes: the system, and these.
fn believed(network: &Network, ca_pem: Option<&str>) -> Result<ClientConfig, FetchError> {
    let both = [network.ca_pem.as_deref(), ca_pem];
    let pem: Vec<&str> = both.into_iter().flatten().collect();
    let pem = (!pem.is_empty()).then(|| pem.join("\n"));
    match pem.as_deref() {
        Some(pem) => tls(private_ca(pem)?),
        None => system_tls(),
    }
}

fn failed(why: &str) -> FetchError {
    FetchError::Client {
        cause: Cause(why.to_owned()),
    }
}

fn private_ca(pem: &str) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(failed("the private CA is not a certificate in PEM form")),
        Err(error) => Err(failed(&format!(
            "the private CA is not in PEM form: {error}"
        ))),
    }
}

/// [`tls`] without a private CA. Reading the trust store takes milliseconds and a process that
/// polls makes many clients: it is read once an hour, and sessions are resumed in between.
fn system_tls() -> Result<ClientConfig, FetchError> {
    static READ: Mutex<Option<(Instant, ClientConfig)>> = Mutex::new(None);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, tls)) = &*read
        && at.elapsed() < Duration::from_secs(3600)
    {
        return Ok(tls.clone());
    }
    let tls = tls(Vec::new())?;
    *read = Some((Instant::now(), tls.clone()));
    Ok(tls)
}

fn tls(private: Vec<CertificateDer<'static>>) -> Result<ClientConfig, FetchError> {
    let mut config = trust::config(private).map_err(|why| failed(&why))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
