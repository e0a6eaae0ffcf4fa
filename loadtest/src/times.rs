//! The time from which the latency of each message in flight counts.
//!
//! It is kept in the session while at most one message is in flight, in a table of the thread if there are more, and not at
//! all in an open loop, where [`Schedule`] computes it.

use crate::scenario::{Scenario, Traffic};
use crate::schedule::{ClockIndex, Schedule};

/// Where one thread's times are. A session holds one `u64` of its own: [`NO_TIMES`] until its first timed message, then
/// a time, or the place of its times.
#[derive(Debug)]
pub struct SendTimes(Kind);

#[derive(Debug)]
enum Kind {
    /// One message in flight: the session's own `u64` is its time.
    Inline,
    /// Up to `depth` messages in flight: a block of the table, by sequence number.
    Table { depth: usize, table: Vec<u64>, free: Vec<u64> },
    /// Since when they were due.
    Due(Schedule),
}

/// A session has no times yet.
pub const NO_TIMES: u64 = u64::MAX;

impl SendTimes {
    /// For a closed loop with up to `depth` messages in flight on a connection.
    #[must_use]
    pub fn closed(depth: u32) -> Self {
        Self(match depth {
            1 => Kind::Inline,
            _ => Kind::Table { depth: depth as usize, table: Vec::new(), free: Vec::new() },
        })
    }

    /// For what a scenario sends.
    #[must_use]
    pub fn new(scenario: &Scenario, now_ns: u64) -> Self {
        match &scenario.traffic {
            Traffic { open: Some(open), .. } => Self(Kind::Due(match &scenario.plan.rate {
                Some(plan) => Schedule::planned(open, scenario.active, plan),
                None => Schedule::new(open, scenario.active, now_ns),
            })),
            traffic => Self::closed(traffic.depth),
        }
    }

    /// The schedule, if the loop is open.
    #[inline]
    pub fn schedule(&mut self) -> Option<&mut Schedule> {
        match &mut self.0 {
            Kind::Due(schedule) => Some(schedule),
            _ => None,
        }
    }

    /// Message `sequence` of connection `number` is sent. An open loop's session must have a clock.
    #[inline]
    pub fn sent(&mut self, own: &mut u64, number: u32, sequence: u32, now_ns: u64) {
        match &mut self.0 {
            Kind::Inline => *own = now_ns,
            Kind::Table { depth, table, free } => {
                if *own == NO_TIMES {
                    *own = free.pop().unwrap_or_else(|| {
                        table.resize(table.len() + *depth, 0);
                        (table.len() - *depth) as u64
                    });
                }
                table[*own as usize + sequence as usize % *depth] = now_ns;
            }
            Kind::Due(schedule) => schedule.sent(*own as ClockIndex, number),
        }
    }

    /// Message `sequence` of connection `number`, the oldest one, is settled: since when it has counted; `None` if that
    /// was not noted.
    #[inline]
    pub fn settled(&mut self, own: u64, number: u32, sequence: u32) -> Option<u64> {
        if own == NO_TIMES {
            return None;
        }
        Some(match &mut self.0 {
            Kind::Inline => own,
            Kind::Table { depth, table, .. } => table[own as usize + sequence as usize % *depth],
            Kind::Due(schedule) => schedule.settled(own as ClockIndex, number),
        })
    }

    /// The session is gone. Returns how many of its messages were due at `now_ns` and not sent.
    pub fn release(&mut self, own: u64, now_ns: u64) -> u64 {
        match &mut self.0 {
            _ if own == NO_TIMES => 0,
            Kind::Inline => 0,
            Kind::Table { free, .. } => {
                free.push(own);
                0
            }
            Kind::Due(schedule) => schedule.stop(own as ClockIndex, now_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_used_again() {
        let mut times = SendTimes::closed(3);
        let (mut first, mut second) = (NO_TIMES, NO_TIMES);
        for sequence in 0..3 {
            times.sent(&mut first, 1, sequence, u64::from(sequence) * 10);
        }
        times.sent(&mut second, 2, 0, 99);
        assert_eq!((0..3).map(|sequence| times.settled(first, 1, sequence).unwrap()).sum::<u64>(), 30);
        times.release(first, 0);
        let mut third = NO_TIMES;
        times.sent(&mut third, 3, 7, 5);
        assert_eq!((third, times.settled(second, 2, 0)), (first, Some(99)));
        assert_eq!(times.settled(NO_TIMES, 4, 0), None);
    }
}
