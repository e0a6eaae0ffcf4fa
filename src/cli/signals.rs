//! The program's signals, what each does, and the drain at the first one that ends it.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::reload::Reloads;
use super::{logging, notify};
use crate::server::Handle;
use crate::sys;

/// It could not run to its end.
const EXIT_FAILURE: i32 = 1;
/// Exit code when a second signal cuts the drain short (128 + SIGINT, as shells count).
const EXIT_CUT_SHORT: i32 = 130;

/// A signal that comes within this time of the first is taken for the same: `timeout`, `npm run` and `tini -g` send it to
/// the process and to its group, moments apart.
const SAME_SIGNAL: Duration = Duration::from_secs(1);
/// The same for SIGINT after SIGINT: longer than the two signals of one Ctrl-C are apart, shorter than two Ctrl-C.
const SAME_INTERRUPT: Duration = Duration::from_millis(100);

/// Time that workers may take beyond the drain's deadline: they check it once a tick, and closing 100,000 connections that
/// are cut off then took them 2.4 s on two busy processors (`scripts/hostile second-signal`).
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// The timing of a stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    /// From the signal to the end of accepting.
    pub(super) delay: Duration,
    /// From there to the end.
    pub(super) timeout: Duration,
}

/// The signals that mean something or are ignored, blocked in this thread and in those that it will start: a thread of its own
/// waits for them (`sigwait(3)`).
///
/// No handler: it would run on any thread, and what it writes to would be another descriptor in a worker's own table, a
/// connection perhaps.
pub(super) fn block() -> io::Result<SigSet> {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    let signals = SigSet::from_iter([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2]);
    signals.thread_block()?;
    Ok(signals)
}

/// The signals that end the program, which are blocked, for as long as no thread waits for them.
pub(super) fn ends() -> io::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]);
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Whether one of them comes within this time. It stays pending.
pub(super) fn is_pending(ends: &SignalFd, time: Duration) -> bool {
    let time = Timespec::try_from(time).unwrap_or_default();
    poll(&mut [PollFd::new(ends, PollFlags::IN)], Some(&time)).is_ok_and(|ready| ready > 0)
}

/// On SIGHUP: reload. On the first signal to end it: stop accepting, then drain. On a second one that is meant as such: leave
/// at once.
pub(super) fn watch(signals: SigSet, handle: Handle, drain: Drain, reloads: Reloads) -> io::Result<()> {
    let watch = move || {
        let wait = || loop {
            match signals.wait().expect("a set of valid signals") {
                Signal::SIGHUP => reloads.run(),
                signal @ (Signal::SIGUSR1 | Signal::SIGUSR2) => tracing::debug!("{signal} is ignored"),
                signal => return signal,
            }
        };
        let first = wait();
        let first_at = Instant::now();
        stop(&handle, drain);
        let mut is_said = false;
        while !is_second(first, wait(), first_at.elapsed()) {
            if !std::mem::replace(&mut is_said, true) {
                tracing::info!("{first} again, taken for the same: after a second, one more leaves at once");
            }
        }
        tracing::warn!("second signal, leaving at once");
        leave(EXIT_CUT_SHORT);
    };
    thread::Builder::new().name("signals".into()).spawn(watch).map(drop)
}

/// Begins the drain, and ends the process when a worker does not come to its end at its deadline: one that the kernel refuses
/// what it granted before may not even notice that it is to stop.
fn stop(handle: &Handle, Drain { delay, timeout }: Drain) {
    handle.announce_stop();
    let (open, seconds) = (handle.stats().open, timeout.as_secs_f64());
    let status = if delay.is_zero() {
        handle.stop();
        format!("stopping, {open} connections to close, at most {seconds} s")
    } else {
        format!("stopping in {} s (--drain-delay), then at most {seconds} s to close connections", delay.as_secs_f64())
    };
    tracing::info!("{status}");
    notify::stopping(&status, delay.saturating_add(timeout).saturating_add(DRAIN_GRACE));
    let handle_of_thread = handle.clone();
    let watch = move || {
        thread::sleep(delay);
        handle_of_thread.stop();
        thread::sleep(timeout.saturating_add(DRAIN_GRACE));
        tracing::error!("a worker has not ended at the drain's deadline, leaving without it");
        leave(EXIT_FAILURE);
    };
    // Without a thread for it there is no delay, and the drain is bounded by the workers alone.
    if thread::Builder::new().name("drain".into()).spawn(watch).is_err() {
        handle.stop();
    }
}

fn leave(code: i32) -> ! {
    logging::flush();
    sys::leave(code)
}

/// Whether the signal that came so much later is a second one, and not the first one once more.
fn is_second(first: Signal, signal: Signal, later: Duration) -> bool {
    let is_interrupt = first == Signal::SIGINT && signal == Signal::SIGINT;
    later >= if is_interrupt { SAME_INTERRUPT } else { SAME_SIGNAL }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_sent_twice_is_one() {
        let ms = Duration::from_millis;
        for (first, signal, later, is) in [
            (Signal::SIGTERM, Signal::SIGTERM, ms(5), false),
            (Signal::SIGTERM, Signal::SIGINT, ms(500), false),
            (Signal::SIGTERM, Signal::SIGTERM, ms(1000), true),
            (Signal::SIGINT, Signal::SIGINT, ms(5), false),
            (Signal::SIGINT, Signal::SIGINT, ms(200), true),
            (Signal::SIGINT, Signal::SIGTERM, ms(200), false),
        ] {
            assert_eq!(is_second(first, signal, later), is, "{first}, {signal} after {later:?}");
        }
    }
}
