//! Where a registry lies: files under one URL, over HTTPS, loopback HTTP or the file system.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{ETAG, IF_NONE_MATCH};
use reqwest::{StatusCode, Url};

use super::{FetchError, Patience};
use crate::config::{Network, read_regular};
use crate::registry::{Answer, Cause, Want};

/// Gives files by their path below the registry's URL.
#[derive(Debug)]
pub(super) enum Source {
    Files(PathBuf),
    Http { base: Url, client: reqwest::Client },
}

impl Source {
    /// Opens the source a URL names; nothing is asked yet.
    pub(super) fn open(registry_url: &str, network: &Network) -> Result<Self, FetchError> {
        let bad = |why: &str| FetchError::Url {
            url: registry_url.to_owned(),
            cause: Cause(why.to_owned()),
        };
        let mut base = Url::parse(registry_url).map_err(|e| bad(&e.to_string()))?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err(bad("it has a query or a fragment"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(bad("it holds a credential"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        match base.scheme() {
            "file" => base
                .to_file_path()
                .map(Self::Files)
                .map_err(|()| bad("it is not a path on this machine")),
            "https" => Ok(Self::Http {
                base,
                client: super::client(network, None)?,
            }),
            "http" if is_loopback(&base) => Ok(Self::Http {
                base,
                client: super::client(network, None)?,
            }),
            "http" => Err(bad("http is accepted on a loopback address only")),
            _ => Err(bad(
                "expected https://, or http:// on a loopback address, or file:///",
            )),
        }
    }

    /// Fetches one file; whatever happens is an answer.
    pub(super) async fn fetch(&self, want: &Want, patience: &Patience) -> Answer {
        match self {
            Self::Files(dir) => read_file(&dir.join(&want.path), want.max_bytes),
            Self::Http { base, client } => match base.join(&want.path) {
                Ok(url) => http(client, url, want, patience)
                    .await
                    .unwrap_or_else(Answer::Unknown),
                Err(error) => Answer::Unknown(error.to_string()),
            },
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    // the host as the URL standard writes it: 127.1 is 127.0.0.1 by now
    match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

fn read_file(path: &Path, max_bytes: u64) -> Answer {
    // one byte more than allowed, so that the workflow sees that there is more
    match read_regular(path, max_bytes.saturating_add(1)) {
        Ok(Some(bytes)) => Answer::Body { bytes, etag: None },
        Ok(None) => Answer::NotFound,
        Err(error) => Answer::Unknown(format!("{}: {error}", path.display())),
    }
}

async fn http(
    client: &reqwest::Client,
    url: Url,
    want: &Want,
    patience: &Patience,
) -> Result<Answer, String> {
    let stall = Duration::from_millis(patience.stall_ms);
    let stalled = |_elapsed| {
        format!(
            "it came slower than {} bytes in {} s",
            patience.stall_bytes,
            stall.as_secs_f32()
        )
    };
    let mut request = client.get(url);
    if let Some(etag) = &want.etag {
        request = request.header(IF_NONE_MATCH, etag);
    }
    let mut response = tokio::time::timeout(stall, request.send())
        .await
        .map_err(|_elapsed| format!("no answer within {} s", stall.as_secs_f32()))?
        .map_err(|e| super::chain(&e))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN => return Ok(Answer::Forbidden),
        StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Answer::NotFound),
        StatusCode::NOT_MODIFIED => return Ok(Answer::NotModified),
        status if status.is_redirection() => {
            return Err(format!(
                "the source answers {status}, and redirects are not followed"
            ));
        }
        status => return Err(format!("the source answers {status}")),
    }
    let too_large = || format!("it has more than {} bytes", want.max_bytes);
    if response
        .content_length()
        .is_some_and(|length| length > want.max_bytes)
    {
        return Err(too_large());
    }
    // a tag that is not plain text is simply not used
    let etag = response
        .headers()
        .get(ETAG)
        .and_then(|tag| tag.to_str().ok());
    let etag = etag.filter(|tag| tag.len() <= 256).map(str::to_owned);
    let mut bytes = Vec::new();
    // a window ends when enough bytes have come; if its time ends first, the source stalls
    let mut window = tokio::time::Instant::now() + stall;
    let mut in_window = 0;
    while let Some(chunk) = tokio::time::timeout_at(window, response.chunk())
        .await
        .map_err(stalled)?
        .map_err(|e| super::chain(&e))?
    {
        if (bytes.len() + chunk.len()) as u64 > want.max_bytes {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
        in_window += chunk.len();
        if in_window >= patience.stall_bytes {
            in_window = 0;
            window = tokio::time::Instant::now() + stall;
        }
    }
    Ok(Answer::Body { bytes, etag })
}
