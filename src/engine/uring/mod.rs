//! The native engine: a ring per worker, connections as direct descriptors, one `io_uring_enter` per turn.

use std::net::TcpListener;

use super::EngineError;
use super::balance::Balance;
use super::threads::{self, Workers};
use crate::config::Config;

pub mod acceptor;
pub mod buffers;
mod connection;
pub mod connections;
mod output;
mod probe;
pub mod ring;
#[cfg(test)]
mod simulation;
pub mod submit;
pub mod token;
pub mod turn;
pub mod worker;

pub(super) use probe::probe;

/// `IORING_MAX_FIXED_FILES`: the kernel's bound on a ring's table of direct descriptors.
pub(super) const DIRECT_DESCRIPTORS_MAX: u64 = 1 << 20;

/// Starts the workers, and the acceptor that moves sockets into their rings.
pub(super) fn start(config: &Config, listeners: Vec<TcpListener>) -> Result<Workers, EngineError> {
    let start =
        |index| threads::start_worker(config, index, |plan, control, started| worker::run(plan, control, started));
    let (workers, rings): (Vec<_>, Vec<_>) =
        (0..config.workers).map(start).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let capacities = (0..config.workers).map(|index| config.capacity_of_worker(index));
    let balance = Balance::new(capacities.zip(workers.iter().map(|worker| worker.control.clone())));
    let (acceptor, ()) = threads::start(config.engine, "acceptor".into(), move |control, started| {
        acceptor::run(listeners, rings, balance, control, started)
    })?;
    Ok(Workers::new(acceptor, workers))
}
