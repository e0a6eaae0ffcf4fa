//! The command line: flags, their environment variables, exit codes.

// The doc comments of flags are help texts for a terminal, where backticks are noise.
#![allow(clippy::doc_markdown)]

mod program;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::engine::Engine;
use crate::options::Options;
use crate::protocol::{self, Settings};
use crate::sys::{self, log};
use crate::worker::ReceiveBuffers;

/// Arguments that make no sense, or that cannot be followed here.
const EXIT_BAD_ARGUMENTS: u8 = 2;

/// A WebSocket echo server for Linux: one thread per core on io_uring.
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
    /// Serve until SIGINT or SIGTERM; the same as no command at all.
    Serve(ServeArgs),
}

/// What `ringecho serve` takes, as given.
#[derive(Clone, Debug, clap::Args)]
struct ServeArgs {
    /// Address and port to listen on; repeat it, or separate by commas, for several. Port 0 takes a free one; of a name
    /// the first address is taken.
    #[arg(
        long,
        env = "RINGECHO_LISTEN",
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        default_value = Options::LISTEN
    )]
    listen: Vec<String>,

    /// Worker threads, each with descriptors of its own [default: one per CPU, as far as the CPU quota of the cgroup goes;
    /// more if --max-connections needs them].
    #[arg(long, env = "RINGECHO_WORKERS", value_name = "N")]
    workers: Option<usize>,

    /// CPUs to pin the workers to, in this order, like 2,3 or 0-7 [default: all that the process may use, if there are at
    /// least as many workers; fewer workers are placed by the kernel].
    #[arg(long, env = "RINGECHO_CPUS", value_name = "LIST", value_parser = parse_cpus)]
    cpus: Option<CpuList>,

    /// Connections to hold at most; further ones wait in the kernel's queue until one leaves [default: what the workers'
    /// descriptor tables hold].
    #[arg(long, env = "RINGECHO_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,

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
    #[arg(long, env = "RINGECHO_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
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

    /// What to speak. tcp echoes bare bytes: the yardstick for what WebSocket costs, and useful behind L4 proxies.
    #[arg(long, env = "RINGECHO_PROTOCOL", value_enum, default_value = "websocket")]
    protocol: Protocol,

    /// What moves the bytes.
    #[arg(long, env = "RINGECHO_ENGINE", value_enum, default_value = "auto")]
    engine: EngineChoice,
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
            engine: args.engine.into(),
            workers: args.workers,
            cpus: args.cpus.map(|list| list.0),
            max_connections: args.max_connections,
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
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            // Help and version are such errors, too, and speak of all flags.
            if e.use_stderr() {
                name_variables(&e.to_string());
            }
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(EXIT_BAD_ARGUMENTS));
        }
    };
    let args = match cli.command {
        Some(Command::Serve(args)) => args,
        None => cli.serve,
    };
    match program::run(&args.into()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ringecho: {e}");
            name_variables(&e.to_string());
            ExitCode::from(e.exit_code())
        }
    }
}

/// Names the environment variables that set flags which an error speaks of: these flags were not typed.
fn name_variables(error: &str) {
    for line in variables_behind(error, |variable| std::env::var_os(variable)) {
        log(format_args!("{line}"));
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

/// Longer than anything runs, and short enough to be added to any clock's time.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Seconds as a number (`0.5`), or with a unit (`500ms`, `2min`).
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?,
        Err(_) => humantime::parse_duration(text).map_err(|e| e.to_string())?,
    };
    if duration > DURATION_MAX {
        return Err("a year is the most".into());
    }
    Ok(duration)
}

/// A list of CPUs: one argument, not several.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CpuList(Vec<usize>);

/// Numbers and ranges, separated by commas.
fn parse_cpus(text: &str) -> Result<CpuList, String> {
    let number = |text: &str| text.trim().parse().map_err(|e| format!("{text:?}: {e}"));
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (number(first)?, number(last)?);
        if first > last || last >= CPUS_MAX {
            return Err(format!("{part:?}: a range from the lower number to the higher, below {CPUS_MAX}"));
        }
        cpus.extend(first..=last);
    }
    Ok(CpuList(cpus))
}

/// More than any kernel has been built for (`CONFIG_NR_CPUS`), so that a typing error asks for no gigabytes.
const CPUS_MAX: usize = 1 << 16;

/// `COUNTxBYTES` or `COUNTxBYTES,whole`.
fn parse_receive_buffers(text: &str) -> Result<ReceiveBuffers, String> {
    let (shape, incremental) = text.strip_suffix(",whole").map_or((text, true), |shape| (shape, false));
    let (count, size) = shape.split_once('x').ok_or("it takes COUNTxBYTES or COUNTxBYTES,whole")?;
    let count: u16 = count.parse().map_err(|e| format!("{count:?}: {e}"))?;
    let size: u32 = size.parse().map_err(|e| format!("{size:?}: {e}"))?;
    if !count.is_power_of_two() || size == 0 {
        return Err("the count is a power of two up to 32768, the size at least a byte".into());
    }
    Ok(ReceiveBuffers { count, size, incremental })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
        assert!(lines("invalid value '' for '--listen <ADDR:PORT>'").is_empty());
    }

    #[test]
    fn durations_are_seconds_or_carry_their_unit() {
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_seconds("250ms"), Ok(Duration::from_millis(250)));
        for nonsense in ["", "-1", "NaN", "inf", "1e300", "1e19", "soon"] {
            assert!(parse_seconds(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn cpus_are_a_list_of_numbers_and_ranges() {
        assert_eq!(parse_cpus("3"), Ok(CpuList(vec![3])));
        assert_eq!(parse_cpus("6,0-2, 4"), Ok(CpuList(vec![6, 0, 1, 2, 4])));
        for nonsense in ["", ",", "1,", "a", "2-1", "-1", "0-", "0-99999999999", "1-2-3"] {
            assert!(parse_cpus(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn what_is_not_given_is_the_librarys_default() {
        let given = Options::from(Cli::parse_from(["ringecho"]).serve);
        assert_eq!(format!("{given:?}"), format!("{:?}", Options::default()));
    }

    #[test]
    fn receive_buffers_are_a_count_of_a_size() {
        assert_eq!(parse_receive_buffers("64x16"), Ok(ReceiveBuffers { count: 64, size: 16, incremental: true }));
        assert_eq!(
            parse_receive_buffers("1x4096,whole"),
            Ok(ReceiveBuffers { count: 1, size: 4096, incremental: false })
        );
        for nonsense in ["", "64", "x", "0x16", "63x16", "65536x16", "64x0", "64x16,half", "-1x1"] {
            assert!(parse_receive_buffers(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
