//! `{project_dir}` in arguments and working directory.
//!
//! The project is the client's claim; the registry says where it goes. It is put in as text into
//! one argument, never through a shell, so that a directory of any name stays one argument.

use std::path::{Path, PathBuf};

use super::{Launch, SpawnError};
use crate::registry::program::PROJECT_DIR as PLACEHOLDER;

impl Launch {
    /// Puts the client's project in place of `{project_dir}`.
    ///
    /// # Errors
    /// [`SpawnError::Project`] when a project is needed and there is none that can be used, or
    /// the directory does not exist.
    pub fn place(&mut self, project: Option<&Path>) -> Result<(), SpawnError> {
        for arg in &mut self.args {
            if let Some(placed) = placed(arg, project)? {
                *arg = placed;
            }
        }
        let Some(dir) = self.cwd.take() else {
            self.cwd = Some(self.home());
            return Ok(());
        };
        let dir = match dir.to_str().map(|dir| placed(dir, project)).transpose()? {
            Some(Some(placed)) => PathBuf::from(placed),
            Some(None) | None => dir,
        };
        if !dir.is_absolute() || !dir.is_dir() {
            let dir = dir.display();
            return Err(SpawnError::Project(format!(
                "is to start in {dir}, which is no directory here"
            )));
        }
        self.cwd = Some(dir);
        Ok(())
    }

    /// Where a server starts that says nothing of it. Never where the client works: package
    /// runners read settings and packages there, so that a cloned project would choose the
    /// program that gets the credential.
    fn home(&self) -> PathBuf {
        let named = ["HOME", "USERPROFILE"].into_iter();
        let mut named = named.filter_map(|name| self.environment.get(name).map(PathBuf::from));
        let home = named.find(|dir| dir.is_absolute() && dir.is_dir());
        home.unwrap_or_else(|| PathBuf::from(std::path::MAIN_SEPARATOR_STR))
    }
}

/// A text with the project in it: at its begin or behind its first `=`, as the whole first part
/// of a path. `None` where nothing stands for it.
fn placed(text: &str, project: Option<&Path>) -> Result<Option<String>, SpawnError> {
    let at = match text.split_once('=') {
        _ if text.starts_with(PLACEHOLDER) => 0,
        Some((option, value)) if value.starts_with(PLACEHOLDER) => option.len() + 1,
        Some(_) | None => return Ok(None),
    };
    let (before, rest) = text.split_at_checked(at).unwrap_or((text, ""));
    let rest = rest.strip_prefix(PLACEHOLDER).unwrap_or(rest);
    if !rest.is_empty() && !rest.starts_with('/') {
        return Ok(None);
    }
    let none = "works in the client's project, and this client has none: start it in a project \
                directory";
    let project = project.ok_or_else(|| SpawnError::Project(none.to_owned()))?;
    let odd = "works in the client's project, whose path is not Unicode";
    let project = project
        .to_str()
        .ok_or_else(|| SpawnError::Project(odd.to_owned()))?;
    if !Path::new(project).is_absolute() {
        let relative = format!("works in the client's project, but {project:?} is no whole path");
        return Err(SpawnError::Project(relative));
    }
    // one `/` between the two, whatever the project ends with
    let project = match rest {
        "" => project,
        _ => project.trim_end_matches('/'),
    };
    Ok(Some(format!("{before}{project}{rest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, project: Option<&str>) -> String {
        match placed(text, project.map(Path::new)) {
            Ok(Some(placed)) => placed,
            Ok(None) => format!("as it is: {text}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_project_is_the_whole_first_part_of_a_path() {
        let at = |text| check(text, Some("/srv/ann/a b"));
        assert_eq!(at("{project_dir}"), "/srv/ann/a b");
        assert_eq!(at("{project_dir}/src"), "/srv/ann/a b/src");
        assert_eq!(at("--root={project_dir}/x"), "--root=/srv/ann/a b/x");
        for other in [
            "",
            "x",
            "x{project_dir}",
            "{project_dir}x",
            "{project_dir}..",
            "{project_dir",
            "{project_dir}}",
            "{PROJECT_DIR}",
            "a=b={project_dir}",
            "a:{project_dir}",
        ] {
            assert_eq!(at(other), format!("as it is: {other}"));
        }
        assert_eq!(check("{project_dir}/x", Some("/")), "/x");
        assert_eq!(check("{project_dir}", Some("/")), "/");
    }

    #[test]
    fn a_server_that_says_nothing_starts_at_home_and_never_in_the_project() {
        let home = tempfile::tempdir().unwrap();
        let launch = |home: &Path| Launch {
            key: crate::ids::ServerKey::parse("s").unwrap(),
            command: "npx".to_owned(),
            args: Vec::new(),
            env: std::collections::BTreeMap::new(),
            secrets: std::collections::BTreeMap::new(),
            scrubber: crate::secret::Scrubber::default(),
            environment: crate::upstream::Environment::of([("HOME".into(), home.into())]),
            cwd: None,
            log: None,
            program_from_project: false,
        };
        let placed = |home: &Path| {
            let mut launch = launch(home);
            launch.place(Some(Path::new("/srv/project"))).unwrap();
            launch.cwd.unwrap()
        };
        assert_eq!(placed(home.path()), home.path());
        assert_eq!(placed(Path::new("relative")), Path::new("/"));
        assert_eq!(placed(Path::new("/no/such/home")), Path::new("/"));
    }

    #[test]
    fn without_a_project_the_reason_is_said() {
        insta::assert_snapshot!(check("{project_dir}", None), @"works in the client's project, and this client has none: start it in a project directory");
        insta::assert_snapshot!(check("{project_dir}", Some("here")), @r#"works in the client's project, but "here" is no whole path"#);
        assert_eq!(check("plain", None), "as it is: plain");
    }

    #[cfg(unix)]
    #[test]
    fn a_project_that_is_not_unicode_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let odd = Path::new(std::ffi::OsStr::from_bytes(b"/\xff"));
        let error = placed("{project_dir}", Some(odd)).unwrap_err();
        assert!(error.to_string().contains("not Unicode"));
    }
}
