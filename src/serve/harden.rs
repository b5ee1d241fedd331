//! Keeps this process's memory out of core files and other processes' hands.

/// No core files; on Linux also no `ptrace` and no `/proc/PID/mem` for other processes of the
/// same user. A failure is logged and tolerated: serving without is better than not serving.
#[cfg(unix)]
pub(super) fn harden() {
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
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
