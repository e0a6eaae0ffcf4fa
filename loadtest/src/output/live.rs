//! Output during a run: the CSV file grows by a line per sample, and metrics can be scraped.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::csv::CsvLog;
use super::metrics::Metrics;
use crate::series::Sample;
use crate::stats::Counts;

/// The requested outputs. The main thread feeds them, not the load threads.
#[derive(Debug, Default)]
pub struct Live {
    csv: Option<CsvLog>,
    metrics: Option<Metrics>,
}

impl Live {
    /// Serves the metrics at `address`, if given.
    pub fn serve(address: Option<SocketAddr>) -> io::Result<Self> {
        Ok(Self { csv: None, metrics: address.map(Metrics::serve).transpose()? })
    }

    /// Creates the CSV file at `path`, if given.
    pub fn log(&mut self, path: Option<&Path>) {
        self.csv = path.map(CsvLog::create);
    }

    /// The address of the metrics server.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(Metrics::address)
    }

    /// A run of a scenario against `target` begins.
    pub fn begin(&mut self, target: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.begin(target);
        }
    }

    /// A sample has been taken.
    pub fn take(&mut self, sample: &Sample, counts: &Counts) {
        if let Some(csv) = &mut self.csv {
            csv.add(sample);
        }
        if let Some(metrics) = &self.metrics {
            metrics.take(sample, counts);
        }
    }

    /// The result of writing the CSV file, if one was written.
    pub(super) fn csv_result(self) -> Option<io::Result<()>> {
        self.csv.map(CsvLog::finish)
    }
}
