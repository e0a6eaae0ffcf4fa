//! A lazy timer wheel: at most one timer per connection, no work per message.
//!
//! A timer expires at its tick, or before if its deadline has moved; its owner then computes the current deadline, and sets
//! the timer again if that is later. So a deadline that moves with each message costs nothing until the timer expires, and
//! the number of former connections does not matter.

use slab::Slab;

/// Ticks that one round of the wheel takes; timers beyond that come up once a round and are set again. With ticks of a
/// quarter of a second a round is two minutes.
const SLOTS: u32 = 512;
const MASK: u32 = SLOTS - 1;
const NONE: u32 = u32::MAX;

/// A connection's timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timer(u32);

impl Timer {
    /// It is not set.
    pub(crate) const NONE: Self = Self(NONE);

    /// Whether it is set.
    #[inline]
    pub(crate) fn is_set(self) -> bool {
        self != Self::NONE
    }
}

/// A timer that is set: a node in the list of its slot.
struct Node {
    /// The connection's key.
    key: u32,
    /// The tick at which it comes up.
    at: u32,
    next: u32,
    previous: u32,
}

/// All timers of a worker. Ticks wrap around; deadlines are less than half of their range away.
pub(crate) struct Wheel {
    nodes: Slab<Node>,
    /// The first node of each slot.
    slots: Box<[u32; SLOTS as usize]>,
    /// The tick whose slot is next to be looked at: no timer is set for one before it.
    cursor: u32,
}

impl Wheel {
    /// An empty wheel, at tick 0.
    pub(crate) fn new() -> Self {
        Self { nodes: Slab::new(), slots: Box::new([NONE; SLOTS as usize]), cursor: 0 }
    }

    /// Whether no timer is set.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many timers are set.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// When a timer comes up, if it is set.
    #[cfg(test)]
    pub(crate) fn at(&self, timer: Timer) -> Option<u32> {
        timer.is_set().then(|| self.nodes[timer.0 as usize].at)
    }

    /// Sets the connection's timer to `at`, or leaves it if it comes up earlier.
    pub(crate) fn set(&mut self, timer: &mut Timer, key: u32, at: u32, now: u32) {
        if self.is_empty() {
            self.cursor = now;
        }
        if timer.is_set() {
            if !is_before(at, self.nodes[timer.0 as usize].at) {
                return;
            }
            self.cancel(timer);
        }
        let horizon = self.cursor.wrapping_add(MASK);
        let at = if is_before(at, self.cursor) {
            self.cursor
        } else if is_before(horizon, at) {
            horizon
        } else {
            at
        };
        let slot = &mut self.slots[(at & MASK) as usize];
        let node = self.nodes.insert(Node { key, at, next: *slot, previous: NONE }) as u32;
        if *slot != NONE {
            self.nodes[*slot as usize].previous = node;
        }
        *slot = node;
        *timer = Timer(node);
    }

    /// Cancels a timer, if it is set.
    pub(crate) fn cancel(&mut self, timer: &mut Timer) {
        if timer.is_set() {
            self.remove(timer.0);
            *timer = Timer::NONE;
        }
    }

    /// The connection of a timer that has come up by `now`. The timer is not set any more.
    pub(crate) fn pop(&mut self, now: u32) -> Option<u32> {
        if self.is_empty() {
            self.cursor = now;
            return None;
        }
        loop {
            let first = self.slots[(self.cursor & MASK) as usize];
            if first != NONE && !is_before(now, self.cursor) {
                return Some(self.remove(first).key);
            }
            if !is_before(self.cursor, now) {
                return None;
            }
            self.cursor = self.cursor.wrapping_add(1);
        }
    }

    fn remove(&mut self, node: u32) -> Node {
        let node = self.nodes.remove(node as usize);
        if node.next != NONE {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if node.previous == NONE {
            self.slots[(node.at & MASK) as usize] = node.next;
        } else {
            self.nodes[node.previous as usize].next = node.next;
        }
        if self.nodes.is_empty() && self.nodes.capacity() > SLOTS as usize {
            self.nodes = Slab::new(); // a peak's memory goes back when the peak is over
        }
        node
    }
}

/// Whether tick `a` comes before tick `b`.
#[inline]
pub(crate) fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that come up at each tick up to `until`.
    fn run(wheel: &mut Wheel, from: u32, ticks: u32) -> Vec<(u32, u32)> {
        let mut seen = Vec::new();
        for passed in 0..=ticks {
            let now = from.wrapping_add(passed);
            while let Some(key) = wheel.pop(now) {
                seen.push((passed, key));
            }
        }
        seen
    }

    #[test]
    fn timers_come_up_at_their_tick_wherever_the_clock_stands() {
        for start in [0, 1, SLOTS - 1, u32::MAX - 3, u32::MAX / 2] {
            let mut wheel = Wheel::new();
            let mut timers = [Timer::NONE; 5];
            for (key, (timer, after)) in timers.iter_mut().zip([0, 1, 5, 5, MASK]).enumerate() {
                wheel.set(timer, key as u32, start.wrapping_add(after), start);
            }
            let mut seen = run(&mut wheel, start, SLOTS);
            seen.sort_unstable();
            assert_eq!(seen, [(0, 0), (1, 1), (5, 2), (5, 3), (MASK, 4)], "from {start}");
            assert!(wheel.is_empty());
        }
    }

    #[test]
    fn a_timer_beyond_the_wheel_comes_up_once_a_turn() {
        let (mut wheel, mut timer) = (Wheel::new(), Timer::NONE);
        wheel.set(&mut timer, 7, 10 * SLOTS, 0);
        assert_eq!(run(&mut wheel, 0, SLOTS), [(MASK, 7)]);
    }

    #[test]
    fn the_earlier_of_two_settings_counts() {
        let (mut wheel, mut timer) = (Wheel::new(), Timer::NONE);
        wheel.set(&mut timer, 1, 9, 0);
        wheel.set(&mut timer, 1, 20, 0);
        wheel.set(&mut timer, 1, 4, 0);
        assert_eq!((wheel.len(), run(&mut wheel, 0, 30)), (1, vec![(4, 1)]));
    }

    #[test]
    fn a_timer_that_is_taken_back_does_not_come_up() {
        let mut wheel = Wheel::new();
        let mut timers = [Timer::NONE; 4];
        for (key, timer) in timers.iter_mut().enumerate() {
            wheel.set(timer, key as u32, 3, 0);
        }
        wheel.cancel(&mut timers[2]);
        wheel.cancel(&mut timers[2]);
        wheel.cancel(&mut timers[0]);
        let mut seen = run(&mut wheel, 0, 5);
        seen.sort_unstable();
        assert_eq!(seen, [(3, 1), (3, 3)]);
    }

    #[test]
    fn a_wheel_that_was_empty_for_long_starts_from_now() {
        let (mut wheel, mut timer) = (Wheel::new(), Timer::NONE);
        assert_eq!(wheel.pop(5), None);
        wheel.set(&mut timer, 1, 1_000_003, 1_000_000);
        assert_eq!((wheel.pop(1_000_002), wheel.pop(1_000_003)), (None, Some(1)));
    }

    /// What is late is not lost: a worker that meets a few deadlines in a turn finds the others in the next.
    #[test]
    fn timers_that_are_late_come_up_one_after_the_other() {
        let mut wheel = Wheel::new();
        let mut timers = vec![Timer::NONE; 100];
        for (key, timer) in timers.iter_mut().enumerate() {
            wheel.set(timer, key as u32, key as u32 % 7, 0);
        }
        let seen: std::collections::BTreeSet<_> = (0..100).map(|_| wheel.pop(50).expect("a late timer")).collect();
        assert_eq!((seen.len(), wheel.pop(50)), (100, None));
    }
}
