//! The files that the results are written to, and the flags that name them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::report::Report;
use super::{csv, hdr, html, json, say, table};
use crate::thresholds::{self, Threshold};

/// Where the results go beside the table, and what must not be in them. Shared by `run` and `report`.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Results")]
pub struct Results {
    /// Write everything as JSON (docs/ringload.schema.json); `ringload report` reads it again
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the time series as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write a page with charts: one file that needs no network
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write the latencies of each second in the log format of `HdrHistogram`
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,

    /// Fail (exit code 1) where this holds, like "p99>5ms", "errors>0" or "rate<100000"; may be given several times
    #[arg(long, value_name = "CONDITION", action = clap::ArgAction::Append)]
    pub fail_if: Vec<Threshold>,
}

/// Files that could not be written, each with the reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {0}")]
pub struct WriteError(String);

impl WriteError {
    fn new(path: &Path, error: &io::Error) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}

impl Results {
    /// Refuses files that would be written over each other.
    pub fn resolve(&self) -> Result<(), String> {
        let files: Vec<_> = [&self.json, &self.csv, &self.html, &self.hdr].into_iter().flatten().collect();
        let twice = files.iter().enumerate().find(|&(index, file)| files[..index].contains(file) && !is_device(file));
        twice.map_or(Ok(()), |(_, file)| Err(format!("{} is to be written twice", file.display())))
    }

    /// Refuses, before a long run, files that cannot be written. It leaves none behind.
    pub fn check(&self) -> Result<(), WriteError> {
        for path in [&self.json, &self.csv, &self.html, &self.hdr].into_iter().flatten() {
            let is_new = !path.exists();
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            opened
                .and_then(|_| if is_new { std::fs::remove_file(path) } else { Ok(()) })
                .map_err(|error| WriteError::new(path, &error))?;
        }
        Ok(())
    }

    /// Prints the table, writes the files and judges. True if nothing was wrong and no threshold was broken. A file that
    /// cannot be written keeps nothing else from being tried: a run is not to be had again.
    pub fn publish(&self, report: &Report) -> Result<bool, WriteError> {
        say(format_args!("{}", table::render(report)));
        let written = [
            write(self.json.as_deref(), |file| json::write(report, file)),
            write(self.csv.as_deref(), |file| csv::write(&report.series, file)),
            write(self.html.as_deref(), |file| html::write(report, file)),
            write(self.hdr.as_deref(), |file| hdr::write(report, file)),
        ];
        let breaches = thresholds::breaches(&self.fail_if, report);
        for breach in &breaches {
            say(format_args!("{:<14} {breach}\n", "FAILED"));
        }
        let unwritten: Vec<_> = written.into_iter().filter_map(|it| it.err().map(|error| error.0)).collect();
        if !unwritten.is_empty() {
            return Err(WriteError(unwritten.join("; ")));
        }
        Ok(report.ok && breaches.is_empty())
    }
}

/// What is written there does not stay: `/dev/null`, a pipe.
fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

fn write(
    path: Option<&Path>,
    content: impl FnOnce(&mut io::BufWriter<std::fs::File>) -> io::Result<()>,
) -> Result<(), WriteError> {
    let Some(path) = path else { return Ok(()) };
    let all = || {
        let mut file = io::BufWriter::new(std::fs::File::create(path)?);
        content(&mut file)?;
        file.flush()
    };
    all().map_err(|error| WriteError::new(path, &error))
}
