//! Who is received from, and how much.
//!
//! Whoever has something to be received waits in a queue, and each turn receives from as many as its bytes are thought
//! to suffice for: so the buffers are not used up, stay in cache, and whoever comes later does not wait for long.
//!
//! Thousands of peers may end in one moment. Who has ended waits behind those who have sent something.
//!
//! A few peers that send without a pause would take all of each turn for themselves. So whoever has brought a lot at once
//! is *greedy* until a receive finds less: greedy connections wait behind those, and while others are served, their turns
//! are short. Behind all of them, in turns as short, wait those whose peers do not read: nobody waits for their echoes.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::engine::fairness::{Modest, SHARE, SMALL_SHARE};

use super::super::buffers::{Piece, PoolShape};
use super::super::connection::Flags;
use super::super::token::Kind;
use super::super::turn::{RECEIVES_MAX, Usual};
use super::{Connections, Op};

/// Ended connections that a turn sees to while others are served.
const ENDS: usize = 16;
/// What all greedy connections together, and all whose peers do not read, may receive in a turn while others are served.
const SHARES: u32 = SHARE;

/// Who is served before whom.
#[derive(Clone, Copy)]
enum Rank {
    Modest,
    Ended,
    Greedy,
    /// It cannot send.
    Unread,
}

/// Connections that have something to be received.
///
/// A key may be another connection's by now: then it is served early, or has nothing and is skipped.
pub(super) struct Readable {
    /// By [`Rank`].
    queues: [VecDeque<u32>; 4],
    /// What a receive has brought of late, from modest and from greedy connections.
    usual: [Usual; 2],
    modest_seen: Modest,
    /// No more than this is received at once.
    share: u32,
    buffer: u32,
    /// Receives among the operations to submit.
    submitted: usize,
}

impl Readable {
    pub(super) fn new(shape: PoolShape) -> Self {
        Self {
            queues: Default::default(),
            usual: [Usual::default(); 2],
            modest_seen: Modest::default(),
            share: SHARE.min(shape.size),
            buffer: shape.size,
            submitted: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    pub(super) fn has_ended(&self) -> bool {
        !self.queues[Rank::Ended as usize].is_empty()
    }

    /// How many queues behind this one somebody waits in.
    fn behind(&self, rank: Rank) -> usize {
        self.queues[rank as usize + 1..].iter().filter(|queue| !queue.is_empty()).count()
    }

    #[cfg(test)]
    pub(super) fn holds(&self, key: u32) -> bool {
        self.queues.iter().any(|queue| queue.contains(&key))
    }

    pub(super) fn submitted(&self) -> usize {
        self.submitted
    }

    pub(super) fn forget_submitted(&mut self) {
        self.submitted = 0;
    }
}

impl Connections {
    /// Has a connection that is to be received from wait for its turn.
    #[inline]
    pub(super) fn wait_for_turn(&mut self, key: u32) {
        let flags = &mut self.entries[key as usize].flags;
        flags.set(Flags::QUEUED);
        let rank = if flags.has(Flags::BLOCKED) {
            Rank::Unread
        } else if flags.has(Flags::GREEDY) {
            Rank::Greedy
        } else {
            Rank::Modest
        };
        self.readable.queues[rank as usize].push_back(key);
    }

    /// The socket takes bytes again: its connection waits behind those who do not read no longer.
    pub(super) fn is_read_again(&mut self, key: u32) {
        let flags = &mut self.entries[key as usize].flags;
        flags.clear(Flags::BLOCKED);
        if flags.has(Flags::QUEUED) {
            // Where it stands already, it is skipped then.
            self.wait_for_turn(key);
        }
    }

    /// Has one whose peer has sent its last wait for its turn.
    #[cold]
    pub(super) fn wait_for_end(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.wants_input() && !connection.flags.has(Flags::RECEIVING.or(Flags::QUEUED)) {
            connection.flags.set(Flags::QUEUED);
            self.readable.queues[Rank::Ended as usize].push_back(key);
        }
    }

    /// Judges a connection by what a receive has brought.
    #[inline]
    pub(super) fn weigh(&mut self, key: u32, piece: Piece, was_within_frame: bool) {
        let connection = &mut self.entries[key as usize];
        let was_greedy = connection.flags.has(Flags::GREEDY);
        self.readable.usual[usize::from(was_greedy)].see(piece.len);
        if piece.len >= self.readable.share {
            connection.flags.set(Flags::GREEDY);
        } else if piece.offset + piece.len < self.readable.buffer && piece.len != SMALL_SHARE {
            // There was room for more. At the end of a buffer, or of a small share, a little proves nothing.
            connection.flags.clear(Flags::GREEDY);
            // A small piece of a large message is no small message.
            let is_unread = connection.flags.has(Flags::BLOCKED);
            if !(was_greedy || is_unread || was_within_frame || connection.session.is_within_frame()) {
                self.readable.modest_seen.see(self.now);
            }
        }
    }

    /// What may be received at once; `None`: nobody minds if it is all there is.
    fn share(&self) -> Option<u32> {
        let is_backlog_large = self.chunks.owned() >= self.backlog_total / 2;
        let share = self.readable.modest_seen.share(self.now, is_backlog_large);
        share.map(|share| share.min(self.readable.share))
    }

    /// Receives from some of those that wait for it.
    pub(super) fn receive_from_readable(&mut self) {
        if self.readable.is_empty() {
            return;
        }
        let share = self.share();
        let at_most = share.and_then(NonZeroU32::new);
        let [modest, greedy] = self.readable.usual;
        let mut room = self.pool.room_for(modest.bytes());
        // Whole buffers may be fewer than modest connections: some are kept for the others.
        let others = self.readable.behind(Rank::Modest);
        let kept = if others > 0 { (room / 8).max(others).min(room / 2) } else { 0 };
        let served = self.receive_from(Rank::Modest, modest.per_turn().min(room - kept), at_most);
        room = if served == 0 { self.pool.room_for(greedy.bytes()) } else { room - served };
        let ends = if share.is_some() { ENDS } else { RECEIVES_MAX };
        let shares = share.map_or(greedy.per_turn(), |share| (SHARES / share) as usize);
        for (rank, turns) in [(Rank::Ended, ends), (Rank::Greedy, shares), (Rank::Unread, shares)] {
            let kept = self.readable.behind(rank).min(room.saturating_sub(1));
            room -= self.receive_from(rank, turns.min(room - kept), at_most);
        }
    }

    /// Receives from as many as `turns` of a rank. Returns how many there were.
    fn receive_from(&mut self, rank: Rank, turns: usize, at_most: Option<NonZeroU32>) -> usize {
        let mut served = 0;
        while served < turns {
            let Some(key) = self.readable.queues[rank as usize].pop_front() else { break };
            let Some(connection) = self.entries.get_mut(key as usize) else { continue };
            if !connection.flags.has(Flags::QUEUED) {
                continue;
            }
            connection.flags.clear(Flags::QUEUED);
            if connection.wants_input() {
                connection.flags.set(Flags::RECEIVING);
                self.submit(key, Kind::Receive, |slot| Op::Receive { slot, at_most });
                served += 1;
            }
        }
        self.readable.submitted += served;
        served
    }
}

#[cfg(test)]
mod tests;
