//! What other programs of the same user can take from ours: memory and files.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{Grant, Issuer, Org, Running, Server, Shim, files, program, run, wait_for};

/// Somebody who is not root: root may read everything.
const USER: u32 = 4242;

/// An organisation whose provider and collector take connections and never answer.
fn organisation() -> (Org, TcpListener) {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    let org = Org::new();
    let key = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    org.issuers(&[Issuer {
        url: &url,
        client_id: "mcpshim",
        groups_claim: "groups",
        jwks: key,
        more: &[],
    }]);
    org.settings("secret_stores: {key_file: true}");
    org.settings(&format!("collector: {{url: '{url}/'}}"));
    org.server(&Server::counting("up", []));
    org.agent("ci");
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    org.publish();
    run(org.laptop().args(["registry", "refresh"])).ok();
    (org, nobody)
}

fn owner_of_memory(pid: u32) -> Option<u32> {
    let meta = std::fs::metadata(format!("/proc/{pid}/mem")).ok()?;
    Some(meta.uid())
}

fn core_limit(pid: u32) -> Option<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))?;
    line.split_whitespace().nth(4).map(str::to_owned)
}

/// Gives everything below a directory to the user.
fn give_away(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

#[test]
fn no_program_of_the_same_user_reads_the_memory_of_any_command() {
    let (org, _nobody) = organisation();
    let root = rustix::process::geteuid().is_root();
    let ours = org.path().join("mcpshim");
    std::fs::copy(program("mcpshim"), &ours).unwrap();
    if root {
        give_away(org.path());
    }
    let start = |program: &Path, words: &[&str]| {
        let mut command = Command::new(program);
        org.environment_as(&mut command, "ci");
        if words.first() == Some(&"login") {
            command.env_remove("MCPSHIM_AGENT");
            command.env_remove("MCPSHIM_AGENT_KEY");
        }
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        if root {
            command.uid(USER).gid(USER);
        }
        Running::start(&mut command)
    };
    // the look can tell: what does not harden itself belongs to its user
    let plain = start(Path::new("/bin/sleep"), &["60"]);
    let user = rustix::process::geteuid().as_raw();
    let user = if root { USER } else { user };
    wait_for("another program", || {
        (owner_of_memory(plain.pid())? == user).then_some(())
    });
    for words in [
        &["serve"][..],
        &["login", "--no-browser"],
        &["doctor"],
        &["__ship"],
        &["audit", "flush"],
    ] {
        let running = start(&ours, words);
        wait_for(&format!("{words:?} to harden itself"), || {
            let hidden = owner_of_memory(running.pid())? == 0;
            (hidden && core_limit(running.pid())? == "1").then_some(())
        });
    }
}

#[test]
fn every_program_hardens_itself_in_the_first_line_of_main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    for program in ["mcpshim", "mcpshim_admin", "mcpshim_collector"] {
        let text = std::fs::read_to_string(root.join(program).join("main.rs")).unwrap();
        let (_, main) = text.split_once("fn main() -> ExitCode {\n").unwrap();
        let first = main.lines().next().unwrap().trim();
        assert_eq!(first, "mcpshim::harden::harden();", "{program}");
    }
}

#[test]
fn no_file_of_ours_is_open_to_others_whatever_the_umask() {
    let (org, _nobody) = organisation();
    std::fs::remove_dir_all(org.state()).unwrap();
    let open = |words: &[&str]| {
        let mut command = Command::new("sh");
        org.environment_as(&mut command, "ci");
        command.args(["-c", "umask 000; exec \"$0\" \"$@\""]);
        command.arg(program("mcpshim")).args(words);
        command
    };
    let mut shim = Shim::start(&mut open(&["serve"]));
    shim.initialize();
    shim.call("up_count", json!({"id": "1"})).result();
    shim.call("up_echo", json!({"text": "x"})).result();
    let flush = Running::start(open(&["audit", "flush"]).stdout(Stdio::null()));
    let there = |name: &str| org.state().join(name).exists();
    wait_for("the delivery", || {
        (there("ship/status.json") && there("ship/hurry")).then_some(())
    });
    shim.close();
    drop(flush);
    let mut all: Vec<PathBuf> = files(&org.state());
    assert!(
        all.iter()
            .any(|path| path.to_string_lossy().contains("log/mcpshim.")),
        "{all:?}"
    );
    for file in all.clone() {
        all.extend(
            file.ancestors()
                .take_while(|dir| *dir != org.path())
                .map(Path::to_owned),
        );
    }
    all.push(org.state().join("ship/hurry"));
    let open: Vec<String> = all
        .iter()
        .filter_map(|path| {
            let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
            (mode & 0o077 != 0).then(|| format!("{mode:o} {}", path.display()))
        })
        .collect();
    assert_eq!(open, [""; 0]);
}
