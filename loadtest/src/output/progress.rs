//! One line per second during the run.

use std::time::{Duration, Instant};

use super::say;
use super::units::{bytes, count, time};
use crate::control::Phase;
use crate::series::Sample;
use crate::stats::{Counter, Counts};

/// Minimum interval between lines: at the end of a phase samples may come sooner.
const MIN_DISTANCE: Duration = Duration::from_millis(700);

/// The line printer.
#[derive(Debug)]
pub struct Lines {
    last: Instant,
}

impl Lines {
    /// Prints the plan of the run.
    #[must_use]
    pub fn new(headline: &str) -> Self {
        say(format_args!("{headline}\n"));
        Self { last: Instant::now() }
    }

    /// Prints a line.
    pub fn show(&mut self, sample: &Sample, counts: &Counts) {
        if self.last.elapsed() >= MIN_DISTANCE {
            self.last = Instant::now();
            say(format_args!("{}\n", line(sample, counts)));
        }
    }
}

fn line(sample: &Sample, counts: &Counts) -> String {
    let mut line = format!(
        "{:>6.1} s  {:<8} {:>9} open {:>9}/s echoes",
        sample.time_s,
        sample.phase.name(),
        count(sample.connections_open),
        count(sample.echoes_per_s as u64),
    );
    if sample.phase == Phase::Connect {
        line = format!("{line} {:>7}/s connects", count(sample.connections_per_s as u64));
    } else if let Some(latency) = &sample.latency_us {
        line = format!("{line}  p50 {} p99 {}", time(latency.p50), time(latency.p99));
    }
    if counts[Counter::Deflating] > 0 && sample.phase != Phase::Connect {
        let (sent, received) = (bytes(sample.wire_sent_bytes_per_s), bytes(sample.wire_received_bytes_per_s));
        line = format!("{line}  wire {sent}/s sent, {received}/s received");
    }
    line = format!("{line}  load cpu {:>3.0} %", sample.load.cores() * 100.0);
    if let Some(server) = &sample.server {
        line = format!("{line}, server cpu {:>3.0} %, {}", server.cores() * 100.0, bytes(server.rss_bytes as f64));
    }
    if !counts.are_clean() {
        line = format!("{line}  {}", faults(counts));
    }
    line
}

/// The faults so far, in brief.
#[must_use]
pub fn faults(counts: &Counts) -> String {
    use Counter::{Corrupted, Duplicated, Late, Reordered, Unexpected};
    format!(
        "failed {} closed early {} lost {} wrong {}",
        count(counts[Counter::Failed]),
        count(counts[Counter::ClosedEarly] + counts[Counter::Violations]),
        count(counts[Counter::Lost]),
        count([Corrupted, Reordered, Late, Duplicated, Unexpected].iter().map(|&wrong| counts[wrong]).sum()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::sample;

    #[test]
    fn a_line_says_what_matters_in_its_phase() {
        let mut counts = Counts::default();
        let measuring = sample(3.0, 12_345.0, 80);
        assert_eq!(
            line(&measuring, &counts),
            "   3.0 s  measure        100 open    12,345/s echoes  p50 80.4 µs p99 80.4 µs  load cpu  25 %, server cpu  50 %, 0 B"
        );
        counts[Counter::Deflating] = 1;
        let text = line(&measuring, &counts);
        assert!(text.contains("  wire 1.6 MiB/s sent, 1.5 MiB/s received  load cpu"), "{text}");
        counts[Counter::Lost] = 7;
        let connecting = Sample { phase: Phase::Connect, connections_per_s: 5000.0, ..measuring };
        let text = line(&connecting, &counts);
        assert!(
            text.contains("5,000/s connects") && text.ends_with("failed 0 closed early 0 lost 7 wrong 0"),
            "{text}"
        );
    }
}
