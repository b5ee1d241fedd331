//! What the client and upstreams get, held to the laws.

use serde_json::Value;

use super::book::{Declared, Mark, Sent, State};
use super::world::own;
use super::{LIMIT, World};
use crate::ids::LinkId;
use crate::limits;
use crate::wire::era::{self, Era, Revision};
use crate::wire::msg::Message;

/// How the handles of parked calls begin.
const PARKED: &str = "mcpshim-parked-";

fn one_line(line: &[u8]) -> &[u8] {
    let line = line
        .strip_suffix(b"\n")
        .expect("a line ends with a newline");
    assert!(!line.contains(&b'\n'), "one line");
    line
}

/// The number of the question in its params.
fn question_of(params: &Value) -> Option<u64> {
    params.get("asks").and_then(Value::as_u64)
}

impl World<'_> {
    /// How many entries with this mark are recorded.
    fn intents(&self, mark: (Mark, u64)) -> usize {
        let tickets = self.book.intents.get(&mark).into_iter().flatten();
        tickets.filter(|at| self.recorded.contains(at)).count()
    }

    fn outcomes(&self, mark: (Mark, u64)) -> usize {
        let tickets = self.book.outcomes.get(&mark).into_iter().flatten();
        tickets.filter(|at| self.recorded.contains(at)).count()
    }

    // ---- down

    pub(super) fn client_gets(&mut self, line: &[u8]) {
        let line = one_line(line);
        let text = std::str::from_utf8(line).unwrap();
        match Message::parse(line) {
            Ok(Message::Response(response)) => {
                let id = response.id.map(|id| id.raw().to_owned());
                self.client_is_answered(&id.unwrap_or_default(), text);
            }
            Ok(Message::Notification(notification)) => {
                let value: Value = serde_json::from_str(text).unwrap();
                self.client_is_told(&notification.method, &value["params"], text);
            }
            Ok(Message::Request(request)) => {
                let value: Value = serde_json::from_str(text).unwrap();
                let (method, id) = (request.method.as_ref(), request.id.raw());
                self.client_is_asked(method, id, &value["params"], text);
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    fn client_is_answered(&mut self, id: &str, text: &str) {
        let stray = id.is_empty() || self.book.strays.contains(id);
        let Some(request) = self.book.requests.get_mut(id) else {
            assert!(stray, "an answer to nothing: {text}");
            return;
        };
        request.answered += 1;
        let over = request.answered > request.sent && !stray;
        assert!(!over, "answered too often: {text}");
        let (declared, makes, stateless) = (request.declared, request.makes, request.stateless);
        let follows = request.follows;
        for gives in Mark::Gives.all_in(text.as_bytes()) {
            let parked = text.contains(PARKED);
            let recorded = self.outcomes((Mark::Gives, gives)) > 0;
            assert!(recorded || parked, "a result before its record: {text}");
        }
        if !text.contains("\"asks\":") && !text.contains("\"taskId\":") {
            return;
        }
        let value: Value = serde_json::from_str(text).unwrap();
        let result = &value["result"];
        if value["error"]["code"] == -32042 {
            let entries = value["error"]["data"]["elicitations"].as_array();
            for entry in entries.into_iter().flatten() {
                // a handshake client may open its session anew meanwhile
                let covers = |one: &&Declared| one.covers("elicitation/create", entry);
                let ever = self.earlier.iter().chain([&self.declared]).find(covers);
                let declared = ever.copied().unwrap_or(declared);
                self.may_be_asked(declared, "elicitation/create", entry, text);
                self.seen(entry, None, text);
                self.book.reached.once_more("an address in an error");
            }
        }
        let begins = result["resultType"] == "task" && stateless;
        if let Some(label) = result["taskId"].as_str().filter(|_| begins || follows) {
            assert!(
                declared.follows_tasks() || follows,
                "a task nobody can follow: {text}"
            );
            self.book.labels.push(format!("\"{label}\""));
            self.book.reached.once_more("a task");
        }
        let asks = result["inputRequests"].as_object();
        // clients of the handshake era do not read it, nor others in results of other types
        let read = begins || follows || result["resultType"] == "input_required";
        let Some(asks) = asks.filter(|_| stateless && read) else {
            return;
        };
        let state = result["requestState"].as_str();
        let parked = state.is_some_and(|state| state.starts_with(PARKED));
        let mut asked = Vec::new();
        for (name, request) in asks {
            let (method, params) = (request["method"].as_str().unwrap(), &request["params"]);
            self.may_be_asked(declared, method, params, text);
            let question = question_of(params);
            self.seen(params, Some(parked), text);
            if let Some(question) = question.and_then(|asks| self.book.questions.get(&asks)) {
                let mine = question.makes.is_none() || question.makes == makes;
                assert!(mine || makes.is_none(), "of another call: {text}");
                let person = question.person == self.person;
                assert!(person || !parked, "asked of somebody else: {text}");
            }
            asked.push((name.clone(), method.to_owned(), question));
        }
        let once = asked.iter().filter_map(|(.., asks)| *asks);
        let mut once: Vec<u64> = once.collect();
        let count = once.len();
        once.dedup();
        assert_eq!(count, once.len(), "asked twice at once: {text}");
        let what = if parked { "parked" } else { "passed through" };
        self.book.reached.once_more(what);
        if let (Some(makes), Some(state)) = (makes, state) {
            self.book.states.push(State {
                token: format!("\"{state}\""),
                makes,
                asked,
            });
        }
    }

    fn client_is_asked(&mut self, method: &str, id: &str, params: &Value, text: &str) {
        assert!(id.starts_with("\"mcpshim-"), "an id of others: {text}");
        let known = self.book.asked.iter().any(|(known, ..)| known == id);
        assert!(!known, "an id twice: {text}");
        if method == "roots/list" && question_of(params).is_none() {
            // for everybody who may know it
            let declared = self.declared.covers(method, params);
            assert!(declared, "not declared ({:?}): {text}", self.declared);
        } else {
            self.may_be_asked(self.declared, method, params, text);
            self.seen(params, None, text);
            let asks = question_of(params).unwrap();
            let question = self.book.questions.get_mut(&asks).unwrap();
            question.requested += 1;
            assert_eq!(question.requested, 1, "asked twice: {text}");
            assert_eq!(
                question.person, self.person,
                "asked of somebody else: {text}"
            );
        }
        let asks = question_of(params);
        let what = match asks.map(|asks| self.book.questions[&asks].id.is_some()) {
            Some(true) => "relayed",
            Some(false) => "driven",
            None => "asked for roots",
        };
        self.book.reached.once_more(what);
        self.book
            .asked
            .push((id.to_owned(), method.to_owned(), asks));
    }

    /// Nothing is told of a listen before its acknowledgement, nor anything that is not in it.
    fn listen_is_told(&mut self, method: &str, id: &str, params: &Value, text: &str) {
        if method == "notifications/subscriptions/acknowledged" {
            let honoured = params["notifications"].clone();
            let old = self.book.acknowledged.insert(id.to_owned(), honoured);
            let again = self.book.requests.get(id).is_some_and(|one| one.sent > 1);
            assert!(old.is_none() || again, "acknowledged twice: {text}");
            return;
        }
        self.book.reached.once_more("told of a listen");
        let Some(honoured) = self.book.acknowledged.get(id) else {
            panic!("told before it was acknowledged: {text}");
        };
        for (member, of) in [("uri", "resourceSubscriptions"), ("taskId", "taskIds")] {
            let told = params.get(member);
            let known = honoured[of].as_array().into_iter().flatten();
            let mut known = known.filter(|one| told == Some(one));
            assert!(
                told.is_none() || known.next().is_some(),
                "not honoured: {text}"
            );
        }
    }

    fn client_is_told(&mut self, method: &str, params: &Value, text: &str) {
        if let Some(id) = params["_meta"].get(era::META_SUBSCRIPTION) {
            self.listen_is_told(method, &id.to_string(), params, text);
        }
        match method {
            "notifications/cancelled" => {
                let id = params["requestId"].to_string();
                let known = self.book.asked.iter().any(|(known, ..)| *known == id);
                assert!(known, "takes back what was not asked: {text}");
                self.book.reached.once_more("a question taken back");
            }
            "notifications/elicitation/complete" => {
                let id = params["elicitationId"].as_str().unwrap();
                let asks: u64 = id.strip_prefix('e').unwrap().parse().unwrap();
                let question = self.book.questions.get_mut(&asks).unwrap();
                // an error that names it may still be on its way
                let seen = question.seen || question.id.is_none();
                assert!(seen, "the end of what nobody saw: {text}");
                assert!(!question.completed, "ended twice: {text}");
                question.completed = true;
                self.book.reached.once_more("an elicitation complete");
            }
            "notifications/tasks" => {
                let (server, id) = params["taskId"].as_str().unwrap().split_once('.').unwrap();
                let task = &self.book.tasks[id];
                assert_eq!(
                    task.server.key.as_str(),
                    server,
                    "of another server: {text}"
                );
                assert_eq!(task.person, self.person, "of somebody else: {text}");
                let listen = &params["_meta"][era::META_SUBSCRIPTION];
                let declared = self.book.requests[&listen.to_string()].declared;
                for request in params["inputRequests"]
                    .as_object()
                    .into_iter()
                    .flat_map(serde_json::Map::values)
                {
                    let method = request["method"].as_str().unwrap();
                    self.may_be_asked(declared, method, &request["params"], text);
                }
                self.book.reached.once_more("news of a task");
            }
            _ => {}
        }
    }

    /// The client declared what it is asked, and the server's entry says that it may ask it.
    fn may_be_asked(&self, declared: Declared, method: &str, params: &Value, text: &str) {
        assert!(
            declared.covers(method, params),
            "not declared ({declared:?}): {text}"
        );
        let asks = question_of(params).unwrap_or_else(|| panic!("a question of nobody: {text}"));
        let server = &self.book.questions[&asks].server;
        let entry = match method {
            "elicitation/create" => server.elicitation,
            "roots/list" => server.roots,
            _ => server.sampling,
        };
        assert!(entry, "not in the entry of {}: {text}", server.key);
        if method == "elicitation/create" {
            let label = format!("[{}] m", server.key);
            assert_eq!(params["message"], label, "nobody says who asks: {text}");
        }
    }

    /// The client sees a question: it is recorded, as one of its own or with the answer that it is
    /// part of.
    fn seen(&mut self, params: &Value, parked: Option<bool>, text: &str) {
        let asks = question_of(params).unwrap();
        let (of, with) = (
            self.intents((Mark::Asks, asks)),
            self.outcomes((Mark::Asks, asks)),
        );
        let question = self.book.questions.get_mut(&asks).unwrap();
        let recorded = match (parked, &question.id) {
            (Some(true), _) | (None, Some(_)) => of > 0,
            (Some(false), _) => with > 0,
            // asked for a call whose own outcome says so, or in an error
            (None, None) => of > 0 || with > 0,
        };
        assert!(recorded, "a question before its record: {text}");
        question.seen = true;
    }

    // ---- up

    pub(super) fn link_gets(
        &mut self,
        link: LinkId,
        line: &[u8],
        more: &mut Vec<(LinkId, Option<Vec<u8>>)>,
    ) {
        let line = one_line(line);
        let text = std::str::from_utf8(line).unwrap();
        assert!(self.transports[&link].open, "said to nobody: {text}");
        let request = match Message::parse(line) {
            Ok(Message::Request(request)) => request,
            Ok(Message::Notification(notification)) => {
                if notification.method == "notifications/cancelled" {
                    let value: Value = serde_json::from_str(text).unwrap();
                    let id = value["params"]["requestId"].to_string();
                    self.book.in_flight.remove(&(link, id));
                }
                return;
            }
            Ok(Message::Response(response)) => {
                let id = response.id.map(|id| id.raw().to_owned());
                return self.link_is_answered(link, id.unwrap_or_default(), text);
            }
            Err(wrong) => panic!("{text}: {wrong:?}"),
        };
        let (method, id) = (request.method.as_ref(), request.id.raw());
        if let Some(body) = own(&self.servers[&link], method) {
            if self.helpful {
                let era = match method {
                    "initialize" => Some(Era::Handshake(Revision::NEWEST_HANDSHAKE)),
                    "server/discover" if body.starts_with("\"result\"") => Some(Era::Stateless),
                    _ => self.transports[&link].era,
                };
                self.transports.entry(link).or_default().era = era;
                let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},{body}}}"#);
                more.push((link, Some(answer.into_bytes())));
            }
            return;
        }
        self.book.up.push((link, id.to_owned()));
        let value: Value = serde_json::from_str(text).unwrap();
        let params = &value["params"];
        match method {
            "tools/call" | "prompts/get" => {
                let own = if method == "tools/call" {
                    "echo"
                } else {
                    "greet"
                };
                assert_eq!(params["name"], own, "not granted: {text}");
                if params["arguments"] == serde_json::json!({"again": 1}) {
                    // a round of a call that goes on is not made again
                    if params.get("inputResponses").is_none()
                        && params.get("requestState").is_none()
                    {
                        self.repeats(link, id);
                    }
                    return self.is_in_flight(link, id, 0, params);
                }
                self.call_goes_up(link, id, params, text);
            }
            "tasks/get" | "tasks/update" | "tasks/cancel" => {
                self.task_goes_up(link, &params["taskId"], text);
            }
            "subscriptions/listen" => {
                self.book.listens.push((link, id.to_owned()));
                let tasks = params["notifications"]["taskIds"].as_array();
                for task in tasks.into_iter().flatten() {
                    self.task_goes_up(link, task, text);
                }
            }
            _ => {}
        }
    }

    fn call_goes_up(&mut self, link: LinkId, id: &str, params: &Value, text: &str) {
        let makes = params["arguments"]["makes"].as_u64().unwrap();
        let intents = self.intents((Mark::Makes, makes));
        let stateless = self.transports[&link].era == Some(Era::Stateless);
        let call = self.book.calls.get_mut(&makes).unwrap();
        call.sent += 1;
        assert!(intents >= call.sent as usize, "before its record: {text}");
        let retried = if stateless { call.retried } else { 0 };
        let may = call.made + call.wanted + retried;
        assert!(call.sent <= may, "{} times, not {may}: {text}", call.sent);
        let most = (call.made + call.retried) * (limits::ROUNDS + 1);
        assert!(call.sent <= most, "{} rounds: {text}", call.sent);
        if call.sent > call.made {
            let what = match (call.handshake, stateless) {
                (true, true) => "driven on",
                (_, false) => "sent again",
                (false, true) => "passed on",
            };
            self.book.reached.once_more(what);
        }
        self.is_in_flight(link, id, makes, params);
        for says in Mark::Says.all_in(text.as_bytes()) {
            let intents = self.intents((Mark::Says, says));
            assert!(intents > 0, "an answer before its record: {text}");
            let said = &self.book.said[&says];
            if !said.replied {
                continue;
            }
            let to = said.to.and_then(|asks| self.book.questions.get(&asks));
            let to = to.unwrap_or_else(|| panic!("an answer to nothing: {text}"));
            let way = (to.link, to.makes);
            assert_eq!(way, (link, Some(makes)), "elsewhere: {text}");
            assert_eq!(to.transport, self.transports[&link].number, "{text}");
            assert_eq!(said.person, to.person, "somebody else's: {text}");
        }
    }

    fn is_in_flight(&mut self, link: LinkId, id: &str, makes: u64, params: &Value) {
        let sent = Sent {
            makes,
            person: self.person,
            follows_tasks: params["_meta"].to_string().contains("/tasks"),
        };
        self.book.in_flight.insert((link, id.to_owned()), sent);
    }

    /// An upstream gets an answer to a question of its own.
    fn link_is_answered(&mut self, link: LinkId, id: String, text: &str) {
        if id == "77" {
            // to its ping
            return;
        }
        let (asked, told) = self.book.told.entry((link, id.clone())).or_default();
        *told += 1;
        assert!(told <= asked, "answered too often: {text}");
        for says in Mark::Says.all_in(text.as_bytes()) {
            let recorded = self.outcomes((Mark::Says, says)) > 0;
            assert!(recorded, "an answer before its record: {text}");
            let said = &self.book.said[&says];
            if said.roots {
                self.book.reached.once_more("roots told");
                continue;
            }
            let to = said.to.and_then(|asks| self.book.questions.get(&asks));
            let to = to.unwrap_or_else(|| panic!("an answer to nothing: {text}"));
            assert_eq!(
                (to.link, to.id.as_ref()),
                (link, Some(&id)),
                "elsewhere: {text}"
            );
            let transport = self.transports[&link].number;
            assert_eq!(to.transport, transport, "another transport: {text}");
            assert_eq!(said.person, to.person, "somebody else's: {text}");
            let what = match said.replied {
                true => "answered",
                false => "parked answered",
            };
            self.book.reached.once_more(what);
        }
    }

    /// A task is followed where it began, by whoever began it.
    fn task_goes_up(&mut self, link: LinkId, id: &Value, text: &str) {
        let id = id.as_str().unwrap();
        let task = self.book.tasks.get(id);
        let task = task.unwrap_or_else(|| panic!("a task of nobody: {text}"));
        let server = &self.servers[&link];
        assert_eq!(task.server.key, server.key, "of another server: {text}");
        assert_eq!(task.person, self.person, "of somebody else: {text}");
        self.book.reached.once_more("a task followed");
    }

    /// The call that is made again and again went up once more.
    fn repeats(&mut self, link: LinkId, id: &str) {
        let now_us = self.now.mono_us;
        self.repeated.push((now_us, link, id.to_owned()));
        let within_us = u64::from(LIMIT.seconds) * 1_000_000;
        let recent = self.repeated.iter().rev();
        let recent = recent.take_while(|(at_us, ..)| at_us + within_us > now_us);
        let recent = recent.count();
        assert!(
            recent <= LIMIT.calls as usize,
            "the same call {recent} times"
        );
    }
}
