//! Goals of a search: `p99=10ms`.

use std::str::FromStr;

use crate::output::report::LatencyReport;
use crate::output::units::time;
use crate::parsing;

/// A limit on a latency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    what: What,
    limit_us: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Mean,
    P50,
    P90,
    P95,
    P99,
    P99_9,
    Max,
}

const NAMES: [(&str, What); 7] = [
    ("mean", What::Mean),
    ("p50", What::P50),
    ("p90", What::P90),
    ("p95", What::P95),
    ("p99", What::P99),
    ("p99.9", What::P99_9),
    ("max", What::Max),
];

impl Goal {
    /// The highest latency that is good, in microseconds.
    #[must_use]
    pub fn limit_us(&self) -> f64 {
        self.limit_us
    }

    /// How a run has missed this goal; `None` if it has met it.
    #[must_use]
    pub fn missed_by(&self, latency: Option<&LatencyReport>) -> Option<String> {
        let Some(latency) = latency else { return Some("nothing came back".to_owned()) };
        let value_us = match self.what {
            What::Mean => latency.mean,
            What::P50 => latency.p50,
            What::P90 => latency.p90,
            What::P95 => latency.p95,
            What::P99 => latency.p99,
            What::P99_9 => latency.p99_9,
            What::Max => latency.max,
        };
        let name = NAMES.iter().find(|(_, what)| *what == self.what).map_or("", |(name, _)| name);
        (value_us > self.limit_us).then(|| format!("{name} is {}, more than {}", time(value_us), time(self.limit_us)))
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no goal like p99=10ms (p50, p90, p95, p99, p99.9, mean or max; a time like 800us, 10ms or 1s)"
            )
        };
        let (name, limit) = text.split_once('=').ok_or_else(wrong)?;
        let (_, what) = NAMES.iter().find(|(known, _)| *known == name.trim()).ok_or_else(wrong)?;
        let limit =
            parsing::duration_with_unit(limit.trim()).ok().filter(|limit| !limit.is_zero()).ok_or_else(wrong)?;
        Ok(Self { what: *what, limit_us: limit.as_nanos() as f64 / 1e3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_read_and_applied() {
        let goal: Goal = "p99.9=1.5ms".parse().unwrap();
        let latency = LatencyReport { p50: 1.0, p99: 2.0, p99_9: 1500.0, max: 9000.0, ..LatencyReport::default() };
        assert_eq!(goal.missed_by(Some(&latency)), None);
        let goal: Goal = "max=5000us".parse().unwrap();
        assert_eq!(goal.missed_by(Some(&latency)).unwrap(), "max is 9.00 ms, more than 5.00 ms");
        assert!(goal.missed_by(None).is_some());
        for wrong in ["", "p99", "p98=1ms", "p99=ms", "p99=0ms", "p99=5", "p99=1q"] {
            assert!(wrong.parse::<Goal>().is_err(), "{wrong}");
        }
    }
}
