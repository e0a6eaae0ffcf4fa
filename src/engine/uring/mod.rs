//! The native engine: a ring per worker, connections as direct descriptors, one `io_uring_enter` per turn, two while the
//! background has input, too.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use super::admission::Admission;
use super::threads::{self, Workers};
use super::{Engine, EngineError};
use crate::worker::{Control, Plan};
use accepts::{Accepts, Listeners};

mod accepts;
mod connections;
mod operation;
mod probe;
#[cfg(test)]
mod simulation;
mod token;
mod worker;

pub(super) use probe::probe;

/// Starts the workers, which share the listeners.
pub(super) fn start(plans: Vec<Plan>, listeners: Vec<TcpListener>) -> Result<Workers, EngineError> {
    let controls = threads::controls(plans.len())?;
    let bells = controls.clone();
    let admission = Admission::new(plans.iter().map(|plan| plan.capacity), move |worker| bells[worker].call());
    let listeners = Arc::new(Listeners(listeners));
    let start = |(plan, control): (Plan, _)| {
        let accepts = Accepts::new(Arc::clone(&listeners), admission.share(plan.index));
        let run = move |plan: &Plan, control: &Arc<Control>, started: &dyn Fn(io::Result<()>)| {
            worker::run(plan, control, accepts, started)
        };
        threads::start_worker(Engine::Uring, plan, control, run)
    };
    let workers = plans.into_iter().zip(controls).map(start).collect::<Result<_, _>>()?;
    Ok(Workers::new(workers))
}
