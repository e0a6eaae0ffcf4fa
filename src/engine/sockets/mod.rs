//! Code shared by the engines with ordinary descriptors (epoll, tokio-uring): descriptor tables, how sockets get there, and
//! sends from the receive buffer. Each engine has its own way to wait for events.

pub mod accepts;
pub mod connections;
pub mod table;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::io::ioctl_fionbio;

use super::admission::{Admission, Share};
use super::threads::{self, AbortOnPanic, Running, Workers};
use super::{Engine, EngineError, system};
use crate::sys;
use crate::worker::{Control, Plan, WhenFull};
use accepts::Accepts;

/// An engine's worker: runs on the calling thread until it is told to stop and its connections are gone or out of time. It
/// calls the function once, with the result of its start.
pub(super) type Run = fn(&Plan, &Arc<Control>, Accepts, &dyn Fn(io::Result<()>)) -> io::Result<()>;

/// Starts the workers, each with its own descriptor table if that is allowed, and copies of the listeners in it.
pub(super) fn start(
    engine: Engine,
    plans: Vec<Plan>,
    listeners: &[OwnedFd],
    when_full: WhenFull,
    run: Run,
) -> Result<Workers, EngineError> {
    let controls = threads::controls(plans.len())?;
    let capacities = plans.iter().map(|plan| plan.capacity);
    let doorkeeper = threads::doorkeeper_control(when_full)?;
    let ringer = start_ringer(controls.iter().chain(&doorkeeper).cloned().collect())?;
    let admission = Admission::new(capacities, when_full, ringer);
    let cannot = system("prepare a listener");
    listeners.iter().try_for_each(|listener| Ok(ioctl_fionbio(listener, true)?)).map_err(cannot)?;
    let doors = threads::doors(&plans);
    let start = |(plan, control): (Plan, Arc<Control>)| {
        let share = admission.share(plan.index).counting_in(control.counters());
        if plan.has_own_table {
            return start_apart(engine, plan, control, listeners, share, run);
        }
        let copies: io::Result<Vec<_>> = listeners.iter().map(OwnedFd::try_clone).collect();
        let copies = copies.map_err(system("copy a listener's descriptor"))?;
        let accepts = Accepts::new(copies, Arc::clone(&plan.doors), share);
        threads::start_worker(engine, plan, control, move |plan, control, started| run(plan, control, accepts, started))
    };
    let at_doors = |control| threads::start_doorkeeper(engine, listeners, control, &admission, doors);
    threads::start_all(plans.into_iter().zip(controls).map(start), || doorkeeper.map(at_doors).transpose())
}

/// Starts the thread by which workers wake each other: another worker's eventfd is not in a worker's own descriptor table.
/// It ends with the last worker. Returns the function that wakes a worker.
fn start_ringer(controls: Vec<Arc<Control>>) -> Result<impl Fn(usize) + Send + Sync, EngineError> {
    let (calls, called) = mpsc::channel::<usize>();
    let ring = move || {
        let _aborts = AbortOnPanic;
        sys::block_signals();
        for worker in called {
            controls[worker].call();
        }
    };
    thread::Builder::new().name("ringer".into()).spawn(ring).map_err(system("start a thread"))?;
    // The thread ends with this end of the channel.
    Ok(move |worker| {
        let _ = calls.send(worker);
    })
}

/// Starts a worker with a descriptor table of its own.
fn start_apart(
    engine: Engine,
    plan: Plan,
    control: Arc<Control>,
    listeners: &[OwnedFd],
    share: Share,
    run: Run,
) -> Result<Running, EngineError> {
    let numbers: Vec<RawFd> = listeners.iter().map(AsRawFd::as_raw_fd).collect();
    threads::start_worker(engine, plan, control, move |plan, control, started| {
        if let Err(e) = table::detach(&[&numbers[..], &[control.bell().as_raw_fd()]].concat()) {
            started(Err(e));
            return Ok(());
        }
        // SAFETY: this thread's table has just become its own; what is under these numbers in it are copies, and nothing
        // else owns them. The originals stay with the thread that has created them, which waits for this one's start.
        let copy = |&number| unsafe { OwnedFd::from_raw_fd(number) };
        let copies = numbers.iter().map(copy).collect();
        run(plan, control, Accepts::new(copies, Arc::clone(&plan.doors), share), started)
    })
}
