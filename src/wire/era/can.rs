//! What a client can be asked for.
//!
//! Elicitation, sampling and roots are requests of an upstream in the handshake era, and part of a
//! result (`input_required`) in the stateless era. Both are bound by what the client declared.

use crate::wire::raw::Object;

use super::{Era, Revision};

/// The extension of MCP Apps.
pub(super) const UI: &str = "io.modelcontextprotocol/ui";

/// Settings of MCP Apps where no client says its own, raw JSON.
pub const APPS: &str = r#"{"mimeTypes":["text/html;profile=mcp-app"]}"#;

/// What can be asked of a client, as far as mcpshim carries it. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that is allowed or not, by its own name"
)]
pub struct Can {
    /// MCP Apps (`io.modelcontextprotocol/ui`): shows resources of the scheme `ui:`.
    pub apps: bool,
    /// `elicitation/create` with a form.
    pub form: bool,
    /// `roots/list`.
    pub roots: bool,
    /// `sampling/createMessage`…
    pub sampling: bool,
    /// …with `includeContext`…
    pub sampling_context: bool,
    /// …with `tools`.
    pub sampling_tools: bool,
    /// `elicitation/create` that opens an address.
    pub url: bool,
}

/// One thing asked of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// `elicitation/create` with a form.
    Form,
    /// `roots/list`.
    Roots,
    /// `sampling/createMessage`.
    Sampling {
        /// With `includeContext` other than `none`.
        context: bool,
        /// With `tools`.
        tools: bool,
    },
    /// `elicitation/create` that opens an address.
    Url,
}

impl Asked {
    /// Reads a request, or an input request in a result. `None` for what no revision knows.
    #[must_use]
    pub fn of(method: &str, params: Option<&Object<'_>>) -> Option<Self> {
        let text = |key: &str| params.and_then(|params| params.text(key));
        let has = |key: &str| params.is_some_and(|params| params.get(key).is_some());
        match method {
            "elicitation/create" => match text("mode").as_deref() {
                Some("url") => Some(Self::Url),
                // absent before 2025-11-25, and still the default
                Some("form") => Some(Self::Form),
                None if !has("mode") => Some(Self::Form),
                Some(_) | None => None,
            },
            "roots/list" => Some(Self::Roots),
            "sampling/createMessage" => Some(Self::Sampling {
                context: text("includeContext").is_some_and(|which| which != "none"),
                tools: has("tools") || has("toolChoice"),
            }),
            _ => None,
        }
    }

    /// What it is, for a sentence: `this client offers no …`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Form => "elicitation",
            Self::Roots => "roots",
            Self::Sampling {
                context: false,
                tools: false,
            } => "sampling",
            Self::Sampling { tools: true, .. } => "sampling with tools",
            Self::Sampling { context: true, .. } => "sampling with context",
            Self::Url => "elicitation of the mode `url`",
        }
    }
}

/// The client's own settings of MCP Apps among its capabilities, raw JSON.
#[must_use]
pub fn apps<'a>(capabilities: &Object<'a>) -> Option<&'a str> {
    let extensions = capabilities.object("extensions").ok()??;
    extensions.get(UI).filter(|own| own.starts_with('{'))
}

impl Can {
    /// Reads a client's capabilities, of any revision. A shape nobody knows counts as absent.
    #[must_use]
    pub fn of(capabilities: &Object<'_>) -> Self {
        let object = |key: &str| capabilities.object(key).ok().flatten();
        let within = |outer: &Option<Object<'_>>, key: &str| {
            outer
                .as_ref()
                .is_some_and(|outer| matches!(outer.object(key), Ok(Some(_))))
        };
        let (elicitation, sampling) = (object("elicitation"), object("sampling"));
        let extensions = object("extensions");
        let url = within(&elicitation, "url");
        Self {
            apps: within(&extensions, UI),
            // `{}` is the form alone (MCP 2025-11-25, elicitation)
            form: elicitation.is_some() && (within(&elicitation, "form") || !url),
            roots: object("roots").is_some(),
            sampling: sampling.is_some(),
            sampling_context: within(&sampling, "context"),
            sampling_tools: within(&sampling, "tools"),
            url,
        }
    }

    /// What both can.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            apps: self.apps && other.apps,
            form: self.form && other.form,
            roots: self.roots && other.roots,
            sampling: self.sampling && other.sampling,
            sampling_context: self.sampling_context && other.sampling_context,
            sampling_tools: self.sampling_tools && other.sampling_tools,
            url: self.url && other.url,
        }
    }

    /// The same, and this.
    #[must_use]
    pub fn with(self, asked: Asked) -> Self {
        match asked {
            Asked::Form => Self { form: true, ..self },
            Asked::Roots => Self {
                roots: true,
                ..self
            },
            Asked::Sampling { context, tools } => Self {
                sampling: true,
                sampling_context: self.sampling_context || context,
                sampling_tools: self.sampling_tools || tools,
                ..self
            },
            Asked::Url => Self { url: true, ..self },
        }
    }

    /// Whether this may be asked.
    #[must_use]
    pub fn covers(self, asked: Asked) -> bool {
        match asked {
            Asked::Form => self.form,
            Asked::Roots => self.roots,
            Asked::Sampling { context, tools } => {
                self.sampling
                    && (self.sampling_context || !context)
                    && (self.sampling_tools || !tools)
            }
            Asked::Url => self.url,
        }
    }

    /// What a client of this revision can be asked at all.
    #[must_use]
    pub fn at_most(self, revision: Revision) -> Self {
        let since = |first: Revision| revision >= first;
        Self {
            form: self.form && since(Revision::V2025_06_18),
            sampling_context: self.sampling_context && since(Revision::V2025_11_25),
            sampling_tools: self.sampling_tools && since(Revision::V2025_11_25),
            url: self.url && since(Revision::V2025_11_25),
            ..self
        }
    }

    /// What of `all` is missing here, in words that follow `a client with`.
    #[must_use]
    pub fn lacking(self, all: Self) -> Vec<&'static str> {
        let lacks = [
            (all.form && !self.form, "elicitation"),
            (all.url && !self.url, "elicitation of the mode `url`"),
            (all.sampling && !self.sampling, "sampling"),
            (
                all.sampling_tools && !self.sampling_tools && self.sampling,
                "sampling with tools",
            ),
            (
                all.sampling_context && !self.sampling_context && self.sampling,
                "sampling with context",
            ),
            (all.roots && !self.roots, "roots"),
            (all.apps && !self.apps, "MCP Apps"),
        ];
        let lacks = lacks.into_iter().filter(|(lacks, _)| *lacks);
        lacks.map(|(_, word)| word).collect()
    }

    /// The capabilities object that says so in an era, raw JSON. `apps` are the settings of MCP
    /// Apps, raw JSON: the client's own, or [`APPS`].
    #[must_use]
    pub fn declared(self, to: Era, apps: &str) -> String {
        let mut members = Vec::new();
        if self.roots {
            members.push(match to {
                Era::Handshake(_) => r#""roots":{"listChanged":true}"#.to_owned(),
                Era::Stateless => r#""roots":{}"#.to_owned(),
            });
        }
        let parts = |parts: &[(bool, &'static str)]| {
            let on = parts.iter().filter(|(on, _)| *on);
            on.map(|(_, part)| *part).collect::<Vec<_>>().join(",")
        };
        if self.sampling {
            let inner = parts(&[
                (self.sampling_context, r#""context":{}"#),
                (self.sampling_tools, r#""tools":{}"#),
            ]);
            members.push(format!(r#""sampling":{{{inner}}}"#));
        }
        if self.form || self.url {
            let inner = parts(&[(self.form, r#""form":{}"#), (self.url, r#""url":{}"#)]);
            members.push(format!(r#""elicitation":{{{inner}}}"#));
        }
        if self.apps {
            members.push(format!(r#""extensions":{{"{UI}":{apps}}}"#));
        }
        format!("{{{}}}", members.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn can(text: &str) -> Can {
        Can::of(&Object::parse(text).unwrap())
    }

    #[test]
    fn what_a_client_declares_is_what_it_is_asked_and_no_more() {
        let form = Can {
            form: true,
            ..Can::default()
        };
        assert_eq!(can("{}"), Can::default());
        assert_eq!(can(r#"{"elicitation":{}}"#), form);
        assert_eq!(can(r#"{"elicitation":true,"roots":1}"#), Can::default());
        assert!(!can(r#"{"elicitation":{"url":{}}}"#).form);
        let plain = can(r#"{"sampling":{}}"#);
        let asked = |text: &str| {
            Asked::of(
                "sampling/createMessage",
                Some(&Object::parse(text).unwrap()),
            )
            .unwrap()
        };
        assert!(plain.covers(asked(r#"{"includeContext":"none"}"#)));
        assert!(!plain.covers(asked(r#"{"includeContext":"thisServer"}"#)));
        assert!(!plain.covers(asked(r#"{"tools":[]}"#)));
        assert!(!form.covers(Asked::Url));
        assert_eq!(
            Asked::of(
                "elicitation/create",
                Some(&Object::parse(r#"{"mode":1}"#).unwrap())
            ),
            None
        );
    }

    #[test]
    fn what_is_declared_is_read_back_as_the_same() {
        for bits in 0_u8..128 {
            let bit = |at: u8| bits & (1 << at) != 0;
            let one = Can {
                apps: bit(0),
                form: bit(1),
                roots: bit(2),
                sampling: bit(3),
                sampling_context: bit(3) && bit(4),
                sampling_tools: bit(3) && bit(5),
                url: bit(6),
            };
            for era in [Era::Stateless, Era::Handshake(Revision::NEWEST_HANDSHAKE)] {
                assert_eq!(can(&one.declared(era, APPS)), one);
            }
            assert!(one.lacking(one).is_empty());
            for asked in [Asked::Form, Asked::Roots, Asked::Url] {
                assert!(one.with(asked).covers(asked));
                assert_eq!(one.covers(asked), one.with(asked) == one);
            }
            if one != Can::default() {
                assert!(!Can::default().lacking(one).is_empty());
            }
        }
    }
}
