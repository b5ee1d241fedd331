//! Where the client works: what upstreams that may know it are told.
//!
//! Only a server whose entry says `roots: true` learns of it, and only one of the handshake era
//! asks by itself. What it is told are the client's own roots where the client offers them (asked
//! once, kept until the client says that they changed), else the project as one root, else nothing.
//! Every question is recorded before it is answered, and so is the answer.
//!
//! ```text
//!   upstream ── roots/list ─▶ intent ─▶ known? ──yes──▶ outcome ─▶ answer
//!                                         └─no─▶ roots/list to the client ─┘
//! ```

use bytes::Bytes;

use super::Machine;
use super::ask::{Question, Refusal};
use super::call::{Key, Leg, Outcome};
use super::outbox::{Held, Housekeeping, Upstream};
use crate::audit::entry::End;
use crate::clock::Now;
use crate::ids::LinkId;
use crate::limits;
use crate::registry::doc::ServerDoc;
use crate::secret::Content;
use crate::wire::msg::{self, Body, Request, Response};
use crate::wire::raw::{self, Object};

/// What the session knows of where the client works.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// The client has roots and says them when it is asked.
    offered: bool,
    /// What it said last: a JSON array.
    known: Option<String>,
    asked: Option<Asked>,
    /// Questions to the client so far.
    questions: u64,
    waiting: Vec<Wait>,
    /// For clients that have none: a JSON array.
    project: Option<String>,
}

/// The question to the client that is open.
#[derive(Debug)]
struct Asked {
    /// Its id token.
    id: String,
    until_us: u64,
    /// They changed meanwhile: what is answered does not count.
    stale: bool,
}

/// An upstream that waits for the answer.
#[derive(Debug)]
struct Wait {
    to: Asker,
    leg: Leg,
}

/// Who asked: one transport of one link, with this id token.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) link: LinkId,
    pub(super) transport: u32,
    id: Box<str>,
}

impl Roots {
    /// The client opens its session.
    pub(super) fn opened(&mut self, offered: bool) {
        self.offered = offered;
        self.known = None;
    }

    pub(super) fn next_wakeup(&self) -> Option<u64> {
        Some(self.asked.as_ref()?.until_us)
    }
}

impl Machine {
    /// Says where the client works, for clients that do not say it themselves: a `file:` URI and a
    /// name to show.
    pub fn set_project(&mut self, uri: &str, name: &str) {
        let (uri, name) = (raw::quoted(uri), raw::quoted(name));
        self.roots.project = Some(format!(r#"[{{"uri":{uri},"name":{name}}}]"#));
    }

    /// An upstream that may know it asks where the client works.
    pub(super) fn roots_asked(
        &mut self,
        link: LinkId,
        server: &ServerDoc,
        during: Option<Key>,
        request: &Request<'_>,
        now: &Now,
    ) {
        let leg = match during {
            Some(call) => self.calls.next_leg(call),
            None => Some(self.calls.first_leg()),
        };
        let Some(leg) = leg else {
            return self.refuse_ask(link, request, Refusal::TooMany, now);
        };
        let ask = Question {
            server,
            method: "roots/list",
            params: request.params.as_ref().map(|params| params.object.raw()),
            audit: self.audit_of_ask(server, during),
        };
        let facts = self.ask_facts(&ask, leg, "roots", now);
        let intent = self.calls.open_ask(facts, now);
        self.outbox.append(intent, now);
        let to = Asker {
            link,
            transport: self.links.transport(link),
            id: request.id.raw().into(),
        };
        let wait = Wait { to, leg };
        let roots = &self.roots;
        match (&roots.known, roots.offered) {
            (Some(known), true) => {
                let known = known.clone();
                self.say_roots(wait, Ok(&known), now);
            }
            (None, true) if roots.waiting.len() >= limits::ROOTS_WAITING => {
                self.say_roots(wait, Err("too many questions wait for the client"), now);
            }
            (None, true) => {
                self.roots.waiting.push(wait);
                self.ask_client(now);
            }
            (_, false) => {
                let project = roots.project.clone();
                self.say_roots(wait, Ok(project.as_deref().unwrap_or("[]")), now);
            }
        }
    }

    /// Asks the client, unless it is being asked.
    fn ask_client(&mut self, now: &Now) {
        if self.roots.asked.is_some() {
            return;
        }
        self.roots.questions += 1;
        let id = format!("\"mcpshim-roots-{}\"", self.roots.questions);
        let line = msg::request_line(&id, "roots/list", None);
        self.roots.asked = Some(Asked {
            id,
            until_us: now.mono_us + limits::ROOTS_MS * 1000,
            stale: false,
        });
        self.outbox.send_client(line);
    }

    /// The client answers something; false when it was not asked for.
    pub(super) fn roots_answered(&mut self, response: &Response<'_>, now: &Now) -> bool {
        let id = response.id.as_ref().map(msg::Id::raw);
        let asked = self.roots.asked.take_if(|asked| id == Some(&asked.id));
        let Some(asked) = asked else {
            return false;
        };
        if asked.stale {
            self.ask_client(now);
            return true;
        }
        let said = match &response.body {
            Body::Error { .. } => Err("the client refuses to say its roots"),
            Body::Result(result) => result
                .get("roots")
                .filter(|roots| are_roots(roots))
                .map(ToOwned::to_owned)
                .ok_or("the client's roots cannot be used"),
        };
        self.roots.known = said.as_ref().ok().cloned();
        self.tell_waiting(said.as_deref().map_err(|why| *why), now);
        true
    }

    fn tell_waiting(&mut self, said: Result<&str, &str>, now: &Now) {
        for wait in std::mem::take(&mut self.roots.waiting) {
            self.say_roots(wait, said, now);
        }
    }

    /// Answers one upstream, once the answer is recorded.
    fn say_roots(&mut self, wait: Wait, said: Result<&str, &str>, now: &Now) {
        let refusal = |why: &str| Bytes::from(msg::error_line(&wait.to.id, -32603, why, None));
        let (end, content, line) = match said {
            Ok(roots) => {
                let result = format!("{{\"roots\":{roots}}}");
                let line = msg::result_line(&wait.to.id, &result);
                (End::Ok, Content(result.into()), line.into())
            }
            Err(why) => (End::Error(-32603), Content::default(), refusal(why)),
        };
        let instead = refusal("the answer could not be recorded");
        let outcome = Outcome { end, content };
        let Some((outcome, fail_mode)) = self.calls.close_ask(wait.leg, outcome, now) else {
            return;
        };
        self.outbox.append(outcome, now);
        self.outbox.hold(Held::Told {
            to: wait.to,
            line,
            fail_mode,
            instead,
        });
    }

    /// Sends an answer to an upstream whose transport still is the one that asked.
    pub(super) fn tell_upstream(&mut self, to: &Asker, line: Bytes) {
        if self.links.transport(to.link) == to.transport {
            self.outbox.send_link(to.link, Upstream::Answer(line));
        }
    }

    /// The client's roots changed: what was known does not count, and upstreams are told.
    pub(super) fn roots_changed(&mut self) {
        self.roots.known = None;
        if let Some(asked) = &mut self.roots.asked {
            asked.stale = true;
        }
        for link in self.links.with_roots() {
            let line = Upstream::Housekeeping(Housekeeping::RootsChanged);
            self.outbox.send_link(link, line);
        }
    }

    pub(super) fn roots_wake(&mut self, now: &Now) {
        let due = |asked: &mut Asked| asked.until_us <= now.mono_us;
        if self.roots.asked.take_if(due).is_some() {
            self.tell_waiting(Err("the client did not say its roots in time"), now);
        }
    }

    /// A transport is gone, and its questions with it; all of them when the session ends.
    pub(super) fn forget_asks(&mut self, of: Option<LinkId>, now: &Now) {
        let gone = |wait: &mut Wait| of.is_none_or(|link| wait.to.link == link);
        let gone: Vec<Wait> = self.roots.waiting.extract_if(.., gone).collect();
        for wait in gone {
            let outcome = Outcome::bare(End::Cancelled);
            if let Some((outcome, _)) = self.calls.close_ask(wait.leg, outcome, now) {
                self.outbox.append(outcome, now);
            }
        }
    }
}

/// Whether a JSON text is a list of roots that can be passed on.
fn are_roots(text: &str) -> bool {
    let is_root = |root: &str| {
        let root = Object::parse(root).ok();
        root.is_some_and(|root| root.unique().is_ok() && root.text("uri").is_some())
    };
    text.len() <= limits::ROOTS_BYTES
        && raw::elements(text)
            .is_ok_and(|roots| roots.len() <= limits::ROOTS && roots.into_iter().all(is_root))
}
