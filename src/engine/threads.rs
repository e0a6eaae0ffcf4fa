//! The threads of a running server: workers and their acceptor.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use super::{Engine, EngineError, remedy, system};
use crate::config::Config;
use crate::sys::log;
use crate::worker::{Control, Plan, Tally};

/// A thread of the server and how to reach it.
pub(super) struct Running {
    pub(super) thread: JoinHandle<()>,
    pub(super) control: Arc<Control>,
}

/// A server that runs.
pub struct Workers {
    acceptor: Running,
    workers: Vec<Running>,
}

impl Workers {
    pub(super) fn new(acceptor: Running, workers: Vec<Running>) -> Self {
        Self { acceptor, workers }
    }

    /// How to reach them from another thread.
    pub fn controls(&self) -> Controls {
        let control = |running: &Running| Arc::clone(&running.control);
        Controls { acceptor: control(&self.acceptor), workers: self.workers.iter().map(control).collect() }
    }

    /// Waits until all have come to their end.
    pub fn join(self) {
        for running in std::iter::once(self.acceptor).chain(self.workers) {
            // A panic has ended the process already in release builds, and has printed itself in debug builds.
            let _ = running.thread.join();
        }
    }
}

/// How to reach a running server.
#[derive(Clone)]
pub struct Controls {
    acceptor: Arc<Control>,
    workers: Vec<Arc<Control>>,
}

impl Controls {
    /// Tells everybody to stop: nobody accepts any more, the workers drain their connections.
    pub fn stop(&self) -> io::Result<()> {
        std::iter::once(&self.acceptor).chain(&self.workers).try_for_each(|control| control.stop())
    }

    /// What all workers have done so far.
    pub fn tally(&self) -> Tally {
        let mut total = Tally::default();
        self.workers.iter().for_each(|control| total += control.tally());
        total
    }
}

/// Starts a worker on a thread of its own and waits until it is ready, or says why it cannot be.
pub(super) fn start_worker<T: Send + 'static>(
    config: &Config,
    index: usize,
    run: impl FnOnce(&Plan, &Arc<Control>, &dyn Fn(io::Result<T>)) -> io::Result<()> + Send + 'static,
) -> Result<(Running, T), EngineError> {
    let plan = Plan {
        index,
        cpu: config.cpus[index % config.cpus.len()],
        capacity: config.capacity_of_worker(index),
        receive_memory: config.receive_memory,
        backlog: config.backlog,
        receive_buffers: config.receive_buffers,
        ring_entries: config.ring_entries,
        settings: config.settings.clone(),
        limits: config.limits,
    };
    start(config.engine, format!("worker {index}"), move |control, started| run(&plan, control, started))
}

/// Starts a thread and waits until it is ready, or says why it cannot be: it calls the function that it gets once, with
/// what its start has come to. Its later failure ends the process: half a server would look alive and not be.
pub(super) fn start<T: Send + 'static>(
    engine: Engine,
    name: String,
    run: impl FnOnce(&Arc<Control>, &dyn Fn(io::Result<T>)) -> io::Result<()> + Send + 'static,
) -> Result<(Running, T), EngineError> {
    let control = Arc::new(Control::new().map_err(system("create an eventfd"))?);
    let (report, reported) = mpsc::sync_channel(1);
    let body = {
        let (name, control) = (name.clone(), Arc::clone(&control));
        move || {
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
    let started = outcome.map_err(|source| EngineError::Start { engine, source })?;
    Ok((Running { thread, control }, started))
}
