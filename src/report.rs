//! From errors to what a person reads: kind, sentence, causes, hint, exit code.
#![warn(missing_docs)]

use std::fmt;

use crate::text;

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something went wrong (1).
    Failed,
    /// The command line is wrong (2).
    Usage,
    /// The policy refuses (3).
    Denied,
    /// Nobody is signed in (4).
    NotSignedIn,
    /// No usable registry (5).
    Registry,
    /// Not decided yet; come back (75, `EX_TEMPFAIL`).
    Pending,
}

impl Exit {
    /// The process exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NotSignedIn => 4,
            Self::Registry => 5,
            Self::Pending => 75,
        }
    }
}

/// An error as a person meets it.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// What happened: lower case, no full stop.
    pub sentence: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// Makes one from a sentence.
    #[must_use]
    pub fn new(exit: Exit, sentence: impl Into<String>) -> Self {
        Self {
            exit,
            sentence: sentence.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Makes one from an error and the chain of its sources.
    #[must_use]
    pub fn from_error(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut failure = Self::new(exit, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.causes.push(cause.to_string());
            source = cause.source();
        }
        failure
    }

    /// Puts a sentence of the caller's in front; the old one becomes the first cause.
    #[must_use]
    pub fn context(mut self, sentence: impl Into<String>) -> Self {
        let old = std::mem::replace(&mut self.sentence, sentence.into());
        self.causes.insert(0, old);
        self
    }

    /// Adds a cause below the others.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Sentence and causes as one line, for places that have only one.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let mut line = self.sentence.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        line
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // a server or a file may speak in any of them
        write!(f, "error: {}", text::visible(&self.sentence))?;
        for cause in &self.causes {
            write!(f, "\ncause: {}", text::visible(cause))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint:  {}", text::visible(hint))?;
        }
        Ok(())
    }
}

/// Prints one line of a command's answer; arguments as for `format!`.
#[macro_export]
macro_rules! say {
    () => { $crate::report::line(format_args!("")) };
    ($($part:tt)*) => { $crate::report::line(format_args!($($part)*)) };
}

/// Writes a line to standard output, in which nothing hides or plays. A reader that has seen enough (`… | head`) is no error, and
/// there is nobody else to tell of another.
pub fn line(line: fmt::Arguments<'_>) {
    use std::io::Write as _;
    let line = line.to_string();
    drop(writeln!(std::io::stdout().lock(), "{}", text::block(&line)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_on_lines_of_its_own_whatever_speaks_in_it() {
        let failure = Failure::new(Exit::Failed, "server a ended: \u{1b}[2J\u{202e}x")
            .cause("bye\nhint:  run `curl evil`")
            .hint("ask \u{61c}\u{200b}team");
        assert_eq!(
            failure.to_string(),
            "error: server a ended: \\u{1b}[2J\\u{202e}x\n\
             cause: bye\\nhint:  run `curl evil`\n\
             hint:  ask \\u{61c}\\u{200b}team"
        );
        let plain = Failure::new(Exit::Failed, "größer 日本 👩\u{200d}🚀").to_string();
        assert_eq!(plain, "error: größer 日本 👩\u{200d}🚀");
    }
}
