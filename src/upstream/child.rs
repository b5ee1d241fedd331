//! The shim's side of a running server.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::fd::{Sink, Source};
use super::{Launch, PipeEvent, SpawnError, Words, guard};
use crate::wire::line::LineBuffer;

/// The guard's first report, if the program could be started.
const STARTED: &[u8] = b"started\n";
/// Longest report of a guard, in bytes.
const REPORT_BYTES: usize = 4 << 10;

/// A server that was started. Dropping it ends the server and everything below it.
#[derive(Debug)]
pub struct Child {
    input: Option<Sink>,
    output: Option<Source>,
    errors: Option<Source>,
    words: Words,
    heard: LineBuffer,
    control: Option<Control>,
    started: bool,
    /// The guard's last report: how it ended.
    phrase: Option<String>,
}

/// The control socket and the guard behind it.
#[derive(Debug)]
struct Control {
    socket: tokio::net::UnixStream,
    report: Vec<u8>,
    guard: tokio::process::Child,
}

impl Child {
    /// Starts a server under a guard. [`PipeEvent::Started`] or [`PipeEvent::Ended`] follows.
    ///
    /// # Errors
    /// When not even the guard can be started.
    pub fn spawn(launch: &Launch) -> Result<Self, SpawnError> {
        // ours do not pass to children, theirs become their standard streams
        let (child_in, ours_in) = pipe()?;
        let (ours_out, child_out) = pipe()?;
        let (ours_err, child_err) = pipe()?;
        let (ours, theirs) = UnixStream::pair()?;
        send_input(&ours, &child_in)?;
        drop(child_in);
        let guard = tokio::process::Command::new(own_program()?)
            .arg0("mcpshim-guard")
            .arg(guard::WORD)
            .arg(&launch.command)
            .args(&launch.args)
            .env_clear()
            .envs(launch.environment.vars())
            .envs(&launch.env)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(child_out))
            .stderr(Stdio::from(child_err))
            .spawn()?;
        ours.set_nonblocking(true)?;
        tracing::info!(server = %launch.key, "Server started.");
        Ok(Self {
            input: Some(Sink::owned(ours_in)?),
            output: Some(Source::owned(ours_out)?),
            errors: Some(Source::owned(ours_err)?),
            words: Words::new(launch.log.clone()),
            heard: LineBuffer::new(),
            control: Some(Control {
                socket: tokio::net::UnixStream::from_std(ours)?,
                report: Vec::new(),
                guard,
            }),
            started: false,
            phrase: None,
        })
    }

    /// Adds a line for its standard input. One that has ended gets no more.
    pub fn push(&mut self, line: Bytes) {
        if let Some(input) = &mut self.input {
            input.push(line);
        }
    }

    /// Bytes it has not read yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.input.as_ref().map_or(0, Sink::queued_bytes)
    }

    /// Writes what is queued, as far as it goes.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) {
        if let Some(input) = &mut self.input
            && let Poll::Ready(Err(error)) = input.poll_flush(cx)
        {
            // it does not read any more; how it ended comes from the guard
            tracing::debug!(%error, "A server closed its standard input.");
            self.input = None;
        }
    }

    /// The next thing that comes from it. `read` is false while nobody has room for its output.
    pub fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut LineBuffer,
        read: bool,
    ) -> Poll<PipeEvent> {
        self.poll_errors(cx);
        if self.poll_control(cx) {
            return Poll::Ready(PipeEvent::Started);
        }
        if let Some(output) = self.output.as_mut().filter(|_| read) {
            match output.poll_fill(cx, buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(len)) if len > 0 => return Poll::Ready(PipeEvent::Read),
                Poll::Ready(Ok(_) | Err(_)) => {
                    self.output = None;
                    // it may live on without its output: of no use to anybody
                    self.ask_to_stop();
                }
            }
            if self.poll_control(cx) {
                return Poll::Ready(PipeEvent::Started);
            }
        }
        match (&self.output, &self.control) {
            (None, None) => Poll::Ready(PipeEvent::Ended(self.reason())),
            _ => Poll::Pending,
        }
    }

    fn poll_errors(&mut self, cx: &mut Context<'_>) {
        while let Some(errors) = &mut self.errors {
            match errors.poll_fill(cx, &mut self.heard) {
                Poll::Pending => return,
                Poll::Ready(Ok(len)) if len > 0 => {
                    let words = &mut self.words;
                    self.heard.fill(|bytes| {
                        words.push(bytes);
                        bytes.clear();
                    });
                }
                Poll::Ready(Ok(_) | Err(_)) => self.errors = None,
            }
        }
    }

    /// Reads the guard's reports. Returns whether the program has just been started.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(control) = &mut self.control else {
            return false;
        };
        let ended = control.poll_report(cx).is_ready();
        let just_started = !self.started && control.report.starts_with(STARTED);
        self.started |= just_started;
        if ended {
            let report = String::from_utf8_lossy(&control.report);
            let last = report.lines().next_back().filter(|line| *line != "started");
            self.phrase = Some(last.unwrap_or("ended").to_owned());
            if let Some(control) = self.control.take() {
                control.collect();
            }
        }
        just_started
    }

    /// How it ended, with its last words.
    fn reason(&self) -> String {
        let phrase = self.phrase.as_deref().unwrap_or("ended");
        match self.words.last() {
            Some(words) => format!("{phrase}; its last words: {words}"),
            None => phrase.to_owned(),
        }
    }

    fn ask_to_stop(&mut self) {
        self.input = None;
        if let Some(control) = &self.control
            && let Err(error) = rustix::io::write(&control.socket, &[guard::STOP])
        {
            tracing::debug!(%error, "A guard was not asked to stop: it is gone.");
        }
    }

    /// Closes its standard input and gives it two seconds; what is left then is killed.
    /// Nobody has to wait for it.
    pub fn stop(mut self) {
        self.ask_to_stop();
        self.output = None;
        self.errors = None;
        if let Some(control) = self.control.take() {
            control.collect();
        }
    }
}

impl Control {
    /// Ready when the guard is gone.
    fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.socket.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let mut bytes = [0; 512];
            match self.socket.try_read(&mut bytes) {
                Ok(0) => return Poll::Ready(()),
                Ok(len) => {
                    let room = REPORT_BYTES.saturating_sub(self.report.len());
                    self.report
                        .extend(bytes.iter().take(len.min(room)).copied());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Waits in the background until the guard is gone, so that it leaves no zombie; our end of
    /// the socket stays open that long, or a polite stop would turn into a quick one.
    fn collect(mut self) {
        tokio::spawn(async move {
            if let Err(error) = self.guard.wait().await {
                tracing::debug!(%error, "A guard's end was not seen.");
            }
            drop(self.socket);
        });
    }
}

/// A pipe that children do not inherit.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    #[cfg(target_os = "linux")]
    {
        Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let (reader, writer) = rustix::pipe::pipe()?;
        for end in [&reader, &writer] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok((reader, writer))
    }
}

/// Puts the server's standard input into the socket the guard will find.
fn send_input(socket: &UnixStream, input: &OwnedFd) -> io::Result<()> {
    let fds = [input.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(b"i")],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// This program. On Linux the link survives an update that replaces the file.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe()
}
