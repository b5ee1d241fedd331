//! Handshake clients at servers of the stateless era that ask for input before they go on.

use super::asks::rig;
use super::*;
use crate::limits;

const ALL: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;
const CALL: &str = r#"> {"jsonrpc":"2.0","id":"c1","method":"tools/call","params":{"name":"beta_echo","arguments":{"n": 1.50},"_meta":{"progressToken":"p","claudecode/toolUseId":"t1"}}}"#;
const ASK: &str = r#"«beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","inputRequests":{"w\u0068o":{"method":"elicitation/create","params":{"mode":"form","message":"Name?","requestedSchema":{"type":"object","properties":{"n":{"type":"integer"}}}}},"where":{"method":"elicitation/create","params":{"mode":"url","message":"Sign in","url":"https://x.example/\u0061"}},"r":{"method":"roots/list"}},"requestState":"S\u0031"}}"#;

fn called() -> Rig {
    let mut rig = rig(ALL, "2025-11-25");
    rig.play(CALL);
    rig
}

#[test]
fn what_a_server_wants_is_asked_and_the_call_made_again_with_the_answers() {
    let mut rig = called();
    insta::assert_snapshot!(rig.play(&format!(
        r#"{ASK}
        > {{"jsonrpc":"2.0","id":"mcpshim-3","result":{{"roots":[ {{"uri":"file:///x"}} ]}}}}
        > {{"jsonrpc":"2.0","id":"mcpshim-1","result":{{"action":"accept","content":{{"n": 12345678901234567890123}}}}}}
        > {{"jsonrpc":"2.0","id":"mcpshim-2","result":{{"action":"accept"}}}}
        «beta {{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":7,"progress":1}}}}
        «beta {{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete","content":[{{"type":"text","text":"done"}}]}}}}"#
    )), @r#"
    «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","inputRequests":{"w\u0068o":{"method":"elicitation/create","params":{"mode":"form","message":"Name?","requestedSchema":{"type":"object","properties":{"n":{"type":"integer"}}}}},"where":{"method":"elicitation/create","params":{"mode":"url","message":"Sign in","url":"https://x.example/\u0061"}},"r":{"method":"roots/list"}},"requestState":"S\u0031"}}
    ! outcome 1 Input {"resultType":"input_required","inputRequests":{"w\u0068o":{"method":"elicitation/create","params":{"mode":"form","message":"Name?","requestedSchema":{"type":"object","properties":{"n":{"type":"integer"}}}}},"where":{"method":"elicitation/create","params":{"mode":"url","message":"Sign in","url":"https://x.example/\u0061"}},"r":{"method":"roots/list"}},"requestState":"S\u0031"}
    ! intent 1.1 beta(2026-07-28)/elicitation/create by elicitation {"mode":"form","message":"Name?","requestedSchema":{"type":"object","properties":{"n":{"type":"integer"}}}}
    ! intent 1.2 beta(2026-07-28)/elicitation/create by elicitation {"mode":"url","message":"Sign in","url":"https://x.example/\u0061"}
    ! intent 1.3 beta(2026-07-28)/roots/list by roots
    < {"jsonrpc":"2.0","id":"mcpshim-1","method":"elicitation/create","params":{"mode":"form","message":"[beta] Name?","requestedSchema":{"type":"object","properties":{"n":{"type":"integer"}}}}}
    < {"jsonrpc":"2.0","id":"mcpshim-2","method":"elicitation/create","params":{"mode":"url","message":"[beta] Sign in","url":"https://x.example/\u0061","elicitationId":"1a64e3ba-1626-486f-a0a3-2b9ebafc942a"}}
    < {"jsonrpc":"2.0","id":"mcpshim-3","method":"roots/list"}
    > {"jsonrpc":"2.0","id":"mcpshim-3","result":{"roots":[ {"uri":"file:///x"} ]}}
    ! outcome 1.3 Ok {"roots":[ {"uri":"file:///x"} ]}
    > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept","content":{"n": 12345678901234567890123}}}
    ! outcome 1.1 Ok {"action":"accept","content":{"n": 12345678901234567890123}}
    > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"action":"accept"}}
    ! outcome 1.2 Ok {"action":"accept"}
    ! intent 1.4 beta(2026-07-28)/echo by rule#2 eng {"name":"echo","arguments":{"n": 1.50},"_meta":{"progressToken":7,"claudecode/toolUseId":"t1","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"old","version":"3"},"io.modelcontextprotocol/clientCapabilities":{"roots":{},"sampling":{},"elicitation":{"form":{},"url":{}}}},"inputResponses":{"who":{"action":"accept","content":{"n": 12345678901234567890123}},"where":{"action":"accept"},"r":{"roots":[ {"uri":"file:///x"} ]}},"requestState":"S\u0031"} t1
    »beta {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"n": 1.50},"_meta":{"progressToken":7,"claudecode/toolUseId":"t1","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"old","version":"3"},"io.modelcontextprotocol/clientCapabilities":{"roots":{},"sampling":{},"elicitation":{"form":{},"url":{}}}},"inputResponses":{"who":{"action":"accept","content":{"n": 12345678901234567890123}},"where":{"action":"accept"},"r":{"roots":[ {"uri":"file:///x"} ]}},"requestState":"S\u0031"}}
    «beta {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}
    < {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}
    «beta {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[{"type":"text","text":"done"}]}}
    ! outcome 1.4 Ok {"resultType":"complete","content":[{"type":"text","text":"done"}]}
    < {"jsonrpc":"2.0","id":"c1","result":{"content":[{"type":"text","text":"done"}]}}
    "#);
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn prompts_and_resources_go_the_same_way() {
    for (method, params) in [
        ("prompts/get", r#""name":"beta_greet""#),
        ("resources/read", r#""uri":"beta://readme""#),
    ] {
        let mut rig = rig(ALL, "2025-11-25");
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#
        ));
        let transcript = rig.play(
            r#"«beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"m"}}}}}
            > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"decline"}}"#,
        );
        let again = format!(r#"»beta {{"jsonrpc":"2.0","id":7,"method":"{method}","#);
        assert!(transcript.contains(&again), "{transcript}");
        assert!(
            transcript.contains(r#""inputResponses":{"a":{"action":"decline"}}"#),
            "{transcript}"
        );
        assert!(!transcript.contains("requestState"), "{transcript}");
    }
}

#[test]
fn a_state_alone_is_sent_back_after_a_pause_and_not_for_ever() {
    let mut rig = called();
    let mut id = 6;
    let mut rounds = 0;
    loop {
        let wants = format!(
            r#"«beta {{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"input_required","requestState":"s{id}"}}}}"#
        );
        let transcript = rig.play(&wants);
        if transcript.contains("\n< ") {
            assert!(transcript.contains("asked too often"), "{transcript}");
            break;
        }
        assert!(!rig.play("+249").contains("»beta"));
        let again = rig.play("+1");
        id += 1;
        rounds += 1;
        assert!(
            again.contains(&format!(r#""requestState":"s{}""#, id - 1)),
            "{again}"
        );
        assert_eq!(
            again.matches("requestState").count(),
            2,
            "sent and recorded once: {again}"
        );
        assert!(!again.contains("inputResponses"), "{again}");
    }
    assert_eq!(rounds, limits::ROUNDS);
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn what_the_client_or_the_organisation_does_not_offer_is_not_asked() {
    let refused = |rig: &mut Rig, text: &str, code: &str| {
        let transcript = rig.play(ASK);
        assert!(transcript.contains(text), "{transcript}");
        assert!(transcript.contains(code), "{transcript}");
        assert!(transcript.contains("! outcome 1 Input"), "{transcript}");
        assert!(transcript.contains(r#""isError":true"#), "{transcript}");
        // not one of them
        assert!(!transcript.contains("\"method\":\"elicitation/create\",\"params\":{\"mode\":\"form\",\"message\":\"[beta]"), "{transcript}");
        assert_eq!(rig.machine.books().2, 0);
    };
    for (capabilities, revision, lacks) in [
        ("{}", "2025-11-25", "elicitation"),
        (
            r#"{"elicitation":{},"roots":{}}"#,
            "2025-11-25",
            "elicitation of the mode `url`",
        ),
        (ALL, "2025-06-18", "elicitation of the mode `url`"),
        (
            r#"{"elicitation":{"form":{},"url":{}}}"#,
            "2025-11-25",
            "roots",
        ),
    ] {
        let mut rig = rig(capabilities, revision);
        rig.play(CALL);
        refused(
            &mut rig,
            &format!("this client offers no {lacks}"),
            "ask-not-declared",
        );
    }
    let mut rig = Rig::eng();
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{ALL}}}}}
        {CALL}"#
    ));
    refused(
        &mut rig,
        "the organisation does not let it ask",
        "ask-not-in-entry",
    );
}

#[test]
fn nonsense_ends_the_call() {
    let many: Vec<String> = (0..17)
        .map(|n| format!(r#""{n}":{{"method":"roots/list"}}"#))
        .collect();
    let many = format!(r#""inputRequests":{{{}}}"#, many.join(","));
    let long = format!(
        r#""requestState":"{}""#,
        "x".repeat(limits::REQUEST_STATE_BYTES)
    );
    for members in [
        r#""a":1"#,
        r#""inputRequests":{}"#,
        r#""inputRequests":[]"#,
        r#""requestState":{}"#,
        r#""inputRequests":{"a":1}"#,
        r#""inputRequests":{"a":{}}"#,
        r#""inputRequests":{"a":{"method":"tools/call","params":{}}}"#,
        r#""inputRequests":{"a":{"method":"roots/list"},"a":{"method":"roots/list"}}"#,
        r#""inputRequests":{"a":{"method":"roots/list","Method":"x"}}"#,
        r#""inputRequests":{"a":{"method":"elicitation/create"}}"#,
        r#""inputRequests":{"a":{"method":"elicitation/create","params":{"message":"a","MESSAGE":"b"}}}"#,
        r#""inputRequests":{"a":{"method":"elicitation/create","params":{"mode":"url","message":"a","url":"ssh://x"}}}"#,
        &many,
        &long,
    ] {
        let mut rig = called();
        let transcript = rig.play(&format!(
            r#"«beta {{"jsonrpc":"2.0","id":6,"result":{{"resultType":"input_required",{members}}}}}"#
        ));
        assert!(
            transcript.contains(r#"< {"jsonrpc":"2.0","id":"c1","result""#),
            "{transcript}"
        );
        assert!(
            transcript.contains("asks for input, but") || transcript.contains("cannot be read"),
            "{transcript}"
        );
        assert!(!transcript.contains("\"id\":\"mcpshim-"), "{transcript}");
        assert_eq!(rig.machine.books().2, 0, "{members}");
    }
}

#[test]
fn the_first_answer_that_is_none_ends_the_call_and_the_other_questions() {
    let mut rig = called();
    rig.play(ASK);
    insta::assert_snapshot!(rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":"mcpshim-2","error":{"code":-1,"message":"no browser"}}
        > {"jsonrpc":"2.0","id":"mcpshim-3","result":{"roots":[]}}
        «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","content":[]}}"#
    ), @r#"
    > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
    ! outcome 1.1 Ok {"action":"accept"}
    > {"jsonrpc":"2.0","id":"mcpshim-2","error":{"code":-1,"message":"no browser"}}
    ! outcome 1.2 error -1
    < {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"mcpshim-3"}}
    ! outcome 1.3 Cancelled
    < {"jsonrpc":"2.0","id":"c1","result":{"content":[{"type":"text","text":"server beta asked for input, but the client refused: no browser"}],"isError":true}}
    > {"jsonrpc":"2.0","id":"mcpshim-3","result":{"roots":[]}}
    «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","content":[]}}
    "#);
    // nobody answers
    let mut rig = called();
    rig.play(ASK);
    let late = rig.play("+600000");
    assert!(late.contains("did not answer in time"), "{late}");
    assert_eq!(late.matches("notifications/cancelled").count(), 3, "{late}");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn a_call_that_waits_for_input_can_be_taken_back_and_its_id_is_taken() {
    let mut rig = called();
    rig.play(ASK);
    let again = rig.play(CALL);
    assert!(again.contains("still in flight"), "{again}");
    let gone = rig.play(
        r#"> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"c1"}}
        > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}"#,
    );
    assert_eq!(gone.matches("! outcome").count(), 3, "{gone}");
    assert_eq!(gone.matches("< {").count(), 3, "{gone}");
    assert_eq!(gone.matches("notifications/cancelled").count(), 4, "{gone}");
    assert!(!gone.contains("»beta"), "{gone}");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn a_call_goes_on_where_it_began_or_not_at_all() {
    let mut rig = called();
    rig.play(ASK);
    let gone = rig.play("closed beta ended: exit status: 1");
    assert!(
        gone.contains("while its question was answered; whether the call took effect is not known"),
        "{gone}"
    );
    assert_eq!(gone.matches("notifications/cancelled").count(), 3, "{gone}");
    assert_eq!(rig.machine.books().2, 0);
    // its entry changes
    let mut rig = called();
    rig.play(ASK);
    rig.handle(Input::Renew {
        server: fixture::key("beta"),
        at_once: false,
    });
    let moved = rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":"mcpshim-3","result":{"roots":[]}}"#,
    );
    assert!(
        moved.contains("was changed while its question was answered"),
        "{moved}"
    );
    assert!(!moved.contains("»beta"), "{moved}");
    // the session ends
    let mut rig = called();
    rig.play(ASK);
    rig.play("eof");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn each_time_it_is_sent_it_is_decided_and_recorded_again() {
    // the grant is taken back while the person types
    let mut registry = asking();
    registry.table("eng", "beta").tools.clear();
    let mut rig = called();
    rig.play(ASK);
    rig.handle(Input::Snapshot(snapshot_of(
        2,
        &registry,
        Some(ann(&["eng"])),
    )));
    let denied = rig.play("+1");
    assert!(denied.contains("mcpshim/denial"), "{denied}");
    assert!(denied.contains("may have taken effect"), "{denied}");
    assert_eq!(rig.machine.books().2, 0);
    // the record of the second leg cannot be written
    let mut rig = called();
    rig.play(ASK);
    rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"action":"accept"}}"#,
    );
    rig.recording = Recording::Fails;
    let lost = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-3","result":{"roots":[]}}"#);
    assert!(!lost.contains("»beta"), "{lost}");
    assert!(lost.contains("could not be recorded"), "{lost}");
    assert_eq!(rig.machine.books().2, 0);
    // and it waits for it
    let mut rig = called();
    rig.play(ASK);
    rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"action":"accept"}}"#,
    );
    rig.recording = Recording::Withheld;
    let held = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-3","result":{"roots":[]}}"#);
    assert!(
        held.contains("! intent 1.4 beta(2026-07-28)/echo"),
        "{held}"
    );
    assert!(!held.contains("»beta"), "{held}");
    assert!(rig.play("recorded").contains("»beta"));
}

#[test]
fn a_request_too_long_to_keep_is_sent_once() {
    let mut rig = rig(ALL, "2025-11-25");
    let blob = "x".repeat(limits::DRIVEN_LINE_BYTES);
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":"c1","method":"tools/call","params":{{"name":"beta_echo","arguments":{{"b":"{blob}"}}}}}}"#
    ));
    let transcript = rig.play(ASK);
    assert!(
        transcript.contains("too long to be sent again"),
        "{transcript}"
    );
}

#[test]
fn answers_are_kept_up_to_a_bound() {
    let mut rig = called();
    rig.play(ASK);
    let blob = "x".repeat(15 << 20);
    for n in 1..=2 {
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":"mcpshim-{n}","result":{{"action":"accept","x":"{blob}"}}}}"#
        ));
    }
    let last = rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":"mcpshim-3","result":{{"roots":[],"x":"{blob}"}}}}"#
    ));
    assert!(last.contains("too long to be kept"), "no bound");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn a_capability_that_is_missing_is_named() {
    let mut rig = called();
    let transcript = rig.play(
        r#"«beta {"jsonrpc":"2.0","id":6,"error":{"code":-32021,"message":"no","data":{"requiredCapabilities":{"sampling":{}}}}}"#,
    );
    assert!(
        transcript.contains("needs sampling of the client"),
        "{transcript}"
    );
}

#[test]
fn a_call_does_not_go_on_for_somebody_else() {
    // with and without nobody in between
    for between in [false, true] {
        let mut rig = called();
        if between {
            rig.handle(Input::Snapshot(snapshot_of(2, &asking(), None)));
        }
        rig.handle(Input::Snapshot(snapshot_of(3, &asking(), Some(bob()))));
        let end = rig.play(
            r#"«beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","requestState":"s"}}
            +250"#,
        );
        assert!(!end.contains("»beta"), "{end}");
        assert!(end.contains("somebody else signed in"), "{end}");
        assert_eq!(rig.machine.books().2, 0);
    }
    // a renewed sign-in is the same person's
    let mut rig = called();
    rig.handle(Input::Snapshot(snapshot_of(
        2,
        &asking(),
        Some(ann(&["eng"])),
    )));
    let goes = rig.play(
        r#"«beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","requestState":"s"}}
        +250"#,
    );
    assert!(goes.contains("»beta"), "{goes}");
}
