//! What the engines with ordinary descriptors share (epoll, tokio-uring): tables of their own, how sockets get there,
//! and what a connection does next. Who waits for events, and how, is the engine's.

pub mod acceptor;
pub mod arrivals;
mod backlog;
mod connection;
pub mod connections;
pub mod table;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::balance::Balance;
use super::threads::{self, Workers};
use super::{EngineError, system};
use crate::config::Config;
use crate::worker::{Control, Plan};
use arrivals::Arrivals;

/// An engine's worker: runs on the calling thread until it is told to stop and its connections are gone or out of time.
/// It calls the function once, with what its start has come to.
pub(super) type Run = fn(&Plan, &Arc<Control>, Arrivals, &dyn Fn(io::Result<()>)) -> io::Result<()>;

/// Starts the workers, each with a descriptor table of its own, and the acceptor that hands them their sockets.
pub(super) fn start(config: &Config, listeners: Vec<TcpListener>, run: Run) -> Result<Workers, EngineError> {
    let mut workers = Vec::new();
    let mut doors = Vec::new();
    for index in 0..config.workers {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (door, inside) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|e| system("create a socket pair")(e.into()))?;
        let number = inside.as_raw_fd();
        let (worker, ()) = threads::start_worker(config, index, move |plan, control, started| {
            if let Err(e) = table::detach(&[number, control.bell().as_raw_fd()]) {
                started(Err(e));
                return Ok(());
            }
            // SAFETY: this thread's table has just become its own; what is under this number in it is a copy, and it
            // is nobody's. The original stays with the thread that has created it.
            let inside = unsafe { OwnedFd::from_raw_fd(number) };
            run(plan, control, Arrivals::new(inside), started)
        })?;
        // The worker has its copy.
        drop(inside);
        doors.push(door);
        workers.push(worker);
    }
    let capacities = (0..config.workers).map(|index| config.capacity_of_worker(index));
    let balance = Balance::new(capacities.zip(workers.iter().map(|worker| worker.control.clone())));
    let (acceptor, ()) = threads::start(config.engine, "acceptor".into(), move |control, started| {
        acceptor::run(listeners, doors, balance, control, started)
    })?;
    Ok(Workers::new(acceptor, workers))
}
