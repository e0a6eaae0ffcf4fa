//! The command line: commands, environment variables, exit codes.

// The doc comments of flags are help texts for a terminal, where backticks are noise.
#![allow(clippy::doc_markdown)]

mod config_file;
mod environment;
mod logging;
mod manual;
mod notify;
mod print_config;
mod program;
mod program_args;
mod reload;
mod serve_args;
mod signals;
mod values;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::admin::{self, AdminAddress};
use crate::config::Config;
use crate::doctor::Report;
use crate::options::Options;
use crate::sys;
use config_file::ConfigFile;
use serve_args::ServeArgs;

/// Invalid arguments, or arguments that this machine cannot satisfy.
const EXIT_BAD_ARGUMENTS: u8 = 2;
/// An unhealthy server, or a machine that does not hold the requested connections.
const EXIT_FAILURE: u8 = 1;

/// A WebSocket echo server for Linux: one thread per core on io_uring.
///
/// SIGTERM, SIGINT and SIGQUIT drain it; SIGHUP reloads; SIGUSR1 and SIGUSR2 are ignored.
///
/// Exit codes: 0 after an orderly shutdown, 1 if the server could not start or run, 2 for bad arguments, 130 if a second
/// signal cut the drain short.
#[derive(Debug, Parser)]
#[command(name = "ringecho", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server; the same as no command at all.
    Serve(Box<ServeArgs>),
    /// Ask the admin listener of a server for its health, for probes. Exit code 0 if it is healthy, 1 if not.
    Health(HealthArgs),
    /// Report how many connections this machine can hold, the first limit, and what lifts each limit. Exit code 1 if
    /// --connections do not fit.
    Doctor(DoctorArgs),
    /// Write manual pages into a directory, which is created if it is missing.
    Man {
        /// The directory.
        directory: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// The arguments of `ringecho health`.
#[derive(Clone, Debug, clap::Args)]
struct HealthArgs {
    /// Admin listener of the server: ADDR:PORT, unix:PATH or unix:@NAME.
    #[arg(env = "RINGECHO_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:9002")]
    address: AdminAddress,

    /// Ask whether the server takes further clients (/readyz), not only whether it is alive (/healthz).
    #[arg(long)]
    ready: bool,
}

/// The arguments of `ringecho doctor`.
#[derive(Clone, Debug, clap::Args)]
struct DoctorArgs {
    /// Number of connections that the machine is to hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    connections: Option<u64>,

    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

/// Runs the program on `args`, the first of which is its name, and returns its exit code. It begins with what must happen
/// before any memory is touched, so that it is the same server in every program that calls it.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Failures only cost memory.
    let _ = sys::refuse_huge_pages();
    sys::return_freed_memory_at_once();
    let args: Vec<OsString> = args.into_iter().collect();
    let given = match parse(&args) {
        Ok(given) => given,
        Err(mistake) => return mistake.print(),
    };
    match given.command {
        Command::Serve(serve) => run(*serve, &given.matches, &given.file, args),
        Command::Doctor(DoctorArgs { connections, json }) => match Report::of_this_machine(connections) {
            Ok(report) => {
                let text = if json { report.json() } else { report.to_string() };
                let _ = write!(std::io::stdout(), "{text}");
                ExitCode::from(if report.fits() { 0 } else { EXIT_FAILURE })
            }
            Err(e) => fail(&format!("cannot find out what this machine grants: {e}"), EXIT_FAILURE),
        },
        Command::Man { directory } => match manual::write(Cli::command(), &directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&format!("cannot write to {}: {e}", directory.display()), EXIT_FAILURE),
        },
        Command::Completions { shell } => match manual::print_completions(Cli::command(), shell) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&format!("cannot write to standard output: {e}"), EXIT_FAILURE),
        },
        Command::Health(HealthArgs { address, ready }) => {
            match admin::ask(&address, if ready { "/readyz" } else { "/healthz" }) {
                Ok(answer) => {
                    let _ = writeln!(std::io::stdout(), "{answer}");
                    ExitCode::SUCCESS
                }
                Err(e) => fail(&e.to_string(), EXIT_FAILURE),
            }
        }
    }
}

fn run(serve: ServeArgs, matches: &ArgMatches, file: &ConfigFile, args: Vec<OsString>) -> ExitCode {
    let program = serve.program.clone();
    let options = Options::from(serve);
    let outcome = if program.print_config {
        Config::new(&options).map_err(program::ProgramError::from).map(|config| {
            let _ = write!(std::io::stdout(), "{}", print_config::render(matches, file, &config.to_string()));
        })
    } else {
        let again = move || match parse(&args) {
            Ok(Given { command: Command::Serve(serve), .. }) => Ok(serve.program),
            Ok(_) => Err("the arguments no longer start a server".to_owned()),
            Err(mistake) => Err(mistake.to_string()),
        };
        program::run(&options, &program, again)
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            logging::flush();
            let code = fail(&e.to_string(), e.exit_code());
            name_variables(&e.to_string());
            code
        }
    };
    logging::flush();
    code
}

fn fail(error: &str, code: u8) -> ExitCode {
    say(error);
    ExitCode::from(code)
}

/// A line to standard error. A closed standard error does not change how the program ends.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "ringecho: {line}");
}

/// The arguments, with those of the configuration file.
struct Given {
    command: Command,
    /// Those of the command.
    matches: ArgMatches,
    file: ConfigFile,
}

/// A mistake in the arguments or in the configuration file.
enum Mistake {
    Arguments(clap::Error),
    File(String),
}

impl Mistake {
    /// Prints it. clap reports help and version as errors, too.
    fn print(&self) -> ExitCode {
        match self {
            Self::Arguments(e) => {
                let _ = e.print();
                // Help and version name all flags.
                if e.use_stderr() {
                    name_variables(&e.to_string());
                }
                ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(EXIT_BAD_ARGUMENTS))
            }
            Self::File(e) => fail(e, EXIT_BAD_ARGUMENTS),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments(e) => e.fmt(f),
            Self::File(e) => f.write_str(e),
        }
    }
}

impl From<clap::Error> for Mistake {
    fn from(e: clap::Error) -> Self {
        Self::Arguments(e)
    }
}

/// Reads the arguments, the environment and, if there is one, the configuration file.
fn parse(args: &[OsString]) -> Result<Given, Mistake> {
    let given = parse_arguments(args)?;
    let Command::Serve(serve) = &given.command else { return Ok(given) };
    let Some(path) = &serve.program.config else { return Ok(given) };
    let file = ConfigFile::read(path).map_err(Mistake::File)?;
    let of_file = file.arguments(&given.matches).into_iter().map(OsString::from);
    Ok(Given { file, ..parse_arguments(&with_arguments(args, of_file))? })
}

/// The arguments with others inserted after the name of the program and, if there is one, of the command.
fn with_arguments(args: &[OsString], others: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let at = 1 + usize::from(args.get(1).is_some_and(|first| first == "serve"));
    let (before, behind) = args.split_at(at.min(args.len()));
    before.iter().cloned().chain(others).chain(behind.iter().cloned()).collect()
}

fn parse_arguments(args: &[OsString]) -> Result<Given, clap::Error> {
    let (command, untidy) = environment::take_untidy(Cli::command(), |variable| std::env::var_os(variable));
    let mut matches = command.clone().try_get_matches_from(args)?;
    let of_variables = match matches.subcommand() {
        Some(("serve", given)) => environment::arguments(&untidy, given),
        Some(_) => Vec::new(),
        None => environment::arguments(&untidy, &matches),
    };
    if !of_variables.is_empty() {
        matches = command.try_get_matches_from(with_arguments(args, of_variables))?;
    }
    let Cli { command, serve } = Cli::from_arg_matches(&matches)?;
    let command = command.unwrap_or_else(|| Command::Serve(Box::new(serve)));
    let matches = matches.subcommand().map_or_else(|| matches.clone(), |(_, matches)| matches.clone());
    Ok(Given { command, matches, file: ConfigFile::default() })
}

/// Names the environment variables behind flags that an error mentions: these flags were not typed.
fn name_variables(error: &str) {
    for line in variables_behind(error, |variable| std::env::var_os(variable)) {
        say(&line);
    }
}

fn variables_behind(error: &str, value_of: impl Fn(&OsStr) -> Option<OsString>) -> Vec<String> {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let line = |arg: &clap::Arg| {
        let (flag, variable) = (arg.get_long()?, arg.get_env()?);
        let value = value_of(variable).filter(|_| error.contains(&format!("--{flag}")))?;
        let (variable, value) = (variable.display(), value.display());
        Some(format!("{variable} is set to \"{value}\" (--{flag} on the command line wins over it)"))
    };
    command.get_arguments().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        for arg in Cli::command().get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
            let flag = arg.get_long().expect("only flags");
            let variable = format!("RINGECHO_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env(), Some(variable.as_ref()), "--{flag}");
        }
    }

    #[test]
    fn an_error_names_the_variable_behind_it() {
        let set = |variable: &OsStr| ["RINGECHO_WORKERS", "RINGECHO_PATH"].iter().any(|it| variable == *it);
        let lines = |error| variables_behind(error, |variable| set(variable).then(OsString::new));
        let of_workers = "RINGECHO_WORKERS is set to \"\" (--workers on the command line wins over it)";
        assert_eq!(lines("invalid value '' for '--workers <N>': cannot parse integer from empty string"), [of_workers]);
        assert!(lines("invalid value '' for '--listen <WHERE>'").is_empty());
    }

    #[test]
    fn what_is_not_given_is_the_librarys_default() {
        let given = Options::from(Cli::parse_from(["ringecho"]).serve);
        assert_eq!(format!("{given:?}"), format!("{:?}", Options::default()));
    }
}
