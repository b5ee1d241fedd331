//! `mcpshim-admin key`: signing keys and the root that machines pin.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use mcpshim::admin::keys::{self, KeyRing};
use mcpshim::clock::{Clock as _, SystemClock, SystemEntropy};
use mcpshim::report::{Exit, Failure};
use mcpshim::say;
use serde_json::json;

/// Make and list signing keys
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    New(New),
}

/// List the private keys of directories: their ids, and the roles their file names state
#[derive(Debug, clap::Args)]
struct List {
    /// A directory of keys; may be given several times
    #[arg(long = "keys", value_name = "KEYDIR", required = true)]
    keys: Vec<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Make all keys of a new organisation and sign the root that its machines pin
///
/// Writes one file per key to KEYDIR, readable by its owner only, and the signed root to
/// DIR/trust/root.json. Root and targets keys sign by hand: keep them offline. The snapshot and
/// timestamp keys go where `mcpshim-admin refresh` runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mcpshim-admin key new acme --keys ~/acme-keys\n  \
    mcpshim-admin key new acme --keys ~/acme-keys --signers 3 --threshold 2")]
struct New {
    /// The registry's sources, as `mcpshim-admin init` made them
    dir: PathBuf,
    /// Where the private keys go: outside DIR, made if it does not exist
    #[arg(long = "keys", value_name = "KEYDIR")]
    keys: PathBuf,
    /// Keys made for root, and as many for targets
    #[arg(long, default_value_t = 1)]
    signers: u32,
    /// How many of them must sign
    #[arg(long, default_value_t = 1)]
    threshold: u32,
    /// Print one JSON object instead of the next steps
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::List(args) => list(&args),
        Command::New(args) => new(&args),
    }
}

fn failed(error: &keys::KeyError) -> Failure {
    Failure::from_error(Exit::Failed, error).hint(error.hint())
}

fn list(args: &List) -> Result<(), Failure> {
    let ring = KeyRing::read(&args.keys).map_err(|e| failed(&e))?;
    for key in ring.iter() {
        let name = key.path().file_stem().unwrap_or_default().to_string_lossy();
        let role = name
            .rsplit_once('-')
            .map_or(name.as_ref(), |(role, _)| role);
        let path = key.path().display().to_string();
        if args.json {
            say!("{}", json!({ "id": key.id(), "role": role, "path": path }));
        } else {
            say!("{role:<10} {}  {path}", key.id());
        }
    }
    Ok(())
}

fn new(args: &New) -> Result<(), Failure> {
    let usage = |sentence: String| Failure::new(Exit::Usage, sentence);
    if !args.dir.is_dir() {
        return Err(usage(format!("{} is not a directory", args.dir.display()))
            .hint("make the sources first: `mcpshim-admin init DIR`"));
    }
    if resolve(&args.keys).starts_with(resolve(&args.dir)) {
        return Err(
            usage("private keys may not lie inside the registry's sources".to_owned())
                .hint("choose a --keys directory outside DIR: DIR goes into git"),
        );
    }
    let root = args.dir.join("trust").join("root.json");
    if root.exists() {
        return Err(failed(&keys::KeyError::Exists { path: root })
            .hint("this organisation has its keys already: see `mcpshim-admin key list`"));
    }
    let now = SystemClock::new().now();
    let made = keys::create_all(
        &args.keys,
        args.signers,
        args.threshold,
        &now,
        &mut SystemEntropy,
    )
    .map_err(|e| failed(&e))?;
    write_new(&root, &made.root).map_err(|source| {
        failed(&keys::KeyError::Io {
            path: root.clone(),
            source,
        })
    })?;
    let fingerprint = keys::fingerprint(&made.root);
    if args.json {
        let keys: Vec<_> = made
            .keys
            .iter()
            .map(|(role, id, path)| json!({ "role": role.as_str(), "id": id, "path": path }))
            .collect();
        say!(
            "{}",
            json!({ "root": root, "sha256": fingerprint, "keys": keys })
        );
        return Ok(());
    }
    say!("Keys in {}:", args.keys.display());
    for (role, id, path) in &made.keys {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        say!("  {role:<10} {id}  {file}");
    }
    say!(
        "Root of version 1, which every machine pins: {}",
        root.display()
    );
    say!("  SHA-256 {fingerprint}");
    say!();
    say!("Next:");
    say!("  move root-*.pem and targets-*.pem to media that stay offline between publications");
    say!("  mcpshim-admin pin {}", args.dir.display());
    say!("  mcpshim-admin check {}", args.dir.display());
    say!(
        "  mcpshim-admin publish {} --keys {} --out REPO",
        args.dir.display(),
        args.keys.display()
    );
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The path with its existing part resolved, so that a link cannot hide where it leads.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        if let Ok(real) = existing.canonicalize() {
            return rest
                .iter()
                .rev()
                .fold(real, |path: PathBuf, part| path.join(part));
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name.to_owned());
                existing = parent;
            }
            _ => return absolute,
        }
    }
}
