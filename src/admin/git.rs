//! The sources of a registry as they were at a revision, by the `git` program.
//!
//! A revision is resolved to the id of a commit first; nothing a person or a pull request writes
//! reaches git in the place of an option, and only objects are read: no checkout, no hook, no
//! filter, no network. Files go into a directory of our own, which is removed again.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::source::inside;
use crate::clock::Entropy;
use crate::limits;
use crate::text;

/// Most files of one revision.
const FILES: usize = 50_000;
/// Most bytes of one revision.
const BYTES: u64 = 512 << 20;

/// Why a revision cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// git says no.
    #[error("git cannot read revision `{rev}`: {why}")]
    Git {
        /// What was asked for.
        rev: String,
        /// Its complaint, one line.
        why: String,
    },
    /// The file system refuses.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link where the registry is read.
    #[error("`{path}` is a symbolic link in `{rev}`; nothing is read through links")]
    Link {
        /// What was asked for.
        rev: String,
        /// Where.
        path: String,
    },
    /// git is not there.
    #[error("git cannot be started")]
    NoGit(#[source] io::Error),
    /// More than is read.
    #[error("revision `{rev}` has more than {FILES} files or {BYTES} bytes below this directory")]
    TooLarge {
        /// What was asked for.
        rev: String,
    },
}

impl GitError {
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Git { .. } => {
                "name a branch, tag or commit that is here; in CI, fetch the base branch first"
            }
            Self::Io { .. } => "check the directory, its owner and the free space",
            Self::Link { .. } => "put an ordinary file there",
            Self::NoGit(_) => "install git, or compare two directories",
            Self::TooLarge { .. } => "keep the registry in a directory of its own",
        }
    }
}

/// A directory of our own, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    fn new(entropy: &mut dyn Entropy) -> Result<Self, GitError> {
        let mut name = [0; 8];
        entropy.fill(&mut name);
        let name = data_encoding::HEXLOWER.encode(&name);
        let path = crate::config::places()
            .temporary
            .join(format!("mcpshim-diff-{name}"));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt as _;
            builder.mode(0o700);
        }
        match builder.create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(GitError::Io { path, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // what stays behind is a copy of what git holds, readable by its owner alone
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The files below `dir` at a revision; empty when there were none.
pub(super) struct Tree {
    pub(super) scratch: Scratch,
    pub(super) empty: bool,
}

/// Names the common ancestor of two revisions: what `A...B` means.
pub(super) fn merge_base(dir: &Path, one: &str, two: &str) -> Result<String, GitError> {
    let (a, b) = (resolve(dir, one)?, resolve(dir, two)?);
    let rev = format!("{one}...{two}");
    let found = git(dir, &rev, &["merge-base", "--end-of-options", &a, &b], &[])?;
    let found = String::from_utf8_lossy(&found).trim().to_owned();
    match found.is_empty() {
        true => Err(wrong(&rev, "the two have no common ancestor")),
        false => Ok(found),
    }
}

/// Reads the files below `dir` as they were at a revision.
pub(super) fn read(dir: &Path, rev: &str, entropy: &mut dyn Entropy) -> Result<Tree, GitError> {
    let commit = resolve(dir, rev)?;
    let scratch = Scratch::new(entropy)?;
    // in a directory below the top git lists that directory, with names relative to it
    let list = ["ls-tree", "-r", "-z", "-l", "--end-of-options", &commit];
    let listed = git(dir, rev, &list, &[])?;
    let mut wanted: Vec<(String, String)> = Vec::new();
    let mut total = 0;
    let mut empty = true;
    for line in listed.split(|byte| *byte == 0).filter(|l| !l.is_empty()) {
        let line = std::str::from_utf8(line).map_err(|_e| wrong(rev, "a name is not UTF-8"))?;
        let Some((facts, path)) = line.split_once('\t') else {
            return Err(wrong(rev, "its list of files cannot be read"));
        };
        let facts: Vec<&str> = facts.split_ascii_whitespace().collect();
        let &[mode, kind, id, size] = facts.as_slice() else {
            return Err(wrong(rev, "its list of files cannot be read"));
        };
        empty = false;
        if mode == "120000" && is_read(path) {
            return Err(GitError::Link {
                rev: rev.to_owned(),
                path: text::short(path, 200),
            });
        }
        let size: u64 = size.parse().unwrap_or(u64::MAX);
        let ordinary = kind == "blob" && mode != "120000" && inside(path) && is_id(id);
        if !ordinary || size > limits::TARGET_BYTES as u64 {
            continue;
        }
        total += size;
        wanted.push((id.to_owned(), path.to_owned()));
        if wanted.len() > FILES || total > BYTES {
            return Err(GitError::TooLarge {
                rev: rev.to_owned(),
            });
        }
    }
    let ids: String = wanted.iter().map(|(id, _)| format!("{id}\n")).collect();
    let objects = git(dir, rev, &["cat-file", "--batch"], ids.as_bytes())?;
    let mut rest = objects.as_slice();
    for (_, path) in &wanted {
        let content = object(&mut rest).ok_or_else(|| wrong(rev, "an object cannot be read"))?;
        put(&scratch.path().join(path), content)?;
    }
    Ok(Tree { scratch, empty })
}

/// Whether a link there would change what is read. Elsewhere it is none of ours.
fn is_read(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or_default();
    let folders = [
        "servers", "roles", "agents", "pins", "audit", "trust", "tests",
    ];
    folders.contains(&top) || path.ends_with(".yaml")
}

fn is_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `<id> <type> <size>\n<content>\n`
pub(super) fn object<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = memchr::memchr(b'\n', rest)?;
    let head = std::str::from_utf8(rest.get(..end)?).ok()?;
    let size: usize = head.rsplit(' ').next()?.parse().ok()?;
    let content = rest.get(end + 1..)?.get(..size)?;
    *rest = rest.get(end + 1 + size + 1..)?;
    Some(content)
}

fn put(path: &Path, content: &[u8]) -> Result<(), GitError> {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    folder
        .and_then(|()| fs::write(path, content))
        .map_err(|source| GitError::Io {
            path: path.to_owned(),
            source,
        })
}

fn resolve(dir: &Path, rev: &str) -> Result<String, GitError> {
    if rev.is_empty() || text::visible(rev) != rev {
        return Err(wrong(rev, "that is no name of a revision"));
    }
    let commit = format!("{rev}^{{commit}}");
    let ask = [
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &commit,
    ];
    let id = git(dir, rev, &ask, &[]).map_err(|error| match error {
        GitError::Git { why, .. } if why.is_empty() => wrong(rev, "there is no such commit here"),
        other => other,
    })?;
    let id = String::from_utf8_lossy(&id).trim().to_owned();
    match is_id(&id) {
        true => Ok(id),
        false => Err(wrong(rev, "there is no such commit here")),
    }
}

fn wrong(rev: &str, why: &str) -> GitError {
    GitError::Git {
        rev: text::short(rev, 200),
        why: why.to_owned(),
    }
}

/// Runs git with words of our own and ids, and this on its standard input.
pub(super) fn git(
    dir: &Path,
    rev: &str,
    words: &[&str],
    input: &[u8],
) -> Result<Vec<u8>, GitError> {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(dir)
        .args(["--no-pager", "--no-replace-objects"])
        .args(words);
    for (name, value) in [
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("LC_ALL", "C"),
    ] {
        command.env(name, value);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(GitError::NoGit)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) = pipes else {
        return Err(wrong(rev, "it has no standard streams"));
    };
    let (mut out, mut complaint) = (Vec::new(), Vec::new());
    // all three at once, or a full pipe would stop both sides
    let read = std::thread::scope(|scope| {
        // a git that stops reading says why itself
        scope.spawn(move || drop(stdin.write_all(input)));
        scope.spawn(|| drop(stderr.take(64 << 10).read_to_end(&mut complaint)));
        stdout.by_ref().take(BYTES * 2).read_to_end(&mut out)
    });
    // a pipe that broke shows in how git ended
    drop(stdout);
    let status = child.wait().map_err(GitError::NoGit)?;
    if status.success() && read.is_ok() {
        return Ok(out);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let first = complaint.lines().next().unwrap_or_default();
    Err(wrong(rev, &text::short(first, 300)))
}
