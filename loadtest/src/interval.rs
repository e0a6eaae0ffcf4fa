//! Live latencies: recorded by one thread, read by the main thread once a second.
//!
//! Neither side waits for the other: the owner increments counters of its own, and a reader takes the growth of each bucket
//! since its last read. The buckets are those of an `HdrHistogram` with two significant digits, so converting to one loses
//! nothing.

use std::sync::atomic::{AtomicU32, Ordering};

use hdrhistogram::Histogram;

/// Buckets of each power of two: enough for two significant digits.
const PER_OCTAVE: usize = 128;
const PER_OCTAVE_BITS: u32 = PER_OCTAVE.trailing_zeros();

/// Latencies above this are recorded as this, in nanoseconds: a bit above ten minutes.
const MAX_NS: u64 = (1 << 40) - 1;

/// The number of buckets up to [`MAX_NS`].
const BUCKETS: usize = bucket(MAX_NS) + 1;

/// A histogram for one second, or several of them together.
pub type IntervalHistogram = Histogram<u64>;

/// An empty histogram for one second.
#[must_use]
pub fn interval_histogram() -> IntervalHistogram {
    Histogram::new_with_bounds(1, MAX_NS, 2).expect("valid bounds")
}

/// The bucket of a latency. Below 2 x [`PER_OCTAVE`] each has its own; above, the leading bits count.
const fn bucket(ns: u64) -> usize {
    let shift = (u64::BITS - 1 - (ns | 1).leading_zeros()).saturating_sub(PER_OCTAVE_BITS);
    shift as usize * PER_OCTAVE + (ns >> shift) as usize
}

/// The smallest latency in a bucket.
const fn lowest(bucket: usize) -> u64 {
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    ((bucket - shift * PER_OCTAVE) as u64) << shift
}

/// One thread's latencies since it began. Only the owner writes; counts wrap around.
#[derive(Debug)]
pub struct LiveLatencies(Box<[AtomicU32]>);

impl Default for LiveLatencies {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl LiveLatencies {
    /// Records one echo. Call it on the owning thread only: two plain accesses, no read-modify-write.
    #[inline]
    pub fn record(&self, latency_ns: u64) {
        let bucket = &self.0[bucket(latency_ns.min(MAX_NS))];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// Reads several threads' latencies again and again.
#[derive(Debug, Default)]
pub struct LiveReader(Vec<Vec<u32>>);

impl LiveReader {
    /// The records of all threads since the last call. They come in the same order each time.
    pub fn take<'a>(&mut self, threads: impl Iterator<Item = &'a LiveLatencies>) -> IntervalHistogram {
        let mut histogram = interval_histogram();
        for (index, thread) in threads.enumerate() {
            if self.0.len() == index {
                self.0.push(vec![0; BUCKETS]);
            }
            for (bucket, (seen, shown)) in self.0[index].iter_mut().zip(&thread.0).enumerate() {
                let now = shown.load(Ordering::Relaxed);
                let new = now.wrapping_sub(*seen);
                if new > 0 {
                    *seen = now;
                    histogram.saturating_record_n(lowest(bucket), u64::from(new));
                }
            }
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_the_histogram() {
        let histogram = interval_histogram();
        for ns in (0..5000).chain((12..40).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (3 << bits) / 2 + 7])) {
            let low = lowest(bucket(ns));
            assert_eq!(low, histogram.lowest_equivalent(ns), "{ns}");
            assert_eq!(bucket(low), bucket(ns));
        }
    }

    #[test]
    fn a_reader_gets_what_is_new_of_all_threads() {
        let threads = [LiveLatencies::default(), LiveLatencies::default()];
        let mut reader = LiveReader::default();
        threads[0].record(1_000);
        threads[1].record(2_000_000);
        threads[1].record(u64::MAX);
        let first = reader.take(threads.iter());
        assert_eq!((first.len(), first.value_at_quantile(0.01)), (3, 1_003));
        assert!(first.max() >= MAX_NS / 100 * 99);
        threads[0].record(5);
        let second = reader.take(threads.iter());
        assert_eq!((second.len(), second.max()), (1, 5));
        assert_eq!(reader.take(threads.iter()).len(), 0);
    }
}
