//! `mcpshim-admin init`: a commented example organisation.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::lint::NOBODY;
use crate::clock::{Now, Utc};
use crate::ids::OrgId;

/// What the example is filled with.
#[derive(Debug, Clone)]
pub struct Example {
    /// The organisation's id.
    pub org: OrgId,
    /// The name people use.
    pub name: String,
    /// Whom to ask.
    pub help: String,
    /// The directory that the example's file server gives access to.
    pub files: PathBuf,
}

/// Why an example cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something of ours is there already; nothing was written.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The file system refuses.
    #[error("{} cannot be written", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

const FILES: [(&str, &str); 10] = [
    ("org.yaml", include_str!("example/org.yaml")),
    (
        "servers/filesystem.yaml",
        include_str!("example/servers/filesystem.yaml"),
    ),
    (
        "servers/everything.yaml",
        include_str!("example/servers/everything.yaml"),
    ),
    ("roles/eng.yaml", include_str!("example/roles/eng.yaml")),
    ("roles/ci.yaml", include_str!("example/roles/ci.yaml")),
    (
        "tests/access.yaml",
        include_str!("example/tests/access.yaml"),
    ),
    (".gitignore", include_str!("example/gitignore")),
    ("agents/.gitkeep", ""),
    ("audit/.gitkeep", ""),
    ("pins/.gitkeep", ""),
];

/// Writes the example into a directory, which is made if need be. Nothing is overwritten.
///
/// # Errors
/// [`InitError::Exists`] before anything is written, if a file of the example is there.
pub fn init(dir: &Path, example: &Example, now: &Now) -> Result<Vec<&'static str>, InitError> {
    if let Some((there, _)) = FILES.iter().find(|(name, _)| dir.join(name).exists()) {
        return Err(InitError::Exists(dir.join(there)));
    }
    let today: String = Utc(now.unix_s()).to_string().chars().take(10).collect();
    let files = example.files.display().to_string();
    let fill = |template: &str| {
        template
            .replace("{{org}}", example.org.as_str())
            .replace("{{name}}", &quoted(&example.name))
            .replace("{{help}}", &quoted(&example.help))
            .replace("{{files_quoted}}", &json(&files))
            .replace(
                "purpose: read and change files in {{files}}",
                &purpose(&files),
            )
            .replace("{{nobody}}", NOBODY)
            .replace("{{today}}", &today)
    };
    for (name, template) in FILES {
        let path = dir.join(name);
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::File::create_new(&path))
            .and_then(|mut file| file.write_all(fill(template).as_bytes()));
        written.map_err(|source| InitError::Io { path, source })?;
    }
    Ok(FILES.iter().map(|(name, _)| *name).collect())
}

fn purpose(files: &str) -> String {
    format!(
        "purpose: {}",
        quoted(&format!("read and change files in {files}"))
    )
}

/// A text as a YAML scalar: plain where that is safe, else as JSON, which is YAML.
fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_alphanumeric() || " -_./@".contains(c);
    let plain = text.chars().all(safe)
        && text.starts_with(char::is_alphabetic)
        && !text.ends_with(' ')
        && !["null", "Null", "NULL"].contains(&text);
    match plain {
        true => text.to_owned(),
        false => json(text),
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
