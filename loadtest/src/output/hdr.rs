//! The latencies of each second in the log format of `HdrHistogram`, for its tools.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use super::report::Report;
use crate::control::Phase;

/// Latencies are in nanoseconds; the log's column of maxima is in milliseconds.
const NS_PER_MS: f64 = 1e6;

/// Writes the log: intervals of the measured time without a tag, others tagged with their phase.
pub fn write(report: &Report, file: &mut impl Write) -> io::Result<()> {
    let started = report.runs.first().map_or(0.0, |run| run.started_unix_s);
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(started);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Latencies of echoes in nanoseconds, by ringload]")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(file, &mut serializer)?;
    for sample in &report.series {
        let Some(histogram) = sample.latency_histogram.as_ref().and_then(crate::series::Encoded::decode) else {
            continue;
        };
        let begin = Duration::from_secs_f64((sample.time_s - sample.interval_s).max(0.0));
        let tag = if sample.phase == Phase::Measure { None } else { Tag::new(sample.phase.name()) };
        let written = log.write_histogram(&histogram, begin, Duration::from_secs_f64(sample.interval_s), tag);
        written.map_err(|error| match error {
            IntervalLogWriterError::IoError(error) => error,
            IntervalLogWriterError::SerializeError(error) => io::Error::other(format!("{error:?}")),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn the_log_can_be_read_back() {
        let mut report = report();
        report.series[0].phase = Phase::WarmUp;
        let mut text = Vec::new();
        write(&report, &mut text).unwrap();
        let mut intervals = Vec::new();
        for entry in IntervalLogIterator::new(&text) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                let tag = interval.tag().map(|tag| tag.as_str().to_owned());
                intervals.push((tag, interval.start_timestamp().as_secs(), interval.max()));
            }
        }
        assert_eq!(intervals.len(), 2);
        assert_eq!(intervals[0].0.as_deref(), Some("warm-up"));
        assert_eq!((intervals[1].0.as_deref(), intervals[1].1), (None, 1));
        assert!((0.14..0.16).contains(&intervals[1].2), "milliseconds: {}", intervals[1].2);
    }
}
