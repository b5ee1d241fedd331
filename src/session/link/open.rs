//! Opening: a probe, `initialize`, and which of them a server wants.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::told::{Declared, Told, allowed};
use super::{Answer, Ask, CLIENT_INFO, Link, LinkOutput, Phase, Probed, Run};
use crate::clock::Now;
use crate::limits;
use crate::registry::doc::{Surface, Transport};
use crate::text::printable;
use crate::wire::era::{Era, Revision};

/// How a server is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// By `initialize`: it is of the handshake era.
    Initialize,
    /// By `server/discover`.
    Probe,
}

/// What a server says of itself, in either era.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    protocol_version: Option<String>,
    supported_versions: Option<Vec<String>>,
    #[serde(borrow)]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow)]
    server_info: Option<&'a RawValue>,
    instructions: Option<String>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<AboutMeta<'a>>,
}

#[derive(Deserialize)]
struct AboutMeta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<&'a RawValue>,
}

impl About<'_> {
    fn into_surface(self, protocol: &str) -> Surface {
        let server_info = self
            .server_info
            .or_else(|| self.meta.and_then(|meta| meta.server_info));
        Surface {
            protocol: protocol.to_owned(),
            capabilities: self.capabilities.map(ToOwned::to_owned),
            server_info: server_info.map(ToOwned::to_owned),
            instructions: self.instructions,
            ..Surface::default()
        }
    }
}

impl Link {
    /// Asks for a transport, and settles what its server is told of the client.
    pub(super) fn open(&mut self, deadline_us: u64) {
        self.asks.clear();
        let allowed = allowed(&self.server);
        let all = Declared {
            can: allowed,
            ..Declared::default()
        };
        self.told = match self.survey {
            true => Told::new(&all, allowed),
            false => Told::new(&self.client, allowed),
        };
        self.phase = Phase::Starting { deadline_us };
        self.out.push_back(LinkOutput::Open);
    }

    /// How to open: as it was learned, else as the pin says, else by a probe.
    fn opening(&self) -> Opening {
        let pinned = || {
            let protocol = &self.server.surface.as_ref()?.protocol;
            Some(match Revision::parse(protocol)?.era() {
                Era::Handshake(_) => Opening::Initialize,
                Era::Stateless => Opening::Probe,
            })
        };
        if let Transport::Http {
            legacy_sse: true, ..
        } = self.server.transport
        {
            return Opening::Initialize;
        }
        self.learned.or_else(pinned).unwrap_or(Opening::Probe)
    }

    pub(super) fn is_remote(&self) -> bool {
        matches!(self.server.transport, Transport::Http { .. })
    }

    /// How long `server/discover` may take: a server that is known to answer it, and a survey
    /// that a person waits for, are given the time a first `npx` takes; so is one over HTTP, where
    /// silence says nothing of the era.
    fn patience_ms(&self) -> u64 {
        if self.is_remote() {
            return limits::PROBE_KNOWN_MS;
        }
        let known = self.learned == Some(Opening::Probe)
            || self
                .server
                .surface
                .as_ref()
                .is_some_and(|pin| pin.protocol == Revision::STATELESS.as_str());
        match (known, self.survey) {
            (true, _) => limits::PROBE_KNOWN_MS,
            (false, true) => limits::PROBE_SURVEY_MS,
            (false, false) => limits::PROBE_MS,
        }
    }

    pub(super) fn opened(&mut self, now: &Now) {
        let Phase::Starting { deadline_us } = self.phase else {
            return;
        };
        match self.opening() {
            Opening::Initialize => {
                self.initialize(Revision::NEWEST_HANDSHAKE, deadline_us);
            }
            Opening::Probe => self.probe(deadline_us, now),
        }
    }

    fn probe(&mut self, deadline_us: u64, now: &Now) {
        self.run.probed = Probed::Sent;
        self.request(Ask::Discover, "server/discover", "", Era::Stateless);
        self.phase = Phase::Probing {
            deadline_us,
            until_us: now.mono_us + self.patience_ms() * 1000,
        };
    }

    /// MCP 2025-11-25, lifecycle: the newest version we speak is asked for.
    pub(super) fn initialize(&mut self, revision: Revision, deadline_us: u64) {
        let id = self.next_id();
        self.asks.insert(id, Ask::Initialize);
        let version = revision.as_str();
        let capabilities = self.told.declared(revision.era(), allowed(&self.server));
        self.send(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities},"clientInfo":{CLIENT_INFO}}}}}"#
        ));
        self.phase = Phase::Initializing { deadline_us };
    }

    /// Starts the process anew, to be opened the other way. Once per opening.
    pub(super) fn reopen(&mut self, opening: Opening, deadline_us: u64) {
        self.learned = Some(opening);
        self.run = Run {
            reopened: true,
            ..Run::default()
        };
        self.open(deadline_us);
    }

    pub(super) fn answered(&mut self, ask: Ask, answer: Answer<'_>, now: &Now) {
        match ask {
            Ask::Discover => self.answered_discover(answer, now),
            Ask::Initialize => self.answered_initialize(answer, now),
            Ask::List(kind) => self.answered_list(kind, answer, now),
            Ask::Listen => match answer {
                // a server that does not know it: heard again from the next survey on
                Answer::Error { .. } => {}
                // its end
                Answer::Result(_) => self.listen_again(now),
            },
        }
    }

    fn answered_discover(&mut self, answer: Answer<'_>, now: &Now) {
        let about = match answer {
            Answer::Error { .. } => None,
            Answer::Result(text) => serde_json::from_str::<About<'_>>(text)
                .ok()
                .filter(|about| about.supported_versions.is_some()),
        };
        let modern = Revision::STATELESS.as_str();
        let speaks_modern = about
            .as_ref()
            .and_then(|about| about.supported_versions.as_ref())
            .map(|versions| versions.iter().any(|version| version == modern));
        let Phase::Probing { deadline_us, .. } = self.phase else {
            // late, `initialize` is under way: what it says counts if `initialize` is refused
            if speaks_modern == Some(true) {
                self.run.discovered = about.map(|about| about.into_surface(modern));
            }
            return;
        };
        match (speaks_modern, about) {
            (Some(true), Some(about)) => {
                self.learned = Some(Opening::Probe);
                self.live = Some(about.into_surface(modern));
                self.start_survey(Era::Stateless, now);
            }
            // it knows discover, but no revision of ours that goes with it; some servers are
            // bound to the newer era by having answered (measured: Python mcp 2.3)
            (Some(_), _) if !self.run.reopened => {
                self.out.push_back(LinkOutput::Close);
                self.reopen(Opening::Initialize, deadline_us);
            }
            // MCP 2026-07-28, backward compatibility: only that era knows these two
            (_, _) if self.is_remote() && is_modern_refusal(&answer) => {
                self.fail(
                    "refused server/discover as a server of 2026-07-28".to_owned(),
                    now,
                );
            }
            (_, _) => match unsupported(&answer) {
                Some(versions) => match newest_handshake(&versions) {
                    Some(revision) => self.initialize(revision, deadline_us),
                    None => self.fail(no_common(&versions), now),
                },
                None => self.initialize(Revision::NEWEST_HANDSHAKE, deadline_us),
            },
        }
    }

    fn answered_initialize(&mut self, answer: Answer<'_>, now: &Now) {
        let Phase::Initializing { deadline_us } = self.phase else {
            return;
        };
        match answer {
            Answer::Result(text) => {
                let about: About<'_> = match serde_json::from_str(text) {
                    Ok(about) => about,
                    Err(error) => {
                        return self.fail(
                            format!("answered initialize with an unusable result: {error}"),
                            now,
                        );
                    }
                };
                let version = about.protocol_version.clone().unwrap_or_default();
                let era = match Revision::parse(&version).map(Revision::era) {
                    Some(Era::Stateless) | None => {
                        return self.fail(no_common(&[version]), now);
                    }
                    Some(era @ Era::Handshake(_)) => era,
                };
                // one that answered discover late is given more time for it next time
                self.learned = Some(match self.run.discovered {
                    Some(_) => Opening::Probe,
                    None => Opening::Initialize,
                });
                self.live = Some(about.into_surface(&version));
                self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned());
                self.start_survey(era, now);
            }
            Answer::Error { code, message, .. } => {
                if let Some(surface) = self.run.discovered.take() {
                    // its late answer to discover bound it to the newer era
                    self.learned = Some(Opening::Probe);
                    self.live = Some(surface);
                    return self.start_survey(Era::Stateless, now);
                }
                if let Some(versions) = unsupported(&answer) {
                    let modern = Revision::STATELESS.as_str();
                    let speaks_modern = versions.iter().any(|version| version == modern);
                    if !speaks_modern || self.run.redirected {
                        return self.fail(no_common(&versions), now);
                    }
                    self.run.redirected = true;
                    return self.probe(deadline_us, now);
                }
                if self.run.probed == Probed::No {
                    // it was opened as it is known; perhaps it is of the other era by now
                    return self.probe(deadline_us, now);
                }
                self.fail(
                    format!("refused initialize: {} ({code})", printable(message)),
                    now,
                );
            }
        }
    }
}

/// The versions of an `UnsupportedProtocolVersion` error (MCP 2026-07-28, -32022).
fn unsupported(answer: &Answer<'_>) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Data {
        supported: Vec<String>,
    }
    let Answer::Error {
        code: -32022, data, ..
    } = answer
    else {
        return None;
    };
    let data: Option<Data> = data.and_then(|data| serde_json::from_str(data).ok());
    Some(data.map(|data| data.supported).unwrap_or_default())
}

/// `HeaderMismatch` or `MissingRequiredClientCapability` (MCP 2026-07-28).
fn is_modern_refusal(answer: &Answer<'_>) -> bool {
    matches!(
        answer,
        Answer::Error {
            code: -32020 | -32021,
            ..
        }
    )
}

fn newest_handshake(versions: &[String]) -> Option<Revision> {
    versions
        .iter()
        .filter_map(|version| Revision::parse(version))
        .filter(|revision| *revision <= Revision::NEWEST_HANDSHAKE)
        .max()
}

fn no_common(versions: &[String]) -> String {
    let versions: Vec<_> = versions.iter().take(8).map(|v| printable(v)).collect();
    format!(
        "speaks no protocol version that mcpshim knows (it speaks: {})",
        versions.join(", ")
    )
}
