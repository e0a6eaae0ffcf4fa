//! The clock that a worker's deadlines are counted with.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::{STALL_TICKS, Timeouts};
use crate::worker::{Counters, Limits};

/// The clock that a worker's deadlines are counted with.
#[derive(Debug)]
pub(super) struct Clock {
    /// Ticks that have begun since the start.
    ticks: Cell<u32>,
    /// When the next one begins.
    next: Cell<Instant>,
    tick: Duration,
    /// Connections whose events a turn handles, if more have some.
    seen_per_turn: u32,
    /// Turns still needed to handle everything that happened during a stall.
    turns_behind: Cell<u32>,
}

impl Clock {
    /// An eighth of the shortest timeout is precise enough, and a quarter of a second is cheap enough. `seen_per_turn`: the
    /// least number of connections whose events a turn handles, if all have some.
    pub(super) fn new(limits: &Limits, seen_per_turn: u32) -> Self {
        let shortest =
            [limits.handshake_timeout, limits.idle_timeout, Some(limits.close_timeout)].into_iter().flatten();
        let tick = shortest.min().filter(|_| !limits.has_fine_ticks).unwrap_or_default() / 8;
        Self {
            ticks: Cell::new(0),
            next: Cell::new(Instant::now()),
            tick: tick.clamp(Duration::from_millis(10), Duration::from_millis(250)),
            seen_per_turn,
            turns_behind: Cell::new(0),
        }
    }

    /// The length of a tick.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// Whether a connection may have events from a stall that no turn has handled yet: then no deadline is met, since it may
    /// have waited for these.
    pub(super) fn is_behind(&self) -> bool {
        self.turns_behind.get() > 0
    }

    /// Advances the clock, once a turn. `is_counted`: some deadline has run since the last call; `open`: connections.
    #[inline]
    pub(super) fn advance(&self, now: Instant, is_counted: bool, open: usize) -> u32 {
        let turns_behind = self.turns_behind.get();
        self.turns_behind.set(turns_behind.saturating_sub(1));
        if now >= self.next.get() {
            // Successive stalls must not postpone deadlines for ever.
            let has_stalled = self.pass(now, is_counted);
            if has_stalled && turns_behind == 0 {
                self.turns_behind.set(open as u32 / self.seen_per_turn);
            }
        }
        self.ticks.get()
    }

    /// Called once in many turns: a division in each of them shows in profiles. Returns whether it was a stall.
    #[cold]
    fn pass(&self, now: Instant, is_counted: bool) -> bool {
        let passed = (now - self.next.get()).as_nanos() / self.tick.as_nanos() + 1;
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let has_stalled = is_counted && passed > STALL_TICKS;
        if has_stalled {
            self.ticks.set(self.ticks.get().wrapping_add(STALL_TICKS));
            self.next.set(now + self.tick);
        } else {
            self.ticks.set(self.ticks.get().wrapping_add(passed));
            self.next.set(self.next.get() + self.tick * passed);
        }
        has_stalled
    }

    /// The limits in ticks, plus one: they begin within a tick, and must not end early.
    pub(super) fn timeouts(&self, limits: &Limits) -> Timeouts {
        let ticks = |limit| self.in_ticks(limit).saturating_add(1);
        Timeouts {
            handshake: limits.handshake_timeout.map(ticks),
            idle: limits.idle_timeout.map(ticks),
            stall: limits.stall_timeout.map(ticks),
            close: Some(ticks(limits.close_timeout)),
            tick_us: self.tick.as_micros() as u32,
        }
    }

    fn in_ticks(&self, duration: Duration) -> u32 {
        // Ticks wrap around: half of their range is the longest that can be told apart.
        u32::try_from(duration.as_nanos().div_ceil(self.tick.as_nanos())).unwrap_or(u32::MAX).min(u32::MAX / 4)
    }
}

/// A turn with at least this many events is measured: reading the clock costs some 20 ns, and eight echoes a thousand times
/// that.
const MEASURED_FROM: usize = 8;
/// Of turns with fewer events, one in this many is measured.
const MEASURED_ONE_IN: u8 = 16;

/// Measures the length of turns of a worker's loop.
pub(super) struct TurnTimer {
    counters: Arc<Counters>,
    unmeasured: u8,
}

impl TurnTimer {
    pub(super) fn new(counters: &Arc<Counters>) -> Self {
        Self { counters: Arc::clone(counters), unmeasured: 0 }
    }

    /// Ends a turn that began at this time and has handled this many events.
    #[inline]
    pub(super) fn end(&mut self, began: Instant, events: usize) {
        self.unmeasured += 1;
        if events >= MEASURED_FROM || self.unmeasured >= MEASURED_ONE_IN {
            self.unmeasured = 0;
            self.counters.turn_took(began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(idle_timeout: Option<Duration>) -> Limits {
        Limits {
            handshake_timeout: None,
            idle_timeout,
            stall_timeout: None,
            close_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(1),
            has_fine_ticks: false,
        }
    }

    #[test]
    fn a_clock_counts_every_tick_that_has_begun() {
        let clock = Clock::new(&limits(Some(Duration::from_millis(80))), 100);
        let start = clock.next.get();
        let at = |ms| clock.advance(start + Duration::from_millis(ms), false, 1);
        assert_eq!([0, 1, 9, 10, 11, 19, 35, 35, 60, 60, 1041].map(at), [1, 1, 1, 2, 2, 2, 4, 4, 7, 7, 105]);
    }

    /// SIGSTOP, a suspended machine, a throttled cgroup: the peers' bytes may lie in the sockets already.
    #[test]
    fn a_stall_counts_as_two_ticks() {
        let clock = Clock::new(&limits(Some(Duration::from_millis(80))), 100);
        let start = clock.next.get();
        let at = |ms| clock.advance(start + Duration::from_millis(ms), true, 1);
        assert_eq!([0, 10, 25, 10_000, 10_001, 10_010, 10_020, 20_000].map(at), [1, 2, 3, 5, 5, 6, 7, 9]);
        assert!(!clock.is_behind(), "one turn sees what has happened to one connection");
    }

    /// More may have happened meanwhile than a turn sees.
    #[test]
    fn after_a_stall_deadlines_wait_for_the_turns_that_see_all() {
        let clock = Clock::new(&limits(Some(Duration::from_millis(80))), 100);
        let start = clock.next.get();
        let mut at = 0;
        let mut is_behind = |passed| {
            at += passed;
            clock.advance(start + Duration::from_millis(at), true, 350);
            clock.is_behind()
        };
        assert_eq!([0, 10, 1000, 1, 1, 1, 10].map(&mut is_behind), [false, false, true, true, true, false, false]);
        // Where each turn is a stall, some turns meet deadlines all the same.
        assert_eq!([1000; 8].map(&mut is_behind), [true, true, true, false, true, true, true, false]);
    }

    #[test]
    fn a_clock_is_fine_enough_for_the_shortest_limit() {
        let coarse = Clock::new(&limits(None), 100);
        assert_eq!(coarse.tick(), Duration::from_millis(250));
        assert_eq!(coarse.timeouts(&limits(None)).close, Some(21));
        let fine = Clock::new(&limits(Some(Duration::from_millis(100))), 100);
        assert_eq!(fine.tick(), Duration::from_micros(12_500));
        let finest = Clock::new(&Limits { has_fine_ticks: true, ..limits(None) }, 100);
        assert_eq!(finest.tick(), Duration::from_millis(10));
        assert_eq!(fine.timeouts(&limits(Some(Duration::from_millis(100)))).idle, Some(9));
    }
}
