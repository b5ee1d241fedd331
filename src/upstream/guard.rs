//! `mcpshim __guard`: the parent of one upstream server, and its end.
//!
//! Its standard input is the control socket; its standard output and error are the server's.
//!
//! ```text
//!   shim → guard   one byte with the server's standard input attached (SCM_RIGHTS), then
//!                  credentials: length (4 bytes, little-endian), NAME=VALUE\0 …, then
//!                  's' stop politely · end of the socket: stop now (the shim died, or let go)
//!   guard → shim   "started\n"                     the program runs
//!                  "ended: exit status: 1\n"       one phrase, then the end of the socket
//! ```
//!
//! Credentials come over the socket, so that they stand in no environment and no argument list
//! but the server's own; the guard forgets them once it runs.
//!
//! **One second after the shim is gone, nothing it started is left.** On Linux the guard is a
//! subreaper: whatever its server starts and abandons comes back to it, so it can find it. On
//! other systems it can only reach the server's process group (`docs/limitations.md`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The word that makes any of our programs a guard.
pub(super) const WORD: &str = "__guard";
/// The byte that asks for a polite stop.
pub(super) const STOP: u8 = b's';

/// A server may take this long to end after its standard input was closed, when it was asked to
/// stop…
const POLITE_MS: u64 = 2_000;
/// …and this long when the shim is gone.
const QUICK_MS: u64 = 200;
/// From SIGTERM to SIGKILL.
const TERM_MS: u64 = 200;
/// How long SIGKILL is repeated while something below us is left.
const KILL_MS: u64 = 5_000;
/// Most bytes of credentials for one server.
const SECRETS_BYTES: usize = 64 << 10;
/// Between two looks at what is left.
const LOOK_MS: u64 = 10;

/// Becomes a guard if the command line says so.
pub(super) fn dispatch() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != WORD {
        return None;
    }
    Some(match guard(args.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        // nobody is left to tell, or the control socket told it
        Err(_) => ExitCode::FAILURE,
    })
}

fn guard(mut command: Vec<OsString>) -> io::Result<()> {
    if command.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let args = command.split_off(1);
    let program = command.pop().unwrap_or_default();
    // away from the terminal's signals: the shim decides when it is over
    if let Err(error) = rustix::process::setsid() {
        // a group leader already: as good
        debug_assert_eq!(error, Errno::PERM);
    }
    become_reaper()?;
    let control = rustix::io::dup(rustix::stdio::stdin())?;
    let input = receive_input(&control)?;
    let secrets = receive_secrets(&control)?;
    let output = rustix::io::dup(rustix::stdio::stdout())?;
    // our copies would keep the pipes open after the server let go of them
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let control = UnixStream::from(control);
    control.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(watch(control, &program, &args, secrets, (input, output)))
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
    // the socket has room for it: nobody reads yet
    let len = u32::try_from(text.len())
        .ok()
        .filter(|_| text.len() <= SECRETS_BYTES)
        .ok_or(io::ErrorKind::FileTooLarge)?;
    let mut socket = socket;
    socket.write_all(&len.to_le_bytes())?;
    socket.write_all(&text)
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
    let report = control.try_clone()?;
    let mut orders = tokio::net::UnixStream::from_std(control)?;
    // a shim that is gone needs no report, and the socket has room for two short lines
    let tell = |text: &str| match rustix::io::write(&report, text.as_bytes()) {
        Ok(_) | Err(_) => {}
    };

    let mut tree = match Tree::start(program, args, secrets, streams) {
        Ok(tree) => tree,
        Err(error) => {
            let program = program.to_string_lossy();
            tell(&format!("could not be started: {program}: {error}\n"));
            return Ok(());
        }
    };
    tell("started\n");

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
    tell(&format!("{}\n", tree.phrase()));
    Ok(())
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
        let pairs = secrets.expose().split(|byte| *byte == 0);
        let pairs = pairs.filter_map(|pair| {
            let at = memchr::memchr(b'=', pair)?;
            let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
            Some((OsStr::from_bytes(name), OsStr::from_bytes(value)))
        });
        let child = Command::new(program)
            .args(args)
            .envs(pairs)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .process_group(0)
            .spawn()?;
        // never waited for through std: all the dead below us are collected in one place
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Self {
            server: pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?,
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
        super::tree::signal(rustix::process::getpid(), signal);
    }

    #[cfg(not(target_os = "linux"))]
    fn signal(&self, signal: Signal) {
        match rustix::process::kill_process_group(self.server, signal) {
            // gone by then is no error
            Ok(()) | Err(_) => {}
        }
    }

    fn phrase(&self) -> String {
        let status = self.status;
        if let Some(code) = status.and_then(WaitStatus::exit_status) {
            return format!("ended: exit status {code}");
        }
        match status.and_then(WaitStatus::terminating_signal) {
            Some(number) => format!("ended by signal {number}"),
            None => "ended".to_owned(),
        }
    }
}
