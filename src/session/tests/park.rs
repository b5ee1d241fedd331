//! What servers ask of clients of the stateless era: parked calls, and what passes through.

use super::*;
use crate::limits;

const CAN: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;
const FORM: &str = r#"«alpha {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{"type":"object","properties":{}}}}"#;
const DONE: &str = r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#;
const ACCEPT: &str = r#"{"action":"accept","content":{}}"#;

fn rig() -> Rig {
    Rig::new(Some(snapshot_of(1, &asking(), Some(ann(&["eng"])))))
}

/// A call with further params; the client can be asked what it says.
fn call_as(can: &str, id: u32, name: &str, more: &str) -> String {
    let meta = META.replace(
        r#"clientCapabilities":{}"#,
        &format!(r#"clientCapabilities":{can}"#),
    );
    format!(
        r#"> {{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}",{more}{meta}}}}}"#
    )
}

fn call(id: u32, more: &str) -> String {
    call_as(CAN, id, "alpha_echo", more)
}

/// The handle in what the client was asked last.
fn handle(transcript: &str) -> String {
    let at = transcript.rfind("mcpshim-parked-").expect(transcript);
    transcript[at..].split('"').next().unwrap().to_owned()
}

fn retry(id: u32, handle: &str, answers: &str) -> String {
    call(
        id,
        &format!(r#""inputResponses":{{{answers}}},"requestState":"{handle}","#),
    )
}

/// A call that waits for the answer to one form, and its handle.
fn parked() -> (Rig, String) {
    let mut rig = rig();
    rig.play(&call(1, ""));
    let asked = rig.play(&format!("{FORM}\n+20"));
    let handle = handle(&asked);
    (rig, handle)
}

/// Without the client's lines, which are long and known.
fn short(transcript: &str) -> String {
    let lines = transcript.lines().filter(|line| !line.starts_with("> "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_question_parks_its_call_and_the_retry_goes_on_with_it() {
    let mut rig = rig();
    rig.play(&call(1, r#""arguments":{"n":1.50},"#));
    let asked = rig.play(
        r#"«alpha {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"mode":"form","message":"S\u00fcre?","task":{},"_meta":{"progressToken":1,"v":1E+2},"requestedSchema":{"type":"object","properties":{"n":{"x":1.50}}}}}
        +10
        «alpha {"jsonrpc":"2.0","id":9,"method":"elicitation/create","params":{"mode":"url","message":"Sign in","url":"https://a/","elicitationId":"e"}}
        «alpha {"jsonrpc":"2.0","id":10,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}
        +10"#,
    );
    insta::assert_snapshot!(asked, @r#"
«alpha {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"mode":"form","message":"S\u00fcre?","task":{},"_meta":{"progressToken":1,"v":1E+2},"requestedSchema":{"type":"object","properties":{"n":{"x":1.50}}}}}
! intent 1.1 alpha(2025-11-25)/elicitation/create by elicitation {"mode":"form","message":"S\u00fcre?","task":{},"_meta":{"progressToken":1,"v":1E+2},"requestedSchema":{"type":"object","properties":{"n":{"x":1.50}}}}
+10
«alpha {"jsonrpc":"2.0","id":9,"method":"elicitation/create","params":{"mode":"url","message":"Sign in","url":"https://a/","elicitationId":"e"}}
! intent 1.2 alpha(2025-11-25)/elicitation/create by elicitation {"mode":"url","message":"Sign in","url":"https://a/","elicitationId":"e"}
«alpha {"jsonrpc":"2.0","id":10,"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}
! intent 1.3 alpha(2025-11-25)/sampling/createMessage by sampling {"messages":[],"maxTokens":1}
+10
< {"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"1":{"method":"elicitation/create","params":{"mode":"form","message":"[alpha] S\u00fcre?","_meta":{"v":1E+2},"requestedSchema":{"type":"object","properties":{"n":{"x":1.50}}}}},"2":{"method":"elicitation/create","params":{"mode":"url","message":"[alpha] Sign in","url":"https://a/"}},"3":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}},"requestState":"mcpshim-parked-1a64e3ba1626686f60a32b9ebafc942a","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}
"#);
    let handle = handle(&asked);
    // missing answers are asked again, names nobody asked are counted
    let more = rig.play(&format!(
        "{}\n+20",
        call(
            2,
            &format!(r#""arguments":{{"n":1.50}},"inputResponses":{{"1":{{"action":"accept","content":{{"n": 1e2}}}},"7":{{"action":"accept"}}}},"requestState":"{handle}","#)
        )
    ));
    insta::assert_snapshot!(short(&more), @r#"
! outcome 1.1 Ok {"action":"accept","content":{"n": 1e2}}
»alpha {"jsonrpc":"2.0","id":"q","result":{"action":"accept","content":{"n": 1e2}}}
+20
< {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"2":{"method":"elicitation/create","params":{"mode":"url","message":"[alpha] Sign in","url":"https://a/"}},"3":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1}}},"requestState":"mcpshim-parked-fa80a31a7dddc3f17d530526ee408214","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}
"#);
    let second = self::handle(&more);
    assert_ne!(handle, second);
    let rest = rig.play(&format!(
        "{}\n{DONE}\n+2000",
        call(
            3,
            &format!(r#""arguments":{{"n":1.50}},"inputResponses":{{"2":{{"action":"decline"}},"3":{{"role":"assistant","content":{{"type":"text","text":"x"}},"model":"m"}}}},"requestState":"{second}","#)
        )
    ));
    insta::assert_snapshot!(short(&rest), @r#"
! outcome 1.2 Ok {"action":"decline"}
! outcome 1.3 Ok {"role":"assistant","content":{"type":"text","text":"x"},"model":"m"}
»alpha {"jsonrpc":"2.0","id":9,"result":{"action":"decline"}}
»alpha {"jsonrpc":"2.0","id":10,"result":{"role":"assistant","content":{"type":"text","text":"x"},"model":"m"}}
«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
! outcome 1 Ok {"content":[]}
< {"jsonrpc":"2.0","id":3,"result":{"content":[],"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}
+2000
! counted ask-not-asked 1
"#);
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn a_handle_is_good_for_one_retry_of_the_same_call_by_the_same_caller() {
    let stale = |rig: &mut Rig, script: &str| {
        let transcript = rig.play(script);
        assert!(transcript.contains("! denial "), "{transcript}");
        // the client's program misused the protocol, which no model can mend
        assert!(
            transcript.contains(r#""error":{"code":-32602,"#),
            "{transcript}"
        );
        assert!(!transcript.contains("isError"), "{transcript}");
        assert!(
            transcript.contains(r#""data":{"code":"stale-answer"}"#),
            "{transcript}"
        );
        assert!(!transcript.contains("»alpha"), "{transcript}");
        transcript
    };
    let answer = format!(r#""1":{ACCEPT}"#);
    let (mut rig, handle) = parked();
    // forged, or of another session
    let forged = format!("mcpshim-parked-{}", "0".repeat(32));
    let said = stale(&mut rig, &retry(2, &forged, &answer));
    assert!(said.contains("call again"), "{said}");
    // states of nobody here
    stale(&mut rig, &call(4, r#""requestState":"x","#));
    stale(&mut rig, &call(5, r#""requestState":7,"#));
    // another call
    stale(
        &mut rig,
        &call(
            6,
            &format!(
                r#""arguments":{{"a":1}},"inputResponses":{{{answer}}},"requestState":"{handle}","#
            ),
        ),
    );
    // none of them took anything from the right one
    let good = rig.play(&retry(7, &handle, &answer));
    assert!(
        good.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","result":{"action":"accept""#),
        "{good}"
    );
    // two at once, and one that was used
    stale(&mut rig, &retry(8, &handle, &answer));
    let done = rig.play(DONE);
    assert!(
        done.contains(r#"< {"jsonrpc":"2.0","id":7,"result""#),
        "{done}"
    );
    stale(&mut rig, &retry(9, &handle, &answer));
    // it is known by its escaped spelling, too
    let (mut rig, handle) = parked();
    let escaped = handle.replacen('m', "\\u006d", 1);
    let good = rig.play(&retry(2, &escaped, &answer));
    assert!(good.contains("»alpha"), "{good}");
    // so is a prompt
    let meta = META.replace(
        r#"clientCapabilities":{}"#,
        &format!(r#"clientCapabilities":{CAN}"#),
    );
    let prompt = rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":3,"method":"prompts/get","params":{{"name":"alpha_greet","requestState":"{handle}",{meta}}}}}"#
    ));
    assert!(prompt.contains(r#""error":{"code":-32602"#), "{prompt}");
}

/// Found by the official conformance suite: what is asked here has a state, so such answers are to
/// nothing, which is no misuse.
#[test]
fn answers_without_a_state_answer_nothing_and_the_call_is_made() {
    let mut rig = rig();
    let answers = format!(r#""inputResponses":{{"user_name":{ACCEPT}}},"#);
    let called = rig.play(&call(1, &answers));
    assert!(called.contains("! intent 1 "), "{called}");
    // all of it is in the record, and nothing of it goes up
    assert!(called.contains("user_name"), "{called}");
    let sent = called.lines().find(|line| line.starts_with("»alpha"));
    assert!(!sent.unwrap().contains("inputResponses"), "{called}");
    let asked = rig.play(&format!("{FORM}\n+20"));
    assert!(asked.contains("input_required"), "{asked}");
}

#[test]
fn somebody_else_and_somebody_without_the_right_get_nothing() {
    let answer = format!(r#""1":{ACCEPT}"#);
    // another person: what waited ends, and is not theirs
    let (mut rig, handle) = parked();
    rig.handle(Input::Snapshot(snapshot_of(2, &asking(), Some(bob()))));
    let ended = rig.play("");
    insta::assert_snapshot!(ended, @r#"
! outcome 1.1 Cancelled
»alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}
! outcome 1 Cancelled
»alpha {"jsonrpc":"2.0","id":"q","result":{"action":"cancel"}}
"#);
    let refused = rig.play(&retry(2, &handle, &answer));
    assert!(refused.contains("stale-answer"), "{refused}");
    // nobody may call it any more
    let (mut rig, handle) = parked();
    let mut registry = asking();
    registry
        .revocations
        .tools
        .push((fixture::key("alpha"), "echo".to_owned()));
    rig.handle(Input::Snapshot(snapshot_of(
        2,
        &registry,
        Some(ann(&["eng"])),
    )));
    let ended = rig.play("");
    assert!(ended.contains("! outcome 1 Cancelled"), "{ended}");
    let refused = rig.play(&retry(2, &handle, &answer));
    // what the organisation decided is told to the model
    assert!(refused.contains(r#""code":"revoked""#), "{refused}");
    assert!(refused.contains(r#""isError":true"#), "{refused}");
    assert_eq!(rig.machine.books().2, 0);
    // a question that is still gathered is not asked
    let mut rig = self::rig();
    rig.play(&format!("{}\n{FORM}", call(1, "")));
    rig.handle(Input::Snapshot(snapshot_of(
        2,
        &registry,
        Some(ann(&["eng"])),
    )));
    let ended = rig.play("+20");
    assert!(ended.contains("! outcome 1.1 NotSent"), "{ended}");
    assert!(!ended.contains("< "), "{ended}");
}

#[test]
fn an_answer_of_the_wrong_type_is_an_error_and_changes_nothing() {
    let (mut rig, handle) = parked();
    for wrong in [
        "1",
        "{}",
        r#"{"action":"yes"}"#,
        r#"{"action":"accept","content":1}"#,
        r#"{"action":"accept","action":"decline"}"#,
        r#"{"action":"decline","Action":"accept"}"#,
        r#"{"action":"accept","content":{"a":1,"a":2}}"#,
        r#"{"role":"assistant","content":{},"model":"m"}"#,
    ] {
        let transcript = rig.play(&retry(2, &handle, &format!(r#""1":{wrong}"#)));
        assert!(
            transcript.contains(r#""error":{"code":-32602"#),
            "{transcript}"
        );
        assert!(!transcript.contains("»alpha"), "{transcript}");
    }
    let list = rig.play(&call(
        3,
        &format!(r#""inputResponses":[],"requestState":"{handle}","#),
    ));
    assert!(list.contains("must be an object"), "{list}");
    let good = rig.play(&retry(4, &handle, &format!(r#""1":{ACCEPT}"#)));
    assert!(good.contains("»alpha"), "{good}");
}

#[test]
fn what_no_retry_comes_for_is_taken_back() {
    let (mut rig, handle) = parked();
    let over = rig.play("+599999\n+1\n+2000");
    insta::assert_snapshot!(over, @r#"
+599999
+1
! outcome 1.1 Timeout
»alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}
! outcome 1 Timeout
»alpha {"jsonrpc":"2.0","id":"q","result":{"action":"cancel"}}
+2000
"#);
    let late = rig.play(&retry(2, &handle, &format!(r#""1":{ACCEPT}"#)));
    assert!(late.contains("stale-answer"), "{late}");
    assert_eq!(rig.machine.books().2, 0);
    // sampling has no answer that takes it back
    let mut rig = self::rig();
    rig.play(&format!(
        r#"{}
        «alpha {{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{{"messages":[],"maxTokens":1}}}}
        +20"#,
        call(1, "")
    ));
    let over = rig.play("+600000");
    assert!(
        over.contains(r#""id":"q","error":{"code":-32603"#),
        "{over}"
    );
}

#[test]
fn every_end_is_told_and_recorded() {
    let answer = format!(r#""1":{ACCEPT}"#);
    // the upstream answers while the client is asked: the retry gets it
    let (mut rig, handle) = parked();
    let ended = rig.play(DONE);
    insta::assert_snapshot!(ended, @r#"
«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
! outcome 1 Ok {"content":[]}
! outcome 1.1 Cancelled
»alpha {"jsonrpc":"2.0","id":"q","result":{"action":"cancel"}}
"#);
    let kept = rig.play(&retry(2, &handle, &answer));
    assert_eq!(
        short(&kept),
        r#"< {"jsonrpc":"2.0","id":2,"result":{"content":[],"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}"#
    );
    let again = rig.play(&retry(3, &handle, &answer));
    assert!(again.contains("stale-answer"), "{again}");
    // the transport ends
    let (mut rig, handle) = parked();
    let ended = rig.play("closed alpha ended");
    assert!(ended.contains("! outcome 1.1 Cancelled"), "{ended}");
    assert!(ended.contains("! outcome 1 Unknown"), "{ended}");
    let kept = rig.play(&retry(2, &handle, &answer));
    assert!(
        kept.contains("whether the call took effect is not known"),
        "{kept}"
    );
    assert!(!kept.contains("! open"), "{kept}");
    // the server takes its question back, before and after it was asked
    let mut rig = self::rig();
    let gone = rig.play(&format!(
        r#"{}
        {FORM}
        «alpha {{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":"q"}}}}
        +20
        {DONE}"#,
        call(1, "")
    ));
    assert!(gone.contains("! outcome 1.1 Cancelled"), "{gone}");
    assert!(!gone.contains("input_required"), "{gone}");
    assert!(
        gone.contains(r#"< {"jsonrpc":"2.0","id":1,"result""#),
        "{gone}"
    );
    let (mut rig, handle) = parked();
    rig.play(
        r#"«alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q"}}"#,
    );
    let late = rig.play(&format!("{}\n{DONE}", retry(2, &handle, &answer)));
    assert!(!late.contains("»alpha"), "{late}");
    assert!(
        late.contains(r#"< {"jsonrpc":"2.0","id":2,"result""#),
        "{late}"
    );
    // the client takes its retry back
    let (mut rig, handle) = parked();
    let gone = rig.play(&format!(
        r#"{}
        > {{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":2}}}}"#,
        retry(2, &handle, &answer)
    ));
    assert!(gone.contains("! outcome 1 Cancelled"), "{gone}");
    assert!(gone.contains("notifications/cancelled"), "{gone}");
    // … or its first request while questions are gathered
    let mut rig = self::rig();
    let gone = rig.play(&format!(
        r#"{}
        {FORM}
        > {{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":1}}}}
        +20"#,
        call(1, "")
    ));
    assert!(
        gone.contains(r#""id":"q","result":{"action":"cancel"}"#),
        "{gone}"
    );
    assert!(!gone.contains("input_required"), "{gone}");
    assert_eq!(rig.machine.books().2, 0);
    // the client goes
    let (mut rig, _) = parked();
    let gone = rig.play("eof");
    assert!(gone.contains("! outcome 1.1 Cancelled"), "{gone}");
    assert!(gone.contains("! outcome 1 Unknown"), "{gone}");
    assert!(gone.contains("! done"), "{gone}");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn nothing_is_asked_and_no_answer_given_that_is_not_recorded() {
    let mut rig = rig();
    rig.play(&call(1, ""));
    rig.recording = Recording::Withheld;
    let held = rig.play(&format!("{FORM}\n+20"));
    assert!(!held.contains("< "), "{held}");
    let asked = rig.play("recorded\n+20");
    assert!(asked.contains("input_required"), "{asked}");
    let handle = handle(&asked);
    let held = rig.play(&retry(2, &handle, &format!(r#""1":{ACCEPT}"#)));
    assert!(!held.contains("»alpha"), "{held}");
    let told = rig.play("recorded");
    assert!(told.contains("»alpha"), "{told}");
    // a question that cannot be recorded is not asked
    let mut rig = self::rig();
    rig.play(&call(1, ""));
    rig.recording = Recording::Fails;
    let refused = rig.play(&format!("{FORM}\n+20"));
    assert!(refused.contains("! outcome 1.1 NotSent"), "{refused}");
    assert!(refused.contains("could not be recorded"), "{refused}");
    assert!(!refused.contains("< "), "{refused}");
    // an outcome that cannot be is withheld from the retry, too
    let (mut rig, handle) = parked();
    rig.recording = Recording::Fails;
    rig.play(&DONE.replace("[]", r#"[{"type":"text","text":"secret"}]"#));
    rig.recording = Recording::AtOnce;
    let withheld = rig.play(&retry(2, &handle, &format!(r#""1":{ACCEPT}"#)));
    assert!(withheld.contains("withheld"), "{withheld}");
    assert!(!withheld.contains("secret"), "{withheld}");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn a_kept_answer_waits_for_the_record_of_its_own_call() {
    let done = DONE.replace("[]", r#"[{"type":"text","text":"secret"}]"#);
    for (recorded, other) in [(true, false), (false, true)] {
        let (mut rig, handle) = parked();
        rig.recording = Recording::Withheld;
        rig.play(&done);
        let outcome = rig.last;
        // the retry comes before the record's word on it, and more is recorded after it
        let held = rig.play(&retry(2, &handle, &format!(r#""1":{ACCEPT}"#)));
        assert!(!held.contains("\n<"), "{held}");
        rig.play(&call(9, ""));
        let reason = "disk full".to_owned();
        let inputs = [
            match recorded {
                true => Input::Recorded { upto: outcome },
                false => Input::NotRecorded {
                    upto: outcome,
                    reason,
                },
            },
            Input::Recorded { upto: rig.last },
        ];
        for input in inputs {
            rig.handle(input);
        }
        let log = rig.play("");
        assert_eq!(log.contains("secret"), recorded, "{log}");
        assert_eq!(log.contains("withheld"), other, "{log}");
        let answers = log.matches(r#"< {"jsonrpc":"2.0","id":2,"#).count();
        assert_eq!(answers, 1, "{log}");
    }
}

#[test]
fn only_what_may_be_asked_is_and_it_is_bounded() {
    // not declared, not allowed, outside of any call, after the call was answered
    let refused = |rig: &mut Rig, line: &str, code: &str| {
        let transcript = rig.play(line);
        assert!(transcript.contains(code), "{code}: {transcript}");
        assert!(
            transcript.contains(r#""error":{"code":-32"#),
            "{transcript}"
        );
        assert!(!transcript.contains("! intent"), "{transcript}");
    };
    let mut none = rig();
    none.play(&call_as("{}", 1, "alpha_echo", ""));
    refused(&mut none, FORM, "ask-not-declared");
    let mut strict = Rig::eng();
    strict.play(&call(1, ""));
    refused(&mut strict, FORM, "ask-not-in-entry");
    let mut after = rig();
    after.play(&format!("{}\n{DONE}", call(1, "")));
    refused(&mut after, FORM, "ask-outside-call");
    refused(
        &mut after,
        &FORM.replace("«alpha", "«alpha@6"),
        "ask-outside-call",
    );
    // the same id again
    let (mut rig, _) = parked();
    refused(&mut rig, FORM, "ask-repeated-id");
    // a giant, and what cannot be read
    let mut rig = self::rig();
    rig.play(&call(1, ""));
    let giant = FORM.replace("Sure?", &"x".repeat(limits::ELICITATION_BYTES));
    let transcript = rig.play(&giant);
    assert!(transcript.contains("ask-limit"), "a giant question");
    refused(&mut rig, &FORM.replace(r#""Sure?""#, "7"), "ask-malformed");
    refused(
        &mut rig,
        &FORM.replace(r#""message":"#, r#""Message":"x","message":"#),
        "ask-malformed",
    );
    // ten thousand
    let mut intents = 0;
    for n in 0..10_000 {
        let one = FORM.replace(r#""id":"q""#, &format!(r#""id":{n}"#));
        intents += rig.play(&one).matches("! intent").count();
        rig.seen.clear();
    }
    assert_eq!(intents, limits::INPUT_REQUESTS);
    let asked = rig.play("+20");
    assert_eq!(
        asked.matches("elicitation/create").count(),
        limits::INPUT_REQUESTS
    );
}

#[test]
fn many_calls_may_wait_but_not_too_many() {
    let mut rig = rig();
    let mut parked = 0;
    for n in 0..100_u32 {
        let sent = rig.play(&call(n + 1, ""));
        let Some((_, id)) = sent.split_once(r#"»alpha {"jsonrpc":"2.0","id":"#) else {
            break;
        };
        let id: u64 = id.split(',').next().unwrap().parse().unwrap();
        let one = FORM
            .replace("«alpha", &format!("«alpha@{id}"))
            .replace(r#""id":"q""#, &format!(r#""id":{n}"#));
        let asked = rig.play(&format!("{one}\n+20"));
        parked += asked.matches("input_required").count();
        if asked.contains("ask-limit") {
            break;
        }
    }
    assert!(parked > 8 && parked <= limits::PARKED, "{parked}");
}

#[test]
fn on_a_pipe_a_question_is_of_the_only_call_or_of_none() {
    let mut rig = rig();
    rig.play(&format!(
        "{}\n{}",
        call(1, ""),
        call(2, r#""arguments":{"b":2},"#)
    ));
    // two calls are open and nobody says which one asks
    let refused = rig.play(FORM);
    assert!(refused.contains("ask-ambiguous"), "{refused}");
    // the transport may know
    let known = rig.play(&format!("{}\n+20", FORM.replace("«alpha", "«alpha@7")));
    assert!(
        known.contains(r#"< {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required""#),
        "{known}"
    );
    let handle = handle(&known);
    // from now on calls go one at a time: call 1 is still open
    let third = rig.play(&call(3, r#""arguments":{"c":3},"#));
    assert!(!third.contains("»alpha"), "{third}");
    let fourth = rig.play(&call(4, r#""arguments":{"d":4},"#));
    assert!(!fourth.contains("»alpha"), "{fourth}");
    let next = rig.play(DONE);
    assert_eq!(next.matches("»alpha").count(), 1, "{next}");
    assert!(next.contains(r#"{"c":3}"#), "{next}");
    // one that is parked holds up nobody, and is not taken for the one that asks
    let asks = rig.play(&format!("{}\n+20", FORM.replace(r#""q""#, r#""r""#)));
    assert!(
        asks.contains(r#"< {"jsonrpc":"2.0","id":3,"result":{"resultType":"input_required""#),
        "{asks}"
    );
    assert!(asks.contains(r#"{"d":4}"#), "{asks}");
    // the first one goes on beside it
    let goes = rig.play(&call(
        5,
        &format!(
            r#""arguments":{{"b":2}},"inputResponses":{{"1":{ACCEPT}}},"requestState":"{handle}","#
        ),
    ));
    assert!(
        goes.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","result""#),
        "{goes}"
    );
    rig.play("eof");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn roots_are_asked_within_a_call_and_remembered() {
    const ROOTS: &str = r#"«alpha@6 {"jsonrpc":"2.0","id":"r","method":"roots/list"}"#;
    let mut rig = rig();
    rig.machine.set_project("file:///srv/ann");
    rig.play(&call(1, ""));
    let asked = rig.play(&format!("{ROOTS}\n+20"));
    assert!(
        asked.contains(r#""inputRequests":{"1":{"method":"roots/list"}}"#),
        "{asked}"
    );
    let handle = handle(&asked);
    let told = rig.play(&retry(
        2,
        &handle,
        r#""1":{"roots":[{"uri":"file:///mine"}]}"#,
    ));
    assert!(
        told.contains(
            r#"»alpha {"jsonrpc":"2.0","id":"r","result":{"roots":[{"uri":"file:///mine"}]}}"#
        ),
        "{told}"
    );
    // outside of a call: what was said last
    let own = rig.play(&format!("{DONE}\n{}", ROOTS.replace("@6", "")));
    assert!(
        own.contains(r#""result":{"roots":[{"uri":"file:///mine"}]}"#),
        "{own}"
    );
    assert!(!own.contains("input_required"), "{own}");
}

#[test]
fn a_server_that_asks_for_roots_between_calls_can_ask_again_in_one() {
    const ROOTS: &str = r#"«alpha {"jsonrpc":"2.0","id":"r","method":"roots/list"}"#;
    let mut rig = rig();
    rig.play(&call(1, ""));
    // it would keep an empty answer
    let early = rig.play(&format!("{DONE}\n{ROOTS}"));
    assert!(
        early.contains(r#""id":"r","error":{"code":-32603"#),
        "{early}"
    );
    rig.play(&call(2, ""));
    let asked = rig.play(&format!("{ROOTS}\n+20"));
    assert!(
        asked.contains(r#""inputRequests":{"1":{"method":"roots/list"}}"#),
        "{asked}"
    );
}

const ADDRESS: &str = r#"«alpha {"jsonrpc":"2.0","id":6,"error":{"code":-32042,"message":"Sign in first","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a/","message":"Sign in"}]}}}"#;

#[test]
fn a_call_that_wants_an_address_opened_is_made_again_once_it_was() {
    let mut rig = rig();
    rig.play(&call(1, ""));
    let asked = rig.play(ADDRESS);
    insta::assert_snapshot!(asked, @r#"
«alpha {"jsonrpc":"2.0","id":6,"error":{"code":-32042,"message":"Sign in first","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a/","message":"Sign in"}]}}}
! intent 1.1 alpha(2025-11-25)/elicitation/create by elicitation {"mode":"url","elicitationId":"e1","url":"https://a/","message":"Sign in"}
! outcome 1 Input {"code":-32042,"message":"Sign in first","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a/","message":"Sign in"}]}}
< {"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{"1":{"method":"elicitation/create","params":{"mode":"url","url":"https://a/","message":"[alpha] Sign in"}}},"requestState":"mcpshim-parked-1a64e3ba1626686f60a32b9ebafc942a","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}
"#);
    let handle = handle(&asked);
    // an answer that is missing is asked again
    let again = rig.play(&retry(2, &handle, ""));
    assert!(
        again.contains("input_required") && again.contains(&handle),
        "{again}"
    );
    let accepted = rig.play(&retry(3, &handle, r#""1":{"action":"accept"}"#));
    insta::assert_snapshot!(short(&accepted), @r#"
! outcome 1.1 Ok {"action":"accept"}
! intent 1.2 alpha(2025-11-25)/echo by rule#0 eng {"name":"alpha_echo","inputResponses":{"1":{"action":"accept"}},"requestState":"mcpshim-parked-1a64e3ba1626686f60a32b9ebafc942a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"probe","version":"1"},"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}
»alpha {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}
"#);
    let done = rig.play(r#"«alpha {"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    assert!(
        done.contains(r#"< {"jsonrpc":"2.0","id":3,"result""#),
        "{done}"
    );
    let used = rig.play(&retry(4, &handle, r#""1":{"action":"accept"}"#));
    assert!(used.contains("stale-answer"), "{used}");
    assert_eq!(rig.machine.books().2, 0);
    // declined: nothing is made
    let mut rig = self::rig();
    rig.play(&call(1, ""));
    let handle = self::handle(&rig.play(ADDRESS));
    let declined = rig.play(&retry(2, &handle, r#""1":{"action":"decline"}"#));
    assert!(declined.contains("nothing was executed"), "{declined}");
    assert!(!declined.contains("»alpha"), "{declined}");
    assert_eq!(rig.machine.books().2, 0);
    // left alone
    let mut rig = self::rig();
    rig.play(&call(1, ""));
    rig.play(ADDRESS);
    let over = rig.play("+600000");
    assert!(over.contains("! outcome 1.1 Timeout"), "{over}");
    assert_eq!(rig.machine.books().2, 0);
    // no address that a browser opens, a client that opens none
    for (can, bad) in [
        (CAN, ADDRESS.replace("https://a/", "file:///a")),
        (CAN, ADDRESS.replace("https://a/", "javascript:alert(1)")),
        (r#"{"elicitation":{}}"#, ADDRESS.to_owned()),
    ] {
        let mut rig = self::rig();
        rig.play(&call_as(can, 1, "alpha_echo", ""));
        let failed = rig.play(&bad);
        assert!(failed.contains(r#""isError":true"#), "{failed}");
        assert!(!failed.contains("input_required"), "{failed}");
    }
}

fn asks(method: &str, params: &str) -> String {
    format!(
        r#"«beta {{"jsonrpc":"2.0","id":6,"result":{{ "resultType":"input_required","inputRequests":{{"a": {{"method":"{method}","params":{params}}}}},"requestState":"s\u0074","x":1.50}}}}"#
    )
}

#[test]
fn between_stateless_peers_questions_pass_with_a_label_and_nothing_else() {
    let mut rig = rig();
    let passed = rig.play(&format!(
        "{}\n{}",
        call_as(CAN, 1, "beta_echo", ""),
        asks(
            "elicitation/create",
            r#"{"message" : "S\u00fcre?","requestedSchema":{}}"#
        )
    ));
    insta::assert_snapshot!(short(&passed), @r#"
! open beta
! intent 1 beta(2026-07-28)/echo by rule#2 eng
»beta {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"probe","version":"1"},"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
«beta {"jsonrpc":"2.0","id":6,"result":{ "resultType":"input_required","inputRequests":{"a": {"method":"elicitation/create","params":{"message" : "S\u00fcre?","requestedSchema":{}}}},"requestState":"s\u0074","x":1.50}}
! outcome 1 Input { "resultType":"input_required","inputRequests":{"a": {"method":"elicitation/create","params":{"message" : "S\u00fcre?","requestedSchema":{}}}},"requestState":"s\u0074","x":1.50}
< {"jsonrpc":"2.0","id":1,"result":{ "resultType":"input_required","inputRequests":{"a": {"method":"elicitation/create","params":{"message" : "[beta] S\u00fcre?","requestedSchema":{}}}},"requestState":"s\u0074","x":1.50}}
"#);
    let refused = |can: &str, registry: &Registry, method: &str, params: &str, code: &str| {
        let mut rig = Rig::new(Some(snapshot_of(1, registry, Some(ann(&["eng"])))));
        let transcript = rig.play(&format!(
            "{}\n{}",
            call_as(can, 1, "beta_echo", ""),
            asks(method, params)
        ));
        assert!(transcript.contains(code), "{transcript}");
        assert!(transcript.contains("! outcome 1 Input"), "{transcript}");
        assert!(
            transcript.contains(r#"< {"jsonrpc":"2.0","id":1,"result":{"content":"#),
            "{transcript}"
        );
    };
    let form = r#"{"message":"a","requestedSchema":{}}"#;
    let ask = "elicitation/create";
    refused("{}", &asking(), ask, form, "ask-not-declared");
    refused(CAN, &registry(), ask, form, "ask-not-in-entry");
    refused(CAN, &asking(), "tools/call", "{}", "ask-unknown");
    refused(
        CAN,
        &asking(),
        ask,
        r#"{"requestedSchema":{}}"#,
        "ask-malformed",
    );
    refused(
        CAN,
        &asking(),
        ask,
        r#"{"mode":"url","message":"a","url":"file:///a"}"#,
        "ask-malformed",
    );
    let long = format!(
        r#"{{"message":"{}","requestedSchema":{{}}}}"#,
        "x".repeat(300_000)
    );
    refused(CAN, &asking(), ask, &long, "ask-limit");
    // its own errors are its client's affair
    let mut rig = self::rig();
    let error = rig.play(&format!(
        "{}\n{}",
        call_as("{}", 1, "beta_echo", ""),
        r#"«beta {"jsonrpc":"2.0","id":6,"error":{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}}"#
    ));
    assert!(error.contains(r#"< {"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}}"#), "{error}");
}

#[test]
fn each_request_says_what_its_client_can_be_asked() {
    // a later request that says less, or more, is not the one that is asked
    let mut rig = rig();
    rig.play(&call(1, ""));
    rig.play(&call_as("{}", 2, "beta_echo", ""));
    let asked = rig.play(&format!("{FORM}\n+20"));
    assert!(asked.contains("input_required"), "{asked}");
    // a retry that says less is not asked again
    let handle = handle(&asked);
    let less = call_as(
        "{}",
        3,
        "alpha_echo",
        &format!(r#""requestState":"{handle}","#),
    );
    let gone = rig.play(&format!("{less}\n+20"));
    assert!(
        gone.contains(r#""id":"q","result":{"action":"cancel"}"#),
        "{gone}"
    );
    assert!(!gone.contains("input_required"), "{gone}");
    let mut rig = self::rig();
    rig.play(&call_as("{}", 1, "alpha_echo", ""));
    rig.play(&call_as(CAN, 2, "beta_echo", ""));
    let refused = rig.play(FORM);
    assert!(refused.contains("ask-not-declared"), "{refused}");
}

#[test]
fn a_server_that_asks_and_refuses_at_once_leaves_nothing_open() {
    let mut rig = rig();
    rig.play(&call(1, ""));
    let asked = rig.play(&format!("{FORM}\n{ADDRESS}"));
    assert!(asked.contains("! outcome 1.1 Cancelled"), "{asked}");
    let handle = handle(&asked);
    let made = rig.play(&retry(2, &handle, r#""1":{"action":"accept"}"#));
    assert!(made.contains("! intent 1.3 "), "{made}");
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn a_call_that_waits_its_turn_never_reaches_the_process_that_comes_after() {
    let mut rig = rig();
    rig.play(&call(1, ""));
    // the server asks, so calls go one at a time from here on; the client answers at once
    let asked = rig.play(&format!("{FORM}\n+20"));
    let handle = handle(&asked);
    rig.play(&call(
        2,
        &format!(r#""inputResponses":{{"1":{ACCEPT}}},"requestState":"{handle}","#),
    ));
    let waits = rig.play(&call(3, r#""arguments":{"c":3},"#));
    assert!(!waits.contains("»alpha"), "{waits}");
    let ended = rig.play("closed alpha ended: exit status: 1");
    assert!(
        !ended.contains(r#"{"c":3}"#) || !ended.contains("intent"),
        "{ended}"
    );
    assert!(!ended.contains("»alpha"), "{ended}");
    assert!(ended.contains(r#"< {"jsonrpc":"2.0","id":3,"#), "{ended}");
    assert_eq!(rig.machine.books().2, 0);
}

/// Found by the official conformance suite, which declares something else with each request.
#[test]
fn a_client_is_asked_what_its_request_declares_whatever_the_one_before_did() {
    let mut rig = rig();
    // a server that was started by a request of a client that cannot be asked anything
    rig.play(&call_as("{}", 1, "alpha_echo", ""));
    let refused = rig.play(FORM);
    assert!(refused.contains("ask-not-declared"), "{refused}");
    assert!(
        refused.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","error":{"code":-32601"#),
        "{refused}"
    );
    assert!(!refused.contains("< "), "{refused}");
    // it goes on without
    let done = rig.play(DONE);
    assert!(
        done.contains(r#"< {"jsonrpc":"2.0","id":1,"result":"#),
        "{done}"
    );
    // the next one can
    rig.play(&call_as(CAN, 2, "alpha_echo", ""));
    let asked = rig.play(&format!("{}\n+20", FORM.replace("\"q\"", "\"r\"")));
    assert!(asked.contains("input_required"), "{asked}");
    // and again one that cannot
    let (handle, done) = (handle(&asked), DONE.replace(":6,", ":7,"));
    rig.play(&format!(
        "{}\n{done}",
        retry(3, &handle, &format!(r#""1":{ACCEPT}"#))
    ));
    rig.play(&call_as(r#"{"sampling":{}}"#, 4, "alpha_echo", ""));
    let refused = rig.play(&FORM.replace("\"q\"", "\"s\""));
    assert!(refused.contains("ask-not-declared"), "{refused}");
    // what fails for want of it is told by the protocol's error
    let failed = r#"«alpha {"jsonrpc":"2.0","id":8,"result":{"content":[{"type":"text","text":"no form"},{"type":"text","text":"no name"}],"isError":true}}"#;
    let told = rig.play(failed);
    assert!(told.contains("! outcome 4 ToolError"), "{told}");
    let error = r#"< {"jsonrpc":"2.0","id":4,"error":{"code":-32021,"message":"the server asked for elicitation, which this request does not declare: no form\nno name","data":{"requiredCapabilities":{"elicitation":{"form":{}}}}}}"#;
    assert!(told.contains(error), "{told}");
    // and so is an error
    rig.play(&call_as("{}", 5, "alpha_echo", ""));
    rig.play(&FORM.replace("\"q\"", "\"t\""));
    let failed = r#"«alpha {"jsonrpc":"2.0","id":9,"error":{"code":-32603,"message":"no form"}}"#;
    let told = rig.play(failed);
    assert!(
        told.contains(r#"< {"jsonrpc":"2.0","id":5,"error":{"code":-32021,"#),
        "{told}"
    );
    // a failure of a call that was asked nothing is its server's
    rig.play(&call_as("{}", 6, "alpha_echo", ""));
    let told = rig.play(&failed.replace(":9,", ":10,"));
    assert!(
        told.contains(r#""code":-32603,"message":"no form""#),
        "{told}"
    );
}

/// Found by the official conformance suite, whose requests say their own roots.
#[test]
fn a_server_on_a_pipe_that_asks_for_roots_in_a_call_has_what_the_client_says_then() {
    const ROOTS: &str = r#"«alpha {"jsonrpc":"2.0","id":"r","method":"roots/list"}"#;
    let mut rig = rig();
    rig.play(&call(1, ""));
    let asked = rig.play(&format!("{ROOTS}\n+20"));
    let said = |uri: &str| format!(r#""1":{{"roots":[{{"uri":"{uri}"}}]}}"#);
    rig.play(&retry(2, &handle(&asked), &said("file:///one")));
    rig.play(DONE);
    rig.play(&call(3, ""));
    let asked = rig.play(&format!("{}\n+20", ROOTS.replace("\"r\"", "\"s\"")));
    let told = rig.play(&retry(4, &handle(&asked), &said("file:///two")));
    assert!(
        told.contains(r#""id":"s","result":{"roots":[{"uri":"file:///two"}]}"#),
        "{told}"
    );
    rig.play(&DONE.replace(":6,", ":7,"));
    // outside of any call it has what was said last, and nobody is asked
    let told = rig.play(&ROOTS.replace("\"r\"", "\"t\""));
    assert!(
        told.contains(r#""id":"t","result":{"roots":[{"uri":"file:///two"}]}"#),
        "{told}"
    );
    // a call whose request does not declare roots is not asked either
    rig.play(&call_as("{}", 5, "alpha_echo", ""));
    let told = rig.play(&ROOTS.replace("\"r\"", "\"u\""));
    assert!(
        told.contains(r#""id":"u","result":{"roots":[{"uri":"file:///two"}]}"#),
        "{told}"
    );
}
