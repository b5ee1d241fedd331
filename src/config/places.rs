//! Where other programs of this user keep their settings.
//!
//! For the person's commands that look at MCP clients. Nothing that decides or records reads it.

use std::ffi::OsString;
use std::path::PathBuf;

use super::variable;

/// Where other programs of this user keep their settings.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Where programs keep settings: `~/.config`, `~/Library/Application Support`, `%APPDATA%`.
    pub settings: Option<PathBuf>,
    /// Where Claude Code keeps its settings, if it was told to keep them elsewhere.
    pub claude_code: Option<PathBuf>,
    /// Where Codex keeps its settings, if it was told to keep them elsewhere.
    pub codex: Option<PathBuf>,
    /// Where programs are looked for, in this order.
    pub path: Vec<PathBuf>,
    /// Where files are that do not stay.
    pub temporary: PathBuf,
    /// Variables that name a proxy, here and not used by mcpshim.
    pub proxies: Vec<&'static str>,
}

const PROXIES: &[&str] = &[
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Reads where other programs of this user keep their settings.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that paths come from"
)]
pub fn places() -> Places {
    let base = directories::BaseDirs::new();
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let path: Option<OsString> = variable("PATH");
    Places {
        home: base.as_ref().map(|dirs| dirs.home_dir().to_owned()),
        settings: base.map(|dirs| dirs.config_dir().to_owned()),
        claude_code: absolute("CLAUDE_CONFIG_DIR"),
        codex: absolute("CODEX_HOME"),
        path: path.map_or_else(Vec::new, |path| std::env::split_paths(&path).collect()),
        temporary: std::env::temp_dir(),
        proxies: PROXIES
            .iter()
            .copied()
            .filter(|name| variable(name).is_some())
            .collect(),
    }
}
