use super::super::msg::{Body, Message};
use super::*;

const LEGACY: Era = Era::Handshake(Revision::V2025_11_25);

fn parse(line: &str) -> Request<'_> {
    match Message::parse(line.as_bytes()).unwrap() {
        Message::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

/// Every flag but those that are told by `without`.
fn every() -> Can {
    Can {
        apps: true,
        form: true,
        roots: true,
        sampling: true,
        sampling_context: true,
        sampling_tools: true,
        url: true,
    }
}

fn up(line: &str, introduction: Option<&Introduction>, to: Era) -> String {
    up_to(line, introduction, to, every())
}

fn up_to(line: &str, introduction: Option<&Introduction>, era: Era, allowed: Can) -> String {
    let mut edits = Edits::new();
    let told = "{}";
    let upstream = Upstream { era, allowed, told };
    request(&mut edits, &parse(line), introduction, upstream, "9");
    let mut out = Vec::new();
    edits.apply(line, &mut out);
    String::from_utf8(out).unwrap()
}

fn down(line: &str, from: Era, to: Era, cacheable: bool) -> Result<String, Untranslatable> {
    let Message::Response(response) = Message::parse(line.as_bytes()).unwrap() else {
        panic!("no response");
    };
    let Body::Result(object) = &response.body else {
        panic!("no result");
    };
    let mut edits = Edits::new();
    result(
        &mut edits,
        object,
        from,
        to,
        cacheable,
        Some(r#"{"name":"up"}"#),
        false,
    )?;
    let mut out = Vec::new();
    edits.apply(line, &mut out);
    Ok(String::from_utf8(out).unwrap())
}

fn introduction() -> Introduction {
    Introduction {
        info: r#"{"name":"c"}"#.to_owned(),
        log_level: Some("\"info\"".to_owned()),
    }
}

const MODERN: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","task":{"ttl":1},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","claudecode/toolUseId":"t","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{"k":1}}},"progressToken":"p"}}}"#;

#[test]
fn requests_lose_and_gain_exactly_the_keys_of_their_era() {
    // stateless client, stateless upstream: extensions that are not carried go, the rest stays
    insta::assert_snapshot!(up(MODERN, None, Era::Stateless), @r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","task":{"ttl":1},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","claudecode/toolUseId":"t","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{"k":1}}},"progressToken":9}}}"#);
    // stateless client, handshake upstream: the era's keys go, vendor keys stay
    insta::assert_snapshot!(up(MODERN, None, LEGACY), @r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"claudecode/toolUseId":"t","progressToken":9}}}"#);
    // handshake client, stateless upstream: the keys are put there, with and without a _meta
    let own = introduction();
    insta::assert_snapshot!(up(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"a":1,"progressToken":3}}}"#, Some(&own), Era::Stateless), @r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"a":1,"progressToken":9,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info"}}}"#);
    insta::assert_snapshot!(up(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#, Some(&own), Era::Stateless), @r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info"}}}"#);
    insta::assert_snapshot!(up(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, Some(&own), Era::Stateless), @r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info"}}}"#);
    // a handshake client cannot slip in keys of the other era
    insta::assert_snapshot!(up(r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"forged"}}}}"#, Some(&own), Era::Stateless), @r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"info"}}}"#);
    // handshake client, handshake upstream: the progress token, and nothing else
    insta::assert_snapshot!(up(r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"b" : 1.0, "_meta":{"progressToken":"z", "x":{}}}}"#, Some(&own), LEGACY), @r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"b" : 1.0, "_meta":{"progressToken":9, "x":{}}}}"#);
}

#[test]
fn results_lose_and_gain_exactly_the_members_of_their_era() {
    let plain = r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"x":1e3}}"#;
    let modern = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","contents":[],"ttlMs":99999999,"cacheScope":"public","_meta":{}}}"#;
    insta::assert_snapshot!(down(plain, LEGACY, Era::Stateless, true).unwrap(), @r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"x":1e3,"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}"#);
    insta::assert_snapshot!(down(plain, LEGACY, Era::Stateless, false).unwrap(), @r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"x":1e3,"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}"#);
    insta::assert_snapshot!(down(modern, LEGACY, Era::Stateless, true).unwrap(), @r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","contents":[],"ttlMs":30000,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"up"}}}}"#);
    insta::assert_snapshot!(down(modern, Era::Stateless, LEGACY, true).unwrap(), @r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"_meta":{}}}"#);
    insta::assert_snapshot!(down(modern, Era::Stateless, LEGACY, false).unwrap(), @r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[],"ttlMs":99999999,"cacheScope":"public","_meta":{}}}"#);
    insta::assert_snapshot!(down(modern, Era::Stateless, Era::Stateless, true).unwrap(), @r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","contents":[],"ttlMs":30000,"cacheScope":"private","_meta":{}}}"#);
    assert_eq!(down(plain, LEGACY, LEGACY, true).unwrap(), plain);
    assert_eq!(
        down(modern, Era::Stateless, Era::Stateless, false).unwrap(),
        modern
    );
    let asks =
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","inputRequests":{}}}"#;
    assert_eq!(
        down(asks, Era::Stateless, Era::Stateless, false).unwrap(),
        asks
    );
    assert_eq!(
        down(asks, Era::Stateless, LEGACY, false),
        Err(Untranslatable::InputRequired)
    );
    let task = r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","taskId":"x"}}"#;
    assert!(down(task, Era::Stateless, Era::Stateless, false).is_err());
    // what a server of the handshake era cannot mean does not reach a client that would act on it
    for odd in [asks, task] {
        assert!(matches!(
            down(odd, LEGACY, Era::Stateless, false),
            Err(Untranslatable::Type(_))
        ));
        assert_eq!(down(odd, LEGACY, LEGACY, false).unwrap(), odd);
    }
}

#[test]
fn error_codes_of_one_era_never_reach_the_other() {
    let code = |from, to, code| error(code, "m", None, from, to);
    assert_eq!(code(LEGACY, Era::Stateless, -32002), ErrorAs::Code(-32602));
    assert_eq!(code(LEGACY, LEGACY, -32002), ErrorAs::Code(-32002));
    assert_eq!(code(LEGACY, LEGACY, -32042), ErrorAs::Code(-32042));
    assert_eq!(
        code(Era::Stateless, Era::Stateless, -32021),
        ErrorAs::Code(-32021)
    );
    assert_eq!(
        code(Era::Stateless, Era::Stateless, -32022),
        ErrorAs::Code(-32603)
    );
    assert_eq!(code(Era::Stateless, LEGACY, -32602), ErrorAs::Code(-32602));
    assert_eq!(code(Era::Stateless, LEGACY, 1234), ErrorAs::Code(1234));
    assert!(matches!(
        code(Era::Stateless, LEGACY, -32021),
        ErrorAs::Lacks(_)
    ));
    let data = r#"{"elicitations":[{"mode":"url","elicitationId":"e","url":"https://a/\u0062"}]}"#;
    let ErrorAs::Text(text) = error(-32042, "Sign in", Some(data), LEGACY, Era::Stateless) else {
        panic!("no text");
    };
    assert_eq!(
        text,
        "Sign in. Open this address, then call again: https://a/b"
    );
}

#[test]
fn a_claim_needs_its_version_and_capabilities() {
    let claimed = |meta: &str| {
        let line =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"_meta":{meta}}}}}"#);
        let request = parse(&line);
        match claim(request.params.as_ref()) {
            Ok(claim) => format!("{claim:?}"),
            Err(error) => format!("{} {error} {:?}", error.rpc_code(), error.data()),
        }
    };
    let key = |key: &str, value: &str| format!("\"io.modelcontextprotocol/{key}\":{value}");
    let version = key("protocolVersion", "\"2026-07-28\"");
    let capabilities = key("clientCapabilities", "{\"roots\":{}}");
    let got = [
        claimed("{}"),
        claimed(&format!("{{{version},{capabilities}}}")),
        claimed(&format!("{{{version}}}")),
        claimed(&format!(
            "{{{},{capabilities}}}",
            key("protocolVersion", "\"2027-01-01\"")
        )),
        claimed(&format!(
            "{{{},{capabilities}}}",
            key("protocolVersion", "7")
        )),
        claimed(&format!(
            "{{{version},{}}}",
            key("clientCapabilities", "[]")
        )),
    ];
    insta::assert_snapshot!(got.join("\n"), @r#"
    None
    Some(Claim { info: None, capabilities: "{\"roots\":{}}", log_level: None })
    -32602 params._meta["io.modelcontextprotocol/clientCapabilities"] must be an object (MCP 2026-07-28, basic: _meta) None
    -32022 Unsupported protocol version: 2027-01-01 Some("{\"supported\":[\"2026-07-28\"],\"requested\":\"2027-01-01\"}")
    -32602 params._meta["io.modelcontextprotocol/protocolVersion"] must be a string (MCP 2026-07-28, basic: _meta) None
    -32602 params._meta["io.modelcontextprotocol/clientCapabilities"] must be an object (MCP 2026-07-28, basic: _meta) None
    "#);
}

#[test]
fn initialize_gets_the_version_it_asks_for_where_it_is_known() {
    for (asked, given) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2024-11-05", "2024-11-05"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        assert_eq!(negotiate(asked).as_str(), given);
    }
}

#[test]
fn a_stateless_client_declares_what_the_entry_allows_and_nothing_else() {
    let said = r#"{"roots":{"listChanged":true}, "sampling":{"tools":{},"x":1e2},"elicitation":{"form":{},"url":{}},"tasks":{},"experimental":{"a":1},"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{"mimeTypes":[ "a" ]},"b/c":{}}}"#;
    let line = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"_meta":{{"io.modelcontextprotocol/clientCapabilities":{said}}}}}}}"#
    );
    let told = |allowed: Can| {
        let line = up_to(&line, None, Era::Stateless, allowed);
        let start = line.find("clientCapabilities\":").unwrap() + 20;
        line[start..line.len() - 3].to_owned()
    };
    let only = |change: fn(&mut Can)| {
        let mut allowed = Can::default();
        change(&mut allowed);
        told(allowed)
    };
    insta::assert_snapshot!(
        [
            told(every()),
            told(Can::default()),
            only(|can| can.apps = true),
            only(|can| can.form = true),
            only(|can| can.roots = true),
            only(|can| can.sampling = true),
        ]
        .join("\n"),
        @r#"
    {"roots":{"listChanged":true}, "sampling":{"tools":{},"x":1e2},"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{"mimeTypes":[ "a" ]}}}
    {"extensions":{"io.modelcontextprotocol/tasks":{}}}
    {"extensions":{"io.modelcontextprotocol/tasks":{},"io.modelcontextprotocol/ui":{"mimeTypes":[ "a" ]}}}
    {"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}}
    {"roots":{"listChanged":true}, "extensions":{"io.modelcontextprotocol/tasks":{}}}
    {"sampling":{"tools":{},"x":1e2},"extensions":{"io.modelcontextprotocol/tasks":{}}}
    "#
    );
}

#[test]
fn capabilities_that_two_readers_read_differently_are_refused() {
    for text in [
        r#"{"elicitation":{},"elicitation":{}}"#,
        r#"{"elicitation":{},"\u0065licitation":{}}"#,
        r#"{"elicitation":{"url":{},"url":1}}"#,
        r#"{"extensions":{"io.modelcontextprotocol/ui":{},"io.modelcontextprotocol/ui":{}}}"#,
        r#"{"Sampling":{}}"#,
        r#"{"elicitation":{"URL":{}}}"#,
        "[]",
    ] {
        assert!(capabilities(text).is_err(), "{text}");
    }
    let (can, apps) =
        capabilities(r#"{"elicitation":{},"x":{"y":1,"y":2},"extensions":{"io.modelcontextprotocol/ui":{"m":[1]}}}"#)
            .unwrap();
    assert!(can.form && !can.url && can.apps);
    assert_eq!(apps, Some(r#"{"m":[1]}"#));
    // what reaches an edit all the same declares nothing
    let line = r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"roots":{},"roots":{}}}}}"#;
    let told = up(line, None, Era::Stateless);
    assert!(told.contains(r#"clientCapabilities":{}"#), "{told}");
}
