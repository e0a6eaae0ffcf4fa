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
use super::{Engine, EngineError, system};
use crate::worker::{Control, Plan};
use arrivals::Arrivals;

/// An engine's worker: runs on the calling thread until it is told to stop and its connections are gone or out of time.
/// It calls the function once, with what its start has come to.
pub(super) type Run = fn(&Plan, &Arc<Control>, Arrivals, &dyn Fn(io::Result<()>)) -> io::Result<()>;

/// Starts the workers, each with a descriptor table of its own where that is allowed, and the acceptor that hands them
/// their sockets.
pub(super) fn start(
    engine: Engine,
    plans: Vec<Plan>,
    listeners: Vec<TcpListener>,
    run: Run,
) -> Result<Workers, EngineError> {
    let capacities: Vec<u32> = plans.iter().map(|plan| plan.capacity).collect();
    let mut workers = Vec::new();
    let mut doors = Vec::new();
    for plan in plans {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (door, inside) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|e| system("create a socket pair")(e.into()))?;
        let (worker, ()) = if plan.has_own_table {
            let number = inside.as_raw_fd();
            let started = threads::start_worker(engine, plan, move |plan, control, started| {
                if let Err(e) = table::detach(&[number, control.bell().as_raw_fd()]) {
                    started(Err(e));
                    return Ok(());
                }
                // SAFETY: this thread's table has just become its own; what is under this number in it is a copy, and
                // nothing else owns it. The original stays with the thread that has created it.
                let inside = unsafe { OwnedFd::from_raw_fd(number) };
                run(plan, control, Arrivals::new(inside), started)
            })?;
            // The worker has its copy.
            drop(inside);
            started
        } else {
            threads::start_worker(engine, plan, move |plan, control, started| {
                run(plan, control, Arrivals::new(inside), started)
            })?
        };
        doors.push(door);
        workers.push(worker);
    }
    let balance = Balance::new(capacities.into_iter().zip(workers.iter().map(|worker| worker.control.clone())));
    let (acceptor, ()) = threads::start(engine, "acceptor".into(), move |control, started| {
        acceptor::run(listeners, doors, balance, control, started)
    })?;
    Ok(Workers::new(acceptor, workers))
}
