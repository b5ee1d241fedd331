//! Codex: servers are tables of `~/.codex/config.toml`.

use mcpshim::config::Places;

use super::{Format, Home};

pub(super) fn home(places: &Places) -> Option<Home> {
    let dir = match (&places.codex, &places.home) {
        (Some(dir), _) => dir.clone(),
        (None, Some(home)) => home.join(".codex"),
        (None, None) => return None,
    };
    Some(Home {
        file: dir.join("config.toml"),
        signs: vec![dir],
        format: Format::Toml,
    })
}
