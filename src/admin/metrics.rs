//! `/metrics`: Prometheus' text format.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::proto::{
    Bucket, Counter as CounterValue, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};
use rustix::time::{ClockId, clock_gettime};

use crate::server::{Condition, Handle};
use crate::worker::{Counter, TURN_BOUNDS_US, Tally};

/// As [`TextEncoder`] makes it.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters and gauges that each worker has one of.
const OF_WORKERS: [(Counter, &str, MetricType, &str); 17] = {
    use MetricType::{COUNTER, GAUGE};
    [
        (Counter::Accepted, "ringecho_connections_accepted_total", COUNTER, "Connections accepted."),
        (
            Counter::Opened,
            "ringecho_connections_opened_total",
            COUNTER,
            "Connections whose upgrade request was accepted; with bare TCP all.",
        ),
        (
            Counter::Silent,
            "ringecho_connections_silent_total",
            COUNTER,
            "Connections that have come and gone without sending a byte, as probes do.",
        ),
        (Counter::BytesReceived, "ringecho_received_bytes_total", COUNTER, "Bytes received from clients."),
        (Counter::BytesSent, "ringecho_sent_bytes_total", COUNTER, "Bytes handed to the kernel for sending."),
        (Counter::SlowReaders, "ringecho_slow_readers", GAUGE, "Connections whose socket takes no more for now."),
        (
            Counter::Throttled,
            "ringecho_throttled_connections",
            GAUGE,
            "Slow readers that are not received from, because their pending output has reached a cap.",
        ),
        (Counter::Backlog, "ringecho_backlog_bytes", GAUGE, "Memory of pending output beside the receive buffers."),
        (
            Counter::BufferShortages,
            "ringecho_receive_buffer_shortages_total",
            COUNTER,
            "Receives that had to wait because all receive buffers were in use.",
        ),
        (Counter::EmptyReceives, "ringecho_empty_receives_total", COUNTER, "Receives that found nothing."),
        (
            Counter::AcceptFailures,
            "ringecho_accept_failures_total",
            COUNTER,
            "Accepts that failed for want of something, descriptors or memory mostly.",
        ),
        (Counter::Turns, "ringecho_turns_total", COUNTER, "Turns of the worker's loop."),
        (Counter::Pongs, "ringecho_pongs_received_total", COUNTER, "Pong frames received."),
        (
            Counter::Agreed,
            "ringecho_connections_compressed_total",
            COUNTER,
            "Connections that have agreed on compression (permessage-deflate).",
        ),
        (Counter::Compressed, "ringecho_compressed_messages_total", COUNTER, "Messages received compressed."),
        (
            Counter::BytesInflated,
            "ringecho_inflated_bytes_total",
            COUNTER,
            "Bytes that compressed messages were inflated to, to be checked or compressed anew.",
        ),
        (
            Counter::InflationMemory,
            "ringecho_inflation_memory_bytes",
            GAUGE,
            "Memory held for compressed messages that are open, and for their input that waits.",
        ),
    ]
};

/// Metrics of the process from the operating system.
pub(super) struct Process {
    pub(super) resident_bytes: u64,
    pub(super) cpu_s: f64,
}

impl Process {
    pub(super) fn read() -> Self {
        // proc_pid_statm(5): the second number is resident pages.
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Self {
            resident_bytes: pages * rustix::param::page_size() as u64,
            cpu_s: Duration::try_from(cpu).unwrap_or_default().as_secs_f64(),
        }
    }
}

/// Everything there is to know, in Prometheus' text format.
pub(super) fn text(handle: &Handle) -> Vec<u8> {
    let about = handle.about();
    let mut families = of_workers(&handle.tallies());
    let capacities = about.capacities.iter().enumerate();
    let capacities = capacities.map(|(worker, &max)| gauge(max.into(), &[label("worker", worker)])).collect();
    families.push(family(
        "ringecho_connections_max",
        MetricType::GAUGE,
        "Connections that a worker can hold.",
        capacities,
    ));
    let condition = handle.condition();
    let mut single = |name, kind, help, metric| families.push(family(name, kind, help, vec![metric]));
    let is_ready = f64::from(u8::from(condition == Condition::Ready));
    single("ringecho_ready", MetricType::GAUGE, "Whether further clients can be sent to it.", gauge(is_ready, &[]));
    let info = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("engine", about.engine.name().to_owned()),
        ("deflate", about.deflate.clone()),
    ];
    single("ringecho_info", MetricType::GAUGE, "What runs.", gauge(1.0, &info));
    single(
        "ringecho_connections_turned_away_total",
        MetricType::COUNTER,
        "Clients turned away because all connections were taken.",
        counter(handle.turned_away() as f64, &[]),
    );
    single(
        "ringecho_backlog_max_bytes",
        MetricType::GAUGE,
        "The bound of all workers' pending output together (--backlog-total).",
        gauge(about.backlog_max as f64, &[]),
    );
    let process = Process::read();
    single(
        "process_resident_memory_bytes",
        MetricType::GAUGE,
        "Resident memory.",
        gauge(process.resident_bytes as f64, &[]),
    );
    single(
        "process_cpu_seconds_total",
        MetricType::COUNTER,
        "Processor time of all threads.",
        counter(process.cpu_s, &[]),
    );
    let started_at = SystemTime::now() - about.started_at.elapsed();
    let started_at = started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    single("process_start_time_seconds", MetricType::GAUGE, "When it was started, since 1970.", gauge(started_at, &[]));
    let mut text = Vec::new();
    families.retain(|family| !family.get_metric().is_empty());
    TextEncoder::new().encode(&families, &mut text).expect("families with a name and metrics");
    text
}

fn of_workers(tallies: &[Tally]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    for (which, name, kind, help) in OF_WORKERS {
        let make = if kind == MetricType::COUNTER { counter } else { gauge };
        let metric = |(worker, tally): (usize, &Tally)| make(tally.get(which) as f64, &[label("worker", worker)]);
        families.push(family(name, kind, help, tallies.iter().enumerate().map(metric).collect()));
    }
    let mut each = |name, kind, help, metrics: &dyn Fn(usize, &Tally) -> Vec<Metric>| {
        let all = tallies.iter().enumerate().flat_map(|(worker, tally)| metrics(worker, tally)).collect();
        families.push(family(name, kind, help, all));
    };
    each("ringecho_connections_open", MetricType::GAUGE, "Connections that are open.", &|worker, tally| {
        vec![gauge(tally.open() as f64, &[label("worker", worker)])]
    });
    each(
        "ringecho_connections_closed_total",
        MetricType::COUNTER,
        "Connections closed, by what has brought them to their end.",
        &|worker, tally| by(worker, "cause", tally.endings()),
    );
    each(
        "ringecho_handshakes_refused_total",
        MetricType::COUNTER,
        "Requests answered with an error, by HTTP status.",
        &|worker, tally| by(worker, "status", tally.refusals()),
    );
    each(
        "ringecho_requests_answered_total",
        MetricType::COUNTER,
        "Requests for something else than a WebSocket that got it, health checks say, by HTTP status.",
        &|worker, tally| by(worker, "status", tally.answers()),
    );
    each(
        "ringecho_tls_handshakes_total",
        MetricType::COUNTER,
        "TLS handshakes that have come to their end, by their result.",
        &|worker, tally| by(worker, "result", tls_handshakes(tally).into_iter()),
    );
    each(
        "ringecho_close_frames_received_total",
        MetricType::COUNTER,
        "Close frames received, by code; none: without a code.",
        &|worker, tally| by(worker, "code", tally.closes_received()),
    );
    each(
        "ringecho_close_frames_sent_total",
        MetricType::COUNTER,
        "Close frames sent other than as an answer, by code.",
        &|worker, tally| by(worker, "code", tally.closes_sent()),
    );
    each(
        "ringecho_messages_total",
        MetricType::COUNTER,
        "Messages echoed, text and binary, and pings answered.",
        &|worker, tally| {
            let texts = tally.get(Counter::Texts);
            let binaries = tally.get(Counter::Messages).saturating_sub(texts);
            by(worker, "kind", [("text", texts), ("binary", binaries), ("ping", tally.get(Counter::Pings))].into_iter())
        },
    );
    each(
        "ringecho_turn_seconds",
        MetricType::HISTOGRAM,
        "How long turns of the worker's loop take: all with eight events or more, one in 16 of the others.",
        &|worker, tally| vec![turn_times(worker, tally)],
    );
    families
}

/// TLS handshakes by their result.
pub(super) fn tls_handshakes(tally: &Tally) -> [(&'static str, u64); 3] {
    let get = |counter| tally.get(counter);
    [("full", get(Counter::TlsFull)), ("resumed", get(Counter::TlsResumed)), ("failed", get(Counter::TlsFailed))]
}

/// A name and a value.
type Label = (&'static str, String);

fn label(name: &'static str, value: usize) -> Label {
    (name, value.to_string())
}

fn labelled(labels: &[Label]) -> Metric {
    let pair = |(name, value): &Label| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value(value.clone());
        pair
    };
    let mut metric = Metric::default();
    metric.set_label(labels.iter().map(pair).collect());
    metric
}

fn counter(value: f64, labels: &[Label]) -> Metric {
    let mut counter = CounterValue::default();
    counter.set_value(value);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn gauge(value: f64, labels: &[Label]) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn by(worker: usize, name: &'static str, counts: impl Iterator<Item = (impl Into<String>, u64)>) -> Vec<Metric> {
    counts.map(|(value, count)| counter(count as f64, &[label("worker", worker), (name, value.into())])).collect()
}

fn turn_times(worker: usize, tally: &Tally) -> Metric {
    let mut below = 0;
    let bucket = |(&count, &bound_us): (&u64, &u64)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(below);
        bucket.set_upper_bound(bound_us as f64 / 1e6);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(tally.turn_times().iter().zip(&TURN_BOUNDS_US).map(bucket).collect());
    histogram.set_sample_count(tally.turn_times().iter().sum());
    histogram.set_sample_sum(tally.get(Counter::TurnNs) as f64 / 1e9);
    let mut metric = labelled(&[label("worker", worker)]);
    metric.set_histogram(histogram);
    metric
}

fn family(name: &str, kind: MetricType, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
