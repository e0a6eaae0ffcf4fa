//! A worker's accepts: single ones, each straight into a slot of the worker's own ring.
//!
//! Accepts of several workers at one listener wait in the order in which they were submitted, and a connection wakes the
//! first one (the kernel's waits for accepts are exclusive): round robin among the workers. A multishot accept would take
//! all waiting connections, beyond the capacity, and stay first in the order.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringio::{Operation, Ring};

use crate::engine::accept_error::{AcceptError, turn_away};
use crate::engine::admission::{RETRY, Share};
use crate::transport::Doors;

use super::token::{Kind, Token};

/// Limit of a worker's waiting accepts at a listener: more would be a long turn when thousands arrive at once.
const ACCEPTS_MAX: u32 = 16;

/// The kind of completion, in the upper half of a key; the lower half is the listener's number.
mod about {
    pub(super) const ACCEPT: u32 = 0;
    pub(super) const POLL: u32 = 1 << 16;
    pub(super) const CANCEL: u32 = 2 << 16;
    pub(super) const LISTENER: u32 = (1 << 16) - 1;
}

fn user_data(about: u32, listener: usize) -> u64 {
    Token { key: about | listener as u32, generation: 0, kind: Kind::Accepted }.encode()
}

/// An operation to submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Accept a connection into a free slot.
    Accept {
        /// The listener's number.
        listener: usize,
    },
    /// Wait until a client has connected.
    Poll {
        /// The listener's number.
        listener: usize,
    },
    /// Cancel all accepts or the poll. Their own completions say whether that was in time.
    Cancel {
        /// Which of the two.
        about: u32,
        /// The listener's number.
        listener: usize,
    },
}

impl Wish {
    /// As a submission.
    fn operation(self, listeners: &[OwnedFd]) -> Operation<'static> {
        match self {
            Wish::Accept { listener } => {
                let accept = Operation::accept(listeners[listener].as_raw_fd());
                accept.with_user_data(user_data(about::ACCEPT, listener))
            }
            Wish::Poll { listener } => {
                let poll = Operation::poll_descriptor_once(listeners[listener].as_raw_fd(), libc::POLLIN as u32);
                poll.with_user_data(user_data(about::POLL, listener))
            }
            Wish::Cancel { about, listener } => {
                let cancel = Operation::cancel_all(user_data(about, listener));
                cancel.with_user_data(user_data(about::CANCEL, listener))
            }
        }
    }
}

/// The listeners, which all workers share. The last owner closes the connections waiting there.
pub(super) struct Listeners {
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) doors: Doors,
}

impl Drop for Listeners {
    fn drop(&mut self) {
        turn_away(&self.sockets, &self.doors);
    }
}

/// An accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Where it is.
    pub(super) slot: u32,
    /// The number of the listener that it came through.
    pub(super) listener: usize,
}

/// One listener, as this worker uses it.
#[derive(Default)]
struct Source {
    /// Accepts in flight.
    accepts: u32,
    /// The wanted number of accepts.
    wanted: u32,
    /// Connections accepted since the last turn.
    came: u32,
    /// A poll waits for a connection: there are fewer slots than listeners, and accepts wait elsewhere.
    is_polled: bool,
    /// The poll has found one.
    is_ready: bool,
    is_cancelling: bool,
}

/// The accepting state of a worker.
pub(super) struct Accepts {
    /// Closed when the last worker no longer needs them.
    listeners: Option<Arc<Listeners>>,
    sources: Vec<Source>,
    share: Share,
    /// Connections that have a slot.
    open: u32,
    /// Accepts in flight, at all listeners.
    waiting: u32,
    /// Operations to submit.
    wishes: Vec<Wish>,
    /// Something has changed since the last turn.
    has_changed: bool,
    /// Another worker cannot accept and relies on this one: a waiting accept is submitted anew.
    is_called: bool,
    retry_at: Option<Instant>,
    is_stopping: bool,
}

impl Accepts {
    pub(super) fn new(listeners: Arc<Listeners>, share: Share) -> Self {
        let source = |_| Source { wanted: 1, ..Source::default() };
        Self {
            sources: (0..listeners.sockets.len()).map(source).collect(),
            listeners: Some(listeners),
            share,
            open: 0,
            waiting: 0,
            wishes: Vec::new(),
            has_changed: true,
            is_called: false,
            retry_at: None,
            is_stopping: false,
        }
    }

    /// Another worker cannot accept and relies on this one.
    pub(super) fn call(&mut self) {
        self.is_called = true;
        self.has_changed = true;
    }

    /// Stops accepting: accepts in flight are cancelled.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
        self.has_changed = true;
    }

    /// Whether no further connection can arrive.
    pub(super) fn is_over(&self) -> bool {
        self.listeners.is_none()
    }

    /// Time until the next try. While the worker stops there is none.
    pub(super) fn patience(&self) -> Option<Duration> {
        let retry_at = self.retry_at.filter(|_| !self.is_stopping);
        retry_at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Handles a completion with this key. Returns the connection, if it brought one.
    pub(super) fn completed(&mut self, key: u32, result: i32) -> Option<Arrival> {
        self.has_changed = true;
        let listener = (key & about::LISTENER) as usize;
        let source = &mut self.sources[listener];
        match key & !about::LISTENER {
            about::POLL => {
                source.is_polled = false;
                source.is_ready = result > 0;
                return None;
            }
            about::CANCEL => {
                source.is_cancelling = false;
                return None;
            }
            _ => {}
        }
        source.accepts -= 1;
        self.waiting -= 1;
        if let Ok(slot) = u32::try_from(result) {
            source.came += 1;
            self.open += 1;
            self.share.accepted();
            return Some(Arrival { slot, listener });
        }
        if AcceptError::of(-result) == AcceptError::Lasting && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY);
            self.share.failed(io::Error::from_raw_os_error(-result));
        }
        None
    }

    /// Adjusts the number of waiting accepts to the room, with this many slots taken.
    #[inline]
    pub(super) fn submit(&mut self, open: usize, ring: &mut Ring) {
        let is_same = open as u32 == self.open && !self.has_changed;
        if is_same && self.retry_at.is_none() {
            return;
        }
        self.decide(open);
        let Some(listeners) = &self.listeners else { return };
        for wish in self.wishes.drain(..) {
            ring.push(wish.operation(&listeners.sockets));
        }
    }

    /// Queues operations to submit.
    fn decide(&mut self, open: usize) {
        self.open = open as u32;
        self.has_changed = false;
        if self.is_stopping {
            return self.take_back();
        }
        if let Some(at) = self.retry_at {
            if Instant::now() < at {
                return self.share.publish(self.open, self.waiting);
            }
            self.retry_at = None;
            self.share.try_again();
        }
        self.share.publish(self.open, self.waiting);
        let allowance = self.share.allowance();
        if allowance >= self.without_accept(0) {
            self.fill(allowance);
        } else {
            self.take_turns(allowance);
        }
        // Where only polls wait they lead to an accept as soon as a client connects.
        let accepts_by_poll = self.waiting == 0 && allowance > 0;
        self.share.publish(self.open, self.waiting.max(u32::from(accepts_by_poll)));
        if self.waiting == 0 && !accepts_by_poll {
            self.share.relay();
        }
    }

    /// The first listener, from this one on, without a waiting accept.
    fn without_accept(&self, from: usize) -> u32 {
        self.sources[from..].iter().filter(|source| source.accepts == 0).count() as u32
    }

    /// Queues accepts at each listener: twice as many as before if all have brought a connection.
    fn fill(&mut self, mut allowance: u32) {
        let is_called = std::mem::take(&mut self.is_called);
        for number in 0..self.sources.len() {
            let source = &mut self.sources[number];
            let came = std::mem::take(&mut source.came);
            if came > 0 {
                source.wanted = if source.accepts == 0 { (2 * source.wanted).min(ACCEPTS_MAX) } else { came };
            }
            let lacking = source.wanted.saturating_sub(source.accepts);
            let count = lacking.min(allowance - self.without_accept(number + 1));
            (0..count).for_each(|_| self.accept(number));
            allowance -= count;
            // A new accept sees a connection that has woken another worker's; a waiting one does not.
            let source = &self.sources[number];
            if is_called && count == 0 && source.accepts > 0 && !source.is_cancelling {
                self.cancel(about::ACCEPT, number);
            }
        }
    }

    /// With fewer slots than listeners, polls report which listeners have a connection, and accepts go there.
    fn take_turns(&mut self, mut allowance: u32) {
        if self.waiting + allowance == 0 {
            return;
        }
        for number in 0..self.sources.len() {
            if self.sources[number].accepts > 0 {
                continue;
            }
            if !self.sources[number].is_ready {
                self.poll(number);
            } else if allowance > 0 {
                allowance -= 1;
                self.sources[number].is_ready = false;
                self.accept(number);
            } else if let Some(idle) = self.sources.iter().position(|it| it.accepts > 0 && !it.is_cancelling) {
                self.cancel(about::ACCEPT, idle);
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        self.sources[listener].accepts += 1;
        self.waiting += 1;
        self.wishes.push(Wish::Accept { listener });
    }

    fn poll(&mut self, listener: usize) {
        if !std::mem::replace(&mut self.sources[listener].is_polled, true) {
            self.wishes.push(Wish::Poll { listener });
        }
    }

    fn cancel(&mut self, about: u32, listener: usize) {
        self.sources[listener].is_cancelling = true;
        self.wishes.push(Wish::Cancel { about, listener });
    }

    /// Cancels everything, repeatedly: an operation that the kernel is just about to run is not found.
    fn take_back(&mut self) {
        let mut is_over = true;
        for number in 0..self.sources.len() {
            let source = &self.sources[number];
            is_over &= source.accepts == 0 && !source.is_polled && !source.is_cancelling;
            if source.is_cancelling {
                continue;
            }
            if source.accepts > 0 {
                self.cancel(about::ACCEPT, number);
            } else if source.is_polled {
                self.cancel(about::POLL, number);
            }
        }
        if is_over {
            self.listeners = None;
        }
        self.share.publish(self.open, self.waiting);
    }
}

#[cfg(test)]
mod tests;
