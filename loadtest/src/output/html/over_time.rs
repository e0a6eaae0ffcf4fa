//! The charts of a series.

use std::time::Duration;

use super::chart::{Axis, Chart, Line};
use super::heat;
use crate::driver::plan::Ramp;
use crate::output::report::{Load, Report, StagePoint};
use crate::series::Sample;

const MIB: f64 = 1024.0 * 1024.0;

/// The chart beside the heat map.
pub(super) const LATENCY: &str = "Latency of each second";

/// All figures of a result.
pub(super) fn figures(report: &Report) -> Vec<String> {
    let mut figures = Vec::new();
    for chart in charts(report) {
        figures.push(chart.render(chart.range()));
        if chart.title == LATENCY {
            figures.extend(heat::Map::of(&report.series).map(|map| map.render(map.range())));
        }
    }
    figures
}

/// All charts except the latency heat map, as far as there are values.
pub(super) fn charts(report: &Report) -> Vec<Chart> {
    let series = report.series.as_slice();
    let asked_rate = Asked::of(report, |load| load.rate_stages.as_deref());
    let asked_connections = Asked::of(report, |load| load.connection_stages.as_deref());
    let line = |name, color, value: &dyn Fn(&Sample) -> Option<f64>| {
        // A sample covers an interval: the axis starts where the first interval does.
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
            vec![
                line("open", 0, &|it| Some(it.connections_open as f64)),
                line("asked for", 1, &|it| asked_connections.as_ref()?.at_the_end_of(it)),
            ],
        ),
        (
            "Connections opened",
            "connections/s",
            Axis::Linear,
            vec![line("opened", 0, &|it| Some(it.connections_per_s))],
        ),
        (
            "Rate",
            "echoes/s",
            Axis::Linear,
            vec![
                line("echoes", 0, &|it| Some(it.echoes_per_s)),
                line("asked for", 1, &|it| asked_rate.as_ref()?.during(it)),
            ],
        ),
        (
            "Payload, each way, and the wire",
            "MiB/s",
            Axis::Linear,
            vec![
                line("payload", 0, &|it| Some(it.payload_bytes_per_s / MIB)),
                line("frames sent", 1, &|it| Some(it.wire_sent_bytes_per_s / MIB)),
                line("frames received", 2, &|it| Some(it.wire_received_bytes_per_s / MIB)),
            ],
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

/// The planned values: the sum of the stages of all runs.
struct Asked {
    ramps: Vec<Ramp>,
    /// When the load began, on the series' time axis.
    begin_s: f64,
}

impl Asked {
    /// `None` if a run has no stages of this kind or its load never began.
    fn of(report: &Report, stages: impl Fn(&Load) -> Option<&[StagePoint]>) -> Option<Self> {
        let ramp = |points: &[StagePoint]| {
            let stage = |pair: &[StagePoint]| (seconds(pair[1].at_s - pair[0].at_s), pair[1].value);
            Some(Ramp::new(points.first()?.value, &points.windows(2).map(stage).collect::<Vec<_>>()))
        };
        let ramps = report.runs.iter().map(|run| ramp(stages(&run.scenario)?)).collect::<Option<Vec<_>>>()?;
        let first = report.series.iter().find(|sample| sample.phase.is_sending())?;
        Some(Self { ramps, begin_s: first.time_s - first.interval_s })
    }

    fn at_the_end_of(&self, sample: &Sample) -> Option<f64> {
        let since = seconds(sample.time_s - self.begin_s);
        sample.phase.is_sending().then(|| self.ramps.iter().map(|ramp| ramp.at(since.as_nanos() as u64)).sum())
    }

    /// The mean over the sample's interval, since a sample's rate is a mean.
    fn during(&self, sample: &Sample) -> Option<f64> {
        let end_ns = (sample.time_s - self.begin_s) * 1e9;
        let begin_ns = end_ns - sample.interval_s * 1e9;
        let area = |ramp: &Ramp| ramp.area_until(end_ns) - ramp.area_until(begin_ns);
        let area: f64 = self.ramps.iter().map(area).sum();
        (sample.phase.is_sending() && end_ns > begin_ns).then(|| (area / (end_ns - begin_ns)).max(0.0))
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Phase;
    use crate::output::report::tests::report;

    #[test]
    fn what_stages_ask_for_is_drawn_beside_what_came_of_it() {
        let mut report = report();
        let point = |at_s, value| StagePoint { at_s, value };
        let sample = report.series[0].clone();
        report.series = (1..=5)
            .map(|second| {
                let phase = if second == 1 { Phase::Connect } else { Phase::Measure };
                Sample { time_s: f64::from(second), interval_s: 1.0, phase, ..sample.clone() }
            })
            .collect();
        let asked = |report: &Report, title| {
            let charts = charts(report);
            let chart: &Chart = charts.iter().find(|chart: &&Chart| chart.title == title).expect("it is there");
            let value = |point: &(f64, Option<f64>)| point.1.map(|value| (value * 1e6).round() / 1e6);
            chart.lines[1].points.iter().map(value).collect::<Vec<_>>()
        };
        assert!(asked(&report, "Rate").iter().all(Option::is_none), "nothing is asked for in stages");
        // Load begins at 1 s.
        report.runs[0].scenario.rate_stages = Some(vec![point(0.0, 0.0), point(2.0, 200.0), point(4.0, 200.0)]);
        report.runs[0].scenario.connection_stages = Some(vec![point(0.0, 10.0), point(4.0, 90.0)]);
        let values = [None, None, Some(50.0), Some(150.0), Some(200.0), Some(200.0)];
        assert_eq!(asked(&report, "Rate"), values);
        assert_eq!(asked(&report, "Open connections"), [None, None, Some(30.0), Some(50.0), Some(70.0), Some(90.0)]);
    }
}
