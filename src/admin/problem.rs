//! What is wrong with the sources of a registry: where, which rule, how to fix it.

use std::fmt;

use serde::Serialize;

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
pub struct Spot<T> {
    /// Where.
    pub at: At,
    /// What.
    pub value: T,
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
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let level = self.level.word();
        write!(f, ": {level}: {} [{}]", self.message, self.rule)?;
        write!(f, "\n  fix: {}", self.fix)
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
            message,
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

/// Edits from one word to the other: insert, delete, replace (Levenshtein); case and `-` against
/// `_` are free. Quadratic; words are keys and names.
fn distance(a: &str, b: &str) -> usize {
    let fold = |c: char| {
        if c == '_' {
            '-'
        } else {
            c.to_ascii_lowercase()
        }
    };
    let a: Vec<char> = a.chars().take(128).map(fold).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, b) in b.chars().take(128).map(fold).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (a, up) in a.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(*a != b)).min(left + 1).min(up + 1);
            diagonal = *up;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
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
        assert_eq!(nearest("zone", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn words_are_joined_for_a_sentence() {
        assert_eq!(either(["a"]), "`a`");
        assert_eq!(either(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
