//! A server's life: bind, start the workers, wait until it is told to stop, drain.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::config::Config;
use crate::engine::{Controls, EngineError, Workers};
use crate::sys::log;

/// `listen(2)` cuts this down to `net.core.somaxconn`. A full queue drops SYNs, which the clients send again a second
/// later: a long one is what makes mass connects fast.
const ACCEPT_QUEUE: i32 = 65_535;
/// How long a port that is in use is tried. When a process with rings is killed, the kernel closes what is in them after
/// the process is gone, the listeners among it: with many connections that takes seconds.
const BIND_PATIENCE: Duration = Duration::from_secs(10);
const BIND_PAUSE: Duration = Duration::from_millis(20);

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
    state: Arc<Mutex<State>>,
}

/// A server that serves, on threads of its own.
pub struct Running {
    workers: Workers,
}

/// How to reach a server from any thread, before it serves, while it does, and after that.
#[derive(Clone)]
pub struct Handle {
    state: Arc<Mutex<State>>,
}

/// What a [`Handle`] reaches.
#[derive(Default)]
struct State {
    /// Of the threads, once they run.
    controls: Option<Controls>,
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
    /// Data messages echoed.
    pub messages: u64,
    /// Bytes handed to the kernel for sending.
    pub bytes_sent: u64,
}

impl Server {
    /// Binds the addresses of `config`. One that is in use is tried for ten seconds, with a line on standard error: the
    /// kernel may take that long to close the listeners of a killed server.
    pub fn bind(config: Config) -> Result<Self, ServerError> {
        let until = Instant::now() + BIND_PATIENCE;
        let bind = |&address| bind_patiently(address, until);
        let listeners: Vec<_> = config.listen.iter().map(bind).collect::<Result<_, _>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
        let addresses =
            addresses.map_err(|source| ServerError::System { what: "ask for a listener's address", source })?;
        Ok(Self { config, listeners, addresses, state: Arc::default() })
    }

    /// Where it listens, in the order of [`Options::listen`](crate::Options::listen), with ports as they are.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How to stop it and to see what it does, from any thread.
    pub fn handle(&self) -> Handle {
        Handle { state: Arc::clone(&self.state) }
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
        let workers = self.config.engine.start(self.config.plans, self.listeners)?;
        let mut state = lock(&self.state);
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

    /// The counters as the workers have last published them, which they do after each turn of their loops.
    pub fn stats(&self) -> Stats {
        let tally = lock(&self.state).controls.as_ref().map(Controls::tally).unwrap_or_default();
        Stats {
            accepted: tally.accepted,
            // The two are read one after the other, while workers write.
            open: tally.accepted.saturating_sub(tally.released),
            messages: tally.messages,
            bytes_sent: tally.bytes_sent,
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panics")
}

/// Binds one listener, and waits for a server that was killed to give its port back.
fn bind_patiently(address: SocketAddr, until: Instant) -> Result<TcpListener, ServerError> {
    let mut is_said = false;
    loop {
        match bind(address) {
            Err(ServerError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && Instant::now() < until =>
            {
                if !std::mem::replace(&mut is_said, true) {
                    let patience = BIND_PATIENCE.as_secs();
                    log(format_args!(
                        "{address} is in use, by a killed server's last moments perhaps: trying for {patience} s"
                    ));
                }
                thread::sleep(BIND_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Binds one listener. Accepted sockets inherit `TCP_NODELAY`, which saves a call for each of them.
fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(ACCEPT_QUEUE)?;
        Ok(socket.into())
    };
    open().map_err(|source| ServerError::Listen { address, source })
}
