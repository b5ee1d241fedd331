//! `mcpshim client`: the program as built edits the files of a home directory.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Ended, Grant, Org, Server, program, run};

/// A home directory with some clients in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new(files: &[(&str, &str)]) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = home.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.0.path())
            .env("PATH", "/usr/bin:/bin")
            .current_dir(self.0.path());
        command
    }

    fn client<const N: usize>(&self, words: [&str; N]) -> Ended {
        run(self.command(program("mcpshim")).arg("client").args(words))
    }
}

const CLAUDE: &str = ".claude.json";
const DESKTOP: &str = ".config/Claude/claude_desktop_config.json";
const CODEX: &str = ".codex/config.toml";
const VSCODE: &str = ".config/Code/User/mcp.json";

const FILES: [(&str, &str); 4] = [
    (
        CLAUDE,
        "{\"numStartups\": 3, \"mcpServers\": {\"a\": {\"command\": \"a\"}}}",
    ),
    (DESKTOP, "{}"),
    (CODEX, "model = \"o\"\r\n"),
    (VSCODE, "{\n\t// mine\n\t\"servers\": {},\n}\n"),
];

#[test]
fn every_client_gets_its_entry_once_and_gives_every_byte_back() {
    let home = Home::new(&FILES);
    let dry = home
        .client(["install", "--all", "--force", "--dry-run"])
        .ok();
    assert_eq!(dry.stdout.matches("would be added").count(), 4, "{dry:#?}");
    for (name, text) in FILES {
        assert_eq!(home.read(name), text, "{name}");
    }
    let first = home.client(["install", "--all", "--force"]).ok();
    assert_eq!(
        first.stdout.matches("the entry added to").count(),
        4,
        "{first:#?}"
    );
    assert!(
        first.stderr.contains("among the results of a build"),
        "{first:#?}"
    );
    let installed: Vec<String> = FILES.iter().map(|(name, _)| home.read(name)).collect();
    let own = program("mcpshim").canonicalize().unwrap();
    for text in &installed {
        assert!(
            text.contains(own.to_str().unwrap()) && text.contains("[\"serve\"]"),
            "{text}"
        );
    }
    let second = home.client(["install", "--all", "--force"]).ok();
    assert_eq!(
        second.stdout.matches("nothing to do").count(),
        4,
        "{second:#?}"
    );
    let again: Vec<String> = FILES.iter().map(|(name, _)| home.read(name)).collect();
    assert_eq!(again, installed);

    let seen = home.client(["verify", "--json"]).ok();
    let seen = seen.json();
    assert_eq!(seen.as_array().unwrap().len(), 4);
    for one in seen.as_array().unwrap() {
        assert_eq!(one["fault"], Value::Null, "{one}");
        assert_eq!(one["starts"], json!(own), "{one}");
    }

    let removed = home.client(["remove", "--all"]).ok();
    assert_eq!(
        removed.stdout.matches("taken out of").count(),
        4,
        "{removed:#?}"
    );
    for (name, text) in FILES {
        assert_eq!(home.read(name), text, "{name}");
    }
    let nothing = home.client(["remove", "--all"]).ok();
    assert_eq!(
        nothing.stdout.matches("there is no entry").count(),
        4,
        "{nothing:#?}"
    );
}

#[test]
fn clients_that_are_not_here_are_said_and_left() {
    let home = Home::new(&[]);
    let all = home.client(["install", "--all", "--force"]).ok();
    assert_eq!(all.stdout.matches("not here").count(), 4, "{all:#?}");
    assert_eq!(std::fs::read_dir(home.0.path()).unwrap().count(), 0);
    home.client(["verify"]).ok();
    // by name and by force a machine can be prepared; the file goes as it came
    home.client(["install", "codex", "--force"]).ok();
    let mode = home.path(CODEX).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    home.client(["remove", "codex"]).ok();
    assert!(!home.path(CODEX).exists());
}

#[test]
fn a_program_that_will_not_stay_is_refused() {
    let home = Home::new(&[(CLAUDE, "{}")]);
    home.client(["install", "claude-code"])
        .refused(1, "lies among the results of a build");
    let copy = home.path("mcpshim");
    std::fs::copy(program("mcpshim"), &copy).unwrap();
    run(home
        .command(&copy)
        .args(["client", "install", "claude-code"]))
    .refused(1, "lies among temporary files");
    assert_eq!(home.read(CLAUDE), "{}");
    home.client(["install"]).refused(2, "CLIENT");
}

#[test]
fn a_file_that_cannot_be_read_is_left_and_the_others_are_done() {
    let home = Home::new(&[(CLAUDE, "{\n  \"a\": 1,\n}"), (CODEX, "")]);
    let ended = home
        .client(["install", "--all", "--force"])
        .refused(1, ".claude.json cannot be edited and is as it was");
    assert!(
        ended.stderr.contains("cause: line 3, column 1: "),
        "{ended:#?}"
    );
    assert!(
        ended.stdout.contains("Codex: the entry added"),
        "{ended:#?}"
    );
    assert_eq!(home.read(CLAUDE), "{\n  \"a\": 1,\n}");
    let found = std::fs::read_dir(home.0.path()).unwrap();
    assert_eq!(found.count(), 2, "no draft is left");
}

#[test]
fn a_linked_file_stays_a_link_and_keeps_its_mode() {
    let home = Home::new(&[("dotfiles/claude.json", "{\"a\": 1}\n")]);
    let real = home.path("dotfiles/claude.json");
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o644)).unwrap();
    symlink("dotfiles/claude.json", home.path(CLAUDE)).unwrap();
    home.client(["install", "claude-code", "--force"]).ok();
    assert!(home.path(CLAUDE).is_symlink());
    assert!(home.read("dotfiles/claude.json").contains("mcpshim"));
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn verify_names_what_stands_in_the_way() {
    let entry = |command: &str| {
        json!({"mcpServers": {"mcpshim": {"command": command, "args": ["serve"]}}}).to_string()
    };
    let check = |text: &str, fault: &str| {
        let home = Home::new(&[(CLAUDE, text)]);
        let ended = home.client(["verify", "claude-code"]);
        let ended = ended.refused(1, &fault.replace("HOME", home.0.path().to_str().unwrap()));
        assert!(ended.stderr.contains("hint: "), "{ended:#?}");
    };
    check("{}", "HOME/.claude.json has no entry for it");
    check("{", "cannot be read: line 1, column 1:");
    check(
        &entry("/nowhere/mcpshim"),
        "names /nowhere/mcpshim, which does not exist",
    );
    check(
        &entry("/usr/bin/true"),
        "is not as it should be: it starts /usr/bin/true",
    );
    let with_env = r#"{"mcpServers": {"mcpshim": {"command": "/x/mcpshim", "args": ["serve"], "env": {"LD_PRELOAD": "s3cret"}}}}"#;
    check(with_env, "it starts /x/mcpshim with LD_PRELOAD");

    let home = Home::new(&[]);
    let old = home.path("mcpshim");
    let fake = |text: &str, mode| {
        std::fs::write(&old, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::write(home.path(CLAUDE), entry(old.to_str().unwrap())).unwrap();
    fake("echo mcpshim 0.0.9", 0o755);
    home.client(["verify"])
        .refused(1, "starts mcpshim 0.0.9 in");
    fake("echo mcpshim 0.0.9", 0o644);
    home.client(["verify"])
        .refused(1, "which cannot be executed");
    fake("echo hello", 0o755);
    home.client(["verify"])
        .refused(1, "does not answer as mcpshim does");
}

#[test]
fn servers_that_go_around_are_named_without_what_they_hold() {
    let org = Org::new();
    org.server(&Server::counting("mail", []));
    org.agent("ci");
    org.role("tester", &["ci"], &[("mail", Grant::ALL)]);
    org.publish();
    run(org.laptop().args(["registry", "refresh"])).ok();
    let direct = json!({"mcpServers": {
        "mine": {"command": "/elsewhere/counting", "args": ["--token", "s3cret"], "env": {"K": "s3cret"}},
        "other": {"command": "weather", "args": ["counting-sheep"]},
    }});
    std::fs::write(org.path().join(CLAUDE), direct.to_string()).unwrap();
    let ended = run(org.laptop().args(["client", "verify"])).refused(1, "has no entry for it");
    assert!(
        ended
            .stdout
            .contains("its entry `mine` starts a server that the registry governs as mail"),
        "{ended:#?}"
    );
    assert!(!ended.stdout.contains("`other`"), "{ended:#?}");
    assert!(!format!("{ended:?}").contains("s3cret"), "{ended:#?}");
}
