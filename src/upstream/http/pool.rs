//! The connections to one server: those that wait for a next request, and what comes on them.
//!
//! A request is written once (`docs/decisions/0012-a-call-is-never-sent-twice.md`). A connection
//! that waited may turn out to be closed; one that hands the request back, none of it written, is
//! put away for another.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode, Uri};
use tokio::time::Instant;

use crate::fetch::{DialError, Dialer, Sender};

/// Connections that wait at most: calls run side by side.
const IDLE: usize = 16;
/// How long one waits: shorter than the minute after which common proxies close a connection.
const PATIENCE: Duration = Duration::from_secs(50);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke after it took the request.
    #[error("the connection broke")]
    Sent(#[source] hyper::Error),
    /// A new connection broke before any of the request was written.
    #[error("the connection broke at once")]
    Unsent(#[source] hyper::Error),
}

impl SendError {
    /// Whether it is certain that the server got nothing.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::Dial(_) | Self::Unsent(_) => true,
            Self::Sent(_) => false,
        }
    }
}

/// Connections to one server. They are closed when this is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    dialer: Dialer,
    /// Scheme, host and port.
    server: Uri,
    patience: Duration,
    idle: Arc<Mutex<Idle>>,
}

/// Connections that wait, the one that has waited longest first.
#[derive(Debug, Default)]
struct Idle {
    connections: Vec<(Instant, Sender)>,
    /// Somebody closes those that have waited too long.
    swept: bool,
}

/// What comes of a request. The connection can be used again when it is dropped, if the HTTP
/// library finds its body's end near.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pool: &'a Pool,
    /// Until the body is over.
    sender: Option<Sender>,
    response: Response<Incoming>,
}

impl Pool {
    pub(super) fn new(dialer: Dialer, server: Uri) -> Self {
        Self {
            dialer,
            server,
            patience: PATIENCE,
            idle: Arc::default(),
        }
    }

    /// Sends a request; gives the head of its answer. Dropping the future closes the connection.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Reply<'_>, SendError> {
        loop {
            let waiting = self.waiting().await;
            let reused = waiting.is_some();
            let mut sender = match waiting {
                Some(sender) => sender,
                None => self.dialer.dial(&self.server).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let mut reply = Reply {
                        pool: self,
                        sender: Some(sender),
                        response,
                    };
                    if reply.response.body().is_end_stream() {
                        reply.release();
                    }
                    return Ok(reply);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(_unsent) => return Err(SendError::Unsent(error.into_error())),
                    None => return Err(SendError::Sent(error.into_error())),
                },
            }
        }
    }

    /// A connection that waits for a request.
    async fn waiting(&self) -> Option<Sender> {
        {
            let mut idle = lock(&self.idle);
            if let Some(sender) = idle.take() {
                return Some(sender);
            }
            if idle.connections.is_empty() {
                return None;
            }
        }
        // one may have given all of its answer and not know yet that it did
        tokio::task::yield_now().await;
        lock(&self.idle).take()
    }

    fn put(&self, sender: Sender) {
        let mut idle = lock(&self.idle);
        idle.connections.push((Instant::now(), sender));
        if idle.connections.len() > IDLE {
            idle.connections.remove(0);
        }
        if !idle.swept {
            idle.swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.idle), self.patience));
        }
    }
}

impl Idle {
    /// The one that was used last: others may be closed for want of use. One that is still busy
    /// with an answer that nobody reads stays until it is not, or too old.
    fn take(&mut self) -> Option<Sender> {
        self.connections.retain(|(_, sender)| !sender.is_closed());
        let ready = |(_, sender): &(Instant, Sender)| sender.is_ready();
        let at = self.connections.iter().rposition(ready)?;
        Some(self.connections.remove(at).1)
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes connections that have waited too long, as long as there are any.
async fn sweep(idle: Weak<Mutex<Idle>>, patience: Duration) {
    loop {
        let next = {
            let Some(idle) = idle.upgrade() else {
                return;
            };
            let mut idle = lock(&idle);
            let now = Instant::now();
            let young = |(since, _): &(Instant, Sender)| now < *since + patience;
            idle.connections.retain(young);
            match idle.connections.first() {
                Some((since, _)) => *since + patience,
                None => {
                    idle.swept = false;
                    return;
                }
            }
        };
        tokio::time::sleep_until(next).await;
    }
}

impl Reply<'_> {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// How long the body is, where the server says so.
    pub(super) fn length(&self) -> Option<u64> {
        self.response.body().size_hint().exact()
    }

    /// The next piece of the body.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            let body = self.response.body_mut();
            if body.is_end_stream() {
                break;
            }
            match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                None => break,
                Some(frame) => {
                    // what is no data is a trailer
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
        self.release();
        Ok(None)
    }

    fn release(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.put(sender);
        }
    }
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// The innermost cause of an error.
pub(super) fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    use super::*;
    use crate::config::Network;
    use crate::fetch::dialer;

    const ALL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const PART: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok";

    /// What a server sees of its connections, by their number.
    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Closed(usize),
        Request(usize),
    }

    /// Reads a request without a body; false at the end.
    fn read(stream: &mut TcpStream) -> bool {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// A server that answers so, and hangs up after so many answers on one connection.
    fn serve(answer: &'static str, most: usize) -> (Pool, mpsc::Receiver<Seen>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}/", listener.local_addr().unwrap());
        let (tell, seen) = mpsc::channel();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (mut stream, tell) = (stream.unwrap(), tell.clone());
                std::thread::spawn(move || {
                    for _ in 0..most {
                        if !read(&mut stream) {
                            break;
                        }
                        drop(tell.send(Seen::Request(number)));
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                    drop(stream);
                    drop(tell.send(Seen::Closed(number)));
                });
            }
        });
        let dialer = dialer(&Network::default(), None).unwrap();
        (Pool::new(dialer, server.parse().unwrap()), seen)
    }

    fn request() -> Request<Full<Bytes>> {
        let request = Request::get("/").header("host", "it");
        request.body(Full::default()).unwrap()
    }

    async fn fetch(pool: &Pool) -> Vec<u8> {
        let mut reply = pool.send(request()).await.unwrap();
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.unwrap() {
            body.extend_from_slice(&chunk);
        }
        body
    }

    /// Waits for what the server sees, while connections are driven.
    async fn next(seen: &mpsc::Receiver<Seen>) -> Seen {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match seen.try_recv() {
                Ok(seen) => return seen,
                Err(_) => assert!(Instant::now() < deadline, "the server sees nothing"),
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_by_one_request_at_a_time() {
        let (pool, seen) = serve(ALL, usize::MAX);
        for _ in 0..3 {
            assert_eq!(fetch(&pool).await, b"ok");
            assert_eq!(next(&seen).await, Seen::Request(0));
        }
        let reply = pool.send(request()).await.unwrap();
        assert_eq!(next(&seen).await, Seen::Request(0));
        assert_eq!(fetch(&pool).await, b"ok");
        assert_eq!(next(&seen).await, Seen::Request(1));
        drop(reply);
        drop(pool);
        let mut closed = [next(&seen).await, next(&seen).await];
        closed.sort_by_key(|seen| *seen == Seen::Closed(1));
        assert_eq!(closed, [Seen::Closed(0), Seen::Closed(1)]);
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_gets_each_request_once() {
        let (pool, seen) = serve(ALL, 1);
        for number in 0..3 {
            assert_eq!(fetch(&pool).await, b"ok");
            assert_eq!(next(&seen).await, Seen::Request(number));
            assert_eq!(next(&seen).await, Seen::Closed(number));
            // the system knows; the connection's task is told, and looks
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        assert!(seen.try_recv().is_err());
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_to_its_end_takes_its_connection_with_it() {
        let (pool, seen) = serve(PART, usize::MAX);
        for number in 0..2 {
            let mut reply = pool.send(request()).await.unwrap();
            assert_eq!(reply.chunk().await.unwrap().as_deref(), Some(&b"ok"[..]));
            assert_eq!(next(&seen).await, Seen::Request(number));
            drop(reply);
            assert_eq!(next(&seen).await, Seen::Closed(number));
        }
    }

    #[tokio::test]
    async fn a_connection_that_waits_too_long_is_closed() {
        let (mut pool, seen) = serve(ALL, usize::MAX);
        pool.patience = Duration::from_millis(1);
        for number in 0..2 {
            assert_eq!(fetch(&pool).await, b"ok");
            assert_eq!(next(&seen).await, Seen::Request(number));
            assert_eq!(next(&seen).await, Seen::Closed(number));
        }
    }

    #[tokio::test]
    async fn a_server_that_answers_and_reads_no_more_holds_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}/", listener.local_addr().unwrap());
        let (tell, ended) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(read(&mut stream));
            let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).unwrap();
            wait.recv().unwrap();
            // what is left of the request ends where its connection was closed
            let mut rest = Vec::new();
            let read = stream.read_to_end(&mut rest).map_or(rest.len(), |all| all);
            tell.send(read).unwrap();
        });
        let dialer = dialer(&Network::default(), None).unwrap();
        let pool = Pool::new(dialer, server.parse().unwrap());
        // more than the buffers of both ends take
        let body = Bytes::from(vec![b'x'; 64 << 20]);
        let request = Request::post("/").header("host", "it");
        let reply = pool.send(request.body(Full::new(body.clone())).unwrap());
        assert_eq!(reply.await.unwrap().status(), 413);
        drop(pool);
        // what drove the connection had the body too
        let deadline = Instant::now() + Duration::from_secs(30);
        while !body.is_unique() {
            assert!(Instant::now() < deadline, "the connection is still driven");
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
        assert!(ended.recv_timeout(Duration::from_secs(30)).unwrap() < body.len());
    }
}
