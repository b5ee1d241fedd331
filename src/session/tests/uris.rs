//! URIs that two servers have, and tools that only one era can have whole.

use super::*;
use serde_json::value::RawValue;

/// `alpha` and `beta` both have `memo://a`, `db://{t}` and `ui://form`; alpha is the first.
fn world() -> Registry {
    let mut registry = registry();
    for (key, protocol) in [("alpha", "2025-11-25"), ("beta", "2026-07-28")] {
        let uris = ["memo://a", "ui://form", &format!("{key}://own")];
        let mut server = fixture::server(
            key,
            "names",
            &[("echo", true)],
            &["greet"],
            &uris,
            &["db://{t}"],
        );
        let surface = server.surface.as_mut().unwrap();
        surface.protocol = protocol.to_owned();
        let definition = r#"{"description":"d","name":"echo","inputSchema":{"type":"object"},"execution" : {"taskSupport":"optional"},"outputSchema":{"type":["array","null"]}, "_meta":{"ui":{"resourceUri":"ui://form","visibility":["app"]},"ui/resourceUri":"ui://form"}}"#;
        surface.tools[0].definition = RawValue::from_string(definition.to_owned()).unwrap();
        registry.put(server);
        let rule = registry.rule(None);
        let table = registry.table("eng", key);
        table.resources.push(("*".to_owned(), rule));
    }
    registry
}

fn rig() -> Rig {
    Rig::new(Some(snapshot_of(1, &world(), Some(ann(&["eng"])))))
}

fn list(rig: &mut Rig, what: &str, meta: &str) -> String {
    let method = match what {
        "resourceTemplates" => "resources/templates",
        other => other,
    };
    let answer = rig.play(&format!(
        r#"> {{"jsonrpc":"2.0","id":1,"method":"{method}/list","params":{{{meta}}}}}"#
    ));
    answer
        .lines()
        .find(|line| line.starts_with('<'))
        .unwrap()
        .to_owned()
}

#[test]
fn the_second_of_two_servers_is_listed_under_another_name_everywhere() {
    let mut rig = rig();
    let resources = list(&mut rig, "resources", "$META");
    for uri in [
        "memo://a",
        "ui://form",
        "mcpshim+beta:memo://a",
        "ui://beta.mcpshim/form",
        "beta://own",
    ] {
        assert_eq!(
            resources.matches(&format!(r#""uri":"{uri}""#)).count(),
            1,
            "{resources}"
        );
    }
    let templates = list(&mut rig, "resourceTemplates", "$META");
    for uri in ["db://{t}", "mcpshim+beta:db://{t}"] {
        assert_eq!(
            templates
                .matches(&format!(r#""uriTemplate":"{uri}""#))
                .count(),
            1,
            "{templates}"
        );
    }
    // tools only apps may call stay listed, and name the resource that shows them
    let tools = list(&mut rig, "tools", "$META");
    assert!(tools.contains(r#""name":"alpha_echo","inputSchema":{"type":"object"},"outputSchema":{"type":["array","null"]}, "_meta":{"ui":{"resourceUri":"ui://form","visibility":["app"]},"ui/resourceUri":"ui://form"}}"#), "{tools}");
    assert!(tools.contains(r#""name":"beta_echo","inputSchema":{"type":"object"},"execution" : {"taskSupport":"optional"},"outputSchema":{"type":["array","null"]}, "_meta":{"ui":{"resourceUri":"ui://beta.mcpshim/form","visibility":["app"]},"ui/resourceUri":"ui://beta.mcpshim/form"}}"#), "{tools}");
}

#[test]
fn a_handshake_client_has_no_schema_of_something_else_than_an_object() {
    let mut rig = rig();
    rig.play(r#"> {"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"old","version":"3"}}}"#);
    let tools = list(&mut rig, "tools", "");
    // alpha's own era: as it came; beta's schema is one of an object
    assert!(tools.contains(r#""name":"alpha_echo","inputSchema":{"type":"object"},"execution" : {"taskSupport":"optional"},"outputSchema":{"type":["array","null"]}, "_meta""#), "{tools}");
    assert!(tools.contains(r#""name":"beta_echo","inputSchema":{"type":"object"},"execution" : {"taskSupport":"optional"},"outputSchema":{"type":"object","properties":{"result":{"type":["array","null"]}},"required":["result"]}, "_meta""#), "{tools}");
    let answer = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo"}}
        «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","content":[],"structuredContent":[1]}}
        > {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"beta_echo"}}
        «beta {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[],"structuredContent":{}}}"#,
    );
    for told in [
        r#"< {"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"[1]"}],"structuredContent":{"result":[1]}}}"#,
        // as its schema says
        r#"< {"jsonrpc":"2.0","id":2,"result":{"content":[],"structuredContent":{"result":{}}}}"#,
    ] {
        assert!(answer.contains(told), "{answer}");
    }
}

#[test]
fn another_name_is_read_subscribed_to_and_completed_at_its_own_server() {
    let mut rig = rig();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"mcpshim+beta:memo:\/\/a",$META}}
        «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"complete","ttlMs":1,"cacheScope":"private","contents":[{"uri":"memo://a","text":"memo://a"},{"uri":"beta://own","text":""}]}}
        > {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"memo://a",$META}}
        > {"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"mcpshim+beta:db://{t}"},"argument":{"name":"t","value":""},$META}}
        > {"jsonrpc":"2.0","id":4,"method":"resources/read","params":{"uri":"mcpshim+gamma:x",$META}}
        > {"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"beta_echo",$META}}
        «beta {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete","content":[{"type":"resource_link","uri":"db://x","name":"n"},{"type":"resource","resource":{"uri":"ui://form","text":""}}]}}
        > {"jsonrpc":"2.0","id":6,"method":"resources/read","params":{"uri":"mcpshim+beta:other://x",$META}}"#,
    );
    let lines: Vec<&str> = transcript
        .lines()
        .filter(|line| {
            line.starts_with(['<', '»'])
                || line.starts_with("! denial")
                || line.starts_with("! intent")
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    ! intent 1 beta(2026-07-28)/ by rule#5 eng "mcpshim+beta:memo:\/\/a"
    »beta {"jsonrpc":"2.0","id":6,"method":"resources/read","params":{"uri":"memo://a",$META}}
    < {"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","ttlMs":1,"cacheScope":"private","contents":[{"uri":"mcpshim+beta:memo://a","text":"memo://a"},{"uri":"beta://own","text":""}]}}
    ! intent 2 alpha(2025-11-25)/ by rule#4 eng "memo://a"
    »alpha {"jsonrpc":"2.0","id":6,"method":"resources/read","params":{"uri":"memo://a"}}
    ! intent 3 beta(2026-07-28)/ by rule#5 eng {"name":"t","value":""}
    »beta {"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"ref":{"type":"ref/resource","uri":"db://{t}"},"argument":{"name":"t","value":""},$META}}
    ! denial 4  hidden "mcpshim+gamma:x"
    < {"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"Resource not found: mcpshim+gamma:x","data":{"uri":"mcpshim+gamma:x"}}}
    ! intent 5 beta(2026-07-28)/echo by rule#2 eng
    »beta {"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"echo",$META}}
    < {"jsonrpc":"2.0","id":5,"result":{"resultType":"complete","content":[{"type":"resource_link","uri":"mcpshim+beta:db://x","name":"n"},{"type":"resource","resource":{"uri":"ui://beta.mcpshim/form","text":""}}]}}
    ! denial 6 beta(2026-07-28)/ hidden "mcpshim+beta:other://x"
    < {"jsonrpc":"2.0","id":6,"error":{"code":-32602,"message":"Resource not found: mcpshim+beta:other://x","data":{"uri":"mcpshim+beta:other://x"}}}
    "#);
}

#[test]
fn news_of_another_name_come_under_it() {
    let mut rig = rig();
    let transcript = rig.play(
        r#"> {"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["memo://a","mcpshim+beta:memo://a"]},$META}}
        «alpha {"jsonrpc":"2.0","id":6,"result":{}}
        «beta {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["memo://a"]},"_meta":{"io.modelcontextprotocol/subscriptionId":6}}}
        «alpha {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"memo://a"}}
        «beta {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"memo://a","_meta":{"io.modelcontextprotocol/subscriptionId":6}}}
        > {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"L"}}"#,
    );
    let lines: Vec<&str> = transcript
        .lines()
        .filter(|line| line.starts_with(['<', '»']))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    »beta {"jsonrpc":"2.0","id":6,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["memo://a"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"mcpshim","version":"$VERSION"},"io.modelcontextprotocol/clientCapabilities":{}}}}
    »alpha {"jsonrpc":"2.0","id":6,"method":"resources/subscribe","params":{"uri":"memo://a"}}
    < {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["mcpshim+beta:memo://a","memo://a"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    < {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"memo://a","_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    < {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"mcpshim+beta:memo://a","_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    »beta {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":6}}
    »alpha {"jsonrpc":"2.0","id":7,"method":"resources/unsubscribe","params":{"uri":"memo://a"}}
    "#);
}

#[test]
fn what_a_task_came_to_has_the_names_that_the_client_knows() {
    let meta = META.replace(
        r#"clientCapabilities":{}"#,
        r#"clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
    );
    let mut rig = rig();
    let mut play = |script: &str| rig.play(&script.replace("$ABLE", &meta));
    play(
        r#"> {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"beta_echo",$ABLE}}
        «beta {"jsonrpc":"2.0","id":6,"result":{"resultType":"task","taskId":"t","status":"working"}}
        > {"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"taskIds":["beta.t"]},$ABLE}}
        «beta {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"taskIds":["t"]},"_meta":{"io.modelcontextprotocol/subscriptionId":7}}}"#,
    );
    // what is data stays as it is
    let came_to = r#""status":"completed","result":{"content":[{"type":"text","text":"memo://a"},{"type":"resource_link","uri":"memo://a","name":"n"},{"type":"resource","resource":{"uri":"beta://own","text":"memo://a"}}],"structuredContent":{"type":"resource_link","uri":"memo://a"}}"#;
    let transcript = play(&format!(
        r#"> {{"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{{"taskId":"beta.t",$ABLE}}}}
        «beta {{"jsonrpc":"2.0","id":8,"result":{{"resultType":"complete","taskId":"t",{came_to}}}}}
        «beta {{"jsonrpc":"2.0","method":"notifications/tasks","params":{{"taskId":"t",{came_to}}}}}"#
    ));
    let lines: Vec<&str> = transcript
        .lines()
        .filter(|line| line.starts_with('<'))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    < {"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","taskId":"beta.t","status":"completed","result":{"content":[{"type":"text","text":"memo://a"},{"type":"resource_link","uri":"mcpshim+beta:memo://a","name":"n"},{"type":"resource","resource":{"uri":"beta://own","text":"memo://a"}}],"structuredContent":{"type":"resource_link","uri":"memo://a"}}}}
    < {"jsonrpc":"2.0","method":"notifications/tasks","params":{"taskId":"beta.t","status":"completed","result":{"content":[{"type":"text","text":"memo://a"},{"type":"resource_link","uri":"mcpshim+beta:memo://a","name":"n"},{"type":"resource","resource":{"uri":"beta://own","text":"memo://a"}}],"structuredContent":{"type":"resource_link","uri":"memo://a"}},"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    "#);
}
