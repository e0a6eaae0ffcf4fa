//! The requested settings of a server: plain data, from flags, the environment or a program that embeds the server.
//! [`Config::resolve`](crate::Config::resolve) checks it.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Engine;
use crate::protocol::{Deflate, Protocol, Settings};
use crate::worker::{ReceiveBuffers, WhenFull};

/// The requested settings of a server. `None` leaves the choice to [`Config::resolve`](crate::Config::resolve), which knows
/// the machine, unless a field says otherwise.
///
/// ```
/// let options = ringecho::Options { listen: vec!["127.0.0.1:0".into()], ..ringecho::Options::default() };
/// assert_eq!(options.handshake_timeout, Some(std::time::Duration::from_secs(10)));
/// ```
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a choice of its own
pub struct Options {
    /// Listeners: `HOST:PORT` each, like `0.0.0.0:9001` or `[::1]:9001`, where port 0 takes a free one and a name stands for
    /// all its addresses; `unix:PATH`, `unix:@NAME` (abstract), or `systemd` for the sockets passed by the service manager.
    /// The prefix `tls:` means TLS; after a `?` follow options of that listener: `protocol=tcp`, `proxy=v1` (`v2`, `any`),
    /// `mode=660`. The default is `127.0.0.1:9001` alone.
    pub listen: Vec<String>,
    /// Whether `[::]` accepts IPv6 only. By default it also accepts IPv4.
    pub ipv6_only: bool,
    /// Certificate chain and key of TLS listeners, in PEM. Without them a self-signed certificate is made at the start, and
    /// its fingerprint logged.
    pub tls_cert: Option<PathBuf>,
    /// See [`Options::tls_cert`].
    pub tls_key: Option<PathBuf>,
    /// Whether a self-signed certificate is requested, so that giving files is an error.
    pub tls_self_signed: bool,
    /// Authorities, in PEM: TLS clients need a certificate issued by one of them.
    pub tls_client_ca: Option<PathBuf>,
    /// The engine. `None`: [`Engine::Uring`] if the kernel allows it, else [`Engine::Epoll`].
    pub engine: Option<Engine>,
    /// Worker threads. `None`: one per CPU, within the CPU quota, and more if `max_connections` needs them.
    pub workers: Option<usize>,
    /// CPUs to pin the workers to, in this order. `None`: those of the process's affinity mask if there are at least as many
    /// workers; fewer workers are not pinned.
    pub cpus: Option<Vec<usize>>,
    /// Maximum number of connections. `None`: what the workers' descriptor tables hold.
    pub max_connections: Option<usize>,
    /// What happens to further clients while all connections are taken. The default is [`WhenFull::Refuse`].
    pub when_full: WhenFull,
    /// Time of silence after which the kernel probes whether a client is alive (TCP keepalive). `None`: no probes. The
    /// default is five minutes.
    pub tcp_keepalive: Option<Duration>,
    /// Whether each connection's end is logged, with the client's address.
    pub log_connections: bool,
    /// Bytes of the largest message, all its fragments together; 0: no limit. `None`: 16 MiB, or less if
    /// `backlog_per_connection` is less.
    pub max_message_size: Option<u64>,
    /// Maximum of unsent output kept for one peer; above it, its connection is no longer read from. `None`: 16 MiB, or
    /// `max_message_size` if that is more, as far as `backlog_total` allows.
    pub backlog_per_connection: Option<u64>,
    /// The same for all connections together. `None`: a quarter of the memory that the process may use, 1 GiB at most.
    pub backlog_total: Option<u64>,
    /// Time from the accept to the end of the upgrade request. `None`: no limit. The default is 10 s.
    pub handshake_timeout: Option<Duration>,
    /// Time without input from a peer, which gets a Ping after half of it. `None`, the default: no limit.
    pub idle_timeout: Option<Duration>,
    /// Time without progress of the output of a connection that is above its limit and no longer read from. `None`: no
    /// limit. The default is 60 s.
    pub stall_timeout: Option<Duration>,
    /// Time from [`Handle::stop`](crate::Handle::stop) to the end at the latest. The default is 8 s.
    pub drain_timeout: Duration,
    /// The protocol.
    pub protocol: Protocol,
    /// Accepted subprotocols, in order of preference; `*` is the first one that the client offers.
    pub subprotocols: Vec<String>,
    /// The only path to serve. `None`: every path is served.
    pub path: Option<String>,
    /// Path that answers a plain GET with 200, for load balancers and probes. `None`: no path. The default is `/healthz`.
    pub health_path: Option<String>,
    /// Whether browsers get a test page at the address of a WebSocket. They do by default.
    pub has_page: bool,
    /// Whether clients may request behaviours other than an echo by the path: docs/BEHAVIOURS.md. By default they may not.
    pub has_behaviours: bool,
    /// What to do about permessage-deflate, which clients offer: docs/PROTOCOL.md.
    pub deflate: Deflate,
    /// Whether clients may use context takeover, where the echo allows it: better ratios, for an inflater of 48 KiB per
    /// connection. By default they may not.
    pub has_deflate_context: bool,
    /// Bytes of the largest upgrade request. The default is 16 KiB.
    pub max_handshake_size: u64,
    /// Header lines of an upgrade request. The default is 128.
    pub max_handshake_headers: usize,
    /// A worker's receive memory, for tests.
    #[doc(hidden)]
    pub receive_buffers: Option<ReceiveBuffers>,
    /// Entries of a worker's submission queue, for tests.
    #[doc(hidden)]
    pub ring_entries: Option<u32>,
}

impl Options {
    /// The default of [`Options::listen`].
    pub const LISTEN: &str = "127.0.0.1:9001";
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![Self::LISTEN.into()],
            ipv6_only: false,
            tls_cert: None,
            tls_key: None,
            tls_self_signed: false,
            tls_client_ca: None,
            engine: None,
            workers: None,
            cpus: None,
            max_connections: None,
            when_full: WhenFull::Refuse,
            tcp_keepalive: Some(Duration::from_secs(300)),
            log_connections: false,
            max_message_size: None,
            backlog_per_connection: None,
            backlog_total: None,
            handshake_timeout: Some(Duration::from_secs(10)),
            idle_timeout: None,
            stall_timeout: Some(Duration::from_secs(60)),
            drain_timeout: Duration::from_secs(8),
            protocol: Protocol::WebSocket,
            subprotocols: Vec::new(),
            path: None,
            health_path: Some(Settings::HEALTH_PATH.into()),
            has_page: true,
            has_behaviours: false,
            deflate: Deflate::Off,
            has_deflate_context: false,
            max_handshake_size: Settings::HANDSHAKE_SIZE as u64,
            max_handshake_headers: Settings::HANDSHAKE_HEADERS,
            receive_buffers: None,
            ring_entries: None,
        }
    }
}
