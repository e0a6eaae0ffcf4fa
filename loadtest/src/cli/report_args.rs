//! `ringload report`: shows stored results, merges those of several machines, or compares two.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{EXIT_CANNOT_RUN, EXIT_USAGE, complain, exit_code};
use crate::output::diff::Diff;
use crate::output::files::Results;
use crate::output::live::Live;
use crate::output::merge::{self, Groups};
use crate::output::report::Report;
use crate::output::{self, Voice, json, say};

#[derive(Clone, Debug, Args)]
pub(super) struct ReportArgs {
    /// Results written by `ringload run --json`; - is standard input, which may be the log of a container
    #[arg(required = true, value_name = "RESULTS")]
    files: Vec<PathBuf>,

    /// Compare two results side by side, also with --html and --summary
    #[arg(long, conflicts_with_all = ["json", "csv", "hdr", "fail_if"])]
    diff: bool,

    #[command(flatten)]
    results: Results,
}

impl ReportArgs {
    pub(super) fn show(self) -> ExitCode {
        if let Err(message) = self.results.resolve() {
            return complain(message, EXIT_USAGE);
        }
        if self.results.take_stdout() {
            output::speak_on(Voice::Stderr);
        }
        let reports: Result<Vec<_>, _> = self.files.iter().map(|file| json::read(file)).collect();
        match reports {
            Ok(reports) if self.diff => self.lay_side_by_side(&reports),
            Ok(reports) => self.merge(reports),
            Err(error) => complain(error, EXIT_CANNOT_RUN),
        }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.files.iter().map(|file| file.display().to_string())
    }

    /// What can be one result is shown as one; what cannot stays apart, and then there are no files to write.
    fn merge(self, reports: Vec<Report>) -> ExitCode {
        let Groups { groups, notes } = Groups::of(self.names().zip(reports).collect());
        for note in &notes {
            let _ = writeln!(std::io::stderr(), "ringload: {note}");
        }
        let is_apart = groups.len() > 1;
        if is_apart && self.results.has_files() {
            let advice = "report them one by one, or two of them with --diff";
            return complain(format_args!("several results do not go into one file: {advice}"), EXIT_USAGE);
        }
        let mut is_ok = true;
        for group in groups {
            if is_apart {
                say(format_args!("\n{}:\n", group.files.join(", ")));
            }
            let report = merge::merge(&group.reports).expect("a group has a result");
            match self.results.publish(&report, Live::default()) {
                Ok(is_this_ok) => is_ok &= is_this_ok,
                Err(error) => return complain(error, EXIT_CANNOT_RUN),
            }
        }
        exit_code(is_ok)
    }

    fn lay_side_by_side(&self, reports: &[Report]) -> ExitCode {
        let [a, b] = reports else {
            return complain(format_args!("--diff takes two results, not {}", reports.len()), EXIT_USAGE);
        };
        let mut names = self.names();
        let names = [names.next().unwrap_or_default(), names.next().unwrap_or_default()];
        match self.results.publish_diff(&Diff::of([a, b], names)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(error, EXIT_CANNOT_RUN),
        }
    }
}
