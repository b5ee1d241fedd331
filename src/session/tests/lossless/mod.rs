//! What leaves is what entered, but for the edits of `docs/formats/edits.md`.
//!
//! Strange messages of every kind go through a session with one client and one upstream, in all
//! four pairs of eras; [`oracle`] makes the edits of the page on each and compares every byte.

mod odd;
mod oracle;

use std::cell::RefCell;
use std::collections::BTreeSet;

use self::oracle::{OWN, Pair};
use super::laws::Unstructured;
use super::*;
use crate::limits;
use arbtest::arbitrary::Result;
use serde_json::value::RawValue;

/// What stands in the page, to see that each edit was made.
const PAGE: &str = include_str!("../../../../docs/formats/edits.md");

const PAIRS: [Pair; 4] = [
    Pair {
        client: false,
        upstream: false,
    },
    Pair {
        client: false,
        upstream: true,
    },
    Pair {
        client: true,
        upstream: false,
    },
    Pair {
        client: true,
        upstream: true,
    },
];

/// What is asked of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    CompletePrompt,
    CompleteResource,
    Prompt,
    Read,
    Tool,
}

/// One session, and what its messages are held to.
struct Wire<'m> {
    rig: Rig,
    pair: Pair,
    /// The upstream's key.
    key: &'static str,
    /// What a handshake client introduced itself as, and its level.
    info: String,
    capabilities: String,
    /// A handshake client that can be asked everything.
    asks: bool,
    level: Option<&'static str>,
    made: &'m mut BTreeSet<u32>,
}

thread_local! {
    // made once: a session is much quicker than it is
    static ENG: Arc<Snapshot> = {
        let mut registry = registry();
        for key in ["alpha", "beta"] {
            let mut server = (*registry.servers[&fixture::key(key)]).clone();
            (server.elicitation, server.sampling) = (true, true);
            (server.roots, server.apps) = (true, true);
            // one that both have
            let surface = server.surface.as_mut().unwrap();
            let mut shared = surface.resources[0].clone();
            shared.name = oracle::SHARED.parse().unwrap();
            let definition = format!(r#"{{"name":"x","uri":"{}"}}"#, oracle::SHARED);
            shared.definition = RawValue::from_string(definition).unwrap();
            surface.resources.push(shared);
            registry.put(server);
            let rule = registry.rule(None);
            let table = registry.table("eng", key);
            table.resources.push(("shared://*".to_owned(), rule));
        }
        snapshot_of(1, &registry, Some(ann(&["eng"])))
    };
    static MADE: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
}

fn plain(name: &str, value: impl Into<String>) -> (String, String) {
    (format!("\"{name}\""), value.into())
}

impl<'m> Wire<'m> {
    fn open(u: &mut Unstructured<'_>, pair: Pair, made: &'m mut BTreeSet<u32>) -> Result<Self> {
        let mut rig = Rig::new(Some(ENG.with(Arc::clone)));
        let mut info = odd::unknown(u, "c", 1)?;
        info.extend([plain("name", "\"old\""), plain("version", "\"3\"")]);
        let mut wire = Self {
            info: odd::object(u, info)?,
            capabilities: "{}".to_owned(),
            asks: false,
            level: None,
            key: if pair.upstream { "beta" } else { "alpha" },
            pair,
            made,
            rig: {
                rig.quiet = true;
                rig
            },
        };
        if !pair.client {
            let (mut declared, mut carried) = (vec![r#""tasks":{}"#], Vec::new());
            wire.asks = u.arbitrary()?;
            if wire.asks {
                declared.push(r#""elicitation":{"url":{},"form":{ }},"roots":{},"sampling":{}"#);
                carried.push(r#""roots":{},"sampling":{},"elicitation":{"form":{},"url":{}}"#);
            }
            if u.arbitrary()? {
                declared
                    .push(r#""extensions":{ "x":{},"io.modelcontextprotocol/ui":{ "a":1.50 }}"#);
                carried.push(r#""extensions":{"io.modelcontextprotocol/ui":{ "a":1.50 }}"#);
            }
            let declared = format!("{{{}}}", declared.join(","));
            wire.capabilities = format!("{{{}}}", carried.join(","));
            let params = format!(
                r#"{{"protocolVersion":"2025-11-25","capabilities":{declared},"clientInfo":{}}}"#,
                wire.info
            );
            wire.says(&format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#
            ));
            wire.says(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
            if u.ratio(1, 3)? {
                wire.level = Some("\"debug\"");
                wire.says(r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"debug"}}"#);
            }
        }
        Ok(wire)
    }

    /// The client writes a line; gives what reached the upstream.
    fn says(&mut self, line: &str) -> Vec<String> {
        // an error -32020 before made the link read its lists again
        self.rig.play("+250");
        self.rig.seen.clear();
        self.rig.handle(Input::ClientLine(line.as_bytes()));
        self.seen(true)
    }

    /// The upstream writes a line; gives what reached the client.
    fn hears(&mut self, line: &str) -> Vec<String> {
        self.rig.seen.clear();
        let link = self.rig.link(self.key);
        self.rig.handle(Input::LinkLine {
            link,
            place: Place::Only,
            line: line.as_bytes(),
        });
        self.seen(false)
    }

    fn seen(&self, up: bool) -> Vec<String> {
        let line = |seen: &Seen| match seen {
            // mcpshim's own
            Seen::Link(line) if line.contains(r#","method":"logging/setLevel","params":{"#) => None,
            Seen::Link(line) if up => Some(line.clone()),
            Seen::Client(line) if !up => Some(line.clone()),
            Seen::Append(..) | Seen::Client(_) | Seen::Link(_) => None,
        };
        self.rig.seen.iter().filter_map(line).collect()
    }

    /// What the last intent, or outcome, holds.
    fn recorded(&self, intent: bool) -> Option<String> {
        let content = |seen: &Seen| match seen {
            Seen::Append(Body::Intent(facts)) if intent => Some(facts.content.0.clone()),
            Seen::Append(Body::Outcome { content, .. }) if !intent => Some(content.0.clone()),
            Seen::Append(..) | Seen::Client(_) | Seen::Link(_) => None,
        };
        let content = self.rig.seen.iter().rev().find_map(content)?;
        Some(String::from_utf8(content.to_vec()).unwrap())
    }

    /// `_meta` of a request of the client's, where it has one; and its progress token.
    fn meta(&self, u: &mut Unstructured<'_>) -> Result<(Option<String>, Option<String>)> {
        let mut members = odd::unknown(u, "m", 2)?;
        let mut token = None;
        if u.ratio(2, 3)? {
            let one = match u.int_in_range(0..=2)? {
                0 => odd::string(u, true)?,
                1 => "12345678901234567890123".to_owned(),
                _ => odd::number(u)?,
            };
            members.push((odd::spelt(u, "progressToken")?, one.clone()));
            token = Some(one);
        }
        for key in ["traceparent", "claudecode/toolUseId"] {
            if u.ratio(1, 4)? {
                members.push(plain(key, odd::string(u, true)?));
            }
        }
        if self.pair.client {
            members.push((odd::spelt(u, OWN[0])?, "\"2026-07-28\"".to_owned()));
            let mut declared = odd::unknown(u, "k", 2)?;
            declared.push(plain("elicitation", "{ }"));
            if u.arbitrary()? {
                let mut extensions = odd::unknown(u, "e", 2)?;
                if u.arbitrary()? {
                    extensions.push((
                        odd::spelt(u, "io.modelcontextprotocol/ui")?,
                        odd::value(u, 1)?,
                    ));
                }
                declared.push(plain("extensions", odd::object(u, extensions)?));
            }
            members.push((odd::spelt(u, OWN[2])?, odd::object(u, declared)?));
        }
        // keys of the stateless era from a client of the other: no claim, as the first is missing
        for (key, value) in [(OWN[1], r#"{ "name":"odd" }"#), (OWN[3], "\"debug\"")] {
            if u.ratio(1, 3)? {
                members.push((odd::spelt(u, key)?, value.to_owned()));
            }
        }
        if members.is_empty() && !u.ratio(1, 3)? {
            return Ok((None, None));
        }
        Ok((Some(odd::object(u, members)?), token))
    }

    /// One request, and its id and progress tokens.
    fn request(
        &self,
        u: &mut Unstructured<'_>,
        asked: Asked,
    ) -> Result<(String, String, Option<String>)> {
        let key = self.key;
        let mut params = odd::unknown(u, "p", 2)?;
        let named = |u: &mut Unstructured<'_>, name: &str| -> Result<(String, String)> {
            Ok((odd::spelt(u, "name")?, odd::spelt(u, name)?))
        };
        let method = match asked {
            Asked::CompletePrompt | Asked::CompleteResource => {
                let mut reference = odd::unknown(u, "r", 2)?;
                if asked == Asked::CompletePrompt {
                    reference.push(plain("type", odd::spelt(u, "ref/prompt")?));
                    reference.push(named(u, &format!("{key}_greet"))?);
                } else {
                    reference.push(plain("type", "\"ref/resource\""));
                    let uri = format!("{key}://doc/{{id}}");
                    reference.push((odd::spelt(u, "uri")?, odd::spelt(u, &uri)?));
                    // no name of ours: it stays
                    reference.push(plain("name", "\"alpha_greet\""));
                }
                params.push((odd::spelt(u, "ref")?, odd::object(u, reference)?));
                let mut argument = odd::unknown(u, "a", 2)?;
                argument.push(plain("name", "\"id\""));
                params.push(plain("argument", odd::object(u, argument)?));
                "completion/complete"
            }
            Asked::Prompt => {
                params.push(named(u, &format!("{key}_greet"))?);
                params.push(plain("arguments", r#"{ "to":"\u00e9" }"#));
                "prompts/get"
            }
            Asked::Read => {
                let uri = match u.ratio(1, 3)? {
                    true if self.pair.upstream => oracle::SHOWN.to_owned(),
                    true => oracle::SHARED.to_owned(),
                    false => format!("{key}://readme"),
                };
                let uri = odd::spelt(u, &uri)?;
                params.push((odd::spelt(u, "uri")?, uri));
                "resources/read"
            }
            Asked::Tool => {
                params.push(named(u, &format!("{key}_echo"))?);
                let mut arguments = odd::unknown(u, "a", 4)?;
                if u.ratio(1, 10)? {
                    // as deep as the bound allows
                    let levels = limits::JSON_DEPTH - 3;
                    let deep = format!("{}1e2{}", "[".repeat(levels), "]".repeat(levels));
                    arguments.push(plain("deep", deep));
                }
                params.push((odd::spelt(u, "arguments")?, odd::object(u, arguments)?));
                if u.ratio(1, 4)? {
                    params.push(plain("task", r#"{ "ttl":60000 }"#));
                }
                "tools/call"
            }
        };
        let (meta, progress) = self.meta(u)?;
        if let Some(meta) = meta {
            params.push((odd::spelt(u, "_meta")?, meta));
        }
        let id = match u.int_in_range(0..=2)? {
            0 => odd::string(u, true)?,
            1 => "-12345678901234567890123".to_owned(),
            _ => u.int_in_range(2..=9000)?.to_string(),
        };
        let mut members = odd::unknown(u, "o", 2)?;
        members.extend([
            (odd::spelt(u, "jsonrpc")?, "\"2.0\"".to_owned()),
            (odd::spelt(u, "id")?, id.clone()),
            (odd::spelt(u, "method")?, odd::spelt(u, method)?),
            (odd::spelt(u, "params")?, odd::object(u, params)?),
        ]);
        Ok((odd::object(u, members)?, id, progress))
    }

    /// A result or an error of the upstream's.
    fn answer(&self, u: &mut Unstructured<'_>, asked: Asked, id: &str) -> Result<String> {
        let mut members = odd::unknown(u, "o", 2)?;
        // as some servers write the number they were given
        let id = match u.int_in_range(0..=9)? {
            0 => format!("\"{id}\""),
            1 => format!("{id}.0"),
            _ => id.to_owned(),
        };
        members.extend([
            (odd::spelt(u, "jsonrpc")?, "\"2.0\"".to_owned()),
            (odd::spelt(u, "id")?, id),
        ]);
        let fails = u.ratio(1, 3)?;
        if u.ratio(1, 10)? {
            let void = if fails { "result" } else { "error" };
            members.push((odd::spelt(u, void)?, "null".to_owned()));
        }
        if fails {
            let mut error = odd::unknown(u, "e", 2)?;
            let codes = [
                -32002, -32020, -32021, -32022, -32042, -32602, -32603, -1, 0, 4711,
            ];
            error.extend([
                (odd::spelt(u, "code")?, u.choose(&codes)?.to_string()),
                (odd::spelt(u, "message")?, odd::string(u, false)?),
            ]);
            if u.ratio(1, 3)? {
                error.push((odd::spelt(u, "data")?, odd::value(u, 3)?));
            } else if u.arbitrary()? {
                let mut entries = Vec::new();
                for n in 0..u.int_in_range(1..=2)? {
                    let mut entry = odd::unknown(u, "u", 2)?;
                    entry.extend([
                        plain("mode", "\"url\""),
                        plain("elicitationId", format!("\"e{n}\"")),
                        (
                            odd::spelt(u, "url")?,
                            odd::spelt(u, "https://peer.example/?a=1")?,
                        ),
                        (odd::spelt(u, "message")?, odd::string(u, false)?),
                    ]);
                    entries.push(odd::object(u, entry)?);
                }
                let mut data = odd::unknown(u, "d", 2)?;
                data.push((
                    odd::spelt(u, "elicitations")?,
                    format!("[ {}]", entries.join(" ,")),
                ));
                error.push((odd::spelt(u, "data")?, odd::object(u, data)?));
            }
            members.push((odd::spelt(u, "error")?, odd::object(u, error)?));
            return odd::object(u, members);
        }
        let mut result = odd::unknown(u, "r", 4)?;
        let uri = *u.choose(&[oracle::SHARED, "beta://readme", oracle::SHOWN])?;
        let link = format!(
            r#"{{"uri" : {},"type":{}}}"#,
            odd::spelt(u, uri)?,
            odd::spelt(u, "resource_link")?
        );
        let inside = format!(r#"{{"type":"resource" ,"resource":{{"x":1.0, "uri":"{uri}"}}}}"#);
        match asked {
            Asked::Read => result.push(plain("contents", format!("[ {link} ,{{}},{inside}]"))),
            Asked::Prompt => {
                let messages = format!(r#"[{{"content":{link}}}, {{"content":[{inside},7]}}]"#);
                result.push((odd::spelt(u, "messages")?, messages));
            }
            Asked::CompletePrompt | Asked::CompleteResource | Asked::Tool => {}
        }
        if asked == Asked::Tool && u.ratio(2, 3)? {
            let mut block = odd::unknown(u, "b", 2)?;
            block.push(plain("type", odd::string(u, true)?));
            let block = odd::object(u, block)?;
            result.push(plain(
                "content",
                format!("[{block} ,{{\"type\":\"video\"}}, {link},{inside}]"),
            ));
            result.push(plain("structuredContent", odd::value(u, 3)?));
            if u.ratio(1, 4)? {
                result.push(plain("isError", "true"));
            }
        }
        let kinds: &[&str] = match (self.pair.upstream, self.pair.client) {
            (true, _) => &["complete", "complete", "complete", "no-such-type"],
            (false, _) => &["complete"],
        };
        if u.ratio(1, if self.pair.upstream { 1 } else { 8 })? {
            let kind = *u.choose(kinds)?;
            result.push((odd::spelt(u, "resultType")?, odd::spelt(u, kind)?));
        }
        if u.arbitrary()? {
            let ttl =
                (*u.choose(&["0", "30000", "30001", "1e9", "-1", "null", "\"7\""])?).to_owned();
            result.push((odd::spelt(u, "ttlMs")?, ttl));
        }
        if u.arbitrary()? {
            let scope = (*u.choose(&["\"public\"", "\"private\"", "7"])?).to_owned();
            result.push((odd::spelt(u, "cacheScope")?, scope));
        }
        match u.int_in_range(0..=5)? {
            0..=2 => {
                let mut meta = odd::unknown(u, "m", 2)?;
                if u.ratio(1, 3)? {
                    let name = "io.modelcontextprotocol/serverInfo";
                    meta.push((odd::spelt(u, name)?, odd::value(u, 1)?));
                }
                result.push((odd::spelt(u, "_meta")?, odd::object(u, meta)?));
            }
            3 => result.push(plain("_meta", "null")),
            _ => {}
        }
        members.push((odd::spelt(u, "result")?, odd::object(u, result)?));
        odd::object(u, members)
    }

    /// A request goes up, progress, a log message and the answer come down.
    fn call(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let kinds = [
            Asked::Tool,
            Asked::Tool,
            Asked::Prompt,
            Asked::Read,
            Asked::CompletePrompt,
            Asked::CompleteResource,
        ];
        let asked = *u.choose(&kinds)?;
        let (request, id, progress) = self.request(u, asked)?;
        let up = self.says(&request);
        let [up] = &up[..] else {
            panic!(
                "{request}
became {up:?}"
            );
        };
        let number = oracle::Expected::of(up, self.made).get(&["id"]).unwrap();
        assert!(number.bytes().all(|digit| digit.is_ascii_digit()), "{up}");
        let own: Option<(&[&str], &str)> = match asked {
            Asked::CompletePrompt => Some((&["params", "ref", "name"], "greet")),
            Asked::Prompt => Some((&["params", "name"], "greet")),
            Asked::Tool => Some((&["params", "name"], "echo")),
            Asked::CompleteResource | Asked::Read => None,
        };
        let introduction = (self.info.as_str(), self.capabilities.as_str(), self.level);
        let expected = oracle::request(&request, self.pair, &number, own, introduction, self.made);
        assert_eq!(
            expected, *up,
            "\nthe request was {request}\n{:?}",
            self.pair
        );
        let inner: &[&str] = match asked {
            Asked::Tool | Asked::Prompt => &["params", "arguments"],
            Asked::Read => &["params", "uri"],
            Asked::CompletePrompt | Asked::CompleteResource => &["params", "argument"],
        };
        let kept = oracle::kept(&request, inner, self.made);
        assert_eq!(
            self.recorded(true),
            kept,
            "the record has the client's own bytes"
        );
        if let Some(token) = progress {
            self.progresses(u, &number, &token)?;
        }
        self.logs(u)?;
        let mut number = number;
        if self.asks && !self.pair.client {
            if !self.pair.upstream {
                self.asks(u)?;
            } else if matches!(asked, Asked::Prompt | Asked::Read | Asked::Tool) {
                let mut sent = up.clone();
                for _ in 0..u.int_in_range(0..=2)? {
                    sent = self.drives(u, &sent)?;
                }
                number = oracle::Expected::of(&sent, self.made).get(&["id"]).unwrap();
            }
        }
        let answer = self.answer(u, asked, &number)?;
        let down = self.hears(&answer);
        let [down] = &down[..] else {
            panic!(
                "{answer}
became {down:?}"
            );
        };
        let cacheable = asked == Asked::Read;
        match oracle::answer(&answer, self.pair, &id, cacheable, self.asks, self.made) {
            Some(expected) => {
                assert_eq!(
                    expected, *down,
                    "\nthe answer was {answer}\n{:?}",
                    self.pair
                );
            }
            None => {
                let down = oracle::Expected::of(down, self.made);
                assert_eq!(down.get(&["id"]).as_ref(), Some(&id));
                let failed = match asked {
                    Asked::Tool => down.get(&["result", "isError"]) == Some("true".to_owned()),
                    _ => down.get(&["error", "code"]) == Some("-32603".to_owned()),
                };
                assert!(failed, "{answer}");
            }
        }
        let of_answer = oracle::Expected::of(&answer, self.made);
        let said = |member: &str| of_answer.get(&[member]).filter(|text| text != "null");
        let kept = said("result").or_else(|| said("error"));
        assert_eq!(
            self.recorded(false),
            kept,
            "the record has the server's own bytes"
        );
        Ok(())
    }

    fn progresses(&mut self, u: &mut Unstructured<'_>, number: &str, token: &str) -> Result<()> {
        let mut params = odd::unknown(u, "p", 2)?;
        params.extend([
            (odd::spelt(u, "progressToken")?, number.to_owned()),
            plain("progress", odd::number(u)?),
        ]);
        let line = self.notification(u, "notifications/progress", params)?;
        let expected = oracle::progress(&line, token, self.made);
        assert_eq!(self.hears(&line), [expected], "{line}");
        Ok(())
    }

    /// The params of something that a server asks of a person or a model; and its method.
    fn wanted(&self, u: &mut Unstructured<'_>) -> Result<(odd::Members, &'static str)> {
        let mut params = odd::unknown(u, "q", 3)?;
        let message = (odd::spelt(u, "message")?, odd::string(u, false)?);
        let method = match u.int_in_range(0..=2)? {
            0 => {
                if u.arbitrary()? {
                    params.push((odd::spelt(u, "mode")?, odd::spelt(u, "form")?));
                }
                let schema = match u.int_in_range(0..=2)? {
                    0 => r#"{"title":"\u202eA 👩‍👩‍👧"}"#.to_owned(),
                    // what hides where it cannot be shown is not asked
                    _ => Some(odd::value(u, 3)?)
                        .filter(|value| odd::hides_nothing(value))
                        .unwrap_or_else(|| "{}".to_owned()),
                };
                params.push((odd::spelt(u, "requestedSchema")?, schema));
                params.push(message);
                "elicitation/create"
            }
            1 => {
                params.extend([
                    plain("mode", odd::spelt(u, "url")?),
                    (
                        odd::spelt(u, "url")?,
                        odd::spelt(u, "https://peer.example/?a=1")?,
                    ),
                    message,
                ]);
                if !self.pair.upstream || u.arbitrary()? {
                    params.push((odd::spelt(u, "elicitationId")?, odd::spelt(u, "e1")?));
                }
                "elicitation/create"
            }
            _ => {
                params.extend([
                    (
                        odd::spelt(u, "messages")?,
                        format!("[{}]", odd::value(u, 3)?),
                    ),
                    plain("maxTokens", odd::number(u)?),
                    message,
                ]);
                "sampling/createMessage"
            }
        };
        if u.ratio(1, 3)? {
            params.push((odd::spelt(u, "task")?, odd::value(u, 1)?));
        }
        if u.ratio(1, 2)? {
            let mut meta = odd::unknown(u, "m", 2)?;
            meta.push((odd::spelt(u, "progressToken")?, odd::string(u, true)?));
            params.push((odd::spelt(u, "_meta")?, odd::object(u, meta)?));
        }
        Ok((params, method))
    }

    /// What the client answers to a question: a result, or where it may be one an error.
    fn answered(&self, u: &mut Unstructured<'_>, number: &str, error: bool) -> Result<String> {
        let mut members = odd::unknown(u, "o", 2)?;
        let id = odd::spelt(u, &format!("mcpshim-{number}"))?;
        members.extend([
            (odd::spelt(u, "jsonrpc")?, "\"2.0\"".to_owned()),
            (odd::spelt(u, "id")?, id),
        ]);
        let mut body = odd::unknown(u, "a", 3)?;
        if error && u.ratio(1, 4)? {
            body.extend([
                plain("code", "-1"),
                (odd::spelt(u, "message")?, odd::string(u, false)?),
                plain("data", odd::value(u, 2)?),
            ]);
            members.push((odd::spelt(u, "error")?, odd::object(u, body)?));
        } else {
            body.extend([
                (odd::spelt(u, "action")?, odd::spelt(u, "accept")?),
                (odd::spelt(u, "content")?, odd::value(u, 3)?),
            ]);
            members.push((odd::spelt(u, "result")?, odd::object(u, body)?));
        }
        odd::object(u, members)
    }

    /// A handshake server asks a handshake client; progress and the answer go back.
    fn asks(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (params, method) = self.wanted(u)?;
        let token = match u.arbitrary()? {
            true => odd::string(u, false)?,
            false => "-12345678901234567890123".to_owned(),
        };
        let params = odd::object(u, params)?;
        let mut members = odd::unknown(u, "o", 2)?;
        members.extend([
            (odd::spelt(u, "jsonrpc")?, "\"2.0\"".to_owned()),
            (odd::spelt(u, "id")?, token.clone()),
            (odd::spelt(u, "method")?, odd::spelt(u, method)?),
            (odd::spelt(u, "params")?, params.clone()),
        ]);
        let question = odd::object(u, members)?;
        let asked = self.hears(&question);
        let [asked] = &asked[..] else {
            panic!("{question}\nbecame {asked:?}, and {:?}", self.seen(true));
        };
        let number = question_of(asked, self.made);
        let whole = ["params"];
        let side = (self.key, false);
        let expected = oracle::question(&question, side, &number, &whole, None, self.made);
        assert_eq!(expected, *asked, "\nthe question was {question}");
        assert_eq!(self.recorded(true), Some(params));
        let of = oracle::Expected::of(&question, self.made);
        if let Some(token) = of.get(&["params", "_meta", "progressToken"]) {
            let mut params = odd::unknown(u, "p", 2)?;
            params.push((odd::spelt(u, "progressToken")?, number.clone()));
            let progress = odd::number(u)?;
            params.push((odd::spelt(u, "progress")?, progress.clone()));
            let line = self.notification(u, "notifications/progress", params)?;
            let expected = oracle::counted(&token, &progress, self.made);
            assert_eq!(self.says(&line), Vec::from_iter(expected), "{line}");
        }
        let answer = self.answered(u, &number, true)?;
        let expected = oracle::to_server(&answer, 32, &["id"], &token, self.made);
        assert_eq!(self.says(&answer), [expected], "{answer}");
        let result = oracle::kept(&answer, &["result"], self.made);
        let kept = result.or_else(|| oracle::kept(&answer, &["error"], self.made));
        assert_eq!(self.recorded(false), kept);
        Ok(())
    }

    /// A stateless server wants input of a handshake client: it is asked, and the request of
    /// before is sent again.
    fn drives(&mut self, u: &mut Unstructured<'_>, sent: &str) -> Result<String> {
        let number = oracle::Expected::of(sent, self.made).get(&["id"]).unwrap();
        let mut wanted = Vec::new();
        for n in 0..u.int_in_range(0..=2)? {
            let (params, method) = self.wanted(u)?;
            let name = format!("{}{n}", u.choose(&["who", "é\u{2028}", "a.b/c", ""])?);
            wanted.push((name, odd::object(u, params)?, method));
        }
        let mut requests = Vec::new();
        for (name, params, method) in &wanted {
            let mut members = odd::unknown(u, "r", 2)?;
            members.push((odd::spelt(u, "method")?, odd::spelt(u, method)?));
            members.push((odd::spelt(u, "params")?, params.clone()));
            requests.push(format!("\"{name}\":{}", odd::object(u, members)?));
        }
        let mut result = odd::unknown(u, "r", 2)?;
        result.push(plain("resultType", "\"input_required\""));
        result.push((
            odd::spelt(u, "inputRequests")?,
            format!("{{ {}}}", requests.join(" ,")),
        ));
        let mut state = None;
        if wanted.is_empty() || u.arbitrary()? {
            state = Some(odd::string(u, false)?);
            result.push((odd::spelt(u, "requestState")?, state.clone().unwrap()));
        }
        let result = odd::object(u, result)?;
        let line = format!(r#"{{"jsonrpc":"2.0","id":{number},"result":{result}}}"#);
        let asked = self.hears(&line);
        assert_eq!(asked.len(), wanted.len(), "{line}");
        let first = |seen: &Seen| match seen {
            Seen::Append(Body::Outcome { content, .. }) => Some(content.0.clone()),
            Seen::Append(..) | Seen::Client(_) | Seen::Link(_) => None,
        };
        let outcome = self.rig.seen.iter().find_map(first).unwrap();
        assert_eq!(outcome, result.as_bytes());
        let mut answers = Vec::new();
        let mut up = Vec::new();
        for ((name, params, method), asked) in wanted.iter().zip(&asked) {
            let number = question_of(asked, self.made);
            let of = oracle::Expected::of(asked, self.made);
            let id = of
                .text(&["params", "mode"])
                .filter(|mode| mode == "url")
                .map(|_| {
                    let id = of.get(&["params", "elicitationId"]).unwrap();
                    let plain = id.trim_matches('"');
                    let parsed: uuid::Uuid = plain.parse().unwrap();
                    assert_eq!(parsed.to_string(), plain);
                    id
                });
            let side = (self.key, true);
            let params = oracle::question(params, side, &number, &[], id.as_deref(), self.made);
            let expected = format!(
                r#"{{"jsonrpc":"2.0","id":"mcpshim-{number}","method":"{method}","params":{params}}}"#
            );
            assert_eq!(expected, *asked);
            let answer = self.answered(u, &number, false)?;
            up = self.says(&answer);
            let result = oracle::Expected::of(&answer, self.made)
                .get(&["result"])
                .unwrap();
            answers.push((name.clone(), result));
        }
        if wanted.is_empty() {
            // the server wants nothing but another try
            self.rig.seen.clear();
            self.rig.now.mono_us += limits::ROUND_PAUSE_MS * 1000;
            self.rig.handle(Input::Wake);
            up = self.seen(true);
        }
        let [up] = &up[..] else {
            panic!("{line}\nbecame {up:?}");
        };
        let id = oracle::Expected::of(up, self.made).get(&["id"]).unwrap();
        let expected = oracle::again(sent, &id, &answers, state.as_deref(), self.made);
        assert_eq!(expected, *up, "\nbefore it was {sent}");
        let params = oracle::Expected::of(up, self.made).get(&["params"]);
        assert_eq!(self.recorded(true), params);
        Ok(up.clone())
    }

    /// Passes under the server's key, or not at all.
    fn logs(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let mut params = odd::unknown(u, "p", 2)?;
        params.extend([
            plain("level", "\"error\""),
            plain("data", odd::value(u, 3)?),
        ]);
        if u.arbitrary()? {
            params.push((odd::spelt(u, "logger")?, odd::value(u, 1)?));
        }
        let line = self.notification(u, "notifications/message", params)?;
        let heard = self.hears(&line);
        if !self.pair.client || !heard.is_empty() {
            assert_eq!(heard, [oracle::logged(&line, self.key, self.made)]);
        }
        Ok(())
    }

    fn notification(
        &self,
        u: &mut Unstructured<'_>,
        method: &str,
        params: odd::Members,
    ) -> Result<String> {
        let mut members = odd::unknown(u, "o", 2)?;
        members.extend([
            (odd::spelt(u, "jsonrpc")?, "\"2.0\"".to_owned()),
            (odd::spelt(u, "method")?, odd::spelt(u, method)?),
            (odd::spelt(u, "params")?, odd::object(u, params)?),
        ]);
        odd::object(u, members)
    }

    /// A task begins, is asked for and tells of itself.
    fn tasks(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let extension = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
        let meta = format!(r#"{{"{}":"2026-07-28","{}":{extension}}}"#, OWN[0], OWN[2]);
        let called = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"beta_echo","_meta":{meta}}}}}"#
        );
        let up = self.says(&called);
        let number = oracle::Expected::of(&up[0], self.made)
            .get(&["id"])
            .unwrap();
        let own = format!("\"t{}", &odd::string(u, false)?[1..]);
        let text: String = serde_json::from_str(&own).unwrap();
        let shown = serde_json::to_string(&format!("beta.{text}")).unwrap();
        let answered = |u: &mut Unstructured<'_>, kind: &str, number: &str| -> Result<String> {
            let mut result = odd::unknown(u, "t", 3)?;
            result.extend([
                plain("resultType", format!("\"{kind}\"")),
                (odd::spelt(u, "taskId")?, own.clone()),
                plain("status", "\"working\""),
            ]);
            let result = odd::object(u, result)?;
            Ok(format!(
                r#"{{"jsonrpc":"2.0","id":{number},"result":{result}}}"#
            ))
        };
        let answer = answered(u, "task", &number)?;
        let expected = oracle::task(&answer, 25, "result", &shown, self.made);
        let expected = expected.replacen(&format!("\"id\":{number}"), "\"id\":1", 1);
        assert_eq!(self.hears(&answer), [expected], "{answer}");
        let method = *u.choose(&["tasks/get", "tasks/update", "tasks/cancel"])?;
        let mut params = odd::unknown(u, "p", 3)?;
        params.extend([
            (odd::spelt(u, "taskId")?, shown.clone()),
            plain("_meta", meta.clone()),
        ]);
        if method == "tasks/update" {
            params.push(plain("inputResponses", r#"{ "a":{"action":"accept"}}"#));
        }
        let mut members = odd::unknown(u, "o", 2)?;
        members.extend([
            plain("jsonrpc", "\"2.0\""),
            (odd::spelt(u, "id")?, "\"t\"".to_owned()),
            (odd::spelt(u, "method")?, odd::spelt(u, method)?),
            (odd::spelt(u, "params")?, odd::object(u, params)?),
        ]);
        let request = odd::object(u, members)?;
        let up = self.says(&request);
        let [up] = &up[..] else {
            panic!("{request}\nbecame {up:?}");
        };
        let number = oracle::Expected::of(up, self.made).get(&["id"]).unwrap();
        let plainly = serde_json::to_string(&text).unwrap();
        let expected = oracle::task(&request, 24, "params", &plainly, self.made);
        let expected = oracle::to_server(&expected, 1, &["id"], &number, self.made);
        assert_eq!(expected, *up, "{request}");
        let answer = answered(u, "complete", &number)?;
        let expected = oracle::task(&answer, 25, "result", &shown, self.made);
        let expected = expected.replacen(&format!("\"id\":{number}"), "\"id\":\"t\"", 1);
        assert_eq!(self.hears(&answer), [expected], "{answer}");
        let listen = format!(
            r#"{{"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{{"notifications":{{"taskIds":[{shown}]}},"_meta":{meta}}}}}"#
        );
        let up = self.says(&listen);
        let number = oracle::Expected::of(&up[0], self.made)
            .get(&["id"])
            .unwrap();
        let of = format!(r#""io.modelcontextprotocol/subscriptionId":{number}"#);
        self.hears(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"taskIds":[{own}]}},"_meta":{{{of}}}}}}}"#
        ));
        let mut params = odd::unknown(u, "p", 3)?;
        params.push((odd::spelt(u, "taskId")?, own.clone()));
        params.push(plain("_meta", format!("{{ {of}}}")));
        let line = self.notification(u, "notifications/tasks", params)?;
        let expected = oracle::task(&line, 26, "params", &shown, self.made);
        let expected = oracle::updated(&expected, Some("\"L\""), self.made);
        assert_eq!(self.hears(&line), [expected], "{line}");
        Ok(())
    }

    /// A request of a stateless client that can be asked everything.
    fn asked_for(&self, id: u32, arguments: &str, more: &str) -> String {
        let can = r#"{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}"#;
        let meta = format!(r#"{{"{}":"2026-07-28","{}":{can}}}"#, OWN[0], OWN[2]);
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{}_echo","arguments":{arguments},{more}"_meta":{meta}}}}}"#,
            self.key
        )
    }

    /// A handshake server asks a stateless client: its call is parked, and goes on with the retry;
    /// or it wants an address opened, and the call is made again.
    fn parks(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let arguments = odd::unknown(u, "a", 2)?;
        let arguments = odd::object(u, arguments)?;
        let up = self.says(&self.asked_for(1, &arguments, ""));
        let number = oracle::Expected::of(&up[0], self.made)
            .get(&["id"])
            .unwrap();
        let address = u.ratio(1, 3)?;
        let token = odd::string(u, false)?;
        let (params, method) = if address {
            let mut entry = odd::unknown(u, "u", 2)?;
            if u.arbitrary()? {
                entry.push(plain("mode", "\"url\""));
            }
            entry.extend([
                (odd::spelt(u, "elicitationId")?, "\"e1\"".to_owned()),
                plain("url", "\"https://peer.example/\""),
                (odd::spelt(u, "message")?, odd::string(u, false)?),
            ]);
            (odd::object(u, entry)?, "elicitation/create")
        } else {
            let (mut params, method) = self.wanted(u)?;
            let has_meta = params
                .iter()
                .any(|(key, _)| key.contains("meta") || key.contains("\\u"));
            if !has_meta {
                let related = "io.modelcontextprotocol/related-task";
                let meta = vec![(odd::spelt(u, related)?, "{}".to_owned())];
                params.push(plain("_meta", odd::object(u, meta)?));
            }
            (odd::object(u, params)?, method)
        };
        let line = match address {
            true => format!(
                r#"{{"jsonrpc":"2.0","id":{number},"error":{{"code":-32042,"message":"","data":{{"elicitations":[ {params}]}}}}}}"#
            ),
            false => {
                format!(r#"{{"jsonrpc":"2.0","id":{token},"method":"{method}","params":{params}}}"#)
            }
        };
        let mut asked = self.hears(&line);
        if !address {
            assert!(asked.is_empty(), "{asked:?}");
            self.rig.now.mono_us += 20_000;
            self.rig.handle(Input::Wake);
            asked = self.seen(false);
        }
        let [asked] = &asked[..] else {
            panic!("{line}\nbecame {asked:?}");
        };
        let asked = oracle::Expected::of(asked, self.made);
        let request = ["result", "inputRequests", "1"];
        let got = asked.get(&[&request[..], &["params"]].concat());
        assert_eq!(
            asked.text(&[&request[..], &["method"]].concat()).as_deref(),
            Some(method)
        );
        let state = asked.get(&["result", "requestState"]).unwrap();
        let expected = oracle::parked(&params, address, self.made);
        assert_eq!(got, Some(expected), "the question was {line}");
        let mut answer = odd::unknown(u, "a", 3)?;
        if method == "sampling/createMessage" {
            answer.push((odd::spelt(u, "role")?, "\"assistant\"".to_owned()));
            answer.push((odd::spelt(u, "model")?, odd::string(u, false)?));
        } else {
            answer.push((odd::spelt(u, "action")?, odd::spelt(u, "accept")?));
        }
        if !address {
            let content = odd::unknown(u, "c", 3)?;
            answer.push(plain("content", odd::object(u, content)?));
        }
        let answer = odd::object(u, answer)?;
        let more = format!(r#""inputResponses" : {{"1" :{answer}}}, "requestState":{state},"#);
        let retry = self.asked_for(2, &arguments, &more);
        let up = self.says(&retry);
        let [up] = &up[..] else {
            panic!("{retry}\nbecame {up:?}, and {:?}", self.seen(false));
        };
        if address {
            let number = oracle::Expected::of(up, self.made).get(&["id"]).unwrap();
            let own: (&[&str], &str) = (&["params", "name"], "echo");
            let none = ("{}", "{}", None);
            let expected = oracle::request(&retry, self.pair, &number, Some(own), none, self.made);
            assert_eq!(expected, *up);
        } else {
            let expected = format!(r#"{{"jsonrpc":"2.0","id":{token},"result":{answer}}}"#);
            assert_eq!(expected, *up);
            assert_eq!(self.recorded(false), Some(answer));
        }
        Ok(())
    }

    /// A stateless server asks a stateless client: it passes, and so does the answer.
    fn passes(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let up = self.says(&self.asked_for(1, "{ }", ""));
        let number = oracle::Expected::of(&up[0], self.made)
            .get(&["id"])
            .unwrap();
        let mut requests = Vec::new();
        for n in 0..u.int_in_range(1..=2)? {
            let (params, method) = self.wanted(u)?;
            let mut members = odd::unknown(u, "r", 2)?;
            members.push((odd::spelt(u, "method")?, odd::spelt(u, method)?));
            members.push((odd::spelt(u, "params")?, odd::object(u, params)?));
            requests.push(format!("\"q{n}\":{}", odd::object(u, members)?));
        }
        let mut result = odd::unknown(u, "r", 2)?;
        let requests = format!("{{ {}}}", requests.join(" ,"));
        let state = odd::string(u, false)?;
        result.extend([
            (
                odd::spelt(u, "resultType")?,
                odd::spelt(u, "input_required")?,
            ),
            (odd::spelt(u, "inputRequests")?, requests),
            (odd::spelt(u, "requestState")?, state.clone()),
        ]);
        let result = odd::object(u, result)?;
        let line = format!(r#"{{"jsonrpc":"2.0","id":{number},"result":{result}}}"#);
        let expected = oracle::passed(&line, "1", self.made);
        assert_eq!(self.hears(&line), [expected], "{line}");
        let answer = odd::value(u, 3)?;
        let more = format!(
            r#""inputResponses" : {{"q0":{{"content":{answer}}}}}, "requestState":{state},"#
        );
        let retry = self.asked_for(2, "{ }", &more);
        let up = self.says(&retry);
        let [up] = &up[..] else {
            panic!("{retry}\nbecame {up:?}");
        };
        let number = oracle::Expected::of(up, self.made).get(&["id"]).unwrap();
        let own: (&[&str], &str) = (&["params", "name"], "echo");
        let none = ("{}", "{}", None);
        let expected = oracle::request(&retry, self.pair, &number, Some(own), none, self.made);
        assert_eq!(expected, *up);
        Ok(())
    }

    /// A resource is watched, and changes.
    fn watches(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (mut uri, mut own) = (format!("{}://readme", self.key), None);
        if self.pair.upstream && u.arbitrary()? {
            uri = oracle::SHOWN.to_owned();
            own = Some(oracle::SHARED);
        }
        let id = odd::string(u, true)?;
        let request = if self.pair.client {
            let meta = format!(r#"{{"{}":"2026-07-28","{}":{{}}}}"#, OWN[0], OWN[2]);
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":["{uri}"]}},"_meta":{meta}}}}}"#
            )
        } else {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#
            )
        };
        let up = self.says(&request);
        let number = oracle::Expected::of(&up[0], self.made)
            .get(&["id"])
            .unwrap();
        if self.pair.upstream {
            self.hears(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{"resourceSubscriptions":["{}"]}},"_meta":{{"io.modelcontextprotocol/subscriptionId":{number}}}}}}}"#,
                own.unwrap_or(&uri)
            ));
        } else {
            self.hears(&format!(
                r#"{{"jsonrpc":"2.0","id":{number},"result":{{}}}}"#
            ));
        }
        let mut params = odd::unknown(u, "p", 2)?;
        params.push((odd::spelt(u, "uri")?, odd::spelt(u, own.unwrap_or(&uri))?));
        if u.ratio(2, 3)? || self.pair.upstream {
            let mut meta = odd::unknown(u, "m", 2)?;
            if self.pair.upstream {
                let key = "io.modelcontextprotocol/subscriptionId";
                meta.push((odd::spelt(u, key)?, number));
            }
            params.push((odd::spelt(u, "_meta")?, odd::object(u, meta)?));
        }
        let line = self.notification(u, "notifications/resources/updated", params)?;
        let listen = self.pair.client.then_some(id.as_str());
        let expected = oracle::updated(&line, listen, self.made);
        assert_eq!(self.hears(&line), [expected], "{line}");
        Ok(())
    }
}

/// The number of a question of mcpshim's.
fn question_of(line: &str, made: &mut BTreeSet<u32>) -> String {
    let id = oracle::Expected::of(line, made).text(&["id"]).unwrap();
    let number = id.strip_prefix("mcpshim-").unwrap();
    assert!(number.bytes().all(|digit| digit.is_ascii_digit()), "{line}");
    number.to_owned()
}

/// A few messages of one session.
fn session(u: &mut Unstructured<'_>) -> Result<()> {
    let pair = *u.choose(&PAIRS)?;
    MADE.with_borrow_mut(|made| {
        let mut wire = Wire::open(u, pair, made)?;
        for _ in 0..3 {
            match u.int_in_range(0..=5)? {
                0 => return wire.watches(u),
                1 if pair.client && pair.upstream && u.arbitrary()? => return wire.tasks(u),
                1 if pair.client && pair.upstream => return wire.passes(u),
                1 if pair.client => return wire.parks(u),
                _ => wire.call(u)?,
            }
        }
        Ok(())
    })
}

#[test]
fn what_leaves_is_what_entered_but_for_the_edits() {
    arbtest::arbtest(session)
        .size_min(2_000)
        .size_max(8_000)
        .budget_ms(3_000);
}

/// Definitions as strange as a server may give them, through the lists of both eras.
fn lists(u: &mut Unstructured<'_>) -> Result<()> {
    let upstream = u.arbitrary()?;
    let key = if upstream { "beta" } else { "alpha" };
    let mut registry = registry();
    let mut lists = Vec::new();
    for other in ["alpha", "beta"] {
        let mut server = ServerDoc::clone(&registry.servers[&fixture::key(other)]);
        let surface = server.surface.as_mut().unwrap();
        surface.resources[0].name = oracle::SHARED.parse().unwrap();
        let kinds = [
            ("tools/list", "name", &mut surface.tools),
            ("prompts/list", "name", &mut surface.prompts),
            ("resources/list", "uri", &mut surface.resources),
            (
                "resources/templates/list",
                "uriTemplate",
                &mut surface.templates,
            ),
        ];
        for (method, named, pinned) in kinds.into_iter().filter(|_| other == key) {
            let pinned = pinned.first_mut().unwrap();
            let mut members = odd::unknown(u, "d", 4)?;
            members.push((odd::spelt(u, named)?, odd::spelt(u, &pinned.name)?));
            if method == "tools/list" {
                let kinds = ["\"object\"", r#""\u006fbject""#, r#"["array","null"]"#];
                let schema = format!(r#"{{ "type": {}}}"#, u.choose(&kinds)?);
                members.push((odd::spelt(u, "outputSchema")?, schema));
                let support = r#"{ "taskSupport":"optional"}"#;
                members.push((odd::spelt(u, "execution")?, support.to_owned()));
                let shared = odd::spelt(u, oracle::SHARED)?;
                let (ui, flat) = (
                    odd::spelt(u, "resourceUri")?,
                    odd::spelt(u, "ui/resourceUri")?,
                );
                let meta = format!(r#"{{"x":[], "ui":{{ {ui}:{shared}}},{flat} :{shared}}}"#);
                members.push(plain("_meta", meta));
            }
            let definition = odd::object(u, members)?;
            pinned.definition = RawValue::from_string(definition.clone()).unwrap();
            lists.push((method, definition));
        }
        registry.put(server);
        let rule = registry.rule(None);
        let table = registry.table("eng", other);
        table.resources.push(("shared://*".to_owned(), rule));
    }
    for client in [false, true] {
        let mut rig = Rig::new(Some(snapshot_of(1, &registry, Some(ann(&["eng"])))));
        if !client {
            rig = rig.opened();
        }
        for (method, definition) in &lists {
            let side = (key, Pair { client, upstream });
            let expected =
                MADE.with_borrow_mut(|made| oracle::entry(definition, method, side, made));
            let params = if client {
                format!("{{{META}}}")
            } else {
                "{}".to_owned()
            };
            let line =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
            rig.seen.clear();
            rig.handle(Input::ClientLine(line.as_bytes()));
            let Some(Seen::Client(answer)) = rig.seen.last() else {
                panic!("no answer to {line}");
            };
            let held = [(",", ","), (",", "]"), ("[", ","), ("[", "]")];
            let held = held.map(|(before, after)| format!("{before}{expected}{after}"));
            assert!(
                held.iter().any(|entry| answer.contains(entry)),
                "no {expected}\nof {definition}\nin {answer}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_list_holds_the_pinned_definitions_but_for_exposed_names() {
    arbtest::arbtest(lists)
        .size_min(1_000)
        .size_max(4_000)
        .budget_ms(1_000);
}

/// Numbers in the tables of the page, of edits made by the session and what it is made of.
fn numbered() -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    let rows = PAGE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.trim_end_matches('|').split('|');
        let number: u32 = cells.next()?.trim().parse().ok()?;
        assert!(all.insert(number), "two edits have the number {number}");
        // made by what stands before the session, and tested there: credentials, HTTP
        let code = cells.next_back()?.trim();
        (!["D", "H"].contains(&code)).then_some(number)
    });
    rows.collect()
}

/// The same for bytes that are the same each time, so that the list is complete each time.
#[test]
fn every_edit_of_the_page_is_made() {
    let mut state = 1_u64;
    for n in 0..600 {
        let bytes: Vec<u8> = (0..4_000)
            .map(|_| {
                // xorshift64*
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            })
            .collect();
        let mut u = Unstructured::new(&bytes);
        session(&mut u).unwrap();
        if n % 20 == 0 {
            lists(&mut u).unwrap();
        }
    }
    MADE.with_borrow(|made| assert_eq!(*made, numbered()));
}
