//! Connect pacing: when the next connection attempt may begin.

/// Paces connection attempts: at most so many a second, at most so many at a time.
///
/// Time is an argument, in nanoseconds since any fixed moment.
#[derive(Clone, Copy, Debug)]
pub struct ConnectPacing {
    /// Nanoseconds from one attempt to the next; 0 without a limit.
    interval_ns: u64,
    /// Handshakes that may be in flight.
    window: u32,
    /// When pacing began.
    started_ns: u64,
}

impl ConnectPacing {
    /// At most `rate` attempts a second (0: no limit) and `window` at a time, from `now_ns` on.
    #[must_use]
    pub fn new(rate: f64, window: u32, now_ns: u64) -> Self {
        let interval_ns = if rate > 0.0 { (1e9 / rate) as u64 } else { 0 };
        Self { interval_ns, window: window.max(1), started_ns: now_ns }
    }

    /// The number of attempts that may begin at `now_ns`, when `begun` have begun in total and `in_flight` are in progress.
    ///
    /// Attempts that the window held up are made up for afterwards: the rate is that of the whole ramp.
    #[must_use]
    pub fn allowance(&self, now_ns: u64, begun: u32, in_flight: u32) -> u32 {
        let room = self.window.saturating_sub(in_flight);
        match (now_ns - self.started_ns).checked_div(self.interval_ns) {
            Some(intervals) => room.min((intervals as u32).saturating_add(1).saturating_sub(begun)),
            None => room,
        }
    }

    /// When the rate allows attempt number `begun` (from 0); `None` if nothing but the window can hold it up.
    #[must_use]
    pub fn due_ns(&self, begun: u32) -> Option<u64> {
        (self.interval_ns > 0).then(|| self.started_ns + u64::from(begun) * self.interval_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_the_whole_ramp() {
        let pacing = ConnectPacing::new(1000.0, 10, 5_000_000);
        assert_eq!(pacing.allowance(5_000_000, 0, 0), 1);
        assert_eq!(pacing.allowance(5_000_000, 1, 1), 0);
        assert_eq!(pacing.due_ns(1), Some(6_000_000));
        assert_eq!(pacing.allowance(6_000_000, 1, 1), 1);
        assert_eq!(pacing.allowance(9_000_000, 1, 1), 4, "late attempts are made up for");
    }

    #[test]
    fn the_window_is_never_exceeded() {
        let pacing = ConnectPacing::new(0.0, 10, 0);
        assert_eq!(pacing.allowance(0, 0, 0), 10);
        assert_eq!(pacing.allowance(1_000, 100, 8), 2);
        assert_eq!(pacing.allowance(1_000, 100, 10), 0);
        assert_eq!(pacing.due_ns(3), None);
    }
}
