//! One connection's entry in the worker's slab.

use crate::engine::deadline::Ending;
use crate::engine::fairness::LAST_RECEIVES;
use crate::protocol::Session;

use super::output::Queue;

/// Facts about a connection, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// A receive is among the operations to submit, or submitted.
    pub(super) const RECEIVING: Self = Self(1);
    /// The poll is being cancelled, because the descriptor is to be closed.
    pub(super) const CANCELLING: Self = Self(1 << 1);
    /// It waits for its turn to be received from.
    pub(super) const QUEUED: Self = Self(1 << 2);
    /// The head of the queue has been handed to the kernel in this turn.
    pub(super) const SENDING: Self = Self(1 << 3);
    /// The peer does not read: the last send found its socket buffer full.
    pub(super) const BLOCKED: Self = Self(1 << 4);
    /// It was blocked and has output left: it is not read until that is gone, so that a peer that reads slowly gets no
    /// more of our memory than one that does not read at all.
    pub(super) const THROTTLED: Self = Self(1 << 13);
    /// The poll is armed.
    pub(super) const POLLED: Self = Self(1 << 5);
    /// The peer has sent its FIN, or the connection is broken.
    pub(super) const PEER_DONE: Self = Self(1 << 6);
    /// Behind what can be received there is an end to be found: no further event will tell.
    pub(super) const ENDED: Self = Self(1 << 7);
    /// A `shutdown(SHUT_WR)` is not completed.
    pub(super) const SHUTTING: Self = Self(1 << 8);
    /// The close of the descriptor is in flight: the last operation of all.
    pub(super) const CLOSING: Self = Self(1 << 9);
    /// A keepalive Ping went out since the peer was last heard.
    pub(super) const PINGED: Self = Self(1 << 10);
    /// The sweep has a deadline to look after.
    pub(super) const TIMED: Self = Self(1 << 11);
    /// It is on the list of those who may hold receive buffers although their peer does not read.
    pub(super) const LISTED: Self = Self(1 << 12);

    /// It has sent so much at once that it is received from only when it is its turn, and only a share of it at a time.
    pub(super) const GREEDY: Self = Self(1 << 14);
    /// There may be something to be received.
    pub(super) const READABLE: Self = Self(1 << 15);

    const NONE: Self = Self(0);

    #[inline]
    pub(super) const fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    #[inline]
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline]
    pub(super) fn set(&mut self, flag: Self) {
        self.0 |= flag.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, flag: Self) {
        self.0 &= !flag.0;
    }
}

/// A connection. Whatever is rare lives behind a pointer in [`Session`] or in the worker's [`Queue`] chunks.
pub(super) struct Connection {
    pub(super) session: Session,
    /// Its direct descriptor in this ring.
    pub(super) slot: u32,
    pub(super) generation: u32,
    /// What waits to be sent, oldest first.
    pub(super) queue: Queue,
    /// The tick that its current deadline counts from.
    pub(super) since: u32,
    pub(super) flags: Flags,
    pub(super) ending: Ending,
    /// Receives that it may still have when it is leaving: its peer may be sending without a pause.
    pub(super) last_receives: u8,
}

const _: () = assert!(size_of::<Connection>() <= 48, "an idle connection pays for every byte");
// The slab stores `enum { Vacant(usize), Occupied(Connection) }`: it must fit beside a niche, without a tag of its own.
const _: () = assert!(size_of::<Option<Connection>>() == size_of::<Connection>());

impl Connection {
    pub(super) fn new(session: Session, slot: u32, generation: u32, now: u32) -> Self {
        Self {
            session,
            slot,
            generation,
            queue: Queue::EMPTY,
            since: now,
            flags: Flags::NONE,
            ending: Ending::No,
            last_receives: LAST_RECEIVES,
        }
    }

    /// Whether it is to be received from when there is something. A peer that has sent its Close is read no further, but
    /// left alone: the close of the descriptor follows.
    #[inline]
    pub(super) fn wants_input(&self) -> bool {
        let obstacles = Flags::PEER_DONE.or(Flags::THROTTLED).or(Flags::CANCELLING).or(Flags::CLOSING);
        !self.flags.has(obstacles) && !matches!(self.ending, Ending::Close | Ending::Abort)
    }

    /// Whether the kernel holds an operation of this connection.
    pub(super) fn is_in_flight(&self) -> bool {
        let operations = Flags::RECEIVING.or(Flags::SENDING).or(Flags::POLLED).or(Flags::SHUTTING).or(Flags::CLOSING);
        self.flags.has(operations)
    }
}
