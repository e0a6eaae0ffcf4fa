//! Thresholds: conditions on the results, like `p99>5ms`, that fail a run.

use std::fmt;
use std::str::FromStr;

use crate::output::report::Report;
use crate::output::units;
use crate::parsing;

/// The valid names, for messages and `--help`.
pub const NAMES: &str = "p50, p95, p99, p99.9 (any percentile), min, mean, max, lag-p99, ping-p99 (times, like 5ms or 800us); \
     rate, connect-rate (per second); bytes-rate (per second, like 100MiB); errors, lost, reordered, corrupted, \
     late, duplicated, unexpected, unsent, pings-unanswered, failed, closed-early, violations, connections, uncompressed (counts); server-cpu, load-cpu (cores); server-cpu-per-echo, \
     load-cpu-per-echo (times); server-rss, server-bytes-per-connection, load-bytes-per-connection (bytes)";

/// A condition; where it holds, the run has failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// As it was given.
    text: String,
    quantity: Quantity,
    comparison: Comparison,
    limit: f64,
}

/// A threshold that failed the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach(String);

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Quantity {
    Percentile(f64),
    Latency(Edge),
    LagPercentile(f64),
    PingPercentile(f64),
    Count(Count),
    Rate,
    ConnectRate,
    BytesRate,
    Cores(Side),
    CpuPerEcho(Side),
    ServerRss,
    BytesPerConnection(Side),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Min,
    Mean,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Server,
    Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Errors,
    Lost,
    Reordered,
    Corrupted,
    Late,
    Duplicated,
    Unexpected,
    Unsent,
    PingsUnanswered,
    Failed,
    ClosedEarly,
    Violations,
    Connections,
    Uncompressed,
}

/// The unit that a limit is given in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Given in any unit of time, compared in microseconds.
    Time,
    /// Given in bytes or multiples of them.
    Bytes,
    /// A bare number.
    Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Equal,
    NotEqual,
}

/// As they are written; the longer ones first, because they begin with the shorter ones.
const COMPARISONS: [(&str, Comparison); 6] = [
    (">=", Comparison::GreaterOrEqual),
    ("<=", Comparison::LessOrEqual),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    (">", Comparison::Greater),
    ("<", Comparison::Less),
];

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let find =
            |(sign, comparison)| text.split_once(sign).map(|(name, limit)| (name.trim(), comparison, limit.trim()));
        let Some((name, comparison, limit)) = COMPARISONS.into_iter().find_map(find) else {
            let form = "not a condition like p99>5ms (with >, >=, <, <=, == or !=)";
            return Err(format!("{form}; what can be named: {NAMES}"));
        };
        let quantity = Quantity::named(name)
            .ok_or_else(|| format!("there is no {name:?} to compare; what can be named: {NAMES}"))?;
        let limit = quantity.unit().parse(limit).map_err(|wrong| format!("{wrong}; what can be named: {NAMES}"))?;
        Ok(Self { text: text.trim().to_owned(), quantity, comparison, limit })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Threshold {
    /// The breach, if the condition holds. What was not measured fails as well: a run without echoes has no good p99.
    #[must_use]
    pub fn check(&self, report: &Report) -> Option<Breach> {
        let Some(value) = self.quantity.value(report) else {
            return Some(Breach(format!("{}: not measured", self.text)));
        };
        let holds = match self.comparison {
            Comparison::Greater => value > self.limit,
            Comparison::GreaterOrEqual => value >= self.limit,
            Comparison::Less => value < self.limit,
            Comparison::LessOrEqual => value <= self.limit,
            Comparison::Equal => (value - self.limit).abs() < f64::EPSILON,
            Comparison::NotEqual => (value - self.limit).abs() >= f64::EPSILON,
        };
        holds.then(|| Breach(format!("{}: it is {}", self.text, self.quantity.unit().show(value))))
    }
}

/// All breaches of `thresholds` by the results.
#[must_use]
pub fn breaches(thresholds: &[Threshold], report: &Report) -> Vec<Breach> {
    thresholds.iter().filter_map(|threshold| threshold.check(report)).collect()
}

impl Quantity {
    fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase().replace('_', "-");
        if let Some(percentile) = name.strip_prefix("lag-p").and_then(percentile) {
            return Some(Self::LagPercentile(percentile));
        }
        if let Some(percentile) = name.strip_prefix("ping-p").and_then(percentile) {
            return Some(Self::PingPercentile(percentile));
        }
        if let Some(percentile) = name.strip_prefix('p').and_then(percentile) {
            return Some(Self::Percentile(percentile));
        }
        Some(match name.as_str() {
            "min" => Self::Latency(Edge::Min),
            "mean" => Self::Latency(Edge::Mean),
            "max" => Self::Latency(Edge::Max),
            "rate" => Self::Rate,
            "connect-rate" => Self::ConnectRate,
            "bytes-rate" => Self::BytesRate,
            "errors" => Self::Count(Count::Errors),
            "lost" => Self::Count(Count::Lost),
            "reordered" => Self::Count(Count::Reordered),
            "corrupted" => Self::Count(Count::Corrupted),
            "late" => Self::Count(Count::Late),
            "duplicated" => Self::Count(Count::Duplicated),
            "unsent" => Self::Count(Count::Unsent),
            "pings-unanswered" => Self::Count(Count::PingsUnanswered),
            "unexpected" => Self::Count(Count::Unexpected),
            "failed" => Self::Count(Count::Failed),
            "closed-early" => Self::Count(Count::ClosedEarly),
            "violations" => Self::Count(Count::Violations),
            "connections" => Self::Count(Count::Connections),
            "uncompressed" => Self::Count(Count::Uncompressed),
            "server-cpu" => Self::Cores(Side::Server),
            "load-cpu" => Self::Cores(Side::Load),
            "server-cpu-per-echo" => Self::CpuPerEcho(Side::Server),
            "load-cpu-per-echo" => Self::CpuPerEcho(Side::Load),
            "server-rss" => Self::ServerRss,
            "server-bytes-per-connection" => Self::BytesPerConnection(Side::Server),
            "load-bytes-per-connection" => Self::BytesPerConnection(Side::Load),
            _ => return None,
        })
    }

    fn unit(self) -> Unit {
        match self {
            Self::Percentile(_)
            | Self::LagPercentile(_)
            | Self::PingPercentile(_)
            | Self::Latency(_)
            | Self::CpuPerEcho(_) => Unit::Time,
            Self::BytesRate | Self::ServerRss | Self::BytesPerConnection(_) => Unit::Bytes,
            Self::Count(_) | Self::Rate | Self::ConnectRate | Self::Cores(_) => Unit::Number,
        }
    }

    /// Its value in the results, if there is one.
    fn value(self, report: &Report) -> Option<f64> {
        let measured = report.measured.as_ref();
        let cpu = |side| match side {
            Side::Server => measured?.server_cpu.as_ref(),
            Side::Load => measured.map(|measured| &measured.load_cpu),
        };
        match self {
            Self::Percentile(percent) => at_percentile(measured?.latency_histogram.as_ref()?, percent),
            Self::PingPercentile(percent) => at_percentile(report.ping_histogram.as_ref()?, percent),
            Self::LagPercentile(percent) => at_percentile(measured?.lag_histogram.as_ref()?, percent),
            Self::Latency(edge) => {
                let latency = measured?.latency_us?;
                Some(match edge {
                    Edge::Min => latency.min,
                    Edge::Mean => latency.mean,
                    Edge::Max => latency.max,
                })
            }
            Self::Count(count) => Some(count.of(report) as f64),
            Self::Rate => Some(measured?.echoes_per_s),
            Self::ConnectRate => Some(report.connections.opened_per_s),
            Self::BytesRate => Some(measured?.payload_bytes_per_s),
            Self::Cores(side) => Some(cpu(side)?.cores),
            Self::CpuPerEcho(side) => cpu(side)?.us_per_echo,
            Self::ServerRss => Some(report.memory.at_end.server?.rss_bytes as f64),
            Self::BytesPerConnection(Side::Server) => report.memory.server_bytes_per_connection,
            Self::BytesPerConnection(Side::Load) => report.memory.load_bytes_per_connection,
        }
    }
}

impl Count {
    fn of(self, report: &Report) -> u64 {
        let (connections, messages) = (&report.connections, &report.messages);
        match self {
            Self::Errors => report.errors(),
            Self::Lost => messages.lost,
            Self::Reordered => messages.reordered,
            Self::Corrupted => messages.corrupted,
            Self::Late => messages.late,
            Self::Duplicated => messages.duplicated,
            Self::Unsent => messages.unsent,
            Self::PingsUnanswered => messages.pings_unanswered,
            Self::Unexpected => messages.unexpected,
            Self::Failed => connections.failed,
            Self::ClosedEarly => connections.closed_early,
            Self::Violations => connections.violations.iter().map(|violation| violation.count).sum(),
            Self::Connections => connections.ready,
            Self::Uncompressed => connections.opened.saturating_sub(connections.deflating),
        }
    }
}

fn percentile(text: &str) -> Option<f64> {
    text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
}

fn at_percentile(histogram: &crate::series::Encoded, percent: f64) -> Option<f64> {
    Some(histogram.decode()?.value_at_percentile(percent) as f64 / 1000.0)
}

impl Unit {
    fn parse(self, text: &str) -> Result<f64, String> {
        match self {
            Self::Time => parsing::duration_with_unit(text).map(|limit| limit.as_nanos() as f64 / 1e3),
            Self::Bytes => parsing::bytes(text).map(|limit| limit as f64),
            Self::Number => parsing::number(text),
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Time if value >= 1e6 => format!("{:.3} s", value / 1e6),
            Self::Time if value >= 1e3 => format!("{:.3} ms", value / 1e3),
            Self::Time => format!("{value:.1} µs"),
            Self::Bytes => units::bytes(value),
            Self::Number if value.fract() == 0.0 => units::count(value as u64),
            Self::Number => format!("{value:.2}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::report::Violation;
    use crate::output::report::tests::report;

    fn fails(threshold: &str, report: &Report) -> Option<String> {
        threshold.parse::<Threshold>().unwrap().check(report).map(|breach| breach.to_string())
    }

    #[test]
    fn conditions_are_compared_in_their_units() {
        let report = report();
        // Latencies of 100 µs and, of one echo in a hundred, 2 ms; 1000 echoes/s.
        for met in [
            "p50>150us",
            "p99.9>3ms",
            "max > 0.01s",
            "errors>0",
            "lost>=1",
            "rate<1000",
            "connections!=100",
            "server-cpu>0.6",
            "P50 >= 1_000_000ns",
            "bytes-rate<10KiB",
            "rate<1k",
            "server-rss>5GB",
            "load-cpu==2",
        ] {
            assert_eq!(fails(met, &report), None, "{met}");
        }
        for broken in ["p50>50us", "p99.9>1ms", "max>=1ms", "rate<1001", "connections==100", "server-cpu>0.1"] {
            assert!(fails(broken, &report).is_some(), "{broken}");
        }
        assert_eq!(fails("rate<2000", &report).unwrap(), "rate<2000: it is 1,000");
        assert!(fails("p99.9>1ms", &report).unwrap().contains("it is 2.0"));
    }

    #[test]
    fn each_count_is_looked_at_by_its_name() {
        type Happen = fn(&mut Report);
        let counts: [(&str, Happen); 10] = [
            ("lost", |it| it.messages.lost = 1),
            ("reordered", |it| it.messages.reordered = 1),
            ("corrupted", |it| it.messages.corrupted = 1),
            ("late", |it| it.messages.late = 1),
            ("duplicated", |it| it.messages.duplicated = 1),
            ("unexpected", |it| it.messages.unexpected = 1),
            ("unsent", |it| it.messages.unsent = 1),
            ("failed", |it| it.connections.failed = 1),
            ("closed-early", |it| it.connections.closed_early = 1),
            ("violations", |it| it.connections.violations.push(Violation { what: "mask".to_owned(), count: 1 })),
        ];
        for (name, happen) in counts {
            let mut report = report();
            happen(&mut report);
            for (other, _) in counts {
                assert_eq!(fails(&format!("{other}>0"), &report).is_some(), other == name, "{other} of {name}");
            }
            assert_eq!(fails("errors>0", &report).is_some(), name != "unsent", "{name} is an error");
            assert!(NAMES.contains(name), "{name} is not named");
        }
    }

    #[test]
    fn connections_that_were_to_be_compressed_are_counted() {
        let mut report = report();
        assert_eq!(fails("uncompressed>0", &report).unwrap(), "uncompressed>0: it is 100");
        report.connections.deflating = 99;
        assert!(fails("uncompressed>1", &report).is_none() && fails("uncompressed>=1", &report).is_some());
        report.connections.deflating = 100;
        assert!(fails("uncompressed>0", &report).is_none() && NAMES.contains("uncompressed"));
    }

    #[test]
    fn what_was_not_measured_fails() {
        let report = Report { measured: None, ..report() };
        assert_eq!(fails("p99>1s", &report).unwrap(), "p99>1s: not measured");
        assert_eq!(fails("lag-p99>1s", &report).unwrap(), "lag-p99>1s: not measured");
    }

    #[test]
    fn nonsense_is_refused_with_what_can_be_named() {
        for (nonsense, message) in [
            ("p99", "not a condition"),
            ("", "not a condition"),
            (">5", "what can be named"),
            ("p101>5ms", "what can be named"),
            ("speed>5", "server-cpu-per-echo"),
            ("p99>5", "has no unit"),
            ("p99>ms", "no time"),
            ("p99>-5ms", "no time"),
            ("errors>5ms", "not a number"),
            ("server-rss>5 parsecs", "no size"),
        ] {
            let error = nonsense.parse::<Threshold>().unwrap_err();
            assert!(error.contains(message) && error.contains("what can be named"), "{nonsense}: {error}");
        }
    }
}
