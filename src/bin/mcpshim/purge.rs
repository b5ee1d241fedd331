//! `mcpshim purge`

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use mcpshim::config::{self, Config};
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::run_file;
use mcpshim::text;
use mcpshim::vault::{self, StoreKind};
use mcpshim::{fetch, limits, login, ship};
use serde_json::json;

use crate::{audit, client, out};

const EXAMPLES: &str = "\
Examples:
  mcpshim purge --dry-run    only say what would be removed
  mcpshim purge              say it, ask, and remove it
  mcpshim purge --yes        remove it without asking

Records that were not delivered exist nowhere else: `mcpshim audit flush` delivers them first.

Exit codes: 0 removed, 1 something stays or nothing was removed.";

/// Remove everything of mcpshim from this account: before it is uninstalled
///
/// Signs out, and removes credentials, tokens and their key in the keychain, the registry, logs,
/// records, and the entry `mcpshim` in clients' settings. What you wrote yourself stays: your
/// settings and agents' key files. The program stays, too.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Only say what would be removed
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Although sessions run: their clients lose their servers, and records of their calls
    #[arg(long)]
    running: bool,
    /// Although records were not delivered: they are lost
    #[arg(long)]
    lose_records: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = crate::settings()?;
    let plan = plan(&config);
    if args.dry_run {
        return said(args, &plan, &[], true);
    }
    let _delivery = may(args, &config)?;
    if !args.yes {
        agree(&plan)?;
    }
    let left = remove(&config);
    said(args, &plan, &left, false)
}

/// What there is to remove, in sentences.
fn plan(config: &Config) -> Vec<String> {
    let (mut plan, failures) = client::take_out(true);
    plan.extend(failures.iter().map(Failure::in_one_line));
    if login::claims(&config.state_dir).is_ok_and(|token| token.is_some()) {
        plan.push("the sign-in, which is revoked at the identity provider".to_owned());
    }
    if matches!(vault::named(config), Ok(Some(StoreKind::Keychain))) {
        plan.push(format!(
            "the key in the keychain under mcpshim/{}",
            config.org
        ));
    }
    if config.state_dir.exists() {
        plan.push(format!(
            "{} with credentials, registry, records and logs",
            config.state_dir.display()
        ));
    }
    let notes = config::notes(config).into_iter();
    plan.extend(notes.map(|note| note.display().to_string()));
    plan
}

/// Refuses where it would take something from somebody who has not been asked. Holds the right to
/// deliver meanwhile.
fn may(args: &Args, config: &Config) -> Result<Option<ship::Lock>, Failure> {
    let running = run_file::running(&config.state_dir);
    if !running.is_empty() && !args.running {
        let pids: Vec<String> = running.iter().map(|one| one.pid.to_string()).collect();
        let sentence = format!("nothing was removed: {} sessions run", running.len());
        return Err(Failure::new(Exit::Failed, sentence)
            .cause(format!("processes {}", pids.join(", ")))
            .hint("close the clients that started them, or say --running"));
    }
    if !config.state_dir.exists() {
        return Ok(None);
    }
    // what cannot be read cannot be delivered, and may hold records all the same
    let waiting = audit::standing(config).map(|standing| standing.waiting);
    let lost = match waiting {
        Ok(0) => None,
        Ok(records) => Some(format!("{records} records were not delivered")),
        Err(failure) => Some(failure.in_one_line()),
    };
    if let Some(lost) = lost.filter(|_| !args.lose_records) {
        return Err(
            Failure::new(Exit::Failed, format!("nothing was removed: {lost}"))
                .hint("run `mcpshim audit flush` first, or say --lose-records"),
        );
    }
    let lock = ship::lock(&config.state_dir).map_err(|error| {
        Failure::from_error(Exit::Failed, &error).context("nothing was removed")
    })?;
    match lock {
        Some(lock) => Ok(Some(lock)),
        None => Err(Failure::new(
            Exit::Failed,
            "nothing was removed: records are being delivered",
        )
        .hint("try again in a minute")),
    }
}

/// Asks the person at the terminal. Nobody there is no.
fn agree(plan: &[String]) -> Result<(), Failure> {
    let refused =
        |hint: &str| Failure::new(Exit::Failed, "nothing was removed").hint(hint.to_owned());
    if !io::stdin().is_terminal() {
        return Err(refused("say --yes, or run it in a terminal"));
    }
    out::note(&listed("This removes:", plan));
    out::note("Type yes to go on:");
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    read.map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    match line.trim() {
        "yes" => Ok(()),
        _ => Err(refused("type the word yes to go on")),
    }
}

/// Removes all of it; what stays is told. The vault last but one: whoever comes back before finds
/// a sign-in that is revoked, and no key without its file.
fn remove(config: &Config) -> Vec<Failure> {
    let (_, mut left) = client::take_out(false);
    left.extend(sign_out(config).err());
    let patience = Duration::from_millis(limits::KEYCHAIN_PERSON_MS);
    if let Err(error) = vault::purge(config, patience) {
        let failure = Failure::from_error(Exit::Failed, &error).hint(error.hint());
        left.push(failure.context("the key in the keychain stays"));
    }
    left.extend(gone(
        std::fs::remove_dir_all(&config.state_dir),
        &config.state_dir,
    ));
    for note in config::notes(config) {
        left.extend(gone(std::fs::remove_file(&note), &note));
    }
    left
}

/// Revokes what the identity provider gave. Without an answer it ends by itself.
fn sign_out(config: &Config) -> Result<(), Failure> {
    let stays = |failure: Failure| {
        failure
            .context("the sign-in was not revoked at the identity provider")
            .hint("it ends by itself; sign out there to end it now")
    };
    if !vault::exists(config) {
        return Ok(());
    }
    let client = fetch::client(&config.network, None)
        .map_err(|error| stays(Failure::from_error(Exit::Failed, &error)))?;
    let loaded = fetch::load(config, &crate::now()).ok();
    let registry = loaded.as_ref().map(|loaded| &*loaded.registry);
    let mut vault = super::login::vault(config, registry).map_err(stays)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let work = login::sign_out(&config.state_dir, &client, Some(vault.as_mut()));
    match runtime.block_on(work).not_revoked.first() {
        None => Ok(()),
        Some((_, error)) => Err(stays(Failure::from_error(Exit::Failed, error))),
    }
}

/// What is not there any more is removed.
fn gone(removed: io::Result<()>, path: &Path) -> Option<Failure> {
    let error = removed.err()?;
    (error.kind() != io::ErrorKind::NotFound).then(|| {
        Failure::from_error(Exit::Failed, &error).context(format!("{} stays", path.display()))
    })
}

fn listed(head: &str, plan: &[String]) -> String {
    let mut listed = head.to_owned();
    for one in plan {
        listed.push_str("\n  ");
        listed.push_str(&text::visible(one));
    }
    listed
}

fn said(args: &Args, plan: &[String], left: &[Failure], dry_run: bool) -> Result<(), Failure> {
    if args.json {
        let left: Vec<String> = left.iter().map(Failure::in_one_line).collect();
        out::print_json(&json!({"removed": plan, "left": left, "dry_run": dry_run}))?;
    } else {
        let head = match (plan.is_empty(), dry_run) {
            (true, _) => "there is nothing to remove",
            (false, true) => "would be removed:",
            (false, false) => "removed:",
        };
        out::print(&format!("{}\n", listed(head, plan)))?;
        if !dry_run {
            out::print("your own settings, agents' key files and the program are still here\n")?;
        }
        left.iter().for_each(out::complain);
    }
    match left.len() {
        0 => Ok(()),
        many => Err(
            Failure::new(Exit::Failed, format!("{many} things could not be removed"))
                .hint("see above"),
        ),
    }
}
