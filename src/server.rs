//! The server: bind, start the workers, wait for the end, drain.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;

use crate::config::{At, Config, Inet, Listen, TlsFiles};
use crate::engine::{Controls, Engine, EngineError, Workers};
use crate::transport::{Door, Doors};
use crate::worker::{Counter, Tally};

mod systemd;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "server/no_tls.rs"]
mod tls;
mod unix;

use tls::Certificates;
pub use tls::TlsError;

/// `listen(2)` cuts this down to `net.core.somaxconn`. A full queue drops SYNs, which the clients send again a second
/// later: a long one is what makes mass connects fast.
const ACCEPT_QUEUE: i32 = 65_535;
/// Time that bind is retried on a port in use. When a process with rings is killed, the kernel closes the sockets in them
/// only after the process is gone, the listeners among them: with many connections that takes seconds.
const BIND_PATIENCE: Duration = Duration::from_secs(10);
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// TCP keepalive probes that a peer may leave unanswered, and the time between two: the path may fail for some minutes.
const PROBES: u32 = 5;
const PROBE_PAUSE: Duration = Duration::from_secs(60);

/// Why a server could not start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", listen_remedy(.address, .source))]
    Listen {
        /// Which.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The TLS listeners have no certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The service manager's sockets cannot be listened on.
    #[error("--listen systemd: {cause}")]
    Systemd {
        /// Why.
        cause: String,
    },
    /// The program was told to end while it waited for an address that is in use.
    #[error("told to end while waiting for {address}, which is in use")]
    GivenUp {
        /// Which.
        address: Address,
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

fn listen_remedy(address: &Address, error: &io::Error) -> &'static str {
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, Address::Unix(_)) => {
            "; another process listens there: stop it, or choose another path"
        }
        (io::ErrorKind::AddrInUse, _) => {
            "; another process listens there: stop it, or choose another port with --listen"
        }
        (io::ErrorKind::PermissionDenied, Address::Inet(_)) => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        (io::ErrorKind::AddrNotAvailable, _) => "; no interface of this machine has that address",
        _ => "",
    }
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// At an address and a port.
    Inet(SocketAddr),
    /// At a socket file.
    Unix(PathBuf),
    /// At a name without a file, in the network namespace (`unix(7)`).
    Abstract(String),
    /// The same, with TLS.
    Tls(Box<Address>),
}

impl Address {
    /// Of a listener for TCP.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) | Self::Abstract(_) => None,
            Self::Tls(address) => address.inet(),
        }
    }
}

/// As on the command line.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
        }
    }
}

/// Time that addresses in use are retried, and how to wait in between.
struct Patience<'a> {
    until: Instant,
    wait: &'a dyn Fn(Duration) -> bool,
}

/// A socket that listens.
struct Bound {
    socket: OwnedFd,
    address: Address,
    door: Door,
    is_tls: bool,
    /// To be removed at the end.
    file: Option<unix::SocketFile>,
}

/// A server that listens and does not serve yet.
pub struct Server {
    config: Config,
    sockets: Vec<OwnedFd>,
    files: Vec<unix::SocketFile>,
    addresses: Vec<Address>,
    handle: Handle,
}

/// A server that serves, on threads of its own.
pub struct Running {
    workers: Workers,
    /// Removed when it ends.
    _files: Vec<unix::SocketFile>,
}

/// A handle to a server for any thread, before it serves, while it does, and after that.
#[derive(Clone)]
pub struct Handle {
    state: Arc<Mutex<State>>,
    about: Arc<About>,
}

/// The constant properties of a server.
pub(crate) struct About {
    pub(crate) engine: Engine,
    /// Connections that each worker can hold.
    pub(crate) capacities: Vec<u32>,
    /// Bytes of pending output that all workers together keep at most.
    pub(crate) backlog_max: u64,
    /// The handling of permessage-deflate.
    pub(crate) deflate: String,
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

/// The state behind a [`Handle`].
#[derive(Default)]
struct State {
    /// Of the threads, once they run.
    controls: Option<Controls>,
    /// Of TLS listeners.
    certificates: Option<Arc<Certificates>>,
    is_stop_announced: bool,
    is_stopped: bool,
}

/// The statistics of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Connections whose upgrade request was accepted; with bare TCP all.
    pub opened: u64,
    /// Connections whose request was answered with an error.
    pub refused: u64,
    /// Connections whose request was not for a WebSocket and got what it was for: health checks, the test page.
    pub answered: u64,
    /// Connections that have come and gone without sending a byte, as probes do.
    pub silent: u64,
    /// Clients that were turned away because all connections were taken.
    pub turned_away: u64,
    /// Data messages echoed.
    pub messages: u64,
    /// Bytes handed to the kernel for sending.
    pub bytes_sent: u64,
    /// Connections that have agreed on compression.
    pub compressed_connections: u64,
    /// Messages received compressed.
    pub compressed_messages: u64,
}

impl Server {
    /// Binds the addresses of `config`. One that is in use is tried for ten seconds, with a line in the log: the
    /// kernel may take that long to close the listeners of a killed server.
    pub fn bind(config: Config) -> Result<Self, ServerError> {
        Self::bind_waiting(config, &|time| {
            thread::sleep(time);
            true
        })
    }

    /// The same; `wait` waits that long for an address in use, or returns that the start is to be given up.
    pub(crate) fn bind_waiting(mut config: Config, wait: &dyn Fn(Duration) -> bool) -> Result<Self, ServerError> {
        let patience = Patience { until: Instant::now() + BIND_PATIENCE, wait };
        let mut bound = Vec::new();
        for listen in &config.listen {
            bind_entry(listen, config.tcp_keepalive, &patience, &mut bound)?;
        }
        let certificates = give_certificates(config.tls.clone(), &mut bound)?;
        let doors: Doors = bound.iter().map(|bound| bound.door.clone()).collect();
        config.plans.iter_mut().for_each(|plan| plan.doors = Arc::clone(&doors));
        let (mut sockets, mut files, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for Bound { socket, address, file, .. } in bound {
            sockets.push(socket);
            files.extend(file);
            addresses.push(address);
        }
        let settings = &config.plans[0].settings;
        let about = About {
            engine: config.engine,
            capacities: config.plans.iter().map(|plan| plan.capacity).collect(),
            backlog_max: config.plans.iter().map(|plan| plan.backlog.total as u64).sum(),
            deflate: settings.deflate.with_context(settings.has_deflate_context),
            started_at: Instant::now(),
        };
        let state = Arc::new(Mutex::new(State { certificates, ..State::default() }));
        let handle = Handle { state, about: Arc::new(about) };
        Ok(Self { config, sockets, files, addresses, handle })
    }

    /// The addresses of its listeners, in the order of [`Options::listen`](crate::Options::listen), with the actual ports.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The handle to stop it and to read its statistics, for any thread.
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
    /// on standard error: a server that serves a part of its clients would look alive. For the same reason a panic in one of
    /// them aborts the process.
    pub fn start(self) -> Result<Running, ServerError> {
        let Config { engine, plans, when_full, .. } = self.config;
        let workers = engine.start(plans, self.sockets, when_full)?;
        let mut state = lock(&self.handle.state);
        if state.is_stopped {
            workers.controls().stop();
        }
        state.controls = Some(workers.controls());
        Ok(Running { workers, _files: self.files })
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

    /// Loads certificate, key and authorities of the TLS listeners again: handshakes from now on are made with them. If they
    /// cannot be used, those that were loaded before stay in force. Returns whether there are TLS listeners.
    pub fn reload_tls(&self) -> Result<bool, TlsError> {
        let certificates = lock(&self.state).certificates.clone();
        let reload = |certificates: Arc<Certificates>| certificates.reload().map(|()| true);
        certificates.map_or(Ok(false), reload)
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
            answered: all.answers().map(|(_, count)| count).sum(),
            silent: all.get(Counter::Silent),
            turned_away: self.turned_away(),
            messages: all.get(Counter::Messages),
            bytes_sent: all.get(Counter::BytesSent),
            compressed_connections: all.get(Counter::Agreed),
            compressed_messages: all.get(Counter::Compressed),
        }
    }

    /// Clients turned away because all connections were taken.
    pub(crate) fn turned_away(&self) -> u64 {
        lock(&self.state).controls.as_ref().map_or(0, Controls::turned_away)
    }

    /// Makes each worker make a turn, as its counter of turns shows.
    pub(crate) fn call(&self) {
        if let Some(controls) = &lock(&self.state).controls {
            controls.call();
        }
    }

    /// The counters of each worker.
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

/// Sets the certificates of TLS listeners, if there are any.
fn give_certificates(files: TlsFiles, bound: &mut [Bound]) -> Result<Option<Arc<Certificates>>, ServerError> {
    let addresses: Vec<Address> = bound.iter().filter(|it| it.is_tls).map(|it| it.address.clone()).collect();
    if addresses.is_empty() {
        return Ok(None);
    }
    let certificates = Certificates::new(files, &addresses)?;
    for it in bound.iter_mut().filter(|it| it.is_tls) {
        it.door.tls = Some(Arc::clone(&certificates.acceptor));
        it.address = Address::Tls(Box::new(it.address.clone()));
    }
    Ok(Some(Arc::new(certificates)))
}

/// Binds all sockets of an entry.
fn bind_entry(
    listen: &Listen,
    tcp_keepalive: Option<Duration>,
    patience: &Patience<'_>,
    bound: &mut Vec<Bound>,
) -> Result<(), ServerError> {
    let is_tls = listen.is_tls;
    let door = Door { proxy: listen.proxy, ..Door::new(listen.protocol) };
    match &listen.at {
        At::Inet(addresses) => {
            for (address, socket) in bind_addresses(addresses, tcp_keepalive, patience)? {
                bound.push(Bound { socket, address, door: door.clone(), is_tls, file: None });
            }
        }
        At::Unix { path, mode } => {
            let address = Address::Unix(path.clone());
            let (socket, file) = patiently(&address, patience, || unix::bind(path, *mode))?;
            bound.push(Bound { socket, address, door: door.clone(), is_tls, file: Some(file) });
        }
        At::Abstract(name) => {
            let address = Address::Abstract(name.clone());
            let socket = patiently(&address, patience, || unix::bind_abstract(name))?;
            bound.push(Bound { socket, address, door: door.clone(), is_tls, file: None });
        }
        At::Systemd => {
            for (socket, address) in systemd::take().map_err(|cause| ServerError::Systemd { cause })? {
                if address.inet().is_some() {
                    let set = keep_alive(&SockRef::from(&socket), tcp_keepalive);
                    set.map_err(|source| ServerError::Listen { address: address.clone(), source })?;
                }
                let door = Door { is_inherited: true, ..door.clone() };
                bound.push(Bound { socket, address, door, is_tls, file: None });
            }
        }
    }
    Ok(())
}

/// Binds the addresses of a name, all at one port, or a single address. Of those of a name some may not be this machine's:
/// `localhost` may be `::1` where IPv6 is switched off.
fn bind_addresses(
    addresses: &[Inet],
    tcp_keepalive: Option<Duration>,
    patience: &Patience<'_>,
) -> Result<Vec<(Address, OwnedFd)>, ServerError> {
    let mut bound = Vec::new();
    let mut port = None;
    let mut missing = None;
    for inet in addresses {
        let mut address = inet.address;
        if address.port() == 0 {
            address.set_port(port.unwrap_or(0));
        }
        let bind = || bind(Inet { address, ..*inet }, tcp_keepalive);
        match patiently(&Address::Inet(address), patience, bind) {
            Ok((socket, address)) => {
                port = Some(address.port());
                bound.push((Address::Inet(address), socket));
            }
            Err(ServerError::Listen { address, source }) if addresses.len() > 1 && is_not_here(&source) => {
                tracing::warn!("not listening on {address}: {source}");
                missing = Some(ServerError::Listen { address, source });
            }
            Err(e) => return Err(e),
        }
    }
    missing.filter(|_| bound.is_empty()).map_or(Ok(bound), Err)
}

/// This machine does not have the address, or not its family.
fn is_not_here(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// Binds one listener, and waits for a server that was killed to give its address back.
fn patiently<T>(
    address: &Address,
    patience: &Patience<'_>,
    bind: impl Fn() -> io::Result<T>,
) -> Result<T, ServerError> {
    let mut is_said = false;
    loop {
        match bind() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience.until => {
                if !std::mem::replace(&mut is_said, true) {
                    let patience = BIND_PATIENCE.as_secs();
                    tracing::warn!(
                        "{address} is in use, by a killed server's last moments perhaps: trying for {patience} s"
                    );
                }
                if !(patience.wait)(BIND_PAUSE) {
                    return Err(ServerError::GivenUp { address: address.clone() });
                }
            }
            Err(source) => return Err(ServerError::Listen { address: address.clone(), source }),
            Ok(bound) => return Ok(bound),
        }
    }
}

/// Binds one listener, and says at which port. Accepted sockets inherit the options, which saves calls for each of them.
fn bind(inet: Inet, tcp_keepalive: Option<Duration>) -> io::Result<(OwnedFd, SocketAddr)> {
    let Inet { address, is_v6_only } = inet;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket, tcp_keepalive)?;
    if address.is_ipv6() {
        socket.set_only_v6(is_v6_only)?;
    }
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_QUEUE)?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket.into(), address))
}

/// Has the kernel ask peers that are silent for so long whether they live (`tcp(7)`): one that has vanished gives its slot
/// back after [`PROBES`] more questions, [`PROBE_PAUSE`] apart. Probes cost workers nothing.
fn keep_alive(socket: &Socket, after: Option<Duration>) -> io::Result<()> {
    let Some(after) = after else { return Ok(()) };
    let keepalive = TcpKeepalive::new().with_time(after).with_interval(PROBE_PAUSE).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)
}
