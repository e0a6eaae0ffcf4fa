//! The charts of a series.

use super::chart::{Axis, Chart, Line};
use super::heat;
use crate::series::Sample;

const MIB: f64 = 1024.0 * 1024.0;

/// The chart that the heat map stands beside.
pub(super) const LATENCY: &str = "Latency of each second";

/// All figures of a series.
pub(super) fn figures(series: &[Sample]) -> Vec<String> {
    let mut figures = Vec::new();
    for chart in charts(series) {
        figures.push(chart.render(chart.range()));
        if chart.title == LATENCY {
            figures.extend(heat::Map::of(series).map(|map| map.render(map.range())));
        }
    }
    figures
}

/// Everything but latency's heat map, as far as there are values.
pub(super) fn charts(series: &[Sample]) -> Vec<Chart> {
    let line = |name, color, value: &dyn Fn(&Sample) -> Option<f64>| {
        // A sample speaks of its whole interval: the first one begins where that does.
        let begin = series.first().map(|first| (first.time_s - first.interval_s, value(first)));
        let points = begin.into_iter().chain(series.iter().map(|sample| (sample.time_s, value(sample)))).collect();
        Line { name, color, points }
    };
    let server = |value: fn(&crate::series::ProcessSample) -> Option<f64>| {
        move |sample: &Sample| sample.server.as_ref().and_then(value)
    };
    let charts = [
        (
            "Open connections",
            "connections",
            Axis::Linear,
            vec![line("open", 0, &|it| Some(it.connections_open as f64))],
        ),
        (
            "Connections opened",
            "connections/s",
            Axis::Linear,
            vec![line("opened", 0, &|it| Some(it.connections_per_s))],
        ),
        ("Rate", "echoes/s", Axis::Linear, vec![line("echoes", 0, &|it| Some(it.echoes_per_s))]),
        (
            "Payload, each way",
            "MiB/s",
            Axis::Linear,
            vec![line("payload", 0, &|it| Some(it.payload_bytes_per_s / MIB))],
        ),
        (
            LATENCY,
            "log scale",
            Axis::LogTime,
            vec![
                line("p50", 0, &|it| Some(it.latency_us?.p50)),
                line("p99", 1, &|it| Some(it.latency_us?.p99)),
                line("max", 2, &|it| Some(it.latency_us?.max)),
            ],
        ),
        (
            "Processor time",
            "cores",
            Axis::Linear,
            vec![
                line("server", 0, &server(|it| Some(it.cores()))),
                line("server, user space only", 2, &server(|it| Some(it.cpu_user_cores))),
                line("load generator", 1, &|it| Some(it.load.cores())),
            ],
        ),
        (
            "Memory of the processes",
            "MiB",
            Axis::Linear,
            vec![
                line("server, resident", 0, &server(|it| Some(it.rss_bytes as f64 / MIB))),
                line("server, proportional", 2, &server(|it| Some(it.pss_bytes? as f64 / MIB))),
                line("load generator", 1, &|it| Some(it.load.rss_bytes as f64 / MIB)),
            ],
        ),
        (
            "Memory of the kernel",
            "MiB",
            Axis::Linear,
            vec![
                line("slab", 0, &|it| Some(it.kernel.slab_bytes as f64 / MIB)),
                line("TCP queues", 1, &|it| Some(it.kernel.tcp_queue_bytes as f64 / MIB)),
            ],
        ),
    ];
    let phases = phases(series);
    let chart = |(title, unit, axis, lines)| Chart { title, unit, axis, lines, phases: phases.clone() };
    charts.into_iter().map(chart).filter(Chart::shows_something).collect()
}

/// The phases with the times at which they end.
pub(super) fn phases(series: &[Sample]) -> Vec<(&'static str, f64)> {
    let mut phases: Vec<(&'static str, f64)> = Vec::new();
    for sample in series {
        match phases.last_mut() {
            Some((name, end)) if *name == sample.phase.name() => *end = sample.time_s,
            _ => phases.push((sample.phase.name(), sample.time_s)),
        }
    }
    phases
}
