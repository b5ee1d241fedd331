use super::*;

fn fault(line: &str) -> String {
    match Message::parse(line.as_bytes()) {
        Ok(message) => format!("accepted {message:?}"),
        Err(Rejected { fault, id, kind }) => format!(
            "{} {} id={} {kind:?}: {fault}",
            fault.rpc_code(),
            fault.code(),
            id.as_deref().unwrap_or("-"),
        ),
    }
}

#[test]
fn a_request_keeps_its_line_and_its_id_token() {
    let line = r#" {"method":"tools/call","x":[1.50,{}],"params":{"name":"a","arguments":{"n":12345678901234567890123},"_meta":{"progressToken":"t\u0031","k":1}},"jsonrpc":"2.0","id":"\u0061"} "#;
    let Ok(Message::Request(request)) = Message::parse(line.as_bytes()) else {
        panic!("not a request: {}", fault(line));
    };
    assert_eq!(request.line, line);
    assert_eq!(request.id.raw(), r#""\u0061""#);
    assert_eq!(request.id.key(), Id(r#""a""#).key());
    assert_ne!(request.id.key(), Id("1").key());
    assert_eq!(request.method, "tools/call");
    assert_eq!(request.envelope.get("x"), Some("[1.50,{}]"));
    let params = request.params.unwrap();
    assert_eq!(params.object.text("name").unwrap(), "a");
    assert_eq!(params.arguments(), Some(r#"{"n":12345678901234567890123}"#));
    assert_eq!(params.progress_token(), Some(r#""t\u0031""#));
}

#[test]
fn notifications_results_and_errors_are_told_apart() {
    let parsed = |line: &'static str| Message::parse(line.as_bytes()).unwrap();
    assert!(matches!(
        parsed(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
        Message::Notification(Notification { params: None, .. })
    ));
    let Message::Response(Response { id, body, .. }) =
        parsed(r#"{"result":{"a":1},"jsonrpc":"2.0","id":7}"#)
    else {
        panic!("not a response");
    };
    assert_eq!(id.unwrap().number(), Some(7));
    assert!(matches!(body, Body::Result(result) if result.get("a") == Some("1")));
    assert!(matches!(
        parsed(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#),
        Message::Response(Response {
            id: None,
            body: Body::Error { code: -32700, .. },
            ..
        })
    ));
}

#[test]
fn every_bad_line_says_what_is_wrong_and_keeps_the_id_it_has() {
    let cases = [
        "{",
        "nonsense",
        "7",
        "",
        "[]",
        r#"{"jsonrpc":"2.0","id":1,"method":"a"}x"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":"\q"}}"#,
        r#"{"id":1,"method":"a"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":""}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":""}}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":[1],"id":1}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"_meta":1},"id":1}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"arguments":[]},"id":1}"#,
        r#"{"jsonrpc":"2.0","method":"a","method":"b","id":1}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"name":"a","n\u0061me":"b"},"id":1}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"_meta":{"x":1,"x":2}},"id":1}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"arguments":{"x":1,"x":2}},"id":1}"#,
        r#"{"jsonrpc":"2.0","result":{"isError":false,"isError":true},"id":1}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"arguments":{"\ud800":1}},"id":1}"#,
    ];
    let got: Vec<String> = cases.iter().map(|line| fault(line)).collect();
    insta::assert_snapshot!(got.join("\n"), @r#"
    -32700 parse id=- Unknown: not valid JSON at byte 1: expected a key in quotes
    -32700 parse id=- Unknown: not valid JSON at byte 0: expected a value
    -32600 envelope id=- Unknown: a message is a JSON object
    -32700 parse id=- Unknown: not valid JSON at byte 0: the text ends where a value should be
    -32600 batch id=- Unknown: batches are not part of this protocol version: send each message on its own line
    -32700 parse id=- Unknown: not valid JSON at byte 37: something follows the value
    -32700 parse id=- Unknown: not valid JSON at byte 52: an unknown escape in a string
    -32600 envelope id=1 Request: `jsonrpc` must be "2.0"
    -32600 envelope id=1 Request: `jsonrpc` must be "2.0"
    -32600 null-id id=- Request: `id` must not be null
    -32600 envelope id=1.5 Request: `id` must be a string or an integer of at most 4096 bytes
    -32600 envelope id=- Request: `id` must be a string or an integer of at most 4096 bytes
    -32600 envelope id=1 Request: `method` must be a string of 1 to 128 bytes
    -32600 envelope id=1 Request: `method` must be a string of 1 to 128 bytes
    -32600 envelope id=1 Unknown: a message has either `method`, or `id` with one of `result` and `error`
    -32600 envelope id=1 Unknown: a message has either `method`, or `id` with one of `result` and `error`
    -32600 envelope id=1 Unknown: a message has either `method`, or `id` with one of `result` and `error`
    -32600 envelope id=1 Response: `result` must be an object
    -32600 envelope id=1 Response: `error` must be an object with an integer `code` and a string `message`
    -32602 envelope id=1 Request: `params` must be an object
    -32602 envelope id=1 Request: `params._meta` must be an object
    -32602 envelope id=1 Request: `params.arguments` must be an object
    -32600 duplicate-key id=1 Request: duplicate key "method" in the message: two readers would see two values
    -32600 duplicate-key id=1 Request: duplicate key "name" in params: two readers would see two values
    -32600 duplicate-key id=1 Request: duplicate key "x" in params._meta: two readers would see two values
    -32600 duplicate-key id=1 Request: duplicate key "x" in params.arguments: two readers would see two values
    -32600 duplicate-key id=1 Response: duplicate key "isError" in result: two readers would see two values
    -32700 parse id=1 Request: the key at byte 53 is not a valid string
    "#);
}

#[test]
fn an_unfinished_or_not_utf8_line_is_refused() {
    assert!(matches!(
        Message::parse(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"),
        Err(Rejected {
            fault: Fault::Utf8 { at: 27 },
            ..
        })
    ));
}

#[test]
fn nesting_is_bounded_exactly() {
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        // the envelope, params and arguments are three levels
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"arguments":{{"x":{open}{close}}}}}}}"#
        )
    };
    assert!(Message::parse(nested(limits::JSON_DEPTH - 3).as_bytes()).is_ok());
    assert!(matches!(
        Message::parse(nested(limits::JSON_DEPTH - 2).as_bytes()),
        Err(Rejected {
            fault: Fault::Raw(RawError::Depth),
            ..
        })
    ));
    // found: the refusal named no id, so that a client waited for ever
    let deep = "[".repeat(5000);
    for line in [
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"arguments":{{"x":{deep}}}}}}}"#
        ),
        r#"{"jsonrpc":"2.0","method":"a","params":{"\ud800":{}},"id":1}"#.to_owned(),
    ] {
        let rejected = Message::parse(line.as_bytes()).unwrap_err();
        let expected = (Some("1"), Kind::Request);
        assert_eq!(
            (rejected.id.as_deref(), rejected.kind),
            expected,
            "{rejected:?}"
        );
    }
    let rejected = Message::parse(b"{\"id\":\"a\",\"method\":\"\xff\"}").unwrap_err();
    assert_eq!(rejected.id.as_deref(), Some("\"a\""));
    // a line of openers costs one pass and no stack
    assert!(Message::parse("[".repeat(1 << 20).as_bytes()).is_err());
    assert!(Message::parse(("{\"a\":".repeat(1 << 18)).as_bytes()).is_err());
}

/// Found: a key with both `\u{17f}` and `\u{212a}` passed, because only one of them has an upper form
/// and only the other a lower one. Go takes `ta\u{17f}\u{212a}Id` for `taskId`.
#[test]
fn names_are_folded_character_by_character() {
    let params = |key: &str| {
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"{key}":{{}}}}}}"#);
        fault(&line)
    };
    for (key, meant) in [
        ("Task", "task"),
        ("ta\u{17f}k", "task"),
        ("tas\u{212a}", "task"),
        ("TA\u{17f}\u{212a}", "task"),
        ("ta\u{17f}\u{212a}Id", "taskId"),
        (r"ta\u017f\u212aId", "taskId"),
        ("reque\u{17f}tId", "requestId"),
        ("ur\u{131}", "uri"),
        ("UR\u{130}", "uri"),
        ("inputRe\u{17f}ponse\u{17f}", "inputResponses"),
    ] {
        let said = params(key);
        assert!(
            said.contains(&format!("take for `{meant}`")),
            "{key}: {said}"
        );
    }
    for own in [
        "tâsk",
        "tas\u{138}",
        "tasks",
        "ta\u{df}k",
        "\u{441}ursor",
        "n\u{e4}me",
        "na me",
    ] {
        assert!(params(own).starts_with("accepted"), "{own}");
    }
}

#[test]
fn an_id_that_is_too_long_is_refused_under_itself() {
    let line = |bytes: usize| {
        let id = format!("\"{}\"", "i".repeat(bytes - 2));
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"a"}}"#);
        (id, line)
    };
    let (_, fits) = line(limits::ID_BYTES);
    assert!(Message::parse(fits.as_bytes()).is_ok());
    let (id, long) = line(limits::ID_BYTES + 1);
    let rejected = Message::parse(long.as_bytes()).unwrap_err();
    assert_eq!(
        (rejected.fault, rejected.id.as_deref()),
        (Fault::Id, Some(&*id))
    );
    let (_, endless) = line(limits::ID_ECHO_BYTES + 1);
    assert_eq!(Message::parse(endless.as_bytes()).unwrap_err().id, None);
    let fraction = fault(r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#);
    assert!(fraction.contains("id=1.5"), "{fraction}");
}

/// SDK clients take these: servers in the field write them.
#[test]
fn an_answer_may_write_its_id_as_text_and_a_null_beside_what_it_says() {
    let of = |id: &str| match Message::parse(
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).as_bytes(),
    ) {
        Ok(Message::Response(response)) => response.id.unwrap().number(),
        other => panic!("{id}: {other:?}"),
    };
    for id in ["1", r#""1""#, r#""\u0031""#, "1.0", "1e0", "0.1e1"] {
        assert_eq!(of(id), Some(1), "{id}");
    }
    for id in [
        r#""01""#,
        r#""+1""#,
        r#"" 1""#,
        r#""1.0""#,
        r#""a""#,
        r#""""#,
        "-1",
        "18446744073709551616",
    ] {
        assert_eq!(of(id), None, "{id}");
    }
    for id in ["1.5", "true", "{}", "[1]"] {
        let said = fault(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
        assert!(said.contains("`id` must be"), "{id}: {said}");
    }
    // a request is another matter: its id goes back as it came
    assert!(fault(r#"{"jsonrpc":"2.0","id":1.0,"method":"a"}"#).contains("`id` must be"));
    let void = |line: &str| match Message::parse(line.as_bytes()) {
        Ok(Message::Response(response)) => response.void,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(
        void(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":null}"#),
        Some("error")
    );
    assert_eq!(
        void(r#"{"jsonrpc":"2.0","error":null,"id":1,"result":{}}"#),
        Some("error")
    );
    let error = r#"{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":1,"message":"m"}}"#;
    assert_eq!(void(error), Some("result"));
    assert_eq!(void(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), None);
    for (neither, says) in [
        (
            r#""result":null,"error":null"#,
            "`result` must be an object",
        ),
        (r#""error":null"#, "`error` must be an object"),
        (r#""result":null"#, "`result` must be an object"),
        (
            r#""result":{},"error":{"code":1,"message":"m"}"#,
            "a message has either",
        ),
        (r#""result":{},"error":false"#, "`error` must be an object"),
        (r#""result":{},"error":null,"error":null"#, "duplicate key"),
    ] {
        let said = fault(&format!(r#"{{"jsonrpc":"2.0","id":1,{neither}}}"#));
        assert!(said.contains(says), "{neither}: {said}");
    }
}

#[test]
fn written_lines_are_messages() {
    for line in [
        result_line("7", "{}"),
        error_line("null", -32700, "a \"b\"\n\u{1}", Some("[1]")),
        request_line("\"x\"", "roots/list", Some("{}")),
        notification_line("notifications/x", None),
    ] {
        let text = line.strip_suffix(b"\n").unwrap();
        assert!(
            Message::parse(text).is_ok(),
            "{}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn what_other_readers_would_take_for_another_message_or_member_is_refused() {
    let cases = [
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"x\":\r{\"id\":2}\r}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\r",
        r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"ID":2}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","param\u017f":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","Name":"y"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","ARGUMENTS":{}}}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{"progressToken":1,"ProgressToken":2}}"#,
    ];
    let all: Vec<String> = cases.iter().map(|line| fault(line)).collect();
    insta::assert_snapshot!(all.join("\n"), @r#"
    -32700 parse id=1 Request: a carriage return at byte 41: some readers would see two messages
    -32700 parse id=1 Response: a carriage return at byte 36: some readers would see two messages
    -32600 spelling id=1 Request: the message has both `method` and `Method`: some readers take one for the other
    -32600 spelling id=1 Response: the message has both `id` and `ID`: some readers take one for the other
    -32600 spelling id=1 Request: the message has `paramſ`, which some readers take for `params`
    -32600 spelling id=1 Request: params has both `name` and `Name`: some readers take one for the other
    -32600 spelling id=1 Request: params has `ARGUMENTS`, which some readers take for `arguments`
    -32600 spelling id=- Notification: params has both `progressToken` and `ProgressToken`: some readers take one for the other
    "#);
    // arguments are the tool's own
    let own = r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"arguments":{"name":1,"Name":2}}}"#;
    assert!(Message::parse(own.as_bytes()).is_ok());
}
