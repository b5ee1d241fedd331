//! Whose process this is, from the account database: no variable decides it.

use std::path::PathBuf;

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

/// The account that this process runs under. None where it has none, or no home.
#[cfg(unix)]
pub(super) fn own() -> Option<Account> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
    user.dir.is_absolute().then_some(Account {
        name: user.name,
        home: user.dir,
        shell: user.shell,
    })
}

/// The account that this process runs under: what Windows says, whatever `USERPROFILE` says.
#[cfg(windows)]
#[expect(
    clippy::disallowed_methods,
    reason = "asks for known folders, which are not variables on Windows"
)]
pub(super) fn own() -> Option<Account> {
    let home = directories::BaseDirs::new()?.home_dir().to_owned();
    let name = home.file_name()?.to_str()?.to_owned();
    Some(Account {
        name,
        home,
        shell: PathBuf::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_database_says_where_home_is() {
        // whatever HOME says; the file is what `getent` would read for a local account
        let text = std::fs::read_to_string("/etc/passwd").unwrap();
        let uid = rustix::process::geteuid().as_raw().to_string();
        let line = text.lines().find(|l| l.split(':').nth(2) == Some(&*uid));
        if let Some(line) = line {
            let own = own().unwrap();
            assert_eq!(own.home.to_str(), line.split(':').nth(5));
            assert_eq!(Some(&*own.name), line.split(':').next());
        }
    }
}
