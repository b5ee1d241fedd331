//! Bad input gets a clear error and loses nothing: from the client, from an upstream, from the
//! registry, from the disk and from the clock. After each, the same session still works.
//!
//! Every line of standard output is parsed as protocol by the client in `support`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Grant, Org, Server, Shim, run, shifted, skipped, wait_for};

/// The session still lists and calls.
#[track_caller]
fn still_works(shim: &mut Shim) {
    let answer = shim.call("up_echo", json!({"text": "still here"}));
    assert_eq!(answer.text(), "still here");
}

fn organisation<'a>(flags: impl IntoIterator<Item = &'a str>) -> Org {
    Org::with(Server::counting("up", flags).with("limits:\n  call_seconds: 2"))
}

/// The next answer, which must be to nobody; notifications may come meanwhile.
#[track_caller]
fn complaint(shim: &mut Shim) -> (i64, String) {
    let message = loop {
        let message = shim.next(Duration::from_secs(30)).expect("an answer");
        if message.get("method").is_none() {
            break message;
        }
    };
    Answer(message).error_owned()
}

// ---- from the client -------------------------------------------------------------------------

#[test]
fn lines_that_are_no_message_are_answered_and_cost_nothing() {
    let org = organisation([]);
    let mut shim = org.serve("ci");
    shim.initialize();
    let deep = "[".repeat(10_000);
    let deep = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{deep}"#);
    let deep_closed = format!("{deep}{}}}}}", "]".repeat(10_000));
    let lines: &[(&[u8], i64, &str)] = &[
        (b"{", -32700, "not"),
        (b"nonsense", -32700, "not"),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\"}",
            -32700,
            "not valid UTF-8 at byte 23",
        ),
        (b"[]", -32600, "batches are not part"),
        (
            br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
            -32600,
            "batches are not part",
        ),
        (b"7", -32600, "a message is a JSON object"),
        (b"{}", -32600, "`jsonrpc` must be \"2.0\""),
        (br#"{"jsonrpc":"1.0","method":"x","id":null}"#, -32600, ""),
        (
            br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            -32600,
            "`id` must not be null",
        ),
        (
            br#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
            -32600,
            "`id` must be a string or an integer",
        ),
        (
            br#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
            -32600,
            "`id` must be a string or an integer",
        ),
        (deep.as_bytes(), -32600, "deep"),
        (deep_closed.as_bytes(), -32600, "deep"),
    ];
    for (line, code, text) in lines {
        let shown = String::from_utf8_lossy(&line[..line.len().min(80)]);
        shim.send_bytes([line, &b"\n"[..]].concat());
        let (found, message) = complaint(&mut shim);
        assert_eq!(found, *code, "{shown}: {message}");
        assert!(message.contains(text), "{shown}: {message}");
    }
    still_works(&mut shim);
    let (status, left, _) = shim.close();
    assert!(status.success());
    // the first registry of this machine may arrive meanwhile, and is announced
    let answers: Vec<_> = left.iter().filter(|m| m.get("method").is_none()).collect();
    assert!(answers.is_empty(), "{answers:?}");
}

#[test]
fn a_request_that_can_be_named_is_answered_by_its_name() {
    let org = organisation([]);
    let mut shim = org.serve("ci");
    shim.initialize();
    let requests = [
        // the second value of a key is what another reader would act on
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"ping","method":"tools/call"}"#,
            -32600,
            "duplicate key",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"up_echo","name":"x"}}"#,
            -32600,
            "duplicate key \"name\"",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"up_echo","\u006eame":"x"}}"#,
            -32600,
            "duplicate key \"name\"",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"up_echo","_meta":{"k":1,"k":2}}}"#,
            -32600,
            "duplicate key \"k\"",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":[]}"#,
            -32602,
            "`params` must be an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"no/such"}"#,
            -32601,
            "Method not found: no/such",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":7}"#,
            -32600,
            "`method` must be a string",
        ),
    ];
    for (line, code, text) in requests {
        shim.send_bytes(format!("{line}\n"));
        let answer = shim.answer(&json!("a"));
        let (found, message) = answer.error();
        assert_eq!(found, code, "{line}: {message}");
        assert!(message.contains(text), "{line}: {message}");
    }
    still_works(&mut shim);
}

#[test]
fn a_line_of_a_hundred_megabytes_is_dropped_in_bounded_memory() {
    let org = organisation([]);
    let mut shim = org.serve("ci");
    shim.initialize();
    let mut line = vec![b'x'; 100 << 20];
    line.push(b'\n');
    shim.send_bytes(line);
    let (code, text) = complaint(&mut shim);
    assert_eq!(code, -32600);
    assert!(text.contains("104857600 bytes"), "{text}");
    still_works(&mut shim);
    let peak = peak_memory_kib(shim.process.pid());
    assert!(peak < 80 << 10, "the shim held {peak} KiB");
}

fn peak_memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|l| l.starts_with("VmHWM:"))
        .unwrap_or_else(|| panic!("{status}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn half_a_line_at_the_end_is_told_and_the_exit_is_clean() {
    let org = organisation([]);
    let mut shim = org.serve("ci");
    shim.initialize();
    shim.send_bytes(&br#"{"jsonrpc":"2.0","id":9,"method":"tools/ca"#[..]);
    let (status, left, _) = shim.close();
    assert!(status.success(), "{status}");
    let [message] = &left[..] else {
        panic!("{left:?}")
    };
    assert!(
        message["error"]["message"]
            .as_str()
            .unwrap()
            .contains("ended inside a line"),
        "{message}"
    );
}

#[test]
fn an_id_that_is_still_in_flight_is_not_taken_twice() {
    let org = organisation(["--slow", "500"]);
    let mut shim = org.serve("ci");
    shim.initialize();
    let call = json!({"jsonrpc": "2.0", "id": "twin", "method": "tools/call",
        "params": {"name": "up_echo", "arguments": {"text": "first"}}});
    shim.send(&call);
    shim.send(&call);
    let (_, text) = shim.answer(&json!("twin")).error_owned();
    assert!(text.contains("still in flight"), "{text}");
    assert_eq!(shim.answer(&json!("twin")).text(), "first");
}

// ---- from an upstream ------------------------------------------------------------------------

/// A call to an upstream that misbehaves ends, says which server, and the session goes on.
#[track_caller]
fn ends_badly(flag: &str, patience: Duration) -> String {
    let org = organisation([flag]);
    let mut shim = org.serve("ci");
    shim.initialize();
    let start = std::time::Instant::now();
    let answer = shim.call("up_count", json!({"id": "1"}));
    assert!(start.elapsed() < patience, "took {:?}", start.elapsed());
    let text = if answer.is_tool_error() {
        answer.text().to_owned()
    } else {
        answer.error().1.to_owned()
    };
    assert!(text.contains("up"), "does not say which server: {text}");
    // nothing but this server is concerned
    assert!(!shim.names("tools").is_empty());
    let status = shim.call("mcpshim_status", json!({}));
    assert!(!status.is_tool_error(), "{status:?}");
    drop(shim);
    org.mcpshim("ci", ["audit", "check"]).ok();
    text
}

#[test]
fn an_upstream_that_crashes_is_told_and_started_again() {
    let org = organisation(["--crash"]);
    let mut shim = org.serve("ci");
    shim.initialize();
    for _ in 0..2 {
        // in the pause after a crash calls are refused, not held
        let answer = wait_for("the pause to end", || {
            let answer = shim.call("up_count", json!({"id": "1"}));
            let paused = answer.0.to_string().contains("call again in");
            (!paused).then_some(answer)
        });
        let told = format!("{:?}", answer.0);
        assert!(
            answer.is_tool_error() || answer.0.get("error").is_some(),
            "{told}"
        );
        assert!(told.contains("up"), "{told}");
    }
}

#[test]
fn an_upstream_that_hangs_is_given_up_in_its_time() {
    let text = ends_badly("--hang", Duration::from_secs(20));
    assert!(text.contains('2'), "does not say the time: {text}");
}

#[test]
fn an_upstream_that_answers_another_id_is_given_up_in_its_time() {
    ends_badly("--other-id", Duration::from_secs(20));
}

#[test]
fn floods_garbage_and_second_answers_do_not_reach_the_client() {
    for flag in ["--flood", "--garbage", "--double"] {
        let org = organisation([flag]);
        let mut shim = org.serve("ci");
        shim.initialize();
        for text in ["one", "two", "three"] {
            assert_eq!(
                shim.call("up_echo", json!({"text": text})).text(),
                text,
                "{flag}"
            );
        }
        let peak = peak_memory_kib(shim.process.pid());
        assert!(peak < 80 << 10, "{flag}: the shim held {peak} KiB");
        let (status, left, _) = shim.close();
        assert!(status.success());
        let responses: Vec<_> = left.iter().filter(|m| m.get("method").is_none()).collect();
        assert!(responses.is_empty(), "{flag}: {responses:?}");
        org.mcpshim("ci", ["audit", "check"]).ok();
    }
}

#[test]
fn an_upstream_of_either_era_that_takes_discovery_badly_still_serves() {
    for flag in ["--silent-on-discover", "--exit-on-discover"] {
        let org = organisation([flag]);
        let mut shim = org.serve("ci");
        shim.discover();
        assert_eq!(shim.call("up_echo", json!({"text": flag})).text(), flag);
    }
}

// ---- from the registry -----------------------------------------------------------------------

fn refresh(org: &Org) -> crate::support::Ended {
    run(org.laptop_as("ci").args(["registry", "refresh"]))
}

fn metadata(org: &Org, name: &str) -> PathBuf {
    org.repository().join("metadata").join(name)
}

/// The newest file of one role, e.g. `3.targets.json`.
fn newest(org: &Org, role: &str) -> PathBuf {
    let version = |path: &Path| -> Option<u64> {
        path.file_name()?
            .to_str()?
            .strip_suffix(&format!(".{role}.json"))?
            .parse()
            .ok()
    };
    std::fs::read_dir(org.repository().join("metadata"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| version(p).is_some())
        .max_by_key(|p| version(p))
        .unwrap()
}

/// What was verified before still serves, whatever the repository has become.
#[track_caller]
fn serves_what_it_had(org: &Org) {
    let mut shim = org.serve("ci");
    shim.initialize();
    still_works(&mut shim);
}

/// Without any verified registry there is one tool, and it says what is wrong.
#[track_caller]
fn serves_nothing(org: &Org, reason: &str) {
    let mut shim = org.serve("ci");
    let about = shim.initialize();
    assert_eq!(shim.names("tools"), ["mcpshim_status"]);
    let text = shim.call("mcpshim_status", json!({})).text().to_owned();
    assert!(
        text.contains(reason),
        "no {reason:?} in: {text}\ninstructions: {}",
        about["instructions"]
    );
    let answer = shim.call("up_echo", json!({"text": "x"}));
    assert!(
        answer.0.get("error").is_some() || answer.is_tool_error(),
        "{answer:?}"
    );
}

#[test]
fn a_truncated_registry_is_refused_and_the_old_one_serves() {
    let org = organisation([]);
    refresh(&org).ok();
    let path = metadata(&org, "timestamp.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let ended = refresh(&org);
    assert_eq!(ended.status.code(), Some(5), "{ended:#?}");
    assert!(ended.stderr.contains("timestamp"), "{ended:#?}");
    serves_what_it_had(&org);
}

#[test]
fn a_machine_that_only_ever_saw_a_truncated_registry_serves_nothing() {
    let org = organisation([]);
    let path = metadata(&org, "timestamp.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    serves_nothing(&org, "registry");
}

#[test]
fn a_registry_older_than_the_one_seen_is_refused() {
    let org = organisation([]);
    let old = std::fs::read(metadata(&org, "timestamp.json")).unwrap();
    org.role("other", &["ci"], &[("up", Grant::tools(&["echo"]))]);
    org.republish();
    refresh(&org).ok();
    std::fs::write(metadata(&org, "timestamp.json"), old).unwrap();
    let ended = refresh(&org);
    assert_eq!(ended.status.code(), Some(5), "{ended:#?}");
    serves_what_it_had(&org);
}

#[test]
fn a_registry_signed_by_too_few_keys_is_refused() {
    let org = organisation([]);
    refresh(&org).ok();
    org.role("other", &["ci"], &[("up", Grant::tools(&["echo"]))]);
    org.republish();
    // the snapshot names targets by digest, so the signature alone is cut out of the timestamp
    let path = metadata(&org, "timestamp.json");
    let mut envelope: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    envelope["signatures"] = json!([]);
    std::fs::write(&path, envelope.to_string()).unwrap();
    let ended = refresh(&org);
    assert_eq!(ended.status.code(), Some(5), "{ended:#?}");
    assert!(ended.stderr.contains("sign"), "{ended:#?}");
    serves_what_it_had(&org);
}

#[test]
fn a_registry_of_another_organisation_is_refused() {
    let org = organisation([]);
    let other = organisation([]);
    refresh(&org).ok();
    std::fs::rename(org.repository(), org.path().join("own")).unwrap();
    let copied = run(Command::new("cp")
        .arg("-r")
        .arg(other.repository())
        .arg(org.repository()));
    copied.ok();
    let ended = refresh(&org);
    assert_eq!(ended.status.code(), Some(5), "{ended:#?}");
    serves_what_it_had(&org);
    // with the other's root pinned, the name it gives itself is still the other's
    std::fs::remove_dir_all(org.state()).unwrap();
    let config = std::fs::read_to_string(org.config()).unwrap();
    let swapped = config.replace("it.example", "elsewhere.example").replace(
        org.sources().to_str().unwrap(),
        other.sources().to_str().unwrap(),
    );
    std::fs::write(org.config(), swapped).unwrap();
    let ended = refresh(&org);
    assert_eq!(ended.status.code(), Some(5), "{ended:#?}");
    assert!(ended.stderr.contains("elsewhere.example"), "{ended:#?}");
    serves_nothing(&org, "registry");
}

#[test]
fn files_that_do_not_match_their_digest_are_refused() {
    let org = organisation([]);
    let mut targets = std::fs::read(newest(&org, "targets")).unwrap();
    let at = targets.len() / 2;
    targets[at] ^= 1;
    std::fs::write(newest(&org, "targets"), targets).unwrap();
    let ended = refresh(&org);
    assert_eq!(ended.status.code(), Some(5), "{ended:#?}");
    serves_nothing(&org, "registry");
}

// ---- from the clock --------------------------------------------------------------------------

#[test]
fn a_clock_that_is_off_by_a_day_changes_nothing() {
    let org = organisation([]);
    refresh(&org).ok();
    for by in ["-1d", "+1d"] {
        let mut command = org.laptop_as("ci");
        if !shifted(&mut command, by) {
            return;
        }
        let mut shim = Shim::start(command.arg("serve"));
        shim.initialize();
        still_works(&mut shim);
        drop(shim);
        org.mcpshim("ci", ["audit", "check"]).ok();
    }
}

#[test]
fn an_expired_registry_narrows_and_then_refuses() {
    let org = organisation([]);
    refresh(&org).ok();
    // the timestamp lives seven days, the grace of this organisation is 24 hours; the tool does
    // not say that it only reads
    let cases = [
        ("+6d", None),
        ("+180h", Some("only reading is allowed")),
        ("+9d", Some("expired")),
    ];
    for (by, refusal) in cases {
        let mut command = org.laptop_as("ci");
        if !shifted(&mut command, by) {
            return;
        }
        let mut shim = Shim::start(command.arg("serve"));
        shim.initialize();
        let answer = shim.call("up_echo", json!({"text": "hello"}));
        match refusal {
            None => assert_eq!(answer.text(), "hello", "{by}"),
            Some(text) => assert!(answer.denied().contains(text), "{by}: {answer:?}"),
        }
    }
}

// ---- from the disk ---------------------------------------------------------------------------

/// A small file system on the laptop's state, unmounted when dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(path: &'a Path, size: &str) -> Option<Self> {
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path);
        if !run(&mut command).status.success() {
            skipped("mounting a small file system needs root");
            return None;
        }
        Some(Self(path))
    }

    fn read_only(&self) {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(self.0)).ok();
    }

    fn read_write(&self) {
        run(Command::new("mount").args(["-o", "remount,rw"]).arg(self.0)).ok();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // lazily, for a shipper may still hold it
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}

#[test]
fn a_full_disk_refuses_calls_and_declares_what_was_lost() {
    let org = organisation([]);
    let state = org.state();
    let Some(_small) = Small::mount(&state, "2m") else {
        return;
    };
    refresh(&org).ok();
    let mut shim = org.serve("ci");
    shim.initialize();
    still_works(&mut shim);
    let ballast = state.join("ballast");
    fill(&ballast);
    let refused = shim.call("up_echo", json!({"text": "x".repeat(100_000)}));
    unrecorded(&refused);
    // listing needs no disk
    assert!(!shim.names("tools").is_empty());
    std::fs::remove_file(&ballast).unwrap();
    wait_for("calls to go again", || {
        let answer = shim.call("up_echo", json!({"text": "again"}));
        (!answer.is_tool_error()).then_some(())
    });
    let (status, _, _) = shim.close();
    assert!(status.success());
    org.mcpshim("ci", ["audit", "check"]).ok();
}

/// The call was refused because it could not be written down; another time it may go.
#[track_caller]
fn unrecorded(answer: &Answer) {
    assert!(answer.is_tool_error(), "{answer:?}");
    assert!(
        answer.text().contains("could not be recorded"),
        "{answer:?}"
    );
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [64 << 10, 4 << 10, 512, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[test]
fn a_home_that_cannot_be_written_lists_and_refuses() {
    let org = organisation([]);
    let state = org.state();
    let Some(small) = Small::mount(&state, "8m") else {
        return;
    };
    refresh(&org).ok();
    small.read_only();
    let mut shim = org.serve("ci");
    shim.initialize();
    assert!(shim.names("tools").contains(&"up_echo".to_owned()));
    let refused = shim.call("up_echo", json!({"text": "x"}));
    unrecorded(&refused);
    small.read_write();
    wait_for("calls to go again", || {
        let answer = shim.call("up_echo", json!({"text": "again"}));
        (!answer.is_tool_error()).then_some(())
    });
}

#[test]
fn a_state_directory_that_is_a_file_is_said_to_be_one() {
    let org = organisation([]);
    std::fs::remove_dir_all(org.state()).unwrap();
    std::fs::write(org.state(), "not a directory").unwrap();
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(shim.names("tools"), ["mcpshim_status"]);
}

// ---- from the state directory ----------------------------------------------------------------

/// Files of a directory and below, by the end of their name.
fn below(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.to_string_lossy().ends_with(end) => found.push(path),
                false => {}
            }
        }
    }
    found
}

#[test]
fn a_pipe_in_the_place_of_a_lock_holds_up_nobody() {
    let org = organisation([]);
    refresh(&org).ok();
    let mut shim = org.serve("ci");
    shim.initialize();
    still_works(&mut shim);
    drop(shim.close());
    // every lock that was left, and those that only some commands make
    let mut locks = below(&org.state(), ".lock");
    for name in [
        "login/claims.lock",
        "ship/ship.lock",
        "spool/ship.lock",
        "trust/poll.lock",
        "trust/registry.state.lock",
        "vault/vault.lock",
    ] {
        locks.push(org.state().join(name));
    }
    locks.sort();
    locks.dedup();
    for lock in &locks {
        std::fs::create_dir_all(lock.parent().unwrap()).unwrap();
        if lock.exists() {
            std::fs::remove_file(lock).unwrap();
        }
        run(Command::new("mkfifo").arg(lock)).ok();
    }
    assert!(locks.len() >= 6, "{locks:?}");
    let start = std::time::Instant::now();
    let mut shim = org.serve("ci");
    shim.initialize();
    still_works(&mut shim);
    let (status, _, _) = shim.close();
    assert!(status.success(), "{status}");
    // each ends by itself, whatever it then says
    for words in [
        &["status"][..],
        &["registry", "refresh"],
        &["audit", "status"],
        &["audit", "check"],
        &["audit", "flush", "--wait", "1"],
        &["credential", "list"],
        &["doctor"],
        &["logout"],
    ] {
        let ended = run(org.laptop_as("ci").args(words));
        assert!(ended.status.code().is_some(), "{words:?}: {ended:?}");
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(60), "held up: {took:?}");
}
