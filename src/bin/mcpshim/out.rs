//! What commands print, and where.

use std::io::{self, Write as _};

use mcpshim::report::{Exit, Failure};
use serde::Serialize;

/// Prints a text. A reader that has seen enough (`… | head`) is not an error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::from_error(Exit::Failed, &error)
                .context("the answer cannot be written to standard output"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints a value as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    text.push('\n');
    print(&text)
}

/// Says why a command failed.
pub(crate) fn complain(failure: &Failure) {
    // nobody is left to tell when even this fails
    drop(writeln!(io::stderr().lock(), "{failure}"));
}

/// Says something beside the answer.
pub(crate) fn warn(text: &str) {
    drop(writeln!(io::stderr().lock(), "warning: {text}"));
}

/// Says something to the person at the terminal, beside the answer.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Rows as text, each column as wide as its widest cell. The last is not padded.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if at + 1 == row.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:width$}  "));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// A text in which nothing plays with a terminal or hides: control characters, and those that
/// change the direction or have no width, are shown as escapes.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for ch in text.chars() {
        let hides = matches!(
            ch,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{e0000}'..='\u{e007f}'
        );
        if (ch.is_control() && ch != '\t') || hides {
            shown.extend(ch.escape_default());
        } else {
            shown.push(ch);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_plays_with_a_terminal_is_shown() {
        assert_eq!(visible("a\u{1b}[2Jb\tc\nd"), "a\\u{1b}[2Jb\tc\\nd");
        assert_eq!(
            visible("\u{202e}evil \u{e0041}"),
            "\\u{202e}evil \\u{e0041}"
        );
        assert_eq!(visible("Ünïcode 日本"), "Ünïcode 日本");
    }
}
