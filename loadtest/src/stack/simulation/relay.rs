//! What is between the two sides.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{MS, Random};

/// A packet on its way, the next one first: when it arrives, its number, its bytes, whether it is for a server.
type Passing = Reverse<(u64, u64, Vec<u8>, bool)>;

/// Packets on their way. How bad the relay is differs between schedules.
pub(super) struct Relay {
    queue: BinaryHeap<Passing>,
    count: u64,
    /// One in so many packets is lost, comes twice, is damaged.
    loss: usize,
    repetition: usize,
    damage: usize,
    delay_ms: usize,
    /// It does nothing of that any more.
    pub(super) is_calm: bool,
}

impl Relay {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            queue: BinaryHeap::new(),
            count: 0,
            loss: 4 + random.below(40),
            repetition: 2 + random.below(40),
            damage: 10 + random.below(40),
            delay_ms: 1 + random.below(150),
            is_calm: false,
        }
    }

    pub(super) fn push(&mut self, mut packet: Vec<u8>, is_to_server: bool, now_ns: u64, random: &mut Random) {
        if self.is_calm {
            return self.insert(now_ns + MS, packet, is_to_server);
        }
        if random.one_in(self.loss) {
            return;
        }
        if random.one_in(self.repetition) {
            let at_ns = now_ns + random.below(10 * self.delay_ms) as u64 * MS;
            self.insert(at_ns, packet.clone(), is_to_server);
        }
        if random.one_in(self.damage) {
            let bit = random.below(8 * packet.len());
            packet[bit / 8] ^= 1 << (bit % 8);
        }
        let at_ns = now_ns + random.below(self.delay_ms) as u64 * MS;
        self.insert(at_ns, packet, is_to_server);
    }

    fn insert(&mut self, at_ns: u64, packet: Vec<u8>, is_to_server: bool) {
        self.count += 1;
        self.queue.push(Reverse((at_ns, self.count, packet, is_to_server)));
    }

    /// A packet that has arrived.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<(Vec<u8>, bool)> {
        if self.next_ns()? > now_ns {
            return None;
        }
        self.queue.pop().map(|Reverse((_, _, packet, is_to_server))| (packet, is_to_server))
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at_ns, ..))| *at_ns)
    }
}
