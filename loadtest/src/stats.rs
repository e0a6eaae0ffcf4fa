//! Counters of a run. Each thread has its own; other threads see copies, which are added up at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use crate::ends::{Cause, EarlyEnd, EarlyEnds, Failures};
use crate::interval::LiveLatencies;
use crate::stack;
use crate::websocket::handshake::Refusal;

/// Latencies above this are recorded as this, in nanoseconds.
const MAX_LATENCY_NS: u64 = 600 * 1_000_000_000;

/// What is counted. Each message that was sent ends as exactly one of `Echoed`, `Reordered`, `Corrupted`, `Late`, `Lost` and
/// `Unawaited`; what came back beside that is `Duplicated`, `Unexpected`, `Pushed` or one of the `Welcomes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Connections that were begun.
    Attempted,
    /// Connections whose upgrade succeeded.
    Opened,
    /// Those of them with negotiated compression.
    Deflating,
    /// Attempts that have come to their end: ready for messages, or failed.
    Settled,
    /// Attempts that failed; [`Failures`] knows why.
    Failed,
    /// Attempts that became connections ready for messages.
    Ready,
    /// Connections that were not even tried, because a whole window of attempts had failed and none had succeeded.
    Untried,
    /// Opened connections that are no longer open.
    Ended,
    /// Opened connections that the server closed or reset before it was told to.
    ClosedEarly,
    /// Opened connections that were given up because the server broke the protocol.
    Violations,
    /// Close frames sent at the end of the run.
    ClosesSent,
    /// Closing handshakes that the server completed.
    ClosesAnswered,
    /// Connections whose TCP connection this side ended, because the server had not a second after both Closes.
    Lingered,
    /// TLS connections that the server ended without a `close_notify`.
    NoCloseNotify,
    /// Connections that were given up because the server did not answer the Close.
    CloseTimeouts,
    /// Connections that were closed because the plan wanted fewer.
    Retired,
    /// Messages sent.
    Sent,
    /// Messages that came back as they were, in their turn.
    Echoed,
    /// Those of them that were greetings: they belong to connecting, not to the load.
    Greetings,
    /// Messages that came back as they were, but behind one that was sent later.
    Reordered,
    /// Messages that came back changed.
    Corrupted,
    /// Messages that came back when this side had already sent its Close.
    Late,
    /// Messages that did not come back.
    Lost,
    /// Messages that came back once more.
    Duplicated,
    /// Messages that this side never sent.
    Unexpected,
    /// Messages sent that were compressed.
    CompressedSent,
    /// Messages from the server that were compressed.
    CompressedReceived,
    /// Bytes of frames sent, with their headers; without frames, of messages.
    WireSent,
    /// The same for received bytes.
    WireReceived,
    /// Messages whose answers are not awaited.
    Unawaited,
    /// Messages of the server's own accord, where no echoes are expected.
    Pushed,
    /// Messages with which the server began, as it was expected to.
    Welcomes,
    /// Messages of an open loop that were due and not sent when sending ended.
    Unsent,
    /// Echoes within the measured time; in an open loop, echoes of messages that were due in it.
    MeasuredEchoes,
    /// Messages of an open loop that were due within the measured time, sent or not: what was offered.
    MeasuredDue,
    /// The server's pings that were answered.
    Pings,
    /// This side's pings.
    PingsSent,
    /// The server's pongs.
    Pongs,
    /// Those of them that answer no Ping: with other bytes, or repeated. RFC 6455 allows them, but they are rarely intended.
    PongsUnasked,
    /// This side's pings that may still be answered.
    PingsAwaited,
    /// This side's pings that were never answered, though neither was a later one on the same connection.
    PingsUnanswered,
    /// Connections that were closed in order to be opened again.
    Recycled,
    /// Messages sent by slow readers, whose echoes are not read.
    SlowSent,
    /// Slow readers that the server cut off, as it may.
    SlowEnded,
    /// Threads that have sent their share of `--messages` and have it back.
    QuotaMet,
}

/// The number of counters.
pub const COUNTERS: usize = Counter::QuotaMet as usize + 1;

/// The values of all counters at one time. Members tell each other, whose versions are the same, so the order of counters is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<u64>", try_from = "Vec<u64>")]
pub struct Counts([u64; COUNTERS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; COUNTERS])
    }
}

impl From<Counts> for Vec<u64> {
    fn from(counts: Counts) -> Self {
        counts.0.to_vec()
    }
}

impl TryFrom<Vec<u64>> for Counts {
    type Error = &'static str;

    fn try_from(values: Vec<u64>) -> Result<Self, Self::Error> {
        values.try_into().map(Self).map_err(|_| "counters of another version")
    }
}

impl std::ops::Index<Counter> for Counts {
    type Output = u64;

    #[inline]
    fn index(&self, counter: Counter) -> &u64 {
        &self.0[counter as usize]
    }
}

impl std::ops::IndexMut<Counter> for Counts {
    #[inline]
    fn index_mut(&mut self, counter: Counter) -> &mut u64 {
        &mut self.0[counter as usize]
    }
}

impl Counts {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self[Counter::Opened] - self[Counter::Ended]
    }

    /// Whether none of the `requested` connections is open, and none is going to be opened again.
    #[must_use]
    pub fn are_all_gone(&self, requested: u64) -> bool {
        let is_nobody_coming = self[Counter::Settled] == self[Counter::Attempted]
            && self[Counter::Attempted] + self[Counter::Untried] == requested + self[Counter::Recycled];
        self.open() == 0 && is_nobody_coming
    }

    /// Messages that have come back as they were, without those that greet; those that were sent, where nothing is to
    /// come back.
    #[must_use]
    pub fn load(&self) -> u64 {
        self[Counter::Echoed].saturating_sub(self[Counter::Greetings]) + self[Counter::Unawaited]
    }

    /// Messages whose echo is still to come.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        use Counter::{Corrupted, Echoed, Late, Lost, Reordered, Unawaited};
        let settled: u64 = [Echoed, Reordered, Corrupted, Late, Lost, Unawaited].iter().map(|&end| self[end]).sum();
        // A reader may meet the owner half-way.
        self[Counter::Sent].saturating_sub(settled)
    }

    /// The number of faults: connections and messages.
    #[must_use]
    pub fn errors(&self) -> u64 {
        use Counter::{ClosedEarly, Corrupted, Duplicated, Failed, Late, Lost, Reordered, Unexpected, Violations};
        let faults = [Failed, ClosedEarly, Violations, Reordered, Corrupted, Late, Lost, Duplicated, Unexpected];
        faults.iter().map(|&bad| self[bad]).sum()
    }

    /// Whether nothing went wrong.
    #[must_use]
    pub fn are_clean(&self) -> bool {
        self.errors() == 0
    }
}

/// One thread's counts, where others can read them. Only the owner writes, so plain stores are enough; the alignment
/// keeps one thread's stores out of another's cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct PublishedCounts([AtomicU64; COUNTERS]);

impl Default for PublishedCounts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; COUNTERS])
    }
}

impl PublishedCounts {
    /// Shows the owner's counts to everybody.
    #[inline]
    pub fn publish(&self, counts: &Counts) {
        for (shown, value) in self.0.iter().zip(counts.0) {
            shown.store(value, Ordering::Relaxed);
        }
    }

    /// The counts last published. A reader may meet the owner half-way: single values are right, sums may be off by
    /// what one loop turn adds.
    #[must_use]
    pub fn read(&self) -> Counts {
        let mut counts = Counts::default();
        for (value, shown) in counts.0.iter_mut().zip(&self.0) {
            *value = shown.load(Ordering::Relaxed);
        }
        counts
    }
}

/// Latencies of echoes in nanoseconds, to three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("valid bounds"))
    }
}

impl Latencies {
    /// Records one echo.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Adds another thread's latencies.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// The latency that `percent` of the echoes did not exceed; `None` if there were no echoes.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.value_at_percentile(percent)))
    }

    /// The highest latency, to the histogram's precision.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.max()))
    }

    /// The mean latency.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_nanos(self.0.mean() as u64))
    }

    /// The number of recorded echoes.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// All of them, in nanoseconds.
    #[must_use]
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// Which echoes count as measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measuring {
    /// None.
    #[default]
    Off,
    /// Closed loop: those that arrive now.
    ByArrival,
    /// Open loop: those whose message was due in this time, whenever they arrive. Otherwise a server that stalls at the
    /// end would be measured without its slowest echoes.
    ByDue {
        /// From here.
        from_ns: u64,
        /// To before here.
        until_ns: u64,
    },
}

impl Measuring {
    #[inline]
    fn counts(self, since_ns: Option<u64>) -> bool {
        match self {
            Self::Off => false,
            Self::ByArrival => true,
            Self::ByDue { from_ns, until_ns } => {
                since_ns.is_some_and(|since_ns| (from_ns..until_ns).contains(&since_ns))
            }
        }
    }

    /// Measured time begins at `now_ns`.
    pub fn begin(&mut self, now_ns: u64, by_due: bool) {
        *self = if by_due { Self::ByDue { from_ns: now_ns, until_ns: u64::MAX } } else { Self::ByArrival };
    }

    /// Measured time ends at `now_ns`.
    pub fn end(&mut self, now_ns: u64) {
        match self {
            Self::ByDue { until_ns, .. } => *until_ns = now_ns.min(*until_ns),
            Self::ByArrival => *self = Self::Off,
            Self::Off => {}
        }
    }

    /// Whether measured time goes on.
    #[must_use]
    pub fn is_on(self) -> bool {
        matches!(self, Self::ByArrival | Self::ByDue { until_ns: u64::MAX, .. })
    }
}

/// Everything that one thread counts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The counters.
    pub counts: Counts,
    /// Failed attempts by cause and address.
    pub failures: Failures,
    /// Attempts that went on to a name's next address, by what was wrong with the one before.
    pub detours: Failures,
    /// The server's explanation of each status other than 101: the first one.
    pub refusals: BTreeMap<u16, Refusal>,
    /// How the server ended connections early.
    pub early_ends: EarlyEnds,
    /// Protocol violations by their description.
    pub violations: BTreeMap<String, u64>,
    /// Latencies within the measured time: from sending in a closed loop, from being due in an open one.
    pub latencies: Latencies,
    /// How late this side was to notice that a message of an open loop was due: of the messages whose latencies are
    /// measured, so that both can be compared.
    pub lag: Latencies,
    /// From the beginning of an attempt to a connection that is ready.
    pub connects: Latencies,
    /// From a ping to its pong, at any time.
    pub pings: Latencies,
    /// Latencies at any time, for the conductor to look at while the run goes on.
    pub live: Arc<LiveLatencies>,
    /// Which echoes count as measured just now.
    pub measuring: Measuring,
    /// What a TCP of our own has met.
    pub segments: stack::Counters,
}

impl Tally {
    /// Counts one more.
    #[inline]
    pub fn count(&mut self, counter: Counter) {
        self.counts[counter] += 1;
    }

    /// Counts an attempt that failed at the address of this number.
    pub fn fail(&mut self, cause: Cause, address: usize) {
        self.count(Counter::Failed);
        self.count(Counter::Settled);
        *self.failures.entry((cause, address)).or_default() += 1;
    }

    /// Counts an attempt that was refused.
    pub fn refuse(&mut self, refusal: Refusal, address: usize) {
        self.fail(Cause::Status(refusal.status), address);
        self.refusals.entry(refusal.status).or_insert(refusal);
    }

    /// The server's explanation of this failure, if any: the first one.
    #[must_use]
    pub fn said(&self, cause: Cause) -> Option<String> {
        let Cause::Status(status) = cause else { return None };
        self.refusals.get(&status).map(ToString::to_string).filter(|said| !said.is_empty())
    }

    /// Counts an attempt that goes on to another address.
    pub fn detour(&mut self, cause: Cause, address: usize) {
        *self.detours.entry((cause, address)).or_default() += 1;
    }

    /// Counts a connection that the server ended before it was told to.
    pub fn closed_early(&mut self, end: EarlyEnd) {
        self.count(Counter::ClosedEarly);
        self.early_ends.count(end, 1);
    }

    /// Counts a good echo as `end`. Its latency is unknown if it was not noted since when the message has counted.
    #[inline]
    pub fn echo(&mut self, end: Counter, since_ns: Option<u64>, now_ns: u64) {
        self.count(end);
        match since_ns {
            Some(since_ns) => self.live.record(now_ns.saturating_sub(since_ns)),
            None => self.count(Counter::Greetings),
        }
        if self.measuring.counts(since_ns) {
            self.count(Counter::MeasuredEchoes);
            if let Some(since_ns) = since_ns {
                self.latencies.record(now_ns.saturating_sub(since_ns));
            }
        }
    }

    /// Counts a message that was sent and is not to be answered.
    #[inline]
    pub fn unawaited(&mut self, since_ns: Option<u64>) {
        self.count(Counter::Unawaited);
        if self.measuring.counts(since_ns) {
            self.count(Counter::MeasuredEchoes);
        }
    }

    /// A message of an open loop is sent that was due at `due_ns`, and this side is to blame for `lag_ns` of its lateness.
    /// Those whose lag counts are those whose latency will.
    #[inline]
    pub fn sent_due(&mut self, due_ns: u64, lag_ns: u64) {
        if self.measuring.counts(Some(due_ns)) {
            self.count(Counter::MeasuredDue);
            self.lag.record(lag_ns);
        }
    }

    /// Since when messages of an open loop have counted as measured.
    #[must_use]
    pub fn measured_from_ns(&self) -> Option<u64> {
        match self.measuring {
            Measuring::ByDue { from_ns, .. } => Some(from_ns),
            Measuring::Off | Measuring::ByArrival => None,
        }
    }

    /// Adds another thread's tally.
    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.latencies.add(&other.latencies);
        self.lag.add(&other.lag);
        self.connects.add(&other.connects);
        self.pings.add(&other.pings);
        for (mine, theirs) in [(&mut self.failures, &other.failures), (&mut self.detours, &other.detours)] {
            for (&key, count) in theirs {
                *mine.entry(key).or_default() += count;
            }
        }
        for (&status, refusal) in &other.refusals {
            self.refusals.entry(status).or_insert_with(|| refusal.clone());
        }
        self.early_ends.add(&other.early_ends);
        self.segments.add(&other.segments);
        for (violation, count) in &other.violations {
            *self.violations.entry(violation.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_latencies_are_those_of_all_threads() {
        let mut fast = Tally { measuring: Measuring::ByArrival, ..Tally::default() };
        let mut slow = fast.clone();
        for micros in 1..=90 {
            fast.echo(Counter::Echoed, Some(5), 5 + micros * 1000);
        }
        for _ in 0..10 {
            slow.echo(Counter::Echoed, Some(5), 5_000_005);
        }
        slow.fail(Cause::Status(503), 0);
        fast.add(&slow);
        assert_eq!(fast.latencies.count(), 100);
        let micros = |percent| fast.latencies.percentile(percent).unwrap().as_micros();
        assert_eq!((micros(50.0), micros(90.0)), (50, 90));
        assert!((4990..=5010).contains(&micros(91.0)));
        assert_eq!(fast.failures[&(Cause::Status(503), 0)], 1);
        assert_eq!(fast.counts[Counter::MeasuredEchoes], 100);
        assert!(!fast.counts.are_clean());
    }

    #[test]
    fn nothing_is_measured_outside_the_measured_time() {
        let mut tally = Tally::default();
        tally.echo(Counter::Echoed, Some(0), 1000);
        assert_eq!(tally.counts[Counter::Echoed], 1);
        assert_eq!(tally.latencies.percentile(50.0), None);
    }

    #[test]
    fn in_an_open_loop_it_matters_when_a_message_was_due() {
        let mut tally = Tally::default();
        tally.measuring.begin(1000, true);
        assert!(tally.measuring.is_on());
        tally.echo(Counter::Echoed, Some(999), 1500);
        tally.echo(Counter::Echoed, Some(1000), 1500);
        tally.measuring.end(2000);
        assert!(!tally.measuring.is_on());
        tally.echo(Counter::Echoed, Some(1999), 9_001_999);
        tally.echo(Counter::Echoed, Some(2000), 9_001_999);
        tally.echo(Counter::Echoed, None, 9_001_999);
        assert_eq!((tally.counts[Counter::MeasuredEchoes], tally.latencies.count()), (2, 2));
        assert!(tally.latencies.max().unwrap().as_micros() >= 8999);
    }

    /// Messages that were due before the measured time and noticed in it count in neither, or the lag could exceed the
    /// latency.
    #[test]
    fn lag_and_latency_are_of_the_same_messages() {
        let mut tally = Tally::default();
        tally.measuring.begin(1_000_000_000, true);
        for due_ns in [400_000_000, 1_000_000_000] {
            tally.sent_due(due_ns, 1_018_000_000 - due_ns);
            tally.echo(Counter::Echoed, Some(due_ns), 1_019_000_000);
        }
        let (lag, latency) = (&tally.lag, &tally.latencies);
        assert_eq!((lag.count(), latency.count()), (1, 1));
        assert!(lag.max() < latency.max() && lag.max().unwrap().as_millis() == 18, "{lag:?}");
    }

    #[test]
    fn whoever_is_to_come_back_is_not_gone() {
        let mut counts = Counts::default();
        let mut after = |counters: &[Counter]| {
            for &counter in counters {
                counts[counter] += 1;
            }
            counts.are_all_gone(1)
        };
        assert!(!after(&[Counter::Attempted]));
        assert!(!after(&[Counter::Settled, Counter::Opened]));
        assert!(!after(&[Counter::Recycled]));
        assert!(!after(&[Counter::Ended]), "it is closed, and not yet being opened");
        assert!(!after(&[Counter::Attempted]));
        assert!(after(&[Counter::Settled, Counter::Failed]));
    }

    #[test]
    fn published_counts_are_read_back() {
        let mut counts = Counts::default();
        counts[Counter::Sent] = 7;
        counts[Counter::Lost] = 3;
        let published = PublishedCounts::default();
        published.publish(&counts);
        assert_eq!(published.read(), counts);
        assert_eq!(counts.in_flight(), 4);
    }
}
