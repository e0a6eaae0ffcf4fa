//! The server's life: bind, start the workers, wait for a signal, drain, sum up.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::config::{Config, counted};
use crate::engine::uring::acceptor::{self, Destination};
use crate::engine::uring::worker;
use crate::worker::{Control, Plan, Tally};

/// `listen(2)` cuts this down to `net.core.somaxconn`. A full queue drops SYNs, which the clients send again a second
/// later: a long one is what makes mass connects fast.
const ACCEPT_QUEUE: i32 = 65_535;
/// Exit code when a second signal cuts the drain short (128 + SIGINT, as shells count).
const EXIT_CUT_SHORT: i32 = 130;

/// Why the server could not start or go on.
#[derive(Debug, Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {source}{}", listen_remedy(.source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot set up io_uring: {source}{}", ring_remedy(.source))]
    Ring { source: io::Error },
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

fn ring_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; io_uring is forbidden here: see sysctl kernel.io_uring_disabled, or the container's seccomp profile"
        }
        Some(libc::ENOSYS) => "; this kernel has no io_uring, or a seccomp profile hides it",
        Some(libc::EINVAL) => "; this kernel is too old: Linux 6.1 or newer is needed",
        Some(libc::ENOMEM) => "; not enough memory, or RLIMIT_MEMLOCK is too low (ulimit -l)",
        Some(libc::EMFILE) => "; too many descriptors: raise the limit (ulimit -Hn) or use fewer workers",
        _ => "",
    }
}

/// Serves until SIGINT or SIGTERM and until the connections are drained.
pub fn run(config: &Config) -> Result<(), ServerError> {
    let started_at = Instant::now();
    let listeners: Vec<_> = config.listen.iter().map(|&address| bind(address)).collect::<Result<_, _>>()?;
    let signals = Signals::new([SIGINT, SIGTERM]).map_err(system("watch for signals"))?;
    let workers = start_workers(config)?;
    let acceptor = start_acceptor(config, &listeners, &workers)?;
    let controls: Vec<_> = workers.iter().map(|worker| Arc::clone(&worker.control)).collect();
    watch_signals(signals, acceptor.control, controls.clone(), config)?;
    announce(config, &listeners).map_err(system("print the start-up line"))?;

    join(acceptor.thread);
    // From here on nobody accepts; what is still in the kernel's queue is refused.
    drop(listeners);
    for worker in workers {
        join(worker.thread);
    }
    let mut total = Tally::default();
    for control in &controls {
        total += control.tally();
    }
    sum_up(&total, started_at.elapsed());
    Ok(())
}

/// A thread of the server and how to reach it.
struct Running {
    thread: JoinHandle<()>,
    control: Arc<Control>,
    ring: RawFd,
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

fn start_workers(config: &Config) -> Result<Vec<Running>, ServerError> {
    let start = |index: usize| {
        let plan = Plan {
            index,
            cpu: config.cpus[index % config.cpus.len()],
            capacity: config.capacity_of_worker(index),
            receive_memory: config.receive_memory,
            backlog: config.backlog,
            receive_buffers: config.receive_buffers,
            ring_entries: config.ring_entries,
            settings: config.settings.clone(),
            limits: config.limits,
        };
        let control = Arc::new(Control::new().map_err(system("create an eventfd"))?);
        let (report, reported) = mpsc::sync_channel(1);
        let thread = spawn(format!("worker {index}"), Arc::clone(&control), move |control| {
            worker::run(&plan, control, |outcome| {
                let _ = report.send(outcome);
            })
        })?;
        Ok(Running { thread, control, ring: await_start(&reported)? })
    };
    (0..config.workers).map(start).collect()
}

fn start_acceptor(config: &Config, listeners: &[TcpListener], workers: &[Running]) -> Result<Running, ServerError> {
    let destination = |(index, worker): (usize, &Running)| Destination {
        ring: worker.ring,
        capacity: config.capacity_of_worker(index),
        control: Arc::clone(&worker.control),
    };
    let destinations = workers.iter().enumerate().map(destination).collect();
    let listeners: Vec<_> =
        listeners.iter().map(TcpListener::try_clone).collect::<Result<_, _>>().map_err(system("share a listener"))?;
    let control = Arc::new(Control::new().map_err(system("create an eventfd"))?);
    let (report, reported) = mpsc::sync_channel(1);
    let thread = spawn("acceptor".into(), Arc::clone(&control), move |control| {
        acceptor::run(&listeners, destinations, control, |outcome| {
            let _ = report.send(outcome);
        })
    })?;
    await_start(&reported)?;
    Ok(Running { thread, control, ring: -1 })
}

/// Waits until a thread has its ring.
fn await_start<T>(reported: &mpsc::Receiver<io::Result<T>>) -> Result<T, ServerError> {
    let outcome = reported.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")));
    outcome.map_err(|source| ServerError::Ring { source })
}

/// Starts a thread whose failure ends the process: half a server would look alive and not be.
fn spawn(
    name: String,
    control: Arc<Control>,
    body: impl FnOnce(&Control) -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<()>, ServerError> {
    let body = {
        let name = name.clone();
        move || {
            if let Err(e) = body(&control) {
                log(format_args!("{name} cannot go on: {e}{}", ring_remedy(&e)));
                std::process::exit(1);
            }
        }
    };
    thread::Builder::new().name(name).spawn(body).map_err(system("start a thread"))
}

fn join(thread: JoinHandle<()>) {
    // A panic has ended the process already in release builds, and has printed itself in debug builds.
    let _ = thread.join();
}

/// On the first signal: stop accepting, then drain. On the second: leave at once.
fn watch_signals(
    mut signals: Signals,
    acceptor: Arc<Control>,
    workers: Vec<Arc<Control>>,
    config: &Config,
) -> Result<(), ServerError> {
    let drain_timeout = config.limits.drain_timeout;
    let watch = move || {
        let mut received = signals.forever();
        received.next();
        let open: u64 =
            workers.iter().map(|control| control.tally()).map(|tally| tally.accepted - tally.released).sum();
        for control in std::iter::once(&acceptor).chain(&workers) {
            control.stop().expect("an eventfd takes a write");
        }
        log(format_args!("stopping, {open} connections to close, at most {} s", drain_timeout.as_secs_f64()));
        received.next();
        log(format_args!("second signal, leaving at once"));
        std::process::exit(EXIT_CUT_SHORT);
    };
    thread::Builder::new().name("signals".into()).spawn(watch).map_err(system("start a thread"))?;
    Ok(())
}

/// A line to standard error. That it may be gone is no reason to end.
fn log(message: std::fmt::Arguments) {
    let _ = writeln!(io::stderr(), "ringecho: {message}");
}

fn announce(config: &Config, listeners: &[TcpListener]) -> io::Result<()> {
    let addresses: Vec<_> =
        listeners.iter().map(|listener| listener.local_addr().map(|a| a.to_string())).collect::<Result<_, _>>()?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "ringecho listening on {} | engine uring | {} on {} | capacity {} ({})",
        addresses.join(", "),
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
