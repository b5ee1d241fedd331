//! What changes while a session runs: servers started anew, sign-ins that end and come back.

use super::*;

const CALL: &str =
    r#"> {"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"alpha_echo"}}"#;

fn call(id: u32) -> String {
    CALL.replace("ID", &id.to_string())
}

impl Rig {
    fn renew(&mut self, key: &str, at_once: bool) -> String {
        self.handle(Input::Renew {
            server: fixture::key(key),
            at_once,
        });
        self.play("")
    }

    /// How the report names alpha's state, and how often it was started anew.
    fn alpha(&self) -> Option<(&'static str, u64)> {
        let report = self.machine.report();
        let alpha = report.servers.iter().find(|server| server.key == "alpha")?;
        Some((alpha.state.as_str(), alpha.renewals))
    }
}

#[test]
fn a_restart_at_once_ends_what_is_in_flight_and_keeps_what_waits() {
    let mut rig = Rig::handshake();
    assert_eq!(rig.alpha(), None);
    rig.play(&call(1));
    assert_eq!(rig.alpha(), Some(("up", 0)));
    let transcript = rig.renew("alpha", true);
    assert!(transcript.contains("! close alpha"), "{transcript}");
    assert!(transcript.contains("! outcome 1 Unknown"), "{transcript}");
    assert!(
        transcript.contains(
            "server alpha was restarted by `mcpshim restart` before it answered; whether the call \
             took effect is not known"
        ),
        "{transcript}"
    );
    assert_eq!(rig.alpha(), Some(("idle", 1)));
    let transcript = rig.play(&call(2));
    assert!(transcript.contains("! open alpha"), "{transcript}");
    assert!(transcript.contains("»alpha"), "{transcript}");

    // one that waits for a start that hangs waits for the next start
    let mut rig = Rig::handshake();
    rig.opens = false;
    rig.play(&call(1));
    assert_eq!(rig.alpha(), Some(("opening", 0)));
    let transcript = rig.renew("alpha", true);
    assert_eq!(transcript.trim(), "! close alpha\n! open alpha");
    let transcript = rig.play("opened alpha");
    assert!(transcript.contains("! intent 1 alpha"), "{transcript}");
}

#[test]
fn a_gentle_restart_lets_calls_in_flight_end_and_gives_new_ones_another() {
    let mut rig = Rig::handshake();
    rig.play(&call(1));
    let old = rig.link("alpha");
    assert_eq!(rig.renew("alpha", false), "");
    let transcript = rig.play(&call(2));
    assert!(transcript.contains("! open alpha"), "{transcript}");
    let new = rig.link("alpha");
    assert_ne!(old, new);
    let id = |rig: &Rig| {
        let mut sent = rig.seen.iter().rev();
        sent.find_map(|seen| match seen {
            Seen::Link(line) => Message::parse(line.as_bytes())
                .ok()
                .map(|message| match message {
                    Message::Request(request) => request.id.raw().to_owned(),
                    other => panic!("{other:?}"),
                }),
            _ => None,
        })
    };
    let second = id(&rig).unwrap();
    // the old one answers the old call, and ends
    let line = r#"{"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#.as_bytes();
    rig.handle(Input::LinkLine {
        link: old,
        place: Place::Only,
        line,
    });
    let transcript = rig.play("");
    assert!(transcript.contains("! outcome 1 Ok"), "{transcript}");
    assert!(transcript.contains("! close alpha"), "{transcript}");
    let line = format!(r#"{{"jsonrpc":"2.0","id":{second},"result":{{"content":[]}}}}"#);
    let line = line.as_bytes();
    rig.handle(Input::LinkLine {
        link: new,
        place: Place::Only,
        line,
    });
    assert!(rig.play("").contains("! outcome 2 Ok"));
    assert_eq!(rig.alpha(), Some(("up", 1)));
    // with nothing in flight it is simply ended, and started by the next call
    let transcript = rig.renew("alpha", false);
    assert_eq!(transcript.trim(), "! close alpha");
}

#[test]
fn a_restart_ends_the_back_off() {
    let mut rig = Rig::handshake();
    rig.play(&call(1));
    rig.play("closed alpha ended: exit status 1");
    rig.play(&call(2));
    rig.play("closed alpha ended: exit status 1");
    let refused = rig.play(&call(3));
    assert!(refused.contains("is tried again in 1 s"), "{refused}");
    assert_eq!(rig.alpha(), Some(("down", 0)));
    rig.renew("alpha", false);
    assert_eq!(rig.alpha(), Some(("idle", 1)));
    let transcript = rig.play(&call(4));
    assert!(transcript.contains("! open alpha"), "{transcript}");
    assert!(transcript.contains("»alpha"), "{transcript}");
}

#[test]
fn a_restart_of_what_never_ran_does_nothing() {
    let mut rig = Rig::handshake();
    assert_eq!(rig.renew("alpha", true), "");
    assert_eq!(rig.machine.servers_in_use(), []);
    rig.handle(Input::Renew {
        server: ServerKey::parse("nobody").unwrap(),
        at_once: true,
    });
    assert_eq!(rig.play(""), "");
}

#[test]
fn subscriptions_come_back_with_their_server() {
    let subscribe = r#"> {"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"alpha://readme"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{}}"#;
    let updated = r#"«alpha {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"alpha://readme"}}"#;
    // it ends by itself; it is restarted; it is restarted while a call is in flight
    for way in ["closed alpha ended: exit status 1", "at once", "gently"] {
        let mut rig = Rig::handshake();
        rig.play(subscribe);
        assert!(rig.play(updated).contains("\n< "));
        let transcript = match way {
            "at once" => rig.renew("alpha", true),
            "gently" => {
                rig.play(&call(2));
                rig.renew("alpha", false)
            }
            closed => rig.play(closed),
        };
        assert!(transcript.contains("! open alpha"), "{way}: {transcript}");
        let again = r#""method":"resources/subscribe","params":{"uri":"alpha://readme"}}"#;
        assert!(transcript.contains(again), "{way}: {transcript}");
        assert!(
            transcript.contains(r#" by rule#1 eng "alpha://readme""#),
            "{way}: recorded: {transcript}"
        );
        let id = transcript.rsplit("\"id\":").next().unwrap();
        let id: String = id.chars().take_while(char::is_ascii_digit).collect();
        rig.play(&format!(
            r#"«alpha {{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#
        ));
        assert!(rig.play(updated).contains("\n< "), "{way}");
        // and it can be taken back
        rig.play(r#"> {"jsonrpc":"2.0","id":9,"method":"resources/unsubscribe","params":{"uri":"alpha://readme"}}"#);
    }
}

#[test]
fn a_server_that_always_ends_is_not_started_for_ever() {
    let mut rig = Rig::handshake();
    rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"alpha://readme"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{}}"#,
    );
    let mut starts = 0;
    for _ in 0..20 {
        starts += rig
            .play("closed alpha ended")
            .matches("! open alpha")
            .count();
    }
    assert!(starts <= 2, "{starts}");
}

/// Ann, whose sign-in ends in this many seconds.
fn until(seconds: u64) -> Caller {
    match ann(&["eng"]) {
        Caller::Person {
            issuer,
            subject,
            display,
            roles,
            ..
        } => Caller::Person {
            issuer,
            subject,
            display,
            roles,
            expires: fixture::NOW + seconds,
        },
        other @ Caller::Agent { .. } => other,
    }
}

fn snapshot_at(number: u64, caller: Caller, warns_in: Option<u64>, now: &Now) -> Arc<Snapshot> {
    let registry = Arc::new(Verified::assume_for_tests(registry()));
    let id = SnapshotId(number);
    let snapshot = Snapshot::new(
        id,
        Some(registry),
        Freshness::Fresh,
        Some(caller),
        None,
        now,
    );
    Arc::new(snapshot.warning_at(warns_in.map(|seconds| fixture::NOW + seconds)))
}

#[test]
fn a_sign_in_that_ends_is_told_once_in_full_and_a_new_one_goes_on() {
    let mut rig = Rig::handshake();
    let now = rig.now;
    rig.handle(Input::Snapshot(snapshot_at(2, until(60), None, &now)));
    let first = rig.play(&format!("{}\n+121000\n{}", call(1), call(2)));
    let told = "ended at 2027-01-15T08:01:00Z; run `mcpshim login` in any terminal";
    assert!(first.contains(told), "{first}");
    let second = rig.play(&call(3));
    assert!(!second.contains("mcpshim login"), "{second}");
    assert!(second.contains("ended at 2027-01-15T08:01:00Z"), "{second}");
    assert!(second.contains("mcpshim_status"), "{second}");
    assert!(second.contains("Refused until you sign in: "), "{second}");
    // the watcher makes a snapshot by the clock: the lists are empty
    let now = rig.now;
    rig.handle(Input::Snapshot(snapshot_at(3, until(60), None, &now)));
    let changed = rig.play("+250");
    assert!(changed.contains("tools/list_changed"), "{changed}");
    // what was in flight is answered
    let answer = rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    assert!(answer.contains("! outcome 1 Ok"), "{answer}");
    // a new sign-in: the same session goes on
    rig.handle(Input::Snapshot(snapshot_at(4, until(3600), None, &now)));
    let changed = rig.play("+250");
    assert!(changed.contains("tools/list_changed"), "{changed}");
    let third = rig.play(&call(4));
    assert!(third.contains("»alpha"), "{third}");
    // that one ends too: told in full again
    rig.now.wall_us += 3_700_000_000;
    let fourth = rig.play(&call(5));
    assert!(fourth.contains("run `mcpshim login`"), "{fourth}");
}

#[test]
fn the_end_of_a_sign_in_is_warned_of_once_in_status_and_to_who_takes_log_messages() {
    let ends = 1800;
    let soon = |number, rig: &Rig| snapshot_at(number, until(ends), Some(100), &rig.now);
    let mut rig = Rig::handshake();
    let first = soon(2, &rig);
    assert_eq!(first.changes_at(&rig.now), Some(fixture::NOW + 100));
    rig.handle(Input::Snapshot(first));
    assert_eq!(rig.play(""), "");
    rig.play("+100000");
    for number in 3..5 {
        let snapshot = soon(number, &rig);
        rig.handle(Input::Snapshot(snapshot));
    }
    insta::assert_snapshot!(rig.play(""), @r#"< {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"warning","logger":"mcpshim","data":"your sign-in ends at 2027-01-15T08:30:00Z and was not renewed by itself; run `mcpshim login` in any terminal, sessions go on by themselves"}}"#);
    let status = rig.play(
        r#"> {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"mcpshim_status"}}"#,
    );
    assert!(
        status.contains("trouble:      your sign-in ends at"),
        "{status}"
    );
    assert!(status.contains("28 min 20 s left"), "{status}");

    let mut quiet = Rig::handshake();
    quiet.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"error"}}"#,
    );
    quiet.play("+100000");
    let snapshot = soon(2, &quiet);
    quiet.handle(Input::Snapshot(snapshot));
    assert_eq!(quiet.play(""), "");
    // a client of the stateless era did not ask for any
    let mut stateless = Rig::eng();
    stateless.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/list","params":{$META}}"#);
    stateless.play("+100000");
    let snapshot = soon(2, &stateless);
    stateless.handle(Input::Snapshot(snapshot));
    assert_eq!(stateless.play(""), "");
}

#[test]
fn another_person_gets_their_own_lists_and_calls_keep_who_made_them() {
    let mut rig = Rig::handshake();
    rig.play(&call(1));
    let bob = Caller::Person {
        issuer: "https://idp.example".to_owned(),
        subject: "bob".to_owned(),
        display: "Bob".to_owned(),
        roles: Vec::new(),
        expires: fixture::NOW + 3600,
    };
    rig.handle(Input::Snapshot(snapshot_of(2, &registry(), Some(bob))));
    let changed = rig.play("+250");
    assert!(changed.contains("tools/list_changed"), "{changed}");
    let answer = rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    assert!(answer.contains("! outcome 1 Ok"), "{answer}");
    rig.play(&call(2));
    let who = |facts: &crate::audit::entry::CallFacts| match &*rig.contexts[&facts.caller] {
        Context::Caller(caller) => format!("{caller:?}"),
        other => panic!("{other:?}"),
    };
    let callers: Vec<String> = rig
        .seen
        .iter()
        .filter_map(|seen| match seen {
            Seen::Append(Body::Intent(facts) | Body::Denial { facts, .. }) => Some(who(facts)),
            _ => None,
        })
        .collect();
    assert_eq!(callers.len(), 2);
    assert!(
        callers[0].contains("Ann") && callers[1].contains("Bob"),
        "{callers:?}"
    );
}

#[test]
fn a_stateful_server_is_never_stopped_for_being_idle() {
    for (stateful, stops) in [(false, true), (true, false)] {
        let mut registry = registry();
        registry.edit("alpha", |alpha| alpha.stateful = stateful);
        let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
        rig.play(
            r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo",$META}}
            «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#,
        );
        // a week, hour by hour
        let mut transcript = String::new();
        for _ in 0..7 * 24 {
            transcript += &rig.play("+3600000");
        }
        assert_eq!(transcript.contains("! close alpha"), stops, "{transcript}");
    }
}
