//! Errors in a file, with their position.

use std::fmt;
use std::path::{Path, PathBuf};

use super::super::words::nearest;

/// An error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    file: PathBuf,
    line: Option<usize>,
    message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Mistake {}

impl Mistake {
    /// The message without the position.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// An error of the file as a whole.
    pub(super) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, message: message.into() }
    }

    /// An error at this position of the text.
    pub(super) fn at(file: &Path, text: &str, at: usize, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: Some(line_of(text, at)), message: message.into() }
    }

    /// An error from the parser.
    pub(super) fn parsed(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| line_of(text, span.start));
        let key = error.span().and_then(|span| key_at(text, span.start));
        Self { file: file.to_owned(), line, message: explain(error.message(), key) }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].split(|&byte| byte == b'\n').count()
}

/// Where the line begins that gives `key` in the table that begins at `start`.
pub(super) fn line_of_key(text: &str, start: usize, key: &str) -> Option<usize> {
    let mut at = start;
    for (index, line) in text.get(start..)?.split_inclusive('\n').enumerate() {
        if index > 0 && line.starts_with('[') {
            break;
        }
        let rest = line.trim_start().strip_prefix(key).unwrap_or_default();
        if rest.trim_start().starts_with(['=', '.']) {
            return Some(at);
        }
        at += line.len();
    }
    None
}

/// The key whose value begins at `at`, if it is on the same line.
fn key_at(text: &str, at: usize) -> Option<&str> {
    let line = text.get(..at)?.rsplit('\n').next()?;
    let key = line.rsplit_once('=')?.0.trim();
    let key = key.rsplit(['{', ',']).next()?.trim();
    (!key.is_empty()).then_some(key)
}

/// Rewords the parser's message: it lists the expected words where one of them was probably meant.
fn explain(message: &str, key: Option<&str>) -> String {
    let kinds = [("unknown field ", "key"), ("unknown variant ", "value")];
    for (prefix, kind) in kinds {
        let Some(rest) = message.strip_prefix(prefix) else { continue };
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let word = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let of = key.filter(|_| kind == "value").map_or(String::new(), |key| format!(" of `{key}`"));
        return match nearest(word, &known) {
            Some(nearest) => format!("`{word}` is no {kind}{of} here; did you mean `{nearest}`?"),
            None => format!("`{word}` is no {kind}{of} here; there are: {}", known.join(", ")),
        };
    }
    match key {
        Some(key) if !message.starts_with(&format!("`{key}`")) => format!("`{key}`: {message}"),
        _ => message.to_owned(),
    }
}
