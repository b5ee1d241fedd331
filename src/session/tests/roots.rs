//! Where the client works: who may ask, who answers, what is recorded.

use super::*;
use crate::registry::doc::Transport;

const ASK: &str = r#"«alpha {"jsonrpc":"2.0","id":"r1","method":"roots/list"}"#;

/// `alpha` may know the client's roots; `beta` may not.
fn rig(capabilities: &str) -> Rig {
    let mut registry = registry();
    registry.edit("alpha", |alpha| alpha.roots = true);
    let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
    rig.machine.set_project("file:///srv/ann/a%20b");
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{capabilities}}}}}
        > {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"alpha_echo"}}}}"#
    ));
    rig
}

#[test]
fn a_client_that_has_roots_is_asked_once_and_its_words_are_passed_on() {
    let mut rig = rig(r#"{"roots":{"listChanged":true}}"#);
    insta::assert_snapshot!(rig.play(&format!(
        r#"{ASK}
        «alpha {{"jsonrpc":"2.0","id":2,"method":"roots/list","params":{{}}}}
        > {{"jsonrpc":"2.0","id":"mcpshim-1","result":{{"roots":[ {{"uri":"file:///x","name":"\u0058","z":1.50}} ],"_meta":{{}}}}}}
        «alpha {{"jsonrpc":"2.0","id":3,"method":"roots/list"}}"#
    )), @r#"
    «alpha {"jsonrpc":"2.0","id":"r1","method":"roots/list"}
    ! intent 2 alpha(2025-11-25)/roots/list by roots
    < {"jsonrpc":"2.0","id":"mcpshim-1","method":"roots/list"}
    «alpha {"jsonrpc":"2.0","id":2,"method":"roots/list","params":{}}
    ! intent 3 alpha(2025-11-25)/roots/list by roots {}
    > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"roots":[ {"uri":"file:///x","name":"\u0058","z":1.50} ],"_meta":{}}}
    ! outcome 2 Ok {"roots":[ {"uri":"file:///x","name":"\u0058","z":1.50} ]}
    ! outcome 3 Ok {"roots":[ {"uri":"file:///x","name":"\u0058","z":1.50} ]}
    »alpha {"jsonrpc":"2.0","id":"r1","result":{"roots":[ {"uri":"file:///x","name":"\u0058","z":1.50} ]}}
    »alpha {"jsonrpc":"2.0","id":2,"result":{"roots":[ {"uri":"file:///x","name":"\u0058","z":1.50} ]}}
    «alpha {"jsonrpc":"2.0","id":3,"method":"roots/list"}
    ! intent 4 alpha(2025-11-25)/roots/list by roots
    ! outcome 4 Ok {"roots":[ {"uri":"file:///x","name":"\u0058","z":1.50} ]}
    »alpha {"jsonrpc":"2.0","id":3,"result":{"roots":[ {"uri":"file:///x","name":"\u0058","z":1.50} ]}}
    "#);
    // they change: what was known does not count, and the server is told
    insta::assert_snapshot!(rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}}
        {ASK}
        > {{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}}
        > {{"jsonrpc":"2.0","id":"mcpshim-2","result":{{"roots":[]}}}}
        > {{"jsonrpc":"2.0","id":"mcpshim-3","result":{{"roots":[]}}}}"#
    )), @r#"
    > {"jsonrpc":"2.0","method":"notifications/roots/list_changed"}
    »alpha {"jsonrpc":"2.0","method":"notifications/roots/list_changed"}
    «alpha {"jsonrpc":"2.0","id":"r1","method":"roots/list"}
    ! intent 5 alpha(2025-11-25)/roots/list by roots
    < {"jsonrpc":"2.0","id":"mcpshim-2","method":"roots/list"}
    > {"jsonrpc":"2.0","method":"notifications/roots/list_changed"}
    »alpha {"jsonrpc":"2.0","method":"notifications/roots/list_changed"}
    > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"roots":[]}}
    < {"jsonrpc":"2.0","id":"mcpshim-3","method":"roots/list"}
    > {"jsonrpc":"2.0","id":"mcpshim-3","result":{"roots":[]}}
    ! outcome 5 Ok {"roots":[]}
    »alpha {"jsonrpc":"2.0","id":"r1","result":{"roots":[]}}
    "#);
}

#[test]
fn a_client_without_roots_has_its_project_as_one() {
    let project = r#""result":{"roots":[{"uri":"file:///srv/ann/a%20b"}]}"#;
    let mut rig = rig("{}");
    let transcript = rig.play(ASK);
    assert!(transcript.contains(project), "{transcript}");
    assert!(transcript.contains("! intent 2 alpha"), "{transcript}");
    assert!(
        !transcript.contains("\n< "),
        "nobody is asked: {transcript}"
    );
    // nor has one of the stateless era any
    let mut registry = registry();
    registry.edit("alpha", |alpha| alpha.roots = true);
    let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
    let call =
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo",$META}}"#;
    rig.play(call);
    let transcript = rig.play(ASK);
    assert!(
        transcript.contains(r#""result":{"roots":[]}"#),
        "no project: {transcript}"
    );
}

#[test]
fn a_server_that_may_not_know_is_refused_and_its_question_recorded() {
    let mut rig = Rig::handshake();
    rig.machine.set_project("file:///srv/ann");
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    let transcript = rig.play(ASK);
    assert!(
        transcript.contains("! denial 2 alpha(2025-11-25)/roots/list ask-not-in-entry"),
        "{transcript}"
    );
    assert!(
        transcript.contains(r#""error":{"code":-32601"#),
        "{transcript}"
    );
    assert!(!transcript.contains("file:"), "{transcript}");
}

#[test]
fn a_client_that_does_not_answer_well_or_in_time_is_not_waited_for() {
    let refused = |answer: &str| {
        let mut rig = rig(r#"{"roots":{}}"#);
        rig.play(ASK);
        let transcript = rig.play(answer);
        assert!(
            transcript.contains("! outcome 2 error -32603"),
            "{transcript}"
        );
        assert!(
            transcript.contains(r#"»alpha {"jsonrpc":"2.0","id":"r1","error":{"code":-32603"#),
            "{transcript}"
        );
        // the next question asks again
        let again = rig.play(ASK);
        assert!(
            again.contains(r#"< {"jsonrpc":"2.0","id":"mcpshim-2""#),
            "{again}"
        );
    };
    refused("+10000");
    let wrong = [
        r#""error":{"code":-32601,"message":"no"}"#,
        r#""result":{}"#,
        r#""result":{"roots":{}}"#,
        r#""result":{"roots":[1]}"#,
        r#""result":{"roots":[{"uri":1}]}"#,
        r#""result":{"roots":[{"uri":"file:///a","uri":"file:///b"}]}"#,
    ];
    for body in wrong {
        refused(&format!(r#"> {{"jsonrpc":"2.0","id":"mcpshim-1",{body}}}"#));
    }
    let many: Vec<String> = (0..300)
        .map(|n| format!(r#"{{"uri":"file:///{n}"}}"#))
        .collect();
    let many = many.join(",");
    refused(&format!(
        r#"> {{"jsonrpc":"2.0","id":"mcpshim-1","result":{{"roots":[{many}]}}}}"#
    ));
    // an answer nobody asked for, or a late one, is counted
    let mut rig = rig(r#"{"roots":{}}"#);
    let stray = rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"roots":[{"uri":"file:///evil"}]}}
        +3000"#,
    );
    assert!(stray.contains("! counted client-answer 1"), "{stray}");
}

#[test]
fn an_answer_goes_to_the_transport_that_asked_and_after_its_record() {
    let mut rig = rig(r#"{"roots":{}}"#);
    rig.play(ASK);
    let transcript = rig.play("closed alpha ended");
    assert!(transcript.contains("! outcome 2 Cancelled"), "{transcript}");
    let transcript = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"roots":[]}}"#);
    assert!(!transcript.contains("»alpha"), "{transcript}");

    let mut rig = self::rig("{}");
    rig.recording = Recording::Withheld;
    let before = rig.play(ASK);
    assert!(!before.contains("»alpha"), "{before}");
    let after = rig.play("recorded");
    assert!(
        after.contains(r#"»alpha {"jsonrpc":"2.0","id":"r1""#),
        "{after}"
    );
    // one that cannot be recorded is not given
    rig.recording = Recording::Fails;
    let lost = rig.play(ASK);
    let told: Vec<&str> = lost.lines().filter(|l| l.starts_with('»')).collect();
    assert!(
        told.len() == 1 && told[0].contains("could not be recorded"),
        "{lost}"
    );

    // the session ends with a question open
    let mut rig = self::rig(r#"{"roots":{}}"#);
    rig.play(ASK);
    rig.play("eof");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn a_server_cannot_fill_the_record_with_questions() {
    let mut rig = rig("{}");
    let mut intents = 0;
    for _ in 0..2000 {
        intents += rig.play(ASK).matches("! intent").count();
        rig.seen.clear();
    }
    assert_eq!(intents, 1024);
}

#[test]
fn another_permission_opens_the_server_anew() {
    let mut rig = rig("{}");
    let transcript = {
        rig.handle(Input::Snapshot(snapshot_of(
            2,
            &registry(),
            Some(ann(&["eng"])),
        )));
        rig.play(
            r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}"#,
        )
    };
    assert!(transcript.contains("! open alpha"), "{transcript}");
}

#[test]
fn a_remote_server_learns_them_after_it_was_compared_with_its_pin() {
    let mut registry = registry();
    let mut alpha = (*registry.servers[&fixture::key("alpha")]).clone();
    alpha.roots = true;
    let here = Arc::new(alpha.clone());
    alpha.transport = Transport::Http {
        url: "https://alpha.example/mcp".to_owned(),
        ca_pem: None,
        legacy_sse: false,
    };
    for (server, early) in [(here, false), (Arc::new(alpha), true)] {
        registry.put((*server).clone());
        let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
        rig.opens = false;
        rig.machine.set_project("file:///srv/ann");
        rig.play(
            r#"> {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}
            > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#,
        );
        let asked = rig.play(ASK);
        assert_eq!(asked.contains("ask-early"), early, "{asked}");
        assert_eq!(asked.contains("file:///srv/ann"), !early, "{asked}");
        // it is told that it may ask again
        let ready = rig.play("opened alpha");
        let changed = r#"»alpha {"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
        assert_eq!(ready.contains(changed), early, "{ready}");
        assert!(rig.play(ASK).contains("file:///srv/ann"));
    }
}
