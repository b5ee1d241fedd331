//! `mcpshim logout`

use mcpshim::login;
use mcpshim::report::{Exit, Failure};
use mcpshim::{fetch, vault};
use serde_json::json;

use crate::out;

const EXAMPLES: &str = "\
Examples:
  mcpshim logout

Exit codes: 0 nobody is signed in any more, 1 something could not be wiped.";

/// Sign out: revoke the tokens at the identity provider, and wipe them here
///
/// What is here is wiped even when the provider cannot be reached. Running shims refuse every
/// call of yours from now on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = crate::settings()?;
    // signing out must work without a registry: it only says which stores are allowed
    let registry = fetch::load(&config, &crate::now()).ok();
    let client = fetch::client(&config.network, None)
        .map_err(|error| Failure::from_error(Exit::Failed, &error).hint(error.hint()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    // one that is not there is not made for this
    let opened = vault::exists(&config).then(|| {
        let registry = registry.as_ref().map(|loaded| &*loaded.registry);
        super::login::vault(&config, registry)
    });
    let (mut vault, locked) = match opened {
        None => (None, None),
        Some(Ok(vault)) => (Some(vault), None),
        Some(Err(failure)) => (None, Some(failure)),
    };
    let out = runtime.block_on(login::sign_out(
        &config.state_dir,
        &client,
        vault.as_deref_mut(),
    ));
    let left: Vec<String> = out.left.iter().map(ToString::to_string).collect();
    let not_revoked: Vec<String> = out
        .not_revoked
        .iter()
        .map(|(issuer, error)| format!("not revoked at {issuer}: {error}"))
        .collect();
    if args.json {
        out::print_json(&json!({
            "was_signed_in": out.was_in,
            "revoked": out.revoked,
            "not_revoked": not_revoked,
            "left": left,
        }))?;
    } else {
        let mut text = match (out.was_in, locked.is_some()) {
            (true, _) => "signed out on this machine\n".to_owned(),
            (false, _) => "nobody was signed in\n".to_owned(),
        };
        for issuer in &out.revoked {
            text.push_str(&format!("tokens revoked at {issuer}\n"));
        }
        out::print(&text)?;
    }
    not_revoked.iter().for_each(|text| out::warn(text));
    if let Some(failure) = locked {
        return Err(failure.context(
            "nobody is signed in here any more, but the vault could not be opened: tokens in it \
             were neither revoked nor wiped",
        ));
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "not everything could be wiped")
            .cause(left.join("; "))
            .hint("remove it yourself, and tell your security team")),
    }
}
