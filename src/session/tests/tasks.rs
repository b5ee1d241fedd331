//! Tasks between peers of the stateless era, and tools that need those of the handshake era.

use super::*;
use crate::ids::Digest;
use crate::limits;

/// `_meta` of a client that can follow tasks.
fn able(script: &str) -> String {
    let meta = META.replace(
        r#"clientCapabilities":{}"#,
        r#"clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
    );
    script.replace("$ABLE", &meta)
}

fn play(rig: &mut Rig, script: &str) -> String {
    let meta = able("$ABLE");
    rig.play(&able(script)).replace(&meta, "$ABLE")
}

const BEGIN: &str = r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo","arguments":{"n":1},$ABLE}}
«beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"task","x":1e9,"taskId":"t-\u0031","status":"working","createdAt":"c","lastUpdatedAt":"l","ttlMs":null}}"#;

#[test]
fn a_task_is_followed_under_a_name_of_its_server_and_the_record_has_its_digest() {
    let mut rig = Rig::eng();
    let transcript = play(
        &mut rig,
        &format!(
            r#"{BEGIN}
            > {{"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{{"taskId":"beta.t-1",$ABLE}}}}
            «beta {{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete","taskId":"t-1","status":"completed","result":{{"content":[]}}}}}}
            > {{"jsonrpc":"2.0","id":3,"method":"tasks/update","params":{{"taskId":"beta.t-1","inputResponses":{{"a":{{"action":"accept"}}}},$ABLE}}}}
            «beta {{"jsonrpc":"2.0","id":8,"result":{{"resultType":"complete"}}}}
            > {{"jsonrpc":"2.0","id":4,"method":"tasks/cancel","params":{{"taskId":"beta.t-1",$ABLE}}}}
            «beta {{"jsonrpc":"2.0","id":9,"error":{{"code":-32602,"message":"unknown task"}}}}"#
        ),
    );
    let digest = Digest::of(b"beta.t-1").to_string();
    insta::assert_snapshot!(transcript.replace(&digest, "DIGEST"), @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo","arguments":{"n":1},$ABLE}}
    ! open beta
    ! intent 1 beta(2026-07-28)/echo by rule#2 eng {"n":1}
    »beta {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","arguments":{"n":1},$ABLE}}
    «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"task","x":1e9,"taskId":"t-\u0031","status":"working","createdAt":"c","lastUpdatedAt":"l","ttlMs":null}}
    ! outcome 1 Ok {"resultType":"task","x":1e9,"taskId":"sha256:DIGEST","status":"working","createdAt":"c","lastUpdatedAt":"l","ttlMs":null}
    < {"jsonrpc":"2.0","id":1,"result":{"resultType":"task","x":1e9,"taskId":"beta.t-1","status":"working","createdAt":"c","lastUpdatedAt":"l","ttlMs":null}}
    > {"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{"taskId":"beta.t-1",$ABLE}}
    ! intent 2 beta(2026-07-28)/echo by rule#2 eng {"task":"sha256:DIGEST"}
    »beta {"jsonrpc":"2.0","id":7,"method":"tasks/get","params":{"taskId":"t-1",$ABLE}}
    «beta {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","taskId":"t-1","status":"completed","result":{"content":[]}}}
    ! outcome 2 Ok {"resultType":"complete","taskId":"sha256:DIGEST","status":"completed","result":{"content":[]}}
    < {"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","taskId":"beta.t-1","status":"completed","result":{"content":[]}}}
    > {"jsonrpc":"2.0","id":3,"method":"tasks/update","params":{"taskId":"beta.t-1","inputResponses":{"a":{"action":"accept"}},$ABLE}}
    ! intent 3 beta(2026-07-28)/echo by rule#2 eng {"task":"sha256:DIGEST","inputResponses":{"a":{"action":"accept"}}}
    »beta {"jsonrpc":"2.0","id":8,"method":"tasks/update","params":{"taskId":"t-1","inputResponses":{"a":{"action":"accept"}},$ABLE}}
    «beta {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete"}}
    ! outcome 3 Ok {"resultType":"complete"}
    < {"jsonrpc":"2.0","id":3,"result":{"resultType":"complete"}}
    > {"jsonrpc":"2.0","id":4,"method":"tasks/cancel","params":{"taskId":"beta.t-1",$ABLE}}
    ! intent 4 beta(2026-07-28)/echo by rule#2 eng {"task":"sha256:DIGEST"}
    »beta {"jsonrpc":"2.0","id":9,"method":"tasks/cancel","params":{"taskId":"t-1",$ABLE}}
    «beta {"jsonrpc":"2.0","id":9,"error":{"code":-32602,"message":"unknown task"}}
    ! outcome 4 error -32602 {"code":-32602,"message":"unknown task"}
    < {"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"unknown task"}}
    "#);
}

#[test]
fn a_task_that_did_not_begin_here_is_unknown() {
    let mut rig = Rig::eng();
    play(&mut rig, BEGIN);
    for id in ["beta.t-2", "alpha.t-1", "t-1", "beta.", "gamma.t-1", ""] {
        let transcript = play(
            &mut rig,
            &format!(
                r#"> {{"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{{"taskId":"{id}",$ABLE}}}}"#
            ),
        );
        assert!(!transcript.contains('»'), "{transcript}");
        assert!(transcript.contains("! denial"), "{transcript}");
        let answer =
            r#"< {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"Unknown task"}}"#;
        assert!(transcript.contains(answer), "{transcript}");
    }
    // a grant taken back takes the tasks of its tool with it
    let mut less = registry();
    less.table("eng", "beta").tools.clear();
    rig.handle(Input::Snapshot(snapshot_of(2, &less, Some(ann(&["eng"])))));
    let transcript = play(
        &mut rig,
        r#"> {"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{"taskId":"beta.t-1",$ABLE}}"#,
    );
    assert!(transcript.contains("! denial"), "{transcript}");
    assert!(!transcript.contains('»'), "{transcript}");
}

#[test]
fn a_client_that_cannot_follow_a_task_gets_none() {
    let mut rig = Rig::eng();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo",$META}}
        «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"task","taskId":"t-1","status":"working"}}"#,
    );
    assert!(transcript.contains(r#""isError":true"#), "{transcript}");
    assert!(
        transcript.contains("of a type that is not carried: task"),
        "{transcript}"
    );
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{"taskId":"beta.t-1",$META}}"#,
    );
    // found by the official conformance suite: SEP-2663, whatever the id
    let lacks = r#""error":{"code":-32021,"message":"tasks/get needs the extension io.modelcontextprotocol/tasks","data":{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}"#;
    assert!(transcript.contains(lacks), "{transcript}");
    assert!(!transcript.contains('»'), "{transcript}");
    // a handshake client does not even have the method, and declares nothing
    let mut rig = Rig::eng();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"tasks":{},"extensions":{"io.modelcontextprotocol/tasks":{}}},"clientInfo":{"name":"old","version":"3"}}}
        > {"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"beta.t-1"}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"beta_echo","task":{}}}"#,
    );
    assert!(
        transcript.contains("Method not found: tasks/get"),
        "{transcript}"
    );
    let sent = transcript
        .lines()
        .find(|line| line.starts_with('»'))
        .unwrap();
    assert!(!sent.contains("tasks"), "{sent}");
}

#[test]
fn who_listens_to_a_task_is_told_of_it_by_the_same_name() {
    let mut rig = Rig::eng();
    play(&mut rig, BEGIN);
    let transcript = play(
        &mut rig,
        r#"> {"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"taskIds":["beta.t-1","beta.other"]},$ABLE}}
        «beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t-1","status":"early"}}
        «beta {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["t-1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
        «beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t-1","status":"working","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
        «beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"other","status":"working"}}
        closed beta ended
        «beta {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["t-1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":13}}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"L"}}"#,
    );
    let digest = Digest::of(b"beta.t-1").to_string();
    insta::assert_snapshot!(transcript.replace(&digest, "DIGEST"), @r#"
    > {"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"taskIds":["beta.t-1","beta.other"]},$ABLE}}
    ! denial 2 such task hidden 
    ! intent 3 beta(2026-07-28)/echo by rule#2 eng {"task":"sha256:DIGEST"}
    »beta {"jsonrpc":"2.0","id":7,"method":"subscriptions/listen","params":{"notifications":{"taskIds":["t-1"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"mcpshim","version":"$VERSION"},"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    «beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t-1","status":"early"}}
    «beta {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["t-1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
    < {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["beta.t-1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    «beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t-1","status":"working","_meta":{"io.modelcontextprotocol/subscriptionId":7}}}
    < {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"beta.t-1","status":"working","_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    «beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"other","status":"working"}}
    closed beta ended
    ! outcome 3 Unknown
    ! link down
    ! open beta
    ! intent 4 beta(2026-07-28)/echo by rule#2 eng {"task":"sha256:DIGEST"}
    »beta {"jsonrpc":"2.0","id":13,"method":"subscriptions/listen","params":{"notifications":{"taskIds":["t-1"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"mcpshim","version":"$VERSION"},"io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    «beta {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["t-1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":13}}}
    > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"L"}}
    »beta {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":13}}
    ! outcome 4 Cancelled
    "#);
}

#[test]
fn tasks_are_forgotten_when_there_are_too_many() {
    let mut rig = Rig::eng();
    play(&mut rig, BEGIN);
    for n in 0..=limits::TASKS as u64 {
        let id = n + 7;
        play(
            &mut rig,
            &format!(
                r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"beta_echo","arguments":{{"n":{n}}},$ABLE}}}}
                «beta {{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"task","taskId":"n{n}","status":"working"}}}}"#
            ),
        );
    }
    let get = |id: &str| {
        format!(
            r#"> {{"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{{"taskId":"beta.{id}",$ABLE}}}}"#
        )
    };
    assert!(play(&mut rig, &get("t-1")).contains("Unknown task"));
    assert!(play(&mut rig, &get("n5")).contains("»beta"));
}

#[test]
fn a_tool_that_needs_a_task_of_the_handshake_era_is_refused_with_the_reason() {
    let definition = r#"{"description":"d","name":"echo","inputSchema":{"type":"object"},"execution":{"taskSupport":"required"}}"#;
    for (key, refused) in [("alpha", true), ("beta", false)] {
        let mut registry = registry();
        let raw = serde_json::value::RawValue::from_string(definition.to_owned()).unwrap();
        registry.edit(key, |server| {
            server.surface.as_mut().unwrap().tools[0].definition = raw;
        });
        let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
        let transcript = rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{key}_echo","task":{{}},$META}}}}"#
        ));
        assert_eq!(transcript.contains("! denial 1"), refused, "{transcript}");
        assert_eq!(transcript.contains('»'), !refused, "{transcript}");
        if refused {
            assert!(transcript.contains("needs-task"), "{transcript}");
            assert!(
                transcript.contains("as a task of MCP 2025-11-25"),
                "{transcript}"
            );
        }
    }
}

/// A task of beta's that waits for input, as a client reads it and as it is told of it.
fn asking(declared: &str, allowed: bool) -> (String, String) {
    let mut registry = registry();
    registry.edit("beta", |beta| beta.elicitation = allowed);
    let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
    let meta = able("$ABLE").replace(
        r#"clientCapabilities":{"#,
        &format!(r#"clientCapabilities":{{{declared}"#),
    );
    let mut play = |script: &str| rig.play(&script.replace("$ABLE", &meta));
    play(BEGIN);
    let asks = r#""status":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{"type":"object","properties":{}}}}}"#;
    let read = play(&format!(
        r#"> {{"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{{"taskId":"beta.t-1",$ABLE}}}}
        «beta {{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete","taskId":"t-1",{asks}}}}}"#
    ));
    let told = play(&format!(
        r#"> {{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{{"notifications":{{"taskIds":["beta.t-1"]}},$ABLE}}}}
        «beta {{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"taskIds":["t-1"]}},"_meta":{{"io.modelcontextprotocol/subscriptionId":8}}}}}}
        «beta {{"jsonrpc":"2.0","method":"notifications/tasks","params":{{"taskId":"t-1",{asks}}}}}"#
    ));
    (read, told)
}

#[test]
fn what_a_task_asks_is_labelled_and_only_asked_of_who_declared_it() {
    let (read, told) = asking(r#""elicitation":{},"#, true);
    for transcript in [&read, &told] {
        assert!(
            transcript.contains(r#""message":"[beta] Sure?""#),
            "{transcript}"
        );
    }
    for (declared, allowed) in [("", true), (r#""elicitation":{},"#, false)] {
        let (read, told) = asking(declared, allowed);
        assert!(!read.contains(r#""message":"[beta]"#), "{read}");
        assert!(read.contains("! denial"), "{read}");
        assert!(read.contains("asks for input, but"), "{read}");
        assert!(told.contains("! denial"), "{told}");
        assert!(
            !told.contains(r#"< {"jsonrpc":"2.0","method":"notifications/tasks""#),
            "{told}"
        );
    }
}

#[test]
fn what_a_task_asks_goes_by_who_listens_to_it_not_by_the_last_request() {
    let mut registry = registry();
    registry.edit("beta", |beta| beta.elicitation = true);
    let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
    let plain = able("$ABLE");
    let asked = plain.replace(
        r#"clientCapabilities":{"#,
        r#"clientCapabilities":{"elicitation":{},"#,
    );
    let listen = |id: &str, meta: &str| {
        format!(
            r#"> {{"jsonrpc":"2.0","id":{id},"method":"subscriptions/listen","params":{{"notifications":{{"taskIds":["beta.t-1"]}},{meta}}}}}"#
        )
    };
    let standing = |id: u64| {
        format!(
            r#"«beta {{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"taskIds":["t-1"]}},"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
        )
    };
    play(&mut rig, BEGIN);
    for line in [
        listen("\"can\"", &asked),
        standing(7),
        listen("\"cannot\"", &plain),
        standing(8),
        // the last request declares nothing
        format!(r#"> {{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{{plain}}}}}"#),
    ] {
        rig.play(&line);
    }
    let transcript = rig.play(
        r#"«beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t-1","status":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{"type":"object","properties":{}}}}},"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#,
    );
    let told: Vec<&str> = transcript
        .lines()
        .filter(|line| line.starts_with('<'))
        .collect();
    let [told] = told[..] else {
        panic!("{transcript}");
    };
    assert!(told.contains(r#""message":"[beta] Sure?""#), "{told}");
    assert!(told.contains(r#"subscriptionId":"can""#), "{told}");
    assert_eq!(transcript.matches("! denial").count(), 1, "{transcript}");
}
