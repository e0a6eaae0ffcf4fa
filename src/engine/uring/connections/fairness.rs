//! Who is received from next when not everybody can be.
//!
//! A receive takes all that a socket holds, up to the whole pool. A few peers that send without a pause would so take
//! every turn's buffers and time for themselves, and everybody else would wait behind all of them. So whoever has brought
//! a lot at once is *greedy* until a receive finds less: greedy connections take turns, a receive each, behind everybody
//! else. While others are served, their turns are short.

use std::collections::VecDeque;

use crate::engine::deadline::Ending;

use super::super::buffers::{Piece, PoolShape};
use super::super::connection::Flags;
use super::super::token::Kind;
use super::{Connections, Op};

/// What a greedy connection may receive at a time while others are served, and as much at once makes it greedy. More
/// would let those wait; less would make many pieces of a large message, each with its own receive and send.
const SHARE: u32 = 64 << 10;
/// What all of them together may receive in such a turn: the rest have to wait for theirs.
const SHARES: u32 = 64 << 10;
/// What one of them may receive when much is kept for peers that do not read: if it is another such peer, so much more
/// has to be kept for it before it is known.
const SMALL_SHARE: u32 = 16 << 10;

/// With nobody else there, a connection goes on with its turn so often before another has one: its data is in cache.
const ROUND: u32 = 16;

/// The greedy connections that wait for their turn.
pub(super) struct Greedy {
    queue: VecDeque<u32>,
    /// Those who have had their turn and have found nothing left.
    unserved: Vec<u32>,
    rounds: u32,
    share: u32,
    buffer: u32,
    /// What the connection whose turn it is may receive; `None`: it is nobody's turn.
    turn: Option<Portion>,
    /// The tick in which somebody else was last received from.
    modest_at: u32,
}

/// What a turn brings.
#[derive(Clone, Copy)]
enum Portion {
    Share(u32),
    /// All that there is, until the pool is empty.
    All,
}

impl Greedy {
    pub(super) fn new(shape: PoolShape) -> Self {
        Self {
            queue: VecDeque::new(),
            unserved: Vec::new(),
            rounds: 0,
            share: SHARE.min(shape.size),
            buffer: shape.size,
            turn: None,
            modest_at: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.unserved.is_empty()
    }

    /// Puts those who have found nothing left in front of the others, or behind whoever goes on with its turn.
    fn line_up(&mut self, portion: Portion) {
        self.rounds = self.rounds.wrapping_add(1);
        if matches!(portion, Portion::All) && !self.rounds.is_multiple_of(ROUND) {
            self.queue.extend(self.unserved.drain(..));
        } else {
            self.unserved.drain(..).rev().for_each(|key| self.queue.push_front(key));
        }
    }

    /// How many may have their turn now, and what each may receive.
    fn turns(&self, now: u32, is_backlog_large: bool) -> (u32, Portion) {
        let has_modest = now - self.modest_at <= 1;
        let share = self.share.min(if is_backlog_large { SMALL_SHARE } else { SHARE });
        if has_modest || is_backlog_large { (SHARES / share, Portion::Share(share)) } else { (u32::MAX, Portion::All) }
    }
}

impl Connections {
    /// Judges a connection by what a receive has brought.
    #[inline]
    pub(super) fn weigh(&mut self, key: u32, piece: Piece, was_within_frame: bool) {
        let connection = &mut self.entries[key as usize];
        let was_greedy = connection.flags.has(Flags::GREEDY);
        connection.flags.set(Flags::SERVED);
        if piece.len >= self.greedy.share {
            connection.flags.set(Flags::GREEDY);
        } else if piece.offset + piece.len < self.greedy.buffer && piece.len != SMALL_SHARE {
            // There was room for more. At the end of a buffer, or of a small share, a little proves nothing.
            connection.flags.clear(Flags::GREEDY);
            // A small piece of a large message is no small message.
            if !(was_greedy || was_within_frame || connection.session.is_within_frame()) {
                self.greedy.modest_at = self.now;
            }
        }
    }

    /// A receive has found the pool empty.
    pub(super) fn wait_for_buffers(&mut self, key: u32) {
        let flags = &mut self.entries[key as usize].flags;
        flags.set(Flags::STARVED);
        match (flags.has(Flags::GREEDY), flags.has(Flags::SERVED)) {
            (false, _) => self.starved.push(key),
            (true, false) => self.greedy.unserved.push(key),
            (true, true) => self.greedy.queue.push_back(key),
        }
    }

    /// Receives from a connection again, if it need not wait for its turn.
    pub(super) fn receive_in_turn(&mut self, key: u32) {
        let is_greedy = self.entries[key as usize].flags.has(Flags::GREEDY);
        match self.greedy.turn.take() {
            _ if !is_greedy => self.arm_receive(key),
            None => self.wait_for_buffers(key),
            Some(Portion::All) => {
                self.entries[key as usize].flags.clear(Flags::SERVED);
                self.arm_receive(key);
            }
            Some(Portion::Share(at_most)) => {
                let flags = &mut self.entries[key as usize].flags;
                flags.clear(Flags::SERVED);
                flags.set(Flags::RECEIVING);
                self.submit(key, Kind::Receive, |slot| Op::ReceiveOnce { slot, at_most });
            }
        }
    }

    /// Lets some of the greedy connections have their turn.
    pub(super) fn serve_greedy(&mut self) {
        let (mut turns, portion) = self.greedy.turns(self.now, self.chunks.owned() >= self.backlog_total / 2);
        self.greedy.line_up(portion);
        // Once around: who cannot be received from now comes back to the queue.
        for _ in 0..self.greedy.queue.len() {
            if turns == 0 {
                return;
            }
            let Some(key) = self.greedy.queue.pop_front() else { return };
            // As for the starved: the entry is still the same connection's.
            let Some(connection) = self.entries.get_mut(key as usize) else { continue };
            connection.flags.clear(Flags::STARVED);
            debug_assert!(connection.flags.has(Flags::GREEDY) || connection.ending != Ending::No);
            self.greedy.turn = Some(portion);
            self.settle(key);
            // Whoever is on the way out, or not to be read, has not used it.
            turns -= u32::from(self.greedy.turn.take().is_none());
        }
    }
}

#[cfg(test)]
mod tests;
