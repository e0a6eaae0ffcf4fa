//! The live screen: phase, rate and faults of a run, drawn a few times a second.

mod view;

use std::io;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;

use super::keys::Keys;
use super::terminal;
use crate::control::Phase;
use crate::interrupt::Interrupt;
use crate::series::Sample;
use crate::stats::Counts;
use view::View;

/// Interval between two frames.
const REFRESH: Duration = Duration::from_millis(200);

/// The terminal with the live screen; it is restored on drop.
pub struct Screen {
    terminal: ManuallyDrop<DefaultTerminal>,
    view: View,
    keys: Keys,
    drawn: Option<Instant>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("view", &self.view).finish_non_exhaustive()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        terminal::give_back();
    }
}

impl Screen {
    /// Takes over the terminal for a run described by `headline`; its keys raise `interrupt`.
    pub fn open(headline: String, interrupt: Interrupt) -> io::Result<Self> {
        let terminal = terminal::take()?;
        let view = View::new(headline, terminal::has_colors());
        Ok(Self { terminal, view, keys: Keys::new(interrupt), drawn: None })
    }

    /// Adds a note.
    pub fn note(&mut self, text: &str) {
        self.view.note(text);
    }

    /// A phase begins; it takes `time`, if that is known.
    pub fn begin(&mut self, phase: Phase, time: Option<Duration>) {
        self.view.begin(phase, time);
        self.drawn = None;
    }

    /// A sample has been taken.
    pub fn add(&mut self, sample: &Sample, counts: &Counts) {
        self.view.add(sample);
        self.view.counts = *counts;
        self.drawn = None;
    }

    /// Reads the keys, and draws a frame if it is due.
    pub fn refresh(&mut self, counts: &Counts) {
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REFRESH) {
            return;
        }
        self.drawn = Some(Instant::now());
        self.view.counts = *counts;
        self.keys.read();
        self.view.is_ending = self.keys.is_interrupted();
        let (terminal, view) = (&mut self.terminal, &self.view);
        // A terminal that has hung up must not end the run.
        let _ = terminal::draw(terminal, |frame| view.draw(frame));
    }
}
