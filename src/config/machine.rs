//! Which machine this is.
//!
//! State lies under the machine's id, because home directories are copied and shared between
//! machines, and streams of records must not be. What losing it costs: the machine counts as a
//! new one. What an attacker who can write it gains: nothing that copying the state would not.

use std::path::Path;

use super::account::Account;
use crate::ids::Digest;

/// 32 hexadecimal digits that differ per machine and cannot be turned back into its machine id.
///
/// A system without an id of its own gets one that is made up from what holds still: the name of
/// the machine and the birth of the user's home. Nothing is written for it until [`keep`].
pub(super) fn id(data: Option<&Path>, account: Option<&Account>) -> String {
    match system_id() {
        Some(known) => hashed(&known),
        None => data
            .and_then(kept)
            .unwrap_or_else(|| made_up(&host_name(), account)),
    }
}

/// Writes a made-up id down, so that it outlives a change of the machine's name. Whoever links
/// first wins; all make up the same one.
pub(super) fn keep(data: &Path, id: &str, tag: &str) -> std::io::Result<()> {
    let path = data.join(FILE);
    if system_id().is_some() || path.symlink_metadata().is_ok() {
        return Ok(());
    }
    crate::files::create_private_dir(data)?;
    let draft = data.join(format!(".{FILE}.{tag}"));
    crate::files::write_private(&draft, id.as_bytes())?;
    let linked = std::fs::hard_link(&draft, &path);
    std::fs::remove_file(&draft)?;
    match linked {
        // another process was faster
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

const FILE: &str = "machine-id";

/// Where a made-up id is written down.
pub(super) fn path(data: &Path) -> std::path::PathBuf {
    data.join(FILE)
}

#[cfg(windows)]
fn system_id() -> Option<String> {
    super::managed::machine_text(r"SOFTWARE\Microsoft\Cryptography", "MachineGuid")
        .filter(|id| id.len() >= 32)
}

#[cfg(not(windows))]
fn system_id() -> Option<String> {
    std::fs::read_to_string("/etc/machine-id")
        .ok()
        .map(|id| id.trim().to_owned())
        .filter(|id| id.len() >= 32)
}

fn made_up(host: &str, account: Option<&Account>) -> String {
    let home = account.map(|account| account.home.as_path());
    let born = home
        .and_then(|home| home.metadata().ok()?.created().ok())
        .and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |born| born.as_nanos());
    let home = home.map(Path::display).map(|home| home.to_string());
    hashed(&format!(
        "made up\0{host}\0{}\0{born}",
        home.unwrap_or_default()
    ))
}

fn hashed(known: &str) -> String {
    let mut text = Digest::of(format!("mcpshim machine id v1\0{known}").as_bytes()).to_string();
    text.truncate(32);
    text
}

/// The id that was made up for this user earlier.
fn kept(data: &Path) -> Option<String> {
    let bytes = super::read_regular(&data.join(FILE), 64).ok()??;
    let text = String::from_utf8(bytes).ok()?;
    let id = text.trim();
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(unix)]
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann(home: &Path) -> Account {
        Account {
            name: "ann".to_owned(),
            home: home.to_owned(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn a_made_up_id_holds_still_and_differs_between_homes() {
        let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, other] = [ann(homes[0].path()), ann(homes[1].path())];
        let id = made_up("laptop", Some(&one));
        assert_eq!(id.len(), 32);
        assert_eq!(made_up("laptop", Some(&one)), id);
        assert_ne!(made_up("laptop", Some(&other)), id);
        assert_ne!(made_up("another", Some(&one)), id);
    }

    #[test]
    fn what_was_kept_is_read() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(kept(data.path()), None);
        let id = made_up("laptop", None);
        std::fs::write(data.path().join(FILE), &id).unwrap();
        assert_eq!(kept(data.path()), Some(id));
    }

    #[test]
    fn the_machine_id_itself_is_not_shown() {
        let id = hashed("0123456789abcdef0123456789abcdef");
        assert_eq!(id, "265938b345c8e3000bb559f0bf2707e3");
    }
}
