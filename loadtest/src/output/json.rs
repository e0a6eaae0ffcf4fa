//! The results for programs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::report::{Report, VERSION};

/// Writes the results.
pub fn write(report: &Report, file: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *file, report)?;
    file.write_all(b"\n")
}

/// Why results cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error("cannot read {0}: {1}")]
    File(PathBuf, io::Error),
    /// Its content.
    #[error("{0} does not hold results of ringload: {1}")]
    Content(PathBuf, serde_json::Error),
    /// Its version.
    #[error("{0} has version {1} of the results' form, this ringload reads version {VERSION}")]
    Version(PathBuf, u32),
}

/// Reads results that [`write`] wrote.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let text = std::fs::read_to_string(path).map_err(|error| ReadError::File(path.to_owned(), error))?;
    let content = |error| ReadError::Content(path.to_owned(), error);
    let Versioned { version } = serde_json::from_str(&text).map_err(content)?;
    if version != VERSION {
        return Err(ReadError::Version(path.to_owned(), version));
    }
    serde_json::from_str(&text).map_err(content)
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
        std::fs::write(&path, r#"{"version": 999}"#).unwrap();
        assert!(matches!(read(&path), Err(ReadError::Version(_, 999))));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(read(&path), Err(ReadError::Content(..))));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path), Err(ReadError::File(..))));
    }

    /// The schema is made from the types. After a change to them: `UPDATE_SCHEMA=1 cargo test -p ringload schema`.
    #[test]
    fn the_schema_is_that_of_the_types() {
        let mut schema = schemars::schema_for!(Report);
        schema.insert("title".to_owned(), "Results of ringload, version 2".into());
        let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(SCHEMA, &schema).unwrap();
        }
        assert!(std::fs::read_to_string(SCHEMA).unwrap() == schema, "docs/ringload.schema.json is out of date");
    }
}
