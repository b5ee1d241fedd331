//! Claude Code: servers of the user are in `~/.claude.json`, beside everything else it remembers.

use mcpshim::config::Places;

use super::{Format, Home, json};

/// `CLAUDE_CONFIG_DIR` moves both the file and the directory.
pub(super) fn home(places: &Places) -> Option<Home> {
    let (dir, file) = match (&places.claude_code, &places.home) {
        (Some(dir), _) => (dir.clone(), dir.join(".claude.json")),
        (None, Some(home)) => (home.join(".claude"), home.join(".claude.json")),
        (None, None) => return None,
    };
    Some(Home {
        file,
        signs: vec![dir],
        format: Format::Json(json::Dialect {
            list: "mcpServers",
            comments: false,
            typed: false,
        }),
    })
}
