//! Which file a command names on Windows.
//!
//! `CreateProcess` finds `.exe` only, but most MCP servers are started by `npx`, which is `npx.cmd`
//! there. So the command is looked up as the command processor would, with two differences: the
//! current directory is not searched (whatever project is open there must not decide what runs),
//! and a name without an extension is never itself the program (npm puts a shell script called
//! `npx` beside `npx.cmd`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What Windows can start without another program; `PATHEXT` also lists scripts.
const STARTABLE: &[&str] = &["com", "exe", "bat", "cmd"];
/// Used when `PATHEXT` is not set.
const USUAL: &str = ".COM;.EXE;.BAT;.CMD";

/// The file to start for `command`: a path, or a name looked up in `dirs`.
pub(super) fn program(
    command: &str,
    dirs: impl IntoIterator<Item = PathBuf>,
    pathext: Option<&str>,
    is_file: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let extensions = extensions(pathext.unwrap_or(USUAL));
    let found = |path: &Path| {
        candidates(path, &extensions)
            .into_iter()
            .find(|path| is_file(path))
    };
    if command.contains(['/', '\\']) {
        return found(Path::new(command));
    }
    dirs.into_iter()
        .filter(|dir| dir.is_absolute())
        .find_map(|dir| found(&dir.join(command)))
}

/// Those of `PATHEXT` that can be started, in its order.
fn extensions(pathext: &str) -> Vec<String> {
    pathext
        .split(';')
        .filter_map(|extension| extension.trim().strip_prefix('.'))
        .map(str::to_ascii_lowercase)
        .filter(|extension| STARTABLE.contains(&&**extension))
        .collect()
}

fn candidates(path: &Path, extensions: &[String]) -> Vec<PathBuf> {
    let named = path.extension().is_some_and(|extension| {
        let extension = extension.to_string_lossy().to_ascii_lowercase();
        STARTABLE.contains(&&*extension)
    });
    let with = |extension: &String| {
        let mut name = OsString::from(path);
        name.push(".");
        name.push(extension);
        PathBuf::from(name)
    };
    named
        .then(|| path.to_owned())
        .into_iter()
        .chain(extensions.iter().map(with))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An absolute folder on the system the tests run on.
    fn at(path: &str) -> PathBuf {
        let root = if cfg!(windows) { "C:\\" } else { "/" };
        Path::new(root).join(path)
    }

    #[track_caller]
    fn check(command: &str, files: &[&str], expected: Option<&str>) {
        let files: Vec<_> = files.iter().map(|file| at(file)).collect();
        let dirs = [PathBuf::from("."), PathBuf::new(), at("node"), at("tools")];
        let pathext = Some(".JS;.COM;.EXE; .cmd ;.PS1");
        let found = program(command, dirs, pathext, |path| {
            files.iter().any(|file| file == path) || path == Path::new("./npx.cmd")
        });
        assert_eq!(found, expected.map(at), "{command}");
    }

    #[test]
    fn a_command_is_found_as_the_command_processor_would() {
        check("npx", &["node/npx", "node/npx.cmd"], Some("node/npx.cmd"));
        check(
            "npx",
            &["tools/npx.exe", "node/npx.cmd"],
            Some("node/npx.cmd"),
        );
        check(
            "npx",
            &["node/npx.exe", "node/npx.cmd"],
            Some("node/npx.exe"),
        );
        check("npx.cmd", &["node/npx.cmd"], Some("node/npx.cmd"));
        check("node.exe", &["tools/node.exe"], Some("tools/node.exe"));
        check(
            "server-1.2",
            &["node/server-1.2.exe"],
            Some("node/server-1.2.exe"),
        );
    }

    #[test]
    fn scripts_shell_files_and_the_current_directory_are_never_started() {
        check("npx", &["node/npx"], None);
        check("npx", &["node/npx.js", "node/npx.ps1"], None);
        check("npx", &[], None);
        check("tool.js", &["node/tool.js"], None);
    }

    #[test]
    fn a_path_is_taken_as_it_is_or_completed() {
        let exe = |path: &Path| path == Path::new("C:/p/server.exe");
        for command in ["C:/p/server", "C:/p/server.exe"] {
            let found = program(command, [], None, exe);
            assert_eq!(found.as_deref(), Some(Path::new("C:/p/server.exe")));
        }
        assert_eq!(program("C:/p/other", [], None, exe), None);
    }
}
