//! What guards leave behind when something killed them: it comes to us, a subreaper, and is ended.
//!
//! Other orphans come to us as well: the process that delivers records, and whatever a login
//! shell's profile started. They are nobody's servers and are spared. They are told apart by
//! when they came: while every guard ended by itself, nothing that comes is a server's.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::time::{Instant, sleep};

use super::tree;

/// How long what is left is killed.
const SWEEP: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
/// Looks that must find nothing before it is believed.
const QUIET: u32 = 3;

/// The children of this process that are not to be ended.
#[derive(Debug, Default)]
struct Known {
    subreaper: bool,
    children: BTreeSet<i32>,
    /// Orphans are being ended: what comes now is not spared.
    sweeping: u32,
}

static KNOWN: Mutex<Known> = Mutex::new(Known {
    subreaper: false,
    children: BTreeSet::new(),
    sweeping: 0,
});

/// Held while a child is started, so that no sweep meets one that is not known yet.
fn known() -> MutexGuard<'static, Known> {
    // a panic elsewhere leaves a set of numbers
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a guard. From the first one on, orphans come to us.
pub(super) fn spawn_guard(
    command: &mut tokio::process::Command,
) -> io::Result<tokio::process::Child> {
    let mut known = known();
    if !known.subreaper {
        // without it a killed guard's server is found by its backstop alone
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!(%error, "Orphans of killed guards do not come to us.");
        }
        known.subreaper = true;
    }
    let child = command.spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    known.children.extend(pid);
    Ok(child)
}

/// Starts a child that is no server, and waits for it; what it leaves behind is spared.
///
/// # Errors
/// What starting or `wait` says.
pub(super) fn beside<T>(
    spawn: impl FnOnce() -> io::Result<std::process::Child>,
    wait: impl FnOnce(std::process::Child) -> T,
) -> io::Result<T> {
    let (child, pid) = {
        let mut known = known();
        let child = spawn()?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        known.children.insert(pid);
        (child, pid)
    };
    let outcome = wait(child);
    let mut known = known();
    known.children.remove(&pid);
    if known.subreaper && known.sweeping == 0 {
        let came = tree::children(&|pid| known.children.contains(&pid));
        let came = came.iter().map(|pid| pid.as_raw_nonzero().get());
        known.children.extend(came.collect::<Vec<_>>());
    }
    Ok(outcome)
}

/// A guard is gone and collected. Unless it says that nothing is left, what came to us is ended.
pub(super) async fn settle(guard: Option<u32>, nothing_left: bool) {
    let guard = guard.and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = guard {
        known().children.remove(&pid);
    }
    if !nothing_left {
        sweep().await;
    }
}

/// Waits until no guard's orphans are being ended, at most so long.
pub(super) async fn settled(patience: Duration) {
    let deadline = Instant::now() + patience;
    while known().sweeping > 0 && Instant::now() < deadline {
        sleep(LOOK).await;
    }
}

/// Kills all children that are not known and everything below them, until none comes any more.
async fn sweep() {
    tracing::warn!("A guard was killed: what it left is ended.");
    known().sweeping += 1;
    let deadline = Instant::now() + SWEEP;
    let mut quiet = 0;
    while quiet < QUIET && Instant::now() < deadline {
        quiet = if kill_unknown() { 0 } else { quiet + 1 };
        sleep(LOOK).await;
    }
    known().sweeping -= 1;
}

/// Kills and collects once. Returns whether there was anything.
fn kill_unknown() -> bool {
    let known = known();
    let spared = |pid: i32| known.children.contains(&pid);
    let found = tree::children(&spared);
    if found.is_empty() {
        return false;
    }
    tree::signal(Signal::KILL, &spared);
    for pid in found {
        collect(pid);
    }
    true
}

/// One that is not dead yet is collected at the next look.
fn collect(pid: Pid) {
    match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
        Ok(_) | Err(_) => {}
    }
}
