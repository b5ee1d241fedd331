//! Servers behind an address, against a small HTTP server of ours: what goes out in each era, and
//! what a person reads when something is wrong on the way. Real servers are in `peers`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::web::{
    Line, Web, asked_rightly, handshake, org, others_are_well, stateless, take_back, text, tools,
};
use crate::support::{Grant, Org, Server, ends, files, wait_for};

#[test]
fn a_server_of_the_stateless_era_gets_its_headers() {
    let listed = json!([{"name": "sql/query", "inputSchema": {"type": "object", "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "query": {"type": "string"},
    }}}]);
    let web = Web::start(move |seen, line| {
        if let Some(on) = stateless(seen, line, &listed) {
            return on;
        }
        line.events();
        line.write(": a comment\r\n\r\nretry: 10\r\n");
        line.event(&seen.progress(1));
        // several lines of one event, with every kind of line end
        let answer = serde_json::to_string_pretty(&seen.says("Grüße,\nyou")).unwrap();
        for part in answer.lines() {
            line.write(format!("data: {part}\r"));
        }
        line.write("\n\r\n");
        false
    });
    let org = org(&web, "");
    for era in ["handshake", "stateless"] {
        let mut shim = org.serve("ci");
        match era {
            "handshake" => drop(shim.initialize()),
            _ => drop(shim.discover()),
        }
        let arguments = json!({"region": " Åland", "query": "select 1"});
        let params = json!({"name": "web_sql_query", "arguments": arguments,
            "_meta": {"progressToken": "p"}});
        let answer = shim.request("tools/call", params);
        assert_eq!(answer.text(), "Grüße,\nyou", "{era}");
        let progress = shim
            .others
            .iter()
            .find(|m| m["method"] == "notifications/progress");
        assert_eq!(progress.unwrap()["params"]["progressToken"], "p", "{era}");
        shim.close();
    }
    let calls = web.asked("tools/call");
    assert_eq!(calls.len(), 2);
    for call in calls {
        let expected = [
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "sql/query"),
            ("mcp-param-region", "=?base64?IMOFbGFuZA==?="),
        ];
        for (name, value) in expected {
            assert_eq!(call.header(name), Some(value), "{name}");
        }
        for name in [
            "mcp-session-id",
            "cookie",
            "authorization",
            "referer",
            "origin",
        ] {
            assert_eq!(call.header(name), None);
        }
        assert_eq!(call.tool(), "sql/query");
    }
    assert_eq!(web.requests("GET").len() + web.requests("DELETE").len(), 0);
    asked_rightly(&org, &web);
}

#[test]
fn a_session_of_the_handshake_era_is_kept_and_ended() {
    let web = Web::start(|seen, line| {
        let offered = tools(&["hello"]);
        match handshake(seen, line, &offered, "s-1") {
            Some(on) => on,
            None => line.json(&seen.says("hello")),
        }
    });
    let org = org(&web, "");
    let before = web.seen().len();
    assert_eq!(web.requests("DELETE").len(), 1, "pin ends its session");
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(text(&shim.call("web_hello", json!({}))), "hello");
    shim.close();
    let seen = web.seen().split_off(before);
    let of = |rpc: &str| seen.iter().find(|seen| seen.rpc() == rpc).unwrap().clone();
    assert_eq!(of("initialize").header("mcp-session-id"), None);
    assert_eq!(of("initialize").header("mcp-protocol-version"), None);
    for rpc in ["notifications/initialized", "tools/list", "tools/call"] {
        assert_eq!(of(rpc).header("mcp-session-id"), Some("s-1"), "{rpc}");
        assert_eq!(of(rpc).header("mcp-protocol-version"), Some("2025-11-25"));
        assert_eq!(of(rpc).header("mcp-method"), None);
    }
    let order: Vec<&str> = seen
        .iter()
        .map(|seen| seen.rpc())
        .filter(|r| !r.is_empty())
        .collect();
    assert_eq!(
        order,
        [
            "initialize",
            "notifications/initialized",
            "tools/list",
            "tools/call"
        ],
        "the pin says the era, and nothing goes before the handshake is done"
    );
    let ends: Vec<_> = seen.iter().filter(|seen| seen.method == "DELETE").collect();
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].header("mcp-session-id"), Some("s-1"));
    asked_rightly(&org, &web);
}

/// Says that a session is not known.
struct Form {
    status: &'static str,
    /// Its content type, empty for none, and the body.
    body: (&'static str, &'static str),
    /// What the call that meets it is told, and how it ended.
    told: &'static str,
    end: &'static str,
}

const JSON: &str = "application/json";
const GONE: &str =
    "server web does not know this session any more, so it did not take the call; call again";
const ANEW: &str = "; the next call is made on a new session";

const FORMS: [Form; 13] = [
    Form {
        status: "404 Not Found",
        body: ("", ""),
        told: GONE,
        end: "Error(404)",
    },
    Form {
        status: "404 Not Found",
        body: (
            JSON,
            r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#,
        ),
        told: r#"call again; it says: "Session not found""#,
        end: "Error(404)",
    },
    // as the example of the TypeScript SDK says it
    Form {
        status: "400 Bad Request",
        body: (
            JSON,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#,
        ),
        told: GONE,
        end: "Error(404)",
    },
    // as its transport says it after a restart
    Form {
        status: "400 Bad Request",
        body: (
            JSON,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#,
        ),
        told: "Server not initialized",
        end: "Error(-32000)",
    },
    // as the Python SDK, mcp-go and rmcp said it
    Form {
        status: "400 Bad Request",
        body: (
            "text/plain; charset=utf-8",
            "Bad Request: No valid session ID provided",
        ),
        told: ANEW,
        end: "Error(400)",
    },
    Form {
        status: "400 Bad Request",
        body: ("text/plain", "Invalid session ID\n"),
        told: ANEW,
        end: "Error(400)",
    },
    Form {
        status: "401 Unauthorized",
        body: ("", "Unauthorized: Session not found"),
        told: ANEW,
        end: "Error(401)",
    },
    Form {
        status: "403 Forbidden",
        body: ("text/html", "<html>no</html>"),
        told: ANEW,
        end: "Error(403)",
    },
    Form {
        status: "410 Gone",
        body: ("", ""),
        told: ANEW,
        end: "Error(410)",
    },
    Form {
        status: "500 Internal Server Error",
        body: ("text/plain", "no such session"),
        told: ANEW,
        end: "Unknown",
    },
    Form {
        status: "302 Found",
        body: ("", ""),
        told: ANEW,
        end: "Error(302)",
    },
    Form {
        status: "200 OK",
        body: ("text/html", "<html>log in</html>"),
        told: ANEW,
        end: "Unknown",
    },
    Form {
        status: "200 OK",
        body: (
            JSON,
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid session"},"id":null}"#,
        ),
        told: r#"it says: "Invalid session"; the next call is made on a new session"#,
        end: "Unknown",
    },
];

/// Found: which answer means that a session is lost was a closed list of forms; after another one
/// every call failed until somebody ran `mcpshim restart`.
#[test]
fn a_session_lost_in_any_form_costs_one_call_and_is_opened_anew() {
    let session = Arc::new(AtomicUsize::new(0));
    let current = Arc::clone(&session);
    let web = Web::start(move |seen, line| {
        let now = current.load(Ordering::SeqCst);
        let id = format!("s-{now}");
        if seen.header("mcp-session-id").is_some_and(|own| own != id) {
            let form = &FORMS[now - 1];
            let (kind, body) = form.body;
            let headers = match kind {
                "" => String::new(),
                kind => format!("Content-Type: {kind}\r\n"),
            };
            return line.respond(form.status, &headers, body);
        }
        match handshake(seen, line, &tools(&["hello"]), &id) {
            Some(on) => on,
            None => line.json(&seen.says(&id)),
        }
    });
    let org = org(&web, "");
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(text(&shim.call("web_hello", json!({}))), "s-0");
    let mut expected = vec!["Ok"];
    for (n, form) in FORMS.iter().enumerate() {
        session.store(n + 1, Ordering::SeqCst);
        let before = web.asked("tools/call").len();
        // never the same call twice: that is bounded
        let answer = shim.call("web_hello", json!({"lost": n}));
        let said = match answer.0["error"]["message"].as_str() {
            Some(error) => error.to_owned(),
            None => text(&answer),
        };
        assert!(
            said.contains(form.told),
            "{} {:?}: {said}",
            form.status,
            form.body
        );
        assert!(!said.contains("credential set"), "{said}");
        let unknown = said.contains("whether the call took effect is not known");
        assert_eq!(unknown, form.end == "Unknown", "{said}");
        assert_eq!(
            web.asked("tools/call").len(),
            before + 1,
            "it is not sent again"
        );
        let next = shim.call("web_hello", json!({"found": n}));
        assert_eq!(text(&next), format!("s-{}", n + 1));
        expected.extend([form.end, "Ok"]);
    }
    shim.close();
    assert_eq!(ends(&org), expected);
}

/// Found: an answer to the call was dropped where its status was one that has words of ours.
#[test]
fn a_json_rpc_answer_is_the_servers_own_whatever_the_status_and_the_type() {
    let web = Web::start(|seen, line| {
        if let Some(on) = stateless(seen, line, &tools(&["hello"])) {
            return on;
        }
        let with = &seen.body["params"]["arguments"];
        let (status, how) = (
            with["status"].as_str().unwrap(),
            with["how"].as_str().unwrap(),
        );
        let error = json!({"code": -32050, "message": "this project is archived"});
        let answer = json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": error});
        let other = json!({"jsonrpc": "2.0", "id": 4711, "error": error});
        let (kind, body) = match how {
            "array" => ("application/json", json!([other, answer]).to_string()),
            "events" => ("text/event-stream", format!("data: {answer}\n\n")),
            "other" => ("application/json", other.to_string()),
            "text" => ("text/plain; charset=utf-8", answer.to_string()),
            _ => ("application/json", answer.to_string()),
        };
        let scope = match how {
            "scope" => "WWW-Authenticate: Bearer error=\"insufficient_scope\", scope=\"admin\"\r\n",
            _ => "",
        };
        line.respond(status, &format!("Content-Type: {kind}\r\n{scope}"), &body)
    });
    let org = org(&web, "");
    let mut shim = org.serve("ci");
    shim.initialize();
    let statuses = [
        "400 No", "403 No", "404 No", "409 No", "422 No", "500 No", "503 No",
    ];
    let plain = statuses.map(|status| (status, "json"));
    let forms = ["array", "events", "text"].map(|how| ("403 No", how));
    for (status, how) in plain.into_iter().chain(forms) {
        let answer = shim.call("web_hello", json!({"status": status, "how": how}));
        assert_eq!(
            answer.0["error"]["code"],
            -32050,
            "{status} {how}: {}",
            text(&answer)
        );
        assert_eq!(
            answer.0["error"]["message"], "this project is archived",
            "{status} {how}"
        );
    }
    for (status, how, says) in [
        (
            "401 No",
            "json",
            "wants a credential, and its entry names none (401 Unauthorized)",
        ),
        (
            "403 No",
            "scope",
            "needs a right (scope `admin`), and its entry names no credential",
        ),
    ] {
        let said = text(&shim.call("web_hello", json!({"status": status, "how": how})));
        assert!(said.contains(says), "{said}");
        assert!(
            said.contains("it says: \"this project is archived\""),
            "{said}"
        );
    }
    // one of another request is none of this call
    let said = text(&shim.call("web_hello", json!({"status": "409 No", "how": "other"})));
    assert!(
        said.contains("refuses the request (409 Conflict)"),
        "{said}"
    );
    shim.close();
}

/// The control: one that refuses the credential is not asked for session after session, and is told
/// as what it is once a new session did not help.
#[test]
fn a_server_that_refuses_every_call_gets_one_new_session() {
    let web = Web::start(
        |seen, line| match handshake(seen, line, &tools(&["hello"]), "s-1") {
            Some(on) => on,
            None => line.respond("401 Unauthorized", "", ""),
        },
    );
    let org = org(&web, "");
    let before = web.asked("initialize").len();
    let mut shim = org.serve("ci");
    shim.initialize();
    let said: Vec<String> = (0..5)
        .map(|n| text(&shim.call("web_hello", json!({"n": n}))))
        .collect();
    assert!(said[0].ends_with(ANEW), "{said:?}");
    for said in &said[1..] {
        assert!(
            said.contains("wants a credential, and its entry names none (401"),
            "{said}"
        );
    }
    assert_eq!(web.asked("initialize").len() - before, 2);
    shim.close();
}

#[test]
fn a_server_that_finds_nothing_by_get_keeps_its_session() {
    let web = Web::start(|seen, line| {
        if seen.method == "GET" {
            return line.respond("404 Not Found", "", "Cannot GET /mcp");
        }
        match handshake(seen, line, &tools(&["hello"]), "s-1") {
            Some(on) => on,
            None => line.json(&seen.says("hi")),
        }
    });
    let org = org(&web, "");
    let before = web.seen().len();
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(text(&shim.call("web_hello", json!({}))), "hi");
    wait_for("a request for news", || {
        let seen = web.seen();
        seen.into_iter().find(|seen| seen.method == "GET")
    });
    // what became of it is known before the next answers
    for _ in 0..3 {
        assert_eq!(text(&shim.call("web_hello", json!({}))), "hi");
    }
    shim.close();
    let seen = web.seen().split_off(before);
    let count = |rpc: &str| seen.iter().filter(|seen| seen.rpc() == rpc).count();
    assert_eq!((count("initialize"), count("tools/call")), (1, 4));
    assert_eq!(seen.iter().filter(|seen| seen.method == "GET").count(), 1);
}

#[test]
fn an_answer_that_breaks_off_is_taken_up_where_it_was_in_the_handshake_era() {
    let call = Arc::new(Mutex::new(Value::Null));
    let kept = Arc::clone(&call);
    let web = Web::start(move |seen, line| {
        if seen.method == "GET" {
            let Some(last) = seen.header("last-event-id") else {
                return line.respond("405 Method Not Allowed", "", "");
            };
            assert_eq!(last, "e-1");
            line.events();
            let answer = kept.lock().unwrap().clone();
            line.write(format!("id: e-2\ndata: {answer}\n\n"));
            return false;
        }
        if let Some(on) = handshake(seen, line, &tools(&["long"]), "s-1") {
            return on;
        }
        *kept.lock().unwrap() = seen.says("at last");
        line.events();
        line.write("retry: 150\nid: e-1\ndata:\n\ndata: {\"jsonrpc\":");
        false
    });
    let org = org(&web, "");
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(text(&shim.call("web_long", json!({}))), "at last");
    assert_eq!(
        web.asked("tools/call").len(),
        1,
        "a call is never sent twice"
    );
    shim.close();
}

#[test]
fn a_call_taken_back_is_told_in_the_way_of_its_era() {
    // stateless: the connection of its answer is closed
    let closed = Arc::new(AtomicBool::new(false));
    let saw = Arc::clone(&closed);
    let web = Web::start(move |seen, line| {
        if let Some(on) = stateless(seen, line, &tools(&["slow"])) {
            return on;
        }
        line.events();
        line.event(&seen.progress(1));
        saw.store(line.until_closed(), Ordering::SeqCst);
        false
    });
    let org_ = org(&web, "");
    let mut shim = org_.serve("ci");
    shim.initialize();
    take_back(&mut shim);
    wait_for("the server to see the end", || {
        closed.load(Ordering::SeqCst).then_some(())
    });
    assert!(web.asked("notifications/cancelled").is_empty());
    shim.close();
    asked_rightly(&org_, &web);

    // handshake: it is said
    let web = Web::start(move |seen, line| {
        if let Some(on) = handshake(seen, line, &tools(&["slow"]), "s-1") {
            return on;
        }
        line.events();
        line.event(&seen.progress(1));
        line.until_closed();
        false
    });
    let org = org(&web, "");
    let mut shim = org.serve("ci");
    shim.initialize();
    take_back(&mut shim);
    let told = wait_for("the server to be told", || {
        web.asked("notifications/cancelled").pop()
    });
    let call = web.asked("tools/call").pop().unwrap();
    assert_eq!(told.body["params"]["requestId"], call.body["id"]);
    shim.close();
    asked_rightly(&org, &web);
}

#[test]
fn news_of_the_handshake_era_come_by_get() {
    let changed = Arc::new(AtomicBool::new(false));
    let news = Arc::new(Mutex::new(None::<Line>));
    let (now, stream) = (Arc::clone(&changed), Arc::clone(&news));
    let web = Web::start(move |seen, line| {
        if seen.method == "GET" {
            line.events();
            *stream.lock().unwrap() = Some(Line(line.0.try_clone().unwrap()));
            line.until_closed();
            return false;
        }
        let names: &[&str] = match now.load(Ordering::SeqCst) {
            true => &["hello", "news"],
            false => &["hello"],
        };
        match handshake(seen, line, &tools(names), "s-1") {
            Some(on) => on,
            None => line.json(&seen.says("hello")),
        }
    });
    let org = org(&web, "pin: 'off'");
    let mut shim = org.serve("ci");
    shim.initialize();
    wait_for("the list", || {
        (shim.names("tools").contains(&"web_hello".to_owned())).then_some(())
    });
    let mut line = wait_for("the stream", || news.lock().unwrap().take());
    changed.store(true, Ordering::SeqCst);
    line.event(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    wait_for("the new list", || {
        (shim.names("tools").contains(&"web_news".to_owned())).then_some(())
    });
    shim.close();
    asked_rightly(&org, &web);
}

/// What goes wrong with one call: the tool's name, and what its caller reads.
const WRONG: &[(&str, &str, &str)] = &[
    ("page", "answered with a web page", "Unknown"),
    (
        "redirect",
        "sends the request on to https://login.example/sign-in (and a query, which is not shown) (302 Found), which is not followed",
        "Error(302)",
    ),
    (
        "half",
        "closed its answer before it was complete",
        "Unknown",
    ),
    ("cut", "its answer", "Unknown"),
    (
        "dropped",
        "the connection before its answer was complete",
        "Unknown",
    ),
    ("garbage", "gave an answer that is not JSON", "Unknown"),
    ("xml", "answered with `application/xml`", "Unknown"),
    ("nothing", "gave an empty answer", "Unknown"),
    (
        "accepted",
        "took the request and gave no answer to it (202 Accepted)",
        "Unknown",
    ),
    (
        "packed",
        "gave an answer that cannot be unpacked as `gzip`",
        "Unknown",
    ),
    (
        "huge",
        "gave an answer of more than 16777216 bytes; ask for less",
        "Unknown",
    ),
    ("drip", "gave no answer within 3 s", "Timeout"),
    ("silent", "gave no answer within 3 s", "Timeout"),
    (
        "wrong-id",
        "answered another request than the one it was sent",
        "Unknown",
    ),
    (
        "s400",
        "finds the request malformed (400 Bad Request)",
        "Error(400)",
    ),
    (
        "s401",
        "wants a credential, and its entry names none (401 Unauthorized)",
        "Error(401)",
    ),
    (
        "s403",
        "answered 403 Forbidden: it, or something in between (a firewall, a proxy), blocks the request; ask who runs it",
        "Error(403)",
    ),
    (
        "s404",
        "has no MCP endpoint at its address (404 Not Found)",
        "Error(404)",
    ),
    (
        "s405",
        "does not take requests at its address (405 Method Not Allowed)",
        "Error(405)",
    ),
    ("s500", "failed (500 Internal Server Error)", "Unknown"),
    (
        "s502",
        "is not reached by what stands in front of it (502 Bad Gateway)",
        "Unknown",
    ),
    (
        "s503",
        "is not available now (503 Service Unavailable)",
        "Unknown",
    ),
];

fn misbehave(tool: &str, seen: &crate::support::web::Seen, line: &mut Line) -> bool {
    let json = "Content-Type: application/json\r\n";
    match tool {
        "well" => line.json(&seen.says("well")),
        "twice" => {
            line.events();
            line.event(&seen.says("first"));
            line.event(&seen.says("second"));
            false
        }
        "page" => line.respond(
            "200 OK",
            "Content-Type: text/html; charset=utf-8\r\n",
            "<html>",
        ),
        "redirect" => line.respond(
            "302 Found",
            "Location: https://login.example/sign-in?token=abc\r\n",
            "",
        ),
        "half" => {
            line.events();
            line.event(&seen.progress(1));
            false
        }
        "cut" => {
            line.write(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
            );
            false
        }
        "dropped" => false,
        "garbage" => line.respond("200 OK", json, "hello\n{\"a\":"),
        "xml" => line.respond("200 OK", "Content-Type: application/xml\r\n", "<a/>"),
        "nothing" => line.respond("200 OK", json, ""),
        "accepted" => line.respond("202 Accepted", "", ""),
        "packed" => line.respond(
            "200 OK",
            &format!("{json}Content-Encoding: gzip\r\n"),
            "\x1f",
        ),
        "huge" => {
            line.write(format!(
                "HTTP/1.1 200 OK\r\n{json}Connection: close\r\n\r\n"
            ));
            let piece = vec![b' '; 1 << 20];
            while line.write(&piece) {}
            false
        }
        "drip" => {
            line.write(format!(
                "HTTP/1.1 200 OK\r\n{json}Connection: close\r\n\r\n"
            ));
            while line.write(" ") {
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        }
        "silent" => {
            line.until_closed();
            false
        }
        "wrong-id" => {
            let mut answer = seen.says("not yours");
            answer["id"] = json!(987_654);
            line.json(&answer)
        }
        "error" => {
            let body = json!({"jsonrpc": "2.0", "id": seen.body["id"],
                "error": {"code": -32602, "message": "no such thing", "data": [1]}});
            line.respond("400 Bad Request", json, &body.to_string())
        }
        "limited" => line.respond("429 Too Many Requests", "Retry-After: 2\r\n", ""),
        status => line.respond(&format!("{} Said So", &status[1..]), "", ""),
    }
}

fn misbehaving() -> Web {
    let mut names: Vec<&str> = WRONG.iter().map(|(tool, _, _)| *tool).collect();
    names.extend(["well", "twice", "error", "limited"]);
    let offered = tools(&names);
    Web::start(move |seen, line| match stateless(seen, line, &offered) {
        Some(on) => on,
        None => misbehave(seen.tool(), seen, line),
    })
}

#[test]
fn every_fault_of_a_call_is_said_clearly_and_hurts_nobody_else() {
    let web = misbehaving();
    let org = org(&web, "limits: {call_seconds: 3}");
    let mut shim = org.serve("ci");
    shim.initialize();
    others_are_well(&mut shim);
    let mut expected = vec!["Ok".to_owned()];
    for (tool, says, end) in WRONG {
        let start = Instant::now();
        let answer = shim.call(&format!("web_{tool}"), json!({}));
        assert!(answer.is_tool_error(), "{tool}: {answer:?}");
        let said = text(&answer);
        assert!(
            said.starts_with("server web ") && said.contains(says),
            "{tool}: {said}"
        );
        assert_eq!(
            said.contains("is not known"),
            matches!(*end, "Timeout" | "Unknown"),
            "{tool}: {said}"
        );
        for foreign in ["secret", "token", "<html>", "hello"] {
            assert!(!said.contains(foreign), "{tool}: {said}");
        }
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{tool} took {:?}",
            start.elapsed()
        );
        expected.push((*end).to_owned());
        // one that is well in between, so that this is no test of pauses
        others_are_well(&mut shim);
        assert_eq!(
            text(&shim.call("web_well", json!({"after": tool}))),
            "well",
            "after {tool}"
        );
        expected.extend(["Ok".to_owned(), "Ok".to_owned()]);
    }
    assert_eq!(text(&shim.call("web_twice", json!({}))), "first");
    let error = shim.call("web_error", json!({}));
    assert_eq!(
        error.0["error"],
        json!({"code": -32602, "message": "no such thing", "data": [1]})
    );
    shim.close();
    expected.extend(["Ok".to_owned(), "Error(-32602)".to_owned()]);
    assert_eq!(ends(&org), expected);
    assert_eq!(
        web.asked("tools/call").len(),
        2 * WRONG.len() + 2,
        "nothing is sent twice"
    );
    asked_rightly(&org, &web);
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    let web = misbehaving();
    let org = org(&web, "");
    let mut shim = org.serve("ci");
    shim.initialize();
    let said = text(&shim.call("web_limited", json!({})));
    assert!(
        said.contains("asks for a pause (429 Too Many Requests)"),
        "{said}"
    );
    let before = web.asked("tools/call").len();
    let said = text(&shim.call("web_well", json!({})));
    assert!(said.contains("call again in 2 s"), "{said}");
    assert_eq!(web.asked("tools/call").len(), before, "it is left alone");
    others_are_well(&mut shim);
    wait_for("the end of the pause", || {
        let answer = shim.call("web_well", json!({}));
        (!answer.is_tool_error()).then_some(())
    });
    shim.close();
}

#[test]
fn a_server_that_is_down_is_refused_with_the_reason_until_it_is_back() {
    let answer = |seen: &crate::support::web::Seen, line: &mut Line| match stateless(
        seen,
        line,
        &tools(&["well"]),
    ) {
        Some(on) => on,
        None => line.json(&seen.says("well")),
    };
    let web = Web::start(answer);
    let org = org(&web, "");
    let address = web.address();
    drop(web);
    let mut shim = org.serve("ci");
    shim.initialize();
    let said = text(&shim.call("web_well", json!({})));
    let reason = format!("server web cannot be reached: nothing listens at {address}");
    assert!(said.contains(&reason), "{said}");
    assert!(said.contains("ask tests"), "{said}");
    others_are_well(&mut shim);
    let web = Web::start_at(address, answer);
    wait_for("the server to be used again", || {
        (!shim.call("web_well", json!({})).is_tool_error()).then_some(())
    });
    // it goes away under a link that is open
    drop(web);
    wait_for("the link to know it", || {
        let answer = shim.call("web_well", json!({}));
        let said = answer.text();
        said.starts_with("Refused, nothing was sent").then(|| {
            assert!(said.contains("nothing listens at"), "{said}");
        })
    });
    others_are_well(&mut shim);
    shim.close();
}

#[test]
fn what_is_no_mcp_server_is_not_pinned_and_the_reason_is_said() {
    let cases: &[(&str, &str)] = &[
        (
            "200 OK\r\nContent-Type: text/html",
            "answered with a web page",
        ),
        (
            "404 Not Found",
            "nor HTTP+SSE of 2024-11-05 there: it has no MCP endpoint at its address",
        ),
        (
            "405 Method Not Allowed",
            "nor HTTP+SSE of 2024-11-05 there: it does not take requests at its address",
        ),
        (
            "401 Unauthorized",
            "wants a credential, and its entry names none",
        ),
        (
            "307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/x",
            "sends the request on to http://127.0.0.1:9/x",
        ),
        (
            "500 Internal Server Error",
            "failed (500 Internal Server Error)",
        ),
        ("511 Network Authentication Required", "open a browser"),
    ];
    for (response, says) in cases {
        let web = Web::start(move |_, line| {
            let (status, headers) = response.split_once("\r\n").unwrap_or((response, ""));
            let headers = match headers {
                "" => String::new(),
                headers => format!("{headers}\r\n"),
            };
            line.respond(status, &headers, "")
        });
        let org = Org::new();
        org.server(&Server::http("web", &web.url));
        let ended = org.admin(["pin"], [org.sources()]);
        assert_eq!(ended.status.code(), Some(1), "{ended:#?}");
        assert!(ended.stdout.contains(says), "{says}: {ended:#?}");
        // 401, 5xx and the like say nothing of the era
        let tried = web.asked("initialize").len();
        let evidence = response.starts_with("404") || response.starts_with("405");
        assert_eq!(tried, usize::from(evidence), "{response}");
    }
    let org = Org::new();
    org.server(&Server::http("web", "https://no-such-host.invalid/mcp"));
    let ended = org.admin(["pin"], [org.sources()]);
    assert!(
        ended
            .stdout
            .contains("the name no-such-host.invalid:443 is not known"),
        "{ended:#?}"
    );
}

#[test]
fn a_stream_that_breaks_costs_a_call_and_not_the_link() {
    let web = Web::start(|seen, line| {
        if let Some(on) = stateless(seen, line, &tools(&["break", "wait"])) {
            return on;
        }
        line.events();
        if seen.tool() == "break" {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1500));
        line.event(&seen.says("still here"));
        false
    });
    let org = org(&web, "");
    let mut shim = org.serve("ci");
    shim.discover();
    let waiting = shim.post("tools/call", json!({"name": "web_wait", "arguments": {}}));
    // more in a row than the link bears: it takes a pause, and lets the other go on
    for _ in 0..4 {
        assert!(shim.call("web_break", json!({})).is_tool_error());
    }
    assert_eq!(shim.answer(&json!(waiting)).text(), "still here");
    shim.close();
}

#[test]
fn a_bearer_credential_goes_to_its_server_and_to_nobody_else() {
    const SECRET: &str = "s3cr3t-canary-4711";
    let elsewhere = Web::start(|_, line| line.respond("200 OK", "", ""));
    let to = elsewhere.url.clone();
    let web = Web::start(move |seen, line| {
        if seen.header("authorization") != Some("Bearer s3cr3t-canary-4711") {
            let headers = "WWW-Authenticate: Bearer realm=\"<b>their words</b>\"\r\n";
            return line.respond("401 Unauthorized", headers, "");
        }
        match stateless(seen, line, &tools(&["hello", "away"])) {
            Some(on) => on,
            None if seen.tool() == "away" => {
                line.respond("307 Temporary Redirect", &format!("Location: {to}\r\n"), "")
            }
            // it repeats what it got: not even then does it reach the client or the record
            None => line.json(&seen.says("hello")),
        }
    });
    let org = Org::new();
    org.settings("secret_stores: {key_file: true}");
    org.server(&Server::http("web", &web.url).credential("web-pat", "bearer"));
    org.server(&Server::counting("other", []));
    org.agent("ci");
    let all = [("web", Grant::ALL), ("other", Grant::ALL)];
    org.role("tester", &["ci"], &all);
    org.admin(["pin"], [org.sources(), "other".into()]).ok();
    let refused = org.admin(["pin"], [org.sources(), "web".into()]);
    assert!(
        refused.stdout.contains("--credential-stdin"),
        "{refused:#?}"
    );
    let mut command = std::process::Command::new(crate::support::program("mcpshim-admin"));
    command
        .arg("pin")
        .arg(org.sources())
        .args(["web", "--credential-stdin"]);
    crate::support::run_with(&mut command, &format!("{SECRET}\n")).ok();
    org.republish();

    // without it: the person is told what to do, and nothing is sent
    let before = web.seen().len();
    let mut shim = org.serve("ci");
    shim.initialize();
    let said = text(&shim.call("web_hello", json!({})));
    assert!(said.contains("mcpshim credential set web"), "{said}");
    assert_eq!(web.seen().len(), before);
    shim.close();

    // with a wrong one: which it is, and not the server's words
    let mut set = org.laptop_as("ci");
    set.args(["credential", "set", "web"]);
    crate::support::run_with(&mut set, "another-one\n").ok();
    let mut shim = org.serve("ci");
    shim.initialize();
    let said = text(&shim.call("web_hello", json!({})));
    assert!(
        said.contains("refuses the credential `web-pat` (401 Unauthorized)"),
        "{said}"
    );
    assert!(said.contains("`mcpshim credential set web`"), "{said}");
    assert!(!said.contains("their words"), "{said}");
    shim.close();

    let mut set = org.laptop_as("ci");
    set.args(["credential", "set", "web"]);
    crate::support::run_with(&mut set, &format!("{SECRET}\n")).ok();
    let mut shim = org.serve("ci");
    shim.initialize();
    assert_eq!(text(&shim.call("web_hello", json!({}))), "hello");
    let said = text(&shim.call("web_away", json!({})));
    assert!(said.contains("which is not followed"), "{said}");
    others_are_well(&mut shim);
    shim.close();
    assert!(elsewhere.seen().is_empty(), "the redirect was not followed");
    // nothing that was written holds it
    for entry in files(org.path()) {
        let bytes = std::fs::read(&entry).unwrap_or_default();
        let found = bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
        assert!(!found, "{}", entry.display());
    }
}
