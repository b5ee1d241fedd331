//! Between a guard and its server: a process that becomes the server.
//!
//! The kernel kills a server with its guard only if the server's own process asked for it, and
//! whatever is to be asked has to be asked before the program is there. It gets the standard
//! input and the credentials as the guard does, over a socket that `exec` closes: the guard reads
//! its end, or the number of the error.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};

use super::{WORD, pairs, pid_of, receive_input, receive_secrets, send_input, send_packed};
use crate::secret::Secret;
use crate::upstream::guarded::own_program;

/// What follows [`WORD`].
pub(super) const ROLE: &str = "launch";

/// Starts the program, in a process group of its own.
///
/// # Errors
/// Those of the program, as `exec` says them.
pub(super) fn start_server(
    program: &OsString,
    args: &[OsString],
    secrets: &Secret,
    (input, output): (OwnedFd, OwnedFd),
) -> io::Result<Pid> {
    let (mut ours, theirs) = UnixStream::pair()?;
    send_input(&ours, &input)?;
    send_packed(&ours, secrets.expose())?;
    let mut child = Command::new(own_program()?)
        .arg0("mcpshim-launch")
        .args([WORD, ROLE])
        .arg(program)
        .args(args)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(output))
        .process_group(0)
        .spawn()?;
    drop(input);
    let mut number = [0; 4];
    match ours.read_exact(&mut number) {
        // it ended with `exec`
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => pid_of(&child),
        Err(error) => Err(error),
        Ok(()) => {
            child.wait()?;
            Err(io::Error::from_raw_os_error(i32::from_le_bytes(number)))
        }
    }
}

/// Becomes the server.
///
/// # Errors
/// When it could not, after the guard was told.
pub(super) fn become_server(command: &[OsString]) -> io::Result<()> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let failed = match prepare(&control) {
        Ok(secrets) => exec(command, &secrets),
        Err(error) => error,
    };
    let number = failed.raw_os_error().unwrap_or_default();
    rustix::io::write(&control, &number.to_le_bytes())?;
    Err(failed)
}

fn prepare(control: &OwnedFd) -> io::Result<Secret> {
    // credentials pass through our memory; `exec` makes the server's its own again
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let input = receive_input(control)?;
    let secrets = receive_secrets(control)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // a guard that died before that is not heard of again
    let mut fds = [PollFd::new(control, PollFlags::RDHUP | PollFlags::HUP)];
    if poll(&mut fds, Some(&Timespec::default()))? > 0 {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    rustix::stdio::dup2_stdin(&input)?;
    Ok(secrets)
}

/// Returns only with an error.
fn exec(command: &[OsString], secrets: &Secret) -> io::Error {
    let Some((program, args)) = command.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let mut command = Command::new(program);
    command.args(args).envs(pairs(secrets)).exec()
}
