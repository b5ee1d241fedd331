//! Records as JSON: a view for people and programs, never what is stored or hashed.
//!
//! Field names are stable; `docs/formats/record.md` lists them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json as value};

use super::bind::{At, Clear, WHOLE};
use super::decode::{Bound, Call, Decoded, Ending, Payload, Said, WhySize};
use super::entry::{CallerContext, Context, ContextId, End, TargetKind};
use crate::clock::{Now, Utc};
use crate::ids::{CallId, Digest, StreamId};
use crate::registry::Freshness;
use crate::registry::doc::{DurabilityClass, FailMode};

/// Contexts a table keeps, and calls whose outcome it can still explain: bounds on what a forged
/// stream makes a reader hold. Far above what one session reaches.
const CONTEXTS: usize = 1 << 16;
const CONTEXT_BYTES: usize = 32 << 20;
const CALLS: usize = 1 << 12;

/// What earlier records of a stream said, so that later ones can be understood.
#[derive(Debug, Clone)]
pub struct ContextTable {
    stream: StreamId,
    /// Each with the digest of its bytes.
    contexts: BTreeMap<ContextId, (Context, Digest)>,
    /// What they take, about.
    bytes: usize,
    /// By call and leg: each leg has an outcome of its own.
    calls: BTreeMap<(CallId, u16), Begun>,
}

/// A call whose intent was seen.
#[derive(Debug, Clone, Copy)]
struct Begun {
    facts: Facts,
    /// The clear digest of the intent; nothing where a context it names is missing.
    clear: Option<Digest>,
}

/// The contexts a call was made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Who.
    pub caller: ContextId,
    /// Through which client.
    pub client: ContextId,
    /// Aimed at what.
    pub target: ContextId,
    /// Under which registry.
    pub registry: Option<ContextId>,
    /// By which rule.
    pub rule: ContextId,
    /// With which credential.
    pub credential: Option<ContextId>,
}

impl From<&Call<'_>> for Facts {
    fn from(call: &Call<'_>) -> Self {
        Self {
            caller: call.caller,
            client: call.client,
            target: call.target,
            registry: call.registry,
            rule: call.rule,
            credential: call.credential,
        }
    }
}

impl ContextTable {
    /// Makes an empty table for a stream.
    #[must_use]
    pub fn new(stream: StreamId) -> Self {
        Self {
            stream,
            contexts: BTreeMap::new(),
            bytes: 0,
            calls: BTreeMap::new(),
        }
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Takes note of a record. Call it for every record of the stream, in order.
    pub fn observe(&mut self, record: &Decoded<'_>) {
        match &record.said {
            Said::Context { id, context } => {
                let old = self.contexts.get(id).map(|(context, _)| weight(context));
                let bytes = self.bytes - old.unwrap_or(0) + weight(context);
                let room = self.contexts.len() < CONTEXTS || old.is_some();
                if room && bytes <= CONTEXT_BYTES {
                    let body = record.clear.meta.get(record.clear.body..);
                    let digest = Digest::of(body.unwrap_or_default());
                    self.contexts.insert(*id, ((**context).clone(), digest));
                    self.bytes = bytes;
                }
            }
            Said::Carried { call, .. } | Said::Intent(call) => {
                let begun = Begun {
                    facts: call.into(),
                    clear: self.clear(record),
                };
                self.calls.insert((call.call, call.leg), begun);
                if self.calls.len() > CALLS {
                    self.calls.pop_first();
                }
            }
            Said::Counted { .. }
            | Said::Damage(_)
            | Said::Denial { .. }
            | Said::End { .. }
            | Said::Link { .. }
            | Said::Loss { .. }
            | Said::Outcome { .. }
            | Said::Segment(_)
            | Said::Stream(_)
            | Said::Unknown { .. } => {}
        }
    }

    /// The context of that number.
    #[must_use]
    pub fn context(&self, id: ContextId) -> Option<&Context> {
        self.contexts.get(&id).map(|(context, _)| context)
    }

    /// The clear digest of a record with a payload: what its sealing covers. Nothing where a
    /// context that it names, or its intent, was not seen.
    #[must_use]
    pub fn clear(&self, record: &Decoded<'_>) -> Option<Digest> {
        let at = At {
            stream: self.stream,
            seq: record.seq,
            kind: record.said.kind(),
        };
        // without its own digest or commitment, but where nothing covers it
        let hole = match record.payload() {
            Payload::Digest { .. } | Payload::Sealed { .. } => record.clear.hole,
            Payload::Empty | Payload::Size { .. } => WHOLE,
        };
        let mut clear = Clear::new(at, record.clear.meta, hole);
        match &record.said {
            Said::Carried { call, .. } | Said::Denial { call, .. } | Said::Intent(call) => {
                let digest = |id| self.contexts.get(&id).map(|(_, digest)| digest);
                let (target, digest_of_target) = self.contexts.get(&call.target)?;
                clear.add(Some(digest(call.caller)?));
                clear.add(Some(digest(call.client)?));
                clear.add(Some(digest_of_target));
                let server = if let Context::Target { server, .. } = target {
                    *server
                } else {
                    None
                };
                // the writer may name one that it never made
                clear.add(server.and_then(digest));
                clear.add(Some(digest(call.rule)?));
                clear.add(present(call.registry.map(digest))?);
                clear.add(present(call.credential.map(digest))?);
            }
            Said::Outcome {
                call, leg, payload, ..
            } => {
                let own = matches!(
                    payload,
                    Payload::Digest {
                        bound: Bound::Own,
                        ..
                    } | Payload::Sealed {
                        bound: Bound::Own,
                        ..
                    }
                );
                if own {
                    clear.add(None);
                } else {
                    clear.add(Some(&self.calls.get(&(*call, *leg))?.clear?));
                }
            }
            Said::Context { .. }
            | Said::Counted { .. }
            | Said::Damage(_)
            | Said::End { .. }
            | Said::Link { .. }
            | Said::Loss { .. }
            | Said::Segment(_)
            | Said::Stream(_)
            | Said::Unknown { .. } => return None,
        }
        Some(clear.finish())
    }

    /// The contexts of the call a record belongs to: its own, or those of its intent.
    #[must_use]
    pub fn facts(&self, record: &Decoded<'_>) -> Option<Facts> {
        match &record.said {
            Said::Carried { call, .. } | Said::Denial { call, .. } | Said::Intent(call) => {
                Some(call.into())
            }
            Said::Outcome { call, leg, .. } => {
                self.calls.get(&(*call, *leg)).map(|begun| begun.facts)
            }
            Said::Context { .. }
            | Said::Counted { .. }
            | Said::Damage(_)
            | Said::End { .. }
            | Said::Link { .. }
            | Said::Loss { .. }
            | Said::Segment(_)
            | Said::Stream(_)
            | Said::Unknown { .. } => None,
        }
    }
}

/// A context that is named must be there; one that is not named need not.
fn present(named: Option<Option<&Digest>>) -> Option<Option<&Digest>> {
    match named {
        None => Some(None),
        Some(found) => found.map(Some),
    }
}

/// What a context takes in memory, about: its texts, each with its place.
fn weight(context: &Context) -> usize {
    let text = |text: &String| size_of::<String>() + text.len();
    let texts = |texts: &[String]| texts.iter().map(text).sum::<usize>();
    let own = match context {
        Context::Caller(CallerContext::Nobody) | Context::Registry { .. } => 0,
        Context::Server {
            transport,
            protocol,
            ..
        } => text(transport) + text(protocol),
        Context::Caller(CallerContext::Agent { name, key, roles }) => {
            text(name) + text(key) + texts(roles)
        }
        Context::Caller(CallerContext::Person {
            issuer,
            subject,
            display,
            roles,
        }) => text(issuer) + text(subject) + text(display) + texts(roles),
        Context::Client {
            name,
            version,
            protocol,
            session,
        } => text(name) + text(version) + text(protocol) + session.as_ref().map_or(0, text),
        Context::Credential { store, .. } => text(store),
        Context::Rule { id, source, role } => text(id) + text(source) + text(role),
        Context::Target { name, .. } => text(name),
    };
    own + size_of::<Context>()
}

/// Shows a record as one JSON object.
#[must_use]
pub fn json(record: &Decoded<'_>, table: &ContextTable) -> Value {
    let mut view = Map::new();
    let mut put = |name: &str, value: Value| {
        view.insert(name.to_owned(), value);
    };
    put("event", format!("{}/{}", table.stream, record.seq).into());
    put("time", rfc3339(record.at).into());
    put("mono_us", record.at.mono_us.into());
    put("phase", phase(&record.said).into());
    match &record.said {
        Said::Carried { stream, seq, call } => {
            put("decision", "allow".into());
            put("intent", format!("{stream}/{seq}").into());
            put_call(&mut put, call);
        }
        Said::Context { id, context } => {
            put("context", id.0.into());
            put("value", context_json(context, table));
        }
        Said::Counted { code, count } | Said::Loss { code, count } => {
            put("code", (*code).into());
            put("count", (*count).into());
        }
        Said::Damage(damage) => {
            put("file", damage.file.into());
            put("offset", damage.offset.into());
            put("bytes", damage.bytes.into());
            put("readable_records", damage.readable.into());
            put("highest_seq", damage.highest_seq.into());
            put("sha256", damage.digest.to_string().into());
        }
        Said::Denial { call, code } => {
            put("decision", "deny".into());
            put("code", (*code).into());
            put_call(&mut put, call);
        }
        Said::End { how, cut_bytes, .. } => {
            let how = match how {
                Ending::Adopted => "adopted",
                Ending::Closed => "closed",
            };
            put("how", how.into());
            put("cut_bytes", (*cut_bytes).into());
        }
        Said::Intent(call) => {
            put("decision", "allow".into());
            put_call(&mut put, call);
        }
        Said::Link {
            server,
            code,
            detail,
        } => {
            put_server(&mut put, *server, table);
            put("code", (*code).into());
            put("detail", (*detail).into());
        }
        Said::Outcome {
            call,
            leg,
            end,
            took_us,
            payload,
        } => {
            put("decision", "allow".into());
            put("call", call.0.into());
            put("leg", (*leg).into());
            let (end, code) = end_text(*end);
            put("end", end.into());
            if let Some(code) = code {
                put("error_code", code.into());
            }
            put("took_us", (*took_us).into());
            put_payload(&mut put, "result", payload);
        }
        Said::Segment(segment) => {
            put("stream", segment.stream.to_string().into());
            put("org", segment.org.as_str().into());
            put("machine_id", segment.machine_id.into());
            put("installation", segment.installation.as_str().into());
            let keys: Vec<&str> = segment.wrapped.iter().map(|wrapped| wrapped.key).collect();
            put("sealed_to", keys.into());
            if segment.detached {
                put("keys_taken_away", true.into());
            }
        }
        Said::Stream(header) => {
            put("stream", header.stream.to_string().into());
            put("org", header.org.as_str().into());
            put("machine_id", header.machine_id.as_str().into());
            put("installation", header.installation.as_str().into());
            put("pid", header.pid.into());
            put("version", header.version.as_str().into());
            put("started", rfc3339(header.started).into());
            put(
                "registry_version",
                header.registry.map(|version| version.targets).into(),
            );
            let previous = header.previous.iter().map(|previous| {
                value!({
                    "stream": previous.stream.to_string(),
                    "at_least": previous.at_least,
                    "hash": previous.hash.to_string(),
                })
            });
            put("previous", previous.collect());
            put("others", header.others.into());
        }
        Said::Unknown { kind } => put("kind", (*kind).into()),
    }
    if let Some(facts) = table.facts(record) {
        put_facts(&mut put, facts, table);
    }
    Value::Object(view)
}

fn phase(said: &Said<'_>) -> &'static str {
    match said {
        Said::Carried { .. } => "carried",
        Said::Context { .. } => "context",
        Said::Counted { .. } => "counted",
        Said::Damage(_) => "damage",
        Said::Denial { .. } => "denial",
        Said::End { .. } => "end",
        Said::Intent(_) => "intent",
        Said::Link { .. } => "link",
        Said::Loss { .. } => "loss",
        Said::Outcome { .. } => "outcome",
        Said::Segment(_) => "segment",
        Said::Stream(_) => "stream",
        Said::Unknown { .. } => "unknown",
    }
}

fn put_call(put: &mut impl FnMut(&str, Value), call: &Call<'_>) {
    put("call", call.call.0.into());
    put("leg", call.leg.into());
    let class = match call.class {
        DurabilityClass::Process => "process",
        DurabilityClass::Disk => "disk",
        DurabilityClass::Collector => "collector",
    };
    put("class", class.into());
    let fail_mode = match call.fail_mode {
        FailMode::Closed => "closed",
        FailMode::Open => "open",
    };
    put("fail_mode", fail_mode.into());
    let mut text = |name: &str, text: Option<&str>| {
        if let Some(text) = text {
            put(name, text.into());
        }
    };
    text("tool_use_id", call.ids.tool_use_id);
    text("call_id", call.ids.call_id);
    text("session_id", call.ids.session_id);
    let trace = call
        .ids
        .trace_id
        .map(|id| data_encoding::HEXLOWER.encode(&id));
    text("trace_id", trace.as_deref());
    put_payload(put, "args", &call.payload);
}

fn put_payload(put: &mut impl FnMut(&str, Value), what: &str, payload: &Payload<'_>) {
    let kept = match payload {
        Payload::Digest { .. } => "digest",
        Payload::Empty => "empty",
        Payload::Sealed { bytes: Some(_), .. } => "sealed",
        Payload::Sealed { bytes: None, .. } => "taken-away",
        Payload::Size {
            why: WhySize::NoKey,
            ..
        } => "size-no-key",
        Payload::Size {
            why: WhySize::NoRoom,
            ..
        } => "size-no-room",
        Payload::Size {
            why: WhySize::Rule, ..
        } => "size",
    };
    put(&format!("{what}_kept"), kept.into());
    let bucket = match payload {
        Payload::Digest { bucket, .. }
        | Payload::Sealed { bucket, .. }
        | Payload::Size { bucket, .. } => *bucket,
        Payload::Empty => 0,
    };
    put(&format!("{what}_bucket"), bucket.into());
    if let Payload::Digest { digest, .. } = payload {
        put(&format!("{what}_digest"), digest.to_string().into());
    }
}

fn put_facts(put: &mut impl FnMut(&str, Value), facts: Facts, table: &ContextTable) {
    match table.context(facts.caller) {
        Some(Context::Caller(CallerContext::Agent { name, .. })) => {
            put("agent", name.as_str().into());
        }
        Some(Context::Caller(CallerContext::Person {
            issuer,
            subject,
            display,
            ..
        })) => {
            put("person", display.as_str().into());
            put("issuer", issuer.as_str().into());
            put("subject", subject.as_str().into());
        }
        Some(Context::Caller(CallerContext::Nobody)) => put("person", Value::Null),
        _ => put("caller_context", facts.caller.0.into()),
    }
    match table.context(facts.client) {
        Some(Context::Client {
            name,
            version,
            protocol,
            session,
        }) => {
            put("client", name.as_str().into());
            put("client_version", version.as_str().into());
            put("protocol", protocol.as_str().into());
            if let Some(session) = session {
                put("client_session_id", session.as_str().into());
            }
        }
        _ => put("client_context", facts.client.0.into()),
    }
    match table.context(facts.target) {
        Some(Context::Target {
            kind,
            server,
            name,
            exposed,
            definition,
        }) => {
            put("target", target_text(*kind).into());
            let server = server.and_then(|server| put_server(put, server, table));
            if !name.is_empty() {
                let whole = match server {
                    Some(server) => format!("{server}/{name}"),
                    None => name.clone(),
                };
                let field = match kind {
                    TargetKind::Prompt => "prompt",
                    TargetKind::Ask
                    | TargetKind::Completion
                    | TargetKind::Resource
                    | TargetKind::Subscription
                    | TargetKind::Task => "name",
                    TargetKind::Tool | TargetKind::Unknown => "tool",
                };
                put(field, whole.into());
            }
            if let Some(exposed) = exposed {
                put("exposed", exposed.as_str().into());
            }
            if let Some(definition) = definition {
                put("definition", definition.to_string().into());
            }
        }
        _ => put("target_context", facts.target.0.into()),
    }
    match table.context(facts.rule) {
        Some(Context::Rule { id, source, role }) => {
            put("rule", id.as_str().into());
            for (name, text) in [("rule_source", source), ("role", role)] {
                if !text.is_empty() {
                    put(name, text.as_str().into());
                }
            }
        }
        _ => put("rule_context", facts.rule.0.into()),
    }
    match facts.credential.map(|id| table.context(id)) {
        Some(Some(Context::Credential {
            id,
            store,
            serial,
            owner,
        })) => {
            put("credential", id.as_str().into());
            put("credential_store", store.as_str().into());
            put("credential_serial", (*serial).into());
            if let Some(owner) = owner {
                put("credential_owner", owner.to_string().into());
            }
        }
        Some(_) => put("credential_context", facts.credential.map(|id| id.0).into()),
        None => {}
    }
    match facts.registry.map(|id| table.context(id)) {
        Some(Some(Context::Registry {
            version,
            digest,
            freshness,
            ..
        })) => {
            put("registry_version", version.targets.into());
            put("registry_digest", digest.to_string().into());
            put("freshness", freshness_text(*freshness).into());
        }
        Some(_) => put("registry_context", facts.registry.map(|id| id.0).into()),
        None => put("registry_version", Value::Null),
    }
}

fn put_server<'t>(
    put: &mut impl FnMut(&str, Value),
    id: ContextId,
    table: &'t ContextTable,
) -> Option<&'t str> {
    let Some(Context::Server {
        id,
        key,
        transport,
        protocol,
    }) = table.context(id)
    else {
        return None;
    };
    put("server", key.as_str().into());
    put("server_id", id.as_str().into());
    put("transport", transport.as_str().into());
    if !protocol.is_empty() {
        put("server_protocol", protocol.as_str().into());
    }
    Some(key.as_str())
}

fn context_json(context: &Context, table: &ContextTable) -> Value {
    match context {
        Context::Caller(CallerContext::Nobody) => value!({"caller": null}),
        Context::Caller(CallerContext::Agent { name, key, roles }) => {
            value!({"agent": name, "key": key, "roles": roles})
        }
        Context::Caller(CallerContext::Person {
            issuer,
            subject,
            display,
            roles,
        }) => {
            value!({"person": display, "issuer": issuer, "subject": subject, "roles": roles})
        }
        Context::Client {
            name,
            version,
            protocol,
            session,
        } => {
            value!({"client": name, "client_version": version, "protocol": protocol,
                "client_session_id": session})
        }
        Context::Credential {
            id,
            store,
            serial,
            owner,
        } => {
            let mut value = value!({"credential": id.as_str(), "credential_store": store,
                "credential_serial": serial});
            if let Some(owner) = owner
                && let Value::Object(object) = &mut value
            {
                object.insert("credential_owner".to_owned(), owner.to_string().into());
            }
            value
        }
        Context::Registry {
            org,
            version,
            digest,
            freshness,
        } => {
            value!({"org": org.as_str(), "registry_version": version.targets,
                "root": version.root, "snapshot": version.snapshot,
                "timestamp": version.timestamp, "registry_digest": digest.to_string(),
                "freshness": freshness_text(*freshness)})
        }
        Context::Rule { id, source, role } => {
            value!({"rule": id, "rule_source": source, "role": role})
        }
        Context::Server {
            id,
            key,
            transport,
            protocol,
        } => {
            value!({"server": key.as_str(), "server_id": id.as_str(), "transport": transport,
                "server_protocol": protocol})
        }
        Context::Target {
            kind,
            server,
            name,
            exposed,
            definition,
        } => {
            let server = match server.and_then(|server| table.context(server)) {
                Some(Context::Server { key, .. }) => Some(key.as_str()),
                _ => None,
            };
            value!({"target": target_text(*kind), "server": server, "name": name,
                "exposed": exposed.as_ref().map(|name| name.as_str()),
                "definition": definition.map(|digest: Digest| digest.to_string())})
        }
    }
}

fn target_text(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Ask => "ask",
        TargetKind::Completion => "completion",
        TargetKind::Prompt => "prompt",
        TargetKind::Resource => "resource",
        TargetKind::Subscription => "subscription",
        TargetKind::Task => "task",
        TargetKind::Tool => "tool",
        TargetKind::Unknown => "unknown",
    }
}

fn freshness_text(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Grace => "grace",
        Freshness::Lapsed => "lapsed",
    }
}

fn end_text(end: End) -> (&'static str, Option<i64>) {
    match end {
        End::Cancelled => ("cancelled", None),
        End::Error(code) => ("error", Some(code)),
        End::Input => ("input_required", None),
        End::NotSent => ("not_sent", None),
        End::Ok => ("ok", None),
        End::Timeout => ("timeout", None),
        End::ToolError => ("tool_error", None),
        End::Unknown => ("unknown", None),
    }
}

/// Writes a wall time as RFC 3339 in UTC with microseconds.
#[must_use]
pub fn rfc3339(at: Now) -> String {
    let second = Utc(at.unix_s()).to_string();
    let micros = at.wall_us % 1_000_000;
    format!("{}.{micros:06}Z", second.trim_end_matches('Z'))
}
