//! The documents inside a registry: the targets that TUF metadata names.
//!
//! One file each, flat: `org.json`, `policy.json`, `revocations.json` and `server-<id>.json`.
//! Readers ignore unknown members; `format` and `min_reader` say when that is not enough.
#![warn(missing_docs)]

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::clock::{Latest, Now};
use crate::ids::{
    AgentName, CredentialId, Digest, ExposedName, KeyId, OrgId, RoleName, ServerId, ServerKey,
};

/// The format these types write, and the newest they read.
pub const FORMAT: u32 = 1;

/// Reads a map and refuses a repeated key, where `BTreeMap` alone would keep the last: two readers
/// must not find two grants in one document.
fn unique<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    struct UniqueVisitor<K, V>(PhantomData<(K, V)>);

    impl<'de, K, V> Visitor<'de> for UniqueVisitor<K, V>
    where
        K: Deserialize<'de> + Ord + fmt::Display,
        V: Deserialize<'de>,
    {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object without repeated members")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = BTreeMap::new();
            while let Some((key, value)) = map.next_entry::<K, V>()? {
                if out.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("member {key} is repeated")));
                }
                out.insert(key, value);
            }
            Ok(out)
        }
    }

    deserializer.deserialize_map(UniqueVisitor(PhantomData))
}

/// [`unique`] on both levels.
fn unique_twice<'de, D, K, L, V>(deserializer: D) -> Result<BTreeMap<K, BTreeMap<L, V>>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + fmt::Display,
    L: Deserialize<'de> + Ord + fmt::Display,
    V: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(transparent)]
    #[serde(bound(deserialize = "L: Deserialize<'de> + Ord + fmt::Display, V: Deserialize<'de>"))]
    struct Inner<L: Ord, V>(#[serde(deserialize_with = "unique")] BTreeMap<L, V>);

    let outer: BTreeMap<K, Inner<L, V>> = unique(deserializer)?;
    Ok(outer
        .into_iter()
        .map(|(key, inner)| (key, inner.0))
        .collect())
}

/// `org.json`: the organisation and what all its machines share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrgDoc {
    /// The format of this document.
    pub format: u32,
    /// The lowest reader that may use it.
    pub min_reader: u32,
    /// The organisation's id; must equal the one pinned in the configuration.
    pub org: OrgId,
    /// The name people use.
    pub name: String,
    /// Whom to ask when something is refused and no role or server says better.
    pub help: String,
    /// Where audit batches go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<CollectorDoc>,
    /// Keys that arguments are sealed to; the collector never holds the private halves.
    #[serde(default)]
    pub audit_keys: Vec<AuditKeyDoc>,
    /// Identity providers whose ID tokens name people.
    #[serde(default)]
    pub issuers: Vec<IssuerDoc>,
    /// Where a machine may keep secrets when its keychain cannot be used.
    #[serde(default)]
    pub secret_stores: SecretStoresDoc,
    /// How long an expired timestamp is still used, in hours (grace), before every call is refused.
    pub grace_hours: u32,
    /// The lowest client version that may serve calls, e.g. `0.1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_client: Option<String>,
    /// Bounds where a server's entry has none of its own.
    #[serde(default, skip_serializing_if = "OrgLimits::is_default")]
    pub limits: OrgLimits,
}

/// Bounds for all servers of an organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OrgLimits {
    /// How often the same call may be made; absent: [`crate::limits::REPEAT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<RepeatLimit>,
}

impl OrgLimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How often the same call may be made: the same tool with the same arguments, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepeatLimit {
    /// So often…
    pub calls: u32,
    /// …within so many seconds. With 0 calls there is no limit.
    pub seconds: u32,
}

impl RepeatLimit {
    /// No limit: `off`.
    pub const OFF: Self = Self {
        calls: 0,
        seconds: 0,
    };

    /// Calls and microseconds; `None` where there is no limit. What a registry says beyond
    /// [`crate::limits::REPEAT_MOST`] counts as that: memory is ours.
    #[must_use]
    pub fn window(self) -> Option<(usize, u64)> {
        let (calls, seconds) = crate::limits::REPEAT_MOST;
        let within_us = u64::from(self.seconds.min(seconds)) * 1_000_000;
        let calls = usize::try_from(self.calls.min(calls)).unwrap_or_default();
        (calls > 0 && within_us > 0).then_some((calls, within_us))
    }
}

impl Default for RepeatLimit {
    fn default() -> Self {
        let (calls, seconds) = crate::limits::REPEAT;
        Self { calls, seconds }
    }
}

/// Where audit batches go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorDoc {
    /// `https://…`, or `http://` on a loopback address.
    pub url: String,
    /// A private CA in PEM form, used beside the trust store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
}

/// Where a machine may keep the key of its vault beside the operating system's keychain. The
/// default is the keychain alone: nothing falls back to less by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SecretStoresDoc {
    /// A file that only its user can read.
    #[serde(default)]
    pub key_file: bool,
    /// A systemd credential (`$CREDENTIALS_DIRECTORY/mcpshim-vault-key`).
    #[serde(default)]
    pub systemd_credential: bool,
}

/// One audit key (HPKE recipient, RFC 9180).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditKeyDoc {
    /// SHA-256 of the public key, in hexadecimal.
    pub id: KeyId,
    /// The HPKE suite: `x25519-hkdf-sha256/chacha20poly1305`.
    pub suite: String,
    /// The public key, base64.
    pub public: String,
    /// Not used to seal before this Unix second.
    pub not_before: u64,
    /// Not used to seal from this Unix second on.
    pub not_after: u64,
}

/// One identity provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssuerDoc {
    /// `iss`, compared by simple string comparison.
    pub issuer: String,
    /// `aud`: our client id at this issuer.
    pub client_id: String,
    /// The claim that holds the groups.
    pub groups_claim: String,
    /// Scopes asked for beside `openid` and `offline_access`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Whether people may sign in by the device flow (RFC 8628). It can be phished, so the
    /// default is no.
    #[serde(default)]
    pub device_flow: bool,
    /// Whether the issuer is known to check proof keys (PKCE with S256) although its metadata say
    /// nothing of them, as Entra ID's do. Without it such an issuer is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pkce_unadvertised: bool,
    /// The issuer's signing keys, a JWK Set (RFC 7517) as it was fetched.
    pub jwks: serde_json::Value,
}

/// `policy.json`: roles, agents and the compiled role → tool tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDoc {
    /// The format of this document.
    pub format: u32,
    /// The lowest reader that may use it.
    pub min_reader: u32,
    /// Every role.
    #[serde(deserialize_with = "unique")]
    pub roles: BTreeMap<RoleName, RoleDoc>,
    /// Every agent.
    #[serde(deserialize_with = "unique")]
    pub agents: BTreeMap<AgentName, AgentDoc>,
    /// The rules that table entries refer to by index.
    pub rules: Vec<RuleDoc>,
    /// What each role may use, per server. Absent means denied.
    #[serde(deserialize_with = "unique_twice")]
    pub grants: BTreeMap<RoleName, BTreeMap<ServerKey, GrantTable>>,
}

/// One role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleDoc {
    /// What the role is for, one line.
    pub title: String,
    /// Groups of the identity provider that give it.
    pub groups: Vec<String>,
    /// Whom to ask for it.
    pub ask: String,
}

/// One agent: a pipeline or robot with its own key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDoc {
    /// The team that answers for it.
    pub owner: String,
    /// Its Ed25519 public key, base64.
    pub public_key: String,
    /// Its roles.
    pub roles: Vec<RoleName>,
    /// Refused from this Unix second on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
}

/// Where a table entry comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleDoc {
    /// A stable name, e.g. `eng/github#2`.
    pub id: String,
    /// File and line in the registry's sources, e.g. `roles/eng.yaml:14`.
    pub source: String,
    /// Who approved it.
    pub approved_by: String,
    /// When, as written.
    pub approved_at: String,
    /// Refused from this Unix second on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
}

/// What one role may use on one server. Values are indexes into [`PolicyDoc::rules`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTable {
    /// Tools by the upstream's own name.
    #[serde(default, deserialize_with = "unique")]
    pub tools: BTreeMap<String, u32>,
    /// Prompts by the upstream's own name.
    #[serde(default, deserialize_with = "unique")]
    pub prompts: BTreeMap<String, u32>,
    /// Resource URI globs, in order (`*` is any run of characters; everything else is literal).
    #[serde(default)]
    pub resources: Vec<(String, u32)>,
    /// Tool name globs, used only where the server's pin is `off`.
    #[serde(default)]
    pub tool_globs: Vec<(String, u32)>,
    /// Prompt name globs, used only where the server's pin is `off`.
    #[serde(default)]
    pub prompt_globs: Vec<(String, u32)>,
}

/// `revocations.json`: what is denied everywhere. Signed with the other targets today; its own
/// online key comes later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationsDoc {
    /// The format of this document.
    pub format: u32,
    /// The lowest reader that may use it.
    pub min_reader: u32,
    /// Whole servers.
    #[serde(default)]
    pub servers: Vec<ServerKey>,
    /// Agents.
    #[serde(default)]
    pub agents: Vec<AgentName>,
    /// Tools, as server and the upstream's own name.
    #[serde(default)]
    pub tools: Vec<(ServerKey, String)>,
}

/// `server-<id>.json`: one approved server with its pin.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that is allowed or not, by its own name"
)]
pub struct ServerDoc {
    /// The format of this document.
    pub format: u32,
    /// The lowest reader that may use it.
    pub min_reader: u32,
    /// The stable id; the file name repeats it.
    pub id: ServerId,
    /// The short key in tool names.
    pub key: ServerKey,
    /// The team that owns it.
    pub owner: String,
    /// Whom to call when it is down.
    pub oncall: String,
    /// What it is for, one line.
    pub purpose: String,
    /// Who runs it.
    pub hosted: Hosted,
    /// `prod`, `staging`, `dev` or another name of the organisation's.
    pub environment: String,
    /// The network or trust zone.
    pub zone: String,
    /// Classes of data it gives access to.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// How to reach it.
    pub transport: Transport,
    /// The credential its calls need; the secret is the person's or agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialDoc>,
    /// Whether it may learn the client's roots (the project's directory). Declared as a client
    /// capability when it is pinned, too.
    #[serde(default)]
    pub roots: bool,
    /// Whether it may ask the person through the client (`elicitation/create`). Declared when it
    /// is pinned, like every member here that says what may be asked of a client.
    #[serde(default)]
    pub elicitation: bool,
    /// Whether it may ask the client's model (`sampling/createMessage`).
    #[serde(default)]
    pub sampling: bool,
    /// Whether clients that show MCP Apps (`ui:` resources) say so to it.
    #[serde(default)]
    pub apps: bool,
    /// Bounds on its use.
    #[serde(default)]
    pub limits: ServerLimits,
    /// How its calls are recorded.
    #[serde(default)]
    pub audit: AuditDoc,
    /// Whether sessions may share one process. Read and kept; each session has its own today.
    #[serde(default)]
    pub isolation: Isolation,
    /// Never stopped for idleness inside a session.
    #[serde(default)]
    pub stateful: bool,
    /// How strictly the live surface must equal the pinned one.
    #[serde(default)]
    pub pin: PinMode,
    /// The pinned surface; absent only where `pin` is `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surface: Option<Surface>,
}

/// Who runs a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hosted {
    /// The organisation, or the developer's own machine.
    #[serde(rename = "self")]
    Own,
    /// A vendor.
    Vendor,
}

/// How to reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Transport {
    /// A Streamable HTTP endpoint, or the stream of a server of HTTP+SSE.
    Http {
        /// `https://…`, or `http://` on a loopback address.
        url: String,
        /// A private CA in PEM form, used beside the trust store for this server only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca_pem: Option<String>,
        /// It speaks HTTP+SSE of 2024-11-05 and is not asked for anything newer first.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        legacy_sse: bool,
    },
    /// A child process that speaks on its standard streams.
    Stdio {
        /// The program: a name looked up on the PATH or an absolute path.
        command: String,
        /// Its arguments; never a secret. `{project_dir}` stands for the client's project.
        #[serde(default)]
        args: Vec<String>,
        /// Where it runs: an absolute path, or one that starts with `{project_dir}`. Absent: the
        /// user's home, so that files of a project decide nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        /// Variables set for it, beside the allowlist; never a secret.
        #[serde(default, deserialize_with = "unique")]
        env: BTreeMap<String, String>,
        /// The package and exact version the arguments name, e.g. `npm:@scope/name@1.2.3`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        package: Option<String>,
        /// The client's project may bring the program: whoever writes a repository that a
        /// developer clones then decides what runs, and what gets the credential.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        program_from_project: bool,
    },
}

/// The credential a server needs, and how it gets it. Only a name: the secret is in the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialDoc {
    /// Its name, in records and in the vault. Servers of the same name share the secret.
    pub id: CredentialId,
    /// How the server gets it.
    pub inject: Inject,
    /// Where to get one, for a person: a URL or a sentence.
    pub obtain: String,
    /// Days after which it should be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_days: Option<u32>,
}

/// How a secret reaches a server. Never in its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "kebab-case")]
pub enum Inject {
    /// `Authorization: Bearer …` (HTTP servers).
    Bearer,
    /// A variable of its environment (stdio servers).
    Env {
        /// The variable's name.
        name: String,
    },
    /// A header (HTTP servers).
    Header {
        /// The header's name.
        name: String,
    },
}

/// Bounds on a server's use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerLimits {
    /// Longest call, in milliseconds.
    #[serde(default = "ServerLimits::call_ms")]
    pub call_ms: u64,
    /// Stopped after this many milliseconds without a call.
    #[serde(default = "ServerLimits::idle_ms")]
    pub idle_ms: u64,
    /// Calls at once from one session.
    #[serde(default = "ServerLimits::in_flight")]
    pub in_flight: u32,
    /// How often the same call may be made; absent: what the organisation says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<RepeatLimit>,
    /// Tools with bounds of their own.
    #[serde(
        default,
        deserialize_with = "unique",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tools: BTreeMap<String, ToolLimits>,
}

/// One tool's own bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ToolLimits {
    /// How often the same call of it may be made, e.g. of one that is there to be polled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<RepeatLimit>,
}

impl ServerLimits {
    fn call_ms() -> u64 {
        crate::limits::CALL_MS
    }
    fn idle_ms() -> u64 {
        crate::limits::LINK_IDLE_MS
    }
    fn in_flight() -> u32 {
        64
    }

    /// How often the same call of one tool may be made: the tool's own limit, else the server's,
    /// else the organisation's, else the general one.
    #[must_use]
    pub fn repeat_of(&self, tool: &str, org: &OrgLimits) -> RepeatLimit {
        let own = self.tools.get(tool).and_then(|tool| tool.repeat);
        own.or(self.repeat).or(org.repeat).unwrap_or_default()
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            call_ms: Self::call_ms(),
            idle_ms: Self::idle_ms(),
            in_flight: Self::in_flight(),
            repeat: None,
            tools: BTreeMap::new(),
        }
    }
}

/// How a server's calls are recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditDoc {
    /// When a record counts as kept.
    #[serde(default)]
    pub class: DurabilityClass,
    /// What is kept of arguments.
    #[serde(default = "AuditDoc::arguments")]
    pub arguments: Capture,
    /// What is kept of results.
    #[serde(default)]
    pub results: Capture,
    /// What happens to a call whose record cannot be written.
    #[serde(default)]
    pub fail_mode: FailMode,
    /// Tools with settings of their own.
    #[serde(
        default,
        deserialize_with = "unique",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tools: BTreeMap<String, ToolAuditDoc>,
}

impl Default for AuditDoc {
    fn default() -> Self {
        Self {
            class: DurabilityClass::default(),
            arguments: Self::arguments(),
            results: Capture::default(),
            fail_mode: FailMode::default(),
            tools: BTreeMap::new(),
        }
    }
}

impl AuditDoc {
    fn arguments() -> Capture {
        Capture::Full
    }

    /// The settings for prompts and resources, which have none of their own.
    #[must_use]
    pub fn for_others(&self) -> AuditRule {
        AuditRule {
            class: self.class,
            arguments: self.arguments,
            results: self.results,
            fail_mode: self.fail_mode,
        }
    }

    /// The settings for one tool.
    #[must_use]
    pub fn for_tool(&self, tool: &str) -> AuditRule {
        let own = self.tools.get(tool);
        AuditRule {
            class: own.and_then(|t| t.class).unwrap_or(self.class),
            arguments: own.and_then(|t| t.arguments).unwrap_or(self.arguments),
            results: own.and_then(|t| t.results).unwrap_or(self.results),
            fail_mode: own.and_then(|t| t.fail_mode).unwrap_or(self.fail_mode),
        }
    }
}

/// One tool's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each field overrides the one of the same name in AuditDoc"
)]
pub struct ToolAuditDoc {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<DurabilityClass>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Capture>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Capture>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_mode: Option<FailMode>,
}

/// The settings that hold for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each field is the resolved one of AuditDoc")]
pub struct AuditRule {
    pub class: DurabilityClass,
    pub arguments: Capture,
    pub results: Capture,
    pub fail_mode: FailMode,
}

/// When a record counts as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DurabilityClass {
    /// Written to the file: survives the death of the process.
    #[default]
    Process,
    /// Synced to the disk: survives loss of power.
    Disk,
    /// Acknowledged by the collector: survives loss of the machine.
    Collector,
}

/// What is kept of arguments or results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capture {
    /// The size bucket only.
    None,
    /// A salted digest, the salt sealed.
    #[default]
    Digest,
    /// Everything, sealed.
    Full,
}

/// What happens to a call whose record cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailMode {
    /// The call is refused.
    #[default]
    Closed,
    /// The call goes on; the missing records are counted and declared.
    Open,
}

/// Whether sessions may share one process of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// One per session.
    #[default]
    Session,
    /// One per user.
    User,
}

/// How strictly the live surface must equal the pinned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinMode {
    /// Each definition must be the pinned one; one that differs costs the calls of its own name.
    #[default]
    Definitions,
    /// Names only: definitions may change. A name that is gone costs its own calls.
    Names,
    /// Not at all; lists come from the live server. For development only.
    Off,
    /// The whole surface must be the pinned one; any difference stops the server.
    Strict,
}

/// A server's whole surface, as `mcpshim-admin pin` recorded it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Surface {
    /// The newest protocol version it spoke, e.g. `2026-07-28`.
    pub protocol: String,
    /// Its capabilities object, verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Box<RawValue>>,
    /// Its `serverInfo`, verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_info: Option<Box<RawValue>>,
    /// Its instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Its tools, in its own order.
    #[serde(default)]
    pub tools: Vec<Pinned>,
    /// Its prompts, in its own order.
    #[serde(default)]
    pub prompts: Vec<Pinned>,
    /// Its resource templates, in its own order.
    #[serde(default)]
    pub templates: Vec<Pinned>,
    /// Its static resources, in its own order.
    #[serde(default)]
    pub resources: Vec<Pinned>,
    /// Tools that the model APIs behind some clients refuse, so that those clients are not offered
    /// them: name to reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unfit: BTreeMap<String, String>,
    /// Tools it has that are not offered, because every client would choke on them: name to reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<String, String>,
}

/// One tool, prompt, template or resource of a surface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pinned {
    /// The upstream's own name; the URI (or URI template) for resources and templates.
    pub name: String,
    /// The name clients see: assigned once. Tools and prompts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed: Option<ExposedName>,
    /// The digest over the canonical form of `definition` (`docs/formats/pin.md`).
    pub digest: Digest,
    /// The list entry, verbatim.
    pub definition: Box<RawValue>,
}

/// Which metadata a registry was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct RegistryVersion {
    /// Version of the root metadata.
    pub root: u64,
    /// Version of the timestamp metadata.
    pub timestamp: u64,
    /// Version of the snapshot metadata.
    pub snapshot: u64,
    /// Version of the targets metadata: the one people call "the version".
    pub targets: u64,
}

/// A whole registry. Only [`super::Verified`] ones may decide anything.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Which metadata it came from.
    pub version: RegistryVersion,
    /// SHA-256 of the targets metadata.
    pub digest: Digest,
    /// When the first of its metadata expires (in practice the timestamp), in Unix seconds.
    pub expires: u64,
    /// When the source was last heard, in Unix seconds by this machine's clock.
    pub checked: u64,
    /// The organisation.
    pub org: OrgDoc,
    /// Roles, agents, grants.
    pub policy: PolicyDoc,
    /// What is denied everywhere.
    pub revocations: RevocationsDoc,
    /// The servers by key.
    pub servers: BTreeMap<ServerKey, Arc<ServerDoc>>,
}

impl Registry {
    /// What ends are held against at `now`: never earlier than the last check of this registry.
    #[must_use]
    pub fn latest(&self, now: &Now) -> Latest {
        Latest::of(now, self.checked)
    }
}
