//! Answers that do not look like innocence: names, times, contents, ends, and what is gone.

use mcpshim::batch::{self, Header, Kind};
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::ids::StreamId;
use mcpshim::spool::Slice;
use serde_json::{Value, json};

use super::collector::{Server, Site, devices, heir, query, read, seal};

/// The last object of an answer.
fn last(server: &Server, verb: &str, words: &[&str]) -> Value {
    let lines = read(server.data(), verb, &[words, &["--json"]].concat());
    lines.ok().json_lines().pop().unwrap()
}

#[test]
fn an_unknown_name_is_an_error_with_the_near_one_and_a_known_one_without_a_record_is_not() {
    let site = Site::new();
    site.org.agent("nightly");
    site.org.republish();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let token = server.data().join("reader.token");
    let by_url = [
        "--url",
        server.url(),
        "--token-file",
        token.to_str().unwrap(),
    ];
    for (words, told) in [
        (["--agent", "cj"], "no record of agent cj; did you mean ci?"),
        (["--agent", "nightyl"], "did you mean nightly?"),
        (["--agent", "payments"], "no record of agent payments"),
        (["--server", "file"], "did you mean files?"),
        (["--tool", "files_raed"], "did you mean files/read?"),
        (["--person", "Ada"], "no record of person Ada"),
        (["--credential", "token"], "no record of credential token"),
        (["--phase", "denials"], "did you mean `denial`?"),
        (["--outcome", "lost"], "there is no outcome"),
    ] {
        for json in [&["--json"][..], &[]] {
            let words = [&words, json].concat();
            let ended = read(server.data(), "query", &words).refused(2, told);
            assert_eq!(ended.stdout, "", "{words:?}");
        }
        server
            .ask("query", &[&words[..], &by_url].concat())
            .refused(2, told);
    }
    let reversed = ["--since", "1h", "--until", "2h"];
    read(server.data(), "query", &reversed).refused(2, "--since is after --until");
    let key = site.org.audit_key();
    let unseal = [
        "--key",
        key.to_str().unwrap(),
        "--reason",
        "x",
        "--agent",
        "cj",
    ];
    read(server.data(), "unseal", &unseal).refused(2, "did you mean ci?");

    // in the registry, and nothing recorded: an empty answer that says so
    let text = read(server.data(), "query", &["--agent", "nightly"])
        .ok()
        .stdout;
    assert!(
        text.contains("agent nightly is in the registry, and there is no record"),
        "{text}"
    );
    let told = last(&server, "query", &["--agent", "nightly"]);
    assert_eq!(
        (&told["matched"], told["notes"].as_array().unwrap().len()),
        (&json!(0), 1)
    );
    // a name that is known, and nothing of it in that time
    let text = read(server.data(), "query", &["--agent", "ci", "--until", "1h"]).ok();
    assert!(text.stdout.contains("no record matches"), "{text:?}");
}

#[test]
fn what_has_no_content_is_counted_and_listed_with_its_reason() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let key = site.org.audit_key();
    let words = ["--key", key.to_str().unwrap(), "--reason", "CASE-1"];
    let whole = last(&server, "unseal", &words);
    assert_eq!(
        (&whole["no_content"], &whole["content"]["sealed"]),
        (&json!(0), &json!(5))
    );

    // the audit key was not valid yet by this device's clock
    let (stream, slices) = site.calls_without_key(2);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let told = last(&server, "unseal", &words);
    assert_eq!(told["no_content"], 4);
    assert_eq!(told["content"], json!({"sealed": 5, "size-no-key": 4}));
    let sentence = "4 of 9 have no content: size only (no audit key was valid)";
    let text = read(server.data(), "unseal", &words).ok().stdout;
    assert!(text.contains(sentence), "{text}");
    let lines = text
        .matches("  no content: size only: no audit key was valid")
        .count();
    assert_eq!(lines, 4, "{text}");
    let log = std::fs::read_to_string(server.data().join("log/admin.jsonl")).unwrap();
    assert!(
        !log.contains(&stream.to_string()),
        "nothing of it was handed out"
    );
    let table = read(server.data(), "query", &[]).ok().stdout;
    assert!(
        table.contains(sentence) && table.contains("size only: no key"),
        "{table}"
    );
    assert_eq!(last(&server, "query", &[])["no_content"], 4);
    // alone, nothing can be opened, and that is no success
    let event = format!("{stream}/10");
    read(
        server.data(),
        "unseal",
        &[&[event.as_str()], &words[..]].concat(),
    )
    .refused(1, "matching payloads is sealed");
}

#[test]
fn a_call_without_an_end_is_marked_and_found() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(1, 1);
    let [.., _, outcome, end] = slices.as_slice() else {
        panic!("{} slices", slices.len())
    };
    let send = |slice: &Slice, kind| {
        let batch = seal(&site.key, stream, slice, kind);
        assert_eq!(server.send(stream, slice.first_seq, &batch).0, 200);
    };
    for slice in &slices[..slices.len() - 2] {
        send(slice, Kind::Following);
    }
    let found = |outcome: &str| server.query(&["--outcome", outcome]).len();
    assert_eq!((found("running"), found("unknown"), found("ok")), (1, 0, 0));
    let table = read(server.data(), "query", &[]).ok().stdout;
    assert!(
        table.contains("allow by tester/files#1; still running"),
        "{table}"
    );
    // its stream ends, and the outcome never came
    send(end, Kind::Gap);
    assert_eq!((found("running"), found("unknown")), (0, 1));
    let intent = &server.query(&["--outcome", "unknown"])[0];
    assert_eq!(
        (&intent["phase"], &intent["outcome"]),
        (&json!("intent"), &json!("unknown"))
    );
    let event = intent["event"].as_str().unwrap();
    let shown = read(server.data(), "show", &[event]).ok().stdout;
    assert!(shown.contains("outcome              unknown"), "{shown}");
    // it comes after all
    send(outcome, Kind::Following);
    assert_eq!((found("running"), found("unknown"), found("ok")), (0, 0, 1));
    assert_eq!(server.query(&["--phase", "intent"])[0].get("outcome"), None);
}

#[test]
fn clocks_that_are_apart_are_marked_and_the_collectors_time_is_asked_for() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    assert_eq!(
        server
            .query(&[])
            .iter()
            .filter(|r| r.get("clock").is_some())
            .count(),
        0
    );
    assert!(
        !read(server.data(), "query", &[])
            .ok()
            .stdout
            .contains("CLOCK")
    );
    let (stream, slices) = site.slices(3, 500);
    let header = Header {
        org: "it.example".parse().unwrap(),
        stream,
        first_seq: slices[0].first_seq,
        last_seq: slices[0].last_seq,
        prev_hash: slices[0].prev_hash,
        last_hash: slices[0].last_hash,
        kind: Kind::Following,
        remaining: 0,
        sent_us: SystemClock::new().now().wall_us - 86_400_000_000,
        installation: site.key.public(),
    };
    let batch = batch::seal(&header, &slices[0].frames, site.key.pair()).unwrap();
    assert_eq!(server.send(stream, 1, &batch).0, 200);
    let marked = server.query(&["--phase", "intent"]);
    let marked: Vec<&Value> = marked.iter().filter_map(|r| r.get("clock")).collect();
    assert_eq!(marked, [&json!("clock 24 h behind"); 2]);
    let table = read(server.data(), "query", &[]).ok().stdout;
    assert!(
        table.contains("TIME (UTC)") && table.contains("clock 24 h behind"),
        "{table}"
    );
    let all = server.query(&[]).len();
    assert_eq!(server.query(&["--received-since", "1h"]).len(), all);
    assert_eq!(
        server
            .query(&["--received-until", "1h", "--agent", "ci"])
            .len(),
        0
    );
    read(server.data(), "query", &["--received-since", "soon"]).refused(2, "RFC 3339");
}

/// Removes a directory of a store and returns how to put it back.
fn taken(data: &std::path::Path, dir: &std::path::Path) -> impl FnOnce() + use<> {
    let (from, to) = (dir.to_owned(), data.with_extension("taken"));
    std::fs::rename(&from, &to).unwrap();
    move || std::fs::rename(to, from).unwrap()
}

#[test]
fn what_vanishes_from_the_collector_is_found_while_anything_names_it() {
    let site = Site::new();
    let server = site.collector();
    let [(first, one), (second, two)] = heir(&site);
    assert_eq!(server.deliver(&site, first, &one).0, 200);
    assert_eq!(server.deliver(&site, second, &two).0, 200);
    let data = server.kill();
    let own = data.join("installations").join(site.key.id().as_str());
    read(&data, "verify", &[]).ok();
    let stream = |id: StreamId| own.join("streams").join(id.to_string());

    // named by the later stream; then the newest one, which only the list names
    let back = taken(&data, &stream(first));
    read(&data, "verify", &[]).refused(1, &format!("{first}/1"));
    back();
    let back = taken(&data, &stream(second));
    read(&data, "verify", &[]).refused(1, &format!("{second}/1"));
    let told = devices(&data);
    assert_eq!(told["lost_streams"], json!([second.to_string()]));
    assert_eq!(told["complete_us"], Value::Null);
    back();

    // the whole installation
    let back = taken(&data, &own);
    read(&data, "verify", &[]).refused(1, "the installation is gone");
    let text = read(&data, "query", &[]).ok().stdout;
    assert!(text.contains("0 of 1 devices"), "{text}");
    let text = read(&data, "devices", &[]).ok().stdout;
    assert!(text.contains("gone: it was enrolled here once"), "{text}");
    back();
    read(&data, "verify", &[]).ok();
    assert!(!query(&data, &[]).is_empty());
}

#[test]
fn a_stream_that_is_gone_is_told_at_the_next_contact() {
    let site = Site::new();
    let server = site.collector();
    let [(first, one), (second, two)] = heir(&site);
    let alerts = || std::fs::read_to_string(server.data().join("log/alerts.jsonl"));
    assert_eq!(server.deliver(&site, second, &two).0, 200);
    let told = alerts().unwrap();
    let named = format!("\"event\":\"{first}/{}\"", one.last_seq);
    assert!(
        told.contains("\"missing\"") && told.contains(&named),
        "{told}"
    );
    // one that has all that is named raises nothing
    let [(first, one), (second, two)] = heir(&site);
    assert_eq!(server.deliver(&site, first, &one).0, 200);
    assert_eq!(server.deliver(&site, second, &two).0, 200);
    assert_eq!(alerts().unwrap().matches("\"missing\"").count(), 1);
}
