//! Laws that hold whatever happens, and that nothing outside the documented edits is lost.

use super::*;
use crate::wire::raw::Object;

type Unstructured<'a> = arbtest::arbitrary::Unstructured<'a>;

/// See [`crate::session::fuzz`] for what is asserted.
#[test]
fn any_interleaving_keeps_the_laws() {
    arbtest::arbtest(|u| {
        let bytes: Vec<u8> = (0..u.int_in_range(0..=1500)?)
            .map(|_| u.arbitrary())
            .collect::<Result<_, _>>()?;
        fuzz::run(&bytes);
        Ok(())
    })
    .size_min(10_000)
    .size_max(20_000)
    .budget_ms(3_000);
}

/// Members with odd spellings, none of them one that an edit may touch.
fn members(u: &mut Unstructured<'_>, prefix: &str) -> arbtest::arbitrary::Result<String> {
    const VALUES: &[&str] = &[
        "12345678901234567890123",
        "1.50",
        "-0",
        "1E+2",
        r#""\u00e9\/\ud83d\ude00""#,
        r#""é""#,
        "null",
        "[ 1,\t{\"a\":[]} ]",
        r#"{"resultType":"x","z":1,"a":2,"_meta":{"progressToken":9}}"#,
        "true",
    ];
    let mut out = String::new();
    for n in 0..u.int_in_range(0..=4)? {
        let blank = u.choose(&["", " "])?;
        out.push_str(&format!(
            "\"{prefix}{n}\"{blank}:{blank}{},",
            u.choose(VALUES)?
        ));
    }
    Ok(out)
}

/// Keys and values in order, but for some keys.
fn kept(text: &str, but: &[&str]) -> Vec<(String, String)> {
    let object = Object::parse(text).unwrap();
    let members = object
        .members()
        .map(|(key, value)| (key.into_owned(), value.to_owned()));
    members
        .filter(|(key, _)| !but.contains(&key.as_str()))
        .collect()
}

#[test]
fn nothing_is_lost_outside_the_edits() {
    let seen = |rig: &Rig, up: bool| {
        let line = rig.seen.iter().rev().find_map(|seen| match seen {
            Seen::Link(line) if up => Some(line.clone()),
            Seen::Client(line) if !up => Some(line.clone()),
            Seen::Append(..) | Seen::Client(_) | Seen::Link(_) => None,
        });
        line.unwrap()
    };
    arbtest::arbtest(|u| {
        let stateless = u.arbitrary()?;
        let server = *u.choose(&["alpha", "beta"])?;
        let mut rig = if stateless {
            Rig::eng()
        } else {
            Rig::handshake()
        };
        let (outer, inner, vendor) = (members(u, "o")?, members(u, "i")?, members(u, "v")?);
        let arguments = format!("{{{}\"last\":0}}", members(u, "a")?);
        let era = META
            .strip_prefix("\"_meta\":{")
            .unwrap()
            .strip_suffix('}')
            .unwrap();
        let meta = if stateless {
            format!("{vendor}{era}")
        } else {
            format!("{vendor}\"k\":1")
        };
        let request = format!(
            r#"{{{outer}"jsonrpc":"2.0","id":"x","method":"tools/call","params":{{"name":"{server}_echo",{inner}"arguments":{arguments},"_meta":{{{meta}}}}}}}"#
        );
        rig.play(&format!("> {request}"));
        let up = seen(&rig, true);
        assert_eq!(
            kept(&request, &["id", "params"]),
            kept(&up, &["id", "params"])
        );
        let (before, after) = (
            Object::parse(&request).unwrap(),
            Object::parse(&up).unwrap(),
        );
        let params = |object: &Object<'_>| object.get("params").unwrap().to_owned();
        let (before, after) = (params(&before), params(&after));
        assert_eq!(
            kept(&before, &["name", "_meta"]),
            kept(&after, &["name", "_meta"])
        );
        let meta = |text: &str| {
            Object::parse(text)
                .unwrap()
                .get("_meta")
                .unwrap()
                .to_owned()
        };
        let ours = [
            crate::wire::era::META_PROTOCOL,
            crate::wire::era::META_CLIENT_INFO,
            crate::wire::era::META_CAPABILITIES,
        ];
        assert_eq!(kept(&meta(&before), &ours), kept(&meta(&after), &ours));
        // the record has the client's own bytes
        let intent = rig.seen.iter().rev().find_map(|seen| match seen {
            Seen::Append(Body::Intent(facts)) => Some(facts.content.0.clone()),
            Seen::Append(..) | Seen::Client(_) | Seen::Link(_) => None,
        });
        assert_eq!(intent.unwrap(), arguments.as_bytes());

        let id = Object::parse(&up).unwrap().get("id").unwrap().to_owned();
        let result = format!("{{{}\"content\":[]}}", members(u, "r")?);
        let outer = members(u, "o")?;
        let answer = format!(r#"{{{outer}"result":{result},"jsonrpc":"2.0","id":{id}}}"#);
        rig.play(&format!("«{server} {answer}"));
        let down = seen(&rig, false);
        assert_eq!(
            kept(&answer, &["id", "result"]),
            kept(&down, &["id", "result"])
        );
        let got = Object::parse(&down)
            .unwrap()
            .get("result")
            .unwrap()
            .to_owned();
        let eras = ["resultType", "_meta"];
        assert_eq!(kept(&result, &eras), kept(&got, &eras));
        assert_eq!(Object::parse(&down).unwrap().get("id"), Some("\"x\""));
        let outcome = rig.seen.iter().rev().find_map(|seen| match seen {
            Seen::Append(Body::Outcome { content, .. }) => Some(content.0.clone()),
            Seen::Append(..) | Seen::Client(_) | Seen::Link(_) => None,
        });
        assert_eq!(outcome.unwrap(), result.as_bytes());
        Ok(())
    });
}

#[test]
fn a_stranger_cannot_make_the_session_grow() {
    let mut rig = Rig::handshake();
    for n in 0..3000 {
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":{n},"method":"tools/call","params":{{"name":"stranger{n}"}}}}"#
        ));
        rig.seen.clear();
    }
    assert!(rig.contexts.len() < crate::limits::STRANGE_CONTEXTS + 20);
}
