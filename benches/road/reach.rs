//! The relay to HTTP: lines of standard input become requests, bodies become lines. The least that
//! a program on hyper can do, and so the floor for a shim that reaches servers over HTTP.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

const READ_BYTES: usize = 256 << 10;

/// What the exchanges share.
struct Shared {
    host: String,
    path: String,
    /// Connections that wait for their next request.
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
    /// What is to be written to standard output.
    out: RefCell<Vec<u8>>,
    more: Notify,
}

/// Relays between the standard streams and a URL until standard input ends.
pub(crate) fn relay(url: &str) {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let shared = Rc::new(Shared {
        host: host.to_owned(),
        path: format!("/{path}"),
        idle: RefCell::default(),
        out: RefCell::default(),
        more: Notify::new(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, serve(shared));
}

async fn serve(shared: Rc<Shared>) {
    let input = rustix::io::dup(rustix::stdio::stdin()).unwrap();
    let output = rustix::io::dup(rustix::stdio::stdout()).unwrap();
    rustix::io::ioctl_fionbio(&input, true).unwrap();
    rustix::io::ioctl_fionbio(&output, true).unwrap();
    let input = pipe::Receiver::from_owned_fd_unchecked(input).unwrap();
    let mut output = pipe::Sender::from_owned_fd_unchecked(output).unwrap();
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        tokio::select! {
            ready = input.readable() => {
                ready.unwrap();
                buffer.reserve(READ_BYTES);
                match input.try_read_buf(&mut buffer) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(error) => panic!("{error}"),
                }
                let Some(end) = memchr::memrchr(b'\n', &buffer) else {
                    continue;
                };
                for line in buffer[..end].split(|byte| *byte == b'\n') {
                    let body = Bytes::copy_from_slice(line);
                    tokio::task::spawn_local(exchange(Rc::clone(&shared), body));
                }
                buffer.drain(..=end);
            }
            () = shared.more.notified() => {
                let out = std::mem::take(&mut *shared.out.borrow_mut());
                output.write_all(&out).await.unwrap();
            }
        }
    }
}

async fn exchange(shared: Rc<Shared>, body: Bytes) {
    let idle = shared.idle.borrow_mut().pop();
    let mut connection = match idle {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(&shared.host).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (connection, driver) = handshake(TokioIo::new(stream)).await.unwrap();
            tokio::task::spawn_local(driver);
            connection
        }
    };
    let request = hyper::Request::post(&shared.path)
        .header("host", &shared.host)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .body(Full::new(body))
        .unwrap();
    connection.ready().await.unwrap();
    let response = connection.send_request(request).await.unwrap();
    let mut body = response.into_body();
    let mut line = Vec::new();
    while let Some(frame) = body.frame().await {
        line.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
    shared.idle.borrow_mut().push(connection);
    if !line.is_empty() {
        line.push(b'\n');
        let mut out = shared.out.borrow_mut();
        match out.is_empty() {
            true => *out = line,
            false => out.extend_from_slice(&line),
        }
        shared.more.notify_one();
    }
}
