//! A server under a guard: pipes straight to the server, a control socket to its guard.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::task::{Context, Poll};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::fd::{Sink, Source};
use super::{Launch, Report, SpawnError, Started, guard};

/// The guard's first report, if the program could be started.
const STARTED: &[u8] = b"started\n";
/// Longest report of a guard, in bytes.
const REPORT_BYTES: usize = 4 << 10;

/// The control socket and the guard behind it.
#[derive(Debug)]
pub(super) struct Control {
    socket: tokio::net::UnixStream,
    heard: Vec<u8>,
    started: bool,
    /// The guard is gone.
    over: bool,
    guard: tokio::process::Child,
}

/// Starts a server under a guard.
pub(super) fn start(launch: &Launch) -> Result<Started, SpawnError> {
    // ours do not pass to children, theirs become their standard streams
    let (child_in, ours_in) = pipe()?;
    let (ours_out, child_out) = pipe()?;
    let (ours_err, child_err) = pipe()?;
    let (ours, theirs) = UnixStream::pair()?;
    send_input(&ours, &child_in)?;
    drop(child_in);
    guard::send_secrets(&ours, &launch.secrets)?;
    let mut command = tokio::process::Command::new(own_program()?);
    if let Some(cwd) = &launch.cwd {
        command.current_dir(cwd);
    }
    let guard = command
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
    Ok(Started {
        input: Sink::owned(ours_in)?,
        output: Source::owned(ours_out)?,
        errors: Source::owned(ours_err)?,
        control: Control {
            socket: tokio::net::UnixStream::from_std(ours)?,
            heard: Vec::new(),
            started: false,
            over: false,
            guard,
        },
    })
}

impl Control {
    /// The guard's next report.
    pub(super) fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Report> {
        loop {
            if !self.started && self.heard.starts_with(STARTED) {
                self.started = true;
                return Poll::Ready(Report::Started);
            }
            if self.over {
                let heard = String::from_utf8_lossy(&self.heard);
                let last = heard.lines().next_back().filter(|line| *line != "started");
                return Poll::Ready(Report::Ended(last.unwrap_or("ended").to_owned()));
            }
            match self.socket.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => self.over = ready.is_err() || self.read(),
            }
        }
    }

    /// Reads what is there. Returns whether the guard is gone.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 512];
        match self.socket.try_read(&mut bytes) {
            Ok(0) => true,
            Ok(len) => {
                let room = REPORT_BYTES.saturating_sub(self.heard.len());
                self.heard.extend(bytes.iter().take(len.min(room)).copied());
                false
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Gives the server two seconds, from when its standard input was closed.
    pub(super) fn ask_to_stop(&mut self) {
        if let Err(error) = rustix::io::write(&self.socket, &[guard::STOP]) {
            tracing::debug!(%error, "A guard was not asked to stop: it is gone.");
        }
    }

    /// Waits in the background until the guard is gone, so that it leaves no zombie; our end of
    /// the socket stays open that long, or a polite stop would turn into a quick one.
    pub(super) fn collect(mut self) {
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
