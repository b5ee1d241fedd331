//! What commands print, and where. Whatever it is, it goes through [`text`] here.

use std::io::{self, Write as _};

use mcpshim::report::{Exit, Failure};
use mcpshim::text;
use serde::Serialize;

/// Prints a text of several lines, in which nothing hides or plays. A reader that has seen enough (`… | head`) is not an error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out
        .write_all(text::block(text).as_bytes())
        .and_then(|()| out.flush())
    {
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
    print(&text::json(&text))
}

/// Says why a command failed.
pub(crate) fn complain(failure: &Failure) {
    // nobody is left to tell when even this fails
    drop(writeln!(io::stderr().lock(), "{failure}"));
}

/// Says something beside the answer.
pub(crate) fn warn(text: &str) {
    drop(writeln!(
        io::stderr().lock(),
        "warning: {}",
        text::visible(text)
    ));
}

/// Says something to the person at the terminal, beside the answer.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{}", text::block(text)));
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
