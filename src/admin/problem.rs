//! What is wrong with the sources of a registry: where, which rule, how to fix it.

use std::fmt;

use serde::Serialize;

use crate::text;
use crate::text::printable;

/// A position in a file, both from 1. Line 0 means the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct At {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot<T> {
    /// Where.
    pub(super) at: At,
    /// What.
    pub(super) value: T,
}

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nothing can be published.
    Error,
    /// It can, and somebody should look.
    Warning,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl Problems {
    /// The first error, as one line for a terminal: where, and what is wrong.
    #[must_use]
    pub fn first(&self) -> Option<String> {
        let first = self.0.iter().find(|p| p.level == Level::Error)?;
        let place = match first.line {
            0 => first.file.clone(),
            line => format!("{}:{line}", first.file),
        };
        Some(text::short(&format!("{place}: {}", first.message), 500))
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, relative to the directory, with `/`.
    pub file: String,
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    /// From 1; 0 for the file as a whole.
    pub column: usize,
    /// Error or warning.
    pub level: Level,
    /// The rule's stable name.
    pub rule: &'static str,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // names and values of a source are whoever's who wrote it
        let safe = |text: &str| text::visible(text).into_owned();
        f.write_str(&safe(&self.file))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let level = self.level.word();
        write!(f, ": {level}: {} [{}]", safe(&self.message), self.rule)?;
        write!(f, "\n  fix: {}", safe(&self.fix))
    }
}

/// Every problem found, by file and position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Returns how many are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|p| p.level == Level::Error).count()
    }

    /// Returns how many are warnings.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.0.len() - self.errors()
    }

    pub(super) fn sort(&mut self) {
        self.0.sort();
        self.0.dedup();
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects the problems of one file.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    pub(super) file: &'a str,
    pub(super) problems: &'a mut Problems,
}

impl Sink<'_> {
    pub(super) fn error(
        &mut self,
        at: At,
        rule: &'static str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Level::Error, at, rule, message.into(), fix.into());
    }

    pub(super) fn warning(
        &mut self,
        at: At,
        rule: &'static str,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Level::Warning, at, rule, message.into(), fix.into());
    }

    fn push(&mut self, level: Level, at: At, rule: &'static str, message: String, fix: String) {
        self.problems.0.push(Problem {
            file: self.file.to_owned(),
            line: at.line,
            column: at.column,
            level,
            rule,
            message: super::secrets::hide(&message),
            fix,
        });
    }
}

/// Returns the known word nearest to this one, if any is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits from one word to the other: insert, delete, replace, swap two neighbours (optimal string
/// alignment); case and `-` against `_` are free. Quadratic; words are keys and names.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| match c {
        '_' => '-',
        c => c.to_ascii_lowercase(),
    };
    let [a, b] = [a, b].map(|word| word.chars().take(128).map(fold).collect::<Vec<_>>());
    // rows[i][j]: from the first i of a to the first j of b
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    let cell = |rows: &[Vec<usize>], i: usize, j: usize| -> usize {
        rows.get(i)
            .and_then(|row| row.get(j))
            .copied()
            .unwrap_or_default()
    };
    for i in 1..=a.len() {
        rows.push(vec![i]);
        for j in 1..=b.len() {
            let same = a.get(i - 1) == b.get(j - 1);
            let mut best = (cell(&rows, i - 1, j - 1) + usize::from(!same))
                .min(cell(&rows, i - 1, j) + 1)
                .min(cell(&rows, i, j - 1) + 1);
            if i > 1 && j > 1 && a.get(i - 1) == b.get(j - 2) && a.get(i - 2) == b.get(j - 1) {
                best = best.min(cell(&rows, i - 2, j - 2) + 1);
            }
            if let Some(row) = rows.last_mut() {
                row.push(best);
            }
        }
    }
    cell(&rows, a.len(), b.len())
}

/// Suggests a known word for one that is not, or says what is known, or what else to do.
pub(super) fn suggest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let odd = word.chars().enumerate().find(|(_, c)| !c.is_ascii());
    if let Some((at, odd)) = odd
        && word.chars().any(|c| c.is_ascii_alphabetic())
        && known.iter().all(|word| word.is_ascii())
    {
        let (at, code) = (at + 1, u32::from(odd));
        let meant = nearest(word, known.iter().copied());
        let meant = meant.map_or(String::new(), |meant| {
            format!("; did you mean `{}`?", printable(meant))
        });
        return format!(
            "its letter {at} is U+{code:04X}, which only looks like a Latin one{meant}"
        );
    }
    match nearest(word, known.iter().copied()) {
        Some(meant) => format!("did you mean `{}`?", printable(meant)),
        None if (1..=8).contains(&known.len()) && known.iter().all(|word| word.len() <= 40) => {
            let known: Vec<String> = known.into_iter().map(printable).collect();
            let known = either(known.iter().map(String::as_str));
            format!("use {known}; or {otherwise}")
        }
        None => otherwise.to_owned(),
    }
}

/// Writes a list of words for a sentence: `a`, `b` or `c`.
pub(super) fn either<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near_or_none() {
        let known = ["owner", "on_call", "purpose", "tools"];
        assert_eq!(nearest("ownr", known), Some("owner"));
        assert_eq!(nearest("on-call", known), Some("on_call"));
        assert_eq!(nearest("Purpose", known), Some("purpose"));
        assert_eq!(nearest("tool", known), Some("tools"));
        assert_eq!(nearest("ownre", known), Some("owner"));
        assert_eq!(nearest("zone", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn a_letter_of_another_script_is_named() {
        let known = ["read_customer", "update_customer"];
        assert_eq!(
            suggest("read_\u{441}ustomer", known, "pin again"),
            "its letter 6 is U+0441, which only looks like a Latin one; did you mean `read_customer`?"
        );
        assert_eq!(
            suggest("read_custmer", known, "x"),
            "did you mean `read_customer`?"
        );
    }

    #[test]
    fn words_are_joined_for_a_sentence() {
        assert_eq!(either(["a"]), "`a`");
        assert_eq!(either(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
