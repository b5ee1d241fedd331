//! The organisation: whose registry it is, its identity providers, its audit keys.

use super::{
    Org, Reader, endpoint, inside, name, repeat_limit, spot, text_or_empty, texts, version,
};
use crate::admin::problem::{Sink, Spot};
use crate::admin::yaml::{self, Fields, Node, Value};
use crate::fetch::certificate;
use crate::ids::OrgId;
use crate::registry::doc::{
    AuditKeyDoc, CollectorDoc, FORMAT, IssuerDoc, OrgDoc, OrgLimits, SecretStoresDoc,
};

impl Reader<'_> {
    pub(super) fn org(&mut self) -> Option<Org> {
        let file = "org.yaml";
        let tree = self.tree(file)?;
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let mut fields = Fields::open(&tree, "the organisation", sink)?;
        let org = fields.need("org", "write its id, such as `org: acme`");
        let org = org.and_then(|node| name(node, "org", OrgId::parse, sink));
        let known = fields.need("name", "write the name people use");
        let known = text_or_empty(known, "name", sink);
        let help = fields.need("help", "write whom to ask when something is refused");
        let help = text_or_empty(help, "help", sink);
        let grace = fields.need("grace_hours", "write hours, such as `grace_hours: 72`");
        let grace = grace.and_then(|node| yaml::number(node, "grace_hours", 0..=24 * 366, sink));
        let min_client = fields
            .take("min_client")
            .and_then(|node| version(node, sink));
        let collector = fields.take("collector");
        let keys = fields.take("audit_keys");
        let issuers = fields.take("issuers");
        let stores = fields.take("secret_stores");
        let stores = stores.and_then(|node| secret_stores(node, sink));
        let limits = fields.take("limits");
        let limits = limits.and_then(|node| org_limits(node, sink));
        fields.finish(sink);
        let collector = collector.and_then(|node| self.collector(file, node));
        let audit_keys = keys
            .map(|node| self.audit_keys(file, node))
            .unwrap_or_default();
        let (issuers, groups) = match issuers {
            Some(node) => self.issuers(file, node),
            None => (Vec::new(), None),
        };
        Some(Org {
            doc: OrgDoc {
                format: FORMAT,
                min_reader: FORMAT,
                org: org?,
                name: known,
                help,
                collector,
                audit_keys,
                issuers,
                secret_stores: stores.unwrap_or_default(),
                grace_hours: u32::try_from(grace.unwrap_or_default()).unwrap_or_default(),
                min_client,
                limits: limits.unwrap_or_default(),
            },
            groups,
        })
    }

    fn collector(&mut self, file: &str, node: &Node) -> Option<CollectorDoc> {
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let mut fields = Fields::open(node, "collector", sink)?;
        let url = fields.need("url", "write where it listens, such as `https://…`");
        let url = url.and_then(|node| endpoint(node, "collector.url", sink));
        let ca = fields.take("ca");
        fields.finish(sink);
        let ca_pem = ca.and_then(|node| self.certificate(file, node, "collector.ca"));
        if let (Some(node), Some(pem), Some(url)) = (ca, &ca_pem, &url) {
            self.check_collector_ca(file, node, pem, url);
        }
        Some(CollectorDoc {
            url: url.unwrap_or_default(),
            ca_pem,
        })
    }

    /// A server's own certificate that was made as a CA's: devices refuse the collector that has it.
    fn check_collector_ca(&mut self, file: &str, node: &Node, pem: &str, url: &str) {
        let host = url::Url::parse(url).ok();
        let host = host
            .as_ref()
            .and_then(url::Url::host_str)
            .unwrap_or_default();
        if certificate::has_servers_own_ca(pem, host) {
            let message = format!(
                "collector.ca bears the name {host} itself: {}",
                certificate::CA_AS_SERVER
            );
            let fix = format!("for example: {}", certificate::SELF_SIGNED);
            self.sink(file).error(node.at, "certificate", message, fix);
        }
    }

    /// Audit keys: each item a path, a glob over `folder/*.json`, or the key itself.
    fn audit_keys(&mut self, file: &str, node: &Node) -> Vec<AuditKeyDoc> {
        let mut keys: Vec<AuditKeyDoc> = Vec::new();
        for item in yaml::list(node, "audit_keys", &mut self.sink(file)) {
            let found = match &item.value {
                Value::Map(_) => audit_key(item, &mut self.sink(file)).into_iter().collect(),
                Value::List(_) | Value::Text { .. } => self.audit_key_files(file, item),
            };
            for key in found {
                if keys.iter().any(|other| other.id == key.id) {
                    let message = format!("the audit key {} is given twice", short(&key.id));
                    let fix = "keep one of them";
                    self.sink(file)
                        .error(item.at, "duplicate-audit-key", message, fix);
                } else {
                    keys.push(key);
                }
            }
        }
        keys
    }

    fn audit_key_files(&mut self, file: &str, node: &Node) -> Vec<AuditKeyDoc> {
        let what = "audit_keys";
        let named = yaml::text(node, what, &mut self.sink(file)).map(str::to_owned);
        let Some(named) = named else {
            return Vec::new();
        };
        let paths = match named.rsplit_once('/') {
            Some((folder, "*.json")) if inside(folder) => {
                let names = self.names(folder);
                let json = names.into_iter().filter(|name| name.ends_with(".json"));
                json.map(|name| format!("{folder}/{name}")).collect()
            }
            _ if inside(&named) && self.dir.join(&named).is_file() => vec![named],
            _ => {
                let message =
                    format!("{what} names `{named}`, which is not a file of this registry");
                let fix = "write a path such as `audit/2026.json`, or `audit/*.json`";
                self.sink(file).error(node.at, "no-such-file", message, fix);
                Vec::new()
            }
        };
        let mut keys = Vec::new();
        for path in paths {
            // JSON is YAML, so the same reader with the same strictness reads both
            let tree = self.tree(&path);
            keys.extend(tree.and_then(|tree| audit_key(&tree, &mut self.sink(&path))));
        }
        keys
    }

    fn issuers(&mut self, file: &str, node: &Node) -> (Vec<IssuerDoc>, Option<Vec<Spot<String>>>) {
        let mut issuers: Vec<IssuerDoc> = Vec::new();
        let mut groups = Some(Vec::new());
        for item in yaml::list(node, "issuers", &mut self.sink(file)) {
            let mut sink = self.sink(file);
            let sink = &mut sink;
            let Some(mut fields) = Fields::open(item, "the issuer", sink) else {
                continue;
            };
            let issuer = fields.need("issuer", "write its `iss`, such as `https://…`");
            let issuer = issuer
                .and_then(|node| endpoint(node, "issuer", sink))
                .unwrap_or_default();
            let client = fields.need("client_id", "write our client id there");
            let client = text_or_empty(client, "client_id", sink);
            let claim = fields.need("groups_claim", "write the claim, such as `groups`");
            let claim = text_or_empty(claim, "groups_claim", sink);
            let named = fields
                .take("groups")
                .map(|node| texts(node, "groups", sink));
            let fix = "name a file with the issuer's keys as its `jwks_uri` gives them";
            let jwks = fields.need("jwks", fix);
            let scopes = fields.take("scopes");
            let scopes = scopes.map(|node| scopes_of(node, sink)).unwrap_or_default();
            let device_flow = fields.take("device_flow");
            let device_flow = device_flow.and_then(|node| yaml::flag(node, "device_flow", sink));
            let pkce_unadvertised = fields.take("pkce_unadvertised");
            let pkce_unadvertised =
                pkce_unadvertised.and_then(|node| yaml::flag(node, "pkce_unadvertised", sink));
            fields.finish(sink);
            groups = groups.zip(named).map(|(mut all, more)| {
                all.extend(more);
                all
            });
            let jwks = jwks.and_then(|node| self.jwks(file, node));
            if !issuer.is_empty() && issuers.iter().any(|other| other.issuer == issuer) {
                let message = format!("the issuer `{issuer}` is given twice");
                let fix = "keep one of them";
                self.sink(file)
                    .error(item.at, "duplicate-issuer", message, fix);
            }
            issuers.push(IssuerDoc {
                issuer,
                client_id: client,
                groups_claim: claim,
                scopes,
                device_flow: device_flow.unwrap_or_default(),
                pkce_unadvertised: pkce_unadvertised.unwrap_or_default(),
                jwks: jwks.unwrap_or_default(),
            });
        }
        (issuers, groups)
    }

    fn jwks(&mut self, file: &str, node: &Node) -> Option<serde_json::Value> {
        let (at, named, text) = self.included(file, node, "jwks")?;
        let found: Result<serde_json::Value, _> = serde_json::from_str(&text);
        let keys = found.as_ref().ok().and_then(|v| v.get("keys")?.as_array());
        let Some(keys) = keys.filter(|keys| !keys.is_empty()) else {
            let message = format!("`{named}` is not a JWK Set with keys");
            let fix = "fetch the issuer's `jwks_uri` again and store the answer as it came";
            self.sink(file).error(at, "jwks", message, fix);
            return None;
        };
        // RFC 7518 §6: `d` is the private part of every asymmetric key, `k` a symmetric key
        if keys
            .iter()
            .any(|key| key.get("d").is_some() || key.get("k").is_some())
        {
            let message = format!("`{named}` holds a private key");
            let fix = "store the public set only, and change that key: it was in the registry";
            self.sink(file).error(at, "secret", message, fix);
            return None;
        }
        found.ok()
    }
}

fn short(id: &crate::ids::KeyId) -> String {
    id.as_str().chars().take(8).collect::<String>() + "…"
}

fn secret_stores(node: &Node, sink: &mut Sink<'_>) -> Option<SecretStoresDoc> {
    let mut fields = Fields::open(node, "secret_stores", sink)?;
    let key_file = fields.take("key_file");
    let credential = fields.take("systemd_credential");
    let mut flag = |node: Option<&Node>, what| {
        let flag = node.and_then(|node| yaml::flag(node, what, sink));
        flag.unwrap_or_default()
    };
    let doc = SecretStoresDoc {
        key_file: flag(key_file, "key_file"),
        systemd_credential: flag(credential, "systemd_credential"),
    };
    fields.finish(sink);
    Some(doc)
}

/// Scopes asked for beside `openid` and `offline_access` (RFC 6749 §3.3: printable ASCII without
/// blank, quote and backslash).
fn scopes_of(node: &Node, sink: &mut Sink<'_>) -> Vec<String> {
    let mut scopes = Vec::new();
    for scope in texts(node, "scopes", sink) {
        let part = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        let always = ["openid", "offline_access"].contains(&scope.value.as_str());
        if !scope.value.bytes().all(part) {
            let message = format!("`{}` is not one scope", scope.value);
            let fix = "write each scope as an item of its own, such as `[profile, email]`";
            sink.error(scope.at, "scope", message, fix);
        } else if always {
            let message = format!("`{}` is asked for always", scope.value);
            sink.warning(scope.at, "scope", message, "take it out");
        } else {
            scopes.push(scope.value);
        }
    }
    scopes
}

/// Reads `limits` of the organisation.
fn org_limits(node: &Node, sink: &mut Sink<'_>) -> Option<OrgLimits> {
    let mut fields = Fields::open(node, "limits", sink)?;
    let repeat = fields.take("repeat");
    let repeat = repeat.and_then(|node| repeat_limit(node, sink));
    fields.finish(sink);
    Some(OrgLimits { repeat })
}

/// Reads one audit key, as `mcpshim-collector auditkey new` prints it.
fn audit_key(node: &Node, sink: &mut Sink<'_>) -> Option<AuditKeyDoc> {
    let fix = "paste what `mcpshim-collector auditkey new` printed";
    let mut fields = Fields::open(node, "the audit key", sink)?;
    let id = fields.need("id", fix).and_then(|n| spot(n, "id", sink));
    let suite = fields
        .need("suite", fix)
        .and_then(|n| spot(n, "suite", sink));
    let public = fields
        .need("public", fix)
        .and_then(|n| spot(n, "public", sink));
    let mut second = |key, sink: &mut Sink<'_>| {
        let node = fields.need(key, fix)?;
        let number = yaml::number(node, key, 0..=253_402_300_799, sink)?;
        Some((node.at, number))
    };
    let from = second("not_before", sink);
    let until = second("not_after", sink);
    fields.finish(sink);
    let (id, suite, public) = (id?, suite?, public?);
    let ((_, not_before), (until_at, not_after)) = (from?, until?);
    const SUITE: &str = "x25519-hkdf-sha256/chacha20poly1305";
    if suite.value != SUITE {
        let message = format!("the suite is `{}`, expected `{SUITE}`", suite.value);
        sink.error(suite.at, "audit-key", message, fix);
        return None;
    }
    let bytes = data_encoding::BASE64.decode(public.value.as_bytes());
    let Some(bytes) = bytes.ok().filter(|bytes| bytes.len() == 32) else {
        let message = "public is not an X25519 public key: 32 bytes in base64";
        sink.error(public.at, "audit-key", message, fix);
        return None;
    };
    if crate::ids::Digest::of(&bytes).to_string() != id.value {
        let message = "the id is not the SHA-256 of the public key";
        sink.error(id.at, "audit-key", message, fix);
        return None;
    }
    if not_after <= not_before {
        let message = "the key ends before it begins";
        sink.error(until_at, "audit-key", message, fix);
        return None;
    }
    Some(AuditKeyDoc {
        id: crate::ids::KeyId::parse(&id.value).ok()?,
        suite: suite.value,
        public: public.value,
        not_before,
        not_after,
    })
}
