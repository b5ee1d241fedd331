//! A server under a guard: pipes straight to the server, a control socket to its guard.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::fd::{Sink, Source};
use super::guard::report::{GuardReport, ReportBuffer};
use super::{Launch, Report, SpawnError, Started, guard};

/// Guards that were asked for the end and are not gone after this are ended themselves: something
/// stopped them.
const OVERDUE: Duration = Duration::from_millis(guard::POLITE_MS + guard::TERM_MS + 50);

/// The control socket and the guard behind it.
#[derive(Debug)]
pub(super) struct Control {
    /// What was to be started, for people.
    program: String,
    socket: tokio::net::UnixStream,
    heard: ReportBuffer,
    /// How the server ended, once the guard has said it.
    end: Option<GuardReport>,
    /// The guard is gone.
    over: bool,
    guard: tokio::process::Child,
    awake: Awake,
}

/// Starts a server under a guard.
pub(super) fn start(launch: &Launch) -> Result<Started, SpawnError> {
    // ours do not pass to children, theirs become their standard streams
    let (child_in, ours_in) = pipe()?;
    let (ours_out, child_out) = pipe()?;
    let (ours_err, child_err) = pipe()?;
    let (ours, theirs) = UnixStream::pair()?;
    guard::send_input(&ours, &child_in)?;
    drop(child_in);
    guard::send_secrets(&ours, &launch.secrets)?;
    let mut command = tokio::process::Command::new(own_program()?);
    if let Some(cwd) = &launch.cwd {
        command.current_dir(cwd);
    }
    command
        .arg0("mcpshim-guard")
        .args([guard::WORD, guard::FIRST])
        .arg(&launch.command)
        .args(&launch.args)
        .env_clear()
        .envs(launch.environment.vars())
        .envs(&launch.env)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(child_out))
        .stderr(Stdio::from(child_err));
    #[cfg(target_os = "linux")]
    let guard = super::orphans::spawn_guard(&mut command)?;
    #[cfg(not(target_os = "linux"))]
    let guard = command.spawn()?;
    ours.set_nonblocking(true)?;
    Ok(Started {
        input: Sink::owned(ours_in)?,
        output: Source::owned(ours_out)?,
        errors: Source::owned(ours_err)?,
        control: Control {
            socket: tokio::net::UnixStream::from_std(ours)?,
            program: launch.command.clone(),
            heard: ReportBuffer::default(),
            end: None,
            over: false,
            awake: Awake(guard.id()),
            guard,
        },
    })
}

impl Control {
    /// The guard's next report.
    pub(super) fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Report> {
        loop {
            while let Some(report) = self.heard.next() {
                match report {
                    GuardReport::Started => return Poll::Ready(Report::Started),
                    end => self.end = self.end.or(Some(end)),
                }
            }
            if self.over {
                let end = self.end.unwrap_or(GuardReport::Ended);
                return Poll::Ready(Report::Ended(end.phrase(&self.program)));
            }
            match self.socket.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => self.over = ready.is_err() || self.read(),
            }
        }
    }

    /// Reads what is there. Returns whether the guard is gone.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 64];
        match self.socket.try_read(&mut bytes) {
            Ok(0) => true,
            Ok(len) => {
                self.heard.extend(bytes.get(..len).unwrap_or_default());
                false
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Gives the server [`guard::POLITE_MS`], from when its standard input was closed.
    pub(super) fn ask_to_stop(&mut self) {
        if let Err(error) = rustix::io::write(&self.socket, &[guard::STOP]) {
            tracing::debug!(%error, "A guard was not asked to stop: it is gone.");
        }
    }

    /// Waits in the background until the guard is gone, so that it leaves no zombie; our end of
    /// the socket stays open that long, or a polite stop would turn into a quick one. Whatever a
    /// guard leaves that did not end by itself is ended too.
    pub(super) fn collect(mut self) {
        tokio::spawn(async move {
            let ended = match tokio::time::timeout(OVERDUE, self.guard.wait()).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("A guard did not end a server in time: it is ended itself.");
                    if let Err(error) = self.guard.start_kill() {
                        tracing::debug!(%error, "A guard was not killed: it is gone.");
                    }
                    self.guard.wait().await
                }
            };
            let pid = self.awake.0.take();
            drop(self.socket);
            #[cfg(target_os = "linux")]
            super::orphans::settle(pid, ended.is_ok_and(|status| status.success())).await;
            #[cfg(not(target_os = "linux"))]
            drop((pid, ended));
        });
    }
}

/// A guard that is not collected yet. Letting go of it wakes it, should something have stopped
/// it: it is to see that we are gone.
#[derive(Debug)]
struct Awake(Option<u32>);

impl Drop for Awake {
    fn drop(&mut self) {
        let guard = self.0.and_then(|pid| i32::try_from(pid).ok());
        if let Some(guard) = guard.and_then(Pid::from_raw) {
            // it is our child until it is collected: nobody else has its number
            match rustix::process::kill_process(guard, Signal::CONT) {
                Ok(()) | Err(_) => {}
            }
        }
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

/// This program. On Linux the link survives an update that replaces the file.
pub(super) fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe()
}
