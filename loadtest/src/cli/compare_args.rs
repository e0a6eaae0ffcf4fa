//! `ringload compare`: its arguments and subcommands.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::values::{count, positive_seconds, seconds};
use super::{EXIT_CANNOT_RUN, EXIT_USAGE, complain, exit_code};
use crate::compare::analysis::{Condition, analyse};
use crate::compare::build;
use crate::compare::file::{Comparison, Mistake};
use crate::compare::progress::Progress;
use crate::compare::quick;
use crate::compare::results::{Results, ResultsError, ServerReport};
use crate::compare::rounds::{Conductor, check};
use crate::compare::{chart, page, table};
use crate::interrupt::{EXIT_BY_SIGNAL, Interrupt};
use crate::message::sizes::Sizes;
use crate::output::display::Show;
use crate::output::tell;
use crate::output::units::counted;

/// Where results are kept if nothing is said: beside the first file, or here without one.
const KEPT_AS: &str = "compare.json";

#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct CompareArgs {
    #[command(subcommand)]
    command: Option<Action>,

    #[command(flatten)]
    run: RunArgs,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Checks whether each server starts and behaves correctly
    Check(Which),
    /// Builds the servers
    Build(Which),
    /// Runs the comparison; the same as without a subcommand
    Run(Box<RunArgs>),
    /// Shows stored results; those of several days or machines side by side
    Report(ShowArgs),
    /// Lists servers and cells
    List(Which),
}

/// Files, and what of them.
#[derive(Clone, Debug, Args)]
struct Which {
    /// Comparisons in TOML (docs/COMPARISON.md); several files are one comparison
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Only these servers and cells, like `ringecho,ws,128*`; the baseline always stays
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Clone, Debug, Args)]
struct RunArgs {
    /// Comparisons in TOML (docs/COMPARISON.md), several files being one comparison; or with --server a URL with {port}
    /// in it
    #[arg(value_name = "FILE|URL")]
    what: Vec<String>,

    /// Without a file: compare this server, like `a=./server --port {port}`; the first one is the baseline
    #[arg(long, value_name = "NAME=CMD")]
    server: Vec<quick::NamedCommand>,

    /// Only these servers and cells, like `ringecho,ws,128*`; the baseline always stays
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,

    /// Number of rounds, instead of that in the file [default: 9; without a file 7]
    #[arg(long, value_name = "N", value_parser = count)]
    rounds: Option<u32>,

    /// Continue from the results in the file of --json; what --only leaves out stays as it is
    #[arg(long)]
    resume: bool,

    /// Seed of the random order [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Without a file: connections of a cell, like `1,100`
    #[arg(short = 'c', long, value_name = "N", value_delimiter = ',', value_parser = count, default_value = "100", requires = "server")]
    connections: Vec<u32>,

    /// Without a file: payload of a message, like `128,16KiB`
    #[arg(short = 's', long, value_name = "BYTES", value_delimiter = ',', default_value = "128", requires = "server")]
    size: Vec<Sizes>,

    /// Without a file: messages in flight per connection, like `1,16`
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', value_parser = count, default_value = "1", requires = "server")]
    depth: Vec<u32>,

    /// Without a file: measured time of a cell
    #[arg(short = 't', long, value_name = "TIME", value_parser = positive_seconds, default_value = "1500ms", requires = "server")]
    duration: Duration,

    /// Without a file: load before the measured time
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "500ms", requires = "server")]
    warmup: Duration,

    /// Print lines instead of the live screen, also on a terminal
    #[arg(long)]
    no_tui: bool,

    /// Print only the results
    #[arg(short = 'q', long)]
    quiet: bool,

    #[command(flatten)]
    outputs: Outputs,
}

#[derive(Clone, Debug, Args)]
struct ShowArgs {
    /// Results that `ringload compare` wrote
    #[arg(required = true, value_name = "RESULTS")]
    files: Vec<PathBuf>,

    /// Only these servers and cells, like `ringecho,ws,128*`; the baseline always stays
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,

    #[command(flatten)]
    outputs: Outputs,
}

/// Where results go beside the table.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Results")]
struct Outputs {
    /// Store all results as JSON, from the first measurement on; no results are overwritten [default: compare.json; in a report none]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write a page with charts: one file that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the matrix as a table in Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Write a chart for a README
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Exit code 1 if this holds, like "ringecho/ws cpu-per-echo > 1.03"
    ///
    /// It applies to the median ratio of any cell, or, with `in CELL` before the sign, of that cell. A missing
    /// measurement fails as well.
    #[arg(long, value_name = "CONDITION", action = clap::ArgAction::Append)]
    fail_if: Vec<Condition>,
}

/// Why there was no comparison, with the exit code.
struct Failure(String, u8);

impl From<Mistake> for Failure {
    fn from(mistake: Mistake) -> Self {
        Self(mistake.to_string(), EXIT_USAGE)
    }
}

impl From<ResultsError> for Failure {
    fn from(error: ResultsError) -> Self {
        Self(error.to_string(), EXIT_CANNOT_RUN)
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure(message.into(), EXIT_USAGE)
}

impl CompareArgs {
    pub(super) fn run(self) -> ExitCode {
        // The servers inherit it, and would otherwise be given fewer connections than ringload may open.
        let _ = ringecho::sys::raise_descriptor_limit();
        crate::sampling::group::remove_leftovers();
        let done = match self.command {
            None => self.run.compare(),
            Some(Action::Run(args)) => args.compare(),
            Some(Action::Check(which)) => which.check(),
            Some(Action::Build(which)) => which.build(),
            Some(Action::List(which)) => which.list(),
            Some(Action::Report(args)) => args.show(),
        };
        done.unwrap_or_else(|Failure(message, code)| complain(message, code))
    }
}

impl Which {
    fn read(&self) -> Result<Comparison, Failure> {
        let mut comparison = Comparison::read(&self.files)?;
        comparison.keep_only(&self.only).map_err(usage)?;
        Ok(comparison)
    }

    fn check(&self) -> Result<ExitCode, Failure> {
        let comparison = self.read()?;
        check_cpus(&comparison)?;
        let interrupt = watch()?;
        let mut all_pass = true;
        for (server, report) in comparison.servers.iter().zip(&mut Results::of(&comparison, 0).servers) {
            if interrupt.is_raised() {
                break;
            }
            if report.skipped.is_none() {
                check(server, &comparison.settings.server_cpus, &interrupt, report);
            }
            if interrupt.is_raised() {
                break;
            }
            all_pass &= report.skipped.is_none() || server.skip.is_some();
            print(&describe_check(report))?;
        }
        Ok(by_signal(&interrupt).unwrap_or_else(|| exit_code(all_pass)))
    }

    fn build(&self) -> Result<ExitCode, Failure> {
        let comparison = self.read()?;
        let mut all_built = true;
        for server in &comparison.servers {
            if let (Some(_), Some(why)) = (&server.build, &server.skip) {
                print(&format!("{}: not built: {why}\n", server.name))?;
                continue;
            }
            let Some(outcome) = build::build(server) else { continue };
            let text = match &outcome {
                Ok(log) => format!("{}: built ({})\n", server.name, log.display()),
                Err(why) => format!("{}: {why}\n", server.name),
            };
            all_built &= outcome.is_ok();
            print(&text)?;
        }
        Ok(exit_code(all_built))
    }

    fn list(&self) -> Result<ExitCode, Failure> {
        let comparison = self.read()?;
        let results = Results::of(&comparison, 0);
        let mut text = "servers:\n".to_owned();
        for (server, report) in comparison.servers.iter().zip(&results.servers) {
            let missing = server.needs.iter().find_map(|need| need.missing(&server.dir));
            let skipped = report.skipped.clone().or(missing).map_or(String::new(), |why| format!("  (skipped: {why})"));
            let baseline = if server.name == comparison.settings.baseline { "  (baseline)" } else { "" };
            let _ = writeln!(text, "  {}  {}{baseline}{skipped}", server.name, server.class.name());
        }
        text.push_str("cells:\n");
        for cell in &comparison.cells {
            let _ = writeln!(text, "  {}: {}", cell.name, cell.metric.name());
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn describe_check(report: &ServerReport) -> String {
    let version = report.version.as_ref().map_or(String::new(), |version| format!(" ({version})"));
    let mut text = format!("{}{version}: ", report.name);
    if report.gate.is_empty() {
        text.push_str(report.skipped.as_deref().unwrap_or("nothing was checked"));
    }
    let checks: Vec<String> = report
        .gate
        .iter()
        .map(|check| match &check.fault {
            None => format!("{} ok", check.name),
            Some(fault) => format!("{} FAILED ({fault})", check.name),
        })
        .collect();
    text.push_str(&checks.join(", "));
    for remark in &report.remarks {
        let _ = write!(text, "; {remark}");
    }
    text.push('\n');
    text
}

impl RunArgs {
    fn comparison(&self) -> Result<Comparison, Failure> {
        let mut comparison = if self.server.is_empty() {
            if self.what.is_empty() {
                return Err(usage(
                    "what is to be compared? Name a FILE.toml, or servers with --server \"a=CMD {port}\"",
                ));
            }
            Comparison::read(&self.what.iter().map(PathBuf::from).collect::<Vec<_>>())?
        } else {
            let cells = quick::Cells {
                connections: self.connections.clone(),
                sizes: self.size.clone(),
                depths: self.depth.clone(),
                duration: self.duration,
                warmup: self.warmup,
            };
            quick::comparison(&self.server, &self.what, &cells).map_err(usage)?
        };
        if let Some(rounds) = self.rounds {
            comparison.settings.rounds = rounds;
            comparison.cells.iter_mut().for_each(|cell| cell.rounds = rounds);
        }
        comparison.keep_only(&self.only).map_err(usage)?;
        if comparison.cells.is_empty() {
            return Err(usage("there is no [[cell]] to measure"));
        }
        let (servers, cells) = (comparison.servers.iter(), comparison.cells.iter());
        for condition in &self.outputs.fail_if {
            let names = (servers.clone().map(|it| it.name.as_str()), cells.clone().map(|it| it.name.as_str()));
            condition.check_names(names.0, names.1).map_err(usage)?;
        }
        Ok(comparison)
    }

    fn compare(self) -> Result<ExitCode, Failure> {
        let comparison = self.comparison()?;
        check_cpus(&comparison)?;
        let path = self.outputs.json.clone().unwrap_or_else(|| KEPT_AS.into());
        let mut results = Results::of(&comparison, self.seed.unwrap_or_else(seed_of_now));
        if self.resume {
            if path.exists() {
                results = results.resume(Results::read(&path)?, &path)?;
            }
        } else if holds_something(&path) {
            let advice = "go on with its results by --resume, or name another file with --json";
            return Err(usage(format!("{} is not empty, and is not overwritten: {advice}", path.display())));
        }
        // Before hours of measuring, not after them.
        results.write(&path)?;
        let interrupt = watch()?;
        let show = match (self.quiet, self.no_tui) {
            (true, _) => Show::Nothing,
            (false, true) => Show::Lines,
            (false, false) => Show::Best,
        };
        let progress = Progress::new(show, &interrupt);
        let results = Conductor::new(&comparison, results, Some(path), &interrupt, progress).run()?;
        let is_ok = self.outputs.publish(&[(self.name(), results)])?;
        Ok(by_signal(&interrupt).unwrap_or_else(|| exit_code(is_ok)))
    }

    fn name(&self) -> String {
        self.outputs.json.as_deref().unwrap_or(Path::new(KEPT_AS)).display().to_string()
    }
}

impl ShowArgs {
    fn show(self) -> Result<ExitCode, Failure> {
        self.check_outputs()?;
        let mut all = Vec::new();
        for file in &self.files {
            let mut results = Results::read(file)?;
            // A later version may judge otherwise; what is left out has been compared nevertheless.
            analyse(&mut results);
            results.keep_only(&self.only).map_err(usage)?;
            all.push((file.display().to_string(), results));
        }
        let servers = all.iter().flat_map(|(_, results)| results.servers.iter().map(|it| it.name.as_str()));
        let cells = all.iter().flat_map(|(_, results)| results.cells.iter().map(|it| it.name.as_str()));
        for condition in &self.outputs.fail_if {
            condition.check_names(servers.clone(), cells.clone()).map_err(usage)?;
        }
        if let ([(_, results)], Some(path)) = (all.as_slice(), &self.outputs.json) {
            results.write(path)?;
        }
        let is_ok = self.outputs.publish(&all)?;
        Ok(exit_code(is_ok))
    }

    /// Refuses outputs that cannot be written, before anything is.
    fn check_outputs(&self) -> Result<(), Failure> {
        let of_one = [("--json", &self.outputs.json), ("--svg", &self.outputs.svg)];
        if let Some((option, _)) = of_one.iter().find(|(_, path)| path.is_some() && self.files.len() > 1) {
            return Err(usage(format!("{option} takes one file of results")));
        }
        match self.outputs.json.as_ref().filter(|path| holds_something(path)) {
            Some(path) => {
                Err(usage(format!("{} is not empty, and is not overwritten: name another file", path.display())))
            }
            None => Ok(()),
        }
    }
}

impl Outputs {
    /// Prints and writes the requested outputs. Returns whether servers were compared, and no condition holds.
    fn publish(&self, all: &[(String, Results)]) -> Result<bool, Failure> {
        match all {
            [(_, results)] => print(&table::text(results))?,
            several => print(&table::side_by_side(several))?,
        }
        if let Some(path) = &self.html {
            let mut bytes = Vec::new();
            page::write(all, &mut bytes).map_err(|error| Failure(error.to_string(), EXIT_CANNOT_RUN))?;
            write(path, &bytes)?;
        }
        if let Some(path) = &self.markdown {
            let text = match all {
                [(_, results)] => table::markdown(results),
                several => table::side_by_side(several),
            };
            write(path, text.as_bytes())?;
        }
        if let (Some(path), [(_, results)]) = (&self.svg, all) {
            write(path, chart::alone(results).as_bytes())?;
        }
        let mut is_ok = true;
        for (name, results) in all {
            let breaches = self.fail_if.iter().flat_map(|condition| condition.breaches(results));
            for breach in nothing_compared(results).into_iter().chain(breaches) {
                is_ok = false;
                let which = if all.len() > 1 { format!("{name}: ") } else { String::new() };
                print(&format!("FAILED: {which}{breach}\n"))?;
            }
        }
        Ok(is_ok)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure(format!("cannot write {}: {error}", path.display()), EXIT_CANNOT_RUN))
}

fn print(text: &str) -> Result<(), Failure> {
    tell(format_args!("{text}"))
        .map_err(|error| Failure(format!("cannot write to standard output: {error}"), EXIT_CANNOT_RUN))
}

fn watch() -> Result<Interrupt, Failure> {
    Interrupt::watch().map_err(|error| Failure(format!("cannot handle signals: {error}"), EXIT_CANNOT_RUN))
}

fn by_signal(interrupt: &Interrupt) -> Option<ExitCode> {
    interrupt.signal().map(|signal| ExitCode::from((EXIT_BY_SIGNAL + signal) as u8))
}

fn seed_of_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Why nothing can be concluded: of several servers fewer than two could be measured, or the only one could not.
fn nothing_compared(results: &Results) -> Option<String> {
    let (all, measured) = (results.servers.len(), results.measured_servers().count());
    let text = || format!("nothing was compared: {measured} of {} could be measured", counted(all as u64, "server"));
    (measured < all.min(2)).then(text)
}

/// Whether a file must not be overwritten: it holds measurements, or something else.
fn holds_something(path: &Path) -> bool {
    match Results::read(path) {
        Ok(results) => !results.runs.is_empty(),
        Err(_) => path.metadata().is_ok_and(|it| it.len() > 0),
    }
}

/// Refuses processors that cannot be used. That both sides share one is allowed, and seen in the results.
fn check_cpus(comparison: &Comparison) -> Result<(), Failure> {
    let usable = ringecho::sys::usable_cpus().map_err(|error| Failure(error.to_string(), EXIT_CANNOT_RUN))?;
    let settings = &comparison.settings;
    match settings.server_cpus.iter().chain(&settings.load_cpus).find(|cpu| !usable.contains(cpu)) {
        Some(cpu) => Err(usage(format!(
            "processor {cpu} of `server-cpus` or `load-cpus` cannot be used here (usable: {usable:?})"
        ))),
        None => Ok(()),
    }
}
