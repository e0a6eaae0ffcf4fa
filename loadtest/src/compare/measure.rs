//! One measurement: a run of this program as a separate process on the load's processors, against a running server, and
//! the checks that decide which of its values are valid.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::file::Cell;
use super::metric::Metric;
use super::process::ServerProcess;
use super::results::{Fault, FaultKind};
use crate::interrupt::Interrupt;
use crate::output::json;
use crate::output::report::{CpuReport, MeasuredReport, Report};
use crate::output::units::{count, counted, percent, time};
use crate::parsing::show_duration;
use crate::said::Said;
use crate::verdict::Bound;

/// Interval at which the run is checked: long enough that the checks cost no measurable processor time.
const TICK: Duration = Duration::from_millis(50);

/// Time for a server to notice that all connections have closed, before its remaining memory is sampled.
const SETTLE: Duration = Duration::from_millis(300);

/// Time for a server whose connections have failed to be gone, too: then that is the reason. Its first process may be a
/// script that ends after it.
const DYING: Duration = Duration::from_secs(2);

/// Above this share of a side's processors, usage by other processes makes a measurement invalid.
const OTHERS: f64 = 0.05;

/// Little's law: the number in flight is rate times mean latency. The two may differ by this share.
const LITTLE: f64 = 0.10;

/// Limit of the generator's own lag, as a share of a latency (see `verdict.rs`).
const MAX_LAG_SHARE: f64 = 0.25;

/// Below this share of the offered rate the server did not keep up.
const KEPT_UP: f64 = 0.98;

/// With fewer connections, opening them takes too little time for a measurement.
const CONNECT_MIN: u64 = 100;

/// The result of a measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measurement {
    /// The values.
    pub values: BTreeMap<Metric, f64>,
    /// What limited the rate.
    pub bound: Option<Bound>,
    /// Why some or all of its values are not valid.
    pub faults: Vec<Fault>,
}

impl Measurement {
    /// A measurement without values.
    #[must_use]
    pub fn failed(kind: FaultKind, why: impl Into<String>) -> Self {
        Self { faults: vec![Fault { kind, why: why.into() }], ..Self::default() }
    }

    /// Whether the cell's own metric is not valid.
    #[must_use]
    pub fn is_spoiled(&self, metric: Metric) -> bool {
        self.faults.iter().any(|fault| fault.kind.spoils(metric))
    }
}

/// The temporary file for the run's results.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A file specific to this process.
    #[must_use]
    pub fn new() -> Self {
        Self(std::env::temp_dir().join(format!("ringload-compare-{}.json", std::process::id())))
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The arguments of `ringload run` for a cell; `rate_per_s` is the rate of an open loop.
#[must_use]
pub fn arguments(
    cell: &Cell,
    url: &str,
    pid: u32,
    cpus: &[usize],
    rate_per_s: Option<f64>,
    json: &Path,
) -> Vec<String> {
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let mut args: Vec<String> = ["run", "--quiet", url].map(str::to_owned).to_vec();
    let mut add = |option: &str, value: String| args.push(format!("--{option}={value}"));
    add("json", json.display().to_string());
    add("server-pid", pid.to_string());
    add("cpus", cpus.join(","));
    add("connections", cell.connections_in_all().to_string());
    add("size", cell.size.to_string());
    add("duration", show_duration(cell.duration));
    add("warmup", show_duration(cell.warmup));
    if let Some(depth) = cell.depth {
        add("depth", depth.to_string());
    }
    if let Some(active) = &cell.active {
        add("active", active.clone());
    }
    if let Some(rate) = rate_per_s {
        add("rate", format!("{rate:.3}"));
    }
    if cell.slow_readers > 0 {
        add("slow-readers", cell.slow_readers.to_string());
    }
    if let Some(messages) = cell.messages_per_connection {
        add("messages-per-connection", messages.to_string());
        args.push("--no-greet".to_owned());
    }
    args.extend(cell.args.iter().cloned());
    args
}

/// Measures `server` in `cell`; calls `look` meanwhile. `None` if it was interrupted.
pub fn measure(
    server: &mut ServerProcess,
    cell: &Cell,
    cpus: &[usize],
    rate_per_s: Option<f64>,
    interrupt: &Interrupt,
    look: &mut dyn FnMut(),
) -> Option<Measurement> {
    let scratch = Scratch::new();
    let args = arguments(cell, server.url(), server.pid(), cpus, rate_per_s, &scratch.0);
    let run = match LoadProcess::start(&args) {
        Ok(run) => run,
        Err(error) => {
            return Some(Measurement::failed(FaultKind::Failed, format!("the load cannot be started: {error}")));
        }
    };
    let measurement = match run.wait(interrupt, look)? {
        Err(why) => Measurement::failed(FaultKind::Failed, why),
        Ok(()) => match json::read(&scratch.0) {
            Err(error) => Measurement::failed(FaultKind::Failed, error.to_string()),
            Ok(report) => judge(&report, cell, rate_per_s),
        },
    };
    let has_failed = measurement.faults.iter().any(|fault| fault.kind == FaultKind::Failed);
    Some(match end_of(server, if has_failed { DYING } else { Duration::ZERO }) {
        Some(end) => Measurement::failed(FaultKind::Failed, format!("the server died: {end}")),
        None => with_memory(measurement, server),
    })
}

/// How the server ended, if it does so within this time.
fn end_of(server: &mut ServerProcess, time: Duration) -> Option<String> {
    let deadline = Instant::now() + time;
    loop {
        let end = server.end();
        if end.is_some() || Instant::now() >= deadline {
            return end;
        }
        std::thread::sleep(TICK);
    }
}

/// Adds the server's peak memory, and its memory after all connections have closed.
fn with_memory(mut measurement: Measurement, server: &ServerProcess) -> Measurement {
    if let Some(peak) = server.peak_bytes() {
        measurement.values.insert(Metric::PeakMemory, peak as f64);
    }
    std::thread::sleep(SETTLE);
    if let Some(after) = server.memory_bytes() {
        measurement.values.insert(Metric::MemoryAfter, after as f64);
    }
    measurement
}

/// A run of this program.
struct LoadProcess {
    child: Child,
    said: Said,
}

impl LoadProcess {
    fn start(args: &[String]) -> std::io::Result<Self> {
        let (output, input) = std::io::pipe()?;
        // Not the target of /proc/self/exe: that file may have been rebuilt meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("ringload").args(args).stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
        command.process_group(0);
        // SAFETY: between fork and exec the closure makes a single system call.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn()?;
        drop(command);
        Ok(Self { child, said: Said::by(output) })
    }

    /// Waits for its end. `None` if it was interrupted, otherwise whether there are results, or the error.
    fn wait(mut self, interrupt: &Interrupt, look: &mut dyn FnMut()) -> Option<Result<(), String>> {
        let mut was_asked = None;
        loop {
            match self.child.try_wait() {
                Ok(None) => {}
                Ok(Some(_)) if was_asked.is_some() => return None,
                // 0: no fault, 1: faults, which are in the results.
                Ok(Some(status)) if matches!(status.code(), Some(0 | 1)) => return Some(Ok(())),
                Ok(Some(status)) => {
                    return Some(Err(format!("the load ended ({status}); it said:\n{}", self.said.quoted())));
                }
                Err(error) => return Some(Err(error.to_string())),
            }
            look();
            if interrupt.is_raised() {
                let since = *was_asked.get_or_insert_with(Instant::now);
                // The first signal asks for an orderly end, which has one second.
                let is_late = since.elapsed() > Duration::from_secs(1);
                let signal = if is_late { Signal::KILL } else { Signal::TERM };
                let _ = kill_process(Pid::from_child(&self.child), signal);
            }
            std::thread::sleep(TICK);
        }
    }
}

/// Determines which values of a run are valid.
#[must_use]
pub fn judge(report: &Report, cell: &Cell, rate_per_s: Option<f64>) -> Measurement {
    let mut measurement = Measurement {
        values: values(report),
        bound: report.verdict.as_ref().map(|verdict| verdict.bound),
        faults: Vec::new(),
    };
    let mut add = |kind, why: String| measurement.faults.push(Fault { kind, why });
    if let Some(why) = what_failed(report) {
        add(FaultKind::Failed, why);
    }
    if let Some(why) = declined(report) {
        add(FaultKind::NotSupported, why);
    }
    if let Some(measured) = &report.measured {
        if let Some(why) = others(measured) {
            add(FaultKind::Others, why);
        }
        if let Some(why) = inconsistency(report, measured, cell) {
            add(FaultKind::Inconsistent, why);
        }
        if let Some(why) = generator(report) {
            add(FaultKind::Generator, why);
        }
        if rate_per_s.is_some() {
            for late in late(measured) {
                measurement.values.remove(&late.metric);
                if late.metric == cell.metric {
                    add(FaultKind::Generator, late.why());
                }
            }
        }
        if let Some(rate) = rate_per_s.filter(|rate| measured.echoes_per_s < KEPT_UP * rate) {
            let came = count(measured.echoes_per_s.round() as u64);
            add(FaultKind::TooSlow, format!("{came}/s of {}/s came back in time", count(rate.round() as u64)));
        }
    } else if !cell.is_idle() {
        add(FaultKind::Failed, "nothing was measured".to_owned());
    }
    measurement
}

fn values(report: &Report) -> BTreeMap<Metric, f64> {
    let mut values = BTreeMap::new();
    let mut add = |metric, value: Option<f64>| {
        if let Some(value) = value {
            values.insert(metric, value);
        }
    };
    let connections = &report.connections;
    if connections.ready >= CONNECT_MIN {
        add(Metric::ConnectCpu, connections.server_cpu_us_per_connection);
        add(Metric::ConnectRate, Some(connections.opened_per_s));
    }
    add(Metric::BytesPerConnection, report.memory.server_bytes_per_connection);
    add(Metric::KernelBytesPerConnection, report.memory.slab_bytes_per_connection);
    if let Some(measured) = report.measured.as_ref().filter(|measured| measured.echoes > 0) {
        let per_echo = |pick: fn(&CpuReport) -> f64| {
            measured.server_cpu.as_ref().map(|cpu| pick(cpu) * 1e6 / measured.echoes as f64)
        };
        add(Metric::CpuPerEcho, per_echo(|cpu| cpu.user_s + cpu.system_s));
        add(Metric::UserPerEcho, per_echo(|cpu| cpu.user_s));
        add(Metric::SystemPerEcho, per_echo(|cpu| cpu.system_s));
        add(Metric::Rate, Some(measured.echoes_per_s));
        let latency = measured.latency_us.as_ref();
        add(Metric::P50, latency.map(|it| it.p50));
        add(Metric::P99, latency.map(|it| it.p99));
        add(Metric::P999, latency.map(|it| it.p99_9));
    }
    values
}

/// The faults of connections or messages.
fn what_failed(report: &Report) -> Option<String> {
    let connections = &report.connections;
    if let Some(failure) = connections.failures.first() {
        return Some(format!("{} failed: {}", counted(connections.failed, "connection"), failure.text()));
    }
    if let Some(violation) = connections.violations.first() {
        return Some(format!("it broke the protocol: {}", violation.what));
    }
    if let Some(end) = connections.early_ends.first() {
        return Some(format!("it closed {}: {}", counted(connections.closed_early, "connection"), end.text()));
    }
    if report.ok && !report.interrupted {
        return None;
    }
    let it = &report.messages;
    let wrong = it.reordered + it.duplicated + it.unexpected + it.late;
    Some(format!("{} lost, {} corrupted, {} others wrong", counted(it.lost, "echo"), count(it.corrupted), count(wrong)))
}

/// A fault if compression was offered and not agreed on: such a server did other work than the rest.
fn declined(report: &Report) -> Option<String> {
    let is_offered = report.runs.iter().any(|run| run.scenario.deflate.is_some());
    let declined = report.connections.opened.saturating_sub(report.connections.deflating);
    (is_offered && declined > 0).then(|| format!("compression was declined on {}", counted(declined, "connection")))
}

fn others(measured: &MeasuredReport) -> Option<String> {
    let sides = [("server", measured.server_cpu.as_ref()), ("load", Some(&measured.load_cpu))];
    sides.into_iter().find_map(|(name, side)| {
        let side = side?;
        let share = side.others_cores / side.cpus.len().max(1) as f64;
        (share > OTHERS).then(|| format!("other processes used {} of the {name}'s processors", percent(share)))
    })
}

/// Checks Little's law where the number of messages in flight is known and constant.
fn inconsistency(report: &Report, measured: &MeasuredReport, cell: &Cell) -> Option<String> {
    if cell.rate.is_some() || cell.messages_per_connection.is_some() {
        return None;
    }
    let load = &report.runs.first()?.scenario;
    let in_flight = f64::from(load.active) * f64::from(load.depth?);
    let by_law = measured.echoes_per_s * measured.latency_us?.mean / 1e6;
    let is_off = (by_law / in_flight - 1.0).abs() > LITTLE;
    is_off.then(|| {
        let (in_flight, by_law) = (count(in_flight as u64), count(by_law.round() as u64));
        format!("{in_flight} messages were in flight, rate times mean latency is {by_law}")
    })
}

fn generator(report: &Report) -> Option<String> {
    let verdict = report.verdict.as_ref().filter(|verdict| verdict.bound == Bound::GeneratorBound)?;
    Some(verdict.reason.clone())
}

/// A latency in an open loop of which the generator's own lag is too large a part.
struct Late {
    metric: Metric,
    lag_us: f64,
}

impl Late {
    fn why(&self) -> String {
        format!("the generator itself was late by {} at {}", time(self.lag_us), self.metric.name())
    }
}

fn late(measured: &MeasuredReport) -> Vec<Late> {
    let (Some(latency), Some(lag)) = (measured.latency_us, measured.lag_us) else { return Vec::new() };
    let all = [
        (Metric::P50, latency.p50, lag.p50),
        (Metric::P99, latency.p99, lag.p99),
        (Metric::P999, latency.p99_9, lag.p99_9),
    ];
    let late = all.into_iter().filter(|(_, latency, lag)| *lag > MAX_LAG_SHARE * latency);
    late.map(|(metric, _, lag_us)| Late { metric, lag_us }).collect()
}

#[cfg(test)]
mod tests;
