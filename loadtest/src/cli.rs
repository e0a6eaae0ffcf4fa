//! The command line: commands, options, exit codes.

mod compare_args;
mod help;
mod members_args;
mod report_args;
mod scenario_args;
mod scenario_file;
mod search_args;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::interrupt::EXIT_BY_SIGNAL;
use crate::members::{Meet, Together};
use crate::output::display::Show;
use crate::output::files::{Results, WriteError};
use crate::output::{self, Voice, tell};
use crate::run::{self, Ended, RunError, Settings};
use crate::scenario::{Portion, TcpStack, Transport};
use crate::search::{self, Quantity, Search};
use crate::server::ServerChoice;
use crate::target::Protocol;
use crate::tun::{Clients, UserStack};
use compare_args::CompareArgs;
use members_args::MembersArgs;
use report_args::ReportArgs;
use scenario_args::ScenarioArgs;
use search_args::SearchArgs;
use values::Cpus;

/// Exit codes (documented in `--help-all`).
const EXIT_FAULTS: u8 = 1;
const EXIT_USAGE: u8 = 2;
const EXIT_CANNOT_RUN: u8 = 3;

/// Clients' addresses, and what TUN devices' names begin with: the upper half of the block for benchmarks (RFC 2544).
const CLIENTS: &str = "198.19.0.0/16";
const TUN: &str = "ringload";

/// The name in completions and manual pages.
const NAME: &str = "ringload";

/// A load generator for WebSocket echo servers.
#[derive(Debug, Parser)]
#[command(name = "ringload", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts load on a WebSocket server, verifies every echo, and measures
    #[command(args_override_self = true, disable_help_flag = true)]
    Run(Box<RunArgs>),
    /// Shows stored results: merges those of several machines, or compares two (--diff)
    Report(ReportArgs),
    /// Compares servers: which one is faster, by how much, and how certain that is
    Compare(Box<CompareArgs>),
    /// Writes manual pages into a directory
    Man {
        /// The directory; it is created if it is missing
        directory: PathBuf,
    },
    /// Prints completions for a shell: bash, zsh, fish, elvish or powershell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
struct RunArgs {
    #[command(flatten)]
    scenario: ScenarioArgs,

    #[command(flatten)]
    search: SearchArgs,

    #[command(flatten)]
    members: MembersArgs,

    /// The other members, when they have met.
    #[arg(skip)]
    together: Option<Together>,

    /// Options in a TOML file; the command line wins
    ///
    /// Its keys are the options' names, like `connections = 1000`.
    #[arg(long = "scenario", value_name = "FILE")]
    scenario_file: Option<PathBuf>,

    /// Ignore these options of the scenario file, like `no-verify,rate`
    #[arg(long, value_name = "OPTIONS", value_delimiter = ',', requires = "scenario_file")]
    without: Vec<String>,

    /// Print the scenario as a file for --scenario, with all defaults, and run nothing
    #[arg(long)]
    print_scenario: bool,

    /// Threads [default: one per processor, more if the descriptor limit requires it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,

    /// How bytes are moved
    #[arg(long, value_name = "NAME", value_enum, default_value = "auto")]
    transport: Transport,

    /// Whose TCP the connections have
    ///
    /// A kernel's socket costs some 4 KB, a connection of ringload's own TCP 28 bytes. Without a URL, its devices and the server
    /// started for the run are in a network namespace of their own; ringload itself stays outside. The report says which stack it was.
    /// As root, or with `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, which `unshare --user --map-root-user ringload ...` gives.
    #[arg(long, value_name = "NAME", value_enum, default_value = "kernel")]
    stack: TcpStack,

    /// --stack user: what its TUN devices are called, one for each thread: NAME0, NAME1 ... [default: ringload]
    #[arg(long, value_name = "NAME")]
    tun: Option<String>,

    /// --stack user: the clients' addresses, a block or one of each family [default: 198.19.0.0/16]
    #[arg(long, value_name = "CIDR")]
    clients: Option<Clients>,

    /// --stack user: make checksums and segments here, as for devices without offloads
    #[arg(long)]
    no_offloads: bool,

    /// Processors for the load, like 1 or 0-3,6; each thread is pinned to one [default: all available]
    #[arg(long, value_name = "LIST")]
    cpus: Option<Cpus>,

    /// Processors for the ringecho started for the run
    #[arg(long, value_name = "LIST", conflicts_with = "url")]
    server_cpus: Option<Cpus>,

    /// More arguments for the ringecho started for the run, split into words as a shell does
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, conflicts_with = "url")]
    server_args: Option<String>,

    /// PID of the server, to report its CPU and memory
    #[arg(long, value_name = "PID", requires = "url")]
    server_pid: Option<u32>,

    /// Start the server with this command, then stop it
    ///
    /// The command is split into words as a shell does. The run begins when the first URL accepts connections. CPU and
    /// memory are reported as with --server-pid, including all descendants.
    #[arg(long, value_name = "CMD", requires = "url", conflicts_with = "server_pid")]
    server_cmd: Option<String>,

    #[command(flatten)]
    results: Results,

    /// Serve the live series at http://ADDRESS/metrics in Prometheus' text format, like 127.0.0.1:9090
    #[arg(long, value_name = "ADDRESS", help_heading = "Results")]
    #[expect(clippy::doc_markdown, reason = "a URL in a help text")]
    metrics: Option<SocketAddr>,

    /// Print lines instead of the live screen, also on a terminal
    #[arg(long)]
    no_tui: bool,

    /// Print only the results
    #[arg(short = 'q', long)]
    quiet: bool,

    /// Print this help
    #[arg(short = 'h', long, action = ArgAction::HelpShort)]
    help: Option<bool>,

    /// Print all options, with details
    #[arg(long, action = ArgAction::HelpLong)]
    help_all: Option<bool>,
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
        Ok(Command::Compare(args)) => args.run(),
        Ok(Command::Man { directory }) => match help::write_manual(command(), &directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(format_args!("cannot write to {}: {error}", directory.display()), EXIT_CANNOT_RUN),
        },
        Ok(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), NAME, &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Err(message) => complain(message, EXIT_USAGE),
    }
}

fn complain(message: impl std::fmt::Display, code: u8) -> ExitCode {
    // A terminal that has hung up takes nothing, and is no reason to panic.
    let _ = writeln!(std::io::stderr(), "ringload: {message}");
    ExitCode::from(code)
}

/// The exit code of a run that was not possible, or has been ended.
fn code_of(error: &RunError) -> u8 {
    match error {
        RunError::Ended { code, .. } => *code,
        error if error.is_usage() => EXIT_USAGE,
        _ => EXIT_CANNOT_RUN,
    }
}

/// Says why there was no run, or, to a member, how it ended.
fn complain_of(error: &RunError) -> ExitCode {
    complain(error, code_of(error))
}

/// Prints what was asked for.
fn print(text: &str) -> ExitCode {
    match tell(format_args!("{text}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(WriteError::to_stdout(&error), EXIT_CANNOT_RUN),
    }
}

fn exit_code(is_ok: bool) -> ExitCode {
    if is_ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAULTS) }
}

/// The definition of all commands.
fn command() -> clap::Command {
    help::complete(Cli::command())
}

/// Parses the arguments, with those of a scenario file before them if there is one.
fn parse(mut args: Vec<OsString>) -> Result<Command, String> {
    if args.get(1).is_some_and(|first| first == "--help-all") {
        // Nearly all options are those of a run.
        args.insert(1, "run".into());
    }
    // What is wrong with these alone may be right with those of the file, or else is complained about below.
    let mut lenient = command().ignore_errors(true);
    if let Ok(given) = lenient.try_get_matches_from_mut(&args)
        && let Some((name, given)) = given.subcommand()
        && let Some(path) = given.try_get_one::<PathBuf>("scenario_file").ok().flatten()
    {
        let command = lenient.find_subcommand(name).expect("it was just found");
        let from_file = scenario_file::arguments(path, command, given)?;
        // Behind the program and the subcommand.
        args.splice(2..2, from_file);
    }
    let given = command().get_matches_from(&args);
    Ok(Cli::from_arg_matches(&given).unwrap_or_else(|error| error.exit()).command)
}

/// The words of more arguments for a server.
fn words(args: &str) -> Result<Vec<String>, String> {
    shlex::split(args).ok_or_else(|| format!("--server-args {args:?}: its quotes do not match"))
}

impl RunArgs {
    fn run(mut self) -> ExitCode {
        let search = match self.search.resolve() {
            Ok(search) => search,
            Err(message) => return complain(message, EXIT_USAGE),
        };
        self.scenario.fill_in(search.as_ref().map(|search| search.quantity));
        if self.print_scenario {
            return match self.scenario.resolve() {
                Ok(_) => print(&self.to_toml()),
                Err(message) => complain(message, EXIT_USAGE),
            };
        }
        let meet = match self.members_to_meet(search.as_ref()) {
            Ok(meet) => meet,
            Err(message) => return complain(message, EXIT_USAGE),
        };
        let takes_stdout = self.results.take_stdout();
        if meet.as_ref().is_some_and(|meet| meet.portion.member > 0) {
            // Those are member 0's, which has the results.
            (self.results, self.metrics) = (Results::default(), None);
        }
        if let Err(message) = self.results.resolve() {
            return complain(message, EXIT_USAGE);
        }
        if let Err(error) = self.results.check() {
            return complain(error, EXIT_CANNOT_RUN);
        }
        if takes_stdout {
            output::speak_on(if self.quiet { Voice::Nowhere } else { Voice::Stderr });
        }
        match meet {
            Some(meet) => self.run_together(meet, search),
            None => match self.conduct(search) {
                Ok(code) => ExitCode::from(code),
                Err(error) => complain_of(&error),
            },
        }
    }

    /// How to meet the other members of the run, if there are any.
    fn members_to_meet(&self, search: Option<&Search>) -> Result<Option<Meet>, String> {
        let Some(meet) = self.members.resolve(&self.to_toml(), &format!("{search:?}"))? else { return Ok(None) };
        if self.scenario.url.is_empty() || self.server_cmd.is_some() {
            return Err(
                "--members needs the URL of a server that is there already: each member would start one".to_owned()
            );
        }
        // What is wrong is better said before the others wait.
        let connections = self.clone().resolve()?.scenario.connections;
        let members = meet.portion.members;
        if connections < members && search.is_none_or(|search| search.quantity == Quantity::Rate) {
            return Err(format!("--members {members} are more than --connections {connections}: some would have none"));
        }
        Ok(Some(meet))
    }

    /// Runs with the other members. All end with the same exit code.
    fn run_together(mut self, meet: Meet, search: Option<Search>) -> ExitCode {
        let Portion { member, members } = meet.portion;
        if member > 0 {
            if self.quiet {
                output::speak_on(Voice::Nowhere);
            }
            self.quiet = true;
            output::say(format_args!("member {member} of {members}: member 0 at {} conducts\n", meet.at));
        }
        let joined = run::watch_signals(None).and_then(|interrupt| Together::meet(meet, interrupt));
        let together = match joined {
            Ok(together) => together,
            Err(error) => return complain_of(&error),
        };
        self.together = Some(together.clone());
        if !together.conducts() {
            let Err(error) = run::follow(&together, |value| match (&search, value) {
                (Some(search), Some(value)) => self.for_step(search.quantity, value),
                _ => self.clone().resolve(),
            });
            return complain_of(&error);
        }
        let report = self.results.place();
        match self.conduct(search) {
            Ok(code) => {
                together.finish(code, &format!("member 0 has the report{report}"));
                ExitCode::from(code)
            }
            Err(error) => {
                together.finish(code_of(&error), &format!("member 0 failed: {error}"));
                complain_of(&error)
            }
        }
    }

    /// Runs, or searches: the exit code.
    fn conduct(self, search: Option<Search>) -> Result<u8, RunError> {
        let ended = match search {
            Some(search) => {
                search::run(&search, self.stack, self.together.as_ref(), |value| self.for_step(search.quantity, value))
            }
            None => run::run(&self.resolve().map_err(RunError::Step)?),
        };
        Ok(match ended? {
            Ended { by_signal: Some(signal), .. } => (EXIT_BY_SIGNAL + signal) as u8,
            Ended { is_ok: true, .. } => 0,
            Ended { is_ok: false, .. } => EXIT_FAULTS,
        })
    }

    /// What makes the scenario, as a scenario file.
    fn to_toml(&self) -> String {
        let mut scenario = self.scenario.clone();
        scenario.fail_if = self.results.fail_if.iter().map(ToString::to_string).collect();
        toml::to_string(&scenario).expect("options are plain values")
    }

    /// The TCP of our own, if it is asked for.
    fn user_stack(&self) -> Result<Option<UserStack>, String> {
        if self.stack == TcpStack::Kernel {
            let is_plain = self.tun.is_none() && self.clients.is_none() && !self.no_offloads;
            let wrong = "--tun, --clients and --no-offloads need --stack user";
            return if is_plain { Ok(None) } else { Err(wrong.to_owned()) };
        }
        if self.transport != Transport::Auto {
            return Err("--transport is for the kernel's sockets, and --stack user has none".to_owned());
        }
        if self.scenario.sources()?.is_some() {
            return Err(
                "--source is for the kernel's sockets: with --stack user, addresses are those of --clients".to_owned()
            );
        }
        let clients = self.clients.clone().map_or_else(|| CLIENTS.parse(), Ok)?;
        let name = self.tun.clone().unwrap_or_else(|| TUN.to_owned());
        Ok(Some(UserStack { name, clients, has_offloads: !self.no_offloads }))
    }

    /// The settings of a search's run with this value.
    fn for_step(&self, quantity: Quantity, value: u64) -> Result<Settings, String> {
        let mut args = self.clone();
        args.quiet = true;
        if let Some(together) = &mut args.together {
            together.value = Some(value);
        }
        args.scenario.set(quantity, value);
        args.resolve()
    }

    /// What the arguments mean; refuses those that contradict each other.
    fn resolve(self) -> Result<Settings, String> {
        let user_stack = self.user_stack()?;
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
        let mut scenario = self.scenario.resolve()?;
        if let Some(together) = &self.together {
            scenario.portion = together.portion();
            if scenario.connections < scenario.portion.members {
                return Err(format!("{} connections are too few for so many members", scenario.connections));
            }
        }
        Ok(Settings {
            scenario,
            server,
            routes: self.scenario.routes(),
            extras: self.scenario.extras()?,
            sources: self.scenario.sources()?,
            tls: self.scenario.tls(),
            threads: self.threads,
            transport: self.transport,
            user_stack,
            cpus: self.cpus.map(|cpus| cpus.0),
            results: self.results,
            metrics: self.metrics,
            show,
            together: self.together,
        })
    }
}

#[cfg(test)]
mod tests;
