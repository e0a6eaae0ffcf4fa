//! The live screen: where the run is, how fast it is and what goes wrong, drawn a few times a second.

mod view;

use std::io::{self, stdin};
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, kill_current_process_group};
use signal_hook::consts::signal;

use super::terminal;
use crate::control::Phase;
use crate::interrupt::Interrupt;
use crate::series::Sample;
use crate::stats::Counts;
use view::View;

/// How long a picture stays.
const REFRESH: Duration = Duration::from_millis(200);

/// What these keys send.
const CTRL_C: u8 = 0x03;
const CTRL_Z: u8 = 0x1a;
const CTRL_BACKSLASH: u8 = 0x1c;

/// A terminal in use; it is given back when this is dropped.
pub struct Screen {
    terminal: ManuallyDrop<DefaultTerminal>,
    view: View,
    interrupt: Interrupt,
    drawn: Option<Instant>,
    /// The terminal has not hung up.
    has_keys: bool,
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
    /// Takes the terminal for a run that `headline` describes, and that `interrupt` ends.
    pub fn open(headline: String, interrupt: Interrupt) -> io::Result<Self> {
        let terminal = terminal::take()?;
        Ok(Self { terminal, view: View::new(headline, terminal::has_colors()), interrupt, drawn: None, has_keys: true })
    }

    /// Something to be said once.
    pub fn note(&mut self, text: &str) {
        self.view.note(text);
    }

    /// A phase begins; it is going to take `time`, if that is known.
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

    /// Reads the keys and draws, if it is time.
    pub fn refresh(&mut self, counts: &Counts) {
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REFRESH) {
            return;
        }
        self.drawn = Some(Instant::now());
        self.view.counts = *counts;
        self.read_keys();
        self.view.is_ending = self.interrupt.is_raised();
        let (terminal, view) = (&mut self.terminal, &self.view);
        terminal::draw(|is_anew| {
            if is_anew {
                // Nothing of the last picture is there any more. (`clear` would ask the terminal for its cursor's place.)
                terminal.swap_buffers();
                terminal.swap_buffers();
            }
            // A terminal that is gone must not end the run.
            let _ = terminal.draw(|frame| view.draw(frame));
        });
    }

    /// In raw mode Ctrl-C is a key like others, and q does the same. Ctrl-Z stops what a shell calls the job.
    ///
    /// The bytes are read here: the library's reader goes round for ever when the terminal has hung up.
    fn read_keys(&mut self) {
        let mut keys = [0; 64];
        while self.has_keys && terminal::is_taken() && has_input() {
            match rustix::io::read(stdin(), &mut keys) {
                Ok(0) => self.has_keys = false,
                Ok(count) => keys[..count].iter().for_each(|&key| self.press(key)),
                Err(Errno::INTR | Errno::AGAIN) => return,
                Err(_) => self.has_keys = false,
            }
        }
    }

    fn press(&self, key: u8) {
        match key {
            b'q' | CTRL_C => self.interrupt.raise(signal::SIGINT),
            CTRL_BACKSLASH => self.interrupt.raise(signal::SIGQUIT),
            CTRL_Z => {
                // What stands behind a pipe is stopped as well. The handler of the signal gives the terminal back.
                let _ = kill_current_process_group(Signal::TSTP);
            }
            _ => {}
        }
    }
}

/// Whether there is something to be read, if only that the terminal has hung up.
fn has_input() -> bool {
    let stdin = stdin();
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
