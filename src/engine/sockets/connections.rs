//! The connections of one worker: what an event means for them and what each wants next.
//!
//! Nothing here waits or makes a system call. An engine asks for a connection's [`Step`], does it, and tells what came
//! of it.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use slab::Slab;

use super::connection::Connection;
use crate::engine::deadline::{Due, Ending, Sweep, Timeouts};
use crate::protocol::{CloseCode, Output, Phase, Protocol, Session, Settings, Then};
use crate::worker::{Plan, Tally};

/// What a connection wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Receive; then [`Connections::received`] or [`Connections::peer_finished`]. If it
    /// [is blocked](Connections::is_blocked), it wants to know, too, when the socket takes bytes again.
    Receive,
    /// Nothing until the socket takes bytes again; then [`Connections::writable`].
    Wait,
    /// Send what waits: [`Connections::front`] or [`Connections::take_front`].
    Send,
    /// Receive once without waiting, then [`Connections::say_goodbye`].
    Leave,
    /// `shutdown(SHUT_WR)`; then [`Connections::shut_down`].
    ShutDown,
    /// [`Connections::remove`] it, which closes the socket.
    Close,
}

/// Bytes that a receive leaves free in front of itself, for what has to be sent before its echo.
pub const HEADROOM: usize = 256;

/// What to send after a receive, all of it in one piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// This range of the buffer, which may be empty.
    InPlace(Range<usize>),
    /// An answer that the headroom does not hold.
    Owned(Vec<u8>),
}

impl Outgoing {
    #[inline]
    fn new(output: &Output, buffer: &mut [u8]) -> Self {
        let range = HEADROOM + output.range.start..HEADROOM + output.range.end;
        if output.head.is_empty() {
            return Outgoing::InPlace(range);
        }
        Self::with_head(&output.head, range, buffer)
    }

    /// Puts `head` in front of the range, if there is room.
    fn with_head(head: &[u8], range: Range<usize>, buffer: &mut [u8]) -> Self {
        match range.start.checked_sub(head.len()) {
            Some(start) => {
                buffer[start..range.start].copy_from_slice(head);
                Outgoing::InPlace(start..range.end)
            }
            None => Outgoing::Owned([head, &buffer[range]].concat()),
        }
    }

    /// The bytes, when `buffer` is what was given to [`Connections::received`].
    #[inline]
    pub fn bytes<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        match self {
            Outgoing::InPlace(range) => &buffer[range.clone()],
            Outgoing::Owned(bytes) => bytes,
        }
    }
}

/// Everything a worker knows about its connections.
pub struct Connections {
    entries: Slab<Connection>,
    settings: Settings,
    timeouts: Timeouts,
    /// Unsent bytes from which on a connection is not read.
    backlog_high: usize,
    /// Unsent bytes of all connections together from which on nobody is read who does not read.
    backlog_total: usize,
    /// Unsent bytes of all connections together.
    waiting: usize,
    /// The worker's clock: ticks since it started.
    now: u32,
    /// How many entries have a deadline.
    timed: usize,
    /// One more than the highest key ever used.
    keys_used: usize,
    sweep: Sweep,
    /// Connections that want something else than before, although nothing has happened on their sockets.
    called: Vec<u32>,
    tally: Tally,
}

impl Connections {
    /// For a worker with this plan, which receives at most `receive` bytes at once.
    pub fn new(plan: &Plan, timeouts: Timeouts, receive: usize) -> Self {
        Self {
            entries: Slab::with_capacity(plan.capacity as usize),
            settings: plan.settings.clone(),
            timeouts,
            // It is found to be over the mark when it has received that much more.
            backlog_high: plan.backlog.per_connection.saturating_sub(receive),
            backlog_total: plan.backlog.total,
            waiting: 0,
            now: 0,
            timed: 0,
            keys_used: 0,
            sweep: Sweep::default(),
            called: Vec::new(),
            tally: Tally::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is a connection with this key.
    #[inline]
    pub fn contains(&self, key: u32) -> bool {
        self.entries.contains(key as usize)
    }

    /// What has been done so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether [`Connections::sweep`] has to be called.
    pub fn needs_sweep(&self) -> bool {
        self.timed > 0 || (self.timeouts.idle.is_some() && !self.entries.is_empty())
    }

    /// Sets the worker's clock.
    pub fn set_now(&mut self, tick: u32) {
        self.now = tick;
    }

    /// A connection's socket.
    #[inline]
    pub fn socket(&self, key: u32) -> BorrowedFd<'_> {
        self.entries[key as usize].socket.as_fd()
    }

    /// What a connection wants next.
    #[inline]
    pub fn step(&self, key: u32) -> Step {
        let connection = &self.entries[key as usize];
        let has_backlog = connection.backlog.is_some();
        match connection.ending {
            Ending::Abort => Step::Close,
            _ if has_backlog && !connection.is_blocked => Step::Send,
            Ending::Leaving => Step::Leave,
            Ending::Close if !has_backlog => Step::Close,
            _ if connection.is_peer_done && !has_backlog => Step::Close,
            Ending::Linger if !has_backlog => Step::ShutDown,
            Ending::Close => Step::Wait,
            _ if connection.is_peer_done || connection.is_throttled => Step::Wait,
            Ending::No | Ending::Linger | Ending::Shut => Step::Receive,
        }
    }

    /// Whether the last send found the socket's buffer full.
    pub fn is_blocked(&self, key: u32) -> bool {
        self.entries[key as usize].is_blocked
    }

    /// Whether so much waits for peers that do not read that receives should be small: what one of them brings may be the
    /// next to wait.
    #[inline]
    pub fn is_backlog_large(&self) -> bool {
        self.waiting >= self.backlog_total / 2
    }

    /// Whether the peer is in the midst of a data frame.
    #[inline]
    pub fn is_within_frame(&self, key: u32) -> bool {
        self.entries[key as usize].session.is_within_frame()
    }

    /// Whether a connection waits for its turn.
    #[inline]
    pub fn is_queued(&self, key: u32) -> bool {
        self.entries[key as usize].is_queued
    }

    /// Notes whether a connection waits for its turn. Returns whether it did.
    pub fn set_queued(&mut self, key: u32, is_queued: bool) -> bool {
        std::mem::replace(&mut self.entries[key as usize].is_queued, is_queued)
    }

    /// Connections whose step has changed although nothing has happened on their sockets.
    pub fn take_called(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.called)
    }

    // ----- events -----

    /// A socket has arrived.
    pub fn accepted(&mut self, socket: OwnedFd) -> u32 {
        let connection = Connection::new(Session::new(&self.settings), socket, self.now);
        let is_handshake = connection.session.phase() == Phase::Handshake;
        let key = self.entries.insert(connection) as u32;
        self.keys_used = self.keys_used.max(key as usize + 1);
        self.tally.accepted += 1;
        self.set_timed(key, is_handshake);
        key
    }

    /// Bytes from the peer: `len` of them, in `buffer` behind its [`HEADROOM`]. Returns what to send now; to be followed
    /// by [`Connections::unsent`], for what the kernel has not taken, and [`Connections::sent`].
    #[inline]
    pub fn received(&mut self, key: u32, buffer: &mut [u8], len: usize) -> Outgoing {
        let connection = &mut self.entries[key as usize];
        if !connection.ending.is_open() {
            return Outgoing::InPlace(0..0);
        }
        let was_handshake = connection.session.phase() == Phase::Handshake;
        if connection.session.phase() == Phase::Open {
            connection.since = self.now;
            connection.is_pinged = false;
        }
        let has_backlog = connection.backlog.is_some();
        let reply = connection.session.receive(&self.settings, &mut buffer[HEADROOM..HEADROOM + len]);
        self.tally.messages += u64::from(reply.messages);
        let phase = connection.session.phase();
        match reply.then {
            Then::Continue if was_handshake && phase == Phase::Open => {
                self.entries[key as usize].since = self.now;
                self.set_timed(key, false);
            }
            Then::Continue if phase == Phase::Closing => self.set_timed(key, true),
            Then::Continue => {}
            Then::Close => self.end(key, Ending::Close),
            Then::Linger => self.end(key, Ending::Linger),
        }
        let outgoing = Outgoing::new(&reply.output, buffer);
        if has_backlog {
            self.queue(key, outgoing.bytes(buffer));
            self.throttle(key);
            return Outgoing::InPlace(0..0);
        }
        outgoing
    }

    /// Stops the reading of a connection whose backlog is full.
    #[cold]
    fn throttle(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        let pending = connection.backlog.as_ref().map_or(0, |backlog| backlog.len());
        connection.is_throttled = pending >= self.backlog_high || self.waiting >= self.backlog_total;
    }

    /// The peer has sent its FIN.
    pub fn peer_finished(&mut self, key: u32) {
        self.entries[key as usize].is_peer_done = true;
    }

    /// `ECONNRESET`, `EPIPE`, `ETIMEDOUT` and the like: the connection is of no use any more.
    pub fn broken(&mut self, key: u32) {
        self.entries[key as usize].is_peer_done = true;
        self.end(key, Ending::Abort);
    }

    /// The kernel has taken `len` bytes, and what it has not taken waits again.
    #[inline]
    pub fn sent(&mut self, key: u32, len: usize) {
        self.tally.bytes_sent += len as u64;
        let connection = &mut self.entries[key as usize];
        if len > 0 && connection.backlog.is_some() && connection.session.phase() != Phase::Handshake {
            // A peer that reads slowly is neither idle nor dead.
            connection.since = self.now;
            connection.is_pinged = false;
        }
    }

    /// The socket takes bytes again.
    #[inline]
    pub fn writable(&mut self, key: u32) {
        self.entries[key as usize].is_blocked = false;
    }

    /// Keeps what the socket has not taken, in front of what is to follow it.
    #[inline]
    pub fn unsent(&mut self, key: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.put_front(key, bytes.to_vec(), 0);
        }
    }

    /// What waits to be sent, the first part of it.
    pub fn front(&self, key: u32) -> &[u8] {
        self.entries[key as usize].backlog.as_ref().map_or(&[], |backlog| backlog.front())
    }

    /// So much of [`Connections::front`] is out; the socket's buffer is full if it is not all.
    pub fn advance(&mut self, key: u32, len: usize) {
        let connection = &mut self.entries[key as usize];
        if let Some(backlog) = &mut connection.backlog {
            connection.is_blocked = len < backlog.front().len();
            backlog.advance(len);
            self.waiting -= len;
        }
        self.forget_empty_backlog(key);
    }

    /// Takes the first part of what waits, to be sent by an operation that has to own it, and says how much of it is out
    /// already. Afterwards, [`Connections::put_front`].
    pub fn take_front(&mut self, key: u32) -> (Vec<u8>, usize) {
        let Some(backlog) = &mut self.entries[key as usize].backlog else { return (Vec::new(), 0) };
        let (block, sent) = backlog.take_front();
        self.waiting -= block.len() - sent;
        (block, sent)
    }

    /// Puts `bytes` in front of what waits, of which `sent` are out; the socket's buffer is full if those are not all.
    pub fn put_front(&mut self, key: u32, bytes: Vec<u8>, sent: usize) {
        let connection = &mut self.entries[key as usize];
        connection.is_blocked = sent < bytes.len();
        self.waiting += bytes.len() - sent;
        connection.backlog.get_or_insert_default().put_front(bytes, sent);
        self.forget_empty_backlog(key);
    }

    fn forget_empty_backlog(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.backlog.as_ref().is_some_and(|backlog| backlog.is_empty()) {
            connection.backlog = None;
            connection.is_throttled = false;
        }
    }

    /// Has bytes sent behind what waits already.
    fn queue(&mut self, key: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.entries[key as usize].backlog.get_or_insert_default().push(bytes);
            self.waiting += bytes.len();
        }
    }

    /// Sending is shut down.
    pub fn shut_down(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.ending == Ending::Linger {
            connection.ending = Ending::Shut;
        }
    }

    /// Forgets a connection and closes its socket.
    pub fn remove(&mut self, key: u32) {
        self.set_timed(key, false);
        let connection = self.entries.remove(key as usize);
        self.waiting -= connection.backlog.map_or(0, |backlog| backlog.len());
        self.tally.released += 1;
    }

    // ----- what time and the end of the server bring -----

    /// From now on closing may take as long as the peers like: the worker's drain deadline bounds it.
    pub fn close_at_leisure(&mut self) {
        self.timeouts.close = None;
    }

    /// Asks a slice of the connections to leave, from a key on. Returns where to go on.
    pub fn ask_some_to_leave(&mut self, from: usize, at_most: usize) -> Option<usize> {
        let end = self.keys_used.min(from + at_most);
        for key in from..end {
            let Some(connection) = self.entries.get_mut(key) else { continue };
            if connection.is_throttled {
                self.say_goodbye(key as u32);
            } else if connection.ending == Ending::No {
                connection.ending = Ending::Leaving;
            }
            self.called.push(key as u32);
        }
        (end < self.keys_used).then_some(end)
    }

    /// What had arrived before is echoed: closes from our side.
    pub fn say_goodbye(&mut self, key: u32) {
        self.close(key, CloseCode::GOING_AWAY, "server is stopping");
    }

    /// Looks at the deadlines of a slice of the connections. Returns whether it has come to the slice's end; if not, it
    /// is to be called again in the next turn.
    pub fn sweep(&mut self, at_most: usize) -> bool {
        let (mut sweep, keys_used) = (self.sweep, self.keys_used);
        let check = |key| self.entries.contains(key) && self.check_deadline(key as u32);
        let is_done = sweep.go_on(keys_used, at_most, check);
        self.sweep = sweep;
        is_done
    }

    /// Whether it was met.
    fn check_deadline(&mut self, key: u32) -> bool {
        let connection = &self.entries[key as usize];
        let elapsed = self.now - connection.since;
        match self.timeouts.due(connection.ending, connection.session.phase(), elapsed) {
            Due::Nothing => return false,
            Due::Ping => {
                if !self.ping(key) {
                    return false;
                }
            }
            // No Close can be sent inside a frame, and this peer will not finish it.
            Due::Close if !connection.session.at_frame_boundary() => self.end(key, Ending::Abort),
            Due::Close => self.close(key, CloseCode::GOING_AWAY, "idle"),
            Due::Abort => self.end(key, Ending::Abort),
        }
        self.called.push(key);
        true
    }

    /// Closes from our side: Close frame if the protocol has one, then whatever the peer answers or the deadline.
    fn close(&mut self, key: u32, code: CloseCode, reason: &'static str) {
        let connection = &mut self.entries[key as usize];
        if !connection.ending.is_open() {
            return;
        }
        connection.ending = Ending::No; // it may have been leaving
        if connection.session.phase() == Phase::Closing {
            return;
        }
        let is_open = connection.session.phase() == Phase::Open;
        if let Some(frame) = connection.session.close(code, reason) {
            connection.since = self.now;
            self.queue(key, &frame);
            self.set_timed(key, true);
        } else if !is_open {
            self.end(key, Ending::Close);
        } else if self.settings.protocol == Protocol::Tcp {
            // What the peer has sent and we have not read would become a reset, and destroy echoes on their way.
            self.end(key, Ending::Linger);
        } // Otherwise a frame is being echoed: the session sends the Close behind it.
    }

    /// Whether one was due, and not sent before.
    fn ping(&mut self, key: u32) -> bool {
        let connection = &mut self.entries[key as usize];
        // Who has output waiting is not idle but slow, and would get the Ping late anyway.
        if connection.is_pinged || connection.backlog.is_some() {
            return false;
        }
        let Some(frame) = connection.session.ping() else { return false };
        connection.is_pinged = true;
        self.queue(key, &frame);
        true
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

    fn set_timed(&mut self, key: u32, timed: bool) {
        let is_timed = &mut self.entries[key as usize].is_timed;
        match (std::mem::replace(is_timed, timed), timed) {
            (false, true) => self.timed += 1,
            (true, false) => self.timed -= 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
