//! The worker threads of a running server.

use std::io;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::{Arc, Once, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use super::admission::Admission;
use super::doorkeeper::Doorkeeper;
use super::{Engine, EngineError, remedy, system};
use crate::sys;
use crate::transport::Doors;
use crate::worker::{Control, Counter, Plan, Tally, WhenFull};

/// A thread of the server, and its control.
pub(super) struct Running {
    pub(super) thread: JoinHandle<()>,
    pub(super) control: Arc<Control>,
}

/// A running server.
pub(crate) struct Workers {
    workers: Vec<Running>,
    /// Refuses clients while no worker has room.
    doorkeeper: Option<Running>,
}

/// Starts the workers, then the doorkeeper, if there is one. If one of them cannot start, those that run have ended when this
/// returns.
pub(super) fn start_all(
    workers: impl Iterator<Item = Result<Running, EngineError>>,
    doorkeeper: impl FnOnce() -> Result<Option<Running>, EngineError>,
) -> Result<Workers, EngineError> {
    let mut running = Workers { workers: Vec::new(), doorkeeper: None };
    match running.add(workers, doorkeeper) {
        Ok(()) => Ok(running),
        Err(e) => {
            running.controls().stop();
            running.join();
            Err(e)
        }
    }
}

impl Workers {
    fn add(
        &mut self,
        workers: impl Iterator<Item = Result<Running, EngineError>>,
        doorkeeper: impl FnOnce() -> Result<Option<Running>, EngineError>,
    ) -> Result<(), EngineError> {
        for worker in workers {
            self.workers.push(worker?);
        }
        self.doorkeeper = doorkeeper()?;
        Ok(())
    }

    /// Their controls, for other threads.
    pub(crate) fn controls(&self) -> Controls {
        let control = |running: &Running| Arc::clone(&running.control);
        Controls {
            workers: self.workers.iter().map(control).collect(),
            doorkeeper: self.doorkeeper.as_ref().map(control),
        }
    }

    /// Waits until all have ended.
    pub(crate) fn join(self) {
        for running in self.workers.into_iter().chain(self.doorkeeper) {
            let _ = running.thread.join(); // a panic has ended the process
        }
    }
}

/// Controls of a running server.
#[derive(Clone)]
pub(crate) struct Controls {
    workers: Vec<Arc<Control>>,
    doorkeeper: Option<Arc<Control>>,
}

impl Controls {
    /// Tells all workers to stop: they stop accepting, and drain their connections.
    pub(crate) fn stop(&self) {
        self.workers.iter().chain(&self.doorkeeper).for_each(|control| control.stop());
    }

    /// The number of refused clients.
    pub(crate) fn turned_away(&self) -> u64 {
        self.doorkeeper.as_ref().map_or(0, |control| control.counters().get(Counter::TurnedAway))
    }

    /// Wakes all workers, so that each makes a turn.
    pub(crate) fn call(&self) {
        self.workers.iter().for_each(|control| control.call());
    }

    /// The number of open connections.
    pub(crate) fn open(&self) -> u64 {
        self.tallies().iter().map(Tally::open).sum()
    }

    /// The counters of each worker.
    pub(crate) fn tallies(&self) -> Vec<Tally> {
        self.workers.iter().map(|control| control.counters().read()).collect()
    }
}

/// The controls of this many workers.
pub(super) fn controls(workers: usize) -> Result<Vec<Arc<Control>>, EngineError> {
    let control = |_| Ok(Arc::new(Control::new().map_err(system("create an eventfd"))?));
    (0..workers).map(control).collect()
}

/// Starts a worker on a thread and waits until it is ready, or returns why it is not.
pub(super) fn start_worker(
    engine: Engine,
    plan: Plan,
    control: Arc<Control>,
    run: impl FnOnce(&Plan, &Arc<Control>, &dyn Fn(io::Result<()>)) -> io::Result<()> + Send + 'static,
) -> Result<Running, EngineError> {
    start(engine, format!("worker {}", plan.index), control, move |control, started| {
        plan.cpu.into_iter().for_each(pin);
        run(&plan, control, started)
    })
}

/// The doorkeeper's control, if there is one: after those of the workers.
pub(super) fn doorkeeper_control(when_full: WhenFull) -> Result<Option<Arc<Control>>, EngineError> {
    match when_full {
        WhenFull::Refuse => Ok(controls(1)?.pop()),
        WhenFull::Wait => Ok(None),
    }
}

/// The settings of the listeners, the same for all workers.
pub(super) fn doors(plans: &[Plan]) -> Doors {
    plans.first().map_or_else(|| Doors::from([]), |plan| Arc::clone(&plan.doors))
}

/// Time that an accept may wait for a client that a worker has taken in the meantime. The listeners are shared with the
/// workers, and non-blocking ones would make a ring's accepts fail instead of waiting.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);

/// Starts the doorkeeper at copies of the listeners.
pub(super) fn start_doorkeeper(
    engine: Engine,
    listeners: &[OwnedFd],
    control: Arc<Control>,
    admission: &Arc<Admission>,
    doors: Doors,
) -> Result<Running, EngineError> {
    let copy = |listener: &OwnedFd| {
        SockRef::from(listener).set_read_timeout(Some(ACCEPT_TIMEOUT))?;
        listener.try_clone()
    };
    let copies: io::Result<Vec<_>> = listeners.iter().map(copy).collect();
    let copies = copies.map_err(system("copy a listener's descriptor"))?;
    let doorkeeper = Doorkeeper::new(copies, &control, admission, doors);
    start(engine, "doorkeeper".into(), control, move |_, started| {
        started(Ok(()));
        doorkeeper.run()
    })
}

/// Aborts the process when its scope is left by a panic: a program that embeds the server may be built to unwind.
pub(in crate::engine) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

/// Pins the calling thread to one processor. Sandboxes may forbid that, and a cpuset may have changed: then the kernel
/// places the thread, which only costs speed.
fn pin(cpu: usize) {
    static NOTE: Once = Once::new();
    if let Err(e) = sys::pin_to_cpu(cpu) {
        NOTE.call_once(|| tracing::warn!("cannot pin a worker to CPU {cpu}: {e}; the kernel places it instead"));
    }
}

/// Starts a thread and waits until it is ready, or returns why it is not: it calls the function that it gets once, with the
/// result of its start. Its later failure, or a panic, ends the process: half a server would look alive without being so.
fn start(
    engine: Engine,
    name: String,
    control: Arc<Control>,
    run: impl FnOnce(&Arc<Control>, &dyn Fn(io::Result<()>)) -> io::Result<()> + Send + 'static,
) -> Result<Running, EngineError> {
    let (report, reported) = mpsc::sync_channel(1);
    let body = {
        let (name, control) = (name.clone(), Arc::clone(&control));
        move || {
            let _aborts = AbortOnPanic;
            sys::block_signals();
            let started = |outcome| {
                let _ = report.send(outcome);
            };
            if let Err(e) = run(&control, &started) {
                sys::die(format_args!("{name} cannot go on: {e}{}", remedy(engine, &e)));
            }
        }
    };
    let thread = thread::Builder::new().name(name).spawn(body).map_err(system("start a thread"))?;
    let outcome = reported.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")));
    if let Err(source) = outcome {
        let _ = thread.join(); // with its part of the listeners
        return Err(EngineError::Start { engine, source });
    }
    Ok(Running { thread, control })
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;
    use crate::engine::sockets::accepts::Accepts;
    use crate::engine::{epoll, sockets};
    use crate::protocol::Protocol;
    use crate::transport::Door;

    fn plan(index: usize, capacity: u32) -> Plan {
        Plan::for_tests(index, capacity, Doors::from([Door::new(Protocol::WebSocket)]))
    }

    fn listener() -> (OwnedFd, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        (listener.into(), address)
    }

    fn assert_refused(address: SocketAddr) {
        let error = TcpStream::connect(address).expect_err("a worker still listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// The second worker cannot have its table.
    #[test]
    fn a_ring_that_cannot_start_takes_the_others_with_it() {
        if Engine::Uring.probe().is_err() {
            return; // io_uring is forbidden here
        }
        let (listener, address) = listener();
        let outcome = Engine::Uring.start(vec![plan(0, 8), plan(1, u32::MAX)], vec![listener], WhenFull::Refuse);
        assert!(outcome.is_err());
        assert_refused(address);
    }

    fn second_fails(
        plan: &Plan,
        control: &Arc<Control>,
        accepts: Accepts,
        started: &dyn Fn(io::Result<()>),
    ) -> io::Result<()> {
        if plan.index == 0 {
            return epoll::run(plan, control, accepts, started);
        }
        started(Err(io::ErrorKind::OutOfMemory.into()));
        Ok(())
    }

    #[test]
    fn a_worker_on_sockets_that_cannot_start_takes_the_others_with_it() {
        let (listener, address) = listener();
        let (plans, listeners) = (vec![plan(0, 8), plan(1, 8)], [listener]);
        let outcome = sockets::start(Engine::Epoll, plans, &listeners, WhenFull::Refuse, second_fails);
        assert!(outcome.is_err());
        drop(listeners);
        assert_refused(address);
    }

    #[test]
    fn a_listener_is_left_without_the_doorkeeper_s_timeout() {
        let (listener, _) = listener();
        let left = listener.try_clone().expect("a copy");
        let timeout = || SockRef::from(&left).read_timeout().expect("an option");
        let workers = Engine::Epoll.start(vec![plan(0, 1)], vec![listener], WhenFull::Refuse).expect("it starts");
        assert!(timeout().is_some());
        workers.controls().stop();
        workers.join();
        assert_eq!(timeout(), None);
    }

    /// The test runs itself in a process of its own, where the worker panics.
    #[test]
    fn a_panic_of_a_worker_ends_the_process() {
        const PANICS: &str = "RINGECHO_TEST_PANICS";
        if env::var_os(PANICS).is_some() {
            let control = controls(1).expect("an eventfd").remove(0);
            let worker = start(Engine::Epoll, "worker 0".into(), control, |_, started| {
                started(Ok(()));
                panic!("for the test")
            });
            let _ = worker.expect("it starts").thread.join();
            return;
        }
        let (_crate, path) = module_path!().split_once("::").expect("a module");
        let name = format!("{path}::a_panic_of_a_worker_ends_the_process");
        let mut itself = Command::new(env::current_exe().expect("the test's executable"));
        let output = itself.args(["--exact", &name]).env(PANICS, "1").output().expect("a process");
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}
