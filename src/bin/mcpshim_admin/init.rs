//! `mcpshim-admin init`: an example organisation to begin with.

use std::path::PathBuf;

use mcpshim::admin::{self, Example, InitError};
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::ids::OrgId;
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use serde_json::json;

use super::shell;

/// Make the sources of a new registry: a commented example organisation
///
/// Two npm servers at fixed versions, a role for engineers, one for build pipelines with an agent.
/// Nothing is overwritten. What is left to do is printed, and `check` knows it too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mcpshim-admin init acme\n  \
    mcpshim-admin init registry --org acme.example --name 'Acme Ltd' --contact '#mcp-help' --files /srv/shared")]
pub(crate) struct Args {
    /// Where the sources go; made if it does not exist
    dir: PathBuf,
    /// The organisation's id, which every machine pins [default: the name of DIR]
    #[arg(long, value_name = "ID")]
    org: Option<String>,
    /// The name people use [default: the id]
    #[arg(long)]
    name: Option<String>,
    /// Whom to ask when something is refused
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "the people who run mcpshim here"
    )]
    contact: String,
    /// The directory that the example's file server may read and change on every machine
    #[arg(long, value_name = "PATH", default_value = "/tmp")]
    files: PathBuf,
    /// Print one JSON object instead of the next steps
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let usage = |sentence: String| Failure::new(Exit::Usage, sentence);
    if !args.files.is_absolute() {
        let given = args.files.display();
        return Err(usage(format!("--files {given} is not an absolute path"))
            .hint("the server may be started in any directory: give the whole path"));
    }
    let named = args.org.clone().unwrap_or_else(|| folder(&args));
    let org = OrgId::parse(&named).map_err(|error| {
        usage(error.to_string()).hint("give the organisation's id with --org ID")
    })?;
    let example = Example {
        name: args.name.clone().unwrap_or_else(|| org.to_string()),
        help: args.contact.clone(),
        files: args.files.clone(),
        org,
    };
    let now = SystemClock::new().now();
    let made = admin::init(&args.dir, &example, &now).map_err(|error| {
        let hint = match &error {
            InitError::Exists(_) => "nothing was written; choose an empty directory",
            InitError::Io { .. } => "see that the directory can be written",
        };
        Failure::from_error(Exit::Failed, &error).hint(hint)
    })?;
    if args.json {
        say!(
            "{}",
            json!({ "dir": args.dir, "org": example.org, "files": made })
        );
        return Ok(());
    }
    let dir = shell(&args.dir);
    say!("An example organisation `{}` in {dir}:", example.org);
    for file in made.iter().filter(|file| !file.contains("/.")) {
        say!("  {file}");
    }
    say!();
    say!(
        "Decide in org.yaml whether people without a keychain may sign in (WSL, containers, SSH):"
    );
    say!("  secret_stores: {{key_file: true}}    without it they cannot");
    say!("Next, read and change it; then:");
    say!(
        "  mcpshim-admin key new {dir} --keys KEYDIR                   keys outside {dir}, and the root"
    );
    say!("  mcpshim-admin agent new ci --owner TEAM --key FILE {dir}    the build pipeline's key");
    say!("  mcpshim-admin pin {dir}                                     runs both servers once");
    say!("  mcpshim-admin check {dir}                                   says what is left to do");
    say!(
        "  mcpshim-admin test {dir}                                    asks the cases in {dir}/tests"
    );
    say!("  mcpshim-admin publish {dir} --keys KEYDIR --out REPO");
    say!();
    super::publish::serving(example.org.as_str(), &dir, "REPO");
    Ok(())
}

fn folder(args: &Args) -> String {
    let absolute = std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone());
    let name = absolute.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
