//! Accepts of a worker with its own descriptor table: the listeners are in its table, too, and it waits for them beside its
//! connections.
//!
//! A connection wakes one of the waiting workers (`EPOLLEXCLUSIVE`). A worker that stops waiting before it has accepted
//! passes the wake-up on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::engine::accept_error::{AcceptError, turn_away};
use crate::engine::admission::{RETRY, Share};
use crate::transport::Doors;

/// Connections accepted in one turn, at most: more would be a long turn when thousands come at once.
const BATCH_MAX: u32 = 16;

/// The accepting state of a worker.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Accepts {
    /// `None` when it has stopped.
    listeners: Vec<OwnedFd>,
    doors: Doors,
    share: Share,
    /// Connections that have a descriptor.
    open: u32,
    /// The worker waits for the listeners.
    is_watching: bool,
    /// Accepts per turn: twice as many as last time if that left some.
    batch: u32,
    /// The listener that comes first in this turn.
    first: usize,
    /// Connections may be waiting that no event will report.
    has_left_some: bool,
    /// Something has changed since the last turn.
    has_changed: bool,
    retry_at: Option<Instant>,
    is_stopping: bool,
}

impl Accepts {
    /// The listeners are copies in this worker's table, and do not block.
    pub(super) fn new(listeners: Vec<OwnedFd>, doors: Doors, share: Share) -> Self {
        Self {
            listeners,
            doors,
            share,
            open: 0,
            is_watching: false,
            batch: 1,
            first: 0,
            has_left_some: false,
            has_changed: true,
            retry_at: None,
            is_stopping: false,
        }
    }

    /// The descriptors to wait for.
    pub fn listeners(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(AsFd::as_fd)
    }

    /// Stops accepting.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.has_changed = true;
    }

    /// Whether the worker must wait for the listeners.
    pub fn is_watching(&self) -> bool {
        self.is_watching
    }

    /// Whether no further connection will come.
    pub fn is_over(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Time until the next try.
    pub fn patience(&self) -> Option<Duration> {
        self.retry_at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Accepts waiting connections, as far as there is room; `take` gets each with the number of its listener. `is_called`:
    /// another worker does not accept them, so no event reports further ones. If it cannot serve one, that counts as an accept
    /// that has failed.
    pub fn take(&mut self, is_called: bool, mut take: impl FnMut(OwnedFd, usize) -> Result<(), Errno>) {
        self.has_changed = true;
        if self.is_stopping || self.retry_at.is_some() {
            return;
        }
        // The slot that waiting for the listeners reserves; an earlier accept in this turn may have taken the last one.
        let reserved = u32::from(self.is_watching && self.open < self.share.capacity());
        self.share.publish(self.open, reserved);
        let allowed = self.share.allowance() + reserved;
        if allowed == 0 {
            return self.share.pass_on();
        }
        let mut tries = if is_called { BATCH_MAX } else { self.batch }.min(allowed);
        let mut came = 0;
        self.first = (self.first + 1) % self.listeners.len();
        for turn in 0..self.listeners.len() {
            let number = (self.first + turn) % self.listeners.len();
            let listener = &self.listeners[number];
            while tries > 0 {
                match accept_with(listener, SocketFlags::CLOEXEC) {
                    Ok(socket) => {
                        if let Err(e) = take(socket, number) {
                            return self.failed(e);
                        }
                        self.open += 1;
                        self.share.accepted();
                        came += 1;
                    }
                    Err(e) => match AcceptError::of(e.raw_os_error()) {
                        AcceptError::Nothing => break,
                        AcceptError::Connection => {}
                        AcceptError::Lasting => return self.failed(e),
                    },
                }
                tries -= 1;
            }
        }
        self.batch = if tries == 0 { (2 * self.batch).min(BATCH_MAX) } else { came.max(1) };
        self.has_left_some = is_called && tries == 0;
    }

    /// Accepting, or waiting for the listeners, has failed for a shortage.
    pub fn failed(&mut self, error: Errno) {
        if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY);
            self.has_changed = true;
            self.share.failed(io::Error::from(error));
        }
    }

    /// Decides whether to wait for the listeners, with this many connections. If that changes, `watch` applies it.
    #[inline]
    pub fn arrange(&mut self, open: usize, watch: impl FnOnce(&[OwnedFd], bool) -> Result<(), Errno>) {
        let is_same = open as u32 == self.open && !self.has_changed;
        if !is_same || self.retry_at.is_some() {
            self.decide(open, watch);
        }
    }

    fn decide(&mut self, open: usize, watch: impl FnOnce(&[OwnedFd], bool) -> Result<(), Errno>) {
        self.open = open as u32;
        self.has_changed = false;
        if self.retry_at.is_some_and(|at| Instant::now() >= at) {
            self.retry_at = None;
            self.share.try_again();
        }
        let was_watching = self.is_watching;
        let may_accept = !self.is_stopping && self.retry_at.is_none();
        self.share.publish(self.open, 0);
        self.is_watching = may_accept && self.share.allowance() > 0;
        if self.is_watching {
            self.share.publish(self.open, 1);
        }
        let changes = self.is_watching != was_watching || self.is_stopping;
        if changes && let Err(e) = watch(&self.listeners, self.is_watching) {
            self.failed(e);
        }
        let has_left_some = std::mem::take(&mut self.has_left_some);
        if !self.is_watching && (was_watching || has_left_some) && !self.is_stopping {
            self.share.pass_on();
        } else if self.is_watching && was_watching && has_left_some {
            self.share.go_on();
        }
        if self.is_stopping {
            turn_away(&self.listeners, &self.doors);
            self.listeners.clear();
        }
    }
}
