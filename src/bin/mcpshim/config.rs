//! `mcpshim config`

use mcpshim::config::{self, Config, KEYS};
use mcpshim::report::{Exit, Failure};
use serde_json::json;

use crate::out;

const EXAMPLE: &str = "\
A complete file for an unmanaged machine (~/.config/mcpshim/config.toml on Linux):
  org = \"acme\"
  registry_url = \"https://registry.acme.example/mcp/\"
  root = \"root.json\"

On a managed machine device management has the same keys, and they alone are read: on Linux
/etc/mcpshim/managed.toml, on macOS the forced preferences of com.mcpshim, on Windows
HKEY_LOCAL_MACHINE\\SOFTWARE\\Policies\\mcpshim.

Examples:
  mcpshim config                     every key, its value, its source, what is not read
  mcpshim config registry_url        one value
  mcpshim config --schema            the table of keys, for whoever makes profiles";

/// Show the settings: each with its value and where it comes from
///
/// Fails with exit code 5 when the settings cannot be used, after showing them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Only this key: its value, or nothing
    key: Option<String>,
    /// Print the table of keys and sources as JSON; nothing on this machine is read
    #[arg(long, conflicts_with_all = ["key", "json"])]
    schema: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.schema {
        return out::print_json(&config::schema());
    }
    let effective = config::effective();
    match &args.key {
        Some(key) => one(&effective, key, args.json)?,
        None if args.json => out::print_json(&json!({
            "managed": effective.managed,
            "settings": effective.settings,
            "warnings": effective.warnings,
            "usable": effective.config.is_ok(),
        }))?,
        None => all(&effective)?,
    }
    effective.config.map(|config: Config| drop(config))
}

fn one(effective: &config::Effective, name: &str, as_json: bool) -> Result<(), Failure> {
    let Some(key) = KEYS.iter().find(|key| key.name == name) else {
        let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        return Err(
            Failure::new(Exit::Usage, format!("there is no key `{name}`"))
                .hint(format!("the keys are {}", names.join(", "))),
        );
    };
    let setting = effective
        .settings
        .iter()
        .find(|setting| setting.key == name);
    if as_json {
        return out::print_json(&json!({
            "key": key.name,
            "type": key.typ,
            "kind": key.kind,
            "default": key.default,
            "since": key.since,
            "security": key.security,
            "restart": key.restart,
            "variable": key.variable,
            "summary": key.summary,
            "setting": setting,
        }));
    }
    match setting.and_then(|setting| setting.value.as_ref()) {
        Some(value) => out::print(&format!("{value}\n")),
        None => Ok(()),
    }
}

fn all(effective: &config::Effective) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = effective
        .settings
        .iter()
        .map(|setting| {
            let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
            let value = match &setting.problem {
                Some(problem) => format!("(not usable: {problem})"),
                None => value,
            };
            vec![
                setting.key.to_owned(),
                value,
                format!("[{}]", setting.source),
            ]
        })
        .collect();
    out::print(&out::columns(&rows))?;
    for warning in &effective.warnings {
        out::warn(warning);
    }
    Ok(())
}
