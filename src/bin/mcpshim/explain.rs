//! `mcpshim explain`

use mcpshim::ids::{ServerKey, StreamId};
use mcpshim::policy::{self, Access, Explanation, Snapshot, SnapshotId, Verdict};
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::assemble;

use crate::out;

const EXAMPLES: &str = "\
Examples:
  mcpshim explain github/create_issue
  mcpshim explain github_create_issue        the name a client shows
  mcpshim explain --prompt github/review
  mcpshim explain --resource file:///srv/handbook/index.md

Exit codes: 0 allowed, 3 denied.";

/// Explain why something is allowed or denied: every question, its answer, rule and source
///
/// Asks the same function that decides calls, about this machine's caller and registry, now.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A tool as `server/tool`, the name a client shows, or an event of the record
    #[arg(value_name = "TOOL|EVENT")]
    what: String,
    /// It is a prompt
    #[arg(long, conflicts_with = "resource")]
    prompt: bool,
    /// It is the URI of a resource
    #[arg(long)]
    resource: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some((stream, _)) = args.what.split_once('/')
        && StreamId::parse(stream).is_ok()
    {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} is an event of the record, which holds its own rule and role",
                args.what
            ),
        )
        .hint(format!(
            "whoever may read the record runs `mcpshim-collector show {}`; `mcpshim audit status` \
             says what is not delivered yet",
            args.what
        )));
    }
    let config = crate::settings()?;
    let now = crate::now();
    let snapshot = assemble(&config, SnapshotId(1), &now);
    let access = access(args, &snapshot)?;
    let explanation = policy::explain(&snapshot, &access, &now);
    if args.json {
        out::print_json(&explanation)?;
    } else {
        out::print(&text(&explanation))?;
    }
    match explanation.verdict {
        Verdict::Allow { .. } => Ok(()),
        Verdict::Deny { .. } => Err(Failure::new(exit(&snapshot), format!("{access} is denied"))),
    }
}

fn exit(snapshot: &Snapshot) -> Exit {
    if snapshot.registry().is_none() {
        Exit::Registry
    } else if snapshot.caller().is_none() {
        Exit::NotSignedIn
    } else {
        Exit::Denied
    }
}

/// What is meant: `server/name`, a name that clients see, or a URI.
fn access(args: &Args, snapshot: &Snapshot) -> Result<Access, Failure> {
    let what = args.what.as_str();
    if args.resource {
        let offered = || {
            let mut servers = snapshot.registry()?.servers.keys();
            servers.find(|key| {
                let uri = what.to_owned();
                let server = (*key).clone();
                snapshot.offers(&Access::Resource { server, uri })
            })
        };
        let found = snapshot
            .catalog()
            .resource(what)
            .map(|(server, uri)| (server, uri.into_owned()))
            .or_else(|| Some((offered()?.clone(), what.to_owned())));
        return found
            .map(|(server, uri)| Access::Resource { server, uri })
            .ok_or_else(|| unknown(snapshot, format!("no server of the registry offers {what}")));
    }
    let make = |server, name| {
        if args.prompt {
            Access::Prompt { server, name }
        } else {
            Access::Tool { server, name }
        }
    };
    if let Some((server, name)) = what.split_once('/') {
        let server = ServerKey::parse(server).map_err(|error| {
            Failure::from_error(Exit::Usage, &error).hint("write it server/tool")
        })?;
        return Ok(make(server, name.to_owned()));
    }
    let catalog = snapshot.catalog();
    let entry = if args.prompt {
        catalog.prompt(what)
    } else {
        catalog.tool(what)
    };
    entry
        .map(|entry| (entry.server.clone(), entry.name.clone()))
        .or_else(|| catalog.hidden_tool(what).filter(|_| !args.prompt))
        .map(|(server, name)| make(server, name))
        .ok_or_else(|| unknown(snapshot, format!("the registry has no tool named {what}")))
}

fn unknown(snapshot: &Snapshot, sentence: String) -> Failure {
    match snapshot.trouble() {
        Some(trouble) => Failure::new(exit(snapshot), sentence).cause(trouble),
        None => {
            Failure::new(Exit::Failed, sentence).hint("`mcpshim tools --all` lists what there is")
        }
    }
}

fn text(explanation: &Explanation) -> String {
    let verdict = match &explanation.verdict {
        Verdict::Allow { role, rule, source } => {
            format!(
                "allowed to {} by role {role}, rule {rule} ({source})",
                explanation.caller
            )
        }
        Verdict::Deny { code, sentence } => format!("denied ({code}): {sentence}"),
    };
    let rows: Vec<Vec<String>> = explanation
        .reasons
        .iter()
        .map(|reason| {
            let mark = if reason.passes { "yes" } else { "no" };
            let mut answer = reason.answer.clone();
            if let (Some(rule), Some(source)) = (&reason.rule, &reason.source) {
                answer.push_str(&format!(", rule {rule} ({source})"));
            }
            vec![format!("  {mark}"), reason.question.clone(), answer]
        })
        .collect();
    format!("{}: {verdict}\n{}", explanation.access, out::columns(&rows))
}
