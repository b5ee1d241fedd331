//! Settings of an administrator's that keep a client from using our entry.
//!
//! Only files are read: what comes from a console, from configuration profiles or from the
//! Windows registry is not seen, and the answers do not claim otherwise.

use std::path::{Path, PathBuf};

use mcpshim::config::Places;
use serde_json::Value;

use super::Name;
use super::entry::{Entry, NAME};
use super::json::Dialect;

/// What an administrator's files say about our entry.
#[derive(Debug, Default)]
pub(super) struct Managed {
    /// The entry that the client uses instead of the user's.
    pub(super) instead: Option<(PathBuf, Entry)>,
    /// Why the client does not use it: what, and where.
    pub(super) obstacle: Option<String>,
}

/// Where administrators put files; below `root` in tests.
fn dir(root: &Path, linux: &str, mac: &str, windows: &str) -> PathBuf {
    let known = if cfg!(windows) {
        windows
    } else if cfg!(target_os = "macos") {
        mac
    } else {
        linux
    };
    root.join(known.trim_start_matches('/'))
}

/// Reads what an administrator says about one client.
pub(super) fn read(name: Name, command: Option<&str>, places: &Places, root: &Path) -> Managed {
    match name {
        Name::ClaudeCode => claude_code(command, places, root),
        Name::ClaudeDesktop => claude_desktop(root),
        Name::Codex => codex(command, root),
        Name::VsCode => {
            let dir = dir(
                root,
                "/etc/github-copilot",
                "/Library/Application Support/GitHubCopilot",
                r"C:\Program Files\GitHubCopilot",
            );
            let mut rules = Rules::default();
            rules.add(&dir.join("managed-settings.json"), true);
            Managed {
                instead: None,
                obstacle: rules.obstacle(command),
            }
        }
    }
}

fn claude_code(command: Option<&str>, places: &Places, root: &Path) -> Managed {
    let dir = dir(
        root,
        "/etc/claude-code",
        "/Library/Application Support/ClaudeCode",
        r"C:\Program Files\ClaudeCode",
    );
    let mut managed = Managed::default();
    let exclusive = dir.join("managed-mcp.json");
    let mut command = command.map(str::to_owned);
    if let Ok(text) = std::fs::read_to_string(&exclusive) {
        let dialect = Dialect {
            list: "mcpServers",
            comments: false,
            typed: false,
        };
        let shown = exclusive.display();
        match dialect.entries(&text) {
            Err(trouble) => {
                managed.obstacle = Some(format!(
                    "{shown} is malformed ({trouble}), and Claude Code then starts no server at all"
                ));
                return managed;
            }
            Ok(entries) => match entries.into_iter().find(Entry::is_ours) {
                Some(entry) => {
                    command.clone_from(&entry.command);
                    managed.instead = Some((exclusive, entry));
                }
                None => {
                    managed.obstacle = Some(format!(
                        "{shown} alone says which servers Claude Code starts, and does not name mcpshim"
                    ));
                    return managed;
                }
            },
        }
    }
    let mut rules = Rules::default();
    rules.add(&dir.join("managed-settings.json"), true);
    let mut more: Vec<PathBuf> = std::fs::read_dir(dir.join("managed-settings.d"))
        .into_iter()
        .flatten()
        .filter_map(|found| Some(found.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    more.sort();
    more.iter().for_each(|path| rules.add(path, true));
    // the user's own file can only forbid
    let own = places.claude_code.clone();
    let own = own.or_else(|| Some(places.home.as_ref()?.join(".claude")));
    if let Some(own) = own {
        rules.add(&own.join("settings.json"), false);
    }
    managed.obstacle = rules.obstacle(command.as_deref());
    managed
}

/// The lists of servers that settings of Claude Code, and of Copilot, allow and deny.
#[derive(Debug, Default)]
struct Rules {
    allowed: Option<(PathBuf, Vec<Value>)>,
    denied: Vec<(PathBuf, Value)>,
    malformed: Option<PathBuf>,
}

impl Rules {
    fn add(&mut self, path: &Path, managed: bool) {
        let Ok(text) = std::fs::read_to_string(path) else {
            return;
        };
        let Ok(Value::Object(mut settings)) = serde_json::from_str(&text) else {
            if managed {
                self.malformed.get_or_insert_with(|| path.to_owned());
            }
            return;
        };
        let mut list = |name| match settings.remove(name) {
            Some(Value::Array(list)) => Some(list),
            _ => None,
        };
        if let Some(list) = list("allowedMcpServers").filter(|_| managed) {
            let all = self
                .allowed
                .get_or_insert_with(|| (path.to_owned(), Vec::new()));
            all.1.extend(list);
        }
        let denied = list("deniedMcpServers").unwrap_or_default();
        let denied = denied.into_iter().map(|rule| (path.to_owned(), rule));
        self.denied.extend(denied);
    }

    fn obstacle(&self, command: Option<&str>) -> Option<String> {
        let argv = command.map(|command| serde_json::json!([command, "serve"]));
        let by_command =
            |rule: &Value| argv.is_some() && rule.get("serverCommand") == argv.as_ref();
        let by_name = |rule: &Value| rule.get("serverName").is_some_and(|name| name == NAME);
        if let Some((path, _)) = self
            .denied
            .iter()
            .find(|(_, rule)| by_command(rule) || by_name(rule))
        {
            return Some(format!("{} denies it (deniedMcpServers)", path.display()));
        }
        let (path, rules) = self.allowed.as_ref()?;
        // where a list names commands at all, a program must be among them word by word
        let commands = rules.iter().any(|rule| rule.get("serverCommand").is_some());
        let allowed = rules
            .iter()
            .any(|rule| by_command(rule) || (!commands && by_name(rule)));
        (!allowed).then(|| {
            format!(
                "{} allows only the servers it lists, and [{:?}, \"serve\"] is not among them word \
                 by word (allowedMcpServers)",
                path.display(),
                command.unwrap_or("mcpshim")
            )
        })
    }
}

/// Every value there is a text, lists as JSON in a text.
fn claude_desktop(root: &Path) -> Managed {
    let mut managed = Managed::default();
    if !cfg!(target_os = "linux") {
        return managed;
    }
    let path = root.join("etc/claude-desktop/managed-settings.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        return managed;
    };
    let Ok(settings) = serde_json::from_str::<Value>(&text) else {
        return managed;
    };
    let servers = settings
        .get("managedMcpServers")
        .and_then(|servers| match servers {
            Value::String(text) => serde_json::from_str(text).ok(),
            other => Some(other.clone()),
        });
    let named = servers
        .as_ref()
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let ours = named.filter_map(|server| {
        let command = server.get("command")?.as_str()?.to_owned();
        let args = server.get("args").and_then(Value::as_array);
        let args = args.into_iter().flatten();
        Some(Entry {
            name: server.get("name")?.as_str()?.to_owned(),
            command: Some(command),
            args: args
                .filter_map(|arg| arg.as_str().map(str::to_owned))
                .collect(),
            ..Entry::default()
        })
    });
    if let Some(entry) = ours.into_iter().find(Entry::is_ours) {
        managed.instead = Some((path, entry));
        return managed;
    }
    let local = settings.get("isLocalDevMcpEnabled");
    if local.is_some_and(|local| *local == false || *local == "false") {
        managed.obstacle = Some(format!(
            "{} switches servers of the user off (isLocalDevMcpEnabled)",
            path.display()
        ));
    }
    managed
}

fn codex(command: Option<&str>, root: &Path) -> Managed {
    let dir = dir(
        root,
        "/etc/codex",
        "/etc/codex",
        r"C:\ProgramData\OpenAI\Codex",
    );
    let path = dir.join("requirements.toml");
    let table = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.parse::<::toml::Table>().ok());
    let required = table.and_then(|table| table.get("mcp_servers")?.as_table().cloned());
    let allowed = required.as_ref().is_none_or(|servers| {
        let ours = servers.get(NAME).and_then(|ours| ours.get("identity"));
        let named = ours.and_then(|identity| identity.get("command")?.as_str());
        named.is_some() && (command.is_none() || named == command)
    });
    Managed {
        instead: None,
        obstacle: (!allowed).then(|| {
            format!(
                "{} allows only the servers it lists, and mcpshim with this program is not among \
                 them",
                path.display()
            )
        }),
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)], name: Name) -> String {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let places = Places {
            home: Some(root.path().join("ann")),
            ..Places::default()
        };
        let managed = read(name, Some("/usr/bin/mcpshim"), &places, root.path());
        let instead = managed.instead.map(|(_, entry)| entry.shown());
        format!("{instead:?} {:?}", managed.obstacle)
            .replace(&root.path().display().to_string(), "")
            .replace("\\\"", "'")
    }

    const LIST: &str = "etc/claude-code/managed-mcp.json";
    const SETTINGS: &str = "etc/claude-code/managed-settings.json";

    #[test]
    fn nothing_managed_is_no_obstacle() {
        for name in Name::ALL {
            assert_eq!(check(&[], name), "None None");
        }
    }

    #[test]
    fn an_exclusive_list_stands_for_the_users() {
        let with = |text| check(&[(LIST, text)], Name::ClaudeCode);
        let ours = r#"{"mcpServers":{"x":{"command":"/opt/mcpshim","args":["serve"]}}}"#;
        assert_eq!(with(ours), r#"Some("/opt/mcpshim") None"#);
        assert!(with(r#"{"mcpServers":{}}"#).contains("does not name mcpshim"));
        assert!(with("{,").contains("malformed (line 1, column 2:"));
    }

    #[test]
    fn a_list_of_commands_counts_word_by_word() {
        let with = |text| check(&[(SETTINGS, text)], Name::ClaudeCode);
        let exact = r#"{"allowedMcpServers":[{"serverCommand":["/usr/bin/mcpshim","serve"]}]}"#;
        assert_eq!(with(exact), "None None");
        for other in [
            r#"{"allowedMcpServers":[{"serverCommand":["/usr/bin/mcpshim","serve","-v"]}]}"#,
            r#"{"allowedMcpServers":[{"serverCommand":["mcpshim","serve"]},{"serverName":"mcpshim"}]}"#,
            r#"{"allowedMcpServers":[]}"#,
        ] {
            assert!(with(other).contains("allows only"), "{other}");
        }
        let name = r#"{"allowedMcpServers":[{"serverName":"mcpshim"}]}"#;
        assert_eq!(with(name), "None None");
        let denied = r#"{"deniedMcpServers":[{"serverName":"mcpshim"}]}"#;
        assert!(with(denied).contains("denies it"));
        let own = check(&[("ann/.claude/settings.json", denied)], Name::ClaudeCode);
        assert!(
            own.contains("/ann/.claude/settings.json denies it"),
            "{own}"
        );
        // the lists of several files are one
        let both = [
            (SETTINGS, r#"{"allowedMcpServers":[]}"#),
            ("etc/claude-code/managed-settings.d/50-mcpshim.json", exact),
        ];
        assert_eq!(check(&both, Name::ClaudeCode), "None None");
    }

    #[test]
    fn other_clients_have_their_own_ways() {
        let desktop = "etc/claude-desktop/managed-settings.json";
        let off = [(desktop, r#"{"isLocalDevMcpEnabled":"false"}"#)];
        assert!(check(&off, Name::ClaudeDesktop).contains("switches servers of the user off"));
        let given = [(
            desktop,
            r#"{"managedMcpServers":"[{\"name\":\"m\",\"command\":\"/opt/mcpshim\",\"args\":[\"serve\"]}]"}"#,
        )];
        assert_eq!(
            check(&given, Name::ClaudeDesktop),
            r#"Some("/opt/mcpshim") None"#
        );
        let codex = |command| {
            let text = format!("[mcp_servers.mcpshim]\nidentity = {{ command = {command:?} }}\n");
            check(&[("etc/codex/requirements.toml", &text)], Name::Codex)
        };
        assert_eq!(codex("/usr/bin/mcpshim"), "None None");
        assert!(codex("/opt/mcpshim").contains("allows only"));
        let copilot = [(
            "etc/github-copilot/managed-settings.json",
            r#"{"allowedMcpServers":[]}"#,
        )];
        assert!(check(&copilot, Name::VsCode).contains("allows only"));
    }
}
