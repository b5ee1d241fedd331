//! Keeps this process's memory out of core files and other processes' hands.
//!
//! The first line of `main` of every program: secrets are read by most commands, and a library
//! that reads one does not know which command it serves.
#![warn(missing_docs)]

/// One byte: no core file is that small, and on Linux it also keeps the memory from a program that
/// takes core dumps over a pipe, which a limit of zero does not (core(5), `format_corename` and
/// `do_coredump` of the kernel).
#[cfg(unix)]
const CORE_BYTES: u64 = if cfg!(target_os = "linux") { 1 } else { 0 };

/// No core files; on Linux also no `ptrace` and no `/proc/PID/mem` for other processes of the
/// same user. A failure is logged and tolerated: going on without is better than not.
///
/// Windows lets a user's processes read one another, and its crash reports are the
/// administrator's to switch off (`docs/limitations.md`).
pub fn harden() {
    #[cfg(unix)]
    limit_cores(|limit| limit.maximum);
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "Other processes of this user may read our memory.");
    }
}

/// No core files of what this process starts either: children inherit it and cannot raise it.
pub fn harden_children() {
    #[cfg(unix)]
    limit_cores(|_| Some(CORE_BYTES));
}

/// Gives back what [`harden`] took from a program that is not ours to limit.
#[cfg(unix)]
pub fn release_cores() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    let current = maximum;
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current, maximum }) {
        tracing::debug!(%error, "Core files stay off.");
    }
}

#[cfg(unix)]
fn limit_cores(maximum: impl FnOnce(&rustix::process::Rlimit) -> Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Core);
    let maximum = match (maximum(&before), before.maximum) {
        // what is lower already cannot be raised
        (Some(wanted), Some(most)) => Some(wanted.min(most)),
        (wanted, most) => wanted.or(most),
    };
    let current = Some(maximum.map_or(CORE_BYTES, |maximum| maximum.min(CORE_BYTES)));
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current, maximum }) {
        tracing::warn!(%error, "Core files stay as they were.");
    }
}
