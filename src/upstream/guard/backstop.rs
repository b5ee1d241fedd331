//! The process behind a guard: nothing, until the guard is killed or stopped.
//!
//! A server runs with its user's rights, so it can signal its guard. What a killed guard leaves
//! comes to us, a subreaper, and is ended. A guard that is stopped is woken; one that is stopped
//! again and again is ended with all below it. A server that ends both of us at once is left to
//! the shim (`orphans`); one that ends the shim too is nobody's (`docs/limitations.md`).

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use super::report::{GuardReport, tell};
use super::{GUARD, QUICK_MS, TERM_MS, WORD, become_reaper, null, pid_of};
use crate::upstream::guarded::own_program;
use crate::upstream::tree;

/// When the shim is gone, a guard may take this long to see to the end.
const GUARD_MS: u64 = QUICK_MS + TERM_MS + 100;
/// A guard that is stopped more often than this is not woken any more.
const STOPS: u32 = 3;
/// How long what is left is killed.
const KILL_MS: u64 = 1_000;
/// Between two looks at what is left.
const LOOK_MS: u64 = 2;

/// Starts the guard and stands behind it.
///
/// # Errors
/// When something below us may be left.
pub(super) fn stand(command: &[OsString]) -> io::Result<()> {
    crate::files::close_inherited();
    // the guard makes a session of its own; ours is no terminal's either
    if let Err(error) = rustix::process::setsid() {
        debug_assert_eq!(error, Errno::PERM);
    }
    become_reaper()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(watch(command))
}

/// How the guard is.
enum Guard {
    Ended(WaitStatus),
    Lives,
    Stopped,
}

async fn watch(command: &[OsString]) -> io::Result<()> {
    // before the start, so that no death is missed
    let mut deaths = signal(SignalKind::child())?;
    let mut term = signal(SignalKind::terminate())?;
    let guard = Command::new(own_program()?)
        .arg0("mcpshim-guard")
        .args([WORD, GUARD])
        .args(command)
        .spawn()?;
    let guard = pid_of(&guard)?;
    // the pipes are the server's: they end with it, not with us
    let null = null()?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let control = std::os::unix::net::UnixStream::from(control);
    control.set_nonblocking(true)?;
    let control = UnixStream::from_std(control)?;

    let in_time = || Instant::now() + Duration::from_millis(GUARD_MS);
    let far = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
    let (mut deadline, mut stops) = (far, 0);
    let status = loop {
        match look(guard) {
            Guard::Ended(status) => break Some(status),
            Guard::Stopped if stops == STOPS => break None,
            Guard::Stopped => {
                stops += 1;
                wake(guard);
                continue;
            }
            Guard::Lives => {}
        }
        let gone = deadline != far;
        tokio::select! {
            _ = deaths.recv() => {}
            // one that cannot be watched is as good as gone
            _ = hung_up(&control), if !gone => deadline = in_time(),
            _ = term.recv(), if !gone => deadline = in_time(),
            () = sleep_until(deadline) => break None,
        }
    };
    if status.is_some_and(|status| status.exit_status() == Some(0)) {
        return Ok(());
    }
    if end_all(&mut deaths).await {
        tell(&control, GuardReport::GuardLost);
        return Ok(());
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Looks at the guard, and collects the dead that are not it.
fn look(guard: Pid) -> Guard {
    match rustix::process::waitpid(Some(guard), WaitOptions::NOHANG | WaitOptions::UNTRACED) {
        Ok(Some((_, status))) if status.stopped() => Guard::Stopped,
        Ok(Some((_, status))) => Guard::Ended(status),
        Ok(None) | Err(_) => Guard::Lives,
    }
}

fn wake(guard: Pid) {
    // it is our child until it is collected: nobody else has its number
    match rustix::process::kill_process(guard, Signal::CONT) {
        Ok(()) | Err(_) => {}
    }
}

/// Waits until the shim's end of the control socket is closed. What it says is the guard's to
/// read: a look takes nothing.
async fn hung_up(control: &UnixStream) -> io::Result<()> {
    loop {
        control.readable().await?;
        let flags = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut fds = [PollFd::new(control, flags)];
        if poll(&mut fds, Some(&Timespec::default()))? > 0 {
            return Ok(());
        }
        // rung again by what comes next, an end included
        let nothing: io::Result<()> = Err(io::ErrorKind::WouldBlock.into());
        drop(control.try_io(Interest::READABLE, || nothing));
    }
}

/// Kills everything below us, the guard included. Returns whether nothing is left.
async fn end_all(deaths: &mut tokio::signal::unix::Signal) -> bool {
    let deadline = Instant::now() + Duration::from_millis(KILL_MS);
    while Instant::now() < deadline {
        tree::signal(Signal::KILL, &|_| false);
        if nothing_left() {
            return true;
        }
        // woken by a death, or after a moment
        drop(timeout(Duration::from_millis(LOOK_MS), deaths.recv()).await);
        if nothing_left() {
            return true;
        }
    }
    false
}

/// Collects the dead; the kernel says when there is no child any more.
fn nothing_left() -> bool {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}
