//! Reviewing a registry: `mcpshim-admin diff` and `test` as a pull request uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ended, Grant, Org, Server, program, run};

fn git(dir: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=it", "-c", "user.email=it@it.example"])
        .args([
            "-c",
            "commit.gpgsign=false",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(words)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    run(&mut command).ok().stdout
}

fn diff<const N: usize>(org: &Org, words: [&str; N]) -> Ended {
    let mut command = Command::new(program("mcpshim-admin"));
    command.env("TMPDIR", temporary(org));
    run(command.arg("diff").args(words).current_dir(org.sources()))
}

fn temporary(org: &Org) -> PathBuf {
    let path = org.path().join("temporary");
    fs::create_dir_all(&path).unwrap();
    path
}

/// An organisation whose sources lie below the top of a git repository, committed as `base`.
fn committed() -> Org {
    let org = Org::with(Server::counting("up", []));
    org.role("tester", &["ci"], &[("up", Grant::tools(&["echo"]))]);
    let top = org.path();
    git(top, &["init", "--quiet"]);
    git(top, &["add", "sources"]);
    git(top, &["commit", "--quiet", "-m", "base"]);
    git(top, &["tag", "base"]);
    org
}

#[test]
fn a_pull_request_is_told_who_gains_and_who_loses() {
    let org = committed();
    diff(&org, ["base..HEAD"]).ok();
    let nothing = diff(&org, ["base"]).ok();
    assert_eq!(nothing.stdout, "base → .: no change of access.\n");
    git(org.path(), &["checkout", "--quiet", "-b", "more"]);
    org.role("tester", &["ci"], &[("up", Grant::tools(&["count"]))]);
    // the files as they are, before anything is committed
    let told = diff(&org, ["base", "--json"]).ok();
    let told = told.json();
    assert_eq!(told["counts"]["gained"], 1, "{told}");
    assert_eq!(told["counts"]["lost"], 1, "{told}");
    assert_eq!(told["roles"][0]["gains"][0]["name"], "count", "{told}");
    git(org.path(), &["commit", "--quiet", "-am", "more"]);
    // what the other branch does meanwhile is not ours
    git(org.path(), &["checkout", "--quiet", "main"]);
    org.role("tester", &["ci"], &[("up", Grant::ALL)]);
    git(org.path(), &["commit", "--quiet", "-am", "main goes on"]);
    let ours = diff(&org, ["main...more", "--markdown"]).ok();
    assert!(ours.stdout.starts_with("### Access: 1 gained"), "{ours:?}");
    let between = diff(&org, ["main..more", "--exit-code"]).ok();
    assert!(!between.stdout.contains("gained"), "{between:?}");
    diff(&org, ["base..more", "--exit-code"]).refused(1, "something is wider");
    // nothing of ours stays behind
    assert_eq!(fs::read_dir(temporary(&org)).unwrap().count(), 0);
}

#[test]
fn a_revision_is_never_an_option_and_never_a_link() {
    let org = committed();
    for odd in [
        "--output=x",
        "-h",
        "--help",
        "@{upstream}",
        "HEAD:sources",
        "",
        "no such",
        "a\nb",
    ] {
        let ended = diff(&org, ["--", odd]);
        assert!(
            matches!(ended.status.code(), Some(1 | 2)),
            "{odd:?}: {ended:?}"
        );
        assert!(!org.sources().join("x").exists());
    }
    diff(&org, ["--", "--upload-pack=touch x..HEAD"]).refused(1, "git cannot read");
    fs::remove_file(org.sources().join("roles/tester.yaml")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", org.sources().join("roles/tester.yaml")).unwrap();
    git(org.path(), &["commit", "--quiet", "-am", "link"]);
    diff(&org, ["base..HEAD"]).refused(1, "is a symbolic link");
    // a repository that is none
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("mcpshim-admin"));
    command
        .args(["diff", "main..HEAD"])
        .current_dir(elsewhere.path());
    run(&mut command).refused(1, "git cannot read");
}

#[test]
fn what_is_published_is_compared_with_the_sources() {
    let org = Org::with(Server::counting("up", []));
    let published = org.repository();
    let published = published.to_str().unwrap();
    let same = diff(&org, ["--published", published]).ok();
    assert!(same.stdout.ends_with("no change of access.\n"), "{same:?}");
    org.role("tester", &["ci"], &[("up", Grant::tools(&["echo"]))]);
    let less = diff(&org, ["--published", published, "--exit-code"]).ok();
    assert!(less.stdout.contains(" lost"), "{less:?}");
    let sources = org.sources();
    let other = diff(&org, [sources.to_str().unwrap(), sources.to_str().unwrap()]).ok();
    assert!(
        other.stdout.ends_with("no change of access.\n"),
        "{other:?}"
    );
    // somebody else's repository is not compared with
    let stranger = Org::with(Server::counting("up", []));
    diff(
        &org,
        ["--published", stranger.repository().to_str().unwrap()],
    )
    .refused(1, "does not continue from this root");
    // nor with a place where nothing is published
    let nowhere = org.path().join("nowhere");
    let ended = diff(&org, ["--published", nowhere.to_str().unwrap()]).refused(1, "nowhere");
    assert_eq!(ended.stdout, "");
}

#[test]
fn cases_say_with_file_and_line_what_is_no_longer_true() {
    let org = Org::with(Server::counting("up", []));
    fs::create_dir(org.sources().join("tests")).unwrap();
    org.write(
        "tests/access.yaml",
        "- who: {agent: ci}\n  call: up/echo\n  expect: allow\n\n\
         - why: nobody asked for it\n  who: {role: tester}\n  call: up/count\n  expect: {deny: not-granted}\n",
    );
    let told = org.admin(["check"], [org.sources()]).ok();
    assert!(told.stdout.contains("mcpshim-admin test"), "{told:?}");
    let failed = org
        .admin(["test"], [org.sources()])
        .refused(1, "1 of 2 cases failed");
    let line = "tests/access.yaml:5: failed: role tester, up/count (nobody asked for it)\n";
    assert!(failed.stdout.contains(line), "{failed:?}");
    org.role("tester", &["ci"], &[("up", Grant::tools(&["echo"]))]);
    let passed = org.admin(["test", "--json"], [org.sources()]).ok();
    let passed = passed.json();
    assert_eq!(
        (&passed["passed"], &passed["failed"]),
        (&2.into(), &0.into())
    );
    fs::remove_dir_all(org.sources().join("tests")).unwrap();
    org.admin(["test"], [org.sources()])
        .refused(1, "there are no cases");
}
