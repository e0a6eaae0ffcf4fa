//! Output files, and the flags that name them.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::diff::Diff;
use super::live::Live;
use super::report::Report;
use super::{columns, csv, hdr, html, json, summary, table, tell};
use crate::thresholds::{self, Threshold};

/// Output files of results, and the conditions on them. Shared by `run` and `report`.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Results")]
pub struct Results {
    /// Write everything as JSON; - is standard output
    ///
    /// The form is docs/ringload.schema.json; `ringload report` reads it again. With - the table goes to standard
    /// error, or is left out with --quiet.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write the time series as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write a page with charts
    ///
    /// One file that needs no network.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Append a summary in Markdown, as for "$GITHUB_STEP_SUMMARY"
    #[arg(long, value_name = "FILE")]
    #[expect(clippy::doc_markdown, reason = "a help text, in which the variable is to be read as it is written")]
    pub summary: Option<PathBuf>,

    /// Write the latencies of each second in the log format of `HdrHistogram`
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,

    /// Exit code 1 if this holds, like "p99>5ms"
    ///
    /// Like "errors>0" or "rate<100k"; may be given several times. docs/LOADTEST.md lists what can be named, as does
    /// the error message for an unknown name.
    #[arg(long, value_name = "CONDITION", action = clap::ArgAction::Append)]
    pub fail_if: Vec<Threshold>,
}

/// Output files that could not be written, with their errors.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {0}")]
pub struct WriteError(String);

impl WriteError {
    fn new(path: &Path, error: &io::Error) -> Self {
        Self(format!("{}: {error}", path.display()))
    }

    /// The results could not be printed.
    #[must_use]
    pub fn to_stdout(error: &io::Error) -> Self {
        Self(format!("to standard output: {error}"))
    }
}

impl Results {
    /// The names of the requested files.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.json, &self.csv, &self.html, &self.hdr, &self.summary].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The files in words, ` (a.json, a.html)`, or an empty text.
    #[must_use]
    pub fn place(&self) -> String {
        let name =
            |path: &Path| if is_stdout(path) { "its standard output".to_owned() } else { path.display().to_string() };
        let names: Vec<_> = self.paths().map(name).collect();
        if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
    }

    /// Whether one of the files is standard output.
    #[must_use]
    pub fn take_stdout(&self) -> bool {
        self.paths().any(is_stdout)
    }

    /// Refuses two files that are the same one, however their paths are spelled.
    pub fn resolve(&self) -> Result<(), String> {
        let mut seen = Vec::new();
        for path in self.paths() {
            let Some(file) = Identity::of(path) else { continue };
            if seen.contains(&file) {
                return Err(format!("{} is to be written twice", path.display()));
            }
            seen.push(file);
        }
        Ok(())
    }

    /// Refuses files that cannot be written, before a long run. The check leaves no file behind.
    pub fn check(&self) -> Result<(), WriteError> {
        for path in self.paths().filter(|path| !is_stdout(path)) {
            let is_new = !path.exists();
            let file = end_of_links(path);
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            opened
                .and_then(|_| if is_new { std::fs::remove_file(file) } else { Ok(()) })
                .map_err(|error| WriteError::new(path, &error))?;
        }
        Ok(())
    }

    /// Whether any file is requested.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.paths().next().is_some()
    }

    /// Prints two results side by side, and writes the files whose format supports that.
    pub fn publish_diff(&self, diff: &Diff) -> Result<(), WriteError> {
        let written = [
            tell(format_args!("{}", diff.render())).map_err(|error| WriteError::to_stdout(&error)),
            write(self.html.as_deref(), |file| html::write_diff(diff, file)),
            append(self.summary.as_deref(), &summary::of_diff(diff)),
        ];
        all_written(written)
    }

    /// Prints the table, writes the files and evaluates the conditions. Returns true if there was no fault and no
    /// condition held. All other files are written even if one fails: a run cannot be repeated.
    ///
    /// The CSV file is left out if `live` has written it.
    pub fn publish(&self, report: &Report, live: Live) -> Result<bool, WriteError> {
        let breaches = thresholds::breaches(&self.fail_if, report);
        let written = [
            tell(format_args!("{}", table::fold(&table::render(report, &breaches), columns())))
                .map_err(|error| WriteError::to_stdout(&error)),
            write(self.json.as_deref(), |file| json::write(report, file)),
            match (live.csv_result(), &self.csv) {
                (Some(result), Some(path)) => result.map_err(|error| WriteError::new(path, &error)),
                _ => write(self.csv.as_deref(), |file| csv::write(&report.series, file)),
            },
            append(self.summary.as_deref(), &summary::of_run(report, &breaches)),
            write(self.html.as_deref(), |file| html::write(report, &breaches, file)),
            write(self.hdr.as_deref(), |file| hdr::write(report, file)),
        ];
        all_written(written)?;
        Ok(report.ok && breaches.is_empty())
    }
}

fn all_written<const N: usize>(written: [Result<(), WriteError>; N]) -> Result<(), WriteError> {
    let unwritten: Vec<_> = written.into_iter().filter_map(|it| it.err().map(|error| error.0)).collect();
    if unwritten.is_empty() { Ok(()) } else { Err(WriteError(unwritten.join("; "))) }
}

/// The file name that stands for standard output.
const STDOUT: &str = "-";

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == STDOUT
}

/// The identity of a file, independent of its path.
#[derive(PartialEq, Eq)]
enum Identity {
    Stdout,
    /// An existing file, by device and inode.
    Existing(u64, u64),
    /// A future file, by its path.
    New(PathBuf),
}

impl Identity {
    /// The identity; `None` if several outputs may share the file, since `/dev/null` or a pipe stores nothing.
    fn of(path: &Path) -> Option<Self> {
        if is_stdout(path) {
            return Some(Self::Stdout);
        }
        match std::fs::metadata(path) {
            Ok(metadata) => metadata.is_file().then(|| Self::Existing(metadata.dev(), metadata.ino())),
            Err(_) => Some(Self::New(end_of_links(path))),
        }
    }
}

/// The future path of a file that does not exist yet: dangling links and the directory's aliases are resolved.
fn end_of_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => path = directory(&path).join(target),
            Err(_) => break,
        }
    }
    match (std::fs::canonicalize(directory(&path)), path.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => path,
    }
}

/// The kernel's limit of symbolic links in a path.
const MAX_LINKS: usize = 40;

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Appends to existing content: the steps of a job share one summary.
fn append(path: Option<&Path>, text: &str) -> Result<(), WriteError> {
    let Some(path) = path else { return Ok(()) };
    if is_stdout(path) {
        return write(Some(path), |file| file.write_all(text.as_bytes()));
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| WriteError::new(path, &error))
}

/// The file at `path`, truncated, or standard output.
pub(super) fn create(path: &Path) -> io::Result<Box<dyn Write>> {
    Ok(if is_stdout(path) { Box::new(io::stdout()) } else { Box::new(std::fs::File::create(path)?) })
}

type Output = io::BufWriter<Box<dyn Write>>;

fn write(path: Option<&Path>, content: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<(), WriteError> {
    let Some(path) = path else { return Ok(()) };
    let all = || {
        let mut output = io::BufWriter::new(create(path)?);
        content(&mut output)?;
        output.flush()
    };
    let written = if is_stdout(path) { super::unless_nobody_reads(all()) } else { all() };
    written.map_err(|error| WriteError::new(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary directory, removed on drop.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringload-{test}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("sub")).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn two(json: &Path, html: &Path) -> Results {
        Results { json: Some(json.to_owned()), html: Some(html.to_owned()), ..Results::default() }
    }

    #[test]
    fn standard_output_is_named_in_words() {
        assert_eq!(two(Path::new("-"), Path::new("a.html")).place(), " (its standard output, a.html)");
        assert_eq!(Results::default().place(), "");
    }

    #[test]
    fn a_file_is_the_same_however_it_is_spelled() {
        let directory = Directory::new("same-file");
        let at = |name: &str| directory.0.join(name);
        let is_refused = |json: &str, html: &str| two(&at(json), &at(html)).resolve().is_err();
        assert!(is_refused("new", "./new") && is_refused("new", "sub/../new"));
        assert!(!is_refused("new", "other") && !is_refused("new", "sub/new"));
        std::os::unix::fs::symlink("new", at("link")).unwrap();
        assert!(is_refused("link", "new"), "before the file is there");
        std::fs::write(at("new"), "").unwrap();
        std::fs::hard_link(at("new"), at("hard")).unwrap();
        assert!(is_refused("link", "new") && is_refused("hard", "link"), "and when it is there");
        assert!(two(Path::new("-"), Path::new("-")).resolve().is_err());
        assert!(two(Path::new("/dev/null"), Path::new("/dev/null")).resolve().is_ok());
    }

    #[test]
    fn the_check_leaves_everything_as_it_was() {
        let directory = Directory::new("check");
        let at = |name: &str| directory.0.join(name);
        std::os::unix::fs::symlink("sub/later", at("dangling")).unwrap();
        std::fs::write(at("old"), "content").unwrap();
        two(&at("dangling"), &at("old")).check().unwrap();
        two(&at("new"), Path::new("-")).check().unwrap();
        assert!(at("dangling").is_symlink() && !at("sub/later").exists() && !at("new").exists());
        assert_eq!(std::fs::read_to_string(at("old")).unwrap(), "content");
        assert!(two(&at("no/directory"), &at("old")).check().is_err());
    }
}
