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

/// What the server of one transport is told of the client: what its entry allows of what the
/// client says. A survey says all that the entry allows.
///
/// Servers show other tools to clients of other capabilities (measured: server-everything). So it
/// stays the same for the life of a transport, and the comparison with the pin knows of it.
#[derive(Debug, Default)]
pub(super) struct Told {
    can: Can,
    /// The settings of MCP Apps, raw JSON.
    apps: Option<Box<str>>,
    /// The capabilities in the stateless era, raw JSON.
    pub(super) text: String,
}

impl Told {
    pub(super) fn new(can: Can, apps: Option<&str>) -> Self {
        let text = can.declared(Era::Stateless, apps.unwrap_or(APPS));
        let apps = apps.map(Into::into);
        Self { can, apps, text }
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
        Can {
            roots: match era {
                Era::Handshake(_) => allowed.roots,
                Era::Stateless => self.can.roots,
            },
            ..self.can
        }
    }
}
