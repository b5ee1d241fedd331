//! `mcpshim-admin new server`: the entry of a server, written to be reviewed.
//!
//! What the command line or the address says is filled in, the package it pins included; what only
//! people know stands there as not filled in, and `check` says so until somebody does. Nothing is
//! written that `check` would refuse, and no file is overwritten.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::lint::{self, NOBODY, UNSAID};
use super::problem::{Level, Problems};
use super::source::{Sources, server_of};
use crate::ids::ServerKey;

/// How a server is reached.
#[derive(Debug, Clone)]
pub enum Reach {
    /// A program and its arguments.
    Command(String, Vec<String>),
    /// An address.
    Url(String),
}

/// Why no entry was written.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// A file or a server of that name is there.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The file system refuses.
    #[error("{} cannot be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server has the key.
    #[error("the key `{key}` is already that of {file}")]
    Key {
        /// The key.
        key: ServerKey,
        /// The file of the other server.
        file: String,
    },
    /// `mcpshim` is the key of mcpshim's own tools.
    #[error("the key `mcpshim` is reserved")]
    Reserved,
    /// The directory has no readable `org.yaml`.
    #[error("{} is not a registry: it has no readable org.yaml", .0.display())]
    NotARegistry(PathBuf),
    /// `check` would refuse the entry.
    #[error("{message}")]
    Refused {
        /// What is wrong with it.
        message: String,
        /// What to do.
        fix: String,
    },
}

/// An entry that was written.
#[derive(Debug)]
pub struct NewServer {
    /// Its file, in the directory.
    pub file: PathBuf,
    /// The package it pins, as `npm:NAME@1.2.3`.
    pub package: Option<String>,
    /// What to look at before the rest.
    pub warnings: Vec<String>,
}

/// Writes `servers/<key>.yaml` for review.
///
/// # Errors
/// [`EntryError`]; then nothing was written.
pub fn new_server(
    dir: &Path,
    key: &ServerKey,
    reach: &Reach,
    environment: &str,
) -> Result<NewServer, EntryError> {
    let sources = Sources::read(dir);
    if sources.org.is_none() {
        return Err(EntryError::NotARegistry(dir.to_owned()));
    }
    if key.as_str() == "mcpshim" {
        return Err(EntryError::Reserved);
    }
    let file = dir.join("servers").join(format!("{key}.yaml"));
    // a link that leads nowhere is there as well
    if file.exists() || file.is_symlink() {
        return Err(EntryError::Exists(file));
    }
    let taken = sources.server(key.as_str());
    if let Some(other) = taken {
        let (key, file) = (key.clone(), other.file.clone());
        return Err(EntryError::Key { key, file });
    }
    let package = match reach {
        Reach::Command(command, args) => package_of(command, args),
        Reach::Url(_) => None,
    };
    let text = text(key, reach, package.as_deref(), environment);
    let mut problems = Problems::default();
    if let Some(server) = server_of(dir, key.as_str(), &text, &mut problems) {
        lint::entry(&server, &mut problems);
    }
    problems.sort();
    if let Some(first) = problems.0.iter().find(|p| p.level == Level::Error) {
        let (message, fix) = (first.message.clone(), first.fix.clone());
        return Err(EntryError::Refused { message, fix });
    }
    let written = fs::create_dir_all(dir.join("servers"))
        .and_then(|()| fs::File::create_new(&file))
        .and_then(|mut out| out.write_all(text.as_bytes()));
    written.map_err(|source| EntryError::Io {
        path: file.clone(),
        source,
    })?;
    Ok(NewServer {
        file,
        package,
        warnings: problems.0.into_iter().map(|p| p.message).collect(),
    })
}

/// The package that a command line runs at one version, as `package` is written.
fn package_of(command: &str, args: &[String]) -> Option<String> {
    let kind = lint::runner_of(command, args)?;
    if kind == "oci" {
        let image = args.iter().find(|arg| arg.contains("@sha256:"))?;
        return Some(format!("oci:{image}"));
    }
    let value = named(args).or_else(|| {
        let words = ["exec", "x", "dlx", "tool", "run", "install"];
        let mut plain = args.iter().filter(|arg| !arg.starts_with('-'));
        plain.find(|arg| !words.contains(&arg.as_str())).cloned()
    })?;
    let (name, version) = match (kind, value.split_once("==")) {
        ("pypi", Some(parts)) => parts,
        _ => value.rsplit_once('@')?,
    };
    (!name.is_empty()).then(|| format!("{kind}:{name}@{version}"))
}

/// What `--package` or `--from` names.
fn named(args: &[String]) -> Option<String> {
    let flags = ["--package", "-p", "--from", "--spec"];
    args.iter().enumerate().find_map(|(i, arg)| {
        if flags.contains(&arg.as_str()) {
            return args.get(i + 1).cloned();
        }
        let (flag, value) = arg.split_once('=')?;
        flags.contains(&flag).then(|| value.to_owned())
    })
}

/// A text of somebody's as YAML: as JSON, which is YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn text(key: &ServerKey, reach: &Reach, package: Option<&str>, environment: &str) -> String {
    let (hosted, zone) = match reach {
        Reach::Command(..) => ("self", "laptop"),
        Reach::Url(_) => ("vendor", "internet"),
    };
    let fill = |template: &str| {
        template
            .replace("{{key}}", key.as_str())
            .replace("{{nobody}}", NOBODY)
            .replace("{{unsaid}}", UNSAID)
            .replace("{{hosted}}", hosted)
            .replace("{{zone}}", zone)
            .replace("{{environment}}", &quoted(environment))
    };
    let mut out = fill(HEAD);
    // writing to a String cannot fail
    let mut line = |line: std::fmt::Arguments<'_>| {
        out.write_fmt(line).unwrap_or_default();
        out.push('\n');
    };
    match reach {
        Reach::Command(command, args) => {
            let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
            line(format_args!("transport:\n  type: stdio"));
            line(format_args!("  command: {}", quoted(command)));
            line(format_args!("  args: [{}]", args.join(", ")));
            match package {
                Some(package) => line(format_args!(
                    "  # The same package and version once more: `check` compares the two.\n  \
                     package: {}",
                    quoted(package)
                )),
                None => line(format_args!(
                    "  # What is downloaded and run, at one exact version.\n  \
                     # package: npm:NAME@1.2.3"
                )),
            }
            out.push_str(&fill(STDIO));
        }
        Reach::Url(url) => {
            line(format_args!("transport:\n  type: http"));
            line(format_args!("  url: {}", quoted(url)));
            out.push_str(&fill(HTTP));
        }
    }
    out.push_str(&fill(TAIL));
    out
}

const HEAD: &str = include_str!("example/new/head.yaml");
const STDIO: &str = include_str!("example/new/stdio.yaml");
const HTTP: &str = include_str!("example/new/http.yaml");
const TAIL: &str = include_str!("example/new/tail.yaml");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::Org;

    fn made(
        org: &Org,
        key: &str,
        words: &[&str],
        environment: &str,
    ) -> Result<NewServer, EntryError> {
        let key = ServerKey::parse(key).unwrap();
        let reach = match words {
            [url] if url.contains("://") => Reach::Url((*url).to_owned()),
            [command, args @ ..] => Reach::Command(
                (*command).to_owned(),
                args.iter().map(|arg| (*arg).to_owned()).collect(),
            ),
            [] => panic!("no words"),
        };
        new_server(org.dir(), &key, &reach, environment)
    }

    /// What `check` says of the new entry.
    fn said(org: &Org, key: &str) -> Vec<String> {
        let found = org.check();
        let own = found
            .lines()
            .filter(|line| line.starts_with(&format!("servers/{key}.yaml")));
        own.map(|line| {
            line.rsplit('[')
                .next()
                .unwrap()
                .trim_end_matches(']')
                .to_owned()
        })
        .collect()
    }

    #[test]
    fn a_command_or_an_address_becomes_an_entry_that_only_people_have_to_complete() {
        let digest = format!("ghcr.io/acme/mcp@sha256:{}", "ab".repeat(32));
        let oci = format!("oci:{digest}");
        for (words, package) in [
            (
                &["npx", "-y", "@acme/server@1.2.3", "/srv/my files"][..],
                Some("npm:@acme/server@1.2.3"),
            ),
            (
                &["npx", "--package=server@1.2.3", "bin"],
                Some("npm:server@1.2.3"),
            ),
            (
                &["npx", "-p", "server@1.2.3", "bin"],
                Some("npm:server@1.2.3"),
            ),
            (
                &["npm", "exec", "--", "server@1.2.3"],
                Some("npm:server@1.2.3"),
            ),
            (
                &["uvx", "mcp-server-git==2026.8.31"],
                Some("pypi:mcp-server-git@2026.8.31"),
            ),
            (
                &["uvx", "--from", "server==1.0.1", "bin"],
                Some("pypi:server@1.0.1"),
            ),
            (
                &["uv", "tool", "run", "server@1.0.1"],
                Some("pypi:server@1.0.1"),
            ),
            (&["docker", "run", "-i", "--rm", &digest], Some(&oci)),
            (&["/opt/mcp/server", "--flag: {x}", "#1", "*"], None),
            (&["https://crm.acme.example/mcp"], None),
        ] {
            let org = Org::new();
            let entry = made(&org, "new", words, "prod").unwrap();
            assert_eq!(entry.package.as_deref(), package, "{words:?}");
            assert_eq!(
                said(&org, "new"),
                ["no-pin", "not-filled-in"],
                "{words:?}: {}",
                org.check()
            );
            // filled in and pinned, there is nothing left to say
            let text = org.read("servers/new.yaml");
            let text = text.replace(NOBODY, "platform").replace(UNSAID, "pages");
            org.write("servers/new.yaml", &text);
            org.pin(&["read_file", "read_tree", "write"]);
            assert_eq!(org.check(), "", "{words:?}");
        }
    }

    #[test]
    fn every_key_that_is_commented_out_is_one_that_can_be_written() {
        for words in [&["/opt/mcp/server"][..], &["https://crm.acme.example/mcp"]] {
            let org = Org::new();
            org.write("trust/example-ca.pem", &org.read("trust/ca.pem"));
            made(&org, "new", words, "prod").unwrap();
            let text = org.read("servers/new.yaml");
            // a comment that is a key, or a part of one, is taken at its word
            let key = |line: &str| {
                let rest = line.trim_start().strip_prefix("# ")?;
                let (word, _) = rest.trim_start().split_once(':')?;
                let plain = word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                let indent = line.len() - line.trim_start().len();
                plain.then(|| format!("{}{rest}", " ".repeat(indent)))
            };
            let skip = ["definitions", "names", "# package", "# isolation"];
            let lines = text.lines().map(|line| match key(line) {
                Some(_) if skip.iter().any(|word| line.contains(word)) => line.to_owned(),
                Some(open) => open,
                None => line.to_owned(),
            });
            org.write("servers/new.yaml", &lines.collect::<Vec<_>>().join("\n"));
            org.pin(&["some_tool", "read_file", "read_tree", "write"]);
            let found = said(&org, "new");
            assert_eq!(
                found,
                ["not-filled-in"],
                "{}\n{}",
                org.check(),
                org.read("servers/new.yaml")
            );
        }
    }

    #[test]
    fn what_check_would_refuse_is_not_written() {
        let token = format!("ghp_{}", "a1B2c3D4e5".repeat(4));
        let bearer = format!("--token={token}");
        for words in [
            &["npx", "-y", "server"][..],
            &["npx", "-y", "server@latest"],
            &["uvx", "server"],
            &["docker", "run", "-i", "acme/mcp:1.2"],
            &["bash", "-c", "npx -y server"],
            &["/opt/mcp/server", &bearer],
            &["/opt/mcp/server", "--api-key", "hunter2hunter2"],
            &[concat!("/ho", "me/jane/server")],
            &["./server"],
            &["http://crm.acme.example/mcp"],
            &["https://u:p@crm.acme.example/mcp"],
            &["https://crm.acme.example/mcp?token=hunter2hunter2"],
        ] {
            let org = Org::new();
            let refused = made(&org, "new", words, "prod").unwrap_err();
            let EntryError::Refused { message, .. } = &refused else {
                panic!("{words:?}: {refused:?}");
            };
            assert!(
                !message.contains("hunter2") && !message.contains("a1B2"),
                "{message}"
            );
            assert!(!org.path("servers/new.yaml").exists(), "{words:?}");
        }
        // in `dev` a package may be whatever there is; a secret may be nowhere
        let org = Org::new();
        assert!(made(&org, "new", &["npx", "-y", "server"], "dev").is_ok());
        assert!(made(&org, "other", &["/opt/mcp/server", &bearer], "dev").is_err());
    }

    #[test]
    fn nothing_is_overwritten() {
        let org = Org::new();
        let words = ["/opt/mcp/server"];
        assert!(made(&org, "new", &words, "prod").is_ok());
        let text = org.read("servers/new.yaml");
        let again = made(&org, "new", &["/opt/mcp/other"], "prod");
        assert!(matches!(again, Err(EntryError::Exists(_))), "{again:?}");
        assert_eq!(org.read("servers/new.yaml"), text);
        let taken = made(&org, "gh", &words, "prod");
        assert!(matches!(taken, Err(EntryError::Key { .. })), "{taken:?}");
        let own = made(&org, "mcpshim", &words, "prod");
        assert!(matches!(own, Err(EntryError::Reserved)), "{own:?}");
        let elsewhere = new_server(
            &org.path("servers"),
            &ServerKey::parse("new").unwrap(),
            &Reach::Url("https://x.example/mcp".to_owned()),
            "prod",
        );
        assert!(
            matches!(elsewhere, Err(EntryError::NotARegistry(_))),
            "{elsewhere:?}"
        );
    }
}
