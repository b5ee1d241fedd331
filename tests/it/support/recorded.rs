//! What mcpshim says, recorded on its way and held to the schemas of the protocol.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::org::Org;
use super::process::{Ended, run, wait_for};
use super::tap::{self, Tap};
use super::web::Web;

/// Stands between two programs and keeps what they say to each other.
const BETWEEN: &str = r#"tee -a "$0.$$.in" | "$@" | tee -a "$0.$$.out""#;

/// The wires of one session.
#[derive(Debug)]
pub(crate) struct Recording {
    dir: PathBuf,
}

impl Recording {
    /// One that keeps its files with the organisation's.
    pub(crate) fn new(org: &Org) -> Self {
        Self::named(org, "recorded")
    }

    /// One of several.
    pub(crate) fn named(org: &Org, name: &str) -> Self {
        let dir = org.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    /// The command that runs a server of mcpshim's and keeps what both say.
    pub(crate) fn upstream(
        &self,
        name: &str,
        command: &Path,
        args: &[String],
    ) -> (PathBuf, Vec<String>) {
        self.between(&format!("upstream-{name}"), command, args)
    }

    /// A port of this machine that leads to another one, where a server listens, and keeps what
    /// both say.
    pub(crate) fn remote(&self, name: &str, port: u16) -> Tap {
        let files = self.dir.join(format!("upstream-{name}-"));
        Tap::start(files, ([127, 0, 0, 1], port).into())
    }

    /// Keeps what a server of a test's own was asked so far.
    pub(crate) fn asked(&self, name: &str, web: &Web) {
        tap::keep(&self.dir.join(format!("upstream-{name}-")), &web.seen());
    }

    /// The command that runs mcpshim for a client and keeps what both say.
    pub(crate) fn client(&self, command: &Path, args: &[String]) -> (PathBuf, Vec<String>) {
        self.between("client", command, args)
    }

    fn between(&self, name: &str, command: &Path, args: &[String]) -> (PathBuf, Vec<String>) {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let file = self.dir.join(format!("{name}-"));
        let mut all = vec![
            "-c".to_owned(),
            BETWEEN.to_owned(),
            text(&file),
            text(command),
        ];
        all.extend_from_slice(args);
        (PathBuf::from("/bin/sh"), all)
    }

    /// What clients heard so far, in order for each of their processes.
    pub(crate) fn heard(&self) -> Vec<Value> {
        self.lines("out")
    }

    /// What clients said so far.
    pub(crate) fn said(&self) -> Vec<Value> {
        self.lines("in")
    }

    fn lines(&self, side: &str) -> Vec<Value> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("client-") && name.ends_with(side) {
                let text = std::fs::read_to_string(&path).unwrap();
                all.extend(
                    text.split('\n')
                        .filter_map(|line| serde_json::from_str(line).ok()),
                );
            }
        }
        all
    }

    /// Puts a recording there as if it had been made: what was said on each side.
    pub(crate) fn forge(&self, name: &str, said: &str, heard: &str) {
        std::fs::write(self.dir.join(format!("{name}-forged.in")), said).unwrap();
        std::fs::write(self.dir.join(format!("{name}-forged.out")), heard).unwrap();
    }

    /// The same of a server at an address: the headers and the bodies that it was sent.
    pub(crate) fn forge_remote(&self, name: &str, heads: &str, said: &str) {
        let path = |side: &str| self.dir.join(format!("upstream-{name}-forged.{side}"));
        std::fs::write(path("heads"), heads).unwrap();
        std::fs::write(path("in"), said).unwrap();
    }

    /// Holds every message of mcpshim's to its revision.
    #[track_caller]
    pub(crate) fn checked(&self, but: &[&str]) -> Ended {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let python = target.join("peers/python/bin/python");
        assert!(
            python.exists(),
            "run scripts/peers: {} is missing",
            python.display()
        );
        let mut command = Command::new(python);
        command
            .arg(root.join("tests/peers/schema/validate.py"))
            .arg(root.join("tests/data/mcp-schema"))
            .arg(&self.dir);
        for name in but {
            command.args(["--but", name]);
        }
        run(&mut command)
    }

    /// Waits for the end of every program that was recorded: what it says last is said then.
    fn ended(&self) {
        let needle = self.dir.to_str().unwrap().as_bytes();
        wait_for("the recorded programs to end", || {
            let mut processes = std::fs::read_dir("/proc").unwrap();
            let runs = processes.any(|entry| {
                let line = std::fs::read(entry.unwrap().path().join("cmdline"));
                line.is_ok_and(|line| line.windows(needle.len()).any(|some| some == needle))
            });
            (!runs).then_some(())
        });
    }

    /// As [`Self::validate`], where calls were made and what both sides were told was recorded.
    #[track_caller]
    pub(crate) fn validate_calls(&self, but: &[&str]) {
        let seen = self.validate(but);
        for side in ["to the client result", "to the server request"] {
            let called = |kind: &String| kind.ends_with(&format!("{side} tools/call"));
            assert!(seen.keys().any(called), "no call {side} in {seen:#?}");
        }
    }

    /// Fails the test unless every message of mcpshim's is one of its revision; gives how many of
    /// which kind there were. `but` are names of what a server's own definitions have wrong.
    #[track_caller]
    pub(crate) fn validate(&self, but: &[&str]) -> BTreeMap<String, u64> {
        self.ended();
        let ended = self.checked(but);
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        let seen: BTreeMap<String, u64> = serde_json::from_str(ended.stdout.trim()).unwrap();
        assert!(
            !seen.is_empty(),
            "nothing was recorded in {}",
            self.dir.display()
        );
        seen
    }
}
