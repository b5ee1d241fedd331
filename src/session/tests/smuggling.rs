//! Bytes that two readers would read as two things, on every way that questions, their answers and
//! tasks take: what the record and the decision saw is what the other side gets, or nothing.

use super::*;
use crate::wire::raw::Object;

const ALL: &str = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

/// A session whose client can be asked everything, in the middle of a call of this server.
fn called(stateless: bool, key: &str) -> Rig {
    let registry = asking();
    let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
    if !stateless {
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{ALL},"clientInfo":{{"name":"old","version":"3"}}}}}}"#
        ));
    }
    rig.play(&format!(
        "> {}",
        request(
            stateless,
            1,
            "tools/call",
            &format!(r#""name":"{key}_echo""#)
        )
    ));
    rig.seen.clear();
    rig
}

fn request(stateless: bool, id: u32, method: &str, members: &str) -> String {
    let meta = match stateless {
        true => format!(
            ",{}",
            META.replace(
                r#"clientCapabilities":{}"#,
                &format!(r#"clientCapabilities":{ALL}"#)
            )
        ),
        false => String::new(),
    };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}{meta}}}}}"#)
}

impl Rig {
    /// What was said to the client, or to a server, since the last look.
    fn said(&mut self, to_client: bool) -> Vec<String> {
        let lines = self.seen.iter().filter_map(|seen| match seen {
            Seen::Client(line) if to_client => Some(line.clone()),
            Seen::Link(line) if !to_client => Some(line.clone()),
            Seen::Append(..) | Seen::Client(_) | Seen::Link(_) => None,
        });
        let lines = lines.collect();
        self.seen.clear();
        lines
    }

    fn bytes_from(&mut self, key: Option<&str>, line: &[u8]) {
        match key {
            None => self.handle(Input::ClientLine(line)),
            Some(key) => {
                let link = self.link(key);
                self.handle(Input::LinkLine {
                    link,
                    place: Place::Only,
                    line,
                });
            }
        }
    }
}

/// Results of a client that one reader would take for `decline` and another for `accept`.
const TWO_ANSWERS: [&str; 6] = [
    r#"{"action":"decline","action":"accept"}"#,
    r#"{"action":"decline","\u0061ction":"accept"}"#,
    r#"{"action":"decline","Action":"accept"}"#,
    r#"{"action":"decline","Content":{},"content":{}}"#,
    "{\"action\":\"decline\",\"act\u{131}on\":\"accept\",\"ACTION\":\"accept\"}",
    r#"{"action":"decline","resulttype":"input_required"}"#,
];

#[test]
fn a_server_is_not_given_an_answer_that_reads_in_two_ways() {
    let form = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{}}}"#;
    for answer in TWO_ANSWERS {
        let mut rig = called(false, "alpha");
        rig.bytes_from(Some("alpha"), form.as_bytes());
        assert_eq!(rig.said(true).len(), 1);
        let line = format!(r#"{{"jsonrpc":"2.0","id":"mcpshim-1","result":{answer}}}"#);
        rig.bytes_from(None, line.as_bytes());
        let said = rig.said(false);
        assert_eq!(said.len(), 1, "{answer}: {said:?}");
        assert!(
            said[0].contains(r#""id":"q","error""#),
            "{answer}: {said:?}"
        );
    }
    // ids that only some readers take for the one of the question
    for id in [
        r#""mcpshim-01""#,
        r#""mcpshim-1 ""#,
        r#""MCPSHIM-1""#,
        r#""mcpshim-1\u0000""#,
        r#""mcpshim-\uff11""#,
        r#""mcpshim-+1""#,
        "1",
        "1e0",
        "null",
    ] {
        let mut rig = called(false, "alpha");
        rig.bytes_from(Some("alpha"), form.as_bytes());
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept"}}}}"#);
        rig.said(false);
        rig.bytes_from(None, line.as_bytes());
        assert_eq!(rig.said(false), Vec::<String>::new(), "{id}");
    }
}

#[test]
fn a_driven_call_is_not_sent_again_with_an_answer_that_reads_in_two_ways() {
    let asks = r#"{"jsonrpc":"2.0","id":6,"result":{"resultType":"input_required","inputRequests":{"who":{"method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{}}}}}}"#;
    for answer in TWO_ANSWERS {
        let mut rig = called(false, "beta");
        rig.bytes_from(Some("beta"), asks.as_bytes());
        assert!(rig.said(true)[0].contains("mcpshim-1"));
        let line = format!(r#"{{"jsonrpc":"2.0","id":"mcpshim-1","result":{answer}}}"#);
        rig.bytes_from(None, line.as_bytes());
        let sent = rig
            .seen
            .iter()
            .any(|seen| matches!(seen, Seen::Link(line) if line.contains("tools/call")));
        assert!(!sent, "{answer}");
        let said = rig.said(true);
        assert!(said[0].contains(r#""isError":true"#), "{answer}: {said:?}");
    }
}

/// Results of a server that one reader would take for an answer and another for questions.
#[test]
fn no_question_passes_in_a_result_that_reads_as_an_answer() {
    let ask = r#"{"who":{"method":"elicitation/create","params":{"message":"Password?","requestedSchema":{}}}}"#;
    for result in [
        format!(r#"{{"resultType":"complete","resultType":"input_required","inputRequests":{ask}}}"#),
        format!(r#"{{"resultType":"complete","ResultType":"input_required","InputRequests":{ask}}}"#),
        format!(r#"{{"resultType":"complete","result\u0054ype":"input_required","inputRequests":{ask}}}"#),
        format!(r#"{{"resultType":"complete","content":[],"inputrequests":{ask}}}"#),
        format!(r#"{{"resultType":"input_required","inputRequests":{{}},"INPUTREQUESTS":{ask},"requestState":"s"}}"#),
        r#"{"resultType":"input_required","inputRequests":{"who":{"method":"roots/list","Method":"elicitation/create"}}}"#.to_owned(),
        format!(r#"{{"resultType":"input_required","inputRequests":{{"who":{{"method":"roots/list","method":"elicitation/create"}}}},"x":{ask}}}"#),
        r#"{"resultType":"input_required","inputRequests":{"who":{"method":"elicitation/create","params":{"message":"Sure?","Message":"Password?","requestedSchema":{}}}}}"#.to_owned(),
        r#"{"resultType":"input_required","inputRequests":{"who":{"method":"elicitation/create","params":{"message":"Sure?","mode":"form","Mode":"url","url":"file:///x"}}}}"#.to_owned(),
        r#"{"resultType":"input_required","inputRequests":{"who":{"method":"elicitation/create","params":{"message":"a","message":"b","requestedSchema":{}}}}}"#.to_owned(),
    ] {
        for stateless in [true, false] {
            let mut rig = called(stateless, "beta");
            let line = format!(r#"{{"jsonrpc":"2.0","id":6,"result":{result}}}"#);
            rig.bytes_from(Some("beta"), line.as_bytes());
            let said = rig.said(true);
            assert_eq!(said.len(), 1, "{result}: {said:?}");
            let failed = Object::parse(&said[0]).unwrap();
            let failed = failed.object("result").unwrap().unwrap();
            assert_eq!(failed.get("isError"), Some("true"), "{result}: {said:?}");
            assert!(!said[0].contains("Password"), "{said:?}");
        }
    }
}

#[test]
fn no_question_of_a_handshake_server_reads_in_two_ways() {
    let question = |id: &str, members: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},{members}}}"#);
    let form = r#""method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{}}"#;
    for bad in [
        question(
            "\"q\"",
            r#""method":"roots/list","method":"elicitation/create","params":{"message":"a"}"#,
        ),
        question(
            "\"q\"",
            r#""method":"roots/list","Method":"elicitation/create","params":{"message":"a"}"#,
        ),
        question(
            "\"q\"",
            r#""method":"elicitation/create","params":{"message":"a","MESSAGE":"b"}"#,
        ),
        question(
            "\"q\"",
            r#""method":"elicitation/create","params":{"message":"a","messa\u0067e":"b"}"#,
        ),
        question(
            "\"q\"",
            r#""method":"elicitation/create","params":{"message":"a"},"Params":{"message":"b"}"#,
        ),
        question("1e2", form),
        question("1.0", form),
        question("null", form),
        question("\"q\",\"id\":\"r\"", form),
        question("\"q\",\"ID\":\"r\"", form),
        format!("{}\r{}", question("\"q\"", form), question("\"r\"", form)),
        format!("\u{feff}{}", question("\"q\"", form)),
        question("\"q\"", form).replace("Sure", "Su\0re"),
        question("\"q\"", form).replace("Sure?", "\\ud800"),
    ] {
        for stateless in [true, false] {
            let mut rig = called(stateless, "alpha");
            rig.bytes_from(Some("alpha"), bad.as_bytes());
            rig.play("+30");
            assert_eq!(rig.said(true), Vec::<String>::new(), "{bad:?}");
        }
    }
}

#[test]
fn a_retry_that_reads_in_two_ways_is_refused() {
    let two = [
        r#""inputResponses":{},"InputResponses":{"q":{"action":"accept"}}"#,
        r#""inputResponses":{},"inputResponses":{"q":{"action":"accept"}}"#,
        r#""inputResponses":{},"requestState":"a","RequestState":"b""#,
        r#""inputResponses":{},"requestState":"a","request\u0053tate":"b""#,
    ];
    for members in two {
        for key in ["alpha", "beta"] {
            let mut rig = called(true, key);
            let line = request(
                true,
                2,
                "tools/call",
                &format!(r#""name":"{key}_echo",{members}"#),
            );
            rig.bytes_from(None, line.as_bytes());
            assert_eq!(rig.said(false), Vec::<String>::new(), "{members}");
        }
    }
}

#[test]
fn a_parked_call_gets_no_answer_that_reads_in_two_ways() {
    let form = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Sure?","requestedSchema":{}}}"#;
    for answer in &TWO_ANSWERS[..5] {
        let mut rig = called(true, "alpha");
        rig.bytes_from(Some("alpha"), form.as_bytes());
        rig.play("+20");
        let asked = rig.said(true);
        let at = asked[0].find("mcpshim-parked-").unwrap();
        let handle = asked[0][at..].split('"').next().unwrap();
        let members = format!(
            r#""name":"alpha_echo","inputResponses":{{"1":{answer}}},"requestState":"{handle}""#
        );
        rig.bytes_from(None, request(true, 2, "tools/call", &members).as_bytes());
        assert_eq!(rig.said(false), Vec::<String>::new(), "{answer}");
        // the same question twice over is refused as well
        let twice = format!(
            r#""name":"alpha_echo","inputResponses":{{"1":{{"action":"decline"}},"\u0031":{{"action":"accept"}}}},"requestState":"{handle}""#
        );
        rig.bytes_from(None, request(true, 3, "tools/call", &twice).as_bytes());
        assert_eq!(rig.said(false), Vec::<String>::new());
    }
}

#[test]
fn a_task_has_one_id() {
    for result in [
        r#"{"resultType":"task","taskId":"a","taskId":"b"}"#,
        r#"{"resultType":"task","taskId":"a","TaskId":"b"}"#,
        r#"{"resultType":"task","taskid":"b"}"#,
        r#"{"resultType":"task","taskId":"\ud800"}"#,
        r#"{"resultType":"task","taskId":1}"#,
    ] {
        let mut rig = called(true, "beta");
        let line = format!(r#"{{"jsonrpc":"2.0","id":6,"result":{result}}}"#);
        rig.bytes_from(Some("beta"), line.as_bytes());
        let said = rig.said(true);
        assert!(said[0].contains(r#""isError":true"#), "{result}: {said:?}");
    }
    let mut rig = called(true, "beta");
    rig.bytes_from(
        Some("beta"),
        br#"{"jsonrpc":"2.0","id":6,"result":{"resultType":"task","taskId":"t","status":"working"}}"#,
    );
    for (at, id) in [
        r#""taskId":"beta.t","taskId":"alpha.t""#,
        r#""taskId":"beta.t","TaskId":"other""#,
        r#""taskId":"beta.t","task\u0049d":"other""#,
        r#""taskId":"BETA.t""#,
        r#""taskId":"beta.t\u0000""#,
        r#""taskId":"beta.t ""#,
        r#""taskId":["beta.t"]"#,
    ]
    .into_iter()
    .enumerate()
    {
        rig.said(false);
        let line = request(true, u32::try_from(at).unwrap() + 10, "tasks/get", id);
        rig.bytes_from(None, line.as_bytes());
        assert_eq!(rig.said(false), Vec::<String>::new(), "{id}");
    }
}
