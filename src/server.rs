//! The server's life: bind, start the workers, wait for a signal, drain, sum up.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::config::{Config, counted};
use crate::engine::{Controls, EngineError};
use crate::sys::log;
use crate::worker::Tally;

/// `listen(2)` cuts this down to `net.core.somaxconn`. A full queue drops SYNs, which the clients send again a second
/// later: a long one is what makes mass connects fast.
const ACCEPT_QUEUE: i32 = 65_535;
/// How long a port that is in use is tried. When a process with rings is killed, the kernel closes what is in them after
/// the process is gone, the listeners among it: with many connections that takes seconds.
const BIND_PATIENCE: Duration = Duration::from_secs(10);
const BIND_PAUSE: Duration = Duration::from_millis(20);
/// Exit code when a second signal cuts the drain short (128 + SIGINT, as shells count).
const EXIT_CUT_SHORT: i32 = 130;

/// Why the server could not start or go on.
#[derive(Debug, Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}{}", listen_remedy(.source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: io::Error },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::System { what, source }
}

fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: stop it, or choose another port with --listen",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// Serves until SIGINT or SIGTERM and until the connections are drained.
pub fn run(config: &Config) -> Result<(), ServerError> {
    let started_at = Instant::now();
    let until = started_at + BIND_PATIENCE;
    let bind = |&address| bind_patiently(address, until);
    let listeners: Vec<_> = config.listen.iter().map(bind).collect::<Result<_, _>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.map_err(system("ask for a listener's address"))?;
    let signals = block_signals().map_err(system("block signals"))?;
    let workers = config.engine.start(config, listeners)?;
    let controls = workers.controls();
    watch_signals(signals, controls.clone(), config)?;
    announce(config, &addresses).map_err(system("print the start-up line"))?;
    workers.join();
    sum_up(&controls.tally(), started_at.elapsed());
    Ok(())
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

/// The signals that end the server, blocked in this thread and in those that it will start: a thread of its own waits for
/// them (`sigwait(3)`).
///
/// No handler: it would run on any thread, and what it writes to would be another descriptor in a worker's own table, a
/// connection perhaps.
fn block_signals() -> io::Result<SigSet> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    Ok(signals)
}

/// On the first signal: stop accepting, then drain. On the second: leave at once.
fn watch_signals(signals: SigSet, controls: Controls, config: &Config) -> Result<(), ServerError> {
    let drain_timeout = config.limits.drain_timeout;
    let watch = move || {
        let wait = || signals.wait().expect("a set of valid signals");
        wait();
        let tally = controls.tally();
        let open = tally.accepted - tally.released;
        controls.stop().expect("an eventfd takes a write");
        log(format_args!("stopping, {open} connections to close, at most {} s", drain_timeout.as_secs_f64()));
        wait();
        log(format_args!("second signal, leaving at once"));
        std::process::exit(EXIT_CUT_SHORT);
    };
    thread::Builder::new().name("signals".into()).spawn(watch).map_err(system("start a thread"))?;
    Ok(())
}

fn announce(config: &Config, addresses: &[SocketAddr]) -> io::Result<()> {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "ringecho listening on {} | engine {} | {} on {} | capacity {} ({})",
        addresses.join(", "),
        config.engine.name(),
        counted(config.workers, "worker"),
        counted(config.cpus.len().min(config.workers), "CPU"),
        counted(config.max_connections, "connection"),
        config.limited_by,
    )?;
    out.flush()
}

fn sum_up(total: &Tally, elapsed: Duration) {
    let mut out = io::stdout().lock();
    let cut_off = total.accepted - total.released;
    let _ = writeln!(
        out,
        "served {} connections, {} messages, {} bytes sent in {:.1} s{}",
        total.accepted,
        total.messages,
        total.bytes_sent,
        elapsed.as_secs_f64(),
        if cut_off > 0 { format!("; {cut_off} connections cut off by the drain timeout") } else { String::new() },
    );
}
