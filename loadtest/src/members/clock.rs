//! The offset of the conductor's clock from this one, and its error bound: a ping makes a round trip, and the conductor
//! reads its clock somewhere in between. Monotonic clocks on both sides; no NTP is needed.

use std::collections::VecDeque;

/// Number of remembered round trips: about the last ten seconds.
const KEPT: usize = 64;

/// Maximum drift of two clocks: crystals are accurate to 50 ppm each. The error bound of an old round trip grows with
/// it.
const DRIFT_PPM: u64 = 100;

/// The measured offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// The conductor's clock minus this one.
    pub ns: i64,
    /// The error bound, in either direction.
    pub bound_ns: u64,
    /// The round trip behind this measurement.
    pub round_trip_ns: u64,
}

impl Offset {
    /// Converts a time of the conductor's clock to this one.
    #[must_use]
    pub fn own_ns(&self, conductor_ns: u64) -> u64 {
        conductor_ns.saturating_add_signed(self.ns.saturating_neg())
    }

    /// Converts a time of this clock to the conductor's.
    #[must_use]
    pub fn conductor_ns(&self, own_ns: u64) -> u64 {
        own_ns.saturating_add_signed(self.ns)
    }
}

/// Estimates the offset from round trips.
#[derive(Debug, Default)]
pub struct OffsetMeter(VecDeque<Trip>);

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units are last in names")]
struct Trip {
    offset_ns: i64,
    round_trip_ns: u64,
    /// When the pong arrived.
    at_ns: u64,
}

impl Trip {
    fn bound_ns(&self, now_ns: u64) -> u64 {
        self.round_trip_ns.div_ceil(2) + now_ns.saturating_sub(self.at_ns) * DRIFT_PPM / 1_000_000
    }
}

impl OffsetMeter {
    /// Records a ping sent at `sent_ns` whose pong arrived at `now_ns`; the conductor's clock read `conductor_ns`.
    pub fn note(&mut self, sent_ns: u64, conductor_ns: u64, now_ns: u64) {
        let round_trip_ns = now_ns.saturating_sub(sent_ns);
        let middle_ns = sent_ns + round_trip_ns / 2;
        let offset_ns = conductor_ns.wrapping_sub(middle_ns).cast_signed();
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Trip { offset_ns, round_trip_ns, at_ns: now_ns });
    }

    /// The best estimate at `now_ns`; `None` before the first round trip.
    #[must_use]
    pub fn best(&self, now_ns: u64) -> Option<Offset> {
        let best = self.0.iter().min_by_key(|trip| trip.bound_ns(now_ns))?;
        Some(Offset { ns: best.offset_ns, bound_ns: best.bound_ns(now_ns), round_trip_ns: best.round_trip_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SplitMix;

    #[test]
    fn the_true_offset_is_within_the_bound_whatever_the_delays_are() {
        for seed in 0..200 {
            let mut random = SplitMix(seed);
            let mut below = |limit: u64| random.next() % limit;
            // The conductor's clock started up to an hour before or after this one, and runs up to 80 ppm faster or
            // slower.
            let (ahead_ns, drift) =
                (below(7_200_000_000_000).cast_signed() - 3_600_000_000_000, below(161) as f64 - 80.0);
            let conductor = |own_ns: u64| {
                let drifted_ns = (own_ns as f64 * drift / 1e6) as i64;
                own_ns.saturating_add_signed(ahead_ns + drifted_ns)
            };
            let mut meter = OffsetMeter::default();
            let mut now_ns = 4_000_000_000_000;
            assert_eq!(meter.best(now_ns), None);
            for _ in 0..100 {
                let (there_ns, back_ns) = (below(3_000_000), below(if seed % 2 == 0 { 3_000_000 } else { 50_000 }));
                meter.note(now_ns, conductor(now_ns + there_ns), now_ns + there_ns + back_ns);
                now_ns += there_ns + back_ns + below(200_000_000);
                let offset = meter.best(now_ns).unwrap();
                let error_ns = offset.conductor_ns(now_ns).abs_diff(conductor(now_ns));
                assert!(error_ns <= offset.bound_ns + 2, "seed {seed}: {error_ns} > {}", offset.bound_ns);
                assert_eq!(offset.own_ns(offset.conductor_ns(now_ns)), now_ns);
            }
        }
    }

    #[test]
    fn the_shortest_round_trip_counts_until_it_is_old() {
        let mut meter = OffsetMeter::default();
        meter.note(1_000_000, 5_050_000, 1_100_000);
        meter.note(2_000_000, 9_000_000, 4_000_000);
        let offset = meter.best(4_000_000).unwrap();
        assert_eq!((offset.ns, offset.round_trip_ns), (4_000_000, 100_000));
        assert_eq!(meter.best(20_000_000_000).unwrap().bound_ns, 50_000 + 1_999_890);
    }
}
