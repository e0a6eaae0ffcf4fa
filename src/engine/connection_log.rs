//! The connection log: a line for each ended connection, if enabled.

use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::getpeername;

use crate::connection::Ended;

/// Lines that a worker writes in a second; of further ones it logs the number.
const LINES_PER_SECOND: u32 = 1000;

/// Writes a worker's part of the connection log.
pub(super) struct ConnectionLog {
    worker: usize,
    /// The tick of the clock that counts connections' durations.
    tick: Duration,
    /// The start of the second in which the lines are counted.
    since: Instant,
    lines: u32,
    unwritten: u64,
}

impl ConnectionLog {
    pub(super) fn new(worker: usize, tick: Duration) -> Self {
        Self { worker, tick, since: Instant::now(), lines: 0, unwritten: 0 }
    }

    /// Logs connections that have ended in this turn.
    #[inline]
    pub(super) fn write(&mut self, ended: Vec<Ended>) {
        if !ended.is_empty() {
            self.write_some(ended);
        }
    }

    #[cold]
    fn write_some(&mut self, ended: Vec<Ended>) {
        let worker = self.worker;
        if self.since.elapsed() >= Duration::from_secs(1) {
            if self.unwritten > 0 {
                tracing::info!(worker, "{} more connections have ended than the log has lines for", self.unwritten);
            }
            (self.since, self.lines, self.unwritten) = (Instant::now(), 0, 0);
        }
        for Ended { peer, ticks, ending } in ended {
            if self.lines >= LINES_PER_SECOND {
                self.unwritten += 1;
                continue;
            }
            self.lines += 1;
            let peer = peer.as_deref().unwrap_or("unknown");
            let seconds = (self.tick * ticks).as_secs_f64();
            tracing::info!(peer, cause = ending.name(), seconds, worker, "connection closed");
        }
    }
}

/// A socket's peer address, in the form of the log.
pub(super) fn peer_of(socket: impl AsFd) -> Option<String> {
    let address = getpeername(socket).ok()??;
    match SocketAddr::try_from(address) {
        Ok(address) => Some(address.to_string()),
        Err(_) => Some("unix".into()),
    }
}

/// The same, when a ring has installed the socket under this number in the process's table (`Operation::install`); it is
/// closed. `result`: that operation's result.
pub(super) fn peer_of_installed(result: i32) -> Option<String> {
    // SAFETY: the kernel has just made the descriptor for this operation, whose completion is seen once: it has no other owner.
    let socket = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) })?;
    peer_of(socket)
}
