//! Invariants, for the simulation.

use ringio::Pool;

use super::super::operation::Op;
use super::super::socket::Socket;
use super::super::token::Token;
use super::Connections;
use super::flight::{CANCELLING, CLOSING, RECEIVING, RETRY, SENDING, SHUTTING};
use crate::connection::Connection;
use crate::connection::lifecycle::{Facts, State};
use crate::connection::output::{BLOCK, CHUNK_OVERHEAD};
use crate::connection::schedule::Planned;
use crate::worker::Counter;

/// What a state of an entry is recognised by: its generation, its flight and its facts, and how much is to be submitted.
pub(in super::super) type Fingerprint = (u32, u8, Facts, usize);

impl Connections {
    pub(in super::super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What a completion of a former connection must not change: the state of the one that has its entry now.
    pub(in super::super) fn successor_of(&self, token: Token) -> Option<Fingerprint> {
        if !self.core.contains(token.key) {
            return None;
        }
        let connection = self.core.get(token.key);
        let generation = u32::from(self.core.generation(token.key));
        let state = (generation, connection.flight, connection.life.facts, self.ops.len());
        (generation != token.generation).then_some(state)
    }

    /// Whether the receive that is under way is from the background's budget.
    pub(in super::super) fn is_budgeted(&self, key: u32) -> bool {
        self.core.get(key).io.planned() != Planned::Nothing
    }

    /// Whether a connection's last receive is due, without an event.
    pub(in super::super) fn is_finishing(&self, key: u32) -> bool {
        self.core.get(key).life.state() == State::Finishing
    }

    /// Whether a connection is leaving: it is received from without an event.
    pub(in super::super) fn is_leaving(&self, key: u32) -> bool {
        self.core.get(key).life.state() == State::Leaving
    }

    /// Sockets of connections that are open and not pinged.
    pub(in super::super) fn open_slots(&self) -> Vec<u32> {
        let has_end = Facts::PINGED.or(Facts::PEER_DONE).or(Facts::END_AHEAD);
        let is_open = |c: &Connection<Socket>| c.life.state() == State::Open && !c.life.facts.has(has_end);
        self.core.iter().filter(|(_, c)| is_open(c) && c.life.can_ping()).map(|(_, c)| c.io.slot()).collect()
    }

    /// Sockets that are not read, or were not for a part of the turn, because their peers do not read.
    pub(in super::super) fn take_throttled_slots(&mut self) -> Vec<u32> {
        let was = self.core.take_throttled();
        let is = |key, facts: Facts| facts.has(Facts::THROTTLED) || was.contains(&key);
        let throttled = self.core.iter().filter(|(key, connection)| is(*key, connection.life.facts));
        throttled.map(|(_, connection)| connection.io.slot()).collect()
    }

    /// The bytes of a send that is submitted, and whether more is announced.
    pub(in super::super) fn sent_by(&self, op: Op) -> (&[u8], bool) {
        let connection = self.core.get(op.token.key);
        assert_eq!(u32::from(self.core.generation(op.token.key)), op.token.generation, "a send of a former connection");
        assert!(connection.flight & SENDING != 0);
        let outputs = &self.core.outputs;
        (outputs.front(connection.output, &self.pool), outputs.has_several(connection.output))
    }

    /// What must hold after every turn.
    pub(in super::super) fn check_invariants(&self, is_punctual: bool) {
        self.core.check_invariants();
        self.core.check_deadlines(is_punctual);
        let lent = || self.core.iter().flat_map(|(_, connection)| self.core.outputs.lent(connection.output));
        self.pool.check_pieces(lent().map(ringio::Piece::buffer));
        let mut holders = 0;
        for (key, connection) in self.core.iter() {
            let (facts, flight) = (connection.life.facts, connection.flight);
            assert!(flight & !RETRY != 0, "a connection that no completion will move");
            let wants = self.core.wants(key);
            let is_ending = flight & (CANCELLING | CLOSING) != 0;
            if facts.has(Facts::READABLE) && wants.receive && !is_ending {
                let is_next = flight & RECEIVING != 0 || self.core.is_queued(key);
                assert!(is_next, "a connection that is never received from");
            }
            assert!(!wants.send || flight & SENDING != 0, "output that is never sent");
            assert!(!wants.shutdown || flight & SHUTTING != 0 || is_ending, "a shutdown that is never submitted");
            holders += usize::from(facts.has(Facts::HOLDS_BUFFERS));
            self.check_memory(key);
        }
        assert_eq!(holders, self.holders.len(), "a holder of buffers that is not noted");
        let cap = self.core.backlog().total + self.core.len() * self.slack();
        assert!(self.core.outputs.held() <= cap, "backlogs of {} bytes over a cap of {cap}", self.core.outputs.held());
    }

    /// What a connection may have beyond its cap: what may come before it turns out to be a slow reader and while a
    /// receive is under way, our own answers and cut frames, and a block that is sent in part.
    fn slack(&self) -> usize {
        2 * (self.pool.memory() + self.core.recompressed_at_once()) + 512 + BLOCK
    }

    fn check_memory(&self, key: u32) {
        let queue = self.core.get(key).output;
        let (_, owned, pending) = self.core.outputs.count(queue);
        let cap = self.core.backlog().per_connection + self.slack();
        assert!(pending <= cap, "a backlog of {pending} bytes over a cap of {cap}");
        // What is not joined in blocks are pieces of `copy_below` bytes and more; each costs a chunk's overhead.
        let smallest = BLOCK.min(self.copy_below as usize);
        let cap = cap + cap / smallest * CHUNK_OVERHEAD;
        assert!(owned <= cap, "{owned} bytes of memory for a backlog of {pending}, over a cap of {cap}");
    }

    /// What must hold while the worker waits: no connection that is ending waits for a send that has completed silently.
    pub(in super::super) fn check_waiting(&self) {
        for (_, connection) in self.core.iter() {
            let is_stuck = connection.flight & SENDING != 0 && connection.life.awaits_output();
            assert!(!is_stuck, "the end of a connection waits for something else");
        }
    }

    /// What must hold when no connection is left.
    pub(in super::super) fn check_idle(&self) {
        assert_eq!((self.core.len(), self.core.outputs.len(), self.core.timers()), (0, 0, 0));
        assert_eq!((self.core.outputs.held(), self.holders.len()), (0, 0));
        assert!(!self.core.has_foreground() && !self.core.has_background());
        self.pool.check_pieces(std::iter::empty());
        let tally = self.core.counters().read();
        assert_eq!(tally.get(Counter::Accepted), tally.get(Counter::Released));
        let gauges = [Counter::SlowReaders, Counter::Throttled].map(|gauge| tally.get(gauge));
        assert_eq!(gauges, [0, 0], "slow readers that are gone");
        let inflating = [self.core.held_for_inflation() as u64, tally.get(Counter::InflationMemory)];
        assert_eq!(inflating, [0, 0], "memory for compressed messages of connections that are gone");
    }
}
