//! Looks at what passes, both ways, before it goes on.
//!
//! The session asks here for every request it is about to send and for everything an upstream
//! sends back. Rules that find or redact content come with data protection and plug in here;
//! until then the one finding is size, because a client whose reader overflows is lost.
#![warn(missing_docs)]

use crate::limits;
use crate::wire::msg::{Notification, Request, Response};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Finding {
    /// Nothing that stops it.
    Clear,
    /// It may not go on: one line for people.
    Stop(String),
}

/// Looks at a client's request before it is decided.
pub fn request(request: &Request<'_>) -> Finding {
    bounded(request.line.len(), limits::LINE_BYTES, "the request")
}

/// The edits of docs/formats/edits.md add less than this to a question or a notification, in bytes.
const ROOM_BYTES: usize = 4 << 10;

/// Looks at an upstream's answer before the client gets it: the line that would be written,
/// without its newline.
pub fn response(line: &[u8]) -> Finding {
    match line.len() {
        0..=limits::LINE_OUT_BYTES => Finding::Clear,
        bytes => Finding::Stop(format!(
            "the answer has {bytes} bytes, and a client reads at most {} in one message; the \
             request may have taken effect; ask for less",
            limits::LINE_OUT_BYTES
        )),
    }
}

/// Looks at what an upstream asks before the client gets it: its request, or the result it is in.
pub fn question(line: &str) -> Finding {
    bounded(
        line.len() + ROOM_BYTES,
        limits::LINE_OUT_BYTES,
        "the question",
    )
}

/// Looks at a client's answer to an upstream's question before the upstream gets it.
pub fn answer(response: &Response<'_>) -> Finding {
    bounded(
        response.line.len() + ROOM_BYTES,
        limits::LINE_BYTES,
        "the answer",
    )
}

/// Looks at an upstream's notification (progress, a log message, a changed resource, a task)
/// before the client gets it.
pub fn notification(notification: &Notification<'_>) -> Finding {
    bounded(
        notification.line.len() + ROOM_BYTES,
        limits::LINE_OUT_BYTES,
        "the notification",
    )
}

fn bounded(bytes: usize, most: usize, what: &str) -> Finding {
    if bytes <= most {
        return Finding::Clear;
    }
    Finding::Stop(format!(
        "{what} has {bytes} bytes, and a client reads at most {most} in one message; ask for less"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::msg::Message;

    /// Found: the room for edits was counted as bytes of the answer, so that answers that fit were
    /// refused and the size that was told was 4,096 bytes too large.
    #[test]
    fn an_answer_is_stopped_for_its_true_size_and_only_if_it_does_not_fit() {
        let answer = |bytes: usize| response(&vec![b'x'; bytes]);
        for fits in [1, 9_900_000, 9_995_905, 10_000_000] {
            assert_eq!(answer(fits), Finding::Clear, "{fits}");
        }
        let Finding::Stop(text) = answer(10_000_001) else {
            panic!("it does not fit");
        };
        assert!(text.contains("has 10000001 bytes"), "{text}");
        assert!(text.contains("at most 10000000 in one message"), "{text}");
        assert!(text.contains("may have taken effect"), "{text}");
    }

    #[test]
    fn so_is_a_notification() {
        let told = |bytes: usize| {
            let line = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"{}"}}}}"#,
                "x".repeat(bytes)
            );
            match Message::parse(line.as_bytes()) {
                Ok(Message::Notification(message)) => notification(&message),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(9_900_000), Finding::Clear);
        assert!(matches!(told(10_000_000), Finding::Stop(_)));
    }
}
