//! Whether a project could bring the program of a server.
//!
//! A cloned project is a stranger's. A server's program gets the server's credential, so it never
//! comes from there unless the entry says `program_from_project`. The rule reads the entry alone:
//! the same before signing and before a start. A whole path is signed, wherever it leads; only
//! `{project_dir}` and what is relative to it are the project's to decide.
//!
//! It knows programs that run what they are told to: package runners, interpreters and shells. What
//! another program loads from its working directory is not known here (`docs/limitations.md`).

/// Stands for the client's project.
pub const PROJECT_DIR: &str = "{project_dir}";

/// Package runners: where they start they read settings and packages.
const RUNNERS: &[&str] = &[
    "npx", "bunx", "pnpx", "npm", "pnpm", "yarn", "bun", "deno", "uvx", "uv", "pipx", "poetry",
    "pixi", "hatch", "cargo", "go", "dotnet", "mise", "make", "just",
];
/// Programs whose first argument that is no option is a program.
const INTERPRETERS: &[&str] = &[
    "node",
    "tsx",
    "ts-node",
    "python",
    "pypy",
    "ruby",
    "perl",
    "php",
    "java",
    "lua",
    "pwsh",
    "osascript",
];
/// Programs that run a text, too.
const SHELLS: &[&str] = &[
    "sh",
    "bash",
    "zsh",
    "dash",
    "ksh",
    "fish",
    "cmd",
    "powershell",
];

/// How a server is started, as its entry has it.
#[derive(Debug, Clone, Copy)]
struct Start<'a> {
    command: &'a str,
    args: &'a [String],
    /// It starts inside a project.
    cwd_inside: bool,
}

/// Says what of a project would be run, as a phrase after `it would run`; `None` where nothing is.
#[must_use]
pub fn from_project(command: &str, args: &[String], cwd: Option<&str>) -> Option<String> {
    found(Start {
        command,
        args,
        cwd_inside: cwd.is_some_and(is_inside),
    })
}

fn found(start: Start<'_>) -> Option<String> {
    let Start { command, args, .. } = start;
    if is_path(command) && start.holds(command) {
        return Some(format!("{command}, which lies in the client's project"));
    }
    let name = name(command);
    let here = "in the client's project, whose files decide what that is";
    match &*name {
        "env" => env(start),
        name if RUNNERS.contains(&name) => start
            .cwd_inside
            .then(|| format!("what {name} finds {here}")),
        name if SHELLS.contains(&name) => {
            let text = |arg: &String| {
                let short = arg.starts_with('-') && !arg.starts_with("--") && arg.contains('c');
                short || arg.eq_ignore_ascii_case("/c") || arg.eq_ignore_ascii_case("-command")
            };
            match start.cwd_inside && args.iter().any(text) {
                true => Some(format!("a text in {name} {here}")),
                false => script(start),
            }
        }
        name if INTERPRETERS.contains(&unversioned(name)) => {
            let module = |arg: &String| arg == "-m" || arg == "-";
            let before_script = args.iter().take_while(|arg| arg.starts_with('-'));
            match start.cwd_inside && before_script.clone().any(module) {
                true => Some(format!("a module that {name} finds {here}")),
                false => script(start),
            }
        }
        _ => None,
    }
}

/// `env NAME=VALUE program args`: the rest is judged.
fn env(start: Start<'_>) -> Option<String> {
    let splits = |arg: &String| arg.starts_with("-S") || arg.starts_with("--split-string");
    if start.cwd_inside && start.args.iter().any(splits) {
        return Some("a text in env in the client's project".to_owned());
    }
    let set = |arg: &&String| arg.starts_with('-') || arg.contains('=');
    let skipped = start.args.iter().take_while(set).count();
    let (command, args) = start.args.get(skipped..)?.split_first()?;
    found(Start {
        command,
        args,
        ..start
    })
}

/// The options before a script, where they name files, and the script.
fn script(start: Start<'_>) -> Option<String> {
    for arg in start.args {
        let option = arg.starts_with('-');
        let path = match arg.split_once('=') {
            Some((_, value)) if option => value,
            _ if option => continue,
            _ => arg,
        };
        // what an option says may be a word; a script is a file whatever it is called
        if (!option || is_path(path)) && start.holds(path) {
            return Some(format!("{path}, which lies in the client's project"));
        }
        if !option {
            return None;
        }
    }
    None
}

impl Start<'_> {
    fn holds(&self, path: &str) -> bool {
        is_inside(path) || (self.cwd_inside && is_relative(path))
    }
}

fn is_inside(path: &str) -> bool {
    path.starts_with(PROJECT_DIR)
}

/// A path rather than a name that is looked up.
#[must_use]
pub fn is_path(command: &str) -> bool {
    command.contains(['/', '\\'])
}

/// Whether it depends on the working directory. `{project_dir}` does not: it is put in.
#[must_use]
pub fn is_relative(path: &str) -> bool {
    let drive = path.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
        && matches!(path.get(1..3), Some(":\\" | ":/"));
    !(path.starts_with(['/', '\\', '~', '{']) || drive)
}

/// The name of a program without its directory and what Windows adds.
fn name(command: &str) -> String {
    let last = command.rsplit(['/', '\\']).next().unwrap_or(command);
    let lower = last.to_ascii_lowercase();
    let ends = [".exe", ".cmd", ".bat", ".com"];
    let bare = ends.iter().find_map(|end| lower.strip_suffix(end));
    bare.unwrap_or(&lower).to_owned()
}

/// `python3.12` is `python`.
fn unversioned(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a command line, started in the project or in another place.
    fn check(line: &str, cwd_inside: bool) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (command, args) = words.split_first().unwrap();
        let cwd = cwd_inside.then_some("{project_dir}/src");
        from_project(command, args, cwd).unwrap_or_else(|| "fine".to_owned())
    }

    #[test]
    fn what_a_project_brings_is_found_however_it_is_started() {
        for line in [
            "./tools/mem",
            "tools/mem --flag",
            "tools\\mem.exe",
            "npx -y some-package@1.2.3",
            "/usr/local/bin/npx -y some-package@1.2.3",
            "NPX.CMD -y some-package@1.2.3",
            "uvx some-package==1.2.3",
            "uv run server.py",
            "python3 server.py",
            "python3.12 -u tools/server.py",
            "python -m server",
            "node server.js",
            "node --import=./hook.mjs /opt/server.js",
            "bash -lc /opt/run",
            "sh run.sh",
            "env python3 server.py",
            "/usr/bin/env A=1 ./tools/mem",
            "env -S python3 server.py",
        ] {
            assert!(check(line, true).contains("project"), "{line}");
        }
        for line in [
            "{project_dir}/tools/mem",
            "node {project_dir}/server.js",
            "python3 -u {project_dir}/server.py",
            "env node {project_dir}/server.js",
        ] {
            assert!(check(line, false).contains("project"), "{line}");
        }
    }

    #[test]
    fn a_program_from_elsewhere_may_work_on_the_project() {
        for line in [
            "npx -y @modelcontextprotocol/server-filesystem@1.2.3 {project_dir}",
            "uvx mcp-server-git==1.2.3 --repository={project_dir}",
            "python3 /opt/server.py {project_dir}/data.db",
            "/usr/bin/env python3 /opt/server.py",
            "bash -c true",
        ] {
            assert_eq!(check(line, false), "fine", "{line}");
        }
        for line in [
            "/opt/git-mcp --repository .",
            "git-mcp",
            "python3 /opt/server.py data.db",
            "node --max-old-space-size=4096 /opt/server.js ./src",
            "docker run image",
            "bash /opt/run.sh",
        ] {
            assert_eq!(check(line, true), "fine", "{line}");
        }
    }

    #[test]
    fn relative_is_what_the_working_directory_decides() {
        for path in ["./a", "a/b", "a\\b", "../a", "a"] {
            assert!(is_relative(path), "{path}");
        }
        for path in [
            "/a",
            "C:\\a",
            "c:/a",
            "\\\\host\\a",
            "{project_dir}/a",
            "~/a",
        ] {
            assert!(!is_relative(path), "{path}");
        }
    }
}
