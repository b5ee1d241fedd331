//! What an upstream asks of the client: roots, sampling, elicitation.
//!
//! A link declares none of the client's capabilities but roots, and those only for a server whose
//! entry says so ([`super::roots`]); so a server that keeps the protocol asks for nothing else but
//! `ping`. What is asked all the same is refused with the JSON-RPC error for a
//! method that is not there, and recorded. Relaying (a leg of the execution it belongs to, with
//! its own decision) takes its place here.

use super::Machine;
use super::outbox::{Housekeeping, Upstream};
use crate::audit::entry::{Body as Record, CallFacts, Context, Correlation, TargetKind};
use crate::clock::Now;
use crate::ids::LinkId;
use crate::registry::doc::AuditRule;
use crate::secret::Content;
use crate::wire::msg::Request;

/// The code of an ask's refusal in the record.
const NOT_OFFERED: &str = "not-offered";

impl Machine {
    /// `_during` is the call it belongs to, where the transport knows.
    pub(super) fn upstream_asks(
        &mut self,
        link: LinkId,
        _during: Option<u64>,
        request: &Request<'_>,
        now: &Now,
    ) {
        let Some(server) = self.server_of(link) else {
            return;
        };
        if server.roots && request.method == "roots/list" && self.asks_once_more(link, true) {
            return self.roots_asked(link, &server, request, now);
        }
        let known = match request.method.as_ref() {
            "elicitation/create" | "roots/list" | "sampling/createMessage" => {
                request.method.as_ref()
            }
            _ => "",
        };
        let why = format!("Method not found: {} is not offered here", request.method);
        let refusal = Housekeeping::Refuse(request.id.raw().into(), why);
        self.outbox.send_link(link, Upstream::Housekeeping(refusal));
        if !self.asks_once_more(link, false) {
            return self.outbox.count("ask", now);
        }
        let server = self.server_context(&server, now);
        let target = Context::Target {
            kind: TargetKind::Ask,
            server: Some(server),
            name: known.to_owned(),
            exposed: None,
            definition: None,
        };
        let rule = Context::Rule {
            id: NOT_OFFERED.to_owned(),
            source: String::new(),
            role: String::new(),
        };
        let params = request
            .params
            .as_ref()
            .map_or("", |params| params.object.raw());
        let facts = CallFacts {
            call: self.calls.attempt(),
            leg: 0,
            caller: self.caller_context(now),
            client: self.last_client_context(now),
            target: self.outbox.context(target, now),
            registry: self.registry_context(now),
            rule: self.outbox.context(rule, now),
            credential: None,
            correlation: Correlation::default(),
            content: Content(bytes::Bytes::copy_from_slice(params.as_bytes())),
            audit: AuditRule::default(),
        };
        let code = NOT_OFFERED;
        self.outbox.append(Record::Denial { facts, code }, now);
    }
}
