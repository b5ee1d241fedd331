//! `mcpshim explain`

use mcpshim::config::Config;
use mcpshim::ids::{ServerKey, StreamId};
use mcpshim::policy::{self, Access, Explanation, Reason, Snapshot, SnapshotId, Verdict};
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::assemble;
use mcpshim::serve::run_file;

use crate::{history, out};

const EXAMPLES: &str = "\
Examples:
  mcpshim explain github/create_issue
  mcpshim explain github_create_issue        the name a client shows
  mcpshim explain --prompt github/review
  mcpshim explain --resource file:///srv/handbook/index.md

Exit codes: 0 allowed, 3 denied.";

/// Explain why something is allowed or denied: every question, its answer, rule and source
///
/// Asks the same function that decides calls, about this machine's caller and registry, now; then
/// what stops a call that may go: tools that only run as tasks, missing credentials, and what
/// running sessions met. An event is told as far as it is known without the audit key.
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
        return event(args);
    }
    let config = crate::settings()?;
    let now = crate::now();
    let snapshot = assemble(&config, SnapshotId(1), &now);
    let access = access(args, &snapshot)?;
    let mut explanation = policy::explain(&snapshot, &access, &now);
    beyond(&config, &snapshot, &access, &mut explanation);
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

/// What is known here of one event of the record, without the key that opens its content.
fn event(args: &Args) -> Result<(), Failure> {
    let config = crate::settings()?;
    let calls = history::calls(&config).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context("the records of this machine cannot be read")
    })?;
    let Some(call) = calls.iter().find(|call| call.event == args.what) else {
        let first = calls.first().map_or_else(
            || "this machine knows no call".to_owned(),
            |call| format!("this machine knows calls since {}", call.time),
        );
        let sentence = format!("{} is no call that this machine knows", args.what);
        return Err(Failure::new(Exit::Failed, sentence)
            .cause(first)
            .hint(format!(
                "whoever may read the record runs `mcpshim-collector show {}`",
                args.what
            )));
    };
    if args.json {
        return out::print_json(call);
    }
    let took = call.took_us.map(|us| format!("{} ms", us / 1000));
    let rows = [
        ("call:", call.what.as_str()),
        ("time:", &call.time),
        ("who:", &call.who),
        ("client:", &call.client),
        ("decision:", &call.decision),
        ("ended:", &call.ended),
        ("took:", took.as_deref().unwrap_or_default()),
        ("role:", &call.role),
        ("rule:", &call.rule),
        ("source:", &call.rule_source),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| vec![name.to_owned(), mcpshim::text::visible(text).into_owned()])
        .collect();
    out::print(&out::columns(&rows))
}

/// Goes on where the decision ends: what stops a call that may go. Each is a row, and the first
/// one is the verdict, in the order in which a session asks.
fn beyond(config: &Config, snapshot: &Snapshot, access: &Access, explanation: &mut Explanation) {
    let server = snapshot
        .registry()
        .and_then(|registry| registry.servers.get(access.server()));
    let (Verdict::Allow { .. }, Some(server)) = (&explanation.verdict, server) else {
        return;
    };
    let mut stops: Vec<(&'static str, String)> = Vec::new();
    let mut row = |question: String, passes: bool, answer: String| {
        explanation.reasons.push(Reason {
            question,
            passes,
            answer,
            rule: None,
            source: None,
        });
    };
    if let Access::Tool { server: key, name } = access
        && snapshot.catalog().needs_task(key, name)
    {
        let answer = format!(
            "{access} can only be called as a task of MCP 2025-11-25, which mcpshim does not carry; \
             ask {} for a version of it that answers directly",
            server.owner
        );
        row("task".to_owned(), false, answer.clone());
        stops.push(("needs-task", answer));
    }
    if let (Some(credential), Some(registry), Some(caller)) =
        (&server.credential, snapshot.registry(), snapshot.caller())
    {
        let (key, id) = (&server.key, &credential.id);
        let (allowed, owner) = (&registry.org.secret_stores, caller.owner());
        let missing = match crate::doctor::is_set(config, allowed, owner, credential) {
            Ok(true) => None,
            Ok(false) => Some(format!("it is not set; run `mcpshim credential set {key}`")),
            Err(error) => Some(format!("{error}; run `mcpshim doctor credentials`")),
        };
        match missing {
            None => row("credential".to_owned(), true, format!("{id} is set")),
            Some(why) => {
                let answer = format!("server {key} needs the credential {id}: {why}");
                row("credential".to_owned(), false, answer.clone());
                stops.push(("unavailable", answer));
            }
        }
    }
    let now_s = crate::now().unix_s();
    for session in run_file::running(&config.state_dir) {
        let mut servers = session.session.servers.into_iter();
        let Some(met) = servers.find(|met| met.key == server.key.as_str()) else {
            continue;
        };
        let question = format!("session of process {}", session.pid);
        if let Some(difference) = met.differs(access) {
            let (key, owner) = (&server.key, &server.owner);
            let answer = format!(
                "{access} is not what was approved any more: {difference}; ask {owner} to have \
                 server {key} reviewed and pinned again"
            );
            row(question, false, answer.clone());
            stops.push(("drift", answer));
            continue;
        }
        let left_s = met.retry_at.and_then(|at| at.checked_sub(now_s));
        let left_s = left_s.filter(|left_s| *left_s > 0);
        match (met.trouble, left_s) {
            (Some(trouble), _) if trouble.contains("is not the one that was approved") => {
                row(question, false, trouble.clone());
                stops.push(("drift", trouble));
            }
            (Some(trouble), Some(left_s)) => {
                let answer = format!("{trouble} (it is tried again in {left_s} s)");
                row(question, false, answer.clone());
                stops.push(("unavailable", answer));
            }
            (Some(trouble), None) => {
                row(
                    question,
                    true,
                    format!("{trouble}; the next call tries it again"),
                );
            }
            (None, _) => row(
                question,
                true,
                format!("{} is {}", server.key, met.state.as_str()),
            ),
        }
    }
    if let Some((code, sentence)) = stops.into_iter().next() {
        explanation.verdict = Verdict::Deny { code, sentence };
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
