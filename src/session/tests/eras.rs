//! Opening in both eras, and what is answered here.

use super::*;
use crate::wire::peek::Peek;

const DISCOVER: &str = r#"> {"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover","params":{$META}}"#;

#[test]
fn discover_decides_nothing_and_initialize_may_follow() {
    let mut rig = Rig::eng();
    let transcript = rig.play(&format!(
        r#"{DISCOVER}
        > {{"method":"initialize","params":{{"protocolVersion":"2025-06-18","capabilities":{{}},"clientInfo":{{"name":"c","version":"1"}}}},"jsonrpc":"2.0","id":0}}
        > {{"jsonrpc":"2.0","method":"notifications/initialized"}}
        > {{"jsonrpc":"2.0","id":1,"method":"ping"}}"#
    ));
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":"server-discover-probe-1","method":"server/discover","params":{$META}}
    < {"jsonrpc":"2.0","id":"server-discover-probe-1","result":{"supportedVersions":["2026-07-28"],"capabilities":{"completions":{},"logging":{},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"tools":{"listChanged":true},"extensions":{"io.modelcontextprotocol/tasks":{}}},"instructions":"Tools of several servers, approved by Acme. A result that begins \"Policy denial, do not retry:\" is final: tell the user what it says. One that begins \"Refused until\" names what has to happen before you try again. If an expected tool is missing, call mcpshim_status.\n\n## alpha\nUse alpha well.\n\n## beta\nUse beta well.\n","resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    > {"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}},"jsonrpc":"2.0","id":0}
    < {"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{"completions":{},"logging":{},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"tools":{"listChanged":true}},"serverInfo":$SHIM,"instructions":"Tools of several servers, approved by Acme. A result that begins \"Policy denial, do not retry:\" is final: tell the user what it says. One that begins \"Refused until\" names what has to happen before you try again. If an expected tool is missing, call mcpshim_status.\n\n## alpha\nUse alpha well.\n\n## beta\nUse beta well.\n"}}
    > {"jsonrpc":"2.0","method":"notifications/initialized"}
    > {"jsonrpc":"2.0","id":1,"method":"ping"}
    < {"jsonrpc":"2.0","id":1,"result":{}}
    "#);
}

#[test]
fn a_stateless_request_pins_and_a_late_initialize_is_told_so() {
    let mut rig = Rig::eng();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{$META}}
        > {"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}}
        > {"jsonrpc":"2.0","id":3,"method":"ping","params":{$META}}
        > {"jsonrpc":"2.0","id":4,"method":"tools/list"}
        > {"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2027-01-01","io.modelcontextprotocol/clientCapabilities":{}}}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{$META}}
    < {"jsonrpc":"2.0","id":1,"result":{"prompts":[{"name":"alpha_greet","title":"greet"},{"name":"beta_greet","title":"greet"}],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    > {"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}}
    < {"jsonrpc":"2.0","id":2,"error":{"code":-32022,"message":"Unsupported protocol version: 2025-11-25","data":{"supported":["2026-07-28"],"requested":"2025-11-25"}}}
    > {"jsonrpc":"2.0","id":3,"method":"ping","params":{$META}}
    < {"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"Method not found: ping"}}
    > {"jsonrpc":"2.0","id":4,"method":"tools/list"}
    < {"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"params._meta[\"io.modelcontextprotocol/protocolVersion\"] is missing (MCP 2026-07-28), and there was no initialize"}}
    > {"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2027-01-01","io.modelcontextprotocol/clientCapabilities":{}}}}
    < {"jsonrpc":"2.0","id":5,"error":{"code":-32022,"message":"Unsupported protocol version: 2027-01-01","data":{"supported":["2026-07-28"],"requested":"2027-01-01"}}}
    "#);
}

#[test]
fn before_any_opening_only_ping_is_answered() {
    let mut rig = Rig::eng();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"ping"}
        > {"jsonrpc":"2.0","id":2,"method":"tools/list"}
        > {"jsonrpc":"2.0","id":3,"method":"initialize","params":{}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"ping"}
    < {"jsonrpc":"2.0","id":1,"result":{}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/list"}
    < {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"params._meta[\"io.modelcontextprotocol/protocolVersion\"] is missing (MCP 2026-07-28), and there was no initialize"}}
    > {"jsonrpc":"2.0","id":3,"method":"initialize","params":{}}
    < {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"params.protocolVersion must be a string"}}
    "#);
}

#[test]
fn lists_hold_what_is_granted_and_start_nothing() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/list"}
        > {"jsonrpc":"2.0","id":2,"method":"prompts/list","params":{}}
        > {"jsonrpc":"2.0","id":3,"method":"resources/list"}
        > {"jsonrpc":"2.0","id":4,"method":"resources/templates/list"}
        > {"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"cursor":"x"}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/list"}
    < {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"mcpshim_status","title":"mcpshim status","description":"Says who you are to the organisation, which servers and tools you may use, and why something is missing or refused. Call it when an expected tool is not there.","inputSchema":{"type":"object","properties":{},"additionalProperties":false},"annotations":{"title":"mcpshim status","readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}},{"annotations":{"readOnlyHint":true},"description":"d","inputSchema":{"type":"object"},"name":"alpha_echo"},{"annotations":{"readOnlyHint":true},"description":"d","inputSchema":{"type":"object"},"name":"beta_echo"}]}}
    > {"jsonrpc":"2.0","id":2,"method":"prompts/list","params":{}}
    < {"jsonrpc":"2.0","id":2,"result":{"prompts":[{"name":"alpha_greet","title":"greet"},{"name":"beta_greet","title":"greet"}]}}
    > {"jsonrpc":"2.0","id":3,"method":"resources/list"}
    < {"jsonrpc":"2.0","id":3,"result":{"resources":[{"name":"alpha://readme","uri":"alpha://readme"},{"name":"beta://readme","uri":"beta://readme"}]}}
    > {"jsonrpc":"2.0","id":4,"method":"resources/templates/list"}
    < {"jsonrpc":"2.0","id":4,"result":{"resourceTemplates":[{"name":"alpha://doc/{id}","uriTemplate":"alpha://doc/{id}"},{"name":"beta://doc/{id}","uriTemplate":"beta://doc/{id}"}]}}
    > {"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"cursor":"x"}}
    < {"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"the cursor is not one of this list, or the list has changed: start over"}}
    "#);
}

#[test]
fn without_a_caller_there_is_one_tool_and_it_says_what_is_wrong() {
    let nobody = Snapshot::new(
        SnapshotId(1),
        Some(Arc::new(Verified::assume_for_tests(registry()))),
        Freshness::Fresh,
        None,
        Some("nobody is signed in; run `mcpshim login`".to_owned()),
        &fixture::at(fixture::NOW),
    );
    let mut rig = Rig::new(Some(Arc::new(nobody)));
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/list","params":{$META}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"mcpshim_status","arguments":{},$META}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/list","params":{$META}}
    < {"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"mcpshim_status","title":"mcpshim status","description":"Says who you are to the organisation, which servers and tools you may use, and why something is missing or refused. Call it when an expected tool is not there.","inputSchema":{"type":"object","properties":{},"additionalProperties":false},"annotations":{"title":"mcpshim status","readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"mcpshim_status","arguments":{},$META}}
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"mcpshim $VERSION\norganisation: Acme\nregistry:     version 3, fresh, timestamp ends 2027-01-15T09:00:00Z\ncaller:       nobody is signed in\ntrouble:      nobody is signed in; run `mcpshim login`\nserver:       alpha - 0 of 2 tools\nserver:       beta - 0 of 2 tools\nserver:       gamma - 0 of 1 tools\n"}],"isError":false,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"alpha_echo","arguments":{},$META}}
    ! denial 1 alpha()/echo no-caller {}
    < {"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"Refused until you sign in: nobody is signed in; run `mcpshim login`."}],"isError":true,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM,"mcpshim/denial":{"code":"no-caller"}}}}
    "#);
}

#[test]
fn a_machine_without_a_registry_answers_initialize_at_once_and_lists_when_it_has_one() {
    let mut rig = Rig::new(None);
    let early = rig.play(
        r#"> {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}
        > {"jsonrpc":"2.0","id":1,"method":"prompts/list"}
        > {"jsonrpc":"2.0","id":2,"method":"tools/list"}
        > {"jsonrpc":"2.0","id":2,"method":"tools/list"}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#,
    );
    insta::assert_snapshot!(early, @r#"
    > {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}
    < {"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"completions":{},"logging":{},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"tools":{"listChanged":true}},"serverInfo":$SHIM,"instructions":"mcpshim cannot offer tools now: the registry is not here yet; run `mcpshim status`.\nCall mcpshim_status for details and tell the user what to do.\n"}}
    > {"jsonrpc":"2.0","id":1,"method":"prompts/list"}
    > {"jsonrpc":"2.0","id":2,"method":"tools/list"}
    > {"jsonrpc":"2.0","id":2,"method":"tools/list"}
    < {"jsonrpc":"2.0","id":2,"error":{"code":-32600,"message":"a request with id 2 is still in flight"}}
    > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}
    "#);
    rig.handle(Input::Snapshot(snapshot_of(
        2,
        &registry(),
        Some(ann(&["eng"])),
    )));
    insta::assert_snapshot!(rig.play("+250"), @r#"
    < {"jsonrpc":"2.0","id":1,"result":{"prompts":[{"name":"alpha_greet","title":"greet"},{"name":"beta_greet","title":"greet"}]}}
    +250
    < {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}
    < {"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}
    < {"jsonrpc":"2.0","method":"notifications/resources/list_changed"}
    "#);
}

#[test]
fn a_registry_that_never_comes_is_waited_for_five_seconds() {
    let mut rig = Rig::new(None);
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{$META}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo",$META}}
        +4999
        +1
        > {"jsonrpc":"2.0","id":3,"method":"prompts/list","params":{$META}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{$META}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"alpha_echo",$META}}
    +4999
    +1
    < {"jsonrpc":"2.0","id":1,"result":{"prompts":[],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    ! denial 1 alpha_echo no-registry 
    < {"jsonrpc":"2.0","id":2,"result":{"content":[{"type":"text","text":"Refused until there is a registry: there is no verified registry here, so nothing may be called: the registry is not here yet; run `mcpshim status`."}],"isError":true,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM,"mcpshim/denial":{"code":"no-registry"}}}}
    > {"jsonrpc":"2.0","id":3,"method":"prompts/list","params":{$META}}
    < {"jsonrpc":"2.0","id":3,"result":{"prompts":[],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    "#);
}

#[test]
fn bad_lines_get_an_error_and_lose_nothing() {
    let mut rig = Rig::handshake();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","name":"alpha_forbidden"}}
        > nonsense
        > [{"jsonrpc":"2.0","id":1,"method":"ping"}]
        > {"jsonrpc":"2.0","id":null,"method":"ping"}
        > {"jsonrpc":"2.0","id":2,"method":"does/not/exist"}
        > {"jsonrpc":"2.0","method":"notifications/unheard"}
        > {"jsonrpc":"2.0","id":9,"result":{}}
        > {"jsonrpc":"2.0","id":3,"method":"ping"}
        > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":7}}
        > {"jsonrpc":"2.0","id":5,"method":"completion/complete","params":{"ref":[]}}
        +2000"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","name":"alpha_forbidden"}}
    < {"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"duplicate key \"name\" in params: two readers would see two values"}}
    > nonsense
    < {"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not valid JSON at byte 0: expected a value"}}
    > [{"jsonrpc":"2.0","id":1,"method":"ping"}]
    < {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batches are not part of this protocol version: send each message on its own line"}}
    > {"jsonrpc":"2.0","id":null,"method":"ping"}
    < {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"`id` must not be null"}}
    > {"jsonrpc":"2.0","id":2,"method":"does/not/exist"}
    < {"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"Method not found: does/not/exist"}}
    > {"jsonrpc":"2.0","method":"notifications/unheard"}
    > {"jsonrpc":"2.0","id":9,"result":{}}
    > {"jsonrpc":"2.0","id":3,"method":"ping"}
    < {"jsonrpc":"2.0","id":3,"result":{}}
    > {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":7}}
    < {"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"params.name must be a string"}}
    > {"jsonrpc":"2.0","id":5,"method":"completion/complete","params":{"ref":[]}}
    < {"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"params.ref must be an object of type ref/prompt or ref/resource, and without duplicate keys in any case"}}
    +2000
    ! counted duplicate-key 1
    ! counted parse 1
    ! counted batch 1
    ! counted null-id 1
    ! counted unknown-method 1
    ! counted unknown-notification 1
    ! counted client-answer 1
    ! counted unreadable-params 2
    "#);
    let long = LineFault::TooLong { bytes: 100_000_000 };
    for line in [
        "[",
        r#"{"method":"tools/call","params":{},"id":"x7"}"#,
        r#"{"method":"notifications/x"}"#,
        r#"{"id":7,"result":{}}"#,
    ] {
        rig.handle(Input::ClientFault(long, Peek::of(line.as_bytes())));
    }
    let cut = LineFault::Cut { bytes: 7 };
    rig.handle(Input::ClientFault(cut, Peeked::default()));
    insta::assert_snapshot!(rig.play(""), @r#"
    < {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a message of 100000000 bytes is longer than 16777216 bytes and was dropped"}}
    < {"jsonrpc":"2.0","id":"x7","error":{"code":-32600,"message":"a message of 100000000 bytes is longer than 16777216 bytes and was dropped"}}
    < {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"the input ended inside a line, after 7 bytes of it"}}
    "#);
}

/// A session whose caller sees this many more tools, each of so many bytes.
fn rig_with_tools(count: usize, bytes: usize) -> Rig {
    let mut big = registry();
    let names: Vec<String> = (0..count).map(|n| format!("t{n}")).collect();
    let tools: Vec<(&str, bool)> = names.iter().map(|name| (name.as_str(), true)).collect();
    let mut server = fixture::server("delta", "names", &tools, &[], &[], &[]);
    for tool in &mut server.surface.as_mut().unwrap().tools {
        let room = bytes - tool.definition.get().len();
        let text = format!("{:?}", "d".repeat(room));
        let text = tool.definition.get().replace("\"d\"", &text);
        tool.definition = serde_json::value::RawValue::from_string(text).unwrap();
    }
    big.put(server);
    for name in &names {
        big.grant("eng", "delta", name);
    }
    Rig::new(Some(snapshot_of(1, &big, Some(ann(&["eng"])))))
}

/// Reads the list of tools to its last page; gives each page's line and how many tools it holds.
fn pages_of_tools(rig: &mut Rig) -> Vec<(String, usize)> {
    let (mut cursor, mut pages) = (String::new(), Vec::new());
    loop {
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{cursor}{META}}}}}"#
        ));
        let Some(Seen::Client(line)) = rig.seen.pop() else {
            panic!("no answer");
        };
        let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
        pages.push((line, answer["result"]["tools"].as_array().unwrap().len()));
        match answer["result"]["nextCursor"].as_str() {
            Some(next) => cursor = format!(r#""cursor":"{next}","#),
            None => return pages,
        }
    }
}

#[test]
fn ten_thousand_tools_come_in_one_line_of_less_than_8_mb() {
    let mut rig = rig_with_tools(10_000, 750);
    let pages = pages_of_tools(&mut rig);
    let [(line, 10_003)] = pages.as_slice() else {
        panic!("{:?}", pages.iter().map(|(_, tools)| tools));
    };
    assert!((7_500_000..8_000_000).contains(&line.len()));
}

#[test]
fn a_list_too_long_for_one_message_comes_in_pages_and_the_status_says_so() {
    let mut rig = rig_with_tools(10_000, 1_000);
    let pages = pages_of_tools(&mut rig);
    let [(first, on_first), (_, on_second)] = pages.as_slice() else {
        panic!("{} pages", pages.len());
    };
    assert_eq!(on_first + on_second, 10_003);
    assert!((7_800_000..8_000_000).contains(&first.len()));
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"1.2",$META}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"cursor":"2.1",$META}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"mcpshim_status",$META}}"#,
    );
    for id in [1, 2] {
        let refused = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"the cursor is not one of this list, or the list has changed: start over"}}}}"#
        );
        assert!(transcript.contains(&refused), "{transcript}");
    }
    let told = format!("reads only its first page offers {on_first} of 10003");
    assert!(transcript.contains(&told), "{transcript}");
}

#[test]
fn a_server_that_is_not_pinned_is_started_by_the_first_list_and_lists_what_is_granted() {
    let mut dev = registry();
    dev.put(fixture::server("dev", "off", &[], &[], &[], &[]));
    let rule = dev.rule(None);
    let table = dev.table("eng", "dev");
    table.tool_globs.push(("e*".to_owned(), rule));
    let mut rig = Rig::new(Some(snapshot_of(1, &dev, Some(ann(&["eng"])))));
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},$META}}
        > {"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{$META}}
        +250
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"dev_echo",$META}}
        > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"dev_forbidden",$META}}"#,
    );
    insta::assert_snapshot!(transcript, @r#"
    > {"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},$META}}
    < {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    > {"jsonrpc":"2.0","id":1,"method":"prompts/list","params":{$META}}
    ! open dev
    < {"jsonrpc":"2.0","id":1,"result":{"prompts":[{"name":"alpha_greet","title":"greet"},{"name":"beta_greet","title":"greet"}],"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":$SHIM}}}
    +250
    < {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"dev_echo",$META}}
    ! intent 1 dev(2026-07-28)/echo by rule#4 eng
    »dev {"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"echo",$META}}
    > {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"dev_forbidden",$META}}
    ! denial 2 dev_forbidden hidden 
    < {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"Unknown tool: dev_forbidden"}}
    "#);
    // nobody is signed in any more: it is not asked of a server that nobody may use
    let mut rig = Rig::new(Some(snapshot_of(1, &dev, None)));
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"tools/list","params":{$META}}"#);
    assert!(rig.servers.is_empty());
}

#[test]
fn a_stateless_client_is_known_by_its_first_request() {
    let mut rig = Rig::eng();
    // a probe says nothing yet: the process that sent it may be gone at once
    rig.play(r#"> {"jsonrpc":"2.0","id":1,"method":"server/discover","params":{$META}}"#);
    assert_eq!(rig.machine.report().client, None);
    rig.machine.take_moved();
    rig.play(r#"> {"jsonrpc":"2.0","id":2,"method":"tools/list","params":{$META}}"#);
    assert!(rig.machine.take_moved());
    let client = rig.machine.report().client.unwrap();
    assert_eq!(
        (client.name.as_str(), client.version.as_str()),
        ("probe", "1")
    );
    assert_eq!(client.protocol, "2026-07-28");
}
