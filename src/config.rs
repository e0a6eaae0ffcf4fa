//! The configuration: [`Options`] checked and resolved on this machine, and what limited them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::engine::{Engine, EngineError};
use crate::machine::{Bound, Bytes, Machine};
use crate::options::Options;
use crate::protocol::{Deflate, Settings, is_token, normalize_path};
use crate::transport::Doors;
use crate::worker::{Backlog, Limits, Plan, WhenFull};
pub(crate) use listen::{At, Inet, Listen};

mod listen;

/// Descriptors that a worker needs in the process's own table: its eventfd, and its ring or, where it has no table of
/// its own, what it waits on.
const DESCRIPTORS_PER_WORKER: u64 = 2;
/// Standard streams, listeners and the like.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Listeners that there is room for among the reserved descriptors of a worker's own table.
const LISTENERS_RESERVED: usize = 7;
/// Descriptors that a worker needs in a table that it shares, beside its listeners: its eventfd and what its engine waits on
/// (a ring, an epoll, their wake-ups), with some to spare.
const DESCRIPTORS_PER_SHARING_WORKER: u64 = 8;
/// Below this, receives become so small that a worker does little else.
const BACKLOG_MIN: u64 = 64 << 10;
const BACKLOG_MAX: u64 = 1 << 30;
/// The largest message and the backlog of a connection, if nothing else is asked for. Larger than what WebSocket libraries
/// accept by default (1 MiB in Python's, 16 MiB in tungstenite's frames), so that a server behind them is not the limit.
const MESSAGE_DEFAULT: u64 = 16 << 20;
/// The part of the memory that all backlogs together may take: the rest is for the allocator's rounding, for receive
/// buffers, half-read requests, the program itself and, in a memory cgroup, the kernel's socket buffers.
const BACKLOG_PART: u64 = 4;
const BACKLOG_TOTAL_MAX: u64 = 1 << 30;
/// What a half-read request may take of each connection, and the header lines in it: room for what proxies allow, and no
/// invitation.
const HANDSHAKE_SIZES: RangeInclusive<u64> = 1 << 10..=1 << 20;
const HANDSHAKE_HEADERS: RangeInclusive<usize> = 16..=1024;
/// What fits into a core's second-level cache together with everything else: the same memory is used over and over.
const RECEIVE_MEMORY_MAX: u64 = 1 << 20;
/// A connection that we want closed is waited for this long: for the peer to read what it still gets, to answer a
/// Close, to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why options cannot be used on this machine.
#[derive(Debug, Error)]
#[allow(missing_docs)] // each variant is its message
pub enum ConfigError {
    #[error("cannot find out what this machine grants: {0}")]
    Machine(#[from] io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("--listen {address}: {cause}; {}", listen::FORMS)]
    Listen { address: String, cause: String },
    #[error("--listen {0} is given twice")]
    ListenTwice(String),
    #[error("--listen {0} and {1} overlap: one of them is enough")]
    ListenOverlap(SocketAddr, SocketAddr),
    #[error("no address to listen on")]
    NoListener,
    #[error("--cpus: CPU {cpu} is not available to this process (available: {usable})")]
    Cpu { cpu: usize, usable: String },
    #[error("--cpus: at least one CPU is needed")]
    NoCpus,
    #[error("--workers 0: at least one worker is needed")]
    NoWorkers,
    #[error("--max-connections 0: at least one connection is needed")]
    NoConnections,
    #[error(
        "--workers {workers} can hold {capacity} connections, fewer than --max-connections {wanted}: each worker holds \
         {per_worker} {descriptors} (RLIMIT_NOFILE); use --workers {needed} or more, leave --workers out, or raise the \
         limit (ulimit -Hn)"
    )]
    TooFewWorkers {
        workers: usize,
        capacity: u64,
        wanted: usize,
        per_worker: u64,
        descriptors: &'static str,
        needed: u64,
    },
    #[error(
        "{workers} workers need {needed} descriptors in the process's table, and RLIMIT_NOFILE is {limit}: use fewer, \
         or raise the limit (ulimit -Hn)"
    )]
    TooManyWorkers { workers: usize, needed: u64, limit: u64 },
    #[error(
        "--max-connections {wanted}: RLIMIT_NOFILE {limit} allows at most {most}, with as many workers as can be \
         started; ask for fewer, or raise the limit (ulimit -Hn)"
    )]
    TooManyConnections { wanted: usize, most: u64, limit: u64 },
    #[error(
        "RLIMIT_NOFILE is {limit}, and {workers} workers need {needed} descriptors in the process's table: raise the limit \
         (ulimit -Hn), or use fewer with --workers"
    )]
    TooFewDescriptors { workers: usize, needed: u64, limit: u64 },
    #[error("--backlog-per-connection {0}: it must be between 64 KiB and 1 GiB")]
    Backlog(u64),
    #[error("--receive-buffers: {memory} bytes are more than half of --backlog-per-connection {backlog}")]
    ReceiveBuffers { memory: u64, backlog: u64 },
    #[error("--tls-cert and --tls-key: give both or neither")]
    TlsHalfPair,
    #[error("--tls-self-signed and --tls-cert exclude each other")]
    TlsTwoCertificates,
    #[error("--subprotocol {0:?}: not a token as in RFC 9110 5.6.2")]
    Subprotocol(String),
    #[error("{flag} {path:?}: a path starts with '/' and has no spaces, '?' or '#'")]
    Path { flag: &'static str, path: String },
    #[error("--max-handshake-size {0}: it must be between 1 KiB and 1 MiB")]
    HandshakeSize(u64),
    #[error("--max-handshake-headers {0}: it must be between 16 and 1024")]
    HandshakeHeaders(usize),
    #[error("--deflate-context: it needs --deflate pass or --deflate verify")]
    DeflateContext,
}

/// The settings of a server, checked and adapted to the machine.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) engine: Engine,
    pub(crate) listen: Vec<Listen>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) max_connections: usize,
    pub(crate) tls: TlsFiles,
    pub(crate) when_full: WhenFull,
    pub(crate) tcp_keepalive: Option<Duration>,
    limits: Vec<String>,
    notes: Vec<String>,
}

/// The TLS files.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) struct TlsFiles {
    /// Of the certificate and of its key; `None`: they are to be made.
    pub(crate) pair: Option<(PathBuf, PathBuf)>,
    /// Of the authorities whose clients are let in.
    pub(crate) client_ca: Option<PathBuf>,
}

impl Config {
    /// Resolves `options` on this machine.
    ///
    /// Raises the process's soft `RLIMIT_NOFILE` to the hard one.
    pub fn new(options: &Options) -> Result<Self, ConfigError> {
        Self::resolve(options, &Machine::probe()?)
    }

    /// What `options` come to on `machine`, which is this one but for tests: what the kernel refuses is found out here,
    /// too.
    pub fn resolve(options: &Options, machine: &Machine) -> Result<Self, ConfigError> {
        let mut notes = Vec::new();
        let engine = if let Some(engine) = options.engine {
            engine.probe().map(|()| engine)?
        } else {
            let (engine, reason) = Engine::best();
            notes.extend(reason.map(|reason| format!("falling back to epoll: {reason}")));
            engine
        };
        let tables = match engine.probe_tables() {
            Ok(()) => Tables::OnePerWorker,
            Err(e) => {
                notes.push(format!(
                    "close_range is refused ({e}): all workers share one descriptor table, and RLIMIT_NOFILE bounds \
                     all connections together"
                ));
                Tables::One
            }
        };
        Self::of_engine(options, machine, engine, tables, notes)
    }

    fn of_engine(
        options: &Options,
        machine: &Machine,
        engine: Engine,
        tables: Tables,
        mut notes: Vec<String>,
    ) -> Result<Self, ConfigError> {
        let cpus = Cpus::choose(options, machine)?;
        let listen = listen::resolve(options)?;
        let table = Table::new(engine, tables, machine.descriptors, listen::count(&listen));
        let workers = workers(options, &cpus, &table)?;
        let capacity = table.capacity(workers);
        let max_connections = options.max_connections.map_or(capacity, |wanted| wanted as u64) as usize;
        let connections = match options.max_connections {
            Some(_) => format!("--max-connections, of {capacity}: {}", table.describe(workers)),
            None if tables == Tables::One => table.describe(workers),
            None => format!("{}; --max-connections raises it", table.describe(workers)),
        };
        let sizes = Sizes::choose(options, machine, workers, &mut notes)?;
        let receive_memory = receive_memory(sizes.backlog, workers, cpus.order.len());
        if let Some(shape) = options.receive_buffers {
            let memory = u64::from(shape.count) * u64::from(shape.size);
            if memory > sizes.backlog / 2 {
                return Err(ConfigError::ReceiveBuffers { memory, backlog: sizes.backlog });
            }
        }
        let settings = settings(options, sizes.message)?;
        let plan = |index| Plan {
            index,
            cpu: cpus.is_pinned(workers).then(|| cpus.order[index % cpus.order.len()]),
            has_own_table: tables == Tables::OnePerWorker,
            capacity: share(max_connections, workers, index) as u32,
            receive_memory,
            backlog: Backlog {
                per_connection: with_overhead(sizes.backlog) as usize,
                total: (sizes.backlog_total / workers as u64) as usize,
            },
            receive_buffers: options.receive_buffers,
            ring_entries: options.ring_entries,
            settings: settings.clone(),
            doors: Doors::from([]), // the server knows them when it has bound all listeners
            logs_connections: options.log_connections,
            limits: Limits {
                handshake_timeout: options.handshake_timeout,
                idle_timeout: options.idle_timeout,
                stall_timeout: options.stall_timeout,
                close_timeout: CLOSE_TIMEOUT,
                drain_timeout: options.drain_timeout,
                has_fine_ticks: options.has_behaviours,
            },
        };
        let mut limits = vec![
            format!("engine {}", engine.name()),
            cpus.describe(workers, options.workers.is_none()),
            format!("capacity {} ({connections})", counted(max_connections, "connection")),
            sizes.to_string(),
        ];
        limits.extend(describe_deflate(options));
        Ok(Self {
            engine,
            listen,
            tls: tls_files(options)?,
            plans: (0..workers).map(plan).collect(),
            max_connections,
            when_full: options.when_full,
            tcp_keepalive: options.tcp_keepalive,
            limits,
            notes,
        })
    }

    /// The engine.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        self.plans.len()
    }

    /// Connections in all.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// What the machine did not grant and the server does without, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Engine, workers, capacity and memory, each with what limited it: the start-up line without its addresses.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.limits.join(" | "))
    }
}

/// The equal share of worker `index`; the first ones get what is left over.
fn share(connections: usize, workers: usize, index: usize) -> usize {
    connections / workers + usize::from(index < connections % workers)
}

/// The CPUs to run workers on.
struct Cpus {
    /// In this order.
    order: Vec<usize>,
    /// The default number of workers.
    worth: usize,
    is_chosen: bool,
    quota: Option<Bound<f64>>,
}

impl Cpus {
    fn choose(options: &Options, machine: &Machine) -> Result<Self, ConfigError> {
        let order = options.cpus.clone().unwrap_or_else(|| machine.cpus.clone());
        if let Some(&cpu) = order.iter().find(|cpu| !machine.cpus.contains(cpu)) {
            return Err(ConfigError::Cpu { cpu, usable: list(&machine.cpus) });
        }
        if order.is_empty() {
            return Err(ConfigError::NoCpus);
        }
        let quota = machine.cpu_quota.clone().filter(|quota| quota.value < order.len() as f64);
        let worth = quota.as_ref().map_or(order.len(), |quota| quota.value.ceil() as usize);
        Ok(Self { order, worth, is_chosen: options.cpus.is_some(), quota })
    }

    /// Whether workers stay on a CPU each. Fewer workers than CPUs do so only where that is asked for: the kernel knows
    /// which CPUs other processes are busy on, other servers with few workers among them.
    fn is_pinned(&self, workers: usize) -> bool {
        self.is_chosen || workers >= self.order.len()
    }

    /// For the start-up line.
    fn describe(&self, workers: usize, is_default: bool) -> String {
        let on = if self.is_pinned(workers) {
            counted(self.order.len().min(workers), "CPU")
        } else {
            format!("any of {}", counted(self.order.len(), "CPU"))
        };
        let limited_by = match &self.quota {
            Some(quota) if is_default => format!(" (CPU quota {:.2}: {})", quota.value, quota.set_by),
            _ if self.is_chosen => " (--cpus)".into(),
            _ => String::new(),
        };
        format!("{} on {on}{limited_by}", counted(workers, "worker"))
    }
}

fn list(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// The owner of the descriptor tables that hold the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tables {
    OnePerWorker,
    /// The process's own.
    One,
}

/// The capacity of descriptor tables.
struct Table {
    tables: Tables,
    /// Each of the tables.
    holds: u64,
    /// `RLIMIT_NOFILE`.
    limit: u64,
    descriptors: &'static str,
    /// Each worker has copies of them.
    listeners: u64,
}

impl Table {
    fn new(engine: Engine, tables: Tables, limit: u64, listeners: usize) -> Self {
        let (holds, descriptors) = engine.table(limit);
        // A worker's own table has copies of them, some of which are provided for.
        let beyond = if engine == Engine::Uring { 0 } else { listeners.saturating_sub(LISTENERS_RESERVED) };
        let holds = holds.saturating_sub(beyond as u64);
        Self { tables, holds, limit, descriptors, listeners: listeners as u64 }
    }

    fn capacity(&self, workers: usize) -> u64 {
        match self.tables {
            Tables::OnePerWorker => self.holds.saturating_mul(workers as u64),
            Tables::One => {
                let of_worker = DESCRIPTORS_PER_SHARING_WORKER + self.listeners;
                self.holds.saturating_sub(DESCRIPTORS_RESERVED + of_worker * workers as u64)
            }
        }
    }

    /// Workers that so many connections need, if there are enough at all.
    fn workers_for(&self, connections: u64) -> u64 {
        match self.tables {
            Tables::OnePerWorker => connections.div_ceil(self.holds.max(1)),
            Tables::One => 1,
        }
    }

    fn describe(&self, workers: usize) -> String {
        let Self { holds, descriptors, .. } = self;
        match self.tables {
            Tables::OnePerWorker => format!("{} x {holds} {descriptors} (RLIMIT_NOFILE)", counted(workers, "worker")),
            Tables::One => format!("one table of {holds} {descriptors} (RLIMIT_NOFILE)"),
        }
    }
}

fn descriptors_needed(workers: usize) -> u64 {
    (workers as u64).saturating_mul(DESCRIPTORS_PER_WORKER).saturating_add(DESCRIPTORS_RESERVED)
}

fn workers(options: &Options, cpus: &Cpus, table: &Table) -> Result<usize, ConfigError> {
    let needed = match options.max_connections {
        Some(0) => return Err(ConfigError::NoConnections),
        Some(wanted) => table.workers_for(wanted as u64),
        None => 1,
    };
    let workers = match options.workers {
        Some(0) => return Err(ConfigError::NoWorkers),
        Some(workers) => workers,
        None => cpus.worth.max(needed as usize),
    };
    let limit = table.limit;
    let least = descriptors_needed(workers);
    if least > limit {
        return Err(match (options.workers, options.max_connections) {
            (Some(workers), _) => ConfigError::TooManyWorkers { workers, needed: least, limit },
            (None, Some(wanted)) => {
                let most = limit.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_WORKER;
                ConfigError::TooManyConnections { wanted, most: table.capacity(most as usize), limit }
            }
            (None, None) => ConfigError::TooFewDescriptors { workers, needed: least, limit },
        });
    }
    let capacity = table.capacity(workers);
    match options.max_connections {
        Some(wanted) if wanted as u64 > capacity && table.tables == Tables::One => {
            Err(ConfigError::TooManyConnections { wanted, most: capacity, limit })
        }
        Some(wanted) if wanted as u64 > capacity => Err(ConfigError::TooFewWorkers {
            workers,
            capacity,
            wanted,
            per_worker: table.holds,
            descriptors: table.descriptors,
            needed,
        }),
        None if capacity == 0 => Err(ConfigError::TooFewDescriptors { workers, needed: limit + 1, limit }),
        _ => Ok(workers),
    }
}

/// The largest message, and the output that may wait for peers.
struct Sizes {
    /// `u64::MAX`: no limit.
    message: u64,
    backlog: u64,
    backlog_total: u64,
    limited_by: String,
}

impl Sizes {
    /// A client that sends a whole message before it reads, as blocking ones do, gets its echo only if all of it can wait
    /// here. So a message may be as large as the backlog of its connection, and that as large as the worker's part of all
    /// backlogs, unless both are asked for.
    fn choose(
        options: &Options,
        machine: &Machine,
        workers: usize,
        notes: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        let memory = &machine.memory;
        let of_memory = (memory.value / BACKLOG_PART).min(BACKLOG_TOTAL_MAX);
        let backlog_total = options.backlog_total.unwrap_or(of_memory);
        let limited_by = match options.backlog_total {
            Some(_) => "--backlog-total".into(),
            None if of_memory == BACKLOG_TOTAL_MAX => "the default".into(),
            None => format!("a quarter of {}: {}", Bytes(memory.value), memory.set_by),
        };
        let part = backlog_total / workers as u64;
        let most = without_overhead(part).clamp(BACKLOG_MIN, BACKLOG_MAX);
        let wanted = match options.max_message_size {
            None => None,
            Some(0) => Some(u64::MAX),
            Some(size) => Some(size),
        };
        let backlog = match options.backlog_per_connection {
            Some(backlog) if !(BACKLOG_MIN..=BACKLOG_MAX).contains(&backlog) => {
                return Err(ConfigError::Backlog(backlog));
            }
            Some(backlog) => backlog,
            None => match wanted {
                Some(size) if size != u64::MAX => size.max(MESSAGE_DEFAULT).min(most),
                _ => MESSAGE_DEFAULT.min(most),
            },
        };
        let message = wanted.unwrap_or(MESSAGE_DEFAULT.min(backlog).min(most));
        let holds = backlog.min(most);
        if message != u64::MAX && message > holds {
            notes.push(format!(
                "messages of more than {} are echoed only to peers that read while they send: \
                 --max-message-size is {}, --backlog-per-connection {}, and {} may keep {} of --backlog-total each",
                Bytes(holds),
                Bytes(message),
                Bytes(backlog),
                counted(workers, "worker"),
                Bytes(part),
            ));
        }
        Ok(Self { message, backlog, backlog_total, limited_by })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message {
            u64::MAX => write!(f, "messages of any size")?,
            size => write!(f, "messages up to {}", Bytes(size))?,
        }
        write!(
            f,
            " | backlog {} a connection, {} in all ({})",
            Bytes(self.backlog),
            Bytes(self.backlog_total),
            self.limited_by
        )
    }
}

/// What the echo of so many bytes may take while it waits: frames have headers, memory comes in blocks, and an engine stops
/// to receive shortly before the limit. A sixteenth suffices for pieces of some 200 bytes.
fn with_overhead(bytes: u64) -> u64 {
    bytes + bytes / 16
}

/// The bytes that may wait where there is room for `room`.
fn without_overhead(room: u64) -> u64 {
    room - room / 16
}

/// What one turn of a loop receives may all belong to one peer, and what the turn before received, too: so a worker's
/// receive memory is at most half of a connection's backlog. Workers beyond the processors never run at the same time:
/// they share what one per processor would have.
fn receive_memory(backlog: u64, workers: usize, cpus: usize) -> usize {
    let shared = RECEIVE_MEMORY_MAX * cpus.min(workers) as u64 / workers as u64;
    shared.min(backlog / 2).max(BACKLOG_MIN / 2) as usize
}

/// The mode of permessage-deflate, unless it is declined.
fn describe_deflate(options: &Options) -> Option<String> {
    (options.deflate != Deflate::Off)
        .then(|| format!("deflate {}", options.deflate.with_context(options.has_deflate_context)))
}

fn tls_files(options: &Options) -> Result<TlsFiles, ConfigError> {
    let pair = match (&options.tls_cert, &options.tls_key) {
        (Some(_), _) | (_, Some(_)) if options.tls_self_signed => return Err(ConfigError::TlsTwoCertificates),
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        (None, None) => None,
        _ => return Err(ConfigError::TlsHalfPair),
    };
    Ok(TlsFiles { pair, client_ca: options.tls_client_ca.clone() })
}

fn settings(options: &Options, max_message_size: u64) -> Result<Settings, ConfigError> {
    if let Some(name) = options.subprotocols.iter().find(|name| !is_token(name.as_bytes())) {
        return Err(ConfigError::Subprotocol(name.clone()));
    }
    if !HANDSHAKE_SIZES.contains(&options.max_handshake_size) {
        return Err(ConfigError::HandshakeSize(options.max_handshake_size));
    }
    if !HANDSHAKE_HEADERS.contains(&options.max_handshake_headers) {
        return Err(ConfigError::HandshakeHeaders(options.max_handshake_headers));
    }
    if options.has_deflate_context && !matches!(options.deflate, Deflate::Pass | Deflate::Verify) {
        return Err(ConfigError::DeflateContext);
    }
    Ok(Settings {
        protocol: options.protocol,
        max_message_size,
        max_handshake_size: options.max_handshake_size as usize,
        max_handshake_headers: options.max_handshake_headers,
        subprotocols: options.subprotocols.clone(),
        path: path("--path", options.path.as_ref())?,
        health_path: path("--health-path", options.health_path.as_ref())?,
        has_page: options.has_page,
        has_behaviours: options.has_behaviours,
        deflate: options.deflate,
        has_deflate_context: options.has_deflate_context,
    })
}

/// A path that a flag gives, in normal form.
fn path(flag: &'static str, path: Option<&String>) -> Result<Option<String>, ConfigError> {
    let is_path = |path: &str| path.starts_with('/') && !path.bytes().any(|b| b <= b' ' || b"?#\x7f".contains(&b));
    match path {
        Some(path) if !is_path(path) => Err(ConfigError::Path { flag, path: path.clone() }),
        path => Ok(path.map(|path| normalize_path(path).into_owned())),
    }
}

/// A number and what it counts, as people write it.
fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
