//! The time series of a run: work, rates and resource usage, second by second.

use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::control::Phase;
use crate::interval::IntervalHistogram;
use crate::sampling::KernelMemory;

/// A series holds at most this many samples: an hour of seconds. Longer runs have longer intervals.
const MAX_SAMPLES: usize = 3600;

/// One interval of a run: a second, unless a phase ended in it or the run is long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Its end, from the beginning of the run.
    pub time_s: f64,
    /// Its length.
    pub interval_s: f64,
    /// The phase at its end.
    pub phase: Phase,
    /// Connections open at its end.
    pub connections_open: u64,
    /// Connections opened in it, per second.
    pub connections_per_s: f64,
    /// Connections that failed, were closed early or given up, and messages that were lost or came back wrong, from the
    /// beginning of the run to its end.
    pub errors: u64,
    /// Echoes in it, per second.
    pub echoes_per_s: f64,
    /// Their payload in each direction, per second.
    pub payload_bytes_per_s: f64,
    /// Bytes of frames sent, with their headers and as they were compressed, per second.
    pub wire_sent_bytes_per_s: f64,
    /// The same of frames received.
    pub wire_received_bytes_per_s: f64,
    /// Latencies of those echoes; absent if there were none.
    pub latency_us: Option<SampleLatency>,
    /// The same in full: nanoseconds to two significant digits.
    pub latency_histogram: Option<Encoded>,
    /// The server with all its descendants, if its process is known.
    pub server: Option<ProcessSample>,
    /// The load generator.
    pub load: ProcessSample,
    /// The machine.
    pub kernel: KernelMemory,
}

/// Latencies of one interval in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SampleLatency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// What one side used in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProcessSample {
    /// Processors kept busy in user space, on average.
    pub cpu_user_cores: f64,
    /// In the kernel.
    pub cpu_system_cores: f64,
    /// Resident memory at its end.
    pub rss_bytes: u64,
    /// The same with shared pages divided among the processes that share them; absent when it is too slow to find out.
    pub pss_bytes: Option<u64>,
    /// Processes.
    pub processes: usize,
}

impl ProcessSample {
    /// Processors kept busy.
    #[must_use]
    pub fn cores(&self) -> f64 {
        self.cpu_user_cores + self.cpu_system_cores
    }

    fn absorb(&mut self, later: Self, weights: Weights) {
        *self = Self {
            cpu_user_cores: weights.mean(self.cpu_user_cores, later.cpu_user_cores),
            cpu_system_cores: weights.mean(self.cpu_system_cores, later.cpu_system_cores),
            pss_bytes: later.pss_bytes.or(self.pss_bytes),
            ..later
        };
    }
}

/// A histogram in the compressed V2 form of `HdrHistogram`, as base64: other tools read it, too, and it can be added up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Encoded(String);

impl Encoded {
    /// A histogram's encoded form.
    #[must_use]
    pub fn new(histogram: &IntervalHistogram) -> Self {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("a vector takes everything");
        Self(data_encoding::BASE64.encode(&bytes))
    }

    /// The encoded form.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The histogram; `None` if this is none.
    #[must_use]
    pub fn decode(&self) -> Option<IntervalHistogram> {
        let bytes = data_encoding::BASE64.decode(self.0.as_bytes()).ok()?;
        Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
    }

    /// Both together. Both must be histograms, as all are that were made here or read from a file.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let [mut sum, other] = [self, other].map(|it| it.decode().expect("histograms are checked when they are read"));
        // Whatever bounds a file's histograms have.
        sum.auto(true);
        sum.add(other).expect("there is memory for a larger histogram");
        Self::new(&sum)
    }
}

impl SampleLatency {
    /// Of a histogram in nanoseconds; `None` if it is empty.
    #[must_use]
    pub fn of(histogram: &IntervalHistogram) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        (!histogram.is_empty()).then(|| Self { p50: at(0.5), p99: at(0.99), max: at(1.0) })
    }
}

/// The lengths of two intervals that become one.
#[derive(Clone, Copy)]
struct Weights(f64, f64);

impl Weights {
    fn mean(self, earlier: f64, later: f64) -> f64 {
        (earlier * self.0 + later * self.1) / (self.0 + self.1)
    }
}

impl Sample {
    /// Makes the next sample part of this one.
    fn absorb(&mut self, later: &Self) {
        let weights = Weights(self.interval_s, later.interval_s);
        let mut server = self.server;
        if let (Some(earlier), Some(later)) = (&mut server, later.server) {
            earlier.absorb(later, weights);
        }
        self.load.absorb(later.load, weights);
        let latency_histogram = match (&self.latency_histogram, &later.latency_histogram) {
            (Some(earlier), Some(later)) => Some(earlier.plus(later)),
            (earlier, later) => earlier.as_ref().or(later.as_ref()).cloned(),
        };
        *self = Self {
            interval_s: self.interval_s + later.interval_s,
            connections_per_s: weights.mean(self.connections_per_s, later.connections_per_s),
            echoes_per_s: weights.mean(self.echoes_per_s, later.echoes_per_s),
            payload_bytes_per_s: weights.mean(self.payload_bytes_per_s, later.payload_bytes_per_s),
            wire_sent_bytes_per_s: weights.mean(self.wire_sent_bytes_per_s, later.wire_sent_bytes_per_s),
            wire_received_bytes_per_s: weights.mean(self.wire_received_bytes_per_s, later.wire_received_bytes_per_s),
            latency_us: latency_histogram.as_ref().and_then(Encoded::decode).and_then(|all| SampleLatency::of(&all)),
            latency_histogram,
            server,
            load: self.load,
            ..later.clone()
        };
    }
}

/// The samples of a run, in bounded memory.
#[derive(Debug)]
pub struct Series {
    samples: Vec<Sample>,
    /// How long an interval may become.
    interval_s: f64,
}

impl Default for Series {
    fn default() -> Self {
        Self { samples: Vec::new(), interval_s: 1.0 }
    }
}

impl Series {
    /// Adds the next sample. When there are too many, neighbours become one, and so will those to come.
    pub fn push(&mut self, sample: Sample) {
        self.add(sample);
        if self.samples.len() > MAX_SAMPLES {
            self.interval_s *= 2.0;
            for sample in std::mem::take(&mut self.samples) {
                self.add(sample);
            }
        }
    }

    fn add(&mut self, sample: Sample) {
        // Half a second of tolerance: intervals are as exact as the conductor's sleep.
        let fits =
            |last: &Sample| last.phase == sample.phase && last.interval_s + sample.interval_s <= self.interval_s + 0.5;
        match self.samples.last_mut() {
            Some(last) if self.interval_s > 1.0 && fits(last) => last.absorb(&sample),
            _ => self.samples.push(sample),
        }
    }

    /// The samples so far.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The samples.
    #[must_use]
    pub fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::interval::interval_histogram;

    pub(crate) fn sample(time_s: f64, echoes_per_s: f64, latency_us: u64) -> Sample {
        let mut histogram = interval_histogram();
        histogram.record_n(latency_us * 1000, echoes_per_s as u64).unwrap();
        Sample {
            time_s,
            interval_s: 1.0,
            phase: Phase::Measure,
            connections_open: 100,
            connections_per_s: 0.0,
            errors: 0,
            echoes_per_s,
            payload_bytes_per_s: echoes_per_s * 128.0,
            wire_sent_bytes_per_s: echoes_per_s * 134.0,
            wire_received_bytes_per_s: echoes_per_s * 130.0,
            latency_us: SampleLatency::of(&histogram),
            latency_histogram: Some(Encoded::new(&histogram)),
            server: Some(ProcessSample { cpu_user_cores: 0.5, processes: 1, ..ProcessSample::default() }),
            load: ProcessSample { cpu_system_cores: 0.25, processes: 1, ..ProcessSample::default() },
            kernel: KernelMemory::default(),
        }
    }

    #[test]
    fn histograms_survive_their_encoded_form() {
        let mut histogram = interval_histogram();
        histogram.record_n(123_456, 7).unwrap();
        let encoded = Encoded::new(&histogram);
        assert_eq!(encoded.decode().unwrap(), histogram);
        assert_eq!(encoded.plus(&encoded).decode().unwrap().len(), 14);
        assert_eq!(Encoded("nonsense".to_owned()).decode(), None);
    }

    #[test]
    fn a_long_run_keeps_its_sums_in_bounded_memory() {
        let mut series = Series::default();
        let seconds = 3 * MAX_SAMPLES;
        for second in 1..=seconds {
            let mut sample = sample(second as f64, if second % 2 == 0 { 100.0 } else { 300.0 }, 50);
            if second < 10 {
                sample.phase = Phase::Connect;
            }
            series.push(sample);
        }
        let samples = series.into_samples();
        assert!((MAX_SAMPLES / 2..=MAX_SAMPLES).contains(&samples.len()), "{}", samples.len());
        let echoes: f64 = samples.iter().map(|sample| sample.echoes_per_s * sample.interval_s).sum();
        assert!((echoes / (seconds as f64 * 200.0) - 1.0).abs() < 0.001, "{echoes}");
        let recorded = |sample: &Sample| sample.latency_histogram.as_ref().unwrap().decode().unwrap().len();
        assert_eq!(samples.iter().map(recorded).sum::<u64>(), seconds as u64 * 200);
        let server = samples.last().unwrap().server.unwrap();
        assert!((server.cores() - 0.5).abs() < 1e-9);
        assert!(
            samples.iter().filter(|sample| sample.phase == Phase::Connect).map(|it| it.interval_s).sum::<f64>() > 8.9
        );
    }
}
