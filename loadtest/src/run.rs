//! Conducts a run: from the limits and the first connection to the report.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;

use crate::control::{Control, Phase};
use crate::engine::{self, Endpoint, EngineError, Shared};
use crate::message::Messages;
use crate::observer::Observer;
use crate::output::display::{Display, Show};
use crate::output::files::{Results, WriteError};
use crate::output::report::{Measured, MemoryAt, MemoryMarks, Outcome, Report};
use crate::output::table::count;
use crate::own_server::OwnServerError;
use crate::sampling::processes::Processes;
use crate::sampling::{KernelMemory, Memory};
use crate::scenario::{Scenario, threads_needed};
use crate::server::{Server, ServerChoice};
use crate::server_command::ServerCommandError;
use crate::source::{SourceList, Sources, TooFewPorts, local_ports};
use crate::stats::{Counter, Counts, Tally};
use crate::target::{Protocol, Target, TargetError};
use crate::tls::{self, TlsError, TlsOptions};
use crate::usage::{LoadCpus, Mark};
use crate::websocket::handshake::{Extras, UpgradeRequest};

/// How often the conductor looks at the counts.
const TICK: Duration = Duration::from_millis(5);

/// The same under load, whose end is mostly known: each look counts as the generator's processor time.
const LOAD_TICK: Duration = Duration::from_millis(20);

/// How long threads may take to return when the run is over.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A thread's stack: nothing large lives there, and there may be many threads.
const STACK: usize = 256 << 10;

/// A run as it was asked for.
#[derive(Debug)]
pub struct Settings {
    /// The load.
    pub scenario: Scenario,
    /// Its target.
    pub server: ServerChoice,
    /// What the upgrade requests ask for besides.
    pub extras: Extras,
    /// Whom `wss://` targets must convince.
    pub tls: TlsOptions,
    /// Where connections come from, if not from where it suits.
    pub sources: Option<SourceList>,
    /// Threads, if not as many as are needed.
    pub threads: Option<u32>,
    /// Processors for them, if not all.
    pub cpus: Option<Vec<usize>>,
    /// Where the results go, and what must not be in them.
    pub results: Results,
    /// What is shown meanwhile.
    pub show: Show,
}

/// Why there was no run, or no end to it.
#[derive(Debug, Error)]
pub enum RunError {
    /// The URL.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The server started for the run.
    #[error(transparent)]
    OwnServer(#[from] OwnServerError),
    /// The server of `--server-cmd`.
    #[error(transparent)]
    ServerCommand(#[from] ServerCommandError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Too many for one table of descriptors.
    #[error(
        "{0} connections through TLS do not fit into the {1} descriptors that this process may have (RLIMIT_NOFILE; raise \
         it with `ulimit -n`)"
    )]
    TlsDescriptors(u32, u64),
    /// Local ports.
    #[error(transparent)]
    Ports(#[from] TooFewPorts),
    /// A thread's engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Messages that cannot be seen.
    #[error("--size 0 makes no messages without frames: choose at least 1 with tcp")]
    EmptyTcp,
    /// Frames where there are none.
    #[error("--ping-every sends frames, and tcp has none")]
    PingTcp,
    /// A processor that is not there.
    #[error("processor {0} of --cpus or --server-cpus cannot be used here (usable: {1:?})")]
    Cpu(usize, Vec<usize>),
    /// Too few threads for the descriptor limit.
    #[error(
        "--threads {threads} is too few: {connections} connections need {needed}, because each ring holds at most \
         {limit} descriptors (RLIMIT_NOFILE; raise it with `ulimit -n`)"
    )]
    TooFewThreads {
        /// As asked for.
        threads: u32,
        /// To open.
        connections: u32,
        /// At least.
        needed: u32,
        /// The limit on descriptors.
        limit: u64,
    },
    /// A value that a search cannot try.
    #[error("{0}")]
    Step(String),
    /// The process to sample.
    #[error("cannot read the processor time and memory of process {0}: {1}")]
    Sample(u32, io::Error),
    /// A file to write.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Something else that the system refused.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// A thread that does not return.
    #[error("threads did not end within {} s", STOP_TIMEOUT.as_secs())]
    Stuck,
}

impl RunError {
    /// Whether the arguments are to blame.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Target(
                TargetError::Syntax(_) | TargetError::Scheme(_) | TargetError::Mixed(..) | TargetError::Unix(..)
            ) | Self::ServerCommand(ServerCommandError::Syntax(_))
                | Self::Cpu(..)
                | Self::TooFewThreads { .. }
                | Self::EmptyTcp
                | Self::PingTcp
                | Self::Step(_)
        )
    }
}

/// Runs, prints and writes the results. True if nothing failed, got lost or came back wrong, and no threshold was broken.
pub fn run(settings: &Settings) -> Result<bool, RunError> {
    let report = perform(settings, watch_signals()?)?;
    Ok(settings.results.publish(&report)?)
}

/// Runs once.
pub fn perform(settings: &Settings, interrupted: Arc<AtomicBool>) -> Result<Report, RunError> {
    let layout = Layout::new(settings)?;
    let server = Server::reach(settings)?;
    if server.targets()[0].protocol == Protocol::Tls {
        check_tls(settings, &layout)?;
    }
    let mut run = Run::start(settings, &layout, &server, interrupted)?;
    if let Some(banner) = server.banner() {
        run.observer.note(banner);
    }
    run.conduct()
}

/// Ctrl-C ends the run early, but in order; a second one ends the process at once.
pub fn watch_signals() -> Result<Arc<AtomicBool>, RunError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // The order matters: the first handler sees the flag as the signal before left it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|error| RunError::System("cannot handle signals", error))?;
    }
    Ok(interrupted)
}

/// Descriptors that a process needs besides its connections', generously.
const OTHER_DESCRIPTORS: u64 = 100;

/// TLS takes a simpler way, where all connections share one table of descriptors.
fn check_tls(settings: &Settings, layout: &Layout) -> Result<(), RunError> {
    let connections = settings.scenario.connections;
    if u64::from(connections) + OTHER_DESCRIPTORS > layout.descriptors {
        return Err(RunError::TlsDescriptors(connections, layout.descriptors));
    }
    Ok(())
}

/// How many threads run where.
struct Layout {
    threads: u32,
    cpus: Vec<usize>,
    /// As many as a process, or a ring, may have.
    descriptors: u64,
}

impl Layout {
    fn new(settings: &Settings) -> Result<Self, RunError> {
        let limit = ringecho::sys::raise_descriptor_limit()
            .map_err(|error| RunError::System("cannot raise the limit on descriptors", error))?;
        let usable = ringecho::sys::usable_cpus().map_err(|error| RunError::System("sched_getaffinity", error))?;
        let server_cpus = match &settings.server {
            ServerChoice::Own { cpus, .. } => cpus.as_deref(),
            ServerChoice::Running { .. } | ServerChoice::Command { .. } => None,
        };
        let named = settings.cpus.iter().flatten().chain(server_cpus.into_iter().flatten());
        if let Some(&missing) = named.into_iter().find(|cpu| !usable.contains(cpu)) {
            return Err(RunError::Cpu(missing, usable));
        }
        let cpus = settings.cpus.clone().unwrap_or(usable);
        let connections = settings.scenario.connections;
        let needed = threads_needed(connections, 1, limit);
        let threads = match settings.threads {
            Some(threads) if threads < needed => {
                return Err(RunError::TooFewThreads { threads, connections, needed, limit });
            }
            Some(threads) => threads.min(connections),
            None => threads_needed(connections, cpus.len() as u32, limit),
        };
        Ok(Self { threads, cpus, descriptors: limit })
    }
}

/// A run under way.
struct Run<'a> {
    scenario: &'a Scenario,
    server: &'a Server,
    load_cpus: LoadCpus,
    started: SystemTime,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Tally, EngineError>>>,
    interrupted: Arc<AtomicBool>,
    observer: Observer,
    before: MemoryAt,
    has_server_ended: bool,
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Done,
    TimeOver,
    Interrupted,
}

impl<'a> Run<'a> {
    fn start(
        settings: &'a Settings,
        layout: &Layout,
        server: &'a Server,
        interrupted: Arc<AtomicBool>,
    ) -> Result<Self, RunError> {
        let (scenario, targets) = (&settings.scenario, server.targets());
        let ports = local_ports().map_err(|error| RunError::System("cannot read the range of local ports", error))?;
        let is_framed = targets[0].protocol != Protocol::Tcp;
        let traffic = &scenario.traffic;
        if !is_framed && traffic.sizes.min() == 0 {
            return Err(RunError::EmptyTcp);
        }
        if !is_framed && scenario.upkeep.ping_every.is_some() {
            return Err(RunError::PingTcp);
        }
        let wanted = settings.sources.as_ref();
        let sources = Sources::new(targets, scenario.connections, ports, std::process::id(), wanted)?;
        let messages = Messages::new(traffic.sizes.clone(), traffic.text, traffic.verify);
        let seed = u64::from(std::process::id()) << 20;
        let tls = match targets[0].protocol {
            Protocol::Tls => Some(tls::config(&settings.tls)?),
            Protocol::WebSocket | Protocol::Tcp => None,
        };
        let endpoint = |target: &Target| {
            Ok(Endpoint {
                address: target.address.to_kernel(),
                request: UpgradeRequest::new(&target.host, &target.path, &settings.extras, seed),
                name: tls.is_some().then(|| tls::server_name(&target.host)).transpose()?,
            })
        };
        let endpoints = targets.iter().map(endpoint).collect::<Result<_, TlsError>>()?;
        let control = Control::new(layout.threads as usize).map_err(|error| RunError::System("eventfd", error))?;
        let before = memory_now(server.pid())?;
        let shared = Arc::new(Shared {
            scenario: scenario.clone(),
            endpoints,
            tls,
            sources,
            messages: if is_framed { messages } else { messages.unframed() },
            control,
            epoch: Instant::now(),
            threads: layout.threads,
            cpus: layout.cpus.len() as u32,
        });
        let threads = spawn_threads(&shared, layout)?;
        let display = Display::new(settings.show, &headline(scenario, server, layout.threads));
        let observer = Observer::new(server.pid(), traffic.sizes.mean(), display);
        let load_cpus = LoadCpus { cpus: layout.cpus.iter().copied().collect(), threads: layout.threads as usize };
        let started = SystemTime::now();
        let has_server_ended = false;
        Ok(Self {
            scenario,
            server,
            load_cpus,
            started,
            shared,
            threads,
            interrupted,
            observer,
            before,
            has_server_ended,
        })
    }

    /// Leads all threads through the phases.
    fn conduct(mut self) -> Result<Report, RunError> {
        let wanted = u64::from(self.scenario.connections);
        let begun = Instant::now();
        let connected = self.wait(Phase::Connect, None, |counts| counts[Counter::Settled] == wanted)?;
        let connect_time = begun.elapsed();
        let idle = self.memory()?;
        let open_when_idle = self.counts().open();

        let mut measured = None;
        if connected == Waited::Done && self.scenario.active > 0 && open_when_idle > 0 {
            measured = self.measure()?;
        } else if connected == Waited::Done && open_when_idle > 0 {
            self.begin(Phase::Measure)?;
            self.wait(Phase::Measure, Some(self.scenario.duration), |_| false)?;
        }

        self.begin(Phase::Drain)?;
        // A connection that is just being opened again is still to greet, and its greeting to come back.
        let reopens = self.scenario.upkeep.reconnect_every.is_some();
        self.wait(Phase::Drain, Some(self.scenario.drain_timeout), |counts| {
            counts.in_flight() == 0 && !(reopens && counts[Counter::Settled] < counts[Counter::Attempted])
        })?;
        let at_end = self.memory()?;
        self.begin(Phase::Close)?;
        self.wait(Phase::Close, Some(self.scenario.close_timeout), |counts| counts.open() == 0)?;
        self.begin(Phase::Stop)?;
        let was_interrupted = self.interrupted.load(Ordering::Relaxed);
        let threads = self.shared.threads;
        let tally = self.join()?;
        Ok(Report::new(Outcome {
            scenario: self.scenario,
            target: self.server.url(),
            server_pid: self.server.pid(),
            threads,
            started: self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            tally,
            connect_time,
            measured,
            memory: MemoryMarks { before: self.before, idle, at_end, open_when_idle },
            series: self.observer.finish().into_samples(),
            interrupted: was_interrupted,
            has_server_ended: self.has_server_ended,
        }))
    }

    /// Warms up, then measures; nothing if the run is interrupted before that.
    fn measure(&mut self) -> Result<Option<Measured>, RunError> {
        if !self.scenario.warmup.is_zero() {
            self.begin(Phase::WarmUp)?;
            if self.wait(Phase::WarmUp, Some(self.scenario.warmup), |_| false)? == Waited::Interrupted {
                return Ok(None);
            }
        }
        let first = Mark::now(self.counts(), self.server.pid());
        self.begin(Phase::Measure)?;
        let threads = u64::from(self.shared.threads);
        let (limit, requested) = (self.scenario.traffic.limit, u64::from(self.scenario.connections));
        self.wait(Phase::Measure, Some(self.scenario.duration), |counts| {
            counts.are_all_gone(requested) || (limit.is_some() && counts[Counter::QuotaMet] == threads)
        })?;
        let last = Mark::now(self.counts(), self.server.pid());
        Ok(Some(last.since(&first, &self.load_cpus)))
    }

    /// The memory now. That the server's process has ended meanwhile is a result, and no reason to have none.
    fn memory(&mut self) -> Result<MemoryAt, RunError> {
        match memory_now(self.server.pid()) {
            Err(RunError::Sample(..)) => {
                self.has_server_ended = true;
                memory_now(None)
            }
            memory => memory,
        }
    }

    fn begin(&self, phase: Phase) -> Result<(), RunError> {
        self.shared.control.begin(phase).map_err(|error| RunError::System("cannot wake the threads", error))
    }

    fn counts(&self) -> Counts {
        self.shared.control.counts()
    }

    /// Waits until `done`, or for `time`, and shows the progress meanwhile. A failed thread ends the run.
    fn wait(
        &mut self,
        phase: Phase,
        time: Option<Duration>,
        done: impl Fn(&Counts) -> bool,
    ) -> Result<Waited, RunError> {
        self.observer.begin(phase, time);
        let waited = self.wait_while_watching(phase, time, done);
        let counts = self.counts();
        self.observer.end(phase, &counts, &self.shared.control);
        waited
    }

    fn wait_while_watching(
        &mut self,
        phase: Phase,
        time: Option<Duration>,
        done: impl Fn(&Counts) -> bool,
    ) -> Result<Waited, RunError> {
        let deadline = time.map(|time| Instant::now() + time);
        loop {
            // In this order: what was counted before a thread followed the phase proves nothing about it.
            let is_followed = self.shared.control.is_followed(phase);
            let counts = self.counts();
            if self.observer.look(phase, &counts, &self.shared.control) {
                self.interrupted.store(true, Ordering::Relaxed);
            }
            if is_followed && done(&counts) {
                return Ok(Waited::Done);
            }
            if phase < Phase::Drain && self.interrupted.load(Ordering::Relaxed) {
                return Ok(Waited::Interrupted);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Waited::TimeOver);
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                self.begin(Phase::Stop)?;
                return Err(self.join().err().unwrap_or(RunError::Stuck));
            }
            let tick = if phase.is_sending() { LOAD_TICK } else { TICK };
            let left = deadline.map_or(tick, |deadline| deadline.saturating_duration_since(Instant::now()));
            std::thread::sleep(left.min(tick));
        }
    }

    /// All threads' tallies together.
    fn join(&mut self) -> Result<Tally, RunError> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= deadline {
                return Err(RunError::Stuck);
            }
            std::thread::sleep(TICK);
        }
        let mut sum = Tally::default();
        for thread in self.threads.drain(..) {
            sum.add(&thread.join().expect("a panic ends the process")?);
        }
        Ok(sum)
    }
}

fn spawn_threads(
    shared: &Arc<Shared>,
    layout: &Layout,
) -> Result<Vec<JoinHandle<Result<Tally, EngineError>>>, RunError> {
    let spawn = |part: crate::scenario::Part| {
        let shared = Arc::clone(shared);
        let cpu = layout.cpus[part.thread % layout.cpus.len()];
        let builder = std::thread::Builder::new().name(format!("load-{}", part.thread)).stack_size(STACK);
        builder.spawn(move || {
            ringecho::sys::pin_to_cpu(cpu).map_err(EngineError::Pin)?;
            engine::run(&shared, part)
        })
    };
    let parts = shared.scenario.divide(layout.threads).into_iter();
    parts.map(spawn).collect::<io::Result<_>>().map_err(|error| RunError::System("cannot start a thread", error))
}

/// Says what the run is going to do.
fn headline(scenario: &Scenario, server: &Server, threads: u32) -> String {
    let traffic = &scenario.traffic;
    let pace = traffic
        .open
        .map_or_else(|| format!("depth {}", traffic.depth), |open| format!("{}/s in all", count(open.rate as u64)));
    format!(
        "ringload: {} connections to {} on {threads} threads; {} active, {} bytes, {pace}",
        count(u64::from(scenario.connections)),
        server.url(),
        count(u64::from(scenario.active)),
        traffic.sizes,
    )
}

fn memory_now(server_pid: Option<u32>) -> Result<MemoryAt, RunError> {
    let of_server = |pid| {
        let memory = Processes::of(pid).and_then(|processes| processes.memory());
        memory.map_err(|error| RunError::Sample(pid, error))
    };
    let server = server_pid.map(of_server).transpose()?;
    let own_pid = std::process::id();
    let load = Memory::of_process(own_pid).map_err(|error| RunError::Sample(own_pid, error))?;
    let kernel = KernelMemory::now().map_err(|error| RunError::System("cannot read the kernel's memory", error))?;
    Ok(MemoryAt { server, load, kernel })
}
