//! The program around the server: start-up order, start-up line, summary.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use super::program_args::ProgramArgs;
use super::reload::Reloads;
use super::signals::{self, Drain};
use super::{logging, notify};
use crate::admin::{Admin, AdminError};
use crate::config::{Config, ConfigError};
use crate::options::Options;
use crate::protocol::{Deflate, Protocol};
use crate::server::{Address, Server, ServerError, Stats};

/// It could not start or run.
const EXIT_FAILURE: u8 = 1;

/// Why it could not start.
#[derive(Debug, Error)]
pub(super) enum ProgramError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("{0}; choose another address with --admin")]
    Admin(#[from] AdminError),
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

impl ProgramError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            // A refusal by the kernel is not a mistake in the arguments.
            Self::Config(ConfigError::Engine(_)) | Self::Server(_) | Self::Admin(_) | Self::System { .. } => {
                EXIT_FAILURE
            }
            Self::Config(_) => super::EXIT_BAD_ARGUMENTS,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ProgramError {
    move |source| ProgramError::System { what, source }
}

/// Serves until a signal ends it and until the connections are drained. `again` reads the arguments and the configuration file
/// once more, for what can be changed meanwhile.
pub(super) fn run(
    options: &Options,
    program: &ProgramArgs,
    again: impl Fn() -> Result<ProgramArgs, String> + Send + 'static,
) -> Result<(), ProgramError> {
    let started_at = Instant::now();
    let config = Config::new(options)?;
    let signals = signals::block().map_err(system("block signals"))?;
    let level =
        logging::start(program.log_level.into(), program.log_format).map_err(system("start a thread for the log"))?;
    config.notes().iter().for_each(|note| tracing::warn!("{note}"));
    let banner = config.to_string();
    let end = signals::ends().map_err(system("watch for signals"))?;
    let wait = |time| !signals::is_pending(&end, time);
    let server = match Server::bind_waiting(config, &wait) {
        Err(error @ ServerError::GivenUp { .. }) => {
            tracing::info!("{error}");
            return Ok(());
        }
        bound => bound?,
    };
    drop(end);
    let handle = server.handle();
    let addresses = server.addresses().to_vec();
    let admin = program.admin.as_ref().map(|address| Admin::start(address, handle.clone())).transpose()?;
    let running = server.start()?;
    let mut reloads = Reloads::default();
    reloads.add("the log's level", move || {
        let program = again()?;
        level.set(program.log_level.into())?;
        Ok(format!("{:?}", program.log_level).to_lowercase())
    });
    if addresses.iter().any(|address| matches!(address, Address::Tls(_))) {
        let handle = handle.clone();
        reloads.add("certificates", move || {
            let reloaded = handle.reload_tls().map_err(|e| e.to_string())?;
            Ok(if reloaded { "handshakes from now on are made with them" } else { "there are none" }.to_owned())
        });
    }
    let drain = Drain { delay: program.drain_delay, timeout: options.drain_timeout };
    signals::watch(signals, handle.clone(), drain, reloads).map_err(system("start a thread"))?;
    notify::watch(handle.clone()).map_err(system("start a thread"))?;
    announce(&addresses, admin.as_ref(), &banner);
    running.join();
    drop(admin);
    sum_up(&handle.stats(), options, started_at);
    Ok(())
}

fn announce(addresses: &[Address], admin: Option<&Admin>, banner: &str) {
    let addresses: Vec<_> = addresses.iter().map(Address::to_string).collect();
    let addresses = addresses.join(", ");
    let admin = admin.map(|admin| format!(" | admin {}", admin.address())).unwrap_or_default();
    if let Err(e) = print(&format!("ringecho listening on {addresses} | {banner}{admin}")) {
        tracing::warn!("listening on {addresses}; the start-up line cannot be printed: {e}");
    }
    notify::ready(&format!("listening on {addresses}"));
}

fn sum_up(stats: &Stats, options: &Options, started_at: Instant) {
    let Stats { opened, refused, answered, silent, turned_away, messages, bytes_sent, open, .. } = *stats;
    // Of bare TCP every connection is open from its start, also a probe's.
    let served = if options.protocol == Protocol::Tcp { opened.saturating_sub(silent) } else { opened };
    let seconds = started_at.elapsed().as_secs_f64();
    let mut line =
        format!("served {served} connections, {messages} messages, {bytes_sent} bytes sent in {seconds:.1} s");
    if options.deflate != Deflate::Off {
        let (mode, connections, messages) = (
            options.deflate.with_context(options.has_deflate_context),
            stats.compressed_connections,
            stats.compressed_messages,
        );
        let _ = write!(line, "; deflate {mode}: {connections} connections, {messages} compressed messages");
    }
    for (count, what) in [
        (refused, "requests refused"),
        (answered, "health checks and other plain requests answered"),
        (silent, "connections that never sent a byte"),
        (turned_away, "clients turned away (all connections were taken)"),
        (open, "connections cut off by the drain timeout"),
    ] {
        if count > 0 {
            let _ = write!(line, "; {count} {what}");
        }
    }
    // No thread depends on it any more.
    let _ = print(&line);
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
