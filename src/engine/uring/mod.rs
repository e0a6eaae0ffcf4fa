//! The native engine: a ring per worker, connections as direct descriptors, one `io_uring_enter` per turn, two while the
//! background also has input.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::ioctl_fionbio;

use super::admission::Admission;
use super::threads::{self, Workers};
use super::{Engine, EngineError, system};
use crate::transport::Door;
use crate::worker::{Control, Plan, WhenFull};
use accepts::{Accepts, Listeners};

mod accepts;
mod connections;
mod operation;
mod probe;
#[cfg(test)]
mod simulation;
mod socket;
mod token;
mod worker;

pub(super) use probe::{features, probe};

/// This kernel's Unix sockets say whether they hold more.
fn tell_of_more(plan: &mut Plan) {
    plan.doors = plan.doors.iter().map(|door| Door { hides_more: false, ..door.clone() }).collect();
}

/// Starts the workers, which share the listeners.
pub(super) fn start(
    mut plans: Vec<Plan>,
    listeners: Vec<OwnedFd>,
    when_full: WhenFull,
) -> Result<Workers, EngineError> {
    // An accept of the ring waits only where the listener blocks.
    let cannot = system("prepare a listener");
    listeners.iter().try_for_each(|listener| Ok(ioctl_fionbio(listener, false)?)).map_err(cannot)?;
    let hides_more = |plan: &Plan| plan.doors.iter().any(|door| door.hides_more);
    if plans.first().is_some_and(hides_more) && probe::unix_sockets_tell_of_more().unwrap_or(false) {
        plans.iter_mut().for_each(tell_of_more);
    }
    let controls = threads::controls(plans.len())?;
    let doorkeeper = threads::doorkeeper_control(when_full)?;
    let bells: Vec<_> = controls.iter().chain(&doorkeeper).cloned().collect();
    let call = move |worker: usize| bells[worker].call();
    let admission = Admission::new(plans.iter().map(|plan| plan.capacity), when_full, call);
    let doors = threads::doors(&plans);
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
    let at_doors = |control| threads::start_doorkeeper(Engine::Uring, &listeners.0, control, &admission, doors);
    Ok(Workers::new(workers, doorkeeper.map(at_doors).transpose()?))
}
