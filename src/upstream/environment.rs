//! What of our environment a child may see.

use std::ffi::{OsStr, OsString};
use std::fmt;

/// Passed on as they are: where programs, homes, temporary files, languages and trust stores are.
/// Everything else stays here: clients hand us their own keys and tokens (measured: Claude Code
/// passes `ANTHROPIC_API_KEY` to every server it starts).
const NAMES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TMP",
    "TEMP",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    // corporate networks
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    // Windows programs do not start without these
    "ALLUSERSPROFILE",
    "APPDATA",
    "COMMONPROGRAMFILES",
    "COMMONPROGRAMFILES(X86)",
    "COMPUTERNAME",
    "COMSPEC",
    "HOMEDRIVE",
    "HOMEPATH",
    "LOCALAPPDATA",
    "NUMBER_OF_PROCESSORS",
    "OS",
    "PATHEXT",
    "PROCESSOR_ARCHITECTURE",
    "PROGRAMDATA",
    "PROGRAMFILES",
    "PROGRAMFILES(X86)",
    "PROGRAMW6432",
    "PUBLIC",
    "SYSTEMDRIVE",
    "SYSTEMROOT",
    "USERNAME",
    "USERPROFILE",
    "WINDIR",
];

/// The allowlisted part of an environment.
#[derive(Clone, Default)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// Keeps what is on the allowlist.
    #[must_use]
    pub fn of(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut kept: Vec<_> = vars.into_iter().filter(|(name, _)| passes(name)).collect();
        kept.sort();
        Self(kept)
    }

    /// The names on the allowlist.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().copied()
    }

    /// One variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        let mut vars = self.0.iter();
        vars.find(|(known, _)| known == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// The same with another value of one variable.
    #[must_use]
    pub fn with(&self, name: &str, value: OsString) -> Self {
        let others = self.0.iter().filter(|(known, _)| known != name).cloned();
        let mut vars: Vec<_> = others.chain([(name.into(), value)]).collect();
        vars.sort();
        Self(vars)
    }

    /// The variables, sorted by name.
    pub fn vars(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

fn passes(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let same = |known: &&str| match cfg!(windows) {
        true => known.eq_ignore_ascii_case(name),
        false => **known == *name,
    };
    name.starts_with("LC_") || NAMES.iter().any(same)
}

/// Names only: a proxy's address may hold a password.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allowlist_passes_and_values_are_never_printed() {
        let env = Environment::of(
            [
                ("PATH", "/bin"),
                ("LC_ALL", "C"),
                ("ANTHROPIC_API_KEY", "sk-1"),
                ("LD_PRELOAD", "/tmp/x.so"),
                ("PATHX", "no"),
                ("path", "no"),
                ("HTTPS_PROXY", "http://user:word@proxy"),
            ]
            .map(|(name, value)| (name.into(), value.into())),
        );
        let names: Vec<_> = env.vars().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["HTTPS_PROXY", "LC_ALL", "PATH"]);
        assert_eq!(format!("{env:?}"), r#"["HTTPS_PROXY", "LC_ALL", "PATH"]"#);
    }
}
