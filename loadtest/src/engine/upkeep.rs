//! What happens to connections beside messages: they are opened again, and pinged, one after the other.

use std::time::Duration;

use super::connection::{Flag, Stage};
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

    /// Whether it is somebody's turn. What was missed is made up for.
    fn is_due(&mut self, now_ns: u64) -> bool {
        let is_due = self.next_ns <= now_ns;
        self.next_ns += if is_due { self.interval_ns } else { 0 };
        is_due
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

    /// When the next turn comes.
    pub(super) fn next_ns(&self) -> Option<u64> {
        [&self.reconnects, &self.pings].into_iter().flatten().map(|rotation| rotation.next_ns).min()
    }
}

impl Worker<'_> {
    /// Gives their turn to those whose turn it is.
    pub(super) fn keep_up(&mut self) {
        if let Some(mut rotation) = self.upkeep.reconnects.take() {
            self.visit(&mut rotation, Self::recycle);
            self.upkeep.reconnects = Some(rotation);
        }
        if let Some(mut rotation) = self.upkeep.pings.take() {
            self.visit(&mut rotation, Self::ping);
            self.upkeep.pings = Some(rotation);
        }
    }

    fn visit(&mut self, rotation: &mut Rotation, mut act: impl FnMut(&mut Self, u32)) {
        for _ in 0..TURN {
            if !rotation.is_due(self.now_ns) {
                return;
            }
            if let Some(key) = self.next_in_turn(rotation.cursor) {
                rotation.cursor = key + 1;
                act(self, key as u32);
            }
        }
    }

    /// The next connection from `start` on, and then from the beginning, that is open and is to stay so.
    fn next_in_turn(&self, start: usize) -> Option<usize> {
        let capacity = self.connections.capacity();
        (start..capacity).chain(0..start.min(capacity)).find(|&key| {
            self.connections.get(key).is_some_and(|connection| {
                connection.stage == Stage::Open && !connection.has(Flag::Recycling) && !connection.has(Flag::SlowReader)
            })
        })
    }

    fn ping(&mut self, key: u32) {
        if self.shared.messages.are_framed() {
            self.connections[key as usize].set(Flag::PingDue, true);
            self.send_due(key);
        }
    }
}
