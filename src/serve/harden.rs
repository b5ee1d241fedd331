//! Keeps this process's memory out of core files and other processes' hands.

/// One byte: no core file is that small, and on Linux it also keeps the memory from a program that
/// takes core dumps over a pipe, which a limit of zero does not (core(5), `format_corename` and
/// `do_coredump` of the kernel).
#[cfg(unix)]
const CORE_BYTES: u64 = if cfg!(target_os = "linux") { 1 } else { 0 };

/// No core files; on Linux also no `ptrace` and no `/proc/PID/mem` for other processes of the
/// same user. A failure is logged and tolerated: serving without is better than not serving.
#[cfg(unix)]
pub(super) fn harden() {
    // children inherit it and cannot raise it
    let none = rustix::process::Rlimit {
        current: Some(CORE_BYTES),
        maximum: Some(CORE_BYTES),
    };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Core, none) {
        tracing::warn!(%error, "Core files stay as they were.");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "Other processes of this user may read our memory.");
    }
}

/// Nothing: Windows lets a user's processes read one another, and its crash reports are the
/// administrator's to switch off (`docs/limitations.md`).
#[cfg(windows)]
pub(super) fn harden() {}
