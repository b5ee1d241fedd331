//! A server over HTTP that forgets its session: what it was sent is lost, what it was not goes on.

use super::*;
use crate::registry::doc::Transport;

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

/// Found: a server that says otherwise than by 404 that it lost its session failed every call until
/// somebody ran `mcpshim restart`.
#[test]
fn a_refusal_in_a_session_that_worked_opens_a_new_one_for_the_next_call() {
    let mut rig = remote();
    rig.play(&call(1));
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    rig.play(&call(2));
    let log = rig.play("doubted alpha 7");
    let told = "server alpha may not know this session; the next call is made on a new session";
    assert!(log.contains(told), "{log}");
    assert!(log.contains("! outcome 2 error 401"), "{log}");
    assert!(
        log.contains("! close alpha") && !log.contains("! open alpha"),
        "{log}"
    );
    assert_eq!(
        log.matches("tools/call").count(),
        0,
        "it is not sent again: {log}"
    );
    let log = rig.play(&call(3));
    assert!(
        log.contains("! open alpha") && log.contains("tools/call"),
        "{log}"
    );
}

#[test]
fn a_server_that_refuses_everything_is_asked_for_one_new_session_a_minute() {
    let mut rig = remote();
    let mut opened = 0;
    let mut id = 5;
    for n in 1..=10 {
        let log = rig.play(&call(n));
        id = match log.contains("! open alpha") {
            true => sent_as(&log),
            false => id + 1,
        };
        let log = log + &rig.play(&format!("doubted alpha {id}"));
        opened += log.matches("! open alpha").count();
        if n > 2 {
            assert!(
                log.contains("server alpha wants a credential"),
                "{n}: {log}"
            );
            assert!(!log.contains("new session"), "{n}: {log}");
        }
    }
    assert_eq!(opened, 2);
    rig.play("+60000");
    rig.play(&call(11));
    assert!(
        rig.play(&format!("doubted alpha {}", id + 1))
            .contains("new session")
    );
}

#[test]
fn a_call_in_flight_keeps_the_session_that_another_call_doubts() {
    let mut rig = remote();
    rig.play(&call(1));
    rig.play(&call(2));
    let log = rig.play("doubted alpha 7");
    assert!(
        log.contains("new session") && !log.contains("! close alpha"),
        "{log}"
    );
    let log = rig.play(r#"«alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#);
    assert!(
        log.contains("! outcome 1 Ok") && log.contains("! close alpha"),
        "{log}"
    );
    let log = rig.play(&call(3));
    assert!(log.contains("! open alpha"), "{log}");
}

#[test]
fn an_error_that_speaks_of_the_session_is_told_and_doubts_it() {
    let gone =
        r#"«alpha {"jsonrpc":"2.0","id":6,"error":{"code":-32600,"message":"Session expired"}}"#;
    let mut rig = remote();
    rig.play(&call(1));
    let log = rig.play(gone);
    assert!(
        log.contains("Session expired") && log.contains("! close alpha"),
        "{log}"
    );
    // a server on standard input has none to lose
    let mut rig = Rig::handshake();
    rig.play(&call(1));
    let log = rig.play(gone);
    assert!(
        log.contains("Session expired") && !log.contains("! close alpha"),
        "{log}"
    );
}

#[test]
fn a_server_of_the_stateless_era_has_no_session_to_doubt() {
    let mut rig = remote();
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo"}}"#);
    let log = rig.play("doubted beta 6");
    assert!(log.contains("server beta wants a credential"), "{log}");
    assert!(
        !log.contains("new session") && !log.contains("! close beta"),
        "{log}"
    );
}

/// The id of the call that went up.
fn sent_as(log: &str) -> u64 {
    let line = log
        .lines()
        .find(|line| line.contains("tools/call") && line.starts_with('»'));
    let (_, rest) = line.unwrap().split_once(r#""id":"#).unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}

/// The usual servers, behind addresses.
fn remote() -> Rig {
    let mut behind = registry();
    for server in behind.servers.values_mut() {
        let server = Arc::make_mut(server);
        server.transport = Transport::Http {
            url: "https://alpha.example/mcp".to_owned(),
            ca_pem: None,
            legacy_sse: false,
        };
    }
    Rig::new(Some(snapshot_of(1, &behind, Some(ann(&["eng"]))))).opened()
}
