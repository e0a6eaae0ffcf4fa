//! The program around the server: its signals, its start-up line, its last words.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::config::{Config, ConfigError};
use crate::options::Options;
use crate::server::{Address, Handle, Server, ServerError, Stats};
use crate::sys::log;

/// It could not start or run.
const EXIT_FAILURE: u8 = 1;
/// Exit code when a second signal cuts the drain short (128 + SIGINT, as shells count).
const EXIT_CUT_SHORT: i32 = 130;

/// A signal that comes within this time of the first is taken for the same: `timeout`, `npm run` and `tini -g` send it to
/// the process and to its group, moments apart.
const SAME_SIGNAL: Duration = Duration::from_secs(1);
/// The same for SIGINT behind SIGINT: longer than two of one Ctrl-C are apart, shorter than two Ctrl-C.
const SAME_INTERRUPT: Duration = Duration::from_millis(100);

/// How long workers may take beyond the drain's deadline: they look at it once a tick.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Why it could not start.
#[derive(Debug, Error)]
pub(super) enum ProgramError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl ProgramError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            // What the kernel refuses is no mistake in the arguments.
            Self::Config(ConfigError::Engine(_)) | Self::Server(_) | Self::System { .. } => EXIT_FAILURE,
            Self::Config(_) => super::EXIT_BAD_ARGUMENTS,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ProgramError {
    move |source| ProgramError::System { what, source }
}

/// Serves until SIGINT or SIGTERM and until the connections are drained.
pub(super) fn run(options: &Options) -> Result<(), ProgramError> {
    let started_at = Instant::now();
    let config = Config::new(options)?;
    config.notes().iter().for_each(|note| log(format_args!("{note}")));
    let banner = config.to_string();
    let signals = block_signals().map_err(system("block signals"))?;
    let server = Server::bind(config)?;
    let handle = server.handle();
    let addresses = server.addresses().to_vec();
    let running = server.start()?;
    watch_signals(signals, handle.clone(), options)?;
    announce(&addresses, &banner);
    running.join();
    sum_up(&handle.stats(), started_at);
    Ok(())
}

/// The signals that end the server, blocked in this thread and in those that it will start: a thread of its own waits for
/// them (`sigwait(3)`).
///
/// No handler: it would run on any thread, and what it writes to would be another descriptor in a worker's own table, a
/// connection perhaps.
fn block_signals() -> io::Result<SigSet> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    Ok(signals)
}

/// On the first signal: stop accepting, then drain. On a second one that is meant as such: leave at once.
fn watch_signals(signals: SigSet, handle: Handle, options: &Options) -> Result<(), ProgramError> {
    let drain_timeout = options.drain_timeout;
    let watch = move || {
        let wait = || signals.wait().expect("a set of valid signals");
        let first = wait();
        let first_at = Instant::now();
        let open = handle.stats().open;
        handle.stop();
        log(format_args!("stopping, {open} connections to close, at most {} s", drain_timeout.as_secs_f64()));
        watch_drain(drain_timeout);
        let mut is_said = false;
        while !is_second(first, wait(), first_at.elapsed()) {
            if !std::mem::replace(&mut is_said, true) {
                log(format_args!("{first} again, taken for the same: after a second, one more leaves at once"));
            }
        }
        log(format_args!("second signal, leaving at once"));
        std::process::exit(EXIT_CUT_SHORT);
    };
    thread::Builder::new().name("signals".into()).spawn(watch).map_err(system("start a thread"))?;
    Ok(())
}

/// Ends the process when a worker does not come to its end at the drain's deadline: one that the kernel refuses what it
/// granted before may not even notice that it is to stop.
fn watch_drain(drain_timeout: Duration) {
    let watch = move || {
        thread::sleep(drain_timeout.saturating_add(DRAIN_GRACE));
        log(format_args!("a worker has not ended at the drain's deadline, leaving without it"));
        std::process::exit(EXIT_FAILURE.into());
    };
    // Without a thread for it the drain is bounded by the workers alone.
    let _ = thread::Builder::new().name("drain".into()).spawn(watch);
}

/// Whether the signal that came so much later is a second one, and not the first one once more.
fn is_second(first: Signal, signal: Signal, later: Duration) -> bool {
    let is_interrupt = first == Signal::SIGINT && signal == Signal::SIGINT;
    later >= if is_interrupt { SAME_INTERRUPT } else { SAME_SIGNAL }
}

fn announce(addresses: &[Address], banner: &str) {
    let addresses: Vec<_> = addresses.iter().map(Address::to_string).collect();
    if let Err(e) = print(&format!("ringecho listening on {} | {banner}", addresses.join(", "))) {
        log(format_args!("listening on {}; the start-up line cannot be printed: {e}", addresses.join(", ")));
    }
}

fn sum_up(stats: &Stats, started_at: Instant) {
    let Stats { accepted, messages, bytes_sent, open } = stats;
    // Nothing depends on it any more.
    let _ = print(&format!(
        "served {accepted} connections, {messages} messages, {bytes_sent} bytes sent in {:.1} s{}",
        started_at.elapsed().as_secs_f64(),
        if *open > 0 { format!("; {open} connections cut off by the drain timeout") } else { String::new() },
    ));
}

/// Writes a line to standard output, unless it is a pipe that is full: whatever is at its other end, or is not, the server
/// serves and ends.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    // A pipe with room has room for a page, and no line is longer.
    poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
        .map_err(io::Error::from)
        .and_then(|ready| if ready > 0 { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) })?;
    writeln!(out, "{line}")?;
    out.flush()
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
