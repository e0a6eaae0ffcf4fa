//! Finds the most that a server bears: the highest rate, or the most connections, in a bounded number of short runs.

mod goal;
mod knee;

pub use goal::Goal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::output::report::{LatencyReport, Report};
use crate::output::say;
use crate::output::table::count;
use crate::run::{self, RunError, Settings};
use crate::sampling::KernelMemory;
use knee::Knee;

/// What is to be found.
#[derive(Clone, Debug)]
pub struct Search {
    /// The quantity.
    pub quantity: Quantity,
    /// The highest value to try.
    pub limit: u64,
    /// What a run must keep to.
    pub goals: Vec<Goal>,
}

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Messages a second, in an open loop.
    Rate,
    /// Connections.
    Connections,
}

/// The first value to try.
const START: u64 = 1000;

/// A run must reach this share of the rate it was asked for.
const REACHED: f64 = 0.99;
/// Of the messages of a run so many may be on their way when its time is over: in a short run that is more than the rest.
const ON_THEIR_WAY: f64 = 2.0;

/// Messages that a run may leave unsent, as a share of those it sent.
const UNSENT: f64 = 0.01;

/// What a connection takes of this machine's memory if both ends are here, on the safe side; a search takes at most this
/// share of what is available.
const BYTES_PER_CONNECTION: u64 = 12 << 10;
const MEMORY_SHARE: f64 = 0.7;

/// Searches; `settings_for` makes the settings of a run with a certain value. Prints each step and the best run's
/// results. True if any value held.
pub fn run(search: &Search, settings_for: impl Fn(u64) -> Result<Settings, String>) -> Result<bool, RunError> {
    let interrupted = run::watch_signals()?;
    let limit = search.limit.min(search.quantity.machine_limit()?);
    let mut knee = Knee::new(START, limit);
    let mut best = None;
    while let Some(value) = knee.next() {
        let settings = settings_for(value).map_err(RunError::Step)?;
        let (report, mut fault) = step(search, &settings, value, &interrupted)?;
        let mut report = Some(report);
        if fault.is_some() && !interrupted.load(Ordering::Relaxed) {
            // One bad run may be somebody else's fault.
            let (again, second) = step(search, &settings, value, &interrupted)?;
            (report, fault) = (Some(again), second);
        }
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        knee.note(value, fault.is_none());
        if fault.is_none() {
            best = report.map(|report| (settings, report));
        }
    }
    let unit = search.quantity.unit();
    say(format_args!("{}\n", knee.describe(unit, limit < search.limit)));
    match best {
        Some((settings, report)) => Ok(settings.results.publish(&report)?),
        None => Ok(false),
    }
}

/// One run and what was wrong with it, if anything.
fn step(
    search: &Search,
    settings: &Settings,
    value: u64,
    interrupted: &Arc<AtomicBool>,
) -> Result<(Report, Option<String>), RunError> {
    let report = run::perform(settings, Arc::clone(interrupted))?;
    let fault = search.judge(&report, value);
    let latency = report.measured.as_ref().and_then(|measured| measured.latency_us.as_ref());
    let latency = latency.map_or(String::new(), |it| {
        format!("p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms", it.p50 / 1e3, it.p99 / 1e3, it.p99_9 / 1e3)
    });
    let verdict = fault.as_ref().map_or_else(|| "holds".to_owned(), |fault| format!("fails: {fault}"));
    say(format_args!("{:>12}{}  {latency}  {verdict}\n", count(value), search.quantity.unit()));
    Ok((report, fault))
}

impl Quantity {
    fn unit(self) -> &'static str {
        match self {
            Self::Rate => " messages/s",
            Self::Connections => " connections",
        }
    }

    /// What this machine's memory has room for.
    fn machine_limit(self) -> Result<u64, RunError> {
        if self == Self::Rate {
            return Ok(u64::MAX);
        }
        let memory = KernelMemory::now().map_err(|error| RunError::System("cannot read the kernel's memory", error))?;
        Ok((memory.available_bytes as f64 * MEMORY_SHARE) as u64 / BYTES_PER_CONNECTION)
    }
}

impl Search {
    /// Why a run with this value does not count as good; `None` if it does.
    fn judge(&self, report: &Report, value: u64) -> Option<String> {
        if let Some(failure) = report.connections.failures.first() {
            return Some(format!("{} connections failed: {}", count(report.connections.failed), failure.cause));
        }
        if !report.ok {
            let it = &report.messages;
            return Some(format!(
                "faults: {} connections closed early, {} messages lost, {} corrupted, {} others wrong",
                count(report.connections.closed_early),
                count(it.lost),
                count(it.corrupted),
                count(it.reordered + it.duplicated + it.unexpected + it.late)
            ));
        }
        let Some(measured) = &report.measured else {
            let has_goals = !self.goals.is_empty() || self.quantity == Quantity::Rate;
            return has_goals.then(|| "nothing was measured".to_owned());
        };
        if self.quantity == Quantity::Rate {
            let unsent = report.messages.unsent as f64 / report.messages.sent.max(1) as f64;
            let expected = value as f64 * measured.seconds;
            let least = (expected * REACHED).min(expected - ON_THEIR_WAY);
            if (measured.echoes as f64) < least || unsent > UNSENT {
                let late = self.own_fault(measured.lag_us.as_ref()).unwrap_or_default();
                return Some(format!("only {}/s came back{late}", count(measured.echoes_per_s as u64)));
            }
        }
        let missed = self.goals.iter().find_map(|goal| goal.missed_by(measured.latency_us.as_ref()))?;
        Some(missed + &self.own_fault(measured.lag_us.as_ref()).unwrap_or_default())
    }

    /// Whether it may have been this side: then the knee is not the server's.
    fn own_fault(&self, lag: Option<&LatencyReport>) -> Option<String> {
        let strictest_us = self.goals.iter().map(Goal::limit_us).fold(f64::INFINITY, f64::min).min(1e5);
        let lag = lag.filter(|lag| lag.p99 > strictest_us / 2.0)?;
        Some(format!(" (but ringload itself was late by {:.2} ms at p99: this may be its limit)", lag.p99 / 1e3))
    }
}
