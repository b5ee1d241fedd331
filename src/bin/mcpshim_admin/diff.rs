//! `mcpshim-admin diff`: who gains and who loses what.

use std::path::PathBuf;

use mcpshim::admin::diff::{self, Diff, DiffError, Side};
use mcpshim::clock::{Clock as _, SystemClock, SystemEntropy};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use mcpshim::text;

/// Show what a change does to access: who gains and who loses which tool
///
/// Compiles both sides as `publish` would, without signing, and compares what they mean: tools,
/// prompts and resources by role, with those that write marked; roles, agents, revocations;
/// servers that moved; definitions that models read; credentials, sign-in, the record. BASE is a
/// branch, tag or commit of the git repository that DIR lies in; `BASE..HEAD` compares two,
/// `BASE...HEAD` what HEAD changed since it branched off, and BASE alone the files as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mcpshim-admin diff main\n  \
    mcpshim-admin diff origin/main...HEAD --markdown > comment.md\n  \
    mcpshim-admin diff acme-before acme\n  \
    mcpshim-admin diff --published /srv/registry --dir acme --exit-code\n\n\
Exit codes: 0 compared, 1 failed; with --exit-code 1 when somebody has more than before.")]
pub(crate) struct Args {
    /// BASE, BASE..HEAD, BASE...HEAD, or two directories
    #[arg(value_name = "WHAT", num_args = 0..=2, required_unless_present = "published",
        conflicts_with = "published")]
    what: Vec<String>,
    /// The registry's sources, for revisions and for what was published
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Compare what is published there with the sources
    #[arg(long, value_name = "REPO")]
    published: Option<PathBuf>,
    /// Print Markdown, for a comment on a pull request
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// End with exit code 1 when something is wider than before
    #[arg(long)]
    exit_code: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let now = SystemClock::new().now();
    let (base, head) = sides(&args)?;
    let found = diff::diff(&args.dir, &base, &head, &now, &mut SystemEntropy);
    let found = found.map_err(|error| failure(&error))?;
    print(&found, &args)?;
    match args.exit_code && found.widens() {
        true => Err(Failure::new(Exit::Failed, "something is wider than before")
            .hint("review each gain above; without --exit-code this is no error")),
        false => Ok(()),
    }
}

fn sides(args: &Args) -> Result<(Side, Side), Failure> {
    let sources = || Side::Directory(args.dir.clone());
    if let Some(published) = &args.published {
        return Ok((Side::Published(published.clone()), sources()));
    }
    let revision = |rev: &str| match rev {
        "" => Side::Revision("HEAD".to_owned()),
        rev => Side::Revision(rev.to_owned()),
    };
    match args.what.as_slice() {
        [one, two] => Ok((Side::Directory(one.into()), Side::Directory(two.into()))),
        [what] => {
            if let Some((one, two)) = what.split_once("...") {
                let [one, two] = [one, two].map(|rev| if rev.is_empty() { "HEAD" } else { rev });
                let base = diff::since_branching(&args.dir, one, two);
                let base = base.map_err(|error| failure(&error))?;
                return Ok((base, revision(two)));
            }
            match what.split_once("..") {
                Some((one, two)) => Ok((revision(one), revision(two))),
                None => Ok((Side::Revision(what.clone()), sources())),
            }
        }
        _ => Err(Failure::new(Exit::Usage, "there is nothing to compare")
            .hint("write BASE..HEAD, or two directories")),
    }
}

fn failure(error: &DiffError) -> Failure {
    let failure = Failure::from_error(Exit::Failed, error);
    match error {
        DiffError::Git(error) => failure.hint(error.hint()),
        DiffError::Mistakes { problems, .. } => {
            let failure = match problems.first() {
                Some(first) => failure.cause(first),
                None => failure,
            };
            failure.hint("run `mcpshim-admin check` there: it lists each with its fix")
        }
        DiffError::Published(error) => failure.hint(error.hint()),
        DiffError::Refused { source, .. } => failure.hint(source.hint()),
    }
}

fn print(found: &Diff, args: &Args) -> Result<(), Failure> {
    if args.json {
        let json = serde_json::to_string(found).map(|line| text::json(&line).into_owned());
        let json = json.map_err(|error| Failure::from_error(Exit::Failed, &error))?;
        say!("{json}");
        return Ok(());
    }
    let text = match args.markdown {
        true => found.markdown(),
        false => found.text(),
    };
    say!("{}", text.trim_end());
    Ok(())
}
