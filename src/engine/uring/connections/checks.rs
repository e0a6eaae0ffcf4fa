//! Invariants, for the simulation.

use std::ptr::NonNull;

use super::super::buffers::BufferPool;
use super::super::connection::{Connection, Flags};
use super::super::output::EVICTED_BLOCK;
use super::super::token::Token;
use super::Connections;

impl Connections {
    pub(in super::super) fn pool_mut(&mut self) -> &mut BufferPool {
        &mut self.pool
    }

    /// What a completion of a former connection must not change: the state of whoever has its entry now, and the number
    /// of operations to submit.
    pub(in super::super) fn successor_of(&self, token: Token) -> Option<(u32, Flags, usize)> {
        let connection = self.entries.get(token.key as usize)?;
        let state = (connection.generation, connection.flags, self.ops.len());
        (connection.generation != token.generation).then_some(state)
    }

    /// Sockets that are not read, because their peers do not read.
    pub(in super::super) fn throttled_slots(&self) -> Vec<u32> {
        let throttled = self.entries.iter().filter(|(_, connection)| connection.flags.has(Flags::THROTTLED));
        throttled.map(|(_, connection)| connection.slot).collect()
    }

    /// What must hold after every turn.
    pub(in super::super) fn check_invariants(&self) {
        let timed = self.entries.iter().filter(|(_, c)| c.flags.has(Flags::TIMED)).count();
        assert_eq!(timed, self.timed, "deadlines miscounted");
        let queues = || self.entries.iter().map(|(_, connection)| connection.queue);
        let chunks: usize = queues().map(|queue| self.chunks.memory(queue).count()).sum();
        assert_eq!(chunks, self.chunks.len(), "a chunk that no queue holds");
        self.pool.check_pieces(queues().flat_map(|queue| self.chunks.buffers(queue)));
        for (key, connection) in &self.entries {
            let flags = connection.flags;
            assert!(connection.is_in_flight(), "a connection that no completion will move");
            if flags.has(Flags::READABLE) && connection.wants_input() {
                let is_next =
                    flags.has(Flags::RECEIVING) || (flags.has(Flags::QUEUED) && self.readable.holds(key as u32));
                assert!(is_next, "a connection that nobody will receive from");
            }
            let is_sending = flags.has(Flags::SENDING.or(Flags::BLOCKED).or(Flags::CLOSING));
            assert!(connection.queue.is_empty() || is_sending, "output that nobody will send");
            let memory: usize = self.chunks.memory(connection.queue).sum();
            // What may come before the reading has stopped, our own answers and cut frames, a block that is sent in part.
            let cap = self.backlog_high + 2 * self.pool.memory() + 512 + EVICTED_BLOCK;
            assert!(memory <= cap, "a backlog of {memory} bytes over a cap of {cap}");
        }
        let cap = self.backlog_total + self.entries.capacity() * (2 * self.pool.memory() + 512);
        assert!(self.chunks.owned() <= cap, "backlogs of {} bytes over a cap of {cap}", self.chunks.owned());
    }

    /// What must hold while the worker waits: nobody who is ending waits for a send that has completed silently.
    pub(in super::super) fn check_waiting(&self) {
        let is_stuck = |c: &Connection| c.flags.has(Flags::SENDING) && !c.ending.is_open();
        assert!(!self.entries.iter().any(|(_, c)| is_stuck(c)), "the end of a connection waits for something else");
    }

    /// What must hold when a send is submitted.
    pub(in super::super) fn check_queued(&self, token: Token, address: NonNull<u8>, len: u32) {
        let connection = &self.entries[token.key as usize];
        assert_eq!(connection.generation, token.generation, "a send of a connection that is gone");
        assert!(connection.flags.has(Flags::SENDING));
        let front = self.chunks.front(connection.queue, &self.pool);
        assert_eq!(
            (NonNull::from(&front[0]), front.len() as u32),
            (address, len),
            "a send from memory that was given back"
        );
    }

    /// What must hold when no connection is left.
    pub(in super::super) fn check_idle(&self) {
        assert_eq!((self.entries.len(), self.chunks.len(), self.timed), (0, 0, 0));
        self.pool.check_pieces(std::iter::empty());
        assert_eq!(self.tally.accepted, self.tally.released);
    }
}
