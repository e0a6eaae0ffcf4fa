//! Ends a run early: in order at the first signal or key, at once at the second. Also suspends and continues it, giving the
//! terminal to the shell meanwhile.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use crate::output::terminal;
use crate::server_command;

/// All signals whose default would end the process at once, without its results and with the terminal as it is. (One
/// that is missing here is ignored: SIGXFSZ, by which a write beyond the limit on file sizes becomes an error.)
const SIGNALS: [i32; 10] = [
    signal::SIGINT,
    signal::SIGTERM,
    signal::SIGHUP,
    signal::SIGQUIT,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGALRM,
    signal::SIGVTALRM,
    signal::SIGPROF,
    signal::SIGXCPU,
];

/// `timeout`, `npm run` and `tini -g` send a signal twice within moments, and a terminal that is closed sends SIGHUP as the
/// shell does: together they are one.
const MOMENT: Duration = Duration::from_secs(1);

/// Two Ctrl-C are nearer to each other, but no hand is faster than this.
const MOMENT_OF_KEYS: Duration = Duration::from_millis(50);

/// The base of exit codes after a signal, by the custom of shells: this and the signal's number.
pub const EXIT_BY_SIGNAL: i32 = 128;

/// Whether the run is to end early, and what asks for it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Mutex<Option<First>>>);

/// The first request.
#[derive(Clone, Copy, Debug)]
struct First {
    signal: i32,
    at: Instant,
}

impl Interrupt {
    /// Watches for signals from here on.
    pub fn watch() -> io::Result<Self> {
        let interrupt = Self::default();
        // The flag is not looked at: with any handler the signal does nothing.
        signal_hook::flag::register(signal::SIGXFSZ, Arc::default())?;
        let mut signals = Signals::new(SIGNALS.into_iter().chain([signal::SIGTSTP, signal::SIGCONT]))?;
        let watching = interrupt.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    signal::SIGTSTP => terminal::stop(),
                    signal::SIGCONT => terminal::continued(),
                    _ => watching.raise(signal),
                }
            }
        })?;
        Ok(interrupt)
    }

    /// The signal that ends the run early, if one does.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.first().map(|first| first.signal)
    }

    /// Whether the run is to end early.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.first().is_some()
    }

    /// Asks for the end as `signal` does. The second time the process ends here.
    pub fn raise(&self, signal: i32) {
        let now = Instant::now();
        let mut first = self.first();
        match *first {
            None => *first = Some(First { signal, at: now }),
            Some(first) if first.is_followed_by(signal, now) => end_at_once(signal),
            Some(_) => {}
        }
    }

    /// Ends the run early because another member does, as `signal` asked there. It is no second request, whenever it comes.
    pub fn follow(&self, signal: i32) {
        self.first().get_or_insert(First { signal, at: Instant::now() });
    }

    fn first(&self) -> MutexGuard<'_, Option<First>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl First {
    /// Whether `signal` at `now` is a second request, and not the echo of the first.
    fn is_followed_by(self, signal: i32, now: Instant) -> bool {
        let are_keys = signal == signal::SIGINT && self.signal == signal::SIGINT;
        now - self.at >= if are_keys { MOMENT_OF_KEYS } else { MOMENT }
    }
}

/// Ends the process without its results, but leaves the terminal as it was and no server of `--server-cmd` behind.
fn end_at_once(signal: i32) -> ! {
    server_command::kill_all();
    terminal::give_back_and_exit(EXIT_BY_SIGNAL + signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_request_is_not_the_echo_of_the_first() {
        let at = Instant::now();
        let follows =
            |first, signal, ms| First { signal: first, at }.is_followed_by(signal, at + Duration::from_millis(ms));
        assert!(follows(signal::SIGINT, signal::SIGINT, 100));
        assert!(!follows(signal::SIGINT, signal::SIGINT, 5));
        assert!(!follows(signal::SIGTERM, signal::SIGTERM, 500));
        assert!(follows(signal::SIGTERM, signal::SIGTERM, 1500));
        assert!(!follows(signal::SIGHUP, signal::SIGTERM, 500));
    }

    #[test]
    fn the_first_request_is_the_reason() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.is_raised());
        interrupt.raise(signal::SIGTERM);
        interrupt.clone().raise(signal::SIGINT);
        assert_eq!(interrupt.signal(), Some(signal::SIGTERM));
    }
}
