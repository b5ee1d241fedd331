//! Which machine this is.
//!
//! State lies under the machine's id, because home directories are copied and shared between
//! machines, and streams of records must not be. What losing it costs: the machine counts as a
//! new one. What an attacker who can write it gains: nothing that copying the state would not.

use std::path::Path;

use crate::clock::SystemEntropy;
use crate::ids::Digest;

/// 32 hexadecimal digits that differ per machine and cannot be turned back into its machine id.
pub(super) fn id(data: Option<&Path>) -> String {
    let known = std::fs::read_to_string("/etc/machine-id")
        .ok()
        .map(|id| id.trim().to_owned())
        .filter(|id| id.len() >= 32);
    match known {
        Some(known) => hashed(&known),
        None => data
            .and_then(|data| kept(data, &mut SystemEntropy))
            .unwrap_or_else(|| hashed(&host_name())),
    }
}

fn hashed(known: &str) -> String {
    let mut text = Digest::of(format!("mcpshim machine id v1\0{known}").as_bytes()).to_string();
    text.truncate(32);
    text
}

/// The id that was made up for this user, or a new one. Whoever links first wins.
fn kept(data: &Path, entropy: &mut dyn crate::clock::Entropy) -> Option<String> {
    let path = data.join("machine-id");
    let read = || {
        let text = std::fs::read_to_string(&path).ok()?;
        let id = text.trim();
        (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
    };
    if let Some(id) = read() {
        return Some(id);
    }
    let mut random = [0; 24];
    entropy.fill(&mut random);
    let (id, tag) = random.split_at(16);
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    std::fs::create_dir_all(data).ok()?;
    let draft = data.join(format!(".machine-id.{}", hex(tag)));
    std::fs::write(&draft, hex(id)).ok()?;
    // a name that exists is another process's: its id is read below
    let linked = std::fs::hard_link(&draft, &path);
    let removed = std::fs::remove_file(&draft);
    drop((linked, removed));
    read()
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
    use crate::clock::CountingEntropy;

    #[test]
    fn a_made_up_id_is_kept() {
        let data = tempfile::tempdir().unwrap();
        let first = kept(data.path(), &mut CountingEntropy(1)).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(kept(data.path(), &mut CountingEntropy(2)), Some(first));
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_machine_id_itself_is_not_shown() {
        let id = hashed("0123456789abcdef0123456789abcdef");
        assert_eq!(id, "265938b345c8e3000bb559f0bf2707e3");
    }
}
