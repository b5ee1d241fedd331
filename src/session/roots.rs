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

use super::Machine;
use super::ask::{Question, Questioner, Refusal};
use super::call::{Key, Leg, Outcome};
use super::outbox::{Housekeeping, Upstream};
use super::question::{self, Purpose};
use crate::audit::entry::End;
use crate::clock::Now;
use crate::ids::LinkId;
use crate::limits;
use crate::registry::doc::ServerDoc;
use crate::secret::Content;
use crate::wire::msg::{self, Body, IdKey, Request, Response};
use crate::wire::raw::{self, Object};

/// What the session knows of where the client works.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// The client has roots and says them when it is asked.
    offered: bool,
    /// What it said last: a JSON array.
    known: Option<String>,
    asked: Option<Asked>,
    waiting: Vec<Wait>,
    /// For clients that have none: a JSON array.
    project: Option<String>,
}

/// The question to the client that is open.
#[derive(Debug)]
struct Asked {
    /// They changed meanwhile: what is answered does not count.
    stale: bool,
}

/// An upstream that waits for the answer.
#[derive(Debug)]
struct Wait {
    to: Questioner,
    leg: Leg,
}

impl Roots {
    /// How many upstreams wait.
    #[cfg(any(test, fuzzing))]
    pub(super) fn held(&self) -> usize {
        self.waiting.len()
    }

    /// The client opens its session.
    pub(super) fn opened(&mut self, offered: bool) {
        self.offered = offered;
        self.known = None;
    }
}

impl Machine {
    /// Says where the client works, for clients that do not say it themselves: a `file:` URI.
    pub fn set_project(&mut self, uri: &str) {
        // no name: what the client would call it is not known
        let uri = raw::quoted(uri);
        self.roots.project = Some(format!(r#"[{{"uri":{uri}}}]"#));
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
        let to = self.questioner(link, server, during, request);
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
                // what a client of the stateless era said last
                let said = roots.known.as_ref().or(roots.project.as_ref()).cloned();
                match said.as_deref() {
                    Some(said) => self.say_roots(wait, Ok(said), now),
                    // servers keep what they were told: rather no answer than none
                    None if self.says_roots_in_calls() => {
                        self.say_roots(wait, Err("the client says its roots only in calls"), now);
                    }
                    None => self.say_roots(wait, Ok("[]"), now),
                }
            }
        }
    }

    /// Whether only the client knows, and says it only where a call waits for it: what it said
    /// before holds for who asks outside of any call.
    pub(super) fn says_roots_in_calls(&self) -> bool {
        let roots = &self.roots;
        self.front.can.roots && !roots.offered && roots.project.is_none()
    }

    /// Whether the client said its roots before.
    pub(super) fn knows_roots(&self) -> bool {
        self.roots.known.is_some()
    }

    /// Asks the client, unless it is being asked.
    fn ask_client(&mut self, now: &Now) {
        if self.roots.asked.is_some() {
            return;
        }
        let Some(number) = self.questions.open(Purpose::Roots, limits::ROOTS_MS, now) else {
            return self.tell_waiting(Err("the client is asked too much"), now);
        };
        let line = msg::request_line(&question::token(number), "roots/list", None);
        self.roots.asked = Some(Asked { stale: false });
        self.outbox.send_client(line);
    }

    /// The client says them, or that it does not.
    pub(super) fn roots_answered(&mut self, response: &Response<'_>, now: &Now) {
        if self.roots.asked.take().is_some_and(|asked| asked.stale) {
            return self.ask_client(now);
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
    }

    /// A client of the stateless era said them in a call: an array of roots in an answer.
    pub(super) fn learn_roots(&mut self, answer: &str) {
        let answer = Object::parse(answer).ok();
        let roots = answer.and_then(|answer| answer.get("roots"));
        if let Some(roots) = roots.filter(|roots| are_roots(roots)) {
            self.roots.known = Some(roots.to_owned());
        }
    }

    /// The client does not say them.
    pub(super) fn roots_failed(&mut self, why: &str, now: &Now) {
        self.roots.asked = None;
        self.tell_waiting(Err(why), now);
    }

    fn tell_waiting(&mut self, said: Result<&str, &str>, now: &Now) {
        for wait in std::mem::take(&mut self.roots.waiting) {
            self.say_roots(wait, said, now);
        }
    }

    /// Answers one upstream, once the answer is recorded.
    fn say_roots(&mut self, wait: Wait, said: Result<&str, &str>, now: &Now) {
        match said {
            Ok(roots) => {
                let result = format!("{{\"roots\":{roots}}}");
                let line = msg::result_line(&wait.to.id, &result);
                let outcome = Outcome {
                    end: End::Ok,
                    content: Content(result.into()),
                };
                self.tell(wait.to, wait.leg, outcome, line.into(), now);
            }
            Err(why) => self.tell_error(wait.to, wait.leg, End::Error(-32603), why, now),
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

    /// An upstream takes its question back.
    pub(super) fn roots_cancelled(&mut self, link: LinkId, id: &IdKey, now: &Now) {
        let this = |wait: &mut Wait| wait.to.link == link && wait.to.key == *id;
        let gone: Vec<Wait> = self.roots.waiting.extract_if(.., this).collect();
        for wait in gone {
            self.drop_ask(wait.leg, now);
        }
    }

    /// A transport is gone, and its questions with it; all of them when the session ends.
    pub(super) fn forget_asks(&mut self, of: Option<LinkId>, now: &Now) {
        self.forget_relays(of, now);
        self.forget_parks(of, now);
        let gone = |wait: &mut Wait| of.is_none_or(|link| wait.to.link == link);
        let gone: Vec<Wait> = self.roots.waiting.extract_if(.., gone).collect();
        for wait in gone {
            self.drop_ask(wait.leg, now);
        }
    }
}

/// Whether a JSON text is a list of roots that can be passed on.
pub(super) fn are_roots(text: &str) -> bool {
    let is_root = |root: &str| {
        let root = Object::parse(root).ok();
        root.is_some_and(|root| root.unique().is_ok() && root.text("uri").is_some())
    };
    text.len() <= limits::ROOTS_BYTES
        && raw::elements(text)
            .is_ok_and(|roots| roots.len() <= limits::ROOTS && roots.into_iter().all(is_root))
}
