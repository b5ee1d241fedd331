//! VS Code: servers of the user are in `mcp.json` of the default profile, JSON with comments.

use mcpshim::config::Places;

use super::{Format, Home, json};

pub(super) fn home(places: &Places) -> Option<Home> {
    let dir = places.settings.as_ref()?.join("Code");
    Some(Home {
        file: dir.join("User").join("mcp.json"),
        signs: vec![dir],
        format: Format::Json(json::Dialect {
            list: "servers",
            comments: true,
            typed: true,
        }),
    })
}
