//! `mcpshim-admin pin`: run the servers, record what they offer.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use mcpshim::admin::{self, Outcome, PinChange, Pinning};
use mcpshim::config::Network;
use mcpshim::limits;
use mcpshim::registry::doc::{ServerDoc, Transport};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use mcpshim::secret::Secret;
use mcpshim::text;
use mcpshim::upstream::{Environment, Means, Surveyed};
use zeroize::Zeroizing;

use super::shell;

/// Run servers and record their whole surface: tools, prompts, resources, instructions
///
/// Each server is started once with a cleared environment and ended again, or reached once at its
/// address. What it offers goes
/// to pins/ID.json, one definition a line, for review: this is what models will read. Names that
/// clients see are assigned once and never change. Tools that a client would choke on, or that
/// hide text, are quarantined: listed with the reason, never offered.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mcpshim-admin pin acme\n  \
    mcpshim-admin pin acme fs everything --timeout 30\n  \
    pass show jira | mcpshim-admin pin acme jira --credential-stdin\n  \
    mcpshim-admin pin acme --json | jq -r 'select(.outcome == \"changed\") | .changes[].sentence'")]
pub(crate) struct Args {
    /// The registry's sources
    dir: PathBuf,
    /// Keys of servers; all of them when none is given
    #[arg(value_name = "SERVER")]
    servers: Vec<String>,
    /// How long one server may take, in seconds; the first run downloads its package
    #[arg(long, value_name = "SECONDS", default_value_t = limits::LINK_OPEN_MS / 1000,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Read the credential of the one SERVER from standard input, its first line
    #[arg(long)]
    credential_stdin: bool,
    /// Print one JSON object a line, one for each server
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // the allowlisted part is passed on to the servers; nothing here is read
    let environment = Environment::of(mcpshim::config::children(None));
    let deadline = Duration::from_secs(args.timeout);
    let secret = match (args.credential_stdin, args.servers.len()) {
        (false, _) => None,
        (true, 1) => Some(credential()?),
        (true, _) => {
            let sentence = "--credential-stdin is for one server at a time";
            let hint = format!(
                "name it: `mcpshim-admin pin {} SERVER --credential-stdin`",
                shell(&args.dir)
            );
            return Err(Failure::new(Exit::Usage, sentence).hint(hint));
        }
    };
    let mut remarks = Vec::new();
    let pinned = admin::pin(&args.dir, &args.servers, &mut |server| {
        let surveyed = survey(server, &environment, secret.as_ref(), deadline)
            .map_err(|reason| format!("server `{}` {reason}", server.key))?;
        let of_server = surveyed.remarks.into_iter();
        remarks.extend(of_server.map(|remark| (server.key.clone(), remark)));
        Ok(surveyed.surface)
    });
    let pinned = pinned.map_err(|problems| {
        let first = problems.0.into_iter().next();
        let (sentence, fix) = first.map(|p| (p.message, p.fix)).unwrap_or_default();
        Failure::new(Exit::Failed, text::short(&sentence, 2000)).hint(text::short(&fix, 2000))
    })?;
    for pinning in &pinned {
        print(pinning, args.json);
    }
    for (server, remark) in remarks {
        match args.json {
            true => say!(
                "{}",
                serde_json::json!({ "server": server, "warning": remark })
            ),
            false => say!("warning: server `{server}` {remark}"),
        }
    }
    let failed = |p: &&Pinning| matches!(p.outcome, Outcome::Failed { .. });
    match pinned.iter().filter(failed).count() {
        0 => Ok(()),
        failed => {
            let (of, dir) = (pinned.len(), shell(&args.dir));
            let sentence = format!("{failed} of {of} servers could not be pinned");
            Err(Failure::new(Exit::Failed, sentence).hint(format!(
                "correct them and run `mcpshim-admin pin {dir}` again"
            )))
        }
    }
}

/// The first line of standard input.
fn credential() -> Result<Secret, Failure> {
    const LONGEST: u64 = 64 << 10;
    let mut text = Zeroizing::new(Vec::new());
    let read = std::io::stdin().lock().take(LONGEST).read_to_end(&mut text);
    read.map_err(|error| {
        Failure::new(Exit::Failed, "standard input cannot be read").cause(error.to_string())
    })?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        let failure = Failure::new(Exit::Usage, "standard input holds no credential");
        return Err(failure.hint("write it into the command: `… | mcpshim-admin pin …`"));
    }
    Ok(Secret::new(line.to_vec()))
}

fn survey(
    server: &ServerDoc,
    environment: &Environment,
    secret: Option<&Secret>,
    deadline: Duration,
) -> Result<Surveyed, String> {
    let dialer = match &server.transport {
        Transport::Stdio { .. } => None,
        Transport::Http { ca_pem, .. } => {
            if let (Some(credential), None) = (&server.credential, secret) {
                return Err(format!(
                    "wants the credential `{}`: run `… | mcpshim-admin pin DIR {} \
                     --credential-stdin`",
                    credential.id, server.key
                ));
            }
            let dialer = mcpshim::fetch::dialer(&Network::default(), ca_pem.as_deref());
            Some(dialer.map_err(|error| format!("cannot be reached: {error}"))?)
        }
    };
    let means = Means {
        environment,
        dialer,
        secret,
    };
    mcpshim::upstream::survey(server, &means, deadline).map_err(|error| error.to_string())
}

fn print(pinning: &Pinning, json: bool) {
    if json {
        match serde_json::to_string(pinning).map(|line| text::json(&line).into_owned()) {
            Ok(line) => say!("{line}"),
            Err(error) => say!("{}", serde_json::json!({ "error": error.to_string() })),
        }
        return;
    }
    let (server, file) = (&pinning.server, &pinning.file);
    let mut odd: &[(String, String)] = &[];
    match &pinning.outcome {
        Outcome::Changed {
            changes,
            quarantined,
        } => {
            say!("{server}: changed, review {file}");
            for change in changes {
                print_change(change);
            }
            odd = quarantined;
        }
        Outcome::Failed { reason, hint } => {
            say!("{server}: failed, {file} is as it was");
            say!("  cause: {}", text::short(reason, 2000));
            say!("  hint:  {}", text::short(hint, 2000));
        }
        Outcome::New {
            tools,
            prompts,
            templates,
            resources,
            quarantined,
        } => {
            say!(
                "{server}: {tools} tools, {prompts} prompts, {templates} templates, \
                 {resources} resources; review {file}"
            );
            odd = quarantined;
        }
        Outcome::Off => say!("{server}: not pinned, its `pin` is `off`"),
        Outcome::Unchanged => say!("{server}: unchanged"),
    }
    for (name, reason) in odd {
        say!("  quarantined: `{}`: {reason}", text::short(name, 128));
    }
    for (name, reason) in &pinning.unfit {
        say!(
            "  unfit: `{}`: {reason}; Claude Code and Claude Desktop are not offered it",
            text::short(name, 128)
        );
    }
    for name in &pinning.needs_task {
        say!(
            "  needs-task: `{}`: it only runs as a task of MCP 2025-11-25, so every call of it is \
             refused",
            text::short(name, 128)
        );
    }
}

fn print_change(change: &PinChange) {
    say!("  {}", change.sentence);
    for edit in &change.edits {
        say!("    {}", edit.path);
        for (sign, value) in [("-", &edit.was), ("+", &edit.is)] {
            if let Some(value) = value {
                say!("      {sign} {}", text::short(value, 400));
            }
        }
    }
    if !change.roles.is_empty() {
        let roles: Vec<String> = change.roles.iter().map(ToString::to_string).collect();
        say!("    already granted by a pattern to: {}", roles.join(", "));
    }
}
