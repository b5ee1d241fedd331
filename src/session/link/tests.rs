//! Exchanges as text. `»` goes upstream, `«` comes from it; lines that begin with `»`, `!` are
//! what the link must do after the inputs above them, nothing more and nothing less.
//!
//! ```text
//! want                          a call needs the link
//! opened | closed REASON        the transport's life
//! « 1 result {…}                an answer     « 1 error -32601 words {data}
//! « changed | « ping 7 | « fault
//! lost 1 HOW WORDS              an exchange of the link's own failed
//! strained HOW WORDS | heard    one of a call failed; something came
//! busy N | +3000                open calls; milliseconds passing, then a wake
//! ```

use serde_json::value::RawValue;

use super::*;
use crate::pin;
use crate::registry::doc::{PinMode, Transport};
use crate::session::{Loss, Reach};
use crate::wire::era::Can;

const TOOL: &str = r#"{"name":"add","inputSchema":{"type":"object"}}"#;
const OTHER: &str = r#"{"name":"add","inputSchema":{"type":"object","required":["x"]}}"#;

fn doc(pin: &str, protocol: &str, more: &str) -> Arc<ServerDoc> {
    let entry = pin::entry(Kind::Tool, &RawValue::from_string(TOOL.to_owned()).unwrap()).unwrap();
    let surface = match protocol {
        "" => String::new(),
        _ => format!(
            r#","surface":{{"protocol":"{protocol}","capabilities":{{"tools":{{}}}},"tools":[{}]}}"#,
            serde_json::to_string(&entry).unwrap()
        ),
    };
    let text = format!(
        r#"{{"format":1,"min_reader":1,"id":"s","key":"s","owner":"o","oncall":"c","purpose":"p",
        "hosted":"self","environment":"dev","zone":"z","pin":"{pin}"{more}{surface},
        "transport":{{"type":"stdio","command":"x"}}}}"#
    );
    Arc::new(serde_json::from_str(&text).unwrap())
}

fn strict() -> Link {
    Link::new(LinkId(1), doc("strict", "2025-11-25", ""), false)
}

fn render(output: &LinkOutput) -> String {
    match output {
        LinkOutput::Close => "! close".to_owned(),
        LinkOutput::Failed(LinkFailure::Down(phrase)) => format!("! failed: {phrase}"),
        LinkOutput::Failed(LinkFailure::Drift(sentence)) => format!("! drift: {sentence}"),
        LinkOutput::Headers(headers) => format!("! headers {:?}", headers.keys()),
        LinkOutput::Learned(how) => format!("! learned {how:?}"),
        LinkOutput::Note(code, _) => format!("! note {code}"),
        LinkOutput::Open => "! open".to_owned(),
        LinkOutput::Ready(era) => format!("! ready {}", era.revision().as_str()),
        LinkOutput::Send(line) => {
            assert_eq!(line.last(), Some(&b'\n'));
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            let word = |pointer: &str| match line.pointer(pointer) {
                None => String::new(),
                Some(serde_json::Value::String(text)) => format!(" {text}"),
                Some(other) => format!(" {other}"),
            };
            format!(
                "»{}{}{}{}{}",
                word("/id"),
                word("/method"),
                word("/params/protocolVersion"),
                word("/params/cursor"),
                word("/result")
            )
        }
        LinkOutput::Surface(surface) => {
            let names = |kind| {
                Kind::of(kind, surface)
                    .iter()
                    .map(|pinned| pinned.name.as_str())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            format!(
                "! surface {} [{}]",
                surface.protocol,
                Kind::ALL.map(names).join("|")
            )
        }
    }
}

fn input(link: &mut Link, line: &str, now: &mut Now) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "want" => link.want(now),
        "opened" => link.handle(LinkInput::Opened, now),
        "closed" => link.handle(LinkInput::Closed(rest), now),
        "busy" => link.set_busy(rest.parse().unwrap(), now),
        "stop" => link.stop(),
        "heard" => link.heard(),
        "lost" => {
            let (id, rest) = rest.split_once(' ').unwrap();
            let (id, loss) = (id.parse().unwrap(), &loss(rest));
            assert!(link.owns(id), "{line}");
            link.handle(LinkInput::Lost { id, loss }, now);
        }
        "strained" => link.handle(LinkInput::Strained(&loss(rest)), now),
        "«" => upstream(link, rest, now),
        _ => {
            let ms: u64 = word.strip_prefix('+').expect(line).parse().unwrap();
            now.mono_us += ms * 1000;
            link.handle(LinkInput::Wake, now);
        }
    }
}

fn loss(text: &str) -> Loss {
    let (how, reason) = text.split_once(' ').unwrap();
    Loss {
        reach: match how {
            "refused" => Reach::Refused(403),
            _ => Reach::Unknown,
        },
        reason: reason.to_owned(),
        pause_ms: how.strip_prefix("pause-").map(|ms| ms.parse().unwrap()),
        broken: how == "broken",
    }
}

/// The same server behind an address.
fn remote(pin: &str, protocol: &str) -> Link {
    let mut doc = (*doc(pin, protocol, "")).clone();
    doc.transport = Transport::Http {
        url: "https://s.example/mcp".to_owned(),
        ca_pem: None,
        legacy_sse: false,
    };
    Link::new(LinkId(1), Arc::new(doc), false)
}

fn upstream(link: &mut Link, line: &str, now: &Now) {
    if line == "changed" {
        return link.handle(LinkInput::Changed, now);
    }
    if line == "fault" {
        return link.handle(LinkInput::Fault(None), now);
    }
    if let Some(id) = line.strip_prefix("ping ") {
        return link.handle(LinkInput::Ping(id), now);
    }
    let mut words = line.splitn(3, ' ');
    let id = words.next().unwrap().parse().unwrap();
    assert!(link.owns(id), "the link does not own {id}: {line}");
    let answer = match (words.next().unwrap(), words.next().unwrap()) {
        ("result", text) => Answer::Result(text),
        ("error", rest) => {
            let mut words = rest.splitn(3, ' ');
            Answer::Error {
                code: words.next().unwrap().parse().unwrap(),
                message: words.next().unwrap(),
                data: words.next(),
            }
        }
        _ => panic!("{line}"),
    };
    link.handle(LinkInput::Answer { id, answer }, now);
}

/// Plays the inputs of a script; what the link does must be what the script says.
fn play(link: &mut Link, now: &mut Now, script: &str) {
    let script = script
        .replace(
            "$ABOUT",
            r#""capabilities":{"tools":{}},"serverInfo":{"name":"x"}"#,
        )
        .replace("$TOOLS", &format!(r#"{{"tools":[{TOOL}]}}"#))
        .replace("$OTHER", &format!(r#"{{"tools":[{OTHER}]}}"#));
    let mut played = String::new();
    let drain = |link: &mut Link, played: &mut String| {
        while let Some(output) = link.poll() {
            // what is remembered elsewhere has tests of its own
            if matches!(output, LinkOutput::Learned(_)) {
                continue;
            }
            played.push_str(&render(&output));
            played.push('\n');
        }
    };
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if line.starts_with('»') || line.starts_with('!') {
            continue;
        }
        input(link, line, now);
        played.push_str(line);
        played.push('\n');
        drain(link, &mut played);
    }
    let wanted: String = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(played, wanted, "\nplayed:\n{played}\nwanted:\n{wanted}");
}

fn check(mut link: Link, script: &str) -> Link {
    play(&mut link, &mut Now::default(), script);
    link
}

const READY: &str = r#"
    want
    ! open
    opened
    » 1 initialize 2025-11-25
    « 1 result {"protocolVersion":"2025-11-25",$ABOUT}
    » notifications/initialized
    » 2 tools/list
    « 2 result $TOOLS
    ! ready 2025-11-25
"#;

#[test]
fn a_pinned_handshake_server_is_compared_before_it_is_ready() {
    let link = check(strict(), READY);
    assert_eq!(
        link.state(),
        LinkState::Ready(Era::Handshake(Revision::V2025_11_25))
    );
}

#[test]
fn the_bytes_of_both_openings_are_those_of_the_specification() {
    let sent = |mut link: Link| {
        let now = Now::default();
        link.want(&now);
        link.handle(LinkInput::Opened, &now);
        assert!(matches!(link.poll(), Some(LinkOutput::Open)));
        match link.poll() {
            Some(LinkOutput::Send(line)) => String::from_utf8(line).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        sent(strict()),
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"mcpshim","version":"{version}"}}}}}}"#
        ) + "\n"
    );
    assert_eq!(
        sent(Link::new(LinkId(1), doc("strict", "2026-07-28", ""), false)),
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"mcpshim","version":"{version}"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
        ) + "\n"
    );
}

#[test]
fn an_older_answer_to_initialize_is_accepted_and_an_unknown_one_is_not() {
    for (version, outcome) in [
        ("2025-06-18", "» notifications/initialized\n» 2 tools/list"),
        ("2024-11-05", "» notifications/initialized\n» 2 tools/list"),
        (
            "1999-01-01",
            "! note down
             ! failed: speaks no protocol version that mcpshim knows (it speaks: 1999-01-01)
             ! close",
        ),
    ] {
        check(
            strict(),
            &format!(
                r#"want
                   ! open
                   opened
                   » 1 initialize 2025-11-25
                   « 1 result {{"protocolVersion":"{version}",$ABOUT}}
                   {outcome}"#
            ),
        );
    }
}

#[test]
fn drift_is_refused_before_the_call_goes() {
    let link = check(
        strict(),
        r#"
        want
        ! open
        opened
        » 1 initialize 2025-11-25
        « 1 result {"protocolVersion":"2025-11-25",$ABOUT}
        » notifications/initialized
        » 2 tools/list
        « 2 result $OTHER
        ! note drift
        ! drift: DRIFT
        ! close
    "#
        .replace(
            "DRIFT",
            &pin::compare(
                doc("strict", "2025-11-25", "").surface.as_ref().unwrap(),
                &live(OTHER),
                PinMode::Strict,
                pin::Shown::All,
                false,
            )
            .unwrap_err()
            .sentence,
        )
        .as_str(),
    );
    assert!(matches!(link.state(), LinkState::Closed { .. }));
}

fn live(tool: &str) -> Surface {
    let raw = RawValue::from_string(tool.to_owned()).unwrap();
    Surface {
        protocol: "2025-11-25".to_owned(),
        capabilities: Some(RawValue::from_string(r#"{"tools":{}}"#.to_owned()).unwrap()),
        tools: vec![pin::entry(Kind::Tool, &raw).unwrap()],
        ..Surface::default()
    }
}

#[test]
fn mode_names_lets_a_definition_change_and_refuses_a_name_that_is_gone() {
    check(
        Link::new(LinkId(1), doc("names", "2025-11-25", ""), false),
        &READY.replace("$TOOLS", "$OTHER"),
    );
    let mut link = Link::new(LinkId(1), doc("names", "2025-11-25", ""), false);
    let now = Now::default();
    link.want(&now);
    link.handle(LinkInput::Opened, &now);
    upstream(
        &mut link,
        r#"1 result {"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}"#,
        &now,
    );
    upstream(&mut link, r#"2 result {"tools":[]}"#, &now);
    let told: Vec<_> = std::iter::from_fn(|| link.poll())
        .filter(|output| matches!(output, LinkOutput::Note(..) | LinkOutput::Ready(_)))
        .collect();
    assert!(
        matches!(
            &told[..],
            [LinkOutput::Note("drift", _), LinkOutput::Ready(_)]
        ),
        "{told:?}"
    );
    let gone: Vec<_> = link.differing().values().collect();
    assert_eq!(gone.len(), 1, "{gone:?}");
}

#[test]
fn mode_off_hands_the_live_lists_over() {
    check(
        Link::new(LinkId(1), doc("off", "", ""), false),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 error -32601 no
        » 2 initialize 2025-11-25
        « 2 result {"protocolVersion":"2025-06-18","capabilities":{"tools":{},"resources":{}}}
        » notifications/initialized
        » 3 tools/list
        » 4 resources/list
        » 5 resources/templates/list
        « 3 result {"tools":[],"nextCursor":"p2"}
        » 6 tools/list p2
        « 5 error -32601 no
        « 6 result $TOOLS
        « 4 result {"resources":[{"uri":"a:b","name":"n"}]}
        ! surface 2025-06-18 [add|||a:b]
        ! ready 2025-06-18
    "#,
    );
}

#[test]
fn a_strict_server_without_a_pin_is_refused() {
    let script = READY
        .replace(
            "» 1 initialize 2025-11-25\n",
            "» 1 server/discover\n« 1 error -32601 no\n» 2 initialize 2025-11-25\n",
        )
        .replace("« 1 result", "« 2 result")
        .replace("» 2 tools", "» 3 tools")
        .replace("« 2 result $T", "« 3 result $T")
        .replace(
            "! ready 2025-11-25",
            "! note drift\n! drift: server s has no pinned surface to compare with\n! close",
        );
    check(Link::new(LinkId(1), doc("strict", "", ""), false), &script);
}

#[test]
fn silence_on_the_probe_means_initialize_on_the_same_pipe() {
    check(
        Link::new(LinkId(1), doc("off", "", ""), false),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        +2999
        +1
        » 2 initialize 2025-11-25
        « 2 result {"protocolVersion":"2025-11-25"}
        » notifications/initialized
        ! surface 2025-11-25 [|||]
        ! ready 2025-11-25
    "#,
    );
}

#[test]
fn a_late_discover_answer_counts_when_initialize_is_refused() {
    check(
        Link::new(LinkId(1), doc("off", "", ""), false),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        +3000
        » 2 initialize 2025-11-25
        « 1 result {"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}
        « 2 error -32022 unsupported {"supported":["2026-07-28"],"requested":"2025-11-25"}
        » 3 tools/list
        « 3 result $TOOLS
        ! surface 2026-07-28 [add|||]
        ! ready 2026-07-28
    "#,
    );
}

#[test]
fn a_server_that_ends_on_the_probe_is_started_again_with_initialize_and_remembered() {
    let mut now = Now::default();
    let mut link = Link::new(LinkId(1), doc("off", "", ""), false);
    play(
        &mut link,
        &mut now,
        r#"
        want
        ! open
        opened
        » 1 server/discover
        closed ended: exit status: 1
        ! open
        opened
        » 2 initialize 2025-11-25
        « 2 result {"protocolVersion":"2025-11-25"}
        » notifications/initialized
        ! surface 2025-11-25 [|||]
        ! ready 2025-11-25
        stop
        ! close
        want
        ! open
        opened
        » 3 initialize 2025-11-25
    "#,
    );
}

#[test]
fn a_server_that_always_ends_fails_once_per_try_with_growing_pauses() {
    check(
        Link::new(LinkId(1), doc("off", "", ""), false),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        closed ended: exit status: 1
        ! open
        opened
        » 2 initialize 2025-11-25
        closed ended: exit status: 1
        ! note down
        ! failed: ended: exit status: 1
        want
        ! open
        closed could not be started: no such file
        ! note down
        ! failed: could not be started: no such file
        want
        ! failed: could not be started: no such file (it is tried again in 1 s)
        +500
        want
        ! open
        closed could not be started: no such file
        ! note down
        ! failed: could not be started: no such file
        +500
        want
        ! failed: could not be started: no such file (it is tried again in 1 s)
        +500
        want
        ! open
    "#,
    );
}

#[test]
fn a_stateless_server_is_listened_to_and_stays_stateless() {
    let mut now = Now::default();
    let mut link = Link::new(LinkId(1), doc("off", "", ""), false);
    play(
        &mut link,
        &mut now,
        r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 result {"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}
        » 2 subscriptions/listen
        » 3 tools/list
        « 3 result $TOOLS
        ! surface 2026-07-28 [add|||]
        ! ready 2026-07-28
        closed ended: exit status: 0
        ! note down
        ! failed: ended: exit status: 0
        want
        ! open
        opened
        » 4 server/discover
        +3000
        +26999
        +1
        » 5 initialize 2025-11-25
    "#,
    );
}

#[test]
fn discover_that_names_only_older_versions_starts_the_process_anew() {
    check(
        Link::new(LinkId(1), doc("off", "", ""), false),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 result {"supportedVersions":["2025-11-25"],"capabilities":{}}
        ! close
        ! open
        opened
        » 2 initialize 2025-11-25
    "#,
    );
}

#[test]
fn an_unsupported_version_error_leads_to_the_newest_common_one() {
    check(
        Link::new(LinkId(1), doc("off", "", ""), false),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 error -32022 unsupported {"supported":["2024-11-05","2025-06-18","2099-01-01"]}
        » 2 initialize 2025-06-18
    "#,
    );
    check(
        Link::new(LinkId(1), doc("off", "", ""), false),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 error -32022 unsupported {"supported":["2099-01-01"]}
        ! note down
        ! failed: speaks no protocol version that mcpshim knows (it speaks: 2099-01-01)
        ! close
    "#,
    );
    check(
        strict(),
        r#"
        want
        ! open
        opened
        » 1 initialize 2025-11-25
        « 1 error -32022 unsupported {"supported":["2026-07-28"]}
        » 2 server/discover
        « 2 error -32022 unsupported {"supported":["2026-07-28"]}
        ! note down
        ! failed: speaks no protocol version that mcpshim knows (it speaks: 2026-07-28)
        ! close
    "#,
    );
}

#[test]
fn list_changed_makes_calls_wait_for_one_comparison_of_the_burst() {
    let mut now = Now::default();
    let mut link = strict();
    play(&mut link, &mut now, READY);
    play(
        &mut link,
        &mut now,
        r#"
        « changed
        « changed
        +249
        « changed
        +1
        » 3 tools/list
    "#,
    );
    assert_eq!(link.state(), LinkState::Opening);
    play(
        &mut link,
        &mut now,
        r#"
        « changed
        « 3 result $TOOLS
        ! ready 2025-11-25
        +250
        » 4 tools/list
        busy 1
        « 4 result $OTHER
        ! note drift
        ! drift: DRIFT
        want
        » 5 tools/list
        « 5 result $TOOLS
        ! ready 2025-11-25
    "#
        .replace(
            "DRIFT",
            &pin::compare(
                doc("strict", "2025-11-25", "").surface.as_ref().unwrap(),
                &live(OTHER),
                PinMode::Strict,
                pin::Shown::All,
                false,
            )
            .unwrap_err()
            .sentence,
        )
        .as_str(),
    );
}

#[test]
fn calls_in_flight_outlive_a_drift_and_the_transport_ends_with_them() {
    let mut now = Now::default();
    let mut link = strict();
    play(&mut link, &mut now, READY);
    input(&mut link, "busy 1", &mut now);
    input(&mut link, "« changed", &mut now);
    input(&mut link, "+250", &mut now);
    let other = format!(r#"« 3 result {{"tools":[{OTHER}]}}"#);
    input(&mut link, &other, &mut now);
    let outputs: Vec<_> = std::iter::from_fn(|| link.poll()).collect();
    assert!(!outputs.iter().any(|o| matches!(o, LinkOutput::Close)));
    assert!(matches!(link.state(), LinkState::Closed { .. }));
    play(&mut link, &mut now, "busy 0\n! close");
}

#[test]
fn an_idle_link_stops_unless_it_is_stateful_or_busy() {
    let idle = r#","limits":{"idle_ms":1000}"#;
    let mut now = Now::default();
    let mut link = Link::new(LinkId(1), doc("strict", "2025-11-25", idle), false);
    play(&mut link, &mut now, READY);
    play(
        &mut link,
        &mut now,
        "+900
         busy 1
         +5000
         busy 0
         +999
         +1
         ! note idle
         ! close",
    );
    let stateful = r#","stateful":true,"limits":{"idle_ms":1000}"#;
    let mut link = Link::new(LinkId(1), doc("strict", "2025-11-25", stateful), false);
    play(&mut link, &mut now, READY);
    assert_eq!(link.next_wakeup(), None);
}

#[test]
fn a_server_that_hangs_is_given_up_at_each_step() {
    let overdue =
        |what: &str| format!("! note down\n! failed: did not answer {what} in time\n! close");
    check(
        strict(),
        &format!(
            "want\n! open\nopened\n» 1 initialize 2025-11-25\n+119999\n+1\n{}",
            overdue("initialize")
        ),
    );
    check(
        strict(),
        &format!("want\n! open\n+120000\n{}", overdue("starting")),
    );
    let lists = READY
        .lines()
        .take_while(|line| !line.contains("« 2"))
        .collect::<Vec<_>>()
        .join("\n");
    check(
        strict(),
        &format!("{lists}\n+120000\n{}", overdue("tools/list")),
    );
}

#[test]
fn a_cursor_that_leads_nowhere_ends_its_list() {
    let list = r#"{"name":"list","inputSchema":{"type":"object"}}"#;
    let other = r#"{"name":"other","inputSchema":{"type":"object"}}"#;
    let read = |pages: &[String]| {
        let now = Now::default();
        let mut link = Link::new(LinkId(1), doc("off", "2025-11-25", ""), false);
        link.want(&now);
        link.handle(LinkInput::Opened, &now);
        let hello = r#"1 result {"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}"#;
        upstream(&mut link, hello, &now);
        for (at, page) in pages.iter().enumerate() {
            while link.poll().is_some() {}
            upstream(&mut link, &format!("{} result {page}", at + 2), &now);
        }
        let told: Vec<_> = std::iter::from_fn(|| link.poll()).collect();
        let remarks = told
            .iter()
            .filter(|o| matches!(o, LinkOutput::Note("list", _)));
        let names = told.iter().find_map(|output| {
            let LinkOutput::Surface(live) = output else {
                return None;
            };
            Some(live.tools.iter().map(|tool| tool.name.clone()).collect())
        });
        (names, remarks.count())
    };
    let page = |tools: &str, next: &str| format!(r#"{{"tools":[{tools}]{next}}}"#);
    let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
    let next = |cursor: &str| format!(r#","nextCursor":"{cursor}""#);
    // the same page for ever, by the same cursor or by new ones
    let same = [page(list, &next("x")), page(list, &next("x"))];
    assert_eq!(read(&same), (names(&["list"]), 1));
    let ever_new = [page(list, &next("x")), page(list, &next("y"))];
    assert_eq!(read(&ever_new), (names(&["list"]), 1));
    // a circle
    let circle = [
        page(list, &next("x")),
        page("", &next("y")),
        page(other, &next("x")),
    ];
    assert_eq!(read(&circle), (names(&["list", "other"]), 1));
    // cursors that lead somewhere, over an empty page too
    let fine = [
        page(list, &next("x")),
        page("", &next("y")),
        page(other, ""),
    ];
    assert_eq!(read(&fine), (names(&["list", "other"]), 0));
}

#[test]
fn a_list_without_end_is_refused() {
    let mut now = Now::default();
    let mut link = strict();
    let lists = READY
        .lines()
        .take_while(|line| !line.contains("« 2"))
        .collect::<Vec<_>>()
        .join("\n");
    play(&mut link, &mut now, &lists);
    for id in 2..2 + limits::LIST_PAGES as u64 {
        upstream(
            &mut link,
            &format!(r#"{id} result {{"tools":[],"nextCursor":"{id}"}}"#),
            &now,
        );
        assert!(
            matches!(link.poll(), Some(LinkOutput::Send(_))),
            "page {id}"
        );
    }
    let id = 2 + limits::LIST_PAGES;
    play(
        &mut link,
        &mut now,
        &format!(
            "« {id} result {{\"tools\":[],\"nextCursor\":\"x\"}}
             ! note down
             ! failed: has lists of more than 200 pages
             ! close"
        ),
    );
}

#[test]
fn garbage_while_opening_is_tolerated_up_to_a_bound() {
    let mut now = Now::default();
    let mut link = strict();
    play(
        &mut link,
        &mut now,
        "want\n! open\nopened\n» 1 initialize 2025-11-25\n« fault\n! note fault",
    );
    for _ in 1..limits::LINK_FAULTS {
        upstream(&mut link, "fault", &now);
        assert!(link.poll().is_none());
    }
    play(
        &mut link,
        &mut now,
        "« fault
         ! note down
         ! failed: prints text that is not MCP on its output
         ! close",
    );
}

#[test]
fn a_ping_is_answered_with_the_id_it_had() {
    let mut now = Now::default();
    let mut link = strict();
    play(&mut link, &mut now, READY);
    play(&mut link, &mut now, "« ping 77\n» 77 {}");
}

#[test]
fn a_new_pin_is_compared_before_the_next_call_and_a_new_transport_needs_a_new_link() {
    let mut now = Now::default();
    let mut link = strict();
    play(&mut link, &mut now, READY);
    assert!(link.set_server(doc("strict", "2025-11-25", ""), &now));
    assert!(matches!(link.state(), LinkState::Ready(_)), "nothing moved");
    assert!(link.set_server(doc("names", "2025-11-25", ""), &now));
    assert_eq!(link.state(), LinkState::Opening);
    play(
        &mut link,
        &mut now,
        "+0\n» 3 tools/list\n« 3 result $TOOLS\n! ready 2025-11-25",
    );
    let mut other = ServerDoc::clone(&doc("strict", "2025-11-25", ""));
    other.transport = Transport::Http {
        url: "https://h/".to_owned(),
        ca_pem: None,
        legacy_sse: false,
    };
    assert!(!link.set_server(Arc::new(other), &now));
    // nor is one that was opened without a credential, or with one that is not named any more
    let mut other = ServerDoc::clone(&doc("strict", "2025-11-25", ""));
    other.credential = Some(crate::registry::doc::CredentialDoc {
        id: "token".parse().unwrap(),
        inject: crate::registry::doc::Inject::Bearer,
        obtain: String::new(),
        rotate_days: None,
    });
    assert!(!link.set_server(Arc::new(other), &now));
}

#[test]
fn survey_reads_everything_and_compares_with_nothing() {
    check(
        Link::new(LinkId(1), doc("strict", "", ""), true),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 error -32601 no
        » 2 initialize 2025-11-25
        « 2 result {"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{}},"instructions":"i"}
        » notifications/initialized
        » 3 tools/list
        » 4 prompts/list
        « 3 result $OTHER
        « 4 result {"prompts":[{"name":"p"}]}
        ! surface 2025-11-25 [add|p||]
        ! ready 2025-11-25
    "#,
    );
}

#[test]
fn unusable_entries_are_left_out_alone() {
    let mut now = Now::default();
    let mut link = Link::new(LinkId(1), doc("strict", "", ""), true);
    let opening = r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 error -32601 no
        » 2 initialize 2025-11-25
        « 2 result {"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{}}}
        » notifications/initialized
        » 3 tools/list
        » 4 prompts/list
    "#;
    play(&mut link, &mut now, opening);
    let tools = r#"3 result {"tools":[{},{"name":"good"},{"name":"a","name":"b"},{"name":""}]}"#;
    upstream(&mut link, tools, &now);
    upstream(&mut link, r#"4 result {"prompts":[{"name":7}]}"#, &now);
    let surface = std::iter::from_fn(|| link.poll()).find_map(|output| match output {
        LinkOutput::Surface(surface) => Some(surface),
        LinkOutput::Close
        | LinkOutput::Failed(_)
        | LinkOutput::Headers(_)
        | LinkOutput::Learned(_)
        | LinkOutput::Note(..)
        | LinkOutput::Open
        | LinkOutput::Ready(_)
        | LinkOutput::Send(_) => None,
    });
    let surface = surface.unwrap();
    assert_eq!(surface.tools.len(), 1);
    let quarantined = format!("{:?}", surface.quarantined);
    assert_eq!(
        quarantined,
        r##"{"#0": "has no text member `name`", "#1": "the key \"name\" stands twice in one object, the second time at byte 12", "#2": "its name has 0 bytes, expected 1 to 128", "prompt/#3": "has no text member `name`"}"##
    );
}

#[test]
fn a_server_that_answers_no_call_is_started_anew() {
    let mut now = Now::default();
    let mut link = strict();
    play(&mut link, &mut now, READY);
    link.set_busy(1, &now);
    for _ in 1..limits::LINK_STRAIN {
        link.handle(LinkInput::Overdue("gave no answer within 2 s"), &now);
    }
    link.served();
    for _ in 1..limits::LINK_STRAIN {
        link.handle(LinkInput::Overdue("gave no answer within 2 s"), &now);
    }
    assert!(matches!(link.state(), LinkState::Ready(_)));
    link.handle(LinkInput::Overdue("gave no answer within 2 s"), &now);
    assert!(matches!(link.state(), LinkState::Closed { .. }));
    assert_eq!(link.failures().0, 1);
    // it ends with its last call
    assert!(link.is_open());
    link.set_busy(0, &now);
    assert!(!link.is_open());
}

#[test]
fn unusable_lists_are_named() {
    for (result, words) in [
        ("{}", "answered tools/list without a list"),
        (
            r#"{"tools":7}"#,
            "answered tools/list with an unusable result",
        ),
    ] {
        let mut now = Now::default();
        let mut link = strict();
        let lists = READY
            .lines()
            .take_while(|line| !line.contains("« 2"))
            .collect::<Vec<_>>()
            .join("\n");
        play(&mut link, &mut now, &lists);
        upstream(&mut link, &format!("2 result {result}"), &now);
        let failed = std::iter::from_fn(|| link.poll()).find_map(|output| match output {
            LinkOutput::Failed(LinkFailure::Down(phrase)) => Some(phrase),
            LinkOutput::Close
            | LinkOutput::Failed(LinkFailure::Drift(_))
            | LinkOutput::Headers(_)
            | LinkOutput::Learned(_)
            | LinkOutput::Note(..)
            | LinkOutput::Open
            | LinkOutput::Ready(_)
            | LinkOutput::Send(_)
            | LinkOutput::Surface(_) => None,
        });
        assert!(
            failed.as_ref().is_some_and(|f| f.starts_with(words)),
            "{failed:?}"
        );
    }
}

#[test]
fn over_http_neither_silence_nor_a_broken_network_tells_of_an_era() {
    const PROBED: &str = "want\n! open\nopened\n» 1 server/discover\n";
    check(
        remote("off", ""),
        &format!(
            "{PROBED}+29999\n+1\n! note down\n\
             ! failed: did not answer server/discover in time\n! close"
        ),
    );
    for how in ["broken", "refused"] {
        check(
            remote("off", ""),
            &format!(
                "{PROBED}lost 1 {how} it went wrong\n! note down\n! failed: it went wrong\n! close"
            ),
        );
    }
    // a refusal by the newer era's own words is no reason to try the older one
    check(
        remote("off", ""),
        &format!(
            "{PROBED}« 1 error -32020 headers\n! note down\n\
             ! failed: refused server/discover as a server of 2026-07-28\n! close"
        ),
    );
    check(
        remote("off", ""),
        &format!("{PROBED}« 1 error -32601 404\n» 2 initialize 2025-11-25"),
    );
}

#[test]
fn exchanges_that_fail_in_a_row_pause_the_link_and_leave_calls_in_flight() {
    let mut now = Now::default();
    let mut link = remote("strict", "2025-11-25");
    play(&mut link, &mut now, READY);
    play(
        &mut link,
        &mut now,
        r#"
        busy 2
        strained broken fails
        strained broken fails
        heard
        strained broken fails
        strained refused by a rule
        strained broken fails
        strained broken fails
        ! note down
        ! failed: fails
        want
        » 3 tools/list
        lost 3 broken still fails
        ! note down
        ! failed: still fails
        want
        ! failed: still fails (it is tried again in 1 s)
        +500
        want
        » 4 tools/list
        « 4 result $TOOLS
        ! ready 2025-11-25
        ! note up
    "#,
    );
    assert!(matches!(link.state(), LinkState::Ready(_)));
}

#[test]
fn a_pause_the_server_asks_for_is_kept() {
    let mut now = Now::default();
    let mut link = remote("strict", "2025-11-25");
    play(&mut link, &mut now, READY);
    play(&mut link, &mut now, "strained pause-2000 asks for a pause");
    assert_eq!(link.pause(&now), Some(("asks for a pause", 2)));
    now.mono_us += 1_999_999;
    assert_eq!(link.pause(&now), Some(("asks for a pause", 1)));
    now.mono_us += 1;
    assert_eq!(link.pause(&now), None);
}

#[test]
fn a_stream_of_news_that_breaks_is_asked_for_again_after_growing_pauses() {
    check(
        remote("off", ""),
        r#"
        want
        ! open
        opened
        » 1 server/discover
        « 1 result {"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}
        » 2 subscriptions/listen
        » 3 tools/list
        « 3 result $TOOLS
        ! surface 2026-07-28 [add|||]
        ! headers []
        ! ready 2026-07-28
        lost 2 broken off
        +999
        +1
        » 4 subscriptions/listen
        » 5 tools/list
        « 5 result $TOOLS
        ! surface 2026-07-28 [add|||]
        ! headers []
        ! ready 2026-07-28
        lost 4 broken off
        +1000
        +1000
        » 6 subscriptions/listen
        » 7 tools/list
        « 7 result $TOOLS
        ! surface 2026-07-28 [add|||]
        ! headers []
        ! ready 2026-07-28
        lost 6 refused for good
        +60000
    "#,
    );
}

fn declares(link: &mut Link) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(output) = link.poll() {
        if let LinkOutput::Send(line) = output {
            let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let params = &line["params"];
            let meta = &params["_meta"]["io.modelcontextprotocol/clientCapabilities"];
            let own = &params["capabilities"];
            said.extend(
                [own, meta]
                    .iter()
                    .filter(|v| !v.is_null())
                    .map(|v| v.to_string()),
            );
        }
    }
    said
}

#[test]
fn a_server_is_told_what_its_entry_allows_of_what_the_client_says() {
    const ALL: &str = r#","roots":true,"elicitation":true,"sampling":true,"apps":true"#;
    let client = Can {
        apps: true,
        form: true,
        sampling: true,
        ..Can::default()
    };
    let told = |protocol: &str, flags: &str, survey: bool, (can, each): (Can, bool)| {
        let now = Now::default();
        let mut link = Link::new(LinkId(1), doc("strict", protocol, flags), survey);
        let apps = Some(r#"{"mimeTypes":["x"]}"#.into());
        link.declare(Declared { can, apps, each });
        link.want(&now);
        // what is said later counts from the next transport on
        link.declare(Declared::default());
        link.handle(LinkInput::Opened, &now);
        declares(&mut link).join(" ")
    };
    let said = |protocol: &str, flags: &str, survey: bool, can: Can| {
        told(protocol, flags, survey, (can, false))
    };
    // where the client works is answered here, so a server of the handshake era may always ask
    assert_eq!(
        said("2025-11-25", ALL, false, client),
        r#"{"elicitation":{"form":{}},"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["x"]}},"roots":{"listChanged":true},"sampling":{}}"#
    );
    assert_eq!(
        said("2026-07-28", ALL, false, client),
        r#"{"elicitation":{"form":{}},"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["x"]}},"sampling":{}}"#
    );
    assert_eq!(said("2026-07-28", "", false, client), "{}");
    assert_eq!(
        said(
            "2025-11-25",
            r#","elicitation":true"#,
            false,
            Can::default()
        ),
        "{}"
    );
    // a client whose next request may say something else: the server may ask what its entry
    // allows, and shows what its client can show
    let each = |protocol: &str, flags: &str, can: Can| told(protocol, flags, false, (can, true));
    assert_eq!(
        each("2025-11-25", ALL, Can::default()),
        r#"{"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true},"sampling":{"context":{},"tools":{}}}"#
    );
    assert_eq!(
        each("2025-11-25", r#","elicitation":true"#, client),
        r#"{"elicitation":{"form":{},"url":{}}}"#
    );
    assert_eq!(each("2025-11-25", "", client), "{}");
    assert_eq!(each("2026-07-28", ALL, Can::default()), "{}");
    // a survey has no client
    assert_eq!(
        said("2026-07-28", ALL, true, Can::default()),
        r#"{"elicitation":{"form":{},"url":{}},"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}},"roots":{},"sampling":{"context":{},"tools":{}}}"#
    );
}

#[test]
fn a_tool_that_this_client_is_not_shown_is_missed_without_a_drift() {
    const SCRIPT: &str = r#"want
        ! open
        opened
        » 1 initialize 2025-11-25
        « 1 result {"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}
        » notifications/initialized
        » 2 tools/list
        « 2 result {"tools":[]}"#;
    let flags = r#","elicitation":true"#;
    let mut link = Link::new(LinkId(1), doc("strict", "2025-11-25", flags), false);
    play(
        &mut link,
        &mut Now::default(),
        &format!("{SCRIPT}\n! ready 2025-11-25"),
    );
    assert_eq!(
        link.lacks(Kind::Tool, "add"),
        Some(vec!["elicitation", "elicitation of the mode `url`"])
    );
    assert_eq!(link.lacks(Kind::Prompt, "add"), None);
    // a client of all that is allowed is shown all that is pinned
    let can = Can {
        form: true,
        url: true,
        ..Can::default()
    };
    let mut link = Link::new(LinkId(1), doc("strict", "2025-11-25", flags), false);
    link.declare(Declared {
        can,
        ..Declared::default()
    });
    play(
        &mut link,
        &mut Now::default(),
        &format!("{SCRIPT}\n! note drift\n! drift: tool `add` was removed\n! close"),
    );
}

#[test]
fn headers_are_told_from_the_lists_that_were_compared_and_from_nothing_else() {
    let tool = |schema: &str| {
        let properties = format!(r#"{{"type":"object","properties":{{"a":{schema}}}}}"#);
        format!(r#"{{"tools":[{{"name":"add","inputSchema":{properties}}}]}}"#)
    };
    let (plain, asks) = (
        tool(r#"{"type":"string"}"#),
        tool(r#"{"type":"string","x-mcp-header":"A"}"#),
    );
    let pinned = |definition: &str| {
        let list: serde_json::Value = serde_json::from_str(definition).unwrap();
        let entry = RawValue::from_string(list["tools"][0].to_string()).unwrap();
        serde_json::to_value(pin::entry(Kind::Tool, &entry).unwrap()).unwrap()
    };
    let open = |mode: &str, pinned: &serde_json::Value| {
        let doc = serde_json::to_value(&*doc(mode, "2026-07-28", "")).unwrap();
        let mut doc = doc;
        doc["transport"] = serde_json::json!({"type": "http", "url": "https://h/"});
        if mode == "off" {
            doc.as_object_mut().unwrap().remove("surface");
        } else {
            doc["surface"]["tools"] = serde_json::json!([pinned]);
        }
        Link::new(
            LinkId(1),
            Arc::new(serde_json::from_value(doc).unwrap()),
            false,
        )
    };
    let told = |mode: &str, pinned: &serde_json::Value, list: &str| {
        let mut link = open(mode, pinned);
        let mut now = Now::default();
        let about =
            r#"« 1 result {"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#;
        let mut said = Vec::new();
        for line in ["want", "opened", about, &format!("« 2 result {list}")] {
            input(&mut link, line, &mut now);
            said.extend(std::iter::from_fn(|| link.poll()).map(|output| render(&output)));
        }
        said.retain(|line| line.starts_with("! headers") || line.starts_with("! drift"));
        said
    };
    for mode in ["strict", "names", "off"] {
        assert_eq!(
            told(mode, &pinned(&plain), &plain),
            ["! headers []"],
            "{mode}"
        );
        assert_eq!(
            told(mode, &pinned(&asks), &asks),
            [r#"! headers ["add"]"#],
            "{mode}"
        );
    }
    let drift = told("strict", &pinned(&plain), &asks);
    assert!(
        matches!(&drift[..], [one] if one.starts_with("! drift")),
        "{drift:?}"
    );
    // what is not what was reviewed is not called, and no header of it is learned
    for mode in ["definitions", "names"] {
        assert_eq!(
            told(mode, &pinned(&plain), &asks),
            ["! headers []"],
            "{mode}"
        );
    }
}
