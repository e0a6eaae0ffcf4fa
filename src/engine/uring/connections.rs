//! The connections of one worker: what an event means for them and what is to be submitted next.
//!
//! Nothing here makes a system call. Events come in as method calls, operations go out as a list of [`Op`]s. The
//! rules that keep it sound:
//! - the kernel looks at memory to be sent only during the `io_uring_enter` that submits the send (`MSG_DONTWAIT`);
//! - at most one send per connection in an enter, so that nothing can overtake;
//! - an entry, its slot and its generation live until the last completion of the connection has been reaped.

#[cfg(test)]
mod checks;
mod deadlines;
mod leaving;
mod receiving;
mod settle;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::ptr::NonNull;

use receiving::Readable;
use slab::Slab;

use crate::engine::deadline::{Ending, Sweep, Timeouts};
use crate::protocol::{CloseCode, Output, Phase, Protocol, Session, Settings, Then};
use crate::worker::{Backlog, Tally};

use super::buffers::{BufferPool, Piece};
use super::connection::{Connection, Flags};
use super::output::Chunks;
use super::submit::END;
use super::token::{GENERATION_MASK, Token};

/// An operation to submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Arm a multishot, edge-triggered poll for both directions.
    Poll {
        /// The descriptor.
        slot: u32,
    },
    /// Receive without waiting into a buffer of the pool.
    Receive {
        /// The descriptor.
        slot: u32,
        /// How many bytes; `None`: as many as there are and the buffer has room for.
        at_most: Option<NonZeroU32>,
    },
    /// Send without waiting, all or as much as fits; complete silently if it was all.
    Send {
        /// The descriptor.
        slot: u32,
        /// First byte.
        address: NonNull<u8>,
        /// How many.
        len: u32,
        /// The next turn sends what belongs behind it.
        has_more: bool,
    },
    /// Cancel the operation that carries `target`.
    Cancel {
        /// Whose completion will say `ECANCELED`.
        target: Token,
    },
    /// `shutdown(SHUT_WR)`.
    Shutdown {
        /// The descriptor.
        slot: u32,
    },
    /// Close the descriptor.
    Close {
        /// The descriptor.
        slot: u32,
    },
}

/// Everything a worker knows about its connections.
pub struct Connections {
    entries: Slab<Connection>,
    chunks: Chunks,
    pool: BufferPool,
    settings: Settings,
    timeouts: Timeouts,
    /// Unsent bytes from which on a connection is not read.
    backlog_high: usize,
    /// Unsent bytes of all connections together from which on nobody is read who does not read.
    backlog_total: usize,
    generation: u32,
    /// The worker's clock: ticks since it started.
    now: u32,
    ops: Vec<(Token, Op)>,
    /// Connections whose send is among `ops`.
    queued_sends: Vec<u32>,
    /// Connections whose send the last enter has submitted.
    submitted_sends: Vec<u32>,
    /// Connections whose send fell short, but that can send again as soon as it is finished.
    retries: Vec<u32>,
    readable: Readable,
    blocked: Vec<u32>,
    /// How many entries have a deadline.
    timed: usize,
    /// One more than the highest key ever used.
    keys_used: usize,
    sweep: Sweep,
    /// The next enter must not wait: something is to be done as soon as its sends are out.
    urgent: bool,
    tally: Tally,
}

impl Connections {
    /// Room for `capacity` connections that receive into `pool`.
    pub fn new(capacity: usize, pool: BufferPool, backlog: Backlog, settings: Settings, timeouts: Timeouts) -> Self {
        // A connection is found to be over the mark when it has received a pool's worth more, and may receive another
        // one before it is read no further.
        let backlog_high = backlog.per_connection.saturating_sub(2 * pool.memory());
        Self {
            readable: Readable::new(pool.shape()),
            backlog_high,
            backlog_total: backlog.total,
            entries: Slab::with_capacity(capacity),
            chunks: Chunks::new(),
            pool,
            settings,
            timeouts,
            generation: 0,
            now: 0,
            ops: Vec::new(),
            queued_sends: Vec::new(),
            submitted_sends: Vec::new(),
            retries: Vec::new(),
            blocked: Vec::new(),
            timed: 0,
            keys_used: 0,
            sweep: Sweep::default(),
            urgent: false,
            tally: Tally::default(),
        }
    }

    /// Connections that hold an entry.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no connection holds an entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What has been done so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether [`Connections::sweep`] has to be called.
    pub fn needs_sweep(&self) -> bool {
        self.timed > 0 || (self.timeouts.idle.is_some() && !self.entries.is_empty())
    }

    /// Whether the next enter must not wait for completions. To be asked before [`Connections::take_ops`].
    pub fn is_urgent(&self) -> bool {
        // The last enter has not taken all submissions, so that its sends are not finished: somebody may wait for that.
        let has_unfinished = !self.submitted_sends.is_empty();
        self.urgent || has_unfinished || !self.readable.is_empty()
    }

    /// Whether connections that come or go wait to be seen to.
    pub fn has_passing_left(&self) -> bool {
        self.readable.has_passing()
    }

    /// How many of the operations to submit will have completed when the enter that submits them returns.
    pub fn queued_receives(&self) -> usize {
        self.readable.submitted()
    }

    /// Sets the worker's clock.
    pub fn set_now(&mut self, tick: u32) {
        self.now = tick;
    }

    /// The operations to submit, in order. Forgets them when the iterator is dropped.
    pub fn take_ops(&mut self) -> std::vec::Drain<'_, (Token, Op)> {
        self.urgent = false;
        self.readable.forget_submitted();
        self.submitted_sends.append(&mut self.queued_sends);
        self.ops.drain(..)
    }

    // ----- events -----

    /// A socket has arrived in `slot`.
    pub fn accepted(&mut self, slot: u32) {
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let connection = Connection::new(Session::new(&self.settings), slot, self.generation, self.now);
        let is_handshake = connection.session.phase() == Phase::Handshake;
        let key = self.entries.insert(connection) as u32;
        self.keys_used = self.keys_used.max(key as usize + 1);
        self.tally.accepted += 1;
        if is_handshake {
            self.set_timed(key, true);
        }
        self.settle(key);
    }

    /// Something has happened on a socket: a completion of its poll.
    #[inline]
    pub fn ready(&mut self, token: Token, result: i32, flags: u32) {
        let key = token.key;
        let connection = self.entry(token);
        if !io_uring::cqueue::more(flags) {
            // Cancelled; or, for want of room for completions, ended by the kernel: `settle` arms it again.
            connection.flags.clear(Flags::POLLED);
        }
        if result < 0 {
            if result != -libc::ECANCELED {
                self.broken(key);
            }
        } else {
            // Errors and the end, too, are what a receive tells.
            if result & !i32::from(libc::POLLOUT) != 0 {
                connection.flags.set(Flags::READABLE);
            }
            if result & END != 0 {
                connection.flags.set(Flags::ENDED);
            }
            if result & i32::from(libc::POLLOUT) != 0 && connection.flags.has(Flags::BLOCKED) {
                self.unblock(key);
            }
            if result & END != 0 {
                self.wait_for_end(key);
            }
        }
        self.settle(key);
    }

    /// The socket takes bytes again.
    fn unblock(&mut self, key: u32) {
        if self.entries[key as usize].flags.has(Flags::SENDING) {
            self.retries.push(key);
        } else {
            self.is_read_again(key);
        }
    }

    /// The completion of a receive.
    #[inline]
    pub fn received(&mut self, token: Token, result: i32, flags: u32) {
        let key = token.key;
        let piece = self.pool.take(result, flags);
        let connection = self.entry(token);
        connection.flags.clear(Flags::RECEIVING);
        if result > 0 && !io_uring::cqueue::sock_nonempty(flags) && !connection.flags.has(Flags::ENDED) {
            // Whatever arrives from now on, an event will tell.
            connection.flags.clear(Flags::READABLE);
        }
        let is_ending = !connection.ending.is_open();
        match piece {
            Some(piece) if result > 0 && !is_ending => {
                let was_amidst = connection.session.is_within_frame() || connection.flags.has(Flags::TIMED);
                let lost = self.input(key, piece);
                self.weigh(key, piece, lost, was_amidst);
            }
            Some(piece) => {
                if result > 0 {
                    self.weigh(key, piece, 0, true);
                }
                self.pool.release(piece.buffer);
            }
            None => {}
        }
        if result <= 0 {
            self.received_nothing(key, result);
        }
        if result != -libc::ENOBUFS {
            self.go_on_leaving(key);
        }
        self.settle(key);
    }

    #[cold]
    fn received_nothing(&mut self, key: u32, result: i32) {
        let flags = &mut self.entries[key as usize].flags;
        match -result {
            0 => flags.set(Flags::PEER_DONE),
            libc::EAGAIN => flags.clear(Flags::READABLE),
            // It stays readable, and so waits for another receive.
            libc::EINTR | libc::ENOBUFS => {}
            // ECONNRESET, ETIMEDOUT, EPIPE and whatever else: the connection is gone.
            _ => self.broken(key),
        }
    }

    /// A completion of a send: not everything could be sent.
    pub fn send_fell_short(&mut self, token: Token, result: i32) {
        let connection = self.entry(token);
        assert!(connection.flags.has(Flags::SENDING), "a send that nobody made");
        match result {
            1.. => {
                connection.flags.set(Flags::BLOCKED);
                let queue = connection.queue;
                self.chunks.advance(queue, result as u32);
                self.tally.bytes_sent += result as u64;
                self.progress(token.key);
            }
            _ if result == -libc::EAGAIN => connection.flags.set(Flags::BLOCKED),
            _ if result == -libc::ENOBUFS || result == -libc::ENOMEM => {
                // No event will tell when to try again.
                connection.flags.set(Flags::BLOCKED);
                self.retries.push(token.key);
            }
            // EPIPE, ECONNRESET: the peer is gone.
            _ => self.broken(token.key),
        }
    }

    /// All completions of the last enter have been seen: the sends that posted none are complete.
    pub fn finish_sends(&mut self) {
        let mut submitted = std::mem::take(&mut self.submitted_sends);
        for key in submitted.drain(..) {
            let connection = &mut self.entries[key as usize];
            connection.flags.clear(Flags::SENDING);
            if connection.flags.has(Flags::BLOCKED) {
                self.list_blocked(key);
            } else if connection.ending != Ending::Abort {
                let sent = self.chunks.pop(&mut connection.queue, &mut self.pool);
                self.tally.bytes_sent += sent as u64;
                if connection.queue.is_empty() {
                    connection.flags.clear(Flags::THROTTLED);
                } else {
                    self.progress(key);
                }
            }
            self.settle(key);
        }
        self.submitted_sends = submitted;
        while let Some(key) = self.retries.pop() {
            // The entry is still the same connection's: its queue is not empty.
            self.is_read_again(key);
            self.settle(key);
        }
    }

    /// A cancellation has not found its target (one that does is silent): it has completed, and its completion tells
    /// all, or the kernel was just about to run it, and then it goes on. In that case: try again.
    pub fn cancel_missed(&mut self, token: Token) {
        let Some(connection) = self.entries.get_mut(token.key as usize) else { return };
        if connection.generation == token.generation && connection.flags.has(Flags::CANCELLING) {
            connection.flags.clear(Flags::CANCELLING);
            self.settle(token.key);
        }
    }

    /// The completion of a shutdown. It can only fail because the peer is gone, which the receive will tell.
    pub fn shut_down(&mut self, token: Token) {
        self.entry(token).flags.clear(Flags::SHUTTING);
        self.settle(token.key);
    }

    /// The completion of a close: the connection is over.
    pub fn closed(&mut self, token: Token) {
        let key = token.key;
        self.set_timed(key, false);
        let connection = self.entries.remove(key as usize);
        assert!(connection.queue.is_empty(), "closed with output left");
        debug_assert!(!connection.flags.has(Flags::RECEIVING.or(Flags::SENDING).or(Flags::POLLED)));
        self.tally.released += 1;
    }

    /// The end of a turn: returns buffers to the kernel and receives from those who have sent something.
    pub fn end_turn(&mut self) {
        self.relieve_pool();
        self.pool.publish();
        self.receive_from_readable();
    }

    // ----- what events lead to -----

    /// Bytes from the peer. Returns how many of them no echo has, in the open phase.
    #[inline]
    fn input(&mut self, key: u32, piece: Piece) -> u32 {
        let connection = &mut self.entries[key as usize];
        let phase_before = connection.session.phase();
        if phase_before == Phase::Open {
            connection.since = self.now;
            connection.flags.clear(Flags::PINGED);
        }
        let reply = connection.session.receive(&self.settings, self.pool.bytes_mut(piece));
        self.tally.messages += u64::from(reply.messages);
        let Output { head, range } = reply.output;
        let answered = (head.len() + range.len()) as u32;
        if !head.is_empty() {
            self.chunks.push_owned(&mut connection.queue, head);
        }
        if range.is_empty() {
            self.pool.release(piece.buffer);
        } else {
            let output = Piece { offset: piece.offset + range.start as u32, len: range.len() as u32, ..piece };
            self.chunks.push_pooled(&mut connection.queue, output);
        }
        let phase = connection.session.phase();
        if connection.flags.has(Flags::BLOCKED) {
            self.list_blocked(key);
        }
        match reply.then {
            Then::Continue if phase_before == Phase::Handshake && phase == Phase::Open => {
                self.entries[key as usize].since = self.now;
                self.set_timed(key, false);
            }
            Then::Continue if phase == Phase::Closing => self.set_timed(key, true),
            Then::Continue => {}
            Then::Close => self.end(key, Ending::Close),
            Then::Linger => self.end(key, Ending::Linger),
        }
        if (phase_before, phase) == (Phase::Open, Phase::Open) { piece.len.saturating_sub(answered) } else { 0 }
    }

    /// Begins the way out, unless the connection is further on it already.
    fn end(&mut self, key: u32, how: Ending) {
        let connection = &mut self.entries[key as usize];
        if connection.ending.is_open() || how == Ending::Abort {
            connection.ending = how;
            connection.since = self.now;
            self.set_timed(key, true);
        }
    }

    /// The connection is of no use any more: drop what was to be sent.
    fn broken(&mut self, key: u32) {
        self.entries[key as usize].flags.set(Flags::PEER_DONE);
        self.end(key, Ending::Abort);
    }

    /// Closes from our side: Close frame if the protocol has one, then whatever the peer answers or the deadline.
    fn close(&mut self, key: u32, code: CloseCode, reason: &'static str) {
        let connection = &mut self.entries[key as usize];
        if !connection.ending.is_open() {
            return;
        }
        connection.ending = Ending::No; // it may have been leaving
        let is_closing = connection.session.phase() == Phase::Closing;
        if is_closing || connection.flags.has(Flags::CLOSING.or(Flags::CANCELLING)) {
            return;
        }
        let is_open = connection.session.phase() == Phase::Open;
        if let Some(frame) = connection.session.close(code, reason) {
            self.chunks.push_owned(&mut connection.queue, frame);
            connection.since = self.now;
            self.set_timed(key, true);
        } else if !is_open {
            self.end(key, Ending::Close);
        } else if self.settings.protocol == Protocol::Tcp {
            // What the peer has sent and we have not read would become a reset, and destroy echoes on their way.
            self.end(key, Ending::Linger);
        } // Otherwise a frame is being echoed: the session sends the Close behind it.
        self.settle(key);
    }

    /// Some bytes went out: a peer that reads slowly is neither idle nor dead.
    fn progress(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.session.phase() != Phase::Handshake {
            connection.since = self.now;
            connection.flags.clear(Flags::PINGED);
        }
    }

    /// Notes a connection whose peer does not read and which may hold receive buffers.
    fn list_blocked(&mut self, key: u32) {
        let flags = &mut self.entries[key as usize].flags;
        if !flags.has(Flags::LISTED) {
            flags.set(Flags::LISTED);
            self.blocked.push(key);
        }
    }

    /// Frees receive buffers from peers that do not read, if the kernel runs short of them. Whoever has a full backlog
    /// then is read no further.
    fn relieve_pool(&mut self) {
        if self.blocked.is_empty() || !(self.pool.is_short() || self.blocked.len() > self.entries.capacity()) {
            return;
        }
        let mut throttled = Vec::new();
        for key in self.blocked.drain(..) {
            // The key may be another connection's by now: then there is nothing to evict, or it is rightly evicted.
            let Some(connection) = self.entries.get_mut(key as usize) else { continue };
            connection.flags.clear(Flags::LISTED);
            if connection.flags.has(Flags::BLOCKED) && !connection.flags.has(Flags::SENDING) {
                let pending = self.chunks.evict(&mut connection.queue, &mut self.pool);
                let is_full = pending >= self.backlog_high || self.chunks.owned() >= self.backlog_total;
                if is_full && !connection.flags.has(Flags::THROTTLED) {
                    connection.flags.set(Flags::THROTTLED);
                    throttled.push(key);
                }
            }
        }
        for key in throttled {
            self.settle(key);
        }
    }

    #[inline]
    fn entry(&mut self, token: Token) -> &mut Connection {
        let connection = &mut self.entries[token.key as usize];
        assert_eq!(connection.generation, token.generation, "a completion outlived its connection");
        connection
    }
}
