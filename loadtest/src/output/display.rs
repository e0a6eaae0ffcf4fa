//! Progress display of a run: a live screen on a terminal, otherwise a line per second, or nothing.

use std::time::Duration;

use super::progress::Lines;
use super::say;
use super::screen::Screen;
use super::terminal;
use crate::control::Phase;
use crate::interrupt::Interrupt;
use crate::series::Sample;
use crate::stats::Counts;

/// The requested display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// A screen on a terminal, lines elsewhere.
    #[default]
    Best,
    /// Lines, even on a terminal.
    Lines,
    /// Nothing.
    Nothing,
}

/// The display in use.
#[derive(Debug)]
pub enum Display {
    /// A live screen.
    Screen(Box<Screen>),
    /// A line per second.
    Lines(Lines),
    /// Nothing.
    Nothing,
}

impl Display {
    /// Starts the display for a run described by `headline`; its keys raise `interrupt`.
    #[must_use]
    pub fn new(show: Show, headline: &str, interrupt: &Interrupt) -> Self {
        if show == Show::Nothing {
            return Self::Nothing;
        }
        if show == Show::Best && super::is_on_stdout() && terminal::can_be_taken() {
            // A terminal that cannot show a screen still takes lines.
            if let Ok(screen) = Screen::open(headline.to_owned(), interrupt.clone()) {
                return Self::Screen(Box::new(screen));
            }
        }
        Self::Lines(Lines::new(headline))
    }

    /// Adds a note.
    pub fn note(&mut self, text: &str) {
        match self {
            Self::Screen(screen) => screen.note(text),
            Self::Lines(_) => say(format_args!("{text}\n")),
            Self::Nothing => {}
        }
    }

    /// A phase begins; it takes `time`, if that is known.
    pub fn begin(&mut self, phase: Phase, time: Option<Duration>) {
        if let Self::Screen(screen) = self {
            screen.begin(phase, time);
        }
    }

    /// A sample has been taken.
    pub fn show(&mut self, sample: &Sample, counts: &Counts) {
        match self {
            Self::Screen(screen) => screen.add(sample, counts),
            Self::Lines(lines) => lines.show(sample, counts),
            Self::Nothing => {}
        }
    }

    /// To be called repeatedly during the run.
    pub fn refresh(&mut self, counts: &Counts) {
        if let Self::Screen(screen) = self {
            screen.refresh(counts);
        }
    }
}
