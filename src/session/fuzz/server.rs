//! What upstreams do.

use std::sync::Arc;

use super::book::{Question, Task};
use super::{URIS, World};
use crate::ids::LinkId;
use crate::policy::fixture;
use crate::session::{Input, LineFault, Loss, Opening, Place, Reach};
use crate::wire::era::Era;
use crate::wire::msg::Message;

/// What upstreams ask: the method, and members of its params; `$` is the number of the question.
const QUESTIONS: [(&str, &str); 12] = [
    (
        "elicitation/create",
        r#""message":"m","requestedSchema":{"type":"object","properties":{}}"#,
    ),
    (
        "elicitation/create",
        r#""mode":"form","message":"m","requestedSchema":{"type":"object","properties":{}},"_meta":{"progressToken":"t"}"#,
    ),
    (
        "elicitation/create",
        r#""mode":"url","message":"m","url":"https://x.example/","elicitationId":"e$""#,
    ),
    ("sampling/createMessage", r#""messages":[],"maxTokens":9"#),
    (
        "sampling/createMessage",
        r#""messages":[],"maxTokens":9,"tools":[]"#,
    ),
    (
        "sampling/createMessage",
        r#""messages":[],"maxTokens":9,"includeContext":"thisServer""#,
    ),
    ("roots/list", r#""x":1"#),
    ("roots/list", r#""x":1"#),
    (
        "elicitation/create",
        r#""message":"m","requestedSchema":{"type":"object","properties":{}}"#,
    ),
    ("no/such", r#""x":1"#),
    ("elicitation/create", r#""message":"a","message":"b""#),
    ("elicitation/create", r#""message":"a","Mode":"url""#),
];

impl World<'_> {
    /// A link whose transport is up.
    fn some_link(&mut self) -> Option<LinkId> {
        let at = usize::from(self.byte());
        let up = self.transports.iter().filter(|(_, one)| one.up);
        let links: Vec<LinkId> = up.map(|(link, _)| *link).collect();
        links.get(at % links.len().max(1)).copied()
    }

    fn era(&self, link: LinkId) -> Option<Era> {
        self.transports.get(&link)?.era
    }

    fn says(&mut self, link: LinkId, during: Option<u64>, line: &str) {
        let line = line.as_bytes();
        self.handle(Input::LinkLine {
            link,
            place: during.map_or(Place::Only, Place::Answer),
            line,
        });
    }

    /// A new question: gives its method and params, raw JSON.
    fn question(
        &mut self,
        link: LinkId,
        id: Option<String>,
        makes: Option<u64>,
    ) -> (u64, &'static str, String) {
        let (method, params) = self.pick(&QUESTIONS);
        let asks = self.noted(link, id, makes);
        let params = params.replace('$', &asks.to_string());
        (asks, method, format!(r#"{{{params},"asks":{asks}}}"#))
    }

    fn noted(&mut self, link: LinkId, id: Option<String>, makes: Option<u64>) -> u64 {
        let asks = self.mark();
        let question = Question {
            link,
            transport: self.transports[&link].number,
            id: id.map(|id| id.replace('$', &asks.to_string())),
            server: Arc::clone(&self.servers[&link]),
            makes,
            person: self.person,
            requested: 0,
            seen: false,
            completed: false,
        };
        self.book.questions.insert(asks, question);
        asks
    }

    /// What an upstream wants before it goes on: `inputRequests`, raw JSON, mostly of one.
    fn wanted(&mut self, link: LinkId, makes: Option<u64>) -> String {
        let count = self.pick(&[1, 1, 1, 2, 3]);
        let mut requests = Vec::new();
        for at in 0..count {
            let (_, method, params) = self.question(link, None, makes);
            requests.push(format!(
                r#""w{at}":{{"method":"{method}","params":{params}}}"#
            ));
        }
        format!("{{{}}}", requests.join(","))
    }

    /// An upstream answers something it was asked, once or again, well or badly.
    pub(super) fn answer(&mut self) {
        let up = self.book.up.clone();
        let Some((link, id)) = self.late(&up) else {
            return;
        };
        if !self.transports[&link].up {
            return;
        }
        let id = match self.once_in(16) {
            true => "424242".to_owned(),
            false => id,
        };
        let stateless = self.era(link) == Some(Era::Stateless);
        let sent = self.book.in_flight.remove(&(link, id.clone()));
        let makes = sent.map(|sent| sent.makes);
        let gives = self.mark();
        let which = self.byte() % 24;
        let mut call = makes.and_then(|makes| self.book.calls.get_mut(&makes));
        let body = match which {
            0 => format!(r#""error":{{"code":-32002,"message":"m","data":{{"gives":{gives}}}}}"#),
            1 => format!(r#""result":{{"gives":{gives},"gives":1}}"#),
            2 => r#""result":[]"#.to_owned(),
            3 => format!(r#""result":{{"isError":true,"gives":{gives}}}"#),
            // both eras say it: one of them may not
            4..=11 => {
                let state = self.pick(&["s", "s", ""]);
                let state = match state {
                    "" => None,
                    _ => Some(format!("\"s{gives}\"")),
                };
                if let Some(call) = makes.and_then(|makes| self.book.calls.get_mut(&makes)) {
                    call.wanted += u32::from(stateless && call.handshake);
                }
                let requests = match self.once_in(8) {
                    true => String::new(),
                    false => format!(r#""inputRequests":{},"#, self.wanted(link, makes)),
                };
                let state = state.map(|state| format!(r#""requestState":{state},"#));
                format!(
                    r#""result":{{"resultType":"input_required",{requests}{}"gives":{gives}}}"#,
                    state.unwrap_or_default()
                )
            }
            12 | 13 => {
                if let Some(sent) = sent.filter(|sent| sent.follows_tasks && stateless) {
                    let task = Task {
                        server: Arc::clone(&self.servers[&link]),
                        person: sent.person,
                    };
                    self.book.tasks.insert(format!("t{gives}"), task);
                    self.book.begun.push(format!("t{gives}"));
                }
                let more = match self.once_in(4) {
                    true => format!(r#","inputRequests":{}"#, self.wanted(link, makes)),
                    false => String::new(),
                };
                format!(
                    r#""result":{{"resultType":"task","taskId":"t{gives}","status":"working","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z","ttlMs":1,"gives":{gives}{more}}}"#
                )
            }
            14 => {
                let tasks = self.book.begun.clone();
                let task = self.late(&tasks).unwrap_or_else(|| "t0".to_owned());
                let requests = self.wanted(link, makes);
                format!(
                    r#""result":{{"resultType":"complete","taskId":"{task}","status":"input_required","inputRequests":{requests},"gives":{gives}}}"#
                )
            }
            15..=17 => {
                if let Some(call) = &mut call {
                    call.wanted += u32::from(!stateless && call.stateless);
                }
                let count = self.pick(&[1, 1, 2]);
                let mut entries = Vec::new();
                for _ in 0..count {
                    let asks = self.noted(link, None, makes);
                    entries.push(format!(
                        r#"{{"mode":"url","elicitationId":"e{asks}","url":"https://x.example/","message":"m","asks":{asks}}}"#
                    ));
                }
                format!(
                    r#""error":{{"code":-32042,"message":"m","data":{{"elicitations":[{}],"gives":{gives}}}}}"#,
                    entries.join(",")
                )
            }
            _ => format!(r#""result":{{"content":[],"gives":{gives}}}"#),
        };
        self.says(
            link,
            None,
            &format!(r#"{{"jsonrpc":"2.0","id":{id},{body}}}"#),
        );
    }

    /// An upstream asks the client something, of a call or of none.
    pub(super) fn ask_client(&mut self) {
        let Some(link) = self.some_link() else { return };
        let (during, makes) = match self.byte() % 8 {
            0 => (Some(424_242), None),
            1..=4 => {
                let open = self.book.in_flight.iter();
                let open = open.filter(|((of, _), _)| *of == link);
                let open: Vec<(String, u64)> = open
                    .map(|((_, id), sent)| (id.clone(), sent.makes))
                    .collect();
                match self.late(&open) {
                    Some((id, makes)) => (id.parse().ok(), Some(makes)),
                    None => (None, None),
                }
            }
            _ => (None, None),
        };
        let id = match self.once_in(8) {
            true => self.pick(&["0", "1"]),
            false => "\"ask-$\"",
        };
        let (asks, method, params) = self.question(link, Some(id.to_owned()), makes);
        let id = id.replace('$', &asks.to_string());
        self.book.told.entry((link, id.clone())).or_default().0 += 1;
        let line =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        self.says(link, during, &line);
    }

    pub(super) fn upstream(&mut self) {
        let Some(link) = self.some_link() else { return };
        let of_link = self
            .book
            .questions
            .iter()
            .filter(|(_, one)| one.link == link);
        let questions: Vec<(u64, Option<String>)> =
            of_link.map(|(asks, one)| (*asks, one.id.clone())).collect();
        let line = match self.byte() % 16 {
            0 => r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#.to_owned(),
            1 => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"{}"}}}}"#,
                self.pick(&URIS)
            ),
            2 => r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}"#.to_owned(),
            3 => r#"{"jsonrpc":"2.0","id":77,"method":"ping"}"#.to_owned(),
            4 => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":1}}}}"#,
                self.recent(link)
            ),
            5 | 6 => {
                let tasks = self.book.tasks.keys().map(|task| format!("\"{task}\""));
                let tasks: Vec<String> = tasks.collect();
                let honoured = match self.once_in(4) {
                    true => String::new(),
                    false => format!(
                        r#""resourceSubscriptions":[{}],"taskIds":[{}]"#,
                        URIS.map(|uri| format!("\"{uri}\"")).join(","),
                        tasks.join(",")
                    ),
                };
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{{honoured}}},"_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}}}}}"#,
                    self.listened(link)
                )
            }
            7 | 8 => {
                let id = self.late(&questions).and_then(|(_, id)| id);
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{}}}}}"#,
                    id.unwrap_or_else(|| "0".to_owned())
                )
            }
            9 | 10 => {
                let shown = self.book.questions.iter();
                let shown = shown.filter(|(_, one)| one.link == link && one.seen);
                let shown: Vec<u64> = shown.map(|(asks, _)| *asks).collect();
                let asks = match self.once_in(4) {
                    true => self.late(&questions).map(|(asks, _)| asks),
                    false => self.late(&shown),
                };
                let asks = asks.unwrap_or_default();
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{{"elicitationId":"e{asks}"}}}}"#
                )
            }
            11 | 12 => {
                let tasks = self.book.begun.clone();
                let task = self.late(&tasks).unwrap_or_else(|| "t0".to_owned());
                let more = match self.once_in(2) {
                    true => format!(r#","inputRequests":{}"#, self.wanted(link, None)),
                    false => String::new(),
                };
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/tasks","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{}}},"taskId":"{task}","status":"working"{more}}}}}"#,
                    self.listened(link)
                )
            }
            13 => {
                // of a listen of ours, which ends
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{}}}}}"#,
                    self.recent(link)
                )
            }
            _ => return self.stray_of(link),
        };
        self.says(link, None, &line);
    }

    fn stray_of(&mut self, link: LinkId) {
        let line = self.stray_line();
        match Message::parse(&line) {
            Ok(Message::Request(request)) => {
                let id = (link, request.id.raw().to_owned());
                self.book.told.entry(id).or_default().0 += 1;
            }
            // an answer may say anything
            Ok(Message::Response(_)) => return,
            Ok(Message::Notification(_)) | Err(_) => {}
        }
        self.handle(Input::LinkLine {
            link,
            place: Place::Only,
            line: &line,
        });
    }

    /// The id of a listen of ours.
    fn listened(&mut self, link: LinkId) -> String {
        let open = self.book.listens.iter().filter(|(of, _)| *of == link);
        let open: Vec<String> = open.map(|(_, id)| id.clone()).collect();
        self.late(&open).unwrap_or_else(|| "0".to_owned())
    }

    /// The id of something this upstream was asked lately.
    fn recent(&mut self, link: LinkId) -> String {
        let asked = self.book.up.iter().filter(|(of, _)| *of == link);
        let asked: Vec<String> = asked.map(|(_, id)| id.clone()).collect();
        self.late(&asked).unwrap_or_else(|| "0".to_owned())
    }

    /// A transport ends, or something else befalls it.
    pub(super) fn break_link(&mut self) {
        let which = self.byte() % 16;
        let at = usize::from(self.byte());
        let links: Vec<LinkId> = self.transports.keys().copied().collect();
        let Some(link) = links.get(at % links.len().max(1)).copied() else {
            return;
        };
        let transport = self.transports[&link];
        let reason = "ended".to_owned();
        let input = match which {
            0 => {
                let opening = self.pick(&[Opening::Initialize, Opening::Probe]);
                Input::LinkKnown { link, opening }
            }
            1 | 2 if transport.up => {
                let loss = Loss::not_sent("is full");
                Input::LinkUnheard { link, loss }
            }
            // the stateless era knows no sessions
            3..=5 if transport.up && transport.era != Some(Era::Stateless) => {
                let met = match self.once_in(2) {
                    true => self.recent(link).parse().ok(),
                    false => None,
                };
                let said = String::new();
                Input::LinkForgotten { link, met, said }
            }
            6 | 7 if transport.up => {
                let fault = LineFault::TooLong { bytes: 1 << 30 };
                let answer = self.recent(link).parse().unwrap_or_default();
                let place = self.pick(&[Place::Only, Place::News, Place::Answer(answer)]);
                Input::LinkFault { link, place, fault }
            }
            8 if transport.up => Input::LinkRedacted { link, times: 1 },
            9 if transport.open && !transport.up => Input::LinkRefused { link, reason },
            10..=12 if transport.open && !transport.up => {
                self.transports.entry(link).or_default().up = true;
                Input::LinkOpened {
                    link,
                    credential: None,
                }
            }
            _ if transport.open => Input::LinkClosed { link, reason },
            _ => return,
        };
        let ends = matches!(
            input,
            Input::LinkClosed { .. } | Input::LinkForgotten { .. } | Input::LinkRefused { .. }
        );
        if ends {
            self.gone(link);
        }
        self.handle(input);
    }

    /// One request gets no answer, though its link is alive.
    pub(super) fn lose_exchange(&mut self) {
        let loss = Loss {
            reach: self.pick(&[Reach::NotSent, Reach::Refused(503), Reach::Unknown]),
            reason: "hung up".to_owned(),
            pause_ms: self.pick(&[None, Some(1_000)]),
            broken: self.once_in(4),
        };
        let up = self.book.up.clone();
        if let Some((link, id)) = self.late(&up)
            && self.transports[&link].up
        {
            self.book.in_flight.remove(&(link, id.clone()));
            if matches!(loss.reach, Reach::NotSent) {
                // it did not reach its server, so it does not count
                let lost = |(_, on, one): &(u64, LinkId, String)| *on == link && *one == id;
                self.repeated.retain(|one| !lost(one));
            }
            let id = id.parse().unwrap();
            self.handle(Input::ExchangeLost { link, id, loss });
        }
    }

    pub(super) fn renew(&mut self) {
        let server = self.pick(&["alpha", "alpha", "beta", "off", "gamma"]);
        let at_once = self.once_in(2);
        let server = fixture::key(server);
        self.handle(Input::Renew { server, at_once });
    }
}
