//! The rounds of a comparison: the order of the measurements, and the storing of results.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use super::analysis::analyse;
use super::file::{Cell, Comparison, Fresh, Rate, Server};
use super::gate;
use super::idle::Idling;
use super::measure::{Measurement, measure};
use super::metric::Metric;
use super::process::{self, ServerProcess, StartError};
use super::progress::Progress;
use super::results::{FaultKind, Results, ResultsError, Run, ServerReport};
use super::statistics::Random;
use super::words::one_line;
use crate::interrupt::Interrupt;
use crate::output::units::{bytes, count};

/// Descriptors that a server needs besides those of its connections, with a margin.
const OTHER_DESCRIPTORS: u64 = 100;

/// A comparison under way.
pub struct Conductor<'a> {
    comparison: &'a Comparison,
    results: Results,
    /// The file for the results.
    path: Option<PathBuf>,
    interrupt: &'a Interrupt,
    progress: Progress,
}

/// A planned measurement: the indices of server and cell, and the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The server's index in the file.
    pub server: usize,
    /// The cell's index.
    pub cell: usize,
    /// The round from 0 on, including the discarded rounds.
    pub round: u32,
}

/// The server that is running, with the round it was started in.
struct RunningServer {
    server: usize,
    round: u32,
    process: ServerProcess,
}

impl<'a> Conductor<'a> {
    /// A comparison that starts, or resumes, with these results.
    #[must_use]
    pub fn new(
        comparison: &'a Comparison,
        results: Results,
        path: Option<PathBuf>,
        interrupt: &'a Interrupt,
        progress: Progress,
    ) -> Self {
        Self { comparison, results, path, interrupt, progress }
    }

    /// Runs the whole comparison.
    pub fn run(mut self) -> Result<Results, ResultsError> {
        self.pass_gates();
        process::keep_off(&self.comparison.settings.server_cpus, &self.comparison.settings.load_cpus);
        // Until all measurements are made.
        let (_idling, told) = Idling::begin(self.comparison.settings.idle);
        if let Some(told) = told {
            self.results.conditions.insert("idle processors".to_owned(), told.to_owned());
        }
        let plan = plan(self.comparison, self.results.seed);
        self.progress.begin(&self.results, &plan);
        let mut running: Option<RunningServer> = None;
        for slot in plan {
            if self.interrupt.is_raised() {
                break;
            }
            let (server, cell) = (&self.comparison.servers[slot.server], &self.comparison.cells[slot.cell]);
            if self.results.servers[slot.server].skipped.is_some()
                || self.results.has(&server.name, &cell.name, slot.round)
            {
                self.progress.skip();
                continue;
            }
            if self.must_be_fresh(running.as_ref(), slot) {
                self.stop(running.take());
            }
            let Some(run) = self.measure(slot, &mut running) else { break };
            // A measurement reported as done must survive a kill.
            self.results.runs.push(run.clone());
            self.save()?;
            self.progress.done(slot, &run);
        }
        self.stop(running.take());
        self.results.is_complete = !self.interrupt.is_raised() && self.results.has_all();
        analyse(&mut self.results);
        self.save()?;
        self.progress.end();
        Ok(self.results)
    }

    /// Checks each server before any is measured: whether it can run here, starts, and behaves correctly.
    fn pass_gates(&mut self) {
        for (place, server) in self.comparison.servers.iter().enumerate() {
            if self.interrupt.is_raised() {
                return;
            }
            let report = &mut self.results.servers[place];
            let before = report.version.clone();
            if report.skipped.is_none() {
                check(server, &self.comparison.settings.server_cpus, self.interrupt, report);
            }
            if self.interrupt.is_raised() {
                return;
            }
            self.progress.checked(report);
            let now = report.version.clone();
            self.results.note_change(&format!("version of {}", server.name), before.as_ref(), now.as_ref());
        }
    }

    /// Whether the server must be restarted, because another one is running, or one of an earlier round, or a fresh one is
    /// required. Idle cells always need a fresh server: memory kept from earlier connections would be missing from its
    /// growth.
    fn must_be_fresh(&self, running: Option<&RunningServer>, slot: Slot) -> bool {
        let is_fresh_each_time =
            self.comparison.settings.fresh == Fresh::Cell || self.comparison.cells[slot.cell].is_idle();
        is_fresh_each_time || running.is_some_and(|it| (it.server, it.round) != (slot.server, slot.round))
    }

    fn stop(&mut self, running: Option<RunningServer>) {
        let Some(mut running) = running else { return };
        if running.process.stop().was_killed {
            let text = killed(&self.comparison.servers[running.server]);
            self.results.servers[running.server].remark(&text);
        }
    }

    /// Makes one measurement and repeats it while it is invalid and retries are left; `None` if it was interrupted.
    fn measure(&mut self, slot: Slot, running: &mut Option<RunningServer>) -> Option<Run> {
        let (server, cell) = (&self.comparison.servers[slot.server], &self.comparison.cells[slot.cell]);
        let begun = Instant::now();
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut run = Run {
            server: server.name.clone(),
            cell: cell.name.clone(),
            round: slot.round,
            attempts: 0,
            started_unix_s: started.as_secs_f64(),
            elapsed_s: 0.0,
            values: BTreeMap::new(),
            bound: None,
            by_control_group: false,
            group_peak_bytes: None,
            faults: Vec::new(),
        };
        let measurement = loop {
            run.attempts += 1;
            self.progress.measuring(slot, run.attempts);
            let measurement = match beyond(server, cell) {
                Some(why) => Measurement::failed(FaultKind::NotSupported, why),
                None => self.attempt(slot, running, &mut run)?,
            };
            let is_to_be_repeated = measurement.is_spoiled(cell.metric)
                && measurement.faults.iter().all(|fault| fault.kind != FaultKind::NotSupported)
                && run.attempts <= self.comparison.settings.retries;
            if !is_to_be_repeated {
                break measurement;
            }
            self.remark_on(slot, &measurement);
            // The server's state may have been the cause.
            self.stop(running.take());
        };
        (run.values, run.bound, run.faults) = (measurement.values, measurement.bound, measurement.faults);
        run.elapsed_s = begun.elapsed().as_secs_f64();
        Some(run)
    }

    /// A lost echo or a dead server stays a remark when the repetition is good.
    fn remark_on(&mut self, slot: Slot, repeated: &Measurement) {
        let (round, cell) = (self.results.round_name(slot.round), &self.comparison.cells[slot.cell].name);
        for fault in repeated.faults.iter().filter(|fault| fault.kind == FaultKind::Failed) {
            let why = one_line(&fault.why);
            self.results.servers[slot.server].remark(&format!("{round}, {cell}: {why}; repeated"));
        }
    }

    fn attempt(&mut self, slot: Slot, running: &mut Option<RunningServer>, run: &mut Run) -> Option<Measurement> {
        let (server, settings) = (&self.comparison.servers[slot.server], &self.comparison.settings);
        let (cell, rate) = match self.cell_of(slot) {
            Ok(found) => found,
            Err(why) => return Some(Measurement::failed(FaultKind::Failed, why)),
        };
        if running.is_none() {
            match ServerProcess::start(server, &settings.server_cpus, self.interrupt) {
                Ok(process) => *running = Some(RunningServer { server: slot.server, round: slot.round, process }),
                Err(StartError::Interrupted) => return None,
                Err(error) => return Some(Measurement::failed(FaultKind::Failed, error.to_string())),
            }
        }
        let process = &mut running.as_mut().expect("it was just started").process;
        let progress = &mut self.progress;
        let measurement = measure(process, &cell, &settings.load_cpus, rate, self.interrupt, &mut || progress.look())?;
        (run.by_control_group, run.group_peak_bytes) = (process.has_group(), process.group_peak_bytes());
        if process.end().is_some() {
            *running = None;
        }
        Some(measurement)
    }

    /// The cell as measured in this round, with its rate. For a rate that is a share of the slowest server's, the
    /// discarded rounds run a closed loop to find that rate.
    fn cell_of(&mut self, slot: Slot) -> Result<(Cell, Option<f64>), String> {
        let cell = &self.comparison.cells[slot.cell];
        match cell.rate {
            None => Ok((cell.clone(), None)),
            Some(Rate::PerSecond(rate)) => Ok((cell.clone(), Some(rate))),
            Some(Rate::ShareOfSlowest(_)) if slot.round < self.comparison.settings.discard => {
                Ok((Cell { rate: None, ..cell.clone() }, None))
            }
            Some(Rate::ShareOfSlowest(share)) => {
                if self.results.cells[slot.cell].rate_per_s.is_none() {
                    let slowest = slowest(&self.results, &cell.name);
                    self.results.cells[slot.cell].rate_per_s = slowest.map(|rate| rate * share);
                }
                let rate = self.results.cells[slot.cell].rate_per_s;
                rate.map(|rate| (cell.clone(), Some(rate)))
                    .ok_or_else(|| "no server had a rate in the discarded round, so there is no common rate".to_owned())
            }
        }
    }

    /// Saves the results so far, so that an early end loses nothing. Conclusions are drawn at the end, and by each report:
    /// drawing them takes processor time on the machine under test.
    fn save(&self) -> Result<(), ResultsError> {
        match &self.path {
            Some(path) => self.results.write(path),
            None => Ok(()),
        }
    }
}

/// The lowest rate that a server reached in the discarded rounds.
fn slowest(results: &Results, cell: &str) -> Option<f64> {
    let runs = results.runs.iter().filter(|run| run.cell == cell && run.round < results.settings.discard);
    let rate = |run: &Run| {
        let is_failed =
            run.faults.iter().any(|fault| matches!(fault.kind, FaultKind::Failed | FaultKind::NotSupported));
        run.values.get(&Metric::Rate).copied().filter(|_| !is_failed)
    };
    runs.filter_map(rate).reduce(f64::min)
}

/// All measurements in order. Each round shuffles the cells, and the servers within each cell, so that servers being
/// compared are measured one right after the other. If servers are started once per round, each server goes through all
/// cells instead.
#[must_use]
pub fn plan(comparison: &Comparison, seed: u64) -> Vec<Slot> {
    let settings = &comparison.settings;
    let rounds = comparison.cells.iter().map(|cell| cell.rounds).max().unwrap_or(0) + settings.discard;
    let mut plan = Vec::new();
    for round in 0..rounds {
        // Each round's order depends only on the seed and the round's number, so that a resumed comparison repeats it.
        let mut random = Random(seed ^ u64::from(round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shuffled = |random: &mut Random, count: usize| {
            let mut places: Vec<usize> = (0..count).collect();
            random.shuffle(&mut places);
            places
        };
        let (cells, servers) = (comparison.cells.len(), comparison.servers.len());
        let is_in = |cell: usize| round < comparison.cells[cell].rounds + settings.discard;
        match settings.fresh {
            Fresh::Cell => {
                for cell in shuffled(&mut random, cells) {
                    let order = shuffled(&mut random, servers);
                    plan.extend(order.into_iter().filter(|_| is_in(cell)).map(|server| Slot { server, cell, round }));
                }
            }
            Fresh::Round => {
                for server in shuffled(&mut random, servers) {
                    let order = shuffled(&mut random, cells);
                    plan.extend(order.into_iter().filter(|&cell| is_in(cell)).map(|cell| Slot { server, cell, round }));
                }
            }
        }
    }
    plan
}

/// The server's own limit that a cell exceeds, if any.
#[must_use]
pub fn beyond(server: &Server, cell: &Cell) -> Option<String> {
    let limits = &server.limits;
    let connections = u64::from(cell.connections_in_all());
    let descriptors = ringecho::sys::descriptor_limit().saturating_sub(OTHER_DESCRIPTORS);
    match limits.max_connections {
        Some(most) if connections > most => return Some(format!("it takes at most {} connections", count(most))),
        None if connections > descriptors => {
            return Some(format!("the limit on descriptors leaves it {} connections", count(descriptors)));
        }
        _ => {}
    }
    if let Some(most) = limits.max_message.filter(|&most| cell.size.max() as u64 > most) {
        return Some(format!("its messages have at most {}", bytes(most as f64)));
    }
    let most = limits.max_depth.filter(|&most| cell.depth_at_least() > most)?;
    Some(format!("it takes at most {} messages in flight", count(most)))
}

/// Checks one server: its requirements, its start and its correctness. An error becomes the reason for skipping it; nothing
/// does if `interrupt` was raised meanwhile.
pub fn check(server: &Server, cpus: &[usize], interrupt: &Interrupt, report: &mut ServerReport) {
    if let Some(missing) = server.needs.iter().find_map(|need| need.missing(&server.dir)) {
        report.skipped = Some(missing);
        return;
    }
    report.version = process::version(server).or(report.version.take());
    match ServerProcess::start(server, cpus, interrupt) {
        Err(StartError::Interrupted) => {}
        Err(error) => report.skipped = Some(error.to_string()),
        Ok(mut process) => {
            report.gate = gate::check(process.target(), server.limits.max_message, interrupt);
            if interrupt.is_raised() {
                report.gate.clear();
            } else if let Some(end) = process.end() {
                report.skipped = Some(format!("it died at the gate: {end}"));
            } else if let Some(failed) = report.gate.iter().find(|check| check.fault.is_some()) {
                let why = failed.fault.as_deref().unwrap_or_default();
                report.skipped = Some(format!("it did not pass the gate: {}: {why}", failed.name));
            }
            if process.stop().was_killed {
                report.remark(&killed(server));
            }
        }
    }
}

fn killed(server: &Server) -> String {
    let (signal, timeout) = (server.stop_signal.name(), server.stop_timeout.as_secs_f64());
    format!("it had not ended {timeout:.1} s after {signal}, and was killed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(text: &str) -> Comparison {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringload-rounds-{}-{number}.toml", std::process::id()));
        let servers = "[[server]]\nname = 'a'\ncommand = 'a'\n[[server]]\nname = 'b'\ncommand = 'b'\nlimits = { max-message = '1KiB', \
                       max-connections = 50, max-depth = 4 }\n";
        std::fs::write(&path, format!("{text}\n{servers}\n[[cell]]\nconnections = [1, 10, 100]\n")).unwrap();
        let comparison = Comparison::read(std::slice::from_ref(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        comparison
    }

    #[test]
    fn each_round_has_everything_once_in_an_order_of_its_own() {
        let comparison = comparison("[compare]\nrounds = 4\ndiscard = 1\n");
        let plan = plan(&comparison, 7);
        assert_eq!(plan, super::plan(&comparison, 7));
        assert_ne!(plan, super::plan(&comparison, 8));
        assert_eq!(plan.len(), 5 * 3 * 2);
        let round =
            |round| plan.iter().filter(|it| it.round == round).map(|it| (it.cell, it.server)).collect::<Vec<_>>();
        for number in 0..5 {
            let mut all = round(number);
            // The servers of a cell are measured one right after the other.
            assert!(all.chunks(2).all(|pair| pair[0].0 == pair[1].0), "{all:?}");
            all.sort_unstable();
            assert_eq!(all, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        }
        assert!((1..5).any(|number| round(number) != round(0)));
    }

    #[test]
    fn a_server_that_is_started_once_a_round_has_its_cells_together() {
        let comparison = comparison("[compare]\nrounds = 2\nfresh = 'round'\ndiscard = 0\n");
        let plan = plan(&comparison, 7);
        assert!(plan.chunks(3).all(|of_one| of_one.iter().all(|it| it.server == of_one[0].server)), "{plan:?}");
    }

    #[test]
    fn what_is_beyond_a_server_is_told() {
        let comparison = comparison("");
        let (able, limited) = (&comparison.servers[0], &comparison.servers[1]);
        let mut cell = comparison.cells[0].clone();
        assert_eq!((beyond(able, &cell), beyond(limited, &cell)), (None, None));
        assert_eq!(beyond(limited, &comparison.cells[2]).unwrap(), "it takes at most 50 connections");
        cell.depth = Some(5);
        assert_eq!(beyond(limited, &cell).unwrap(), "it takes at most 4 messages in flight");
        cell.size = 2000.into();
        assert_eq!(beyond(limited, &cell).unwrap(), "its messages have at most 1.0 KiB");
        cell.connections = 90_000_000;
        assert!(beyond(able, &cell).unwrap().starts_with("the limit on descriptors leaves it"));
    }
}
