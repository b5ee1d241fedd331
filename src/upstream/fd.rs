//! Standard streams and pipes as async file descriptors.
//!
//! Clients hand us pipes or socket pairs (Node); both go through epoll or kqueue. What those
//! refuse (a regular file) or what others share (a terminal) is read by a thread. Never
//! `tokio::io::stdin`: its thread pool costs four times the processor time (measured).

use std::io::{self, IoSlice, IsTerminal as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::queue::Queue;
use crate::wire::line::LineBuffer;

/// Slices given to one `writev`.
const SLICES: usize = 64;
/// Bytes a fallback thread reads at once.
const THREAD_READ_BYTES: usize = 64 << 10;

/// Puts the blocking mode of a standard stream back: whoever gave it to us shares the open file.
#[derive(Debug)]
struct Mode {
    fd: BorrowedFd<'static>,
    before: OFlags,
}

impl Mode {
    fn non_blocking(fd: BorrowedFd<'static>) -> io::Result<Self> {
        let before = rustix::fs::fcntl_getfl(fd)?;
        rustix::fs::fcntl_setfl(fd, before | OFlags::NONBLOCK)?;
        Ok(Self { fd, before })
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::fcntl_setfl(self.fd, self.before) {
            tracing::debug!(%error, "A standard stream keeps its non-blocking mode.");
        }
    }
}

fn set_non_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// Where bytes come from.
#[derive(Debug)]
pub struct Source(SourceKind);

#[derive(Debug)]
enum SourceKind {
    /// A pipe or a socket: tokio's pipe end only reads and waits, which both can.
    Async {
        receiver: pipe::Receiver,
        _mode: Option<Mode>,
    },
    Thread(mpsc::Receiver<io::Result<Vec<u8>>>),
}

impl Source {
    /// Standard input.
    ///
    /// # Errors
    /// When it is closed.
    pub fn standard() -> io::Result<Self> {
        if !io::stdin().is_terminal()
            && let Ok(watched) = Self::watch_standard()
        {
            return Ok(watched);
        }
        let (sender, receiver) = mpsc::channel(4);
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || read_all(&sender))?;
        Ok(Self(SourceKind::Thread(receiver)))
    }

    fn watch_standard() -> io::Result<Self> {
        let fd = rustix::stdio::stdin();
        let own = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
        let mode = Mode::non_blocking(fd)?;
        let receiver = pipe::Receiver::from_owned_fd_unchecked(own)?;
        Ok(Self(SourceKind::Async {
            receiver,
            _mode: Some(mode),
        }))
    }

    /// A pipe or socket of our own.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn owned(fd: OwnedFd) -> io::Result<Self> {
        set_non_blocking(&fd)?;
        let receiver = pipe::Receiver::from_owned_fd_unchecked(fd)?;
        Ok(Self(SourceKind::Async {
            receiver,
            _mode: None,
        }))
    }

    /// Reads once what is there. `Ok(0)` is the end.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut LineBuffer,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            // the future holds nothing between polls: it may be made anew each time
            SourceKind::Async { receiver, .. } => {
                buffer.fill(|bytes| pin!(receiver.read_buf(bytes)).poll(cx))
            }
            SourceKind::Thread(receiver) => Poll::Ready(match ready!(receiver.poll_recv(cx)) {
                None => Ok(0),
                Some(Err(error)) => Err(error),
                Some(Ok(bytes)) => {
                    buffer.extend(&bytes);
                    Ok(bytes.len())
                }
            }),
        }
    }
}

/// The thread behind a standard input that cannot be watched. It ends with its input, or with
/// the process: a blocked `read` cannot be called off.
fn read_all(sender: &mpsc::Sender<io::Result<Vec<u8>>>) {
    loop {
        let mut bytes = Vec::with_capacity(THREAD_READ_BYTES);
        let spare = rustix::buffer::spare_capacity(&mut bytes);
        let outcome = match rustix::io::read(rustix::stdio::stdin(), spare) {
            Ok(0) => return,
            Ok(_) => Ok(bytes),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
        let over = outcome.is_err();
        if sender.blocking_send(outcome).is_err() || over {
            return;
        }
    }
}

/// Where bytes go: a queue of lines, written as far as the other end takes them.
#[derive(Debug)]
pub struct Sink {
    kind: SinkKind,
    queue: Queue,
}

#[derive(Debug)]
enum SinkKind {
    Async {
        sender: pipe::Sender,
        _mode: Option<Mode>,
    },
    /// A terminal or a file: written at once, blocking. For people who try things by hand.
    Blocking,
    /// Nobody reads any more: everything is dropped.
    Closed,
}

impl Sink {
    /// Standard output.
    #[must_use]
    pub fn standard() -> Self {
        let watched = match io::stdout().is_terminal() {
            true => None,
            false => Self::watch_standard().ok(),
        };
        watched.unwrap_or_else(|| Self::of(SinkKind::Blocking))
    }

    fn watch_standard() -> io::Result<Self> {
        let fd = rustix::stdio::stdout();
        let own = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
        let mode = Mode::non_blocking(fd)?;
        let sender = pipe::Sender::from_owned_fd_unchecked(own)?;
        Ok(Self::of(SinkKind::Async {
            sender,
            _mode: Some(mode),
        }))
    }

    /// A pipe or socket of our own.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn owned(fd: OwnedFd) -> io::Result<Self> {
        set_non_blocking(&fd)?;
        let sender = pipe::Sender::from_owned_fd_unchecked(fd)?;
        Ok(Self::of(SinkKind::Async {
            sender,
            _mode: None,
        }))
    }

    /// One whose other end is gone: takes everything and keeps nothing.
    #[must_use]
    pub fn closed() -> Self {
        Self::of(SinkKind::Closed)
    }

    fn of(kind: SinkKind) -> Self {
        Self {
            kind,
            queue: Queue::default(),
        }
    }

    /// Adds a line to the queue; nothing is written yet.
    pub fn push(&mut self, line: Bytes) {
        if !matches!(self.kind, SinkKind::Closed) {
            self.queue.push(line);
        }
    }

    /// Bytes not yet written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// Writes what is queued; ready when the queue is empty.
    ///
    /// # Errors
    /// Those of `writev(2)`; the queue is then of no more use.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let len = ready!(self.poll_write(cx))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.queue.consume(len);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slot, line) in slices.iter_mut().zip(self.queue.lines()) {
            *slot = IoSlice::new(line);
        }
        let count = self.queue.lines().len().min(SLICES);
        let slices = slices.get(..count).unwrap_or_default();
        match (&mut self.kind, slices) {
            (SinkKind::Async { sender, .. }, [one]) => Pin::new(sender).poll_write(cx, one),
            (SinkKind::Async { sender, .. }, several) => {
                Pin::new(sender).poll_write_vectored(cx, several)
            }
            (SinkKind::Blocking, several) => {
                let mut out = io::stdout().lock();
                let len = out.write_vectored(several)?;
                out.flush()?;
                Poll::Ready(Ok(len))
            }
            (SinkKind::Closed, several) => {
                Poll::Ready(Ok(several.iter().map(|slice| slice.len()).sum()))
            }
        }
    }
}
