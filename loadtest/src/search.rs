//! Searches for the highest rate, or the highest number of connections, that a server sustains, by a bounded number of short
//! runs.

mod goal;
mod knee;

pub use goal::Goal;

use crate::interrupt::Interrupt;
use crate::members::Together;
use crate::output::files::WriteError;
use crate::output::live::Live;
use crate::output::report::{LatencyReport, Report};
use crate::output::units::{count, time};
use crate::output::{say, tell};
use crate::run::{self, Ended, RunError, Settings};
use crate::sampling::KernelMemory;
use crate::scenario::TcpStack;
use knee::Knee;

/// The search.
#[derive(Clone, Debug)]
pub struct Search {
    /// The quantity.
    pub quantity: Quantity,
    /// The highest value to try.
    pub limit: u64,
    /// The goals of a run.
    pub goals: Vec<Goal>,
}

/// The quantity that is varied.
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
/// Messages of a run that may still be in flight when its time is over: in a short run these are more than the rest.
const ON_THEIR_WAY: f64 = 2.0;

/// Messages that a run may leave unsent, as a share of those it sent.
const UNSENT: f64 = 0.01;

/// What a connection takes of this machine's memory if both ends are here, on the safe side: as two sockets of the kernel, and as
/// one, whose client has a TCP of ringload's own: 4.3 KB of each of five million (docs/PERFORMANCE.md).
const BYTES_OF_TWO_SOCKETS: u64 = 12 << 10;
const BYTES_OF_ONE_SOCKET: u64 = 5 << 10;

/// A search takes at most this share of what is available.
const MEMORY_SHARE: f64 = 0.7;

/// Searches over that TCP; `settings_for` makes the settings of a run with a certain value. Prints each step and the best run's
/// results. All is well if any value held.
pub fn run(
    search: &Search,
    stack: TcpStack,
    together: Option<&Together>,
    settings_for: impl Fn(u64) -> Result<Settings, String>,
) -> Result<Ended, RunError> {
    let interrupt = run::watch_signals(together)?;
    let members = together.map_or(1, |together| u64::from(together.portion().members));
    let limit = search.limit.min(search.quantity.machine_limit(stack)?.saturating_mul(members));
    let mut knee = Knee::new(START, limit);
    let mut best = None;
    let mut live = None;
    while let Some(value) = knee.next().filter(|_| !interrupt.is_raised()) {
        let settings = settings_for(value).map_err(RunError::Step)?;
        if live.is_none() {
            live = Some(run::serve_metrics(&settings)?);
        }
        let live = live.as_mut().expect("just made");
        let mut step = try_out(search, &settings, value, &interrupt, live)?;
        if step.fault.is_some() && !step.is_cut_short {
            // A single bad run may be caused by other load on the machine.
            step = try_out(search, &settings, value, &interrupt, live)?;
        }
        if step.is_cut_short {
            break;
        }
        knee.note(value, step.fault.is_none());
        if step.fault.is_none() {
            best = Some((settings, step.report));
        }
    }
    let unit = search.quantity.unit();
    let is_unfinished = interrupt.is_raised();
    let found = if is_unfinished { knee.describe_unfinished(unit) } else { knee.describe(unit, limit < search.limit) };
    let told = tell(format_args!("{found}\n")).map_err(|error| WriteError::to_stdout(&error));
    let is_ok = match best {
        Some((settings, report)) => settings.results.publish(&report, Live::default())?,
        None => false,
    };
    told?;
    Ok(Ended { is_ok, by_signal: interrupt.signal() })
}

/// One run of a search.
struct Step {
    report: Report,
    /// The fault, if any.
    fault: Option<String>,
    /// It was interrupted, and counts for nothing. A signal behind its end is of no concern to it.
    is_cut_short: bool,
}

/// Runs with this value, and says what came of it.
fn try_out(
    search: &Search,
    settings: &Settings,
    value: u64,
    interrupt: &Interrupt,
    live: &mut Live,
) -> Result<Step, RunError> {
    let report = run::perform(settings, interrupt, live)?;
    let is_cut_short = interrupt.is_raised();
    let fault = search.judge(&report, value);
    let latency = report.measured.as_ref().and_then(|measured| measured.latency_us.as_ref());
    let latency = latency
        .map_or(String::new(), |it| format!("p50 {}  p99 {}  p99.9 {}", time(it.p50), time(it.p99), time(it.p99_9)));
    let verdict = match &fault {
        _ if is_cut_short => "interrupted: does not count".to_owned(),
        None => "holds".to_owned(),
        Some(fault) => format!("fails: {fault}"),
    };
    say(format_args!("{:>12}{}  {latency}  {verdict}\n", count(value), search.quantity.unit()));
    Ok(Step { report, fault, is_cut_short })
}

impl Quantity {
    fn unit(self) -> &'static str {
        match self {
            Self::Rate => " messages/s",
            Self::Connections => " connections",
        }
    }

    /// The limit by this machine's memory.
    fn machine_limit(self, stack: TcpStack) -> Result<u64, RunError> {
        if self == Self::Rate {
            return Ok(u64::MAX);
        }
        let memory = KernelMemory::now().map_err(|error| RunError::System("cannot read the kernel's memory", error))?;
        Ok(connections_within(memory.available_bytes, stack))
    }
}

/// How many connections a search tries at most with so much memory available.
fn connections_within(available_bytes: u64, stack: TcpStack) -> u64 {
    let each = match stack {
        TcpStack::Kernel => BYTES_OF_TWO_SOCKETS,
        TcpStack::User => BYTES_OF_ONE_SOCKET,
    };
    (available_bytes as f64 * MEMORY_SHARE) as u64 / each
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
        Some(format!(" (but ringload itself was late by {} at p99: this may be its limit)", time(lag.p99)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_holds_more_connections_with_one_socket_each() {
        let connections = [TcpStack::Kernel, TcpStack::User].map(|stack| connections_within(12 << 30, stack));
        assert_eq!(connections, [734_003, 1_761_607]);
        assert_eq!(Quantity::Rate.machine_limit(TcpStack::User).expect("no limit"), u64::MAX);
    }
}
