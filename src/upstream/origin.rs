//! Where the program of a server comes from: never from the client's project, unless the entry
//! says so.
//!
//! [`crate::registry::program`] reads the entry; here is the PATH, which the entry does not have. A
//! shell that was set up for a project, and a project's own settings of a client, put directories
//! of the project there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Launch, Places, SpawnError};
use crate::registry::program::from_project;

/// Directories that a stranger may have filled.
#[derive(Debug)]
struct Projects(Vec<PathBuf>);

impl Projects {
    /// The project that the client claims, and the one we were started in: a project's settings of
    /// a client can change what is claimed. One that holds the home directory is no clone.
    fn new(claimed: Option<&Path>, here: Option<&Path>, home: Option<&Path>) -> Self {
        let home = home.map(real);
        let all = claimed.into_iter().chain(here).map(real);
        let holds_home = |dir: &PathBuf| home.as_ref().is_some_and(|home| home.starts_with(dir));
        Self(
            all.filter(|dir| dir.parent().is_some() && !holds_home(dir))
                .collect(),
        )
    }

    /// Whether a directory is one of theirs, also through links. Those of the system are not,
    /// wherever the client works.
    fn hold(&self, dir: &Path) -> bool {
        let real = real(dir);
        let held = |path: &Path| self.0.iter().any(|project| path.starts_with(project));
        (held(dir) || held(&real)) && !Places::is_of_the_system(&real)
    }
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl Launch {
    /// Finds the place and the program of a server that is about to start, and refuses one that
    /// the client's project would bring.
    ///
    /// # Errors
    /// [`SpawnError::Project`] for its place, [`SpawnError::Program`] for its program.
    pub fn settle(&mut self, project: Option<&Path>, places: &Places) -> Result<(), SpawnError> {
        if self.program_from_project {
            self.place(project)?;
            return places.find(self);
        }
        let cwd = self.cwd.as_ref().and_then(|cwd| cwd.to_str());
        if let Some(what) = from_project(&self.command, &self.args, cwd) {
            return Err(refused(&what));
        }
        self.place(project)?;
        let here = std::env::current_dir().ok();
        let home = self.environment.get("HOME");
        let home = home.or_else(|| self.environment.get("USERPROFILE"));
        let home = home.map(PathBuf::from);
        let projects = Projects::new(project, here.as_deref(), home.as_deref());
        let left_out = self.leave_out(&projects);
        places.find(self).map_err(|error| {
            match left_out.iter().any(|dir| dir.join(&self.command).is_file()) {
                true => refused(&format!(
                    "{}, which lies in the client's project",
                    self.command
                )),
                false => error,
            }
        })
    }

    /// Takes directories of a project, and those that depend on where a server starts, off its
    /// PATH. Returns them.
    fn leave_out(&mut self, projects: &Projects) -> Vec<PathBuf> {
        let set = self.env.get("PATH").map(OsString::from);
        let ours = || self.environment.get("PATH").map(OsString::from);
        let Some(path) = set.clone().or_else(ours) else {
            return Vec::new();
        };
        let dirs = std::env::split_paths(&path);
        let (left_out, kept): (Vec<PathBuf>, Vec<PathBuf>) =
            dirs.partition(|dir| !dir.is_absolute() || projects.hold(dir));
        if left_out.is_empty() {
            return left_out;
        }
        // what was taken apart can be put together again
        let kept = std::env::join_paths(kept).unwrap_or_default();
        match (set, kept.to_str()) {
            (Some(_), Some(kept)) => drop(self.env.insert("PATH".to_owned(), kept.to_owned())),
            (_, _) => self.environment = self.environment.with("PATH", kept),
        }
        left_out
    }
}

fn refused(what: &str) -> SpawnError {
    SpawnError::Program(format!(
        "it would run {what}; only an entry with `program_from_project: true` may do that"
    ))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::ids::ServerKey;
    use crate::upstream::Environment;

    /// A home directory with a project and a tool beside it, all with a program `tool`.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            for dir in [
                "bin",
                "home/bin",
                "home/project/.venv/bin",
                "home/project/tools",
            ] {
                world.program(&format!("{dir}/tool"));
            }
            world.program("home/project/only");
            let elsewhere = world.at("elsewhere");
            std::os::unix::fs::symlink(world.at("home/project"), elsewhere).unwrap();
            world
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn program(&self, path: &str) {
            let path = self.at(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn launch(&self, command: &str, cwd: Option<&str>, path: &[&str]) -> Launch {
            let path = path.iter().map(|dir| match dir.is_empty() || *dir == "." {
                true => PathBuf::from(dir),
                false => self.at(dir),
            });
            let path = std::env::join_paths(path).unwrap();
            let home = self.at("home").into_os_string();
            let vars = [("HOME".into(), home), ("PATH".into(), path)];
            let key = ServerKey::parse("x").unwrap();
            let mut launch = Launch::new(key, command, Environment::of(vars));
            launch.cwd = cwd.map(PathBuf::from);
            launch
        }

        fn check(&self, mut launch: Launch, project: &str) -> String {
            let project = self.at(project);
            let places = Places::default();
            let settled = launch.settle(Some(&project), &places);
            let said = settled.map_or_else(|error| error.to_string(), |()| "starts".to_owned());
            said.replace(&*self.0.path().to_string_lossy(), "")
        }
    }

    #[test]
    fn a_program_of_the_project_is_refused_and_started_where_the_entry_says_so() {
        let world = World::new();
        let own = Some("{project_dir}");
        for (command, cwd, path) in [
            ("./tools/tool", own, &["bin"][..]),
            ("tools/tool", own, &["bin"]),
            ("{project_dir}/only", None, &["bin"]),
            ("only", None, &["home/project"]),
            ("only", None, &["elsewhere"]),
        ] {
            let launch = world.launch(command, cwd, path);
            let said = world.check(launch.clone(), "home/project");
            assert!(
                said.contains("the client's project; only an entry"),
                "{command}: {said}"
            );
            let mut allowed = launch;
            allowed.program_from_project = true;
            if command.starts_with('{') {
                continue; // what stands there is put in by arguments and `cwd` only
            }
            assert_eq!(world.check(allowed, "home/project"), "starts", "{command}");
        }
        insta::assert_snapshot!(
            world.check(world.launch("./tools/tool", own, &["bin"]), "home/project"),
            @"could not be started: it would run ./tools/tool, which lies in the client's project; only an entry with `program_from_project: true` may do that"
        );
    }

    #[test]
    fn a_path_that_leads_into_the_project_is_passed_over() {
        let world = World::new();
        let path = ["", ".", "home/project/.venv/bin", "bin"];
        let mut launch = world.launch("tool", None, &path);
        let project = world.at("home/project");
        launch.settle(Some(&project), &Places::default()).unwrap();
        // nor does a program that it starts in turn find what is there
        let path = launch.environment.get("PATH").unwrap();
        assert_eq!(path, world.at("bin").as_os_str());
        let mut allowed = world.launch("tool", None, &["home/project/.venv/bin", "bin"]);
        allowed.program_from_project = true;
        allowed.settle(Some(&project), &Places::default()).unwrap();
        let path = allowed.environment.get("PATH").unwrap();
        assert!(path.to_str().unwrap().contains(".venv"));
        // one that the registry sets is held to the same
        let mut set = world.launch("tool", None, &["bin"]);
        let both = format!(".:{}", world.at("bin").display());
        set.env.insert("PATH".to_owned(), both);
        set.settle(Some(&project), &Places::default()).unwrap();
        assert_eq!(set.env["PATH"], world.at("bin").to_str().unwrap());
    }

    #[test]
    fn programs_of_the_person_and_of_the_system_start_in_and_beside_a_project() {
        let world = World::new();
        let tool = world.at("home/bin/tool");
        let tool = tool.to_str().unwrap();
        let only = world.at("home/project/only");
        let only = only.to_str().unwrap();
        for (command, cwd) in [
            ("tool", None),
            ("tool", Some("{project_dir}")),
            (tool, Some("{project_dir}")),
            // a path that was signed, wherever the client works
            (only, None),
            ("./bin/tool", None),
        ] {
            let launch = world.launch(command, cwd, &["home/bin", "bin"]);
            assert_eq!(world.check(launch, "home/project"), "starts", "{command}");
        }
        // who works in the home directory itself has cloned nothing there
        let launch = world.launch("tool", None, &["home/bin"]);
        assert_eq!(world.check(launch, "home"), "starts");
        // nor in a directory of the system
        let usr = Projects::new(Some(Path::new("/usr")), None, None);
        assert!(!usr.hold(Path::new("/usr/bin")));
    }
}
