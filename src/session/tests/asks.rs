//! What servers ask of handshake clients: carried, labelled, answered, taken back, refused.

use super::*;
use crate::limits;

const ALL: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}"#;
const CALL: &str =
    r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#;
const FORM: &str = r#"«alpha {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{"type":"object","properties":{}}}}"#;

pub(super) fn rig(capabilities: &str, revision: &str) -> Rig {
    let mut rig = Rig::new(Some(snapshot_of(1, &asking(), Some(ann(&["eng"])))));
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{capabilities},"clientInfo":{{"name":"old","version":"3"}}}}}}
        > {{"jsonrpc":"2.0","method":"notifications/initialized"}}"#
    ));
    rig
}

fn called() -> Rig {
    let mut rig = rig(ALL, "2025-11-25");
    rig.play(CALL);
    rig
}

#[test]
fn a_question_goes_to_the_client_and_its_answer_back_byte_for_byte() {
    let mut rig = called();
    insta::assert_snapshot!(rig.play(
        r#"«alpha { "id" : "q\u0031", "z":1.50, "method":"elicitation/create","jsonrpc":"2.0","params":{"_meta":{"progressToken":"p","v":1E+2},"mode":"form", "message":"S\u00fcre?\n","task":{"ttl":1},"requestedSchema":{"type":"object","properties":{"n":{"type":"integer","x":12345678901234567890123}}}}}
        > {"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1.50,"progressToken":1}}
        > {"result":{"action":"accept","content":{"n": 12345678901234567890123},"x":null}, "id":"mcpshim-1","jsonrpc":"2.0"}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#
    ), @r#"
    «alpha { "id" : "q\u0031", "z":1.50, "method":"elicitation/create","jsonrpc":"2.0","params":{"_meta":{"progressToken":"p","v":1E+2},"mode":"form", "message":"S\u00fcre?\n","task":{"ttl":1},"requestedSchema":{"type":"object","properties":{"n":{"type":"integer","x":12345678901234567890123}}}}}
    ! intent 1.1 alpha(2025-11-25)/elicitation/create by elicitation {"_meta":{"progressToken":"p","v":1E+2},"mode":"form", "message":"S\u00fcre?\n","task":{"ttl":1},"requestedSchema":{"type":"object","properties":{"n":{"type":"integer","x":12345678901234567890123}}}}
    < { "id" : "mcpshim-1", "z":1.50, "method":"elicitation/create","jsonrpc":"2.0","params":{"_meta":{"progressToken":1,"v":1E+2},"mode":"form", "message":"[alpha] S\u00fcre?\n","requestedSchema":{"type":"object","properties":{"n":{"type":"integer","x":12345678901234567890123}}}}}
    > {"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1.50,"progressToken":1}}
    »alpha {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1.5}}
    > {"result":{"action":"accept","content":{"n": 12345678901234567890123},"x":null}, "id":"mcpshim-1","jsonrpc":"2.0"}
    ! outcome 1.1 Ok {"action":"accept","content":{"n": 12345678901234567890123},"x":null}
    »alpha {"result":{"action":"accept","content":{"n": 12345678901234567890123},"x":null}, "id":"q\u0031","jsonrpc":"2.0"}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    ! outcome 1 Ok {"content":[]}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[]}}
    "#);
    // an error is carried as it is, too
    rig.play(CALL);
    insta::assert_snapshot!(rig.play(
        r#"«alpha {"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}
        > {"jsonrpc":"2.0","id":"mcpshim-2","error":{"code":-1,"message":"User rejected","data":{"a":1.0}}}"#
    ), @r#"
    «alpha {"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}
    ! intent 2.1 alpha(2025-11-25)/sampling/createMessage by sampling {"messages":[],"maxTokens":1}
    < {"jsonrpc":"2.0","id":"mcpshim-2","method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}
    > {"jsonrpc":"2.0","id":"mcpshim-2","error":{"code":-1,"message":"User rejected","data":{"a":1.0}}}
    ! outcome 2.1 error -1 {"code":-1,"message":"User rejected","data":{"a":1.0}}
    »alpha {"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"User rejected","data":{"a":1.0}}}
    "#);
}

#[test]
fn a_question_outside_of_calls_is_of_none() {
    let mut rig = called();
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    let transcript = rig.play(FORM);
    assert!(
        transcript.contains("! intent 2 alpha(2025-11-25)/elicitation/create by elicitation"),
        "{transcript}"
    );
    assert!(transcript.contains("[alpha] Sure?"), "{transcript}");
}

#[test]
fn what_may_not_be_asked_is_refused_and_recorded() {
    let refused = |capabilities: &str, revision: &str, question: &str, rpc: i64, code: &str| {
        let mut rig = rig(capabilities, revision);
        rig.play(CALL);
        let transcript = rig.play(&format!(
            r#"«alpha {{"jsonrpc":"2.0","id":"q",{question}}}"#
        ));
        let error = format!(r#"»alpha {{"jsonrpc":"2.0","id":"q","error":{{"code":{rpc},"#);
        assert!(transcript.contains(&error), "{transcript}");
        assert!(transcript.contains("! denial 2 "), "{transcript}");
        assert!(transcript.contains(code), "{transcript}");
        assert!(!transcript.contains("\n< "), "{transcript}");
    };
    let form = r#""method":"elicitation/create","params":{"message":"a","requestedSchema":{}}"#;
    let url = r#""method":"elicitation/create","params":{"mode":"url","message":"a","elicitationId":"e","url":"https://a/"}"#;
    let new = "2025-11-25";
    let not = "ask-not-declared";
    refused("{}", new, form, -32601, not);
    refused(r#"{"elicitation":{}}"#, new, url, -32602, not);
    refused(r#"{"elicitation":{"url":{}}}"#, new, form, -32601, not);
    // revisions that do not know it
    refused(ALL, "2025-06-18", url, -32602, not);
    refused(ALL, "2025-03-26", form, -32601, not);
    let tools = r#""method":"sampling/createMessage","params":{"messages":[],"tools":[]}"#;
    refused(r#"{"sampling":{}}"#, new, tools, -32602, not);
    // what two readers would read as two things, and what a client could not show
    for bad in [
        r#"{"message":"a","Message":"b"}"#,
        r#"{"message":"a","Mode":"url","url":"https://a/"}"#,
        r#"{"message":1}"#,
        r#"{"mode":"voice","message":"a"}"#,
        r#"{"mode":"url","message":"a","url":"https://a/"}"#,
        r#"{"mode":"url","message":"a","elicitationId":"e","url":"file:///etc/passwd"}"#,
        r#"{"mode":"url","message":"a","elicitationId":"e","url":"javascript:alert(1)"}"#,
        r#"{"message":"a","_meta":{"a":1,"a":2}}"#,
        "{}",
    ] {
        let question = format!(r#""method":"elicitation/create","params":{bad}"#);
        if bad.contains(r#""a":2"#) {
            // not even a message
            continue;
        }
        refused(ALL, new, &question, -32602, "ask-malformed");
    }
    refused(ALL, new, r#""method":"x/y""#, -32601, "ask-unknown");
    let giant = format!(
        r#""method":"elicitation/create","params":{{"message":"{}"}}"#,
        "x".repeat(limits::ELICITATION_BYTES)
    );
    refused(ALL, new, &giant, -32603, "ask-limit");
}

#[test]
fn only_a_server_whose_entry_says_so_may_ask() {
    let mut rig = Rig::eng();
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{ALL}}}}}
        {CALL}"#
    ));
    let transcript = rig.play(FORM);
    assert!(transcript.contains("ask-not-in-entry"), "{transcript}");
    assert!(transcript.contains(r#""code":-32601"#), "{transcript}");
}

#[test]
fn an_answer_counts_once_and_only_from_whom_it_was_asked() {
    let mut rig = called();
    // before it is asked, by nobody; in another spelling; by the server itself
    let early = rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
        +3000"#,
    );
    assert!(early.contains("! counted client-answer 1"), "{early}");
    rig.play(FORM);
    let strays = rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-01","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}
        «alpha {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
        «alpha {"jsonrpc":"2.0","id":"q","result":{"action":"accept"}}
        +3000"#,
    );
    assert!(!strays.contains("»alpha"), "{strays}");
    assert!(!strays.contains("! outcome"), "{strays}");
    assert!(strays.contains("! counted client-answer 3"), "{strays}");
    assert!(strays.contains("! counted stray-answer 2"), "{strays}");
    // the same id in other letters is the same id
    let twice = rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim\u002d1","result":{"action":"accept"}}
        > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"decline"}}
        +3000"#,
    );
    assert_eq!(twice.matches("»alpha").count(), 1, "{twice}");
    assert!(
        twice.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","result":{"action":"accept"}}"#),
        "{twice}"
    );
    assert!(twice.contains("! counted client-answer 1"), "{twice}");
}

#[test]
fn an_answer_that_cannot_be_read_ends_the_question() {
    let mut rig = called();
    rig.play(FORM);
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept","action":"decline"}}"#,
    );
    assert!(
        transcript.contains("! outcome 1.1 error -32603"),
        "{transcript}"
    );
    assert!(
        transcript.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","error""#),
        "{transcript}"
    );
}

#[test]
fn a_person_has_ten_minutes_and_the_time_of_the_call_stands_still() {
    let mut rig = called();
    rig.play(FORM);
    // the call itself may take 600 s
    let asked = rig.play("+599000");
    assert_eq!(asked, "+599000\n");
    let late = rig.play("+1000");
    insta::assert_snapshot!(late, @r#"
    +1000
    < {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"mcpshim-1"}}
    ! outcome 1.1 Timeout
    »alpha {"jsonrpc":"2.0","id":"q","error":{"code":-32603,"message":"the client did not answer in time"}}
    "#);
    // its own time runs again from here
    assert_eq!(rig.play("+599000"), "+599000\n");
    let over = rig.play("+1000");
    assert!(over.contains("! outcome 1 Timeout"), "{over}");
}

#[test]
fn a_server_that_asks_for_ever_does_not_hold_a_call_for_ever() {
    let mut rig = called();
    let mut waited_s = 0;
    for n in 0..20 {
        rig.play(&FORM.replace("\"q\"", &n.to_string()));
        let transcript = rig.play("+599000");
        waited_s += 599;
        if transcript.contains("! outcome 1 Timeout") {
            // its questions went with it
            assert!(
                transcript.contains("notifications/cancelled"),
                "{transcript}"
            );
            assert_eq!(rig.machine.books().2, 0);
            assert!(waited_s <= 4_800, "{waited_s}");
            return;
        }
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":"mcpshim-{}","result":{{"action":"cancel"}}}}"#,
            n + 1
        ));
    }
    panic!("the call never ended");
}

#[test]
fn a_question_is_taken_back_by_its_server_with_its_call_and_with_its_transport() {
    let mut rig = called();
    rig.play(FORM);
    insta::assert_snapshot!(rig.play(
        r#"«alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q"}}
        > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}"#
    ), @r#"
    «alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q"}}
    < {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"mcpshim-1"}}
    ! outcome 1.1 Cancelled
    > {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}
    "#);
    rig.play(FORM);
    insta::assert_snapshot!(rig.play(
        r#"> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}
        > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"action":"accept"}}"#
    ), @r#"
    > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}
    »alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}
    ! outcome 1 Cancelled
    < {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"mcpshim-2"}}
    ! outcome 1.2 Cancelled
    »alpha {"jsonrpc":"2.0","id":"q","error":{"code":-32603,"message":"the call it belongs to is over"}}
    > {"jsonrpc":"2.0","id":"mcpshim-2","result":{"action":"accept"}}
    "#);
    // of nothing
    rig.play(
        r#"> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"mcpshim-9"}}
        «alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}
        «alpha {"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
    );
    rig.play(CALL);
    rig.play(FORM);
    let gone = rig.play("closed alpha ended");
    assert!(gone.contains(r#""requestId":"mcpshim-3""#), "{gone}");
    assert!(gone.contains("! outcome 2.1 Cancelled"), "{gone}");
    // the server is there again, and the client answers what the one before asked
    rig.play(CALL);
    let late = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-3","result":{"action":"accept"}}"#);
    assert!(!late.contains("»alpha"), "{late}");
    assert_eq!(rig.machine.books().2, 1);
}

#[test]
fn a_question_outlives_a_call_that_was_answered() {
    let mut rig = called();
    rig.play(FORM);
    let answered = rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    assert!(!answered.contains("cancelled"), "{answered}");
    let told = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}"#);
    assert!(told.contains("! outcome 1.1 Ok"), "{told}");
    assert!(
        told.contains(r#"»alpha {"jsonrpc":"2.0","id":"q""#),
        "{told}"
    );
}

#[test]
fn nothing_is_asked_before_it_is_recorded_or_answered_before_that_is() {
    let mut rig = called();
    rig.recording = Recording::Withheld;
    let asked = rig.play(FORM);
    assert!(!asked.contains("\n< "), "{asked}");
    // an answer to what was not asked yet
    let early = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}"#);
    assert!(!early.contains("! outcome"), "{early}");
    assert!(
        rig.play("recorded")
            .contains(r#"< {"jsonrpc":"2.0","id":"mcpshim-1""#)
    );
    let answered = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}"#);
    assert!(!answered.contains("»alpha"), "{answered}");
    // the grant is taken back while the answer is on its way into the record
    let mut registry = asking();
    registry.table("eng", "alpha").tools.clear();
    rig.handle(Input::Snapshot(snapshot_of(
        2,
        &registry,
        Some(ann(&["eng"])),
    )));
    let told = rig.play("recorded");
    assert!(
        told.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","error":{"code":-32603"#),
        "{told}"
    );
    assert!(!told.contains("accept"), "{told}");
    // what cannot be recorded is not asked
    let mut rig = called();
    rig.recording = Recording::Fails;
    let lost = rig.play(FORM);
    assert!(!lost.contains("\n< "), "{lost}");
    assert!(lost.contains("could not be recorded"), "{lost}");
}

#[test]
fn somebody_else_or_nobody_answers_for_no_one() {
    for caller in [None, Some(ann(&[]))] {
        let mut rig = called();
        rig.play(FORM);
        rig.handle(Input::Snapshot(snapshot_of(2, &asking(), caller)));
        let transcript =
            rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}"#);
        assert!(
            transcript.contains(r#""requestId":"mcpshim-1""#),
            "{transcript}"
        );
        assert!(transcript.contains("ask-not-allowed"), "{transcript}");
        assert!(transcript.contains("! outcome 1.1 NotSent"), "{transcript}");
        assert!(
            transcript.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","error":{"code":-32603"#),
            "{transcript}"
        );
        assert!(
            !transcript.contains(r#""result":{"action""#)
                || !transcript.contains("»alpha {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"result\""),
            "{transcript}"
        );
    }
    // the sign-in ends by time alone
    let mut rig = called();
    rig.play(FORM);
    rig.now.wall_us += 40 * 86_400 * 1_000_000;
    let late = rig.play(r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"accept"}}"#);
    assert!(late.contains("ask-not-allowed"), "{late}");
    assert!(!late.contains(r#""id":"q","result""#), "{late}");
}

#[test]
fn a_server_cannot_flood_the_person_the_client_or_the_record() {
    let mut rig = called();
    let (mut asked, mut denied) = (0, 0);
    for n in 0..10_000 {
        let transcript = rig.play(&FORM.replace("\"q\"", &n.to_string()));
        asked += transcript.matches("< {").count();
        denied += transcript.matches("! denial").count();
        rig.seen.clear();
    }
    assert_eq!((asked, denied), (limits::QUESTIONS_PER_SERVER, 16));
    // one that takes each back and asks again is bounded too
    let mut rig = called();
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    let mut asked = 0;
    for _ in 0..3_000 {
        let transcript = rig.play(&format!(
            r#"{FORM}
            «alpha {{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"q"}}}}"#
        ));
        asked += transcript
            .matches("elicitation/create\",\"params\":{\"message\":\"[alpha]")
            .count();
        rig.seen.clear();
    }
    assert_eq!(asked, 1024);
    assert_eq!(rig.machine.books().2, 0);
    // two of one id
    let mut rig = called();
    rig.play(FORM);
    let again = rig.play(FORM);
    assert!(again.contains("ask-repeated-id"), "{again}");
}

#[test]
fn the_end_of_an_elicitation_is_told_once_and_only_by_who_began_it() {
    let mut rig = called();
    rig.play(r#"> {"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"beta_echo"}}"#);
    let url = r#"«alpha {"jsonrpc":"2.0","id":"u","method":"elicitation/create","params":{"mode":"url","message":"Sign in","elicitationId":"e\u0031","url":"https://a.example/\u0062"}}"#;
    let asked = rig.play(url);
    assert!(asked.contains(r#""message":"[alpha] Sign in","elicitationId":"e\u0031","url":"https://a.example/\u0062""#), "{asked}");
    let done = |key: &str, id: &str| {
        format!(
            r#"«{key} {{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{{"elicitationId":"{id}","z":1.0}}}}"#
        )
    };
    let strange = rig.play(&format!(
        "{}\n{}\n+3000",
        done("beta", "e1"),
        done("alpha", "e2")
    ));
    assert!(!strange.contains("\n< "), "{strange}");
    assert!(strange.contains("counted stray-elicitation 2"), "{strange}");
    let told = rig.play(&done("alpha", "e1"));
    assert!(told.contains(r#"< {"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":"e1","z":1.0}}"#), "{told}");
    assert!(!rig.play(&done("alpha", "e1")).contains("\n< "));
}

#[test]
fn an_error_that_wants_an_address_opened_first_is_labelled_or_told_in_words() {
    let error = r#"«alpha {"jsonrpc":"2.0","id":6,"error":{"code":-32042,"message":"Sign in first","data":{"elicitations":[ {"mode":"url","elicitationId":"e1","url":"https://a.example/x","message":"Sign in"} ],"z":1.50}}}"#;
    let mut rig = called();
    let passed = rig.play(error);
    assert!(passed.contains(r#"< {"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"Sign in first","data":{"elicitations":[ {"mode":"url","elicitationId":"e1","url":"https://a.example/x","message":"[alpha] Sign in"} ],"z":1.50}}}"#), "{passed}");
    let done = rig.play(r#"«alpha {"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":"e1"}}"#);
    assert!(done.contains("\n< "), "{done}");
    // a client that cannot open it, and an address no browser opens
    for (capabilities, revision, error) in [
        ("{}", "2025-11-25", error.to_owned()),
        (ALL, "2025-06-18", error.to_owned()),
        (
            ALL,
            "2025-11-25",
            error.replace("https://a.example", "file://"),
        ),
    ] {
        let mut rig = self::rig(capabilities, revision);
        rig.play(CALL);
        let told = rig.play(&error);
        assert!(told.contains("Open this address"), "{told}");
        assert!(
            !told.contains("< {\"jsonrpc\":\"2.0\",\"id\":1,\"error\""),
            "{told}"
        );
    }
}
