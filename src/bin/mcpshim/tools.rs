//! `mcpshim tools`

use mcpshim::ids::ServerKey;
use mcpshim::policy::{self, Access, Snapshot, SnapshotId, Verdict};
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::assemble;
use mcpshim::text;
use serde::Serialize;

use crate::out;

const EXAMPLES: &str = "\
Examples:
  mcpshim tools                      what I may use
  mcpshim tools github --all         and what I may not, with the reason
  mcpshim tools --json | jq -r '.[].tool'";

/// List the tools you may use, as `server/tool`, with the name clients see
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Only the tools of this server
    server: Option<ServerKey>,
    /// Also the tools you may not use, with the reason
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    tool: String,
    exposed: Option<String>,
    digest: String,
    description: String,
    #[serde(flatten)]
    verdict: Verdict,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = crate::settings()?;
    let now = crate::now();
    let snapshot = assemble(&config, SnapshotId(1), &now);
    let Some(registry) = snapshot.registry() else {
        let why = snapshot.trouble().unwrap_or("there is no registry");
        return Err(Failure::new(Exit::Registry, why));
    };
    if let Some(server) = args
        .server
        .as_ref()
        .filter(|key| !registry.servers.contains_key(*key))
    {
        let keys: Vec<&str> = registry.servers.keys().map(ServerKey::as_str).collect();
        return Err(
            Failure::new(Exit::Failed, format!("the registry has no server {server}"))
                .hint(format!("the servers are {}", keys.join(", "))),
        );
    }
    let rows = rows(args, &snapshot, &now);
    if args.json {
        out::print_json(&rows)?;
    } else {
        let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
        out::print(&out::columns(&cells))?;
    }
    if snapshot.caller().is_none() {
        let why = snapshot.trouble().unwrap_or("nobody is signed in");
        return Err(Failure::new(Exit::NotSignedIn, why));
    }
    if rows.is_empty() {
        out::warn("no tool is granted here; `mcpshim tools --all` says why");
    }
    Ok(())
}

fn rows(args: &Args, snapshot: &Snapshot, now: &mcpshim::clock::Now) -> Vec<Row> {
    let servers = snapshot
        .registry()
        .into_iter()
        .flat_map(|r| r.servers.keys());
    servers
        .filter(|key| args.server.as_ref().is_none_or(|wanted| wanted == *key))
        .flat_map(|key| {
            let tools = snapshot
                .surface(key)
                .map_or(&[][..], |surface| &surface.tools);
            tools.iter().map(move |tool| (key, tool))
        })
        .map(|(key, tool)| {
            let access = Access::Tool {
                server: key.clone(),
                name: tool.name.clone(),
            };
            let explanation = policy::explain(snapshot, &access, now);
            Row {
                tool: explanation.access,
                exposed: tool.exposed.as_ref().map(ToString::to_string),
                digest: tool.digest.to_string(),
                description: description(tool.definition.get()),
                verdict: explanation.verdict,
            }
        })
        .filter(|row| args.all || matches!(row.verdict, Verdict::Allow { .. }))
        .collect()
}

fn cells(row: &Row) -> Vec<String> {
    let exposed = row.exposed.clone().unwrap_or_default();
    match &row.verdict {
        Verdict::Allow { .. } => vec![row.tool.clone(), exposed, row.description.clone()],
        Verdict::Deny { sentence, .. } => vec![row.tool.clone(), "-".to_owned(), sentence.clone()],
    }
}

/// The first sentence or line of a definition's description, in at most 80 characters.
fn description(definition: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Definition {
        #[serde(default)]
        description: String,
    }
    let text = serde_json::from_str(definition).map_or_else(
        |_| String::new(),
        |definition: Definition| definition.description,
    );
    let line = text.lines().next().unwrap_or_default();
    let line = line
        .split_inclusive(". ")
        .next()
        .unwrap_or_default()
        .trim_end();
    text::short(line, 80)
}
