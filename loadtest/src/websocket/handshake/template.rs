//! Templates whose values differ between connections: `{n}` is the connection's number, `{line:FILE}` a line of a file,
//! taken in turn. `{{` is a brace.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

/// A text with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Literal(String),
    /// The connection's number in the whole run, from 0.
    Number,
    /// The connection's line of this file.
    Line(PathBuf),
}

/// Why a template has no values.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// A name in braces that means nothing.
    #[error("`{{{0}}}` is no placeholder; there are {{n}} and {{line:FILE}}, and {{{{ is a brace")]
    Unknown(String),
    /// A file that cannot be read.
    #[error("cannot read {0}: {1}")]
    File(PathBuf, std::io::Error),
    /// A file that holds no values.
    #[error("{0} has no lines")]
    Empty(PathBuf),
    /// A value that would end the header.
    #[error("line {1} of {0} has a control character in it")]
    Control(PathBuf, usize),
}

/// The values of one file's placeholder.
pub(super) type Lines = Arc<[Box<[u8]>]>;

impl Template {
    /// A text without placeholders.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        Self(vec![Piece::Literal(text.into())])
    }

    /// Finds the placeholders in `text`.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            literal.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            if let Some(escaped) = behind.strip_prefix('{') {
                literal.push('{');
                rest = escaped;
                continue;
            }
            let Some((name, behind)) = name_in_braces(behind) else {
                literal.push('{');
                rest = behind;
                continue;
            };
            let placeholder = match name.split_once(':') {
                None if name == "n" => Piece::Number,
                Some(("line", file)) if !file.is_empty() => Piece::Line(PathBuf::from(file)),
                _ => return Err(TemplateError::Unknown(name.to_owned())),
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(placeholder);
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }
}

/// The name of a placeholder and what follows it. Braces around anything else are text, like those of JSON.
fn name_in_braces(text: &str) -> Option<(&str, &str)> {
    let (name, behind) = text.split_once('}')?;
    let word = name.split_once(':').map_or(name, |(word, _)| word);
    let is_name = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    is_name.then_some((name, behind))
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Literal(text) => f.write_str(text),
            Piece::Number => f.write_str("{n}"),
            Piece::Line(path) => write!(f, "{{line:{}}}", path.display()),
        })
    }
}

/// Files that have been read for placeholders.
#[derive(Debug, Default)]
pub(super) struct Files(HashMap<PathBuf, Lines>);

impl Files {
    /// The lines of a file, empty ones left out.
    pub(super) fn lines(&mut self, path: &Path) -> Result<Lines, TemplateError> {
        if let Some(lines) = self.0.get(path) {
            return Ok(Arc::clone(lines));
        }
        let bytes = std::fs::read(path).map_err(|error| TemplateError::File(path.to_owned(), error))?;
        let mut lines: Vec<Box<[u8]>> = Vec::new();
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.iter().any(u8::is_ascii_control) {
                return Err(TemplateError::Control(path.to_owned(), index + 1));
            }
            if !line.is_empty() {
                lines.push(line.into());
            }
        }
        if lines.is_empty() {
            return Err(TemplateError::Empty(path.to_owned()));
        }
        let lines: Lines = lines.into();
        self.0.insert(path.to_owned(), Arc::clone(&lines));
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_told_from_other_braces() {
        let pieces = |text: &str| Template::parse(text).unwrap().0;
        let literal = |text: &str| Piece::Literal(text.to_owned());
        assert_eq!(pieces("a{n}b"), [literal("a"), Piece::Number, literal("b")]);
        assert_eq!(pieces("{line:/x y/t?.txt}"), [Piece::Line("/x y/t?.txt".into())]);
        for text in ["", "plain", "{\"a\": {\"b\": 1}}", "{", "{n", "}{1}", "{}"] {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
            assert!(pieces(text).iter().all(|piece| matches!(piece, Piece::Literal(_))), "{text}");
        }
        assert_eq!(pieces("{{n}"), [literal("{n}")]);
        for wrong in ["{number}", "{line}", "{line:}", "{n:1}"] {
            assert!(matches!(Template::parse(wrong), Err(TemplateError::Unknown(_))), "{wrong}");
        }
    }

    /// Texts made of what matters here, at random.
    #[test]
    fn a_template_shown_is_the_same_template() {
        let mut random = crate::message::SplitMix(3);
        let mut parsed = 0;
        for _ in 0..2000 {
            let parts = ["{", "}", "n", "{n}", "line:", "{line:a}", ":", " ", "ü", "\"", "x"];
            let text: String = (0..random.next() % 9).map(|_| parts[(random.next() % 11) as usize]).collect();
            let Ok(template) = Template::parse(&text) else { continue };
            parsed += 1;
            let is_escaped = text.contains("{{");
            assert!(is_escaped || template.to_string() == text, "{text}");
            let adjacent = template.0.windows(2).all(|pair| !matches!(pair, [Piece::Literal(_), Piece::Literal(_)]));
            assert!(adjacent, "{template:?}");
        }
        assert!(parsed > 1000, "{parsed}");
    }

    #[test]
    fn files_must_have_lines_that_can_be_sent() {
        let path = std::env::temp_dir().join(format!("ringload-lines-{}.txt", std::process::id()));
        let lines_of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Files::default().lines(&path).map(|lines| lines.iter().map(|it| it.to_vec()).collect::<Vec<_>>())
        };
        assert_eq!(lines_of("a\r\n\nb").unwrap(), [b"a".to_vec(), b"b".to_vec()]);
        assert!(matches!(lines_of("\n\n"), Err(TemplateError::Empty(_))));
        assert!(matches!(lines_of("a\nb\tc\n"), Err(TemplateError::Control(_, 2))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Files::default().lines(&path), Err(TemplateError::File(..))));
    }
}
