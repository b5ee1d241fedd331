//! A server over HTTP that forgets its session: what it was sent is lost, what it was not goes on.

use super::*;

const CALL: &str = r#"{"jsonrpc":"2.0","id":N,"method":"tools/call","params":{"name":"alpha_echo","arguments":{"n":N}}}"#;

fn call(number: u32) -> String {
    format!("> {}", CALL.replace('N', &number.to_string()))
}

#[test]
fn the_call_that_meets_it_was_not_executed_and_the_others_may_have_been() {
    let mut rig = Rig::handshake();
    rig.play(&call(1));
    rig.play(&call(2));
    let log = rig.play("forgotten alpha 7");
    assert!(log.contains("! outcome 2 error 404"), "{log}");
    assert!(
        log.contains("so it did not take the call; call again"),
        "{log}"
    );
    assert!(log.contains("! outcome 1 Unknown"), "{log}");
    assert!(!log.contains("! open alpha"), "nobody waits: {log}");
    let log = rig.play(&call(3));
    assert!(log.contains("! open alpha"), "without a back-off: {log}");
    assert!(
        log.contains("»alpha") && log.contains("tools/call"),
        "{log}"
    );
}

#[test]
fn a_call_that_waits_for_its_record_goes_with_the_next_session() {
    let mut rig = Rig::handshake();
    rig.play(&call(1));
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    rig.recording = Recording::Withheld;
    let log = rig.play(&call(2));
    assert!(log.contains("! intent 2 "), "{log}");
    let log = rig.play("forgotten alpha");
    assert!(!log.contains("outcome"), "{log}");
    let log = rig.play("recorded");
    assert!(log.contains("! open alpha"), "{log}");
    rig.recording = Recording::AtOnce;
    let log = rig.play("recorded") + &log;
    assert!(log.contains(r#""method":"tools/call","params":{"name":"echo","arguments":{"n":2}}"#));
    assert_eq!(log.matches("tools/call").count(), 1, "{log}");
}

#[test]
fn a_call_that_waits_for_its_record_ends_with_a_session_that_cannot_be_opened() {
    let mut rig = Rig::handshake();
    rig.play(&call(1));
    rig.recording = Recording::Withheld;
    rig.play(&call(2));
    rig.opens = false;
    rig.play("forgotten alpha 6");
    rig.play("recorded");
    rig.recording = Recording::AtOnce;
    let log = rig.play("closed alpha cannot be reached");
    assert!(log.contains("! outcome 2 NotSent"), "{log}");
    assert!(log.contains("cannot be reached"), "{log}");
    assert_eq!(rig.machine.books().2, 0);
}

#[test]
fn one_that_forgets_while_it_is_opened_is_down() {
    let mut rig = Rig::handshake();
    rig.opens = false;
    rig.play(&call(1));
    let log = rig.play("forgotten alpha");
    assert!(log.contains("! denial 1 "), "{log}");
    assert!(!log.contains("! open alpha"), "{log}");
}
