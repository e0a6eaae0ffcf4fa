//! Settings: what the arguments come to on this machine, checked.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use thiserror::Error;

use crate::cli::ServeArgs;
use crate::engine::Engine;
use crate::engine::uring::buffers::PoolShape;
use crate::protocol;
use crate::sys;
use crate::worker::{Backlog, Limits};

/// Descriptors that a worker needs in the process's own table: its eventfd, and its ring or the way sockets get to it.
const DESCRIPTORS_PER_WORKER: u64 = 2;
/// Standard streams, listeners, what the acceptor has in its hands and the like.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Below this, receives become so small that a worker does little else.
const BACKLOG_MIN: u64 = 64 << 10;
const BACKLOG_MAX: u64 = 1 << 30;
/// What fits into a core's second-level cache together with everything else: the same memory is used over and over.
const RECEIVE_MEMORY_MAX: u64 = 1 << 20;
/// A connection that we want closed is waited for this long: for the peer to read what it still gets, to answer a
/// Close, to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the operating system grants this process.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The hard `RLIMIT_NOFILE`.
    pub descriptors: u64,
    /// Processors it may run on.
    pub cpus: Vec<usize>,
}

impl Machine {
    /// Asks, and raises the soft descriptor limit to the hard one.
    pub fn probe() -> io::Result<Self> {
        Ok(Self { descriptors: sys::raise_descriptor_limit()?, cpus: sys::usable_cpus()? })
    }
}

/// Why the arguments cannot be followed here.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot find out what this machine grants: {0}")]
    Machine(#[from] io::Error),
    #[error("--listen {address}: {cause}; it takes ADDRESS:PORT, like 0.0.0.0:9001 or [::1]:9001")]
    Listen { address: String, cause: String },
    #[error("--listen {0} stands there twice")]
    ListenTwice(SocketAddr),
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
        "--max-connections {wanted}: RLIMIT_NOFILE {limit} allows for {most} at most, that many descriptors in each of \
         as many workers as can be; ask for fewer, or raise the limit (ulimit -Hn)"
    )]
    TooManyConnections { wanted: usize, most: u64, limit: u64 },
    #[error("--backlog-per-connection {0}: it must be between 64 KiB and 1 GiB")]
    Backlog(u64),
    #[error("--receive-buffers: {memory} bytes are more than half of --backlog-per-connection {backlog}")]
    ReceiveBuffers { memory: u64, backlog: u64 },
    #[error("--subprotocol {0:?}: not a token as in RFC 9110 5.6.2")]
    Subprotocol(String),
    #[error("--path {0:?}: a path starts with '/' and has no spaces, '?' or '#'")]
    Path(String),
}

/// The settings that a server runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who moves the bytes.
    pub engine: Engine,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// How many workers.
    pub workers: usize,
    /// The processors they are spread over.
    pub cpus: Vec<usize>,
    /// Connections in all.
    pub max_connections: usize,
    /// What bounds them, for the start-up line.
    pub limited_by: String,
    /// Bytes of receive memory for each worker.
    pub receive_memory: usize,
    /// Its shape, if it is not for the engine to choose.
    pub receive_buffers: Option<PoolShape>,
    /// Entries of a worker's ring, if it is not for the engine to choose.
    pub ring_entries: Option<u32>,
    /// How much output may wait in each worker.
    pub backlog: Backlog,
    /// How long things may take.
    pub limits: Limits,
    /// The protocol's own.
    pub settings: protocol::Settings,
}

impl Config {
    /// What `args` come to on `machine` with `engine`, which is what their `--engine` stands for.
    pub fn resolve(args: &ServeArgs, machine: &Machine, engine: Engine) -> Result<Self, ConfigError> {
        let (per_worker, descriptors) = engine.table(machine.descriptors);
        let workers = workers(args, machine, (per_worker, descriptors))?;
        let capacity = workers as u64 * per_worker;
        let tables = format!("{} x {per_worker} {descriptors} (RLIMIT_NOFILE)", counted(workers, "worker"));
        let (max_connections, limited_by) = match args.max_connections {
            Some(wanted) => (wanted, format!("--max-connections, of {capacity}: {tables}")),
            None => (capacity as usize, format!("{tables}; --max-connections raises it")),
        };
        let backlog = args.backlog_per_connection.as_u64();
        if !(BACKLOG_MIN..=BACKLOG_MAX).contains(&backlog) {
            return Err(ConfigError::Backlog(backlog));
        }
        if let Some(shape) = args.receive_buffers {
            let memory = u64::from(shape.count) * u64::from(shape.size);
            if memory > backlog / 2 {
                return Err(ConfigError::ReceiveBuffers { memory, backlog });
            }
        }
        Ok(Self {
            engine,
            listen: listen(&args.listen)?,
            workers,
            cpus: machine.cpus.clone(),
            max_connections,
            limited_by,
            receive_memory: receive_memory(backlog, workers, machine.cpus.len()),
            receive_buffers: args.receive_buffers,
            ring_entries: args.ring_entries,
            backlog: Backlog {
                per_connection: backlog as usize,
                total: args.backlog_total.as_u64() as usize / workers,
            },
            limits: Limits {
                handshake_timeout: some_unless_zero(args.handshake_timeout),
                idle_timeout: some_unless_zero(args.idle_timeout),
                close_timeout: CLOSE_TIMEOUT,
                drain_timeout: args.drain_timeout,
            },
            settings: settings(args)?,
        })
    }

    /// Connections that a worker holds: an equal share, and no more than `max_connections` in all.
    pub fn capacity_of_worker(&self, index: usize) -> u32 {
        let has_one_more = index < self.max_connections % self.workers;
        (self.max_connections / self.workers + usize::from(has_one_more)) as u32
    }
}

fn workers(
    args: &ServeArgs,
    machine: &Machine,
    (per_worker, descriptors): (u64, &'static str),
) -> Result<usize, ConfigError> {
    let needed = match args.max_connections {
        Some(0) => return Err(ConfigError::NoConnections),
        Some(wanted) => (wanted as u64).div_ceil(per_worker),
        None => 1,
    };
    let workers = match args.workers {
        Some(0) => return Err(ConfigError::NoWorkers),
        Some(workers) => workers,
        None => machine.cpus.len().max(needed as usize),
    };
    if (workers as u64) < needed {
        return Err(ConfigError::TooFewWorkers {
            workers,
            capacity: workers as u64 * per_worker,
            wanted: args.max_connections.unwrap_or_default(),
            per_worker,
            descriptors,
            needed,
        });
    }
    let needed = (workers as u64).saturating_mul(DESCRIPTORS_PER_WORKER).saturating_add(DESCRIPTORS_RESERVED);
    if needed > machine.descriptors {
        let limit = machine.descriptors;
        return Err(match args.workers {
            Some(workers) => ConfigError::TooManyWorkers { workers, needed, limit },
            None => ConfigError::TooManyConnections {
                wanted: args.max_connections.unwrap_or_default(),
                most: per_worker * (limit.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_WORKER),
                limit,
            },
        });
    }
    Ok(workers)
}

/// What one turn of a loop receives may all belong to one peer, and what the turn before received, too: so a worker's
/// receive memory is at most half of a connection's backlog. Workers beyond the processors never run at the same time:
/// they share what one per processor would have.
fn receive_memory(backlog: u64, workers: usize, cpus: usize) -> usize {
    let shared = RECEIVE_MEMORY_MAX * cpus.min(workers) as u64 / workers as u64;
    shared.min(backlog / 2).max(BACKLOG_MIN / 2) as usize
}

fn listen(addresses: &[String]) -> Result<Vec<SocketAddr>, ConfigError> {
    let resolve = |address: &String| {
        let fail = |cause: String| ConfigError::Listen { address: address.clone(), cause };
        let found: Vec<_> = address.to_socket_addrs().map_err(|e| fail(e.to_string()))?.collect();
        // A name can stand for several addresses, IPv4 and IPv6: listen on the first.
        found.first().copied().ok_or_else(|| fail("no such address".into()))
    };
    let found: Vec<SocketAddr> = addresses.iter().map(resolve).collect::<Result<_, _>>()?;
    let is_twice = |(index, address): (usize, &SocketAddr)| address.port() != 0 && found[..index].contains(address);
    match found.iter().enumerate().find(|&entry| is_twice(entry)) {
        Some((_, &address)) => Err(ConfigError::ListenTwice(address)),
        None => Ok(found),
    }
}

fn settings(args: &ServeArgs) -> Result<protocol::Settings, ConfigError> {
    let is_token = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    if let Some(name) = args.subprotocols.iter().find(|name| !is_token(name)) {
        return Err(ConfigError::Subprotocol(name.clone()));
    }
    let is_path = |path: &&String| path.starts_with('/') && !path.bytes().any(|b| b <= b' ' || b"?#\x7f".contains(&b));
    if let Some(path) = args.path.as_ref().filter(|path| !is_path(path)) {
        return Err(ConfigError::Path(path.clone()));
    }
    Ok(protocol::Settings {
        protocol: args.protocol.into(),
        max_message_size: match args.max_message_size.as_u64() {
            0 => u64::MAX,
            limit => limit,
        },
        subprotocols: args.subprotocols.clone(),
        path: args.path.clone(),
        ..protocol::Settings::default()
    })
}

/// A number and what it counts, as people write it.
pub fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn some_unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn resolve(line: &str, descriptors: u64, cpus: usize) -> Result<Config, ConfigError> {
        let args = Line::parse_from(std::iter::once("ringecho").chain(line.split_whitespace()));
        Config::resolve(&args.serve, &Machine { descriptors, cpus: (0..cpus).collect() }, Engine::Uring)
    }

    #[test]
    fn rings_are_as_many_as_the_connections_need() {
        assert_eq!(resolve("", 20_000, 2).unwrap().max_connections, 40_000);
        let config = resolve("--max-connections 500000", 20_000, 2).unwrap();
        assert_eq!((config.workers, config.capacity_of_worker(0)), (25, 20_000));
        assert_eq!(resolve("--max-connections 1000", 20_000, 2).unwrap().workers, 2);
    }

    #[test]
    fn the_workers_capacities_add_up_to_the_limit() {
        for (workers, max_connections) in [(3, 10), (1, 7), (4, 3), (25, 499_999)] {
            let line = format!("--workers {workers} --max-connections {max_connections}");
            let config = resolve(&line, 20_000, 2).unwrap();
            let sum: usize = (0..workers).map(|index| config.capacity_of_worker(index) as usize).sum();
            assert_eq!(sum, max_connections);
        }
    }

    #[test]
    fn workers_beyond_the_processors_add_no_receive_memory() {
        let few = resolve("", 20_000, 2).unwrap();
        let many = resolve("--max-connections 500000", 20_000, 2).unwrap();
        assert!(many.receive_memory * many.workers <= few.receive_memory * few.workers);
    }

    #[test]
    fn nonsense_is_refused_with_its_remedy() {
        for (line, word) in [
            ("--workers 0", "at least one"),
            ("--max-connections 0", "at least one"),
            ("--workers 1 --max-connections 20001", "--workers 2"),
            ("--workers 10000", "RLIMIT_NOFILE"),
            ("--workers 9223372036854775808", "RLIMIT_NOFILE"),
            ("--max-connections 5000000000", "--max-connections"),
            ("--listen 127.0.0.1:1 --listen 127.0.0.1:1", "twice"),
            ("--backlog-per-connection 1KiB", "64 KiB"),
            ("--listen nowhere", "ADDRESS:PORT"),
            ("--subprotocol a/b", "token"),
            ("--path echo", "starts with '/'"),
        ] {
            let message = resolve(line, 20_000, 2).expect_err(line).to_string();
            assert!(message.contains(word), "{line}: {message}");
        }
    }
}
