//! What reaches a person from a server, and a server from a client, beside calls and answers.

use super::*;
use crate::limits;

const SAYS: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","logger":"mcpshim","data":"run `x`"}}"#;

#[test]
fn a_server_that_was_not_compared_yet_says_nothing_to_the_client() {
    let mut rig = Rig::handshake();
    rig.opens = false;
    let transcript = rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"alpha_echo"}}}}
        «alpha {SAYS}
        opened alpha
        «alpha {SAYS}
        closed alpha exit status: 1
        «alpha {SAYS}"#
    ));
    let said = r#"< {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","logger":"alpha/mcpshim","data":"run `x`"}}"#;
    assert_eq!(transcript.matches("notifications/message").count(), 4);
    assert_eq!(transcript.matches(said).count(), 1, "{transcript}");
    let transcript = rig.play("+60000");
    assert!(transcript.contains("! counted stray-log 2"), "{transcript}");
}

#[test]
fn a_server_whose_lists_changed_is_heard_until_it_is_found_to_be_another() {
    let mut strict = registry();
    exact(&mut strict, "alpha", PinMode::Strict);
    let mut rig = Rig::new(Some(snapshot_of(1, &strict, Some(ann(&["eng"]))))).opened();
    let opened = rig
        .play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    assert!(opened.contains("»alpha"), "{opened}");
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let while_read = rig.play(&format!("«alpha {changed}\n«alpha {SAYS}"));
    assert_eq!(while_read.matches("< {").count(), 1, "{while_read}");
    // the lists that are read now lack what was pinned
    for server in rig.servers.values_mut() {
        let mut other = (**server).clone();
        other.surface.as_mut().unwrap().tools.clear();
        *server = Arc::new(other);
    }
    let drifted = rig.play(&format!("+1000\n«alpha {SAYS}"));
    assert!(drifted.contains("! link drift"), "{drifted}");
    assert!(!drifted.contains("< {"), "{drifted}");
}

#[test]
fn a_server_whose_grant_was_taken_back_says_nothing_more() {
    let mut rig = Rig::handshake();
    let call = r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","_meta":{"progressToken":"p"}}}"#;
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":6,"progress":1}}"#;
    let before = rig.play(&format!("{call}\n«alpha {SAYS}\n«alpha {progress}"));
    assert_eq!(before.matches("< {").count(), 2, "{before}");
    let mut less = registry();
    less.policy.grants.get_mut("eng").unwrap().remove("alpha");
    rig.handle(Input::Snapshot(snapshot_of(2, &less, Some(ann(&["eng"])))));
    rig.play("");
    let after = rig.play(&format!("«alpha {SAYS}\n«alpha {progress}"));
    assert!(!after.contains("< {"), "{after}");
    // nobody is signed in: the same
    let mut rig = Rig::handshake();
    rig.play(call);
    rig.handle(Input::Snapshot(snapshot_of(2, &registry(), None)));
    rig.play("");
    let after = rig.play(&format!("«alpha {SAYS}\n«alpha {progress}"));
    assert!(!after.contains("< {"), "{after}");
}

#[test]
fn a_logger_bears_the_key_of_its_server_whatever_it_is_called() {
    let mut rig = Rig::handshake();
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    for (members, shown) in [
        (r#""logger":"db""#, r#""logger":"alpha/db""#),
        (r#""logger":" MCPshim ""#, r#""logger":"alpha/MCPshim""#),
        (
            r#""logger":"\u202e\nmcpshim""#,
            r#""logger":"alpha/\\u{202e}\\nmcpshim""#,
        ),
        (r#""logger":7"#, r#""logger":"alpha""#),
        (r#""Logger":"mcpshim""#, r#""logger":"alpha""#),
        (
            r#""l\u006fgger":"mcpshim""#,
            r#""l\u006fgger":"alpha/mcpshim""#,
        ),
    ] {
        let head = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"\u001b","level":"error""#;
        let tail = format!("{head},{shown}}}}}");
        let heard = rig.play(&format!("«alpha {head},{members}}}}}"));
        let heard = heard.lines().find_map(|line| line.strip_prefix("< "));
        assert_eq!(heard, Some(tail.as_str()), "{members}");
    }
}

#[test]
fn a_clients_progress_reaches_a_server_as_numbers_only() {
    let mut rig = Rig::new(Some(snapshot_of(1, &asking(), Some(ann(&["eng"])))));
    rig.play(
        r#"> {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"c","version":"1"}}}
        > {"jsonrpc":"2.0","method":"notifications/initialized"}
        > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?","requestedSchema":{},"_meta":{"progressToken":"P"}}}"#,
    );
    let news = |members: &str| {
        format!(
            r#"> {{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,{members}}},"x":"payload"}}"#
        )
    };
    let mut up = |members: &str| {
        let transcript = rig.play(&news(members));
        let up = transcript
            .lines()
            .find_map(|line| line.strip_prefix("»alpha "));
        up.map(str::to_owned)
    };
    assert_eq!(
        up(r#""progress":1e3,"total":2.50,"message":"payload","_meta":{"x":"payload"}"#).unwrap(),
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"P","progress":1000,"total":2.5}}"#
    );
    for none in [
        r#""progress":"payload""#,
        r#""total":1"#,
        r#""progress":1E400"#,
    ] {
        assert_eq!(up(none), None, "{none}");
    }
    let sent = (0..limits::QUESTION_NEWS)
        .filter(|_| up(r#""progress":1"#).is_some())
        .count();
    assert_eq!(sent, limits::QUESTION_NEWS as usize - 1);
}

/// The payload of the intent.
fn recorded(request: &str) -> String {
    let mut rig = Rig::handshake();
    rig.play(&format!("> {request}"));
    let intent = rig.seen.iter().find_map(|seen| match seen {
        Seen::Append(Body::Intent(facts)) => Some(facts.content.0.clone()),
        Seen::Append(_) | Seen::Client(_) | Seen::Link(_) => None,
    });
    String::from_utf8(intent.unwrap().to_vec()).unwrap()
}

#[test]
fn what_a_client_puts_beside_its_arguments_is_recorded_with_them() {
    let call = |params: &str, more: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}{more}}}"#)
    };
    // what every client sends, and what the record has elsewhere
    for meta in [
        "",
        r#","_meta":{}"#,
        r#","_meta":{"progressToken":"payload","claudecode/toolUseId":"toolu_1","traceparent":"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}"#,
    ] {
        let params = format!(r#"{{"name":"alpha_echo","arguments":{{"a":1}}{meta}}}"#);
        assert_eq!(recorded(&call(&params, "")), r#"{"a":1}"#, "{meta}");
    }
    let long = format!(
        r#","_meta":{{"callId":"{}"}}"#,
        "x".repeat(limits::PLAIN_BYTES)
    );
    for more in [
        r#","_meta":{"v/x":"payload"}"#,
        r#","more":"payload""#,
        &long,
    ] {
        let params = format!(r#"{{"name":"alpha_echo","arguments":{{"a":1}}{more}}}"#);
        assert_eq!(recorded(&call(&params, "")), params);
    }
    let whole = call(r#"{"name":"alpha_echo"}"#, r#","x":"payload""#);
    assert_eq!(recorded(&whole), whole);
    for (method, plain, more) in [
        (
            "resources/read",
            r#"{"uri":"alpha://readme"}"#,
            r#"{"uri":"alpha://readme","x":1}"#,
        ),
        (
            "prompts/get",
            r#"{"name":"alpha_greet"}"#,
            r#"{"name":"alpha_greet","x":1}"#,
        ),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"alpha_greet","title":"t"},"argument":{"a":1}}"#,
            r#"{"ref":{"type":"ref/prompt","name":"alpha_greet","x":1},"argument":{"a":1}}"#,
        ),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"alpha_greet"},"argument":{"a":1}}"#,
            r#"{"ref":{"type":"ref/prompt","name":"alpha_greet"},"argument":{"a":1},"context":{"arguments":{}}}"#,
        ),
    ] {
        let line = |params: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
        };
        assert_ne!(recorded(&line(plain)), plain);
        assert_eq!(recorded(&line(more)), more);
    }
}
