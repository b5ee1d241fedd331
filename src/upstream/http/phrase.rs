//! What went wrong on the way, as phrases that follow a server's key.
//!
//! Of what a server or a portal sent is repeated: numbers, the address of a redirect without its
//! query, and the message of a JSON-RPC error, in quotes and cut.

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

/// An address as it would stand in an entry: a query or a name in it may be a secret.
fn address(url: &Url) -> String {
    const MOST: usize = 300;
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // neither can be set on an address without a host, which has neither
    if url
        .set_username("")
        .and_then(|()| url.set_password(None))
        .is_err()
    {
        return place(&url);
    }
    shown(url.as_str(), MOST)
}

/// Text of a stranger, fit for a sentence: letters and digits of any script, and printable ASCII
/// without quotes; at most so many characters.
fn shown(text: &str, most: usize) -> String {
    let fit = |c: char| match c {
        '`' | '"' => '\'',
        ' '..='~' => c,
        _ if c.is_alphanumeric() => c,
        _ if c.is_whitespace() => ' ',
        _ => '?',
    };
    let mut out: String = text.chars().take(most).map(fit).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// The request is sent on to another address than the entry's, `from`.
pub(super) fn redirect(status: StatusCode, from: &Url, to: Option<&Url>) -> String {
    let status = named(status);
    let Some(to) = to else {
        return format!(
            "sends the request on, without an address that can be read ({status}), which is not \
             followed; ask who runs it"
        );
    };
    let dropped = match to.query() {
        Some(_) => " (and a query, which is not shown)",
        None => "",
    };
    let address = address(to);
    match from.origin() == to.origin() {
        true => format!(
            "sends the request on to {address}{dropped} ({status}), which is not followed; if \
             that is where it is, its entry in the registry needs `url: {address}`"
        ),
        false => format!(
            "sends the request on to {address}{dropped} ({status}), which is not followed; if \
             the network wants a sign-in, do that in a browser; if the server has moved there, \
             its entry in the registry needs `url: {address}`"
        ),
    }
}

/// What a server said beside a refusal, to be appended.
pub(super) fn says(message: Option<&str>) -> String {
    let Some(message) = message.map(str::trim).filter(|message| !message.is_empty()) else {
        return String::new();
    };
    format!("; it says: \"{}\"", shown(message, limits::REFUSAL_CHARS))
}

/// A body is not what its coding says.
pub(super) fn spoilt(coding: &str) -> String {
    format!("gave an answer that cannot be unpacked as `{coding}`")
}

/// A body unpacks to more than anybody reads.
pub(super) fn unpacks_to_much() -> String {
    format!(
        "gave an answer that unpacks to more than {} MiB without a message",
        limits::UNPACKED_BYTES >> 20
    )
}

/// What 401 and 403 mean, by whether the server was given a credential.
pub(super) fn credential(
    status: StatusCode,
    server: &ServerKey,
    credential: Option<&CredentialId>,
    wants: &Wants,
) -> String {
    let unauthorized = status == StatusCode::UNAUTHORIZED;
    let named = named(status);
    match (credential, wants) {
        (Some(credential), Wants::Scope(scope)) => format!(
            "answered {named}: the credential `{credential}` lacks a right{}; one with more \
             rights is set with `mcpshim credential set {server}`",
            scope_of(scope.as_deref())
        ),
        (None, Wants::Scope(scope)) => format!(
            "answered {named}: this needs a right{}, and its entry names no credential",
            scope_of(scope.as_deref())
        ),
        (Some(credential), _) if unauthorized => format!(
            "refuses the credential `{credential}` ({named}); replace it with `mcpshim \
             credential set {server}`"
        ),
        (None, _) if unauthorized => {
            format!("wants a credential, and its entry names none ({named})")
        }
        (Some(credential), Wants::Credential) => format!(
            "answered {named}: it refuses the credential `{credential}`; replace it with \
             `mcpshim credential set {server}`"
        ),
        (Some(credential), Wants::Nothing) => format!(
            "answered {named}: the credential `{credential}` may lack the right for this, or \
             something in between (a firewall, a proxy) blocks the request; ask who runs it \
             before you replace the credential"
        ),
        (None, Wants::Credential) => {
            format!("answered {named}: it wants a credential, and its entry names none")
        }
        (None, Wants::Nothing) => format!(
            "answered {named}: it, or something in between (a firewall, a proxy), blocks the \
             request; ask who runs it"
        ),
    }
}

fn scope_of(scope: Option<&str>) -> String {
    scope.map_or_else(String::new, |scope| {
        format!(" (scope `{}`)", shown(scope, 80))
    })
}

/// What `WWW-Authenticate` (RFC 6750, 3) says that a server wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wants {
    /// Another credential, or one at all.
    Credential,
    /// It says nothing.
    Nothing,
    /// A credential with more rights: these, where they are named.
    Scope(Option<String>),
}

impl Wants {
    /// Of the text of the header.
    pub(super) fn of(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let parameter = |name: &str| {
            let begin = lower.find(&format!("{name}="))? + name.len() + 1;
            let value = text.get(begin..)?;
            let value = match value.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => value.split([',', ' ']).next(),
            };
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        match parameter("error").as_deref() {
            Some("insufficient_scope") => Self::Scope(parameter("scope")),
            _ if text.trim().is_empty() => Self::Nothing,
            _ => Self::Credential,
        }
    }
}

/// What a refusal means in a session that worked before, where the server may have lost it.
pub(super) fn doubtful(status: StatusCode, credential: Option<&CredentialId>) -> String {
    let status = named(status);
    let credential = credential.map_or_else(String::new, |credential| {
        format!(", or not take the credential `{credential}`")
    });
    format!("answered {status}; it may not know this session any more{credential}")
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
    use super::credential as credential_of;
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

    /// Found: the host was told, which was the one in the file, without the path that was wrong.
    #[test]
    fn a_redirect_is_told_with_its_whole_address_and_without_secrets() {
        let from = Url::parse("http://127.0.0.1:8080/mcp").unwrap();
        let told = |to: &str| {
            let to = from.join(to).unwrap();
            redirect(StatusCode::TEMPORARY_REDIRECT, &from, Some(&to))
        };
        let said = told("/mcp/");
        let address = "http://127.0.0.1:8080/mcp/";
        assert!(
            said.contains(&format!("on to {address} (307 Temp")),
            "{said}"
        );
        assert!(said.contains(&format!("`url: {address}`")), "{said}");
        assert!(!said.contains("sign-in"), "{said}");
        let said = told("https://u:p@login.example/a?token=b#c");
        assert!(
            said.contains("on to https://login.example/a (and a query"),
            "{said}"
        );
        assert!(said.contains("sign-in"), "{said}");
        for secret in ["token", "u:p", "#c"] {
            assert!(!said.contains(secret), "{said}");
        }
        for odd in [
            "/x%1b[2J/\u{202e}y",
            "mailto:a@b.example",
            &format!("/{}", "p".repeat(9000)),
        ] {
            let said = told(odd);
            assert!(
                said.len() < 1500 && !said.contains(['\u{1b}', '\u{202e}']),
                "{said}"
            );
        }
        let unread = redirect(StatusCode::FOUND, &from, None);
        assert!(unread.contains("without an address"), "{unread}");
    }

    /// Found: a firewall's page under 403 was told as a credential that is missing, and its fix was a
    /// command that refuses.
    #[test]
    fn what_401_and_403_mean_depends_on_the_credential_and_on_what_is_wanted() {
        let server: ServerKey = "web".parse().unwrap();
        let pat: CredentialId = "web-pat".parse().unwrap();
        let of = |status, credential, header| {
            credential_of(status, &server, credential, &Wants::of(header))
        };
        let (no, forbidden) = (StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN);
        let blocked = of(forbidden, None, "");
        assert!(blocked.starts_with("answered 403 Forbidden"), "{blocked}");
        for wrong in ["wants a credential", "credential set"] {
            assert!(!blocked.contains(wrong), "{blocked}");
        }
        let with = of(forbidden, Some(&pat), "");
        assert!(
            with.contains("`web-pat` may lack") && !with.contains("credential set"),
            "{with}"
        );
        let scope = "Bearer error=\"insufficient_scope\", scope=\"repo:admin x\"";
        let lacks = of(forbidden, Some(&pat), scope);
        assert!(
            lacks.contains("lacks a right (scope `repo:admin x`)"),
            "{lacks}"
        );
        assert!(of(forbidden, None, scope).contains("names no credential"));
        assert!(of(forbidden, Some(&pat), "Bearer error=invalid_token").contains("credential set"));
        assert!(of(no, Some(&pat), "").contains("refuses the credential `web-pat` (401"));
        assert!(
            of(no, None, "Bearer").contains("wants a credential, and its entry names none (401")
        );
    }

    #[test]
    fn what_a_server_says_is_quoted_cut_and_printable() {
        assert_eq!(says(None), "");
        assert_eq!(says(Some(" \n")), "");
        assert_eq!(says(Some("No session")), "; it says: \"No session\"");
        let long = says(Some(&format!("\u{1b}[2J\u{202e}{}", "x".repeat(5000))));
        assert!(long.len() < 300 && long.ends_with("…\""), "{long}");
        assert!(!long.contains(['\u{1b}', '\u{202e}']), "{long}");
    }
}
