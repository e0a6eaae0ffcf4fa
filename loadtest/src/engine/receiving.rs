//! Receiving: what a connection has sent, and when it came.

use io_uring::cqueue;
use ringecho::engine::uring::buffers::{Piece, PoolShape};

use super::connection::{Flag, Stage};
use super::operations::{self, Kind, Token};
use super::stamps::FRONT;
use super::worker::Worker;
use crate::session::Judging;

/// Memory that all threads' receive buffers may take together, as far as [`MIN_POOL`] allows.
const POOLS: usize = 4 << 20;

/// Receive buffer memory of a thread: at least, and at most.
const MIN_POOL: usize = 64 << 10;
const MIN_STAMPED_POOL: usize = 128 << 10;
const MAX_POOL: usize = 1 << 20;

/// Buffers in a pool: few and large, so that large messages arrive in large pieces.
const POOL_BUFFERS: u16 = 4;

/// Where receives are stamped, each of them uses up a buffer: as many as may be looked at together, and some more.
const STAMPED_POOL_BUFFERS: u16 = 128;

/// Receive buffers for one of `threads` threads. Pieces are read at once and given back, so even little memory is
/// hardly ever short; when it is, receives go on a turn later.
pub(super) fn pool_shape(threads: usize, are_stamped: bool) -> PoolShape {
    // A stamp need not fit into what an earlier receive has left of a buffer: stamped receives cannot share one.
    let (count, incremental) = if are_stamped { (STAMPED_POOL_BUFFERS, false) } else { (POOL_BUFFERS, true) };
    let min = if are_stamped { MIN_STAMPED_POOL } else { MIN_POOL };
    let bytes = (POOLS / threads).clamp(min, MAX_POOL);
    PoolShape { count, size: (bytes / usize::from(count)) as u32, incremental }
}

const _: () = assert!(MIN_STAMPED_POOL / STAMPED_POOL_BUFFERS as usize >= 4 * FRONT, "most of a buffer is for bytes");

impl Worker<'_> {
    /// Lets receives go on that ended because the pool was empty; it has been refilled by now.
    pub(super) fn rearm(&mut self) {
        while let Some(token) = self.rearm.pop() {
            let connection = self.connections.get(token.key as usize);
            if connection.is_some_and(|it| it.generation == token.generation && it.stage != Stage::Ending) {
                self.start_receiving(token.key);
            }
        }
    }

    pub(super) fn start_receiving(&mut self, key: u32) {
        let connection = &mut self.connections[key as usize];
        debug_assert!(!connection.has(Flag::Receiving), "a second receive");
        connection.set(Flag::Receiving, true);
        let token = connection.token(Kind::Receive, key);
        let receive = match &self.stamps {
            Some(stamps) => operations::receive_stamped(token, self.pool.group(), stamps.header()),
            None => operations::receive(token, self.pool.group()),
        };
        // SAFETY: the header, if any, is boxed and goes after the ring; the pool outlives the ring.
        unsafe { self.ring.push(&receive) };
    }

    pub(super) fn on_receive(&mut self, token: Token, result: i32, flags: u32) {
        self.receives += 1;
        let piece = self.pool.take(result, flags);
        let Some(connection) = self.connection(token) else {
            // Never: a connection is kept until its receive has ended. But memory must not leak if it does.
            debug_assert!(false, "completion of a connection that is gone");
            return piece.into_iter().for_each(|piece| self.pool.release(piece.buffer));
        };
        let goes_on = cqueue::more(flags);
        connection.set(Flag::Receiving, goes_on);
        let mut result = result;
        if let Some(piece) = piece {
            let (payload, age_ns) = match &self.stamps {
                Some(stamps) if result > 0 => stamps.read(piece, self.pool.bytes(piece)),
                _ => (piece, 0),
            };
            result = result.min(payload.len as i32);
            if result > 0 {
                self.arrived_ns = self.now_ns.saturating_sub(age_ns);
                self.on_bytes(token.key, payload);
            }
            self.pool.release(piece.buffer);
        }
        if goes_on && result > 0 {
            return;
        }
        match result {
            0 => self.on_gone(token, None),
            error if -error == libc::ECANCELED && self.is_slow_reader(token) => self.release_if_ended(token),
            error if error < 0 && -error != libc::ENOBUFS => self.on_gone(token, Some(-error)),
            // The pool was empty, or the kernel had another reason to end the multishot.
            _ => {
                self.rearm.push(token);
                self.release_if_ended(token);
            }
        }
    }

    /// Bytes from the server.
    pub(super) fn on_bytes(&mut self, key: u32, piece: Piece) {
        let connection = &mut self.connections[key as usize];
        if !connection.is_upgraded() {
            return self.on_answer(key, piece);
        }
        if connection.has(Flag::SlowReader) && connection.stage == Stage::Open {
            return;
        }
        let mut judging = Judging {
            now_ns: self.arrived_ns,
            messages: &self.shared.messages,
            times: &mut self.times,
            tally: &mut self.tally,
            is_closing: connection.stage == Stage::Closing,
            is_closed: connection.has(Flag::ServerClosed),
        };
        let signals = match connection.session.receive(self.pool.bytes_mut(piece), &mut judging) {
            Ok(signals) => signals,
            Err(violation) => return self.on_violation(key, violation),
        };
        if let Some(payload) = signals.ping {
            self.pongs.insert(key, payload);
            connection.set(Flag::PongDue, true);
        }
        if let Some(code) = signals.close {
            return self.on_close(key, code);
        }
        if connection.stage == Stage::Greeting && connection.session.has_echoed() {
            self.on_open(key);
        } else if connection.has(Flag::Recycling) {
            self.close_if_settled(key);
        }
        self.send_due(key);
    }
}
