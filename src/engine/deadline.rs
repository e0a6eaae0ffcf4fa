//! How long a connection may take for what it is doing: the rules, without a clock.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::protocol::Phase;
use crate::worker::Limits;

/// How far a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is not ending.
    No,
    /// The server stops: once all that has arrived is received, it is closed from our side.
    Leaving,
    /// Send what is queued, then close.
    Close,
    /// Send what is queued, shut down sending, discard input until the peer closes, then close. Closing with unread
    /// input would make the kernel send a reset, and that could overtake the Close frame (RFC 6455 7.1.1).
    Linger,
    /// The same, when sending has been shut down.
    Shut,
    /// Close as soon as the kernel has let go of everything.
    Abort,
}

impl Ending {
    /// Whether the connection goes on as before, for now.
    #[inline]
    pub fn is_open(self) -> bool {
        matches!(self, Ending::No | Ending::Leaving)
    }
}

/// What a connection's deadline asks for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// A Ping: half of the idle timeout is over.
    Ping,
    /// The closing handshake: the idle timeout is over.
    Close,
    /// The end, without another word.
    Abort,
}

/// Deadlines, in ticks of the worker's clock; `None`: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeouts {
    /// From the accept to the end of the request.
    pub handshake: Option<u32>,
    /// Without any input: at half of it a Ping, at the end Close 1001.
    pub idle: Option<u32>,
    /// From the decision to close, or from the last progress after it, to the close.
    pub close: Option<u32>,
}

impl Timeouts {
    /// What is due for a connection that has been in this state for `elapsed` ticks.
    pub fn due(&self, ending: Ending, phase: Phase, elapsed: u32) -> Due {
        let is_over = |limit: Option<u32>| limit.is_some_and(|limit| elapsed >= limit);
        match phase {
            Phase::Handshake if ending.is_open() && is_over(self.handshake) => Due::Abort,
            Phase::Open if ending.is_open() && is_over(self.idle) => Due::Close,
            Phase::Open if ending.is_open() && is_over(self.idle.map(|limit| limit.div_ceil(2))) => Due::Ping,
            Phase::Handshake | Phase::Open if ending.is_open() => Due::Nothing,
            _ if is_over(self.close) => Due::Abort,
            _ => Due::Nothing,
        }
    }
}

/// The clock that a worker's deadlines are counted with.
#[derive(Debug)]
pub struct Clock {
    /// Ticks that have begun since the start.
    ticks: Cell<u32>,
    /// When the next one begins.
    next: Cell<Instant>,
    tick: Duration,
}

impl Clock {
    /// An eighth of the shortest timeout is precise enough, and a quarter of a second is cheap enough.
    pub fn new(limits: &Limits) -> Self {
        let shortest =
            [limits.handshake_timeout, limits.idle_timeout, Some(limits.close_timeout)].into_iter().flatten();
        let tick = shortest.min().unwrap_or_default() / 8;
        Self {
            ticks: Cell::new(0),
            next: Cell::new(Instant::now()),
            tick: tick.clamp(Duration::from_millis(10), Duration::from_millis(250)),
        }
    }

    /// Between two looks at the deadlines.
    pub fn tick(&self) -> Duration {
        self.tick
    }

    /// Ticks that have begun since the start.
    #[inline]
    pub fn now(&self) -> u32 {
        self.at(Instant::now())
    }

    #[inline]
    fn at(&self, now: Instant) -> u32 {
        let next = self.next.get();
        if now >= next {
            // Once in many turns: a division for each of them shows in profiles.
            let passed = u32::try_from((now - next).as_nanos() / self.tick.as_nanos()).unwrap_or(u32::MAX - 1) + 1;
            self.ticks.set(self.ticks.get().saturating_add(passed));
            self.next.set(next + self.tick * passed);
        }
        self.ticks.get()
    }

    /// The limits in ticks. One more than they take: what has just begun has begun within a tick, and nothing is to end
    /// early.
    pub fn timeouts(&self, limits: &Limits) -> Timeouts {
        let ticks = |limit| self.ticks(limit).saturating_add(1);
        Timeouts {
            handshake: limits.handshake_timeout.map(ticks),
            idle: limits.idle_timeout.map(ticks),
            close: Some(ticks(limits.close_timeout)),
        }
    }

    fn ticks(&self, duration: Duration) -> u32 {
        u32::try_from(duration.as_nanos().div_ceil(self.tick.as_nanos())).unwrap_or(u32::MAX)
    }
}

/// Deadlines that may be met in a turn: thousands who have come together end together, and each end is work that
/// everybody else waits for.
const MET_MAX: usize = 8;

/// Where a sweep over a worker's connections goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    next: usize,
}

impl Sweep {
    /// Looks at the next `at_most` of `keys_used` keys; behind the last it begins anew. `check` says whether a deadline
    /// was met. Returns whether that is all for this tick; if not, too many were met, and the next turn is to go on.
    pub fn go_on(&mut self, keys_used: usize, at_most: usize, mut check: impl FnMut(usize) -> bool) -> bool {
        let end = keys_used.min(self.next + at_most);
        let mut met = 0;
        for key in self.next..end {
            if met == MET_MAX {
                self.next = key;
                return false;
            }
            met += usize::from(check(key));
        }
        self.next = if end >= keys_used { 0 } else { end };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts { handshake: Some(4), idle: Some(9), close: Some(2) };

    #[test]
    fn what_is_due_depends_on_what_is_waited_for() {
        let cases = [
            (Ending::No, Phase::Handshake, 3, Due::Nothing),
            (Ending::No, Phase::Handshake, 4, Due::Abort),
            (Ending::No, Phase::Open, 4, Due::Nothing),
            (Ending::No, Phase::Open, 5, Due::Ping),
            (Ending::No, Phase::Open, 8, Due::Ping),
            (Ending::No, Phase::Open, 9, Due::Close),
            (Ending::No, Phase::Closing, 1, Due::Nothing),
            (Ending::No, Phase::Closing, 2, Due::Abort),
            (Ending::Linger, Phase::Closed, 1, Due::Nothing),
            (Ending::Linger, Phase::Closed, 2, Due::Abort),
            (Ending::Close, Phase::Open, 2, Due::Abort),
        ];
        for (ending, phase, elapsed, due) in cases {
            assert_eq!(TIMEOUTS.due(ending, phase, elapsed), due, "{ending:?} {phase:?} {elapsed}");
        }
    }

    #[test]
    fn a_sweep_looks_at_everybody_in_slices_and_meets_only_so_many_at_once() {
        let mut sweep = Sweep::default();
        let mut seen = Vec::new();
        for _ in 0..3 {
            assert!(sweep.go_on(5, 2, |key| {
                seen.push(key);
                false
            }));
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);

        let due = 5 * MET_MAX / 2;
        let mut met = Vec::new();
        let mut is_done = false;
        for turn in 0..3 {
            assert!(!is_done, "in turn {turn}");
            is_done = sweep.go_on(due, 1000, |key| {
                met.push(key);
                true
            });
            assert_eq!(met.len(), due.min((turn + 1) * MET_MAX));
        }
        assert!(is_done);
        assert!(met.into_iter().eq(0..due));
    }

    #[test]
    fn without_limits_nothing_is_ever_due() {
        for phase in [Phase::Handshake, Phase::Open, Phase::Closing, Phase::Closed] {
            assert_eq!(Timeouts::default().due(Ending::No, phase, u32::MAX), Due::Nothing);
        }
    }

    fn limits(idle_timeout: Option<Duration>) -> Limits {
        Limits {
            handshake_timeout: None,
            idle_timeout,
            stall_timeout: None,
            close_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn a_clock_counts_every_tick_that_has_begun() {
        let clock = Clock::new(&limits(Some(Duration::from_millis(80))));
        let start = clock.next.get();
        let at = |ms| clock.at(start + Duration::from_millis(ms));
        assert_eq!([0, 1, 9, 10, 11, 19, 35, 35, 60, 60, 1041].map(at), [1, 1, 1, 2, 2, 2, 4, 4, 7, 7, 105]);
    }

    #[test]
    fn a_clock_is_fine_enough_for_the_shortest_limit() {
        let coarse = Clock::new(&limits(None));
        assert_eq!(coarse.tick(), Duration::from_millis(250));
        assert_eq!(coarse.timeouts(&limits(None)).close, Some(21));
        let fine = Clock::new(&limits(Some(Duration::from_millis(100))));
        assert_eq!(fine.tick(), Duration::from_micros(12_500));
        assert_eq!(fine.timeouts(&limits(Some(Duration::from_millis(100)))).idle, Some(9));
    }
}
