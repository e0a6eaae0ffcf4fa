//! The flags of `ringecho serve`, and what they make of the library's [`Options`].

#![allow(clippy::doc_markdown)] // help texts for a terminal, where backticks are noise

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;
use clap::builder::BoolishValueParser;

use super::program_args::ProgramArgs;
use super::values::{CpuList, parse_cpus, parse_keepalive, parse_receive_buffers, parse_seconds};
use crate::engine::Engine;
use crate::options::Options;
use crate::protocol::{self, Deflate, Settings};
use crate::worker::{ReceiveBuffers, WhenFull};

/// The flags of `ringecho serve`, as given.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub(super) struct ServeArgs {
    /// Address to listen on; repeat the flag, or separate by commas, for several: HOST:PORT (port 0 takes a free one, a
    /// name stands for all its addresses, [::] includes IPv4), unix:PATH, unix:@NAME (abstract), systemd (the sockets
    /// passed in LISTEN_FDS). The prefix tls: means TLS; options of the listener follow like a query:
    /// unix:/run/echo?mode=660&protocol=tcp or tls:0.0.0.0:9443?proxy=v2 (docs/DEPLOYMENT.md).
    #[arg(
        long,
        env = "RINGECHO_LISTEN",
        value_name = "WHERE",
        value_delimiter = ',',
        default_value = Options::LISTEN
    )]
    listen: Vec<String>,

    /// Certificate chain of the tls: listeners, in PEM [default: a self-signed certificate is made at the start, and
    /// its fingerprint logged].
    #[arg(long, env = "RINGECHO_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, in PEM.
    #[arg(long, env = "RINGECHO_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Make a self-signed certificate at the start, which is also the default without --tls-cert.
    #[arg(long, env = "RINGECHO_TLS_SELF_SIGNED", value_parser = BoolishValueParser::new())]
    tls_self_signed: bool,

    /// Accept only TLS clients with a certificate issued by one of these authorities, in PEM.
    #[arg(long, env = "RINGECHO_TLS_CLIENT_CA", value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,

    /// Accept only IPv6 connections at [::].
    #[arg(long, env = "RINGECHO_IPV6_ONLY", value_parser = BoolishValueParser::new())]
    ipv6_only: bool,

    /// Worker threads, each with its own descriptor table [default: one per CPU, within the CPU quota of the cgroup;
    /// more if --max-connections needs them].
    #[arg(long, env = "RINGECHO_WORKERS", value_name = "N")]
    workers: Option<usize>,

    /// CPUs to pin the workers to, in this order, like 2,3 or 0-7 [default: all that the process may use, if there are
    /// at least as many workers; fewer workers are not pinned].
    #[arg(long, env = "RINGECHO_CPUS", value_name = "LIST", value_parser = parse_cpus)]
    cpus: Option<CpuList>,

    /// Maximum number of connections (--when-full says what happens to further clients) [default: what the workers'
    /// descriptor tables hold].
    #[arg(long, env = "RINGECHO_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,

    /// What happens to further clients while all connections are taken.
    #[arg(long, env = "RINGECHO_WHEN_FULL", value_enum, default_value = "refuse")]
    when_full: WhenFullChoice,

    /// Seconds of silence after which the kernel probes whether a client is alive (TCP keepalive); a client that does
    /// not answer for five more minutes is closed. 0: never.
    #[arg(long, env = "RINGECHO_TCP_KEEPALIVE", value_name = "SECONDS", default_value = "300", value_parser = parse_keepalive)]
    tcp_keepalive: Duration,

    /// Largest message, all its fragments together; a larger one gets Close 1009. 0: no limit [default: 16MiB, or
    /// --backlog-per-connection if that is less].
    #[arg(long, env = "RINGECHO_MAX_MESSAGE_SIZE", value_name = "BYTES")]
    max_message_size: Option<ByteSize>,

    /// Time for a client to send its whole upgrade request, in seconds. 0: no limit.
    #[arg(long, env = "RINGECHO_HANDSHAKE_TIMEOUT", value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    handshake_timeout: Duration,

    /// Close connections that send nothing for this long (1001), in seconds; after half of it they get a Ping, and any
    /// answer counts. 0: never.
    #[arg(long, env = "RINGECHO_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    idle_timeout: Duration,

    /// How long the drain waits for clients to answer Close 1001, in seconds.
    #[arg(long, env = "RINGECHO_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "8", value_parser = parse_seconds)]
    drain_timeout: Duration,

    /// Maximum of unsent bytes kept for a slow reader; above it, the connection is no longer read from. A message of
    /// this size can be sent whole before any of its echo is read. From 64KiB to 1GiB [default: 16MiB, or
    /// --max-message-size if that is more; at most a worker's part of --backlog-total].
    #[arg(long, env = "RINGECHO_BACKLOG_PER_CONNECTION", value_name = "BYTES")]
    backlog_per_connection: Option<ByteSize>,

    /// Maximum of unsent bytes kept for all slow readers together, divided equally among the workers; above it, slow
    /// readers are no longer read from [default: a quarter of the memory that the process may use (cgroups, RLIMIT_AS,
    /// physical), at most 1GiB].
    #[arg(long, env = "RINGECHO_BACKLOG_TOTAL", value_name = "BYTES")]
    backlog_total: Option<ByteSize>,

    /// Close slow readers that have been above their limit for this long and have read nothing, in seconds. 0: never.
    #[arg(long, env = "RINGECHO_STALL_TIMEOUT", value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    stall_timeout: Duration,

    /// Receive memory of a worker as count and size of buffers, for tests of where input is cut. `whole`: each receive
    /// takes a buffer of its own, as on kernels before 6.12.
    #[arg(long, env = "RINGECHO_RECEIVE_BUFFERS", value_name = "COUNTxBYTES[,whole]", value_parser = parse_receive_buffers, hide = true)]
    receive_buffers: Option<ReceiveBuffers>,

    /// Entries of a worker's submission queue, and half of those of its completion queue, for tests of queue overflow.
    #[arg(long, env = "RINGECHO_RING_ENTRIES", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32_768), hide = true)]
    ring_entries: Option<u32>,

    /// Largest upgrade request, cookies and tokens included; a larger one gets 431. From 1KiB to 1MiB.
    #[arg(long, env = "RINGECHO_MAX_HANDSHAKE_SIZE", value_name = "BYTES", default_value = "16KiB")]
    max_handshake_size: ByteSize,

    /// Maximum number of header lines of an upgrade request; more get 431. From 16 to 1024.
    #[arg(long, env = "RINGECHO_MAX_HANDSHAKE_HEADERS", value_name = "N", default_value_t = Settings::HANDSHAKE_HEADERS)]
    max_handshake_headers: usize,

    /// Subprotocol to accept (Sec-WebSocket-Protocol); repeat the flag in order of preference. '*' accepts the first
    /// one that the client offers.
    #[arg(long = "subprotocol", env = "RINGECHO_SUBPROTOCOL", value_name = "NAME", value_delimiter = ',')]
    subprotocols: Vec<String>,

    /// The only path to serve, like /echo; other paths get 404 [default: any].
    #[arg(long, env = "RINGECHO_PATH", value_name = "PATH")]
    path: Option<String>,

    /// Path that answers a plain GET with 200, for load balancers and probes; "none" disables it.
    #[arg(long, env = "RINGECHO_HEALTH_PATH", value_name = "PATH", default_value = Settings::HEALTH_PATH)]
    health_path: String,

    /// Serve no test page: browsers get 426 like other clients.
    #[arg(long, env = "RINGECHO_NO_PAGE", value_parser = BoolishValueParser::new())]
    no_page: bool,

    /// Let clients request something other than an echo, by the path: /sink, /source?size=&rate=&count=, /delay?ms=,
    /// /close?code=&after=, /status/503, /abort?after=, /hang?after=; and /echo. Not for servers that untrusted clients
    /// reach: docs/BEHAVIOURS.md.
    #[arg(long, env = "RINGECHO_BEHAVIOURS", value_parser = BoolishValueParser::new())]
    behaviours: bool,

    /// What to do about permessage-deflate (RFC 7692), which browsers offer: docs/PROTOCOL.md.
    #[arg(long, env = "RINGECHO_DEFLATE", value_enum, default_value = "off")]
    deflate: DeflateChoice,

    /// Let clients keep their compression context between messages (context takeover), with --deflate pass or verify:
    /// better ratios, for 48 KiB of memory per connection, and every compressed message is inflated.
    #[arg(long, env = "RINGECHO_DEFLATE_CONTEXT", value_parser = BoolishValueParser::new())]
    deflate_context: bool,

    /// Protocol to speak. tcp echoes bare bytes: the baseline for the cost of WebSocket, and useful behind L4 proxies.
    #[arg(long, env = "RINGECHO_PROTOCOL", value_enum, default_value = "websocket")]
    protocol: Protocol,

    /// How bytes are moved.
    #[arg(long, env = "RINGECHO_ENGINE", value_enum, default_value = "auto")]
    engine: EngineChoice,

    #[command(flatten)]
    pub(super) program: ProgramArgs,
}

/// See [`ServeArgs::when_full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WhenFullChoice {
    /// They get 503 with Retry-After at once; at listeners for bare TCP and TLS they are closed.
    Refuse,
    /// They wait in the kernel's queue until a connection ends.
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
    /// Decline it: messages are not compressed.
    Off,
    /// Echo compressed messages as they are, without recompressing; text is inflated to check it.
    Pass,
    /// Like pass, and binary messages are checked, too.
    Verify,
    /// Inflate messages and compress them again, as other servers do.
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
    /// Bytes are echoed unchanged.
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
    /// uring if the kernel allows it, else epoll.
    Auto,
    /// Native: `io_uring` with direct descriptors, multishot polls and provided buffers.
    Uring,
    /// The tokio-uring runtime.
    TokioUring,
    /// Readiness: runs everywhere, and is the baseline for the others.
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
