//! From verified documents to a [`Registry`]: each document parsed, all of them cross-checked.
//!
//! `mcpshim-admin publish` runs the same function before it signs, so what a client would refuse
//! is not published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::doc::{FORMAT, OrgDoc, PinMode, PolicyDoc, Registry, RegistryVersion, RevocationsDoc};
use super::doc::{ServerDoc, Surface};
use super::{Cause, RegistryError};
use crate::ids::{Digest, OrgId, ServerId, ServerKey};
use crate::limits;

const ORG: &str = "org.json";
const POLICY: &str = "policy.json";
const REVOCATIONS: &str = "revocations.json";

/// Where a registry came from: what the documents themselves cannot know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) version: RegistryVersion,
    pub(super) digest: Digest,
    pub(super) expires: u64,
    pub(super) checked: u64,
}

/// Whether this reader uses a target of that name; others are for readers to come.
pub(super) fn is_known(name: &str) -> bool {
    matches!(name, ORG | POLICY | REVOCATIONS) || server_id(name).is_some()
}

fn server_id(name: &str) -> Option<ServerId> {
    let id = name.strip_prefix("server-")?.strip_suffix(".json")?;
    ServerId::parse(id).ok()
}

fn unusable(file: &str, why: impl Into<String>) -> RegistryError {
    RegistryError::Document {
        file: file.to_owned(),
        cause: Cause(why.into()),
    }
}

/// What is read of a document before the rest of it is believed to be readable.
#[derive(Deserialize)]
struct Head {
    format: u32,
    min_reader: u32,
}

enum Reader {
    Fits,
    Needs(u32),
}

fn reader(file: &str, bytes: &[u8]) -> Result<Reader, RegistryError> {
    let head: Head = serde_json::from_slice(bytes).map_err(|e| unusable(file, e.to_string()))?;
    if head.format == 0 || head.min_reader == 0 || head.min_reader > head.format {
        return Err(unusable(
            file,
            format!(
                "format {} and min_reader {} do not fit each other",
                head.format, head.min_reader
            ),
        ));
    }
    Ok(if head.min_reader > FORMAT {
        Reader::Needs(head.min_reader)
    } else {
        Reader::Fits
    })
}

fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, RegistryError> {
    match serde_json::from_slice::<T>(bytes) {
        Ok(doc) => Ok(doc),
        // only now the second reading: a document for newer readers says so, and need not parse
        Err(error) => match reader(file, bytes)? {
            Reader::Needs(needs) => Err(too_new(file, needs)),
            Reader::Fits => Err(unusable(file, error.to_string())),
        },
    }
}

fn fits(file: &str, format: u32, min_reader: u32) -> Result<(), RegistryError> {
    if format == 0 || min_reader == 0 || min_reader > format {
        return Err(unusable(
            file,
            format!("format {format} and min_reader {min_reader} do not fit each other"),
        ));
    }
    if min_reader > FORMAT {
        return Err(too_new(file, min_reader));
    }
    Ok(())
}

fn too_new(file: &str, needs: u32) -> RegistryError {
    RegistryError::TooNew {
        cause: Cause(format!(
            "{file} asks for reader {needs}, this is reader {FORMAT}"
        )),
    }
}

/// Parses and cross-checks the documents of one registry.
///
/// A server entry for newer readers is left out with a warning: absent means denied, and the
/// rest of the organisation goes on. Any other defect refuses the registry.
pub(super) fn assemble<'a>(
    documents: impl Iterator<Item = (&'a str, &'a [u8])>,
    org: &OrgId,
    origin: Origin,
) -> Result<(Registry, Vec<String>), RegistryError> {
    let mut warnings = Vec::new();
    let (mut org_doc, mut policy, mut revocations) = (None, None, None);
    let mut servers: BTreeMap<ServerKey, Arc<ServerDoc>> = BTreeMap::new();
    for (file, bytes) in documents {
        if bytes.len() > limits::TARGET_BYTES {
            return Err(unusable(
                file,
                format!(
                    "it has {} bytes, the limit is {}",
                    bytes.len(),
                    limits::TARGET_BYTES
                ),
            ));
        }
        match file {
            ORG => {
                let doc: OrgDoc = parse(file, bytes)?;
                fits(file, doc.format, doc.min_reader)?;
                org_doc = Some(doc);
            }
            POLICY => {
                let doc: PolicyDoc = parse(file, bytes)?;
                fits(file, doc.format, doc.min_reader)?;
                policy = Some(doc);
            }
            REVOCATIONS => {
                let doc: RevocationsDoc = parse(file, bytes)?;
                fits(file, doc.format, doc.min_reader)?;
                revocations = Some(doc);
            }
            _ => {
                let Some(id) = server_id(file) else { continue };
                let doc = parse::<ServerDoc>(file, bytes)
                    .and_then(|doc| fits(file, doc.format, doc.min_reader).map(|()| doc));
                let doc = match doc {
                    Ok(doc) => doc,
                    Err(RegistryError::TooNew { cause }) => {
                        warnings.push(format!("{cause}: its tools are left out, update mcpshim"));
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                if doc.id != id {
                    return Err(unusable(file, format!("it says it is server {}", doc.id)));
                }
                check_server(file, &doc)?;
                if let Some(other) = servers.get(&doc.key) {
                    return Err(unusable(
                        file,
                        format!("key {} is already that of server {}", doc.key, other.id),
                    ));
                }
                if servers.len() >= limits::SERVERS {
                    return Err(unusable(
                        file,
                        format!("the registry has more than {} servers", limits::SERVERS),
                    ));
                }
                servers.insert(doc.key.clone(), Arc::new(doc));
            }
        }
    }
    let missing = |file: &str| unusable(file, "it is not in the registry");
    let org_doc = org_doc.ok_or_else(|| missing(ORG))?;
    let policy = policy.ok_or_else(|| missing(POLICY))?;
    let revocations = revocations.ok_or_else(|| missing(REVOCATIONS))?;
    if org_doc.org != *org {
        return Err(RegistryError::OtherOrganisation {
            cause: Cause(format!(
                "it is signed for {}, this machine is configured for {org}",
                org_doc.org
            )),
        });
    }
    check_client(&org_doc)?;
    check_policy(&policy)?;
    check_exposed(&servers)?;
    let Origin {
        version,
        digest,
        expires,
        checked,
    } = origin;
    let registry = Registry {
        version,
        digest,
        expires,
        checked,
        org: org_doc,
        policy,
        revocations,
        servers,
    };
    Ok((registry, warnings))
}

fn check_client(org: &OrgDoc) -> Result<(), RegistryError> {
    let Some(min) = &org.min_client else {
        return Ok(());
    };
    let wanted = version(min).ok_or_else(|| {
        unusable(
            ORG,
            format!("min_client {min:?} is not a version such as 1.2.3"),
        )
    })?;
    let own = env!("CARGO_PKG_VERSION");
    if version(own).is_some_and(|own| own >= wanted) {
        return Ok(());
    }
    Err(RegistryError::TooNew {
        cause: Cause(format!(
            "the organisation asks for mcpshim {min}, this is {own}"
        )),
    })
}

fn version(text: &str) -> Option<[u32; 3]> {
    let mut out = [0; 3];
    let mut parts = text.split('.');
    for slot in &mut out {
        *slot = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn check_policy(policy: &PolicyDoc) -> Result<(), RegistryError> {
    let rules = u32::try_from(policy.rules.len()).unwrap_or(u32::MAX);
    for (name, agent) in &policy.agents {
        if let Some(role) = agent
            .roles
            .iter()
            .find(|role| !policy.roles.contains_key(*role))
        {
            return Err(unusable(
                POLICY,
                format!("agent {name} has the unknown role {role}"),
            ));
        }
    }
    for (role, tables) in &policy.grants {
        if !policy.roles.contains_key(role) {
            return Err(unusable(
                POLICY,
                format!("grants name the unknown role {role}"),
            ));
        }
        for (server, table) in tables {
            let maps = table.tools.values().chain(table.prompts.values());
            let lists = [&table.resources, &table.tool_globs, &table.prompt_globs];
            let mut used = maps.chain(lists.into_iter().flatten().map(|(_, rule)| rule));
            if let Some(rule) = used.find(|rule| **rule >= rules) {
                return Err(unusable(
                    POLICY,
                    format!("the grant of {server} to {role} names rule {rule} of {rules}"),
                ));
            }
        }
    }
    Ok(())
}

fn check_server(file: &str, doc: &ServerDoc) -> Result<(), RegistryError> {
    let Some(surface) = &doc.surface else {
        return match doc.pin {
            PinMode::Off => Ok(()),
            PinMode::Definitions | PinMode::Names | PinMode::Strict => Err(unusable(
                file,
                "it has no pinned surface, and its pin is not off",
            )),
        };
    };
    let Surface {
        tools,
        prompts,
        templates,
        resources,
        ..
    } = surface;
    for (what, list) in [
        ("tool", tools),
        ("prompt", prompts),
        ("resource template", templates),
        ("resource", resources),
    ] {
        if list.len() > limits::TOOLS_PER_SERVER {
            return Err(unusable(
                file,
                format!(
                    "it has {} {what}s, the limit is {}",
                    list.len(),
                    limits::TOOLS_PER_SERVER
                ),
            ));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = list
            .iter()
            .find(|pinned| !names.insert(pinned.name.as_str()))
        {
            return Err(unusable(
                file,
                format!("{what} {:?} is pinned twice", twice.name),
            ));
        }
    }
    Ok(())
}

/// One exposed name may not stand for two tools (or two prompts), whoever owns them: the second
/// would shadow the first.
fn check_exposed(servers: &BTreeMap<ServerKey, Arc<ServerDoc>>) -> Result<(), RegistryError> {
    let (mut tools, mut prompts) = (BTreeMap::new(), BTreeMap::new());
    for server in servers.values() {
        let Some(surface) = &server.surface else {
            continue;
        };
        for (list, seen) in [
            (&surface.tools, &mut tools),
            (&surface.prompts, &mut prompts),
        ] {
            for exposed in list.iter().filter_map(|pinned| pinned.exposed.as_ref()) {
                if let Some(other) = seen.insert(exposed.as_str(), &server.key) {
                    return Err(unusable(
                        &format!("server-{}.json", server.id),
                        format!("the name {exposed} is already one of server {other}"),
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Refuses what clients would refuse, before it is signed.
#[cfg(feature = "admin")]
pub(crate) fn check_documents(
    files: &BTreeMap<String, Vec<u8>>,
    org: &OrgId,
) -> Result<(), RegistryError> {
    unsigned(files, org).map(drop)
}

/// Reads documents that nobody signed, to be looked at: nothing decides by them.
#[cfg(feature = "admin")]
pub(crate) fn unsigned(
    files: &BTreeMap<String, Vec<u8>>,
    org: &OrgId,
) -> Result<Registry, RegistryError> {
    if let Some(name) = files.keys().find(|name| !is_known(name)) {
        return Err(unusable(name, "no reader knows a document of that name"));
    }
    let documents = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let origin = Origin {
        version: RegistryVersion::default(),
        digest: Digest::default(),
        expires: 0,
        checked: 0,
    };
    assemble(documents, org, origin).map(|(registry, _)| registry)
}
