//! Metrics of a cell, under the names used in files, conditions and reports.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::words::unknown;
use crate::output::units;

/// A quantity of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Processor time of the server per echo, in microseconds.
    CpuPerEcho,
    /// The part of it in user space.
    UserPerEcho,
    /// The part of it in the kernel.
    SystemPerEcho,
    /// Echoes per second.
    Rate,
    /// Median latency in microseconds.
    P50,
    /// 99th percentile of the latencies.
    P99,
    /// 99.9th percentile of the latencies.
    #[serde(rename = "p99.9")]
    P999,
    /// Processor time of the server per connection, in microseconds.
    ConnectCpu,
    /// Connections opened per second.
    ConnectRate,
    /// User memory of the server per idle connection.
    BytesPerConnection,
    /// Kernel objects per idle connection, of both ends.
    KernelBytesPerConnection,
    /// Peak resident memory of the server, in bytes.
    PeakMemory,
    /// Its resident memory after all connections have closed.
    MemoryAfter,
}

/// How a metric's value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Time,
    PerSecond,
    Bytes,
}

impl Metric {
    /// All metrics, in the order of reports.
    pub const ALL: [Self; 13] = [
        Self::CpuPerEcho,
        Self::UserPerEcho,
        Self::SystemPerEcho,
        Self::Rate,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::ConnectCpu,
        Self::ConnectRate,
        Self::BytesPerConnection,
        Self::KernelBytesPerConnection,
        Self::PeakMemory,
        Self::MemoryAfter,
    ];

    /// The name in files, conditions and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuPerEcho => "cpu-per-echo",
            Self::UserPerEcho => "user-per-echo",
            Self::SystemPerEcho => "system-per-echo",
            Self::Rate => "rate",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::ConnectCpu => "connect-cpu",
            Self::ConnectRate => "connect-rate",
            Self::BytesPerConnection => "bytes-per-connection",
            Self::KernelBytesPerConnection => "kernel-bytes-per-connection",
            Self::PeakMemory => "peak-memory",
            Self::MemoryAfter => "memory-after",
        }
    }

    /// The name for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::CpuPerEcho => "server CPU per echo",
            Self::UserPerEcho => "server CPU per echo, user",
            Self::SystemPerEcho => "server CPU per echo, system",
            Self::Rate => "echoes per second",
            Self::P50 => "latency p50",
            Self::P99 => "latency p99",
            Self::P999 => "latency p99.9",
            Self::ConnectCpu => "server CPU per connection opened",
            Self::ConnectRate => "connections opened per second",
            Self::BytesPerConnection => "server memory per idle connection",
            Self::KernelBytesPerConnection => "kernel objects per idle connection, both ends",
            Self::PeakMemory => "peak memory of the server",
            Self::MemoryAfter => "memory of the server when all have left",
        }
    }

    /// The heading of a column.
    #[must_use]
    pub fn short_title(self) -> &'static str {
        match self {
            Self::CpuPerEcho => "CPU per echo",
            Self::BytesPerConnection => "memory per idle connection",
            other => other.name(),
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub fn is_more_better(self) -> bool {
        matches!(self, Self::Rate | Self::ConnectRate)
    }

    /// Whether it is a time or a rate, so that better means faster; the other metrics are memory, where better means
    /// smaller.
    #[must_use]
    pub fn is_speed(self) -> bool {
        self.unit() != Unit::Bytes
    }

    /// Whether it is valid whichever side was the limit. A rate and a latency in a closed loop depend on the generator
    /// as well.
    #[must_use]
    pub fn is_of_the_server_alone(self) -> bool {
        matches!(
            self,
            Self::CpuPerEcho
                | Self::UserPerEcho
                | Self::SystemPerEcho
                | Self::ConnectCpu
                | Self::BytesPerConnection
                | Self::KernelBytesPerConnection
                | Self::PeakMemory
                | Self::MemoryAfter
        )
    }

    fn unit(self) -> Unit {
        match self {
            Self::CpuPerEcho
            | Self::UserPerEcho
            | Self::SystemPerEcho
            | Self::P50
            | Self::P99
            | Self::P999
            | Self::ConnectCpu => Unit::Time,
            Self::Rate | Self::ConnectRate => Unit::PerSecond,
            Self::BytesPerConnection | Self::KernelBytesPerConnection | Self::PeakMemory | Self::MemoryAfter => {
                Unit::Bytes
            }
        }
    }

    /// A value with its unit, for people.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self.unit() {
            Unit::Time => units::time(value),
            Unit::PerSecond => format!("{}/s", units::count(value.round() as u64)),
            Unit::Bytes => units::bytes(value),
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|metric| metric.name() == text);
        found.ok_or_else(|| unknown("metric", text, Self::ALL.map(Self::name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        for metric in Metric::ALL {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
            assert_eq!(metric.name().parse(), Ok(metric));
        }
        assert!("cpu-per-eco".parse::<Metric>().unwrap_err().contains("did you mean `cpu-per-echo`?"));
    }

    #[test]
    fn values_have_units() {
        assert_eq!(Metric::CpuPerEcho.show(4.5), "4.50 µs");
        assert_eq!(Metric::Rate.show(123_456.4), "123,456/s");
        assert_eq!(Metric::BytesPerConnection.show(56.0), "56 B");
    }
}
