//! Receiving: which connections have input, the bytes, and when they arrived.
//!
//! A poll reports that a connection has input. The connection joins a queue, first come, first served, and each turn
//! receives from as many as the buffers are expected to suffice for: so buffers are not exhausted, and no connection waits
//! for long.

use std::collections::VecDeque;

use ringio::{Completion, Operation, PoolShape, RECEIVES_MAX, Usual};

use super::Worker;
use super::connection::Flag;
use super::operations::{self, END, Kind, Token};

/// Memory that all threads' receive buffers may take together, as far as [`MIN_POOL`] allows.
const POOLS: usize = 4 << 20;

/// Receive buffer memory of a thread: at least, and at most.
const MIN_POOL: usize = 64 << 10;
const MAX_POOL: usize = 1 << 20;

/// Buffers in a pool: few and large, so that large messages arrive in large pieces.
const POOL_BUFFERS: u16 = 4;

/// Receive buffers for one of `threads` threads. Pieces are read at once and given back, so little memory will do.
pub(super) fn pool_shape(threads: usize) -> PoolShape {
    let bytes = (POOLS / threads).clamp(MIN_POOL, MAX_POOL);
    PoolShape { count: POOL_BUFFERS, size: (bytes / usize::from(POOL_BUFFERS)) as u32, incremental: true }
}

/// Connections that have something to be received.
pub(super) struct Readable {
    /// In their order. A connection may be gone by now.
    waiting: VecDeque<Waiter>,
    /// The connections that the last enter has received from, or the next one will: a receive is named by its place here.
    served: Vec<Waiter>,
    /// Receives of those that have not completed.
    under_way: usize,
    usual: Usual,
}

/// A connection that has something to be received.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    token: Token,
    /// What it has came after this, or it would have been found earlier.
    since_ns: u64,
}

impl Readable {
    pub(super) fn new() -> Self {
        let served = Vec::with_capacity(RECEIVES_MAX);
        Self { waiting: VecDeque::new(), served, under_way: 0, usual: Usual::default() }
    }

    /// Receives that complete within the next enter.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }
}

impl Worker<'_> {
    /// Arms the poll by which the kernel reports input.
    pub(super) fn poll(&mut self, key: u32) {
        let Some(slot) = self.layer.slot(key) else { return };
        debug_assert!(!slot.has(Flag::Polled), "a second poll");
        slot.set(Flag::Polled, true);
        let token = Token { key, generation: slot.generation.into(), kind: Kind::Ready };
        self.ring.push(operations::poll(token));
    }

    /// A connection's poll tells something.
    #[inline]
    pub(super) fn on_ready(&mut self, token: Token, result: i32, goes_on: bool) {
        let since_ns = self.last_turn_ns;
        let Some(slot) = self.slot(token) else {
            debug_assert!(false, "completion of a connection that is gone");
            return;
        };
        slot.set(Flag::Polled, goes_on);
        if result < 0 {
            return self.on_gone(token, Some(-result));
        }
        if result & END != 0 {
            slot.set(Flag::Ended, true);
        }
        if !goes_on {
            if slot.has(Flag::Releasing) {
                return self.release_if_idle(token.key);
            }
            // The kernel had no room for completions.
            self.poll(token.key);
        }
        self.wait_for_turn(Waiter { token, since_ns });
    }

    /// Queues a connection for its turn to be received from.
    #[inline]
    fn wait_for_turn(&mut self, waiter: Waiter) {
        let wants_input = self.layer.wants_input(waiter.token.key);
        let Some(slot) = self.slot(waiter.token) else { return };
        // A receive that is under way will see what an event before its completion tells.
        if wants_input && !slot.has(Flag::Waiting) && !slot.has(Flag::Receiving) {
            slot.set(Flag::Waiting, true);
            self.readable.waiting.push_back(waiter);
        }
    }

    /// Receives from those whose turn it is.
    pub(super) fn receive_from_readable(&mut self) {
        debug_assert_eq!(self.readable.under_way, 0, "receives complete in the enter that submits them");
        self.readable.served.clear();
        let usual = self.readable.usual;
        let turns = usual.per_turn().min(self.pool.room_for(usual.average()));
        while self.readable.served.len() < turns {
            let Some(waiter) = self.readable.waiting.pop_front() else { break };
            let wants_input = self.layer.wants_input(waiter.token.key);
            let Some(slot) = self.slot(waiter.token).filter(|slot| slot.has(Flag::Waiting)) else { continue };
            slot.set(Flag::Waiting, false);
            if wants_input {
                slot.set(Flag::Receiving, true);
                self.receive(waiter);
            }
        }
        self.readable.under_way = self.readable.served.len();
    }

    #[inline]
    fn receive(&mut self, waiter: Waiter) {
        let place = self.readable.served.len() as u32;
        self.readable.served.push(waiter);
        let slot = waiter.token.key;
        let token = Token { key: place, ..Token::of_worker(Kind::Receive) };
        match &mut self.stamps {
            // SAFETY: header and control message are boxed, and the next use of this place follows the enter.
            Some(stamps) => unsafe {
                let receive = Operation::receive_message(slot, stamps.header(place));
                self.ring.push_borrowed(receive.with_user_data(token.encode()));
            },
            None => self.ring.push(Operation::receive(slot, None).with_user_data(token.encode())),
        }
    }

    /// The receive in this place has completed.
    #[inline]
    pub(super) fn on_receive(&mut self, place: u32, completion: Completion) {
        self.receives += 1;
        self.readable.under_way -= 1;
        let waiter = self.readable.served[place as usize];
        let Waiter { token, since_ns } = waiter;
        let slot = self.layer.slot(token.key).expect("a connection stays as long as it is received from");
        slot.set(Flag::Receiving, false);
        // Unix sockets do not say whether there is more before Linux 6.17: but there may be if the buffer was filled.
        let mut has_more = completion.is_socket_nonempty() || slot.has(Flag::Ended);
        if let Some(mut piece) = completion.piece {
            has_more |= piece.ends_buffer();
            self.readable.usual.see(piece.len());
            let age_ns = self.stamps.as_ref().map_or(0, |stamps| stamps.age_ns(place));
            let arrived_ns = self.now_ns.saturating_sub(age_ns).max(since_ns);
            self.layer.received(token.key, piece.bytes_mut(), arrived_ns);
            self.pool.release(piece);
        }
        match -completion.result {
            ..0 if has_more => self.wait_for_turn(waiter),
            // The poll will report later input.
            ..0 | libc::EAGAIN => {}
            0 => self.on_gone(token, None),
            // It has used up the buffers with others, and waits for another turn.
            libc::ENOBUFS | libc::EINTR => self.wait_for_turn(waiter),
            errno => self.on_gone(token, Some(errno)),
        }
        self.act();
        self.release_if_idle(token.key);
    }
}
