//! The page a sign-in ends on: static, without script, and nothing in it that is not escaped.

use data_encoding::BASE64;

use crate::ids::Digest;
use crate::text;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto 0;\
padding:0 1.5rem;color:#1b1f24;background:#fff}h1{font-size:1.4rem}p{margin:.6rem 0}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}}";

/// A whole HTTP answer: head and page.
pub(super) fn answer(status: &str, title: &str, paragraphs: &[&str]) -> Vec<u8> {
    let mut body = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>mcpshim: {0}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n\
         <body><main><h1>{0}</h1>\n",
        escape(title)
    );
    for paragraph in paragraphs {
        body.push_str(&format!("<p>{}</p>\n", escape(paragraph)));
    }
    body.push_str("</main></body>\n</html>\n");
    let style = BASE64.encode(&Digest::of(STYLE.as_bytes()).0);
    let head = format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: text/html; charset=utf-8\r\n\
         Content-Length: {}\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\n\
         Cache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let mut out = head.into_bytes();
    out.extend_from_slice(body.as_bytes());
    out
}

/// What every request gets that is not the one we wait for.
pub(super) fn not_found() -> Vec<u8> {
    answer(
        "404 Not Found",
        "Nothing here",
        &["There is nothing to see at this address."],
    )
}

fn escape(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for ch in text::visible(words).chars() {
        match ch {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            ch => out.push(ch),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_page_is_markup_but_ours() {
        let text = String::from_utf8(answer(
            "200 OK",
            "Signed in as <b>Ann</b>",
            &["\"><script>alert('x')</script>&amp;\u{1b}[2J"],
        ))
        .unwrap();
        assert!(!text.contains("<b>") && !text.contains("<script"), "{text}");
        assert!(
            text.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;\\u{1b}[2J")
        );
        assert!(text.contains("default-src 'none'"));
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
