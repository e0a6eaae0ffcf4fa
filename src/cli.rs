//! The command line: flags, their environment variables, exit codes.

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
mod signals;
mod values;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::admin::{self, AdminAddress};
use crate::config::Config;
use crate::doctor::Report;
use crate::engine::Engine;
use crate::options::Options;
use crate::protocol::{self, Deflate, Settings};
use crate::sys;
use crate::worker::{ReceiveBuffers, WhenFull};
use config_file::ConfigFile;
use program_args::ProgramArgs;
use values::{CpuList, parse_cpus, parse_keepalive, parse_receive_buffers, parse_seconds};

/// Arguments that make no sense, or that cannot be followed here.
const EXIT_BAD_ARGUMENTS: u8 = 2;
/// A server that is not well, or a machine that does not hold what is wanted.
const EXIT_FAILURE: u8 = 1;

/// A WebSocket echo server for Linux: one thread per core on io_uring.
///
/// SIGTERM, SIGINT and SIGQUIT drain it; SIGHUP reloads; SIGUSR1 and SIGUSR2 are ignored.
///
/// Exit codes: 0 after an orderly end, 1 if it could not start or run, 2 for bad arguments, 130 when a second signal
/// cut the drain short.
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
    /// Serve until a signal ends it; the same as no command at all.
    Serve(Box<ServeArgs>),
    /// Ask the admin listener of a server how it is: for probes. Exit code 0 if it is well, 1 if it is not.
    Health(HealthArgs),
    /// Say what this machine can hold, what would limit it first, and what lifts each limit. Exit code 1 if --connections do
    /// not fit.
    Doctor(DoctorArgs),
    /// Write manual pages into a directory, which is made if it is not there.
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

/// What `ringecho health` takes.
#[derive(Clone, Debug, clap::Args)]
struct HealthArgs {
    /// Its admin listener: ADDR:PORT, unix:PATH or unix:@NAME.
    #[arg(env = "RINGECHO_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:9002")]
    address: AdminAddress,

    /// Ask whether it takes further clients (/readyz), not only whether it lives (/healthz).
    #[arg(long)]
    ready: bool,
}

/// What `ringecho doctor` takes.
#[derive(Clone, Debug, clap::Args)]
struct DoctorArgs {
    /// How many connections it is to hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    connections: Option<u64>,

    /// For scripts: an object instead of lines.
    #[arg(long)]
    json: bool,
}

/// What `ringecho serve` takes, as given.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
struct ServeArgs {
    /// Where to listen; repeat it, or separate by commas, for several: HOST:PORT (port 0 takes a free one, a name stands for
    /// all its addresses, [::] is for IPv4, too), unix:PATH, unix:@NAME (abstract), systemd (the sockets that LISTEN_FDS
    /// counts). In front of it tls:, behind it options of the listener, like unix:/run/echo?mode=660&protocol=tcp or
    /// tls:0.0.0.0:9443?proxy=v2 (docs/DEPLOYMENT.md).
    #[arg(
        long,
        env = "RINGECHO_LISTEN",
        value_name = "WHERE",
        value_delimiter = ',',
        default_value = Options::LISTEN
    )]
    listen: Vec<String>,

    /// Certificate of the tls: listeners with its chain, in PEM [default: one is made at the start, and its fingerprint
    /// printed].
    #[arg(long, env = "RINGECHO_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Key of --tls-cert, in PEM.
    #[arg(long, env = "RINGECHO_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Make a certificate at the start, which is what happens without --tls-cert.
    #[arg(long, env = "RINGECHO_TLS_SELF_SIGNED", value_parser = BoolishValueParser::new())]
    tls_self_signed: bool,

    /// Let in only TLS clients with a certificate by one of these authorities, in PEM.
    #[arg(long, env = "RINGECHO_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Take only IPv6 connections at [::].
    #[arg(long, env = "RINGECHO_IPV6_ONLY", value_parser = BoolishValueParser::new())]
    ipv6_only: bool,

    /// Worker threads, each with descriptors of its own [default: one per CPU, as far as the CPU quota of the cgroup goes;
    /// more if --max-connections needs them].
    #[arg(long, env = "RINGECHO_WORKERS", value_name = "N")]
    workers: Option<usize>,

    /// CPUs to pin the workers to, in this order, like 2,3 or 0-7 [default: all that the process may use, if there are at
    /// least as many workers; fewer workers are placed by the kernel].
    #[arg(long, env = "RINGECHO_CPUS", value_name = "LIST", value_parser = parse_cpus)]
    cpus: Option<CpuList>,

    /// Connections to hold at most (--when-full says what becomes of further clients) [default: what the workers'
    /// descriptor tables hold].
    #[arg(long, env = "RINGECHO_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,

    /// What becomes of clients that come while all connections are taken.
    #[arg(long, env = "RINGECHO_WHEN_FULL", value_enum, default_value = "refuse")]
    when_full: WhenFullChoice,

    /// How long a client may be silent before the kernel asks whether it lives (TCP keepalive), in seconds; one that does not
    /// answer for five more minutes is closed. 0: never.
    #[arg(long, env = "RINGECHO_TCP_KEEPALIVE", value_name = "SECONDS", default_value = "300", value_parser = parse_keepalive)]
    tcp_keepalive: Duration,

    /// Largest message, all its fragments together; beyond it Close 1009. 0: no limit [default: 16MiB, or
    /// --backlog-per-connection if that is less].
    #[arg(long, env = "RINGECHO_MAX_MESSAGE_SIZE", value_name = "BYTES")]
    max_message_size: Option<ByteSize>,

    /// Time for a client to send its whole upgrade request, in seconds. 0: no limit.
    #[arg(long, env = "RINGECHO_HANDSHAKE_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    handshake_timeout: Duration,

    /// Close connections that send nothing for this long (1001), in seconds; half-way they get a Ping, and any answer
    /// counts. 0: never.
    #[arg(long, env = "RINGECHO_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    idle_timeout: Duration,

    /// How long to wait at the end for clients to answer Close 1001, in seconds.
    #[arg(long, env = "RINGECHO_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "8", value_parser = parse_seconds)]
    drain_timeout: Duration,

    /// Unsent bytes to keep at most for a slow reader; above that its connection is not read from. A message of this size
    /// can be sent whole before any of its echo is read. From 64KiB to 1GiB [default: 16MiB, or --max-message-size if
    /// that is more; no more than a worker's part of --backlog-total].
    #[arg(long, env = "RINGECHO_BACKLOG_PER_CONNECTION", value_name = "BYTES")]
    backlog_per_connection: Option<ByteSize>,

    /// Unsent bytes to keep for all slow readers together, in equal parts for the workers; above that no slow reader is
    /// read from [default: a quarter of the memory that the process may use (cgroups, RLIMIT_AS, physical), at most 1GiB].
    #[arg(long, env = "RINGECHO_BACKLOG_TOTAL", value_name = "BYTES")]
    backlog_total: Option<ByteSize>,

    /// End slow readers that have been above their limit for this long and have read nothing, in seconds. 0: never.
    #[arg(long, env = "RINGECHO_STALL_TIMEOUT", value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    stall_timeout: Duration,

    /// A worker's receive memory by count and size of its buffers, for tests: what is cut where. `whole`: each receive
    /// takes a buffer of its own, as on kernels before 6.12.
    #[arg(long, env = "RINGECHO_RECEIVE_BUFFERS", value_name = "COUNTxBYTES[,whole]", value_parser = parse_receive_buffers, hide = true)]
    receive_buffers: Option<ReceiveBuffers>,

    /// Entries of a worker's submission queue, and half of those of its completion queue, for tests: what happens when
    /// they run over.
    #[arg(long, env = "RINGECHO_RING_ENTRIES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32_768), hide = true)]
    ring_entries: Option<u32>,

    /// Largest upgrade request, which cookies and tokens fill; beyond it 431. From 1KiB to 1MiB.
    #[arg(long, env = "RINGECHO_MAX_HANDSHAKE_SIZE", value_name = "BYTES", default_value = "16KiB")]
    max_handshake_size: ByteSize,

    /// Header lines of an upgrade request; beyond them 431. From 16 to 1024.
    #[arg(long, env = "RINGECHO_MAX_HANDSHAKE_HEADERS", value_name = "N", default_value_t = Settings::HANDSHAKE_HEADERS)]
    max_handshake_headers: usize,

    /// Subprotocol to agree to (Sec-WebSocket-Protocol); repeat it in order of preference. '*' agrees to the first that the
    /// client offers.
    #[arg(long = "subprotocol", env = "RINGECHO_SUBPROTOCOL", value_name = "NAME", value_delimiter = ',')]
    subprotocols: Vec<String>,

    /// The only path to serve, like /echo; others get 404 [default: any].
    #[arg(long, env = "RINGECHO_PATH", value_name = "PATH")]
    path: Option<String>,

    /// The path that answers a plain GET with 200, for load balancers and probes; "none": no path does.
    #[arg(long, env = "RINGECHO_HEALTH_PATH", value_name = "PATH", default_value = Settings::HEALTH_PATH)]
    health_path: String,

    /// Give browsers that open the server's address no test page, but 426 like others.
    #[arg(long, env = "RINGECHO_NO_PAGE", value_parser = BoolishValueParser::new())]
    no_page: bool,

    /// Let clients ask for something else than an echo, by the path: /sink, /source?size=&rate=&count=, /delay?ms=,
    /// /close?code=&after=, /status/503, /abort?after=, /hang?after=; and /echo. Not for servers that strangers reach:
    /// docs/BEHAVIOURS.md.
    #[arg(long, env = "RINGECHO_BEHAVIOURS", value_parser = BoolishValueParser::new())]
    behaviours: bool,

    /// What becomes of permessage-deflate (RFC 7692), which browsers offer: docs/PROTOCOL.md.
    #[arg(long, env = "RINGECHO_DEFLATE", value_enum, default_value = "off")]
    deflate: DeflateChoice,

    /// Let clients take the context of their compression over from one message to the next, with --deflate pass or verify:
    /// better ratios, for 48 KiB of memory per connection, and all that is compressed is inflated to be checked.
    #[arg(long, env = "RINGECHO_DEFLATE_CONTEXT", value_parser = BoolishValueParser::new())]
    deflate_context: bool,

    /// What to speak. tcp echoes bare bytes: the yardstick for what WebSocket costs, and useful behind L4 proxies.
    #[arg(long, env = "RINGECHO_PROTOCOL", value_enum, default_value = "websocket")]
    protocol: Protocol,

    /// What moves the bytes.
    #[arg(long, env = "RINGECHO_ENGINE", value_enum, default_value = "auto")]
    engine: EngineChoice,

    #[command(flatten)]
    program: ProgramArgs,
}

/// See [`ServeArgs::when_full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhenFullChoice {
    /// They get 503 with Retry-After at once; with bare TCP they are closed.
    Refuse,
    /// The kernel connects them, and they wait until a connection ends.
    Wait,
}

impl From<WhenFullChoice> for WhenFull {
    fn from(choice: WhenFullChoice) -> Self {
        match choice {
            WhenFullChoice::Refuse => Self::Refuse,
            WhenFullChoice::Wait => Self::Wait,
        }
    }
}

/// See [`ServeArgs::deflate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeflateChoice {
    /// It is declined: messages come uncompressed.
    Off,
    /// Compressed messages come back as they are, without being compressed anew; text is inflated to be checked.
    Pass,
    /// The same, and binary messages are checked, too.
    Verify,
    /// Messages are inflated and compressed anew, as other servers do.
    Recompress,
}

impl From<DeflateChoice> for Deflate {
    fn from(choice: DeflateChoice) -> Self {
        match choice {
            DeflateChoice::Off => Self::Off,
            DeflateChoice::Pass => Self::Pass,
            DeflateChoice::Verify => Self::Verify,
            DeflateChoice::Recompress => Self::Recompress,
        }
    }
}

/// See [`ServeArgs::protocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// RFC 6455.
    #[value(name = "websocket")]
    WebSocket,
    /// Bytes come back as they are.
    Tcp,
}

impl From<Protocol> for protocol::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::WebSocket => Self::WebSocket,
            Protocol::Tcp => Self::Tcp,
        }
    }
}

/// See [`ServeArgs::engine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineChoice {
    /// The native one if the kernel lets us, else epoll.
    Auto,
    /// Native: `io_uring` with direct descriptors, multishot polls and provided buffers.
    Uring,
    /// The tokio-uring runtime.
    TokioUring,
    /// Readiness: runs everywhere, and is what the others are to be compared with.
    Epoll,
}

impl From<EngineChoice> for Option<Engine> {
    fn from(choice: EngineChoice) -> Self {
        match choice {
            EngineChoice::Auto => None,
            EngineChoice::Uring => Some(Engine::Uring),
            EngineChoice::TokioUring => Some(Engine::TokioUring),
            EngineChoice::Epoll => Some(Engine::Epoll),
        }
    }
}

impl From<ServeArgs> for Options {
    fn from(args: ServeArgs) -> Self {
        let bytes = |size: Option<ByteSize>| size.map(|size| size.as_u64());
        Self {
            listen: args.listen,
            ipv6_only: args.ipv6_only,
            tls_cert: args.tls_cert,
            tls_key: args.tls_key,
            tls_self_signed: args.tls_self_signed,
            tls_client_ca: args.tls_client_ca,
            engine: args.engine.into(),
            workers: args.workers,
            cpus: args.cpus.map(|list| list.0),
            max_connections: args.max_connections,
            when_full: args.when_full.into(),
            tcp_keepalive: some_unless_zero(args.tcp_keepalive),
            log_connections: args.program.log_connections,
            max_message_size: bytes(args.max_message_size),
            backlog_per_connection: bytes(args.backlog_per_connection),
            backlog_total: bytes(args.backlog_total),
            handshake_timeout: some_unless_zero(args.handshake_timeout),
            idle_timeout: some_unless_zero(args.idle_timeout),
            stall_timeout: some_unless_zero(args.stall_timeout),
            drain_timeout: args.drain_timeout,
            protocol: args.protocol.into(),
            subprotocols: args.subprotocols,
            path: args.path,
            health_path: Some(args.health_path).filter(|path| path != "none"),
            has_page: !args.no_page,
            has_behaviours: args.behaviours,
            deflate: args.deflate.into(),
            has_deflate_context: args.deflate_context,
            max_handshake_size: args.max_handshake_size.as_u64(),
            max_handshake_headers: args.max_handshake_headers,
            receive_buffers: args.receive_buffers,
            ring_entries: args.ring_entries,
        }
    }
}

fn some_unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// Runs the program on `args`, the first of which is its name, and says how it went. That includes what must happen
/// before any memory is touched, so that this is the same server in whatever program it runs.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Without these everything works, in more memory.
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

/// The settings, read once more.
struct Again {
    program: ProgramArgs,
    /// Flags whose values are not what they were at the start.
    changed: Vec<String>,
}

fn run(serve: ServeArgs, matches: &ArgMatches, file: &ConfigFile, args: Vec<OsString>) -> ExitCode {
    let program = serve.program.clone();
    let options = Options::from(serve);
    let outcome = if program.print_config {
        Config::new(&options).map_err(program::ProgramError::from).map(|config| {
            let _ = write!(std::io::stdout(), "{}", print_config::render(matches, file, &config.to_string()));
        })
    } else {
        let before = matches.clone();
        let again = move || match parse(&args) {
            Ok(Given { command: Command::Serve(serve), matches, .. }) => {
                Ok(Again { program: serve.program, changed: print_config::changed(&before, &matches) })
            }
            Ok(_) => Err("the arguments are no server's any more".to_owned()),
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

/// A line to standard error. That it may be gone is no reason to end otherwise.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "ringecho: {line}");
}

/// What was given, with the configuration file's part.
struct Given {
    command: Command,
    /// Of the command.
    matches: ArgMatches,
    file: ConfigFile,
}

/// A mistake in the arguments or in the configuration file.
enum Mistake {
    Arguments(clap::Error),
    File(String),
}

impl Mistake {
    /// Tells it. Help and version are such errors, too.
    fn print(&self) -> ExitCode {
        match self {
            Self::Arguments(e) => {
                let _ = e.print();
                // Help and version speak of all flags.
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

/// The arguments with others behind the name of the program, and of the command if there is one.
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

/// Names the environment variables that set flags which an error speaks of: these flags were not typed.
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
