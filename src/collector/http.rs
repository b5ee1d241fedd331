//! Replies, and the bodies of requests that are small.
#![expect(
    clippy::result_large_err,
    reason = "the error is the reply itself, and is sent at once"
)]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::store::StoreError;
use crate::batch::protocol::Refused;

/// How long the body of a request may take, in milliseconds.
const BODY_MS: u64 = 60_000;

pub(super) fn reply(status: u16, body: &impl Serialize) -> Response {
    let text = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

pub(super) fn refuse(status: u16, error: impl std::fmt::Display) -> Response {
    let refused = Refused {
        error: error.to_string(),
        seq: None,
    };
    reply(status, &refused)
}

pub(super) fn later(status: u16, retry_s: u64, refused: &Refused) -> Response {
    let mut response = reply(status, refused);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(retry_s));
    response
}

/// The disk, not the device: it is to come again.
pub(super) fn disk(error: &StoreError) -> Response {
    tracing::error!(error = %crate::report::Failure::from_error(crate::report::Exit::Failed, error), "Store.");
    let refused = Refused {
        error: "the collector cannot write just now".to_owned(),
        seq: None,
    };
    later(503, 10, &refused)
}

pub(super) fn too_large(limit: usize) -> Response {
    refuse(413, format!("the request has more than {limit} bytes"))
}

/// The length a request declares, if it declares one; refused where it is over the limit.
pub(super) fn declared(request: &Request, limit: usize) -> Result<Option<usize>, Response> {
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let Some(declared) = declared else {
        return Ok(None);
    };
    match usize::try_from(declared) {
        Ok(declared) if declared <= limit => Ok(Some(declared)),
        _ => Err(too_large(limit)),
    }
}

pub(super) async fn in_time<T>(
    read: impl Future<Output = Result<T, Response>>,
) -> Result<T, Response> {
    tokio::time::timeout(Duration::from_millis(BODY_MS), read)
        .await
        .unwrap_or_else(|_slow| Err(refuse(408, "the request took too long")))
}

pub(super) async fn body(request: Request, limit: usize) -> Result<axum::body::Bytes, Response> {
    declared(&request, limit)?;
    in_time(async {
        // the only error besides the limit is a connection that broke: nobody reads the answer
        to_bytes(request.into_body(), limit)
            .await
            .map_err(|_broken| too_large(limit))
    })
    .await
}

/// Runs what reads or writes files beside the thread that serves.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Response> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_panicked| {
            refuse(
                500,
                "the collector failed at this request; its log says why",
            )
        })
}

pub(super) fn either(result: Result<Response, Response>) -> Result<Response, Infallible> {
    Ok(result.unwrap_or_else(|refused| refused))
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(bytes).map_err(|error| refuse(400, error))
}
