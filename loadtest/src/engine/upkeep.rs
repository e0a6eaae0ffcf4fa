//! What happens to connections beside messages: they are opened again, and pinged, one after the other. Whose turn it
//! is, is told in the same way on the ring and through TLS.

use std::time::Duration;

use super::connection::{Connection, Flag, Stage};
use super::worker::{TURN, Worker};
use crate::scenario::Scenario;

/// Visits this thread's connections in turn, one at each interval.
#[derive(Debug)]
struct Rotation {
    interval_ns: u64,
    next_ns: u64,
    /// The next key to look at.
    cursor: usize,
}

/// The rotations of a thread.
#[derive(Debug)]
pub(super) struct Rotations {
    reconnects: Option<Rotation>,
    pings: Option<Rotation>,
}

impl Rotation {
    fn new(interval: Duration) -> Self {
        Self { interval_ns: (interval.as_nanos() as u64).max(1), next_ns: u64::MAX, cursor: 0 }
    }

    /// Whose turn it is, of those below `capacity` that are open, if it is time. What was missed is made up for, unless
    /// there is nobody.
    fn next(&mut self, now_ns: u64, capacity: usize, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        if self.next_ns > now_ns {
            return None;
        }
        let Some(key) = (self.cursor..capacity).chain(0..self.cursor.min(capacity)).find(|&key| is_open(key)) else {
            self.next_ns = now_ns + self.interval_ns;
            return None;
        };
        self.next_ns += self.interval_ns;
        self.cursor = key + 1;
        Some(key)
    }
}

impl Rotations {
    /// For a thread that has `share` of all connections.
    pub(super) fn new(scenario: &Scenario, share: f64) -> Self {
        let upkeep = &scenario.upkeep;
        let own = f64::from(scenario.connections) * share;
        Self {
            reconnects: upkeep.reconnect_every.map(|every| Rotation::new(every.div_f64(share))),
            pings: upkeep.ping_every.map(|every| Rotation::new(every.div_f64(own))),
        }
    }

    /// Starts them all.
    pub(super) fn begin(&mut self, now_ns: u64) {
        for rotation in [&mut self.reconnects, &mut self.pings].into_iter().flatten() {
            rotation.next_ns = now_ns + rotation.interval_ns;
        }
    }

    /// The connection, of those below `capacity` that are open, that is to be opened again now.
    pub(super) fn reconnect(&mut self, now_ns: u64, capacity: usize, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        self.reconnects.as_mut()?.next(now_ns, capacity, is_open)
    }

    /// The connection that is to be pinged now, likewise.
    pub(super) fn ping(&mut self, now_ns: u64, capacity: usize, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        self.pings.as_mut()?.next(now_ns, capacity, is_open)
    }

    /// When the next turn comes.
    pub(super) fn next_ns(&self) -> Option<u64> {
        [&self.reconnects, &self.pings].into_iter().flatten().map(|rotation| rotation.next_ns).min()
    }
}

impl Worker<'_> {
    /// Gives their turn to those whose turn it is.
    pub(super) fn keep_up(&mut self) {
        let capacity = self.connections.capacity();
        for _ in 0..TURN {
            let is_open = |key| self.connections.get(key).is_some_and(is_to_stay);
            let Some(key) = self.upkeep.reconnect(self.now_ns, capacity, is_open) else { break };
            self.recycle(key as u32);
        }
        for _ in 0..TURN {
            let is_open = |key| self.connections.get(key).is_some_and(is_to_stay);
            let Some(key) = self.upkeep.ping(self.now_ns, capacity, is_open) else { break };
            self.ping(key as u32);
        }
    }

    fn ping(&mut self, key: u32) {
        if self.shared.messages.are_framed() {
            self.connections[key as usize].set(Flag::PingDue, true);
            self.send_due(key);
        }
    }
}

/// Whether a connection is open, and is to stay so.
fn is_to_stay(connection: &Connection) -> bool {
    connection.stage == Stage::Open && !connection.has(Flag::Recycling) && !connection.has(Flag::SlowReader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_made_up_for_but_not_those_that_nobody_could_take() {
        let mut rotation = Rotation { interval_ns: 10, next_ns: 10, cursor: 0 };
        let mut at = |now_ns, open: &[usize]| rotation.next(now_ns, 4, |key| open.contains(&key));
        assert_eq!(at(9, &[0, 1, 3]), None);
        assert_eq!([35, 35, 35, 35].map(|now_ns| at(now_ns, &[0, 1, 3])), [Some(0), Some(1), Some(3), None]);
        assert_eq!(at(40, &[0, 1, 3]), Some(0));
        assert_eq!(at(500, &[]), None);
        assert_eq!((at(509, &[2]), at(510, &[2]), at(511, &[2])), (None, Some(2), None));
    }
}
