//! Calls: both eras on either side, refusals, cancellation, failures.

use super::*;
use crate::ids::Digest;

const CALL: &str = r#"> {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"alpha_echo","arguments":{"n":12345678901234567890123,"s":"\u00e9","f":1.50},"_meta":{"claudecode/toolUseId":"toolu_1","progressToken":"p\u0031"}},"x":[]}"#;

#[test]
fn handshake_client_to_handshake_upstream() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(&format!(
        r#"{CALL}
        «alpha {{"method":"notifications/progress","params":{{"progress":0.50,"progressToken":6}},"jsonrpc":"2.0"}}
        «alpha {{"result":{{"content":[{{"type":"video","x":1e2}}],"structuredContent":null}},"jsonrpc":"2.0","id":6}}"#
    ));
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"alpha_echo","arguments":{"n":12345678901234567890123,"s":"\u00e9","f":1.50},"_meta":{"claudecode/toolUseId":"toolu_1","progressToken":"p\u0031"}},"x":[]}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"alpha_echo","arguments":{"n":12345678901234567890123,"s":"\u00e9","f":1.50},"_meta":{"claudecode/toolUseId":"toolu_1","progressToken":"p\u0031"}},"x":[]} toolu_1
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","arguments":{"n":12345678901234567890123,"s":"\u00e9","f":1.50},"_meta":{"claudecode/toolUseId":"toolu_1","progressToken":6}},"x":[]}
    «alpha {"method":"notifications/progress","params":{"progress":0.50,"progressToken":6},"jsonrpc":"2.0"}
    < {"method":"notifications/progress","params":{"progress":0.50,"progressToken":"p\u0031"},"jsonrpc":"2.0"}
    «alpha {"result":{"content":[{"type":"video","x":1e2}],"structuredContent":null},"jsonrpc":"2.0","id":6}
    ! outcome 1 Ok {"content":[{"type":"video","x":1e2}],"structuredContent":null}
    < {"result":{"content":[{"type":"video","x":1e2}],"structuredContent":null},"jsonrpc":"2.0","id":7}
    "#);
}

#[test]
fn handshake_client_to_stateless_upstream() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"beta_echo","arguments":{}}}
        «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","content":[],"isError":true,"_meta":{"k":1}}}
        > {"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"beta_echo"}}
        «beta {"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{}}}
        > {"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"beta_echo"}}
        «beta {"jsonrpc":"2.0","id":8,"error":{"code":-32021,"message":"needs elicitation","data":{}}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"beta_echo","arguments":{}}}
    ! open beta
    ! intent 1 beta(2026-07-28)/echo by rule#2 eng {}
    »beta {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"old","version":"3"},"io.modelcontextprotocol/clientCapabilities":{}}}}
    «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","content":[],"isError":true,"_meta":{"k":1}}}
    ! outcome 1 ToolError {"resultType":"complete","content":[],"isError":true,"_meta":{"k":1}}
    < {"jsonrpc":"2.0","id":"a","result":{"content":[],"isError":true,"_meta":{"k":1}}}
    > {"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"beta_echo"}}
    ! intent 2 beta(2026-07-28)/echo by rule#2 eng
    »beta {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"old","version":"3"},"io.modelcontextprotocol/clientCapabilities":{}}}}
    «beta {"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{}}}
    ! outcome 2 Input {"resultType":"input_required","inputRequests":{}}
    < {"jsonrpc":"2.0","id":"b","result":{"content":[{"type":"text","text":"server beta asks for input, but it asks for nothing"}],"isError":true}}
    > {"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"beta_echo"}}
    ! intent 3 beta(2026-07-28)/echo by rule#2 eng
    »beta {"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"old","version":"3"},"io.modelcontextprotocol/clientCapabilities":{}}}}
    «beta {"jsonrpc":"2.0","id":8,"error":{"code":-32021,"message":"needs elicitation","data":{}}}
    ! outcome 3 error -32021 {"code":-32021,"message":"needs elicitation","data":{}}
    < {"jsonrpc":"2.0","id":"c","result":{"content":[{"type":"text","text":"The server needs something of the client, which this client does not offer or the organisation does not let this server use: needs elicitation"}],"isError":true}}
    "#);
}

#[test]
fn stateless_client_to_handshake_upstream() {
    let mut rig = Rig::eng();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
        > {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"alpha://doc/1",$META}}
        «alpha {"jsonrpc":"2.0","id":7,"result":{"contents":[]}}
        > {"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"alpha://doc/2",$META}}
        «alpha {"jsonrpc":"2.0","id":8,"error":{"code":-32002,"message":"gone","data":{"uri":"alpha://doc/2"}}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng {}
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","arguments":{}}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    ! outcome 1 Ok {"content":[]}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}
    > {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"alpha://doc/1",$META}}
    ! intent 2 alpha(2025-11-25)/ by rule#1 eng "alpha://doc/1"
    »alpha {"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"alpha://doc/1"}}
    «alpha {"jsonrpc":"2.0","id":7,"result":{"contents":[]}}
    ! outcome 2 Ok {"contents":[]}
    < {"jsonrpc":"2.0","id":2,"result":{"contents":[],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}
    > {"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"alpha://doc/2",$META}}
    ! intent 3 alpha(2025-11-25)/ by rule#1 eng "alpha://doc/2"
    »alpha {"jsonrpc":"2.0","id":8,"method":"resources/read","params":{"uri":"alpha://doc/2"}}
    «alpha {"jsonrpc":"2.0","id":8,"error":{"code":-32002,"message":"gone","data":{"uri":"alpha://doc/2"}}}
    ! outcome 3 error -32002 {"code":-32002,"message":"gone","data":{"uri":"alpha://doc/2"}}
    < {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"gone","data":{"uri":"alpha://doc/2"}}}
    "#);
}

#[test]
fn stateless_client_to_stateless_upstream_with_input_required_passed_through() {
    let mut rig = Rig::eng();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo","arguments":{},$META}}
        «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","requestState":"s"}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"beta_echo","arguments":{},"inputResponses":{"who":{"action":"accept"}},"requestState":"s",$META}}
        «beta {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[]}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo","arguments":{},$META}}
    ! open beta
    ! intent 1 beta(2026-07-28)/echo by rule#2 eng {}
    »beta {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","arguments":{},$META}}
    «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","requestState":"s"}}
    ! outcome 1 Input {"resultType":"input_required","requestState":"s"}
    < {"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"s"}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"beta_echo","arguments":{},"inputResponses":{"who":{"action":"accept"}},"requestState":"s",$META}}
    ! intent 2 beta(2026-07-28)/echo by rule#2 eng {"name":"beta_echo","arguments":{},"inputResponses":{"who":{"action":"accept"}},"requestState":"s",$META}
    »beta {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{},"inputResponses":{"who":{"action":"accept"}},"requestState":"s",$META}}
    «beta {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[]}}
    ! outcome 2 Ok {"resultType":"complete","content":[]}
    < {"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","content":[]}}
    "#);
}

#[test]
fn prompts_and_completion_are_routed_by_name_and_by_template() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"alpha_greet","arguments":{"a":"b"}}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"messages":[]}}
        > {"jsonrpc":"2.0","id":2,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"alpha_greet"},"argument":{"name":"a","value":"b"}}}
        «alpha {"jsonrpc":"2.0","id":7,"result":{"completion":{"values":[]}}}
        > {"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"alpha://doc/{id}"},"argument":{"name":"id","value":"1"}}}
        «alpha {"jsonrpc":"2.0","id":8,"result":{"completion":{"values":[]}}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"alpha_greet","arguments":{"a":"b"}}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/greet by rule#1 eng {"a":"b"}
    »alpha {"jsonrpc":"2.0","id":6,"method":"prompts/get","params":{"name":"greet","arguments":{"a":"b"}}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"messages":[]}}
    ! outcome 1 Ok {"messages":[]}
    < {"jsonrpc":"2.0","id":1,"result":{"messages":[]}}
    > {"jsonrpc":"2.0","id":2,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"alpha_greet"},"argument":{"name":"a","value":"b"}}}
    ! intent 2 alpha(2025-11-25)/greet by rule#1 eng {"name":"a","value":"b"}
    »alpha {"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"greet"},"argument":{"name":"a","value":"b"}}}
    «alpha {"jsonrpc":"2.0","id":7,"result":{"completion":{"values":[]}}}
    ! outcome 2 Ok {"completion":{"values":[]}}
    < {"jsonrpc":"2.0","id":2,"result":{"completion":{"values":[]}}}
    > {"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"alpha://doc/{id}"},"argument":{"name":"id","value":"1"}}}
    ! intent 3 alpha(2025-11-25)/ by rule#1 eng {"name":"id","value":"1"}
    »alpha {"jsonrpc":"2.0","id":8,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"alpha://doc/{id}"},"argument":{"name":"id","value":"1"}}}
    «alpha {"jsonrpc":"2.0","id":8,"result":{"completion":{"values":[]}}}
    ! outcome 3 Ok {"completion":{"values":[]}}
    < {"jsonrpc":"2.0","id":3,"result":{"completion":{"values":[]}}}
    "#);
}

#[test]
fn what_is_not_granted_is_refused_by_any_spelling_and_recorded() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_forbidden","arguments":{"a":1}}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"forbidden"}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_\u0066orbidden"}}
        > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"gamma_secret"}}
        > {"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"nothing"}}
        > {"jsonrpc":"2.0","id":6,"method":"prompts/get","params":{"name":"nothing"}}
        > {"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"gamma://x"}}
        > {"jsonrpc":"2.0","id":8,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"nothing"},"argument":{}}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_forbidden","arguments":{"a":1}}}
    ! denial 1 alpha()/forbidden not-granted {"a":1}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Policy denial, do not retry: role eng of Ann does not include alpha/forbidden; ask eng-owners."}],"isError":true,"_meta":{"mcpshim/denial":{"code":"not-granted"}}}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"forbidden"}}
    ! denial 2 alpha()/forbidden not-granted 
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"Policy denial, do not retry: role eng of Ann does not include alpha/forbidden; ask eng-owners."}],"isError":true,"_meta":{"mcpshim/denial":{"code":"not-granted"}}}}
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_\u0066orbidden"}}
    ! denial 3 alpha()/forbidden not-granted 
    < {"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"Policy denial, do not retry: role eng of Ann does not include alpha/forbidden; ask eng-owners."}],"isError":true,"_meta":{"mcpshim/denial":{"code":"not-granted"}}}}
    > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"gamma_secret"}}
    ! denial 4 gamma()/secret not-granted 
    < {"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"Unknown tool: gamma_secret"}}
    > {"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"nothing"}}
    ! denial 5 nothing hidden 
    < {"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"Unknown tool: nothing"}}
    > {"jsonrpc":"2.0","id":6,"method":"prompts/get","params":{"name":"nothing"}}
    ! denial 6 nothing hidden 
    < {"jsonrpc":"2.0","id":6,"error":{"code":-32602,"message":"Unknown prompt: nothing"}}
    > {"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"gamma://x"}}
    ! denial 7  hidden "gamma://x"
    < {"jsonrpc":"2.0","id":7,"error":{"code":-32002,"message":"Resource not found: gamma://x","data":{"uri":"gamma://x"}}}
    > {"jsonrpc":"2.0","id":8,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"nothing"},"argument":{}}}
    ! denial 8 nothing hidden {}
    < {"jsonrpc":"2.0","id":8,"error":{"code":-32602,"message":"Unknown prompt: nothing"}}
    "#);
    assert!(rig.servers.is_empty(), "nothing was started");
}

#[test]
fn a_grant_taken_back_while_the_link_opens_refuses_the_waiting_call() {
    let mut rig = Rig::handshake();
    rig.opens = false;
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    let mut less = registry();
    less.table("eng", "alpha").tools.clear();
    rig.opens = true;
    rig.handle(Input::Snapshot(snapshot_of(2, &less, Some(ann(&["eng"])))));
    insta::assert_snapshot!(rig.play("opened alpha"), @r#"
    opened alpha
    ! denial 1 alpha(2025-11-25)/echo not-granted 
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Policy denial, do not retry: role eng of Ann does not include alpha/echo; ask eng-owners."}],"isError":true,"_meta":{"mcpshim/denial":{"code":"not-granted"}}}}
    "#);
}

#[test]
fn nothing_goes_up_before_its_intent_and_nothing_down_before_its_outcome_is_recorded() {
    let mut rig = Rig::handshake();
    rig.recording = Recording::Withheld;
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[],"early":true}}
        recorded
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
        recorded"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[],"early":true}}
    recorded
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    ! outcome 1 Ok {"content":[]}
    recorded
    < {"jsonrpc":"2.0","id":1,"result":{"content":[]}}
    "#);
}

#[test]
fn a_call_that_cannot_be_recorded_is_refused_and_with_fail_mode_open_it_goes_on() {
    let mut rig = Rig::handshake();
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    rig.recording = Recording::Fails;
    let closed = rig.play(
        r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#,
    );
    insta::assert_snapshot!(closed, @r#"
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! intent 2 alpha(2025-11-25)/echo by rule#0 eng
    ! outcome 2 NotSent
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"Refused: the call could not be recorded (disk full)."}],"isError":true,"_meta":{"mcpshim/denial":{"code":"no-record"}}}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    ! outcome 1 Ok {"content":[]}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Refused: the call was made, but its outcome could not be recorded (disk full), so its result is withheld."}],"isError":true,"_meta":{"mcpshim/denial":{"code":"no-record"}}}}
    "#);
    let mut open = registry();
    open.edit("alpha", |alpha| {
        alpha.audit.fail_mode = crate::registry::doc::FailMode::Open;
    });
    rig.handle(Input::Snapshot(snapshot_of(2, &open, Some(ann(&["eng"])))));
    let open = rig.play(
        r#"> {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":8,"result":{"content":[]}}
        +2000"#,
    );
    insta::assert_snapshot!(open, @r#"
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! intent 3 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"echo"}}
    «alpha {"jsonrpc":"2.0","id":8,"result":{"content":[]}}
    ! outcome 3 Ok {"content":[]}
    < {"jsonrpc":"2.0","id":3,"result":{"content":[]}}
    +2000
    ! counted unrecorded 2
    "#);
}

#[test]
fn cancelling_reaches_a_sent_call_and_stops_one_that_is_not() {
    let mut rig = Rig::handshake();
    let sent = rig.play(
        r#"> {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"alpha_echo"}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\u0061","reason":"x"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"never"}}"#,
    );
    insta::assert_snapshot!(sent, @r#"
    > {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"\u0061","reason":"x"}}
    »alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}
    ! outcome 1 Cancelled
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"never"}}
    "#);
    rig.recording = Recording::Withheld;
    let held = rig.play(
        r#"> {"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"alpha_echo"}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"b"}}
        recorded"#,
    );
    insta::assert_snapshot!(held, @r#"
    > {"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"alpha_echo"}}
    ! intent 2 alpha(2025-11-25)/echo by rule#0 eng
    > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"b"}}
    ! outcome 2 NotSent
    recorded
    "#);
}

#[test]
fn cancelling_a_call_that_waits_for_its_link_sends_nothing() {
    let mut rig = Rig::handshake();
    rig.opens = false;
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}
        opened alpha
        +2000"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}
    opened alpha
    +2000
    ! counted cancelled-early 1
    "#);
}

#[test]
fn one_id_cannot_be_in_flight_twice() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"alpha_echo"}}
        > {"jsonrpc":"2.0","id":"\u0061","method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
        > {"jsonrpc":"2.0","id":"a","method":"ping"}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    > {"jsonrpc":"2.0","id":"\u0061","method":"tools/call","params":{"name":"alpha_echo"}}
    < {"jsonrpc":"2.0","id":"\u0061","error":{"code":-32600,"message":"a request with id \"\\u0061\" is still in flight"}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    ! outcome 1 Ok {"content":[]}
    < {"jsonrpc":"2.0","id":"a","result":{"content":[]}}
    > {"jsonrpc":"2.0","id":"a","method":"ping"}
    < {"jsonrpc":"2.0","id":"a","result":{}}
    "#);
}

#[test]
fn answers_that_answer_nothing_are_counted_and_dropped() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":777,"result":{"content":[]}}
        «alpha {"jsonrpc":"2.0","id":"06","result":{"content":[]}}
        «alpha {"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":["twice"]}}
        «alpha {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":6,"progress":1}}
        «alpha {"jsonrpc":"2.0","method":"notifications/initialized"}
        «alpha garbage
        +2000"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    «alpha {"jsonrpc":"2.0","id":777,"result":{"content":[]}}
    «alpha {"jsonrpc":"2.0","id":"06","result":{"content":[]}}
    «alpha {"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    ! outcome 1 Ok {"content":[]}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[]}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":["twice"]}}
    «alpha {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":6,"progress":1}}
    «alpha {"jsonrpc":"2.0","method":"notifications/initialized"}
    «alpha garbage
    ! link fault
    +2000
    ! counted stray-answer 3
    ! counted late-answer 1
    ! counted stray-progress 1
    ! counted unknown-upstream-notification 1
    ! counted upstream-line 1
    "#);
}

/// Found: what could not be read of another exchange over HTTP was taken for the only call's answer.
#[test]
fn an_unreadable_answer_ends_no_call_of_another_exchange() {
    let deep = "[".repeat(2 * crate::limits::JSON_DEPTH);
    let of = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{deep}}}"#);
    // found: one that names another request was taken for the answer of the only call
    let (named, other, nobody) = (of("9"), of("6"), of("null"));
    for (place, line, ends) in [
        (Place::Answer(6), &named, true),
        (Place::Answer(9), &named, false),
        (Place::News, &named, false),
        (Place::Only, &named, false),
        (Place::Only, &other, true),
        (Place::Only, &nobody, true),
    ] {
        let mut rig = Rig::handshake();
        rig.play(
            r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#,
        );
        let link = rig.link("alpha");
        let line = line.as_bytes();
        rig.handle(Input::LinkLine { link, place, line });
        assert_eq!(rig.machine.books().2 == 0, ends, "{place:?}");
    }
}

/// Found: a line too long among a server's news was taken for the answer of the only call.
#[test]
fn a_line_too_long_ends_the_call_whose_answer_it_was() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}
        oversize alpha news
        oversize alpha 7
        oversize alpha news
        oversize alpha"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! intent 2 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}
    oversize alpha news
    ! link fault
    oversize alpha 7
    ! outcome 2 Unknown
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"the answer of server alpha has 20000000 bytes, more than 16777216; whether the call took effect is not known; ask for less"}],"isError":true}}
    oversize alpha news
    oversize alpha
    ! outcome 1 Unknown
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"the answer of server alpha has 20000000 bytes, more than 16777216; whether the call took effect is not known; ask for less"}],"isError":true}}
    "#);
}

#[test]
fn an_unusable_answer_ends_its_call() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"isError":false,"isError":true}}
        > {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"alpha://readme"}}
        «alpha {"jsonrpc":"2.0","id":7,"result":[]}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo"}}
        oversize alpha"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"isError":false,"isError":true}}
    ! outcome 1 Unknown {"jsonrpc":"2.0","id":6,"result":{"isError":false,"isError":true}}
    ! link fault
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"server alpha gave an unusable answer: duplicate key \"isError\" in result: two readers would see two values; whether the call took effect is not known"}],"isError":true}}
    > {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"alpha://readme"}}
    ! intent 2 alpha(2025-11-25)/ by rule#1 eng "alpha://readme"
    »alpha {"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"alpha://readme"}}
    «alpha {"jsonrpc":"2.0","id":7,"result":[]}
    ! outcome 2 Unknown {"jsonrpc":"2.0","id":7,"result":[]}
    < {"jsonrpc":"2.0","id":2,"error":{"code":-32603,"message":"server alpha gave an unusable answer: `result` must be an object; whether the call took effect is not known"}}
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! intent 3 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"echo"}}
    oversize alpha
    ! outcome 3 Unknown
    < {"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"the answer of server alpha has 20000000 bytes, more than 16777216; whether the call took effect is not known; ask for less"}],"isError":true}}
    "#);
}

#[test]
fn a_link_that_dies_ends_its_calls_and_says_what_is_known() {
    let mut rig = Rig::handshake();
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    rig.recording = Recording::Withheld;
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}
        closed alpha ended: exit status 1
        recorded
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo"}}
        > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"mcpshim_status"}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! intent 2 alpha(2025-11-25)/echo by rule#0 eng
    closed alpha ended: exit status 1
    ! outcome 1 Unknown
    ! link down
    ! outcome 2 NotSent
    recorded
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"server alpha ended: exit status 1 before it answered; whether the call took effect is not known"}],"isError":true}}
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"server alpha ended: exit status 1 before the call was sent"}],"isError":true}}
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 3 alpha(2025-11-25)/echo by rule#0 eng
    > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"mcpshim_status"}}
    < {"jsonrpc":"2.0","id":4,"result":{"content":[{"type":"text","text":"mcpshim $VERSION\norganisation: Acme\nregistry:     version 3, fresh, timestamp ends 2027-01-15T09:00:00Z\ncaller:       Ann\nroles:        eng\nsign-in:      ends 2027-01-15T09:00:00Z, 1 h left\nserver:       alpha - 1 of 2 tools\nserver:       beta - 1 of 2 tools\nserver:       gamma - 0 of 1 tools (none granted; ask team-x or #team-x)\n"}],"isError":false}}
    "#);
}

#[test]
fn a_server_that_is_not_the_approved_one_gets_no_call() {
    let mut strict = registry();
    strict.edit("alpha", |alpha| {
        alpha.pin = PinMode::Strict;
    });
    let mut rig = Rig::new(Some(snapshot_of(1, &strict, Some(ann(&["eng"])))));
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}
    ! open alpha
    ! link drift
    ! denial 1 alpha()/echo drift {}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Refused until the server is approved again: server alpha is not the one that was approved: tool `echo` changed at `$`; ask team-x."}],"isError":true,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM,"mcpshim/denial":{"code":"drift"}}}}
    ! close alpha
    "#);
}

#[test]
fn what_is_not_the_approved_one_costs_the_calls_of_its_own_name() {
    let mut each = registry();
    exact(&mut each, "alpha", PinMode::Definitions);
    each.edit("alpha", |alpha| {
        let tools = &mut alpha.surface.as_mut().unwrap().tools;
        let echo = tools.iter_mut().find(|tool| tool.name == "echo").unwrap();
        echo.digest = Digest::of(b"another");
    });
    let mut rig = Rig::new(Some(snapshot_of(1, &each, Some(ann(&["eng"])))));
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}
        > {"jsonrpc":"2.0","id":2,"method":"prompts/get","params":{"name":"alpha_greet",$META}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}
    ! open alpha
    ! link drift
    ! denial 1 alpha(2025-11-25)/echo drift {}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Policy denial, do not retry: alpha/echo is not what was approved any more: tool `echo` changed at `$`; ask team-x to have server alpha reviewed and pinned again."}],"isError":true,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM,"mcpshim/denial":{"code":"drift"}}}}
    > {"jsonrpc":"2.0","id":2,"method":"prompts/get","params":{"name":"alpha_greet",$META}}
    ! intent 2 alpha(2025-11-25)/greet by rule#1 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"prompts/get","params":{"name":"greet"}}
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}
    ! denial 3 alpha(2025-11-25)/echo drift {}
    < {"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"Policy denial, do not retry: alpha/echo is not what was approved any more: tool `echo` changed at `$`; ask team-x to have server alpha reviewed and pinned again."}],"isError":true,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM,"mcpshim/denial":{"code":"drift"}}}}
    "#);
    let report = rig.machine.report();
    let differing: Vec<_> = report.servers[0].differing.keys().collect();
    assert_eq!(differing, ["echo"]);
}

#[test]
fn a_call_that_takes_too_long_is_taken_back() {
    let mut quick = registry();
    quick.edit("alpha", |alpha| alpha.limits.call_ms = 3000);
    let mut rig = Rig::new(Some(snapshot_of(1, &quick, Some(ann(&["eng"])))));
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo",$META}}
        +2999
        +1
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo",$META}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    +2999
    +1
    »alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}
    ! outcome 1 Timeout
    < {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"server alpha gave no answer within 3 s; whether the call took effect is not known"}],"isError":true,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    "#);
}

#[test]
fn more_calls_than_the_server_entry_allows_are_refused_for_now() {
    let mut narrow = registry();
    narrow.edit("alpha", |alpha| alpha.limits.in_flight = 1);
    let mut rig = Rig::new(Some(snapshot_of(1, &narrow, Some(ann(&["eng"])))));
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo",$META}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo",$META}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo",$META}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo",$META}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo",$META}}
    ! denial 2 alpha(2025-11-25)/echo overloaded 
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"Refused, nothing was sent: 1 calls to server alpha are in flight, which is the most; wait for some."}],"isError":true,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM,"mcpshim/denial":{"code":"overloaded"}}}}
    «alpha {"jsonrpc":"2.0","id":6,"result":{"content":[]}}
    ! outcome 1 Ok {"content":[]}
    < {"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo",$META}}
    ! intent 3 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}
    "#);
}

#[test]
fn more_bytes_than_a_link_may_hold_are_refused_for_now() {
    let mut rig = Rig::handshake();
    rig.play(r#"> {"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    let text = "x".repeat(8 << 20);
    let call = |id: u32| {
        format!(
            r#"> {{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"alpha_echo","arguments":{{"id":{id},"text":"{text}"}}}}}}"#
        )
    };
    for id in 1..=3 {
        assert!(rig.play(&call(id)).contains("»alpha"));
    }
    let refused = rig.play(&call(4));
    assert!(refused.contains("bytes of calls to server alpha are in flight; wait for some"));
    assert!(!refused.contains("»alpha"));
    // another server has room, and so has this one once it answered
    let other = call(5).replace("alpha_echo", "beta_echo");
    assert!(rig.play(&other).contains("»beta"));
    rig.play(r#"«alpha {"jsonrpc":"2.0","id":7,"result":{"content":[]}}"#);
    assert!(rig.play(&call(6)).contains("»alpha"));
}

#[test]
fn a_request_waits_for_its_link_no_longer_than_its_call_may_take() {
    let mut hasty = registry();
    hasty.edit("alpha", |alpha| alpha.limits.call_ms = 3000);
    let mut rig = Rig::new(Some(snapshot_of(1, &hasty, Some(ann(&["eng"]))))).opened();
    rig.opens = false;
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    assert!(!rig.play("+2999").contains('<'));
    let told = rig.play("+1");
    assert!(
        told.contains("server alpha has not come up within 3 s; ask #team-x"),
        "{told}"
    );
    assert!(told.contains("! denial"), "{told}");
    // it goes on opening, and the next call finds it
    let call = r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}"#;
    rig.play(call);
    assert!(rig.play("opened alpha").contains("»alpha"));
}

/// A snapshot in which the same call to alpha may be made twice in ten seconds.
fn twice_in_ten_seconds() -> Rig {
    let mut registry = registry();
    let alpha = registry.servers.get_mut(&fixture::key("alpha")).unwrap();
    Arc::make_mut(alpha).limits.repeat = Some(crate::registry::doc::RepeatLimit {
        calls: 2,
        seconds: 10,
    });
    Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"]))))).opened()
}

#[test]
fn the_same_call_too_often_is_stopped_and_told_when_it_may_be_made_again() {
    let mut rig = twice_in_ten_seconds();
    let call = |id: u32, arguments: &str| {
        format!(
            r#"> {{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"alpha_echo","arguments":{arguments}}}}}"#
        )
    };
    rig.play(&call(1, r#"{"a":1}"#));
    rig.play("+4000");
    rig.play(&call(2, r#"{"a":1}"#));
    let text = "alpha/echo was called 2 times within 10 s with the same arguments, which is the \
                most that is allowed; call it with other arguments, or again in 6 s; if it is \
                there to be polled, team-x can give it another limit.";
    let refused = rig.play(&call(3, r#"{"a":1}"#));
    assert!(refused.contains(text), "{refused}");
    assert!(
        refused.contains(r#""mcpshim/denial":{"code":"repeated"}"#),
        "{refused}"
    );
    assert!(refused.contains("! denial"), "{refused}");
    assert!(!refused.contains("»alpha"), "{refused}");
    // other bytes are another call, and so is another server's
    for (id, arguments) in [(4, r#"{"a":2}"#), (5, r#"{ "a":1}"#)] {
        let passed = rig.play(&call(id, arguments));
        assert!(passed.contains("»alpha"), "{passed}");
    }
    let other = call(6, r#"{"a":1}"#).replace("alpha_echo", "beta_echo");
    assert!(rig.play(&other).contains("»beta"));
    rig.play("+6000");
    assert!(rig.play(&call(7, r#"{"a":1}"#)).contains("»alpha"));
    assert!(rig.play(&call(8, r#"{"a":1}"#)).contains("again in 4 s"));
    assert_eq!(rig.machine.report().repeats_stopped, 2);
}

#[test]
fn a_call_that_was_not_sent_does_not_count_among_repeated_ones() {
    let mut rig = twice_in_ten_seconds();
    let call = r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#;
    rig.recording = Recording::Fails;
    for _ in 0..5 {
        let refused = rig.play(call);
        assert!(refused.contains("could not be recorded"), "{refused}");
    }
}

/// Found: calls whose records came late were let through in one window after the other, and then
/// went up together.
#[test]
fn the_same_calls_that_wait_for_their_records_do_not_pile_up() {
    let mut rig = twice_in_ten_seconds();
    let call = |id: u32| {
        format!(
            r#"> {{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"alpha_echo","arguments":{{"a":1}}}}}}"#
        )
    };
    rig.recording = Recording::Withheld;
    for id in 1..=4 {
        rig.play(&call(id));
        rig.play("+11000");
    }
    let transcript = rig.play("recorded");
    assert_eq!(transcript.matches("»alpha").count(), 2, "{transcript}");
    assert_eq!(rig.machine.report().repeats_stopped, 2);
    // they count from when they went up
    rig.recording = Recording::AtOnce;
    rig.play("+9000");
    assert!(!rig.play(&call(5)).contains("»alpha"));
    rig.play("+1000");
    assert!(rig.play(&call(6)).contains("»alpha"));
}

#[test]
fn an_end_of_the_session_settles_every_call() {
    let mut rig = Rig::handshake();
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    rig.recording = Recording::Withheld;
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"beta_echo"}}
        > {"jsonrpc":"2.0","id":3,"method":"nonsense"}
        eof
        > {"jsonrpc":"2.0","id":4,"method":"ping"}
        recorded"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"beta_echo"}}
    ! open beta
    ! intent 2 beta(2026-07-28)/echo by rule#2 eng
    > {"jsonrpc":"2.0","id":3,"method":"nonsense"}
    < {"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"Method not found: nonsense"}}
    eof
    »alpha {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}
    ! outcome 1 Unknown
    ! outcome 2 NotSent
    ! close alpha
    ! close beta
    ! counted unknown-method 1
    > {"jsonrpc":"2.0","id":4,"method":"ping"}
    recorded
    ! done
    "#);
}

#[test]
fn what_an_upstream_asks_of_the_client_is_refused_and_recorded() {
    let mut rig = Rig::handshake();
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    let transcript = rig.play(
        r#"«alpha {"jsonrpc":"2.0","id":"e","method":"elicitation/create","params":{"message":"password?"}}
        «alpha {"jsonrpc":"2.0","id":0,"method":"ping"}
        «alpha {"jsonrpc":"2.0","id":1,"method":"x/y"}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    «alpha {"jsonrpc":"2.0","id":"e","method":"elicitation/create","params":{"message":"password?"}}
    »alpha {"jsonrpc":"2.0","id":"e","error":{"code":-32601,"message":"Method not found: elicitation/create is not offered here"}}
    ! denial 2 alpha(2025-11-25)/elicitation/create ask-not-in-entry {"message":"password?"}
    «alpha {"jsonrpc":"2.0","id":0,"method":"ping"}
    »alpha {"jsonrpc":"2.0","id":0,"result":{}}
    «alpha {"jsonrpc":"2.0","id":1,"method":"x/y"}
    »alpha {"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found: x/y is not offered here"}}
    ! denial 3 alpha(2025-11-25)/ ask-unknown
    "#);
}

#[test]
fn log_messages_come_where_they_were_asked_for() {
    let mut rig = Rig::handshake();
    let handshake = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":1.0}}
        > {"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"warning"}}
        «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":2}}
        «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":3}}
        > {"jsonrpc":"2.0","id":3,"method":"logging/setLevel","params":{"level":"loud"}}
        > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"beta_echo"}}"#,
    );
    insta::assert_snapshot!(handshake, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
    ! open alpha
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":1.0}}
    < {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":1.0,"logger":"alpha"}}
    > {"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"warning"}}
    »alpha {"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":"warning"}}
    < {"jsonrpc":"2.0","id":2,"result":{}}
    «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":2}}
    «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":3}}
    < {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":3,"logger":"alpha"}}
    > {"jsonrpc":"2.0","id":3,"method":"logging/setLevel","params":{"level":"loud"}}
    < {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"params.level must be one of debug, info, notice, warning, error, critical, alert, emergency"}}
    > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"beta_echo"}}
    ! open beta
    ! intent 2 beta(2026-07-28)/echo by rule#2 eng
    »beta {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"old","version":"3"},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"warning"}}}
    "#);
    let mut rig = Rig::eng();
    let stateless = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info"}}}
        «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":1}}
        «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":2}}
        «alpha {"jsonrpc":"2.0","id":7,"result":{"content":[]}}
        «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":3}}"#,
    );
    insta::assert_snapshot!(stateless, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info"}}}
    ! open alpha
    »alpha {"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":"info"}}
    ! intent 1 alpha(2025-11-25)/echo by rule#0 eng
    »alpha {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo"}}
    «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug","data":1}}
    «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":2}}
    < {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":2,"logger":"alpha"}}
    «alpha {"jsonrpc":"2.0","id":7,"result":{"content":[]}}
    «alpha {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":3}}
    < {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":3,"logger":"alpha"}}
    "#);
}

#[test]
fn a_granted_name_does_not_carry_another_one_upstream() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","Name":"forbidden"}}
        > {"jsonrpc":"2.0","id":2,"method":"completion/complete","params":{"ref":{"type":"ref/any","name":"alpha_greet","uri":"gamma://x"},"argument":{}}}
        > {"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"alpha_greet","NAME":"x"},"argument":{}}}"#,
    );
    assert!(!transcript.contains("alpha {"), "{transcript}");
    assert!(!transcript.contains("! intent"), "{transcript}");
    let line = "{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"tools/call\",\"params\":{\"name\":\"alpha_echo\"},\"x\":\r{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"tools/call\",\"params\":{\"name\":\"forbidden\"}}\r}";
    rig.handle(Input::ClientLine(line.as_bytes()));
    let transcript = rig.play("");
    assert!(!transcript.contains("! open"), "{transcript}");
    assert!(
        transcript.contains(r#""id":4,"error":{"code":-32700"#),
        "{transcript}"
    );
}

#[test]
fn a_call_that_waits_for_its_record_is_decided_again_when_the_rules_change() {
    let mut rig = Rig::handshake();
    rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{}}"#,
    );
    rig.recording = Recording::Withheld;
    rig.play(
        r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}
        oversize alpha
        > {"jsonrpc":"2.0","id":3,"method":"prompts/get","params":{"name":"alpha_greet"}}"#,
    );
    let mut less = registry();
    less.table("eng", "alpha").tools.clear();
    rig.handle(Input::Snapshot(snapshot_of(2, &less, Some(ann(&["eng"])))));
    let transcript = rig.play("recorded");
    insta::assert_snapshot!(transcript, @r#"
    ! outcome 2 NotSent
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"Policy denial, do not retry: role eng of Ann does not include alpha/echo; ask eng-owners."}],"isError":true,"_meta":{"mcpshim/denial":{"code":"not-granted"}}}}
    recorded
    »alpha {"jsonrpc":"2.0","id":8,"method":"prompts/get","params":{"name":"greet"}}
    "#);
}

/// A call whose record is withheld, of a session past its first call.
fn withheld() -> Rig {
    let mut rig = Rig::handshake();
    rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo"}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{}}"#,
    );
    rig.recording = Recording::Withheld;
    rig.play(r#"> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo"}}"#);
    rig
}

#[test]
fn a_call_that_waits_for_its_record_is_not_sent_after_the_end_of_the_sign_in() {
    let mut rig = withheld();
    let leeway_s = crate::limits::TOKEN_LEEWAY_S;
    rig.now.wall_us = fixture::at(fixture::NOW + 3600 + leeway_s).wall_us;
    let transcript = rig.play("recorded");
    assert!(!transcript.contains("»alpha"), "{transcript}");
    assert!(transcript.contains("! outcome 2 NotSent"), "{transcript}");
    assert!(transcript.contains(r#""code":"no-caller""#), "{transcript}");
}

#[test]
fn a_call_that_waits_for_its_record_is_not_sent_in_the_name_of_somebody_else() {
    let mut rig = withheld();
    rig.handle(Input::Snapshot(snapshot_of(2, &registry(), Some(bob()))));
    let transcript = rig.play("recorded");
    assert!(!transcript.contains("»alpha"), "{transcript}");
    assert!(transcript.contains("! outcome 2 NotSent"), "{transcript}");
    assert!(
        transcript.contains("somebody else signed in while alpha/echo was waiting"),
        "{transcript}"
    );
    // a renewed sign-in is the same person's
    let mut rig = withheld();
    let renewed = snapshot_of(2, &registry(), Some(ann(&["eng"])));
    rig.handle(Input::Snapshot(renewed));
    let transcript = rig.play("recorded");
    assert!(transcript.contains("»alpha"), "{transcript}");
}

#[test]
fn what_nobody_would_ask_for_is_cut_in_the_answer_and_counted_where_it_cannot_be_read() {
    let mut rig = Rig::handshake();
    let long = "x".repeat(1 << 20);
    let answer = rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{long}"}}}}"#
    ));
    let answer = answer.lines().find(|line| line.starts_with('<')).unwrap();
    assert!(answer.len() < 3_000, "{}", answer.len());
    let answer = rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{{"uri":"{long}"}}}}"#
    ));
    let answer = answer.lines().find(|line| line.starts_with('<')).unwrap();
    assert!(answer.len() < 6_000, "{}", answer.len());
    let counted = rig.play(
        r#"> {"jsonrpc":"2.0","id":3,"method":"tools/call"}
        > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":1}}
        > {"jsonrpc":"2.0","id":5,"method":"completion/complete","params":{"ref":1}}
        +3000"#,
    );
    assert!(
        counted.contains("! counted unreadable-params 3"),
        "{counted}"
    );
}

/// The registry with these capabilities in the pins of both servers.
fn offering(capabilities: &str) -> Arc<Snapshot> {
    let mut registry = registry();
    for key in ["alpha", "beta"] {
        let raw = serde_json::value::RawValue::from_string(capabilities.to_owned()).unwrap();
        registry.edit(key, |server| {
            server.surface.as_mut().unwrap().capabilities = Some(raw);
        });
    }
    snapshot_of(1, &registry, Some(ann(&["eng"])))
}

#[test]
fn what_a_server_does_not_complete_is_completed_with_nothing() {
    let ask = r#"> {"jsonrpc":"2.0","id":2,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"alpha_greet"},"argument":{"name":"n","value":"A"},$META}}"#;
    let mut rig = Rig::new(Some(offering(r#"{"prompts":{}}"#)));
    insta::assert_snapshot!(rig.play(&format!("{ask}\n+2000")).replace(&ask.replace("$META", META), ""), @r#"
    > {"jsonrpc":"2.0","id":2,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"alpha_greet"},"argument":{"name":"n","value":"A"},$META}}
    < {"jsonrpc":"2.0","id":2,"result":{"completion":{"values":[],"total":0,"hasMore":false},"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    +2000
    ! counted no-completions 1
    "#);
    let mut rig = Rig::new(Some(offering(r#"{"completions":{}}"#)));
    assert!(rig.play(ask).contains("»alpha "));
    // what may not be asked is refused all the same
    let mut rig = Rig::new(Some(offering("{}")));
    assert!(
        rig.play(&ask.replace("greet", "other"))
            .contains("! denial")
    );
}

#[test]
fn a_log_level_goes_to_servers_that_log() {
    for (capabilities, told) in [(r#"{"logging":{}}"#, true), ("{}", false)] {
        let mut rig = Rig::new(Some(offering(capabilities)));
        let transcript = rig.play(
            r#"> {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"old","version":"3"}}}
            > {"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"notice"}}
            > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"beta_echo"}}"#,
        );
        let stamped = transcript.contains(r#""io.modelcontextprotocol/logLevel":"notice""#);
        assert_eq!(stamped, told, "{transcript}");
    }
}

#[test]
fn trace_context_and_keys_of_vendors_pass_both_ways_in_every_pair() {
    let kept = r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01","tracestate":"a=1","baggage":"k=v","com.example/x":{"n":1e400,"n2":12345678901234567890123}"#;
    for server in ["alpha", "beta"] {
        for stateless in [false, true] {
            let mut rig = if stateless {
                Rig::eng()
            } else {
                Rig::handshake()
            };
            let own = if stateless {
                META.trim_start_matches(r#""_meta":{"#)
                    .trim_end_matches('}')
            } else {
                r#""a":0"#
            };
            // META ends with the object of its last member
            let own = if stateless {
                format!("{own}}}")
            } else {
                own.to_owned()
            };
            let up = rig.play(&format!(
                r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{server}_echo","_meta":{{{kept},{own}}}}}}}"#
            ));
            let sent = up.lines().find(|line| line.starts_with('»')).unwrap();
            assert!(sent.contains(kept), "{up}");
            let down = rig.play(&format!(
                r#"«{server} {{"jsonrpc":"2.0","id":6,"result":{{"content":[],"_meta":{{{kept}}}}}}}"#
            ));
            let answer = down.lines().find(|line| line.starts_with('<')).unwrap();
            assert!(answer.contains(kept), "{down}");
        }
    }
}

/// `alpha` and `beta`, each as it is or not pinned.
fn unpinned(keys: &[&str]) -> Rig {
    let mut registry = registry();
    for key in keys {
        registry.edit(key, |server| {
            server.pin = PinMode::Off;
        });
    }
    Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"]))))).opened()
}

#[test]
fn a_call_before_any_list_waits_for_what_a_server_that_is_not_pinned_offers() {
    let call = |id: u32, name: &str| {
        format!(
            r#"> {{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}"}}}}"#
        )
    };
    let mut rig = unpinned(&["alpha", "beta"]);
    let called = rig.play(&call(1, "beta_echo"));
    assert!(called.contains("! open alpha"), "{called}");
    assert!(
        called.contains(r#"»beta {"jsonrpc":"2.0","id":6,"method":"tools/call""#),
        "{called}"
    );
    assert!(!called.contains("Unknown"), "{called}");
    // what nobody has is unknown, once that is known
    let unknown = unpinned(&["alpha", "beta"]).play(&call(1, "nobody_has_it"));
    assert!(unknown.contains("! open beta"), "{unknown}");
    assert!(unknown.contains("Unknown tool: nobody_has_it"), "{unknown}");
    // a prompt and a resource too
    for (method, params) in [
        ("prompts/get", r#""name":"alpha_greet""#),
        ("resources/read", r#""uri":"alpha://readme""#),
    ] {
        let line =
            format!(r#"> {{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#);
        let asked = unpinned(&["alpha"]).play(&line);
        assert!(asked.contains("»alpha {"), "{asked}");
        assert!(!asked.contains("! open beta"), "{asked}");
    }
    // where all are pinned nothing is started for a name that nobody has
    let unknown = unpinned(&[]).play(&call(1, "nobody_has_it"));
    assert!(!unknown.contains("! open"), "{unknown}");
    assert!(unknown.contains("Unknown tool: nobody_has_it"), "{unknown}");
}

#[test]
fn a_server_that_is_not_pinned_and_never_comes_up_is_waited_for_as_long_as_a_call() {
    let mut rig = unpinned(&["alpha", "beta"]);
    rig.opens = false;
    let waits = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nobody_has_it"}}
        +1000"#,
    );
    assert!(waits.contains("! open alpha"), "{waits}");
    assert!(!waits.contains("< "), "{waits}");
    // each is waited for once
    let mut over = String::new();
    for _ in 0..3 {
        over.push_str(&rig.play("+600000"));
    }
    assert_eq!(over.matches("Unknown tool").count(), 1, "{over}");
    assert_eq!(rig.machine.books().2, 0);
}
