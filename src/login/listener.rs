//! The loopback listener that the browser comes back to (RFC 8252 §7.3).
//!
//! Everything on this machine can reach it, and so can every page the browser shows. What it
//! takes is one `GET` of one path, for the host and port it listens on, with the state of this
//! sign-in; whatever else comes is answered and changes nothing. The first such answer is the
//! only one: what follows finds nothing here.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{LoginError, page};
use crate::ids::Digest;
use crate::limits;
use crate::secret::Secret;

/// Where the browser is sent back to. Registered at the provider without a port.
const PATH: &str = "/callback";
/// Connections that are read at once; more wait in the system's queue.
const CONNECTIONS: usize = 64;
/// Headers of one request.
const HEADERS: usize = 100;

/// What an answer must carry.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// `state`, as it was sent.
    pub(super) state: String,
    /// The issuer that was asked.
    pub(super) issuer: String,
    /// Whether that issuer says that its answers name it (RFC 9207).
    pub(super) names_itself: bool,
}

/// The answer that was waited for.
#[derive(Debug)]
pub(super) enum Answered {
    /// The code to exchange.
    Code(Secret),
    /// The provider's refusal: its code and description.
    Declined(String, Option<String>),
    /// It does not come from the issuer that was asked; nothing else in it is looked at.
    MixUp {
        /// What it says instead, if anything.
        said: Option<String>,
    },
    /// Neither code nor error.
    Nothing,
}

/// What the listener tells.
#[derive(Debug)]
pub(super) enum Heard {
    /// The answer, and the browser that waits for a page.
    Answer(Answered, Browser),
    /// Something that looked like one and was not taken: a sentence for the person who waits.
    Strange(&'static str),
}

/// A browser that waits for its page.
#[derive(Debug)]
pub(super) struct Browser(TcpStream);

impl Browser {
    /// Shows the page the sign-in ends on.
    pub(super) async fn show(self, status: &str, title: &str, paragraphs: &[&str]) {
        write(self.0, page::answer(status, title, paragraphs)).await;
    }
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    port: u16,
    heard: mpsc::Receiver<Heard>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Binds this port of the loopback, or a free one for 0. `expected` learns nothing from the
    /// port: it is made before.
    pub(super) async fn start(expected: Expected, port: u16) -> Result<Self, LoginError> {
        let failed = |source| LoginError::Listen { port, source };
        let socket = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let socket = socket.await.map_err(failed)?;
        let port = socket.local_addr().map_err(failed)?.port();
        let (tell, heard) = mpsc::channel(8);
        let task = tokio::spawn(listen(socket, port, expected, tell));
        Ok(Self { port, heard, task })
    }

    /// The redirect URI to ask with.
    pub(super) fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// The next thing worth telling.
    pub(super) async fn heard(&mut self) -> Result<Heard, LoginError> {
        let gone = || LoginError::Listen {
            port: self.port,
            source: std::io::ErrorKind::ConnectionAborted.into(),
        };
        self.heard.recv().await.ok_or_else(gone)
    }
}

/// A port of the loopback in a sentence.
pub(super) fn place(port: u16) -> String {
    match port {
        0 => "127.0.0.1".to_owned(),
        port => format!("port {port} of 127.0.0.1"),
    }
}

/// What one connection asked for.
enum Request {
    /// The query of a well-formed request for our path at our host.
    Answer(String),
    /// Any other.
    Other,
    /// Longer than we read.
    Long,
    /// Not HTTP, cut short, or too slow.
    Unreadable,
}

async fn listen(socket: TcpListener, port: u16, expected: Expected, tell: mpsc::Sender<Heard>) {
    let host: Arc<str> = format!("127.0.0.1:{port}").into();
    let mut expected = Some(expected);
    let mut reading = JoinSet::new();
    loop {
        let (stream, request) = tokio::select! {
            accepted = socket.accept(), if reading.len() < CONNECTIONS => {
                match accepted {
                    Ok((stream, _peer)) => {
                        let host = Arc::clone(&host);
                        reading.spawn(async move { read(stream, &host).await });
                    }
                    // out of file descriptors, most likely: those that are read end soon
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
                continue;
            }
            Some(read) = reading.join_next(), if !reading.is_empty() => match read {
                Ok(read) => read,
                Err(_) => continue,
            },
        };
        let query = match request {
            Request::Answer(query) => query,
            Request::Other => {
                tokio::spawn(write(stream, page::not_found()));
                continue;
            }
            Request::Long => {
                let text = "The request is longer than this page reads.";
                let status = "431 Request Header Fields Too Large";
                tokio::spawn(write(stream, page::answer(status, "Too long", &[text])));
                continue;
            }
            Request::Unreadable => {
                let text = "The request is not one of a browser, or came too slowly.";
                let status = "400 Bad Request";
                tokio::spawn(write(
                    stream,
                    page::answer(status, "Not understood", &[text]),
                ));
                continue;
            }
        };
        let heard = match &expected {
            // one answer was taken: nothing is here any more
            None => {
                tokio::spawn(write(stream, page::not_found()));
                continue;
            }
            Some(wanted) => match answer(&query, wanted) {
                Ok(answered) => {
                    expected = None;
                    Heard::Answer(answered, Browser(stream))
                }
                Err((told, text)) => {
                    let page = page::answer(
                        "400 Bad Request",
                        "This is not the answer to your sign-in",
                        &[
                            text,
                            "You can close this tab. The sign-in goes on in the other one.",
                        ],
                    );
                    tokio::spawn(write(stream, page));
                    Heard::Strange(told)
                }
            },
        };
        // whoever waits is slow or gone: what is only strange need not reach them
        match heard {
            Heard::Strange(_) => drop(tell.try_send(heard)),
            Heard::Answer(..) => {
                if tell.send(heard).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Judges an address that a person brought back from a browser on another machine, where nobody
/// listens. It must lead here, and is then judged as what a browser brings.
pub(super) fn pasted(
    text: &str,
    redirect_uri: &str,
    expected: &Expected,
) -> Result<Answered, &'static str> {
    let query = text
        .trim()
        .strip_prefix(redirect_uri)
        .and_then(|rest| rest.strip_prefix('?'))
        .filter(|query| query.len() <= limits::LOOPBACK_REQUEST.0);
    let Some(query) = query else {
        return Err(
            "that is not the address the browser ended at: copy the whole of it, from `http://` on",
        );
    };
    // a browser sends no fragment
    let query = query.split('#').next().unwrap_or_default();
    answer(query, expected).map_err(|(told, _)| told)
}

/// Judges a query; an error is one that is not for this sign-in, in words for the terminal and
/// for the page.
fn answer(query: &str, expected: &Expected) -> Result<Answered, (&'static str, &'static str)> {
    let (mut code, mut state, mut issuer) = (None, None, None);
    let (mut error, mut description) = (None, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let slot = match &*name {
            "code" => &mut code,
            "error" => &mut error,
            "error_description" => &mut description,
            "iss" => &mut issuer,
            "state" => &mut state,
            _ => continue,
        };
        // RFC 6749 §3.1: parameters must not be included more than once
        if slot.replace(value.into_owned()).is_some() {
            return Err((
                "an answer that says something twice came, and was not taken",
                "It says something twice.",
            ));
        }
    }
    // digests, so that the time to compare tells nothing about how much of it was right
    let same = |text: &str| Digest::of(text.as_bytes()) == Digest::of(expected.state.as_bytes());
    if !state.as_deref().is_some_and(same) {
        return Err((
            "an answer to another sign-in came, and was not taken (its `state` is not ours)",
            "It belongs to another sign-in: its state is not the one that was sent.",
        ));
    }
    // RFC 9207 §2.4, before anything else of it is looked at; compared as it is, never normalised
    match &issuer {
        Some(issuer) if *issuer != expected.issuer => {
            return Ok(Answered::MixUp {
                said: Some(issuer.chars().take(200).collect()),
            });
        }
        None if expected.names_itself => return Ok(Answered::MixUp { said: None }),
        Some(_) | None => {}
    }
    Ok(match (error, code) {
        (Some(error), _) => Answered::Declined(error, description),
        (None, Some(code)) if !code.is_empty() => Answered::Code(Secret::new(code.into_bytes())),
        (None, _) => Answered::Nothing,
    })
}

/// Reads the head of one request.
async fn read(mut stream: TcpStream, host: &str) -> (TcpStream, Request) {
    let patience = Duration::from_millis(limits::LOOPBACK_REQUEST.1);
    let mut head = Vec::with_capacity(2048);
    let reading = async {
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            if head.len() > limits::LOOPBACK_REQUEST.0 {
                return Some(Request::Long);
            }
            match stream.read_buf(&mut head).await {
                Ok(0) | Err(_) => return Some(Request::Unreadable),
                Ok(_) => {}
            }
        }
        None
    };
    let request = match tokio::time::timeout(patience, reading).await {
        Ok(Some(request)) => request,
        Ok(None) if head.len() > limits::LOOPBACK_REQUEST.0 => Request::Long,
        Ok(None) => parse(&head, host),
        Err(_elapsed) => Request::Unreadable,
    };
    (stream, request)
}

/// The host decides: a page of a site whose name was made to lead here (DNS rebinding) says that
/// site's name.
fn parse(head: &[u8], host: &str) -> Request {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return Request::Unreadable;
    }
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let ours =
        matches!((hosts.next(), hosts.next()), (Some(one), None) if one.value == host.as_bytes());
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if ours && request.method == Some("GET") && path == PATH {
        Request::Answer(query.to_owned())
    } else {
        Request::Other
    }
}

/// Writes an answer and closes. Reads what is left first: a connection closed with unread bytes
/// is reset, and the browser shows an error in the place of the page.
async fn write(mut stream: TcpStream, answer: Vec<u8>) {
    let patience = Duration::from_millis(limits::LOOPBACK_REQUEST.1);
    let writing = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        let mut left = 64;
        while left > 0 && stream.read(&mut rest).await? > 0 {
            left -= 1;
        }
        std::io::Result::Ok(())
    };
    // a browser that is gone does not need its page
    drop(tokio::time::timeout(patience, writing).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(names_itself: bool) -> Expected {
        Expected {
            state: "s1".to_owned(),
            issuer: "https://idp.example".to_owned(),
            names_itself,
        }
    }

    fn check(query: &str, names_itself: bool) -> String {
        match answer(query, &expected(names_itself)) {
            Ok(Answered::Code(code)) => {
                format!("code {}", String::from_utf8_lossy(code.expose()))
            }
            Ok(other) => format!("{other:?}"),
            Err((told, _)) => told.to_owned(),
        }
    }

    #[test]
    fn answer_is_taken_only_from_the_issuer_and_for_the_state() {
        let good = "code=c1&state=s1&iss=https%3A%2F%2Fidp.example";
        assert_eq!(check(good, true), "code c1");
        assert_eq!(check(good, false), "code c1");
        assert_eq!(check("code=c1&state=s1", false), "code c1");
        assert_eq!(check("code=c1&state=s1", true), "MixUp { said: None }");
        assert_eq!(check("state=s1&code=", false), "Nothing");
        for strange in [
            "code=c1",
            "code=c1&state=",
            "code=c1&state=s2",
            "state=s1%00&code=c1",
        ] {
            assert!(
                check(strange, false).contains("another sign-in"),
                "{strange}"
            );
        }
        assert!(check("code=c1&state=s1&state=s1", false).contains("twice"));
        assert!(check("code=c1&code=c2&state=s1", false).contains("twice"));
    }

    #[test]
    fn a_pasted_answer_is_judged_as_one_that_a_browser_brings() {
        let uri = "http://127.0.0.1:8/callback";
        let check = |text: &str| match pasted(text, uri, &expected(true)) {
            Ok(Answered::Code(code)) => String::from_utf8_lossy(code.expose()).into_owned(),
            Ok(other) => format!("{other:?}"),
            Err(told) => told.to_owned(),
        };
        let query = "code=c1&state=s1&iss=https%3A%2F%2Fidp.example";
        assert_eq!(check(&format!("{uri}?{query}")), "c1");
        assert_eq!(check(&format!("  {uri}?{query}#fragment\r\n")), "c1");
        for wrong in [
            "c1",
            "",
            query,
            "http://127.0.0.1:9/callback?code=c1&state=s1",
            "https://idp.example/callback?code=c1&state=s1",
            "http://127.0.0.1:8/callbackx?code=c1&state=s1",
            &format!("{uri}?{query}&x={}", "x".repeat(1 << 17)),
        ] {
            assert!(check(wrong).contains("not the address"), "{wrong:.80}");
        }
        let other = check(&format!("{uri}?code=c1&state=s2"));
        assert!(other.contains("another sign-in"), "{other}");
        let mixed = check(&format!(
            "{uri}?code=c1&state=s1&iss=https%3A%2F%2Fevil.example"
        ));
        assert!(mixed.starts_with("MixUp"), "{mixed}");
        assert!(check(&format!("{uri}?code=c1&state=s1")).starts_with("MixUp"));
        assert!(
            check(&format!(
                "{uri}?error=access_denied&state=s1&iss=https%3A%2F%2Fidp.example"
            ))
            .starts_with("Declined")
        );
    }

    #[test]
    fn issuer_is_compared_as_it_is_and_hides_the_error_beside_it() {
        for iss in [
            "https://idp.example/",
            "https://IDP.example",
            "https%3A%2F%2Fevil.example",
        ] {
            let shown = check(
                &format!("error=x&error_description=click%20here&state=s1&iss={iss}"),
                false,
            );
            assert!(shown.starts_with("MixUp"), "{shown}");
            assert!(!shown.contains("click"), "{shown}");
        }
    }

    #[test]
    fn refusal_of_the_provider_is_its_own() {
        assert_eq!(
            check("error=access_denied&error_description=no&state=s1", false),
            r#"Declined("access_denied", Some("no"))"#
        );
    }

    fn asked(head: &str) -> &'static str {
        match parse(head.as_bytes(), "127.0.0.1:8") {
            Request::Answer(_) => "answer",
            Request::Other => "other",
            Request::Long => "long",
            Request::Unreadable => "unreadable",
        }
    }

    #[test]
    fn only_one_path_of_one_host_is_read() {
        let head = |line: &str, host: &str| format!("{line} HTTP/1.1\r\n{host}\r\n\r\n");
        let ours = "Host: 127.0.0.1:8";
        assert_eq!(asked(&head("GET /callback?a=b", ours)), "answer");
        for line in [
            "POST /callback?a=b",
            "HEAD /callback",
            "GET /callback/",
            "GET /Callback",
            "GET //callback",
            "GET /favicon.ico",
            "GET http://127.0.0.1:8/callback",
        ] {
            assert_eq!(asked(&head(line, ours)), "other", "{line}");
        }
        for host in [
            "Host: evil.example:8",
            "Host: localhost:8",
            "Host: 127.0.0.1",
            "Host: 127.0.0.1:9",
            "X: y",
            "Host: 127.0.0.1:8\r\nHost: 127.0.0.1:8",
        ] {
            assert_eq!(asked(&head("GET /callback?a=b", host)), "other", "{host}");
        }
        assert_eq!(asked("GET /callback\r\n\r\n"), "unreadable");
    }
}
