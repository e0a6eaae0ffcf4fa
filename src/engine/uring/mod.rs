//! The native engine: a ring per worker, connections as direct descriptors, one `io_uring_enter` per turn, two while the
//! background also has input.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::ioctl_fionbio;
use rustix::net::{AddressFamily, ipproto, sockopt};

use super::admission::Admission;
use super::threads::{self, Workers};
use super::{Engine, EngineError, system};
use crate::transport::{Door, Doors};
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

pub(super) use probe::probe;

/// The doors of these listeners, with what their sockets say after a receive.
fn look_at(doors: &[Door], listeners: &[OwnedFd]) -> Doors {
    let door = |(door, listener): (&Door, &OwnedFd)| Door { hides_more: hides_more(listener), ..door.clone() };
    doors.iter().zip(listeners).map(door).collect()
}

/// Whether the sockets of a listener do not say after a receive whether they hold more: Unix sockets before Linux 6.17, and MPTCP.
fn hides_more(listener: &OwnedFd) -> bool {
    if sockopt::socket_domain(listener).is_ok_and(|domain| domain == AddressFamily::UNIX) {
        return !probe::unix_sockets_tell_of_more().unwrap_or(false);
    }
    sockopt::socket_protocol(listener).is_ok_and(|protocol| protocol != Some(ipproto::TCP))
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
    if let Some(plan) = plans.first() {
        let doors = look_at(&plan.doors, &listeners);
        for plan in &mut plans {
            plan.doors = Arc::clone(&doors);
        }
    }
    let controls = threads::controls(plans.len())?;
    let doorkeeper = threads::doorkeeper_control(when_full)?;
    let bells: Vec<_> = controls.iter().chain(&doorkeeper).cloned().collect();
    let call = move |worker: usize| bells[worker].call();
    let admission = Admission::new(plans.iter().map(|plan| plan.capacity), when_full, call);
    let doors = threads::doors(&plans);
    let listeners = Arc::new(Listeners { sockets: listeners, doors: Arc::clone(&doors) });
    let start = |(plan, control): (Plan, Arc<Control>)| {
        let share = admission.share(plan.index).counting_in(control.counters());
        let accepts = Accepts::new(Arc::clone(&listeners), share);
        let run = move |plan: &Plan, control: &Arc<Control>, started: &dyn Fn(io::Result<()>)| {
            worker::run(plan, control, accepts, started)
        };
        threads::start_worker(Engine::Uring, plan, control, run)
    };
    let at_doors = |control| threads::start_doorkeeper(Engine::Uring, &listeners.sockets, control, &admission, doors);
    threads::start_all(plans.into_iter().zip(controls).map(start), || doorkeeper.map(at_doors).transpose())
}
