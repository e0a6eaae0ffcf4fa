//! A server's life: bind, start the workers, wait until it is told to stop, drain.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use thiserror::Error;

use crate::config::Config;
use crate::engine::{Controls, Engine, EngineError, Workers};
use crate::worker::{Counter, Tally};

/// `listen(2)` cuts this down to `net.core.somaxconn`. A full queue drops SYNs, which the clients send again a second
/// later: a long one is what makes mass connects fast.
const ACCEPT_QUEUE: i32 = 65_535;
/// How long a port that is in use is tried. When a process with rings is killed, the kernel closes what is in them after
/// the process is gone, the listeners among it: with many connections that takes seconds.
const BIND_PATIENCE: Duration = Duration::from_secs(10);
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// TCP keepalive probes that a peer may leave unanswered, and the time between two: the path may fail for some minutes.
const PROBES: u32 = 5;
const PROBE_PAUSE: Duration = Duration::from_secs(60);

/// Why a server could not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", listen_remedy(.source))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The engine could not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Something else that the operating system has refused.
    #[error("cannot {what}: {source}")]
    System {
        /// What it is for.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: stop it, or choose another port with --listen",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// A server that listens and does not serve yet.
pub struct Server {
    config: Config,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    handle: Handle,
}

/// A server that serves, on threads of its own.
pub struct Running {
    workers: Workers,
}

/// How to reach a server from any thread, before it serves, while it does, and after that.
#[derive(Clone)]
pub struct Handle {
    state: Arc<Mutex<State>>,
    about: Arc<About>,
}

/// What does not change about a server.
pub(crate) struct About {
    pub(crate) engine: Engine,
    /// Connections that each worker can hold.
    pub(crate) capacities: Vec<u32>,
    /// Bytes of pending output that all workers together keep at most.
    pub(crate) backlog_max: u64,
    pub(crate) started_at: Instant,
}

/// Whether a server can be sent further clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// It does not serve yet.
    Starting,
    /// It serves.
    Ready,
    /// All connections are taken.
    Full,
    /// It stops, or is about to ([`Handle::announce_stop`]).
    Draining,
}

/// What a [`Handle`] reaches.
#[derive(Default)]
struct State {
    /// Of the threads, once they run.
    controls: Option<Controls>,
    is_stop_announced: bool,
    is_stopped: bool,
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Connections whose upgrade request was accepted; with bare TCP all.
    pub opened: u64,
    /// Connections whose upgrade request was answered with something else than 101.
    pub refused: u64,
    /// Connections that have come and gone without sending a byte, as probes do.
    pub silent: u64,
    /// Clients that were turned away because all connections were taken.
    pub turned_away: u64,
    /// Data messages echoed.
    pub messages: u64,
    /// Bytes handed to the kernel for sending.
    pub bytes_sent: u64,
}

impl Server {
    /// Binds the addresses of `config`. One that is in use is tried for ten seconds, with a line in the log: the
    /// kernel may take that long to close the listeners of a killed server.
    pub fn bind(config: Config) -> Result<Self, ServerError> {
        let until = Instant::now() + BIND_PATIENCE;
        let bind = |&address| bind_patiently(address, &config, until);
        let listeners: Vec<_> = config.listen.iter().map(bind).collect::<Result<_, _>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
        let addresses =
            addresses.map_err(|source| ServerError::System { what: "ask for a listener's address", source })?;
        let about = About {
            engine: config.engine,
            capacities: config.plans.iter().map(|plan| plan.capacity).collect(),
            backlog_max: config.plans.iter().map(|plan| plan.backlog.total as u64).sum(),
            started_at: Instant::now(),
        };
        let handle = Handle { state: Arc::default(), about: Arc::new(about) };
        Ok(Self { config, listeners, addresses, handle })
    }

    /// Where it listens, in the order of [`Options::listen`](crate::Options::listen), with ports as they are.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How to stop it and to see what it does, from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until [`Handle::stop`], and until the connections are drained or the drain's time is up.
    pub fn run(self) -> Result<(), ServerError> {
        self.start()?.join();
        Ok(())
    }

    /// Starts the threads that serve; they are ready when this returns. In between, a program that embeds the server can
    /// say so.
    ///
    /// A thread that cannot go on later, because the kernel refuses what it granted before, ends the process with a line
    /// on standard error: a server that serves a part of its clients would look alive.
    pub fn start(self) -> Result<Running, ServerError> {
        let Config { engine, plans, when_full, .. } = self.config;
        let workers = engine.start(plans, self.listeners, when_full)?;
        let mut state = lock(&self.handle.state);
        if state.is_stopped {
            workers.controls().stop();
        }
        state.controls = Some(workers.controls());
        Ok(Running { workers })
    }
}

impl Running {
    /// Waits until the server has been stopped, and its connections are drained or the drain's time is up.
    pub fn join(self) {
        self.workers.join();
    }
}

impl Handle {
    /// Drains the server: no further connection is accepted, what has arrived is echoed, clients get Close 1001, and those
    /// that do not answer in time are cut off. Returns at once; [`Server::run`] returns when that is done.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        if let Some(controls) = &state.controls
            && !state.is_stopped
        {
            controls.stop();
        }
        state.is_stopped = true;
    }

    /// Says that the server is about to stop: [`Handle::condition`] is [`Condition::Draining`] from now on, so that load
    /// balancers can go elsewhere before it does.
    pub fn announce_stop(&self) {
        lock(&self.state).is_stop_announced = true;
    }

    /// Whether further clients can be sent to it.
    pub fn condition(&self) -> Condition {
        let state = lock(&self.state);
        match &state.controls {
            _ if state.is_stopped || state.is_stop_announced => Condition::Draining,
            None => Condition::Starting,
            Some(controls) if controls.open() >= self.max_connections() => Condition::Full,
            Some(_) => Condition::Ready,
        }
    }

    /// The counters as they are.
    pub fn stats(&self) -> Stats {
        let mut all = Tally::default();
        for tally in self.tallies() {
            all += &tally;
        }
        Stats {
            accepted: all.get(Counter::Accepted),
            open: all.open(),
            opened: all.get(Counter::Opened),
            refused: all.refusals().map(|(_, count)| count).sum(),
            silent: all.get(Counter::Silent),
            turned_away: self.turned_away(),
            messages: all.get(Counter::Messages),
            bytes_sent: all.get(Counter::BytesSent),
        }
    }

    /// Clients turned away because all connections were taken.
    pub(crate) fn turned_away(&self) -> u64 {
        lock(&self.state).controls.as_ref().map_or(0, Controls::turned_away)
    }

    /// Has each worker make a turn, which its counter of turns tells of.
    pub(crate) fn call(&self) {
        if let Some(controls) = &lock(&self.state).controls {
            controls.call();
        }
    }

    /// What each worker has done so far.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        lock(&self.state).controls.as_ref().map(Controls::tallies).unwrap_or_default()
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    pub(crate) fn max_connections(&self) -> u64 {
        self.about.capacities.iter().copied().map(u64::from).sum()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panics")
}

/// Binds one listener, and waits for a server that was killed to give its port back.
fn bind_patiently(address: SocketAddr, config: &Config, until: Instant) -> Result<TcpListener, ServerError> {
    let mut is_said = false;
    loop {
        match bind(address, config) {
            Err(ServerError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && Instant::now() < until =>
            {
                if !std::mem::replace(&mut is_said, true) {
                    let patience = BIND_PATIENCE.as_secs();
                    tracing::warn!(
                        "{address} is in use, by a killed server's last moments perhaps: trying for {patience} s"
                    );
                }
                thread::sleep(BIND_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Binds one listener. Accepted sockets inherit the options, which saves calls for each of them.
fn bind(address: SocketAddr, config: &Config) -> Result<TcpListener, ServerError> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        keep_alive(&socket, config.tcp_keepalive)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(ACCEPT_QUEUE)?;
        Ok(socket.into())
    };
    open().map_err(|source| ServerError::Listen { address, source })
}

/// Has the kernel ask peers that are silent for so long whether they live (`tcp(7)`): one that has vanished gives its slot
/// back after [`PROBES`] more questions, [`PROBE_PAUSE`] apart. Probes cost workers nothing.
fn keep_alive(socket: &Socket, after: Option<Duration>) -> io::Result<()> {
    let Some(after) = after else { return Ok(()) };
    let keepalive = TcpKeepalive::new().with_time(after).with_interval(PROBE_PAUSE).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)
}
