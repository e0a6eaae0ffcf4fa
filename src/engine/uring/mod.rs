//! The native engine: a ring per worker, connections as direct descriptors, one `io_uring_enter` per turn.

use std::net::TcpListener;

use super::balance::Balance;
use super::threads::{self, Workers};
use super::{Engine, EngineError};
use crate::worker::Plan;

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

/// Starts the workers, and the acceptor that moves sockets into their rings.
pub(super) fn start(plans: Vec<Plan>, listeners: Vec<TcpListener>) -> Result<Workers, EngineError> {
    let capacities: Vec<u32> = plans.iter().map(|plan| plan.capacity).collect();
    let start =
        |plan| threads::start_worker(Engine::Uring, plan, |plan, control, started| worker::run(plan, control, started));
    let (workers, rings): (Vec<_>, Vec<_>) =
        plans.into_iter().map(start).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let balance = Balance::new(capacities.into_iter().zip(workers.iter().map(|worker| worker.control.clone())));
    let (acceptor, ()) = threads::start(Engine::Uring, "acceptor".into(), move |control, started| {
        acceptor::run(listeners, rings, balance, control, started)
    })?;
    Ok(Workers::new(acceptor, workers))
}
