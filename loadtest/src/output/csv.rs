//! The time series as CSV: one line per sample, all fields numeric except the phase; unknown values are empty.

use std::io::{self, LineWriter, Write};
use std::path::Path;

use super::files;
use crate::series::{ProcessSample, Sample};

/// Writes the series under a line of headings.
pub fn write(series: &[Sample], file: &mut impl Write) -> io::Result<()> {
    write_headings(file)?;
    series.iter().try_for_each(|sample| write_sample(sample, file))
}

fn write_headings(file: &mut impl Write) -> io::Result<()> {
    let headings: Vec<_> = columns(None).into_iter().map(|(heading, _)| heading).collect();
    file.write_all((headings.join(",") + "\n").as_bytes())
}

fn write_sample(sample: &Sample, file: &mut impl Write) -> io::Result<()> {
    let fields: Vec<_> = columns(Some(sample)).into_iter().map(|(_, field)| field).collect();
    // One write per line: a reader of the growing file sees whole lines.
    file.write_all((fields.join(",") + "\n").as_bytes())
}

/// A file that grows during the run, so that its lines survive however the run ends.
pub(super) struct CsvLog(io::Result<Output>);

/// The writer.
type Output = LineWriter<Box<dyn Write>>;

impl std::fmt::Debug for CsvLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CsvLog").field(&self.0.as_ref().map(|_| "open")).finish()
    }
}

impl CsvLog {
    /// Creates the file. An error does not end the run; it is reported at the end.
    pub(super) fn create(path: &Path) -> Self {
        let created = files::create(path).map(LineWriter::new);
        Self(created.and_then(|mut file| write_headings(&mut file).map(|()| file)))
    }

    /// Adds a line.
    pub(super) fn add(&mut self, sample: &Sample) {
        if let Ok(file) = &mut self.0
            && let Err(error) = write_sample(sample, file)
        {
            self.0 = Err(error);
        }
    }

    /// The result of writing.
    pub(super) fn finish(self) -> io::Result<()> {
        super::unless_nobody_reads(self.0.and_then(|mut file| file.flush()))
    }
}

/// Headings and fields in one table, so that they stay in step.
fn columns(sample: Option<&Sample>) -> Vec<(&'static str, String)> {
    let field = |value: &dyn Fn(&Sample) -> Option<f64>| sample.and_then(value).map(number).unwrap_or_default();
    let server = |value: fn(ProcessSample) -> Option<f64>| field(&|sample| sample.server.and_then(value));
    let load = |value: fn(ProcessSample) -> f64| field(&|sample| Some(value(sample.load)));
    vec![
        ("time_s", field(&|it| Some(it.time_s))),
        ("interval_s", field(&|it| Some(it.interval_s))),
        ("phase", sample.map(|it| it.phase.name().to_owned()).unwrap_or_default()),
        ("connections_open", field(&|it| Some(it.connections_open as f64))),
        ("connections_per_s", field(&|it| Some(it.connections_per_s))),
        ("errors", field(&|it| Some(it.errors as f64))),
        ("echoes_per_s", field(&|it| Some(it.echoes_per_s))),
        ("payload_bytes_per_s", field(&|it| Some(it.payload_bytes_per_s))),
        ("wire_sent_bytes_per_s", field(&|it| Some(it.wire_sent_bytes_per_s))),
        ("wire_received_bytes_per_s", field(&|it| Some(it.wire_received_bytes_per_s))),
        ("latency_p50_us", field(&|it| Some(it.latency_us?.p50))),
        ("latency_p99_us", field(&|it| Some(it.latency_us?.p99))),
        ("latency_max_us", field(&|it| Some(it.latency_us?.max))),
        ("server_cpu_user_cores", server(|it| Some(it.cpu_user_cores))),
        ("server_cpu_system_cores", server(|it| Some(it.cpu_system_cores))),
        ("server_rss_bytes", server(|it| Some(it.rss_bytes as f64))),
        ("server_pss_bytes", server(|it| Some(it.pss_bytes? as f64))),
        ("server_processes", server(|it| Some(it.processes as f64))),
        ("load_cpu_user_cores", load(|it| it.cpu_user_cores)),
        ("load_cpu_system_cores", load(|it| it.cpu_system_cores)),
        ("load_rss_bytes", load(|it| it.rss_bytes as f64)),
        ("kernel_slab_bytes", field(&|it| Some(it.kernel.slab_bytes as f64))),
        ("kernel_available_bytes", field(&|it| Some(it.kernel.available_bytes as f64))),
        ("tcp_sockets", field(&|it| Some(it.kernel.tcp_sockets as f64))),
        ("tcp_queue_bytes", field(&|it| Some(it.kernel.tcp_queue_bytes as f64))),
    ]
}

/// A number with its significant digits.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::tests::sample;

    #[test]
    fn each_line_has_a_field_for_each_heading() {
        let mut text = Vec::new();
        let without_server = Sample { server: None, latency_us: None, ..sample(2.5, 10.0, 5) };
        write(&[sample(1.0, 1000.0, 100), without_server], &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        let field = |line: usize, name| lines[line][lines[0].iter().position(|&heading| heading == name).unwrap()];
        assert_eq!((field(1, "phase"), field(1, "echoes_per_s"), field(2, "time_s")), ("measure", "1000", "2.500"));
        assert_eq!((field(1, "server_cpu_user_cores"), field(2, "server_cpu_user_cores")), ("0.500", ""));
        assert_eq!(field(2, "latency_p99_us"), "");
    }
}
