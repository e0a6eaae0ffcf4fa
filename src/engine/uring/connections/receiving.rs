//! Who is received from, and how much.
//!
//! Whoever has something to be received waits in a queue, and each turn receives from as many as its bytes are thought
//! to suffice for: so the buffers are not used up, stay in cache, and whoever comes later does not wait for long.
//!
//! Thousands of peers may come or go in one moment. They wait behind those who are there and have sent something.
//!
//! A few peers that send without a pause would take all of each turn for themselves. So whoever has brought a lot at once,
//! or a little that is a lot of work, is *greedy* until a receive finds less: greedy connections wait behind those, and
//! while others are served, their turns are short. Behind all of them, in turns as short, wait those whose peers do not
//! read: nobody waits for their echoes.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::engine::fairness::{Modest, SHARE, SMALL_SHARE};

use super::super::buffers::{Piece, PoolShape};
use super::super::connection::Flags;
use super::super::token::Kind;
use super::super::turn::{RECEIVES_MAX, Usual};
use super::{Connections, Op};

/// Connections that come or go that a turn sees to while others are served: each is more work than an echo.
const PASSING: usize = 8;
/// What all greedy connections together, and all whose peers do not read, may receive in a turn while others are served.
const SHARES: u32 = SHARE;

/// What the work on a frame comes to, in bytes received, for each byte that the echo is shorter by. An echo lacks its
/// masking key.
const WORK_PER_BYTE_LOST: u32 = 8;
/// So much of it makes a connection greedy, whatever it has brought: some 256 frames.
const WORK_ON_FRAMES: u32 = 8 << 10;

/// Who is served before whom.
#[derive(Clone, Copy)]
enum Rank {
    Modest,
    /// It comes or goes: in the opening or the closing handshake, or its peer has sent its last.
    Passing,
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
    /// What a receive has brought of late, from modest and from greedy connections: bytes, and work.
    bytes: [Usual; 2],
    work: [Usual; 2],
    /// What a receive under way may bring at most, from a modest and from a greedy connection; 0: whatever there is.
    at_most: [u32; 2],
    modest_seen: Modest,
    /// Until this tick small frames count as sent in masses: they are more work than as many bytes of large ones.
    small_frames_until: u32,
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
            bytes: [Usual::default(); 2],
            work: [Usual::default(); 2],
            at_most: [0; 2],
            modest_seen: Modest::default(),
            small_frames_until: 0,
            share: SHARE.min(shape.size),
            buffer: shape.size,
            submitted: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    pub(super) fn has_passing(&self) -> bool {
        !self.queues[Rank::Passing as usize].is_empty()
    }

    /// Places in the queues, also of those who wait in another one by now.
    fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
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
        } else if flags.has(Flags::TIMED) {
            Rank::Passing
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
            // Where it stands already, it is skipped then. That place is taken until its turn comes: not too many of them.
            if self.readable.len() >= 2 * self.entries.len() {
                self.give_up_places();
            }
            self.wait_for_turn(key);
        }
    }

    /// Leaves each connection the best of its places in the queues.
    #[cold]
    fn give_up_places(&mut self) {
        let mut seen = vec![false; self.keys_used];
        for queue in &mut self.readable.queues {
            queue.retain(|&key| {
                let waits = self.entries.get(key as usize).is_some_and(|it| it.flags.has(Flags::QUEUED));
                waits && !std::mem::replace(&mut seen[key as usize], true)
            });
        }
    }

    /// Has one whose peer has sent its last wait for its turn.
    #[cold]
    pub(super) fn wait_for_end(&mut self, key: u32) {
        let connection = &mut self.entries[key as usize];
        if connection.wants_input() && !connection.flags.has(Flags::RECEIVING.or(Flags::QUEUED)) {
            connection.flags.set(Flags::QUEUED);
            self.readable.queues[Rank::Passing as usize].push_back(key);
        }
    }

    /// Judges a connection by what a receive has brought, and by the bytes of it that no echo has. `was_amidst`: in a frame
    /// or a handshake, so that it is no small message.
    #[inline]
    pub(super) fn weigh(&mut self, key: u32, piece: Piece, lost: u32, was_amidst: bool) {
        let connection = &mut self.entries[key as usize];
        let was_greedy = connection.flags.has(Flags::GREEDY);
        let on_frames = lost.saturating_mul(WORK_PER_BYTE_LOST);
        self.readable.bytes[usize::from(was_greedy)].see(piece.len);
        self.readable.work[usize::from(was_greedy)].see(piece.len.saturating_add(on_frames));
        let is_full = piece.len >= self.readable.share || piece.len == self.readable.at_most[usize::from(was_greedy)];
        if is_full || on_frames >= WORK_ON_FRAMES {
            connection.flags.set(Flags::GREEDY);
            if on_frames > piece.len {
                self.readable.small_frames_until = self.now + 2;
            }
        } else if piece.offset + piece.len < self.readable.buffer {
            // There was room for more. At the end of a buffer a little proves nothing.
            connection.flags.clear(Flags::GREEDY);
            let is_other = connection.flags.has(Flags::BLOCKED.or(Flags::TIMED));
            if !(was_greedy || is_other || was_amidst || connection.session.is_within_frame()) {
                self.readable.modest_seen.see(self.now);
            }
        }
    }

    /// What may be received at once, from a modest and from a greedy connection, and what all may who share a turn; `None`:
    /// nobody minds if it is all there is.
    fn share(&self) -> Option<([u32; 2], u32)> {
        let is_backlog_large = self.chunks.owned() >= self.backlog_total / 2;
        let share = self.readable.modest_seen.share(self.now, is_backlog_large)?.min(self.readable.share);
        Some(if self.now < self.readable.small_frames_until {
            let small = share.min(SMALL_SHARE);
            ([share, small], small)
        } else {
            ([share; 2], SHARES)
        })
    }

    /// Receives from some of those that wait for it.
    pub(super) fn receive_from_readable(&mut self) {
        if self.readable.is_empty() {
            return;
        }
        let share = self.share();
        self.readable.at_most = share.map_or([0; 2], |(at_most, _)| at_most);
        let [modest, greedy] = self.readable.work;
        let [modest_bytes, greedy_bytes] = self.readable.bytes.map(Usual::average);
        let mut room = self.pool.room_for(modest_bytes);
        // Whole buffers may be fewer than modest connections: some are kept for the others.
        let others = self.readable.behind(Rank::Modest);
        let kept = if others > 0 { (room / 8).max(others).min(room / 2) } else { 0 };
        let served = self.receive_from(Rank::Modest, modest.per_turn().min(room - kept));
        room = if served == 0 { self.pool.room_for(greedy_bytes) } else { room - served };
        let passing = if share.is_some() { PASSING } else { RECEIVES_MAX };
        let shares = share.map_or(greedy.per_turn(), |([_, one], all)| (all / one) as usize);
        for (rank, turns) in [(Rank::Passing, passing), (Rank::Greedy, shares), (Rank::Unread, shares)] {
            let kept = self.readable.behind(rank).min(room.saturating_sub(1));
            room -= self.receive_from(rank, turns.min(room - kept));
        }
    }

    /// Receives from as many as `turns` of a rank. Returns how many there were.
    fn receive_from(&mut self, rank: Rank, turns: usize) -> usize {
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
                let at_most = NonZeroU32::new(self.readable.at_most[usize::from(connection.flags.has(Flags::GREEDY))]);
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
