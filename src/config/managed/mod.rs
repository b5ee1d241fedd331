//! What device management says, from the one place each system has for it.
//!
//! | system | source | not read |
//! |---|---|---|
//! | Linux | `/etc/mcpshim/managed.toml`, under the rules of [`super::owned`] | |
//! | macOS | forced preferences of [`PLACE`] | values that a user wrote into the same domain |
//! | Windows | the values of [`PLACE`] | the same key under `HKEY_CURRENT_USER` |
//!
//! The places are fixed: no variable and no flag can move them.

use std::path::{Path, PathBuf};

use super::owned::Untrusted;
use super::sheet::Raw;

#[cfg(target_os = "macos")]
mod macos;
#[cfg(windows)]
mod windows;

/// Where this system keeps managed settings, as people write it.
pub(super) const PLACE: &str = if cfg!(windows) {
    r"HKEY_LOCAL_MACHINE\SOFTWARE\Policies\mcpshim"
} else if cfg!(target_os = "macos") {
    "com.mcpshim"
} else {
    "/etc/mcpshim/managed.toml"
};

/// What device management says.
#[derive(Debug)]
pub(super) enum Managed {
    /// A file.
    #[cfg_attr(
        all(any(windows, target_os = "macos"), not(test)),
        expect(dead_code, reason = "the way of Linux")
    )]
    Text(String),
    /// Values by name.
    #[cfg_attr(
        not(any(windows, target_os = "macos", test)),
        expect(dead_code, reason = "the way of macOS and Windows")
    )]
    Values(Vec<(String, Raw)>),
}

/// The managed settings of this machine; nothing when there are none.
pub(super) fn read() -> Result<Option<Managed>, Untrusted> {
    #[cfg(windows)]
    return windows::read();
    #[cfg(target_os = "macos")]
    return macos::read();
    #[cfg(not(any(windows, target_os = "macos")))]
    Ok(super::owned::read(Path::new(PLACE))?.map(Managed::Text))
}

/// What looks like management and is not: a user can write it. One line each.
pub(super) fn unread() -> Vec<String> {
    #[cfg(windows)]
    return windows::unread();
    #[cfg(target_os = "macos")]
    return macos::unread();
    #[cfg(not(any(windows, target_os = "macos")))]
    Vec::new()
}

/// The directory that relative paths in managed settings start from, where there is one.
pub(super) fn base() -> Option<PathBuf> {
    if cfg!(any(windows, target_os = "macos")) {
        return None;
    }
    Path::new(PLACE).parent().map(Path::to_owned)
}

#[cfg(windows)]
pub(super) use self::windows::machine_text;
