//! Connections to servers behind an address, each for one HTTP/1.1 request after the other.
//!
//! A call to a server goes this way: a [`super::client`] would put layers around each request that
//! do nothing here: redirects, retries, timers (`docs/decisions/0018-calls-on-hyper.md`). What a
//! connection is made of is the client's own: its resolver, its attempts at several addresses, its
//! tunnel through a proxy, its TLS.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper::header::{HeaderMap, HeaderValue, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;

/// How long a connection may take to be there, TLS and a proxy included.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// A silent connection is asked whether it lives after so long, in such steps…
const ALIVE: Duration = Duration::from_secs(15);
/// …and so often.
const ALIVE_TIMES: u32 = 3;

/// How long what was written may lie unconfirmed before a connection counts as dead, where the
/// system can be told: a network that is gone answers nothing, and keep-alive asks nobody while
/// bytes are on their way.
#[cfg(target_os = "linux")]
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// One end of a connection; it is closed when this is dropped, whatever the other end does.
#[derive(Debug)]
pub struct Sender {
    requests: http1::SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Sender {
    /// Sends a request; gives the head of its answer.
    ///
    /// # Errors
    /// With the request, where none of it was written.
    pub async fn try_send_request(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        self.requests.try_send_request(request).await
    }

    /// Whether no request can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Whether a request would be written at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.requests.is_ready()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // what drives it would first write what is left, to a server that may not read
        self.driver.abort();
    }
}

/// Why there is no connection: nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It was not there in time.
    #[error("no connection within {} s", CONNECT.as_secs())]
    Late,
    /// Nobody knows the name.
    #[error("the name is not known")]
    Name(#[source] Box<dyn Error + Send + Sync>),
    /// Something on the way refused.
    #[error("no connection")]
    Way(#[source] Box<dyn Error + Send + Sync>),
}

impl DialError {
    fn way(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Way(error.into())
    }
}

/// Opens connections. Clones share what they believe and their TLS sessions.
#[derive(Clone)]
pub struct Dialer {
    tcp: HttpConnector,
    tls: TlsConnector,
    proxy: Option<Arc<Matcher>>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

impl Dialer {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place that connections are made in"
    )]
    pub(super) fn new(tls: ClientConfig, proxy: Option<Matcher>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(ALIVE));
        tcp.set_keepalive_interval(Some(ALIVE));
        tcp.set_keepalive_retries(Some(ALIVE_TIMES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNCONFIRMED));
        Self {
            tcp,
            tls: TlsConnector::from(Arc::new(tls)),
            proxy: proxy.map(Arc::new),
        }
    }

    /// Opens a connection to the server of an address, `http` or `https`.
    ///
    /// # Errors
    /// [`DialError`]; nothing was sent then.
    pub async fn dial(&self, to: &Uri) -> Result<Sender, DialError> {
        // boxed: it is some kilobytes, and most requests need none of it
        let dialed = Box::pin(self.dial_at_leisure(to));
        match tokio::time::timeout(CONNECT, dialed).await {
            Ok(dialed) => dialed,
            Err(_late) => Err(DialError::Late),
        }
    }

    async fn dial_at_leisure(&self, to: &Uri) -> Result<Sender, DialError> {
        let mut tcp = self.tcp.clone();
        if to.scheme_str() != Some("https") {
            // on this machine only, where no proxy is between
            let stream = tcp.call(to.clone()).await.map_err(unconnected)?;
            return speak(stream).await;
        }
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.intercept(to));
        let stream = match proxy {
            None => tcp.call(to.clone()).await.map_err(unconnected)?,
            Some(proxy) => {
                let mut headers = HeaderMap::new();
                headers.insert(USER_AGENT, HeaderValue::from_static(super::USER_AGENT));
                let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp).with_headers(headers);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(to.clone()).await.map_err(DialError::way)?
            }
        };
        let host = to.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']'));
        let name = ServerName::try_from(bare.unwrap_or(host).to_owned()).map_err(DialError::way)?;
        let stream = self.tls.connect(name, stream.into_inner()).await;
        speak(TokioIo::new(stream.map_err(DialError::way)?)).await
    }
}

/// Why there is no connection of TCP.
fn unconnected(error: impl Error + Send + Sync + 'static) -> DialError {
    // the library's word, whose type has no name outside; `http_zoo` looks for what comes of it
    match error.to_string().as_str() {
        "dns error" => DialError::Name(error.into()),
        _ => DialError::way(error),
    }
}

/// Begins HTTP/1.1. A task of the connection's own drives it until it ends, or nobody sends any
/// more.
async fn speak(stream: impl Read + Write + Unpin + Send + 'static) -> Result<Sender, DialError> {
    let (requests, connection) = http1::handshake(stream).await.map_err(DialError::way)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "A connection ended.");
        }
    });
    let driver = driver.abort_handle();
    Ok(Sender { requests, driver })
}
