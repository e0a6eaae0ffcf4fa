//! A lazy timer wheel: timers come up at their time or before, and are then looked at and set again if they are too early.
//!
//! A timer cannot be taken back. One that is not needed any more comes up once, and costs no more than that; so sending and
//! acknowledging within the retransmission timeout never touches the wheel (see [`super::flight`]).

/// Nanoseconds of a tick, as a power of two: 8.4 ms, a twenty-fifth of the shortest timeout.
const TICK_BITS: u32 = 23;

/// Ticks in a turn of the wheel: 4.3 s. Timers beyond come up once a turn.
const SLOTS: u64 = 512;

/// All timers of a stack.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Box<[Vec<u32>]>,
    /// The tick that is looked at next. All timers are less than a turn behind it.
    cursor: u64,
    len: usize,
}

/// The first tick that begins at this time or later.
fn tick_from(at_ns: u64) -> u64 {
    (at_ns >> TICK_BITS) + 1
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), cursor: 0, len: 0 }
    }

    /// Sets a timer for `item`. Returns the tick at which it comes up, which may be before `at_ns`.
    pub(super) fn set(&mut self, item: u32, at_ns: u64, now_ns: u64) -> u64 {
        if self.len == 0 {
            self.cursor = self.cursor.max(now_ns >> TICK_BITS);
        }
        let tick = tick_from(at_ns).clamp(self.cursor, self.cursor + SLOTS - 1);
        self.slots[(tick % SLOTS) as usize].push(item);
        self.len += 1;
        tick
    }

    /// A timer that has come up: its item, and the tick that [`Wheel::set`] returned for it.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<(u32, u64)> {
        let now = now_ns >> TICK_BITS;
        if self.len == 0 {
            self.cursor = self.cursor.max(now);
            return None;
        }
        while self.cursor <= now {
            if let Some(item) = self.slots[(self.cursor % SLOTS) as usize].pop() {
                self.len -= 1;
                return Some((item, self.cursor));
            }
            if self.cursor == now {
                return None;
            }
            self.cursor += 1;
        }
        None
    }

    /// The tick of a timer for this time, if it were set now.
    pub(super) fn tick_of(at_ns: u64) -> u64 {
        tick_from(at_ns)
    }

    /// When the next timer comes up.
    pub(super) fn next_ns(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let mut ticks = self.cursor..self.cursor + SLOTS;
        let next = ticks.find(|tick| !self.slots[(tick % SLOTS) as usize].is_empty());
        next.map(|tick| tick << TICK_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 1 << TICK_BITS;

    #[test]
    fn timers_come_up_in_their_tick_and_not_before() {
        for start in [0, 7 * TICK + 3, 5_000 * TICK] {
            let mut wheel = Wheel::new();
            for after in [0, 1, TICK, 100 * TICK, (SLOTS - 2) * TICK] {
                let tick = wheel.set(9, start + after, start);
                assert_eq!(tick, Wheel::tick_of(start + after));
                assert_eq!(wheel.next_ns(), Some(tick * TICK));
                assert_eq!(wheel.pop(tick * TICK - 1), None);
                assert_eq!(wheel.pop(tick * TICK), Some((9, tick)));
                assert_eq!((wheel.pop(tick * TICK), wheel.next_ns()), (None, None));
            }
        }
    }

    #[test]
    fn a_timer_beyond_the_wheel_comes_up_once_a_turn() {
        let mut wheel = Wheel::new();
        let tick = wheel.set(1, 10 * SLOTS * TICK, 0);
        assert_eq!((tick, wheel.pop(u64::MAX)), (SLOTS - 1, Some((1, SLOTS - 1))));
    }

    #[test]
    fn all_that_are_late_come_up() {
        let mut wheel = Wheel::new();
        for item in 0..100 {
            wheel.set(item, u64::from(item) * TICK / 3, 0);
        }
        let mut seen: Vec<_> = std::iter::from_fn(|| wheel.pop(1_000 * TICK)).map(|(item, _)| item).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }
}
