//! The results as JSON, written and read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::report::{Report, VERSION};

/// Writes the results.
pub fn write(report: &Report, file: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *file, report)?;
    file.write_all(b"\n")
}

/// An error in reading results.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    File(PathBuf, io::Error),
    /// The content is not valid.
    #[error("{0} does not hold results of ringload: {1}")]
    Content(PathBuf, serde_json::Error),
    /// A histogram is not valid.
    #[error("{0}: {1} cannot be decoded (the file is damaged)")]
    Histogram(PathBuf, String),
    /// The version is not supported.
    #[error("{0} has version {1} of the results' form, this ringload reads version {VERSION}")]
    Version(PathBuf, u32),
}

/// Reads results that [`write`] wrote; `-` is standard input.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let is_stdin = path.as_os_str() == "-";
    let text = if is_stdin { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|error| ReadError::File(path.to_owned(), error))?;
    let text = if is_stdin { results_in(&text) } else { text.as_str() };
    let content = |error| ReadError::Content(path.to_owned(), error);
    let Versioned { version } = serde_json::from_str(text).map_err(content)?;
    if version != VERSION {
        return Err(ReadError::Version(path.to_owned(), version));
    }
    let report: Report = serde_json::from_str(text).map_err(content)?;
    match damaged_histogram(&report) {
        Some(name) => Err(ReadError::Histogram(path.to_owned(), name)),
        None => Ok(report),
    }
}

/// Extracts the results from a container's log, where lines of standard error come before and after them: from the
/// first line that is `{` to the last one that is `}`.
fn results_in(log: &str) -> &str {
    let start = if log.starts_with("{\n") { 0 } else { log.find("\n{\n").map_or(0, |before| before + 1) };
    let end = log.rfind("\n}\n").map_or(log.len(), |before| before + 3);
    log.get(start..end).unwrap_or(log)
}

/// The name of a histogram that does not decode: without it, merged percentiles would be those of the other runs.
fn damaged_histogram(report: &Report) -> Option<String> {
    let measured = report.measured.as_ref();
    let of_the_run = [
        ("connections.latency_histogram", report.connections.latency_histogram.as_ref()),
        ("ping_histogram", report.ping_histogram.as_ref()),
        ("measured.latency_histogram", measured.and_then(|it| it.latency_histogram.as_ref())),
        ("measured.lag_histogram", measured.and_then(|it| it.lag_histogram.as_ref())),
    ];
    let of_samples = report.series.iter().map(|sample| sample.latency_histogram.as_ref()).enumerate();
    let of_samples = of_samples.map(|(index, it)| (format!("series[{index}].latency_histogram"), it));
    let mut all = of_the_run.into_iter().map(|(name, it)| (name.to_owned(), it)).chain(of_samples);
    all.find(|(_, it)| it.is_some_and(|it| it.decode().is_none())).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ringload.schema.json");

    #[test]
    fn results_survive_being_written_and_read() {
        let mut written = Vec::new();
        write(&report(), &mut written).unwrap();
        let path = std::env::temp_dir().join(format!("ringload-json-{}.json", std::process::id()));
        std::fs::write(&path, &written).unwrap();
        assert_eq!(read(&path).unwrap(), report());
        let whole = String::from_utf8(written).unwrap();
        let histogram = report().measured.unwrap().latency_histogram.unwrap();
        let damaged = whole.replacen(histogram.text(), "HISTFAAAAAAA", 1);
        std::fs::write(&path, damaged).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("measured.latency_histogram cannot be decoded"), "{error}");
        std::fs::write(&path, r#"{"version": 999}"#).unwrap();
        assert!(matches!(read(&path), Err(ReadError::Version(_, 999))));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(read(&path), Err(ReadError::Content(..))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path), Err(ReadError::File(..))));
    }

    #[test]
    fn results_are_found_in_a_log() {
        let mut written = Vec::new();
        write(&report(), &mut written).unwrap();
        let written = String::from_utf8(written).unwrap();
        for log in [written.clone(), format!("ringload: a note\n{written}"), format!("a\n{written}ringload: the end\n")]
        {
            assert_eq!(results_in(&log), written);
        }
        for other in ["", "nothing\n", "{\"version\": 5}", "\n}\n", "a\n}\n"] {
            assert!(other.starts_with(results_in(other)), "{other:?} is not cut at its start");
        }
        assert_eq!(results_in("\n}\n{\n"), "", "the end comes before the start");
    }

    /// The schema is made from the types. After a change to them: `UPDATE_SCHEMA=1 cargo test -p ringload schema`.
    #[test]
    fn the_schema_is_that_of_the_types() {
        let mut schema = schemars::schema_for!(Report);
        schema.insert("title".to_owned(), format!("Results of ringload, version {VERSION}").into());
        let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(SCHEMA, &schema).unwrap();
        }
        assert!(std::fs::read_to_string(SCHEMA).unwrap() == schema, "docs/ringload.schema.json is out of date");
    }
}
