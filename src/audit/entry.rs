//! What is recorded: the entries the session machine emits, before they are encoded.
//!
//! Contexts carry what rarely changes. They are written once per stream and referred to by
//! number; the machine gives the numbers (from 1, dense) and emits a context before its first use.
#![warn(missing_docs)]

use std::sync::Arc;

use crate::clock::Now;
use crate::ids::{CallId, CredentialId, Digest, ExposedName, OrgId, ServerId, ServerKey};
use crate::registry::Freshness;
use crate::registry::doc::{AuditRule, RegistryVersion};
use crate::secret::Content;

/// The number of a context within its stream, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(pub u32);

/// Something many calls share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Context {
    /// Who calls.
    Caller(CallerContext),
    /// The program on the other end of standard input; all of it is its own claim.
    Client {
        /// `clientInfo.name`.
        name: String,
        /// `clientInfo.version`.
        version: String,
        /// The protocol version spoken with it.
        protocol: String,
        /// The client's own session id where it claims one (`CLAUDE_CODE_SESSION_ID`, …).
        session: Option<String>,
    },
    /// A credential that an upstream was given: names and numbers, never the secret.
    Credential {
        /// Its id in the registry.
        id: CredentialId,
        /// Where the key of the vault is that it came from, e.g. `keychain`.
        store: String,
        /// Which value of it.
        serial: u64,
        /// Whose it is; `None` in records of programs that did not tell.
        owner: Option<Digest>,
    },
    /// The registry that decided.
    Registry {
        /// The organisation.
        org: OrgId,
        /// Its metadata versions.
        version: RegistryVersion,
        /// SHA-256 of the targets metadata.
        digest: Digest,
        /// How current it was.
        freshness: Freshness,
    },
    /// The rule that allowed or denied.
    Rule {
        /// The rule's id, or the denial's code for a rule-less denial.
        id: String,
        /// File and line in the registry's sources; empty for a rule-less denial.
        source: String,
        /// The role it applied to; empty when none did.
        role: String,
    },
    /// An upstream server.
    Server {
        /// Its stable id.
        id: ServerId,
        /// Its key.
        key: ServerKey,
        /// `stdio` or `http`.
        transport: String,
        /// The protocol version spoken with it; empty before the first contact.
        protocol: String,
    },
    /// One tool, prompt or other target, with its exact definition.
    Target {
        /// What kind it is.
        kind: TargetKind,
        /// The server's context; `None` where the name leads to none.
        server: Option<ContextId>,
        /// The upstream's own name (tools, prompts) — empty for URIs, which travel as content.
        name: String,
        /// The name the client saw.
        exposed: Option<ExposedName>,
        /// The pinned definition's digest.
        definition: Option<Digest>,
    },
}

/// Who calls, for the record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallerContext {
    /// An agent.
    Agent {
        /// Its name.
        name: String,
        /// Its key.
        key: String,
        /// Its roles.
        roles: Vec<String>,
    },
    /// Nobody is signed in.
    Nobody,
    /// A person.
    Person {
        /// `iss`.
        issuer: String,
        /// `sub`.
        subject: String,
        /// The name shown.
        display: String,
        /// The roles.
        roles: Vec<String>,
    },
}

/// What a call is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are MCP's")]
pub enum TargetKind {
    Completion,
    Prompt,
    Resource,
    Subscription,
    Task,
    Tool,
    /// A server-to-client ask: elicitation, sampling, roots.
    Ask,
    /// A name that resolves to nothing.
    Unknown,
}

/// Ids of the client's own, in clear, so that its logs can be joined with ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Correlation {
    /// `_meta["claudecode/toolUseId"]`.
    pub tool_use_id: Option<String>,
    /// `_meta.callId` (Codex).
    pub call_id: Option<String>,
    /// A session id inside `_meta` (Codex `x-codex-turn-metadata.session_id`).
    pub session_id: Option<String>,
    /// The trace id of `_meta.traceparent` (W3C), 32 hexadecimal digits.
    pub trace_id: Option<String>,
}

/// What is said of a call before it is sent, and of a refusal.
#[derive(Debug, Clone)]
pub struct CallFacts {
    /// The execution, or the refused attempt.
    pub call: CallId,
    /// The leg of the execution, from 0.
    pub leg: u16,
    /// Who.
    pub caller: ContextId,
    /// Through which client.
    pub client: ContextId,
    /// Aimed at what; the server follows from it.
    pub target: ContextId,
    /// Under which registry; `None` when there is none.
    pub registry: Option<ContextId>,
    /// By which rule.
    pub rule: ContextId,
    /// With which credential; `None` where the server was given none, and in refusals.
    pub credential: Option<ContextId>,
    /// The client's ids.
    pub correlation: Correlation,
    /// The client's arguments (tools, prompts, completion) or URI (resources), exact bytes.
    pub content: Content,
    /// How the content is kept.
    pub audit: AuditRule,
}

/// One entry of the stream.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When, by both clocks.
    pub at: Now,
    /// What.
    pub body: Body,
}

/// What an entry says.
#[derive(Debug, Clone)]
pub enum Body {
    /// A context and its number.
    Context(ContextId, Arc<Context>),
    /// Messages that never became a call: parse failures, unknown methods; counted, not repeated.
    Counted {
        /// A short code, e.g. `parse`, `unknown-method`, `duplicate-key`.
        code: &'static str,
        /// How many since the last such entry.
        count: u64,
    },
    /// A refusal. The code and sentence are those the client got.
    Denial {
        /// What was tried.
        facts: CallFacts,
        /// The denial's code, e.g. `not-granted`.
        code: &'static str,
    },
    /// A call is about to be sent. Written before its first byte goes upstream.
    Intent(CallFacts),
    /// A link's life: started, ready, failed, stopped, drift found.
    Link {
        /// The server's context.
        server: ContextId,
        /// A short code, e.g. `ready`, `exited`, `drift`.
        code: &'static str,
        /// One line for people; no content, no secret.
        detail: String,
    },
    /// Records that could not be written, declared once writing works again.
    Loss {
        /// How many.
        count: u64,
        /// A short code, e.g. `disk-full`.
        code: &'static str,
    },
    /// How a call ended. Exactly one for each intent, unless the process died.
    Outcome {
        /// The execution.
        call: CallId,
        /// Which of its legs.
        leg: u16,
        /// How it ended.
        end: End,
        /// From the intent to here, in microseconds.
        took_us: u64,
        /// The result or error, exact bytes as they came from upstream; empty when none came.
        content: Content,
        /// How the content is kept.
        audit: AuditRule,
    },
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The client took it back; the upstream was told.
    Cancelled,
    /// A JSON-RPC error came back.
    Error(i64),
    /// It came back with a question (`input_required`), or waits for the answer to one: another
    /// leg of the same call follows.
    Input,
    /// It was never sent: no byte reached the upstream.
    NotSent,
    /// A result came back.
    Ok,
    /// No answer in the time the server entry allows.
    Timeout,
    /// A tool result with `isError: true` came back.
    ToolError,
    /// It was sent and nothing is known: the link broke, or the shim ended.
    Unknown,
}
