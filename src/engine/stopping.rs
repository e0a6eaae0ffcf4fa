//! Graceful shutdown of a worker: notify all connections, drain, give up at the deadline.

use std::time::{Duration, Instant};

/// Connections notified per turn: bounds the time between two looks at the kernel.
pub const SLICE: usize = 2048;

/// The progress of a worker's graceful shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// It is not stopping.
    No,
    /// Notifying the connections, from this key on.
    Telling {
        /// The next key.
        from: usize,
        /// When the drain ends.
        until: Instant,
    },
    /// Waiting for the connections to end.
    Draining {
        /// When the drain ends.
        until: Instant,
    },
}

impl Stopping {
    /// Starts stopping, unless it has begun already.
    pub fn begin(&mut self, drain_timeout: Duration) {
        if *self == Stopping::No {
            let now = Instant::now();
            // A program that embeds the server may give any time: a hundred years are as good as one that cannot be told.
            let until = now.checked_add(drain_timeout).unwrap_or_else(|| now + Duration::from_secs(1 << 32));
            *self = Stopping::Telling { from: 0, until };
        }
    }

    /// Connections have arrived that were not notified yet.
    pub fn has_arrivals(&mut self) {
        if let Stopping::Draining { until } | Stopping::Telling { until, .. } = *self {
            *self = Stopping::Telling { from: 0, until };
        }
    }

    /// Continues: `tell` notifies some connections, from a key on, and returns the key to continue from. Returns whether the
    /// worker must go on.
    pub fn goes_on(&mut self, is_empty: bool, tell: impl FnOnce(usize) -> Option<usize>) -> bool {
        match *self {
            Stopping::No => true,
            Stopping::Telling { from, until } => {
                *self = match tell(from) {
                    Some(from) => Stopping::Telling { from, until },
                    None => Stopping::Draining { until },
                };
                true
            }
            Stopping::Draining { until } => !is_empty && Instant::now() < until,
        }
    }

    /// Maximum time to wait for events; `None`: unlimited. `needs_tick`: some connection has a deadline.
    pub fn patience(&self, tick: Duration, needs_tick: bool) -> Option<Duration> {
        match *self {
            Stopping::Telling { .. } => Some(Duration::ZERO),
            Stopping::Draining { until } => Some(until.saturating_duration_since(Instant::now()).min(tick)),
            Stopping::No => needs_tick.then_some(tick),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    #[test]
    fn everybody_is_told_then_waited_for() {
        let mut stopping = Stopping::No;
        assert!(stopping.goes_on(true, |_| unreachable!("there is no connection to tell")));
        assert_eq!((stopping.patience(TICK, false), stopping.patience(TICK, true)), (None, Some(TICK)));

        stopping.begin(Duration::from_secs(3600));
        assert_eq!(stopping.patience(TICK, false), Some(Duration::ZERO));
        assert!(stopping.goes_on(false, |from| (from == 0).then_some(7)));
        stopping.begin(Duration::ZERO); // has begun: changes nothing
        assert!(stopping.goes_on(false, |from| (from != 7).then_some(0)));
        assert_eq!(stopping.patience(TICK, false), Some(TICK));
        assert!(stopping.goes_on(false, |_| unreachable!("all have been told")));

        stopping.has_arrivals();
        assert!(stopping.goes_on(false, |from| (from != 0).then_some(0)));
        assert!(!stopping.goes_on(true, |_| unreachable!()));
    }

    #[test]
    fn the_drain_ends_with_its_timeout() {
        let mut stopping = Stopping::No;
        stopping.begin(Duration::ZERO);
        assert!(stopping.goes_on(false, |_| None));
        assert!(!stopping.goes_on(false, |_| None));
    }
}
