//! Standard streams and pipes on Windows.
//!
//! Windows cannot wait for an anonymous pipe, and the pipes that clients hand us were not made to be
//! waited for. So each standard stream has a thread; the pipes of children are tokio's, which does the
//! same behind its back. Both hold a bounded amount: nobody reads ahead of who takes.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::mpsc;

use super::queue::Queue;
use crate::wire::line::LineBuffer;

/// Bytes a thread reads at once.
const THREAD_READ_BYTES: usize = 64 << 10;
/// Reads a thread may be ahead.
const READS_AHEAD: usize = 4;
/// Lines handed to a thread at once.
const BATCH: usize = 64;

/// Where bytes come from.
#[derive(Debug)]
pub struct Source(SourceKind);

enum SourceKind {
    Pipe(Pin<Box<dyn AsyncRead + Send>>),
    Thread(mpsc::Receiver<io::Result<Vec<u8>>>),
}

impl Source {
    /// Standard input.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn standard() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(READS_AHEAD);
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || read_all(&sender))?;
        Ok(Self(SourceKind::Thread(receiver)))
    }

    /// A pipe of our own.
    #[must_use]
    pub fn owned(pipe: impl AsyncRead + Send + 'static) -> Self {
        Self(SourceKind::Pipe(Box::pin(pipe)))
    }

    /// Reads once what is there. `Ok(0)` is the end.
    ///
    /// # Errors
    /// Those of `ReadFile`.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut LineBuffer,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            // the future holds nothing between polls: it may be made anew each time
            SourceKind::Pipe(pipe) => buffer.fill(|bytes| pin!(pipe.read_buf(bytes)).poll(cx)),
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

/// The thread behind standard input. It ends with its input, or with the process: a blocked read
/// cannot be called off.
fn read_all(sender: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut input = io::stdin().lock();
    loop {
        let mut bytes = vec![0; THREAD_READ_BYTES];
        let outcome = match input.read(&mut bytes) {
            Ok(0) => return,
            Ok(len) => {
                bytes.truncate(len);
                Ok(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
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

enum SinkKind {
    Pipe(Pin<Box<dyn AsyncWrite + Send>>),
    Thread(Writer),
    /// Nobody reads any more: everything is dropped.
    Closed,
}

/// The thread behind standard output, and what it was given last.
#[derive(Debug)]
struct Writer {
    batches: mpsc::Sender<Vec<Bytes>>,
    written: mpsc::Receiver<io::Result<usize>>,
    busy: bool,
}

impl Writer {
    fn start() -> io::Result<Self> {
        let (batches, mut given) = mpsc::channel::<Vec<Bytes>>(1);
        let (tell, written) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(move || {
                while let Some(batch) = given.blocking_recv() {
                    if tell.blocking_send(write_all(&batch)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            batches,
            written,
            busy: false,
        })
    }

    /// Hands over the beginning of the queue, and waits until it is written.
    fn poll_write(&mut self, cx: &mut Context<'_>, queue: &Queue) -> Poll<io::Result<usize>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        if !self.busy {
            let batch = queue.lines().take(BATCH).cloned().collect();
            // one batch at a time: there is room for it, or nobody takes it any more
            if self.batches.try_send(batch).is_err() {
                return Poll::Ready(Err(gone()));
            }
            self.busy = true;
        }
        let written = ready!(self.written.poll_recv(cx));
        self.busy = false;
        Poll::Ready(written.unwrap_or_else(|| Err(gone())))
    }
}

fn write_all(batch: &[Bytes]) -> io::Result<usize> {
    let mut out = io::stdout().lock();
    let mut len = 0;
    for line in batch {
        out.write_all(line)?;
        len += line.len();
    }
    out.flush()?;
    Ok(len)
}

impl Sink {
    /// Standard output.
    #[must_use]
    pub fn standard() -> Self {
        Self::of(match Writer::start() {
            Ok(writer) => SinkKind::Thread(writer),
            Err(error) => {
                tracing::error!(%error, "Standard output has no thread.");
                SinkKind::Closed
            }
        })
    }

    /// A pipe of our own.
    #[must_use]
    pub fn owned(pipe: impl AsyncWrite + Send + 'static) -> Self {
        Self::of(SinkKind::Pipe(Box::pin(pipe)))
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
    /// Those of `WriteFile`; the queue is then of no more use.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.queue.first() {
            let len = ready!(match &mut self.kind {
                SinkKind::Pipe(pipe) => pipe.as_mut().poll_write(cx, first),
                SinkKind::Thread(writer) => writer.poll_write(cx, &self.queue),
                SinkKind::Closed => Poll::Ready(Ok(first.len())),
            })?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.queue.consume(len);
        }
        match &mut self.kind {
            // tokio's thread may still hold the last of it
            SinkKind::Pipe(pipe) => pipe.as_mut().poll_flush(cx),
            SinkKind::Thread(_) | SinkKind::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl fmt::Debug for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pipe(_) => "Pipe",
            Self::Thread(_) => "Thread",
        })
    }
}

impl fmt::Debug for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pipe(_) => "Pipe",
            Self::Thread(_) => "Thread",
            Self::Closed => "Closed",
        })
    }
}
