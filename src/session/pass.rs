//! What a server of the stateless era asks a client of the same era: passed on as it is.
//!
//! The client answers with its next request, byte for byte as the server wants it. Looked at is
//! only whether the server may ask it and the client said that it can be asked; and a person reads
//! first who asks.

use super::Machine;
use super::ask::Refusal;
use super::call::Method;
use super::drive::{self, Unfit, Wanted};
use super::link;
use super::question;
use super::relay;
use super::shown::{self, Texts};
use crate::clock::Now;
use crate::ids::LinkId;
use crate::limits;
use crate::registry::doc::ServerDoc;
use crate::wire::era::{Asked, Can};
use crate::wire::raw::{self, Object};

impl Machine {
    /// Looks at what asks for input in a line, an `input_required` result or a task: gives what to
    /// put where.
    ///
    /// # Errors
    /// What the client is told instead.
    pub(super) fn passes(
        &mut self,
        link: LinkId,
        can: Can,
        method: Method,
        line: &str,
        result: &Object<'_>,
        now: &Now,
    ) -> Result<Texts, String> {
        let Some(server) = self.server_of(link) else {
            return Err("its server is gone".to_owned());
        };
        let says = |why: &str| format!("server {} asks for input, but {why}", server.key);
        if !method.may_ask() {
            return Err(says("the protocol knows none for this request"));
        }
        let input = match drive::input(result) {
            Ok(input) => input,
            Err(Unfit::Bad(why)) => return Err(says(why)),
            Err(Unfit::Refused(method, refusal, params)) => {
                self.deny_ask(link, method, params.as_deref(), refusal, now);
                return Err(says("nobody here knows what it asks for"));
            }
        };
        let mut texts = Vec::new();
        for wanted in &input.parts {
            let (method, _) = relay::named(wanted.asked);
            if let Err((refusal, why)) = may_pass(&server, can, wanted) {
                let params = wanted.params.as_ref().map(Object::raw);
                self.deny_ask(link, method, params, refusal, now);
                return Err(says(&why));
            }
            let Some(shown) = shown_in(line, server.key.as_str(), wanted) else {
                let params = wanted.params.as_ref().map(Object::raw);
                self.deny_ask(link, method, params, Refusal::Malformed, now);
                return Err(says(
                    "it hides something from the person who would be asked",
                ));
            };
            texts.extend(shown);
        }
        Ok(texts)
    }
}

fn may_pass(server: &ServerDoc, can: Can, wanted: &Wanted<'_>) -> Result<(), (Refusal, String)> {
    let (asked, params) = (wanted.asked, wanted.params.as_ref());
    let (method, _) = relay::named(asked);
    if !link::allowed(server).covers(asked) {
        let why = format!(
            "the organisation does not let it ask for {method}; ask {}",
            server.owner
        );
        return Err((Refusal::NotInEntry, why));
    }
    if !can.covers(asked) {
        let why = format!("this client offers no {}", asked.name());
        return Err((Refusal::NotDeclared(asked), why));
    }
    let text = |key: &str| params.and_then(|params| params.text(key));
    let fit = match asked {
        Asked::Form => text("message").is_some(),
        Asked::Roots => true,
        Asked::Sampling { .. } => params.is_some(),
        Asked::Url => {
            text("message").is_some() && text("url").is_some_and(|url| question::is_web(&url))
        }
    };
    let long = params.is_some_and(|params| params.raw().len() > limits::ELICITATION_BYTES);
    match (fit, asked, long) {
        (false, _, _) => Err((
            Refusal::Malformed,
            "what it asks for cannot be read".to_owned(),
        )),
        (true, Asked::Form | Asked::Url, true) => {
            Err((Refusal::TooMany, "what it asks for is too long".to_owned()))
        }
        (true, _, _) => Ok(()),
    }
}

/// What a person sees of one part, and where in the line.
fn shown_in(line: &str, server: &str, wanted: &Wanted<'_>) -> Option<Texts> {
    let Some(params) = &wanted.params else {
        return Some(Vec::new());
    };
    let at = raw::place(line, params.raw())?.start;
    let from = params.span().start;
    let moved = |(place, text): (std::ops::Range<usize>, String)| {
        (at + place.start - from..at + place.end - from, text)
    };
    let texts = shown::texts(params, wanted.asked, server)?;
    Some(texts.into_iter().map(moved).collect())
}
