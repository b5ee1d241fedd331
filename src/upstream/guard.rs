//! `mcpshim __guard`: the parent of one upstream server, and its end.
//!
//! Its standard input is the control socket; its standard output and error are the server's.
//!
//! ```text
//!   shim → guard   one byte with the server's standard input attached (SCM_RIGHTS), then
//!                  credentials: length (4 bytes, little-endian), NAME=VALUE\0 …, then
//!                  's' stop politely · end of the socket: stop now (the shim died, or let go)
//!   guard → shim   reports of a fixed form ([`report`]), then the end of the socket
//! ```
//!
//! Credentials come over the socket, so that they stand in no environment and no argument list
//! but the server's own; the guard forgets them once it runs. **Nothing but its three standard
//! streams reaches a server**: a guard closes everything that it inherited, and what it opens
//! itself ends with `exec`. So nobody but the guards can write into the socket.
//!
//! **One second after the shim is gone, or asked for the end, nothing it started is left.** On
//! Linux three processes stand behind each other, because a server may signal its parent:
//!
//! ```text
//!   shim (subreaper) ── backstop (subreaper) ── guard (subreaper) ── server ── its descendants
//! ```
//!
//! The [`backstop`] ends what a guard leaves that is killed or stopped, and the shim what both
//! leave (`orphans`). The server is started by [`launch`], which asks the kernel to kill it with
//! its guard. On other systems there is the guard alone, and it can only reach the server's
//! process group (`docs/limitations.md`).

#[cfg(target_os = "linux")]
mod backstop;
#[cfg(target_os = "linux")]
mod launch;
pub(super) mod report;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
#[cfg(not(target_os = "linux"))]
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
#[cfg(not(target_os = "linux"))]
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use self::report::GuardReport;
use crate::secret::Secret;

/// The word that makes any of our programs a guard.
pub(super) const WORD: &str = "__guard";
/// What follows it: the guard itself.
const GUARD: &str = "guard";
/// What the shim starts: on Linux the process that stands behind the guard.
pub(super) const FIRST: &str = if cfg!(target_os = "linux") {
    "backstop"
} else {
    GUARD
};
/// The byte that asks for a polite stop.
pub(super) const STOP: u8 = b's';

/// A server may take this long to end after its standard input was closed, when it was asked to
/// stop…
pub(super) const POLITE_MS: u64 = 600;
/// …and this long when the shim is gone.
const QUICK_MS: u64 = 200;
/// From SIGTERM to SIGKILL.
pub(super) const TERM_MS: u64 = 200;
/// How long SIGKILL is repeated while something below us is left.
const KILL_MS: u64 = 2_000;
/// Most bytes of credentials for one server.
const SECRETS_BYTES: usize = 64 << 10;
/// Between two looks at what is left.
const LOOK_MS: u64 = 5;

/// Becomes a guard if the command line says so.
pub(super) fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != WORD {
        return None;
    }
    let role = args.next();
    let command: Vec<OsString> = args.collect();
    let ended = match role.as_ref().and_then(|role| role.to_str()) {
        #[cfg(target_os = "linux")]
        Some(FIRST) => backstop::stand(&command),
        Some(GUARD) => guard(command),
        #[cfg(target_os = "linux")]
        Some(launch::ROLE) => launch::become_server(&command),
        Some(_) | None => Err(io::ErrorKind::InvalidInput.into()),
    };
    Some(match ended {
        Ok(()) => ExitCode::SUCCESS,
        // whoever stands behind looks for what is left
        Err(_) => ExitCode::FAILURE,
    })
}

/// Fails when something below it may be left.
fn guard(command: Vec<OsString>) -> io::Result<()> {
    crate::files::close_inherited();
    // away from the terminal's signals: the shim decides when it is over
    if let Err(error) = rustix::process::setsid() {
        // a group leader already: as good
        debug_assert_eq!(error, Errno::PERM);
    }
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let report = control.try_clone()?;
    let guarded = start_and_watch(control, command);
    if let Err(error) = &guarded {
        // the first report counts: of a server that was started this is not the first
        report::tell(&report, GuardReport::not_started(error));
    }
    guarded
}

fn start_and_watch(control: OwnedFd, mut command: Vec<OsString>) -> io::Result<()> {
    if command.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let args = command.split_off(1);
    let program = command.pop().unwrap_or_default();
    become_reaper()?;
    let input = receive_input(&control)?;
    let secrets = receive_secrets(&control)?;
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    // our copies would keep the pipes open after the server let go of them
    let null = null()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let control = UnixStream::from(control);
    control.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(watch(control, &program, &args, secrets, (input, output)))
}

fn null() -> io::Result<std::fs::File> {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
}

#[cfg(target_os = "linux")]
fn become_reaper() -> io::Result<()> {
    // credentials pass through our memory
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // belt to the socket's braces; if the shim died before this, the socket has ended already
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn become_reaper() -> io::Result<()> {
    Ok(())
}

/// Blocks for the first byte: the shim sent it before it started us.
fn receive_input(control: &OwnedFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::empty();
    #[cfg(target_os = "linux")]
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(
        control,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        flags,
    )?;
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let input = fds
        .next()
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    rustix::io::fcntl_setfd(&input, rustix::io::FdFlags::CLOEXEC)?;
    Ok(input)
}

/// Puts the server's standard input into the socket that is read by [`receive_input`].
pub(super) fn send_input(socket: &UnixStream, input: &OwnedFd) -> io::Result<()> {
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

/// Puts the credentials into the socket, behind the standard input.
pub(super) fn send_secrets(
    socket: &UnixStream,
    secrets: &BTreeMap<String, Secret>,
) -> io::Result<()> {
    let mut text = Zeroizing::new(Vec::with_capacity(SECRETS_BYTES));
    for (name, secret) in secrets {
        for part in [name.as_bytes(), b"=", secret.expose(), b"\0"] {
            text.extend_from_slice(part);
        }
    }
    send_packed(socket, &text)
}

/// Sends credentials that are packed already.
fn send_packed(mut socket: &UnixStream, text: &[u8]) -> io::Result<()> {
    // the socket has room for it: nobody reads yet
    let len = u32::try_from(text.len())
        .ok()
        .filter(|_| text.len() <= SECRETS_BYTES)
        .ok_or(io::ErrorKind::FileTooLarge)?;
    socket.write_all(&len.to_le_bytes())?;
    socket.write_all(text)
}

/// Blocks for the credentials, which the shim sent before it started us.
fn receive_secrets(control: &OwnedFd) -> io::Result<Secret> {
    let mut control = std::fs::File::from(control.try_clone()?);
    let mut len = [0; 4];
    control.read_exact(&mut len)?;
    let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
    if len > SECRETS_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut text = Zeroizing::new(vec![0; len]);
    control.read_exact(&mut text)?;
    Ok(Secret::new(std::mem::take(&mut *text)))
}

async fn watch(
    control: UnixStream,
    program: &OsString,
    args: &[OsString],
    secrets: Secret,
    streams: (OwnedFd, OwnedFd),
) -> io::Result<()> {
    // before the start, so that no death is missed
    let mut deaths = signal(SignalKind::child())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let report = OwnedFd::from(control.try_clone()?);
    let mut orders = tokio::net::UnixStream::from_std(control)?;
    let mut tree = match Tree::start(program, args, secrets, streams) {
        Ok(tree) => tree,
        Err(error) => {
            report::tell(&report, GuardReport::not_started(&error));
            return Ok(());
        }
    };
    report::tell(&report, GuardReport::Started);

    let far = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
    let mut deadline = far;
    while !tree.reap() {
        let mut order = [0];
        tokio::select! {
            _ = deaths.recv() => {}
            read = orders.read(&mut order) => match read {
                // asked twice is asked once
                Ok(1) if order[0] == STOP => {
                    deadline = deadline.min(Instant::now() + Duration::from_millis(POLITE_MS));
                }
                Ok(1) => {}
                Ok(_) | Err(_) => break,
            },
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => break,
            () = sleep_until(deadline) => break,
        }
    }
    let waited = deadline != far && Instant::now() >= deadline;
    let grace_ms = if waited { 0 } else { QUICK_MS };
    tree.end(&mut deaths, grace_ms).await;
    report::tell(&report, tree.report());
    match tree.is_empty() {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The server and everything below it.
struct Tree {
    server: Pid,
    status: Option<WaitStatus>,
    /// Nothing is left below us.
    empty: bool,
}

impl Tree {
    fn start(
        program: &OsString,
        args: &[OsString],
        secrets: Secret,
        (input, output): (OwnedFd, OwnedFd),
    ) -> io::Result<Self> {
        let pid = start_server(program, args, &secrets, (input, output))?;
        Ok(Self {
            server: pid,
            status: None,
            empty: false,
        })
    }

    /// Collects the dead. Returns whether the server is among them.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.server => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => {
                    self.empty = true;
                    break;
                }
            }
        }
        self.status.is_some()
    }

    /// Ends what is left: first by the closed standard input, then by SIGTERM, then by SIGKILL
    /// until nothing is found any more.
    async fn end(&mut self, deaths: &mut tokio::signal::unix::Signal, grace_ms: u64) {
        if !self.reap() {
            self.wait(deaths, grace_ms, |tree| tree.status.is_some())
                .await;
        }
        if self.is_empty() {
            return;
        }
        self.signal(Signal::TERM);
        self.wait(deaths, TERM_MS, Self::is_empty).await;
        let deadline = Instant::now() + Duration::from_millis(KILL_MS);
        while !self.is_empty() && Instant::now() < deadline {
            self.signal(Signal::KILL);
            self.wait(deaths, LOOK_MS, Self::is_empty).await;
        }
    }

    async fn wait(
        &mut self,
        deaths: &mut tokio::signal::unix::Signal,
        limit_ms: u64,
        over: impl Fn(&mut Self) -> bool,
    ) {
        let deadline = Instant::now() + Duration::from_millis(limit_ms);
        while !over(self) {
            match timeout_at(deadline, deaths.recv()).await {
                Ok(_) => {
                    self.reap();
                }
                Err(_) => {
                    self.reap();
                    return;
                }
            }
        }
    }

    /// Nothing below us is left: orphans are our children too.
    #[cfg(target_os = "linux")]
    fn is_empty(&mut self) -> bool {
        self.reap();
        self.empty
    }

    /// Elsewhere orphans do not come back: the group is asked.
    #[cfg(not(target_os = "linux"))]
    fn is_empty(&mut self) -> bool {
        self.reap();
        rustix::process::test_kill_process_group(self.server).is_err()
    }

    #[cfg(target_os = "linux")]
    fn signal(&self, signal: Signal) {
        super::tree::signal(signal, &|_| false);
    }

    #[cfg(not(target_os = "linux"))]
    fn signal(&self, signal: Signal) {
        match rustix::process::kill_process_group(self.server, signal) {
            // gone by then is no error
            Ok(()) | Err(_) => {}
        }
    }

    fn report(&self) -> GuardReport {
        let status = self.status;
        if let Some(code) = status.and_then(WaitStatus::exit_status) {
            return GuardReport::Exited(code);
        }
        match status.and_then(WaitStatus::terminating_signal) {
            Some(number) => GuardReport::Signalled(number),
            None => GuardReport::Ended,
        }
    }
}

#[cfg(target_os = "linux")]
use self::launch::start_server;

/// Starts the program, in a process group of its own.
#[cfg(not(target_os = "linux"))]
fn start_server(
    program: &OsString,
    args: &[OsString],
    secrets: &Secret,
    (input, output): (OwnedFd, OwnedFd),
) -> io::Result<Pid> {
    let child = Command::new(program)
        .args(args)
        .envs(pairs(secrets))
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .process_group(0)
        .spawn()?;
    pid_of(&child)
}

/// The credentials as the socket carries them, by the name of their variable.
fn pairs(secrets: &Secret) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    let pairs = secrets.expose().split(|byte| *byte == 0);
    pairs.filter_map(|pair| {
        let at = memchr::memchr(b'=', pair)?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        Some((OsStr::from_bytes(name), OsStr::from_bytes(value)))
    })
}

/// A child that is never waited for through std: all the dead below us are collected in one place.
fn pid_of(child: &std::process::Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
