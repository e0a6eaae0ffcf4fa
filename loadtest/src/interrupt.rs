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
pub struct Interrupt(Arc<Mutex<Requests>>);

/// What has asked for the end.
#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    /// The signal that asked first, here or at another member.
    reason: Option<i32>,
    /// The first one of this process's own.
    own: Option<Request>,
}

/// A signal of this process's own.
#[derive(Clone, Copy, Debug)]
struct Request {
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
        self.requests().reason
    }

    /// Whether the run is to end early.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.signal().is_some()
    }

    /// Asks for the end as `signal` does. The second time the process ends here.
    pub fn raise(&self, signal: i32) {
        if self.requests().is_second(signal, Instant::now()) {
            end_at_once(signal);
        }
    }

    /// Ends the run early because another member does, as `signal` asked there. It is no second request, whenever it comes, and
    /// the first one of this process's own is none either: what ends a whole job sends each of its processes a signal, one after
    /// the other.
    pub fn follow(&self, signal: i32) {
        self.requests().reason.get_or_insert(signal);
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// Notes a signal of this process's own: whether it is a second request.
    fn is_second(&mut self, signal: i32, now: Instant) -> bool {
        self.reason.get_or_insert(signal);
        let first = *self.own.get_or_insert(Request { signal, at: now });
        first.is_followed_by(signal, now)
    }
}

impl Request {
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
            |first, signal, ms| Request { signal: first, at }.is_followed_by(signal, at + Duration::from_millis(ms));
        assert!(follows(signal::SIGINT, signal::SIGINT, 100));
        assert!(!follows(signal::SIGINT, signal::SIGINT, 5));
        assert!(!follows(signal::SIGTERM, signal::SIGTERM, 500));
        assert!(follows(signal::SIGTERM, signal::SIGTERM, 1500));
        assert!(!follows(signal::SIGHUP, signal::SIGTERM, 500));
    }

    #[test]
    fn a_signal_behind_the_one_of_another_member_is_a_first_request() {
        let at = Instant::now();
        let interrupt = Interrupt::default();
        interrupt.follow(signal::SIGTERM);
        let is_second = |signal, s| interrupt.requests().is_second(signal, at + Duration::from_secs(s));
        // A job that is deleted: its processes have their signals seconds apart.
        assert!(!is_second(signal::SIGINT, 3));
        assert_eq!(interrupt.signal(), Some(signal::SIGTERM));
        assert!(is_second(signal::SIGINT, 4));
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
