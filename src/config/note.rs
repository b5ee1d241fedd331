//! The note that this machine was managed.
//!
//! It lies in the account's home as the account database names it, so that neither `HOME` nor
//! `XDG_DATA_HOME` makes it go away. What losing it costs: the next absence of managed settings
//! goes unnoticed. What an attacker who can write it gains: nothing; mcpshim refuses to work.

use std::path::{Path, PathBuf};

use super::managed::PLACE;

/// The note in the user's data directory.
pub(super) fn path(data: &Path) -> PathBuf {
    data.join("managed.seen")
}

pub(super) fn is_there(data: &Path) -> bool {
    match path(data).symlink_metadata() {
        Ok(_) => true,
        // a note that cannot be read is a note
        Err(error) => !matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        ),
    }
}

pub(super) fn write(data: &Path) -> std::io::Result<()> {
    if is_there(data) {
        return Ok(());
    }
    crate::files::create_private_dir(data)?;
    let text = format!("{PLACE} was in force here; without it mcpshim refuses to work\n");
    crate::files::write_private(&path(data), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_written_once() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().join("mcpshim");
        assert!(!is_there(&data));
        write(&data).unwrap();
        write(&data).unwrap();
        assert!(is_there(&data));
    }
}
