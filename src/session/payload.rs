//! What of a client's message the record keeps as its payload: all that the client chose.
//!
//! Nearly always that is one member of `params`: the arguments, a URI, what is to be completed.
//! What a client puts beside it reaches the server too. Where there is any, the payload is the
//! whole `params`, and the whole message where the envelope has members of its own.
//!
//! Left out are the members that the record has elsewhere or that every client sends: the name,
//! `progressToken` (the server gets another one), and the keys of [`PLAIN`] up to
//! [`limits::PLAIN_BYTES`] each (`docs/formats/record.md`, Payload).

use std::ops::Range;

use super::call::Method;
use crate::limits;
use crate::wire::era;
use crate::wire::msg::{Params, Request, Response};
use crate::wire::raw::{self, Object};

/// Keys of `_meta` that are no payload while they are short: what the protocol repeats with every
/// request, and ids by which logs are joined.
const PLAIN: [&str; 10] = [
    era::META_PROTOCOL,
    era::META_CLIENT_INFO,
    era::META_CAPABILITIES,
    era::META_LOG_LEVEL,
    "baggage",
    "callId",
    "claudecode/toolUseId",
    "traceparent",
    "tracestate",
    "x-codex-turn-metadata",
];

/// The part of a request that is its payload, where `inner` is all there is but for what stands
/// beside it.
pub(super) fn of(request: &Request<'_>, method: Method, inner: Range<usize>) -> Range<usize> {
    if has_more(&request.envelope, &["jsonrpc", "id", "method", "params"]) {
        return request.envelope.span();
    }
    let known: &[&str] = match method {
        Method::Complete => &["ref", "argument", "_meta"],
        Method::Listen | Method::Read | Method::Subscribe | Method::Unsubscribe => {
            &["uri", "_meta"]
        }
        Method::Prompt | Method::Tool => &["name", "arguments", "_meta"],
        Method::Task => &["taskId", "inputResponses", "_meta"],
    };
    match &request.params {
        Some(params) if has_more(&params.object, known) || !is_plain(params) => {
            params.object.span()
        }
        Some(params) if method == Method::Complete && !is_plain_reference(&params.object) => {
            params.object.span()
        }
        Some(_) | None => inner,
    }
}

/// The part of an answer that is its payload, where `inner` is its result or error.
pub(super) fn of_answer(response: &Response<'_>, inner: Range<usize>) -> Range<usize> {
    match has_more(&response.envelope, &["jsonrpc", "id", "result", "error"]) {
        true => response.envelope.span(),
        false => inner,
    }
}

/// What stands in a request beside a task's id and the answers for it, as members of JSON.
pub(super) fn beside_task(request: &Request<'_>) -> String {
    let mut more = String::new();
    let mut add = |object: &Object<'_>, known: &[&str]| {
        for (key, value) in object.members().filter(|(key, _)| !known.contains(&&**key)) {
            more.push(',');
            more.push_str(&raw::quoted(&key));
            more.push(':');
            more.push_str(value);
        }
    };
    add(&request.envelope, &["jsonrpc", "id", "method", "params"]);
    if let Some(params) = &request.params {
        match is_plain(params) {
            true => add(&params.object, &["taskId", "inputResponses", "_meta"]),
            false => add(&params.object, &["taskId", "inputResponses"]),
        }
    }
    more
}

fn has_more(object: &Object<'_>, known: &[&str]) -> bool {
    // cheaper than reading keys: every known one that is there counts once
    let there = known.iter().filter(|key| object.get(key).is_some()).count();
    there < object.len()
}

/// Whether `_meta` holds nothing but what the record has elsewhere.
fn is_plain(params: &Params<'_>) -> bool {
    let Some(meta) = &params.meta else {
        return params.object.get("_meta").is_none();
    };
    meta.members().all(|(key, value)| {
        key == "progressToken" || (PLAIN.contains(&&*key) && value.len() <= limits::PLAIN_BYTES)
    })
}

/// Whether a `ref` says no more than what is completed.
fn is_plain_reference(params: &Object<'_>) -> bool {
    let Ok(Some(reference)) = params.object("ref") else {
        return false;
    };
    let title = reference.get("title").map_or(0, str::len);
    !has_more(&reference, &["type", "name", "title", "uri"]) && title <= limits::PLAIN_BYTES
}
