//! The keys of a live screen.

use std::io::stdin;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, kill_current_process_group};
use signal_hook::consts::signal;

use super::terminal;
use crate::interrupt::Interrupt;

/// The bytes that these keys send.
const CTRL_C: u8 = 0x03;
const CTRL_Z: u8 = 0x1a;
const CTRL_BACKSLASH: u8 = 0x1c;

/// The keys of a terminal, and the interrupt that they raise.
#[derive(Debug)]
pub struct Keys {
    interrupt: Interrupt,
    /// Whether the terminal is still connected.
    is_connected: bool,
}

impl Keys {
    /// Reads keys that raise `interrupt`.
    #[must_use]
    pub fn new(interrupt: Interrupt) -> Self {
        Self { interrupt, is_connected: true }
    }

    /// Whether the run is being ended, by a key or a signal.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.is_raised()
    }

    /// In raw mode Ctrl-C is an ordinary key; q does the same. Ctrl-Z stops the whole job, as the shell would.
    ///
    /// The bytes are read here, since the library's reader loops for ever once the terminal has hung up.
    pub fn read(&mut self) {
        let mut keys = [0; 64];
        while self.is_connected && terminal::is_taken() && has_input() {
            match rustix::io::read(stdin(), &mut keys) {
                Ok(0) => self.is_connected = false,
                Ok(count) => keys[..count].iter().for_each(|&key| self.press(key)),
                Err(Errno::INTR | Errno::AGAIN) => return,
                Err(_) => self.is_connected = false,
            }
        }
    }

    fn press(&self, key: u8) {
        match key {
            b'q' | CTRL_C => self.interrupt.raise(signal::SIGINT),
            CTRL_BACKSLASH => self.interrupt.raise(signal::SIGQUIT),
            CTRL_Z => {
                // The other processes of a pipeline are stopped as well. The signal's handler restores the terminal.
                let _ = kill_current_process_group(Signal::TSTP);
            }
            _ => {}
        }
    }
}

/// Whether input can be read; a hang-up counts.
fn has_input() -> bool {
    let stdin = stdin();
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
