//! The threads of a running server: its workers.

use std::io;
use std::sync::{Arc, Once, mpsc};
use std::thread::{self, JoinHandle};

use super::{Engine, EngineError, remedy, system};
use crate::sys::{self, log};
use crate::worker::{Control, Plan, Tally};

/// A thread of the server and how to reach it.
pub(super) struct Running {
    pub(super) thread: JoinHandle<()>,
    pub(super) control: Arc<Control>,
}

/// A server that runs.
pub(crate) struct Workers {
    workers: Vec<Running>,
}

impl Workers {
    pub(super) fn new(workers: Vec<Running>) -> Self {
        Self { workers }
    }

    /// How to reach them from another thread.
    pub(crate) fn controls(&self) -> Controls {
        let control = |running: &Running| Arc::clone(&running.control);
        Controls { workers: self.workers.iter().map(control).collect() }
    }

    /// Waits until all have come to their end.
    pub(crate) fn join(self) {
        for running in self.workers {
            // A panic has ended the process already in release builds, and has printed itself in debug builds.
            let _ = running.thread.join();
        }
    }
}

/// How to reach a running server.
#[derive(Clone)]
pub(crate) struct Controls {
    workers: Vec<Arc<Control>>,
}

impl Controls {
    /// Tells all workers to stop: they accept no more, and drain their connections.
    pub(crate) fn stop(&self) {
        self.workers.iter().for_each(|control| control.stop());
    }

    /// What all workers have done so far.
    pub(crate) fn tally(&self) -> Tally {
        let mut total = Tally::default();
        self.workers.iter().for_each(|control| total += control.tally());
        total
    }
}

/// The controls of so many workers.
pub(super) fn controls(workers: usize) -> Result<Vec<Arc<Control>>, EngineError> {
    let control = |_| Ok(Arc::new(Control::new().map_err(system("create an eventfd"))?));
    (0..workers).map(control).collect()
}

/// Starts a worker on a thread of its own and waits until it is ready, or says why it cannot be.
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

/// Keeps the calling thread on one processor. Sandboxes forbid that, and a cpuset may have changed: then the kernel places
/// the thread, which costs speed and nothing else.
fn pin(cpu: usize) {
    static NOTE: Once = Once::new();
    if let Err(e) = sys::pin_to_cpu(cpu) {
        NOTE.call_once(|| log(format_args!("cannot pin a worker to CPU {cpu}: {e}; the kernel places it instead")));
    }
}

/// Starts a thread and waits until it is ready, or says why it cannot be: it calls the function that it gets once, with
/// what its start has come to. Its later failure ends the process: half a server would look alive and not be.
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
            sys::block_signals();
            let started = |outcome| {
                let _ = report.send(outcome);
            };
            if let Err(e) = run(&control, &started) {
                log(format_args!("{name} cannot go on: {e}{}", remedy(engine, &e)));
                std::process::exit(1);
            }
        }
    };
    let thread = thread::Builder::new().name(name).spawn(body).map_err(system("start a thread"))?;
    let outcome = reported.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")));
    outcome.map_err(|source| EngineError::Start { engine, source })?;
    Ok(Running { thread, control })
}
