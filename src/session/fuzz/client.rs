//! What the client does.

use super::World;
use super::book::{Call, Declared, Mark, Request, Said, State};
use super::{ASKING, CAPABILITIES, FIRST, NEW, OLD, URIS};
use crate::session::Input;
use crate::wire::era::{META_CAPABILITIES, META_PROTOCOL};
use crate::wire::msg::Message;

/// What is called: mostly what is granted, at either server.
const CALLED: [(&str, &str); 16] = [
    ("tools/call", "alpha_echo"),
    ("tools/call", "alpha_echo"),
    ("tools/call", "alpha_echo"),
    ("tools/call", "alpha_echo"),
    ("tools/call", "beta_echo"),
    ("tools/call", "beta_echo"),
    ("tools/call", "beta_echo"),
    ("tools/call", "beta_echo"),
    ("prompts/get", "alpha_greet"),
    ("prompts/get", "beta_greet"),
    ("tools/call", "alpha_forbidden"),
    ("tools/call", "gamma_secret"),
    ("tools/call", "echo"),
    ("tools/call", "mcpshim_status"),
    ("tools/call", "off_echo"),
    ("tools/call", "nothing"),
];

/// `_meta` as a client of one era writes it.
fn meta(stateless: bool, capabilities: &str) -> String {
    let own = match stateless {
        true => {
            format!("\"{META_PROTOCOL}\":\"{NEW}\",\"{META_CAPABILITIES}\":{capabilities},")
        }
        false => String::new(),
    };
    format!(r#""_meta":{{{own}"progressToken":"p"}}"#)
}

impl World<'_> {
    /// Sends a request under a new id.
    pub(super) fn request(&mut self, method: &str, params: &str) {
        let how = self.byte();
        // now and then the other era's, or with other capabilities
        let stateless = self.stateless != (how % 16 == 15);
        let capabilities = match how / 16 % 4 {
            3 => self.pick(&CAPABILITIES),
            _ => self.usual,
        };
        let declared = match stateless {
            true => Declared {
                capabilities,
                revision: NEW,
            },
            false => self.declared,
        };
        let token = format!("\"q{}\"", self.book.requests.len());
        let request = Request {
            sent: 0,
            answered: 0,
            cancelled: false,
            declared,
            stateless,
            follows: method.starts_with("tasks/"),
            makes: Mark::Makes.all_in(params.as_bytes()).first().copied(),
        };
        if let Some(call) = request
            .makes
            .and_then(|makes| self.book.calls.get_mut(&makes))
        {
            call.stateless |= stateless;
            call.handshake |= !stateless;
            // what is no retry in the handshake era is another call
            match stateless && params.contains("\"inputResponses\"") {
                true => call.retried += 1,
                false => call.made += 1,
            }
        }
        self.book.requests.insert(token.clone(), request);
        let params = format!("{params},{}", meta(stateless, capabilities));
        self.send(&token, method, &params);
    }

    fn send(&mut self, token: &str, method: &str, params: &str) {
        if let Some(request) = self.book.requests.get_mut(token) {
            request.sent += 1;
        }
        let line = format!(
            r#"{{"method":"{method}","params":{{{params}}},"jsonrpc":"2.0","id":{token}}}"#
        );
        self.handle(Input::ClientLine(line.as_bytes()));
    }

    pub(super) fn initialize(&mut self) {
        let capabilities = match self.once_in(4) {
            true => self.pick(&CAPABILITIES),
            false => self.usual,
        };
        let revision = self.pick(&[OLD, OLD, OLD, ASKING, FIRST]);
        let before = self.declared;
        self.earlier.push(before);
        // it counts from its first byte on, and not at all where it is refused
        self.declared = Declared {
            capabilities,
            revision,
        };
        let params = format!(r#""protocolVersion":"{revision}","capabilities":{capabilities}"#);
        let token = format!("\"q{}\"", self.book.requests.len());
        self.request("initialize", &params);
        let removed = self
            .book
            .requests
            .get(&token)
            .is_some_and(|request| request.stateless);
        if removed || self.machine.front.era() == Some(crate::wire::era::Era::Stateless) {
            self.declared = before;
        }
    }

    pub(super) fn call(&mut self) {
        let (method, name) = self.pick(&CALLED);
        let makes = self.mark();
        let arguments = format!(r#"{{"makes":{makes},"x":1.50}}"#);
        let call = Call {
            method,
            name,
            arguments: arguments.clone(),
            made: 0,
            retried: 0,
            wanted: 0,
            sent: 0,
            stateless: false,
            handshake: false,
        };
        self.book.calls.insert(makes, call);
        let params = format!(r#""name":"{name}","arguments":{arguments}"#);
        self.request(method, &params);
    }

    pub(super) fn other_request(&mut self) {
        match self.byte() % 4 {
            0 => {
                let uri = self.pick(&URIS);
                let method = self.pick(&[
                    "resources/read",
                    "resources/subscribe",
                    "resources/unsubscribe",
                ]);
                self.request(method, &format!("\"uri\":\"{uri}\""));
            }
            1 => {
                let level = self.pick(&["debug", "error", "loud"]);
                self.request("logging/setLevel", &format!("\"level\":\"{level}\""));
            }
            _ => {
                let method = self.pick(&[
                    "tools/list",
                    "prompts/list",
                    "resources/list",
                    "resources/templates/list",
                    "server/discover",
                    "ping",
                    "does/not/exist",
                ]);
                self.request(method, "\"x\":1");
            }
        }
    }

    pub(super) fn listen(&mut self) {
        let uri = self.pick(&URIS);
        let labels = self.book.labels.clone();
        let tasks = match self.late(&labels) {
            Some(label) if !self.once_in(4) => format!(r#","taskIds":[{label}]"#),
            _ => String::new(),
        };
        let wanted = format!(
            r#""notifications":{{"toolsListChanged":true,"resourceSubscriptions":["{uri}"]{tasks}}}"#
        );
        self.request("subscriptions/listen", &wanted);
    }

    /// A second request with the id of an earlier one.
    pub(super) fn again(&mut self) {
        if let Some(token) = self.some_request() {
            self.send(&token, "prompts/list", &meta(true, self.usual));
        }
    }

    pub(super) fn cancel(&mut self) {
        if let Some(token) = self.some_request() {
            self.book.requests.get_mut(&token).unwrap().cancelled = true;
            let line = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{token}}}}}"#
            );
            self.handle(Input::ClientLine(line.as_bytes()));
        }
    }

    fn some_request(&mut self) -> Option<String> {
        let back = usize::from(self.byte()) % 16;
        let count = self.book.requests.len();
        let at = count.checked_sub(1 + back)?;
        Some(format!("\"q{at}\"")).filter(|token| self.book.requests.contains_key(token))
    }

    /// What a client answers to a question: well, badly, or as to another one.
    fn said(&mut self, method: &str, to: Option<u64>, replied: bool) -> String {
        let says = self.says_to(method, to, replied);
        match (self.byte() % 16, method) {
            (13, _) => "7".to_owned(),
            (14, _) => format!(r#"{{"action":"accept","Action":"decline","says":{says}}}"#),
            (15, _) => format!(r#"{{"roots":7,"says":{says}}}"#),
            (12, "elicitation/create") => format!(r#"{{"action":"cancel","says":{says}}}"#),
            (_, "roots/list") => {
                format!(r#"{{"roots":[{{"uri":"file:///x","says":{says}}}]}}"#)
            }
            (_, "sampling/createMessage") => format!(
                r#"{{"role":"assistant","content":{{"type":"text","text":"t"}},"model":"m","says":{says}}}"#
            ),
            (_, _) => format!(r#"{{"action":"accept","content":{{"says":{says}}}}}"#),
        }
    }

    fn says_to(&mut self, method: &str, to: Option<u64>, replied: bool) -> u64 {
        let says = self.mark();
        let said = Said {
            to,
            roots: method == "roots/list",
            replied,
            person: self.person,
        };
        self.book.said.insert(says, said);
        says
    }

    /// The client answers a request, well or badly, once or again.
    pub(super) fn reply(&mut self) {
        let asked = self.book.asked.clone();
        let Some((id, method, to)) = self.late(&asked) else {
            return;
        };
        let body = match self.once_in(12) {
            true => {
                let says = self.says_to(&method, to, true);
                format!(r#""error":{{"code":-1,"message":"no","data":{{"says":{says}}}}}"#)
            }
            false => format!("\"result\":{}", self.said(&method, to, true)),
        };
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},{body}}}"#);
        self.handle(Input::ClientLine(line.as_bytes()));
    }

    /// The client sends a call again with what it was asked for, or with something else.
    pub(super) fn retry(&mut self) {
        let states = self.book.states.clone();
        let Some(state) = self.late(&states) else {
            return;
        };
        let how = self.byte();
        let Some(call) = self.book.calls.get(&state.makes) else {
            return;
        };
        let (method, mut name, mut arguments) = (call.method, call.name, call.arguments.clone());
        let State { mut token, .. } = state;
        let (mut right, mut asked) = (true, state.asked);
        match how % 32 {
            // forged, or of nobody here
            26 => {
                token = "\"mcpshim-parked-00000000000000000000000000000000\"".to_owned();
                right = false;
            }
            27 => (token, right) = ("\"no such state\"".to_owned(), false),
            // of another call
            28 => name = self.pick(&["alpha_echo", "beta_echo"]),
            // other arguments
            29 => {
                arguments = format!(r#"{{"makes":{},"x":1.5}}"#, state.makes);
                right = false;
            }
            // not all of it is answered
            30 => {
                asked.pop();
            }
            // and more than that
            31 => asked.push(("strange".to_owned(), "roots/list".to_owned(), None)),
            _ => {}
        }
        // a name that is another's makes an answer that is nobody's
        right &= name == self.book.calls[&state.makes].name;
        let mut answers = Vec::new();
        for (key, method, to) in asked {
            let answer = self.said(&method, to.filter(|_| right), false);
            answers.push(format!("\"{key}\":{answer}"));
        }
        let params = format!(
            r#""name":"{name}","arguments":{arguments},"inputResponses":{{{}}},"requestState":{token}"#,
            answers.join(",")
        );
        self.request(method, &params);
    }

    /// The client asks for a task, of its own or of nobody's.
    pub(super) fn follow_task(&mut self) {
        let method = self.pick(&["tasks/get", "tasks/update", "tasks/cancel", "tasks/result"]);
        let labels = self.book.labels.clone();
        let label = match self.once_in(8) {
            true => Some(
                self.pick(&["\"beta.nothing\"", "\"alpha.t1\"", "\"t1\""])
                    .to_owned(),
            ),
            false => self.late(&labels),
        };
        let Some(label) = label else { return };
        let answers = match method {
            "tasks/update" => format!(
                r#","inputResponses":{{"a":{}}}"#,
                self.said("elicitation/create", None, false)
            ),
            _ => String::new(),
        };
        self.request(method, &format!("\"taskId\":{label}{answers}"));
    }

    /// The client says what nobody waits for, and what cannot be read; that its roots changed; how
    /// far it is.
    pub(super) fn say_late(&mut self) {
        let first = self.once_in(4);
        let last = self.book.asked.last().filter(|_| !first);
        let id = last.map_or("\"mcpshim-1\"".to_owned(), |(id, ..)| id.clone());
        let line = match self.byte() % 6 {
            0 | 1 => r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#.to_owned(),
            2 | 3 => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{},"progress":1}}}}"#,
                self.byte() % 16
            ),
            4 => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":1,"a":2}}}}"#),
            _ => r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(),
        };
        self.handle(Input::ClientLine(line.as_bytes()));
    }

    pub(super) fn stray(&mut self) {
        let line = self.stray_line();
        let has = |word: &[u8]| memchr::memmem::find(&line, word).is_some();
        if has(b"apabilit") || has(b"initialize") || has(b"\\u") {
            // what a client declares is known
            return;
        }
        match Message::parse(&line) {
            Ok(Message::Request(request)) => {
                self.book.strays.insert(request.id.raw().to_owned());
            }
            Ok(Message::Notification(_)) => {
                // it may cancel anything
                let requests = self.book.requests.values_mut();
                requests.for_each(|request| request.cancelled = true);
            }
            Ok(Message::Response(_)) => {}
            Err(rejected) => self.book.strays.extend(rejected.id.map(Into::into)),
        }
        self.handle(Input::ClientLine(&line));
    }
}
