//! What a refused request gets: a record, and an answer in the form of its era.
//!
//! A tool's refusal is a result that a model can read, with its code in `_meta`; another's is an
//! error. What the caller may not know of is called unknown. Where the client used the protocol
//! wrongly, its program is told by an error of the protocol.

use std::borrow::Cow;

use super::Machine;
use super::call::Method;
use super::front::SERVER_INFO;
use super::outbox::Instead;
use super::road::{Ask, copied};
use super::route::Route;
use crate::audit::entry::Body as Record;
use crate::audit::entry::{Context, ContextId};
use crate::catalog::STATUS_TOOL;
use crate::clock::Now;
use crate::limits;
use crate::policy::{Access, Denial, DenialCode};
use crate::registry::doc::AuditRule;
use crate::text;
use crate::wire::era::{self, Era};
use crate::wire::msg;
use crate::wire::raw;

/// `_meta` key of a refusal: an object with its `code`.
pub(super) const META_DENIAL: &str = "mcpshim/denial";

/// JSON-RPC error code of a refusal where no tool result can carry it; outside the range the
/// protocol reserves.
const DENIED: i64 = 4030;

impl Machine {
    pub(super) fn refuse_route(
        &mut self,
        ask: &Ask<'_, '_>,
        route: &Route,
        denial: &Denial,
        now: &Now,
    ) {
        let audit = match &route.access {
            Access::Tool { name, .. } => route.server.audit.for_tool(name),
            Access::Prompt { .. } | Access::Resource { .. } => route.server.audit.for_others(),
        };
        if ask.method == Method::Listen {
            self.unconfirmed(&route.label(), false, now);
        }
        let hidden = denial.code == DenialCode::Hidden;
        let name = hidden.then(|| match &route.access {
            Access::Resource { .. } => Cow::Owned(route.label()),
            Access::Prompt { name, .. } | Access::Tool { name, .. } => Cow::Borrowed(&**name),
        });
        self.refuse(ask, route.target, audit, denial, name.as_deref(), now);
    }

    /// Records a refusal and tells the client, who does not wait for the record. `unknown` is the
    /// name to call unknown, where the client is not to learn more.
    pub(super) fn refuse(
        &mut self,
        ask: &Ask<'_, '_>,
        target: ContextId,
        audit: AuditRule,
        denial: &Denial,
        unknown: Option<&str>,
        now: &Now,
    ) {
        let code = denial.code.as_str();
        let rule = Context::Rule {
            id: code.to_owned(),
            source: String::new(),
            role: String::new(),
        };
        let rule = self.outbox.context(rule, now);
        let content = copied(ask.request.line, &ask.content);
        let facts = self.facts(ask, target, rule, audit, content, now);
        self.outbox.append(Record::Denial { facts, code }, now);
        let (id, era) = (&ask.request.id, ask.asker.era);
        match (unknown, ask.method) {
            // its acknowledgement says so
            (_, Method::Listen) => {}
            (Some(name), Method::Tool) => {
                self.error(id, -32602, &format!("Unknown tool: {}", echoed(name)), None);
            }
            (Some(_), Method::Task) => self.error(id, -32602, "Unknown task", None),
            (Some(name), Method::Prompt | Method::Complete) => {
                self.error(
                    id,
                    -32602,
                    &format!("Unknown prompt: {}", echoed(name)),
                    None,
                );
            }
            (Some(uri), Method::Read | Method::Subscribe | Method::Unsubscribe) => {
                let uri = echoed(uri);
                let data = format!("{{\"uri\":{}}}", raw::quoted(&uri));
                let text = format!("Resource not found: {uri}");
                self.error(id, era::not_found(era), &text, Some(&data));
            }
            (None, _) if denial.code.is_misuse() => {
                let data = note(code);
                self.error(id, -32602, &denial.sentence, Some(&data));
            }
            (None, method) => {
                let tool = method == Method::Tool;
                let text = self.told(denial);
                self.outbox
                    .send_client(denied(id.raw(), era, tool, code, &text));
            }
        }
    }

    /// How the client is told of a refusal: that somebody has to sign in is said once in full,
    /// then briefly, until it changes.
    fn told(&mut self, denial: &Denial) -> String {
        let text = denial.client_text();
        if denial.code != DenialCode::NoCaller {
            return text;
        }
        if self.front.told.as_deref() != Some(denial.sentence.as_str()) {
            self.front.told = Some(denial.sentence.clone());
            return text;
        }
        let what = denial.sentence.split(';').next().unwrap_or_default();
        let brief = format!("{what} (what to do was said before; {STATUS_TOOL} says it again)");
        let brief = Denial::new(DenialCode::NoCaller, brief);
        brief.until(denial.until).client_text()
    }

    pub(super) fn withheld(&mut self, instead: &Instead, denial: &Denial) {
        let Instead { id, tool, era } = instead;
        let code = denial.code.as_str();
        // not `Denial::client_text`: a withheld result was sent
        let text = format!("Refused: {}.", denial.sentence);
        self.outbox
            .send_client(denied(id, *era, *tool, code, &text));
    }
}

/// A name of the client's own, given back: one that nobody would use is cut.
fn echoed(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(limits::ECHOED_CHARS) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", name.get(..end).unwrap_or_default())),
    }
}

/// How a refusal is told of a call that was sent before: not [`Denial::client_text`], which may
/// say that nothing was.
pub(super) fn refused_later(denial: &Denial) -> String {
    format!(
        "Refused, the call does not go on and may have taken effect in part: {}.",
        denial.sentence
    )
}

/// A tool result that says what went wrong, or an error where there is no tool.
pub(super) fn failed(id: &str, era: Era, tool: bool, words: &str, data: Option<&str>) -> Vec<u8> {
    if !tool {
        return msg::error_line(id, -32603, &text::block(words), data);
    }
    era::own_line(id, &[&tool_text(words)], era, false, SERVER_INFO, None)
}

/// The same for a refusal, with its code.
pub(super) fn denied(id: &str, era: Era, tool: bool, code: &str, words: &str) -> Vec<u8> {
    let note = note(code);
    if !tool {
        return msg::error_line(id, DENIED, &text::block(words), Some(&note));
    }
    let note = Some((META_DENIAL, note.as_str()));
    era::own_line(id, &[&tool_text(words)], era, false, SERVER_INFO, note)
}

fn note(code: &str) -> String {
    format!("{{\"code\":\"{code}\"}}")
}

fn tool_text(words: &str) -> String {
    format!(
        r#""content":[{{"type":"text","text":{}}}],"isError":true"#,
        raw::quoted(&text::block(words))
    )
}
