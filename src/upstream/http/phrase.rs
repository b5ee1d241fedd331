//! What went wrong on the way, as phrases that follow a server's key.
//!
//! Nothing a server or a portal sent is repeated, but for numbers and the host of a redirect.

use std::error::Error;
use std::io;

use hyper::StatusCode;
use rustls::{CertificateError, Error as TlsError};
use url::Url;

use super::pool::{SendError, innermost};
use crate::fetch::DialError;
use crate::ids::{CredentialId, ServerKey};
use crate::limits;
use crate::text::printable;

/// Where a URL leads, for people.
fn place(url: &Url) -> String {
    let host = printable(url.host_str().unwrap_or("nowhere"));
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

/// The server was not reached, or the way to it broke.
pub(super) fn network(error: &SendError, url: &Url) -> String {
    let place = place(url);
    if let Some(tls) = find::<TlsError>(error) {
        return format!("cannot be trusted: {}", certificate(tls, &place));
    }
    match error {
        SendError::Dial(DialError::Late) => late(&place),
        SendError::Dial(DialError::Name(_)) => {
            format!("cannot be reached: the name {place} is not known; is the network up?")
        }
        SendError::Dial(DialError::Way(_)) => match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::TimedOut) => late(&place),
            Some(io::ErrorKind::ConnectionRefused) => {
                format!("cannot be reached: nothing listens at {place}")
            }
            Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
                format!("cannot be reached: no network leads to {place}")
            }
            _ => format!("cannot be reached at {place}: {}", last(error)),
        },
        SendError::Sent(error) => cut_off(error),
        SendError::Unsent(_) => format!("closed the connection at once that {place} took"),
    }
}

fn late(place: &str) -> String {
    format!("cannot be reached: {place} does not take connections in time")
}

/// The connection broke after something was sent.
pub(super) fn cut_off(error: &hyper::Error) -> String {
    let closed = || "closed the connection before its answer was complete".to_owned();
    match find::<io::Error>(error).map(io::Error::kind) {
        Some(
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof,
        ) => closed(),
        _ => match last(error) {
            // the words of the HTTP library for the same
            why if why.starts_with("connection closed") || why.starts_with("end of file") => {
                closed()
            }
            why => format!("broke off its answer: {why}"),
        },
    }
}

fn certificate(error: &TlsError, place: &str) -> String {
    let TlsError::InvalidCertificate(why) = error else {
        return format!("no TLS with {place}: {}", printable(&error.to_string()));
    };
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {place} has expired, or this machine's clock is wrong")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {place} is not valid yet, or this machine's clock is wrong")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the certificate of {place} is for another name")
        }
        CertificateError::UnknownIssuer => format!(
            "the certificate of {place} is signed by an authority that this machine does not \
             know; a private one belongs into the server's entry (`ca`)"
        ),
        other => format!(
            "the certificate of {place} is not valid: {}",
            printable(&other.to_string())
        ),
    }
}

/// The first error of a type in a chain, also inside an [`io::Error`].
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        if let Some(inner) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            let inner: &(dyn Error + 'static) = inner;
            if let Some(found) = find::<T>(inner) {
                return Some(found);
            }
        }
        next = error.source();
    }
    None
}

/// What the innermost cause says.
fn last(error: &(dyn Error + 'static)) -> String {
    printable(&innermost(error).to_string())
}

/// What a status means to the person whose call got it.
pub(super) fn status(status: StatusCode) -> String {
    let meaning = match status {
        StatusCode::BAD_REQUEST => "finds the request malformed",
        StatusCode::NOT_FOUND => "has no MCP endpoint at its address",
        StatusCode::METHOD_NOT_ALLOWED => "does not take requests at its address",
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => "is behind a proxy that wants a sign-in",
        StatusCode::PAYLOAD_TOO_LARGE => "finds the request too large",
        StatusCode::TOO_MANY_REQUESTS => "asks for a pause",
        StatusCode::NETWORK_AUTHENTICATION_REQUIRED => {
            "is behind a network that wants a sign-in first: open a browser"
        }
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            "is not reached by what stands in front of it"
        }
        StatusCode::SERVICE_UNAVAILABLE => "is not available now",
        _ if status.is_server_error() => "failed",
        _ if status.is_client_error() => "refuses the request",
        _ => "gave no answer of MCP",
    };
    format!("{meaning} ({})", named(status))
}

/// What a refused `initialize` means.
pub(super) fn no_endpoint(code: StatusCode) -> String {
    match code {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            format!(
                "does not speak Streamable HTTP at its address ({})",
                named(code)
            )
        }
        _ => status(code),
    }
}

/// Neither transport is spoken where the entry says.
pub(super) fn neither(newer: &str, older: &str) -> String {
    format!("{newer}, nor HTTP+SSE of 2024-11-05 there: it {older}")
}

/// The address that a server of HTTP+SSE wants messages at cannot be used.
pub(super) fn endpoint(to: Option<&Url>) -> String {
    match to.map(place) {
        Some(to) => format!("wants its messages at {to}, which is not where its entry says"),
        None => "wants its messages at what is no address".to_owned(),
    }
}

pub(super) fn redirect(status: StatusCode, to: Option<Url>) -> String {
    let to = to.map_or_else(|| "another address".to_owned(), |to| place(&to));
    format!(
        "sends the request on to {to} ({}), which is not followed; sign in to the network if it \
         wants that, else the server's entry needs the address itself",
        named(status)
    )
}

pub(super) fn credential(
    status: StatusCode,
    server: &ServerKey,
    credential: Option<&CredentialId>,
) -> String {
    let status = named(status);
    match credential {
        Some(credential) => format!(
            "refuses the credential `{credential}` ({status}); replace it with `mcpshim \
             credential set {server}`"
        ),
        None => format!("wants a credential, and its entry names none ({status})"),
    }
}

/// An answer of another content type.
pub(super) fn not_mcp(content_type: &str) -> String {
    match content_type {
        "text/html" | "application/xhtml+xml" => "answered with a web page: a network that wants \
             a sign-in, or a proxy, stands in between; open a browser"
            .to_owned(),
        "" => "answered without saying in which form".to_owned(),
        other => {
            let other: String = printable(other).chars().take(80).collect();
            format!("answered with `{other}`, expected JSON or a stream of events")
        }
    }
}

pub(super) fn too_much() -> String {
    format!(
        "gives answers that are together larger than {} MiB; ask for less at once",
        limits::HTTP_HELD_BYTES >> 20
    )
}

fn named(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_certificate_has_its_own_words() {
        for (why, says) in [
            (CertificateError::Expired, "has expired"),
            (CertificateError::NotValidYet, "is not valid yet"),
            (CertificateError::NotValidForName, "is for another name"),
            (CertificateError::UnknownIssuer, "does not know"),
            (CertificateError::Revoked, "is not valid"),
        ] {
            let said = certificate(&TlsError::InvalidCertificate(why), "api.example:443");
            assert!(
                said.contains(says) && said.contains("api.example:443"),
                "{said}"
            );
        }
    }

    #[test]
    fn an_error_is_found_inside_another() {
        let inner = io::Error::other(TlsError::InvalidCertificate(CertificateError::Expired));
        let outer = io::Error::other(inner);
        assert!(find::<TlsError>(&outer).is_some());
    }

    #[test]
    fn of_a_redirect_only_the_place_is_told() {
        let to = Url::parse("https://u:p@login.example/a?token=b").unwrap();
        let said = redirect(StatusCode::FOUND, Some(to));
        assert!(said.contains("login.example:443 (302 Found)"), "{said}");
        assert!(!said.contains("token") && !said.contains("u:p"), "{said}");
    }
}
