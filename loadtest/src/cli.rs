//! The command line: what may be said, and what it means.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::output::display::Show;
use crate::output::files::Results;
use crate::output::{json, merge};
use crate::run::{self, ServerChoice, Settings};
use crate::scenario::{Connect, Scenario, Traffic};
use crate::target::Protocol;

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

#[derive(Debug, Args)]
struct ReportArgs {
    /// Results that `ringload run --json` wrote
    #[arg(required = true, value_name = "RESULTS")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    results: Results,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
struct RunArgs {
    /// The server, as ws://host:port/path or tcp://host:port (messages without frames, for comparison); without it a
    /// ringecho is started on a free port for the run
    url: Option<String>,

    /// Speak bare TCP with the server started for the run
    #[arg(long, conflicts_with = "url")]
    tcp: bool,

    /// Connections to open
    #[arg(short = 'c', long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// Connections to begin per second; 0 is as fast as it goes
    #[arg(long, value_name = "N/S", default_value_t = 0.0, value_parser = rate)]
    connect_rate: f64,

    /// Connections being opened at the same time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    connect_window: u32,

    /// Time for a connection to become ready
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive_seconds)]
    connect_timeout: Duration,

    /// Connections that send all the time: a number, or a share like 1%
    #[arg(short = 'a', long, value_name = "N|P%", default_value = "100%", value_parser = active)]
    active: Active,

    /// Payload bytes of a message; from 16 on, messages carry their connection and sequence number
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(..=1 << 30))]
    size: u32,

    /// Messages in flight on each active connection
    #[arg(short = 'd', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: u32,

    /// Measured time
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    duration: Duration,

    /// Time with load before measuring begins [default: 2, with --messages 0]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    warmup: Option<Duration>,

    /// End after so many messages, or after --duration if that comes first
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,

    /// Send text messages (printable ASCII)
    #[arg(long, conflicts_with = "binary")]
    text: bool,

    /// Send binary messages (the default)
    #[arg(long)]
    binary: bool,

    /// Do not have each connection echo one message before it counts as ready
    #[arg(long)]
    no_greet: bool,

    /// Do not compare echoes with what was sent
    #[arg(long)]
    no_verify: bool,

    /// Time to wait for outstanding echoes at the end
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    drain_timeout: Duration,

    /// Time for closing all connections in order at the end
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    close_timeout: Duration,

    /// Threads [default: one for each processor, more if the descriptor limit asks for them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,

    /// Processors for the load, like 1 or 0-3,6; each thread is pinned to one [default: all that may be used]
    #[arg(long, value_name = "LIST", value_parser = cpus)]
    cpus: Option<Cpus>,

    /// Processors for the server started for the run
    #[arg(long, value_name = "LIST", value_parser = cpus, conflicts_with = "url")]
    server_cpus: Option<Cpus>,

    /// More arguments for the server started for the run, separated by spaces
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

/// A number of connections, or a share of all.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Active {
    Count(u32),
    Percent(f64),
}

/// A list of processors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cpus(Vec<usize>);

/// The whole command.
#[must_use]
pub fn main() -> ExitCode {
    // Memory is among what is measured. Without this there would only be more of it.
    let _ = ringecho::sys::refuse_huge_pages();
    if std::env::args_os().nth(1).is_some_and(|first| first == crate::own_server::SERVE) {
        return crate::own_server::serve(std::env::args_os());
    }
    match Cli::parse().command {
        Command::Run(args) => args.run(),
        Command::Report(args) => args.show(),
    }
}

fn exit_code(is_ok: bool) -> ExitCode {
    if is_ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAULTS) }
}

fn complain(message: impl std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("ringload: {message}");
    ExitCode::from(code)
}

impl ReportArgs {
    fn show(self) -> ExitCode {
        let reports: Result<Vec<_>, _> = self.files.iter().map(|file| json::read(file)).collect();
        let reports = match reports {
            Ok(reports) => reports,
            Err(error) => return complain(error, EXIT_CANNOT_RUN),
        };
        let report = merge::merge(&reports).expect("at least one file is required");
        match self.results.publish(&report) {
            Ok(is_ok) => exit_code(is_ok),
            Err(error) => complain(error, EXIT_CANNOT_RUN),
        }
    }
}

impl RunArgs {
    fn run(self) -> ExitCode {
        let settings = match self.resolve() {
            Ok(settings) => settings,
            Err(message) => return complain(message, EXIT_USAGE),
        };
        match run::run(&settings) {
            Ok(is_ok) => exit_code(is_ok),
            Err(error) => {
                let code = if error.is_usage() { EXIT_USAGE } else { EXIT_CANNOT_RUN };
                complain(error, code)
            }
        }
    }

    /// What the arguments mean; refuses those that contradict each other.
    fn resolve(self) -> Result<Settings, String> {
        let active = match self.active {
            Active::Count(count) if count > self.connections => {
                return Err(format!("--active {count} is more than --connections {}", self.connections));
            }
            Active::Count(count) => count,
            Active::Percent(percent) => (f64::from(self.connections) * percent / 100.0).round() as u32,
        };
        let default_warmup = Duration::from_secs(if self.messages.is_some() { 0 } else { 2 });
        let server = match (self.url, self.server_cmd) {
            (Some(url), Some(command)) => ServerChoice::Command { url, command },
            (Some(url), None) => ServerChoice::Running { url, pid: self.server_pid },
            (None, _) => ServerChoice::Own {
                protocol: if self.tcp { Protocol::Tcp } else { Protocol::WebSocket },
                args: self.server_args.iter().flat_map(|args| args.split_whitespace()).map(str::to_owned).collect(),
                cpus: self.server_cpus.map(|cpus| cpus.0),
            },
        };
        let connect = Connect {
            rate: self.connect_rate,
            window: self.connect_window,
            timeout: self.connect_timeout,
            greet: !self.no_greet,
        };
        let traffic = Traffic {
            size: self.size as usize,
            depth: self.depth,
            text: self.text,
            verify: !self.no_verify,
            limit: self.messages,
        };
        let scenario = Scenario {
            connections: self.connections,
            connect,
            active,
            traffic,
            warmup: self.warmup.unwrap_or(default_warmup),
            duration: self.duration,
            drain_timeout: self.drain_timeout,
            close_timeout: self.close_timeout,
        };
        let (threads, cpus) = (self.threads, self.cpus.map(|cpus| cpus.0));
        let show = match (self.quiet, self.no_tui) {
            (true, _) => Show::Nothing,
            (false, true) => Show::Lines,
            (false, false) => Show::Best,
        };
        Ok(Settings { scenario, server, threads, cpus, results: self.results, show })
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err("not a number of 0 or more".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match number(text)? {
        rate if rate > 0.0 && rate < 0.01 => Err("less than one connection in 100 seconds".to_owned()),
        rate => Ok(rate),
    }
}

/// Longer runs than this are a slip.
const MAX_SECONDS: f64 = 31.0 * 24.0 * 3600.0;

fn seconds(text: &str) -> Result<Duration, String> {
    match number(text)? {
        seconds if seconds > MAX_SECONDS => Err("longer than a month".to_owned()),
        seconds => Ok(Duration::from_secs_f64(seconds)),
    }
}

fn positive_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(duration) }
}

fn active(text: &str) -> Result<Active, String> {
    if let Some(percent) = text.strip_suffix('%') {
        return match number(percent)? {
            percent if percent <= 100.0 => Ok(Active::Percent(percent)),
            _ => Err("more than 100%".to_owned()),
        };
    }
    text.parse().map(Active::Count).map_err(|_| "neither a number of connections nor a share like 1%".to_owned())
}

fn cpus(text: &str) -> Result<Cpus, String> {
    let wrong = || "not a list of processors like 1 or 0-3,6".to_owned();
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |text: &str| text.parse::<usize>().ok().filter(|&cpu| cpu < 1024).ok_or_else(wrong);
        let (first, last) = (bound(first)?, bound(last)?);
        if first > last {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(Cpus(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn resolve(args: &[&str]) -> Result<Settings, String> {
        let cli = Cli::try_parse_from([&["ringload", "run"], args].concat()).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Run(args) => args.resolve(),
            Command::Report(_) => unreachable!("the first argument is run"),
        }
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
    fn lists_of_processors() {
        assert_eq!(cpus("1"), Ok(Cpus(vec![1])));
        assert_eq!(cpus("0-2,5"), Ok(Cpus(vec![0, 1, 2, 5])));
        for wrong in ["", "a", "3-1", "1,", "99999"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
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
            &["--text", "--binary"],
            &["--server-pid", "1"],
            &["--server-cmd", "server"],
            &["ws://127.0.0.1:1/", "--server-cmd", "server", "--server-pid", "1"],
            &["--fail-if", "speed>5"],
            &["ws://127.0.0.1:1/", "--server-cpus", "0"],
            &["ws://127.0.0.1:1/", "--server-args", "x"],
            &["ws://127.0.0.1:1/", "--tcp"],
        ] {
            assert!(resolve(args).is_err(), "{args:?}");
        }
        assert_eq!(resolve(&["--size", "0"]).unwrap().scenario.traffic.size, 0);
    }
}
