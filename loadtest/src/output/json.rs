//! The results for programs.

use std::io::{self, Write};
use std::path::Path;

use super::report::Report;

/// Writes the results to `path`, replacing what is there.
pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    serde_json::to_writer_pretty(&mut file, report)?;
    file.write_all(b"\n")?;
    file.flush()
}
