//! The live series for scraping, in the Prometheus text format.
//!
//! A separate thread answers requests. The main thread passes it the latest sample once a second; the load threads are
//! not involved.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use prometheus::proto::{
    Bucket, Counter as ProtoCounter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};
use tiny_http::{Header, Response, Server};

use crate::control::Phase;
use crate::series::{Encoded, ProcessSample, Sample};
use crate::stats::{Counter, Counts};

/// Upper bounds of the latency histogram's buckets in seconds: from a fast echo on loopback to a stalled server.
const BUCKETS_S: [f64; 17] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 2.5, 5.0, 10.0,
];

/// The metrics server; it ends on drop.
pub struct Metrics {
    state: Arc<Mutex<State>>,
    server: Arc<Server>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// The current state of the run.
#[derive(Debug, Default)]
struct State {
    target: String,
    sample: Option<Sample>,
    counts: Counts,
    latencies: Buckets,
}

/// Latencies since the run began.
#[derive(Debug, Default)]
struct Buckets {
    counts: [u64; BUCKETS_S.len()],
    all: u64,
    sum_s: f64,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Metrics {
    /// Listens on `address` and answers from then on.
    pub(super) fn serve(address: SocketAddr) -> io::Result<Self> {
        let server = Arc::new(Server::http(address).map_err(io::Error::other)?);
        let address = server.server_addr().to_ip().unwrap_or(address);
        let state = Arc::<Mutex<State>>::default();
        let thread = {
            let (server, state) = (Arc::clone(&server), Arc::clone(&state));
            std::thread::Builder::new().name("metrics".to_owned()).spawn(move || answer(&server, &state))?
        };
        Ok(Self { state, server, address, thread: Some(thread) })
    }

    /// The address that it listens on.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A run against `target` begins: all counters are reset.
    pub(super) fn begin(&self, target: &str) {
        *lock(&self.state) = State { target: target.to_owned(), ..State::default() };
    }

    /// Stores the latest sample.
    pub(super) fn take(&self, sample: &Sample, counts: &Counts) {
        let mut state = lock(&self.state);
        state.counts = *counts;
        if let Some(histogram) = sample.latency_histogram.as_ref().and_then(Encoded::decode) {
            state.latencies.add(&histogram);
        }
        state.sample = Some(Sample { latency_histogram: None, ..sample.clone() });
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers until the server is unblocked.
fn answer(server: &Server, state: &Mutex<State>) {
    let encoder = TextEncoder::new();
    let kind = Header::from_bytes("Content-Type", encoder.format_type()).expect("a valid header");
    while let Ok(request) = server.recv() {
        let is_metrics = request.url().split('?').next() == Some("/metrics");
        let answer = if is_metrics {
            let families = families(&lock(state));
            let mut text = Vec::new();
            encoder.encode(&families, &mut text).expect("every family has a metric");
            Response::from_data(text).with_header(kind.clone())
        } else {
            Response::from_string("ringload: the metrics are at /metrics\n").with_status_code(404)
        };
        // A scraper that has hung up needs no answer.
        let _ = request.respond(answer);
    }
}

impl Buckets {
    fn add(&mut self, histogram: &crate::interval::IntervalHistogram) {
        for bar in histogram.iter_recorded() {
            let (seconds, count) = (bar.value_iterated_to() as f64 / 1e9, bar.count_at_value());
            if let Some(bucket) = BUCKETS_S.iter().position(|&bound| seconds <= bound) {
                self.counts[bucket] += count;
            }
            self.all += count;
            self.sum_s += seconds * count as f64;
        }
    }

    fn metric(&self) -> Metric {
        let mut below = 0;
        let bucket = |(&count, &bound): (&u64, &f64)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_cumulative_count(below);
            bucket.set_upper_bound(bound);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(self.counts.iter().zip(&BUCKETS_S).map(bucket).collect());
        histogram.set_sample_count(self.all);
        histogram.set_sample_sum(self.sum_s);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        metric
    }
}

/// The current metrics as text.
fn families(state: &State) -> Vec<MetricFamily> {
    let mut families = vec![family(
        "ringload_info",
        "The version of ringload and what it loads.",
        MetricType::GAUGE,
        vec![gauge(&[("version", env!("CARGO_PKG_VERSION")), ("target", &state.target)], 1.0)],
    )];
    let counter = |name, help, count| family(name, help, MetricType::COUNTER, vec![counter(&[], count)]);
    let of = |counter| state.counts[counter];
    families.extend([
        counter("ringload_connections_opened_total", "Upgrades that succeeded.", of(Counter::Opened)),
        counter("ringload_connections_failed_total", "Attempts that failed.", of(Counter::Failed)),
        counter(
            "ringload_connections_closed_early_total",
            "Connections that the server ended before it was told to.",
            of(Counter::ClosedEarly),
        ),
        counter(
            "ringload_protocol_violations_total",
            "Connections that were given up because the server broke the protocol.",
            of(Counter::Violations),
        ),
        counter(
            "ringload_connections_compressed_total",
            "Upgrades that agreed on compression.",
            of(Counter::Deflating),
        ),
        counter("ringload_messages_sent_total", "Messages sent.", of(Counter::Sent)),
        family(
            "ringload_wire_bytes_total",
            "Bytes of frames, compressed ones as they are.",
            MetricType::COUNTER,
            vec![
                self::counter(&[("direction", "sent")], of(Counter::WireSent)),
                self::counter(&[("direction", "received")], of(Counter::WireReceived)),
            ],
        ),
        family(
            "ringload_messages_total",
            "Messages by what became of them.",
            MetricType::COUNTER,
            ENDS.iter().map(|&(end, which)| self::counter(&[("end", end)], of(which))).collect(),
        ),
        family(
            "ringload_latency_seconds",
            "Latencies of echoes: from sending, or in an open loop from being due.",
            MetricType::HISTOGRAM,
            vec![state.latencies.metric()],
        ),
    ]);
    if let Some(sample) = &state.sample {
        families.extend(of_sample(sample));
    }
    families
}

/// The outcomes of messages, under the names used in the results.
const ENDS: [(&str, Counter); 7] = [
    ("echoed", Counter::Echoed),
    ("lost", Counter::Lost),
    ("corrupted", Counter::Corrupted),
    ("reordered", Counter::Reordered),
    ("late", Counter::Late),
    ("duplicated", Counter::Duplicated),
    ("unexpected", Counter::Unexpected),
];

/// The gauges of the latest sample.
fn of_sample(sample: &Sample) -> Vec<MetricFamily> {
    let one = |name, help, value| family(name, help, MetricType::GAUGE, vec![gauge(&[], value)]);
    let sides = [("server", sample.server.as_ref()), ("generator", Some(&sample.load))];
    let sides = || sides.into_iter().filter_map(|(name, side)| Some((name, side?)));
    let cores = |(name, side): (&str, &ProcessSample)| {
        let mode = |mode, cores| gauge(&[("side", name), ("mode", mode)], cores);
        [mode("user", side.cpu_user_cores), mode("system", side.cpu_system_cores)]
    };
    let mut families = vec![
        family(
            "ringload_phase",
            "1 for the phase that the run is in.",
            MetricType::GAUGE,
            Phase::ALL
                .iter()
                .map(|it| gauge(&[("phase", it.name())], f64::from(u8::from(*it == sample.phase))))
                .collect(),
        ),
        one("ringload_run_seconds", "Time since the run began.", sample.time_s),
        one("ringload_connections_open", "Connections open.", sample.connections_open as f64),
        one("ringload_connects_per_second", "Connections opened, in the last interval.", sample.connections_per_s),
        one("ringload_echoes_per_second", "Echoes, in the last interval.", sample.echoes_per_s),
        one("ringload_payload_bytes_per_second", "Payload each way, in the last interval.", sample.payload_bytes_per_s),
        family(
            "ringload_wire_bytes_per_second",
            "Bytes of frames, compressed ones as they are, in the last interval.",
            MetricType::GAUGE,
            vec![
                gauge(&[("direction", "sent")], sample.wire_sent_bytes_per_s),
                gauge(&[("direction", "received")], sample.wire_received_bytes_per_s),
            ],
        ),
        family(
            "ringload_cpu_cores",
            "Processors kept busy, in the last interval.",
            MetricType::GAUGE,
            sides().flat_map(cores).collect(),
        ),
        family(
            "ringload_resident_bytes",
            "Resident memory.",
            MetricType::GAUGE,
            sides().map(|(name, side)| gauge(&[("side", name)], side.rss_bytes as f64)).collect(),
        ),
        one("ringload_kernel_slab_bytes", "Kernel objects of this machine.", sample.kernel.slab_bytes as f64),
        one("ringload_tcp_sockets", "TCP sockets of this machine.", sample.kernel.tcp_sockets as f64),
    ];
    if let Some(latency) = &sample.latency_us {
        let quantiles = [("0.5", latency.p50), ("0.99", latency.p99), ("1", latency.max)];
        families.push(family(
            "ringload_interval_latency_seconds",
            "Latencies of the last interval alone, by quantile.",
            MetricType::GAUGE,
            quantiles.iter().map(|&(quantile, us)| gauge(&[("quantile", quantile)], us / 1e6)).collect(),
        ));
    }
    families
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = ProtoCounter::default();
    counter.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let label = |&(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    let mut metric = Metric::default();
    metric.set_label(labels.iter().map(label).collect());
    metric
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::series::tests::sample;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn the_newest_sample_can_be_scraped() {
        let metrics = Metrics::serve("127.0.0.1:0".parse().unwrap()).unwrap();
        metrics.begin("ws://a/?b=\"c\"");
        let mut counts = Counts::default();
        counts[Counter::Lost] = 3;
        metrics.take(&sample(1.0, 1000.0, 300), &counts);
        metrics.take(&sample(2.0, 500.0, 7_000), &counts);
        let answer = get(metrics.address(), "/metrics");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("text/plain; version=0.0.4"), "{answer}");
        for line in [
            "ringload_info{version=\"0.1.0\",target=\"ws://a/?b=\\\"c\\\"\"} 1",
            "ringload_messages_total{end=\"lost\"} 3",
            "ringload_phase{phase=\"measure\"} 1",
            "ringload_phase{phase=\"drain\"} 0",
            "ringload_echoes_per_second 500",
            "ringload_wire_bytes_per_second{direction=\"sent\"} 67000",
            "ringload_wire_bytes_total{direction=\"received\"} 0",
            "ringload_cpu_cores{side=\"server\",mode=\"user\"} 0.5",
            "ringload_latency_seconds_bucket{le=\"0.00025\"} 0",
            "ringload_latency_seconds_bucket{le=\"0.0005\"} 1000",
            "ringload_latency_seconds_bucket{le=\"0.01\"} 1500",
            "ringload_latency_seconds_bucket{le=\"+Inf\"} 1500",
            "ringload_latency_seconds_count 1500",
            "# TYPE ringload_latency_seconds histogram",
            "# TYPE ringload_messages_sent_total counter",
        ] {
            assert!(answer.lines().any(|it| it.trim_end() == line), "{line} is not in\n{answer}");
        }
        assert!(get(metrics.address(), "/").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn before_the_first_sample_there_are_counters_already() {
        let metrics = Metrics::serve("127.0.0.1:0".parse().unwrap()).unwrap();
        let answer = get(metrics.address(), "/metrics");
        assert!(answer.contains("ringload_messages_sent_total 0") && !answer.contains("ringload_phase"), "{answer}");
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Metrics::serve(taken.local_addr().unwrap()).is_err());
    }
}
