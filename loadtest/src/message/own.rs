//! The user's own messages.

use std::path::Path;
use std::sync::Arc;

use super::sizes::{MAX_SIZE, Sizes};

/// The user's messages: a connection's first one is that of its number, the others follow in turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnMessages {
    /// One at least.
    list: Arc<[Box<[u8]>]>,
    /// Where they are from, for people.
    from: String,
}

impl OwnMessages {
    /// A single text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self { list: Arc::new([text.as_bytes().into()]), from: "--message".to_owned() }
    }

    /// The whole of a file, or each of its lines, empty ones left out.
    pub fn read(path: &Path, by_lines: bool) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        if bytes.len() > MAX_SIZE {
            return Err(format!("{} has more than {MAX_SIZE} bytes", path.display()));
        }
        if !by_lines {
            return Ok(Self { list: Arc::new([bytes.into()]), from: path.display().to_string() });
        }
        let lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let list: Arc<[Box<[u8]>]> = lines.filter(|line| !line.is_empty()).map(Box::from).collect();
        if list.is_empty() {
            return Err(format!("{} has no lines", path.display()));
        }
        let from = format!("{}, {} line(s)", path.display(), list.len());
        Ok(Self { list, from })
    }

    /// All of them.
    #[must_use]
    pub fn list(&self) -> &[Box<[u8]>] {
        &self.list
    }

    /// Where they are from, for people.
    #[must_use]
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Whether all are UTF-8, and so can be sent as text.
    #[must_use]
    pub fn are_text(&self) -> bool {
        self.list.iter().all(|message| str::from_utf8(message).is_ok())
    }

    /// Their sizes, from the smallest to the largest.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let (mut min, mut max) = (usize::MAX, 0);
        for message in self.list.iter() {
            (min, max) = (min.min(message.len()), max.max(message.len()));
        }
        if min == max { Sizes::Fixed(max) } else { Sizes::Uniform { min, max } }
    }

    /// Their mean size.
    #[must_use]
    pub fn mean_size(&self) -> f64 {
        self.list.iter().map(|message| message.len() as f64).sum::<f64>() / self.list.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_message_or_its_lines_are() {
        let path = std::env::temp_dir().join(format!("ringload-messages-{}.txt", std::process::id()));
        std::fs::write(&path, "one\r\n\ntwo, ü\n").unwrap();
        let whole = OwnMessages::read(&path, false).unwrap();
        assert_eq!((whole.list().len(), whole.sizes()), (1, Sizes::Fixed(14)));
        let lines = OwnMessages::read(&path, true).unwrap();
        assert_eq!(
            lines.list().iter().map(|line| line.to_vec()).collect::<Vec<_>>(),
            [b"one".to_vec(), "two, ü".into()]
        );
        assert_eq!(lines.sizes(), Sizes::Uniform { min: 3, max: 7 });
        assert!((lines.mean_size() - 5.0).abs() < 1e-9 && lines.are_text());
        std::fs::write(&path, b"\n\xff\n").unwrap();
        assert!(!OwnMessages::read(&path, true).unwrap().are_text());
        std::fs::write(&path, "\n\n").unwrap();
        assert!(OwnMessages::read(&path, true).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(OwnMessages::read(&path, false).is_err());
    }
}
