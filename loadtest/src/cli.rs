//! The command line: what may be said, and what it means.

mod scenario_args;
mod scenario_file;
mod search_args;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::output::display::Show;
use crate::output::files::Results;
use crate::output::{json, merge, say};
use crate::run::{self, Settings};
use crate::search::{self, Quantity};
use crate::server::ServerChoice;
use crate::target::Protocol;
use scenario_args::ScenarioArgs;
use search_args::SearchArgs;
use values::Cpus;

/// What the exit code says (documented in `--help`).
const EXIT_FAULTS: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_CANNOT_RUN: u8 = 3;

/// A load generator for WebSocket echo servers.
#[derive(Debug, Parser)]
#[command(name = "ringload", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Opens connections, echoes messages on them, checks every byte and prints what it measured
    #[command(
        args_override_self = true,
        after_help = "Exit code: 0 all was well, 1 an echo was lost or wrong, a connection failed or a --fail-if \
                            condition held, 2 bad arguments, 3 the run was not possible."
    )]
    Run(Box<RunArgs>),
    /// Shows the results of runs again; several (from several machines) become one: histograms and counters are added
    #[command(
        after_help = "Exit code: 0 all was well, 1 an echo was lost or wrong, a connection failed or a --fail-if \
                            condition held, 2 bad arguments, 3 a file could not be read or written."
    )]
    Report(ReportArgs),
}

#[derive(Clone, Debug, Args)]
struct ReportArgs {
    /// Results that `ringload run --json` wrote
    #[arg(required = true, value_name = "RESULTS")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    results: Results,
}

#[derive(Clone, Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,

    #[command(flatten)]
    search: SearchArgs,

    /// Read options from a TOML file whose keys are their names, like `connections = 1000`; the command line wins
    #[arg(long = "scenario", value_name = "FILE")]
    scenario_file: Option<PathBuf>,

    /// Leave these options of the scenario file out, like `no-verify,rate`
    #[arg(long, value_name = "OPTIONS", value_delimiter = ',', requires = "scenario_file")]
    without: Vec<String>,

    /// Print the scenario as a file for --scenario, all defaults included, and do not run it
    #[arg(long)]
    print_scenario: bool,

    /// Threads [default: one for each processor, more if the descriptor limit asks for them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,

    /// Processors for the load, like 1 or 0-3,6; each thread is pinned to one [default: all that may be used]
    #[arg(long, value_name = "LIST")]
    cpus: Option<Cpus>,

    /// Processors for the server started for the run
    #[arg(long, value_name = "LIST", conflicts_with = "url")]
    server_cpus: Option<Cpus>,

    /// More arguments for the server started for the run, split into words as a shell does
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, conflicts_with = "url")]
    server_args: Option<String>,

    /// The server's process, to report its processor time and memory
    #[arg(long, value_name = "PID", requires = "url")]
    server_pid: Option<u32>,

    /// Start the server for the run with this command, split into words as a shell does, wait until it listens, and
    /// stop it afterwards; its processor time and memory are reported with those of all its descendants
    #[arg(long, value_name = "COMMAND", requires = "url", conflicts_with = "server_pid")]
    server_cmd: Option<String>,

    #[command(flatten)]
    results: Results,

    /// Print lines, not a live screen, on a terminal as well
    #[arg(long)]
    no_tui: bool,

    /// Print the results only
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// The whole command.
#[must_use]
pub fn main() -> ExitCode {
    // Memory is among what is measured. Without this there would only be more of it.
    let _ = ringecho::sys::refuse_huge_pages();
    if std::env::args_os().nth(1).is_some_and(|first| first == crate::own_server::SERVE) {
        return crate::own_server::serve(std::env::args_os());
    }
    match parse(std::env::args_os().collect()) {
        Ok(Command::Run(args)) => args.run(),
        Ok(Command::Report(args)) => args.show(),
        Err(message) => complain(message, EXIT_USAGE),
    }
}

fn complain(message: impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("ringload: {message}");
    ExitCode::from(code)
}

fn exit_code(is_ok: bool) -> ExitCode {
    if is_ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAULTS) }
}

/// Parses the arguments, with those of a scenario file before them if there is one.
fn parse(mut args: Vec<OsString>) -> Result<Command, String> {
    // What is wrong with these alone may be right with those of the file, or else is complained about below.
    let mut command = Cli::command().ignore_errors(true);
    if let Ok(given) = command.try_get_matches_from_mut(&args)
        && let Some((name, given)) = given.subcommand()
        && let Some(path) = given.try_get_one::<PathBuf>("scenario_file").ok().flatten()
    {
        let command = command.find_subcommand(name).expect("it was just found");
        let from_file = scenario_file::arguments(path, command, given)?;
        // Behind the program and the subcommand.
        args.splice(2..2, from_file);
    }
    Ok(Cli::parse_from(&args).command)
}

/// The words of more arguments for a server.
fn words(args: &str) -> Result<Vec<String>, String> {
    shlex::split(args).ok_or_else(|| format!("--server-args {args:?}: its quotes do not match"))
}

impl ReportArgs {
    fn show(self) -> ExitCode {
        let reports: Result<Vec<_>, _> = self.files.iter().map(|file| json::read(file)).collect();
        let reports = match reports {
            Ok(reports) => reports,
            Err(error) => return complain(error, EXIT_CANNOT_RUN),
        };
        if let Err(message) = self.results.resolve() {
            return complain(message, EXIT_USAGE);
        }
        let report = merge::merge(&reports).expect("at least one file is required");
        match self.results.publish(&report) {
            Ok(is_ok) => exit_code(is_ok),
            Err(error) => complain(error, EXIT_CANNOT_RUN),
        }
    }
}

impl RunArgs {
    fn run(mut self) -> ExitCode {
        let search = match self.search.resolve() {
            Ok(search) => search,
            Err(message) => return complain(message, EXIT_USAGE),
        };
        self.scenario.fill_in(search.is_some());
        if self.print_scenario {
            return match self.scenario.resolve() {
                Ok(_) => {
                    say(format_args!("{}", self.scenario.to_toml()));
                    ExitCode::SUCCESS
                }
                Err(message) => complain(message, EXIT_USAGE),
            };
        }
        if let Err(message) = self.results.resolve() {
            return complain(message, EXIT_USAGE);
        }
        if let Err(error) = self.results.check() {
            return complain(error, EXIT_CANNOT_RUN);
        }
        let outcome = match search {
            Some(search) => search::run(&search, |value| self.for_step(search.quantity, value)),
            None => match self.resolve() {
                Ok(settings) => run::run(&settings),
                Err(message) => return complain(message, EXIT_USAGE),
            },
        };
        match outcome {
            Ok(is_ok) => exit_code(is_ok),
            Err(error) => {
                let code = if error.is_usage() { EXIT_USAGE } else { EXIT_CANNOT_RUN };
                complain(error, code)
            }
        }
    }

    /// The settings of a search's run with this value.
    fn for_step(&self, quantity: Quantity, value: u64) -> Result<Settings, String> {
        let mut args = self.clone();
        args.quiet = true;
        args.scenario.set(quantity, value);
        args.resolve()
    }

    /// What the arguments mean; refuses those that contradict each other.
    fn resolve(self) -> Result<Settings, String> {
        let server = if self.scenario.url.is_empty() {
            ServerChoice::Own {
                protocol: if self.scenario.tcp { Protocol::Tcp } else { Protocol::WebSocket },
                args: self.server_args.as_deref().map(words).transpose()?.unwrap_or_default(),
                cpus: self.server_cpus.map(|cpus| cpus.0),
            }
        } else if let Some(command) = self.server_cmd {
            ServerChoice::Command { urls: self.scenario.url.clone(), command }
        } else {
            ServerChoice::Running { urls: self.scenario.url.clone(), pid: self.server_pid }
        };
        let show = match (self.quiet, self.no_tui) {
            (true, _) => Show::Nothing,
            (false, true) => Show::Lines,
            (false, false) => Show::Best,
        };
        Ok(Settings {
            scenario: self.scenario.resolve()?,
            server,
            extras: self.scenario.extras(),
            sources: self.scenario.sources()?,
            tls: self.scenario.tls(),
            threads: self.threads,
            cpus: self.cpus.map(|cpus| cpus.0),
            results: self.results,
            show,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn resolve(args: &[&str]) -> Result<Settings, String> {
        let cli = Cli::try_parse_from([&["ringload", "run"], args].concat()).map_err(|error| error.to_string())?;
        let Command::Run(mut args) = cli.command else { unreachable!("the first argument is run") };
        let search = args.search.resolve()?;
        args.scenario.fill_in(search.is_some());
        args.resolve()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_said_is_a_run_against_an_own_server() {
        let settings = resolve(&[]).unwrap();
        assert!(matches!(settings.server, ServerChoice::Own { .. }));
        assert_eq!((settings.scenario.connections, settings.scenario.active), (10_000, 10_000));
        assert_eq!(settings.scenario.warmup, Duration::from_secs(2));
        assert!(settings.scenario.connect.greet && settings.scenario.traffic.verify);
        assert_eq!(resolve(&["--messages", "5"]).unwrap().scenario.warmup, Duration::ZERO);
    }

    #[test]
    fn shares_and_counts_of_active_connections() {
        let active = |text| resolve(&["-c", "1000", "--active", text]).map(|settings| settings.scenario.active);
        assert_eq!(active("1%"), Ok(10));
        assert_eq!(active("0"), Ok(0));
        assert_eq!(active("1000"), Ok(1000));
        assert!(active("1001").is_err() && active("101%").is_err() && active("-1").is_err() && active("x").is_err());
    }

    #[test]
    fn an_open_loop_is_not_limited_in_depth_unless_asked_for() {
        let traffic = |args: &[&str]| resolve(args).unwrap().scenario.traffic;
        assert_eq!((traffic(&[]).depth, traffic(&[]).open), (1, None));
        let open = traffic(&["--rate", "1000", "--arrivals", "poisson"]);
        assert_eq!((open.depth, open.open.unwrap().rate as u32), (u32::MAX, 1000));
        assert_eq!(traffic(&["--rate", "1000", "--depth", "4"]).depth, 4);
    }

    #[test]
    fn a_life_of_all_is_a_turn_of_each() {
        let every = |args: &[&str]| resolve(args).unwrap().scenario.upkeep.reconnect_every;
        assert_eq!(every(&["-c", "1000", "--lifetime", "60"]), Some(Duration::from_millis(60)));
        assert_eq!(every(&["--reconnect-every", "0.5"]), Some(Duration::from_millis(500)));
        assert!(resolve(&["--reconnect-every", "1", "--lifetime", "1"]).is_err());
    }

    #[test]
    fn a_printed_scenario_means_the_same_when_read_again() {
        let path = std::env::temp_dir().join(format!("ringload-scenario-{}.toml", std::process::id()));
        let text = |args: &[&str]| {
            let args = ["ringload", "run"].iter().chain(args).map(OsString::from).collect();
            let Command::Run(run) = parse(args).unwrap() else { unreachable!("the first argument is run") };
            run.scenario.to_toml()
        };
        let said =
            ["ws://127.0.0.1:1/", "ws+unix:/x", "--rate", "12.5", "-s", "1:2,3:4", "--text", "-a", "7%", "-H", "A: b"];
        let more =
            ["--lifetime", "9", "--slow-readers", "3", "--no-verify", "--source", "127.1.0.0/16", "--warmup", "0"];
        let first = text(&[&said[..], &more].concat());
        std::fs::write(&path, &first).unwrap();
        let file = ["--scenario", path.to_str().unwrap()];
        let (again, won) = (text(&file), text(&[&file[..], &["ws://b/", "--rate", "99", "--binary"]].concat()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(again, first);
        assert!(
            won.contains("url = [\"ws://b/\"]") && won.contains("rate = 99.0") && won.contains("text = false"),
            "{won}"
        );
    }

    #[test]
    fn whatever_a_file_says_can_be_taken_back() {
        let path = std::env::temp_dir().join(format!("ringload-taken-back-{}.toml", std::process::id()));
        let all = "url = 'ws://a/'\nno-verify = true\nno-greet = true\ninsecure = true\nrate = 5\nlifetime = 9\n";
        std::fs::write(&path, all).unwrap();
        let parsed = |more: &[&str]| {
            let args = [&["ringload", "run", "--scenario", path.to_str().unwrap()], more].concat();
            match parse(args.into_iter().map(OsString::from).collect()) {
                Ok(Command::Run(args)) => args.resolve(),
                Ok(Command::Report(_)) => unreachable!("the first argument is run"),
                Err(error) => Err(error),
            }
        };
        let file = parsed(&[]).unwrap();
        assert!(!file.scenario.traffic.verify && file.tls.insecure && file.scenario.traffic.open.is_some());
        let without = parsed(&["--without", "no-verify,no-greet", "--without", "insecure,rate"]).unwrap();
        assert!(without.scenario.traffic.verify && without.scenario.connect.greet && !without.tls.insecure);
        assert!(without.scenario.traffic.open.is_none());
        // What contradicts the command line has lost, too.
        let every = parsed(&["--reconnect-every", "1"]).unwrap().scenario.upkeep.reconnect_every;
        assert_eq!(every, Some(Duration::from_secs(1)));
        assert!(matches!(parsed(&["--tcp"]).unwrap().server, ServerChoice::Own { protocol: Protocol::Tcp, .. }));
        // What the command line alone would lack, the file may have.
        assert!(matches!(parsed(&["--server-pid", "1"]).unwrap().server, ServerChoice::Running { pid: Some(1), .. }));
        let error = parsed(&["--without", "verify"]).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("--without verify: not an option of a scenario; there are: active"), "{error}");
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        let args = |text: &str| match resolve(&["--server-args", text]).unwrap().server {
            ServerChoice::Own { args, .. } => args,
            ServerChoice::Running { .. } | ServerChoice::Command { .. } => unreachable!("there is no URL"),
        };
        assert_eq!(args("--workers 1  --subprotocol 'a b'"), ["--workers", "1", "--subprotocol", "a b"]);
        assert!(args("").is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [
            &["--connections", "0"][..],
            &["--depth", "0"],
            &["--size", "1073741825"],
            &["--duration", "-1"],
            &["--duration", "inf"],
            &["--connect-rate", "nan"],
            &["--connect-timeout", "0"],
            &["--rate", "0"],
            &["--rate", "5", "--active", "0"],
            &["-c", "5", "--slow-readers", "6"],
            &["-c", "5", "--slow-readers", "3", "--active", "3"],
            &["--size", "5-4"],
            &["--source", "x"],
            &["--header", "x"],
            &["--header", "a: b\r\nc: d"],
            &["--subprotocol", "a b"],
            &["--ping-every", "0"],
            &["--slo", "p99=1ms"],
            &["--find-max-rate", "--slo", "p98=1ms"],
            &["--find-max-rate", "--find-max-connections"],
            &["--find-max-rate", "--rate", "5"],
            &["--server-pid", "1"],
            &["--server-cmd", "server"],
            &["ws://127.0.0.1:1/", "--server-cmd", "server", "--server-pid", "1"],
            &["--fail-if", "speed>5"],
            &["ws://127.0.0.1:1/", "--server-cpus", "0"],
            &["ws://127.0.0.1:1/", "--server-args", "x"],
            &["ws://127.0.0.1:1/", "--tcp"],
            &["--server-args", "--path '/unfinished"],
            &["--without", "rate"],
        ] {
            assert!(resolve(args).is_err(), "{args:?}");
        }
        assert_eq!(resolve(&["--size", "0"]).unwrap().scenario.traffic.sizes.max(), 0);
    }
}
