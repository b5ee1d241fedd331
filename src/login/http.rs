//! One exchange with an identity provider: bounded in size and time, no redirect followed.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use url::{Host, Url};
use zeroize::Zeroizing;

use super::LoginError;
use crate::limits;

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Wiped when dropped: most answers hold tokens.
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// Whether it says that nobody can be answered now: nothing is wrong with what was asked.
    pub(super) fn is_down(&self) -> bool {
        self.status == 429 || self.status >= 500
    }
}

/// An address of a provider that is spoken to: `https://`, or `http://` on an address literal of
/// the loopback. What a name resolves to is somebody else's word.
pub(super) fn address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let loopback = match url.host()? {
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
        Host::Domain(_) => false,
    };
    let plain = !url.username().is_empty() || url.password().is_some();
    let spoken = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    (spoken && !plain && url.fragment().is_none()).then_some(url)
}

pub(super) async fn get(
    client: &reqwest::Client,
    url: &Url,
    what: &'static str,
) -> Result<Answer, LoginError> {
    send(client.get(url.clone()), what).await
}

pub(super) async fn post(
    client: &reqwest::Client,
    url: &Url,
    form: &[(&str, &str)],
    what: &'static str,
) -> Result<Answer, LoginError> {
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    let request = client
        .post(url.clone())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(body);
    send(request, what).await
}

async fn send(request: reqwest::RequestBuilder, what: &'static str) -> Result<Answer, LoginError> {
    let failed = |cause: String| LoginError::Network { what, cause };
    let exchange = async {
        let request = request.header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|e| failed(innermost(&e)))?;
        let status = response.status().as_u16();
        let mut body = Zeroizing::new(Vec::with_capacity(16 << 10));
        while let Some(chunk) = response.chunk().await.map_err(|e| failed(innermost(&e)))? {
            if body.len() + chunk.len() > limits::LOGIN_REPLY_BYTES {
                return Err(failed(format!(
                    "its answer is longer than {} bytes",
                    limits::LOGIN_REPLY_BYTES
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body })
    };
    let patience = Duration::from_millis(limits::LOGIN_REQUEST_MS);
    match tokio::time::timeout(patience, exchange).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(failed("no answer in time".to_owned())),
    }
}

/// The last cause says what is wrong; the ones before it say that something is. The address, a
/// query and what it holds are never part of it.
fn innermost(error: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_addresses_only() {
        for good in [
            "https://idp.example/a",
            "http://127.0.0.1:8/x",
            "http://[::1]:8/",
        ] {
            assert!(address(good).is_some(), "{good}");
        }
        for bad in [
            "http://idp.example/",
            "http://localhost:8/",
            "http://127.0.0.1.example/",
            "https://user@idp.example/",
            "https://idp.example/#x",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "--help",
            "",
        ] {
            assert!(address(bad).is_none(), "{bad}");
        }
    }
}
