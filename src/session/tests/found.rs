//! What random interleavings found ([`crate::session::fuzz`]), each by what went wrong.

use super::asks::rig;
use super::*;

/// A stateless client that declares this.
fn meta(capabilities: &str) -> String {
    META.replace(
        r#"clientCapabilities":{}"#,
        &format!(r#"clientCapabilities":{capabilities}"#),
    )
}

const URL: &str = r#"{"elicitation":{"url":{}}}"#;
const ALL: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;
const ADDRESS: &str = r#"«alpha {"jsonrpc":"2.0","id":6,"error":{"code":-32042,"message":"Sign in first","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a/","message":"Sign in"}]}}}"#;
const FORM: &str = r#"«alpha {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{"type":"object","properties":{}}}}"#;

fn stateless() -> Rig {
    Rig::new(Some(snapshot_of(1, &asking(), Some(ann(&["eng"])))))
}

fn call(id: u32, more: &str, capabilities: &str) -> String {
    let meta = meta(capabilities);
    format!(
        r#"> {{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"alpha_echo",{more}{meta}}}}}"#
    )
}

/// Somebody else signs in.
fn signs_in(rig: &mut Rig, number: u64) {
    rig.handle(Input::Snapshot(snapshot_of(number, &asking(), Some(bob()))));
}

/// The driver answers for so many of the entries that wait.
fn answer_for(rig: &mut Rig, entries: u64, well: bool) {
    let upto = Ticket(rig.confirmed.0 + entries);
    assert!(upto <= rig.last, "there are only {:?}", rig.last);
    rig.confirmed = upto;
    let reason = "disk full".to_owned();
    rig.handle(match well {
        true => Input::Recorded { upto },
        false => Input::NotRecorded { upto, reason },
    });
}

/// Entries that wait for the driver, contexts left out of the count by recording them first.
fn waiting(rig: &Rig) -> u64 {
    rig.last.0 - rig.confirmed.0
}

/// Found: the entry of the question failed and that of the refused call did not, and the client was
/// asked all the same.
#[test]
fn an_address_is_not_asked_for_whose_own_entry_failed() {
    let mut rig = stateless();
    // once, so that every context is known
    rig.play(&call(1, "", URL));
    rig.play(&ADDRESS.replace("\"e1\"", "\"e0\""));
    rig.play(&call(2, r#""arguments":{"n":2},"#, URL));
    rig.recording = Recording::Withheld;
    rig.play(&ADDRESS.replace("\"id\":6", "\"id\":7"));
    assert_eq!(waiting(&rig), 2);
    answer_for(&mut rig, 1, false);
    answer_for(&mut rig, 1, true);
    let transcript = rig.play("");
    assert!(!transcript.contains("input_required"), "{transcript}");
    assert!(transcript.contains("could not be recorded"), "{transcript}");
}

/// Found: of three questions of one result the entry of the first failed, and it was asked because
/// that of the last did not.
#[test]
fn each_question_of_a_result_waits_for_its_own_entry() {
    const ASK: &str = r#"«beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"1"}},"b":{"method":"elicitation/create","params":{"message":"2"}}}}}"#;
    const CALL: &str =
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo"}}"#;
    let mut rig = rig(ALL, "2025-11-25");
    rig.play(&format!(
        r#"{CALL}
        {ASK}
        > {{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":1}}}}
        {CALL}"#
    ));
    rig.recording = Recording::Withheld;
    rig.play(&ASK.replace("\"id\":6", "\"id\":7"));
    // the outcome, and two questions
    assert_eq!(waiting(&rig), 3);
    answer_for(&mut rig, 2, false);
    answer_for(&mut rig, 1, true);
    let transcript = rig.play("");
    assert!(!transcript.contains("[beta] 1"), "{transcript}");
}

/// Found: the client was answered with what is recorded of its call, and of a question that was
/// open meanwhile; the first failed, the second did not.
#[test]
fn an_answer_waits_for_its_own_outcome() {
    let mut rig = stateless();
    rig.play(&format!("{}\n{FORM}\n+5", call(1, "", ALL)));
    rig.recording = Recording::Withheld;
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":["secret"]}}"#);
    // the outcome of the call, and that of the question
    assert_eq!(waiting(&rig), 2);
    answer_for(&mut rig, 1, false);
    answer_for(&mut rig, 1, true);
    let transcript = rig.play("");
    assert!(!transcript.contains("secret"), "{transcript}");
    assert!(transcript.contains("could not be recorded"), "{transcript}");
}

/// Found: a call ended while its client was asked, its outcome could not be recorded, and a retry
/// that came before that was known got the result.
#[test]
fn a_kept_answer_waits_for_its_own_outcome_too() {
    let mut rig = stateless();
    let asked = rig.play(&format!("{}\n{FORM}\n+20", call(1, "", ALL)));
    let at = asked.rfind("mcpshim-parked-").unwrap();
    let handle = asked[at..].split('"').next().unwrap().to_owned();
    rig.recording = Recording::Withheld;
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":["secret"]}}"#);
    assert_eq!(waiting(&rig), 2);
    let retry = format!(r#""inputResponses":{{}},"requestState":"{handle}","#);
    rig.play(&call(2, &retry, ALL));
    answer_for(&mut rig, 1, false);
    let rest = waiting(&rig);
    answer_for(&mut rig, rest, true);
    let transcript = rig.play("");
    assert!(!transcript.contains("secret"), "{transcript}");
    assert!(transcript.contains("could not be recorded"), "{transcript}");
}

/// Found: somebody else had signed in, and was asked to open an address for the call of before.
#[test]
fn nobody_opens_an_address_for_the_call_of_somebody_else() {
    let mut rig = stateless();
    rig.play(&call(1, "", URL));
    signs_in(&mut rig, 2);
    let told = rig.play(ADDRESS);
    assert!(!told.contains("input_required"), "{told}");
    assert!(told.contains(r#""isError":true"#), "{told}");
    // nor where they signed in before it was recorded
    let mut rig = stateless();
    rig.play(&call(1, "", URL));
    rig.recording = Recording::Withheld;
    rig.play(ADDRESS);
    signs_in(&mut rig, 2);
    rig.recording = Recording::AtOnce;
    let told = rig.play("recorded");
    assert!(!told.contains("input_required"), "{told}");
    assert!(told.contains("changed meanwhile"), "{told}");
    assert_eq!(rig.machine.books().2, 0);
}

/// Found: a retry that answered nothing and declared less was asked again for the same.
#[test]
fn an_address_is_asked_for_again_only_where_that_is_still_declared() {
    let mut rig = stateless();
    let asked = rig.play(&format!("{}\n{ADDRESS}", call(1, "", URL)));
    let at = asked.rfind("mcpshim-parked-").unwrap();
    let handle = asked[at..].split('"').next().unwrap().to_owned();
    let retry = format!(r#""inputResponses":{{}},"requestState":"{handle}","#);
    let told = rig.play(&call(2, &retry, "{}"));
    assert!(!told.contains("input_required"), "{told}");
    assert!(told.contains("does not offer that any more"), "{told}");
    assert!(!told.contains("»alpha"), "{told}");
    assert_eq!(rig.machine.books().2, 0);
}

/// Found: who signed in later could follow a task of the person before, and was told of it.
#[test]
fn a_task_is_followed_by_whoever_began_it() {
    let able = meta(r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#);
    let get = format!(
        r#"> {{"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{{"taskId":"beta.t1",{able}}}}}"#
    );
    let mut rig = stateless();
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"beta_echo",{able}}}}}
        «beta {{"jsonrpc":"2.0","id":6,"result":{{"resultType":"task","taskId":"t1","status":"working"}}}}
        > {{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{{"notifications":{{"taskIds":["beta.t1"]}},{able}}}}}
        «beta {{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"taskIds":["t1"]}},"_meta":{{"io.modelcontextprotocol/subscriptionId":7}}}}}}"#
    ));
    const NEWS: &str = r#"«beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t1","status":"working"}}"#;
    let told = rig.play(NEWS);
    assert!(told.contains("\n< "), "{told}");
    signs_in(&mut rig, 2);
    let other = rig.play(&format!("{get}\n{NEWS}"));
    assert!(other.contains("Unknown task"), "{other}");
    assert!(!other.contains('»'), "{other}");
    assert!(
        !other.contains("notifications/tasks\",\"params\":{\"_meta"),
        "{other}"
    );
    // by way of nobody it is still somebody else
    let mut rig = stateless();
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"beta_echo",{able}}}}}
        «beta {{"jsonrpc":"2.0","id":6,"result":{{"resultType":"task","taskId":"t1","status":"working"}}}}"#
    ));
    rig.handle(Input::Snapshot(snapshot_of(2, &asking(), None)));
    signs_in(&mut rig, 3);
    let other = rig.play(&get);
    assert!(other.contains("Unknown task"), "{other}");
}

/// Found: news of a task asked for what the client's last request declared, not its listen.
#[test]
fn news_of_a_task_ask_for_what_its_listen_declares() {
    const TASKS: &str = r#""extensions":{"io.modelcontextprotocol/tasks":{}}"#;
    const NEWS: &str = r#"«beta {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"t1","status":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"Sure?"}}}}}"#;
    let (less, more) = (
        meta(&format!("{{{TASKS}}}")),
        meta(&format!(r#"{{"elicitation":{{}},{TASKS}}}"#)),
    );
    for (listen, last, told) in [(&less, &more, false), (&more, &less, true)] {
        let mut rig = stateless();
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"beta_echo",{less}}}}}
            «beta {{"jsonrpc":"2.0","id":6,"result":{{"resultType":"task","taskId":"t1","status":"working"}}}}
            > {{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{{"notifications":{{"taskIds":["beta.t1"]}},{listen}}}}}
            «beta {{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"taskIds":["t1"]}},"_meta":{{"io.modelcontextprotocol/subscriptionId":7}}}}}}
            > {{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{{last}}}}}"#
        ));
        let transcript = rig.play(NEWS);
        assert_eq!(transcript.contains("[beta] Sure?"), told, "{transcript}");
        assert_eq!(transcript.contains("! denial"), !told, "{transcript}");
    }
}

/// Found: one request in the words of the other era changed what a handshake client is asked.
#[test]
fn a_request_of_the_other_era_declares_for_itself_only() {
    let mut rig = rig("{}", "2025-11-25");
    let all = meta(ALL);
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"alpha_echo"}}}}
        > {{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{{all}}}}}"#
    ));
    let refused = rig.play(FORM);
    assert!(refused.contains("ask-not-declared"), "{refused}");
    assert!(!refused.contains("< "), "{refused}");
}

/// Found: a question that waited for its record was asked of a client that had opened its session
/// anew and declared nothing.
#[test]
fn a_client_that_opens_its_session_anew_is_asked_nothing_of_before() {
    let mut rig = rig(ALL, "2025-11-25");
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    rig.recording = Recording::Withheld;
    rig.play(FORM);
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}
        recorded"#,
    );
    assert!(!transcript.contains("Sure?"), "{transcript}");
    assert!(transcript.contains("! outcome 1.1 NotSent"), "{transcript}");
    assert!(
        transcript.contains(r#"»alpha {"jsonrpc":"2.0","id":"q","error""#),
        "{transcript}"
    );
}

/// Found: the client was told that an elicitation was over which it was not shown yet.
#[test]
fn the_end_of_an_elicitation_is_told_after_it_was_shown() {
    let mut rig = rig(ALL, "2025-11-25");
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    rig.recording = Recording::Withheld;
    const OVER: &str = r#"«alpha {"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":"e"}}"#;
    let early = rig.play(&format!(
        r#"«alpha {{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{{"mode":"url","message":"m","url":"https://a/","elicitationId":"e"}}}}
        {OVER}"#
    ));
    assert!(!early.contains("< "), "{early}");
    rig.recording = Recording::AtOnce;
    let told = rig.play(&format!("recorded\n{OVER}"));
    let (shown, over) = (told.find("[alpha] m"), told.rfind("< {"));
    assert!(shown.is_some() && shown < over, "{told}");
}

/// Found: an answer that waited for its record was said to a transport that had ended.
#[test]
fn an_answer_is_said_to_nobody_once_its_transport_is_gone() {
    let mut rig = rig(ALL, "2025-11-25");
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"alpha_echo"}}}}
        {FORM}"#
    ));
    rig.recording = Recording::Withheld;
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":"mcpshim-1","result":{"action":"decline"}}
        closed alpha ended
        recorded"#,
    );
    assert!(transcript.contains("! outcome 1.1 Ok"), "{transcript}");
    assert!(!transcript.contains("»alpha"), "{transcript}");
}

/// Found: a server of the stateless era sent a client to an address in words of the other one, and
/// nobody had looked at it.
#[test]
fn a_stateless_server_sends_nobody_to_an_address_by_an_error() {
    let mut rig = stateless();
    let meta = meta(URL);
    let told = rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"beta_echo",{meta}}}}}
        {}"#,
        ADDRESS.replace("alpha", "beta")
    ));
    assert!(
        !told.contains(r#"< {"jsonrpc":"2.0","id":1,"error""#),
        "{told}"
    );
    assert!(told.contains("Open this address"), "{told}");
}

/// Found: the last subscription at a server that nobody may use any more ended, and its process
/// ran on until it said something.
#[test]
fn a_retired_server_ends_with_its_last_subscription() {
    let mut rig = stateless();
    let meta = meta("{}");
    rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":["alpha://readme"]}},{meta}}}}}"#
    ));
    let mut without = asking();
    without.servers.remove(&fixture::key("alpha"));
    rig.handle(Input::Snapshot(snapshot_of(
        2,
        &without,
        Some(ann(&["eng"])),
    )));
    let transcript = rig.play(
        r#"«alpha {"jsonrpc":"2.0","id":6,"result":{}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"L"}}"#,
    );
    assert!(transcript.contains("! close alpha"), "{transcript}");
}
