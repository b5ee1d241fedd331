//! Roles and what they grant, agents, and what is denied everywhere.

use super::{
    Agent, Grant, Reader, Revocations, Role, file_name, moment, spot, text_or_empty, texts,
};
use crate::admin::problem::{Sink, Spot};
use crate::admin::yaml::{self, Fields, Node, Value};
use crate::ids::{AgentName, RoleName};
use crate::registry::doc::{AgentDoc, RoleDoc};

impl Reader<'_> {
    pub(super) fn role(&mut self, file: &str, stem: &str, tree: &Node) -> Option<Role> {
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let role = file_name(stem, RoleName::parse, sink);
        let mut fields = Fields::open(tree, "the role", sink)?;
        let title = fields.need("title", "say in one line who has this role");
        let title = text_or_empty(title, "title", sink);
        let ask = fields
            .take("ask")
            .map(|node| text_or_empty(Some(node), "ask", sink));
        let groups = fields
            .take("groups")
            .map(|node| texts(node, "groups", sink));
        let agents = fields
            .take("agents")
            .map(|node| texts(node, "agents", sink));
        let servers = fields.need("servers", "grant something, or delete the role");
        fields.finish(sink);
        let mut grants = Vec::new();
        let members = servers.and_then(|node| yaml::mapping(node, "servers", sink));
        for (key, node) in members.unwrap_or_default() {
            let server = Spot {
                at: key.at,
                value: key.text.clone(),
            };
            let items = match &node.value {
                Value::List(items) => items.iter().collect(),
                Value::Map(_) | Value::Text { .. } => vec![node],
            };
            for (i, item) in items.into_iter().enumerate() {
                grants.extend(grant(server.clone(), i + 1, item, sink));
            }
        }
        let groups = groups.unwrap_or_default();
        Some(Role {
            file: file.to_owned(),
            name: role?,
            doc: RoleDoc {
                title,
                groups: groups.iter().map(|group| group.value.clone()).collect(),
                ask: ask.unwrap_or_default(),
            },
            groups,
            agents: agents.unwrap_or_default(),
            grants,
        })
    }

    pub(super) fn agent(&mut self, file: &str, stem: &str, tree: &Node) -> Option<Agent> {
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let agent = file_name(stem, AgentName::parse, sink);
        let mut fields = Fields::open(tree, "the agent", sink)?;
        let owner = fields.need("owner", "name the team that answers for it");
        let owner = text_or_empty(owner, "owner", sink);
        let fix = "make a key with `mcpshim-admin agent new NAME --key FILE`";
        let key = fields.need("public_key", fix);
        let expires = fields
            .take("expires")
            .and_then(|node| moment(node, "expires", sink));
        fields.finish(sink);
        let public = key.and_then(|node| {
            let text = yaml::text(node, "public_key", sink)?;
            let bytes = data_encoding::BASE64.decode(text.as_bytes());
            if bytes.is_ok_and(|bytes| bytes.len() == 32) {
                return Some(text.to_owned());
            }
            let message = "public_key is not an Ed25519 public key: 32 bytes in base64";
            sink.error(node.at, "public-key", message, fix);
            None
        });
        Some(Agent {
            file: file.to_owned(),
            name: agent?,
            key_at: key.map(|node| node.at).unwrap_or_default(),
            doc: AgentDoc {
                owner,
                public_key: public.unwrap_or_default(),
                roles: Vec::new(),
                not_after: expires.as_ref().map(|spot| spot.value),
            },
            expires,
        })
    }

    pub(super) fn revocations(&mut self) -> Option<Revocations> {
        let file = "revocations.yaml";
        if !self.dir.join(file).exists() {
            return None;
        }
        let tree = self.tree(file)?;
        let mut sink = self.sink(file);
        let sink = &mut sink;
        let mut fields = Fields::open(&tree, "the file", sink)?;
        let mut list = |key| {
            let node = fields.take(key);
            node.map(|node| texts(node, key, sink)).unwrap_or_default()
        };
        let (servers, agents, tools) = (list("servers"), list("agents"), list("tools"));
        fields.finish(sink);
        Some(Revocations {
            file: file.to_owned(),
            servers,
            agents,
            tools,
        })
    }
}

fn grant(server: Spot<String>, number: usize, node: &Node, sink: &mut Sink<'_>) -> Option<Grant> {
    let mut fields = Fields::open(node, "the grant", sink)?;
    let mut list = |key, sink: &mut Sink<'_>| {
        let node = fields.take(key);
        node.map(|node| texts(node, key, sink)).unwrap_or_default()
    };
    let tools = list("tools", sink);
    let prompts = list("prompts", sink);
    let resources = list("resources", sink);
    let by = fields.need("approved_by", "name the person who approved it");
    let by = by.and_then(|node| spot(node, "approved_by", sink));
    let on = fields.need("approved_at", "write the day it was approved");
    let at = on.and_then(|node| moment(node, "approved_at", sink));
    let on = on.and_then(|node| at.and_then(|_| spot(node, "approved_at", sink)));
    let expires = fields
        .take("expires")
        .and_then(|node| moment(node, "expires", sink));
    fields.finish(sink);
    if tools.is_empty() && prompts.is_empty() && resources.is_empty() {
        let message = format!("the grant for `{}` gives nothing", server.value);
        let fix = "list tools, prompts or resources, or delete it";
        sink.error(node.at, "empty-grant", message, fix);
    }
    let missing = || Spot {
        at: node.at,
        value: String::new(),
    };
    Some(Grant {
        // the mapping begins at its first key; the line of the server's key says more
        at: if number == 1 { server.at } else { node.at },
        server,
        number,
        tools,
        prompts,
        resources,
        approved_by: by.unwrap_or_else(missing),
        approved_at: on.unwrap_or_else(missing),
        expires,
    })
}
