//! Claude Desktop: local servers are in `claude_desktop_config.json`, read when it starts.

use mcpshim::config::Places;

use super::{Format, Home, json};

pub(super) fn home(places: &Places) -> Option<Home> {
    let dir = places.settings.as_ref()?.join("Claude");
    Some(Home {
        file: dir.join("claude_desktop_config.json"),
        signs: vec![dir],
        format: Format::Json(json::Dialect {
            list: "mcpServers",
            comments: false,
            typed: false,
        }),
    })
}
