//! What a server is told of the client.

use std::borrow::Cow;

use crate::registry::doc::ServerDoc;
use crate::wire::era::{APPS, Can, Era};

/// What a server may ask of a client, by its signed entry.
#[must_use]
pub fn allowed(server: &ServerDoc) -> Can {
    Can {
        apps: server.apps,
        form: server.elicitation,
        roots: server.roots,
        sampling: server.sampling,
        sampling_context: server.sampling,
        sampling_tools: server.sampling,
        url: server.elicitation,
    }
}

/// What a client says it can be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// What.
    pub can: Can,
    /// Its settings of MCP Apps, raw JSON.
    pub apps: Option<Box<str>>,
    /// Each of its requests says it anew (the stateless era).
    pub each: bool,
}

/// What the server of one transport is told of the client: what its entry allows of what the
/// client says. A survey says all that the entry allows.
///
/// Servers show other tools to clients of other capabilities (measured: server-everything). So it
/// stays the same for the life of a transport, and the comparison with the pin knows of it. A
/// client of the stateless era may say something else with its next request: a server of the
/// handshake era is told that it may ask all that its entry allows, and what the client of a call
/// did not declare is refused when it is asked ([`crate::session::park`]).
#[derive(Debug, Default)]
pub(super) struct Told {
    can: Can,
    /// The settings of MCP Apps, raw JSON.
    apps: Option<Box<str>>,
    each: bool,
    /// The capabilities in the stateless era, raw JSON.
    pub(super) text: String,
}

impl Told {
    pub(super) fn new(client: &Declared, allowed: Can) -> Self {
        let can = client.can.and(allowed);
        let apps = client.apps.clone();
        let text = can.declared(Era::Stateless, apps.as_deref().unwrap_or(APPS));
        Self {
            can,
            apps,
            each: client.each,
            text,
        }
    }

    /// The capabilities in an era. Servers of the handshake era are answered here where the
    /// client works, whatever the client can ([`crate::session::roots`]).
    pub(super) fn declared(&self, to: Era, allowed: Can) -> Cow<'_, str> {
        match to {
            Era::Handshake(_) => {
                let can = self.under(to, allowed);
                Cow::Owned(can.declared(to, self.apps.as_deref().unwrap_or(APPS)))
            }
            Era::Stateless => Cow::Borrowed(&self.text),
        }
    }

    /// What a server of this era was told.
    pub(super) fn under(&self, era: Era, allowed: Can) -> Can {
        match era {
            // it shows a client what it is able to show, and asks nothing
            Era::Handshake(_) if self.each => Can {
                apps: self.can.apps,
                ..allowed
            },
            Era::Handshake(_) => Can {
                roots: allowed.roots,
                ..self.can
            },
            Era::Stateless => self.can,
        }
    }
}
