//! The client's own ids in `_meta`, so that its logs can be joined with the record.
//!
//! All of it is the client's claim. A value that is too long or not printable is left out, not
//! cut: half an id joins with nothing.

use super::raw::{self, Object};
use crate::audit::entry::Correlation;

/// Longest id taken, in bytes.
const MAX_BYTES: usize = 128;

fn id(text: &str) -> Option<String> {
    let valid = (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    valid.then(|| text.to_owned())
}

/// Reads them.
#[must_use]
pub fn correlation(meta: Option<&Object<'_>>) -> Correlation {
    let Some(meta) = meta else {
        return Correlation::default();
    };
    let own = |key| meta.text(key).and_then(|text| id(&text));
    Correlation {
        tool_use_id: own("claudecode/toolUseId"),
        call_id: own("callId"),
        session_id: codex_session(meta),
        trace_id: own("traceparent").and_then(|text| trace_id(&text)),
    }
}

/// Codex: `x-codex-turn-metadata` is an object, or the text of one.
fn codex_session(meta: &Object<'_>) -> Option<String> {
    let value = meta.get("x-codex-turn-metadata")?;
    let text = raw::string(value);
    let turn = Object::parse(text.as_deref().unwrap_or(value)).ok()?;
    turn.text("session_id").and_then(|text| id(&text))
}

/// W3C Trace Context: `version-traceid-parentid-flags`.
fn trace_id(parent: &str) -> Option<String> {
    let trace = parent.split('-').nth(1)?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let valid = trace.len() == 32 && trace.bytes().all(hex) && trace.bytes().any(|b| b != b'0');
    valid.then(|| trace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(meta: &str) -> Correlation {
        correlation(Some(&Object::parse(meta).unwrap()))
    }

    #[test]
    fn the_ids_of_claude_code_codex_and_w3c_are_read() {
        let got = read(
            r#"{"claudecode/toolUseId":"toolu_01","callId":"call_9","progressToken":4,
               "x-codex-turn-metadata":{"session_id":"0199","turn_id":"x"},
               "traceparent":"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}"#,
        );
        assert_eq!(got.tool_use_id.unwrap(), "toolu_01");
        assert_eq!(got.call_id.unwrap(), "call_9");
        assert_eq!(got.session_id.unwrap(), "0199");
        assert_eq!(got.trace_id.unwrap(), "0af7651916cd43dd8448eb211c80319c");
        let text = r#"{"x-codex-turn-metadata":"{\"session_id\":\"s-1\"}"}"#;
        assert_eq!(read(text).session_id.unwrap(), "s-1");
        assert_eq!(correlation(None), Correlation::default());
    }

    #[test]
    fn what_is_no_id_is_left_out() {
        let long = "x".repeat(MAX_BYTES + 1);
        for meta in [
            r#"{"claudecode/toolUseId":7,"callId":"","traceparent":"00-xyz-1"}"#.to_owned(),
            r#"{"callId":"a b","x-codex-turn-metadata":[1]}"#.to_owned(),
            r#"{"traceparent":"00-00000000000000000000000000000000-00f067aa0ba902b7-01"}"#
                .to_owned(),
            format!(r#"{{"callId":"{long}","x-codex-turn-metadata":"no json"}}"#),
        ] {
            assert_eq!(read(&meta), Correlation::default(), "{meta}");
        }
    }
}
