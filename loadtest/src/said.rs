//! Output of a server started for the run: read continuously, so that its pipe never fills up; the last lines are kept for
//! error messages.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Number of lines kept: a usage message, or a stack trace.
const LAST_LINES: usize = 20;

/// Time to wait for the end of its output: its children may keep the pipe open for long.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(5);

/// What stands for the lines of a program that said nothing.
pub(crate) const NOTHING: &str = "(nothing)";

/// The end of an output.
#[derive(Debug)]
pub struct Said {
    lines: Arc<Mutex<VecDeque<String>>>,
    has_come: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

impl Said {
    /// Reads `output` to its end.
    pub fn by(output: impl Read + Send + 'static) -> Self {
        Self::awaiting(output, None)
    }

    /// The same, and detects a line with `text` in it.
    pub fn awaiting(output: impl Read + Send + 'static, text: Option<String>) -> Self {
        let (lines, has_come) = (Arc::default(), Arc::default());
        let reader = {
            let (lines, has_come) = (Arc::clone(&lines), Arc::clone(&has_come));
            std::thread::spawn(move || read(output, &lines, text.as_deref(), &has_come))
        };
        Self { lines, has_come, reader }
    }

    /// Whether the line has come that was awaited.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.has_come.load(Ordering::Relaxed)
    }

    /// The last lines. What an ended server said last may still be on its way.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let deadline = Instant::now() + LAST_WORDS_TIMEOUT;
        while !self.reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(TICK);
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The last lines, indented, to be quoted in an error.
    #[must_use]
    pub fn quoted(&self) -> String {
        let lines = self.lines();
        if lines.is_empty() {
            return format!("  {NOTHING}");
        }
        lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

fn read(output: impl Read, lines: &Mutex<VecDeque<String>>, awaited: Option<&str>, has_come: &AtomicBool) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if awaited.is_some_and(|awaited| line.contains(awaited)) {
            has_come.store(true, Ordering::Relaxed);
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let text = (0..30).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        let said = Said::by(std::io::Cursor::new(text));
        let lines = said.lines();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (20, "line 10", "line 29"));
        assert!(said.quoted().starts_with("  line 10\n  line 11\n"));
        assert_eq!(Said::by(std::io::empty()).quoted(), "  (nothing)");
        assert!(!said.has_come());
    }

    #[test]
    fn a_line_can_be_awaited() {
        let said = Said::awaiting(std::io::Cursor::new("one\nnow listening on 1\ntwo\n"), Some("listening".to_owned()));
        assert_eq!(said.lines().len(), 3);
        assert!(said.has_come());
    }
}
