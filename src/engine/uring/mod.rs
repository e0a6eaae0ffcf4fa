//! The native engine: a ring per worker, connections as direct descriptors, one `io_uring_enter` per turn, two while the
//! background has input, too.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use super::admission::Admission;
use super::threads::{self, Workers};
use super::{Engine, EngineError};
use crate::protocol::Protocol;
use crate::worker::{Control, Plan, WhenFull};
use accepts::{Accepts, Listeners};

mod accepts;
mod connections;
mod operation;
mod probe;
#[cfg(test)]
mod simulation;
mod token;
mod worker;

pub(super) use probe::{features, probe};

/// Starts the workers, which share the listeners.
pub(super) fn start(
    plans: Vec<Plan>,
    listeners: Vec<TcpListener>,
    when_full: WhenFull,
) -> Result<Workers, EngineError> {
    let controls = threads::controls(plans.len())?;
    let doorkeeper = threads::doorkeeper_control(when_full)?;
    let bells: Vec<_> = controls.iter().chain(&doorkeeper).cloned().collect();
    let call = move |worker: usize| bells[worker].call();
    let admission = Admission::new(plans.iter().map(|plan| plan.capacity), when_full, call);
    let protocol = plans.first().map_or_else(Protocol::default, |plan| plan.settings.protocol);
    let listeners = Arc::new(Listeners(listeners));
    let start = |(plan, control): (Plan, Arc<Control>)| {
        let share = admission.share(plan.index).counting_in(control.counters());
        let accepts = Accepts::new(Arc::clone(&listeners), share);
        let run = move |plan: &Plan, control: &Arc<Control>, started: &dyn Fn(io::Result<()>)| {
            worker::run(plan, control, accepts, started)
        };
        threads::start_worker(Engine::Uring, plan, control, run)
    };
    let workers = plans.into_iter().zip(controls).map(start).collect::<Result<_, _>>()?;
    let at_doors = |control| threads::start_doorkeeper(Engine::Uring, &listeners.0, control, &admission, protocol);
    Ok(Workers::new(workers, doorkeeper.map(at_doors).transpose()?))
}
