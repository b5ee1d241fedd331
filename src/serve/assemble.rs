//! From the settings to a snapshot: the registry on disk, the caller who can prove it, the lists.
//!
//! `serve`, `status`, `tools` and `explain` ask the same function, so that what a command says is
//! what a session does. Nothing here touches the network, and nothing fails: whatever is wrong
//! becomes the snapshot's trouble, which `mcpshim_status` and the instructions tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Now;
use crate::config::Config;
use crate::fetch;
use crate::identity::{self, Caller};
use crate::ids::AgentName;
use crate::limits;
use crate::login;
use crate::policy::{Snapshot, SnapshotId};
use crate::registry::Freshness;
use crate::registry::doc::Registry;
use crate::report::{Exit, Failure};
use crate::secret::Secret;
use crate::vault;

/// The file that holds a person's ID token.
#[must_use]
pub fn session_claims(config: &Config) -> PathBuf {
    login::claims_path(&config.state_dir)
}

/// Freezes what holds now for the caller this configuration names.
#[must_use]
pub fn assemble(config: &Config, id: SnapshotId, now: &Now) -> Arc<Snapshot> {
    let (snapshot, warnings) = assemble_with_warnings(config, id, now);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    snapshot
}

/// [`assemble`], with what an administrator should know about the registry.
#[must_use]
pub fn assemble_with_warnings(
    config: &Config,
    id: SnapshotId,
    now: &Now,
) -> (Arc<Snapshot>, Vec<String>) {
    let loaded = match fetch::load(config, now) {
        Ok(loaded) => loaded,
        Err(error) => {
            let failure = Failure::from_error(Exit::Registry, &error).hint(error.hint());
            return (without_registry(&failure, id, now), Vec::new());
        }
    };
    let (caller, trouble) = match caller(config, &loaded.registry, now) {
        Ok(caller) => (Some(caller), None),
        Err(failure) => (None, Some(sentence(&failure))),
    };
    let snapshot = Snapshot::new(
        id,
        Some(Arc::new(loaded.registry)),
        loaded.freshness,
        caller,
        trouble,
        now,
    );
    let life = login::life(&config.state_dir);
    let snapshot = snapshot.warning_at(life.as_ref().map(warns_at));
    (Arc::new(snapshot), loaded.warnings)
}

/// From when on the end of a sign-in is warned of: half an hour ahead, less in a short life, and
/// less the time in which a renewal that was begun then may still succeed.
fn warns_at(life: &login::Life) -> u64 {
    let half_s = life.expires_s.saturating_sub(life.issued_s) / 2;
    let ahead_s = limits::SIGN_IN_WARNING_S.min(half_s);
    life.expires_s
        .saturating_sub(ahead_s)
        .saturating_add(limits::RENEWAL_S.min(ahead_s / 2))
}

/// The snapshot that refuses everything and says why: for a configuration or a registry that
/// cannot be used. A client that starts mcpshim must find a server that tells what to do.
#[must_use]
pub fn without_registry(failure: &Failure, id: SnapshotId, now: &Now) -> Arc<Snapshot> {
    let trouble = Some(sentence(failure));
    Arc::new(Snapshot::new(
        id,
        None,
        Freshness::Lapsed,
        None,
        trouble,
        now,
    ))
}

/// Recognises the caller: the configured agent, else the person who is signed in. An agent that
/// cannot prove itself is nobody, never the person beside it.
///
/// # Errors
/// Why nobody was recognised, and what to do.
pub fn caller(config: &Config, registry: &Registry, now: &Now) -> Result<Caller, Failure> {
    match &config.agent {
        Some((name, file)) => {
            let key = agent_key(name, file)?;
            identity::agent(registry, name, key.expose(), now)
                .map_err(|error| Failure::new(Exit::NotSignedIn, error.to_string()))
        }
        None => person(config, registry, now),
    }
}

/// Reads the private key of an agent.
///
/// # Errors
/// When there is none, or others can read it.
pub fn agent_key(name: &AgentName, file: &Path) -> Result<Secret, Failure> {
    let whose = format!("agent {name} cannot prove who it is");
    match vault::read_private(file) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(Failure::new(Exit::NotSignedIn, whose)
            .cause(format!("there is no key in {}", file.display()))
            .hint("put the key there with mode 0600, or name its file in agent_key")),
        Err(error) => Err(Failure::from_error(Exit::NotSignedIn, &error)
            .context(whose)
            .hint(format!("make {} yours alone (mode 0600)", file.display()))),
    }
}

fn person(config: &Config, registry: &Registry, now: &Now) -> Result<Caller, Failure> {
    let file = session_claims(config);
    let failed = |failure: Failure| failure.hint("run `mcpshim login`");
    match vault::read_private(&file) {
        Ok(None) => Err(
            Failure::new(Exit::NotSignedIn, "nobody is signed in").hint(format!(
                "run `mcpshim login`; if that does not help, ask {}",
                registry.org.help
            )),
        ),
        Ok(Some(token)) => std::str::from_utf8(token.expose())
            .map_err(|error| {
                let failure = Failure::from_error(Exit::NotSignedIn, &error);
                failed(failure.context(format!("{} is not text", file.display())))
            })
            .and_then(|token| {
                identity::person(registry, token, now)
                    .map_err(|error| Failure::new(Exit::NotSignedIn, error.to_string()))
            }),
        Err(error) => Err(failed(Failure::from_error(Exit::NotSignedIn, &error))),
    }
}

/// A failure as the one sentence that a model or a status line can carry.
fn sentence(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{}; {hint}", failure.in_one_line()),
        None => failure.in_one_line(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::LogLevel;
    use crate::ids::OrgId;
    use crate::policy::fixture::{NOW, at, registry};

    pub(in crate::serve) fn config(state: &Path) -> Config {
        Config {
            org: OrgId::parse("acme").unwrap(),
            registry_url: "file:///nowhere/".to_owned(),
            root: b"{}".to_vec(),
            min_root_version: 0,
            min_timestamp_version: 0,
            state_dir: state.to_owned(),
            agent: None,
            machine_id: "m".to_owned(),
            log_level: LogLevel::Info,
            managed: false,
            path: None,
            network: crate::config::Network::default(),
            project_dir: None,
            client_session: None,
        }
    }

    #[test]
    fn the_end_is_warned_of_half_an_hour_ahead_or_later_in_a_short_life() {
        let ahead = |life_s: u64| {
            let (issued_s, expires_s) = (1_000, 1_000 + life_s);
            expires_s
                - warns_at(&login::Life {
                    issued_s,
                    expires_s,
                })
        };
        // a renewal that began in time has had its chance
        assert_eq!(ahead(8 * 3600), 1800 - 60);
        assert_eq!(ahead(3600), 1800 - 60);
        assert_eq!(ahead(300), 150 - 60);
        assert_eq!(ahead(60), 15);
        assert_eq!(ahead(0), 0);
    }

    #[test]
    fn without_a_registry_the_snapshot_says_what_to_do() {
        let state = tempfile::tempdir().unwrap();
        let snapshot = assemble(&config(state.path()), SnapshotId(1), &at(NOW));
        let trouble = snapshot.trouble().unwrap();
        assert!(snapshot.registry().is_none() && snapshot.caller().is_none());
        assert!(
            trouble.contains("no registry has been fetched"),
            "{trouble}"
        );
        assert!(
            trouble.contains("run `mcpshim registry refresh`"),
            "{trouble}"
        );
        assert_eq!(
            std::fs::read_dir(state.path()).unwrap().count(),
            0,
            "looking writes nothing"
        );
    }

    #[test]
    fn nobody_is_signed_in_until_somebody_is() {
        let state = tempfile::tempdir().unwrap();
        let failure = caller(&config(state.path()), &registry(), &at(NOW)).unwrap_err();
        assert_eq!(failure.exit, Exit::NotSignedIn);
        insta::assert_snapshot!(failure, @r#"
error: nobody is signed in
hint:  run `mcpshim login`; if that does not help, ask #mcp-help
"#);
    }

    #[cfg(unix)]
    #[test]
    fn an_agent_without_its_key_is_not_the_person() {
        use std::os::unix::fs::PermissionsExt as _;
        let state = tempfile::tempdir().unwrap();
        let mut config = config(state.path());
        let key = state.path().join("ci.key");
        config.agent = Some((AgentName::parse("ci").unwrap(), key.clone()));
        // a sign-in lies there, and is not looked at
        std::fs::write(session_claims(&config), "x.y.z").unwrap();
        let refusal = |config: &Config| {
            let failure = caller(config, &registry(), &at(NOW)).unwrap_err();
            failure
                .to_string()
                .replace(&state.path().display().to_string(), "")
        };
        insta::assert_snapshot!(refusal(&config), @r#"
error: agent ci cannot prove who it is
cause: there is no key in /ci.key
hint:  put the key there with mode 0600, or name its file in agent_key
"#);
        std::fs::write(&key, "secret").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refusal(&config).starts_with("error: agent ci cannot prove who it is"));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        insta::assert_snapshot!(refusal(&config), @"error: the agent key is not an Ed25519 private key (PKCS#8, PEM or DER); ask for a new one");
    }
}
