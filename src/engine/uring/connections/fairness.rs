//! Who is received from next when not everybody can be.
//!
//! A receive takes all that a socket holds, up to the whole pool. A few peers that send without a pause would so take
//! every turn's buffers and time for themselves, and everybody else would wait behind all of them. So whoever has brought
//! a lot at once is *greedy* until a receive finds less: greedy connections take turns, a receive each, behind everybody
//! else. While others are served, their turns are short.

use std::collections::VecDeque;

use crate::engine::fairness::{Modest, SHARE, SMALL_SHARE};

use super::super::buffers::{Piece, PoolShape};
use super::super::connection::Flags;
use super::super::token::Kind;
use super::{Connections, Op};

/// What all greedy connections together may receive in a turn while others are served: the rest have to wait for theirs.
const SHARES: u32 = SHARE;

/// The greedy connections that wait for their turn.
pub(super) struct Greedy {
    queue: VecDeque<u32>,
    share: u32,
    buffer: u32,
    /// What the connection whose turn it is may receive; `None`: it is nobody's turn.
    turn: Option<u32>,
    modest: Modest,
}

impl Greedy {
    pub(super) fn new(shape: PoolShape) -> Self {
        Self {
            queue: VecDeque::new(),
            share: SHARE.min(shape.size),
            buffer: shape.size,
            turn: None,
            modest: Modest::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Connections {
    /// Judges a connection by what a receive has brought.
    #[inline]
    pub(super) fn weigh(&mut self, key: u32, piece: Piece, was_within_frame: bool) {
        let connection = &mut self.entries[key as usize];
        let was_greedy = connection.flags.has(Flags::GREEDY);
        if piece.len >= self.greedy.share {
            connection.flags.set(Flags::GREEDY);
        } else if piece.offset + piece.len < self.greedy.buffer && piece.len != SMALL_SHARE {
            // There was room for more. At the end of a buffer, or of a small share, a little proves nothing.
            connection.flags.clear(Flags::GREEDY);
            // A small piece of a large message is no small message.
            if !(was_greedy || was_within_frame || connection.session.is_within_frame()) {
                self.greedy.modest.see(self.now);
            }
        }
    }

    /// What a greedy connection may receive in its turn; `None`: nobody minds if it takes all there is.
    fn share(&self) -> Option<u32> {
        let is_backlog_large = self.chunks.owned() >= self.backlog_total / 2;
        let share = self.greedy.modest.share(self.now, is_backlog_large);
        share.map(|share| share.min(self.greedy.share))
    }

    /// A receive has found the pool empty, or has to wait for its turn.
    pub(super) fn wait_for_buffers(&mut self, key: u32) {
        let takes_turns = self.share().is_some();
        let flags = &mut self.entries[key as usize].flags;
        flags.set(Flags::STARVED);
        if flags.has(Flags::GREEDY) && takes_turns { self.greedy.queue.push_back(key) } else { self.starved.push(key) }
    }

    /// Receives from a connection again, if it need not wait for its turn.
    pub(super) fn receive_in_turn(&mut self, key: u32) {
        let is_greedy = self.entries[key as usize].flags.has(Flags::GREEDY);
        match self.greedy.turn.take() {
            Some(at_most) if is_greedy => {
                self.entries[key as usize].flags.set(Flags::RECEIVING);
                self.submit(key, Kind::Receive, |slot| Op::ReceiveOnce { slot, at_most });
            }
            None if is_greedy && self.share().is_some() => self.wait_for_buffers(key),
            _ => self.arm_receive(key),
        }
    }

    /// Lets some of the greedy connections have their turn, or all of them receive whatever there is.
    pub(super) fn serve_greedy(&mut self) {
        let share = self.share();
        let mut turns = share.map_or(u32::MAX, |share| SHARES / share);
        // Once around: who has to wait for another turn comes back to the queue.
        for _ in 0..self.greedy.queue.len() {
            let Some(key) = self.greedy.queue.pop_front() else { return };
            // As for the starved: the entry is still the same connection's.
            let Some(connection) = self.entries.get_mut(key as usize) else { continue };
            connection.flags.clear(Flags::STARVED);
            self.greedy.turn = share;
            self.settle(key);
            // Whoever is on the way out, or not to be read, has not used it.
            turns -= u32::from(self.greedy.turn.take().is_none());
            if turns == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
