//! Conducts a run: from the limits and the first connection to the report.

mod error;
mod layout;
pub(crate) mod network;
mod together;

pub use error::RunError;
pub use together::follow;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use self::layout::Layout;
use self::together::Met;
use crate::control::{Control, Phase};
use crate::driver::plan::Ramp;
use crate::engine::{self, Endpoint, EngineError, Shared};
use crate::interrupt::Interrupt;
use crate::machine::Machine;
use crate::members::{Together, prompt};
use crate::message::Messages;
use crate::message::expect::Expect;
use crate::observer::Observer;
use crate::output::display::{Display, Show};
use crate::output::files::Results;
use crate::output::live::Live;
use crate::output::report::{ConnectCpu, Measured, MemoryAt, MemoryMarks, Outcome, Report};
use crate::output::units::count;
use crate::sampling::processes::Processes;
use crate::sampling::{CpuTime, KernelMemory, Memory};
use crate::scenario::{Scenario, Transport};
use crate::server::{Server, ServerChoice};
use crate::source::{SourceList, Sources, local_ports};
use crate::stats::{Counter, Counts, Tally};
use crate::target::routes::Routes;
use crate::target::{Address, Protocol, Target};
use crate::tls::{self, TlsOptions};
use crate::tun::{Network, UserStack};
use crate::usage::{self, LoadCpus, Mark};
use crate::websocket::handshake::{Extras, UpgradeRequest};

/// Interval at which the main thread reads the counts.
const TICK: Duration = Duration::from_millis(5);

/// The same under load, whose end is mostly known: each read counts as the generator's processor time.
const LOAD_TICK: Duration = Duration::from_millis(20);

/// A run that is ended early waits for echoes and Closes only while some come, so long for the next.
const HURRY: Duration = Duration::from_secs(1);

/// Time for threads to return when the run is over.
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
    /// The routes of connections.
    pub routes: Routes,
    /// Further contents of upgrade requests.
    pub extras: Extras,
    /// The trust settings for `wss://` targets.
    pub tls: TlsOptions,
    /// The source addresses of connections, if not the default.
    pub sources: Option<SourceList>,
    /// Threads, if not as many as are needed.
    pub threads: Option<u32>,
    /// Processors for them, if not all.
    pub cpus: Option<Vec<usize>>,
    /// The transport.
    pub transport: Transport,
    /// A TCP of our own instead of the kernel's.
    pub user_stack: Option<UserStack>,
    /// The output files, and the conditions on the results.
    pub results: Results,
    /// The address of the metrics during the run.
    pub metrics: Option<SocketAddr>,
    /// The display during the run.
    pub show: Show,
    /// The others that do the same run.
    pub together: Option<Together>,
}

/// The outcome of a run, or a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Nothing failed, got lost or came back wrong, and no threshold was broken.
    pub is_ok: bool,
    /// The signal that ended it early.
    pub by_signal: Option<i32>,
}

/// Runs, prints and writes the results.
pub fn run(settings: &Settings) -> Result<Ended, RunError> {
    let mut live = serve_metrics(settings)?;
    live.log(settings.results.csv.as_deref());
    let interrupt = watch_signals(settings.together.as_ref())?;
    let report = perform(settings, &interrupt, &mut live)?;
    let is_ok = settings.results.publish(&report, live)?;
    Ok(Ended { is_ok, by_signal: interrupt.signal() })
}

/// Serves the metrics, if that is asked for.
pub fn serve_metrics(settings: &Settings) -> Result<Live, RunError> {
    Live::serve(settings.metrics).map_err(|error| RunError::System("cannot serve --metrics", error))
}

/// Runs once: the report is that of all members, at member 0.
pub fn perform(settings: &Settings, interrupt: &Interrupt, live: &mut Live) -> Result<Report, RunError> {
    let Some(together) = &settings.together else { return perform_alone(settings, interrupt, live) };
    together.announce();
    together.hand_in(perform_alone(settings, interrupt, live)?)
}

/// Runs once: the report is that of this process.
fn perform_alone(settings: &Settings, interrupt: &Interrupt, live: &mut Live) -> Result<Report, RunError> {
    let layout = Layout::new(settings)?;
    let network = network::set_up(settings, layout.threads)?;
    let server = Server::reach(settings, network.as_ref())?;
    live.begin(&server.url());
    let metrics = live.address();
    let mut run = Run::start(settings, &layout, &server, network, interrupt, live)?;
    if let Some(banner) = server.banner() {
        run.observer.note(banner);
    }
    if let Some(note) = run.shared.network.as_ref().and_then(Network::note) {
        run.observer.note(&note);
    }
    if let Some(address) = metrics {
        run.observer.note(&format!("metrics at http://{address}/metrics"));
    }
    run.conduct()
}

/// Signals end the run early from here on, at all members.
pub fn watch_signals(together: Option<&Together>) -> Result<Interrupt, RunError> {
    if let Some(together) = together {
        return Ok(together.interrupt().clone());
    }
    Interrupt::watch().map_err(|error| RunError::System("cannot handle signals", error))
}

/// A run under way.
struct Run<'a> {
    scenario: &'a Scenario,
    server: &'a Server,
    load_cpus: LoadCpus,
    started: SystemTime,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Tally, EngineError>>>,
    interrupt: Interrupt,
    observer: Observer<'a>,
    before: MemoryAt,
    /// The server's usage before the first connection.
    server_cpu_before: Option<CpuTime>,
    load_cpu_before: CpuTime,
    /// The others that do the same run.
    together: Option<Together>,
    /// When the phase began that is under way; with others, when it was to begin.
    phase_at: Instant,
    /// When the next one is to begin, if that has been agreed upon.
    next_at: Option<Instant>,
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
        network: Option<Network>,
        interrupt: &Interrupt,
        live: &'a mut Live,
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
        if !is_framed && traffic.deflate.is_some() {
            return Err(RunError::DeflateTcp);
        }
        if !is_framed && (traffic.welcomes > 0 || !matches!(traffic.expect, Expect::Echo | Expect::Answers(1))) {
            return Err(RunError::ExpectTcp);
        }
        let own_connections = scenario.own().connections;
        let sources = if network.is_some() {
            Sources::none()
        } else {
            Sources::new(targets, own_connections, ports, std::process::id(), settings.sources.as_ref())?
        };
        let messages = Messages::of(traffic);
        let seed = u64::from(std::process::id()) << 20;
        let tls = match targets[0].protocol {
            Protocol::Tls => Some(tls::config(&settings.tls)?),
            Protocol::WebSocket | Protocol::Tcp => None,
        };
        let mut addresses = Vec::new();
        let endpoint = |target: &Target| {
            let first = addresses.len();
            addresses.extend(target.addresses.iter().map(Address::to_kernel));
            let name = settings.tls.sni.as_ref().unwrap_or(&target.name);
            Ok(Endpoint {
                addresses: first..addresses.len(),
                request: UpgradeRequest::new(target, &settings.extras, seed)?,
                name: tls.is_some().then(|| tls::server_name(name)).transpose()?,
            })
        };
        let endpoints = targets.iter().map(endpoint).collect::<Result<_, RunError>>()?;
        let wanted = if network.is_some() { Transport::Tun } else { settings.transport };
        let transport = engine::choose(wanted)?;
        if transport == Transport::Epoll {
            layout.check_descriptors(own_connections)?;
        }
        let control = Control::new(layout.threads as usize).map_err(|error| RunError::System("eventfd", error))?;
        let before = memory_now(server.pid())?;
        let server_cpu_before = server.pid().and_then(usage::server_cpu);
        let load_cpu_before = CpuTime::of_self();
        let together = settings.together.clone();
        let phase_at = together.as_ref().map_or_else(|| Ok(Instant::now()), Together::begin)?;
        let started = SystemTime::now();
        if let Some(together) = &together {
            together.phase_begun(Phase::Connect, phase_at, Instant::now());
            prompt::relax();
        }
        let shared = Arc::new(Shared {
            scenario: scenario.clone(),
            endpoints,
            addresses,
            tls,
            sources,
            messages: if is_framed { messages } else { messages.unframed() },
            control,
            // Members' messages of an open loop take turns as those of one process do.
            epoch: phase_at,
            closing_progress_ns: AtomicU64::new(0),
            threads: layout.threads,
            cpus: layout.cpus.len() as u32,
            transport,
            network,
        });
        let threads = spawn_threads(&shared, layout)?;
        let display = Display::new(settings.show, &headline(scenario, server, layout.threads, transport), interrupt);
        let observer = Observer::new(server.pid(), traffic.mean_size(), display, live, together.clone());
        let load_cpus = LoadCpus { cpus: layout.cpus.iter().copied().collect(), threads: layout.threads as usize };
        Ok(Self {
            scenario,
            server,
            load_cpus,
            started,
            shared,
            threads,
            interrupt: interrupt.clone(),
            observer,
            before,
            server_cpu_before,
            load_cpu_before,
            together,
            phase_at,
            next_at: None,
        })
    }

    /// Leads all threads through the phases.
    fn conduct(mut self) -> Result<Report, RunError> {
        let wanted = u64::from(self.scenario.own().connections_at_first);
        let begun = Instant::now();
        let mut connected =
            self.wait(Phase::Connect, None, |counts| counts[Counter::Settled] + counts[Counter::Untried] == wanted)?;
        let connect_time = begun.elapsed();
        self.note_declined();
        let server_cpu = self.server.pid().and_then(usage::server_cpu);
        let connect_cpu = ConnectCpu {
            server: self.server_cpu_before.zip(server_cpu).map(|(before, after)| after - before),
            load: CpuTime::of_self() - self.load_cpu_before,
        };
        let idle = self.memory()?;
        let connected_counts = self.counts();
        let open_when_idle = connected_counts.open();

        let mut measured = None;
        // A plan may begin without a connection.
        let mut has_load = open_when_idle > 0 || wanted == 0;
        match self.meet(Phase::Connect, has_load)? {
            Met::Agreed { any_has_load } => has_load = any_has_load,
            Met::Alone => {}
            Met::Interrupted => connected = Waited::Interrupted,
        }
        if connected == Waited::Done && self.scenario.active > 0 && has_load {
            measured = self.measure()?;
        } else if connected == Waited::Done && has_load {
            self.begin(Phase::Measure)?;
            self.wait(Phase::Measure, Some(self.scenario.duration), |_| false)?;
        }

        self.begin(Phase::Drain)?;
        // A connection that is just being opened is still to greet, and its greeting to come back.
        let reopens = self.scenario.upkeep.reopens() || self.scenario.plan.connections.is_some();
        self.wait(Phase::Drain, Some(self.scenario.drain_timeout), |counts| {
            let is_coming = counts[Counter::Settled] < counts[Counter::Attempted];
            counts.in_flight() == 0 && counts[Counter::PingsAwaited] == 0 && !(reopens && is_coming)
        })?;
        let at_end = self.memory()?;
        self.meet(Phase::Drain, has_load)?;
        let server_end = self.server.end();
        self.begin(Phase::Close)?;
        self.wait_for_closes()?;
        self.begin(Phase::Stop)?;
        let was_interrupted = self.interrupt.is_raised();
        let threads = self.shared.threads;
        let tally = self.join()?;
        // What was being opened when the run was interrupted may have been opened after all.
        let connected_counts = if connected == Waited::Done { connected_counts } else { tally.counts };
        let ready = connected_counts[Counter::Settled].saturating_sub(connected_counts[Counter::Failed]);
        // In stages further ones come later.
        let at_first = if self.scenario.plan.connections.is_none() { connected_counts } else { tally.counts };
        let (stall, machine) = (self.observer.stall(), self.machine());
        Ok(Report::new(Outcome {
            scenario: self.scenario,
            target: self.server.url(),
            addresses: self.server.addresses(),
            server_pid: self.server.pid(),
            threads,
            transport: self.shared.transport,
            machine,
            started: self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            tally,
            ready,
            at_first,
            connect_time,
            connect_cpu,
            measured,
            memory: MemoryMarks { before: self.before, idle, at_end, open_when_idle },
            series: self.observer.finish().into_samples(),
            interrupted: was_interrupted,
            server_end,
            stall,
        }))
    }

    /// This machine, with the network settings that the server has.
    fn machine(&self) -> Machine {
        let place = self.shared.network.as_ref().and_then(Network::place);
        place.map_or_else(Machine::this, |(_, namespace)| Machine::seen_from(namespace))
    }

    /// Reports at once if compression was offered and not all connections have it.
    fn note_declined(&mut self) {
        let counts = self.counts();
        let declined = counts[Counter::Opened] - counts[Counter::Deflating].min(counts[Counter::Opened]);
        if self.scenario.traffic.deflate.is_some() && declined > 0 {
            let (declined, opened) = (count(declined), count(counts[Counter::Opened]));
            self.observer.note(&format!("compression was declined on {declined} of {opened} connections"));
        }
    }

    /// Warms up, then measures; nothing if the run is interrupted before that.
    fn measure(&mut self) -> Result<Option<Measured>, RunError> {
        if !self.scenario.warmup.is_zero() {
            self.begin(Phase::WarmUp)?;
            if self.wait(Phase::WarmUp, Some(self.scenario.warmup), |_| false)? == Waited::Interrupted {
                return Ok(None);
            }
            self.await_end_of_warmup();
        }
        // With others, what is to be noted must not delay what all begin together.
        let is_alone = self.together.is_none();
        let note = |run: &Self| Mark::now(run.counts(), run.server.pid());
        let before = is_alone.then(|| note(self));
        self.begin(Phase::Measure)?;
        let first = before.unwrap_or_else(|| note(self));
        let threads = u64::from(self.shared.threads);
        let (limit, requested) = (self.scenario.traffic.limit, u64::from(self.scenario.own().connections));
        let is_planned = self.scenario.plan.connections.is_some();
        self.wait(Phase::Measure, Some(self.scenario.duration), |counts| {
            (!is_planned && counts.are_all_gone(requested)) || (limit.is_some() && counts[Counter::QuotaMet] == threads)
        })?;
        let last = Mark::now(self.counts(), self.server.pid());
        self.meet(Phase::Measure, true)?;
        Ok(Some(last.since(&first, &self.load_cpus)))
    }

    /// Waits until all connections are closed, however long that takes, as long as the server goes on answering: it is given
    /// the closing timeout for the next answer, not for all of them.
    fn wait_for_closes(&mut self) -> Result<(), RunError> {
        let timeout = self.scenario.close_timeout;
        let (mut answered, mut since) = (0, Instant::now());
        self.wait(Phase::Close, None, move |counts| {
            if counts[Counter::ClosesAnswered] > answered {
                (answered, since) = (counts[Counter::ClosesAnswered], Instant::now());
            }
            counts.open() == 0 || since.elapsed() >= timeout
        })?;
        Ok(())
    }

    /// The memory now. That the server's process has ended meanwhile is a result, and no reason to have none.
    fn memory(&self) -> Result<MemoryAt, RunError> {
        match memory_now(self.server.pid()) {
            Err(RunError::Sample(..)) => memory_now(None),
            memory => memory,
        }
    }

    fn begin(&mut self, phase: Phase) -> Result<(), RunError> {
        self.shared.control.begin(phase).map_err(|error| RunError::System("cannot wake the threads", error))?;
        let begun = Instant::now();
        let at = self.next_at.take();
        self.phase_at = at.unwrap_or(begun);
        if let (Some(together), Some(at)) = (&self.together, at) {
            together.phase_begun(phase, at, begun);
            prompt::relax();
        }
        Ok(())
    }

    /// A failed thread ends the run.
    fn check_threads(&mut self) -> Result<(), RunError> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            self.begin(Phase::Stop)?;
            return Err(self.join().err().unwrap_or(RunError::Stuck));
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        self.shared.control.counts()
    }

    /// Waits until `done`, or for `time`, and shows the progress meanwhile. A failed thread ends the run.
    fn wait(
        &mut self,
        phase: Phase,
        time: Option<Duration>,
        done: impl FnMut(&Counts) -> bool,
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
        mut done: impl FnMut(&Counts) -> bool,
    ) -> Result<Waited, RunError> {
        let deadline = time.map(|time| self.deadline(phase, time));
        // What was unfinished, and since when it is just that.
        let mut progress = ((0, 0), Instant::now());
        loop {
            // In this order: what was counted before a thread followed the phase proves nothing about it.
            let is_followed = self.shared.control.is_followed(phase);
            let counts = self.counts();
            self.observer.look(phase, &counts, &self.shared.control);
            if is_followed && done(&counts) {
                return Ok(Waited::Done);
            }
            if self.interrupt.is_raised() {
                let unfinished = (counts.in_flight(), counts.open());
                if unfinished != progress.0 {
                    progress = (unfinished, Instant::now());
                }
                if phase < Phase::Drain || progress.1.elapsed() > HURRY {
                    return Ok(Waited::Interrupted);
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Waited::TimeOver);
            }
            self.check_threads()?;
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

/// Prints what the run is going to do.
fn headline(scenario: &Scenario, server: &Server, threads: u32, transport: Transport) -> String {
    let traffic = &scenario.traffic;
    let (members, own) = (scenario.portion.members, count(scenario.own().connections.into()));
    let by = if members > 1 { format!(" by {members} members, here {own},") } else { String::new() };
    let over = if transport == Transport::Tun { " over a TCP of its own" } else { "" };
    let target = server.url() + over + &by;
    let in_stages = |ramp: &Option<Ramp>| if ramp.is_some() { "up to " } else { "" };
    let (held, offered) = (in_stages(&scenario.plan.connections), in_stages(&scenario.plan.rate));
    let pace = traffic.open.map_or_else(
        || format!("depth {}", traffic.depth),
        |open| format!("{offered}{}/s in all", count(open.rate as u64)),
    );
    let deflate = if traffic.deflate.is_some() { ", compression offered" } else { "" };
    let expect = if traffic.expect.compares() { String::new() } else { format!(", --expect {}", traffic.expect) };
    format!(
        "ringload: {held}{} connections to {} on {threads} threads; {} active, {} bytes, {pace}{expect}{deflate}",
        count(u64::from(scenario.connections)),
        target,
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
    let kernel = KernelMemory::beside(server_pid.unwrap_or(own_pid))
        .map_err(|error| RunError::System("cannot read the kernel's memory", error))?;
    Ok(MemoryAt { server, load, kernel })
}
