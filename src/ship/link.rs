//! The way to the collector over HTTP.

use std::net::IpAddr;
use std::time::Duration;

use super::Link;
use super::courier::Reply;
use crate::limits;

/// The longest reply that is read, in bytes.
const REPLY_BYTES: usize = 64 << 10;

/// An address that is not spoken to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Plain HTTP to another machine.
    #[error("the collector's address {0} is plain HTTP and not on this machine")]
    Plain(String),
    /// Not an HTTP address.
    #[error("the collector's address {0} is not an https:// URL")]
    Url(String),
}

/// Posts to a collector.
#[derive(Debug)]
pub struct HttpLink {
    client: reqwest::Client,
    base: reqwest::Url,
}

impl HttpLink {
    /// Makes the link. `client` decides whom to trust: it knows the organisation's private CA.
    ///
    /// # Errors
    /// [`LinkError`] for an address that is neither `https://` nor `http://` on loopback.
    pub fn new(url: &str, client: reqwest::Client) -> Result<Self, LinkError> {
        let with_slash = format!("{}/", url.trim_end_matches('/'));
        let base =
            reqwest::Url::parse(&with_slash).map_err(|_not| LinkError::Url(url.to_owned()))?;
        match base.scheme() {
            "https" => {}
            "http" if is_loopback(&base) => {}
            "http" => return Err(LinkError::Plain(url.to_owned())),
            _ => return Err(LinkError::Url(url.to_owned())),
        }
        Ok(Self { client, base })
    }
}

/// An address literal only: what a name resolves to is somebody else's word.
fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Link for HttpLink {
    async fn post(&mut self, path: &str, body: Vec<u8>) -> Reply {
        let Ok(url) = self.base.join(path) else {
            return Reply::Unreachable("the address cannot be made".to_owned());
        };
        let exchange = async {
            let mut response = self.client.post(url).body(body).send().await?;
            let status = response.status().as_u16();
            let retry_after_s = response
                .headers()
                .get(reqwest::header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                if body.len() + chunk.len() > REPLY_BYTES {
                    body.clear();
                    break;
                }
                body.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>(Reply::Answer {
                status,
                retry_after_s,
                body,
            })
        };
        match tokio::time::timeout(Duration::from_millis(limits::SHIP_REQUEST_MS), exchange).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) if error.is_connect() || error.is_builder() => {
                Reply::Unreachable(innermost(&error))
            }
            Ok(Err(error)) => Reply::Cut(innermost(&error)),
            Err(_elapsed) => Reply::Unreachable("no answer in time".to_owned()),
        }
    }
}

/// The last cause says what is wrong; the ones before it say that something is.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> Option<LinkError> {
        let client = crate::fetch::client(&crate::config::Network::default(), None).unwrap();
        HttpLink::new(url, client).err()
    }

    #[test]
    fn plain_http_is_for_loopback_addresses_only() {
        for good in [
            "https://collector.example/",
            "http://127.0.0.1:8080",
            "http://[::1]:1/x",
        ] {
            assert_eq!(refusal(good), None, "{good}");
        }
        for plain in [
            "http://collector.example",
            "http://localhost",
            "http://127.0.0.1.example/",
        ] {
            let error = refusal(plain);
            assert!(matches!(error, Some(LinkError::Plain(_))), "{plain}");
        }
        for odd in ["ftp://127.0.0.1", "collector", "file:///etc"] {
            let error = refusal(odd);
            assert!(matches!(error, Some(LinkError::Url(_))), "{odd}");
        }
    }
}
